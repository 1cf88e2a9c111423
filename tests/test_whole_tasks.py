"""Chats for whole tasks: what they show, how completions are read, and the loop with them."""

import math
import random
import re
from collections import Counter

import polars as pl
import pytest

from kiloset.core.models import Capabilities, Request
from kiloset.generator.settings import PURPOSES
from kiloset.generator.templates import Templates
from kiloset.generator.whole_tasks import (
    GROUP,
    MOST_CHARACTERS,
    answer_messages,
    choose_examples,
    read_whole_task,
    task_messages,
    with_text,
    written_task,
)
from tests.fakes import FakeEngine
from tests.test_loop import SEEDS, generated, generated_rows, loop, seeds_of, store, unlike

__all__ = ["store"]

WITH = {"instruction": "Sum it up.", "input": "A long day.", "response": "Long."}
BARE = {"instruction": "Say hello.", "input": "", "response": "Hello."}


@pytest.mark.parametrize(
    ("completion", "expected"),
    [
        ("Task: Say hello.", ("Say hello.", "")),
        ("Task: Sum it up.\nText: A long\n\nday.", ("Sum it up.", "A long\n\nday.")),
        ("**Task:** Sum it up.\n**Text:** A day.", ("Sum it up.", "A day.")),
        ("Sure, here is a task:\n\nTask: Say hello.", ("Say hello.", "")),
        ("Task: Sum it up.\nText:\nA day.", ("Sum it up.", "A day.")),
        ("Task: Sum it up.\nText: Sure, here is the text:\nA day.", ("Sum it up.", "A day.")),
        ("Task: Sum it up.\nText: None", ("Sum it up.", "")),
        ('Task: "Say hello."', ("Say hello.", "")),
        ("Say hello.", ("", "")),
        ("", ("", "")),
        ("Task:\nText: A day.", ("", "A day.")),
        ("Task: Write a task about frogs.", ("", "")),
        ("I think that " + "very " * 30 + "\nTask: Say hello.", ("", "")),
    ],
)  # fmt: skip
def test_a_completion_is_read_strictly(completion, expected):
    assert read_whole_task(completion) == expected


@pytest.mark.parametrize("row", [WITH, BARE], ids=["with a text", "without"])
def test_what_a_chat_shows_is_what_is_read(row):
    assert read_whole_task(written_task(row)) == (row["instruction"], row["input"])


@pytest.mark.parametrize("share", [0.0, 0.2, 0.5, 2 / 3, 1.0])
def test_the_share_of_tasks_with_a_text_is_kept_from_the_first_request_on(share):
    for count in (1, 2, 3, 10, 77):
        assert sum(with_text(number, share) for number in range(count)) == int(count * share + 1e-9)


