"""Applies the decisions of a review to a run: what was accepted is in the set, with the reviewer's texts; what was rejected is not.

A decision is about a row as it was born; where another row has its id by now, it does not count, and is reported.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import polars as pl

from kiloset.core.constraints import failing
from kiloset.core.recorded import RecordedScorer
from kiloset.core.review import Decision, born_as, stays
from kiloset.core.table import STAGE_VERDICT, Outcome, user_turn

SAID = ("review", "review_reason")
DECIDED = ("instruction", "input", "response", "category", "category_source", "constraints", *SAID)
"""Columns that a decision sets before selection."""
SETTLED = ("response", "original_response", "response_source", "response_reason", "constraints", "review")
"""Columns that an answer of the reviewer's changes after it."""


@dataclass(frozen=True, slots=True)
class Reviewed:
    """What became of the decisions."""

    accepted: int
    """Rows of the set that the reviewer accepted, `edited`, `relabelled` and `called_back` ones among them."""
    edited: int
    relabelled: int
    called_back: int
    """Those that a stage before selection had dropped."""
    rejected: int
    """Rows that would have been candidates."""
    beyond: int
    """Accepted rows beyond what is wanted of their categories: by so many the set is larger."""
    gone: tuple[str, ...]
    """Rows decided about that are no longer there, or are others now."""
    unreadable: tuple[str, ...]
    """Rows accepted that the base model cannot read whole."""


def call_back(outcome: Outcome, decisions: Mapping[str, Decision], stage: str) -> Outcome:
    """Move the rows that a stage drops and the reviewer accepted to those it keeps; `called_back` says what they were dropped for."""
    back = [
        row["id"]
        for row in outcome.dropped.select("id", "instruction", "input").iter_rows(named=True)
        if (said := _decision(row, decisions)) and said.verdict == "accept"
    ]
    if not back:
        return outcome
    is_back = pl.col("id").is_in(back)
    rows = (
        outcome.dropped.filter(is_back)
        .with_columns(called_back=pl.format(f"{stage}/{{}}", "reason"))
        .drop(STAGE_VERDICT)
    )
    return Outcome(
        kept=pl.concat([outcome.kept, rows], how="diagonal_relaxed"), dropped=outcome.dropped.filter(~is_back)
    )


def with_decisions(table: pl.DataFrame, decisions: Mapping[str, Decision]) -> pl.DataFrame:
    """Say of each row what was decided, and give it what selection goes by: the reviewer's category, instruction and input.

    Adds `review` (accepted, edited, rejected or null) and `review_reason`. An answer waits until rewriting is through
    (`settle`), unless the row has none or the task is another now; nothing may then rewrite it.
    """
    named = table.filter(pl.col("id").is_in(list(decisions)))
    decided = [
        {"id": row["id"], **_decided(row, said)}
        for row in named.iter_rows(named=True)
        if (said := _decision(row, decisions)) is not None
    ]
    return _replaced(table.with_columns(**dict.fromkeys(SAID, pl.lit(None, pl.String))), decided, DECIDED)


def settle(table: pl.DataFrame, decisions: Mapping[str, Decision], scorer: RecordedScorer) -> pl.DataFrame:
    """Give each row that the reviewer accepted his answer, and measure its surprisal anew where that is another one.

    `response_source` tells whose it is: `reference`, `plain` or `guided` where it is one of those offered, else `reviewer`.
    """
    changed = [
        {"id": row["id"], **_settled(row, said)}
        for row in table.filter(stays(table)).iter_rows(named=True)
        if (said := decisions[row["id"]]).response != row["response"]
    ]
    new = _replaced(table, changed, SETTLED)
    other = new.filter(pl.col("id").is_in([row["id"] for row in changed]))
    turns = (user_turn(*row) for row in other.select("instruction", "input").iter_rows())
    prompts = [[{"role": "user", "content": turn}] for turn in turns]
    scores = scorer.mean_logprobs(prompts, other["response"].to_list(), "what was edited") if changed else []
    measured = [
        {"id": id, "surprisal": None if math.isnan(score) else -round(score, 4)}
        for id, score in zip(other["id"], scores, strict=True)
    ]
    gain = (pl.col("reference_surprisal") - pl.col("surprisal")).round(4)
    return _replaced(new, measured, ("surprisal",)).with_columns(fit_gain=gain) if changed else new


