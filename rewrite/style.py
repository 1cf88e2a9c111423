"""Prefer answers of one consistent style, softly, within each category.

After Li et al., "SCAR: Data Selection via Style Consistency-Aware Response Ranking" (ACL 2025, arXiv:2406.10882), who
find that consistent linguistic form and instructional surprisal help fine-tuning. Departures: they take the best by a
ranker's score over the whole set; here every category keeps its rows, a row's distance is the mean absolute robust
z-score of its form vector and surprisal within its category, and a SCAR-style ranker (`kiloset.rewrite.ranker`), where there is
one, adds its score as a robust z-score within the category too.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from kiloset.core.config import Count, NonNegative, settings
from kiloset.core.form import FORM_COLUMNS, form_of
from kiloset.core.review import beyond, stays
from kiloset.core.table import Outcome, with_verdicts

MAD_TO_SIGMA = 1.4826
"""The standard deviation of a normal distribution, over its median absolute deviation."""
MAX_Z = 5.0
"""Beyond this a z-score says "outlier" and no more."""


@settings
class StyleConfig:
    """The `[style]` table of a run's TOML."""

    consistency_weight: NonNegative = 1.0
    """Weight of style distance against quality when the reserve is given up; 0 leaves it out."""
    ranker_weight: NonNegative = 0.1
    """Weight of the ranker's score, in robust standard deviations within the category; 0 trains no ranker, and one that is not clearly better held out than a rule on length is not used. More than 0.1 widens again the spread of form that the style distance narrows."""
    ranker_min_rows: Count = 40
    """Rows with comparable answers, below which no ranker is trained."""


def rank_by_style(
    table: pl.DataFrame, wanted: Mapping[str, int], config: StyleConfig, *, fill: bool,
    ranker_scores: NDArray[np.float64] | None = None,
) -> Outcome:  # fmt: skip
    """Keep the wanted rows of each category, those with the best `style_score`.

    Adds the form columns, `style_distance` (mean absolute robust z, 0 is the category's middle), `ranker_score` (null
    without a ranker), `style_score` (quality less the weighted distance, plus the weighted robust z of the ranker's score
    within the category) and `style_rank`. With `fill`, categories that fall short are made up for from the others' next
    best. Rows that a reviewer accepted come first, and stay even beyond what is wanted of their category.
    """
    measured = with_style(table, config, ranker_scores)
    ranked = measured.with_columns(stays=stays(measured)).sort(
        ["stays", "style_score", "id"], descending=[True, True, False]
    )
    kept: list[str] = []
    left: list[dict[str, Any]] = []
    for category, rows in ranked.group_by("category", maintain_order=True):
        quota = max(wanted.get(str(category[0]), 0), int(rows["stays"].sum()))
        kept += rows["id"].head(quota).to_list()
        left += rows.slice(quota).select("id", "style_rank", "style_distance", "category", "style_score").to_dicts()
    if fill and (short := sum(wanted.values()) + beyond(measured, wanted) - len(kept)) > 0:
        left.sort(key=lambda row: (-row["style_score"], row["id"]))
        kept, left = kept + [row["id"] for row in left[:short]], left[short:]
    verdicts = {
        row["id"]: {
            "reason": "style_reserve",
            "evidence": f"number {row['style_rank']} by quality and style in {row['category']}, style distance {row['style_distance']:.2f}",
            "measured": float(row["style_rank"]),
            "limit": float(wanted.get(row["category"], 0)),
        }
        for row in left
    }  # fmt: skip
    return with_verdicts(measured, verdicts)


def with_style(
    table: pl.DataFrame, config: StyleConfig, ranker_scores: NDArray[np.float64] | None = None
) -> pl.DataFrame:
    """Add the form columns, `style_distance`, `ranker_score`, `style_score` and `style_rank` (1 is first in its category)."""
    forms = [form_of(text) for text in table["response"]]
    columns = {name: pl.Series([round(form[name], 6) for form in forms], dtype=pl.Float64) for name in FORM_COLUMNS}
    measured = table.with_columns(**columns)
    vectors = measured.select(*FORM_COLUMNS, "surprisal").to_numpy()  # (rows, form + 1)
    scores = np.zeros(table.height) if ranker_scores is None else ranker_scores
    distance, preferred = np.zeros(table.height), np.zeros(table.height)
    categories = np.array(table["category"].to_list())
    for category in np.unique(categories):
        rows = categories == category
        distance[rows] = np.abs(robust_z(vectors[rows])).mean(axis=1)
        preferred[rows] = robust_z(scores[rows, None])[:, 0]
    given = [None] * table.height if ranker_scores is None else np.round(ranker_scores, 6).tolist()
    scored = measured.with_columns(
        style_distance=pl.Series(np.round(distance, 6)), ranker_score=pl.Series(given, dtype=pl.Float64)
    ).with_columns(
        style_score=(
            pl.col("quality")
            - config.consistency_weight * pl.col("style_distance")
            + config.ranker_weight * pl.Series(preferred)
        ).round(6)
    )
    order = scored.sort(["style_score", "id"], descending=[True, False]).with_columns(
        style_rank=pl.int_range(1, pl.len() + 1).over("category")
    )
    return scored.join(order.select("id", "style_rank"), on="id", how="left", maintain_order="left")


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
