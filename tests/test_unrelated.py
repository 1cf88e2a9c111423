"""Answers that belong to other tasks: the rank of each answer by embedding, on vectors that are known and on a real model."""

from pathlib import Path

import numpy as np
import polars as pl
import pytest
from rich.console import Console

import kiloset
from kiloset.audit.file_audit import audit_file, print_file_audit
from kiloset.audit.unrelated import FEWEST, unrelated


class Subjects:
    """Embeds a text as the number in it, on a circle: equal numbers are near, all others are not."""

    def embed(self, texts):
        angles = [2 * np.pi * int(text.split()[-1]) / 64 for text in texts]
        return np.array([[np.cos(angle), np.sin(angle)] for angle in angles], np.float32)


def table(count, answers=None):
    answers = answers or {}
    return pl.DataFrame({
        "id": [f"r{n}" for n in range(count)],
        "instruction": [f"What is known about subject {n}" for n in range(count)],
        "user": [f"What is known about subject {n}" for n in range(count)],
        "response": [answers.get(n, f"This is known about subject {n}") for n in range(count)],
    })  # fmt: skip


def test_only_exchanged_answers_are_reported():
    exchanged = {5: "This is known about subject 40", 40: "This is known about subject 5"}
    findings = unrelated(table(60, exchanged), Subjects())
    assert [(name, id) for name, id, _, _ in findings] == [("answer_unrelated", "r5"), ("answer_unrelated", "r40")]
    # Of the 59 others, those between 5 and 40 on both sides are nearer than the own answer, 29 of 64 steps away.
    assert findings[0][2].endswith("of the answers of other rows fit the task better (limit 10%)")
    assert int(findings[0][2].split("%")[0]) > 80


def test_a_short_answer_may_be_farther_away():
    off = {5: "subject 8"}  # six or so of 59 others are nearer: 10 % of them
    assert [id for _, id, _, _ in unrelated(table(60, {5: "This is known about subject 10"}), Subjects())] == ["r5"]
    assert unrelated(table(60, off), Subjects()) == []


def test_equal_answers_are_no_evidence():
    one = "This is known about subject 1"
    assert unrelated(table(60, dict.fromkeys(range(60), one)), Subjects()) == []
    # Forty rows with one answer, twenty with their own: too few different answers to compare with.
    assert unrelated(table(60, dict.fromkeys(range(40), one)), Subjects()) == []


def test_few_rows_are_not_compared():
    swapped = {1: "This is known about subject 9", 9: "This is known about subject 1"}
    assert unrelated(table(FEWEST - 1, swapped), Subjects()) == []


def test_the_audit_states_whether_it_searched(tmp_path):
    lines = [
        f'{{"instruction": "What is known about subject {n}", "output": "This is known about subject {n}"}}'
        for n in range(40)
    ]
    lines[3] = '{"instruction": "What is known about subject 3", "output": "This is known about subject 30"}'
    (tmp_path / "set.jsonl").write_text("\n".join(lines))
    assert "--verify does" in _printed(audit_file(tmp_path / "set.jsonl"), tmp_path)
    report = audit_file(tmp_path / "set.jsonl", load_embedder=lambda config, rows: Subjects())
    assert report.count("answer_unrelated") == 1
    text = _printed(report, tmp_path)
    assert "Answers to another question: 1" in text
    assert "--verify" not in text
    (tmp_path / "few.jsonl").write_text("\n".join(lines[: FEWEST - 1]))
    few = audit_file(tmp_path / "few.jsonl", load_embedder=lambda config, rows: Subjects())
    assert f"that needs {FEWEST} rows" in " ".join(_printed(few, tmp_path).split())


@pytest.mark.models
def test_a_real_embedder_finds_exchanged_answers_and_no_others():
    from kiloset.core.progress import Silent
    from kiloset.data.examples import read_example_file
    from kiloset.models import embedder_of
    from kiloset.settings import RunConfig

    seeds = Path(kiloset.__file__).parent / "seeds" / "seeds.jsonl"
    rows = read_example_file(str(seeds)).table.filter(pl.col("response").str.count_matches(r"\S+") >= 8).head(60)
    embedder = embedder_of(RunConfig(), rows.height, Silent())
    assert len(unrelated(rows, embedder)) <= 1
    texts = rows["response"].to_list()
    texts[10], texts[45] = texts[45], texts[10]
    reported = {id for _, id, _, _ in unrelated(rows.with_columns(response=pl.Series(texts)), embedder)}
    assert {rows["id"][10], rows["id"][45]} <= reported


def _printed(report, folder):
    with (folder / "out.txt").open("w") as file:
        print_file_audit(report, 1, Console(file=file, width=80))
    return (folder / "out.txt").read_text()
