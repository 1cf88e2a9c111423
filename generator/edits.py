"""Formal edits that make a response satisfy its constraints.

An edit cuts, rearranges or marks what the model wrote, or adds a form that the constraint prescribes: an end phrase, the
repeated request, section headings, a title of the response's own words, or a postscript made of its last sentence. No edit
adds keywords, words or sentences. All constraints are checked again after the edits. A response that lost more than half of
its words is rejected. A response with a code fence gets additions only.
"""

import json
import re
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from itertools import pairwise
from typing import Any

from kiloset.core.constraint_checks import HIGHLIGHT, OPTIONS
from kiloset.core.constraint_text import count_phrase, count_words, paragraphs, separated
from kiloset.core.constraints import check, validate
from kiloset.core.form import FUNCTION_WORDS
from kiloset.core.sentences import sentence_spans, sentences
from kiloset.core.text import WORD, squash, words

Args = Mapping[str, Any]

LEAST_WORDS = 3
"""Smallest number of words in a response after cuts."""
MOST_LOST = 0.5
"""Largest fraction of the response's words that the edits may remove."""
LEAST_SENTENCES = 3
"""Smallest number of sentences of which the last may become a postscript."""
TITLE_WORDS = 2
"""Number of words in a title."""
OPENING_WORDS = 5
"""A comma after at most this many words of a sentence is removed; a later one becomes a dash."""
MOST_DASHES = 4
"""Largest number of commas that may become dashes: more are hard to read."""
CONTENT_WORD = re.compile(r"(?<![\w*'’-])[A-Za-z]{3,}(?![\w*'’-])")
POLE = re.compile(r"\A\W*(yes|no|maybe)\b(?:[,.!;:]|[ ]*[–—-]|\Z)\s*", re.IGNORECASE)
LIST_MARK = re.compile(r"^[ \t]*(?:[-*+•]|\(?\d{1,3}[.)])[ \t]+", re.MULTILINE)
NUMBERED = re.compile(r"^[ \t]*\(?\d{1,3}[.)][ \t]", re.MULTILINE)
REFERS_BACK = re.compile(
    r"(?:[-*+•][ \t]+)?(?:it|its|this|that|these|those|they|their|he|she|such|however|therefore|thus|hence|so|but|and|also|then"
    r"|for example|instead|otherwise|as a result|in addition|additionally|furthermore|moreover)\b",
    re.IGNORECASE,
)
"""Beginnings of a sentence that refer to the sentence before."""
WHOLE = re.compile(r"[.!?…][\"'”’)\]*_]*\Z")
"""The end of a complete sentence."""
ITEM = (
    r"(?!(?:in|on|at|by|for|of|to|from|with|as|if|when|while|after|before|during|since|although|because|however|yes|no|well"
    r"|first|then|next|finally|so|but|and|or)\b)[\w'’-]+(?: [\w'’-]+)?"
)
"""One or two words of a series, without words that begin a sentence."""
SERIES = re.compile(rf"(?<![\w'’-])(?:{ITEM}, ){{1,12}}{ITEM},? (and|or) ", re.IGNORECASE)
SENTENCE_OPENING = re.compile(
    r"(?:\A|[.!?]\s|\n)\W*(?:in|on|at|by|for|of|to|from|with|during|since|after|before|until|like|unlike)(?: the| a| an)? \Z",
    re.IGNORECASE,
)
"""Text before an apparent series whose first item ends the opening of the sentence, as in "In May, cats and dogs run"."""
BEFORE_LINK = re.compile(
    r", (?=(?:and|or|but|nor|so|yet|which|who|whose|where|when|while|because|as|if|though|although|since|including|such|for"
    r"|with|to|then|not|even|especially)\b)"
)
AT_LINE_END = re.compile(r",(?=[\"'”’*_]*[ \t]*(?:\n|\Z)|[\"'”’*_]+\s)")
"""A comma at the end of a line or before a closing quotation mark."""


