"""What the tasks of real use are: how many of the user's own prompts fall in each category.

The prompts themselves are read and counted, nothing else: they enter no table, no prompt and no file of a run.

Prompts whose category is unsure count like the others, by their likeliest one. To leave them out would bend the shares
away from use, as the kinds that are hard to read would be missing: on 250 rows of Dolly labelled by hand, half the sum of
absolute differences between read and true shares was 0.24 with all and 0.34 with the sure ones alone.
"""

import random
from collections import Counter
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import polars as pl

from kiloset.core.errors import EmptyError
from kiloset.core.models import Embedder
from kiloset.core.run import sha256_of
from kiloset.core.table import full_instruction
from kiloset.data.files import SUFFIXES, read_records
from kiloset.data.layouts import parse_prompt
from kiloset.generator.categories import CategoriesConfig
from kiloset.generator.reading import Reading, Task, learn_categories, task_of

PART = 1024
"""Tasks embedded at once."""


@dataclass(frozen=True, slots=True)
class Usage:
    """Prompts of real use, equal ones counted together."""

    prompts: int
    """Prompts in the file."""
    tasks: Mapping[Task, int]
    """How many of the drawn prompts have each task, in the order of the file."""

    @property
    def sampled(self) -> int:
        """Prompts drawn."""
        return sum(self.tasks.values())

    @property
    def digest(self) -> str:
        """sha256 of what was read."""
        return sha256_of([self.prompts, [[*task, count] for task, count in self.tasks.items()]])


@dataclass(frozen=True, slots=True)
class UsageCounts:
    """What the prompts are, and how far that can be relied on."""

    prompts: int
    sampled: int
    distinct: int
    """Different tasks among those drawn."""
    counts: dict[str, int]
    """Drawn prompts by category."""
    shares: dict[str, float]
    """The same, as fractions."""
    sure_shares: dict[str, float]
    """Fractions of the sure prompts alone, for comparison; the target does not follow them."""
    unsure_share: float
    """Fraction of the drawn prompts whose confidence is below `min_confidence`."""
    min_confidence: float
    mean_confidence: float
    """Expected accuracy on these prompts, as far as the labelled seeds tell."""
    labelled: int
    """Seeds the categories were learnt from."""
    leave_one_out_accuracy: float | None
    """Share of the labelled seeds read rightly by the others; None where no category has two."""
    leave_one_out_accuracy_of_sure: float | None
    """The same of those read with `min_confidence`."""

    def as_record(self, fingerprint: str) -> dict[str, Any]:
        """Return it for the manifest."""
        return {**asdict(self), "fingerprint": fingerprint}


def read_usage(path: str, limit: int, seed: int) -> Usage:
    """Read real prompts and draw up to `limit` of them, all equally likely to be drawn.

    One pass that holds no more than the prompts drawn (Vitter 1985, "Random sampling with a reservoir", algorithm R);
    .csv, .json and .parquet files are held whole. The same file, limit and seed draw the same prompts.

    Raises:
        DataError: The file is missing or broken, or a line holds no prompt; the message names file and line.
        EmptyError: It holds nothing.
    """
    rng, drawn, prompts = random.Random(f"usage {seed}"), list[tuple[int, Task]](), 0
    for place, value in read_records(path, "[categories] usage", (*SUFFIXES, ".txt")):
        task = task_of(parse_prompt(value, place))
        prompts += 1
        if len(drawn) < limit:
            drawn.append((prompts, task))
        elif (at := rng.randrange(prompts)) < limit:
            drawn[at] = (prompts, task)
    if not prompts:
        raise EmptyError("KS209", f"{path}: no prompt in it; [categories] usage needs at least one")
    return Usage(prompts, Counter(task for _, task in sorted(drawn)))


def count_usage(
    usage: Usage, labelled: pl.DataFrame, known: list[str], embedder: Embedder, config: CategoriesConfig
) -> UsageCounts:
    """Count the prompts by category; every category of `known` has a count.

    Args:
        usage: The prompts.
        labelled: Rows with a category; those of a category that is not known teach nothing.
        known: Categories that a row of the set can have.
        embedder: Turns tasks into directions.
        config: The `[categories]` table.
    """
    teaching = labelled.filter(pl.col("category").is_in(known))
    tasks = [task_of(turn) for turn in full_instruction(teaching)]
    reader = learn_categories(tasks, teaching["category"].to_list(), embedder)
    asked, readings = list(usage.tasks), list[Reading]()
    for start in range(0, len(asked), PART):
        readings += reader.read(asked[start : start + PART], embedder)
    counts, sure, confidence = Counter(dict.fromkeys(sorted(known), 0)), Counter[str](), 0.0
    for task, reading in zip(asked, readings, strict=True):
        counts[reading.category] += usage.tasks[task]
        confidence += usage.tasks[task] * reading.confidence
        if reading.confidence >= config.usage_min_confidence:
            sure[reading.category] += usage.tasks[task]
    return UsageCounts(
        prompts=usage.prompts,
        sampled=usage.sampled,
        distinct=len(asked),
        counts=dict(counts),
        shares=_shares(counts),
        sure_shares=_shares(sure),
        unsure_share=round(1 - sure.total() / usage.sampled, 4),
        min_confidence=config.usage_min_confidence,
        mean_confidence=round(confidence / usage.sampled, 4),
        labelled=teaching.height,
        leave_one_out_accuracy=_rounded(reader.accuracy()),
        leave_one_out_accuracy_of_sure=_rounded(reader.accuracy(config.usage_min_confidence)),
    )


def recorded_counts(record: Mapping[str, Any] | None, fingerprint: str) -> dict[str, int] | None:
    """Return the counts in a manifest's record, if it is of this fingerprint; a finished run then embeds nothing."""
    if record is None or record.get("fingerprint") != fingerprint:
        return None
    return {str(name): int(count) for name, count in record["counts"].items()}


def _shares(counts: Counter[str]) -> dict[str, float]:
    return {name: round(count / counts.total(), 4) for name, count in sorted(counts.items())} if counts.total() else {}


def _rounded(value: float | None) -> float | None:
    return None if value is None else round(value, 4)
