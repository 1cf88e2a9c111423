"""Makes a held-out set of prompts with verifiable constraints.

The constraint ids and the checkers are IFEval's (Zhou et al., "Instruction-Following Evaluation for Large Language Models",
2023, arXiv:2311.07911). A set uses all 25 ids about equally often, one to three in a prompt. Its tasks, its phrases and many
of its argument values differ from those of the training prompts, so that it measures whether a model follows an
instruction, not whether it recalls a phrase. A test checks that no phrase shares four words in a row with one of training.
Training never uses three of the ids: `language:response_language`, `combination:two_responses` and
`length_constraints:nth_paragraph_first_word`. They show whether the ability carries over to other constraints.
"""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from random import Random
from typing import Any, TypeVar

from kiloset.core.constraints import IDS, validate
from kiloset.core.phrase_book import PhraseBook
from kiloset.core.text import normal_form
from kiloset.evaluation.bundled import bundled_rows
from kiloset.evaluation.following import Constraint, Item

T = TypeVar("T")

WEIGHTS = (5, 3, 2)
"""Relative frequencies of prompts with one, two and three constraints."""
SHARED_WORDS = 8
"""A task of the set must not share this many words in a row with a training instruction."""
TASK_KINDS = {
    "detectable_format:constrained_response": "yes_or_no",
    "detectable_content:number_placeholders": "letter",
}
"""The kind of task that a constraint needs; every other constraint fits a task of the kind `open`."""
LANGUAGES = {
    "de": "German", "es": "Spanish", "fi": "Finnish", "fr": "French", "it": "Italian", "pl": "Polish",
    "pt": "Portuguese", "ru": "Russian", "vi": "Vietnamese",
}  # fmt: skip
"""By code. All of them separate words by spaces, so that a word count has the same meaning."""


@dataclass(frozen=True, slots=True)
class Task:
    """A short task that sets no length and no form of its own."""

    text: str
    keywords: tuple[str, ...]
    """Three words that an answer may contain and that the task does not."""


@cache
def tasks_of(kind: str) -> tuple[Task, ...]:
    """Return the bundled tasks of a kind: `open`, `yes_or_no` or `letter`."""
    return tuple(Task(row["text"], tuple(row["keywords"])) for row in bundled_rows("tasks") if row["kind"] == kind)


def compatible(one: str, other: str) -> bool:
    """Return whether a prompt may have both constraints; the two ids differ."""
    return other not in _excluded(one) and one not in _excluded(other)


@cache
def _excluded(id: str) -> frozenset[str]:
    """Return the ids that may not stand in a prompt with `id`: no answer obeys both, or one changes what the other counts."""
    row = next(row for row in bundled_rows("constraints") if row["id"] == id)
    others = frozenset(IDS) - frozenset(row["only_with"]) if "only_with" in row else frozenset[str]()
    return others | frozenset(row.get("not_with", ()))


def held_out(count: int, seed: int, training: Sequence[str]) -> tuple[list[Item], int]:
    """Return a held-out set, and how many of its `count` prompts were left out because training contains their task.

    Equal `count` and `seed` give equal prompts in the same order under the same keys. Training instructions only remove
    prompts, so that sets made for different training sets are comparable on the keys they share.

    Args:
        count: Number of prompts to make; above about 150, tasks repeat with other constraints.
        seed: Seed of the draw.
        training: Instructions of the training set. A prompt is left out if one of them contains its whole task or shares
            8 words in a row with it, ignoring case and punctuation. Paraphrases are not detected.
    """
    known = _known_runs(training)
    drawn = list(_draw(count, Random(seed)))
    items = [item for task, item in drawn if known.isdisjoint(_task_runs(task))]
    return items, count - len(items)


def _draw(count: int, rng: Random) -> Iterator[tuple[Task, Item]]:
    """Yield tasks with their items; the ids and tasks that were drawn least come first, in random order among equals."""
    used_ids: Counter[str] = Counter()
    used_tasks: Counter[Task] = Counter()
    for number, size in enumerate(rng.choices(range(1, len(WEIGHTS) + 1), WEIGHTS, k=count)):
        ids = _draw_ids(size, used_ids, rng)
        kind = next((TASK_KINDS[id] for id in ids if id in TASK_KINDS), "open")
        task = _least_used(tasks_of(kind), used_tasks, rng)
        used_ids.update(ids)
        used_tasks[task] += 1
        constraints = _with_arguments(ids, task, rng)
        yield task, Item(f"held-{number:04}", _prompt(task, constraints, rng), constraints)


