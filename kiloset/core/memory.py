"""The peak memory of this process and all its descendants together, sampled once a second from /proc.

A page that several processes share counts once (the proportional set size, Pss, of smaps_rollup). Not counted: memory of a
GPU, processes on other machines, and peaks between two samples. Without /proc the peak is 0.
"""

import contextlib
import os
import threading
from pathlib import Path
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
    children: dict[int, list[int]] = {}
    for folder in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError, ValueError, IndexError):
            # The name in parentheses may contain spaces; state and parent follow it.
            parent = int((folder / "stat").read_text(errors="replace").rpartition(")")[2].split()[1])
            children.setdefault(parent, []).append(int(folder.name))
    members = [pid]
    for member in members:
        members += children.get(member, [])
    return members


def _pss(pid: int) -> int:
    """Return the memory of a process in bytes, 0 if it has ended."""
    with contextlib.suppress(OSError, StopIteration):
        lines = Path(f"/proc/{pid}/smaps_rollup").read_text(errors="replace").splitlines()
        return int(next(line for line in lines if line.startswith("Pss:")).split()[1]) * 1024
    return 0
