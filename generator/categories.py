"""The category of each row, and the number of rows wanted in each category."""

from collections.abc import Mapping, Sequence
from fractions import Fraction
from typing import Annotated, Any, Literal

import numpy as np
import polars as pl
from pydantic import AfterValidator, Field, ValidationInfo

from kiloset.core.config import Count, Positive, Share, settings
from kiloset.core.errors import ConfigError, DataError, did_you_mean
from kiloset.core.models import Embedder
from kiloset.core.table import full_instruction
from kiloset.data.quotas import apportion

Weights = Annotated[dict[str, Positive], Field(min_length=1)]


def _matches_target(usage: str, fields: ValidationInfo) -> str:
    is_needed = fields.data.get("target") == "usage"
    if is_needed and not usage:
        raise ValueError("a file of real prompts when target is 'usage'")
    if usage and not is_needed and "target" in fields.data:
        raise ValueError("'' unless target is 'usage'")
    return usage


@settings
class CategoriesConfig:
    """The `[categories]` table: what the set should be made of."""

    target: Literal["uniform", "seeds", "candidates", "usage"] | Weights = "uniform"
    """Shares of the categories: uniform, those of the seeds, those of the candidates (for a pool), those of real use (see usage), or a table of category = weight, with at least one."""
    usage: Annotated[str, Field(validate_default=True), AfterValidator(_matches_target)] = ""
    """For target = "usage": real prompts, in a file as in [seeds] or a .txt with one prompt a line. A run keeps only their number by category."""
    usage_limit: Count = 5000
    """Largest number of prompts to classify, sampled uniformly; with 5000, the standard error of a share is at most 0.7 percentage points."""
    usage_min_confidence: Share = 0.5
    """Below this probability of its category a prompt is uncertain. Uncertain prompts count too; the report gives their share."""
    fill: bool = False
    """Where a category lacks rows, whether to take more rows of the others to reach the size; otherwise the set stays smaller."""
    neighbours: Annotated[int, Field(ge=1, le=50)] = 5
    """Number of nearest labelled seeds that vote on the category of a row without one."""
    labels: str = "seeds/seeds.jsonl"
    """Labelled examples that define the categories if the seeds have none."""


def label_by_neighbours(
    table: pl.DataFrame, labelled: pl.DataFrame, embedder: Embedder, neighbours: int
) -> pl.DataFrame:
    """Give each row without a category the one for which its nearest labelled rows vote, weighted by the cosine.

    Ties go to the category whose name sorts first. `category_source` becomes `nearest`; `category_share` is the share of the
    votes, in [0, 1].
    """
    blank = table.filter(pl.col("category") == "")
    share = pl.lit(None, pl.Float64).alias("category_share")
    if blank.is_empty():
        return table.with_columns(share)
    known = embedder.embed(full_instruction(labelled))  # (labelled, dims)
    blanks = embedder.embed(full_instruction(blank))  # (rows, dims)
    # A matrix product gives equal rows cosines that differ in the last bits; rounding keeps a tie a tie.
    cosines = np.round(blanks @ known.T, 6)
    names = labelled["category"].to_list()
    predicted: list[tuple[str, str, float]] = []
    for id, row in zip(blank["id"], cosines, strict=True):
        votes: dict[str, float] = {}
        for at in np.argsort(-row, kind="stable")[:neighbours]:
            votes[names[at]] = votes.get(names[at], 0.0) + max(float(row[at]), 0.0)
        best = min(votes, key=lambda name: (-votes[name], name))
        predicted.append((id, best, votes[best] / sum(votes.values()) if sum(votes.values()) > 0 else 0.0))
    schema = {"id": pl.String, "nearest": pl.String, "category_share": pl.Float64}
    nearest = pl.DataFrame(predicted, schema=schema, orient="row")
    source = pl.when(pl.col("nearest").is_null()).then("category_source").otherwise(pl.lit("nearest"))
    return (
        table.join(nearest, on="id", how="left", maintain_order="left")
        .with_columns(category=pl.coalesce("nearest", "category"), category_source=source)
        .drop("nearest")
    )


def wanted_rows(config: CategoriesConfig, known: Sequence[str], counts: Mapping[str, int], size: int) -> dict[str, int]:
    """Return how many rows of each category the set should have; they sum to `size`.

    Args:
        config: The `[categories]` table.
        known: The names of all categories.
        counts: Number of rows by category for the targets `seeds` and `candidates`, of prompts for `usage`.
        size: Rows in the set.

    Raises:
        ConfigError: The target names a category that does not exist.
    """
    if isinstance(config.target, dict):
        check_target(config.target, known)
        weights: dict[str, Any] = {name: Fraction(str(weight)) for name, weight in sorted(config.target.items())}
    elif config.target == "uniform":
        weights = {name: Fraction(1) for name in sorted(known)}
    else:
        weights = {name: Fraction(counts[name]) for name in sorted(counts) if counts[name]}
    return apportion(weights, size)


def check_target(target: Mapping[str, float], known: Sequence[str]) -> None:
    """Check that a target names only known categories.

    Raises:
        ConfigError: It names another; the message suggests the nearest known one.
    """
    if (name := next((name for name in target if name not in known), None)) is not None:
        hint = did_you_mean(name, known)
        raise ConfigError(
            "KS201", f"[categories] target: no category {name!r}{hint}; known: {', '.join(sorted(known))}"
        )


def check_pool_categories(pool: pl.DataFrame, known: Sequence[str], target: str | Mapping[str, float]) -> None:
    """Check that a pool has only known categories: rows of any other would never be wanted, except with target `candidates`.

    Args:
        pool: Rows with the column `category`, "" for none.
        known: The seeds' categories.
        target: The setting of `[categories]`.

    Raises:
        DataError: It has others; the message names the one with most rows and the nearest known one.
    """
    if target == "candidates":
        return
    own = pool.filter((pl.col("category") != "") & ~pl.col("category").is_in(list(known)))
    if own.is_empty():
        return
    counts = own.group_by("category").len().sort(["len", "category"], descending=[True, False]).rows()
    name, rows = counts[0]
    others = f" and lack {len(counts) - 1} more of the pool ({own.height - rows} rows)" if len(counts) > 1 else ""
    raise DataError(
        "KS202",
        f"[pool] path: the seeds have no category {name!r} ({rows} rows){others}{did_you_mean(name, known)}; known: "
        f"{', '.join(sorted(known))}. Rename the pool's categories, or use them with categories.target=candidates",
    )
