"""Run the recipe: each stage at most once for the same inputs, settings and code, resumed wherever a run stopped."""

import logging
import math
import time
from collections import Counter
from collections.abc import Mapping
from contextlib import closing
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path

import polars as pl

from kiloset import recipe
from kiloset.core.calls import CallStore
from kiloset.core.closure import code_sha256
from kiloset.core.memory import PeakMemory
from kiloset.core.progress import Progress
from kiloset.core.recorded import RecordedEmbedder, RecordedEngine, RecordedScorer
from kiloset.core.review import accepted_surplus, read_decisions
from kiloset.core.run import (
    RunFolder,
    file_sha256,
    last_verdict,
    machine_facts,
    sha256_of,
    write_atomically,
    write_text,
)  # fmt: skip
from kiloset.core.table import STAGE_VERDICT, Outcome, check_outcome, table_of
from kiloset.data.quotas import apportion
from kiloset.filters.chain import FilterChain
from kiloset.filters.contamination import Prompts
from kiloset.filters.personal import personal_seeds
from kiloset.generator.categories import check_target, wanted_rows
from kiloset.generator.planning import Yields
from kiloset.generator.settings import PURPOSES
from kiloset.generator.usage import UsageCounts, count_usage, recorded_counts
from kiloset.inputs import Inputs
from kiloset.models import Models
from kiloset.plan.estimate import expected_yield
from kiloset.plan.evidence import Evidence, measured_evidence
from kiloset.recipe import (
    RECIPE,
    STAGE_NAMES,
    Context,
    MissingRows,
    Stage,
    check_same_categories,
    generated,
    label_seeds,
    stage_number,
)
from kiloset.result import SURPLUS, Result, finish
from kiloset.review.apply import Review
from kiloset.settings import RunConfig, check_same, to_toml

logger = logging.getLogger(__name__)

NAMED = 3
"""Contaminated seeds that a message names."""
PROBED = 4
"""Categories that a probe asks for."""


def run_pipeline(config: RunConfig, inputs: Inputs, folder: RunFolder, models: Models, progress: Progress) -> Result:
    """Run every stage that is not finished yet, and write curated.jsonl.

    Raises:
        EmptyError: No row was accepted.
        ConfigError: The folder belongs to another config.
        DataError: An older version made the folder, or a line of review.jsonl is no decision.
    """
    begin(config, folder)
    with folder.lock():
        folder.forget_stages_without_ledger()
        with closing(CallStore(folder.calls)) as store:
            review = Review(read_decisions(folder.review))
            context = replace(make_context(config, inputs, models, store, progress), review=review)
            _log_seed_faults(context, folder)
            table, context = _run_until_full(context, folder)
        return finish(context, folder, table)


def begin(config: RunConfig, folder: RunFolder) -> None:
    """Make the run folder, or check that it is of this config and version.

    Raises:
        DataError: It cannot be written, or an older version made it.
        ConfigError: It belongs to another config.
    """
    folder.create()
    folder.check_format()
    if folder.config.exists():
        check_same(config, folder.config.read_text(encoding="utf-8"), folder.path)
    # Always written: the settings that may change between two calls (engine, training) are those of the last call.
    write_text(folder.config, to_toml(config))
    facts = {"name": folder.path.name, "seed": config.run.seed, "machine": machine_facts()}
    folder.update_manifest(facts)


def reuse_completions(config: RunConfig, inputs: Inputs, folder: RunFolder, other: RunFolder) -> None:
    """Begin a run with all completions, scores and vectors of another run, which an older version may have made.

    A run that has begun already keeps what it has.

    Raises:
        DataError: There is no such other run.
        ConfigError: The other run asked for a category that these seeds lack.
    """
    other.require_any()
    with closing(CallStore.read_only(other.calls)) as store:
        check_same_categories(store, inputs.labelled["category"], other.path.name)
        begin(config, folder)
        with folder.lock():
            if not folder.calls.exists():
                store.copy_to(folder.calls)


def execute(stage: Stage, table: pl.DataFrame, context: Context) -> Outcome:
    """Run one stage on a table, whatever has been stored of it; the review may overrule its verdicts.

    Raises:
        StageError: A row was lost, invented, doubled, renamed or dropped without a reason.
    """
    outcome = context.review.overrule(stage.act(table, context), stage.name)
    check_outcome(stage.name, table, outcome, creates=stage.creates)
    return outcome


