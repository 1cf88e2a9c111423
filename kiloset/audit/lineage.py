"""How far machine rows are from human seeds, and how often each was shown to the model that wrote others."""

from collections import Counter
from dataclasses import dataclass

import polars as pl
from rich.console import Console

from kiloset.audit.terminal import literal, print_table

CHAINS = 3
"""Deepest chains shown."""
COLUMNS = ("id", "instruction", "source", "strategy", "operator", "parents", "depth", "times_shown")
"""What is read of a row; `operator` and `times_shown` are missing in older runs."""


@dataclass(frozen=True, slots=True)
class Step:
    """One row of a chain of descent."""

    id: str
    made_by: str
    """Source, strategy and operator, as far as there are any; "" for a row that the run folder does not hold."""
    instruction: str


@dataclass(frozen=True, slots=True)
class Lineage:
    """What the rows of a run descend from."""

    depths: dict[int, tuple[int, int]]
    """Machine rows born and kept to the end, by depth: 1 is made from seeds alone."""
    max_depth: int | None
    """Longest lineage the config allows."""
    shown: dict[int, int]
    """Machine rows by how often each was shown, or, where that is not recorded, by how many rows name it as a parent."""
    shown_is_recorded: bool
    max_shown: int | None
    """How often the config allows a machine row to be shown."""
    chains: tuple[tuple[Step, ...], ...]
    """From the deepest rows (kept ones, if any was) back to a seed, each time by the parent with the longest lineage."""

    @property
    def at_cap(self) -> int | None:
        """Machine rows shown as often as is allowed; None where either is not recorded."""
        if self.max_shown is None or not self.shown_is_recorded:
            return None
        return sum(rows for times, rows in self.shown.items() if times >= self.max_shown)


def lineage(final: pl.DataFrame, ledger: pl.DataFrame, max_depth: int | None, max_shown: int | None) -> Lineage:
    """Trace the machine rows of a run: those in `final` were kept to the end, those in `ledger` left."""
    parts = [table.select(name for name in COLUMNS if name in table.columns) for table in (final, ledger)]
    every = pl.concat(parts, how="diagonal_relaxed").unique("id", keep="first", maintain_order=True)
    machine = every.filter(pl.col("source") == "generated")
    kept = final.filter(pl.col("source") == "generated")
    born, stayed = Counter(machine["depth"].to_list()), Counter(kept["depth"].to_list())
    recorded = "times_shown" in machine.columns and machine["times_shown"].null_count() < machine.height
    if recorded:
        shown = Counter(machine["times_shown"].fill_null(0).to_list())
    else:
        children = Counter(parent for parents in machine["parents"] for parent in parents)
        shown = Counter(children[id] for id in machine["id"])
    return Lineage(
        depths={depth: (born[depth], stayed[depth]) for depth in sorted(born)},
        max_depth=max_depth,
        shown=dict(sorted(shown.items())),
        shown_is_recorded=recorded,
        max_shown=max_shown,
        chains=_chains(kept if kept.height else machine, every),
    )


def show_lineage(found: Lineage, console: Console) -> None:
    """Print depths, how often rows were shown, and the deepest chains."""
    limit = "" if found.max_depth is None else f" (at most {found.max_depth})"
    depths = [(depth, born, kept) for depth, (born, kept) in found.depths.items()]
    print_table(console, f"Lineage: machine rows by depth{limit}", ("depth", "born", "kept"), depths, "no machine rows")
    if not found.depths:
        return
    title = "times shown to the generator model" if found.shown_is_recorded else "rows that name it as a parent"
    print_table(console, f"Machine rows by {title}", ("times", "rows"), list(found.shown.items()))
    if found.at_cap is not None:
        console.print(
            literal(
                f"most: {max(found.shown)} times; {found.at_cap} rows were shown {found.max_shown} times, the limit"
            )
        )
    if max(found.depths) == 1:
        console.print(literal("every machine row is made from seeds alone"))
        return
    for chain in found.chains:
        steps = [
            (f"{'< ' if number else ''}{one.id} {one.instruction}", one.made_by) for number, one in enumerate(chain)
        ]
        print_table(console, f"Descent of {chain[0].id}, one of the deepest rows", ("row", "made by"), steps)


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
