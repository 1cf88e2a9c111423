"""Semantic duplicates against a naive greedy cover in plain Python, over fixed vectors."""

import random
from collections.abc import Sequence
from typing import Any

import numpy as np
import polars as pl
import pytest
from numpy.typing import NDArray

from kiloset.core.errors import ConfigError
from kiloset.core.table import check_outcome, full_instruction, table_of
from kiloset.filters import nearest, semantic
from kiloset.filters.semantic import SemanticConfig, check_semantic, drop_semantic_duplicates
from tests.test_paraphrases import ALIKE, MISSED, OPPOSITES

CONFIG = SemanticConfig()
RANKS = {"seed": 0, "pool": 1, "generated": 2}
FRAMES = [
    "What is {}?",
    "Please tell me what {} is.",
    "Describe {} to me.",
    "How would you explain {}?",
    "Write about {}.",
]
"""Requests that no word distinguishes."""


def ask(subject: str, at: int) -> str:
    """Return a request about a subject, another text for each number."""
    return FRAMES[at % 5].format(subject) + f"{at:b}".replace("0", "!").replace("1", "?")


class FixedVectors:
    """An embedder whose vectors are fixed by text."""

    identity, is_costly = "fixed", False

    def __init__(self, vectors: dict[str, Any]) -> None:
        self.vectors = vectors

    def embed(self, texts: Sequence[str]) -> NDArray[np.float32]:
        return np.array([self.vectors[text] for text in texts], np.float32).reshape(len(texts), -1 if texts else 0)


def at_cosine(cosine: float, axis: int = 1, dims: int = 8) -> list[float]:
    """Return a vector of that cosine with the first axis."""
    vector = np.zeros(dims)
    vector[0], vector[axis] = cosine, (1 - cosine**2) ** 0.5
    return vector.tolist()


def table(*rows: dict[str, Any]) -> pl.DataFrame:
    return table_of([{"id": f"g{i:05d}", "source": "generated", "response": "ok", **row} for i, row in enumerate(rows)])


def compare(rows: pl.DataFrame, embedder: Any, config: SemanticConfig = CONFIG, *, protect_pool: bool = False) -> Any:
    """Compare; check that each row is accounted for and each duplicate's kept row stays."""
    result = drop_semantic_duplicates(rows, embedder, config, protect_pool=protect_pool, seed=0)
    check_outcome("semantic", rows, result.outcome, creates=False)
    assert set(result.outcome.dropped["twin"]) <= set(result.outcome.kept["id"])
    return result


def clustered(seed: int, number: int = 300) -> tuple[list[dict[str, Any]], FixedVectors]:
    """Return rows about a few subjects, in several frames, in directions near that of another subject or their own."""
    rng, chance = random.Random(seed), np.random.default_rng(seed)
    subjects = ["".join(rng.choices("bcdfglmnrst", k=7)) for _ in range(12)]
    means = chance.standard_normal((4, 16))
    rows, vectors = [], {}
    for at in range(number):
        subject = rng.randrange(12)
        asked = ask(subjects[subject], at)
        rows.append({
            "id": f"x{at:04d}", "instruction": asked, "input": rng.choice(["", "", "some text", " some  text\n"]),
            "source": rng.choices(list(RANKS), [1, 3, 6])[0], "depth": rng.randint(0, 3),
            "response": "r" * rng.randint(1, 4), "subject": subject,
        })  # fmt: skip
        for text in {asked, full_instruction(pl.DataFrame([rows[-1]]))[0]}:
            vector = means[subject % 4] + chance.normal(scale=rng.choice([0.05, 0.2, 0.4]), size=16)
            vectors[text] = (vector / np.linalg.norm(vector)).astype(np.float32)
    return rows, FixedVectors(vectors)


