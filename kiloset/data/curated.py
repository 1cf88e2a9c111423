"""The curated set as a file: one conversation a line, split, and safe from being overwritten once edited by hand."""

import hashlib
import json
from fractions import Fraction
from typing import Any

import polars as pl

from kiloset.core.run import RunFolder, file_sha256, write_text
from kiloset.core.table import user_turn
from kiloset.generator.categories import apportion


def curated_text(table: pl.DataFrame, validation: float, seed: int) -> str:
    """Return what curated.jsonl says of a table."""
    held_out = validation_ids(table, validation, seed)
    lines = [json.dumps(_line(row, row["id"] in held_out), ensure_ascii=False) for row in table.iter_rows(named=True)]
    return "".join(f"{line}\n" for line in lines)


def write_curated(folder: RunFolder, text: str) -> None:
    """Write curated.jsonl, and its sha256 to the manifest, by which a later edit is noticed."""
    # Announced before it is written, the file before it still known: a kill in between must not look like an edit.
    announced = {"curated_sha256": hashlib.sha256(text.encode()).hexdigest()}
    if folder.curated.exists():
        announced["curated_before_sha256"] = file_sha256(folder.curated)
    folder.update_manifest(announced)
    write_text(folder.curated, text)


def is_edited(folder: RunFolder, text: str) -> bool:
    """Tell whether curated.jsonl is there, is not as it was written, and does not say `text` either."""
    if not folder.curated.exists():
        return False
    manifest = folder.manifest
    ours = {manifest.get("curated_sha256"), manifest.get("curated_before_sha256")}
    return file_sha256(folder.curated) not in {*ours, hashlib.sha256(text.encode()).hexdigest()}


def validation_ids(table: pl.DataFrame, share: float, seed: int) -> set[str]:
    """Choose the rows held out, in proportion from each category, by a hash of their ids."""
    counts = {str(name): int(n) for name, n in table.group_by("category").len().sort("category").iter_rows()}
    quotas = apportion({name: Fraction(n) for name, n in counts.items()}, int(table.height * share + 0.5))
    chosen: set[str] = set()
    for category, quota in quotas.items():
        ids = table.filter(pl.col("category") == category)["id"].to_list()
        chosen |= set(sorted(ids, key=lambda id: hashlib.sha256(f"{seed}/split/{id}".encode()).digest())[:quota])
    return chosen


def _line(row: dict[str, Any], held_out: bool) -> dict[str, Any]:
    return {
        "messages": [
            {"role": "user", "content": user_turn(row["instruction"], row["input"])},
            {"role": "assistant", "content": row["response"]},
        ],
        "id": row["id"],
        "category": row["category"],
        "source": row["source"],
        "license": row["license"],
        "writer": row["writer"],
        "strategy": row["strategy"],
        "constraints": [{"id": one["id"], "args": json.loads(one["args"])} for one in row["constraints"]],
        "edits": row["edits"],
        "response_source": row["response_source"],
        "response_reason": row["response_reason"],
        "review": row["review"],
        "split": "validation" if held_out else "train",
    }
