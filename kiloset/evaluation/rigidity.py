"""Whether a model answers everything in one mould, and whether it holds on to what it knows when it is asked otherwise.

Over plain everyday prompts: how alike the answers are to each other, in their beginnings, their layout, their word
trigrams (a form of *distinct-n*, J. Li et al., "A Diversity-Promoting Objective Function for Neural Conversation Models",
2016, arXiv:1510.03055) and their length. Over questions with a short definite answer: whether other wordings and other
layouts get the same verdict. Over system prompts: whether they are obeyed.

Every figure is a mean over prompts or questions, so that it can be bootstrapped. Where the value of one answer depends
on the others (beginnings, trigrams, spread of length), it is computed once over all of them; the interval does not
know that. All prompts are this project's own; answers are greedy, so diversity among samples of one prompt is not seen.
"""

import json
import math
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path
from typing import Any, Literal

from kiloset.core.constraints import check
from kiloset.core.form import HEADING_LINE, LIST_LINE, opening
from kiloset.core.text import words
from kiloset.evaluation.metrics import Answer, Metric, Prompt

DATA = Path(__file__).parent / "data"
LIST_LINES = 2
"""Least lines that begin like list items for an answer to hold a list: one may be a dash or an initial."""
GRAM = 3
"""Words of a gram."""
REFUSAL = re.compile(
    r"""(?:
        (?:i['’]m|i\ am)\ (?:really\ |very\ |so\ )?sorry,?\ but
        | (?:sorry|unfortunately|i\ apologi[sz]e),?\ (?:but\ )?i(?:\ cannot|\ can\ ?not|\ can['’]t|\ am\ (?:unable|not\ able)|['’]m\ (?:unable|not\ able))
        | as\ an?\ (?:ai|artificial\ intelligence|(?:large\ )?language\ model)\b
        | i(?:['’]m|\ am)\ (?:just\ |only\ )?an?\ (?:ai|artificial\ intelligence|(?:large\ )?language\ model)\b
        | i(?:['’]m|\ am)\ (?:unable|not\ able)\ to
        | i\ (?:cannot|can\ not|can['’]t|won['’]t|will\ not)\ (?:help|assist|provide|answer|do|give|fulfil|comply|discuss|support)
        | i\ (?:do\ not|don['’]t)\ (?:have\ (?:personal|the\ ability|feelings|access)|feel\ comfortable)
    )""",
    re.IGNORECASE | re.VERBOSE,
)
"""What a refusal begins with."""
MARKS_BEFORE = "\"'“”‘*_#> \t\r\n"
"""Quotes and marks that may stand before the first word."""


@dataclass(frozen=True, slots=True)
class _Question:
    key: str
    accepted: tuple[str, ...]
    wordings: tuple[str, ...]
    """The first is the plain one, of which `_layouts` are made."""


def neutral() -> list[Prompt]:
    """Return 60 plain prompts of everyday use, which ask for no form; a few sound harmful and are not."""
    return [Prompt(row["key"], _turns(row["text"])) for row in _rows("neutral.jsonl")]


def neutral_metrics(answers: Mapping[str, Answer]) -> list[Metric]:
    """Return seven figures over the answers to `neutral()`, by the prompt's key.

    `opening concentration`: whether the answer begins with the three words that most answers begin with, in any case; at
    least one answer does, and blank ones begin alike. `list or heading`: whether it holds two list items or a Markdown heading; bold titles are not
    seen. `new trigrams`: the fraction of its distinct word trigrams that no other answer holds; nonsense scores high,
    and so do short answers, and one under three words is left out. `spread of length`: how far the logarithm of its
    words is from the mean one; an answer without words is left out. `unfinished`: whether it was cut. `refusals`: see
    `is_refusal`; no prompt here is a reason for one. `tokens per answer`.
    """
    said = {prompt.key: answers[prompt.key] for prompt in neutral()}
    texts = {key: answer.text for key, answer in said.items()}
    return [
        _mean("opening concentration", "fraction", "lower", _commonest_opening(texts)),
        _mean("list or heading", "fraction", "neither", {key: float(has_list(text)) for key, text in texts.items()}),
        _mean("new trigrams", "fraction", "higher", _new_trigrams(texts)),
        _mean("spread of length", "ln words", "neither", _distances(texts)),
        _mean("unfinished", "fraction", "lower", {k: float(a.finish_reason == "length") for k, a in said.items()}),
        _mean("refusals", "fraction", "lower", {key: float(is_refusal(text)) for key, text in texts.items()}),
        _mean("tokens per answer", "tokens", "neither", {key: float(answer.tokens) for key, answer in said.items()}),
    ]


def consistency() -> list[Prompt]:
    """Return 12 short questions, each in 4 wordings and the first of these in 3 more layouts; 84 prompts."""
    return [
        Prompt(key, _turns(text))
        for question in _questions()
        for key, text in (*_wordings(question).items(), *_layouts(question).items())
    ]


