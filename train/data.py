"""Read a run's curated rows, which a person may have edited, and cut them as token ids into steps and batches."""

import json
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from kiloset.core.errors import DataError
from kiloset.core.models import PLAIN_TURNS, tokenize_example

if TYPE_CHECKING:
    import torch
    from datasets import Dataset

T = TypeVar("T")

SPLITS = ("train", "validation")
LONE_SURROGATE = re.compile("[\ud800-\udfff]")


@dataclass(frozen=True, slots=True)
class Example:
    """A row as token ids."""

    prompt: list[int]
    response: list[int]
    """With the end token."""

    @property
    def tokens(self) -> int:
        """Tokens of prompt and response together."""
        return len(self.prompt) + len(self.response)


def read_curated(path: Path) -> "dict[str, Dataset]":
    """Return the rows of each split, in the order of the file, with the columns `id` and `messages`.

    Empty lines are skipped, other columns ignored.

    Raises:
        DataError: The file is missing or not UTF-8, a line is not such a row, or none is for training.
    """
    from datasets import Dataset, Features, Value

    columns: dict[str, dict[str, list[Any]]] = {split: {"id": [], "messages": []} for split in SPLITS}
    first_line: dict[str, int] = {}
    for number, line in _lines(path):
        row = _checked(line, f"{path}:{number}")
        if earlier := first_line.get(row["id"]):
            raise DataError("KS451", f'{path}:{number}: "id" {row["id"]!r} stands on line {earlier} already')
        first_line[row["id"]] = number
        split = columns[row["split"]]
        split["id"].append(row["id"])
        split["messages"].append([{"role": turn["role"], "content": turn["content"]} for turn in row["messages"]])
    if not columns["train"]["id"]:
        raise DataError("KS452", f'{path}: no row has "split": "train", so there is nothing to train on')
    features = Features({"id": Value("string"), "messages": [{"role": Value("string"), "content": Value("string")}]})
    # Not from_list, which takes no empty list.
    return {split: Dataset.from_dict(found, features=features) for split, found in columns.items()}


def tokenize_rows(tokenizer: Any, rows: "Dataset", max_length: int) -> tuple[list[Example], int]:
    """Return the rows of at most `max_length` tokens as examples, and how many were longer and left out.

    Raises:
        DataError: The chat template refuses a row's messages, a system turn for example.
        ModelError: No exact loss mask can be made with this tokenizer.
    """
    from jinja2 import TemplateError

    examples = []
    for row in rows:
        *prompt, answer = row["messages"]
        try:
            examples.append(Example(*tokenize_example(tokenizer, prompt, answer["content"])))
        except TemplateError as error:
            raise DataError("KS453", f"row {row['id']}: the chat template refuses its messages: {error}") from None
    kept = [example for example in examples if example.tokens <= max_length]
    return kept, len(examples) - len(kept)


def planned(
    examples: Sequence[Example], rows_per_step: int, epochs: int, generator: "torch.Generator"
) -> list[tuple[int, list[Example]]]:
    """Return `(epoch, examples)` of each step: every example once an epoch, in random order, so many rows a step."""
    import torch

    steps = []
    for epoch in range(1, epochs + 1):
        order = [examples[i] for i in torch.randperm(len(examples), generator=generator)]
        steps += [(epoch, list(rows)) for rows in cut(order, rows_per_step)]
    return steps


def micro_batches(examples: Sequence[Example], tokens: int, *, padded: bool) -> list[list[Example]]:
    """Cut a step's examples into batches of at most so many tokens, or of one example where it is longer than that.

    Sorted by length, the longest first: padding is least, and memory is at its peak at once.

    Args:
        examples: The rows of a step, or of a validation.
        tokens: Tokens computed at once.
        padded: Whether padding counts, up to the longest of a batch.
    """
    batches: list[list[Example]] = []
    taken = 0
    for example in sorted(examples, key=lambda one: -one.tokens):
        size = batches[-1][0].tokens if padded and batches else example.tokens
        if not batches or taken + size > tokens:
            batches.append([])
            taken, size = 0, example.tokens
        batches[-1].append(example)
        taken += size
    return batches


def cut(sequence: Sequence[T], size: int) -> list[Sequence[T]]:
    """Return consecutive pieces of `size`, the last of them perhaps shorter."""
    return [sequence[start : start + size] for start in range(0, len(sequence), size)]


def _lines(path: Path) -> Iterator[tuple[int, str]]:
    try:
        text = path.read_text(encoding="utf-8-sig")
    except FileNotFoundError:
        raise DataError("KS454", f"{path}: no curated rows yet; make them with `make dataset`") from None
    except UnicodeDecodeError as error:
        raise DataError("KS455", f"{path}: not UTF-8 text ({error.reason} at byte {error.start})") from None
    # Not splitlines(): JSON allows U+2028 and its like inside a string.
    return ((number, line) for number, line in enumerate(text.split("\n"), start=1) if line.strip())


def _checked(line: str, where: str) -> dict[str, Any]:
    try:
        row = json.loads(line)
    except ValueError as error:
        raise DataError("KS456", f"{where}: not JSON: {error}") from None
    if not isinstance(row, dict):
        raise DataError("KS457", f"{where}: a row is a JSON object, got {line.strip()[:40]!r}")
    if not isinstance(row.get("id"), str) or not row["id"]:
        raise DataError("KS458", f'{where}: "id" must be a text, got {row.get("id")!r}')
    if row.get("split") not in SPLITS:
        raise DataError("KS459", f'{where}: "split" must be "train" or "validation", got {row.get("split")!r}')
    _check_messages(row.get("messages"), where)
    return row


def _check_messages(messages: Any, where: str) -> None:
    if not isinstance(messages, list) or not messages:
        raise DataError("KS460", f'{where}: "messages" is missing or empty')
    for number, message in enumerate(messages, start=1):
        role, content = (message.get("role"), message.get("content")) if isinstance(message, dict) else (None, None)
        if role not in PLAIN_TURNS:
            raise DataError(
                "KS461", f'{where}: message {number}: "role" must be one of {", ".join(PLAIN_TURNS)}, got {role!r}'
            )
        if not isinstance(content, str) or not content.strip():
            raise DataError(
                "KS462", f'{where}: message {number}: "content" must be a text and not empty, got {content!r}'
            )
        if LONE_SURROGATE.search(content):
            raise DataError(
                "KS463", f'{where}: message {number}: "content" has half a surrogate pair, which is no character'
            )
    roles = [message["role"] for message in messages]
    if roles[-1] != "assistant" or "user" not in roles:
        raise DataError(
            "KS464", f"{where}: messages must end with the assistant's, after a user's, got {', '.join(roles)}"
        )
