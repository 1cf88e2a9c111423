"""The `[prove]` table, and what the figures of arms and seeds say: better, worse or not distinguishable."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import Annotated, Literal

from pydantic import AfterValidator, Field

from kiloset.core.config import Names, NonNegative, settings
from kiloset.core.errors import ConfigError
from kiloset.core.statistics import Interval
from kiloset.evaluation.arms import ARMS
from kiloset.evaluation.evaluate import Suites
from kiloset.evaluation.forgetting import forgetting
from kiloset.evaluation.metrics import Metric, difference_over_seeds

VERDICTS = {1: "better", -1: "worse", 0: "not distinguishable"}


def _known(arms: tuple[str, ...]) -> tuple[str, ...]:
    if unknown := [name for name in arms if name not in ARMS]:
        raise ValueError(f"of {', '.join(ARMS)} (there is no {unknown[0]!r})")
    if not {"curated", "random"} <= set(arms):
        raise ValueError("a list with curated and random, which are compared")
    return arms


@settings
class ProveConfig:
    """The `[prove]` table: what a set is held against."""

    arms: Annotated[Names, AfterValidator(_known)] = tuple(ARMS)
    """Sets that are trained on: curated, unrewritten (the same rows, answers as they were born), random (as many of the pool), longest (the longest answers of the pool), seeds (the seeds, repeated)."""
    seeds: Annotated[int, Field(ge=2)] = 2
    """Trainings of each arm, from 2, with another seed each; random draws other rows for each."""
    target: Literal[
        "following strict prompt", "following strict instruction", "ifeval strict prompt", "validation loss"
    ] = "following strict prompt"
    """The figure on which the set must beat random rows."""
    most_forgetting: NonNegative = 0.05
    """Guard: mean loss of accuracy over the held-out capabilities against the base model, as a share."""
    most_drift: NonNegative = 0.1
    """Guard: rise of the loss on general text and on code, in nats per token."""
    most_rigidity: NonNegative = 0.15
    """Guard: rise of the commonest opening's share, of unfinished answers and refusals, and fall of consistency and of obedience to system prompts, each as a share."""

    def check(self, asked: Suites) -> None:
        """Refuse a target that cannot be found out.

        Raises:
            ConfigError: It is IFEval's, whose file is not given, or the loss on validation rows, and there are none.
        """
        if self.target.startswith("ifeval") and "ifeval" not in asked.following:
            raise ConfigError(
                "KS518", f'[prove] target "{self.target}" needs IFEval\'s file; name it in [evaluation] ifeval'
            )
        if self.target == "validation loss" and not asked.validation:
            raise ConfigError(
                "KS519", '[prove] target "validation loss" needs validation rows; set [run] validation above 0'
            )


@dataclass(frozen=True, slots=True)
class Compared:
    """A figure of an arm beside the base model's and random rows'."""

    metric: str
    unit: str
    better: str
    base: float
    arm: float
    """Mean over seeds."""
    to_base: Interval
    to_random: Interval | None
    """Arm minus random rows, paired by seed and item; None for the random arm itself."""

    @property
    def verdict(self) -> str:
        """Against random rows, over items and seeds; `neither` where no direction is better."""
        return "" if self.to_random is None else verdict(self.to_random, self.better)


@dataclass(frozen=True, slots=True)
class Guard:
    """A figure that may not fall further than its limit."""

    name: str
    change: float
    """For the worse, against the base model; below 0 it is for the better."""
    limit: float

    @property
    def holds(self) -> bool:
        """Whether it did not."""
        return self.change <= self.limit


@dataclass(frozen=True, slots=True)
class Proof:
    """What `make prove` found."""

    target: str
    verdict: str
    """better, worse or not distinguishable: the curated set against random rows on the target."""
    guards: tuple[Guard, ...]
    figures: dict[str, tuple[Compared, ...]]
    """By arm."""

    @property
    def is_proved(self) -> bool:
        """Whether the set beats random rows on the target and no guard falls."""
        return self.verdict == "better" and all(guard.holds for guard in self.guards)


def verdict(difference: Interval, better: str) -> str:
    """Say whether a difference is for the better, in these three words and no others; "" where neither direction is."""
    if better == "neither":
        return ""
    return VERDICTS[difference.sign if better == "higher" else -difference.sign]


def prove(config: ProveConfig, base: Mapping[str, Metric], arms: Mapping[str, Sequence[Mapping[str, Metric]]]) -> Proof:
    """Compare arms with the base model and with random rows.

    Args:
        config: The `[prove]` table.
        base: The base model's figures by name.
        arms: By arm, its figures by name for each seed, in the order of the seeds.
    """
    figures = {
        name: tuple(_compared(metric, base, found, None if name == "random" else arms["random"]) for metric in base)
        for name, found in arms.items()
    }
    target = next(one for one in figures["curated"] if one.metric == config.target)
    return Proof(config.target, target.verdict, guards(config, base, arms["curated"]), figures)


def guards(config: ProveConfig, base: Mapping[str, Metric], tuned: Sequence[Mapping[str, Metric]]) -> tuple[Guard, ...]:
    """Return every guard with its change, the mean over seeds."""
    found = [Guard("forgetting", fmean(_forgotten(base, one) for one in tuned), config.most_forgetting)]
    for name, metric in base.items():
        limit = config.most_drift if name.startswith("NLL") else config.most_rigidity if name in GUARDED else None
        if limit is not None:
            change = fmean(one[name].mean - metric.mean for one in tuned)
            found.append(Guard(name, -change if metric.better == "higher" else change, limit))
    return tuple(found)


GUARDED = (
    "opening concentration", "unfinished", "refusals", "paraphrase consistency", "layout consistency", "system prompt obeyed",
)  # fmt: skip
"""Figures of rigidity that are guarded."""


def _forgotten(base: Mapping[str, Metric], tuned: Mapping[str, Metric]) -> float:
    names = [name for name in base if name.startswith("accuracy ")]
    return forgetting([base[name] for name in names], [tuned[name] for name in names]).loss


def _compared(
    name: str,
    base: Mapping[str, Metric],
    found: Sequence[Mapping[str, Metric]],
    against: Sequence[Mapping[str, Metric]] | None,
) -> Compared:
    metric, own = base[name], [one[name] for one in found]
    return Compared(
        metric=name, unit=metric.unit, better=metric.better, base=metric.mean, arm=fmean(one.mean for one in own),
        to_base=difference_over_seeds(own, [metric] * len(own)),
        to_random=None if against is None else difference_over_seeds(own, [one[name] for one in against]),
    )  # fmt: skip
