"""Divide a text into sentences by rules, without a trained model.

Known errors: a single capital letter is read as an initial, so "vitamin C. It" is one sentence; "U.S. Senate" is divided, and
so is an abbreviation that the lists below lack; an ellipsis before a small letter does not end a sentence.
"""

import re
from itertools import pairwise

from kiloset.core.text import words

CLOSERS = "\"'”’»)\\]*_"
NEAR = 30
"""Characters around a full stop that decide whether it ends a sentence."""
TERMINATOR = re.compile(rf"(?<![.!?…؟।])[.!?…؟।]++[{CLOSERS}]*+(?=\s|\Z)|[。！？]++[{CLOSERS}」』]*+")
BREAK = re.compile(
    r"\n[ \t]*\n\s*"
    r"|\n(?=[ \t]*(?:[-*+•][ \t]|\(?\d{1,3}[.)][ \t]|#{1,6}[ \t]|<<))"  # before a list item, heading or title
    r"|(?:(?<=\n)|\A)(?:[ \t]*#{1,6}[ \t][^\n]*|[ \t]*<<[^\n]*>>[ \t]*|[ \t]*(?:\*{3,}|-{3,})[ \t]*)(\n|\Z)"
)
"""Where a line break ends a sentence; a heading, title or separator ends at its own line break, which is group 1."""
NUMBERED = re.compile(r"[ \t>*_]*\(?(?:\d{1,3}|[A-Za-z])\Z")
NEVER_LAST = frozenset(
    [
        "mr",
        "mrs",
        "ms",
        "dr",
        "prof",
        "rev",
        "hon",
        "gen",
        "col",
        "capt",
        "lt",
        "sgt",
        "st",
        "mt",
        "messrs",
        "vs",
        "cf",
        "e.g",
        "i.e",
        "viz",
        "approx",
    ]
)
"""Abbreviations that something always follows."""
NUMBER_NEXT = frozenset(words("no nos fig figs eq vol p pp ch"))
"""Abbreviations before a number; elsewhere they are words."""
SELDOM_LAST = frozenset(
    [
        "etc",
        "inc",
        "ltd",
        "co",
        "corp",
        "jr",
        "sr",
        "a.m",
        "p.m",
        "b.c",
        "a.d",
        "u.s",
        "u.k",
        "u.n",
        "al",
        "ca",
        "jan",
        "feb",
        "aug",
        "sept",
        "oct",
        "nov",
        "dec",
        "dept",
    ]
)
"""Abbreviations that end a sentence only before a capital letter."""


def sentences(text: str) -> list[str]:
    """Return the sentences of a text, in order and stripped; a piece without a letter or digit is not a sentence."""
    return [text[start:end] for start, end in sentence_spans(text)]


def sentences_of_lines(text: str) -> list[str]:
    """Return the sentences of each line of a text: here a line break always ends a sentence."""
    return [sentence for line in text.split("\n") for sentence in sentences(line)]


def sentence_spans(text: str) -> list[tuple[int, int]]:
    """Return where each sentence begins and ends, without the white space around it.

    A line break ends a sentence before an empty line, a list item, a heading or a separator, but not within a poem.
    """
    cuts = {0, len(text)}
    for match in BREAK.finditer(text):
        cuts |= {match.start(), match.end()}
    cuts |= {match.end() for match in TERMINATOR.finditer(text) if _ends_sentence(text, match)}
    spans = []
    for start, end in pairwise(sorted(cuts)):
        piece = text[start:end]
        if any(c.isalnum() for c in piece):
            begin = start + len(piece) - len(piece.lstrip())
            spans.append((begin, start + len(piece.rstrip())))
    return spans


def _ends_sentence(text: str, stop: re.Match[str]) -> bool:
    mark = stop[0].rstrip("\"'”’»)]*_」』")
    after = (text[stop.end() : stop.end() + NEAR].lstrip().lstrip("\"'“‘«(*_") or "A")[0]
    before = text[max(0, stop.start() - NEAR) : stop.start()].rpartition("\n")[2]
    if mark != ".":
        quoted, trails = stop[0] != mark, mark.startswith(("..", "…"))
        return not (after.islower() and (quoted or trails))
    if NUMBERED.fullmatch(before):
        return False
    word = (before.split() or [""])[-1].lstrip("(\"'“‘*_").casefold()
    if word in NEVER_LAST or (len(word) == 1 and word.isalpha() and word != "i" and before[-1:].isupper()):
        return stop.end() == len(text.rstrip())
    if word in NUMBER_NEXT and after.isdigit():
        return False
    if word in SELDOM_LAST:
        return not after.islower() and not after.isdigit()
    return not (after.islower() and stop[0] != mark)
