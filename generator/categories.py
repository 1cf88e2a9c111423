"""Which category a row belongs to, and how many rows of each are wanted."""

from collections.abc import Mapping, Sequence
from difflib import get_close_matches
from fractions import Fraction
from typing import Annotated, Any, Literal

import numpy as np
import polars as pl
from pydantic import AfterValidator, Field, ValidationInfo

from kiloset.core.config import Count, Positive, Share, settings
from kiloset.core.errors import ConfigError, DataError
from kiloset.core.models import Embedder
from kiloset.core.table import full_instruction
from kiloset.data.quotas import apportion

Weights = Annotated[dict[str, Positive], Field(min_length=1)]


def _goes_with_target(usage: str, read: ValidationInfo) -> str:
    wanted = read.data.get("target") == "usage"
    if wanted and not usage:
        raise ValueError("a file of real prompts when target is 'usage'")
    if usage and not wanted and "target" in read.data:
        raise ValueError("'' unless target is 'usage'")
    return usage


@settings
class CategoriesConfig:
    """The `[categories]` table: what the set should be made of."""

    target: Literal["uniform", "seeds", "candidates", "usage"] | Weights = "uniform"
    """Shares: uniform, as in the seeds, as the candidates happen to be (for a pool), as in real use (see usage), or a table of category = weight, with at least one."""
    usage: Annotated[str, Field(validate_default=True), AfterValidator(_goes_with_target)] = ""
    """For target = "usage": real prompts, in a file as in [seeds] or a .txt of one a line. Only their number by category is kept."""
    usage_limit: Count = 5000
    """Prompts read into categories, drawn uniformly; of 5000, a share's sampling error is 0.7 points at most (one standard error)."""
    usage_min_confidence: Share = 0.5
    """A prompt is unsure below this probability that its category is read rightly. Unsure ones count too; how many they are is reported."""
    fill: bool = False
    """Where a category falls short, take more of the others to reach the size; otherwise the set stays short."""
    neighbours: Annotated[int, Field(ge=1, le=50)] = 5
    """Labelled seeds that vote on the category of a row without one."""
    labels: str = "seeds/seeds.jsonl"
    """Labelled examples that teach the categories where the seeds have none."""


def label_by_neighbours(
    table: pl.DataFrame, labelled: pl.DataFrame, embedder: Embedder, neighbours: int
) -> pl.DataFrame:
    """Give each row without a category that of its nearest labelled rows, by a vote weighted with the cosine.

    Ties go to the category whose name sorts first. `category_source` becomes `nearest`, and `category_share` holds the
    share of the vote, in [0, 1].
    """
    blank = table.filter(pl.col("category") == "")
    share = pl.lit(None, pl.Float64).alias("category_share")
    if blank.is_empty():
        return table.with_columns(share)
    known = embedder.embed(full_instruction(labelled))  # (labelled, dims)
    asked = embedder.embed(full_instruction(blank))  # (rows, dims)
    # Rounded: a matrix product gives equal rows cosines that differ in the last bits, and a tie must stay a tie.
    cosines = np.round(asked @ known.T, 6)
    names = labelled["category"].to_list()
    chosen: dict[str, tuple[str, float]] = {}
    for id, row in zip(blank["id"], cosines, strict=True):
        votes: dict[str, float] = {}
        for at in np.argsort(-row, kind="stable")[:neighbours]:
            votes[names[at]] = votes.get(names[at], 0.0) + max(float(row[at]), 0.0)
        best = min(votes, key=lambda name: (-votes[name], name))
        chosen[id] = (best, votes[best] / sum(votes.values()) if sum(votes.values()) > 0 else 0.0)
    read = pl.DataFrame(
        [{"id": id, "read": name, "category_share": share} for id, (name, share) in chosen.items()],
        schema={"id": pl.String, "read": pl.String, "category_share": pl.Float64},
    )
    return (
        table.join(read, on="id", how="left", maintain_order="left")
        .with_columns(
            pl.coalesce("read", "category").alias("category"),
            pl.when(pl.col("read").is_not_null())
            .then(pl.lit("nearest"))
            .otherwise("category_source")
            .alias("category_source"),
        )
        .drop("read")
    )


def wanted_rows(config: CategoriesConfig, known: Sequence[str], counts: Mapping[str, int], size: int) -> dict[str, int]:
    """Return how many rows of each category the set should have; they sum to `size`.

    Largest remainders, ties to the name that sorts first.

    Args:
        config: The `[categories]` table.
        known: The categories there are.
        counts: Rows per category that `seeds` or `candidates`, prompts that `usage` refers to.
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
    """Refuse a target that names an unknown category.

    Raises:
        ConfigError: With the nearest known one.
    """
    for name in target:
        if name not in known:
            near = get_close_matches(name, known, n=1)
            hint = f"; did you mean {near[0]!r}?" if near else ""
            raise ConfigError(
                "KS201", f"[categories] target: no category {name!r}{hint}; known: {', '.join(sorted(known))}"
            )


def check_pool_categories(pool: pl.DataFrame, known: Sequence[str], target: str | Mapping[str, float]) -> None:
    """Refuse a pool with categories of its own, none of which would be wanted; `candidates` wants whatever there is.

    Args:
        pool: Rows with the column `category`, "" where they have none yet.
        known: The seeds' categories.
        target: The setting of `[categories]`.

    Raises:
        DataError: With the unknown category that has most rows and the nearest known one.
    """
    if target == "candidates":
        return
    own = pool.filter((pl.col("category") != "") & ~pl.col("category").is_in(list(known)))
    if own.is_empty():
        return
    counts = own.group_by("category").len().sort(["len", "category"], descending=[True, False]).rows()
    name, rows = counts[0]
    near = get_close_matches(name, known, n=1)
    hint = f"; did you mean {near[0]!r}?" if near else ""
    others = f", nor {len(counts) - 1} more of the pool ({own.height - rows} rows)" if len(counts) > 1 else ""
    raise DataError(
        "KS202",
        f"[pool] path: the seeds have no category {name!r} ({rows} rows){others}{hint}; known: "
        f"{', '.join(sorted(known))}. Rename them, or take the pool's own with categories.target=candidates",
    )
