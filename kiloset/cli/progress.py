"""Progress and messages on stderr: a live table on a terminal, a line every 30 s elsewhere, or JSON Lines for a program."""

import io
import json
import logging
import math
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager, redirect_stderr
from dataclasses import asdict
from datetime import UTC, datetime
from typing import Any, Literal, Protocol, TextIO

from rich.console import Console, RenderableType
from rich.progress import BarColumn, MofNCompleteColumn, SpinnerColumn, Task, TextColumn, TimeRemainingColumn
from rich.progress import Progress as RichProgress
from rich.text import Text

from kiloset.cli.generation import NAMED, Throughput, generation_line, generation_view
from kiloset.cli.text import printable
from kiloset.core.errors import KilosetError
from kiloset.core.progress import GenerationProgress, Progress

Mode = Literal["auto", "live", "lines", "json", "none"]

LINE_SECONDS = 30.0
"""Seconds between two lines where there is no terminal to redraw."""
EVENT_SECONDS = 1.0
"""Least seconds between two JSON events of the same kind."""
REDRAWS = 4
"""Redraws of a terminal per second."""
MARGIN_LINES = 8
"""Lines of a terminal that the table of categories leaves free."""

Clock = Callable[[], float]
logger = logging.getLogger("kiloset")


class Display(Progress, Protocol):
    """Shows the progress, the messages and the result of a command."""

    def message(self, record: logging.LogRecord) -> None:
        """Show a message of the logger `kiloset`."""

    def result(self, facts: Mapping[str, Any]) -> None:
        """Report the result to a program."""

    def close(self) -> None:
        """Write what is still pending and clear what was drawn."""


@contextmanager
def progress_on_stderr(mode: Mode) -> Iterator[Display]:
    """Show progress and the messages of the logger `kiloset` on stderr until the block ends.

    `auto` is `live` on a terminal and `lines` elsewhere. With `json`, everything on stderr is an event: Python code that
    writes to stderr causes a `message`, a deliberate error ends the program with an `error` and status 2. What other
    programs and C libraries write to stderr stays as it is.
    """
    if mode == "json":
        events = JsonLines(sys.stderr)
        stream = _LineStream(logger.warning)
        with _logged_to(events), redirect_stderr(stream):
            try:
                yield events
            except KilosetError as error:
                events.error(error)
                raise SystemExit(2) from None
            finally:
                stream.write("\n")
        return
    console = Console(stderr=True, quiet=mode == "none", force_terminal=True if mode == "live" else None)
    live = mode == "live" or (mode == "auto" and console.is_terminal and not console.is_dumb_terminal)
    with _logged_to(ConsoleProgress(console, live=live)) as display:
        yield display


@contextmanager
def _logged_to(display: Display) -> Iterator[Display]:
    """Send the messages of the logger `kiloset` to a display alone, and close the display at the end."""
    handler = logging.Handler()
    handler.emit = display.message  # type: ignore[method-assign]
    level, logger.propagate = logger.level, False
    logger.setLevel(logging.INFO)
    logger.addHandler(handler)
    try:
        yield display
    finally:
        display.close()
        logger.removeHandler(handler)
        logger.setLevel(level)
        logger.propagate = True


class _Drawing(RichProgress):
    """A progress bar, or the table of generation, redrawn in place; where `disable` is set, only a counter."""

    generation: Throughput | None = None

    def get_renderables(self) -> Iterable[RenderableType]:
        """Return what is drawn."""
        if self.generation is not None:
            yield from generation_view(self.generation, rows=max(NAMED, self.console.size.height - MARGIN_LINES))
        if self.tasks:
            yield self.make_tasks_table(self.tasks)


class ConsoleProgress:
    """Shows a phase, or generation, redrawn in place or in a line every 30 s, and leaves a line at its end."""

    def __init__(self, console: Console, *, live: bool, clock: Clock = time.monotonic) -> None:
        """Write to this console; `live` redraws it, which needs a terminal."""
        self._console, self._live, self._clock = console, live, clock
        self._drawing: _Drawing | None = None
        self._printed = 0.0

    def begin(self, label: str, total: int) -> None:
        """Start a bar."""
        self._open().add_task(printable(label), total=total, rate="", note="")

    def advance(self, amount: int = 1, note: str = "") -> None:
        """Move the bar."""
        if self._drawing is not None and (task := next(iter(self._drawing.tasks), None)) is not None:
            self._drawing.update(task.id, advance=amount, note=printable(note))
            self._drawing.update(task.id, rate=_rate(task))
            if task.completed and self._is_due():
                seconds = (task.remaining or 0) * (task.elapsed or 0) / task.completed
                self._print(_phase_line(task, f"{seconds:.0f} s left"))

    def end(self) -> None:
        """Replace what is drawn by one line."""
        if (drawing := self._drawing) is None:
            return
        self._drawing = None
        drawing.stop()
        if drawing.generation is not None:
            self._print(generation_line(drawing.generation))
        for task in drawing.tasks:
            self._print(_phase_line(task, f"{task.elapsed or 0:.0f} s"))

    def update_generation(self, progress: GenerationProgress) -> None:
        """Take the new state; it is drawn with the next redraw."""
        throughput = None if self._drawing is None else self._drawing.generation
        if throughput is None:
            throughput = self._open().generation = Throughput(self._clock)
        throughput.add(progress)
        if self._is_due():
            self._print(generation_line(throughput))

    def message(self, record: logging.LogRecord) -> None:
        """Print a message above what is drawn."""
        style = "yellow" if record.levelno >= logging.WARNING else "dim"
        self._console.print(Text(printable(record.getMessage()), style=style), soft_wrap=True)

    def result(self, facts: Mapping[str, Any]) -> None:
        """Do nothing: the command prints its result."""

    def close(self) -> None:
        """Replace what is drawn by one line."""
        self.end()

    def _open(self) -> _Drawing:
        self.end()
        columns = (
            SpinnerColumn(), TextColumn("{task.description}", markup=False), BarColumn(bar_width=24),
            MofNCompleteColumn(), TextColumn("{task.fields[rate]}", markup=False), TimeRemainingColumn(),
            TextColumn("{task.fields[note]}", markup=False),
        )  # fmt: skip
        self._drawing = _Drawing(
            *columns, console=self._console, refresh_per_second=REDRAWS, transient=True, get_time=self._clock,
            disable=not self._live,
        )  # fmt: skip
        self._drawing.start()
        self._printed = self._clock()
        return self._drawing

    def _is_due(self) -> bool:
        if self._live or self._clock() - self._printed < LINE_SECONDS:
            return False
        self._printed = self._clock()
        return True

    def _print(self, text: str) -> None:
        self._console.print(Text("  " + printable(text)), soft_wrap=True)


