"""Engines on a real Ray cluster of one and of two nodes on this machine: equal results, and what is lost with a node."""

import os
import signal
import subprocess
import sys
import threading
import time
from contextlib import closing
from functools import partial

import numpy as np
import pytest

ray = pytest.importorskip("ray")

from kiloset.core.calls import CallStore  # noqa: E402
from kiloset.core.errors import ModelError  # noqa: E402
from kiloset.core.models import Request  # noqa: E402
from kiloset.core.progress import Silent  # noqa: E402
from kiloset.core.run import RunFolder  # noqa: E402
from kiloset.engines import ray_data  # noqa: E402
from kiloset.engines.ray import RayEngine  # noqa: E402
from kiloset.engines.ray_data import RayEmbedder, RayScorer  # noqa: E402
from kiloset.engines.settings import EngineConfig  # noqa: E402
from tests import fake_run  # noqa: E402
from tests.fakes import FakeEmbedder, FakeEngine, FakeScorer  # noqa: E402

pytestmark = pytest.mark.cluster
STORE = 200 * 2**20


class SlowEngine(FakeEngine):
    """A fake for two threads that takes its time and can be ordered to die."""

    def __init__(self, pause=0.005, deadly="", log=None):
        super().__init__()
        self._lock, self._wait, self._deadly, self._log = threading.Lock(), pause, deadly, log

    def submit(self, requests):
        with self._lock:
            super().submit(requests)

    def receive(self):
        time.sleep(self._wait)
        with self._lock:
            if any(request.prompt == self._deadly for request in self._waiting.values()):
                os._exit(1)
            key, completion = super().receive()
        if self._log:
            with open(self._log, "a") as file:
                file.write(f"{key}\n")
        return key, completion


def broken():
    raise ModelError("no model here")


@pytest.fixture(scope="module")
def head():
    from ray.cluster_utils import Cluster

    target = Cluster(initialize_head=True, head_node_args={"num_cpus": 2, "object_store_memory": STORE})
    yield target
    ray.shutdown()
    target.shutdown()


@pytest.fixture
def two_nodes(head):
    yield from _with_nodes(head, 1)


@pytest.fixture(params=[1, 2], ids=["one node", "two nodes"])
def cluster(head, request):
    yield from _with_nodes(head, request.param - 1)


def _with_nodes(head, more):
    added = [head.add_node(num_cpus=2, object_store_memory=STORE) for _ in range(more)]
    head.wait_for_nodes()
    yield head
    for node in added:
        if node in head.worker_nodes:
            head.remove_node(node)


def _config(cluster, **changes):
    return EngineConfig(kind="ray", address=cluster.address, **{"max_num_seqs": 8, "max_actors": 3, **changes})


def _requests(number):
    target = [Request(f"prompt {n}", "response", 16, 0.0, 1.0) for n in range(number)]
    return [(request.key("fake@1"), request) for request in target]


def _completed(requests):
    one = FakeEngine()
    one.submit(requests)
    return dict(one.receive() for _ in requests)


def test_a_node_and_an_actor_lost_cost_what_was_under_way_and_nothing_else(two_nodes):
    engine = RayEngine("fake@1", FakeEngine(), SlowEngine, _config(two_nodes, min_actors=3))
    requests, got = _requests(300), {}
    engine.submit(requests)
    room = 10  # 8 and a quarter more
    for number in range(300):
        key, completion = engine.receive()
        assert key not in got
        got[key] = completion
        assert all(len(actor.in_flight) <= room for actor in engine._actors)
        if number == 100:
            two_nodes.remove_node(next(iter(two_nodes.worker_nodes)))
        if number == 200:
            victim = next(actor for actor in engine._actors if actor.is_ready)
            ray.kill(victim._actor)
    assert got == _completed(requests)
    assert 0 < engine.repeated <= 4 * room
    engine.close()


def test_a_request_that_kills_its_engine_is_an_error_after_three_deaths(two_nodes):
    make = partial(SlowEngine, 0.001, "prompt 3")
    engine = RayEngine("fake@1", FakeEngine(), make, _config(two_nodes))
    engine.submit(_requests(8))
    with pytest.raises(ModelError, match="the engine of fake@1 died 3 times"):
        _ = [engine.receive() for _ in range(8)]


def test_an_engine_that_cannot_be_created_is_an_error_with_its_cause(two_nodes):
    engine = RayEngine("fake@1", FakeEngine(), broken, _config(two_nodes))
    with pytest.raises(ModelError, match=r"died 3 times: .*no model here"):
        engine.submit(_requests(2))


def test_no_cluster_at_an_address_is_one_line():
    if ray.is_initialized():
        ray.shutdown()
    engine = RayEngine("fake@1", FakeEngine(), SlowEngine, EngineConfig(kind="ray", address="127.0.0.1:1"))
    with pytest.raises(ModelError, match=r"\[engine\] address = '127.0.0.1:1': cannot reach a Ray cluster there"):
        engine.submit(_requests(1))


