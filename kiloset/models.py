"""The models of one run, each loaded when first used and at most once."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Protocol

from kiloset.core.errors import ConfigError
from kiloset.core.models import Embedder, Message, Progress, Request, Scorer, Silent, TextEngine
from kiloset.engines.embedded import check_model, model_identity, model_path
from kiloset.engines.embedder import SentenceEmbedder
from kiloset.engines.openai import OpenAIEngine, api_key
from kiloset.engines.ray import RayEngine
from kiloset.engines.ray_data import RayEmbedder, RayScorer
from kiloset.engines.scorer import TransformersScorer
from kiloset.engines.static import StaticEmbedder
from kiloset.engines.vllm import VllmEngine, has_cuda
from kiloset.engines.workers import work_as_embedder, work_as_scorer, work_as_writer
from kiloset.settings import RunConfig


class Models(Protocol):
    """What the stages may use."""

    generator: TextEngine
    rewriter: TextEngine
    scorer: Scorer
    embedder: Embedder


def base_name(config: RunConfig) -> str:
    """Return the base model's name: its own, or the generator's."""
    return config.models.base.name or config.models.generator.name


def check_models(config: RunConfig) -> None:
    """Refuse names that cannot be meant, before anything is loaded or sent.

    Raises:
        ConfigError: The generator is behind a server, and it or the base model has no name.
        ModelError: See `kiloset.engines.embedded.check_model` and `kiloset.engines.openai.api_key`.
    """
    if config.engine.kind == "openai":
        _check_names_beside_a_server(config)
        api_key(config.engine)
    else:
        check_model(config.models.generator.name, "models.generator")
    check_model(base_name(config), "models.base")
    if config.models.rewriter.name:
        check_model(config.models.rewriter.name, "models.rewriter")
    check_model(config.models.embedder.name, "models.embedder")


def _check_names_beside_a_server(config: RunConfig) -> None:
    if not config.models.generator.name:
        raise ConfigError(
            "KS853",
            "[models.generator] name must be the model's name on the server when [engine] kind is openai, got ''",
        )
    if not config.models.base.name:
        raise ConfigError(
            "KS854",
            "[models.base] name must be a local folder or a hub id when [engine] kind is openai, got '': the base model is "
            "tuned here and scored with its own weights, which a server does not give",
        )


def embedder_of(config: RunConfig, rows: int, say: Callable[[str], None], progress: Progress) -> Embedder:
    """Return the embedder for a run with so many rows of seeds and pool; it loads its model with the first text."""
    settings = config.models.embedder
    path = model_path(settings.name, "models.embedder", say)
    identity = model_identity(settings.name, path)
    if rows > settings.static_above:
        return StaticEmbedder(path, identity, progress)
    return SentenceEmbedder(path, identity)


def thinning_embedder(config: RunConfig, say: Callable[[str], None]) -> Callable[[], Embedder]:
    """Return what makes, on any machine of a cluster, the static embedder: its vectors do not depend on their company."""
    name = config.models.embedder.name
    path = model_path(name, "models.embedder", say)
    identity = StaticEmbedder(path, model_identity(name, path), Silent()).identity
    return partial(work_as_embedder, name, identity)


class RealModels:
    """vLLM for the text models (one process if they are the same), or a server for the generator, and what judges.

    On a Ray cluster the same, each in as many actors as there is work for.
    """

    def __init__(self, config: RunConfig, rows: int, log: Path, say: Callable[[str], None], progress: Progress) -> None:
        """Find the models' files; nothing is loaded or sent yet. `rows` are those of seeds and pool."""
        self._say = say
        base = model_path(base_name(config), "models.base", say)
        self._base = _Told(self._vllm(config, base_name(config), base, log), self)
        self.generator = self._writer(config, config.models.generator.name, "models.generator", log)
        self.rewriter = self._rewriter(config, log)
        self.scorer: Scorer = _Scorer(self._judge_of_fit(config, base), self)
        self.embedder = embedder_of(config, rows, say, progress)
        if config.engine.kind == "ray":
            make = partial(work_as_embedder, config.models.embedder.name, self.embedder.identity)
            self.embedder = RayEmbedder(self.embedder, make, config.engine, progress, lambda: self.make_room(but=None))

    def _writer(self, config: RunConfig, name: str, setting: str, log: Path) -> TextEngine:
        """Return the engine that writes: a server's model is not the base of that name."""
        if config.engine.kind == "openai":
            return _Told(OpenAIEngine(name, config.engine), self)
        if name == base_name(config):
            return self._base
        return _Told(self._vllm(config, name, model_path(name, setting, self._say), log), self)

    def _rewriter(self, config: RunConfig, log: Path) -> TextEngine:
        """Return what writes the rewrites: a raw base model would go on with the prompt rather than answer it."""
        name = config.models.rewriter.name
        if name and name != base_name(config):
            if config.engine.kind != "openai" and name == config.models.generator.name:
                return self.generator
            return _Told(self._vllm(config, name, model_path(name, "models.rewriter", self._say), log), self)
        if name or not config.rewrite.enabled or self._base.templated:
            return self._base
        if self.generator.templated:
            self._say(f"{self._base.identity} has no chat template: {self.generator.identity} writes the rewrites")
            return self.generator
        self._say(
            f"{self._base.identity} has no chat template and its rewrites will be poor; name an instruct model of its "
            "family in [models.rewriter]"
        )
        return self._base

    def _vllm(self, config: RunConfig, name: str, path: str, log: Path) -> VllmEngine | RayEngine:
        identity = model_identity(name, path)
        local = VllmEngine(path, identity, config.engine, log)
        if config.engine.kind != "ray":
            return local
        make = partial(work_as_writer, name, identity, config.engine)
        return RayEngine(identity, local, make, config.engine, self._say)

    def _judge_of_fit(self, config: RunConfig, base: str) -> TransformersScorer | RayScorer:
        length = config.engine.max_model_len
        identity = f"{self._base.identity}, {length} tokens"
        if config.engine.kind != "ray":
            return TransformersScorer(base, identity, length)
        make = partial(work_as_scorer, base_name(config), self._base.identity, identity, length)
        return RayScorer(identity, make, config.engine)

    def make_room(self, but: VllmEngine | RayEngine | None) -> None:
        """On a GPU or a cluster, end the engines that hold its memory, all but one."""
        for told in self._engines():
            holds = isinstance(told.engine, RayEngine) or (isinstance(told.engine, VllmEngine) and has_cuda())
            if holds and told.engine is not but:
                told.engine.close()

    def say(self, text: str) -> None:
        """Tell the user."""
        self._say(text)

    def close(self) -> None:
        """End every process and thread."""
        for told in self._engines():
            told.engine.close()

    def _engines(self) -> "list[_Told]":
        models = (self.generator, self.rewriter, self._base)
        return [told for told in models if isinstance(told, _Told)]


