"""Personal data in a table's rows: which hold some, listed without the values, and masked.

What counts is `kiloset.data.personal`'s to say; how it is masked, `kiloset.data.masking`'s. Under `[rules] personal_data = "mask"` the stage
`rules` is where it happens: in its file, in those of all later stages, in its rows of dropped.parquet, in curated.jsonl and in
what later models are shown, no value of a row is found any more. What still holds values, and stays as it is:

* the user's own files;
* calls.sqlite: prompts and completions of generation, with what the generator itself made up;
* 01-seeds.parquet (rows of the pool), 02-generate.parquet, and the rows that the stage `generate` dropped in dropped.parquet;
* `rewrites` in the files of later stages: candidates are kept with why they were refused, one that made up a value too;
* review.jsonl, where a reviewer wrote one.
"""

import json
from collections.abc import Sequence
from typing import Any

import polars as pl

from kiloset.core.constraints import failing
from kiloset.core.errors import DataError
from kiloset.core.table import CONSTRAINT
from kiloset.data.masking import NAMES, masked
from kiloset.data.personal import CANDIDATES, finds, redacted
from kiloset.filters.measures import measured_where

COLUMNS = ("instruction", "input", "response")
FOUND: dict[str, Any] = {"id": pl.String, "column": pl.String, "kind": pl.String, "redacted": pl.String}
PIECE = pl.Struct({name: kind for name, kind in FOUND.items() if name != "id"})
MASKED = "masked"
LOSSES = "constraints lost by masking"
"""Columns: the kinds that were masked in a row, and the ids of the constraints that its answer kept until then."""
REPLACED = pl.Struct(
    {
        **dict.fromkeys(COLUMNS, pl.String),
        "constraints": pl.List(CONSTRAINT),
        **dict.fromkeys((MASKED, LOSSES), pl.List(pl.String)),
    }
)
SHOWN = 5
"""Seeds that are named to the user."""


def personal_pieces(table: pl.DataFrame, regions: Sequence[str]) -> pl.Series:
    """Return what each row holds: a list of `PIECE` in order of column and place; null where there is nothing to read."""

    def pieces(row: dict[str, str]) -> list[dict[str, str]]:
        return [
            {"column": column, "kind": kind, "redacted": redacted(row[column][start:end])}
            for column in COLUMNS
            for start, end, kind in finds(row[column], regions)
        ]

    suspicious = pl.any_horizontal(_may_hold(pl.col(column)) for column in COLUMNS)
    return table.select(measured_where(suspicious, COLUMNS, pieces, pl.List(PIECE)).alias("piece")).to_series()


def found_personal(table: pl.DataFrame, regions: Sequence[str], pieces: pl.Series | None = None) -> pl.DataFrame:
    """Return one row for each piece found, in the order of the table: `id`, `column`, `kind`, `redacted`.

    Seeds are looked through like all others. The value itself is nowhere in what is returned.

    Args:
        table: The rows.
        regions: ISO 3166 codes of the regions whose phone numbers count without "+".
        pieces: `personal_pieces` of the table, where they are known; None reads it.
    """
    found = table.select("id").with_columns(piece=personal_pieces(table, regions) if pieces is None else pieces)
    some = found.filter(pl.col("piece").list.len() > 0).explode("piece")
    return some.select("id", pl.col("piece").struct.unnest()).cast(pl.Schema(FOUND))


def mask_rows(table: pl.DataFrame, regions: Sequence[str], pieces: pl.Series | None = None) -> pl.DataFrame:
    """Return the table with placeholders for personal data, and `masked`: the kinds of each row, [] where there are none.

    What the arguments of constraints quote is masked alike. A table that was masked before keeps what `masked` says.
    """
    return mask_with_losses(table, regions, pieces).drop(LOSSES)


def mask_with_losses(table: pl.DataFrame, regions: Sequence[str], pieces: pl.Series | None = None) -> pl.DataFrame:
    """Return what `mask_rows` does, and `LOSSES`: the constraints that an answer keeps no longer now that it is masked."""
    found = personal_pieces(table, regions) if pieces is None else pieces
    quoted = pl.col("constraints").list.eval(pl.element().struct.field("args")).list.join("\n")
    told = (found.list.len() > 0).fill_null(value=False)
    new = measured_where(
        pl.lit(told) | _may_hold(quoted), (*COLUMNS, "constraints"), lambda row: _masked_row(row, regions), REPLACED
    )
    before = pl.col(MASKED) if MASKED in table.columns else pl.lit(None, pl.List(pl.String))
    fields = pl.col("new").struct
    return table.with_columns(new=new).with_columns(
        *(pl.coalesce(fields.field(name), name).alias(name) for name in (*COLUMNS, "constraints")),
        pl.concat_list(before.fill_null([]), fields.field(MASKED).fill_null([]))
        .list.unique(maintain_order=True)
        .alias(MASKED),
        fields.field(LOSSES).fill_null([]).alias(LOSSES),
    ).drop("new")  # fmt: skip


def seeds_told(seeds: pl.DataFrame, regions: Sequence[str], mode: str) -> tuple[dict[str, list[str]], str]:
    """Return the kinds of personal data by seed, and what to tell the user of it, "" where there is nothing to tell."""
    found = found_personal(seeds, regions).group_by("id", maintain_order=True).agg(pl.col("kind").unique().sort())
    kinds = dict(found.iter_rows())
    if not kinds or mode == "off":
        return {}, ""
    named = "; ".join(f"{id}: {', '.join(NAMES[kind] for kind in some)}" for id, some in list(kinds.items())[:SHOWN])
    more = f"; and {len(kinds) - SHOWN} more, in manifest.json" if len(kinds) > SHOWN else ""
    become = (
        "are masked before a model is shown them"
        if mode == "mask"
        else 'are shown to models as they are; replace them, or set rules.personal_data="mask"'
    )
    return kinds, f"{len(kinds)} of {seeds.height} seeds hold personal data and {become} ({named}{more})"


def _may_hold(text: pl.Expr) -> pl.Expr:
    """Tell which texts must be read."""
    return pl.any_horizontal(text.str.contains(pattern) for pattern in CANDIDATES.values())


def _masked_row(row: dict[str, Any], regions: Sequence[str]) -> dict[str, Any]:
    args = [json.loads(one["args"]) for one in row["constraints"]]
    quoted = [(given, name) for given in args for name in given if isinstance(given[name], (str, list))]
    words = [given[name] if isinstance(given[name], list) else [given[name]] for given, name in quoted]
    texts = [row[column] for column in COLUMNS] + [word for some in words for word in some]
    new, kinds = masked(texts, regions)
    rest = iter(new[len(COLUMNS) :])
    for given, name in quoted:
        given[name] = [next(rest) for _ in given[name]] if isinstance(given[name], list) else next(rest)
    constraints = [
        {
            "id": one["id"],
            "args": one["args"] if json.loads(one["args"]) == given else json.dumps(given, ensure_ascii=False),
        }
        for one, given in zip(row["constraints"], args, strict=True)
    ]
    told = dict(zip(COLUMNS, new[: len(COLUMNS)], strict=True))
    lost = [
        now["id"]
        for was, now in zip(row["constraints"], constraints, strict=True)
        if _keeps(was, row["response"]) and not _keeps(now, told["response"])
    ]
    return {**told, "constraints": constraints, MASKED: kinds, LOSSES: lost}


def _keeps(constraint: dict[str, str], response: str) -> bool:
    try:
        return not failing([constraint], response)
    except DataError:  # a placeholder is not what its argument must be, such as one word
        return False
