"""Draw the blind sample of a run: rows of its set, stratified by category, in an arbitrary order."""

from collections.abc import Sequence

import polars as pl

from kiloset.core.blind_sample import Drawn, texts_digest
from kiloset.core.run import sha256_of
from kiloset.data.quotas import apportion
from kiloset.review.rows import Rows

NOT_WRITTEN = "seed"
"""The `source` of rows that a person wrote and that are not drawn."""


def draw_sample(rows: Rows, wanted: int, earlier: Sequence[Drawn] = ()) -> list[Drawn]:
    """Return at least `wanted` rows of the set, in the order of reading; fewer if it has fewer.

    The categories have rows in proportion to the set. Rows drawn `earlier` stay and come first, so a larger sample goes on where
    a smaller one ended. The order is that of digests of the rows, so the same set always gives the same sample.
    """
    table = rows.table.filter((pl.col("part") == "set") & (pl.col("source") != NOT_WRITTEN))
    known = {each.id for each in earlier}
    pool = [_drawn(rows, row) for row in table.iter_rows(named=True) if row["id"] not in known]
    pool.sort(key=lambda each: sha256_of(["sample", each.id, each.texts]))
    sizes = dict(sorted(table["category"].value_counts().iter_rows()))
    # A small set is drawn whole.
    quotas = apportion(sizes, min(wanted, table.height)) if sizes else {}
    for each in earlier:
        quotas[each.category] = quotas.get(each.category, 0) - 1
    new = []
    for each in pool:
        if quotas[each.category] > 0:
            quotas[each.category] -= 1
            new.append(each)
    return [*earlier, *new]


def _drawn(rows: Rows, row: dict[str, object]) -> Drawn:
    id, category = str(row["id"]), str(row["category"])
    texts = texts_digest(*(str(row[name]) for name in ("instruction", "input", "response")))
    return Drawn(id, rows.identity(id), texts, category)
