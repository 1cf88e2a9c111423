"""Makes a pool that no one machine holds smaller: near-duplicates across nodes, then as many rows as are wanted, by clusters.

The pool is a folder of Parquet files, and so is what is left of it. Row groups are read, and files written, by the
cluster's workers; the driver sees row numbers and counts only. A row group is what a worker holds at once.

Near-duplicates: the keys of `kiloset.filters.minhash` bring rows together that may be alike (a shuffle for a few bands at a time, so
that texts are not all multiplied by 26 at once); pairs are verified exactly where they land, and those that connect what is
alike return. What is connected comes together on one worker, where the very stage function of one machine judges it: two
rows that are not connected by pairs alike have no say in each other's fate. So the outcome does not depend on the cluster.
"""

import json
import logging
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from kiloset.core.errors import DataError, EmptyError
from kiloset.core.folders import columns_of, is_taken, listed, read_part, write_json, write_part
from kiloset.core.models import Embedder, Progress
from kiloset.core.table import STAGE_VERDICT, full_instruction, table_of
from kiloset.engines.ray_data import Part, grouped, shared, worked
from kiloset.engines.settings import EngineConfig
from kiloset.filters.balance import tempered_quotas
from kiloset.filters.near_duplicates import NearDuplicatesConfig, drop_near_duplicates

logger = logging.getLogger(__name__)

SHUFFLED_BYTES = 1 << 30
"""Most that is shuffled at once, about: as many bands are taken together as fit it, one at least. A shuffle takes seconds."""
ROWS_A_GROUP = 200_000
"""Entries of a group of a shuffle, in the mean."""
SAMPLE = 20_000
"""Rows by which clusters are made."""
TAKEN = ("instruction", "input", "response")
OTHER_NAMES = {"response": ("response", "output"), "input": ("input", "context"), "instruction": ("instruction",)}
LEDGER = {"row": pl.Int64, "id": pl.String, **STAGE_VERDICT}
CHANCE = 1 << 20
"""Values of a row's chance, by which rows of one cluster are drawn."""
BUCKETS = 1 << 14
"""Parts of the range of chances in which rows are counted."""


@dataclass(frozen=True, slots=True)
class Thinned:
    """What became of the pool's rows."""

    rows: int
    kept: int
    dropped: dict[str, int]
    """By reason."""
    cut_short: int
    """Times that a row was not compared with all rows that share a key, for there were thousands."""
    clusters: int


def thin(
    pool: str, out: str, rows: int | None, near: NearDuplicatesConfig, engine: EngineConfig, *, seed: int,
    temper: float, make_embedder: Callable[[], Embedder], progress: Progress,
) -> Thinned:  # fmt: skip
    """Write what is kept of a pool to `out`/kept, why each other row is not to `out`/dropped, and counts to `out`/thinned.json.

    Args:
        pool: Folder of Parquet files with the columns instruction, response (or output) and perhaps input (or context).
        out: A folder that is not there yet, or empty.
        rows: How many to keep at most, drawn from clusters by `temper`; None keeps all that are no near-duplicates.
        near: The `[near_duplicates]` table.
        engine: The `[engine]` table.
        seed: Of hash functions, sample and chance.
        temper: As `[balance] temper`.
        make_embedder: Makes, on whatever machine it is called, an embedder whose vectors do not depend on their company.
        progress: Told how far it is.

    Raises:
        DataError: The pool or `out` is not so.
        EmptyError: The pool has no row.
    """
    if is_taken(out):
        raise DataError("KS861", f"{out}: there is something already; name a folder that is new or empty")
    parts = [{**part, "columns": _columns(part)} for part in listed(pool)]
    total = sum(part["rows"] for part in parts)
    if not total:
        raise EmptyError("KS862", f"{pool}: no row in it")
    logger.info("%s: %d rows in %d row groups", pool, total, len(parts))
    pairs, cut = _pairs(parts, total, near, engine, seed, progress)
    gone = _judged(parts, total, pairs, near, engine, seed, out)
    logger.info("near-duplicates: %d rows dropped", gone.sum())
    clusters = 0
    limits: dict[int, int] = {}
    if rows is not None and total - int(gone.sum()) > rows:
        centres = _centres(parts, gone, rows, seed, make_embedder)
        clusters = len(centres)
        limits = _limits(parts, gone, rows, temper, centres, engine, seed, make_embedder, progress)
        write = partial(_write, out=out, gone=shared(engine, gone), seed=seed, limits=limits, make=make_embedder,
                        centres=shared(engine, centres))  # fmt: skip
    else:
        write = partial(_write, out=out, gone=shared(engine, gone), seed=seed, limits=None, make=None, centres=None)
    counts = pl.concat(_shown(worked(engine, parts, write), len(parts), "writing", progress))
    dropped = {"near-duplicates": int(gone.sum()), "over_quota": int(counts["over_quota"].sum())}
    found = Thinned(total, int(counts["kept"].sum()), {k: n for k, n in dropped.items() if n}, cut, clusters)
    write_json(out, "thinned.json", json.dumps({"pool": pool, **asdict(found)}, indent=2) + "\n")
    return found


