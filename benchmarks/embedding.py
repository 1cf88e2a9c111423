"""How fast is the static embedder, and does it choose the same rows? Against the model it is distilled from, in turn.

Texts of 36 words are drawn anew for each round from the words of the bundled seeds. The static embedder is distilled
into an empty cache first; that is told apart.

With --selection FILE (JSON lines with instruction, input and output) a tenth of its rows are chosen by
`kiloset.filters.balance` with either embedder, under the same quality, the number of words in the output. The overlap of the
two choices is told beside that of two runs with MiniLM and different seeds of k-means, that with a choice by quality
alone, and that of random choices; and the Vendi score of each in the space of each embedder.

    python benchmarks/embedding.py [--rounds 5] [--selection dolly.jsonl]
"""

import argparse
import json
import os
import random
import statistics
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import polars as pl
from numpy.typing import NDArray

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from kiloset.core.models import Embedder, Silent  # noqa: E402
from kiloset.core.table import full_instruction, table_of  # noqa: E402
from kiloset.engines.embedded import model_identity, model_path  # noqa: E402
from kiloset.engines.embedder import SentenceEmbedder  # noqa: E402
from kiloset.engines.static import StaticEmbedder  # noqa: E402
from kiloset.filters.balance import BalanceConfig, balance  # noqa: E402
from kiloset.filters.diversity import vendi_score  # noqa: E402

MODEL = "embedded:all-minilm-l6-v2"
WORDS = 36
SLOW, FAST = 256, 40_000
"""Texts a round, so that a round takes about three seconds with either."""
SEEDS = 5
"""Selections by the same embedder, or at random, whose overlaps are averaged."""


@contextmanager
def empty_cache() -> Iterator[None]:
    with tempfile.TemporaryDirectory() as folder:
        before = os.environ.get("KILOSET_CACHE")
        os.environ["KILOSET_CACHE"] = folder
        yield
        if before is None:
            del os.environ["KILOSET_CACHE"]
        else:
            os.environ["KILOSET_CACHE"] = before


def drawn_texts(number: int, rng: random.Random) -> list[str]:
    """Draw texts from the words of the bundled seeds, each as often as it is written there."""
    rows = map(json.loads, (ROOT / "seeds" / "seeds.jsonl").read_text(encoding="utf-8").splitlines())
    words = [word for row in rows for word in f"{row['instruction']} {row['response']}".split()]
    return [" ".join(rng.choices(words, k=WORDS)) for _ in range(number)]


def texts_a_second(embedder: Embedder, texts: Sequence[str]) -> tuple[float, float]:
    """Return texts a second, and texts a second of all cores."""
    wall, cpu = time.perf_counter(), time.process_time()
    embedder.embed(texts)
    return len(texts) / (time.perf_counter() - wall), len(texts) / (time.process_time() - cpu)


def compare_speed(slow: Embedder, fast: Embedder, rounds: int) -> None:
    rng = random.Random(0)
    ratios = []
    for embedder in (slow, fast):
        embedder.embed(drawn_texts(64, rng))
    for number in range(rounds):
        first, one = texts_a_second(slow, drawn_texts(SLOW, rng))
        second, other = texts_a_second(fast, drawn_texts(FAST, rng))
        ratios.append((second / first, other / one))
        print(f"  round {number + 1}: {first:.0f} and {second:.0f} texts/s, {one:.0f} and {other:.0f} a CPU second")
    print(f"figure least_ratio {min(ratio for ratio, _ in ratios):.0f} of {rounds} rounds")
    print(f"figure cpu_ratio {statistics.median(ratio for _, ratio in ratios):.0f}")
    print(f"ratio static_embedder {statistics.median(ratio for ratio, _ in ratios):.0f}")


class Given:
    """An embedder whose vectors are given."""

    identity, is_costly = "given", False

    def __init__(self, vectors: NDArray[np.float32]) -> None:
        """Hold the vectors of a table's rows."""
        self.vectors = vectors

    def embed(self, texts: Sequence[str]) -> NDArray[np.float32]:
        """Return them."""
        assert len(texts) == len(self.vectors)
        return self.vectors


def selected(table: pl.DataFrame, vectors: NDArray[np.float32], select: int, selector: str, seed: int) -> set[int]:
    """Return the places of the rows that balance keeps."""
    config = BalanceConfig(selector=selector, reserve=0.0)  # type: ignore[arg-type]
    kept = balance(table, Given(vectors), {"all": select}, config, seed=seed, seeds_in_set=False, fill=False).kept
    assert kept.height == select
    return {int(id[1:]) for id in kept["id"]}


def compare_selections(path: Path, slow: Embedder, fast: Embedder) -> None:
    rows = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    given = [{"instruction": row["instruction"], "input": row["input"], "response": row["output"]} for row in rows]
    made = {"category": "all", "source": "generated"}
    table = table_of([{"id": f"g{at:05d}", **row, **made} for at, row in enumerate(given)])
    table = table.with_columns(quality=pl.col("response").str.count_matches(r"\S+").cast(pl.Float64))
    texts, select = full_instruction(table), table.height // 10
    spaces = {"minilm": slow.embed(texts), "static": fast.embed(texts)}
    by = {
        name: [selected(table, vectors, select, "balanced", seed) for seed in range(SEEDS)]
        for name, vectors in spaces.items()
    }
    by["quality"] = [selected(table, spaces["minilm"], select, "quality", 0)]
    by["random"] = [selected(table, spaces["minilm"], select, "random", seed) for seed in range(SEEDS)]
    print(f"  {select} of {table.height} rows; overlaps are fractions of {select}")
    print(f"figure selection_overlap {overlap(by['minilm'], by['static']):.3f}")
    print(f"figure selection_overlap_other_seed {overlap(by['minilm'], by['minilm']):.3f}")
    print(f"figure selection_overlap_quality_only {overlap(by['minilm'], by['quality']):.3f}")
    print(f"figure selection_overlap_random {overlap(by['random'], by['random']):.3f}")
    for space, vectors in spaces.items():
        for name, choices in by.items():
            score = statistics.mean(vendi_score(vectors[sorted(choice)]) for choice in choices)
            print(f"figure vendi_in_{space}_of_{name} {score:.1f} rows")


def overlap(some: Sequence[set[int]], others: Sequence[set[int]]) -> float:
    """Return the mean share of rows in common over all pairs of one selection each, none with itself."""
    pairs = [(one, other) for one in some for other in others if one is not other]
    return statistics.mean(len(one & other) / len(one) for one, other in pairs)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--selection", type=Path, metavar="FILE")
    options = parser.parse_args()
    path = model_path(MODEL, "models.embedder")
    identity = model_identity(MODEL, path)
    slow, fast = SentenceEmbedder(path, identity), StaticEmbedder(path, identity, Silent())
    slow.embed(["The libraries are imported, and the model loaded."])
    with empty_cache():
        started = time.perf_counter()
        fast.embed(["Distilled with the first text."])
        print(f"figure distillation {time.perf_counter() - started:.0f} s")
    if options.selection:
        compare_selections(options.selection, slow, fast)
    compare_speed(slow, fast, options.rounds)


if __name__ == "__main__":
    main()
