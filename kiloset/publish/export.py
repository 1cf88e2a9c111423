"""Export curated.jsonl, edits by hand included, to other tools: a folder in one of five layouts, with its split."""

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import polars as pl

from kiloset.audit.run_folder import read_settings, read_stages
from kiloset.core.errors import ConfigError, DataError, EmptyError
from kiloset.core.run import RunFolder
from kiloset.core.table import user_turn
from kiloset.data.curated import read_curated
from kiloset.data.splitting import SPLITS, validation_ids
from kiloset.filters.near_duplicates import NearDuplicatesConfig, near_duplicate_pairs
from kiloset.publish.placing import check_place, put_in_place

COLUMNS = ("id", "category", "source", "license")
"""Columns of every layout besplits the turns, as text; "" if the line lacks one."""
SHAREGPT = {"system": "system", "user": "human", "assistant": "gpt"}
FACTORY = {"train": "kiloset", "validation": "kiloset_validation"}
"""The name of each split in LLaMA-Factory: `dataset_dir:` this folder, `dataset: kiloset`, `eval_dataset: kiloset_validation`."""


@dataclass(frozen=True, slots=True)
class Exported:
    """What an export wrote."""

    folder: Path
    rows: dict[str, int]
    """Rows of each split, `train` and `validation`. A split without rows has no file."""
    moved: int | None
    """Rows that a new split moved to the other side; None if the split of curated.jsonl was kept."""
    note: str | None
    """A sentence about rows of curated.jsonl without a split, None if there are none."""
    replaced: bool
    """Whether an earlier export was replaced."""


def export(
    folder: RunFolder,
    layout: str,
    target: Path,
    validation: float | None = None,
    describe: Callable[[Mapping[str, int]], str] | None = None,
) -> Exported:
    """Write a run's curated rows as a new folder, or in place of an unchanged export of this run and layout.

    Args:
        folder: The run.
        layout: One of `LAYOUTS`.
        target: The folder to make; it may exist if it is empty or such an export.
        validation: None keeps the split of curated.jsonl. A fraction of the rows, in [0, 1), makes a new one, as the run made
            its own (`kiloset.data.splitting`): for another share, or after near-duplicates were added by hand.
        describe: Returns the text of README.md, given the rows of each split; None writes no README.md.

    Raises:
        ConfigError: The share is out of range.
        DataError: There is something else at `target`, it cannot be written, a line of curated.jsonl is not a row or does not fit
            the layout, or the run's tables cannot be read.
        EmptyError: curated.jsonl has no row.
    """
    if validation is not None and not 0 <= validation < 1:
        raise ConfigError("KS757", f"--validation must be in [0, 1), got {validation}")
    marker = {"run": str(folder.manifest.get("name", folder.path.name)), "format": layout}
    check_place(target, target, marker)
    stages, ledger = read_stages(folder)
    final = stages[-1][1]
    rows, note = export_rows(folder, final, single_turn=layout == "alpaca")
    moved = None
    if validation is not None:
        before = rows["split"]
        rows = _split_anew(folder, rows, pl.concat([final, ledger], how="diagonal_relaxed"), validation)
        moved = int((rows["split"] != before).sum())
    splits = {name: rows.filter(pl.col("split") == name) for name in SPLITS}
    counts = {name: part.height for name, part in splits.items()}

    def write(place: Path) -> None:
        LAYOUTS[layout](place, {name: part for name, part in splits.items() if part.height})
        if describe is not None:
            (place / "README.md").write_text(describe(counts), encoding="utf-8")

    return Exported(target, counts, moved, note, put_in_place(target, marker, write))


def summary(done: Exported) -> list[str]:
    """Return the lines that report an export."""
    train, held_out = done.rows["train"], done.rows["validation"]
    share = held_out / (train + held_out)
    lines = [f"{done.folder}: {train} rows in train, {held_out} in validation ({share:.1%})"]
    if done.replaced:
        lines.append("  replaced an earlier export, which was unchanged")
    if done.moved is None:
        lines.append("  the split is that of curated.jsonl")
    else:
        lines.append(f"  the split is new: {done.moved} rows are on the other side than in curated.jsonl")
    if done.note:
        lines.append(f"  {done.note}")
    return lines


