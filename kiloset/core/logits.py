"""Next-token logits at chosen positions, shared by scoring and training.

Most positions of an example belong to the prompt, and a vocabulary is large: computing logits only for response positions is
1.7 times faster on a CPU.
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from kiloset.core.errors import ModelError

if TYPE_CHECKING:
    import torch

TOLERANCE = 0.02
"""Largest difference allowed between the model's own logits and ours, relative to the largest logit; bfloat16 errs by 0.004."""


def padded(
    examples: Sequence[tuple[Sequence[int], Sequence[int]]], device: Any, *, rows: int = 0, length: int = 0
) -> "tuple[torch.Tensor, torch.Tensor, torch.Tensor]":
    """Return ids, attention mask and response mask, each (rows, tokens), of `(prompt ids, response ids)`.

    Padded on the right with id 0; no token attends to the padding and no sum includes it. `rows` and `length` are the smallest
    shape; additional rows contain only padding.
    """
    import torch

    longest = max(length, *(len(prompt) + len(response) for prompt, response in examples))
    ids = torch.zeros(max(rows, len(examples)), longest, dtype=torch.long)
    mask = torch.zeros_like(ids)
    is_response = torch.zeros(ids.shape, dtype=torch.bool)
    for row, (prompt, response) in enumerate(examples):
        end = len(prompt) + len(response)
        ids[row, :end] = torch.tensor([*prompt, *response])
        mask[row, :end] = 1
        is_response[row, len(prompt) : end] = True
    return ids.to(device), mask.to(device), is_response.to(device)


def logits_at(
    model: Any, input_ids: "torch.Tensor", attention_mask: "torch.Tensor", is_target: "torch.Tensor"
) -> "torch.Tensor":
    """Return the float32 logits that predict the marked tokens, (marked tokens of all rows, vocabulary); see `states_at`."""
    return logits_of(model, states_at(model, input_ids, attention_mask, is_target))


def states_at(
    model: Any, input_ids: "torch.Tensor", attention_mask: "torch.Tensor | None", is_target: "torch.Tensor"
) -> "torch.Tensor":
    """Return the last hidden states that predict the marked tokens, (marked tokens of all rows, dims).

    Args:
        model: A causal language model of transformers, not a PEFT wrapper of one.
        input_ids: (rows, tokens) int64, padded on the right.
        attention_mask: (rows, tokens) int64, 0 on padding; may be None, because no token attends to later ones.
        is_target: (rows, tokens) bool, True on tokens to predict; False on the first token of a row.
    """
    hidden: torch.Tensor = model.get_decoder()(
        input_ids=input_ids, attention_mask=attention_mask, use_cache=False
    ).last_hidden_state  # (rows, tokens, dims)
    # The state at one position predicts the token at the next.
    return hidden[:, :-1][is_target[:, 1:]]


def logits_of(model: Any, states: "torch.Tensor") -> "torch.Tensor":
    """Return the float32 logits of hidden states, (states, vocabulary)."""
    return _scaled(model.get_output_embeddings()(states).float(), model.config.get_text_config())


def check_logits(
    model: Any, input_ids: "torch.Tensor", attention_mask: "torch.Tensor", is_target: "torch.Tensor"
) -> None:
    """Check on one batch that `logits_at` gives the same logits as the whole model.

    Raises:
        ModelError: They differ, because the model changes its logits in a way that is not supported.
    """
    import torch

    with torch.no_grad():
        ours = logits_at(model, input_ids, attention_mask, is_target)
        whole = model(input_ids=input_ids, attention_mask=attention_mask).logits
    own = whole[:, :-1][is_target[:, 1:]].float()
    if (ours - own).abs().max() > TOLERANCE * own.abs().max():
        raise ModelError(
            "KS033",
            f"{model.config.model_type} models change their logits in a way that is not supported, so likelihoods would "
            "be wrong; use another model",
        )


def _scaled(logits: "torch.Tensor", config: Any) -> "torch.Tensor":
    """Scale or cap logits as the model does: Granite divides, Cohere multiplies, Gemma applies a hyperbolic tangent."""
    if divisor := getattr(config, "logits_scaling", None):
        logits = logits / divisor
    if factor := getattr(config, "logit_scale", None):
        logits = logits * factor
    if cap := getattr(config, "final_logit_softcapping", None):
        logits = (logits / cap).tanh() * cap
    return logits
