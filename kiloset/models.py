"""The models of one run, each loaded when first used and at most once."""

import logging
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Protocol

from kiloset.core.errors import ConfigError
from kiloset.core.models import Capabilities, Embedder, Message, Request, Scorer, TextEngine
from kiloset.core.progress import Progress, Silent
from kiloset.engines.embedded import check_model, model_identity, model_path
from kiloset.engines.embedder import SentenceEmbedder
from kiloset.engines.openai import OpenAIEngine, api_key
from kiloset.engines.ray import RayEngine
from kiloset.engines.ray_data import RayEmbedder, RayScorer
from kiloset.engines.scorer import TransformersScorer
from kiloset.engines.static import StaticEmbedder
from kiloset.engines.vllm import VllmEngine, has_cuda
from kiloset.engines.workers import embedder_on_worker, scorer_on_worker, writer_on_worker
from kiloset.settings import RunConfig

logger = logging.getLogger(__name__)


class Models(Protocol):
    """The models that the stages use."""

    generator: TextEngine
    rewriter: TextEngine
    scorer: Scorer
    embedder: Embedder


def base_name(config: RunConfig) -> str:
    """Return the base model's name: its own, or the generator's."""
    return config.models.base.name or config.models.generator.name


def check_models(config: RunConfig) -> None:
    """Check the names of the models before anything is loaded or sent.

    Raises:
        ConfigError: A server writes, and the writer or the base model has no name.
        ModelError: See `kiloset.engines.embedded.check_model` and `kiloset.engines.openai.api_key`.
    """
    models, served = config.models, config.engine.kind == "openai"
    if served and not models.generator.name:
        raise ConfigError(
            "KS853",
            "[models.generator] name must be the model's name on the server when [engine] kind is openai, got ''",
        )
    if served and not models.base.name:
        raise ConfigError(
            "KS854",
            "[models.base] name must be a local folder or a hub id when [engine] kind is openai, got '': a server does not give "
            "the weights that training and scoring need",
        )
    if served:
        api_key(config.engine)
    else:
        check_model(models.generator.name, "models.generator")
    check_model(base_name(config), "models.base")
    if models.rewriter.name:
        check_model(models.rewriter.name, "models.rewriter")
    check_model(models.embedder.name, "models.embedder")


def embedder_of(config: RunConfig, rows: int, progress: Progress) -> Embedder:
    """Return the embedder of a run with this many seed and pool rows; it loads its model with the first text."""
    settings = config.models.embedder
    path = model_path(settings.name, "models.embedder")
    identity = model_identity(settings.name, path)
    if rows > settings.static_above:
        return StaticEmbedder(path, identity, progress)
    return SentenceEmbedder(path, identity)


def static_embedder_factory(config: RunConfig) -> Callable[[], Embedder]:
    """Return a function that makes the static embedder on any machine of a cluster.

    A static embedder's vector of a text does not depend on the other texts of the batch.
    """
    name = config.models.embedder.name
    path = model_path(name, "models.embedder")
    identity = StaticEmbedder(path, model_identity(name, path), Silent()).identity
    return partial(embedder_on_worker, name, identity)


