"""Balanced selection: quotas, the cosine cap and every verdict against brute force."""

import itertools
import math
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from fractions import Fraction
from typing import Any

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from kiloset.core.config import parse
from kiloset.core.errors import ConfigError
from kiloset.core.table import Outcome, check_outcome, table_of
from kiloset.filters.diversity import vendi_score
from kiloset.filters.nearest import cluster
from kiloset.filters.selection import SelectConfig, cluster_count, select, tempered_quotas


class Known:
    """An embedder that looks vectors up."""

    identity = "known"

    def __init__(self, vectors: Mapping[str, NDArray[np.float32]]) -> None:
        self.vectors = vectors

    def embed(self, texts: Sequence[str]) -> NDArray[np.float32]:
        return np.stack([self.vectors[text] for text in texts])


def unit(rows: NDArray[np.float64]) -> NDArray[np.float32]:
    return (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)


def candidates(categories: Sequence[str], seed: int = 0, crowding: float = 0.5) -> tuple[pl.DataFrame, Known]:
    """Return rows whose vectors crowd around six directions (the less `crowding`, the closer), with random quality."""
    rng = np.random.default_rng(seed)
    centres = unit(rng.normal(size=(6, 8)))
    vectors = unit(centres[rng.integers(0, 6, len(categories))] + crowding * rng.normal(size=(len(categories), 8)))
    rows = table_of(
        [{"id": f"g{n:05d}", "instruction": f"task {n}", "category": name, "source": "generated"}
         for n, name in enumerate(categories)]
    )  # fmt: skip
    rows = rows.with_columns(quality=pl.Series(np.round(rng.normal(size=len(categories)), 6), dtype=pl.Float64))
    return rows, Known({f"task {n}": vector for n, vector in enumerate(vectors)})


def run(
    rows: pl.DataFrame, embedder: Known, wanted: Mapping[str, int], config: SelectConfig | None = None, **overrides: Any
) -> Outcome:
    options = {"seed": 0, "fill": False, **overrides}
    outcome = select(rows, embedder, wanted, config or SelectConfig(reserve=0.0), **options)
    check_outcome("select", rows, outcome, creates=False)
    for half in (outcome.kept, outcome.dropped):
        assert half["id"].to_list() == [id for id in rows["id"] if id in set(half["id"])]
    return outcome


def best_allocations(sizes: Mapping[int, int], total: int, temper: float) -> list[dict[int, int]]:
    """Return the allocations that come nearest to proportionality, by trying all.

    Sainte-Laguë's method is known to minimise the sum of (q - share) ** 2 / share, which for a fixed total is the sum of
    q ** 2 / weight; at least one each, or if there are fewer rows than clusters, at most one.
    """
    total = min(total, sum(sizes.values()))
    least, most = (1, max(sizes.values())) if total >= len(sizes) else (0, 1)
    ranges = [range(least, min(size, most) + 1) for size in sizes.values()]
    costs: dict[tuple[int, ...], float] = {
        choice: sum(q * q / size**temper for q, size in zip(choice, sizes.values(), strict=True))
        for choice in itertools.product(*ranges)
        if sum(choice) == total
    }
    least_cost = min(costs.values())
    return [dict(zip(sizes, c, strict=True)) for c, cost in costs.items() if cost <= least_cost * (1 + 1e-9)]


@settings(max_examples=150, deadline=None, derandomize=True)
@given(st.lists(st.integers(1, 9), min_size=1, max_size=4), st.integers(1, 24), st.sampled_from([0.0, 0.5, 1.0, 2.0]))
def test_quotas_are_the_most_proportional_of_all_allocations(sizes: list[int], total: int, temper: float) -> None:
    labelled = dict(enumerate(sizes))
    quotas = tempered_quotas(labelled, total, temper)
    assert sum(quotas.values()) == min(total, sum(sizes))
    assert all(0 <= quotas[label] <= labelled[label] for label in labelled)
    if total >= len(sizes):
        assert min(quotas.values()) >= 1
    assert quotas in best_allocations(labelled, total, temper)
    more = tempered_quotas(labelled, total + 1, temper)
    assert all(quotas[label] <= more[label] for label in labelled)


