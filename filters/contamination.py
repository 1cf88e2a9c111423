"""Drop rows that repeat a benchmark's prompt, found by word n-grams and as near-duplicates.

A row repeats a prompt of 13 words or more if half of the prompt's 8-grams of words occur anywhere in instruction and input, or
in the response. Brown et al. ("Language Models are Few-Shot Learners", 2020, arXiv:2005.14165) reject a text for one n-gram of
8 to 13 words; Chowdhery et al. ("PaLM", 2022, arXiv:2204.02311) require 70 % of the 8-grams. We require half, because one
changed word costs 8 of them. A shorter prompt must occur as a whole, up to the end of a sentence: "write a story about a dog"
does not occur in "write a story about a dog that flies".

Common phrases are no evidence. An n-gram that k prompts share has the weight 1/k, and 0 if more than 20 share it: the frame of a
benchmark loses its weight, a passage with five questions keeps most of it. A part of a prompt needs 20 such words: "In the series
A Song of Ice and Fire, who is the founder of House ..." has 15. A near-duplicate (character 5-grams, as in
`near_duplicates.py`) of fewer words does not count if it has other numbers or names: it is another task with the same frame. A
prompt of 5 to 7 words is searched only in instruction and input, a shorter prompt only as a near-duplicate.

The verdict on a row depends on no other row. Paraphrases, translations and answers without their prompts are not found.

Measured on Dolly, with 1,000 rows as a benchmark for the other 1,000: 11 alarms, and 27 different pairs over eight such
halves, all true when read (10 the same question, 17 the same passage with another question); one common 8-gram would give 47
rows. All 2,000 rows compared with Self-Instruct's tasks and with the bundled seeds: no alarm. Share of planted copies found:
exact, other case, punctuation as spaces 1.00; in a longer text 1.00 from 5 words (in responses from 8); options in another
order 1.00; one plain word replaced 0.48 of 8 to 12 words, 0.96 of 13 to 19, 1.00 from 20; the same in a longer text 0 below 20
words, 0.69 up to 39, 1.00 from 40 (with 13-grams 0.43 up to 39); numbers changed 0 below 20 words, 0.95 from 20. With a
`min_share` of 0.7 the 0.69 becomes 0.43, with 0.3 it becomes 0.73.
"""

import re
import unicodedata
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import polars as pl
from numpy.typing import NDArray

from kiloset.core.config import Count, Names, Share, settings
from kiloset.core.table import Outcome, full_instruction, with_verdicts
from kiloset.core.text import SIGNS, jaccard, normal_form, numbers, words
from kiloset.filters.minhash import BANDS, gram_hashes, normal_texts
from kiloset.filters.slots import names

SHORTEST, SHORTEST_ANSWERED, LONG = 5, 8, 13
"""Words from which a prompt is searched as a whole, from which also in responses, and from which by its n-grams."""
OWN_WORDS = 20
"""Weighted words from which a part of a prompt is evidence. With 16, other houses of that series would be evidence too."""
FRAME = 20
"""An n-gram that more prompts share has no weight."""
PART = 16_384
"""Rows compared together; bounds the memory."""
QUOTED = 12
"""Words quoted as evidence."""

BENCHMARKS = {"place": pl.String, "prompt": pl.String}
"""Columns of a table of benchmark prompts: file and line, and the user turn."""

_SIGN = re.compile(f"([{SIGNS}])")

Hashes = NDArray[np.uint64]
Places = NDArray[np.int64]
Verdicts = dict[int, dict[str, Any]]


@settings
class ContaminationConfig:
    """The `[contamination]` table of a run's TOML."""

    files: Names = ()
    """Benchmark files, folders of files or hub ids whose prompts no row may repeat. Accepts plain text, messages, instruction and input, prompt, question, and Self-Instruct's instances. Without files nothing is checked."""
    ngram_words: Count = 8
    """Length of the n-grams, in words; each sign of Chinese and Japanese is a word."""
    min_share: Share = 0.5
    """Share of a prompt's n-grams from which a row repeats the prompt."""
    threshold: Share = 0.70
    """Jaccard similarity of character 5-grams from which instruction and input are a near-duplicate of a prompt."""


Config = ContaminationConfig


