"""How stages report their progress. Messages go to `logging` instead: each module logs to its child of the logger `kiloset`."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol


@dataclass(frozen=True, slots=True)
class GenerationProgress:
    """The state of generation at one moment; its tables do not change afterwards."""

    wave: int
    """Number of the current wave, from 1."""
    wanted: Mapping[str, int]
    """Candidates wanted, by category."""
    accepted: Mapping[str, int]
    """Candidates accepted so far, by category; provisional while a wave runs."""
    requested: Mapping[str, int]
    """Instructions requested so far, by category."""
    in_flight: int
    """Requests sent and not completed yet."""
    requests: int
    """Requests completed so far, cache hits included."""
    sent: int
    """Requests that this process sent; cache hits are not among them."""
    prompt_tokens: int
    """Prompt tokens of the requests that this process sent."""
    completion_tokens: int
    """Written tokens of the requests that this process sent."""
    budget: Mapping[str, tuple[float, float]]
    """(spent, allowed) of each limited quantity: `requests`, `tokens` and `hours`."""

    @property
    def missing(self) -> dict[str, int]:
        """Candidates still missing, by category; a surplus in one category does not count for another."""
        return {name: max(0, wanted - self.accepted.get(name, 0)) for name, wanted in self.wanted.items()}

    @property
    def done(self) -> int:
        """Candidates accepted, counting at most the wanted number of each category."""
        return sum(self.wanted.values()) - sum(self.missing.values())

    @property
    def rate(self) -> float | None:
        """Accepted candidates per requested instruction; None before the first request."""
        requested = sum(self.requested.values())
        return sum(self.accepted.values()) / requested if requested else None

    def furthest_behind(self) -> list[str]:
        """Return the categories that miss candidates, the one with the smallest accepted share first."""
        short = [name for name, missing in self.missing.items() if missing]
        return sorted(
            short, key=lambda name: (self.accepted.get(name, 0) / self.wanted[name], -self.missing[name], name)
        )


class Progress(Protocol):
    """Receives the progress of stages: phases that count to a total, and the state of generation."""

    def begin(self, label: str, total: int) -> None:
        """Start a phase that counts from 0 to `total`."""

    def advance(self, amount: int = 1, note: str = "") -> None:
        """Add to the count of the phase; `note` replaces the text beside it."""

    def end(self) -> None:
        """End the phase."""

    def update_generation(self, progress: GenerationProgress) -> None:
        """Replace the state of generation."""


@dataclass(frozen=True, slots=True)
class Silent:
    """A `Progress` that shows nothing."""

    def begin(self, label: str, total: int) -> None:
        """Do nothing."""

    def advance(self, amount: int = 1, note: str = "") -> None:
        """Do nothing."""

    def end(self) -> None:
        """Do nothing."""

    def update_generation(self, progress: GenerationProgress) -> None:
        """Do nothing."""
