import pytest
import torch
from transformers import (
    CohereConfig,
    CohereForCausalLM,
    Gemma2Config,
    Gemma2ForCausalLM,
    GraniteConfig,
    GraniteForCausalLM,
    LlamaConfig,
    LlamaForCausalLM,
)

from kiloset.core.errors import ModelError
from kiloset.core.logits import check_logits, logits_at

SIZES = {
    "vocab_size": 90, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4,
    "num_key_value_heads": 2, "max_position_embeddings": 64, "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2,
}  # fmt: skip
FAMILIES = {
    "llama": lambda: LlamaForCausalLM(LlamaConfig(**SIZES)),
    "granite divides": lambda: GraniteForCausalLM(GraniteConfig(**SIZES, logits_scaling=8.0)),
    "cohere multiplies": lambda: CohereForCausalLM(CohereConfig(**SIZES, logit_scale=0.0625)),
    "gemma bends": lambda: Gemma2ForCausalLM(Gemma2Config(**SIZES, head_dim=8, final_logit_softcapping=0.5)),
}


@pytest.fixture(scope="module", autouse=True)
def one_thread():
    torch.set_num_threads(1)


@pytest.fixture(scope="module")
def batch():
    ids = torch.randint(3, 90, (3, 12), generator=torch.Generator().manual_seed(0))
    mask = torch.ones_like(ids)
    mask[1, 8:] = 0
    targets = torch.zeros(3, 12, dtype=torch.bool)
    targets[0, 5:12], targets[1, 3:8], targets[2, 11:] = True, True, True
    return ids, mask, targets


@pytest.mark.parametrize("family", FAMILIES)
def test_logits_at_some_positions_equal_the_models_own(family, batch):
    torch.manual_seed(0)
    model = FAMILIES[family]().eval()
    ids, mask, targets = batch
    with torch.no_grad():
        whole = model(input_ids=ids, attention_mask=mask).logits
        ours = logits_at(model, ids, mask, targets)
    rows, columns = targets.nonzero(as_tuple=True)
    assert torch.allclose(ours, whole[rows, columns - 1], atol=1e-5)
    check_logits(model, ids, mask, targets)


def test_a_model_that_does_something_unknown_to_its_logits_is_refused(batch):
    model = LlamaForCausalLM(LlamaConfig(**SIZES)).eval()
    head = model.forward
    model.forward = lambda **inputs: type(out := head(**inputs))(logits=out.logits * 3)
    with pytest.raises(ModelError, match="llama models change their logits"):
        check_logits(model, *batch)
