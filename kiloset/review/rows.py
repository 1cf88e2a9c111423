"""The rows of a finished run for a review: all rows, the rows that a filter selects, and their order.

`read_rows` reads the run folder; all other functions are pure.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import polars as pl

from kiloset.audit.run_folder import read_stages
from kiloset.core.blind_sample import Drawn, read_sample
from kiloset.core.errors import DataError
from kiloset.core.review import TEXTS, Decision, task_digest
from kiloset.core.run import RunFolder
from kiloset.data.curated import read_curated
from kiloset.review.borderline import Nearness, in_order
from kiloset.review.filter import Filter

MARKED = "score"
"""From this stage on, rows have the texts that an earlier review decided."""
DECISION = {"id": pl.String, "verdict": pl.String, **{f"decided_{name}": pl.String for name in TEXTS}}


@dataclass(frozen=True, slots=True)
class Rows:
    """Every row of a run, in the set or dropped, without the decisions of a review."""

    table: pl.DataFrame
    """Each row once; `part` is `set` or `dropped`, `rank` its place in the order "borderline first"."""
    near: dict[str, Nearness]
    """Why a row of the set has its rank."""
    categories: tuple[str, ...]
    splits: dict[str, str]
    """The split of each row of curated.jsonl."""
    tables: dict[str, pl.DataFrame]
    """The run's tables of `duplicates`, `borderline` pairs and `personal` data, as far as they exist."""
    places: dict[str, int]
    _identities: dict[str, str] = field(default_factory=dict)

    def row(self, id: str) -> dict[str, Any]:
        """Return a row by its id."""
        return self.table.row(self.places[id], named=True)

    def identity(self, id: str) -> str:
        """Return the digest of a row's original instruction and input (`kiloset.core.review.task_digest`)."""
        if id not in self._identities:
            self._identities[id] = task_digest(*self.table.select("instruction", "input").row(self.places[id]))
        return self._identities[id]

    def valid(self, decisions: Mapping[str, Decision]) -> dict[str, Decision]:
        """Return the decisions about rows that exist and have the texts that were decided about."""
        return {id: each for id, each in decisions.items() if id in self.places and each.born == self.identity(id)}


@dataclass(frozen=True, slots=True)
class ReviewCounts:
    """Numbers of decided rows, by decision."""

    rows: int
    decided: int
    accepted: int
    """Includes `edited`."""
    edited: int
    rejected: int


def read_rows(run: RunFolder) -> Rows:
    """Read a finished run.

    Raises:
        DataError: The folder is no run, it is not finished, or a file in it is broken.
    """
    run.require()
    stages, ledger = read_stages(run)
    tables = dict(stages)
    if "style" not in tables or not run.curated.exists():
        raise DataError(
            "KS706",
            f"{run.path}: the run is not finished, its last stage is {stages[-1][0]}; `kiloset dataset` continues it",
        )
    try:
        beside_tables = {
            path.stem: pl.read_parquet(path) for path in (run.duplicates, run.borderline, run.personal) if path.exists()
        }
    except (pl.exceptions.PolarsError, OSError) as error:
        raise DataError("KS707", f"{run.path}: a table cannot be read ({str(error).splitlines()[0]})") from None
    table = _every_row(tables, ledger)
    near, ranks = in_order(table, beside_tables.get("borderline"), run)
    target = run.manifest.get("target", {})
    rows = Rows(
        table=table.with_columns(rank=ranks),
        near=near,
        categories=tuple(sorted({*table["category"].drop_nulls(), *target})),
        splits=dict(read_curated(run.curated).rows.select("id", "split").iter_rows()),
        tables=beside_tables,
        places={id: place for place, id in enumerate(table["id"])},
    )
    return with_sample(rows, read_sample(run.sample))


def with_sample(rows: Rows, sample: Sequence[Drawn]) -> Rows:
    """Return the rows with `sampled`: the place in the order of reading, null for a row that was not drawn with its texts."""
    places = [
        (each.id, place)
        for place, each in enumerate(sample)
        if each.id in rows.places and rows.identity(each.id) == each.born
    ]
    drawn = pl.DataFrame(places, schema={"id": pl.String, "sampled": pl.Int64}, orient="row")
    return replace(
        rows, table=rows.table.drop("sampled", strict=False).join(drawn, on="id", how="left", maintain_order="left")
    )


def signature(run: RunFolder) -> tuple[tuple[str, int, int], ...]:
    """Return names, times and sizes of the run's tables, which change when another process makes the run again."""

    def facts(path: Path) -> tuple[str, int, int]:
        stat = path.stat()
        return path.name, stat.st_mtime_ns, stat.st_size

    try:
        return tuple(facts(path) for path in sorted(run.path.glob("*.parquet")))
    except OSError:  # a file was deleted after it was listed
        return ()


