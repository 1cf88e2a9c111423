"""Load a tokenizer or causal language model from a local folder: safetensors only, no code of the model's own."""

import importlib.util
from pathlib import Path
from typing import Any

from kiloset.core.errors import ConfigError, ModelError
from kiloset.core.text import squash


def load_tokenizer(path: Path) -> Any:
    """Return the tokenizer of a model folder.

    Raises:
        ModelError: There is none, or it needs code of its own.
    """
    from transformers import AutoTokenizer

    if not path.is_dir():
        raise ModelError("KS027", f"{path}: no such folder")
    try:
        return AutoTokenizer.from_pretrained(str(path), trust_remote_code=False)
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ModelError("KS028", f"{path}: cannot load the tokenizer: {squash(str(error))}") from None


def load_model(path: Path, *, quantize: str = "none") -> Any:
    """Return the model of a folder: float32 on a CPU, bfloat16 on CUDA (spread over all GPUs if one is too small).

    Args:
        path: A local folder.
        quantize: `none`, or `8bit` or `4bit` (NF4) weights, which need CUDA and bitsandbytes.

    Raises:
        ConfigError: Quantized weights are asked for where they cannot be had.
        ModelError: There is no model, its weights are not safetensors, or it needs code of its own.
    """
    import torch
    from safetensors import SafetensorError
    from transformers import AutoModelForCausalLM

    cuda = torch.cuda.is_available()
    placed: dict[str, Any] = {"dtype": torch.bfloat16, "device_map": "auto"} if cuda else {"dtype": torch.float32}
    if quantize != "none":
        placed["quantization_config"] = _quantization(quantize, cuda)
    try:
        return AutoModelForCausalLM.from_pretrained(str(path), use_safetensors=True, trust_remote_code=False, **placed)
    except (OSError, ValueError, KeyError, TypeError, SafetensorError) as error:
        raise ModelError("KS029", f"{path}: cannot load the model: {squash(str(error))}") from None


def free_gpu_memory() -> None:
    """Give back what models no longer in use still hold of a GPU, so that another process can have it."""
    import gc

    import torch

    if torch.cuda.is_available():
        gc.collect()
        torch.cuda.empty_cache()


def _quantization(quantize: str, cuda: bool) -> Any:
    import torch
    from transformers import BitsAndBytesConfig

    if not cuda or importlib.util.find_spec("bitsandbytes") is None:
        lacking = "bitsandbytes (pip install bitsandbytes)" if cuda else "a CUDA GPU"
        raise ConfigError("KS030", f'[train] quantize = "{quantize}" needs {lacking}; set it to "none"')
    if quantize == "8bit":
        return BitsAndBytesConfig(load_in_8bit=True)
    return BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype=torch.bfloat16,
    )


def load_adapter(model: Any, adapter: Path) -> None:
    """Put an adapter in PEFT's format on a transformers model; `model.disable_adapters()` takes it off for a while.

    Raises:
        ModelError: There is none, its weights are not safetensors, or it is not one of this model.
    """
    from safetensors import SafetensorError

    if not (adapter / "adapter_model.safetensors").is_file():
        raise ModelError("KS031", f"{adapter}: no adapter_model.safetensors in it; fit an adapter with `make train`")
    try:
        model.load_adapter(str(adapter))
    except (OSError, ValueError, KeyError, RuntimeError, SafetensorError) as error:
        raise ModelError("KS032", f"{adapter}: cannot load the adapter: {squash(str(error))}") from None
    model.eval()
