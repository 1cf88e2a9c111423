"""Fixtures of several test files: one finished run on fakes that no test changes, copies of it, and the command line."""

import gc
import os
import shutil
import signal
import sys
from types import SimpleNamespace

import pytest

if "PYTEST_XDIST_WORKER" in os.environ:
    # Each worker has a core. Threads of OpenMP that share it wait for each other in a loop: a t-SNE of 300 rows takes 50 s
    # instead of 3 s. OpenMP reads the variable when it is loaded, which is not yet.
    os.environ.setdefault("OMP_NUM_THREADS", "1")

from kiloset.cli import main
from tests import fake_run
from tests.paths import ROOT


def pytest_collection():
    gc.disable()


def pytest_collection_finish():
    """Exclude imported objects from garbage collection: there are a million, and they stay until the end."""
    gc.freeze()
    gc.enable()


def pytest_unconfigure():
    gc.unfreeze()


TIMEOUTS = {"models": 1800, "large": 1800, "gpu": 1800, "cluster": 900}
"""Seconds for one test with this marker, its fixtures included."""


def pytest_collection_modifyitems(items):
    for item in items:
        for marker, seconds in TIMEOUTS.items():
            if item.get_closest_marker(marker) and not item.get_closest_marker("timeout"):
                item.add_marker(pytest.mark.timeout(seconds))


@pytest.fixture(scope="session")
def undisturbed(tmp_path_factory):
    """A finished run that no test changes: its folder, its result and the number of moments at which it can be halted."""
    folder, moments = tmp_path_factory.mktemp("runs") / "whole", fake_run.Moments()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "replace", os.replace)
        fake_run.count_renames(moments)
        result = fake_run.run(folder, moments=moments)
    return folder, result, moments.count


@pytest.fixture
def finished(undisturbed, tmp_path):
    """The folder runs/mine with a copy of the finished run, which the test may change."""
    return shutil.copytree(undisturbed[0], tmp_path / "runs" / "mine")


@pytest.fixture
def kiloset(monkeypatch, capsys):
    """Run the command line in this process, without its signal handlers."""

    def run(*arguments, cwd=ROOT):
        monkeypatch.chdir(cwd)
        monkeypatch.setattr(signal, "signal", lambda *_: None)
        monkeypatch.setattr(sys, "argv", ["kiloset", *map(str, arguments)])
        try:
            main()
            status = 0
        except SystemExit as ended:
            status = ended.code or 0
        output = capsys.readouterr()
        return SimpleNamespace(returncode=status, stdout=output.out, stderr=output.err)

    return run