def test_actors_come_with_the_work_and_go_when_it_is_done(two_nodes, monkeypatch):
    monkeypatch.setattr("kiloset.engines.ray.IDLE_SECONDS", 0.2)
    engine = RayEngine("fake@1", FakeEngine(), partial(SlowEngine, 0.05), _config(two_nodes))
    engine.submit(_requests(3))
    for _ in range(3):
        engine.receive()
    assert len(engine._actors) == 1
    more = [(key[::-1], request) for key, request in _requests(300)]
    engine.submit(more)
    most = 0
    for _ in more:
        engine.receive()
        most = max(most, sum(actor.is_ready for actor in engine._actors))
    assert most == 3
    time.sleep(0.5)
    engine.submit(_requests(1))
    engine.receive()
    assert len(engine._actors) == 1
    engine.close()


class _Roomy(RayScorer):
    """A scorer that ends what holds the cores first, as `kiloset.models` does."""

    def logprobs(self, prompts, responses):
        self.make_room()
        return super().logprobs(prompts, responses)


class _RayModels:
    """The fakes of a run, on the cluster."""

    def __init__(self, config, log=None, pause=0.0):
        self.engine = RayEngine("fake@1", FakeEngine(), partial(SlowEngine, pause, log=log), config)
        self.generator = self.rewriter = self.engine
        self.scorer = _Roomy(FakeScorer().identity, FakeScorer, config)
        self.scorer.make_room = self.engine.close
        self.embedder = RayEmbedder(FakeEmbedder(), FakeEmbedder, config, Silent(), self.engine.close)


@pytest.fixture
def alone(undisturbed):
    """The folder of the same run in one process."""
    return undisturbed[0]


def test_a_run_on_a_cluster_gives_the_bytes_of_one_process(cluster, alone, tmp_path, monkeypatch):
    monkeypatch.setattr(ray_data, "FEW", 3)
    models = _RayModels(_config(cluster))
    fake_run.run(tmp_path / "run", models=models)
    models.engine.close()
    for file in sorted([*alone.glob("*.parquet"), alone / "curated.jsonl"]):
        assert (tmp_path / "run" / file.name).read_bytes() == file.read_bytes(), file.name
    assert RunFolder(tmp_path / "run").manifest["calls"] == RunFolder(alone).manifest["calls"]


def test_a_run_ends_as_it_would_have_though_a_node_and_a_worker_are_lost_on_the_way(two_nodes, alone, tmp_path, caplog):
    log = tmp_path / "completed"
    models = _RayModels(_config(two_nodes, min_actors=2), str(log), pause=0.01)

    def destroy():
        node = next(iter(two_nodes.worker_nodes))
        _wait_for(log, 60)
        two_nodes.remove_node(node)
        _wait_for(log, 120)
        ray.kill(next(actor for actor in models.engine._actors if actor.is_ready)._actor)

    thread = threading.Thread(target=destroy)
    thread.start()
    fake_run.run(tmp_path / "run", models=models)
    thread.join()
    assert (tmp_path / "run" / "curated.jsonl").read_bytes() == (alone / "curated.jsonl").read_bytes()
    completed = log.read_text().split()
    assert len(completed) - len({*completed}) <= models.engine.repeated <= 2 * 10
    assert any("killed by `ray.kill`" in line for line in caplog.messages)
    models.engine.close()


def _wait_for(log, lines):
    until = time.monotonic() + 60
    while not (log.exists() and len(log.read_text().splitlines()) > lines):
        assert time.monotonic() < until
        time.sleep(0.01)


DRIVER = """
import sys
from pathlib import Path
from kiloset.engines.settings import EngineConfig
from tests import fake_run
from tests.test_ray import _RayModels
models = _RayModels(EngineConfig(kind="ray", address=sys.argv[2], max_num_seqs=8, max_actors=2), sys.argv[3])
fake_run.run(Path(sys.argv[1]), models=models)
"""


def test_a_killed_driver_repeats_at_most_what_was_under_way(two_nodes, alone, tmp_path):
    store_file, log = tmp_path / "run" / "calls.sqlite", tmp_path / "completed"
    command = [sys.executable, "-c", DRIVER, str(tmp_path / "run"), two_nodes.address, str(log)]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    first = subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    _wait_for(log, 80)
    os.kill(first.pid, signal.SIGKILL)
    first.wait()
    ran = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120)
    assert ran.returncode == 0, ran.stderr
    assert (tmp_path / "run" / "curated.jsonl").read_bytes() == (alone / "curated.jsonl").read_bytes()
    completed = log.read_text().split()
    assert len(completed) - len({*completed}) <= 2 * 10  # two actors, 8 and a quarter more on each
    with closing(CallStore.read_only(store_file)) as store:
        assert store.resent_after_completion() == 0
        assert sum(spent["completed"] for spent in store.account().values()) == len({*completed})


def test_scores_and_vectors_of_a_pool_are_those_of_one_model(two_nodes):
    prompts = [[{"role": "user", "content": f"question {n}"}] for n in range(150)]
    responses = [f"answer {n} " * (n % 7 + 1) for n in range(150)]
    config = _config(two_nodes)
    scorer = RayScorer("x", FakeScorer, config)
    assert sorted(scorer.logprobs(prompts, responses)) == sorted(FakeScorer().logprobs(prompts, responses))
    texts = [f"{answer} {n}" for n, answer in enumerate(responses * 20)]
    embedder = RayEmbedder(FakeEmbedder(), FakeEmbedder, config, Silent())
    assert len(texts) > ray_data.FEW
    np.testing.assert_array_equal(embedder.embed(texts), FakeEmbedder().embed(texts))
