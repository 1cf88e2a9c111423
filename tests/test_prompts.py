"""What is sent to the generator model, and how its completions are read."""

import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kiloset.core.errors import ConfigError
from kiloset.core.text import squash
from kiloset.generator.inputs import INPUT_STOP, LABELLED_STOP, without_empty_lines
from kiloset.generator.parsing import read_input, read_instruction, read_labelled_input, read_task
from kiloset.generator.strategies import INSTRUCTION_STOP, category_words
from kiloset.generator.templates import VALUES, Templates

BUNDLED = Templates()


def instruction_prompt(category: str, demonstrations: list[str], templates: Templates = BUNDLED) -> str:
    tasks = [squash(text) for text in demonstrations]
    return templates.render("self_instruct", category=category_words(category), tasks=tasks, chat=False)


def input_prompt(task: str, demonstrations: list[tuple[str, str]]) -> str:
    examples = [{"task": squash(a), "text": without_empty_lines(b), "answer": ""} for a, b in demonstrations]
    return BUNDLED.render("input", task=squash(task), examples=examples, chat=False)


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
def test_a_demonstration_is_one_line_whatever_it_holds(demonstrations: list[str]) -> None:
    _, blank, *lines = instruction_prompt("x", demonstrations).split(INSTRUCTION_STOP[0])
    assert blank == ""
    assert [line.split(".")[0] for line in lines] == [str(number) for number in range(1, len(demonstrations) + 2)]


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
        (" \n Name three rivers.", "Name three rivers."),
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
def test_no_demonstration_holds_what_ends_an_input(demonstrations: list[tuple[str, str]], task: str) -> None:
    blocks = input_prompt(task, demonstrations).split(INPUT_STOP[0])
    assert len(blocks) == len(demonstrations) + 2
    assert all(re.match(r"Task:.*\nText:", block) for block in blocks[1:])


@pytest.mark.parametrize("completion", ["", " \n", " None", " none.", " (None)", "N/A", " [no input]", "No  text."])
def test_a_completion_that_states_there_is_no_input_holds_none(completion: str) -> None:
    assert read_input(completion) == ""


@pytest.mark.parametrize("completion", [" None of them came. ", " The no text rule.\nTwo  spaces.\n"])
def test_any_other_completion_is_the_input_as_it_was_written(completion: str) -> None:
    assert read_input(completion) == completion.strip()


@pytest.mark.parametrize(
    ("completion", "task"),
    [
        ("Name three rivers.", "Name three rivers."),
        ("Sure! Here is a new task:\n\nName three rivers.\n\nIt is harder because...", "Name three rivers."),
        ("New task: Name three\nrivers.", "Name three rivers."),
        ("**Task:** Name three rivers.", "Name three rivers."),
        ('"Name three rivers."', "Name three rivers."),
        ("Here is the news: write it again.", "Here is the news: write it again."),
        ("  \n", ""),
        ("The new task is to build a bottle.", ""),
        ("Write a new task of the same kind about soap.", ""),
        ("Plan a given tasks list for Monday.", ""),
        ("Make a list of tasks for Monday.", "Make a list of tasks for Monday."),
    ],
)
def test_a_task_is_the_first_paragraph_of_a_chat_answer_without_what_stands_around_it(
    completion: str, task: str
) -> None:
    assert read_task(completion) == task


@pytest.mark.parametrize(
    ("completion", "expected"),
    [
        (" positive\nText: I loved it.\nTwice.", ("positive", "I loved it.\nTwice.")),
        ("Answer: not sure\n\nText: Meh.", ("not sure", "Meh.")),
        (" positive", ("", "")),
        (" positive\nText: None.", ("", "")),
        ("\nText: I loved it.", ("", "")),
        (" one two three four five six seven eight nine\nText: Long.", ("", "")),
        (" a: b\nText: Text: twice", ("a: b", "twice")),
    ],
)
def test_an_answer_before_its_text_is_read_with_both_or_not_at_all(completion: str, expected: tuple[str, str]) -> None:
    assert read_labelled_input(completion) == expected


def test_an_answer_is_asked_for_before_its_text() -> None:
    examples = [{"task": "Sort it.", "answer": "late", "text": "It came on Monday."}]
    prompt = BUNDLED.render("labelled_input", task="Is it kind?", examples=examples, chat=False)
    assert prompt == (
        "Each task comes with its answer and the text that has this answer.\n\n"
        "Task: Sort it.\nAnswer: late\nText: It came on Monday.\n\nTask: Is it kind?\nAnswer:"
    )
    assert set(LABELLED_STOP) == {"\n\n", "\nTask:", "\nAnswer:"}


HOSTILE = "{{ 7 * 7 }} {% if %} {# no #} {0} {name} </s> ${x}"


@settings(max_examples=60, deadline=None)
@given(st.text(st.sampled_from("{}%#a1 "), max_size=30))
def test_braces_and_tags_in_what_is_shown_are_plain_text(text: str) -> None:
    assert squash(text) in squash(instruction_prompt("x", [text, HOSTILE]))
    assert HOSTILE in instruction_prompt("x", [text, HOSTILE])


def test_a_folder_replaces_some_prompts_and_leaves_the_others(tmp_path) -> None:
    (tmp_path / "self_instruct.j2").write_text(
        "Tasks of {{ category }}:\n{% for t in tasks %}\n- {{ t }}\n{% endfor %}\n-"
    )
    own = Templates(str(tmp_path))
    assert instruction_prompt("a_b", ["{{ x }}"], own) == "Tasks of a b:\n- {{ x }}\n-"
    assert own.sources["input"] == BUNDLED.sources["input"]
    assert own.digest != BUNDLED.digest
    assert (own.has_user_templates, BUNDLED.has_user_templates) == (True, False)


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("self_instuct", "x", r"self_instuct\.j2: no prompt .*; did you mean 'self_instruct'\?"),
        ("input", "{% for %}", r"input\.j2:1: this template is not valid"),
        (
            "input",
            "a\n{{ instruction }}",
            r"input\.j2: this template is not valid \('instruction' is undefined\); it may use the variables task, examples, chat",
        ),
        (
            "evolve",
            "{{ ''.__class__.__mro__ }}",
            r"evolve\.j2: this template is not valid \(access to attribute '__class__'",
        ),
    ],
)
def test_a_broken_prompt_is_refused_with_its_place(tmp_path, name: str, text: str, message: str) -> None:
    (tmp_path / f"{name}.j2").write_text(text)
    with pytest.raises(ConfigError, match=message):
        Templates(str(tmp_path))


def test_a_missing_folder_is_refused() -> None:
    with pytest.raises(
        ConfigError, match=r"^\[generate\] prompts: nowhere: no such folder; it may have self_instruct.j2"
    ):
        Templates("nowhere")


def test_every_bundled_prompt_has_example_values_and_a_comment_that_is_not_sent() -> None:
    for name, values in VALUES.items():
        assert BUNDLED.sources[name].startswith("{#")
        assert "{#" not in BUNDLED.render(name, **values)
