"""Purely formal edits of an answer that make it keep its constraints.

Each edit cuts, rearranges or marks what the model itself wrote, or adds a form that was asked for to the letter: an end
phrase, the repeated request, section heads, a title of the answer's own words. Nothing else is invented; the words of a
postscript are the answer's last sentence. All constraints are checked again afterwards, and an answer that lost more than
half of its words is given up. No edit can add keywords, words or sentences. Text with a code fence is only added to.
"""

import json
import re
from collections import Counter
from collections.abc import Callable, Sequence
from itertools import pairwise

from kiloset.core.constraint_checks import HIGHLIGHT, OPTIONS
from kiloset.core.constraint_text import paragraphs, sentence_spans, sentences, separated
from kiloset.core.constraints import check, validate
from kiloset.core.form import FUNCTION_WORDS
from kiloset.core.text import WORD, squash, words
from kiloset.generator.commas import without_commas
from kiloset.generator.cuts import (
    LIST_MARK,
    WHOLE,
    Args,
    drop_forbidden,
    drop_surplus,
    keep_first_sentences,
    keep_first_words,
)

LEAST_WORDS = 3
"""Fewest words a cut answer may have."""
MOST_LOST = 0.5
"""Largest share of the answer's words that edits may cost it."""
LEAST_SENTENCES = 3
"""Fewest sentences of which the last may become a postscript."""
TITLE_WORDS = 2
"""Words of a title, of the answer's own."""
CONTENT_WORD = re.compile(r"(?<![\w*'’-])[A-Za-z]{3,}(?![\w*'’-])")
POLE = re.compile(r"\A\W*(yes|no|maybe)\b(?:[,.!;:]|[ ]*[–—-]|\Z)\s*", re.IGNORECASE)


def make_pass(constraints: Sequence[tuple[str, Args]], response: str) -> tuple[str, tuple[str, ...]] | None:
    """Return the response edited to keep all of its constraints, and the names of the edits, in the order applied.

    A response that keeps them is returned as it is, with (). None where the edits do not suffice or cost too much.

    Raises:
        DataError: An id is unknown or the arguments are not its own.
    """
    for id, args in constraints:
        validate(id, args)
    if all(check(id, args, response) for id, args in constraints):
        return response, ()
    text, applied = response.strip(), []
    for id, name, edit in EDITS:
        for args in (args for other, args in constraints if other == id):
            if text and not check(id, args, text) and (name in ADDING or "```" not in text):
                edited = edit(text, args)
                if edited is not None and edited != text:
                    text = edited
                    applied.append(name)
    kept = all(check(id, args, text) for id, args in constraints)
    return (text, tuple(applied)) if applied and kept and not _too_much_lost(response, text) else None


def _too_much_lost(before: str, after: str) -> bool:
    """Tell whether words are gone, and with them more than half of the answer or all but two words."""
    said = _said(before)
    lost = (said - _said(after)).total()
    return lost > 0 and (lost > MOST_LOST * said.total() or said.total() - lost < LEAST_WORDS)


def _said(text: str) -> Counter[str]:
    """Count words, those of 1,000 as of 1000, and those of JSON as of its text."""
    return Counter(words(re.sub(r"(?<=\d),(?=\d)", "", text.replace("\\n", " "))))


def _state_option(text: str, _: Args) -> str | None:
    found = POLE.match(text)
    rest = text[found.end() :] if found else ""
    if not found or any(option in text for option in OPTIONS):
        return None
    return f"My answer is {found[1].lower()}. {rest[:1].upper()}{rest[1:]}".strip()


def _to_bullets(text: str, args: Args) -> str | None:
    """Turn list items, or else the sentences in even groups, into the bullets asked for."""
    listed = [line for line in text.split("\n") if LIST_MARK.match(line)]
    if listed:
        return LIST_MARK.sub("* ", text) if len(listed) == args["num_bullets"] else None
    said = sentences(text)
    groups = [] if any(sentence.endswith(":") for sentence in said) else _groups(said, int(args["num_bullets"]))
    return "\n".join(f"* {squash(' '.join(group))}" for group in groups) or None


