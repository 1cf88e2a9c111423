"""Reading IFEval's file: valid rows, and the errors of invalid ones."""

import json

import pytest

from kiloset.core.errors import DataError
from kiloset.evaluation.following import Item, read_ifeval

ROW = {"key": 7, "prompt": "Say hi.", "instruction_id_list": ["punctuation:no_comma"], "kwargs": [{}]}
NULLS = {"num_words": None, "relation": None, "keywords": None}


@pytest.fixture
def written(tmp_path):
    """Write rows, given as objects or as lines, to a file."""

    def write(*rows):
        path = tmp_path / "input_data.jsonl"
        lines = [row if isinstance(row, bytes) else json.dumps(row).encode() for row in rows]
        path.write_bytes(b"\n".join(lines) + b"\n")
        return path

    return write


def test_a_row_becomes_an_item_with_its_own_arguments_only(written):
    path = written(
        ROW,
        {
            "key": "b",
            "prompt": "Dis-le en français, ♥.",
            "instruction_id_list": ["length_constraints:number_words", "startend:quotation", "keywords:existence"],
            "kwargs": [
                {**NULLS, "num_words": 20.0, "relation": "less than"}, NULLS, {**NULLS, "keywords": ["thé"]},
            ],
        },
    )  # fmt: skip
    words = {"num_words": 20, "relation": "less than"}
    assert read_ifeval(path) == [
        Item("7", "Say hi.", (("punctuation:no_comma", {}),)),
        Item(
            "b",
            "Dis-le en français, ♥.",
            (("length_constraints:number_words", words), ("startend:quotation", {}), ("keywords:existence", {"keywords": ["thé"]})),
        ),
    ]  # fmt: skip
    assert type(read_ifeval(str(path))[1].constraints[0][1]["num_words"]) is int


def test_an_id_may_stand_twice_as_it_does_in_the_released_file(written):
    bounds = [{"relation": "at least", "num_words": 100}, {"relation": "less than", "num_words": 121}]
    path = written({**ROW, "instruction_id_list": ["length_constraints:number_words"] * 2, "kwargs": bounds})
    assert read_ifeval(path)[0].constraints == tuple(("length_constraints:number_words", args) for args in bounds)


def test_a_mark_at_the_front_blank_lines_and_windows_line_ends_are_passed_over(written):
    path = written(
        b"\xef\xbb\xbf" + json.dumps(ROW).encode() + b"\r", b"", b" \t\r", json.dumps({**ROW, "key": 8}).encode()
    )
    assert [item.key for item in read_ifeval(path)] == ["7", "8"]


def _with(**changes):
    return {**ROW, **changes}


def _without(name):
    return {key: value for key, value in ROW.items() if key != name}


def _bounded(**args):
    return _with(instruction_id_list=["length_constraints:number_words"], kwargs=[args])


@pytest.mark.parametrize(
    ("row", "message"),
    [
        (b"{'key': 1}", "Invalid JSON: key must be a string"),
        (b"[" * 100_000, "Invalid JSON: recursion limit exceeded"),
        (b'{"key": "\xff"}', "Invalid JSON: invalid unicode code point"),
        ([1], "Input should be an object"),
        *((_without(name), f'"{name}": Field required') for name in ROW),
        (_with(key=True), '"key": Input should be a valid string'),
        (_with(key=1.5), '"key": Input should be a valid string'),
        (_with(key=""), '"key": String should have at least 1 character'),
        (_with(prompt=" \n"), '"prompt": String should match pattern'),
        (_with(prompt=None), '"prompt": Input should be a valid string'),
        (_with(instruction_id_list=[], kwargs=[]), '"instruction_id_list": List should have at least 1 item'),
        (_with(instruction_id_list="punctuation:no_comma"), '"instruction_id_list": Input should be a valid array'),
        (_with(kwargs={}), '"kwargs": Input should be a valid array'),
        (_with(kwargs=[None]), '"kwargs": Input should be an object'),
        (_with(kwargs=[{}, {}]), '"instruction_id_list" has 1 entries and "kwargs" has 2'),
        (_with(instruction_id_list=["punctuation:no_commas"]), "no such id; did you mean 'punctuation:no_comma'"),
        (_with(instruction_id_list=[3]), '"instruction_id_list": Input should be a valid string'),
        (_bounded(relation="at least", num_words=None), "constraint length_constraints:number_words: num_words is missing"),
        (_bounded(relation="at least", num_words=0), "num_words must be a whole number from 1 to 10000, got 0"),
        (_bounded(relation="at least", num_words=2.5), "num_words must be a whole number from 1 to 10000, got 2.5"),
        (_bounded(relation="around", num_words=5), "relation must be 'less than' or 'at least', got 'around'"),
        (_with(kwargs=[{"x": 1}]), "punctuation:no_comma: no argument 'x'; it takes none"),
        (_with(key="6"), r'"key" \'6\' is already used on line 1'),
    ],
)  # fmt: skip
def test_a_broken_row_is_an_error_in_one_line_with_its_place(written, row, message):
    path = written(_with(key=6), b"", row)
    with pytest.raises(DataError, match=message) as raised:
        read_ifeval(path)
    assert str(raised.value).startswith(f"{path}:3: ")
    assert "\n" not in str(raised.value)


def test_a_file_that_is_missing_a_folder_or_empty_is_named(written, tmp_path):
    with pytest.raises(DataError, match=r"none.jsonl: cannot be read \(No such file or directory\)"):
        read_ifeval(tmp_path / "none.jsonl")
    with pytest.raises(DataError, match="cannot be read"):
        read_ifeval(tmp_path)
    with pytest.raises(DataError, match=r"input_data.jsonl: the file has no rows; expected"):
        read_ifeval(written(b"", b" "))
