"""How the generated rows of a run came about: what each strategy, operator and constraint yielded, and what rows descend from."""

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass

import polars as pl
from rich.console import Console

from kiloset.audit.safe_text import print_lines, print_table, share_of

REASONS = 3
"""Most common drop reasons shown of each strategy."""
WIDEST = 5
"""Most strategies whose yields are shown side by side by category."""
CHAINS = 3
"""Deepest chains shown."""
COLUMNS = ("id", "instruction", "source", "strategy", "operator", "parents", "depth", "times_shown")
"""What the lineage reads of a row; `operator` and `times_shown` are missing in older runs."""


@dataclass(frozen=True, slots=True)
class Yield:
    """Rows generated in one way."""

    candidates: int
    kept: int
    """Rows kept by the last stage."""
    reasons: dict[str, int]
    """Dropped rows by `stage/reason`, most first."""


@dataclass(frozen=True, slots=True)
class ConstraintYield:
    """Rows that carry one constraint."""

    candidates: int
    kept: int
    failed: int
    """Rows of which no answer satisfied all constraints, this one or another."""
    edits: dict[str, int] | None
    """Rows whose answers a program edited for it, by edit; None if not recorded.

    A row names its edits, not the constraint of each. An edit is counted for the constraints that all rows with it carry.
    """


@dataclass(frozen=True, slots=True)
class Strategies:
    """The yields of the generated rows."""

    strategies: dict[str, Yield]
    """By strategy, the most used first."""
    operators: dict[str, Yield]
    """By evolve operator; {} if none is recorded."""
    constraints: dict[str, ConstraintYield]
    """By constraint id, most candidates first; a row with several counts for each."""
    by_category: dict[str, dict[str, Yield]]
    """By category, then by strategy."""


@dataclass(frozen=True, slots=True)
class Step:
    """One row of a chain of descent."""

    id: str
    made_by: str
    """Source, strategy and operator, as far as they are recorded; "" for a row that is missing in the run folder."""
    instruction: str


@dataclass(frozen=True, slots=True)
class Lineage:
    """What the rows of a run descend from."""

    depths: dict[int, tuple[int, int]]
    """Generated rows, and how many of them were kept, by depth; rows of depth 1 are made from seeds alone."""
    max_depth: int | None
    """Longest lineage that the config allows."""
    times_shown: dict[int, int]
    """Generated rows by how often each was shown in a prompt or, in older runs, by how many rows name it as a parent."""
    times_shown_is_recorded: bool
    max_shown: int | None
    """How often the config allows a generated row to be shown."""
    chains: tuple[tuple[Step, ...], ...]
    """From the deepest rows (kept ones, if there are any) back to a seed, each time by the parent with the longest lineage."""

    @property
    def at_limit(self) -> int | None:
        """Generated rows shown as often as is allowed; None if either figure is not recorded."""
        if self.max_shown is None or not self.times_shown_is_recorded:
            return None
        return sum(rows for times, rows in self.times_shown.items() if times >= self.max_shown)


def strategies(final: pl.DataFrame, ledger: pl.DataFrame) -> Strategies:
    """Count the generated rows: the last stage kept those in `final`, those in `ledger` were dropped."""
    kept, dropped = (table.filter(pl.col("source") == "generated") for table in (final, ledger))
    by_category = {}
    for name in sorted({*kept["category"], *dropped["category"]}):
        here = pl.col("category") == name
        by_category[name] = _yields(kept.filter(here), dropped.filter(here), "strategy")
    return Strategies(
        strategies=_yields(kept, dropped, "strategy"),
        operators=_yields(kept, dropped, "operator"),
        constraints=_constraints(kept, dropped),
        by_category=by_category,
    )


def lineage(final: pl.DataFrame, ledger: pl.DataFrame, max_depth: int | None, max_shown: int | None) -> Lineage:
    """Trace the generated rows of a run: the last stage kept those in `final`, those in `ledger` were dropped."""
    parts = [table.select(name for name in COLUMNS if name in table.columns) for table in (final, ledger)]
    every = pl.concat(parts, how="diagonal_relaxed").unique("id", keep="first", maintain_order=True)
    generated = every.filter(pl.col("source") == "generated")
    kept = final.filter(pl.col("source") == "generated")
    depths, kept_depths = Counter(generated["depth"].to_list()), Counter(kept["depth"].to_list())
    recorded = "times_shown" in generated.columns and generated["times_shown"].null_count() < generated.height
    if recorded:
        times = Counter(generated["times_shown"].fill_null(0).to_list())
    else:
        children = Counter(parent for parents in generated["parents"] for parent in parents)
        times = Counter(children[id] for id in generated["id"])
    return Lineage(
        depths={depth: (depths[depth], kept_depths[depth]) for depth in sorted(depths)},
        max_depth=max_depth,
        times_shown=dict(sorted(times.items())),
        times_shown_is_recorded=recorded,
        max_shown=max_shown,
        chains=_chains(kept if kept.height else generated, every),
    )


