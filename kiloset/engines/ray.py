"""Text engines on a Ray cluster: one actor for each, as many as there is work for; the driver keeps what is under way.

Requests arise one from another while others are under way (a task, its input, its answer), so they go to actors that live as
long as the stage, not through Ray Data, whose actor pools end with each data set (`ray_data.py` has what comes as a whole).
Each actor holds the very engine that one machine uses, and is kept as full as that engine can be. What is under way on an
actor that is lost goes to another one; nothing else is ever sent again, for each completion is handed on, and stored by the
driver, as it comes.
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
"""Requests an actor is given, over those its engine works on at once: so that it never waits for the driver."""
IDLE_SECONDS = 60.0
"""An actor without work for so long is given up, down to `ray_min_actors`."""
TRIES = 3
"""Actors that may die over one request, or before they were ready, before it counts as an error."""
KNOCK_SECONDS = 10.0
"""Longest wait for a cluster's port to answer."""
TOGETHER_SECONDS = 0.02
"""Completions that come within this time are sent to the driver together."""


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
        # "local", for None would join whatever cluster this machine started last, running or not.
        ray.init(address=config.address or "local", include_dashboard=None if config.address else False, **quiet)
    except (ConnectionError, RuntimeError, ValueError, TimeoutError) as error:
        raise _unreachable(config.address, error) from None


def _check_reachable(address: str) -> None:
    """Knock at an address: Ray itself would try for minutes."""
    host, _, port = address.rpartition(":")
    if host and port.isdecimal():
        try:
            socket.create_connection((host.strip("[]"), int(port)), timeout=KNOCK_SECONDS).close()
        except (OSError, OverflowError) as error:
            raise _unreachable(address, error) from None


def _unreachable(address: str, error: Exception) -> ModelError:
    cause = (str(error).strip() or type(error).__name__).splitlines()[0]
    return ModelError(
        "KS569",
        f"[engine] address = {address!r}: no Ray cluster to be reached there ({cause[:200]}); "
        "start one with `ray start --head`, or leave the address away for one on this machine",
    )


def placement(config: EngineConfig, gpus: int) -> dict[str, float]:
    """Return what an actor with a model takes: so many GPUs where the cluster has any, else `actor_cpus`."""
    import ray

    resources: Mapping[str, float] = ray.cluster_resources()
    if resources.get("GPU", 0):
        return {"num_gpus": gpus, "num_cpus": 1}
    return {"num_cpus": config.actor_cpus}


class RayEngine:
    """A `TextEngine` whose requests any of several actors completes."""

    def __init__(
        self, identity: str, local: Renderer, make: Callable[[], Any], config: EngineConfig,
    ) -> None:  # fmt: skip
        """Name the model; the cluster is joined and actors are started with the first request.

        Args:
            identity: Name and revision, part of every request's key.
            local: Renders prompts here; it is not asked to complete any.
            make: Makes, on whatever machine it is called, an engine with `submit`, `receive` and `close`.
            config: The `[engine]` table.
        """
        self.identity, self._local, self._make, self._config = identity, local, make, config
        self.render: Callable[[Sequence[Message]], str] = local.render
        self._room = math.ceil(config.max_num_seqs * SPARE)
        self._backlog: deque[tuple[str, Request]] = deque()
        self._done: deque[tuple[str, Completion]] = deque()
        self._actors: list[_Actor] = []
        self._deaths: Counter[str] = Counter()
        self.repeated = 0
        """Requests that were sent again, for the actor that had them was lost."""
        self.description = ""

    @property
    def capabilities(self) -> Capabilities:
        """What the engine supports."""
        return self._local.capabilities

    def submit(self, requests: Sequence[tuple[str, Request]]) -> None:
        """Hand over `(key, request)` pairs; the first waits until an actor is ready.

        Raises:
            ModelError: No cluster, or the engine cannot start.
        """
        self._backlog.extend(requests)
        if not self._actors:
            connect(self._config)
            self._grow()
            while not any(actor.is_ready for actor in self._actors):
                self._wait()
        self._hand_out()

    def receive(self) -> tuple[str, Completion]:
        """Wait for the next `(key, completion)`.

        Raises:
            ModelError: An engine died over the same request three times, or none could be started.
        """
        while not self._done:
            if not self._backlog and not any(actor.under_way for actor in self._actors):
                raise ModelError("KS570", f"{self.identity}: nothing is under way")
            self._hand_out()
            self._wait()
        return self._done.popleft()

    def close(self) -> None:
        """Give up all actors; they and what they started end."""
        for actor in self._actors:
            actor.end()
        self._actors.clear()

    def _hand_out(self) -> None:
        """Give every ready actor what it has room for, the emptiest first; start or give up actors as the work is."""
        self._grow()
        ready = [actor for actor in self._actors if actor.is_ready]
        parts: dict[int, list[tuple[str, Request]]] = {}
        while self._backlog and ready:
            actor = min(ready, key=lambda each: len(each.under_way))
            if len(actor.under_way) >= self._room:
                break
            key, request = self._backlog.popleft()
            actor.under_way[key] = request
            parts.setdefault(id(actor), []).append((key, request))
        for actor in ready:
            if part := parts.get(id(actor)):
                actor.put(part)
        self._shrink()

    def _grow(self) -> None:
        work = len(self._backlog) + sum(len(actor.under_way) for actor in self._actors)
        wanted = min(self._config.max_actors, max(self._config.min_actors, math.ceil(work / self._room)))
        # One at a time beyond the first: where the cluster has no room, one waits for it, not all.
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
        """Wait until an actor has something to say: that it is ready, what it completed, or that it is no more."""
        import ray

        asked = {actor.answer: actor for actor in self._actors if actor.answer is not None}
        for ref in ray.wait(list(asked), num_returns=1, timeout=1.0)[0]:
            actor = asked[ref]
            try:
                said = ray.get(ref)
            except ray.exceptions.RayError as error:
                self._lost(actor, error)
                continue
            if not actor.is_ready:
                actor.is_ready = True
                self.description = f"{said}, in {self._config.min_actors} to {self._config.max_actors} Ray actors"
                self._deaths.pop("", None)
            else:
                for key, completion in said:
                    # One that was given up for lost may have come in time all the same.
                    if actor.under_way.pop(key, None) is not None:
                        self._done.append((key, completion))
            actor.ask()

    def _lost(self, actor: "_Actor", error: Exception) -> None:
        """Put what a lost actor had under way back to the front.

        Raises:
            ModelError: That happened too often.
        """
        self._actors.remove(actor)
        actor.end()
        suspects = list(actor.under_way) or ([] if actor.is_ready else [""])
        for key in suspects:
            self._deaths[key] += 1
        cause = _cause(error)
        if any(self._deaths[key] >= TRIES for key in suspects):
            raise ModelError("KS571", f"the engine of {self.identity} died {TRIES} times: {cause}")
        self.repeated += len(actor.under_way)
        self._backlog.extendleft(reversed(actor.under_way.items()))
        logger.warning(
            "an actor of %s is lost (%s); %d requests are sent again", self.identity, cause, len(actor.under_way)
        )
        self._grow()


