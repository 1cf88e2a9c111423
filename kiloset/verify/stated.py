"""Check the numbers that an instruction states for the form of its answer: "in one sentence", "at least 120 words", "8 lines".

Only plain English phrases are read; a phrase that could mean something else ("two sentences from the text") is not. The
counts are those of the verifiable constraints (`kiloset.core.constraint_text`).
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass

from kiloset.core.constraint_text import count_words
from kiloset.core.sentences import sentences
from kiloset.core.text import SPELLED

LARGEST_NAMED = 20
"""Numbers up to this one are read in words too."""
NAMED = {word: int(digits) for word, digits in SPELLED.items() if 0 < int(digits) <= LARGEST_NAMED}
COUNT = rf"(?P<count>\d{{1,4}}|(?:a )?single|{'|'.join(NAMED)})"
NAMED |= {"single": 1, "a single": 1}
LEAST = r"(?P<least>at least|no (?:fewer|less) than|a minimum of|minimum)"
MOST = (
    r"(?P<most>at most|no more than|not more than|a maximum of|maximum|up to|fewer than|less than|under|below|within)"
)
EXACTLY = r"(?P<exactly>exactly|precisely|only|just)"
BOUND = rf"(?:(?:{LEAST}|{MOST}|{EXACTLY}) )?"
LENGTH = re.compile(
    rf"\b(?P<intro>in|with|of|using|into|to|be|is|:|,|;|\.|\(|long,)? ?{BOUND}{COUNT}[ -](?:\w+ly |short |long |simple |clear |complete |full |plain )?(?P<unit>sentences?|words?|lines?)\b(?P<or> or (?:fewer|less|more|under|over)| (?:at most|at least|maximum|minimum|max))?(?P<long> long)?",
    re.IGNORECASE,
)
LIST = re.compile(
    rf"\b(?:list|name|suggest|give(?: me)?|write|brainstorm|propose|provide|think of|come up with|offer|create|generate|make) "
    rf"(?:me |us |out |down )?(?:a list of )?{BOUND}{COUNT} (?:\w+[ -]){{0,3}}?(?P<unit>ideas|ways|tips|names|reasons|uses|things|examples|suggestions|activities|questions"
    rf"|topics|titles|themes|facts|points|benefits|steps|rules|items|options|slogans|places|gifts|headlines|recipes|meals|games|bullet points|bullets|haikus?|advantages|slogan ideas)\b",
    re.IGNORECASE,
)
RANGE = re.compile(r"\d[\w ]{0,9}(?:-|–|to|and|or)?\s*\Z")
"""A number before a number: "30 to 40 words"."""
SECOND_PART = re.compile(r"\b(?:and|then|add|plus|also|followed|justify|with)\b[^.?!]*\Z", re.IGNORECASE)
"""What follows is a part of the answer: "Pick one and justify it in one sentence"."""
ITEM = re.compile(r"^[ \t]*(?:[-*+•–][ \t]+|\(?\d{1,3}[.):][ \t]+)\S", re.MULTILINE)
TOLERANCE = 0.1
"""An answer of 110 words to a task for 100 obeys "in 100 words", which few people read as a limit."""


@dataclass(frozen=True, slots=True)
class Bound:
    """How many of a unit an answer should have."""

    unit: str
    least: int
    most: int
    phrase: str


def bounds(instruction: str) -> Iterator[Bound]:
    """Yield the numbers of sentences, words, lines or list items that an instruction asks for."""
    for match in LENGTH.finditer(instruction):
        unit = match["unit"].lower().rstrip("s")
        has_bound = match["least"] or match["most"] or match["exactly"] or match["or"]
        intro, after = (match["intro"] or "").lower(), instruction[match.end() : match.end() + 12].lower()
        stands_alone = intro == "," and re.match(r"[,.;]|\s*\Z", after)
        if not (has_bound or match["long"] or stands_alone or intro in ("in", "of", "using", "into", "to")):
            continue
        before = instruction[: match.start()]
        if RANGE.search(before) or (unit != "word" and SECOND_PART.search(before)):
            continue
        if (
            re.match(r" (?:from|of (?:the|this)|that|which|in the|above|below|about|each|per)\b", after)
            and not has_bound
        ):
            continue
        if re.match(r" (?:each|per|apiece|for each)\b", after):
            continue
        yield _bound(unit, match)
    for match in LIST.finditer(instruction):
        yield _bound("item", match)


def _bound(unit: str, match: re.Match[str]) -> Bound:
    groups = match.groupdict()
    count = int(match["count"]) if match["count"].isdigit() else NAMED[match["count"].lower()]
    after = (groups.get("or") or "").lower()
    if groups["least"] or after.endswith(("more", "over", "least", "minimum")):
        least, most = count, 10**6
    elif groups["most"] or after:
        strict = (groups["most"] or "").lower() in ("fewer than", "less than", "under", "below")
        least, most = 1, count - strict
    else:
        slack = int(count * TOLERANCE) if unit == "word" else 0
        least, most = count - slack, count + slack
    return Bound(unit, least, most, " ".join(match[0].split()))


def broken_count(instruction: str, response: str) -> str:
    """Return which number of an instruction an answer does not have, "" if it has all that are read."""
    for bound in bounds(instruction):
        number = count(bound.unit, response)
        # "don't" is two words for the constraints and one for a reader.
        others = (number, len(response.split())) if bound.unit == "word" else (number,)
        if number and not any(bound.least <= one <= bound.most for one in others):
            return f"the task asks for {bound.phrase!r}, the answer has {number} {bound.unit}{'s' * (number != 1)}"
    return ""


def count(unit: str, response: str) -> int:
    """Return how many sentences, words, lines or list items a text has; 0 where items cannot be counted."""
    if unit == "sentence":
        return len(sentences(response))
    if unit == "word":
        return count_words(response)
    lines = [line for line in response.splitlines() if line.strip()]
    if unit == "line":
        return len(lines)
    # A list without marks, one item a line, may have a heading: it is not counted.
    return len(ITEM.findall(response))