def _draw_ids(size: int, used: Mapping[str, int], rng: Random) -> list[str]:
    """Draw `size` compatible ids, or fewer if no other id is compatible with all of them."""
    options = [id for id in IDS if size == 1 or any(compatible(id, other) for other in IDS if other != id)]
    ids: list[str] = []
    while options and len(ids) < size:
        ids.append(_least_used(options, used, rng))
        options = [id for id in options if id not in ids and compatible(id, ids[-1])]
    return ids


def _least_used(options: Sequence[T], used: Mapping[T, int], rng: Random) -> T:
    fewest = min(used[option] for option in options)
    return rng.choice([option for option in options if used[option] == fewest])


def _with_arguments(ids: Sequence[str], task: Task, rng: Random) -> tuple[Constraint, ...]:
    keywords = rng.sample(task.keywords, len(task.keywords))
    constraints = []
    for id in ids:
        args: dict[str, Any]
        if id == "keywords:existence":
            args = {"keywords": [keywords.pop()]}
        elif id == "keywords:forbidden_words":
            args = {"forbidden_words": [keywords.pop()]}
        elif id == "combination:repeat_prompt":
            args = {"prompt_to_repeat": task.text}
        else:
            args = dict(rng.choice(phrase_book().arguments[id]))
        if id == "keywords:frequency":
            args["keyword"] = keywords.pop()
        validate(id, args)
        constraints.append((id, args))
    return tuple(constraints)


@cache
def phrase_book() -> PhraseBook:
    """Return the bundled phrases of the constraints and the arguments to choose from."""
    return PhraseBook(bundled_rows("constraints"))


def _prompt(task: Task, constraints: Sequence[Constraint], rng: Random) -> str:
    """Return the task with its constraints before or after it; a phrase that quotes the task replaces the task."""
    phrases = {id: phrase_book().phrase(rng, id, args, _in_words) for id, args in constraints}
    quoted_task = phrases.pop("combination:repeat_prompt", None)
    asked = " ".join(phrases.values())
    if quoted_task is not None:
        return f"{asked}\n\n{quoted_task}" if asked else quoted_task
    layouts = [f"{task.text} {asked}", f"{task.text}\n\n{asked}", f"{asked}\n\n{task.text}"]
    if len(phrases) > 1:
        bullets = "\n".join(f"* {phrase}" for phrase in phrases.values())
        layouts += [f"{task.text}\n\nPlease observe:\n{bullets}", f"{bullets}\n\nWith this in mind: {task.text}"]
    return rng.choice(layouts)


def _in_words(name: str, value: Any) -> str:
    """Return an argument as it stands in a phrase: keywords in quotation marks, a language by its name."""
    if name == "language":
        return LANGUAGES[value]
    if name == "keyword":
        return f'"{value}"'
    if isinstance(value, tuple | list):
        return " and ".join(f'"{word}"' for word in value)
    return str(value)


def _known_runs(texts: Sequence[str]) -> set[tuple[str, ...]]:
    """Return the word runs of the tasks that occur in one of the texts."""
    wanted = {run for kind in ("open", *TASK_KINDS.values()) for task in tasks_of(kind) for run in _task_runs(task)}
    lengths = {len(run) for run in wanted}
    split = (normal_form(text).split() for text in texts)
    return {run for words in split for length in lengths for run in _runs(words, length) if run in wanted}


def _task_runs(task: Task) -> list[tuple[str, ...]]:
    """Return the runs of `SHARED_WORDS` words of a task, or all words of a shorter task."""
    words = normal_form(task.text).split()
    return _runs(words, min(len(words), SHARED_WORDS))


def _runs(words: Sequence[str], length: int) -> list[tuple[str, ...]]:
    return [tuple(words[start : start + length]) for start in range(len(words) - length + 1)]
