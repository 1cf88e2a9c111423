"""Measures what a model can no longer do after training: held-out capabilities, each item with an exact correct answer.

Forgetting is F = mean over capabilities of max(0, a - f), with the base model's accuracy a and the tuned model's f: the
mean loss, not offset by gains. It is the *forgetting measure* of A. Chaudhry et al. ("Riemannian Walk for Incremental
Learning: Understanding Forgetting and Intransigence", 2018, arXiv:1801.10112) with one step of training, except that a
gain counts as 0. Noise alone makes F positive.

Choices are scored by likelihood, as multiple-choice benchmarks are: the model chooses the option with the highest mean
log-probability per token. Written tasks are scored by reading the answer, so their accuracy also falls if a model answers
in another form than the task demands. All items were written for this project. They are short and easy, for small models;
`common sense` needs only a child's knowledge. A base model may have seen similar items.
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from kiloset.core.errors import DataError
from kiloset.core.models import Message
from kiloset.core.text import LIST_MARK, numbers, squash, words
from kiloset.evaluation.bundled import bundled_rows
from kiloset.evaluation.metrics import Answer, Metric, Prompt


@dataclass(frozen=True, slots=True)
class Choice:
    """A question with several options, one of which is correct."""

    key: str
    capability: str
    messages: tuple[Message, ...]
    options: tuple[str, ...]
    """The assistant's possible answers, similar in form and length; each position is correct equally often."""
    correct: int
    """Number of the correct option, from 0."""


@dataclass(frozen=True, slots=True)
class CapabilityTask:
    """A question that the model answers in its own words, with the accepted answers."""

    key: str
    capability: str
    messages: tuple[Message, ...]
    accepted: tuple[str, ...]
    """Each of these is correct."""
    reading: Literal["number", "words", "verbatim"]
    """How the answer is compared; see `is_correct`."""


def choices() -> list[Choice]:
    """Return the 200 choices in a fixed order: 40 for each of five capabilities."""
    return [
        Choice(row["key"], row["capability"], _user(row["question"]), tuple(row["options"]), row["correct"])
        for row in bundled_rows("choices")
    ]


def written_tasks() -> list[CapabilityTask]:
    """Return the 80 written tasks in a fixed order: 40 of `arithmetic` and 40 of `strings`."""
    return [
        CapabilityTask(row["key"], row["capability"], _user(row["question"]), tuple(row["accepted"]), row["reading"])
        for row in bundled_rows("written")
    ]


def prompts(tasks: Iterable[CapabilityTask]) -> list[Prompt]:
    """Return one prompt for each task, in order."""
    return [Prompt(task.key, task.messages) for task in tasks]


def is_correct(task: CapabilityTask, text: str) -> bool:
    """Return whether an answer is correct.

    * `number`: the last number of the answer is accepted, list numbering aside. A number after the result gives a wrong
      reading ("13, found in 2 steps").
    * `words`: the accepted words occur in this order, separated only by punctuation, list marks and "and", in any case,
      anywhere in the answer.
    * `verbatim`: the accepted text occurs, whitespace collapsed, not inside a longer word.

    So an answer with several attempts is correct if one of them is.
    """
    if task.reading == "number":
        return numbers(text)[-1:] == list(task.accepted)
    if task.reading == "words":
        answer = _padded(word for word in words(LIST_MARK.sub(" ", text)) if word != "and")
        return any(_padded(words(accepted)) in answer for accepted in task.accepted)
    return any(_contains(squash(text), accepted) for accepted in task.accepted)


def choice_metrics(choices: Iterable[Choice], scores: Mapping[tuple[str, int], float]) -> list[Metric]:
    """Return the accuracy of each capability, in the order of their first items.

    Args:
        choices: The choices that were scored.
        scores: By key and number of the option, the option's mean log-probability per token as the assistant's answer,
            in nats. An item with a nan is left out; of equal options the first is chosen.
    """
    results = []
    for choice in choices:
        row = [scores[choice.key, number] for number in range(len(choice.options))]
        if not any(map(math.isnan, row)):
            results.append((choice.capability, choice.key, row.index(max(row)) == choice.correct))
    return _accuracies(results)


def written_metrics(tasks: Iterable[CapabilityTask], answers: Mapping[str, Answer]) -> list[Metric]:
    """Return the accuracy of each capability, in the order of their first items; answers are by the task's key."""
    return _accuracies((task.capability, task.key, is_correct(task, answers[task.key].text)) for task in tasks)


def forgetting(base: Sequence[Metric], tuned: Sequence[Metric]) -> float:
    """Return F, a fraction in [0, 1]: the mean loss of accuracy over capabilities, a gain counted as 0.

    Each capability is compared on the items that both models have.

    Raises:
        DataError: The two models have different metrics or none, or a metric has no item in common.
    """
    before, after = ({metric.name: metric for metric in metrics} for metrics in (base, tuned))
    if not before or before.keys() != after.keys():
        raise DataError(
            "KS503", f"forgetting needs the same capabilities twice, got {sorted(before)} and {sorted(after)}"
        )
    return sum(max(0.0, _drop(metric, after[name])) for name, metric in before.items()) / len(before)


def _drop(base: Metric, tuned: Metric) -> float:
    common = [key for key in base.counts if key in tuned.counts]
    if not common:
        raise DataError("KS504", f"{base.name}: the two models have no item in common")
    before, after = (sum(m.sums[k] for k in common) / sum(m.counts[k] for k in common) for m in (base, tuned))
    return before - after


def _accuracies(results: Iterable[tuple[str, str, bool]]) -> list[Metric]:
    """Return one metric for each capability, from `(capability, key, whether the answer is correct)`."""
    sums: dict[str, dict[str, float]] = {}
    for capability, key, correct in results:
        sums.setdefault(capability, {})[key] = float(correct)
    return [
        Metric(f"accuracy {capability}", "fraction", "higher", by_key, dict.fromkeys(by_key, 1.0))
        for capability, by_key in sums.items()
    ]


def _user(text: str) -> tuple[Message, ...]:
    return ({"role": "user", "content": text},)


def _padded(tokens: Iterable[str]) -> str:
    return f" {' '.join(tokens)} "


def _contains(text: str, wanted: str) -> bool:
    """Return whether `wanted` occurs in a text, not as a part of a longer word."""
    return any(
        not text[:start][-1:].isalnum() and not text[start + len(wanted) :][:1].isalnum()
        for start in range(len(text))
        if text.startswith(wanted, start)
    )
