"""Reads a run folder for the audit: finished stages, the ledger, and curated.jsonl, which a hand may have edited."""

import json
from dataclasses import dataclass
from typing import Any

import polars as pl

from kiloset.core.config import read_toml
from kiloset.core.errors import DataError
from kiloset.core.run import RunFolder, file_sha256
from kiloset.core.table import full_instruction

CURATED = ("id", "user", "response", "category", "split")


@dataclass(frozen=True, slots=True)
class Edits:
    """How curated.jsonl differs from what the run wrote."""

    untouched: bool
    """The file's sha256 is the manifest's; the counts are then 0."""
    changed: int
    """Rows whose texts or category differ from the last stage's."""
    added: int
    removed: int


def read_stages(run: RunFolder) -> tuple[list[tuple[str, pl.DataFrame]], pl.DataFrame]:
    """Return `(stage, kept rows)` in order, and the ledger of dropped rows.

    Raises:
        DataError: No stage is finished, a file is broken, or the manifest counts drops and the ledger is missing.
    """
    try:
        stages, ledger = run.stages(), run.dropped()
    except (pl.exceptions.PolarsError, OSError) as error:
        raise DataError("KS655", f"{run.path}: a stage's file cannot be read ({str(error).splitlines()[0]})") from None
    if not stages:
        raise DataError("KS656", f"{run.path}: no stage is finished; `make dataset` goes on where it stopped")
    recorded = run.manifest.get("stages", {}).values()
    if (drops := sum(sum(said.get("dropped", {}).values()) for said in recorded)) and not run.dropped_file.exists():
        raise DataError(
            "KS657",
            f"{run.dropped_file}: the ledger is missing, manifest.json counts {drops} dropped rows; put it back, or "
            "`make dataset` makes it anew from the stored completions",
        )
    return stages, ledger


def read_curated(run: RunFolder) -> pl.DataFrame:
    """Return `id`, `user`, `response`, `category` and `split` of each line of curated.jsonl, in order.

    Raises:
        DataError: There is no such file, a line is not such a row, or an id stands twice.
    """
    if not run.curated.exists():
        raise DataError(
            "KS658", f"{run.curated}: not there, the run is not finished; `make dataset` goes on where it stopped"
        )
    rows: dict[str, dict[str, Any]] = {}
    for number, line in enumerate(run.curated.read_bytes().split(b"\n"), start=1):
        if not line.strip():
            continue
        try:
            row = _row_of(json.loads(line.decode("utf-8")))
        except (ValueError, RecursionError) as error:
            raise DataError("KS659", f"{run.curated}:{number}: {_reason(error)}") from None
        if row["id"] in rows:
            raise DataError(
                "KS660",
                f"{run.curated}:{number}: the id {row['id']!r} stands twice; give a copied row an id of its own",
            )
        rows[row["id"]] = row
    return pl.DataFrame(list(rows.values()), schema=dict.fromkeys(CURATED, pl.String))


def read_limit(run: RunFolder, name: str) -> int | None:
    """Return a whole number of `[generate]` in the run's config.toml; None where it is not recorded.

    Raises:
        ConfigError: The file is not TOML.
    """
    found = read_settings(run, "generate").get(name)
    return found if isinstance(found, int) else None


def read_settings(run: RunFolder, name: str) -> dict[str, Any]:
    """Return a table of the run's config.toml, {} where it is not recorded.

    Raises:
        ConfigError: The file is not TOML.
    """
    table = read_toml(run.config).get(name) if run.config.exists() else None
    return table if isinstance(table, dict) else {}


def find_edits(run: RunFolder, curated: pl.DataFrame, final: pl.DataFrame) -> Edits | None:
    """Compare curated.jsonl with the last stage's rows; None if the manifest does not hold the file's sha256."""
    recorded = run.manifest.get("curated_sha256")
    if recorded is None:
        return None
    if recorded == file_sha256(run.curated):
        return Edits(untouched=True, changed=0, added=0, removed=0)
    texts = pl.Series(full_instruction(final), dtype=pl.String)
    before = {row[0]: row for row in final.select("id", texts.alias("user"), "response", "category").iter_rows()}
    now = {row[0]: row for row in curated.drop("split").iter_rows()}
    changed = sum(row != before[id] for id, row in now.items() if id in before)
    return Edits(False, changed, len(now.keys() - before.keys()), len(before.keys() - now.keys()))


def _row_of(line: Any) -> dict[str, str]:
    if not isinstance(line, dict):
        raise ValueError("must be an object")
    messages = line.get("messages")
    if not isinstance(messages, list) or not all(isinstance(turn, dict) for turn in messages):
        raise ValueError('"messages" must be a list of turns')
    said = {str(turn.get("role")): turn.get("content") for turn in messages}
    found: dict[str, Any] = {"the user turn": said.get("user"), "the assistant turn": said.get("assistant")}
    found |= {f'"{name}"': line.get(name) for name in ("id", "category")}
    for name, value in found.items():
        if value is None:
            raise ValueError(f"{name} is missing")
        if not isinstance(value, str):
            raise ValueError(f"{name} must be text, got {value!r}")
        value.encode("utf-8")  # half of a surrogate pair, which JSON can spell, is no text
    user, response, id, category = found.values()
    return {"id": id, "user": user, "response": response, "category": category, "split": str(line.get("split", ""))}


def _reason(error: Exception) -> str:
    if isinstance(error, json.JSONDecodeError):
        return f"not JSON ({error.msg} at column {error.colno})"
    if isinstance(error, (UnicodeDecodeError, UnicodeEncodeError)):
        return f"not UTF-8 text ({error.reason})"
    return "not JSON (nested too deep)" if isinstance(error, RecursionError) else str(error)
