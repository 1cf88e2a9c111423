"""The training loop: steps, validation, the best epoch, checkpoints."""

import logging
import math
import time
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kiloset.core.errors import ModelError
from kiloset.core.progress import Progress
from kiloset.train.checkpoint import CHECKPOINT, METRICS, Metrics, Standing, read_checkpoint, write_checkpoint
from kiloset.train.data import Example, micro_batches, planned
from kiloset.train.flops import training_flops
from kiloset.train.loss import mean_loss, summed_loss
from kiloset.train.settings import TrainConfig

logger = logging.getLogger(__name__)

if TYPE_CHECKING:
    import torch

    Tensors = dict[str, torch.Tensor]

CPU_TOKENS, CUDA_TOKENS = 512, 4096
"""Tokens computed at once where the setting is left out. A CPU is as fast with 512 as with more, in half the memory."""
CLIP = 1.0
"""Largest norm of the gradient, the default of transformers' Trainer."""


@dataclass(frozen=True, slots=True)
class Fitted:
    """What the loop did."""

    standing: Standing
    resumed_at: int
    """Step it went on from, 0 for a fresh start."""
    stopped_early: bool


def fit(
    model: Any,
    train_rows: Sequence[Example],
    validation_rows: Sequence[Example],
    config: TrainConfig,
    *,
    packed: bool,
    folder: Path,
    fingerprint: str,
    progress: Progress,
) -> Fitted:
    """Train the adapter in place, leaving it as it was after the best epoch.

    Goes on from the checkpoint in `folder`, if there is one of this fingerprint, to the same weights, and leaves its
    last one and `metrics.jsonl` there. Dropout draws from torch's global generator: fork and seed it around the call.

    Raises:
        ModelError: The loss is no longer a number, or one row alone does not fit into memory.
    """
    loop = _Loop(model, train_rows, config, packed, folder, fingerprint, progress)
    loop.resume()
    resumed_at = loop.standing.step
    log = Metrics(folder / METRICS, loop.standing)
    try:
        loop.run(validation_rows, log)
    finally:
        log.close()
    return Fitted(loop.standing, resumed_at, loop.has_stalled)


def accumulate_gradients(model: Any, examples: Sequence[Example], tokens: int, *, packed: bool) -> "torch.Tensor":
    """Add up the gradients of a step's mean loss per response token, and return that mean, a float64 scalar.

    However many tokens are computed at once, the mean is over all response tokens of the step.
    """
    counted = sum(len(example.response) for example in examples)
    losses = []
    for batch in micro_batches(examples, tokens, padded=not packed):
        loss: Any = summed_loss(model, batch, packed=packed) / counted
        loss.backward()
        losses.append(loss.detach().double())
    total: torch.Tensor = sum(losses)
    return total


def is_out_of_memory(error: BaseException) -> bool:
    """Tell whether an error says that memory ran out, on a GPU or in torch's allocator for the CPU."""
    import torch

    return isinstance(error, torch.OutOfMemoryError) or (
        isinstance(error, RuntimeError) and "can't allocate memory" in str(error)
    )


def trainable(model: Any) -> "list[torch.nn.Parameter]":
    """Return the adapter's parameters."""
    return [parameter for parameter in model.parameters() if parameter.requires_grad]


