"""Reads the values that files, folders of them and hub data sets hold, each with its place."""

import csv
import json
import re
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import polars as pl

from kiloset.core.errors import DataError

SUFFIXES = (".jsonl", ".json", ".csv", ".parquet")
DESCRIBES = "dataset_info.json"
"""What `datasets` and LLaMA-Factory call the file that describes those beside it; it holds no rows, nor do hidden ones."""


@dataclass(frozen=True, slots=True)
class Broken:
    """A line that cannot be read, and why."""

    place: str
    reason: str


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
        raise DataError("KS111", f"{path}: cannot be read ({error.strerror}) ({setting})") from None
    if files:
        for file in files:
            yield from _file_values(file)
    else:
        yield from _hub_lines(path, setting)


def values_or_broken(path: str) -> Iterator[tuple[str, Any]]:
    """Yield `(place, value)` of whatever a file or the files of a folder hold, a `Broken` for each line that cannot be read.

    A place names its file without the folder. A folder may also be a data set that the library `datasets` saved.

    Raises:
        DataError: It is missing, or is one file that cannot be read as a whole: .json and .parquet have no lines to go on with.
    """
    saved = _saved_parts(Path(path))
    files = saved or _files(path, "FILE", SUFFIXES)
    if not files:
        raise DataError("KS112", f"{path}: no such file or folder")
    for file in files:
        name = str(file.relative_to(path)) if saved else file.name
        if file.suffix in (".jsonl", ".csv") and file.is_file():
            yield from _lines_or_broken(file)
            continue
        try:
            yield from ((place.replace(str(file), name, 1), value) for place, value in _file_values(file))
        except DataError as error:
            if len(files) == 1:
                raise
            yield name, Broken(name, str(error).removeprefix(f"{file}: "))


def _saved_parts(folder: Path) -> list[Path]:
    """Return the tables of a folder that `datasets` saved, its splits in order; none if it is no such folder."""
    try:
        if (folder / "dataset_dict.json").is_file():
            splits = json.loads((folder / "dataset_dict.json").read_text(encoding="utf-8"))["splits"]
            return [part for split in splits for part in sorted((folder / split).glob("*.arrow"))]
        return sorted(folder.glob("*.arrow")) if (folder / DESCRIBES).is_file() else []
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise DataError("KS113", f"{folder}: not a data set that can be read ({error})") from None


def _lines_or_broken(file: Path) -> Iterator[tuple[str, Any]]:
    try:
        for number, read in _csv_lines(file) if file.suffix == ".csv" else _json_lines(file):
            place = f"{file.name}:{number}"
            try:
                value = read(place)
            except DataError as error:
                value = Broken(place, str(error).removeprefix(f"{place}: "))
            yield place, value
    except OSError as error:
        raise DataError("KS114", f"{file}: cannot be read ({error.strerror or error})") from None


def _json_lines(file: Path) -> Iterator[tuple[int, Callable[[str], Any]]]:
    """Yield the number of each line that is not blank, and what reads it."""
    with file.open("rb") as lines:
        for number, line in enumerate(lines, 1):
            if line.strip(b" \t\r\n\xef\xbb\xbf"):
                yield number, lambda place, line=line: _from_json(_decoded(line, place), place)  # type: ignore[misc]


def _csv_lines(file: Path) -> Iterator[tuple[int, Callable[[str], Any]]]:
    """Yield the number of the line on which each row begins, and what reads it."""
    before = csv.field_size_limit(sys.maxsize)  # the library's own limit is 128 kB
    try:
        # What is not UTF-8 becomes half characters here, by which `_csv_row` knows it.
        with file.open(encoding="utf-8-sig", errors="surrogateescape", newline="") as lines:
            reader = csv.reader(lines)
            header = next(reader, [])
            begin = reader.line_num + 1
            for row in reader:
                if row:
                    yield begin, lambda place, row=row: _csv_row(header, row, place)  # type: ignore[misc]
                begin = reader.line_num + 1
    finally:
        csv.field_size_limit(before)


def _csv_row(header: list[str], row: list[str], place: str) -> dict[str, str]:
    if len(row) != len(header):
        raise DataError("KS115", f"{place}: has {len(row)} fields, the header {len(header)}")
    try:
        "".join(row).encode()
    except UnicodeEncodeError:
        raise DataError("KS116", f"{place}: not UTF-8 text; save it as UTF-8") from None
    return dict(zip(header, row, strict=True))


