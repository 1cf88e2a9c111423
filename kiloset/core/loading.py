"""Loads a tokenizer, a causal language model or an adapter from a local folder: safetensors only, no remote code."""

import importlib.util
import json
from pathlib import Path
from typing import Any

from kiloset.core.errors import ConfigError, DataError, ModelError
from kiloset.core.text import squash


def load_tokenizer(path: Path) -> Any:
    """Return the tokenizer of a model folder.

    Raises:
        ModelError: The folder has no tokenizer, or the tokenizer needs remote code.
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
        ConfigError: Quantized weights are not available on this machine.
        ModelError: The folder has no model, its weights are not safetensors, or it needs remote code.
    """
    import torch
    from safetensors import SafetensorError
    from transformers import AutoModelForCausalLM

    cuda = torch.cuda.is_available()
    options: dict[str, Any] = {"dtype": torch.bfloat16, "device_map": "auto"} if cuda else {"dtype": torch.float32}
    if quantize != "none":
        options["quantization_config"] = _quantization(quantize, cuda)
    try:
        return AutoModelForCausalLM.from_pretrained(str(path), use_safetensors=True, trust_remote_code=False, **options)
    except (OSError, ValueError, KeyError, TypeError, SafetensorError) as error:
        raise ModelError("KS029", f"{path}: cannot load the model: {squash(str(error))}") from None


def free_gpu_memory() -> None:
    """Return the GPU memory of deleted models to the system, so that another process can use it."""
    import gc

    import torch

    if torch.cuda.is_available():
        gc.collect()
        torch.cuda.empty_cache()


def _quantization(quantize: str, cuda: bool) -> Any:
    import torch
    from transformers import BitsAndBytesConfig

    if not cuda or importlib.util.find_spec("bitsandbytes") is None:
        missing = "bitsandbytes (pip install bitsandbytes)" if cuda else "a CUDA GPU"
        raise ConfigError("KS030", f'[train] quantize = "{quantize}" needs {missing}; set it to "none"')
    if quantize == "8bit":
        return BitsAndBytesConfig(load_in_8bit=True)
    return BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype=torch.bfloat16,
    )


def check_adapter(adapter: Path) -> dict[str, Any]:
    """Return the configuration of an adapter in PEFT's format.

    Raises:
        DataError: The folder has no such adapter, or its weights are not safetensors.
    """
    for name in ("adapter_config.json", "adapter_model.safetensors"):
        if not (adapter / name).is_file():
            raise DataError("KS471", f"{adapter}: has no {name}; train an adapter with `kiloset train`")
    try:
        config: dict[str, Any] = json.loads((adapter / "adapter_config.json").read_text(encoding="utf-8"))
    except ValueError as error:
        raise DataError("KS472", f"{adapter / 'adapter_config.json'}: not JSON: {error}") from None
    return config


def load_adapter(model: Any, adapter: Path) -> None:
    """Add an adapter in PEFT's format to a transformers model; `model.disable_adapters()` switches it off.

    Raises:
        DataError: See `check_adapter`.
        ModelError: The adapter does not fit the model.
    """
    from safetensors import SafetensorError

    check_adapter(adapter)
    try:
        model.load_adapter(str(adapter))
    except (OSError, ValueError, KeyError, RuntimeError, SafetensorError) as error:
        raise ModelError("KS032", f"{adapter}: cannot load the adapter: {squash(str(error))}") from None
    model.eval()
