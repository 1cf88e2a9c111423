"""How far generation is, how fast it goes, and how long it may still take."""

import time
from bisect import bisect_right
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

WINDOW = 60.0
"""Seconds over which the recent speed is measured."""
POINTS_APART = 0.25
"""Least seconds between two points that are remembered for it."""
LEAST_SECONDS = 0.5
"""Over less than that no speed is told."""


@dataclass(frozen=True, slots=True)
class Standing:
    """The loop's standing after a completion."""

    wave: int
    """Number of the wave under way, from 1."""
    wanted: Mapping[str, int]
    """Candidates wanted, by category."""
    accepted: Mapping[str, int]
    """Candidates that passed so far, by category; provisional while a wave runs."""
    born: Mapping[str, int]
    """Instructions asked for so far, by category."""
    in_flight: int
    """Requests without an answer yet."""
    requests: int
    """Requests answered so far, those found in the store among them."""
    sent: int
    """Requests that this process really sent."""
    prompt_tokens: int
    """Of the requests that this process really sent, as is `completion_tokens`."""
    completion_tokens: int
    budget: Mapping[str, tuple[float, float]]
    """`requests`, `tokens` and `hours`, those that are limited: (spent, allowed)."""

    @property
    def missing(self) -> dict[str, int]:
        """Candidates still missing, by category; what one has too many is no help to another."""
        return {name: max(0, wanted - self.accepted.get(name, 0)) for name, wanted in self.wanted.items()}

    @property
    def done(self) -> int:
        """Candidates accepted, no more of a category than are wanted."""
        return sum(self.wanted.values()) - sum(self.missing.values())

    @property
    def rate(self) -> float | None:
        """Candidates accepted per instruction asked for, None before any was."""
        born = sum(self.born.values())
        return sum(self.accepted.values()) / born if born else None

    def furthest_behind(self) -> list[str]:
        """Return the categories that miss candidates, the one with the smallest share of them first."""
        short = [name for name, missing in self.missing.items() if missing]
        return sorted(
            short, key=lambda name: (self.accepted.get(name, 0) / self.wanted[name], -self.missing[name], name)
        )


class Pace:
    """Measures a row of standings against the clock; all speeds are of written tokens, in tokens per second."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        """Begin with nothing to go by."""
        self._clock = clock
        self._points: tuple[tuple[float, int], ...] = ()
        self._first: tuple[float, int, int] = (0.0, 0, 0)
        self.standing: Standing | None = None
        """The last one noted."""

    def note(self, standing: Standing) -> None:
        """Take in a standing; counting begins with the first completion that was really sent, not found in the store."""
        now, written, before = self._clock(), standing.completion_tokens, self.standing
        if before is None or before.completion_tokens == 0:
            self._first = (now, written, sum(standing.accepted.values()))
            self._points = ((now, written),)
        elif now - self._points[-1][0] >= POINTS_APART:
            old = bisect_right(self._points, now - WINDOW, key=lambda point: point[0]) - 1
            self._points = (*self._points[max(old, 0) :], (now, written))
        # A copy: the loop may go on counting in its own tables while another thread draws this one.
        self.standing = replace(
            standing,
            wanted=dict(standing.wanted),
            accepted=dict(standing.accepted),
            born=dict(standing.born),
            budget=dict(standing.budget),
        )

    def recent(self) -> float | None:
        """Return the speed over the last `WINDOW` seconds, None before there is one."""
        points, now = self._points, self._clock()
        old = bisect_right(points, now - WINDOW, key=lambda point: point[0]) - 1
        return self._since(*points[max(old, 0)]) if points else None

    def overall(self) -> float | None:
        """Return the speed since counting began, None before there is one."""
        return self._since(*self._first[:2]) if self.standing is not None else None

    def seconds(self) -> float:
        """Return how long it has been since counting began."""
        return self._clock() - self._first[0] if self.standing is not None else 0.0

    def seconds_left(self) -> float | None:
        """Return the missing candidates, times the tokens one took so far, over the recent speed; None if none is known.

        Nor is it known before one candidate in ten is there: until then tokens were written for rows that are under way.
        """
        if self.standing is None:
            return None
        missing = sum(self.standing.missing.values())
        accepted = sum(self.standing.accepted.values()) - self._first[2]
        written, speed = self.standing.completion_tokens - self._first[1], self.recent()
        if not missing:
            return 0.0
        if sum(self.standing.accepted.values()) < sum(self.standing.wanted.values()) / 10:
            return None
        return missing * written / accepted / speed if accepted > 0 and written > 0 and speed else None

    def _since(self, began: float, written: int) -> float | None:
        seconds = self._clock() - began
        if self.standing is None or seconds < LEAST_SECONDS:
            return None
        return (self.standing.completion_tokens - written) / seconds
