"""Which texts share much of their character n-grams: MinHash over many texts at once, exact Jaccard to decide.

Candidates by MinHash with locality-sensitive hashing (Broder 1997) in datasketch's scheme `affine32`, 25 bands of 5 rows over
character 5-grams: a pair of Jaccard similarity 0.7 is found with probability 0.990, one of 0.8 with 0.9998. An n-gram, and a
whole text where copies are looked for, is a 64-bit hash; among 10^8 different ones two are equal with a probability of 0.0003.

The loops over rows and characters are compiled by numba, once, and kept in its cache. The only file that imports numba, which
its decorators need at once: import it where it is used.
"""

import os
import unicodedata
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
import polars as pl
from numba import njit
from numpy.typing import NDArray

from core.text import normal_form

BANDS, ROWS = 25, 5
SHORT_WORDS = 9
"""Texts of so many words at most are also compared by 4-grams and by their words: one edit upsets most of their 5-grams."""
SHORT_JACCARD = 0.75
LONGEST_WALK = 2000
"""Kept rows of a bucket that a row is compared with at most, the last first. Rows alike do not fill a bucket, for only kept
ones are in it; this bounds the work where thousands of rows share a long frame and yet differ."""
FIVE_GRAMS, FOUR_GRAMS, SAME_WORDS = 0, 1, 2
"""The measures by which a pair can be alike."""

_FEW = 5_000
"""Texts that one thread does alone."""
_PER_STEP = 4096
"""Likenesses of one row that are told, at most."""


@dataclass(frozen=True, slots=True)
class Texts:
    """The normal forms of many texts between two spaces: " instruction ∥ input ", without " ∥ " where there is no input."""

    codes: NDArray[np.uint32]
    """Code points."""
    begins: NDArray[np.int64]
    """`(texts,)`: where each begins and ends."""
    ends: NDArray[np.int64]
    hashes: NDArray[np.uint64]
    """Of each whole text."""
    bags: NDArray[np.uint64]
    """Of each text's words in any order."""
    lengths: NDArray[np.int64]
    """Words of each text."""

    def __len__(self) -> int:
        """Return how many there are."""
        return len(self.begins)

    def __getitem__(self, rows: NDArray[np.int64]) -> "Texts":
        """Return some of them."""
        begins, ends, lengths = self.begins[rows], self.ends[rows], self.lengths[rows]
        return Texts(self.codes, begins, ends, self.hashes[rows], self.bags[rows], lengths)


@dataclass(frozen=True, slots=True)
class Like:
    """A kept row like another one."""

    row: int
    value: float
    """By the measure that decided, in [0, 1]."""
    measure: int


class Walk:
    """Compares each text with those kept before it.

    `step` goes on to the next one that is like kept ones; those like none are kept on the way. Whether it is kept is the
    caller's to say, with `keep`, before the next step.
    """

    def __init__(self, texts: Texts, threshold: float, seed: int) -> None:
        """Prepare.

        Args:
            texts: Best first.
            threshold: Jaccard similarity of 5-grams from which two are alike.
            seed: Of the hash functions.
        """
        self.threshold = threshold
        self._at = 0
        short = texts.lengths <= SHORT_WORDS
        found = signatures(texts, seed)
        self._buckets, buckets = _buckets(found, texts.bags, short)
        self._heads = np.full(buckets, -1, np.int32)
        self._nexts = np.full(self._buckets.shape, -1, np.int32)
        self._seen = np.full(len(texts), -1, np.int32)
        # Sets are made where they are first needed; memory that is never touched is never taken.
        windows = np.cumsum(np.maximum(texts.ends - texts.begins - 4, 1))
        sets = np.empty(int(windows[-1]) if len(texts) else 0, np.uint64)
        sizes = np.full(len(texts), -1, np.int64)
        places = np.concatenate((np.zeros(1, np.int64), windows))
        # Of a pair at the threshold the share of equal hashes is that far below it with a probability of 10^-9.
        least = int(BANDS * ROWS * (threshold - 6 * (threshold * (1 - threshold) / (BANDS * ROWS)) ** 0.5))
        self._texts = (found, least, texts.codes, texts.begins, texts.ends, texts.bags, short, sets, places, sizes)
        self._found = (np.empty(_PER_STEP, np.int32), np.empty(_PER_STEP, np.float64), np.empty(_PER_STEP, np.int8))
        self.cut_short = 0
        """Times that a row was not compared with all rows of a bucket, for there were more than `LONGEST_WALK`."""

    def step(self) -> tuple[int, list[Like]] | None:
        """Return the next row that is like rows kept before it, and these; None at the end."""
        row, count, cut = _advance(
            self._at, self.threshold, LONGEST_WALK, self._buckets, self._heads, self._nexts, self._seen, *self._texts,
            *self._found,
        )  # fmt: skip
        self._at = row + 1
        self.cut_short += cut
        if not count:
            return None
        rows, values, measures = (part[:count].tolist() for part in self._found)
        return row, [Like(*each) for each in zip(rows, values, measures, strict=True)]

    def keep(self, row: int) -> None:
        """Keep the row that the last step returned."""
        _insert(row, self._buckets, self._heads, self._nexts)


