"""What a run will cost, before it is paid for: requests, tokens, hours and money, from what an earlier run measured.

The range of a figure comes from the yields alone: candidates per instruction asked for, as a Beta distribution. Not in it:
that yields sink as the set fills, that tokens per request differ from run to run, and what is asked for again where
selection leaves a category short. Candidates of a pool are counted as if all of them passed.
"""

import math
from collections import Counter
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import polars as pl

from kiloset.core.calls import CallStore
from kiloset.core.errors import KilosetError
from kiloset.core.run import RunFolder
from kiloset.core.table import table_of
from kiloset.generator.categories import wanted_rows
from kiloset.generator.planning import PRIOR_WEIGHT, PRIOR_YIELD
from kiloset.generator.settings import PURPOSES, GenerateConfig
from kiloset.settings import ModelSettings, RunConfig

BIRTH = {"self_instruct": "instruction", "evolve": "evolve", "magpie": "magpie", "constraint": "instruction"}
"""Purpose of the request that asks for a new instruction, by strategy."""
REWRITES = ("plain", "guided")
"""Purposes of the requests that go to the base model."""
LOW, HIGH = 0.1, 0.9
"""Quantiles of a yield between which the figures range."""
MOST_BORN = 200
"""An instruction beyond them adds nothing to what is known of a yield: they share prompts, seeds and categories."""
ASKED = {"input": 0.48, "response": 0.74}
"""Requests per instruction while nothing is measured: 244 and 377 of 512 in run cpu-e8bdf17e."""
PROMPT_TOKENS = {
    "instruction": 250, "evolve": 120, "magpie": 40, "input": 400, "labelled_input": 400, "response": 80, "plain": 80,
    "guided": 250,
}  # fmt: skip
"""Guesses, while nothing is measured."""
WRITTEN_SHARE = {
    "instruction": 0.25,
    "evolve": 0.4,
    "magpie": 0.25,
    "input": 0.4,
    "labelled_input": 0.4,
    "response": 0.5,
}
"""Written tokens as a fraction of their limit while nothing is measured; guesses too."""


@dataclass(frozen=True, slots=True)
class Range:
    """A figure and how far it may well be off."""

    low: float
    expected: float
    high: float

    def times(self, factor: float) -> "Range":
        """Return it multiplied."""
        return Range(self.low * factor, self.expected * factor, self.high * factor)

    def plus(self, other: "Range") -> "Range":
        """Return the sum of two that rise and fall together."""
        return Range(self.low + other.low, self.expected + other.expected, self.high + other.high)


NOTHING = Range(0, 0, 0)


@dataclass(frozen=True, slots=True)
class Yield:
    """What became of a strategy's instructions."""

    born: int
    accepted: int
    """Those that became candidates: that passed every stage before selection."""


@dataclass(frozen=True, slots=True)
class Usage:
    """What requests of one purpose took."""

    requests: int
    prompt_tokens: int
    written_tokens: int


@dataclass(frozen=True)
class Evidence:
    """What an estimate goes by; whatever is missing in it is assumed."""

    origin: str
    """Where it is from, for the user: `run cpu-1234 (same models)`, `probe of 64 requests just now`, `assumed`."""
    yields: Mapping[str, Yield] = field(default_factory=dict)
    """By strategy."""
    asked: Mapping[str, Mapping[str, float]] = field(default_factory=dict)
    """Share of a strategy's instructions for which an `input`, a `labelled_input` or a `response` was asked for."""
    usage: Mapping[str, Usage] = field(default_factory=dict)
    """By purpose."""
    rewritten: float | None = None
    """Share of the rows that come to rewriting for which rewrites are asked; the answers of others are too short."""
    speeds: Mapping[str, float] = field(default_factory=dict)
    """Written tokens per second of the models `generator` and `rewriter`."""
    paid: Mapping[str, Usage] = field(default_factory=dict)
    """What this very run has paid already, by purpose."""


@dataclass(frozen=True, slots=True)
class Spend:
    """What requests will take."""

    requests: Range
    prompt_tokens: Range
    written_tokens: Range
    seconds: Range | None
    """None if the speed is not known."""
    cost: Range
    """In `Plan.currency`."""


@dataclass(frozen=True, slots=True)
class Shortage:
    """A budget that may not be enough."""

    limit: str
    """Name of the setting in [generate]."""
    allowed: float
    needed: Range
    """For all the candidates, in the unit of the setting."""
    candidates: Range
    """What it brings."""
    rows: Range
    """Rows of the set that these are enough for, at `candidates_per_row`."""


