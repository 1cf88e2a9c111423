"""Estimate ten million candidates with an 8B and a 70B writer model on 8 to 64 GPUs, and what limits the run first.

The estimate is arithmetic on named rates, each with its source. The rates of the driver were measured on two cores (`--measure` measures
them on this machine). No GPU was measured: the rates of GPUs are published ones of another engine, lowered by an assumed share. The
requests per candidate are those of the embedded 135M model; a larger model wastes less and writes longer answers.

    python benchmarks/cluster_plan.py [--candidates 10000000] [--yields 0.325] [--efficiency 0.5] [--measure] [--json]
"""

import argparse
import hashlib
import json
import math
import random
import tempfile
import time
import tracemalloc
from collections import deque
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, replace
from itertools import accumulate
from pathlib import Path
from typing import Any

import numpy as np
from harness import figure
from numpy.typing import NDArray

GPUS = (8, 16, 32, 64)
GPU_BYTES, SHARE_OF_GPU = 80e9, 0.9
"""An H100, and `[engine] gpu_memory_utilization`."""
MAX_NUM_SEQS, MAX_MODEL_LEN = 256, 4096
"""The values of configs/gpu.toml."""
CANDIDATES_PER_ROW = 20.0
"""The upper bound of `[generate] candidates_per_row`: ten million candidates make at least 500,000 rows."""
RESERVE = 1.15
"""Rewritten rows per requested row."""
LINK_BYTES = 10e9 / 8
"""Assumption: the driver's network link, 10 Gbit/s."""
PURPOSES = {
    "instruction": (1134, 263_401, 26_219), "input": (356, 155_917, 21_571), "labelled_input": (27, 7_979, 1_713),
    "response": (894, 60_973, 93_641), "plain": (145, 9_994, 15_026), "guided": (145, 25_746, 8_620),
}  # fmt: skip
"""Run cpu-a2d75d40, manifest.json, `calls`: completions, prompt and written tokens."""
REWRITING = ("plain", "guided")
REQUESTED, PASSED, NEW, REWRITTEN, SCORED = 1134, 369, 834, 148, 170
"""The same run: requested instructions, rows that passed generation, new instructions; rewritten rows, scores."""
TEXT_BYTES = 1010
"""The same run, calls.sqlite: prompt and text of a completion, on average."""


@dataclass(frozen=True, slots=True)
class Shape:
    """A model of Llama 3's shape, in 16 bits."""

    name: str
    layers: int
    hidden: int
    inner: int
    kv_heads: int
    head: int = 128
    vocabulary: int = 128_256

    @property
    def parameters(self) -> int:
        """Embedding and head, and in each layer attention, feed-forward and two norms; a last norm."""
        attention = 2 * self.hidden**2 + 2 * self.hidden * self.kv_heads * self.head
        layer = attention + 3 * self.hidden * self.inner + 2 * self.hidden
        return 2 * self.vocabulary * self.hidden + self.layers * layer + self.hidden

    @property
    def kv_bytes(self) -> int:
        """Keys and values of one token: two bytes each, in all layers."""
        return 2 * 2 * self.layers * self.kv_heads * self.head


@dataclass(frozen=True, slots=True)
class Published:
    """Three published throughputs of a model on `gpus` GPUs: `(prompt tokens, written tokens, written tokens per second)`."""

    shape: Shape
    gpus: int
    points: tuple[tuple[int, int, float], ...]

    def costs(self) -> NDArray[np.float64]:
        """Return seconds per prompt token, per written token, and per written token and token it attends to."""
        work = np.array([_work(prompt, written) for prompt, written, _ in self.points])
        seconds = np.array([written / rate for _, written, rate in self.points])
        return np.asarray(np.linalg.solve(work, seconds), dtype=np.float64)

    def seconds(self, prompt: float, written: float) -> float:
        """Return the seconds that one completion keeps its GPUs busy, in a full batch."""
        return float(np.dot(self.costs(), _work(prompt, written)))


