"""Chats that ask an instruct model for a whole task, and later for its answer.

A chat shows seeds of the category as turns: the user asks for a task on a subject, the assistant writes it with its text.
The last turn asks for a new one. The answer is then requested in a chat whose earlier turns are the same seeds, each as task
and answer, so that it has the style of the user's own answers. All requests of a group show the same seeds: the engine
computes that beginning once, and pays for the last turn and the completion.

In-context examples as in Self-Instruct (arXiv:2212.10560). Departures: examples are chat turns and not a numbered list, since
a 1.5B model copied the list's examples; instruction and input come in one completion; a subject is given with each request.
"""

import random
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from kiloset.core.models import Message
from kiloset.core.table import user_turn
from kiloset.core.text import squash
from kiloset.generator.parsing import META, PREAMBLE, read_input, without_quotes
from kiloset.generator.templates import Templates

Row = dict[str, Any]

TASK_STOP = ("\nTask:", "\nAnswer:", "\nResponse:")
"""Where a completion goes on after its task."""
BARE_STOP = (*TASK_STOP, "\nText:")
"""Stops of a task without a text."""
WHOLE_TASK = re.compile(
    r"^[^\w\n]{0,4}Task:[*_ \t]*(?P<task>.*?)(?:^[^\w\n]{0,4}Text:[*_ \t]*(?P<text>.*))?\Z", re.DOTALL | re.MULTILINE
)
MOST_BEFORE = 100
"""Characters of a preamble ("Sure, here is …") that may precede the task."""
GROUP = 24
"""Consecutive requests of a category and form that show the same seeds."""
MOST_CHARACTERS = 5_000
"""Most characters of the seeds in one chat; the first seed is shown whatever its length."""


class ExampleGroups:
    """Chooses the form of each request and the seeds it shows: the same ones for all requests of a group.

    Strategies and waves share the groups, so that few beginnings of prompts are computed.
    """

    def __init__(self, seeds: Mapping[str, Sequence[Row]], count: int, seed: int) -> None:
        """Start with the seeds by category, the number of seeds to show, and the run's seed."""
        self._seeds, self._count, self._seed = seeds, count, seed
        self._requests: Counter[str] = Counter()
        self._forms: Counter[tuple[str, bool]] = Counter()
        self._groups: dict[tuple[str, bool, int], list[Row]] = {}

    def choose(self, category: str) -> tuple[bool, list[Row]]:
        """Return whether the next task of a category comes with a text, and the seeds of that form to show."""
        seeds = self._seeds[category]
        share = sum(bool(row["input"]) for row in seeds) / len(seeds)
        text = with_text(self._requests[category], share)
        group = (category, text, self._forms[category, text] // GROUP)
        self._requests[category] += 1
        self._forms[category, text] += 1
        if group not in self._groups:
            rng = random.Random(f"{self._seed}/examples/{group}")
            self._groups[group] = choose_examples(
                [row for row in seeds if bool(row["input"]) == text], self._count, rng
            )
        return text, self._groups[group]


def with_text(number: int, share: float) -> bool:
    """Return whether the request with this number, from 0, asks for a task with a text, if this share of tasks has one."""
    return int((number + 1) * share + 1e-9) > int(number * share + 1e-9)


def choose_examples(seeds: Sequence[Row], count: int, rng: random.Random) -> list[Row]:
    """Return up to `count` seeds to show, as many as `MOST_CHARACTERS` allows."""
    chosen: list[Row] = []
    size = 0
    for row in rng.sample(list(seeds), len(seeds)):
        length = len(row["instruction"]) + len(row["input"]) + len(row["response"])
        if not chosen or size + length <= MOST_CHARACTERS:
            chosen.append(row)
            size += length
        if len(chosen) == count:
            break
    return chosen


def task_messages(
    templates: Templates, category: str, examples: Sequence[tuple[str, Row]], topic: str, *, text: bool
) -> list[Message]:
    """Return the chat that asks for a new task.

    Args:
        templates: The prompts.
        category: The category in words.
        examples: Subject and seed of each task shown.
        topic: Subject of the new task.
        text: Whether the task comes with a text.
    """
    messages: list[Message] = [{"role": "system", "content": templates.render("task_system", text=text)}]
    for subject, row in examples:
        messages += [
            {"role": "user", "content": templates.render("task", category=category, topic=subject, text=text)},
            {"role": "assistant", "content": written_task(row)},
        ]
    return [*messages, {"role": "user", "content": templates.render("task", category=category, topic=topic, text=text)}]


def written_task(row: Mapping[str, Any]) -> str:
    """Return a row as the completion of a request for a task."""
    return f"Task: {row['instruction'].strip()}" + (f"\nText: {row['input'].strip()}" if row["input"] else "")


def answer_messages(row: Mapping[str, Any], examples: Sequence[Row]) -> list[Message]:
    """Return the chat that asks for a row's answer after those of some seeds."""
    messages: list[Message] = []
    for example in examples:
        messages += [
            {"role": "user", "content": user_turn(example["instruction"], example["input"])},
            {"role": "assistant", "content": example["response"]},
        ]
    return [*messages, {"role": "user", "content": user_turn(row["instruction"], row["input"])}]


def read_whole_task(text: str) -> tuple[str, str]:
    """Return `(instruction, input)` of a completion; ("", "") if it has no task or describes one instead of being one."""
    match = WHOLE_TASK.search(text.strip())
    if match is None or match.start() > MOST_BEFORE:
        return "", ""
    task = without_quotes(squash(match["task"]))
    if META.search(task):
        return "", ""
    return task, read_input(PREAMBLE.sub("", (match["text"] or "").strip(), count=1))
