import io
import json
import logging
import re
import sys
from datetime import UTC, datetime, timedelta

import pytest
from rich.console import Console

from kiloset.cli.generation import Throughput, generation_line
from kiloset.cli.json_lines import JsonLines
from kiloset.cli.progress import MARGIN_LINES, ConsoleProgress, progress_on_stderr
from kiloset.cli.text import duration, printable
from kiloset.core.progress import GenerationProgress

HOSTILE = {
    "[red]x[/red]": "[red]x[/red]",
    "two\nlines": "two\\nlines",
    "\x1b[2J\x1b[31mwiped": "\\x1b[2J\\x1b[31mwiped",
    "bell\x07 \x9b31m": "bell\\x07 \\x9b31m",
    "\u202egnp.exe": "\\u202egnp.exe",
    "back\\": "back\\",
    ":smile:": ":smile:",
    "\ud800": "\\ud800",
}
"""Names of categories, and how each must be shown."""


class Clock:
    def __init__(self):
        self.now = 1000.0

    def __call__(self):
        return self.now

    def date(self):
        return datetime(2026, 1, 1, tzinfo=UTC) + timedelta(seconds=self.now - 1000)


def state(**changes):
    facts = {
        "wave": 1, "wanted": {"code": 40, "maths": 60}, "accepted": {"code": 10, "maths": 30},
        "requested": {"code": 50, "maths": 50}, "in_flight": 12, "requests": 200, "sent": 150, "prompt_tokens": 9000,
        "completion_tokens": 3000, "budget": {"requests": (200, 5000)},
    }  # fmt: skip
    return GenerationProgress(**{**facts, **changes})


