"""Requests for inputs: the text that a task is about, written after examples from the seeds.

For classification the label comes before the text ("output first", as in Self-Instruct, arXiv:2212.10560), so that the
model does not write every text for the same label. Requests of one group share their examples, so that the engine computes
the long common beginning of their prompts once.
"""

import random
from collections.abc import Mapping, Sequence
from typing import Any

from kiloset.core.models import Request
from kiloset.core.text import squash
from kiloset.generator.demonstrations import Row, task_of
from kiloset.generator.novelty import NoveltyIndex
from kiloset.generator.parsing import LONGEST_LABEL
from kiloset.generator.strategies import StrategyContext, text_request

INPUT_STOP = ("\n\n", "\nTask:", "\nText:")
LABELLED_STOP = ("\n\n", "\nTask:", "\nAnswer:")
INPUT_DEMONSTRATIONS = 4
"""Largest number of examples in a prompt."""
GROUP = 32
"""Number of consecutive instructions of a category whose prompts show the same examples."""
INSTRUCTION = "the instruction"
"""Stands for the row's own instruction where an input is compared with earlier texts."""


class InputRequests:
    """Builds the requests, and remembers the examples of each group."""

    def __init__(self, context: StrategyContext, seed: int) -> None:
        """Start without any group."""
        self._context, self._seed = context, seed
        self._examples: dict[tuple[str, int, bool], list[Row]] = {}

    def build(self, row: Mapping[str, Any], number: int, *, may_be_labelled: bool) -> Request:
        """Return the request for a row's input; its purpose is `input` or `labelled_input`.

        Args:
            row: The row with its instruction.
            number: The row's number among all instructions requested for its category.
            may_be_labelled: Whether the label may come before the text, if the category is one of `output_first`.
        """
        config, engine = self._context.config, self._context.engine
        labelled = may_be_labelled and row["category"] in config.output_first
        labelled = labelled and bool(self._group_examples(row["category"], number, labelled=True))
        examples = [
            {
                "task": squash(seed["instruction"]),
                "text": without_empty_lines(seed["input"]),
                "answer": squash(seed["response"]),
            }
            for seed in self._group_examples(row["category"], number, labelled=labelled)
        ]
        purpose = "labelled_input" if labelled else "input"
        prompt = self._context.templates.render(
            purpose, task=squash(task_of(row)), examples=examples, chat=not engine.capabilities.plain_text
        )
        sampling = {"max_tokens": config.max_input_tokens, "temperature": config.temperature, "top_p": config.top_p}
        return text_request(engine, prompt, purpose, sampling, LABELLED_STOP if labelled else INPUT_STOP)

    def copied(self, row: Mapping[str, Any], number: int, *, labelled: bool) -> dict[str, Any] | None:
        """Return the verdict on a row whose input copies an example of its group or its instruction; None if it is new."""
        examples = self._group_examples(row["category"], number, labelled=labelled)
        return copied_from(row, examples, self._context.config.novelty)

    def _group_examples(self, category: str, number: int, *, labelled: bool) -> list[Row]:
        group = (category, number // GROUP, labelled)
        if group not in self._examples:
            seeds = self._context.demonstrations.with_inputs(category)
            if labelled:
                seeds = [row for row in seeds if len(row["response"].split()) <= LONGEST_LABEL]
            rng = random.Random(f"{self._seed}/inputs/{group}")
            self._examples[group] = rng.sample(seeds, min(INPUT_DEMONSTRATIONS, len(seeds)))
        return self._examples[group]


def copied_from(row: Mapping[str, Any], parents: Sequence[Row], limit: float) -> dict[str, Any] | None:
    """Return the verdict on a row whose input copies that of a parent or its own instruction; None if it is new."""
    index = NoveltyIndex()
    for parent in parents:
        if parent["input"]:
            index.add(parent["id"], parent["input"])
    index.add(INSTRUCTION, task_of(row))
    if (nearest := index.nearest(row["input"], limit)) is None:
        return None
    id, score = nearest
    evidence = f"the input repeats {id} (ROUGE-L {score:.2f} > {limit:.2f})"
    twin = None if id == INSTRUCTION else id
    return {"reason": "input_copied", "evidence": evidence, "measured": score, "limit": limit, "twin": twin}


def without_empty_lines(text: str) -> str:
    """Return a text without empty lines, since an empty line ends an input."""
    return "\n".join(line for line in text.splitlines() if line.strip())
