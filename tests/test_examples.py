"""Margins by hand, the order of examples against a naive loop, and what is printed of hostile texts."""

import ast
import io
import random
import re
from pathlib import Path

import polars as pl
import pytest
from rich.console import Console

from kiloset.audit.gate import (
    BEST,
    CHARACTERS,
    LINES,
    cut,
    examples,
    gain_margin,
    length_margin,
    margin_of,
    nearest_first,
    print_examples,
)
from kiloset.core.table import table_of

ROOT = Path(__file__).resolve().parent.parent
GATE = {"shortest_ratio": 0.5, "longest_ratio": 2.0, "length_slack_words": 2}
HOSTILE = "[red]x[/red] :smile: \x1b[2J\x9b2J\u202e end"


def verdict_of(check, measured, limit, status="passed"):
    return {"check": check, "status": status, "measured": measured, "limit": limit}


@pytest.mark.parametrize(
    ("check", "measured", "limit", "room"),
    [
        ("meaning", 0.8, 0.8, 0.0),  # at least: on the limit
        ("meaning", 0.85, 0.8, 0.25),
        ("numbers", 1.0, 0.95, 1.0),  # as good as can be
        ("meaning", 1.0001, 0.8, 1.0),
        ("repetition", 0.15, 0.2, 0.25),  # at most
        ("repetition", 0.0, 0.2, 1.0),
        ("new_names", 2.0, 2.0, 0.0),
        ("numbers", 1.0, 1.0, None),  # nothing lies between limit and best
        ("new_numbers", 0.0, 0.0, None),
        ("meaning", 0.7, 0.8, None),  # did not pass
        ("list", 5.0, 5.0, None),
        ("polarity", None, None, None),
    ],
)
def test_the_room_left_is_counted_from_the_limit_to_the_best(check, measured, limit, room):
    figures = margin_of(verdict_of(check, measured, limit))
    assert (None if figures is None else figures.room) == (None if room is None else pytest.approx(room))


def test_a_length_is_compared_with_the_limit_on_its_side():
    assert (length_margin(10, 16, GATE).limit, length_margin(10, 16, GATE).room) == (22.0, 0.5)  # 10 to 22
    assert (length_margin(10, 4, GATE).limit, length_margin(10, 4, GATE).room) == (3.0, pytest.approx(1 / 7))
    assert length_margin(10, 10, GATE).room == 1.0
    assert length_margin(4, 1, GATE) is None  # 4 / 2 - 2 words is no limit
    assert length_margin(0, 5, GATE) is None
    assert length_margin(10, 4, {}) is None
    assert length_margin(10, 40, GATE) is None
    assert length_margin(10, 12, {**GATE, "longest_ratio": 1, "length_slack_words": 0}) is None


def test_a_gain_is_compared_with_the_least():
    assert gain_margin(0.05, 0.05).room == 0.0
    assert gain_margin(0.2, 0.05).room == pytest.approx(0.75)
    assert gain_margin(0.2, 0.0) is gain_margin(None, 0.05) is gain_margin(0.2, None) is gain_margin(0.01, 0.05) is None


def test_every_check_in_turn_gives_the_nearest_that_is_left():
    rooms = {
        "a": {"meaning": 0.1, "length": 0.05},
        "b": {"meaning": 0.2},
        "c": {"meaning": 0.3, "length": 0.9},
        "d": {"names": 1.0},
        "e": {},
        "f": {"length": 0.4},
    }
    # First round: length has the nearest, a; so meaning gives its second, b. Second round: c at 0.3, f at 0.4.
    order = {"a": "length", "b": "meaning", "c": "meaning", "f": "length", "d": None, "e": None}
    assert list(nearest_first(rooms, 9).items()) == list(order.items())
    assert list(nearest_first(rooms, 3)) == ["a", "b", "c"]
    assert nearest_first({}, 5) == nearest_first(rooms, 0) == {}


def test_the_order_is_that_of_a_naive_loop():
    rng = random.Random(0)
    rooms = {f"g{n}": {c: rng.choice([0.1, 0.2, 0.3, rng.random(), 1.0]) for c in "xyz" if rng.random() < 0.7} for n in range(80)}  # fmt: skip
    taken: list[tuple[str, str | None]] = []
    while True:
        others = {id: by for id, by in rooms.items() if id not in dict(taken)}
        pools = {c: sorted((by[c], id) for id, by in others.items() if by.get(c, 1) < 1) for c in "xyz"}
        round_ = sorted((pool[0][0], c) for c, pool in pools.items() if pool)
        if not round_:
            break
        for _, check in round_:
            free = [id for _, id in pools[check] if id not in dict(taken)]
            taken += [(free[0], check)] if free else []
    taken += [(id, None) for id in sorted(rooms) if id not in dict(taken)]
    assert list(nearest_first(rooms, 1000).items()) == taken
    assert list(nearest_first(rooms, 7).items()) == taken[:7]


