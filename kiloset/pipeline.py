"""The one table of stages, in order, and what runs it."""

import hashlib
import logging
import math
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import closing
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

import polars as pl

from kiloset.core.calls import CallStore
from kiloset.core.errors import ConfigError, EmptyError
from kiloset.core.models import Embedder
from kiloset.core.progress import Progress
from kiloset.core.recorded import RecordedEmbedder, RecordedEngine, RecordedScorer
from kiloset.core.review import Decision, beyond, read_decisions
from kiloset.core.run import RunFolder, code_sha256, file_sha256, machine_facts, sha256_of, write_atomically, write_text
from kiloset.core.table import Outcome, check_outcome, no_rows, table_of, with_verdicts
from kiloset.data.curated import curated_text, is_edited, write_curated
from kiloset.data.examples import load_pool, load_seeds
from kiloset.data.files import SUFFIXES, read_records
from kiloset.data.layouts import parse_prompt
from kiloset.filters.balance import balance
from kiloset.filters.contamination import BENCHMARKS, Prompts, drop_contaminated
from kiloset.filters.groups import duplicate_groups
from kiloset.filters.near_duplicates import drop_near_duplicates, near_duplicate_pairs
from kiloset.filters.personal import mask_rows, personal_pieces, personal_rows, personal_seeds
from kiloset.filters.quality import with_quality
from kiloset.filters.rules import check_rule_names, drop_by_rules, screen_instructions, with_languages
from kiloset.filters.semantic import check_semantic, drop_semantic_duplicates
from kiloset.generator.categories import check_pool_categories, check_target, label_by_neighbours, wanted_rows
from kiloset.generator.loop import GenerationResult, generate
from kiloset.generator.planning import WavePlan, Yields
from kiloset.generator.settings import PURPOSES
from kiloset.generator.templates import Templates
from kiloset.generator.usage import UsageCounts, UsagePrompts, count_usage, read_usage, recorded_counts
from kiloset.models import Models
from kiloset.plan.evidence import Evidence, measured_evidence
from kiloset.review.apply import Reviewed, call_back, reviewed, settle, with_decisions
from kiloset.rewrite.rewrite import rewrite
from kiloset.rewrite.style import rank_by_style
from kiloset.settings import PACKAGE, RunConfig, check_same, to_toml

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Inputs:
    """The user's files, read and checked before any model loads."""

    seeds: pl.DataFrame
    pool: pl.DataFrame
    labelled: pl.DataFrame
    """Rows that teach the categories: the seeds that have one, else the bundled ones."""
    templates: Templates
    usage: UsagePrompts | None = None
    """Prompts of real use, for a target that follows them."""
    benchmarks: pl.DataFrame = field(default_factory=lambda: pl.DataFrame(schema=BENCHMARKS))
    """Prompts that no row may repeat."""

    def content(self) -> dict[str, str]:
        """Return digests of what was read."""
        tables = {"seeds": self.seeds, "pool": self.pool, "labelled": self.labelled}
        tables |= {} if self.benchmarks.is_empty() else {"benchmarks": self.benchmarks}
        digests = {name: hashlib.sha256(table.write_json().encode()).hexdigest() for name, table in tables.items()}
        # The bundled prompts count as code, like all that may change from version to version.
        digests |= {"prompts": self.templates.digest} if self.templates.are_replaced else {}
        return digests | ({"usage": self.usage.digest} if self.usage else {})


@dataclass(frozen=True)
class Context:
    """What a stage may use besides its table."""

    config: RunConfig
    inputs: Inputs
    models: Models
    generator: RecordedEngine
    rewriter: RecordedEngine
    scorer: RecordedScorer
    embedder: Embedder
    store: CallStore
    prompts: Prompts
    """Those of benchmarks, ready to be looked for."""
    wanted: Mapping[str, int]
    decisions: Mapping[str, Decision] = field(default_factory=dict)
    """What a reviewer decided, by row."""
    lacking: "Lacking | None" = None
    """What the set lacked after all stages, for the generation that goes back for it."""
    notes: dict[str, Any] = field(default_factory=dict)
    """What stages have to say besides their tables; goes to the manifest."""
    tables: dict[str, pl.DataFrame] = field(default_factory=dict)
    """What they have to show besides: tables by the name of their file."""
    files: dict[str, bytes | None] = field(default_factory=dict)
    """Other files they leave, by name; None takes away what an earlier pass left."""


