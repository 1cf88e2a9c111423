"""Text engines on a Ray cluster: each runs in as many actors as its requests fill; the driver assigns the requests.

A completion may lead to new requests (a task, its input, its answer), so requests go to actors that live as long as the
stage. Ray Data is not suitable for that, because its actor pools end with each data set; `ray_data.py` uses it for work that
is known in advance. Each actor holds the engine of a single machine and is kept as full as this engine allows. The requests
of a lost actor go to another one. Nothing else is sent twice, because the driver stores each completion as it arrives.
"""

import contextlib
import logging
import math
import os
import queue
import socket
import threading
import time
from collections import Counter, deque
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from kiloset.core.errors import ModelError
from kiloset.core.models import Capabilities, Completion, Message, Renderer, Request
from kiloset.engines.settings import EngineConfig

logger = logging.getLogger(__name__)

SPARE = 1.25
"""Requests of an actor relative to the sequences of its engine, so that it never waits for the driver."""
IDLE_SECONDS = 60.0
"""An actor without work for this time is ended, down to `min_actors`."""
TRIES = 3
"""Actors that may die with the same request, or before they are ready, until it is an error."""
CONNECT_SECONDS = 10.0
"""Longest wait for a connection to a cluster's port."""
BATCH_SECONDS = 0.02
"""Completions within this time are sent to the driver together."""


def connect(config: EngineConfig) -> None:
    """Join the cluster of `[engine] address`, or start one on this machine if it is "".

    Raises:
        ModelError: Ray is not installed, or the cluster cannot be reached.
    """
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    try:
        import ray
    except ImportError:
        raise ModelError(
            "KS568",
            "[engine] kind = 'ray' needs Ray, which is not installed; install the extra `ray`: pip install -e '.[ray]' -c constraints.txt",
        ) from None
    if ray.is_initialized():
        return
    _check_reachable(config.address)
    quiet: dict[str, Any] = {"configure_logging": True, "logging_level": "ERROR", "log_to_driver": False}
    try:
        # "local", because None would join the cluster that this machine started last, running or not.
        ray.init(address=config.address or "local", include_dashboard=None if config.address else False, **quiet)
    except (ConnectionError, RuntimeError, ValueError, TimeoutError) as error:
        raise _unreachable(config.address, error) from None


def _check_reachable(address: str) -> None:
    """Open a connection to the address first, because Ray itself would try for minutes."""
    host, _, port = address.rpartition(":")
    if host and port.isdecimal():
        try:
            socket.create_connection((host.strip("[]"), int(port)), timeout=CONNECT_SECONDS).close()
        except (OSError, OverflowError) as error:
            raise _unreachable(address, error) from None


def _unreachable(address: str, error: Exception) -> ModelError:
    cause = (str(error).strip() or type(error).__name__).splitlines()[0]
    return ModelError(
        "KS569",
        f"[engine] address = {address!r}: cannot reach a Ray cluster there ({cause[:200]}); "
        "start one with `ray start --head`, or omit the address for a cluster on this machine",
    )


def placement(config: EngineConfig, gpus: int) -> dict[str, float]:
    """Return the resources of an actor with a model: this many GPUs if the cluster has any, else `actor_cpus` cores."""
    import ray

    resources: Mapping[str, float] = ray.cluster_resources()
    if resources.get("GPU", 0):
        return {"num_gpus": gpus, "num_cpus": 1}
    return {"num_cpus": config.actor_cpus}