def probe(config: RunConfig, inputs: Inputs, folder: RunFolder, models: Models, progress: Progress) -> Evidence:
    """Measure the cost of a run on a few requests, which become its first wave, so that nothing is paid twice.

    Every strategy is tried on a few categories; a run that has begun already continues to the end of its last wave.
    """
    begin(config, folder)
    with folder.lock(), closing(CallStore(folder.calls)) as store:
        context, table = context_of(config, inputs, models, store, progress)
        names = sorted(name for name, rows in context.wanted.items() if rows)
        strategies = [name for name, weight in config.generate.strategies.items() if weight]
        some = names[:: math.ceil(len(names) / PROBED)] if names else []
        first = {name: dict.fromkeys(strategies, config.generate.samples_per_prompt) for name in some}
        result = generated(table, context, first=first, plan=False)
        rows = pl.concat([result.outcome.kept, result.outcome.dropped], how="diagonal_relaxed")
        new = rows.filter(pl.col("source") == "generated")
        return measured_evidence(f"a probe of {store.spent(PURPOSES)[0]} requests", new, result.accepted_ids, store)


def context_of(
    config: RunConfig, inputs: Inputs, models: Models, store: CallStore, progress: Progress
) -> tuple[Context, pl.DataFrame]:
    """Return what the stage `generate` gets: its context and the table of seeds and pool."""
    context = make_context(config, inputs, models, store, progress)
    table = label_seeds(table_of([]), context).kept
    usage = _usage(context, table)
    return replace(context, wanted=_wanted(config, table, usage.counts if usage else None)), table


def make_context(config: RunConfig, inputs: Inputs, models: Models, store: CallStore, progress: Progress) -> Context:
    """Return a context that stores what models return; without review decisions and wanted rows."""
    embedder, prompts = models.embedder, Prompts(inputs.benchmarks, config.contamination)
    return Context(
        config=config, inputs=inputs, models=models,
        generator=RecordedEngine(models.generator, store, progress),
        rewriter=RecordedEngine(models.rewriter, store, progress),
        scorer=RecordedScorer(models.scorer, store, progress),
        embedder=RecordedEmbedder(embedder, store, progress) if embedder.is_costly else embedder,
        store=store, filters=FilterChain(config.rules, config.near_duplicates, prompts, config.run.seed), review=Review({}),
    )  # fmt: skip


def _run_until_full(context: Context, folder: RunFolder) -> tuple[pl.DataFrame, Context]:
    """Run all stages; repeat the pass while a category lacks rows and the last pass generated or replaced some.

    A further pass is needed because later stages drop rows, and how many is known only when all stages have finished.
    """
    store = context.store
    table, context = _run_pass(context, folder)
    while missing := _missing(table, context.wanted):
        counts = len(store.waves()), len(store.dropped_after_selection())
        ledger = folder.dropped()
        store.set_drops(ledger.select("id", "stage", *STAGE_VERDICT).rows())
        store.add_dropped_after_selection(_dropped_after_selection(ledger, missing))
        # Rows that the set did not need in this pass can replace the dropped ones; only the others must be generated.
        unused = Counter(ledger.filter(last_verdict("reason").is_in(SURPLUS))["category"].to_list())
        rows = {name: n - unused[name] for name, n in missing.items() if n > unused[name]}
        yields = _yields(table, ledger, expected_yield(context.config))
        if context.config.categories.fill:
            rows = _without_hopeless(rows, context.wanted, yields, context.config.generate.least_yield)
        shortage = MissingRows(rows, yields) if rows and context.config.generate.enabled else None
        table, context = _run_pass(replace(context, shortage=shortage), folder)
        if (len(store.waves()), len(store.dropped_after_selection())) == counts:
            break
    return table, context


def _run_pass(context: Context, folder: RunFolder) -> tuple[pl.DataFrame, Context]:
    """Run each stage once; a stage that is finished for the same inputs, settings and code is not computed again."""
    table, key = table_of([]), sha256_of(context.inputs.content())
    context = replace(context, wanted={})
    for stage in RECIPE:
        table, key = _run_stage(stage, table, key, context, folder)
        if stage.name == "seeds":
            counts = _recorded_usage(context, table, key, folder)
            context = replace(context, wanted=_wanted(context.config, table, counts))
            folder.update_manifest({"size": context.config.run.size, "target": dict(context.wanted)})
    return table, context