def edit_to_satisfy(constraints: Sequence[tuple[str, Args]], response: str) -> tuple[str, tuple[str, ...]] | None:
    """Return the edited response, which satisfies all of its constraints, and the names of the edits in their order.

    A response that already satisfies them is returned unchanged, with (). None where the edits do not suffice or remove too
    much.

    Raises:
        DataError: An id is unknown, or the arguments do not belong to it.
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
    satisfied = all(check(id, args, text) for id, args in constraints)
    return (text, tuple(applied)) if applied and satisfied and not _loses_too_much(response, text) else None


def _loses_too_much(before: str, after: str) -> bool:
    """Return whether words are gone, and with them more than half of the response or all but two words."""
    total = _word_counts(before)
    lost = (total - _word_counts(after)).total()
    return lost > 0 and (lost > MOST_LOST * total.total() or total.total() - lost < LEAST_WORDS)


def _word_counts(text: str) -> Counter[str]:
    """Count words; "1,000" counts as "1000", and JSON as its text."""
    return Counter(words(re.sub(r"(?<=\d),(?=\d)", "", text.replace("\\n", " "))))


def _drop_forbidden(text: str, args: Args) -> str | None:
    return _drop_sentences(text, lambda sentence: any(count_phrase(sentence, word) for word in args["forbidden_words"]))


def _drop_surplus(text: str, args: Args) -> str | None:
    """Remove the sentences that bring a keyword to its bound or above."""
    if args["relation"] == "at least":
        return None
    kept = 0

    def exceeds(sentence: str) -> bool:
        nonlocal kept
        count = count_phrase(sentence, args["keyword"])
        exceeds = count > 0 and kept + count >= args["frequency"]
        kept += 0 if exceeds else count
        return exceeds

    return _drop_sentences(text, exceeds)


def _keep_first_sentences(text: str, args: Args) -> str | None:
    return _beginning(text, args, lambda number, _: number < int(args["num_sentences"]))


def _keep_first_words(text: str, args: Args) -> str | None:
    return _beginning(text, args, lambda _, piece: count_words(piece) < int(args["num_words"]))


def _drop_sentences(text: str, banned: Callable[[str], bool]) -> str | None:
    """Remove sentences; None in a numbered list, and where the next sentence refers to a removed one."""
    if NUMBERED.search(text):
        return None
    kept, end, removed = "", 0, False
    for start, stop in sentence_spans(text):
        sentence, follows_removed = text[start:stop], removed
        removed = banned(sentence)
        if not removed:
            if follows_removed and REFERS_BACK.match(sentence):
                return None
            kept += (text[end:start] if kept else text[end:start].lstrip()) + sentence
        end = stop
    return kept.strip()


def _beginning(text: str, args: Args, fits: Callable[[int, str], bool]) -> str | None:
    """Return the longest beginning of complete sentences that fits, by their number and text; None in a list."""
    if args["relation"] == "at least" or LIST_MARK.search(text):
        return None
    beginnings = enumerate((text[:end] for _, end in sentence_spans(text)), 1)
    return next((piece for number, piece in [*beginnings][::-1] if fits(number, piece) and WHOLE.search(piece)), None)


def _state_option(text: str, _: Args) -> str | None:
    if (pole := POLE.match(text)) is None or any(option in text for option in OPTIONS):
        return None
    rest = text[pole.end() :]
    return f"My answer is {pole[1].lower()}. {rest[:1].upper()}{rest[1:]}".strip()


def _to_bullets(text: str, args: Args) -> str | None:
    """Turn the list items, or else even groups of the sentences, into bullets."""
    listed = [line for line in text.split("\n") if LIST_MARK.match(line)]
    if listed:
        return LIST_MARK.sub("* ", text) if len(listed) == args["num_bullets"] else None
    pieces = sentences(text)
    groups = [] if any(piece.endswith(":") for piece in pieces) else _groups(pieces, int(args["num_bullets"]))
    return "\n".join(f"* {squash(' '.join(group))}" for group in groups) or None


def _groups(pieces: Sequence[str], count: int) -> list[Sequence[str]]:
    """Divide pieces, in order, into `count` groups whose sizes differ by at most one; [] for fewer pieces than groups."""
    bounds = [len(pieces) * number // count for number in range(count + 1)]
    return [pieces[start:end] for start, end in pairwise(bounds)] if len(pieces) >= count else []


def _parts(text: str, count: int) -> list[str]:
    """Divide a text into `count` parts at its empty lines; with too few of them, and outside lists, at its sentences."""
    blocks = [block for part in separated(text) for block in paragraphs(part)]
    if len(blocks) >= count:
        return ["\n\n".join(group) for group in _groups(blocks, count)]
    pieces = [] if LIST_MARK.search(text) else [sentence for block in blocks for sentence in sentences(block)]
    return [squash(" ".join(group)) for group in _groups(pieces, count)]


def _split_paragraphs(text: str, args: Args) -> str | None:
    parts = _parts(text, int(args["num_paragraphs"]))
    return "\n\n***\n\n".join(parts) or None


def _add_section_heads(text: str, args: Args) -> str | None:
    parts = _parts(text, int(args["num_sections"]))
    head = args["section_spliter"].strip()
    return "\n\n".join(f"{head} {number}\n{part}" for number, part in enumerate(parts, 1)) or None


def _highlight_sentences(text: str, args: Args) -> str | None:
    """Put asterisks around the first sentences without asterisks; None where every sentence would be highlighted."""
    missing = int(args["num_highlights"]) - len(HIGHLIGHT.findall(text))
    plain = [
        (start + (mark.end() if (mark := LIST_MARK.match(text[start:end])) else 0), end)
        for start, end in sentence_spans(text)
        if not re.search(r"[*\n]", LIST_MARK.sub("", text[start:end]))
    ]
    return _highlighted(text, plain[:missing]) if len(plain) > missing else None


def _highlight_words(text: str, args: Args) -> str:
    """Put asterisks around the first occurrence of content words, the longest first."""
    missing = int(args["num_highlights"]) - len(HIGHLIGHT.findall(text))
    return _highlighted(text, sorted(match.span() for match in _content_words(text)[:missing]))


def _highlighted(text: str, spans: Sequence[tuple[int, int]]) -> str:
    for start, end in reversed(spans):
        text = f"{text[:start]}*{text[start:end]}*{text[end:]}"
    return text


def _content_words(text: str) -> list[re.Match[str]]:
    """Return the first match of each content word, the longest first; not of words in capitals or beside asterisks."""
    first: dict[str, re.Match[str]] = {}
    for match in CONTENT_WORD.finditer(text):
        if not match[0].isupper() and match[0].lower() not in FUNCTION_WORDS:
            first.setdefault(match[0].lower(), match)
    return sorted(first.values(), key=lambda match: (-len(match[0]), match.start()))


def _capitalise_words(text: str, args: Args) -> str | None:
    """Put the first occurrence of content words in capitals, the longest words first."""
    if args["capital_relation"] == "less than":
        return None
    present = sum(word.isupper() and sum(map(str.isalpha, word)) > 1 for word in WORD.findall(text))
    for match in _content_words(text)[: int(args["capital_frequency"]) - present]:
        text = text[: match.start()] + match[0].upper() + text[match.end() :]
    return text


def _repeat_prompt_first(text: str, args: Args) -> str:
    return f"{args['prompt_to_repeat'].strip()}\n\n{text}"


def _add_title(text: str, _: Args) -> str | None:
    """Put a title of the most frequent content words, in the order of the text, before the text."""
    counts = Counter(word for word in words(text) if word.isalpha() and len(word) > 3 and word not in FUNCTION_WORDS)
    title_words = [word for word, _ in counts.most_common(TITLE_WORDS)]
    title = " and ".join(word.capitalize() for word in counts if word in title_words)
    return f"<<{title}>>\n\n{text}" if title else None


def _add_postscript(text: str, args: Args) -> str | None:
    """Make the last of at least three sentences the postscript, unless it is a list item."""
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
    """Put the text in double quotes; double quotes inside become single ones."""
    return '"' + text.replace('"', "'") + '"'


def without_commas(text: str) -> str | None:
    """Return an English text with its commas removed or replaced, None where too many dashes would be needed.

    "1,000" becomes "1000", and "a, b and c" becomes "a and b and c". A comma before a year or a conjunction, at the end of
    a line or near the beginning of a sentence is removed. Any other comma becomes a dash. A comma without a space after it,
    as in `f(x,y)`, and a comma between numbers, as in (3, 4), stay.
    """
    text = re.sub(r"(?<=\d),(?=\d{3}(?!\d))", "", text)
    text = re.sub(r"(?<=\d), (?=\d{4}\b)", " ", text)
    text = SERIES.sub(_with_conjunctions, text)
    text = AT_LINE_END.sub("", BEFORE_LINK.sub(" ", text))
    dashes = 0
    for start, end in reversed(sentence_spans(text)):
        sentence = text[start:end]
        for comma in reversed(list(re.finditer(r"(?<!\d), |, (?!\d)", sentence))):
            late = len(sentence[: comma.start()].split()) > OPENING_WORDS
            dashes += late
            sentence = sentence[: comma.start()] + (" – " if late else " ") + sentence[comma.end() :]
        text = text[:start] + sentence + text[end:]
    return text if dashes <= MOST_DASHES else None


def _with_conjunctions(series: re.Match[str]) -> str:
    if SENTENCE_OPENING.search(series.string[max(0, series.start() - 30) : series.start()]):
        return series[0]
    return re.sub(r",? (?:and|or) \Z|, ", f" {series[1]} ", series[0], flags=re.IGNORECASE)


EDITS: tuple[tuple[str, str, Callable[[str, Args], str | None]], ...] = (
    ("keywords:forbidden_words", "drop_sentences_with_forbidden_words", _drop_forbidden),
    ("keywords:frequency", "drop_sentences_with_surplus_keyword", _drop_surplus),
    ("length_constraints:number_sentences", "keep_first_sentences", _keep_first_sentences),
    ("length_constraints:number_words", "keep_first_words", _keep_first_words),
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
"""Constraint id, name and function of each edit, in an order in which no edit undoes another: cut, arrange, mark, add, change
case, wrap."""
ADDING = frozenset({"add_postscript", "append_end_phrase", "add_title", "repeat_prompt_first"})
"""The edits of a response that contains code."""
