"""Instructions that carry constraints a program can verify, and answers that were verified.

The vocabulary is IFEval's (Zhou et al., "Instruction-Following Evaluation for Large Language Models", 2023,
arXiv:2311.07911). The instruction comes about as in `self_instruct`; one to three constraints are added to it in words;
of several answers the first that passes every checker is taken, else the first that a named, purely formal edit makes
pass; a row without such an answer is dropped.
"""

import json
import random
from collections.abc import Mapping, Sequence
from typing import Any

from kiloset.core.constraints import failing
from kiloset.generator.edits import make_pass
from kiloset.generator.parsing import read_instruction
from kiloset.generator.phrasing import draw, with_constraints
from kiloset.generator.self_instruct import ask
from kiloset.generator.strategy import Strategy

CONSTRAINT = Strategy("constraint", ask, read_instruction, constrained=True)

MOST = 3
WEIGHTS = (5, 3, 2)
"""How often a row carries one, two, three constraints."""
JSON_OBJECT = json.dumps({"type": "object"})


def constrain(row: dict[str, Any], *, has_input: bool, rng: random.Random) -> bool:
    """Add constraints to a row's instruction, whose plain form is kept as `task`; False if none suits it."""
    count = rng.choices(range(1, MOST + 1), WEIGHTS)[0]
    drawn = draw(rng, row["instruction"], has_input=has_input, category=row["category"], count=count)
    if not drawn:
        return False
    row["task"] = row["instruction"]
    row["instruction"] = with_constraints(row["instruction"], drawn, rng)
    row["constraints"] = [{"id": one.id, "args": json.dumps(one.args, ensure_ascii=False)} for one in drawn]
    return True


def schema_of(row: Mapping[str, Any]) -> str:
    """Return the JSON schema that a row's answer can be kept to while it is written, "" if none."""
    return JSON_OBJECT if any(one["id"] == "detectable_format:json_format" for one in row["constraints"]) else ""


def choose(constraints: Sequence[Mapping[str, str]], answers: Sequence[str]) -> tuple[int, str, tuple[str, ...]] | None:
    """Return `(number, text, edits)` of the answer to take: the first that passes as it is, else the first an edit makes pass."""
    for number, answer in enumerate(answers):
        if answer and not failing(constraints, answer):
            return number, answer, ()
    wanted = [(one["id"], json.loads(one["args"])) for one in constraints]
    for number, answer in enumerate(answers):
        if answer and (made := make_pass(wanted, answer)) is not None and not failing(constraints, made[0]):
            return number, made[0], made[1]
    return None
