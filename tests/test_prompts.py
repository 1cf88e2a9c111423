"""What is sent to the generator model, and how its completions are read."""

import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from generator.prompts import (
    INPUT_STOP,
    INSTRUCTION_STOP,
    input_prompt,
    instruction_prompt,
    read_input,
    read_instruction,
)

texts = st.text(st.sampled_from("aб一 .\n\r\t\v\u2028\u00a0"), max_size=20)


def test_instructions_are_asked_for_as_the_next_line_of_a_numbered_list() -> None:
    assert instruction_prompt("open_qa", ["Name a river.", "Who  wrote\n\nFaust?"]) == (
        "Come up with a series of different tasks for an assistant. All of them are of one kind: open qa.\n"
        "\n"
        "1. Name a river.\n"
        "2. Who wrote Faust?\n"
        "3."
    )


@settings(max_examples=60, deadline=None)
@given(st.lists(texts, min_size=1, max_size=8))
def test_a_demonstration_is_one_line_whatever_it_holds(shown: list[str]) -> None:
    _, blank, *lines = instruction_prompt("x", shown).split(INSTRUCTION_STOP[0])
    assert blank == ""
    assert [line.split(".")[0] for line in lines] == [str(number) for number in range(1, len(shown) + 2)]


def test_requests_of_one_category_share_their_beginning() -> None:
    first, second = instruction_prompt("data-to-text", ["a"]), instruction_prompt("data-to-text", ["b", "c"])
    header = first.partition("1.")[0]
    assert second.startswith(header)
    assert "data to text" in header


@pytest.mark.parametrize(
    ("completion", "instruction"),
    [
        (" Name three rivers.", "Name three rivers."),
        (" Name  three\trivers. \n10. Name a lake.", "Name three rivers."),
        (" 9. Name three rivers.", "Name three rivers."),
        ("12) Name three rivers.", "Name three rivers."),
        (' "Name three rivers."', "Name three rivers."),
        (" “Name three rivers.”", "Name three rivers."),
        (' "Name three rivers.', "Name three rivers."),
        (' Define the word "ephemeral"', 'Define the word "ephemeral"'),
        (' "Tea" or "coffee"', '"Tea" or "coffee"'),
        (" 2.5 km is how many miles?", "2.5 km is how many miles?"),
        (" 1984 was written by whom?", "1984 was written by whom?"),
        ("", ""),
        (" \n Name three rivers.", ""),
        (' ""', ""),
    ],
)
def test_an_instruction_is_the_first_line_without_number_or_quotes(completion: str, instruction: str) -> None:
    assert read_instruction(completion) == instruction


def test_inputs_are_asked_for_after_pairs_of_task_and_text() -> None:
    assert input_prompt("Sum it\nup.", [("Shorten this.", "One.\n\n  \nTwo.")]) == (
        "Each task comes with the text it is about.\n\nTask: Shorten this.\nText: One.\nTwo.\n\nTask: Sum it up.\nText:"
    )


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(texts, texts), max_size=4), texts)
def test_no_demonstration_holds_what_ends_an_input(shown: list[tuple[str, str]], task: str) -> None:
    blocks = input_prompt(task, shown).split(INPUT_STOP[0])
    assert len(blocks) == len(shown) + 2
    assert all(re.match(r"Task:.*\nText:", block) for block in blocks[1:])


@pytest.mark.parametrize("completion", ["", " \n", " None", " none.", " (None)", "N/A", " [no input]", "No  text."])
def test_a_completion_that_says_there_is_no_input_holds_none(completion: str) -> None:
    assert read_input(completion) == ""


@pytest.mark.parametrize("completion", [" None of them came. ", " The no text rule.\nTwo  spaces.\n"])
def test_any_other_completion_is_the_input_as_it_was_written(completion: str) -> None:
    assert read_input(completion) == completion.strip()
