"""The checkpoint from which an interrupted training resumes, and the log of its metrics."""

import json
import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch

CHECKPOINT = "checkpoint.safetensors"
METRICS = "metrics.jsonl"


@dataclass(slots=True)
class TrainingState:
    """The progress of a training."""

    step: int = 0
    """Optimizer steps taken."""
    tokens: int = 0
    """Prompt and response tokens trained on."""
    seconds: float = 0.0
    """Time in training steps; validation is not counted."""
    flops: float = 0.0
    validation_before: float | None = None
    """Validation loss of the base model."""
    lowest: float | None = None
    """Lowest validation loss after an epoch."""
    best_epoch: int = 0
    stale: int = 0
    """Epochs in a row without a lower validation loss."""
    tokens_at_once: int = 0
    metrics: list[dict[str, Any]] = field(default_factory=list)
    """The entries of metrics.jsonl."""


class MetricsLog:
    """A training's metrics.jsonl, one JSON object on each line, written immediately."""

    def __init__(self, path: Path, state: TrainingState) -> None:
        """Write the entries of a checkpoint's state; later entries of an interrupted training are removed."""
        self._state = state
        self._file = path.open("w", encoding="utf-8", buffering=1)
        for entry in state.metrics:
            print(json.dumps(entry), file=self._file)

    def write(self, entry: dict[str, Any]) -> None:
        """Add an entry."""
        self._state.metrics.append(entry)
        print(json.dumps(entry), file=self._file)

    def close(self) -> None:
        """Close the file."""
        self._file.close()


def read_fingerprint(path: Path) -> str | None:
    """Return the fingerprint of a checkpoint, None if it is missing or incomplete."""
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(str(path), framework="pt") as file:
            return (file.metadata() or {}).get("fingerprint")
    except (OSError, SafetensorError):
        return None


def write_checkpoint(
    path: Path, fingerprint: str, state: TrainingState, tensors: "Mapping[str, Mapping[str, torch.Tensor]]"
) -> None:
    """Write a checkpoint atomically: groups of tensors as safetensors, the state as JSON, no pickle."""
    from safetensors.torch import save_file

    named = {
        f"{group}/{name}": tensor.detach().cpu().contiguous().clone()
        for group, part in tensors.items()
        for name, tensor in part.items()
    }
    temporary = path.with_name(f".{path.name}.partial")
    save_file(named, str(temporary), {"fingerprint": fingerprint, "state": json.dumps(asdict(state))})
    os.replace(temporary, path)


def read_checkpoint(path: Path) -> "tuple[TrainingState, dict[str, dict[str, torch.Tensor]]] | None":
    """Return a checkpoint's state and its groups of tensors, None if there is no checkpoint."""
    from safetensors import safe_open

    if read_fingerprint(path) is None:
        return None
    groups: dict[str, dict[str, torch.Tensor]] = {}
    with safe_open(str(path), framework="pt") as file:
        state = TrainingState(**json.loads(file.metadata()["state"]))
        for key in file.keys():  # noqa: SIM118, it is no dictionary
            group, name = key.split("/", 1)
            groups.setdefault(group, {})[name] = file.get_tensor(key)
    return state, groups
