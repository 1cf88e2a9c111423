"""The next run after a review: it applies the decisions to the set."""

import json
import shutil
from contextlib import closing

import polars as pl
import pytest

from kiloset.core.calls import CallStore
from kiloset.core.review import Decision, open_review_file, task_digest
from kiloset.core.run import RunFolder
from kiloset.generator.settings import PURPOSES
from kiloset.review.apply import _settled
from tests import fake_run
from tests.fake_run import TABLE

TIME = "2026-11-26T12:00:00+00:00"


@pytest.fixture
def folder(finished):
    return RunFolder(finished)


def _set(folder):
    rows = [json.loads(line) for line in folder.curated.read_text(encoding="utf-8").splitlines()]
    return {row["id"]: row for row in rows}


def _kept(folder):
    return {row["id"]: row for row in folder.stages()[-1][1].iter_rows(named=True)}


def _dropped(folder):
    return {row["id"]: row for row in folder.dropped().iter_rows(named=True)}


def _decide(folder, row, verdict="accept", reason="", **texts):
    columns = {name: row[name] for name in ("instruction", "input", "response", "category")} | texts
    columns = columns if verdict == "accept" else {}
    with open_review_file(folder.review) as file:
        decision = Decision(row["id"], verdict, task_digest(row["instruction"], row["input"]), TIME, reason, **columns)
        assert file.append(decision, file.version(row["id"]))


def _again(folder, **changes):
    return fake_run.run(folder.path, table={**TABLE, **changes})


def _sent(folder):
    with closing(CallStore.read_only(folder.calls)) as store:
        return store.spent(PURPOSES)[0]


def test_a_rejected_row_is_replaced_and_the_others_stay(folder):
    before, sent = _kept(folder), _sent(folder)
    row = next(iter(before.values()))
    _decide(folder, row, "reject", "false")
    result = _again(folder)
    after = _kept(folder)
    assert len(after) == len(before) == 12
    assert row["id"] not in after
    assert len(before.keys() & after.keys()) == 11
    gone = _dropped(folder)[row["id"]]
    assert (gone["stage"], gone["reason"], gone["evidence"]) == (
        "select", "rejected_in_review", "rejected in review: false",
    )  # fmt: skip
    assert result.review.rejected == 1
    assert result.review.accepted == 0
    assert _sent(folder) == sent  # a spare row took its place
    assert set(_set(folder)) == set(after)


def test_more_rows_are_requested_when_no_spare_row_remains(folder):
    sent, rejected = _sent(folder), set()
    while _sent(folder) == sent:
        now = _kept(folder)
        assert not rejected & now.keys()
        assert len(now) == 12
        for row in now.values():
            _decide(folder, row, "reject", "no task")
        rejected |= now.keys()
        result = _again(folder, generate={**TABLE["generate"], "max_waves": 40})
    assert not rejected & _kept(folder).keys()
    assert result.rows == 12
    assert result.review.rejected == len(rejected) > 12


def test_an_edit_becomes_the_response_and_is_measured(folder):
    row = next(row for row in _kept(folder).values() if row["response_source"] == "reference")
    _decide(folder, row, response="Quite another answer, by hand.")
    result = _again(folder)
    after = _kept(folder)[row["id"]]
    assert _set(folder)[row["id"]]["messages"][-1]["content"] == "Quite another answer, by hand."
    assert (after["response_source"], after["review"]) == ("reviewer", "edited")
    assert after["original_response"] == row["response"]
    assert after["surprisal"] != row["surprisal"]
    assert after["fit_gain"] == pytest.approx(after["reference_surprisal"] - after["surprisal"], abs=1e-4)
    assert (result.review.accepted, result.review.edited) == (1, 1)


def test_an_edited_task_keeps_its_answer_from_being_rewritten(folder):
    row = next(iter(_kept(folder).values()))
    _decide(folder, row, instruction="Name a river of Asia.", input="", response="The Mekong.")
    _again(folder)
    after = _kept(folder)[row["id"]]
    assert (after["instruction"], after["input"], after["response"]) == ("Name a river of Asia.", "", "The Mekong.")
    assert (after["response_reason"], after["review"], after["constraints"]) == ("edited", "edited", [])
    turns = [turn["content"] for turn in _set(folder)[row["id"]]["messages"]]
    assert turns == ["Name a river of Asia.", "The Mekong."]


