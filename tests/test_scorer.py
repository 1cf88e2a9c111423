"""The scorer against transformers' own loss, with a tiny random model and templates of three kinds."""

import math
from collections.abc import Sequence
from pathlib import Path

import pytest
import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from kiloset.core.models import Message, tokenize_example
from kiloset.engines.scorer import TransformersScorer

TEMPLATES = {
    "chat": "{% for m in messages %}<|im_start|>{{ m['role'] }}\n{{ m['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}",
    "chat with a system turn of its own": "{% if messages[0]['role'] != 'system' %}<|im_start|>system\nHelp.<|im_end|>\n"
    "{% endif %}{% for m in messages %}<|im_start|>{{ m['role'] }}\n{{ m['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}",
    "plain": "",
}
ROWS = [
    ("What is 2 + 2?", "4"),
    ("Name a colour.", "Blue is one, for instance on a wall."),
    ("Hi", ""),
    ("Sum", "a " * 30),
]
PROMPTS: list[Sequence[Message]] = [[{"role": "user", "content": instruction}] for instruction, _ in ROWS]
RESPONSES = [response for _, response in ROWS]


@pytest.fixture(scope="module", params=TEMPLATES)
def folder(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with a random Llama and a tokenizer of bytes."""
    torch.set_num_threads(1)
    target = tmp_path_factory.mktemp("model")
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    bpe = Tokenizer(models.BPE(vocab={sign: number for number, sign in enumerate(alphabet)}, merges=[]))
    bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    bpe.decoder = decoders.ByteLevel()
    bpe.add_special_tokens(["<|im_start|>", "<|im_end|>"])
    template = TEMPLATES[request.param] or None
    PreTrainedTokenizerFast(tokenizer_object=bpe, eos_token="<|im_end|>", chat_template=template).save_pretrained(
        target
    )
    with torch.random.fork_rng():
        torch.manual_seed(0)
        config = LlamaConfig(
            vocab_size=258, hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=4,
            num_key_value_heads=2, max_position_embeddings=512, initializer_range=0.2,
        )  # fmt: skip
        LlamaForCausalLM(config).save_pretrained(target)
    return target


def loss(folder: Path, prompt: str, response: str) -> float:
    """Return transformers' own mean loss, in nats per token, of a response and its end token after a prompt's text."""
    tokenizer, model = AutoTokenizer.from_pretrained(folder), AutoModelForCausalLM.from_pretrained(folder).eval()
    loaded = tokenizer.encode(prompt, add_special_tokens=False)
    answer = [*tokenizer.encode(response, add_special_tokens=False), tokenizer.eos_token_id]
    with torch.inference_mode():
        return float(model(torch.tensor([loaded + answer]), labels=torch.tensor([[-100] * len(loaded) + answer])).loss)


def rendered(folder: Path, instruction: str) -> str:
    """Return the prompt, written by hand."""
    template = AutoTokenizer.from_pretrained(folder).chat_template
    if template is None:
        return f"### Instruction:\n{instruction}\n\n### Response:\n"
    system = "<|im_start|>system\nHelp.<|im_end|>\n" if "Help." in template else ""
    return f"{system}<|im_start|>user\n{instruction}<|im_end|>\n<|im_start|>assistant\n"


def scored(
    scorer: TransformersScorer, prompts: Sequence[Sequence[Message]], responses: Sequence[str]
) -> list[tuple[float, int]]:
    """Return `(nats, tokens)` in the order asked."""
    result = sorted(scorer.logprobs(prompts, responses))
    assert [at for at, _, _ in result] == list(range(len(responses)))
    return [(nats, tokens) for _, nats, tokens in result]


def test_scores_are_those_of_transformers(folder: Path) -> None:
    result = scored(TransformersScorer(str(folder), "x", 512), PROMPTS, RESPONSES)
    for (instruction, response), (nats, tokens) in zip(ROWS, result, strict=True):
        assert tokens == len(response.encode()) + 1
        assert -nats / tokens == pytest.approx(loss(folder, rendered(folder, instruction), response), abs=1e-5)


def test_a_score_is_the_same_to_the_last_digit_in_any_company(folder: Path) -> None:
    scorer = TransformersScorer(str(folder), "x", 512)
    # Batches of several lengths, one of them of several rows, and not full.
    prompts, responses = [*PROMPTS, *PROMPTS[:3]], [*RESPONSES, "5", "Reds are, for instance on a wall.", "a"]
    together = scored(scorer, prompts, responses)
    assert scored(scorer, prompts[::-1], responses[::-1])[::-1] == together
    assert [scored(scorer, [p], [r])[0] for p, r in zip(prompts, responses, strict=True)] == together


def test_a_row_longer_than_the_limit_has_no_score(folder: Path) -> None:
    tokenizer = AutoTokenizer.from_pretrained(folder)
    lengths = [sum(map(len, tokenize_example(tokenizer, p, r))) for p, r in zip(PROMPTS, RESPONSES, strict=True)]
    limit = sorted(lengths)[2]
    result = scored(TransformersScorer(str(folder), "x", limit), PROMPTS, RESPONSES)
    assert [math.isnan(nats) for nats, _ in result] == [length > limit for length in lengths]
    assert [tokens for _, tokens in result] == [len(response.encode()) + 1 for response in RESPONSES]


def adapter_of(folder: Path, target: Path) -> Path:
    """Save an adapter that changes the model a good deal."""
    from peft import LoraConfig, get_peft_model

    with torch.random.fork_rng():
        torch.manual_seed(3)
        base = AutoModelForCausalLM.from_pretrained(folder)
        model = get_peft_model(base, LoraConfig(r=4, lora_alpha=8, target_modules="all-linear"))
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.data.normal_(0, 0.3)
        model.save_pretrained(target)
    return target


def test_the_divergence_of_an_adapter_is_that_of_full_logits_over_the_whole_vocabulary(
    folder: Path, tmp_path: Path
) -> None:
    adapter = adapter_of(folder, tmp_path)
    scorer = TransformersScorer(str(folder), "m", 512, adapter)
    result = {at: (nats, tokens) for at, nats, tokens in scorer.divergence(PROMPTS, RESPONSES)}
    base, tuned = (AutoModelForCausalLM.from_pretrained(folder) for _ in range(2))
    tuned.load_adapter(str(adapter))
    tokenizer = AutoTokenizer.from_pretrained(folder)
    for at, (messages, response) in enumerate(zip(PROMPTS, RESPONSES, strict=True)):
        prompt, answer = tokenize_example(tokenizer, messages, response)
        ids = torch.tensor([prompt + answer])
        with torch.no_grad():
            p, q = (
                model.eval()(input_ids=ids).logits[0, len(prompt) - 1 : -1].log_softmax(-1) for model in (base, tuned)
            )
        expected = torch.nn.functional.kl_div(q, p, log_target=True, reduction="sum").item()
        assert result[at][1] == len(answer)
        assert result[at][0] == pytest.approx(expected, rel=1e-4)
        assert result[at][0] > 0.01
    # The adapter is on again afterwards.
    again = {at: nats for at, nats, _ in scorer.divergence(PROMPTS, RESPONSES)}
    assert again == {at: nats for at, (nats, _) in result.items()}


def test_an_adapter_scores_as_transformers_does_with_it(folder: Path, tmp_path: Path) -> None:
    adapter = adapter_of(folder, tmp_path)
    tuned = {
        at: nats for at, nats, _ in TransformersScorer(str(folder), "m", 512, adapter).logprobs(PROMPTS, RESPONSES)
    }
    plain = {at: nats for at, nats, _ in TransformersScorer(str(folder), "m", 512).logprobs(PROMPTS, RESPONSES)}
    model = AutoModelForCausalLM.from_pretrained(folder)
    model.load_adapter(str(adapter))
    prompt, answer = tokenize_example(AutoTokenizer.from_pretrained(folder), PROMPTS[1], RESPONSES[1])
    ids = torch.tensor([prompt + answer])
    labels = torch.tensor([[-100] * len(prompt) + answer])
    with torch.no_grad():
        loss = model.eval()(input_ids=ids, labels=labels).loss.item()
    assert tuned[1] == pytest.approx(-loss * len(answer), rel=1e-4)
    assert abs(tuned[1] - plain[1]) > 0.1
    with pytest.raises(ValueError, match="needs an adapter"):
        list(TransformersScorer(str(folder), "m", 512).divergence(PROMPTS, RESPONSES))


def test_a_plain_text_is_scored_from_its_second_token_on_and_without_an_end(folder: Path) -> None:
    texts = ["It rains in the mountains.", "Yes.", "a b " * 20]
    result = {at: (nats, tokens) for at, nats, tokens in TransformersScorer(str(folder), "m", 512).text_logprobs(texts)}
    model, tokenizer = AutoModelForCausalLM.from_pretrained(folder).eval(), AutoTokenizer.from_pretrained(folder)
    for at, text in enumerate(texts):
        ids = torch.tensor([tokenizer(text).input_ids])
        with torch.no_grad():
            loss = model(input_ids=ids, labels=ids).loss.item()  # transformers shifts by one
        assert result[at][1] == ids.shape[1] - 1
        assert result[at][0] == pytest.approx(-loss * (ids.shape[1] - 1), rel=1e-4)
