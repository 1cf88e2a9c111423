"""The `[train]` table."""

from typing import Literal

from kiloset.core.config import Count, Fraction, Names, Natural, NonNegative, Positive, settings


@settings
class TrainConfig:
    """The `[train]` table of a run's TOML."""

    rank: Count = 16
    """Rank r of the adapter's matrices, from 1."""
    alpha: Count = 32
    """Numerator of the adapter's scale, alpha / rank, from 1."""
    dropout: Fraction = 0.05
    """Fraction of the adapter's inputs zeroed while training, in [0, 1]."""
    targets: Names = ("all-linear",)
    """Adapted layers: all-linear (all but the output embedding), or names of modules such as q_proj, v_proj."""
    dora: bool = False
    """Adapt direction and magnitude separately (DoRA): slower, and vLLM supports it only merged (`kiloset merge`)."""
    rslora: bool = False
    """Scale by alpha / sqrt(rank) (rsLoRA), for large ranks."""
    quantize: Literal["none", "8bit", "4bit"] = "none"
    """Quantize the base model's weights for training to 8 or 4 bits (4bit is QLoRA's NF4); needs CUDA and bitsandbytes."""
    learning_rate: Positive = 2e-4
    """Rate at the end of the warm-up, above 0; it falls to 0 along a cosine."""
    epochs: Count = 3
    """Passes over the training rows, from 1; the adapter of the epoch with the lowest validation loss is kept."""
    patience: Natural = 1
    """Training stops after this number of epochs without a lower validation loss; 0 never stops it."""
    batch_size: Count = 16
    """Rows in a step, from 1."""
    tokens_at_once: Count | None = None
    """Tokens computed at a time, from 1; default 512 on a CPU and 4096 on CUDA. A step's rows are cut into batches of at most this size, and their gradients are added: the result does not change, the memory does. Halved when memory runs out."""
    max_length: Count = 1024
    """Longest row, in tokens of prompt and response; longer rows are left out and counted."""
    warmup: Fraction = 0.03
    """Fraction of the steps in which the learning rate rises from 0, in [0, 1]."""
    weight_decay: NonNegative = 0.0
    """AdamW's weight decay of the adapter, from 0."""
    gradient_checkpointing: bool = False
    """Recompute activations in the backward pass: less memory, one additional forward pass."""
    seed: Natural = 0
    """Seed of the adapter's initial weights, dropout and the order of rows, from 0."""
    max_steps: Count | None = None
    """Largest number of optimizer steps, from 1; default: all of `epochs`."""
    checkpoint_seconds: NonNegative = 60.0
    """Seconds of training between two checkpoints; an interrupted training resumes from the last one. 0 writes one after each step."""
