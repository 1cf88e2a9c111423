"""Judge a base model and its adapters, each once: answers, figures and what they were made from stay in a folder."""

import json
import logging
import shutil
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from kiloset.core.calls import CallStore
from kiloset.core.loading import free_gpu_memory
from kiloset.core.models import Message, Progress, Request
from kiloset.core.recorded import RecordedEngine
from kiloset.core.run import RunFolder, code_sha256, file_sha256, sha256_of, write_text
from kiloset.data.curated import read_curated
from kiloset.engines.embedded import model_identity, model_path
from kiloset.engines.scorer import TransformersScorer
from kiloset.engines.vllm import AdaptedEngine, VllmEngine, has_cuda
from kiloset.evaluation.evaluate import Judgement, Suites, judge
from kiloset.evaluation.metrics import Metric
from kiloset.evaluation.settings import EvaluationConfig
from kiloset.models import base_name
from kiloset.settings import RunConfig
from kiloset.train.merge import check_adapter, merge_adapter

logger = logging.getLogger(__name__)

ANSWERS, METRICS = "answers.jsonl", "metrics.json"


@dataclass(frozen=True, slots=True)
class Judged:
    """The figures of a model, by name."""

    name: str
    metrics: dict[str, Metric]
    neutral: dict[str, str]


class Panel:
    """What judges the models of a run, all by the same questions."""

    def __init__(
        self, folder: RunFolder, config: RunConfig, asked: Suites, store: CallStore, progress: Progress
    ) -> None:
        """Name the base model; nothing is loaded yet."""
        self.folder, self.config, self.asked, self.store, self.progress = folder, config, asked, store, progress
        self.path = Path(model_path(base_name(config), "models.base"))
        self.identity = model_identity(base_name(config), str(self.path))
        self._base: Judged | None = None

    def base(self, place: Path) -> Judged:
        """Judge the base model."""
        engine = VllmEngine(str(self.path), self.identity, self.config.engine, self.folder.engine_log)
        length = self.config.engine.max_model_len
        scorer = TransformersScorer(str(self.path), self.identity, length)
        try:
            return self._judged("base", place, self.identity, engine, scorer, None)
        finally:
            engine.close()

    def tuned(self, name: str, adapter: Path, place: Path, base: Judged) -> Judged:
        """Judge the base model with an adapter.

        Raises:
            DataError: There is no adapter in PEFT's format in the folder.
        """
        check_adapter(adapter)
        identity = f"{self.identity}+{file_sha256(adapter / 'adapter_model.safetensors')[:12]}"
        scorer = TransformersScorer(str(self.path), identity, self.config.engine.max_model_len, adapter)
        with _tuned_engine(self, adapter, identity, place) as engine:
            return self._judged(name, place, identity, engine, scorer, base.neutral)

    def _judged(
        self,
        name: str,
        place: Path,
        identity: str,
        engine: Any,
        scorer: TransformersScorer,
        neutral: dict[str, str] | None,
    ) -> Judged:
        config: EvaluationConfig = self.config.evaluation
        length = self.config.engine.max_model_len
        told = [identity, asdict(config), asdict(self.asked), neutral, length, code_sha256("evaluation")]
        fingerprint = sha256_of(told)
        if found := _read(place / METRICS, fingerprint, name):
            return found
        logger.info("evaluating %s", name)
        free_gpu_memory()
        recorded = RecordedEngine(engine, self.store, self.progress)
        judgement = judge(self.asked, config, recorded, _Alone(scorer, engine.close), neutral)
        place.mkdir(parents=True, exist_ok=True)
        _write(place, fingerprint, judgement)
        return Judged(name, {metric.name: metric for metric in judgement.metrics}, judgement.neutral)


@contextmanager
def panel(folder: RunFolder, config: RunConfig, asked: Suites, place: Path, progress: Progress) -> Iterator[Panel]:
    """Hold the store of all answers while models are judged."""
    place.mkdir(parents=True, exist_ok=True)
    with closing(CallStore(place / "calls.sqlite")) as store:
        yield Panel(folder, config, asked, store, progress)


