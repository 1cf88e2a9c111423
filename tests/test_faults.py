"""Faults of written tasks and answers."""

import json

import pytest

from kiloset.generator.faults import answer_fault, task_fault
from tests.paths import ROOT


def row(instruction="Sum it up.", input="", response="", topic=""):
    return {"instruction": instruction, "input": input, "response": response, "topic": topic}


SWEATER = "The red sweater was found on the beach by a swimmer early in the morning."
ENDS = [{"id": "startend:end_checker", "args": '{"end_phrase": "What do you think?"}'}]
TWO = f"{SWEATER} Nobody had seen who left it there."
LOOP = (
    "def first(items, name):\n    for item in items:\n        if item = name:\n            return item\n    return None"
)


@pytest.mark.parametrize(
    ("task", "reason"),
    [
        (row("A ship.", topic="a ship"), "instruction_copies_topic"),
        (row("I'm sorry, but I can't assist with that."), "task_refused"),
        (row("Answer the letter.", "As an AI language model, I don't have letters."), "task_refused"),
        (row("Write a note.", "Dear [Recipient's Name], welcome to [Company Name]."), "task_has_gap"),
        (row("Find the address.", "Write to [email protected] today."), "task_has_gap"),
        (row("Write a function that reverses a string.", "def reverse(s):\n    return s[::-1]"), "input_has_answer"),
        (row("Fix the function that reverses a string.", "def reverse(s):\n    return s[::1]"), None),
        (row("Write a function that reads this table.", "name,age\nAna,3"), None),
        (row("Make a template for a letter with placeholders.", "Dear [Name]"), None),
        (row("Call him.", "His number is [phone number 1]."), None),
        (row("Describe a ship.", topic="a ship"), None),
    ],
)  # fmt: skip
def test_a_task_is_checked_before_its_answer(task, reason):
    fault = task_fault(task)
    assert (fault and fault[0]) == reason


@pytest.mark.parametrize(
    ("answered", "label", "reason"),
    [
        (row("Write a note.", response="Dear [Your Landlord], the tap drips."), False, "response_has_gap"),
        (row("Fill in the note.", "Dear [Name],", "Dear [Name], hello."), False, None),
        (row("Which department?", "Dear Customer Service, I have a question.", "Customer Service"), True, "label_in_input"),
        (row("Spam or not?", "You won a prize.", "spam"), True, None),
        (row("Where was it found?", SWEATER, "on the beach"), False, None),
        (row("Make it formal.", SWEATER, SWEATER.replace("found", "discovered")), False, "response_copies_input"),
        (row("Name the things that are assigned to the person.", SWEATER, SWEATER.upper()), False, "response_copies_input"),
        (row("Correct the spelling.", SWEATER, SWEATER.replace("found", "discovered")), False, None),
        (row("Five names.", response="1. Snow Rabbit\n2. Snow Rabbit\n3. Snow Rabbit\n4. Ice"), False, "response_repeats_items"),
        (row("As a waiter on a busy evening, refuse the first customer politely.", response="As a waiter on a busy evening – refuse the first customer politely."), False, "response_copies_instruction"),
        ({**row("What does she want?", "I would like an account.", "What do you think?"), "constraints": ENDS}, False, "response_only_constraint"),
        ({**row("What does she want?", "I would like an account.", "An account. What do you think?"), "constraints": ENDS}, False, None),
        (row("Five names.", response="- Snow\n- Rain\n- Ice"), False, None),
        (row("Sum it up.", SWEATER, "A sweater was found."), False, None),
        (row("Make it engaging.", TWO, f"{TWO} It was never worn again, and nobody at the harbour knows whose it was or why."), False, "response_copies_input"),
        (row("Continue the story.", TWO, f"{TWO} It was never worn again, and nobody at the harbour knows whose it was or why."), False, None),
        (row("Fix the bug.", LOOP, f"```python\n{LOOP.replace('=', '==')}\n```"), False, None),
        (row("Fix the bug.", LOOP, f"```python\n{LOOP}\n```"), False, "response_copies_input"),
    ],
)  # fmt: skip
def test_an_answer_is_checked(answered, label, reason):
    fault = answer_fault(answered, label=label)
    assert (fault and fault[0]) == reason


def test_no_bundled_seed_has_a_fault():
    for line in (ROOT / "seeds" / "seeds.jsonl").read_text(encoding="utf-8").splitlines():
        seed = {**json.loads(line), "topic": ""}
        assert task_fault(seed) is None, seed
        assert answer_fault(seed, label=seed["category"] == "classification") is None, seed
