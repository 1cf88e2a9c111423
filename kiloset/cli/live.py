"""What is seen while a run works: a table on a terminal, a line now and then elsewhere, or JSON for a program."""

import io
import json
import math
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, redirect_stderr
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from typing import Any, Literal, Protocol, TextIO

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    SpinnerColumn,
    TaskID,
    TextColumn,
    TimeRemainingColumn,
)
from rich.progress import Progress as Bars
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from kiloset.core.models import Progress
from kiloset.core.progress import Pace, Standing

Mode = Literal["auto", "live", "lines", "json", "none"]

EVERY = 30.0
"""Seconds between two lines where there is no terminal to redraw."""
EVENT_EVERY = 1.0
"""Seconds between two events of the same kind for a program."""
REDRAWS = 4
"""Redraws of a terminal per second."""
NAMED = 3
"""Categories named in a line."""
AROUND = 8
"""Lines of a terminal that the table of categories leaves to what stands around it."""

Clock = Callable[[], float]


class Watch(Progress, Protocol):
    """Where a whole run says how far it is."""

    def result(self, facts: Mapping[str, Any]) -> None:
        """Tell how the run ended."""

    def close(self) -> None:
        """Tell what was held back, and leave the screen as it was."""


@contextmanager
def watching(mode: Mode) -> Iterator[Watch]:
    """Hold what shows the run on stderr, and close it whatever happens.

    `auto` is `live` on a terminal and `lines` elsewhere. With `json`, whatever else Python code writes to stderr meanwhile
    comes as a `say` event; what other programs and libraries in C write there does not.
    """
    if mode == "json":
        told = Json(sys.stderr)
        others = _Said(told.say)
        with redirect_stderr(others):
            try:
                yield told
            finally:
                others.finish()
                told.close()
        return
    console = Console(stderr=True, force_terminal=True if mode == "live" else None)
    live = mode == "live" or (mode == "auto" and console.is_terminal and not console.is_dumb_terminal)
    watch: Watch = Quiet() if mode == "none" else Terminal(console) if live else Lines(console)
    try:
        yield watch
    finally:
        watch.close()


@dataclass(slots=True)
class _Phase:
    """A part of a run other than generation: how many of how many."""

    label: str
    total: int
    started: float
    done: int = 0
    note: str = ""

    def rate(self, now: float) -> str:
        seconds = now - self.started
        return f"{self.done / seconds:.1f}/s" if seconds > 0.5 else ""

    def left(self, now: float) -> str:
        return f"{(self.total - self.done) * (now - self.started) / self.done:.0f} s left" if self.done else ""

    def line(self, now: float, end: str) -> str:
        parts = [f"{self.label}: {self.done}/{self.total}", self.rate(now), self.note, end]
        return ", ".join(part for part in parts if part)


class Lines:
    """A plain line every 30 s, and one at the end of each phase."""

    def __init__(self, console: Console, clock: Clock = time.monotonic) -> None:
        """Print on this console."""
        self._console, self._clock = console, clock
        self._phase: _Phase | None = None
        self._pace: Pace | None = None
        self._said = 0.0

    def begin(self, label: str, total: int) -> None:
        """Start a phase; generation, if it was under way, is over."""
        self._end_generation()
        self._said = self._clock()
        self._phase = _Phase(label, total, self._said)

    def advance(self, amount: int = 1, note: str = "") -> None:
        """Count, and say so if it is time."""
        if self._phase is not None:
            self._phase.done, self._phase.note = self._phase.done + amount, note
            if self._is_time():
                self._line(self._phase.line(self._said, self._phase.left(self._said)))

    def end(self) -> None:
        """Close the phase with a line."""
        self._end_generation()
        if self._phase is not None:
            now = self._clock()
            self._line(self._phase.line(now, f"{now - self._phase.started:.0f} s"))
            self._phase = None

    def standing(self, standing: Standing) -> None:
        """Take in how far generation is, and say so if it is time."""
        if self._pace is None:
            self._pace, self._said = Pace(self._clock), self._clock()
        self._pace.note(standing)
        if self._is_time():
            self._line(standing_line(self._pace))

    def say(self, text: str) -> None:
        """Print a line."""
        self._console.print(Text(printable(text), style="dim"), soft_wrap=True)

    def result(self, facts: Mapping[str, Any]) -> None:
        """Nothing: the end is printed elsewhere."""

    def close(self) -> None:
        """Leave a last line of generation if it was under way."""
        self._end_generation()

    def _is_time(self) -> bool:
        if self._clock() - self._said < EVERY:
            return False
        self._said = self._clock()
        return True

    def _end_generation(self) -> None:
        if self._pace is not None:
            self._line(standing_line(self._pace))
            self._pace = None

    def _line(self, text: str) -> None:
        self._console.print(Text("  " + printable(text)), soft_wrap=True)