class RayEngine:
    """A `TextEngine` whose requests are completed by several actors."""

    def __init__(
        self, identity: str, local: Renderer, make: Callable[[], Any], config: EngineConfig,
    ) -> None:  # fmt: skip
        """Keep the settings; the first request joins the cluster and starts actors.

        Args:
            identity: Name and revision, part of every request's key.
            local: Renders prompts on this machine; it completes none.
            make: Creates, on any machine, an engine with `submit`, `receive` and `close`.
            config: The `[engine]` table.
        """
        self.identity, self._local, self._make, self._config = identity, local, make, config
        self.render: Callable[[Sequence[Message]], str] = local.render
        self._actor_limit = math.ceil(config.max_num_seqs * SPARE)
        self._backlog: deque[tuple[str, Request]] = deque()
        self._done: deque[tuple[str, Completion]] = deque()
        self._actors: list[_Actor] = []
        self._deaths: Counter[str] = Counter()
        self.repeated = 0
        """Requests that were sent again because their actor was lost."""
        self.description = ""

    @property
    def capabilities(self) -> Capabilities:
        """What the engine supports."""
        return self._local.capabilities

    def submit(self, requests: Sequence[tuple[str, Request]]) -> None:
        """Accept `(key, request)` pairs; the first call waits until an actor is ready.

        Raises:
            ModelError: The cluster cannot be reached, or the engine cannot start.
        """
        self._backlog.extend(requests)
        if not self._actors:
            connect(self._config)
            self._grow()
            while not any(actor.is_ready for actor in self._actors):
                self._wait()
        self._assign()

    def receive(self) -> tuple[str, Completion]:
        """Wait for the next `(key, completion)`.

        Raises:
            ModelError: An engine died three times with the same request, or no engine could be started.
        """
        while not self._done:
            if not self._backlog and not any(actor.in_flight for actor in self._actors):
                raise ModelError("KS570", f"{self.identity}: nothing is in flight")
            self._assign()
            self._wait()
        return self._done.popleft()

    def close(self) -> None:
        """End all actors and the processes that they started."""
        for actor in self._actors:
            actor.end()
        self._actors.clear()

    def _assign(self) -> None:
        """Assign the backlog to the ready actors, the least busy first; start or end actors as the work demands."""
        self._grow()
        ready = [actor for actor in self._actors if actor.is_ready]
        parts: dict[int, list[tuple[str, Request]]] = {}
        while self._backlog and ready:
            actor = min(ready, key=lambda each: len(each.in_flight))
            if len(actor.in_flight) >= self._actor_limit:
                break
            key, request = self._backlog.popleft()
            actor.in_flight[key] = request
            parts.setdefault(id(actor), []).append((key, request))
        for actor in ready:
            if part := parts.get(id(actor)):
                actor.put(part)
        self._shrink()

    def _grow(self) -> None:
        work = len(self._backlog) + sum(len(actor.in_flight) for actor in self._actors)
        wanted = min(self._config.max_actors, max(self._config.min_actors, math.ceil(work / self._actor_limit)))
        # Beyond `min_actors` one at a time: in a full cluster only one actor waits for resources.
        starting = sum(not actor.is_ready for actor in self._actors)
        while len(self._actors) < wanted and (starting == 0 or len(self._actors) < self._config.min_actors):
            self._actors.append(_Actor(self._make, placement(self._config, self._config.tensor_parallel_size)))
            starting += 1

    def _shrink(self) -> None:
        if self._backlog:
            return
        for actor in list(self._actors):
            too_many = len(self._actors) > self._config.min_actors
            if too_many and actor.is_ready and actor.idle_seconds() > IDLE_SECONDS:
                actor.end()
                self._actors.remove(actor)

    def _wait(self) -> None:
        """Wait until an actor is ready, has completions, or is lost."""
        import ray

        calls = {actor.call: actor for actor in self._actors if actor.call is not None}
        for ref in ray.wait(list(calls), num_returns=1, timeout=1.0)[0]:
            actor = calls[ref]
            try:
                result = ray.get(ref)
            except ray.exceptions.RayError as error:
                self._replace(actor, error)
                continue
            if not actor.is_ready:
                actor.is_ready = True
                self.description = f"{result}, in {self._config.min_actors} to {self._config.max_actors} Ray actors"
                self._deaths.pop("", None)
            else:
                for key, completion in result:
                    # Another actor may have completed the request after this one seemed lost.
                    if actor.in_flight.pop(key, None) is not None:
                        self._done.append((key, completion))
            actor.wait_for_completions()

    def _replace(self, actor: "_Actor", error: Exception) -> None:
        """End a lost actor and put its requests at the front of the backlog.

        Raises:
            ModelError: The same request lost too many actors.
        """
        self._actors.remove(actor)
        actor.end()
        suspects = list(actor.in_flight) or ([] if actor.is_ready else [""])
        for key in suspects:
            self._deaths[key] += 1
        cause = _cause(error)
        if any(self._deaths[key] >= TRIES for key in suspects):
            raise ModelError("KS571", f"the engine of {self.identity} died {TRIES} times: {cause}")
        self.repeated += len(actor.in_flight)
        self._backlog.extendleft(reversed(actor.in_flight.items()))
        logger.warning(
            "an actor of %s is lost (%s); %d requests are sent again", self.identity, cause, len(actor.in_flight)
        )
        self._grow()


