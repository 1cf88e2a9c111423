"""Clusters and nearest neighbours of embeddings; the only module that imports faiss."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
from numpy.typing import NDArray

MEANS = 25
"""Iterations of k-means."""
TRAINED = 256
"""Rows per cluster that k-means is trained on at most, drawn at random (FAISS's own bound); all rows are then assigned."""
ASSIGNED = 65_536
"""Rows assigned to clusters at a time; a multiple of FAISS's own block, so that blocks do not change the result."""
EXACT = 20_000
"""Rows up to which an index is exact; larger ones use an inverted file."""
LISTS_PER_ROOT = 2
"""Lists of an inverted file, in multiples of the square root of the rows."""
LIST_TRAINED = 64
"""Rows per list that k-means is trained on."""
PROBED = 8
"""Lists that a row is compared with. This finds 0.991 of the pairs at a cosine of 0.95 and more among 50,000 random vectors, a
tenth of them in five dense clusters, and all such pairs among mixtures of real vectors."""


def cluster(vectors: NDArray[np.float32], rows: NDArray[np.int64], count: int, seed: int) -> NDArray[np.int32]:
    """Return the cluster of each of `rows` by spherical k-means; the same for the same seed.

    The means are computed from at most `TRAINED` rows per cluster; then every row is assigned.
    """
    import faiss

    clusters = np.zeros(len(rows), np.int32)
    if count < 2:
        return clusters
    drawn = rows
    if len(rows) > TRAINED * count:  # FAISS would draw the same rows, but from a copy of all
        order = np.empty(len(rows), np.int32)
        faiss.rand_perm(faiss.swig_ptr(order), len(rows), seed + 1)  # type: ignore[attr-defined]
        drawn = rows[order[: TRAINED * count]]
    with one_thread():
        means = _means(vectors[drawn], count, seed)
        for begin in range(0, len(rows), ASSIGNED):
            some = slice(begin, begin + ASSIGNED)
            clusters[some] = means.index.search(vectors[rows[some]], 1)[1][:, 0]
    return clusters


def centres_of(vectors: NDArray[np.float32], count: int, seed: int) -> NDArray[np.float32]:
    """Return `(count, dims)` centres of these vectors by spherical k-means, of length 1; the same for the same seed."""
    with one_thread():
        return np.asarray(_means(vectors, count, seed).centroids, dtype=np.float32)


def _means(vectors: NDArray[np.float32], count: int, seed: int) -> Any:
    """Return FAISS's spherical k-means, trained on these vectors."""
    import faiss

    means = faiss.Kmeans(
        vectors.shape[1], count, niter=MEANS, seed=seed + 1, spherical=True, min_points_per_centroid=1,
        max_points_per_centroid=TRAINED,
    )  # fmt: skip
    means.train(vectors)
    return means


def empty_index(vectors: NDArray[np.float32], seed: int) -> Any:
    """Return an empty index by inner product for these vectors: exact for few, else an inverted file over their k-means."""
    import faiss

    rows, dims = vectors.shape
    flat = faiss.IndexFlatIP(dims)
    if rows <= EXACT:
        return flat
    lists = int(LISTS_PER_ROOT * rows**0.5)
    drawn = np.sort(np.random.default_rng(seed).choice(rows, min(rows, LIST_TRAINED * lists), replace=False))
    index = faiss.IndexIVFFlat(flat, dims, lists, faiss.METRIC_INNER_PRODUCT)
    index.cp.seed, index.cp.spherical, index.cp.min_points_per_centroid = seed + 1, True, 1
    index.train(vectors[drawn])
    index.nprobe = PROBED
    return index


@contextmanager
def one_thread() -> Iterator[None]:
    """Let FAISS use one thread: with few rows several threads gain little and wait for each other on a busy machine."""
    import faiss

    threads = faiss.omp_get_max_threads()
    faiss.omp_set_num_threads(1)
    try:
        yield
    finally:
        faiss.omp_set_num_threads(threads)
