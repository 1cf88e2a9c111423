"""The benchmark of the writer model: its arithmetic, on a store written by hand, and on a finished run."""

import importlib
import subprocess
import sys
from contextlib import closing
from dataclasses import replace

import pytest

from kiloset.core.calls import CallStore
from kiloset.core.models import Completion, Request
from kiloset.core.run import RunFolder
from tests.paths import ROOT

REQUEST = Request("Say hi", "instruction", 60, 0.8, 0.9)


@pytest.fixture
def writer(monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    return importlib.import_module("writer")


@pytest.fixture
def run(tmp_path):
    """A run of 4 rows: 2 requests for instructions, one for a response, and one for a rewrite, which does not count."""
    folder = RunFolder(tmp_path / "r")
    folder.create()
    calls = [
        ("instruction", 100, 20, 64),
        ("instruction", 100, 30, 0),
        ("response", 40, 210, 16),
        ("plain", 999, 999, 9),
    ]
    with closing(CallStore(folder.calls)) as store:
        for number, (purpose, prompt, written, cached) in enumerate(calls):
            request = replace(REQUEST, purpose=purpose, sample=number)
            completion = Completion("text", "stop", prompt, written, cached_tokens=cached)
            store.add("m", request.key("m"), request, completion)
    folder.curated.write_text("{}\n" * 4, encoding="utf-8")
    folder.stage_file(2, "generate").write_bytes(b"")
    generate = {"seconds": 10.0, "total_seconds": 80.0}
    folder.update_manifest({"stages": {"generate": generate}, "peak_memory_gib": 3.25, "preview": {"seconds": 40.0}})
    return folder


def test_the_figures_follow_from_the_store_and_the_manifest(writer, run, capsys):
    writer.print_cost(writer.writer_cost(run))
    lines = capsys.readouterr().out.splitlines()
    assert lines == [
        "instruction: 2 requests, 200 prompt tokens, 64 of them cached, 50 written tokens",
        "response: 1 requests, 40 prompt tokens, 16 of them cached, 210 written tokens",
        "figure prompt_tokens 240 tokens",
        "figure cached_tokens 80 tokens",
        "figure written_tokens 260 tokens",
        "figure accepted_rows 4 rows",
        "figure generate_minutes 2.00 minutes",
        "figure tokens_per_accepted_row 105.0 tokens",
        "figure tokens_per_accepted_row_with_cached 125.0 tokens",
        "figure accepted_rows_per_minute 2.00 rows/minute",
        "figure peak_memory 3.25 GiB",
    ]


def test_a_run_that_is_not_finished_is_refused_in_one_line(writer, run):
    run.curated.unlink()
    with pytest.raises(writer.UnfinishedRunError, match="is not finished"):
        writer.writer_cost(run)


def test_the_command_reads_a_finished_run(undisturbed):
    script = ROOT / "benchmarks" / "writer.py"
    ran = subprocess.run([sys.executable, script, undisturbed[0]], capture_output=True, text=True, cwd=ROOT)
    assert (ran.returncode, ran.stderr) == (0, "")
    figures = {
        line.split()[1]: float(line.split()[2]) for line in ran.stdout.splitlines() if line.startswith("figure ")
    }
    assert figures["accepted_rows"] == 12
    assert figures["cached_tokens"] == 0
    assert figures["tokens_per_accepted_row"] == figures["tokens_per_accepted_row_with_cached"] > 0
    assert figures["accepted_rows_per_minute"] > 0
    assert 0.05 < figures["peak_memory"] < 64
    ran = subprocess.run([sys.executable, script, undisturbed[0] / "none"], capture_output=True, text=True, cwd=ROOT)
    assert (ran.returncode, len(ran.stderr.splitlines())) == (1, 1)
