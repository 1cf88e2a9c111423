"""What the review page shows of one row: texts, origin, constraints, rewriting, and similar rows."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import polars as pl

from kiloset.audit.row_history import Relative, constraint_text
from kiloset.audit.safe_text import mark_differences
from kiloset.core.constraints import failing
from kiloset.core.errors import DataError
from kiloset.core.review import TEXTS, Decision
from kiloset.core.table import VERDICT, user_turn
from kiloset.review.filter import SCORES
from kiloset.review.rows import Rows

Parts = list[tuple[str, str]]
"""A text in pieces, each `same`, `del` or `ins`."""
RELATIVES = 8
"""Most other rows shown of each kind."""
FACTS = (
    "source", "strategy", "operator", "writer", "license", "category_source", "response_source", "response_reason", "times_shown",
)  # fmt: skip
APART = {
    "other_slots": "numbers, names or symbols differ", "long": "too long for a comparison",
    "other_words": "most content words differ", "other_sense": "a negation, a direction, a number or a question word differs",
    "other_order": "the order of the words differs", "same_frame": "one template with another topic",
    "below_threshold": "below the limit, and no word distinguishes them", "protected": "above the limit, but protected",
}  # fmt: skip
"""Why a pair of borderline.parquet was not dropped, by slug."""
WHOSE = {
    "off": "rewriting was off", "short_reference": "the original: too short to rewrite",
    "nothing_passed": "the original: no rewrite passed the checks", "gain_too_small": "the original: no rewrite gains enough",
    "opening_cap": "the original: the rewrites begin like too many other answers",
    "keep_originals": "the original: a rewrite gains enough, but a share of the originals is kept",
    "best_fit": "rewritten: the base model finds this answer the most natural",
    "reviewed": "decided by an earlier review",
}  # fmt: skip
"""Why a row has its answer, by `response_reason`."""


@dataclass(frozen=True, slots=True)
class ConstraintCheck:
    """A constraint, and whether an answer satisfies it."""

    text: str
    satisfied: bool
    error: str = ""
    """Why it cannot be checked."""


@dataclass(frozen=True, slots=True)
class RewriteView:
    """How an answer was rewritten, and the other candidates."""

    why: str
    before: Parts
    after: Parts
    """Both empty if the answer was not rewritten."""
    candidates: list[dict[str, Any]]
    """Each with `kind`, `text`, and `why` it was not chosen."""


@dataclass(frozen=True, slots=True)
class RowView:
    """A row as the page shows it."""

    id: str
    part: str
    state: str
    decision: Decision | None
    version: int
    texts: dict[str, str]
    """The texts for the set, decisions included."""
    changes: list[tuple[str, Parts, Parts]]
    """The reviewer's changes: the column, before, after."""
    facts: list[tuple[str, Any]]
    scores: list[tuple[str, float, str]]
    parents: list[Relative]
    relatives: list[Relative]
    constraints: list[ConstraintCheck]
    rewritten: RewriteView | None
    verdict: dict[str, Any] | None
    """Why a dropped row was dropped."""
    personal: list[dict[str, Any]]
    near: str
    """Why it has its place in the order "borderline first"."""


def view_row(rows: Rows, id: str, decision: Decision | None, version: int) -> RowView:
    """Return what the page shows of a row, given the current decision about it."""
    row = rows.row(id)
    texts = {name: row[name] or "" for name in TEXTS}
    accepted = {name: getattr(decision, name) for name in TEXTS} if decision and decision.verdict == "accept" else texts
    changed = [name for name in TEXTS if accepted[name] != texts[name]]
    state = "undecided" if decision is None else "rejected" if decision.verdict == "reject" else "accepted"
    facts = [(name, row.get(name)) for name in FACTS] + [("split", rows.splits.get(id)), ("depth", row["depth"])]
    facts.append(("edits of the answer", ", ".join(row["edits"] or ())))
    near = rows.near.get(id)
    return RowView(
        id=id, part=row["part"], state="edited" if changed else state, decision=decision, version=version,
        texts=accepted, changes=[(name, *mark_differences(texts[name], accepted[name])) for name in changed],
        facts=[(name, value) for name, value in facts if value not in (None, "")],
        scores=[
            (name, float(row[name]), meaning)
            for name, meaning in SCORES.items()
            if name != "measured" and row.get(name) is not None
        ],
        parents=[_relative(rows, parent, "") for parent in row["parents"] or ()], relatives=_relatives(rows, row),
        constraints=check_constraints(row["constraints"] or (), accepted["response"]), rewritten=_rewritten(row),
        verdict={name: row[name] for name in VERDICT} if row["part"] == "dropped" else None,
        personal=_rows_of(rows, "personal", pl.col("id") == id), near=near.text if near else "",
    )  # fmt: skip


