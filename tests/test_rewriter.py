"""Who writes the rewrites: the base model, an instruct sibling of it, or the generator."""

from pathlib import Path
from typing import Any

import pytest
from tokenizers import Tokenizer, models
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from kiloset.core.config import parse
from kiloset.core.errors import ModelError
from kiloset.core.progress import Silent
from kiloset.engines.vllm import VllmEngine
from kiloset.models import RunModels, check_models
from kiloset.settings import RunConfig

CHAT = "{% for m in messages %}{{ m['role'] }}: {{ m['content'] }}\n{% endfor %}{% if add_generation_prompt %}assistant: {% endif %}"


def model(folder: Path, template: str | None) -> str:
    words = Tokenizer(models.WordLevel({"<end>": 0, "a": 1}, unk_token="<end>"))
    PreTrainedTokenizerFast(tokenizer_object=words, eos_token="<end>", chat_template=template).save_pretrained(folder)
    sizes = {"vocab_size": 2, "hidden_size": 8, "intermediate_size": 8, "num_hidden_layers": 1}
    LlamaForCausalLM(LlamaConfig(**sizes, num_attention_heads=2)).save_pretrained(folder)
    return str(folder)


@pytest.fixture(scope="module")
def names(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    root = tmp_path_factory.mktemp("models")
    return {name: model(root / name, CHAT if name != "raw" else None) for name in ("chat", "sibling", "raw")}


def writer(names: dict[str, str], tmp_path: Path, **roles: str) -> str:
    """Return the name of the model that rewrites; the scorer always is the base model."""
    tables: dict[str, Any] = {role: {"name": names[name]} for role, name in roles.items()}
    config = parse(RunConfig, {"models": tables})
    check_models(config)
    models = RunModels(config, 1, tmp_path / "engine.log", Silent())
    assert models.scorer.identity.startswith(f"{names[roles.get('base', roles['generator'])]}@")
    models.close()
    return Path(models.rewriter.identity.partition("@")[0]).name


@pytest.mark.parametrize(
    ("roles", "name"),
    [
        ({"generator": "chat"}, "chat"),
        ({"generator": "sibling", "base": "chat"}, "chat"),
        ({"generator": "chat", "base": "raw"}, "chat"),
        ({"generator": "chat", "base": "raw", "rewriter": "sibling"}, "sibling"),
        ({"generator": "chat", "base": "raw", "rewriter": "raw"}, "raw"),
        ({"generator": "chat", "rewriter": "sibling"}, "sibling"),
        ({"generator": "raw"}, "raw"),
    ],
)
def test_a_base_model_without_a_chat_template_scores_and_a_sibling_writes(
    names: dict[str, str], tmp_path: Path, caplog: pytest.LogCaptureFixture, roles: dict[str, str], name: str
) -> None:
    caplog.set_level("INFO", "kiloset")
    assert writer(names, tmp_path, **roles) == name
    is_logged = "raw" in (roles.get("base", ""), roles["generator"]) and "rewriter" not in roles
    assert any("has no chat template" in text for text in caplog.messages) == is_logged
    assert any("[models.rewriter]" in text for text in caplog.messages) == (roles == {"generator": "raw"})


def test_one_engine_serves_the_generator_and_the_rewriter_of_one_name(names: dict[str, str], tmp_path: Path) -> None:
    tables = {"generator": {"name": names["chat"]}, "base": {"name": names["raw"]}, "rewriter": {"name": names["chat"]}}
    models = RunModels(parse(RunConfig, {"models": tables}), 1, tmp_path / "engine.log", Silent())
    assert models.rewriter is models.generator


def test_a_rewriter_that_cannot_be_meant_is_refused_before_anything_loads() -> None:
    with pytest.raises(ModelError, match=r"^\[models.rewriter\] name must be a local folder, a hub id"):
        check_models(parse(RunConfig, {"models": {"rewriter": {"name": "justaname"}}}))


def test_on_a_cpu_an_engine_ends_when_another_works_but_not_for_the_scorer(
    names: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ended: list[str] = []
    monkeypatch.setattr(VllmEngine, "submit", lambda engine, requests: None)
    monkeypatch.setattr(VllmEngine, "close", lambda engine: ended.append(Path(engine.identity.partition("@")[0]).name))
    tables = {"generator": {"name": names["sibling"]}, "base": {"name": names["chat"]}}
    models = RunModels(parse(RunConfig, {"models": tables}), 1, tmp_path / "engine.log", Silent())
    models.generator.submit([])
    models.rewriter.submit([])
    assert ended[-1] == "sibling"
    ended.clear()
    assert list(models.scorer.logprobs([], [])) == []
    assert ended == []
