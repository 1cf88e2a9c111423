"""What a reviewer decided of a run's rows: `review.jsonl`, one decision a line, appended and never changed.

The review page appends, and the next `make dataset` applies: rows accepted stay (or come back) as their decision has them,
edits and another category included; rows rejected are replaced.
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
"""`undo` takes back the row's last decision that still stands."""
TEXTS = ("instruction", "input", "response", "category")
"""The columns that a decision sets."""


@dataclass(frozen=True, slots=True)
class Decision:
    """One line of review.jsonl: what is to become of a row."""

    id: str
    verdict: Verdict
    born: str
    """`born_as` of the row decided about: of another row that later has its id, it does not count."""
    time: str
    """ISO 8601, UTC; nothing depends on it."""
    reason: str = ""
    """Why, in the reviewer's words."""
    instruction: str = ""
    input: str = ""
    response: str = ""
    category: str = ""
    """The row as it is to be in the set; of an accepted row."""


def born_as(instruction: str, given: str) -> str:
    """Return what identifies a row as it was born, whatever becomes of its answer: 16 hexadecimal digits."""
    return sha256_of([instruction, given])[:16]


class ReviewFile:
    """The decisions of one run, while one process may add to them."""

    def __init__(self, path: Path) -> None:
        """Read the file, if it is there; `held` does, once it has cut off what a kill left unfinished.

        Raises:
            DataError: A line is no decision, or the file cannot be read.
        """
        self.path = path
        self._lines: dict[str, list[Decision]] = {}
        for decision in _read(path):
            self._lines.setdefault(decision.id, []).append(decision)

    @property
    def decisions(self) -> dict[str, Decision]:
        """What stands, by row."""
        return standing(line for lines in self._lines.values() for line in lines)

    def decision(self, id: str) -> Decision | None:
        """Return what stands of a row."""
        return standing(self._lines.get(id, ())).get(id)

    def version(self, id: str) -> int:
        """Return how many lines of a row there are: what a window must have seen to decide about it."""
        return len(self._lines.get(id, ()))

    def append(self, decision: Decision, version: int) -> bool:
        """Append a decision, and return once it is on the disk.

        Returns:
            False, with nothing written, unless there are `version` lines of this row: another window was first.

        Raises:
            DataError: It cannot be written; then it does not count.
        """
        if self.version(decision.id) != version:
            return False
        said = {name: value for name, value in asdict(decision).items() if value}
        _append(self.path, f"{json.dumps(said, ensure_ascii=False)}\n".encode())
        self._lines.setdefault(decision.id, []).append(decision)
        return True


@contextmanager
def held(path: Path) -> Iterator[ReviewFile]:
    """Hold the decisions of a run alone; the hold ends with the process, however that ends.

    Raises:
        DataError: Another process holds them, a line is no decision, or the file cannot be read or written.
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
                "KS037", f"{path}: another review of this run is open; go on there, or end it first"
            ) from None
        whole = path.read_bytes()
        if not whole.endswith(b"\n"):
            os.truncate(path, whole.rfind(b"\n") + 1)
        yield ReviewFile(path)


def read_decisions(path: Path) -> dict[str, Decision]:
    """Return what stands, by row, {} where there is no file; a last line that a kill left unfinished does not count.

    Raises:
        DataError: A line is no decision, or the file cannot be read.
    """
    return standing(_read(path))


def standing(lines: Iterable[Decision]) -> dict[str, Decision]:
    """Return of each row the last decision that no `undo` took back."""
    stacks: dict[str, list[Decision]] = {}
    for line in lines:
        stack = stacks.setdefault(line.id, [])
        if line.verdict != "undo":
            stack.append(line)
        elif stack:
            stack.pop()
    return {id: stack[-1] for id, stack in stacks.items() if stack}


def stays(table: pl.DataFrame) -> pl.Series:
    """Tell which rows a reviewer accepted: selection may not leave them out."""
    return _is(table, "accepted", "edited")


def is_edited(table: pl.DataFrame) -> pl.Series:
    """Tell which rows a reviewer gave other texts."""
    return _is(table, "edited")


def is_rejected(table: pl.DataFrame) -> pl.Series:
    """Tell which rows a reviewer rejected: selection may not take them."""
    return _is(table, "rejected")


def beyond(table: pl.DataFrame, wanted: Mapping[str, int]) -> int:
    """Return how many rows the reviewer accepted beyond what is wanted of their categories: the set is larger by these."""
    counts = table.filter(stays(table)).group_by("category").len()
    return sum(max(0, rows - wanted.get(category, 0)) for category, rows in counts.iter_rows())


def _is(table: pl.DataFrame, *verdicts: str) -> pl.Series:
    if "review" not in table.columns:
        return pl.repeat(False, table.height, dtype=pl.Boolean, eager=True)
    return table["review"].is_in(verdicts).fill_null(value=False)


def _read(path: Path) -> list[Decision]:
    try:
        whole = path.read_bytes() if path.exists() else b""
    except OSError as error:
        raise DataError("KS038", f"{path}: cannot be read ({error.strerror})") from None
    lines = whole[: whole.rfind(b"\n") + 1].split(b"\n")
    return [_decision(line, f"{path}:{number}") for number, line in enumerate(lines, start=1) if line.strip()]


def _decision(line: bytes, place: str) -> Decision:
    fix = "mend the line or take it out"
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
    """Write a line to the disk whole, or take back what was written of it."""
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
        raise DataError("KS045", f"{path}: cannot be written ({error.strerror}); the decision does not count") from None
