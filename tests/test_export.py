"""The curated set in other tools' layouts, read back by other readers, and a split that nothing straddles."""

import itertools
import json
import random
import re
import unicodedata
from collections import Counter
from typing import get_args

import polars as pl
import pytest

from core.errors import ConfigError, DataError, EmptyError
from core.run import RunFolder
from core.table import no_rows, table_of
from generator.seeds import load_examples
from kiloset import cli, export
from kiloset.export import LAYOUTS, held_out_rows
from tests.test_cli import kiloset  # noqa: F401  a fixture

HARD = [
    "a line\u2028and a paragraph\u2029separator, \x85 and \x0b and \x0c",
    "tab\there, \"quotes\", 'single', back\\slash, \\n that is none, {braces} and <|im_end|>",
    "👩‍👩‍👧 🇩🇪 e\u0301 é 𝒳",
    "שלום עולם \u202emirrored\u202c مرحبا",
    "one\r\ntwo\rthree\n\n\nfour",
    "\u0000 and \x7f, \ufeff and \ufffd",
    "x" * 100_000,
    " white space around \n",
    "null",
    "3.0",
]


def line_of(id, asked, answer, category="c", split="train", **more):
    turns = [{"role": "user", "content": asked}, {"role": "assistant", "content": answer}]
    return {
        "messages": turns,
        "id": id,
        "category": category,
        "source": "generated",
        "license": "MIT",
        "split": split,
        **more,
    }


def run_of(path, rows, lines=None, left=()):
    """A run folder whose last stage has `rows`, whose ledger has `left`, and whose curated.jsonl has `lines`."""
    folder = RunFolder(path)
    folder.create()
    rows = table_of(
        [{"source": "generated", "category": "c", "response": "ok", "license": "MIT", **row} for row in rows]
    )
    gone = table_of([{"source": "generated", **row} for row in left]).with_columns(
        reason=pl.lit("why"), evidence=pl.lit(""), measured=pl.lit(None, pl.Float64), limit=pl.lit(None, pl.Float64),
        twin=pl.lit(None, pl.String),
    )  # fmt: skip
    folder.write_stage(1, "style", "f", rows, gone if left else no_rows(rows))
    folder.update_manifest({"name": "mine"})
    if lines is None:
        lines = []
        for row in rows.iter_rows(named=True):
            asked = row["instruction"] + ("\n\n" + row["input"] if row["input"] else "")
            lines.append(line_of(row["id"], asked, row["response"], row["category"]))
    write_lines(folder, lines)
    return folder


def write_lines(folder, lines):
    text = "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines)
    folder.curated.write_bytes(text.encode())


def curated_of(folder):
    return [json.loads(line) for line in folder.curated.read_bytes().split(b"\n") if line]


@pytest.fixture
def hard(tmp_path):
    """A run of hard texts in every place, of which every third has an input."""
    rows = [
        {
            "id": f"g{n:05d}", "instruction": f"{text} {n}", "input": HARD[n - 1] if n % 3 == 0 and n else "",
            "response": HARD[-n - 1], "category": "ab"[n % 2],
        }
        for n, text in enumerate(HARD)
    ]  # fmt: skip
    return run_of(tmp_path / "runs" / "mine", rows)


def exported(folder, layout, validation=0.3):
    return export.export(folder, layout, folder.path / f"export-{layout}", validation)


def lines_in(place):
    """What the .jsonl files of a folder say, read by hand: `(side, object)`."""
    found = []
    for file in sorted(place.iterdir()):
        text = file.read_bytes()
        assert text.endswith(b"\n")
        found += [(file.stem, json.loads(line)) for line in text[:-1].split(b"\n")]
    return found


def told(line):
    return {name: line[name] for name in ("id", "category", "source", "license")}


def by_id(rows):
    found = {row["id"]: row for row in rows}
    assert len(found) == len(rows)
    return found


# ------------------------------------------------------------------------------------------------------- the layouts


