import json
import os
import subprocess
import sys

import polars as pl
import pytest

from core.calls import CallStore
from core.errors import ConfigError, EmptyError
from core.run import RunFolder
from kiloset.pipeline import STAGES
from kiloset.settings import ROOT
from tests import fake_run
from tests.fake_run import FakeModels, Halt, Moments


def _bytes(folder):
    """The bytes of everything a run promises to repeat: not the clock in the manifest, not the database's pages."""
    files = sorted([*folder.glob("*.parquet"), folder / "curated.jsonl", folder / "config.toml"])
    return {file.name: file.read_bytes() for file in files}


def _curated(folder):
    return [json.loads(line) for line in (folder / "curated.jsonl").read_text(encoding="utf-8").splitlines()]


def _halted(folder, at, monkeypatch):
    """Run until moment `at`, where it stops dead; return whether it came that far."""

    def stop():
        raise Halt

    moments = Moments(at, stop)
    with monkeypatch.context() as patch:
        patch.setattr(os, "replace", os.replace)
        fake_run.count_renames(moments)
        try:
            fake_run.run(folder, moments=moments)
        except Halt:
            return True
    return False


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs") / "whole"
    result = fake_run.run(folder)
    return folder, result


def test_a_run_gives_exactly_the_rows_asked_for_in_the_categories_asked_for(undisturbed):
    folder, result = undisturbed
    rows = _curated(folder)
    assert len(rows) == result.rows == 12
    assert result.shortfall == {}
    assert {row["category"] for row in rows} <= {"maths", "open_qa", "summarising"}
    assert all(row["source"] == "generated" and row["license"] == "Apache-2.0" for row in rows)
    assert sum(row["split"] == "validation" for row in rows) == 3
    assert all([turn["role"] for turn in row["messages"]] == ["user", "assistant"] for row in rows)


def test_every_row_ever_born_is_kept_or_dropped_exactly_once(undisturbed):
    folder, _ = undisturbed
    run = RunFolder(folder)
    born = pl.concat([pl.Series(range(1, 197)).map_elements("s{:04d}".format, return_dtype=pl.String)])
    ledger, (_, last) = run.dropped(), run.stages()[-1]
    everything = ledger["id"].to_list() + last["id"].to_list()
    assert len(everything) == len(set(everything))
    assert set(born) <= set(everything)
    numbers = sorted(int(id[1:]) for id in everything if id.startswith("g"))
    assert numbers == list(range(1, len(numbers) + 1))
    assert ledger["reason"].null_count() == ledger["evidence"].null_count() == 0


def test_the_manifest_adds_up(undisturbed):
    folder, _ = undisturbed
    stages = RunFolder(folder).manifest["stages"]
    assert list(stages) == [stage.name for stage in STAGES]
    before = 0
    for stage in stages.values():
        assert stage["in"] == before
        assert stage["in"] + stage["born"] == stage["kept"] + sum(stage["dropped"].values())
        before = stage["kept"]


def test_the_same_run_twice_gives_the_same_bytes(undisturbed, tmp_path):
    folder, _ = undisturbed
    fake_run.run(tmp_path / "again")
    assert _bytes(tmp_path / "again") == _bytes(folder)


def test_running_again_sends_nothing_and_changes_nothing(undisturbed):
    folder, _ = undisturbed
    before, models = _bytes(folder), FakeModels(Moments(1, lambda: pytest.fail("a model was used")))
    fake_run.run(folder, models=models)
    assert _bytes(folder) == before