def _run_stage(
    stage: Stage, table: pl.DataFrame, before: str, context: Context, folder: RunFolder
) -> tuple[pl.DataFrame, str]:
    """Return a stage's kept rows and its cache key.

    The rows are read from the stage's file if the file has this cache key; otherwise the stage runs and writes its files.
    `before` is the cache key of the stage before it.
    """
    number, key = stage_number(stage.name), _key(stage, before, context)
    finished = folder.finished(number, stage.name, key)
    must_generate_more = stage.name == "generate" and context.shortage is not None
    # The manifest is written after the files. If the run was stopped between the two, the entry has another cache key, and
    # the stage runs again.
    entry = folder.manifest.get("stages", {}).get(stage.name, {})
    if finished is not None and entry.get("fingerprint") == key and not must_generate_more:
        return finished, key
    started = time.monotonic()
    with PeakMemory() as memory:
        outcome = execute(stage, table, context)
    key = _key(stage, before, context)  # the key of `generate` covers its waves, and the stage may have added some
    _write_extras(outcome, folder)
    folder.write_stage(
        number, stage.name, key, outcome.kept, with_first_verdicts(outcome.dropped, stage.name, context.store)
    )
    reasons = dict(outcome.dropped.group_by("reason").len().sort("len", "reason", descending=[True, False]).iter_rows())
    set_aside = 0 if outcome.set_aside is None else outcome.set_aside.height
    created = outcome.kept.height + outcome.dropped.height + set_aside - table.height
    seconds, peak = time.monotonic() - started, round(memory.gib, 3)
    entry = {
        "fingerprint": key, "in": table.height, "born": created,
        "kept": outcome.kept.height, "dropped": reasons, "set_aside": set_aside,
        "models": {name: getattr(context.models, name).identity for name in stage.models},
        "seconds": round(seconds, 2), "total_seconds": round(entry.get("total_seconds", entry.get("seconds", 0.0)) + seconds, 2),
        "peak_memory_gib": peak, "sha256": file_sha256(folder.stage_file(number, stage.name)),
    }  # fmt: skip
    stages = folder.manifest.get("stages", {}) | {stage.name: entry}
    peak = max(peak, folder.manifest.get("peak_memory_gib", 0.0))
    folder.update_manifest(
        {"stages": stages, "calls": context.store.account(), "peak_memory_gib": peak, **outcome.notes}
    )
    return outcome.kept, key


def with_first_verdicts(dropped: pl.DataFrame, stage: str, store: CallStore) -> pl.DataFrame:
    """Add `stage` and `again` to the rows that a stage drops.

    A row keeps the verdict of an earlier pass unless this pass carried it beyond that stage; `again` then names the stage
    and reason of this pass, where they differ.
    """
    own = dropped.with_columns(stage=pl.lit(stage), again=pl.lit(None, pl.String))
    earlier = pl.DataFrame(
        store.drops(), schema={"id": pl.String, "stage": pl.String, **STAGE_VERDICT}, orient="row"
    ).filter(pl.col("stage").is_in(STAGE_NAMES[stage_number(stage) - 1 :]))
    both = own.select("id", "stage", "reason").join(
        earlier, on="id", how="inner", suffix="_first", maintain_order="left"
    )
    other = both.filter((pl.col("stage") != pl.col("stage_first")) | (pl.col("reason") != pl.col("reason_first")))
    if other.is_empty():
        return own
    again = other.select("id", again=pl.format("{}/{}", "stage", "reason"))
    columns = ["stage", *STAGE_VERDICT]
    first = earlier.join(again, on="id", how="inner")
    place = own.drop(*columns, "again").with_row_index("place")
    replaced = place.join(first, on="id", how="inner").select("place", *own.columns)
    rest = own.with_row_index("place").join(again, on="id", how="anti").select("place", *own.columns)
    return pl.concat([rest, replaced]).sort("place").drop("place")


def _key(stage: Stage, before: str, context: Context) -> str:
    """Return what decides a stage's result: settings, models, code, its input's key, and what is stored besides the table."""
    tables = {name: asdict(getattr(context.config, name)) for name in (*stage.settings, "run", "categories")}
    identities = {name: getattr(context.models, name).identity for name in stage.models}
    # The longest text a model reads decides about which rows it can be asked.
    length = context.config.engine.max_model_len if stage.models else None
    abilities = asdict(context.generator.capabilities) if "generator" in stage.models else None
    stored = {"generate": context.store.waves, "select": context.store.dropped_after_selection}.get(stage.name, list)()
    code = code_sha256(*stage.code), file_sha256(Path(recipe.__file__))
    decisions = context.review.key(stage.name, creates=stage.creates)
    return sha256_of(
        [stage.name, tables, identities, abilities, length, dict(context.wanted), code, before, stored, decisions]
    )


def _write_extras(outcome: Outcome, folder: RunFolder) -> None:
    """Write a stage's further tables and files, before the file that marks it as finished."""
    for name, table in outcome.tables.items():
        write_atomically(folder.path / f"{name}.parquet", table.write_parquet)
    for name, content in outcome.files.items():
        if content is None:
            (folder.path / name).unlink(missing_ok=True)
        else:
            write_atomically(folder.path / name, partial(Path.write_bytes, data=content))