def _columns(part: Part) -> dict[str, str]:
    """Return what the columns `TAKEN` are called in a file; those that it lacks are not in it."""
    there = columns_of(part)
    found = {name: next((other for other in OTHER_NAMES[name] if other in there), "") for name in TAKEN}
    if missing := [name for name in ("instruction", "response") if not found[name]]:
        raise DataError(
            "KS863",
            f"{part['file']}: no column {missing[0]!r}, found {', '.join(there)}; a pool has instruction, response (or output) and perhaps "
            "input (or context)",
        )
    return {name: other for name, other in found.items() if other}


def _texts(part: Part) -> pl.DataFrame:
    """Return `row`, instruction, input and response of a row group."""
    names: dict[str, str] = part["columns"]
    found = read_part(part, list(dict.fromkeys(names.values())))
    texts = {name: pl.col(names[name]).cast(pl.String).fill_null("") if name in names else pl.lit("") for name in TAKEN}
    return found.select("row", **texts)


def _table(texts: pl.DataFrame) -> pl.DataFrame:
    """Return rows of a pool as the stages know them; their ids are in the order of their rows."""
    known = texts.select(
        *TAKEN, id=pl.format("p{}", pl.col("row").cast(pl.String).str.zfill(10)), source=pl.lit("pool"),
        depth=pl.lit(0, pl.UInt8),
    )  # fmt: skip
    return pl.concat([table_of([]), known], how="diagonal")


# --------------------------------------------------------------------------------------------------- near-duplicates


