"""The command `kiloset review`: its link, its end, and the runs that it refuses."""

import json
import re
import signal
import stat
import subprocess
import sys

import polars as pl
import pytest

from kiloset.core.errors import DataError
from kiloset.core.run import RunFolder
from kiloset.review.launch import _listener, check_untouched, ending
from kiloset.review.rows import overlaid, read_rows
from tests import fake_run
from tests.paths import ROOT
from tests.test_review_server import folder, send, served, serving  # noqa: F401


def test_a_set_edited_by_hand_is_refused_in_one_line(folder):  # noqa: F811
    check_untouched(folder)
    for content in (folder.curated.read_text() + "\n", ""):
        folder.curated.write_text(content)
        with pytest.raises(DataError) as error:
            check_untouched(folder)
        assert error.value.code == "KS703"


def test_the_last_message_counts_the_current_decisions(served):  # noqa: F811
    client, file = served
    assert ending(file) == "no decisions"
    send(client, id="g000", version="0", verdict="accept")
    assert ending(file) == "1 decision (1 accepted); `kiloset dataset` applies it"
    send(client, id="g001", version="0", verdict="reject")
    send(client, id="g002", version="0", verdict="reject")
    send(client, id="g002", version="1", verdict="undo")
    assert ending(file) == "2 decisions (1 accepted, 1 rejected); `kiloset dataset` applies them"


def test_the_next_run_applies_the_decisions_and_the_page_shows_them_again(finished):
    run = RunFolder(finished)
    rows = read_rows(run)
    kept, gone = (rows.table.filter(part=part, source="generated") for part in ("set", "dropped"))
    edited, rejected, answered = kept["id"].head(3)
    back = gone.filter(reason="over_quota")["id"][0]
    client, file = serving(run)
    send(
        client, id=edited, version="0", verdict="accept", instruction="Write two plus two as a word.", response="Four."
    )
    send(client, id=rejected, version="0", verdict="reject", reason="false")
    send(client, id=answered, version="0", verdict="accept", response="Another answer of mine.")
    send(client, id=back, version="0", verdict="accept")
    decisions = file.decisions
    client.lock.__exit__(None, None, None)
    fake_run.run(finished)
    lines = {line["id"]: line["messages"] for line in map(json.loads, run.curated.read_text().splitlines())}
    assert (lines[edited][0]["content"].split("\n")[0], lines[edited][1]["content"]) == (
        "Write two plus two as a word.",
        "Four.",
    )
    assert lines[answered][1]["content"] == "Another answer of mine."
    assert back in lines
    assert rejected not in lines
    again = read_rows(run)
    assert again.valid(decisions) == decisions
    task = ("id", "instruction", "input", "category")  # a rewritten answer may be the original one again
    before, after = (
        each.table.filter(pl.col("id").is_in([edited, rejected, back])).select(task).sort("id")
        for each in (rows, again)
    )
    assert before.equals(after)
    states = dict(overlaid(again, decisions).select("id", "state").iter_rows())
    assert [states[id] for id in (edited, rejected, answered, back)] == ["edited", "rejected", "edited", "accepted"]


def start(folder, *more):  # noqa: F811
    command = [
        sys.executable,
        "-m",
        "kiloset",
        "review",
        "--runs",
        folder.path.parent,
        "--run",
        folder.path.name,
        "--no-open",
        *more,
    ]
    return subprocess.Popen(
        list(map(str, command)), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=ROOT
    )


def test_the_command_prints_one_link_keeps_it_and_ends_on_ctrl_c(folder):  # noqa: F811
    links = []
    for _ in range(2):
        process = start(folder)
        links.append(process.stdout.readline())
        second = start(folder)
        assert (second.wait(60), second.stdout.read()) == (2, "")
        assert "another review of this run is open" in second.stderr.read()
        process.send_signal(signal.SIGINT)
        output, faults = process.communicate(timeout=30)
        assert (process.returncode, output, faults) == (0, "no decisions\n", "")
    assert links[0] == links[1]
    assert re.fullmatch(
        r"demo: the review is at http://127\.0\.0\.1:\d+/\?token=[\w-]{43} \(Ctrl-C ends it\)\n", links[0]
    )
    kept = folder.path / ".review-token"
    assert stat.S_IMODE(kept.stat().st_mode) == 0o600


def test_ctrl_c_directly_after_the_link_ends_it_as_well(folder):  # noqa: F811
    for _ in range(3):
        process = start(folder)
        assert "the review is at" in process.stdout.readline()
        process.send_signal(signal.SIGINT)
        output, faults = process.communicate(timeout=30)
        assert (process.returncode, output, faults) == (0, "no decisions\n", "")


@pytest.mark.parametrize("fault", ["unfinished", "edited", "port"])
def test_a_run_that_cannot_be_reviewed_is_refused_in_one_line_with_status_2(folder, fault):  # noqa: F811
    more = []
    taken = _listener(None, 0)
    if fault == "unfinished":
        folder.curated.unlink()
    elif fault == "edited":
        folder.curated.write_text(folder.curated.read_text() + "\n")
    else:
        more = ["--port", str(taken.getsockname()[1])]
    process = start(folder, *more)
    output, faults = process.communicate(timeout=60)
    taken.close()
    assert (process.returncode, output) == (2, "")
    assert len(faults.splitlines()) == 1
    assert {"unfinished": "the run is not finished", "edited": "was edited by hand", "port": "cannot be used"}[
        fault
    ] in faults
