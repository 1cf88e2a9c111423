"""vLLM, in a process of its own.

The only file that imports vllm, and it does so in the child only: `python -m engines.vllm` holds the model and speaks
JSON lines over its standard streams; `VllmEngine` is the other end. A process of its own, because vLLM on a CPU must
find its threading settings in the environment before anything imports torch, and because then nothing can outlive us:
the child leads a process group and ends it when its standard input closes, which the kernel does for us even after
`kill -9`.
"""

import contextlib
import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import IO, Annotated, Any, Literal

from pydantic import Field

from core.config import Count, Positive, Share, settings
from core.errors import ModelError
from core.models import Completion, Message, Request, render_prompt


@settings
class EngineConfig:
    """The `[engine]` table of a run's TOML. It may change how fast a run is, not what is asked."""

    kind: Literal["vllm"] = "vllm"
    """What runs the models: vllm (in a process of its own, on CUDA or the CPU)."""
    max_model_len: Annotated[int, Field(ge=256)] = 2048
    """Longest prompt and completion together, in tokens."""
    max_num_seqs: Count = 128
    """Sequences in flight; on two cores 128 give three times the throughput of 24."""
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = "auto"
    """Weights: auto is bfloat16 on CUDA and on CPUs that compute in it (AVX512-BF16, AMX), else float32."""
    gpu_memory_utilization: Share = 0.9
    """Fraction of a GPU's memory vLLM may take."""
    tensor_parallel_size: Count = 1
    """GPUs one model is spread over."""
    kv_cache_gib: Positive = 2.0
    """Memory for attention keys and values on a CPU, in GiB."""


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

    def __init__(self, path: str, identity: str, config: EngineConfig, log: Path) -> None:
        """Name the model; nothing is started yet.

        Args:
            path: A local folder or hub id.
            identity: Name and revision, part of every request's key.
            config: The `[engine]` table.
            log: Where the child's own messages go.
        """
        self.identity, self._path, self._config, self._log = identity, path, config, log
        self._tokenizer: Any = None
        self._child: subprocess.Popen[str] | None = None
        self.description = ""

    def render(self, messages: Sequence[Message]) -> str:
        """Return the prompt of a chat, by the model's own template."""
        if self._tokenizer is None:
            from transformers import AutoTokenizer

            self._tokenizer = AutoTokenizer.from_pretrained(self._path)
        return render_prompt(self._tokenizer, messages)

    def complete(self, requests: Sequence[tuple[str, Request]]) -> Iterator[tuple[str, Completion]]:
        """Yield `(key, completion)` as each finishes.

        Raises:
            ModelError: The engine cannot start or its process died; the end of its log is quoted.
        """
        child = self._started()
        assert child.stdin is not None
        assert child.stdout is not None
        try:
            child.stdin.write("".join(json.dumps({"key": k, **asdict(r)}) + "\n" for k, r in requests) + "\n")
            child.stdin.flush()
        except BrokenPipeError:
            raise self._died() from None
        for _ in requests:
            answer = self._read(child.stdout)
            yield answer.pop("key"), Completion(**answer)

    def close(self) -> None:
        """End the process and all it started."""
        if self._child is not None:
            for stream in (self._child.stdin, self._child.stdout):
                if stream is not None:
                    stream.close()
            _kill_group(self._child)
            self._child = None

    def _started(self) -> "subprocess.Popen[str]":
        if self._child is None:
            options = {"path": self._path, **asdict(self._config)}
            root = str(Path(__file__).resolve().parent.parent)
            environment = {
                **os.environ,
                "PYTHONPATH": root,
                "VLLM_NO_USAGE_STATS": "1",
                "TOKENIZERS_PARALLELISM": "false",
            }
            if not has_cuda():
                environment |= cpu_environment(len(os.sched_getaffinity(0)))
            with self._log.open("a", encoding="utf-8") as log:
                self._child = subprocess.Popen(
                    [sys.executable, "-m", "engines.vllm", json.dumps(options)],
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
        lines = [line.strip() for line in self._log.read_text(encoding="utf-8", errors="replace").splitlines()]
        causes = [line for line in lines if "Error" in line and "Engine core initialization failed" not in line]
        cause = (causes or [line for line in lines if line] or ["no message"])[-1]
        self.close()
        return ModelError(f"the engine of {self.identity} died: {cause[-300:]} (log: {self._log})")


def _kill_group(child: "subprocess.Popen[str]") -> None:
    with contextlib.suppress(ProcessLookupError):
        os.killpg(child.pid, signal.SIGKILL)
    child.wait()


def has_cuda() -> bool:
    """Tell whether an NVIDIA driver is there, without importing torch."""
    return Path("/proc/driver/nvidia/version").exists()


# ---------------------------------------------------------------------------------------------- the child process


def _serve(options: Mapping[str, Any], out: IO[str]) -> None:
    llm, description = _load(options)
    engine, tokenizer = llm.llm_engine, llm.get_tokenizer()
    print(json.dumps({"ready": description}), file=out, flush=True)
    batch: list[dict[str, Any]] = []
    # The thread below watches for the end of input; this one gets whole batches from it, each ended by an empty line.
    for line in _lines_until_orphaned():
        if line.strip():
            batch.append(json.loads(line))
            continue
        for request in batch:
            if refusal := _submit(engine, tokenizer, request, int(options["max_model_len"])):
                print(json.dumps(refusal), file=out, flush=True)
        batch = []
        while engine.has_unfinished_requests():
            for output in engine.step():
                if output.finished:
                    print(json.dumps(_answer(output)), file=out, flush=True)


def _load(options: Mapping[str, Any]) -> tuple[Any, str]:
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
    llm = LLM(
        model=options["path"], dtype=dtype, max_model_len=length, max_num_seqs=options["max_num_seqs"],
        seed=0, trust_remote_code=False, disable_log_stats=True, **placed,
    )  # fmt: skip
    threads = os.environ.get("OMP_NUM_THREADS", "?")
    where = torch.cuda.get_device_name() if cuda else f"CPU, {threads} threads, eager, whole prefills"
    preload = "" if cuda or "libiomp5" in os.environ.get("LD_PRELOAD", "") else ", without libiomp5"
    return llm, f"vLLM on {where}{preload}, {dtype}, {options['max_num_seqs']} sequences in flight"


def _submit(engine: Any, tokenizer: Any, request: Mapping[str, Any], max_length: int) -> dict[str, Any] | None:
    """Hand a request to the engine, or return the answer that refuses it."""
    from vllm import SamplingParams
    from vllm.inputs import TokensPrompt

    ids = tokenizer.encode(request["prompt"], add_special_tokens=request["raw"])
    if len(ids) + 1 > max_length:
        refused = {"text": "", "finish_reason": "refused", "prompt_tokens": len(ids), "completion_tokens": 0}
        return {"key": request["key"], **refused}
    parameters = SamplingParams(
        max_tokens=min(request["max_tokens"], max_length - len(ids)), temperature=request["temperature"],
        top_p=request["top_p"], stop=list(request["stop"]), seed=int(request["key"][:8], 16) & 0x7FFFFFFF,
    )  # fmt: skip
    engine.add_request(request["key"], TokensPrompt(prompt_token_ids=ids), parameters)
    return None


def _answer(output: Any) -> dict[str, Any]:
    written = output.outputs[0]
    return {
        "key": output.request_id.split("-")[0],
        "text": written.text,
        "finish_reason": written.finish_reason,
        "prompt_tokens": len(output.prompt_token_ids),
        "completion_tokens": len(written.token_ids),
    }


def _lines_until_orphaned() -> Iterator[str]:
    """Yield the lines of standard input; when it closes, whatever the engine is doing, end the whole process group."""
    import queue

    lines: queue.Queue[str] = queue.Queue()

    def watch() -> None:
        for line in sys.stdin:
            lines.put(line)
        os.killpg(0, signal.SIGKILL)

    threading.Thread(target=watch, daemon=True).start()
    while True:
        yield lines.get()


def _main() -> None:
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)  # whatever vLLM prints goes to the log
    os.environ.setdefault("VLLM_LOGGING_LEVEL", "WARNING")
    _serve(json.loads(sys.argv[1]), answers)


if __name__ == "__main__":
    _main()
