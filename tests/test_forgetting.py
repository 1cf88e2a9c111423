import re
from collections import Counter
from math import nan

import pytest

from kiloset.core.errors import DataError
from kiloset.core.text import normal_form
from kiloset.evaluation.forgetting import (
    CapabilityTask,
    Choice,
    choice_metrics,
    choices,
    forgetting,
    is_correct,
    prompts,
    written_metrics,
    written_tasks,
)
from kiloset.evaluation.metrics import Answer, Metric

TOLERANCE = 0.2
"""How far guessing by length may be from guessing at random, in accuracy; 40 items give a standard error of 0.08."""


def choice(key, correct, capability="facts", options=("a", "b")):
    return Choice(key, capability, ({"role": "user", "content": key},), options, correct)


def task(judged, *accepted):
    return CapabilityTask("k", "strings", ({"role": "user", "content": "?"},), accepted, judged)


def answer(text):
    return Answer(text, "stop", 3)


def metric(name, **sums):
    return Metric(name, "fraction", "higher", sums, dict.fromkeys(sums, 1.0))


def test_there_are_forty_choices_of_each_capability_and_none_twice():
    result = choices()
    assert Counter(c.capability for c in result) == dict.fromkeys(
        ("facts", "common sense", "grammar", "reading", "words"), 40
    )
    assert len({c.key for c in result}) == len(result)
    assert len({normal_form(c.messages[0]["content"]) for c in result}) == len(result)
    assert all(len(set(c.options)) == len(c.options) and 0 <= c.correct < len(c.options) for c in result)
    assert len({normal_form(c.options[c.correct]) for c in result if c.capability == "grammar"}) == 40


def test_the_right_option_stands_in_each_place_equally_often():
    places = Counter((c.capability, len(c.options), c.correct) for c in choices())
    for capability, options in {(name, many) for name, many, _ in places}:
        counts = [places[capability, options, place] for place in range(options)]
        assert max(counts) - min(counts) <= 1, (capability, counts)


@pytest.mark.parametrize("pick", [min, max])
@pytest.mark.parametrize("capability", ["facts", "common sense", "grammar", "reading", "words"])
def test_length_does_not_give_the_right_option_away(capability, pick):
    own = [c for c in choices() if c.capability == capability]
    lengths = [[len(option) for option in c.options] for c in own]
    guessed = sum((n[c.correct] == pick(n)) / n.count(pick(n)) for c, n in zip(own, lengths, strict=True)) / len(own)
    assert guessed == pytest.approx(sum(1 / len(c.options) for c in own) / len(own), abs=TOLERANCE)


def test_positive_and_negative_reviews_are_balanced():
    right = Counter(c.options[c.correct] for c in choices() if "positive or negative" in c.messages[0]["content"])
    assert right == {"This review is positive.": 10, "This review is negative.": 10}


def test_the_option_with_the_highest_score_is_chosen_and_a_tie_goes_to_the_first():
    items = [choice("p", 0), choice("q", 0), choice("r", 1), choice("s", 1, "words")]
    scores = {("p", 0): -1.0, ("p", 1): -2.0, ("q", 0): -2.0, ("q", 1): -1.0, ("r", 0): -1.0, ("r", 1): -1.0}
    facts, meaning = choice_metrics(items, scores | {("s", 0): -9.0, ("s", 1): -0.5})
    assert (facts.name, facts.sums, facts.counts) == (
        "accuracy facts",
        {"p": 1, "q": 0, "r": 0},
        {"p": 1, "q": 1, "r": 1},
    )
    assert (meaning.name, meaning.sums) == ("accuracy words", {"s": 1})


def test_an_item_with_a_score_that_is_not_known_is_left_out():
    scores = {("p", 0): -1.0, ("p", 1): nan, ("q", 0): nan, ("q", 1): -1.0, ("r", 0): -2.0, ("r", 1): -1.0}
    (result,) = choice_metrics([choice("p", 0), choice("q", 1), choice("r", 1)], scores)
    assert (result.sums, result.counts) == ({"r": 1}, {"r": 1})


def test_written_tasks_are_the_same_at_every_call_and_none_twice():
    tasks = written_tasks()
    assert tasks == written_tasks()
    assert Counter(t.capability for t in tasks) == {"arithmetic": 40, "strings": 40}
    assert len({t.key for t in tasks}) == len({t.messages[0]["content"] for t in tasks}) == 80
    assert [(p.key, p.messages) for p in prompts(tasks)] == [(t.key, t.messages) for t in tasks]


