"""Reads a file of prompts with verifiable constraints, in the layout in which IFEval is released.

Zhou et al., "Instruction-Following Evaluation for Large Language Models", 2023, arXiv:2311.07911. One JSON object a line:
`key`, `prompt`, `instruction_id_list` and `kwargs`, a list with one object of arguments for each id. Copies of the file
that went through a table give every object every argument, null where it is not its own, and write whole numbers as
3.0; nulls are dropped and such numbers read as whole. An id may stand twice in a row, with different arguments.

The benchmark fills in an argument that is missing at random; here that is an error, as are values that
`kiloset.core.constraints.validate` refuses.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from kiloset.core.constraints import validate
from kiloset.core.errors import DataError

Constraint = tuple[str, Mapping[str, Any]]
"""An id and its arguments."""


@dataclass(frozen=True, slots=True)
class Item:
    """A prompt and what its answer must obey."""

    key: str
    """Unique in its set."""
    prompt: str
    constraints: tuple[Constraint, ...]
    """At least one, in the order of the file."""


def read_ifeval(path: str | Path) -> list[Item]:
    """Return the items of a file, in order.

    Raises:
        DataError: In one line that names the file and the line: it cannot be read, is not UTF-8 or not JSON, a row lacks a
            field, repeats a key or holds a constraint that cannot be checked, or there are no rows.
    """
    try:
        lines = Path(path).read_bytes().removeprefix(b"\xef\xbb\xbf").split(b"\n")
    except OSError as error:
        raise DataError("KS505", f"{path}: cannot be read ({error.strerror or error})") from None
    items: list[Item] = []
    places: dict[str, str] = {}
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        place = f"{path}:{number}"
        item = _item(_object(line, place), place)
        if item.key in places:
            raise DataError(
                "KS506", f'{place}: "key" {_short(item.key)} stands at {places[item.key]} too; it must be unique'
            )
        places[item.key] = place
        items.append(item)
    if not items:
        raise DataError("KS507", f"{path}: no rows; there must be one JSON object a line")
    return items


def _object(line: bytes, place: str) -> dict[str, Any]:
    try:
        row = json.loads(line.decode("utf-8"))
    except UnicodeDecodeError as error:
        raise DataError(
            "KS508", f"{place}: not UTF-8 text ({error.reason} at its byte {error.start}); save it as UTF-8"
        ) from None
    except (ValueError, RecursionError) as error:
        raise DataError("KS509", f"{place}: not JSON ({error})") from None
    if not isinstance(row, dict):
        raise DataError("KS510", f"{place}: must be a JSON object, got {_short(row)}")
    return row


def _item(row: Mapping[str, Any], place: str) -> Item:
    for name in ("key", "prompt", "instruction_id_list", "kwargs"):
        if name not in row:
            raise DataError("KS511", f'{place}: "{name}" is missing')
    key, prompt = row["key"], row["prompt"]
    if isinstance(key, bool) or not isinstance(key, str | int) or key == "":
        raise DataError("KS512", f'{place}: "key" must be a whole number or text, got {_short(key)}')
    if not isinstance(prompt, str) or not prompt.strip():
        raise DataError("KS513", f'{place}: "prompt" must be text, not blank, got {_short(prompt)}')
    return Item(str(key), prompt, _constraints(row["instruction_id_list"], row["kwargs"], place))


def _constraints(ids: Any, kwargs: Any, place: str) -> tuple[Constraint, ...]:
    if not isinstance(ids, list) or not ids:
        raise DataError("KS514", f'{place}: "instruction_id_list" must be a list of at least one id, got {_short(ids)}')
    if not isinstance(kwargs, list) or not all(isinstance(args, dict) for args in kwargs):
        raise DataError("KS515", f'{place}: "kwargs" must be a list of objects, got {_short(kwargs)}')
    if len(ids) != len(kwargs):
        raise DataError(
            "KS516",
            f'{place}: "instruction_id_list" has {len(ids)} and "kwargs" {len(kwargs)}; there must be one for each id',
        )
    constraints = tuple((id, _args(args)) for id, args in zip(ids, kwargs, strict=True))
    try:
        for id, args in constraints:
            validate(id, args)
    except DataError as error:
        raise DataError("KS517", f"{place}: {error}") from None
    return constraints


def _args(args: Mapping[str, Any]) -> dict[str, Any]:
    """Drop what is null, and read 3.0 as 3."""
    given = {name: value for name, value in args.items() if value is not None}
    return {name: int(v) if isinstance(v, float) and v.is_integer() else v for name, v in given.items()}


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 80 else f"{text[:77]}..."
