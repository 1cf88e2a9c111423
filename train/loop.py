"""The training loop: steps, validation, the best epoch, checkpoints."""

import logging
import math
import time
from collections.abc import Sequence
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kiloset.core.errors import ModelError
from kiloset.core.progress import Progress
from kiloset.train.checkpoint import CHECKPOINT, METRICS, MetricsLog, TrainingState, read_checkpoint, write_checkpoint
from kiloset.train.data import TokenizedRow, micro_batches, planned
from kiloset.train.loss import mean_loss, summed_loss
from kiloset.train.report import training_flops
from kiloset.train.settings import TrainConfig

logger = logging.getLogger(__name__)

if TYPE_CHECKING:
    import torch

    Tensors = dict[str, torch.Tensor]

CPU_TOKENS, CUDA_TOKENS = 512, 4096
"""Default of `tokens_at_once`. On a CPU, 512 are as fast as more and need half the memory."""
CLIP = 1.0
"""Largest norm of the gradient, the default of transformers' Trainer."""
MOMENTS = ("step", "exp_avg", "exp_avg_sq")
"""AdamW's state of a parameter."""


def fit(
    model: Any,
    train_rows: Sequence[TokenizedRow],
    validation_rows: Sequence[TokenizedRow],
    config: TrainConfig,
    *,
    packed: bool,
    folder: Path,
    fingerprint: str,
    progress: Progress,
) -> tuple[TrainingState, int, bool]:
    """Train the adapter in place, and restore its weights after the best epoch.

    Resumes from the checkpoint in `folder`, if there is one, and ends with the same weights as without an interruption.
    Leaves the last checkpoint and `metrics.jsonl` there. Dropout uses torch's global generator: fork and seed it around
    the call.

    Returns:
        The final state, the step at which the training resumed (0 for a new one), and whether it stopped early.

    Raises:
        ModelError: The loss is not finite, or a single row does not fit into memory.
    """
    loop = _Loop(model, train_rows, config, packed, folder, fingerprint, progress)
    loop.resume()
    resumed_at = loop.state.step
    log = MetricsLog(folder / METRICS, loop.state)
    try:
        loop.run(validation_rows, log)
    finally:
        log.close()
    return loop.state, resumed_at, loop.has_stalled


def accumulate_gradients(model: Any, examples: Sequence[TokenizedRow], tokens: int, *, packed: bool) -> "torch.Tensor":
    """Accumulate the gradients of a step's mean loss per response token, and return this mean, a float64 scalar.

    The mean is over all response tokens of the step, whatever number of tokens is computed at a time.
    """
    responses = sum(len(example.response) for example in examples)
    losses = []
    for batch in micro_batches(examples, tokens, padded=not packed):
        loss: Any = summed_loss(model, batch, packed=packed) / responses
        loss.backward()
        losses.append(loss.detach().double())
    total: torch.Tensor = sum(losses)
    return total


def is_out_of_memory(error: BaseException) -> bool:
    """Return whether an error means that memory ran out, on a GPU or in torch's allocator for the CPU."""
    import torch

    return isinstance(error, torch.OutOfMemoryError) or (
        isinstance(error, RuntimeError) and "can't allocate memory" in str(error)
    )


def trainable(model: Any) -> "list[torch.nn.Parameter]":
    """Return the adapter's parameters."""
    return list(_named_trainable(model).values())


def _named_trainable(model: Any) -> "dict[str, torch.nn.Parameter]":
    return {name: parameter for name, parameter in model.named_parameters() if parameter.requires_grad}