def solve(text):
    """Work a task out from its text, without the code that made it."""
    operands = [int(n) for n in re.findall(r"\d+", text)]
    body = text.split("\n\n")[-1]
    listed = text.rstrip(".").split(": ")[-1].split(", ")
    rules = {
        r"What is \d+ \+": lambda: operands[0] + operands[1],
        r"What is \d+ -": lambda: operands[0] - operands[1],
        r"What is \d+ times": lambda: operands[0] * operands[1],
        r".* gets .* more": lambda: operands[0] + operands[1],
        r".* of them away": lambda: operands[0] - operands[1],
        r"Repeat": lambda: body,
        r"Write the first": lambda: " ".join(word[0] for word in listed),
        r"How many words": lambda: len(body.split()),
        r"Put": lambda: " ".join(sorted(listed)),
        r"Which number": lambda: 2 * operands[3] - operands[2],
    }
    (rule,) = (rule for pattern, rule in rules.items() if re.match(pattern, text))
    return str(rule())


def test_every_written_task_has_the_answer_its_text_asks_for():
    for each in written_tasks():
        solved = solve(each.messages[0]["content"])
        assert solved == each.accepted[0]
        assert is_correct(each, f"The answer is: {solved}")
        assert not is_correct(each, "I do not know, 1000 zebras.")


def test_an_order_is_never_shown_already_sorted():
    texts = [t.messages[0]["content"] for t in written_tasks() if t.messages[0]["content"].startswith("Put")]
    assert len(texts) == 8
    assert all(solve(text) not in text.replace(",", "") for text in texts)


@pytest.mark.parametrize(
    ("judged", "accepted", "right", "wrong"),
    [
        ("number", ["13"], "6 + 7 = 13.", "13, found in 2 steps"),
        ("number", ["1250"], "It is **1,250**", "It is 12500"),
        ("number", ["4"], "1. Count them\n2. There are 4", "four"),
        ("words", ["apple bread chair"], "1. Apple\n2. bread\n3. chair", "apple chair bread"),
        ("words", ["apple bread chair"], "They are apple, bread, and chair.", "apple, bread, armchair"),
        ("words", ["a b c", "abc"], "ABC", "abcd"),
        ("words", ["a b c", "abc"], '"a, b, c"', "a, x, b, c"),
        ("verbatim", ["green house 42"], "Sure:\ngreen  house 42", "green house 421"),
        ("verbatim", ["green house 42"], "> green house 42 green house 42", "Green house 42"),
        ("verbatim", ["green house 42"], "evergreen house 42, no: green house 42", "evergreen house 42"),
    ],
)
def test_an_answer_is_read_as_documented(judged, accepted, right, wrong):
    assert is_correct(task(judged, *accepted), right)
    assert not is_correct(task(judged, *accepted), wrong)
    assert not is_correct(task(judged, *accepted), "")


def test_written_metrics_count_right_answers_by_key():
    tasks = written_tasks()[:3]
    answers = {t.key: answer(t.accepted[0]) for t in tasks} | {tasks[1].key: answer("no idea")}
    (result,) = written_metrics(tasks, answers)
    assert result.name == "accuracy arithmetic"
    assert result.sums == {"arithmetic-01": 1, "arithmetic-02": 0, "arithmetic-03": 1}
    assert result.mean == pytest.approx(2 / 3)


def test_forgetting_counts_losses_and_no_gains():
    base = [metric("a", x=1, y=1), metric("b", x=0, y=1), metric("c", x=1, y=0)]
    tuned = [metric("b", x=1, y=1), metric("a", x=1, y=0), metric("c", x=0, y=0)]
    assert forgetting(base, tuned) == pytest.approx(1 / 3)  # drops of 0.5, -0.5 and 0.5


def test_forgetting_compares_only_the_items_that_both_models_have():
    assert forgetting([metric("a", x=1, y=0)], [metric("a", x=1, z=0)]) == 0


def test_a_model_that_gained_everywhere_forgot_nothing():
    assert forgetting([metric("a", x=0), metric("b", x=0)], [metric("a", x=1), metric("b", x=1)]) == 0


@pytest.mark.parametrize(
    ("base", "tuned", "message"),
    [
        ([metric("a", x=1)], [metric("b", x=1)], r"same capabilities twice, got \['a'\] and \['b'\]"),
        ([], [], "same capabilities"),
        ([metric("a", x=1)], [metric("a", y=1)], "a: the two models have no item in common"),
    ],
)
def test_forgetting_refuses_what_cannot_be_compared(base, tuned, message):
    with pytest.raises(DataError, match=message):
        forgetting(base, tuned)