class PromptSearch(Protocol):
    """Finds rows that repeat a benchmark's prompt: `Prompts`, or a filter chain that remembers its verdicts."""

    def repeated_by(self, table: pl.DataFrame) -> dict[str, dict[str, Any]]:
        """Return the verdict of each row that repeats a prompt, by id."""


def drop_contaminated(table: pl.DataFrame, prompts: PromptSearch, *, seeds_in_set: bool) -> Outcome:
    """Drop every row that repeats a prompt of a benchmark; seeds only if they may be selected into the set.

    Args:
        table: Rows.
        prompts: The prompts of all benchmarks.
        seeds_in_set: Whether seeds may be selected into the set.
    """
    checked = table if seeds_in_set else table.filter(pl.col("source") != "seed")
    return with_verdicts(table, prompts.repeated_by(checked))


def drop(table: pl.DataFrame, benchmarks: pl.DataFrame, config: ContaminationConfig | None = None) -> Outcome:
    """Drop every row, except seeds, that repeats a prompt of a table with the columns of `BENCHMARKS`.

    >>> from kiloset.core.table import table_of
    >>> table = table_of([{"id": "g1", "instruction": "Name the five largest moons of Saturn", "source": "generated"}])
    >>> benchmarks = pl.DataFrame({"place": ["exam:1"], "prompt": ["Name the five largest moons of Saturn."]})
    >>> kept, dropped = drop(table, benchmarks)
    >>> dropped["reason"].item()
    'contaminated_ngrams'
    """
    return drop_contaminated(table, Prompts(benchmarks, config or ContaminationConfig()), seeds_in_set=False)


@dataclass(frozen=True, slots=True)
class _Entries:
    """Hashes of prompts in rising order, each with its prompt and the place of its first word in the prompt."""

    values: Hashes
    prompts: Places
    positions: Places
    present: NDArray[np.bool_]
    """Whether any hash has these lowest bits: rules out most hashes at little cost."""

    def find(self, values: Hashes) -> tuple[Places, Places]:
        """Return `(place in values, entry)` of all equal hashes."""
        maybe = np.flatnonzero(self.present[values & np.uint64(len(self.present) - 1)])
        first = np.searchsorted(self.values, values[maybe], "left")
        counts = np.searchsorted(self.values, values[maybe], "right") - first
        within = np.arange(counts.sum()) - np.repeat(np.cumsum(counts) - counts, counts)
        return np.repeat(maybe, counts), np.repeat(first, counts) + within


