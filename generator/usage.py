"""The target `usage`: the share of each category among the user's own prompts.

The prompts are only counted: they enter no table, no prompt and no file of a run.

Prompts with an uncertain category count like the others, by their most likely category. Leaving them out would bias the
shares, since some categories are harder to recognise: on 250 rows of Dolly labelled by hand, half the sum of absolute
differences between predicted and true shares was 0.24 with all prompts and 0.34 with the certain ones alone.
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
from kiloset.generator.category_classifier import SplitTask, split_task, train_classifier

BATCH = 1024
"""Tasks embedded at once."""


@dataclass(frozen=True, slots=True)
class UsagePrompts:
    """A sample of the user's prompts; equal tasks are counted together."""

    prompts: int
    """Prompts in the file."""
    tasks: Mapping[SplitTask, int]
    """Number of sampled prompts with each task, in the order of the file."""

    @property
    def sampled(self) -> int:
        """Number of sampled prompts."""
        return sum(self.tasks.values())

    @property
    def digest(self) -> str:
        """The sha256 of the sample."""
        return sha256_of([self.prompts, [[*task, count] for task, count in self.tasks.items()]])


@dataclass(frozen=True, slots=True)
class UsageCounts:
    """The prompts by category, and how reliable the prediction is."""

    prompts: int
    sampled: int
    distinct: int
    """Different tasks in the sample."""
    counts: dict[str, int]
    """Sampled prompts by category."""
    shares: dict[str, float]
    """The same, as fractions."""
    sure_shares: dict[str, float]
    """Fractions of the certain prompts alone, for comparison; the target does not use them."""
    unsure_share: float
    """Fraction of the sampled prompts with a confidence below `min_confidence`."""
    min_confidence: float
    mean_confidence: float
    """Expected accuracy on these prompts, estimated from the labelled seeds."""
    labelled: int
    """Seeds that the classifier was trained on."""
    leave_one_out_accuracy: float | None
    """Accuracy on the labelled seeds, each predicted from the others; None where no category has two."""
    leave_one_out_accuracy_of_sure: float | None
    """The same for seeds with at least `min_confidence`."""

    def as_record(self, fingerprint: str) -> dict[str, Any]:
        """Return it for the manifest."""
        return {**asdict(self), "fingerprint": fingerprint}


def read_usage(path: str, limit: int, seed: int) -> UsagePrompts:
    """Read a file of prompts and sample up to `limit` of them uniformly.

    One pass keeps only the sample in memory (Vitter 1985, "Random sampling with a reservoir", algorithm R); .json and
    .parquet files are read whole. The same file, limit and seed give the same sample.

    Raises:
        DataError: The file is missing or broken, or a line has no prompt; the message names file and line.
        EmptyError: There is no prompt.
    """
    rng, sample, prompts = random.Random(f"usage {seed}"), list[tuple[int, SplitTask]](), 0
    for place, value in read_records(path, "[categories] usage", (*SUFFIXES, ".txt")):
        task = split_task(parse_prompt(value, place))
        prompts += 1
        if len(sample) < limit:
            sample.append((prompts, task))
        elif (at := rng.randrange(prompts)) < limit:
            sample[at] = (prompts, task)
    if not prompts:
        raise EmptyError("KS209", f"{path}: no prompt in it; [categories] usage needs at least one")
    return UsagePrompts(prompts, Counter(task for _, task in sorted(sample)))


def count_usage(
    usage: UsagePrompts, labelled: pl.DataFrame, known: list[str], embedder: Embedder, config: CategoriesConfig
) -> UsageCounts:
    """Count the prompts by category; every category of `known` has a count.

    Args:
        usage: The prompts.
        labelled: Rows with a category; rows of an unknown category are not used.
        known: Categories that a row of the set can have.
        embedder: Embeds the tasks.
        config: The `[categories]` table.
    """
    examples = labelled.filter(pl.col("category").is_in(known))
    labels = examples["category"].to_list()
    classifier = train_classifier([split_task(turn) for turn in full_instruction(examples)], labels, embedder)
    tasks = list(usage.tasks)
    batches = (tasks[start : start + BATCH] for start in range(0, len(tasks), BATCH))
    predictions = [each for batch in batches for each in classifier.predict(batch, embedder)]
    counts, certain, confidence = Counter(dict.fromkeys(sorted(known), 0)), Counter[str](), 0.0
    for task, prediction in zip(tasks, predictions, strict=True):
        counts[prediction.category] += usage.tasks[task]
        confidence += usage.tasks[task] * prediction.confidence
        if prediction.confidence >= config.usage_min_confidence:
            certain[prediction.category] += usage.tasks[task]
    return UsageCounts(
        prompts=usage.prompts,
        sampled=usage.sampled,
        distinct=len(tasks),
        counts=dict(counts),
        shares=_shares(counts),
        sure_shares=_shares(certain),
        unsure_share=round(1 - certain.total() / usage.sampled, 4),
        min_confidence=config.usage_min_confidence,
        mean_confidence=round(confidence / usage.sampled, 4),
        labelled=examples.height,
        leave_one_out_accuracy=_rounded(classifier.accuracy()),
        leave_one_out_accuracy_of_sure=_rounded(classifier.accuracy(config.usage_min_confidence)),
    )


def recorded_counts(record: Mapping[str, Any] | None, fingerprint: str) -> dict[str, int] | None:
    """Return the counts of a manifest's record if its fingerprint matches, so that a finished run embeds nothing."""
    if record is None or record.get("fingerprint") != fingerprint:
        return None
    return {str(name): int(count) for name, count in record["counts"].items()}


def _shares(counts: Counter[str]) -> dict[str, float]:
    return {name: round(count / counts.total(), 4) for name, count in sorted(counts.items())} if counts.total() else {}


def _rounded(value: float | None) -> float | None:
    return None if value is None else round(value, 4)
