"""A whole run on fakes: test_pipeline.py runs it in its own process, and in another process that it kills."""

import os
import signal
import sys
from pathlib import Path

from kiloset.core.config import parse
from kiloset.core.models import Capabilities
from kiloset.core.progress import Silent
from kiloset.core.run import RunFolder
from kiloset.inputs import read_inputs
from kiloset.runner import run_pipeline
from kiloset.settings import RunConfig
from kiloset.verify.settings import CHECKS
from tests.fakes import FakeEmbedder, FakeEngine, FakeScorer
from tests.paths import ROOT

TABLE = {
    "run": {"size": 12, "validation": 0.25},
    # Of the bundled seeds 9 in each category that is wanted, and 5 of writing, which is not.
    "seeds": {"path": str(ROOT / "tests" / "seeds.jsonl")},
    "categories": {"target": {"maths": 1, "open_qa": 1, "summarising": 1}, "fill": True},
    "generate": {
        "prompt_style": "continue",
        "candidates_per_row": 2.0,
        "max_waves": 4,
        "max_response_tokens": 96,
        "least_yield": 0,
    },
    # The fakes write at random: they never agree, and they break what a task states.
    "verify": {"off": list(CHECKS)},
    "models": {"generator": {"name": "embedded:smollm2-135m-instruct", "license": "Apache-2.0"}},
}


class Halt(BaseException):
    """The end of a run that a test halts."""


def die():
    """End this process as `kill -9` does."""
    os.kill(os.getpid(), signal.SIGKILL)


class Moments:
    """Counts the moments a run can be halted at, and halts it at one of them."""

    def __init__(self, at=None, act=die):
        self.count, self.at, self.act = 0, at, act

    def pass_one(self):
        self.count += 1
        if self.count == self.at:
            self.act()


class FakeModels:
    """The fakes; every completion, embedding and score is a moment."""

    def __init__(self, moments=None):
        moments = moments or Moments()
        self.engine = FakeEngine()
        self.generator = self.rewriter = _Counted(self.engine, moments)
        self.scorer = _Counted(FakeScorer(), moments)
        self.embedder = _Counted(FakeEmbedder(), moments)


class _Counted:
    def __init__(self, model, moments):
        self._model, self._moments = model, moments
        self.identity, self.is_costly = model.identity, True
        self.render, self.submit = getattr(model, "render", None), getattr(model, "submit", None)
        self.capabilities = Capabilities()

    def receive(self):
        self._moments.pass_one()
        answer = self._model.receive()
        self._moments.pass_one()
        return answer

    def logprobs(self, prompts, responses):
        for score in self._model.logprobs(prompts, responses):
            self._moments.pass_one()
            yield score

    def embed(self, texts):
        self._moments.pass_one()
        return self._model.embed(texts)


def run(path, *, table=TABLE, moments=None, models=None):
    """Run, or continue, the pipeline on fakes in the folder `path`."""
    config, models = parse(RunConfig, table), models or FakeModels(moments)
    return run_pipeline(config, read_inputs(config), RunFolder(Path(path)), models, Silent())


def count_renames(moments):
    """Make every atomic rename a moment too, before it and after it."""
    rename = os.replace

    def counted(source, target):
        if "__pycache__" in str(target):  # numba's, where its cache is empty
            return rename(source, target)
        moments.pass_one()
        rename(source, target)
        return moments.pass_one()

    os.replace = counted


if __name__ == "__main__":
    watched = Moments(at=int(sys.argv[2]) or None)
    count_renames(watched)
    run(sys.argv[1], moments=watched)
    print(watched.count)
