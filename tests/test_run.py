import fcntl
import os

import polars as pl
import pytest

from kiloset.core.errors import DataError
from kiloset.core.run import RunFolder, file_sha256
from kiloset.core.table import table_of, with_verdicts
from kiloset.data.curated import is_edited, write_curated
from tests import fake_run


@pytest.fixture
def run(tmp_path):
    folder = RunFolder(tmp_path / "r")
    folder.create()
    return folder


def _split(*ids, dropped):
    table = table_of([{"id": id, "instruction": f"do {id}"} for id in ids])
    return with_verdicts(table, {id: {"reason": "why", "evidence": "so"} for id in dropped})


def _write(run, number, stage, *ids, dropped=()):
    outcome = _split(*ids, dropped=dropped)
    run.write_stage(number, stage, f"print {stage}", outcome.kept, outcome.dropped)


def test_a_finished_stage_counts_only_while_its_fingerprint_matches(run):
    _write(run, 1, "one", "a", "b", dropped=["b"])
    assert run.finished(1, "one", "print one")["id"].to_list() == ["a"]
    assert run.finished(1, "one", "another") is None
    assert run.finished(2, "two", "print two") is None


def test_a_stage_made_anew_takes_later_stages_and_their_drops_with_it(run):
    _write(run, 1, "one", "a", "b", "c", dropped=["b"])
    _write(run, 2, "two", "a", "c", dropped=["c"])
    _write(run, 1, "one", "a", "b", "c", dropped=["a"])
    assert [stage for stage, _ in run.stages()] == ["one"]
    assert run.dropped().select("id", "stage").rows() == [("a", "one")]


@pytest.mark.parametrize("damage", ["missing", "torn", "changed"])
def test_without_its_ledger_no_stage_counts(finished, damage):
    ledger = finished / "dropped.parquet"
    whole = ledger.read_bytes()
    if damage == "missing":
        ledger.unlink()
    elif damage == "torn":
        ledger.write_bytes(whole[: len(whole) // 2])
    else:
        pl.read_parquet(ledger).head(3).write_parquet(ledger)
    fake_run.run(finished)
    assert ledger.read_bytes() == whole
    assert "seed" not in set(RunFolder(finished).dropped()["source"])


def test_a_run_is_held_by_one_process_at_a_time(run):
    with run.lock(), pytest.raises(DataError, match="another kiloset is at work on this run"), run.lock():
        pass
    with run.lock():
        held = os.open(run.path / ".lock", os.O_RDWR)
        with pytest.raises(BlockingIOError):
            fcntl.flock(held, fcntl.LOCK_EX | fcntl.LOCK_NB)
        os.close(held)


@pytest.mark.parametrize(
    ("content", "message"),
    [("[]", "must hold an object, found list"), ("{", "not JSON"), ("null", "must hold an object, found NoneType")],
)
def test_a_broken_manifest_is_named(run, content, message):
    run.manifest_file.write_text(content)
    with pytest.raises(DataError, match=f"manifest.json: {message}"):
        _ = run.manifest


def test_a_lost_manifest_is_written_anew_and_no_edit_is_imagined(finished):
    folder = RunFolder(finished)
    stages = folder.manifest["stages"]
    folder.manifest_file.unlink()
    assert not fake_run.run(finished).edited
    assert list(folder.manifest["stages"]) == list(stages)


def test_a_kill_between_announcing_and_writing_is_no_edit_but_an_edit_is(run):
    write_curated(run, "one\n")
    announced = {"curated_sha256": "that of two", "curated_before_sha256": file_sha256(run.curated)}
    run.update_manifest(announced)
    assert not is_edited(run, "two\n")
    run.curated.write_text("by hand\n")
    assert is_edited(run, "two\n")


def test_settings_of_engine_and_training_are_those_of_the_last_call(finished):
    fake_run.run(finished, table={**fake_run.TABLE, "train": {"epochs": 9}})
    assert "epochs = 9" in (finished / "config.toml").read_text()


def test_the_manifest_names_the_code_that_ran(undisturbed):
    machine = RunFolder(undisturbed[0]).manifest["machine"]
    assert machine["packages"]["polars"] == pl.__version__
    assert "commit" not in machine or len(machine["commit"]) == 40
