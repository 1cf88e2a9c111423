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
"""Least seconds between two `generation` or two `advance` events."""


class JsonLines:
    """Writes one object per event; events that come too often are held back, except the last one."""

    def __init__(
        self, stream: TextIO, clock: Callable[[], float] = time.monotonic,
        now: Callable[[], datetime] = lambda: datetime.now(UTC),
    ) -> None:  # fmt: skip
        """Write to this stream."""
        self._stream, self._clock, self._now = stream, clock, now
        self._throughput = Throughput(clock)
        self._phase: dict[str, Any] | None = None
        self._start = 0.0
        self._held: dict[str, dict[str, Any]] = {}
        self._last: dict[str, float] = {}

    def begin(self, label: str, total: int) -> None:
        """Write a `begin` event."""
        self._event("begin", label=label, total=total)
        self._phase, self._start = {"label": label, "total": total, "done": 0}, self._clock()

    def advance(self, amount: int = 1, note: str = "") -> None:
        """Write an `advance` event, or hold it back."""
        if self._phase is not None:
            self._phase["done"] += amount
            self._frequent_event("advance", **self._phase, note=note)

    def end(self) -> None:
        """Write an `end` event."""
        if self._phase is not None:
            self._event("end", **self._phase, seconds=round(self._clock() - self._start, 3))
            self._phase = None

    def update_generation(self, progress: GenerationProgress) -> None:
        """Write a `generation` event, or hold it back."""
        self._throughput.add(progress)
        budget = {name: {"spent": spent, "allowed": limit} for name, (spent, limit) in progress.budget.items()}
        speeds = {
            "tokens_per_second": self._throughput.recent(), "overall_tokens_per_second": self._throughput.overall(),
            "seconds_left": self._throughput.seconds_left(),
        }  # fmt: skip
        self._frequent_event("generation", **{**asdict(progress), "budget": budget, **speeds})

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

    def _frequent_event(self, name: str, **facts: Any) -> None:
        self._held[name] = self._stamped(name, facts)
        if self._clock() - self._last.get(name, -math.inf) >= EVENT_SECONDS:
            self._last[name] = self._clock()
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
