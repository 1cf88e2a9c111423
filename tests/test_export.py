"""The curated set in other tools' layouts, read back by other readers, and an export that never overwrites what is not its own."""

import json
from typing import get_args

import polars as pl
import pytest

from kiloset.cli.publish import Layout
from kiloset.core.errors import ConfigError, DataError, EmptyError
from kiloset.core.run import RunFolder
from kiloset.core.table import no_rows, table_of
from kiloset.data.examples import load_pool
from kiloset.publish import export
from kiloset.publish.export import LAYOUTS

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


def run_of(path, rows, lines=None, dropped=()):
    """A run folder whose last stage has `rows`, whose ledger has `dropped`, and whose curated.jsonl has `lines`."""
    folder = RunFolder(path)
    folder.create()
    rows = table_of(
        [{"source": "generated", "category": "c", "response": "ok", "license": "MIT", **row} for row in rows]
    )
    gone = table_of([{"source": "generated", **row} for row in dropped]).with_columns(
        reason=pl.lit("why"), evidence=pl.lit(""), measured=pl.lit(None, pl.Float64), limit=pl.lit(None, pl.Float64),
        twin=pl.lit(None, pl.String),
    )  # fmt: skip
    folder.write_stage(1, "style", "f", rows, gone if dropped else no_rows(rows))
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


def sides_in(place):
    """The files with rows, without the files that only describe them."""
    return [file for file in sorted(place.iterdir()) if file.stem in ("train", "validation")]


def lines_in(place):
    """What the .jsonl files of a folder say, read by hand: `(side, object)`."""
    written_rows = []
    for file in sides_in(place):
        text = file.read_bytes()
        assert text.endswith(b"\n")
        written_rows += [(file.stem, json.loads(line)) for line in text[:-1].split(b"\n")]
    return written_rows


def sides_of(place):
    return {row["id"]: side for side, row in lines_in(place)}


def as_line(line):
    return {name: line[name] for name in ("id", "category", "source", "license")}


def by_id(rows):
    written_rows = {row["id"]: row for row in rows}
    assert len(written_rows) == len(rows)
    return written_rows


# ------------------------------------------------------------------------------------------------------- the layouts


def test_messages_are_those_of_curated_jsonl(hard):
    exported(hard, "messages")
    written_rows = by_id([row for _, row in lines_in(hard.path / "export-messages")])
    assert written_rows == {line["id"]: {"messages": line["messages"], **as_line(line)} for line in curated_of(hard)}


def test_sharegpt_has_the_same_turns_under_its_own_names(hard):
    exported(hard, "sharegpt")
    written_rows = by_id([row for _, row in lines_in(hard.path / "export-sharegpt")])
    for line in curated_of(hard):
        asked, answer = (turn["content"] for turn in line["messages"])
        turns = [{"from": "human", "value": asked}, {"from": "gpt", "value": answer}]
        assert written_rows.pop(line["id"]) == {"conversations": turns, **as_line(line)}
    assert not written_rows


@pytest.mark.parametrize(("layout", "column"), [("alpaca", "output"), ("sharegpt", "conversations")])
def test_llama_factory_gets_both_sides_under_the_names_in_its_documentation(hard, layout, column):
    place = exported(hard, layout).folder
    info = json.loads((place / "dataset_info.json").read_text())
    assert list(info) == ["kiloset", "kiloset_validation"]
    for name, rows in (("kiloset", 7), ("kiloset_validation", 3)):
        assert set(info[name]) == {
            "file_name",
            "formatting",
        }  # with "columns" it would forget its own names for the rest
        assert info[name]["formatting"] == layout
        lines = (place / info[name]["file_name"]).read_bytes().strip(b"\n").split(b"\n")
        assert [column in json.loads(line) for line in lines] == [True] * rows
    assert list(
        json.loads((export.export(hard, layout, hard.path / "all", 0).folder / "dataset_info.json").read_text())
    ) == ["kiloset"]


