"""Score every row's quality: terms, each a column, and the weighted sum of their z-scores within the category.

This is our own proposal, not a published score. The commonest fault of a weak writer model is an answer about another
subject, so the cosine between task and answer counts most. Among answers on the subject the longer one tends to say
more ("Long is more for alignment", arXiv:2402.04833), up to the 90th percentile of the category.
"""

import numpy as np
import polars as pl

from kiloset.core.config import NonNegative, settings
from kiloset.core.models import Embedder
from kiloset.core.table import full_instruction
from kiloset.filters.rules import RulesConfig, rule_nearness

LEAST_SPREAD = 1e-9
"""Standard deviation below which values are equal but for rounding."""


@settings
class QualityConfig:
    """The `[quality]` table of a run's TOML."""

    relevance_weight: NonNegative = 1.0
    """Weight of the standardised cosine between instruction and response."""
    length_weight: NonNegative = 0.5
    """Weight of the standardised logarithm of the response's length, capped at its 90th percentile."""
    nearness_weight: NonNegative = 0.0
    """Weight, subtracted, of how near a row is to breaking a rule. [rules] drops rows beyond a limit; below the limit
    this term prefers the shorter of two answers, which may be one that was cut off."""


def with_quality(table: pl.DataFrame, config: QualityConfig, rules: RulesConfig, embedder: Embedder) -> pl.DataFrame:
    """Add `relevance` (cosine of task and response), `response_words`, `rule_nearness` (in [0, 1]) and `quality`.

    `quality` is the weighted sum of the terms' z-scores within the category. The rows keep their order.

    Args:
        table: Rows.
        config: The `[quality]` table.
        rules: The `[rules]` table, whose limits `rule_nearness` refers to.
        embedder: Embeds tasks and responses.
    """
    measured = table.with_columns(
        relevance=pl.Series(_relevance(table, embedder), dtype=pl.Float64),
        response_words=pl.col("response").str.count_matches(r"\S+").cast(pl.Float64),
        rule_nearness=rule_nearness(rules).round(4),
    )
    length = pl.col("response_words").clip(1, None)
    capped = pl.min_horizontal(length, length.quantile(0.9, "nearest").over("category")).log()
    terms = (
        config.relevance_weight * _z(pl.col("relevance"))
        + config.length_weight * _z(capped)
        - config.nearness_weight * _z(pl.col("rule_nearness"))
    )
    return measured.with_columns(quality=terms.round(6))


def _relevance(table: pl.DataFrame, embedder: Embedder) -> list[float]:
    if table.is_empty():
        return []
    tasks, answers = embedder.embed(full_instruction(table)), embedder.embed(table["response"].to_list())
    cosines: list[float] = np.round(np.einsum("ij,ij->i", tasks, answers).astype(np.float64), 4).tolist()
    return cosines


def _z(value: pl.Expr) -> pl.Expr:
    spread = value.std(ddof=0).over("category")
    z = pl.when(spread > LEAST_SPREAD).then((value - value.mean().over("category")) / spread).otherwise(0.0)
    return z.fill_null(0.0)
