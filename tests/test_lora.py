"""The trainer against full logits, PEFT's own loader and itself."""

import hashlib
import json
import random
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import PeftModel
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedTokenizerFast,
)

from kiloset.core.config import parse, settings
from kiloset.core.errors import ConfigError, DataError, EmptyError, ModelError
from kiloset.core.logits import padded
from kiloset.core.progress import Silent
from kiloset.core.run import RunFolder
from kiloset.data.curated import read_curated
from kiloset.train.adapter import add_adapter, save_adapter
from kiloset.train.data import TokenizedRow, micro_batches, planned, split_datasets, tokenize_rows
from kiloset.train.fused import fuse_adapters
from kiloset.train.loop import accumulate_gradients, fit
from kiloset.train.lora import train_run
from kiloset.train.packed import use_packing
from kiloset.train.report import TrainReport
from kiloset.train.settings import TrainConfig

CHATML = (
    "{% for m in messages %}<|im_start|>{{ m['role'] }}\n{{ m['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
COLORS = {
    "sky": "It is blue.",
    "grass": "Green, as a rule, unless it is dry.",
    "snow": "White.",
    "coal": "It is black.",
}
SIZES: dict[str, Any] = {"vocab_size": 320, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2}
SIZES |= {"num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 256}
PLAIN = TrainConfig(rank=4, alpha=8, dropout=0.0, learning_rate=1e-2, epochs=2, batch_size=4, tokens_at_once=80)
DROPPING = TrainConfig(rank=4, alpha=8, dropout=0.2, learning_rate=1e-2, epochs=2, batch_size=4, tokens_at_once=80)


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> None:
    torch.set_num_threads(1)


@pytest.fixture(scope="module")
def model_path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with a random Llama and a byte-level tokenizer that knows ChatML."""
    folder = tmp_path_factory.mktemp("model")
    bpe = Tokenizer(models.BPE())
    bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    bpe.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=320,
        special_tokens=["<|im_start|>", "<|im_end|>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    bpe.train_from_iterator([*COLORS, *COLORS.values(), "user assistant What color is the"], trainer)
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=bpe, eos_token="<|im_end|>", chat_template=CHATML)
    tokenizer.save_pretrained(folder)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = LlamaForCausalLM(LlamaConfig(**SIZES, initializer_range=0.2))
        model.save_pretrained(folder)
    return folder


def row(id: str, thing: str, answer: str, split: str) -> dict[str, Any]:
    question = {"role": "user", "content": f"What color is the {thing}?"}
    return {"id": id, "messages": [question, {"role": "assistant", "content": answer}], "split": split, "category": "c"}


TRAIN = [row(f"t{i}", thing, answer, "train") for i, (thing, answer) in enumerate(COLORS.items())]
VALIDATION = [row(f"v{i}", thing, answer, "validation") for i, (thing, answer) in enumerate(COLORS.items())]


def run_of(folder: Path, rows: Sequence[dict[str, Any]]) -> RunFolder:
    run = RunFolder(folder)
    run.create()
    run.curated.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return run


def trained(folder: Path, rows: Sequence[dict[str, Any]], config: TrainConfig, path: Path) -> TrainReport:
    return train_run(run_of(folder, rows), config, path, Silent())


def loss_by_full_logits(model: Any, tokenizer: Any, rows: Sequence[dict[str, Any]]) -> float:
    """Return the mean loss in nats per response token, row by row, by transformers' own labels."""
    total, counted = 0.0, 0
    for changes in rows:
        question, answer = changes["messages"]
        prompt = f"<|im_start|>user\n{question['content']}<|im_end|>\n<|im_start|>assistant\n"
        start = len(tokenizer(prompt).input_ids)
        ids = torch.tensor([tokenizer(f"{prompt}{answer['content']}<|im_end|>").input_ids])
        labels = ids.clone()
        labels[:, :start] = -100
        with torch.no_grad():
            loss = model(input_ids=ids, labels=labels).loss.item()
        total, counted = total + loss * (ids.shape[1] - start), counted + ids.shape[1] - start
    return total / counted


def examples_of(model_path: Path, folder: Path) -> list[TokenizedRow]:
    tokenizer = AutoTokenizer.from_pretrained(model_path)
    return tokenize_rows(tokenizer, split_datasets(read_curated(run_of(folder, TRAIN).curated))["train"], 256)[0]


def metrics(run: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (run / "adapter" / "metrics.jsonl").read_text().splitlines()]


def test_the_loss_before_training_is_the_base_models_by_full_logits(model_path: Path, tmp_path: Path) -> None:
    report = trained(tmp_path, [*TRAIN, *VALIDATION], PLAIN, model_path)
    base = AutoModelForCausalLM.from_pretrained(model_path)
    expected = loss_by_full_logits(base, AutoTokenizer.from_pretrained(model_path), VALIDATION)
    assert report.validation_before == pytest.approx(expected, abs=1e-5)


def batch_of(examples: list[TokenizedRow]) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    return padded([(example.prompt, example.response) for example in examples], torch.device("cpu"))


def test_the_mask_covers_the_response_and_its_end_token_and_nothing_else(model_path: Path, tmp_path: Path) -> None:
    tokenizer = AutoTokenizer.from_pretrained(model_path)
    ids, _, is_response = batch_of(examples_of(model_path, tmp_path))
    counted = [tokenizer.decode(row[mask]) for row, mask in zip(ids, is_response, strict=True)]
    assert counted == [f"{answer}<|im_end|>" for answer in COLORS.values()]


@pytest.mark.parametrize("packed", [True, False])
@pytest.mark.parametrize("tokens", [1, 60, 1000])
def test_gradients_however_cut_are_those_of_full_logits_in_one_batch(
    model_path: Path, tmp_path: Path, tokens: int, packed: bool
) -> None:
    """1 token at once is a batch an example, 60 two uneven batches, 1000 a single one; PEFT's own layers are the reference."""
    examples = examples_of(model_path, tmp_path)
    model = add_adapter(AutoModelForCausalLM.from_pretrained(model_path), PLAIN)
    adapter = [p for p in model.parameters() if p.requires_grad]
    generator = torch.Generator().manual_seed(0)
    for parameter in adapter:  # B starts at zero, and A would have no gradient
        parameter.data.normal_(0, 0.1, generator=generator)
    ids, mask, is_response = batch_of(examples)
    labels = ids.where(is_response, torch.tensor(-100))
    whole = model(input_ids=ids, attention_mask=mask, labels=labels).loss
    expected = torch.autograd.grad(whole, adapter)

    assert not packed or use_packing(model.get_base_model())
    assert fuse_adapters(model) == 14
    loss = accumulate_gradients(model, examples, tokens, packed=packed)

    assert loss.item() == pytest.approx(whole.item(), abs=1e-5)
    for parameter, gradient in zip(adapter, expected, strict=True):
        torch.testing.assert_close(parameter.grad, gradient, atol=1e-5, rtol=1e-4)


def test_an_adapter_of_step_0_is_the_base_model(model_path: Path, tmp_path: Path) -> None:
    base = AutoModelForCausalLM.from_pretrained(model_path)
    ids = torch.tensor([examples_of(model_path, tmp_path)[0].prompt])
    with torch.no_grad():
        before = base(input_ids=ids).logits
        model = add_adapter(base, PLAIN)
        fuse_adapters(model)
        assert torch.equal(model.eval()(input_ids=ids).logits, before)


def test_what_the_mask_leaves_out_moves_no_weight(model_path: Path, tmp_path: Path) -> None:
    """Of two trainings, one sees another continuation behind the response; and no gradient reaches a prompt's own logits."""
    examples = examples_of(model_path, tmp_path)
    model = add_adapter(AutoModelForCausalLM.from_pretrained(model_path), PLAIN)
    ids, mask, is_response = batch_of(examples)
    logits = model(input_ids=ids, attention_mask=mask).logits
    logits.retain_grad()
    labels = ids.where(is_response, torch.tensor(-100))
    torch.nn.functional.cross_entropy(logits[:, :-1].flatten(0, 1), labels[:, 1:].flatten()).backward()
    gradient = logits.grad
    assert gradient is not None
    moves = gradient.abs().sum(-1) > 0
    assert torch.equal(moves[:, :-1], is_response[:, 1:])
    counted = sum(len(example.response) for example in examples)
    assert int(moves.sum()) == counted


def test_the_saved_adapter_gives_the_trained_models_logits(model_path: Path, tmp_path: Path) -> None:
    examples = examples_of(model_path, tmp_path)
    model = add_adapter(AutoModelForCausalLM.from_pretrained(model_path), PLAIN)
    fit(model, examples, examples, PLAIN, packed=False, folder=tmp_path, fingerprint="f", progress=Silent())
    save_adapter(model, tmp_path / "adapter")
    loaded = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(model_path), tmp_path / "adapter")
    ids = torch.tensor([examples[0].prompt])
    with torch.no_grad():
        mine, theirs = model.eval()(input_ids=ids).logits, loaded.eval()(input_ids=ids).logits
        with model.disable_adapter():
            base = model(input_ids=ids).logits
    assert torch.equal(mine, theirs)
    assert not torch.allclose(mine, base, atol=0.1)


def test_training_lowers_the_validation_loss_of_what_it_sees(model_path: Path, tmp_path: Path) -> None:
    config = TrainConfig(learning_rate=2e-2, epochs=20, patience=0, batch_size=2)
    report = trained(tmp_path, [*TRAIN, *VALIDATION], config, model_path)
    assert report.validation_before is not None
    assert report.validation_after is not None
    assert report.validation_after < 0.2 * report.validation_before


def test_the_adapter_of_the_best_epoch_is_the_one_saved(model_path: Path, tmp_path: Path) -> None:
    misled = [row(f"v{i}", thing, "It is black.", "validation") for i, thing in enumerate(COLORS)]
    config = TrainConfig(learning_rate=2e-2, epochs=20, patience=0, batch_size=2)
    report = trained(tmp_path, [*TRAIN, *misled], config, model_path)

    losses = [entry["validation_loss"] for entry in metrics(tmp_path) if "validation_loss" in entry]
    assert losses[-1] > min(losses), "the case is made so that later epochs are worse"
    assert report.best_epoch == losses.index(min(losses))
    base = AutoModelForCausalLM.from_pretrained(model_path)
    saved = loss_by_full_logits(
        PeftModel.from_pretrained(base, tmp_path / "adapter").eval(), AutoTokenizer.from_pretrained(model_path), misled
    )
    assert saved == pytest.approx(report.validation_after, abs=1e-5)
    assert saved == pytest.approx(min(losses), abs=1e-5)


def test_without_validation_rows_the_last_epoch_is_kept_and_the_report_states_it(
    model_path: Path, tmp_path: Path
) -> None:
    report = trained(tmp_path, TRAIN, PLAIN, model_path)
    assert (report.validation_before, report.validation_after, report.best_epoch) == (None, None, 2)
    assert report.chosen_by == "last epoch, there are no validation rows"


def test_equal_seeds_give_equal_adapters_whatever_the_global_state(model_path: Path, tmp_path: Path) -> None:
    def adapter_bytes(name: str, state: int, config: TrainConfig) -> bytes:
        torch.manual_seed(state)
        before = torch.get_rng_state()
        trained(tmp_path / name, [*TRAIN, *VALIDATION], config, model_path)
        assert torch.equal(torch.get_rng_state(), before)
        return (tmp_path / name / "adapter" / "adapter_model.safetensors").read_bytes()

    with torch.random.fork_rng():
        first, second = adapter_bytes("a", 1, DROPPING), adapter_bytes("b", 2, DROPPING)
        other = adapter_bytes("c", 1, TrainConfig(**{**asdict(DROPPING), "seed": 1}))
    assert first == second
    assert first != other


def test_gradient_checkpointing_changes_no_result(model_path: Path, tmp_path: Path) -> None:
    trained(tmp_path / "without", TRAIN, DROPPING, model_path)
    trained(tmp_path / "with", TRAIN, TrainConfig(**{**asdict(DROPPING), "gradient_checkpointing": True}), model_path)
    losses = [[e["loss"] for e in metrics(tmp_path / name) if "loss" in e] for name in ("without", "with")]
    assert losses[0] == pytest.approx(losses[1], abs=1e-6)


def test_rows_too_long_are_left_out_and_counted(model_path: Path, tmp_path: Path) -> None:
    long = [row("t9", "sky", "blue " * 200, "train"), row("v9", "sky", "blue " * 200, "validation")]
    config = TrainConfig(**{**asdict(PLAIN), "max_length": 100})
    report = trained(tmp_path, [*TRAIN, *long, *VALIDATION], config, model_path)
    assert (report.train_rows, report.train_rows_too_long) == (4, 1)
    assert (report.validation_rows, report.validation_rows_too_long) == (4, 1)


def test_a_row_of_exactly_the_longest_length_is_kept(model_path: Path, tmp_path: Path) -> None:
    tokenizer = AutoTokenizer.from_pretrained(model_path)
    rows = split_datasets(read_curated(run_of(tmp_path, TRAIN).curated))["train"]
    longest = max(example.tokens for example in examples_of(model_path, tmp_path))
    assert tokenize_rows(tokenizer, rows, longest)[1] == 0
    assert tokenize_rows(tokenizer, rows, longest - 1)[1] == 1


def test_training_on_nothing_is_refused(model_path: Path, tmp_path: Path) -> None:
    config = TrainConfig(**{**asdict(PLAIN), "max_length": 5})
    with pytest.raises(EmptyError, match=r"\[train\] max_length 5: all 4 training rows are longer"):
        trained(tmp_path, TRAIN, config, model_path)


def test_the_manifest_holds_the_settings_and_the_report(model_path: Path, tmp_path: Path) -> None:
    run = run_of(tmp_path, [*TRAIN, *VALIDATION])
    run.update_manifest({"stages": ["seeds"]})
    report = train_run(run, PLAIN, model_path, Silent())
    options = run.manifest["train"]
    assert run.manifest["stages"] == ["seeds"]
    assert options["config"] == {**asdict(PLAIN), "targets": ["all-linear"]}
    assert {name: options[name] for name in asdict(report)} == asdict(report)
    assert options["rows_sha256"] == hashlib.sha256(run.curated.read_bytes()).hexdigest()
    adapted = [(32, 32), (32, 16), (32, 16), (32, 32), (32, 48), (32, 48), (48, 32)]  # q k v o gate up down
    assert report.trainable_parameters == 2 * sum(4 * (wide + high) for wide, high in adapted)
    base = sum(p.numel() for p in AutoModelForCausalLM.from_pretrained(model_path).parameters())
    assert report.trainable_share == report.trainable_parameters / base


def test_steps_stop_at_max_steps_and_the_rate_follows_the_cosine(model_path: Path, tmp_path: Path) -> None:
    config = TrainConfig(**{**asdict(PLAIN), "batch_size": 2, "max_steps": 3, "warmup": 0.0})
    report = trained(tmp_path, [*TRAIN, *VALIDATION], config, model_path)
    entries = metrics(tmp_path)
    assert report.steps == 3
    assert [e["lr"] for e in entries if "lr" in e] == pytest.approx([1e-2, 0.75e-2, 0.25e-2])
    assert [(e["step"], e["epoch"]) for e in entries if "validation_loss" in e] == [(0, 0), (2, 1), (3, 2)]


def test_a_new_adapter_replaces_the_older_one_whole(model_path: Path, tmp_path: Path) -> None:
    (tmp_path / "adapter").mkdir()
    (tmp_path / "adapter" / "stale.bin").write_text("old")
    trained(tmp_path, TRAIN, PLAIN, model_path)
    files = sorted(path.name for path in (tmp_path / "adapter").iterdir())
    assert files == ["adapter_config.json", "adapter_model.safetensors", "metrics.jsonl"]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["adapter", "curated.jsonl", "manifest.json"]


def test_training_that_diverges_stops_and_leaves_the_older_adapter(model_path: Path, tmp_path: Path) -> None:
    (tmp_path / "adapter").mkdir()
    (tmp_path / "adapter" / "older.bin").write_text("old")
    config = TrainConfig(**{**asdict(PLAIN), "learning_rate": 1e30, "warmup": 0.0})
    with pytest.raises(ModelError, match=r"diverged: loss (nan|inf) in step 2; lower \[train\] learning_rate"):
        trained(tmp_path, TRAIN, config, model_path)  # seen in the next step
    with pytest.raises(ModelError, match=r"diverged: loss (nan|inf) in step 1; lower"):
        trained(tmp_path, [*TRAIN, *VALIDATION], config, model_path)  # seen in the validation after the step
    assert [path.name for path in (tmp_path / "adapter").iterdir()] == ["older.bin"]


def test_a_model_that_is_missing_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="nowhere: no such folder"):
        trained(tmp_path, TRAIN, PLAIN, tmp_path / "nowhere")


