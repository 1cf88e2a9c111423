"""The decisions of a reviewer about the rows of a run: `review.jsonl`, one decision a line, appended and never changed.

The review page appends decisions, and the next `kiloset dataset` applies them. An accepted row enters the set with the texts and
the category of its decision, also if a stage had dropped it. A rejected row is replaced.
"""

import fcntl
import json
import os
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any, Literal, get_args

import polars as pl

from kiloset.core.errors import DataError
from kiloset.core.run import sha256_of

Verdict = Literal["accept", "reject", "undo"]
"""`undo` revokes the current decision about the row."""
TEXTS = ("instruction", "input", "response", "category")
"""Columns that a decision sets."""


@dataclass(frozen=True, slots=True)
class Decision:
    """One line of review.jsonl: the reviewer's decision about a row."""

    id: str
    verdict: Verdict
    born: str
    """`task_digest` of the row. The decision does not apply to another row that has the same id in a later run."""
    time: str
    """ISO 8601, UTC; no result depends on it."""
    reason: str = ""
    """The reviewer's reason for a rejection; may be empty."""
    instruction: str = ""
    input: str = ""
    response: str = ""
    category: str = ""
    """The four texts that an accepted row has in the set; empty for another verdict."""
    blind: str = ""
    """"yes" if the row was drawn for a blind reading and its figures were hidden; only such decisions measure precision."""


def task_digest(instruction: str, input: str) -> str:
    """Return a digest of the row's original instruction and input, 16 hexadecimal digits; it does not depend on the answer."""
    return sha256_of([instruction, input])[:16]


class ReviewFile:
    """The decisions of one run. Only the process that has the lock of `open_review_file` may append."""

    def __init__(self, path: Path) -> None:
        """Read the file, if it exists.

        Raises:
            DataError: A line is no decision, or the file cannot be read.
        """
        self.path = path
        self._lines: dict[str, list[Decision]] = {}
        for decision in _read(path):
            self._lines.setdefault(decision.id, []).append(decision)

    @property
    def decisions(self) -> dict[str, Decision]:
        """The current decision about each row that has one."""
        return current_decisions(line for lines in self._lines.values() for line in lines)

    def decision(self, id: str) -> Decision | None:
        """Return the current decision about a row, None without one."""
        return current_decisions(self._lines.get(id, ())).get(id)

    def version(self, id: str) -> int:
        """Return the number of lines about a row. A window must know the last of them to append another."""
        return len(self._lines.get(id, ()))

    def append(self, decision: Decision, version: int) -> bool:
        """Append a decision, and return when it is on the disk.

        Returns:
            False, with nothing written, if the row has not exactly `version` lines: another window has appended one.

        Raises:
            DataError: The decision cannot be written; then it has no effect.
        """
        if self.version(decision.id) != version:
            return False
        record = {name: value for name, value in asdict(decision).items() if value}
        _append(self.path, f"{json.dumps(record, ensure_ascii=False)}\n".encode())
        self._lines.setdefault(decision.id, []).append(decision)
        return True


@contextmanager
def open_review_file(path: Path) -> Iterator[ReviewFile]:
    """Lock the decisions of a run for this process, delete an unfinished last line, and read them.

    The operating system releases the lock when the process ends, also after a kill.

    Raises:
        DataError: Another process has the lock, a line is no decision, or the file cannot be read or written.
    """
    try:
        file = path.open("ab")
    except OSError as error:
        raise DataError("KS036", f"{path}: cannot be written ({error.strerror})") from None
    with file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise DataError(
                "KS037", f"{path}: another review of this run is open; use that one, or end it first"
            ) from None
        content = path.read_bytes()
        if not content.endswith(b"\n"):
            os.truncate(path, content.rfind(b"\n") + 1)
        yield ReviewFile(path)


def read_decisions(path: Path) -> dict[str, Decision]:
    """Return the current decision about each row that has one; {} without a file.

    An unfinished last line, as a kill leaves it, is ignored.

    Raises:
        DataError: A line is no decision, or the file cannot be read.
    """
    return current_decisions(_read(path))