@dataclass(frozen=True)
class Lacking:
    """What a pass through all stages left wanting."""

    rows: Mapping[str, int]
    """Rows short, by category."""
    through: Yields
    """Rows born, and those that came through every stage or were only one too many."""


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
class Shortfall:
    """Why a category has fewer rows than were wanted, and what it would take."""

    category: str
    wanted: int
    got: int
    born: int
    """Instructions asked for, and rows of the pool."""
    losses: dict[str, int]
    """What became of the others: `stage/reason`, most first; those that selection had to spare do not count."""
    more_requests: int | None
    """Requests that would be expected to make up for it, None where nothing came through so far."""
    more_tokens: int | None
    """Tokens these would take, prompts included."""


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
    review: Reviewed | None = None
    """What became of the decisions of a review, if there are any."""
    ended: str = "done"
    """Why generation ended: `done`, or what was in its way (`kiloset.generator.loop.GenerationResult`)."""
    shortfalls: tuple[Shortfall, ...] = ()

    @property
    def shortfall(self) -> dict[str, int]:
        """Rows missing, by category; empty if the set has its size."""
        beyond = self.review.beyond if self.review else 0
        if sum(self.got.values()) - beyond >= sum(self.wanted.values()):
            return {}
        return {name: n - self.got.get(name, 0) for name, n in self.wanted.items() if n > self.got.get(name, 0)}


def _seeds(_: pl.DataFrame, context: Context) -> Outcome:
    seeds, rules = context.inputs.seeds, context.config.rules
    if rules.personal_data == "mask":
        seeds = mask_rows(seeds, rules.phone_regions)  # before a model is shown them
    both = pl.concat([seeds, context.inputs.pool], how="diagonal")
    neighbours = context.config.categories.neighbours
    labelled = label_by_neighbours(both, context.inputs.labelled, context.embedder, neighbours)
    return Outcome(kept=labelled, dropped=no_rows(labelled))


def generate_rows(table: pl.DataFrame, context: Context) -> Outcome:
    """Do what the stage `generate` does."""
    if not context.config.generate.enabled:
        return Outcome(kept=table, dropped=no_rows(table))
    made = _generated(table, context)
    context.notes["generate"] = {"ended": made.ended, "candidates_wanted": made.wanted, "candidates": made.accepted}
    return made.outcome


def _generated(
    table: pl.DataFrame, context: Context, *, first: WavePlan | None = None, plan: bool = True
) -> GenerationResult:
    config = context.config
    check_same_categories(context.store, table.filter(pl.col("source") == "seed")["category"], "another run")
    rules = with_languages(config.rules, table)
    passed: dict[str, bool] = {}
    contaminated: dict[str, dict[str, Any]] = {}

    def check_candidates(rows: pl.DataFrame) -> Outcome:
        # A row that was judged by the rules or held against benchmarks before has not changed; its twins may be new.
        fresh = rows.filter(~pl.col("id").is_in(list(passed)))
        good = set(drop_by_rules(fresh, rules).kept["id"]) if fresh.height else set()
        passed.update((id, id in good) for id in fresh["id"])
        contaminated.update(context.prompts.repeated_by(fresh.filter(pl.col("id").is_in(list(good)))))
        kept = rows.filter(pl.col("id").is_in([id for id, passes in passed.items() if passes]))
        distinct = drop_near_duplicates(kept, config.near_duplicates, seed=config.run.seed).kept
        return with_verdicts(distinct, contaminated)

    return generate(
        table, context.generator, context.wanted, config.generate, context.inputs.templates, seed=config.run.seed,
        license=config.models.generator.license, check_instructions=lambda rows: screen_instructions(rows, rules),
        check_candidates=check_candidates, first=first, plan=plan,
        lacking=(context.lacking.rows, context.lacking.through) if context.lacking else None,
    )  # fmt: skip


def _rules(table: pl.DataFrame, context: Context) -> Outcome:
    rules, pieces = context.config.rules, None
    if rules.personal_data != "off":
        pieces = personal_pieces(table, rules.phone_regions)
        found = personal_rows(table, rules.phone_regions, pieces)
        context.tables["personal"] = found
        context.notes["personal"] = dict(found["kind"].value_counts().sort("kind").iter_rows())
    return drop_by_rules(table, rules, pieces)


