"""Packed rows against each example alone, for several families of models."""

from typing import Any

import pytest
import torch
from transformers import (
    Gemma2Config,
    Gemma2ForCausalLM,
    GPT2Config,
    GPT2LMHeadModel,
    LlamaConfig,
    LlamaForCausalLM,
    MambaConfig,
    MambaForCausalLM,
    MistralConfig,
    MistralForCausalLM,
    Qwen3Config,
    Qwen3ForCausalLM,
)

from kiloset.train.packed import NAME, packed_states, use_packing

SIZES: dict[str, Any] = {"vocab_size": 100, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2}
HEADS: dict[str, Any] = {"num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 128}
LENGTHS = [5, 1, 23, 9]


def built(build: Any, config: Any) -> Any:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return build(config).eval()


def states_alone(model: Any, examples: list[torch.Tensor]) -> torch.Tensor:
    with torch.no_grad():
        return torch.cat([model.get_decoder()(input_ids=one, use_cache=False).last_hidden_state[0] for one in examples])


def examples_of(vocabulary: int) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(1)
    return [torch.randint(vocabulary, (1, length), generator=generator) for length in LENGTHS]


@pytest.mark.parametrize(
    ("build", "config"),
    [
        (LlamaForCausalLM, LlamaConfig(**SIZES, **HEADS)),
        (Qwen3ForCausalLM, Qwen3Config(**SIZES, **HEADS, head_dim=8)),
        (MistralForCausalLM, MistralConfig(**SIZES, **HEADS, sliding_window=6)),
        (MistralForCausalLM, MistralConfig(**SIZES, **HEADS, sliding_window=None)),
    ],
    ids=["llama", "qwen3", "mistral with a window", "mistral without"],
)
def test_packed_examples_have_the_states_they_have_alone(build: Any, config: Any) -> None:
    model = built(build, config)
    examples = examples_of(100)
    alone = states_alone(model, examples)
    assert use_packing(model)
    with torch.no_grad():
        packed = packed_states(model, torch.cat(examples, 1), LENGTHS)
    torch.testing.assert_close(packed, alone, atol=1e-5, rtol=1e-5)


def test_no_example_reaches_another_not_even_by_its_gradient() -> None:
    model = built(LlamaForCausalLM, LlamaConfig(**SIZES, **HEADS))
    assert use_packing(model)
    ids = torch.cat(examples_of(100), 1)
    embedded = model.get_input_embeddings()(ids).detach().requires_grad_()
    model.get_input_embeddings().register_forward_hook(lambda *_: embedded)
    packed_states(model, ids, LENGTHS)[6:29].sum().backward()  # the third example
    gradient = embedded.grad
    assert gradient is not None
    moved = gradient[0].abs().sum(-1) > 0
    assert moved.tolist() == [False] * 6 + [True] * 23 + [False] * 9


@pytest.mark.parametrize(
    ("build", "config"),
    [
        (MambaForCausalLM, MambaConfig(vocab_size=100, hidden_size=32, num_hidden_layers=2, state_size=4)),
        (Gemma2ForCausalLM, Gemma2Config(**SIZES, **HEADS, head_dim=8, attn_logit_softcapping=50.0)),
    ],
    ids=["a recurrent state", "capped scores"],
)
def test_a_model_that_cannot_be_packed_is_reported_and_not_changed(build: Any, config: Any) -> None:
    model = built(build, config)
    examples = examples_of(100)
    before, implementation = states_alone(model, examples), model.config._attn_implementation
    assert not use_packing(model)
    assert model.config._attn_implementation == implementation != NAME
    assert torch.equal(states_alone(model, examples), before)


def test_learned_positions_start_at_zero_in_each_example() -> None:
    model = built(GPT2LMHeadModel, GPT2Config(vocab_size=100, n_embd=32, n_layer=2, n_head=4, n_positions=128))
    examples = examples_of(100)
    alone = states_alone(model, examples)
    assert use_packing(model)
    with torch.no_grad():
        packed = packed_states(model, torch.cat(examples, 1), LENGTHS)
    torch.testing.assert_close(packed, alone, atol=1e-5, rtol=1e-5)
