"""Rows that repeat a benchmark's prompts, by word n-grams and as near-duplicates.

A prompt of 13 words or more is there if half of its n-grams of 8 words are, wherever they stand in instruction and input or in
the response. Brown et al. ("Language Models are Few-Shot Learners", 2020, arXiv:2005.14165) condemn a text for any n-gram, of
8 to 13 words by benchmark; Chowdhery et al. ("PaLM", 2022, arXiv:2204.02311) ask for 70 % of those of 8. We ask for half: one
word changed costs 8 of them. A shorter prompt has to stand there whole, up to the end of a sentence: "write a story about a dog"
is not in "write a story about a dog that flies".

What is common tells nothing. An n-gram that k prompts share counts 1/k, and one of more than 20 not at all: a benchmark's own
frame fades, a passage that comes with five questions stays. A part of a prompt counts only from 20 such words on: "In the series
A Song of Ice and Fire, who is the founder of House ..." is 15. Nor is a near-duplicate (character 5-grams, as in
`near_duplicates.py`) of fewer words one if it names other numbers or names: a task on the same frame. A prompt of 5 to 7 words
is looked for in instruction and input only, a shorter one only as a near-duplicate.

Each row is judged by itself: neither order nor company matters. Not found are paraphrases, translations, and answers without
their prompts.

Measured on Dolly, 1,000 rows as a benchmark against the other 1,000. Alarms: 11, and 27 different pairs over eight such halves,
all true when read (10 the same question, 17 the same passage with another); any 8-gram in common would be 47 rows. All 2,000
against Self-Instruct's tasks and against the bundled seeds: none. Planted copies found: exact, other case, punctuation as spaces
1.00; in a longer text 1.00 from 5 words on (in responses from 8); options in another order 1.00; one plain word replaced 0.48 of
8 to 12 words, 0.96 of 13 to 19, 1.00 from 20; that in a longer text 0 below 20 words, 0.69 to 39, 1.00 from 40 (with 13-grams
0.43 to 39); numbers changed 0 below 20 words, 0.95 from 20. A share of 0.7 finds 0.43 of the 0.69, one of 0.3 finds 0.73.
"""

import re
import unicodedata
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from kiloset.core.config import Count, Names, Share, settings
from kiloset.core.table import Outcome, full_instruction, with_verdicts
from kiloset.core.text import SIGNS, normal_form, numbers, words
from kiloset.filters.minhash import BANDS, gram_hashes, jaccard, normal_texts
from kiloset.filters.slots import NAME

SHORTEST, SHORTEST_ANSWERED, LONG = 5, 8, 13
"""Words from which a prompt is looked for as a whole, from which in responses too, and from which by n-grams."""
OWN_WORDS = 20
"""Words, those of frames counted less, that make part of a prompt evidence. With 16, other houses of that series are too."""
FRAME = 20
"""An n-gram of more prompts than these counts for nothing."""
PART = 16_384
"""Rows looked at together; bounds the memory."""
QUOTED = 12
"""Words quoted as evidence."""

BENCHMARKS = {"place": pl.String, "prompt": pl.String}
"""Columns of a table of benchmark prompts: file and line, and what the user would say."""

_SIGN = re.compile(f"([{SIGNS}])")

Hashes = NDArray[np.uint64]
Places = NDArray[np.int64]
Verdicts = dict[int, dict[str, Any]]


@settings
class ContaminationConfig:
    """The `[contamination]` table of a run's TOML."""

    files: Names = ()
    """Benchmark files, folders of them or hub ids, whose prompts no row may repeat; with none nothing is checked. Read are plain text, messages, instruction and input, prompt, question, and Self-Instruct's instances."""
    ngram_words: Count = 8
    """Length of the n-grams, in words; Chinese and Japanese are counted sign by sign."""
    min_share: Share = 0.5
    """Share of a prompt's n-grams from which a row that has them repeats it."""
    threshold: Share = 0.70
    """Jaccard similarity of character 5-grams from which instruction and input are a near-duplicate of a prompt."""


