"""The evaluation of one model, with fakes whose answers and scores are known."""

import json
import math
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from kiloset.core.calls import CallStore
from kiloset.core.errors import DataError
from kiloset.core.models import Capabilities, Completion, Message, Request
from kiloset.core.progress import Silent
from kiloset.core.recorded import RecordedEngine
from kiloset.evaluation import drift, forgetting, rigidity
from kiloset.evaluation.following import Item
from kiloset.evaluation.settings import EvaluationConfig
from kiloset.evaluation.suite import Evaluation, Suite, build_suite, evaluate_model

CONFIG = EvaluationConfig(prompts=10, max_tokens=7)
ITEMS = (
    Item("1", "Say hello without commas.", (("punctuation:no_comma", {}),)),
    Item("2", "Say hello in quotes.", (("startend:quotation", {}), ("punctuation:no_comma", {}))),
)
VALIDATION = tuple((id, ({"role": "user", "content": f"Q {id}"},), f"answer {id}") for id in ("a", "b", "too long"))


class Parrot:
    """An engine that gives every prompt the same answer."""

    identity, capabilities = "parrot", Capabilities()

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
    """A scorer that gives every option the same mean and every text a loss of 3 nats per character."""

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
    opened = CallStore(tmp_path / "calls.sqlite")
    yield opened
    opened.close()


SUITE = Suite({"following": ITEMS}, 0, VALIDATION)


def evaluated(
    store: CallStore, text: str, neutral: Any = None, ruler: Ruler | None = None
) -> tuple[Evaluation, list[dict[str, Any]], Parrot]:
    parrot = Parrot(text)
    engine = RecordedEngine(parrot, store, Silent())
    return *evaluate_model(SUITE, CONFIG, engine, ruler or Ruler(), neutral), parrot


def test_every_prompt_is_sent_once_greedily_and_recorded_with_its_verdicts(store: CallStore) -> None:
    _, answers, parrot = evaluated(store, "Hello there")
    prompts = [
        *forgetting.prompts(forgetting.written_tasks()), *rigidity.neutral_prompts(),
        *rigidity.consistency_prompts(), *rigidity.override_prompts(),
    ]  # fmt: skip
    assert len(answers) == len(prompts) + len(ITEMS)
    assert len(parrot.seen) == len({request.prompt for request in parrot.seen})
    assert {(request.temperature, request.max_tokens) for request in parrot.seen} == {(0.0, 7)}
    verdicts = {entry["key"]: entry.get("constraints") for entry in answers if entry["suite"] == "following"}
    assert verdicts == {
        "1": [["punctuation:no_comma", True, True]],
        "2": [["startend:quotation", False, False], ["punctuation:no_comma", True, True]],
    }
    system = [entry for entry in answers if entry["suite"] == "override"]
    assert all(entry["messages"][0]["role"] == "system" for entry in system)
    assert "constraints" not in system[0]


def test_every_metric_is_the_mean_over_its_items(store: CallStore) -> None:
    figures = evaluated(store, "Hello there")[0].metrics
    assert figures["following strict prompt"].mean == 1 / 2
    assert figures["following strict instruction"].mean == 2 / 3
    assert figures["following punctuation:no_comma"].mean == 1
    assert figures["opening concentration"].mean == 1
    assert figures["tokens per answer"].mean == 3
    assert figures["unfinished"].mean == 0
    assert figures["NLL of prose"].mean == figures["NLL of code"].mean == 3
    assert figures["KL to base"].mean == 0
    # Every option's mean is -2, so the first is chosen; each position is correct equally often.
    firsts = [choice.correct == 0 for choice in forgetting.choices() if choice.capability == "facts"]
    assert figures["accuracy facts"].mean == sum(firsts) / len(firsts)
    assert figures["validation loss"].mean == 2.0
    assert set(figures["validation loss"].counts) == {"a", "b"}


def test_a_tuned_models_divergence_is_measured_on_the_base_models_answers(store: CallStore) -> None:
    neutral = {prompt.key: f"base says {number}" for number, prompt in enumerate(rigidity.neutral_prompts())}
    first = next(iter(neutral))
    ruler = Ruler()
    figures = evaluated(store, "Hello there", {**neutral, first: " "}, ruler)[0].metrics
    assert ruler.diverged == list(neutral.values())[1:]  # a blank answer has no token to compare
    assert figures["KL to base"].mean == 0.05
    assert len(figures["KL to base"].counts) == len(neutral) - 1


def test_a_suite_depends_on_the_settings_and_leaves_out_trained_tasks() -> None:
    suite = build_suite(CONFIG, [], VALIDATION)
    assert suite == build_suite(CONFIG, [], VALIDATION)
    assert len(suite.following["following"]) == 10
    assert list(suite.following) == ["following"]
    smaller = build_suite(CONFIG, [suite.following["following"][0].prompt], VALIDATION)
    assert smaller.overlapping == 1
    assert len(drift.passages()) == 24


def test_ifevals_file_is_evaluated_beside_the_held_out_items(tmp_path: Path, store: CallStore) -> None:
    row = {"key": 7, "prompt": "No commas.", "instruction_id_list": ["punctuation:no_comma"], "kwargs": [{}]}
    (tmp_path / "ifeval.jsonl").write_text(json.dumps(row) + "\n")
    config = replace(CONFIG, ifeval=str(tmp_path / "ifeval.jsonl"))
    suite = build_suite(config, [], ())
    assert [item.key for item in suite.following["ifeval"]] == ["7"]
    result, _ = evaluate_model(suite, config, RecordedEngine(Parrot("One, two"), store, Silent()), Ruler(), None)
    assert result.metrics["ifeval strict prompt"].mean == 0
    assert "validation loss" not in result.metrics
    with pytest.raises(DataError, match=r"nowhere\.jsonl"):
        build_suite(replace(CONFIG, ifeval=str(tmp_path / "nowhere.jsonl")), [], ())