@dataclass(frozen=True)
class Plan:
    """What a run will cost."""

    rows: int
    candidates: int
    """Candidates to generate."""
    origin: str
    yields: dict[str, Range]
    """Candidates per instruction, by strategy."""
    purposes: dict[str, Spend]
    total: Spend
    scores: int
    """Most answers that the base model scores, here and without a request."""
    shortages: tuple[Shortage, ...]
    unchecked: tuple[str, ...]
    """Limits that could not be compared, for the speed is not known."""
    assumed: tuple[str, ...]
    """Of what the estimate goes by, that which was not measured."""
    paid: Mapping[str, Usage]
    currency: str


def plan_run(
    config: RunConfig, wanted: Mapping[str, int], pool: Mapping[str, int], folder: RunFolder, runs: Path,
    provider: Callable[[], Evidence],
) -> Plan:  # fmt: skip
    """Estimate a run by what it has done itself, else by the latest run of the same models, else by what `provider` finds."""
    return estimate(config, wanted, find_evidence(config, folder, runs) or provider(), pool)


def assumed() -> Evidence:
    """Return the evidence of someone who has measured nothing."""
    return Evidence("assumed")


def rows_wanted(config: RunConfig, folder: RunFolder, labelled: pl.DataFrame, pool: pl.DataFrame) -> dict[str, int]:
    """Return the rows wanted of each category: those the run has noted, else by the categories that the files name.

    Rows without a category get theirs from an embedding, later; until then those that have one speak for all.
    """
    noted = folder.manifest
    if noted.get("size") == config.run.size and isinstance(target := noted.get("target"), dict):
        return {str(name): int(rows) for name, rows in target.items()}
    of_pool = Counter(name for name in pool["category"] if name)
    counts = of_pool if config.categories.target == "candidates" and of_pool else Counter(labelled["category"])
    return wanted_rows(config.categories, sorted(set(labelled["category"])), counts, config.run.size)


def estimate(
    config: RunConfig, wanted: Mapping[str, int], evidence: Evidence, pool: Mapping[str, int] | None = None
) -> Plan:
    """Return what a run of this config will take.

    Args:
        config: The run's settings.
        wanted: Rows of each category in the set.
        evidence: What is known.
        pool: Candidates there are already, by category, "" for those whose category is not known yet.
    """
    missing = _missing(config.generate, wanted, pool or {})
    shares = _shares(config.generate) if missing else {}
    yields = {name: _yield(evidence.yields.get(name)) for name in shares}
    requests: dict[str, Range] = {}
    one: list[Spend] = []
    for name, share in shares.items():
        born = _born(config.generate, missing, share, yields[name])
        for purpose, each in _per_born(config.generate, name, evidence).items():
            requests[purpose] = requests.get(purpose, NOTHING).plus(born.times(each))
            one.append(_spend(config, purpose, _over(share, yields[name]).times(each), evidence))
    others = _rewrites(config, wanted, evidence)
    requests |= {name: Range(n, n, n) for name, n in others.items()}
    used = [name for name in (*PURPOSES, *REWRITES) if name in requests and requests[name].expected]
    purposes = {name: _spend(config, name, requests[name], evidence) for name in used}
    candidates = sum(missing.values())
    shortages, unchecked = _shortages(config, _total(one), candidates, wanted) if missing else ((), ())
    return Plan(
        sum(wanted.values()), math.ceil(candidates), evidence.origin, yields, purposes, _total(purposes.values()),
        _scores(config, wanted), shortages, unchecked, _assumed(evidence, shares, purposes), evidence.paid,
        config.models.currency,
    )  # fmt: skip


# ---------------------------------------------------------------------------------------------------------- estimation


def _missing(config: GenerateConfig, wanted: Mapping[str, int], pool: Mapping[str, int]) -> dict[str, float]:
    """Return the candidates to generate, by category; rows of the pool without one are spread evenly."""
    if not config.enabled:
        return {}
    need = {name: math.ceil(rows * config.candidates_per_row) for name, rows in wanted.items() if rows}
    missing = {name: max(0, n - pool.get(name, 0)) for name, n in need.items()}
    total = sum(missing.values())
    left = max(0, total - pool.get("", 0))
    return {name: n * left / total for name, n in missing.items() if n and left}


