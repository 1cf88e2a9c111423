"""Reads the records of files, folders of files and hub data sets, each with its place (`file:line`)."""

import csv
import json
import re
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import polars as pl

from kiloset.core.errors import DataError

SUFFIXES = (".jsonl", ".json", ".csv", ".parquet")
DESCRIPTION = "dataset_info.json"
"""File in which `datasets` and LLaMA-Factory describe the files beside it; it has no records."""

Record = tuple[str, Any]
"""A place and a value. The value of a line that cannot be read is the `DataError` that gives the reason."""


def read_records(path: str, setting: str, suffixes: Sequence[str] = SUFFIXES) -> Iterator[Record]:
    """Yield the records of a file, of the files of a folder or of a hub data set, in order.

    Args:
        path: A file, a folder or a hub id.
        setting: The setting that names the path, for messages.
        suffixes: Types of file to read: some of `SUFFIXES` and `.txt`, where each line is a text.

    Raises:
        DataError: A file is missing or a record cannot be read; the message names file and line.
    """
    try:
        files = _files(path, setting, suffixes)
    except OSError as error:
        raise DataError("KS111", f"{path}: cannot be read ({error.strerror}) ({setting})") from None
    for place, value in (record for file in files for record in _records(file, str(file))):
        if isinstance(value, DataError):
            raise value
        yield place, value
    if not files:
        yield from _hub_records(path, setting)


def read_all_records(path: str) -> Iterator[Record]:
    """Yield the records of a file or of the files of a folder, with a `DataError` for each that cannot be read.

    A place names the file without its folder. The folder may be a data set that the library `datasets` saved.

    Raises:
        DataError: The path does not exist, or it is one file of which no record can be read.
    """
    saved = _saved_tables(Path(path))
    files = saved or _files(path, "FILE", SUFFIXES)
    if not files:
        raise DataError("KS112", f"{path}: no such file or folder")
    for file in files:
        name = str(file.relative_to(path)) if saved else file.name
        try:
            yield from _records(file, name)
        except DataError as error:
            if len(files) == 1:
                raise
            yield name, error


def _files(path: str, setting: str, suffixes: Sequence[str]) -> list[Path]:
    """Return the file, or the files of the folder; none if the path is a hub id."""
    try:
        file = Path(path).expanduser()
    except RuntimeError as error:
        raise DataError("KS117", f"{path}: {error} ({setting})") from None
    if file.is_dir():
        files = sorted(each for each in file.iterdir() if each.suffix in suffixes)
        files = [each for each in files if not each.name.startswith(".") and each.name != DESCRIPTION]
        if not files:
            raise DataError("KS118", f"{path}: no {', '.join(suffixes)} file in this folder ({setting})")
        return files
    if file.exists():
        if file.suffix not in suffixes:
            raise DataError("KS119", f"{path}: must end in {', '.join(suffixes)} ({setting})")
        return [file]
    if re.fullmatch(r"[\w.-]+/[\w.-]+", path) and file.suffix not in suffixes and not file.parent.exists():
        return []
    raise DataError("KS120", f"{path}: no such file or folder ({setting})")


def _saved_tables(folder: Path) -> list[Path]:
    """Return the tables of a folder that `datasets` saved, in the order of its splits; none for any other folder."""
    try:
        if (folder / "dataset_dict.json").is_file():
            splits = json.loads((folder / "dataset_dict.json").read_text(encoding="utf-8"))["splits"]
            return [table for split in splits for table in sorted((folder / split).glob("*.arrow"))]
        return sorted(folder.glob("*.arrow")) if (folder / DESCRIPTION).is_file() else []
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise DataError("KS113", f"{folder}: not a data set that can be read ({error})") from None


