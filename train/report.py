"""The report of a training, and the floating-point operations behind its speed.

Model FLOPs are counted as in A. Chowdhery et al., "PaLM: Scaling Language Modeling with Pathways", 2022, arXiv:2204.02311,
appendix B, except for what an adapter saves: frozen weights need no gradient, so a token takes 4 FLOPs for each of them (two
forward, two backward), and 6 for each weight of the adapter. Attention counts causal scores only, the output embedding
response positions only. Recomputed activations do not count.
"""

import resource
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from kiloset.train.data import TokenizedRow

PEAKS = {
    "H200": 989e12, "H100 PCIe": 756e12, "H100": 989e12, "H800": 989e12, "B200": 2250e12, "A100": 312e12, "A800": 312e12,
    "L40S": 362e12, "L4": 121e12, "A10G": 70e12, "A10": 125e12, "RTX 4090": 165e12, "RTX 3090": 71e12, "RTX 6000 Ada": 364e12,
}  # fmt: skip
"""Dense bfloat16 FLOP/s from NVIDIA's data sheets; of two names with a common start, the longer one comes first."""


@dataclass(frozen=True, slots=True)
class TrainReport:
    """The report of a training; the manifest's `train` has the same entries."""

    train_rows: int
    """Rows trained on."""
    validation_rows: int
    """Rows of the validation loss."""
    train_rows_too_long: int
    """Training rows left out because they have more than `max_length` tokens."""
    validation_rows_too_long: int
    """Validation rows left out for the same reason."""
    trainable_parameters: int
    trainable_share: float
    """The adapter's parameters as a fraction of the base model's."""
    steps: int
    """Optimizer steps taken."""
    resumed_at: int
    """Step at which an interrupted training resumed; 0 if it was not interrupted."""
    stopped_early: bool
    """Whether training ended before its last epoch because the validation loss did not fall."""
    packed: bool
    """Whether rows were packed; if not, the model needs padding."""
    fused_layers: int
    """Layers computed in one step with their adapter."""
    tokens_at_once: int
    """Tokens computed at a time at the end; below the setting if memory ran out."""
    tokens: int
    """Prompt and response tokens trained on."""
    tokens_per_second: float
    """Throughput of training steps; validation is not counted."""
    teraflops: float
    """Model FLOPs in 10^12 per second of training steps."""
    utilisation: float | None
    """Fraction of the GPU's peak in bfloat16; None on a CPU and on a GPU whose peak is unknown."""
    peak_memory_gib: float
    """Memory peak of this process: allocated GPU memory, else the resident set."""
    validation_before: float | None
    """The base model's loss, in nats per response token; None without validation rows."""
    validation_after: float | None
    """Loss of the kept adapter."""
    best_epoch: int
    """Epoch of the kept adapter, from 1."""
    chosen_by: str
    """Reason for this epoch: `lowest validation loss`, or `last epoch, there are no validation rows`."""
    seconds: float
    """From reading the rows to the saved adapter, since the last start."""
    rows_sha256: str
    """Hash of the rows."""


def training_flops(model: Any, examples: Sequence[TokenizedRow]) -> float:
    """Return the FLOPs of one forward and backward pass over the examples."""
    tokens = sum(example.tokens for example in examples)
    responses = sum(len(example.response) for example in examples)
    head, frozen, adapter = _weights(model)
    config = model.config.get_text_config()
    width = config.num_attention_heads * (
        getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    )
    # Scores and their product with the values: one pass forward and two backward, half of it because attention is causal.
    attention = sum(3 * 2 * 2 * example.tokens**2 / 2 * width for example in examples) * config.num_hidden_layers
    return float((4 * frozen + 6 * adapter) * tokens + 4 * head * responses + attention)


def peak_flops(device_name: str) -> float | None:
    """Return a GPU's peak in bfloat16, None for a GPU that is not in the table."""
    return next((peak for name, peak in PEAKS.items() if name in device_name), None)


def peak_memory_gib() -> float:
    """Return the memory peak of this process: allocated GPU memory, else the resident set."""
    import torch

    if torch.cuda.is_available():
        return torch.cuda.max_memory_allocated() / 2**30
    unit = 1 if sys.platform == "darwin" else 1024  # ru_maxrss: bytes on macOS, KiB on Linux
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 2**30


def _weights(model: Any) -> tuple[int, int, int]:
    """Return the numbers of weights in the output embedding, the other frozen linear layers, and the adapter."""
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
