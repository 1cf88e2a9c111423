"""The Vendi score and nearest neighbours against what is known and against brute force."""

import numpy as np
import pytest

from kiloset.filters.diversity import diversity, evenness, nearest_cosines, vendi_score


def unit(rows):
    return (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)


def test_equal_rows_count_once_and_rows_at_right_angles_each():
    assert vendi_score(np.eye(7, dtype=np.float32)) == pytest.approx(7)
    assert vendi_score(np.eye(7, dtype=np.float32)[[2] * 9]) == pytest.approx(1)
    assert vendi_score(np.eye(7, dtype=np.float32)[[0, 0, 1, 1]]) == pytest.approx(2)
    assert vendi_score(np.zeros((0, 4), np.float32)) == 0


@pytest.mark.parametrize("shape", [(5, 30), (60, 8)])
def test_the_score_is_that_of_the_whole_kernel(shape, monkeypatch):
    monkeypatch.setattr("kiloset.filters.diversity.WIDE", 7)
    vectors = unit(np.random.default_rng(1).normal(size=shape))
    shares = np.linalg.eigvalsh(vectors.astype(float) @ vectors.T.astype(float) / len(vectors))
    shares = shares[shares > 1e-12]
    assert vendi_score(vectors) == pytest.approx(float(np.exp(-(shares * np.log(shares)).sum())), rel=1e-6)


def test_the_nearest_other_row_is_found_in_any_block(monkeypatch):
    monkeypatch.setattr("kiloset.filters.diversity.BLOCK", 7)
    vectors = unit(np.random.default_rng(2).normal(size=(40, 6)))
    naive = [max(float(a @ b) for j, b in enumerate(vectors) if j != i) for i, a in enumerate(vectors)]
    assert nearest_cosines(vectors) == pytest.approx(naive, abs=1e-6)


def test_rows_lie_evenly_over_clusters_or_not():
    assert evenness(np.int32([4, 2, 2, 4]), 2) == {"clusters": 2, "cluster_entropy": 1.0, "largest_cluster": 0.5}
    # shares 3/4 and 1/4: 0.5623 nats, of ln 4 = 1.3863
    assert evenness(np.int32([0, 0, 0, 3]), 4) == {"clusters": 2, "cluster_entropy": 0.4056, "largest_cluster": 0.75}
    assert evenness(np.int32([5, 5]), 1) == {"clusters": 1, "cluster_entropy": 0.0, "largest_cluster": 1.0}
    assert evenness(np.int32([]), 3) == {"clusters": 0, "cluster_entropy": 0.0, "largest_cluster": 0.0}


def test_the_clusters_of_candidates_selection_and_chance_are_reported():
    vectors = unit(np.random.default_rng(4).normal(size=(40, 6)))
    figures = diversity(vectors, np.arange(10), seed=0, labels=np.arange(40, dtype=np.int32) % 20)
    names = ("clusters", "cluster_entropy", "largest_cluster")
    assert [figures["candidates"][name] for name in names] == [20, 1.0, 0.05]
    assert [figures["selected"][name] for name in names] == [10, round(np.log(10) / np.log(20), 4), 0.1]
    alone = diversity(vectors, np.arange(10), seed=0, labels=np.arange(40, dtype=np.int32))
    assert [alone["random"][name] for name in names] == [10, round(np.log(10) / np.log(40), 4), 0.1]
    assert 5 < figures["random"]["clusters"] < 10  # of 20 pairs, ten rows drawn: 7.9 expected
    without = diversity(vectors, np.arange(10), seed=0)
    assert all(without[set_] == {k: v for k, v in figures[set_].items() if k not in names} for set_ in figures)


def test_a_spread_selection_beats_chance_and_all_figures_are_of_the_rows_they_name():
    rng = np.random.default_rng(3)
    crowd = unit(np.eye(12)[rng.choice(12, 300, p=[0.78, *[0.02] * 11])] + 0.05 * rng.normal(size=(300, 12)))
    one_of_each = np.array([int(np.argmax(crowd[:, n])) for n in range(12)])
    figures = diversity(crowd, one_of_each, seed=0)
    assert [figures[name]["rows"] for name in ("candidates", "selected", "random")] == [300, 12, 12]
    assert figures["selected"]["vendi"] == pytest.approx(vendi_score(crowd[one_of_each]), abs=0.01)
    assert figures["candidates"]["vendi"] == pytest.approx(vendi_score(crowd), abs=0.01)
    assert figures["selected"]["vendi"] > figures["random"]["vendi_most"]
    assert figures["selected"]["nearest"] == sorted(figures["selected"]["nearest"])
    assert figures["selected"]["nearest"][-1] < 0.5 < figures["random"]["nearest"][-1]
    assert diversity(crowd, one_of_each, seed=0) == figures
    assert diversity(crowd[:1], np.array([0]), seed=0)["selected"] == {"rows": 1, "vendi": 1.0, "nearest": []}
    assert diversity(crowd, np.array([], dtype=np.int64), seed=0)["random"]["vendi"] == 0
