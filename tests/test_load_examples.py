"""Every layout from every file type, and every way a file can be wrong."""

import csv
import json
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import httpx
import polars as pl
import pytest

from kiloset.core.errors import DataError, EmptyError
from kiloset.data.examples import load_pool, load_seeds
from kiloset.filters.rules import RulesConfig, drop_by_rules

LAYOUTS: dict[str, list[dict[str, Any]]] = {
    "own": [
        {"instruction": "Sum it up.", "input": "A long\n\ntext.", "response": "Short.", "category": "summarising"},
        {"instruction": "Напиши стих", "input": "", "response": "詩, \"1\"", "category": ""},
    ],
    "alpaca": [
        {"instruction": " Sum it up.\n", "input": "A long\n\ntext.", "output": "Short.", "category": "summarising"},
        {"instruction": "Напиши стих", "input": "<noinput>", "output": "詩, \"1\"", "category": None},
    ],
    "messages": [
        {
            "messages": [
                {"role": "system", "content": "Sum it up."},
                {"role": "user", "content": "A long\n\ntext."},
                {"role": "assistant", "content": "Short."},
                {"role": "user", "content": "Thanks."},
                {"role": "assistant", "content": "Welcome."},
            ],
            "category": "summarising",
        },
        {"messages": [{"role": "user", "content": "Напиши стих"}, {"role": "assistant", "content": "詩, \"1\""}], "category": ""},
    ],
    "sharegpt": [
        {
            "conversations": [
                {"from": "system", "value": "Sum it up."},
                {"from": "human", "value": "A long\n\ntext."},
                {"from": "gpt", "value": "Short."},
            ],
            "category": "summarising",
        },
        {"conversations": [{"from": "human", "value": "Напиши стих"}, {"from": "gpt", "value": "詩, \"1\""}], "category": ""},
    ],
    "self_instruct": [
        {"instruction": "Sum it up.", "instances": [{"input": "A long\n\ntext.", "output": "Short."}], "category": "summarising"},
        {"instruction": "Напиши стих", "instances": [{"input": "", "output": "詩, \"1\""}], "category": ""},
    ],
}  # fmt: skip
FLAT = ("own", "alpaca")
TURNS = ("messages", "sharegpt")
GOOD = {"instruction": "Sum it up.", "response": "Short."}


def write_jsonl(path: Path, rows: Sequence[Mapping[str, Any]]) -> None:
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")


def write_json(path: Path, rows: Sequence[Mapping[str, Any]]) -> None:
    path.write_text(json.dumps(rows, indent=1), encoding="utf-8")


def write_csv(path: Path, rows: Sequence[Mapping[str, Any]]) -> None:
    with path.open("w", encoding="utf-8", newline="") as file:
        table = csv.DictWriter(file, list(rows[0]))
        table.writeheader()
        table.writerows(rows)


def write_parquet(path: Path, rows: Sequence[Mapping[str, Any]]) -> None:
    pl.DataFrame(rows).write_parquet(path)


WRITERS = {".jsonl": write_jsonl, ".json": write_json, ".csv": write_csv, ".parquet": write_parquet}


def load(path: Path | str, **options: Any) -> pl.DataFrame:
    return load_seeds(str(path), **{"license": "CC0-1.0", **options})


def pool(path: Path | str, limit: int = 0) -> pl.DataFrame:
    return load_pool(str(path), license="CC0-1.0", limit=limit)


def lines(path: Path, *values: Any) -> Path:
    path.write_text("\n".join(v if isinstance(v, str) else json.dumps(v) for v in values), encoding="utf-8")
    return path


@pytest.mark.parametrize(("layout", "suffix"), [(a, b) for a in LAYOUTS for b in WRITERS if b != ".csv" or a in FLAT])
def test_a_layout_reads_the_same_from_every_file_type(tmp_path: Path, layout: str, suffix: str) -> None:
    path = tmp_path / f"seeds{suffix}"
    WRITERS[suffix](path, LAYOUTS[layout])
    instruction = ("Sum it up.\n\nA long\n\ntext.", "") if layout in TURNS else ("Sum it up.", "A long\n\ntext.")
    columns = ("id", "instruction", "input", "response", "category", "category_source")
    assert load(path).select(columns).rows() == [
        ("s0001", *instruction, "Short.", "summarising", "seed"),
        ("s0002", "Напиши стих", "", '詩, "1"', "", ""),
    ]


