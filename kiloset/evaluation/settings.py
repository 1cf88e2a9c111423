"""The `[evaluation]` table."""

from kiloset.core.config import Count, Natural, settings


@settings
class EvaluationConfig:
    """The `[evaluation]` table: what a model is judged by."""

    ifeval: str = ""
    """IFEval's own file (JSON lines with key, prompt, instruction_id_list, kwargs), or one of yours in its layout; "" for none. The held-out constraints are judged in any case."""
    prompts: Count = 150
    """Held-out instructions with constraints that are made for this run, from 1."""
    seed: Natural = 0
    """Seed of these, from 0."""
    max_tokens: Count = 256
    """Longest answer, in tokens; one that is cut counts as unfinished."""
