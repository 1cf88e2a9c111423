"""Adds an adapter to a model, saves it, and merges it into the model's weights."""

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from kiloset.core.errors import ConfigError, ModelError
from kiloset.core.loading import check_adapter, load_tokenizer
from kiloset.core.text import squash
from kiloset.train.settings import TrainConfig


def add_adapter(base: Any, config: TrainConfig) -> Any:
    """Return the model with a new adapter, which does not change its output yet.

    Raises:
        ConfigError: The model has no layer with a name in `targets`.
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


def save_adapter(model: Any, folder: Path) -> None:
    """Save the adapter in PEFT's format, without the base model's files."""
    lora = model.peft_config["default"]
    # PEFT writes this set in the order of the process's string hashes; sorted, equal runs write equal bytes.
    lora.target_modules = sorted(lora.target_modules)
    model.save_pretrained(folder, safe_serialization=True, save_embedding_layers=False)
    # PEFT's model card: 5 KB of headings over "[More Information Needed]".
    (folder / "README.md").unlink(missing_ok=True)


def merge_adapter(model_path: Path, adapter: Path, folder: Path) -> None:
    """Save the model with its adapter merged into the weights, and the tokenizer, in `folder`.

    The weights have the base model's type; W + s B A is computed in float32. An existing folder is replaced atomically.

    Raises:
        DataError: See `check_adapter`.
        ModelError: The adapter does not fit the model, or the model cannot be loaded.
    """
    import torch
    from peft import PeftModel
    from safetensors import SafetensorError
    from transformers import AutoModelForCausalLM

    check_adapter(adapter)
    tokenizer = load_tokenizer(model_path)
    try:
        base = AutoModelForCausalLM.from_pretrained(
            str(model_path), use_safetensors=True, trust_remote_code=False, dtype="auto"
        )
    except (OSError, ValueError, KeyError, TypeError, SafetensorError) as error:
        raise ModelError("KS469", f"{model_path}: cannot load the model: {squash(str(error))}") from None
    stored: torch.dtype = base.dtype
    try:
        # PEFT prefers safetensors, and `check_adapter` has checked that they exist.
        tuned: Any = PeftModel.from_pretrained(base.float(), str(adapter))
    except (RuntimeError, ValueError, KeyError, SafetensorError) as error:
        raise ModelError("KS470", f"{adapter}: not an adapter of {model_path}: {squash(str(error))}") from None
    merged = tuned.merge_and_unload().to(stored)
    partial = partial_folder(folder)
    shutil.rmtree(partial, ignore_errors=True)
    with replaced_by(partial, folder):
        merged.save_pretrained(partial, safe_serialization=True)
        tokenizer.save_pretrained(partial)


def partial_folder(folder: Path) -> Path:
    """Return the folder beside `folder` in which its new content is written."""
    return folder.with_name(f".{folder.name}.partial")


@contextmanager
def replaced_by(partial: Path, folder: Path) -> Iterator[None]:
    """Create `partial`, and rename it to `folder` when the block ends without an error.

    A folder cannot be renamed onto another one: a kill between the two renames leaves the old one as `.<name>.old`.
    """
    partial.mkdir(parents=True, exist_ok=True)
    yield
    old = folder.with_name(f".{folder.name}.old")
    if folder.exists():
        shutil.rmtree(old, ignore_errors=True)
        os.replace(folder, old)
    os.replace(partial, folder)
    shutil.rmtree(old, ignore_errors=True)
