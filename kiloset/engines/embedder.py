"""Sentence embeddings; the only file that imports sentence-transformers."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray


class SentenceEmbedder:
    """An `Embedder` with a sentence-transformers model, loaded at the first call."""

    is_costly = True

    def __init__(self, path: str, identity: str) -> None:
        """Keep the model's local folder and its name and revision; nothing is loaded yet."""
        self.identity, self._path = identity, path
        self._model: Any = None

    def embed(self, texts: Sequence[str]) -> NDArray[np.float32]:
        """Return `(texts, dims)` float32 with rows of length 1."""
        if not texts:
            return np.zeros((0, 0), dtype=np.float32)
        if self._model is None:
            self._model = load_sentence_transformer(self._path)
        vectors = self._model.encode(list(texts), batch_size=32, normalize_embeddings=True, show_progress_bar=False)
        return np.asarray(vectors, dtype=np.float32)


def load_sentence_transformer(path: str) -> Any:
    """Load a model from a local folder: safetensors only, no remote code."""
    from sentence_transformers import SentenceTransformer

    return SentenceTransformer(path, trust_remote_code=False, model_kwargs={"use_safetensors": True})