class RunModels:
    """The models of one run: vLLM or a server writes, the base model's weights score, an embedder embeds.

    Roles with the same model share one engine. On a Ray cluster, each engine runs in as many actors as there is work for.
    Use it in `contextlib.closing`: `close` ends every process that the models started.
    """

    def __init__(self, config: RunConfig, rows: int, log: Path, progress: Progress) -> None:
        """Find the files of the models; nothing is loaded or sent yet.

        Args:
            config: The run's settings.
            rows: Seed and pool rows, which decide the embedder.
            log: The file for the output of the engine processes.
            progress: Receives the progress of the embedder.
        """
        self._config, self._log = config, log
        base = model_path(base_name(config), "models.base")
        self._base = self._local(base_name(config), base)
        self.generator = self._generator()
        self.rewriter = self._rewriter()
        self.scorer: Scorer = _ManagedScorer(self._base_scorer(base), self)
        self.embedder = embedder_of(config, rows, progress)
        if config.engine.kind == "ray":
            make_embedder = partial(embedder_on_worker, config.models.embedder.name, self.embedder.identity)
            self.embedder = RayEmbedder(self.embedder, make_embedder, config.engine, progress, self.free_memory)

    def _generator(self) -> TextEngine:
        """Return the writer model's engine; a server's model is not the local base model of the same name."""
        name = self._config.models.generator.name
        if self._config.engine.kind == "openai":
            return _ManagedEngine(OpenAIEngine(name, self._config.engine), self)
        if name == base_name(self._config):
            return self._base
        return self._local(name, model_path(name, "models.generator"))

    def _rewriter(self) -> TextEngine:
        """Return the engine for rewrites: a base model without a chat template would continue the prompt, not answer it."""
        config, name = self._config, self._config.models.rewriter.name
        if name and name != base_name(config):
            if config.engine.kind != "openai" and name == config.models.generator.name:
                return self.generator
            return self._local(name, model_path(name, "models.rewriter"))
        if name or not config.rewrite.enabled or self._base.capabilities.chat_template:
            return self._base
        if self.generator.capabilities.chat_template:
            logger.info("%s has no chat template: %s writes the rewrites", self._base.identity, self.generator.identity)
            return self.generator
        logger.warning(
            "%s has no chat template, so its rewrites will be poor; name an instruct model of its family in "
            "[models.rewriter]",
            self._base.identity,
        )
        return self._base

    def _local(self, name: str, path: str) -> "_ManagedEngine":
        config, identity = self._config.engine, model_identity(name, path)
        local = VllmEngine(path, identity, config, self._log)
        if config.kind != "ray":
            return _ManagedEngine(local, self)
        return _ManagedEngine(
            RayEngine(identity, local, partial(writer_on_worker, name, identity, config), config), self
        )

    def _base_scorer(self, path: str) -> TransformersScorer | RayScorer:
        config, base = self._config.engine, self._base.identity
        identity = f"{base}, {config.max_model_len} tokens"
        if config.kind != "ray":
            return TransformersScorer(path, identity, config.max_model_len)
        make_scorer = partial(scorer_on_worker, base_name(self._config), base, identity, config.max_model_len)
        return RayScorer(identity, make_scorer, config)

    def free_memory(self, keep: VllmEngine | RayEngine | None = None) -> None:
        """End the engines that hold a GPU's or a cluster's memory, except one; on a CPU, end them for another engine only.

        A writer model and a base model together need too much memory for a laptop, but a scorer beside one engine does not.
        """
        for managed in self._engines():
            engine = managed.engine
            holds = isinstance(engine, RayEngine) or (
                isinstance(engine, VllmEngine) and (has_cuda() or keep is not None)
            )
            if holds and engine is not keep:
                engine.close()

    def close(self) -> None:
        """End every process and thread."""
        for managed in self._engines():
            managed.engine.close()

    def _engines(self) -> "list[_ManagedEngine]":
        models = (self.generator, self.rewriter, self._base)
        return [model for model in models if isinstance(model, _ManagedEngine)]


class _ManagedEngine:
    """A text engine that frees the memory of the others before it works and logs once what it runs on."""

    def __init__(self, engine: VllmEngine | RayEngine | OpenAIEngine, models: RunModels) -> None:
        self.engine, self._models = engine, models
        self.identity, self.render, self.receive = engine.identity, engine.render, engine.receive
        self._is_logged = False

    @property
    def capabilities(self) -> Capabilities:
        return self.engine.capabilities

    def submit(self, requests: Sequence[tuple[str, Request]]) -> None:
        if isinstance(self.engine, VllmEngine | RayEngine):
            self._models.free_memory(keep=self.engine)
            if not self._is_logged:
                logger.info("starting %s", self.identity)
        self.engine.submit(requests)
        if not self._is_logged:
            logger.info(self.engine.description)
            self._is_logged = True


class _ManagedScorer:
    """A scorer that frees the memory of the text engines before it works."""

    def __init__(self, scorer: TransformersScorer | RayScorer, models: RunModels) -> None:
        self._scorer, self._models = scorer, models
        self.identity = scorer.identity

    def logprobs(
        self, prompts: Sequence[Sequence[Message]], responses: Sequence[str]
    ) -> Iterator[tuple[int, float, int]]:
        self._models.free_memory()
        return self._scorer.logprobs(prompts, responses)
