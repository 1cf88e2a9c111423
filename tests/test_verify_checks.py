"""Checks of answers that need no model."""

import json
import random
from fractions import Fraction

import pytest

from kiloset.verify.arithmetic import wrong_equation
from kiloset.verify.grounding import added_number
from kiloset.verify.programs import broken_code
from kiloset.verify.stated import bounds, broken_count
from tests.paths import ROOT

# ---------------------------------------------------------------------------------------------------------- arithmetic


@pytest.mark.parametrize(
    "text",
    [
        "3 × 4 = 12", "$1,200 / 4 = $300", "20% of 50 = 10", "(2 + 3) * 4 = 20", "2/3 = 0.67", "10 / 3 ≈ 3.3", "10/3 = 3",
        "7/12 ÷ 1/6 = 3.5", "10 km/h × 2 h = 20 km", "7 - -2 = 9", "-3 + 5 = 2", "400 × 1.5% = 6", "x = 4 - 1 = 3",
        # Not read: variables, powers, dates, times, chains, relative percentages, decimal commas, division by zero.
        "2x + 4 = 8", "2x - 20 = 12", "2X + 4Y = 88", "2^3 * 2 = 15", "2023-05-01 = 3", "12:30 - 1 = 5", "8:00 AM + 3 hours = 11:00 AM",
        "1 + 1 = 2 + 1 = 3", "100 - 20% = 80", "1,5 + 2 = 3,5", "5 / 0 = 3", "a 3 x 4 grid", "version 2.0 = 2", "5 * 2.5 = 12.5 × 1", "9 - (2 + 1) = 9 -  3 = 6", "80% of $15.00 is 0.8 × $15.00 = $12.00",
    ],
)  # fmt: skip
def test_a_true_or_unreadable_equation_passes(text):
    assert wrong_equation(text) == ""


@pytest.mark.parametrize(
    ("text", "result"),
    [
        ("So 3 x 4 = 13.", "12"), ("20% of 50 is 12.", "10"), ("5 apples - 2 apples = 4 apples", "3"), ("3 + 4 = 7.5", "7"),
        ("(2 + 3) * 4 = 14", "20"), ("2/3 = 0.76", "0.666667"), ("$1,200 / 4 = $30", "300"), ("10 / 3 = 4", "3.33333"),
        ("First 1 + 1 = 2, then 2 + 2 = 5.", "4"),
    ],
)  # fmt: skip
def test_a_false_equation_is_reported_with_its_result(text, result):
    assert wrong_equation(text).endswith(f"the result is {result}")


def test_random_equations_agree_with_python():
    rng = random.Random(7)
    for _ in range(500):
        numbers = [rng.randint(1, 99) for _ in range(rng.randint(2, 5))]
        text = " ".join(f"{n} {rng.choice('+-*/')}" for n in numbers)[:-2]
        value = eval(
            text.replace("*", "* ").replace(str(numbers[0]), f"Fraction({numbers[0]})", 1), {"Fraction": Fraction}
        )
        value = Fraction(value).limit_denominator(10**12)
        assert wrong_equation(f"{text} = {float(value):.4f}") == "", text
        assert wrong_equation(f"{text} = {float(value) + 2:.4f}"), text


# ------------------------------------------------------------------------------------------------------- stated numbers


