"""Show which tokens of a row train."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from kiloset.core.loading import load_tokenizer
from kiloset.core.run import RunFolder
from kiloset.data.curated import read_curated
from kiloset.train.data import split_datasets, tokenize_rows
from kiloset.train.settings import TrainConfig


@dataclass(frozen=True, slots=True)
class Span:
    """A token, as text."""

    text: str
    trains: bool


@dataclass(frozen=True, slots=True)
class Masked:
    """A row as the trainer sees it."""

    id: str
    spans: tuple[Span, ...]
    """In order; together all that the model is shown."""


def masked_rows(run: RunFolder, config: TrainConfig, model_path: Path, count: int) -> Iterator[Masked]:
    """Yield the first training rows as the tokens the model is shown, each with whether its loss counts.

    Raises:
        DataError: curated.jsonl is missing or a line of it is wrong.
        ModelError: The tokenizer cannot be loaded, or no exact mask can be made with its chat template.
    """
    rows = split_datasets(read_curated(run.curated))["train"]
    tokenizer = load_tokenizer(model_path)
    for row in rows.select(range(min(count, len(rows)))):
        examples, _ = tokenize_rows(tokenizer, [row], config.max_length)
        for example in examples:
            ids = [*((id, False) for id in example.prompt), *((id, True) for id in example.response)]
            yield Masked(row["id"], tuple(Span(tokenizer.decode([id]), trains) for id, trains in ids))
