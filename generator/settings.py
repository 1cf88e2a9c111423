"""The `[generate]` table."""

from typing import Annotated

from pydantic import AfterValidator, Field

from kiloset.core.config import Count, Fraction, Names, Natural, NonNegative, Positive, Share, settings

STRATEGIES = ("self_instruct", "evolve", "magpie", "constraint")
PURPOSES = ("instruction", "evolve", "magpie", "input", "labelled_input", "response")
"""Purposes of the requests that generation sends."""


def _known(weights: dict[str, float]) -> dict[str, float]:
    if unknown := [name for name in weights if name not in STRATEGIES]:
        raise ValueError(f"of {', '.join(STRATEGIES)} (there is no {unknown[0]!r})")
    if not any(weights.values()):
        raise ValueError("a table with at least one weight above 0")
    return weights


@settings
class GenerateConfig:
    """The `[generate]` table: the loop that asks for what is still missing."""

    enabled: bool = True
    """Whether to generate at all; false selects from [pool] alone."""
    candidates_per_row: Annotated[float, Field(ge=1, le=20)] = 2.0
    """Candidates that passed the cheap checks, per row wanted: what selection chooses from."""
    strategies: Annotated[dict[str, NonNegative], AfterValidator(_known)] = Field(
        default_factory=lambda: {"self_instruct": 0.7, "evolve": 0.1, "constraint": 0.2}
    )
    """How candidates come about, by weight: self_instruct (a list of tasks, continued), evolve (made from another task), magpie (a bare user turn), constraint (carries constraints that a program verifies)."""
    prompts: str = ""
    """A folder with prompts of your own: any of self_instruct.j2, input.j2, labelled_input.j2, evolve.j2, magpie.j2 (Jinja); the others stay."""
    max_requests: Count = 200_000
    """Most requests the loop may send; then it goes on with what it has. Rewriting comes on top: size x (1 + reserve) x rewrites."""
    max_tokens: Natural = 0
    """Most tokens the loop may spend, prompts included; 0 sets no limit. Nothing is sent that could exceed it."""
    max_hours: NonNegative = 0.0
    """Most hours the loop may take, over all its interruptions; then it sends nothing more, and ends when what is in flight has come. 0 sets no limit."""
    max_waves: Count = 12
    """Most rounds of asking for all that is missing; those that a limit above cuts short do not count."""
    human_demonstrations: Count = 6
    """Seeds of the asked category shown in a prompt."""
    machine_demonstrations: Natural = 2
    """New instructions of the asked category shown in a prompt, once there are any."""
    max_shown: Count = 5
    """Prompts that may show one new instruction."""
    max_depth: Annotated[int, Field(ge=1, le=255)] = 3
    """Longest lineage: a row made from seeds has 1; one that has this many generations behind it is not shown again."""
    samples_per_prompt: Count = 4
    """Instructions sampled from one prompt; they share its computation."""
    constraint_samples: Count = 3
    """Answers sampled for a task with constraints; the first that keeps them all is taken."""
    output_first: Names = ("classification",)
    """Categories with inputs whose answer, a label, is written before the text it is the label of."""
    novelty: Share = 0.7
    """Highest ROUGE-L F1 with any instruction there is; above it an instruction is not new."""
    input_share: Fraction = 0.5
    """A category whose seeds have an input at least this often is asked for one."""
    temperature: Positive = 0.8
    """For instructions and inputs."""
    top_p: Share = 0.9
    """For instructions and inputs."""
    response_temperature: Annotated[float, Field(ge=0, le=2)] = 0.5
    """For reference answers."""
    max_instruction_tokens: Count = 96
    """Longest instruction; a longer one is cut and dropped."""
    max_input_tokens: Count = 192
    """Longest input; a longer one is cut and dropped."""
    max_response_tokens: Count = 512
    """Longest reference answer; a longer one is cut and dropped."""
