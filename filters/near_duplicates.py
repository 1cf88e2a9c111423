"""Exact and near duplicates among instructions; the only file that imports datasketch.

Candidates by MinHash with locality-sensitive hashing (Broder 1997; datasketch), 25 bands of 5 rows over character
5-grams: a pair of Jaccard similarity 0.7 is found with probability 0.990, one of 0.8 with 0.9998. Exact Jaccard on
the shingle sets then decides, so a false candidate only costs time. Texts shorter than a shingle are one shingle: no text
is ever dropped for being short. No transitive closure: a row leaves only for a direct twin that stays.
"""

import hashlib
import re
import unicodedata
from collections import Counter
from collections.abc import Sequence
from functools import lru_cache
from typing import Any, NamedTuple

import polars as pl

from core.config import Count, Share, settings
from core.table import Outcome, with_verdicts
from core.text import normal_form, numbers, words

BANDS, ROWS = 25, 5
REMEMBERED = 8192
"""Texts whose signature is kept: generation judges its rows again after each wave."""
SHORT_WORDS = 9
SHORT_JACCARD = 0.75
OPERATOR = re.compile(r"(?<=\d)\s*([*/−-])\s*(?=\d)|(?<=\w)([#%])")
"""Punctuation that tells tasks apart, unlike that of Markdown: 6 / 2 is not 6 - 2, nor is C# C."""


NAME = re.compile(r"(?<=[^\s.!?:;\"“”(\[*#-])\s+[\"“(\[]?([^\W\d_][\w'’-]+)")
"""A word with another before it in its sentence."""


class _Likeness(NamedTuple):
    """How alike two texts are, by the measure that calls them duplicates."""

    value: float
    limit: float
    measure: str


class _Slots(NamedTuple):
    """What fills the frame of a text."""

    figures: tuple[str, ...]
    names: frozenset[str]
    words: frozenset[str]


@settings
class NearDuplicatesConfig:
    """The `[near_duplicates]` table of a run's TOML."""

    threshold: Share = 0.70
    """Exact Jaccard similarity of character 5-grams from which two instructions, inputs included, are duplicates."""
    per_template: Count = 3
    """Most rows that differ in their numbers, names or symbols only; they are one template, not duplicates."""


def drop_near_duplicates(table: pl.DataFrame, config: NearDuplicatesConfig, *, seed: int) -> Outcome:
    """Drop every row with a direct twin that is kept; the order of the rows does not matter.

    Kept first: seeds, then pool rows, then the longer response, the lower depth, the smaller id. Rows whose numbers,
    names or symbols differ (2 + 3 and 2 * 3, C and C++, the capitals of Kansas and of Arkansas) are no duplicates; of each
    such template at most `per_template` stay.
    """
    texts = table.select("instruction", "input").rows(named=True)
    keys = [_key(row) for row in texts]
    slots = [_slots(f"{row['instruction']}\n{row['input']}") for row in texts]
    order = _keep_order(table)
    verdicts: dict[str, dict[str, Any]] = {}
    ids = table["id"].to_list()
    first_like_it: dict[tuple[str, tuple[str, ...]], int] = {}
    distinct = []
    for at in order:
        twin = first_like_it.setdefault((keys[at], slots[at].figures), at)
        if twin == at:
            distinct.append(at)
        elif table["source"][at] != "seed":
            evidence = f"same instruction and input as {ids[twin]}, but for case, punctuation and white space"
            verdicts[ids[at]] = _verdict("exact_duplicate", evidence, 1.0, config.threshold, ids[twin])
    pairs = _similar_pairs([keys[at] for at in distinct], config.threshold, seed)
    near: dict[int, list[tuple[int, _Likeness]]] = {}
    for first, second, similarity in pairs:
        near.setdefault(distinct[first], []).append((distinct[second], similarity))
        near.setdefault(distinct[second], []).append((distinct[first], similarity))
    _cover(table, distinct, near, slots, config, verdicts)
    return with_verdicts(table, verdicts)


def shingles(key: str, length: int = 5) -> frozenset[str]:
    """Return the character n-grams of " key ", or {key} if there are none."""
    padded = f" {key} "
    return frozenset(padded[i : i + length] for i in range(len(padded) - length + 1)) or frozenset({key})


def jaccard(first: frozenset[str], second: frozenset[str]) -> float:
    """Return the Jaccard similarity of two sets, in [0, 1]."""
    common = len(first & second)
    return common / (len(first) + len(second) - common)


