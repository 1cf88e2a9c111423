"""Hold a curated set against what costs nothing: arms of one size, trained alike, judged alike.

Every arm is trained on as many rows for as many steps, once a seed, without choosing an epoch, so that no arm is
favoured by a choice. Each adapter, its rows, its answers and its figures are kept in the run's `prove/`; run again, it
goes on where it stopped.
"""

import json
import logging
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path

from kiloset.core.loading import free_gpu_memory
from kiloset.core.models import Progress
from kiloset.core.run import RunFolder, sha256_of, write_text
from kiloset.engines.embedded import model_path
from kiloset.evaluation.arms import Arm, arms_of
from kiloset.evaluation.evaluate import suites
from kiloset.evaluation.proof import Proof, prove
from kiloset.judging import Judged, panel, taught_by, validation_rows
from kiloset.models import base_name
from kiloset.settings import RunConfig
from kiloset.train.lora import train_adapter
from kiloset.train.settings import TrainConfig

logger = logging.getLogger(__name__)


def prove_run(folder: RunFolder, config: RunConfig, progress: Progress) -> Proof:
    """Train and judge every arm, compare them, and write the proof to `prove/proof.json`.

    Raises:
        ConfigError: The target is a figure that this run has not, IFEval's without its file for one.
        DataError: The run has no curated set, or IFEval's file is wrong.
        ModelError: The model cannot be loaded, or training diverged.
    """
    place = folder.path / "prove"
    seeds = range(config.prove.seeds)
    sets = {seed: arms_of(folder, config.prove.arms, seed) for seed in seeds}
    taught = taught_by(row for arms in sets.values() for arm in arms for row in arm.rows)
    asked = suites(config.evaluation, taught, validation_rows(folder))
    config.prove.check(asked)
    path = Path(model_path(base_name(config), "models.base"))
    adapters = {seed: _trained(arms, seed, config.train, path, place, progress) for seed, arms in sets.items()}
    arms: dict[str, list[Judged]] = {}
    with panel(folder, config, asked, place, progress) as judges:
        base = judges.base(place / "base")
        for seed in seeds:
            seen: dict[Path, Judged] = {}
            for name, adapter in adapters[seed].items():
                if adapter not in seen:
                    seen[adapter] = judges.tuned(f"{name}-{seed}", adapter, adapter.parent, base)
                arms.setdefault(name, []).append(seen[adapter])
    found = prove(config.prove, base.metrics, {name: [one.metrics for one in judged] for name, judged in arms.items()})
    facts = {
        "arms": {f"{arm.name}-{seed}": {"rows": len(arm.rows), "distinct": arm.distinct} for seed in seeds for arm in sets[seed]},
        "held_out_left_out": asked.overlapping, "config": asdict(config.prove), "evaluation": asdict(config.evaluation),
        "train": asdict(config.train),
    }  # fmt: skip
    write_text(
        place / "proof.json", json.dumps({**asdict(found), "is_proved": found.is_proved, **facts}, indent=2) + "\n"
    )
    return found


def _trained(
    arms: Sequence[Arm], seed: int, config: TrainConfig, model_path: Path, place: Path, progress: Progress
) -> dict[str, Path]:
    """Train each arm and return the adapters' folders by arm; what is trained is not trained again, equal rows once."""
    by_rows: dict[str, Path] = {}
    found: dict[str, Path] = {}
    for arm in arms:
        sha256 = sha256_of(arm.rows)
        if sha256 not in by_rows:
            by_rows[sha256] = place / f"{arm.name}-{seed}"
            _train_arm(
                arm, sha256, replace(config, seed=config.seed + seed, patience=0), model_path, by_rows[sha256], progress
            )
        found[arm.name] = by_rows[sha256] / "adapter"
    return found


def _train_arm(arm: Arm, sha256: str, config: TrainConfig, model_path: Path, place: Path, progress: Progress) -> None:
    from datasets import Dataset

    told = {**asdict(config), "checkpoint_seconds": None, "tokens_at_once": None}
    fingerprint = sha256_of([told, sha256, str(model_path)])
    report = place / "train.json"
    if report.is_file() and json.loads(report.read_text(encoding="utf-8")).get("fingerprint") == fingerprint:
        return
    logger.info("%s: %d rows, %d of them distinct", place.name, len(arm.rows), arm.distinct)
    place.mkdir(parents=True, exist_ok=True)
    rows = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in arm.rows)
    write_text(place / "rows.jsonl", rows)
    splits = {
        "train": Dataset.from_list(list(arm.rows)),
        "validation": Dataset.from_dict({"id": [], "messages": []}),
    }
    trained = train_adapter(splits, sha256, config, model_path, place / "adapter", progress)
    free_gpu_memory()
    facts = {"fingerprint": fingerprint, "arm": arm.name, "rows": len(arm.rows), "distinct": arm.distinct}
    write_text(report, json.dumps({**facts, **asdict(trained)}, indent=2) + "\n")