def _shares(config: GenerateConfig) -> dict[str, float]:
    """Return the share of the candidates that each strategy is to contribute."""
    total = sum(config.strategies.values())
    return {name: weight / total for name, weight in config.strategies.items() if weight}


def _yield(seen: Yield | None) -> Range:
    """Return mean and quantiles of the Beta distribution of a yield, the loop's own estimate being the prior."""
    from scipy.special import betaincinv  # type: ignore[import-untyped]

    born, accepted = (seen.born, min(seen.accepted, seen.born)) if seen else (0, 0)
    worth = min(1.0, MOST_BORN / born) if born else 0.0
    a = PRIOR_WEIGHT * PRIOR_YIELD + accepted * worth
    b = PRIOR_WEIGHT * (1 - PRIOR_YIELD) + (born - accepted) * worth
    return Range(float(betaincinv(a, b, LOW)), a / (a + b), float(betaincinv(a, b, HIGH)))


def _per_born(config: GenerateConfig, strategy: str, evidence: Evidence) -> dict[str, float]:
    """Return the requests that one instruction takes in the mean, by purpose."""
    asked = evidence.asked.get(strategy, ASKED)
    answers = config.constraint_samples if strategy == "constraint" else 1
    each = {BIRTH[strategy]: 1.0, **{name: asked.get(name, 0.0) for name in ("input", "labelled_input")}}
    return each | {"response": asked.get("response", 0.0) * answers}


def _born(config: GenerateConfig, missing: Mapping[str, float], share: float, rate: Range) -> Range:
    """Return the instructions a strategy asks for: in the first wave by the yield assumed for it, then what is missing."""
    per_prompt = config.samples_per_prompt
    first = sum(math.ceil(n * share / PRIOR_YIELD / per_prompt - 1e-9) * per_prompt for n in missing.values())
    needed = _over(sum(missing.values()) * share, rate)
    return Range(max(first, needed.low), max(first, needed.expected), max(first, needed.high))


def _over(candidates: float, rate: Range) -> Range:
    """Return the instructions that so many candidates take."""
    return Range(candidates / rate.high, candidates / rate.expected, candidates / rate.low)


def _rewrites(config: RunConfig, wanted: Mapping[str, int], evidence: Evidence) -> dict[str, float]:
    if not config.rewrite.enabled:
        return {}
    rows = _selected(config, wanted) * (1.0 if evidence.rewritten is None else evidence.rewritten)
    return {"plain": rows * config.rewrite.plain, "guided": rows * config.rewrite.guided}


def _selected(config: RunConfig, wanted: Mapping[str, int]) -> int:
    """Return the rows that come to rewriting: those wanted and the reserve."""
    return sum(config.balance.rows(rows) for rows in wanted.values())


def _scores(config: RunConfig, wanted: Mapping[str, int]) -> int:
    rewrites = config.rewrite.plain + config.rewrite.guided if config.rewrite.enabled else 0
    return _selected(config, wanted) * (1 + rewrites)


def _spend(config: RunConfig, purpose: str, requests: Range, evidence: Evidence) -> Spend:
    prompt, written = _tokens(config, purpose, evidence)
    model, speed = _model(config, purpose), _speed(config, purpose, evidence)
    price = (prompt * model.price_prompt + written * model.price_written) / 1e6
    return Spend(
        requests, requests.times(prompt), requests.times(written),
        None if speed is None else requests.times(written / speed), requests.times(price),
    )  # fmt: skip


def _tokens(config: RunConfig, purpose: str, evidence: Evidence) -> tuple[float, float]:
    """Return the prompt and written tokens of one request."""
    limit = _limit(config, purpose)
    if (seen := evidence.usage.get(purpose)) is not None and seen.requests:
        return seen.prompt_tokens / seen.requests, min(seen.written_tokens / seen.requests, limit)
    if purpose in REWRITES:
        return PROMPT_TOKENS[purpose], min(_tokens(config, "response", evidence)[1], limit)
    return PROMPT_TOKENS[purpose], WRITTEN_SHARE[purpose] * limit


def _limit(config: RunConfig, purpose: str) -> int:
    generate = config.generate
    if purpose in REWRITES:
        return config.rewrite.max_tokens
    if purpose == "response":
        return generate.max_response_tokens
    return generate.max_input_tokens if purpose.endswith("input") else generate.max_instruction_tokens


