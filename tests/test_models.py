"""The real chain on the embedded models: slow, so few tests, each of which sees much."""

import json
import os
import signal
import sqlite3
import subprocess
import sys
import time
from contextlib import closing
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest

from kiloset.core.models import Request, chat_request
from kiloset.core.run import RunFolder
from kiloset.engines.embedded import MODELS, _package_files, model_path
from kiloset.engines.embedder import SentenceEmbedder
from kiloset.engines.scorer import TransformersScorer
from kiloset.engines.settings import EngineConfig
from kiloset.engines.vllm import VllmEngine, cpu_environment
from tests.paths import ROOT

pytestmark = pytest.mark.models

SMOKE = ROOT / "kiloset" / "configs" / "smoke.toml"


@pytest.fixture(scope="session")
def language_model():
    return model_path("embedded:smollm2-135m-instruct", "models.base")


def _command(*arguments):
    return [sys.executable, "-m", "kiloset", *map(str, arguments)]


def _kiloset(*arguments):
    return subprocess.run(_command(*arguments), cwd=ROOT, capture_output=True, text=True)


def _engines(log):
    """The engine processes that write to a log; other runs on this machine are none of ours."""
    result = []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            line = (folder / "cmdline").read_bytes().split(b"\0")
            state = (folder / "stat").read_text().rpartition(")")[2].split()[0]
            theirs = os.readlink(folder / "fd" / "2")
        except (FileNotFoundError, ProcessLookupError, PermissionError):
            continue
        if b"kiloset.engines.vllm" in line and state != "Z" and theirs == str(log):
            result.append(int(folder.name))
    return result


def _wait_for(condition, what, seconds=240):
    until = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < until, f"waited {seconds} s for {what}"
        time.sleep(0.2)


def _calls(run):
    if not (run / "calls.sqlite").exists():
        return 0
    with sqlite3.connect(run / "calls.sqlite") as store:
        try:
            return store.execute("SELECT COUNT(*) FROM calls").fetchone()[0]
        except sqlite3.OperationalError:
            return 0


def _is_at_work(run, number, process):
    return (_calls(run) >= number and bool(_engines(run / "engine.log"))) or process.poll() is not None


@pytest.fixture(scope="session")
def run(tmp_path_factory):
    """A run that was killed twice, and then finished."""
    runs = tmp_path_factory.mktemp("runs")
    here = runs / "smoke"
    dataset = ("dataset", "--config", SMOKE, "--runs", runs, "--run", "smoke")
    log_file = here / "engine.log"
    # Once while the engine starts, once while it works, once by a polite signal.
    for number, end in ((0, signal.SIGKILL), (5, signal.SIGKILL), (30, signal.SIGTERM)):
        with (runs / "log.txt").open("a") as log:
            started = subprocess.Popen(_command(*dataset), cwd=ROOT, stdout=log, stderr=log)
        _wait_for(partial(_is_at_work, here, number, started), f"{number} completions")
        assert started.poll() is None, (runs / "log.txt").read_text()[-2000:]
        assert len(_engines(log_file)) == 1
        started.send_signal(end)
        assert started.wait(timeout=30) == (-9 if end == signal.SIGKILL else 143)
        _wait_for(lambda: not _engines(log_file), "the engine to end with its parent", seconds=30)
    before = _calls(here)
    ran = _kiloset(*dataset)
    assert ran.returncode == 0, ran.stderr[-3000:]
    assert before >= 30
    return here, ran


def test_a_run_killed_twice_gives_the_whole_set_and_pays_nothing_twice(run):
    here, ran = run
    rows = [json.loads(line) for line in (here / "curated.jsonl").read_text(encoding="utf-8").splitlines()]
    assert len(rows) == 8
    assert len({row["messages"][0]["content"] for row in rows}) == 8
    assert "8 of 8 rows" in ran.stdout
    with sqlite3.connect(here / "calls.sqlite") as store:
        twice = "SELECT COUNT(*) FROM sends JOIN calls USING (key) WHERE sends.sent > calls.finished"
        assert store.execute(twice).fetchone()[0] == 0
        assert store.execute("SELECT COUNT(*) FROM calls WHERE text <> ''").fetchone()[0] > 30
    assert _engines(here / "engine.log") == []


@pytest.mark.timeout(60, func_only=True)  # 5 s on an idle machine
def test_a_finished_run_starts_no_engine_and_sends_nothing(run):
    here, _ = run
    before, calls = (here / "curated.jsonl").read_bytes(), _calls(here)
    ran = _kiloset("dataset", "--config", SMOKE, "--runs", here.parent, "--run", "smoke")
    assert ran.returncode == 0
    assert "starting" not in ran.stderr
    assert (_calls(here), (here / "curated.jsonl").read_bytes()) == (calls, before)