def print_strategies(result: Strategies, console: Console) -> None:
    """Print the yields of strategies, operators and constraints."""
    for title, yields in (("Strategies", result.strategies), ("Operators of evolve", result.operators)):
        rows: list[tuple[object, ...]] = []
        for name, one in yields.items():
            rows.append((name, one.candidates, one.kept, share_of(one.kept, one.candidates)))
            rows += [(f"- {reason}", count, "", "") for reason, count in list(one.reasons.items())[:REASONS]]
        if rows or yields is result.strategies:
            columns = ("strategy, most common drop reasons", "rows", "kept", "yield")
            print_table(console, title, columns, rows, "no generated rows")
    if result.constraints:
        _print_constraints(result.constraints, console)
    names = list(result.strategies)
    if 1 < len(names) <= WIDEST:
        cells = [
            (category, *(f"{here[name].kept}/{here[name].candidates}" if name in here else "" for name in names))
            for category, here in result.by_category.items()
        ]
        print_table(console, "Kept of candidates, by category and strategy", ("category", *names), cells)


def print_lineage(result: Lineage, console: Console) -> None:
    """Print depths, how often rows were shown, and the deepest chains."""
    limit = "" if result.max_depth is None else f" (limit {result.max_depth})"
    depths = [(depth, rows, kept) for depth, (rows, kept) in result.depths.items()]
    title = f"Lineage: generated rows by depth{limit}"
    print_table(console, title, ("depth", "rows", "kept"), depths, "no generated rows")
    if not result.depths:
        return
    title = "times shown in a prompt" if result.times_shown_is_recorded else "number of rows that name it as a parent"
    print_table(console, f"Generated rows by {title}", ("times", "rows"), list(result.times_shown.items()))
    if result.at_limit is not None:
        print_lines(console, f"{result.at_limit} rows were shown {result.max_shown} times, the limit, or more")
    if max(result.depths) == 1:
        print_lines(console, "every generated row is made from seeds alone")
        return
    for chain in result.chains:
        steps = [
            (f"{'< ' if number else ''}{one.id} {one.instruction}", one.made_by) for number, one in enumerate(chain)
        ]
        print_table(console, f"Ancestors of {chain[0].id}, one of the deepest rows", ("row", "made by"), steps)


def _print_constraints(constraints: Mapping[str, ConstraintYield], console: Console) -> None:
    rows: list[tuple[object, ...]] = []
    for id, one in constraints.items():
        edited = "" if one.edits is None else sum(one.edits.values())
        rows.append((id, one.candidates, one.failed, one.kept, edited))
        rows += [(f"- {name}", "", "", "", count) for name, count in (one.edits or {}).items()]
    title = "Constraints: rows that carry them, and answers that a program edited to satisfy them"
    print_table(console, title, ("constraint", "rows", "failed", "kept", "edited"), rows)


def _yields(kept: pl.DataFrame, dropped: pl.DataFrame, column: str) -> dict[str, Yield]:
    """Return the yields by the values of a column, most candidates first; {} without the column or a value."""
    stayed = Counter(name for name in kept[column] if name) if column in kept.columns else Counter[str]()
    reasons: dict[str, Counter[str]] = {}
    if column in dropped.columns:
        for name, stage, reason in dropped.select(column, "stage", "reason").iter_rows():
            if name:
                reasons.setdefault(name, Counter())[f"{stage}/{reason}"] += 1
    yields = {}
    for name in {*stayed, *reasons}:
        counts = reasons.get(name, Counter[str]())
        by_count = dict(sorted(counts.items(), key=lambda pair: (-pair[1], pair[0])))
        yields[name] = Yield(stayed[name] + counts.total(), stayed[name], by_count)
    return dict(sorted(yields.items(), key=lambda pair: (-pair[1].candidates, pair[0])))


def _constraints(kept: pl.DataFrame, dropped: pl.DataFrame) -> dict[str, ConstraintYield]:
    candidates, stayed, failed = Counter[str](), Counter[str](), Counter[str]()
    edits, meant = Counter[str](), dict[str, set[str]]()
    recorded = "edits" in kept.columns or "edits" in dropped.columns
    for table in (kept, dropped):
        for row in table.iter_rows(named=True):
            ids = {one["id"] for one in row.get("constraints") or []}
            candidates.update(ids)
            stayed.update(ids if table is kept else ())
            failed.update(ids if row.get("reason") == "constraint_failed" else ())
            for edit in set(row.get("edits") or []):
                edits[edit] += 1
                meant[edit] = meant.get(edit, ids) & ids
    order = sorted(edits.items(), key=lambda pair: (-pair[1], pair[0]))
    return {
        id: ConstraintYield(
            candidates=count,
            kept=stayed[id],
            failed=failed[id],
            edits={edit: rows for edit, rows in order if id in meant[edit]} if recorded else None,
        )
        for id, count in sorted(candidates.items(), key=lambda pair: (-pair[1], pair[0]))
    }


def _chains(rows: pl.DataFrame, every: pl.DataFrame) -> tuple[tuple[Step, ...], ...]:
    deepest = rows.sort(["depth", "id"], descending=[True, False]).head(CHAINS)["id"].to_list()
    names = [name for name in ("source", "strategy", "operator") if name in every.columns]
    known = {row["id"]: row for row in every.iter_rows(named=True)}
    chains = []
    for id in deepest:
        chain: list[Step] = []
        here: str | None = id
        while here is not None and here not in {step.id for step in chain}:
            row = known.get(here)
            if row is None:
                chain.append(Step(here, "", "not in the run folder"))
                break
            made_by = [row[name] for name in names if row[name] and row[name] != "generated"]
            chain.append(Step(here, ": ".join(made_by), row["instruction"]))
            parents = row["parents"] or []
            here = max(parents, key=lambda parent: known[parent]["depth"] if parent in known else -1, default=None)
        chains.append(tuple(chain))
    return tuple(chains)