def test_messages_are_those_of_curated_jsonl(hard):
    exported(hard, "messages")
    found = by_id([row for _, row in lines_in(hard.path / "export-messages")])
    assert found == {line["id"]: {"messages": line["messages"], **told(line)} for line in curated_of(hard)}


def test_sharegpt_has_the_same_turns_under_its_own_names(hard):
    exported(hard, "sharegpt")
    found = by_id([row for _, row in lines_in(hard.path / "export-sharegpt")])
    for line in curated_of(hard):
        asked, answer = (turn["content"] for turn in line["messages"])
        turns = [{"from": "human", "value": asked}, {"from": "gpt", "value": answer}]
        assert found.pop(line["id"]) == {"conversations": turns, **told(line)}
    assert not found


def test_alpaca_takes_instruction_and_input_apart_where_nobody_edited_them(hard):
    lines = curated_of(hard)
    lines[6]["messages"][0]["content"] += "!"  # one that has an input
    write_lines(hard, lines)
    exported(hard, "alpaca")
    found = by_id([row for _, row in lines_in(hard.path / "export-alpaca")])
    final = by_id(hard.stages()[-1][1].to_dicts())
    for line in lines:
        asked, answer = (turn["content"] for turn in line["messages"])
        row = final[line["id"]]
        parts = (asked, "") if line is lines[6] else (row["instruction"], row["input"])
        wanted = dict(zip(("instruction", "input", "output"), (*parts, answer), strict=True))
        assert found.pop(line["id"]) == {**wanted, **told(line)}
    assert not found
    assert final["g00006"]["input"]


def test_polars_reads_parquet_back_to_the_rows(hard):
    exported(hard, "parquet")
    place = hard.path / "export-parquet"
    parts = [pl.read_parquet(place / f"{side}.parquet") for side in ("train", "validation")]
    found = by_id([row for part in parts for row in part.to_dicts()])
    assert found == {line["id"]: {"messages": line["messages"], **told(line)} for line in curated_of(hard)}


def test_datasets_loads_the_folder_back_to_the_rows(hard):
    from datasets import load_from_disk

    exported(hard, "hf")
    loaded = load_from_disk(str(hard.path / "export-hf"))
    assert list(loaded) == ["train", "validation"]
    found = by_id([row for part in loaded.values() for row in part])
    assert found == {line["id"]: {"messages": line["messages"], **told(line)} for line in curated_of(hard)}


@pytest.mark.parametrize("layout", ["messages", "alpaca", "sharegpt", "parquet"])
def test_datasets_reads_the_files_of_every_layout(hard, tmp_path, layout):
    from datasets import load_dataset

    exported(hard, layout)
    kind = "parquet" if layout == "parquet" else "json"
    files = {file.stem: str(file) for file in (hard.path / f"export-{layout}").iterdir()}
    loaded = load_dataset(kind, data_files=files, cache_dir=str(tmp_path / "cache"))
    found = by_id([row for part in loaded.values() for row in part])
    for line in curated_of(hard):
        asked, answer = (turn["content"] for turn in line["messages"])
        row = found.pop(line["id"])
        assert {name: row[name] for name in told(line)} == told(line)
        if layout == "alpaca":
            joined = row["instruction"] + ("\n\n" + row["input"] if row["input"] else "")
            assert (joined, row["output"]) == (asked, answer)
        elif layout == "sharegpt":
            assert row["conversations"] == [{"from": "human", "value": asked}, {"from": "gpt", "value": answer}]
        else:
            assert row["messages"] == line["messages"]
    assert not found


@pytest.mark.parametrize("layout", ["messages", "alpaca", "sharegpt", "parquet"])
def test_our_own_reader_of_seeds_reads_the_same_texts(hard, layout):
    exported(hard, layout)
    texts = set()
    for file in (hard.path / f"export-{layout}").iterdir():
        read = load_examples(str(file), prefix="p", source="pool", license="?", where="pool")
        for row in read.iter_rows(named=True):
            joined = row["instruction"] + ("\n\n" + row["input"] if row["input"] else "")
            texts.add((joined.strip(), row["response"], row["category"], row["license"]))
    # That reader takes white space off both ends of a text.
    wanted = {
        (line["messages"][0]["content"].strip(), line["messages"][1]["content"].strip(), line["category"], "MIT")
        for line in curated_of(hard)
    }
    assert texts == wanted