def test_a_folder_is_read_file_by_file_in_the_order_of_the_names(tmp_path: Path) -> None:
    for name, layout in {"c.json": "messages", "a.jsonl": "own", "d.parquet": "sharegpt", "b.csv": "alpaca"}.items():
        WRITERS[Path(name).suffix](tmp_path / name, [{**LAYOUTS[layout][0], "category": name}])
    (tmp_path / "README.md").write_text("not a data file")
    table = load(tmp_path)
    assert table["category"].to_list() == ["a.jsonl", "b.csv", "c.json", "d.parquet"]
    assert table["id"].to_list() == ["s0001", "s0002", "s0003", "s0004"]


@pytest.mark.parametrize(
    "row",
    [
        {"prompt": "Sum it up.", "completion": "Short."},
        {"question": "Sum it up.", "answer": "Short."},
        {"instruction": "Sum it up.", "context": "", "response": "Short."},
        {"instruction": "Sum it up.", "input": "N/A", "output": "Short."},
        {"messages": None, "instruction": "Sum it up.", "response": "Short."},
    ],
)
def test_the_usual_names_of_a_field_are_known(tmp_path: Path, row: dict[str, Any]) -> None:
    table = load(lines(tmp_path / "x.jsonl", row))
    assert table.select("instruction", "input", "response").rows() == [("Sum it up.", "", "Short.")]


def test_a_context_is_an_input(tmp_path: Path) -> None:
    row = {"instruction": "Sum it up.", "input": "", "context": "A text.", "response": "Short."}
    assert load(lines(tmp_path / "x.jsonl", row))["input"].to_list() == ["A text."]


def test_each_instance_of_a_self_instruct_task_is_a_row(tmp_path: Path) -> None:
    instances = [{"input": letter, "output": letter.upper()} for letter in "abc"]
    table = load(
        lines(tmp_path / "x.jsonl", {"id": "seed_task_0", "instruction": "Shout.", "instances": instances}, GOOD)
    )
    assert table.select("id", "instruction", "input", "response").rows()[:3] == [
        ("s0001", "Shout.", "a", "A"),
        ("s0002", "Shout.", "b", "B"),
        ("s0003", "Shout.", "c", "C"),
    ]
    assert table["id"].to_list()[3] == "s0004"


def test_writer_and_licence_are_the_rows_own_or_the_default(tmp_path: Path) -> None:
    path = lines(tmp_path / "x.jsonl", {**GOOD, "writer": "gpt-2@1", "license": "MIT"}, {**GOOD, "license": ""})
    assert load(path).select("source", "writer", "license", "depth", "parents").rows() == [
        ("seed", "gpt-2@1", "MIT", 0, []),
        ("seed", "human", "CC0-1.0", 0, []),
    ]


def test_a_pool_has_longer_ids_of_its_own(tmp_path: Path) -> None:
    table = pool(lines(tmp_path / "x.jsonl", GOOD, GOOD))
    assert table.select("id", "source").rows() == [("p00001", "pool"), ("p00002", "pool")]


@pytest.mark.parametrize(("limit", "rows"), [(0, 7), (1, 1), (2, 2), (3, 3), (5, 5), (7, 7), (99, 7)])
def test_a_limit_counts_rows_also_within_a_task_of_several(tmp_path: Path, limit: int, rows: int) -> None:
    task = {"instruction": "Shout.", "instances": [{"input": letter, "output": letter} for letter in "abc"]}
    assert pool(lines(tmp_path / "x.jsonl", task, task, GOOD), limit).height == rows


def test_beyond_the_limit_nothing_is_read(tmp_path: Path) -> None:
    assert pool(lines(tmp_path / "x.jsonl", GOOD, GOOD, "{broken"), 2).height == 2


