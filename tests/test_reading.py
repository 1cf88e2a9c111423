"""The benchmarks that need no model of their own: drawing and scoring a blind reading, and counting subjects."""

import importlib
import json

import numpy as np
import pytest

from kiloset.core.run import RunFolder
from kiloset.core.table import table_of
from tests.paths import ROOT


@pytest.fixture
def benchmark(monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    return importlib.import_module


def run_of(path, number):
    rows = [
        {"id": f"g{n:05d}", "instruction": f"Say {path.name} {n}.", "input": "", "response": "So.", "category": "talk", "source": "generated"}
        for n in range(number)
    ]  # fmt: skip
    folder = RunFolder(path)
    folder.create()
    folder.write_stage(1, "generate", "f", table_of(rows), table_of([]))
    return path


def test_rows_are_drawn_from_all_runs_and_do_not_show_their_origin(benchmark, tmp_path):
    reading = benchmark("reading")
    out = tmp_path / "read.jsonl"
    reading.draw(out, [f"{run_of(tmp_path / 'a', 9)}:5", f"{run_of(tmp_path / 'b', 3)}"], seed=1)
    rows = [json.loads(line) for line in out.read_text().splitlines()]
    key = [json.loads(line) for line in out.with_suffix(".key.jsonl").read_text().splitlines()]
    assert [set(row) for row in rows] == [{"n", "category", "instruction", "input", "response"}] * 8
    assert [row["n"] for row in rows] == list(range(1, 9))
    assert sorted(row["run"] for row in key) == ["a"] * 5 + ["b"] * 3
    assert [row["instruction"].split()[1] for row in rows] == [row["run"] for row in key]


def test_shares_are_those_counted_by_hand(benchmark, tmp_path, capsys):
    reading = benchmark("reading")
    key, labels = tmp_path / "key.jsonl", [tmp_path / "1.jsonl", tmp_path / "2.jsonl"]
    key.write_text("".join(json.dumps({"n": n, "run": "r", "category": "talk"}) + "\n" for n in range(1, 5)))
    for file, right in zip(labels, ([True, True, False, False], [True, False, True, False]), strict=True):
        file.write_text(
            "".join(json.dumps({"n": n, "sensible": True, "right": each}) + "\n" for n, each in enumerate(right, 1))
        )
    reading.score(key, labels)
    printed = capsys.readouterr().out
    assert "figure right_r_reader_1 0.500 (2 of 4" in printed
    assert "figure right_r_all_readers 0.250 (1 of 4, 95 % interval 0.05 to 0.70)" in printed
    assert "figure kappa_right_r 0.0" in printed
    assert "  talk: 4, 4, 1" in printed


def test_a_row_without_a_label_is_refused(benchmark, tmp_path):
    reading = benchmark("reading")
    key, labels = tmp_path / "key.jsonl", tmp_path / "1.jsonl"
    key.write_text('{"n": 1, "run": "r", "category": "talk"}\n')
    labels.write_text("")
    with pytest.raises(SystemExit, match=r"rows without a label: \[1\]"):
        reading.score(key, [labels])


def test_a_subject_near_an_earlier_one_is_not_counted(benchmark):
    vectors = np.array([[1, 0], [0.9, np.sqrt(1 - 0.81)], [0, 1], [0.1, np.sqrt(0.99)]], dtype=np.float32)
    assert benchmark("diversity").subjects(vectors) == 2
