"""How the progress of generation is shown: its speed and time left, as one line or as a table by category."""

import time
from bisect import bisect_right
from collections.abc import Callable

from rich.console import RenderableType
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from kiloset.cli.text import duration, printable
from kiloset.core.progress import GenerationProgress

WINDOW = 60.0
"""Seconds over which the recent speed is measured."""
LEAST_SECONDS = 0.5
"""Shortest time over which a speed is computed."""
NAMED = 3
"""Categories named in a line."""


class Throughput:
    """Measures generation against the clock; a speed is in written tokens per second."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        """Start without a measurement."""
        self._clock = clock
        self._points: tuple[tuple[float, int], ...] = ()
        self._start: tuple[float, int, int] = (0.0, 0, 0)
        self.progress: GenerationProgress | None = None
        """The last state that was added."""

    def add(self, progress: GenerationProgress) -> None:
        """Add a state. The clock starts with the first completion of a request that was sent, so cache hits do not count."""
        now, written = self._clock(), progress.completion_tokens
        if self.progress is None or self.progress.completion_tokens == 0:
            self._start = (now, written, sum(progress.accepted.values()))
            self._points = ((now, written),)
        else:
            self._points = (*self._points[self._window_start(now) :], (now, written))
        self.progress = progress

    def recent(self) -> float | None:
        """Return the speed over the last `WINDOW` seconds, None while it is unknown."""
        return self._speed_since(*self._points[self._window_start(self._clock())]) if self._points else None

    def overall(self) -> float | None:
        """Return the speed since the clock started, None while it is unknown."""
        return self._speed_since(*self._start[:2])

    def seconds(self) -> float:
        """Return the seconds since the clock started."""
        return self._clock() - self._start[0] if self.progress is not None else 0.0

    def seconds_left(self) -> float | None:
        """Return missing candidates x tokens per candidate so far / recent speed; None while that is unknown.

        It stays unknown until a tenth of the candidates is accepted: before that, most tokens went into unfinished rows.
        """
        if (progress := self.progress) is None:
            return None
        missing, accepted = sum(progress.missing.values()), sum(progress.accepted.values())
        if not missing:
            return 0.0
        if accepted < sum(progress.wanted.values()) / 10:
            return None
        candidates, written = accepted - self._start[2], progress.completion_tokens - self._start[1]
        speed = self.recent()
        return missing * written / candidates / speed if candidates > 0 and written > 0 and speed else None

    def _window_start(self, now: float) -> int:
        return max(bisect_right(self._points, now - WINDOW, key=lambda point: point[0]) - 1, 0)

    def _speed_since(self, start: float, written: int) -> float | None:
        seconds = self._clock() - start
        if self.progress is None or seconds < LEAST_SECONDS:
            return None
        return (self.progress.completion_tokens - written) / seconds


def generation_line(throughput: Throughput) -> str:
    """Return the state of generation in one line, with the categories furthest behind."""
    if (progress := throughput.progress) is None:
        return ""
    short = progress.furthest_behind()
    named = [f"{name} {progress.accepted.get(name, 0)}/{progress.wanted[name]}" for name in short[:NAMED]]
    more = [f"{len(short) - NAMED} more"] if len(short) > NAMED else []
    behind = [f"behind: {', '.join([*named, *more])}"] if named else []
    return f"generate: {', '.join([*(fact for line in _facts(throughput, progress) for fact in line), *behind])}"


def generation_view(throughput: Throughput, rows: int) -> list[RenderableType]:
    """Return a table with a bar for each category, at most `rows` of them, furthest behind first, and the facts below."""
    if (progress := throughput.progress) is None:
        return []
    names = list(progress.wanted)
    if len(names) > rows:
        behind = progress.furthest_behind()
        names = [*behind, *(name for name in names if name not in set(behind))][:rows]
    table = Table(box=None, pad_edge=False, header_style="dim")
    table.add_column("category", no_wrap=True, overflow="ellipsis", max_width=32)
    table.add_column("")
    for heading in ("accepted", "target", "yield", "requested"):
        table.add_column(heading, justify="right", no_wrap=True)
    for name in names:
        wanted, accepted = progress.wanted[name], progress.accepted.get(name, 0)
        requested = progress.requested.get(name, 0)
        bar = ProgressBar(total=max(wanted, 1), completed=min(accepted, wanted) if wanted else 1, width=20)
        rate = f"{accepted / requested:.2f}" if requested else "?"
        table.add_row(Text(printable(name)), bar, str(accepted), str(wanted), rate, str(requested))
    view: list[RenderableType] = [table]
    if others := progress.wanted.keys() - set(names):
        wanted, missing = (sum(counts[name] for name in others) for counts in (progress.wanted, progress.missing))
        view.append(Text(f"and {len(others)} more categories: {wanted - missing}/{wanted}", style="dim"))
    facts = [line for line in _facts(throughput, progress) if line]
    return [*view, *(Text("   ".join(line), no_wrap=True, overflow="ellipsis") for line in facts)]


def _facts(throughput: Throughput, progress: GenerationProgress) -> list[list[str]]:
    """Return the totals, grouped as the lines of a terminal."""
    rate, seconds_left, overall = progress.rate, throughput.seconds_left(), throughput.overall()
    tokens = progress.prompt_tokens + progress.completion_tokens
    speed = f"{_speed(throughput.recent())} written tokens/s"
    about = "" if seconds_left is None else "about "
    ahead = [f"{about}{duration(seconds_left)} left"] if any(progress.missing.values()) else []
    return [
        [
            f"wave {progress.wave}", f"{progress.done}/{sum(progress.wanted.values())} candidates",
            f"yield {'?' if rate is None else f'{rate:.2f}'}", f"after {duration(throughput.seconds())}", *ahead,
        ],
        [
            speed if overall is None else f"{speed} ({_speed(overall)} overall)", f"{tokens:,} tokens",
            f"{progress.in_flight} in flight",
        ],
        [f"{name} {_amount(name, spent)}/{_amount(name, limit)}" for name, (spent, limit) in progress.budget.items()],
    ]  # fmt: skip


def _speed(speed: float | None) -> str:
    return "?" if speed is None else f"{speed:,.0f}" if speed >= 10 else f"{speed:.1f}"


def _amount(name: str, value: float) -> str:
    return f"{value:.2f}" if name == "hours" else f"{value:,.0f}"
