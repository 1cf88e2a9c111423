"""A linear layer with its adapter in one step, against PEFT's five."""

from typing import Any

import pytest
import torch
from peft import LoraConfig, get_peft_model
from torch import nn

from kiloset.train.fused import _mask, fuse_adapters


class Net(nn.Module):
    """Two layers, one with a bias."""

    def __init__(self) -> None:
        super().__init__()
        self.up, self.down = nn.Linear(12, 20), nn.Linear(20, 8, bias=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y: torch.Tensor = self.down(torch.tanh(self.up(x)))
        return y


def adapted(**settings: Any) -> Any:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        net = Net().to(settings.pop("dtype", torch.float32))
        config = {"r": 4, "lora_alpha": 6, "target_modules": ["up", "down"], **settings}
        model = get_peft_model(net, LoraConfig(**config))  # type: ignore[arg-type]
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.data.normal_(0, 0.5)
    return model


def outcome(model: Any, x: torch.Tensor) -> tuple[torch.Tensor, dict[str, torch.Tensor], torch.Tensor]:
    x = x.clone().requires_grad_()
    y = model(x)
    (y.float() ** 2).sum().backward()
    gradients = {name: p.grad for name, p in model.named_parameters() if p.grad is not None}
    assert x.grad is not None
    return y.detach(), gradients, x.grad


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-5), (torch.bfloat16, 0.06)])
@pytest.mark.parametrize("rslora", [False, True])
def test_values_and_gradients_are_pefts(dtype: torch.dtype, tolerance: float, rslora: bool) -> None:
    x = torch.randn(3, 5, 12, generator=torch.Generator().manual_seed(1)).to(dtype)
    expected = outcome(adapted(dtype=dtype, use_rslora=rslora), x)
    model = adapted(dtype=dtype, use_rslora=rslora)
    assert fuse_adapters(model) == 2
    actual = outcome(model, x)
    assert actual[0].dtype == expected[0].dtype
    scale = expected[0].float().abs().max().item()
    torch.testing.assert_close(actual[0], expected[0], atol=tolerance * scale, rtol=tolerance)
    assert actual[1].keys() == expected[1].keys()
    assert len(actual[1]) == 4  # A and B of two layers, and no frozen weight
    for name, gradient in expected[1].items():
        assert actual[1][name].dtype == gradient.dtype
        size = gradient.abs().max().item()
        torch.testing.assert_close(actual[1][name], gradient, atol=tolerance * size, rtol=tolerance)
    size = expected[2].float().abs().max().item()
    torch.testing.assert_close(actual[2], expected[2], atol=tolerance * size, rtol=tolerance)


def test_gradients_with_dropout_are_those_of_finite_differences() -> None:
    model = adapted(lora_dropout=0.4, dtype=torch.float64)
    for parameter in model.parameters():
        parameter.data = parameter.data.double()
    fuse_adapters(model)
    x = torch.randn(6, 12, dtype=torch.float64, generator=torch.Generator().manual_seed(1))

    def loss(inputs: torch.Tensor) -> torch.Tensor:
        with torch.random.fork_rng():
            torch.manual_seed(3)  # the same mask each time
            y: torch.Tensor = (model(inputs) ** 2).sum()
            return y

    assert torch.autograd.gradcheck(loss, (x.requires_grad_(),), eps=1e-6, atol=1e-4)


def test_dropout_keeps_the_expected_share_and_the_expected_value() -> None:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        for share in (0.05, 0.5, 0.9):
            mask = _mask(torch.empty(1001, 999), share)
            assert mask.shape == (1001, 999)
            # Five standard errors of a million draws.
            assert abs(mask.float().mean().item() - (1 - share)) < 5 * (share * (1 - share) / 1e6) ** 0.5
            columns = mask.float().mean(0)  # no column, and so no one of the four draws of a number, differs
            assert (columns - (1 - share)).abs().max() < 6 * (share * (1 - share) / 1001) ** 0.5


def test_an_adapter_taken_off_or_merged_or_in_evaluation_is_as_pefts() -> None:
    x = torch.randn(4, 12, generator=torch.Generator().manual_seed(1))
    reference, model = adapted(lora_dropout=0.5).eval(), adapted(lora_dropout=0.5).eval()
    fuse_adapters(model)
    torch.testing.assert_close(model(x), reference(x))
    with model.disable_adapter(), reference.disable_adapter():
        assert torch.equal(model(x), reference(x))
    model.merge_adapter()
    torch.testing.assert_close(model(x), reference(x), atol=1e-5, rtol=1e-5)


def test_dora_is_left_to_peft() -> None:
    assert fuse_adapters(adapted(use_dora=True)) == 0