def validation_rows(folder: RunFolder) -> list[tuple[str, tuple[Message, ...], str]]:
    """Return `(id, prompt, response)` of the curated rows held out of training."""
    rows = read_curated(folder.curated).conversations("validation")
    return [(row["id"], tuple(row["messages"][:-1]), row["messages"][-1]["content"]) for row in rows]


def taught_by(rows: Iterable[Mapping[str, Any]]) -> list[str]:
    """Return the user turns that rows teach to answer, each once, in order of the alphabet."""
    turns = (turn["content"] for row in rows for turn in row["messages"] if turn["role"] == "user")
    return sorted(set(turns))


@contextmanager
def _tuned_engine(panel: Panel, adapter: Path, identity: str, place: Path) -> Iterator[Any]:
    """Yield what writes with an adapter.

    On CUDA vLLM puts it on the base model; on a CPU, where its kernels for adapters are a tenth as fast as the model
    itself (64 against 595 tokens/s), and for DoRA, which it does not know, the model is merged for the while.
    """
    config, log = panel.config.engine, panel.folder.engine_log
    if has_cuda() and not check_adapter(adapter).get("use_dora"):
        rank = int(check_adapter(adapter)["r"])
        shared = VllmEngine(str(panel.path), identity, config, log, max_lora_rank=rank)
        try:
            yield AdaptedEngine(shared, adapter, identity)
        finally:
            shared.close()
        return
    merged = place / ".merged"
    engine = _MergedEngine(
        VllmEngine(str(merged), identity, config, log),
        VllmEngine(str(panel.path), identity, config, log),
        lambda: merge_adapter(panel.path, adapter, merged),
    )
    try:
        yield engine
    finally:
        engine.close()
        shutil.rmtree(merged, ignore_errors=True)


class _Alone:
    """A judge for which the engine makes room before it loads."""

    def __init__(self, scorer: TransformersScorer, close: Callable[[], None]) -> None:
        self._scorer, self._close, self.identity = scorer, close, scorer.identity

    def logprobs(
        self, prompts: Sequence[Sequence[Message]], responses: Sequence[str]
    ) -> Iterator[tuple[int, float, int]]:
        self._close()
        return self._scorer.logprobs(prompts, responses)

    def text_logprobs(self, texts: Sequence[str]) -> Iterator[tuple[int, float, int]]:
        self._close()
        return self._scorer.text_logprobs(texts)

    def divergence(
        self, prompts: Sequence[Sequence[Message]], responses: Sequence[str]
    ) -> Iterator[tuple[int, float, int]]:
        self._close()
        return self._scorer.divergence(prompts, responses)


class _MergedEngine:
    """A `TextEngine` of a model that is merged when the first request comes."""

    transparent = structured = raw = True

    def __init__(self, engine: VllmEngine, renderer: VllmEngine, merge: Callable[[], None]) -> None:
        self.identity, self._engine, self._merge, self._is_merged = engine.identity, engine, merge, False
        self._renderer = renderer
        self.render = renderer.render  # the base's tokenizer, which is there before anything is merged
        self.receive = engine.receive
        self.close = engine.close

    @property
    def templated(self) -> bool:
        return self._renderer.templated

    def submit(self, requests: Sequence[tuple[str, Request]]) -> None:
        if not self._is_merged:
            self._merge()
            self._is_merged = True
        self._engine.submit(requests)


def _write(place: Path, fingerprint: str, judgement: Judgement) -> None:
    lines = [json.dumps(answer, ensure_ascii=False) for answer in judgement.answers]
    write_text(place / ANSWERS, "".join(f"{line}\n" for line in lines))
    metrics = [asdict(metric) for metric in judgement.metrics]
    found = {"fingerprint": fingerprint, "neutral": judgement.neutral, "metrics": metrics}
    write_text(place / METRICS, json.dumps(found, ensure_ascii=False) + "\n")


def _read(path: Path, fingerprint: str, name: str) -> Judged | None:
    """Return what was found before, None if it was about something else or is not whole."""
    try:
        found: Mapping[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    if found.get("fingerprint") != fingerprint:
        return None
    return Judged(name, {one["name"]: Metric(**one) for one in found["metrics"]}, found["neutral"])