def offer(*verdicts, status="chosen", **more):
    return {"kind": "guided", "status": status, "check": None, "text": "t", "verdicts": list(verdicts), **more}


def set_of():
    ten = "one two three four five six seven eight nine ten"
    rows = [
        {"id": "a", "instruction": "Say", "input": "it", "category": "x", "response": ten, "original_response": ten},
        {
            "id": "b",
            "instruction": HOSTILE,
            "category": "x",
            "response": "one two three four",
            "original_response": ten,
        },
        {"id": "c", "instruction": "Hi", "category": "x", "response": "kept"},
        {"id": "d", "instruction": "Dots", "category": "x", "response": HOSTILE, "original_response": "..."},
    ]
    passed = verdict_of("meaning", 0.9, 0.8), verdict_of("numbers", 1.0, 0.95), verdict_of("leak", None, None)
    other = offer(verdict_of("meaning", 0.8, 0.8), status="passed")
    return table_of(rows).with_columns(
        response_source=pl.Series(["guided", "plain", "reference", "guided"]),
        fit_gain=pl.Series([0.1, 0.2, 0.0, 0.06]),
        rewrites=pl.Series([[other, offer(*passed)], [offer(verdict_of("meaning", 0.81, 0.8))], [], None]),
    )


def test_an_example_names_the_limit_it_is_nearest_and_the_others_by_nearness():
    figures = examples(set_of(), GATE, 0.05, 20)
    assert (figures.rewritten, figures.recorded) == (3, True)
    lines = [(e.id, e.nearest.check, [m.check for m in e.others]) for e in figures.chosen]
    # meaning: b 0.05, a 0.5; length: b 1/7; gain: d 1/6, a 0.5, b 0.75
    assert lines == [("b", "meaning", ["length", "gain"]), ("d", "gain", []), ("a", "gain", ["meaning"])]
    a, b, d = (next(e for e in figures.chosen if e.id == id) for id in "abd")
    assert (a.instruction, a.ratio, b.ratio, d.ratio, d.reference) == ("Say\n\nit", 1.0, 0.4, None, "...")
    assert [e.id for e in examples(set_of(), GATE, 0.05, 1).chosen] == ["b"]


def test_older_runs_have_the_limits_of_length_and_gain_alone():
    old = set_of().drop("rewrites")
    figures = examples(old, GATE, 0.05, 20)
    assert not figures.recorded
    assert {e.id: e.nearest.check for e in figures.chosen} == {"b": "length", "d": "gain", "a": "gain"}
    assert [e.nearest for e in examples(old, {}, None, 20).chosen] == [None, None, None]
    assert examples(table_of([]), {}, None, 3) is None
    assert examples(old.filter(pl.col("id") == "c"), {}, None, 3).chosen == ()


@pytest.mark.parametrize("width", [40, 100, 160])
def test_examples_are_shown_literally_side_by_side(width):
    def printed(figures):
        file = io.StringIO()
        print_examples(figures, Console(file=file, width=width, force_terminal=True, no_color=True))
        return re.sub(r"\x1b\[[013;]+m", "", file.getvalue())  # bold and italic are rich's own

    text = printed(examples(set_of(), GATE, 0.05, 20))
    assert "[red]x[/red]" in text
    assert ":smile:" in text
    assert not {"\x1b", "\x9b", "\u202e"} & set(text)
    assert max(len(line) for line in text.splitlines()) <= width
    if width == 160:
        line = next(line for line in text.splitlines() if line.strip().startswith("one two three four five"))
        assert line.count("one two three four") == 2
        assert (
            "nearest limit: meaning 0.81, limit 0.8, 5 % of the way from it to the best value\nother limits: length 4, limit 3, 14 %"
            in text
        )
    assert "--examples 20" in printed(examples(set_of(), GATE, 0.05, 1))
    assert printed(examples(set_of().filter(pl.col("id") == "c"), {}, None, 3)) == printed(None) == ""


def test_a_long_text_is_cut_and_keeps_its_lines():
    assert cut("a  \n\n b\r\nc") == "a\n b\nc"
    assert cut("x" * (CHARACTERS + 1)) == "x" * CHARACTERS + "…"
    assert cut("\n".join("abc")) == "a\nb\nc"
    assert cut("y\n" * 500).count("\n") == LINES - 1
    assert cut("") == ""


def test_every_check_that_measures_something_has_its_best_or_leaves_no_room():
    measured = set()
    for path in (ROOT / "rewrite").glob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.args:
                # verdict(check, passed, evidence, measured, limit) and _recall(check, wanted, figures, limit)
                long_enough = {"verdict": 5, "_recall": 4}.get(node.func.id, 99) <= len(node.args)
                measured |= {node.args[0].value} if long_enough and isinstance(node.args[0], ast.Constant) else set()
    assert {"numbers", "quotes", "meaning", "length", "repetition"} <= measured
    assert measured - BEST.keys() <= {"length", "list", "short_reference"}