def reviewed(
    decisions: Mapping[str, Decision], table: pl.DataFrame, ledger: pl.DataFrame, surplus: int
) -> Reviewed | None:
    """Tell what became of the decisions, from the set and the ledger; None where nothing was decided."""
    if not decisions:
        return None
    mine = table.filter(stays(table))
    born = {row["id"]: row for row in ledger.select("id", "instruction", "input").iter_rows(named=True)}
    here = set(mine["id"])
    left = {id: said for id, said in decisions.items() if id not in here}
    same = {id for id, said in left.items() if id in born and _decision(born[id], {id: said}) is not None}
    rejected = ledger.filter(pl.col("reason") == "rejected_in_review")
    return Reviewed(
        accepted=mine.height,
        edited=mine.filter(pl.col("review") == "edited").height,
        relabelled=mine.filter(pl.col("category_source") == "reviewer").height,
        called_back=mine["called_back"].count() if "called_back" in mine.columns else 0,
        rejected=rejected.height,
        beyond=surplus,
        gone=tuple(sorted(left.keys() - same)),
        unreadable=tuple(sorted(id for id in same if left[id].verdict == "accept")),
    )


def _decision(row: Mapping[str, Any], decisions: Mapping[str, Decision]) -> Decision | None:
    """Return what was decided of this very row."""
    said = decisions.get(row["id"])
    return said if said is not None and said.born == born_as(row["instruction"], row["input"]) else None


def _decided(row: Mapping[str, Any], said: Decision) -> dict[str, Any]:
    """Return the columns `DECIDED` of a row."""
    columns = {name: row.get(name) for name in DECIDED} | {"review_reason": said.reason}
    if said.verdict == "reject":
        return {**columns, "review": "rejected"}
    columns |= {"review": "accepted", "category": said.category}
    if said.category != row["category"]:
        columns["category_source"] = "reviewer"
    is_another_task = (said.instruction, said.input) != (row["instruction"], row["input"])
    if is_another_task or not row["response"].strip():
        columns |= {"review": "edited", "instruction": said.instruction, "input": said.input}
        # What another task asks for is not known.
        kept = [] if is_another_task else _kept(row, said.response)
        columns |= {"response": said.response, "constraints": kept}
    return columns


def _replaced(table: pl.DataFrame, rows: Sequence[Mapping[str, Any]], columns: Sequence[str]) -> pl.DataFrame:
    """Return the table, in its order, with these columns of these rows, named by `id`, in place of its own."""
    schema = table.select("id", *columns).schema
    new, placed = pl.DataFrame(rows, schema=schema), table.with_row_index("place")
    rest = placed.join(new, on="id", how="anti")
    others = placed.drop(columns).join(new, on="id", how="inner").select(placed.columns)
    return pl.concat([rest, others]).sort("place").drop("place")


def _kept(row: Mapping[str, Any], response: str) -> list[Any]:
    """Return the constraints of a row that another answer keeps."""
    return [one for one in row["constraints"] if not failing([one], response)]


def _settled(row: Mapping[str, Any], said: Decision) -> dict[str, Any]:
    born = row["response"] if row["original_response"] is None else row["original_response"]
    kinds = {one["text"]: one["kind"] for one in row["rewrites"] or ()} | {born: "reference"}
    source = kinds.get(said.response, "reviewer")
    return {
        "response": said.response,
        "original_response": None if source == "reference" else born,
        "response_source": source,
        "response_reason": "reviewed",
        "constraints": _kept(row, said.response),
        "review": "edited" if source == "reviewer" else row["review"],
    }
