"""Compare how diverse the tasks of several runs are, on equally many rows of each.

The generated rows of each run's curated set, or with `--candidates` of those kept before selection, are embedded (instruction and
input). The Vendi score (arXiv:2210.02410) is the effective number of different tasks. `subjects` counts the tasks left when each
task within a cosine similarity of 0.5 of an earlier one is removed.

    python benchmarks/diversity.py RUN RUN … [--rows 60] [--candidates] [--seed 0]
"""

import argparse
import random
from pathlib import Path

import numpy as np
import polars as pl
from harness import figure, run_folder

from kiloset.core.table import full_instruction
from kiloset.engines.embedded import model_path
from kiloset.engines.embedder import SentenceEmbedder
from kiloset.filters.diversity import vendi_score

EMBEDDER = "embedded:all-minilm-l6-v2"
NEAR = 0.5
DRAWS = 10


def subjects(vectors: np.ndarray) -> int:
    """Count the vectors that no earlier counted one is near to."""
    counted: list[np.ndarray] = []
    for vector in vectors:
        if not counted or float(np.max(np.stack(counted) @ vector)) < NEAR:
            counted.append(vector)
    return len(counted)


def rows_of(run: str, *, candidates: bool) -> pl.DataFrame:
    """Return the generated rows of a run's set, or those before selection."""
    folder = run_folder(run)
    stages = dict(folder.stages())
    table = stages["semantic"] if candidates else folder.stages()[-1][1]
    return table.filter(pl.col("source") == "generated").sort("id")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("runs", nargs="+", metavar="RUN")
    parser.add_argument("--rows", type=int, default=60, help="rows drawn of each run (default 60)")
    parser.add_argument("--candidates", action="store_true", help="rows before selection")
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    path = model_path(EMBEDDER, "models.embedder")
    embedder = SentenceEmbedder(path, EMBEDDER)
    for run in arguments.runs:
        table = rows_of(run, candidates=arguments.candidates)
        vectors = embedder.embed(full_instruction(table))  # (rows, dims), unit length
        rng, scores, counts = random.Random(arguments.seed), [], []
        for _ in range(DRAWS):
            chosen = vectors[rng.sample(range(len(vectors)), min(arguments.rows, len(vectors)))]
            scores.append(vendi_score(chosen))
            counts.append(subjects(chosen))
        name = Path(run).name
        figure(
            f"vendi_{name}",
            f"{np.mean(scores):.1f}",
            f"of {min(arguments.rows, len(vectors))} rows, mean of {DRAWS} draws",
        )
        figure(f"subjects_{name}", f"{np.mean(counts):.1f}")


if __name__ == "__main__":
    main()
