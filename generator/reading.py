"""Reads the category of a task from labelled ones, with a probability that is calibrated on those.

A category is the mean direction of its tasks, after the mean of all tasks is taken away (which leaves less of what all
share); a task goes to the category of the highest cosine. Most of what a sentence embedder sees is the subject, so that
single neighbours say little: of the bundled seeds, read each by the others, 5 neighbours get 27 % right, this 50 %.
Only the task is embedded, not the text it comes with; whether it comes with one is a second sign, taken as independent
(naive Bayes, one task of each kind added to every category). A task after its text is read badly.

The probability is a softmax of the cosines over a temperature, that under which the labelled tasks, each read by the
others, are likeliest: temperature scaling, after Guo et al., "On Calibration of Modern Neural Networks" (ICML 2017,
arXiv:1706.04599), by leave-one-out, as there are no rows to spare.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from kiloset.core.models import Embedder

Floats = NDArray[np.float64]
Task = tuple[str, bool]
"""A task, and whether it comes with a text."""

TEMPERATURES = np.geomspace(0.01, 10.0, 37)
"""Temperatures tried; cosines differ by some tenths between many categories, by up to 2 between two."""
UNFITTED = 0.1
"""Temperature where no category has two labelled tasks, so that nothing can be tried."""


@dataclass(frozen=True, slots=True)
class Reading:
    """A category read, and how sure that is."""

    category: str
    confidence: float
    """Probability in [0, 1] that it is right, as far as the labelled tasks tell."""


@dataclass(frozen=True, slots=True)
class CategoryReader:
    """What labelled tasks teach."""

    names: tuple[str, ...]
    """Categories, sorted."""
    centres: Floats
    """(categories, dims), rows of length 1 or 0."""
    mean: Floats
    """(dims,), of all labelled tasks."""
    log_odds: Floats
    """(2, categories): log-probability that a task of a category comes without a text, and with one."""
    temperature: float
    checked: tuple[tuple[bool, float], ...]
    """For each labelled task whose category has another: whether the others read it rightly, and how sure they were."""

    def read(self, tasks: Sequence[Task], embedder: Embedder) -> list[Reading]:
        """Read tasks in the order given; ties go to the category whose name sorts first."""
        if not tasks:
            return []
        vectors = embedder.embed([task for task, _ in tasks]).astype(np.float64)  # (tasks, dims)
        cosines = _unit(vectors - self.mean) @ self.centres.T  # (tasks, categories)
        odds = self.log_odds[[int(with_text) for _, with_text in tasks]]
        found = _softmax(np.round(cosines, 6), odds, self.temperature)
        return [Reading(self.names[int(row.argmax())], float(row.max())) for row in found]

    def accuracy(self, least: float = 0.0) -> float | None:
        """Return the share of labelled tasks read rightly by the others, of those with at least this confidence."""
        counted = [right for right, confidence in self.checked if confidence >= least]
        return sum(counted) / len(counted) if counted else None


def learn_categories(tasks: Sequence[Task], categories: Sequence[str], embedder: Embedder) -> CategoryReader:
    """Learn from labelled tasks, of which there must be one."""
    names = tuple(sorted(set(categories)))
    own = np.array([names.index(name) for name in categories])  # (labelled,)
    texts = np.array([int(with_text) for _, with_text in tasks])
    vectors = embedder.embed([task for task, _ in tasks]).astype(np.float64)  # (labelled, dims)
    sums = np.stack([vectors[own == at].sum(axis=0) for at in range(len(names))])  # (categories, dims)
    sizes = np.bincount(own, minlength=len(names)).astype(np.float64)
    with_text = np.bincount(own, texts, len(names)).astype(np.float64)
    cosines, odds = _left_out(vectors, texts, own, sums, sizes, with_text)
    tried = [at for at in range(len(own)) if sizes[own[at]] > 1]
    temperature, checked = UNFITTED, list[tuple[bool, float]]()
    if tried:
        temperature = float(min(TEMPERATURES, key=lambda t: _surprise(cosines[tried], odds[tried], own[tried], t)))
        found = _softmax(cosines[tried], odds[tried], temperature)
        checked = [(bool(row.argmax() == own[at]), float(row.max())) for row, at in zip(found, tried, strict=True)]
    mean = vectors.mean(axis=0)
    return CategoryReader(
        names, _unit(sums / sizes[:, None] - mean), mean, _log_odds(with_text, sizes), temperature, tuple(checked)
    )


def task_of(user_turn: str) -> Task:
    """Return the task a user turn begins with, its first line, and whether more follows: the text to work on."""
    first, _, more = user_turn.strip().partition("\n")
    return first.strip(), bool(more)


def _left_out(
    vectors: Floats, texts: NDArray[np.int_], own: NDArray[np.int_], sums: Floats, sizes: Floats,
    with_text: Floats,
) -> tuple[Floats, Floats]:  # fmt: skip
    """Return each labelled task's cosines and log-odds, (labelled, categories), as if it had not been labelled."""
    cosines, odds = np.full((len(own), len(sizes)), -1.0), np.zeros((len(own), len(sizes)))
    for at, vector in enumerate(vectors):
        one = np.arange(len(sizes)) == own[at]
        left, kept = sizes - one, with_text - one * texts[at]
        odds[at] = _log_odds(kept, left)[texts[at]]
        if not left.sum():
            continue
        rest = sums - one[:, None] * vector
        mean, there = rest.sum(axis=0) / left.sum(), left > 0
        centres = _unit(rest[there] / left[there, None] - mean)
        cosines[at, there] = np.round(centres @ _unit((vector - mean)[None])[0], 6)
    return cosines, odds


def _log_odds(with_text: Floats, sizes: Floats) -> Floats:
    share = (with_text + 1) / (sizes + 2)
    odds: Floats = np.log(np.stack([1 - share, share]))
    return odds


def _surprise(cosines: Floats, odds: Floats, own: NDArray[np.int_], temperature: float) -> float:
    """Return the mean surprise, in nats, at the tasks' own categories."""
    found = _softmax(cosines, odds, temperature)
    return float(-np.log(found[np.arange(len(own)), own] + 1e-12).mean())


def _softmax(cosines: Floats, odds: Floats, temperature: float) -> Floats:
    scores = cosines / temperature + odds
    scaled = np.exp(scores - scores.max(axis=1, keepdims=True))
    probabilities: Floats = scaled / scaled.sum(axis=1, keepdims=True)
    return probabilities


def _unit(vectors: Floats) -> Floats:
    lengths = np.linalg.norm(vectors, axis=1, keepdims=True)
    unit: Floats = np.divide(vectors, lengths, out=np.zeros_like(vectors), where=lengths > 1e-9)
    return unit
