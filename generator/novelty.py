"""The novelty check: the exact ROUGE-L of an instruction with all others, without comparing all pairs.

Wang et al., "Self-Instruct" (ACL 2023, arXiv:2212.10560) reject an instruction with a ROUGE-L F1 above 0.7 with any
other instruction. Their code compares all pairs. The longest common subsequence of two texts is at most their
multiset overlap m, so F = 2 LCS / (|a| + |b|) <= 2m / (|a| + |b|); only pairs whose bound exceeds the limit are compared.
Departure: words of any script count, not only [a-z0-9], and each character of Chinese and Japanese counts as a word.
"""

from collections import Counter
from collections.abc import Sequence

from rapidfuzz.distance import LCSseq

from kiloset.core.text import words_and_signs


class NoveltyIndex:
    """An inverted index from words to the instructions that contain them."""

    def __init__(self) -> None:
        """Start empty."""
        self._ids: list[str] = []
        self._words: list[list[str]] = []
        self._containing: dict[str, list[tuple[int, int]]] = {}

    def add(self, id: str, instruction: str) -> None:
        """Add an instruction."""
        tokens = words_and_signs(instruction)
        number = len(self._ids)
        self._ids.append(id)
        self._words.append(tokens)
        for word, count in Counter(tokens).items():
            self._containing.setdefault(word, []).append((number, count))

    def nearest(self, instruction: str, above: float) -> tuple[str, float] | None:
        """Return `(id, ROUGE-L F1)` of the most similar instruction, None if no F1 is above `above`.

        Ties go to the instruction that was added first.
        """
        tokens = words_and_signs(instruction)
        overlap: Counter[int] = Counter()
        for word, count in Counter(tokens).items():
            for number, times in self._containing.get(word, ()):
                overlap[number] += min(count, times)
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