def _model(config: RunConfig, purpose: str) -> ModelSettings:
    named = (config.models.rewriter, config.models.base) if purpose in REWRITES else ()
    return next((model for model in named if model.name), config.models.generator)


def _speed(config: RunConfig, purpose: str, evidence: Evidence) -> float | None:
    generator, rewriter = evidence.speeds.get("generator"), evidence.speeds.get("rewriter")
    same = _model(config, purpose).name == config.models.generator.name
    return generator if purpose not in REWRITES else rewriter or (generator if same else None)


def _total(spends: Collection[Spend]) -> Spend:
    total = Spend(NOTHING, NOTHING, NOTHING, NOTHING, NOTHING)
    for one in spends:
        seconds = None if total.seconds is None or one.seconds is None else total.seconds.plus(one.seconds)
        total = Spend(
            total.requests.plus(one.requests), total.prompt_tokens.plus(one.prompt_tokens),
            total.written_tokens.plus(one.written_tokens), seconds, total.cost.plus(one.cost),
        )  # fmt: skip
    return total


def _shortages(
    config: RunConfig, one: Spend, candidates: float, wanted: Mapping[str, int]
) -> tuple[tuple[Shortage, ...], tuple[str, ...]]:
    """Compare each limit with what all candidates need, `one` being what one of them takes."""
    generate = config.generate
    hours = None if one.seconds is None else one.seconds.times(1 / 3600)
    tokens = one.prompt_tokens.plus(one.written_tokens)
    limits = [
        ("max_requests", float(generate.max_requests), one.requests),
        ("max_tokens", float(generate.max_tokens), tokens),
        ("max_hours", generate.max_hours, hours),
    ]
    given = sum(math.ceil(n * generate.candidates_per_row) for n in wanted.values()) - candidates
    found: list[Shortage] = []
    for name, allowed, each in limits:
        if allowed and each is not None and candidates * each.high > allowed:
            made = Range(*(min(candidates, allowed / cost) for cost in (each.high, each.expected, each.low)))
            enough = (
                int((given + n) / generate.candidates_per_row + 1e-9) for n in (made.low, made.expected, made.high)
            )
            rows = Range(*(min(n, sum(wanted.values())) for n in enough))
            found.append(Shortage(name, allowed, each.times(candidates), made, rows))
    return tuple(found), tuple(name for name, allowed, each in limits if allowed and each is None)


def _assumed(evidence: Evidence, strategies: Collection[str], purposes: Collection[str]) -> tuple[str, ...]:
    unseen = [f"yield of {name}" for name in strategies if name not in evidence.yields]
    unseen += [f"tokens of {name}" for name in purposes if name not in evidence.usage]
    return tuple(unseen)


# ------------------------------------------------------------------------------------------------------------ evidence


def find_evidence(config: RunConfig, folder: RunFolder, runs: Path) -> Evidence | None:
    """Return what this run has measured so far, else the latest run of the same models; None if there is none.

    A run that cannot be read is passed over. Models are told by their names, not by their revisions: to find that of a
    hub model could mean to download it.
    """
    mine = _evidence_or_none(config, folder, mine=True)
    if mine is not None and mine.yields:
        return mine
    others = sorted(runs.glob("*/manifest.json"), key=lambda file: file.stat().st_mtime, reverse=True)
    for file in others:
        if file.parent.name != folder.path.name and (found := _evidence_or_none(config, RunFolder(file.parent))):
            return found if mine is None else replace(found, paid=mine.paid)
    return mine


def evidence_of_run(config: RunConfig, folder: RunFolder, *, mine: bool = False) -> Evidence | None:
    """Return what a run measured, None if it used another generator model or did not come far enough.

    Args:
        config: The settings of the run to plan.
        folder: The run to look at.
        mine: Whether it is the run to plan itself: then it need not have finished generating.

    Raises:
        KilosetError: It cannot be read.
    """
    used, names = (
        _models(folder),
        (config.models.generator.name, _model(config, REWRITES[0]).name),
    )
    same = [_is(name, used.get(role)) for name, role in zip(names, ("generator", "rewriter"), strict=True)]
    rows = _rows(folder)
    if not folder.calls.exists() or not (same[0] or (mine and not used)) or (rows is None and not mine):
        return None
    with_rewriter = same[1] or (mine and "rewriter" not in used)
    origin = (
        "this run so far"
        if mine
        else f"run {folder.path.name} (same {'models' if with_rewriter else 'generator model'})"
    )
    born, accepted, selected = rows or (table_of([]), set(), table_of([]))
    store = CallStore.read_only(folder.calls)
    try:
        found = measured(origin, born, accepted, store, rewriter=with_rewriter)
        found = replace(found, rewritten=_share_rewritten(selected, store) if with_rewriter else None)
    finally:
        store.close()
    return replace(found, paid=found.usage if mine else {}) if found.usage else None


