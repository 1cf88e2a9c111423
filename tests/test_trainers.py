"""An export in another trainer: TRL loads it as docs/export.md shows, and trains on the answers alone."""

import math
from pathlib import Path

import pytest

from kiloset.core.loading import load_model, load_tokenizer
from kiloset.core.models import tokenize_example
from kiloset.engines.embedded import model_path
from tests.test_export import curated_of, exported, run_of, write_lines

pytestmark = pytest.mark.models

ROWS = [
    {"id": "g00000", "instruction": "Name the capital of Norway.", "response": "Oslo."},
    {"id": "g00001", "instruction": "Sort these words.", "input": "pear, apple", "response": "1. apple\n2. pear"},
    {"id": "g00002", "instruction": "Say hello in German.", "response": "Guten Tag! \u00dcbrigens: \U0001f642"},
]


@pytest.fixture(scope="module")
def base():
    return Path(model_path("embedded:smollm2-135m-instruct", "models.base"))


@pytest.fixture
def folder(tmp_path):
    return run_of(tmp_path / "runs" / "mine", ROWS)


def loaded(folder, layout):
    from datasets import load_dataset, load_from_disk

    place, cache = exported(folder, layout, 0).folder, str(folder.path / "cache")
    if layout == "hf":
        return load_from_disk(str(place))["train"]
    kind, ending = ("json", "jsonl") if layout == "messages" else ("parquet", "parquet")
    return load_dataset(kind, data_files=str(place / f"train.{ending}"), split="train", cache_dir=cache)


def with_prompt_and_completion(rows):
    return rows.map(
        lambda row: {"prompt": row["messages"][:-1], "completion": row["messages"][-1:]}, remove_columns="messages"
    )


def trainer_of(base, rows, tmp_path, tokenizer=None, **settings):
    from trl import SFTConfig, SFTTrainer

    return SFTTrainer(
        model=load_model(base),
        processing_class=tokenizer or load_tokenizer(base),
        train_dataset=rows,
        args=SFTConfig(
            str(tmp_path / "trl"), max_steps=1, per_device_train_batch_size=3, bf16=False, use_cpu=True,
            report_to="none", save_strategy="no", disable_tqdm=True, **settings,
        ),
    )  # fmt: skip


def ours(tokenizer, messages):
    """What our own trainer is shown of a conversation: ids, and for each whether the loss counts."""
    prompt, response = tokenize_example(tokenizer, messages[:-1], messages[-1]["content"])
    # TRL also trains the line break that the template puts after the end token.
    (line_break,) = tokenizer.encode("\n", add_special_tokens=False)
    return [*prompt, *response, line_break], [-100] * len(prompt) + [*response, line_break]


@pytest.mark.parametrize("layout", ["messages", "parquet", "hf"])
def test_trl_takes_a_step_on_an_export_and_the_loss_counts_on_the_answers_alone(base, folder, tmp_path, layout):
    trainer = trainer_of(base, with_prompt_and_completion(loaded(folder, layout)), tmp_path)
    tokenizer = load_tokenizer(base)
    seen = {row["id"]: (row["input_ids"], row["labels"]) for row in trainer.train_dataset}
    assert seen == {line["id"]: ours(tokenizer, line["messages"]) for line in curated_of(folder)}

    before = trainer.model.get_input_embeddings().weight.detach().clone()
    result = trainer.train()
    assert result.global_step == 1
    assert math.isfinite(result.training_loss)
    assert (trainer.model.get_input_embeddings().weight != before).any()


def test_without_that_line_trl_trains_on_the_instructions_too(base, folder, tmp_path):
    for row in trainer_of(base, loaded(folder, "messages"), tmp_path).train_dataset:
        assert row["labels"] == row["input_ids"]


def test_with_a_template_that_marks_the_answers_assistant_only_loss_finds_all_of_several(base, folder, tmp_path):
    lines = curated_of(folder)
    turns = [("user", "Hi."), ("assistant", "Hello."), ("user", "And?"), ("assistant", "So.")]
    lines[0]["messages"] = [{"role": role, "content": text} for role, text in turns]
    write_lines(folder, lines)
    tokenizer = load_tokenizer(base)
    with pytest.raises(ValueError, match="not training-compatible"):  # SmolLM2's own template marks nothing
        trainer_of(base, loaded(folder, "hf"), tmp_path, assistant_only_loss=True)
    plain = "message['content'] + '<|im_end|>'"
    assert plain in tokenizer.chat_template
    tokenizer.chat_template = (
        "{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\\n' }}{% if message['role'] == 'assistant' %}"
        "{% generation %}{{ message['content'] + '<|im_end|>' }}{% endgeneration %}{% else %}"
        "{{ message['content'] + '<|im_end|>' }}{% endif %}{{ '\\n' }}{% endfor %}"
        "{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"
    )
    trainer = trainer_of(base, loaded(folder, "hf"), tmp_path, tokenizer, assistant_only_loss=True)
    for line, row in zip(lines, trainer.train_dataset, strict=True):
        trained = tokenizer.decode([label for label in row["labels"] if label != -100])
        answers = [turn["content"] for turn in line["messages"] if turn["role"] == "assistant"]
        assert (row["id"], trained) == (line["id"], "".join(f"{answer}<|im_end|>" for answer in answers))
