"""What a model could do before training and no longer can: held-out capabilities, each item with an exact right answer.

Forgetting is F = mean over capabilities of max(0, a - f), with a the base's accuracy and f the tuned model's: the mean
loss, gains not set off against losses. It is the *forgetting measure* of A. Chaudhry et al. ("Riemannian Walk for
Incremental Learning: Understanding Forgetting and Intransigence", 2018, arXiv:1801.10112) with one step of training,
except that a loss below 0 counts as none. The signed mean stands beside it, because noise alone makes F positive.

Choices are judged by likelihood, the way of multiple-choice benchmarks: the answer whose tokens have the highest mean
log-probability is chosen. Written tasks are judged by reading the answer, so they also fall when a model answers in
another form than it is asked for. All items are this project's own. They are short and easy, meant for a small model;
those of `common sense` ask only for what a child knows. No claim is made that a base model never met their like.
"""

import json
import math
import random
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from kiloset.core.errors import DataError
from kiloset.core.models import Message
from kiloset.core.text import LIST_MARK, numbers, squash, words
from kiloset.evaluation.metrics import Answer, Metric, Prompt

DATA = Path(__file__).parent / "data"
SEED = 20240
"""Seed of the written tasks; another seed is another test, and may ask something twice."""
PER_KIND = 8
"""Written tasks of each kind; five kinds make a capability."""


@dataclass(frozen=True, slots=True)
class Choice:
    """A question with several answers, of which one is right."""

    key: str
    capability: str
    messages: tuple[Message, ...]
    options: tuple[str, ...]
    """Answers of the assistant, alike in form and length; the right one stands in each place equally often."""
    correct: int
    """Number of the right option, from 0."""


@dataclass(frozen=True, slots=True)
class Task:
    """Something to be written, with what a right answer holds."""

    key: str
    capability: str
    messages: tuple[Message, ...]
    accepted: tuple[str, ...]
    """Any of these is right."""
    judged: Literal["number", "words", "verbatim"]
    """Which reading of the answer is compared; see `is_right`."""


@dataclass(frozen=True, slots=True)
class Forgetting:
    """What was lost between two models, in accuracy, as fractions in [-1, 1]."""

    loss: float
    """F: the mean over capabilities of what was lost, a gain counted as 0."""
    mean_drop: float
    """The mean over capabilities of base minus tuned, gains included."""
    worst: str
    """The metric that dropped most, the first of several."""
    worst_drop: float
    """Its base minus tuned; below 0 where even this one gained."""
    drops: Mapping[str, float]
    """Base minus tuned by the metric's name."""


def choices() -> list[Choice]:
    """Return the 200 choices in a fixed order: 40 of each of five capabilities."""
    rows = map(json.loads, (DATA / "choices.jsonl").read_text(encoding="utf-8").split("\n")[:-1])
    return [
        Choice(row["key"], row["capability"], _asked(row["question"]), tuple(row["options"]), row["correct"])
        for row in rows
    ]


def written() -> list[Task]:
    """Return the 80 written tasks, the same at every call: 40 of `arithmetic` and 40 of `strings`."""
    rng = random.Random(SEED)
    makers = {
        "arithmetic": (_sum, _difference, _product, _bought, _left),
        "strings": (_copy, _initials, _count, _order, _series),
    }
    tasks = []
    for capability, kinds in makers.items():
        for number in range(PER_KIND * len(kinds)):
            text, accepted, judged = kinds[number % len(kinds)](rng)
            tasks.append(Task(f"{capability}-{number + 1:02}", capability, _asked(text), accepted, judged))
    return tasks


def prompts(tasks: Iterable[Task]) -> list[Prompt]:
    """Return what is to be answered, in the tasks' order."""
    return [Prompt(task.key, task.messages) for task in tasks]


def is_right(task: Task, text: str) -> bool:
    """Tell whether an answer is right.

    A `number` is the last number of the answer, list numbering aside: what is said after the result misleads it
    ("13, found in 2 steps"). `words` are words in this order with nothing but punctuation, list marks and "and"
    between them, in any case, anywhere in the answer; `verbatim` is the text itself, spaces collapsed, not inside a
    longer word. So an answer that tries several words is right if one try is.
    """
    if task.judged == "number":
        return numbers(text)[-1:] == list(task.accepted)
    if task.judged == "words":
        said = _padded(word for word in words(LIST_MARK.sub(" ", text)) if word != "and")
        return any(_padded(words(wanted)) in said for wanted in task.accepted)
    return any(_holds(squash(text), wanted) for wanted in task.accepted)


def choice_metrics(choices: Iterable[Choice], scores: Mapping[tuple[str, int], float]) -> list[Metric]:
    """Return the accuracy of each capability, in the order of their first items.

    Args:
        choices: The choices that were scored.
        scores: By key and number of the option, the option's mean log-probability per token as the assistant's answer,
            in nats. Where one is nan the item is left out; of equal ones the first is chosen.
    """
    verdicts = []
    for choice in choices:
        row = [scores[choice.key, number] for number in range(len(choice.options))]
        if not any(map(math.isnan, row)):
            verdicts.append((choice.capability, choice.key, row.index(max(row)) == choice.correct))
    return _accuracies(verdicts)


def written_metrics(tasks: Iterable[Task], answers: Mapping[str, Answer]) -> list[Metric]:
    """Return the accuracy of each capability, in the order of their first items; answers are by the task's key."""
    return _accuracies((task.capability, task.key, is_right(task, answers[task.key].text)) for task in tasks)


