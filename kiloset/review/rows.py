"""The rows of a finished run as a reviewer goes through them: which there are, which of them a filter shows, in what order.

Pure: `read_rows` reads the run folder, everything else goes by what it returned and by the decisions it is given.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import polars as pl

from kiloset.audit.run_folder import read_stages
from kiloset.core.errors import DataError
from kiloset.core.review import TEXTS, Decision, born_as
from kiloset.core.run import RunFolder
from kiloset.data.curated import read_curated
from kiloset.review.borderline import Near, in_order
from kiloset.review.filter import Filter

SELECTION = "select"
"""From this stage on rows have what an earlier review decided; before it they are as they were born."""
SAID = {"id": pl.String, "verdict": pl.String, **{f"said_{name}": pl.String for name in TEXTS}}


@dataclass(frozen=True, slots=True)
class Rows:
    """Every row of a run, in the set or dropped, as it is without a review."""

    table: pl.DataFrame
    """Each row once; `fate` is `set` or `dropped`, `rank` its place in the order "borderline first"."""
    near: dict[str, Near]
    """What a row of the set has its place for."""
    categories: tuple[str, ...]
    splits: dict[str, str]
    """Of the rows of curated.jsonl."""
    beside: dict[str, pl.DataFrame]
    """The run's tables of `duplicates`, `borderline` pairs and `personal` data, as far as they are there."""
    places: dict[str, int]
    _born: dict[str, str] = field(default_factory=dict)

    def row(self, id: str) -> dict[str, Any]:
        """Return a row that is there."""
        return self.table.row(self.places[id], named=True)

    def born(self, id: str) -> str:
        """Return `born_as` of a row that is there."""
        if id not in self._born:
            self._born[id] = born_as(*self.table.select("instruction", "input").row(self.places[id]))
        return self._born[id]

    def counted(self, decisions: Mapping[str, Decision]) -> dict[str, Decision]:
        """Return the decisions about rows that are there, and are still the ones decided about."""
        return {id: said for id, said in decisions.items() if id in self.places and said.born == self.born(id)}


@dataclass(frozen=True, slots=True)
class Progress:
    """How many of some rows are decided, and how."""

    rows: int
    decided: int
    accepted: int
    """`edited` ones among them."""
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
            f"{run.path}: the run is not finished, its last stage is {stages[-1][0]}; `make dataset` goes on where it stopped",
        )
    try:
        beside = {
            path.stem: pl.read_parquet(path) for path in (run.duplicates, run.borderline, run.personal) if path.exists()
        }
    except (pl.exceptions.PolarsError, OSError) as error:
        raise DataError("KS707", f"{run.path}: a table cannot be read ({str(error).splitlines()[0]})") from None
    table = _every_row(tables, ledger)
    near, ranks = in_order(table, beside.get("borderline"), run)
    target = run.manifest.get("target", {})
    return Rows(
        table=table.with_columns(rank=ranks),
        near=near,
        categories=tuple(sorted({*table["category"].drop_nulls(), *target})),
        splits=dict(read_curated(run.curated).rows.select("id", "split").iter_rows()),
        beside=beside,
        places={id: place for place, id in enumerate(table["id"])},
    )


def signature(run: RunFolder) -> tuple[tuple[str, int, int], ...]:
    """Return what changes when another process makes the run anew."""

    def facts(path: Path) -> tuple[str, int, int]:
        found = path.stat()
        return path.name, found.st_mtime_ns, found.st_size

    try:
        return tuple(facts(path) for path in sorted(run.path.glob("*.parquet")))
    except OSError:  # a file that went between being listed and looked at
        return ()


