"""The loop that asks the generator model for what is still missing.

It asks in waves. The next one is planned as soon as every instruction of the last has been looked at, while the answers
are still being written, and counts on what may be expected of those; where that is enough, it looks again when more of them
have come. What
each wave asks for is noted before anything is sent, so that a run that goes on, after whatever interruption or with
larger limits, goes the same way.
"""

import math
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import polars as pl

from kiloset.core.progress import GenerationProgress
from kiloset.core.recorded import Flow, RecordedEngine
from kiloset.core.table import Outcome, table_of, with_verdicts
from kiloset.generator.costs import Costs
from kiloset.generator.demonstrations import Row
from kiloset.generator.lives import PURPOSES, Judge, Lives, Wave
from kiloset.generator.magpie import before_user
from kiloset.generator.planning import Asks, Pair, Tally, asked, plan_wave, within
from kiloset.generator.settings import GenerateConfig
from kiloset.generator.templates import Templates

LOOKS = (0.6, 0.85, 1.0)
"""When a wave's rows are looked at again: after so many of them are over, in the order asked for. The rest keeps the engine at
work while more is asked for."""
EXPECTED, EXPECTED_WEIGHT = 0.5, 10
"""Share of the rows with a good instruction that is counted on before any came through; it counts as much as ten rows."""
EVERY = 0.2
"""Seconds between two standings told."""
DONE, NO_SEEDS = "done", "no_seeds"
"""Why a loop ended, besides the name of the limit that ended it."""


@dataclass(frozen=True, slots=True)
class Generated:
    """What a loop brought."""

    outcome: Outcome
    """Kept: the table it got and every new row with an answer. Dropped: what was cut, unreadable, not new, ..."""
    ended: str
    """`done`, `no_seeds` (no seed in a category that lacks rows), or the limit reached: max_requests, max_tokens, max_hours, max_waves."""
    need: dict[str, int]
    """Candidates wanted, by category."""
    accepted: dict[str, int]
    """Candidates that passed the judge, by category; those of the pool count too."""
    good: frozenset[str]
    """Ids of these candidates."""


def generate(
    table: pl.DataFrame, engine: RecordedEngine, wanted: Mapping[str, int], config: GenerateConfig, templates: Templates,
    *, seed: int, license: str, screen: Judge, judge: Judge, lacking: tuple[Mapping[str, int], Tally] | None = None,
    first: Asks | None = None, plan: bool = True,
) -> Generated:  # fmt: skip
    """Add generated rows until enough candidates of each category passed the cheap checks, or the budget is spent.

    Args:
        table: Seeds, and pool rows if any; all are kept.
        engine: The generator model, with the store that holds the waves begun earlier.
        wanted: Rows of each category the set should have.
        config: The `[generate]` table.
        templates: The prompts.
        seed: The run's seed; which demonstrations are shown depends on nothing else.
        license: SPDX id under which the generator model's output may be used.
        screen: The rules that an instruction alone can break; what it drops is dropped here.
        judge: What later stages drop for what it is; given all rows, and only what it keeps is counted.
        lacking: Rows that the set lacked after all stages, by category, and the yields through all of them: one more wave
            is planned for these, after those that are noted.
        first: What the first wave asks for, if none is noted yet and the budget allows.
        plan: Whether to plan waves of its own, or only to go through those that are noted.

    Raises:
        ConfigError: A strategy does not work with this engine or model.
    """
    if config.strategies.get("magpie"):
        before_user(engine, "Hello.")
    loop = _Loop(table, engine, wanted, config, templates, seed=seed, license=license, screen=screen, judge=judge)
    return loop.run(lacking, first, plan=plan)