def greedy(rows: list[dict[str, Any]], vectors: dict[str, Any], protected: set[str]) -> tuple[dict, dict, dict]:
    """Return the kept row of each duplicate, the nearest kept cosines and the close pairs of a cover by brute force."""

    def cosine(one: dict[str, Any], other: dict[str, Any]) -> float:
        texts = [[row["instruction"], f"{row['instruction']}\n\n{row['input']}"] for row in (one, other)]
        joint = [
            vectors[each[1] if row["input"] else each[0]].astype(float)
            for each, row in zip(texts, (one, other), strict=True)
        ]
        alone = [vectors[each[0]].astype(float) for each in texts]
        return round(float(min(joint[0] @ joint[1], alone[0] @ alone[1])), 4)

    kept: list[dict[str, Any]] = []
    duplicates: dict[str, Any] = {}
    pairs: dict[tuple[str, str], tuple[float, str]] = {}
    for row in sorted(rows, key=lambda r: (RANKS[r["source"]], -len(r["response"]), r["depth"], r["id"])):
        near = [(cosine(row, other), other) for other in kept if other["input"].split() == row["input"].split()]
        near = [(value, other) for value, other in near if value >= 0.9]
        same = [(v, o) for v, o in near if v >= 0.95 and o["subject"] == row["subject"]]
        if same and row["source"] not in protected:
            duplicates[row["id"]] = max(same, key=lambda pair: pair[0])
            continue
        kept.append(row)
        for value, other in near:
            close = "protected" if value >= 0.95 else "below_threshold"
            why = close if other["subject"] == row["subject"] else "other_words"
            pairs[row["id"], other["id"]] = value, why
    nearest = {row["id"]: max((v for ids, (v, _) in pairs.items() if row["id"] in ids), default=None) for row in kept}
    return duplicates, nearest, pairs


@pytest.mark.parametrize(("seed", "block"), [(0, 1024), (1, 7), (2, 64)])
@pytest.mark.parametrize("protect_pool", [False, True])
def test_keeps_exactly_what_a_greedy_cover_over_all_pairs_keeps(monkeypatch, seed, block, protect_pool):
    monkeypatch.setattr(semantic, "BLOCK", block)
    monkeypatch.setattr(semantic, "NEAREST", 300)
    monkeypatch.setattr(semantic, "LISTED", 100_000)
    rows, embedder = clustered(seed)
    duplicates, nearest, pairs = greedy(rows, embedder.vectors, {"seed", "pool"} if protect_pool else {"seed"})

    result = compare(table_of(rows), embedder, protect_pool=protect_pool)

    assert 30 < len(duplicates) < 270
    assert result.outcome.kept["id"].to_list() == [row["id"] for row in rows if row["id"] not in duplicates]
    for row in result.outcome.dropped.to_dicts():
        cosine, twin = duplicates[row["id"]]
        assert (row["reason"], row["measured"], row["limit"]) == ("semantic_duplicate", cosine, 0.95)
        assert row["evidence"] == f"cosine {cosine:.4g} with {row['twin']} (limit 0.95)"
        assert row["twin"] == twin["id"]
    assert dict(result.outcome.kept.select("id", "nearest_kept_cosine").iter_rows()) == nearest
    listed = result.borderline.to_dicts()
    assert {(row["id"], row["other"]): (row["cosine"], row["why"]) for row in listed} == pairs
    assert result.pairs == len(pairs) == len(listed)
    assert [row["cosine"] for row in listed] == sorted((v for v, _ in pairs.values()), reverse=True)
    text = {row["id"]: row["instruction"] for row in rows}
    assert all((text[r["id"]], text[r["other"]]) == (r["instruction"], r["other_instruction"]) for r in listed)


def test_the_order_of_the_rows_does_not_matter():
    rows, embedder = clustered(3)
    once = compare(table_of(rows), embedder)
    again = compare(table_of(random.Random(0).sample(rows, len(rows))), embedder)
    assert once.borderline.equals(again.borderline)
    for part in ("kept", "dropped"):
        assert getattr(once.outcome, part).sort("id").equals(getattr(again.outcome, part).sort("id"))


def test_a_row_leaves_only_for_a_duplicate_that_stays():
    # Each duplicates the one before: a chain of which the best row goes first.
    angles = np.arange(5) * np.arccos(0.96)
    rows = [{"instruction": frame.format("jazz"), "response": "r" * (9 - at)} for at, frame in enumerate(FRAMES)]
    vectors = {row["instruction"]: [np.cos(angle), np.sin(angle)] for row, angle in zip(rows, angles, strict=True)}
    result = compare(table(*rows), FixedVectors(vectors))
    assert result.outcome.kept["id"].to_list() == ["g00000", "g00002", "g00004"]
    assert result.outcome.dropped["twin"].to_list() == ["g00000", "g00002"]