def test_the_audit_of_a_real_run_adds_up(run):
    here, _ = run
    ran = _kiloset("audit", "--runs", here.parent)
    assert ran.returncode == 0, ran.stderr
    assert "The counts are consistent" in ran.stdout
    assert "NOT CONSISTENT" not in ran.stdout


@pytest.fixture(scope="session")
def adapter(run):
    here, _ = run
    # A learning rate high enough that a few steps show.
    fast = ("--set", "train.max_steps=4", "--set", "train.learning_rate=0.005", "--set", "train.batch_size=2")
    ran = _kiloset("train", "--runs", here.parent, *fast)
    assert ran.returncode == 0, ran.stderr[-3000:]
    assert "trainable parameters" in ran.stdout
    return here / "adapter"


def test_the_adapter_loads_in_peft_and_in_vllm_and_both_say_the_same(adapter, language_model, tmp_path):
    import torch
    from peft import PeftModel
    from transformers import AutoModelForCausalLM, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(language_model)
    ids = tokenizer.encode("The capital of France is Paris, and the river that runs through it is the Seine.")
    base = AutoModelForCausalLM.from_pretrained(language_model, dtype=torch.float32).eval()
    with torch.inference_mode():
        plain = _token_logprobs(base(torch.tensor([ids])).logits, ids)
        tuned = _token_logprobs(PeftModel.from_pretrained(base, adapter).eval()(torch.tensor([ids])).logits, ids)
    script = tmp_path / "ask.py"
    script.write_text(ASK_VLLM)
    environment = {**os.environ, **cpu_environment(2), "PYTHONPATH": str(ROOT)}
    arguments = [sys.executable, str(script), str(language_model), str(adapter), json.dumps(ids)]
    ran = subprocess.run(arguments, capture_output=True, text=True, env=environment)
    assert ran.returncode == 0, ran.stderr[-2000:]
    seen = json.loads(ran.stdout.splitlines()[-1])
    assert seen["plain"] == pytest.approx(plain, abs=0.02)
    assert seen["tuned"] == pytest.approx(tuned, abs=0.02)
    assert max(abs(a - b) for a, b in zip(plain, tuned, strict=True)) > 0.1


def test_the_merged_model_writes_in_vllm_what_the_adapter_on_its_base_writes(adapter, language_model, tmp_path):
    merged = tmp_path / "merged"
    ran = _kiloset("merge", "--runs", adapter.parent.parent, "--out", merged)
    assert ran.returncode == 0, ran.stderr[-3000:]
    assert "there is something already" in _kiloset("merge", "--runs", adapter.parent.parent, "--out", merged).stderr
    config = EngineConfig(dtype="float32", max_num_seqs=8, kv_cache_gib=0.5)
    prompts = ["Name a colour.", "What is 2 + 2?", "Tell me about the sea."]
    log = tmp_path / "log.txt"
    written = {}
    for engine in (
        VllmEngine(str(language_model), "base", config, log),
        VllmEngine(str(language_model), "adapted", config, log, adapter=adapter),
        VllmEngine(str(merged), "merged", config, log, tokenizer_path=str(language_model)),
    ):
        try:
            requests = [
                chat_request(engine, prompt, "response", max_tokens=12, temperature=0.0, top_p=1.0)
                for prompt in prompts
            ]
            # The engine seeds its sampling from the request's id: a hexadecimal digest, as the store makes them.
            ids = [f"{len(written):08x}{number:08x}" for number in range(len(prompts))]
            engine.submit(list(zip(ids, requests, strict=True)))
            answers = dict(engine.receive() for _ in requests)
            written[engine.identity] = [answers[key].text for key in ids]
        finally:
            engine.close()
    assert written["adapted"] == written["merged"]
    assert written["base"] != written["merged"]


