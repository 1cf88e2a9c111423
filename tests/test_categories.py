"""Votes of the nearest seeds against a naive loop, and shares against a search of all divisions."""

import itertools
from collections import Counter
from fractions import Fraction
from typing import Any

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kiloset.core.config import parse
from kiloset.core.errors import ConfigError, DataError
from kiloset.core.table import table_of
from kiloset.data.quotas import apportion
from kiloset.generator.categories import (
    CategoriesConfig,
    check_pool_categories,
    check_target,
    label_by_neighbours,
    wanted_rows,
)
from tests.fakes import FakeEmbedder

KNOWN = ["maths", "open_qa", "writing"]


class TableEmbedder:
    """Looks directions up."""

    identity = "table@1"

    def __init__(self, directions: dict[str, list[float]]) -> None:
        self.directions = directions

    def embed(self, texts: list[str]) -> np.ndarray:
        return np.array([self.directions[text] for text in texts], dtype=np.float32)


def rows_of(*pairs: tuple[str, str]) -> pl.DataFrame:
    rows = [
        {"id": f"s{n:04d}", "instruction": text, "category": category, "category_source": "seed" if category else ""}
        for n, (text, category) in enumerate(pairs, 1)
    ]
    return table_of(rows)


def labels(table: pl.DataFrame) -> list[str]:
    return table["category"].to_list()


@pytest.mark.parametrize("neighbours", [1, 3, 5, 50])
def test_a_row_gets_the_category_a_naive_loop_finds(neighbours: int) -> None:
    rng = np.random.default_rng(0)
    texts = [" ".join(rng.choice(list("abcdefghij"), 5)) for _ in range(60)]
    labelled = rows_of(*((text, KNOWN[n % 3]) for n, text in enumerate(texts[:40])))
    blank = rows_of(*((text, "") for text in texts[40:]))

    labelled_now = label_by_neighbours(blank, labelled, FakeEmbedder(), neighbours)

    known, asked = FakeEmbedder().embed(texts[:40]).tolist(), FakeEmbedder().embed(texts[40:]).tolist()
    for row, direction in zip(labelled_now.iter_rows(named=True), asked, strict=True):
        cosines = [round(sum(a * b for a, b in zip(direction, other, strict=True)), 6) for other in known]
        votes = Counter[str]()
        for at in sorted(range(40), key=lambda n: (-cosines[n], n))[:neighbours]:
            votes[KNOWN[at % 3]] += max(cosines[at], 0.0)
        best = min(votes, key=lambda name: (-votes[name], name))
        assert row["category"] == best
        assert row["category_share"] == pytest.approx(votes[best] / sum(votes.values()), abs=1e-5)


def test_only_rows_without_a_category_get_one_and_the_order_stays() -> None:
    table = rows_of(("count apples", "maths"), ("write a poem", ""), ("who is it", "open_qa"), ("count pears", ""))
    labelled = rows_of(("write a poem", "writing"), ("count pears", "maths"))
    named = label_by_neighbours(table, labelled, FakeEmbedder(), 1)
    assert named["id"].to_list() == table["id"].to_list()
    assert labels(named) == ["maths", "writing", "open_qa", "maths"]
    assert named["category_source"].to_list() == ["seed", "nearest", "seed", "nearest"]
    assert named["category_share"].to_list() == [None, 1.0, None, 1.0]
    assert named.drop("category", "category_source", "category_share").equals(table.drop("category", "category_source"))


def test_a_table_that_needs_no_label_needs_no_model() -> None:
    named = label_by_neighbours(rows_of(("count", "maths")), rows_of(), TableEmbedder({}), 5)
    assert labels(named) == ["maths"]
    assert named["category_share"].to_list() == [None]


@pytest.mark.parametrize("copies", [2, 3, 5, 7, 37])
def test_a_tie_goes_to_the_name_that_sorts_first(copies: int) -> None:
    # At the size of a real embedder, a matrix product alone gives equal rows cosines that differ in the last bits.
    directions = np.random.default_rng(0).standard_normal((40, 384))
    directions /= np.linalg.norm(directions, axis=1, keepdims=True)
    embedder = TableEmbedder({f"text {n}": direction.tolist() for n, direction in enumerate(directions)})
    labelled = rows_of(*(("text 0", f"c{n:02d}") for n in reversed(range(copies))))
    near = [n for n in range(1, 40) if directions[n] @ directions[0] > 0.01]
    for count in range(1, len(near)):
        blank = rows_of(*((f"text {n}", "") for n in near[:count]))
        assert set(labels(label_by_neighbours(blank, labelled, embedder, copies))) == {"c00"}


def test_two_distant_votes_do_not_outweigh_a_near_one() -> None:
    embedder = TableEmbedder({"x": [1, 0], "near": [1, 0], "far": [0.4, 0.6], "opposite": [-1, 0]})
    labelled = rows_of(("far", "maths"), ("far", "maths"), ("near", "writing"))
    named = label_by_neighbours(rows_of(("x", "")), labelled, embedder, 3)
    assert labels(named) == ["writing"]
    assert named["category_share"][0] == pytest.approx(1 / 1.8)


def test_a_vote_from_the_opposite_direction_counts_nothing() -> None:
    embedder = TableEmbedder({"x": [1, 0], "opposite": [-1, 0]})
    named = label_by_neighbours(rows_of(("x", "")), rows_of(("opposite", "b"), ("opposite", "a")), embedder, 5)
    assert (labels(named), named["category_share"].to_list()) == (["a"], [0.0])


