"""Reads examples from files: seeds, a pool, and any file to its end. Layouts are those of `kiloset.data.layouts`."""

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from itertools import islice
from typing import Any

import polars as pl

from kiloset.core.config import Natural, settings
from kiloset.core.errors import DataError, EmptyError
from kiloset.core.table import ROW, table_of, user_turn
from kiloset.data.files import read_all_records, read_records
from kiloset.data.layouts import Example, check_object, parse_examples, text_field, without_lone_surrogates

MIN_WORDS, MAX_WORDS = 3, 150
"""Length in words of a first paragraph that can be an instruction of its own: not a greeting and not a whole text."""
FILE_COLUMNS: dict[str, Any] = {"place": pl.String, "user": pl.String, "turns": pl.UInt32}


@settings
class SeedsConfig:
    """The `[seeds]` table: the examples that everything starts from."""

    path: str = "seeds/seeds.jsonl"
    """A .jsonl, .json, .csv or .parquet file, a folder of such files, or a `datasets` hub id (owner/name)."""
    license: str = "unknown"
    """SPDX id of seeds that name none themselves."""
    in_set: bool = False
    """Whether seeds may be selected into the curated set; otherwise SIZE counts new rows only."""


@settings
class PoolConfig:
    """The `[pool]` table: an existing instruction data set whose rows are candidates beside the generated ones."""

    path: str = ""
    """As in [seeds]; "" is none."""
    license: str = "unknown"
    """SPDX id of rows that name none themselves."""
    limit: Natural = 0
    """Read only this many rows; 0 reads all."""


@dataclass(frozen=True, slots=True)
class ExampleFile:
    """The examples of a file, and the lines that cannot be read."""

    table: pl.DataFrame
    """Rows as in `kiloset.core.table.ROW`, `source` `pool`, with `place`, `user` (the user turn) and `turns` (of the user)."""
    lines: int
    """Lines that are not blank; a line of Self-Instruct may have several rows."""
    broken: tuple[tuple[str, str], ...]
    """Place and reason of each line that cannot be read."""
    layouts: dict[str, int]
    """Rows by layout, the most frequent first."""
    systems: int
    """Rows with a system turn, which is not read."""


def load_seeds(path: str, *, license: str, table: str = "seeds") -> pl.DataFrame:
    """Read seeds, with ids `s0001` …; the category of rows without one is "".

    Args:
        path: A file, a folder or a hub id.
        license: SPDX id of rows that name none.
        table: The config table that names the path, for messages.

    Raises:
        DataError: A file is missing or cannot be read, a record lacks a field, or a text is empty; the message names the
            file and the line.
        EmptyError: There is no example.
    """
    examples = (_complete(*each) for each in _examples(read_records(path, f"[{table}] path")))
    return _table(examples, "s{:04d}", path, table, source="seed", writer="human", license=license)


def load_pool(path: str, *, license: str, limit: int = 0) -> pl.DataFrame:
    """Read a pool, with ids `p00001` …; the category of rows without one is "".

    An empty instruction or response stays "", and half an escaped character becomes U+FFFD: rules drop such rows later with
    a reason, so one faulty row in a million does not stop a run.

    Args:
        path: A file, a folder or a hub id.
        license: SPDX id of rows that name none.
        limit: Largest number of rows to read; 0 reads all.

    Raises:
        DataError: A file is missing or cannot be read, or a record lacks a field; the message names file and line.
        EmptyError: There is no example.
    """
    records = ((place, without_lone_surrogates(value)) for place, value in read_records(path, "[pool] path"))
    examples = islice(_examples(records), limit or None)
    return _table(examples, "p{:05d}", path, "pool", source="pool", writer="unknown", license=license)