def test_an_adapter_is_judged_beside_its_base_and_nothing_is_asked_twice(adapter):
    runs = adapter.parent.parent
    few = ("--set", "evaluation.prompts=4", "--set", "evaluation.max_tokens=8")
    ran = _kiloset("evaluate", "--runs", runs, *few)
    assert ran.returncode == 0, ran.stderr[-3000:]
    result = json.loads((adapter.parent / "evaluation.json").read_text())
    assert result["KL to base"]["base"] == 0
    assert result["KL to base"]["difference"]["low"] > 0
    assert result["NLL of prose"]["base"] > 1
    assert {
        "following strict prompt",
        "accuracy facts",
        "refusals",
        "tokens per answer",
        "validation loss",
    } <= result.keys()
    answers = (adapter.parent / "evaluation" / "tuned" / "answers.jsonl").read_text().splitlines()
    with closing(sqlite3.connect(adapter.parent / "evaluation" / "calls.sqlite")) as store:
        sent = store.execute("SELECT COUNT(*) FROM sends").fetchone()[0]
        assert sent <= 2 * len(answers)
        again = _kiloset("evaluate", "--runs", runs, *few)
        assert again.returncode == 0
        assert store.execute("SELECT COUNT(*) FROM sends").fetchone()[0] == sent
    assert "answers" not in again.stderr


ASK_VLLM = """
import json, sys
from vllm import LLM, SamplingParams
from vllm.inputs import TokensPrompt
from vllm.lora.request import LoRARequest

model, adapter, ids = sys.argv[1], sys.argv[2], json.loads(sys.argv[3])
llm = LLM(model, dtype="float32", enforce_eager=True, enable_chunked_prefill=False, max_model_len=1024,
          max_num_batched_tokens=2048, max_num_seqs=4, kv_cache_memory_bytes=2**29, enable_lora=True, max_lora_rank=16)
answers = {}
for name, lora in (("plain", None), ("tuned", LoRARequest("tuned", 1, adapter))):
    (out,) = llm.generate(TokensPrompt(prompt_token_ids=ids), SamplingParams(max_tokens=1, prompt_logprobs=0),
                          lora_request=lora, use_tqdm=False)
    answers[name] = [step[token].logprob for token, step in zip(ids[1:], out.prompt_logprobs[1:])]
print(json.dumps(answers))
"""


def _token_logprobs(logits, ids):
    import torch

    return logits[0, :-1].log_softmax(-1).gather(1, torch.tensor(ids[1:])[:, None])[:, 0].tolist()


def test_scores_equal_a_plain_forward_pass_whatever_the_batch(language_model):
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    from kiloset.core.models import tokenize_example

    prompts = [
        [{"role": "user", "content": text}] for text in ("What is 2 + 2?", "Name a colour, please.", "Hi", "Sum.")
    ]
    responses = ["4", "Blue is a colour that many people like, for instance on a wall.", "Hello!", "It is " * 30]
    scorer = TransformersScorer(language_model, "x", 2048)
    together = [(nats, count) for _, nats, count in sorted(scorer.logprobs(prompts, responses))]
    tokenizer = AutoTokenizer.from_pretrained(language_model)
    model = AutoModelForCausalLM.from_pretrained(language_model, dtype=torch.float32).eval()
    for prompt, response, (nats, tokens) in zip(prompts, responses, together, strict=True):
        loaded, answer = tokenize_example(tokenizer, prompt, response)
        labels = torch.tensor([[-100] * len(loaded) + answer])
        with torch.inference_mode():
            loss = float(model(torch.tensor([loaded + answer]), labels=labels).loss)
        assert tokens == len(answer)
        assert nats / tokens == pytest.approx(-loss, abs=1e-4)
        assert list(scorer.logprobs([prompt], [response])) == [(0, nats, tokens)]


def test_the_embedder_returns_directions_in_which_like_is_near_like():
    embedder = SentenceEmbedder(model_path("embedded:all-minilm-l6-v2", "models.embedder"), "x")
    vectors = embedder.embed(["How do I bake bread?", "What is a recipe for bread?", "The engine needs oil."])
    assert vectors.shape == (3, 384)
    assert (vectors**2).sum(axis=1) == pytest.approx([1, 1, 1], abs=1e-5)
    near, far = vectors[0] @ vectors[1], vectors[0] @ vectors[2]
    assert near > far + 0.3


RECHECK = """
import json, sys
from kiloset.core.constraints import check
rows = [json.loads(line) for line in open(sys.argv[1], encoding="utf-8")]
carried = [(row, one) for row in rows for one in row["constraints"]]
assert all(check(one["id"], one["args"], row["messages"][1]["content"]) for row, one in carried)
print(len(carried))
"""


def test_a_fresh_process_finds_every_constraint_of_the_file_kept(run):
    here, _ = run
    ran = subprocess.run(
        [sys.executable, "-c", RECHECK, str(here / "curated.jsonl")], cwd=ROOT, capture_output=True, text=True
    )
    assert ran.returncode == 0, ran.stderr
    assert int(ran.stdout) == RunFolder(here).stages()[-1][1]["constraints"].list.len().sum()


