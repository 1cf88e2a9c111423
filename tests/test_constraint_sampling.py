"""Which constraints are drawn for which instruction, and how they are asked for."""

import itertools
import random
import re
from collections import Counter
from string import Template
from typing import Any

import pytest

from kiloset.core.constraints import IDS, check, validate
from kiloset.core.table import table_of
from kiloset.core.text import words
from kiloset.filters.rules import RulesConfig, drop_by_rules
from kiloset.generator.constraint_phrases import FILLERS, phrase_book, phrase_constraint, weights
from kiloset.generator.constraint_sampling import (
    ADDITIONS,
    AROUND_CODE,
    CONFLICTS,
    LENGTHS,
    PAIRS,
    SUITABLE,
    SampledConstraint,
    compatible,
    content_words,
    sample_constraints,
    suitable,
    with_constraints,
)

CHOICES, WEIGHTS = phrase_book().arguments, weights()
ENDINGS = [args["end_phrase"] for args in CHOICES["startend:end_checker"]]
PHRASES = {f"{id} {relation}".rstrip(): texts for (id, relation), texts in phrase_book().phrases.items()}
TASK = "Explain why bread goes stale faster in the refrigerator than on the counter."
QUESTION = "Is it safe to freeze fresh bread at home?"
FORM_LETTER = "Draft a polite letter to a neighbour about the noise at night."
TASKS = [
    TASK,
    QUESTION,
    FORM_LETTER,
    "Help me plan a birthday party for my daughter who loves {dinosaurs} and $5 cakes",
]
CATEGORIES = ["writing", "open_qa", "classification", "extraction", "closed_qa", "code", "maths", "rewriting", "my own"]


def drawn_sets(times: int) -> list[tuple[str, str, list[SampledConstraint]]]:
    rng = random.Random(7)
    sets = []
    for number in range(times):
        task, category = TASKS[number % len(TASKS)], CATEGORIES[number % len(CATEGORIES)]
        drawn = sample_constraints(rng, task, has_input=rng.random() < 0.3, category=category, count=rng.randint(1, 3))
        sets.append((task, category, drawn))
    return sets


SETS = drawn_sets(450)


def test_what_is_drawn_validates_suits_and_never_conflicts() -> None:
    for task, category, drawn in SETS:
        ids = [one.id for one in drawn]
        assert 1 <= len(ids) == len(set(ids)) <= 3
        assert set(ids) <= set(SUITABLE.get(category, IDS))
        assert not {frozenset(pair) for pair in itertools.combinations(ids, 2)} & CONFLICTS
        for one in drawn:
            validate(one.id, one.args)
            assert "$" not in one.phrase.replace("$5", ""), one.phrase
            assert one.phrase == one.phrase.strip()
            assert one.phrase.endswith((".", '"')), one.phrase
        texts = [word for one in drawn for text in _texts(one) for word in words(text)]
        assert "combination:repeat_prompt" in ids or len(texts) == len(set(texts)), task


def _texts(one: SampledConstraint) -> list[str]:
    if one.id == "keywords:existence":
        return list(one.args["keywords"])
    if one.id == "keywords:forbidden_words":
        return list(one.args["forbidden_words"])
    return [one.args["keyword"]] if one.id == "keywords:frequency" else []


def test_twenty_two_of_the_twenty_five_are_drawn() -> None:
    seen = Counter(one.id for _, _, drawn in SETS for one in drawn)
    assert set(seen) == set(WEIGHTS)
    assert set(IDS) - set(WEIGHTS) == {
        "language:response_language", "combination:two_responses", "length_constraints:nth_paragraph_first_word",
    }  # fmt: skip


def test_as_many_are_drawn_as_asked_for_where_enough_go_together() -> None:
    rng = random.Random(0)
    sizes = Counter(
        len(sample_constraints(rng, TASK, has_input=False, category="writing", count=3)) for _ in range(100)
    )
    assert sizes[3] > 80
    assert all(len(sample_constraints(rng, TASK, has_input=False, category="writing", count=1)) == 1 for _ in range(50))
    with pytest.raises(ValueError, match="count must be 1 to 3, got 4"):
        sample_constraints(rng, TASK, has_input=False, category="writing", count=4)


def test_the_same_seed_draws_and_words_the_same() -> None:
    def once() -> list[str]:
        rng = random.Random("seed")
        sets = [sample_constraints(rng, TASK, has_input=False, category="writing", count=2) for _ in range(20)]
        return [with_constraints(TASK, drawn, rng) for drawn in sets]

    assert once() == once()
    assert len(set(once())) > 15


