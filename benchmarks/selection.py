"""What 100,000 and a million candidate rows take, through rules, near-duplicates, semantic and balance, with embeddings given.

Texts are written by one process; another, whose seconds and memory are told, reads them and runs the stages. CPU seconds
(all threads) are told beside wall seconds and the growth is that of CPU seconds, which other work on the machine moves less.
Given are the embeddings (made between the stages, untimed) and quality. Balance tells its figures of diversity, as in a run.

    python benchmarks/selection.py [--rows 100000 1000000] [--select 1500]
"""

import argparse
import json
import math
import os
import subprocess
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
sys.path[:0] = [str(ROOT), str(ROOT / "benchmarks")]

from near_duplicates import write_texts  # noqa: E402

from kiloset.core.table import ROW  # noqa: E402
from kiloset.filters.balance import BalanceConfig, balance  # noqa: E402
from kiloset.filters.near_duplicates import NearDuplicatesConfig, drop_near_duplicates  # noqa: E402
from kiloset.filters.rules import RulesConfig, drop_by_rules  # noqa: E402
from kiloset.filters.semantic import SemanticConfig, drop_semantic_duplicates  # noqa: E402

DIMS, CATEGORIES, THEMES = 384, 14, 200
BLOCK = 10_000
WARM = 200
"""Rows that go through all stages first, untimed: imports, and what numba compiles."""
STAGES = ("rules", "near_duplicates", "semantic", "balance")
BASELINES = ("random", "longest", "quality")


class Given:
    """An embedder whose vectors are given."""

    identity, is_costly = "given", False

    def __init__(self, rows: int) -> None:
        """Draw one of 200 themes and some noise for each row; a tenth are close to a row before them."""
        rng = np.random.default_rng(0)
        themes = rng.standard_normal((THEMES, DIMS), dtype=np.float32)
        self.vectors = np.empty((rows, DIMS), np.float32)
        for begin in range(0, rows, BLOCK):  # what is drawn at once would count as memory of the stages
            some = self.vectors[begin : begin + BLOCK]
            rng.standard_normal(out=some, dtype=np.float32)
            some += themes[rng.integers(0, THEMES, len(some))]
            close = rng.random(len(some)) < 0.1
            some[close] = 0.2 * some[close] + some[0]
            some /= np.linalg.norm(some, axis=1, keepdims=True)

    def embed(self, texts: Sequence[str]) -> NDArray[np.float32]:
        """Return `(texts, DIMS)` of length 1."""
        return self.vectors[: len(texts)]


def write_table(path: Path, number: int) -> None:
    """Write made-up candidates as a stage would; one text is the instruction, another one the response."""
    texts = path.with_suffix(".txt")
    write_texts(texts, number)
    instructions = pl.Series(texts.read_text(encoding="utf-8").splitlines())
    responses = instructions.sample(fraction=1.0, shuffle=True, seed=0)
    given = {
        "id": pl.format("g{}", pl.int_range(number).cast(pl.String).str.zfill(8)),
        "instruction": pl.format("{}?", instructions), "response": pl.format("{}.", responses),
        "category": pl.format("category {}", pl.int_range(number) % CATEGORIES), "source": pl.lit("generated"),
    }  # fmt: skip
    empty = {pl.String: "", pl.UInt8: 0}
    rest = {name: pl.lit(empty.get(kind, []), kind) for name, kind in ROW.items() if name not in given}
    pl.DataFrame().select(**given).with_columns(**rest).select(*ROW).write_parquet(path)


