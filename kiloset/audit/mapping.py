"""The map of a set: its rows in the plane, near where they are alike, and what they can be coloured by."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import polars as pl
from numpy.typing import NDArray

from kiloset.audit import charts
from kiloset.audit.escaping import shown

Embed = Callable[[Sequence[str]], NDArray[np.float32]]
"""Texts to `(texts, dims)` float32, rows of length 1."""

HOVER = 160
"""Longest text shown of a point."""
FEWEST = 8
"""Rows below which there is no map."""
MAPPED = 5000
"""Rows on the map at most, drawn at random: more cannot be told apart, and the page would grow beyond its 5 MB."""


@dataclass(frozen=True, slots=True)
class Map:
    """What a page needs to draw it."""

    spec: charts.Spec
    encodings: Mapping[str, charts.Spec]
    """By field, what colours the map by it."""
    said: str
    """How many of the rows are on it."""


def map_of(rows: pl.DataFrame, embed: Embed | None, fields: Sequence[str], told: Sequence[str]) -> Map | None:
    """Return the map of a set, None of too few rows or without vectors.

    Args:
        rows: The set, with the column `user`.
        embed: Gives the vectors of user turns.
        fields: Columns by which it can be coloured, where they differ.
        told: Columns that are shown of a point, with its text.
    """
    some = rows if rows.height <= MAPPED else rows.sample(MAPPED, seed=0)
    if embed is None or some.height < FEWEST:
        return None
    drawn = project(embed(some["user"].to_list()))
    differing = [name for name in fields if name in some.columns and some[name].drop_nulls().n_unique() > 1]
    table = some.select(list(dict.fromkeys([name for name in told if name in some.columns] + differing)))
    floats = [name for name, kind in table.schema.items() if kind.is_float()]
    points = [
        {**row, "x": round(float(x), 2), "y": round(float(y), 2), "text": shown(text, HOVER)}
        for row, (x, y), text in zip(
            table.with_columns(pl.col(floats).cast(pl.Float64).round(3)).to_dicts(), drawn, some["user"], strict=True
        )
    ]
    encodings = {name: charts.colours_by(name, [point[name] for point in points]) for name in differing}
    said = (
        f"{MAPPED:,} of the {rows.height:,} rows, drawn at random."
        if rows.height > MAPPED
        else f"All {rows.height:,} rows."
    )
    return Map(charts.map_of(points, [*(name for name in told if name in table.columns), "text"]), encodings, said)


def project(vectors: NDArray[np.float32], seed: int = 0) -> NDArray[np.float32]:
    """Return `(rows, 2)` coordinates in which near rows stay near: t-SNE (van der Maaten and Hinton 2008) of the vectors.

    From principal components, so that the same rows lie the same way; perplexity 30 or what so few rows allow.
    """
    from sklearn.decomposition import PCA  # type: ignore[import-untyped]
    from sklearn.manifold import TSNE  # type: ignore[import-untyped]

    narrow = PCA(min(50, *vectors.shape), random_state=seed, svd_solver="full").fit_transform(vectors)
    perplexity = min(30.0, (len(vectors) - 1) / 3)
    drawn = TSNE(perplexity=perplexity, init="pca", random_state=seed, n_jobs=1).fit_transform(narrow)
    return np.asarray(drawn, dtype=np.float32)
