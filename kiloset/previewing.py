"""Preview a run: generate a few rows with its own settings and models, as the first wave of the run.

The rows are stored like those of any wave, so the run repeats them from the store and sends only requests that are new.
"""

import math
import time
from collections import Counter, deque
from collections.abc import Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from typing import Any

import polars as pl

from kiloset.core.calls import CallStore
from kiloset.core.errors import ConfigError
from kiloset.core.models import Completion, Embedder, Request, Scorer, TextEngine
from kiloset.core.progress import Progress
from kiloset.core.run import RunFolder
from kiloset.core.table import with_verdicts
from kiloset.generator.loop import GenerationResult
from kiloset.generator.planning import WavePlan, count_instructions
from kiloset.generator.settings import PURPOSES
from kiloset.inputs import Inputs
from kiloset.models import Models
from kiloset.plan.estimate import expected_yield
from kiloset.plan.evidence import measured_evidence, yields_as_record
from kiloset.recipe import Context, generated
from kiloset.runner import begin, context_of
from kiloset.settings import RunConfig, check_same
from kiloset.verify.verify import verify


@dataclass(frozen=True)
class Preview:
    """The first rows of a run."""

    folder: RunFolder
    kept: pl.DataFrame
    """Rows that pass the checks before selection, except semantic duplicates and quality, in the order of their ids."""
    dropped: pl.DataFrame
    """The other rows, with `reason` and `evidence`."""
    unfinished: int
    """Rows of the stored waves that still lack a completion; `kiloset dataset` requests it."""
    requests: int
    """Requests sent now, 0 if the store had every completion."""
    tokens: int
    """Tokens of these requests, prompts included."""
    seconds: float


def preview_run(
    config: RunConfig, inputs: Inputs, folder: RunFolder, models: Models, rows: int, progress: Progress
) -> Preview:
    """Generate about this many rows that pass the checks, or read the first rows of a run that has more already.

    The requests become the first wave of the run. An interrupted preview resumes. A run whose stored waves are larger than a
    preview is only read: nothing is sent, and nothing in its folder changes.

    Raises:
        ConfigError: Generation is off, `rows` is below 1, or the folder belongs to another config.
        DataError: An older version made the folder.
        ModelError: The writer model cannot be loaded, or its process died.
    """
    if rows < 1:
        raise ConfigError("KS870", f"rows must be 1 or more, got {rows}")
    if not config.generate.enabled:
        raise ConfigError("KS869", "generate.enabled is false, so there is no generated row to preview")
    instructions = math.ceil(min(rows, config.run.size) / expected_yield(config))
    if _is_beyond(folder, instructions):
        folder.check_format()
        check_same(config, folder.config.read_text(encoding="utf-8"), folder.path)
        return _read(config, inputs, folder, models, instructions, progress)
    return _generate(config, inputs, folder, models, instructions, progress)


def plan_preview(
    instructions: int,
    wanted: Mapping[str, int],
    weights: Mapping[str, float],
    candidates_per_row: float,
    expected_yield: float,
) -> WavePlan:
    """Return a plan that spreads so many instructions over the categories and, by their weights, over the strategies.

    A category gets no more instructions than its wanted candidates need at this yield.
    """
    limits = {name: math.ceil(rows * candidates_per_row / expected_yield) for name, rows in wanted.items()}
    names = sorted(wanted, key=lambda name: (-wanted[name], name))
    order = [name for number in range(instructions) for name in names if number < limits[name]][:instructions]
    total, counts = sum(weights.values()), Counter[str]()
    plan: WavePlan = {}
    for number, category in enumerate(order, start=1):
        # The strategy that is furthest below its share.
        strategy = max(weights, key=lambda name: weights[name] / total * number - counts[name])
        counts[strategy] += 1
        strategies = plan.setdefault(category, {})
        strategies[strategy] = strategies.get(strategy, 0) + 1
    return plan


def _is_beyond(folder: RunFolder, instructions: int) -> bool:
    """Return whether a run has stored more than a preview of so many instructions."""
    if not folder.calls.exists() or not folder.config.exists():
        return False
    with closing(CallStore.read_only(folder.calls)) as store:
        waves = store.waves()
    return len(waves) > 1 or any(count_instructions(wave) > instructions for wave in waves)