def _work(prompt: float, written: float) -> tuple[float, float, float]:
    return prompt, written, written * (prompt + written / 2)


SOURCE = "NVIDIA TensorRT-LLM 0.15.0, docs/source/performance/perf-overview.md: H100 80GB HBM3, 16 bits ('Mixed')"
MODELS = (
    Published(
        Shape("8B", 32, 4096, 14_336, 8), 1, ((128, 128, 16_116.63), (2048, 128, 1_972.07), (1000, 1000, 7_721.07))
    ),
    Published(
        Shape("70B", 80, 8192, 28_672, 8), 4, ((128, 128, 6_392.74), (2048, 128, 779.81), (1000, 1000, 4_075.52))
    ),
)
"""Llama 3.1; at 500 and 2,000 tokens the three terms give 12 and 17 % more than the same table has."""


EFFICIENCY = 0.5
"""Assumption. The one vLLM figure found for Llama 3.1 8B in 16 bits, 32.4 requests/s of 230 and 203 tokens through a server
(github.com/vllm-project/vllm/pull/18566, the GPU not named), is 0.48 of what the table gives."""


@dataclass(frozen=True, slots=True)
class Rates:
    """Rates that were measured on two cores without a GPU."""

    driver_per_s: float = 1350
    """Completions that the driver receives, checks and stores per second with an engine that takes no time (`--measure`)."""
    commits_per_s: float = 28_000
    """Completions that `kiloset.core.calls.CallStore` commits per second, one transaction each (`--measure`)."""
    novelty_ns: float = 1050
    """Nanoseconds per comparison of a new instruction with one of the pool (`--measure`)."""
    novelty_bytes: float = 2400
    """Memory of an instruction in the novelty index (`--measure`)."""
    stored_bytes: float = 1677
    """Bytes per completion in calls.sqlite, with its key and the record of its sending (run cpu-a2d75d40)."""
    vector_bytes: float = 2141
    """Bytes per vector of 384 numbers in calls.sqlite, with its key (run cpu-a2d75d40)."""
    static_per_s: float = 20_000
    """Texts per second with the static embedder (benchmarks/embedding.py: 30,700 on an idle machine)."""
    minilm_per_s: float = 147
    """Texts per second with all-MiniLM-L6-v2 (benchmarks/embedding.py)."""
    near_duplicates_s: float = 4.2
    """Seconds for a million rows (benchmarks/selection.py); linear."""
    semantic_s: float = 189
    """Seconds for a million rows (benchmarks/selection.py); grows with the power 1.21."""
    table_gb: float = 5.3
    """Peak memory in GB of a million rows in the filters (benchmarks/selection.py); linear."""


