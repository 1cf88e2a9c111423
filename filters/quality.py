"""A cheap quality of a row, without a judge: every term is a column.

Our own proposal, not a published score: with a weak generator the commonest fault is an answer about something else, so
the cosine between task and answer counts most; among answers on the subject the longer one tends to say more ("Long is
more for alignment", arXiv:2402.04833), up to the 90th percentile.
"""

import numpy as np
import polars as pl

from core.config import NonNegative, settings
from core.models import Embedder
from core.table import full_instruction


@settings
class QualityConfig:
    """The `[quality]` table of a run's TOML."""

    relevance_weight: NonNegative = 1.0
    """Weight of the standardised cosine between instruction and response."""
    length_weight: NonNegative = 0.5
    """Weight of the standardised logarithm of the response's length, capped at its 90th percentile."""


def with_quality(table: pl.DataFrame, embedder: Embedder, config: QualityConfig) -> pl.DataFrame:
    """Add `relevance` (cosine), `response_words` (words) and `quality` (weighted sum of z-scores within the category)."""
    if table.is_empty():
        return table.with_columns(relevance=pl.lit(0.0), response_words=pl.lit(0.0), quality=pl.lit(0.0))
    cosines = np.einsum(
        "ij,ij->i", embedder.embed(full_instruction(table)), embedder.embed(table["response"].to_list())
    )
    measured = table.with_columns(
        relevance=pl.Series(np.round(cosines.astype(np.float64), 4)),
        response_words=pl.col("response").str.count_matches(r"\S+").cast(pl.Float64),
    )
    length = pl.col("response_words").clip(1, None)
    capped = pl.min_horizontal(length, length.quantile(0.9, "nearest").over("category")).log()
    terms = config.relevance_weight * _z(pl.col("relevance")) + config.length_weight * _z(capped)
    return measured.with_columns(quality=terms.round(6))


def _z(value: pl.Expr) -> pl.Expr:
    spread = value.std(ddof=0).over("category")
    return pl.when(spread > 0).then((value - value.mean().over("category")) / spread).otherwise(0.0)