class _Loop:
    """A training under way."""

    def __init__(
        self,
        model: Any,
        rows: Sequence[Example],
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
        self.standing = Standing(tokens_at_once=config.tokens_at_once or default)
        self.best: Tensors = {}
        self.saved_at = 0.0

    @property
    def has_stalled(self) -> bool:
        """Whether validation has not become better for as long as may be waited."""
        return 0 < self.config.patience <= self.standing.stale

    def run(self, validation_rows: Sequence[Example], log: Metrics) -> None:
        from peft import set_peft_model_state_dict

        if not self.standing.metrics:
            self.standing.validation_before = self._validated(validation_rows)
            log.log({"step": 0, "epoch": 0, "validation_loss": self.standing.validation_before})
        self.progress.begin("train", len(self.steps))
        self.progress.advance(self.standing.step)
        for epoch, group in groupby(enumerate(self.steps, start=1), key=lambda numbered: numbered[1][0]):
            numbered = list(group)
            for number, (_, rows) in numbered:
                if number > self.standing.step:
                    self._step(epoch, rows, log)
                    if number < numbered[-1][0]:
                        self._save(often=False)
            # A checkpoint at the end of an epoch is written after its validation.
            if numbered[-1][0] >= self.standing.step and not self._has_validated(epoch):
                self._end_epoch(epoch, validation_rows, log)
                self._save(often=True)
            if self.has_stalled:
                break
        self.progress.end()
        set_peft_model_state_dict(self.model, self.best)

    def _has_validated(self, epoch: int) -> bool:
        return any(entry["epoch"] == epoch and "validation_loss" in entry for entry in self.standing.metrics)

    def _step(self, epoch: int, rows: Sequence[Example], log: Metrics) -> None:
        import torch

        standing = self.standing
        self.model.train()
        began, rate = time.monotonic(), self.schedule.get_last_lr()[0]
        loss = self._gradients(rows).item()
        _check_finite(loss, standing.step + 1)
        torch.nn.utils.clip_grad_norm_(trainable(self.model), CLIP)
        self.optimizer.step()
        self.schedule.step()
        self.optimizer.zero_grad()
        took, tokens = time.monotonic() - began, sum(example.tokens for example in rows)
        standing.step += 1
        standing.tokens += tokens
        standing.seconds += took
        standing.flops += training_flops(self.model, rows)
        log.log({"step": standing.step, "epoch": epoch, "loss": loss, "lr": rate, "tokens_per_second": tokens / took})
        speed = standing.tokens / standing.seconds
        self.progress.advance(1, f"epoch {epoch}, loss {loss:.3f}, {speed:.0f} tokens/s")

    def _gradients(self, rows: Sequence[Example]) -> "torch.Tensor":
        """Accumulate a step's gradients; where memory runs out, with half as many tokens at once from here on."""
        import torch

        while True:
            state = _random_state()
            try:
                return accumulate_gradients(self.model, rows, self.standing.tokens_at_once, packed=self.packed)
            except RuntimeError as error:
                if not is_out_of_memory(error):
                    raise
            # Outside of the handler: the traceback holds the activations.
            self.optimizer.zero_grad()
            _set_random_state(state)
            if torch.cuda.is_available():
                torch.cuda.empty_cache()
            self._halve(rows)

    def _halve(self, rows: Sequence[Example]) -> None:
        before = self.standing.tokens_at_once
        longest = max(example.tokens for example in rows)
        largest = max(sum(e.tokens for e in b) for b in micro_batches(rows, before, padded=not self.packed))
        if largest <= longest:
            raise ModelError(
                "KS465",
                f"out of memory with one row of {longest} tokens; lower [train] max_length or set "
                "gradient_checkpointing = true",
            )
        self.standing.tokens_at_once = max(1, min(before, largest) // 2)
        logger.warning(
            "out of memory with %d tokens at once: continuing with %d (the result is the same; [train] tokens_at_once)",
            largest, self.standing.tokens_at_once,
        )  # fmt: skip

    def _end_epoch(self, epoch: int, validation_rows: Sequence[Example], log: Metrics) -> None:
        from peft import get_peft_model_state_dict

        standing = self.standing
        validation = self._validated(validation_rows)
        _check_finite(validation, standing.step)
        log.log({"step": standing.step, "epoch": epoch, "validation_loss": validation})
        if validation is None or standing.lowest is None or validation < standing.lowest:
            standing.best_epoch, standing.lowest, standing.stale = epoch, validation, 0
            state = get_peft_model_state_dict(self.model, save_embedding_layers=False)
            self.best = {name: value.detach().cpu().clone() for name, value in state.items()}
        else:
            standing.stale += 1

    def _validated(self, rows: Sequence[Example]) -> float | None:
        return mean_loss(self.model, rows, self.standing.tokens_at_once, packed=self.packed)

    def _save(self, *, often: bool) -> None:
        """Write a checkpoint if it is time, or at each end of an epoch."""
        now = self.standing.seconds
        if not often and now - self.saved_at < self.config.checkpoint_seconds:
            return
        self.saved_at = now
        names = [name for name, parameter in self.model.named_parameters() if parameter.requires_grad]
        moments = {
            f"{name}/{key}": value
            for name, parameter in zip(names, trainable(self.model), strict=True)
            for key, value in self.optimizer.state[parameter].items()
        }
        adapter = dict(zip(names, trainable(self.model), strict=True))
        groups = {"adapter": adapter, "optimizer": moments, "best": self.best, "random": _random_state()}
        write_checkpoint(self.checkpoint, self.fingerprint, self.standing, groups)

    def resume(self) -> None:
        """Take up the checkpoint of this very training, if there is one."""
        import torch

        found = read_checkpoint(self.checkpoint)
        if found is None:
            return
        self.standing, groups = found
        self.saved_at = self.standing.seconds
        names = [name for name, parameter in self.model.named_parameters() if parameter.requires_grad]
        with torch.no_grad():
            for name, parameter in zip(names, trainable(self.model), strict=True):
                parameter.copy_(groups["adapter"][name])
                moments = ("step", "exp_avg", "exp_avg_sq")
                state = {key: groups["optimizer"][f"{name}/{key}"] for key in moments}
                self.optimizer.state[parameter] = {
                    key: value if key == "step" else value.to(parameter.device) for key, value in state.items()
                }
        rate = self.schedule.base_lrs[0] * self.schedule.lr_lambdas[0](self.standing.step)
        place = {"last_epoch": self.standing.step, "_step_count": self.standing.step + 1, "_last_lr": [rate]}
        self.schedule.load_state_dict(self.schedule.state_dict() | place)
        self.optimizer.param_groups[0]["lr"] = rate
        self.best = groups.get("best", {})
        _set_random_state(groups["random"])
        logger.info("training resumes at step %d of %d", self.standing.step, len(self.steps))


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
