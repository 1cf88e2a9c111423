"""The loss on a response and its end token, in nats; no other position has a loss or logits.

Logits are as wide as the vocabulary. They are computed for a fixed number of positions at a time, and their gradient with
them, so that they stay in the cache and are never all in memory. The output embedding is frozen, so only the gradient of the
hidden states is kept.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kiloset.core.loading import load_tokenizer
from kiloset.core.logits import logits_of, padded, states_at
from kiloset.core.run import RunFolder
from kiloset.data.curated import read_curated
from kiloset.train.data import TokenizedRow, micro_batches, split_datasets, tokenize_rows
from kiloset.train.packed import packed_states
from kiloset.train.settings import TrainConfig

if TYPE_CHECKING:
    import torch

CHUNK = 256
"""Positions whose logits are computed at a time: 50 MB of float32 for a vocabulary of 49,152."""


@dataclass(frozen=True, slots=True)
class MaskedRow:
    """A row as the model sees it."""

    id: str
    tokens: tuple[tuple[str, bool], ...]
    """`(text, whether the token's loss counts)` of each token, in order."""


def masked_rows(run: RunFolder, config: TrainConfig, model_path: Path, count: int) -> Iterator[MaskedRow]:
    """Yield the first training rows as tokens, to show which of them have a loss.

    Raises:
        DataError: curated.jsonl is missing or invalid.
        ModelError: The tokenizer cannot be loaded, or no exact mask exists for its chat template.
    """
    rows = split_datasets(read_curated(run.curated))["train"]
    tokenizer = load_tokenizer(model_path)
    for at in range(min(count, len(rows))):
        row = rows.select([at])
        examples, _ = tokenize_rows(tokenizer, row, config.max_length)
        for example in examples:
            ids = [*((id, False) for id in example.prompt), *((id, True) for id in example.response)]
            yield MaskedRow(row[0]["id"], tuple((tokenizer.decode([id]), counts) for id, counts in ids))


def response_states(
    model: Any, examples: Sequence[TokenizedRow], *, packed: bool
) -> "tuple[torch.Tensor, torch.Tensor]":
    """Return the hidden states that predict response tokens, (response tokens, dims), and those tokens' ids.

    Args:
        model: A PEFT model.
        examples: The examples of a batch.
        packed: Whether the model computes packed rows (`kiloset.train.packed.use_packing`).
    """
    import torch

    base = model.get_base_model()
    if not packed:
        ids, mask, is_response = padded([(one.prompt, one.response) for one in examples], model.device)
        return states_at(base, ids, mask, is_response), ids[is_response]
    ids = torch.tensor([[id for one in examples for id in (*one.prompt, *one.response)]], device=model.device)
    is_response = torch.cat([torch.arange(one.tokens) >= len(one.prompt) for one in examples]).to(model.device)
    states = packed_states(base, ids, [one.tokens for one in examples])
    # The state at one position predicts the next token, which belongs to the same example because no prompt is empty.
    return states[is_response.nonzero()[:, 0] - 1], ids[0, is_response]


def summed_loss(model: Any, examples: Sequence[TokenizedRow], *, packed: bool) -> "torch.Tensor":
    """Return the negative log-likelihood of a batch's response tokens, in nats."""
    states, targets = response_states(model, examples, packed=packed)
    loss: torch.Tensor = _chunked_loss().apply(states, targets, model.get_base_model())
    return loss


def mean_loss(model: Any, examples: Sequence[TokenizedRow], tokens: int, *, packed: bool) -> float | None:
    """Return the mean loss without dropout, in nats per response token; None without examples.

    `tokens` are computed at a time. The model stays in evaluation mode.
    """
    import torch

    if not examples:
        return None
    model.eval()
    with torch.no_grad():
        batches = micro_batches(examples, tokens, padded=not packed)
        sums = [summed_loss(model, batch, packed=packed).item() for batch in batches]
    return float(sum(sums) / sum(len(example.response) for example in examples))


@cache
def _chunked_loss() -> Any:
    import torch
    from torch.nn.functional import cross_entropy

    class ChunkedLoss(torch.autograd.Function):
        """The summed cross entropy of hidden states; the forward pass also computes the gradient."""

        @staticmethod
        def forward(ctx: Any, states: "torch.Tensor", targets: "torch.Tensor", model: Any) -> "torch.Tensor":
            gradient = torch.empty_like(states) if ctx.needs_input_grad[0] else None
            total = torch.zeros((), dtype=torch.float64, device=states.device)
            for start in range(0, len(states), CHUNK):
                part = states[start : start + CHUNK].detach()
                with torch.set_grad_enabled(gradient is not None):
                    part.requires_grad_(gradient is not None)
                    loss = cross_entropy(logits_of(model, part), targets[start : start + CHUNK], reduction="sum")
                if gradient is not None:
                    gradient[start : start + CHUNK] = torch.autograd.grad(loss, part)[0]
                total += loss.detach()
            ctx.save_for_backward(gradient)
            return total.float()

        @staticmethod
        def backward(ctx: Any, outer: "torch.Tensor") -> Any:
            (gradient,) = ctx.saved_tensors
            return gradient * outer.to(gradient.dtype), None, None

    return ChunkedLoss
