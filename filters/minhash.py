"""Find texts that share most of their character n-grams: MinHash proposes pairs, exact Jaccard similarity decides.

Candidates come from MinHash signatures and locality-sensitive hashing (Broder, "On the Resemblance and Containment of
Documents", 1997) with 25 bands of 5 rows over character 5-grams: a pair with a Jaccard similarity of 0.7 becomes a candidate
with a probability of 0.990, a pair with 0.8 with 0.9998.

Two engines give the same verdicts. datasketch's MinHash and MinHashLSH serve tables of up to `COMPILED_ABOVE` rows,
`minhash_compiled.py` serves larger ones. Both hash n-grams alike and draw datasketch's permutations of the scheme
"affine32", so their signatures, and with them their candidates, are equal. A test compares both with all pairs.
"""

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Protocol

import numpy as np
import polars as pl
from numpy.typing import NDArray

from kiloset.core.text import jaccard, normal_form

BANDS, ROWS = 25, 5
SHORT_WORDS = 9
"""Texts of at most so many words are also compared by 4-grams and by their words: one edit changes most of their 5-grams."""
SHORT_JACCARD = 0.75
"""Jaccard similarity of 4-grams from which two short texts match."""
COMPILED_ABOVE = 5_000
"""Largest table, in rows, that datasketch's engine serves.

CPU seconds of the stage (`benchmarks/near_duplicates.py --engines`, two cores): datasketch takes 0.5 for the 196 bundled seeds,
1.2 for 2,000 rows of Dolly, 0.9, 1.6 and 2.9 for 2,000, 5,000 and 10,000 random texts of 36 words. The compiled engine takes
0.6 for each of them, but 10.7 where its code is not yet in numba's cache. Up to this size datasketch costs at most two seconds
more and saves the compilation.
"""
LONGEST_WALK = COMPILED_ABOVE
"""Kept rows of one bucket that a row is compared with at most, the latest first. Matching rows do not fill a bucket, because
only kept rows are in it; the limit bounds the work where thousands of rows share a long frame. It is no less than
`COMPILED_ABOVE`, so the limit never decides between the engines."""
FIVE_GRAMS, FOUR_GRAMS, SAME_WORDS = 0, 1, 2
"""The measures by which a pair can match."""
GOLDEN, MIXER = np.uint64(0x9E3779B97F4A7C15), np.uint64(0xBF58476D1CE4E5B9)
"""Odd factors of the hash functions."""
_BATCH = 10_000
"""N-grams that datasketch hashes at a time; it takes 500 bytes for each."""
_64_BITS = (1 << 64) - 1


@dataclass(frozen=True, slots=True)
class Match:
    """A kept row that another row matches."""

    row: int
    similarity: float
    """By the measure that decided, in [0, 1]."""
    measure: int
    """`FIVE_GRAMS`, `FOUR_GRAMS` or `SAME_WORDS`."""


class MatchFinder(Protocol):
    """Compares each text, in order, with the kept texts before it.

    `next_match` goes on to the next row that matches kept rows; it keeps all rows without a match on the way. The caller
    decides about the row that was returned and calls `keep` for it, or not, before the next call.
    """

    cut_short: int
    """How often a row was compared with only `LONGEST_WALK` rows of a bucket."""

    def next_match(self) -> tuple[int, list[Match]] | None:
        """Return the next row that matches kept rows, with its matches; None at the end."""
        ...

    def keep(self, row: int) -> None:
        """Keep the row that `next_match` returned last."""
        ...


class Texts(Protocol):
    """Padded normal forms of texts: " instruction ∥ input ", without the mark where there is no input."""

    def __len__(self) -> int:
        """Return the number of texts."""
        ...

    def __getitem__(self, rows: NDArray[np.int64]) -> "Texts":
        """Return the texts at these places."""
        ...

    def identities(self) -> pl.Series:
        """Return values that are equal where the texts are equal."""
        ...

    def band_keys(self, seed: int) -> NDArray[np.uint64]:
        """Return `(texts, BANDS + 1)` keys. Two texts that a match finder compares share one; 0 stands for no key.

        The last column belongs to the words of short texts. A key does not depend on the other texts.
        """
        ...

    def match_finder(self, threshold: float, seed: int) -> MatchFinder:
        """Return a finder over these texts, which stand in the order of preference.

        Args:
            threshold: Jaccard similarity of 5-grams from which two texts match, in (0, 1].
            seed: Seed of the permutations.
        """
        ...


