"""A held-out set of prompts with verifiable constraints, made from tasks and words of our own.

The ids and checkers are IFEval's (Zhou et al., "Instruction-Following Evaluation for Large Language Models", 2023,
arXiv:2311.07911); all 25 are asked for, each about equally often. One to three constraints go together. Tasks and wordings
are not those of the training prompts, many values neither (`evaluation/tasks.py`, `evaluation/wordings.py`), so that obeying
is measured rather than recalling a phrase. Three of the ids, `language:response_language`, `combination:two_responses` and
`length_constraints:nth_paragraph_first_word`, are never asked for in training; they show what carries over to other kinds.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from random import Random
from typing import Any, TypeVar

from kiloset.core.constraints import IDS, validate
from kiloset.core.text import normal_form
from kiloset.evaluation.ifeval import Constraint, Item
from kiloset.evaluation.tasks import LETTERS, OPEN, YES_OR_NO, Task
from kiloset.evaluation.wordings import CHOICES, FREQUENCIES, worded

T = TypeVar("T")

WEIGHTS = (5, 3, 2)
"""How often a prompt has one, two, three constraints."""
SHARED_RUN = 8
"""Words in a row that a task may not share with what is avoided; a shorter task may not stand in it whole."""
TASKS: Mapping[str, tuple[Task, ...]] = {
    "detectable_format:constrained_response": YES_OR_NO,
    "detectable_content:number_placeholders": LETTERS,
}
"""The tasks of an id that does not suit any."""

_KEYWORDS = frozenset({"keywords:existence", "keywords:frequency", "keywords:forbidden_words"})
_ONE_SHAPE = frozenset(
    {
        "length_constraints:number_sentences", "length_constraints:number_paragraphs",
        "length_constraints:nth_paragraph_first_word", "detectable_format:number_bullet_lists",
        "detectable_format:multiple_sections",
    }
)  # fmt: skip
_CASES = frozenset(
    {"change_case:capital_word_frequency", "change_case:english_capital", "change_case:english_lowercase"}
)
_ALL_ONE_CASE = frozenset({"change_case:english_capital", "change_case:english_lowercase"})

ONLY_WITH: Mapping[str, frozenset[str]] = {
    "combination:two_responses": frozenset(),
    "detectable_format:json_format": _KEYWORDS,
    "language:response_language": frozenset(
        {
            "length_constraints:number_sentences", "length_constraints:number_paragraphs",
            "length_constraints:number_words", "detectable_format:number_bullet_lists",
            "detectable_format:number_highlighted_sections", "detectable_format:title", "punctuation:no_comma",
        }
    ),
    "detectable_format:constrained_response": frozenset(
        {
            "keywords:existence", "keywords:forbidden_words", "length_constraints:number_sentences",
            "length_constraints:number_words", "detectable_content:postscript", "detectable_format:title",
            "startend:end_checker", "punctuation:no_comma",
        }
    ),
    "combination:repeat_prompt": _KEYWORDS
    | {
        "detectable_content:postscript", "detectable_format:number_bullet_lists",
        "detectable_format:number_highlighted_sections", "startend:end_checker",
    },
    "startend:quotation": _KEYWORDS
    | _CASES
    | {
        "keywords:letter_frequency", "length_constraints:number_sentences", "length_constraints:number_words",
        "punctuation:no_comma",
    },
}  # fmt: skip
"""All that these go with."""
NOT_WITH: Mapping[str, frozenset[str]] = {
    **dict.fromkeys(_ONE_SHAPE, _ONE_SHAPE),
    **dict.fromkeys(_CASES, _CASES),
    "keywords:letter_frequency": _KEYWORDS - {"keywords:forbidden_words"} | {"startend:end_checker"},
    "length_constraints:number_words": frozenset({"length_constraints:number_sentences"}),
    "detectable_content:postscript": _ONE_SHAPE
    - {"detectable_format:number_bullet_lists", "detectable_format:multiple_sections"}
    | {"startend:end_checker", "change_case:english_lowercase"},
    "detectable_format:title": frozenset(
        {"length_constraints:number_sentences", "length_constraints:nth_paragraph_first_word"}
    ),
    "startend:end_checker": _ALL_ONE_CASE | {"length_constraints:number_sentences"},
    "length_constraints:nth_paragraph_first_word": _ONE_SHAPE | _ALL_ONE_CASE,
    "detectable_format:multiple_sections": _ONE_SHAPE | _ALL_ONE_CASE,
}
"""What does not go with these: both cannot be obeyed, or not to the letter, or one asks for what counts in the other."""


def compatible(one: str, other: str) -> bool:
    """Tell whether two different constraints may be asked for at once."""
    allowed = other in ONLY_WITH.get(one, IDS) and one in ONLY_WITH.get(other, IDS)
    return allowed and other not in NOT_WITH.get(one, ()) and one not in NOT_WITH.get(other, ())


def held_out(count: int, seed: int, avoid: Sequence[str]) -> tuple[list[Item], int]:
    """Return a held-out set and how many of its `count` prompts were left out of it.

    The same `count` and `seed` give the same prompts, in order and under the same keys, whatever is avoided; what is avoided
    only takes some away, so that sets made beside different training sets can be compared on the keys they share.

    Args:
        count: Prompts that are made, some of which may be left out; above 150 or so tasks recur with other constraints.
        seed: Seed of the draw.
        avoid: Instructions that were trained on. A prompt is left out if its task stands in one of them, or shares 8
            words in a row with one, in any case and punctuation. A paraphrase is not noticed.
    """
    known = _known(avoid)
    made = _made(count, Random(seed))
    items = [item for task, item in made if known.isdisjoint(_telling(task))]
    return items, count - len(items)


def _made(count: int, rng: Random) -> list[tuple[Task, Item]]:
    """Draw tasks, prompts and constraints; ids and tasks that have been drawn least come first, at random among equals."""
    asked: Counter[str] = Counter()
    taken: Counter[Task] = Counter()
    made = []
    for at, most in enumerate(rng.choices(range(1, len(WEIGHTS) + 1), WEIGHTS, k=count)):
        ids = _ids(most, asked, rng)
        task = _least(next((TASKS[id] for id in ids if id in TASKS), OPEN), taken, rng)
        asked.update(ids)
        taken[task] += 1
        constraints = _arguments(ids, task, rng)
        made.append((task, Item(f"held-{at:04}", _prompt(task, constraints, rng), constraints)))
    return made


def _ids(most: int, asked: Mapping[str, int], rng: Random) -> list[str]:
    """Draw ids that go together: `most`, or fewer where no further one goes with them all."""
    left = [id for id in IDS if most == 1 or any(compatible(id, other) for other in IDS if other != id)]
    ids: list[str] = []
    while left and len(ids) < most:
        ids.append(_least(left, asked, rng))
        left = [id for id in left if id not in ids and compatible(id, ids[-1])]
    return ids


def _least(options: Sequence[T], counts: Mapping[T, int], rng: Random) -> T:
    fewest = min(counts[option] for option in options)
    return rng.choice([option for option in options if counts[option] == fewest])


def _arguments(ids: Sequence[str], task: Task, rng: Random) -> tuple[Constraint, ...]:
    keywords = rng.sample(task.keywords, len(task.keywords))
    constraints = []
    for id in ids:
        args: dict[str, Any]
        if id == "keywords:existence":
            args = {"keywords": [keywords.pop()]}
        elif id == "keywords:forbidden_words":
            args = {"forbidden_words": [keywords.pop()]}
        elif id == "keywords:frequency":
            relation, bound = rng.choice(FREQUENCIES)
            args = {"relation": relation, "keyword": keywords.pop(), "frequency": bound}
        elif id == "combination:repeat_prompt":
            args = {"prompt_to_repeat": task.text}
        else:
            args = dict(rng.choice(CHOICES[id]))
        validate(id, args)
        constraints.append((id, args))
    return tuple(constraints)


def _prompt(task: Task, constraints: Sequence[Constraint], rng: Random) -> str:
    """Word a prompt: the task with what is asked for after it or before it; a task to be repeated stands in those words."""
    wordings = {id: worded(rng, id, args) for id, args in constraints}
    repeated = wordings.pop("combination:repeat_prompt", None)
    said = list(wordings.values())
    if repeated is not None:
        return "\n\n".join([*([" ".join(said)] if said else []), repeated])
    listed = "\n".join(f"* {wording}" for wording in said)
    ways = [f"{task.text} {' '.join(said)}", f"{task.text}\n\n{' '.join(said)}", f"{' '.join(said)}\n\n{task.text}"]
    if len(said) > 1:
        ways += [f"{task.text}\n\nPlease observe:\n{listed}", f"{listed}\n\nWith this in mind: {task.text}"]
    return rng.choice(ways)


def _known(texts: Sequence[str]) -> set[tuple[str, ...]]:
    """Return the runs of words by which a task is known that stand in one of some texts."""
    wanted = {run for task in (*OPEN, *YES_OR_NO, *LETTERS) for run in _telling(task)}
    lengths = {len(run) for run in wanted}
    split = (_words(text) for text in texts)
    return {run for words in split for length in lengths for run in _runs(words, length) if run in wanted}


def _telling(task: Task) -> list[tuple[str, ...]]:
    """Return the runs of `SHARED_RUN` words of a task; the whole of a shorter one."""
    words = _words(task.text)
    return _runs(words, min(len(words), SHARED_RUN))


def _words(text: str) -> list[str]:
    return normal_form(text).split()


def _runs(words: Sequence[str], length: int) -> list[tuple[str, ...]]:
    return [tuple(words[at : at + length]) for at in range(len(words) - length + 1)]