def normal_texts(instructions: pl.Series, inputs: pl.Series) -> Texts:
    """Return the normal forms (`core.text.normal_form`) of instructions with their inputs."""
    data, sizes = zip(*(_utf8(each) for each in (instructions, inputs)), strict=True)
    starts = [np.concatenate((np.zeros(1, np.int64), np.cumsum(each))) for each in sizes]
    room = sizes[0] + sizes[1] + 5
    begins = np.cumsum(room) - room
    codes = np.empty(int(room.sum()), np.uint32)
    plain = np.array([ord(chr(c).lower()) if chr(c).isalnum() else 32 for c in range(128)], np.uint32)
    ends, lengths = np.empty(len(room), np.int64), np.empty(len(room), np.int64)
    hashes, bags = np.empty(len(room), np.uint64), np.empty(len(room), np.uint64)
    _in_parts(
        len(room), len(room), _normalise, data[0], starts[0], data[1], starts[1], plain, codes, begins, ends, hashes, bags,
        lengths,
    )  # fmt: skip
    return Texts(codes, begins, ends, hashes, bags, lengths)


def _utf8(texts: pl.Series) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    """Return the bytes of all texts and the number of each; what is beyond ASCII is in normal form already."""
    sizes = texts.str.len_bytes()
    if (others := (texts.str.len_chars() != sizes).arg_true()).len():
        texts = texts.scatter(others, [normal_form(text) for text in texts.gather(others)])
        sizes = texts.str.len_bytes()
    joined = texts.str.join("").item() or "" if len(texts) else ""
    return np.frombuffer(joined.encode(), np.uint8), sizes.cast(pl.Int64).to_numpy()


def signatures(texts: Texts, seed: int) -> NDArray[np.uint32]:
    """Return the `(texts, BANDS * ROWS)` signatures of 5-grams that datasketch's `MinHash(scheme="affine32")` would have."""
    draw = np.random.RandomState(seed + 1)
    odd = draw.randint(0, 1 << 31, BANDS * ROWS, dtype=np.uint32) * np.uint32(2) + np.uint32(1)
    added = draw.randint(0, 1 << 32, BANDS * ROWS, dtype=np.uint32)
    found = np.empty((len(texts), BANDS * ROWS), np.uint32)
    _in_parts(len(texts), len(texts), _signatures, texts.codes, texts.begins, texts.ends, odd, added, found)
    return found


def grams(texts: Texts, row: int, length: int) -> NDArray[np.uint64]:
    """Return the hashes of a text's n-grams, distinct and rising; a text that is shorter has one, itself."""
    found = np.empty(max(1, texts.ends[row] - texts.begins[row] - length + 1), np.uint64)
    return found[: _fill(texts.codes, texts.begins[row], texts.ends[row], length, found)]


def _buckets(
    found: NDArray[np.uint32], bags: NDArray[np.uint64], short: NDArray[np.bool_]
) -> tuple[NDArray[np.int32], int]:
    """Return the `(texts, BANDS + 1)` buckets, -1 where a text is alone, and their number.

    The last column is for short texts of the same words, which need not share an n-gram.
    """
    buckets = np.full((len(found), BANDS + 1), -1, np.int32)
    slots = 1 << max(4, (2 * len(found)).bit_length())
    numbers = np.zeros(BANDS + 1, np.int64)
    _in_parts(len(found), BANDS + 1, _bucket, found, ROWS, bags, short, buckets, slots, numbers)
    firsts = np.cumsum(numbers) - numbers
    buckets += np.where(buckets >= 0, firsts.astype(np.int32), np.int32(0))
    return buckets, int(numbers.sum())