def grown(n):
    """The n-th of a row of states: 10 tokens and a tenth of a candidate each."""
    accepted = {"code": n // 20, "maths": n // 20}
    return state(accepted=accepted, completion_tokens=10 * n, prompt_tokens=20 * n, requests=n, sent=n + 5)


@pytest.fixture
def clock():
    return Clock()


def plain_console():
    return Console(file=io.StringIO(), width=400)


def terminal(height=24, width=100):
    return Console(file=io.StringIO(), force_terminal=True, width=width, height=height, legacy_windows=False)


def live_display(console, clock):
    return ConsoleProgress(console, live=True, clock=clock)


def message(text):
    return logging.makeLogRecord({"msg": text, "levelno": logging.INFO, "levelname": "INFO"})


def drawn(display, console):
    with console.capture() as captured:
        console.print(display._bars)
    return captured.get()


# --------------------------------------------------------------------------------------------------------------- speed


def test_speeds_and_the_time_left_are_those_computed_by_hand(clock):
    throughput = Throughput(clock)
    throughput.add(state(accepted={"code": 0, "maths": 0}, completion_tokens=100))
    assert (throughput.recent(), throughput.overall(), throughput.seconds_left()) == (None, None, None)
    clock.now += 100
    throughput.add(state(accepted={"code": 4, "maths": 6}, completion_tokens=1100))
    clock.now += 50
    throughput.add(state(accepted={"code": 10, "maths": 10}, completion_tokens=2100))
    # Overall 2000 tokens in 150 s. A minute ago nothing had come since the first: 2000 in 150 s again.
    assert throughput.overall() == throughput.recent() == 2000 / 150
    clock.now += 25
    throughput.add(state(accepted={"code": 10, "maths": 30}, completion_tokens=4100))
    # A minute ago the last point was that at 100 s with 1100 tokens: 3000 since, in 75 s.
    assert throughput.recent() == 3000 / 75
    assert throughput.overall() == 4000 / 175
    # 30 and 30 candidates are missing; 40 took 4000 tokens, so 60 take 6000, at 40 tokens a second.
    assert throughput.seconds_left() == pytest.approx(6000 / 40)


def test_a_stall_is_seen_in_the_recent_speed(clock):
    throughput = Throughput(clock)
    for second in range(10):
        throughput.add(state(completion_tokens=1 + 100 * second))
        clock.now += 1
    assert throughput.recent() == 90
    clock.now += 600
    assert throughput.recent() == 0
    assert throughput.seconds_left() is None


def test_what_was_found_in_the_store_counts_neither_for_speed_nor_for_the_tokens_a_candidate_takes(clock):
    throughput = Throughput(clock)
    for cached in (0, 10, 40):
        throughput.add(state(accepted={"code": cached, "maths": 0}, completion_tokens=0))
        clock.now += 1
    throughput.add(state(accepted={"code": 40, "maths": 0}, completion_tokens=500))
    clock.now += 10
    throughput.add(state(accepted={"code": 40, "maths": 5}, completion_tokens=1500))
    assert throughput.overall() == 100
    # 55 candidates of maths are missing; five took 1000 tokens.
    assert throughput.seconds_left() == 55 * 200 / 100


def test_one_category_too_full_does_not_hide_that_another_is_empty(clock):
    throughput = Throughput(clock)
    throughput.add(state(accepted={"code": 0, "maths": 0}))
    clock.now += 10
    throughput.add(state(accepted={"code": 100, "maths": 0}, completion_tokens=4000))
    assert throughput.progress.done == 40
    assert throughput.seconds_left() == 60 * 10 / 100
    throughput.add(state(accepted={"code": 100, "maths": 60}, completion_tokens=4000))
    assert throughput.seconds_left() == 0


@pytest.mark.parametrize(
    ("seconds", "words"),
    [(None, "?"), (float("inf"), "?"), (0, "0 s"), (99, "99 s"), (100, "2 min"), (5940, "99 min"), (6000, "1 h 40 min"),
     (7500, "2 h 05 min"), (200_000, "2 d 7 h")],
)  # fmt: skip
def test_a_duration_reads_as_a_person_would_say_it(seconds, words):
    assert duration(seconds) == words


# --------------------------------------------------------------------------------------------------------------- lines


def test_a_line_every_thirty_seconds_names_everything_that_the_terminal_shows(clock):
    console = plain_console()
    display = ConsoleProgress(console, live=False, clock=clock)
    display.update_generation(state(accepted={"code": 0, "maths": 0}, completion_tokens=1000))
    for _ in range(29):
        clock.now += 1
        display.update_generation(state(completion_tokens=2900))
    assert console.file.getvalue() == ""
    clock.now += 1
    display.update_generation(state(completion_tokens=3000, budget={"requests": (200, 5000), "hours": (0.25, 2.0)}))
    # 2000 tokens in 30 s; 40 candidates took them, 60 are missing.
    assert console.file.getvalue() == (
        "  generate: wave 1, 40/100 candidates, yield 0.40, after 30 s, about 45 s left, 67 written tokens/s (67 overall), "
        "12,000 tokens, 12 in flight, requests 200/5,000, hours 0.25/2.00, behind: code 10/40, maths 30/60\n"
    )


def test_lines_are_as_seldom_however_often_a_completion_comes(clock):
    console = plain_console()
    display = ConsoleProgress(console, live=False, clock=clock)
    for n in range(1, 3001):
        display.update_generation(grown(n))
        clock.now += 0.1
    assert len(console.file.getvalue().splitlines()) == 9  # in 300 seconds, none at the very beginning
    display.close()
    last = console.file.getvalue().splitlines()[-1]
    assert len(console.file.getvalue().splitlines()) == 10
    assert "100/100 candidates" in last
    assert "90,000 tokens" in last
    assert "left" not in last


def test_other_phases_keep_their_lines_and_end_that_of_generation(clock):
    console = plain_console()
    display = ConsoleProgress(console, live=False, clock=clock)
    display.message(message("starting it"))
    display.update_generation(state())
    display.begin("rewrites", 100)
    clock.now += 31
    display.advance(40, "80 tokens")
    display.advance(60)
    clock.now += 9
    display.end()
    message_line, generated, under_way, done = console.file.getvalue().splitlines()
    assert message_line == "starting it"
    assert generated.startswith("  generate: wave 1, 40/100")
    assert under_way == "  rewrites: 40/100, 1.3/s, 80 tokens, 46 s left"
    assert done == "  rewrites: 100/100, 2.5/s, 40 s"


def test_the_categories_furthest_behind_are_named_and_the_others_counted(clock):
    wanted = {"a": 10, "b": 10, "c": 100, "d": 10, "e": 10, "f": 10}
    throughput = Throughput(clock)
    throughput.add(state(wanted=wanted, accepted={"a": 9, "b": 2, "c": 20, "d": 5, "e": 10, "f": 12}, requested=wanted))
    # b and c have a fifth each; of c more is missing. e and f have all.
    assert generation_line(throughput).endswith("behind: c 20/100, b 2/10, d 5/10, 1 more")


# -------------------------------------------------------------------------------------------------------------- hostile


def hostile_state():
    counts = dict.fromkeys(HOSTILE, 3)
    return state(wanted=dict.fromkeys(HOSTILE, 9), accepted=counts, requested=dict.fromkeys(HOSTILE, 6))


def is_harmless(text):
    return all(c.isprintable() or c == "\n" for c in text)


@pytest.mark.parametrize(("name", "expected"), HOSTILE.items())
def test_a_hostile_name_is_shown_as_it_is_spelt_and_does_nothing(clock, name, expected):
    assert printable(name) == expected
    mine = state(wanted={name: 5}, accepted={name: 1}, requested={name: 4})
    console = plain_console()
    lines = ConsoleProgress(console, live=False, clock=clock)
    lines.update_generation(mine)
    lines.begin(name, 3)
    lines.advance(1, name)
    lines.end()
    lines.message(message(name))
    text = console.file.getvalue()
    assert text.count(expected) == 4
    assert is_harmless(text)
    assert len(text.splitlines()) == 3


def test_hostile_names_do_nothing_in_the_table(clock):
    console = Console(file=io.StringIO(), width=120, height=40)  # no colours of its own
    display = live_display(terminal(), clock)
    display.update_generation(hostile_state())
    text = drawn(display, console)
    display.close()
    assert all(expected in text for expected in HOSTILE.values())
    assert is_harmless(text)
    assert sum("0.50" in line for line in text.splitlines()) == len(HOSTILE) + 1  # and the yield of all


def test_hostile_names_come_through_json_as_they_are_in_pure_ascii(clock):
    stream = io.StringIO()
    display = JsonLines(stream, clock, clock.date)
    display.update_generation(hostile_state())
    (line,) = stream.getvalue().splitlines()
    assert line.isascii()
    assert line.isprintable()
    assert json.loads(line)["accepted"] == dict.fromkeys(HOSTILE, 3)


# ------------------------------------------------------------------------------------------------------------- terminal


def test_each_category_has_a_bar_and_the_facts_are_below(clock):
    display = live_display(terminal(), clock)
    display.update_generation(state(completion_tokens=1000, accepted={"code": 0, "maths": 0}))
    clock.now += 30
    display.update_generation(state(completion_tokens=3000))
    text = drawn(display, Console(file=io.StringIO(), width=300, height=24)).splitlines()
    display.close()
    assert re.fullmatch(r"code +\S+ +10/40 +yield 0\.20 of 50 requested *", text[0])
    assert re.fullmatch(r"maths +\S+ +30/60 +yield 0\.60 of 50 requested *", text[1])
    assert text[2].rstrip() == (
        "generate: wave 1, 40/100 candidates, yield 0.40, after 30 s, about 45 s left, 67 written tokens/s (67 overall), "
        "12,000 tokens, 12 in flight, requests 200/5,000, behind: code 10/40, maths 30/60"
    )
    assert len(text) == 3


@pytest.mark.parametrize("height", [12, 24, 60])
def test_on_a_low_terminal_only_the_categories_furthest_behind_are_drawn(clock, height):
    wanted = {f"c{n:02d}": 100 for n in range(45)}
    accepted = {name: 2 * n for n, name in enumerate(wanted)} | {"c44": 100}  # it misses nothing
    display = live_display(terminal(height=height), clock)
    display.update_generation(state(wanted=wanted, accepted=dict(reversed(accepted.items())), requested=wanted))
    text = drawn(display, Console(file=io.StringIO(), width=100, height=height))
    display.close()
    names = [name for name in wanted if re.search(rf"^{name} ", text, re.MULTILINE)]
    assert names == list(wanted)[: height - MARGIN_LINES]
    assert len(text.splitlines()) < height


def test_a_thousand_completions_at_once_are_not_a_thousand_redraws(clock):
    console = terminal()
    display = live_display(console, clock)
    for n in range(1, 1001):
        display.update_generation(grown(n))
    display.close()
    assert console.file.getvalue().count("in flight") < 100


def test_a_bar_follows_the_table_and_the_screen_is_left_as_it_was(clock):
    console = terminal()
    display = live_display(console, clock)
    display.update_generation(state())
    display.message(message("[b]said[/b]"))
    display.begin("embed[ding]", 10)
    display.advance(4, "[note]")
    text = drawn(display, Console(file=io.StringIO(), width=100, height=24))
    assert "embed[ding]" in text
    assert "4/10" in text
    assert "[note]" in text
    assert "candidates" not in text
    clock.now += 2
    display.end()
    display.close()
    out = console.file.getvalue()
    assert "[b]said[/b]" in out
    assert "generate: wave 1, 40/100 candidates" in out
    assert out.rstrip().splitlines()[-1].endswith("  embed[ding]: 4/10, 2.0/s, [note], 2 s")
    assert out.count("\x1b[?25l") == out.count("\x1b[?25h")  # the cursor


# ----------------------------------------------------------------------------------------------------------------- json


def events(stream):
    return [json.loads(line) for line in stream.getvalue().splitlines()]


def test_the_numbers_in_json_are_those_of_the_state(clock):
    stream = io.StringIO()
    display = JsonLines(stream, clock, clock.date)
    display.update_generation(state(accepted={"code": 0, "maths": 0}, completion_tokens=1000))
    clock.now += 30
    last = state(completion_tokens=3000, budget={"tokens": (12000, 50000), "hours": (0.25, 2.5)})
    display.update_generation(last)
    values = events(stream)[-1]
    assert values.pop("event") == "generation"
    assert values.pop("time") == "2026-01-01T00:00:30.000Z"
    assert values.pop("budget") == {
        "tokens": {"spent": 12000, "allowed": 50000},
        "hours": {"spent": 0.25, "allowed": 2.5},
    }
    assert values.pop("tokens_per_second") == values.pop("overall_tokens_per_second") == pytest.approx(2000 / 30)
    assert values.pop("seconds_left") == pytest.approx(45)
    assert values == {
        "wave": 1, "wanted": last.wanted, "accepted": last.accepted, "requested": last.requested, "in_flight": 12,
        "requests": 200, "sent": 150, "prompt_tokens": 9000, "completion_tokens": 3000,
    }  # fmt: skip


def test_one_state_a_second_is_written_and_always_the_last_one(clock):
    stream = io.StringIO()
    display = JsonLines(stream, clock, clock.date)
    for n in range(1, 1001):
        display.update_generation(grown(n))
        clock.now += 0.01
    assert 9 <= len(events(stream)) <= 11  # in ten seconds
    display.close()
    assert events(stream)[-1]["requests"] == 1000
    times = [event["time"] for event in events(stream)]
    assert times == sorted(times)


def test_the_last_advance_comes_before_the_end_of_its_phase(clock):
    stream = io.StringIO()
    display = JsonLines(stream, clock, clock.date)
    display.message(message("x"))
    display.begin("rewrites", 50)
    for _ in range(50):
        display.advance(1, "note")
    clock.now += 4
    display.end()
    display.result({"rows": 3, "got": {"a\nb": 3}})
    names = [event["event"] for event in events(stream)]
    assert names == ["message", "begin", "advance", "advance", "end", "result"]
    assert events(stream)[1] == {
        "event": "begin",
        "time": "2026-01-01T00:00:00.000Z",
        "label": "rewrites",
        "total": 50,
    }
    assert [event.get("done") for event in events(stream)] == [None, None, 1, 50, 50, None]
    assert events(stream)[4]["seconds"] == 4
    assert events(stream)[5]["got"] == {"a\nb": 3}


def test_what_json_has_no_number_for_is_null(clock):
    stream = io.StringIO()
    JsonLines(stream, clock, clock.date).update_generation(state(budget={"hours": (float("nan"), float("inf"))}))
    assert events(stream)[0]["budget"] == {"hours": {"spent": None, "allowed": None}}


# ------------------------------------------------------------------------------------------------------------- display


def test_with_json_nothing_but_json_is_on_stderr(capsys):
    with progress_on_stderr("json") as display:
        display.message(message("one"))
        print("a library's warning\x1b[0m", file=sys.stderr)
        display.update_generation(state())
        print("without an end", end="", file=sys.stderr)
    print("after", file=sys.stderr)
    *lines, after = capsys.readouterr().err.splitlines()
    assert after == "after"
    assert [json.loads(line).get("text") for line in lines] == [
        "one",
        "a library's warning\x1b[0m",
        None,
        "without an end",
    ]


def test_where_there_is_no_terminal_auto_prints_lines(capsys):
    with progress_on_stderr("auto") as display:
        display.update_generation(state())
    assert capsys.readouterr().err.startswith("  generate: wave 1, 40/100 candidates")


def test_none_is_silent(capsys):
    with progress_on_stderr("none") as display:
        display.message(message("x"))
        display.begin("y", 1)
        display.advance()
        display.end()
        display.update_generation(state())
        display.result({})
    assert capsys.readouterr() == ("", "")


@pytest.mark.parametrize("mode", ["live", "lines", "json"])
def test_the_last_state_is_shown_when_a_run_is_interrupted(capsys, mode):
    def interrupted():
        with progress_on_stderr(mode) as display:
            display.update_generation(state())
            display.update_generation(state(requests=999, budget={"requests": (999, 5000)}))
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert "999" in capsys.readouterr().err.rstrip().splitlines()[-1]
