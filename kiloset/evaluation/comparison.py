"""Compares trained arms with the base model and with random rows: better, worse or not distinguishable."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean

from kiloset.core.statistics import Interval
from kiloset.evaluation.forgetting import forgetting
from kiloset.evaluation.metrics import Metric, difference_over_seeds
from kiloset.evaluation.settings import ProveConfig

VERDICTS = {1: "better", -1: "worse", 0: "not distinguishable"}
GUARDED = (
    "opening concentration", "unfinished", "refusals", "paraphrase consistency", "layout consistency", "system prompt obeyed",
)  # fmt: skip
"""Rigidity metrics that have a guard."""


@dataclass(frozen=True, slots=True)
class MetricComparison:
    """A metric of an arm, compared with the base model and with the arm of random rows."""

    metric: str
    unit: str
    better: str
    base: float
    arm: float
    """Mean over seeds."""
    to_base: Interval
    """Arm minus base model."""
    to_random: Interval | None
    """Arm minus random rows, paired by seed and item; None for the random arm itself."""

    @property
    def verdict(self) -> str:
        """The verdict against random rows; "" for the random arm and for a metric without a better direction."""
        return "" if self.to_random is None else verdict(self.to_random, self.better)


@dataclass(frozen=True, slots=True)
class Guard:
    """A metric that may not get worse by more than a limit."""

    name: str
    change: float
    """Deterioration against the base model; negative for an improvement."""
    limit: float

    @property
    def holds(self) -> bool:
        """Whether the change is within the limit."""
        return self.change <= self.limit


@dataclass(frozen=True, slots=True)
class Proof:
    """The result of `kiloset prove`."""

    target: str
    verdict: str
    """better, worse or not distinguishable: the curated set against random rows on the target."""
    guards: tuple[Guard, ...]
    figures: dict[str, tuple[MetricComparison, ...]]
    """By arm."""

    @property
    def is_proved(self) -> bool:
        """Whether the curated set beats random rows on the target and every guard holds."""
        return self.verdict == "better" and all(guard.holds for guard in self.guards)


def verdict(difference: Interval, better: str) -> str:
    """Return better, worse or not distinguishable for a difference; "" if the metric has no better direction."""
    if better == "neither":
        return ""
    return VERDICTS[difference.sign if better == "higher" else -difference.sign]


def compare_arms(
    config: ProveConfig, base: Mapping[str, Metric], arms: Mapping[str, Sequence[Mapping[str, Metric]]]
) -> Proof:
    """Compare every arm with the base model and with random rows.

    Args:
        config: The `[prove]` table.
        base: The base model's metrics by name.
        arms: For each arm, its metrics by name for each seed, in the order of the seeds.
    """
    figures = {
        name: tuple(_compare(metric, base, tuned, None if name == "random" else arms["random"]) for metric in base)
        for name, tuned in arms.items()
    }
    target = next(one for one in figures["curated"] if one.metric == config.target)
    return Proof(config.target, target.verdict, guards(config, base, arms["curated"]), figures)


def guards(config: ProveConfig, base: Mapping[str, Metric], tuned: Sequence[Mapping[str, Metric]]) -> tuple[Guard, ...]:
    """Return every guard with its change, the mean over seeds."""
    losses = [_forgetting(base, one) for one in tuned]
    checked = [Guard("forgetting", fmean(losses), config.most_forgetting)]
    for name, metric in base.items():
        limit = config.most_drift if name.startswith("NLL") else config.most_rigidity if name in GUARDED else None
        if limit is not None:
            change = fmean(one[name].mean - metric.mean for one in tuned)
            checked.append(Guard(name, -change if metric.better == "higher" else change, limit))
    return tuple(checked)


def _forgetting(base: Mapping[str, Metric], tuned: Mapping[str, Metric]) -> float:
    names = [name for name in base if name.startswith("accuracy ")]
    return forgetting([base[name] for name in names], [tuned[name] for name in names])


def _compare(
    name: str,
    base: Mapping[str, Metric],
    arm: Sequence[Mapping[str, Metric]],
    random: Sequence[Mapping[str, Metric]] | None,
) -> MetricComparison:
    metric, tuned = base[name], [one[name] for one in arm]
    return MetricComparison(
        metric=name, unit=metric.unit, better=metric.better, base=metric.mean, arm=fmean(one.mean for one in tuned),
        to_base=difference_over_seeds(tuned, [metric] * len(tuned)),
        to_random=None if random is None else difference_over_seeds(tuned, [one[name] for one in random]),
    )  # fmt: skip