def drop_contaminated(table: pl.DataFrame, prompts: "Prompts", *, seeds_in_set: bool) -> Outcome:
    """Drop every row that repeats a prompt of a benchmark; seeds only where they may become part of the set.

    Args:
        table: Rows.
        prompts: Those of all benchmarks.
        seeds_in_set: Whether seeds may be selected into the set.
    """
    judged = table if seeds_in_set else table.filter(pl.col("source") != "seed")
    return with_verdicts(table, prompts.repeated_by(judged))


@dataclass(frozen=True, slots=True)
class _Entries:
    """Hashes found in prompts, in rising order, each with its prompt and the word with which it begins there."""

    values: Hashes
    prompts: Places
    positions: Places
    present: NDArray[np.bool_]
    """Whether one of them has these lowest bits: rules out most of what is looked for, at little cost."""

    def find(self, values: Hashes) -> tuple[Places, Places]:
        """Return `(place in values, entry)` of all that are equal."""
        maybe = np.flatnonzero(self.present[values & np.uint64(len(self.present) - 1)])
        first = np.searchsorted(self.values, values[maybe], "left")
        counts = np.searchsorted(self.values, values[maybe], "right") - first
        within = np.arange(counts.sum()) - np.repeat(np.cumsum(counts) - counts, counts)
        return np.repeat(maybe, counts), np.repeat(first, counts) + within


