"""The `[engine]` table."""

import re
from typing import Annotated, Literal
from urllib.parse import urlsplit

from pydantic import AfterValidator, BeforeValidator, Field, ValidationInfo

from kiloset.core.config import Count, Natural, Positive, Share, settings


def _address(base_url: str, info: ValidationInfo) -> str:
    if not base_url:
        if info.data.get("kind") == "openai":
            raise ValueError('the server\'s address, such as "http://127.0.0.1:8000/v1", when kind is "openai"')
        return base_url
    try:
        parts = urlsplit(base_url)
        valid = parts.scheme in ("http", "https") and bool(parts.hostname) and (parts.port is None or parts.port > 0)
    except ValueError:  # a port that is no number, an IPv6 address without its end
        valid = False
    if not valid or re.search(r"[\s\x00-\x1f\x7f]", base_url):
        raise ValueError("an address that begins with http:// or https://, such as http://127.0.0.1:8000/v1")
    if "@" in base_url or "?" in base_url or "#" in base_url:
        raise ValueError("without a user name, password, query or fragment: this file is no place for a secret")
    return base_url


def _without_secrets(base_url: object) -> object:
    """Hide a user name, password or query from the error message, because it may be a secret."""
    if not isinstance(base_url, str):
        return base_url
    masked = re.sub(r"^([a-z]+://)?.*@", r"\1***@", base_url, flags=re.DOTALL)
    return re.sub(r"[?#].*", "?***", masked, flags=re.DOTALL)


def _unless_a_key(name: object) -> object:
    """Hide text that is not a variable's name from the error message, because it may be the key itself."""
    return name if not isinstance(name, str) or re.fullmatch(r"[A-Z_][A-Z0-9_]*", name) else "***"


def _variable(name: str) -> str:
    if name == "***":
        raise ValueError(
            "the name of an environment variable in capitals, such as OPENAI_API_KEY, never the key itself"
        )
    return name


@settings
class EngineConfig:
    """The `[engine]` table of a run's TOML: how models run. It changes the speed of a run, not its requests."""

    kind: Literal["vllm", "openai", "ray"] = "vllm"
    """vllm (on this machine, on CUDA or the CPU), ray (vLLM in actors on a Ray cluster, as many as its requests fill), or
    openai (the generator model on a server with OpenAI's protocol at `base_url`; vllm runs the base model here)."""
    address: str = ""
    """ray: the cluster's address, such as 10.0.0.1:6379, or auto on one of its nodes; "" starts a cluster on this machine."""
    min_actors: Count = 1
    """ray: smallest number of actors for each model in use."""
    max_actors: Count = 64
    """ray: largest number of actors for each model; the requests and the cluster's resources determine the number."""
    actor_cpus: Count = 1
    """ray: processor cores of an actor in a cluster without GPUs; with GPUs an actor takes `tensor_parallel_size` of them."""
    max_model_len: Annotated[int, Field(ge=256)] = 2048
    """Longest prompt and completion together, in tokens; longer ones are dropped. A server has its own limit."""
    max_num_seqs: Count = 128
    """Sequences in flight, or requests in flight for a server; on two cores 128 give three times the throughput of 24."""
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = "auto"
    """Type of the weights; auto is bfloat16 on CUDA and on CPUs that support it (AVX512-BF16, AMX), else float32."""
    gpu_memory_utilization: Share = 0.9
    """Fraction of a GPU's memory vLLM may take."""
    tensor_parallel_size: Count = 1
    """Number of GPUs for one model."""
    kv_cache_gib: Positive = 2.0
    """Memory for attention keys and values on a CPU, in GiB."""
    base_url: Annotated[
        str, Field(validate_default=True), AfterValidator(_address), BeforeValidator(_without_secrets)
    ] = ""
    """openai: the server's address with its version, such as http://127.0.0.1:8000/v1."""
    api_key_env: Annotated[str, AfterValidator(_variable), BeforeValidator(_unless_a_key)] = "OPENAI_API_KEY"
    """openai: name of the environment variable with the key; the key itself is never stored."""
    completions: bool = True
    """openai: the server supports /completions, which continues plain text; otherwise only chats are sent."""
    structured: bool = False
    """openai: the server supports the `json_schema` response format, as vLLM does."""
    timeout_s: Positive = 300.0
    """openai: longest wait for one completion, in seconds; then the request is sent again."""
    max_retries: Natural = 8
    """openai: retries of a failed request; with the waits between them, 8 retries take two to three minutes."""
