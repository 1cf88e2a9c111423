"""A split that nothing straddles: not rows alike, not a row and its ancestor."""

import itertools
import random
import re
import unicodedata
from collections import Counter

import polars as pl
import pytest

from kiloset.data.splitting import held_out_rows
from tests.test_export import curated_of, exported, line_of, lines_in, run_of, sides_of, write_lines

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


@pytest.mark.parametrize("draw", range(12))
def test_no_pair_alike_and_no_ancestor_straddles_the_split(tmp_path, draw):
    rng = random.Random(draw)
    rows = planted(rng)
    gone = {row["id"] for row in rows if rng.random() < 0.3}
    kept = [row for row in rows if row["id"] not in gone]
    folder = run_of(tmp_path / "mine", kept, left=[row for row in rows if row["id"] in gone])
    done = exported(folder, "messages", 0.2)
    side = sides_of(done.folder)
    alike = [(a["id"], b["id"]) for a, b in itertools.combinations(kept, 2) if likeness(a, b) >= 0.7]
    parents = {row["id"]: [id for id in row["parents"] if id[0] == "g"] for row in rows}
    above = {}
    for id, shown in parents.items():  # a parent is older than its child, so its own are complete
        above[id] = set(shown).union(*(above[parent] for parent in shown))
    descent = [(row["id"], id) for row in kept for id in above[row["id"]] - gone]
    assert alike
    assert descent
    for one, other in alike + descent:
        assert side[one] == side[other]
    assert sum(done.rows.values()) == len(kept)


def test_a_grandparent_in_the_set_counts_though_the_parent_left(tmp_path):
    rows = [{"id": f"g{n:05d}", "instruction": " ".join(WORDS[n * 3 : n * 3 + 3])} for n in range(20)]
    rows[5]["parents"] = ["g00099"]
    left = [{"id": "g00099", "instruction": "long gone", "parents": ["g00002"]}]
    done = exported(run_of(tmp_path / "mine", rows, left=left), "messages")
    assert done.ties == (2,)
    side = sides_of(done.folder)
    assert side["g00005"] == side["g00002"]


def test_a_seed_is_an_ancestor_of_what_was_evolved_from_it_and_of_nothing_that_only_saw_it(tmp_path):
    rows = [
        {"id": f"g{n:05d}", "instruction": " ".join(WORDS[n * 3 : n * 3 + 3]), "parents": ["s0001", "s0002"]}
        for n in range(20)
    ]
    rows[5] |= {"parents": ["s0001"], "operator": "deepen_subject"}
    seeds = [{"id": "s0001", "source": "seed", "instruction": "Name the highest mountain."}]
    done = exported(run_of(tmp_path / "mine", rows + seeds), "messages")
    assert done.ties == (2,)
    side = sides_of(done.folder)
    assert side["g00005"] == side["s0001"]


def test_an_edited_row_is_compared_with_an_unedited_one_that_has_an_input(tmp_path):
    rows = [{"id": f"g{n:05d}", "instruction": " ".join(WORDS[n * 3 : n * 3 + 3])} for n in range(10)]
    rows[3] |= {"instruction": "Sort.", "input": "b, a"}
    folder = run_of(tmp_path / "mine", rows)
    write_lines(folder, [*curated_of(folder), line_of("copy", "Sort.\n\nb, a", "a, b")])
    assert exported(folder, "messages").ties == (2,)


def test_rows_alike_by_the_runs_own_lower_threshold_are_tied(tmp_path):
    rows = [{"id": f"g{n:05d}", "instruction": " ".join(WORDS[n * 3 : n * 3 + 3])} for n in range(10)]
    rows[1] |= {"instruction": "please tell the old man of the tall hills how to cook a soup of red beans"}
    rows[2] |= {"instruction": "please tell the old man of the tall hills how to cook a pie of green pears"}
    assert 0.5 < likeness(*({"input": "", **row} for row in rows[1:3])) < 0.7
    folder = run_of(tmp_path / "mine", rows)
    assert exported(folder, "messages").ties == ()
    folder.config.write_text("[near_duplicates]\nthreshold = 0.5\n")
    assert exported(folder, "sharegpt").ties == (2,)


def test_the_split_does_not_depend_on_the_order_of_the_lines_and_rows_keep_it(tmp_path):
    folder = run_of(tmp_path / "mine", planted(random.Random(3)))
    first = sides_of(exported(folder, "messages").folder)
    lines = curated_of(folder)
    random.Random(1).shuffle(lines)
    write_lines(folder, lines)
    second = sides_of(exported(folder, "sharegpt").folder)
    assert first == second
    train = [line["id"] for line in lines if first[line["id"]] == "train"]
    assert [row["id"] for side, row in lines_in(folder.path / "export-sharegpt") if side == "train"] == train


def test_single_rows_are_held_out_in_proportion_from_each_category():
    rows = pl.DataFrame({"id": [f"g{n}" for n in range(200)], "category": ["a"] * 100 + ["b"] * 60 + ["c"] * 40})
    chosen = held_out_rows([[n] for n in range(200)], rows, 0.1)
    assert Counter(rows["category"][n] for n in chosen) == {"a": 10, "b": 6, "c": 4}


@pytest.mark.parametrize("draw", range(40))
def test_the_share_is_as_near_as_any_choice_of_whole_groups_comes(draw):
    rng = random.Random(draw)
    sizes = rng.choices([1, 2, 3, 5, 9] if draw % 2 else [3, 4, 6, 7], k=rng.randint(1, 9))
    numbers = iter(range(sum(sizes)))
    groups = [[next(numbers) for _ in range(size)] for size in sizes]
    rows = pl.DataFrame({"id": [f"{draw}/{n}" for n in range(sum(sizes))], "category": rng.choices("ab", k=sum(sizes))})
    share = rng.choice([0.1, 0.25, 0.5, 0.9])
    chosen = held_out_rows(groups, rows, share)
    assert all(set(group) <= chosen or not set(group) & chosen for group in groups)
    wanted = min(int(sum(sizes) * share + 0.5), sum(sizes) - 1)
    sums = {sum(some) for k in range(len(sizes) + 1) for some in itertools.combinations(sizes, k)} - {sum(sizes)}
    assert abs(len(chosen) - wanted) == min(abs(reached - wanted) for reached in sums)