def _records(file: Path, name: str) -> Iterator[Record]:
    """Yield the records of a file, which places call `name`.

    Raises:
        DataError: The file as a whole cannot be read.
    """
    try:
        if not file.is_file():  # a pipe would never end
            raise DataError("KS121", f"{name}: must be a plain file")
        if file.suffix in (".jsonl", ".txt"):
            yield from _line_records(file, name, _parse_json if file.suffix == ".jsonl" else lambda text, _: text)
        elif file.suffix == ".csv":
            yield from _csv_records(file, name)
        elif file.suffix == ".json":
            yield from _json_records(file, name)
        else:
            table = pl.read_parquet(file) if file.suffix == ".parquet" else pl.read_ipc_stream(file)
            yield from ((f"{name}:{n}", row) for n, row in enumerate(table.iter_rows(named=True), 1))
    except UnicodeDecodeError as error:
        reason = f"{error.reason} at byte {error.start}"
        raise DataError("KS122", f"{name}: not UTF-8 text ({reason}); save it as UTF-8") from None
    except (pl.exceptions.PolarsError, csv.Error) as error:
        reason = str(error).splitlines()[0]
        raise DataError("KS123", f"{name}: not a readable {file.suffix[1:]} file ({reason})") from None
    except OSError as error:
        raise DataError("KS124", f"{name}: cannot be read ({error.strerror or error})") from None


def _line_records(file: Path, name: str, parse: Callable[[str, str], Any]) -> Iterator[Record]:
    """Yield a record for each line that is not blank."""
    with file.open("rb") as lines:
        for number, line in enumerate(lines, 1):
            place = f"{name}:{number}"
            try:
                if text := _decode(line, place).strip():
                    yield place, parse(text, place)
            except DataError as error:
                yield place, error


def _decode(line: bytes, place: str) -> str:
    try:
        return line.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        reason = f"{error.reason} at its byte {error.start}"
        raise DataError("KS125", f"{place}: not UTF-8 text ({reason}); save it as UTF-8") from None


def _parse_json(text: str, place: str) -> Any:
    try:
        return json.loads(text)
    except ValueError as error:
        raise DataError("KS126", f"{place}: not JSON ({error})") from None
    except RecursionError:
        raise DataError("KS127", f"{place}: not readable JSON (nested too deeply)") from None


def _json_records(file: Path, name: str) -> Iterator[Record]:
    values = _parse_json(file.read_text(encoding="utf-8-sig"), name)
    if not isinstance(values, list):
        kind = type(values).__name__
        raise DataError(
            "KS130", f"{name}: must be a list of objects, got {kind}; a file with one object a line is .jsonl"
        )
    yield from ((f"{name}[{number}]", value) for number, value in enumerate(values))


def _csv_records(file: Path, name: str) -> Iterator[Record]:
    """Yield a record for each row, with the line on which the row begins; empty fields are None."""
    limit = csv.field_size_limit(sys.maxsize)  # the library's own limit is 128 kB
    try:
        # `surrogateescape` turns bytes that are not UTF-8 into lone surrogates, which `_csv_row` detects.
        with file.open(encoding="utf-8-sig", errors="surrogateescape", newline="") as lines:
            reader = csv.reader(lines)
            header = next(reader, [])
            line = reader.line_num + 1
            for fields in reader:
                if fields:
                    yield f"{name}:{line}", _csv_row(header, fields, f"{name}:{line}")
                line = reader.line_num + 1
    finally:
        csv.field_size_limit(limit)


def _csv_row(header: list[str], fields: list[str], place: str) -> dict[str, str | None] | DataError:
    if len(fields) != len(header):
        return DataError("KS115", f"{place}: the row has {len(fields)} fields, the header has {len(header)}")
    try:
        "".join(fields).encode()
    except UnicodeEncodeError:
        return DataError("KS116", f"{place}: not UTF-8 text; save it as UTF-8")
    return {key: field or None for key, field in zip(header, fields, strict=True)}


def _hub_records(name: str, setting: str) -> Iterator[Record]:
    import datasets
    import httpx

    try:
        splits = datasets.load_dataset(name)
    except (OSError, ValueError, RuntimeError, httpx.HTTPError, datasets.exceptions.DatasetsError) as error:
        cause = (str(error).strip() or type(error).__name__).splitlines()[0][:200]
        raise DataError(
            "KS131", f"{name}: no such file, and loading it as a hub data set failed ({setting}): {cause}"
        ) from None
    split = "train" if "train" in splits else next(iter(splits))
    yield from ((f"{name}/{split}:{number}", row) for number, row in enumerate(splits[split], 1))
