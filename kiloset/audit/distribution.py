"""What the set was to be made of and what it is made of, by category."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import polars as pl
from rich.console import Console

from kiloset.audit.figures import js_distance, tally
from kiloset.audit.terminal import literal, print_table, share_of


@dataclass(frozen=True, slots=True)
class Distribution:
    """The categories of a set against its target."""

    target: dict[str, int]
    """Rows wanted by category."""
    got: dict[str, int]
    """Rows of curated.jsonl by category."""
    deviations: dict[str, float]
    """Share got less share wanted, in percentage points, by category; {} where either is empty."""
    js_distance: float | None
    """Jensen-Shannon distance of the two, in [0, 1]."""
    usage: dict[str, Any] | None
    """How the target was read from prompts of real use, as the manifest has it; None if it was not."""

    @property
    def largest(self) -> tuple[str, float] | None:
        """The category that is farthest from its target, and its deviation in percentage points; the first of equals."""
        return max(self.deviations.items(), key=lambda pair: abs(pair[1]), default=None)


def distribution(curated: pl.DataFrame, manifest: Mapping[str, Any]) -> Distribution:
    """Compare the rows of curated.jsonl with the target in the manifest."""
    target, got = dict(manifest.get("target", {})), tally(curated["category"])
    wanted, rows = sum(target.values()), curated.height
    deviations = {}
    if wanted and rows:
        names = sorted({*target, *got})
        deviations = {name: 100 * (got.get(name, 0) / rows - target.get(name, 0) / wanted) for name in names}
    return Distribution(target, got, deviations, js_distance(target, got), manifest.get("usage"))


def show_distribution(found: Distribution, console: Console) -> None:
    """Print target, result and deviation of every category, and how far the whole is from its target."""
    wanted, had, rows = sum(found.target.values()), sum(found.got.values()), []
    for name in sorted({*found.target, *found.got}):
        target, got = found.target.get(name, 0), found.got.get(name, 0)
        points = f"{found.deviations[name]:+.1f}" if name in found.deviations else ""
        rows.append((name, target, share_of(target, wanted), got, share_of(got, had), points))
    columns = ("category", "target", "share", "result", "share", "points")
    print_table(console, "Categories" + ("" if wanted else " (target not recorded)"), columns, rows)
    distance = "not recorded" if found.js_distance is None else f"{found.js_distance:.3f}"
    console.print(
        literal(f"Jensen-Shannon distance of target and result: {distance} (0 the same, 1 nothing in common)")
    )
    if found.largest is not None:
        name, off = found.largest
        said = f"{off:+.1f} percentage points, {name}" if off else "none"
        console.print(literal(f"largest deviation: {said}"))
    if found.usage is not None:
        _show_usage(found.usage, console)


def _show_usage(usage: Mapping[str, Any], console: Console) -> None:
    """Print how the target was read from real prompts; what an older manifest does not hold is left out."""
    said = "the target follows real use"
    if {"sampled", "prompts"} <= usage.keys():
        said += (
            f": {usage['sampled']} of {usage['prompts']} prompts, each read by its nearest category of labelled seeds"
        )
    console.print(literal(said))
    if usage.get("unsure_share") is not None:
        below = f" (confidence below {usage['min_confidence']:.2f})" if "min_confidence" in usage else ""
        console.print(literal(f"unsure: {_percent(usage['unsure_share'])} of them{below}; these count too"))
    accuracies = {
        "of these prompts, expected (mean confidence)": usage.get("mean_confidence"),
        "of the labelled seeds, each read by the others": usage.get("leave_one_out_accuracy"),
        "of the sure ones among those seeds": usage.get("leave_one_out_accuracy_of_sure"),
    }
    rows = [(name, _percent(value)) for name, value in accuracies.items() if value is not None]
    print_table(console, "Categories of real use read rightly", ("share", "estimate"), rows)


def _percent(share: float) -> str:
    return f"{100 * share:.1f} %"