def _in_parts(texts: int, number: int, work: Callable[..., None], *given: Any) -> None:
    """Call `work(begin, end, *given)` on parts of a range, side by side where the texts are many: it lets go of the lock."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    if texts <= _FEW or cores == 1:
        work(0, number, *given)
        return
    bounds = [number * part // cores for part in range(cores + 1)]
    with ThreadPoolExecutor(cores) as pool:
        for done in [pool.submit(work, *pair, *given) for pair in pairwise(bounds)]:
            done.result()


# ------------------------------------------------------------------------------------------------------- compiled

_0, _1, _16, _29, _32 = (np.uint64(each) for each in (0, 1, 16, 29, 32))
_LOW = np.uint64(0xFFFFFFFF)
_GOLDEN, _OTHER = np.uint64(0x9E3779B97F4A7C15), np.uint64(0xBF58476D1CE4E5B9)
_FMIX_1, _FMIX_2 = np.uint32(0x85EBCA6B), np.uint32(0xC2B2AE35)
_SPACE, _BETWEEN = np.uint32(32), np.uint32(ord("∥"))
assert unicodedata.category("∥") == "Sm", "no normal form may hold what stands between instruction and input"


@njit(cache=True)
def _hash(codes: Any, begin: int, end: int) -> Any:
    """Hash some code points to 64 bits."""
    value = np.uint64(end - begin)
    for at in range(begin, end):
        value = (value ^ np.uint64(codes[at])) * _GOLDEN
        value ^= value >> _29
    value *= _OTHER
    return value ^ (value >> _32)


@njit(cache=True)
def _append(data: Any, begin: int, end: int, plain: Any, codes: Any, at: int) -> int:
    """Write the normal form of some bytes, without a space at either end; return where it ends."""
    first, waiting = at, False
    here = begin
    while here < end:
        byte = np.uint32(data[here])
        here += 1
        if byte < 128:
            code = plain[byte]
        else:
            more = 1 + (byte >= 0xE0) + (byte >= 0xF0)
            code = byte & np.uint32(0xFF >> (more + 2))
            for _ in range(more):
                code = np.uint32((code << np.uint32(6)) | (np.uint32(data[here]) & np.uint32(0x3F)))
                here += 1
        if code == _SPACE:
            waiting = at > first
            continue
        if waiting:
            codes[at] = _SPACE
            at += 1
            waiting = False
        codes[at] = code
        at += 1
    return at


@njit(cache=True, nogil=True)
def _normalise(
    first: int, last: int, one: Any, one_starts: Any, other: Any, other_starts: Any, plain: Any, codes: Any, begins: Any,
    ends: Any, hashes: Any, bags: Any, lengths: Any,
) -> None:  # fmt: skip
    for text in range(first, last):
        at = begins[text]
        codes[at] = _SPACE
        at = _append(one, one_starts[text], one_starts[text + 1], plain, codes, at + 1)
        given = _append(other, other_starts[text], other_starts[text + 1], plain, codes, at + 3)
        if given > at + 3:
            codes[at], codes[at + 1], codes[at + 2] = _SPACE, _BETWEEN, _SPACE
            at = given
        codes[at] = _SPACE
        ends[text] = at + 1
        hashes[text] = _hash(codes, begins[text], at + 1)
        bag, words, begin = _0, 0, begins[text] + 1
        for here in range(begin, at + 1):
            if codes[here] == _SPACE:
                if here > begin:
                    # Of longer texts nobody asks for it.
                    bag += _hash(codes, begin, here) if words < SHORT_WORDS else _0
                    words += 1
                begin = here + 1
        bags[text], lengths[text] = bag, words


@njit(cache=True, nogil=True)
def _signatures(first: int, last: int, codes: Any, begins: Any, ends: Any, a: Any, b: Any, found: Any) -> None:
    hashes = len(a)
    for text in range(first, last):
        row = found[text]
        row[:] = np.uint32(0xFFFFFFFF)
        size = ends[text] - begins[text]
        for at in range(begins[text], begins[text] + max(1, size - 4)):
            # MurmurHash3's finalizer, which datasketch applies first.
            h = np.uint32(_hash(codes, at, at + min(5, size)) & _LOW)
            h = np.uint32((h ^ (h >> np.uint32(16))) * _FMIX_1)
            h = np.uint32((h ^ (h >> np.uint32(13))) * _FMIX_2)
            h = np.uint32(h ^ (h >> np.uint32(16)))
            for k in range(hashes):
                value = np.uint32(a[k] * h + b[k])
                row[k] = min(row[k], value)


@njit(cache=True, nogil=True)
def _bucket(
    first_column: int,
    last_column: int,
    found: Any,
    rows: int,
    bags: Any,
    short: Any,
    buckets: Any,
    slots: int,
    numbers: Any,
) -> None:
    """Number the values that several texts share, for each band and for the words; note how many there are in each."""
    texts, columns = buckets.shape
    mask = np.uint64(slots - 1)
    for column in range(first_column, last_column):
        holders = np.full(slots, -1, np.int32)  # a text that has the value
        values = np.empty(slots, np.uint64)
        for text in range(texts):
            value = bags[text]
            if column < columns - 1:
                value = _0
                for k in range(column * rows, (column + 1) * rows):
                    value = (value ^ np.uint64(found[text, k])) * _GOLDEN
                    value ^= value >> _29
            elif not short[text]:
                continue
            place = (value * _OTHER >> _16) & mask
            while holders[place] >= 0 and values[place] != value:
                place = (place + _1) & mask
            if holders[place] < 0:
                holders[place], values[place] = text, value
                continue
            first = holders[place]
            if buckets[first, column] < 0:
                buckets[first, column] = numbers[column]
                numbers[column] += 1
            buckets[text, column] = buckets[first, column]


@njit(cache=True)
def _fill(codes: Any, begin: int, end: int, length: int, found: Any) -> int:
    """Write the hashes of a text's n-grams, distinct and rising; return how many there are."""
    number = max(1, end - begin - length + 1)
    for at in range(number):
        found[at] = _hash(codes, begin + at, begin + at + min(length, end - begin))
    found[:number].sort()
    distinct = 1
    for at in range(1, number):
        if found[at] != found[at - 1]:
            found[distinct] = found[at]
            distinct += 1
    return distinct


