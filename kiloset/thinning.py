"""Reduce a pool that is too large for one machine: drop near-duplicates on a cluster, then draw rows evenly over clusters.

The pool is a folder of Parquet files, and so is the result. The workers of the cluster read row groups, one at a time, and
write files; the driver holds row numbers and counts only.

Near-duplicates: texts with the same band key (`kiloset.filters.minhash`) meet on one worker, which verifies their pairs
exactly. The shuffle takes a few bands at a time, so that it does not multiply all texts by 26 at once. Rows that verified
pairs connect then meet on one worker, which runs `drop_near_duplicates` on them. Rows that are not connected cannot affect
each other, so the result does not depend on the cluster.
"""

import json
import logging
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from functools import partial

import numpy as np
import polars as pl
from numpy.typing import NDArray

from kiloset.core.errors import DataError, EmptyError
from kiloset.core.folders import columns_of, is_taken, read_part, row_groups, write_json, write_part
from kiloset.core.models import Embedder
from kiloset.core.progress import Progress
from kiloset.core.table import STAGE_VERDICT, full_instruction, table_of
from kiloset.engines.ray_data import Part, broadcast, map_groups, map_parts
from kiloset.engines.settings import EngineConfig
from kiloset.filters.near_duplicates import NearDuplicatesConfig, drop_near_duplicates
from kiloset.filters.selection import tempered_quotas

logger = logging.getLogger(__name__)

SHUFFLED_BYTES = 1 << 30
"""Most bytes of one shuffle, approximately; it takes as many bands as fit, at least one. A shuffle takes seconds."""
GROUP_ROWS = 200_000
"""Mean number of entries in one group of a shuffle."""
SAMPLE_ROWS = 20_000
"""Rows from which the clusters are made."""
COLUMN_NAMES = {"instruction": ("instruction",), "input": ("input", "context"), "response": ("response", "output")}
"""Names that a pool may give to each column."""
LEDGER = {"row": pl.Int64, "id": pl.String, **STAGE_VERDICT}
DRAW_VALUES = 1 << 20
"""Values of the random number by which rows of one cluster are drawn."""
BUCKETS = 1 << 14
"""Buckets of that number in which rows are counted."""
ROW_ID = pl.format("p{}", pl.col("row").cast(pl.String).str.zfill(10))


@dataclass(frozen=True, slots=True)
class Thinned:
    """Counts of a thinned pool."""

    rows: int
    kept: int
    dropped: dict[str, int]
    """By reason."""
    cut_short: int
    """How often a row was not compared with all rows that share a key with it, because there were thousands."""
    clusters: int


@dataclass(frozen=True)
class _Draw:
    """Assigns rows to clusters and draws from them; sent to the workers."""

    is_dropped: Callable[[], NDArray[np.bool_]]
    """Returns `(rows,)`: whether a row of the pool is a near-duplicate."""
    centres: Callable[[], NDArray[np.float32]]
    """Returns `(clusters, dims)`."""
    seed: int
    make_embedder: Callable[[], Embedder]

    def assign(self, part: Part) -> pl.DataFrame:
        """Return `row`, `cluster` and `bucket` of the rows of a row group that are not near-duplicates."""
        texts = _texts(part)
        texts = texts.filter(pl.Series(~self.is_dropped()[_rows_of(part)]))
        vectors = self.make_embedder().embed(full_instruction(texts))
        cluster = (vectors @ self.centres().T).argmax(axis=1) if texts.height else np.zeros(0, np.int64)
        bucket = _random_numbers(texts["row"], self.seed) // (DRAW_VALUES // BUCKETS)
        return texts.select("row").with_columns(
            cluster=pl.Series(cluster, dtype=pl.Int64), bucket=pl.Series(bucket, dtype=pl.Int64)
        )

    def count(self, part: Part) -> pl.DataFrame:
        """Return the number of rows in each bucket of each cluster."""
        return self.assign(part).group_by("cluster", "bucket").agg(rows=pl.len().cast(pl.Int64))


