"""Estimate what a run will cost before it starts: requests, tokens, hours and money, from what earlier runs measured.

The range of a figure comes only from the yields, candidates per instruction, each as a Beta distribution. Not included:
that yields fall as the set fills, that tokens per request differ between runs, and the requests of later waves for
categories that selection leaves short. Pool rows count as if all of them became candidates.
"""

import math
from collections import Counter
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from functools import reduce

import polars as pl

from kiloset.core.run import RunFolder
from kiloset.generator.categories import wanted_rows
from kiloset.generator.planning import PRIOR_WEIGHT, prior_yield
from kiloset.generator.settings import INSTRUCTION_PURPOSE, PURPOSES, GenerateConfig
from kiloset.plan.evidence import REWRITES, Evidence, StrategyYield, TokenUsage, rewriter_settings
from kiloset.settings import RunConfig

LOW, HIGH = 0.1, 0.9
"""Quantiles of a yield that bound the figures."""
MOST_INSTRUCTIONS = 200
"""Instructions beyond this number do not make a yield more certain: they share prompts, seeds and categories."""
FOLLOWING_SHARES = {"input": 0.48, "response": 0.74, "verify": 0.6}
"""Requests per instruction before anything is measured: 244 and 377 of 512 in run cpu-e8bdf17e; `verify` is assumed."""
PROMPT_TOKENS = {
    "instruction": 250, "evolve": 120, "magpie": 40, "input": 400, "labelled_input": 400, "response": 80, "verify": 80, "plain": 80,
    "guided": 250,
}  # fmt: skip
"""Assumed prompt tokens per request before anything is measured."""
WRITTEN_SHARE = {"instruction": 0.25, "evolve": 0.4, "magpie": 0.25, "input": 0.4, "labelled_input": 0.4, "response": 0.5, "verify": 0.5}  # fmt: skip
"""Assumed written tokens per request, as a fraction of their limit, before anything is measured."""


@dataclass(frozen=True, slots=True)
class Assumptions:
    """What an estimate assumes before anything is measured."""

    following: Mapping[str, float]
    """Requests per instruction, by purpose."""
    prompt_tokens: Mapping[str, float]
    """Prompt tokens per request, by purpose."""
    written_share: Mapping[str, float]
    """Written tokens per request as a fraction of their limit, by purpose."""


LISTS = Assumptions(FOLLOWING_SHARES, PROMPT_TOKENS, WRITTEN_SHARE)
"""For the prompt style "continue"."""
WHOLE_TASKS = Assumptions(
    {"response": 0.85, "verify": 0.7},
    PROMPT_TOKENS | {"instruction": 350, "response": 400, "verify": 400},
    WRITTEN_SHARE | {"instruction": 0.5, "response": 0.25, "verify": 0.25},
)
"""For the prompt style "chat"; four fifths of the prompt tokens were cached in the run of docs/results/writer_cost.md."""


@dataclass(frozen=True, slots=True)
class Range:
    """An expected figure with its likely bounds."""

    low: float
    expected: float
    high: float

    def times(self, factor: float) -> "Range":
        """Return the range multiplied by a number."""
        return Range(self.low * factor, self.expected * factor, self.high * factor)

    def plus(self, other: "Range") -> "Range":
        """Return the sum of two ranges that rise and fall together."""
        return Range(self.low + other.low, self.expected + other.expected, self.high + other.high)


NOTHING = Range(0, 0, 0)


@dataclass(frozen=True, slots=True)
class Spend:
    """What requests will cost."""

    requests: Range = NOTHING
    prompt_tokens: Range = NOTHING
    written_tokens: Range = NOTHING
    seconds: Range | None = NOTHING
    """None if the speed is unknown."""
    cost: Range = NOTHING
    """In `Plan.currency`."""

    def plus(self, other: "Spend") -> "Spend":
        """Return the sum of two."""
        is_timed = self.seconds is not None and other.seconds is not None
        return Spend(
            self.requests.plus(other.requests), self.prompt_tokens.plus(other.prompt_tokens),
            self.written_tokens.plus(other.written_tokens),
            self.seconds.plus(other.seconds) if is_timed else None,  # type: ignore[union-attr, arg-type]
            self.cost.plus(other.cost),
        )  # fmt: skip


@dataclass(frozen=True, slots=True)
class Shortage:
    """A budget that may not be enough."""

    limit: str
    """Name of the setting in [generate]."""
    allowed: float
    needed: Range
    """What all candidates need, in the unit of the setting."""
    candidates: Range
    """Candidates that the budget pays for."""
    rows: Range
    """Rows of the set that these candidates are enough for, at `candidates_per_row`."""


@dataclass(frozen=True)
class Plan:
    """What a run will cost. `kiloset plan --json` prints these fields."""

    rows: int
    candidates: int
    """Candidates to generate."""
    origin: str
    """Source of the evidence."""
    yields: dict[str, Range]
    """Candidates per instruction, by strategy."""
    purposes: dict[str, Spend]
    total: Spend
    scores: int
    """Most responses that the base model scores; scoring sends no request."""
    shortages: tuple[Shortage, ...]
    unchecked: tuple[str, ...]
    """Limits that could not be compared because the speed is unknown."""
    assumed: tuple[str, ...]
    """Parts of the estimate that nothing has measured."""
    paid: Mapping[str, TokenUsage]
    currency: str


