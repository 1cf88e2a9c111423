"""Joining a cluster, and the errors if there is none. No cluster is started here."""

import socket
import sys
from types import SimpleNamespace

import pytest

from kiloset.core.errors import ModelError
from kiloset.engines.ray import connect
from kiloset.engines.settings import EngineConfig


@pytest.fixture
def asked(monkeypatch):
    """What a stand-in of Ray was asked to join."""
    calls = []
    fake = SimpleNamespace(is_initialized=lambda: False, init=lambda **loaded: calls.append(loaded["address"]))
    monkeypatch.setitem(sys.modules, "ray", fake)
    return calls


def test_without_an_address_a_cluster_of_its_own_is_started_never_one_that_happens_to_run(asked):
    connect(EngineConfig(kind="ray"))
    assert asked == ["local"]


def test_an_address_is_knocked_at_before_it_is_joined(asked):
    with socket.create_server(("127.0.0.1", 0)) as server:
        address = f"127.0.0.1:{server.getsockname()[1]}"
        connect(EngineConfig(kind="ray", address=address))
    assert asked == [address]
    with pytest.raises(ModelError, match="cannot reach a Ray cluster there"):
        connect(EngineConfig(kind="ray", address=address))
    assert asked == [address]


def test_an_error_of_ray_becomes_one_line(asked, monkeypatch):
    def fails(**_):
        raise ConnectionError("nobody\nat home")

    monkeypatch.setattr(sys.modules["ray"], "init", fails)
    with pytest.raises(
        ModelError, match=r"\[engine\] address = 'auto': .*\(nobody\); start one with `ray start --head`"
    ):
        connect(EngineConfig(kind="ray", address="auto"))


def test_without_ray_the_extra_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(ModelError, match="needs Ray, which is not installed; install the extra `ray`"):
        connect(EngineConfig(kind="ray"))
