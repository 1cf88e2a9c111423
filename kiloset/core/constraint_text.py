"""The pieces of a text that constraints count: sentences, words, paragraphs, list items; and its language.

Sentences are cut by rules, without a trained model. Known misses: a lone capital is read as an initial, so "vitamin C. It"
is one sentence; "U.S. Senate" is cut in two, and so is an abbreviation outside the lists; an ellipsis before a small
letter goes on. A line break ends a sentence before an empty line, a list item, a heading or a separator, not in a poem.
"""

import re
import unicodedata
from functools import cache
from itertools import pairwise
from typing import Any

from kiloset.core.text import words

MIN_SHARE = 0.1
"""Least probability at which a language counts as detected; of 55, each has 0.018 where nothing is known."""
DETECTED = words("""
    af ar bg bn ca cs cy da de el en es et fa fi fr gu he hi hr hu id it ja kn ko lt lv mk ml mr ne nl no pa pl pt ro ru
    sk sl so sq sv sw ta te th tl tr uk ur vi zh
""")
"""The languages told apart: those that IFEval's detector knows, with one Chinese."""

CLOSERS = "\"'”’»)\\]*_"
NEAR = 30
"""Characters around a full stop that tell whether it ends a sentence."""
TERMINATOR = re.compile(rf"(?<![.!?…؟।])[.!?…؟।]++[{CLOSERS}]*+(?=\s|\Z)|[。！？]++[{CLOSERS}」』]*+")
BREAK = re.compile(
    r"\n[ \t]*\n\s*"
    r"|\n(?=[ \t]*(?:[-*+•][ \t]|\(?\d{1,3}[.)][ \t]|#{1,6}[ \t]|<<))"  # before a list item, heading or title
    r"|(?:(?<=\n)|\A)(?:[ \t]*#{1,6}[ \t][^\n]*|[ \t]*<<[^\n]*>>[ \t]*|[ \t]*(?:\*{3,}|-{3,})[ \t]*)(\n|\Z)"
)
"""Where a line break ends a sentence; a heading, title or separator ends at its own line break, which is group 1."""
NUMBERED = re.compile(r"[ \t>*_]*\(?(?:\d{1,3}|[A-Za-z])\Z")
NEVER_LAST = frozenset(
    re.findall(r"\S+", "mr mrs ms dr prof rev hon gen col capt lt sgt st mt messrs vs cf e.g i.e viz approx")
)
"""Abbreviations that something always follows."""
NUMBER_NEXT = frozenset(words("no nos fig figs eq vol p pp ch"))
"""Abbreviations before a number, words elsewhere."""
SELDOM_LAST = frozenset(
    re.findall(r"\S+", "etc inc ltd co corp jr sr a.m p.m b.c a.d u.s u.k u.n al ca jan feb aug sept oct nov dec dept")
)
"""Abbreviations that end a sentence only before a capital."""
WORD_CHARACTERS = re.compile(r"\w+")
SEPARATOR = re.compile(r"^[ \t]*\*\*\*[ \t]*$", re.MULTILINE)
RULE_LINE = re.compile(r"[ \t]*(?:(?:\*[ \t]*){3,}|(?:-[ \t]*){3,})")
BULLET = re.compile(r"[ \t]*[*-][ \t]+\S")
UNSPACED = "\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3040-\u30ff\u3400-\u9fff\uac00-\ud7af\uf900-\ufaff"
"""Scripts whose words run together (Thai, Lao, Burmese, Khmer, Japanese, Chinese) or carry endings (Korean)."""


def folded(text: str) -> str:
    """Return a text in one Unicode form, caseless and on one line, for comparison."""
    return " ".join(unicodedata.normalize("NFC", text).replace("’", "'").casefold().split())


def sentences(text: str) -> list[str]:
    """Return the sentences of a text, in order and stripped; a piece without a letter or digit is none."""
    return [text[start:end] for start, end in sentence_spans(text)]


