"""How many instructions a wave requests: the number of missing rows over the measured yield, within the budget.

Yields are estimated for each category and strategy from all earlier requests; with few of them, the estimate follows the
strategy's yield in all categories. The plan lowers each estimate by up to one standard error, so that one wave is usually
enough.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from fractions import Fraction

from kiloset.data.quotas import apportion
from kiloset.generator.demonstrations import task_of
from kiloset.generator.inputs import INPUT_DEMONSTRATIONS
from kiloset.generator.settings import INSTRUCTION_PURPOSE
from kiloset.generator.strategies import (
    OPERATORS,
    STRATEGIES,
    StrategyContext,
    category_words,
    prompt_before_user_turn,
)
from kiloset.generator.topics import LONGEST

Pair = tuple[str, str]
"""A category and a strategy."""
WavePlan = dict[str, dict[str, int]]
"""Instructions to request, by category and strategy."""

PRIOR_YIELD, PRIOR_WEIGHT = 0.5, 4
"""Yield assumed before the first request, and the number of requests that it counts as."""
WHOLE_TASK_YIELD = 0.65
"""The same for whole tasks asked for in chats (docs/results/writer_cost.md)."""
VERIFIED_SHARE = 0.55
"""Share of these that is assumed to pass verification too; of the rows in docs/results/verification.md 0.4 did."""
LEAST_YIELD = 0.03
"""Lower bound of every estimate."""
HOPELESS_AFTER = 24
"""Requests of a category from which on too low a yield ends its requests: of 24 at least 3 become candidates, with a yield of 0.3, 99 times in 100."""
GIVEN_UP_AFTER, GIVEN_UP_BELOW = 40, 0.05
"""After this many requests in a category, a strategy with a lower yield is replaced by the other strategies."""
SLACK = 16
"""Tokens for the beginning and the end of a text and for the joints between its parts."""
CONSTRAINT_BYTES = 800
"""Upper bound of the length of the phrases for a row's constraints."""


@dataclass(frozen=True, slots=True)
class Yields:
    """Instructions requested so far and rows accepted, by category and strategy."""

    requested: Mapping[Pair, int]
    accepted: Mapping[Pair, float]
    """Rows that passed the later checks, or the expected number of them."""
    prior: float = PRIOR_YIELD
    """Yield assumed before the first request."""

    def estimate(self, category: str, strategy: str) -> float:
        """Return the estimated yield, in (0, 1]."""
        requested = sum(n for (_, name), n in self.requested.items() if name == strategy)
        accepted = sum(n for (_, name), n in self.accepted.items() if name == strategy)
        overall = (accepted + self.prior * PRIOR_WEIGHT) / (requested + PRIOR_WEIGHT)
        pair = (category, strategy)
        return (self.accepted.get(pair, 0) + overall * PRIOR_WEIGHT) / (self.requested.get(pair, 0) + PRIOR_WEIGHT)

    def careful_estimate(self, category: str, strategy: str) -> float:
        """Return the estimate minus one standard error, at most a quarter of the estimate, once there are requests."""
        rate, requested = self.estimate(category, strategy), self.requested.get((category, strategy), 0)
        error = math.sqrt(rate * (1 - rate) / (requested + PRIOR_WEIGHT)) if requested else 0.0
        return max(rate - min(error, rate / 4), LEAST_YIELD)

    def is_hopeless(self, category: str, least: float) -> bool:
        """Return whether too few of a category's requests were accepted, whatever the strategy."""
        requested = sum(n for (name, _), n in self.requested.items() if name == category)
        accepted = sum(n for (name, _), n in self.accepted.items() if name == category)
        return requested >= HOPELESS_AFTER and accepted < least * requested

    def is_given_up(self, category: str, strategy: str) -> bool:
        """Return whether a strategy has failed in a category."""
        requested = self.requested.get((category, strategy), 0)
        return requested >= GIVEN_UP_AFTER and self.estimate(category, strategy) < GIVEN_UP_BELOW