@pytest.mark.parametrize("layout", LAYOUTS)
def test_edits_by_hand_are_exported_and_rows_may_come_and_go(hard, layout):
    lines = curated_of(hard)
    lines[1]["messages"][1]["content"] = "Edited."
    del lines[4]
    lines.append(line_of("mine", "Which river flows through Prague?", "The Vltava."))
    del lines[-1]["license"]
    write_lines(hard, lines)
    done = exported(hard, layout)
    assert sum(done.rows.values()) == len(lines) == len(HARD)
    if layout in ("messages", "sharegpt", "alpaca"):
        found = by_id([row for _, row in lines_in(done.folder)])
        assert "Edited." in json.dumps(found["g00001"])
        assert (found["mine"]["license"], "g00004" in found) == ("", False)


def test_a_system_turn_and_several_turns_go_into_messages_and_sharegpt_but_not_into_alpaca(hard):
    lines = curated_of(hard)
    more = [("system", "Be brief."), ("user", "And?"), ("assistant", "So."), ("user", "Then?"), ("assistant", "Done.")]
    lines[2]["messages"] = [{"role": role, "content": text} for role, text in more]
    write_lines(hard, lines)
    exported(hard, "messages")
    exported(hard, "sharegpt")
    assert by_id([r for _, r in lines_in(hard.path / "export-messages")])["g00002"]["messages"] == lines[2]["messages"]
    turns = by_id([r for _, r in lines_in(hard.path / "export-sharegpt")])["g00002"]["conversations"]
    names = {"system": "system", "user": "human", "assistant": "gpt"}
    assert turns == [{"from": names[role], "value": text} for role, text in more]
    with pytest.raises(
        DataError, match=r"curated\.jsonl:3: alpaca holds one user turn and its answer, found system, user"
    ):
        exported(hard, "alpaca")
    assert not (hard.path / "export-alpaca").exists()


# --------------------------------------------------------------------------------------------------------- the split

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


def sides_of(place):
    return {row["id"]: side for side, row in lines_in(place)}


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


def test_every_layout_has_the_same_split(hard):
    from datasets import load_from_disk

    sides = [sides_of(exported(hard, layout).folder) for layout in ("messages", "alpaca", "sharegpt")]
    place = exported(hard, "parquet").folder
    sides.append({id: file.stem for file in place.iterdir() for id in pl.read_parquet(file)["id"]})
    loaded = load_from_disk(str(exported(hard, "hf").folder))
    sides.append({id: side for side, part in loaded.items() for id in part["id"]})
    assert all(side == sides[0] for side in sides)


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


def test_a_side_without_rows_has_no_file(hard):
    assert exported(hard, "messages", 0).rows == {"train": len(HARD), "validation": 0}
    assert [file.name for file in (hard.path / "export-messages").iterdir()] == ["train.jsonl"]


# --------------------------------------------------------------------------------------------------- what is refused


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"id": "g00000"}, r"curated\.jsonl:3: the id 'g00000' stands twice"),
        ({"category": 3}, r'curated\.jsonl:3: "category" must be text, got 3'),
        ({"license": ["MIT"]}, r"curated\.jsonl:3: \"license\" must be text, got \['MIT'\]"),
        ({"source": "\ud83d"}, r'curated\.jsonl:3: "source" is not UTF-8 text'),
        ({"messages": []}, r"curated\.jsonl:3: the user turn is missing"),
        ({"messages": line_of("", "Hi.", " ")["messages"]}, r'curated\.jsonl:3: message 2: "content" is empty'),
        ({"messages": line_of("", "Hi.", "\ud83d")["messages"]}, r"curated\.jsonl:3: not UTF-8 text"),
        ({"messages": line_of("", "Hi.", "Ho.")["messages"][::-1]}, r"curated\.jsonl:3: messages must end with the assistant's"),
        ({"messages": [{"role": "tool", "content": "x"}, *line_of("", "Hi.", "Ho.")["messages"]]}, r'curated\.jsonl:3: message 1: "role" must be one of system, user, assistant, got \'tool\''),
        ({"messages": [{"role": "system", "content": "\ud83d"}, *line_of("", "Hi.", "Ho.")["messages"]]}, r'curated\.jsonl:3: message 1: "content" is not UTF-8'),
    ],
)  # fmt: skip
def test_a_line_that_is_no_row_is_named_and_nothing_is_written(hard, change, message):
    lines = curated_of(hard)
    text = [json.dumps({**line, **change} if n == 2 else line) for n, line in enumerate(lines)]
    hard.curated.write_text("\n".join(text))
    with pytest.raises(DataError, match=message) as raised:
        exported(hard, "messages")
    assert "\n" not in str(raised.value)
    assert not [path for path in hard.path.iterdir() if "export" in path.name]