def test_examples_are_different_seeds_as_many_as_the_characters_allow():
    seeds = [{**WITH, "id": str(n), "input": "x" * (MOST_CHARACTERS // 3)} for n in range(9)]
    chosen = choose_examples(seeds, 4, random.Random(0))
    assert 1 <= len(chosen) < 4
    assert len({row["id"] for row in chosen}) == len(chosen)
    assert len(choose_examples([{**WITH, "input": "x" * 2 * MOST_CHARACTERS}], 4, random.Random(0))) == 1


def test_chats_show_whole_seeds_and_end_with_what_is_asked_for():
    messages = task_messages(Templates(), "summarising", [("days", WITH)], "ships", text=True)
    assert [message["role"] for message in messages] == ["system", "user", "assistant", "user"]
    assert messages[2]["content"] == "Task: Sum it up.\nText: A long day."
    assert "ships" in messages[3]["content"]
    assert "days" in messages[1]["content"]
    answers = answer_messages({"instruction": "Sum up.", "input": "A night."}, [WITH])
    assert [message["content"] for message in answers] == ["Sum it up.\n\nA long day.", "Long.", "Sum up.\n\nA night."]


def chat_writer(key: str, request: Request) -> tuple[str, str]:
    """Write whole tasks, with a text where one is asked for, and answers."""
    if request.purpose == "response":
        return f"Here is {unlike(key, 6)}.", "stop"
    last = request.prompt.rpartition("<user>")[2]
    text = f"\nText: It was {unlike(key + 'x')}." if "with the text" in last else ""
    return f"Task: Tell of {unlike(key)}.{text}", "stop"


def test_a_task_and_its_text_come_in_one_completion(store):
    engine = FakeEngine(answer=chat_writer)
    table = seeds_of(stories=(8, 4), summaries=(6, 6))
    outcome = loop(store, engine, table=table, wanted={"stories": 8, "summaries": 6}, prompt_style="chat")
    rows = generated_rows(outcome)
    assert set(store.account()) == {"instruction", "response"}
    with_input = Counter(row["category"] for row in rows.iter_rows(named=True) if row["input"])
    total = Counter(rows["category"])
    assert with_input["summaries"] == total["summaries"]
    assert with_input["stories"] == total["stories"] // 2
    assert max(total.values()) > 8  # more than one wave
    assert all(rows["topic"])


def test_the_same_instruction_with_another_text_is_new_and_with_the_same_text_is_not(store):
    def answer(key: str, request: Request) -> tuple[str, str]:
        text = unlike(key) if int(key[0], 16) < 8 else "the otter by the river eats a fish every day"
        return (
            f"Task: Sum up the text.\nText: It is {text}." if request.purpose == "instruction" else "Short."
        ), "stop"

    rows = generated_rows(
        loop(store, FakeEngine(answer=answer), wanted={"summaries": 8}, max_waves=1, prompt_style="chat")
    ).filter(pl.col("input") != "")
    new = rows.filter(~pl.col("reason").fill_null("").eq("not_new")) if "reason" in rows.columns else rows
    assert new["instruction"].unique().to_list() == ["Sum up the text."]
    assert new["input"].str.contains("otter").sum() == 1
    assert new.height > 2


def test_a_task_without_its_text_is_kept_where_some_seeds_have_none(store):
    def answer(key: str, request: Request) -> tuple[str, str]:
        return (f"Task: Tell of {unlike(key)}." if request.purpose == "instruction" else f"{unlike(key)}."), "stop"

    outcome = loop(
        store, FakeEngine(answer=answer), table=seeds_of(mixed=(8, 7), always=(8, 8)), wanted={"mixed": 4, "always": 4},
        max_waves=1, prompt_style="chat",
    )  # fmt: skip
    assert set(outcome.dropped.filter(pl.col("category") == "always")["reason"]) == {"input_missing"}
    assert outcome.dropped.filter(pl.col("category") == "mixed").is_empty()


def test_requests_of_a_group_share_their_beginning_and_answers_show_the_same_seeds(store):
    engine = FakeEngine(answer=chat_writer)
    rows = generated_rows(loop(store, engine, table=SEEDS, wanted={"stories": 8}, prompt_style="chat"))
    beginnings = {prompt.rpartition("<user>")[0] for prompt in engine.prompts.values() if "Task:" in prompt}
    assert len(beginnings) == math.ceil(rows.height / GROUP)
    answers = {prompt.rpartition("<user>")[0] for prompt in engine.prompts.values() if "Task:" not in prompt}
    assert len(answers) == len(beginnings)
    turns = re.findall(r"<user>(Tell [^<]*)</user>", next(iter(answers)))
    seeds = {row["id"]: row["instruction"] for row in SEEDS.iter_rows(named=True)}
    assert turns in [[seeds[id] for id in parents][:2] for parents in rows["parents"]]
    assert set(rows["depth"]) == {1}


def test_an_answer_with_constraints_is_requested_without_examples(store):
    engine = FakeEngine(answer=chat_writer)
    loop(store, engine, wanted={"stories": 4}, prompt_style="chat", strategies={"constraint": 1.0})
    answers = [prompt for prompt in engine.prompts.values() if "Task:" not in prompt]
    assert answers
    assert all(prompt.count("<user>") == 1 for prompt in answers)


def test_a_model_without_a_chat_template_continues_a_list(store):
    engine = FakeEngine()
    engine.capabilities = Capabilities(chat_template=False)
    loop(store, engine, wanted={"stories": 4}, prompt_style="chat")
    assert any("1. " in prompt for prompt in engine.prompts.values())
    assert not any("Task: Tell" in prompt for prompt in engine.prompts.values())


CASES: dict[str, tuple[str, str]] = {
    "input_missing": ("Task: Tell of {}.", "summaries"),
    "task_has_gap": ("Task: Write to [Your Name] about {}.", "stories"),
    "task_refused": ("Task: I'm sorry, but I can't assist with that {}.", "stories"),
    "instruction_unreadable": ("Here you are, {}.", "stories"),
    "input_copied": ("Task: Sum up {0}.\nText: Sum up {0}.", "summaries"),
    "input_has_answer": (
        "Task: Write a function for {}.\nText: def f():\n    return [n ** 2 for n in range(9)]",
        "summaries",
    ),
}


@pytest.mark.parametrize("reason", CASES)
def test_a_faulty_task_is_dropped_before_its_answer_is_paid_for(store, reason):
    text, category = CASES[reason]

    def answer(key: str, request: Request) -> tuple[str, str]:
        return (text.format(unlike(key)) if request.purpose == "instruction" else "A."), "stop"

    result = generated(store, FakeEngine(answer=answer), wanted={category: 2}, max_waves=1, prompt_style="chat")
    assert set(result.outcome.dropped["reason"]) == {reason}
    assert "response" not in store.account()


def test_the_outcome_does_not_depend_on_the_order_of_the_completions():
    from contextlib import closing
    from pathlib import Path

    from kiloset.core.calls import CallStore
    from tests.test_loop import as_bytes

    results = []
    for order in range(3):
        with closing(CallStore(Path(":memory:"))) as calls:
            engine = FakeEngine(order=order, answer=chat_writer)
            strategies = {"self_instruct": 0.6, "constraint": 0.4}
            results.append(
                as_bytes(
                    loop(
                        calls, engine, wanted={"stories": 9, "summaries": 9}, prompt_style="chat", strategies=strategies
                    )
                )
            )
    assert results[0] == results[1] == results[2]


@pytest.mark.parametrize("most", [8_000, 40_000, 150_000])
def test_no_token_is_spent_beyond_the_budget(store, most):
    result = generated(
        store, FakeEngine(answer=chat_writer), wanted={"stories": 300, "summaries": 200}, max_tokens=most, max_waves=3,
        strategies={"self_instruct": 0.7, "constraint": 0.3}, max_response_tokens=60, max_input_tokens=30,
        max_instruction_tokens=30, prompt_style="chat",
    )  # fmt: skip
    assert result.ended == "max_tokens"
    assert store.spent(PURPOSES)[1] <= most
    assert most < 40_000 or store.spent(PURPOSES)[1] > most / 4


def test_a_run_that_may_spend_more_continues_and_sends_nothing_twice(store):
    first, second = FakeEngine(answer=chat_writer), FakeEngine(answer=chat_writer)
    little = generated(store, first, wanted={"stories": 30}, max_requests=30, prompt_style="chat")
    more = generated(store, second, wanted={"stories": 30}, max_requests=1000, prompt_style="chat")
    assert (little.ended, more.ended) == ("max_requests", "done")
    assert not set(first.sent) & set(second.sent)
    assert set(little.outcome.kept["instruction"]) <= set(more.outcome.kept["instruction"])
