"""Read a run folder: finished stages, the ledger, settings, and how curated.jsonl was edited by hand."""

from dataclasses import dataclass
from typing import Any

import polars as pl

from kiloset.core.config import read_toml
from kiloset.core.errors import DataError
from kiloset.core.run import RunFolder, file_sha256
from kiloset.core.table import full_instruction


@dataclass(frozen=True, slots=True)
class Edits:
    """How curated.jsonl differs from what the run wrote."""

    untouched: bool
    """The file is what the run wrote; the counts are then 0."""
    changed: int
    """Rows whose texts or category differ from the last stage's."""
    added: int
    removed: int


def read_stages(run: RunFolder) -> tuple[list[tuple[str, pl.DataFrame]], pl.DataFrame]:
    """Return `(stage, kept rows)` in order, and the ledger of dropped rows.

    Raises:
        DataError: No stage is finished, a file is broken, or the ledger is missing although the manifest counts dropped rows.
    """
    try:
        stages, ledger = run.stages(), run.dropped()
    except (pl.exceptions.PolarsError, OSError) as error:
        raise DataError("KS655", f"{run.path}: a stage's file cannot be read ({str(error).splitlines()[0]})") from None
    if not stages:
        raise DataError("KS656", f"{run.path}: no stage is finished; `kiloset dataset` continues the run")
    recorded = run.manifest.get("stages", {}).values()
    if (drops := sum(sum(stage.get("dropped", {}).values()) for stage in recorded)) and not run.dropped_file.exists():
        raise DataError(
            "KS657",
            f"{run.dropped_file}: the ledger is missing, manifest.json counts {drops} dropped rows; put the file back, or "
            "let `kiloset dataset` write it anew from the stored completions",
        )
    return stages, ledger


def read_settings(run: RunFolder, name: str) -> dict[str, Any]:
    """Return a table of the run's config.toml, {} if it is not recorded.

    Raises:
        ConfigError: The file is not TOML.
    """
    table = read_toml(run.config).get(name) if run.config.exists() else None
    return table if isinstance(table, dict) else {}


def read_limit(run: RunFolder, name: str) -> int | None:
    """Return a whole number of `[generate]` in the run's config.toml; None if it is not recorded.

    Raises:
        ConfigError: The file is not TOML.
    """
    value = read_settings(run, "generate").get(name)
    return value if isinstance(value, int) else None


def find_edits(run: RunFolder, curated: pl.DataFrame, final: pl.DataFrame) -> Edits | None:
    """Compare curated.jsonl with the last stage's rows; None if the manifest lacks the sha256 of the written file."""
    recorded = run.manifest.get("curated_sha256")
    if recorded is None:
        return None
    if recorded == file_sha256(run.curated):
        return Edits(untouched=True, changed=0, added=0, removed=0)
    texts = pl.Series(full_instruction(final), dtype=pl.String)
    before = {row[0]: row for row in final.select("id", texts.alias("user"), "response", "category").iter_rows()}
    now = {row[0]: row for row in curated.select("id", "user", "response", "category").iter_rows()}
    changed = sum(row != before[id] for id, row in now.items() if id in before)
    return Edits(False, changed, len(now.keys() - before.keys()), len(before.keys() - now.keys()))
