"""Two sets side by side: what each is made of, what is wrong with each, and what they have in common."""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import polars as pl
from rich.console import Console

from kiloset.audit.faults import Example, Shown
from kiloset.audit.figures import js_distance
from kiloset.audit.meanings import MEANINGS
from kiloset.audit.repeats import is_one_task
from kiloset.audit.sets import SetAudit, distinct_trigrams
from kiloset.audit.terminal import literal, print_heading, print_table
from kiloset.core.form import opening
from kiloset.core.text import normal_form, words

EXAMPLES = 8
"""Rows shown of those that both sets have."""
NAMED = 30
"""Names of categories, licences and openings told of each set."""
MOST_WORDS = 100_000
"""Words of answers of which trigrams are counted in each set; fewer where the smaller set has no more."""
KINDS = {
    "whole": "instruction, input and answer",
    "task": "instruction and input, another answer",
    "near": "almost the same instruction and input",
}
"""How a row can be in the other set too."""

Twin = tuple[str, str, str]
"""A row, its like in the other set, and whether that is an `exact_duplicate` or a `near_duplicate`."""


@dataclass(frozen=True, slots=True)
class Common:
    """Rows of one set that are in the other one too."""

    rows: int
    kinds: dict[str, int]
    """Rows by `KINDS`; their sum is `rows`."""
    examples: tuple[Example, ...]


@dataclass(frozen=True, slots=True)
class Comparison:
    """Both sets, A and B, and what lies between them."""

    sides: dict[str, SetAudit]
    common: dict[str, Common]
    """Of each side, its rows that the other one has too."""
    js_distance: float | None
    """Jensen-Shannon distance of their categories, in [0, 1]; None where one records none."""
    trigrams: dict[str, float]
    """Distinct trigrams over all, of as many words of answers of each."""
    words_read: int
    vendi: dict[str, float]
    """Rows in effect (Vendi score) of as many rows of each; {} where nothing was embedded."""
    vendi_rows: int

    def per_hundred(self) -> dict[str, dict[str, float]]:
        """Return, by fault, rows that have it per 100 rows of each side; the commonest first."""
        shares = {
            name: {side: 100 * found.count(name) / found.rows for side, found in self.sides.items()}
            for name in MEANINGS
            if any(found.count(name) for found in self.sides.values()) and name != "broken_line"
        }
        return dict(sorted(shares.items(), key=lambda pair: (-max(pair[1].values()), pair[0])))


def comparison(
    sides: dict[str, SetAudit], twins: Mapping[str, Sequence[Twin]], vendi: dict[str, float], vendi_rows: int
) -> Comparison:
    """Compare two sets.

    Args:
        sides: A and B.
        twins: Of each side, its rows that have their like in the other.
        vendi: See `Comparison`, as for `vendi_rows`.
        vendi_rows: How many rows of each.
    """
    answers = {side: found.table["response"].to_list() for side, found in sides.items()}
    read = min(MOST_WORDS, *(sum(len(words(text)) for text in of) for of in answers.values()))
    one, other = sides.values()
    return Comparison(
        sides=sides,
        common={
            "A": _common(one.table, other.table, twins["A"]),
            "B": _common(other.table, one.table, twins["B"]),
        },
        js_distance=js_distance(one.categories, other.categories),
        trigrams={side: distinct_trigrams(of, read) for side, of in answers.items()},
        words_read=read,
        vendi=vendi,
        vendi_rows=vendi_rows,
    )


def show_comparison(found: Comparison, examples: int, console: Console) -> None:
    """Print both sides beside each other, and so many rows that are in both."""
    one, other = found.sides["A"], found.sides["B"]
    print_heading(console, f"A: {one.source.name}   B: {other.source.name}")
    print_table(console, "Figures", ("figure", "A", "B"), figures_of(found))
    faults = [
        (MEANINGS[name].title, *(f"{rows:.2f}" for rows in sides.values()))
        for name, sides in found.per_hundred().items()
    ]
    print_table(console, "Rows with a fault, per 100 rows", ("fault", "A", "B"), faults, "none found in either")
    shares = [(name, *(f"{share:.1f} %" for share in sides)) for name, sides in shares_of(found, "categories").items()]
    print_table(console, "Categories", ("category", "A", "B"), shares, "no categories recorded")
    distance = "not to be told, one side records none" if found.js_distance is None else f"{found.js_distance:.3f}"
    console.print(literal(f"Jensen-Shannon distance of the categories: {distance} (0 the same, 1 nothing in common)"))
    licences = [(name, *(f"{share:.1f} %" for share in sides)) for name, sides in shares_of(found, "licences").items()]
    print_table(console, "Licences", ("licence", "A", "B"), licences, "no licences recorded")
    openings = [(name, *(f"{share:.1f} %" for share in sides)) for name, sides in shares_of(found, "openings").items()]
    print_table(console, "Most common openings of answers", ("first words", "A", "B"), openings)
    for side, common in found.common.items():
        _show_common(side, common, examples, console)