def test_blank_lines_byte_order_marks_and_windows_line_ends_are_harmless(tmp_path: Path) -> None:
    path = tmp_path / "x.jsonl"
    path.write_bytes(b"\xef\xbb\xbf" + "\r\n \r\n".join([json.dumps(GOOD)] * 2).encode() + b"\r\n")
    assert load(path).height == 2


BROKEN: dict[str, tuple[Any, str]] = {
    "json": ("{'instruction': 1}", "KS126"),
    "an array": ("[1]", "KS103"),
    "no response": ({"instruction": "a"}, "KS109"),
    "no instruction": ({}, "KS109"),
    "empty response": ({"instruction": "a", "output": " "}, "KS147"),
    "null instruction": ({"instruction": None, "output": "b"}, "KS148"),
    "a number": ({"instruction": "a", "response": 5}, "KS110"),
    "a list": ({"instruction": "a", "input": [], "response": "b"}, "KS110"),
    "zero": ({"instruction": "a", "context": 0, "response": "b"}, "KS110"),
    "category": ({**GOOD, "category": 5}, "KS110"),
    "half a character": ('{"instruction": "a \\ud83d", "response": "b"}', "KS149"),
    "a licence": ({**GOOD, "license": ["MIT"]}, "KS110"),
    "half a writer": ('{"instruction": "a", "response": "b", "writer": "\\ud83d"}', "KS149"),
    "nested": ('{"instruction": ' + "[" * 100_000, "KS127"),
    "an id": ({"id": []}, "KS110"),
    "half an id": ('{"id": "\\ud83d"}', "KS149"),
    "a role": ({"messages": [{"role": 5, "content": "a"}]}, "KS110"),
    "no turns": ({"messages": []}, "KS108"),
    "turns as text": ({"conversations": "a"}, "KS108"),
    "no assistant": ({"messages": [{"role": "user", "content": "a"}]}, "KS134"),
    "no user": ({"conversations": [{"from": "gpt", "value": "a"}]}, "KS134"),
    "two users": ({"messages": [{"role": "user", "content": "a"}] * 2}, "KS134"),
    "a turn of parts": ({"messages": [{"role": "user", "content": [{"text": "a"}]}]}, "KS110"),
    "a turn of text": ({"messages": ["a"]}, "KS103"),
    "an empty turn": (
        {"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": None}]},
        "KS147",
    ),
    "no instances": ({"instruction": "a", "instances": []}, "KS104"),
    "no output": ({"instruction": "a", "instances": [{"input": "b"}]}, "KS109"),
    "an instance of text": ({"instruction": "a", "instances": ["b"]}, "KS103"),
}  # fmt: skip


@pytest.mark.parametrize(("line", "code"), BROKEN.values(), ids=BROKEN)
def test_a_line_that_cannot_be_an_example_is_refused_with_its_number(tmp_path: Path, line: Any, code: str) -> None:
    with pytest.raises(DataError, match=r"x\.jsonl:3: ") as error:
        load(lines(tmp_path / "x.jsonl", GOOD, "", line))
    assert error.value.code == code


FAULTY: list[tuple[Any, tuple[str, str, str]]] = [
    ({"instruction": " ", "input": "i", "output": "b"}, ("", "i", "b")),
    ({"instruction": None, "response": "b", "category": "maths"}, ("", "", "b")),
    ({"question": "a", "answer": ""}, ("a", "", "")),
    ('{"instruction": "a \\ud83d", "response": "b", "writer": "\\udfff"}', ("a \ufffd", "", "b")),
    ({"instruction": "a", "instances": [{"input": "b", "output": ""}, {"input": "c", "output": "d"}]}, ("a", "b", "")),
    ({"messages": [{"role": "user", "content": ""}, {"role": "assistant", "content": "b"}]}, ("", "", "b")),
    ({"conversations": [{"from": "human", "value": "a"}, {"from": "gpt", "value": None}]}, ("a", "", "")),
]