@pytest.mark.parametrize(
    ("sizes", "total", "temper", "quotas"),
    [
        ({0: 100, 1: 25, 2: 25}, 20, 0.5, {0: 10, 1: 5, 2: 5}),  # roots 10, 5, 5
        ({0: 100, 1: 25, 2: 25}, 12, 1.0, {0: 8, 1: 2, 2: 2}),
        ({0: 100, 1: 25, 2: 25}, 12, 0.0, {0: 4, 1: 4, 2: 4}),
        ({0: 100, 1: 1}, 2, 1.0, {0: 1, 1: 1}),  # one each, although 100:1 is nearer to 2:0
        ({0: 4, 1: 100, 2: 4}, 2, 1.0, {0: 1, 1: 1, 2: 0}),  # the largest first, then the smaller label
        ({3: 5, 7: 5}, 5, 0.5, {3: 3, 7: 2}),  # a tie goes to the smaller label
        ({0: 100, 1: 2, 2: 2}, 50, 0.0, {0: 46, 1: 2, 2: 2}),  # what the small cannot use goes to the large
        ({0: 3, 1: 2}, 99, 0.5, {0: 3, 1: 2}),
        ({0: 3}, 0, 0.5, {0: 0}),
        ({}, 4, 0.5, {}),
    ],
)
def test_quotas_by_hand(sizes: dict[int, int], total: int, temper: float, quotas: dict[int, int]) -> None:
    assert tempered_quotas(sizes, total, temper) == quotas


def test_large_shares_follow_the_tempered_sizes() -> None:
    sizes = {0: 9000, 1: 4000, 2: 1000}
    quotas = tempered_quotas(sizes, 1000, 0.5)
    for label, size in sizes.items():
        assert abs(quotas[label] - 1000 * math.sqrt(size) / sum(map(math.sqrt, sizes.values()))) < 1


def test_exactly_the_wanted_rows_and_the_reserve_are_kept() -> None:
    rows, embedder = candidates(["a"] * 120 + ["b"] * 150 + ["c"] * 9, crowding=5.0)
    for reserve in ("0", "0.07", "0.15", "0.2", "0.333"):  # in floats, 100 * 0.07 is more than 7
        kept = run(
            rows, embedder, {"a": 20, "b": 100, "c": 9}, SelectConfig(reserve=float(reserve), max_cosine=1.0)
        ).kept
        sizes = Counter(kept["category"])
        exact = {name: math.ceil(count * (1 + Fraction(reserve))) for name, count in {"a": 20, "b": 100}.items()}
        assert (sizes["a"], sizes["b"], sizes["c"]) == (exact["a"], exact["b"], 9)
    assert kept["id"].to_list() == sorted(kept["id"])


@pytest.mark.parametrize("max_cosine", [0.6, 0.8, 0.9])
def test_no_two_kept_rows_are_closer_than_the_cap_and_each_refusal_names_a_kept_row(max_cosine: float) -> None:
    rows, embedder = candidates(["a", "b"] * 80, crowding=0.3)
    outcome = run(rows, embedder, {"a": 40, "b": 40}, SelectConfig(reserve=0.0, max_cosine=max_cosine))
    vector = dict(zip(rows["id"], embedder.embed(rows["instruction"].to_list()).astype(np.float64), strict=True))
    for one, other in itertools.combinations(outcome.kept["id"], 2):
        assert vector[one] @ vector[other] < max_cosine
    refused = outcome.dropped.filter(pl.col("reason") == "too_similar")
    assert refused.height > 10
    for row in refused.to_dicts():
        assert row["twin"] in set(outcome.kept["id"])
        assert row["measured"] == pytest.approx(vector[row["id"]] @ vector[row["twin"]], abs=1e-4)
        assert row["measured"] >= row["limit"] == max_cosine
        assert row["evidence"].startswith(f"cosine {row['measured']:.2f} with {row['twin']}, which was taken")