def figures_of(found: Comparison) -> list[tuple[str, str, str]]:
    """Return the figures that are one number for each side."""
    sides = list(found.sides.values())
    rows = [
        ("rows", *(f"{side.rows:,}" for side in sides)),
        ("lines that cannot be read", *(f"{len(side.source.broken):,}" for side in sides)),
        ("rows without a fault", *(f"{side.sound / side.rows:.1%}" for side in sides)),
        ("rows of several user turns", *(f"{side.turned:,}" for side in sides)),
    ]
    for name in sides[0].lengths:
        told = [side.lengths[name].quantiles for side in sides]
        said = [f"{q[2]:.0f} ({q[1]:.0f} to {q[3]:.0f})" if q else "" for q in told]
        rows.append((f"words of {name}, median (p10 to p90)", *said))
    duplicates = ("exact_duplicate", "near_duplicate", "other_answer")
    rows += [
        (f"within: {MEANINGS[name].title.lower()}", *(f"{side.count(name):,}" for side in sides)) for name in duplicates
    ]
    rows.append(("between: rows that the other has too", *(f"{common.rows:,}" for common in found.common.values())))
    rows += [
        (f"- {said}", *(f"{common.kinds[kind]:,}" for common in found.common.values())) for kind, said in KINDS.items()
    ]
    rows.append(
        (
            f"distinct trigrams in {found.words_read:,} words of answers",
            *(f"{share:.3f}" for share in found.trigrams.values()),
        )
    )
    if found.vendi:
        said = [f"{score:.1f}" for score in found.vendi.values()]
        rows.append((f"rows in effect of {found.vendi_rows:,} (Vendi score)", *said))
    rows.append(("languages", *(", ".join(side.source.languages) or "?" for side in sides)))
    return [(name, one, other) for name, one, other in rows]


def shares_of(found: Comparison, what: str) -> dict[str, list[float]]:
    """Return per cent of the rows of each side by `categories`, `licences` or `openings`, the commonest first."""
    sides = found.sides.values()
    names = dict.fromkeys(name for side in sides for name in list(getattr(side, what))[:NAMED])
    counted = [_opened(side, names) if what == "openings" else getattr(side, what) for side in sides]
    wholes = [side.rows if what == "openings" else sum(getattr(side, what).values()) for side in sides]
    shares = {
        name: [100 * of.get(name, 0) / whole if whole else 0.0 for of, whole in zip(counted, wholes, strict=True)]
        for name in names
    }
    return dict(sorted(shares.items(), key=lambda pair: (-max(pair[1]), pair[0])))


def _opened(side: SetAudit, names: Iterable[str]) -> dict[str, int]:
    """Return how many answers begin so: an opening that is common in one set need not be among the commonest of the other."""
    counts = Counter(opening(text) for text in side.table["response"])
    return {name: counts[name] for name in names}


def _common(mine: pl.DataFrame, theirs: pl.DataFrame, twins: Sequence[Twin]) -> Common:
    own, others = ({row["id"]: row for row in table.iter_rows(named=True)} for table in (mine, theirs))
    kinds = dict.fromkeys(KINDS, 0)
    examples = []
    for id, twin, reason in twins:
        one, other = own[id], others[twin]
        if reason == "exact_duplicate":
            kind = "whole" if normal_form(one["response"]) == normal_form(other["response"]) else "task"
        elif is_one_task(one, other):
            kind = "near"
        else:
            continue
        kinds[kind] += 1
        examples.append(Example(KINDS[kind], _shown(one), _shown(other)))
    return Common(sum(kinds.values()), kinds, tuple(examples[:EXAMPLES]))


def _shown(row: Mapping[str, str]) -> Shown:
    return Shown(row["place"], row["user"], row["response"])


def _show_common(side: str, common: Common, examples: int, console: Console) -> None:
    other = "B" if side == "A" else "A"
    rows: list[tuple[object, ...]] = []
    for example in common.examples[:examples]:
        rows.append((f"{side} {example.row.place}", example.evidence))
        rows += [("", example.row.user), ("", f"→ {example.row.response}")]
        if example.twin is not None:
            rows += [(f"{other} {example.twin.place}", example.twin.user), ("", f"→ {example.twin.response}")]
    if rows:
        print_heading(console, f"Rows of {side} that {other} has too: {common.rows}")
        for place, text in rows:
            line = " ".join(str(text).split())
            console.print(literal(f"  {place}  {line[:160]}{'…' if len(line) > 160 else ''}"))
