"""The one table that flows through every stage, and the ledger of what left it."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import polars as pl

from kiloset.core.errors import StageError

CONSTRAINT = pl.Struct({"id": pl.String, "args": pl.String})

ROW: dict[str, Any] = {
    "id": pl.String,
    "instruction": pl.String,
    "input": pl.String,
    "response": pl.String,
    "category": pl.String,
    "category_source": pl.String,
    "source": pl.String,
    "strategy": pl.String,
    "operator": pl.String,
    "topic": pl.String,
    "parents": pl.List(pl.String),
    "depth": pl.UInt8,
    "constraints": pl.List(CONSTRAINT),
    "edits": pl.List(pl.String),
    "writer": pl.String,
    "license": pl.String,
    "original_response": pl.String,
    "calls": pl.List(pl.String),
    "agreement": pl.Float64,
    "others": pl.List(pl.String),
}
"""Columns every row has. `operator` names how an evolved row was made from its parent, `topic` the
subject that its request named, `edits` what was done to an answer so
that it keeps its constraints. `calls` lists the keys, in calls.sqlite, of the completions the row was made from. `agreement` is
the mean ROUGE-L F1 of the answer with further answers of the writer model, null where it was not measured. `others` are further
answers of the writer model that are complete and keep the row's constraints; rewriting may choose one of them."""

VERDICT: dict[str, Any] = {
    "stage": pl.String,
    "reason": pl.String,
    "evidence": pl.String,
    "measured": pl.Float64,
    "limit": pl.Float64,
    "twin": pl.String,
    "again": pl.String,
}
"""Columns a dropped row has besides its own. `twin` is the id it duplicates or lost to, or null. `stage` and `reason` are
those of the row's first drop; where a later pass dropped it by another stage or reason, `again` is `stage/reason` of that."""

STAGE_VERDICT: dict[str, Any] = {name: kind for name, kind in VERDICT.items() if name not in ("stage", "again")}
"""The columns of `VERDICT` that a stage fills; the runner adds the others."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """The result of a stage: the rows it kept, in order, the rows it dropped, and everything else it has to report.

    It unpacks as `kept, dropped = outcome`.
    """

    kept: pl.DataFrame
    dropped: pl.DataFrame
    """The rows' own columns and `reason`, `evidence`, `measured`, `limit`, `twin`."""
    set_aside: pl.DataFrame | None = None
    """Rows that leave without being dropped: seeds that were shown to the writer model and stay out of the set."""
    notes: Mapping[str, Any] = field(default_factory=dict)
    """Figures for the manifest, by name."""
    tables: Mapping[str, pl.DataFrame] = field(default_factory=dict)
    """Further tables for the run folder, by file name without its suffix."""
    files: Mapping[str, bytes | None] = field(default_factory=dict)
    """Further files for the run folder, by name; None deletes the file of an earlier pass."""

    def __iter__(self) -> Iterator[pl.DataFrame]:
        yield self.kept
        yield self.dropped


def keep_all(table: pl.DataFrame) -> Outcome:
    """Return the outcome of a stage that drops nothing."""
    return Outcome(kept=table, dropped=no_rows(table))


def table_of(rows: Sequence[Mapping[str, Any]]) -> pl.DataFrame:
    """Build a table from row dictionaries; columns that a row lacks are empty text, empty list, 0 or null."""
    empty: dict[str, Any] = {
        "parents": [],
        "constraints": [],
        "edits": [],
        "calls": [],
        "depth": 0,
        "original_response": None,
        "agreement": None,
        "others": [],
    }
    full = [{name: row.get(name, empty.get(name, "")) for name in ROW} for row in rows]
    return pl.DataFrame(full, schema=ROW)


def with_verdicts(table: pl.DataFrame, verdicts: Mapping[str, Mapping[str, Any]]) -> Outcome:
    """Split a table by id: rows named in `verdicts` are dropped with `reason`, `evidence` and the other columns of a verdict."""
    # Column by column: a dictionary for each of a million rows would take a minute.
    columns = {name: [verdict.get(name) for verdict in verdicts.values()] for name in STAGE_VERDICT}
    dropped = pl.DataFrame({"id": list(verdicts), **columns}, schema={"id": pl.String, **STAGE_VERDICT})
    return Outcome(
        kept=table.join(dropped, on="id", how="anti", maintain_order="left"),
        dropped=table.join(dropped, on="id", how="inner", maintain_order="left"),
    )


def no_rows(table: pl.DataFrame) -> pl.DataFrame:
    """Return the dropped half of an outcome that drops nothing: the table's columns and the verdict's, no rows."""
    return with_verdicts(table, {}).dropped


def check_outcome(stage: str, before: pl.DataFrame, outcome: Outcome, *, creates: bool) -> None:
    """Check that each row a stage got was kept, dropped or set aside exactly once.

    Raises:
        StageError: A row was lost, invented, doubled, renamed or dropped without a reason.
    """
    got = before["id"].to_list()
    aside = [] if outcome.set_aside is None else outcome.set_aside["id"].to_list()
    returned = outcome.kept["id"].to_list() + outcome.dropped["id"].to_list() + aside
    if len(returned) != len(set(returned)):
        twice = next(id for id in returned if returned.count(id) > 1)
        raise StageError("KS054", f"stage {stage}: row {twice} stands twice in what was kept and dropped")
    if lost := set(got) - set(returned):
        raise StageError("KS055", f"stage {stage}: lost {len(lost)} rows without a reason, {min(lost)} among them")
    if not creates and (new := set(returned) - set(got)):
        raise StageError("KS056", f"stage {stage}: invented {len(new)} rows, {min(new)} among them")
    if missing := [name for name in ROW if name not in outcome.kept.columns or name not in outcome.dropped.columns]:
        raise StageError("KS057", f"stage {stage}: lost the column {missing[0]}")
    if outcome.dropped.height and outcome.dropped["reason"].null_count():
        raise StageError("KS058", f"stage {stage}: dropped a row without a reason")


def full_instruction(table: pl.DataFrame) -> list[str]:
    """Return each row's instruction and input as the one user turn that models are shown."""
    return [user_turn(a, b) for a, b in zip(table["instruction"], table["input"], strict=True)]


def user_turn(instruction: str, text: str) -> str:
    """Join an instruction and its input (which may be "") by one empty line."""
    return f"{instruction}\n\n{text}" if text else instruction