def normal_texts(instructions: pl.Series, inputs: pl.Series) -> Texts:
    """Return the padded normal forms of instructions with their inputs, for the engine that serves so many rows."""
    if len(instructions) > COMPILED_ABOVE:
        from kiloset.filters.minhash_compiled import compiled_texts

        return compiled_texts(instructions, inputs)
    return PaddedTexts.of(instructions, inputs)


@dataclass(frozen=True)
class PaddedTexts:
    """The texts of a table that datasketch's engine serves; see `Texts`."""

    texts: Sequence[str]

    @classmethod
    def of(cls, instructions: pl.Series, inputs: pl.Series) -> "PaddedTexts":
        """Normalise instructions and inputs."""
        parts = ([normal_form(text) for text in pair] for pair in zip(instructions, inputs, strict=True))
        return cls([f" {one} ∥ {other} " if other else f" {one} " for one, other in parts])

    def __len__(self) -> int:
        """Return the number of texts."""
        return len(self.texts)

    def __getitem__(self, rows: NDArray[np.int64]) -> "PaddedTexts":
        """Return the texts at these places."""
        return PaddedTexts([self.texts[row] for row in rows.tolist()])

    def identities(self) -> pl.Series:
        """See `Texts.identities`."""
        return pl.Series(self.texts, dtype=pl.String)

    @cached_property
    def is_short(self) -> NDArray[np.bool_]:
        """`(texts,)`: whether a text has at most `SHORT_WORDS` words."""
        return np.array([len(text.split()) <= SHORT_WORDS for text in self.texts], np.bool_)

    @cached_property
    def bags(self) -> NDArray[np.uint64]:
        """`(texts,)`: hash of the words of a short text in any order, 0 for a longer text."""
        bags = (_bag(text) if short else 0 for text, short in zip(self.texts, self.is_short, strict=True))
        return np.fromiter(bags, np.uint64, len(self.texts))

    def sketches(self, seed: int) -> list[Any]:
        """Return datasketch's MinHash of the 5-grams of each text."""
        from datasketch import MinHash

        # Since version 2.0 datasketch has another default scheme than before.
        empty = MinHash(num_perm=BANDS * ROWS, seed=seed + 1, scheme="affine32", hashfunc=_identity)
        sketches = []
        for text in self.texts:
            sketch = empty.copy()
            hashes = np.unique(gram_hashes(text, 5) & np.uint64(0xFFFFFFFF))
            for start in range(0, len(hashes), _BATCH):
                sketch.update_batch(hashes[start : start + _BATCH].tolist())
            sketches.append(sketch)
        return sketches

    def band_keys(self, seed: int) -> NDArray[np.uint64]:
        """See `Texts.band_keys`."""
        rows = _signatures(self.sketches(seed)).reshape(-1, BANDS, ROWS).astype(np.uint64)
        bands = np.zeros((BANDS + 1, len(self)), np.uint64)
        for row in range(ROWS):
            bands[:BANDS] = (bands[:BANDS] ^ rows[:, :, row].T) * GOLDEN
            bands[:BANDS] ^= bands[:BANDS] >> np.uint64(29)
        bands[BANDS] = self.bags
        return keys_of_bands(bands, ~self.is_short)

    def match_finder(self, threshold: float, seed: int) -> "DatasketchMatchFinder":
        """See `Texts.match_finder`."""
        return DatasketchMatchFinder(self, threshold, seed)


