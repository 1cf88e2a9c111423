"""Style distance and the rows it costs, against a computation by hand."""

import math
import statistics
from collections import Counter
from typing import Any

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kiloset.core.form import FORM_COLUMNS
from kiloset.core.table import Outcome, check_outcome, table_of
from kiloset.rewrite.style import StyleConfig, rank_by_style, robust_z, with_style

BY_STYLE = StyleConfig(consistency_weight=1.0)


def table(*rows: tuple[str, str, float, float]) -> pl.DataFrame:
    """Return rows of category, response, quality and surprisal."""
    table = table_of(
        [{"id": f"g{n:03d}", "category": category, "response": text} for n, (category, text, *_) in enumerate(rows)]
    )
    return table.with_columns(
        quality=pl.Series([row[2] for row in rows], dtype=pl.Float64),
        surprisal=pl.Series([row[3] for row in rows], dtype=pl.Float64),
    )


def rank(rows: pl.DataFrame, wanted: dict[str, int], config: StyleConfig = BY_STYLE, *, fill: bool = False) -> Outcome:
    outcome = rank_by_style(rows, wanted, config, fill=fill)
    check_outcome("style", rows, outcome, creates=False)
    return outcome


def robust(values: list[float]) -> list[float]:
    """Return |x - median| over 1.4826 MAD, or over the standard deviation where that is 0, at most 5."""
    middle = statistics.median(values)
    away = [abs(value - middle) for value in values]
    unit = 1.4826 * statistics.median(away) or statistics.pstdev(values)
    return [min(5.0, a / unit) if unit else 0.0 for a in away]


# Of "cats run …" the form changes in words, sentence length and punctuation per word only.
ANSWERS = (
    "Cats run.",
    "Cats run fast.",
    "Cats run fast home.",
    "Cats run very fast home today.",
    "# Cats\n\n- run\n- eat",
)
SURPRISALS = (1.0, 2.0, 4.0, 1.5, 9.0)


def test_distance_is_the_mean_absolute_robust_z_over_form_and_surprisal() -> None:
    rows = table(*(("a", text, 0.0, nats) for text, nats in zip(ANSWERS, SURPRISALS, strict=True)))
    columns = [
        robust([math.log(1 + n) for n in (2, 3, 4, 6, 3)]),  # log_words
        robust([1.0] * 5),  # type_token_ratio: no word twice
        robust([2.0, 3.0, 4.0, 6.0, 1.0]),  # sentence_words: a line ends a sentence
        robust([1 / 2, 1 / 3, 1 / 4, 1 / 6, 3 / 3]),  # punctuation_rate: # and two dashes
        robust([0.0, 0.0, 0.0, 0.0, 2 / 3]),  # list_lines
        robust([0.0, 0.0, 0.0, 0.0, 1.0]),  # heading
        robust([0.0] * 5),  # code_fence
        robust([0.0, 0.0, 0.0, 1 / 6, 0.0]),  # function_word_rate: "very"
        robust(list(SURPRISALS)),
    ]
    assert len(columns) == len(FORM_COLUMNS) + 1
    by_hand = [sum(scores) / len(columns) for scores in zip(*columns, strict=True)]
    ranked = with_style(rows, BY_STYLE)
    assert ranked["style_distance"].to_list() == pytest.approx(by_hand, abs=1e-5)
    assert ranked["style_score"].to_list() == pytest.approx([-d for d in by_hand], abs=1e-5)
    order = sorted(range(5), key=lambda n: by_hand[n])
    assert [order.index(n) + 1 for n in range(5)] == ranked["style_rank"].to_list()


def test_style_is_the_category_s_own() -> None:
    lists = [("lists", f"- {word}\n- {word}s", 0.0, 1.0) for word in ("ox", "cow", "hen")]
    prose = [("prose", f"The {word} sleeps.", 0.0, 1.0) for word in ("ox", "cow", "hen")]
    apart, together = with_style(table(*lists, *prose), BY_STYLE), with_style(table(*lists), BY_STYLE)
    assert apart["style_distance"].to_list()[:3] == together["style_distance"].to_list()
    assert apart["style_distance"].to_list() == [0.0] * 6
    assert apart["style_rank"].to_list() == [1, 2, 3, 1, 2, 3]


def rows_of(**sizes: int) -> pl.DataFrame:
    """Return rows whose quality falls from first to last in each category, and whose every third is an odd one out."""
    return table(*(
        (name, f"# Loud!\n- {'so ' * 20}" if n % 3 == 0 else f"The cat number {n} sleeps.", (size - n) / 10, n % 3 + 1.0)
        for name, size in sizes.items() for n in range(size)
    ))  # fmt: skip


def test_the_weight_trades_quality_against_distance() -> None:
    rows, wanted = rows_of(a=9), {"a": 4}
    assert rank(rows, wanted, StyleConfig(consistency_weight=0.0)).kept["id"].to_list() == [
        "g000", "g001", "g002", "g003",
    ]  # fmt: skip
    for weight in (0.3, 1.0, 100.0):
        outcome = rank(rows, wanted, StyleConfig(consistency_weight=weight))
        every = pl.concat([outcome.kept, outcome.dropped.select(outcome.kept.columns)])
        scores = every["quality"] - weight * every["style_distance"]
        best = every.with_columns(s=scores).sort("s", descending=True)["id"].head(4)
        assert set(outcome.kept["id"]) == set(best)
    assert set(outcome.kept["id"]) & {"g000", "g003", "g006"} == set()


