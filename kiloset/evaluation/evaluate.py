"""Judge one model: what it is asked, what is computed, and every figure with the items it is the mean of."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from kiloset.core.models import Judge, Message, messages_request
from kiloset.core.recorded import RecordedEngine
from kiloset.evaluation import drift, following, forgetting, rigidity
from kiloset.evaluation.held_out import held_out
from kiloset.evaluation.ifeval import Item, read_ifeval
from kiloset.evaluation.metrics import Answer, Metric, Prompt
from kiloset.evaluation.settings import EvaluationConfig

TARGETS = ("following strict prompt", "following strict instruction", "validation loss")


@dataclass(frozen=True, slots=True)
class Suites:
    """All that models are asked; the same for each that is compared."""

    following: dict[str, tuple[Item, ...]]
    """Items with constraints by the name of their metrics: `following`, and `ifeval` where there is its file."""
    overlapping: int
    """Held-out items left out for being in the training set."""
    validation: tuple[tuple[str, tuple[Message, ...], str], ...]
    """`(id, prompt, response)` of the rows held out of the set."""


@dataclass(frozen=True, slots=True)
class Judgement:
    """What was found about a model."""

    metrics: tuple[Metric, ...]
    answers: tuple[dict[str, Any], ...]
    """Each answer with its suite, key, prompt and, for constraints, what was kept."""
    neutral: dict[str, str]
    """Its answers to the neutral prompts, on which the divergence of tuned models is taken."""


def suites(
    config: EvaluationConfig, taught: Sequence[str], validation: Sequence[tuple[str, tuple[Message, ...], str]]
) -> Suites:
    """Return what models are asked; `taught` are the instructions of every training set that is compared.

    Raises:
        DataError: IFEval's file is missing or a line of it is wrong.
    """
    own, overlapping = held_out(config.prompts, config.seed, taught)
    asked = {"following": tuple(own)}
    if config.ifeval:
        from pathlib import Path

        asked["ifeval"] = tuple(read_ifeval(Path(config.ifeval)))
    return Suites(asked, overlapping, tuple(validation))


def judge(
    asked: Suites,
    config: EvaluationConfig,
    engine: RecordedEngine,
    scorer: Judge,
    base_neutral: Mapping[str, str] | None,
) -> Judgement:
    """Ask a model everything and judge it.

    Args:
        asked: What is asked.
        config: The `[evaluation]` table.
        engine: Writes the answers, greedily; what is stored is not asked again.
        scorer: The same model's likelihoods.
        base_neutral: The base model's answers to the neutral prompts, None for the base model itself.
    """
    prompts = _prompts(asked)
    answers = _answers(engine, prompts, config.max_tokens)
    metrics: list[Metric] = []
    said: list[dict[str, Any]] = []
    for suite, items in asked.following.items():
        metrics += following.metrics(suite, items, answers[suite])
        metrics += following.by_type(suite, items, answers[suite])
    tasks, choices = forgetting.written(), forgetting.choices()
    metrics += forgetting.written_metrics(tasks, answers["written"])
    metrics += forgetting.choice_metrics(choices, _choice_scores(scorer, choices))
    metrics += rigidity.neutral_metrics(answers["neutral"])
    metrics += rigidity.consistency_metrics(answers["consistency"])
    metrics += rigidity.override_metrics(answers["override"])
    texts = drift.texts()
    found = {texts[at][0]: (nats, tokens) for at, nats, tokens in scorer.text_logprobs([text for _, text in texts])}
    metrics += drift.nll_metrics(found)
    neutral = {key: answer.text for key, answer in answers["neutral"].items()}
    metrics.append(drift.kl_metric(_divergence(scorer, base_neutral)))
    if asked.validation:
        metrics.append(_validation(scorer, asked.validation))
    verdicts = {suite: following.judged(items, answers[suite]) for suite, items in asked.following.items()}
    for suite, part in prompts.items():
        for prompt in part:
            kept = verdicts.get(suite, {}).get(prompt.key)
            entry = {"suite": suite, "key": prompt.key, "messages": [dict(message) for message in prompt.messages]}
            entry |= asdict(answers[suite][prompt.key])
            said.append(entry if kept is None else {**entry, "constraints": [list(one) for one in kept]})
    return Judgement(tuple(metrics), tuple(said), neutral)


def _prompts(asked: Suites) -> dict[str, list[Prompt]]:
    return {
        **{suite: following.prompts(items) for suite, items in asked.following.items()},
        "written": forgetting.prompts(forgetting.written()),
        "neutral": rigidity.neutral(),
        "consistency": rigidity.consistency(),
        "override": rigidity.override(),
    }


def _answers(
    engine: RecordedEngine, prompts: Mapping[str, Sequence[Prompt]], max_tokens: int
) -> dict[str, dict[str, Answer]]:
    flat = [(suite, prompt) for suite, part in prompts.items() for prompt in part]
    requests = [
        messages_request(engine, prompt.messages, suite, max_tokens=max_tokens, temperature=0.0, top_p=1.0)
        for suite, prompt in flat
    ]
    found: dict[str, dict[str, Answer]] = {suite: {} for suite in prompts}
    for (suite, prompt), completion in zip(flat, engine.complete(requests, "answers"), strict=True):
        found[suite][prompt.key] = Answer(completion.text, completion.finish_reason, completion.completion_tokens)
    return found


def _choice_scores(scorer: Judge, choices: Sequence[forgetting.Choice]) -> dict[tuple[str, int], float]:
    flat = [(choice, number, option) for choice in choices for number, option in enumerate(choice.options)]
    found = scorer.logprobs([choice.messages for choice, *_ in flat], [option for *_, option in flat])
    return {(flat[at][0].key, flat[at][1]): nats / tokens for at, nats, tokens in found}


def _divergence(scorer: Judge, base_neutral: Mapping[str, str] | None) -> dict[str, tuple[float, int]]:
    asked = {prompt.key: prompt.messages for prompt in rigidity.neutral()}
    if base_neutral is None:
        return dict.fromkeys(asked, (0.0, 1))
    keys = [key for key in asked if base_neutral[key].strip()]
    found = scorer.divergence([asked[key] for key in keys], [base_neutral[key] for key in keys])
    return {keys[at]: (nats, tokens) for at, nats, tokens in found}


def _validation(scorer: Judge, rows: Sequence[tuple[str, tuple[Message, ...], str]]) -> Metric:
    """Return the loss on the rows held out of the curated set, answers of its own kind."""
    scored = scorer.logprobs([prompt for _, prompt, _ in rows], [response for *_, response in rows])
    found = {rows[at][0]: (nats, tokens) for at, nats, tokens in scored if nats == nats}  # nan: too long  # noqa: PLR0124
    return Metric(
        "validation loss", "nats per token", "lower",
        {id: -nats for id, (nats, _) in found.items()}, {id: tokens for id, (_, tokens) in found.items()},
    )  # fmt: skip