class Terminal:
    """A table of the categories while rows are generated, a bar for every other phase; redrawn four times a second."""

    def __init__(self, console: Console, clock: Clock = time.monotonic) -> None:
        """Draw on this console, once there is something to draw."""
        self._console, self._clock = console, clock
        columns = (
            SpinnerColumn(), TextColumn("{task.description}", markup=False), BarColumn(bar_width=24),
            MofNCompleteColumn(), TextColumn("{task.fields[rate]}", markup=False), TimeRemainingColumn(),
            TextColumn("{task.fields[note]}", markup=False),
        )  # fmt: skip
        self._bars = Bars(*columns, console=console, auto_refresh=False, get_time=clock)
        self._phase: _Phase | None = None
        self._task: TaskID | None = None
        self._pace: Pace | None = None
        self._live: Live | None = None

    def begin(self, label: str, total: int) -> None:
        """Start a bar; the table, if there is one, has had its time."""
        self._end_generation()
        self._end_bar()
        self._phase = _Phase(label, total, self._clock())
        self._task = self._bars.add_task(printable(label), total=total, rate="", note="")
        self._show()

    def advance(self, amount: int = 1, note: str = "") -> None:
        """Move it."""
        if self._phase is not None and self._task is not None:
            self._phase.done, self._phase.note = self._phase.done + amount, note
            rate = self._phase.rate(self._clock())
            self._bars.update(self._task, advance=amount, rate=rate, note=printable(note))

    def end(self) -> None:
        """Close it, and leave one line of it."""
        self._end_generation()
        if (phase := self._phase) is not None:
            self._end_bar()
            self._line(phase.line(self._clock(), f"{self._clock() - phase.started:.0f} s"))

    def standing(self, standing: Standing) -> None:
        """Take in how far generation is; it is drawn with the next redraw."""
        self._pace = self._pace or Pace(self._clock)
        self._pace.note(standing)
        self._show()

    def say(self, text: str) -> None:
        """Print a line above what is drawn."""
        self._console.print(Text(printable(text), style="dim"), soft_wrap=True)

    def result(self, facts: Mapping[str, Any]) -> None:
        """Nothing: the end is printed elsewhere."""

    def close(self) -> None:
        """Take everything off the screen, but for a last line of generation."""
        self._end_generation()
        self._end_bar()

    def drawn(self) -> RenderableType:
        """Return what is to be seen now."""
        shown: list[RenderableType] = []
        # Called by the thread that redraws, while the other one may put an end to either.
        if (pace := self._pace) is not None:
            shown += standing_view(pace, rows=max(NAMED, self._console.size.height - AROUND))
        if self._phase is not None:
            shown.append(self._bars)
        return Group(*shown)

    def _show(self) -> None:
        if self._live is None:
            self._live = Live(
                console=self._console, get_renderable=self.drawn, refresh_per_second=REDRAWS, transient=True
            )
            self._live.start()

    def _end_generation(self) -> None:
        if (pace := self._pace) is not None:
            self._pace = None
            self._hide_if_empty()
            self._line(standing_line(pace))

    def _end_bar(self) -> None:
        if self._task is not None:
            self._bars.remove_task(self._task)
            self._phase = self._task = None
        self._hide_if_empty()

    def _hide_if_empty(self) -> None:
        if self._live is not None and self._pace is None and self._phase is None:
            self._live.stop()
            self._live = None

    def _line(self, text: str) -> None:
        self._console.print(Text("  " + printable(text)), soft_wrap=True)