def prior_yield(*, in_chats: bool, verified: bool = False) -> float:
    """Return the yield assumed before the first request, for whole tasks in chats or for entries of a list.

    `verified` is whether answers are requested again to measure their agreement.
    """
    return (WHOLE_TASK_YIELD if in_chats else PRIOR_YIELD) * (VERIFIED_SHARE if verified else 1.0)


def plan_wave(missing: Mapping[str, int], weights: Mapping[str, float], yields: Yields) -> WavePlan:
    """Return the number of instructions to request so that the missing candidates can be expected.

    Args:
        missing: Candidates missing in each category.
        weights: Share of the accepted candidates that each strategy should contribute.
        yields: Requests so far and their results.
    """
    plan: WavePlan = {}
    for category, count in sorted(missing.items()):
        if count <= 0:
            continue
        for strategy, rows in _rows_by_strategy(category, count, weights, yields).items():
            rate = yields.careful_estimate(category, strategy)
            # One standard deviation of the number of accepted rows on top, once the yield is measured.
            margin = math.sqrt(rows * (1 - rate)) if yields.requested.get((category, strategy)) else 0.0
            plan.setdefault(category, {})[strategy] = math.ceil((rows + margin) / rate)
    return plan


def _rows_by_strategy(category: str, count: int, weights: Mapping[str, float], yields: Yields) -> dict[str, int]:
    """Divide a category's missing rows so that all of its rows together follow the strategies' weights."""
    positive = {name: w for name, w in weights.items() if w > 0}
    used = {name: w for name, w in positive.items() if not yields.is_given_up(category, name)} or positive
    accepted = {name: yields.accepted.get((category, name), 0) for name in used}
    whole, total = count + sum(accepted.values()), sum(used.values())
    deficits = {name: max(0.0, whole * w / total - accepted[name]) for name, w in sorted(used.items())}
    return {name: rows for name, rows in apportion(deficits, count).items() if rows}


def count_instructions(plan: WavePlan) -> int:
    """Return how many instructions a plan requests."""
    return sum(n for strategies in plan.values() for n in strategies.values())


def fit_to_budget(plan: WavePlan, cost: Mapping[Pair, float], budget: float) -> WavePlan:
    """Return the plan, reduced in proportion to what the budget allows.

    Args:
        plan: Instructions to request.
        cost: Upper bound of the cost of one instruction, by category and strategy.
        budget: Upper bound of the total cost, in the unit of `cost`.
    """
    wanted = {(category, name): n for category, strategies in plan.items() for name, n in strategies.items()}
    total = sum(n * cost[pair] for pair, n in wanted.items())
    if total <= budget:
        return plan
    share = Fraction(max(budget, 0)) / Fraction(total)
    exact = {pair: n * share for pair, n in wanted.items()}
    whole = {pair: int(n) for pair, n in exact.items()}
    rest = budget - sum(n * cost[pair] for pair, n in whole.items())
    # The rest of rounding goes to the pairs that lost most, one instruction each: a small budget is not spread too thinly.
    for pair in sorted(exact, key=lambda pair: (whole[pair] - exact[pair], pair)):
        if whole[pair] < wanted[pair] and cost[pair] <= rest:
            whole[pair] += 1
            rest -= cost[pair]
    fitted: WavePlan = {}
    for (category, name), n in whole.items():
        if n:
            fitted.setdefault(category, {})[name] = n
    return fitted


