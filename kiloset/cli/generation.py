"""The speed of generation, its time left, and its state in one line."""

import time
from bisect import bisect_right
from collections.abc import Callable

from kiloset.cli.text import duration
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
    recent, overall, seconds_left = throughput.recent(), throughput.overall(), throughput.seconds_left()
    facts = [
        f"generate: wave {progress.wave}", f"{progress.done}/{sum(progress.wanted.values())} candidates",
        f"yield {'?' if progress.rate is None else f'{progress.rate:.2f}'}", f"after {duration(throughput.seconds())}",
    ]  # fmt: skip
    if any(progress.missing.values()):
        facts.append(f"{'' if seconds_left is None else 'about '}{duration(seconds_left)} left")
    facts.append(
        f"{_speed(recent)} written tokens/s" + (f" ({_speed(overall)} overall)" if overall is not None else "")
    )
    facts += [f"{progress.prompt_tokens + progress.completion_tokens:,} tokens", f"{progress.in_flight} in flight"]
    for name, (spent, limit) in progress.budget.items():
        facts.append(f"{name} {spent:.2f}/{limit:.2f}" if name == "hours" else f"{name} {spent:,.0f}/{limit:,.0f}")
    if short := progress.furthest_behind():
        named = [f"{name} {progress.accepted.get(name, 0)}/{progress.wanted[name]}" for name in short[:NAMED]]
        more = [f"{len(short) - NAMED} more"] if len(short) > NAMED else []
        facts.append(f"behind: {', '.join([*named, *more])}")
    return ", ".join(facts)


def _speed(speed: float | None) -> str:
    return "?" if speed is None else f"{speed:,.0f}" if speed >= 10 else f"{speed:.1f}"
