"""Evaluates a base model and its adapters on one suite; answers and metrics are stored and reused."""

import json
import logging
import shutil
from collections.abc import Iterable, Iterator, Mapping
from contextlib import closing, contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

from kiloset.core.calls import CallStore
from kiloset.core.closure import code_sha256
from kiloset.core.loading import check_adapter, free_gpu_memory
from kiloset.core.progress import Progress
from kiloset.core.recorded import RecordedEngine
from kiloset.core.run import RunFolder, file_sha256, sha256_of, write_text
from kiloset.data.curated import read_curated
from kiloset.engines.embedded import model_identity, model_path
from kiloset.engines.scorer import TransformersScorer
from kiloset.engines.vllm import VllmEngine, has_cuda
from kiloset.evaluation.metrics import Metric, difference
from kiloset.evaluation.suite import Evaluation, Suite, ValidationExample, build_suite, evaluate_model
from kiloset.models import base_name
from kiloset.settings import RunConfig
from kiloset.train.adapter import merge_adapter

logger = logging.getLogger(__name__)

ANSWERS, METRICS = "answers.jsonl", "metrics.json"


def evaluate_adapter(
    folder: RunFolder, config: RunConfig, adapter: Path, progress: Progress
) -> tuple[Evaluation, Evaluation]:
    """Evaluate the base model of a run and the base model with an adapter; return both evaluations in this order.

    Writes the comparison to the run's `evaluation.json`, and answers and metrics to its `evaluation/`.

    Raises:
        DataError: The folder has no adapter, the run has no curated set, or IFEval's file is invalid.
        ModelError: A model cannot be loaded.
    """
    check_adapter(adapter)
    training = training_instructions(read_curated(folder.curated).conversations("train"))
    suite = build_suite(config.evaluation, training, validation_rows(folder))
    target = folder.path / "evaluation"
    with evaluator(folder, config, suite, target, progress) as models:
        base = models.evaluate_base(target / "base")
        tuned = models.evaluate_tuned("tuned", adapter, target / "tuned", base)
    comparison = {
        name: {
            "unit": metric.unit, "better": metric.better, "base": metric.mean, "tuned": tuned.metrics[name].mean,
            "difference": asdict(difference(tuned.metrics[name], metric)),
        }
        for name, metric in base.metrics.items()
    }  # fmt: skip
    write_text(folder.path / "evaluation.json", json.dumps(comparison, indent=2) + "\n")
    return base, tuned


class Evaluator:
    """Evaluates the models of one run on the same suite."""

    def __init__(
        self, folder: RunFolder, config: RunConfig, suite: Suite, store: CallStore, progress: Progress
    ) -> None:
        """Locate the base model; nothing is loaded yet."""
        self._config, self._suite, self._store, self._progress = config, suite, store, progress
        self._log = folder.engine_log
        self._path = Path(model_path(base_name(config), "models.base"))
        self._identity = model_identity(base_name(config), str(self._path))

    def evaluate_base(self, target: Path) -> Evaluation:
        """Evaluate the base model, or read its stored evaluation from the folder `target`."""
        engine = VllmEngine(str(self._path), self._identity, self._config.engine, self._log)
        return self._evaluate("base", target, engine, None, None)

    def evaluate_tuned(self, name: str, adapter: Path, target: Path, base: Evaluation) -> Evaluation:
        """Evaluate the base model with an adapter, or read its stored evaluation from the folder `target`.

        On CUDA, vLLM applies the adapter. On a CPU, vLLM's adapter kernels reach a tenth of the model's speed (64 instead
        of 595 tokens/s), and vLLM does not support DoRA: in these cases it runs a temporary merged model.

        Raises:
            DataError: The folder `adapter` has no adapter in PEFT's format.
        """
        identity = f"{self._identity}+{file_sha256(adapter / 'adapter_model.safetensors')[:12]}"
        if has_cuda() and not check_adapter(adapter).get("use_dora"):
            engine = VllmEngine(str(self._path), identity, self._config.engine, self._log, adapter=adapter)
            return self._evaluate(name, target, engine, adapter, base.neutral)
        merged = target / ".merged"
        engine = VllmEngine(
            str(merged), identity, self._config.engine, self._log, tokenizer_path=str(self._path),
            before_start=lambda: merge_adapter(self._path, adapter, merged),
        )  # fmt: skip
        try:
            return self._evaluate(name, target, engine, adapter, base.neutral)
        finally:
            shutil.rmtree(merged, ignore_errors=True)

    def _evaluate(
        self, name: str, target: Path, engine: VllmEngine, adapter: Path | None, base_neutral: dict[str, str] | None
    ) -> Evaluation:
        config, length = self._config.evaluation, self._config.engine.max_model_len
        fingerprint = sha256_of(
            [engine.identity, asdict(config), asdict(self._suite), base_neutral, length, code_sha256(evaluate_model, "kiloset.engines.scorer")]
        )  # fmt: skip
        if (stored := _read(target / METRICS, fingerprint)) is not None:
            return stored
        logger.info("evaluating %s", name)
        free_gpu_memory()
        scorer = TransformersScorer(str(self._path), engine.identity, length, adapter, before_load=engine.close)
        recorded = RecordedEngine(engine, self._store, self._progress)
        try:
            evaluation, answers = evaluate_model(self._suite, config, recorded, scorer, base_neutral)
        finally:
            engine.close()
        target.mkdir(parents=True, exist_ok=True)
        write_text(target / ANSWERS, "".join(json.dumps(answer, ensure_ascii=False) + "\n" for answer in answers))
        metrics = [asdict(metric) for metric in evaluation.metrics.values()]
        result = {"fingerprint": fingerprint, "neutral": evaluation.neutral, "metrics": metrics}
        write_text(target / METRICS, json.dumps(result, ensure_ascii=False) + "\n")
        return evaluation


@contextmanager
def evaluator(
    folder: RunFolder, config: RunConfig, suite: Suite, target: Path, progress: Progress
) -> Iterator[Evaluator]:
    """Open the store of all answers in the folder `target`, and yield an evaluator."""
    target.mkdir(parents=True, exist_ok=True)
    with closing(CallStore(target / "calls.sqlite")) as store:
        yield Evaluator(folder, config, suite, store, progress)


def validation_rows(folder: RunFolder) -> list[ValidationExample]:
    """Return the curated rows that are not trained on."""
    rows = read_curated(folder.curated).conversations("validation")
    return [(row["id"], tuple(row["messages"][:-1]), row["messages"][-1]["content"]) for row in rows]


def training_instructions(rows: Iterable[Mapping[str, Any]]) -> list[str]:
    """Return the distinct user turns of training rows, sorted."""
    turns = (turn["content"] for row in rows for turn in row["messages"] if turn["role"] == "user")
    return sorted(set(turns))


def _read(path: Path, fingerprint: str) -> Evaluation | None:
    """Return a stored evaluation; None if it is missing, incomplete or has another fingerprint."""
    try:
        stored: Mapping[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    if stored.get("fingerprint") != fingerprint:
        return None
    return Evaluation({one["name"]: Metric(**one) for one in stored["metrics"]}, stored["neutral"])
