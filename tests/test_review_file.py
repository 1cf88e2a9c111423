"""Decisions of a review: which are current, which a kill leaves, which process may write."""

import json
import subprocess
import sys

import pytest

from kiloset.core.errors import DataError
from kiloset.core.review import Decision, ReviewFile, open_review_file, read_decisions, task_digest


def _accept(id, response="Yes."):
    return Decision(id, "accept", task_digest("Is it?", ""), "2026-11-26", "", "Is it?", "", response, "qa")


def _one(id, verdict):
    return Decision(id, verdict, task_digest("Is it?", ""), "2026-11-26")


def test_the_last_decision_is_current_and_each_undo_revokes_one(tmp_path):
    path = tmp_path / "review.jsonl"
    with open_review_file(path) as file:
        assert file.append(_accept("a"), 0)
        assert file.append(_one("a", "reject"), 1)
        assert file.append(_accept("b"), 0)
        assert read_decisions(path)["a"].verdict == "reject"
        assert file.append(_one("a", "undo"), 2)
        assert file.decision("a") == _accept("a")
        assert file.append(_one("a", "undo"), 3)
        assert file.append(_one("a", "undo"), 4)  # no decision remains to revoke
        assert file.decision("a") is None
        assert file.decisions == {"b": _accept("b")}
    assert ReviewFile(path).decisions == read_decisions(path) == {"b": _accept("b")}
    assert len(path.read_text().splitlines()) == 6


def test_a_window_that_has_not_seen_the_last_decision_does_not_overwrite_it(tmp_path):
    path = tmp_path / "review.jsonl"
    with open_review_file(path) as file:
        assert file.append(_accept("a", "first"), 0)
        before = path.read_bytes()
        assert not file.append(_accept("a", "second"), 0)
        assert path.read_bytes() == before
        assert file.decision("a").response == "first"


@pytest.mark.parametrize("cut", [1, 10, 60])
def test_an_unfinished_line_is_ignored_and_deleted_before_the_next(tmp_path, cut):
    path = tmp_path / "review.jsonl"
    with open_review_file(path) as file:
        file.append(_accept("a"), 0)
        file.append(_accept("b"), 0)
    path.write_bytes(path.read_bytes()[:-cut])
    assert list(read_decisions(path)) == ["a"]
    with open_review_file(path) as file:
        assert file.append(_accept("c"), 0)
    assert list(read_decisions(path)) == ["a", "c"]


def test_only_one_process_locks_the_decisions(tmp_path):
    path = tmp_path / "review.jsonl"
    code = f"from pathlib import Path; from kiloset.core.review import open_review_file\nwith open_review_file(Path({str(path)!r})): print('held')"
    with open_review_file(path):
        ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
        assert "another review of this run is open" in ran.stderr
    assert "held" in subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("{", "not JSON"),
        ("[]", "must be an object"),
        ('{"id": "a", "verdict": "accept", "born": 3}', "must be an object of texts"),
        ('{"id": "a", "verdict": "keep", "born": "x"}', '"verdict" must be one of accept, reject, undo'),
        ('{"verdict": "reject", "born": "x"}', '"id" is missing'),
        ('{"id": "a", "verdict": "reject", "born": "x", "mood": "x"}', "'mood' is not known"),
        ('{"id": "a", "verdict": "accept", "born": "x", "instruction": "Do"}', 'needs its "response"'),
    ],
)
def test_a_line_that_is_no_decision_is_refused_with_its_number(tmp_path, line, message):
    path = tmp_path / "review.jsonl"
    good = json.dumps({"id": "b", "verdict": "reject", "born": "x"})
    path.write_text(f"{good}\n{line}\n")
    with pytest.raises(DataError, match=f"review.jsonl:2: .*{message}"):
        read_decisions(path)


def test_a_decision_that_cannot_be_written_has_no_effect(tmp_path):
    with open_review_file(tmp_path / "review.jsonl") as file:
        file.path = tmp_path / "gone" / "review.jsonl"
        with pytest.raises(DataError, match="cannot be written"):
            file.append(_accept("a"), 0)
        assert file.decision("a") is None
