"""The figures of an audit, each a pure function of tables that the run folder holds."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import polars as pl

from kiloset.core.form import opening
from kiloset.core.text import normal_form, squash, words

SHINGLE = 5
"""Characters in a shingle, as near-duplicates are defined for a run."""
THRESHOLD = 0.70
"""Jaccard similarity from which two instructions count as duplicates."""
NEAREST = 3
"""Most similar pairs shown."""
OPENINGS = 10
"""Most common openings shown."""
BLOCK = 256
"""Rows compared with all others at once; bounds memory to BLOCK x rows x 12 bytes."""
CREATES = ("seeds", "generate")
"""Stages that may bring new rows."""


@dataclass(frozen=True, slots=True)
class StageCount:
    """What one stage did, counted from its files: `entered + created == kept + dropped` where nothing was lost."""

    stage: str
    entered: int
    created: int
    kept: int
    dropped: dict[str, int]
    """Rows by reason, most first."""


@dataclass(frozen=True, slots=True)
class Lengths:
    """How long a text column is, in words; a script without spaces counts a whole run of letters as one word."""

    rows: int
    """Rows whose text is not empty; only these are measured."""
    quantiles: tuple[float, ...]
    """Minimum, 10th percentile, median, 90th percentile and maximum; () where no row has such a text."""


@dataclass(frozen=True, slots=True)
class Spread:
    """How evenly the curated rows lie over the clusters that they occupy; clusters left empty are not known here."""

    clusters: int
    entropy: float
    """In nats."""
    evenness: float
    """Entropy over the log of the number of clusters, in [0, 1]; 0 where there is only one."""


@dataclass(frozen=True, slots=True)
class Pair:
    """Two rows and the Jaccard similarity of their instructions."""

    first: str
    second: str
    jaccard: float


@dataclass(frozen=True, slots=True)
class Duplicates:
    """How much of the set repeats itself."""

    rows: int
    """Rows that have at least one duplicate."""
    share: float
    """The same as a fraction of all rows."""
    nearest: tuple[Pair, ...]
    """The most similar pairs, whether or not they reach the threshold."""


def js_distance(target: Mapping[str, float], got: Mapping[str, float]) -> float | None:
    """Return the Jensen-Shannon distance, in [0, 1] (base 2), of two counts; None if either is empty."""
    from scipy.spatial.distance import jensenshannon  # type: ignore[import-untyped]

    names = sorted({*target, *got})
    wanted, found = ([float(counts.get(name, 0)) for name in names] for counts in (target, got))
    return float(jensenshannon(wanted, found, 2)) if sum(wanted) and sum(found) else None


def funnel(
    stages: Sequence[tuple[str, pl.DataFrame]], ledger: pl.DataFrame, manifest: Mapping[str, Any]
) -> tuple[list[StageCount], list[str]]:
    """Return each stage's counts and a sentence for everything that does not add up."""
    counts: list[StageCount] = []
    problems: list[str] = []
    before: set[str] = set()
    for stage, kept in stages:
        dropped = ledger.filter(pl.col("stage") == stage)
        left = Counter([*kept["id"], *dropped["id"]])
        if twice := [id for id, times in left.items() if times > 1]:
            problems.append(
                f"{stage}: {len(twice)} rows stand twice in what was kept and dropped, {min(twice)} among them"
            )
        if lost := before - left.keys():
            problems.append(f"{stage}: {len(lost)} rows vanished without a reason, {min(lost)} among them")
        if (new := left.keys() - before) and stage not in CREATES:
            problems.append(f"{stage}: {len(new)} rows from nowhere, {min(new)} among them")
        counts.append(StageCount(stage, len(before), len(new), kept.height, tally(dropped["reason"])))
        problems += _against_manifest(counts[-1], manifest)
        before = set(kept["id"])
    for stage, rows in tally(ledger["stage"]).items():
        if stage not in dict(stages):
            problems.append(f"{stage}: {rows} rows dropped, but no file of the rows it kept")
    problems += [f"{stage}: in the manifest, but its file is gone" for stage in manifest if stage not in dict(stages)]
    return counts, problems


def lengths(texts: Sequence[str]) -> Lengths:
    """Measure the texts that are not empty, in words."""
    counts = [len(words(text)) for text in texts if text.strip()]
    found = np.quantile(counts, [0, 0.1, 0.5, 0.9, 1]) if counts else ()
    return Lengths(len(counts), tuple(float(value) for value in found))


