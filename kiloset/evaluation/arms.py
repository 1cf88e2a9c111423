"""Makes the training sets that a curated set is compared with; all have as many rows, and train for as many steps.

Random and longest rows are the baselines of M. Xia et al., "LESS", 2024, arXiv:2402.04333, and H. Zhao et al., "Long Is
More for Alignment", 2024, arXiv:2402.04833. The pool is every generated or imported row with a response, before
selection. No arm contains a validation row or its near-duplicate.
"""

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import polars as pl

from kiloset.core.errors import DataError
from kiloset.core.run import RunFolder
from kiloset.core.table import user_turn
from kiloset.data.curated import read_curated
from kiloset.evaluation.settings import ARMS

Row = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Arm:
    """A training set."""

    name: str
    rows: tuple[Row, ...]
    """`id` and `messages`."""
    distinct: int
    """Number of distinct rows; an arm with too few rows repeats them."""


def arms_of(folder: RunFolder, wanted: Sequence[str], seed: int) -> list[Arm]:
    """Return the arms of a run in the order of `ARMS`, each with as many rows as the curated set has for training.

    Raises:
        DataError: The run has no curated set or no finished stage `generate`.
    """
    rows = read_curated(folder.curated)
    curated = rows.conversations("train")
    held_out = {row["id"] for row in rows.conversations("validation")}
    held_out |= set(folder.dropped().filter(pl.col("twin").is_in(sorted(held_out)))["id"])  # their near-duplicates
    table, originals = _tables(folder)
    pool = table.filter(
        (pl.col("source") != "seed")
        & ~pl.col("id").is_in(sorted(held_out))
        & (pl.col("response").str.strip_chars() != "")
    ).sort("id")
    rows_of: dict[str, Callable[[], list[Row]]] = {
        "curated": lambda: curated,
        "unrewritten": lambda: [_with_original(row, originals) for row in curated],
        "random": lambda: _rows(pool.sample(min(len(curated), pool.height), seed=seed, shuffle=True)),
        "longest": lambda: _rows(
            pool.sort(pl.col("response").str.len_chars(), "id", descending=[True, False]).head(len(curated))
        ),
        "seeds": lambda: _rows(table.filter(pl.col("source") == "seed").sort("id")),
    }
    return [_repeated(name, rows_of[name](), len(curated)) for name in ARMS if name in wanted]


def _tables(folder: RunFolder) -> tuple[pl.DataFrame, dict[str, str]]:
    """Return all rows before selection, and the responses before rewriting by id."""
    stages = dict(folder.stages())
    if "generate" not in stages:
        raise DataError("KS501", f"{folder.path}: stage generate is not finished; run `kiloset dataset` first")
    last = list(stages.values())[-1]
    rewritten = last.filter(pl.col("original_response").is_not_null())
    return stages["generate"], dict(zip(rewritten["id"], rewritten["original_response"], strict=True))


def _with_original(row: Row, originals: dict[str, str]) -> Row:
    if row["id"] not in originals:
        return row
    *prompt, response = row["messages"]
    return {**row, "messages": [*prompt, {**response, "content": originals[row["id"]]}]}


def _rows(table: pl.DataFrame) -> list[Row]:
    return [
        {
            "id": row["id"],
            "messages": [
                {"role": "user", "content": user_turn(row["instruction"], row["input"])},
                {"role": "assistant", "content": row["response"]},
            ],
        }
        for row in table.iter_rows(named=True)
    ]


def _repeated(name: str, rows: list[Row], size: int) -> Arm:
    """Repeat the rows of an arm under new ids up to `size`, so that every arm trains for as many steps."""
    if not rows:
        raise DataError("KS502", f"arm {name} has no row to train on; remove it from [prove] arms")
    repeated = [
        row if at < len(rows) else {**row, "id": f"{row['id']}/{at // len(rows)}"}
        for at, row in ((at, rows[at % len(rows)]) for at in range(size))
    ]
    distinct = len({json.dumps(row["messages"], ensure_ascii=False) for row in repeated})
    return Arm(name, tuple(repeated), distinct)
