"""What a reviewer is shown of one row: its texts, where it comes from, what it keeps, how it was rewritten, what it is like."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import polars as pl

from kiloset.audit.safe_text import mark_differences
from kiloset.core.constraints import failing
from kiloset.core.errors import DataError
from kiloset.core.review import TEXTS, Decision
from kiloset.core.table import VERDICT
from kiloset.review.filter import SCORES
from kiloset.review.rows import Rows

Parts = list[tuple[str, str]]
"""A text in pieces, each `same`, `del` or `ins`."""
RELATIVES = 8
"""Other rows shown of each kind."""
FACTS = (
    "source", "strategy", "operator", "writer", "license", "category_source", "response_source", "response_reason", "times_shown",
)  # fmt: skip
APART = {
    "other_slots": "numbers, names or symbols differ", "long": "too long to be compared as a whole",
    "other_words": "most words of meaning differ", "other_sense": "a negation, a direction, a number or a question word differs",
    "other_order": "the words stand in another order", "same_frame": "the same frame about another thing",
    "below_threshold": "below the limit, and no word tells them apart", "protected": "above the limit, but protected",
}  # fmt: skip
"""What tells a pair of borderline.parquet apart, by its slug."""
WHOSE = {
    "off": "rewriting was off", "short_reference": "so short that nothing may be rewritten",
    "nothing_passed": "the original: no rewrite passed the checks", "gain_too_small": "the original: no rewrite gains enough",
    "opening_cap": "the original: the rewrites begin as too many answers do",
    "keep_originals": "the original: a rewrite gains enough, but a share of originals is kept",
    "best_fit": "rewritten: the base model finds this answer the most natural",
    "reviewed": "as an earlier review decided",
}  # fmt: skip
"""Whose answer a row has, by `response_reason`."""


@dataclass(frozen=True, slots=True)
class Relative:
    """Another row that has to do with this one."""

    id: str
    how: str
    text: str
    """Its instruction and input; "" where the run folder does not hold it."""


@dataclass(frozen=True, slots=True)
class Checked:
    """A constraint, and whether an answer keeps it."""

    said: str
    keeps: bool
    fault: str = ""
    """Why it cannot be checked."""


@dataclass(frozen=True, slots=True)
class Rewritten:
    """How an answer was rewritten, and what else was on offer."""

    why: str
    before: Parts
    after: Parts
    """Both empty where the answer is as it was born."""
    candidates: list[dict[str, Any]]
    """Each with `kind`, `text`, and `why` it is not the answer."""


@dataclass(frozen=True, slots=True)
class Shown:
    """A row as it is shown."""

    id: str
    fate: str
    state: str
    decision: Decision | None
    version: int
    texts: dict[str, str]
    """As they are to be in the set, decisions included."""
    changes: list[tuple[str, Parts, Parts]]
    """What the reviewer changed: the column, as it was, as it is."""
    facts: list[tuple[str, Any]]
    scores: list[tuple[str, float, str]]
    parents: list[Relative]
    relatives: list[Relative]
    constraints: list[Checked]
    rewritten: Rewritten | None
    verdict: dict[str, Any] | None
    """Why a dropped row was dropped."""
    personal: list[dict[str, Any]]
    near: str
    """Why it stands where it does in the order "borderline first"."""


def show_row(rows: Rows, id: str, decision: Decision | None, version: int) -> Shown:
    """Gather what is shown of a row that is there, under the decision that stands of it."""
    row = rows.row(id)
    texts = {name: row[name] or "" for name in TEXTS}
    accepted = {name: getattr(decision, name) for name in TEXTS} if decision and decision.verdict == "accept" else texts
    changed = [name for name in TEXTS if accepted[name] != texts[name]]
    state = "undecided" if decision is None else "rejected" if decision.verdict == "reject" else "accepted"
    facts = [(name, row.get(name)) for name in FACTS] + [("split", rows.splits.get(id)), ("depth", row["depth"])]
    facts.append(("edits of the answer", ", ".join(row["edits"] or ())))
    near = rows.near.get(id)
    return Shown(
        id=id, fate=row["fate"], state="edited" if changed else state, decision=decision, version=version,
        texts=accepted, changes=[(name, *mark_differences(texts[name], accepted[name])) for name in changed],
        facts=[(name, value) for name, value in facts if value not in (None, "")],
        scores=[
            (name, float(row[name]), meaning)
            for name, meaning in SCORES.items()
            if name != "measured" and row.get(name) is not None
        ],
        parents=[_relative(rows, parent, "") for parent in row["parents"] or ()], relatives=_relatives(rows, row),
        constraints=check_constraints(row["constraints"] or (), accepted["response"]), rewritten=_rewritten(row),
        verdict={name: row[name] for name in VERDICT} if row["fate"] == "dropped" else None,
        personal=_beside(rows, "personal", pl.col("id") == id), near=near.said if near else "",
    )  # fmt: skip


def check_constraints(constraints: Sequence[Mapping[str, str]], response: str) -> list[Checked]:
    """Tell of each constraint of a row whether a response keeps it."""
    found = []
    for one in constraints:
        try:
            found.append(Checked(_said(one), not failing([one], response)))
        except DataError as error:
            found.append(Checked(_said(one), keeps=False, fault=str(error)))
    return found


def _said(constraint: Mapping[str, str]) -> str:
    try:
        given = json.loads(constraint["args"] or "{}")
    except ValueError:
        given = None
    if not isinstance(given, dict):
        return f"{constraint['id']} {constraint['args']}"
    said = ", ".join(f"{name} = {json.dumps(value, ensure_ascii=False)}" for name, value in given.items())
    return f"{constraint['id']}: {said}" if said else constraint["id"]


def _rewritten(row: Mapping[str, Any]) -> Rewritten | None:
    others = [each for each in row.get("rewrites") or () if each["status"] != "chosen"]
    before = row["original_response"]
    if before is None and not others:
        return None
    reason = row.get("response_reason") or "not recorded"
    candidates = [{"kind": each["kind"], "text": each["text"] or "", "why": _why_not(each, reason)} for each in others]
    return Rewritten(
        WHOSE.get(reason, reason),
        *(([], []) if before is None else mark_differences(before, row["response"])),
        candidates,
    )


def _why_not(candidate: Mapping[str, Any], reason: str) -> str:
    if candidate["status"] == "passed":
        return "passed every check; " + (
            "another one is likelier" if reason == "best_fit" else WHOSE.get(reason, reason)
        )
    said = f"refused by {candidate['check']}"
    if candidate["evidence"]:
        said += f": {candidate['evidence']}"
    if candidate["measured"] is not None and candidate["limit"] is not None:
        said += f" ({candidate['measured']:.4g}, limit {candidate['limit']:.4g})"
    return said


def _relatives(rows: Rows, row: Mapping[str, Any]) -> list[Relative]:
    """Return the rows that this one lost to, won against or nearly says the same as; each once, by the first of these."""
    id = row["id"]
    found: dict[str, str] = {}
    if twin := row.get("twin"):
        found[twin] = f"dropped in favour of this: {row['reason']}, {_measured(row)}"
    mine = rows.table.filter(pl.col("twin").eq_missing(id)) if "twin" in rows.table.columns else rows.table.clear()
    for won in mine.head(RELATIVES).iter_rows(named=True):
        found.setdefault(won["id"], f"was dropped for this row: {won['reason']}, {_measured(won)}")
    either = (pl.col("id") == id) | (pl.col("other") == id)
    for pair in _beside(rows, "borderline", either):
        other = pair["other"] if pair["id"] == id else pair["id"]
        found.setdefault(other, f"cosine {pair['cosine']:.4g}; {APART.get(pair['why'], pair['why'])}")
    groups = [each["group"] for each in _beside(rows, "duplicates", pl.col("id") == id)]
    for member in _beside(rows, "duplicates", pl.col("group").is_in(groups) & (pl.col("id") != id)):
        how = (
            f"of the same group of duplicates: {member['reason']}" if member["reason"] else "stayed for the same group"
        )
        found.setdefault(member["id"], how)
    return [_relative(rows, other, how) for other, how in found.items()]


def _measured(row: Mapping[str, Any]) -> str:
    if row["measured"] is None:
        return str(row["evidence"])
    limit = "" if row["limit"] is None else f", limit {row['limit']:.4g}"
    return f"{row['measured']:.4g}{limit}"


def _relative(rows: Rows, id: str, how: str) -> Relative:
    if id not in rows.places:
        return Relative(id, how, "")
    instruction, given = rows.table.select("instruction", "input").row(rows.places[id])
    return Relative(id, how, f"{instruction}\n\n{given}" if given else instruction)


def _beside(rows: Rows, name: str, wanted: pl.Expr) -> list[dict[str, Any]]:
    return rows.beside[name].filter(wanted).head(RELATIVES).to_dicts() if name in rows.beside else []
