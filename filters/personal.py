"""Find personal data in the rows of a table, list it without the values, and mask it.

`kiloset.data.personal` defines personal data, `kiloset.data.masking` masks it. With `[rules] personal_data = "mask"` the stage
`rules` masks all rows: the files of this stage and of all later stages, its rows in dropped.parquet, curated.jsonl and the
prompts of later models contain no value of a row. These files are not masked:

* the user's own files;
* calls.sqlite: prompts and completions of generation, also with values that the writer model invented;
* 01-seeds.parquet (rows of the pool), 02-generate.parquet, and the rows in dropped.parquet that `generate` dropped;
* `rewrites` in the files of later stages: rejected candidates stay in it, also one that invented a value;
* review.jsonl, if a reviewer wrote a value.
"""

import json
from collections.abc import Sequence
from typing import Any

import polars as pl

from kiloset.core.constraints import failing
from kiloset.core.errors import DataError
from kiloset.core.table import CONSTRAINT
from kiloset.data.masking import masked
from kiloset.data.personal import CANDIDATES, NAMES, find_personal, redacted
from kiloset.filters.measures import measured_where

COLUMNS = ("instruction", "input", "response")
PERSONAL: dict[str, Any] = {"id": pl.String, "column": pl.String, "kind": pl.String, "redacted": pl.String}
PIECE = pl.Struct({name: kind for name, kind in PERSONAL.items() if name != "id"})
MASKED = "masked"
LOSSES = "constraints lost by masking"
"""Columns: the kinds masked in a row, and the ids of the constraints that its answer obeyed only before masking."""
REPLACED = pl.Struct(
    {
        **dict.fromkeys(COLUMNS, pl.String),
        "constraints": pl.List(CONSTRAINT),
        **dict.fromkeys((MASKED, LOSSES), pl.List(pl.String)),
    }
)
NAMED_SEEDS = 5
"""Seeds that the message names."""


def personal_pieces(table: pl.DataFrame, regions: Sequence[str]) -> pl.Series:
    """Return each row's personal data: a list of `PIECE` by column and place, or null if no pattern matches."""

    def pieces(row: dict[str, str]) -> list[dict[str, str]]:
        return [
            {"column": column, "kind": kind, "redacted": redacted(row[column][start:end])}
            for column in COLUMNS
            for start, end, kind in find_personal(row[column], regions)
        ]

    suspicious = pl.any_horizontal(_may_hold(pl.col(column)) for column in COLUMNS)
    return table.select(measured_where(suspicious, COLUMNS, pieces, pl.List(PIECE)).alias("piece")).to_series()


def personal_rows(table: pl.DataFrame, regions: Sequence[str], pieces: pl.Series | None = None) -> pl.DataFrame:
    """Return one row for each piece of personal data, in the order of the table: `id`, `column`, `kind`, `redacted`.

    Seeds are searched like all other rows. The result does not contain the values.

    Args:
        table: The rows.
        regions: ISO 3166 codes of the regions whose phone numbers count without "+".
        pieces: `personal_pieces` of the table if they are known; None searches for them.
    """
    rows = table.select("id").with_columns(piece=personal_pieces(table, regions) if pieces is None else pieces)
    some = rows.filter(pl.col("piece").list.len() > 0).explode("piece")
    return some.select("id", pl.col("piece").struct.unnest()).cast(pl.Schema(PERSONAL))


def mask_rows(table: pl.DataFrame, regions: Sequence[str], pieces: pl.Series | None = None) -> pl.DataFrame:
    """Return the table with placeholders for personal data, and `masked`: the kinds masked in each row, or [].

    Quotations in the arguments of constraints are masked alike, and a further answer with personal data is removed from `others`.
    A table that was masked before keeps its `masked` kinds.
    """
    return mask_with_losses(table, regions, pieces).drop(LOSSES)


