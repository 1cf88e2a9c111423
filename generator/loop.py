"""The loop that requests candidates from the writer model until every category has enough.

It works in waves. It plans the next wave as soon as every instruction of the last one is checked, while the engine still
writes responses, and counts on the expected share of those. Where that is enough, it checks again after more responses.
Each wave is stored before its requests are sent: a resumed run, also one with larger limits, repeats the same waves.
"""

import math
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import polars as pl

from kiloset.core.progress import GenerationProgress
from kiloset.core.recorded import Flow, RecordedEngine
from kiloset.core.table import Outcome, table_of, with_verdicts
from kiloset.generator.candidates import Candidate, Candidates, Filter, Wave
from kiloset.generator.planning import (
    VERIFIED_SHARE,
    CostBounds,
    Pair,
    WavePlan,
    Yields,
    count_instructions,
    fit_to_budget,
    plan_wave,
    prior_yield,
)
from kiloset.generator.settings import PURPOSES, GenerateConfig, Resampling
from kiloset.generator.strategies import prompt_before_user_turn
from kiloset.generator.templates import Templates

CHECKPOINTS = (0.6, 0.85, 1.0)
"""Fractions of a wave's candidates after which the loop plans again; the others keep the engine busy meanwhile."""
EXPECTED_SHARE, EXPECTED_WEIGHT = 0.5, 10
"""Share of candidates under way that is expected to be accepted, and the number of candidates that this prior counts as."""
EXPECTED_SHARE_OF_WHOLE_TASKS = 0.75
"""The same for whole tasks, whose input is there already."""
PROGRESS_INTERVAL = 0.2
"""Seconds between two reports of progress."""
DONE, NO_SEEDS, LOW_YIELD = "done", "no_seeds", "low_yield"
"""Why the loop ended, if it was not a limit."""


@dataclass(frozen=True, slots=True)
class GenerationResult:
    """The result of the loop."""

    outcome: Outcome
    """Kept: the table and every new row with a response. Dropped: new rows that were cut, unreadable, not new, ..."""
    ended: str
    """`done`, `no_seeds` (a category that lacks rows has no seed), `low_yield` (too few of its requests succeed) or max_requests, max_tokens, max_hours, max_waves."""
    wanted: dict[str, int]
    """Candidates wanted, by category."""
    accepted: dict[str, int]
    """Candidates accepted, by category, those of the pool included."""
    accepted_ids: frozenset[str]
    """Ids of the accepted candidates."""


def generate(
    table: pl.DataFrame, engine: RecordedEngine, wanted: Mapping[str, int], config: GenerateConfig, templates: Templates,
    *, seed: int, license: str, check_instructions: Filter, check_candidates: Filter,
    lacking: tuple[Mapping[str, int], Yields] | None = None, first: WavePlan | None = None, plan: bool = True,
    topics: Mapping[str, Sequence[str]] | None = None, resampling: Resampling | None = None,
) -> GenerationResult:  # fmt: skip
    """Add generated rows until enough candidates of each category passed the cheap checks, or the budget is spent.

    Args:
        table: Seeds, and pool rows if any; all are kept.
        engine: The writer model, with the store that has the waves of earlier runs.
        wanted: Rows of each category that the set should have.
        config: The `[generate]` table.
        templates: The prompts.
        seed: The run's seed; it alone decides which demonstrations are shown.
        license: SPDX id under which the writer model's output may be used.
        check_instructions: The rules that an instruction alone can break; rows that it drops are dropped here.
        check_candidates: The cheap checks of later stages, for all rows; only rows that it keeps are counted.
        lacking: Rows that the set lacked after all stages, by category, and the yields of all stages: one more wave is
            planned for these, after the stored ones.
        first: Plan of the first wave, if none is stored yet and the budget allows it.
        plan: Whether to plan new waves; otherwise only the stored ones are repeated.
        topics: Subjects for new tasks by category, "" for all; without any, those of the seeds.
        resampling: How answers are requested again to measure their agreement; None for not at all.

    Raises:
        ConfigError: A strategy does not work with this engine or model.
    """
    if config.strategies.get("magpie"):
        prompt_before_user_turn(engine, "Hello.")
    clock = _Clock(config, engine.store.spent(PURPOSES)[2])
    candidates = Candidates(
        table, engine, config, templates, seed=seed, license=license, check=check_instructions, is_late=clock.is_over,
        topics=topics, resampling=resampling,
    )  # fmt: skip
    need = {name: math.ceil(rows * config.candidates_per_row) for name, rows in wanted.items() if rows}
    return _Loop(table, engine, need, candidates, check_candidates, clock).run(lacking, first, plan=plan)