def _cover(
    table: pl.DataFrame, order: Sequence[int], near: dict[int, list[tuple[int, _Likeness]]], slots: Sequence[_Slots],
    config: NearDuplicatesConfig, verdicts: dict[str, dict[str, Any]],
) -> None:  # fmt: skip
    """Walk through the rows, best first; drop those with a twin already kept, and templates beyond their share."""
    ids, sources = table["id"].to_list(), table["source"].to_list()
    rank = {at: position for position, at in enumerate(order)}
    group: dict[int, int] = {}
    members: Counter[int] = Counter()
    for at in order:
        kept = sorted((rank[other], other, s) for other, s in near.get(at, []) if other in group)
        twins = [(other, s) for _, other, s in kept if _same_slots(slots[other], slots[at])]
        siblings = [(other, s) for _, other, s in kept if not _same_slots(slots[other], slots[at])]
        full = [(other, s) for other, s in siblings if members[group[other]] >= config.per_template]
        if twins and sources[at] != "seed":
            other, similarity = max(twins, key=lambda pair: (pair[1], -rank[pair[0]]))
            evidence = f"Jaccard {similarity.value:.2f} of {similarity.measure} with {ids[other]} (limit {similarity.limit:.2f})"
            verdicts[ids[at]] = _verdict("near_duplicate", evidence, similarity.value, similarity.limit, ids[other])
        elif full and sources[at] != "seed":
            other = full[0][0]
            count = members[group[other]]
            evidence = f"{count} rows like {ids[other]} that differ in numbers, names or symbols only are kept already"
            verdicts[ids[at]] = _verdict(
                "template_full", evidence, float(count + 1), float(config.per_template), ids[other]
            )
        else:
            group[at] = group[siblings[0][0]] if siblings else at
            members[group[at]] += 1


def _similar_pairs(keys: Sequence[str], threshold: float, seed: int) -> list[tuple[int, int, _Likeness]]:
    """Return `(first, second, likeness)` of every candidate pair that is similar."""
    from datasketch import MinHashLSH

    sets = [shingles(key) for key in keys]
    index = MinHashLSH(num_perm=BANDS * ROWS, params=(BANDS, ROWS))
    # Texts of the same words need not share a shingle, so they are looked up by their words.
    same_words: dict[tuple[str, ...], list[int]] = {}
    pairs = []
    for number, key in enumerate(keys):
        signature = _signature(key, seed)
        alike = same_words.setdefault(tuple(sorted(key.split())), [])
        for other in {*index.query(signature), *alike}:
            likeness = _Likeness(jaccard(sets[number], sets[other]), threshold, "character 5-grams")
            likeness = likeness if likeness.value >= threshold else _short_likeness(key, keys[other])
            if likeness.value >= likeness.limit:
                pairs.append((other, number, likeness))
        index.insert(number, signature)
        alike.append(number)
    return sorted(pairs)


@lru_cache(maxsize=REMEMBERED)
def _signature(key: str, seed: int) -> Any:
    from datasketch import MinHash

    encoded = [shingle.encode() for shingle in sorted(shingles(key))]
    signature = MinHash(num_perm=BANDS * ROWS, seed=seed + 1, hashfunc=_hash, scheme="affine32")
    signature.update_batch(encoded)
    return signature


def _short_likeness(first: str, second: str) -> _Likeness:
    """Compare two short texts that 5-grams, which an edit of one word upsets, call different."""
    if max(len(first.split()), len(second.split())) > SHORT_WORDS:
        return _Likeness(0.0, SHORT_JACCARD, "character 4-grams")
    if Counter(first.split()) == Counter(second.split()):
        return _Likeness(1.0, 1.0, "words in any order")
    return _Likeness(jaccard(shingles(first, 4), shingles(second, 4)), SHORT_JACCARD, "character 4-grams")


def _key(row: dict[str, str]) -> str:
    given = normal_form(row["input"])
    return normal_form(row["instruction"]) + (f" ∥ {given}" if given else "")


@lru_cache(maxsize=REMEMBERED)
def _slots(text: str) -> _Slots:
    """Return what fills a text's frame; a name is a capitalised word that does not begin a sentence."""
    names = {match[1].casefold() for match in NAME.finditer(text) if match[1][0].isupper()}
    return _Slots(_figures(text), frozenset(names), frozenset(words(text)))


def _same_slots(first: _Slots, second: _Slots) -> bool:
    """Tell whether two texts are about the same numbers and symbols, and name nothing that the other lacks."""
    return first.figures == second.figures and first.names <= second.words and second.names <= first.words


def _figures(text: str) -> tuple[str, ...]:
    """Return what `normal_form` may lose or blur and tasks differ by: the numbers, operators, symbols and emoji."""
    operators = [match[1] or match[2] for match in OPERATOR.finditer(text)]
    symbols = [c for c in text if c != "`" and unicodedata.category(c) in ("Sm", "Sc", "So", "Sk")]
    return tuple(sorted([*numbers(text), *operators, *symbols]))


def _keep_order(table: pl.DataFrame) -> list[int]:
    rank = {"seed": 0, "pool": 1, "generated": 2}
    rows = table.select("id", "source", "depth", "response").rows()
    return sorted(range(len(rows)), key=lambda i: (rank[rows[i][1]], -len(rows[i][3]), rows[i][2], rows[i][0]))


def _verdict(reason: str, evidence: str, measured: float, limit: float, twin: str) -> dict[str, Any]:
    return {"reason": reason, "evidence": evidence, "measured": measured, "limit": limit, "twin": twin}


def _hash(data: bytes) -> int:
    """Return 32 bits, the same in every process (Python's own hash is salted)."""
    return int.from_bytes(hashlib.blake2b(data, digest_size=4).digest(), "little")