def mask_with_losses(table: pl.DataFrame, regions: Sequence[str], pieces: pl.Series | None = None) -> pl.DataFrame:
    """Return the result of `mask_rows` with `LOSSES`: the constraints that an answer obeyed only before masking."""
    known = personal_pieces(table, regions) if pieces is None else pieces
    quoted = pl.col("constraints").list.eval(pl.element().struct.field("args")).list.join("\n")
    has_pieces = (known.list.len() > 0).fill_null(value=False)
    new = measured_where(
        pl.lit(has_pieces) | _may_hold(quoted),
        (*COLUMNS, "constraints"),
        lambda row: _masked_row(row, regions),
        REPLACED,
    )
    if "others" in table.columns:
        clean = measured_where(
            _may_hold(pl.col("others").list.join("\n")),
            ("others",),
            lambda row: [text for text in row["others"] if not find_personal(text, regions)],
            pl.List(pl.String),
        )
        table = table.with_columns(others=pl.coalesce(clean, "others"))
    before = pl.col(MASKED) if MASKED in table.columns else pl.lit(None, pl.List(pl.String))
    fields = pl.col("new").struct
    return table.with_columns(new=new).with_columns(
        *(pl.coalesce(fields.field(name), name).alias(name) for name in (*COLUMNS, "constraints")),
        pl.concat_list(before.fill_null([]), fields.field(MASKED).fill_null([]))
        .list.unique(maintain_order=True)
        .alias(MASKED),
        fields.field(LOSSES).fill_null([]).alias(LOSSES),
    ).drop("new")  # fmt: skip


def personal_seeds(seeds: pl.DataFrame, regions: Sequence[str], mode: str) -> tuple[dict[str, list[str]], str]:
    """Return the kinds of personal data by seed, and a message for the user, "" if there is none."""
    by_seed = personal_rows(seeds, regions).group_by("id", maintain_order=True).agg(pl.col("kind").unique().sort())
    kinds = dict(by_seed.iter_rows())
    if not kinds or mode == "off":
        return {}, ""
    named = "; ".join(
        f"{id}: {', '.join(NAMES[kind] for kind in some)}" for id, some in list(kinds.items())[:NAMED_SEEDS]
    )
    more = f"; and {len(kinds) - NAMED_SEEDS} more, in manifest.json" if len(kinds) > NAMED_SEEDS else ""
    become = (
        "are masked before they are shown to a model"
        if mode == "mask"
        else 'are shown to models as they are; replace them, or set rules.personal_data="mask"'
    )
    return kinds, f"{len(kinds)} of {seeds.height} seeds hold personal data and {become} ({named}{more})"


def _may_hold(text: pl.Expr) -> pl.Expr:
    """Return whether a text can contain personal data."""
    return pl.any_horizontal(text.str.contains(pattern) for pattern in CANDIDATES.values())


def _masked_row(row: dict[str, Any], regions: Sequence[str]) -> dict[str, Any]:
    args = [json.loads(one["args"]) for one in row["constraints"]]
    quoted = [(own, name) for own in args for name in own if isinstance(own[name], (str, list))]
    words = [own[name] if isinstance(own[name], list) else [own[name]] for own, name in quoted]
    texts = [row[column] for column in COLUMNS] + [word for some in words for word in some]
    new, kinds = masked(texts, regions)
    rest = iter(new[len(COLUMNS) :])
    for own, name in quoted:
        own[name] = [next(rest) for _ in own[name]] if isinstance(own[name], list) else next(rest)
    constraints = [
        {
            "id": one["id"],
            "args": one["args"] if json.loads(one["args"]) == own else json.dumps(own, ensure_ascii=False),
        }
        for one, own in zip(row["constraints"], args, strict=True)
    ]
    texts_now = dict(zip(COLUMNS, new[: len(COLUMNS)], strict=True))
    lost = [
        now["id"]
        for was, now in zip(row["constraints"], constraints, strict=True)
        if _keeps(was, row["response"]) and not _keeps(now, texts_now["response"])
    ]
    return {**texts_now, "constraints": constraints, MASKED: kinds, LOSSES: lost}


def _keeps(constraint: dict[str, str], response: str) -> bool:
    try:
        return not failing([constraint], response)
    except DataError:  # a placeholder is not a valid argument, for example where one word is required
        return False
