"""Progress, messages and the result as JSON Lines, for a program that reads stderr."""

import io
import json
import logging
import math
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict
from datetime import UTC, datetime
from typing import Any, TextIO

from kiloset.cli.generation import Throughput
from kiloset.core.errors import KilosetError
from kiloset.core.progress import GenerationProgress

EVENT_SECONDS = 1.0
"""Smallest number of seconds between two `generation` or two `advance` events."""


class JsonLines:
    """Writes one object per event; of frequent events of one kind, it writes one per `EVENT_SECONDS` and the last one."""

    def __init__(
        self, stream: TextIO, clock: Callable[[], float] = time.monotonic,
        now: Callable[[], datetime] = lambda: datetime.now(UTC),
    ) -> None:  # fmt: skip
        """Write to this stream."""
        self._stream, self._clock, self._now = stream, clock, now
        self._throughput = Throughput(clock)
        self._phase: dict[str, Any] | None = None
        self._start = 0.0
        self._delayed: dict[str, dict[str, Any]] = {}
        self._last: dict[str, float] = {}

    def begin(self, label: str, total: int) -> None:
        """Write a `begin` event."""
        self._write_now("begin", label=label, total=total)
        self._phase, self._start = {"label": label, "total": total, "done": 0}, self._clock()

    def advance(self, amount: int = 1, note: str = "") -> None:
        """Write an `advance` event now, or, if the last one was less than `EVENT_SECONDS` ago, later."""
        if self._phase is not None:
            self._phase["done"] += amount
            self._write_or_delay("advance", **self._phase, note=note)

    def end(self) -> None:
        """Write an `end` event."""
        if self._phase is not None:
            self._write_now("end", **self._phase, seconds=round(self._clock() - self._start, 3))
            self._phase = None

    def update_generation(self, progress: GenerationProgress) -> None:
        """Write a `generation` event now, or, if the last one was less than `EVENT_SECONDS` ago, later."""
        self._throughput.add(progress)
        budget = {name: {"spent": spent, "allowed": limit} for name, (spent, limit) in progress.budget.items()}
        speeds = {
            "tokens_per_second": self._throughput.recent(), "overall_tokens_per_second": self._throughput.overall(),
            "seconds_left": self._throughput.seconds_left(),
        }  # fmt: skip
        self._write_or_delay("generation", **{**asdict(progress), "budget": budget, **speeds})

    def message(self, record: logging.LogRecord) -> None:
        """Write a `message` event."""
        self._write_now("message", level=record.levelname.lower(), text=record.getMessage())

    def result(self, facts: Mapping[str, Any]) -> None:
        """Write a `result` event."""
        self._write_now("result", **facts)

    def error(self, error: KilosetError) -> None:
        """Write an `error` event with the exit status that follows."""
        self._write_now("error", code=error.code, text=str(error), status=2)

    def close(self) -> None:
        """Write the delayed events."""
        for name in list(self._delayed):
            self._write(self._delayed.pop(name))

    def _write_or_delay(self, name: str, **facts: Any) -> None:
        self._delayed[name] = self._stamped(name, facts)
        if self._clock() - self._last.get(name, -math.inf) >= EVENT_SECONDS:
            self._last[name] = self._clock()
            self._write(self._delayed.pop(name))

    def _write_now(self, name: str, **facts: Any) -> None:
        self.close()
        self._write(self._stamped(name, facts))

    def _stamped(self, name: str, facts: Mapping[str, Any]) -> dict[str, Any]:
        when = self._now().astimezone(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
        return {"event": name, "time": when, **facts}

    def _write(self, event: Mapping[str, Any]) -> None:
        # ASCII: a name cannot carry a control character, and the line is valid in whatever encoding the stream has.
        self._stream.write(json.dumps(_finite(event), ensure_ascii=True, allow_nan=False) + "\n")
        self._stream.flush()


class LineStream(io.TextIOBase):
    """A text stream that passes every line written to it to a function."""

    def __init__(self, write_line: Callable[[str], None]) -> None:
        """Start with an empty line."""
        self._write_line, self._rest = write_line, ""

    def write(self, text: str) -> int:
        """Pass the finished lines on."""
        *lines, self._rest = (self._rest + text).split("\n")
        for line in filter(str.strip, lines):
            self._write_line(line)
        return len(text)


def _finite(value: Any) -> Any:
    """Return a JSON value with null in place of NaN and infinity, which JSON cannot express."""
    if isinstance(value, Mapping):
        return {str(key): _finite(inner) for key, inner in value.items()}
    if isinstance(value, (list, tuple)):
        return [_finite(inner) for inner in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
