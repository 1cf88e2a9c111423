"""What the gate let through, from verdicts written by hand."""

import io

import polars as pl
from rich.console import Console

from kiloset.audit.gate import Check, Kind, acceptance, print_acceptance
from kiloset.audit.rewriting import candidates
from kiloset.core.table import table_of


def verdicts(**status):
    return [{"check": c, "status": s, "measured": None, "limit": None} for c, s in status.items()]


A = {
    "kind": "plain",
    "status": "chosen",
    "check": None,
    "text": "",
    "verdicts": verdicts(leak="passed", length="passed"),
}
B = {"kind": "plain", "status": "rejected", "check": "leak", "text": "", "verdicts": verdicts(leak="failed", length="failed")}  # fmt: skip
C = {"kind": "guided", "status": "rejected", "check": "length", "text": "", "verdicts": verdicts(leak="passed", length="failed")}  # fmt: skip
D = {"kind": "guided", "status": "passed", "check": None, "text": "", "verdicts": verdicts(leak="passed")}
E = {
    "kind": "guided",
    "status": "rejected",
    "check": "too_long_for_base",
    "text": "",
    "verdicts": verdicts(leak="passed"),
}
F = {"kind": "guided", "status": "rejected", "check": "[red]\x1b", "text": "", "verdicts": verdicts(**{"[red]\x1b": "failed"})}  # fmt: skip


def found_in(*offered):
    table = table_of([{"id": "a", "response": "one"}, {"id": "b", "response": "two"}])
    return acceptance(candidates(table.with_columns(rewrites=pl.Series([list(offered), None]))), table.height)


def printed(figures):
    file = io.StringIO()
    print_acceptance(figures, Console(file=file, width=100))
    return file.getvalue()


def test_each_check_is_reported_with_where_it_applied_passed_came_first_and_stood_alone():
    figures = found_in(A, B, C, D, E)
    assert figures.recorded
    assert figures.checks == [
        Check("length", applied=3, passed=1, first=1, only=1),
        Check("leak", applied=5, passed=4, first=1, only=0),
        Check("too_long_for_base", applied=None, passed=None, first=1, only=None),
    ]
    assert [check.failed for check in figures.checks] == [2, 1, None]
    lines = [line.split() for line in printed(figures).splitlines()]
    assert ["length", "3", "1", "2", "33.3", "%", "1", "1"] in lines
    assert ["too_long_for_base", "1"] in lines


def test_kinds_are_distinguished():
    figures = found_in(A, B, C, D, E)
    assert figures.kinds == [Kind("plain", 2, 1, 1), Kind("guided", 3, 1, 0)]
    lines = [line.split() for line in printed(figures).splitlines()]
    assert ["all", "5", "2", "40.0", "%", "1", "20.0", "%"] in lines
    assert "Gate: 5 candidates for the 2 rows that entered rewriting" in printed(figures)


def test_an_older_run_knows_only_the_first_check_to_reject():
    old = [{name: value for name, value in each.items() if name != "verdicts"} for each in (A, B, B, C)]
    figures = found_in(*old)
    assert not figures.recorded
    assert figures.checks == [Check("leak", None, None, 2, None), Check("length", None, None, 1, None)]
    assert "acceptance by check is not known" in printed(figures)


def test_a_candidate_that_passed_the_gate_is_no_rejection_whatever_its_check_is():
    gave_way = {**A, "status": "passed", "check": "keep_originals"}  # as runs before response_reason have it
    figures = found_in({name: value for name, value in gave_way.items() if name != "verdicts"})
    assert (figures.kinds, figures.checks) == ([Kind("plain", 1, 1, 0)], [])
    assert "no candidate was rejected" in printed(figures)


def test_all_rejected_none_offered_and_not_recorded():
    figures = found_in(B, F)
    assert [(kind.accepted, kind.chosen) for kind in figures.kinds] == [(0, 0), (0, 0)]
    assert "[red]" in printed(figures)
    assert "\x1b" not in printed(figures)
    assert found_in().kinds == []
    assert "no candidates" in printed(found_in())
    assert acceptance(None, 3) is None
    assert "not recorded" in printed(None)