class Json:
    """JSON Lines: one object per event, at most one `standing` and one `advance` a second, the last one always."""

    def __init__(
        self, stream: TextIO, clock: Clock = time.monotonic, now: Callable[[], datetime] = lambda: datetime.now(UTC)
    ) -> None:
        """Write to this stream."""
        self._stream, self._clock, self._now = stream, clock, now
        self._pace = Pace(clock)
        self._phase: _Phase | None = None
        self._held: dict[str, dict[str, Any]] = {}
        self._sent: dict[str, float] = {}

    def begin(self, label: str, total: int) -> None:
        """Tell that a phase begins."""
        self._phase = _Phase(label, total, self._clock())
        self._event("begin", label=label, total=total)

    def advance(self, amount: int = 1, note: str = "") -> None:
        """Tell how far it is."""
        if self._phase is not None:
            self._phase.done, self._phase.note = self._phase.done + amount, note
            self._often("advance", label=self._phase.label, total=self._phase.total, done=self._phase.done, note=note)

    def end(self) -> None:
        """Tell that it ends."""
        if (phase := self._phase) is not None:
            seconds = round(self._clock() - phase.started, 3)
            self._event("end", label=phase.label, total=phase.total, done=phase.done, seconds=seconds)
            self._phase = None

    def standing(self, standing: Standing) -> None:
        """Tell how far generation is."""
        self._pace.note(standing)
        facts = asdict(self._pace.standing or standing)
        facts["budget"] = {
            name: {"spent": spent, "allowed": allowed} for name, (spent, allowed) in standing.budget.items()
        }
        speeds = {"tokens_per_second": self._pace.recent(), "overall_tokens_per_second": self._pace.overall()}
        self._often("standing", **facts, **speeds, seconds_left=self._pace.seconds_left())

    def say(self, text: str) -> None:
        """Tell one thing."""
        self._event("say", text=text)

    def result(self, facts: Mapping[str, Any]) -> None:
        """Tell how the run ended."""
        self._event("result", **facts)

    def failed(self, message: str, status: int) -> None:
        """Tell why there is no result, and the exit status."""
        self._event("error", text=message, status=status)

    def close(self) -> None:
        """Tell what was held back."""
        for name in list(self._held):
            self._write(self._held.pop(name))

    def _often(self, name: str, **facts: Any) -> None:
        now = self._clock()
        self._held[name] = self._made(name, facts)
        if now - self._sent.get(name, -math.inf) >= EVENT_EVERY:
            self._sent[name] = now
            self._write(self._held.pop(name))

    def _event(self, name: str, **facts: Any) -> None:
        self.close()
        self._write(self._made(name, facts))

    def _made(self, name: str, facts: Mapping[str, Any]) -> dict[str, Any]:
        when = self._now().astimezone(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
        return {"event": name, "time": when, **facts}

    def _write(self, event: Mapping[str, Any]) -> None:
        # ASCII: no name can carry a control character, and the line is valid in whatever encoding the stream has.
        self._stream.write(json.dumps(_finite(event), ensure_ascii=True, allow_nan=False) + "\n")
        self._stream.flush()


class Quiet:
    """Shows nothing; errors are still printed."""

    def begin(self, label: str, total: int) -> None:
        """Do nothing."""

    def advance(self, amount: int = 1, note: str = "") -> None:
        """Do nothing."""

    def end(self) -> None:
        """Do nothing."""

    def standing(self, standing: Standing) -> None:
        """Do nothing."""

    def say(self, text: str) -> None:
        """Do nothing."""

    def result(self, facts: Mapping[str, Any]) -> None:
        """Do nothing."""

    def close(self) -> None:
        """Do nothing."""


def standing_line(pace: Pace) -> str:
    """Return where generation is in one line, with the categories furthest behind."""
    if (standing := pace.standing) is None:
        return ""
    short = standing.furthest_behind()
    named = [f"{name} {standing.accepted.get(name, 0)}/{standing.wanted[name]}" for name in short[:NAMED]]
    more = [f"{len(short) - NAMED} more"] if len(short) > NAMED else []
    behind = [f"behind: {', '.join([*named, *more])}"] if named else []
    first, *others = _facts(pace, standing)
    return f"generate: {', '.join([*first, *(fact for line in others for fact in line), *behind])}"


def standing_view(pace: Pace, rows: int) -> list[RenderableType]:
    """Return a table with a bar for each category, the furthest behind if there are more than `rows`, and the facts."""
    if (standing := pace.standing) is None:
        return []
    names = list(standing.wanted)
    if len(names) > rows:
        behind = standing.furthest_behind()
        names = [*behind, *(name for name in names if name not in set(behind))][:rows]
    table = Table(box=None, pad_edge=False, header_style="dim")
    table.add_column("category", no_wrap=True, overflow="ellipsis", max_width=32)
    table.add_column("")
    for heading in ("accepted", "wanted", "yield", "asked"):
        table.add_column(heading, justify="right", no_wrap=True)
    for name in names:
        wanted, accepted, born = standing.wanted[name], standing.accepted.get(name, 0), standing.born.get(name, 0)
        bar = ProgressBar(total=max(wanted, 1), completed=min(accepted, wanted) if wanted else 1, width=20)
        rate = f"{accepted / born:.2f}" if born else "?"
        table.add_row(Text(printable(name)), bar, str(accepted), str(wanted), rate, str(born))
    shown: list[RenderableType] = [table]
    if others := [name for name in standing.wanted if name not in set(names)]:
        wanted, missing = (sum(counts[name] for name in others) for counts in (standing.wanted, standing.missing))
        shown.append(Text(f"and {len(others)} more categories: {wanted - missing}/{wanted}", style="dim"))
    return [
        *shown,
        *(Text("   ".join(line), no_wrap=True, overflow="ellipsis") for line in _facts(pace, standing) if line),
    ]


def printable(text: str) -> str:
    r"""Return a text in one line that can do nothing to a terminal: control characters and the like as `\x1b`."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode("ascii") for c in text)


def duration(seconds: float | None) -> str:
    """Return a time in words, to about two digits; `?` if it is not known."""
    if seconds is None or not math.isfinite(seconds):
        return "?"
    minutes = round(seconds / 60)
    if seconds < 99.5:
        return f"{seconds:.0f} s"
    if minutes < 100:
        return f"{minutes} min"
    if minutes < 48 * 60:
        return f"{minutes // 60} h {minutes % 60:02d} min"
    return f"{minutes // 1440} d {minutes % 1440 // 60} h"


def _facts(pace: Pace, standing: Standing) -> list[list[str]]:
    """Return what there is to say, in the lines of a terminal."""
    rate, left, overall = standing.rate, pace.seconds_left(), pace.overall()
    tokens = standing.prompt_tokens + standing.completion_tokens
    speed = f"{_speed(pace.recent())} written tokens/s"
    ahead = [f"{'' if left is None else 'about '}{duration(left)} left"] if any(standing.missing.values()) else []
    return [
        [
            f"wave {standing.wave}", f"{standing.done}/{sum(standing.wanted.values())} candidates",
            f"yield {'?' if rate is None else f'{rate:.2f}'}", f"after {duration(pace.seconds())}", *ahead,
        ],
        [
            speed if overall is None else f"{speed} ({_speed(overall)} overall)", f"{tokens:,} tokens",
            f"{standing.in_flight} in flight",
        ],
        [f"{name} {_amount(name, spent)}/{_amount(name, allowed)}" for name, (spent, allowed) in standing.budget.items()],
    ]  # fmt: skip


def _speed(speed: float | None) -> str:
    return "?" if speed is None else f"{speed:,.0f}" if speed >= 10 else f"{speed:.1f}"


def _amount(name: str, value: float) -> str:
    return f"{value:.2f}" if name == "hours" else f"{value:,.0f}"


def _finite(value: Any) -> Any:
    """Return a JSON value in which a number that JSON has no word for is null."""
    if isinstance(value, Mapping):
        return {str(key): _finite(inner) for key, inner in value.items()}
    if isinstance(value, (list, tuple)):
        return [_finite(inner) for inner in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


class _Said(io.TextIOBase):
    """A stream that tells every line written to it."""

    def __init__(self, say: Callable[[str], None]) -> None:
        self._say, self._rest = say, ""

    def writable(self) -> bool:
        return True

    def write(self, text: str) -> int:
        *lines, self._rest = (self._rest + text).split("\n")
        for line in lines:
            if line.strip():
                self._say(line)
        return len(text)

    def finish(self) -> None:
        """Tell a last line that has no end."""
        self.write("\n")