def thin(
    pool: str, out: str, rows: int | None, near: NearDuplicatesConfig, engine: EngineConfig, *, seed: int,
    temper: float, make_embedder: Callable[[], Embedder], progress: Progress,
) -> Thinned:  # fmt: skip
    """Write the kept rows of a pool to `out`/kept, the dropped rows' reasons to `out`/dropped, counts to `out`/thinned.json.

    Args:
        pool: Folder of Parquet files with the columns instruction, response (or output) and optionally input (or context).
        out: A new or empty folder.
        rows: Most rows to keep, drawn from clusters by `temper`; None keeps all rows that are not near-duplicates.
        near: The `[near_duplicates]` table.
        engine: The `[engine]` table.
        seed: Seed of the hash functions, the sample and the draw.
        temper: As `[select] temper`.
        make_embedder: Makes, on any machine, an embedder whose vector of a text does not depend on the rest of a batch.
        progress: Receives the progress.

    Raises:
        DataError: The pool cannot be read, or `out` is not empty.
        EmptyError: The pool has no row.
    """
    if is_taken(out):
        raise DataError("KS861", f"{out}: not empty; name a new or empty folder")
    parts = [{**part, "columns": _columns(part)} for part in row_groups(pool)]
    total = sum(part["rows"] for part in parts)
    if not total:
        raise EmptyError("KS862", f"{pool}: no row in it")
    logger.info("%s: %d rows in %d row groups", pool, total, len(parts))
    pairs, cut_short = _similar_pairs(parts, total, near, engine, seed, progress)
    is_dropped = _drop_connected(parts, total, pairs, near, engine, seed, out)
    duplicates = int(is_dropped.sum())
    logger.info("near-duplicates: %d rows dropped", duplicates)
    on_workers, draw, limits = broadcast(engine, is_dropped), None, dict[int, int]()
    if rows is not None and total - duplicates > rows:
        centres = _centres(parts, is_dropped, rows, seed, make_embedder)
        draw = _Draw(on_workers, broadcast(engine, centres), seed, make_embedder)
        limits = _limits(
            _with_progress(map_parts(engine, parts, draw.count), len(parts), "clusters", progress), rows, temper
        )
    write = partial(_write, out=out, is_dropped=on_workers, draw=draw, limits=limits)
    counts = _with_progress(map_parts(engine, parts, write), len(parts), "writing", progress)
    dropped = {"near-duplicates": duplicates, "over_quota": int(counts["over_quota"].sum())}
    reasons = {reason: n for reason, n in dropped.items() if n}
    thinned = Thinned(total, int(counts["kept"].sum()), reasons, cut_short, len(limits))
    write_json(out, "thinned.json", json.dumps({"pool": pool, **asdict(thinned)}, indent=2) + "\n")
    return thinned


def _columns(part: Part) -> dict[str, str]:
    """Return the file's name of each column that it has."""
    names = columns_of(part)
    columns = {column: next((name for name in known if name in names), "") for column, known in COLUMN_NAMES.items()}
    for column in ("instruction", "response"):
        if not columns[column]:
            raise DataError(
                "KS863",
                f"{part['file']}: no column {column!r}, found {', '.join(names)}; a pool has the columns instruction, response "
                "(or output) and optionally input (or context)",
            )
    return {column: name for column, name in columns.items() if name}


def _rows_of(part: Part) -> slice:
    return slice(part["first"], part["first"] + part["rows"])


def _texts(part: Part) -> pl.DataFrame:
    """Return `row`, instruction, input and response of a row group."""
    names: dict[str, str] = part["columns"]
    texts = {
        column: pl.col(names[column]).cast(pl.String).fill_null("") if column in names else pl.lit("")
        for column in COLUMN_NAMES
    }
    return read_part(part, list(dict.fromkeys(names.values()))).select("row", **texts)


def _table(texts: pl.DataFrame) -> pl.DataFrame:
    """Return rows of a pool as the table of the stages; the order of their ids is the order of their rows."""
    rows = texts.select(*COLUMN_NAMES, id=ROW_ID, source=pl.lit("pool"), depth=pl.lit(0, pl.UInt8))
    return pl.concat([table_of([]), rows], how="diagonal")


def _with_progress(tables: Iterator[pl.DataFrame], total: int, label: str, progress: Progress) -> pl.DataFrame:
    """Return the tables of all parts as one, and report each part."""
    progress.begin(label, total)
    collected = []
    for table in tables:
        collected.append(table)
        progress.advance(1)
    progress.end()
    return pl.concat(collected)


# --------------------------------------------------------------------------------------------------- near-duplicates


