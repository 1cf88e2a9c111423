"""Reading to the end: every layout and kind of file reads the same, and a line that cannot be read is listed with its place."""

import csv
import json

import polars as pl
import pytest

from kiloset.audit.file_audit import audit_file
from kiloset.data.examples import read_example_file
from tests import planted
from tests.test_audit_file import ROW, audited, kiloset, named  # noqa: F401


def as_turns(row, role, text, names):
    user = f"{row['instruction']}\n\n{row['input']}" if row["input"] else row["instruction"]
    return [{role: names[0], text: user}, {role: names[1], text: row["response"]}]


def extra(row):
    return {"category": row["category"], "license": row["license"]}


LAYOUTS = {
    "own": lambda row: row,
    "alpaca": lambda row: {"instruction": row["instruction"], "input": row["input"], "output": row["response"], **extra(row)},
    "messages": lambda row: {"messages": as_turns(row, "role", "content", ("user", "assistant")), **extra(row)},
    "sharegpt": lambda row: {"conversations": as_turns(row, "from", "value", ("human", "gpt")), **extra(row)},
    "self_instruct": lambda row: {"instruction": row["instruction"], "instances": [{"input": row["input"], "output": row["response"]}], **extra(row)},
}  # fmt: skip


def as_jsonl(path, rows):
    return planted.write(path / "set.jsonl", rows)


def as_json(path, rows):
    (path / "set.json").write_text(json.dumps(rows))
    return path / "set.json"


def as_csv(path, rows):
    with (path / "set.csv").open("w", newline="") as file:
        table = csv.DictWriter(file, list(rows[0]))
        table.writeheader()
        table.writerows(rows)
    return path / "set.csv"


def as_parquet(path, rows):
    pl.DataFrame(rows).write_parquet(path / "set.parquet")
    return path / "set.parquet"


def as_folder(path, rows):
    planted.write(path / "a.jsonl", rows[:10])
    planted.write(path / "b.jsonl", rows[10:])
    return path


def as_saved(path, rows):
    from datasets import Dataset, DatasetDict

    DatasetDict(train=Dataset.from_list(rows[:10]), test=Dataset.from_list(rows[10:])).save_to_disk(path / "saved")
    return path / "saved"


@pytest.mark.parametrize(
    ("layout", "file"),
    [
        *[(layout, as_jsonl) for layout in LAYOUTS], *[(layout, as_parquet) for layout in LAYOUTS],
        *[("alpaca", file) for file in (as_json, as_csv, as_folder, as_saved)], ("messages", as_saved),
    ],
)  # fmt: skip
def test_every_layout_and_file_reads_the_same(tmp_path, layout, file):
    rows = [*planted.clean(24, seed=8)]
    rows += [{**rows[0], "response": "I cannot help with that."}, rows[4], {**rows[5], "response": ""}]
    columns = ("user", "instruction", "response", "category", "license", "fault")
    (tmp_path / "own").mkdir()
    (tmp_path / "other").mkdir()
    expected = audit_file(as_jsonl(tmp_path / "own", rows))
    result = audit_file(file(tmp_path / "other", [LAYOUTS[layout](row) for row in rows]))
    assert result.table.select(columns).to_dicts() == expected.table.select(columns).to_dicts()
    assert (
        named(result)
        == named(expected)
        == {"exact_duplicate": 1, "other_answer": 2, "response_empty": 1, "response_refuses": 1}
    )


def test_an_export_and_the_curated_set_of_a_run_read_the_same(kiloset, finished):  # noqa: F811
    whole = audit_file(finished / "curated.jsonl")
    for layout in ("messages", "alpaca", "sharegpt", "parquet", "hf"):
        assert kiloset("export", "--run", "mine", "--runs", finished.parent, "--format", layout).returncode == 0
        parts = audit_file(finished / f"export-{layout}")
        assert sorted(parts.table.select("user", "response").rows()) == sorted(
            whole.table.select("user", "response").rows()
        )
    assert whole.rows == 12


def test_of_several_turns_the_first_question_and_the_last_answer_are_judged(tmp_path):
    turns = [
        ("system", "Be kind."),
        ("user", "Tell me of rain."),
        ("assistant", "What of it?"),
        ("user", "All."),
        ("assistant", "Rain falls."),
    ]
    messages = [{"role": role, "content": text} for role, text in turns]
    result = audited(tmp_path, {"messages": messages}, {"messages": messages[1:3]})
    assert result.table.select("user", "response", "turns").rows() == [
        ("Tell me of rain.", "Rain falls.", 2),
        ("Tell me of rain.", "What of it?", 1),
    ]
    assert (result.multi_turn, result.source.systems) == (1, 1)


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        ("{", "not JSON"), ("null", "must be an object, got NoneType"), ("[1]", "must be an object, got list"),
        ('{"instruction": "a b c"}', '"response" (or output, completion, answer) is missing; got instruction'),
        ('{"messages": [{"role": "user", "content": "a"}]}', "needs a user turn and an answer; got user"),
        ('{"messages": [{"role": "user", "content": [1]}]}', '"content" must be text, got list'),
        ('{"instruction": "a", "response": 3}', '"response" must be text, got int'), ("[" * 100_000, "not readable JSON"),
        (b"\xff\xfe{}", "not UTF-8 text"),
    ],
)  # fmt: skip
def test_a_line_that_cannot_be_read_is_listed_and_the_rest_is_read(tmp_path, line, reason):
    good = json.dumps(ROW).encode()
    raw = line if isinstance(line, bytes) else line.encode()
    (tmp_path / "set.jsonl").write_bytes(b"\n".join([good, raw, b"  ", good]) + b"\n")
    result = read_example_file(str(tmp_path / "set.jsonl"))
    assert (result.lines, result.table["place"].to_list()) == (3, ["set.jsonl:1", "set.jsonl:4"])
    ((place, message),) = result.broken
    assert place == "set.jsonl:2"
    assert reason in message


def test_a_broken_file_of_a_folder_is_listed_and_the_others_are_read(tmp_path):
    planted.write(tmp_path / "a.jsonl", [ROW])
    (tmp_path / "b.json").write_text("{")
    (tmp_path / "dataset_info.json").write_text('{"describes": "a.jsonl"}')
    result = read_example_file(str(tmp_path))
    assert (result.lines, result.table["place"].to_list()) == (2, ["a.jsonl:1"])
    assert result.broken[0][0] == "b.json"
    assert result.broken[0][1].startswith("not JSON")


def test_rows_of_a_csv_are_named_by_the_line_on_which_they_begin(tmp_path):
    path = tmp_path / "set.csv"
    path.write_bytes(b'instruction,output\n"a\nb c",d\nshort\nbad\xff one,e\nlast one here,f\n')
    result = read_example_file(str(path))
    assert result.table.select("place", "user").rows() == [("set.csv:2", "a\nb c"), ("set.csv:6", "last one here")]
    assert result.broken == (
        ("set.csv:4", "the row has 1 fields, the header has 2"),
        ("set.csv:5", "not UTF-8 text; save it as UTF-8"),
    )