class CostBounds:
    """Upper bounds of the requests and tokens of one new row, by category and strategy, before it is requested.

    A prompt has at most as many tokens as bytes, and a completion at most the tokens it is allowed. These bounds are too
    high by a factor of about three, so a budget is spent in several waves: each may spend what the one before did not.
    """

    def __init__(self, context: StrategyContext, *, resamples: int = 0) -> None:
        """Compute bounds from the seeds, the templates and the settings; `resamples` are further answers of each row."""
        self._resamples = resamples
        self._context, self._config, self._templates = context, context.config, context.templates

    def requests(self, pair: Pair) -> int:
        """Return the largest number of requests for a row: its instruction, input and responses."""
        category, strategy = pair
        return 1 + int(self._takes_input(category) and not self._is_whole(strategy)) + self._responses(strategy)

    def tokens(self, pair: Pair) -> int:
        """Return the largest number of tokens for a row, including prompts."""
        return self._instruction_tokens(*pair) + self.tokens_after_instruction(pair)

    def tokens_after_instruction(self, pair: Pair) -> int:
        """Return the largest number of tokens for a row's input and responses."""
        category, strategy = pair
        config, tokens = self._config, 0
        chat = _bytes(self._context.engine.render([{"role": "user", "content": ""}])) + SLACK
        user_turn = config.max_instruction_tokens + (CONSTRAINT_BYTES if STRATEGIES[strategy].constrained else 0)
        if self._is_whole(strategy):
            user_turn += config.max_input_tokens
            chat += self._examples_bytes(category) if not STRATEGIES[strategy].constrained else 0
        elif self._takes_input(category):
            seeds = sorted(
                self._context.demonstrations.with_inputs(category),
                key=lambda row: -_bytes(row["input"], row["instruction"], row["response"]),
            )
            examples = [
                {"task": row["instruction"], "text": row["input"], "answer": row["response"]}
                for row in seeds[:INPUT_DEMONSTRATIONS]
            ]
            names = ("input", "labelled_input")
            prompts = [self._templates.render(n, task="", examples=examples, chat=True) for n in names]
            user_turn += config.max_input_tokens
            tokens = max(map(_bytes, prompts)) + config.max_instruction_tokens + 2 * config.max_input_tokens + SLACK
        return tokens + self._responses(strategy) * (chat + user_turn + config.max_response_tokens)

    def _takes_input(self, category: str) -> bool:
        return self._context.demonstrations.takes_input(category, self._config.input_share)

    def _is_whole(self, strategy: str) -> bool:
        """Return whether a strategy's requests are for whole tasks."""
        return self._context.asks_in_chats and INSTRUCTION_PURPOSE[strategy] == "instruction"

    def _examples_bytes(self, category: str) -> int:
        """Return an upper bound of the bytes that the examples add to a rendered chat."""
        rows = self._context.demonstrations.seeds[category]
        sizes = sorted((_bytes(row["instruction"], row["input"], row["response"]) for row in rows), reverse=True)
        turns = self._context.engine.render(
            [{"role": "user", "content": ""}, {"role": "assistant", "content": ""}, {"role": "user", "content": ""}]
        )
        # `MOST_CHARACTERS` bounds all seeds but the first one.
        return sum(sizes[: self._config.examples]) + self._config.examples * (_bytes(turns) + SLACK)

    def _responses(self, strategy: str) -> int:
        return self._resamples + (self._config.constraint_samples if STRATEGIES[strategy].constrained else 1)

    def _instruction_tokens(self, category: str, strategy: str) -> int:
        config, engine, words = self._config, self._context.engine, category_words(category)
        written = config.max_instruction_tokens
        tasks = sorted(map(task_of, self._context.demonstrations.seeds[category]), key=_bytes, reverse=True)
        if strategy == "magpie":
            return (
                _bytes(prompt_before_user_turn(engine, self._templates.render("magpie", category=words)))
                + SLACK
                + written
            )
        if strategy == "evolve":
            operator = max(OPERATORS.values(), key=_bytes)
            prompt = self._templates.render("evolve", category=words, task=tasks[0], operator=operator)
            return _bytes(engine.render([{"role": "user", "content": prompt}])) + 2 * written + SLACK
        if self._is_whole(strategy):
            texts = [self._templates.render("task_system", text=True)]
            texts += [self._templates.render("task", category=words, topic="", text=True)] * (config.examples + 1)
            written += config.max_input_tokens
            # A topic has at most LONGEST characters, of up to 4 bytes each.
            topics = 4 * LONGEST * (config.examples + 1)
            return _bytes(*texts) + topics + self._examples_bytes(category) + written + SLACK
        demonstrations = config.human_demonstrations + config.machine_demonstrations
        prompt = self._templates.render("self_instruct", category=words, tasks=tasks[:demonstrations], chat=True)
        chat = _bytes(engine.render([{"role": "user", "content": ""}]))
        return _bytes(prompt) + chat + (config.machine_demonstrations + 1) * written + SLACK


def _bytes(*texts: str) -> int:
    return sum(len(text.encode()) for text in texts)