def test_weights_that_are_not_safetensors_are_refused(model_path: Path, tmp_path: Path) -> None:
    for path in model_path.iterdir():
        if path.suffix in {".json", ".jinja"}:
            (tmp_path / path.name).write_bytes(path.read_bytes())
    torch.save({}, tmp_path / "pytorch_model.bin")
    with pytest.raises(ModelError, match=r"cannot load the model: .*safetensors"):
        trained(tmp_path, TRAIN, PLAIN, tmp_path)


def test_rows_for_validation_alone_are_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError) as error:
        split_datasets(read_curated(run_of(tmp_path, VALIDATION).curated))
    assert error.value.code == "KS452"


def test_every_example_is_seen_once_an_epoch_in_another_order() -> None:
    examples = [TokenizedRow([i], [0] * (1 + i % 7)) for i in range(50)]
    steps = planned(examples, 8, 2, torch.Generator().manual_seed(0))
    assert [epoch for epoch, _ in steps] == [1] * 7 + [2] * 7
    assert [len(rows) for _, rows in steps] == [8, 8, 8, 8, 8, 8, 2] * 2
    orders = [[e.prompt[0] for number, rows in steps if number == epoch for e in rows] for epoch in (1, 2)]
    assert sorted(orders[0]) == sorted(orders[1]) == list(range(50))
    assert orders[0] != orders[1] != list(range(50))