def forgetting(base: Sequence[Metric], tuned: Sequence[Metric]) -> Forgetting:
    """Return what the tuned model lost, each capability over the items that both models have.

    Raises:
        DataError: The two have not the same metrics, there are none, or one has no item in common.
    """
    ours, theirs = ({metric.name: metric for metric in metrics} for metrics in (base, tuned))
    if not ours or ours.keys() != theirs.keys():
        raise DataError(
            "KS503", f"forgetting needs the same capabilities twice, got {sorted(ours)} and {sorted(theirs)}"
        )
    drops = {name: _drop(metric, theirs[name]) for name, metric in ours.items()}
    worst = max(drops, key=lambda name: drops[name])
    return Forgetting(
        loss=sum(max(0.0, drop) for drop in drops.values()) / len(drops),
        mean_drop=sum(drops.values()) / len(drops),
        worst=worst,
        worst_drop=drops[worst],
        drops=drops,
    )


def _drop(base: Metric, tuned: Metric) -> float:
    common = [key for key in base.counts if key in tuned.counts]
    if not common:
        raise DataError("KS504", f"{base.name}: the two models have no item in common")
    before, after = (sum(m.sums[k] for k in common) / sum(m.counts[k] for k in common) for m in (base, tuned))
    return before - after


def _accuracies(verdicts: Iterable[tuple[str, str, bool]]) -> list[Metric]:
    """Return a metric per capability of `(capability, key, right)`."""
    sums: dict[str, dict[str, float]] = {}
    for capability, key, right in verdicts:
        sums.setdefault(capability, {})[key] = float(right)
    return [
        Metric(f"accuracy {capability}", "fraction", "higher", by_key, dict.fromkeys(by_key, 1.0))
        for capability, by_key in sums.items()
    ]


def _asked(text: str) -> tuple[Message, ...]:
    return ({"role": "user", "content": text},)


def _padded(tokens: Iterable[str]) -> str:
    return f" {' '.join(tokens)} "


def _holds(text: str, wanted: str) -> bool:
    """Tell whether a text holds another that is not part of a longer word."""
    return any(
        not text[:at][-1:].isalnum() and not text[at + len(wanted) :][:1].isalnum()
        for at in range(len(text))
        if text.startswith(wanted, at)
    )


Made = tuple[str, tuple[str, ...], Literal["number", "words", "verbatim"]]
"""Text of a task, what is accepted, and how it is judged."""
NAMES = words("anna ben clara david emma felix grace henry ivy jonas karen leo mia noah olga paul")
GOODS = words("apples pens books eggs stamps shells coins cards buttons candles lemons marbles")
PLAIN_WORDS = words("""
    apple bread chair dance eagle field green house island jacket kettle lemon market night orange paper queen river
    stone table uncle village window yellow anchor bridge candle dragon engine forest garden hammer insect jungle
    kitchen ladder mirror needle object pencil quarter rabbit silver tunnel umbrella violin wagon
""")


def _sum(rng: random.Random) -> Made:
    a, b = rng.randint(2, 40), rng.randint(2, 40)
    return f"What is {a} + {b}?", (str(a + b),), "number"


def _difference(rng: random.Random) -> Made:
    a, b = rng.randint(2, 20), rng.randint(2, 20)
    return f"What is {a + b} - {a}?", (str(b),), "number"


def _product(rng: random.Random) -> Made:
    a, b = rng.randint(2, 10), rng.randint(2, 10)
    return f"What is {a} times {b}?", (str(a * b),), "number"


def _bought(rng: random.Random) -> Made:
    name, goods, a, b = rng.choice(NAMES).title(), rng.choice(GOODS), rng.randint(2, 12), rng.randint(2, 12)
    return f"{name} has {a} {goods} and gets {b} more. How many {goods} does {name} have now?", (str(a + b),), "number"


def _left(rng: random.Random) -> Made:
    name, goods, a, b = rng.choice(NAMES).title(), rng.choice(GOODS), rng.randint(2, 12), rng.randint(2, 12)
    return (
        f"{name} has {a + b} {goods} and gives {a} of them away. How many {goods} are left?",
        (str(b),),
        "number",
    )


def _copy(rng: random.Random) -> Made:
    line = " ".join([*rng.sample(PLAIN_WORDS, 3), str(rng.randint(10, 99))])
    return f"Repeat this line exactly, and write nothing else:\n\n{line}", (line,), "verbatim"


def _initials(rng: random.Random) -> Made:
    chosen = rng.sample(PLAIN_WORDS, 3)
    letters = [word[0] for word in chosen]
    text = f"Write the first letter of each of these words, in this order: {', '.join(chosen)}."
    return text, (" ".join(letters), "".join(letters)), "words"


def _count(rng: random.Random) -> Made:
    chosen = rng.sample(PLAIN_WORDS, rng.randint(3, 7))
    return (
        f"How many words are in this line? Answer with a number.\n\n{' '.join(chosen)}",
        (str(len(chosen)),),
        "number",
    )


def _order(rng: random.Random) -> Made:
    chosen = rng.sample(PLAIN_WORDS, 3)
    while chosen == sorted(chosen):
        rng.shuffle(chosen)
    return f"Put these words in alphabetical order: {', '.join(chosen)}.", (" ".join(sorted(chosen)),), "words"


def _series(rng: random.Random) -> Made:
    first, step = rng.randint(1, 20), rng.randint(1, 10)
    shown = ", ".join(str(first + step * i) for i in range(4))
    return f"Which number comes next? {shown}, ...", (str(first + step * 4),), "number"