class _Loop:
    """A training in progress."""

    def __init__(
        self,
        model: Any,
        rows: Sequence[TokenizedRow],
        config: TrainConfig,
        packed: bool,
        folder: Path,
        fingerprint: str,
        progress: Progress,
    ) -> None:
        import torch
        from transformers import get_cosine_schedule_with_warmup

        self.model, self.config, self.packed, self.progress = model, config, packed, progress
        self.checkpoint, self.fingerprint = folder / CHECKPOINT, fingerprint
        generator = torch.Generator().manual_seed(config.seed)
        self.steps = planned(rows, config.batch_size, config.epochs, generator)[: config.max_steps]
        self.optimizer = torch.optim.AdamW(trainable(model), lr=config.learning_rate, weight_decay=config.weight_decay)
        warmup = int(config.warmup * len(self.steps))
        self.schedule = get_cosine_schedule_with_warmup(self.optimizer, warmup, len(self.steps))
        default = CUDA_TOKENS if model.device.type == "cuda" else CPU_TOKENS
        self.state = TrainingState(tokens_at_once=config.tokens_at_once or default)
        self.best: Tensors = {}
        self.saved_at = 0.0

    @property
    def has_stalled(self) -> bool:
        """Whether the validation loss has not fallen for `patience` epochs."""
        return 0 < self.config.patience <= self.state.stale

    def run(self, validation_rows: Sequence[TokenizedRow], log: MetricsLog) -> None:
        from peft import set_peft_model_state_dict

        if not self.state.metrics:
            self.state.validation_before = self._validation_loss(validation_rows)
            log.write({"step": 0, "epoch": 0, "validation_loss": self.state.validation_before})
        self.progress.begin("train", len(self.steps))
        self.progress.advance(self.state.step)
        for epoch, group in groupby(enumerate(self.steps, start=1), key=lambda numbered: numbered[1][0]):
            numbered = list(group)
            for number, (_, rows) in numbered:
                if number > self.state.step:
                    self._step(epoch, rows, log)
                    # At the end of an epoch, the checkpoint is written after the validation.
                    if (
                        number < numbered[-1][0]
                        and self.state.seconds - self.saved_at >= self.config.checkpoint_seconds
                    ):
                        self._save()
            if numbered[-1][0] >= self.state.step and not self._is_validated(epoch):
                self._end_epoch(epoch, validation_rows, log)
                self._save()
            if self.has_stalled:
                break
        self.progress.end()
        set_peft_model_state_dict(self.model, self.best)

    def _is_validated(self, epoch: int) -> bool:
        return any(entry["epoch"] == epoch and "validation_loss" in entry for entry in self.state.metrics)

    def _step(self, epoch: int, rows: Sequence[TokenizedRow], log: MetricsLog) -> None:
        import torch

        state = self.state
        self.model.train()
        began, rate = time.monotonic(), self.schedule.get_last_lr()[0]
        loss = self._gradients(rows).item()
        _check_finite(loss, state.step + 1)
        torch.nn.utils.clip_grad_norm_(trainable(self.model), CLIP)
        self.optimizer.step()
        self.schedule.step()
        self.optimizer.zero_grad()
        seconds, tokens = time.monotonic() - began, sum(example.tokens for example in rows)
        state.step += 1
        state.tokens += tokens
        state.seconds += seconds
        state.flops += training_flops(self.model, rows)
        log.write({"step": state.step, "epoch": epoch, "loss": loss, "lr": rate, "tokens_per_second": tokens / seconds})
        self.progress.advance(1, f"epoch {epoch}, loss {loss:.3f}, {state.tokens / state.seconds:.0f} tokens/s")

    def _gradients(self, rows: Sequence[TokenizedRow]) -> "torch.Tensor":
        """Accumulate a step's gradients; if memory runs out, compute half as many tokens at a time from now on."""
        import torch

        while True:
            random_state = _random_state()
            try:
                return accumulate_gradients(self.model, rows, self.state.tokens_at_once, packed=self.packed)
            except RuntimeError as error:
                if not is_out_of_memory(error):
                    raise
            # Outside of the handler, because the traceback refers to the activations.
            self.optimizer.zero_grad()
            _set_random_state(random_state)
            if torch.cuda.is_available():
                torch.cuda.empty_cache()
            self._halve(rows)

    def _halve(self, rows: Sequence[TokenizedRow]) -> None:
        before = self.state.tokens_at_once
        longest = max(example.tokens for example in rows)
        largest = max(sum(e.tokens for e in b) for b in micro_batches(rows, before, padded=not self.packed))
        if largest <= longest:
            raise ModelError(
                "KS465",
                f"out of memory with one row of {longest} tokens; lower [train] max_length or set "
                "gradient_checkpointing = true",
            )
        self.state.tokens_at_once = max(1, min(before, largest) // 2)
        logger.warning(
            "out of memory with %d tokens at once: continuing with %d (the result is the same; [train] tokens_at_once)",
            largest, self.state.tokens_at_once,
        )  # fmt: skip

    def _end_epoch(self, epoch: int, validation_rows: Sequence[TokenizedRow], log: MetricsLog) -> None:
        from peft import get_peft_model_state_dict

        state = self.state
        loss = self._validation_loss(validation_rows)
        _check_finite(loss, state.step)
        log.write({"step": state.step, "epoch": epoch, "validation_loss": loss})
        if loss is None or state.lowest is None or loss < state.lowest:
            state.best_epoch, state.lowest, state.stale = epoch, loss, 0
            weights = get_peft_model_state_dict(self.model, save_embedding_layers=False)
            self.best = {name: value.detach().cpu().clone() for name, value in weights.items()}
        else:
            state.stale += 1

    def _validation_loss(self, rows: Sequence[TokenizedRow]) -> float | None:
        return mean_loss(self.model, rows, self.state.tokens_at_once, packed=self.packed)

    def _save(self) -> None:
        """Write a checkpoint."""
        self.saved_at = self.state.seconds
        adapter = _named_trainable(self.model)
        moments = {
            f"{name}/{key}": value
            for name, parameter in adapter.items()
            for key, value in self.optimizer.state[parameter].items()
        }
        groups = {"adapter": adapter, "optimizer": moments, "best": self.best, "random": _random_state()}
        write_checkpoint(self.checkpoint, self.fingerprint, self.state, groups)

    def resume(self) -> None:
        """Restore the checkpoint of an interrupted training, if there is one."""
        import torch

        checkpoint = read_checkpoint(self.checkpoint)
        if checkpoint is None:
            return
        self.state, groups = checkpoint
        self.saved_at = self.state.seconds
        with torch.no_grad():
            for name, parameter in _named_trainable(self.model).items():
                parameter.copy_(groups["adapter"][name])
                self.optimizer.state[parameter] = {
                    key: value if key == "step" else value.to(parameter.device)
                    for key, value in ((key, groups["optimizer"][f"{name}/{key}"]) for key in MOMENTS)
                }
        rate = self.schedule.base_lrs[0] * self.schedule.lr_lambdas[0](self.state.step)
        position = {"last_epoch": self.state.step, "_step_count": self.state.step + 1, "_last_lr": [rate]}
        self.schedule.load_state_dict(self.schedule.state_dict() | position)
        self.optimizer.param_groups[0]["lr"] = rate
        self.best = groups.get("best", {})
        _set_random_state(groups["random"])
        logger.info("training resumes at step %d of %d", self.state.step, len(self.steps))


def _random_state() -> "Tensors":
    import torch

    state = {"cpu": torch.get_rng_state()}
    if torch.cuda.is_available():
        state |= {f"cuda{n}": one for n, one in enumerate(torch.cuda.get_rng_state_all())}
    return state


def _set_random_state(state: "Tensors") -> None:
    import torch

    torch.set_rng_state(state["cpu"])
    for n in range(torch.cuda.device_count()):
        torch.cuda.set_rng_state(state[f"cuda{n}"], n)


def _check_finite(loss: float | None, step: int) -> None:
    if loss is not None and not math.isfinite(loss):
        raise ModelError("KS466", f"training diverged: loss {loss} in step {step}; lower [train] learning_rate")
