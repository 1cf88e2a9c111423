"""Measures of many texts at once, as Polars expressions that agree with `kiloset.core.text` exactly."""

import re
import sys
from collections.abc import Callable, Sequence
from functools import cache
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

PART = 50_000
"""Rows whose words are in memory at once."""
WHITE = "".join(chr(code) for code in range(0x3001) if chr(code).isspace())
"""The characters that `str.strip` strips; Polars treats U+001C to U+001F differently."""
FIRST_WORD = r"^[\x00-/:-@\[-`{-\x7F]*([0-9A-Za-z]+)(?:[\x00-/:-@\[-`{-\x7F]|$)"
"""The first word of a text that is ASCII up to the end of that word."""
_GOLDEN = np.uint64(0x9E3779B97F4A7C15)


def repeat_rate(column: str, *, least_words: int = 0) -> pl.Expr:
    """Measure the fraction, in [0, 1], of a text's 4-grams of words that have occurred before in it.

    As `kiloset.core.text.repeat_rate`, except where 64-bit hashes collide; 0 for texts of fewer than `least_words` words.
    """
    return pl.col(column).map_batches(lambda texts: _by_words(texts, _rates, least_words), return_dtype=pl.Float64)


def top_word_share(column: str, *, least_words: int) -> pl.Expr:
    """Measure the share, in [0, 1], of a text's most frequent word; 0 for texts of fewer than `least_words` words."""
    return pl.col(column).map_batches(lambda texts: _by_words(texts, _shares, least_words), return_dtype=pl.Float64)


def may_begin_alike(one: str, other: str) -> pl.Expr:
    """Return where two texts can have the same normal form, judged by their first words if those are ASCII."""
    first, second = (pl.col(column).str.extract(FIRST_WORD).str.to_lowercase() for column in (one, other))
    return (first == second).fill_null(True)


def loose_pattern(names: str) -> str:
    """Return a Polars pattern that matches at least what Python's `re` does, which folds "ı" and "İ" to "i"."""
    return f"(?i)(?:{names.replace('i', '[iıİ]')})"


def measured_where(
    suspicious: pl.Expr, columns: Sequence[str], measure: Callable[[dict[str, Any]], Any], kind: Any = pl.Float64
) -> pl.Expr:
    """Measure the `suspicious` rows one by one; all other rows get null."""

    def measured(rows: pl.Series) -> pl.Series:
        at = rows.struct.field("suspicious").arg_true()
        values = pl.Series([measure(row) for row in rows.gather(at)], dtype=kind)
        places = pl.Series([None], dtype=pl.UInt32).new_from_index(0, len(rows))
        return values.gather(places.scatter(at, np.arange(len(at), dtype=np.uint32)))

    return pl.struct(*columns, suspicious.alias("suspicious")).map_batches(measured, return_dtype=kind)


def _by_words(
    texts: pl.Series, measure: Callable[[NDArray[np.uint64], NDArray[np.int64]], NDArray[np.float64]], least: int
) -> pl.Series:
    values = [np.empty(0)]
    for start in range(0, len(texts), PART):
        words, sizes = _hashed(texts[start : start + PART])
        values.append(np.where(sizes >= least, measure(words, sizes), 0.0))
    return pl.Series(np.concatenate(values), dtype=pl.Float64)


def _hashed(texts: pl.Series) -> tuple[NDArray[np.uint64], NDArray[np.int64]]:
    """Return the hashes of the words (`kiloset.core.text.words`) of all texts in a row, and the number of each text's words."""
    pattern, special, folds = _alphabet()
    lists = texts.str.extract_all(pattern)
    words = lists.explode(empty_as_null=False).str.to_lowercase()
    if texts.str.contains(special).any():
        words = words.to_frame("word").select(pl.col("word").str.replace_many(folds)).to_series()
    return words.hash().to_numpy(), lists.list.len().to_numpy().astype(np.int64)


@cache
def _alphabet() -> tuple[str, str, dict[str, str]]:
    r"""Return `kiloset.core.text.WORD` as a Polars pattern, a pattern of letters that lower case does not fold, and their folds.

    Python's tables of Unicode decide what a letter is, not the newer ones of Polars. Takes 0.2 s, once.
    """
    every = "".join(map(chr, range(sys.maxunicode + 1)))
    runs = "".join(rf"\x{{{ord(run[0]):x}}}-\x{{{ord(run[-1]):x}}}" for run in re.findall(r"\w+", every))
    folds = {char: char.casefold() for char in every if char.lower() == char != char.casefold()}
    special = "".join(folds) + "".join(char for char in every if char.lower() in folds)
    return rf"[{runs}]+(?:['’\-][{runs}]+)*", f"[{special}Σ]", folds


def _rates(words: NDArray[np.uint64], sizes: NDArray[np.int64]) -> NDArray[np.float64]:
    ends = np.repeat(np.cumsum(sizes), sizes)
    texts = np.repeat(np.arange(len(sizes)), sizes)
    whole = np.flatnonzero(np.arange(len(words)) + 4 <= ends)
    grams = words[whole] * _GOLDEN
    for more in (1, 2, 3):
        grams = (grams ^ words[whole + more]) * _GOLDEN
        grams ^= grams >> np.uint64(29)
    unique = pl.DataFrame({"text": texts[whole], "gram": grams}).unique()["text"].to_numpy()
    grams_of = np.maximum(sizes - 3, 0)
    rates: NDArray[np.float64] = 1 - np.bincount(unique, minlength=len(sizes)) / np.maximum(grams_of, 1)
    rates[grams_of == 0] = 0.0
    return rates


def _shares(words: NDArray[np.uint64], sizes: NDArray[np.int64]) -> NDArray[np.float64]:
    texts = np.repeat(np.arange(len(sizes)), sizes)
    counts = pl.DataFrame({"text": texts, "word": words}).group_by("text", "word").len()
    most = counts.group_by("text").agg(pl.col("len").max())
    shares = np.zeros(len(sizes))
    shares[most["text"].to_numpy()] = most["len"].to_numpy() / sizes[most["text"].to_numpy()]
    return shares
