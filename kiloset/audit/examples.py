"""Rewrites of the set beside their references, those nearest to a limit first, for a reader to judge the limits by."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import polars as pl
from rich import box
from rich.console import Console
from rich.table import Table

from kiloset.audit.rewriting import references, rewritten
from kiloset.audit.terminal import cell, literal, print_heading
from kiloset.core.table import full_instruction
from kiloset.core.text import words

BEST = {
    **dict.fromkeys(
        ("numbers", "names", "quotes", "identifiers", "series", "labels", "meaning", "sentences", "new_sentences"), 1.0
    ),
    **dict.fromkeys(("new_numbers", "new_names", "units", "links", "constraints", "repetition", "personal"), 0.0),
    **dict.fromkeys(("negation", "opposites", "roles", "sides", "groups", "clauses", "new_clauses"), 0.0),
}
"""What each check of the gate that measures something measures at best: shares at least a limit, counts at most one.
`length` is at its best at the reference's own, and has two limits; `list` and `short_reference` leave no room."""
OTHERS = 2
"""Limits named of an example besides the one it is shown for."""
CHARACTERS, LINES = 900, 20
"""Longest text shown of an answer."""


@dataclass(frozen=True, slots=True)
class Margin:
    """How near a value is to the limit it was held against."""

    check: str
    """A check of the gate, or `gain`, which must be worth `min_gain`."""
    measured: float
    limit: float
    room: float
    """The part left of the way from the best value to the limit: 0 is on the limit, 1 is as good as can be."""


@dataclass(frozen=True, slots=True)
class Example:
    """A rewrite and its reference."""

    id: str
    category: str
    source: str
    instruction: str
    """With its input."""
    reference: str
    rewrite: str
    gain: float | None
    """In nats per token."""
    ratio: float | None
    """Words of the rewrite over words of the reference; None where that has none."""
    shown_for: Margin | None
    """The limit it is shown for; None for a rewrite that is nowhere near one."""
    others: tuple[Margin, ...]
    """Its other limits, the nearest first."""


@dataclass(frozen=True, slots=True)
class Examples:
    """Some rewrites of the set."""

    rewritten: int
    """Rows that were rewritten."""
    shown: tuple[Example, ...]
    recorded: bool
    """Whether the verdicts of the gate are recorded; without them, limits are those of length and gain alone."""


def examples(table: pl.DataFrame, gate: Mapping[str, Any], min_gain: float | None, most: int) -> Examples | None:
    """Return the rewrites nearest to each limit: of every check the nearest, then of every check the second, and so on.

    `gate` are the settings under which the run was made, of which only those of length are read; what is not recorded
    is left out. None before the rewriting stage, without a column `response_source`.
    """
    if "response_source" not in table.columns:
        return None
    rows = rewritten(table)
    verdicts = {} if rows.is_empty() else _verdicts(rows)
    kept = zip(rows.iter_rows(named=True), references(rows), full_instruction(rows), strict=True)
    found: dict[str, tuple[Example, dict[str, Margin]]] = {}
    for row, reference, turn in kept:
        before, after = len(words(reference)), len(words(row["response"]))
        near = {margin.check: margin for said in verdicts.get(row["id"], []) if (margin := margin_of(said))}
        near |= {
            m.check: m for m in (length_margin(before, after, gate), gain_margin(row.get("fit_gain"), min_gain)) if m
        }
        example = Example(
            row["id"], row["category"], row["response_source"], turn, reference, row["response"],
            row.get("fit_gain"), after / before if before else None, None, (),
        )  # fmt: skip
        found[row["id"]] = (example, near)
    order = nearest_first({id: {m.check: m.room for m in near.values()} for id, (_, near) in found.items()}, most)
    shown = tuple(_with_margins(*found[id], check) for id, check in order.items())
    return Examples(len(found), shown, any(verdicts.values()))


def margin_of(verdict: Mapping[str, Any]) -> Margin | None:
    """Return how near a verdict's value is to its limit; None where it has none, or nothing lies between it and the best."""
    check, measured, limit = (verdict.get(name) for name in ("check", "measured", "limit"))
    if check not in BEST or measured is None or limit is None or limit == BEST[check]:
        return None
    return _margin(check, measured, limit, BEST[check])


def length_margin(before: int, after: int, gate: Mapping[str, Any]) -> Margin | None:
    """Return how near a rewrite of `after` words is to the limit on its side, of a reference of `before` words.

    None where there is no limit on that side, as the slack leaves none below a short reference.
    """
    name = "shortest_ratio" if after < before else "longest_ratio"
    ratio, slack = gate.get(name), gate.get("length_slack_words")
    if not before or not isinstance(ratio, (int, float)) or not isinstance(slack, int):
        return None
    limit = ratio * before + (slack if after >= before else -slack)
    return None if limit <= 0 or limit == before else _margin("length", after, limit, before)


