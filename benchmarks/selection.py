"""What a million candidate rows take, through rules, near-duplicates and balance, with embeddings given.

python benchmarks/selection.py [--rows 1000000] [--select 1500]
"""

import argparse
import random
import resource
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import polars as pl
from numpy.typing import NDArray

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "benchmarks")]

from near_duplicates import read_texts, write_texts  # noqa: E402

from core.table import table_of  # noqa: E402
from filters.balance import BalanceConfig, balance  # noqa: E402
from filters.near_duplicates import NearDuplicatesConfig, drop_near_duplicates  # noqa: E402
from filters.rules import RulesConfig, drop_by_rules  # noqa: E402

DIMS, CATEGORIES = 384, 14


class Given:
    """An embedder whose vectors are given: of a text, that of a random one of 200 themes and some noise."""

    identity = "given"

    def __init__(self) -> None:
        """Draw the themes."""
        self._themes = np.random.default_rng(0).normal(size=(200, DIMS)).astype(np.float32)

    def embed(self, texts: Sequence[str]) -> NDArray[np.float32]:
        """Return `(texts, DIMS)` of length 1."""
        rng = np.random.default_rng(len(texts))
        found = rng.standard_normal((len(texts), DIMS), dtype=np.float32)
        found += self._themes[rng.integers(0, len(self._themes), len(texts))]
        found /= np.linalg.norm(found, axis=1, keepdims=True)
        return found


def rows_of(path: Path, number: int) -> pl.DataFrame:
    rng = random.Random(0)
    texts = read_texts(path)
    blank = table_of([])
    answers = rng.sample(texts, len(texts))
    rows = pl.DataFrame({"instruction": texts, "response": answers}).with_row_index("number")
    rows = rows.select(
        pl.format("g{}", pl.col("number").cast(pl.String).str.zfill(8)).alias("id"),
        pl.format("{}?", "instruction").alias("instruction"), pl.format("{}.", "response").alias("response"),
        pl.lit("").alias("input"), pl.lit("generated").alias("source"),
        pl.format("category {}", pl.col("number") % CATEGORIES).alias("category"),
        pl.lit(0).cast(blank.schema["depth"]).alias("depth"),
    )  # fmt: skip
    table = pl.concat([blank, rows[:number]], how="diagonal")
    lists = [pl.lit([], kind).alias(name) for name, kind in blank.schema.items() if isinstance(kind, pl.List)]
    return table.with_columns(*lists, pl.col(pl.String).fill_null(""))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--select", type=int, default=1_500)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "texts.txt"
        write_texts(path, options.rows)
        table = rows_of(path, options.rows)
    begun = started = time.monotonic()

    def told(what: str, left: pl.DataFrame) -> None:
        nonlocal started
        gb = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
        print(f"{what}: {time.monotonic() - started:.1f} s, {left.height} rows kept, {gb:.2f} GB at most", flush=True)
        started = time.monotonic()

    table = drop_by_rules(table, RulesConfig()).kept
    told("rules", table)
    table = drop_near_duplicates(table, NearDuplicatesConfig(), seed=0, warn=print).kept
    told("near_duplicates", table)
    quality = pl.Series(np.random.default_rng(1).normal(size=table.height))
    share, more = divmod(options.select, CATEGORIES)
    wanted = {f"category {n}": share + (n < more) for n in range(CATEGORIES)}
    outcome = balance(
        table.with_columns(quality=quality), Given(), wanted, BalanceConfig(reserve=0.0), seed=0, seeds_in_set=False,
        fill=False,
    )  # fmt: skip
    told("balance", outcome.kept)
    print(f"figure seconds {time.monotonic() - begun:.1f} s")
    print(f"figure peak_memory {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20:.2f} GB")


if __name__ == "__main__":
    main()
