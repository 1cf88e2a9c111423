"""Shows what models and people wrote on a terminal, literally: nothing in it can colour, move or reorder the screen."""

import re
import unicodedata
from collections.abc import Iterable, Sequence

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

REORDERING = re.compile("[\u061c\u200e\u200f\u202a-\u202e\u2066-\u2069]")
"""Marks that change the direction of the text after them (Unicode's bidirectional controls)."""
CELL = 300
"""Longest text in a cell, in characters."""


def plain(text: str) -> str:
    """Return a text without control characters and reordering marks; line feeds stay, a tab is a space."""
    spaced = REORDERING.sub("", text.replace("\t", " "))
    return "".join(c for c in spaced if c == "\n" or unicodedata.category(c) not in ("Cc", "Cs"))


def literal(text: str) -> Text:
    """Return a cleaned text that rich prints as it stands: markup and `:emoji:` work in strings only."""
    return Text(plain(text), overflow="fold")


def cell(value: object) -> Text:
    """Return a value on one line, cut to `CELL` characters."""
    line = " ".join(plain(str(value)).split())
    return literal(line if len(line) <= CELL else line[: CELL - 1] + "…")


def print_heading(console: Console, title: str) -> None:
    """Print a section's title after an empty line."""
    console.print(Text(f"\n{plain(title)}", style="bold"))


def print_table(
    console: Console, title: str, columns: Sequence[str], rows: Iterable[Sequence[object]], empty: str = "not recorded"
) -> None:
    """Print a table, its first column to the left, the others, figures, to the right; `empty` if it has no rows."""
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for index, name in enumerate(columns):
        table.add_column(literal(name), justify="right" if index else "left", overflow="fold")
    for row in rows:
        table.add_row(*map(cell, row))
    print_heading(console, title)
    console.print(table if table.row_count else literal(empty))


def share_of(part: int, whole: int) -> str:
    """Return a part in per cent, "" of nothing."""
    return f"{100 * part / whole:.1f} %" if whole else ""
