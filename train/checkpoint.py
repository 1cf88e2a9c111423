"""What an interrupted training goes on from, and how the finished adapter takes its place."""

import json
import os
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch

CHECKPOINT = "checkpoint.safetensors"
METRICS = "metrics.jsonl"


@dataclass(slots=True)
class Standing:
    """How far a training is."""

    step: int = 0
    """Optimizer steps taken."""
    tokens: int = 0
    """Prompt and response tokens trained on so far."""
    seconds: float = 0.0
    """Of training steps."""
    flops: float = 0.0
    validation_before: float | None = None
    lowest: float | None = None
    best_epoch: int = 0
    stale: int = 0
    """Epochs in a row without a lower validation loss."""
    tokens_at_once: int = 0
    metrics: list[dict[str, Any]] = field(default_factory=list)
    """What metrics.jsonl holds."""


def save_adapter(model: Any, folder: Path) -> None:
    """Save the adapter in PEFT's format; the base model's own files are not copied."""
    lora = model.peft_config["default"]
    # PEFT writes this set in the order of the process's string hashes; sorted, equal runs write equal bytes.
    lora.target_modules = sorted(lora.target_modules)
    model.save_pretrained(folder, safe_serialization=True, save_embedding_layers=False)
    # PEFT's model card: 5 KB of headings over "[More Information Needed]".
    (folder / "README.md").unlink(missing_ok=True)


@contextmanager
def replacing(folder: Path, fingerprint: str) -> Iterator[Path]:
    """Yield a folder that takes the place of `folder` when the block ends well.

    It is empty, but for what an interrupted training of the same fingerprint left to go on from.
    """
    partial = folder.with_name(f".{folder.name}.partial")
    if read_fingerprint(partial / CHECKPOINT) != fingerprint:
        shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir(parents=True)
    yield partial
    (partial / CHECKPOINT).unlink(missing_ok=True)
    _take_place(partial, folder)


@contextmanager
def replaced(folder: Path) -> Iterator[Path]:
    """Yield an empty folder that takes the place of `folder` when the block ends well."""
    partial = folder.with_name(f".{folder.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    yield partial
    _take_place(partial, folder)


def _take_place(partial: Path, folder: Path) -> None:
    """Rename; a folder cannot be renamed onto a full one: a kill in between leaves the older as `.<name>.old`."""
    old = folder.with_name(f".{folder.name}.old")
    if folder.exists():
        shutil.rmtree(old, ignore_errors=True)
        os.replace(folder, old)
    os.replace(partial, folder)
    shutil.rmtree(old, ignore_errors=True)


class Metrics:
    """A training's metrics.jsonl: an object a line, at once readable."""

    def __init__(self, path: Path, standing: Standing) -> None:
        """Begin with what a checkpoint already holds; later lines of an interrupted training are cut off."""
        self._standing = standing
        self._file = path.open("w", encoding="utf-8", buffering=1)
        for entry in standing.metrics:
            print(json.dumps(entry), file=self._file)

    def log(self, entry: dict[str, Any]) -> None:
        """Write a line."""
        self._standing.metrics.append(entry)
        print(json.dumps(entry), file=self._file)

    def close(self) -> None:
        """Close the file."""
        self._file.close()


def read_fingerprint(path: Path) -> str | None:
    """Return what a checkpoint was made from, None where there is no whole one."""
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(str(path), framework="pt") as file:
            return (file.metadata() or {}).get("fingerprint")
    except (OSError, SafetensorError):
        return None


def write_checkpoint(
    path: Path, fingerprint: str, standing: Standing, tensors: "Mapping[str, Mapping[str, torch.Tensor]]"
) -> None:
    """Write a checkpoint, atomically: safetensors, groups of tensors and a JSON text; no pickle."""
    from safetensors.torch import save_file

    named = {
        f"{group}/{name}": tensor.detach().cpu().contiguous().clone()
        for group, part in tensors.items()
        for name, tensor in part.items()
    }
    temporary = path.with_name(f".{path.name}.partial")
    save_file(named, str(temporary), {"fingerprint": fingerprint, "standing": json.dumps(asdict(standing))})
    os.replace(temporary, path)


def read_checkpoint(path: Path) -> "tuple[Standing, dict[str, dict[str, torch.Tensor]]] | None":
    """Return a checkpoint's standing and its groups of tensors, None where there is none."""
    from safetensors import safe_open

    if read_fingerprint(path) is None:
        return None
    groups: dict[str, dict[str, torch.Tensor]] = {}
    with safe_open(str(path), framework="pt") as file:
        standing = Standing(**json.loads(file.metadata()["standing"]))
        for key in file.keys():  # noqa: SIM118, it is no dictionary
            group, name = key.split("/", 1)
            groups.setdefault(group, {})[name] = file.get_tensor(key)
    return standing, groups