def _near_duplicates(table: pl.DataFrame, context: Context) -> Outcome:
    config = context.config
    return drop_near_duplicates(table, config.near_duplicates, seed=config.run.seed)


def _contamination(table: pl.DataFrame, context: Context) -> Outcome:
    return drop_contaminated(table, context.prompts, seeds_in_set=context.config.seeds.in_set)


def _semantic(table: pl.DataFrame, context: Context) -> Outcome:
    config = context.config
    # The cheap embedder, a static one, hears no order and hardly a frame word: "who is" and "who was" are one to it.
    if not config.semantic.enabled or not context.embedder.is_costly:
        return Outcome(kept=table, dropped=no_rows(table))
    found = drop_semantic_duplicates(
        table, context.embedder, config.semantic, protect_pool=config.near_duplicates.protect_pool, seed=config.run.seed
    )
    context.notes["borderline"] = found.pairs
    context.tables["borderline"] = found.borderline
    return found.outcome


def _balance(table: pl.DataFrame, context: Context) -> Outcome:
    config = context.config
    # Rows that later stages dropped in an earlier pass are not selected again.
    lost = {id: {"reason": reason, "evidence": evidence} for id, (reason, evidence) in context.store.lost().items()}
    left = with_verdicts(with_decisions(table, context.decisions), lost)
    figures: dict[str, Any] = {}
    chosen = balance(
        with_quality(left.kept, config.quality, config.rules, context.embedder), context.embedder, context.wanted, config.balance,
        seed=config.run.seed, seeds_in_set=config.seeds.in_set, fill=config.categories.fill, figures=figures,
    )  # fmt: skip
    context.notes["diversity"] = figures
    return Outcome(kept=chosen.kept, dropped=pl.concat([left.dropped, chosen.dropped], how="diagonal_relaxed"))


def _rewrite(table: pl.DataFrame, context: Context) -> Outcome:
    config = context.config
    return rewrite(table, context.rewriter, context.scorer, context.embedder, config.rewrite, config.gate)


def _style(table: pl.DataFrame, context: Context) -> Outcome:
    config = context.config
    return rank_by_style(table, context.wanted, config.style, fill=config.categories.fill)


def _review(table: pl.DataFrame, context: Context) -> Outcome:
    settled = settle(table, context.decisions, context.scorer)
    return Outcome(kept=settled, dropped=no_rows(settled))


STAGES = (
    Stage("seeds", _seeds, ("seeds", "pool"), ("generator",), ("embedder",), creates=True),
    Stage(
        "generate",
        generate_rows,
        ("generate", "rules", "near_duplicates", "contamination"),
        ("generator", "filters"),
        ("generator",),
        creates=True,
    ),
    Stage("rules", _rules, ("rules",), ("filters",)),
    Stage("near_duplicates", _near_duplicates, ("near_duplicates",), ("filters",)),
    Stage("contamination", _contamination, ("contamination",), ("filters",)),
    Stage("semantic", _semantic, ("semantic",), ("filters",), ("embedder",)),
    Stage("balance", _balance, ("quality", "balance"), ("filters",), ("embedder",)),
    Stage("rewrite", _rewrite, ("rewrite", "gate"), ("rewrite",), ("rewriter", "scorer", "embedder")),
    Stage("style", _style, ("style",), ("rewrite",)),
    Stage("review", _review, (), ("kiloset",), ("scorer",)),
)

OVERRULED = ("generate", "rules", "near_duplicates", "contamination", "semantic")
"""Stages before selection, whose verdict a reviewer may overrule."""


NAMED = 3
"""Contaminated seeds that are named to the user."""
PROBED = 4
"""Categories that a probe asks for."""
SURPLUS = ("over_quota", "style_reserve")
"""Reasons by which selection leaves out rows that are good enough, for there are more than were asked for."""


