"""Write and read curated.jsonl: one conversation a line, with its split. A person may edit the file by hand."""

import hashlib
import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import polars as pl

from kiloset.core.errors import DataError
from kiloset.core.models import PLAIN_TURNS
from kiloset.core.run import RunFolder, file_sha256, write_text
from kiloset.core.table import user_turn
from kiloset.data.splitting import SPLITS, validation_ids

TEXTS = ("category", "source", "license", "writer")
"""Optional texts of a line; "" if the line lacks them."""
SCHEMA: dict[str, Any] = {
    "id": pl.String,
    "messages": pl.List(pl.Struct({"role": pl.String, "content": pl.String})),
    "user": pl.String,
    "response": pl.String,
    **dict.fromkeys(TEXTS, pl.String),
    "split": pl.String,
    "line": pl.UInt32,
}


@dataclass(frozen=True, slots=True)
class Curated:
    """The rows of a curated.jsonl, in the order of the file."""

    rows: pl.DataFrame
    """The columns `SCHEMA`: `user` joins all user turns, `response` is the last turn, `line` counts from 1."""
    columns: tuple[str, ...]
    """The keys of the file's lines, in order of first appearance."""
    without_split: int
    """Rows whose line has no `split`; they train."""

    def conversations(self, split: str) -> list[dict[str, Any]]:
        """Return `{"id", "messages"}` of each row of a split."""
        return self.rows.filter(pl.col("split") == split).select("id", "messages").to_dicts()

    @property
    def note(self) -> str | None:
        """A sentence about the rows without a split, None if there are none."""
        if not self.without_split:
            return None
        return f'{self.without_split} rows of curated.jsonl have no "split"; they count as train'


def curated_text(
    table: pl.DataFrame, ledger: pl.DataFrame, pairs: Iterable[tuple[int, int, float]], validation: float, seed: int
) -> str:
    """Return the text of curated.jsonl for the final rows of a run, split as in `kiloset.data.splitting`.

    Args:
        table: The final rows.
        ledger: The dropped rows.
        pairs: Row numbers and similarity of near-duplicates in `table`.
        validation: Fraction of the rows for validation, in [0, 1).
        seed: The run's seed.
    """
    rows = pl.concat([table, ledger], how="diagonal_relaxed")
    held_out = validation_ids(table, rows, pairs, validation, seed)
    lines = [json.dumps(_line(row, row["id"] in held_out), ensure_ascii=False) for row in table.iter_rows(named=True)]
    return "".join(f"{line}\n" for line in lines)


def write_curated(folder: RunFolder, text: str) -> None:
    """Write curated.jsonl; its sha256 goes to the manifest, so that `is_edited` notices a later edit."""
    # The manifest comes first and also names the file before: if the process is killed in between, neither looks edited.
    hashes = {"curated_sha256": hashlib.sha256(text.encode()).hexdigest()}
    if folder.curated.exists():
        hashes["curated_before_sha256"] = file_sha256(folder.curated)
    folder.update_manifest(hashes)
    write_text(folder.curated, text)


def is_edited(folder: RunFolder, text: str | None = None) -> bool:
    """Return whether curated.jsonl exists and is neither the file that the run wrote nor equal to `text`, if given."""
    if not folder.curated.exists():
        return False
    manifest = folder.manifest
    ours = {manifest.get("curated_sha256"), manifest.get("curated_before_sha256")}
    if text is not None:
        ours.add(hashlib.sha256(text.encode()).hexdigest())
    return file_sha256(folder.curated) not in ours


def read_curated(path: Path) -> Curated:
    """Read and check a curated.jsonl. Empty lines are skipped; a line needs `id` and `messages`.

    Raises:
        DataError: The file is missing or not UTF-8, a line is not such a row, or two lines have the same id.
    """
    rows: list[dict[str, Any]] = []
    first_line: dict[str, int] = {}
    columns: dict[str, None] = {}
    without_split = 0
    for number, line in _lines(path):
        where = f"{path}:{number}"
        record = _record(line, where)
        if earlier := first_line.get(record["id"]):
            raise DataError(
                "KS451",
                f'{where}: "id" {record["id"]!r} stands on line {earlier} already; give a copied row an id of its own',
            )
        first_line[record["id"]] = number
        columns |= dict.fromkeys(record)
        without_split += not record.get("split")
        rows.append({**_row(record, where), "line": number})
    return Curated(pl.DataFrame(rows, schema=SCHEMA), tuple(columns), without_split)


def _lines(path: Path) -> Iterator[tuple[int, str]]:
    try:
        text = path.read_text(encoding="utf-8-sig")
    except FileNotFoundError:
        raise DataError("KS454", f"{path}: no curated rows yet; make them with `kiloset dataset`") from None
    except UnicodeDecodeError as error:
        raise DataError("KS455", f"{path}: not UTF-8 text ({error.reason} at byte {error.start})") from None
    # Not splitlines(): JSON allows U+2028 and its like inside a string.
    return ((number, line) for number, line in enumerate(text.split("\n"), start=1) if line.strip())


def _record(line: str, where: str) -> dict[str, Any]:
    try:
        record = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise DataError("KS456", f"{where}: not JSON: {error}") from None
    if not isinstance(record, dict):
        raise DataError("KS457", f"{where}: a row is a JSON object, got {line.strip()[:40]!r}")
    if not record.get("id"):
        raise DataError("KS458", f'{where}: "id" is missing or empty')
    _text(record["id"], '"id"', where)
    if (split := record.get("split") or SPLITS[0]) not in SPLITS:
        raise DataError("KS459", f'{where}: "split" must be "train" or "validation", got {split!r}')
    return record


def _row(record: dict[str, Any], where: str) -> dict[str, Any]:
    messages = _messages(record.get("messages"), where)
    return {
        "id": record["id"],
        "messages": messages,
        "user": "\n\n".join(turn["content"] for turn in messages if turn["role"] == "user"),
        "response": messages[-1]["content"],
        **{name: _text(record.get(name) or "", f'"{name}"', where) for name in TEXTS},
        "split": record.get("split") or SPLITS[0],
    }


def _messages(messages: Any, where: str) -> list[dict[str, str]]:
    if not isinstance(messages, list) or not messages:
        raise DataError("KS460", f'{where}: "messages" is missing or empty')
    for number, message in enumerate(messages, start=1):
        role, content = (message.get("role"), message.get("content")) if isinstance(message, dict) else (None, None)
        if role not in PLAIN_TURNS:
            raise DataError(
                "KS461", f'{where}: message {number}: "role" must be one of {", ".join(PLAIN_TURNS)}, got {role!r}'
            )
        if not _text(content or "", f'message {number}: "content"', where).strip():
            raise DataError("KS462", f'{where}: message {number}: "content" is missing or empty')
    roles = [message["role"] for message in messages]
    if roles[-1] != "assistant" or "user" not in roles:
        raise DataError(
            "KS464",
            f"{where}: the last message must be the assistant's, and one before it the user's; got {', '.join(roles)}",
        )
    return [{"role": message["role"], "content": message["content"]} for message in messages]


def _text(value: Any, name: str, where: str) -> str:
    if not isinstance(value, str):
        raise DataError("KS763", f"{where}: {name} must be text, got {value!r}")
    try:
        value.encode("utf-8")  # JSON can spell half a surrogate pair, which is not a character
    except UnicodeEncodeError as error:
        raise DataError("KS463", f"{where}: {name} is not UTF-8 text ({error.reason})") from None
    return value


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
        "split": SPLITS[held_out],
    }
