"""Show what models and people wrote literally, on a terminal or a page: no text can colour, move or reorder what is shown."""

import difflib
import re
import unicodedata
from collections.abc import Iterable, Sequence

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

REORDERING = re.compile("[\u061c\u200e\u200f\u202a-\u202e\u2066-\u2069]")
"""Unicode's bidirectional controls, which change the direction of the text after them."""
CELL = 300
"""Longest text in a cell of a terminal table, in characters."""
CHARACTERS = 1200
"""Longest text on a page, in characters."""


def plain(text: str) -> str:
    """Return a text without control characters and reordering marks; line feeds stay, a tab becomes a space."""
    spaced = REORDERING.sub("", text.replace("\t", " "))
    return "".join(c for c in spaced if c == "\n" or unicodedata.category(c) not in ("Cc", "Cs"))


def literal(text: str) -> Text:
    """Return a plain text that rich prints unchanged: it reads markup and `:emoji:` in strings only."""
    return Text(plain(text), overflow="fold")


def cell(value: object) -> Text:
    """Return a value on one line, cut to `CELL` characters."""
    line = " ".join(plain(str(value)).split())
    return literal(line if len(line) <= CELL else line[: CELL - 1] + "…")


def print_lines(console: Console, *lines: str) -> None:
    """Print texts literally, each on a line."""
    for line in lines:
        console.print(literal(line))


def print_heading(console: Console, title: str) -> None:
    """Print a section's title after an empty line."""
    console.print(Text(f"\n{plain(title)}", style="bold"))


def print_table(
    console: Console, title: str, columns: Sequence[str], rows: Iterable[Sequence[object]], empty: str = "not recorded"
) -> None:
    """Print a table with its first column aligned left and the others right; print `empty` if it has no rows."""
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for index, name in enumerate(columns):
        table.add_column(literal(name), justify="right" if index else "left", overflow="fold")
    for row in rows:
        table.add_row(*map(cell, row))
    print_heading(console, title)
    console.print(table if table.row_count else literal(empty))


def share_of(part: int, whole: int) -> str:
    """Return a part in percent, "" if the whole is 0."""
    return f"{100 * part / whole:.1f} %" if whole else ""


def visible(text: object, most: int | None = CHARACTERS) -> str:
    """Return a text cut to `most` characters, with its control, reordering and private marks spelt out.

    It does not escape HTML; the template does.
    """
    whole = str(text)
    part = whole if most is None or len(whole) <= most else whole[:most]
    spelt = "".join(c if _is_harmless(c) else f"⟨U+{ord(c):04X}⟩" for c in part)
    return spelt if len(part) == len(whole) else f"{spelt}… ({len(whole):,} characters)"


def mark_differences(before: str, after: str) -> tuple[list[tuple[str, str]], list[tuple[str, str]]]:
    """Compare two texts word by word.

    Returns:
        The parts of the first, each `same` or `del`, and of the second, each `same` or `ins`; joined, they are the texts.
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
    for text, parts in ((before, old), (after, new)):
        if len(text) > CHARACTERS:
            parts.append(("same", f"… ({len(text) - CHARACTERS:,} more characters)"))
    return old, new


def _is_harmless(c: str) -> bool:
    return c in "\n\t" or not (REORDERING.match(c) or unicodedata.category(c) in ("Cc", "Cs", "Co"))