def gain_margin(gain: float | None, least: float | None) -> Margin | None:
    """Return how near a gain is to the least that counts; its best is without bound, so that the room is `1 - least / gain`."""
    if gain is None or not least or gain < least:
        return None
    return Margin("gain", gain, least, 1 - least / gain)


def nearest_first(rooms: Mapping[str, Mapping[str, float]], most: int) -> dict[str, str | None]:
    """Return at most so many ids, each with the check it is taken for, given each one's room by check.

    In turn, every check gives the id nearest to its limit that is not taken yet, the nearest of these first; equals go by
    name and id. An id with all room left (1) by every check comes last, for none.
    """
    queues: dict[str, list[str]] = {}
    for room, id, check in sorted((room, id, check) for id, by in rooms.items() for check, room in by.items()):
        if room < 1:
            queues.setdefault(check, []).append(id)
    taken: dict[str, str | None] = {}
    while queues:
        heads = sorted((rooms[ids[0]][check], check) for check, ids in queues.items())
        for _, check in heads:
            if free := next((id for id in queues[check] if id not in taken), None):
                taken[free] = check
        queues = {check: left for check, ids in queues.items() if (left := [id for id in ids if id not in taken])}
        if len(taken) >= most:
            break
    taken |= dict.fromkeys((id for id in sorted(rooms) if id not in taken), None)
    return dict(list(taken.items())[:most])


def show_examples(found: Examples | None, console: Console) -> None:
    """Print the examples, reference and rewrite side by side."""
    if found is None or not found.rewritten:
        return
    print_heading(console, f"Rewrites, the nearest to each limit first: {len(found.shown)} of {found.rewritten}")
    for number, example in enumerate(found.shown, start=1):
        _show(number, example, console)
    if not found.recorded:
        console.print(literal("verdicts are not recorded: only the limits of length and gain are known"))
    if len(found.shown) < found.rewritten:
        console.print(literal("--examples 20 (make audit EXAMPLES=20) shows twenty"))


def _show(number: int, example: Example, console: Console) -> None:
    gain = "" if example.gain is None else f", gain {example.gain:+.3f} nats per token"
    ratio = "" if example.ratio is None else f", {example.ratio:.2f} times as long"
    console.print(literal(f"\n{number}. {example.id}, {example.category}, {example.source}{gain}{ratio}"))
    if example.shown_for:
        console.print(literal(f"shown for {_said(example.shown_for)}"))
    if example.others:
        console.print(literal(f"other limits: {'; '.join(map(_said, example.others[:OTHERS]))}"))
    console.print(literal("instruction: ") + cell(example.instruction))
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, expand=True)
    for name in ("reference", "rewrite"):
        table.add_column(name, ratio=1, overflow="fold")
    table.add_row(literal(cut(example.reference)), literal(cut(example.rewrite)))
    console.print(table)


def _said(margin: Margin) -> str:
    return f"{margin.check} {margin.measured:.4g}, limit {margin.limit:.4g}, {100 * margin.room:.0f} % of the room left"


def cut(text: str) -> str:
    """Return a text with its line breaks, cut to `CHARACTERS` and `LINES` without empty ones."""
    lines = [line.rstrip() for line in text.splitlines() if line.strip()]
    short = "\n".join(lines[:LINES])[:CHARACTERS]
    return short if short == "\n".join(lines) else f"{short}…"


def _margin(check: str, measured: float, limit: float, best: float) -> Margin | None:
    """Return a margin; None for a value beyond the limit, which did not pass."""
    room = (measured - limit) / (best - limit)
    return Margin(check, measured, limit, min(room, 1.0)) if room >= 0 else None


def _with_margins(example: Example, near: Mapping[str, Margin], check: str | None) -> Example:
    others = sorted((m for m in near.values() if m.check != check and m.room < 1), key=lambda m: (m.room, m.check))
    return replace(example, shown_for=near[check] if check else None, others=tuple(others))


def _verdicts(rows: pl.DataFrame) -> dict[str, Sequence[Mapping[str, Any]]]:
    """Return, by id, the verdicts of the candidate that was chosen."""
    if not isinstance(rows.schema.get("rewrites"), pl.List):
        return {}
    found: dict[str, Sequence[Mapping[str, Any]]] = {}
    for id, offered in rows.select("id", "rewrites").iter_rows():
        chosen: Mapping[str, Any] = next((offer for offer in offered or [] if offer["status"] == "chosen"), {})
        found[id] = [said for said in chosen.get("verdicts") or [] if said["status"] == "passed"]
    return found
