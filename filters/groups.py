"""The duplicates of a run as one table: each group has the kept row and the rows dropped for it."""

import polars as pl

DUPLICATES = ("exact_duplicate", "near_duplicate", "semantic_duplicate")
"""Reasons for which a row is dropped as a duplicate of another row."""
COLUMNS = ("category", "source", "instruction", "input")


def duplicate_groups(table: pl.DataFrame, dropped: pl.DataFrame) -> pl.DataFrame:
    """Return a row for each member of each group of duplicates, the largest groups first.

    A group is named after its first row, whose `reason` is null. All other rows were dropped as duplicates of it, or of a
    row that was dropped later itself (`twin` names the direct duplicate). A later stage may have dropped the first row too.

    Args:
        table: Rows of the set.
        dropped: The ledger.

    Returns:
        Columns `group`, `id`, `reason`, `measured`, `limit`, `twin`, and the row's own `COLUMNS`.
    """
    duplicates = dropped.filter(pl.col("reason").is_in(DUPLICATES))
    kept_for = dict(duplicates.select("id", "twin").iter_rows())
    groups = {id: _first(id, kept_for) for id in kept_for}
    firsts = sorted(set(groups.values()))
    verdicts = duplicates.select("id", "reason", "measured", "limit", "twin")
    rows = pl.concat([part.select("id", *COLUMNS) for part in (table, dropped)])
    named = pl.DataFrame(
        {"id": [*groups, *firsts], "group": [*groups.values(), *firsts]}, schema={"id": pl.String, "group": pl.String}
    )
    members = named.join(rows, on="id", how="left").join(verdicts, on="id", how="left")
    members = members.with_columns(size=pl.len().over("group"), follows=pl.col("reason").is_not_null())
    ordered = members.sort("size", "group", "follows", "measured", "id", descending=[True, False, False, True, False])
    return ordered.select("group", "id", "reason", "measured", "limit", "twin", *COLUMNS)


def _first(id: str, kept_for: dict[str, str]) -> str:
    while id in kept_for:
        id = kept_for[id]
    return id