@pytest.mark.parametrize(("line", "row"), FAULTY)
def test_a_faulty_row_of_a_pool_comes_in_as_it_is_for_rules_to_drop_and_one_of_the_seeds_is_refused(
    tmp_path: Path, line: Any, row: tuple[str, str, str]
) -> None:
    path = lines(tmp_path / "x.jsonl", GOOD, line, GOOD)
    table = pool(path)
    assert table.row(1, named=True)["id"] == "p00002"
    assert table.select("instruction", "input", "response").row(1) == row
    assert table["instruction"][-1] == table["instruction"][0] == GOOD["instruction"]
    outcome = drop_by_rules(table, RulesConfig())
    assert "p00002" in outcome.dropped["id"]
    assert set(outcome.dropped["reason"]) <= {
        "instruction_too_short", "response_empty", "control_characters",
    }  # fmt: skip
    with pytest.raises(DataError, match=r"x\.jsonl:2: "):
        load(path)


@pytest.mark.parametrize(
    "line",
    [
        {"instruction": "", "instances": "abc"},
        {"instruction": "x", "instances": [{"input": "", "output": ""}, "y"]},
    ],
)
def test_a_faulty_row_of_a_pool_that_has_no_layout_either_is_refused(tmp_path: Path, line: Any) -> None:
    with pytest.raises(DataError, match=r"x\.jsonl:2: "):
        pool(lines(tmp_path / "x.jsonl", GOOD, line))


def test_a_row_of_a_pool_without_the_fields_of_any_layout_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r'x\.jsonl:2: "instruction" \(or prompt, question\) is missing; got text'):
        pool(lines(tmp_path / "x.jsonl", GOOD, {"text": "a"}))


def test_an_id_that_two_rows_have_is_refused_with_both_places(tmp_path: Path) -> None:
    lines(tmp_path / "a.jsonl", {**GOOD, "id": 7}, {**GOOD, "id": 8}, GOOD, GOOD)
    lines(tmp_path / "b.jsonl", {**GOOD, "id": "7"})
    with pytest.raises(DataError, match=r"b\.jsonl:1: id '7' is also at .*a\.jsonl:1; "):
        load(tmp_path)


LATIN = 'instruction,response\n"Où est le café?",ici\n'.encode("latin-1")


@pytest.mark.parametrize(
    ("name", "content", "place", "code"),
    [
        ("x.csv", LATIN, "x.csv:2", "KS116"),
        ("x.csv", b"instruction,response\na,b\na,b,c\n", "x.csv:3", "KS115"),
        ("x.csv", b"instruction,response\na,b\na,\n", "x.csv:3", "KS147"),
        ("x.json", b'[{"instruction": "caf\xe9"}]', "x.json", "KS122"),
        ("x.json", b"", "x.json", "KS126"),
        ("x.json", b'{"instruction": "a"}', "x.json", "KS130"),
        ("x.json", b'[{"instruction": "a", "response": "b"}, 5]', r"x.json\[1\]", "KS103"),
        ("x.json", b"[" * 100_000, "x.json", "KS127"),
        ("x.jsonl", (json.dumps(GOOD) + "\n").encode() * 500 + b'{"instruction": "caf\xe9"}\n', "x.jsonl:501", "KS125"),
        ("x.parquet", b"PAR1", "x.parquet", "KS123"),
        ("x.txt", b"a", "x.txt", "KS119"),
        ("x", b"a", "x", "KS119"),
    ],
)  # fmt: skip
def test_a_file_that_cannot_be_read_is_refused(
    tmp_path: Path, name: str, content: bytes, place: str, code: str
) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(DataError, match=f"/{place}: ") as error:
        load(tmp_path / name)
    assert error.value.code == code


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("x.jsonl", b""),
        ("x.jsonl", b"\n \n"),
        ("x.jsonl", b"\xef\xbb\xbf"),
        ("x.json", b"[]"),
        ("x.csv", b""),
        ("x.csv", b"instruction,response\n"),
    ],
)
def test_a_file_without_an_example_is_refused(tmp_path: Path, name: str, content: bytes) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(EmptyError, match=rf"{name}: no example in it; \[pool\] path needs at least one"):
        pool(tmp_path / name)


