"""What the fidelity gate decided in a run: acceptance by check, and rewrites beside their references, nearest to a limit first."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import polars as pl
from rich import box
from rich.console import Console
from rich.table import Table

from kiloset.audit.figures import tally
from kiloset.audit.rewriting import references, rewritten
from kiloset.audit.safe_text import cell, literal, print_heading, print_lines, print_table, share_of
from kiloset.core.table import full_instruction
from kiloset.core.text import words

BEST = {
    **dict.fromkeys(
        ("numbers", "names", "quotes", "identifiers", "series", "meaning", "sentences", "new_sentences"), 1.0
    ),
    **dict.fromkeys(("new_numbers", "new_names", "units", "links", "constraints", "repetition", "personal"), 0.0),
    **dict.fromkeys(("clauses", "new_clauses"), 0.0),
}
"""The best value of each measuring check: a share has a lower limit, a count an upper one. The best `length` is that of the
reference, and it has two limits; `list` and `short_reference` have a best value equal to their limit."""
OTHERS = 2
"""Limits named of an example besides the one it is shown for."""
CHARACTERS, LINES = 900, 20
"""Longest text shown of an answer."""


@dataclass(frozen=True, slots=True)
class Kind:
    """Candidates of one kind."""

    kind: str
    offered: int
    accepted: int
    """Candidates that passed the gate and were short enough for the base model."""
    chosen: int


@dataclass(frozen=True, slots=True)
class Check:
    """Verdicts of one check; None in runs that recorded only the first failed check of each candidate."""

    check: str
    applied: int | None
    """Candidates that the check applies to."""
    passed: int | None
    first: int
    """Candidates for which it is the first failed check, named as the reason."""
    only: int | None
    """Candidates that failed it and no other check."""

    @property
    def failed(self) -> int | None:
        """Candidates that failed it."""
        return None if self.applied is None or self.passed is None else self.applied - self.passed


@dataclass(frozen=True, slots=True)
class Acceptance:
    """The verdicts on the candidates of all rows that entered rewriting."""

    rows: int
    kinds: list[Kind]
    checks: list[Check]
    """The checks that rejected most come first."""
    recorded: bool
    """Whether all verdicts of a candidate are recorded, not just the first failed one."""


@dataclass(frozen=True, slots=True)
class Margin:
    """How near a measured value is to its limit."""

    check: str
    """A check of the gate, or `gain`, whose limit is `min_gain`."""
    measured: float
    limit: float
    room: float
    """The distance from the limit over that of the best value: 0 is on the limit, 1 is the best value."""

    def __str__(self) -> str:
        """Return the value and its limit."""
        return f"{self.check} {self.measured:.4g}, limit {self.limit:.4g}"


@dataclass(frozen=True, slots=True)
class RewriteExample:
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
    """Words of the rewrite over words of the reference; None if the reference has no word."""
    nearest: Margin | None
    """The limit that it is shown for; None for a rewrite that is not near one."""
    others: tuple[Margin, ...]
    """Its other limits, the nearest first."""


@dataclass(frozen=True, slots=True)
class Examples:
    """Some rewrites of the set."""

    rewritten: int
    """Rows that were rewritten."""
    chosen: tuple[RewriteExample, ...]
    recorded: bool
    """Whether the gate's verdicts are recorded; without them, only the limits of length and gain are known."""


def acceptance(offered: pl.DataFrame | None, rows: int) -> Acceptance | None:
    """Count the candidates (`kiloset.audit.rewriting.candidates`) of so many rows; None if they are not recorded."""
    if offered is None:
        return None
    kinds = []
    for kind, count in sorted(tally(offered["kind"]).items(), key=lambda pair: pair[0], reverse=True):
        status = tally(offered.filter(pl.col("kind") == kind)["status"])
        kinds.append(Kind(kind, count, status.get("passed", 0) + status.get("chosen", 0), status.get("chosen", 0)))
    first = tally(offered.filter(pl.col("status") == "rejected")["check"])
    recorded = isinstance(offered.schema["verdicts"], pl.List) and offered["verdicts"].null_count() < offered.height
    counts = _verdict_counts(offered) if recorded else {}
    checks = []
    for name in {*first, *counts}:
        applied, passed, only = counts.get(name, (None, None, None))
        checks.append(Check(name, applied, passed, first.get(name, 0), only))
    checks.sort(key=lambda one: (-(one.failed if one.failed is not None else one.first), one.check))
    return Acceptance(rows, kinds, checks, recorded)


