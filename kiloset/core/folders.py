"""Folders of Parquet files of any size, local or at any fsspec address."""

from collections.abc import Sequence
from typing import Any

import polars as pl

from kiloset.core.errors import DataError


def row_groups(address: str) -> list[dict[str, Any]]:
    """Return the row groups of a folder's Parquet files, in order: `folder`, `file`, `number`, `first` (first row), `rows`, `bytes`.

    Raises:
        DataError: The folder is missing, has no Parquet file, or a file cannot be read.
    """
    import pyarrow  # type: ignore[import-untyped]
    import pyarrow.parquet as pq  # type: ignore[import-untyped]

    fs, path = _filesystem(address)
    try:
        files = sorted(file for file in fs.ls(path, detail=False) if file.endswith(".parquet"))
    except (OSError, ValueError) as error:
        raise DataError("KS022", f"{address}: no such folder ({type(error).__name__})") from None
    if not files:
        raise DataError("KS023", f"{address}: no .parquet file in this folder")
    groups: list[dict[str, Any]] = []
    first = 0
    for file in files:
        try:
            with fs.open(file, "rb") as opened:
                metadata = pq.ParquetFile(opened).metadata
        except (OSError, pyarrow.ArrowException) as error:
            raise DataError("KS024", f"{file}: not a readable parquet file ({str(error).splitlines()[0]})") from None
        for number in range(metadata.num_row_groups):
            group = metadata.row_group(number)
            groups.append({
                "folder": address, "file": file, "number": number, "first": first, "rows": group.num_rows,
                "bytes": group.total_byte_size,
            })  # fmt: skip
            first += group.num_rows
    return groups


def columns_of(part: dict[str, Any]) -> list[str]:
    """Return the column names of a row group's file."""
    import pyarrow.parquet as pq

    fs, _ = _filesystem(part["folder"])
    with fs.open(part["file"], "rb") as opened:
        return list(pq.ParquetFile(opened).schema_arrow.names)


def read_part(part: dict[str, Any], columns: Sequence[str] | None = None) -> pl.DataFrame:
    """Return a row group of `row_groups` as a table with a column `row`, the row's number in the whole folder."""
    import pyarrow.parquet as pq

    fs, _ = _filesystem(part["folder"])
    with fs.open(part["file"], "rb") as opened:
        table = pl.from_arrow(pq.ParquetFile(opened).read_row_group(part["number"], columns=columns))
    assert isinstance(table, pl.DataFrame)
    return table.with_columns(row=pl.int_range(part["first"], part["first"] + part["rows"], dtype=pl.Int64))


def write_part(address: str, name: str, table: pl.DataFrame) -> None:
    """Write a Parquet file into a folder, atomically; writing the same part again replaces the file."""
    fs, path = _filesystem(address)
    fs.makedirs(path, exist_ok=True)
    partial = f"{path}/.{name}.partial"
    with fs.open(partial, "wb") as file:
        table.write_parquet(file)
    fs.mv(partial, f"{path}/{name}")


def write_json(address: str, name: str, text: str) -> None:
    """Write a text file into a folder."""
    fs, path = _filesystem(address)
    fs.makedirs(path, exist_ok=True)
    with fs.open(f"{path}/{name}", "wb") as file:
        file.write(text.encode())


def is_taken(address: str) -> bool:
    """Return whether an address is a file or a folder that is not empty.

    Raises:
        DataError: The address cannot be reached.
    """
    fs, path = _filesystem(address)
    try:
        return bool(fs.exists(path) and (not fs.isdir(path) or fs.ls(path, detail=False)))
    except OSError as error:
        raise DataError("KS025", f"{address}: cannot be reached ({type(error).__name__})") from None


def _filesystem(address: str) -> tuple[Any, str]:
    from fsspec.core import url_to_fs  # type: ignore[import-untyped]

    try:
        fs, path = url_to_fs(address)
    except (ImportError, ValueError) as error:
        raise DataError("KS026", f"{address}: {str(error).splitlines()[0]}") from None
    return fs, path
