"""Progress and messages on stderr: a live table on a terminal, a line every 30 s elsewhere, or JSON Lines for a program."""

import logging
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager, redirect_stderr
from typing import Any, Literal

from rich.console import Console, RenderableType
from rich.progress import BarColumn, MofNCompleteColumn, Task, TextColumn
from rich.progress import Progress as RichProgress
from rich.text import Text

from kiloset.cli.generation import NAMED, Throughput, generation_line
from kiloset.cli.json_lines import JsonLines, LineStream
from kiloset.cli.text import printable
from kiloset.core.errors import KilosetError
from kiloset.core.progress import GenerationProgress

Mode = Literal["auto", "live", "lines", "json", "none"]

LINE_SECONDS = 30.0
"""Seconds between two lines where there is no terminal to redraw."""
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
        stream = LineStream(logger.warning)
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
                bars.add_task(printable(name), total=progress.wanted[name], text="")
        bars.generation.add(progress)
        most = max(NAMED, self._console.size.height - MARGIN_LINES)
        visible = [*dict.fromkeys([*progress.furthest_behind(), *progress.wanted])][:most]
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


Display = ConsoleProgress | JsonLines
