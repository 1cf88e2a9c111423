"""What is wrong with an answer by itself: cut where its last word shows it, too short where a text was asked for."""

import pytest

from kiloset.audit.answers import cut_answers, is_without_stop, too_short
from tests import planted


def test_answers_cut_anywhere_are_reported_as_cut_or_as_without_a_stop():
    answers = [row["response"] for row in planted.clean(300, seed=5)]
    assert not cut_answers(answers)
    cut = [answer[: len(answer) - 8 - number] for number, answer in enumerate(answers[:40])]
    cut_ends = cut_answers(cut + answers[40:])
    assert all(at in cut_ends or is_without_stop(text) for at, text in enumerate(cut))
    assert max(cut_ends) < 40
    assert len(cut_ends) > 20


@pytest.mark.parametrize(
    "answer",
    ["Paris", "- red\n- blue\n- green", "It is old.[3]", "He said: “Go.”", "See the site. More at https://example.org/of", "",
     "- It rained. We went home by the river", "It rained. See the page at https://example.org/river today",
     "Note: It rained. We went home by the river", "It rained. We went | home by the river", "It rained. We went home. Totals:\nrivers | 12", "That is so. Thank you, and best regards\n\nNina Ali"],
)  # fmt: skip
def test_what_needs_no_stop_is_not_cut(answer):
    assert not is_without_stop(answer)
    assert cut_answers([answer, "The parish and the aliens."]) == {}


def test_an_article_at_the_end_shows_a_cut_in_a_text_of_any_kind():
    assert cut_answers(["- beside the", "Beside the sea."]) == {0: "ends with “… - beside the”"}


def test_a_word_is_too_short_only_where_a_text_is_asked_for():
    assert too_short("Explain why the sky is blue.", "Light") == "1 word although the task asks for a text"
    assert too_short("Write a poem about rain", "Rain. Drops.") == "2 words although the task asks for a text"
    assert too_short("Name a colour", "...") == "contains no letter, digit or symbol"
    for instruction, answer in (
        ("Name a colour", "Blue"),
        ("Write a synonym for big", "large"),
        ("Explain it", ""),
        ("Describe it in one word", "Old"),
    ):
        assert too_short(instruction, answer) is None
