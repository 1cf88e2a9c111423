"""Detect a clause that was left out or added, by the content words between two words that both texts share.

The two texts are aligned by the longest common subsequence of their content words. Between two aligned words, a word that
the other text lacks was lost or is new. As many lost as new words are a rephrasing, and only the excess counts. So the order
may change and synonyms are allowed, but a clause that is missing in an otherwise unchanged sentence is detected, to which
embeddings are not sensitive.

With a limit of 4 words, this rejects 19 of the 37 broken and none of the 29 faithful rewrites by a 135M model that passed every
other check and that a reader had labelled, and none of 42 faithful pairs written by hand.
"""

from collections.abc import Sequence

from rapidfuzz.distance import LCSseq

from kiloset.core.form import FUNCTION_WORDS
from kiloset.core.text import words_and_signs
from kiloset.rewrite.checks import Verdict, fences, not_applicable, verdict

ROOT = 5
"""First letters of a stem that are compared ("concentrate", "concentration")."""
SUFFIXES = ("ingly", "edly", "ing", "est", "ed", "er", "es", "ly", "s", "e")
MOST_WORDS = 5_000
"""Content words of the longest text aligned: time and memory grow with the product of the two."""


def keeps_clauses(reference: str, rewrite: str, limit: int) -> Verdict:
    """`clauses`: in no place are more than `limit` content words removed without a replacement."""
    return _excess("clauses", reference, rewrite, "", limit, "the rewrite has nothing for")


def adds_no_clauses(instruction: str, reference: str, rewrite: str, limit: int) -> Verdict:
    """`new_clauses`: in no place are more than `limit` content words added, except words of the instruction."""
    return _excess("new_clauses", rewrite, reference, instruction, limit, "the reference has nothing for")


def _excess(check: str, text: str, other: str, allowed: str, limit: int, fault: str) -> Verdict:
    own, foreign = (_words(fences(each).prose) for each in (text, other))
    if not own or max(len(own), len(foreign)) > MOST_WORDS:
        return not_applicable(check, f"no content words, or more than {MOST_WORDS:,}")
    mine, theirs = ([root for root, _ in each] for each in (own, foreign))
    known, had = {*theirs, *(root for root, _ in _words(allowed))}, set(mine)
    most, clause = 0, ""
    for start, end, from_, to in _gaps(mine, theirs):
        alone = [word for root, word in own[start:end] if root not in known]
        instead = sum(root not in had for root in theirs[from_:to])
        if len(alone) - instead > most:
            most, clause = len(alone) - instead, " ".join(alone)
    evidence = f"{fault} {clause[:80]!r}" if clause else "every clause has a counterpart in the other text"
    return verdict(check, most <= limit, evidence, most, limit)


def _gaps(one: Sequence[str], other: Sequence[str]) -> list[tuple[int, int, int, int]]:
    """Return `(start, end, start in the other, end in the other)` of the gaps between aligned stretches."""
    gaps, at, other_at = [], 0, 0
    for step in LCSseq.opcodes(one, other):
        if step.tag == "equal":
            gaps.append((at, step.src_start, other_at, step.dest_start))
            at, other_at = step.src_end, step.dest_end
    return [*gaps, (at, len(one), other_at, len(other))]


def _words(text: str) -> list[tuple[str, str]]:
    """Return the content words of a text, each with its root."""
    return [(_stem_of(word)[:ROOT], word) for word in words_and_signs(text) if word not in FUNCTION_WORDS]


def _stem_of(word: str) -> str:
    """Return a word without its English ending. The rule is crude: the stem of "after" is "aft"."""
    bare = word.removesuffix("'s")
    for suffix in SUFFIXES:
        if bare.endswith(suffix) and not bare.endswith("ss") and len(bare) - len(suffix) >= 3:
            bare = bare.removesuffix(suffix)
            break
    if len(bare) > 3 and bare[-1] == bare[-2] and bare[-1] not in "ls":
        bare = bare[:-1]
    return f"{bare[:-1]}i" if bare.endswith("y") else bare
