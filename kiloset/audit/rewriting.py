"""What rewriting changed in a run: sources and reasons of the answers, gains, lengths, and how much the answers' form varies."""

import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import polars as pl
from rich.console import Console

from kiloset.audit.figures import tally
from kiloset.audit.safe_text import print_lines, print_table, share_of
from kiloset.core.form import FORM_COLUMNS, form_of
from kiloset.core.run import last_verdicts
from kiloset.core.statistics import Interval, mean_interval
from kiloset.core.text import words

SOURCES = ("reference", "plain", "guided")
"""Values of `response_source` that always have a column."""
QUANTILES = (0.0, 0.1, 0.25, 0.5, 0.75, 0.9, 1.0)
FEW = 20
"""With fewer rows, a bootstrap interval is too narrow."""
INPUT_COLUMNS = ("id", "category", "response", "original_response", "reference_surprisal", "rewrites")
"""What is read of a row that entered rewriting."""
SAME = 5e-4
"""A ratio this near to 1 counts as unchanged."""


@dataclass(frozen=True, slots=True)
class Gain:
    """How much more natural the base model finds the answers of some rows, in nats per token."""

    rows: int
    before: float | None
    """Mean surprisal of the references."""
    after: float | None
    """Mean surprisal of the answers."""
    gain: Interval
    """Mean gain with its 95 % interval, which a single row has not."""


@dataclass(frozen=True, slots=True)
class Ratios:
    """Words of rewrites over words of their references."""

    rewrites: int
    """Rewrites whose reference has a word."""
    quantiles: tuple[float, ...]
    """At `QUANTILES`; () without a rewrite."""


@dataclass(frozen=True, slots=True)
class Rewriting:
    """The answers of the set's rows."""

    sources: dict[str, dict[str, int]]
    """Rows by category, in order, and `response_source`."""
    reasons: dict[str, int] | None
    """Rows by `response_reason`."""
    gains: dict[str, Gain]
    """Of the `rewritten` rows (also by source), of `all` rows, and of the `best` candidate that passed, chosen or not."""
    ratios: dict[str, Ratios]
    """Of the rewrites in the `set`, and of all rewrites that `passed` the gate, of any row."""

    @property
    def rows(self) -> int:
        """Rows counted."""
        return sum(sum(counts.values()) for counts in self.sources.values())

    @property
    def rewrites(self) -> int:
        """Rows whose answer is a rewrite."""
        counts = (pair for by_source in self.sources.values() for pair in by_source.items())
        return sum(rows for source, rows in counts if source not in ("reference", "none", ""))


@dataclass(frozen=True, slots=True)
class Spreads:
    """Standard deviations of some answers, by form column (`kiloset.core.form`) and, if recorded, `surprisal`."""

    rows: int
    whole: dict[str, float]
    """Over all rows; the divisor is rows - 1."""
    within: dict[str, float]
    """Within categories, pooled; the divisor is rows - categories, so that small categories do not look more uniform."""


@dataclass(frozen=True, slots=True)
class Style:
    """Spreads before selection, before rewriting and after it."""

    entered: Spreads | None
    """References of all rows that entered rewriting; None if not recorded."""
    before: Spreads
    """References of the set's rows."""
    after: Spreads
    """Answers of the set's rows."""


def rewriting_input(stages: Iterable[tuple[str, pl.DataFrame]], ledger: pl.DataFrame) -> pl.DataFrame | None:
    """Return the rows that entered the stage `rewrite`, with the recorded ones of `INPUT_COLUMNS`; None without that stage."""
    kept = dict(stages).get("rewrite")
    if kept is None:
        return None
    parts = [kept, last_verdicts(ledger).filter(pl.col("stage") == "rewrite")]
    columns = [[name for name in INPUT_COLUMNS if name in kept.columns and name in part.columns] for part in parts]
    rows = [part.select(names) for part, names in zip(parts, columns, strict=True)]
    return pl.concat(rows, how="diagonal_relaxed") if rows[1].height else rows[0]


def candidates(rows: pl.DataFrame) -> pl.DataFrame | None:
    """Return `reference`, `kind`, `status`, `check`, `text` and `verdicts` of every candidate; None if not recorded.

    `verdicts` is null in runs that kept only the first verdict.
    """
    kind = rows.schema.get("rewrites")
    if not isinstance(kind, pl.List):
        return None
    columns = ("reference", "kind", "status", "check", "text", "verdicts")
    if not isinstance(kind.inner, pl.Struct):  # no row has a candidate
        return pl.DataFrame(schema=dict.fromkeys(columns, pl.String))
    exploded = rows.select(references(rows), "rewrites").explode("rewrites")
    flat = exploded.filter(pl.col("rewrites").is_not_null()).unnest("rewrites")
    return flat.select(pl.col(name) if name in flat.columns else pl.lit(None).alias(name) for name in columns)


