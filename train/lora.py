"""Tune a base model on a run's curated rows with LoRA, the loss on the responses only.

E. Hu et al., "LoRA: Low-Rank Adaptation of Large Language Models", 2021, arXiv:2106.09685. We depart from the paper in
adapting every linear layer, not the attention alone: with small sets the choice of layers matters more than the rank
(T. Dettmers et al., "QLoRA: Efficient Finetuning of Quantized LLMs", 2023, arXiv:2305.14314, section 4).

Rows are packed without padding, each attending to itself alone, and logits are computed only where a response token is
predicted. Equal settings, rows and threads give equal adapters, bit for bit, on a CPU; CUDA does not promise that.
"""

import ctypes
import logging
import resource
import sys
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kiloset.core.errors import ConfigError, EmptyError
from kiloset.core.loading import load_model, load_tokenizer
from kiloset.core.logits import check_logits
from kiloset.core.progress import Progress
from kiloset.core.run import RunFolder, code_sha256, file_sha256, sha256_of
from kiloset.core.text import squash
from kiloset.data.curated import read_curated
from kiloset.data.splitting import SPLITS
from kiloset.train.checkpoint import replacing, save_adapter
from kiloset.train.data import split_datasets, tokenize_rows
from kiloset.train.fitting import Fitted, fit, trainable
from kiloset.train.flops import peak_flops
from kiloset.train.fused import fuse_adapters
from kiloset.train.loss import collate
from kiloset.train.packed import use_packing
from kiloset.train.settings import TrainConfig

if TYPE_CHECKING:
    from datasets import Dataset

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class TrainReport:
    """What a training run did; the manifest's `train` holds the same figures."""

    train_rows: int
    """Rows trained on."""
    validation_rows: int
    """Rows the validation loss is taken over."""
    train_rows_too_long: int
    """Training rows left out for more than `max_length` tokens."""
    validation_rows_too_long: int
    """Validation rows left out for the same reason."""
    trainable_parameters: int
    trainable_share: float
    """Adapter's parameters as a fraction of the base model's."""
    steps: int
    """Optimizer steps taken."""
    resumed_at: int
    """Step an interrupted training went on from, 0 for one that ran through."""
    stopped_early: bool
    """Whether it ended before its last epoch for want of a lower validation loss."""
    packed: bool
    """Whether rows were packed; if not, this model needs padding."""
    fused_layers: int
    """Layers computed in one step with their adapter."""
    tokens_at_once: int
    """Tokens computed at once at the end; less than the setting where memory ran out."""
    tokens: int
    """Prompt and response tokens trained on."""
    tokens_per_second: float
    """Of these, a second of training steps; validation is not counted."""
    teraflops: float
    """Model FLOPs, in 10^12 a second of training steps."""
    utilisation: float | None
    """Fraction of the GPU's peak in bfloat16 that this is; None on a CPU and on a GPU whose peak is not known."""
    peak_memory_gib: float
    """Most this process ever held: allocated on the GPU, or else the resident set."""
    validation_before: float | None
    """Base model's loss, in nats per response token; None without validation rows."""
    validation_after: float | None
    """Loss of the adapter that was kept."""
    best_epoch: int
    """Epoch whose adapter was kept, from 1."""
    chosen_by: str
    """Why that epoch: `lowest validation loss`, or `last epoch, there are no validation rows`."""
    seconds: float
    """From reading the rows to the saved adapter, since the last start."""
    rows_sha256: str
    """Hash of the rows as they were read."""


def train(run: RunFolder, config: TrainConfig, model_path: Path, progress: Progress) -> TrainReport:
    """Tune the model on the run's curated rows and save the adapter of the best epoch in the run's `adapter/`.

    An older adapter is replaced once the new one is whole. The manifest gets the settings and the report under `train`.

    Raises:
        DataError: curated.jsonl is missing or a line of it is wrong.
        See `train_adapter` for the others.
    """
    curated, sha256 = read_curated(run.curated), file_sha256(run.curated)
    if curated.note:
        logger.info(curated.note)
    report = train_adapter(split_datasets(curated), sha256, config, model_path, run.adapter, progress)
    run.update_manifest({"train": {"base_model": str(model_path), "config": asdict(config), **asdict(report)}})
    return report