def test_alpaca_takes_instruction_and_input_apart_where_nobody_edited_them(hard):
    lines = curated_of(hard)
    lines[6]["messages"][0]["content"] += "!"  # one that has an input
    write_lines(hard, lines)
    exported(hard, "alpaca")
    written_rows = by_id([row for _, row in lines_in(hard.path / "export-alpaca")])
    final = by_id(hard.stages()[-1][1].to_dicts())
    for line in lines:
        asked, answer = (turn["content"] for turn in line["messages"])
        row = final[line["id"]]
        parts = (asked, "") if line is lines[6] else (row["instruction"], row["input"])
        wanted = dict(zip(("instruction", "input", "output"), (*parts, answer), strict=True))
        assert written_rows.pop(line["id"]) == {**wanted, **as_line(line)}
    assert not written_rows
    assert final["g00006"]["input"]


def test_polars_reads_parquet_back_to_the_rows(hard):
    exported(hard, "parquet")
    place = hard.path / "export-parquet"
    parts = [pl.read_parquet(place / f"{side}.parquet") for side in ("train", "validation")]
    written_rows = by_id([row for part in parts for row in part.to_dicts()])
    assert written_rows == {line["id"]: {"messages": line["messages"], **as_line(line)} for line in curated_of(hard)}


def test_datasets_loads_the_folder_back_to_the_rows(hard):
    from datasets import load_from_disk

    exported(hard, "hf")
    loaded = load_from_disk(str(hard.path / "export-hf"))
    assert list(loaded) == ["train", "validation"]
    written_rows = by_id([row for part in loaded.values() for row in part])
    assert written_rows == {line["id"]: {"messages": line["messages"], **as_line(line)} for line in curated_of(hard)}


@pytest.mark.parametrize("layout", ["messages", "alpaca", "sharegpt", "parquet"])
def test_datasets_reads_the_files_of_every_layout(hard, tmp_path, layout):
    from datasets import load_dataset

    exported(hard, layout)
    kind = "parquet" if layout == "parquet" else "json"
    files = {file.stem: str(file) for file in sides_in(hard.path / f"export-{layout}")}
    loaded = load_dataset(kind, data_files=files, cache_dir=str(tmp_path / "cache"))
    # By the folder's name alone: files that only describe the rows are not read as rows.
    whole = load_dataset(str(hard.path / f"export-{layout}"), cache_dir=str(tmp_path / "cache"))
    assert {name: part.to_list() for name, part in whole.items()} == {n: p.to_list() for n, p in loaded.items()}
    written_rows = by_id([row for part in loaded.values() for row in part])
    for line in curated_of(hard):
        asked, answer = (turn["content"] for turn in line["messages"])
        row = written_rows.pop(line["id"])
        assert {name: row[name] for name in as_line(line)} == as_line(line)
        if layout == "alpaca":
            joined = row["instruction"] + ("\n\n" + row["input"] if row["input"] else "")
            assert (joined, row["output"]) == (asked, answer)
        elif layout == "sharegpt":
            assert row["conversations"] == [{"from": "human", "value": asked}, {"from": "gpt", "value": answer}]
        else:
            assert row["messages"] == line["messages"]
    assert not written_rows


@pytest.mark.parametrize("layout", ["messages", "alpaca", "sharegpt", "parquet"])
def test_our_own_reader_of_seeds_reads_the_same_texts(hard, layout):
    exported(hard, layout)
    texts = set()
    for file in sides_in(hard.path / f"export-{layout}"):
        read = load_pool(str(file), license="?")
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
        written_rows = by_id([row for _, row in lines_in(done.folder)])
        assert "Edited." in json.dumps(written_rows["g00001"])
        assert (written_rows["mine"]["license"], "g00004" in written_rows) == ("", False)


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
    with pytest.raises(DataError, match=r"curated\.jsonl:3: ") as raised:
        exported(hard, "alpaca")
    assert raised.value.code == "KS758"
    assert not (hard.path / "export-alpaca").exists()


def test_every_layout_has_the_same_split(hard):
    from datasets import load_from_disk

    sides = [sides_of(exported(hard, layout).folder) for layout in ("messages", "alpaca", "sharegpt")]
    place = exported(hard, "parquet").folder
    sides.append({id: file.stem for file in sides_in(place) for id in pl.read_parquet(file)["id"]})
    loaded = load_from_disk(str(exported(hard, "hf").folder))
    sides.append({id: side for side, part in loaded.items() for id in part["id"]})
    assert all(side == sides[0] for side in sides)


