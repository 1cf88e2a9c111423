"""One function per constraint: whether a response obeys it.

Only `core/constraints.py` calls these functions, after it has rejected blank responses and invalid arguments.
"""

import re
from collections.abc import Callable, Mapping
from typing import Any

from kiloset.core.constraint_text import bullets, count_phrase, count_words, folded, language_of, paragraphs, separated
from kiloset.core.sentences import sentences
from kiloset.core.text import WORD, normal_form, read_json

Args = Mapping[str, Any]

OPTIONS = ("My answer is yes.", "My answer is no.", "My answer is maybe.")
"""The options of a constrained response."""
PLACEHOLDER = re.compile(r"\[([^\[\]\n]+)\](?!\()")
HIGHLIGHT = re.compile(r"(?<![*0-9A-Za-z_])(\*{1,3})(?![\s*])[^*\n]*?(?<!\s)\1(?![*0-9A-Za-z_])")
TITLE = re.compile(r"<<([^<>\n]+)>>")
SIX_ASTERISKS = re.compile(r"(?<!\*)\*{6}(?!\*)")
COMMAS = ",،、，﹐﹑︐"
QUOTES = {'"': '"', "“": "”"}


def _has_text(text: str) -> bool:
    return any(c.isalnum() for c in text)


def _within(relation: str, count: int, bound: int) -> bool:
    return count < bound if relation == "less than" else count >= bound


def _existence(response: str, args: Args) -> bool:
    return all(count_phrase(response, keyword) for keyword in args["keywords"])


def _frequency(response: str, args: Args) -> bool:
    return _within(args["relation"], count_phrase(response, args["keyword"]), args["frequency"])


def _forbidden_words(response: str, args: Args) -> bool:
    return not any(count_phrase(response, word) for word in args["forbidden_words"])


def _letter_frequency(response: str, args: Args) -> bool:
    return _within(args["let_relation"], response.lower().count(args["letter"].lower()), args["let_frequency"])


def _response_language(response: str, args: Args) -> bool:
    return language_of(response) == str(args["language"])


def _number_sentences(response: str, args: Args) -> bool:
    return _within(args["relation"], len(sentences(response)), args["num_sentences"])


def _number_paragraphs(response: str, args: Args) -> bool:
    parts = separated(response)
    return all(parts) and len(parts) == args["num_paragraphs"]


def _number_words(response: str, args: Args) -> bool:
    return _within(args["relation"], count_words(response), args["num_words"])


def _nth_paragraph_first_word(response: str, args: Args) -> bool:
    parts = paragraphs(response)
    if len(parts) != args["num_paragraphs"]:
        return False
    first = WORD.search(parts[args["nth_paragraph"] - 1])
    return first is not None and folded(first[0]) == folded(args["first_word"])


def _number_placeholders(response: str, args: Args) -> bool:
    return sum(map(_has_text, PLACEHOLDER.findall(response))) >= int(args["num_placeholders"])


def _postscript(response: str, args: Args) -> bool:
    marker = r"p\.[ ]?s\." if args["postscript_marker"] == "P.S." else r"p\.[ ]?p\.[ ]?s\.?"
    postscript = re.search(rf"^[ \t*_]*+{marker}[\s*_:]*+\w", response, re.MULTILINE | re.IGNORECASE)
    return postscript is not None and _has_text(response[: postscript.start()])


def _number_bullet_lists(response: str, args: Args) -> bool:
    return len(bullets(response)) == int(args["num_bullets"])


def _constrained_response(response: str, _: Args) -> bool:
    return sum(option in response for option in OPTIONS) == 1


def _number_highlighted_sections(response: str, args: Args) -> bool:
    return len(HIGHLIGHT.findall(response)) >= int(args["num_highlights"])


def _multiple_sections(response: str, args: Args) -> bool:
    # IFEval spells this argument `section_spliter`: the word before a section's number, such as SECTION in "SECTION 2".
    heading = rf"^[ \t#*_]*{re.escape(args['section_spliter'].strip())}[ ]?(\d+)\b"
    return len(set(re.findall(heading, response, re.MULTILINE | re.IGNORECASE))) >= int(args["num_sections"])


def _json_format(response: str, _: Args) -> bool:
    text = response.strip()
    opening = text.split("\n", 1)[0]
    if opening.rstrip().lower() in ("```", "```json") and text.endswith("```"):
        text = text[len(opening) :].removesuffix("```")
    try:
        return isinstance(read_json(text), dict | list)
    except (ValueError, RecursionError):
        return False


def _title(response: str, _: Args) -> bool:
    return any(map(_has_text, TITLE.findall(response)))


def _two_responses(response: str, _: Args) -> bool:
    answers = [normal_form(part) for part in SIX_ASTERISKS.split(response)]
    return len(answers) == 2 and all(answers) and answers[0] != answers[1]


def _repeat_prompt(response: str, args: Args) -> bool:
    prompt, text = folded(args["prompt_to_repeat"]), folded(response)
    rest = text[len(prompt) :]
    return text.startswith(prompt) and _has_text(rest) and not (prompt[-1].isalnum() and rest[0].isalnum())


def _end_checker(response: str, args: Args) -> bool:
    text, phrase = folded(response).strip('"“” '), folded(args["end_phrase"]).strip('"“” ')
    before = text[: len(text) - len(phrase)][-1:]
    return bool(phrase) and text.endswith(phrase) and not (before.isalnum() and phrase[0].isalnum())


def _quotation(response: str, _: Args) -> bool:
    text = response.strip()
    return len(text) > 2 and QUOTES.get(text[0]) == text[-1] and _has_text(text)


def _capital_word_frequency(response: str, args: Args) -> bool:
    capitals = sum(word.isupper() and sum(map(str.isalpha, word)) > 1 for word in WORD.findall(response))
    return _within(args["capital_relation"], capitals, args["capital_frequency"])


def _english_capital(response: str, _: Args) -> bool:
    return response.isupper() and language_of(response) == "en"


def _english_lowercase(response: str, _: Args) -> bool:
    return response.islower() and language_of(response) == "en"


def _no_comma(response: str, _: Args) -> bool:
    return not any(comma in response for comma in COMMAS)


CHECKS: dict[str, Callable[[str, Args], bool]] = {
    "keywords:existence": _existence,
    "keywords:frequency": _frequency,
    "keywords:forbidden_words": _forbidden_words,
    "keywords:letter_frequency": _letter_frequency,
    "language:response_language": _response_language,
    "length_constraints:number_sentences": _number_sentences,
    "length_constraints:number_paragraphs": _number_paragraphs,
    "length_constraints:number_words": _number_words,
    "length_constraints:nth_paragraph_first_word": _nth_paragraph_first_word,
    "detectable_content:number_placeholders": _number_placeholders,
    "detectable_content:postscript": _postscript,
    "detectable_format:number_bullet_lists": _number_bullet_lists,
    "detectable_format:constrained_response": _constrained_response,
    "detectable_format:number_highlighted_sections": _number_highlighted_sections,
    "detectable_format:multiple_sections": _multiple_sections,
    "detectable_format:json_format": _json_format,
    "detectable_format:title": _title,
    "combination:two_responses": _two_responses,
    "combination:repeat_prompt": _repeat_prompt,
    "startend:end_checker": _end_checker,
    "startend:quotation": _quotation,
    "change_case:capital_word_frequency": _capital_word_frequency,
    "change_case:english_capital": _english_capital,
    "change_case:english_lowercase": _english_lowercase,
    "punctuation:no_comma": _no_comma,
}
