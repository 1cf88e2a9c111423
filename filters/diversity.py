"""How diverse a set of embeddings is."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

QUANTILES = (0.05, 0.25, 0.5, 0.75, 0.95)
"""Of the cosine of each row with its nearest other one."""
BLOCK = 1024
WIDE = 16_384
"""Rows at a time in double precision."""
DRAWS = 5
"""Random sets of the same size that a selection is compared with."""
MOST = 20_000
"""Rows of which the nearest are looked for; of more, so many are drawn."""


def diversity(
    vectors: NDArray[np.float32], taken: NDArray[np.int64], seed: int, labels: NDArray[np.int32] | None = None
) -> dict[str, Any]:
    """Return how diverse all rows, those taken and random ones are.

    Keys: `candidates`, `selected` and `random`, each with `rows`, `vendi` and `nearest`, the `QUANTILES`. `random` is as many
    rows as were taken, drawn without replacement: the mean over `DRAWS` sets, and with `vendi_least` and `vendi_most` their
    range. Compare `selected` with `random`; a larger set has a larger score whatever it holds.

    With `labels`, the cluster of each row, each also has the keys of `evenness` over all clusters of the candidates.
    """
    rng = np.random.default_rng(seed)
    sets, drawn = [], []
    for _ in range(DRAWS):
        sets.append(rng.choice(len(vectors), len(taken), replace=False))
        drawn.append(_figures(vectors[sets[-1]], rng))
    chance = {
        "rows": len(taken),
        "vendi": round(float(np.mean([each["vendi"] for each in drawn])), 2),
        "vendi_least": min(each["vendi"] for each in drawn),
        "vendi_most": max(each["vendi"] for each in drawn),
        "nearest": np.mean([each["nearest"] for each in drawn], axis=0).round(4).tolist()
        if drawn[0]["nearest"]
        else [],
    }
    figures = {"candidates": _figures(vectors, rng), "selected": _figures(vectors[taken], rng), "random": chance}
    if labels is not None:
        clusters = len(np.unique(labels))
        even = [evenness(labels[rows], clusters) for rows in sets]
        figures["candidates"] |= evenness(labels, clusters)
        figures["selected"] |= evenness(labels[taken], clusters)
        figures["random"] |= {name: round(float(np.mean([each[name] for each in even])), 4) for name in even[0]}
    return figures


def evenness(labels: NDArray[np.int32], clusters: int) -> dict[str, float]:
    """Return how evenly rows lie over clusters.

    Keys: `clusters`, those with a row; `cluster_entropy`, the entropy of the rows' shares over the log of the number of all
    clusters, a fraction in [0, 1], 1 if each has as many, 0 where all are in one; `largest_cluster`, its fraction of the rows.

    Args:
        labels: Each row's cluster.
        clusters: The number of clusters there are, those without a row included.
    """
    shares = np.unique(labels, return_counts=True)[1] / max(1, len(labels))
    entropy = float(-(shares * np.log(shares)).sum()) / np.log(clusters) if clusters > 1 else 0.0
    largest = float(shares.max(initial=0.0))
    return {"clusters": len(shares), "cluster_entropy": round(float(entropy), 4), "largest_cluster": round(largest, 4)}


def _figures(vectors: NDArray[np.float32], rng: np.random.Generator) -> dict[str, Any]:
    some = vectors if len(vectors) <= MOST else vectors[rng.choice(len(vectors), MOST, replace=False)]
    nearest = np.quantile(nearest_cosines(some), QUANTILES).round(4).tolist() if len(some) > 1 else []
    return {"rows": len(vectors), "vendi": round(vendi_score(vectors), 2), "nearest": nearest}


def vendi_score(vectors: NDArray[np.float32]) -> float:
    """Return the Vendi score under the cosine kernel (Friedman and Dieng, arXiv:2210.02410): how many rows there are in effect.

    The exponential of the entropy of the eigenvalues of K / n: 1 for equal rows, n for rows at right angles to each other. It
    grows with n: compare sets of one size.

    Args:
        vectors: `(rows, dims)`, rows of length 1.
    """
    if not len(vectors):
        return 0.0
    # X Xᵀ and Xᵀ X share their eigenvalues other than 0; the smaller of the two is quicker.
    rows = vectors if vectors.shape[1] < len(vectors) else vectors.T
    kernel = np.zeros((rows.shape[1], rows.shape[1]))
    for begin in range(0, len(rows), WIDE):  # a million rows in double precision would take gigabytes
        wide = rows[begin : begin + WIDE].astype(np.float64)
        kernel += wide.T @ wide
    shares = np.linalg.eigvalsh(kernel / len(vectors))
    shares = shares[shares > 1e-12]
    return float(np.exp(-(shares * np.log(shares)).sum()))


def nearest_cosines(vectors: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return each row's cosine with its nearest other row; all pairs are compared, in blocks.

    Args:
        vectors: `(rows, dims)`, rows of length 1, two at least.
    """
    nearest = np.empty(len(vectors), np.float32)
    for begin in range(0, len(vectors), BLOCK):
        cosines = vectors[begin : begin + BLOCK] @ vectors.T
        at = np.arange(len(cosines))
        cosines[at, at + begin] = -1.0
        nearest[begin : begin + BLOCK] = cosines.max(axis=1)
    return nearest
