"""Turn curated rows into token ids, and cut these into steps and batches."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeVar

import polars as pl

from kiloset.core.errors import DataError
from kiloset.core.models import tokenize_example
from kiloset.data.curated import Curated
from kiloset.data.splitting import SPLITS

if TYPE_CHECKING:
    import torch
    from datasets import Dataset

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class TokenizedRow:
    """A row as token ids."""

    prompt: list[int]
    response: list[int]
    """With the end token."""

    @property
    def tokens(self) -> int:
        """Tokens of prompt and response together."""
        return len(self.prompt) + len(self.response)


def split_datasets(curated: Curated) -> "dict[str, Dataset]":
    """Return the rows of each split, in the order of the file, with the columns `id` and `messages`.

    Raises:
        DataError: No row is for training.
    """
    from datasets import Dataset, Features, Value

    features = Features({"id": Value("string"), "messages": [{"role": Value("string"), "content": Value("string")}]})
    rows = curated.rows.select("id", "messages", "split")
    # Not from_list, which takes no empty list.
    splits = {
        split: Dataset.from_dict(
            rows.filter(pl.col("split") == split).drop("split").to_dict(as_series=False), features=features
        )
        for split in SPLITS
    }
    if not len(splits["train"]):
        raise DataError("KS452", 'curated.jsonl: no row has "split": "train", so there is nothing to train on')
    return splits


def tokenize_rows(tokenizer: Any, rows: "Dataset", max_length: int) -> tuple[list[TokenizedRow], int]:
    """Return the rows of at most `max_length` tokens as examples, and how many were longer and left out.

    Raises:
        DataError: The chat template refuses a row's messages, a system turn for example.
        ModelError: No exact loss mask can be made with this tokenizer.
    """
    from datasets import Features, List, Value
    from jinja2 import TemplateError

    def token_ids(row: dict[str, Any]) -> dict[str, list[int]]:
        *prompt, answer = row["messages"]
        try:
            prompt_ids, response_ids = tokenize_example(tokenizer, prompt, answer["content"])
        except TemplateError as error:
            raise DataError("KS453", f"row {row['id']}: the chat template refuses its messages: {error}") from None
        return {"prompt": prompt_ids, "response": response_ids}

    if not len(rows):
        return [], 0
    tokenized = rows.map(
        token_ids, remove_columns=rows.column_names, features=Features(dict.fromkeys(("prompt", "response"), List(Value("int64")))),
        new_fingerprint="tokens",  # nothing is cached, and hashing a tokenizer takes seconds
    )  # fmt: skip
    short = tokenized.filter(
        lambda row: len(row["prompt"]) + len(row["response"]) <= max_length, new_fingerprint="short"
    )
    return [TokenizedRow(**row) for row in short], len(rows) - len(short)


def planned(
    examples: Sequence[TokenizedRow], rows_per_step: int, epochs: int, generator: "torch.Generator"
) -> list[tuple[int, list[TokenizedRow]]]:
    """Return `(epoch, examples)` of each step: every example once an epoch, in random order, so many rows a step."""
    import torch

    steps = []
    for epoch in range(1, epochs + 1):
        order = [examples[i] for i in torch.randperm(len(examples), generator=generator)]
        steps += [(epoch, list(rows)) for rows in cut(order, rows_per_step)]
    return steps


def micro_batches(examples: Sequence[TokenizedRow], tokens: int, *, padded: bool) -> list[list[TokenizedRow]]:
    """Cut a step's examples into batches of at most so many tokens, or of one example where it is longer than that.

    Sorted by length, the longest first: padding is least, and memory is at its peak at once.

    Args:
        examples: The rows of a step, or of a validation.
        tokens: Tokens computed at once.
        padded: Whether padding counts, up to the longest of a batch.
    """
    batches: list[list[TokenizedRow]] = []
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
