"""The `[evaluation]` and `[prove]` tables."""

from typing import Annotated, Literal

from pydantic import AfterValidator, Field

from kiloset.core.config import Count, Names, Natural, NonNegative, settings

ARMS = {
    "curated": "the curated set",
    "unrewritten": "the same rows with their responses before rewriting",
    "random": "random rows of the pool, different ones for each seed",
    "longest": "the rows of the pool with the longest responses",
    "seeds": "the seed examples, repeated",
}
"""The training sets that `kiloset prove` compares; all have as many rows as the curated set."""


@settings
class EvaluationConfig:
    """The `[evaluation]` table: what a model is evaluated on."""

    ifeval: str = ""
    """IFEval's own file (JSON lines with key, prompt, instruction_id_list, kwargs), or your own file in this format; "" for none. The held-out constraints are always evaluated."""
    prompts: Count = 150
    """Number of held-out instructions with constraints, from 1."""
    seed: Natural = 0
    """Seed of the held-out instructions, from 0."""
    max_tokens: Count = 256
    """Longest answer, in tokens; a cut answer counts as unfinished."""


def _known_arms(arms: tuple[str, ...]) -> tuple[str, ...]:
    if unknown := [name for name in arms if name not in ARMS]:
        raise ValueError(f"names among {', '.join(ARMS)}; {unknown[0]!r} is unknown")
    if not {"curated", "random"} <= set(arms):
        raise ValueError("a list that contains curated and random, which are compared")
    return arms


@settings
class ProveConfig:
    """The `[prove]` table: which training sets are compared, on which metric, within which limits."""

    arms: Annotated[Names, AfterValidator(_known_arms)] = tuple(ARMS)
    """Training sets: curated, unrewritten (the same rows, responses before rewriting), random (random rows of the pool), longest (the longest responses of the pool), seeds (the seed examples, repeated)."""
    seeds: Annotated[int, Field(ge=2)] = 2
    """Trainings of each arm, from 2, each with another seed; random draws different rows for each."""
    target: Literal[
        "following strict prompt", "following strict instruction", "ifeval strict prompt", "validation loss"
    ] = "following strict prompt"
    """The metric on which the curated set must beat random rows."""
    most_forgetting: NonNegative = 0.05
    """Guard: largest mean loss of accuracy from the base model to the tuned one, over the held-out capabilities, as a fraction."""
    most_drift: NonNegative = 0.1
    """Guard: largest rise of the loss on general text and on code, in nats per token."""
    most_rigidity: NonNegative = 0.15
    """Guard: largest rise of the most common opening, of unfinished answers and of refusals, and largest fall of consistency and of obedience to system prompts, each as a fraction."""
