"""Subjects for new tasks: reading a file of them, describing seeds by their words, and choosing evenly."""

import random
from collections import Counter

import pytest

from kiloset.core.errors import ConfigError, EmptyError
from kiloset.generator.topics import LONGEST, Topics, read_topics
from tests.paths import ROOT

SEED = {
    "instruction": "Tell me what the otter eats.",
    "input": "The otter lives by the river. The otter eats fish.",
    "topic": None,
}
OTHER = {"instruction": "What does the river carry?", "input": "", "topic": None}


def test_a_line_names_a_category_or_is_for_all(tmp_path):
    file = tmp_path / "topics.txt"
    file.write_text(
        "# subjects\n\nmaths: a garden fence\nRome: the fall of a city\n  maths:  a garden fence \nfrogs\n",
        encoding="utf-8",
    )
    assert read_topics(str(file), ["maths", "code"]) == {
        "maths": ["a garden fence"],
        "": ["Rome: the fall of a city", "frogs"],
    }


@pytest.mark.parametrize(
    ("text", "error", "message"),
    [
        ("math: a fence\n", ConfigError, r"topics.txt:1: no category is named 'math'; did you mean 'maths'\?"),
        ("frogs\n" + "x" * (LONGEST + 1), ConfigError, rf"topics.txt:2: a subject has at most {LONGEST} characters"),
        ("# nothing\n", EmptyError, "topics.txt: has no subject"),
    ],
    ids=["misspelt category", "too long", "empty"],
)
def test_a_faulty_file_is_refused_with_its_line(tmp_path, text, error, message):
    file = tmp_path / "topics.txt"
    file.write_text(text, encoding="utf-8")
    with pytest.raises(error, match=message):
        read_topics(str(file), ["maths"])


def test_a_file_that_is_missing_is_refused(tmp_path):
    with pytest.raises(ConfigError, match="cannot be read"):
        read_topics(str(tmp_path / "no.txt"), ["maths"])


def test_a_seed_is_described_by_words_frequent_in_it_and_rare_elsewhere():
    topics = Topics({}, {"closed_qa": [SEED], "open_qa": [OTHER]})
    assert topics.describe(SEED).split(", ")[0] == "otter"
    assert "river" not in topics.describe(SEED).split(", ")[:2]  # the other seed has it as well
    assert topics.describe({**SEED, "topic": "animals of the river"}) == "animals of the river"


def test_every_subject_is_used_before_one_is_used_again():
    topics = Topics({"maths": ["a", "b", "c"], "": ["d", "e"]}, {})
    rng = random.Random(0)
    chosen = [topics.choose("maths", rng) for _ in range(6)]
    assert Counter(chosen) == {"a": 2, "b": 2, "c": 2}
    assert set(chosen[:3]) == {"a", "b", "c"}
    assert {topics.choose("code", rng) for _ in range(2)} == {"d", "e"}


def test_without_a_file_the_subjects_are_those_of_all_seeds():
    topics = Topics({}, {"closed_qa": [SEED], "open_qa": [OTHER]})
    rng = random.Random(0)
    assert {topics.choose("open_qa", rng) for _ in range(2)} == {topics.describe(SEED), topics.describe(OTHER)}
    assert Topics({}, {}).choose("open_qa", rng) == ""


def test_the_bundled_subjects_are_for_the_categories_of_the_bundled_seeds():
    import json

    seeds = [json.loads(line) for line in (ROOT / "seeds" / "seeds.jsonl").read_text(encoding="utf-8").splitlines()]
    categories = {seed["category"] for seed in seeds}
    topics = read_topics(str(ROOT / "seeds" / "topics.txt"), sorted(categories))
    assert set(topics) == categories
    assert min(map(len, topics.values())) >= 20
