"""Apply the decisions of a review: accepted rows enter the set with the reviewer's texts, rejected rows do not enter it.

A decision refers to the instruction and input of the row. If the row of that id has other texts by now, the decision does not
count and is reported.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import polars as pl

from kiloset.core.constraints import failing
from kiloset.core.recorded import RecordedScorer
from kiloset.core.review import Decision, is_accepted, task_digest
from kiloset.core.table import STAGE_VERDICT, Outcome, user_turn

MARKS = ("review", "review_reason")
DECIDED = ("instruction", "input", "response", "category", "category_source", "constraints", *MARKS)
"""Columns that a decision sets before selection."""
SETTLED = ("response", "original_response", "response_source", "response_reason", "constraints", "review")
"""Columns that the reviewer's answer changes after rewriting."""


@dataclass(frozen=True, slots=True)
class Reviewed:
    """How the decisions were applied."""

    accepted: int
    """Rows of the set that the reviewer accepted, `edited`, `relabelled` and `called_back` ones among them."""
    edited: int
    relabelled: int
    called_back: int
    """Accepted rows that a stage before selection had dropped."""
    rejected: int
    """Rejected rows that would otherwise have been candidates."""
    beyond: int
    """Accepted rows beyond the wanted number of their categories; the set is larger by these."""
    gone: tuple[str, ...]
    """Decided rows that no longer exist, or have other texts now."""
    unreadable: tuple[str, ...]
    """Accepted rows that are too long for the base model."""


OVERRULED = ("generate", "rules", "near_duplicates", "contamination", "semantic")
"""Stages before selection: a row that one of them drops and the reviewer accepted comes back."""


class Review:
    """The decisions about one run. Its methods are the only place where decisions change rows."""

    def __init__(self, decisions: Mapping[str, Decision]) -> None:
        """Take the decisions that stand, by row."""
        self._decisions = decisions

    def key(self, stage: str, *, creates: bool) -> list[Any]:
        """Return the part of a stage's cache key that depends on the decisions."""
        decisions = self._decisions.values()
        if stage in OVERRULED:
            return sorted((each.id, each.born) for each in decisions if each.verdict == "accept")
        return [] if creates else [{**asdict(each), "time": "", "blind": ""} for each in decisions]

    def overrule(self, outcome: Outcome, stage: str) -> Outcome:
        """Move the rows that a stage before selection drops and the reviewer accepted to the rows it keeps.

        The column `called_back` names the stage and the reason.
        """
        if stage not in OVERRULED or not self._decisions:
            return outcome
        back = [
            row["id"]
            for row in outcome.dropped.select("id", "instruction", "input").iter_rows(named=True)
            if (decision := _decision(row, self._decisions)) and decision.verdict == "accept"
        ]
        if not back:
            return outcome
        is_back = pl.col("id").is_in(back)
        reason = pl.format(f"{stage}/{{}}", "reason")
        rows = outcome.dropped.filter(is_back).with_columns(called_back=reason).drop(STAGE_VERDICT)
        kept = pl.concat([outcome.kept, rows], how="diagonal_relaxed")
        return replace(outcome, kept=kept, dropped=outcome.dropped.filter(~is_back))

    def mark(self, table: pl.DataFrame) -> pl.DataFrame:
        """Add `review` (accepted, edited, rejected or null) and `review_reason`, and the texts that selection goes by.

        Category, instruction and input become the reviewer's. His answer replaces the row's after rewriting (`settle`); it does
        so here if the row has no answer or the task has changed, and nothing rewrites it then.
        """
        named = table.filter(pl.col("id").is_in(list(self._decisions)))
        decided = [
            {"id": row["id"], **_decided(row, decision)}
            for row in named.iter_rows(named=True)
            if (decision := _decision(row, self._decisions)) is not None
        ]
        return _replaced(table.with_columns(**dict.fromkeys(MARKS, pl.lit(None, pl.String))), decided, DECIDED)

    def settle(self, table: pl.DataFrame, scorer: RecordedScorer) -> pl.DataFrame:
        """Give each accepted row the reviewer's answer, and measure the surprisal of an answer that changed.

        `response_source` is `reference`, `plain` or `guided` where the answer is one of those offered, else `reviewer`.
        """
        changed = [
            {"id": row["id"], **_settled(row, decision)}
            for row in table.filter(is_accepted(table)).iter_rows(named=True)
            if (decision := self._decisions[row["id"]]).response != row["response"]
        ]
        if not changed:
            return table
        new = _replaced(table, changed, SETTLED)
        other = new.filter(pl.col("id").is_in([row["id"] for row in changed]))
        turns = (user_turn(*row) for row in other.select("instruction", "input").iter_rows())
        prompts = [[{"role": "user", "content": turn}] for turn in turns]
        scores = scorer.mean_logprobs(prompts, other["response"].to_list(), "edited responses")
        measured = [
            {"id": id, "surprisal": None if math.isnan(score) else -round(score, 4)}
            for id, score in zip(other["id"], scores, strict=True)
        ]
        gain = (pl.col("reference_surprisal") - pl.col("surprisal")).round(4)
        return _replaced(new, measured, ("surprisal",)).with_columns(fit_gain=gain)

    def summary(self, table: pl.DataFrame, ledger: pl.DataFrame, surplus: int) -> Reviewed | None:
        """Summarise how the decisions were applied, from the set and the ledger; None without a decision."""
        if not self._decisions:
            return None
        accepted = table.filter(is_accepted(table))
        in_set = set(accepted["id"])
        dropped = {row["id"]: row for row in ledger.select("id", "instruction", "input").iter_rows(named=True)}
        open_ = {id: decision for id, decision in self._decisions.items() if id not in in_set}
        same = {id for id in open_ if id in dropped and _decision(dropped[id], open_) is not None}
        rejected = ledger.filter(pl.col("reason") == "rejected_in_review")
        return Reviewed(
            accepted=accepted.height,
            edited=accepted.filter(pl.col("review") == "edited").height,
            relabelled=accepted.filter(pl.col("category_source") == "reviewer").height,
            called_back=accepted["called_back"].count() if "called_back" in accepted.columns else 0,
            rejected=rejected.height,
            beyond=surplus,
            gone=tuple(sorted(open_.keys() - same)),
            unreadable=tuple(sorted(id for id in same if open_[id].verdict == "accept")),
        )


