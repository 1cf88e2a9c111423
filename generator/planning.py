"""How much to ask for: what is missing over the yield seen so far, within the budget.

Yields are estimated for each category and strategy, from all that was asked before; a pair of which little is known yet
leans on its strategy's yield elsewhere. Up to one standard error is taken off, so that one wave is enough more often than not.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from fractions import Fraction

from kiloset.data.quotas import apportion

Pair = tuple[str, str]
"""A category and a strategy."""
Asks = dict[str, dict[str, int]]
"""Instructions asked for, by category and strategy."""

PRIOR_YIELD, PRIOR_WEIGHT = 0.5, 4
"""Before anything is known one in two is accepted; that counts as much as four instructions."""
LEAST_YIELD = 0.03
"""No estimate falls below it."""
GIVEN_UP_AFTER, GIVEN_UP_BELOW = 40, 0.05
"""A strategy with so low a yield in a category after so many instructions is left to the others."""


@dataclass(frozen=True, slots=True)
class Tally:
    """What became of the instructions asked for so far."""

    born: Mapping[Pair, int]
    good: Mapping[Pair, float]
    """Those that passed whatever is known to come after, or may be expected to."""

    def rate(self, category: str, strategy: str) -> float:
        """Return the estimated yield, in (0, 1]."""
        born = sum(n for (_, name), n in self.born.items() if name == strategy)
        good = sum(n for (_, name), n in self.good.items() if name == strategy)
        elsewhere = (good + PRIOR_YIELD * PRIOR_WEIGHT) / (born + PRIOR_WEIGHT)
        pair = (category, strategy)
        return (self.good.get(pair, 0) + elsewhere * PRIOR_WEIGHT) / (self.born.get(pair, 0) + PRIOR_WEIGHT)

    def careful_rate(self, category: str, strategy: str) -> float:
        """Return the estimated yield less one standard error, a quarter of it at most, once anything is known."""
        rate, born = self.rate(category, strategy), self.born.get((category, strategy), 0)
        error = math.sqrt(rate * (1 - rate) / (born + PRIOR_WEIGHT)) if born else 0.0
        return max(rate - min(error, rate / 4), LEAST_YIELD)

    def is_given_up(self, category: str, strategy: str) -> bool:
        """Tell whether a strategy has shown that it does not work in a category."""
        born = self.born.get((category, strategy), 0)
        return born >= GIVEN_UP_AFTER and self.rate(category, strategy) < GIVEN_UP_BELOW


def plan_wave(missing: Mapping[str, int], weights: Mapping[str, float], tally: Tally) -> Asks:
    """Return what to ask for so that what is missing may be expected to come.

    Args:
        missing: Candidates missing in each category.
        weights: Share of the accepted candidates that each strategy is to contribute.
        tally: What became of what was asked before.
    """
    asks: Asks = {}
    for category, count in sorted(missing.items()):
        if count <= 0:
            continue
        for strategy, rows in _shares(category, count, weights, tally).items():
            rate = tally.careful_rate(category, strategy)
            # One standard deviation of the number that comes through, on top; before anything is known that says nothing.
            luck = math.sqrt(rows * (1 - rate)) if tally.born.get((category, strategy)) else 0.0
            asks.setdefault(category, {})[strategy] = math.ceil((rows + luck) / rate)
    return asks


def within(asks: Asks, cost: Mapping[Pair, float], allowed: float) -> Asks:
    """Return as much of `asks`, in proportion, as costs no more than `allowed`.

    Args:
        asks: What is wanted.
        cost: The most that one instruction of a category and strategy can cost.
        allowed: In the unit of `cost`.
    """
    total = sum(n * cost[category, name] for category, pairs in asks.items() for name, n in pairs.items())
    if total <= allowed:
        return asks
    share = Fraction(max(allowed, 0)) / Fraction(total)
    exact = {(c, name): n * share for c, pairs in asks.items() for name, n in pairs.items()}
    whole = {pair: int(n) for pair, n in exact.items()}
    left = allowed - sum(n * cost[pair] for pair, n in whole.items())
    # What rounding down leaves goes to those it cut most, one each, so that a small budget is not lost between many.
    for pair in sorted(exact, key=lambda pair: (whole[pair] - exact[pair], pair)):
        if whole[pair] < asks[pair[0]][pair[1]] and cost[pair] <= left:
            whole[pair] += 1
            left -= cost[pair]
    cut = {c: {name: whole[c, name] for name in pairs if whole[c, name]} for c, pairs in asks.items()}
    return {c: pairs for c, pairs in cut.items() if pairs}


def asked(asks: Asks) -> int:
    """Return how many instructions are asked for."""
    return sum(n for pairs in asks.values() for n in pairs.values())


def _shares(category: str, count: int, weights: Mapping[str, float], tally: Tally) -> dict[str, int]:
    """Divide a category's missing rows over the strategies, so that all it has then follows the weights."""
    working = {name: w for name, w in weights.items() if w > 0 and not tally.is_given_up(category, name)}
    used = working or {name: w for name, w in weights.items() if w > 0}
    whole, total = count + sum(tally.good.get((category, name), 0) for name in used), sum(used.values())
    deficits = {
        name: max(0.0, whole * w / total - tally.good.get((category, name), 0)) for name, w in sorted(used.items())
    }
    return {name: rows for name, rows in apportion(deficits, count).items() if rows}
