"""The pipeline, from seeds to the curated set: every stage, in order, with what it needs.

A stage is a function of the table and the run's `Context`. It returns an `Outcome` and changes nothing that it was given.
`RECIPE` at the end of this file lists the stages; `kiloset.runner` runs them.
"""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import polars as pl

from kiloset.core.calls import CallStore
from kiloset.core.errors import ConfigError
from kiloset.core.models import Embedder
from kiloset.core.recorded import RecordedEngine, RecordedScorer
from kiloset.core.review import is_accepted
from kiloset.core.table import Outcome, keep_all, no_rows, with_verdicts
from kiloset.filters.chain import FilterChain
from kiloset.filters.contamination import drop_contaminated
from kiloset.filters.personal import mask_rows
from kiloset.filters.quality import with_quality
from kiloset.filters.rules import screen_instructions, with_languages
from kiloset.filters.selection import select
from kiloset.filters.semantic import drop_semantic_duplicates
from kiloset.generator.categories import label_by_neighbours
from kiloset.generator.loop import GenerationResult, generate
from kiloset.generator.planning import WavePlan, Yields
from kiloset.generator.settings import Resampling
from kiloset.inputs import Inputs
from kiloset.models import Models
from kiloset.review.apply import Review
from kiloset.rewrite.rewrite import rewrite
from kiloset.rewrite.style import rank_by_style
from kiloset.settings import RunConfig
from kiloset.verify.settings import VerifyConfig
from kiloset.verify.verify import check_row, verify


@dataclass(frozen=True)
class MissingRows:
    """What the set lacks after a pass through all stages."""

    rows: Mapping[str, int]
    """Missing rows, by category."""
    yields: Yields
    """Requested instructions, and the good ones: kept by every stage, or dropped only for being beyond the wanted number."""


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
    filters: FilterChain
    review: Review
    wanted: Mapping[str, int] = field(default_factory=dict)
    """Wanted rows, by category."""
    shortage: MissingRows | None = None
    """What the previous pass left missing, for the generation that goes back for it."""


@dataclass(frozen=True)
class Stage:
    """One entry of the recipe."""

    name: str
    act: Callable[[pl.DataFrame, Context], Outcome]
    code: tuple[Callable[..., Any], ...]
    """Functions and classes that `act` uses. A change in the closure of their modules invalidates the stage's result."""
    settings: tuple[str, ...] = ()
    """Tables of the config that change the result; `run` and `categories` count for every stage."""
    models: tuple[str, ...] = ()
    """Models whose identity changes the result."""
    creates: bool = False
    """Whether it adds rows."""


def label_seeds(_: pl.DataFrame, context: Context) -> Outcome:
    """Start the table: seeds and pool, each row with a category."""
    seeds, rules = context.inputs.seeds, context.config.rules
    if rules.personal_data == "mask":
        seeds = mask_rows(seeds, rules.phone_regions)  # before a model is shown them
    both = pl.concat([seeds, context.inputs.pool], how="diagonal")
    neighbours = context.config.categories.neighbours
    return keep_all(label_by_neighbours(both, context.inputs.labelled, context.embedder, neighbours))


def add_generated(table: pl.DataFrame, context: Context) -> Outcome:
    """Add generated rows until enough candidates of each category pass the cheap filters."""
    if not context.config.generate.enabled:
        return keep_all(table)
    result = generated(table, context)
    notes = {"generate": {"ended": result.ended, "candidates_wanted": result.wanted, "candidates": result.accepted}}
    return Outcome(result.outcome.kept, result.outcome.dropped, notes=notes)


def generated(
    table: pl.DataFrame, context: Context, *, first: WavePlan | None = None, plan: bool = True
) -> GenerationResult:
    """Run the generation loop; `first` and `plan` are those of `kiloset.generator.loop.generate`."""
    config, shortage = context.config, context.shortage
    seeds = table.filter(pl.col("source") == "seed")
    check_same_categories(context.store, seeds["category"], "another run")
    rules = with_languages(config.rules, table)
    known: dict[str, list[dict[str, Any]]] = {}
    return generate(
        table, context.generator, context.wanted, config.generate, context.inputs.templates, seed=config.run.seed,
        license=config.models.generator.license, check_instructions=lambda rows: screen_instructions(rows, rules),
        check_candidates=lambda rows: context.filters.candidates(verify(rows, config.verify, known).kept), first=first, plan=plan,
        topics=context.inputs.topics, resampling=resampling_of(config.verify), lacking=(shortage.rows, shortage.yields) if shortage else None,
    )  # fmt: skip


def resampling_of(config: VerifyConfig) -> Resampling | None:
    """Return how generation requests answers again; None if the check `agreement` is off."""
    if not config.repeats:
        return None

    def skips(row: Mapping[str, Any]) -> bool:
        """A row that fails another check needs no further answers, and open-ended answers are not compared."""
        return row["category"] in config.open_ended or any(not each["passed"] for each in check_row(row, config))

    return Resampling(config.repeats, config.temperature, skips, config.final_number)


def verify_rows(table: pl.DataFrame, context: Context) -> Outcome:
    """Drop rows whose answer a check shows to be wrong, or that the writer model does not give again."""
    return verify(table, context.config.verify)


def apply_rules(table: pl.DataFrame, context: Context) -> Outcome:
    """Drop rows that break a rule; list, mask or drop personal data."""
    outcome, personal = context.filters.by_rules(table)
    if context.config.rules.personal_data == "off":
        return outcome
    counts = dict(personal["kind"].value_counts().sort("kind").iter_rows())
    return Outcome(outcome.kept, outcome.dropped, notes={"personal": counts}, tables={"personal": personal})


