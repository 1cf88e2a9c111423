"""English sentences without their commas."""

import re

from kiloset.core.constraint_text import sentence_spans

ITEM = (
    r"(?!(?:in|on|at|by|for|of|to|from|with|as|if|when|while|after|before|during|since|although|because|however|yes|no|well"
    r"|first|then|next|finally|so|but|and|or)\b)[\w'’-]+(?: [\w'’-]+)?"
)
"""One or two words of a series, not the opening of a sentence."""
SERIES = re.compile(rf"(?<![\w'’-])(?:{ITEM}, ){{1,12}}{ITEM},? (and|or) ", re.IGNORECASE)
INTRODUCED = re.compile(
    r"(?:\A|[.!?]\s|\n)\W*(?:in|on|at|by|for|of|to|from|with|during|since|after|before|until|like|unlike)(?: the| a| an)? \Z",
    re.IGNORECASE,
)
"""What makes the first item of an apparent series the end of a sentence's opening, as in "In May, cats and dogs run"."""
BEFORE_LINK = re.compile(
    r", (?=(?:and|or|but|nor|so|yet|which|who|whose|where|when|while|because|as|if|though|although|since|including|such|for"
    r"|with|to|then|not|even|especially)\b)"
)
AT_END = re.compile(r",(?=[\"'”’*_]*[ \t]*(?:\n|\Z)|[\"'”’*_]+\s)")
"""At the end of a line, or within a closing quotation mark."""
OPENING_WORDS = 5
"""How far into a sentence a comma may go without a trace."""
MOST_DASHES = 4
"""So many commas may become dashes; a text that needs more would no longer read well."""


def without_commas(text: str) -> str | None:
    """Return an English text with its commas left out or replaced, or None where too many dashes would be needed.

    Thousands are joined; a series gets its conjunction throughout ("a and b and c"); a comma before a year, before a
    conjunction, at the end of a line and soon after the beginning of a sentence goes; any other becomes a dash. A comma
    without a space after it, as in `f(x,y)`, and one between numbers, as in (3, 4), stay.
    """
    text = re.sub(r"(?<=\d),(?=\d{3}(?!\d))", "", text)
    text = re.sub(r"(?<=\d), (?=\d{4}\b)", " ", text)
    text = SERIES.sub(_spelled_out, text)
    text = AT_END.sub("", BEFORE_LINK.sub(" ", text))
    dashes = 0
    for start, end in reversed(sentence_spans(text)):
        sentence = text[start:end]
        for found in reversed(list(re.finditer(r"(?<!\d), |, (?!\d)", sentence))):
            late = len(sentence[: found.start()].split()) > OPENING_WORDS
            dashes += late
            sentence = sentence[: found.start()] + (" – " if late else " ") + sentence[found.end() :]
        text = text[:start] + sentence + text[end:]
    return text if dashes <= MOST_DASHES else None


def _spelled_out(series: re.Match[str]) -> str:
    if INTRODUCED.search(series.string[max(0, series.start() - 30) : series.start()]):
        return series[0]
    return re.sub(r",? (?:and|or) \Z|, ", f" {series[1]} ", series[0], flags=re.IGNORECASE)