@pytest.mark.parametrize("wanted", [{"a": 5, "b": 3, "c": 1}, {"a": 9, "b": 1, "c": 2}, {"a": 1, "b": 1, "c": 1}])
def test_each_category_keeps_exactly_what_is_wanted_and_none_is_emptied(wanted: dict[str, int]) -> None:
    outcome = rank(rows_of(a=9, b=6, c=2), wanted)
    assert Counter(outcome.kept["category"]) == wanted
    assert outcome.kept["id"].to_list() == sorted(outcome.kept["id"])
    assert set(outcome.dropped["reason"]) == {"style_reserve"}


def test_a_dropped_row_states_its_rank_and_every_kept_row_of_its_category_ranks_before_it() -> None:
    wanted = {"a": 5, "b": 3}
    outcome = rank(rows_of(a=9, b=6), wanted)
    places: dict[str, list[int]] = {"a": [], "b": []}
    for row in outcome.dropped.to_dicts():
        assert row["limit"] == wanted[row["category"]] < row["measured"] == row["style_rank"]
        assert row["evidence"] == (
            f"number {row['style_rank']} by quality and style in {row['category']}, "
            f"style distance {row['style_distance']:.2f}"
        )
        places[row["category"]].append(row["style_rank"])
    assert {name: sorted(numbers) for name, numbers in places.items()} == {"a": [6, 7, 8, 9], "b": [4, 5, 6]}
    assert all(row["style_rank"] <= wanted[row["category"]] for row in outcome.kept.to_dicts())


def test_the_next_best_of_all_fill_what_a_category_lacks_only_if_asked() -> None:
    rows, wanted = rows_of(a=9, b=6, c=2), {"a": 5, "b": 3, "c": 5}
    assert Counter(rank(rows, wanted).kept["category"]) == {"a": 5, "b": 3, "c": 2}
    plain, full = rank(rows, wanted), rank(rows, wanted, fill=True)
    assert full.kept.height == 13
    added = full.kept.filter(~pl.col("id").is_in(plain.kept["id"].to_list()))
    reserve = plain.dropped.sort(["style_score", "id"], descending=[True, False])
    assert set(added["id"]) == set(reserve["id"].head(3))


def test_fill_that_finds_too_little_keeps_everything() -> None:
    outcome = rank(rows_of(a=3, b=2), {"a": 9, "b": 9}, fill=True)
    assert (outcome.kept.height, outcome.dropped.height) == (5, 0)


def test_a_category_nobody_wants_is_given_up() -> None:
    outcome = rank(rows_of(a=3, b=2), {"a": 2})
    assert Counter(outcome.kept["category"]) == {"a": 2}
    assert outcome.dropped.filter(pl.col("category") == "b")["limit"].to_list() == [0.0, 0.0]


def test_equal_scores_go_by_id_and_the_order_of_the_rows_does_not_matter() -> None:
    rows = table(*[("a", "The cat sleeps.", 1.0, 1.0)] * 6)
    assert rank(rows, {"a": 2}).kept["id"].to_list() == ["g000", "g001"]
    mixed = rows_of(a=9, b=6)
    shuffled: Any = mixed.sample(fraction=1.0, shuffle=True, seed=1)
    one, other = rank(mixed, {"a": 4, "b": 2}), rank(shuffled, {"a": 4, "b": 2})
    assert other.kept.sort("id").equals(one.kept)
    assert other.dropped.sort("id").equals(one.dropped)


def test_one_row_and_no_row() -> None:
    one = rank(table(("a", "The cat sleeps.", 1.0, 2.0)), {"a": 1})
    assert one.kept.select("style_distance", "style_score", "style_rank").rows() == [(0.0, 1.0, 1)]
    none = rank(table(), {"a": 1}, fill=True)
    assert (none.kept.height, none.kept.schema) == (0, one.kept.schema)


def test_a_robust_z_is_hand_computable() -> None:
    values = np.array([[1.0, 0.0, 7.0], [2.0, 0.0, 7.0], [3.0, 0.0, 7.0], [4.0, 0.0, 7.0], [100.0, 1.0, 7.0]])
    z = robust_z(values)
    # column 0: median 3, deviations 2 1 0 1 97, their median 1
    assert z[:, 0] == pytest.approx([-2 / 1.4826, -1 / 1.4826, 0, 1 / 1.4826, 5])
    # column 1: the median absolute deviation is 0, the standard deviation 0.4
    assert z[:, 1] == pytest.approx([0, 0, 0, 0, 2.5])
    assert z[:, 2] == pytest.approx([0, 0, 0, 0, 0])


def test_a_robust_z_of_no_rows_is_no_rows() -> None:
    assert robust_z(np.empty((0, 3))).shape == (0, 3)


@settings(deadline=None, derandomize=True)
@given(st.lists(st.floats(-1e6, 1e6), min_size=1, max_size=20))
def test_a_robust_z_is_bounded_and_leaves_its_input_alone(column: list[float]) -> None:
    values = np.array(column)[:, None]
    z = robust_z(values)
    assert np.isfinite(z).all()
    assert np.abs(z).max() <= 5
    assert values[:, 0].tolist() == column