def test_a_row_is_compared_with_selected_rows_only() -> None:
    # At 0, 20 and 40 degrees; the limit is 25 degrees: the middle loses to the first, and so cannot stop the last.
    turns = np.radians([0.0, 20.0, 40.0])
    rows, _ = candidates(["a"] * 3)
    rows = rows.with_columns(quality=pl.Series([3.0, 2.0, 1.0]))
    embedder = Known({f"task {n}": v for n, v in enumerate(unit(np.stack([np.cos(turns), np.sin(turns)], axis=1)))})
    outcome = run(
        rows, embedder, {"a": 3}, SelectConfig(reserve=0.0, max_cosine=math.cos(math.radians(25)), clusters=1)
    )
    assert outcome.kept["id"].to_list() == ["g00000", "g00002"]
    assert outcome.dropped.select("id", "reason", "twin").rows() == [("g00001", "too_similar", "g00000")]
    assert outcome.kept["nearest_cosine"].to_list() == [None, pytest.approx(math.cos(math.radians(40)), abs=1e-4)]
    assert outcome.dropped["nearest_cosine"].to_list() == [None]


def test_a_cosine_at_the_limit_is_too_similar() -> None:
    rows, _ = candidates(["a"] * 2)
    embedder = Known({"task 0": np.float32([1, 0]), "task 1": np.float32([0.8, 0.6])})
    for limit, kept in ((0.8, 1), (0.81, 2)):
        assert run(rows, embedder, {"a": 2}, SelectConfig(reserve=0.0, max_cosine=limit)).kept.height == kept


@pytest.mark.parametrize("fill", [False, True])
@pytest.mark.parametrize("max_cosine", [0.9, 1.0])
def test_every_dropped_row_has_a_true_reason(fill: bool, max_cosine: float) -> None:
    rows, embedder = candidates(["a"] * 90 + ["b"] * 12 + ["c"] * 60 + ["spam"] * 5, crowding=0.4)
    config = SelectConfig(reserve=0.1, max_cosine=max_cosine, clusters=5)
    outcome = run(rows, embedder, {"a": 20, "b": 30, "c": 10}, config, fill=fill)
    kept = outcome.kept.to_dicts()
    reasons = Counter(outcome.dropped["reason"])
    assert set(reasons) >= {"over_quota", "category_not_wanted"}
    for row in outcome.dropped.to_dicts():
        if row["reason"] == "category_not_wanted":
            assert row["category"] == "spam"
            assert "spam" in row["evidence"]
        elif row["reason"] == "over_quota":
            place, shared = (
                int(number) for number in re.findall(r"number (\d+) by.*which (\d+) were", row["evidence"])[0]
            )
            peers = [r for r in kept if (r["category"], r["cluster"]) == (row["category"], row["cluster"])]
            assert (shared, row["limit"], row["measured"]) == (len(peers), len(peers), place)
            assert place > shared
            assert all(peer["quality"] >= row["quality"] for peer in peers)
        else:
            assert row["reason"] == "too_similar"


def test_within_a_cluster_the_best_are_taken() -> None:
    rows, embedder = candidates(["a"] * 60, crowding=5.0)
    kept = run(rows, embedder, {"a": 12}, SelectConfig(reserve=0.0, max_cosine=1.0, clusters=1)).kept
    best = rows.sort("quality", descending=True)["id"].head(12)
    assert set(kept["id"]) == set(best)


def test_clusters_share_a_category_by_their_tempered_sizes() -> None:
    rows, embedder = candidates(["a"] * 200, crowding=0.2)
    config = SelectConfig(reserve=0.0, max_cosine=1.0, clusters=6)
    outcome = run(rows, embedder, {"a": 40}, config)
    every = Counter([*outcome.kept["cluster"], *outcome.dropped["cluster"]])
    assert dict(Counter(outcome.kept["cluster"])) == tempered_quotas(dict(sorted(every.items())), 40, 0.5)


def test_what_a_crowded_cluster_cannot_give_the_others_give() -> None:
    rows, _ = candidates(["a"] * 20)
    turns = np.radians([0.0] * 10 + [90.0 + 2 * n for n in range(10)])  # ten copies, and ten rows two degrees apart
    embedder = Known({f"task {n}": v for n, v in enumerate(unit(np.stack([np.cos(turns), np.sin(turns)], axis=1)))})
    config = SelectConfig(reserve=0.0, max_cosine=0.9999, clusters=2)
    outcome = run(rows, embedder, {"a": 8}, config)
    copies = {f"g{n:05d}" for n in range(10)}
    assert (outcome.kept.height, len(copies & set(outcome.kept["id"]))) == (8, 1)
    assert Counter(outcome.dropped["reason"]) == {"too_similar": 9, "over_quota": 3}