def test_a_schema_holds_and_requests_may_join_while_others_run(language_model, tmp_path):
    config = EngineConfig(max_model_len=256, max_num_seqs=4, kv_cache_gib=0.5)
    engine = VllmEngine(language_model, "x", config, tmp_path / "log")
    properties = {"colour": {"enum": ["red", "blue"]}}
    schema = json.dumps(
        {"type": "object", "properties": properties, "required": ["colour"], "additionalProperties": False}
    )
    first = Request("Count: one, two,", "response", 60, 0.7, 0.9, raw=True)
    under = Request("A colour as JSON:", "response", 60, 0.7, 0.9, raw=True, schema=schema)
    free = replace(under, schema="")
    engine.submit([(first.key("x"), first)])
    engine.submit([(under.key("x"), under), (free.key("x"), free)])
    answers = dict(engine.receive() for _ in range(3))
    engine.close()
    assert json.loads(answers[under.key("x")].text)["colour"] in ("red", "blue")
    assert answers[free.key("x")].text != answers[under.key("x")].text


def test_the_engine_refuses_a_prompt_that_is_too_long_and_goes_on(language_model, tmp_path):
    config = EngineConfig(max_model_len=256, max_num_seqs=4, kv_cache_gib=0.5)
    engine = VllmEngine(language_model, "x", config, tmp_path / "log")
    requests = [
        Request("word " * 400, "response", 8, 0.7, 0.9, raw=True),
        Request("One, two, three,", "response", 8, 0.7, 0.9, raw=True),
    ]
    engine.submit([(request.key("x"), request) for request in requests])
    answers = dict(engine.receive() for _ in requests)
    engine.submit([(requests[1].key("x"), requests[1])])
    again = dict([engine.receive()])
    engine.close()
    assert answers[requests[0].key("x")].finish_reason == "refused"
    assert answers[requests[1].key("x")].completion_tokens > 0
    assert again[requests[1].key("x")].text == answers[requests[1].key("x")].text  # the seed follows from the key
    assert _engines(tmp_path / "log") == []


def test_the_embedded_model_is_converted_once_and_whole(tmp_path, monkeypatch, caplog, language_model):
    from safetensors import safe_open

    monkeypatch.setenv("KILOSET_CACHE", str(tmp_path / "cache"))
    caplog.set_level("INFO", "kiloset")
    target = Path(model_path("embedded:smollm2-135m-instruct", "models.base"))
    assert len(caplog.messages) == 1
    assert [path.name for path in (tmp_path / "cache").iterdir()] == [target.name]
    assert model_path("embedded:smollm2-135m-instruct", "models.base") == str(target)
    assert len(caplog.messages) == 1
    assert "quantization_config" not in json.loads((target / "config.json").read_text())
    with (
        safe_open(target / "model.safetensors", "pt") as stored,
        safe_open(Path(language_model) / "model.safetensors", "pt") as here,
    ):
        assert set(stored.keys()) == set(here.keys())
        assert (stored.get_tensor("model.norm.weight") == here.get_tensor("model.norm.weight")).all()


def test_the_conversion_gives_the_weights_that_transformers_reads(language_model):
    import torch
    from safetensors.torch import load_file
    from transformers import AutoModelForCausalLM

    (source,) = _package_files(MODELS["smollm2-135m-instruct"])
    model = AutoModelForCausalLM.from_pretrained(source.parent, gguf_file=source.name, dtype=torch.float32)
    expected, stored = model.state_dict(), load_file(Path(language_model) / "model.safetensors")
    assert set(expected) - set(stored) == {"lm_head.weight"}  # the embeddings
    for name, tensor in stored.items():
        assert tensor.dtype == torch.float32
        assert torch.equal(tensor, expected[name]), name


def test_a_changed_package_file_is_refused(tmp_path, monkeypatch):
    from kiloset.core.errors import ModelError
    from kiloset.engines import embedded

    wrong = embedded.EmbeddedModel(**{**_fields(MODELS["smollm2-135m-instruct"]), "sha256": "0" * 64})
    monkeypatch.setitem(MODELS, "smollm2-135m-instruct", wrong)
    monkeypatch.setenv("KILOSET_CACHE", str(tmp_path))
    with pytest.raises(ModelError, match=r"sha256 is b179c9523d0e…, expected 000000000000…; reinstall it"):
        model_path("embedded:smollm2-135m-instruct", "models.base")
    assert list(tmp_path.iterdir()) == []


def _fields(model):
    return {name: getattr(model, name) for name in model.__slots__}
