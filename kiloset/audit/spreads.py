"""How alike the answers are in form and surprisal, before and after."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import polars as pl
from rich.console import Console

from kiloset.audit.rewriting import references
from kiloset.audit.terminal import literal, print_table
from kiloset.core.form import FORM_COLUMNS, form_of

SAME = 5e-4
"""A ratio this near to 1 counts as unchanged."""


@dataclass(frozen=True, slots=True)
class Spreads:
    """How much some answers differ, by measure: the form columns (`core/form.py`) and, where recorded, `surprisal`."""

    rows: int
    whole: dict[str, float]
    """Standard deviation over all of them, by rows less one."""
    within: dict[str, float]
    """That within categories, pooled: by rows less categories, so that smaller categories do not look more alike."""


@dataclass(frozen=True, slots=True)
class Style:
    """Spreads before and after, so that what selection did stands apart from what rewriting did."""

    came: Spreads | None
    """References of all rows that came to rewriting; None where that is not recorded."""
    before: Spreads
    """References of the rows of the set."""
    after: Spreads
    """Answers of the rows of the set."""


def style(table: pl.DataFrame, came: pl.DataFrame | None) -> Style | None:
    """Compare the references with the answers of the set's rows, and with those of the rows that came to rewriting.

    None before the rewriting stage, without a column `response_source`.
    """
    if "response_source" not in table.columns:
        return None
    answers = {"reference_surprisal": references(table), "surprisal": table["response"]}
    those = pl.Series([], dtype=pl.String) if came is None else references(came)
    forms = {text: form_of(text) for text in {*answers["reference_surprisal"], *answers["surprisal"], *those}}

    def measured(rows: pl.DataFrame, texts: pl.Series, name: str) -> Spreads:
        surprisals = rows[name].to_list() if name in rows.columns else None
        return spreads(rows["category"].to_list(), [forms[text] for text in texts], surprisals)

    before, after = (measured(table, texts, name) for name, texts in answers.items())
    return Style(None if came is None else measured(came, those, "reference_surprisal"), before, after)


def spreads(
    categories: Sequence[str], forms: Sequence[Mapping[str, float]], surprisals: Sequence[float | None] | None
) -> Spreads:
    """Measure answers by forms and surprisals (nats per token); a row without a surprisal does not count for that one."""
    columns: dict[str, list[float | None]] = {name: [form[name] for form in forms] for name in FORM_COLUMNS}
    if surprisals is not None:
        columns["surprisal"] = list(surprisals)
    whole, within = {}, {}
    for name, values in columns.items():
        known = [(group, value) for group, value in zip(categories, values, strict=True) if value is not None]
        if known:
            whole[name], within[name] = _spread([group for group, _ in known], [value for _, value in known])
    return Spreads(len(categories), whole, within)


def show_style(found: Style | None, console: Console) -> None:
    """Print each measure's spread before and after, over the whole set and within categories."""
    if found is None:
        print_table(console, "Style: spread of the answers' form", ("measure",), [])
        return
    came = "" if found.came is None else f"; {found.came.rows} came to rewriting"
    title = f"Style: standard deviation over the set of {found.before.rows} rows{came}"
    _show_spreads(title, found, "whole", console)
    _show_spreads("Style: standard deviation within categories", found, "within", console)
    console.print(
        literal(
            "came: references of the rows that came to rewriting; before, after: references and answers of the set's "
            "rows; selected: before over came; rewritten: after over before"
        )
    )
    ratios = [_ratio(found.after.within[name], value) for name, value in found.before.within.items()]
    moved = [ratio for ratio in ratios if ratio is not None and abs(ratio - 1) > SAME]
    fell = sum(ratio < 1 for ratio in moved)
    said = f"{fell} of {len(ratios)} measures fell, {len(moved) - fell} rose, {len(ratios) - len(moved)} stayed"
    console.print(literal(f"within categories, by rewriting: {said}"))


def _show_spreads(title: str, found: Style, over: str, console: Console) -> None:
    came: Mapping[str, float] = {} if found.came is None else getattr(found.came, over)
    before, after = (getattr(spreads, over) for spreads in (found.before, found.after))
    rows = [
        (
            name, f"{came[name]:.3f}" if name in came else "", f"{before[name]:.3f}", f"{after[name]:.3f}",
            _arrow(_ratio(before[name], came[name])) if name in came else "", _arrow(_ratio(after[name], before[name])),
        )
        for name in before
    ]  # fmt: skip
    columns = ("measure", "came", "before", "after", "selected", "rewritten")
    print_table(console, title, columns, rows)


def _ratio(after: float, before: float) -> float | None:
    """Return the ratio of two spreads, None of nothing to something."""
    if before > 0:
        return after / before
    return 1.0 if after == before else None


def _arrow(ratio: float | None) -> str:
    if ratio is None:
        return "new ↑"
    return f"{ratio:.3f} " + ("=" if abs(ratio - 1) <= SAME else "↓" if ratio < 1 else "↑")


def _spread(groups: Sequence[str], values: Sequence[float]) -> tuple[float, float]:
    """Return the standard deviation of the values, and that within their groups; 0 where each stands alone."""
    _, place, counts = np.unique(np.array(groups, dtype=str), return_inverse=True, return_counts=True)
    array = np.asarray(values, dtype=np.float64)
    away = array - (np.bincount(place, array) / counts)[place]
    whole, within = float(((array - array.mean()) ** 2).sum()), float((away**2).sum())
    return math.sqrt(whole / max(len(array) - 1, 1)), math.sqrt(within / max(len(array) - len(counts), 1))