def _generate(
    config: RunConfig, inputs: Inputs, folder: RunFolder, models: Models, instructions: int, progress: Progress
) -> Preview:
    """Run the first wave, or what its store lacks of it."""
    started = time.monotonic()
    begin(config, folder)
    with folder.lock(), closing(CallStore(folder.calls)) as store:
        context, table = context_of(config, inputs, models, store, progress)
        with_seeds = {*table.filter(pl.col("source") == "seed")["category"]}
        wanted = {name: rows for name, rows in context.wanted.items() if rows and name in with_seeds}
        first = plan_preview(
            instructions,
            wanted,
            config.generate.strategies,
            config.generate.candidates_per_row,
            expected_yield(config),
        )
        requests, tokens, _ = store.spent(PURPOSES)
        result = generated(table, context, first=first, plan=False)
        kept, dropped = _outcome(result, context)
        new_requests, new_tokens, _ = store.spent(PURPOSES)
        seconds = time.monotonic() - started
        rows = pl.concat([kept, dropped], how="diagonal_relaxed")
        evidence = measured_evidence("a preview", rows, set(kept["id"]), store)
        earlier = folder.manifest.get("preview", {}).get("seconds", 0.0)
        total = round(earlier + seconds, 2) if new_requests > requests else earlier
        folder.update_manifest({"preview": {"seconds": total, **yields_as_record(evidence)}})
    return Preview(folder, kept, dropped, 0, new_requests - requests, new_tokens - tokens, seconds)


def _read(
    config: RunConfig, inputs: Inputs, folder: RunFolder, models: Models, number: int, progress: Progress
) -> Preview:
    """Repeat the stored waves from the store and return so many of their first rows, spread over the categories."""
    started = time.monotonic()
    writer = _NoRequests(models.generator)
    with closing(CallStore.read_only(folder.calls)) as store:
        context, table = context_of(config, inputs, _ReadModels(writer, models), store, progress)
        kept, dropped = _outcome(generated(table, context, plan=False), context)
    is_unfinished = pl.col("calls").list.eval(pl.element().is_in(list(writer.missing))).list.any()
    unfinished = dropped.filter(is_unfinished)
    dropped = dropped.filter(~pl.col("id").is_in(unfinished["id"].implode()))
    both = pl.concat([kept.select("id", "category"), dropped.select("id", "category")]).sort("id")
    place = both.with_columns(place=pl.int_range(pl.len()).over("category")).sort("place", "category")
    first = place.head(number)["id"].implode()
    kept, dropped = (part.filter(pl.col("id").is_in(first)) for part in (kept, dropped))
    return Preview(folder, kept, dropped, unfinished.height, 0, 0, time.monotonic() - started)


def _outcome(result: GenerationResult, context: Context) -> tuple[pl.DataFrame, pl.DataFrame]:
    """Return the generated rows that pass verification and the cheap filters, and the rows that were dropped before."""
    filters, verified = context.filters, verify(result.outcome.kept, context.config.verify)
    allowed, _ = filters.by_rules(verified.kept)
    distinct = filters.by_near_duplicates(allowed.kept)
    clean = with_verdicts(distinct.kept, filters.repeated_by(distinct.kept))
    parts = [outcome.dropped for outcome in (result.outcome, verified, allowed, distinct, clean)]
    dropped = pl.concat(parts, how="diagonal_relaxed")
    kept, dropped = (part.filter(pl.col("source") == "generated").sort("id") for part in (clean.kept, dropped))
    return kept, dropped


class _NoRequests:
    """A text engine that refuses every request and remembers its key."""

    def __init__(self, engine: TextEngine) -> None:
        self.identity, self.render, self.capabilities = engine.identity, engine.render, engine.capabilities
        self.missing: set[str] = set()
        self._waiting: deque[str] = deque()

    def submit(self, requests: Sequence[tuple[str, Request]]) -> None:
        self._waiting.extend(key for key, _ in requests)

    def receive(self) -> tuple[str, Completion]:
        key = self._waiting.popleft()
        self.missing.add(key)
        return key, Completion("", "refused", 0, 0)


class _ReadModels:
    """The models of a run, with another engine as the writer model."""

    def __init__(self, writer: TextEngine, models: Models) -> None:
        self.generator = writer
        self.rewriter: TextEngine = models.rewriter
        self.scorer: Scorer = models.scorer
        self.embedder: Embedder = models.embedder


def preview_rows(preview: Preview) -> dict[str, list[dict[str, Any]]]:
    """Return the columns of the rows that a user reads, as JSON values."""
    columns = ("id", "category", "strategy", "instruction", "input", "response")
    return {
        "kept": preview.kept.select(columns).to_dicts(),
        "dropped": preview.dropped.select(*columns, "reason", "evidence").to_dicts(),
    }