class _Actor:
    """One actor, as the driver sees it."""

    def __init__(self, make: Callable[[], Any], resources: Mapping[str, float]) -> None:
        import ray

        # Concurrent calls: one submits requests while another waits for completions.
        remote: Any = ray.remote(_EngineActor)
        self._actor = remote.options(max_concurrency=4, **resources).remote(make)
        self.is_ready = False
        self.in_flight: dict[str, Request] = {}
        self.call: Any = self._actor.start.remote()
        self._since = time.monotonic()

    def put(self, requests: Sequence[tuple[str, Request]]) -> None:
        self._actor.put.remote(requests)
        if self.call is None:
            self.wait_for_completions()

    def wait_for_completions(self) -> None:
        """Call for the next completions, if requests are in flight."""
        self.call = self._actor.take.remote() if self.in_flight else None
        self._since = time.monotonic()

    def idle_seconds(self) -> float:
        return 0.0 if self.in_flight else time.monotonic() - self._since

    def end(self) -> None:
        import ray

        with contextlib.suppress(ray.exceptions.RayError, ValueError):
            ray.kill(self._actor)


class _EngineActor:
    """Runs in an actor: an engine, and a thread that waits for its completions."""

    def __init__(self, make: Callable[[], Any]) -> None:
        self._engine = make()
        self._submitted = threading.Semaphore(0)
        self._done: queue.Queue[Any] = queue.Queue()

    def start(self) -> str:
        """Start the engine, and return its description."""
        start = getattr(self._engine, "start", None)
        description = start() if start is not None else ""
        threading.Thread(target=self._read, daemon=True).start()
        return str(description)

    def put(self, requests: Sequence[tuple[str, Request]]) -> None:
        """Submit requests to the engine."""
        try:
            self._engine.submit(requests)
        except ModelError as error:
            self._done.put(error)
        self._submitted.release(len(requests))

    def take(self) -> list[tuple[str, Completion]]:
        """Wait for a completion, and return it with the ones that follow within `BATCH_SECONDS`.

        Raises:
            ModelError: The engine died.
        """
        results = [self._done.get()]
        deadline = time.monotonic() + BATCH_SECONDS
        with contextlib.suppress(queue.Empty):
            while True:
                results.append(self._done.get(timeout=max(0.0, deadline - time.monotonic())))
        completions = [each for each in results if not isinstance(each, Exception)]
        for error in (each for each in results if isinstance(each, Exception)):
            if not completions:
                raise error
            self._done.put(error)  # the next call raises it
        return completions

    def _read(self) -> None:
        while True:
            self._submitted.acquire()
            try:
                self._done.put(self._engine.receive())
            except ModelError as error:
                self._done.put(error)
                return


def _cause(error: Exception) -> str:
    """Return the last line of an error, the one of a ModelError if there is one."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    ours = [line for line in lines if "ModelError" in line]
    return (ours or lines or [type(error).__name__])[-1][-300:]
