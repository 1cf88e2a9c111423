"""What rewriting did to the answers: whose they are and why, what the base model gained, and how long they became."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import polars as pl
from rich.console import Console

from kiloset.audit.figures import tally
from kiloset.audit.terminal import literal, print_table, share_of
from kiloset.core.text import words

SOURCES = ("reference", "plain", "guided")
"""Values of `response_source` that always have a column."""
QUANTILES = (0.0, 0.1, 0.25, 0.5, 0.75, 0.9, 1.0)
RESAMPLES = 2000
"""Bootstrap resamples of rows behind a 95 % interval."""
FEW = 20
"""Rows below which such an interval is too narrow to be trusted."""
CAME = ("id", "category", "response", "original_response", "reference_surprisal", "rewrites")
"""What is read of a row that came to rewriting."""


@dataclass(frozen=True, slots=True)
class Gain:
    """What some rows gained in fit to the base model, in nats per token."""

    rows: int
    before: float | None
    """Mean surprisal of their references."""
    after: float | None
    """Mean surprisal of the answers held against them."""
    gain: float
    """Mean gain."""
    interval: tuple[float, float] | None
    """95 % bootstrap interval of the mean gain; None for a single row."""


@dataclass(frozen=True, slots=True)
class Ratios:
    """Words of rewrites over words of their references."""

    rewrites: int
    """Those whose reference has a word."""
    quantiles: tuple[float, ...]
    """At `QUANTILES`; () where there is none."""


@dataclass(frozen=True, slots=True)
class Rewriting:
    """What became of the answers of the set."""

    sources: dict[str, dict[str, int]]
    """Rows by category, in order, and `response_source`."""
    reasons: dict[str, int] | None
    """Rows by `response_reason`, why they have that answer."""
    gains: dict[str, Gain]
    """Of the rows `rewritten` (also by source), of `all` rows, and of the `best` candidate that passed, chosen or not."""
    ratios: dict[str, Ratios]
    """Of the rewrites in the `set`, and of all that `passed` the gate, of whatever row."""

    @property
    def rows(self) -> int:
        """Rows counted."""
        return sum(sum(counts.values()) for counts in self.sources.values())


def came_to_rewriting(stages: Iterable[tuple[str, pl.DataFrame]], ledger: pl.DataFrame) -> pl.DataFrame | None:
    """Return the rows that the stage `rewrite` kept or dropped, as far as `CAME` is recorded; None without that stage.

    They are more than those of the set: the stage after it gives up the reserve.
    """
    kept = dict(stages).get("rewrite")
    if kept is None:
        return None
    parts = [kept, ledger.filter(pl.col("stage") == "rewrite")]
    found = [part.select(name for name in CAME if name in kept.columns and name in part.columns) for part in parts]
    return pl.concat(found, how="diagonal_relaxed") if found[1].height else found[0]


def candidates(came: pl.DataFrame) -> pl.DataFrame | None:
    """Return `reference`, `kind`, `status`, `check`, `text` and `verdicts` of every candidate; None if not recorded.

    `verdicts` is null in runs that kept only the first verdict.
    """
    kind = came.schema.get("rewrites")
    if not isinstance(kind, pl.List):
        return None
    wanted = ("reference", "kind", "status", "check", "text", "verdicts")
    if not isinstance(kind.inner, pl.Struct):  # not one in any row
        return pl.DataFrame(schema=dict.fromkeys(wanted, pl.String))
    named = came.select(references(came), "rewrites").explode("rewrites")
    flat = named.filter(pl.col("rewrites").is_not_null()).unnest("rewrites")
    return flat.select(pl.col(name) if name in flat.columns else pl.lit(None).alias(name) for name in wanted)


def references(table: pl.DataFrame) -> pl.Series:
    """Return each row's `reference`, the answer before rewriting."""
    before = [name for name in ("original_response", "response") if name in table.columns]
    return table.select(pl.coalesce(before).alias("reference")).to_series()


def rewritten(table: pl.DataFrame) -> pl.DataFrame:
    """Return the rows whose answer is not the reference."""
    source = table["response_source"].cast(pl.String).fill_null("")
    return table.filter(~source.is_in(["reference", "none", ""]))


def rewriting(table: pl.DataFrame, offered: pl.DataFrame | None, seed: int = 0) -> Rewriting | None:
    """Return what became of the answers of the set's rows; None before the rewriting stage.

    `offered` are the `candidates`. Without a column `response_source` rewriting did not take place.
    """
    if "response_source" not in table.columns:
        return None
    source = table["response_source"].cast(pl.String).fill_null("none")
    categories = table.with_columns(response_source=source).partition_by("category", as_dict=True)
    sources = {str(name[0]): tally(rows["response_source"]) for name, rows in categories.items()}
    changed = rewritten(table)
    passed = None if offered is None else offered.filter(pl.col("status").is_in(["passed", "chosen"]))
    ratios = {"set": length_ratios(references(changed), changed["response"])}
    if passed is not None:
        ratios["passed"] = length_ratios(passed["reference"], passed["text"])
    return Rewriting(
        sources=dict(sorted(sources.items())),
        reasons=tally(table["response_reason"]) if "response_reason" in table.columns else None,
        gains=_gains(table, changed, seed),
        ratios=ratios,
    )


