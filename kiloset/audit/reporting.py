"""What `kiloset audit` gives: the figures of a run on the terminal, and its page, whose map wants the run's vectors."""

from collections.abc import Callable
from contextlib import closing
from dataclasses import replace
from pathlib import Path

from rich.console import Console

from kiloset.audit.page import write_page
from kiloset.audit.report import Audit, audit, show
from kiloset.core.calls import CallStore
from kiloset.core.errors import ConfigError
from kiloset.core.models import Embedder
from kiloset.core.progress import Progress
from kiloset.core.recorded import RecordedEmbedder
from kiloset.core.run import RunFolder
from kiloset.settings import RunConfig, load_config

ON_PAGE = 50
"""Rewrites shown on the page, unless more are asked for."""


def audited_run(file: Path | None, run: str | None, for_file_only: bool) -> RunFolder | None:
    """Return the run whose folder FILE names; None where it names a file, or is not given.

    Args:
        file: FILE.
        run: `--run`.
        for_file_only: Whether an option was given that a run has no use for.

    Raises:
        ConfigError: FILE and `--run` are both given, or such an option with a run.
    """
    if file is not None and run is not None:
        raise ConfigError("KS661", f"FILE and --run name two things to audit, got {file} and {run}; leave one out")
    is_run = file is not None and RunFolder(file).manifest_file.is_file()
    if for_file_only and (file is None or is_run):
        raise ConfigError(
            "KS662",
            "--benchmark and --embed go with FILE; a run has its own benchmarks ([contamination] files) and vectors",
        )
    return RunFolder(file) if file is not None and is_run else None


def examine(folder: RunFolder, examples: int) -> Audit:
    """Measure a run, with as many examples of rewrites as its page shows.

    Raises:
        DataError: The folder is no run or not finished, or a line of curated.jsonl cannot be read.
    """
    return audit(folder, max(examples, ON_PAGE))


def show_figures(found: Audit, examples: int, console: Console) -> None:
    """Print an audit, with at most so many examples of rewrites."""
    if found.examples is not None:
        found = replace(found, examples=replace(found.examples, shown=found.examples.shown[:examples]))
    show(found, console)


def write_report(
    folder: RunFolder,
    found: Audit,
    out: Path,
    load_embedder: Callable[[RunConfig, int], Embedder],
    progress: Progress,
) -> int:
    """Write the page of an audit and return its size in bytes.

    Vectors are those that the run has stored; only where rows were edited, or the run stored none, is a model loaded. A
    folder without its config.toml gives a page without a map.

    Args:
        folder: The run's folder; only `out` is written.
        found: Its audit.
        out: The page.
        load_embedder: As for `what_if`.
        progress: Told of long work.

    Raises:
        ConfigError: config.toml is not one.
        DataError: A file of the run cannot be read, or the page cannot be written.
    """
    if not (folder.config.exists() and folder.calls.exists()):
        return write_page(folder, found, None, out)
    born = sum(stage.created for stage in found.funnel if stage.stage == "seeds")
    loaded = load_embedder(load_config(folder.config, []), born)
    with closing(CallStore.read_only(folder.calls)) as store:
        embedder = RecordedEmbedder(loaded, store, progress) if loaded.is_costly else loaded
        return write_page(folder, found, embedder.embed, out)
