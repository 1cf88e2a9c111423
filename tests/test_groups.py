"""Groups of duplicates, against what they were made from."""

import random

import polars as pl

from kiloset.core.table import table_of
from kiloset.filters.groups import DUPLICATES, duplicate_groups
from kiloset.filters.near_duplicates import NearDuplicatesConfig, drop_near_duplicates


def rows(*ids: str) -> pl.DataFrame:
    return table_of([{"id": id, "instruction": f"task {id}", "category": "c", "source": "generated"} for id in ids])


def dropped_rows(*verdict_rows: tuple[str, str, str, float]) -> pl.DataFrame:
    verdicts = pl.DataFrame(
        [(id, reason, twin, measured, 0.7) for id, reason, twin, measured in verdict_rows],
        schema={"id": pl.String, "reason": pl.String, "twin": pl.String, "measured": pl.Float64, "limit": pl.Float64},
        orient="row",
    )
    return rows(*(id for id, *_ in verdict_rows)).join(verdicts, on="id")


def test_a_group_is_the_row_that_stays_and_all_that_left_for_it_directly_or_not() -> None:
    dropped = dropped_rows(
        ("b", "near_duplicate", "a", 0.8), ("c", "semantic_duplicate", "d", 0.96), ("d", "semantic_duplicate", "a", 0.97),
        ("f", "exact_duplicate", "e", 1.0), ("x", "over_quota", "a", 3.0),
    )  # fmt: skip
    groups = duplicate_groups(rows("a", "e", "z"), dropped)
    assert groups.select("group", "id", "reason", "twin").rows() == [
        ("a", "a", None, None),
        ("a", "d", "semantic_duplicate", "a"),
        ("a", "c", "semantic_duplicate", "d"),
        ("a", "b", "near_duplicate", "a"),
        ("e", "e", None, None),
        ("e", "f", "exact_duplicate", "e"),
    ]
    assert groups["instruction"].to_list() == [f"task {id}" for id in groups["id"]]


def test_without_duplicates_there_is_no_group() -> None:
    assert duplicate_groups(rows("a"), dropped_rows(("x", "over_quota", "a", 3.0))).is_empty()


def test_every_row_that_left_as_a_duplicate_stands_in_one_group_with_a_row_that_stayed() -> None:
    rng = random.Random(3)
    tasks = [" ".join(rng.choices(["name", "list", "sort", "write", "three", "old", "songs", "of", "the"], k=6)) for _ in range(60)]  # fmt: skip
    table = table_of(
        [
            {"id": f"g{n}", "instruction": rng.choice(tasks) + rng.choice(["", " please", "!"]), "source": "generated"}
            for n in range(400)
        ]
    )
    outcome = drop_near_duplicates(table, NearDuplicatesConfig(), seed=0)
    groups = duplicate_groups(outcome.kept, outcome.dropped)
    gone = outcome.dropped.filter(pl.col("reason").is_in(DUPLICATES))
    assert groups["id"].is_unique().all()
    assert sorted(groups.filter(pl.col("reason").is_not_null())["id"]) == sorted(gone["id"])
    assert set(groups.filter(pl.col("reason").is_null())["id"]) == set(groups["group"])
    assert set(groups["group"]) <= set(outcome.kept["id"])