class Prompts:
    """The distinct prompts of all benchmarks, ready to be searched in any number of tables."""

    def __init__(self, benchmarks: pl.DataFrame, config: ContaminationConfig) -> None:
        """Prepare the search, in a second for 10,000 prompts; the table has the columns of `BENCHMARKS`."""
        first: dict[str, tuple[str, str]] = {}
        for prompt, place in benchmarks.select("prompt", "place").iter_rows():
            first.setdefault(normal_form(prompt), (prompt, place))
        first.pop("", None)
        self._config = config
        self._texts, self._places = [text for text, _ in first.values()], [place for _, place in first.values()]
        if not first:
            return
        self._words = [_spaced(key).split() for key in first]
        sizes = np.array([len(words) for words in self._words], np.int64)
        self._is_long = sizes >= max(LONG, config.ngram_words)
        # The length of n-grams by which each prompt is searched; its own length if it is searched as a whole.
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
        """Return, by id, the verdict on each row that repeats a prompt: `reason`, `evidence`, `measured` and `limit`.

        A verdict depends on its row and the prompts alone, so a caller may cache it by id.
        """
        verdicts: dict[str, dict[str, Any]] = {}
        if not self._texts:
            return verdicts
        for rows in table.select("id", "instruction", "input", "response").iter_slices(PART):
            ids, turns, responses = rows["id"].to_list(), full_instruction(rows), rows["response"].to_list()
            by_turn = self._contained(turns, SHORTEST, "instruction and input have")
            by_response = self._contained(responses, SHORTEST_ANSWERED, "the response has")
            by_row = self._near(turns) | by_response | by_turn  # of several verdicts the last is taken
            verdicts |= {ids[row]: verdict for row, verdict in by_row.items()}
        return verdicts

    def _contained(self, texts: Sequence[str], shortest: int, subject: str) -> Verdicts:
        """Return the verdict on each text that contains a prompt of so many words, by the prompt of which it has most."""
        shares: list[tuple[int, float, int, int, str]] = []
        lengths = [length for length in self._entries if length >= shortest or length == self._config.ngram_words]
        for length, values, owners, _ in _ngrams([normal_form(text) for text in texts], lengths):
            entries = self._entries[length]
            at, hits = entries.find(values)
            long = self._is_long[entries.prompts[hits]]
            shares += self._by_ngrams(owners[at[long]], hits[long])
            whole = set(zip(owners[at[~long]].tolist(), entries.prompts[hits[~long]].tolist(), strict=True))
            shares += [
                (text, 1.0, -prompt, 0, "all")
                for text, prompt in whole
                if length >= shortest and _ends_a_sentence(self._words[prompt], texts[text])
            ]
        limit = self._config.min_share
        return {
            text: {
                "reason": "contaminated_ngrams", "measured": share, "limit": limit,
                "evidence": f"{subject} {what} of {self._places[-prompt]}, {self._quoted(-prompt, begin)} (limit {limit:.0%})",
            }
            for text, share, prompt, begin, what in sorted(shares)
        }  # fmt: skip

    def _near(self, texts: Sequence[str]) -> Verdicts:
        """Return the verdict on each text that is a near-duplicate of a prompt, by the most similar one."""
        pairs: set[tuple[int, int]] = set()
        for entries, band in zip(self._bands, _bands(texts), strict=True):
            at, hits = entries.find(band)
            pairs |= set(zip(at.tolist(), entries.prompts[hits].tolist(), strict=True))
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
        """Yield `(text, share, -prompt, first shared word, evidence)` where a text has enough of a prompt's n-grams."""
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
                evidence = f"{share:.0%} of the n-grams of {length} words"
                yield int(pairs[pair] // number), share, -int(pairs[pair] % number), min(positions), evidence

    def _quoted(self, prompt: int, begin: int) -> str:
        """Return some words of a prompt in quotation marks."""
        quoted = " ".join(self._words[prompt][begin : begin + QUOTED])
        return f'"{quoted}{" …" if begin + QUOTED < len(self._words[prompt]) else ""}"'


def _spaced(key: str) -> str:
    """Return a normal form in which each Chinese and Japanese sign is a word."""
    return key if key.isascii() else " ".join(_SIGN.sub(r" \1 ", key).split())


def _ngrams(keys: Sequence[str], lengths: Collection[int]) -> Iterator[tuple[int, Hashes, Places, Places]]:
    """Yield each length in words with all n-grams of that length: their hashes, texts and first words."""
    lists = pl.Series([_spaced(key) for key in keys], dtype=pl.String).str.split(" ")
    sizes = lists.list.len().to_numpy().astype(np.int64)
    texts = np.repeat(np.arange(len(keys)), sizes)
    positions = np.arange(len(texts)) - np.repeat(np.cumsum(sizes) - sizes, sizes)
    hashes = lists.explode().hash().to_numpy()
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
    """Return the weight of each n-gram: 1 divided by the number of prompts that have it, or 0."""
    _, at = np.unique(entries.values, return_inverse=True)
    again = (at[1:] == at[:-1]) & (entries.prompts[1:] == entries.prompts[:-1])  # twice in one prompt
    having = np.bincount(at, np.concatenate((np.ones(len(at[:1])), ~again)))[at]
    return np.where(having <= FRAME, 1 / having, 0.0)


def _mixed(values: Hashes, more: Hashes) -> Hashes:
    mixed: Hashes = (values ^ more) * np.uint64(0x9E3779B97F4A7C15)
    return mixed ^ (mixed >> np.uint64(29))


def _ends_a_sentence(phrase: Sequence[str], text: str) -> bool:
    """Return whether these words occur in a text before the end of a sentence, a line or the text."""
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
    """Return whether two texts have the same numbers and names."""
    one, other = ({*names(text), *numbers(text)} for text in (first, second))
    return one <= {*words(second), *numbers(second)} and other <= {*words(first), *numbers(first)}
