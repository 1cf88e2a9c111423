"""All that a model is asked, and that every figure is about what was asked, with a model whose answers are known."""

import json
import math
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from kiloset.core.calls import CallStore
from kiloset.core.errors import DataError
from kiloset.core.models import Completion, Message, Request, Silent
from kiloset.core.recorded import RecordedEngine
from kiloset.evaluation import drift, forgetting, rigidity
from kiloset.evaluation.evaluate import Judgement, Suites, judge, suites
from kiloset.evaluation.ifeval import Item
from kiloset.evaluation.settings import EvaluationConfig

CONFIG = EvaluationConfig(prompts=10, max_tokens=7)
ITEMS = (
    Item("1", "Say hello without commas.", (("punctuation:no_comma", {}),)),
    Item("2", "Say hello in quotes.", (("startend:quotation", {}), ("punctuation:no_comma", {}))),
)
VALIDATION = tuple((id, ({"role": "user", "content": f"Q {id}"},), f"answer {id}") for id in ("a", "b", "too long"))


class Parrot:
    """An engine that answers everything in the same words."""

    identity, templated, transparent, structured, raw = "parrot", True, True, True, True

    def __init__(self, text: str) -> None:
        self.text = text
        self.seen: list[Request] = []
        self._waiting: list[str] = []

    def render(self, messages: Sequence[Message]) -> str:
        return json.dumps(list(messages))

    def submit(self, requests: Sequence[tuple[str, Request]]) -> None:
        self.seen += [request for _, request in requests]
        self._waiting += [key for key, _ in requests]

    def receive(self) -> tuple[str, Completion]:
        return self._waiting.pop(), Completion(self.text, "stop", 5, 3)


class Ruler:
    """A judge for which a text is as likely as it is short, and which likes the first option best."""

    identity = "ruler"

    def __init__(self) -> None:
        self.diverged: list[str] = []

    def logprobs(
        self, prompts: Sequence[Sequence[Message]], responses: Sequence[str]
    ) -> Iterator[tuple[int, float, int]]:
        for at, response in reversed(list(enumerate(responses))):
            yield at, math.nan if response.endswith("too long") else -2.0 * (at + 1), at + 1

    def text_logprobs(self, texts: Sequence[str]) -> Iterator[tuple[int, float, int]]:
        for at, text in enumerate(texts):
            yield at, -3.0 * len(text), len(text)

    def divergence(
        self, prompts: Sequence[Sequence[Message]], responses: Sequence[str]
    ) -> Iterator[tuple[int, float, int]]:
        self.diverged = list(responses)
        for at, _ in enumerate(responses):
            yield at, 0.5, 10


@pytest.fixture
def store(tmp_path: Path) -> Iterator[CallStore]:
    made = CallStore(tmp_path / "calls.sqlite")
    yield made
    made.close()


ASKED = Suites({"following": ITEMS}, 0, VALIDATION)


def judged(store: CallStore, text: str, neutral: Any = None, ruler: Ruler | None = None) -> tuple[Judgement, Parrot]:
    parrot = Parrot(text)
    return judge(ASKED, CONFIG, RecordedEngine(parrot, store, Silent()), ruler or Ruler(), neutral), parrot


def test_everything_is_asked_once_greedily_and_kept_with_its_verdicts(store: CallStore) -> None:
    found, parrot = judged(store, "Hello there")
    prompts = [
        *forgetting.prompts(forgetting.written()), *rigidity.neutral(), *rigidity.consistency(), *rigidity.override()
    ]  # fmt: skip
    assert len(found.answers) == len(prompts) + len(ITEMS)
    assert len(parrot.seen) == len({request.prompt for request in parrot.seen})
    assert {(request.temperature, request.max_tokens) for request in parrot.seen} == {(0.0, 7)}
    kept = {entry["key"]: entry.get("constraints") for entry in found.answers if entry["suite"] == "following"}
    assert kept == {
        "1": [["punctuation:no_comma", True, True]],
        "2": [["startend:quotation", False, False], ["punctuation:no_comma", True, True]],
    }
    system = [entry for entry in found.answers if entry["suite"] == "override"]
    assert all(entry["messages"][0]["role"] == "system" for entry in system)
    assert "constraints" not in system[0]


def test_every_figure_is_the_mean_of_what_was_found(store: CallStore) -> None:
    figures = {metric.name: metric for metric in judged(store, "Hello there")[0].metrics}
    assert len(figures) == len(judged(store, "Hello there")[0].metrics), "names are unique"
    assert figures["following strict prompt"].mean == 1 / 2
    assert figures["following strict instruction"].mean == 2 / 3
    assert figures["following punctuation:no_comma"].mean == 1
    assert figures["opening concentration"].mean == 1
    assert figures["tokens per answer"].mean == 3
    assert figures["unfinished"].mean == 0
    assert figures["NLL of prose"].mean == figures["NLL of code"].mean == 3
    assert figures["KL to base"].mean == 0
    # Every option's mean is -2, so the first is chosen; the right one stands in each place equally often.
    firsts = [choice.correct == 0 for choice in forgetting.choices() if choice.capability == "facts"]
    assert figures["accuracy facts"].mean == sum(firsts) / len(firsts)
    assert figures["validation loss"].mean == 2.0
    assert set(figures["validation loss"].counts) == {"a", "b"}


def test_a_tuned_model_is_held_against_what_its_base_said(store: CallStore) -> None:
    neutral = {prompt.key: f"base says {number}" for number, prompt in enumerate(rigidity.neutral())}
    first = next(iter(neutral))
    ruler = Ruler()
    found, _ = judged(store, "Hello there", {**neutral, first: " "}, ruler)
    figures = {metric.name: metric for metric in found.metrics}
    assert ruler.diverged == list(neutral.values())[1:]  # a blank answer has no token to diverge at
    assert figures["KL to base"].mean == 0.05
    assert len(figures["KL to base"].counts) == len(neutral) - 1


def test_what_is_asked_is_the_same_for_all_and_not_what_was_taught() -> None:
    asked = suites(CONFIG, [], VALIDATION)
    assert asked == suites(CONFIG, [], VALIDATION)
    assert len(asked.following["following"]) == 10
    assert list(asked.following) == ["following"]
    taught = suites(CONFIG, [asked.following["following"][0].prompt], VALIDATION)
    assert taught.overlapping == 1
    assert len(drift.texts()) == 24


def test_ifevals_file_is_judged_beside_the_held_out_items(tmp_path: Path, store: CallStore) -> None:
    row = {"key": 7, "prompt": "No commas.", "instruction_id_list": ["punctuation:no_comma"], "kwargs": [{}]}
    (tmp_path / "ifeval.jsonl").write_text(json.dumps(row) + "\n")
    config = replace(CONFIG, ifeval=str(tmp_path / "ifeval.jsonl"))
    asked = suites(config, [], ())
    assert [item.key for item in asked.following["ifeval"]] == ["7"]
    found = judge(asked, config, RecordedEngine(Parrot("One, two"), store, Silent()), Ruler(), None)
    figures = {metric.name: metric.mean for metric in found.metrics}
    assert figures["ifeval strict prompt"] == 0
    assert "validation loss" not in figures
    with pytest.raises(DataError, match=r"nowhere\.jsonl"):
        suites(replace(CONFIG, ifeval=str(tmp_path / "nowhere.jsonl")), [], ())