class _Clock:
    """The hours spent on generation, over all runs; this run's time counts from its first request to the engine."""

    def __init__(self, config: GenerateConfig, hours_before: float) -> None:
        self._limit, self._before, self._start = config.max_hours, hours_before, time.monotonic()

    def hours(self, flow: Flow) -> float:
        return self._before + ((time.monotonic() - self._start) / 3600 if flow.sent else 0.0)

    def is_over(self, flow: Flow) -> bool:
        return bool(self._limit) and self.hours(flow) >= self._limit


class _Loop:
    """One run of the loop."""

    def __init__(
        self, table: pl.DataFrame, engine: RecordedEngine, need: dict[str, int], candidates: Candidates,
        check: Filter, clock: _Clock,
    ) -> None:  # fmt: skip
        self._table, self._store, self._progress = table, engine.store, engine.progress
        self._need, self._candidates, self._check, self._clock = need, candidates, check, clock
        self._config = candidates.config
        self._bounds = CostBounds(candidates.context, resamples=candidates.resamples)
        self._prior = prior_yield(in_chats=candidates.context.asks_in_chats, verified=bool(candidates.resamples))
        self._superseded = engine.store.superseded(PURPOSES)
        self._waves: list[Wave] = []
        self._finished, self._checked = 0, -1
        """How many candidates, in the order of the requests, count as finished, and how many of them were checked."""
        self._accepted_ids: set[str] = set()
        self._accepted: Counter[str] = Counter()
        self._from_pool: Counter[str] = Counter()
        self._last_report = 0.0

    def run(
        self, lacking: tuple[Mapping[str, int], Yields] | None, first: WavePlan | None, *, plan: bool
    ) -> GenerationResult:
        """Repeat the stored waves, then plan new ones."""
        ended, limit_before = DONE, DONE
        self._check_candidates()
        self._from_pool = Counter(self._accepted)
        if first and not self._store.waves():
            self._store_wave(*self._within_budget(first, []))
        for stored in self._store.waves():
            self._run_wave(stored)
        if lacking is not None:
            self._wait_for(self._all())
            wave, limit_before = self._affordable(*lacking, under_way=[])
            self._store_wave(wave, limit_before)
            self._run_wave(wave)
        while plan:
            wave, ended = self._plan()
            if wave:
                self._store_wave(wave, ended)
                self._run_wave(wave)
            elif not self._wait_for_checkpoint():
                break
        self._wait_for(self._all())
        self._check_candidates()
        ended = ended if ended != DONE else limit_before
        return GenerationResult(self._outcome(), ended, self._need, dict(self._accepted), frozenset(self._accepted_ids))

    def _store_wave(self, wave: WavePlan, limit: str) -> None:
        if wave:
            self._store.add_wave(wave, cut=limit != DONE)

    def _run_wave(self, plan: WavePlan) -> None:
        """Send a wave's requests; return when its instructions are checked and all earlier candidates are finished."""
        if not plan:
            return
        earlier = self._all()
        wave = self._candidates.begin_wave(len(self._waves), plan)
        self._waves.append(wave)
        while not wave.is_checked:
            self._receive()
        # This wave's candidates count as under way even where their responses are in the store.
        self._wait_for(earlier)

    # ---------------------------------------------------------------------------------------- waiting and checking

    def _all(self) -> list[Candidate]:
        """Return all candidates in the order of the requests."""
        return [candidate for wave in self._waves for candidate in wave.candidates]

    def _wait_for(self, candidates: Sequence[Candidate]) -> None:
        """Receive completions until these candidates, the first ones, are finished."""
        for candidate in candidates:
            while not candidate.done:
                self._receive()
        self._finished = len(candidates)
        self._report()

    def _wait_for_checkpoint(self) -> bool:
        """Wait for the next checkpoint of the last wave; False if there is none."""
        candidates = self._all()
        size = len(self._waves[-1].candidates) if self._waves else 0
        checkpoints = (len(candidates) - size + int(size * share) for share in CHECKPOINTS)
        number = next((n for n in checkpoints if n > self._finished), None)
        if number is not None:
            self._wait_for(candidates[:number])
        return number is not None

    def _receive(self) -> None:
        self._candidates.receive()
        if time.monotonic() - self._last_report >= PROGRESS_INTERVAL:
            self._report()

    def _check_candidates(self) -> None:
        """Check and count the finished candidates; those under way never count, even if their response has arrived."""
        if self._checked == self._finished:
            return
        self._checked = self._finished
        rows = [candidate.row for candidate in self._all()[: self._finished]]
        rows = [row for row in rows if not self._candidates.is_dropped(row)]
        kept = self._check(pl.concat([self._table, table_of(rows)], how="diagonal")).kept
        accepted = kept.filter(pl.col("source") != "seed")
        self._accepted_ids = set(accepted["id"])
        self._accepted = Counter(accepted["category"].to_list())

    # ---------------------------------------------------------------------------------------------------- planning

    def _plan(self) -> tuple[WavePlan, str]:
        """Return the next wave, or {} and the reason."""
        self._check_candidates()
        under_way = self._all()[self._finished :]
        number = Counter(candidate.row["category"] for candidate in under_way)
        shares = {name: self._expected_share(name) for name in self._need}
        missing = {
            name: need - self._accepted[name] - int(number[name] * shares[name]) for name, need in self._need.items()
        }
        missing = {name: n for name, n in missing.items() if n > 0}
        return self._affordable(missing, self._yields(shares), under_way)

    def _affordable(
        self, missing: Mapping[str, int], yields: Yields, under_way: Sequence[Candidate]
    ) -> tuple[WavePlan, str]:
        """Return a wave for the missing rows, as far as the limits allow it, and the limit that reduced it."""
        if not missing:
            return {}, DONE
        with_seeds = {name: n for name, n in missing.items() if self._candidates.demonstrations.seeds.get(name)}
        if not with_seeds:
            return {}, NO_SEEDS
        promising = {
            name: n for name, n in with_seeds.items() if not yields.is_hopeless(name, self._config.least_yield)
        }
        if not promising:
            return {}, LOW_YIELD
        wave, limit = self._within_budget(plan_wave(promising, self._config.strategies, yields), under_way)
        # A wave that a limit reduced does not count: the limit itself ends such waves.
        if limit == DONE and self._store.whole_waves() >= self._config.max_waves:
            return {}, "max_waves"
        return wave, limit

    def _expected_share(self, category: str) -> float:
        """Return the share of a category's finished candidates that was accepted; with few, that of all categories counts too."""
        finished = [candidate.row for candidate in self._all()[: self._finished]]
        share = EXPECTED_SHARE_OF_WHOLE_TASKS if self._candidates.context.asks_in_chats else EXPECTED_SHARE
        share *= VERIFIED_SHARE if self._candidates.resamples else 1.0
        for rows in (finished, [row for row in finished if row["category"] == category]):
            accepted = sum(row["id"] in self._accepted_ids for row in rows)
            share = (accepted + share * EXPECTED_WEIGHT) / (len(rows) + EXPECTED_WEIGHT)
        return share

    def _yields(self, shares: Mapping[str, float]) -> Yields:
        """Count requested and accepted rows; a candidate under way counts as its category's expected share."""
        requested = Counter((row["category"], row["strategy"]) for wave in self._waves for row in wave.rows)
        accepted: dict[Pair, float] = {}
        for number, candidate in enumerate(self._all()):
            row = candidate.row
            is_finished = number < self._finished
            count = float(row["id"] in self._accepted_ids) if is_finished else shares.get(row["category"], 0.0)
            pair = (row["category"], row["strategy"])
            accepted[pair] = accepted.get(pair, 0.0) + count
        return Yields(requested, accepted, self._prior)

    def _within_budget(self, wave: WavePlan, under_way: Sequence[Candidate]) -> tuple[WavePlan, str]:
        """Return the part of a wave that the limits allow, and the limit that reduced it."""
        config, bounds = self._config, self._bounds
        if self._clock.is_over(self._candidates.flow):
            return {}, "max_hours"
        # The tokens that candidates under way have spent depend on the moment; the upper bound does not.
        requests, tokens = self._superseded
        for spent in (*(w.tokens for w in self._waves), *(c.tokens for c in self._all()[: self._finished])):
            requests, tokens = requests + len(spent), tokens + sum(spent)
        for pair in [(candidate.row["category"], candidate.row["strategy"]) for candidate in under_way]:
            requests += bounds.requests(pair) - 1
            tokens += bounds.tokens_after_instruction(pair)
        pairs = [(category, name) for category, strategies in wave.items() for name in strategies]
        fitted = fit_to_budget(wave, {pair: bounds.requests(pair) for pair in pairs}, config.max_requests - requests)
        limit = DONE if count_instructions(fitted) == count_instructions(wave) else "max_requests"
        if config.max_tokens:
            costs = {pair: bounds.tokens(pair) for pair in pairs}
            reduced = fit_to_budget(fitted, costs, config.max_tokens - tokens)
            limit = limit if count_instructions(reduced) == count_instructions(fitted) else "max_tokens"
            fitted = reduced
        return fitted, limit

    # ------------------------------------------------------------------------------------------ progress and outcome

    def _report(self) -> None:
        self._last_report = time.monotonic()
        config, candidates, flow = self._config, self._candidates, self._candidates.flow
        requested = Counter(row["category"] for wave in self._waves for row in wave.rows)
        unchecked = self._all()[max(self._checked, 0) :]
        accepted = self._accepted + Counter(
            each.row["category"] for each in unchecked if each.done and not candidates.is_dropped(each.row)
        )
        budget: dict[str, tuple[float, float]] = {"requests": (candidates.completions, config.max_requests)}
        if config.max_tokens:
            budget["tokens"] = (candidates.tokens, config.max_tokens)
        if config.max_hours:
            budget["hours"] = (self._clock.hours(flow), config.max_hours)
        self._progress.update_generation(GenerationProgress(
            wave=len(self._waves), wanted={name: max(0, n - self._from_pool[name]) for name, n in self._need.items()},
            accepted={name: accepted[name] - self._from_pool[name] for name in self._need},
            requested={name: requested[name] for name in self._need}, in_flight=len(flow), requests=candidates.completions,
            sent=flow.sent, prompt_tokens=flow.prompt_tokens, completion_tokens=flow.completion_tokens, budget=budget,
        ))  # fmt: skip

    def _outcome(self) -> Outcome:
        candidates = self._candidates
        times_shown = [candidates.demonstrations.times_shown[row["id"]] for row in candidates.rows]
        rows = table_of(candidates.rows).with_columns(times_shown=pl.Series(times_shown, dtype=pl.UInt16))
        split = with_verdicts(rows, candidates.verdicts)
        return Outcome(kept=pl.concat([self._table, split.kept], how="diagonal"), dropped=split.dropped)