def plan(
    model: Published, base: Published, gpus: int, candidates: int, yields: float, efficiency: float, rates: Rates
) -> dict[str, Any]:
    """Return the cost of a run, as numbers by name with their units in the name.

    Args:
        model: The generator.
        base: Rewrites, in as many actors as the generator (`tensor_parallel_size` is the same for all), and scores, one per GPU.
        gpus: GPUs of the cluster.
        candidates: Rows that pass generation.
        yields: Share of the requested instructions that pass.
        efficiency: Share of the published rate that is reached.
        rates: Rates of the driver.
    """
    requested, rewritten = candidates / yields, candidates / CANDIDATES_PER_ROW * RESERVE
    generation = _sum(name for name in PURPOSES if name not in REWRITING) * (requested / REQUESTED)
    rewrites = _sum(REWRITING) * (rewritten / REWRITTEN)
    prompt, written = generation[1] / generation[0], generation[2] / generation[0]
    actors = gpus // model.gpus
    completions_per_s = actors * efficiency / model.seconds(prompt, written)
    rewriting = rewrites[0] * base.seconds(rewrites[1] / rewrites[0], rewrites[2] / rewrites[0]) / efficiency / actors
    scored = SCORED / REWRITTEN * rewritten * (_sum(["plain"])[1] + _sum(["plain"])[2]) / PURPOSES["plain"][0]
    pool = requested * NEW / REQUESTED
    room = SHARE_OF_GPU * GPU_BYTES * model.gpus - 2 * model.shape.parameters
    return {
        "candidates": candidates, "model": model.shape.name, "gpus": gpus, "tensor_parallel_size": model.gpus, "actors": actors,
        "completions": generation[0], "prompt_tokens_per_candidate": generation[1] / candidates,
        "written_tokens_per_candidate": generation[2] / candidates, "rows_rewritten": rewritten,
        "completions_per_s": completions_per_s,
        "generation_h": generation[0] / completions_per_s / 3600,
        "rewriting_h": rewriting / 3600,
        "scoring_h": scored * float(base.costs()[0]) / efficiency / gpus / 3600,
        "embedding_static_h": candidates / rates.static_per_s / 3600,
        "embedding_minilm_h": candidates / rates.minilm_per_s / 3600,
        "near_duplicates_h": rates.near_duplicates_s * candidates / 1e6 / 3600,
        "semantic_h": rates.semantic_s * (candidates / 1e6) ** 1.21 / 3600,
        "weights_gb_per_gpu": 2 * model.shape.parameters / model.gpus / 1e9,
        "kv_gb_per_gpu": model.shape.kv_bytes * MAX_NUM_SEQS * (prompt + written) / model.gpus / 1e9,
        "longest_sequences_that_fit": room / (model.shape.kv_bytes * MAX_MODEL_LEN),
        "driver_h": generation[0] / rates.driver_per_s / 3600,
        "novelty_h": requested * pool / 2 * rates.novelty_ns * 1e-9 / 3600,
        "candidates_of_a_day": yields * math.sqrt(86_400 / (NEW / REQUESTED / 2 * rates.novelty_ns * 1e-9)),
        "novelty_gb": pool * rates.novelty_bytes / 1e9,
        "table_gb": rates.table_gb * candidates / 1e6,
        "calls_gb": (generation[0] + rewrites[0]) * rates.stored_bytes / 1e9,
        "vectors_gb": candidates * rates.vector_bytes / 1e9,
        "network_mb_per_s": completions_per_s * TEXT_BYTES / 1e6,
    }  # fmt: skip


def _sum(names: Iterable[str]) -> NDArray[np.float64]:
    """Return `(completions, prompt tokens, written tokens)` of the run for these purposes."""
    counts: NDArray[np.float64] = np.array([PURPOSES[name] for name in names], np.float64).sum(axis=0)
    return counts


def loads(cost: dict[str, Any], rates: Rates) -> dict[str, float]:
    """Return the load of each part when the GPUs are kept busy, the highest first; a part above 1 slows them down."""
    shares = {
        "comparing every new instruction with all others (novelty), on one core": cost["novelty_h"] / cost["generation_h"],
        "the driver's loop: one completion after the other, on one core": cost["completions_per_s"] / rates.driver_per_s,
        "calls.sqlite: one transaction a completion": cost["completions_per_s"] / rates.commits_per_s,
        "the driver's network link of 10 Gbit/s": cost["network_mb_per_s"] * 1e6 / LINK_BYTES,
    }  # fmt: skip
    return dict(sorted(shares.items(), key=lambda share: -share[1]))


def bottlenecks(cost: dict[str, Any], rates: Rates) -> str:
    """Return a paragraph that names the parts that slow the GPUs down, and the remedy."""
    shares = loads(cost, rates)
    where = f"{cost['model']} on {cost['gpus']} GPUs"
    load = "; ".join(f"{name}: {_figure(share)} times its capacity" for name, share in shares.items())
    if max(shares.values()) <= 1:
        return f"Nothing slows {where} down. Load: {load}."
    fed = cost["gpus"] * rates.driver_per_s / cost["completions_per_s"]
    return (
        f"Bottlenecks with {where}, the highest load first: {load}. The loop alone feeds {_figure(fed)} such GPUs. "
        f"Novelty takes {_figure(cost['novelty_h'])} hours for {cost['candidates']:,} candidates, because it grows with "
        f"their square: one day of it allows {cost['candidates_of_a_day']:,.0f}. Make runs of at most that size, each with its own "
        "driver, and thin them together."
    )


