"""Time rules, near-duplicates, semantic duplicates and selection on 100,000 and a million candidate rows, with fixed embeddings.

One process writes the texts. Another one, whose seconds and memory are printed, reads them and runs the stages. CPU seconds (all
threads) are printed beside wall seconds, and the growth is computed from CPU seconds, which depend less on other work on the
machine. Embeddings (made between the stages, not timed) and quality are random. Selection computes its figures of diversity, as
in a run.

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
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stdout
from pathlib import Path

import numpy as np
import polars as pl
from harness import FixedEmbedder, figure
from near_duplicates import write_texts
from numpy.typing import NDArray

from kiloset.core.table import ROW
from kiloset.filters.near_duplicates import NearDuplicatesConfig, drop_near_duplicates
from kiloset.filters.rules import RulesConfig, drop_by_rules
from kiloset.filters.selection import SelectConfig
from kiloset.filters.selection import select as select_rows
from kiloset.filters.semantic import SemanticConfig, drop_semantic_duplicates

DIMS, CATEGORIES, THEMES = 384, 14, 200
BLOCK = 10_000
WARM = 200
"""Rows that pass all stages before the timed run, so that imports and numba's compilation are not timed."""
STAGES = ("rules", "near_duplicates", "semantic", "select")
BASELINES = ("random", "longest", "quality")


def random_vectors(rows: int) -> NDArray[np.float32]:
    """Return `(rows, DIMS)` vectors of length 1: one of 200 themes and noise for each row; a tenth are close to an earlier row."""
    rng = np.random.default_rng(0)
    themes = rng.standard_normal((THEMES, DIMS), dtype=np.float32)
    vectors = np.empty((rows, DIMS), np.float32)
    for begin in range(0, rows, BLOCK):  # a larger draw would count as memory of the stages
        block = vectors[begin : begin + BLOCK]
        rng.standard_normal(out=block, dtype=np.float32)
        block += themes[rng.integers(0, THEMES, len(block))]
        close = rng.random(len(block)) < 0.1
        block[close] = 0.2 * block[close] + block[0]
        block /= np.linalg.norm(block, axis=1, keepdims=True)
    return vectors


def write_table(path: Path, number: int) -> None:
    """Write random candidates as a stage would; one text is the instruction, another one the response."""
    texts = path.with_suffix(".txt")
    write_texts(texts, number)
    instructions = pl.Series(texts.read_text(encoding="utf-8").splitlines())
    responses = instructions.sample(fraction=1.0, shuffle=True, seed=0)
    columns = {
        "id": pl.format("g{}", pl.int_range(number).cast(pl.String).str.zfill(8)),
        "instruction": pl.format("{}?", instructions), "response": pl.format("{}.", responses),
        "category": pl.format("category {}", pl.int_range(number) % CATEGORIES), "source": pl.lit("generated"),
    }  # fmt: skip
    empty = {pl.String: "", pl.UInt8: 0}
    rest = {name: pl.lit(empty.get(kind, []), kind) for name, kind in ROW.items() if name not in columns}
    pl.DataFrame().select(**columns).with_columns(**rest).select(*ROW).write_parquet(path)


def run_stages(path: Path, select: int) -> dict[str, list[float]]:
    """Run the stages; print and return the seconds, CPU seconds and peak GB of each."""
    costs: dict[str, list[float]] = {}

    @contextmanager
    def measured(name: str) -> Iterator[list[pl.DataFrame]]:
        Path("/proc/self/clear_refs").write_text("5")  # resets the peak
        kept: list[pl.DataFrame] = []
        wall, cpu = time.monotonic(), time.process_time()
        yield kept
        costs[name] = [time.monotonic() - wall, time.process_time() - cpu, peak()]
        seconds, cpu, gb = costs[name]
        print(f"  {name}: {seconds:.2f} s, {cpu:.2f} CPU s, {gb:.2f} GB, {kept[0].height} rows kept", flush=True)

    with measured("reading") as kept:
        kept.append(table := pl.read_parquet(path))
    with measured("rules") as kept:
        kept.append(table := drop_by_rules(table, RulesConfig()).kept)
    with measured("near_duplicates") as kept:
        kept.append(table := drop_near_duplicates(table, NearDuplicatesConfig(), seed=0).kept)
    with measured("embeddings") as kept:
        kept.append(table)
        embedder = FixedEmbedder(random_vectors(table.height))
        table = table.with_columns(quality=np.random.default_rng(1).normal(size=table.height))
        table = table.with_columns(response_words=pl.col("response").str.count_matches(r"\S+").cast(pl.Float64))
    with measured("semantic") as kept:
        result = drop_semantic_duplicates(table, embedder, SemanticConfig(), protect_pool=False, seed=0)
        kept.append(result.outcome.kept)
    share, more = divmod(select, CATEGORIES)
    wanted = {f"category {n}": share + (n < more) for n in range(CATEGORIES)}
    for selector in ("balanced", *BASELINES):
        config = SelectConfig(selector=selector, reserve=0.0)  # type: ignore[arg-type]
        with measured("select" if selector == "balanced" else f"selector {selector}") as kept:
            kept.append(select_rows(table, embedder, wanted, config, seed=0, fill=False).kept)
    return costs


def peak() -> float:
    """Return the largest resident memory of this process in GB since the peak was reset."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return int(next(line for line in lines if line.startswith("VmHWM")).split()[1]) / 2**20


def run_apart(task: str, path: Path, number: int) -> None:
    subprocess.run([sys.executable, __file__, "--worker", task, str(path), str(number)], check=True)


def work(task: str, path: Path, number: int) -> None:
    if task == "write":
        write_table(path, number)
        return
    with open(os.devnull, "w") as devnull, redirect_stdout(devnull):
        warm = path.with_name("warm.parquet")
        pl.scan_parquet(path).head(WARM).collect().write_parquet(warm)
        run_stages(warm, CATEGORIES)
    path.with_suffix(".json").write_text(json.dumps(run_stages(path, number)))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rows", type=int, nargs="+", default=[100_000, 1_000_000])
    parser.add_argument("--select", type=int, default=1_500)
    parser.add_argument("--worker", nargs=3, metavar=("TASK", "FILE", "NUMBER"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.worker:
        work(options.worker[0], Path(options.worker[1]), int(options.worker[2]))
        return
    costs: dict[int, dict[str, list[float]]] = {}
    for rows in sorted(set(options.rows)):
        print(f"{rows} rows, {options.select} to select:", flush=True)
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "table.parquet"
            run_apart("write", path, rows)
            run_apart("measure", path, options.select)
            costs[rows] = json.loads(path.with_suffix(".json").read_text())
    report(costs)


def report(costs: dict[int, dict[str, list[float]]]) -> None:
    """Print the figures of the largest number of rows, and how the cost grew to it from the smallest."""
    least, most = costs[min(costs)], costs[max(costs)]
    seconds, cpu = (sum(most[stage][at] for stage in STAGES) for at in (0, 1))
    figure("rows", max(costs), "rows")
    figure("seconds", f"{seconds:.1f}", "s")
    figure("cpu_seconds", f"{cpu:.1f}", "s")
    figure("peak_memory", f"{max(cost[2] for cost in most.values()):.2f}", "GB")
    if len(costs) > 1:
        tenfold = math.log(max(costs) / min(costs))
        before = sum(least[stage][1] for stage in STAGES)
        figure("growth_exponent", f"{math.log(cpu / before) / tenfold:.3f}")
        for stage in STAGES:
            figure(f"growth_exponent_{stage}", f"{math.log(most[stage][1] / least[stage][1]) / tenfold:.3f}")


if __name__ == "__main__":
    main()
