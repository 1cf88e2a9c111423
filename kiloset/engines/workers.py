"""Creates the engines of a cluster's machines: the engines of a single machine, with a check of the model's revision."""

import tempfile
from functools import cache
from pathlib import Path

from kiloset.core.errors import ModelError
from kiloset.core.progress import Silent
from kiloset.engines.embedded import model_identity, model_path
from kiloset.engines.embedder import SentenceEmbedder
from kiloset.engines.scorer import TransformersScorer
from kiloset.engines.settings import EngineConfig
from kiloset.engines.static import StaticEmbedder
from kiloset.engines.vllm import VllmEngine


def writer_on_worker(name: str, identity: str, config: EngineConfig) -> VllmEngine:
    """Return vLLM with the driver's model.

    Raises:
        ModelError: This machine does not have the model, or has another revision.
    """
    path = _path(name, identity)
    log = Path(tempfile.mkdtemp(prefix="kiloset-")) / "engine.log"
    return VllmEngine(path, identity, config, log, threads=config.actor_cpus)


def scorer_on_worker(name: str, model: str, identity: str, max_tokens: int) -> TransformersScorer:
    """Return a scorer with the driver's model; see `writer_on_worker`."""
    return TransformersScorer(_path(name, model), identity, max_tokens)


@cache
def embedder_on_worker(name: str, identity: str) -> SentenceEmbedder | StaticEmbedder:
    """Return the driver's embedder, one for each process; see `writer_on_worker`."""
    path = model_path(name, "models.embedder")
    source = model_identity(name, path)
    if identity == source:
        return SentenceEmbedder(path, identity)
    static = StaticEmbedder(path, source, Silent())
    if static.identity != identity:
        raise _other_revision(static.identity, identity)
    return static


def _path(name: str, identity: str) -> str:
    path = model_path(name, "models")
    if (here := model_identity(name, path)) != identity:
        raise _other_revision(here, identity)
    return path


def _other_revision(here: str, driver: str) -> ModelError:
    return ModelError(
        "KS577", f"a machine of the cluster has {here}, the driver {driver}; give all machines the same revision"
    )