def rows_wanted(config: RunConfig, folder: RunFolder, labelled: pl.DataFrame, pool: pl.DataFrame) -> dict[str, int]:
    """Return the wanted rows of each category: those in the run's manifest, else from the categories in the input files.

    Rows without a category get one later, from their embedding; until then the labelled rows stand for all.
    """
    manifest = folder.manifest
    if manifest.get("size") == config.run.size and isinstance(target := manifest.get("target"), dict):
        return {str(name): int(rows) for name, rows in target.items()}
    of_pool = Counter(name for name in pool["category"] if name)
    counts = of_pool if config.categories.target == "candidates" and of_pool else Counter(labelled["category"])
    return wanted_rows(config.categories, sorted(set(labelled["category"])), counts, config.run.size)


def estimate(
    config: RunConfig, wanted: Mapping[str, int], evidence: Evidence, pool: Mapping[str, int] | None = None
) -> Plan:
    """Return the estimate of a run.

    Args:
        config: The run's settings.
        wanted: Rows of each category in the set.
        evidence: What is known.
        pool: Existing candidates, by category; "" for rows without a category yet.
    """
    missing = _missing_candidates(config.generate, wanted, pool or {})
    weights = {name: weight for name, weight in config.generate.strategies.items() if weight and missing}
    shares = {name: weight / sum(weights.values()) for name, weight in weights.items()}
    prior = expected_yield(config)
    yields = {name: _yield_range(evidence.yields.get(name), prior) for name in shares}
    requests: dict[str, Range] = {}
    per_candidate = Spend()
    for name, share in shares.items():
        instructions = _instructions(config, missing, share, yields[name])
        for purpose, each in _requests_per_instruction(config, name, evidence).items():
            requests[purpose] = requests.get(purpose, NOTHING).plus(instructions.times(each))
            needed = _instructions_for(share, yields[name]).times(each)
            per_candidate = per_candidate.plus(_spend(config, purpose, needed, evidence))
    selected = sum(config.select.rows(rows) for rows in wanted.values())  # the reserve included
    rewrites = {"plain": config.rewrite.plain, "guided": config.rewrite.guided} if config.rewrite.enabled else {}
    rewritten = selected * (1.0 if evidence.rewritten is None else evidence.rewritten)
    requests |= {name: Range(rewritten * n, rewritten * n, rewritten * n) for name, n in rewrites.items()}
    used = [name for name in (*PURPOSES, *REWRITES) if name in requests and requests[name].expected]
    purposes = {name: _spend(config, name, requests[name], evidence) for name in used}
    candidates = sum(missing.values())
    shortages, unchecked = _shortages(config.generate, per_candidate, candidates, wanted) if missing else ((), ())
    return Plan(
        rows=sum(wanted.values()), candidates=math.ceil(candidates), origin=evidence.origin, yields=yields,
        purposes=purposes, total=reduce(Spend.plus, purposes.values(), Spend()), scores=selected * (1 + sum(rewrites.values())),
        shortages=shortages, unchecked=unchecked, assumed=_assumed(evidence, shares, purposes), paid=evidence.paid,
        currency=config.models.currency,
    )  # fmt: skip


def _missing_candidates(config: GenerateConfig, wanted: Mapping[str, int], pool: Mapping[str, int]) -> dict[str, float]:
    """Return the candidates to generate, by category; pool rows without a category count for all categories alike."""
    if not config.enabled:
        return {}
    need = {name: math.ceil(rows * config.candidates_per_row) for name, rows in wanted.items() if rows}
    missing = {name: max(0, n - pool.get(name, 0)) for name, n in need.items()}
    total = sum(missing.values())
    remaining = max(0, total - pool.get("", 0))
    return {name: n * remaining / total for name, n in missing.items() if n and remaining}


def _yield_range(measured: StrategyYield | None, prior: float) -> Range:
    """Return mean and quantiles of the Beta distribution of a yield; the prior is the generator's own assumption."""
    from scipy.special import betaincinv  # type: ignore[import-untyped]

    requested, accepted = (measured.requested, min(measured.accepted, measured.requested)) if measured else (0, 0)
    weight = min(1.0, MOST_INSTRUCTIONS / requested) if requested else 0.0
    a = PRIOR_WEIGHT * prior + accepted * weight
    b = PRIOR_WEIGHT * (1 - prior) + (requested - accepted) * weight
    return Range(float(betaincinv(a, b, LOW)), a / (a + b), float(betaincinv(a, b, HIGH)))


def _in_chats(config: GenerateConfig) -> bool:
    """Return whether whole tasks are asked for; a plan does not load the model, and assumes that it has a chat template."""
    return config.prompt_style == "chat"


def _assumptions(config: GenerateConfig) -> Assumptions:
    return WHOLE_TASKS if _in_chats(config) else LISTS


