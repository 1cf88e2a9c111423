"""A merged model against its adapter, and what is refused."""

import json
from pathlib import Path

import pytest
import torch
from peft import PeftModel
from transformers import AutoModelForCausalLM, AutoTokenizer

from kiloset.core.errors import DataError, ModelError
from kiloset.core.loading import load_adapter, load_model
from kiloset.core.progress import Silent
from kiloset.train.adapter import merge_adapter
from kiloset.train.lora import train_run
from kiloset.train.loss import masked_rows
from kiloset.train.settings import TrainConfig
from tests.test_lora import TRAIN, VALIDATION, model_path, one_thread, run_of

__all__ = ["model_path", "one_thread"]
IDS = torch.tensor([[5, 9, 40, 41, 7, 100, 200, 3]])


def adapter_of(folder: Path, model_path: Path, **settings: object) -> Path:
    config = TrainConfig(rank=4, alpha=8, learning_rate=2e-2, epochs=3, batch_size=2, **settings)  # type: ignore[arg-type]
    run = run_of(folder, [*TRAIN, *VALIDATION])
    train_run(run, config, model_path, Silent())
    return run.adapter


@pytest.mark.parametrize("kind", ["lora", "dora", "rslora"])
def test_the_merged_model_is_the_adapter_on_the_base(model_path: Path, tmp_path: Path, kind: str) -> None:
    adapter = adapter_of(tmp_path / "run", model_path, **({} if kind == "lora" else {kind: True}))
    merge_adapter(model_path, adapter, tmp_path / "merged")
    base = AutoModelForCausalLM.from_pretrained(model_path)
    with torch.no_grad():
        plain = base(input_ids=IDS).logits
        merged = AutoModelForCausalLM.from_pretrained(tmp_path / "merged")(input_ids=IDS).logits
        tuned = PeftModel.from_pretrained(base, str(adapter)).eval()(input_ids=IDS).logits
    assert (merged - tuned).abs().max() < 1e-4
    assert (merged - plain).abs().max() > 0.1
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "merged")
    assert tokenizer.chat_template == AutoTokenizer.from_pretrained(model_path).chat_template
    assert not list((tmp_path / "merged").glob("*.bin"))


def test_a_merged_model_keeps_the_type_of_its_base(model_path: Path, tmp_path: Path) -> None:
    half = tmp_path / "half"
    AutoModelForCausalLM.from_pretrained(model_path).bfloat16().save_pretrained(half)
    AutoTokenizer.from_pretrained(model_path).save_pretrained(half)
    merge_adapter(half, adapter_of(tmp_path / "run", half), tmp_path / "merged")
    assert json.loads((tmp_path / "merged" / "config.json").read_text())["dtype"] == "bfloat16"
    assert AutoModelForCausalLM.from_pretrained(tmp_path / "merged", dtype="auto").dtype == torch.bfloat16


def test_transformers_itself_loads_the_adapter_and_takes_it_off(model_path: Path, tmp_path: Path) -> None:
    adapter = adapter_of(tmp_path / "run", model_path)
    tuned = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(model_path), str(adapter)).eval()
    model = load_model(model_path).eval()
    with torch.no_grad():
        plain = model(input_ids=IDS).logits
        load_adapter(model, adapter)
        torch.testing.assert_close(model(input_ids=IDS).logits, tuned(input_ids=IDS).logits)
        model.disable_adapters()
        assert torch.equal(model(input_ids=IDS).logits, plain)


def test_what_is_no_adapter_of_this_model_is_refused_in_one_line(model_path: Path, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"has no adapter_config.json"):
        merge_adapter(model_path, tmp_path, tmp_path / "merged")
    (tmp_path / "adapter_config.json").write_text("{}")
    with pytest.raises(DataError, match=r"has no adapter_model.safetensors"):
        load_adapter(load_model(model_path), tmp_path)
    adapter = adapter_of(tmp_path / "run", model_path)
    config = json.loads((adapter / "adapter_config.json").read_text())
    (adapter / "adapter_config.json").write_text(json.dumps({**config, "r": 7}))
    with pytest.raises(ModelError, match="not an adapter of") as raised:
        merge_adapter(model_path, adapter, tmp_path / "merged")
    assert "\n" not in str(raised.value)
    (adapter / "adapter_config.json").write_text("{")
    with pytest.raises(DataError, match=r"adapter_config.json: not JSON"):
        merge_adapter(model_path, adapter, tmp_path / "merged")
    assert not (tmp_path / "merged").exists()


def test_the_tokens_shown_are_all_that_the_model_sees_and_the_response_trains(model_path: Path, tmp_path: Path) -> None:
    run = run_of(tmp_path, [*TRAIN, *VALIDATION])
    rows = list(masked_rows(run, TrainConfig(), model_path, 2))
    assert [row.id for row in rows] == ["t0", "t1"]
    assert "".join(text for text, _ in rows[0].tokens) == (
        "<|im_start|>user\nWhat color is the sky?<|im_end|>\n<|im_start|>assistant\nIt is blue.<|im_end|>"
    )
    assert "".join(text for text, counts in rows[0].tokens if counts) == "It is blue.<|im_end|>"
    assert len(list(masked_rows(run, TrainConfig(), model_path, 99))) == 4