def read_inputs(config: RunConfig) -> Inputs:
    """Read seeds, pool, category labels, prompts of real use and of benchmarks; check what can be without a model.

    Raises:
        DataError: A file is missing or broken.
        ConfigError: The target names a category, or [rules] off a rule, that does not exist.
        EmptyError: A file has no example.
    """
    check_rule_names(config.rules)
    check_semantic(config.semantic)
    seeds = load_seeds(located(config.seeds.path), license=config.seeds.license)
    pool = table_of([])
    if config.pool.path:
        pool = load_pool(located(config.pool.path), license=config.pool.license, limit=config.pool.limit)
    labelled = seeds.filter(pl.col("category") != "")
    if labelled.is_empty():
        path = located(config.categories.labels)
        every = load_seeds(path, license="unknown", table="categories")
        labelled = every.filter(pl.col("category") != "")
        if labelled.is_empty():
            raise EmptyError("KS855", f"{path}: no example has a category ([categories] labels)")
    known = labelled["category"].unique().to_list()
    if isinstance(config.categories.target, dict):
        check_target(config.categories.target, known)
    check_pool_categories(pool, known, config.categories.target)
    usage = None
    if config.categories.usage:
        usage = read_usage(located(config.categories.usage), config.categories.usage_limit, config.run.seed)
    benchmarks = read_benchmarks(config.contamination.files)
    return Inputs(seeds, pool, labelled, Templates(config.generate.prompts), usage, benchmarks)


def read_benchmarks(paths: Iterable[str], setting: str = "[contamination] files") -> pl.DataFrame:
    """Return every prompt of some files with its place; of a Self-Instruct task, one for each of its inputs.

    `setting` is what errors call the option that named them.
    """
    found: list[tuple[str, str]] = []
    for path in paths:
        before = len(found)
        for place, value in read_records(located(path), setting, (*SUFFIXES, ".txt")):
            instances = value.get("instances") if isinstance(value, dict) else None
            given = [each for each in instances if isinstance(each, dict)] if isinstance(instances, list) else []
            values = [{**value, "input": each.get("input")} for each in given] or [value]
            found += [(place, parse_prompt(each, place)) for each in values]
        if len(found) == before:
            raise EmptyError("KS856", f"{path}: no prompt in it; each of {setting} needs at least one")
    return pl.DataFrame(found, schema=BENCHMARKS, orient="row")


def located(path: str) -> str:
    """Return a path as it is if it exists, else inside the package if it exists there."""
    ours = PACKAGE / path
    return str(ours) if not Path(path).exists() and not Path(path).is_absolute() and ours.exists() else path


def run_pipeline(config: RunConfig, inputs: Inputs, folder: RunFolder, models: Models, progress: Progress) -> Result:
    """Run every stage that is not finished yet, and write curated.jsonl.

    Raises:
        EmptyError: No row was accepted.
        ConfigError: The folder belongs to another config.
        DataError: A line of review.jsonl is no decision.
    """
    begin(config, folder)
    with folder.lock():
        folder.forget_stages_without_ledger()
        return _run(config, inputs, folder, models, progress)


def _run(config: RunConfig, inputs: Inputs, folder: RunFolder, models: Models, progress: Progress) -> Result:
    store = CallStore(folder.calls)
    try:
        decisions = read_decisions(folder.review)
        context = replace(_context(config, inputs, models, store, progress), decisions=decisions)
        _log_seed_faults(context, folder)
        table, context = _pass(context, folder, store)
        # What later stages take away is known only now: go back for the categories that fell short, until none does or
        # nothing more can be done about it.
        while short := _lacking(table, context.wanted):
            before = len(store.waves()), len(store.lost())
            ledger = folder.dropped()
            store.add_lost(_lost(ledger, short))
            spare = Counter(ledger.filter(pl.col("reason").is_in(SURPLUS))["category"].to_list())
            rows = {name: n - spare[name] for name, n in short.items() if n > spare[name]}
            lacking = Lacking(rows, _through(table, ledger)) if rows and config.generate.enabled else None
            table, context = _pass(replace(context, lacking=lacking), folder, store)
            if (len(store.waves()), len(store.lost())) == before:
                break
    finally:
        store.close()
    return _finish(config, folder, table, context)


def _log_seed_faults(context: Context, folder: RunFolder) -> None:
    """Log, at each start, which seeds hold personal data and which repeat a benchmark; the manifest keeps it."""
    config, inputs = context.config, context.inputs
    kinds, told = personal_seeds(inputs.seeds, config.rules.phone_regions, config.rules.personal_data)
    if told:
        logger.info(told)
    folder.update_manifest({"personal_seeds": kinds})
    if inputs.benchmarks.is_empty():
        return
    found = context.prompts.repeated_by(inputs.seeds)
    evidence = {id: str(verdict["evidence"]) for id, verdict in found.items()}
    folder.update_manifest({"contaminated_seeds": evidence})
    if evidence:
        named = "; ".join(f"{id}: {said}" for id, said in list(evidence.items())[:NAMED])
        more = f"; and {len(evidence) - NAMED} more, in manifest.json" if len(evidence) > NAMED else ""
        become = "stay out of the set" if config.seeds.in_set else "are still shown to the model; better replace them"
        logger.warning(
            f"{len(evidence)} of {inputs.seeds.height} seeds repeat a benchmark and {become} ({named}{more})"
        )