class _Told:
    """A text engine that says once what it runs on, and makes room for itself."""

    def __init__(self, engine: VllmEngine | RayEngine | OpenAIEngine, models: RealModels) -> None:
        self.engine, self._models = engine, models
        self.identity = engine.identity
        self.render = engine.render
        self.receive = engine.receive
        self._has_told = False

    @property
    def templated(self) -> bool:
        return self.engine.templated

    @property
    def raw(self) -> bool:
        return self.engine.raw

    @property
    def transparent(self) -> bool:
        return self.engine.transparent

    @property
    def structured(self) -> bool:
        return self.engine.structured

    def submit(self, requests: Sequence[tuple[str, Request]]) -> None:
        if isinstance(self.engine, VllmEngine | RayEngine):
            self._models.make_room(but=self.engine)
            if not self._has_told:
                self._models.say(f"starting {self.identity}")
        self.engine.submit(requests)
        if not self._has_told:
            self._models.say(self.engine.description)
            self._has_told = True


class _Scorer:
    """A scorer that makes room for itself."""

    def __init__(self, scorer: TransformersScorer | RayScorer, models: RealModels) -> None:
        self._scorer, self._models = scorer, models
        self.identity = scorer.identity

    def logprobs(
        self, prompts: Sequence[Sequence[Message]], responses: Sequence[str]
    ) -> Iterator[tuple[int, float, int]]:
        self._models.make_room(but=None)
        return self._scorer.logprobs(prompts, responses)


@contextmanager
def real_models(
    config: RunConfig, rows: int, log: Path, say: Callable[[str], None], progress: Progress
) -> Iterator[RealModels]:
    """Hold the models of a run with so many rows of seeds and pool, and end every process they started."""
    models = RealModels(config, rows, log, say, progress)
    try:
        yield models
    finally:
        models.close()
