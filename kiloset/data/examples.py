"""Read seeds and pools: our own layout, Alpaca, chat messages, ShareGPT turns and Self-Instruct, from files or the hub."""

import re
from collections.abc import Iterator, Mapping
from typing import Any

import polars as pl

from kiloset.core.config import Natural, settings
from kiloset.core.errors import DataError, EmptyError
from kiloset.core.table import table_of, user_turn
from kiloset.data.files import values_of

Line = tuple[str, Mapping[str, Any]]
LONE_SURROGATE = re.compile("[\ud800-\udfff]")
USERS = ("user", "human")
ASSISTANTS = ("assistant", "gpt", "model")
INSTRUCTIONS = ("instruction", "prompt", "question")
RESPONSES = ("response", "output", "completion", "answer")
ALPACA_PREAMBLE_INPUTS = {"", "<noinput>", "noinput", "n/a", "none"}


@settings
class SeedsConfig:
    """The `[seeds]` table: the examples that everything starts from."""

    path: str = "seeds/seeds.jsonl"
    """A .jsonl, .json, .csv or .parquet file, a folder of them, or a `datasets` hub id (owner/name)."""
    license: str = "unknown"
    """SPDX id of seeds that name none themselves."""
    in_set: bool = False
    """Whether seeds may be selected into the curated set; otherwise SIZE counts new rows only."""


@settings
class PoolConfig:
    """The `[pool]` table: an existing instruction data set whose rows stand as candidates beside what is generated."""

    path: str = ""
    """As in [seeds]; "" is none."""
    license: str = "unknown"
    """SPDX id of rows that name none themselves."""
    limit: Natural = 0
    """Read only this many rows; 0 reads all."""


def load_examples(path: str, *, prefix: str, source: str, license: str, where: str, limit: int = 0) -> pl.DataFrame:
    """Read examples into a table with ids `<prefix>00001` …; rows without a category have "".

    A seed has to be whole. Of a pool's rows an empty instruction or response stays "", and half an escaped character becomes
    U+FFFD: rules drop these later, with their reason, and one faulty row in a million does not stop a run.

    Args:
        path: A file, a folder or a hub id.
        prefix: First letter of the ids, `s` or `p`.
        source: `seed` or `pool`.
        license: For rows that name none.
        where: The config table, for messages.
        limit: Most rows to read; 0 is all.

    Raises:
        DataError: The file is missing, broken or in another encoding, a row has not the fields it needs, or a seed is not
            whole; the message names file and line.
        EmptyError: There is no row.
    """
    digits = 4 if prefix == "s" else 5
    rows: list[dict[str, Any]] = []
    ids: dict[str, str] = {}
    lines, examples_of = _lines(path, where), _examples
    if source == "pool":
        lines, examples_of = ((place, _mended(found)) for place, found in lines), _examples_whole_or_not
    for place, found in lines:
        if (own := _id(found, place)) in ids:
            raise DataError(
                "KS101", f"{place}: id {own!r} stands already at {ids[own]}; ids must differ, or be left out"
            )
        if own is not None:
            ids[own] = place
        for example in examples_of(found, place):
            number = len(rows) + 1
            rows.append(
                {
                    **example,
                    "id": f"{prefix}{number:0{digits}d}",
                    "source": source,
                    "writer": _optional(found, ("writer",), place) or ("human" if source == "seed" else "unknown"),
                    "license": _optional(found, ("license",), place) or license,
                    "category_source": "seed" if example["category"] else "",
                }
            )
        if limit and len(rows) >= limit:
            break
    if not rows:
        raise EmptyError("KS102", f"{path}: no example in it; [{where}] path needs at least one")
    return table_of(rows[:limit] if limit else rows)


class _NotWholeError(DataError):
    """A text that an example needs is empty, or holds what is no text."""


def _lines(path: str, where: str) -> Iterator[Line]:
    """Yield `(place, object)`; the place is `file:line` or `file:row`."""
    for place, value in values_of(path, f"[{where}] path"):
        yield place, _object(value, place)


def _object(value: Any, place: str) -> Mapping[str, Any]:
    if not isinstance(value, dict):
        raise DataError("KS103", f"{place}: must be an object, found {type(value).__name__}")
    return value


def _examples(found: Mapping[str, Any], place: str) -> Iterator[dict[str, Any]]:
    """Yield the examples of one object, whatever known layout it has."""
    category = _optional(found, ("category",), place)
    for layout in ("messages", "conversations"):
        if found.get(layout) is not None:
            instruction, response = _turns(found[layout], layout, place)
            yield {"instruction": instruction, "input": "", "response": response, "category": category}
            return
    instruction = _needed(found, INSTRUCTIONS, place)
    if "instances" in found:  # Self-Instruct
        if not isinstance(found["instances"], list) or not found["instances"]:
            raise DataError("KS104", f'{place}: "instances" must be a list with at least one {{input, output}}')
        for instance in found["instances"]:
            given = _optional(_object(instance, place), ("input",), place)
            response = _needed(instance, ("output",), place)
            yield {"instruction": instruction, "input": given, "response": response, "category": category}
        return
    given = _given(found, place)
    response = _needed(found, RESPONSES, place)
    yield {"instruction": instruction, "input": given, "response": response, "category": category}


