"""The split of curated.jsonl: near-duplicates, and a row and its ancestors, are always on the same side."""

import itertools
import random
import re
import unicodedata
from collections import Counter

import polars as pl
import pytest

from kiloset.core.table import table_of
from kiloset.data.curated import curated_text, read_curated
from kiloset.data.splitting import ancestors, choose_validation, group_rows
from kiloset.filters.near_duplicates import near_duplicate_pairs
from tests.test_export import exported, run_of, sides_of

WORDS = [
    a + b + c for a in ("ba", "ke", "lo", "mi", "tu") for b in ("na", "re", "so", "vi") for c in ("l", "n", "st", "rk")
]


def planted(rng):
    """Rows of random words: some copies with a word or a number changed, some made from others, some of these gone."""
    rows = []
    for n in range(rng.randint(30, 90)):
        words = rng.choices(WORDS, k=rng.randint(3, 25))
        if n % 4 == 3:
            words = rng.choice(rows)["instruction"].split()
            for _ in range(rng.randint(0, 2)):
                words[rng.randrange(len(words))] = rng.choice([*WORDS, str(rng.randrange(100))])
        machine = rng.sample([row["id"] for row in rows], rng.randint(1, 2)) if n % 6 == 5 else []
        rows.append(
            {
                "id": f"g{n:05d}", "instruction": " ".join(words), "input": rng.choice(["", "", "Given, " + rng.choice(WORDS)]),
                "parents": ["s0001", "s0002", *machine], "category": rng.choice("aab"), "response": f"{n}",
            }
        )  # fmt: skip
    return rows


def plain(text):
    """A text as the project compares texts, written anew."""
    folded = unicodedata.normalize("NFKC", text).casefold()
    return " ".join(re.findall(r"\w+", folded))


def likeness(one, other):
    sets = []
    for row in (one, other):
        text = " " + plain(row["instruction"]) + (" ∥ " + plain(row["input"]) if row["input"] else "") + " "
        sets.append({text[at : at + 5] for at in range(max(1, len(text) - 4))})
    return len(sets[0] & sets[1]) / len(sets[0] | sets[1])


def table_with(rows):
    full = [{"source": "generated", "category": "c", "response": "ok", **row} for row in rows]
    missing = {name: pl.lit(None) for name in ("response_source", "response_reason", "review")}
    return table_of(full).with_columns(**missing)


def sides_written(tmp_path, rows, dropped=(), threshold=0.7, share=0.2):
    """The side of each row, as training reads it from the file that a run would write."""
    table, ledger = table_with(rows), table_with(dropped)
    path = tmp_path / "curated.jsonl"
    path.write_text(curated_text(table, ledger, near_duplicate_pairs(table, threshold), share, seed=3))
    return dict(read_curated(path).rows.select("id", "split").iter_rows())


def groups_of(rows, dropped=(), threshold=0.7):
    table, every = table_with(rows), table_with([*rows, *dropped])
    groups = group_rows(table["id"].to_list(), near_duplicate_pairs(table, threshold), ancestors(every))
    return [{table["id"][at] for at in group} for group in groups if len(group) > 1]


@pytest.mark.parametrize("draw", range(12))
def test_no_near_duplicates_and_no_ancestor_stand_on_different_sides(tmp_path, draw):
    rng = random.Random(draw)
    rows = planted(rng)
    gone = {row["id"] for row in rows if rng.random() < 0.3}
    kept = [row for row in rows if row["id"] not in gone]
    side = sides_written(tmp_path, kept, [row for row in rows if row["id"] in gone])
    alike = [(a["id"], b["id"]) for a, b in itertools.combinations(kept, 2) if likeness(a, b) >= 0.7]
    parents = {row["id"]: [id for id in row["parents"] if id[0] == "g"] for row in rows}
    above = {}
    for id, ids in parents.items():  # a parent is older than its child, so its own are complete
        above[id] = set(ids).union(*(above[parent] for parent in ids))
    descent = [(row["id"], id) for row in kept for id in above[row["id"]] - gone]
    assert alike
    assert descent
    for one, other in alike + descent:
        assert side[one] == side[other]
    assert set(side) == {row["id"] for row in kept}
    assert set(side.values()) == {"train", "validation"}