def measured(
    origin: str, rows: pl.DataFrame, accepted: Collection[str], store: CallStore, *, rewriter: bool = True
) -> Evidence:
    """Return what generated rows and a store of calls show.

    Args:
        origin: Where it is from.
        rows: Every generated row ever born, with `id`, `strategy` and `calls`.
        accepted: Ids of those that became candidates.
        store: The completions.
        rewriter: Whether requests to the model that rewrites count.
    """
    good, born, wins, asked = set(accepted), Counter[str](), Counter[str](), Counter[tuple[str, str]]()
    for id, strategy, calls in rows.select("id", "strategy", "calls").iter_rows():
        born[strategy] += 1
        wins[strategy] += id in good
        asked.update((strategy, purpose) for purpose in _purposes(calls, store))
    usage = {
        purpose: Usage(counts["completed"], counts["prompt_tokens"], counts["completion_tokens"])
        for purpose, counts in store.account().items()
        if purpose in PURPOSES or (rewriter and purpose in REWRITES)
    }
    speeds = {"generator": _measured_speed(store, usage, PURPOSES), "rewriter": _measured_speed(store, usage, REWRITES)}
    return Evidence(
        origin,
        {name: Yield(n, wins[name]) for name, n in born.items()},
        {name: {p: asked[name, p] / n for p in ("input", "labelled_input", "response")} for name, n in born.items()},
        usage,
        speeds={name: speed for name, speed in speeds.items() if speed},
    )


def _evidence_or_none(config: RunConfig, folder: RunFolder, *, mine: bool = False) -> Evidence | None:
    try:
        return evidence_of_run(config, folder, mine=mine)
    except (KilosetError, pl.exceptions.PolarsError, OSError):
        return None


def _models(folder: RunFolder) -> dict[str, str]:
    """Return the identities of the models that wrote in a run: `generator` and `rewriter`."""
    stages: Any = folder.manifest.get("stages")
    found: dict[str, str] = {}
    for stage in stages.values() if isinstance(stages, dict) else ():
        models = stage.get("models") if isinstance(stage, dict) else None
        found |= {name: one for name, one in (models or {}).items() if name in ("generator", "rewriter")}
    return found


def _is(name: str, identity: str | None) -> bool:
    """Tell whether an identity, a name and a revision, is of the model so named."""
    return identity is not None and identity.startswith(f"{name}@")


def _rows(folder: RunFolder) -> tuple[pl.DataFrame, set[str], pl.DataFrame] | None:
    """Return every generated row of a run, the ids of those that became candidates, and the rows that came to rewriting."""
    stages = dict(folder.stages())
    names = list(stages)
    before = names[: names.index("balance")] if "balance" in names else names
    if "generate" not in before or before[-1] == "generate":
        return None
    mine, columns = pl.col("source") == "generated", ("id", "strategy", "calls")
    dropped = folder.dropped().filter(mine & (pl.col("stage") == "generate"))
    rows = pl.concat([stages["generate"].filter(mine).select(columns), dropped.select(columns)])
    return rows, set(stages[before[-1]].filter(mine)["id"]), stages.get("rewrite", table_of([]))


def _purposes(calls: Collection[str], store: CallStore) -> set[str]:
    found = (store.call(key) for key in calls)
    return {str(call["purpose"]) for call in found if call is not None}


def _share_rewritten(rows: pl.DataFrame, store: CallStore) -> float | None:
    asked = [bool(_purposes(calls, store).intersection(REWRITES)) for calls in rows["calls"]]
    return sum(asked) / len(asked) if any(asked) else None


def _measured_speed(store: CallStore, usage: Mapping[str, Usage], purposes: Collection[str]) -> float | None:
    """Return written tokens per second of work, None where nothing was written or it took no time."""
    used = [purpose for purpose in purposes if purpose in usage]
    hours = store.spent(used)[2] if used else 0.0
    return sum(usage[purpose].written_tokens for purpose in used) / (hours * 3600) if hours else None