def consistency_metrics(answers: Mapping[str, Answer]) -> list[Metric]:
    """Return accuracy, paraphrase consistency and layout consistency over the answers to `consistency()`.

    By question. `question accuracy`: the fraction of the 4 wordings that are answered right: an accepted answer stands in
    it as a whole word, whatever else it says. `paraphrase consistency`: the fraction of the 6 pairs of wordings with the
    same verdict, both right or both wrong. `layout consistency`: the fraction of the 3 layouts with the verdict of the
    plain wording. A model that is always wrong is wholly consistent, so neither says anything without the accuracy.
    """
    right, pairs, layouts = {}, {}, {}
    for question in _questions():
        verdicts = [_is_right(question, answers[key]) for key in _wordings(question)]
        moved = [_is_right(question, answers[key]) for key in _layouts(question)]
        right[question.key] = sum(verdicts) / len(verdicts)
        same = [a == b for a, b in combinations(verdicts, 2)]
        pairs[question.key] = sum(same) / len(same)
        layouts[question.key] = sum(verdict == verdicts[0] for verdict in moved) / len(moved)
    return [
        _mean("question accuracy", "fraction", "higher", right),
        _mean("paraphrase consistency", "fraction", "higher", pairs),
        _mean("layout consistency", "fraction", "higher", layouts),
    ]


def override() -> list[Prompt]:
    """Return 20 prompts whose system turn asks for something that a program can verify."""
    return [
        Prompt(row["key"], ({"role": "system", "content": row["system"]}, *_turns(row["user"])))
        for row in _rows("overrides.jsonl")
    ]


def override_metrics(answers: Mapping[str, Answer]) -> list[Metric]:
    """Return one figure: whether each answer to `override()` obeys its system turn, as `kiloset.core.constraints.check` reads it.

    What the user asks for is not judged, and the two prompts that forbid commas are often obeyed by accident.
    """
    obeyed = {
        row["key"]: float(check(row["id"], row["args"], answers[row["key"]].text)) for row in _rows("overrides.jsonl")
    }
    return [_mean("system prompt obeyed", "fraction", "higher", obeyed)]


def is_refusal(text: str) -> bool:
    """Tell whether an answer begins like a refusal.

    It cannot see a refusal that comes later or in other words, one in another language, or an answer that evades; and it
    takes one that apologises and then helps for a refusal.
    """
    return REFUSAL.match(" ".join(text.lstrip(MARKS_BEFORE).split())) is not None


def has_list(text: str) -> bool:
    """Tell whether an answer holds a list of two items or more, or a Markdown heading."""
    items = sum(LIST_LINE.match(line) is not None for line in text.split("\n"))
    return items >= LIST_LINES or HEADING_LINE.search(text) is not None


def _commonest_opening(texts: Mapping[str, str]) -> dict[str, float]:
    """Return 1 for each text with the commonest opening, else 0; of several, with the one that comes first."""
    openings = {key: opening(text) for key, text in texts.items()}
    ((commonest, _),) = Counter(openings.values()).most_common(1)
    return {key: float(each == commonest) for key, each in openings.items()}


def _new_trigrams(texts: Mapping[str, str]) -> dict[str, float]:
    grams = {key: _grams(text) for key, text in texts.items()}
    holders = Counter(gram for own in grams.values() for gram in own)
    return {key: sum(holders[gram] == 1 for gram in own) / len(own) for key, own in grams.items() if own}


def _grams(text: str) -> set[tuple[str, ...]]:
    tokens = words(text)
    return {tuple(tokens[at : at + GRAM]) for at in range(len(tokens) - GRAM + 1)}


def _distances(texts: Mapping[str, str]) -> dict[str, float]:
    """Return each text's distance from the mean of the logarithms of the word counts."""
    logs = {key: math.log(count) for key, count in ((key, len(words(text))) for key, text in texts.items()) if count}
    mean = sum(logs.values()) / max(len(logs), 1)
    return {key: abs(value - mean) for key, value in logs.items()}


def _questions() -> list[_Question]:
    return [_Question(row["key"], tuple(row["accepted"]), tuple(row["wordings"])) for row in _rows("questions.jsonl")]


def _wordings(question: _Question) -> dict[str, str]:
    """Return the wordings by their prompts' keys, the plain one first."""
    return {f"{question.key}-{number}": text for number, text in enumerate(question.wordings, 1)}


def _layouts(question: _Question) -> dict[str, str]:
    """Return the plain wording in other layouts, by their prompts' keys.

    In small letters; with empty lines around and three spaces between words; with a label where the answer should begin.
    """
    plain = question.wordings[0]
    return {
        f"{question.key}-lower": plain.lower(),
        f"{question.key}-spaced": f"\n\n   {plain.replace(' ', '   ')}\n\n\n",
        f"{question.key}-label": f"Question: {plain}\nAnswer:",
    }


def _is_right(question: _Question, answer: Answer) -> bool:
    return not set(words(answer.text)).isdisjoint(question.accepted)


def _mean(name: str, unit: str, better: Literal["higher", "lower", "neither"], values: Mapping[str, float]) -> Metric:
    return Metric(name, unit, better, values, dict.fromkeys(values, 1.0))


def _turns(text: str) -> tuple[Mapping[str, str], ...]:
    return ({"role": "user", "content": text},)


def _rows(name: str) -> Sequence[Mapping[str, Any]]:
    return [json.loads(line) for line in (DATA / name).read_text(encoding="utf-8").split("\n")[:-1]]
