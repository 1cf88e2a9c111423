"""What is wrong with an answer that no rule of generation looks for: it breaks off, or a word or two stand for a text.

Rules know answers that end with a comma, an open bracket or "and". Others that break off are told by their last word. A text
without a full stop at its end is whole more often than not: of 2,000 answers of Dolly, which people wrote, 639 end so, 32 of
them in prose that has a stop before, and of these two are cut. So the last word is held against the other answers of the file:
"the" ends none of their sentences, and what begins a longer word and stands nowhere but at such an end is half of it. An answer
cut after a word that could have ended it is told from a whole one by nothing; in prose it `is_without_stop`. Of answers of Dolly
cut at a random letter 4 in 10 are told as cut and 4 in 10 as without a stop, of those cut between words 3 and 4 in 10.
"""

import re
import unicodedata
from collections import Counter
from collections.abc import Sequence

from kiloset.core.text import WORD, words

STOP = re.compile(r"[.!?…:;。！？।؟]\W*\Z|[.!?…。！？।؟]\W*\[\d+\]\W*\Z")
"""Ends a text that is whole: a stop, whatever closes after it, and the number of a note."""
SENTENCE = re.compile(r"(?<=[\w)\]\"”])[.!?…][\"'”’)\]*_»]*(?:\[\d+\])*(?=\s)")
ENDED = re.compile(r"[\"'”’)\]*_»]*(?:[.!?…:;]|\s*\n|\s*\Z)")
"""Follows a word that ends a sentence or a line."""
MARKED = re.compile(r"\s*(?:[-*+•–>|#]|\(?\w{1,3}[.)]|[^\s:]{1,30}:)\s")
"""Begins the line of a list, a table, a heading or a label, which needs no stop."""
NOT_PROSE = re.compile(r"```|https?://|www\.|\||\t|[{};]\s*\Z")
OPEN_WORDS = frozenset(
    words(
        "a an the and or nor of from into onto than whose because although whereas if unless my our their its your every"
    )
)
"""English words after which no sentence ends, in a file of any size and a text of any kind."""
LEAST_SEEN, MOST_ENDS = 50, 0.01
"""Times that a word stands in the answers, and the share of them that ends a sentence or a line, of a word that ends none."""
LEAST_PROSE = 4
"""Words after the last stop of what is prose."""
LEAST_HALF = 3
"""Letters of half a word at least."""
BEGUN = re.compile(
    r"\W*(?:the|an?|this|these|it|there|my|our|your|his|her|their|in|on|at|if|when)\b[^?!]*:\s*\Z|[^?]*\?\s*\w+\s*:\s*\Z",
    re.IGNORECASE,
)
"""A sentence begun, with a colon for the rest of it, lacks nothing, nor does a question before "Answer:"."""
SHORT = 2
"""Words of an answer at most that is too short where a text was asked for."""
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
"""What makes a word or two a whole answer all the same."""
INFLECTED = re.compile(r"(?:e?s|e?d|ing|ly|e?r|e?n|['’]\w+|-.*)\Z")


def cut_answers(answers: Sequence[str]) -> dict[int, str]:
    """Return which answers are cut, each with its last words, in order."""
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
    found = {}
    for at, answer in enumerate(answers):
        last = words(answer[-200:])[-1:] if _is_open(answer) else []
        if last and (
            answer.split()[-1].casefold() in OPEN_WORDS
            or (is_without_stop(answer) and _ends_none(answer, seen, ends, halves))
        ):
            found[at] = f"ends with “… {' '.join(answer.split()[-3:])}”"
    return found


def is_without_stop(answer: str) -> bool:
    """Tell whether an answer in prose ends without a stop, though a sentence before has one."""
    if not _is_open(answer):
        return False
    line = answer.rstrip().rsplit("\n", 1)[-1]
    tail = SENTENCE.split(line)[-1]
    prose = len(tail.split()) >= LEAST_PROSE and not MARKED.match(line) and not NOT_PROSE.search(line)
    return prose and SENTENCE.search(line) is not None


def too_short(instruction: str, answer: str) -> str | None:
    """Return why an answer that is not empty is too short to be one, None if it is not; what is asked for is read in English only."""
    text = answer.strip()
    if text and not any(c.isalnum() or unicodedata.category(c)[0] == "S" for c in text):
        return "no letter, digit or symbol in it"
    number = len(words(text))
    if 0 < number <= SHORT and ASKS_FOR_TEXT.match(instruction) and not ASKS_FOR_LITTLE.search(instruction):
        return f"{number} word{'s' if number > 1 else ''} where a text is asked for"
    return None


def is_begun(instruction: str) -> bool:
    """Tell whether a task is a sentence to be completed, and not one to which a text is missing."""
    return BEGUN.match(instruction) is not None


def _is_open(answer: str) -> bool:
    text = answer.rstrip()
    return text[-1:].isalnum() and not STOP.search(text[-20:])


def _ends_none(answer: str, seen: Counter[str], ends: Counter[str], halves: set[str]) -> bool:
    last = WORD.findall(answer[-200:])[-1]
    times = seen[last.casefold()]
    # A name may begin a longer word.
    return (last in halves and last[0].islower()) or (
        times >= LEAST_SEEN and ends[last.casefold()] - 1 <= MOST_ENDS * times
    )