class _Loop:
    """One run of the loop."""

    def __init__(
        self, table: pl.DataFrame, engine: RecordedEngine, wanted: Mapping[str, int], config: GenerateConfig,
        templates: Templates, *, seed: int, license: str, screen: Judge, judge: Judge,
    ) -> None:  # fmt: skip
        self._table, self._engine, self._config, self._judge = table, engine, config, judge
        self._superseded = engine.store.superseded(PURPOSES)
        self._hours, self._started = engine.store.spent(PURPOSES)[2], time.monotonic()
        self._lives = Lives(
            table, engine, config, templates, seed=seed, license=license, screen=screen, is_late=self._is_late
        )
        self._costs = Costs(self._lives, templates)
        self._need = {name: math.ceil(rows * config.candidates_per_row) for name, rows in wanted.items() if rows}
        self._waves: list[Wave] = []
        self._good: set[str] = set()
        self._settled, self._judged = 0, -1
        """Rows with a good instruction that count as over, in the order asked for, and those of them that were judged."""
        self._reported = 0.0
        self._accepted: Counter[str] = Counter()
        self._pool: Counter[str] = Counter()

    def run(self, lacking: tuple[Mapping[str, int], Tally] | None, first: Asks | None, *, plan: bool) -> Generated:
        """Go through the waves noted, then plan more."""
        store, ended, refused = self._engine.store, DONE, DONE
        self._judge_rows()
        self._pool = Counter(self._accepted)
        if first and not store.waves():
            asks, limit = self._within_budget(first, [])
            if asks:
                store.add_wave(asks, cut=limit != DONE)
        for asks in store.waves():
            self._begin(asks)
        if lacking is not None:
            self._finish()
            asks, refused = self._affordable(*lacking, waiting=[])
            if asks:
                store.add_wave(asks, cut=refused != DONE)
                self._begin(asks)
        while plan:
            asks, ended = self._plan()
            if asks:
                store.add_wave(asks, cut=ended != DONE)
                self._begin(asks)
            elif not self._look_further():
                break
        self._finish()
        self._judge_rows()
        ended = ended if ended != DONE else refused
        return Generated(self._outcome(), ended, self._need, dict(self._accepted), frozenset(self._good))

    def _rows(self) -> list[Row]:
        """Return all rows with a good instruction, in the order asked for."""
        return [row for wave in self._waves for row in wave.went_on]

    def _begin(self, asks: Asks) -> None:
        """Begin a wave, and go on until all its instructions were looked at and the rows before it are over."""
        before = self._rows()
        wave = self._lives.begin(len(self._waves), asks)
        self._waves.append(wave)
        while not wave.is_born:
            self._step()
        # Its own rows count as under way even where their answers happen to be there already.
        self._settle(before)

    def _look_further(self) -> bool:
        """Wait for some more rows of the last wave to be over; False if all are."""
        rows = self._rows()
        first = len(rows) - (len(self._waves[-1].went_on) if self._waves else 0)
        looks = (first + int((len(rows) - first) * share) for share in LOOKS)
        if (number := next((n for n in looks if n > self._settled), None)) is None:
            return False
        self._settle(rows[:number])
        return True

    def _finish(self) -> None:
        self._settle(self._rows())

    def _settle(self, rows: Sequence[Row]) -> None:
        """Go on until these rows, the first ones, are over."""
        for row in rows:
            while not row.get("done"):
                self._step()
        self._settled = len(rows)
        self._report_progress()

    def _step(self) -> None:
        self._lives.step()
        if time.monotonic() - self._reported >= EVERY:
            self._report_progress()

    def _report_progress(self) -> None:
        self._reported = time.monotonic()
        self._engine.progress.update_generation(self._progress())

    def _judge_rows(self) -> None:
        """Judge the rows of the waves that count as over; what is under way is never looked at, whatever came of it."""
        if self._judged == self._settled:
            return
        self._judged = self._settled
        rows = [row for row in self._rows()[: self._settled] if row["id"] not in self._lives.verdicts]
        kept = self._judge(pl.concat([self._table, table_of(rows)], how="diagonal")).kept
        counted = kept.filter(pl.col("source") != "seed")
        self._good = set(counted["id"])
        self._accepted = Counter(counted["category"].to_list())

    def _plan(self) -> tuple[Asks, str]:
        """Return what to ask for next, and the reason if that is nothing."""
        self._judge_rows()
        waiting = self._rows()[self._settled :]
        expected = Counter(row["category"] for row in waiting)
        shares = {name: self._expected(name) for name in self._need}
        missing = {
            name: need - self._accepted[name] - int(expected[name] * shares[name]) for name, need in self._need.items()
        }
        missing = {name: n for name, n in missing.items() if n > 0}
        return self._affordable(missing, self._tally(shares), waiting)

    def _affordable(self, missing: Mapping[str, int], tally: Tally, waiting: Sequence[Row]) -> tuple[Asks, str]:
        """Return what to ask for where rows are missing, as far as limits allow, and the limit that was in the way."""
        if not missing:
            return {}, DONE
        open_ = {name: n for name, n in missing.items() if self._lives.seeds.get(name)}
        if not open_:
            return {}, NO_SEEDS
        asks, limit = self._within_budget(plan_wave(open_, self._config.strategies, tally), waiting)
        # A wave that a limit cuts does not count: the limit itself brings these to an end.
        if limit == DONE and self._engine.store.whole_waves() >= self._config.max_waves:
            return {}, "max_waves"
        return asks, limit

    def _expected(self, category: str) -> float:
        """Return the share of a category's rows with a good instruction that came through; with few, that of all weighs in."""
        share = EXPECTED
        for rows in (self._over(), [row for row in self._over() if row["category"] == category]):
            came = sum(row["id"] in self._good for row in rows)
            share = (came + share * EXPECTED_WEIGHT) / (len(rows) + EXPECTED_WEIGHT)
        return share

    def _over(self) -> list[Row]:
        return self._rows()[: self._settled]

    def _tally(self, shares: Mapping[str, float]) -> Tally:
        """Count the rows born and those accepted; of rows under way so many as may be expected to be."""
        born = Counter((row["category"], row["strategy"]) for wave in self._waves for row in wave.rows)
        good: dict[Pair, float] = {}
        for number, row in enumerate(self._rows()):
            came = float(row["id"] in self._good) if number < self._settled else shares.get(row["category"], 0.0)
            pair = (row["category"], row["strategy"])
            good[pair] = good.get(pair, 0.0) + came
        return Tally(born, good)

    def _within_budget(self, asks: Asks, waiting: Sequence[Row]) -> tuple[Asks, str]:
        config, costs = self._config, self._costs
        if self._is_late(self._lives.flow):
            return {}, "max_hours"
        # What rows under way have spent depends on the moment; the most that they may spend does not.
        requests, tokens = self._superseded
        for paid in (*(wave.paid_for_births for wave in self._waves), *(row["paid"] for row in self._over())):
            requests, tokens = requests + len(paid), tokens + sum(paid)
        pairs = [(row["category"], row["strategy"]) for row in waiting]
        requests += sum(costs.requests(pair) - 1 for pair in pairs)
        tokens += sum(costs.rest(pair) for pair in pairs)
        wished = [(category, name) for category, found in asks.items() for name in found]
        limit = DONE
        fitting = within(asks, {pair: costs.requests(pair) for pair in wished}, config.max_requests - requests)
        if asked(fitting) < asked(asks):
            limit = "max_requests"
        if config.max_tokens:
            fewer = within(fitting, {pair: costs.tokens(pair) for pair in wished}, config.max_tokens - tokens)
            limit = "max_tokens" if asked(fewer) < asked(fitting) else limit
            fitting = fewer
        return fitting, limit

    def _is_late(self, flow: Flow) -> bool:
        """Tell whether the hours are over; time counts from the first request that is really sent."""
        if not self._config.max_hours:
            return False
        return self._hours_spent(flow) >= self._config.max_hours

    def _hours_spent(self, flow: Flow) -> float:
        return self._hours + ((time.monotonic() - self._started) / 3600 if flow.sent else 0.0)

    def _progress(self) -> GenerationProgress:
        config, lives, flow = self._config, self._lives, self._lives.flow
        born = Counter(row["category"] for wave in self._waves for row in wave.rows)
        later = self._rows()[max(self._judged, 0) :]
        accepted = Counter(self._accepted)
        accepted.update(row["category"] for row in later if row.get("done") and row["id"] not in lives.verdicts)
        requests, tokens = lives.paid
        budget: dict[str, tuple[float, float]] = {"requests": (requests, config.max_requests)}
        if config.max_tokens:
            budget["tokens"] = (tokens, config.max_tokens)
        if config.max_hours:
            budget["hours"] = (self._hours_spent(flow), config.max_hours)
        return GenerationProgress(
            wave=len(self._waves), wanted={name: max(0, n - self._pool[name]) for name, n in self._need.items()},
            accepted={name: accepted[name] - self._pool[name] for name in self._need},
            requested={name: born[name] for name in self._need}, in_flight=len(flow), requests=requests, sent=flow.sent,
            prompt_tokens=flow.prompt_tokens, completion_tokens=flow.completion_tokens, budget=budget,
        )  # fmt: skip

    def _outcome(self) -> Outcome:
        lives = self._lives
        shown: Any = [lives.shown.times_shown[row["id"]] for row in lives.rows]
        made = table_of(lives.rows).with_columns(times_shown=pl.Series(shown, dtype=pl.UInt16))
        split = with_verdicts(made, lives.verdicts)
        return Outcome(kept=pl.concat([self._table, split.kept], how="diagonal"), dropped=split.dropped)
