"""One rendering of prompts for writing, scoring and training, whatever the tokenizer."""

import pytest
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from kiloset.core.errors import ModelError
from kiloset.core.models import Capabilities, chat_request, render_prompt, tokenize_example

CHATML = (
    "{% for m in messages %}<|im_start|>{{ m['role'] }} {{ m['content'] }}<|im_end|> {% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant {% endif %}"
)
SPECIAL = ["<|im_start|>", "<|im_end|>", "<|endoftext|>", "<bos>"]
TURN = [{"role": "user", "content": "say hi"}]


def _tokenizer(template, *, bos=False, eos="<|endoftext|>"):
    words = ["[UNK]", *SPECIAL, "user", "assistant", "say", "hi", "ho", "###", "Instruction:", "Response:"]
    core = Tokenizer(models.WordLevel({word: i for i, word in enumerate(words)}, unk_token="[UNK]"))
    core.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    if bos:
        from tokenizers.processors import TemplateProcessing

        core.post_processor = TemplateProcessing(single="<bos> $A", special_tokens=[("<bos>", words.index("<bos>"))])
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=core, eos_token=eos, additional_special_tokens=SPECIAL)
    tokenizer.chat_template = template
    return tokenizer


class Engine:
    def __init__(self, tokenizer):
        self.tokenizer = tokenizer
        self.capabilities = Capabilities(chat_template=bool(tokenizer.chat_template))

    def render(self, messages):
        return render_prompt(self.tokenizer, messages)


def test_a_response_ends_with_the_token_by_which_the_template_ends_a_turn():
    tokenizer = _tokenizer(CHATML)
    _, response = tokenize_example(tokenizer, TURN, "ho")
    assert tokenizer.convert_ids_to_tokens(response) == ["ho", "<|im_end|>"]


def test_without_a_token_of_its_own_a_turn_ends_with_end_of_text():
    plain = "{% for m in messages %}{{ m['role'] }} {{ m['content'] }} {% endfor %}{% if add_generation_prompt %}assistant {% endif %}"
    tokenizer = _tokenizer(plain)
    _, response = tokenize_example(tokenizer, TURN, "ho")
    assert tokenizer.convert_ids_to_tokens(response) == ["ho", "<|endoftext|>"]


def test_the_prompt_that_is_sent_is_the_prompt_that_is_trained_on_with_and_without_a_template():
    for tokenizer in (_tokenizer(CHATML, bos=True), _tokenizer(None, bos=True)):
        request = chat_request(Engine(tokenizer), "say hi", "response", max_tokens=9, temperature=0.5, top_p=0.9)
        sent = tokenizer.encode(request.prompt, add_special_tokens=request.raw)
        trained, _ = tokenize_example(tokenizer, TURN, "ho")
        assert sent == trained


def test_a_model_without_a_template_is_stopped_where_it_begins_another_turn():
    request = chat_request(Engine(_tokenizer(None)), "say hi", "plain", max_tokens=9, temperature=0.5, top_p=0.9)
    assert request.stop == ("\n### ",)
    assert request.prompt == "### Instruction:\nsay hi\n\n### Response:\n"


def test_braces_in_the_users_text_are_only_text():
    assert "{x} {}" in render_prompt(_tokenizer(None), [{"role": "user", "content": "{x} {}"}])


def test_a_template_that_changes_what_stands_before_the_response_is_refused():
    shifting = "{% if add_generation_prompt %}user say assistant {% else %}assistant ho{% endif %}"
    with pytest.raises(ModelError, match="the loss cannot be kept to the response"):
        tokenize_example(_tokenizer(shifting), TURN, "ho")


def test_a_tokenizer_without_an_end_token_is_refused():
    with pytest.raises(ModelError, match="no end-of-text token"):
        tokenize_example(_tokenizer(CHATML, eos=None), TURN, "ho")