def measured(path: Path, select: int) -> dict[str, list[float]]:
    """Run the stages; return of each its seconds, CPU seconds and GB at most, and print them."""
    found: dict[str, list[float]] = {}

    @contextmanager
    def told(what: str) -> Iterator[list[pl.DataFrame]]:
        Path("/proc/self/clear_refs").write_text("5")  # the peak starts anew
        left: list[pl.DataFrame] = []
        wall, cpu = time.monotonic(), time.process_time()
        yield left
        found[what] = [time.monotonic() - wall, time.process_time() - cpu, peak()]
        seconds, cpu, gb = found[what]
        print(
            f"  {what}: {seconds:.2f} s, {cpu:.2f} CPU s, {gb:.2f} GB at most, {left[0].height} rows kept", flush=True
        )

    with told("reading") as left:
        left.append(table := pl.read_parquet(path))
    with told("rules") as left:
        left.append(table := drop_by_rules(table, RulesConfig()).kept)
    with told("near_duplicates") as left:
        left.append(table := drop_near_duplicates(table, NearDuplicatesConfig(), seed=0).kept)
    with told("embeddings, given") as left:
        left.append(table)
        embedder = Given(table.height)
        table = table.with_columns(quality=np.random.default_rng(1).normal(size=table.height))
        table = table.with_columns(response_words=pl.col("response").str.count_matches(r"\S+").cast(pl.Float64))
    with told("semantic") as left:
        said = drop_semantic_duplicates(table, embedder, SemanticConfig(), protect_pool=False, seed=0)
        left.append(said.outcome.kept)
    share, more = divmod(select, CATEGORIES)
    wanted = {f"category {n}": share + (n < more) for n in range(CATEGORIES)}
    for selector in ("balanced", *BASELINES):
        config = BalanceConfig(selector=selector, reserve=0.0)  # type: ignore[arg-type]
        with told("balance" if selector == "balanced" else f"selector {selector}") as left:
            figures: dict[str, object] = {}
            left.append(
                balance(table, embedder, wanted, config, seed=0, seeds_in_set=False, fill=False, figures=figures).kept
            )
    return found


def peak() -> float:
    """Return the resident memory of this process in GB at its highest since the peak was started anew."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return int(next(line for line in lines if line.startswith("VmHWM")).split()[1]) / 2**20


def run_apart(what: str, path: Path, number: int) -> None:
    subprocess.run([sys.executable, __file__, "--worker", what, str(path), str(number)], check=True)


def work(what: str, path: Path, number: int) -> None:
    if what == "write":
        write_table(path, number)
        return
    with open(os.devnull, "w") as nowhere:
        shown, sys.stdout = sys.stdout, nowhere
        warm = path.with_name("warm.parquet")
        pl.scan_parquet(path).head(WARM).collect().write_parquet(warm)
        measured(warm, CATEGORIES)
        sys.stdout = shown
    path.with_suffix(".json").write_text(json.dumps(measured(path, number)))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rows", type=int, nargs="+", default=[100_000, 1_000_000])
    parser.add_argument("--select", type=int, default=1_500)
    parser.add_argument("--worker", nargs=3, metavar=("WHAT", "FILE", "NUMBER"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.worker:
        work(options.worker[0], Path(options.worker[1]), int(options.worker[2]))
        return
    took: dict[int, dict[str, list[float]]] = {}
    for rows in sorted(set(options.rows)):
        print(f"{rows} rows, {options.select} wanted:", flush=True)
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "table.parquet"
            run_apart("write", path, rows)
            run_apart("measure", path, options.select)
            took[rows] = json.loads(path.with_suffix(".json").read_text())
    report(took)


def report(took: dict[int, dict[str, list[float]]]) -> None:
    """Print the figures of the largest number of rows, and how the cost grew to it from the least."""
    least, most = took[min(took)], took[max(took)]
    seconds, cpu = (sum(most[stage][at] for stage in STAGES) for at in (0, 1))
    print(f"figure rows {max(took)} rows")
    print(f"figure seconds {seconds:.1f} s")
    print(f"figure cpu_seconds {cpu:.1f} s")
    print(f"figure peak_memory {max(each[2] for each in most.values()):.2f} GB")
    if len(took) > 1:
        tenfold = math.log(max(took) / min(took))
        print(f"figure growth_exponent {math.log(cpu / sum(least[stage][1] for stage in STAGES)) / tenfold:.3f}")
        for stage in STAGES:
            print(f"figure growth_exponent_{stage} {math.log(most[stage][1] / least[stage][1]) / tenfold:.3f}")


if __name__ == "__main__":
    main()