class Prompts:
    """The prompts of all benchmarks, equal ones once, ready to be looked for in any number of tables."""

    def __init__(self, benchmarks: pl.DataFrame, config: ContaminationConfig) -> None:
        """Prepare what is looked for: a second for 10,000 prompts; columns as in `BENCHMARKS`."""
        first: dict[str, tuple[str, str]] = {}
        for prompt, place in benchmarks.select("prompt", "place").iter_rows():
            first.setdefault(normal_form(prompt), (prompt, place))
        first.pop("", None)
        self._config = config
        self._texts, self._places = [text for text, _ in first.values()], [place for _, place in first.values()]
        if not first:
            return
        self._words = [_spaced(key).split() for key in first]
        sizes = np.array([len(found) for found in self._words], np.int64)
        self._is_long = sizes >= max(LONG, config.ngram_words)
        # The length by which each is looked for; its own for one that is looked for as a whole.
        lengths = np.where(self._is_long, config.ngram_words, sizes)
        self._entries: dict[int, _Entries] = {}
        for length, values, prompts, positions in _ngrams(
            list(first), {config.ngram_words, *lengths[sizes >= SHORTEST].tolist()}
        ):
            mine = lengths[prompts] == length
            self._entries[length] = _entries(values[mine], prompts[mine], positions[mine])
        self._weights = _weights(self._entries[config.ngram_words])
        self._totals = np.bincount(self._entries[config.ngram_words].prompts, self._weights, len(first))
        """Weight of all n-grams of each prompt."""
        each = np.arange(len(first))
        self._bands = [_entries(band, each, each) for band in _bands(self._texts)]

    def repeated_by(self, table: pl.DataFrame) -> dict[str, dict[str, Any]]:
        """Return, by id, the verdict on each row that repeats a prompt: `reason`, `evidence`, `measured` and `limit`."""
        verdicts: dict[str, dict[str, Any]] = {}
        if not self._texts:
            return verdicts
        for rows in table.select("id", "instruction", "input", "response").iter_slices(PART):
            ids, turns, responses = rows["id"].to_list(), full_instruction(rows), rows["response"].to_list()
            asked = self._held(turns, SHORTEST, "instruction and input have")
            answered = self._held(responses, SHORTEST_ANSWERED, "the response has")
            found = self._near(turns) | answered | asked  # of several, the last is the reason
            verdicts |= {ids[row]: verdict for row, verdict in found.items()}
        return verdicts

    def _held(self, texts: Sequence[str], shortest: int, says: str) -> Verdicts:
        """Return the verdict on each text that has a prompt of so many words or more, by the one of which it has most."""
        found: list[tuple[int, float, int, int, str]] = []
        lengths = [length for length in self._entries if length >= shortest or length == self._config.ngram_words]
        for length, values, owners, _ in _ngrams([normal_form(text) for text in texts], lengths):
            entries = self._entries[length]
            at, hits = entries.find(values)
            long = self._is_long[entries.prompts[hits]]
            found += self._by_ngrams(owners[at[long]], hits[long])
            whole = set(zip(owners[at[~long]].tolist(), entries.prompts[hits[~long]].tolist(), strict=True))
            found += [
                (text, 1.0, -prompt, 0, "all")
                for text, prompt in whole
                if length >= shortest and _ends_a_sentence(self._words[prompt], texts[text])
            ]
        limit = self._config.min_share
        return {
            text: {
                "reason": "contaminated_ngrams", "measured": share, "limit": limit,
                "evidence": f"{says} {what} of {self._places[-prompt]}, {self._quoted(-prompt, begin)} (limit {limit:.0%})",
            }
            for text, share, prompt, begin, what in sorted(found)
        }  # fmt: skip

    def _near(self, texts: Sequence[str]) -> Verdicts:
        """Return the verdict on each text that is a near-duplicate of a prompt, by the most similar one."""
        pairs: set[tuple[int, int]] = set()
        for entries, band in zip(self._bands, _bands(texts), strict=True):
            found, hits = entries.find(band)
            pairs |= set(zip(found.tolist(), entries.prompts[hits].tolist(), strict=True))
        limit = self._config.threshold
        alike = ((text, _similarity(texts[text], self._texts[prompt]), -prompt) for text, prompt in pairs)
        return {
            text: {
                "reason": "contaminated_near_duplicate", "measured": value, "limit": limit,
                "evidence": f"Jaccard {value:.2f} of character 5-grams with {self._places[-prompt]}, {self._quoted(-prompt, 0)} "
                f"(limit {limit:.2f})",
            }
            for text, value, prompt in sorted(each for each in alike if each[1] >= limit)
            if len(self._words[-prompt]) >= OWN_WORDS or _same_slots(texts[text], self._texts[-prompt])
        }  # fmt: skip

    def _by_ngrams(self, texts: Places, hits: Places) -> Iterator[tuple[int, float, int, int, str]]:
        """Yield `(text, share, -prompt, first word shared, what to say)` where a text has enough of a prompt's n-grams."""
        length, number = self._config.ngram_words, len(self._texts)
        entries = self._entries[length]
        texts, hits = np.divmod(np.unique(texts * len(entries.values) + hits), max(1, len(entries.values)))
        pairs, at = np.unique(texts * number + entries.prompts[hits], return_inverse=True)
        weights, counts = np.bincount(at, self._weights[hits], len(pairs)), np.bincount(at, minlength=len(pairs))
        shares = weights / np.maximum(self._totals[pairs % number], 1e-9)
        by_pair, ends = np.argsort(at, kind="stable"), np.cumsum(counts)
        for pair in np.flatnonzero(shares >= self._config.min_share).tolist():
            positions = entries.positions[hits[by_pair[ends[pair] - counts[pair] : ends[pair]]]].tolist()
            covered = len({begin + word for begin in positions for word in range(length)})
            if (
                counts[pair] == len(self._words[pairs[pair] % number]) - length + 1
                or covered * weights[pair] / counts[pair] >= OWN_WORDS
            ):
                share = float(min(1.0, shares[pair]))
                says = f"{share:.0%} of the n-grams of {length} words"
                yield int(pairs[pair] // number), share, -int(pairs[pair] % number), min(positions), says

    def _quoted(self, prompt: int, begin: int) -> str:
        """Return some words of a prompt in quotation marks."""
        shown = " ".join(self._words[prompt][begin : begin + QUOTED])
        return f'"{shown}{" …" if begin + QUOTED < len(self._words[prompt]) else ""}"'


def _spaced(key: str) -> str:
    """Return a normal form with Chinese and Japanese signs as words of their own."""
    return key if key.isascii() else " ".join(_SIGN.sub(r" \1 ", key).split())


def _ngrams(keys: Sequence[str], lengths: Collection[int]) -> Iterator[tuple[int, Hashes, Places, Places]]:
    """Yield, for each length in words, it and all n-grams of that length: their hashes, texts and first words."""
    found = pl.Series([_spaced(key) for key in keys], dtype=pl.String).str.split(" ")
    sizes = found.list.len().to_numpy().astype(np.int64)
    texts = np.repeat(np.arange(len(keys)), sizes)
    positions = np.arange(len(texts)) - np.repeat(np.cumsum(sizes) - sizes, sizes)
    hashes = found.explode().hash().to_numpy()
    values = np.zeros(len(hashes), np.uint64)
    for length in range(1, max(lengths, default=0) + 1):
        number = max(0, len(hashes) - length + 1)
        values = _mixed(values[:number], hashes[len(hashes) - number :])
        if length in lengths:
            at = np.flatnonzero(positions[:number] + length <= sizes[texts[:number]])
            yield length, values[at], texts[at], positions[at]


def _entries(values: Hashes, prompts: Places, positions: Places) -> _Entries:
    order = np.lexsort((positions, prompts, values))
    present = np.zeros(1 << min(26, (32 * len(values)).bit_length()), np.bool_)
    present[values & np.uint64(len(present) - 1)] = True
    return _Entries(values[order], prompts[order], positions[order], present)


def _weights(entries: _Entries) -> NDArray[np.float64]:
    """Return the weight of each n-gram: 1 by the prompts that have it, or 0."""
    _, at = np.unique(entries.values, return_inverse=True)
    again = (at[1:] == at[:-1]) & (entries.prompts[1:] == entries.prompts[:-1])  # twice in one prompt
    having = np.bincount(at, np.concatenate((np.ones(len(at[:1])), ~again)))[at]
    return np.where(having <= FRAME, 1 / having, 0.0)


def _mixed(values: Hashes, more: Hashes) -> Hashes:
    mixed: Hashes = (values ^ more) * np.uint64(0x9E3779B97F4A7C15)
    return mixed ^ (mixed >> np.uint64(29))


def _ends_a_sentence(phrase: Sequence[str], text: str) -> bool:
    """Tell whether these words stand in a text with the end of a sentence, a line or the text after them."""
    pattern = r"[\W_]*".join(map(re.escape, phrase)) + r"[^\S\n]*(?:\Z|\n|[^\w\s'’\-]|['’\-](?!\w))"
    return re.search(pattern, unicodedata.normalize("NFKC", text).casefold()) is not None


def _bands(texts: Sequence[str]) -> Hashes:
    """Return `(BANDS, texts)` keys of the bands of each text's signature."""
    inputs = pl.repeat("", len(texts), dtype=pl.String, eager=True)
    return normal_texts(pl.Series(texts, dtype=pl.String), inputs).band_keys(seed=0)[:, :BANDS].T


def _similarity(one: str, other: str) -> float:
    """Return the Jaccard similarity of the character 5-grams of two texts."""
    return jaccard(*(frozenset(gram_hashes(f" {normal_form(text)} ", 5).tolist()) for text in (one, other)))


def _same_slots(first: str, second: str) -> bool:
    """Tell whether two texts have no number and name no name that the other lacks."""
    return _slots(first) <= {*words(second), *numbers(second)} and _slots(second) <= {*words(first), *numbers(first)}


def _slots(text: str) -> set[str]:
    names = (match[1].casefold().rstrip("'’-") for match in NAME.finditer(text) if match[1][0].isupper())
    return {*names, *numbers(text)}
