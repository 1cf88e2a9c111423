"""Words, numbers and normal forms of text, for any script."""

import json
import re
import unicodedata
from collections.abc import Hashable, Set
from typing import Any, NoReturn

WORD = re.compile(r"\w+(?:['’\-]\w+)*", re.UNICODE)
SIGNS = "\u3040-\u30ff\u31f0-\u31ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\uff66-\uff9f\U00020000-\U0003134f"
"""Chinese and Japanese."""
WORD_OR_SIGN = re.compile(rf"[{SIGNS}]|[^\W{SIGNS}]+(?:['’\-][^\W{SIGNS}]+)*")
GAP = r"[ \u00a0\u2009\u202f]"
NUMBER = re.compile(
    r"(?:(?<![\w.)\]])[-−])?(?:"  # a minus, unless it joins 10-12, COVID-19 or f(x)-5
    r"(?<!\d)\d{1,3}(?:,\d{3}){1,8}(?!\d)(?:\.\d+)?"
    rf"|(?<!\d)(?<!\d{GAP})\d{{1,3}}(?:{GAP}\d{{3}}){{1,8}}(?!\d)(?:\.\d+)?"
    r"|\d+(?:\.\d+)?"
    r"|(?<![\w.])\.\d+)"
)
_SMALL = [
    "zero",
    "one",
    "two",
    "three",
    "four",
    "five",
    "six",
    "seven",
    "eight",
    "nine",
    "ten",
    "eleven",
    "twelve",
    "thirteen",
    "fourteen",
    "fifteen",
    "sixteen",
    "seventeen",
    "eighteen",
    "nineteen",
]
_TENS = ["twenty", "thirty", "forty", "fifty", "sixty", "seventy", "eighty", "ninety"]
SPELLED = {
    **{word: str(value) for value, word in enumerate(_SMALL)},
    **{word: str(20 + 10 * value) for value, word in enumerate(_TENS)},
    **{
        f"{ten}-{_SMALL[unit]}": str(20 + 10 * value + unit) for value, ten in enumerate(_TENS) for unit in range(1, 10)
    },
}
"""Cardinals in words, up to 99, and their digits."""
LIST_MARK = re.compile(
    r"^[ \t]*+(?:(?:#{1,6}|[>*+•-])[ \t]++)?[*_(]{0,3}(?:\d{1,3}[.):][*_]{0,3}(?=[ \t])|step[ \t]++\d{1,3}\b[.:)]?)",
    re.IGNORECASE | re.MULTILINE,
)


def words(text: str) -> list[str]:
    """Return the words of a text, case-folded; digits and letters of any script count."""
    return [match.casefold() for match in WORD.findall(text)]


def words_and_signs(text: str) -> list[str]:
    """Return the words of a text, case-folded; each sign of Chinese and Japanese, which have no spaces, is a word."""
    return [match.casefold() for match in WORD_OR_SIGN.findall(text)]


def normal_form(text: str) -> str:
    """Return a text in NFKC, case-folded, punctuation as spaces, white space collapsed."""
    folded = unicodedata.normalize("NFKC", text).casefold()
    return " ".join(folded.translate(_PUNCTUATION).split())


class _Punctuation(dict[int, int]):
    """Maps each letter, digit and mark to itself and each other code point to a space; fills itself on first use."""

    def __missing__(self, code: int) -> int:
        char = chr(code)
        self[code] = code if char.isalnum() or unicodedata.category(char).startswith("M") else 32
        return self[code]


_PUNCTUATION = _Punctuation()


def numbers(text: str) -> list[str]:
    """Return the numbers of a text in canonical form, without list numbering: "1,250.50" is "1250.5", "−5" is "-5".

    Numbers are read as in English: "1.000" is 1, and "12,5" is 12 and 5. A space groups digits ("1 000"), so "room 5 200
    guests" has the number 5200. Ranges, dates, exponents and fractions are several numbers: "2024-05-01" is 2024, 5, 1.
    """
    return [_canonical(match) for match in NUMBER.findall(LIST_MARK.sub(" ", text))]


def _canonical(number: str) -> str:
    plain = "".join(str(int(c)) if c.isdecimal() else c for c in number if c == "." or c.isdecimal())
    whole, _, decimals = plain.partition(".")
    value = ".".join(filter(None, (whole.lstrip("0") or "0", decimals.rstrip("0"))))
    return f"-{value}" if number[0] in "-−" and value != "0" else value


def repeat_rate(text: str, n: int = 4) -> float:
    """Return the fraction, in [0, 1], of a text's word n-grams that have occurred before in it."""
    tokens = words(text)
    grams = [tuple(tokens[i : i + n]) for i in range(len(tokens) - n + 1)]
    return 1 - len(set(grams)) / len(grams) if grams else 0.0


def jaccard(one: Set[Hashable], other: Set[Hashable]) -> float:
    """Return the Jaccard similarity of two sets that are not empty, in [0, 1]."""
    common = len(one & other)
    return common / (len(one) + len(other) - common)


def read_json(text: str) -> Any:
    """Return the value of a JSON text; NaN and infinities are not JSON.

    Raises:
        ValueError: The text is not JSON.
        RecursionError: It is nested too deeply.
    """

    def refuse(name: str) -> NoReturn:
        raise ValueError(f"{name} is not JSON")

    return json.loads(text, parse_constant=refuse)


def squash(text: str) -> str:
    """Return a text on one line, white space collapsed."""
    return " ".join(text.split())
