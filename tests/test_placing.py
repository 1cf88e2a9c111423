"""A folder that takes the place of our own untouched work, and of nothing else."""

import json
import os
import shutil
import threading

import pytest
from datasets import load_from_disk

from kiloset.core.errors import DataError
from kiloset.publish import placing
from kiloset.publish.export import LAYOUTS
from kiloset.publish.placing import MARKER, put_in_place
from tests.test_export import (
    curated_of,
    exported,
    hard,  # noqa: F401  a fixture
    sides_of,
    write_lines,
)

MADE = {"run": "mine", "format": "messages"}


def filled(target, text="ours", settings=MADE):
    def write(place):
        (place / "deep").mkdir()
        (place / "train.jsonl").write_text(text)
        (place / "deep" / "more.txt").write_text(text * 2)

    return put_in_place(target, settings, write)


def contents(place):
    return {path.relative_to(place).as_posix(): path.read_bytes() for path in place.rglob("*") if path.is_file()}


def refuse(target, message, settings=MADE):
    """Try to put something at `target`; it must be refused, and nothing be other than before."""
    before = contents(target.parent)
    with pytest.raises(DataError, match=message) as raised:
        placing.check_place(target, target, settings)
    assert "\n" not in str(raised.value)
    assert str(raised.value).endswith("with --out (make: OUT=)")
    with pytest.raises(DataError, match=f"{target.name}: "):  # also by whoever did not look first
        filled(target, "new", settings)
    assert contents(target.parent) == before


def test_what_we_wrote_and_nobody_touched_is_replaced_whole(tmp_path):
    assert filled(tmp_path / "a") is False
    assert filled(tmp_path / "a", "new") is True
    assert contents(tmp_path / "a") | {MARKER: b""} == {"train.jsonl": b"new", "deep/more.txt": b"newnew", MARKER: b""}
    assert [path.name for path in tmp_path.iterdir()] == ["a"]


def test_an_empty_folder_is_filled_and_a_moved_export_is_still_ours(tmp_path):
    (tmp_path / "a").mkdir()
    assert filled(tmp_path / "a") is False
    (tmp_path / "a").rename(tmp_path / "b")
    assert filled(tmp_path / "b") is True


def test_whatever_a_hand_did_to_it_is_kept(tmp_path):
    def edit(place):
        (place / "train.jsonl").write_text("Ours")

    def lose(place):
        (place / "deep" / "more.txt").unlink()

    def add(place):
        (place / "deep" / "notes.txt").write_text("")

    def link(place):
        (place / "deep" / "more.txt").rename(place.parent / "elsewhere")  # the same bytes, but not ours to delete
        (place / "deep" / "more.txt").symlink_to(place.parent / "elsewhere")

    def link_away(place):
        (place / "there").symlink_to(place.parent)

    for change, name in (
        (edit, "'train.jsonl'"), (lose, "'deep/more.txt'"), (add, "'deep/notes.txt'"), (link, "'deep/more.txt'"), (link_away, "'there'"),
    ):  # fmt: skip
        filled(tmp_path / change.__name__)
        change(tmp_path / change.__name__)
        refuse(tmp_path / change.__name__, rf"{change.__name__}: changed by hand since it was exported \({name}\);")
    edit(tmp_path / "add")
    refuse(tmp_path / "add", r"add: changed by hand since it was exported \('deep/notes\.txt' and 1 more\);")


def test_what_is_not_ours_is_left_alone(tmp_path):
    (tmp_path / "file").write_text("x")
    (tmp_path / "theirs").mkdir()
    (tmp_path / "theirs" / "thesis.txt").write_text("x")
    filled(tmp_path / "real")
    (tmp_path / "link").symlink_to(tmp_path / "real")
    (tmp_path / "dangling").symlink_to(tmp_path / "nowhere")
    for name in ("file", "theirs", "link", "dangling"):
        refuse(tmp_path / name, f"{name}: exists already and is not an export;")
    for number, broken in enumerate(("", "[]", '{"sha256": 3}', "\ufeff{", "[" * 100_000)):
        shutil.copytree(tmp_path / "real", tmp_path / f"broken-{number}")
        (tmp_path / f"broken-{number}" / MARKER).write_text(broken)
        refuse(tmp_path / f"broken-{number}", "exists already and is not an export;")


