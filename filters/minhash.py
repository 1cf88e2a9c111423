"""Which texts share much of their character n-grams: MinHash over many texts at once, exact Jaccard to decide.

Candidates by MinHash with locality-sensitive hashing (Broder 1997) in datasketch's scheme `affine32`, 25 bands of 5 rows over
character 5-grams: a pair of Jaccard similarity 0.7 is found with probability 0.990, one of 0.8 with 0.9998. An n-gram, and a
whole text where copies are looked for, is a 64-bit hash; among 10^8 different ones two are equal with a probability of 0.0003.

The loops over rows and characters are compiled by numba, once, and kept in its cache. The only file that imports numba, which
its decorators need at once: import it where it is used.
"""

import gc
import os
import unicodedata
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cache
from itertools import pairwise
from typing import Any

import numpy as np
import polars as pl
from numba import njit
from numpy.typing import NDArray

from kiloset.core.text import normal_form

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

    data: NDArray[np.uint8]
    """UTF-8."""
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
        return Texts(self.data, begins, ends, self.hashes[rows], self.bags[rows], lengths)


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
        bands, lows = _bands_of(texts, seed)
        self._buckets, buckets = _buckets(bands, short)
        self._heads = np.full(buckets, -1, np.int32)
        self._nexts = np.empty_like(self._buckets)
        self._seen = np.full(len(texts), -1, np.int32)
        # Sets of kept rows are made where they are first needed, one behind the other: memory that is never touched is never
        # taken, and on a virtual machine to touch a new GB takes up to two seconds.
        sets = np.empty(int((texts.ends - texts.begins).sum()), np.uint64)
        sizes, places = np.full(len(texts), -1, np.int32), np.zeros(len(texts) + 1, np.int64)
        tables = _tables(int((texts.ends - texts.begins).max(initial=0)))
        # Of a pair at the threshold the share of equal hashes is that far below it with a probability of 10^-9.
        least = int(BANDS * ROWS * (threshold - 6 * (threshold * (1 - threshold) / (BANDS * ROWS)) ** 0.5))
        self._texts = (
            lows,
            least,
            texts.data,
            texts.begins,
            texts.ends,
            texts.bags,
            short,
            sets,
            places,
            sizes,
            tables,
        )
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


def band_keys(texts: Texts, seed: int) -> NDArray[np.uint64]:
    """Return `(texts, BANDS + 1)` keys, of which two texts that a `Walk` compares share one; 0 where there is none.

    The last column is for short texts of the same words. A key is that of one band, whatever other texts there are.
    """
    bands, _ = _bands_of(texts, seed)
    keys = ((bands ^ np.arange(1, len(bands) + 1, dtype=np.uint64)[:, None] * _OTHER) * _GOLDEN).T | _1
    keys[texts.lengths > SHORT_WORDS, BANDS] = 0
    return np.ascontiguousarray(keys)


def linked(
    texts: Texts, rows: NDArray[np.int64], keys: NDArray[np.uint64], threshold: float
) -> tuple[NDArray[np.int64], int]:
    """Return pairs of texts that are alike and share a key, enough to connect whatever such pairs connect.

    Args:
        texts: Each text once.
        rows: `(entries,)` the text of each entry, sorted by key.
        keys: `(entries,)` its key (`band_keys`).
        threshold: As for `Walk`.

    Returns:
        `(pairs, 2)` numbers of texts; and how often an entry was compared with the `LONGEST_WALK` before it only.
    """
    number = len(texts)
    sets = np.empty(int((texts.ends - texts.begins).sum()), np.uint64)
    sizes, places = np.full(number, -1, np.int32), np.zeros(number + 1, np.int64)
    tables = _tables(int((texts.ends - texts.begins).max(initial=0)))
    found = np.empty((2, max(1, number)), np.int64)
    pairs, cut = _link(
        rows, keys, threshold, LONGEST_WALK, np.arange(number), texts.data, texts.begins, texts.ends, texts.bags,
        texts.lengths <= SHORT_WORDS, sets, places, sizes, tables, found[0], found[1],
    )  # fmt: skip
    return found[:, :pairs].T.copy(), cut