@pytest.mark.parametrize("padded", [True, False])
def test_batches_hold_no_more_tokens_than_they_may_unless_one_example_does(padded: bool) -> None:
    rng = random.Random(0)
    examples = [TokenizedRow([i], [0] * rng.randint(1, 100)) for i in range(199)]
    batches = micro_batches(examples, 90, padded=padded)
    assert sorted(e.prompt[0] for batch in batches for e in batch) == list(range(199))
    sizes = [(max if padded else min)(e.tokens for e in batch) for batch in batches]
    counted = [
        size * len(batch) if padded else sum(e.tokens for e in batch)
        for size, batch in zip(sizes, batches, strict=True)
    ]
    assert all(tokens <= 90 or len(batch) == 1 for tokens, batch in zip(counted, batches, strict=True))
    assert len(batches[0]) == 1
    assert batches[0][0].tokens == max(e.tokens for e in examples)
    assert len(batches) < 199 * 0.75


@settings
class Tables:
    """A document with our table alone."""

    train: TrainConfig = TrainConfig()


@pytest.mark.parametrize(
    ("table", "message"),
    [
        ({"quantize": "2bit"}, r"^\[train\] quantize must be 'none', '8bit' or '4bit', got '2bit'$"),
        ({"max_steps": 0}, r"^\[train\] max_steps must be greater than or equal to 1, got 0$"),
        ({"dropout": 1.4}, r"^\[train\] dropout must be less than or equal to 1, got 1.4$"),
    ],
)
def test_impossible_settings_are_refused_in_one_line(table: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        parse(Tables, {"train": table})


def test_the_settings_load_without_the_heavy_libraries() -> None:
    code = "import sys, kiloset.train.lora, kiloset.train.settings; print({'torch', 'peft', 'transformers', 'datasets'} & set(sys.modules))"
    printed = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert printed.stdout == "set()\n"
