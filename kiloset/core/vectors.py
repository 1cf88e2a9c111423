"""An embedder whose vectors are stored as they come and never computed twice."""

import hashlib
from collections.abc import Sequence
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from kiloset.core.models import Embedder
from kiloset.core.progress import Progress

PART = 256
"""Texts that are embedded, and committed, at once."""


class Vectors(Protocol):
    """Where vectors are kept, as bytes by key."""

    def vectors(self, keys: Sequence[str]) -> dict[str, bytes]:
        """Return those there are."""

    def add_vectors(self, vectors: Sequence[tuple[str, bytes]]) -> None:
        """Add some."""


class StoredVectors:
    """Vectors that are there, to which none is added."""

    def __init__(self, store: Vectors) -> None:
        """Name the store."""
        self.vectors = store.vectors

    def add_vectors(self, vectors: Sequence[tuple[str, bytes]]) -> None:
        """Do nothing."""


class RecordedEmbedder:
    """An embedder whose vectors are stored.

    The last digits of a vector depend on the texts it was computed with; stored, a text has one vector for the whole run, also
    after a stop, or where its company has changed.
    """

    def __init__(self, embedder: Embedder, store: Vectors, progress: Progress) -> None:
        """Wrap an embedder."""
        self._embedder, self._store, self._progress = embedder, store, progress
        self.identity, self.is_costly = embedder.identity, embedder.is_costly

    def embed(self, texts: Sequence[str]) -> NDArray[np.float32]:
        """Return `(texts, dims)` float32 with rows of length 1."""
        keys = [hashlib.sha256(f"{self.identity}\0{text}".encode()).hexdigest() for text in texts]
        missing = dict(zip(keys, texts, strict=True))
        known = self._store.vectors(list(missing))
        todo = [(key, text) for key, text in missing.items() if key not in known]
        # An embedder of many machines is not kept busy by a few texts at a time.
        at_once = int(getattr(self._embedder, "at_once", PART))
        shown = len(todo) > PART
        if shown:
            self._progress.begin("embedding", len(todo))
        for start in range(0, len(todo), at_once):
            part = todo[start : start + at_once]
            vectors = self._embedder.embed([text for _, text in part])
            found = [(key, vector.tobytes()) for (key, _), vector in zip(part, vectors, strict=True)]
            self._store.add_vectors(found)
            known |= found
            if shown:
                self._progress.advance(len(part))
        if shown:
            self._progress.end()
        return np.array([np.frombuffer(known[key], np.float32) for key in keys], np.float32).reshape(
            len(texts), -1 if texts else 0
        )