def test_a_grandparent_in_the_set_counts_though_the_parent_was_dropped():
    rows = [{"id": f"g{n:05d}", "instruction": " ".join(WORDS[n * 3 : n * 3 + 3])} for n in range(20)]
    rows[5]["parents"] = ["g00099"]
    dropped = [{"id": "g00099", "instruction": "long gone", "parents": ["g00002"]}]
    assert groups_of(rows, dropped) == [{"g00005", "g00002"}]


def test_a_seed_is_an_ancestor_of_what_was_evolved_from_it_and_of_nothing_that_only_saw_it():
    rows = [
        {"id": f"g{n:05d}", "instruction": " ".join(WORDS[n * 3 : n * 3 + 3]), "parents": ["s0001", "s0002"]}
        for n in range(20)
    ]
    rows[5] |= {"parents": ["s0001"], "operator": "deepen_subject"}
    seeds = [{"id": "s0001", "source": "seed", "instruction": "Name the highest mountain."}]
    assert groups_of(rows + seeds) == [{"g00005", "s0001"}]


def test_a_row_is_compared_with_one_that_has_the_same_text_as_an_input():
    rows = [{"id": f"g{n:05d}", "instruction": " ".join(WORDS[n * 3 : n * 3 + 3])} for n in range(10)]
    rows[3] |= {"instruction": "Sort.", "input": "b, a"}
    rows[4] |= {"instruction": "Sort.\n\nb, a"}
    assert groups_of(rows) == [{"g00003", "g00004"}]


def test_a_lower_threshold_of_the_run_counts_and_a_higher_one_does_not():
    rows = [{"id": f"g{n:05d}", "instruction": " ".join(WORDS[n * 3 : n * 3 + 3])} for n in range(10)]
    rows[1] |= {"instruction": "please tell the old man of the tall hills how to cook a soup of red beans"}
    rows[2] |= {"instruction": "please tell the old man of the tall hills how to cook a pie of green pears"}
    assert 0.5 < likeness(*({"input": "", **row} for row in rows[1:3])) < 0.7
    assert groups_of(rows) == groups_of(rows, threshold=0.9) == []
    assert groups_of(rows, threshold=0.5) == [{"g00001", "g00002"}]


def test_the_split_does_not_depend_on_the_order_of_the_rows(tmp_path):
    rows = planted(random.Random(3))
    first = sides_written(tmp_path, rows)
    assert sides_written(tmp_path, random.Random(1).sample(rows, len(rows))) == first


def test_a_share_given_to_export_splits_the_rows_of_the_file_by_groups_too(tmp_path):
    rows = planted(random.Random(5))
    folder = run_of(tmp_path / "mine", rows)
    side = sides_of(exported(folder, "messages", 0.2).folder)
    alike = [(a["id"], b["id"]) for a, b in itertools.combinations(rows, 2) if likeness(a, b) >= 0.7]
    assert alike
    assert all(side[one] == side[other] for one, other in alike)


def test_single_rows_are_held_out_in_proportion_from_each_category():
    rows = pl.DataFrame({"id": [f"g{n}" for n in range(200)], "category": ["a"] * 100 + ["b"] * 60 + ["c"] * 40})
    chosen = choose_validation([[n] for n in range(200)], rows, 0.1, 0)
    assert Counter(rows.filter(pl.col("id").is_in(list(chosen)))["category"]) == {"a": 10, "b": 6, "c": 4}


@pytest.mark.parametrize("draw", range(40))
def test_the_share_is_as_near_as_any_choice_of_whole_groups_comes(draw):
    rng = random.Random(draw)
    sizes = rng.choices([1, 2, 3, 5, 9] if draw % 2 else [3, 4, 6, 7], k=rng.randint(1, 9))
    numbers = iter(range(sum(sizes)))
    groups = [[next(numbers) for _ in range(size)] for size in sizes]
    rows = pl.DataFrame({"id": [f"{draw}/{n}" for n in range(sum(sizes))], "category": rng.choices("ab", k=sum(sizes))})
    share = rng.choice([0.1, 0.25, 0.5, 0.9])
    ids = choose_validation(groups, rows, share, 0)
    chosen = {at for at, id in enumerate(rows["id"]) if id in ids}
    assert all(set(group) <= chosen or not set(group) & chosen for group in groups)
    wanted = min(int(sum(sizes) * share + 0.5), sum(sizes) - 1)
    sums = {sum(some) for k in range(len(sizes) + 1) for some in itertools.combinations(sizes, k)} - {sum(sizes)}
    assert abs(len(chosen) - wanted) == min(abs(reached - wanted) for reached in sums)
