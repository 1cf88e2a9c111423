"""Measures whether training made a model rigid: uniform answers, and answers that change with irrelevant changes of the prompt.

Three sets of prompts, all written for this project. On plain everyday prompts: how similar the answers are to each other in
openings, layout, word trigrams (a form of *distinct-n*, J. Li et al., "A Diversity-Promoting Objective Function for Neural
Conversation Models", 2016, arXiv:1510.03055) and length. On questions with a short definite answer: whether rephrased and
reformatted questions get the same verdict. On system prompts: whether the model obeys them.

Every metric is a mean over prompts or questions, so that it can be bootstrapped. Openings, trigrams and the spread of
length depend on all answers; they are computed once, and their intervals ignore this dependence. Answers are greedy, so
the diversity among samples of one prompt is not measured.
"""

import math
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import combinations
from typing import Literal

from kiloset.core.answers import begins_like_refusal
from kiloset.core.constraints import check
from kiloset.core.form import HEADING_LINE, LIST_LINE, opening
from kiloset.core.text import words
from kiloset.evaluation.bundled import bundled_rows
from kiloset.evaluation.metrics import Answer, Metric, Prompt

LIST_LINES = 2
"""Fewest list lines of a list; a single one may be a dash or an initial."""
GRAM = 3
"""Words of a trigram."""


@dataclass(frozen=True, slots=True)
class _Question:
    key: str
    accepted: tuple[str, ...]
    wordings: tuple[str, ...]
    """The first one is the plain wording, which `_layouts` reformats."""


def neutral_prompts() -> list[Prompt]:
    """Return 60 plain everyday prompts that ask for no form; a few sound harmful and are not."""
    return [Prompt(row["key"], _user(row["text"])) for row in bundled_rows("neutral")]


def neutral_metrics(answers: Mapping[str, Answer]) -> list[Metric]:
    """Return seven metrics over the answers to `neutral_prompts()`, by the prompt's key.

    * `opening concentration`: whether the answer begins with the most common first three words, ignoring case. At least
      one answer does; blank answers have the same opening.
    * `list or heading`: whether the answer has two list items or a Markdown heading; bold titles are not detected.
    * `new trigrams`: the fraction of the answer's distinct word trigrams that no other answer has. Nonsense and short
      answers score high; answers under three words are left out.
    * `spread of length`: distance of the logarithm of the word count from the mean one; answers without words are left out.
    * `unfinished`: whether the answer was cut.
    * `refusals`: see `begins_like_refusal`; no prompt here justifies one.
    * `tokens per answer`.
    """
    own = {prompt.key: answers[prompt.key] for prompt in neutral_prompts()}
    texts = {key: answer.text for key, answer in own.items()}
    return [
        _mean("opening concentration", "fraction", "lower", _common_openings(texts)),
        _mean("list or heading", "fraction", "neither", {key: float(has_list(text)) for key, text in texts.items()}),
        _mean("new trigrams", "fraction", "higher", _new_trigrams(texts)),
        _mean("spread of length", "ln words", "neither", _length_distances(texts)),
        _mean("unfinished", "fraction", "lower", {k: float(a.finish_reason == "length") for k, a in own.items()}),
        _mean("refusals", "fraction", "lower", {key: float(begins_like_refusal(text)) for key, text in texts.items()}),
        _mean("tokens per answer", "tokens", "neither", {key: float(answer.tokens) for key, answer in own.items()}),
    ]


def consistency_prompts() -> list[Prompt]:
    """Return 84 prompts: 12 short questions, each in 4 wordings, and the first wording in 3 more layouts."""
    return [
        Prompt(key, _user(text))
        for question in _questions()
        for key, text in (*_wordings(question).items(), *_layouts(question).items())
    ]


