"""Puts what models and people wrote into markdown as it stands: nothing in it can format, link, close a table or be HTML."""

import re
from collections.abc import Sequence

from kiloset.audit.escaping import shown

CELL = 200
"""Longest text shown in a line, in characters."""
MARKS = re.compile(r"[\\`*\[\]~$]|(?<![A-Za-z0-9])_|_(?![A-Za-z0-9])|://|@(?=[\w-]+\.)|\bwww\.", re.IGNORECASE)
"""What means something within a line of CommonMark and GitHub's tables, and what becomes a link. An underscore within a word does
not, so that names stay readable."""
BAR = 20
"""Signs of the longest bar."""


def inline(text: object, most: int = CELL) -> str:
    """Return a text that reads as it stands within a line, though not as its beginning, cut to so many characters."""
    line = " ".join(shown(str(text), most).split())
    line = line.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    line = MARKS.sub(lambda found: _escaped(found[0]), line)
    return line.replace("|", "&#124;")  # readers of tables do not agree on what a backslash before it is


def table(columns: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    """Return a table, the columns of numbers to the right; every cell is escaped, whole numbers get their thousands' commas."""
    numbers = [all(isinstance(row[at], (int, float)) or row[at] == "" for row in rows) for at in range(len(columns))]
    lines = [
        columns,
        ["---:" if right else "---" for right in numbers],
        *([f"{cell:,}" if isinstance(cell, int) else inline(cell) for cell in row] for row in rows),
    ]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def fenced(text: str, language: str) -> str:
    """Return a block of code that holds the text, whatever it holds."""
    visible = shown(text, None)
    longest = max((len(run) for run in re.findall(r"`+", visible)), default=0)
    fence = "`" * max(3, longest + 1)
    return f"{fence}{language}\n{visible.rstrip()}\n{fence}"


def bar(part: float, most: float) -> str:
    """Return a bar of blocks, as long as the part is of the most."""
    return "█" * round(BAR * part / most) if most else ""


def _escaped(mark: str) -> str:
    return mark[:-1] + "\\" + mark[-1] if mark.lower() == "www." else f":\\{mark[1:]}" if mark == "://" else f"\\{mark}"
