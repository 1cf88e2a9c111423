"""New instructions made from old ones, deeper or broader, by named operators.

After Xu et al., "WizardLM: Empowering Large Language Models to Follow Complex Instructions" (ICLR 2024,
arXiv:2304.12244): deepening and broadening. Departures: the operators' wording is ours; an operator is recorded with its
row; the new task must pass the same novelty gate as any other, also against its parent.
"""

import random

from kiloset.core.models import chat_request
from kiloset.generator.parsing import read_task
from kiloset.generator.strategy import Birth, Setting, Strategy, readable

OPERATORS = {
    "deepen_requirement": "Write a new task that is this one with one more requirement that makes it harder.",
    "deepen_concrete": "Write a new task that asks for the same in a concrete situation with particular people or things.",
    "deepen_reasoning": "Write a new task on the same subject that takes several steps of thought instead of one.",
    "deepen_subject": "Write a new task that goes deeper into one part of the subject of this one.",
    "broaden_subject": "Write a new task of the same kind about an entirely different subject.",
    "broaden_rare": "Write a new task of the same kind about something that is seldom asked for.",
}


def ask(setting: Setting, category: str, count: int, rng: random.Random) -> list[Birth]:
    """Return requests that turn seeds and new rows of a category into other tasks."""
    births: list[Birth] = []
    for _ in range(count):
        parent = setting.shown.choose_parent(category, rng)
        operator = rng.choice(sorted(OPERATORS))
        task = parent.get("task") or parent["instruction"]
        turn = setting.templates.render("evolve", category=readable(category), task=task, operator=OPERATORS[operator])
        request = chat_request(setting.engine, turn, "evolve", **setting.sampling.as_arguments())
        births.append(Birth(request, (parent,), operator))
    return births


EVOLVE = Strategy("evolve", ask, read_task)
