"""Parts of a text that constraints count: words, phrases, paragraphs, list items; and the language of a text."""

import re
import unicodedata
from functools import cache
from typing import Any

from kiloset.core.text import words

MIN_SHARE = 0.1
"""Least probability at which a language counts as detected; without evidence each of the 55 languages has 0.018."""
DETECTED = tuple(
    words("""
    af ar bg bn ca cs cy da de el en es et fa fi fr gu he hi hr hu id it ja kn ko lt lv mk ml mr ne nl no pa pl pt ro ru
    sk sl so sq sv sw ta te th tl tr uk ur vi zh
""")
)
"""The languages that are distinguished: the languages of IFEval's detector, with one Chinese."""
SEPARATOR = re.compile(r"^[ \t]*\*\*\*[ \t]*$", re.MULTILINE)
RULE_LINE = re.compile(r"[ \t]*(?:(?:\*[ \t]*){3,}|(?:-[ \t]*){3,})")
BULLET = re.compile(r"[ \t]*[*-][ \t]+\S")
UNSPACED = "\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3040-\u30ff\u3400-\u9fff\uac00-\ud7af\uf900-\ufaff"
"""Scripts whose words run together (Thai, Lao, Burmese, Khmer, Japanese, Chinese) or carry endings (Korean)."""


def folded(text: str) -> str:
    """Return a text in one Unicode form, case-folded and on one line, for comparison."""
    return " ".join(unicodedata.normalize("NFC", text).replace("’", "'").casefold().split())


def count_words(text: str) -> int:
    r"""Count runs of `\w`, as IFEval does: "don't" is two. Marks (vowel signs of Hindi, for example) do not split a word."""
    bare = "".join(c for c in unicodedata.normalize("NFC", text) if not unicodedata.category(c).startswith("M"))
    return len(re.findall(r"\w+", bare))


def count_phrase(text: str, phrase: str) -> int:
    """Count whole-word occurrences of a phrase, in any case; in scripts without spaces, all occurrences."""
    wanted = folded(phrase)
    edge = rf"[^\W_{UNSPACED}]"
    before = rf"(?<!{edge})" if re.match(edge, wanted) else ""
    after = rf"(?!{edge})" if re.match(edge, wanted[-1:]) else ""
    return len(re.findall(before + re.escape(wanted) + after, folded(text)))


def separated(text: str) -> list[str]:
    """Return the parts between lines of three asterisks, without empty parts at either end."""
    parts = [part.strip() for part in SEPARATOR.split(text)]
    return parts[not parts[0] : len(parts) - (not parts[-1])]


def paragraphs(text: str) -> list[str]:
    """Return the paragraphs that empty lines divide."""
    return [part.strip() for part in re.split(r"\n[ \t]*(?:\n[ \t]*)+", text) if part.strip()]


def bullets(text: str) -> list[str]:
    """Return the lines that are Markdown bullets ("*" or "-", a space, text); a horizontal rule is not a bullet."""
    return [line for line in text.split("\n") if BULLET.match(line) and not RULE_LINE.fullmatch(line)]


def language_of(text: str) -> str | None:
    """Return the ISO 639-1 code of a text's most likely language, or None without evidence; the same on every call.

    Capitals are lowered first. Single words are often not recognised: one in three answers of up to 3 words is.
    """
    code, share = language_detector(DETECTED).classify(unicodedata.normalize("NFC", text).lower())
    return str(code) if share >= MIN_SHARE else None


@cache
def language_detector(languages: tuple[str, ...] = ()) -> Any:
    """Load py3langid's model (0.6 s) for some or all languages; its module-level model has them in global state."""
    from py3langid.langid import MODEL_FILE, LanguageIdentifier

    detector = LanguageIdentifier.from_model_file(MODEL_FILE, norm_probs=True)
    if languages:
        detector.set_languages(list(languages))
    return detector
