"""Write what models and people wrote literally into markdown: no text can format, link, close a table or become HTML."""

import re
from collections.abc import Sequence

from kiloset.audit.safe_text import visible

CELL = 200
"""Longest text shown in a line, in characters."""
MARKS = re.compile(r"[\\`*\[\]~$]|(?<![A-Za-z0-9])_|_(?![A-Za-z0-9])|://|@(?=[\w-]+\.)|\bwww\.", re.IGNORECASE)
"""What has a meaning within a line of CommonMark and GitHub's tables, or becomes a link. An underscore within a word has none, so
names stay readable."""
BAR = 20
"""Length of the longest bar, in characters."""


def inline(text: object, most: int = CELL) -> str:
    """Return a text to be shown literally within a line, but not at its beginning, cut to `most` characters."""
    line = " ".join(visible(str(text), most).split())
    line = line.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    line = MARKS.sub(lambda match: _escaped(match[0]), line)
    return line.replace("|", "&#124;")  # not a backslash, whose effect in tables varies between readers


def table(columns: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    """Return a table with columns of numbers aligned right; cells are escaped, and whole numbers get thousands separators."""
    numbers = [all(isinstance(row[at], (int, float)) or row[at] == "" for row in rows) for at in range(len(columns))]
    lines = [
        columns,
        ["---:" if right else "---" for right in numbers],
        *([f"{cell:,}" if isinstance(cell, int) else inline(cell) for cell in row] for row in rows),
    ]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def fenced(text: str, language: str) -> str:
    """Return a code block that contains the text, whatever fences the text contains."""
    literal = visible(text, None)
    longest = max((len(run) for run in re.findall(r"`+", literal)), default=0)
    fence = "`" * max(3, longest + 1)
    return f"{fence}{language}\n{literal.rstrip()}\n{fence}"


def bar(part: float, most: float) -> str:
    """Return a bar of blocks whose length is `part` over `most`."""
    return "█" * round(BAR * part / most) if most else ""


def _escaped(mark: str) -> str:
    return mark[:-1] + "\\" + mark[-1] if mark.lower() == "www." else f":\\{mark[1:]}" if mark == "://" else f"\\{mark}"