def test_a_folder_without_a_data_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"no \.jsonl, \.json, \.csv, \.parquet file in this folder \(\[seeds\] path\)"):
        load(tmp_path)


@pytest.mark.parametrize("name", ["nowhere.jsonl", "no/where.jsonl", "seeds"])
def test_a_missing_file_is_refused(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, name: str) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(DataError, match=rf"{name}: no such file or folder \(\[seeds\] path\)"):
        load(name)


@pytest.mark.parametrize("name", ["README.md/x", "README.md/x.jsonl"])
def test_a_path_through_a_file_is_refused_and_not_looked_up_on_the_hub(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, name: str
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "README.md").touch()
    with pytest.raises(DataError, match=rf"^{name}: no such file or folder \(\[seeds\] path\)$"):
        load(name)


def test_a_path_that_cannot_even_be_looked_at_is_refused() -> None:
    with pytest.raises(DataError, match=r"x: cannot be read \(File name too long\) \(\[seeds\] path\)$"):
        load("x" * 300)
    with pytest.raises(DataError, match=r"^~nobody-here/x: .*home directory.* \(\[seeds\] path\)$"):
        load("~nobody-here/x")


@pytest.mark.parametrize("suffix", WRITERS)
def test_what_is_no_plain_file_is_refused(tmp_path: Path, suffix: str) -> None:
    (tmp_path / f"null{suffix}").symlink_to("/dev/null")
    with pytest.raises(DataError, match=rf"null\{suffix}: must be a plain file"):
        load(tmp_path / f"null{suffix}")
    with pytest.raises(DataError, match=rf"null\{suffix}: must be a plain file"):
        load(tmp_path)


@pytest.mark.parametrize("suffix", [".jsonl", ".json"])
def test_a_file_that_may_not_be_read_is_refused(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, suffix: str) -> None:
    def forbidden(*_: Any, **__: Any) -> None:
        raise PermissionError(13, "Permission denied")  # a mode of 000 does not stop root

    (tmp_path / f"x{suffix}").touch()
    monkeypatch.setattr(Path, "open", forbidden)
    with pytest.raises(DataError, match=rf"x\{suffix}: cannot be read \(Permission denied\)$"):
        load(tmp_path / f"x{suffix}")


class NoSuchDataset(Exception):
    """Stands for the hub client's own kind of error."""


def hub(load_dataset: Callable[[str], Any]) -> SimpleNamespace:
    return SimpleNamespace(load_dataset=load_dataset, exceptions=SimpleNamespace(DatasetsError=NoSuchDataset))


def test_a_name_with_an_owner_is_read_from_the_hub(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setitem(sys.modules, "datasets", hub(lambda name: {"test": [], "train": [{**GOOD, "category": name}]}))
    assert load("owner/name")["category"].to_list() == ["owner/name"]


def test_a_row_of_the_hub_is_named_by_split_and_number(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setitem(sys.modules, "datasets", hub(lambda _: {"validation": [GOOD, {"instruction": "a"}]}))
    with pytest.raises(DataError, match='owner/name/validation:2: "response"'):
        load("owner/name")


@pytest.mark.parametrize(
    ("error", "cause"),
    [
        (ConnectionError("no network\nand a long story"), "no network"),
        (httpx.ConnectTimeout(""), "ConnectTimeout"),
        (NoSuchDataset("Dataset 'owner/name' doesn't exist"), "Dataset 'owner/name' doesn't exist"),
    ],
)
def test_what_the_hub_cannot_load_is_refused_in_one_line(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, error: Exception, cause: str
) -> None:
    def offline(_: str) -> None:
        raise error

    monkeypatch.chdir(tmp_path)
    monkeypatch.setitem(sys.modules, "datasets", hub(offline))
    message = rf"^owner/name: no such file, and loading it as a hub data set failed \(\[seeds\] path\): {cause}$"
    with pytest.raises(DataError, match=message):
        load("owner/name")


def test_a_name_in_a_folder_that_exists_is_not_looked_up_on_the_hub(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "seeds").mkdir()
    with pytest.raises(DataError, match="seeds/mine: no such file or folder"):
        load("seeds/mine")