def examples(table: pl.DataFrame, gate: Mapping[str, Any], min_gain: float | None, most: int) -> Examples | None:
    """Return the rewrites nearest to each limit: the nearest of every check, then the second of every check, and so on.

    Args:
        table: The set's rows; without a column `response_source` the result is None.
        gate: The run's `[gate]` settings, of which the length limits are used if they are recorded.
        min_gain: The run's `[rewrite] min_gain`.
        most: Number of examples.
    """
    if "response_source" not in table.columns:
        return None
    rows = rewritten(table)
    recorded = False
    by_id: dict[str, tuple[RewriteExample, dict[str, Margin]]] = {}
    for row, reference, turn in zip(rows.iter_rows(named=True), references(rows), full_instruction(rows), strict=True):
        before, after = len(words(reference)), len(words(row["response"]))
        verdicts = chosen_verdicts(row.get("rewrites"))
        recorded = recorded or bool(verdicts)
        margins = {m.check: m for m in margins_of(verdicts, before, after, gate, row.get("fit_gain"), min_gain)}
        example = RewriteExample(
            row["id"], row["category"], row["response_source"], turn, reference, row["response"],
            row.get("fit_gain"), after / before if before else None, None, (),
        )  # fmt: skip
        by_id[row["id"]] = (example, margins)
    order = nearest_first({id: {m.check: m.room for m in margins.values()} for id, (_, margins) in by_id.items()}, most)
    return Examples(len(by_id), tuple(_with_margins(*by_id[id], check) for id, check in order.items()), recorded)


def chosen_verdicts(offered: Sequence[Mapping[str, Any]] | None) -> list[Mapping[str, Any]]:
    """Return the passed verdicts of the candidate that was chosen; [] if there is none or they are not recorded."""
    chosen: Mapping[str, Any] = next((one for one in offered or [] if one["status"] == "chosen"), {})
    return [verdict for verdict in chosen.get("verdicts") or [] if verdict["status"] == "passed"]


def margins_of(
    verdicts: Sequence[Mapping[str, Any]], before: int, after: int, gate: Mapping[str, Any],
    gain: float | None, min_gain: float | None,
) -> list[Margin]:  # fmt: skip
    """Return how near a rewrite is to its limits: of the verdicts, of its length (in words) and of its gain."""
    margins = [*map(margin_of, verdicts), length_margin(before, after, gate), gain_margin(gain, min_gain)]
    return [margin for margin in margins if margin is not None]


def margin_of(verdict: Mapping[str, Any]) -> Margin | None:
    """Return how near a verdict's value is to its limit; None without a value, or if the limit is the best value."""
    check, measured, limit = (verdict.get(name) for name in ("check", "measured", "limit"))
    if check not in BEST or measured is None or limit is None or limit == BEST[check]:
        return None
    return _margin(check, measured, limit, BEST[check])


def length_margin(before: int, after: int, gate: Mapping[str, Any]) -> Margin | None:
    """Return how near a rewrite of `after` words is to the length limit on its side, given a reference of `before` words.

    None without a limit on that side: the slack leaves none below a short reference.
    """
    name = "shortest_ratio" if after < before else "longest_ratio"
    ratio, slack = gate.get(name), gate.get("length_slack_words")
    if not before or not isinstance(ratio, (int, float)) or not isinstance(slack, int):
        return None
    limit = ratio * before + (slack if after >= before else -slack)
    return None if limit <= 0 or limit == before else _margin("length", after, limit, before)


def gain_margin(gain: float | None, least: float | None) -> Margin | None:
    """Return how near a gain is to the least accepted gain; the best gain has no bound, so `room` is `1 - least / gain`."""
    if gain is None or not least or gain < least:
        return None
    return Margin("gain", gain, least, 1 - least / gain)


def nearest_first(rooms: Mapping[str, Mapping[str, float]], most: int) -> dict[str, str | None]:
    """Return at most so many ids, each with the check it is taken for, given each id's room by check.

    In turn, every check gives the id nearest to its limit that is not taken yet; the nearest of these comes first, ties go by
    name and id. An id whose room is 1 by every check comes last, for no check.
    """
    queues: dict[str, list[str]] = {}
    for room, id, check in sorted((room, id, check) for id, by in rooms.items() for check, room in by.items()):
        if room < 1:
            queues.setdefault(check, []).append(id)
    taken: dict[str, str | None] = {}
    while queues and len(taken) < most:
        for _, check in sorted((rooms[ids[0]][check], check) for check, ids in queues.items()):
            if free := next((id for id in queues[check] if id not in taken), None):
                taken[free] = check
        queues = {check: rest for check, ids in queues.items() if (rest := [id for id in ids if id not in taken])}
    taken |= dict.fromkeys((id for id in sorted(rooms) if id not in taken), None)
    return dict(list(taken.items())[:most])


