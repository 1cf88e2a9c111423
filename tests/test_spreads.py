"""Spreads of form and surprisal against the statistics module."""

import io
import math
import random
import statistics

import polars as pl
import pytest
from rich.console import Console

from kiloset.audit.rewriting import print_style, spreads, style
from kiloset.core.form import FORM_COLUMNS
from kiloset.core.table import table_of


def printed(draw, figures, width=100):
    file = io.StringIO()
    draw(figures, Console(file=file, width=width))
    return file.getvalue()


def forms_of(values):
    return [dict.fromkeys(FORM_COLUMNS, value) for value in values]


def test_the_spread_within_categories_is_pooled_over_rows_less_categories():
    figures = spreads(["x", "x", "y", "y", "z"], forms_of([1.0, 3.0, 10.0, 10.0, 7.0]), [2.0, None, 4.0, 8.0, None])
    assert figures.rows == 5
    assert figures.whole["list_lines"] == pytest.approx(statistics.stdev([1, 3, 10, 10, 7]))
    assert figures.within["list_lines"] == pytest.approx(math.sqrt((1 + 1 + 0 + 0 + 0) / (5 - 3)))
    assert figures.whole["surprisal"] == pytest.approx(statistics.stdev([2, 4, 8]))
    assert figures.within["surprisal"] == pytest.approx(math.sqrt((0 + 4 + 4) / (3 - 2)))


def test_squares_within_and_between_categories_add_up_to_the_whole():
    rng = random.Random(0)
    groups = rng.choices("abcd", k=300)
    values = [rng.gauss(ord(group), 2) for group in groups]
    figures = spreads(groups, forms_of(values), None)
    by = {group: [v for g, v in zip(groups, values, strict=True) if g == group] for group in "abcd"}
    mean = statistics.fmean(values)
    between = sum(len(own) * (statistics.fmean(own) - mean) ** 2 for own in by.values())
    assert 299 * figures.whole["heading"] ** 2 == pytest.approx(296 * figures.within["heading"] ** 2 + between)
    assert "surprisal" not in figures.whole


def test_one_row_no_row_and_surprisals_all_null_have_no_spread():
    one = spreads(["x"], forms_of([3.0]), [None])
    assert (one.whole["heading"], one.within["heading"]) == (0.0, 0.0)
    assert "surprisal" not in one.whole
    assert spreads([], [], []).whole == {}


def rewritten():
    rows = [
        {"id": "a", "category": "x", "response": "- one\n- two"},
        {"id": "b", "category": "x", "response": "one two", "original_response": "- one\ntwo"},
        {"id": "c", "category": "y", "response": "", "original_response": "one"},
    ]
    return table_of(rows).with_columns(
        response_source=pl.Series(["reference", "plain", "guided"]),
        reference_surprisal=pl.Series([1.0, 3.0, 5.0]),
        surprisal=pl.Series([1.0, 2.0, 3.0]),
    )


def test_selection_and_rewriting_are_distinguished():
    came = pl.concat([rewritten(), table_of([{"id": "d", "category": "y", "response": "# a"}])], how="diagonal")
    figures = style(rewritten(), came)
    assert (figures.entered.rows, figures.before.rows, figures.after.rows) == (4, 3, 3)
    assert figures.entered.whole["heading"] == pytest.approx(statistics.stdev([0, 0, 0, 1]))
    assert figures.before.whole["heading"] == 0.0
    assert figures.before.whole["list_lines"] == pytest.approx(statistics.stdev([1, 0.5, 0]))
    assert figures.after.whole["list_lines"] == pytest.approx(statistics.stdev([1, 0, 0]))
    assert figures.before.within["surprisal"] == pytest.approx(math.sqrt(2))
    assert figures.after.within["surprisal"] == pytest.approx(math.sqrt(0.5))
    lines = [line.split() for line in printed(print_style, figures).splitlines()]
    assert ["heading", "0.500", "0.000", "0.000", "0.000", "↓", "1.000", "="] in lines
    assert ["surprisal", "2.000", "2.000", "1.000", "1.000", "=", "0.500", "↓"] in lines
    assert ["list_lines", "0.479", "0.500", "0.577", "1.044", "↑", "1.155", "↑"] in lines


def test_a_spread_out_of_nothing_has_no_ratio():
    table = rewritten().with_columns(original_response=pl.lit("one"), response=pl.Series(["# a", "b", "c"]))
    lines = [line.split() for line in printed(print_style, style(table, None)).splitlines()]
    assert ["heading", "0.000", "0.577", "new", "↑"] in lines
    assert style(rewritten().drop("response_source"), None) is None
    assert "not recorded" in printed(print_style, None)
    old = style(rewritten().drop("surprisal", "reference_surprisal"), None)
    assert "surprisal" not in old.before.whole
