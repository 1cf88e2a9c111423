"""The figures that audits share: pure functions of tables and texts."""

import random
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import polars as pl

from kiloset.core.form import opening
from kiloset.core.run import last_verdicts
from kiloset.core.text import words
from kiloset.filters.near_duplicates import NearDuplicatesConfig, near_duplicate_pairs

THRESHOLD = NearDuplicatesConfig().threshold
"""Jaccard similarity from which two instructions count as near-duplicates."""
NEAREST = 3
"""Most similar pairs reported."""
OPENINGS = 10
"""Most common openings reported."""
CREATES = ("seeds", "generate")
"""Stages that may create rows."""


@dataclass(frozen=True, slots=True)
class StageCount:
    """What one stage did, counted from its files: `entered + created == kept + dropped + set aside` if no row was lost."""

    stage: str
    entered: int
    created: int
    kept: int
    dropped: dict[str, int]
    """Rows by reason, most first."""
    set_aside: int = 0
    """Seeds that stay out of the set without being dropped."""

    @property
    def dropped_rows(self) -> int:
        """All dropped rows."""
        return sum(self.dropped.values())


@dataclass(frozen=True, slots=True)
class Lengths:
    """Lengths of the texts that are not empty, in words; in a script without spaces a run of letters is one word."""

    rows: int
    quantiles: tuple[float, ...]
    """Minimum, 10th percentile, median, 90th percentile and maximum; () without such a text."""


@dataclass(frozen=True, slots=True)
class Spread:
    """How evenly the rows lie over the clusters that they occupy; empty clusters are not known here."""

    clusters: int
    entropy: float
    """In nats."""
    evenness: float
    """Entropy over the logarithm of the number of clusters, in [0, 1]; 0 for one cluster."""


@dataclass(frozen=True, slots=True)
class Duplicates:
    """The near-duplicates within a set; numbers and names make no difference here."""

    rows: int
    """Rows with at least one near-duplicate."""
    share: float
    """The same as a fraction of all rows."""
    nearest: tuple[tuple[str, str, float], ...]
    """The ids and the similarity of the most similar pairs."""


def js_distance(target: Mapping[str, float], result: Mapping[str, float]) -> float | None:
    """Return the Jensen-Shannon distance, in [0, 1] (base 2), of two counts; None if either is empty."""
    from scipy.spatial.distance import jensenshannon  # type: ignore[import-untyped]

    names = sorted({*target, *result})
    one, other = ([float(counts.get(name, 0)) for name in names] for counts in (target, result))
    return float(jensenshannon(one, other, 2)) if sum(one) and sum(other) else None


def funnel(
    stages: Sequence[tuple[str, pl.DataFrame]], ledger: pl.DataFrame, manifest: Mapping[str, Any]
) -> tuple[list[StageCount], list[str]]:
    """Return each stage's counts in the last pass, and a sentence for every count that is not consistent."""
    counts: list[StageCount] = []
    problems: list[str] = []
    before: set[str] = set()
    ledger = last_verdicts(ledger)
    seeds = set(stages[0][1].filter(pl.col("source") == "seed")["id"]) if stages else set()
    for stage, kept in stages:
        dropped = ledger.filter(pl.col("stage") == stage)
        after = Counter([*kept["id"], *dropped["id"]])
        if twice := [id for id, times in after.items() if times > 1]:
            problems.append(f"{stage}: {len(twice)} rows were kept and dropped, for example {min(twice)}")
        lost = before - after.keys()
        aside = lost & seeds if len(lost & seeds) == manifest.get(stage, {}).get("set_aside", 0) else set()
        if lost := lost - aside:
            problems.append(f"{stage}: {len(lost)} rows vanished without a reason, for example {min(lost)}")
        if (new := after.keys() - before) and stage not in CREATES:
            problems.append(f"{stage}: {len(new)} rows appeared from nowhere, for example {min(new)}")
        counts.append(StageCount(stage, len(before), len(new), kept.height, tally(dropped["reason"]), len(aside)))
        problems += _compare_with_manifest(counts[-1], manifest)
        before = set(kept["id"])
    names = dict(stages)
    for stage, rows in tally(ledger["stage"]).items():
        if stage not in names:
            problems.append(f"{stage}: {rows} rows dropped, but the file of the kept rows is missing")
    problems += [f"{stage}: in the manifest, but its file is missing" for stage in manifest if stage not in names]
    return counts, problems


