"""Depths, times printed and chains of a run of eight rows, counted by hand, with and without the newer columns."""

import io
from typing import Any

import polars as pl
import pytest
from rich.console import Console

from kiloset.audit.origins import Step, lineage, print_lineage
from kiloset.core.table import VERDICT, table_of

ROWS = [
    {"id": "s0001", "source": "seed", "instruction": "Seed."},
    {"id": "g1", "depth": 1, "parents": ["s0001"], "strategy": "self_instruct", "times_shown": 2},
    {"id": "g2", "depth": 1, "parents": ["s0001"], "strategy": "self_instruct", "times_shown": 0},
    {"id": "g3", "depth": 2, "parents": ["s0001", "g1"], "strategy": "self_instruct", "times_shown": 5},
    {"id": "g4", "depth": 3, "parents": ["g2", "g3"], "strategy": "evolve", "operator": "deepen", "times_shown": 0},
    {"id": "g5", "depth": 3, "parents": ["g3"], "strategy": "evolve", "operator": "broaden", "times_shown": 0},
    {"id": "g6", "depth": 1, "parents": ["lost"], "strategy": "magpie", "times_shown": 5},
]


def tables(gone: set[str], *, new: bool = True) -> tuple[pl.DataFrame, pl.DataFrame]:
    rows = [{"source": "generated", "instruction": f"Do {row['id']}.", **row} for row in ROWS]
    table = table_of(rows)
    if new:
        table = table.with_columns(times_shown=pl.Series([row.get("times_shown") for row in ROWS], dtype=pl.UInt16))
    else:
        table = table.drop("operator", "edits")
    verdict = [pl.lit(None, kind).alias(name) for name, kind in VERDICT.items()]
    is_gone = pl.col("id").is_in(list(gone))
    return table.filter(~is_gone), table.filter(is_gone).with_columns(verdict)


def printed(figures: Any) -> str:
    file = io.StringIO()
    print_lineage(figures, Console(file=file, width=100))
    return file.getvalue()


def test_depths_and_times_shown_are_counted_over_all_machine_rows() -> None:
    figures = lineage(*tables({"g2", "g5"}), max_depth=3, max_shown=5)
    assert figures.depths == {1: (3, 2), 2: (1, 1), 3: (2, 1)}
    assert (figures.times_shown, figures.at_limit) == ({0: 3, 2: 1, 5: 2}, 2)
    text = printed(figures)
    assert "generated rows by depth (limit 3)" in text
    assert "2 rows were shown 5 times, the limit, or more" in text


def test_a_chain_leads_from_the_deepest_kept_row_to_a_seed_by_the_deepest_parent() -> None:
    figures = lineage(*tables({"g5"}), max_depth=3, max_shown=5)
    assert figures.chains[0] == (
        Step("g4", "evolve: deepen", "Do g4."),
        Step("g3", "self_instruct", "Do g3."),
        Step("g1", "self_instruct", "Do g1."),
        Step("s0001", "seed", "Seed."),
    )
    assert [chain[0].id for chain in figures.chains] == ["g4", "g3", "g1"]
    assert "Ancestors of g4" in printed(figures)
    first = lineage(*tables({"g3", "g4", "g5"}), max_depth=3, max_shown=5)
    assert [chain[0].id for chain in first.chains] == ["g1", "g2", "g6"]


def test_a_chain_ends_at_a_row_that_the_run_does_not_hold() -> None:
    figures = lineage(*tables({"g1", "g2", "g3", "g4", "g5"}), max_depth=None, max_shown=None)
    assert figures.chains == ((Step("g6", "magpie", "Do g6."), Step("lost", "", "not in the run folder")),)
    assert figures.at_limit is None


def test_rows_that_were_all_dropped_are_traced_all_the_same() -> None:
    figures = lineage(*tables({f"g{n}" for n in range(1, 7)}), max_depth=3, max_shown=5)
    assert [chain[0].id for chain in figures.chains] == ["g4", "g5", "g3"]
    assert figures.depths[3] == (2, 0)


def test_an_older_run_is_traced_by_parents_alone() -> None:
    figures = lineage(*tables({"g5"}, new=False), max_depth=3, max_shown=5)
    assert (figures.times_shown, figures.times_shown_is_recorded, figures.at_limit) == ({0: 3, 1: 2, 2: 1}, False, None)
    assert figures.chains[0][0] == Step("g4", "evolve", "Do g4.")
    assert "Generated rows by number of rows that name it as a parent" in printed(figures)


def test_a_run_without_generated_rows_is_reported_as_such() -> None:
    seeds = tables({row["id"] for row in ROWS[1:]})[0]
    figures = lineage(seeds, seeds.clear(), max_depth=3, max_shown=5)
    assert (figures.depths, figures.chains) == ({}, ())
    assert printed(figures).split("\n\n")[-1].strip().endswith("no generated rows")


def test_rows_made_from_seeds_alone_have_no_chain_to_show() -> None:
    table = tables(set())[0].filter(pl.col("depth") < 2)
    text = printed(lineage(table, table.clear(), max_depth=3, max_shown=5))
    assert "every generated row is made from seeds alone" in text
    assert "Ancestors" not in text


@pytest.mark.parametrize("cycle", [["g1"], ["g2"]])
def test_a_row_that_descends_from_itself_ends_the_chain(cycle: list[str]) -> None:
    rows = [
        {"id": "g1", "source": "generated", "depth": 1, "parents": cycle},
        {"id": "g2", "source": "generated", "depth": 1, "parents": ["g1"]},
    ]
    table = table_of(rows)
    chain = lineage(table, table.clear(), None, None).chains[0]
    assert [step.id for step in chain] == list(dict.fromkeys(["g1", *cycle]))
