"""The one table of stages, in order, and what runs it."""

import hashlib
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import polars as pl

from core.calls import CallStore, RecordedEngine, RecordedScorer
from core.errors import EmptyError
from core.models import Progress
from core.run import RunFolder, code_sha256, file_sha256, machine_facts, sha256_of, write_text
from core.table import Outcome, check_outcome, no_rows, table_of
from filters.balance import balance
from filters.near_duplicates import drop_near_duplicates
from filters.quality import with_quality
from filters.rules import check_rule_names, drop_by_rules, screen_instructions
from generator.categories import check_pool_categories, check_target, label_by_neighbours, wanted_rows
from generator.loop import generate
from generator.seeds import load_examples
from kiloset.curated import curated_text, is_edited, write_curated
from kiloset.models import Models
from kiloset.settings import ROOT, RunConfig, check_same, to_toml
from rewrite.rewrite import rewrite
from rewrite.style import rank_by_style


@dataclass(frozen=True)
class Inputs:
    """The user's files, read and checked before any model loads."""

    seeds: pl.DataFrame
    pool: pl.DataFrame
    labelled: pl.DataFrame
    """Rows that teach the categories: the seeds that have one, else the bundled ones."""

    def content(self) -> dict[str, str]:
        """Return digests of what was read."""
        tables = {"seeds": self.seeds, "pool": self.pool, "labelled": self.labelled}
        return {name: hashlib.sha256(table.write_json().encode()).hexdigest() for name, table in tables.items()}


@dataclass(frozen=True)
class Context:
    """What a stage may use besides its table."""

    config: RunConfig
    inputs: Inputs
    models: Models
    generator: RecordedEngine
    base: RecordedEngine
    scorer: RecordedScorer
    wanted: Mapping[str, int]


@dataclass(frozen=True)
class Stage:
    """One row of the table of stages."""

    name: str
    act: Callable[[pl.DataFrame, Context], Outcome]
    tables: tuple[str, ...]
    """Config tables that change what it does; with its code and input they decide whether a finished file still counts."""
    packages: tuple[str, ...]
    models: tuple[str, ...] = ()
    creates: bool = False


@dataclass(frozen=True)
class Result:
    """How a run ended."""

    rows: int
    wanted: dict[str, int]
    got: dict[str, int]
    dropped: dict[str, dict[str, int]]
    """Rows dropped, by stage and reason."""
    edited: bool
    """The user changed curated.jsonl by hand; it was left alone."""

    @property
    def shortfall(self) -> dict[str, int]:
        """Rows missing, by category; empty if the set has its size."""
        if sum(self.got.values()) >= sum(self.wanted.values()):
            return {}
        return {name: n - self.got.get(name, 0) for name, n in self.wanted.items() if n > self.got.get(name, 0)}


def _seeds(_: pl.DataFrame, context: Context) -> Outcome:
    both = pl.concat([context.inputs.seeds, context.inputs.pool])
    neighbours = context.config.categories.neighbours
    labelled = label_by_neighbours(both, context.inputs.labelled, context.models.embedder, neighbours)
    return Outcome(kept=labelled, dropped=no_rows(labelled))


def _generate(table: pl.DataFrame, context: Context) -> Outcome:
    config = context.config
    if not config.generate.enabled:
        return Outcome(kept=table, dropped=no_rows(table))
    return generate(
        table, context.generator, context.wanted, config.generate, seed=config.run.seed,
        license=config.models.generator.license,
        screen=lambda rows: screen_instructions(rows, config.rules), judge=lambda rows: drop_by_rules(rows, config.rules),
    )  # fmt: skip


def _rules(table: pl.DataFrame, context: Context) -> Outcome:
    return drop_by_rules(table, context.config.rules)


def _near_duplicates(table: pl.DataFrame, context: Context) -> Outcome:
    return drop_near_duplicates(table, context.config.near_duplicates, seed=context.config.run.seed)


