"""Write a model whose weights hold its adapter, for whatever loads no adapters."""

from pathlib import Path
from typing import Any

from kiloset.core.errors import ModelError
from kiloset.core.loading import check_adapter, load_tokenizer
from kiloset.core.text import squash
from kiloset.train.checkpoint import replaced


def merge_adapter(model_path: Path, adapter: Path, folder: Path) -> None:
    """Save the model with its adapter added to the weights, and the tokenizer, in `folder`.

    In the base model's own type; W + s B A is computed in float32. An older folder is replaced once the new one is whole.

    Raises:
        DataError: There is no adapter in PEFT's format.
        ModelError: It is not one of this model, or a model cannot be loaded.
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
        # PEFT reads safetensors where there are some; `check_adapter` has seen to that.
        tuned: Any = PeftModel.from_pretrained(base.float(), str(adapter))
    except (RuntimeError, ValueError, KeyError, SafetensorError) as error:
        raise ModelError("KS470", f"{adapter}: not an adapter of {model_path}: {squash(str(error))}") from None
    merged = tuned.merge_and_unload().to(stored)
    with replaced(folder) as partial:
        merged.save_pretrained(partial, safe_serialization=True)
        tokenizer.save_pretrained(partial)