@njit(cache=True)
def _jaccard(first: Any, second: Any, least: float) -> float:
    """Return the exact Jaccard similarity of two rising sets, or 0 if it is below `least` for certain."""
    one, other = len(first), len(second)
    if min(one, other) < least * max(one, other):
        return 0.0
    # With so many that only one of the two has, `least` is out of reach.
    spare = int((one + other) * (1 - least) / (1 + least)) + 2
    common, i, j = 0, 0, 0
    while i < one and j < other:
        a, b = first[i], second[j]
        common += a == b
        spare -= a != b
        if spare < 0:
            return 0.0
        i += a <= b
        j += b <= a
    return common / (one + other - common)


@njit(cache=True)
def _insert(row: int, buckets: Any, heads: Any, nexts: Any) -> None:
    for band in range(buckets.shape[1]):
        bucket = buckets[row, band]
        if bucket >= 0:
            nexts[row, band] = heads[bucket]
            heads[bucket] = row


@njit(cache=True)
def _compare(
    row: int, other: int, threshold: float, found: Any, least: int, codes: Any, begins: Any, ends: Any, bags: Any,
    short: Any, sets: Any, places: Any, sizes: Any,
) -> tuple[float, int]:  # fmt: skip
    """Return how alike two texts are and by which measure, (0, 0) if they are not."""
    if not (short[row] and short[other]):
        # The sets of a pair that only happens to share a band are not even made.
        equal = 0
        for k in range(found.shape[1]):
            equal += found[row, k] == found[other, k]
        if equal < least:
            return 0.0, FIVE_GRAMS
    if sizes[row] < 0:
        sizes[row] = _fill(codes, begins[row], ends[row], 5, sets[places[row] : places[row + 1]])
    if sizes[other] < 0:
        sizes[other] = _fill(codes, begins[other], ends[other], 5, sets[places[other] : places[other + 1]])
    mine = sets[places[row] : places[row] + sizes[row]]
    value = _jaccard(mine, sets[places[other] : places[other] + sizes[other]], threshold)
    if value >= threshold:
        return value, FIVE_GRAMS
    if not (short[row] and short[other]):
        return 0.0, FIVE_GRAMS
    if bags[row] == bags[other]:
        return 1.0, SAME_WORDS
    first = np.empty(ends[row] - begins[row], np.uint64)
    second = np.empty(ends[other] - begins[other], np.uint64)
    one = _fill(codes, begins[row], ends[row], 4, first)
    two = _fill(codes, begins[other], ends[other], 4, second)
    value = _jaccard(first[:one], second[:two], SHORT_JACCARD)
    return (value, FOUR_GRAMS) if value >= SHORT_JACCARD else (0.0, FOUR_GRAMS)


@njit(cache=True)
def _advance(
    begin: int, threshold: float, longest: int, buckets: Any, heads: Any, nexts: Any, seen: Any,
    found: Any, least: int, codes: Any, begins: Any, ends: Any, bags: Any, short: Any, sets: Any, places: Any, sizes: Any,
    rows: Any, likenesses: Any, measures: Any,
) -> tuple[int, int, int]:  # fmt: skip
    """Go on until a row is like kept ones; return it, their number, and how often a bucket was not gone through whole."""
    cut = 0
    for row in range(begin, len(buckets)):
        count = 0
        for band in range(buckets.shape[1]):
            bucket = buckets[row, band]
            if bucket < 0:
                continue
            other, steps = heads[bucket], 0
            while other >= 0:
                if steps == longest:
                    cut += 1
                    break
                steps += 1
                if seen[other] != row:
                    seen[other] = row
                    value, measure = _compare(
                        row, other, threshold, found, least, codes, begins, ends, bags, short, sets, places, sizes
                    )
                    if value > 0 and count < len(rows):
                        rows[count], likenesses[count], measures[count] = other, value, measure
                        count += 1
                other = nexts[other, band]
        if count:
            return row, count, cut
        _insert(row, buckets, heads, nexts)
    return len(buckets), 0, cut