def _balance(table: pl.DataFrame, context: Context) -> Outcome:
    config, embedder = context.config, context.models.embedder
    return balance(
        with_quality(table, embedder, config.quality), embedder, context.wanted, config.balance, seed=config.run.seed,
        seeds_in_set=config.seeds.in_set, fill=config.categories.fill,
    )  # fmt: skip


def _rewrite(table: pl.DataFrame, context: Context) -> Outcome:
    config = context.config
    return rewrite(table, context.base, context.scorer, context.models.embedder, config.rewrite, config.gate)


def _style(table: pl.DataFrame, context: Context) -> Outcome:
    return rank_by_style(table, context.wanted, context.config.style, fill=context.config.categories.fill)


STAGES = (
    Stage("seeds", _seeds, ("seeds", "pool"), ("generator",), ("embedder",), creates=True),
    Stage("generate", _generate, ("generate", "rules"), ("generator", "filters"), ("generator",), creates=True),
    Stage("rules", _rules, ("rules",), ("filters",)),
    Stage("near_duplicates", _near_duplicates, ("near_duplicates",), ("filters",)),
    Stage("balance", _balance, ("quality", "balance"), ("filters",), ("embedder",)),
    Stage("rewrite", _rewrite, ("rewrite", "gate"), ("rewrite",), ("base", "scorer", "embedder")),
    Stage("style", _style, ("style",), ("rewrite",)),
)


def read_inputs(config: RunConfig) -> Inputs:
    """Read seeds, pool and category labels, and check what can be checked without a model.

    Raises:
        DataError: A file is missing or broken.
        ConfigError: The target names a category, or [rules] off a rule, that does not exist.
        EmptyError: A file has no example.
    """
    check_rule_names(config.rules)
    seeds = load_examples(
        located(config.seeds.path), prefix="s", source="seed", license=config.seeds.license, where="seeds"
    )
    pool = table_of([])
    if config.pool.path:
        pool = load_examples(
            located(config.pool.path), prefix="p", source="pool", license=config.pool.license, where="pool",
            limit=config.pool.limit,
        )  # fmt: skip
    labelled = seeds.filter(pl.col("category") != "")
    if labelled.is_empty():
        path = located(config.categories.labels)
        every = load_examples(path, prefix="s", source="seed", license="unknown", where="categories")
        labelled = every.filter(pl.col("category") != "")
        if labelled.is_empty():
            raise EmptyError(f"{path}: no example has a category ([categories] labels)")
    known = labelled["category"].unique().to_list()
    if isinstance(config.categories.target, dict):
        check_target(config.categories.target, known)
    check_pool_categories(pool, known, config.categories.target)
    return Inputs(seeds, pool, labelled)


def located(path: str) -> str:
    """Return a path as it is if it exists, else under the project's own folder if it exists there."""
    ours = ROOT / path
    return str(ours) if not Path(path).exists() and not Path(path).is_absolute() and ours.exists() else path


def run_pipeline(config: RunConfig, inputs: Inputs, folder: RunFolder, models: Models, progress: Progress) -> Result:
    """Run every stage that is not finished yet, and write curated.jsonl.

    Raises:
        EmptyError: No row was accepted.
        ConfigError: The folder belongs to another config.
    """
    begin(config, folder)
    with folder.lock():
        folder.forget_stages_without_ledger()
        return _run(config, inputs, folder, models, progress)


def _run(config: RunConfig, inputs: Inputs, folder: RunFolder, models: Models, progress: Progress) -> Result:
    store = CallStore(folder.calls)
    try:
        context = Context(
            config, inputs, models, RecordedEngine(models.generator, store, progress),
            RecordedEngine(models.base, store, progress), RecordedScorer(models.scorer, store, progress), {},
        )  # fmt: skip
        table, fingerprint = table_of([]), sha256_of(inputs.content())
        for number, stage in enumerate(STAGES, 1):
            table, fingerprint = _run_stage(number, stage, table, fingerprint, context, folder, store)
            if stage.name == "seeds":
                context = replace(context, wanted=_wanted(config, table))
                folder.update_manifest({"size": config.run.size, "target": dict(context.wanted)})
    finally:
        store.close()
    return _finish(config, folder, table, context.wanted)


