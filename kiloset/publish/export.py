"""Export curated.jsonl, edits by hand included, to other tools: a folder in one of five layouts, with its split."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import polars as pl

from kiloset.audit.reading import read_settings, read_stages
from kiloset.core.errors import ConfigError, DataError, EmptyError
from kiloset.core.run import RunFolder
from kiloset.core.table import user_turn
from kiloset.data.curated import read_curated
from kiloset.data.splitting import SPLITS, validation_ids
from kiloset.filters.near_duplicates import NearDuplicatesConfig, near_duplicate_pairs
from kiloset.publish.layouts import LAYOUTS
from kiloset.publish.placing import check_place, put_in_place


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
    parts = {id: (one, given) for id, one, given in final.select("id", "instruction", "input").iter_rows()}
    texts = []
    for id, user in curated.rows.select("id", "user").iter_rows():
        instruction, given = parts.get(id, (user, ""))
        texts.append((instruction, given) if user_turn(instruction, given) == user else (user, ""))
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