def references(table: pl.DataFrame) -> pl.Series:
    """Return each row's `reference`, the answer before rewriting."""
    before = [name for name in ("original_response", "response") if name in table.columns]
    return table.select(pl.coalesce(before).alias("reference")).to_series()


def rewritten(table: pl.DataFrame) -> pl.DataFrame:
    """Return the rows whose answer is not the reference."""
    source = table["response_source"].cast(pl.String).fill_null("")
    return table.filter(~source.is_in(["reference", "none", ""]))


def rewriting(table: pl.DataFrame, offered: pl.DataFrame | None, seed: int = 0) -> Rewriting | None:
    """Measure the answers of the set's rows; None if the run has no column `response_source`, so no rewriting.

    Args:
        table: The set's rows.
        offered: The `candidates`.
        seed: Seed of the bootstrap.
    """
    if "response_source" not in table.columns:
        return None
    source = table["response_source"].cast(pl.String).fill_null("none")
    categories = table.with_columns(response_source=source).partition_by("category", as_dict=True)
    sources = {str(name[0]): tally(rows["response_source"]) for name, rows in categories.items()}
    changed = rewritten(table)
    ratios = {"set": length_ratios(references(changed), changed["response"])}
    if offered is not None:
        passed = offered.filter(pl.col("status").is_in(["passed", "chosen"]))
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
    ratios = [new / old for old, new in counts if old]
    return Ratios(len(ratios), tuple(np.quantile(ratios, QUANTILES).tolist()) if ratios else ())


def style(table: pl.DataFrame, entered: pl.DataFrame | None) -> Style | None:
    """Measure how much the form of answers varies; None if the run has no column `response_source`.

    Args:
        table: The set's rows.
        entered: The rows that entered rewriting (`rewriting_input`).
    """
    if "response_source" not in table.columns:
        return None
    texts = {"reference_surprisal": references(table), "surprisal": table["response"]}
    before, after = (_measure(table, column, name) for name, column in texts.items())
    return Style(
        None if entered is None else _measure(entered, references(entered), "reference_surprisal"), before, after
    )


def spreads(
    categories: Sequence[str], forms: Sequence[Mapping[str, float]], surprisals: Sequence[float | None] | None
) -> Spreads:
    """Return the spreads of forms and surprisals (nats per token); a row without a surprisal is left out of that one."""
    columns: dict[str, list[float | None]] = {name: [form[name] for form in forms] for name in FORM_COLUMNS}
    if surprisals is not None:
        columns["surprisal"] = list(surprisals)
    whole, within = {}, {}
    for name, values in columns.items():
        known = [(group, value) for group, value in zip(categories, values, strict=True) if value is not None]
        if known:
            whole[name], within[name] = _deviations([group for group, _ in known], [value for _, value in known])
    return Spreads(len(categories), whole, within)


def print_rewriting(result: Rewriting | None, console: Console) -> None:
    """Print the answers by category and source, their reasons, gains and length ratios."""
    if result is None:
        print_table(console, "Rewriting", ("category",), [])
        return
    totals = Counter[str]()
    for counts in result.sources.values():
        totals.update(counts)
    names = [*SOURCES, *sorted(totals.keys() - {*SOURCES})]
    rows = [_source_row(category, counts, names) for category, counts in result.sources.items()]
    columns = ("category", "rows", *(column for name in names for column in (name, "share")))
    title = f"Rewriting: answers of the {result.rows} rows of the set by category and source"
    print_table(console, title, columns, [*rows, _source_row("all", totals, names)])
    reasons = [(reason, count, share_of(count, result.rows)) for reason, count in (result.reasons or {}).items()]
    print_table(console, "Why each row has its answer", ("reason", "rows", "share"), reasons)
    _print_gains(result.gains, console)
    labels = {"set": "rewrites in the set", "passed": "all that passed the gate"}
    ratios = [
        (labels[name], ratios.rewrites, *(f"{value:.2f}" for value in ratios.quantiles))
        for name, ratios in result.ratios.items()
        if ratios.rewrites
    ]
    columns = ("over", "rewrites", "min", "p10", "p25", "median", "p75", "p90", "max")
    print_table(console, "Length ratio: words of a rewrite over words of its reference", columns, ratios, "no rewrites")


def print_style(result: Style | None, console: Console) -> None:
    """Print each measure's spread before and after, over the whole set and within categories."""
    if result is None:
        print_table(console, "Style: spread of the answers' form", ("measure",), [])
        return
    entered = "" if result.entered is None else f"; {result.entered.rows} entered rewriting"
    title = f"Style: standard deviation over the set of {result.before.rows} rows{entered}"
    _print_spreads(title, result, "whole", console)
    _print_spreads("Style: standard deviation within categories", result, "within", console)
    ratios = [_ratio(result.after.within[name], value) for name, value in result.before.within.items()]
    moved = [ratio for ratio in ratios if ratio is not None and abs(ratio - 1) > SAME]
    fell = sum(ratio < 1 for ratio in moved)
    print_lines(
        console,
        "entered: references of all rows that entered rewriting; before, after: references and answers of the set's rows; "
        "selection: before / entered; rewriting: after / before",
        f"within categories, by rewriting: {fell} of {len(ratios)} measures fell, {len(moved) - fell} rose, "
        f"{len(ratios) - len(moved)} stayed",
    )


