"""Yields and ends of a run of nine machine rows, counted by hand, with and without the newer columns."""

import io
from typing import Any

import polars as pl
from rich.console import Console

from kiloset.audit.origins import ConstraintYield, Yield, print_strategies, strategies
from kiloset.core.table import VERDICT, table_of

TITLE, COMMA = "detectable_format:title", "punctuation:no_comma"
BOTH = [{"id": TITLE, "args": "{}"}, {"id": COMMA, "args": "{}"}]
KEPT: list[dict[str, Any]] = [
    {"id": "g1", "strategy": "self_instruct", "category": "code"},
    {"id": "g2", "strategy": "evolve", "operator": "deepen", "category": "code"},
    {"id": "g3", "strategy": "constraint", "category": "writing", "constraints": BOTH, "edits": ["add_title"]},
    {"id": "g4", "strategy": "constraint", "category": "writing", "constraints": BOTH[1:]},
    {"id": "g9", "strategy": "constraint", "category": "code", "constraints": BOTH[:1], "edits": ["add_title"]},
    {"id": "s1", "source": "seed", "category": "writing"},
]
GONE: list[tuple[dict[str, Any], str, str]] = [
    ({"id": "g5", "strategy": "self_instruct", "category": "code"}, "generate", "not_new"),
    ({"id": "g6", "strategy": "self_instruct", "category": "writing"}, "generate", "not_new"),
    ({"id": "g7", "strategy": "self_instruct", "category": "writing"}, "rules", "too_long"),
    (
        {"id": "g8", "strategy": "constraint", "category": "code", "constraints": BOTH[:1]},
        "generate",
        "constraint_failed",
    ),
    ({"id": "s2", "source": "seed", "category": "code"}, "balance", "seed_kept_apart"),
]


def tables() -> tuple[pl.DataFrame, pl.DataFrame]:
    final = table_of([{"source": "generated", **row} for row in KEPT])
    ledger = table_of([{"source": "generated", **row} for row, _, _ in GONE])
    verdict = {
        name: pl.Series([None] * len(GONE), dtype=kind)
        for name, kind in VERDICT.items()
        if name not in ("stage", "reason")
    }
    return final, ledger.with_columns(
        stage=pl.Series([stage for _, stage, _ in GONE]), reason=pl.Series([reason for _, _, reason in GONE]), **verdict
    )


def printed(figures: Any) -> list[list[str]]:
    file = io.StringIO()
    print_strategies(figures, Console(file=file, width=100))
    return [line.split() for line in file.getvalue().splitlines()]


def test_every_strategy_is_followed_to_its_ends() -> None:
    figures = strategies(*tables())
    assert figures.strategies == {
        "self_instruct": Yield(4, 1, {"generate/not_new": 2, "rules/too_long": 1}),
        "constraint": Yield(4, 3, {"generate/constraint_failed": 1}),
        "evolve": Yield(1, 1, {}),
    }
    assert list(figures.strategies) == ["constraint", "self_instruct", "evolve"]
    assert figures.operators == {"deepen": Yield(1, 1, {})}
    lines = printed(figures)
    assert ["self_instruct", "4", "1", "25.0", "%"] in lines
    assert ["-", "generate/not_new", "2"] in lines


def test_a_row_with_two_constraints_counts_under_both() -> None:
    figures = strategies(*tables())
    assert figures.constraints == {
        TITLE: ConstraintYield(candidates=3, kept=2, failed=1, edits={"add_title": 2}),
        COMMA: ConstraintYield(
            candidates=2, kept=2, failed=0, edits={}
        ),  # one row has both, the other edited one no COMMA
    }
    assert [TITLE, "3", "1", "2", "2"] in printed(figures)
    assert ["-", "add_title", "2"] in printed(figures)


def test_yields_are_shown_by_category_and_strategy() -> None:
    figures = strategies(*tables())
    assert {category: {name: (f.kept, f.candidates) for name, f in fates.items()} for category, fates in figures.by_category.items()} == {
        "code": {"self_instruct": (1, 2), "constraint": (1, 2), "evolve": (1, 1)},
        "writing": {"self_instruct": (0, 2), "constraint": (2, 2)},
    }  # fmt: skip
    assert ["code", "1/2", "1/2", "1/1"] in printed(figures)
    assert ["writing", "2/2", "0/2"] in printed(figures)


def test_an_older_run_without_operators_and_edits_is_followed_too() -> None:
    final, ledger = (table.drop("operator", "edits") for table in tables())
    figures = strategies(final, ledger)
    assert figures.strategies["evolve"] == Yield(1, 1, {})
    assert (figures.operators, figures.constraints[COMMA].edits) == ({}, None)
    assert [COMMA, "2", "0", "2"] in printed(figures)


def test_a_run_without_generated_rows_is_reported_as_such() -> None:
    final, ledger = (table.filter(pl.col("source") == "seed") for table in tables())
    assert ["no", "generated", "rows"] in printed(strategies(final, ledger))
