"""The peak memory of this process and all its descendants together, sampled once a second.

A page that several processes share counts once (the proportional set size, Pss, which only Linux has: elsewhere the peak is
0). Not counted: memory of a GPU, processes on other machines, and peaks between two samples.
"""

import os
import threading
from types import TracebackType

INTERVAL = 1.0
"""Seconds between two samples."""


class PeakMemory:
    """Measures the peak memory while a `with` block runs."""

    def __init__(self, interval: float = INTERVAL) -> None:
        """Measure once every `interval` seconds, and at the beginning and the end of the block."""
        self.gib = 0.0
        self._interval, self._ended = interval, threading.Event()
        self._thread = threading.Thread(target=self._run, name="kiloset-memory", daemon=True)

    def __enter__(self) -> "PeakMemory":
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._ended.set()
        self._thread.join()

    def _run(self) -> None:
        is_over = False
        while True:
            self.gib = max(self.gib, sum(map(_pss, family(os.getpid()))) / 2**30)
            if is_over:
                return
            is_over = self._ended.wait(self._interval)


def family(pid: int) -> list[int]:
    """Return a process and its descendants."""
    import psutil

    return [pid, *(child.pid for child in psutil.Process(pid).children(recursive=True))]


def _pss(pid: int) -> int:
    """Return the memory of a process in bytes, 0 if it has ended."""
    import psutil

    try:
        return int(getattr(psutil.Process(pid).memory_full_info(), "pss", 0))
    except psutil.Error:
        return 0
