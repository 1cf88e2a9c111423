"""The `[engine]` table: what runs the models, and how."""

from typing import Annotated, Literal

from pydantic import Field

from core.config import Count, Positive, Share, settings


@settings
class EngineConfig:
    """The `[engine]` table of a run's TOML. It may change how fast a run is, not what is asked."""

    kind: Literal["vllm"] = "vllm"
    """What runs the models: vllm (in a process of its own, on CUDA or the CPU)."""
    max_model_len: Annotated[int, Field(ge=256)] = 2048
    """Longest prompt and completion together, in tokens; what is longer is dropped."""
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