def test_a_heavier_weight_is_drawn_more_often() -> None:
    rng = random.Random(3)
    seen = Counter(
        sample_constraints(rng, TASK, has_input=False, category="writing", count=1)[0].id for _ in range(800)
    )
    assert seen["detectable_format:title"] > 2 * seen["keywords:letter_frequency"]


@pytest.mark.parametrize(
    ("task", "has_input", "category", "never"),
    [
        (TASK, False, "writing", {"detectable_format:constrained_response", "detectable_content:number_placeholders"}),
        ("Is bread or rice cheaper to store at home?", False, "open_qa", {"detectable_format:constrained_response"}),
        (TASK, True, "writing", {"combination:repeat_prompt"}),
        ("Explain this kind of bread to a child:", False, "writing", {"combination:repeat_prompt"}),
        ("Explain bread to a child in two sentences.", False, "writing", LENGTHS | ADDITIONS),
        ("Sum the story up in under 50 words.", False, "writing", LENGTHS | ADDITIONS),
        (TASK, False, "code", set(WEIGHTS) - AROUND_CODE),
        (TASK, False, "sql_queries", set(WEIGHTS) - AROUND_CODE),
        (TASK, False, "classification", LENGTHS | {"keywords:existence", "detectable_format:title"}),
        ("Give me the hand-in dates as a Markdown list, earliest first.", False, "writing", set(WEIGHTS)),
        ("Correct only the spelling of what I wrote to my teacher.", False, "writing", set(WEIGHTS)),
        ("Translate the greeting for the guests into French.", False, "writing", set(WEIGHTS)),
        ("Erkläre, warum Brot im Kühlschrank schneller alt wird.", False, "writing", set(WEIGHTS)),
    ],
)
def test_what_an_instruction_contradicts_or_does_not_suit_is_not_drawn(
    task: str, has_input: bool, category: str, never: set[str]
) -> None:
    assert not never & set(suitable(task, has_input=has_input, category=category))
    drawn = sample_constraints(random.Random(1), task, has_input=has_input, category=category, count=3)
    assert bool(drawn) == (never != set(WEIGHTS))


def test_questions_and_letters_get_what_suits_them() -> None:
    assert "detectable_format:constrained_response" in suitable(QUESTION, has_input=True, category="closed_qa")
    assert "detectable_content:number_placeholders" in suitable(FORM_LETTER, has_input=False, category="writing")
    assert "combination:repeat_prompt" in suitable(TASK, has_input=False, category="writing")


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("change_case:english_capital", "change_case:english_lowercase"),
        ("detectable_format:json_format", "punctuation:no_comma"),
        ("startend:quotation", "startend:end_checker"),
        ("startend:quotation", "detectable_format:json_format"),
        ("detectable_content:postscript", "startend:end_checker"),
        ("length_constraints:number_words", "length_constraints:number_sentences"),
        ("combination:repeat_prompt", "punctuation:no_comma"),
        ("detectable_format:multiple_sections", "detectable_format:number_bullet_lists"),
    ],
)
def test_what_cannot_be_obeyed_together_is_a_conflict(one: str, other: str) -> None:
    assert not compatible(one, other)
    assert not compatible(other, one)


def test_conflicts_name_two_different_drawn_ids_and_leave_everything_a_partner() -> None:
    assert all(len(pair) == 2 and pair <= set(IDS) for pair in CONFLICTS)
    assert set(PAIRS) | set().union(*PAIRS.values()) <= set(IDS)
    assert all(any(compatible(one, other) for other in WEIGHTS if other != one) for one in WEIGHTS)
    assert all(set(ids) <= set(IDS) for ids in SUITABLE.values())


def test_every_way_to_ask_has_at_least_four_phrasings_that_name_their_arguments() -> None:
    assert {key.split(" ")[0] for key in PHRASES} == set(WEIGHTS)
    for key, phrasings in PHRASES.items():
        assert len(set(phrasings)) == len(phrasings) >= 4, key
        id, _, relation = key.partition(" ")
        for args in (args for args in CHOICES.get(id, ()) if not relation or relation in args.values()):
            texts = {phrase_constraint(random.Random(seed), id, args) for seed in range(60)}
            assert len(texts) == len(phrasings)
            numbers = [value for value in args.values() if isinstance(value, int)]
            assert all(
                re.search(rf"\b({n}|{n - 1})\b", phrase) or "1" in phrase for phrase in texts for n in numbers
            ), key
    assert all(Template(text).is_valid() for phrasings in PHRASES.values() for text in phrasings)


