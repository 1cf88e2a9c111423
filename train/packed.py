"""Computes several examples as one row of tokens without padding; each example attends only to itself.

Every operation but attention works on single tokens, so examples can follow each other in one row. Attention is computed for
each example separately: nothing leaks from one example into the next, and the kernel for plain causal attention is
sufficient. M. Krell et al. ("Efficient Sequence Packing without Cross-contamination", 2021, arXiv:2107.02027) use a mask
instead, whose size is the square of the row's length. Models that mix tokens outside of attention (convolutions, a recurrent
state) or change attention scores in an unsupported way fail `_packing_works` and get padded batches.
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from kiloset.core.logits import TOLERANCE

if TYPE_CHECKING:
    import torch

NAME = "kiloset_packed"


def use_packing(model: Any) -> bool:
    """Switch a transformers model to packed rows if it supports them; return whether it does."""
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
    """Return causal attention within each example, (1, tokens, heads, dims), for transformers' attention interface.

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
        NotImplementedError: The layer uses an unsupported argument.
    """
    import torch
    from torch.nn.functional import scaled_dot_product_attention

    if softcap is not None or s_aux is not None or attention_mask is not None:
        raise NotImplementedError("attention with a cap, sinks or its own mask")
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


def packed_states(model: Any, ids: "torch.Tensor", lengths: Sequence[int]) -> "torch.Tensor":
    """Return the last hidden states of a packed row, (tokens, dims).

    Args:
        model: A causal language model of transformers for which `use_packing` returned True.
        ids: (1, tokens) int64.
        lengths: Tokens of each example, in order.
    """
    import torch

    positions = torch.cat([torch.arange(length) for length in lengths])[None].to(ids.device)  # in each example
    decoded = model.get_decoder()(input_ids=ids, position_ids=positions, use_cache=False, packed_lengths=tuple(lengths))
    states: torch.Tensor = decoded.last_hidden_state[0]
    return states


def _packing_works(model: Any, before: str) -> bool:
    """Return whether two packed examples get the same states as separately with the model's own attention."""
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
