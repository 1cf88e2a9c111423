"""Detect faulty answers that no rule of generation detects: answers that are cut, and a word or two in place of a text.

The rules detect answers that end with a comma, an open bracket or "and". This module compares the last word of an answer with
the other answers of the file: "the" ends none of their sentences; and a last word that occurs nowhere else and begins a longer
word is half a word. A missing full stop alone proves nothing: 639 of 2,000 answers of Dolly, which people wrote, end without
one. 32 of these are prose with an earlier full stop, and two of the 32 are cut. An answer cut after a word that could end it
cannot be detected; in prose it `is_without_stop`. Of Dolly answers cut at a random letter, 40 % are detected as cut and 40 %
as without a stop; cut between words, 30 % and 40 %.
"""

import re
import unicodedata
from collections import Counter
from collections.abc import Sequence

from kiloset.core.text import WORD, words

STOP = re.compile(r"[.!?…:;。！？।؟]\W*\Z|[.!?…。！？।؟]\W*\[\d+\]\W*\Z")
"""The end of a complete text: a stop, closing marks after it, and the number of a note."""
SENTENCE = re.compile(r"(?<=[\w)\]\"”])[.!?…][\"'”’)\]*_»]*(?:\[\d+\])*(?=\s)")
ENDED = re.compile(r"[\"'”’)\]*_»]*(?:[.!?…:;]|\s*\n|\s*\Z)")
"""Follows the last word of a sentence or a line."""
MARKED = re.compile(r"\s*(?:[-*+•–>|#]|\(?\w{1,3}[.)]|[^\s:]{1,30}:)\s")
"""The beginning of a list item, a table row, a heading or a label, which needs no stop."""
NOT_PROSE = re.compile(r"```|https?://|www\.|\||\t|[{};]\s*\Z")
OPEN_WORDS = frozenset(
    words(
        "a an the and or nor of from into onto than whose because although whereas if unless my our their its your every"
    )
)
"""English words that never end a sentence."""
LEAST_SEEN, MOST_ENDS = 50, 0.01
"""A word ends no sentence if it occurs at least so often and at most this share of its occurrences ends a sentence or a line."""
LEAST_PROSE = 4
"""Least words after the last stop of prose."""
LEAST_HALF = 3
"""Least letters of half a word."""
BEGUN = re.compile(
    r"\W*(?:the|an?|this|these|it|there|my|our|your|his|her|their|in|on|at|if|when)\b[^?!]*:\s*\Z|[^?]*\?\s*\w+\s*:\s*\Z",
    re.IGNORECASE,
)
"""A task that is complete although it ends with a colon: the beginning of a sentence, or a question before "Answer:"."""
SHORT = 2
"""Most words of an answer that is too short if the task asks for a text."""
ASKS_FOR_TEXT = re.compile(
    r"\W*(?:please |(?:can|could) you )?(?:write|explain|describe|summari[sz]e|compose|discuss|elaborate|draft|outline|compare|why\b"
    r"|how (?:do|does|did|can|could|should|would|to)\b)",
    re.IGNORECASE,
)
ASKS_FOR_LITTLE = re.compile(
    r"\b(?:words?|numbers?|names?|titles?|headlines?|terms?|letters?|regex|expressions?|query|command|emojis?|symbols?|synonyms?|antonyms?"
    r"|one|single|short|shortest|briefly|concise|yes|labels?|categor\w+|answers?|many|much|often|long|old|far|number|formula|equation)\b",
    re.IGNORECASE,
)
"""Tasks for which a word or two is a complete answer."""
INFLECTED = re.compile(r"(?:e?s|e?d|ing|ly|e?r|e?n|['’]\w+|-.*)\Z")


def cut_answers(answers: Sequence[str]) -> dict[int, str]:
    """Return the row numbers of cut answers, in order, each with its last words as evidence."""
    seen: Counter[str] = Counter()
    ends: Counter[str] = Counter()
    for answer in answers:
        for word in WORD.finditer(answer):
            seen[word[0].casefold()] += 1
            ends[word[0].casefold()] += bool(ENDED.match(answer, word.end()))
    lasts = Counter(words(answer[-200:])[-1] for answer in answers if _is_open(answer))
    only_last = {word for word, times in lasts.items() if seen[word] == times}
    halves = {
        word[:size]
        for word in seen
        for size in range(LEAST_HALF, len(word))
        if word[:size] in only_last and not INFLECTED.fullmatch(word, size)
    }
    cut = {}
    for at, answer in enumerate(answers):
        last = words(answer[-200:])[-1:] if _is_open(answer) else []
        if last and (
            answer.split()[-1].casefold() in OPEN_WORDS
            or (is_without_stop(answer) and _ends_none(answer, seen, ends, halves))
        ):
            cut[at] = f"ends with “… {' '.join(answer.split()[-3:])}”"
    return cut


def is_without_stop(answer: str) -> bool:
    """Return whether an answer in prose ends without a stop although an earlier sentence has one."""
    if not _is_open(answer):
        return False
    line = answer.rstrip().rsplit("\n", 1)[-1]
    tail = SENTENCE.split(line)[-1]
    prose = len(tail.split()) >= LEAST_PROSE and not MARKED.match(line) and not NOT_PROSE.search(line)
    return prose and SENTENCE.search(line) is not None


def too_short(instruction: str, answer: str) -> str | None:
    """Return why an answer is too short, None if it is not or is empty; tasks are recognised in English only."""
    text = answer.strip()
    if text and not any(c.isalnum() or unicodedata.category(c)[0] == "S" for c in text):
        return "contains no letter, digit or symbol"
    number = len(words(text))
    if 0 < number <= SHORT and ASKS_FOR_TEXT.match(instruction) and not ASKS_FOR_LITTLE.search(instruction):
        return f"{number} word{'s' if number > 1 else ''} although the task asks for a text"
    return None


def is_begun(instruction: str) -> bool:
    """Return whether a task is a sentence to complete, rather than a task without its text."""
    return BEGUN.match(instruction) is not None


def _is_open(answer: str) -> bool:
    text = answer.rstrip()
    return text[-1:].isalnum() and not STOP.search(text[-20:])


def _ends_none(answer: str, seen: Counter[str], ends: Counter[str], halves: set[str]) -> bool:
    last = WORD.findall(answer[-200:])[-1]
    times = seen[last.casefold()]
    # In lower case: a name may begin a longer word.
    return (last in halves and last[0].islower()) or (
        times >= LEAST_SEEN and ends[last.casefold()] - 1 <= MOST_ENDS * times
    )