def _similar_pairs(
    parts: Sequence[Part], total: int, near: NearDuplicatesConfig, engine: EngineConfig, seed: int, progress: Progress
) -> tuple[NDArray[np.int64], int]:
    """Return `(pairs, 2)` row numbers, enough to connect all similar rows, and how often a comparison was cut short."""
    from kiloset.filters.minhash import BANDS

    tables = [pl.DataFrame(schema={"one": pl.Int64, "two": pl.Int64, "cut": pl.Int64})]
    at_once = max(1, SHUFFLED_BYTES // (sum(part["bytes"] for part in parts) + 24 * total))
    progress.begin("near-duplicates: bands", BANDS + 1)
    for start in range(0, BANDS + 1, at_once):
        columns = range(start, min(start + at_once, BANDS + 1))
        groups = max(1, -(-total * len(columns) // GROUP_ROWS))
        emit = partial(_entries, columns=columns, seed=seed, groups=groups)
        tables += map_groups(engine, parts, emit, partial(_pairs_of_group, threshold=near.threshold), groups)
        progress.advance(len(columns))
    progress.end()
    entries = pl.concat(tables)
    pairs = entries.filter(pl.col("one") >= 0).select("one", "two")
    return pairs.to_numpy(), int(entries["cut"].sum())


def _entries(part: Part, columns: Sequence[int], seed: int, groups: int) -> pl.DataFrame:
    """Return each text of a row group once for each band, with its key and the group of the key."""
    from kiloset.filters.minhash_compiled import compiled_texts

    texts = _texts(part).drop("response")
    keys = compiled_texts(texts["instruction"], texts["input"]).band_keys(seed)[:, list(columns)]
    entries = pl.concat([texts.with_columns(key=pl.Series(keys[:, at])) for at in range(len(columns))])
    return entries.filter(pl.col("key") != 0).with_columns(group=(pl.col("key") % groups).cast(pl.Int64))


def _pairs_of_group(entries: pl.DataFrame, threshold: float) -> pl.DataFrame:
    """Return the similar pairs of a group's rows that share a key; `cut` counts the comparisons that were cut short."""
    from kiloset.filters.minhash_compiled import compiled_texts, linked

    entries = entries.filter(pl.col("key").is_duplicated()).sort("key", "row")
    texts = entries.unique("row", keep="first").sort("row")
    places = texts.select("row").with_row_index("place")
    at = entries.select("row").join(places, on="row", how="left", maintain_order="left")["place"]
    pairs, cut = linked(
        compiled_texts(texts["instruction"], texts["input"]), at.to_numpy().astype(np.int64),
        entries["key"].to_numpy().astype(np.uint64), threshold,
    )  # fmt: skip
    # Row -1 stands for no pair, so that no group returns an empty table.
    rows = texts["row"].to_numpy()[pairs] if len(pairs) else np.full((1, 2), -1, np.int64)
    return pl.DataFrame({"one": rows[:, 0], "two": rows[:, 1], "cut": [cut, *[0] * (len(rows) - 1)]})


def _drop_connected(
    parts: Sequence[Part], total: int, pairs: NDArray[np.int64], near: NearDuplicatesConfig, engine: EngineConfig,
    seed: int, out: str,
) -> NDArray[np.bool_]:  # fmt: skip
    """Return `(rows,)`: whether a row is dropped as a near-duplicate of a connected row; write the reasons."""
    is_dropped = np.zeros(total, np.bool_)
    if len(pairs):
        groups = max(1, -(-2 * len(pairs) // GROUP_ROWS))
        emit = partial(_connected_rows, components=broadcast(engine, _components(pairs, total)), groups=groups)
        gather = partial(_drop_in_group, near=near, seed=seed, out=out)
        for dropped in map_groups(engine, parts, emit, gather, groups):
            is_dropped[dropped.filter(pl.col("row") >= 0)["row"].to_numpy()] = True
    return is_dropped


def _components(pairs: NDArray[np.int64], total: int) -> NDArray[np.int32]:
    """Return `(rows,)`: the number of the connected component of each row, -1 for a row without a pair."""
    from scipy.sparse import coo_matrix  # type: ignore[import-untyped]
    from scipy.sparse.csgraph import connected_components  # type: ignore[import-untyped]

    rows, places = np.unique(pairs, return_inverse=True)
    one, two = places.reshape(pairs.shape).T
    graph = coo_matrix((np.ones(len(one)), (one, two)), (len(rows), len(rows)))
    components = np.full(total, -1, np.int32)
    components[rows] = connected_components(graph, directed=False)[1]
    return components


def _connected_rows(part: Part, components: Callable[[], NDArray[np.int32]], groups: int) -> pl.DataFrame:
    texts = _texts(part).with_columns(group=pl.Series(components()[_rows_of(part)]).cast(pl.Int64))
    return texts.filter(pl.col("group") >= 0).with_columns(pl.col("group") % groups)


def _drop_in_group(rows: pl.DataFrame, near: NearDuplicatesConfig, seed: int, out: str) -> pl.DataFrame:
    """Return the numbers of the near-duplicates among connected rows, and -1; write the reasons."""
    dropped = drop_near_duplicates(_table(rows.sort("row")), near, seed=seed).dropped
    numbers = dropped["id"].str.slice(1).cast(pl.Int64).rename("row")
    ledger = dropped.select(numbers, "id", *STAGE_VERDICT).cast(pl.Schema(LEDGER))
    if ledger.height:
        write_part(f"{out}/dropped", f"near-{rows['group'][0]:06d}.parquet", ledger)
    return pl.DataFrame({"row": [*numbers, -1]}, schema={"row": pl.Int64})


# ----------------------------------------------------------------------------------------------- clusters and writing


def _random_numbers(rows: pl.Series, seed: int) -> NDArray[np.int64]:
    """Return a number in [0, DRAW_VALUES) for each row number; it depends on nothing but the row number and the seed."""
    mixed = rows.to_numpy().astype(np.uint64) + np.uint64(seed * 2 + 1) * np.uint64(0x9E3779B97F4A7C15)
    for shift, factor in ((30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB)):  # splitmix64's finalizer
        mixed = (mixed ^ (mixed >> np.uint64(shift))) * np.uint64(factor)
    return ((mixed ^ (mixed >> np.uint64(31))) % np.uint64(DRAW_VALUES)).astype(np.int64)


def _centres(
    parts: Sequence[Part], is_dropped: NDArray[np.bool_], rows: int, seed: int, make_embedder: Callable[[], Embedder]
) -> NDArray[np.float32]:
    """Return `(clusters, dims)` centres by k-means of a sample of the rows that are not near-duplicates."""
    from kiloset.filters.nearest import centres_of

    share = min(1.0, SAMPLE_ROWS / (len(is_dropped) - int(is_dropped.sum())))
    sample: list[str] = []
    for part in parts:
        texts = _texts(part)
        is_drawn = (_random_numbers(texts["row"], seed + 1) < share * DRAW_VALUES) & ~is_dropped[_rows_of(part)]
        sample += full_instruction(texts.filter(pl.Series(is_drawn)))
    return centres_of(make_embedder().embed(sample), max(1, min(rows // 10, len(sample) // 39, 1000)), seed)


def _limits(counts: pl.DataFrame, rows: int, temper: float) -> dict[int, int]:
    """Return the bucket below which rows of each cluster are kept, such that at most `rows` are kept in all."""
    counts = counts.group_by("cluster", "bucket").agg(pl.col("rows").sum()).sort("cluster", "bucket")
    sizes = {int(label): int(n) for label, n in counts.group_by("cluster").agg(pl.col("rows").sum()).iter_rows()}
    quotas = pl.col("cluster").replace_strict(tempered_quotas(sizes, rows, temper), return_dtype=pl.Int64)
    within = counts.filter(pl.col("rows").cum_sum().over("cluster") <= quotas)
    last = dict(within.group_by("cluster").agg(pl.col("bucket").max()).iter_rows())
    return {label: int(last.get(label, -1)) + 1 for label in sizes}


def _write(
    part: Part, out: str, is_dropped: Callable[[], NDArray[np.bool_]], draw: _Draw | None, limits: dict[int, int]
) -> pl.DataFrame:
    """Write the kept rows of a row group with all their columns, and the reasons of the others; return both counts."""
    rows = read_part(part).filter(pl.Series(~is_dropped()[_rows_of(part)]))
    name, over_quota = f"part-{part['first']:010d}.parquet", 0
    if draw is not None:
        limit = pl.col("cluster").replace_strict(limits, return_dtype=pl.Int64)
        over = draw.assign(part).filter(pl.col("bucket") >= limit)
        rows = rows.join(over, on="row", how="anti", maintain_order="left")
        if over_quota := over.height:
            evidence = pl.format("not drawn of cluster {}", "cluster")
            reasons = over.select("row", id=ROW_ID, reason=pl.lit("over_quota"), evidence=evidence)
            ledger = pl.concat([pl.DataFrame(schema=LEDGER), reasons], how="diagonal")
            write_part(f"{out}/dropped", f"quota-{name}", ledger)
    if rows.height:
        write_part(f"{out}/kept", name, rows.drop("row"))
    return pl.DataFrame({"kept": [rows.height], "over_quota": [over_quota]})