def _rate(task: Task) -> str:
    seconds = task.elapsed or 0.0
    return f"{task.completed / seconds:.1f}/s" if seconds > 0.5 else ""


def _phase_line(task: Task, ending: str) -> str:
    count = f"{task.description}: {task.completed:.0f}/{task.total:.0f}"
    return ", ".join(part for part in (count, _rate(task), task.fields["note"], ending) if part)


class JsonLines:
    """Writes one JSON object per event: at most one `generation` and one `advance` a second, the last one always."""

    def __init__(
        self, stream: TextIO, clock: Clock = time.monotonic, now: Callable[[], datetime] = lambda: datetime.now(UTC)
    ) -> None:
        """Write to this stream."""
        self._stream, self._clock, self._now = stream, clock, now
        self._throughput = Throughput(clock)
        self._phase: dict[str, Any] | None = None
        self._start = 0.0
        self._held: dict[str, dict[str, Any]] = {}
        self._sent: dict[str, float] = {}

    def begin(self, label: str, total: int) -> None:
        """Write a `begin` event."""
        self._phase, self._start = {"label": label, "total": total}, self._clock()
        self._event("begin", **self._phase)
        self._phase["done"] = 0

    def advance(self, amount: int = 1, note: str = "") -> None:
        """Write an `advance` event, unless one was written less than a second ago."""
        if self._phase is not None:
            self._phase["done"] += amount
            self._throttled("advance", **self._phase, note=note)

    def end(self) -> None:
        """Write an `end` event."""
        if self._phase is not None:
            self._event("end", **self._phase, seconds=round(self._clock() - self._start, 3))
            self._phase = None

    def update_generation(self, progress: GenerationProgress) -> None:
        """Write a `generation` event, unless one was written less than a second ago."""
        self._throughput.add(progress)
        facts = asdict(progress)
        facts["budget"] = {name: {"spent": spent, "allowed": limit} for name, (spent, limit) in progress.budget.items()}
        facts["tokens_per_second"] = self._throughput.recent()
        facts["overall_tokens_per_second"] = self._throughput.overall()
        self._throttled("generation", **facts, seconds_left=self._throughput.seconds_left())

    def message(self, record: logging.LogRecord) -> None:
        """Write a `message` event."""
        self._event("message", level=record.levelname.lower(), text=record.getMessage())

    def result(self, facts: Mapping[str, Any]) -> None:
        """Write a `result` event."""
        self._event("result", **facts)

    def error(self, error: KilosetError) -> None:
        """Write an `error` event with the exit status that follows."""
        self._event("error", code=error.code, text=str(error), status=2)

    def close(self) -> None:
        """Write the events that were held back."""
        for name in list(self._held):
            self._write(self._held.pop(name))

    def _throttled(self, name: str, **facts: Any) -> None:
        now = self._clock()
        self._held[name] = self._stamped(name, facts)
        if now - self._sent.get(name, -math.inf) >= EVENT_SECONDS:
            self._sent[name] = now
            self._write(self._held.pop(name))

    def _event(self, name: str, **facts: Any) -> None:
        self.close()
        self._write(self._stamped(name, facts))

    def _stamped(self, name: str, facts: Mapping[str, Any]) -> dict[str, Any]:
        when = self._now().astimezone(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
        return {"event": name, "time": when, **facts}

    def _write(self, event: Mapping[str, Any]) -> None:
        # ASCII: a name cannot carry a control character, and the line is valid in whatever encoding the stream has.
        self._stream.write(json.dumps(_finite(event), ensure_ascii=True, allow_nan=False) + "\n")
        self._stream.flush()


def _finite(value: Any) -> Any:
    """Return a JSON value with null in place of NaN and infinity, which JSON cannot express."""
    if isinstance(value, Mapping):
        return {str(key): _finite(inner) for key, inner in value.items()}
    if isinstance(value, (list, tuple)):
        return [_finite(inner) for inner in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


class _LineStream(io.TextIOBase):
    """A text stream that passes every line written to it to a function."""

    def __init__(self, write_line: Callable[[str], None]) -> None:
        self._write_line, self._rest = write_line, ""

    def writable(self) -> bool:
        return True

    def write(self, text: str) -> int:
        *lines, self._rest = (self._rest + text).split("\n")
        for line in lines:
            if line.strip():
                self._write_line(line)
        return len(text)
