"""The blind sample of a run: rows of its set drawn at random, to be read without figures, and the share that is right.

`sample.jsonl` beside the reviewer's decisions has one drawn row a line, in the order of reading. It names the rows as they were
drawn, so the measured share describes what the run made, not the set after its corrections.
"""

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

from kiloset.core.errors import DataError
from kiloset.core.review import Decision
from kiloset.core.run import sha256_of, write_text
from kiloset.core.statistics import Interval, proportion_interval


@dataclass(frozen=True, slots=True)
class Drawn:
    """One row of the sample."""

    id: str
    born: str
    """`kiloset.core.review.task_digest` of the row; a decision about another task of that id does not count."""
    texts: str
    """`texts_digest` of the row; an accepted row with other texts was not right as it was."""
    category: str


@dataclass(frozen=True, slots=True)
class Precision:
    """What a reader found in the drawn rows of one category, or in all."""

    drawn: int
    read: int
    """Drawn rows with a decision that was made without their figures."""
    right: int
    """Accepted rows whose instruction, input and response nobody changed."""

    @property
    def interval(self) -> Interval | None:
        """Share of right rows among those read, with its 95 % Wilson interval; None if none was read."""
        return proportion_interval(self.right, self.read) if self.read else None

    def __str__(self) -> str:
        """Return for example "7 of 9 (0.45 to 0.94)", or "not read"."""
        bounds = self.interval
        return "not read" if bounds is None else f"{self.right} of {self.read} ({bounds.low:.2f} to {bounds.high:.2f})"


def texts_digest(instruction: str, input: str, response: str) -> str:
    """Return a digest of the three texts, 16 hexadecimal digits; white space around them is ignored."""
    return sha256_of([text.strip() for text in (instruction, input, response)])[:16]


def precision_of(sample: Sequence[Drawn], decisions: Mapping[str, Decision]) -> dict[str, Precision]:
    """Return the result by category, in order; {} without a sample."""
    categories = sorted({each.category for each in sample})
    return {name: _precision([each for each in sample if each.category == name], decisions) for name in categories}


def whole_precision(parts: Iterable[Precision]) -> Precision:
    """Return the result of all categories together."""
    each = [(part.drawn, part.read, part.right) for part in parts]
    return Precision(*(sum(column) for column in zip(*each, strict=True))) if each else Precision(0, 0, 0)


def not_blind(sample: Sequence[Drawn], decisions: Mapping[str, Decision]) -> int:
    """Return how many drawn rows were decided with their figures visible, which does not count."""
    return sum(each.id in decisions and not decisions[each.id].blind for each in sample)


def read_sample(path: Path) -> list[Drawn]:
    """Return the drawn rows in the order of reading; [] without a file.

    Raises:
        DataError: The file cannot be read, a line is no drawn row, or a row stands there twice.
    """
    try:
        lines = path.read_text(encoding="utf-8").splitlines() if path.exists() else []
    except (OSError, UnicodeDecodeError) as error:
        raise DataError("KS060", f"{path}: cannot be read ({error}); delete it to draw the sample again") from None
    sample = [_drawn(line, f"{path}:{number}") for number, line in enumerate(lines, start=1)]
    first: dict[str, int] = {}
    for number, each in enumerate(sample, start=1):
        if first.setdefault(each.id, number) != number:
            raise DataError(
                "KS062", f"{path}:{number}: {each.id} stands in line {first[each.id]} already; delete this line"
            )
    return sample


def write_sample(path: Path, sample: Sequence[Drawn]) -> None:
    """Write the drawn rows.

    Raises:
        DataError: The file cannot be written.
    """
    try:
        write_text(path, "".join(f"{json.dumps(asdict(each), ensure_ascii=False)}\n" for each in sample))
    except OSError as error:
        raise DataError("KS063", f"{path}: cannot be written ({error.strerror})") from None


def _precision(drawn: Sequence[Drawn], decisions: Mapping[str, Decision]) -> Precision:
    read = [
        (each, decision)
        for each in drawn
        if (decision := decisions.get(each.id)) is not None and decision.born == each.born and decision.blind
    ]
    right = [
        decision.verdict == "accept"
        and texts_digest(decision.instruction, decision.input, decision.response) == each.texts
        for each, decision in read
    ]
    return Precision(len(drawn), len(read), sum(right))


def _drawn(line: str, place: str) -> Drawn:
    names = {field.name for field in fields(Drawn)}
    try:
        value: Any = json.loads(line)
    except (ValueError, RecursionError):
        value = None
    if not isinstance(value, dict) or value.keys() != names or not all(isinstance(one, str) for one in value.values()):
        raise DataError(
            "KS061",
            f"{place}: must be an object with the texts {', '.join(sorted(names))}; delete the file to draw again",
        )
    return Drawn(**value)
