"""Trains a LoRA adapter of a base model on a run's curated rows; only response tokens have a loss.

E. Hu et al., "LoRA: Low-Rank Adaptation of Large Language Models", 2021, arXiv:2106.09685. Unlike the paper we adapt every
linear layer, not only attention: with small sets the choice of layers matters more than the rank (T. Dettmers et al.,
"QLoRA: Efficient Finetuning of Quantized LLMs", 2023, arXiv:2305.14314, section 4).

Rows are packed without padding, each attending only to itself, and logits are computed only where a response token is
predicted. On a CPU, equal settings, rows and threads give bit-identical adapters; CUDA does not guarantee that.
"""

import ctypes
import logging
import shutil
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kiloset.core.closure import code_sha256
from kiloset.core.errors import EmptyError
from kiloset.core.loading import load_model, load_tokenizer
from kiloset.core.logits import check_logits, padded
from kiloset.core.progress import Progress
from kiloset.core.run import RunFolder, file_sha256, sha256_of
from kiloset.data.curated import read_curated
from kiloset.data.splitting import SPLITS
from kiloset.train.adapter import add_adapter, partial_folder, replaced_by, save_adapter
from kiloset.train.checkpoint import CHECKPOINT, TrainingState, read_fingerprint
from kiloset.train.data import split_datasets, tokenize_rows
from kiloset.train.fused import fuse_adapters
from kiloset.train.loop import fit, trainable
from kiloset.train.packed import use_packing
from kiloset.train.report import TrainReport, peak_flops, peak_memory_gib
from kiloset.train.settings import TrainConfig

if TYPE_CHECKING:
    from datasets import Dataset

logger = logging.getLogger(__name__)


def train_run(run: RunFolder, config: TrainConfig, model_path: Path, progress: Progress) -> TrainReport:
    """Train on the run's curated rows and save the adapter of the best epoch in the run's `adapter/`.

    The adapter is replaced atomically. The manifest gets the settings and the report under `train`.

    Raises:
        DataError: curated.jsonl is missing or invalid.
        ConfigError, EmptyError, ModelError: See `train_adapter`.
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
    """Train on the rows of the split `train` and save the adapter of the best epoch in `folder`.

    The weights are float32 on a CPU and bfloat16 on CUDA, the adapter is float32 on both. Global random state is restored.
    `metrics.jsonl` beside the adapter has a line for each step and each validation. An interrupted training of the same
    rows, settings, model and code resumes and ends with the same weights.

    Args:
        rows: By split (`kiloset.data.splitting.SPLITS`), with the columns `id` and `messages`.
        rows_sha256: Hash of the rows, part of the fingerprint of an interrupted training.
        config: The `[train]` table.
        model_path: The base model's folder.
        folder: Folder of the saved adapter.
        progress: Receives the progress.

    Raises:
        ConfigError: This machine or this model does not support the settings.
        EmptyError: Every training row is longer than `max_length`.
        ModelError: The model cannot be loaded, no exact loss mask exists, or training diverged.
    """
    import torch

    started = time.monotonic()
    _keep_freed_memory()
    tokenizer = load_tokenizer(model_path)
    tokenized = {split: tokenize_rows(tokenizer, rows[split], config.max_length) for split in SPLITS}
    (train_rows, too_long), (validation_rows, validation_too_long) = (tokenized[split] for split in SPLITS)
    if not train_rows:
        raise EmptyError("KS467", f"[train] max_length {config.max_length}: all {too_long} training rows are longer")
    base = load_model(model_path, quantize=config.quantize)
    base_parameters = base.num_parameters()
    with torch.random.fork_rng(devices=range(torch.cuda.device_count())):
        torch.manual_seed(config.seed)
        model = add_adapter(base, config)
        example = (train_rows[0].prompt, train_rows[0].response)
        check_logits(model.get_base_model().eval(), *padded([example], model.device))
        packed, fused = use_packing(model.get_base_model()), fuse_adapters(model)
        fingerprint = _fingerprint(config, rows_sha256, model_path)
        with _resumable(folder, fingerprint) as partial:
            state, resumed_at, stopped_early = fit(
                model, train_rows, validation_rows, config,
                packed=packed, folder=partial, fingerprint=fingerprint, progress=progress,
            )  # fmt: skip
            save_adapter(model, partial)
    weights = sum(parameter.numel() for parameter in trainable(model))
    return TrainReport(
        train_rows=len(train_rows),
        validation_rows=len(validation_rows),
        train_rows_too_long=too_long,
        validation_rows_too_long=validation_too_long,
        trainable_parameters=weights,
        trainable_share=weights / base_parameters,
        resumed_at=resumed_at,
        stopped_early=stopped_early,
        packed=packed,
        fused_layers=fused,
        chosen_by="lowest validation loss" if validation_rows else "last epoch, there are no validation rows",
        seconds=time.monotonic() - started,
        rows_sha256=rows_sha256,
        **_measured(state),
    )


def _fingerprint(config: TrainConfig, rows_sha256: str, model_path: Path) -> str:
    """Return what decides the weights: settings, rows, model and code."""
    import torch

    relevant = asdict(config) | {"checkpoint_seconds": 0, "tokens_at_once": None}
    return sha256_of([relevant, rows_sha256, str(model_path), code_sha256("kiloset.train.lora"), torch.__version__])


@contextmanager
def _resumable(folder: Path, fingerprint: str) -> Iterator[Path]:
    """Give the partial folder of an interrupted training with this fingerprint, or a new one; it replaces `folder` at the end."""
    partial = partial_folder(folder)
    if read_fingerprint(partial / CHECKPOINT) != fingerprint:
        shutil.rmtree(partial, ignore_errors=True)
    with replaced_by(partial, folder):
        yield partial
        (partial / CHECKPOINT).unlink(missing_ok=True)


def _measured(state: TrainingState) -> dict[str, Any]:
    """Return the fields of the report that the training loop measured."""
    import torch

    flops_per_second = state.flops / state.seconds if state.seconds else 0.0
    peak = peak_flops(torch.cuda.get_device_name()) if torch.cuda.is_available() else None
    return {
        "steps": state.step,
        "tokens_at_once": state.tokens_at_once,
        "tokens": state.tokens,
        "tokens_per_second": state.tokens / state.seconds if state.seconds else 0.0,
        "teraflops": flops_per_second / 1e12,
        "utilisation": flops_per_second / peak if peak else None,
        "peak_memory_gib": peak_memory_gib(),
        "validation_before": state.validation_before,
        "validation_after": state.lowest,
        "best_epoch": state.best_epoch,
    }


def _keep_freed_memory() -> None:
    """Let glibc keep large freed blocks, because the next step needs blocks of the same size.

    By default glibc returns each freed block of over 32 MB to the operating system. For the next block the operating system
    must fill new pages with zeros, which takes a tenth of the training time on a CPU. Other C libraries are left as they are.
    """
    trim_threshold, mmap_threshold = -1, -3  # M_TRIM_THRESHOLD and M_MMAP_THRESHOLD in glibc's malloc.h
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None) if sys.platform == "linux" else None
    if mallopt is not None:
        mallopt(mmap_threshold, 2**30)
        mallopt(trim_threshold, 2**31 - 1)