def test_the_split_is_that_of_the_file_unless_a_share_is_given(hard):
    lines = curated_of(hard)
    lines[1]["split"] = lines[4]["split"] = "validation"
    del lines[5]["split"]
    write_lines(hard, lines)
    done = exported(hard, "messages", None)
    assert [id for id, side in sides_of(done.folder).items() if side == "validation"] == ["g00001", "g00004"]
    assert (done.moved, done.rows) == (None, {"train": 8, "validation": 2})
    assert any('1 rows of curated.jsonl have no "split"' in line for line in export.summary(done))
    done = exported(hard, "messages", 0.5)
    validation = {id for id, side in sides_of(done.folder).items() if side == "validation"}
    assert done.moved == len(validation ^ {"g00001", "g00004"})


def test_a_side_without_rows_has_no_file(hard):
    assert exported(hard, "messages", 0).rows == {"train": len(HARD), "validation": 0}
    assert [file.name for file in sides_in(hard.path / "export-messages")] == ["train.jsonl"]


# --------------------------------------------------------------------------------------------------- what is refused


def test_a_line_that_is_no_row_is_named_and_nothing_is_written(hard):
    lines = curated_of(hard)
    lines[2]["id"] = "g00000"
    write_lines(hard, lines)
    with pytest.raises(DataError, match=r"curated\.jsonl:3: ") as raised:
        exported(hard, "messages")
    assert raised.value.code == "KS451"
    assert not [path for path in hard.path.iterdir() if "export" in path.name]


def test_a_share_of_all_or_more_and_a_file_without_rows_are_refused(hard):
    for share in (1.0, -0.1, float("nan")):
        with pytest.raises(ConfigError) as raised:
            exported(hard, "messages", share)
        assert raised.value.code == "KS757"
    hard.curated.write_text("\n")
    with pytest.raises(EmptyError) as empty:
        exported(hard, "messages")
    assert empty.value.code == "KS759"


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
    assert get_args(Layout) == tuple(LAYOUTS)


def test_the_command_reports_what_it_did_repeats_it_and_refuses_what_was_changed(kiloset, finished, tmp_path):
    arguments = ("export", "--format", "sharegpt", "--runs", tmp_path / "runs", "--run", "mine", "--validation", "0.25")
    ran = kiloset(*arguments)
    assert (ran.returncode, ran.stderr) == (0, "")
    place = finished / "export-sharegpt"
    assert ran.stdout.splitlines()[0] == f"{place}: 9 rows in train, 3 in validation (25.0%)"
    assert len(ran.stdout.splitlines()) == 2
    again = kiloset(*arguments)
    assert (again.returncode, again.stderr) == (0, "")
    assert again.stdout.splitlines()[1] == "  replaced an earlier export, which was unchanged"
    (place / "train.jsonl").write_text("mine")
    refused = kiloset(*arguments)
    assert (refused.returncode, refused.stdout) == (2, "")
    assert refused.stderr == (
        f"kiloset: KS767 {place}: changed by hand since it was exported ('train.jsonl'); "
        "name a folder that is new or empty with --out (make: OUT=)\n"
    )


@pytest.mark.parametrize("layout", LAYOUTS)
def test_an_export_has_a_card_that_names_its_files_and_counts_its_rows(kiloset, finished, tmp_path, layout):
    ran = kiloset("export", "--format", layout, "--runs", tmp_path / "runs", "--validation", "0.25")
    assert ran.returncode == 0, ran.stderr
    place = finished / f"export-{layout}"
    card = (place / "README.md").read_text()
    for side, rows in (("train", 9), ("validation", 3)):
        (file,) = [path.name for path in place.iterdir() if path.stem == side]
        assert f"| {side} | {file} | {rows} |" in card


def test_a_finished_run_is_exported_whole(kiloset, finished, tmp_path):
    ran = kiloset("export", "--runs", tmp_path / "runs", "--out", tmp_path / "there")
    assert ran.returncode == 0, ran.stderr
    assert set(sides_of(tmp_path / "there")) == {line["id"] for line in curated_of(RunFolder(finished))}
