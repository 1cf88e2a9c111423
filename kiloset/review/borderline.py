"""The order "borderline first": the rows a reviewer's look is worth most for."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import polars as pl

from kiloset.audit.gate import gain_margin, length_margin, margin_of, nearest_first
from kiloset.audit.run_folder import read_settings
from kiloset.core.constraints import failing
from kiloset.core.errors import DataError
from kiloset.core.run import RunFolder
from kiloset.core.text import words


@dataclass(frozen=True, slots=True)
class Near:
    """How near a row is to a limit."""

    check: str
    room: float
    """What is left of the way to the limit, in [0, 1]; 0 is on it."""
    said: str
    """The same for a reader."""


def in_order(table: pl.DataFrame, pairs: pl.DataFrame | None, run: RunFolder) -> tuple[dict[str, Near], pl.Series]:
    """Return what the rows of the set are shown for, and each row's place in the order "borderline first".

    First the rows of the set whose answer breaks a constraint. Then, in turn, each measure gives the row nearest to its
    limit that is not taken yet, so that none of them crowds out the others: the cosine of a pair in borderline.parquet,
    against `semantic.threshold`; the quality, by its place in the category, the lowest first; the length of a rewrite, its
    gain, and every check of the gate that it was held against. Dropped rows follow, in turn by reason, the one first whose
    measured value is nearest to the limit that it was dropped for. Equals go by their ids.

    Args:
        table: Every row, with its `fate`.
        pairs: The run's borderline pairs.
        run: The run, for the limits in its config.toml.
    """
    kept, gone = (table.filter(pl.col("fate") == fate) for fate in ("set", "dropped"))
    found: dict[str, dict[str, Near]] = {id: {} for id in kept["id"]}
    for id, near in (*_pairs(pairs, read_settings(run, "semantic")), *_qualities(kept), *_rewrites(kept, run)):
        if id in found and (near.check not in found[id] or near.room < found[id][near.check].room):
            found[id][near.check] = near
    broken = _broken(kept)
    rooms = {id: {near.check: near.room for near in by.values()} for id, by in found.items() if id not in broken}
    taken = nearest_first(rooms, len(rooms))
    shown_for = {id: found[id][check] for id, check in taken.items() if check}
    order = [*sorted(broken), *taken, *_dropped(gone)]
    ranks = pl.DataFrame({"id": order, "rank": range(len(order))}, schema={"id": pl.String, "rank": pl.Int64})
    placed = table.select("id").join(ranks, on="id", how="left", maintain_order="left")
    return broken | shown_for, placed["rank"]


def _pairs(pairs: pl.DataFrame | None, semantic: Mapping[str, Any]) -> Iterator[tuple[str, Near]]:
    if pairs is None or pairs.is_empty():
        return
    limit = semantic.get("threshold", 1.0)
    least = min(semantic.get("review", 0.0), pairs["cosine"].min())
    for id, other, cosine in pairs.select("id", "other", "cosine").iter_rows():
        room = max(0.0, (limit - cosine) / (limit - least)) if limit > least else 0.0
        for one, two in ((id, other), (other, id)):
            yield one, Near("cosine", room, f"cosine {cosine:.4g} with {two}, limit {limit:.4g}")


def _qualities(kept: pl.DataFrame) -> Iterator[tuple[str, Near]]:
    if "quality" not in kept.columns:
        return
    rank = pl.col("quality").rank("min").over("category").cast(pl.Int64)
    known = kept.drop_nulls("quality").select("id", "category", "quality", place=rank, rows=pl.len().over("category"))
    for id, category, quality, place, rows in known.iter_rows():
        said = f"quality {quality:.3g}, number {place} of {rows} from below in {category}"
        yield id, Near("quality", (place - 1) / rows, said)


def _rewrites(kept: pl.DataFrame, run: RunFolder) -> Iterator[tuple[str, Near]]:
    if "rewrites" not in kept.columns:
        return
    gate, least = read_settings(run, "gate"), read_settings(run, "rewrite").get("min_gain")
    for row in kept.filter(pl.col("original_response").is_not_null()).iter_rows(named=True):
        chosen = next((each for each in row["rewrites"] or () if each["status"] == "chosen"), None)
        verdicts = [said for said in (chosen or {}).get("verdicts") or () if said["status"] == "passed"]
        before, after = len(words(row["original_response"])), len(words(row["response"]))
        margins = [
            *map(margin_of, verdicts),
            length_margin(before, after, gate),
            gain_margin(row.get("fit_gain"), least),
        ]
        for margin in margins:
            if margin is not None:
                said = f"rewriting: {margin.check} {margin.measured:.4g}, limit {margin.limit:.4g}"
                yield row["id"], Near(margin.check, margin.room, said)


def _broken(kept: pl.DataFrame) -> dict[str, Near]:
    found = {}
    for id, constraints, response in kept.select("id", "constraints", "response").iter_rows():
        try:
            broken = failing(constraints or (), response)
        except DataError as error:
            broken = [str(error)]
        if broken:
            found[id] = Near("constraints", 0.0, f"breaks {', '.join(broken)}")
    return found


def _dropped(gone: pl.DataFrame) -> list[str]:
    size = pl.max_horizontal(pl.col("measured").abs(), pl.col("limit").abs())
    room = pl.when(size > 0).then((pl.col("measured") - pl.col("limit")).abs() / size).otherwise(0.0)
    known = pl.col("measured").is_not_null() & pl.col("limit").is_not_null()
    judged = gone.select("id", "reason", room=pl.when(known).then(room).otherwise(None))
    turns = judged.sort("room", "id", nulls_last=True).with_columns(turn=pl.int_range(pl.len()).over("reason"))
    return turns.sort("turn", "room", "reason", nulls_last=True)["id"].to_list()
