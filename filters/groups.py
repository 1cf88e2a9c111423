"""The duplicates of a run as one table: each group with the row that stays and those that left for it."""

import polars as pl

DUPLICATES = ("exact_duplicate", "near_duplicate", "semantic_duplicate")
"""Reasons by which a row leaves for another one that says the same."""
SHOWN = ("category", "source", "instruction", "input")


def duplicate_groups(table: pl.DataFrame, dropped: pl.DataFrame) -> pl.DataFrame:
    """Return a row for each member of each group of duplicates, the largest groups first.

    A group is named after the row that all others left for, if need be by way of one that left itself later (`twin` has the
    direct one). That row stands first, its `reason` null; whether it is in the set is another stage's business.

    Args:
        table: Rows of the set.
        dropped: The ledger.

    Returns:
        Columns `group`, `id`, `reason`, `measured`, `limit`, `twin`, and the row's own `SHOWN`.
    """
    left = dropped.filter(pl.col("reason").is_in(DUPLICATES))
    twins = dict(left.select("id", "twin").iter_rows())
    groups = {id: _first(id, twins) for id in twins}
    firsts = sorted(set(groups.values()))
    said = left.select("id", "reason", "measured", "limit", "twin")
    rows = pl.concat([part.select("id", *SHOWN) for part in (table, dropped)])
    named = pl.DataFrame(
        {"id": [*groups, *firsts], "group": [*groups.values(), *firsts]}, schema={"id": pl.String, "group": pl.String}
    )
    found = named.join(rows, on="id", how="left").join(said, on="id", how="left")
    found = found.with_columns(size=pl.len().over("group"), follows=pl.col("reason").is_not_null())
    ordered = found.sort("size", "group", "follows", "measured", "id", descending=[True, False, False, True, False])
    return ordered.select("group", "id", "reason", "measured", "limit", "twin", *SHOWN)


def _first(id: str, twins: dict[str, str]) -> str:
    while id in twins:
        id = twins[id]
    return id
