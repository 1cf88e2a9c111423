"""Hands curated.jsonl, edits by hand included, to the next tool: a folder in one of five layouts, split into train and validation."""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import polars as pl

from kiloset.audit.reading import read_curated, read_stages
from kiloset.core.errors import ConfigError, DataError, EmptyError
from kiloset.core.models import PLAIN_TURNS
from kiloset.core.run import RunFolder
from kiloset.core.table import user_turn
from kiloset.data.splitting import ancestors, held_out_rows, tied, tying_threshold
from kiloset.publish.layouts import LAYOUTS, TEXT
from kiloset.publish.placing import check_place, put_in_place

ROWS: dict[str, Any] = {
    "messages": pl.List(pl.Struct({"role": pl.String, "content": pl.String})),
    **dict.fromkeys((*TEXT, "instruction", "input", "split"), pl.String),
}


@dataclass(frozen=True, slots=True)
class Exported:
    """What an export wrote."""

    folder: Path
    rows: dict[str, int]
    """Rows on each side, `train` and `validation`. A side without rows has no file."""
    ties: tuple[int, ...]
    """Rows of each group of more than one, the largest first."""
    moved: int
    """Rows that are on another side than curated.jsonl says."""
    replaced: bool
    """Whether an earlier export lay there."""


def export(
    folder: RunFolder,
    layout: str,
    target: Path,
    validation: float,
    describe: Callable[[Mapping[str, int]], str] | None = None,
) -> Exported:
    """Write a run's curated rows as a new folder, or in place of an untouched export of this run and layout.

    The split is made anew, for that of curated.jsonl knows no groups; it depends on the rows, not on their order.

    Args:
        folder: The run.
        layout: One of `LAYOUTS`.
        target: The folder to make; there may be an empty one, or such an export.
        validation: Share of the rows that is held out, in [0, 1), reached as nearly as whole groups allow.
        describe: Returns what README.md says, given the rows on each side; None: there is none.

    Raises:
        ConfigError: The share is out of range.
        DataError: There is something else at `target`, it cannot be written, a line of curated.jsonl is not a row or does not fit
            the layout, or the run's tables cannot be read.
        EmptyError: curated.jsonl has no row.
    """
    if not 0 <= validation < 1:
        raise ConfigError("KS757", f"--validation must be in [0, 1), got {validation}")
    made = {"run": str(folder.manifest.get("name", folder.path.name)), "format": layout}
    check_place(target, target, made)
    stages, ledger = read_stages(folder)
    rows = read_rows(folder, stages[-1][1], single=layout == "alpaca")
    above = ancestors(pl.concat([stages[-1][1], ledger], how="diagonal_relaxed"))
    groups = tied(rows, above, tying_threshold(folder))
    held_out = held_out_rows(groups, rows, validation)
    side = pl.Series([at in held_out for at in range(rows.height)], dtype=pl.Boolean)
    sides = {"train": rows.filter(~side), "validation": rows.filter(side)}
    counts = {name: part.height for name, part in sides.items()}

    def write(place: Path) -> None:
        LAYOUTS[layout](place, {name: part for name, part in sides.items() if part.height})
        if describe is not None:
            (place / "README.md").write_text(describe(counts), encoding="utf-8")

    replaced = put_in_place(target, made, write)
    return Exported(
        folder=target,
        rows=counts,
        ties=tuple(sorted((len(group) for group in groups if len(group) > 1), reverse=True)),
        moved=sum(part.filter(pl.col("split") != name).height for name, part in sides.items()),
        replaced=replaced,
    )


def summary(done: Exported, validation: float) -> list[str]:
    """Return what to tell of an export, line by line."""
    train, held_out = done.rows["train"], done.rows["validation"]
    lines = [
        f"{done.folder}: {train} rows in train, {held_out} in validation"
        f" ({held_out / (train + held_out):.1%}, asked for {validation:.1%})"
    ]
    if done.replaced:
        lines.append("  in place of an earlier export, which nobody had changed")
    if done.ties:
        lines.append(
            f"  {len(done.ties)} groups of more than one row, {sum(done.ties)} rows in them, the largest of {done.ties[0]}: "
            "near-duplicates and ancestors in the set are on one side"
        )
    else:
        lines.append("  no groups of more than one row")
    lines.append(f"  {done.moved} rows are on another side than in curated.jsonl")
    return lines


def read_rows(folder: RunFolder, final: pl.DataFrame, *, single: bool) -> pl.DataFrame:
    """Return the lines of curated.jsonl in order, with the columns `ROWS`, every text exactly as it stands there.

    `instruction` and `input` are the last stage's where they still make the user turn; else that is the instruction, whole.

    Args:
        folder: The run.
        final: The last stage's rows.
        single: Whether only a user's turn and the answer to it fit the layout.

    Raises:
        DataError: A line is not a row, or does not fit; the message names it.
        EmptyError: There is no line.
    """
    read_curated(folder)  # its checks, which name the line
    parts = {id: (one, given) for id, one, given in final.select("id", "instruction", "input").iter_rows()}
    rows = []
    for number, line in enumerate(folder.curated.read_bytes().split(b"\n"), start=1):
        if line.strip():
            place = f"{folder.curated}:{number}"
            row = json.loads(line)
            messages = _messages(row["messages"], place)
            if single and [turn["role"] for turn in messages] != ["user", "assistant"]:
                raise DataError(
                    "KS758",
                    f"{place}: alpaca holds one user turn and its answer, found "
                    f"{', '.join(turn['role'] for turn in messages)}; choose another --format",
                )
            asked = "\n\n".join(turn["content"] for turn in messages if turn["role"] == "user")
            instruction, given = parts.get(row["id"], (asked, ""))
            if user_turn(instruction, given) != asked:
                instruction, given = asked, ""
            said = {name: _text(row.get(name), f'"{name}"', place) for name in TEXT}
            split = str(row.get("split", ""))
            rows.append({"messages": messages, **said, "instruction": instruction, "input": given, "split": split})
    if not rows:
        raise EmptyError("KS759", f"{folder.curated}: no row in it, so there is nothing to export")
    return pl.DataFrame(rows, schema=ROWS)


def _messages(turns: Sequence[Mapping[str, Any]], place: str) -> list[dict[str, str]]:
    """Return the turns of a line, their roles and texts alone."""
    for number, turn in enumerate(turns, start=1):
        if turn.get("role") not in PLAIN_TURNS:
            known = ", ".join(PLAIN_TURNS)
            raise DataError(
                "KS760", f'{place}: message {number}: "role" must be one of {known}, got {turn.get("role")!r}'
            )
        if not _text(turn.get("content"), f'message {number}: "content"', place).strip():
            raise DataError("KS761", f'{place}: message {number}: "content" is empty')
    roles = [turn["role"] for turn in turns]
    if roles[-1] != "assistant" or "user" not in roles:
        raise DataError(
            "KS762", f"{place}: messages must end with the assistant's, after a user's, got {', '.join(roles)}"
        )
    return [{"role": turn["role"], "content": turn["content"]} for turn in turns]


def _text(value: Any, name: str, place: str) -> str:
    if value is None:
        return ""
    if not isinstance(value, str):
        raise DataError("KS763", f"{place}: {name} must be text, got {value!r}")
    try:
        value.encode("utf-8")
    except UnicodeEncodeError as error:
        raise DataError("KS764", f"{place}: {name} is not UTF-8 text ({error.reason})") from None
    return value