def test_a_share_of_all_or_more_and_a_file_without_rows_are_refused(hard):
    for share in (1.0, -0.1, float("nan")):
        with pytest.raises(ConfigError, match=r"--validation must be in \[0, 1\), got"):
            exported(hard, "messages", share)
    hard.curated.write_text("\n")
    with pytest.raises(EmptyError, match="no row in it"):
        exported(hard, "messages")


def test_a_folder_with_something_in_it_is_left_alone_and_an_empty_one_is_filled(hard, tmp_path):
    (tmp_path / "mine").mkdir()
    assert export.export(hard, "messages", tmp_path / "mine", 0.1).folder.is_dir()
    before = (tmp_path / "mine" / "train.jsonl").read_bytes()
    with pytest.raises(DataError, match="mine: there is something already"):
        export.export(hard, "alpaca", tmp_path / "mine", 0.1)
    assert (tmp_path / "mine" / "train.jsonl").read_bytes() == before
    (tmp_path / "file").write_text("x")
    for place in (tmp_path / "file", tmp_path / "file" / "below"):
        with pytest.raises(DataError, match=r"file.*: (there is something already|cannot be written)"):
            export.export(hard, "messages", place, 0.1)


def test_an_export_that_fails_halfway_leaves_nothing(hard, monkeypatch):
    def fail(place, sides):
        (place / "train.jsonl").write_text("half")
        raise OSError(28, "No space left on device")

    monkeypatch.setitem(LAYOUTS, "messages", fail)
    before = sorted(hard.path.iterdir())
    with pytest.raises(DataError, match=r"cannot be written \(No space left on device\)"):
        exported(hard, "messages")
    assert sorted(hard.path.iterdir()) == before


# --------------------------------------------------------------------------------------------------- the command line


def test_the_command_knows_every_layout():
    assert get_args(cli.Layout) == tuple(LAYOUTS)


def test_the_command_says_what_it_did_and_refuses_to_do_it_twice(kiloset, hard):  # noqa: F811
    arguments = ("export", "--format", "sharegpt", "--runs", hard.path.parent, "--run", "mine", "--validation", "0.3")
    ran = kiloset(*arguments)
    assert (ran.returncode, ran.stderr) == (0, "")
    place = hard.path / "export-sharegpt"
    assert ran.stdout.splitlines() == [
        f"{place}: 7 rows in train, 3 in validation (30.0%, asked for 30.0%)",
        "  no groups of more than one row",
        "  3 rows are on another side than in curated.jsonl",
    ]
    again = kiloset(*arguments)
    assert (again.returncode, again.stdout) == (2, "")
    assert (
        again.stderr == f"kiloset: {place}: there is something already; name a folder that is new or empty with --out\n"
    )


def test_a_finished_run_is_exported_whole(kiloset, finished, tmp_path):  # noqa: F811
    ran = kiloset("export", "--runs", tmp_path / "runs", "--out", tmp_path / "there")
    assert ran.returncode == 0, ran.stderr
    assert set(sides_of(tmp_path / "there")) == {line["id"] for line in curated_of(RunFolder(finished))}