def _context(config: RunConfig, inputs: Inputs, models: Models, store: CallStore, progress: Progress) -> Context:
    embedder = models.embedder
    return Context(
        config, inputs, models, RecordedEngine(models.generator, store, progress),
        RecordedEngine(models.rewriter, store, progress),
        RecordedScorer(models.scorer, store, progress),
        RecordedEmbedder(embedder, store, progress) if embedder.is_costly else embedder, store,
        Prompts(inputs.benchmarks, config.contamination), {},
    )  # fmt: skip


def context_of(
    config: RunConfig, inputs: Inputs, models: Models, store: CallStore, progress: Progress
) -> tuple[Context, pl.DataFrame]:
    """Return what the stage `generate` gets: its context and the table of seeds and pool."""
    context = _context(config, inputs, models, store, progress)
    table = _seeds(table_of([]), context).kept
    usage = _usage(context, table)
    return replace(context, wanted=_wanted(config, table, usage.counts if usage else None)), table


def _pass(context: Context, folder: RunFolder, store: CallStore) -> tuple[pl.DataFrame, Context]:
    """Run every stage that is not finished yet, once."""
    table, fingerprint = table_of([]), sha256_of(context.inputs.content())
    context = replace(context, wanted={})
    for number, stage in enumerate(STAGES, 1):
        table, fingerprint = _run_stage(number, stage, table, fingerprint, context, folder, store)
        if stage.name == "seeds":
            counts = _recorded_usage(context, table, fingerprint, folder)
            context = replace(context, wanted=_wanted(context.config, table, counts))
            folder.update_manifest({"size": context.config.run.size, "target": dict(context.wanted)})
    return table, context


def _lacking(table: pl.DataFrame, wanted: Mapping[str, int]) -> dict[str, int]:
    """Return the rows that each category is short of; none where the set has its size."""
    if table.height - beyond(table, wanted) >= sum(wanted.values()):
        return {}
    got = Counter(table["category"].to_list())
    return {name: n - got[name] for name, n in wanted.items() if n > got[name]}


def _lost(ledger: pl.DataFrame, short: Mapping[str, int]) -> list[tuple[str, str, str]]:
    """Return `(id, reason, evidence)` of the rows of these categories that were selected and dropped afterwards."""
    names = [stage.name for stage in STAGES]
    after = pl.col("stage").is_in(names[names.index("balance") + 1 :]) & ~pl.col("reason").is_in(SURPLUS)
    return ledger.filter(after & pl.col("category").is_in(list(short))).select("id", "reason", "evidence").rows()


def _through(table: pl.DataFrame, ledger: pl.DataFrame) -> Yields:
    """Count, by category and strategy, the rows that were born and those that only selection left out, if anything did."""
    mine = pl.col("source") == "generated"
    gone = ledger.filter(mine)
    spare = gone.filter(pl.col("reason").is_in(SURPLUS))
    good = pl.concat([part.filter(mine).select("category", "strategy") for part in (table, spare)])
    born = pl.concat([part.filter(mine).select("category", "strategy") for part in (table, gone)])
    return Yields(Counter(born.rows()), Counter(good.rows()))


def probe(config: RunConfig, inputs: Inputs, folder: RunFolder, models: Models, progress: Progress) -> Evidence:
    """Measure on a few requests what a run will take. They are its first wave, so nothing of them is lost.

    Every strategy is tried on a few categories; a run that has begun already goes on to the end of its last wave.
    """
    begin(config, folder)
    with folder.lock(), closing(CallStore(folder.calls)) as store:
        context, table = context_of(config, inputs, models, store, progress)
        names = sorted(name for name, rows in context.wanted.items() if rows)
        strategies = [name for name, weight in config.generate.strategies.items() if weight]
        some = names[:: math.ceil(len(names) / PROBED)] if names else []
        first = {name: dict.fromkeys(strategies, config.generate.samples_per_prompt) for name in some}
        made = _generated(table, context, first=first, plan=False)
        rows = pl.concat([made.outcome.kept, made.outcome.dropped], how="diagonal_relaxed")
        born = rows.filter(pl.col("source") == "generated")
        return measured_evidence(f"a probe of {store.spent(PURPOSES)[0]} requests", born, made.accepted_ids, store)