def overlaid(rows: Rows, decisions: Mapping[str, Decision]) -> pl.DataFrame:
    """Return all rows with the texts and categories of `Rows.valid` decisions, and `state`.

    The state is `undecided`, `accepted`, `edited` (accepted with another text or category) or `rejected`.
    """
    decided = [(id, each.verdict, *(getattr(each, name) for name in TEXTS)) for id, each in decisions.items()]
    joined = rows.table.join(
        pl.DataFrame(decided, schema=DECISION, orient="row"), on="id", how="left", maintain_order="left"
    )
    is_accepted = pl.col("verdict") == "accept"
    differs = pl.any_horizontal(pl.col(f"decided_{name}") != pl.col(name) for name in TEXTS)
    state = (
        pl.when(pl.col("verdict").is_null()).then(pl.lit("undecided"))
        .when(~is_accepted).then(pl.lit("rejected"))
        .when(differs).then(pl.lit("edited"))
        .otherwise(pl.lit("accepted"))
    )  # fmt: skip
    texts = {name: pl.when(is_accepted).then(pl.col(f"decided_{name}")).otherwise(pl.col(name)) for name in TEXTS}
    return joined.with_columns(state=state, **texts).drop("verdict", *(f"decided_{name}" for name in TEXTS))


def select(table: pl.DataFrame, chosen: Filter, here: str | None = None) -> pl.DataFrame:
    """Return `id`, `state` and `matches` of the rows that a filter selects, in its order, and of the row `here`."""
    matches = chosen.expression()
    rows = table.select("id", "state", "rank", *chosen.ordered_by(), matches=matches)
    by, descending = chosen.order_keys()
    ordered = rows.filter(pl.col("matches") | (pl.col("id") == pl.lit(here, pl.String))).sort(
        by, descending=descending, nulls_last=True
    )
    return ordered.select("id", "state", "matches")


def neighbours(rows: pl.DataFrame, here: str | None) -> tuple[str | None, str | None, str | None]:
    """Return the previous row, the next row, and the next undecided row, which may come before this one; None if there is none."""
    ids, open_ = rows["id"].to_list(), (rows["state"] == "undecided").to_list()
    at = ids.index(here) if here in ids else -1
    order = [*range(at + 1, len(ids)), *range(max(at, 0))]
    undecided = next((ids[place] for place in order if open_[place]), None)
    return ids[at - 1] if at > 0 else None, ids[at + 1] if at + 1 < len(ids) else None, undecided


def progress(states: pl.Series) -> ReviewCounts:
    """Count the states of some rows."""
    counts = dict(states.value_counts().iter_rows())
    accepted, edited, rejected = (counts.get(name, 0) for name in ("accepted", "edited", "rejected"))
    return ReviewCounts(len(states), accepted + edited + rejected, accepted + edited, edited, rejected)


def by_category(table: pl.DataFrame) -> list[tuple[str, ReviewCounts]]:
    """Return the progress of each category, in order."""
    parts = table.select("category", "state").partition_by("category", as_dict=True)
    return sorted((str(name[0]), progress(part["state"])) for name, part in parts.items())


def values_of(table: pl.DataFrame, name: str) -> Sequence[str]:
    """Return the distinct texts in a column, in order, without ""."""
    return sorted(value for value in table[name].drop_nulls().unique() if value)


def _every_row(tables: Mapping[str, pl.DataFrame], ledger: pl.DataFrame) -> pl.DataFrame:
    """Return every row with the texts it has without a review.

    Instruction, input and category are the original ones. So is the answer of a row whose task or answer an earlier review edited.
    """
    names = list(tables)
    before = names[: names.index(MARKED)] if MARKED in names else names
    originals = pl.concat([*(tables[name] for name in before[-1:]), ledger], how="diagonal_relaxed")
    texts = originals.unique("id", keep="first", maintain_order=True).select(
        "id", *(pl.col(name).alias(f"first_{name}") for name in TEXTS)
    )
    kept = tables["style"].with_columns(part=pl.lit("set"))
    dropped = ledger.unique("id", keep="last", maintain_order=True).join(
        kept, on="id", how="anti", maintain_order="left"
    )
    table = pl.concat([kept, dropped.with_columns(part=pl.lit("dropped"))], how="diagonal_relaxed")
    table = table.join(texts, on="id", how="left", maintain_order="left")
    edited = pl.col("review").eq_missing("edited") if "review" in table.columns else pl.lit(value=False)
    return table.with_columns(
        *(pl.coalesce(f"first_{name}", name).alias(name) for name in ("instruction", "input", "category")),
        response=pl.when(edited).then(pl.coalesce("first_response", "response")).otherwise(pl.col("response")),
    ).drop(f"first_{name}" for name in TEXTS)
