"""Reads the values that files, folders of them and hub data sets hold, each with its place."""

import json
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import polars as pl

from core.errors import DataError

SUFFIXES = (".jsonl", ".json", ".csv", ".parquet")


def values_of(path: str, setting: str, suffixes: Sequence[str] = SUFFIXES) -> Iterator[tuple[str, Any]]:
    """Yield `(place, value)` of whatever a file, the files of a folder or a hub data set hold, in order.

    Args:
        path: A file, a folder or a hub id.
        setting: The setting that names it, for messages.
        suffixes: Kinds of file that may be read: of `SUFFIXES` and `.txt`, which holds a text a line.

    Raises:
        DataError: It is missing, broken or in another encoding; the message names file and line.
    """
    try:
        files = _files(path, setting, suffixes)
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror}) ({setting})") from None
    if files:
        for file in files:
            yield from _file_values(file)
    else:
        yield from _hub_lines(path, setting)


def _files(path: str, setting: str, suffixes: Sequence[str]) -> list[Path]:
    """Return the file, or those of the folder; none if the path is a hub id."""
    try:
        file = Path(path).expanduser()
    except RuntimeError as error:
        raise DataError(f"{path}: {error} ({setting})") from None
    if file.is_dir():
        parts = sorted(p for p in file.iterdir() if p.suffix in suffixes)
        if not parts:
            raise DataError(f"{path}: no {', '.join(suffixes)} file in this folder ({setting})")
        return parts
    if file.exists():
        if file.suffix not in suffixes:
            raise DataError(f"{path}: must end in {', '.join(suffixes)} ({setting})")
        return [file]
    if re.fullmatch(r"[\w.-]+/[\w.-]+", path) and file.suffix not in suffixes and not file.parent.exists():
        return []
    raise DataError(f"{path}: no such file or folder ({setting})")


def _file_values(file: Path) -> Iterator[tuple[str, Any]]:
    try:
        if not file.is_file():  # a pipe would never end
            raise DataError(f"{file}: must be a plain file")
        if file.suffix == ".jsonl":
            yield from ((place, _from_json(text, place)) for place, text in _text_lines(file))
        elif file.suffix == ".txt":
            yield from _text_lines(file)
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


def _text_lines(file: Path) -> Iterator[tuple[str, str]]:
    """Yield `(file:line, text)` of every line that is not blank."""
    with file.open("rb") as lines:
        for number, line in enumerate(lines, 1):
            place = f"{file}:{number}"
            try:
                text = line.decode("utf-8-sig")
            except UnicodeDecodeError as error:
                raise DataError(
                    f"{place}: not UTF-8 text ({error.reason} at its byte {error.start}); save it as UTF-8"
                ) from None
            if text.strip():
                yield place, text


def _from_json(text: str, place: str) -> Any:
    try:
        return json.loads(text)
    except ValueError as error:
        raise DataError(f"{place}: not JSON ({error})") from None
    except RecursionError:
        raise DataError(f"{place}: not readable JSON (nested too deeply)") from None


def _json(file: Path) -> Iterator[tuple[str, Any]]:
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
    yield from ((f"{file}[{i}]", row) for i, row in enumerate(value))


def _hub_lines(name: str, setting: str) -> Iterator[tuple[str, Any]]:
    import datasets
    import httpx

    try:
        found = datasets.load_dataset(name)
    except (OSError, ValueError, RuntimeError, httpx.HTTPError, datasets.exceptions.DatasetsError) as error:
        cause = (str(error).strip() or type(error).__name__).splitlines()[0][:200]
        raise DataError(f"{name}: no such file, and not to be had as a hub data set ({setting}): {cause}") from None
    split = "train" if "train" in found else next(iter(found))
    yield from ((f"{name}/{split}:{n}", row) for n, row in enumerate(found[split], 1))