def test_a_cosine_counts_from_the_threshold_on_after_rounding_to_four_digits():
    asked = ["What is jazz?", "Describe jazz.", "Write about jazz.", "How would you explain jazz?"]
    cosines = [1.0, 0.94996, 0.94994, 0.8999]
    vectors = {text: at_cosine(cosine, axis) for axis, (text, cosine) in enumerate(zip(asked, cosines, strict=True), 1)}
    rows = [{"instruction": text, "response": "r" * (9 - at)} for at, text in enumerate(asked)]
    result = compare(table(*rows), FixedVectors(vectors))
    assert result.outcome.dropped["id"].to_list() == ["g00001"]
    assert result.outcome.dropped["measured"].to_list() == [0.95]
    assert result.outcome.kept["nearest_kept_cosine"].to_list() == [0.9499, 0.9499, None]


@pytest.mark.parametrize(
    ("first", "second", "why"),
    [
        ("What is 2 + 3?", "How much is 2 * 3?", "other_slots"),
        ("What is the capital of Kansas?", "Which is the capital of Arkansas?", "other_slots"),
        ("Write it in C.", "Write this in C#.", "other_slots"),
        ("Convert feet to meters.", "How can I convert meters to feet?", "other_order"),
        ("A dish with garlic?", "A dish without garlic?", "other_sense"),
        ("Explain this text. " + "jazz " * 100, "Describe this text. " + "jazz " * 100, "long"),
    ],
)
def test_rows_that_a_word_distinguishes_stay_however_close(first, second, why):
    result = compare(
        table({"instruction": first}, {"instruction": second}),
        FixedVectors(dict.fromkeys((first, second), at_cosine(1))),
    )
    assert result.outcome.dropped.is_empty()
    assert result.borderline.rows() == [("g00001", "g00000", 1.0, why, second, first)]


def test_rows_with_different_inputs_are_neither_duplicates_nor_listed():
    rows = table(*({"instruction": "Sum it up.", "input": text} for text in ("one text", "another", "", "one  text ")))
    result = compare(rows, FixedVectors(dict.fromkeys([*full_instruction(rows), "Sum it up."], at_cosine(1))))
    assert result.outcome.dropped.select("id", "twin").rows() == [("g00003", "g00000")]
    assert result.pairs == 0


def test_of_rows_with_one_input_the_instructions_have_to_be_close_as_well():
    one, other = "What is said about jazz?", "What is said of jazz?"
    vectors = {
        f"{one}\n\ntext": at_cosine(1),
        f"{other}\n\ntext": at_cosine(0.99),
        one: at_cosine(1),
        other: at_cosine(0.92),
    }
    result = compare(table(*({"instruction": text, "input": "text"} for text in (one, other))), FixedVectors(vectors))
    assert result.outcome.dropped.is_empty()
    assert result.borderline.select("cosine", "why").rows() == [(0.92, "below_threshold")]


@pytest.mark.parametrize(("protect_pool", "expected"), [(False, ["p2", "g3"]), (True, ["g3"])])
def test_seeds_never_leave_nor_do_rows_of_a_protected_pool(protect_pool, expected):
    ids = {"s0": "seed", "s1": "seed", "p2": "pool", "g3": "generated"}
    rows = table(
        *({"id": id, "source": source, "instruction": frame.format("jazz")}
          for (id, source), frame in zip(ids.items(), FRAMES, strict=False))
    )  # fmt: skip
    result = compare(rows, FixedVectors(dict.fromkeys(rows["instruction"], at_cosine(1))), protect_pool=protect_pool)
    assert result.outcome.dropped["id"].to_list() == expected
    assert set(result.borderline["why"]) == {"protected"}


def test_of_many_close_pairs_the_closest_are_listed_and_all_are_counted(monkeypatch):
    monkeypatch.setattr(semantic, "LISTED", 10)
    chance = np.random.default_rng(0)
    rows = table(*({"instruction": f"What is {''.join(chance.choice(list('bcdfg'), 9))}?"} for _ in range(120)))
    near = np.eye(8)[0] + chance.normal(scale=0.05, size=(120, 8))
    near /= np.linalg.norm(near, axis=1, keepdims=True)
    monkeypatch.setattr(semantic, "NEAREST", 200)
    result = compare(rows, FixedVectors(dict(zip(rows["instruction"], near.astype(np.float32), strict=True))))
    cosines = (near @ near.T)[np.triu_indices(120, 1)]
    assert result.outcome.dropped.is_empty()
    assert result.pairs == (cosines >= 0.9).sum() > 5000
    assert result.borderline["cosine"].to_list() == pytest.approx(sorted(cosines, reverse=True)[:10], abs=1e-4)