def _files(path: str, setting: str, suffixes: Sequence[str]) -> list[Path]:
    """Return the file, or those of the folder; none if the path is a hub id."""
    try:
        file = Path(path).expanduser()
    except RuntimeError as error:
        raise DataError("KS117", f"{path}: {error} ({setting})") from None
    if file.is_dir():
        found = (p for p in file.iterdir() if p.suffix in suffixes)
        parts = sorted(p for p in found if not p.name.startswith(".") and p.name != DESCRIBES)
        if not parts:
            raise DataError("KS118", f"{path}: no {', '.join(suffixes)} file in this folder ({setting})")
        return parts
    if file.exists():
        if file.suffix not in suffixes:
            raise DataError("KS119", f"{path}: must end in {', '.join(suffixes)} ({setting})")
        return [file]
    if re.fullmatch(r"[\w.-]+/[\w.-]+", path) and file.suffix not in suffixes and not file.parent.exists():
        return []
    raise DataError("KS120", f"{path}: no such file or folder ({setting})")


def _file_values(file: Path) -> Iterator[tuple[str, Any]]:
    try:
        if not file.is_file():  # a pipe would never end
            raise DataError("KS121", f"{file}: must be a plain file")
        if file.suffix == ".jsonl":
            yield from ((place, _from_json(text, place)) for place, text in _text_lines(file))
        elif file.suffix == ".txt":
            yield from _text_lines(file)
        elif file.suffix == ".json":
            yield from _json(file)
        else:
            frame = _READERS[file.suffix](file)
            first = 2 if file.suffix == ".csv" else 1
            yield from ((f"{file}:{n}", row) for n, row in enumerate(frame.iter_rows(named=True), first))
    except UnicodeDecodeError as error:
        raise DataError(
            "KS122", f"{file}: not UTF-8 text ({error.reason} at byte {error.start}); save it as UTF-8"
        ) from None
    except pl.exceptions.PolarsError as error:
        raise DataError(
            "KS123", f"{file}: not a readable {file.suffix[1:]} file ({str(error).splitlines()[0]})"
        ) from None
    except OSError as error:
        raise DataError("KS124", f"{file}: cannot be read ({error.strerror or error})") from None


_READERS: dict[str, Callable[[Path], pl.DataFrame]] = {
    ".csv": lambda file: pl.read_csv(file, infer_schema=False),
    ".parquet": pl.read_parquet,
    ".arrow": pl.read_ipc_stream,
}


def _text_lines(file: Path) -> Iterator[tuple[str, str]]:
    """Yield `(file:line, text)` of every line that is not blank."""
    with file.open("rb") as lines:
        for number, line in enumerate(lines, 1):
            place = f"{file}:{number}"
            text = _decoded(line, place)
            if text.strip():
                yield place, text


def _decoded(line: bytes, place: str) -> str:
    try:
        return line.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise DataError(
            "KS125", f"{place}: not UTF-8 text ({error.reason} at its byte {error.start}); save it as UTF-8"
        ) from None


def _from_json(text: str, place: str) -> Any:
    try:
        return json.loads(text)
    except ValueError as error:
        raise DataError("KS126", f"{place}: not JSON ({error})") from None
    except RecursionError:
        raise DataError("KS127", f"{place}: not readable JSON (nested too deeply)") from None


def _json(file: Path) -> Iterator[tuple[str, Any]]:
    try:
        value = json.loads(file.read_text(encoding="utf-8-sig"))
    except UnicodeDecodeError:
        raise
    except ValueError as error:
        raise DataError("KS128", f"{file}: not JSON ({error})") from None
    except RecursionError:
        raise DataError("KS129", f"{file}: not readable JSON (nested too deeply)") from None
    if not isinstance(value, list):
        raise DataError(
            "KS130", f"{file}: must hold a list of objects, found {type(value).__name__}; one object a line is .jsonl"
        )
    yield from ((f"{file}[{i}]", row) for i, row in enumerate(value))


def _hub_lines(name: str, setting: str) -> Iterator[tuple[str, Any]]:
    import datasets
    import httpx

    try:
        found = datasets.load_dataset(name)
    except (OSError, ValueError, RuntimeError, httpx.HTTPError, datasets.exceptions.DatasetsError) as error:
        cause = (str(error).strip() or type(error).__name__).splitlines()[0][:200]
        raise DataError(
            "KS131", f"{name}: no such file, and not to be had as a hub data set ({setting}): {cause}"
        ) from None
    split = "train" if "train" in found else next(iter(found))
    yield from ((f"{name}/{split}:{n}", row) for n, row in enumerate(found[split], 1))
