"""curated.jsonl: what the writer writes, the reader reads; edits by hand are read, and a broken line is named."""

import json

import pytest

from kiloset.core.errors import DataError
from kiloset.core.table import table_of
from kiloset.data.curated import curated_text, read_curated

USER, ANSWER = {"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Ho"}
LINE = {"id": "g1", "messages": [USER, ANSWER], "category": "c", "split": "train"}


def written(path, *lines):
    path.write_text("".join(line if isinstance(line, str) else json.dumps(line) + "\n" for line in lines))
    return path


def test_the_reader_reads_what_the_writer_wrote(tmp_path):
    rows = [
        {"id": f"g{n}", "instruction": f"Task {n}", "input": "x" * (n % 2), "response": "\u2028 é", "category": "ab"[n % 2],
         "source": "generated", "license": "MIT", "writer": "w", "constraints": [{"id": "no_comma", "args": "{}"}]}
        for n in range(8)
    ]  # fmt: skip
    table = table_of(rows)
    extra = {name: [None] * 8 for name in ("response_source", "response_reason", "review")}
    text = curated_text(table.with_columns(**dict.fromkeys(extra)), table.clear(), [], 0.25, 0)
    (tmp_path / "curated.jsonl").write_text(text)
    curated = read_curated(tmp_path / "curated.jsonl")
    for name in ("id", "response", "category", "source", "license", "writer"):
        assert curated.rows[name].to_list() == table[name].to_list()
    assert curated.rows["user"].to_list() == [f"Task {n}" + "\n\nx" * (n % 2) for n in range(8)]
    assert curated.rows["split"].to_list().count("validation") == 2
    assert curated.rows["line"].to_list() == list(range(1, 9))
    assert (curated.without_split, curated.note) == (0, None)
    assert curated.columns == tuple(json.loads(text.split("\n")[0]))


@pytest.mark.parametrize(
    ("line", "code"),
    [
        ('{"id": "g1",', "KS456"),
        ("[" * 100_000, "KS456"),
        ("[1]", "KS457"),
        ({**LINE, "id": 7}, "KS763"),
        ({**LINE, "id": ""}, "KS458"),
        ({**LINE, "id": "g0"}, "KS451"),
        ({**LINE, "split": "test"}, "KS459"),
        ({**LINE, "category": 3}, "KS763"),
        ({**LINE, "license": ["MIT"]}, "KS763"),
        ({**LINE, "source": "\ud83d"}, "KS463"),
        ({**LINE, "messages": []}, "KS460"),
        ({**LINE, "messages": [USER]}, "KS464"),
        ({**LINE, "messages": [ANSWER]}, "KS464"),
        ({**LINE, "messages": ["Hi", ANSWER]}, "KS461"),
        ({**LINE, "messages": [{"role": "tool", "content": "x"}, USER, ANSWER]}, "KS461"),
        ({**LINE, "messages": [USER, {"role": "assistant", "content": " "}]}, "KS462"),
        ({**LINE, "messages": [USER, {"role": "assistant"}]}, "KS462"),
        ({**LINE, "messages": [{"role": "user", "content": "\ud83d"}, ANSWER]}, "KS463"),
    ],
)
def test_a_broken_line_is_refused_with_its_number(tmp_path, line, code):
    path = written(tmp_path / "curated.jsonl", {**LINE, "id": "g0"}, "\n", line)
    with pytest.raises(DataError) as error:
        read_curated(path)
    assert error.value.code == code
    assert f"{path}:3: " in str(error.value)
    assert "\n" not in str(error.value)


def test_a_missing_file_and_one_that_is_not_utf8_are_refused(tmp_path):
    with pytest.raises(DataError) as error:
        read_curated(tmp_path / "curated.jsonl")
    assert error.value.code == "KS454"
    (tmp_path / "curated.jsonl").write_bytes(b"\xff")
    with pytest.raises(DataError) as error:
        read_curated(tmp_path / "curated.jsonl")
    assert error.value.code == "KS455"


def test_what_editors_leave_behind_is_read(tmp_path):
    strange = {**LINE, "messages": [USER, {"role": "assistant", "content": "Blue.\u2028Or so."}]}
    lines = [json.dumps({**LINE, "id": "g0"}), "", json.dumps(strange, ensure_ascii=False), ""]
    (tmp_path / "curated.jsonl").write_bytes(b"\xef\xbb\xbf" + "\r\n".join(lines).encode())
    rows = read_curated(tmp_path / "curated.jsonl").conversations("train")
    assert rows == [{"id": "g0", "messages": LINE["messages"]}, {"id": "g1", "messages": strange["messages"]}]


def test_a_row_added_without_a_split_trains_and_is_reported(tmp_path):
    added = {"id": "mine", "messages": [USER, ANSWER]}
    curated = read_curated(written(tmp_path / "curated.jsonl", {**LINE, "split": "validation"}, added))
    assert [row["id"] for row in curated.conversations("train")] == ["mine"]
    assert curated.note == '1 rows of curated.jsonl have no "split"; they count as train'
    assert curated.rows.row(1, named=True)["category"] == ""