def current_decisions(lines: Iterable[Decision]) -> dict[str, Decision]:
    """Return the last decision about each row that no `undo` revoked."""
    stacks: dict[str, list[Decision]] = {}
    for line in lines:
        stack = stacks.setdefault(line.id, [])
        if line.verdict != "undo":
            stack.append(line)
        elif stack:
            stack.pop()
    return {id: stack[-1] for id, stack in stacks.items() if stack}


def is_accepted(table: pl.DataFrame) -> pl.Series:
    """Return which rows a reviewer accepted; selection must take them."""
    return _is(table, "accepted", "edited")


def is_edited(table: pl.DataFrame) -> pl.Series:
    """Return which rows have texts of a reviewer."""
    return _is(table, "edited")


def is_rejected(table: pl.DataFrame) -> pl.Series:
    """Return which rows a reviewer rejected; selection must not take them."""
    return _is(table, "rejected")


def accepted_surplus(table: pl.DataFrame, wanted: Mapping[str, int]) -> int:
    """Return how many accepted rows exceed the wanted number of their categories; the set is larger by these."""
    counts = table.filter(is_accepted(table)).group_by("category").len()
    return sum(max(0, rows - wanted.get(category, 0)) for category, rows in counts.iter_rows())


def _is(table: pl.DataFrame, *verdicts: str) -> pl.Series:
    if "review" not in table.columns:
        return pl.repeat(False, table.height, dtype=pl.Boolean, eager=True)
    return table["review"].is_in(verdicts).fill_null(value=False)


def _read(path: Path) -> list[Decision]:
    try:
        content = path.read_bytes() if path.exists() else b""
    except OSError as error:
        raise DataError("KS038", f"{path}: cannot be read ({error.strerror})") from None
    lines = content[: content.rfind(b"\n") + 1].split(b"\n")
    return [_decision(line, f"{path}:{number}") for number, line in enumerate(lines, start=1) if line.strip()]


def _decision(line: bytes, place: str) -> Decision:
    fix = "correct or delete the line"
    try:
        value: Any = json.loads(line.decode("utf-8"))
    except (ValueError, RecursionError) as error:
        raise DataError("KS039", f"{place}: not JSON ({error}); {fix}") from None
    known = [field.name for field in fields(Decision)]
    if not isinstance(value, dict) or not all(isinstance(one, str) for one in value.values()):
        raise DataError("KS040", f"{place}: must be an object of texts; {fix}")
    if unknown := sorted(value.keys() - {*known}):
        raise DataError("KS041", f"{place}: {unknown[0]!r} is not known, only {', '.join(known)}; {fix}")
    if missing := [name for name in ("id", "verdict", "born") if not value.get(name)]:
        raise DataError("KS042", f'{place}: "{missing[0]}" is missing; {fix}')
    if value["verdict"] not in get_args(Verdict):
        raise DataError(
            "KS043", f'{place}: "verdict" must be one of {", ".join(get_args(Verdict))}, got {value["verdict"]!r}'
        )
    if value["verdict"] == "accept" and (empty := [name for name in TEXTS if name != "input" and not value.get(name)]):
        raise DataError("KS044", f'{place}: an accepted row needs its "{empty[0]}"; {fix}')
    return Decision(**{"time": "", **value})


def _append(path: Path, line: bytes) -> None:
    """Write a whole line to the disk, or restore the file as it was."""
    try:
        size = path.stat().st_size if path.exists() else 0
        try:
            with path.open("ab", buffering=0) as file:
                if file.write(line) != len(line):
                    raise OSError(28, "no space left on the device")
                os.fsync(file.fileno())
        except OSError:
            if path.exists():
                os.truncate(path, size)
            raise
    except OSError as error:
        raise DataError("KS045", f"{path}: cannot be written ({error.strerror}); the decision is not saved") from None
