"""The faults of a set: of each its count, its share, what it means, and rows with their places, the worst first."""

import random
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import polars as pl

from kiloset.audit.figures import tally
from kiloset.audit.licenses import NOT_STATED, Conflict
from kiloset.audit.meanings import GRADES, MEANINGS, Meaning
from kiloset.core.form import opening

SHOWN = 8
"""Rows of a fault shown at most, drawn at random, the same ones each time."""
HALF, EVEN = 0.5, 1.5
"""A category dominates with more than this share of the rows that have one, and more than so many times an even share."""
OPENING_SHARE, OPENING_ROWS, OPENING_WORDS = 0.1, 20, 6
"""Share and number of answers from which an opening is too common, and words of an answer whose opening counts."""

Finding = tuple[str, str, str, str | None]
"""A fault's name, the row, the evidence, and the row that it repeats, if it does."""


@dataclass(frozen=True, slots=True)
class Shown:
    """A row as it is shown."""

    place: str
    user: str
    response: str


@dataclass(frozen=True, slots=True)
class Example:
    """A row that has a fault, or a line that cannot be read."""

    evidence: str
    row: Shown
    twin: Shown | None = None


@dataclass(frozen=True, slots=True)
class Fault:
    """What is wrong, and where."""

    name: str
    rows: int
    """Rows that have it; of `broken_line`, lines."""
    of: int
    """Rows, or lines, of the set."""
    ids: frozenset[str]
    """These rows; of a fault of the whole set, none."""
    examples: tuple[Example, ...]
    details: tuple[str, ...] = ()

    @property
    def meaning(self) -> Meaning:
        """What it is."""
        return MEANINGS[self.name]

    @property
    def share(self) -> float:
        """Fraction of the rows in [0, 1]."""
        return self.rows / self.of


def faults_of(
    table: pl.DataFrame,
    findings: Iterable[Finding],
    broken: Sequence[tuple[str, str]],
    conflicts: Sequence[Conflict],
    notes: Mapping[str, Sequence[str]],
) -> list[Fault]:
    """Return the faults of a set, by grade and then by rows.

    Args:
        table: Rows: `id`, `place`, `user`, `response`, `category`, `license`, as they may be shown.
        findings: What was found in single rows; a row counts once for each fault.
        broken: Place and reason of each line that could not be read.
        conflicts: What its licences ask (`kiloset.audit.licenses.conflicts`).
        notes: Sentences to be told of a fault, by its name.
    """
    by_fault: dict[str, dict[str, tuple[str, str | None]]] = {}
    for name, id, evidence, twin in findings:
        by_fault.setdefault(name, {}).setdefault(id, (evidence, twin))
    rows = {row["id"]: Shown(row["place"], row["user"], row["response"]) for row in table.iter_rows(named=True)}
    found = [
        Fault(name, len(ids), table.height, frozenset(ids), _examples(name, ids, rows), tuple(notes.get(name, ())))
        for name, ids in by_fault.items()
    ]
    if broken:
        lines = table["place"].n_unique() + len(broken)
        shown = tuple(Example(reason, Shown(place, "", "")) for place, reason in broken[:SHOWN])
        found.append(Fault("broken_line", len(broken), lines, frozenset(), shown))
    found += [*_category(table, rows), *_opening(table, rows), *_licences(table, conflicts, rows)]
    grades = list(GRADES)
    return sorted(found, key=lambda fault: (grades.index(fault.meaning.grade), -fault.rows, fault.name))


def _examples(
    name: str, ids: Mapping[str, tuple[str, str | None]], rows: Mapping[str, Shown], most: int = SHOWN
) -> tuple[Example, ...]:
    order = sorted(ids)
    chosen = sorted(random.Random(name).sample(order, min(most, len(order))))
    said = [(id, *ids[id]) for id in chosen]
    return tuple(Example(evidence, rows[id], rows[twin] if twin else None) for id, evidence, twin in said)


def _whole(name: str, part: pl.DataFrame, of: int, rows: Mapping[str, Shown], details: Sequence[str]) -> Fault:
    """Return a fault of the set rather than of its rows, with some rows that show it."""
    shown = _examples(name, dict.fromkeys(part["id"], ("", None)), rows, 3)
    return Fault(name, part.height, of, frozenset(), shown, tuple(details))


def _category(table: pl.DataFrame, rows: Mapping[str, Shown]) -> list[Fault]:
    known = table.filter(pl.col("category") != "")
    counts = tally(known["category"])
    if len(counts) < 2:
        return []
    name, most = next(iter(counts.items()))
    if most <= known.height * max(HALF, EVEN / len(counts)):
        return []
    others = f"“{name}” has {most} of the {known.height} rows with a category; there are {len(counts)} categories"
    return [_whole("category_dominates", known.filter(pl.col("category") == name), known.height, rows, [others])]


def _opening(table: pl.DataFrame, rows: Mapping[str, Shown]) -> list[Fault]:
    long = table.filter(pl.col("response").str.count_matches(r"\S+") >= OPENING_WORDS)
    firsts = [opening(text) for text in long["response"]]
    counts = Counter(filter(None, firsts))
    common = {first for first, times in counts.items() if times >= OPENING_ROWS and times > OPENING_SHARE * long.height}
    part = long.filter(pl.Series([first in common for first in firsts], dtype=pl.Boolean))
    said = [f"“{first} …”: {counts[first]} rows" for first in sorted(common, key=lambda first: -counts[first])]
    return [_whole("opening_common", part, long.height, rows, said)] if common else []


def _licences(table: pl.DataFrame, conflicts: Sequence[Conflict], rows: Mapping[str, Shown]) -> list[Fault]:
    """Return what rows under several licences ask of each other; what a single one asks of the whole set is no fault of it."""
    counts = tally(table["license"])
    stated = {name: number for name, number in counts.items() if name.strip().casefold() not in NOT_STATED}
    found = []
    asked = [conflict for conflict in conflicts if {*conflict.licences} & stated.keys()]
    if len(stated) > 1 and asked:
        named = {name for conflict in asked for name in conflict.licences}
        details = [f"{name}: {number} rows" for name, number in stated.items()]
        details += [f"{', '.join(conflict.licences)}: {conflict.why}" for conflict in asked]
        part = table.filter(pl.col("license").is_in(sorted(named)))
        found.append(_whole("licences", part, table.height, rows, details))
    if stated and len(stated) < len(counts):
        part = table.filter(~pl.col("license").is_in(list(stated)))
        found.append(_whole("license_missing", part, table.height, rows, []))
    return found
