"""The form vector, compared with counts made by hand."""

import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kiloset.core.form import FORM_COLUMNS, form_of, opening

ANSWER = """# Tea

Boil the water. Then wait: it must cool!

- Add the leaves.
2) Pour, and wait.
"""


def test_a_form_is_what_a_reader_counts() -> None:
    form = form_of(ANSWER)
    assert tuple(form) == FORM_COLUMNS
    # tea | boil the water | then wait it must cool | add the leaves | 2 pour and wait
    assert form["log_words"] == pytest.approx(math.log(17))
    assert form["type_token_ratio"] == pytest.approx(14 / 16)  # "the" and "wait" stand twice
    assert form["sentence_words"] == pytest.approx(16 / 5)
    assert form["punctuation_rate"] == pytest.approx(9 / 16)  # # . : ! - . ) , .
    assert form["list_lines"] == pytest.approx(2 / 4)
    assert (form["heading"], form["code_fence"]) == (1.0, 0.0)
    assert form["function_word_rate"] == pytest.approx(6 / 16)  # the, then, it, must, the, and


@pytest.mark.parametrize("text", ["", " \n", "?!"])
def test_a_text_without_words_has_a_form_of_zeros(text: str) -> None:
    assert form_of(text) == dict.fromkeys(FORM_COLUMNS, 0.0)


def test_the_type_token_ratio_does_not_fall_with_length() -> None:
    text = " ".join(f"w{number}" for number in range(100))
    assert form_of(text)["type_token_ratio"] == form_of(f"{text} {text}")["type_token_ratio"] == 1.0
    assert form_of(f"w0 {text}")["type_token_ratio"] == pytest.approx(0.99)


@pytest.mark.parametrize("line", ["- tea", "* tea", "• tea", "1. tea", "12) tea", "(3) tea", "  a) tea"])
def test_a_list_item_is_recognised_by_its_mark(line: str) -> None:
    assert form_of(line)["list_lines"] == 1.0


@pytest.mark.parametrize("line", ["-tea", "3.5 cups", "1999. It was", "a tea", "**tea**"])
def test_a_line_that_only_looks_like_a_list_item_is_none(line: str) -> None:
    assert form_of(line)["list_lines"] == 0.0


@pytest.mark.parametrize(
    ("text", "heading", "fence"),
    [("### Tea", 1.0, 0.0), ("#tea", 0.0, 0.0), ("so\n```python\nx\n```", 0.0, 1.0), ("use ``` here", 0.0, 0.0)],
)
def test_headings_and_fences_stand_at_the_start_of_a_line(text: str, heading: float, fence: float) -> None:
    assert (form_of(text)["heading"], form_of(text)["code_fence"]) == (heading, fence)


def test_a_sign_is_not_punctuation() -> None:
    assert form_of("It costs $5 + tax!")["punctuation_rate"] == pytest.approx(1 / 4)


def test_a_decimal_point_ends_no_sentence() -> None:
    assert form_of("It is 3.5 here... So it is.")["sentence_words"] == pytest.approx(8 / 2)


def test_function_words_of_another_language_count_for_nothing() -> None:
    assert form_of("Das Wasser kocht, wenn der Druck gleich ist.")["function_word_rate"] == 0.0


@pytest.mark.timeout(20)  # 0.1 s of work; a pattern that tries every start and every end takes a minute
def test_the_form_of_a_long_run_of_dots_is_measured_without_quadratic_time() -> None:
    assert form_of("." * 200_000 + "x" + " \n" * 50_000)["sentence_words"] == 1


@pytest.mark.parametrize(
    ("text", "expected"), [("Sure! Here is it", "sure here is"), ("Don't, ever", "don't ever"), ("", "")]
)
def test_an_opening_is_the_first_three_words(text: str, expected: str) -> None:
    assert opening(text) == expected


@settings(deadline=None, derandomize=True)
@given(st.text(st.characters(exclude_categories=())))
def test_every_text_has_a_finite_form(text: str) -> None:
    form = form_of(text)
    assert all(math.isfinite(value) and value >= 0 for value in form.values())
    assert all(form[name] <= 1 for name in ("type_token_ratio", "list_lines", "function_word_rate"))
