"""Converts a GGUF file to a folder of safetensors, which vLLM and peft can load.

`transformers` reads GGUF as well, but holds the whole model in float32: 7 GB for 1.5 billion parameters. Here each tensor is
dequantized, converted and written before the next ones are read, so that memory holds one shard and one tensor. Configuration,
tokenizer and the names of the tensors come from `transformers`.
"""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from kiloset.core.run import write_text

SHARD_BYTES = 1 << 30
"""Size from which a shard is written: the memory that the conversion needs besides its largest tensor."""


def convert_gguf(source: Path, target: Path, dtype: str) -> None:
    """Write the model of a GGUF file as safetensors into a new folder.

    Args:
        source: The file.
        target: The folder, which does not exist yet.
        dtype: Type of the weights, such as "bfloat16".

    Raises:
        ValueError: The file lacks a tensor of the model.
    """
    import torch
    from safetensors.torch import save_file
    from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer, GenerationConfig

    target.mkdir(parents=True)
    place = {"gguf_file": source.name, "trust_remote_code": False}
    config = AutoConfig.from_pretrained(source.parent, **place)
    config.dtype = getattr(torch, dtype)
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(config, trust_remote_code=False)
    missing = set(model.state_dict()) - set(getattr(model, "all_tied_weights_keys", None) or ())
    index: dict[str, str] = {}
    shard: dict[str, Any] = {}
    size = shards = 0
    tensors = _tensors(source, model)
    while True:
        name, weights = next(tensors, ("", None))
        if shard and (weights is None or size >= SHARD_BYTES):
            shards += 1
            save_file(shard, target / f"model-{shards:05d}.safetensors", metadata={"format": "pt"})
            index |= dict.fromkeys(shard, f"model-{shards:05d}.safetensors")
            shard, size = {}, 0
        if weights is None:
            break
        shard[name] = torch.from_numpy(weights).to(config.dtype)
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