def _pairs(
    parts: Sequence[Part], total: int, near: NearDuplicatesConfig, engine: EngineConfig, seed: int, progress: Progress
) -> tuple[NDArray[np.int64], int]:
    """Return `(pairs, 2)` numbers of rows that are alike, enough to connect all such rows."""
    from kiloset.filters.minhash import BANDS

    found: list[pl.DataFrame] = []
    columns = list(range(BANDS + 1))
    at_once = max(1, SHUFFLED_BYTES // (sum(part["bytes"] for part in parts) + 24 * total))
    rounds = [columns[at : at + at_once] for at in range(0, len(columns), at_once)]
    progress.begin("near-duplicates: bands", len(columns))
    for some in rounds:
        groups = max(1, -(-total * len(some) // ROWS_A_GROUP))
        emit = partial(_entries, columns=some, seed=seed, groups=groups)
        found += grouped(engine, parts, emit, partial(_linked, threshold=near.threshold), groups)
        progress.advance(len(some))
    progress.end()
    every = pl.concat(found) if found else pl.DataFrame(schema={"one": pl.Int64, "two": pl.Int64, "cut": pl.Int64})
    linked = every.filter(pl.col("one") >= 0)
    return linked.select("one", "two").to_numpy(), int(every["cut"].sum())


def _entries(part: Part, columns: Sequence[int], seed: int, groups: int) -> pl.DataFrame:
    """Return, for each text of a row group and each band, its key and the text."""
    from kiloset.filters.minhash_compiled import compiled_texts

    texts = _texts(part).drop("response")
    keys = compiled_texts(texts["instruction"], texts["input"]).band_keys(seed)[:, list(columns)]
    every = [texts.with_columns(key=pl.Series(keys[:, at])) for at in range(len(columns))]
    group = (pl.col("key") % groups).cast(pl.Int64)
    return pl.concat(every).filter(pl.col("key") != 0).with_columns(group=group)


def _linked(entries: pl.DataFrame, threshold: float) -> pl.DataFrame:
    """Return pairs of a group's rows that share a key and are alike, and how often a comparison was cut short."""
    from kiloset.filters.minhash_compiled import compiled_texts, linked

    entries = entries.filter(pl.col("key").is_duplicated()).sort("key", "row")
    texts = entries.unique("row", keep="first").sort("row")
    places = texts.select("row").with_row_index("place")
    at = entries.select("row").join(places, on="row", how="left", maintain_order="left")["place"]
    pairs, cut = linked(
        compiled_texts(texts["instruction"], texts["input"]), at.to_numpy().astype(np.int64),
        entries["key"].to_numpy().astype(np.uint64), threshold,
    )  # fmt: skip
    rows = texts["row"].to_numpy()
    both = rows[pairs] if len(pairs) else np.full((1, 2), -1, np.int64)
    said = np.zeros(len(both), np.int64)
    said[0] = cut
    return pl.DataFrame({"one": both[:, 0], "two": both[:, 1], "cut": said})


def _judged(
    parts: Sequence[Part], total: int, pairs: NDArray[np.int64], near: NearDuplicatesConfig, engine: EngineConfig,
    seed: int, out: str,
) -> NDArray[np.bool_]:  # fmt: skip
    """Judge what is connected, write why rows leave, and return which do: `(rows,)`."""
    gone = np.zeros(total, np.bool_)
    if not len(pairs):
        return gone
    groups = max(1, -(-2 * len(pairs) // ROWS_A_GROUP))
    place = shared(engine, _components(pairs, total))
    emit, gather = partial(_connected, place=place, groups=groups), partial(_twins, near=near, seed=seed, out=out)
    for left in grouped(engine, parts, emit, gather, groups):
        gone[left.filter(pl.col("row") >= 0)["row"].to_numpy()] = True
    return gone


def _components(pairs: NDArray[np.int64], total: int) -> NDArray[np.int32]:
    """Return, for each row, the number of what it is connected to, -1 where that is nothing: `(rows,)`."""
    from scipy.sparse import coo_matrix  # type: ignore[import-untyped]
    from scipy.sparse.csgraph import connected_components  # type: ignore[import-untyped]

    rows, places = np.unique(pairs, return_inverse=True)
    one, two = places.reshape(pairs.shape).T
    _, labels = connected_components(
        coo_matrix((np.ones(len(one)), (one, two)), (len(rows), len(rows))), directed=False
    )
    found = np.full(total, -1, np.int32)
    found[rows] = labels
    return found


def _connected(part: Part, place: Callable[[], NDArray[np.int32]], groups: int) -> pl.DataFrame:
    labels = place()[part["first"] : part["first"] + part["rows"]]
    texts = _texts(part).with_columns(group=pl.Series(labels).cast(pl.Int64))
    return texts.filter(pl.col("group") >= 0).with_columns(pl.col("group") % groups)


def _twins(rows: pl.DataFrame, near: NearDuplicatesConfig, seed: int, out: str) -> pl.DataFrame:
    """Drop the near-duplicates among connected rows, and write why."""
    texts = rows.sort("row")
    dropped = drop_near_duplicates(_table(texts), near, seed=seed).dropped
    numbers = dropped["id"].str.slice(1).cast(pl.Int64).rename("row")
    ledger = dropped.select(numbers, "id", *STAGE_VERDICT).cast(pl.Schema(LEDGER))
    if ledger.height:
        write_part(f"{out}/dropped", f"near-{rows['group'][0]:06d}.parquet", ledger)
    return pl.DataFrame({"row": [*numbers, -1]}, schema={"row": pl.Int64})


# ----------------------------------------------------------------------------------------------------------- clusters


def _chance(rows: pl.Series, seed: int) -> NDArray[np.int64]:
    """Return a number in [0, CHANCE) for each row, which depends on nothing else."""
    mixed = rows.to_numpy().astype(np.uint64) + np.uint64(seed * 2 + 1) * np.uint64(0x9E3779B97F4A7C15)
    for shift, factor in ((30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB)):  # splitmix64's finalizer
        mixed = (mixed ^ (mixed >> np.uint64(shift))) * np.uint64(factor)
    return ((mixed ^ (mixed >> np.uint64(31))) % np.uint64(CHANCE)).astype(np.int64)


def _centres(
    parts: Sequence[Part], gone: NDArray[np.bool_], rows: int, seed: int, make: Callable[[], Embedder]
) -> NDArray[np.float32]:
    """Return `(clusters, dims)` centres by k-means of a sample of the rows that are left."""
    from kiloset.filters.nearest import centres_of

    left = len(gone) - int(gone.sum())
    share = min(1.0, SAMPLE / left)
    some: list[str] = []
    for part in parts:
        texts = _texts(part)
        chosen = (_chance(texts["row"], seed + 1) < share * CHANCE) & ~gone[
            part["first"] : part["first"] + part["rows"]
        ]
        some += full_instruction(texts.filter(pl.Series(chosen)))
    vectors = make().embed(some)
    return centres_of(vectors, max(1, min(rows // 10, len(some) // 39, 1000)), seed)


def _assigned(
    part: Part, gone: Callable[[], NDArray[np.bool_]], centres: Callable[[], NDArray[np.float32]], seed: int,
    make: Callable[[], Embedder],
) -> pl.DataFrame:  # fmt: skip
    """Return `row`, `cluster` and `bucket`, the part of the range of chances, of the rows of a row group that are left."""
    texts = _texts(part)
    texts = texts.filter(pl.Series(~gone()[part["first"] : part["first"] + part["rows"]]))
    vectors = make().embed(full_instruction(texts))
    cluster = (vectors @ centres().T).argmax(axis=1) if texts.height else np.zeros(0, np.int64)
    return texts.select("row").with_columns(
        cluster=pl.Series(cluster, dtype=pl.Int64), bucket=pl.Series(_chance(texts["row"], seed) // (CHANCE // BUCKETS))
    )


def _limits(
    parts: Sequence[Part], gone: NDArray[np.bool_], rows: int, temper: float, centres: NDArray[np.float32],
    engine: EngineConfig, seed: int, make: Callable[[], Embedder], progress: Progress,
) -> dict[int, int]:  # fmt: skip
    """Return the bucket below which rows of each cluster are kept, from counts alone: at most as many rows as are wanted."""
    count = partial(_counted, gone=shared(engine, gone), centres=shared(engine, centres), seed=seed, make=make)
    counts = pl.concat(_shown(worked(engine, parts, count), len(parts), "clusters", progress))
    counts = counts.group_by("cluster", "bucket").agg(pl.col("rows").sum()).sort("cluster", "bucket")
    sizes = {int(label): int(n) for label, n in counts.group_by("cluster").agg(pl.col("rows").sum()).iter_rows()}
    quotas = tempered_quotas(sizes, rows, temper)
    within = counts.with_columns(so_far=pl.col("rows").cum_sum().over("cluster")).filter(
        pl.col("so_far") <= pl.col("cluster").replace_strict(quotas, return_dtype=pl.Int64)
    )
    best = dict(within.group_by("cluster").agg(pl.col("bucket").max()).iter_rows())
    return {label: int(best.get(label, -1)) + 1 for label in sizes}


def _counted(part: Part, **given: Any) -> pl.DataFrame:
    rows = _assigned(part, **given)
    return rows.group_by("cluster", "bucket").agg(rows=pl.len().cast(pl.Int64))


# ------------------------------------------------------------------------------------------------------------- writing


def _write(
    part: Part, out: str, gone: Callable[[], NDArray[np.bool_]], seed: int, limits: dict[int, int] | None,
    make: Callable[[], Embedder] | None, centres: Callable[[], NDArray[np.float32]] | None,
) -> pl.DataFrame:  # fmt: skip
    """Write what is kept of a row group, every column of it, and why the rest is not; return how many rows that are."""
    rows = read_part(part).filter(pl.Series(~gone()[part["first"] : part["first"] + part["rows"]]))
    name, left = f"part-{part['first']:010d}.parquet", 0
    if limits is not None and make is not None and centres is not None:
        known = _assigned(part, gone, centres, seed, make)
        limit = pl.col("cluster").replace_strict(limits, return_dtype=pl.Int64)
        over = known.filter(pl.col("bucket") >= limit)
        rows = rows.join(over, on="row", how="anti", maintain_order="left")
        left = over.height
        if left:
            said = over.select(
                "row", id=pl.format("p{}", pl.col("row").cast(pl.String).str.zfill(10)), reason=pl.lit("over_quota"),
                evidence=pl.format("not drawn of cluster {}", "cluster"),
            )  # fmt: skip
            empty = pl.DataFrame(schema=LEDGER)
            write_part(f"{out}/dropped", f"quota-{name}", pl.concat([empty, said], how="diagonal"))
    if rows.height:
        write_part(f"{out}/kept", name, rows.drop("row"))
    return pl.DataFrame({"kept": [rows.height], "over_quota": [left]})


def _shown(found: Iterator[pl.DataFrame], total: int, label: str, progress: Progress) -> list[pl.DataFrame]:
    """Collect what comes back of each part, and tell how far it is."""
    progress.begin(label, total)
    tables = []
    for table in found:
        tables.append(table)
        progress.advance(1)
    progress.end()
    return tables
