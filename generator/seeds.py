"""Read seeds and pools: our own layout, Alpaca, chat messages, ShareGPT turns and Self-Instruct, from files or the hub."""

import json
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import polars as pl

from core.config import Natural, settings
from core.errors import DataError, EmptyError
from core.table import table_of

Line = tuple[str, Mapping[str, Any]]
SUFFIXES = (".jsonl", ".json", ".csv", ".parquet")
LONE_SURROGATE = re.compile("[\ud800-\udfff]")
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

    Args:
        path: A file, a folder or a hub id.
        prefix: First letter of the ids, `s` or `p`.
        source: `seed` or `pool`.
        license: For rows that name none.
        where: The config table, for messages.
        limit: Most rows to read; 0 is all.

    Raises:
        DataError: The file is missing, broken or in another encoding, or a row lacks what it needs; the message names
            file and line.
        EmptyError: There is no row.
    """
    digits = 4 if prefix == "s" else 5
    rows: list[dict[str, Any]] = []
    ids: dict[str, str] = {}
    for place, found in _lines(path, where):
        if (own := _id(found, place)) in ids:
            raise DataError(f"{place}: id {own!r} stands already at {ids[own]}; ids must differ, or be left out")
        if own is not None:
            ids[own] = place
        for example in _examples(found, place):
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
        raise EmptyError(f"{path}: no example in it; [{where}] path needs at least one")
    return table_of(rows[:limit] if limit else rows)


def _lines(path: str, where: str) -> Iterator[Line]:
    """Yield `(place, object)`; the place is `file:line` or `file:row`."""
    try:
        files = _files(path, where)
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror}) ([{where}] path)") from None
    if files:
        for file in files:
            yield from _file_lines(file)
    else:
        yield from _hub_lines(path, where)


def _files(path: str, where: str) -> list[Path]:
    """Return the file, or those of the folder; none if the path is a hub id."""
    try:
        file = Path(path).expanduser()
    except RuntimeError as error:
        raise DataError(f"{path}: {error} ([{where}] path)") from None
    if file.is_dir():
        parts = sorted(p for p in file.iterdir() if p.suffix in SUFFIXES)
        if not parts:
            raise DataError(f"{path}: no {', '.join(SUFFIXES)} file in this folder ([{where}] path)")
        return parts
    if file.exists():
        if file.suffix not in SUFFIXES:
            raise DataError(f"{path}: must end in {', '.join(SUFFIXES)} ([{where}] path)")
        return [file]
    if re.fullmatch(r"[\w.-]+/[\w.-]+", path) and file.suffix not in SUFFIXES and not file.parent.exists():
        return []
    raise DataError(f"{path}: no such file or folder ([{where}] path)")


def _file_lines(file: Path) -> Iterator[Line]:
    try:
        if not file.is_file():  # a pipe would never end
            raise DataError(f"{file}: must be a plain file")
        if file.suffix == ".jsonl":
            yield from _jsonl(file)
        elif file.suffix == ".json":
            yield from _json(file)
        else:
            frame = pl.read_csv(file, infer_schema=False) if file.suffix == ".csv" else pl.read_parquet(file)
            first = 2 if file.suffix == ".csv" else 1
            yield from ((f"{file}:{n}", row) for n, row in enumerate(frame.iter_rows(named=True), first))
    except UnicodeDecodeError as error:
        raise DataError(f"{file}: not UTF-8 text ({error.reason} at byte {error.start}); save it as UTF-8") from None
    except pl.exceptions.PolarsError as error:
        raise DataError(f"{file}: not a readable {file.suffix[1:]} file ({str(error).splitlines()[0]})") from None
    except OSError as error:
        raise DataError(f"{file}: cannot be read ({error.strerror or error})") from None


def _jsonl(file: Path) -> Iterator[Line]:
    with file.open("rb") as lines:
        for number, line in enumerate(lines, 1):
            place = f"{file}:{number}"
            try:
                text = line.decode("utf-8-sig")
                if not text.strip():
                    continue
                value = json.loads(text)
            except UnicodeDecodeError as error:
                raise DataError(
                    f"{place}: not UTF-8 text ({error.reason} at its byte {error.start}); save it as UTF-8"
                ) from None
            except ValueError as error:
                raise DataError(f"{place}: not JSON ({error})") from None
            except RecursionError:
                raise DataError(f"{place}: not readable JSON (nested too deeply)") from None
            yield place, _object(value, place)


def _json(file: Path) -> Iterator[Line]:
    try:
        value = json.loads(file.read_text(encoding="utf-8-sig"))
    except UnicodeDecodeError:
        raise
    except ValueError as error:
        raise DataError(f"{file}: not JSON ({error})") from None
    except RecursionError:
        raise DataError(f"{file}: not readable JSON (nested too deeply)") from None
    if not isinstance(value, list):
        raise DataError(
            f"{file}: must hold a list of objects, found {type(value).__name__}; one object a line is .jsonl"
        )
    yield from ((f"{file}[{i}]", _object(row, f"{file}[{i}]")) for i, row in enumerate(value))


def _hub_lines(name: str, where: str) -> Iterator[Line]:
    import datasets
    import httpx

    try:
        found = datasets.load_dataset(name)
    except (OSError, ValueError, RuntimeError, httpx.HTTPError, datasets.exceptions.DatasetsError) as error:
        cause = (str(error).strip() or type(error).__name__).splitlines()[0][:200]
        raise DataError(
            f"{name}: no such file, and not to be had as a hub data set ([{where}] path): {cause}"
        ) from None
    split = "train" if "train" in found else next(iter(found))
    yield from ((f"{name}/{split}:{n}", row) for n, row in enumerate(found[split], 1))


def _object(value: Any, place: str) -> Mapping[str, Any]:
    if not isinstance(value, dict):
        raise DataError(f"{place}: must be an object, found {type(value).__name__}")
    return value


def _examples(found: Mapping[str, Any], place: str) -> Iterator[dict[str, Any]]:
    """Yield the examples of one object, whatever known layout it has."""
    category = _optional(found, ("category",), place)
    for layout in ("messages", "conversations"):
        if found.get(layout) is not None:
            instruction, response = _turns(found[layout], layout, place)
            yield {"instruction": instruction, "input": "", "response": response, "category": category}
            return
    instruction = _needed(found, ("instruction", "prompt", "question"), place)
    if "instances" in found:  # Self-Instruct
        if not isinstance(found["instances"], list) or not found["instances"]:
            raise DataError(f'{place}: "instances" must be a list with at least one {{input, output}}')
        for instance in found["instances"]:
            given = _optional(_object(instance, place), ("input",), place)
            response = _needed(instance, ("output",), place)
            yield {"instruction": instruction, "input": given, "response": response, "category": category}
        return
    given = _optional(found, ("input", "context"), place)
    if given.casefold() in ALPACA_PREAMBLE_INPUTS:
        given = ""
    response = _needed(found, ("response", "output", "completion", "answer"), place)
    yield {"instruction": instruction, "input": given, "response": response, "category": category}


def _turns(turns: Any, layout: str, place: str) -> tuple[str, str]:
    """Return the first user turn, a system turn before it included, and the answer to it."""
    if not isinstance(turns, list) or not turns:
        raise DataError(f'{place}: "{layout}" must be a list of turns')
    said = []
    for turn in turns:
        here = _object(turn, place)
        role = _optional(here, ("role", "from"), place)
        said.append((role, _optional(here, ("content", "value"), place)))
    users = [i for i, (role, _) in enumerate(said) if role in ("user", "human")]
    if not users or users[0] + 1 >= len(said) or said[users[0] + 1][0] not in ("assistant", "gpt", "model"):
        raise DataError(f'{place}: "{layout}" needs a user turn followed by an assistant turn')
    system = "\n\n".join(text for role, text in said[: users[0]] if role == "system" and text)
    instruction, response = said[users[0]][1], said[users[0] + 1][1]
    if not instruction or not response:
        raise DataError(f"{place}: the first user or assistant turn is empty")
    return f"{system}\n\n{instruction}" if system else instruction, response


def _id(found: Mapping[str, Any], place: str) -> str | None:
    value = found.get("id")
    if value is None or isinstance(value, int | float):
        return None if value is None else str(value)
    return _text(value, "id", place)


def _needed(found: Mapping[str, Any], names: tuple[str, ...], place: str) -> str:
    present = next((name for name in names if name in found), None)
    if present is None:
        others = f" (or {', '.join(names[1:])})" if names[1:] else ""
        raise DataError(f'{place}: "{names[0]}"{others} is missing; found {", ".join(found) or "nothing"}')
    text = _text(found[present] if found[present] is not None else "", present, place)
    if not text:
        raise DataError(f'{place}: "{present}" is empty')
    return text


def _optional(found: Mapping[str, Any], names: tuple[str, ...], place: str) -> str:
    """Return the first of these fields that holds any text, "" if none does."""
    texts = [_text(found[name], name, place) for name in names if found.get(name) is not None]
    return next(filter(None, texts), "")


def _text(value: Any, name: str, place: str) -> str:
    if not isinstance(value, str):
        raise DataError(f'{place}: "{name}" must be text, found {type(value).__name__}')
    if (half := LONE_SURROGATE.search(value)) is not None:
        raise DataError(
            f'{place}: "{name}" holds {half[0]!r}, one half of an escaped character; write both halves or neither'
        )
    return value.strip()