def _log_seed_faults(context: Context, folder: RunFolder) -> None:
    """Log, at each start, which seeds hold personal data and which repeat a benchmark; the manifest records it."""
    config, inputs = context.config, context.inputs
    kinds, message = personal_seeds(inputs.seeds, config.rules.phone_regions, config.rules.personal_data)
    if message:
        logger.info(message)
    folder.update_manifest({"personal_seeds": kinds})
    if inputs.benchmarks.is_empty():
        return
    verdicts = Prompts(inputs.benchmarks, config.contamination).repeated_by(inputs.seeds)
    evidence = {id: str(verdict["evidence"]) for id, verdict in verdicts.items()}
    folder.update_manifest({"contaminated_seeds": evidence})
    if evidence:
        named = "; ".join(f"{id}: {text}" for id, text in list(evidence.items())[:NAMED])
        more = f"; and {len(evidence) - NAMED} more, in manifest.json" if len(evidence) > NAMED else ""
        become = "stay out of the set" if config.seeds.in_set else "are still shown to the model; better replace them"
        logger.warning(
            f"{len(evidence)} of {inputs.seeds.height} seeds repeat a benchmark and {become} ({named}{more})"
        )


def _missing(table: pl.DataFrame, wanted: Mapping[str, int]) -> dict[str, int]:
    """Return the rows that each category lacks; {} where the set has its size."""
    if table.height - accepted_surplus(table, wanted) >= sum(wanted.values()):
        return {}
    got = Counter(table["category"].to_list())
    return {name: n - got[name] for name, n in wanted.items() if n > got[name]}


def _without_hopeless(
    rows: Mapping[str, int], wanted: Mapping[str, int], yields: Yields, least: float
) -> dict[str, int]:
    """Return the missing rows, those of categories with too low a yield spread evenly over the other wanted categories."""
    hopeless = {name for name in wanted if yields.is_hopeless(name, least)}
    others = {name: 1.0 for name, n in wanted.items() if n and name not in hopeless}
    count = sum(n for name, n in rows.items() if name in hopeless)
    spread = apportion(others, count) if others and count else {}
    names = sorted({*rows, *spread} - hopeless)
    return {name: n for name in names if (n := rows.get(name, 0) + spread.get(name, 0))}


def _dropped_after_selection(ledger: pl.DataFrame, missing: Mapping[str, int]) -> list[tuple[str, str, str]]:
    """Return `(id, reason, evidence)` of the rows of these categories that were selected and dropped afterwards."""
    after = STAGE_NAMES[stage_number("select") :]
    is_dropped_after = last_verdict("stage").is_in(after) & ~last_verdict("reason").is_in(SURPLUS)
    return (
        ledger.filter(is_dropped_after & pl.col("category").is_in(list(missing)))
        .select("id", "reason", "evidence")
        .rows()
    )


def _yields(table: pl.DataFrame, ledger: pl.DataFrame, prior: float) -> Yields:
    """Count, by category and strategy, all generated rows, and the rows that were kept or dropped by selection alone."""
    mine = pl.col("source") == "generated"
    gone = ledger.filter(mine)
    spare = gone.filter(last_verdict("reason").is_in(SURPLUS))
    good = pl.concat([part.filter(mine).select("category", "strategy") for part in (table, spare)])
    all_ = pl.concat([part.filter(mine).select("category", "strategy") for part in (table, gone)])
    return Yields(Counter(all_.rows()), Counter(good.rows()), prior)


def _usage(context: Context, seeds: pl.DataFrame) -> UsageCounts | None:
    """Count the prompts of real use by the categories of the seeds; None if the target does not follow them."""
    usage, config = context.inputs.usage, context.config.categories
    if usage is None:
        return None
    known = seeds.filter(pl.col("source") == "seed")["category"].unique().to_list()
    return count_usage(usage, context.inputs.labelled, known, context.embedder, config)


def _recorded_usage(context: Context, seeds: pl.DataFrame, before: str, folder: RunFolder) -> dict[str, int] | None:
    """Return the counts of real use from the manifest, or count again where it has none for this key."""
    if context.inputs.usage is None:
        return None
    identity = context.models.embedder.identity
    key = sha256_of([asdict(context.config.categories), identity, code_sha256(count_usage), before])
    recorded = recorded_counts(folder.manifest.get("usage"), key)
    if recorded is None and (counted := _usage(context, seeds)) is not None:
        folder.update_manifest({"usage": counted.as_record(key)})
        recorded = counted.counts
    return recorded


def _wanted(config: RunConfig, seeds: pl.DataFrame, usage: Mapping[str, int] | None) -> dict[str, int]:
    """Return the wanted rows of each category."""
    pool, own = seeds.filter(pl.col("source") == "pool"), seeds.filter(pl.col("source") == "seed")
    known = own["category"].unique().to_list()
    if usage is not None:
        return wanted_rows(config.categories, known, usage, config.run.size)
    if isinstance(config.categories.target, dict):
        check_target(config.categories.target, known)
    counted = pool if config.categories.target == "candidates" and pool.height else own
    counts = {str(name): int(n) for name, n in counted.group_by("category").len().iter_rows()}
    return wanted_rows(config.categories, known, counts, config.run.size)