def lengths(texts: Sequence[str]) -> Lengths:
    """Measure the texts that are not empty, in words."""
    counts = [len(words(text)) for text in texts if text.strip()]
    quantiles = np.quantile(counts, [0, 0.1, 0.5, 0.9, 1]) if counts else ()
    return Lengths(len(counts), tuple(float(value) for value in quantiles))


def spread(table: pl.DataFrame) -> Spread | None:
    """Return how evenly rows lie over the values of `cluster`; None without that column."""
    clusters = [c for c in table["cluster"] if c is not None] if "cluster" in table.columns else []
    if not clusters:
        return None
    shares = np.array(list(Counter(clusters).values())) / len(clusters)
    entropy = float(-(shares * np.log(shares)).sum()) if len(shares) > 1 else 0.0
    return Spread(len(shares), entropy, entropy / float(np.log(len(shares))) if len(shares) > 1 else 0.0)


def duplicates(ids: Sequence[str], texts: Sequence[str]) -> Duplicates:
    """Find the near-duplicates among texts (`kiloset.filters.near_duplicates.near_duplicate_pairs`)."""
    rows = pl.DataFrame(
        {"instruction": texts, "input": [""] * len(texts)}, dict.fromkeys(("instruction", "input"), pl.String)
    )
    similarity = {(min(i, j), max(i, j)): value for i, j, value in near_duplicate_pairs(rows, THRESHOLD)}
    paired = {row for pair in similarity for row in pair}
    nearest = sorted(similarity.items(), key=lambda pair: (-pair[1], pair[0]))[:NEAREST]
    pairs = tuple((ids[i], ids[j], value) for (i, j), value in nearest)
    return Duplicates(len(paired), len(paired) / len(ids) if ids else 0.0, pairs)


def openings(responses: Sequence[str]) -> dict[str, int]:
    """Return the most common first three words of responses, each with its number of rows."""
    return dict(list(tally([first for first in map(opening, responses) if first]).items())[:OPENINGS])


def distinct_trigrams(texts: Sequence[str], most: int) -> float:
    """Return distinct trigrams of words over all trigrams, in [0, 1], in the first `most` words of texts in random order."""
    seen: set[tuple[str, ...]] = set()
    counted = read = 0
    for text in random.Random("trigrams").sample(texts, len(texts)):
        tokens = words(text)[: most - read]
        read += len(tokens)
        trigrams = [tuple(tokens[at : at + 3]) for at in range(len(tokens) - 2)]
        counted += len(trigrams)
        seen.update(trigrams)
        if read >= most:
            break
    return len(seen) / counted if counted else 0.0


def tally(values: pl.Series | Sequence[Any]) -> dict[str, int]:
    """Count values, most first, then by name; null counts as "none"."""
    counts = Counter("none" if value is None else str(value) for value in values)
    return dict(sorted(counts.items(), key=lambda pair: (-pair[1], pair[0])))


def _compare_with_manifest(count: StageCount, manifest: Mapping[str, Any]) -> list[str]:
    if count.stage not in manifest:
        return [f"{count.stage}: not in the manifest"] if manifest else []
    recorded = manifest[count.stage]
    dropped = {reason: rows for reason, rows in recorded.get("dropped", {}).items() if rows}
    pairs = [("kept", recorded.get("kept"), count.kept), ("dropped", dropped, count.dropped)]
    if count.stage not in CREATES:
        pairs.append(("entered", recorded.get("in"), count.entered))
    return [
        f"{count.stage}: {name}: {before} in the manifest, {now} in the files"
        for name, before, now in pairs
        if before is not None and before != now
    ]
