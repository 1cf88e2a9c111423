"""The loop: what an interrupted training goes on to, what running out of memory changes, when training stops."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from kiloset.core.errors import ModelError
from kiloset.core.progress import Silent
from kiloset.core.run import RunFolder
from kiloset.train import loop
from kiloset.train.checkpoint import CHECKPOINT, read_fingerprint
from kiloset.train.lora import train_run
from kiloset.train.report import TrainReport
from kiloset.train.settings import TrainConfig
from tests.test_lora import COLORS, DROPPING, PLAIN, TRAIN, VALIDATION, model_path, one_thread, row, run_of

__all__ = ["model_path", "one_thread"]

LONG = replace(DROPPING, epochs=4, batch_size=1, patience=0, checkpoint_seconds=0.0)


def result(run: RunFolder) -> tuple[bytes, list[dict[str, Any]]]:
    lines = (run.adapter / "metrics.jsonl").read_text().splitlines()
    entries = [{k: v for k, v in json.loads(line).items() if k != "tokens_per_second"} for line in lines]
    return (run.adapter / "adapter_model.safetensors").read_bytes(), entries


def killed_after(monkeypatch: pytest.MonkeyPatch, steps: int, run: RunFolder, config: TrainConfig, path: Path) -> None:
    """Train, and die when the optimizer has taken so many steps."""
    taken = 0
    real = torch.optim.AdamW.step

    def step(self: Any, *args: Any) -> Any:
        nonlocal taken
        if taken == steps:
            raise KeyboardInterrupt
        taken += 1
        return real(self, *args)

    with monkeypatch.context() as patch:
        patch.setattr(torch.optim.AdamW, "step", step)
        with pytest.raises(KeyboardInterrupt):
            train_run(run, config, path, Silent())


@pytest.mark.parametrize("steps", [1, 4, 5, 11, 15])
def test_a_training_killed_anywhere_goes_on_to_the_same_weights(
    monkeypatch: pytest.MonkeyPatch, model_path: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture, steps: int
) -> None:
    """16 steps in 4 epochs, dropout drawing on: killed within an epoch, at its end and before the last step."""
    whole, broken = (run_of(tmp_path / name, [*TRAIN, *VALIDATION]) for name in ("whole", "broken"))
    caplog.set_level("INFO", "kiloset")
    uninterrupted = train_run(whole, LONG, model_path, Silent())
    killed_after(monkeypatch, steps, broken, LONG, model_path)
    assert not broken.adapter.exists()

    report = train_run(broken, LONG, model_path, Silent())

    assert report.resumed_at == steps
    assert caplog.messages == [f"training resumes at step {steps} of 16"]
    assert result(broken) == result(whole)
    assert (report.validation_before, report.validation_after, report.best_epoch, report.tokens) == (
        uninterrupted.validation_before, uninterrupted.validation_after, uninterrupted.best_epoch, uninterrupted.tokens
    )  # fmt: skip
    assert sorted(path.name for path in broken.path.iterdir()) == ["adapter", "curated.jsonl", "manifest.json"]


def test_a_training_killed_between_two_checkpoints_loses_what_came_after_the_first(
    monkeypatch: pytest.MonkeyPatch, model_path: Path, tmp_path: Path
) -> None:
    """Without a checkpoint after each step there is one at the end of each epoch, of 4 steps."""
    rare = replace(LONG, checkpoint_seconds=1e6)
    whole, broken = (run_of(tmp_path / name, [*TRAIN, *VALIDATION]) for name in ("whole", "broken"))
    train_run(whole, rare, model_path, Silent())
    killed_after(monkeypatch, 7, broken, rare, model_path)
    assert train_run(broken, rare, model_path, Silent()).resumed_at == 4
    assert result(broken) == result(whole)


@pytest.mark.parametrize("change", ["rows", "config", "checkpoint"])
def test_what_another_training_left_is_not_gone_on_from(
    monkeypatch: pytest.MonkeyPatch, model_path: Path, tmp_path: Path, change: str
) -> None:
    run, config = run_of(tmp_path, [*TRAIN, *VALIDATION]), LONG
    killed_after(monkeypatch, 6, run, config, model_path)
    checkpoint = tmp_path / ".adapter.partial" / CHECKPOINT
    assert read_fingerprint(checkpoint)
    if change == "rows":
        run_of(tmp_path, [*TRAIN[:3], row("t3", "coal", "It is as black as soot.", "train"), *VALIDATION])
    elif change == "config":
        config = replace(config, learning_rate=5e-3)
    else:
        checkpoint.write_bytes(checkpoint.read_bytes()[:1000])
    assert train_run(run, config, model_path, Silent()).resumed_at == 0


def test_what_does_not_change_the_result_may_change_while_a_training_is_interrupted(
    monkeypatch: pytest.MonkeyPatch, model_path: Path, tmp_path: Path
) -> None:
    run = run_of(tmp_path, [*TRAIN, *VALIDATION])
    killed_after(monkeypatch, 6, run, LONG, model_path)
    assert train_run(run, replace(LONG, checkpoint_seconds=9.0), model_path, Silent()).resumed_at == 6


def test_a_checkpoint_holds_tensors_and_json_and_no_pickle(
    monkeypatch: pytest.MonkeyPatch, model_path: Path, tmp_path: Path
) -> None:
    run = run_of(tmp_path, TRAIN)
    killed_after(monkeypatch, 5, run, LONG, model_path)
    files = sorted(path.name for path in (tmp_path / ".adapter.partial").iterdir())
    assert files == [CHECKPOINT, "metrics.jsonl"]
    groups = {name.split("/")[0] for name in load_file(tmp_path / ".adapter.partial" / CHECKPOINT)}
    assert groups == {"adapter", "best", "optimizer", "random"}


def out_of_memory_above(monkeypatch: pytest.MonkeyPatch, tokens: int, error: Exception) -> None:
    real = loop.summed_loss

    def summed_loss(model: Any, examples: Any, **kwargs: Any) -> Any:
        if model.training and sum(example.tokens for example in examples) > tokens:
            real(model, examples[:1], **kwargs)  # draws dropout before it fails
            raise error
        return real(model, examples, **kwargs)

    monkeypatch.setattr(loop, "summed_loss", summed_loss)


@pytest.mark.parametrize(
    "error",
    [
        torch.OutOfMemoryError("CUDA out of memory"),
        RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried"),
    ],
)
def test_out_of_memory_halves_what_is_computed_at_once_and_changes_no_gradient(
    monkeypatch: pytest.MonkeyPatch,
    model_path: Path,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
    error: Exception,
) -> None:
    config = replace(PLAIN, tokens_at_once=1000)
    plain = run_of(tmp_path / "plain", TRAIN)
    train_run(plain, config, model_path, Silent())
    longest = 60
    out_of_memory_above(monkeypatch, longest, error)
    run = run_of(tmp_path / "small", TRAIN)
    report = train_run(run, config, model_path, Silent())
    assert report.tokens_at_once <= longest < 1000
    assert caplog.messages
    assert all("out of memory with" in line and "tokens at once: continuing with" in line for line in caplog.messages)
    ours, theirs = (load_file(one.adapter / "adapter_model.safetensors") for one in (run, plain))
    for name, tensor in theirs.items():
        torch.testing.assert_close(ours[name], tensor, atol=2e-4, rtol=1e-3)  # Adam divides rounding by its own size


def test_one_row_that_does_not_fit_ends_in_one_line(
    monkeypatch: pytest.MonkeyPatch, model_path: Path, tmp_path: Path
) -> None:
    out_of_memory_above(monkeypatch, 1, torch.OutOfMemoryError("CUDA out of memory"))
    with pytest.raises(ModelError, match=r"^out of memory with one row of \d+ tokens; lower \[train\] max_length"):
        train_run(run_of(tmp_path, TRAIN), PLAIN, model_path, Silent())


def test_another_error_is_not_taken_for_memory(
    monkeypatch: pytest.MonkeyPatch, model_path: Path, tmp_path: Path
) -> None:
    out_of_memory_above(monkeypatch, 1, RuntimeError("shapes cannot be multiplied"))
    with pytest.raises(RuntimeError, match="shapes cannot be multiplied"):
        train_run(run_of(tmp_path, TRAIN), PLAIN, model_path, Silent())


def stopping(folder: Path, patience: int, path: Path) -> TrainReport:
    misled = [row(f"v{i}", thing, "It is black.", "validation") for i, thing in enumerate(COLORS)]
    config = TrainConfig(learning_rate=2e-2, epochs=20, batch_size=2, patience=patience)
    return train_run(run_of(folder, [*TRAIN, *misled]), config, path, Silent())


def test_training_stops_when_validation_has_not_become_better_for_so_many_epochs(
    model_path: Path, tmp_path: Path
) -> None:
    never = stopping(tmp_path / "0", 0, model_path)
    assert (never.steps, never.stopped_early) == (40, False)
    assert never.best_epoch < 18, "the case is made so that later epochs are worse"
    lines = (tmp_path / "0" / "adapter" / "metrics.jsonl").read_text().splitlines()
    losses = [entry["validation_loss"] for entry in map(json.loads, lines) if "validation_loss" in entry]
    for patience in (1, 2):
        # By brute force over the losses of the training that never stops; the rates are the same until then.
        best, stale, expected = 0, 0, 20
        for epoch in range(1, 21):
            better = best == 0 or losses[epoch] < losses[best]
            best, stale = (epoch, 0) if better else (best, stale + 1)
            if stale == patience:
                expected = epoch
                break
        report = stopping(tmp_path / str(patience), patience, model_path)
        assert (report.steps, report.best_epoch, report.stopped_early) == (2 * expected, best, True)