def expected_yield(config: RunConfig) -> float:
    """Return the fraction of requested instructions that is expected to become candidates, before anything is measured."""
    return prior_yield(in_chats=_in_chats(config.generate), verified=config.verify.repeats > 0)


def _requests_per_instruction(config: RunConfig, strategy: str, evidence: Evidence) -> dict[str, float]:
    """Return the mean number of requests for one instruction, by purpose."""
    shares = evidence.following.get(strategy, _assumptions(config.generate).following)
    responses = config.generate.constraint_samples if strategy == "constraint" else 1
    each = {INSTRUCTION_PURPOSE[strategy]: 1.0, **{name: shares.get(name, 0.0) for name in ("input", "labelled_input")}}
    # A run without verification is evidence of everything but this share.
    verified = shares.get("verify") or _assumptions(config.generate).following["verify"]
    return each | {"response": shares.get("response", 0.0) * responses, "verify": verified * config.verify.repeats}


def _instructions(config: RunConfig, missing: Mapping[str, float], share: float, rate: Range) -> Range:
    """Return the instructions that a strategy requests: the first wave by the assumed yield, then for what is missing."""
    per_prompt, prior = 1 if _in_chats(config.generate) else config.generate.samples_per_prompt, expected_yield(config)
    first = sum(math.ceil(n * share / prior / per_prompt - 1e-9) * per_prompt for n in missing.values())
    needed = _instructions_for(sum(missing.values()) * share, rate)
    return Range(max(first, needed.low), max(first, needed.expected), max(first, needed.high))


def _instructions_for(candidates: float, rate: Range) -> Range:
    return Range(candidates / rate.high, candidates / rate.expected, candidates / rate.low)


def _spend(config: RunConfig, purpose: str, requests: Range, evidence: Evidence) -> Spend:
    """Return what requests for one purpose cost."""
    prompt, written = _tokens(config, purpose, evidence)
    writer, is_rewrite = config.models.generator, purpose in REWRITES
    model = rewriter_settings(config) if is_rewrite else writer
    speed = evidence.speeds.get("rewriter") if is_rewrite else None
    if speed is None and model.name == writer.name:
        speed = evidence.speeds.get("generator")
    price = (prompt * model.price_prompt + written * model.price_written) / 1e6
    seconds = None if speed is None else requests.times(written / speed)
    return Spend(requests, requests.times(prompt), requests.times(written), seconds, requests.times(price))


def _tokens(config: RunConfig, purpose: str, evidence: Evidence) -> tuple[float, float]:
    """Return the prompt and written tokens of one request."""
    limit = _most_tokens(config, purpose)
    if (usage := evidence.usage.get(purpose)) is not None and usage.requests:
        return usage.prompt_tokens / usage.requests, min(usage.written_tokens / usage.requests, limit)
    assumed = _assumptions(config.generate)
    if purpose in REWRITES:
        return assumed.prompt_tokens[purpose], min(_tokens(config, "response", evidence)[1], limit)
    return assumed.prompt_tokens[purpose], assumed.written_share[purpose] * limit


def _most_tokens(config: RunConfig, purpose: str) -> int:
    generate = config.generate
    if purpose in REWRITES:
        return config.rewrite.max_tokens
    if purpose in ("response", "verify"):
        return generate.max_response_tokens
    return generate.max_input_tokens if purpose.endswith("input") else generate.max_instruction_tokens


def _shortages(
    config: GenerateConfig, per_candidate: Spend, candidates: float, wanted: Mapping[str, int]
) -> tuple[tuple[Shortage, ...], tuple[str, ...]]:
    """Return the limits that may be too low for all candidates, and the limits that cannot be compared."""
    seconds = per_candidate.seconds
    limits: list[tuple[str, float, Range | None]] = [
        ("max_requests", config.max_requests, per_candidate.requests),
        ("max_tokens", config.max_tokens, per_candidate.prompt_tokens.plus(per_candidate.written_tokens)),
        ("max_hours", config.max_hours, None if seconds is None else seconds.times(1 / 3600)),
    ]
    in_pool = sum(math.ceil(n * config.candidates_per_row) for n in wanted.values()) - candidates
    shortages = []
    for name, allowed, each in limits:
        if allowed and each is not None and candidates * each.high > allowed:
            affordable = [min(candidates, allowed / cost) for cost in (each.high, each.expected, each.low)]
            rows = (int((in_pool + n) / config.candidates_per_row + 1e-9) for n in affordable)
            most = sum(wanted.values())
            shortages.append(
                Shortage(
                    name, allowed, each.times(candidates), Range(*affordable), Range(*(min(n, most) for n in rows))
                )
            )
    return tuple(shortages), tuple(name for name, allowed, each in limits if allowed and each is None)


def _assumed(evidence: Evidence, strategies: Collection[str], purposes: Collection[str]) -> tuple[str, ...]:
    yields = [f"yield of {name}" for name in strategies if name not in evidence.yields]
    return (*yields, *(f"tokens of {name}" for name in purposes if name not in evidence.usage))