def read_example_file(path: str) -> ExampleFile:
    """Read every line of a file or of the files of a folder; lines that cannot be read are listed.

    In a conversation the first user turn and the last response are read. In every layout the user turn is split at its
    first empty line, since a chat has instruction and input in one turn.

    Raises:
        DataError: The path is missing, a whole file cannot be read, or no line has an example; the message names the first
            reason.
        EmptyError: There is no line.
    """
    rows: list[dict[str, Any]] = []
    broken: list[tuple[str, str]] = []
    layouts: Counter[str] = Counter()
    lines = systems = 0
    for lines, (place, value) in enumerate(read_all_records(path), 1):  # noqa: B007
        try:
            if isinstance(value, DataError):
                raise value
            record = check_object(without_lone_surrogates(value), place)
            examples = parse_examples(record, place)
            license = text_field(record, ("license", "licence"), place)
        except DataError as error:
            broken.append((place, error.message.removeprefix(f"{place}: ")))
            continue
        rows += [{**_file_row(example, place), "license": license} for example in examples]
        layouts.update(example.layout for example in examples)
        systems += sum(bool(example.system) for example in examples)
    if not lines:
        raise EmptyError("KS132", f"{path}: no line in it")
    if not rows:
        raise DataError("KS133", f"{path}: {lines} lines, but no instruction with a response; {': '.join(broken[0])}")
    rows = [{"id": f"r{number:05d}", **row} for number, row in enumerate(rows, 1)]
    added = pl.DataFrame([{name: row[name] for name in FILE_COLUMNS} for row in rows], schema=FILE_COLUMNS)
    table = table_of([{name: row[name] for name in ROW if name in row} for row in rows]).hstack(added)
    return ExampleFile(table, lines, tuple(broken), dict(layouts.most_common()), systems)


def _examples(records: Iterable[tuple[str, Any]]) -> Iterator[tuple[str, Mapping[str, Any], Example]]:
    """Yield `(place, record, example)`; in a conversation an answer must follow the first user turn."""
    places: dict[str, str] = {}
    for place, value in records:
        record = check_object(value, place)
        if id := _own_id(record, place):
            if id in places:
                raise DataError("KS101", f"{place}: id {id!r} is also at {places[id]}; make ids different or omit them")
            places[id] = place
        for example in parse_examples(record, place):
            if example.first_response is None:
                raise DataError("KS107", f'{place}: "{example.layout}" needs an answer after the first user turn')
            yield place, record, example


def _own_id(record: Mapping[str, Any], place: str) -> str:
    id = record.get("id")
    return str(id) if isinstance(id, int | float) else text_field(record, ("id",), place)


def _complete(place: str, record: Mapping[str, Any], example: Example) -> tuple[str, Mapping[str, Any], Example]:
    """Return the arguments if neither the instruction nor the response is empty."""
    if not example.instruction:
        raise DataError("KS148", f"{place}: the instruction is empty")
    if not example.first_response:
        raise DataError("KS147", f"{place}: the response is empty")
    return place, record, example


def _table(
    examples: Iterable[tuple[str, Mapping[str, Any], Example]], id: str, path: str, table: str, *, source: str,
    writer: str, license: str,
) -> pl.DataFrame:  # fmt: skip
    rows = [
        {
            "id": id.format(number),
            "instruction": "\n\n".join(filter(None, (example.instruction and example.system, example.instruction))),
            "input": example.input,
            "response": example.first_response,
            "category": example.category,
            "category_source": "seed" if example.category else "",
            "source": source,
            "writer": text_field(record, ("writer",), place) or writer,
            "license": text_field(record, ("license",), place) or license,
        }
        for number, (place, record, example) in enumerate(examples, 1)
    ]
    if not rows:
        raise EmptyError("KS102", f"{path}: no example in it; [{table}] path needs at least one")
    return table_of(rows)


def _file_row(example: Example, place: str) -> dict[str, Any]:
    user = user_turn(example.instruction, example.input)
    first, _, rest = user.partition("\n\n")
    is_split = MIN_WORDS <= len(first.split()) <= MAX_WORDS and rest.strip()
    return {
        "source": "pool",
        "category": example.category,
        "instruction": first if is_split else user,
        "input": rest.strip() if is_split else "",
        "response": example.response,
        "place": place,
        "user": user,
        "turns": example.user_turns,
    }