def check_constraints(constraints: Sequence[Mapping[str, str]], response: str) -> list[ConstraintCheck]:
    """Return of each constraint of a row whether a response satisfies it."""
    checks = []
    for one in constraints:
        try:
            checks.append(ConstraintCheck(constraint_text(one), not failing([one], response)))
        except DataError as error:
            checks.append(ConstraintCheck(constraint_text(one), satisfied=False, error=str(error)))
    return checks


def _rewritten(row: Mapping[str, Any]) -> RewriteView | None:
    others = [each for each in row.get("rewrites") or () if each["status"] != "chosen"]
    before = row["original_response"]
    if before is None and not others:
        return None
    reason = row.get("response_reason") or "not recorded"
    candidates = [{"kind": each["kind"], "text": each["text"] or "", "why": _why_not(each, reason)} for each in others]
    return RewriteView(
        WHOSE.get(reason, reason),
        *(([], []) if before is None else mark_differences(before, row["response"])),
        candidates,
    )


def _why_not(candidate: Mapping[str, Any], reason: str) -> str:
    if candidate["status"] == "passed":
        return "passed every check; " + (
            "another candidate is more natural" if reason == "best_fit" else WHOSE.get(reason, reason)
        )
    why = f"rejected by {candidate['check']}"
    if candidate["evidence"]:
        why += f": {candidate['evidence']}"
    if candidate["measured"] is not None and candidate["limit"] is not None:
        why += f" ({candidate['measured']:.4g}, limit {candidate['limit']:.4g})"
    return why


def _relatives(rows: Rows, row: Mapping[str, Any]) -> list[Relative]:
    """Return the rows that this one was dropped for or preferred to, or is similar to; each once, by the first of these."""
    id = row["id"]
    relatives: dict[str, str] = {}
    if preferred := row.get("twin"):
        relatives[preferred] = f"this row was dropped in its favour: {row['reason']}, {_measured(row)}"
    mine = rows.table.filter(pl.col("twin").eq_missing(id)) if "twin" in rows.table.columns else rows.table.clear()
    for other in mine.head(RELATIVES).iter_rows(named=True):
        relatives.setdefault(other["id"], f"was dropped in favour of this row: {other['reason']}, {_measured(other)}")
    either = (pl.col("id") == id) | (pl.col("other") == id)
    for pair in _rows_of(rows, "borderline", either):
        name = pair["other"] if pair["id"] == id else pair["id"]
        relatives.setdefault(name, f"cosine {pair['cosine']:.4g}; {APART.get(pair['why'], pair['why'])}")
    groups = [each["group"] for each in _rows_of(rows, "duplicates", pl.col("id") == id)]
    for member in _rows_of(rows, "duplicates", pl.col("group").is_in(groups) & (pl.col("id") != id)):
        how = (
            f"in the same group of duplicates: {member['reason']}"
            if member["reason"]
            else "the kept row of this group of duplicates"
        )
        relatives.setdefault(member["id"], how)
    return [_relative(rows, name, how) for name, how in relatives.items()]


def _measured(row: Mapping[str, Any]) -> str:
    if row["measured"] is None:
        return str(row["evidence"])
    limit = "" if row["limit"] is None else f", limit {row['limit']:.4g}"
    return f"{row['measured']:.4g}{limit}"


def _relative(rows: Rows, id: str, how: str) -> Relative:
    if id not in rows.places:
        return Relative(id, "", how)
    instruction, input_ = rows.table.select("instruction", "input").row(rows.places[id])
    return Relative(id, user_turn(instruction, input_), how)


def _rows_of(rows: Rows, table: str, condition: pl.Expr) -> list[dict[str, Any]]:
    return rows.tables[table].filter(condition).head(RELATIVES).to_dicts() if table in rows.tables else []
