"""The arithmetic of a training against what torch counts."""

from typing import Any

import torch
from torch.utils.flop_counter import FlopCounterMode
from transformers import LlamaConfig, LlamaForCausalLM

from kiloset.train.adapter import add_adapter
from kiloset.train.data import TokenizedRow
from kiloset.train.report import PEAKS, peak_flops, training_flops
from kiloset.train.settings import TrainConfig

SIZES: dict[str, Any] = {"vocab_size": 1000, "hidden_size": 64, "intermediate_size": 160, "num_hidden_layers": 3}
HEADS: dict[str, Any] = {"num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 256}


def test_flops_equal_the_count_of_torch_except_for_the_causal_half_and_the_first_layers_input() -> None:
    config = LlamaConfig(**SIZES, **HEADS, attn_implementation="eager")  # whose products torch counts on a CPU
    model = add_adapter(LlamaForCausalLM(config), TrainConfig(rank=8, dropout=0.0))
    tokens, width, layers = 50, 64, 3
    examples = [TokenizedRow([], list(range(tokens)))]
    with FlopCounterMode(display=False) as counter:
        model(input_ids=torch.tensor([examples[0].response])).logits.sum().backward()
    # Two products, each done once forward and twice backward, at 2 FLOPs, for the pairs in which the key comes later.
    later = 3 * 2 * 2 * tokens**2 / 2 * width * layers
    # No gradient flows into the embedded tokens, through the weights of q, k and v or through their adapters.
    into_tokens = 2 * tokens * width * (64 + 32 + 32) + 2 * tokens * width * 8 * 3
    assert training_flops(model, examples) + later - into_tokens == counter.get_total_flops()


def test_a_gpu_is_known_by_the_longer_of_two_names() -> None:
    assert peak_flops("NVIDIA H100 PCIe") == PEAKS["H100 PCIe"] < PEAKS["H100"]
    assert peak_flops("NVIDIA H100 80GB HBM3") == 989e12
    assert peak_flops("NVIDIA L40S") == PEAKS["L40S"] > PEAKS["L4"]
    assert peak_flops("NVIDIA A10G") == PEAKS["A10G"]
    assert peak_flops("Some other GPU") is None
