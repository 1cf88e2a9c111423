"""What a machine of a cluster makes of a model's name: the very engine that one machine uses, checked to be the same model."""

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


def work_as_writer(name: str, identity: str, config: EngineConfig) -> VllmEngine:
    """Return vLLM with a model, which must be the driver's.

    Raises:
        ModelError: The model is not to be had here, or is another revision.
    """
    path = _path(name, identity)
    log = Path(tempfile.mkdtemp(prefix="kiloset-")) / "engine.log"
    return VllmEngine(path, identity, config, log, threads=config.actor_cpus)


def work_as_scorer(name: str, model: str, identity: str, max_tokens: int) -> TransformersScorer:
    """Return a scorer by a model, which must be the driver's; see `work_as_writer`."""
    return TransformersScorer(_path(name, model), identity, max_tokens)


@cache
def work_as_embedder(name: str, identity: str) -> SentenceEmbedder | StaticEmbedder:
    """Return the embedder of that identity, one a process; see `work_as_writer`."""
    path = model_path(name, "models.embedder")
    source = model_identity(name, path)
    if identity == source:
        return SentenceEmbedder(path, identity)
    static = StaticEmbedder(path, source, Silent())
    if static.identity != identity:
        raise _another(static.identity, identity)
    return static


def _path(name: str, identity: str) -> str:
    path = model_path(name, "models")
    if (here := model_identity(name, path)) != identity:
        raise _another(here, identity)
    return path


def _another(here: str, there: str) -> ModelError:
    return ModelError("KS577", f"a machine of the cluster has {here}, the driver {there}; give all the same revision")
