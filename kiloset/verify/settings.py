"""The `[verify]` table."""

from typing import Annotated

from pydantic import AfterValidator

from kiloset.core.config import Fraction, Names, Natural, Positive, settings

CHECKS = ("agreement", "count", "equation", "number", "code")
"""The checks, in the order in which they are made."""


def _known_checks(names: tuple[str, ...]) -> tuple[str, ...]:
    if unknown := [name for name in names if name not in CHECKS]:
        raise ValueError(f"names among {', '.join(CHECKS)}; {unknown[0]!r} is unknown")
    return names


@settings
class VerifyConfig:
    """The `[verify]` table: which answers count as right."""

    off: Annotated[Names, AfterValidator(_known_checks)] = ()
    """Names of checks not to apply: agreement (the writer model gives nearly the same answer again), count (numbers of sentences, words, lines and list items that the task states), equation (arithmetic is computed), number (numbers come from the task and its text), code (parses, and defines what the task names)."""
    samples: Natural = 0
    """Number of times the writer model answers a task again, to compare the answers; 0 switches the check agreement off. One costs about as much as all answers, and on 200 rows that were read it raised the share of right answers from 0.41 to 0.59 (docs/results/verification.md)."""
    temperature: Positive = 0.7
    """Sampling temperature of these answers."""
    least_agreement: Fraction = 0.55
    """Least mean ROUGE-L F1 of the answer with these answers, in [0, 1]. Higher keeps fewer rows; above 0.55 hardly more of them were right (docs/results/verification.md)."""
    open_ended: Names = ()
    """Categories whose tasks have many right answers that differ, so that agreement is not measured; nothing verifies their answers then, except the other checks."""
    final_number: Names = ("maths",)
    """Categories whose answers agree if they end in the same number, however they get there."""
    copying: Names = ("extraction", "closed_qa", "summarising", "rewriting", "data_to_text", "role_play", "writing")
    """Categories in which each number of an answer comes from the task or its text."""

    @property
    def repeats(self) -> int:
        """The number of further answers of a row that gets any."""
        return 0 if "agreement" in self.off else self.samples