def test_other_categories_fill_what_one_lacks_only_if_asked() -> None:
    rows, embedder = candidates(["a"] * 40 + ["b"] * 3, crowding=5.0)
    wanted, config = {"a": 10, "b": 10}, SelectConfig(reserve=0.0, max_cosine=1.0, clusters=1)
    short = run(rows, embedder, wanted, config, fill=False).kept
    assert Counter(short["category"]) == {"a": 10, "b": 3}
    full = run(rows, embedder, wanted, config, fill=True).kept
    assert Counter(full["category"]) == {"a": 17, "b": 3}
    best = rows.filter(pl.col("category") == "a").sort("quality", descending=True)["id"].head(17)
    assert set(full.filter(pl.col("category") == "a")["id"]) == set(best)


def test_the_same_seed_gives_the_same_rows() -> None:
    rows, embedder = candidates(["a", "b", "c"] * 60)
    one, other = (run(rows, embedder, {"a": 10, "b": 20, "c": 5}, seed=4) for _ in range(2))
    assert one.kept.equals(other.kept)
    assert one.dropped.equals(other.dropped)


@pytest.mark.parametrize("clusters", [0, 1, 7])
def test_the_order_of_the_rows_does_not_matter(clusters: int) -> None:
    rows, embedder = candidates(["a", "b", "c"] * 40, crowding=0.4)
    config = SelectConfig(reserve=0.1, clusters=clusters)
    one = run(rows, embedder, {"a": 10, "b": 20, "c": 5}, config)
    other = run(rows.sample(fraction=1.0, shuffle=True, seed=3), embedder, {"c": 5, "b": 20, "a": 10}, config)
    assert other.kept.sort("id").equals(one.kept)
    assert other.dropped.sort("id").equals(one.dropped.sort("id"))


def test_more_clusters_than_rows_are_no_error() -> None:
    rows, embedder = candidates(["a"] * 5, crowding=5.0)
    kept = run(rows, embedder, {"a": 2}, SelectConfig(reserve=0.0, max_cosine=1.0, clusters=50)).kept
    assert kept.height == 2


def test_one_row_and_no_row() -> None:
    rows, embedder = candidates(["a"])
    one = run(rows, embedder, {"a": 3})
    assert (one.kept["id"].to_list(), one.kept["cluster"].to_list()) == (["g00000"], [0])
    none = run(rows.clear(), embedder, {"a": 3})
    assert (none.kept.height, none.dropped.height) == (0, 0)
    assert {name: none.kept.schema[name] for name in ("cluster", "nearest_cosine")} == {
        "cluster": pl.Int32, "nearest_cosine": pl.Float64,
    }  # fmt: skip


def test_clusters_are_directions() -> None:
    rng = np.random.default_rng(1)
    axes = np.eye(3, 12)
    truth = np.repeat([0, 1, 2], 30)
    vectors = unit(axes[truth] + 0.1 * rng.normal(size=(90, 12)))
    rows = np.arange(90)
    labels = cluster(vectors, rows, 3, seed=0).tolist()
    assert len({(true, label) for true, label in zip(truth.tolist(), labels, strict=True)}) == 3
    assert cluster(vectors, rows, 3, seed=0).tolist() == labels
    assert cluster(vectors, rows, 1, seed=0).tolist() == [0] * 90


@pytest.mark.parametrize(
    ("wanted", "candidates", "clusters"),
    [
        (1000, 100_000, 100),  # a tenth of the wanted
        (107, 71_000, 10),
        (8, 100, 2),  # at least 2
        (0, 100, 2),
        (1000, 100, 12),  # an eighth of the candidates
        (8, 16, 2),
        (8, 15, 1),  # too few for two
        (8, 1, 1),
    ],
)
def test_clusters_are_a_tenth_of_the_wanted_rows_and_at_most_an_eighth_of_the_candidates(
    wanted: int, candidates: int, clusters: int
) -> None:
    assert cluster_count(wanted, candidates) == clusters


