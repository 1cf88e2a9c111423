"""The peak memory of a process and its descendants."""

import subprocess
import sys
from pathlib import Path

import pytest

from kiloset.core.memory import PeakMemory

pytestmark = pytest.mark.skipif(not Path("/proc/self/smaps_rollup").exists(), reason="needs smaps_rollup of Linux")

HOLD = "import sys, time; block = bytearray(b'x') * (96 << 20); print('ready', flush=True); sys.stdin.read()"


MEASURE = f"""
import os, subprocess, sys, time
from kiloset.core.memory import PeakMemory, family

with PeakMemory(interval=0.02) as alone:
    time.sleep(0.05)
with (
    PeakMemory(interval=0.02) as both,
    subprocess.Popen([sys.executable, "-c", {HOLD!r}], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as child,
):
    assert child.stdout.readline() == b"ready\\n"
    assert child.pid in family(os.getpid())
    time.sleep(0.2)
    child.stdin.close()
print(alone.gib, both.gib)
"""


def test_memory_of_a_child_counts_while_it_lives():
    # In a process of its own: the memory of a test process that has loaded models falls by itself while this measures.
    run = subprocess.run([sys.executable, "-c", MEASURE], capture_output=True, text=True, check=True)
    alone, both = map(float, run.stdout.split())
    assert alone > 0.005
    assert 0.09 < both - alone < 0.2


def test_the_measurement_ends_with_the_block_also_after_an_error():
    with pytest.raises(ZeroDivisionError), PeakMemory(interval=60.0) as memory:
        1 / 0  # noqa: B018
    assert not memory._thread.is_alive()
    assert memory.gib > 0