def test_thousands_of_rows_at_one_place_are_compared_with_a_few_each(monkeypatch):
    looked: list[int] = []
    difference = semantic.difference
    monkeypatch.setattr(semantic, "difference", lambda one, other: looked.append(1) or difference(one, other))
    same = table(*({"instruction": ask("jazz", at)} for at in range(1500)))
    assert compare(same, FixedVectors(dict.fromkeys(same["instruction"], at_cosine(1)))).outcome.kept.height == 1
    assert len(looked) == 1499

    looked.clear()
    letters = "bcdfghjklm"
    names = ["".join(letters[int(digit)] for digit in f"{at:04d}") for at in range(1500)]
    apart = table(*({"instruction": f"What is {name}?"} for name in names))
    assert compare(apart, FixedVectors(dict.fromkeys(apart["instruction"], at_cosine(1)))).outcome.dropped.is_empty()
    assert len(looked) <= 1500 * semantic.NEAREST + semantic.LISTED


@pytest.mark.parametrize("texts", [[], ["What is jazz?"], ["", "\0", "?!"], ["What is jazz?", "Describe jazz."]])
def test_nothing_one_row_or_vectors_of_length_zero_leave_all_in(texts):
    result = compare(table(*({"instruction": text} for text in texts)), FixedVectors(dict.fromkeys(texts, [0.0] * 4)))
    assert result.outcome.kept.height == len(texts)
    assert result.outcome.kept["nearest_kept_cosine"].dtype == pl.Float64
    assert result.borderline.columns == ["id", "other", "cosine", "why", "instruction", "other_instruction"]


def test_an_inverted_file_finds_nearly_all_that_a_comparison_with_all_finds(monkeypatch):
    chance = np.random.default_rng(0)
    themes = chance.standard_normal((40, 32))
    first = themes[chance.integers(0, 40, 1200)] + chance.standard_normal((1200, 32))
    near = np.concatenate([first, first + chance.normal(scale=0.3, size=first.shape)])
    near /= np.linalg.norm(near, axis=1, keepdims=True)
    rows = table(*({"instruction": ask("jazz", at)} for at in range(2400)))
    embedder = FixedVectors(dict(zip(rows["instruction"], near.astype(np.float32), strict=True)))
    exact = set(compare(rows, embedder).outcome.dropped["id"])
    monkeypatch.setattr(nearest, "EXACT", 100)
    lists = nearest.empty_index(near.astype(np.float32), 0)
    assert 0 < nearest.PROBED < lists.nlist
    some = compare(rows, embedder).outcome.dropped
    assert len(exact) > 1000
    assert len(exact & set(some["id"])) >= 0.98 * len(exact)
    assert some.equals(compare(rows, embedder).outcome.dropped)
    monkeypatch.setattr(nearest, "PROBED", lists.nlist)
    assert set(compare(rows, embedder).outcome.dropped["id"]) == exact


def test_the_bound_of_review_is_checked_against_the_threshold():
    check_semantic(SemanticConfig(threshold=0.9, review=0.9))
    with pytest.raises(ConfigError, match=r"\[semantic\] review must be at most threshold \(0.85\), got 0.9$"):
        check_semantic(SemanticConfig(threshold=0.85))


@pytest.mark.models
def test_minilm_and_the_words_together_drop_paraphrases_and_no_opposite():
    from kiloset.engines.embedded import model_path
    from kiloset.engines.embedder import SentenceEmbedder

    embedder = SentenceEmbedder(model_path("embedded:all-minilm-l6-v2", "models.embedder"), "x")
    for pairs, dropped in ((ALIKE, 5), ([*OPPOSITES, *MISSED], 0)):
        texts = [text for pair in pairs for text in pair]
        fixed = FixedVectors(dict(zip(texts, embedder.embed(texts), strict=True)))
        tables = [table({"instruction": first}, {"instruction": second}) for first, second in pairs]
        assert sum(compare(rows, fixed).outcome.dropped.height for rows in tables) == dropped