class _Actor:
    """The driver's side of one actor."""

    def __init__(self, make: Callable[[], Any], placed: Mapping[str, float]) -> None:
        import ray

        # Concurrent calls: one hands over, one waits for completions.
        remote: Any = ray.remote(_Holder)
        self._holder = remote.options(max_concurrency=4, **placed).remote(make)
        self.is_ready = False
        self.under_way: dict[str, Request] = {}
        self.answer: Any = self._holder.start.remote()
        self._since = time.monotonic()

    def put(self, requests: Sequence[tuple[str, Request]]) -> None:
        self._holder.put.remote(requests)
        if self.answer is None:
            self.ask()

    def ask(self) -> None:
        """Wait for completions where there are any to come."""
        self.answer = self._holder.take.remote() if self.under_way else None
        self._since = time.monotonic()

    def idle_seconds(self) -> float:
        return 0.0 if self.under_way else time.monotonic() - self._since

    def end(self) -> None:
        import ray

        with contextlib.suppress(ray.exceptions.RayError, ValueError):
            ray.kill(self._holder)


class _Holder:
    """What runs in an actor: an engine, and a thread that waits for its completions."""

    def __init__(self, make: Callable[[], Any]) -> None:
        self._engine = make()
        self._submitted = threading.Semaphore(0)
        self._done: queue.Queue[Any] = queue.Queue()

    def start(self) -> str:
        """Start the engine, and return what it runs on."""
        started = getattr(self._engine, "start", None)
        said = started() if started is not None else ""
        threading.Thread(target=self._read, daemon=True).start()
        return str(said)

    def put(self, requests: Sequence[tuple[str, Request]]) -> None:
        """Hand requests to the engine."""
        try:
            self._engine.submit(requests)
        except ModelError as error:
            self._done.put(error)
        self._submitted.release(len(requests))

    def take(self) -> list[tuple[str, Completion]]:
        """Wait for a completion, and return it with those that come just after.

        Raises:
            ModelError: The engine died.
        """
        found = [self._done.get()]
        until = time.monotonic() + TOGETHER_SECONDS
        with contextlib.suppress(queue.Empty):
            while True:
                found.append(self._done.get(timeout=max(0.0, until - time.monotonic())))
        good = [each for each in found if not isinstance(each, Exception)]
        for each in found:
            if isinstance(each, Exception):
                if not good:
                    raise each
                self._done.put(each)
        return good

    def _read(self) -> None:
        while True:
            self._submitted.acquire()
            try:
                self._done.put(self._engine.receive())
            except ModelError as error:
                self._done.put(error)
                return


def _cause(error: Exception) -> str:
    """Return in a few words what ended an actor."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    said = [line for line in lines if "ModelError" in line]
    return (said or lines or [type(error).__name__])[-1][-300:]
