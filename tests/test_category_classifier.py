"""The category classifier, compared with a plain loop that leaves each task out in turn, and against hand-computed odds."""

import math

import numpy as np
import pytest

from kiloset.generator.category_classifier import (
    DEFAULT_TEMPERATURE,
    TEMPERATURES,
    CategoryClassifier,
    split_task,
    train_classifier,
)
from tests.fakes import FakeEmbedder

TEXTS = ["sum the odd numbers", "add two and two", "count the even numbers", "sing of the sea", "rhyme on the moon"]
TEXTS += ["a song of two moons", "cut this short", "make this short", "shorten the song"]
NAMES = ["maths"] * 3 + ["poems"] * 3 + ["cutting"] * 3
TASKS = [(text, at > 5) for at, text in enumerate(TEXTS)]


def by_hand(
    tasks: list[tuple[str, bool]], names: list[str], asked: tuple[str, bool], temperature: float
) -> list[float]:
    """Return the probabilities of the sorted categories, in plain Python."""
    vectors = FakeEmbedder().embed([task for task, _ in tasks]).astype(float).tolist()
    mean = [sum(column) / len(vectors) for column in zip(*vectors, strict=True)]

    def cosine(a: list[float], b: list[float]) -> float:
        return sum(x * y for x, y in zip(a, b, strict=True)) / math.hypot(*a) / math.hypot(*b)

    one = [x - m for x, m in zip(FakeEmbedder().embed([asked[0]])[0].astype(float).tolist(), mean, strict=True)]
    weights = []
    for name in sorted(set(NAMES)):
        own = [at for at, other in enumerate(names) if other == name]
        centre = [sum(vectors[at][d] for at in own) / len(own) - mean[d] for d in range(len(mean))]
        with_text = (sum(tasks[at][1] for at in own) + 1) / (len(own) + 2)
        weights.append(math.exp(cosine(one, centre) / temperature) * (with_text if asked[1] else 1 - with_text))
    return [weight / sum(weights) for weight in weights]


@pytest.fixture(scope="module")
def classifier() -> CategoryClassifier:
    return train_classifier(TASKS, NAMES, FakeEmbedder())


@pytest.mark.parametrize("asked", [("count the moon", False), ("shorten two numbers", True), ("sing", False)])
def test_a_task_is_read_as_by_hand(classifier: CategoryClassifier, asked: tuple[str, bool]) -> None:
    expected = by_hand(TASKS, NAMES, asked, classifier.temperature)
    (prediction,) = classifier.predict([asked], FakeEmbedder())
    assert prediction.category == sorted(set(NAMES))[expected.index(max(expected))]
    assert prediction.confidence == pytest.approx(max(expected), rel=1e-3)


def test_each_labelled_task_is_checked_as_if_it_had_no_label(classifier: CategoryClassifier) -> None:
    for at, (right, confidence) in enumerate(classifier.left_out):
        others, names = [*TASKS[:at], *TASKS[at + 1 :]], [*NAMES[:at], *NAMES[at + 1 :]]
        expected = by_hand(others, names, TASKS[at], classifier.temperature)
        assert right == (sorted(set(NAMES))[expected.index(max(expected))] == NAMES[at])
        assert confidence == pytest.approx(max(expected), rel=1e-3)
    rights = [right for right, _ in classifier.left_out]
    assert classifier.accuracy() == sum(rights) / len(TASKS)
    sure = [right for right, confidence in classifier.left_out if confidence >= 0.6]
    assert 0 < len(sure) < len(rights)
    assert classifier.accuracy(0.6) == sum(sure) / len(sure)


def test_the_temperature_is_the_one_under_which_the_left_out_labels_are_likeliest(
    classifier: CategoryClassifier,
) -> None:
    def surprise(temperature: float) -> float:
        total = 0.0
        for at, name in enumerate(NAMES):
            others, names = [*TASKS[:at], *TASKS[at + 1 :]], [*NAMES[:at], *NAMES[at + 1 :]]
            total -= math.log(by_hand(others, names, TASKS[at], temperature)[sorted(set(NAMES)).index(name)])
        return total

    assert classifier.temperature == pytest.approx(min(TEMPERATURES, key=surprise))
    assert TEMPERATURES[0] < classifier.temperature < TEMPERATURES[-1]


def test_confidence_is_about_the_accuracy_on_tasks_never_seen() -> None:
    # Two overlapping clouds: labels drawn with the very probability that the best classifier would state.
    rng = np.random.default_rng(0)

    class Cloud:
        identity = "cloud@1"

        def embed(self, texts: list[str]) -> np.ndarray:
            return np.array([directions[int(text)] for text in texts], dtype=np.float32)

    angles = rng.normal(np.repeat([0.0, 0.35], 1200), 0.35)
    directions = np.stack([np.cos(angles), np.sin(angles), np.full(2400, 0.5)], axis=1) / np.sqrt(1.25)
    names, order = np.repeat(["a", "b"], 1200), rng.permutation(2400)
    learnt, asked = order[:200], order[200:]
    classifier = train_classifier([(str(at), False) for at in learnt], list(names[learnt]), Cloud())
    predictions = classifier.predict([(str(at), False) for at in asked], Cloud())
    right = np.array([each.category == name for each, name in zip(predictions, names[asked], strict=True)])
    assert np.mean([each.confidence for each in predictions]) == pytest.approx(right.mean(), abs=0.08)
    assert classifier.accuracy() == pytest.approx(right.mean(), abs=0.08)


def test_whether_a_text_comes_along_decides_between_equal_directions() -> None:
    tasks = [("do it", True)] * 3 + [("do it", False)] * 3
    classifier = train_classifier(tasks, ["with"] * 3 + ["without"] * 3, FakeEmbedder())
    with_, without = classifier.predict([("do it", True), ("do it", False)], FakeEmbedder())
    assert (with_.category, without.category) == ("with", "without")
    assert with_.confidence == pytest.approx(4 / 5)  # of (3 + 1) / (3 + 2) and (0 + 1) / (3 + 2)


def test_equal_scores_go_to_the_category_whose_name_sorts_first() -> None:
    classifier = train_classifier([("do it", False)] * 4, ["b", "a", "b", "a"], FakeEmbedder())
    assert [each.category for each in classifier.predict([("other", False)], FakeEmbedder())] == ["a"]


def test_categories_of_one_task_each_cannot_be_checked() -> None:
    classifier = train_classifier(TASKS[::3], NAMES[::3], FakeEmbedder())
    assert (classifier.accuracy(), classifier.temperature) == (None, DEFAULT_TEMPERATURE)
    assert classifier.predict([TASKS[0]], FakeEmbedder())[0].category == "maths"
    alone = train_classifier(TASKS[:1], NAMES[:1], FakeEmbedder())
    assert alone.predict(TASKS, FakeEmbedder())[4].confidence == 1.0
    assert train_classifier(TASKS[:3], NAMES[:3], FakeEmbedder()).accuracy() == 1.0


@pytest.mark.parametrize(
    ("turn", "task"),
    [
        ("Sum it up.\n\nLong ago\n\nthere was", ("Sum it up.", True)),
        (" Sum it up: \nLong ago", ("Sum it up:", True)),
        ("Why?\n \n", ("Why?", False)),
    ],
)
def test_a_task_is_the_first_line_of_a_turn(turn: str, task: tuple[str, bool]) -> None:
    assert split_task(turn) == task
