"""How well answers follow their verifiable constraints, measured as IFEval does.

Zhou et al., "Instruction-Following Evaluation for Large Language Models", 2023, arXiv:2311.07911: the share of prompts all
of whose constraints are obeyed, and the share of constraints that are, each read strictly and loosely. Loosely each
constraint is checked by itself on 8 variants of the answer (`kiloset.core.constraints.check_loose`), any of which may pass; a
prompt passes loosely where each of its constraints does, be it in different variants. A missing or blank answer obeys
nothing; one that was cut is checked as it stands.
"""

from collections.abc import Mapping, Sequence

from kiloset.core.constraints import IDS, check, check_loose
from kiloset.evaluation.ifeval import Item
from kiloset.evaluation.metrics import Answer, Metric, Prompt

Verdict = tuple[str, bool, bool]
"""A constraint's id, whether it is obeyed strictly, and whether loosely."""


def prompts(items: Sequence[Item]) -> list[Prompt]:
    """Return one user message an item, in order, under the item's key."""
    return [Prompt(item.key, ({"role": "user", "content": item.prompt},)) for item in items]


def judged(items: Sequence[Item], answers: Mapping[str, Answer]) -> dict[str, list[Verdict]]:
    """Return the verdicts on each item's constraints, in their order, by the item's key.

    Args:
        items: What was asked.
        answers: By the item's key; one that lacks, or has no text, fails all.
    """
    verdicts = {}
    for item in items:
        text = answers[item.key].text if item.key in answers else ""
        verdicts[item.key] = [
            (id, check(id, args, text), check_loose(id, args, text)) for id, args in item.constraints
        ]  # fmt: skip
    return verdicts


def metrics(name_prefix: str, items: Sequence[Item], answers: Mapping[str, Answer]) -> list[Metric]:
    """Return the four figures, fractions in [0, 1]: strict and loose, by prompt and by instruction, as IFEval calls a constraint.

    Those by instruction are keyed by prompt too, with the number of its constraints as count, so that a resample draws
    whole prompts: constraints of one answer are not independent.
    """
    verdicts = judged(items, answers)
    one = dict.fromkeys(verdicts, 1.0)
    each = {key: float(len(found)) for key, found in verdicts.items()}
    strict = {key: [obeyed for _, obeyed, _ in found] for key, found in verdicts.items()}
    loose = {key: [obeyed for _, _, obeyed in found] for key, found in verdicts.items()}
    return [
        _fraction(f"{name_prefix} strict prompt", {key: all(obeyed) for key, obeyed in strict.items()}, one),
        _fraction(f"{name_prefix} loose prompt", {key: all(obeyed) for key, obeyed in loose.items()}, one),
        _fraction(f"{name_prefix} strict instruction", {key: sum(obeyed) for key, obeyed in strict.items()}, each),
        _fraction(f"{name_prefix} loose instruction", {key: sum(obeyed) for key, obeyed in loose.items()}, each),
    ]


def by_type(name_prefix: str, items: Sequence[Item], answers: Mapping[str, Answer]) -> list[Metric]:
    """Return the share of the constraints of each id that are obeyed strictly, for the ids that occur, in `IDS`' order.

    Each is keyed by the prompts that have the id; its count is how often they do.
    """
    verdicts = judged(items, answers)
    found = []
    for wanted in IDS:
        obeyed = {key: [strict for id, strict, _ in all_of if id == wanted] for key, all_of in verdicts.items()}
        had = {key: each for key, each in obeyed.items() if each}
        if had:
            sums, counts = {k: sum(each) for k, each in had.items()}, {k: float(len(each)) for k, each in had.items()}
            found.append(_fraction(f"{name_prefix} {wanted}", sums, counts))
    return found


def _fraction(name: str, sums: Mapping[str, int], counts: Mapping[str, float]) -> Metric:
    return Metric(name, "fraction", "higher", {key: float(value) for key, value in sums.items()}, counts)