def _source_row(category: str, counts: Mapping[str, int], names: Sequence[str]) -> tuple[object, ...]:
    total = sum(counts.values())
    shares = [cell for name in names for cell in (counts.get(name, 0), share_of(counts.get(name, 0), total))]
    return (category, total, *shares)


def _print_gains(gains: Mapping[str, Gain], console: Console) -> None:
    labels = {"rewritten": "rewritten", "all": "all rows of the set", "best": "best that passed*"}
    rows = []
    for name, one in gains.items():
        before, after = ("" if value is None else f"{value:.3f}" for value in (one.before, one.after))
        interval = "" if one.rows < 2 else f"{one.gain.low:+.3f} to {one.gain.high:+.3f}"
        rows.append((labels.get(name, f"- {name}"), one.rows, before, after, f"{one.gain.value:+.3f}", interval))
    columns = ("over", "rows", "reference", "answer", "gain", "95 % interval")
    print_table(console, "Surprisal to the base model and gain, means in nats per token", columns, rows)
    if any(one.rows < FEW for one in gains.values()):
        print_lines(console, f"intervals over fewer than {FEW} rows are too narrow")
    if "rewritten" in gains:
        print_lines(console, "A rewrite is chosen only if it gains, so the gain over all rows is never below 0.")
    if "best" in gains:
        print_lines(console, "* chosen or not, of the rows of the set with a rewrite that passed")


def _gains(table: pl.DataFrame, changed: pl.DataFrame, seed: int) -> dict[str, Gain]:
    groups = {"rewritten": changed}
    groups |= {name: changed.filter(pl.col("response_source") == name) for name in SOURCES[1:]}
    gains = {name: _gain(rows, "fit_gain", seed) for name, rows in {**groups, "all": table}.items()}
    gains["best"] = _gain(table, "best_gain", seed)
    return {name: gain for name, gain in gains.items() if gain is not None}


def _gain(rows: pl.DataFrame, column: str, seed: int) -> Gain | None:
    if column not in rows.columns:
        return None
    measured = rows.filter(pl.col(column).is_not_null())
    if measured.is_empty():
        return None
    gain = mean_interval(measured[column].to_list(), seed=seed)
    before = measured["reference_surprisal"].mean() if "reference_surprisal" in rows.columns else None
    before = float(before) if isinstance(before, (int, float)) else None
    return Gain(measured.height, before, None if before is None else before - gain.value, gain)


def _measure(rows: pl.DataFrame, texts: pl.Series, surprisal: str) -> Spreads:
    surprisals = rows[surprisal].to_list() if surprisal in rows.columns else None
    return spreads(rows["category"].to_list(), [form_of(text) for text in texts], surprisals)


def _print_spreads(title: str, result: Style, over: str, console: Console) -> None:
    entered: Mapping[str, float] = {} if result.entered is None else getattr(result.entered, over)
    before, after = (getattr(one, over) for one in (result.before, result.after))
    rows = [
        (
            name, f"{entered[name]:.3f}" if name in entered else "", f"{before[name]:.3f}", f"{after[name]:.3f}",
            _arrow(_ratio(before[name], entered[name])) if name in entered else "", _arrow(_ratio(after[name], before[name])),
        )
        for name in before
    ]  # fmt: skip
    print_table(console, title, ("measure", "entered", "before", "after", "selection", "rewriting"), rows)


def _ratio(after: float, before: float) -> float | None:
    """Return the ratio of two spreads, None if only the second is 0."""
    if before > 0:
        return after / before
    return 1.0 if after == before else None


def _arrow(ratio: float | None) -> str:
    if ratio is None:
        return "new ↑"
    return f"{ratio:.3f} " + ("=" if abs(ratio - 1) <= SAME else "↓" if ratio < 1 else "↑")


def _deviations(groups: Sequence[str], values: Sequence[float]) -> tuple[float, float]:
    """Return the standard deviation of the values, and the pooled one within their groups; 0 if each group has one value."""
    _, place, counts = np.unique(np.array(groups, dtype=str), return_inverse=True, return_counts=True)
    array = np.asarray(values, dtype=np.float64)
    away = array - (np.bincount(place, array) / counts)[place]
    whole, within = float(((array - array.mean()) ** 2).sum()), float((away**2).sum())
    return math.sqrt(whole / max(len(array) - 1, 1)), math.sqrt(within / max(len(array) - len(counts), 1))
