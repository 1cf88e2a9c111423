"""Computes a linear layer and its LoRA adapter as one autograd function.

PEFT computes W x + s B A d(x) in five operations. Four of them read and write an activation of full width, and d(x), the
input after dropout, is kept beside x for the backward pass. Here the matrix product adds the adapter's output in place, and
the backward pass recomputes d(x) from x and the mask. The result is the same up to rounding.
"""

from collections.abc import Callable
from types import MethodType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch


def fuse_adapters(model: Any) -> int:
    """Fuse every plain LoRA layer of a PEFT model, and return their number.

    Other layers (DoRA, quantized weights, a bias in the adapter) do not change.
    """
    from peft.tuners.lora import Linear

    layers = [module for module in model.modules() if type(module) is Linear and _is_plain(module)]
    function = _lora_linear()
    for layer in layers:
        layer.forward = MethodType(_forward(function, layer.forward), layer)
    return len(layers)


def _is_plain(layer: Any) -> bool:
    import torch

    return (
        type(layer.base_layer) is torch.nn.Linear
        and list(layer.lora_A) == ["default"]
        and not layer.lora_variant
        and layer.lora_B["default"].bias is None
    )


def _forward(function: Any, unfused: Callable[..., Any]) -> Callable[..., Any]:
    def forward(layer: Any, x: "torch.Tensor", *args: Any, **kwargs: Any) -> Any:
        if layer.disable_adapters or layer.merged or args or kwargs:
            return unfused(x, *args, **kwargs)
        drop = layer.lora_dropout["default"]
        return function.apply(
            x, layer.base_layer.weight, layer.base_layer.bias, layer.lora_A["default"].weight,
            layer.lora_B["default"].weight, layer.scaling["default"], getattr(drop, "p", 0.0) if drop.training else 0.0,
        )  # fmt: skip

    return forward


def _lora_linear() -> Any:
    import torch
    from torch.nn.functional import linear

    class LoraLinear(torch.autograd.Function):
        """`W x + bias + scale B A dropout(x)`; W and the bias are frozen and have no gradient."""

        @staticmethod
        def forward(
            ctx: Any,
            x: "torch.Tensor",
            weight: "torch.Tensor",
            bias: "torch.Tensor | None",
            a: "torch.Tensor",
            b: "torch.Tensor",
            scale: float,
            dropout: float,
        ) -> "torch.Tensor":
            rows = x.reshape(-1, x.shape[-1])  # (tokens, inputs)
            kept = _mask(rows, dropout) if dropout else None
            # The adapter's weights are float32; the product has the type of the activations.
            a, b = a.to(x.dtype), b.to(x.dtype)
            low = _dropped(rows, kept, dropout) @ a.T  # (tokens, rank)
            out = linear(rows, weight, bias)
            out.addmm_(low, b.T, alpha=scale)
            ctx.save_for_backward(rows, weight, a, b, low, kept)
            ctx.scale, ctx.dropout, ctx.shape = scale, dropout, x.shape
            return out.view(*x.shape[:-1], out.shape[-1])

        @staticmethod
        def backward(ctx: Any, gradient: "torch.Tensor") -> Any:
            rows, weight, a, b, low, kept = ctx.saved_tensors
            g = gradient.reshape(-1, gradient.shape[-1])  # (tokens, outputs)
            g_low = (g @ b).mul_(ctx.scale)  # (tokens, rank)
            g_b = (g.T @ low).mul_(ctx.scale)
            g_a = g_low.T @ _dropped(rows, kept, ctx.dropout)
            g_x = None
            if ctx.needs_input_grad[0]:
                g_x = g @ weight
                if kept is None:
                    g_x.addmm_(g_low, a)
                else:
                    g_x.add_(_dropped(g_low @ a, kept, ctx.dropout))
                g_x = g_x.view(ctx.shape)
            return g_x, None, None, g_a.float(), g_b.float(), None, None

    return LoraLinear


def _mask(x: "torch.Tensor", dropout: float) -> "torch.Tensor":
    """Return a mask of x's shape, True with probability 1 - dropout, rounded to a multiple of 2^-16.

    A CPU draws random numbers of 64 bits one by one. Splitting each into four takes a third of the time of `bernoulli_`.
    """
    import torch

    if x.device.type != "cpu":
        return torch.empty(x.shape, dtype=torch.bool, device=x.device).bernoulli_(1 - dropout)
    drawn = torch.empty((x.numel() + 3) // 4, dtype=torch.int64).random_(-(2**63), None).view(torch.int16)
    return (drawn[: x.numel()] >= round(dropout * 2**16) - 2**15).view(x.shape)


def _dropped(x: "torch.Tensor", kept: "torch.Tensor | None", dropout: float) -> "torch.Tensor":
    return x if kept is None else (x * kept).mul_(1 / (1 - dropout))
