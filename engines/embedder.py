"""Sentence embeddings; the only file that imports sentence-transformers."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

BATCH = 32
"""Texts in one forward pass."""


class SentenceEmbedder:
    """An `Embedder` by sentence-transformers, loaded with the first text."""

    is_costly = True

    def __init__(self, path: str, identity: str) -> None:
        """Name the model by its local folder; safetensors only, no remote code."""
        self.identity, self._path = identity, path
        self._model: Any = None

    def embed(self, texts: Sequence[str]) -> NDArray[np.float32]:
        """Return `(texts, dims)` float32 with rows of length 1."""
        if not texts:
            return np.zeros((0, 0), dtype=np.float32)
        vectors = self._loaded().encode(
            list(texts), batch_size=BATCH, normalize_embeddings=True, show_progress_bar=False
        )
        return np.asarray(vectors, dtype=np.float32)

    def peaks(self, texts: Sequence[str]) -> NDArray[np.float32]:
        """Return `(texts, dims)` float32: the maximum over the last hidden states of a text's tokens.

        Special tokens count, as in SCAR (see `rewrite.ranker`), so that an empty text has a vector too; padding does not.
        """
        if not texts:
            return np.zeros((0, 0), dtype=np.float32)
        order = sorted(range(len(texts)), key=lambda at: -len(texts[at]))  # little padding
        peaks: dict[int, NDArray[np.float32]] = {}
        for begin in range(0, len(texts), BATCH):
            part = order[begin : begin + BATCH]
            # A list of (tokens, dims), without padding; of all texts at once they would take gigabytes.
            states = self._loaded().encode(
                [texts[at] for at in part], batch_size=BATCH, output_value="token_embeddings", show_progress_bar=False
            )
            peaks |= {at: state.amax(dim=0).cpu().numpy() for at, state in zip(part, states, strict=True)}
        return np.array([peaks[at] for at in range(len(texts))], dtype=np.float32)

    def _loaded(self) -> Any:
        if self._model is None:
            self._model = load_sentence_transformer(self._path)
        return self._model


def load_sentence_transformer(path: str) -> Any:
    """Load a model from a local folder: safetensors only, no remote code."""
    from sentence_transformers import SentenceTransformer

    return SentenceTransformer(path, trust_remote_code=False, model_kwargs={"use_safetensors": True})
