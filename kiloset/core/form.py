"""The form of an answer: its surface, apart from its content.

Z. Li et al. ("SCAR: Data Selection via Style Consistency-Aware Response Ranking for Efficient Instruction-Tuning of
Large Language Models", ACL 2025, arXiv:2406.10882) call this *linguistic form* and find that a model learns more from answers
with the same form. They train a ranker on it; we only count, without a model, and report the spread. So this is SCAR-style,
not SCAR.

Words are divided at spaces and punctuation, so Chinese, Japanese and Thai give few, long "words".
"""

import math
import re
import unicodedata

from kiloset.core.sentences import sentences_of_lines
from kiloset.core.text import words

FORM_COLUMNS = (
    "log_words",
    "type_token_ratio",
    "sentence_words",
    "punctuation_rate",
    "list_lines",
    "heading",
    "code_fence",
    "function_word_rate",
)
"""The columns of a form vector, in the order in which `form_of` returns them."""

TYPE_TOKEN_WORDS = 100
"""The type-token ratio is that of the first 100 words: over a whole text it falls with length (Heaps' law)."""

FUNCTION_WORDS = frozenset(
    words("""
    a about above after again against all although am among an and any are as at be because been before being below
    between both but by can could did do does doing down during each either few for from further had has have having he
    her here hers herself him himself his how however i if in into is it its itself just may me might more most must my
    myself neither no nor not of off on once only or other our ours ourselves out over own per same shall she should
    since so some such than that the their theirs them themselves then there therefore these they this those though
    through thus to too under unless until up upon us very was we were what when where whereas whether which while who
    whom whose why will with within without would yet you your yours yourself yourselves
    """)
)
"""English words that carry grammar, not content; words of other languages match only by accident."""

LIST_LINE = re.compile(r"[ \t]*+(?:[-*+•]|\(?(?:\d{1,3}|[a-z])[.)])[ \t]", re.IGNORECASE)
HEADING_LINE = re.compile(r"^ {0,3}#{1,6} ", re.MULTILINE)
FENCE_LINE = re.compile(r"^[ \t]*+(?:```|~~~)", re.MULTILINE)


def form_of(text: str) -> dict[str, float]:
    """Return the form vector of an answer, in the order of `FORM_COLUMNS`.

    `log_words`: natural logarithm of one plus the words. `type_token_ratio`: distinct words over words, of the first
    100. `sentence_words`: mean words per sentence; the end of a line ends a sentence. `punctuation_rate`: punctuation
    characters per word. `list_lines`: fraction of the lines with text that are list items. `heading`, `code_fence`:
    1 if there is a Markdown heading or a code fence, else 0. `function_word_rate`: fraction of the words that are
    English function words; for other languages a constant, about 0. A text without words has 0 in every rate.
    """
    tokens = words(text)
    total = max(len(tokens), 1)
    first = tokens[:TYPE_TOKEN_WORDS]
    sentences = [count for count in (len(words(piece)) for piece in sentences_of_lines(text)) if count]
    lines = [line for line in text.split("\n") if line.strip()]
    return {
        "log_words": math.log1p(len(tokens)),
        "type_token_ratio": len(set(first)) / max(len(first), 1),
        "sentence_words": sum(sentences) / max(len(sentences), 1),
        "punctuation_rate": sum(unicodedata.category(c).startswith("P") for c in text) / total if tokens else 0.0,
        "list_lines": sum(bool(LIST_LINE.match(line)) for line in lines) / max(len(lines), 1),
        "heading": float(bool(HEADING_LINE.search(text))),
        "code_fence": float(bool(FENCE_LINE.search(text))),
        "function_word_rate": sum(token in FUNCTION_WORDS for token in tokens) / total,
    }


def opening(text: str) -> str:
    """Return the first three words of a text, case-folded."""
    return " ".join(words(text)[:3])