def test_an_accepted_row_stays_under_settings_that_would_drop_it(folder):
    before = _kept(folder)
    row = max(before.values(), key=lambda row: len(row["response"].split()))
    _decide(folder, row)
    other = RunFolder(shutil.copytree(folder.path, folder.path.parent / "other"))
    other.config.unlink()
    limit = {"rules": {"max_response_words": len(row["response"].split()) - 1}}
    _again(other, **limit)
    after = _kept(other)
    assert after[row["id"]]["response"] == row["response"]
    assert after[row["id"]]["called_back"] == "rules/response_too_long"
    other.review.unlink()
    _again(other, **limit)
    assert row["id"] not in _kept(other)


def test_a_dropped_row_can_be_called_back_from_every_stage_before_selection_and_from_selection(folder):
    ledger = folder.dropped().filter(pl.col("category").is_in(["maths", "open_qa", "summarising"]))
    first = ledger.filter(pl.col("source") == "generated").group_by("stage", "reason").first()
    assert {"generate", "select", "style"} <= set(first["stage"])
    for row in first.iter_rows(named=True):
        _decide(folder, row, response=row["response"] or "An answer.", instruction=row["instruction"] or "A task.")
    result = _again(folder)
    after = _kept(folder)
    assert set(first["id"]) <= set(after)
    assert not set(first["id"]) & set(_dropped(folder))
    assert result.review.accepted == first.height
    early = first.filter(~pl.col("stage").is_in(["select", "style"]))
    assert result.review.called_back == early.height > 0
    assert result.rows == 12 + result.review.beyond


def test_rows_accepted_beyond_a_target_enlarge_the_set_and_leave_no_other_category_short(folder):
    rows = folder.dropped().filter((pl.col("category") == "maths") & (pl.col("response") != "")).head(6)
    assert rows.height == 6
    wanted = folder.manifest["target"]["maths"]
    for row in rows.iter_rows(named=True):
        _decide(folder, row)
    result = _again(folder)
    assert wanted < 6
    assert result.got["maths"] == 6
    assert result.review.beyond == 6 - wanted
    assert result.rows == 12 + result.review.beyond
    assert result.shortfall == {}


def test_a_relabelled_row_counts_in_its_new_category(folder):
    row = next(row for row in _kept(folder).values() if row["category"] == "maths")
    _decide(folder, row, category="open_qa")
    result = _again(folder)
    after = _kept(folder)[row["id"]]
    assert (after["category"], after["category_source"]) == ("open_qa", "reviewer")
    assert result.got == folder.manifest["target"]
    assert result.review.relabelled == 1


def test_decisions_on_missing_or_changed_rows_are_reported_and_not_applied(folder):
    row = next(iter(_kept(folder).values()))
    _decide(folder, {**row, "instruction": "Another task."}, "reject")
    _decide(folder, {**row, "id": "g99999"})
    result = _again(folder)
    assert result.review.gone == tuple(sorted((row["id"], "g99999")))
    assert row["id"] in _kept(folder)
    assert folder.manifest["review"]["gone"] == list(result.review.gone)


def test_undoing_all_decisions_restores_the_set_to_the_byte(folder):
    before = folder.curated.read_bytes()
    rows = list(_kept(folder).values())
    _decide(folder, rows[0], "reject")
    _decide(folder, rows[1], response="By hand.")
    _again(folder)
    assert folder.curated.read_bytes() != before
    for row in rows[:2]:
        _decide(folder, row, "undo")
    result = _again(folder)
    assert folder.curated.read_bytes() == before
    assert result.review is None


def test_the_same_decisions_and_completions_give_the_same_bytes(folder, tmp_path):
    rows = list(_kept(folder).values())
    _decide(folder, rows[0], "reject")
    _decide(folder, rows[1], response="By hand.", category="maths")
    other = RunFolder(tmp_path / "other")
    other.path.mkdir()
    _again(folder)
    shutil.copy(folder.review, other.review)
    with closing(CallStore.read_only(folder.calls)) as store:
        store.copy_to(other.calls)
    _again(other)
    for name in ("curated.jsonl", "dropped.parquet", "12-review.parquet"):
        assert (other.path / name).read_bytes() == (folder.path / name).read_bytes()


def test_a_constraint_that_an_edit_breaks_is_no_longer_claimed(folder):
    row = next(iter(_kept(folder).values()))
    comma = {"id": "punctuation:no_comma", "args": "{}"}
    title = {"id": "detectable_format:title", "args": "{}"}
    decision = Decision(row["id"], "accept", "", TIME, response="<<A>> one, two")
    assert _settled({**row, "constraints": [comma, title]}, decision)["constraints"] == [title]