def sentence_spans(text: str) -> list[tuple[int, int]]:
    """Return where each sentence begins and ends, white space around it left out."""
    cuts = {0, len(text)}
    for found in BREAK.finditer(text):
        cuts |= {found.start(), found.end()}
    cuts |= {found.end() for found in TERMINATOR.finditer(text) if _ends_sentence(text, found)}
    spans = []
    for start, end in pairwise(sorted(cuts)):
        piece = text[start:end]
        if any(c.isalnum() for c in piece):
            left = start + len(piece) - len(piece.lstrip())
            spans.append((left, start + len(piece.rstrip())))
    return spans


def _ends_sentence(text: str, found: re.Match[str]) -> bool:
    mark = found[0].rstrip("\"'”’»)]*_」』")
    after = (text[found.end() : found.end() + NEAR].lstrip().lstrip("\"'“‘«(*_") or "A")[0]
    before = text[max(0, found.start() - NEAR) : found.start()].rpartition("\n")[2]
    if mark == ".":
        if NUMBERED.fullmatch(before):
            return False
        word = (before.split() or [""])[-1].lstrip("(\"'“‘*_").casefold()
        if word in NEVER_LAST or (len(word) == 1 and word.isalpha() and word != "i" and before[-1:].isupper()):
            return found.end() == len(text.rstrip())
        if word in NUMBER_NEXT and after.isdigit():
            return False
        if word in SELDOM_LAST:
            return not after.islower() and not after.isdigit()
        return not (after.islower() and found[0] != mark)
    quoted, trails = found[0] != mark, mark.startswith(("..", "…"))
    return not (after.islower() and (quoted or trails))


def count_words(text: str) -> int:
    r"""Count runs of `\w`, as IFEval does: "don't" is two. Marks (vowel signs of Hindi, say) do not split a word."""
    bare = "".join(c for c in unicodedata.normalize("NFC", text) if not unicodedata.category(c).startswith("M"))
    return len(WORD_CHARACTERS.findall(bare))


def count_phrase(text: str, phrase: str) -> int:
    """Count whole-word occurrences of a phrase, in any case; in scripts without spaces, anywhere."""
    wanted = folded(phrase)
    edge = rf"[^\W_{UNSPACED}]"
    left = rf"(?<!{edge})" if re.match(edge, wanted) else ""
    right = rf"(?!{edge})" if re.match(edge, wanted[-1:]) else ""
    return len(re.findall(left + re.escape(wanted) + right, folded(text)))


def separated(text: str) -> list[str]:
    """Return the parts between lines of three asterisks, the empty ones at either end left out."""
    parts = [part.strip() for part in SEPARATOR.split(text)]
    return parts[not parts[0] : len(parts) - (not parts[-1])]


def paragraphs(text: str) -> list[str]:
    """Return the paragraphs that empty lines divide."""
    return [part.strip() for part in re.split(r"\n[ \t]*(?:\n[ \t]*)+", text) if part.strip()]


def bullets(text: str) -> list[str]:
    """Return the lines that are Markdown bullets ("*" or "-", a space, text); a horizontal rule is none."""
    return [line for line in text.split("\n") if BULLET.match(line) and not RULE_LINE.fullmatch(line)]


def language_of(text: str) -> str | None:
    """Return the ISO 639-1 code of a text's likeliest language, or None where nothing tells; the same on every call.

    Capitals are lowered first. Single words are often not recognised: of answers of up to 3 words one in three is.
    """
    code, share = _detector().classify(unicodedata.normalize("NFC", text).lower())
    return str(code) if share >= MIN_SHARE else None


@cache
def _detector() -> Any:
    """Load py3langid's model (0.6 s); its module-level one is left alone, for its languages are global state."""
    from py3langid.langid import MODEL_FILE, LanguageIdentifier

    detector = LanguageIdentifier.from_model_file(MODEL_FILE, norm_probs=True)
    detector.set_languages(DETECTED)
    return detector