def overlaid(rows: Rows, decisions: Mapping[str, Decision]) -> pl.DataFrame:
    """Return all rows with the decisions over them: their texts and categories as accepted, and `state`.

    It is `undecided`, `accepted`, `edited` (accepted with another text or category) or `rejected`. Only decisions that
    `Rows.counted` returned may be given.
    """
    said = [(id, each.verdict, *(getattr(each, name) for name in TEXTS)) for id, each in decisions.items()]
    found = rows.table.join(pl.DataFrame(said, schema=SAID, orient="row"), on="id", how="left", maintain_order="left")
    is_accepted = pl.col("verdict") == "accept"
    differs = pl.any_horizontal(pl.col(f"said_{name}") != pl.col(name) for name in TEXTS)
    state = (
        pl.when(pl.col("verdict").is_null()).then(pl.lit("undecided"))
        .when(~is_accepted).then(pl.lit("rejected"))
        .when(differs).then(pl.lit("edited"))
        .otherwise(pl.lit("accepted"))
    )  # fmt: skip
    texts = {name: pl.when(is_accepted).then(pl.col(f"said_{name}")).otherwise(pl.col(name)) for name in TEXTS}
    return found.with_columns(state=state, **texts).drop("verdict", *(f"said_{name}" for name in TEXTS))


def select(table: pl.DataFrame, chosen: Filter, here: str | None = None) -> pl.DataFrame:
    """Return `id`, `state` and `matches` of the rows that a filter shows, in its order, and of the row `here` among them."""
    matches = chosen.expression()
    found = table.select("id", "state", "rank", *chosen.ordered_by(), matches=matches)
    by, descending = chosen.order_keys()
    ordered = found.filter(pl.col("matches") | (pl.col("id") == pl.lit(here, pl.String))).sort(
        by, descending=descending, nulls_last=True
    )
    return ordered.select("id", "state", "matches")


def neighbours(found: pl.DataFrame, here: str | None) -> tuple[str | None, str | None, str | None]:
    """Return the row before this one, the one after it, and the next undecided one, going round, if there are."""
    ids, open_ = found["id"].to_list(), (found["state"] == "undecided").to_list()
    at = ids.index(here) if here in ids else -1
    order = [*range(at + 1, len(ids)), *range(max(at, 0))]
    undecided = next((ids[place] for place in order if open_[place]), None)
    return ids[at - 1] if at > 0 else None, ids[at + 1] if at + 1 < len(ids) else None, undecided


def progress(states: pl.Series) -> Progress:
    """Count the states of some rows."""
    counts = dict(states.value_counts().iter_rows())
    accepted, edited, rejected = (counts.get(name, 0) for name in ("accepted", "edited", "rejected"))
    return Progress(len(states), accepted + edited + rejected, accepted + edited, edited, rejected)


def by_category(table: pl.DataFrame) -> list[tuple[str, Progress]]:
    """Return the progress of each category, in order."""
    parts = table.select("category", "state").partition_by("category", as_dict=True)
    return sorted((str(name[0]), progress(part["state"])) for name, part in parts.items())


def values_of(table: pl.DataFrame, name: str) -> Sequence[str]:
    """Return the different texts in a column, in order, "" left out."""
    return sorted(value for value in table[name].drop_nulls().unique() if value)


def _every_row(tables: Mapping[str, pl.DataFrame], ledger: pl.DataFrame) -> pl.DataFrame:
    """Return every row with the texts it has without a review.

    Task and category are those it was born with, and so is the answer of a row that an earlier review gave another task
    or answer before it was selected.
    """
    names = list(tables)
    before = names[: names.index(SELECTION)] if SELECTION in names else names
    as_born = pl.concat([*(tables[name] for name in before[-1:]), ledger], how="diagonal_relaxed")
    texts = as_born.unique("id", keep="first", maintain_order=True).select(
        "id", *(pl.col(name).alias(f"born_{name}") for name in TEXTS)
    )
    kept = tables["style"].with_columns(fate=pl.lit("set"))
    gone = ledger.unique("id", keep="last", maintain_order=True).join(kept, on="id", how="anti", maintain_order="left")
    table = pl.concat([kept, gone.with_columns(fate=pl.lit("dropped"))], how="diagonal_relaxed")
    table = table.join(texts, on="id", how="left", maintain_order="left")
    edited = pl.col("review").eq_missing("edited") if "review" in table.columns else pl.lit(value=False)
    return table.with_columns(
        *(pl.coalesce(f"born_{name}", name).alias(name) for name in ("instruction", "input", "category")),
        response=pl.when(edited).then(pl.coalesce("born_response", "response")).otherwise(pl.col("response")),
    ).drop(f"born_{name}" for name in TEXTS)
