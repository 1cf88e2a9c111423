"""Load the base model, and put the finished adapter in its place."""

import json
import os
import shutil
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from core.errors import ModelError
from core.text import squash

Log = Callable[[Mapping[str, Any]], None]


def load_tokenizer(model_path: Path) -> Any:
    """Return the tokenizer of a local folder or a hub id.

    Raises:
        ModelError: There is none, or it needs code of its own.
    """
    from transformers import AutoTokenizer

    if model_path.is_absolute() and not model_path.is_dir():
        raise ModelError(f"{model_path}: no such folder")
    try:
        return AutoTokenizer.from_pretrained(str(model_path), trust_remote_code=False)
    except (OSError, ValueError) as error:
        raise ModelError(f"{model_path}: cannot load the tokenizer: {squash(str(error))}") from None


def load_model(model_path: Path) -> Any:
    """Return the model of a local folder or a hub id: float32 on a CPU, bfloat16 on CUDA.

    Raises:
        ModelError: There is none, its weights are not safetensors, or it needs code of its own.
    """
    import torch
    from safetensors import SafetensorError
    from transformers import AutoModelForCausalLM

    device, dtype = ("cuda", torch.bfloat16) if torch.cuda.is_available() else ("cpu", torch.float32)
    try:
        model: Any = AutoModelForCausalLM.from_pretrained(
            str(model_path), dtype=dtype, use_safetensors=True, trust_remote_code=False
        )
    except (OSError, ValueError, SafetensorError) as error:
        raise ModelError(f"{model_path}: cannot load the model: {squash(str(error))}") from None
    return model.to(device)


def save_adapter(model: Any, folder: Path) -> None:
    """Save the adapter in PEFT's format; the base model's own files are not copied."""
    lora = model.peft_config["default"]
    # PEFT writes this set in the order of the process's string hashes; sorted, equal runs write equal bytes.
    lora.target_modules = sorted(lora.target_modules)
    model.save_pretrained(folder, safe_serialization=True, save_embedding_layers=False)
    # PEFT's model card: 5 KB of headings over "[More Information Needed]".
    (folder / "README.md").unlink(missing_ok=True)


@contextmanager
def replacing(folder: Path) -> Iterator[Path]:
    """Yield an empty folder that takes the place of `folder` when the block ends well.

    A folder cannot be renamed onto a full one: a kill between the two renames leaves the older as `.<name>.old`.
    """
    partial, old = folder.with_name(f".{folder.name}.partial"), folder.with_name(f".{folder.name}.old")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir()
    yield partial
    if folder.exists():
        shutil.rmtree(old, ignore_errors=True)
        os.replace(folder, old)
    os.replace(partial, folder)
    shutil.rmtree(old, ignore_errors=True)


@contextmanager
def json_lines(path: Path) -> Iterator[Log]:
    """Yield a function that writes an object as a line of JSON, at once readable."""
    with path.open("w", encoding="utf-8", buffering=1) as file:
        yield lambda entry: print(json.dumps(entry), file=file)