def length_ratios(before: Iterable[str | None], after: Iterable[str | None]) -> Ratios:
    """Compare texts in words, pair by pair; a pair whose first text has no word is left out."""
    counts = [(len(words(old or "")), len(words(new or ""))) for old, new in zip(before, after, strict=True)]
    found = [new / old for old, new in counts if old]
    return Ratios(len(found), tuple(np.quantile(found, QUANTILES).tolist()) if found else ())


def mean_interval(values: Sequence[float], seed: int) -> tuple[float, float] | None:
    """Return the 95 % percentile bootstrap interval of the mean; None for fewer than two values."""
    if len(values) < 2:
        return None
    rng, array = np.random.default_rng(seed), np.asarray(values, dtype=np.float64)
    means = [float(array[rng.integers(0, len(array), len(array))].mean()) for _ in range(RESAMPLES)]
    low, high = np.quantile(means, (0.025, 0.975))
    return float(low), float(high)


def show_rewriting(found: Rewriting | None, console: Console) -> None:
    """Print the answers by category and source, why, what was gained, and length ratios."""
    if found is None:
        print_table(console, "Rewriting", ("category",), [])
        return
    _show_sources(found, console)
    reasons = [(reason, count, share_of(count, found.rows)) for reason, count in (found.reasons or {}).items()]
    print_table(console, "Why the rows of the set have that answer", ("reason", "rows", "share"), reasons)
    _show_gains(found.gains, console)
    names = {"set": "those in the set", "passed": "all that passed"}
    ratios = [
        (names[name], ratios.rewrites, *(f"{value:.2f}" for value in ratios.quantiles))
        for name, ratios in found.ratios.items()
        if ratios.rewrites
    ]
    columns = ("over", "rewrites", "min", "p10", "p25", "median", "p75", "p90", "max")
    print_table(console, "Length ratio: words of a rewrite over words of its reference", columns, ratios, "no rewrites")


def _show_sources(found: Rewriting, console: Console) -> None:
    every: dict[str, int] = {}
    for counts in found.sources.values():
        for source, count in counts.items():
            every[source] = every.get(source, 0) + count
    names = [*SOURCES, *sorted(every.keys() - {*SOURCES})]
    rows = [_by_source(category, counts, names) for category, counts in found.sources.items()]
    columns = ("category", "rows", *(column for name in names for column in (name, "share")))
    title = f"Rewriting: answers of the {found.rows} rows of the set by category and source"
    print_table(console, title, columns, [*rows, _by_source("all", every, names)])


def _by_source(category: str, counts: Mapping[str, int], names: Sequence[str]) -> tuple[object, ...]:
    total = sum(counts.values())
    shares = [cell for name in names for cell in (counts.get(name, 0), share_of(counts.get(name, 0), total))]
    return (category, total, *shares)


def _show_gains(gains: Mapping[str, Gain], console: Console) -> None:
    names = {"rewritten": "rewritten", "all": "all rows of the set", "best": "best that passed*"}
    rows = []
    for name, found in gains.items():
        before, after = ("" if value is None else f"{value:.3f}" for value in (found.before, found.after))
        interval = "" if found.interval is None else "{:+.3f} to {:+.3f}".format(*found.interval)
        rows.append((names.get(name, f"- {name}"), found.rows, before, after, f"{found.gain:+.3f}", interval))
    columns = ("over", "rows", "reference", "answer", "gain", "95 % interval")
    print_table(console, "Surprisal to the base model and gain, means in nats per token", columns, rows)
    if any(found.rows < FEW for found in gains.values()):
        console.print(literal(f"intervals over fewer than {FEW} rows come out too narrow"))
    if "rewritten" in gains:
        console.print(literal("Only answers that gain are chosen, so that a gain over all rows is never below 0."))
    if "best" in gains:
        console.print(literal("* whether chosen or not, of the rows of the set that have one"))


def _gains(table: pl.DataFrame, changed: pl.DataFrame, seed: int) -> dict[str, Gain]:
    groups = {"rewritten": changed}
    groups |= {name: changed.filter(pl.col("response_source") == name) for name in SOURCES[1:]}
    found = {name: _gain(rows, "fit_gain", seed) for name, rows in {**groups, "all": table}.items()}
    found["best"] = _gain(table, "best_gain", seed)
    return {name: gain for name, gain in found.items() if gain is not None}


def _gain(rows: pl.DataFrame, column: str, seed: int) -> Gain | None:
    if column not in rows.columns:
        return None
    measured = rows.filter(pl.col(column).is_not_null())
    if measured.is_empty():
        return None
    gains = measured[column].to_list()
    mean = sum(gains) / len(gains)
    before = measured["reference_surprisal"].mean() if "reference_surprisal" in rows.columns else None
    before = float(before) if isinstance(before, (int, float)) else None
    return Gain(len(gains), before, None if before is None else before - mean, mean, mean_interval(gains, seed))
