"""`kiloset prove` on a tiny model, from arms to verdict: trainings, files, and resuming."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from kiloset import proof as module
from kiloset.core.progress import Silent
from kiloset.core.run import RunFolder, file_sha256
from kiloset.evaluation.comparison import Proof
from kiloset.evaluation.settings import ProveConfig
from kiloset.evaluation.suite import Evaluation
from kiloset.proof import prove_run
from kiloset.settings import RunConfig
from kiloset.train.settings import TrainConfig
from tests.test_evaluation_comparison import model, run_of
from tests.test_lora import model_path, one_thread

__all__ = ["model_path", "one_thread"]

TRAIN = TrainConfig(rank=2, alpha=4, learning_rate=1e-2, epochs=2, batch_size=2)


class Bench:
    """A fake evaluator: an adapter's score depends on its arm only."""

    def __init__(self, good: dict[str, float]) -> None:
        self.good = good
        self.evaluated: list[str] = []

    def evaluate_base(self, target: Path) -> Evaluation:
        return Evaluation(model(0.2), {})

    def evaluate_tuned(self, name: str, adapter: Path, target: Path, base: Evaluation) -> Evaluation:
        assert (adapter / "adapter_model.safetensors").is_file()
        assert target == adapter.parent
        self.evaluated.append(name)
        return Evaluation(model(self.good.get(name.split("-", maxsplit=1)[0], 0.2)), {})


@pytest.fixture
def run(tmp_path: Path) -> RunFolder:
    return run_of(tmp_path / "run")


def proved(
    run: RunFolder, path: Path, monkeypatch: pytest.MonkeyPatch, good: dict[str, float], **prove: Any
) -> tuple[Proof, Bench]:
    bench = Bench(good)

    @contextmanager
    def evaluator(*_: Any) -> Iterator[Bench]:
        yield bench

    monkeypatch.setattr(module, "evaluator", evaluator)
    config = replace(RunConfig(), train=TRAIN, prove=ProveConfig(**prove))
    config = replace(config, models=replace(config.models, base=replace(config.models.base, name=str(path))))
    return prove_run(run, config, Silent()), bench


def adapters(run: RunFolder) -> dict[str, str]:
    result = sorted((run.path / "prove").glob("*/adapter/adapter_model.safetensors"))
    return {path.parent.parent.name: file_sha256(path) for path in result}


def test_a_set_that_beats_random_rows_is_proved_and_everything_is_kept(
    run: RunFolder, model_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    result, bench = proved(run, model_path, monkeypatch, {"curated": 0.6, "unrewritten": 0.5})
    assert result.verdict == "better"
    assert result.is_proved
    names = [f"{arm}-{seed}" for seed in (0, 1) for arm in ("curated", "unrewritten", "random", "longest", "seeds")]
    assert bench.evaluated == names
    kept = adapters(run)
    assert sorted(kept) == sorted(names)
    assert len(set(kept.values())) == 10
    for name in names:
        rows = (run.path / "prove" / name / "rows.jsonl").read_text().splitlines()
        report = json.loads((run.path / "prove" / name / "train.json").read_text())
        assert len(rows) == report["train_rows"] == 5
        assert report["steps"] == 6  # 5 rows, 2 a step, 2 epochs
        assert (report["best_epoch"], report["stopped_early"]) == (2, False)
    written = json.loads((run.path / "prove" / "proof.json").read_text())
    assert (written["verdict"], written["is_proved"], written["target"]) == ("better", True, "following strict prompt")
    assert written["arms"]["seeds-1"] == {"rows": 5, "distinct": 4}
    assert next(one["metric"] for one in written["figures"]["curated"]) == "following strict prompt"


def test_run_again_nothing_is_trained_again_and_a_changed_set_is(
    run: RunFolder, model_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    arms = {"arms": ("curated", "random")}
    proved(run, model_path, monkeypatch, {}, **arms)
    before, reports = adapters(run), {}
    for name in before:
        reports[name] = (run.path / "prove" / name / "train.json").read_text()
    proved(run, model_path, monkeypatch, {}, **arms)
    assert {name: (run.path / "prove" / name / "train.json").read_text() for name in before} == reports
    run.curated.write_text(run.curated.read_text().replace("Task 3", "Task 3, edited by hand"))
    proved(run, model_path, monkeypatch, {}, **arms)
    after = adapters(run)
    assert {name for name in before if before[name] != after[name]} == {"curated-0", "curated-1"}


def test_arms_of_equal_rows_share_a_training_and_are_not_distinguishable(
    run: RunFolder, model_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """If no row was rewritten, the unrewritten set equals the curated one."""
    file = run.stage_file(3, "style")
    file.unlink()
    result, bench = proved(run, model_path, monkeypatch, {"curated": 0.4}, arms=("curated", "unrewritten", "random"))
    assert bench.evaluated == ["curated-0", "random-0", "curated-1", "random-1"]
    assert [one.arm for one in result.figures["unrewritten"]] == [one.arm for one in result.figures["curated"]]


def test_an_arm_is_trained_alike_but_for_its_seed(
    run: RunFolder, model_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    proved(run, model_path, monkeypatch, {}, arms=("curated", "random"), seeds=3)
    kept = adapters(run)
    assert sorted(kept) == ["curated-0", "curated-1", "curated-2", "random-0", "random-1", "random-2"]
    assert len({kept[f"curated-{seed}"] for seed in range(3)}) == 3


def test_a_set_that_does_not_beat_random_rows_is_not_proved(
    run: RunFolder, model_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    result, _ = proved(run, model_path, monkeypatch, {"curated": 0.2, "random": 0.5}, arms=("curated", "random"))
    assert (result.verdict, result.is_proved) == ("worse", False)
    result, _ = proved(run, model_path, monkeypatch, {}, arms=("curated", "random"))
    assert (result.verdict, result.is_proved) == ("not distinguishable", False)