def normal_texts(instructions: pl.Series, inputs: pl.Series) -> Texts:
    """Return the normal forms (`kiloset.core.text.normal_form`) of instructions with their inputs."""
    _start()
    given = [_beyond_ascii_normal(each) for each in (instructions, inputs)]
    sizes = [each.str.len_bytes().cast(pl.Int64).to_numpy() for each in given]
    room = (sizes[0] + sizes[1] + 7) // 8 * 8 + 8  # whole words, the last one with a byte to spare
    begins = np.cumsum(room) - room
    written = np.empty(int(room.sum()), np.uint8)
    ends, lengths = np.empty(len(room), np.int64), np.empty(len(room), np.int64)
    hashes, bags = np.empty(len(room), np.uint64), np.empty(len(room), np.uint64)
    _in_parts(len(room), len(room), _write, given, sizes, written, begins, ends, hashes, bags, lengths)
    return Texts(written, begins, ends, hashes, bags, lengths)


def _beyond_ascii_normal(texts: pl.Series) -> pl.Series:
    """Return texts of which those with anything beyond ASCII are in normal form."""
    others = (texts.str.len_chars() != texts.str.len_bytes()).arg_true()
    return texts.scatter(others, [normal_form(text) for text in texts.gather(others)]) if len(others) else texts


def _write(first: int, last: int, given: list[pl.Series], sizes: list[NDArray[np.int64]], *rest: Any) -> None:
    """Write the normal forms of some texts, a few at a time: what joins their bytes is a copy."""
    plain = np.arange(256, dtype=np.uint8)
    plain[:128] = [ord(chr(c).lower()) if chr(c).isalnum() else 32 for c in range(128)]
    for begin in range(first, last, _FEW):
        end = min(last, begin + _FEW)
        starts = [np.concatenate((np.zeros(1, np.int64), np.cumsum(each[begin:end]))) for each in sizes]
        data = [_joined(each[begin:end]) for each in given]
        _normalise(begin, end, data[0], starts[0], data[1], starts[1], plain, *rest)


def _joined(texts: pl.Series) -> NDArray[np.uint8]:
    """Return the UTF-8 of texts, one behind the other."""
    return np.frombuffer(texts.str.join("").cast(pl.Binary).item() or b"", np.uint8)


def signatures(texts: Texts, seed: int) -> NDArray[np.uint32]:
    """Return the `(texts, BANDS * ROWS)` signatures of 5-grams that datasketch's `MinHash(scheme="affine32")` would have."""
    odd, added = _hash_functions(seed)
    found = np.empty((len(texts), BANDS * ROWS), np.uint32)
    _in_parts(len(texts), len(texts), _signatures, texts.data, texts.begins, texts.ends, odd, added, found)
    return found