def drop_near(table: pl.DataFrame, context: Context) -> Outcome:
    """Drop exact and near-duplicates."""
    return context.filters.by_near_duplicates(table)


def drop_leaked(table: pl.DataFrame, context: Context) -> Outcome:
    """Drop rows that repeat a benchmark; seeds only where they may become part of the set."""
    return drop_contaminated(table, context.filters, seeds_in_set=context.config.seeds.in_set)


def drop_semantic(table: pl.DataFrame, context: Context) -> Outcome:
    """Drop rows that ask for the same as a kept row in other words."""
    config = context.config
    # A static embedder takes the mean of word vectors: "who is" and "who was" are almost the same to it.
    if not config.semantic.enabled or not context.embedder.is_costly:
        return keep_all(table)
    result = drop_semantic_duplicates(
        table, context.embedder, config.semantic, protect_pool=config.near_duplicates.protect_pool, seed=config.run.seed
    )
    kept, dropped = result.outcome
    return Outcome(kept, dropped, notes={"borderline": result.pairs}, tables={"borderline": result.borderline})


def score(table: pl.DataFrame, context: Context) -> Outcome:
    """Mark what a reviewer decided, add each row's quality, and set seeds aside unless they may become part of the set."""
    config = context.config
    scored = with_quality(context.review.mark(table), config.quality, config.rules, context.embedder)
    apart = (scored["source"] == "seed") & ~is_accepted(scored) & (not config.seeds.in_set)
    return Outcome(scored.filter(~apart), no_rows(scored), set_aside=scored.filter(apart))


def select_rows(table: pl.DataFrame, context: Context) -> Outcome:
    """Select the wanted rows of each category and a reserve, spread over clusters."""
    config = context.config
    # Rows that later stages dropped in an earlier pass are not selected again.
    earlier = context.store.dropped_after_selection()
    verdicts = {id: {"reason": reason, "evidence": evidence} for id, (reason, evidence) in earlier.items()}
    rest, gone = with_verdicts(table, verdicts)
    chosen = select(
        rest, context.embedder, context.wanted, config.select, seed=config.run.seed, fill=config.categories.fill
    )
    dropped = pl.concat([gone, chosen.dropped], how="diagonal_relaxed")
    return Outcome(chosen.kept, dropped, notes=chosen.notes)


def rewrite_responses(table: pl.DataFrame, context: Context) -> Outcome:
    """Replace a response by a rewrite of the base model that keeps its facts and is likelier."""
    config = context.config
    return rewrite(table, context.rewriter, context.scorer, context.embedder, config.rewrite, config.gate)


def rank_style(table: pl.DataFrame, context: Context) -> Outcome:
    """Give up the reserve, preferring quality and one consistent style."""
    return rank_by_style(table, context.wanted, context.config.style, fill=context.config.categories.fill)


def settle_review(table: pl.DataFrame, context: Context) -> Outcome:
    """Give the rows that a reviewer accepted the texts that he accepted."""
    return keep_all(context.review.settle(table, context.scorer))


def check_same_categories(store: CallStore, known: Iterable[str], name: str) -> None:
    """Check that the stored waves asked only for categories that these seeds have.

    Raises:
        ConfigError: A wave asked for a category that they lack.
    """
    asked = {name for wave in store.waves() for name in wave}
    if lacking := sorted(asked - {*known}):
        raise ConfigError(
            "KS857",
            f"--from {name}: that run asked for {', '.join(lacking)}, and these seeds have none of that; reuse its completions "
            f"only with seeds of the same categories",
        )


RECIPE = (
    Stage("seeds", label_seeds, (label_by_neighbours, mask_rows), ("seeds", "pool"), ("embedder",), creates=True),
    Stage(
        "generate", add_generated, (generate, verify, FilterChain, screen_instructions),
        ("generate", "verify", "rules", "near_duplicates", "contamination"), ("generator",), creates=True,
    ),
    Stage("verify", verify_rows, (verify,), ("verify",)),
    Stage("rules", apply_rules, (FilterChain,), ("rules",)),
    Stage("near_duplicates", drop_near, (FilterChain,), ("near_duplicates",)),
    Stage("contamination", drop_leaked, (FilterChain,), ("contamination",)),
    Stage("semantic", drop_semantic, (drop_semantic_duplicates,), ("semantic",), ("embedder",)),
    Stage("score", score, (with_quality, Review), ("quality", "rules"), ("embedder",)),
    Stage("select", select_rows, (select,), ("select",), ("embedder",)),
    Stage("rewrite", rewrite_responses, (rewrite,), ("rewrite", "gate"), ("rewriter", "scorer", "embedder")),
    Stage("style", rank_style, (rank_by_style,), ("style",)),
    Stage("review", settle_review, (Review,), (), ("scorer",)),
)  # fmt: skip
"""The stages in order."""

STAGE_NAMES = tuple(stage.name for stage in RECIPE)


def stages_between(first: str, last: str) -> tuple[Stage, ...]:
    """Return the stages from `first` to `last`, both included."""
    return RECIPE[STAGE_NAMES.index(first) : STAGE_NAMES.index(last) + 1]


def stage_number(name: str) -> int:
    """Return a stage's place in the recipe, from 1."""
    return STAGE_NAMES.index(name) + 1
