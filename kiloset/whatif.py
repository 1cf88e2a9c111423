"""Judge a run's rows again under other settings of selection, from what the run has stored; nothing is written, no model asked.

A number per row could not answer this: who leaves as a duplicate depends on who stayed, and who is selected on all others. So
the stages themselves are run again, in memory, on the stored rows and vectors and on what models measured of each row.
"""

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from contextlib import closing
from dataclasses import asdict, dataclass, replace
from typing import Any

import polars as pl

from kiloset.core.calls import CallStore
from kiloset.core.errors import ConfigError, DataError
from kiloset.core.models import Capabilities, Embedder, Scorer, TextEngine
from kiloset.core.progress import Progress
from kiloset.core.review import read_decisions
from kiloset.core.run import RunFolder, last_verdicts
from kiloset.core.table import STAGE_VERDICT, VERDICT, table_of
from kiloset.filters.rules import instruction_rules, screen_instructions, with_languages
from kiloset.generator.templates import Templates
from kiloset.inputs import Inputs, read_benchmarks
from kiloset.recipe import STAGE_NAMES, Context, Stage, stage_number, stages_between
from kiloset.review.apply import Review
from kiloset.runner import execute, make_context
from kiloset.settings import RunConfig, load_config

FIRST, LAST = "verify", "select"
"""The stages that can be judged again: those between what models write first and what they write of selected rows."""


@dataclass(frozen=True)
class Difference:
    """What other settings would change."""

    settings: dict[str, tuple[Any, Any]]
    """`table.key`: the run's value and the other one."""
    stages: list[tuple[str, int, int, dict[str, tuple[int, int]]]]
    """Stage, rows kept then and now, and by reason rows dropped then and now."""
    changed: pl.DataFrame
    """Rows with another outcome: `id`, `category`, `instruction`, `then` and `now` (`selected`, or the stage and the reason by which it was dropped)."""
    selected: tuple[int, int, int]
    """Selected rows: then, now, and both times."""
    unasked: int
    """Instructions that rules dropped while the set was generated and would not now: no answer was asked for."""
    moved: bool
    """Whether this version of the code judges the run otherwise than the one that made it, under its own settings."""


def what_if(
    folder: RunFolder,
    overrides: Mapping[str, Any],
    load_embedder: Callable[[RunConfig, int], Embedder],
    progress: Progress,
) -> Difference:
    """Return what would change.

    Args:
        folder: A run whose rows are selected.
        overrides: Values of settings by dotted name.
        load_embedder: Gives the embedder of a config and so many rows of seeds and pool, for texts without a stored vector;
            it may load its model when first asked.
        progress: Shows the progress of long work.

    Raises:
        ConfigError: Nothing is changed, or what needs a model.
        DataError: The run is not that far.
    """
    then, now = load_config(folder.config), load_config(folder.config, overrides)
    settings = _differences(then, now)
    stages = _stages(settings)
    before, start = _input_of(folder, stages[0].name), _input_of(folder, "generate")
    with closing(CallStore.read_only(folder.calls)) as store:
        embedder = load_embedder(then, start.height)
        old, new = (
            _fates(stages, before, _context(config, folder, store, embedder, progress)) for config in (then, now)
        )
    ledger = folder.dropped()
    names = [stage.name for stage in stages]
    last = last_verdicts(ledger).select("id", "stage", "reason")
    stored = last.filter(pl.col("stage").is_in(names)).sort("id")
    return Difference(
        settings,
        [
            (name, _kept(old, names[at:]), _kept(new, names[at:]), _reasons(name, old, new))
            for at, name in enumerate(names)
        ],
        _changed(old, new),
        _selected(old, new),
        _unasked(ledger, start, then, now),
        not stored.equals(old.filter(pl.col("reason").is_not_null()).select("id", "stage", "reason").sort("id")),
    )  # fmt: skip


def _differences(then: RunConfig, now: RunConfig) -> dict[str, tuple[Any, Any]]:
    one, other = asdict(then), asdict(now)
    changes = {
        f"{table}.{key}": (value, other[table][key])
        for table, values in one.items()
        for key, value in values.items()
        if value != other[table][key]
    }
    if not changes:
        raise ConfigError(
            "KS864", "nothing is changed: give what to change as table.key=value, such as near_duplicates.threshold=0.8"
        )
    return changes


def _stages(settings: Mapping[str, Any]) -> tuple[Stage, ...]:
    """Return the stages to run again: from the first one that these settings concern to selection."""
    known = {table for stage in stages_between(FIRST, LAST) for table in stage.settings}
    tables = {name.split(".")[0] for name in settings}
    for name in settings:
        if name.split(".")[0] not in known:
            raise ConfigError(
                "KS865",
                f"{name}: this setting changes what models write; only [{'], ['.join(sorted(known))}] can be judged again; "
                f"make such a run with `kiloset dataset --from`",
            )
    stages = stages_between(FIRST, LAST)
    return next(stages[at:] for at, stage in enumerate(stages) if tables & {*stage.settings})