def _examples_whole_or_not(found: Mapping[str, Any], place: str) -> Iterator[dict[str, Any]]:
    """Yield the examples of one object, with what texts there are."""
    try:
        yield from list(_examples(found, place))
    except _NotWholeError:
        layouts = [name for name in ("messages", "conversations") if found.get(name) is not None]
        turns = [turn for name in layouts for turn in _said(found[name], name, place)]
        asked, said = ([text for role, text in turns if role in roles] for roles in (USERS, ASSISTANTS))
        instances = found.get("instances") or [{}]
        if not isinstance(instances, list):
            raise DataError(
                "KS105", f'{place}: "instances" must be a list with at least one {{input, output}}'
            ) from None
        for instance in instances:
            both = {**found, **_object(instance, place)}
            yield {
                "instruction": asked[0] if asked else _optional(found, INSTRUCTIONS, place),
                "input": _given(both, place),
                "response": said[0] if said else _optional(both, RESPONSES, place),
                "category": _optional(found, ("category",), place),
            }


def _mended(value: Any) -> Any:
    """Return a JSON value with the replacement character for each half of an escaped one."""
    if isinstance(value, str):
        return LONE_SURROGATE.sub("\ufffd", value)
    if isinstance(value, Mapping):
        return {name: _mended(inner) for name, inner in value.items()}
    return [_mended(inner) for inner in value] if isinstance(value, list) else value


def prompt_of(value: Any, place: str) -> str:
    """Return the user turn that a value of any known layout begins with; a plain text is one.

    Raises:
        DataError: It holds none; the message names the place.
    """
    if isinstance(value, str):
        return _needed({"text": value}, ("text",), place)
    found = _object(value, place)
    for layout in ("messages", "conversations"):
        if found.get(layout) is not None:
            turn = next((text for role, text in _said(found[layout], layout, place) if role in USERS), "")
            if not turn:
                raise DataError("KS106", f'{place}: "{layout}" needs a user turn that is not empty')
            return turn
    return user_turn(_needed(found, (*INSTRUCTIONS, "text", "content"), place), _given(found, place))


def _given(found: Mapping[str, Any], place: str) -> str:
    given = _optional(found, ("input", "context"), place)
    return "" if given.casefold() in ALPACA_PREAMBLE_INPUTS else given


def _turns(turns: Any, layout: str, place: str) -> tuple[str, str]:
    """Return the first user turn, a system turn before it included, and the answer to it."""
    said = _said(turns, layout, place)
    users = [i for i, (role, _) in enumerate(said) if role in USERS]
    if not users or users[0] + 1 >= len(said) or said[users[0] + 1][0] not in ASSISTANTS:
        raise DataError("KS107", f'{place}: "{layout}" needs a user turn followed by an assistant turn')
    system = "\n\n".join(text for role, text in said[: users[0]] if role == "system" and text)
    instruction, response = said[users[0]][1], said[users[0] + 1][1]
    if not instruction or not response:
        raise _NotWholeError("KS147", f"{place}: the first user or assistant turn is empty")
    return f"{system}\n\n{instruction}" if system else instruction, response


def _said(turns: Any, layout: str, place: str) -> list[tuple[str, str]]:
    """Return `(role, text)` of every turn."""
    if not isinstance(turns, list) or not turns:
        raise DataError("KS108", f'{place}: "{layout}" must be a list of turns')
    return [_turn(turn, place) for turn in turns]


def _turn(turn: Any, place: str) -> tuple[str, str]:
    here = _object(turn, place)
    return _optional(here, ("role", "from"), place), _optional(here, ("content", "value"), place)


def _id(found: Mapping[str, Any], place: str) -> str | None:
    value = found.get("id")
    if value is None or isinstance(value, int | float):
        return None if value is None else str(value)
    return _text(value, "id", place)


def _needed(found: Mapping[str, Any], names: tuple[str, ...], place: str) -> str:
    present = next((name for name in names if name in found), None)
    if present is None:
        others = f" (or {', '.join(names[1:])})" if names[1:] else ""
        raise DataError("KS109", f'{place}: "{names[0]}"{others} is missing; found {", ".join(found) or "nothing"}')
    text = _text(found[present] if found[present] is not None else "", present, place)
    if not text:
        raise _NotWholeError("KS148", f'{place}: "{present}" is empty')
    return text


def _optional(found: Mapping[str, Any], names: tuple[str, ...], place: str) -> str:
    """Return the first of these fields that holds any text, "" if none does."""
    texts = [_text(found[name], name, place) for name in names if found.get(name) is not None]
    return next(filter(None, texts), "")


def _text(value: Any, name: str, place: str) -> str:
    if not isinstance(value, str):
        raise DataError("KS110", f'{place}: "{name}" must be text, found {type(value).__name__}')
    if (half := LONE_SURROGATE.search(value)) is not None:
        raise _NotWholeError(
            "KS149",
            f'{place}: "{name}" holds {half[0]!r}, one half of an escaped character; write both halves or neither',
        )
    return value.strip()
