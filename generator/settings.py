"""The `[generate]` table."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, Field

from kiloset.core.config import Count, Fraction, Names, Natural, NonNegative, Positive, Share, settings

STRATEGIES = ("self_instruct", "evolve", "magpie", "constraint")
INSTRUCTION_PURPOSE = {"self_instruct": "instruction", "evolve": "evolve", "magpie": "magpie", "constraint": "instruction"}  # fmt: skip
"""Purpose of the request for a new instruction, by strategy."""
PURPOSES = ("instruction", "evolve", "magpie", "input", "labelled_input", "response", "verify")
"""Purposes of the requests that generation sends."""


@dataclass(frozen=True, slots=True)
class Resampling:
    """How often an answer is requested again, to measure whether the writer model repeats it."""

    samples: int
    """Answers requested besides the row's own."""
    temperature: float
    """Sampling temperature of these answers."""
    skips: Callable[[Mapping[str, Any]], bool]
    """Whether a finished row needs no such answers."""
    final_number: tuple[str, ...] = ()
    """Categories whose answers agree if they end in the same number."""


def _strategy_weights(weights: dict[str, float]) -> dict[str, float]:
    if unknown := [name for name in weights if name not in STRATEGIES]:
        raise ValueError(f"a table of {', '.join(STRATEGIES)} without {unknown[0]!r}")
    if not any(weights.values()):
        raise ValueError("a table with at least one weight above 0")
    return weights


@settings
class GenerateConfig:
    """The `[generate]` table: the loop that requests candidates until every category has enough."""

    enabled: bool = True
    """Whether to generate candidates; false selects from [pool] alone."""
    candidates_per_row: Annotated[float, Field(ge=1, le=20)] = 2.0
    """Number of candidates that pass the cheap checks, per row wanted; selection chooses from them."""
    strategies: Annotated[dict[str, NonNegative], AfterValidator(_strategy_weights)] = Field(
        default_factory=lambda: {"self_instruct": 0.7, "evolve": 0.1, "constraint": 0.2}
    )
    """The strategies and their weights: self_instruct (the model is asked for a task like the seeds), evolve (a task made from another one), magpie (a user turn without any example), constraint (a task with constraints that a program verifies)."""
    prompt_style: Literal["chat", "continue"] = "chat"
    """How self_instruct and constraint ask for tasks: "chat" shows whole seeds as chat turns and gets a task with its text in one completion; "continue" lets the model continue a numbered list and asks for the text apart, as models without a chat template and very small ones need. A model without a chat template always gets the latter."""
    examples: Annotated[int, Field(ge=1, le=20)] = 3
    """Number of seeds that a chat for a new task shows."""
    response_examples: Natural = 2
    """Number of these seeds that the chat for its answer shows first, so that answers have the style of the seeds; 0 for none. An answer with constraints is requested without any."""
    topics: str = ""
    """A file with subjects for new tasks, one a line, "category: subject" for one category. Without it: topics.txt beside the seeds, else the subjects of the seeds themselves."""
    prompts: str = ""
    """A folder with your own prompts: any of task_system.j2, task.j2, self_instruct.j2, input.j2, labelled_input.j2, evolve.j2, magpie.j2 (Jinja). They replace the bundled ones."""
    max_requests: Count = 200_000
    """Largest number of requests for generation; the run continues with the rows that it has by then. Rewriting needs more: size x (1 + reserve) x rewrites."""
    max_tokens: Natural = 0
    """Largest number of tokens for generation, prompts included; 0 sets no limit. No request is sent that could exceed it."""
    max_hours: NonNegative = 0.0
    """Largest number of hours for generation, over all resumed runs; 0 sets no limit. After it nothing more is sent, and requests in flight are finished."""
    max_waves: Count = 12
    """Largest number of waves; a wave that a limit above reduced does not count."""
    least_yield: Fraction = 0.1
    """A category of which a smaller fraction of at least 24 requested tasks becomes candidates gets no further requests: the writer model is not up to it. The set then lacks rows of the category, unless others fill its place ([categories] fill)."""
    human_demonstrations: Count = 6
    """Number of seeds of the requested category in a prompt."""
    machine_demonstrations: Natural = 2
    """Number of generated instructions of the requested category in a prompt, once there are any."""
    max_shown: Count = 5
    """Largest number of prompts that may show one generated instruction."""
    max_depth: Annotated[int, Field(ge=1, le=255)] = 3
    """Longest lineage of a generated row, 1 for a row made from seeds; a row with this depth is not shown in prompts."""
    samples_per_prompt: Count = 4
    """Number of instructions sampled from one prompt, which the engine computes once."""
    constraint_samples: Count = 3
    """Number of responses sampled for a task with constraints; the first one that satisfies them all is used."""
    output_first: Names = ("classification",)
    """Categories whose response, a label, is written before the input."""
    novelty: Share = 0.7
    """An instruction with a ROUGE-L F1 above this with any other instruction is not new."""
    input_share: Fraction = 0.5
    """A category gets inputs if at least this fraction of its seeds has one."""
    temperature: Positive = 0.8
    """Sampling temperature of instructions and inputs."""
    top_p: Share = 0.9
    """Nucleus sampling of instructions, inputs and responses."""
    response_temperature: Annotated[float, Field(ge=0, le=2)] = 0.5
    """Sampling temperature of responses."""
    max_instruction_tokens: Count = 96
    """Longest instruction, in tokens; a longer one is dropped."""
    max_input_tokens: Count = 192
    """Longest input, in tokens; a longer one is dropped."""
    max_response_tokens: Count = 512
    """Longest response, in tokens; a longer one is dropped."""
