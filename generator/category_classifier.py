"""Predicts the category of a task from labelled tasks, with a probability that is calibrated on them.

A category is the mean direction of its tasks, after the mean of all tasks is subtracted; a task gets the category with the
highest cosine. A sentence embedder sees mostly the subject of a text, so single neighbours are poor evidence: of the
bundled seeds, each predicted from the others, 5 neighbours get 27 % right and this method 50 %. Only the task is embedded,
not its input. Whether the task has an input is a second, independent feature (naive Bayes with one task of each kind added
to every category). A task that follows its input is not recognised well.

The probability is a softmax of the cosines divided by a temperature: the one that makes the labelled tasks most likely,
each predicted from the others. This is the temperature scaling of Guo et al., "On Calibration of Modern Neural Networks"
(ICML 2017, arXiv:1706.04599), with leave-one-out, since there are too few labelled tasks for a validation set.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from kiloset.core.models import Embedder

Floats = NDArray[np.float64]
SplitTask = tuple[str, bool]
"""A task, and whether it has an input."""

TEMPERATURES = np.geomspace(0.01, 10.0, 37)
"""Temperatures to choose from; cosines differ by some tenths between many categories, by up to 2 between two."""
DEFAULT_TEMPERATURE = 0.1
"""Temperature if no category has two labelled tasks, so that none can be left out."""


@dataclass(frozen=True, slots=True)
class Prediction:
    """A category and its probability, in [0, 1]."""

    category: str
    confidence: float


@dataclass(frozen=True, slots=True)
class CategoryClassifier:
    """A classifier trained on labelled tasks."""

    names: tuple[str, ...]
    """Categories, sorted."""
    centres: Floats
    """(categories, dims), rows of length 1 or 0."""
    mean: Floats
    """(dims,), of all labelled tasks."""
    log_odds: Floats
    """(2, categories): log-probability that a task of the category has no input, and that it has one."""
    temperature: float
    left_out: tuple[tuple[bool, float], ...]
    """For each labelled task whose category has another: whether the others predict it correctly, and the confidence."""

    def predict(self, tasks: Sequence[SplitTask], embedder: Embedder) -> list[Prediction]:
        """Return predictions in the order of the tasks; ties go to the category whose name sorts first."""
        if not tasks:
            return []
        vectors = embedder.embed([text for text, _ in tasks]).astype(np.float64)  # (tasks, dims)
        cosines = np.round(_unit(vectors - self.mean) @ self.centres.T, 6)  # (tasks, categories)
        odds = self.log_odds[[int(has_input) for _, has_input in tasks]]
        probabilities = _softmax(cosines, odds, self.temperature)
        return [Prediction(self.names[int(row.argmax())], float(row.max())) for row in probabilities]

    def accuracy(self, min_confidence: float = 0.0) -> float | None:
        """Return the leave-one-out accuracy on labelled tasks with at least this confidence; None if there are none."""
        correct = [is_correct for is_correct, confidence in self.left_out if confidence >= min_confidence]
        return sum(correct) / len(correct) if correct else None


def train_classifier(tasks: Sequence[SplitTask], categories: Sequence[str], embedder: Embedder) -> CategoryClassifier:
    """Train on labelled tasks; at least one is needed."""
    names = tuple(sorted(set(categories)))
    labels = np.array([names.index(name) for name in categories])  # (labelled,)
    has_input = np.array([int(each) for _, each in tasks])
    vectors = embedder.embed([text for text, _ in tasks]).astype(np.float64)  # (labelled, dims)
    sums = np.stack([vectors[labels == at].sum(axis=0) for at in range(len(names))])  # (categories, dims)
    sizes = np.bincount(labels, minlength=len(names)).astype(np.float64)
    with_input = np.bincount(labels, has_input, len(names)).astype(np.float64)
    cosines, odds = _leave_one_out(vectors, has_input, labels, sums, sizes, with_input)
    usable = sizes[labels] > 1
    temperature, left_out = DEFAULT_TEMPERATURE, list[tuple[bool, float]]()
    if usable.any():
        cosines, odds, own = cosines[usable], odds[usable], labels[usable]
        temperature = float(min(TEMPERATURES, key=lambda t: _negative_log_likelihood(cosines, odds, own, t)))
        probabilities = _softmax(cosines, odds, temperature)
        left_out = [(bool(row.argmax() == at), float(row.max())) for row, at in zip(probabilities, own, strict=True)]
    mean = vectors.mean(axis=0)
    centres = _unit(sums / sizes[:, None] - mean)
    return CategoryClassifier(names, centres, mean, _log_odds(with_input, sizes), temperature, tuple(left_out))


def split_task(user_turn: str) -> SplitTask:
    """Return the first line of a user turn, and whether more text, the input, follows."""
    first, _, more = user_turn.strip().partition("\n")
    return first.strip(), bool(more)


def _leave_one_out(
    vectors: Floats,
    has_input: NDArray[np.int_],
    labels: NDArray[np.int_],
    sums: Floats,
    sizes: Floats,
    with_input: Floats,
) -> tuple[Floats, Floats]:
    """Return each labelled task's cosines and log-odds, (labelled, categories), from all others."""
    cosines, odds = np.full((len(labels), len(sizes)), -1.0), np.zeros((len(labels), len(sizes)))
    for at, vector in enumerate(vectors):
        own = np.arange(len(sizes)) == labels[at]
        other_sizes = sizes - own
        odds[at] = _log_odds(with_input - own * has_input[at], other_sizes)[has_input[at]]
        if not other_sizes.sum():
            continue
        other_sums = sums - own[:, None] * vector
        mean, present = other_sums.sum(axis=0) / other_sizes.sum(), other_sizes > 0
        centres = _unit(other_sums[present] / other_sizes[present, None] - mean)
        cosines[at, present] = np.round(centres @ _unit((vector - mean)[None])[0], 6)
    return cosines, odds


def _log_odds(with_input: Floats, sizes: Floats) -> Floats:
    share = (with_input + 1) / (sizes + 2)
    odds: Floats = np.log(np.stack([1 - share, share]))
    return odds


def _negative_log_likelihood(cosines: Floats, odds: Floats, labels: NDArray[np.int_], temperature: float) -> float:
    """Return the mean over the tasks, in nats."""
    probabilities = _softmax(cosines, odds, temperature)
    return float(-np.log(probabilities[np.arange(len(labels)), labels] + 1e-12).mean())


def _softmax(cosines: Floats, odds: Floats, temperature: float) -> Floats:
    scores = cosines / temperature + odds
    scaled = np.exp(scores - scores.max(axis=1, keepdims=True))
    probabilities: Floats = scaled / scaled.sum(axis=1, keepdims=True)
    return probabilities


def _unit(vectors: Floats) -> Floats:
    lengths = np.linalg.norm(vectors, axis=1, keepdims=True)
    unit: Floats = np.divide(vectors, lengths, out=np.zeros_like(vectors), where=lengths > 1e-9)
    return unit