# ------------------------------------------------------------------------------------------------------- measuring


def measure(folder: Path, commits: int = 20_000, pool: int = 20_000, size: int = 200) -> Rates:
    """Return the rates, with those of this machine where no model is needed, measured in an empty folder."""
    nanoseconds, size_of_entry = _novelty(pool)
    driver = _driver(folder / "run", size)
    committed = max(_commits(folder / f"{number}.sqlite", commits) for number in range(3))
    return replace(
        Rates(), driver_per_s=driver, commits_per_s=committed,
        novelty_ns=nanoseconds, novelty_bytes=size_of_entry,
    )  # fmt: skip


def _commits(path: Path, number: int) -> float:
    """Return completions of common size committed per second of wall time, each recorded as sent before, in groups of 100."""
    from kiloset.core.calls import CallStore
    from kiloset.core.models import Completion, Request

    request = Request("x" * (TEXT_BYTES - 220), "response", 512, 0.5, 0.9)
    keys = [hashlib.sha256(str(n).encode()).hexdigest() for n in range(number)]
    store, begun = CallStore(path), time.perf_counter()
    for start in range(0, number, 100):
        store.note_sent([(key, request) for key in keys[start : start + 100]])
        for key in keys[start : start + 100]:
            store.add("model@revision", key, request, Completion("y" * 220, "stop", 200, 60))
    seconds = time.perf_counter() - begun
    store.close()
    return number / seconds


def _novelty(pool: int, queries: int = 100) -> tuple[float, float]:
    """Return CPU nanoseconds per comparison of an instruction with one of a pool, and bytes per instruction.

    Instructions have 18 words (the mean of run cpu-a2d75d40), drawn from 20,000 by Zipf's law.
    """
    from kiloset.generator.novelty import NoveltyIndex

    rng = random.Random(0)
    vocabulary, weights = [f"w{n}" for n in range(20_000)], list(accumulate(1 / (n + 1) for n in range(20_000)))
    texts = [" ".join(rng.choices(vocabulary, cum_weights=weights, k=18)) for _ in range(pool + queries)]
    index = NoveltyIndex()
    tracemalloc.start()
    for number, text in enumerate(texts[:pool]):
        index.add(str(number), text)
    held = tracemalloc.get_traced_memory()[0]
    tracemalloc.stop()
    begun = time.process_time()
    for text in texts[pool:]:
        index.nearest(text, 0.7)
    return (time.process_time() - begun) / queries / pool * 1e9, held / pool


class _Instant:
    """A text engine that answers at once, like the one of tests/fakes.py, with instructions of more distinct words."""

    identity = "instant@1"

    def __init__(self) -> None:
        from kiloset.core.models import Capabilities
        from tests.fakes import FakeEngine

        self.capabilities = Capabilities()

        self.render = FakeEngine().render
        self._waiting: deque[Any] = deque()
        self.completed, self.own, self.begun, self.ended = 0, 0.0, 0.0, 0.0
        """CPU seconds of this class, and of the process at the first request and at the last answer."""

    def submit(self, requests: Sequence[Any]) -> None:
        self.begun = self.begun or time.process_time()
        self._waiting.extend(requests)

    def receive(self) -> Any:
        from kiloset.core.models import Completion
        from tests.fakes import ANSWER_TURN, plausible

        begun = time.process_time()
        key, request = self._waiting.popleft()
        text, reason = plausible(key, request)
        if text and not request.prompt.endswith((ANSWER_TURN, "Text:")):
            rng = random.Random(key)
            text = " ".join([*text.split(), *(f"x{rng.randrange(20_000)}" for _ in range(9))])
        self.completed += 1
        self.ended = time.process_time()
        self.own += self.ended - begun
        return key, Completion(text, reason, len(request.prompt.split()), len(text.split()) + 1)


