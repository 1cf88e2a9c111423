"""The compiled MinHash engine for large tables: the matches of `kiloset.filters.minhash`, at a million rows in seconds.

numba compiles the loops over rows and characters at the first call (about 15 s) and keeps the result in its cache. This is the
only file that imports numba, which its decorators need at once; import it inside the function that uses it.

A text and an n-gram are each a 64-bit hash. Among 10^8 different n-grams two are equal with a probability of 0.0003.
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

from kiloset.core.text import normal_form
from kiloset.filters.minhash import (
    BANDS,
    FIVE_GRAMS,
    FOUR_GRAMS,
    GOLDEN,
    LONGEST_WALK,
    MIXER,
    ROWS,
    SAME_WORDS,
    SHORT_JACCARD,
    SHORT_WORDS,
    Match,
    keys_of_bands,
    least_agreement,
)  # fmt: skip

_ONE_THREAD = 5_000
"""Largest number of texts that one thread works on alone."""
_MOST_MATCHES = 10_000
"""Largest number of matches of one row that are returned; a table that datasketch serves has fewer rows."""


@dataclass(frozen=True, slots=True)
class CompiledTexts:
    """The padded normal forms of many texts as bytes; see `kiloset.filters.minhash.Texts`."""

    data: NDArray[np.uint8]
    """UTF-8 of all texts."""
    begins: NDArray[np.int64]
    """`(texts,)`: where each text begins in `data`."""
    ends: NDArray[np.int64]
    """`(texts,)`: where each text ends in `data`."""
    hashes: NDArray[np.uint64]
    """`(texts,)`: hash of each whole text."""
    bags: NDArray[np.uint64]
    """`(texts,)`: hash of the words of each text in any order; 0 for texts longer than `SHORT_WORDS`."""
    lengths: NDArray[np.int64]
    """`(texts,)`: words of each text."""

    def __len__(self) -> int:
        """Return the number of texts."""
        return len(self.begins)

    def __getitem__(self, rows: NDArray[np.int64]) -> "CompiledTexts":
        """Return the texts at these places."""
        begins, ends, lengths = self.begins[rows], self.ends[rows], self.lengths[rows]
        return CompiledTexts(self.data, begins, ends, self.hashes[rows], self.bags[rows], lengths)

    def identities(self) -> pl.Series:
        """Return values that are equal where the texts are equal."""
        return pl.Series(self.hashes)

    def band_keys(self, seed: int) -> NDArray[np.uint64]:
        """See `kiloset.filters.minhash.Texts.band_keys`."""
        bands, _ = _bands_of(self, seed)
        return keys_of_bands(bands, self.lengths > SHORT_WORDS)

    def match_finder(self, threshold: float, seed: int) -> "CompiledMatchFinder":
        """See `kiloset.filters.minhash.Texts.match_finder`."""
        return CompiledMatchFinder(self, threshold, seed)

    def columns(self) -> tuple[Any, ...]:
        """Return what `_compare` reads of the texts."""
        return self.data, self.begins, self.ends, self.bags, self.lengths <= SHORT_WORDS


class CompiledMatchFinder:
    """Compares each text with the kept texts before it; see `kiloset.filters.minhash.MatchFinder`."""

    def __init__(self, texts: CompiledTexts, threshold: float, seed: int) -> None:
        """Compute the signatures and sort the texts into the buckets of their bands."""
        self.cut_short = 0
        self._threshold, self._next = threshold, 0
        bands, low_bytes = _bands_of(texts, seed)
        buckets, number = _buckets(bands, texts.lengths <= SHORT_WORDS)
        self._index = buckets, np.full(number, -1, np.int32), np.empty_like(buckets)
        self._compared = np.full(len(texts), -1, np.int32)
        self._texts, self._sets = texts.columns(), _gram_sets(texts)
        self._signatures = low_bytes, least_agreement(threshold)
        self._matches = (
            np.empty(_MOST_MATCHES, np.int32), np.empty(_MOST_MATCHES, np.float64), np.empty(_MOST_MATCHES, np.int8)
        )  # fmt: skip

    def next_match(self) -> tuple[int, list[Match]] | None:
        """Return the next row that matches kept rows, with its matches; None at the end."""
        row, count, cut = _advance(
            self._next, self._threshold, LONGEST_WALK, self._index, self._compared,
            self._signatures, self._texts, self._sets, self._matches,
        )  # fmt: skip
        self._next = row + 1
        self.cut_short += cut
        if not count:
            return None
        columns = (column[:count].tolist() for column in self._matches)
        return row, [Match(*each) for each in zip(*columns, strict=True)]

    def keep(self, row: int) -> None:
        """Keep the row that `next_match` returned last."""
        _insert(row, self._index)


def linked(
    texts: CompiledTexts, rows: NDArray[np.int64], keys: NDArray[np.uint64], threshold: float
) -> tuple[NDArray[np.int64], int]:
    """Return matching pairs of texts that share a band key, enough of them to connect all that such pairs connect.

    Args:
        texts: Each text once.
        rows: `(entries,)` the text of each entry, sorted by key.
        keys: `(entries,)` the entry's key (`band_keys`).
        threshold: As for `match_finder`.

    Returns:
        `(pairs, 2)` numbers of texts; and how often an entry was compared with only the `LONGEST_WALK` entries before it.
    """
    pairs = np.empty((2, max(1, len(texts))), np.int64)
    number, cut = _link(
        rows, keys, threshold, LONGEST_WALK, np.arange(len(texts)), texts.columns(), _gram_sets(texts), pairs
    )
    return pairs[:, :number].T.copy(), cut


def compiled_texts(instructions: pl.Series, inputs: pl.Series) -> CompiledTexts:
    """Return the padded normal forms of instructions with their inputs."""
    columns = [_normal_beyond_ascii(column) for column in (instructions, inputs)]
    sizes = [column.str.len_bytes().cast(pl.Int64).to_numpy() for column in columns]
    room = (sizes[0] + sizes[1] + 7) // 8 * 8 + 8  # whole words of 8 bytes, the last one with a byte to spare
    begins = np.cumsum(room) - room
    data = np.empty(int(room.sum()), np.uint8)
    ends, lengths = np.empty(len(room), np.int64), np.empty(len(room), np.int64)
    hashes, bags = np.empty(len(room), np.uint64), np.empty(len(room), np.uint64)
    _in_parts(len(room), len(room), _write, columns, sizes, data, begins, ends, hashes, bags, lengths)
    return CompiledTexts(data, begins, ends, hashes, bags, lengths)


def _normal_beyond_ascii(texts: pl.Series) -> pl.Series:
    """Return the texts, those with characters beyond ASCII in normal form; compiled code normalises the others."""
    others = (texts.str.len_chars() != texts.str.len_bytes()).arg_true()
    return texts.scatter(others, [normal_form(text) for text in texts.gather(others)]) if len(others) else texts


def _write(first: int, last: int, columns: list[pl.Series], sizes: list[NDArray[np.int64]], *arrays: Any) -> None:
    """Write the normal forms of some texts, a few thousand at a time: joining their bytes copies them."""
    plain = np.arange(256, dtype=np.uint8)
    plain[:128] = [ord(chr(c).lower()) if chr(c).isalnum() else 32 for c in range(128)]
    for begin in range(first, last, _ONE_THREAD):
        end = min(last, begin + _ONE_THREAD)
        starts = [np.concatenate((np.zeros(1, np.int64), np.cumsum(size[begin:end]))) for size in sizes]
        one, other = (
            np.frombuffer(column[begin:end].str.join("").cast(pl.Binary).item() or b"", np.uint8) for column in columns
        )
        _normalise(begin, end, one, starts[0], other, starts[1], plain, *arrays)


def _bands_of(texts: CompiledTexts, seed: int) -> tuple[NDArray[np.uint64], NDArray[np.uint8]]:
    """Return the `(BANDS + 1, texts)` hashes of the bands, and the `(texts, BANDS * ROWS)` low bytes of the signatures.

    The last band holds the words of short texts, in any order. Whole signatures would take twice the memory.
    """
    number = BANDS * ROWS
    # Padded with zeros, so that no lane of the vector unit is empty.
    odd, added = np.zeros((2, (number + _LANES - 1) // _LANES * _LANES), np.uint32)
    # The permutations of datasketch's MinHash(seed=seed + 1, scheme="affine32").
    draw = np.random.RandomState(seed + 1)
    odd[:number] = draw.randint(0, 1 << 31, number, dtype=np.uint32) * np.uint32(2) + np.uint32(1)
    added[:number] = draw.randint(0, 1 << 32, number, dtype=np.uint32)
    bands, low_bytes = np.empty((BANDS + 1, len(texts)), np.uint64), np.empty((len(texts), number), np.uint8)
    bands[BANDS] = texts.bags
    _in_parts(len(texts), len(texts), _bands, texts.data, texts.begins, texts.ends, odd, added, bands, low_bytes)
    return bands, low_bytes


def _gram_sets(texts: CompiledTexts) -> tuple[Any, ...]:
    """Return empty room for the sets of 5-grams, which are built when first needed.

    Memory that is never touched is never taken: on a virtual machine the first touch of a GB takes up to two seconds.
    """
    sizes = texts.ends - texts.begins
    room, places = np.empty(int(sizes.sum()), np.uint64), np.zeros(len(texts) + 1, np.int64)
    return room, places, np.full(len(texts), -1, np.int32), np.empty(int(sizes.max(initial=0)), np.uint32)


def _buckets(bands: NDArray[np.uint64], short: NDArray[np.bool_]) -> tuple[NDArray[np.int32], int]:
    """Return the `(texts, BANDS + 1)` bucket of each text in each band, -1 where it is alone, and the number of buckets."""
    columns, texts = bands.shape
    buckets = np.full((texts, columns), -1, np.int32)
    slots = 1 << max(4, (2 * texts).bit_length())
    numbers = np.zeros(columns, np.int64)
    _in_parts(texts, columns, _bucket, bands, short, buckets, slots, numbers)
    firsts = (np.cumsum(numbers) - numbers).astype(np.int32)
    np.add(buckets, firsts, out=buckets, where=buckets >= 0)
    return buckets, int(numbers.sum())


def _in_parts(texts: int, number: int, work: Callable[..., None], *args: Any) -> None:
    """Call `work(begin, end, *args)` on parts of a range, in parallel for many texts: compiled code releases the lock."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    if texts <= _ONE_THREAD or cores == 1:
        work(0, number, *args)
        return
    bounds = [number * part // cores for part in range(cores + 1)]
    with ThreadPoolExecutor(cores) as pool:
        for future in [pool.submit(work, *pair, *args) for pair in pairwise(bounds)]:
            future.result()


# ------------------------------------------------------------------------------------------------------- compiled

_0, _1, _16, _21, _29, _32 = (np.uint64(each) for each in (0, 1, 16, 21, 29, 32))
_LOW = np.uint64(0xFFFFFFFF)
_GOLDEN, _OTHER = GOLDEN, MIXER
_FMIX_1, _FMIX_2 = np.uint32(0x85EBCA6B), np.uint32(0xC2B2AE35)
_LANES = 32
_SPACE, _BETWEEN = np.uint8(32), np.frombuffer(" ∥ ".encode(), np.uint8)
assert unicodedata.category("∥") == "Sm", "a normal form must not hold the mark between instruction and input"


@njit(cache=True)
def _hash(data: Any, begin: int, end: int) -> Any:
    """Hash some bytes, or words of 8 bytes, to 64 bits."""
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
    """Write the normal form of some bytes, without a space at either end; return where it ends and its number of words."""
    first, words, after_space = at, 0, True
    for here in range(begin, end):
        byte = plain[data[here]]
        is_space = byte == _SPACE
        # Without a branch, because a processor cannot guess where a word ends. The next byte overwrites a superfluous one.
        written[at] = byte
        at += not (is_space and after_space)
        words += after_space and not is_space
        after_space = is_space
    return at - (at > first and after_space), words


@njit(cache=True)
def _bag(data: Any, begin: int, end: int) -> Any:
    """Hash the words of a text that ends with a space, in any order."""
    value, word = _0, begin
    for here in range(begin, end):
        if data[here] == _SPACE:
            value += _hash(data, word, here)
            word = here + 1
    return value


@njit(cache=True, nogil=True)
def _normalise(
    first: int, last: int, one: Any, one_starts: Any, other: Any, other_starts: Any, plain: Any, written: Any, begins: Any,
    ends: Any, hashes: Any, bags: Any, lengths: Any,
) -> None:  # fmt: skip
    """Write the padded normal forms of the texts from `first` on, whose bytes `one` and `other` hold."""
    between, by_words = len(_BETWEEN), written.view(np.uint64)
    for text in range(first, last):
        begin, here = begins[text], text - first
        written[begin] = _SPACE
        at, words = _append(one, one_starts[here], one_starts[here + 1], plain, written, begin + 1)
        if other_starts[here] < other_starts[here + 1]:
            end, more = _append(other, other_starts[here], other_starts[here + 1], plain, written, at + between)
            if more:
                written[at : at + between] = _BETWEEN
                at, words = end, words + more + 1
        written[at] = _SPACE
        ends[text], lengths[text] = at + 1, words
        whole = (at + 8) // 8 * 8
        written[at + 1 : whole] = 0
        hashes[text] = _hash(by_words, begin // 8, whole // 8)
        bags[text] = _bag(written, begin + 1, at + 1) if words <= SHORT_WORDS else _0


@njit(cache=True)
def _decode(data: Any, begin: int, end: int, codes: Any) -> int:
    """Write the code points of some UTF-8; return their number."""
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
def _grams(codes: Any, size: int, length: int, hashes: Any) -> int:
    """Write the hashes of a text's n-grams, in order; return their number. A shorter text is its own n-gram."""
    if size < length:
        hashes[0] = _gram(codes, 0, size)
        return 1
    if length == 5:
        # The compiler knows this length and hashes several n-grams at a time.
        for at in range(size - 4):
            hashes[at] = _gram(codes, at, 5)
    else:
        for at in range(size - length + 1):
            hashes[at] = _gram(codes, at, length)
    return size - length + 1


@njit(cache=True)
def _room(first: int, last: int, begins: Any, ends: Any) -> Any:
    """Return the room that `_signature` needs for the longest of some texts."""
    longest = 0
    for text in range(first, last):
        longest = max(longest, ends[text] - begins[text])
    return np.empty(longest, np.uint32), np.empty(longest, np.uint64), np.empty(longest + 3, np.uint32)


@njit(cache=True)
def _signature(data: Any, begin: int, end: int, a: Any, b: Any, room: Any, least: Any) -> None:
    codes, hashes, grams = room
    number = _grams(codes, _decode(data, begin, end, codes), 5, hashes)
    for at in range(number):
        # MurmurHash3's finalizer, which datasketch applies before its permutations.
        h = np.uint32(hashes[at] & _LOW)
        h = np.uint32((h ^ (h >> np.uint32(16))) * _FMIX_1)
        h = np.uint32((h ^ (h >> np.uint32(13))) * _FMIX_2)
        grams[at] = np.uint32(h ^ (h >> np.uint32(16)))
    # Four n-grams at a time (the first one fills the last group): `least` is read and written a quarter as often.
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
def _bands(
    first: int, last: int, data: Any, begins: Any, ends: Any, a: Any, b: Any, bands: Any, low_bytes: Any
) -> None:
    room, least = _room(first, last, begins, ends), np.empty_like(a)
    for text in range(first, last):
        _signature(data, begins[text], ends[text], a, b, room, least)
        for k in range(low_bytes.shape[1]):
            low_bytes[text, k] = np.uint8(least[k])
        for band in range(low_bytes.shape[1] // ROWS):
            value = _0
            for k in range(band * ROWS, (band + 1) * ROWS):
                value = (value ^ np.uint64(least[k])) * _GOLDEN
                value ^= value >> _29
            bands[band, text] = value


@njit(cache=True, nogil=True)
def _bucket(first: int, last: int, bands: Any, short: Any, buckets: Any, slots: int, numbers: Any) -> None:
    """Number the values that several texts share, for the columns from `first` on, and count the buckets of each column."""
    texts, columns = buckets.shape
    mask = np.uint64(slots - 1)
    holders = np.empty(slots, np.int32)  # the first text that has the value
    for column in range(first, last):
        values = bands[column]
        holders[:] = -1
        for text in range(texts):
            if column == columns - 1 and not short[text]:
                continue
            place = (values[text] * _OTHER >> _16) & mask
            while holders[place] >= 0 and values[holders[place]] != values[text]:
                place = (place + _1) & mask
            holder = holders[place]
            if holder < 0:
                holders[place] = text
                continue
            if buckets[holder, column] < 0:
                buckets[holder, column] = numbers[column]
                numbers[column] += 1
            buckets[text, column] = buckets[holder, column]


@njit(cache=True)
def _distinct(data: Any, begin: int, end: int, length: int, codes: Any, hashes: Any) -> int:
    """Write the hashes of a text's n-grams, sorted and each once; return their number."""
    number = _grams(codes, _decode(data, begin, end, codes), length, hashes)
    hashes[:number].sort()
    size = 0
    for at in range(number):
        if size == 0 or hashes[at] != hashes[size - 1]:
            hashes[size] = hashes[at]
            size += 1
    return size


@njit(cache=True)
def _five_grams(row: int, texts: Any, sets: Any) -> Any:
    """Return the set of a text's 5-grams, which is built once."""
    data, begins, ends, _, _ = texts
    room, places, sizes, codes = sets
    if sizes[row] < 0:
        # The last place is where the next set begins.
        places[row] = places[-1]
        sizes[row] = _distinct(data, begins[row], ends[row], 5, codes, room[places[-1] :])
        places[-1] += sizes[row]
    return room[places[row] : places[row] + sizes[row]]


@njit(cache=True)
def _four_grams(row: int, texts: Any, sets: Any) -> Any:
    data, begins, ends, _, _ = texts
    hashes = np.empty(ends[row] - begins[row], np.uint64)
    return hashes[: _distinct(data, begins[row], ends[row], 4, sets[3], hashes)]


@njit(cache=True)
def _jaccard(one: Any, other: Any) -> float:
    """Return the Jaccard similarity of two sets of hashes in rising order."""
    common = i = k = 0
    while i < len(one) and k < len(other):
        common += one[i] == other[k]
        step = one[i] <= other[k]
        k += one[i] >= other[k]
        i += step
    return common / (len(one) + len(other) - common)


@njit(cache=True)
def _compare(row: int, other: int, threshold: float, texts: Any, sets: Any) -> tuple[float, int]:
    """Return the similarity of two texts and its measure, (0, 0) without a match."""
    bags, short = texts[3], texts[4]
    value = _jaccard(_five_grams(row, texts, sets), _five_grams(other, texts, sets))
    if value >= threshold:
        return value, FIVE_GRAMS
    if not (short[row] and short[other]):
        return 0.0, FIVE_GRAMS
    if bags[row] == bags[other]:
        return 1.0, SAME_WORDS
    value = _jaccard(_four_grams(row, texts, sets), _four_grams(other, texts, sets))
    return (value, FOUR_GRAMS) if value >= SHORT_JACCARD else (0.0, FOUR_GRAMS)


@njit(cache=True)
def _insert(row: int, index: Any) -> None:
    buckets, heads, nexts = index
    for band in range(buckets.shape[1]):
        bucket = buckets[row, band]
        if bucket >= 0:
            nexts[row, band] = heads[bucket]
            heads[bucket] = row


@njit(cache=True)
def _agree(one: Any, other: Any, least: int) -> bool:
    """Return whether the low bytes of two signatures are equal in at least `least` places."""
    equal = 0
    for k in range(len(one)):
        equal += one[k] == other[k]
    return equal >= least


@njit(cache=True)
def _advance(
    begin: int, threshold: float, longest: int, index: Any, compared: Any, signatures: Any, texts: Any, sets: Any,
    matches: Any,
) -> tuple[int, int, int]:  # fmt: skip
    """Go on to the next row with matches; return the row, the number of matches, and how often a bucket was too long."""
    buckets, heads, nexts = index
    low_bytes, least = signatures
    rows, values, measures = matches
    short = texts[4]
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
                if compared[other] != row:
                    compared[other] = row
                    # A long pair that shares a band by chance is ruled out before its sets are built.
                    if (short[row] and short[other]) or _agree(low_bytes[row], low_bytes[other], least):
                        value, measure = _compare(row, other, threshold, texts, sets)
                        if value > 0 and count < len(rows):
                            rows[count], values[count], measures[count] = other, value, measure
                            count += 1
                other = nexts[other, band]
        if count:
            return row, count, cut
        _insert(row, index)
    return len(buckets), 0, cut


@njit(cache=True)
def _root(parents: Any, row: int) -> int:
    while parents[row] != row:
        parents[row] = parents[parents[row]]
        row = parents[row]
    return row


@njit(cache=True)
def _link(
    rows: Any, keys: Any, threshold: float, longest: int, parents: Any, texts: Any, sets: Any, pairs: Any
) -> tuple[int, int]:
    """Write matching pairs that share a key, but none that earlier pairs connect; return their number and the cuts."""
    number = cut = begin = 0
    for at in range(len(rows)):
        if keys[at] != keys[begin]:
            begin = at
        row, first = rows[at], begin
        if at - begin > longest:
            first, cut = at - longest, cut + 1
        for before in range(at - 1, first - 1, -1):
            other = rows[before]
            if _root(parents, row) == _root(parents, other):
                continue
            value, _ = _compare(row, other, threshold, texts, sets)
            if value > 0:
                parents[_root(parents, row)] = _root(parents, other)
                pairs[0, number], pairs[1, number] = row, other
                number += 1
    return number, cut
