"""Reads an instruction file that somebody else made to its end: what cannot be read is listed with its place, and reading goes on.

Of a conversation the first user turn and the last answer are read. A user turn is taken apart at its first empty line, whatever
the layout: a chat holds instruction and input in one turn, and the same set is to read the same in every layout.
"""

from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import polars as pl

from kiloset.core.errors import DataError, EmptyError
from kiloset.core.table import ROW, table_of, user_turn
from kiloset.data.examples import ASSISTANTS, USERS, _examples_whole_or_not, _mended, _object, _optional, _said
from kiloset.data.files import Broken, values_or_broken

LEAST, MOST = 3, 150
"""Words of a first paragraph that can be an instruction by itself: a greeting is none, nor is a whole text."""
ADDED: dict[str, Any] = {"place": pl.String, "user": pl.String, "turns": pl.UInt32}


@dataclass(frozen=True, slots=True)
class Lines:
    """What a file holds: `lines` is those read and those broken."""

    table: pl.DataFrame
    """Rows as in `kiloset.core.table.ROW`, `source` `pool`, with `place`, `user` (the whole user turn) and `turns` (of the user)."""
    lines: int
    """Lines that are not blank; one of Self-Instruct may hold several rows."""
    broken: tuple[Broken, ...]
    layouts: dict[str, int]
    """Rows by the field that told the layout, most first."""
    systems: int
    """Rows with a system turn, which is not looked at."""


def read_lines(path: str) -> Lines:
    """Read every line of a file, or of the files of a folder.

    Raises:
        DataError: It is missing, a whole file cannot be read, or no line holds an example; the message tells the first reason.
        EmptyError: There is no line.
    """
    rows: list[dict[str, Any]] = []
    broken: list[Broken] = []
    layouts: Counter[str] = Counter()
    lines = systems = 0
    for place, value in values_or_broken(path):
        lines += 1
        if isinstance(value, Broken):
            broken.append(value)
            continue
        try:
            found = _object(_mended(value), place)
            examples = list(_examples(found, place))
            license = _optional(found, ("license", "licence"), place)
        except DataError as error:
            broken.append(Broken(place, str(error).removeprefix(f"{place}: ")))
            continue
        for layout, system, example in examples:
            layouts[layout] += 1
            systems += system
            rows.append(_row(example, len(rows) + 1, place, license))
    if not lines:
        raise EmptyError("KS132", f"{path}: no line in it")
    if not rows:
        raise DataError(
            "KS133", f"{path}: no instruction with an answer in {lines} lines; {broken[0].place}: {broken[0].reason}"
        )
    return Lines(_table(rows), lines, tuple(broken), dict(layouts.most_common()), systems)


def _examples(found: Mapping[str, Any], place: str) -> Iterator[tuple[str, bool, dict[str, Any]]]:
    """Yield `(layout, whether there is a system turn, example)`."""
    for layout in ("messages", "conversations"):
        if found.get(layout) is not None:
            said = _said(found[layout], layout, place)
            roles = [role for role, _ in said]
            first = next((at for at, role in enumerate(roles) if role in USERS), len(roles))
            answers = [text for role, text in said[first:] if role in ASSISTANTS]
            if not answers:
                raise DataError(
                    "KS134", f'{place}: "{layout}" needs a user turn and an answer; found {", ".join(roles)}'
                )
            yield (
                layout,
                "system" in roles,
                {
                    "instruction": said[first][1],
                    "input": "",
                    "response": answers[-1],
                    "category": _optional(found, ("category",), place),
                    "turns": sum(role in USERS for role in roles),
                },
            )
            return
    layout = "instances" if "instances" in found else "instruction"
    for example in _examples_whole_or_not(found, place):
        yield layout, False, {**example, "turns": 1}


def _row(example: dict[str, Any], number: int, place: str, license: str) -> dict[str, Any]:
    user = user_turn(example["instruction"], example["input"])
    instruction, given = _parted(user)
    return {
        **example,
        "id": f"r{number:05d}",
        "source": "pool",
        "license": license,
        "instruction": instruction,
        "input": given,
        "place": place,
        "user": user,
    }


def _parted(user: str) -> tuple[str, str]:
    first, _, rest = user.partition("\n\n")
    return (first, rest.strip()) if LEAST <= len(first.split()) <= MOST and rest.strip() else (user, "")


def _table(rows: list[dict[str, Any]]) -> pl.DataFrame:
    added = pl.DataFrame([{name: row[name] for name in ADDED} for row in rows], schema=ADDED)
    return table_of([{name: row[name] for name in ROW if name in row} for row in rows]).hstack(added)