def _driver(folder: Path, size: int) -> float:
    """Return completions per CPU second of the stage `generate`, after a small run that loads everything once."""
    import tests.fake_run
    from tests.fakes import FakeEmbedder, FakeScorer

    fakes: Any = tests.fake_run

    rate = 0.0
    for rows in (12, size):
        models = fakes.FakeModels()
        models.generator = models.rewriter = engine = _Instant()
        models.scorer, models.embedder = FakeScorer(), FakeEmbedder()
        table = {**fakes.TABLE, "run": {"size": rows}, "rewrite": {"enabled": False}, "style": {}}
        fakes.run(folder / str(rows), table=table, models=models)
        rate = engine.completed / (engine.ended - engine.begun - engine.own)
    return rate


# --------------------------------------------------------------------------------------------------------- printing


ROWS = (
    "completions_per_s", "generation_h", "rewriting_h", "scoring_h", "weights_gb_per_gpu", "kv_gb_per_gpu",
    "longest_sequences_that_fit", "network_mb_per_s",
)  # fmt: skip
SAME = (
    "completions", "prompt_tokens_per_candidate", "written_tokens_per_candidate", "rows_rewritten", "driver_h", "novelty_h",
    "candidates_of_a_day", "novelty_gb", "embedding_static_h", "embedding_minilm_h", "near_duplicates_h", "semantic_h", "table_gb", "calls_gb",
    "vectors_gb",
)  # fmt: skip
"""Numbers that depend on neither model nor GPUs."""


def table_of(plans: Sequence[dict[str, Any]], names: Sequence[str], heads: Sequence[str]) -> str:
    """Return the named numbers of each plan as a Markdown table."""
    lines = [f"| | {' | '.join(heads)} |", f"|---{'|--:' * len(plans)}|"]
    return "\n".join([*lines, *(f"| {name} | {' | '.join(_figure(p[name]) for p in plans)} |" for name in names)])


def _figure(value: float) -> str:
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"


def report(plans: Sequence[dict[str, Any]], rates: Rates, efficiency: float) -> str:
    """Return the plans as text: the assumptions, two tables and the bottlenecks."""
    gpus = [f"{cost['model']}, {cost['gpus']} GPUs (TP {cost['tensor_parallel_size']})" for cost in plans]
    return "\n\n".join([
        f"GPU rates are not ours: {SOURCE}. Assumed: {efficiency:.0%} of them are reached, the base model is the 8B, "
        "and scoring costs as much as reading prompts. Requests per candidate are those of the 135M model of run cpu-a2d75d40.",
        table_of(plans, ROWS, gpus),
        table_of(plans[:1], SAME, ["all"]),
        *(bottlenecks(cost, rates) for cost in plans if cost["gpus"] == max(GPUS)),
    ])  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--candidates", type=int, default=10_000_000)
    parser.add_argument(
        "--yields", type=float, default=PASSED / REQUESTED, help="share of the requested instructions that pass"
    )
    parser.add_argument(
        "--efficiency", type=float, default=EFFICIENCY, help="share of the published GPU rates; an assumption"
    )
    parser.add_argument("--measure", action="store_true", help="measure the driver's rates on this machine first")
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    rates = Rates()
    if arguments.measure:
        with tempfile.TemporaryDirectory() as folder:
            rates = measure(Path(folder))
    plans = [
        plan(model, MODELS[0], gpus, arguments.candidates, arguments.yields, arguments.efficiency, rates)
        for model in MODELS
        for gpus in GPUS
    ]
    if arguments.json:
        print(json.dumps({"rates": asdict(rates), "source": SOURCE, "plans": plans}, indent=1))
    else:
        print(report(plans, rates, arguments.efficiency))
        for name, value in asdict(rates).items():
            figure(name, f"{value:.6g}")


if __name__ == "__main__":
    main()
