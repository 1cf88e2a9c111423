"""Compare the words of two instructions whose embeddings are close: are they paraphrases or different tasks?

An embedding represents a text's topic and hardly its direction, its negation or the word that fills a frame. all-MiniLM-L6-v2
gives "feet to meters" and "meters to feet" a cosine of 0.993, "arguments for" and "against" 0.972, and any two Thai texts 1.000,
because its vocabulary has no Thai; eight of sixty paraphrases reach 0.95. So a cosine proposes a pair, and words decide. The word
lists are English: in other languages more pairs count as different, and no more as paraphrases.
"""

import re
from functools import lru_cache

from kiloset.core.text import words_and_signs

REMEMBERED = 8192
"""Texts whose words are cached."""
SAME_FRAME = 0.5
"""Jaccard similarity of words from which texts share a frame; the word in which they differ is then their topic. Planted pairs
that differ in one word have 0.56 or more; paraphrases at a cosine of 0.95 that differ in a content word have 0.45 or less."""
LEAST_SHARED = 0.5
"""Fraction of the content words of the text with fewer content words that the other text must share."""
ENGLISH = 0.25
"""Fraction of words in `FRAME` from which a text counts as English."""
FRAME = frozenset([
    "a", "an", "the", "this", "that", "these", "those", "it", "its", "i", "me", "my", "we", "us", "our", "you",
    "your", "one", "some", "any", "there", "is", "are", "was", "were", "be", "been", "being", "am", "do", "does",
    "did", "can", "could", "should", "would", "will", "shall", "may", "might", "must", "have", "has", "had",
    "what", "which", "how", "in", "on", "at", "of", "for", "to", "by", "with", "using", "use", "as", "about",
    "please", "help", "tell", "give", "write", "compose", "draft", "explain", "describe", "say",
])  # fmt: skip
"""Words in which paraphrases may differ."""
DECISIVE = frozenset([
    "no", "not", "never", "none", "nor", "neither", "without", "cannot", "except", "excluding", "against", "non",
    "off", "unable", "from", "before", "after", "under", "over", "than", "who", "whom", "whose", "when", "where",
    "why", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "eleven", "twelve", "hundred",
    "thousand", "million", "first", "second", "third", "last",
])  # fmt: skip
"""Words in which paraphrases do not differ: negations, directions, question words, numbers."""
OPPOSITE = re.compile(r"^(?:dis|un|in|im|il|ir|non|mis|anti|de)-?")
"""Prefixes that turn a word into its opposite."""
JOINED = frozenset({"and", "or", "vs", "versus"})
"""Words whose neighbours may be exchanged."""
ENDING = re.compile(r"(?<=\w{3})(?:['’]s|ings?|ed|es|s|e)$")


def difference(first: str, second: str) -> str | None:
    """Return how two instructions differ, as a slug, or None if they are paraphrases.

    * `other_words`: the other text lacks most content words of the text with fewer content words; in other languages than
      English, where endings hide the order, it lacks any word;
    * `other_sense`: one text lacks a negation, direction, number word or question word of the other; legal and illegal;
    * `other_order`: the shared words have another order ("cats to dogs"), except around "and" and "or";
    * `same_frame`: most words are the same and a content word is not: sort in ascending, in descending order.

    An opposite in other words (gain weight, lose weight) is not detected if most of the other words differ too. Four of 90
    planted pairs in other frames or of other kinds were not detected, at cosines of 0.90 and less.
    """
    mine, theirs = _content(first), _content(second)
    shared, alone = mine.keys() & theirs.keys(), mine.keys() ^ theirs.keys()
    least = LEAST_SHARED * min(len(mine), len(theirs))
    if len(shared) < max(1, least) or (alone and not (_is_english(first) and _is_english(second))):
        return "other_words"
    opposite = any(OPPOSITE.sub("", word) in alone for word in alone if OPPOSITE.match(word))
    if opposite or _decisive(first) != _decisive(second):
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
def _decisive(text: str) -> frozenset[str]:
    words = ("not" if word.endswith(("n't", "n’t")) else word for word in _words(text))
    return frozenset(word for word in words if word in DECISIVE)


@lru_cache(maxsize=REMEMBERED)
def _content(text: str) -> dict[str, None]:
    """Return the content words of a text without endings, in order, or all its words if it has no content word."""
    words = [ENDING.sub("", word) for word in _words(text) if word not in FRAME] or list(_words(text))
    for at in range(1, len(words) - 1):
        if words[at] in JOINED:
            words[at - 1], words[at + 1] = sorted((words[at - 1], words[at + 1]))
    return dict.fromkeys(word for word in words if word not in JOINED)
