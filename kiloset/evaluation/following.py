"""Measures instruction following as IFEval does, and reads IFEval's file.

Zhou et al., "Instruction-Following Evaluation for Large Language Models", 2023, arXiv:2311.07911: the fraction of prompts
whose constraints are all satisfied, and the fraction of constraints that are satisfied, each with a strict and a loose
check. The loose check tries 8 variants of the answer for each constraint (`kiloset.core.constraints.check_loose`) and one
passing variant suffices; the constraints of a prompt may pass on different variants. A missing or blank answer satisfies
nothing; an answer that was cut is checked as it stands.

IFEval's file has one JSON object on each line: `key`, `prompt`, `instruction_id_list`, and `kwargs` with one object of
arguments for each id. Copies of the file that were stored as a table give every object every argument, null where it does
not apply, and write whole numbers as 3.0: nulls are dropped and such numbers become integers. An id may occur twice in a
row, with different arguments. The original benchmark draws missing arguments at random; here they are an error.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Annotated, Any

from pydantic import ConfigDict, Field, TypeAdapter, ValidationError

from kiloset.core.constraints import IDS, check, check_loose, validate
from kiloset.core.errors import DataError
from kiloset.evaluation.metrics import Answer, Metric, Prompt

Constraint = tuple[str, Mapping[str, Any]]
"""A constraint's id and its arguments."""
Verdict = tuple[str, bool, bool]
"""A constraint's id, whether the answer passes the strict check, and whether it passes the loose check."""


@dataclass(frozen=True, slots=True)
class Item:
    """A prompt and the constraints that its answer must satisfy."""

    key: str
    """Unique in its set."""
    prompt: str
    constraints: tuple[Constraint, ...]
    """At least one, in the order of the file."""


@dataclass(frozen=True, slots=True)
class _Row:
    """A row of IFEval's file; other fields are ignored."""

    __pydantic_config__ = ConfigDict(strict=True)

    key: Annotated[str, Field(min_length=1)] | int
    prompt: Annotated[str, Field(pattern=r"\S")]
    instruction_id_list: Annotated[list[str], Field(min_length=1)]
    kwargs: list[dict[str, Any]]


def read_ifeval(path: str | Path) -> list[Item]:
    """Return the items of a file in IFEval's format, in order.

    Raises:
        DataError: The file cannot be read, has no rows, or has an invalid row: not JSON, a field of another type, a key that
            is not unique, or a constraint that cannot be checked. The message names the file and the line.
    """
    try:
        lines = Path(path).read_bytes().removeprefix(b"\xef\xbb\xbf").split(b"\n")
    except OSError as error:
        raise DataError("KS505", f"{path}: cannot be read ({error.strerror or error})") from None
    items: list[Item] = []
    line_of: dict[str, int] = {}
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        item = _item(line, f"{path}:{number}")
        if item.key in line_of:
            raise DataError("KS506", f'{path}:{number}: "key" {item.key!r} is already used on line {line_of[item.key]}')
        line_of[item.key] = number
        items.append(item)
    if not items:
        raise DataError("KS507", f"{path}: the file has no rows; expected one JSON object on each line")
    return items


def prompts(items: Sequence[Item]) -> list[Prompt]:
    """Return one prompt for each item, in order, under the item's key."""
    return [Prompt(item.key, ({"role": "user", "content": item.prompt},)) for item in items]


def check_answers(items: Sequence[Item], answers: Mapping[str, Answer]) -> dict[str, list[Verdict]]:
    """Return the verdicts on each item's constraints, in their order, by the item's key.

    Args:
        items: The prompts with their constraints.
        answers: By the item's key. A missing answer or one without text fails every constraint.
    """
    texts = {item.key: answers[item.key].text if item.key in answers else "" for item in items}
    return {
        item.key: [
            (id, check(id, args, texts[item.key]), check_loose(id, args, texts[item.key]))
            for id, args in item.constraints
        ]
        for item in items
    }


def metrics(suite: str, verdicts: Mapping[str, Sequence[Verdict]]) -> list[Metric]:
    """Return four fractions: strict and loose, by prompt and by instruction (IFEval's word for a constraint).

    The metrics by instruction have the prompts as items, with the number of constraints as count: the constraints of one
    answer are not independent, so a resample must draw whole prompts.
    """
    ones = dict.fromkeys(verdicts, 1.0)
    sizes = {key: float(len(each)) for key, each in verdicts.items()}
    strict = {key: [passed for _, passed, _ in each] for key, each in verdicts.items()}
    loose = {key: [passed for _, _, passed in each] for key, each in verdicts.items()}
    return [
        _fraction(f"{suite} strict prompt", {key: all(passed) for key, passed in strict.items()}, ones),
        _fraction(f"{suite} loose prompt", {key: all(passed) for key, passed in loose.items()}, ones),
        _fraction(f"{suite} strict instruction", {key: sum(passed) for key, passed in strict.items()}, sizes),
        _fraction(f"{suite} loose instruction", {key: sum(passed) for key, passed in loose.items()}, sizes),
    ]


def by_type(suite: str, verdicts: Mapping[str, Sequence[Verdict]]) -> list[Metric]:
    """Return the strict fraction for each constraint id that occurs, in the order of `IDS`.

    The items are the prompts with this id; the count is how often the id occurs in the prompt.
    """
    metrics = []
    for wanted in IDS:
        passed = {key: [strict for id, strict, _ in each if id == wanted] for key, each in verdicts.items()}
        passed = {key: each for key, each in passed.items() if each}
        if passed:
            sums, sizes = (
                {k: sum(each) for k, each in passed.items()},
                {k: float(len(each)) for k, each in passed.items()},
            )
            metrics.append(_fraction(f"{suite} {wanted}", sums, sizes))
    return metrics


def _fraction(name: str, sums: Mapping[str, int], counts: Mapping[str, float]) -> Metric:
    return Metric(name, "fraction", "higher", {key: float(value) for key, value in sums.items()}, counts)


@cache
def _row_type() -> TypeAdapter[Any]:
    return TypeAdapter(_Row)


def _item(line: bytes, where: str) -> Item:
    try:
        row: _Row = _row_type().validate_json(line)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        field = f'"{first["loc"][0]}": ' if first["loc"] else ""
        raise DataError("KS508", f"{where}: {field}{first['msg']}") from None
    if len(row.instruction_id_list) != len(row.kwargs):
        raise DataError(
            "KS516",
            f'{where}: "instruction_id_list" has {len(row.instruction_id_list)} entries and "kwargs" has {len(row.kwargs)}; '
            "expected one object for each id",
        )
    constraints = tuple((id, _args(args)) for id, args in zip(row.instruction_id_list, row.kwargs, strict=True))
    try:
        for id, args in constraints:
            validate(id, args)
    except DataError as error:
        raise DataError("KS517", f"{where}: {error}") from None
    return Item(str(row.key), row.prompt, constraints)


def _args(args: Mapping[str, Any]) -> dict[str, Any]:
    """Drop nulls and turn 3.0 into 3."""
    present = {name: value for name, value in args.items() if value is not None}
    return {name: int(v) if isinstance(v, float) and v.is_integer() else v for name, v in present.items()}
