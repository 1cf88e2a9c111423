"""The layouts that other tools load: five, and what LLaMA-Factory needs to be told of two of them."""

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import polars as pl

TEXT = ("id", "category", "source", "license")
"""What every layout tells of a row besides its turns, as text; "" where the line says nothing."""
SHAREGPT = {"system": "system", "user": "human", "assistant": "gpt"}
FACTORY = {"train": "kiloset", "validation": "kiloset_validation"}
"""What LLaMA-Factory calls each side: `dataset_dir:` this folder, `dataset: kiloset`, `eval_dataset: kiloset_validation`."""


def _as_messages(row: Mapping[str, Any]) -> dict[str, Any]:
    return {"messages": row["messages"]}


def _as_alpaca(row: Mapping[str, Any]) -> dict[str, Any]:
    return {"instruction": row["instruction"], "input": row["input"], "output": row["messages"][-1]["content"]}


def _as_sharegpt(row: Mapping[str, Any]) -> dict[str, Any]:
    return {"conversations": [{"from": SHAREGPT[turn["role"]], "value": turn["content"]} for turn in row["messages"]]}


def _as_lines(
    layout: Callable[[Mapping[str, Any]], dict[str, Any]], formatting: str | None = None
) -> Callable[[Path, Mapping[str, pl.DataFrame]], None]:
    """Return a function that writes each side as a .jsonl of this layout and, with a `formatting`, dataset_info.json.

    That file names each side to LLaMA-Factory. `columns` are left out: its defaults are these layouts' own names.
    """

    def write(place: Path, sides: Mapping[str, pl.DataFrame]) -> None:
        for name, rows in sides.items():
            with (place / f"{name}.jsonl").open("w", encoding="utf-8", newline="\n") as file:
                for row in rows.iter_rows(named=True):
                    line = {**layout(row), **{column: row[column] for column in TEXT}}
                    file.write(json.dumps(line, ensure_ascii=False) + "\n")
        if formatting is not None:
            told = {FACTORY[name]: {"file_name": f"{name}.jsonl", "formatting": formatting} for name in sides}
            (place / "dataset_info.json").write_text(json.dumps(told, indent=2) + "\n", encoding="utf-8")

    return write


def _write_parquet(place: Path, sides: Mapping[str, pl.DataFrame]) -> None:
    for name, rows in sides.items():
        rows.select("messages", *TEXT).write_parquet(place / f"{name}.parquet")


def _write_dataset(place: Path, sides: Mapping[str, pl.DataFrame]) -> None:
    from datasets import Dataset, DatasetDict, Features, Value

    text = Value("string")
    features = Features({"messages": [{"role": text, "content": text}], **dict.fromkeys(TEXT, text)})
    made = {
        name: Dataset.from_dict(rows.select(*features).to_dict(as_series=False), features)
        for name, rows in sides.items()
    }
    DatasetDict(made).save_to_disk(place)


LAYOUTS: dict[str, Callable[[Path, Mapping[str, pl.DataFrame]], None]] = {
    "messages": _as_lines(_as_messages),
    "alpaca": _as_lines(_as_alpaca, "alpaca"),
    "sharegpt": _as_lines(_as_sharegpt, "sharegpt"),
    "parquet": _write_parquet,
    "hf": _write_dataset,
}
"""What writes the sides that have rows into an empty folder."""