def test_an_export_of_another_run_or_format_is_left_alone(tmp_path):
    filled(tmp_path / "a")
    refuse(tmp_path / "a", "a: is an export already, of run 'mine';", {**MADE, "run": "other"})
    refuse(tmp_path / "a", "of format 'messages';", {**MADE, "format": "hf"})
    refuse(tmp_path / "a", "of run 'mine' and format 'messages';", {"run": "x", "format": "hf"})


def test_an_edit_made_while_the_new_one_is_written_is_kept(tmp_path):
    filled(tmp_path / "a")

    def write(place):
        (place / "train.jsonl").write_text("new")
        (tmp_path / "a" / "train.jsonl").write_text("edited meanwhile")

    with pytest.raises(DataError, match="a: changed by hand"):
        put_in_place(tmp_path / "a", MADE, write)
    assert contents(tmp_path / "a")["train.jsonl"] == b"edited meanwhile"
    assert [path.name for path in tmp_path.iterdir()] == ["a"]


def test_a_failure_leaves_the_old_one(tmp_path, monkeypatch):
    filled(tmp_path / "a")
    before = contents(tmp_path)

    def fail(*_):
        raise OSError(28, "No space left on device")

    with pytest.raises(DataError, match=r"cannot be written \(No space left"):
        put_in_place(tmp_path / "a", MADE, fail)
    monkeypatch.setattr(placing, "_exchange", fail)
    with pytest.raises(DataError, match=r"cannot be written \(No space left"):
        filled(tmp_path / "a", "new")
    assert contents(tmp_path) == before


def test_a_reader_finds_the_old_one_or_the_new_one_at_any_moment(tmp_path):
    filled(tmp_path / "a", "0")
    done, seen, missed = threading.Event(), set(), []

    def look():
        while not done.is_set():
            try:
                seen.add((tmp_path / "a" / "train.jsonl").read_text())
            except FileNotFoundError as error:
                missed.append(error)

    reader = threading.Thread(target=look)
    reader.start()
    for number in range(300):
        filled(tmp_path / "a", f"{number}")
    done.set()
    reader.join()
    assert not missed
    assert len(seen) > 3
    assert seen <= {str(number) for number in range(300)}


def test_where_folders_cannot_be_exchanged_in_one_step_they_are_renamed(tmp_path, monkeypatch):
    monkeypatch.setattr(placing.ctypes, "CDLL", lambda _: object())
    filled(tmp_path / "a")
    assert filled(tmp_path / "a", "new") is True
    assert contents(tmp_path / "a")["train.jsonl"] == b"new"
    assert [path.name for path in tmp_path.iterdir()] == ["a"]
    rename, calls = os.rename, []

    def fail_at_second(source, target):
        calls.append(target)
        if len(calls) == 2:
            raise OSError(5, "Input/output error")
        rename(source, target)

    monkeypatch.setattr(os, "rename", fail_at_second)
    with pytest.raises(DataError, match=r"cannot be written \(Input/output error\)"):
        filled(tmp_path / "a", "newer")
    assert contents(tmp_path / "a")["train.jsonl"] == b"new"
    assert [path.name for path in tmp_path.iterdir()] == ["a"]


@pytest.mark.parametrize("layout", LAYOUTS)
def test_every_layout_is_replaced_after_an_edit_of_the_set(hard, layout):  # noqa: F811
    assert exported(hard, layout).replaced is False
    first = contents(hard.path / f"export-{layout}")
    lines = curated_of(hard)
    lines[1]["messages"][1]["content"] = "Edited."
    write_lines(hard, lines)
    assert exported(hard, layout).replaced is True
    assert contents(hard.path / f"export-{layout}") != first
    assert json.loads((hard.path / f"export-{layout}" / MARKER).read_text())["run"] == "mine"


def test_what_datasets_keeps_beside_its_rows_is_no_edit(hard):  # noqa: F811
    place = exported(hard, "hf").folder
    load_from_disk(str(place))["train"].map(lambda row: {"length": len(row["id"])})
    assert list(place.rglob("cache-*.arrow"))
    assert exported(hard, "hf").replaced is True
    assert not list(place.rglob("cache-*.arrow"))


def test_an_export_with_other_shares_replaces_one(hard):  # noqa: F811
    exported(hard, "messages", 0.3)
    assert exported(hard, "messages", 0).replaced is True
    assert set(sides_of(hard.path / "export-messages").values()) == {"train"}
