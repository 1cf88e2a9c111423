"""Converts a GGUF file to a folder of safetensors, which vLLM and peft can load.

`transformers` reads GGUF as well, but holds the whole model in float32: 7 GB for 1.5 billion parameters. Here each tensor is
dequantized, converted and written before the next ones are read, so that memory holds one shard and one tensor. Configuration,
tokenizer and the names of the tensors come from `transformers`.

With int8 weights, vLLM also rounds the inputs of the linear layers to 8 bits and multiplies integers, which is faster on a CPU.
`transformers` and peft cannot train or score such a model.
"""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from kiloset.core.run import write_text

if TYPE_CHECKING:
    import torch

Weights = Literal["float32", "bfloat16", "int8"]
"""Types of the converted weights; int8 is for linear layers only, the others are bfloat16 then."""
SHARD_BYTES = 1 << 30
"""Size from which a shard is written: the memory that the conversion needs besides its largest tensor."""
QUANTIZED_SUFFIX = "_proj.weight"
"""End of the names of the linear layers' weights. The output layer lm_head is none of them."""
INT8_CONFIG = {
    "quant_method": "compressed-tensors",
    "format": "int-quantized",
    "quantization_status": "compressed",
    "ignore": ["lm_head"],
    "config_groups": {
        "group_0": {
            "targets": ["Linear"],
            "weights": {"num_bits": 8, "type": "int", "symmetric": True, "strategy": "channel", "dynamic": False},
            "input_activations": {
                "num_bits": 8,
                "type": "int",
                "symmetric": True,
                "strategy": "token",
                "dynamic": True,
            },
        }
    },
}
"""The quantization in the format of compressed-tensors: one scale for each output row, inputs scaled for each token."""


def convert_gguf(source: Path, target: Path, weights: Weights) -> None:
    """Write the model of a GGUF file as safetensors into a new folder.

    Args:
        source: The file.
        target: The folder, which does not exist yet.
        weights: Type of the weights.

    Raises:
        ValueError: The file lacks a tensor of the model.
    """
    import torch
    from safetensors.torch import save_file
    from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer, GenerationConfig

    target.mkdir(parents=True)
    place = {"gguf_file": source.name, "trust_remote_code": False}
    config = AutoConfig.from_pretrained(source.parent, **place)
    config.dtype = torch.float32 if weights == "float32" else torch.bfloat16
    if weights == "int8":
        config.quantization_config = INT8_CONFIG
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(config, trust_remote_code=False)
    missing = set(model.state_dict()) - set(getattr(model, "all_tied_weights_keys", None) or ())
    index: dict[str, str] = {}
    shard: dict[str, Any] = {}
    size = shards = 0
    tensors = _tensors(source, model)
    while True:
        name, values = next(tensors, ("", None))
        if shard and (values is None or size >= SHARD_BYTES):
            shards += 1
            save_file(shard, target / f"model-{shards:05d}.safetensors", metadata={"format": "pt"})
            index |= dict.fromkeys(shard, f"model-{shards:05d}.safetensors")
            shard, size = {}, 0
        if values is None:
            break
        tensor = torch.from_numpy(values)
        if weights == "int8" and name.endswith(QUANTIZED_SUFFIX):
            shard[name], shard[f"{name}_scale"] = quantize_rows(tensor)
        else:
            shard[name] = tensor.to(config.dtype)
        size += shard[name].nbytes
    if missing := missing - set(index):
        raise ValueError(f"{source}: lacks {len(missing)} tensors of the model, such as {min(missing)}")
    if shards == 1:
        (target / "model-00001.safetensors").rename(target / "model.safetensors")
    else:
        total = sum(file.stat().st_size for file in target.glob("*.safetensors"))
        listing = {"metadata": {"total_size": total}, "weight_map": index}
        write_text(target / "model.safetensors.index.json", json.dumps(listing, indent=1, sort_keys=True))
    AutoTokenizer.from_pretrained(source.parent, **place).save_pretrained(target)
    GenerationConfig.from_model_config(config).save_pretrained(target)
    config.architectures = [type(model).__name__]
    config.save_pretrained(target)  # last: a folder with a config.json is complete


def quantize_rows(weights: "torch.Tensor") -> "tuple[torch.Tensor, torch.Tensor]":
    """Return the weights of a linear layer as int8 in [-127, 127], and the float32 scale of each output row as a column."""
    import torch

    scales = (weights.abs().amax(dim=1, keepdim=True) / 127).clamp(min=1e-8)
    return (weights / scales).round().to(torch.int8), scales


def _tensors(source: Path, model: Any) -> Iterator[tuple[str, Any]]:
    """Yield the name and the float32 weights of each tensor of the file that the model has."""
    import numpy as np
    from gguf import GGUFReader, dequantize
    from transformers.modeling_gguf_pytorch_utils import (
        TENSOR_PROCESSORS,
        TensorProcessor,
        get_gguf_hf_weights_map,
    )

    # For example, llama.cpp stores the rows of Llama's query and key weights in another order.
    processor = TENSOR_PROCESSORS.get(model.config.model_type, TensorProcessor)(config=model.config.to_dict())
    names = get_gguf_hf_weights_map(model, processor)
    for tensor in GGUFReader(str(source)).tensors:
        if name := names.get(tensor.name):
            weights = dequantize(tensor.data, tensor.tensor_type)
            weights = processor.process(weights=weights, name=tensor.name).weights
            yield name, np.require(weights, requirements=["C", "W"])
