"""The loss on a response and its end token, in nats, with logits computed for no other position."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from core.logits import logits_at, padded
from train.data import Example, cut

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True, slots=True)
class Batch:
    """Examples padded on the right to the longest."""

    input_ids: "torch.Tensor"  # (rows, tokens) int64
    attention_mask: "torch.Tensor"  # (rows, tokens) int64, 0 on padding
    is_response: "torch.Tensor"  # (rows, tokens) bool, True on the tokens whose loss counts


def collate(examples: Sequence[Example], device: "torch.device") -> Batch:
    """Pad examples to one length."""
    return Batch(*padded([(example.prompt, example.response) for example in examples], device))


def response_logits(model: Any, batch: Batch) -> "torch.Tensor":
    """Return the float32 logits that predict the response tokens, (response tokens of all rows, vocabulary).

    The model is a PEFT model.
    """
    return logits_at(model.get_base_model(), batch.input_ids, batch.attention_mask, batch.is_response)


def summed_loss(model: Any, batch: Batch) -> "torch.Tensor":
    """Return the negative log-likelihood of all response tokens of a batch, in nats."""
    from torch.nn.functional import cross_entropy

    return cross_entropy(response_logits(model, batch), batch.input_ids[batch.is_response], reduction="sum")


def mean_loss(model: Any, examples: Sequence[Example], batch_size: int) -> float | None:
    """Return the mean loss without dropout, in nats per response token, or None where there are no examples.

    The model is left in evaluation mode.
    """
    import torch

    if not examples:
        return None
    model.eval()
    by_length = sorted(examples, key=lambda example: example.tokens)
    with torch.no_grad():
        sums = [summed_loss(model, collate(batch, model.device)).item() for batch in cut(by_length, batch_size)]
    return float(sum(sums) / sum(len(example.response) for example in examples))
