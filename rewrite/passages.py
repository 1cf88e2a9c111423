"""Compare a rewrite with its reference sentence by sentence, by embedding: is anything missing or added?

The cosine of two whole texts hardly changes if one sentence of eight is missing or was invented. So each sentence is compared
with every stretch of one to four sentences of the other text, and with the whole text, and the nearest counts. A sentence of
fewer than 8 words is joined to the next: the embedding of a list item alone is far from the sentence that names it.

At a cosine of 0.45, this alone rejects 42 of the 65 broken and none of the 5 faithful rewrites by a 135M model that a reader had
labelled, and none of 42 faithful pairs written by hand. Common content words instead of cosines rejected fewer of the
rewrites that the other checks had passed.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from kiloset.core.models import Embedder
from kiloset.core.sentences import sentences_of_lines
from kiloset.core.text import squash, words

SHORT = 8
"""Words below which a sentence is joined to the next."""
STRETCH = 4
"""Sentences in the longest stretch, except the whole text."""


class Covered(NamedTuple):
    """In each of two texts, the sentence that is farthest from the other text, with its cosine."""

    kept: float
    """Cosine of the reference's farthest sentence with the nearest passage of the rewrite."""
    lost: str
    """The reference's farthest sentence."""
    added: float
    """Cosine of the rewrite's farthest sentence with the nearest passage of the reference."""
    new: str
    """The rewrite's farthest sentence."""


def sentences(text: str) -> list[str]:
    """Return the sentences or lines of a text, each on one line, short ones joined to the next; at least one."""
    parts: list[str] = []
    for piece in map(squash, sentences_of_lines(text)):
        if parts and len(words(parts[-1])) < SHORT:
            parts[-1] += f" {piece}"
        else:
            parts.append(piece)
    if len(parts) > 1 and len(words(parts[-1])) < SHORT:
        last = parts.pop()
        parts[-1] += f" {last}"
    return parts or [squash(text)]


def stretches(parts: Sequence[str]) -> list[str]:
    """Return every run of one to four sentences, and all sentences together."""
    runs = (parts[a:b] for a in range(len(parts)) for b in range(a + 1, min(len(parts), a + STRETCH) + 1))
    return list(dict.fromkeys(" ".join(run) for run in [*runs, parts]))


def covered(pairs: Sequence[tuple[str, str]], embedder: Embedder) -> list[Covered]:
    """Return, for each `(reference, rewrite)`, the sentences that are farthest from the other text."""
    parts_of = {text: sentences(text) for pair in pairs for text in pair}
    texts = list(dict.fromkeys(run for parts in parts_of.values() for run in stretches(parts)))
    vectors = dict(zip(texts, embedder.embed(texts), strict=True)) if texts else {}

    def farthest(of: str, among: str) -> tuple[float, str]:
        each = np.array([vectors[sentence] for sentence in parts_of[of]])  # (sentences, dims)
        cosines = (each @ np.array([vectors[run] for run in stretches(parts_of[among])]).T).max(axis=1)
        return round(float(cosines.min()), 4), parts_of[of][int(cosines.argmin())]

    return [Covered(*farthest(old, new), *farthest(new, old)) for old, new in pairs]
