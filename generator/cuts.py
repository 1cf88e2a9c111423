"""Answers made shorter by whole sentences, where that leaves them readable."""

import re
from collections.abc import Callable, Mapping
from typing import Any

from kiloset.core.constraint_text import count_phrase, count_words, sentence_spans

Args = Mapping[str, Any]

LIST_MARK = re.compile(r"^[ \t]*(?:[-*+•]|\(?\d{1,3}[.)])[ \t]+", re.MULTILINE)
NUMBERED = re.compile(r"^[ \t]*\(?\d{1,3}[.)][ \t]", re.MULTILINE)
REFERS_BACK = re.compile(
    r"(?:[-*+•][ \t]+)?(?:it|its|this|that|these|those|they|their|he|she|such|however|therefore|thus|hence|so|but|and|also|then"
    r"|for example|instead|otherwise|as a result|in addition|additionally|furthermore|moreover)\b",
    re.IGNORECASE,
)
"""Openings that point at the sentence before."""
WHOLE = re.compile(r"[.!?…][\"'”’)\]*_]*\Z")
"""The end of a text that is not cut off."""


def drop_forbidden(text: str, args: Args) -> str | None:
    """Leave out the sentences with a forbidden word."""
    return _drop_sentences(text, lambda sentence: any(count_phrase(sentence, word) for word in args["forbidden_words"]))


def drop_surplus(text: str, args: Args) -> str | None:
    """Leave out the sentences that bring a keyword to or past its bound."""
    if args["relation"] == "at least":
        return None
    seen = 0

    def over(sentence: str) -> bool:
        nonlocal seen
        found = count_phrase(sentence, args["keyword"])
        over = found > 0 and seen + found >= args["frequency"]
        seen += 0 if over else found
        return over

    return _drop_sentences(text, over)


def keep_first_sentences(text: str, args: Args) -> str | None:
    """Keep the first sentences, one fewer than the bound."""
    if args["relation"] == "at least":
        return None
    return _first(text, lambda number, _: number < int(args["num_sentences"]))


def keep_first_words(text: str, args: Args) -> str | None:
    """Keep the first sentences that together have fewer words than the bound."""
    if args["relation"] == "at least":
        return None
    return _first(text, lambda _, piece: count_words(piece) < int(args["num_words"]))


def _drop_sentences(text: str, banned: Callable[[str], bool]) -> str | None:
    """Leave sentences out; None in a numbered list, and where the next sentence refers back to one that is gone."""
    if NUMBERED.search(text):
        return None
    kept, end, gone = "", 0, False
    for start, stop in sentence_spans(text):
        sentence = text[start:stop]
        if not banned(sentence):
            if gone and REFERS_BACK.match(sentence):
                return None
            kept += (text[end:start] if kept else text[end:start].lstrip()) + sentence
            gone = False
        else:
            gone = True
        end = stop
    return kept.strip()


def _first(text: str, fits: Callable[[int, str], bool]) -> str | None:
    """Return the longest beginning of whole sentences that fits, by their number and text; None in a list, or if none ends well."""
    if LIST_MARK.search(text):
        return None
    beginnings = [text[:end] for _, end in sentence_spans(text)]
    good = [piece for number, piece in enumerate(beginnings, 1) if fits(number, piece) and WHOLE.search(piece)]
    return good[-1] if good else None
