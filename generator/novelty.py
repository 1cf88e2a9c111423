"""Is an instruction new? ROUGE-L against everything there is, exactly, without comparing with everything.

Wang et al., "Self-Instruct" (ACL 2023, arXiv:2212.10560) refuse an instruction whose ROUGE-L F1 with any instruction of
the pool is above 0.7. Their code compares all pairs. The longest common subsequence of two texts is at most their
multiset overlap m, so F = 2 LCS / (|a| + |b|) <= 2m / (|a| + |b|); only pairs whose bound exceeds the limit are compared.
Departure: words of any script count, not only [a-z0-9], and each sign of Chinese and Japanese.
"""

from collections import Counter
from collections.abc import Sequence

from rapidfuzz.distance import LCSseq

from kiloset.core.text import words_and_signs


class NoveltyIndex:
    """An inverted index from words to the instructions that hold them."""

    def __init__(self) -> None:
        """Begin empty."""
        self._ids: list[str] = []
        self._words: list[list[str]] = []
        self._holders: dict[str, list[tuple[int, int]]] = {}

    def add(self, id: str, instruction: str) -> None:
        """Make an instruction part of the pool."""
        tokens = words_and_signs(instruction)
        number = len(self._ids)
        self._ids.append(id)
        self._words.append(tokens)
        for word, count in Counter(tokens).items():
            self._holders.setdefault(word, []).append((number, count))

    def nearest(self, instruction: str, above: float) -> tuple[str, float] | None:
        """Return the pool's `(id, ROUGE-L F1)` nearest to an instruction, if that is above `above`, else None.

        Ties go to the one added first.
        """
        tokens = words_and_signs(instruction)
        overlap: Counter[int] = Counter()
        for word, count in Counter(tokens).items():
            for number, held in self._holders.get(word, ()):
                overlap[number] += min(count, held)
        best: tuple[str, float] | None = None
        for number in sorted(overlap):
            limit = above if best is None else best[1]
            if 2 * overlap[number] / (len(tokens) + len(self._words[number])) > limit:
                score = rouge_l(tokens, self._words[number])
                if score > limit:
                    best = (self._ids[number], score)
        return best


def rouge_l(first: Sequence[str], second: Sequence[str]) -> float:
    """Return the F1 of the longest common subsequence of two word lists, in [0, 1]."""
    if not first or not second:
        return 0.0
    return 2 * LCSseq.similarity(first, second) / (len(first) + len(second))
