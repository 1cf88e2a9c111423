"""Constraints that a program can verify, with the ids and argument names of IFEval.

Zhou et al., "Instruction-Following Evaluation for Large Language Models", 2023, arXiv:2311.07911: all 25 of its
constraints, with its strict and its loose check. Our own implementation, so that generation, the rewrite gate, the rules and
the evaluation share one definition. Departures:

* A blank response fails every constraint. Unknown ids and arguments that are missing, superfluous or out of range raise;
  nothing is filled in at random. A text without a recognisable language fails (in IFEval it passes).
* py3langid detects languages, not langdetect, whose results vary from call to call; capitals are lowered first. Rules divide
  sentences, not NLTK (see `core/sentences.py`).
* Keywords are literal whole words in any case, not patterns; a keyword may be a phrase.
* JSON is an object or array (not `5`, not `NaN`), in at most one code fence.
* A constrained response contains exactly one of the three options; a repeated prompt has an answer after it; an end phrase
  consists of whole words; exactly six asterisks separate two responses, which differ in more than punctuation.
* A postscript begins a line below other text and has text itself. A bullet has a space and text after its mark. A placeholder
  contains a word and is not a link. Asterisks of a highlight touch the enclosed text. Section heads begin a line, in any case,
  with distinct numbers. Paragraph separators have a line of their own.
* First words are read without quotes, list marks and emphasis. Words in capitals have at least two letters (not "I" and
  "A"). Commas of other scripts count, and curly quotes are quotes.

Words are runs of letters and digits as in IFEval, so a Chinese clause is one word.
"""

import json
import unicodedata
from collections.abc import Callable, Iterable, Mapping
from difflib import get_close_matches
from itertools import product
from typing import Any

from kiloset.core.constraint_checks import CHECKS
from kiloset.core.errors import DataError
from kiloset.core.text import WORD, words

IDS: tuple[str, ...] = tuple(CHECKS)
"""The ids, in the order of the paper's table."""
LARGEST = 10_000
"""Largest value of a numeric argument; no answer has so many words, letters or sections."""
LANGUAGES = frozenset(
    words("ar bg bn de en es fa fi fr gu he hi it ja kn ko ml mr ne pa pl pt ru sw ta te th uk ur vi")
)
"""Languages that a constraint may require: IFEval's."""


def check(id: str, args: Mapping[str, Any], response: str) -> bool:
    """Return whether a response obeys a constraint; a blank response obeys none.

    Raises:
        DataError: The id is unknown or the arguments are not its own.
    """
    validate(id, args)
    text = unicodedata.normalize("NFC", response)
    return any(c.isprintable() and not c.isspace() for c in text) and CHECKS[id](text, args)


def check_loose(id: str, args: Mapping[str, Any], response: str) -> bool:
    """Return whether any of IFEval's 8 variants obeys: with or without asterisks, first line and last line.

    Raises:
        DataError: The id is unknown or the arguments are not its own.
    """
    lines = response.split("\n")
    cuts = [response, *("\n".join(part).strip() for part in (lines[1:], lines[:-1], lines[1:-1]))]
    variants = dict.fromkeys(cut.replace(*removed) for cut, removed in product(cuts, [("", ""), ("*", "")]))
    return any(check(id, args, variant) for variant in variants)


def failing(constraints: Iterable[Mapping[str, str]], response: str) -> list[str]:
    """Return, in order, the ids of a row's constraints (`kiloset.core.table.CONSTRAINT`) that its response breaks.

    Raises:
        DataError: An id is unknown, or arguments are not the text of a JSON object or not the constraint's own.
    """
    return [row["id"] for row in constraints if not check(row["id"], _read(row), response)]