def export_rows(folder: RunFolder, final: pl.DataFrame, *, single_turn: bool) -> tuple[pl.DataFrame, str | None]:
    """Return the rows of curated.jsonl in order, and a note about rows without a split (`Curated.note`).

    The columns are `kiloset.data.curated.SCHEMA`, `instruction` and `input`. Instruction and input are those of the last stage
    if they still make the user turn; else the whole user turn is the instruction.

    Args:
        folder: The run.
        final: The last stage's rows.
        single_turn: Whether the layout only allows one user turn and its answer.

    Raises:
        DataError: A line is not a row, or does not fit the layout; the message names it.
        EmptyError: There is no line.
    """
    curated = read_curated(folder.curated)
    if curated.rows.is_empty():
        raise EmptyError("KS759", f"{folder.curated}: no row in it, so there is nothing to export")
    if single_turn:
        for line, messages in curated.rows.select("line", "messages").iter_rows():
            if [turn["role"] for turn in messages] != ["user", "assistant"]:
                raise DataError(
                    "KS758",
                    f"{folder.curated}:{line}: alpaca allows one user turn and its answer, found "
                    f"{', '.join(turn['role'] for turn in messages)}; choose another --format",
                )
    parts = {id: (one, input_) for id, one, input_ in final.select("id", "instruction", "input").iter_rows()}
    texts = []
    for id, user in curated.rows.select("id", "user").iter_rows():
        instruction, input_ = parts.get(id, (user, ""))
        texts.append((instruction, input_) if user_turn(instruction, input_) == user else (user, ""))
    schema = {"instruction": pl.String, "input": pl.String}
    return curated.rows.hstack(pl.DataFrame(texts, schema=schema, orient="row")), curated.note


def _split_anew(folder: RunFolder, rows: pl.DataFrame, ledger: pl.DataFrame, share: float) -> pl.DataFrame:
    threshold = read_settings(folder, "near_duplicates").get("threshold") or NearDuplicatesConfig().threshold
    chosen = validation_ids(
        rows, ledger, near_duplicate_pairs(rows, threshold), share, int(folder.manifest.get("seed", 0))
    )
    return rows.with_columns(
        split=pl.when(pl.col("id").is_in(sorted(chosen))).then(pl.lit("validation")).otherwise(pl.lit("train"))
    )


def _as_messages(row: Mapping[str, Any]) -> dict[str, Any]:
    return {"messages": row["messages"]}


def _as_alpaca(row: Mapping[str, Any]) -> dict[str, Any]:
    return {"instruction": row["instruction"], "input": row["input"], "output": row["messages"][-1]["content"]}


def _as_sharegpt(row: Mapping[str, Any]) -> dict[str, Any]:
    return {"conversations": [{"from": SHAREGPT[turn["role"]], "value": turn["content"]} for turn in row["messages"]]}


def _as_lines(
    layout: Callable[[Mapping[str, Any]], dict[str, Any]], formatting: str | None = None
) -> Callable[[Path, Mapping[str, pl.DataFrame]], None]:
    """Return a function that writes each split as a .jsonl of this layout and, with a `formatting`, dataset_info.json.

    LLaMA-Factory reads that file. It lacks `columns`, because LLaMA-Factory's defaults are these layouts' own names.
    """

    def write(place: Path, splits: Mapping[str, pl.DataFrame]) -> None:
        for name, rows in splits.items():
            with (place / f"{name}.jsonl").open("w", encoding="utf-8", newline="\n") as file:
                for row in rows.iter_rows(named=True):
                    line = {**layout(row), **{column: row[column] for column in COLUMNS}}
                    file.write(json.dumps(line, ensure_ascii=False) + "\n")
        if formatting is not None:
            entries = {FACTORY[name]: {"file_name": f"{name}.jsonl", "formatting": formatting} for name in splits}
            (place / "dataset_info.json").write_text(json.dumps(entries, indent=2) + "\n", encoding="utf-8")

    return write


def _write_parquet(place: Path, splits: Mapping[str, pl.DataFrame]) -> None:
    for name, rows in splits.items():
        rows.select("messages", *COLUMNS).write_parquet(place / f"{name}.parquet")


def _write_dataset(place: Path, splits: Mapping[str, pl.DataFrame]) -> None:
    from datasets import Dataset, DatasetDict, Features, Value

    text = Value("string")
    features = Features({"messages": [{"role": text, "content": text}], **dict.fromkeys(COLUMNS, text)})
    parts = {
        name: Dataset.from_dict(rows.select(*features).to_dict(as_series=False), features)
        for name, rows in splits.items()
    }
    DatasetDict(parts).save_to_disk(place)


LAYOUTS: dict[str, Callable[[Path, Mapping[str, pl.DataFrame]], None]] = {
    "messages": _as_lines(_as_messages),
    "alpaca": _as_lines(_as_alpaca, "alpaca"),
    "sharegpt": _as_lines(_as_sharegpt, "sharegpt"),
    "parquet": _write_parquet,
    "hf": _write_dataset,
}
"""What writes the splits that have rows into an empty folder, by layout."""
