"""What earlier runs measured: candidates per instruction, requests and tokens per purpose, speeds."""

import itertools
from collections import Counter
from collections.abc import Collection, Mapping
from contextlib import closing
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import polars as pl

from kiloset.core.calls import CallStore
from kiloset.core.errors import KilosetError
from kiloset.core.run import RunFolder
from kiloset.core.table import table_of
from kiloset.generator.settings import PURPOSES
from kiloset.settings import ModelSettings, RunConfig

REWRITES = ("plain", "guided")
"""Purposes of the requests to the model that rewrites."""
SELECTION = ("select", "balance")
"""Stages that select rows; `balance` is the name in runs of earlier versions."""
FOLLOWING = ("input", "labelled_input", "response", "verify")
"""Purposes of the requests that may follow the one for an instruction."""


@dataclass(frozen=True, slots=True)
class StrategyYield:
    """How many of a strategy's instructions became candidates."""

    requested: int
    accepted: int
    """Instructions that passed every stage before selection."""


@dataclass(frozen=True, slots=True)
class TokenUsage:
    """What the requests for one purpose used."""

    requests: int
    prompt_tokens: int
    written_tokens: int


@dataclass(frozen=True)
class Evidence:
    """What an estimate is based on; what is missing here is assumed."""

    origin: str
    """The source, for the user: `run cpu-1234 (same models)`, `a probe of 64 requests`, `assumed`."""
    yields: Mapping[str, StrategyYield] = field(default_factory=dict)
    """By strategy."""
    following: Mapping[str, Mapping[str, float]] = field(default_factory=dict)
    """By strategy and purpose in `FOLLOWING`: the fraction of instructions that were followed by such a request."""
    usage: Mapping[str, TokenUsage] = field(default_factory=dict)
    """By purpose."""
    rewritten: float | None = None
    """Fraction of the selected rows with requests for rewrites; the responses of the other rows are too short."""
    speeds: Mapping[str, float] = field(default_factory=dict)
    """Written tokens per second of the models `generator` and `rewriter`."""
    paid: Mapping[str, TokenUsage] = field(default_factory=dict)
    """What this very run has used already, by purpose."""


def assume_nothing_measured() -> Evidence:
    """Return the evidence without any measurement: every figure is assumed."""
    return Evidence("assumed")


def find_evidence(config: RunConfig, folder: RunFolder, runs: Path) -> Evidence | None:
    """Return what this run has measured so far, else what the latest run of the same models did; None if there is none.

    A run that cannot be read is skipped. Models are compared by name, not by revision: to look up the revision of a hub
    model could require a download.
    """
    own = _evidence_or_none(config, folder, is_own=True)
    if own is not None and own.yields:
        return own
    for file in sorted(runs.glob("*/manifest.json"), key=lambda file: file.stat().st_mtime, reverse=True):
        if file.parent.name != folder.path.name and (other := _evidence_or_none(config, RunFolder(file.parent))):
            return other if own is None else replace(other, paid=own.paid)
    return own


def evidence_of_run(config: RunConfig, folder: RunFolder, *, is_own: bool = False) -> Evidence | None:
    """Return what a run measured, None if it used another writer model or has not finished generation.

    Args:
        config: The settings of the run to plan.
        folder: The run to read.
        is_own: Whether it is the run to plan; then it need not have finished generation.

    Raises:
        KilosetError: A file of the run cannot be read.
    """
    used, rows = _models(folder), _rows(folder)
    same_writer = _is_model(config.models.generator.name, used.get("generator"))
    if not folder.calls.exists() or not (same_writer or (is_own and not used)) or (rows is None and not is_own):
        return None
    rewriter = rewriter_settings(config).name
    same_rewriter = _is_model(rewriter, used.get("rewriter")) or (is_own and "rewriter" not in used)
    models = "models" if same_rewriter else "generator model"
    origin = "this run so far" if is_own else f"run {folder.path.name} (same {models})"
    generated, accepted, selected = rows or (table_of([]), set(), table_of([]))
    with closing(CallStore.read_only(folder.calls)) as store:
        evidence = measured_evidence(origin, generated, accepted, store, with_rewriter=same_rewriter)
        rewritten = _share_rewritten(selected, store) if same_rewriter else None
    if is_own and rows is None:
        evidence = _with_previewed_yields(evidence, folder)
    return replace(evidence, rewritten=rewritten, paid=evidence.usage if is_own else {}) if evidence.usage else None