def check_same_categories(store: CallStore, known: Iterable[str], name: str) -> None:
    """Check that the waves which are to be gone through again asked for nothing that these seeds cannot show.

    Raises:
        ConfigError: It asked for a category that they lack.
    """
    asked = {name for wave in store.waves() for name in wave}
    if lacking := sorted(asked - {*known}):
        raise ConfigError(
            "KS857",
            f"--from {name}: that run asked for {', '.join(lacking)}, of which these seeds have none; it can only be "
            f"gone on from with seeds of the same categories",
        )


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
    writers = [getattr(context, name) for name in ("generator",) if name in stage.models]
    can = [asdict(writer.capabilities) for writer in writers]
    given = [stage.name, tables, identities, can, length, dict(context.wanted), code, before]
    fingerprint = sha256_of([*given, _noted(stage, context, store)])
    done = folder.finished(number, stage.name, fingerprint)
    goes_back = stage.name == "generate" and context.lacking is not None
    # The manifest is written after the files: what it says of an earlier pass does not count.
    said = folder.manifest.get("stages", {}).get(stage.name, {})
    if done is not None and said.get("fingerprint") == fingerprint and not goes_back:
        return done, fingerprint
    started = time.monotonic()
    outcome = judged(stage, table, context)
    fingerprint = sha256_of([*given, _noted(stage, context, store)])  # with the waves it has added
    _leave(context, folder)
    folder.write_stage(number, stage.name, fingerprint, outcome.kept, outcome.dropped)
    reasons = dict(outcome.dropped.group_by("reason").len().sort("len", "reason", descending=[True, False]).iter_rows())
    stages = folder.manifest.get("stages", {}) | {
        stage.name: {
            "fingerprint": fingerprint, "in": table.height, "born": outcome.kept.height + outcome.dropped.height - table.height,
            "kept": outcome.kept.height, "dropped": reasons, "models": identities,
            "seconds": round(time.monotonic() - started, 2), "sha256": file_sha256(folder.stage_file(number, stage.name)),
        }
    }  # fmt: skip
    folder.update_manifest({"stages": stages, "calls": store.account(), **context.notes})
    return outcome.kept, fingerprint


def judged(stage: Stage, table: pl.DataFrame, context: Context) -> Outcome:
    """Return what a stage does with a table, where a reviewer did not overrule it.

    Raises:
        StageError: A row was lost, invented, doubled, renamed or dropped without a reason.
    """
    outcome = stage.act(table, context)
    if stage.name in OVERRULED:
        outcome = call_back(outcome, context.decisions, stage.name)
    check_outcome(stage.name, table, outcome, creates=stage.creates)
    return outcome


def _leave(context: Context, folder: RunFolder) -> None:
    """Write what a stage leaves beside its rows, before the file that says it is finished."""
    for name, beside in context.tables.items():
        write_atomically(folder.path / f"{name}.parquet", beside.write_parquet)
    for name, content in context.files.items():
        if content is None:
            (folder.path / name).unlink(missing_ok=True)
        else:
            write_atomically(folder.path / name, partial(Path.write_bytes, data=content))
    context.tables.clear()
    context.files.clear()


def _noted(stage: Stage, context: Context, store: CallStore) -> Any:
    """Return what decides what a stage does besides its table, settings, models and code: waves, lost rows, decisions."""
    noted = {"generate": store.waves, "balance": store.lost}.get(stage.name, list)()
    said = context.decisions.values()
    if stage.name in OVERRULED:
        return noted, sorted((each.id, each.born) for each in said if each.verdict == "accept")
    return noted, [] if stage.creates else [{**asdict(each), "time": ""} for each in said]


def _usage(context: Context, seeds: pl.DataFrame) -> UsageCounts | None:
    """Count the prompts of real use by the categories of the seeds; None if the target does not follow them."""
    usage, config = context.inputs.usage, context.config.categories
    if usage is None:
        return None
    known = seeds.filter(pl.col("source") == "seed")["category"].unique().to_list()
    return count_usage(usage, context.inputs.labelled, known, context.embedder, config)