class DatasketchMatchFinder:
    """Keeps an index of the kept rows by datasketch; see `MatchFinder`."""

    def __init__(self, texts: PaddedTexts, threshold: float, seed: int) -> None:
        """Compute the signatures."""
        from datasketch import MinHashLSH

        self.cut_short = 0
        self._texts, self._threshold, self._next = texts, threshold, 0
        self._sketches = texts.sketches(seed)
        self._low_bytes, self._least = _signatures(self._sketches).astype(np.uint8), least_agreement(threshold)
        self._index = MinHashLSH(num_perm=BANDS * ROWS, params=(BANDS, ROWS))
        self._by_bag: dict[int, list[int]] = defaultdict(list)
        self._grams: dict[tuple[int, int], frozenset[int]] = {}

    def next_match(self) -> tuple[int, list[Match]] | None:
        """Return the next row that matches kept rows, with its matches; None at the end."""
        while (row := self._next) < len(self._texts):
            self._next += 1
            same_words = self._by_bag.get(int(self._texts.bags[row]), ()) if self._texts.is_short[row] else ()
            candidates = {*self._index.query(self._sketches[row]), *same_words}
            matches = [match for other in sorted(candidates) if (match := self._compare(row, other)) is not None]
            if matches:
                return row, matches
            self.keep(row)
        return None

    def keep(self, row: int) -> None:
        """Keep the row that `next_match` returned last."""
        self._index.insert(row, self._sketches[row])
        if self._texts.is_short[row]:
            self._by_bag[int(self._texts.bags[row])].append(row)

    def _compare(self, row: int, other: int) -> Match | None:
        short = self._texts.is_short[row] and self._texts.is_short[other]
        if not short and (self._low_bytes[row] == self._low_bytes[other]).sum() < self._least:
            return None
        similarity = jaccard(self._set(row, 5), self._set(other, 5))
        if similarity >= self._threshold:
            return Match(other, similarity, FIVE_GRAMS)
        if not short:
            return None
        if self._texts.bags[row] == self._texts.bags[other]:
            return Match(other, 1.0, SAME_WORDS)
        similarity = jaccard(self._set(row, 4), self._set(other, 4))
        return Match(other, similarity, FOUR_GRAMS) if similarity >= SHORT_JACCARD else None

    def _set(self, row: int, length: int) -> frozenset[int]:
        if (row, length) not in self._grams:
            self._grams[row, length] = frozenset(gram_hashes(self._texts.texts[row], length).tolist())
        return self._grams[row, length]


def gram_hashes(text: str, length: int) -> NDArray[np.uint64]:
    """Return the 64-bit hash of each character n-gram of a text, in order; a shorter text is its own n-gram."""
    codes = np.frombuffer(text.encode("utf-32-le"), np.uint32).astype(np.uint64)
    length = min(length, len(codes))
    number = len(codes) - length + 1
    low, high = np.zeros(number, np.uint64), np.full(number, length, np.uint64)
    for at in range(length):
        half = low if at < 3 else high  # three code points of 21 bits fill one half
        half[:] = (half << np.uint64(21)) | codes[at : at + number]
    hashes: NDArray[np.uint64] = (low ^ (high * MIXER)) * GOLDEN
    return hashes ^ (hashes >> np.uint64(32))


def least_agreement(threshold: float) -> int:
    """Return the least number of equal places in the signatures of a pair that is worth an exact comparison.

    The share of equal places of a pair at the threshold is that far below the threshold with a probability of 10^-9.
    """
    places = BANDS * ROWS
    return int(places * (threshold - 6 * (threshold * (1 - threshold) / places) ** 0.5))


def keys_of_bands(bands: NDArray[np.uint64], is_long: NDArray[np.bool_]) -> NDArray[np.uint64]:
    """Return `(texts, BANDS + 1)` keys, different in each column, from `(BANDS + 1, texts)` hashes of bands."""
    keys = ((bands ^ np.arange(1, len(bands) + 1, dtype=np.uint64)[:, None] * MIXER) * GOLDEN).T | np.uint64(1)
    keys[is_long, BANDS] = 0
    return np.ascontiguousarray(keys)


def _signatures(sketches: Sequence[Any]) -> NDArray[np.uint32]:
    """Return the `(texts, BANDS * ROWS)` values of sketches."""
    return np.array([sketch.hashvalues for sketch in sketches], np.uint32).reshape(-1, BANDS * ROWS)


def _bag(text: str) -> int:
    """Return the sum of 64-bit hashes of a text's words."""
    total = 0
    for word in text.encode().split(b" "):
        value = len(word)
        for byte in word:
            value = ((value ^ byte) * int(GOLDEN)) & _64_BITS
            value ^= value >> 29
        value = (value * int(MIXER)) & _64_BITS
        total += (value ^ (value >> 32)) if word else 0
    return total & _64_BITS


def _identity(value: int) -> int:
    return value
