"""Parts that the benchmarks share: printed results, child processes, an embedder with fixed vectors.

Importing this module makes the checkout's own package and tests importable, so a benchmark imports it first.
"""

import json
import resource
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from kiloset.core.run import RunFolder

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

SEEDS = ROOT / "seeds" / "seeds.jsonl"
CONFIGS = ROOT / "kiloset" / "configs"


def run_folder(run: str) -> "RunFolder":
    """Return the folder of a run: a path, or a name in runs/."""
    from kiloset.core.run import RunFolder

    return RunFolder(Path(run) if Path(run).is_dir() else ROOT / "runs" / run)


def read_lines(path: Path) -> list[dict[str, Any]]:
    """Return the objects of a file of JSON lines."""
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines() if line.strip()]


def share(name: str, hits: Sequence[bool]) -> None:
    """Print the share of hits as a figure, with its 95 % Wilson interval."""
    from kiloset.core.statistics import proportion_interval

    interval = proportion_interval(sum(hits), len(hits))
    bounds = f"95 % interval {interval.low:.2f} to {interval.high:.2f}"
    figure(name, f"{sum(hits) / len(hits):.3f}", f"({sum(hits)} of {len(hits)}, {bounds})")


def figure(name: str, value: object, unit: str = "") -> None:
    """Print a result as `figure NAME VALUE UNIT`."""
    print(f"figure {name} {value} {unit}".rstrip(), flush=True)


def ratio(name: str, value: float, digits: int = 2) -> None:
    """Print how many times better this project is than a peer, as `ratio NAME VALUE`."""
    print(f"ratio {name} {value:.{digits}f}", flush=True)


def run_child(
    command: Sequence[object], *, env: Mapping[str, str] | None = None, stdin: str | None = None
) -> dict[str, Any]:
    """Run a Python command and return the JSON object of its last line.

    Raises:
        SystemExit: The command failed; the message has the end of its standard error.
    """
    arguments = [sys.executable, *map(str, command)]
    done = subprocess.run(arguments, capture_output=True, text=True, env=env, input=stdin)
    if done.returncode:
        raise SystemExit(f"{arguments[1:4]}: exit status {done.returncode} (-9: out of memory?) {done.stderr[-2000:]}")
    result: dict[str, Any] = json.loads(done.stdout.strip().splitlines()[-1])
    return result


def peak_mib() -> float:
    """Return the largest resident set of this process so far, in MiB."""
    unit = 1 if sys.platform == "darwin" else 1024  # ru_maxrss: bytes on macOS, KiB on Linux
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 2**20


class FixedEmbedder:
    """An embedder that returns fixed vectors, one for each row of a table."""

    identity, is_costly = "fixed", False

    def __init__(self, vectors: NDArray[np.float32]) -> None:
        """Hold `(rows, dims)` vectors of length 1."""
        self.vectors = vectors

    def embed(self, texts: Sequence[str]) -> NDArray[np.float32]:
        """Return the first vectors, as many as there are texts."""
        return self.vectors[: len(texts)]