def test_every_choice_of_arguments_is_a_constraint() -> None:
    assert set(CHOICES) | {
        "keywords:existence",
        "keywords:frequency",
        "keywords:forbidden_words",
        "combination:repeat_prompt",
    } == set(WEIGHTS)
    for id, choices in CHOICES.items():
        for args in choices:
            validate(id, args)


def test_no_fixed_addition_holds_a_word_that_may_be_forbidden() -> None:
    assert not {word for phrase in ENDINGS for word in words(phrase)} & set(FILLERS)
    assert all(check("punctuation:no_comma", {}, phrase) for phrase in ENDINGS)


def test_keywords_are_content_words_of_the_instruction() -> None:
    assert content_words(TASK) == ["bread", "stale", "faster", "refrigerator", "counter"]
    assert content_words("Tell me how to write it.") == []
    assert sample_constraints(
        random.Random(0), "Tell me how you would do it all over again.", has_input=False, category="writing", count=3
    )
    for task, _, drawn in SETS:
        for one in drawn:
            if one.id in ("keywords:existence", "keywords:frequency"):
                assert {word.casefold() for word in _texts(one)} <= set(words(task))
            if one.id == "keywords:forbidden_words":
                assert not set(_texts(one)) & set(words(task))


def test_a_word_of_the_instruction_is_never_forbidden() -> None:
    task = f"Explain what {', '.join(FILLERS[3:])} mean to an editor."
    forbidden = set()
    for seed in range(80):
        for one in sample_constraints(random.Random(seed), task, has_input=False, category="writing", count=3):
            forbidden |= set(one.args.get("forbidden_words", ()))
    assert forbidden == set(FILLERS[:3])


def test_what_a_user_wrote_is_never_read_as_a_template() -> None:
    task = "Say ${what} {0} %s $end_phrase costs \\1"
    for seed in range(8):
        rng = random.Random(seed)
        drawn = [
            SampledConstraint(
                "startend:end_checker",
                {"end_phrase": "Bye {x}."},
                phrase_constraint(rng, "startend:end_checker", {"end_phrase": "$5 {x}"}),
            )
        ]
        text = with_constraints(task, drawn, rng)
        assert text.startswith(task)
        assert "$5 {x}" in text


@pytest.mark.parametrize(("task", "begins"), [("Say it", "Say it."), ("Say it!", "Say it!"), ('Say "it"', 'Say "it"')])
def test_constraints_follow_the_instruction_in_varied_ways(task: str, begins: str) -> None:
    drawn = [
        SampledConstraint("detectable_format:title", {}, "Add a title."),
        SampledConstraint("punctuation:no_comma", {}, "No commas."),
    ]
    ways = {with_constraints(task, drawn, random.Random(seed)) for seed in range(60)}
    assert {
        f"{begins} Add a title. No commas.",
        f"{begins}\n\nAdd a title. No commas.",
        f"{begins}\n\n- Add a title.\n- No commas.",
    } < ways
    assert len(ways) >= 6
    assert all(way.startswith(begins) for way in ways)
    assert with_constraints(task, [], random.Random(0)) == task


def test_constraints_stand_before_an_instruction_that_points_at_its_input() -> None:
    drawn = [SampledConstraint("detectable_format:title", {}, "Add a title.")]
    assert with_constraints("Sum this up: ", drawn, random.Random(0)) == "Add a title. Sum this up:"


def test_no_rule_drops_an_instruction_for_the_way_its_constraints_are_asked_for() -> None:
    rng, rows = random.Random(11), []
    for id in WEIGHTS:
        arguments: tuple[dict[str, Any], ...] = CHOICES.get(id, ({"keywords": ["bread", "counter"]},))
        if id == "keywords:frequency":
            arguments = ({"relation": "at least", "keyword": "bread", "frequency": 2},)
        elif id == "keywords:forbidden_words":
            arguments = ({"forbidden_words": ["very", "really", "great"]},)
        elif id == "combination:repeat_prompt":
            arguments = ({"prompt_to_repeat": TASK},)
        for args in arguments:
            for seed in range(6):
                drawn = [SampledConstraint(id, args, phrase_constraint(random.Random(seed), id, args))]
                rows.append(with_constraints(TASK, drawn, rng))
    rows += [with_constraints(task, drawn, rng) for task, _, drawn in SETS]
    table = table_of(
        [
            {"id": f"g{n:05d}", "instruction": row, "response": "It does so.", "source": "generated"}
            for n, row in enumerate(dict.fromkeys(rows))
        ]
    )
    assert drop_by_rules(table, RulesConfig()).dropped.select("instruction", "reason").rows() == []
