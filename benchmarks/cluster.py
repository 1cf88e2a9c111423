"""Compare a Ray actor with a local engine on the same requests, where a cluster can only cost time.

With --million instead, a million random texts lose their near-duplicates on two nodes of this machine with 1 GB of object store
each, and on one machine as in a run. The benchmark prints whether the verdicts are equal and the peak memory of each process.

    pip install -e '.[ray]' -c constraints.txt
    python benchmarks/cluster.py [--requests 400] [--rounds 2] [--million [ROWS]]
"""

import argparse
import shutil
import statistics
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

from harness import figure, ratio

MODEL = "embedded:smollm2-135m-instruct"
NODE_BYTES = 2**30
"""Object store of a node."""


@contextmanager
def cluster(nodes: int, cpus: int) -> Iterator[str]:
    """Start a cluster on this machine; yield its address."""
    import ray
    from ray.cluster_utils import Cluster

    node = {"num_cpus": cpus, "object_store_memory": NODE_BYTES}
    ray_cluster = Cluster(initialize_head=True, head_node_args=node)
    for _ in range(nodes - 1):
        ray_cluster.add_node(**node)
    try:
        yield ray_cluster.address
    finally:
        ray.shutdown()
        ray_cluster.shutdown()


def requests_of(number: int, identity: str, render: Any) -> list[tuple[str, Any]]:
    from kiloset.core.models import Request

    requests = [
        Request(
            render([{"role": "user", "content": f"Tell me {n} facts about the number {n}."}]), "response", 96, 0.7, 0.9
        )
        for n in range(number)
    ]
    return [(request.key(identity), request) for request in requests]


def time_requests(engine: Any, requests: Sequence[tuple[str, Any]]) -> tuple[float, dict[str, str]]:
    """Return the seconds of the requests without the start of the engine, and the texts."""
    engine.submit(requests[:1])
    engine.receive()
    begun = time.perf_counter()
    engine.submit(requests[1:])
    completions = dict(engine.receive() for _ in requests[1:])
    return time.perf_counter() - begun, {key: completion.text for key, completion in completions.items()}


def overhead(number: int, rounds: int) -> None:
    from kiloset.core.loading import load_tokenizer
    from kiloset.core.models import render_prompt
    from kiloset.engines.embedded import model_identity, model_path
    from kiloset.engines.ray import RayEngine
    from kiloset.engines.settings import EngineConfig
    from kiloset.engines.vllm import VllmEngine, cores
    from kiloset.engines.workers import writer_on_worker

    path = model_path(MODEL, "models.generator")
    identity = model_identity(MODEL, path)
    requests = requests_of(number, identity, partial(render_prompt, load_tokenizer(Path(path))))
    seconds: dict[str, list[float]] = {"here": [], "ray": []}
    texts: dict[str, dict[str, str]] = {}
    with cluster(1, cores()) as address:
        config = EngineConfig(kind="ray", address=address, max_actors=1, actor_cpus=cores())
        for _ in range(rounds):
            for name, durations in seconds.items():
                local = VllmEngine(path, identity, EngineConfig(), Path(tempfile.mkdtemp()) / "engine.log")
                make = partial(writer_on_worker, MODEL, identity, config)
                engine: Any = local if name == "here" else RayEngine(identity, local, make, config)
                took, texts[name] = time_requests(engine, requests)
                engine.close()
                durations.append(took)
                print(f"{name}: {took:.1f} s", flush=True)
    equal = sum(texts["here"][key] == text for key, text in texts["ray"].items())
    figure("equal_completions", f"{equal / len(texts['ray']):.3f}", "share")
    local_seconds, ray_seconds = (statistics.median(seconds[name]) for name in ("here", "ray"))
    figure("here", f"{local_seconds:.1f}", "seconds")
    figure("ray", f"{ray_seconds:.1f}", "seconds")
    ratio("here", local_seconds / ray_seconds, 3)


class Peaks:
    """The peak memory of this process and of each process of the cluster on this machine, by its command."""

    def __init__(self) -> None:
        """Start watching."""
        self.peaks: dict[str, int] = {}
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)
        self._thread.start()

    def _watch(self) -> None:
        import psutil

        me = psutil.Process()
        while not self._stop.wait(0.5):
            for process in [me, *me.children(recursive=True)]:
                try:
                    name = "driver" if process == me else process.name()
                    name = " ".join(process.cmdline())[:80] if name.startswith("python") else name
                    # Shared memory, mostly the object store, is counted once: at the store.
                    used = process.memory_info()
                    own = used.rss - getattr(used, "shared", 0)
                except psutil.Error:
                    continue
                self.peaks[name] = max(self.peaks.get(name, 0), own)

    def stop(self) -> dict[str, int]:
        """Stop watching, and return the bytes of each command, the largest first."""
        self._stop.set()
        self._thread.join()
        return dict(sorted(self.peaks.items(), key=lambda pair: -pair[1]))


def million(rows: int) -> None:
    import polars as pl
    from near_duplicates import write_texts

    from kiloset.core.progress import Silent
    from kiloset.engines.settings import EngineConfig
    from kiloset.filters.near_duplicates import NearDuplicatesConfig, drop_near_duplicates
    from kiloset.thinning import _table, thin

    place = Path(tempfile.mkdtemp(prefix="kiloset-cluster-"))
    write_texts(place / "texts.txt", rows)
    table = pl.read_lines(place / "texts.txt", name="instruction").with_columns(response=pl.lit("x"))
    (place / "pool").mkdir()
    for at in range(0, rows, 50_000):
        table[at : at + 50_000].write_parquet(place / "pool" / f"{at:010d}.parquet")
    del table
    near = NearDuplicatesConfig()
    peaks = Peaks()
    with cluster(2, 1) as address:
        begun = time.perf_counter()
        config = EngineConfig(kind="ray", address=address)
        result = thin(
            str(place / "pool"), str(place / "out"), None, near, config, seed=0, temper=0.5, make_embedder=_none, progress=Silent(),
        )  # fmt: skip
        took = time.perf_counter() - begun
    for name, peak in peaks.stop().items():
        figure(f"peak {name}", f"{peak / 2**20:.0f}", "MiB")
    begun = time.perf_counter()
    texts = pl.read_parquet(place / "pool" / "*.parquet").with_columns(input=pl.lit(""), row=pl.int_range(pl.len()))
    local = drop_near_duplicates(_table(texts), near, seed=0).dropped
    figure("one_machine", f"{time.perf_counter() - begun:.1f}", "seconds")
    figure("two_nodes", f"{took:.1f}", "seconds")
    dropped = pl.read_parquet(place / "out" / "dropped" / "*.parquet").drop("row").sort("id")
    equal = dropped.equals(local.select(dropped.columns).sort("id"))
    figure("dropped", dropped.height, f"rows of {result.rows}")
    figure("equal", int(equal), "of 1")
    shutil.rmtree(place)


def _none() -> Any:
    raise AssertionError("no embedder is needed")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--requests", type=int, default=400)
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--million", type=int, nargs="?", const=1_000_000, metavar="ROWS")
    options = parser.parse_args()
    if options.million:
        million(options.million)
    else:
        overhead(options.requests, options.rounds)


if __name__ == "__main__":
    main()
