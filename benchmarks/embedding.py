"""Compare the static embedder with the model it is distilled from: speed, and whether it selects the same rows.

Texts of 36 words are drawn again for each round from the words of the bundled seeds. The static embedder is first distilled into
an empty cache; that time is printed separately.

With --selection FILE (JSON lines with instruction, input and output) a tenth of its rows is selected by `kiloset.filters.selection` with
each embedder, under the same quality (the number of words in the output). The benchmark prints the overlap of the two selections
beside that of two runs with MiniLM and different seeds of k-means, that with a selection by quality alone, and that of random
selections; and the Vendi score of each selection in the space of each embedder.

    python benchmarks/embedding.py [--rounds 5] [--selection dolly.jsonl]
"""

import argparse
import json
import os
import random
import statistics
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import polars as pl
from harness import SEEDS as SEED_FILE
from harness import FixedEmbedder, figure, ratio
from numpy.typing import NDArray

from kiloset.core.models import Embedder
from kiloset.core.progress import Silent
from kiloset.core.table import full_instruction, table_of
from kiloset.engines.embedded import model_identity, model_path
from kiloset.engines.embedder import SentenceEmbedder
from kiloset.engines.static import StaticEmbedder
from kiloset.filters.diversity import vendi_score
from kiloset.filters.selection import SelectConfig
from kiloset.filters.selection import select as run_selection

MODEL = "embedded:all-minilm-l6-v2"
WORDS = 36
SLOW, FAST = 256, 40_000
"""Texts a round, so that a round takes about three seconds with either."""
SELECTIONS = 5
"""Selections of each kind, with different seeds, whose overlaps are averaged."""


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


def draw_texts(number: int, rng: random.Random) -> list[str]:
    """Draw texts from the words of the bundled seeds, each as often as it is written there."""
    rows = map(json.loads, SEED_FILE.read_text(encoding="utf-8").splitlines())
    words = [word for row in rows for word in f"{row['instruction']} {row['response']}".split()]
    return [" ".join(rng.choices(words, k=WORDS)) for _ in range(number)]


def speed_of(embedder: Embedder, texts: Sequence[str]) -> tuple[float, float]:
    """Return texts per second, and texts per CPU second of all cores."""
    wall, cpu = time.perf_counter(), time.process_time()
    embedder.embed(texts)
    return len(texts) / (time.perf_counter() - wall), len(texts) / (time.process_time() - cpu)


def compare_speed(slow: Embedder, fast: Embedder, rounds: int) -> None:
    rng = random.Random(0)
    ratios = []
    for embedder in (slow, fast):
        embedder.embed(draw_texts(64, rng))
    for number in range(rounds):
        first, one = speed_of(slow, draw_texts(SLOW, rng))
        second, other = speed_of(fast, draw_texts(FAST, rng))
        ratios.append((second / first, other / one))
        print(f"  round {number + 1}: {first:.0f} and {second:.0f} texts/s, {one:.0f} and {other:.0f} per CPU second")
    figure("least_ratio", f"{min(wall for wall, _ in ratios):.0f}", f"of {rounds} rounds")
    figure("cpu_ratio", f"{statistics.median(cpu for _, cpu in ratios):.0f}")
    ratio("static_embedder", statistics.median(wall for wall, _ in ratios), 0)


def select_rows(table: pl.DataFrame, vectors: NDArray[np.float32], select: int, selector: str, seed: int) -> set[int]:
    """Return the positions of the selected rows."""
    config = SelectConfig(selector=selector, reserve=0.0)  # type: ignore[arg-type]
    kept = run_selection(table, FixedEmbedder(vectors), {"all": select}, config, seed=seed, fill=False).kept
    assert kept.height == select
    return {int(id[1:]) for id in kept["id"]}


def compare_selections(path: Path, slow: Embedder, fast: Embedder) -> None:
    rows = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    columns = {"instruction": "instruction", "input": "input", "response": "output"}
    table = table_of([
        {"id": f"g{at:05d}", "category": "all", "source": "generated", **{name: row[key] for name, key in columns.items()}}
        for at, row in enumerate(rows)
    ])  # fmt: skip
    table = table.with_columns(quality=pl.col("response").str.count_matches(r"\S+").cast(pl.Float64))
    texts, select = full_instruction(table), table.height // 10
    spaces = {"minilm": slow.embed(texts), "static": fast.embed(texts)}
    selections = {
        name: [select_rows(table, vectors, select, "balanced", seed) for seed in range(SELECTIONS)]
        for name, vectors in spaces.items()
    }
    selections["quality"] = [select_rows(table, spaces["minilm"], select, "quality", 0)]
    selections["random"] = [select_rows(table, spaces["minilm"], select, "random", seed) for seed in range(SELECTIONS)]
    print(f"  {select} of {table.height} rows; overlaps are fractions of {select}")
    figure("selection_overlap", f"{overlap(selections['minilm'], selections['static']):.3f}", "fraction")
    figure("selection_overlap_other_seed", f"{overlap(selections['minilm'], selections['minilm']):.3f}", "fraction")
    figure("selection_overlap_quality_only", f"{overlap(selections['minilm'], selections['quality']):.3f}", "fraction")
    figure("selection_overlap_random", f"{overlap(selections['random'], selections['random']):.3f}", "fraction")
    for space, vectors in spaces.items():
        for name, choices in selections.items():
            score = statistics.mean(vendi_score(vectors[sorted(choice)]) for choice in choices)
            figure(f"vendi_in_{space}_of_{name}", f"{score:.1f}", "rows")


def overlap(first: Sequence[set[int]], second: Sequence[set[int]]) -> float:
    """Return the mean share of common rows over all pairs of a selection of each list; no selection is paired with itself."""
    pairs = [(one, other) for one in first for other in second if one is not other]
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
        figure("distillation", f"{time.perf_counter() - started:.0f}", "s")
    if options.selection:
        compare_selections(options.selection, slow, fast)
    compare_speed(slow, fast, options.rounds)


if __name__ == "__main__":
    main()
