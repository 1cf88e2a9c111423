"""Prefer answers of one consistent style, softly, within each category.

After Li et al., "SCAR: Data Selection via Style Consistency-Aware Response Ranking" (ACL 2025, arXiv:2406.10882), who
find that consistent linguistic form and instructional surprisal help fine-tuning. We depart from SCAR in two ways. SCAR
takes the best rows of the whole set; here every category keeps its number of rows. SCAR trains a ranker; here a row's
distance is the mean absolute robust z-score of its form vector and surprisal within its category. We trained such a
ranker on the run's own answers and removed it: it made no set more uniform than the distance alone (docs/results/).
"""

from collections.abc import Mapping
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from kiloset.core.config import NonNegative, settings
from kiloset.core.form import FORM_COLUMNS, form_of
from kiloset.core.review import accepted_surplus, is_accepted
from kiloset.core.table import Outcome, with_verdicts

MAD_TO_SIGMA = 1.4826
"""The standard deviation of a normal distribution, over its median absolute deviation."""
MAX_Z = 5.0
"""A z-score beyond this marks an outlier and is cut to it."""


@settings
class StyleConfig:
    """The `[style]` table of a run's TOML."""

    consistency_weight: NonNegative = 1.0
    """Weight of style distance against quality when the reserve is given up; 0 leaves it out."""


def rank_by_style(table: pl.DataFrame, wanted: Mapping[str, int], config: StyleConfig, *, fill: bool) -> Outcome:
    """Keep the wanted rows of each category, those with the best `style_score`.

    Adds the form columns, `style_distance` (mean absolute robust z, 0 is the category's middle), `style_score` (quality
    less the weighted distance) and `style_rank` (1 is first in its category). With `fill`, the next best rows of other
    categories replace what a category lacks. Rows that a reviewer accepted come first and always stay, also beyond the
    wanted number of their category.
    """
    measured = with_style(table, config)
    ranked = measured.with_columns(is_accepted=is_accepted(measured)).sort(
        ["is_accepted", "style_score", "id"], descending=[True, True, False]
    )
    kept: list[str] = []
    reserve: list[dict[str, Any]] = []
    for category, rows in ranked.group_by("category", maintain_order=True):
        quota = max(wanted.get(str(category[0]), 0), int(rows["is_accepted"].sum()))
        kept += rows["id"].head(quota).to_list()
        reserve += rows.slice(quota).select("id", "style_rank", "style_distance", "category", "style_score").to_dicts()
    if fill and (short := sum(wanted.values()) + accepted_surplus(measured, wanted) - len(kept)) > 0:
        reserve.sort(key=lambda row: (-row["style_score"], row["id"]))
        kept, reserve = kept + [row["id"] for row in reserve[:short]], reserve[short:]
    verdicts = {
        row["id"]: {
            "reason": "style_reserve",
            "evidence": f"number {row['style_rank']} by quality and style in {row['category']}, style distance {row['style_distance']:.2f}",
            "measured": float(row["style_rank"]),
            "limit": float(wanted.get(row["category"], 0)),
        }
        for row in reserve
    }  # fmt: skip
    return with_verdicts(measured, verdicts)


def with_style(table: pl.DataFrame, config: StyleConfig) -> pl.DataFrame:
    """Add the form columns, `style_distance`, `style_score` and `style_rank` (1 is first in its category)."""
    forms = [form_of(text) for text in table["response"]]
    columns = {name: pl.Series([round(form[name], 6) for form in forms], dtype=pl.Float64) for name in FORM_COLUMNS}
    measured = table.with_columns(**columns)
    vectors = measured.select(*FORM_COLUMNS, "surprisal").to_numpy()  # (rows, form + 1)
    distance = np.zeros(table.height)
    categories = np.array(table["category"].to_list())
    for category in np.unique(categories):
        rows = categories == category
        distance[rows] = np.abs(robust_z(vectors[rows])).mean(axis=1)
    weighted = config.consistency_weight * pl.col("style_distance")
    return (
        measured.with_columns(style_distance=pl.Series(np.round(distance, 6)))
        .with_columns(style_score=(pl.col("quality") - weighted).round(6))
        .with_row_index("place")
        .sort(["style_score", "id"], descending=[True, False])
        .with_columns(style_rank=pl.int_range(1, pl.len() + 1).over("category"))
        .sort("place")
        .drop("place")
    )


def robust_z(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return each column's distance from its median in robust standard deviations, clipped to [-5, 5].

    `values`: (rows, columns). The unit is 1.4826 times the median absolute deviation; where that is 0, as for a flag
    most rows share, the standard deviation; where that is 0 as well, every score is 0.
    """
    if not len(values):
        return values.astype(np.float64)
    away = values - np.median(values, axis=0)  # (rows, columns)
    mad = MAD_TO_SIGMA * np.median(np.abs(away), axis=0)  # (columns,)
    unit = np.where(mad > 0, mad, values.std(axis=0))
    with np.errstate(over="ignore"):  # a unit next to 0 gives infinity, which is clipped
        scores: NDArray[np.float64] = np.divide(away, unit, out=np.zeros_like(away), where=unit > 0)
    return scores.clip(-MAX_Z, MAX_Z)
