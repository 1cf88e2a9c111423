"""Load a tokenizer or causal language model from a local folder: safetensors only, no code of the model's own."""

from pathlib import Path
from typing import Any

from core.errors import ModelError
from core.text import squash


def load_tokenizer(path: Path) -> Any:
    """Return the tokenizer of a model folder.

    Raises:
        ModelError: There is none, or it needs code of its own.
    """
    from transformers import AutoTokenizer

    if not path.is_dir():
        raise ModelError(f"{path}: no such folder")
    try:
        return AutoTokenizer.from_pretrained(str(path), trust_remote_code=False)
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ModelError(f"{path}: cannot load the tokenizer: {squash(str(error))}") from None


def load_model(path: Path) -> Any:
    """Return the model of a folder: float32 on a CPU, bfloat16 on CUDA (spread over all GPUs if one is too small).

    Raises:
        ModelError: There is none, its weights are not safetensors, or it needs code of its own.
    """
    import torch
    from safetensors import SafetensorError
    from transformers import AutoModelForCausalLM

    cuda = torch.cuda.is_available()
    placed: dict[str, Any] = {"dtype": torch.bfloat16, "device_map": "auto"} if cuda else {"dtype": torch.float32}
    try:
        return AutoModelForCausalLM.from_pretrained(str(path), use_safetensors=True, trust_remote_code=False, **placed)
    except (OSError, ValueError, KeyError, TypeError, SafetensorError) as error:
        raise ModelError(f"{path}: cannot load the model: {squash(str(error))}") from None
