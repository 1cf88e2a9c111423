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
from typing import Any, Literal, TextIO

from rich.console import Console, RenderableType
from rich.progress import BarColumn, MofNCompleteColumn, Task, TextColumn
from rich.progress import Progress as RichProgress
from rich.text import Text

from kiloset.cli.generation import NAMED, Throughput, generation_line
from kiloset.cli.text import printable
from kiloset.core.errors import KilosetError
from kiloset.core.progress import GenerationProgress

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


@contextmanager
def progress_on_stderr(mode: Mode) -> "Iterator[Display]":
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
def _logged_to(display: "Display") -> "Iterator[Display]":
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


class _Bars(RichProgress):
    """Progress bars with the state of generation below; with `disable` they only count."""

    generation: Throughput | None = None

    def get_renderables(self) -> Iterable[RenderableType]:
        """Return what is drawn."""
        yield from super().get_renderables()
        if self.generation is not None:
            yield Text(printable(generation_line(self.generation)))


class ConsoleProgress:
    """Shows a phase, or the categories of generation, redrawn in place or as a line every 30 s, and a line at the end."""

    def __init__(self, console: Console, *, live: bool, clock: Clock = time.monotonic) -> None:
        """Write to this console; `live` redraws it, which needs a terminal."""
        self._console, self._live, self._clock = console, live, clock
        self._bars: _Bars | None = None
        self._printed = 0.0

    def begin(self, label: str, total: int) -> None:
        """Start a bar."""
        self._open().add_task(printable(label), total=total, note="", text="")

    def advance(self, amount: int = 1, note: str = "") -> None:
        """Move the bar."""
        if (bars := self._bars) is not None and bars.generation is None:
            (task,) = bars.tasks
            bars.update(task.id, advance=amount, note=printable(note))
            seconds = (task.remaining or 0) * (task.elapsed or 0) / max(task.completed, 1)
            bars.update(task.id, text=_facts(task, f"{seconds:.0f} s left"))
            if self._is_due():
                self._print(f"{task.description}: {task.completed:.0f}/{task.total:.0f}, {task.fields['text']}")

    def end(self) -> None:
        """Replace what is drawn by one line."""
        if (bars := self._bars) is None:
            return
        self._bars = None
        bars.stop()
        if bars.generation is not None:
            self._print(generation_line(bars.generation))
        else:
            (task,) = bars.tasks
            facts = _facts(task, f"{task.elapsed or 0:.0f} s")
            self._print(f"{task.description}: {task.completed:.0f}/{task.total:.0f}, {facts}")

    def update_generation(self, progress: GenerationProgress) -> None:
        """Move the bars of the categories."""
        bars = self._bars
        if bars is None or bars.generation is None:
            bars = self._open()
            bars.generation = Throughput(self._clock)
            for name in progress.wanted:
                bars.add_task(printable(name), text="")
        bars.generation.add(progress)
        most = max(NAMED, self._console.size.height - MARGIN_LINES)
        visible = set([*progress.furthest_behind(), *progress.wanted][:most])
        for task, (name, wanted) in zip(bars.tasks, progress.wanted.items(), strict=True):
            accepted, requested = progress.accepted.get(name, 0), progress.requested.get(name, 0)
            text = f"yield {accepted / requested:.2f} of {requested} requested" if requested else ""
            bars.update(task.id, completed=accepted, total=wanted, text=text, visible=name in visible)
        if self._is_due():
            self._print(generation_line(bars.generation))

    def message(self, record: logging.LogRecord) -> None:
        """Print a message above what is drawn."""
        style = "yellow" if record.levelno >= logging.WARNING else "dim"
        self._console.print(Text(printable(record.getMessage()), style=style), soft_wrap=True)

    def result(self, facts: Mapping[str, Any]) -> None:
        """Do nothing: the command prints its result."""

    def close(self) -> None:
        """Replace what is drawn by one line."""
        self.end()

    def _open(self) -> _Bars:
        self.end()
        description, text = (TextColumn(f"{{task.{name}}}", markup=False) for name in ("description", "fields[text]"))
        self._bars = _Bars(
            description, BarColumn(bar_width=24), MofNCompleteColumn(), text, console=self._console,
            refresh_per_second=REDRAWS, transient=True, get_time=self._clock, disable=not self._live,
        )  # fmt: skip
        self._bars.start()
        self._printed = self._clock()
        return self._bars

    def _is_due(self) -> bool:
        if self._live or self._clock() - self._printed < LINE_SECONDS:
            return False
        self._printed = self._clock()
        return True

    def _print(self, text: str) -> None:
        self._console.print(Text("  " + printable(text)), soft_wrap=True)


def _facts(task: Task, time: str) -> str:
    seconds = task.elapsed or 0.0
    rate = f"{task.completed / seconds:.1f}/s" if seconds > 0.5 else ""
    return ", ".join(fact for fact in (rate, task.fields["note"], time) if fact)


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


Display = ConsoleProgress | JsonLines


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
