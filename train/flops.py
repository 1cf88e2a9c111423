"""How much arithmetic a training takes, and what share of a GPU's peak that is.

Model FLOPs as A. Chowdhery et al., "PaLM: Scaling Language Modeling with Pathways", 2022, arXiv:2204.02311, appendix B,
count them, but for what an adapter saves: frozen weights need no gradient of their own, so they take two matrix products
a token forward and two backward (4 FLOPs a weight) and only the adapter's take three (6). Attention counts causal scores
alone, the output embedding response positions alone. Recomputed activations do not count.
"""

from collections.abc import Sequence
from typing import Any

from kiloset.train.data import Example

PEAKS = {
    "H200": 989e12, "H100 PCIe": 756e12, "H100": 989e12, "H800": 989e12, "B200": 2250e12, "A100": 312e12, "A800": 312e12,
    "L40S": 362e12, "L4": 121e12, "A10G": 70e12, "A10": 125e12, "RTX 4090": 165e12, "RTX 3090": 71e12, "RTX 6000 Ada": 364e12,
}  # fmt: skip
"""Dense bfloat16 FLOP/s by NVIDIA's data sheets, the longer name first."""


def training_flops(model: Any, examples: Sequence[Example]) -> float:
    """Return the FLOPs of one forward and backward pass over the examples."""
    tokens = sum(example.tokens for example in examples)
    responses = sum(len(example.response) for example in examples)
    head, frozen, adapter = _weights(model)
    config = model.config.get_text_config()
    width = config.num_attention_heads * (
        getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    )
    # Scores and their product with the values, forward and twice that backward; half of it, being causal.
    attention = sum(3 * 2 * 2 * example.tokens**2 / 2 * width for example in examples) * config.num_hidden_layers
    return float((4 * frozen + 6 * adapter) * tokens + 4 * head * responses + attention)


def peak_flops(device_name: str) -> float | None:
    """Return a GPU's peak in bfloat16, None for one that is not in the table."""
    return next((peak for name, peak in PEAKS.items() if name in device_name), None)


def _weights(model: Any) -> tuple[int, int, int]:
    """Return how many weights the output embedding has, the other frozen linear layers and the adapter's matrices."""
    import torch

    base = model.get_base_model()
    head = base.get_output_embeddings().weight
    adapter = sum(parameter.numel() for parameter in model.parameters() if parameter.requires_grad)
    linear = {
        id(module.weight): module.in_features * module.out_features
        for module in base.modules()
        if isinstance(module, torch.nn.Linear) and not module.weight.requires_grad and module.weight is not head
    }
    return int(head.shape[0] * head.shape[1]), sum(linear.values()), adapter