def train_adapter(
    rows: "dict[str, Dataset]",
    rows_sha256: str,
    config: TrainConfig,
    model_path: Path,
    folder: Path,
    progress: Progress,
) -> TrainReport:
    """Tune the model on the rows of the split `train` and save the adapter of the best epoch in `folder`.

    The weights are float32 on a CPU and bfloat16 on CUDA, the adapter float32 on both. Global random state is left
    as it was. `metrics.jsonl` beside the adapter has a line for each step and each validation. A training that was
    interrupted, of the same rows, settings, model and code, goes on to the same weights.

    Args:
        rows: By split (`kiloset.data.splitting.SPLITS`), with the columns `id` and `messages`.
        rows_sha256: Hash of these rows, by which an interrupted training of them is known again.
        config: The `[train]` table.
        model_path: The base model's folder.
        folder: Where the adapter is saved.
        progress: Where to say how far it is.

    Raises:
        ConfigError: The settings ask for what this machine or this model has not.
        EmptyError: Every training row is longer than `max_length`.
        ModelError: The model cannot be loaded, the loss cannot be kept to its responses, or training diverged.
    """
    import torch

    started = time.monotonic()
    _keep_freed_memory()
    tokenizer = load_tokenizer(model_path)
    kept, too_long = {}, {}
    for split in SPLITS:
        kept[split], too_long[split] = tokenize_rows(tokenizer, rows[split], config.max_length)
    if not kept["train"]:
        raise EmptyError(
            "KS467", f"[train] max_length {config.max_length}: all {too_long['train']} training rows are longer"
        )
    base = load_model(model_path, quantize=config.quantize)
    base_parameters = base.num_parameters()
    with torch.random.fork_rng(devices=range(torch.cuda.device_count())):
        torch.manual_seed(config.seed)
        model = add_adapter(base, config)
        first = collate(kept["train"][:1], model.device)
        check_logits(model.get_base_model().eval(), first.input_ids, first.attention_mask, first.is_response)
        packed, fused = use_packing(model.get_base_model()), fuse_adapters(model)
        told = asdict(config) | {"checkpoint_seconds": 0, "tokens_at_once": None}
        fingerprint = sha256_of([told, rows_sha256, str(model_path), code_sha256("train"), torch.__version__])
        with replacing(folder, fingerprint) as partial:
            fitted = fit(
                model, kept["train"], kept["validation"], config,
                packed=packed, folder=partial, fingerprint=fingerprint, progress=progress,
            )  # fmt: skip
            save_adapter(model, partial)
    weights = sum(parameter.numel() for parameter in trainable(model))
    return TrainReport(
        train_rows=len(kept["train"]),
        validation_rows=len(kept["validation"]),
        train_rows_too_long=too_long["train"],
        validation_rows_too_long=too_long["validation"],
        trainable_parameters=weights,
        trainable_share=weights / base_parameters,
        packed=packed,
        fused_layers=fused,
        peak_memory_gib=_peak_memory_gib(),
        chosen_by="lowest validation loss" if kept["validation"] else "last epoch, there are no validation rows",
        seconds=time.monotonic() - started,
        rows_sha256=rows_sha256,
        **_figures(fitted),
    )


def add_adapter(base: Any, config: TrainConfig) -> Any:
    """Return the model with a fresh adapter; it changes nothing yet.

    Raises:
        ConfigError: The model has no layer of a name in `targets`.
    """
    from peft import LoraConfig, TaskType, get_peft_model, prepare_model_for_kbit_training

    if config.quantize != "none":
        base = prepare_model_for_kbit_training(base, use_gradient_checkpointing=False)
    if config.gradient_checkpointing:
        base.gradient_checkpointing_enable({"use_reentrant": False})
    lora = LoraConfig(
        r=config.rank,
        lora_alpha=config.alpha,
        lora_dropout=config.dropout,
        target_modules="all-linear" if config.targets == ("all-linear",) else list(config.targets),
        use_dora=config.dora,
        use_rslora=config.rslora,
        bias="none",
        task_type=TaskType.CAUSAL_LM,
    )
    try:
        return get_peft_model(base, lora)
    except ValueError as error:
        raise ConfigError("KS468", f"[train] targets {', '.join(config.targets)}: {squash(str(error))}") from None


def _figures(fitted: Fitted) -> dict[str, Any]:
    import torch

    standing = fitted.standing
    rate = standing.flops / standing.seconds if standing.seconds else 0.0
    peak = peak_flops(torch.cuda.get_device_name()) if torch.cuda.is_available() else None
    return {
        "steps": standing.step,
        "resumed_at": fitted.resumed_at,
        "stopped_early": fitted.stopped_early,
        "tokens_at_once": standing.tokens_at_once,
        "tokens": standing.tokens,
        "tokens_per_second": standing.tokens / standing.seconds if standing.seconds else 0.0,
        "teraflops": rate / 1e12,
        "utilisation": rate / peak if peak else None,
        "validation_before": standing.validation_before,
        "validation_after": standing.lowest,
        "best_epoch": standing.best_epoch,
    }


def _keep_freed_memory() -> None:
    """Let glibc keep large blocks that are freed, for the next step asks for the same.

    By default it gives each block of over 32 MB back to the system, which clears its pages anew for the next: a tenth of
    the time of training on a CPU. Elsewhere than with glibc nothing is done.
    """
    trim_threshold, mmap_threshold = -1, -3
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None) if sys.platform == "linux" else None
    if mallopt is not None:
        mallopt(mmap_threshold, 2**30)
        mallopt(trim_threshold, 2**31 - 1)


def _peak_memory_gib() -> float:
    import torch

    if torch.cuda.is_available():
        return torch.cuda.max_memory_allocated() / 2**30
    unit = 1 if sys.platform == "darwin" else 1024  # ru_maxrss: bytes on macOS, KiB on Linux
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 2**30