def _groups(pieces: Sequence[str], count: int) -> list[Sequence[str]]:
    """Divide pieces, in order, into `count` groups whose sizes differ by at most one; [] where there are too few."""
    bounds = [len(pieces) * number // count for number in range(count + 1)]
    return [pieces[start:end] for start, end in pairwise(bounds)] if len(pieces) >= count else []


def _parts(text: str, count: int) -> list[str]:
    """Divide a text into `count` parts at its empty lines or, where these are too few and it is no list, at sentences."""
    blocks = [block for part in separated(text) for block in paragraphs(part)]
    if len(blocks) >= count:
        return ["\n\n".join(group) for group in _groups(blocks, count)]
    said = [] if LIST_MARK.search(text) else [sentence for block in blocks for sentence in sentences(block)]
    return [squash(" ".join(group)) for group in _groups(said, count)]


def _split_paragraphs(text: str, args: Args) -> str | None:
    parts = _parts(text, int(args["num_paragraphs"]))
    return "\n\n***\n\n".join(parts) or None


def _add_section_heads(text: str, args: Args) -> str | None:
    parts = _parts(text, int(args["num_sections"]))
    head = args["section_spliter"].strip()
    return "\n\n".join(f"{head} {number}\n{part}" for number, part in enumerate(parts, 1)) or None


def _highlight_sentences(text: str, args: Args) -> str | None:
    """Put asterisks around the first sentences that stand on one line without any; None where none would be left plain."""
    missing = int(args["num_highlights"]) - len(HIGHLIGHT.findall(text))
    plain = [
        (start + (mark.end() if (mark := LIST_MARK.match(text[start:end])) else 0), end)
        for start, end in sentence_spans(text)
        if not re.search(r"[*\n]", LIST_MARK.sub("", text[start:end]))
    ]
    return _marked(text, plain[:missing]) if len(plain) > missing else None


def _highlight_words(text: str, args: Args) -> str:
    """Put asterisks around the first occurrence of content words, the longest first."""
    missing = int(args["num_highlights"]) - len(HIGHLIGHT.findall(text))
    return _marked(text, sorted(match.span() for match in _content_words(text)[:missing]))


def _marked(text: str, spans: Sequence[tuple[int, int]]) -> str:
    for start, end in reversed(spans):
        text = f"{text[:start]}*{text[start:end]}*{text[end:]}"
    return text


def _content_words(text: str) -> list[re.Match[str]]:
    """Return where distinct content words, not in capitals and not beside an asterisk, first occur; the longest first."""
    found: dict[str, re.Match[str]] = {}
    for match in CONTENT_WORD.finditer(text):
        if not match[0].isupper() and match[0].lower() not in FUNCTION_WORDS:
            found.setdefault(match[0].lower(), match)
    return sorted(found.values(), key=lambda match: (-len(match[0]), match.start()))


def _capitalise_words(text: str, args: Args) -> str | None:
    """Put content words in capitals where they first occur, the longest first."""
    if args["capital_relation"] == "less than":
        return None
    there = sum(word.isupper() and sum(map(str.isalpha, word)) > 1 for word in WORD.findall(text))
    for match in _content_words(text)[: int(args["capital_frequency"]) - there]:
        text = text[: match.start()] + match[0].upper() + text[match.end() :]
    return text


def _repeat_prompt_first(text: str, args: Args) -> str:
    return f"{args['prompt_to_repeat'].strip()}\n\n{text}"


def _add_title(text: str, _: Args) -> str | None:
    """Head the text with its commonest content words, the earlier of equals, in the order in which they come."""
    counts = Counter(word for word in words(text) if word.isalpha() and len(word) > 3 and word not in FUNCTION_WORDS)
    named = [word for word, _ in counts.most_common(TITLE_WORDS)]
    title = " and ".join(word.capitalize() for word in counts if word in named)
    return f"<<{title}>>\n\n{text}" if title else None


def _add_postscript(text: str, args: Args) -> str | None:
    """Set the last of at least three sentences, if it is no list item, apart as the postscript."""
    spans = sentence_spans(text)
    if len(spans) < LEAST_SENTENCES or LIST_MARK.match(text[spans[-1][0] :]) or not WHOLE.search(text[: spans[-2][1]]):
        return None
    marker = args["postscript_marker"]
    return f"{text[: spans[-1][0]].rstrip()}\n\n{marker.rstrip('.')}. {text[spans[-1][0] :]}"


def _append_end_phrase(text: str, args: Args) -> str:
    return f"{text}\n\n{args['end_phrase'].strip()}"


def _wrap_in_json(text: str, _: Args) -> str:
    lines = [line for line in text.split("\n") if line.strip()]
    items = [LIST_MARK.sub("", line).strip() for line in lines if LIST_MARK.match(line)]
    answer = items if len(items) == len(lines) > 1 else text
    return json.dumps({"answer": answer}, ensure_ascii=False)


def _quote_whole(text: str, _: Args) -> str:
    """Put the text in double quotes; those inside become single."""
    return '"' + text.replace('"', "'") + '"'


EDITS: tuple[tuple[str, str, Callable[[str, Args], str | None]], ...] = (
    ("keywords:forbidden_words", "drop_sentences_with_forbidden_words", drop_forbidden),
    ("keywords:frequency", "drop_sentences_with_surplus_keyword", drop_surplus),
    ("length_constraints:number_sentences", "keep_first_sentences", keep_first_sentences),
    ("length_constraints:number_words", "keep_first_words", keep_first_words),
    ("detectable_format:constrained_response", "state_option", _state_option),
    ("detectable_format:number_bullet_lists", "to_bullets", _to_bullets),
    ("length_constraints:number_paragraphs", "split_paragraphs", _split_paragraphs),
    ("detectable_format:multiple_sections", "add_section_heads", _add_section_heads),
    ("punctuation:no_comma", "remove_commas", lambda text, _: without_commas(text)),
    ("detectable_content:postscript", "add_postscript", _add_postscript),
    ("detectable_format:number_highlighted_sections", "highlight_sentences", _highlight_sentences),
    ("detectable_format:number_highlighted_sections", "highlight_words", _highlight_words),
    ("change_case:capital_word_frequency", "capitalise_words", _capitalise_words),
    ("startend:end_checker", "append_end_phrase", _append_end_phrase),
    ("detectable_format:title", "add_title", _add_title),
    ("combination:repeat_prompt", "repeat_prompt_first", _repeat_prompt_first),
    ("change_case:english_lowercase", "lower_case", lambda text, _: text.lower()),
    ("change_case:english_capital", "upper_case", lambda text, _: text.upper()),
    ("detectable_format:json_format", "wrap_in_json", _wrap_in_json),
    ("startend:quotation", "quote_whole", _quote_whole),
)
"""The constraint an edit is for, its name and itself, in the order in which they do not undo each other: cut, arrange,
mark, add, change case, wrap."""
ADDING = frozenset({"add_postscript", "append_end_phrase", "add_title", "repeat_prompt_first"})
"""What may be done to a text that holds code."""
