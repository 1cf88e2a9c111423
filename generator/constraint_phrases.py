"""How often constraints are sampled, their arguments and several phrases for each: `prompts/constraints.jsonl`."""

import json
import random
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

from kiloset.core.phrase_book import PhraseBook
from kiloset.core.text import words

FILE = Path(__file__).resolve().parent / "prompts" / "constraints.jsonl"
LESS, LEAST = "less than", "at least"
FILLERS = (
    "very", "really", "however", "important", "additionally", "simply", "essential", "ensure", "various", "overall",
    "basically", "great", "crucial", "furthermore", "actually", "certainly", "amazing", "literally",
)  # fmt: skip
"""Words that a constraint may forbid."""
TASK_WORDS = frozenset(
    words("""
    write explain describe list give tell make create suggest compose name find help show provide discuss define compare
    identify generate summarize summarise rewrite rephrase convert draft imagine pretend answer answers question questions
    sentence sentences word words paragraph paragraphs line lines example examples ways tips ideas steps reason reasons brief
    short long simple please using used uses want need needs know think like good best better much many well also difference
    differences between following given text passage article story essay email letter topic point points thing things
    response reply task detail details include including without something someone anyone your mine yourself let's keep
    sure take come goes going gets does doing made makes called means mean happens happen work works really very first
    fewer bring talk speak word wrote written second third last next some different main major people person would could should
    """)
)
"""Words about the task rather than about its subject."""


@cache
def weights() -> dict[str, int]:
    """Return how often each constraint is sampled where it is suitable.

    The weight is higher where a formal edit corrects most responses, and lower where users rarely want the constraint.
    """
    return {row["id"]: row["weight"] for row in _rows()}


@cache
def phrase_book() -> PhraseBook:
    """Return the phrases of the constraints and the arguments to choose from."""
    return PhraseBook(_rows())


def phrase_constraint(rng: random.Random, id: str, args: Mapping[str, Any]) -> str:
    """Return a sentence that states the constraint."""
    return phrase_book().phrase(rng, id, args, _argument_text)


def _argument_text(_: str, value: Any) -> str:
    """Return an argument as text; a list becomes quoted words joined by "and"."""
    if not isinstance(value, list):
        return str(value)
    quoted = [f'"{word}"' for word in value]
    joined = ", ".join(quoted[:-1]) + f" and {quoted[-1]}" if len(quoted) > 1 else quoted[0]
    return f"the word{'s' if len(quoted) > 1 else ''} {joined}"


def _rows() -> list[dict[str, Any]]:
    return [json.loads(line) for line in FILE.read_text(encoding="utf-8").splitlines()]