@settings(max_examples=80, deadline=None)
@given(st.lists(st.integers(1, 7), min_size=1, max_size=4), st.integers(0, 7))
def test_the_division_is_the_nearest_of_all_that_sum_to_the_size(weights: list[int], size: int) -> None:
    names = "abcd"[: len(weights)]
    exact = [Fraction(size * weight, sum(weights)) for weight in weights]

    def error(division: tuple[int, ...]) -> Fraction:
        return sum(((g - e) ** 2 for g, e in zip(division, exact, strict=True)), Fraction(0))

    divisions = [d for d in itertools.product(range(size + 1), repeat=len(weights)) if sum(d) == size]
    least = min(error(d) for d in divisions)
    first = max(d for d in divisions if error(d) == least)  # of equally near ones, that which favours earlier names
    assert tuple(apportion(dict(zip(names, weights, strict=True)), size).values()) == first


def config_of(**table: Any) -> CategoriesConfig:
    prompts = {"usage": "prompts.jsonl"} if table.get("target") == "usage" else {}
    return parse(CategoriesConfig, {**prompts, **table})


@pytest.mark.parametrize(
    ("target", "size", "expected"),
    [
        ("uniform", 7, {"maths": 3, "open_qa": 2, "writing": 2}),
        ("uniform", 2, {"maths": 1, "open_qa": 1, "writing": 0}),
        ("seeds", 10, {"maths": 3, "writing": 7}),
        ("candidates", 3, {"maths": 1, "writing": 2}),
        ("usage", 5, {"maths": 1, "writing": 4}),
        ({"writing": 0.1, "maths": 0.2}, 3, {"maths": 2, "writing": 1}),
        (
            {"writing": 0.1, "maths": 0.3},
            2,
            {"maths": 2, "writing": 0},
        ),  # 0.5 and 1.5, which differ only as exact tenths
        ({"writing": 1, "open_qa": 1}, 3, {"open_qa": 2, "writing": 1}),
        ({"writing": 1e-9, "maths": 3}, 5, {"maths": 5, "writing": 0}),
    ],
)
def test_every_kind_of_target_shares_out_the_size(target: Any, size: int, expected: dict[str, int]) -> None:
    counts = {"writing": 6, "maths": 2, "open_qa": 0}
    rows = wanted_rows(config_of(target=target), ["writing", "open_qa", "maths"], counts, size)
    assert rows == expected
    assert list(rows) == sorted(rows)


def test_no_category_makes_no_row_wanted() -> None:
    assert wanted_rows(config_of(target="seeds"), KNOWN, {}, 5) == {}
    assert wanted_rows(config_of(), [], {}, 5) == {}


def test_an_unknown_category_is_refused_with_the_nearest_one() -> None:
    with pytest.raises(
        ConfigError,
        match=r"\[categories\] target: no category 'math'; did you mean 'maths'\?; known: maths, open_qa, wr",
    ):
        wanted_rows(config_of(target={"math": 1}), ["writing", "open_qa", "maths"], {}, 5)
    with pytest.raises(ConfigError, match=r"no category 'zzz'; known: maths"):
        check_target({"zzz": 1.0}, KNOWN)


POOL = rows_of(*[("count", "math")] * 3, *[("run", "code")] * 2, *[("sing", "songs")] * 2, ("a", "maths"), ("b", ""))


@pytest.mark.parametrize("target", ["uniform", "seeds", "usage", {"maths": 1.0}])
def test_a_pool_with_categories_the_seeds_do_not_have_is_refused(target: Any) -> None:
    with pytest.raises(
        DataError, match=r"'math' \(3 rows\) .* 2 more .* \(4 rows\); did you mean 'maths'\?; known: "
    ) as error:
        check_pool_categories(POOL, ["writing", "open_qa", "maths"], target)
    songs = POOL.filter(pl.col("category") == "songs")
    with pytest.raises(DataError, match=r"no category 'songs' \(2 rows\); known: maths"):
        check_pool_categories(songs, KNOWN, target)
    assert error.value.code == "KS202"


@pytest.mark.parametrize(
    ("pool", "target"),
    [(POOL, "candidates"), (POOL.filter(pl.col("category").is_in(["maths", ""])), "uniform"), (POOL.clear(), "seeds")],
)
def test_a_pool_of_the_seeds_categories_or_of_none_or_one_that_sets_the_shares_is_taken(
    pool: pl.DataFrame, target: Any
) -> None:
    check_pool_categories(pool, KNOWN, target)


@pytest.mark.parametrize(
    ("table", "message"),
    [
        ({"target": "unifrom"}, r"\[\] target must be .*'uniform', 'seeds', 'candidates' or 'usage'.*, got 'unifrom'"),
        ({"target": {"maths": 0}}, r"target must be .*greater than 0, got {'maths': 0}"),
        ({"target": {}}, r"target must be .*a table with at least 1 item"),
        (
            {"target": "usage", "usage": ""},
            r"^\[\] usage must be a file of real prompts when target is 'usage', got ''$",
        ),
        ({"usage": "p.txt"}, r"^\[\] usage must be '' unless target is 'usage', got 'p\.txt'$"),
        ({"target": {"maths": 1}, "usage": "p.txt"}, r"usage must be '' unless target is 'usage'"),
        ({"target": "usage", "usage_limit": 0}, r"usage_limit must be greater than or equal to 1, got 0"),
        ({"target": "usage", "usage_min_confidence": 1.5}, r"usage_min_confidence must be less than or equal to 1"),
        ({"neighbours": 0}, r"neighbours must be greater than or equal to 1, got 0"),
        ({"neighbors": 5}, r"did you mean 'neighbours'\?"),
    ],
)
def test_a_setting_out_of_range_is_refused(table: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        config_of(**table)