def _input_of(folder: RunFolder, stage: str) -> pl.DataFrame:
    """Return the input of a stage: the rows that the stage before it kept."""
    if not folder.stage_file(stage_number(LAST), LAST).exists():
        raise DataError("KS867", f"{folder.path}: its rows are not selected yet; `kiloset dataset` continues it")
    number = stage_number(stage) - 1
    return pl.read_parquet(folder.stage_file(number, STAGE_NAMES[number - 1]))


def _context(config: RunConfig, folder: RunFolder, store: CallStore, embedder: Embedder, progress: Progress) -> Context:
    nothing = table_of([])
    inputs = Inputs(nothing, nothing, nothing, Templates(), benchmarks=read_benchmarks(config.contamination.files))
    context = make_context(config, inputs, _Models(embedder), store, progress)
    return replace(context, review=Review(read_decisions(folder.review)), wanted=folder.manifest["target"])


def _fates(stages: Sequence[Stage], table: pl.DataFrame, context: Context) -> pl.DataFrame:
    """Return what becomes of each row: the columns of a verdict, null for kept rows."""
    gone = []
    for stage in stages:
        outcome = execute(stage, table, context)
        gone.append(
            outcome.dropped.select("id", "category", "instruction", pl.lit(stage.name).alias("stage"), *STAGE_VERDICT)
        )
        if outcome.set_aside is not None:
            gone.append(outcome.set_aside.select("id", "category", "instruction", stage=pl.lit(stage.name)))
        table = outcome.kept
    return pl.concat([*gone, table.select("id", "category", "instruction")], how="diagonal")


def _kept(fates: pl.DataFrame, later: Sequence[str]) -> int:
    """Return the rows that the first of these stages, in order, kept."""
    return fates.filter(pl.col("stage").is_null() | pl.col("stage").is_in(later[1:])).height


def _reasons(stage: str, old: pl.DataFrame, new: pl.DataFrame) -> dict[str, tuple[int, int]]:
    one, other = (Counter(fates.filter(pl.col("stage") == stage)["reason"].to_list()) for fates in (old, new))
    return {reason: (one[reason], other[reason]) for reason in sorted({*one, *other})}


def _changed(old: pl.DataFrame, new: pl.DataFrame) -> pl.DataFrame:
    verdict = pl.when(pl.col("reason").is_null()).then(pl.lit("selected")).otherwise(
        pl.format("{}: {}", pl.col("reason"), pl.col("evidence"))
    )  # fmt: skip
    both = old.select("id", "category", "instruction", then=verdict, was="reason").join(
        new.select("id", now=verdict, is_="reason"), on="id", how="inner"
    )
    return (
        both.filter(pl.col("was").ne_missing(pl.col("is_")))
        .select("id", "category", "instruction", "then", "now")
        .sort("id")
    )


def _selected(old: pl.DataFrame, new: pl.DataFrame) -> tuple[int, int, int]:
    one, other = ({*fates.filter(pl.col("stage").is_null())["id"]} for fates in (old, new))
    return len(one), len(other), len(one & other)


def _unasked(ledger: pl.DataFrame, start: pl.DataFrame, then: RunConfig, now: RunConfig) -> int:
    """Count the rows that rules dropped in generation and would keep now; `start` has the seeds."""
    old, new = (with_languages(config.rules, start) for config in (then, now))
    by_rules = pl.col("reason").is_in(list(instruction_rules(old)))
    screened = ledger.filter((pl.col("stage") == "generate") & by_rules)
    fell = screen_instructions(screened.drop(list(VERDICT)), old).dropped["id"]
    rest = screened.filter(pl.col("id").is_in(fell.implode())).drop(list(VERDICT))
    return screen_instructions(rest, new).kept.height


class _Absent:
    """A model that is not to be asked."""

    identity = "none"
    capabilities = Capabilities(False, False, False, False)

    def _refuse(self, *_: Any, **__: Any) -> Any:
        raise ConfigError(
            "KS868",
            "these settings need answers of a model that the run has not stored; `kiloset dataset --from` makes such a run",
        )

    render = submit = receive = logprobs = _refuse


class _Models:
    """Models of which only the embedder is there."""

    def __init__(self, embedder: Embedder) -> None:
        self.generator: TextEngine = _Absent()
        self.rewriter: TextEngine = _Absent()
        self.scorer: Scorer = _Absent()
        self.embedder = embedder
