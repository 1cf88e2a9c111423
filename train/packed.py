"""Compute several examples as one row of tokens without padding, each attending to itself alone.

Everything but attention works token by token, so examples can stand in one row one behind the other; attention is
computed for each by itself, so nothing can leak from one into the next, and the kernel for plain causal attention serves
where a packed row would otherwise need a mask of its length squared (M. Krell et al., "Efficient Sequence Packing without
Cross-contamination", 2021, arXiv:2107.02027, mask it). Models that mix tokens elsewhere, by convolutions or a recurrent
state, or that bend attention scores in a way not known here, are found by `packing_works` and get padded batches.
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from kiloset.core.logits import TOLERANCE

if TYPE_CHECKING:
    import torch

NAME = "kiloset_packed"


def use_packing(model: Any) -> bool:
    """Make a transformers model compute packed rows, if it can; tell whether it does."""
    from transformers import AttentionInterface

    before = model.config._attn_implementation
    AttentionInterface.register(NAME, packed_attention)
    model.set_attn_implementation(NAME)
    if model.config._attn_implementation == NAME and _packing_works(model, before):
        return True
    model.set_attn_implementation(before)
    return False


def packed_attention(
    _module: Any,
    query: "torch.Tensor",
    key: "torch.Tensor",
    value: "torch.Tensor",
    attention_mask: "torch.Tensor | None",
    *,
    packed_lengths: Sequence[int] = (),
    scaling: float | None = None,
    sliding_window: int | None = None,
    softcap: float | None = None,
    s_aux: "torch.Tensor | None" = None,
    **_: Any,
) -> "tuple[torch.Tensor, None]":
    """Return causal attention within each example, (1, tokens, heads, dims), in transformers' attention interface.

    Args:
        _module: The attention layer.
        query: (1, heads, tokens, dims).
        key: (1, key heads, tokens, dims).
        value: (1, key heads, tokens, dims).
        attention_mask: None.
        packed_lengths: Tokens of each example, in order.
        scaling: Factor of the scores.
        sliding_window: Tokens back that a token attends to, itself included.
        softcap: Not supported.
        s_aux: Not supported.

    Raises:
        NotImplementedError: The layer asks for what is not supported.
    """
    import torch
    from torch.nn.functional import scaled_dot_product_attention

    if softcap is not None or s_aux is not None or attention_mask is not None:
        raise NotImplementedError("attention with a cap, sinks or a mask of its own")
    parts = []
    lengths = list(packed_lengths)
    grouped = query.shape[1] != key.shape[1]
    for q, k, v in zip(*(torch.split(whole, lengths, 2) for whole in (query, key, value)), strict=True):
        length = q.shape[2]
        mask = None
        if sliding_window is not None and length > sliding_window:
            mask = torch.ones(length, length, dtype=torch.bool, device=q.device).tril().triu(1 - sliding_window)
        parts.append(
            scaled_dot_product_attention(
                q, k, v, attn_mask=mask, is_causal=mask is None, scale=scaling, enable_gqa=grouped
            )
        )
    return torch.cat(parts, dim=2).transpose(1, 2), None


def positions(lengths: Sequence[int], device: Any) -> "torch.Tensor":
    """Return the position of each token in its own example, (1, tokens)."""
    import torch

    return torch.cat([torch.arange(length) for length in lengths])[None].to(device)


def packed_states(model: Any, ids: "torch.Tensor", lengths: Sequence[int]) -> "torch.Tensor":
    """Return the last hidden states of a packed row, (tokens, dims).

    Args:
        model: A causal language model of transformers that `use_packing` has said yes to.
        ids: (1, tokens) int64.
        lengths: Tokens of each example, in order.
    """
    decoded = model.get_decoder()(
        input_ids=ids, position_ids=positions(lengths, ids.device), use_cache=False, packed_lengths=tuple(lengths)
    )
    states: torch.Tensor = decoded.last_hidden_state[0]
    return states


def _packing_works(model: Any, before: str) -> bool:
    """Tell whether each of two packed examples gets the states it has alone under the model's own attention."""
    import torch

    vocabulary = model.get_input_embeddings().num_embeddings
    generator = torch.Generator().manual_seed(0)
    alone = [torch.randint(vocabulary, (1, length), generator=generator).to(model.device) for length in (7, 12)]
    was_training = model.training
    model.eval()
    try:
        with torch.no_grad():
            packed = packed_states(model, torch.cat(alone, 1), [7, 12])
            model.set_attn_implementation(before)
            own = torch.cat([model.get_decoder()(input_ids=ids, use_cache=False).last_hidden_state[0] for ids in alone])
    except (TypeError, NotImplementedError, RuntimeError, ValueError):
        return False
    finally:
        model.set_attn_implementation(NAME)
        model.train(was_training)
    return bool((packed - own).abs().max() <= TOLERANCE * own.abs().max())