def spread(table: pl.DataFrame) -> Spread | None:
    """Return how evenly rows lie over the values of `cluster`; None without that column."""
    clusters = [c for c in table["cluster"] if c is not None] if "cluster" in table.columns else []
    if not clusters:
        return None
    shares = np.array(list(Counter(clusters).values())) / len(clusters)
    entropy = float(-(shares * np.log(shares)).sum()) if len(shares) > 1 else 0.0
    return Spread(len(shares), entropy, entropy / float(np.log(len(shares))) if len(shares) > 1 else 0.0)


def shingles(text: str) -> set[str]:
    """Return the character 5-grams of a text's normal form between spaces; the whole of it where it is shorter.

    A text of punctuation alone has no normal form and is taken as it stands, so that "?" and "!" differ.
    """
    key = f" {normal_form(text) or squash(text)} "
    return {key[i : i + SHINGLE] for i in range(max(1, len(key) - SHINGLE + 1))}


def duplicates(ids: Sequence[str], texts: Sequence[str]) -> Duplicates:
    """Compare all pairs of texts by the exact Jaccard similarity of their shingles; time grows with rows squared.

    Rows that differ in a number or a name only count here too, although the filter keeps some of them on purpose.
    """
    from scipy.sparse import csr_matrix  # type: ignore[import-untyped]

    sets = [shingles(text) for text in texts]
    sizes = np.array([len(found) for found in sets], dtype=np.int64)
    numbers: dict[str, int] = {}
    columns = [numbers.setdefault(shingle, len(numbers)) for found in sets for shingle in found]
    starts = np.concatenate([[0], np.cumsum(sizes)])
    matrix = csr_matrix((np.ones(len(columns), np.int32), columns, starts), shape=(len(sets), len(numbers)))
    paired = np.zeros(len(sets), dtype=bool)
    nearest: list[tuple[float, int, int]] = []
    for start in range(0, len(sets), BLOCK):
        shared = (matrix[start : start + BLOCK] @ matrix.T).toarray()  # (block, rows)
        jaccard = shared / (sizes[start : start + BLOCK, None] + sizes - shared)
        jaccard[np.tril_indices(len(shared), k=start, m=len(sets))] = 0.0  # a row with itself or with an earlier one
        above, below = np.nonzero(jaccard >= THRESHOLD)
        paired[above + start] = paired[below] = True
        for flat in np.argsort(-jaccard, axis=None, kind="stable")[:NEAREST]:
            i, j = divmod(int(flat), len(sets))
            nearest.append((float(jaccard[i, j]), i + start, j))
    nearest.sort(key=lambda found: (-found[0], *found[1:]))
    pairs = tuple(Pair(ids[i], ids[j], value) for value, i, j in nearest[:NEAREST] if value > 0)
    return Duplicates(int(paired.sum()), float(paired.mean()) if sets else 0.0, pairs)


def openings(responses: Sequence[str]) -> dict[str, int]:
    """Return the most common first three words of responses, each with its number of rows."""
    found = [opening(text) for text in responses]
    return dict(list(tally([first for first in found if first]).items())[:OPENINGS])


def tally(values: pl.Series | Sequence[Any]) -> dict[str, int]:
    """Count values, most first, then by name; null and "" count as "none"."""
    counts = Counter("none" if value in (None, "") else str(value) for value in values)
    return dict(sorted(counts.items(), key=lambda pair: (-pair[1], pair[0])))


def _against_manifest(count: StageCount, manifest: Mapping[str, Any]) -> list[str]:
    if count.stage not in manifest:
        return [f"{count.stage}: not in the manifest"] if manifest else []
    said = manifest[count.stage]
    dropped = {reason: rows for reason, rows in said.get("dropped", {}).items() if rows}
    pairs: list[tuple[str, Any, Any]] = [("kept", said.get("kept"), count.kept), ("dropped", dropped, count.dropped)]
    if count.stage not in CREATES:
        pairs.append(("got", said.get("in"), count.entered))
    return [
        f"{count.stage}: the manifest says {name} {before}, the files say {now}"
        for name, before, now in pairs
        if before is not None and before != now
    ]
