"""The evaluation of a base model and an adapter from stored files, with fakes in place of the engines."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar

import pytest

from kiloset import evaluator as module
from kiloset.core.errors import DataError
from kiloset.core.progress import Silent
from kiloset.core.run import RunFolder
from kiloset.evaluation.settings import EvaluationConfig
from kiloset.evaluator import evaluate_adapter
from kiloset.settings import RunConfig
from tests.test_evaluation_comparison import run_of
from tests.test_suite import Parrot, Ruler

CONFIG = replace(RunConfig(), evaluation=EvaluationConfig(prompts=4, max_tokens=7))


class Engine(Parrot):
    """A parrot with the signature of `VllmEngine`; the answers of a tuned model differ from those of its base."""

    started: ClassVar[list[str]] = []

    def __init__(self, path: str, identity: str, *_: Any, before_start: Any = None, **options: Any) -> None:
        super().__init__("Hello again" if "+" in identity else "Hello there")
        self.identity, self.path, self.options, self._before_start = identity, path, options, before_start

    def submit(self, requests: Any) -> None:
        if not self.seen:
            Engine.started.append(self.path)
            if self._before_start:
                self._before_start()
        super().submit(requests)

    def close(self) -> None:
        pass


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> RunFolder:
    Engine.started = []
    monkeypatch.setattr(module, "model_path", lambda *_: str(tmp_path / "model"))
    monkeypatch.setattr(module, "model_identity", lambda *_: "base@1")
    monkeypatch.setattr(module, "VllmEngine", Engine)
    monkeypatch.setattr(module, "TransformersScorer", lambda *_, **__: Ruler())
    monkeypatch.setattr(module, "has_cuda", lambda: False)
    monkeypatch.setattr(module, "merge_adapter", lambda _model, _adapter, folder: folder.mkdir(parents=True))
    folder = run_of(tmp_path / "run")
    folder.adapter.mkdir()
    (folder.adapter / "adapter_config.json").write_text("{}")
    (folder.adapter / "adapter_model.safetensors").write_bytes(b"weights")
    return folder


def test_both_models_are_evaluated_once_and_their_answers_kept(run: RunFolder) -> None:
    base, tuned = evaluate_adapter(run, CONFIG, run.adapter, Silent())
    merged = run.path / "evaluation" / "tuned" / ".merged"
    assert Engine.started[0].endswith("model")
    assert Engine.started[1:] == [str(merged)]
    assert not merged.exists()
    assert set(base.neutral.values()) == {"Hello there"}
    assert set(tuned.neutral.values()) == {"Hello again"}
    assert (base.metrics["KL to base"].mean, tuned.metrics["KL to base"].mean) == (0, 0.05)
    comparison = json.loads((run.path / "evaluation.json").read_text())
    assert comparison["KL to base"]["difference"]["value"] == pytest.approx(0.05)
    answers = (run.path / "evaluation" / "tuned" / "answers.jsonl").read_text().splitlines()
    assert {json.loads(line)["text"] for line in answers} == {"Hello again"}
    assert evaluate_adapter(run, CONFIG, run.adapter, Silent()) == (base, tuned)
    assert len(Engine.started) == 2


def test_a_changed_adapter_is_evaluated_again_and_the_base_model_is_not(run: RunFolder) -> None:
    evaluate_adapter(run, CONFIG, run.adapter, Silent())
    (run.adapter / "adapter_model.safetensors").write_bytes(b"other weights")
    evaluate_adapter(run, CONFIG, run.adapter, Silent())
    assert [Path(path).name for path in Engine.started] == ["model", ".merged", ".merged"]


def test_an_incomplete_evaluation_is_computed_again_from_the_stored_answers(run: RunFolder) -> None:
    base, tuned = evaluate_adapter(run, CONFIG, run.adapter, Silent())
    (run.path / "evaluation" / "base" / "metrics.json").write_text('{"fingerprint": ')
    assert evaluate_adapter(run, CONFIG, run.adapter, Silent()) == (base, tuned)
    assert len(Engine.started) == 2


def test_on_cuda_the_engine_applies_the_adapter(run: RunFolder, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "has_cuda", lambda: True)
    evaluate_adapter(run, CONFIG, run.adapter, Silent())
    assert [Path(path).name for path in Engine.started] == ["model", "model"]


def test_a_folder_without_an_adapter_is_refused_before_a_model_loads(run: RunFolder, tmp_path: Path) -> None:
    with pytest.raises(DataError) as error:
        evaluate_adapter(run, CONFIG, tmp_path, Silent())
    assert error.value.code == "KS471"
    assert Engine.started == []
