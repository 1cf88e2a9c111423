"""Does a rewrite say each thing that its reference says, and nothing else? Sentence by sentence, by embedding.

The cosine of two whole texts hardly hears that one sentence of eight is gone, or that one was invented. So each sentence
is held against every stretch of one to four sentences of the other text, and the whole of it, and the nearest counts. A
sentence of fewer than 8 words takes in the next: alone, an item of a list lies far from the sentence that names it.

Of 70 rewrites by a 135M model that a reader had labelled, this alone rejects 42 of the 65 broken ones at a cosine of
0.45 and none of the 5 faithful; of 42 faithful pairs written by hand none. Content words in common, in place of cosines,
rejected fewer of those that were left by the other checks.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from kiloset.core.models import Embedder
from kiloset.core.sentences import sentences_of_lines
from kiloset.core.text import squash, words

SHORT = 8
"""Words below which a sentence takes in the next."""
STRETCH = 4
"""Sentences in the longest stretch, the whole text apart."""


class Covered(NamedTuple):
    """How near the sentence of a text that is farthest from the other text is to it, both ways."""

    kept: float
    """Cosine of the reference's sentence that the rewrite says least of."""
    lost: str
    """That sentence."""
    given: float
    """Cosine of the rewrite's sentence that the reference says least of."""
    new: str
    """That sentence."""


def sentences(text: str) -> list[str]:
    """Return the sentences or lines of a text, each on one line, short ones joined to the next; at least one."""
    found: list[str] = []
    for piece in map(squash, sentences_of_lines(text)):
        if found and len(words(found[-1])) < SHORT:
            found[-1] += f" {piece}"
        else:
            found.append(piece)
    if len(found) > 1 and len(words(found[-1])) < SHORT:
        last = found.pop()
        found[-1] += f" {last}"
    return found or [squash(text)]


def stretches(found: Sequence[str]) -> list[str]:
    """Return every run of one to four of the sentences, and the whole."""
    runs = (found[a:b] for a in range(len(found)) for b in range(a + 1, min(len(found), a + STRETCH) + 1))
    return list(dict.fromkeys(" ".join(run) for run in [*runs, found]))


def covered(pairs: Sequence[tuple[str, str]], embedder: Embedder) -> list[Covered]:
    """Return, for each `(reference, rewrite)`, the sentences that are farthest from the other text."""
    cut = {text: sentences(text) for pair in pairs for text in pair}
    texts = list(dict.fromkeys(run for found in cut.values() for run in stretches(found)))
    vectors = dict(zip(texts, embedder.embed(texts), strict=True)) if texts else {}

    def farthest(of: str, among: str) -> tuple[float, str]:
        each = np.array([vectors[sentence] for sentence in cut[of]])  # (sentences, dims)
        cosines = (each @ np.array([vectors[run] for run in stretches(cut[among])]).T).max(axis=1)
        return round(float(cosines.min()), 4), cut[of][int(cosines.argmin())]

    return [Covered(*farthest(old, new), *farthest(new, old)) for old, new in pairs]