def test_a_run_halted_at_any_moment_continues_to_the_same_bytes_and_pays_nothing_twice(
    undisturbed, tmp_path, monkeypatch
):
    folder, _ = undisturbed
    total = Moments()
    with monkeypatch.context() as patch:
        patch.setattr(os, "replace", os.replace)
        fake_run.count_renames(total)
        fake_run.run(tmp_path / "count", moments=total)
    for at in range(1, total.count, max(1, total.count // 7)):
        here = tmp_path / f"halted-{at}"
        assert _halted(here, at, monkeypatch)
        fake_run.run(here)
        assert _bytes(here) == _bytes(folder), f"halted at moment {at} of {total.count}"
        store = CallStore(here / "calls.sqlite")
        assert store.resent_after_completion() == 0
        store.close()


@pytest.mark.parametrize("part", [0.15, 0.5, 0.9])
def test_a_run_killed_with_sigkill_continues_to_the_same_bytes(undisturbed, tmp_path, part):
    folder, _ = undisturbed
    here = tmp_path / "killed"
    store = CallStore(folder / "calls.sqlite")
    total = sum(purpose["completed"] for purpose in store.account().values())
    store.close()
    command = [sys.executable, "-m", "tests.fake_run", str(here), str(int(total * part))]
    ran = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert ran.returncode == -9, ran.stderr
    fake_run.run(here)
    assert _bytes(here) == _bytes(folder)


def test_a_torn_stage_file_is_made_anew(undisturbed, tmp_path):
    folder, _ = undisturbed
    here = tmp_path / "torn"
    fake_run.run(here)
    whole = (here / "04-near_duplicates.parquet").read_bytes()
    (here / "04-near_duplicates.parquet").write_bytes(whole[: len(whole) // 2])
    fake_run.run(here)
    assert _bytes(here) == _bytes(folder)


def test_a_set_edited_by_hand_is_left_as_it_is(tmp_path):
    fake_run.run(tmp_path / "r")
    file = tmp_path / "r" / "curated.jsonl"
    edited = "\n".join(file.read_text(encoding="utf-8").splitlines()[:5]) + "\n"
    file.write_text(edited, encoding="utf-8")
    assert fake_run.run(tmp_path / "r").edited
    assert file.read_text(encoding="utf-8") == edited
    file.unlink()
    assert not fake_run.run(tmp_path / "r").edited
    assert len(_curated(tmp_path / "r")) == 12


def test_a_folder_of_another_config_is_refused(undisturbed):
    folder, _ = undisturbed
    other = {**fake_run.TABLE, "run": {"size": 13, "validation": 0.25}}
    with pytest.raises(ConfigError, match=r"another config: \[run\] size = 12 there, 13 here"):
        fake_run.run(folder, table=other)


def test_a_budget_too_small_still_writes_the_set_and_names_what_is_short(tmp_path):
    short = {**fake_run.TABLE, "generate": {"max_requests": 24}}
    result = fake_run.run(tmp_path / "short", table=short)
    assert 0 < result.rows < 12
    assert sum(result.shortfall.values()) >= 12 - result.rows
    assert len(_curated(tmp_path / "short")) == result.rows


def test_nothing_accepted_is_an_error_that_names_the_reasons(tmp_path):
    nothing = {**fake_run.TABLE, "generate": {"max_requests": 1}}
    with pytest.raises(EmptyError, match="no row was accepted; dropped: balance/seed_kept_apart 196"):
        fake_run.run(tmp_path / "nothing", table=nothing)


def test_seeds_can_be_part_of_the_set(tmp_path):
    table = {**fake_run.TABLE, "seeds": {**fake_run.TABLE["seeds"], "in_set": True}, "generate": {"enabled": False}}
    fake_run.run(tmp_path / "seeds", table=table)
    assert {row["source"] for row in _curated(tmp_path / "seeds")} == {"seed"}


def test_a_pool_is_selected_from_without_generating(tmp_path):
    pool = tmp_path / "pool.jsonl"
    texts = ["Name a river in {}.", "What grows in {}?", "How tall is the tower of {}?"]
    places = ["Peru", "Chad", "Oslo", "Lima", "Graz", "Bonn", "Kyiv", "Turin"]
    lines = [
        {"instruction": text.format(place), "input": "", "output": f"An answer about {place}, number {n}."}
        for n, place in enumerate(places)
        for text in texts
    ]
    pool.write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")
    table = {
        **fake_run.TABLE,
        "run": {"size": 6},
        "pool": {"path": str(pool), "license": "CC-BY-SA-3.0"},
        "generate": {"enabled": False},
        "categories": {"target": "candidates", "fill": True},
        "rewrite": {"enabled": False},
    }
    models = FakeModels()
    fake_run.run(tmp_path / "run", table=table, models=models)
    rows = _curated(tmp_path / "run")
    assert len(rows) == 6
    assert all(row["source"] == "pool" and row["license"] == "CC-BY-SA-3.0" for row in rows)
    assert models.engine.sent == []