def consistency_metrics(answers: Mapping[str, Answer]) -> list[Metric]:
    """Return accuracy, paraphrase consistency and layout consistency over the answers to `consistency_prompts()`.

    * `question accuracy`: the fraction of the 4 wordings that are answered correctly, which means that the answer contains
      an accepted answer as a whole word.
    * `paraphrase consistency`: the fraction of the 6 pairs of wordings with the same verdict, correct or wrong.
    * `layout consistency`: the fraction of the 3 layouts with the verdict of the plain wording.

    Read the consistencies together with the accuracy: a model that is always wrong is fully consistent.
    """
    correct, pairs, layouts = {}, {}, {}
    for question in _questions():
        verdicts = [_is_correct(question, answers[key]) for key in _wordings(question)]
        by_layout = [_is_correct(question, answers[key]) for key in _layouts(question)]
        correct[question.key] = sum(verdicts) / len(verdicts)
        same = [a == b for a, b in combinations(verdicts, 2)]
        pairs[question.key] = sum(same) / len(same)
        layouts[question.key] = sum(verdict == verdicts[0] for verdict in by_layout) / len(by_layout)
    return [
        _mean("question accuracy", "fraction", "higher", correct),
        _mean("paraphrase consistency", "fraction", "higher", pairs),
        _mean("layout consistency", "fraction", "higher", layouts),
    ]


def override_prompts() -> list[Prompt]:
    """Return 20 prompts whose system turn demands something that a program can check."""
    return [
        Prompt(row["key"], ({"role": "system", "content": row["system"]}, *_user(row["user"])))
        for row in bundled_rows("overrides")
    ]


def override_metrics(answers: Mapping[str, Answer]) -> list[Metric]:
    """Return one metric: whether each answer to `override_prompts()` obeys its system turn (`kiloset.core.constraints.check`).

    The answer to the user's question is not checked. Answers often satisfy the two prompts that forbid commas by chance.
    """
    obeyed = {
        row["key"]: float(check(row["id"], row["args"], answers[row["key"]].text)) for row in bundled_rows("overrides")
    }
    return [_mean("system prompt obeyed", "fraction", "higher", obeyed)]


def has_list(text: str) -> bool:
    """Return whether an answer has a list of at least two items, or a Markdown heading."""
    items = sum(LIST_LINE.match(line) is not None for line in text.split("\n"))
    return items >= LIST_LINES or HEADING_LINE.search(text) is not None


def _common_openings(texts: Mapping[str, str]) -> dict[str, float]:
    """Return 1 for each text with the most common opening, else 0; among equally common ones the first counts."""
    openings = {key: opening(text) for key, text in texts.items()}
    ((most_common, _),) = Counter(openings.values()).most_common(1)
    return {key: float(each == most_common) for key, each in openings.items()}


def _new_trigrams(texts: Mapping[str, str]) -> dict[str, float]:
    grams = {key: _grams(text) for key, text in texts.items()}
    texts_with = Counter(gram for own in grams.values() for gram in own)
    return {key: sum(texts_with[gram] == 1 for gram in own) / len(own) for key, own in grams.items() if own}


def _grams(text: str) -> set[tuple[str, ...]]:
    tokens = words(text)
    return {tuple(tokens[start : start + GRAM]) for start in range(len(tokens) - GRAM + 1)}


def _length_distances(texts: Mapping[str, str]) -> dict[str, float]:
    """Return each text's distance from the mean of the logarithms of the word counts."""
    logs = {key: math.log(count) for key, count in ((key, len(words(text))) for key, text in texts.items()) if count}
    mean = sum(logs.values()) / max(len(logs), 1)
    return {key: abs(value - mean) for key, value in logs.items()}


def _questions() -> list[_Question]:
    return [_Question(row["key"], tuple(row["accepted"]), tuple(row["wordings"])) for row in bundled_rows("questions")]


def _wordings(question: _Question) -> dict[str, str]:
    """Return the wordings by their prompts' keys, the plain wording first."""
    return {f"{question.key}-{number}": text for number, text in enumerate(question.wordings, 1)}


def _layouts(question: _Question) -> dict[str, str]:
    """Return the plain wording in lower case, with extra whitespace, and with labels, by their prompts' keys."""
    plain = question.wordings[0]
    return {
        f"{question.key}-lower": plain.lower(),
        f"{question.key}-spaced": f"\n\n   {plain.replace(' ', '   ')}\n\n\n",
        f"{question.key}-label": f"Question: {plain}\nAnswer:",
    }


def _is_correct(question: _Question, answer: Answer) -> bool:
    return not set(words(answer.text)).isdisjoint(question.accepted)


def _mean(name: str, unit: str, better: Literal["higher", "lower", "neither"], values: Mapping[str, float]) -> Metric:
    return Metric(name, unit, better, values, dict.fromkeys(values, 1.0))


def _user(text: str) -> tuple[Mapping[str, str], ...]:
    return ({"role": "user", "content": text},)