@pytest.mark.parametrize(
    ("instruction", "response", "evidence"),
    [
        ("Sum it up in one sentence.", "It rained. It stopped.", "2 sentences"),
        ("Sum it up in one sentence.", "It rained and stopped.", ""),
        ("Write a review, with at least 20 words.", "Good food.", "2 words"),
        ("Describe it in 5 words or fewer.", "A very old red wooden door.", "6 words"),
        ("Describe it in 5 words at most.", "A very old red wooden door.", "6 words"),
        ("Describe it in under 6 words.", "A very old red wooden door.", "6 words"),
        ("A poem, 3 lines, about rain.", "Rain\nfalls", "2 lines"),
        ("A poem of exactly three lines.", "Rain\nfalls\nhere", ""),
        ("List five ideas for a party.", "1. Cake\n2. Music", "2 items"),
        ("List five ideas for a party.", "- Cake\n- Music\n- Games\n- Hats\n- Tea", ""),
        ("Suggest at least two ways to save water.", "- Showers\n- Rain\n- Mulch", ""),
        ("List five ideas for a party.", "Cake, music, games, hats and tea.", ""),
        # Not read: a range, a part of the answer, a part of the text, an approximate length, words that one reader counts as fewer.
        ("Write 30 to 40 words.", "Short.", ""),
        ("Pick one and justify it in one sentence.", "The first. It is cheap.", ""),
        ("Explain the two sentences from the text.", "They rhyme. They scan. They end.", ""),
        ("Write in 20 words.", " ".join(["word"] * 21), ""),
        ("Use 3 words at most.", "Don't go there", ""),
    ],
)  # fmt: skip
def test_a_stated_number_is_compared_with_the_answer(instruction, response, evidence):
    assert (
        broken_count(instruction, response)[-len(evidence) :] == evidence
        if evidence
        else not broken_count(instruction, response)
    )


def test_bounds_are_read_with_their_unit():
    assert [(b.unit, b.least, b.most) for b in bounds("Write exactly three sentences of at most 50 words.")] == [
        ("sentence", 3, 3),
        ("word", 1, 50),
    ]


# ------------------------------------------------------------------------------------------------------------ grounding


@pytest.mark.parametrize(
    ("instruction", "input", "response", "number"),
    [
        ("When is it?", "The fair is on 12 May 2024.", "On 12 May 2024.", ""),
        ("When is it?", "The fair is on 12 May.", "On 12 May 2024.", "2024"),
        ("Summarise.", "18, 19 and 20 degrees", "57 degrees in all, 19 on average.", ""),
        ("Describe.", "18, 19 and 20 degrees", "19.33 degrees.", "19.33"),
        ("Describe.", "Sales: 200, 250", "Sales rose by 25%.", ""),
        ("Describe.", "Sales: 200, 250", "Sales rose by 35%.", "35"),
        ("Describe.", "Q1 20 12\nQ2 30 15\nQ3 40 18", "Income was 90, costs 45, so 45 remained.", ""),
        ("How much for two?", "A ticket costs 9.30.", "17.11", ""),
        ("Describe.", "Twenty boats", "20 boats in 3 rows", ""),
        ("What time, in 24 hours?", "at 3:40 PM", "15:40", ""),
    ],
)  # fmt: skip
def test_a_number_comes_from_the_text_or_from_its_numbers(instruction, input, response, number):
    assert added_number(instruction, input, response) == number


# ----------------------------------------------------------------------------------------------------------------- code


@pytest.mark.parametrize(
    ("instruction", "response", "evidence"),
    [
        ("Write a function.", "```python\ndef f(x):\n    return x\n```", ""),
        ("Write a function.", "```python\ndef f(x)\n    return x\n```", "does not parse"),
        ("Write a function.", "```python\ndef f(x):\n    pass\n```", "has no body"),
        ("Write a function `add_up`.", "```python\ndef sum_up(x):\n    return x\n```", "does not define it"),
        ("Write a function called `add_up`.", "```python\ndef add_up(x):\n    return x\n```", ""),
        ("Write a function.", "```python\ndef f(x):\n    return x", "is not closed"),
        ("Write JSON.", '```json\n{"a": 1,}\n```', "not JSON"),
        ("Show a session.", "```python\n>>> 1 +\n```", ""),
        ("Write it in Rust.", "```rust\nfn f( {}\n```", ""),
    ],
)  # fmt: skip
def test_code_parses_and_defines_what_the_task_names(instruction, response, evidence):
    fault = broken_code(instruction, response)
    assert evidence in fault if evidence else fault == ""


def test_no_bundled_seed_fails_a_check():
    for line in (ROOT / "seeds" / "seeds.jsonl").read_text(encoding="utf-8").splitlines():
        row = json.loads(line)
        instruction, input, response = row["instruction"], row.get("input", ""), row["response"]
        assert not wrong_equation(response), row
        assert not broken_count(instruction, response), row
        assert not broken_code(instruction, response), row
        if input and row["category"] in ("extraction", "closed_qa", "summarising", "rewriting", "data_to_text"):
            assert not added_number(instruction, input, response), row
