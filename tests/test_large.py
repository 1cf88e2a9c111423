"""The embedded 1.5B writer model for real: its two conversions, and a run of four rows that its int8 form writes."""

import json
from contextlib import closing
from pathlib import Path

import pytest

import kiloset
from kiloset.core.calls import CallStore
from kiloset.engines.embedded import MODELS, PREFIX, _package_files, model_path
from tests.paths import ROOT

pytestmark = pytest.mark.large

WHOLE, INT8 = "embedded:qwen2.5-coder-1.5b-instruct", "embedded:qwen2.5-coder-1.5b-instruct-int8"
BASE = "embedded:smollm2-135m-instruct"
LAYER = "model.layers.3.mlp.down_proj.weight"


def _tensor(folder, name):
    from safetensors import safe_open

    index = json.loads((folder / "model.safetensors.index.json").read_text(encoding="utf-8"))["weight_map"]
    with safe_open(folder / index[name], "pt") as shard:
        return shard.get_tensor(name)


def test_the_int8_writer_fills_a_set_of_four_rows(tmp_path):
    if not _package_files(MODELS[INT8.removeprefix(PREFIX)]):
        pytest.skip("the packages of the 1.5B model are not installed")
    whole, int8 = (Path(model_path(name, "models.generator")) for name in (WHOLE, INT8))
    scales = _tensor(int8, f"{LAYER}_scale")
    difference = (_tensor(whole, LAYER).float() - _tensor(int8, LAYER).float() * scales).abs()
    # Half a step of int8, and the rounding of bfloat16: 2**-8 of the largest weight of the row.
    assert (difference <= scales * (0.5 + 127 / 256 + 1e-3)).all()

    run = kiloset.make_dataset(
        seeds=ROOT / "tests" / "seeds.jsonl", size=4, config=ROOT / "kiloset/configs/cpu.toml",
        settings={"categories.fill": True}, runs=tmp_path, name="large",
    )  # fmt: skip
    rows = run.curated
    assert rows.height == 4
    assert (rows["response"].str.strip_chars().str.len_chars() > 0).all()
    names = {name for stage in run.manifest["stages"].values() for name in stage["models"].values()}
    assert any(name.startswith(f"{INT8}@") for name in names)
    assert any(name.startswith(f"{BASE}@") for name in names)
    with closing(CallStore.read_only(run.folder.calls)) as store:
        assert set(store.account()) >= {"instruction", "response"}
        assert not {"input", "labelled_input"} & set(store.account())  # tasks came whole
        assert sum(store.cached_tokens().values()) > 0