def _hash_functions(seed: int) -> tuple[NDArray[np.uint32], NDArray[np.uint32]]:
    """Return the factors and summands of `BANDS * ROWS` hash functions, and zeros, so that no lane of the vector unit is left over."""
    draw = np.random.RandomState(seed + 1)
    number = BANDS * ROWS
    odd, added = np.zeros((2, (number + _LANES - 1) // _LANES * _LANES), np.uint32)
    odd[:number] = draw.randint(0, 1 << 31, number, dtype=np.uint32) * np.uint32(2) + np.uint32(1)
    added[:number] = draw.randint(0, 1 << 32, number, dtype=np.uint32)
    return odd, added


def _bands_of(texts: Texts, seed: int) -> tuple[NDArray[np.uint64], NDArray[np.uint8]]:
    """Return the `(BANDS + 1, texts)` hashes of the bands of each signature, and the `(texts, BANDS * ROWS)` lowest bytes.

    The last row is for short texts of the same words, which need not share an n-gram. Signatures are not kept whole: they
    would fill twice the memory.
    """
    odd, added = _hash_functions(seed)
    bands, lows = np.empty((BANDS + 1, len(texts)), np.uint64), np.empty((len(texts), BANDS * ROWS), np.uint8)
    bands[BANDS] = texts.bags
    _in_parts(len(texts), len(texts), _bands, texts.data, texts.begins, texts.ends, odd, added, ROWS, bands, lows)
    return bands, lows


def grams(texts: Texts, row: int, length: int) -> NDArray[np.uint64]:
    """Return the hashes of a text's n-grams, distinct and rising; a text that is shorter has one, itself."""
    size = int(texts.ends[row] - texts.begins[row])
    found = np.empty(size, np.uint64)
    number = _distinct(texts.data, texts.begins[row], texts.ends[row], length, found, _tables(size), 0)
    return np.sort(found[:number])


@cache
def _start() -> None:
    """Let numba load what its first call needs, with Python's garbage collector off.

    These are tens of thousands of objects that all stay: to look for garbage among them took 0.07 of 0.24 s.
    """
    collects = gc.isenabled()
    gc.disable()
    try:
        _insert(0, np.empty((1, 0), np.int32), np.empty(0, np.int32), np.empty((1, 0), np.int32))
    finally:
        if collects:
            gc.enable()


def _tables(longest: int) -> tuple[NDArray[Any], ...]:
    """Return two empty hash tables for the n-grams of texts of so many bytes, and room for their code points."""
    places = 1 << (2 * longest).bit_length()
    return (
        np.empty((2, places), np.uint64), np.zeros((2, places), np.int32),
        np.zeros((2, 2), np.int64), np.empty(longest, np.uint32),
    )  # fmt: skip


def _buckets(bands: NDArray[np.uint64], short: NDArray[np.bool_]) -> tuple[NDArray[np.int32], int]:
    """Return the `(texts, BANDS + 1)` buckets, -1 where a text is alone, and their number."""
    columns, texts = bands.shape
    buckets = np.full((texts, columns), -1, np.int32)
    slots = 1 << max(4, (2 * texts).bit_length())
    numbers = np.zeros(columns, np.int64)
    _in_parts(texts, columns, _bucket, bands, short, buckets, slots, numbers)
    firsts = (np.cumsum(numbers) - numbers).astype(np.int32)
    np.add(buckets, firsts, out=buckets, where=buckets >= 0)
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

_0, _1, _16, _21, _29, _32 = (np.uint64(each) for each in (0, 1, 16, 21, 29, 32))
_LOW = np.uint64(0xFFFFFFFF)
_GOLDEN, _OTHER = np.uint64(0x9E3779B97F4A7C15), np.uint64(0xBF58476D1CE4E5B9)
_FMIX_1, _FMIX_2 = np.uint32(0x85EBCA6B), np.uint32(0xC2B2AE35)
_LANES = 32
_SPACE, _BETWEEN = np.uint8(32), np.frombuffer(" ∥ ".encode(), np.uint8)
assert unicodedata.category("∥") == "Sm", "no normal form may hold what stands between instruction and input"


@njit(cache=True)
def _hash(data: Any, begin: int, end: int) -> Any:
    """Hash some bytes, or eight of them at a time, to 64 bits."""
    value = np.uint64(end - begin)
    for at in range(begin, end):
        value = (value ^ np.uint64(data[at])) * _GOLDEN
        value ^= value >> _29
    value *= _OTHER
    return value ^ (value >> _32)


@njit(cache=True)
def _gram(codes: Any, at: int, length: int) -> Any:
    """Hash up to five code points, of 21 bits each, to 64 bits."""
    low, high = _0, np.uint64(length)
    for k in range(min(3, length)):
        low = (low << _21) | np.uint64(codes[at + k])
    for k in range(3, length):
        high = (high << _21) | np.uint64(codes[at + k])
    value = (low ^ (high * _OTHER)) * _GOLDEN
    return value ^ (value >> _32)


@njit(cache=True)
def _append(data: Any, begin: int, end: int, plain: Any, written: Any, at: int) -> tuple[int, int]:
    """Write the normal form of some bytes, without a space at either end; return where it ends and its words."""
    first, words, after_space = at, 0, True
    for here in range(begin, end):
        byte = plain[data[here]]
        is_space = byte == _SPACE
        # Without a branch: where a word ends cannot be guessed. What is not to stay is written over.
        written[at] = byte
        at += not (is_space and after_space)
        words += after_space and not is_space
        after_space = is_space
    return at - (at > first and after_space), words


@njit(cache=True)
def _bag(data: Any, begin: int, end: int) -> Any:
    """Hash the words of a text that ends with a space, in any order."""
    found, word = _0, begin
    for here in range(begin, end):
        if data[here] == _SPACE:
            found += _hash(data, word, here)
            word = here + 1
    return found


@njit(cache=True, nogil=True)
def _normalise(
    first: int, last: int, one: Any, one_starts: Any, other: Any, other_starts: Any, plain: Any, written: Any, begins: Any,
    ends: Any, hashes: Any, bags: Any, lengths: Any,
) -> None:  # fmt: skip
    """Write the normal forms of the texts from `first` on; `one` and `other` hold the bytes of these alone."""
    between, by_words = len(_BETWEEN), written.view(np.uint64)
    for text in range(first, last):
        begin, here = begins[text], text - first
        written[begin] = _SPACE
        at, words = _append(one, one_starts[here], one_starts[here + 1], plain, written, begin + 1)
        if other_starts[here] < other_starts[here + 1]:
            given, more = _append(other, other_starts[here], other_starts[here + 1], plain, written, at + between)
            if more:
                written[at : at + between] = _BETWEEN
                at, words = given, words + more + 1
        written[at] = _SPACE
        ends[text], lengths[text] = at + 1, words
        whole = (at + 8) // 8 * 8
        written[at + 1 : whole] = 0
        hashes[text] = _hash(by_words, begin // 8, whole // 8)
        # Of longer texts nobody asks for it.
        bags[text] = _bag(written, begin + 1, at + 1) if words <= SHORT_WORDS else _0


@njit(cache=True)
def _decode(data: Any, begin: int, end: int, codes: Any) -> int:
    """Write the code points of some UTF-8; return how many there are."""
    number = 0
    while begin < end:
        code = np.uint32(data[begin])
        begin += 1
        if code >= 128:
            more = 1 + (code >= 0xE0) + (code >= 0xF0)
            code &= np.uint32(0xFF >> (more + 2))
            for _ in range(more):
                code = np.uint32((code << np.uint32(6)) | (np.uint32(data[begin]) & np.uint32(0x3F)))
                begin += 1
        codes[number] = code
        number += 1
    return number


@njit(cache=True)
def _grams(codes: Any, size: int, length: int, found: Any) -> int:
    """Write the hashes of a text's n-grams, in its order; return how many there are. A shorter text has one, itself."""
    if size < length:
        found[0] = _gram(codes, 0, size)
        return 1
    number = size - length + 1
    if length == 5:
        # With the length known to the compiler, it hashes several at a time.
        for at in range(number):
            found[at] = _gram(codes, at, 5)
    else:
        for at in range(number):
            found[at] = _gram(codes, at, length)
    return number


@njit(cache=True)
def _room(first: int, last: int, begins: Any, ends: Any) -> Any:
    """Return what `_signature` needs for the longest of some texts."""
    longest = 0
    for text in range(first, last):
        longest = max(longest, ends[text] - begins[text])
    return np.empty(longest, np.uint32), np.empty(longest, np.uint64), np.empty(longest + 3, np.uint32)


@njit(cache=True)
def _signature(data: Any, begin: int, end: int, a: Any, b: Any, room: Any, least: Any) -> None:
    codes, hashes, grams = room
    number = _grams(codes, _decode(data, begin, end, codes), 5, hashes)
    for at in range(number):
        # MurmurHash3's finalizer, which datasketch applies first.
        h = np.uint32(hashes[at] & _LOW)
        h = np.uint32((h ^ (h >> np.uint32(16))) * _FMIX_1)
        h = np.uint32((h ^ (h >> np.uint32(13))) * _FMIX_2)
        grams[at] = np.uint32(h ^ (h >> np.uint32(16)))
    # Four at a time, the first one again at the end: what is least so far is read and written a quarter as often.
    grams[number : number + 3] = grams[0]
    least[:] = np.uint32(0xFFFFFFFF)
    for at in range(0, number, 4):
        g, h, i, j = grams[at], grams[at + 1], grams[at + 2], grams[at + 3]
        for k in range(len(a)):
            factor, added = a[k], b[k]
            one = min(np.uint32(factor * g + added), np.uint32(factor * h + added))
            other = min(np.uint32(factor * i + added), np.uint32(factor * j + added))
            least[k] = min(least[k], one, other)


@njit(cache=True, nogil=True)
def _signatures(first: int, last: int, data: Any, begins: Any, ends: Any, a: Any, b: Any, found: Any) -> None:
    room, least = _room(first, last, begins, ends), np.empty_like(a)
    for text in range(first, last):
        _signature(data, begins[text], ends[text], a, b, room, least)
        found[text] = least[: found.shape[1]]


@njit(cache=True, nogil=True)
def _bands(
    first: int, last: int, data: Any, begins: Any, ends: Any, a: Any, b: Any, rows: int, bands: Any, lows: Any
) -> None:
    room, least = _room(first, last, begins, ends), np.empty_like(a)
    for text in range(first, last):
        _signature(data, begins[text], ends[text], a, b, room, least)
        for k in range(lows.shape[1]):
            lows[text, k] = np.uint8(least[k])
        for band in range(lows.shape[1] // rows):
            value = _0
            for k in range(band * rows, (band + 1) * rows):
                value = (value ^ np.uint64(least[k])) * _GOLDEN
                value ^= value >> _29
            bands[band, text] = value


@njit(cache=True, nogil=True)
def _bucket(
    first_column: int, last_column: int, bands: Any, short: Any, buckets: Any, slots: int, numbers: Any
) -> None:
    """Number the values that several texts share, for each band and for the words; note how many there are in each."""
    texts, columns = buckets.shape
    mask = np.uint64(slots - 1)
    holders = np.empty(slots, np.int32)  # a text that has the value
    for column in range(first_column, last_column):
        values = bands[column]
        holders[:] = -1
        for text in range(texts):
            if column == columns - 1 and not short[text]:
                continue
            place = (values[text] * _OTHER >> _16) & mask
            while holders[place] >= 0 and values[holders[place]] != values[text]:
                place = (place + _1) & mask
            first = holders[place]
            if first < 0:
                holders[place] = text
                continue
            if buckets[first, column] < 0:
                buckets[first, column] = numbers[column]
                numbers[column] += 1
            buckets[text, column] = buckets[first, column]


@njit(cache=True)
def _distinct(data: Any, begin: int, end: int, length: int, found: Any, tables: Any, which: int) -> int:
    """Write the hashes of a text's n-grams, each once, and leave them in one of the tables; return how many there are.

    A place of a table is taken if its stamp is that of the text, so that none has to be emptied.
    """
    values, stamps, texts, codes = tables
    grams = _grams(codes, _decode(data, begin, end, codes), length, found)
    mask = _0
    while mask < 2 * grams:
        mask = (mask << _1) | _1
    texts[which, 0] += 1
    texts[which, 1] = np.int64(mask)
    stamp, number = texts[which, 0], 0
    for at in range(grams):
        value = found[at]
        place = value & mask
        while stamps[which, place] == stamp and values[which, place] != value:
            place = (place + _1) & mask
        if stamps[which, place] != stamp:
            stamps[which, place], values[which, place] = stamp, value
            found[number] = value
            number += 1
    return number


@njit(cache=True)
def _jaccard(own: int, other: Any, least: float, tables: Any, which: int) -> float:
    """Return the exact Jaccard similarity of the `own` n-grams of a table and others, or 0 if it is below `least` for certain."""
    values, stamps, texts, _ = tables
    stamp, mask = texts[which, 0], np.uint64(texts[which, 1])
    # With so many that are not in the table, `least` is out of reach.
    spare = len(other) - int((own + len(other)) * least / (1 + least)) + 1
    common = 0
    for value in other:
        place = value & mask
        while stamps[which, place] == stamp and values[which, place] != value:
            place = (place + _1) & mask
        if stamps[which, place] == stamp:
            common += 1
        else:
            spare -= 1
            if spare < 0:
                return 0.0
    return common / (own + len(other) - common)


@njit(cache=True)
def _insert(row: int, buckets: Any, heads: Any, nexts: Any) -> None:
    for band in range(buckets.shape[1]):
        bucket = buckets[row, band]
        if bucket >= 0:
            nexts[row, band] = heads[bucket]
            heads[bucket] = row


@njit(cache=True)
def _compare(
    row: int, other: int, own: int, threshold: float, data: Any, begins: Any, ends: Any, bags: Any, short: Any, sets: Any,
    places: Any, sizes: Any, tables: Any,
) -> tuple[float, int]:  # fmt: skip
    """Return how alike two texts are and by which measure, (0, 0) if they are not; the first's 5-grams are in table 0."""
    if sizes[other] < 0:
        # The last place is where the next set goes.
        places[other] = places[-1]
        sizes[other] = _distinct(data, begins[other], ends[other], 5, sets[places[-1] :], tables, 1)
        places[-1] += sizes[other]
    value = _jaccard(own, sets[places[other] : places[other] + sizes[other]], threshold, tables, 0)
    if value >= threshold:
        return value, FIVE_GRAMS
    if not (short[row] and short[other]):
        return 0.0, FIVE_GRAMS
    if bags[row] == bags[other]:
        return 1.0, SAME_WORDS
    grams = np.empty(ends[other] - begins[other], np.uint64)
    theirs = grams[: _distinct(data, begins[other], ends[other], 4, grams, tables, 1)]
    mine = _distinct(data, begins[row], ends[row], 4, np.empty(ends[row] - begins[row], np.uint64), tables, 1)
    value = _jaccard(mine, theirs, SHORT_JACCARD, tables, 1)
    return (value, FOUR_GRAMS) if value >= SHORT_JACCARD else (0.0, FOUR_GRAMS)


@njit(cache=True)
def _agree(one: Any, other: Any, least: int) -> bool:
    """Tell whether two signatures are equal in so many places, as far as their lowest bytes tell: others are in 1 of 256."""
    equal = 0
    for k in range(len(one)):
        equal += one[k] == other[k]
    return equal >= least


@njit(cache=True)
def _advance(
    begin: int, threshold: float, longest: int, buckets: Any, heads: Any, nexts: Any, seen: Any,
    lows: Any, least: int, data: Any, begins: Any, ends: Any, bags: Any, short: Any, sets: Any, places: Any, sizes: Any,
    tables: Any, rows: Any, likenesses: Any, measures: Any,
) -> tuple[int, int, int]:  # fmt: skip
    """Go on until a row is like kept ones; return it, their number, and how often a bucket was not gone through whole."""
    cut = 0
    for row in range(begin, len(buckets)):
        count = own = 0
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
                    # The sets of a pair that only happens to share a band are not even made.
                    if (short[row] and short[other]) or _agree(lows[row], lows[other], least):
                        if own == 0:
                            room = np.empty(ends[row] - begins[row], np.uint64)
                            own = _distinct(data, begins[row], ends[row], 5, room, tables, 0)
                        value, measure = _compare(
                            row, other, own, threshold, data, begins, ends, bags, short, sets, places, sizes, tables
                        )
                        if value > 0 and count < len(rows):
                            rows[count], likenesses[count], measures[count] = other, value, measure
                            count += 1
                other = nexts[other, band]
        if count:
            return row, count, cut
        _insert(row, buckets, heads, nexts)
    return len(buckets), 0, cut


@njit(cache=True)
def _root(parents: Any, row: int) -> int:
    while parents[row] != row:
        parents[row] = parents[parents[row]]
        row = parents[row]
    return row


@njit(cache=True)
def _link(
    rows: Any, keys: Any, threshold: float, longest: int, parents: Any, data: Any, begins: Any, ends: Any, bags: Any,
    short: Any, sets: Any, places: Any, sizes: Any, tables: Any, one: Any, two: Any,
) -> tuple[int, int]:  # fmt: skip
    """Write pairs of rows that are alike and share a key, but none that the pairs before connect; return their number."""
    number = cut = begin = 0
    for at in range(len(rows)):
        if keys[at] != keys[begin]:
            begin = at
        row, own = rows[at], 0
        first = begin
        if at - begin > longest:
            first, cut = at - longest, cut + 1
        for before in range(at - 1, first - 1, -1):
            other = rows[before]
            if _root(parents, row) == _root(parents, other):
                continue
            if own == 0:
                own = _distinct(
                    data, begins[row], ends[row], 5, np.empty(ends[row] - begins[row], np.uint64), tables, 0
                )
            value, _ = _compare(
                row, other, own, threshold, data, begins, ends, bags, short, sets, places, sizes, tables
            )
            if value > 0:
                parents[_root(parents, row)] = _root(parents, other)
                one[number], two[number] = row, other
                number += 1
    return number, cut
