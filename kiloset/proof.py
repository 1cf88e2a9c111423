"""Proves that a curated set is worth its cost: trains and evaluates it beside arms of the same size that cost nothing.

Every arm trains on as many rows for as many steps, once for each seed, without choosing an epoch, so that no arm profits
from a choice. The run's `prove/` keeps each adapter, its rows, answers and metrics. An interrupted proof resumes.
"""

import json
import logging
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path

from kiloset.core.closure import code_sha256
from kiloset.core.loading import free_gpu_memory
from kiloset.core.progress import Progress
from kiloset.core.run import RunFolder, sha256_of, write_text
from kiloset.engines.embedded import model_path
from kiloset.evaluation.arms import Arm, arms_of
from kiloset.evaluation.comparison import Proof, compare_arms
from kiloset.evaluation.suite import Evaluation, build_suite, check_target
from kiloset.evaluator import evaluator, training_instructions, validation_rows
from kiloset.models import base_name
from kiloset.settings import RunConfig
from kiloset.train.lora import train_adapter
from kiloset.train.settings import TrainConfig

logger = logging.getLogger(__name__)


def prove_run(folder: RunFolder, config: RunConfig, progress: Progress) -> Proof:
    """Train and evaluate every arm, compare them, and write the proof to `prove/proof.json`.

    Raises:
        ConfigError: The suite does not measure the target, for example IFEval's without its file.
        DataError: The run has no curated set, or IFEval's file is invalid.
        ModelError: The model cannot be loaded, or training diverged.
    """
    target = folder.path / "prove"
    seeds = range(config.prove.seeds)
    arms = {seed: arms_of(folder, config.prove.arms, seed) for seed in seeds}
    training = training_instructions(row for each in arms.values() for arm in each for row in arm.rows)
    suite = build_suite(config.evaluation, training, validation_rows(folder))
    check_target(config.prove, suite)
    path = Path(model_path(base_name(config), "models.base"))
    adapters = {seed: _train_arms(arms[seed], seed, config.train, path, target, progress) for seed in seeds}
    tuned: dict[str, list[Evaluation]] = {}
    with evaluator(folder, config, suite, target, progress) as models:
        base = models.evaluate_base(target / "base")
        for seed in seeds:
            evaluated: dict[Path, Evaluation] = {}
            for name, adapter in adapters[seed].items():
                if adapter not in evaluated:
                    evaluated[adapter] = models.evaluate_tuned(f"{name}-{seed}", adapter, adapter.parent, base)
                tuned.setdefault(name, []).append(evaluated[adapter])
    proof = compare_arms(
        config.prove, base.metrics, {name: [one.metrics for one in each] for name, each in tuned.items()}
    )
    sizes = {
        f"{arm.name}-{seed}": {"rows": len(arm.rows), "distinct": arm.distinct} for seed in seeds for arm in arms[seed]
    }
    facts = {
        **asdict(proof), "is_proved": proof.is_proved, "arms": sizes, "held_out_left_out": suite.overlapping,
        "config": asdict(config.prove), "evaluation": asdict(config.evaluation), "train": asdict(config.train),
    }  # fmt: skip
    write_text(target / "proof.json", json.dumps(facts, indent=2) + "\n")
    return proof


def _train_arms(
    arms: Sequence[Arm], seed: int, config: TrainConfig, model_path: Path, target: Path, progress: Progress
) -> dict[str, Path]:
    """Train every arm that is not trained yet, equal rows only once; return the adapters' folders by arm."""
    by_rows: dict[str, Path] = {}
    adapters: dict[str, Path] = {}
    config = replace(config, seed=config.seed + seed, patience=0)
    for arm in arms:
        sha256 = sha256_of(arm.rows)
        if sha256 not in by_rows:
            by_rows[sha256] = target / f"{arm.name}-{seed}"
            _train_arm(arm, sha256, config, model_path, by_rows[sha256], progress)
        adapters[arm.name] = by_rows[sha256] / "adapter"
    return adapters


def _train_arm(arm: Arm, sha256: str, config: TrainConfig, model_path: Path, target: Path, progress: Progress) -> None:
    from datasets import Dataset

    relevant = {**asdict(config), "checkpoint_seconds": None, "tokens_at_once": None}
    fingerprint = sha256_of([relevant, sha256, str(model_path), code_sha256(train_adapter)])
    report = target / "train.json"
    if report.is_file() and json.loads(report.read_text(encoding="utf-8")).get("fingerprint") == fingerprint:
        return
    logger.info("training %s: %d rows, %d distinct", target.name, len(arm.rows), arm.distinct)
    target.mkdir(parents=True, exist_ok=True)
    write_text(target / "rows.jsonl", "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in arm.rows))
    splits = {"train": Dataset.from_list(list(arm.rows)), "validation": Dataset.from_dict({"id": [], "messages": []})}
    training = train_adapter(splits, sha256, config, model_path, target / "adapter", progress)
    free_gpu_memory()
    facts = {"fingerprint": fingerprint, "arm": arm.name, "rows": len(arm.rows), "distinct": arm.distinct}
    write_text(report, json.dumps({**facts, **asdict(training)}, indent=2) + "\n")
