"""A numbered list of tasks, to be continued.

Wang et al., "Self-Instruct: Aligning Language Models with Self-Generated Instructions" (ACL 2023, arXiv:2212.10560):
6 human and 2 machine demonstrations. Departures: every category is asked for by name; one instruction a completion,
since small models repeat themselves further down the list; several are sampled from one prompt, which is computed once.
"""

import random

from kiloset.core.text import squash
from kiloset.generator.parsing import read_instruction
from kiloset.generator.strategy import Birth, Setting, Strategy, readable, text_request

STOP = ("\n",)


def ask(setting: Setting, category: str, count: int, rng: random.Random) -> list[Birth]:
    """Return requests that continue lists of a category's tasks."""
    births: list[Birth] = []
    while len(births) < count:
        shown = setting.shown.choose(category, setting.human, setting.machine, rng)
        tasks = [squash(row.get("task") or row["instruction"]) for row in shown]
        prompt = setting.templates.render(
            "self_instruct", category=readable(category), tasks=tasks, chat=not setting.engine.raw
        )
        request = text_request(setting.engine, prompt, "instruction", setting.sampling, STOP)
        births += [Birth(request, tuple(shown))] * min(setting.samples_per_prompt, count - len(births))
    return births


SELF_INSTRUCT = Strategy("self_instruct", ask, read_instruction)