def print_acceptance(result: Acceptance | None, console: Console) -> None:
    """Print acceptance by kind of candidate and by check."""
    if result is None or not result.kinds:
        print_table(console, "Gate: candidates", ("kind",), [], "not recorded" if result is None else "no candidates")
        return
    offered = sum(kind.offered for kind in result.kinds)
    every = Kind("all", offered, sum(k.accepted for k in result.kinds), sum(k.chosen for k in result.kinds))
    rows = [
        (k.kind, k.offered, k.accepted, share_of(k.accepted, k.offered), k.chosen, share_of(k.chosen, k.offered))
        for k in (*result.kinds, every)
    ]
    title = f"Gate: {offered} candidates for the {result.rows} rows that entered rewriting"
    print_table(console, title, ("kind", "offered", "accepted", "share", "chosen", "share"), rows)
    _print_checks(result, console)


def print_examples(result: Examples | None, console: Console) -> None:
    """Print the examples, reference and rewrite side by side."""
    if result is None or not result.rewritten:
        return
    print_heading(console, f"Rewrites, the nearest to each limit first: {len(result.chosen)} of {result.rewritten}")
    for number, example in enumerate(result.chosen, start=1):
        _print_example(number, example, console)
    if not result.recorded:
        print_lines(console, "verdicts are not recorded: only the limits of length and gain are known")
    if len(result.chosen) < result.rewritten:
        print_lines(console, "--examples 20 prints twenty")


def cut(text: str) -> str:
    """Return a text with its line breaks, without empty lines, cut to `CHARACTERS` and `LINES`."""
    lines = [line.rstrip() for line in text.splitlines() if line.strip()]
    short = "\n".join(lines[:LINES])[:CHARACTERS]
    return short if short == "\n".join(lines) else f"{short}…"


def _print_checks(result: Acceptance, console: Console) -> None:
    title = "Gate: acceptance by check"
    if not result.recorded:
        rows = [(check.check, check.first) for check in result.checks]
        print_table(console, title, ("check", "first to reject"), rows, "no candidate was rejected")
        print_lines(console, "this run recorded no other verdicts, so acceptance by check is not known")
        return
    full = [
        (
            check.check, *("" if n is None else n for n in (check.applied, check.passed, check.failed)),
            share_of(check.passed or 0, check.applied or 0), check.first, "" if check.only is None else check.only,
        )
        for check in result.checks
    ]  # fmt: skip
    print_table(console, title, ("check", "applied", "passed", "failed", "acceptance", "first", "only"), full)
    print_lines(console, "first: the candidate failed this check first; only: it failed no other check")


def _print_example(number: int, example: RewriteExample, console: Console) -> None:
    gain = "" if example.gain is None else f", gain {example.gain:+.3f} nats per token"
    ratio = "" if example.ratio is None else f", {example.ratio:.2f} times as long"
    print_lines(console, f"\n{number}. {example.id}, {example.category}, {example.source}{gain}{ratio}")
    if example.nearest:
        print_lines(console, f"nearest limit: {_with_room(example.nearest)}")
    if example.others:
        print_lines(console, f"other limits: {'; '.join(map(_with_room, example.others[:OTHERS]))}")
    console.print(literal("instruction: ") + cell(example.instruction))
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, expand=True)
    for name in ("reference", "rewrite"):
        table.add_column(name, ratio=1, overflow="fold")
    table.add_row(literal(cut(example.reference)), literal(cut(example.rewrite)))
    console.print(table)


def _with_room(margin: Margin) -> str:
    return f"{margin}, {100 * margin.room:.0f} % of the way from it to the best value"


def _margin(check: str, measured: float, limit: float, best: float) -> Margin | None:
    """Return a margin; None for a value beyond the limit, which did not pass."""
    room = (measured - limit) / (best - limit)
    return Margin(check, measured, limit, min(room, 1.0)) if room >= 0 else None


def _with_margins(example: RewriteExample, margins: Mapping[str, Margin], check: str | None) -> RewriteExample:
    others = sorted((m for m in margins.values() if m.check != check and m.room < 1), key=lambda m: (m.room, m.check))
    return replace(example, nearest=margins[check] if check else None, others=tuple(others))


def _verdict_counts(offered: pl.DataFrame) -> dict[str, tuple[int, int, int]]:
    """Return, by check, how many candidates it applies to, how many passed it, and how many failed only it."""
    flat = offered.select("verdicts").with_row_index("candidate").explode("verdicts")
    flat = flat.filter(pl.col("verdicts").is_not_null()).unnest("verdicts")
    failed = pl.col("status") == "failed"
    single = failed & (failed.sum().over("candidate") == 1)
    counts = flat.with_columns(only=single).group_by("check").agg(
        pl.len(), (~failed).sum().alias("passed"), pl.col("only").sum()
    )  # fmt: skip
    return {check: (applied, passed, only) for check, applied, passed, only in counts.iter_rows()}
