"""Sentences of one text compared with stretches of another, by an embedder that adds up words."""

from itertools import combinations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from kiloset.core.text import squash, words
from kiloset.rewrite.passages import SHORT, Covered, covered, sentences, stretches
from tests.fakes import FakeEmbedder

LONG = [
    "The bridge was opened in the spring of a cold year.",
    "Its two towers carry cables as thick as a tree trunk.",
    "Ships pass beneath it at high tide without lowering masts.",
    "A small museum on the north bank tells its history.",
    "Painters begin again at one end when they reach the other.",
]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (" ".join(LONG), LONG),
        ("\n\n".join(LONG), LONG),
        ("Yes. " + LONG[0], ["Yes. " + LONG[0]]),
        (LONG[0] + " It is so.", [LONG[0] + " It is so."]),
        ("- one\n- two\n- three", ["- one - two - three"]),
        (f"J. Bos and Dr. Lee met Mrs. King here one day. {LONG[1]}", ["J. Bos and Dr. Lee met Mrs. King here one day.", LONG[1]]),
        ("Is it so that all of them came? They did!", ["Is it so that all of them came? They did!"]),
        ("", [""]),
        ("...", ["..."]),
    ],
)  # fmt: skip
def test_a_text_is_cut_into_sentences_and_short_ones_take_in_the_next(text: str, expected: list[str]) -> None:
    assert sentences(text) == expected


def test_stretches_are_runs_of_up_to_four_and_the_whole() -> None:
    runs = stretches(LONG)
    assert len(runs) == 5 + 4 + 3 + 2 + 1
    assert set(LONG) < set(runs)
    assert " ".join(LONG) in runs
    assert stretches(["a", "a"]) == ["a", "a a"]


def test_a_lost_and_a_new_sentence_are_found() -> None:
    old, new = (
        " ".join(LONG),
        " ".join([LONG[4], LONG[0], LONG[1], "Nobody knows why violins were sold there by sailors."]),
    )
    (coverage,) = covered([(old, new)], FakeEmbedder())
    assert coverage.new == "Nobody knows why violins were sold there by sailors."
    assert coverage.lost in (LONG[2], LONG[3])
    assert max(coverage.kept, coverage.added) < 0.6


def test_order_and_joining_lose_nothing() -> None:
    joined = LONG[0].rstrip(".") + " and " + LONG[1]
    ((kept, _, added, _),) = covered([(f"{LONG[0]} {LONG[1]}", joined)], FakeEmbedder())
    assert added > 0.9  # the two sentences together; each alone is half of the joined one
    assert kept > 0.6
    ((kept, _, added, _),) = covered([(" ".join(LONG), " ".join(reversed(LONG)))], FakeEmbedder())
    assert (kept, added) == (1.0, 1.0)


def test_all_pairs_at_once_are_those_one_by_one_and_by_brute_force() -> None:
    texts = [" ".join(LONG[at:]) for at in range(4)] + ["Nothing of this."]
    pairs = list(combinations(texts, 2))
    together = covered(pairs, FakeEmbedder())
    assert together == [covered([pair], FakeEmbedder())[0] for pair in pairs]
    embed = FakeEmbedder().embed
    for (old, new), coverage in zip(pairs, together, strict=True):
        for of, among, cosine in ((old, new, coverage.kept), (new, old, coverage.added)):
            runs = [" ".join(sentences(among)[a:b]) for a in range(5) for b in range(a + 1, 6)]
            best = [max(float(embed([s])[0] @ embed([run])[0]) for run in runs if run) for s in sentences(of)]
            # With five sentences or fewer, four of them and the whole are every run there is.
            assert cosine == pytest.approx(min(best), abs=2e-4)


def test_nothing_to_compare_is_no_error() -> None:
    assert covered([], FakeEmbedder()) == []
    ((kept, lost, _, new),) = covered([("", "...")], FakeEmbedder())
    assert (lost, new) == ("", "...")
    assert np.isfinite(kept)
    assert Covered(1.0, "a", 1.0, "b")._fields == ("kept", "lost", "added", "new")


@given(st.text(st.sampled_from("ab .!?\nJ,é中"), max_size=80))
def test_no_word_is_lost_by_cutting(text: str) -> None:
    parts = sentences(text)
    assert squash(" ".join(parts)) == squash(text) or words(" ".join(parts)) == words(text)
    if len(parts) > 1:
        assert all(len(words(sentence)) >= SHORT for sentence in parts)
