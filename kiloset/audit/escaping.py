"""How the texts of models and people are shown on a page: their hidden marks spelt out, cut to a length, their differences marked."""

import difflib
import re
import unicodedata

from kiloset.audit.terminal import REORDERING

CHARACTERS = 1200
"""Longest text shown of a row."""


def shown(text: object, most: int | None = CHARACTERS) -> str:
    """Return a text with its control, reordering and private marks spelt out, cut to so many characters.

    It is not escaped yet; the template does that.
    """
    whole = str(text)
    part = whole if most is None or len(whole) <= most else whole[:most]
    visible = "".join(c if _harmless(c) else f"⟨U+{ord(c):04X}⟩" for c in part)
    return visible if len(part) == len(whole) else f"{visible}… ({len(whole):,} characters)"


def marked(before: str, after: str) -> tuple[list[tuple[str, str]], list[tuple[str, str]]]:
    """Compare two texts word by word.

    Returns:
        The parts of the first, each `same` or `del`, and those of the second, each `same` or `ins`; joined, they are the texts.
    """
    one, other = (re.findall(r"\s+|\w+|[^\w\s]", text[:CHARACTERS]) for text in (before, after))
    old: list[tuple[str, str]] = []
    new: list[tuple[str, str]] = []
    for kind, i, j, k, m in difflib.SequenceMatcher(None, one, other, autojunk=False).get_opcodes():
        same = kind == "equal"
        if i < j:
            old.append(("same" if same else "del", "".join(one[i:j])))
        if k < m:
            new.append(("same" if same else "ins", "".join(other[k:m])))
    rest = [(text[CHARACTERS:], parts) for text, parts in ((before, old), (after, new))]
    for left, parts in rest:
        if left:
            parts.append(("same", f"… ({len(left):,} more characters)"))
    return old, new


def _harmless(c: str) -> bool:
    return c in "\n\t" or not (REORDERING.match(c) or unicodedata.category(c) in ("Cc", "Cs", "Co"))
