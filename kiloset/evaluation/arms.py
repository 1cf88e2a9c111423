"""The sets that a curated one is held against: of the same pool, as many rows, trained on for as many steps.

Random and longest rows are the baselines of M. Xia et al., "LESS", 2024, arXiv:2402.04333, and H. Zhao et al., "Long Is
More for Alignment", 2024, arXiv:2402.04833. The pool is all that was generated or imported and has an answer, before
anything is selected; rows held out for validation are in no arm.
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

ARMS = {
    "curated": "the curated set",
    "unrewritten": "the same rows with the answers they were born with",
    "random": "as many random rows of the pool, others for each seed",
    "longest": "the rows of the pool with the longest answers",
    "seeds": "the seeds alone, repeated",
}

Row = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Arm:
    """A set to train on."""

    name: str
    rows: tuple[Row, ...]
    """`id` and `messages`."""
    distinct: int
    """Rows that differ; fewer than `rows` where the arm has not as many."""


def arms_of(folder: RunFolder, wanted: Sequence[str], seed: int) -> list[Arm]:
    """Return the arms of a run, in the order of `ARMS`, each of as many rows as the curated set trains on.

    Raises:
        DataError: The run has no curated set or no finished stage `generate`.
    """
    rows = read_curated(folder.curated)
    curated = rows.conversations("train")
    held_out = {row["id"] for row in rows.conversations("validation")}
    held_out |= set(folder.dropped().filter(pl.col("twin").is_in(sorted(held_out)))["id"])  # their near-duplicates
    table, born = _tables(folder)
    pool = table.filter(
        (pl.col("source") != "seed")
        & ~pl.col("id").is_in(sorted(held_out))
        & (pl.col("response").str.strip_chars() != "")
    ).sort("id")
    made: dict[str, Callable[[], list[Row]]] = {
        "curated": lambda: curated,
        "unrewritten": lambda: [_as_born(row, born) for row in curated],
        "random": lambda: _rows(pool.sample(min(len(curated), pool.height), seed=seed, shuffle=True)),
        "longest": lambda: _rows(
            pool.sort(pl.col("response").str.len_chars(), "id", descending=[True, False]).head(len(curated))
        ),
        "seeds": lambda: _rows(table.filter(pl.col("source") == "seed").sort("id")),
    }
    return [_filled(name, made[name](), len(curated)) for name in ARMS if name in wanted]


def _tables(folder: RunFolder) -> tuple[pl.DataFrame, dict[str, str]]:
    """Return all rows before selection, and the original answers of those that were rewritten, by id."""
    stages = dict(folder.stages())
    if "generate" not in stages or not stages:
        raise DataError("KS501", f"{folder.path}: stage generate is not finished; run `make dataset` first")
    last = list(stages.values())[-1]
    changed = last.filter(pl.col("original_response").is_not_null())
    return stages["generate"], dict(zip(changed["id"], changed["original_response"], strict=True))


def _as_born(row: Row, born: dict[str, str]) -> Row:
    if row["id"] not in born:
        return row
    *before, answer = row["messages"]
    return {**row, "messages": [*before, {**answer, "content": born[row["id"]]}]}


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


def _filled(name: str, rows: list[Row], size: int) -> Arm:
    """Repeat the rows of an arm that has too few, under ids of their own, so that all take as many steps."""
    if not rows:
        raise DataError("KS502", f"arm {name}: no row to train on; leave it out with [prove] arms")
    filled = [
        row if at < len(rows) else {**row, "id": f"{row['id']}/{at // len(rows)}"}
        for at, row in ((at, rows[at % len(rows)]) for at in range(size))
    ]
    distinct = len({json.dumps(row["messages"], ensure_ascii=False) for row in filled})
    return Arm(name, tuple(filled), distinct)