def measured_evidence(
    origin: str, rows: pl.DataFrame, accepted: Collection[str], store: CallStore, *, with_rewriter: bool = True
) -> Evidence:
    """Return what generated rows and their stored completions show.

    Args:
        origin: The source of the evidence.
        rows: Every generated row, dropped rows included, with `id`, `strategy` and `calls`.
        accepted: Ids of the rows that became candidates.
        store: The completions.
        with_rewriter: Whether to include the requests to the model that rewrites.
    """
    requested, successes, followed = Counter[str](), Counter[str](), Counter[tuple[str, str]]()
    is_accepted = set(accepted).__contains__
    for id, strategy, calls in rows.select("id", "strategy", "calls").iter_rows():
        requested[strategy] += 1
        successes[strategy] += is_accepted(id)
        followed.update((strategy, purpose) for purpose in _purposes(calls, store))
    usage = {
        purpose: TokenUsage(counts["completed"], counts["prompt_tokens"], counts["completion_tokens"])
        for purpose, counts in store.account().items()
        if purpose in PURPOSES or (with_rewriter and purpose in REWRITES)
    }
    speeds = {"generator": _speed(store, usage, PURPOSES), "rewriter": _speed(store, usage, REWRITES)}
    return Evidence(
        origin,
        yields={name: StrategyYield(n, successes[name]) for name, n in requested.items()},
        following={name: {each: followed[name, each] / n for each in FOLLOWING} for name, n in requested.items()},
        usage=usage,
        speeds={name: speed for name, speed in speeds.items() if speed},
    )


def yields_as_record(evidence: Evidence) -> dict[str, Any]:
    """Return what a preview measured of the strategies, as the entry `preview` of the manifest keeps it."""
    yields = {name: [each.requested, each.accepted] for name, each in evidence.yields.items()}
    return {"yields": yields, "following": {name: dict(each) for name, each in evidence.following.items()}}


def rewriter_settings(config: RunConfig) -> ModelSettings:
    """Return the settings of the model that rewrites: its own, else the base model's, else the writer model's."""
    models = (config.models.rewriter, config.models.base)
    return next((model for model in models if model.name), config.models.generator)


def _evidence_or_none(config: RunConfig, folder: RunFolder, *, is_own: bool = False) -> Evidence | None:
    try:
        return evidence_of_run(config, folder, is_own=is_own)
    except (KilosetError, pl.exceptions.PolarsError, OSError):
        return None


def _with_previewed_yields(evidence: Evidence, folder: RunFolder) -> Evidence:
    """Add what a preview of the run measured of the strategies."""
    record = folder.manifest.get("preview", {})
    yields = {name: StrategyYield(*counts) for name, counts in record.get("yields", {}).items()}
    return replace(evidence, yields=yields, following=record.get("following", {})) if yields else evidence


def _models(folder: RunFolder) -> dict[str, str]:
    """Return the identities of the models `generator` and `rewriter` in a run's manifest."""
    stages: Any = folder.manifest.get("stages")
    models: dict[str, str] = {}
    for stage in stages.values() if isinstance(stages, dict) else ():
        named = (stage.get("models") if isinstance(stage, dict) else None) or {}
        models |= {role: named[role] for role in ("generator", "rewriter") if role in named}
    return models


def _is_model(name: str, identity: str | None) -> bool:
    """Return whether an identity, which is a name and a revision, is of the model with this name."""
    return identity is not None and identity.startswith(f"{name}@")


def _rows(folder: RunFolder) -> tuple[pl.DataFrame, set[str], pl.DataFrame] | None:
    """Return all generated rows of a run, the ids of its candidates and its selected rows; None before generation ended."""
    stages = dict(folder.stages())
    names = list(stages)
    before = [*itertools.takewhile(lambda name: name not in SELECTION, names)]
    if "generate" not in before or before[-1] == "generate":
        return None
    is_generated, columns = pl.col("source") == "generated", ("id", "strategy", "calls")
    dropped = folder.dropped().filter(is_generated & (pl.col("stage") == "generate"))
    rows = pl.concat([stages["generate"].filter(is_generated).select(columns), dropped.select(columns)])
    return rows, set(stages[before[-1]].filter(is_generated)["id"]), stages.get("rewrite", table_of([]))


def _purposes(calls: Collection[str], store: CallStore) -> set[str]:
    stored = (store.call(key) for key in calls)
    return {str(call["purpose"]) for call in stored if call is not None}


def _share_rewritten(rows: pl.DataFrame, store: CallStore) -> float | None:
    rewritten = [bool(_purposes(calls, store).intersection(REWRITES)) for calls in rows["calls"]]
    return sum(rewritten) / len(rewritten) if any(rewritten) else None


def _speed(store: CallStore, usage: Mapping[str, TokenUsage], purposes: Collection[str]) -> float | None:
    """Return written tokens per second of work, None if nothing was written or no time was measured."""
    used = [purpose for purpose in purposes if purpose in usage]
    hours = store.spent(used)[2] if used else 0.0
    return sum(usage[purpose].written_tokens for purpose in used) / (hours * 3600) if hours else None
