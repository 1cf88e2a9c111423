"""Sources, gains and length ratios of a rewritten table of five rows, counted by hand."""

import io
import math

import numpy as np
import polars as pl
import pytest
from rich.console import Console

from kiloset.audit.rewriting import (
    candidates,
    length_ratios,
    print_rewriting,
    rewriting,
    rewriting_input,
)
from kiloset.core.statistics import mean_interval
from kiloset.core.table import table_of, with_verdicts

ROWS = [
    {"id": "a", "category": "maths", "response": "one two three"},
    {"id": "b", "category": "maths", "response": "one two three four", "original_response": "one two"},
    {"id": "c", "category": "[red]list", "response": "uno", "original_response": "uno dos tres cuatro"},
    {"id": "d", "category": "[red]list", "response": "word", "original_response": "..."},
    {"id": "e", "category": "maths", "response": "one"},
]
OFFERED = [
    {"kind": "plain", "status": "chosen", "check": None, "text": "one two three four"},
    {"kind": "guided", "status": "passed", "check": None, "text": "one two three"},
    {"kind": "guided", "status": "rejected", "check": "names", "text": "far too long to pass"},
]


def set_of() -> pl.DataFrame:
    return table_of(ROWS).with_columns(
        response_source=pl.Series(["reference", "plain", "guided", "guided", "reference"]),
        response_reason=pl.Series(["gain_too_small", "best_fit", "best_fit", "best_fit", "nothing_passed"]),
        reference_surprisal=pl.Series([1.0, 2.0, 3.0, 4.0, 5.0]),
        fit_gain=pl.Series([0.0, 0.5, 1.0, 0.25, 0.0]),
        best_gain=pl.Series([-0.75, 0.5, 1.0, 0.25, None]),
        rewrites=pl.Series([[], OFFERED, None, None, []]),
    )


def printed(figures, width=100):
    file = io.StringIO()
    print_rewriting(figures, Console(file=file, width=width))
    return file.getvalue()


def test_sources_and_reasons_are_counted_by_category():
    figures = rewriting(set_of(), None)
    assert figures.sources == {"[red]list": {"guided": 2}, "maths": {"reference": 2, "plain": 1}}
    assert figures.reasons == {"best_fit": 3, "gain_too_small": 1, "nothing_passed": 1}
    lines = [line.split() for line in printed(figures).splitlines()]
    assert ["maths", "3", "2", "66.7", "%", "1", "33.3", "%", "0", "0.0", "%"] in lines
    assert ["[red]list", "2", "0", "0.0", "%", "0", "0.0", "%", "2", "100.0", "%"] in lines
    assert ["all", "5", "2", "40.0", "%", "1", "20.0", "%", "2", "40.0", "%"] in lines


def test_gains_are_means_over_rewritten_rows_all_rows_and_the_best_that_passed():
    gains = rewriting(set_of(), None).gains
    gain_by_name = {name: (gain.rows, gain.before, gain.after, gain.gain.value) for name, gain in gains.items()}
    assert gain_by_name["rewritten"] == pytest.approx((3, 3.0, 3.0 - 1.75 / 3, 1.75 / 3))
    assert gain_by_name["plain"] == (1, 2.0, 1.5, 0.5)
    assert gain_by_name["guided"] == (2, 3.5, 3.5 - 0.625, 0.625)
    assert gain_by_name["all"] == pytest.approx((5, 3.0, 2.65, 0.35))
    assert gain_by_name["best"] == pytest.approx((4, 2.5, 2.25, 0.25))
    assert math.isnan(gains["plain"].gain.low)
    assert gains["all"].gain == mean_interval([0.0, 0.5, 1.0, 0.25, 0.0])
    line = next(line for line in printed(rewriting(set_of(), None)).splitlines() if line.strip().startswith("all rows"))
    assert line.split()[5:9] == ["5", "3.000", "2.650", "+0.350"]


def test_length_ratios_leave_out_references_of_no_words():
    figures = length_ratios(["one two", "...", "a b c d", "x", None], ["one", "two", "a b c d e f", "", "y"])
    assert (figures.rewrites, figures.quantiles[0], figures.quantiles[3], figures.quantiles[6]) == (3, 0.0, 0.5, 1.5)
    assert figures.quantiles == tuple(np.quantile([0.5, 1.5, 0], [0, 0.1, 0.25, 0.5, 0.75, 0.9, 1]))
    assert length_ratios([], []).quantiles == ()
    ratios = rewriting(set_of(), candidates(set_of())).ratios
    assert (ratios["set"].rewrites, ratios["set"].quantiles[::6]) == (2, (0.25, 2.0))
    assert (ratios["passed"].rewrites, ratios["passed"].quantiles[::6]) == (2, (1.5, 2.0))


def test_a_candidate_stands_beside_the_reference_it_was_offered_for():
    figures = candidates(set_of())
    assert figures["reference"].to_list() == ["one two"] * 3
    assert figures["status"].to_list() == ["chosen", "passed", "rejected"]
    assert figures["verdicts"].null_count() == 3
    assert candidates(set_of().with_columns(rewrites=pl.Series([[], None, [], [], []]))).height == 0
    assert candidates(set_of().drop("rewrites")) is None


def test_rows_that_the_stage_dropped_had_come_to_rewriting_too():
    outcome = with_verdicts(set_of(), {"b": {"reason": "too_long_for_base", "evidence": ""}})
    ledger = outcome.dropped.with_columns(stage=pl.lit("rewrite"))
    other = outcome.dropped.with_columns(stage=pl.lit("style"), id=pl.lit("z"))
    came = rewriting_input([("rewrite", outcome.kept), ("style", outcome.kept.head(1))], pl.concat([ledger, other]))
    assert came["id"].to_list() == ["a", "c", "d", "e", "b"]
    assert candidates(came).height == 3
    assert rewriting_input([("seeds", set_of())], ledger) is None


def test_a_table_without_optional_columns_or_rewrites_is_reported_as_far_as_possible():
    plain = table_of(ROWS)
    assert rewriting(plain, None) is None
    assert "not recorded" in printed(None)
    bare = rewriting(plain.with_columns(response_source=pl.lit(None, pl.String)), None)
    assert (bare.sources["maths"], bare.reasons, bare.gains) == ({"none": 3}, None, {})
    assert bare.ratios["set"].rewrites == 0
    one = rewriting(set_of().filter(pl.col("id") == "a").drop("reference_surprisal"), None)
    assert one.gains.keys() == {"all", "best"}
    assert (one.gains["all"].gain.value, one.gains["all"].before) == (0.0, None)
    assert "no rewrites" in printed(one)
    nothing = rewriting(set_of().clear(), None)
    assert (nothing.rows, nothing.gains) == (0, {})
    assert "Rewriting: answers of the 0 rows" in printed(nothing)


def test_a_source_of_its_own_has_its_own_column():
    text = printed(rewriting(set_of().with_columns(response_source=pl.lit("\x1b[2Jby [b]hand")), None), 140)
    assert "[2Jby [b]hand" in text
    assert "\x1b" not in text
