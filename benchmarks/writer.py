"""Compute, from the folder of a finished run, what the writer model cost for each row of the set: tokens, time and memory.

No model is needed. A prompt token that the engine took from its prefix cache costs nothing in `tokens_per_accepted_row`; the figure
with `_with_cached` counts it too. The time is that of the stage generate, over all passes and resumed runs that finished it,
and of the preview. `peak_memory` is that of Kiloset and all its processes together, without a GPU's.

    python benchmarks/writer.py [RUN_FOLDER]        # default: the folder in runs/ that changed last
"""

import argparse
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

from harness import ROOT, figure

from kiloset.cli.options import find_run
from kiloset.core.calls import CallStore
from kiloset.core.errors import DataError
from kiloset.core.run import RunFolder
from kiloset.generator.settings import PURPOSES
from kiloset.recipe import stage_number


class UnfinishedRunError(Exception):
    """A run has no curated set yet."""


@dataclass(frozen=True)
class TokenCounts:
    """Tokens of the requests for one purpose."""

    requests: int
    prompt: int
    """Prompt tokens, those from the prefix cache included."""
    cached: int
    """Prompt tokens from the prefix cache."""
    written: int

    @property
    def computed(self) -> int:
        """Tokens that the model computed: prompt tokens that were not cached, and written tokens."""
        return self.prompt - self.cached + self.written


@dataclass(frozen=True)
class WriterCost:
    """What generation cost in a run."""

    rows: int
    """Rows of the curated set."""
    tokens: dict[str, TokenCounts]
    """By purpose."""
    seconds: float
    """Wall-clock time of generation."""
    peak_memory: float | None
    """In GiB; None if the run did not measure it."""

    @property
    def tokens_per_accepted_row(self) -> float:
        """Computed tokens per row of the set."""
        return sum(counts.computed for counts in self.tokens.values()) / self.rows

    @property
    def tokens_per_accepted_row_with_cached(self) -> float:
        """Tokens per row of the set, cached prompt tokens included."""
        return sum(counts.prompt + counts.written for counts in self.tokens.values()) / self.rows

    @property
    def accepted_rows_per_minute(self) -> float:
        """Rows of the set per minute of generation."""
        return self.rows / (self.seconds / 60)


def writer_cost(folder: RunFolder) -> WriterCost:
    """Read what generation cost in a finished run.

    Raises:
        DataError: There is no run.
        UnfinishedRunError: It is not finished.
    """
    folder.require()
    if not folder.curated.is_file() or not folder.stage_file(stage_number("generate"), "generate").is_file():
        raise UnfinishedRunError(f"{folder.path}: the run is not finished; `kiloset dataset` continues it")
    with closing(CallStore.read_only(folder.calls)) as store:
        account, cached = store.account(), store.cached_tokens()
    tokens = {
        purpose: TokenCounts(counts["completed"], counts["prompt_tokens"], cached[purpose], counts["completion_tokens"])
        for purpose, counts in account.items()
        if purpose in PURPOSES
    }
    manifest = folder.manifest
    entry = manifest["stages"]["generate"]
    seconds = entry.get("total_seconds", entry["seconds"]) + manifest.get("preview", {}).get("seconds", 0.0)
    rows = sum(bool(line.strip()) for line in folder.curated.read_text(encoding="utf-8").splitlines())
    return WriterCost(rows, tokens, seconds, manifest.get("peak_memory_gib"))


def print_cost(cost: WriterCost) -> None:
    """Print the tokens by purpose, and the figures."""
    for purpose, counts in cost.tokens.items():
        print(
            f"{purpose}: {counts.requests} requests, {counts.prompt} prompt tokens, {counts.cached} of them cached, "
            f"{counts.written} written tokens"
        )
    for part in ("prompt", "cached", "written"):
        figure(f"{part}_tokens", sum(getattr(counts, part) for counts in cost.tokens.values()), "tokens")
    figure("accepted_rows", cost.rows, "rows")
    figure("generate_minutes", f"{cost.seconds / 60:.2f}", "minutes")
    figure("tokens_per_accepted_row", f"{cost.tokens_per_accepted_row:.1f}", "tokens")
    figure("tokens_per_accepted_row_with_cached", f"{cost.tokens_per_accepted_row_with_cached:.1f}", "tokens")
    figure("accepted_rows_per_minute", f"{cost.accepted_rows_per_minute:.2f}", "rows/minute")
    if cost.peak_memory is None:
        print("peak_memory: not measured by this run")
    else:
        figure("peak_memory", f"{cost.peak_memory:.2f}", "GiB")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path, nargs="?", metavar="RUN_FOLDER", help="default: the newest run in runs/")
    folder = parser.parse_args().folder
    try:
        print_cost(writer_cost(RunFolder(folder) if folder else find_run(None, ROOT / "runs")))
    except (DataError, UnfinishedRunError) as error:
        raise SystemExit(f"writer.py: {error}") from None


if __name__ == "__main__":
    main()
