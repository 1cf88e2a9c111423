"""What became of the rows of each generation strategy, evolve operator and constraint."""

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass

import polars as pl
from rich.console import Console

from kiloset.audit.terminal import print_table, share_of

REASONS = 3
"""Commonest reasons shown of each."""
WIDEST = 5
"""Most strategies whose yields are shown by category, side by side."""


@dataclass(frozen=True, slots=True)
class Fate:
    """Rows born in one way, and how they ended."""

    born: int
    kept: int
    """Rows kept by the last stage."""
    reasons: dict[str, int]
    """Rows that left, by `stage/reason`, most first."""


@dataclass(frozen=True, slots=True)
class ConstraintFate:
    """Rows that carry one constraint."""

    born: int
    kept: int
    failed: int
    """Rows of which no answer kept all constraints, this or another."""
    edits: dict[str, int] | None
    """Rows whose answers were edited for it, by edit; None where not recorded.

    A row names its edits, not what each was for: an edit is taken to be for the constraints that all rows with it carry,
    which is one alone as soon as there are some rows.
    """


@dataclass(frozen=True, slots=True)
class Strategies:
    """What became of the machine rows."""

    strategies: dict[str, Fate]
    """By strategy, the most used first."""
    operators: dict[str, Fate]
    """By evolve operator; {} where none is recorded."""
    constraints: dict[str, ConstraintFate]
    """By constraint id, the most born first; a row with several counts under each."""
    by_category: dict[str, dict[str, Fate]]
    """By category, then by strategy."""


def strategies(final: pl.DataFrame, ledger: pl.DataFrame) -> Strategies:
    """Follow the machine rows: those in `final` were kept, those in `ledger` left."""
    kept, gone = (table.filter(pl.col("source") == "generated") for table in (final, ledger))
    by_category = {}
    for name in sorted({*kept["category"], *gone["category"]}):
        here = pl.col("category") == name
        by_category[name] = _fates(kept.filter(here), gone.filter(here), "strategy")
    return Strategies(
        strategies=_fates(kept, gone, "strategy"),
        operators=_fates(kept, gone, "operator"),
        constraints=_constraints(kept, gone),
        by_category=by_category,
    )


def show_strategies(found: Strategies, console: Console) -> None:
    """Print the yields of strategies, operators and constraints."""
    for title, fates in (("Strategies", found.strategies), ("Operators of evolve", found.operators)):
        rows: list[tuple[object, ...]] = []
        for name, fate in fates.items():
            rows.append((name, fate.born, fate.kept, share_of(fate.kept, fate.born)))
            rows += [(f"- {reason}", count, "", "") for reason, count in list(fate.reasons.items())[:REASONS]]
        if rows or fates is found.strategies:
            columns = ("how, and commonest ends", "born", "kept", "yield")
            print_table(console, title, columns, rows, "no machine rows")
    if found.constraints:
        _show_constraints(found.constraints, console)
    names = list(found.strategies)
    if 1 < len(names) <= WIDEST:
        cells = [
            (category, *(f"{fates[name].kept}/{fates[name].born}" if name in fates else "" for name in names))
            for category, fates in found.by_category.items()
        ]
        print_table(console, "Kept of born, by category and strategy", ("category", *names), cells)


def _show_constraints(found: Mapping[str, ConstraintFate], console: Console) -> None:
    rows: list[tuple[object, ...]] = []
    for id, fate in found.items():
        edited = "" if fate.edits is None else sum(fate.edits.values())
        rows.append((id, fate.born, fate.failed, fate.kept, edited))
        rows += [(f"- {name}", "", "", "", count) for name, count in (fate.edits or {}).items()]
    title = "Constraints: rows that carry them, and answers edited to keep them"
    print_table(console, title, ("constraint", "born", "failed", "kept", "edited"), rows)


def _fates(kept: pl.DataFrame, gone: pl.DataFrame, column: str) -> dict[str, Fate]:
    """Return the fates by the values of a column, the most born first; {} where there is no such column or value."""
    stayed = Counter(name for name in kept[column] if name) if column in kept.columns else Counter[str]()
    ends: dict[str, Counter[str]] = {}
    if column in gone.columns:
        for name, stage, reason in gone.select(column, "stage", "reason").iter_rows():
            if name:
                ends.setdefault(name, Counter())[f"{stage}/{reason}"] += 1
    fates = {
        name: Fate(
            born=stayed[name] + ends.get(name, Counter()).total(),
            kept=stayed[name],
            reasons=dict(sorted(ends.get(name, Counter()).items(), key=lambda pair: (-pair[1], pair[0]))),
        )
        for name in {*stayed, *ends}
    }
    return dict(sorted(fates.items(), key=lambda pair: (-pair[1].born, pair[0])))


def _constraints(kept: pl.DataFrame, gone: pl.DataFrame) -> dict[str, ConstraintFate]:
    born, stayed, failed = Counter[str](), Counter[str](), Counter[str]()
    edits, meant = Counter[str](), dict[str, set[str]]()
    recorded = "edits" in kept.columns or "edits" in gone.columns
    for table in (kept, gone):
        for row in table.iter_rows(named=True):
            ids = {one["id"] for one in row.get("constraints") or []}
            born.update(ids)
            stayed.update(ids if table is kept else ())
            failed.update(ids if row.get("reason") == "constraint_failed" else ())
            for edit in set(row.get("edits") or []):
                edits[edit] += 1
                meant[edit] = meant.get(edit, ids) & ids
    order = sorted(edits.items(), key=lambda pair: (-pair[1], pair[0]))
    return {
        id: ConstraintFate(
            born=count,
            kept=stayed[id],
            failed=failed[id],
            edits={edit: rows for edit, rows in order if id in meant[edit]} if recorded else None,
        )
        for id, count in sorted(born.items(), key=lambda pair: (-pair[1], pair[0]))
    }