def _recorded_usage(context: Context, seeds: pl.DataFrame, before: str, folder: RunFolder) -> dict[str, int] | None:
    """Return the counts of real use from the manifest or, where it has none of this reading, anew."""
    if context.inputs.usage is None:
        return None
    given = [asdict(context.config.categories), context.models.embedder.identity, code_sha256("generator"), before]
    fingerprint = sha256_of(given)
    recorded = recorded_counts(folder.manifest.get("usage"), fingerprint)
    if recorded is None and (found := _usage(context, seeds)) is not None:
        folder.update_manifest({"usage": found.as_record(fingerprint)})
        recorded = found.counts
    return recorded


def _wanted(config: RunConfig, seeds: pl.DataFrame, usage: Mapping[str, int] | None) -> dict[str, int]:
    pool = seeds.filter(pl.col("source") == "pool")
    known = seeds.filter(pl.col("source") == "seed")["category"].unique().to_list()
    if usage is not None:
        return wanted_rows(config.categories, known, usage, config.run.size)
    if isinstance(config.categories.target, dict):
        check_target(config.categories.target, known)
    counted = (
        pool if config.categories.target == "candidates" and pool.height else seeds.filter(pl.col("source") == "seed")
    )
    counts = {str(name): int(n) for name, n in counted.group_by("category").len().iter_rows()}
    return wanted_rows(config.categories, known, counts, config.run.size)


def _finish(config: RunConfig, folder: RunFolder, table: pl.DataFrame, context: Context) -> Result:
    ledger, wanted = folder.dropped(), context.wanted
    dropped: dict[str, dict[str, int]] = {}
    for stage, reason, count in ledger.group_by("stage", "reason", maintain_order=True).len().iter_rows():
        dropped.setdefault(stage, {})[reason] = count
    if table.is_empty():
        commonest = sorted(
            ((n, f"{stage}/{reason}") for stage, found in dropped.items() for reason, n in found.items()), reverse=True
        )
        reasons = ", ".join(f"{reason} {n}" for n, reason in commonest[:4]) or "nothing was generated"
        raise EmptyError("KS858", f"{folder.path}: no row was accepted; dropped: {reasons} (all in dropped.parquet)")
    write_atomically(folder.duplicates, duplicate_groups(table, ledger).write_parquet)
    pairs = near_duplicate_pairs(table, config.near_duplicates.threshold)
    text = curated_text(table, ledger, pairs, config.run.validation, config.run.seed)
    edited = is_edited(folder, text)
    if not edited:
        write_curated(folder, text)
    got = {str(name): int(n) for name, n in table.group_by("category").len().sort("category").iter_rows()}
    ended = str(folder.manifest.get("generate", {}).get("ended", "done")) if config.generate.enabled else "off"
    review = reviewed(context.decisions, table, ledger, beyond(table, wanted))
    result = Result(table.height, dict(wanted), got, dropped, edited, review, ended)
    result = replace(result, shortfalls=tuple(_shortfalls(result.shortfall, result, table, ledger, folder)))
    said = asdict(review) if review else None
    folder.update_manifest({"got": got, "shortfall": result.shortfall, "review": said})
    return result


def _shortfalls(
    short: Mapping[str, int], result: Result, table: pl.DataFrame, ledger: pl.DataFrame, folder: RunFolder
) -> Iterator[Shortfall]:
    asked = pl.col("source") != "seed"
    gone = ledger.filter(asked & ~pl.col("reason").is_in(SURPLUS))
    born = pl.concat([part.filter(asked).select("category", "source") for part in (table, ledger)])
    calls = [spent for name, spent in folder.manifest.get("calls", {}).items() if name in PURPOSES]
    generated = born.filter(pl.col("source") == "generated").height
    requests = sum(spent["completed"] for spent in calls)
    tokens = sum(spent["prompt_tokens"] + spent["completion_tokens"] for spent in calls)
    for name, rows in short.items():
        lost = gone.filter(pl.col("category") == name).group_by("stage", "reason").len()
        losses = {
            f"{stage}/{reason}": n for stage, reason, n in lost.sort(["len", "reason"], descending=[True, False]).rows()
        }
        number, got = born.filter(pl.col("category") == name).height, result.got.get(name, 0)
        more = math.ceil(rows * number / got) if got and generated else None
        yield Shortfall(
            name, result.wanted[name], got, number, losses,
            None if more is None else math.ceil(more * requests / generated),
            None if more is None else math.ceil(more * tokens / generated),
        )  # fmt: skip