def _decision(row: Mapping[str, Any], decisions: Mapping[str, Decision]) -> Decision | None:
    """Return the decision about this row, None if there is none or if it was about other texts."""
    decision = decisions.get(row["id"])
    same = decision is not None and decision.born == task_digest(row["instruction"], row["input"])
    return decision if same else None


def _decided(row: Mapping[str, Any], decision: Decision) -> dict[str, Any]:
    """Return the columns `DECIDED` of a row."""
    columns = {name: row.get(name) for name in DECIDED} | {"review_reason": decision.reason}
    if decision.verdict == "reject":
        return {**columns, "review": "rejected"}
    columns |= {"review": "accepted", "category": decision.category}
    if decision.category != row["category"]:
        columns["category_source"] = "reviewer"
    is_another_task = (decision.instruction, decision.input) != (row["instruction"], row["input"])
    if is_another_task or not row["response"].strip():
        columns |= {"review": "edited", "instruction": decision.instruction, "input": decision.input}
        # The constraints of a changed task are not known.
        kept = [] if is_another_task else _kept(row, decision.response)
        columns |= {"response": decision.response, "constraints": kept}
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


def _settled(row: Mapping[str, Any], decision: Decision) -> dict[str, Any]:
    original = row["response"] if row["original_response"] is None else row["original_response"]
    kinds = {one["text"]: one["kind"] for one in row["rewrites"] or ()} | {original: "reference"}
    source = kinds.get(decision.response, "reviewer")
    return {
        "response": decision.response,
        "original_response": None if source == "reference" else original,
        "response_source": source,
        "response_reason": "reviewed",
        "constraints": _kept(row, decision.response),
        "review": "edited" if source == "reviewer" else row["review"],
    }
