"""The order "borderline first": the rows for which a review is most useful come first."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import polars as pl

from kiloset.audit.gate import chosen_verdicts, margins_of, nearest_first
from kiloset.audit.run_folder import read_settings
from kiloset.core.constraints import failing
from kiloset.core.errors import DataError
from kiloset.core.run import RunFolder
from kiloset.core.text import words


@dataclass(frozen=True, slots=True)
class Nearness:
    """How near a row is to a limit."""

    check: str
    room: float
    """Distance from the limit, in [0, 1]; 0 is on it."""
    text: str
    """The same as text."""


def in_order(table: pl.DataFrame, pairs: pl.DataFrame | None, run: RunFolder) -> tuple[dict[str, Nearness], pl.Series]:
    """Return why the rows of the set have their places, and each row's place in the order "borderline first".

    Rows of the set whose answer breaks a constraint come first. Then, in turn, each measure gives the row nearest to its limit
    that is not taken yet, so that every measure is represented: the cosine of a pair in borderline.parquet, compared with
    `semantic.threshold`; the quality, by its rank in the category, the lowest first; the length of a rewrite, its gain, and
    every check of the gate that applies to it. Dropped rows follow, in turn by reason, ordered by the distance of the measured
    value from the limit. Ties go by id.

    Args:
        table: Every row, with its `part`.
        pairs: The run's borderline pairs.
        run: The run, for the limits in its config.toml.
    """
    kept, dropped = (table.filter(pl.col("part") == part) for part in ("set", "dropped"))
    nearness: dict[str, dict[str, Nearness]] = {id: {} for id in kept["id"]}
    for id, near in (*_pairs(pairs, read_settings(run, "semantic")), *_qualities(kept), *_rewrites(kept, run)):
        if id in nearness and (near.check not in nearness[id] or near.room < nearness[id][near.check].room):
            nearness[id][near.check] = near
    broken = _broken(kept)
    rooms = {id: {near.check: near.room for near in by.values()} for id, by in nearness.items() if id not in broken}
    taken = nearest_first(rooms, len(rooms))
    reasons = {id: nearness[id][check] for id, check in taken.items() if check}
    order = [*sorted(broken), *taken, *_dropped(dropped)]
    ranks = pl.DataFrame({"id": order, "rank": range(len(order))}, schema={"id": pl.String, "rank": pl.Int64})
    placed = table.select("id").join(ranks, on="id", how="left", maintain_order="left")
    return broken | reasons, placed["rank"]


def _pairs(pairs: pl.DataFrame | None, semantic: Mapping[str, Any]) -> Iterator[tuple[str, Nearness]]:
    if pairs is None or pairs.is_empty():
        return
    limit = semantic.get("threshold", 1.0)
    least = min(semantic.get("review", 0.0), pairs["cosine"].min())
    for id, other, cosine in pairs.select("id", "other", "cosine").iter_rows():
        room = max(0.0, (limit - cosine) / (limit - least)) if limit > least else 0.0
        for one, two in ((id, other), (other, id)):
            yield one, Nearness("cosine", room, f"cosine {cosine:.4g} with {two}, limit {limit:.4g}")


def _qualities(kept: pl.DataFrame) -> Iterator[tuple[str, Nearness]]:
    if "quality" not in kept.columns:
        return
    rank = pl.col("quality").rank("min").over("category").cast(pl.Int64)
    known = kept.drop_nulls("quality").select("id", "category", "quality", place=rank, rows=pl.len().over("category"))
    for id, category, quality, place, rows in known.iter_rows():
        text = f"quality {quality:.3g}, number {place} of {rows} from the bottom in {category}"
        yield id, Nearness("quality", (place - 1) / rows, text)


def _rewrites(kept: pl.DataFrame, run: RunFolder) -> Iterator[tuple[str, Nearness]]:
    if "rewrites" not in kept.columns:
        return
    gate, least = read_settings(run, "gate"), read_settings(run, "rewrite").get("min_gain")
    for row in kept.filter(pl.col("original_response").is_not_null()).iter_rows(named=True):
        before, after = len(words(row["original_response"])), len(words(row["response"]))
        verdicts = chosen_verdicts(row["rewrites"])
        for margin in margins_of(verdicts, before, after, gate, row.get("fit_gain"), least):
            yield row["id"], Nearness(margin.check, margin.room, f"rewriting: {margin}")


def _broken(kept: pl.DataFrame) -> dict[str, Nearness]:
    broken_rows = {}
    for id, constraints, response in kept.select("id", "constraints", "response").iter_rows():
        try:
            broken = failing(constraints or (), response)
        except DataError as error:
            broken = [str(error)]
        if broken:
            broken_rows[id] = Nearness("constraints", 0.0, f"breaks {', '.join(broken)}")
    return broken_rows


def _dropped(dropped: pl.DataFrame) -> list[str]:
    size = pl.max_horizontal(pl.col("measured").abs(), pl.col("limit").abs())
    room = pl.when(size > 0).then((pl.col("measured") - pl.col("limit")).abs() / size).otherwise(0.0)
    known = pl.col("measured").is_not_null() & pl.col("limit").is_not_null()
    judged = dropped.select("id", "reason", room=pl.when(known).then(room).otherwise(None))
    turns = judged.sort("room", "id", nulls_last=True).with_columns(turn=pl.int_range(pl.len()).over("reason"))
    return turns.sort("turn", "room", "reason", nulls_last=True)["id"].to_list()
