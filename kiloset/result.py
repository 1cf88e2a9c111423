"""Finish a run: write the curated set, and say what it holds, what was dropped and what fell short."""

import math
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, replace

import polars as pl

from kiloset.core.errors import EmptyError
from kiloset.core.review import accepted_surplus
from kiloset.core.run import RunFolder, last_verdict, write_atomically
from kiloset.data.curated import curated_text, is_edited, write_curated
from kiloset.filters.groups import duplicate_groups
from kiloset.filters.near_duplicates import near_duplicate_pairs
from kiloset.generator.settings import PURPOSES
from kiloset.recipe import Context
from kiloset.review.apply import Reviewed

SURPLUS = ("over_quota", "style_reserve")
"""Reasons of rows that are good enough: selection left them out because there are more than the wanted number."""


@dataclass(frozen=True)
class Shortfall:
    """Why a category has fewer rows than wanted, and what it would cost to fill it."""

    category: str
    wanted: int
    got: int
    requested: int
    """Requested instructions and rows of the pool."""
    losses: dict[str, int]
    """Dropped rows by `stage/reason`, most first, without the rows that selection did not need."""
    more_requests: int | None
    """Expected requests to fill it; None where no row came through so far."""
    more_tokens: int | None
    """Expected tokens of these requests, prompts included."""


@dataclass(frozen=True)
class Result:
    """How a run ended."""

    rows: int
    wanted: dict[str, int]
    got: dict[str, int]
    dropped: dict[str, dict[str, int]]
    """Dropped rows, by stage and reason."""
    edited: bool
    """The user changed curated.jsonl by hand; the run left it alone."""
    review: Reviewed | None = None
    """How the decisions of a review were applied, if there are any."""
    ended: str = "done"
    """Why generation ended: `done`, or the limit that ended it (`kiloset.generator.loop.GenerationResult`)."""
    shortfalls: tuple[Shortfall, ...] = ()

    @property
    def shortfall(self) -> dict[str, int]:
        """Missing rows, by category; {} if the set has its size."""
        surplus = self.review.beyond if self.review else 0
        if sum(self.got.values()) - surplus >= sum(self.wanted.values()):
            return {}
        return {name: n - self.got.get(name, 0) for name, n in self.wanted.items() if n > self.got.get(name, 0)}


def finish(context: Context, folder: RunFolder, table: pl.DataFrame) -> Result:
    """Write curated.jsonl, unless the user edited it, and the groups of duplicates; return the result.

    Raises:
        EmptyError: No row was accepted.
    """
    config, ledger, wanted = context.config, folder.dropped(), context.wanted
    dropped: dict[str, dict[str, int]] = {}
    for stage, reason, count in ledger.group_by("stage", "reason", maintain_order=True).len().iter_rows():
        dropped.setdefault(stage, {})[reason] = count
    if table.is_empty():
        raise EmptyError("KS858", _nothing_accepted(folder, dropped))
    write_atomically(folder.duplicates, duplicate_groups(table, ledger).write_parquet)
    pairs = near_duplicate_pairs(table, config.near_duplicates.threshold)
    text = curated_text(table, ledger, pairs, config.run.validation, config.run.seed)
    edited = is_edited(folder, text)
    if not edited:
        write_curated(folder, text)
    got = {str(name): int(n) for name, n in table.group_by("category").len().sort("category").iter_rows()}
    ended = str(folder.manifest.get("generate", {}).get("ended", "done")) if config.generate.enabled else "off"
    review = context.review.summary(table, ledger, accepted_surplus(table, wanted))
    result = Result(table.height, dict(wanted), got, dropped, edited, review, ended)
    result = replace(result, shortfalls=tuple(_shortfalls(result, table, ledger, folder)))
    folder.update_manifest({"got": got, "shortfall": result.shortfall, "review": asdict(review) if review else None})
    return result


def _nothing_accepted(folder: RunFolder, dropped: Mapping[str, Mapping[str, int]]) -> str:
    counts = ((n, f"{stage}/{reason}") for stage, reasons in dropped.items() for reason, n in reasons.items())
    most = ", ".join(f"{reason} {n}" for n, reason in sorted(counts, reverse=True)[:4])
    return f"{folder.path}: no row was accepted; dropped: {most or 'nothing was generated'} (all in dropped.parquet)"


def _shortfalls(result: Result, table: pl.DataFrame, ledger: pl.DataFrame, folder: RunFolder) -> Iterator[Shortfall]:
    candidate = pl.col("source") != "seed"
    gone = ledger.filter(candidate & ~last_verdict("reason").is_in(SURPLUS))
    every = pl.concat([part.filter(candidate).select("category", "source") for part in (table, ledger)])
    calls = [spent for name, spent in folder.manifest.get("calls", {}).items() if name in PURPOSES]
    generated = every.filter(pl.col("source") == "generated").height
    requests = sum(spent["completed"] for spent in calls)
    tokens = sum(spent["prompt_tokens"] + spent["completion_tokens"] for spent in calls)
    for name, rows in result.shortfall.items():
        lost = gone.filter(pl.col("category") == name).group_by("stage", "reason").len()
        losses = {
            f"{stage}/{reason}": n for stage, reason, n in lost.sort(["len", "reason"], descending=[True, False]).rows()
        }
        number, got = every.filter(pl.col("category") == name).height, result.got.get(name, 0)
        more = math.ceil(rows * number / got) if got and generated else None
        yield Shortfall(
            name, result.wanted[name], got, number, losses,
            None if more is None else math.ceil(more * requests / generated),
            None if more is None else math.ceil(more * tokens / generated),
        )  # fmt: skip