def begin(config: RunConfig, folder: RunFolder) -> None:
    """Make the run folder, or check that it is of this config.

    Raises:
        DataError: It cannot be written.
        ConfigError: It belongs to another config.
    """
    folder.create()
    if folder.config.exists():
        check_same(config, folder.config.read_text(encoding="utf-8"), folder.path)
    # Always written: what may differ between two calls (engine, training) is as the last one said.
    write_text(folder.config, to_toml(config))
    folder.update_manifest({"name": folder.path.name, "seed": config.run.seed, "machine": machine_facts()})


def _run_stage(
    number: int, stage: Stage, table: pl.DataFrame, before: str, context: Context, folder: RunFolder, store: CallStore
) -> tuple[pl.DataFrame, str]:
    tables = {name: asdict(getattr(context.config, name)) for name in (*stage.tables, "run", "categories")}
    identities = {name: getattr(context.models, name).identity for name in stage.models}
    code = code_sha256("core", *stage.packages, *(["engines"] if stage.models else []))
    # The longest text a model reads decides which rows it can be asked about.
    length = context.config.engine.max_model_len if stage.models else None
    fingerprint = sha256_of([stage.name, tables, identities, length, dict(context.wanted), code, before])
    done = folder.finished(number, stage.name, fingerprint)
    if done is not None and stage.name in folder.manifest.get("stages", {}):
        return done, fingerprint
    started = time.monotonic()
    outcome = stage.act(table, context)
    check_outcome(stage.name, table, outcome, creates=stage.creates)
    folder.write_stage(number, stage.name, fingerprint, outcome.kept, outcome.dropped)
    reasons = dict(outcome.dropped.group_by("reason").len().sort("len", "reason", descending=[True, False]).iter_rows())
    stages = folder.manifest.get("stages", {}) | {
        stage.name: {
            "in": table.height, "born": outcome.kept.height + outcome.dropped.height - table.height,
            "kept": outcome.kept.height, "dropped": reasons, "models": identities,
            "seconds": round(time.monotonic() - started, 2), "sha256": file_sha256(folder.stage_file(number, stage.name)),
        }
    }  # fmt: skip
    folder.update_manifest({"stages": stages, "calls": store.account()})
    return outcome.kept, fingerprint


def _wanted(config: RunConfig, seeds: pl.DataFrame) -> dict[str, int]:
    pool = seeds.filter(pl.col("source") == "pool")
    known = seeds.filter(pl.col("source") == "seed")["category"].unique().to_list()
    if isinstance(config.categories.target, dict):
        check_target(config.categories.target, known)
    counted = (
        pool if config.categories.target == "candidates" and pool.height else seeds.filter(pl.col("source") == "seed")
    )
    counts = {str(name): int(n) for name, n in counted.group_by("category").len().iter_rows()}
    return wanted_rows(config.categories, known, counts, config.run.size)


def _finish(config: RunConfig, folder: RunFolder, table: pl.DataFrame, wanted: Mapping[str, int]) -> Result:
    ledger = folder.dropped()
    dropped: dict[str, dict[str, int]] = {}
    for stage, reason, count in ledger.group_by("stage", "reason", maintain_order=True).len().iter_rows():
        dropped.setdefault(stage, {})[reason] = count
    if table.is_empty():
        commonest = sorted(
            ((n, f"{stage}/{reason}") for stage, found in dropped.items() for reason, n in found.items()), reverse=True
        )
        reasons = ", ".join(f"{reason} {n}" for n, reason in commonest[:4]) or "nothing was generated"
        raise EmptyError(f"{folder.path}: no row was accepted; dropped: {reasons} (all in dropped.parquet)")
    text = curated_text(table, config.run.validation, config.run.seed)
    edited = is_edited(folder, text)
    if not edited:
        write_curated(folder, text)
    got = {str(name): int(n) for name, n in table.group_by("category").len().sort("category").iter_rows()}
    result = Result(table.height, dict(wanted), got, dropped, edited)
    folder.update_manifest({"got": got, "shortfall": result.shortfall})
    return result