def test_each_category_has_as_many_clusters_as_the_rule_or_the_config_sets() -> None:
    rows, embedder = candidates(["a"] * 200 + ["b"] * 40 + ["c"] * 12, crowding=5.0)
    for config, counts in ((0, {"a": 5, "b": 5, "c": 1}), (7, {"a": 7, "b": 7, "c": 7})):
        outcome = run(rows, embedder, {"a": 50, "b": 90, "c": 3}, SelectConfig(reserve=0.0, clusters=config))
        every = pl.concat([outcome.kept, outcome.dropped], how="diagonal")
        assert dict(every.group_by("category").agg(pl.col("cluster").n_unique()).iter_rows()) == counts
        assert every["cluster"].n_unique() == sum(counts.values())


def test_a_large_category_is_trained_on_a_sample_as_faiss_draws_it_and_all_of_it_is_assigned(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    import faiss

    rng = np.random.default_rng(5)
    vectors = unit(rng.normal(size=(3000, 6)))
    rows = np.sort(rng.choice(3000, 1900, replace=False))
    means = faiss.Kmeans(6, 3, niter=25, seed=8, spherical=True)  # 3 * 256 rows of 1,900 are drawn
    means.train(vectors[rows])
    whole = means.index.search(vectors[rows], 1)[1][:, 0]
    monkeypatch.setattr("kiloset.filters.nearest.ASSIGNED", 128)
    assert cluster(vectors, rows, 3, seed=7).tolist() == whole.tolist()


@pytest.mark.parametrize("judged", [1, 7, 512])
@pytest.mark.parametrize("fill", [False, True])
def test_rows_judged_in_blocks_are_those_judged_one_by_one(
    judged: int, fill: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("kiloset.filters.selection.JUDGED", judged)
    rows, embedder = candidates(["a", "b", "b"] * 70, crowding=0.25, seed=9)
    rows = rows.with_columns(pl.col("quality").round(0))  # ties are broken by id
    vectors = embedder.embed(rows["instruction"].to_list()).astype(np.float64)
    known = sorted(enumerate(rows.to_dicts()), key=lambda each: (-each[1]["quality"], each[1]["id"]))
    taken: list[int] = []
    close: dict[int, tuple[float, int]] = {}
    wanted = {"a": 60, "b": 20}
    for names in ("a", "b", "ab") if fill else ("a", "b"):
        full = 80 if names == "ab" else len(taken) + wanted[names]
        for at, row in known:
            if row["category"] in names and at not in close and at not in taken and len(taken) < full:
                if taken:
                    cosine, twin = max((float(vectors[at] @ vectors[other]), other) for other in taken)
                    close[at] = round(cosine, 4), twin
                if not taken or close[at][0] < 0.9:
                    taken.append(at)
    outcome = run(rows, embedder, wanted, SelectConfig(reserve=0.0, clusters=1), fill=fill)
    assert outcome.kept["id"].to_list() == [rows["id"][at] for at in sorted(taken)]
    assert outcome.kept["nearest_cosine"].to_list() == [close[at][0] if at in close else None for at in sorted(taken)]
    similar = outcome.dropped.filter(pl.col("reason") == "too_similar").select("id", "measured", "twin").rows()
    refused = sorted(set(close) - set(taken))
    assert len(refused) > 20
    assert similar == [(rows["id"][at], close[at][0], rows["id"][close[at][1]]) for at in refused]


def test_every_selector_reports_how_evenly_it_selects_from_the_same_clusters() -> None:
    rows, embedder = candidates(["a"] * 90 + ["b"] * 60, crowding=1.0)
    rows = rows.with_columns(response_words=pl.lit(3.0))
    notes: dict[str, dict[str, Any]] = {}
    for selector in ("balanced", "random", "longest", "quality"):
        config = SelectConfig(selector=selector, reserve=0.0, clusters=4)  # type: ignore[arg-type]
        outcome = run(rows, embedder, {"a": 20, "b": 10}, config)
        notes[selector] = outcome.notes["diversity"]
        assert [notes[selector][name]["rows"] for name in ("candidates", "selected", "random")] == [150, 30, 30]
        taken = embedder.embed(outcome.kept["instruction"].to_list())
        assert notes[selector]["selected"]["vendi"] == pytest.approx(vendi_score(taken), abs=0.01)
        if selector == "balanced":
            labels = outcome.kept["cluster"].to_list()
            shares = [n / 30 for n in Counter(labels).values()]
            selected = notes[selector]["selected"]
            assert (selected["clusters"], selected["largest_cluster"]) == (len(shares), round(max(shares), 4))
            entropy = -sum(share * math.log(share) for share in shares) / math.log(8)
            assert selected["cluster_entropy"] == pytest.approx(entropy, abs=1e-4)
    evens = {selector: figures["candidates"]["cluster_entropy"] for selector, figures in notes.items()}
    assert len(set(evens.values())) == 1
    assert notes["balanced"]["selected"]["cluster_entropy"] > notes["random"]["selected"]["cluster_entropy"]


def test_each_row_is_with_the_mean_direction_it_is_nearest_to_in_angle() -> None:
    """A spherical fixed point: Euclidean k-means, whose means are shorter than 1, does not pass this."""
    rng = np.random.default_rng(3)
    spread = np.array([0.05, 1.5])[np.repeat([0, 1], 150)][:, None]  # one tight and one wide direction
    vectors = unit(np.eye(2, 4)[np.repeat([0, 1], 150)] + spread * rng.normal(size=(300, 4)))
    labels = cluster(vectors, np.arange(300), 2, seed=0)
    means = unit(np.stack([vectors[labels == label].sum(axis=0) for label in (0, 1)]).astype(np.float64))
    nearest = np.argmax(vectors @ means.T, axis=1)
    assert (nearest == labels).mean() > 0.99
    shrunk = np.stack([vectors[labels == label].mean(axis=0) for label in (0, 1)])
    euclidean = np.argmin(((vectors[:, None] - shrunk[None]) ** 2).sum(axis=2), axis=1)
    assert (euclidean == labels).mean() < 0.97


@pytest.mark.parametrize(
    ("name", "value", "limit"),
    [("temper", 1e6, 1), ("temper", -0.1, 0), ("reserve", 1e308, 100), ("reserve", -1.0, 0)],
)
def test_a_setting_whose_powers_or_products_overflow_is_refused(name: str, value: float, limit: int) -> None:
    with pytest.raises(ConfigError, match=rf"{name} must be (less|greater) than or equal to {limit}, got"):
        parse(SelectConfig, {name: value})


@pytest.mark.parametrize("selector", ["random", "longest", "quality"])
def test_a_baseline_takes_the_first_of_each_category_by_its_own_order(selector: str) -> None:
    rows, embedder = candidates([*"aaaaaaaaab" * 4, *"cc"], seed=3)
    rng = np.random.default_rng(1)
    rows = rows.with_columns(response_words=pl.Series(rng.integers(1, 12, rows.height).astype(float)))
    wanted = {"a": 7, "b": 3, "c": 5}
    config = SelectConfig(selector=selector, reserve=0.5)  # type: ignore[arg-type]
    outcome = run(rows, embedder, wanted, config)
    assert Counter(outcome.kept["category"]) == {"a": 7, "b": 3, "c": 2}
    if selector != "random":
        column = {"longest": "response_words", "quality": "quality"}[selector]
        for category, number in wanted.items():
            mine = sorted(rows.filter(category=category).select(column, "id").rows(), key=lambda r: (-r[0], r[1]))
            assert set(outcome.kept.filter(category=category)["id"]) == {id for _, id in mine[:number]}
    dropped = outcome.dropped.to_dicts()
    assert {row["reason"] for row in dropped} == {"over_quota"}
    for category in "ab":
        places = sorted(row["measured"] for row in dropped if row["category"] == category)
        assert places == [wanted[category] + n + 1 for n in range(len(places))]
        assert f"of {category} by selector {selector}, of which {wanted[category]} were taken" in next(
            row["evidence"] for row in dropped if row["category"] == category
        )
    shuffled = run(rows.sample(fraction=1.0, shuffle=True, seed=5), embedder, wanted, config)
    assert set(shuffled.kept["id"]) == set(outcome.kept["id"])
    filled = run(rows, embedder, wanted, config, fill=True)
    assert filled.kept.height == 15
    assert set(filled.kept["id"]) >= set(outcome.kept["id"])
    assert run(rows, embedder, {"a": 7, "b": 3}, config, fill=True).kept["category"].to_list().count("b") == 3


def test_chance_takes_every_row_equally_often_and_another_seed_takes_others() -> None:
    rows, embedder = candidates(["a"] * 40)
    config = SelectConfig(selector="random")
    taken = Counter(id for seed in range(200) for id in run(rows, embedder, {"a": 10}, config, seed=seed).kept["id"])
    assert sum(taken.values()) == 2000
    assert len(taken) == 40
    assert sum((n - 50) ** 2 / 50 for n in taken.values()) < 80  # chi-squared of 39 degrees; variance is a quarter less


def reviewed(rows: pl.DataFrame, **verdicts: str) -> pl.DataFrame:
    """Return the rows as a reviewer left them."""
    reasons = pl.Series([verdicts.get(id) for id in rows["id"]], dtype=pl.String)
    return rows.with_columns(review=reasons, review_reason=pl.Series([None if v is None else "why" for v in reasons]))


@pytest.mark.parametrize("selector", ["balanced", "longest", "random", "quality"])
def test_a_rejected_row_gives_its_place_to_one_other_of_its_category_and_the_rest_stays(selector: str) -> None:
    rows, embedder = candidates(["a", "b", "c"] * 60, crowding=3.0)
    rows = rows.with_columns(response_words=pl.int_range(pl.len()).cast(pl.Float64))
    wanted, config = {"a": 10, "b": 14, "c": 6}, SelectConfig(selector=selector, max_cosine=0.99)
    before = run(rows, embedder, wanted, config).kept
    for id, category in before.select("id", "category").rows()[::4]:
        outcome = run(reviewed(rows, **{id: "rejected"}), embedder, wanted, config)
        assert set(before["id"]) - set(outcome.kept["id"]) == {id}
        new = outcome.kept.filter(~pl.col("id").is_in(before["id"].to_list()))
        assert new["category"].to_list() == [category]
        reasons = outcome.dropped.filter(pl.col("id") == id)
        assert reasons.select("reason", "evidence").row(0) == ("rejected_in_review", "rejected in review: why")


@pytest.mark.parametrize("selector", ["balanced", "longest", "random", "quality"])
def test_accepted_rows_are_taken_whatever_they_are_like_and_count_for_their_category(selector: str) -> None:
    rows, embedder = candidates(["a", "b"] * 40, crowding=0.2)
    rows = rows.with_columns(response_words=pl.int_range(pl.len()).cast(pl.Float64))
    wanted, config = {"a": 8, "b": 5}, SelectConfig(selector=selector)
    out = run(rows, embedder, wanted, config).dropped
    some = [id for name in ("a", "b") for id in out.filter(pl.col("category") == name)["id"].to_list()[:6]]
    kept = run(reviewed(rows, **dict.fromkeys(some, "accepted")), embedder, wanted, config).kept
    assert set(some) <= set(kept["id"])
    counts = Counter(kept["category"])
    assert counts["b"] == 6  # one beyond what is wanted: no other gives way, and none is added
    assert counts["a"] <= config.rows(8)
    others = kept.filter(~pl.col("id").is_in(some))
    if selector == "balanced":
        for row in others["instruction"]:
            against = [one for one in kept["instruction"] if one != row]
            assert (
                max(float(embedder.vectors[row] @ embedder.vectors[one]) for one in against) < config.max_cosine + 1e-4
            )


def test_a_category_that_is_not_wanted_comes_in_by_acceptance_only() -> None:
    rows, embedder = candidates(["a", "b"] * 10, crowding=3.0)
    outcome = run(reviewed(rows, g00001="accepted"), embedder, {"a": 3})
    assert Counter(outcome.kept["category"]) == {"a": 3, "b": 1}
    assert set(outcome.dropped.filter(pl.col("category") == "b")["reason"]) == {"category_not_wanted"}


def test_what_fills_up_comes_on_top_of_rows_accepted_beyond_a_target() -> None:
    rows, embedder = candidates(["a"] * 3 + ["b"] * 30, crowding=3.0)
    accepted = dict.fromkeys([f"g{n:05d}" for n in range(3, 10)], "accepted")
    outcome = run(reviewed(rows, **accepted), embedder, {"a": 6, "b": 4}, fill=True)
    assert Counter(outcome.kept["category"]) == {"a": 3, "b": 10}  # 7 accepted, 3 in place of what "a" has not