def validate(id: str, args: Mapping[str, Any]) -> None:
    """Check the id and the arguments of a constraint.

    Raises:
        DataError: The id is unknown, or an argument is missing, superfluous, of the wrong type or out of range.
    """
    if not isinstance(id, str) or id not in ARGS:
        nearest = get_close_matches(str(id), IDS, n=1, cutoff=0.0)[0]
        raise DataError("KS014", f"constraint {_short(id)}: no such id; did you mean {nearest!r}?")
    known = ARGS[id]
    if not isinstance(args, Mapping):
        raise DataError("KS015", f"constraint {id}: arguments must be an object, got {_short(args)}")
    if missing := [name for name in known if name not in args]:
        raise DataError("KS016", f"constraint {id}: {missing[0]} is missing")
    if superfluous := [name for name in args if name not in known]:
        raise DataError(
            "KS017", f"constraint {id}: no argument {_short(superfluous[0])}; it takes {', '.join(known) or 'none'}"
        )
    for name, allowed in known.items():
        if fault := allowed(args[name]):
            raise DataError("KS018", f"constraint {id}: {name} must be {fault}, got {_short(args[name])}")
    if "nth_paragraph" in known and args["nth_paragraph"] > args["num_paragraphs"]:
        raise DataError(
            "KS019",
            f"constraint {id}: nth_paragraph must be at most num_paragraphs = {args['num_paragraphs']}, "
            f"got {args['nth_paragraph']}",
        )
    if id in _NONE_IS_BLANK and args["relation"] == "less than" and args[_NONE_IS_BLANK[id]] < 2:
        raise DataError("KS020", f"constraint {id}: less than 1 leaves only the blank response, which fails")


def _read(row: Mapping[str, str]) -> Any:
    try:
        return json.loads(row["args"])
    except (ValueError, TypeError, RecursionError):
        raise DataError("KS021", f"constraint {row['id']}: args is not JSON text: {_short(row['args'])}") from None


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 80 else f"{text[:77]}..."


def _number(value: Any) -> str:
    whole = isinstance(value, int) and not isinstance(value, bool)
    return "" if whole and 1 <= value <= LARGEST else f"a whole number from 1 to {LARGEST}"


def _relation(value: Any) -> str:
    return "" if value in ("less than", "at least") else "'less than' or 'at least'"


def _text(value: Any) -> str:
    return "" if isinstance(value, str) and any(c.isalnum() for c in value) else "text with a letter or digit"


def _texts(value: Any) -> str:
    good = isinstance(value, list | tuple) and len(value) > 0 and not any(map(_text, value))
    return "" if good else "a list, not empty, of texts with a letter or digit"


def _letter(value: Any) -> str:
    good = isinstance(value, str) and len(value) == len(value.lower()) == 1 and value.isprintable() and value != " "
    return "" if good else "one visible character"


def _word(value: Any) -> str:
    return "" if isinstance(value, str) and WORD.fullmatch(value) else "one word"


def _language(value: Any) -> str:
    return "" if isinstance(value, str) and value in LANGUAGES else f"one of {', '.join(sorted(LANGUAGES))}"


def _marker(value: Any) -> str:
    return "" if value in ("P.S.", "P.P.S", "P.P.S.") else "'P.S.' or 'P.P.S'"


ARGS: dict[str, dict[str, Callable[[Any], str]]] = {
    "keywords:existence": {"keywords": _texts},
    "keywords:frequency": {"relation": _relation, "keyword": _text, "frequency": _number},
    "keywords:forbidden_words": {"forbidden_words": _texts},
    "keywords:letter_frequency": {"let_relation": _relation, "letter": _letter, "let_frequency": _number},
    "language:response_language": {"language": _language},
    "length_constraints:number_sentences": {"relation": _relation, "num_sentences": _number},
    "length_constraints:number_paragraphs": {"num_paragraphs": _number},
    "length_constraints:number_words": {"relation": _relation, "num_words": _number},
    "length_constraints:nth_paragraph_first_word": {
        "num_paragraphs": _number, "nth_paragraph": _number, "first_word": _word,
    },
    "detectable_content:number_placeholders": {"num_placeholders": _number},
    "detectable_content:postscript": {"postscript_marker": _marker},
    "detectable_format:number_bullet_lists": {"num_bullets": _number},
    "detectable_format:constrained_response": {},
    "detectable_format:number_highlighted_sections": {"num_highlights": _number},
    "detectable_format:multiple_sections": {"section_spliter": _text, "num_sections": _number},
    "detectable_format:json_format": {},
    "detectable_format:title": {},
    "combination:two_responses": {},
    "combination:repeat_prompt": {"prompt_to_repeat": _text},
    "startend:end_checker": {"end_phrase": _text},
    "startend:quotation": {},
    "change_case:capital_word_frequency": {"capital_relation": _relation, "capital_frequency": _number},
    "change_case:english_capital": {},
    "change_case:english_lowercase": {},
    "punctuation:no_comma": {},
}  # fmt: skip
"""The arguments of each id; each function returns "" for a valid value, or else what the value must be."""
_NONE_IS_BLANK = {
    "length_constraints:number_sentences": "num_sentences",
    "length_constraints:number_words": "num_words",
}
"""Counts that are 0 only in a blank response."""
