"""Parquet folders of any size, local or at any fsspec address: listed here, read and written where the work is."""

from collections.abc import Sequence
from typing import Any

import polars as pl

from kiloset.core.errors import DataError


def listed(address: str) -> list[dict[str, Any]]:
    """Return the row groups of a folder's Parquet files, in order: `file`, `number`, `first` (its first row), `rows`, `bytes`.

    Raises:
        DataError: There is no such folder, none of its files is Parquet, or one cannot be read.
    """
    import pyarrow  # type: ignore[import-untyped]
    import pyarrow.parquet as pq  # type: ignore[import-untyped]

    fs, path = _located(address)
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
                found = pq.ParquetFile(opened).metadata
        except (OSError, pyarrow.ArrowException) as error:
            raise DataError("KS024", f"{file}: not a readable parquet file ({str(error).splitlines()[0]})") from None
        for number in range(found.num_row_groups):
            group = found.row_group(number)
            part = {
                "file": file,
                "number": number,
                "first": first,
                "rows": group.num_rows,
                "bytes": group.total_byte_size,
            }
            groups.append({"folder": address, **part})
            first += group.num_rows
    return groups


def columns_of(part: dict[str, Any]) -> list[str]:
    """Return the columns of the file of a row group."""
    import pyarrow.parquet as pq

    fs, _ = _located(part["folder"])
    with fs.open(part["file"], "rb") as opened:
        return list(pq.ParquetFile(opened).schema_arrow.names)


def read_part(part: dict[str, Any], columns: Sequence[str] | None = None) -> pl.DataFrame:
    """Return a row group that `listed` named, with a column `row`, the number of each of its rows in the whole folder."""
    import pyarrow.parquet as pq

    fs, _ = _located(part["folder"])
    with fs.open(part["file"], "rb") as opened:
        found = pl.from_arrow(pq.ParquetFile(opened).read_row_group(part["number"], columns=columns))
    assert isinstance(found, pl.DataFrame)
    return found.with_columns(row=pl.int_range(part["first"], part["first"] + part["rows"], dtype=pl.Int64))


def write_part(address: str, name: str, table: pl.DataFrame) -> None:
    """Write a Parquet file of a folder, which appears whole: a work that is done twice writes the same file."""
    fs, path = _located(address)
    fs.makedirs(path, exist_ok=True)
    partial = f"{path}/.{name}.partial"
    with fs.open(partial, "wb") as file:
        table.write_parquet(file)
    fs.mv(partial, f"{path}/{name}")


def write_json(address: str, name: str, text: str) -> None:
    """Write a text file of a folder."""
    fs, path = _located(address)
    fs.makedirs(path, exist_ok=True)
    with fs.open(f"{path}/{name}", "wb") as file:
        file.write(text.encode())


def is_taken(address: str) -> bool:
    """Tell whether there is something at an address already.

    Raises:
        DataError: It cannot be reached.
    """
    fs, path = _located(address)
    try:
        return bool(fs.exists(path) and (not fs.isdir(path) or fs.ls(path, detail=False)))
    except OSError as error:
        raise DataError("KS025", f"{address}: cannot be reached ({type(error).__name__})") from None


def _located(address: str) -> tuple[Any, str]:
    from fsspec.core import url_to_fs  # type: ignore[import-untyped]

    try:
        fs, path = url_to_fs(address)
    except (ImportError, ValueError) as error:
        raise DataError("KS026", f"{address}: {str(error).splitlines()[0]}") from None
    return fs, path
