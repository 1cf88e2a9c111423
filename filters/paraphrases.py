"""What tells two instructions apart that an embedding takes for one.

An embedding says what a text is about; it hardly hears direction, negation or which word fills a frame. all-MiniLM-L6-v2 gives
"feet to meters" and "meters to feet" 0.993, "arguments for" and "against" 0.972, and any two Thai texts 1.000, for it knows none
of their words; of sixty paraphrases eight reach 0.95. So a cosine proposes a pair, and words decide. The word lists are English:
in other languages more pairs count as different, none as alike.
"""

import re
from functools import lru_cache

from kiloset.core.text import words_and_signs

REMEMBERED = 8192
"""Texts whose words are kept."""
SAME_FRAME = 0.5
"""Jaccard similarity of words from which texts share a frame; the word they then differ by is what they are about. Planted pairs
that differ by one word have 0.56 or more, paraphrases at a cosine of 0.95 that differ in a word of meaning 0.45 or less."""
LEAST_SHARED = 0.5
"""Fraction of the words of meaning of the text with fewer that the other has to share."""
ENGLISH = 0.25
"""Fraction of words in `FRAME` from which a text is read as English."""
FRAME = frozenset([
    "a", "an", "the", "this", "that", "these", "those", "it", "its", "i", "me", "my", "we", "us", "our", "you",
    "your", "one", "some", "any", "there", "is", "are", "was", "were", "be", "been", "being", "am", "do", "does",
    "did", "can", "could", "should", "would", "will", "shall", "may", "might", "must", "have", "has", "had",
    "what", "which", "how", "in", "on", "at", "of", "for", "to", "by", "with", "using", "use", "as", "about",
    "please", "help", "tell", "give", "write", "compose", "draft", "explain", "describe", "say",
])  # fmt: skip
"""Words that requests for the same thing differ by."""
TELLING = frozenset([
    "no", "not", "never", "none", "nor", "neither", "without", "cannot", "except", "excluding", "against", "non",
    "off", "unable", "from", "before", "after", "under", "over", "than", "who", "whom", "whose", "when", "where",
    "why", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "eleven", "twelve", "hundred",
    "thousand", "million", "first", "second", "third", "last",
])  # fmt: skip
"""Words that requests for the same thing do not differ by: negations, directions, other questions, numbers."""
OPPOSITE = re.compile(r"^(?:dis|un|in|im|il|ir|non|mis|anti|de)-?")
"""What turns a word into its opposite."""
JOINED = frozenset({"and", "or", "vs", "versus"})
"""Words whose neighbours may change places."""
ENDING = re.compile(r"(?<=\w{3})(?:['’]s|ings?|ed|es|s|e)$")


def difference(first: str, second: str) -> str | None:
    """Return what tells two instructions apart: None, or a slug.

    * `other_words`: of the text with fewer words of meaning most are not in the other; in another language than English, where
      endings hide the order, any word is not;
    * `other_sense`: a negation, a direction, a number word or a question word that one of them lacks; legal and illegal;
    * `other_order`: the words they share stand in another order, from cats to dogs, but for what "and" or "or" joins;
    * `same_frame`: most words are the same and a word of meaning is not: sort in ascending, in descending order.

    An opposite in other words (gain weight, lose weight) is not seen where most of the other words differ too; of 90 planted
    pairs in other frames or of other kinds four were not, at cosines of 0.90 and less.
    """
    mine, theirs = _meaning(first), _meaning(second)
    shared, alone = mine.keys() & theirs.keys(), mine.keys() ^ theirs.keys()
    least = LEAST_SHARED * min(len(mine), len(theirs))
    if len(shared) < max(1, least) or (alone and not (_is_english(first) and _is_english(second))):
        return "other_words"
    opposite = any(OPPOSITE.sub("", word) in alone for word in alone if OPPOSITE.match(word))
    if opposite or _telling(first) != _telling(second):
        return "other_sense"
    if [word for word in mine if word in shared] != [word for word in theirs if word in shared]:
        return "other_order"
    one, other = set(_words(first)), set(_words(second))
    if alone and len(one & other) >= SAME_FRAME * len(one | other):
        return "same_frame"
    return None


@lru_cache(maxsize=REMEMBERED)
def _words(text: str) -> tuple[str, ...]:
    return tuple(words_and_signs(text))


@lru_cache(maxsize=REMEMBERED)
def _is_english(text: str) -> bool:
    words = _words(text)
    return sum(word in FRAME for word in words) >= ENGLISH * len(words)


@lru_cache(maxsize=REMEMBERED)
def _telling(text: str) -> frozenset[str]:
    words = ("not" if word.endswith(("n't", "n’t")) else word for word in _words(text))
    return frozenset(word for word in words if word in TELLING)


@lru_cache(maxsize=REMEMBERED)
def _meaning(text: str) -> dict[str, None]:
    """Return the words that say what a text is about, without endings, in order; all its words where there are none."""
    words = [ENDING.sub("", word) for word in _words(text) if word not in FRAME] or list(_words(text))
    for at in range(1, len(words) - 1):
        if words[at] in JOINED:
            words[at - 1], words[at + 1] = sorted((words[at - 1], words[at + 1]))
    return dict.fromkeys(word for word in words if word not in JOINED)
