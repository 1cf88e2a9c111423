"""Evaluates one model: every prompt it completes, every metric, and the items behind each metric."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from kiloset.core.errors import ConfigError
from kiloset.core.models import EvaluationScorer, Message, messages_request
from kiloset.core.recorded import RecordedEngine
from kiloset.evaluation import drift, following, forgetting, rigidity
from kiloset.evaluation.held_out import held_out
from kiloset.evaluation.metrics import Answer, Metric, Prompt
from kiloset.evaluation.settings import EvaluationConfig, ProveConfig

ValidationExample = tuple[str, tuple[Message, ...], str]
"""`(id, prompt, response)`."""


@dataclass(frozen=True, slots=True)
class Suite:
    """The prompts that depend on the run; all compared models get the same. The other prompts are bundled."""

    following: dict[str, tuple[following.Item, ...]]
    """Items with constraints by the prefix of their metrics: `following`, and `ifeval` if its file is configured."""
    overlapping: int
    """Held-out items that were left out because a training set contains their task."""
    validation: tuple[ValidationExample, ...]
    """Rows of the curated set that are not trained on."""


@dataclass(frozen=True, slots=True)
class Evaluation:
    """The metrics of one model."""

    metrics: dict[str, Metric]
    """By name."""
    neutral: dict[str, str]
    """The model's answers to the neutral prompts by key; a tuned model's divergence is measured on its base model's."""


def build_suite(config: EvaluationConfig, training: Sequence[str], validation: Sequence[ValidationExample]) -> Suite:
    """Return the suite for models that are trained on the instructions `training`.

    Raises:
        DataError: IFEval's file is missing or has an invalid row.
    """
    items, overlapping = held_out(config.prompts, config.seed, training)
    suites = {"following": tuple(items)}
    if config.ifeval:
        suites["ifeval"] = tuple(following.read_ifeval(config.ifeval))
    return Suite(suites, overlapping, tuple(validation))


def check_target(config: ProveConfig, suite: Suite) -> None:
    """Check that the suite measures the target metric.

    Raises:
        ConfigError: The target needs IFEval's file or validation rows, and the suite has none.
    """
    if config.target.startswith("ifeval") and "ifeval" not in suite.following:
        raise ConfigError(
            "KS518", f'[prove] target "{config.target}" needs IFEval\'s file; name it in [evaluation] ifeval'
        )
    if config.target == "validation loss" and not suite.validation:
        raise ConfigError(
            "KS519", '[prove] target "validation loss" needs validation rows; set [run] validation above 0'
        )


def evaluate_model(
    suite: Suite,
    config: EvaluationConfig,
    engine: RecordedEngine,
    scorer: EvaluationScorer,
    base_neutral: Mapping[str, str] | None,
) -> tuple[Evaluation, list[dict[str, Any]]]:
    """Evaluate a model.

    Args:
        suite: The prompts that depend on the run.
        config: The `[evaluation]` table.
        engine: Completes the prompts greedily; stored completions are not requested again.
        scorer: The same model's likelihoods.
        base_neutral: The base model's answers to the neutral prompts; None to evaluate the base model.

    Returns:
        The metrics, and every answer with its suite, key, messages and, for constraints, the verdicts.
    """
    prompts = _prompts(suite)
    answers = _answers(engine, prompts, config.max_tokens)
    verdicts = {name: following.check_answers(items, answers[name]) for name, items in suite.following.items()}
    metrics: list[Metric] = []
    for name in suite.following:
        metrics += following.metrics(name, verdicts[name]) + following.by_type(name, verdicts[name])
    choices, passages = forgetting.choices(), drift.passages()
    metrics += forgetting.written_metrics(forgetting.written_tasks(), answers["written"])
    metrics += forgetting.choice_metrics(choices, _choice_scores(scorer, choices))
    metrics += rigidity.neutral_metrics(answers["neutral"])
    metrics += rigidity.consistency_metrics(answers["consistency"])
    metrics += rigidity.override_metrics(answers["override"])
    text_scores = scorer.text_logprobs([text for _, text in passages])
    metrics += drift.nll_metrics({passages[at][0]: (nats, tokens) for at, nats, tokens in text_scores})
    metrics.append(drift.kl_metric(_divergence(scorer, base_neutral)))
    if suite.validation:
        metrics.append(_validation_loss(scorer, suite.validation))
    neutral = {key: answer.text for key, answer in answers["neutral"].items()}
    evaluation = Evaluation({metric.name: metric for metric in metrics}, neutral)
    return evaluation, _answer_records(prompts, answers, verdicts)


def _prompts(suite: Suite) -> dict[str, list[Prompt]]:
    return {
        **{name: following.prompts(items) for name, items in suite.following.items()},
        "written": forgetting.prompts(forgetting.written_tasks()),
        "neutral": rigidity.neutral_prompts(),
        "consistency": rigidity.consistency_prompts(),
        "override": rigidity.override_prompts(),
    }


def _answers(
    engine: RecordedEngine, prompts: Mapping[str, Sequence[Prompt]], max_tokens: int
) -> dict[str, dict[str, Answer]]:
    flat = [(name, prompt) for name, part in prompts.items() for prompt in part]
    requests = [
        messages_request(engine, prompt.messages, name, max_tokens=max_tokens, temperature=0.0, top_p=1.0)
        for name, prompt in flat
    ]
    answers: dict[str, dict[str, Answer]] = {name: {} for name in prompts}
    for (name, prompt), completion in zip(flat, engine.complete(requests, "answers"), strict=True):
        answers[name][prompt.key] = Answer(completion.text, completion.finish_reason, completion.completion_tokens)
    return answers


def _answer_records(
    prompts: Mapping[str, Sequence[Prompt]],
    answers: Mapping[str, Mapping[str, Answer]],
    verdicts: Mapping[str, Mapping[str, Sequence[following.Verdict]]],
) -> list[dict[str, Any]]:
    records = []
    for suite, part in prompts.items():
        for prompt in part:
            messages = [dict(message) for message in prompt.messages]
            record = {"suite": suite, "key": prompt.key, "messages": messages, **asdict(answers[suite][prompt.key])}
            if suite in verdicts:
                record["constraints"] = [list(verdict) for verdict in verdicts[suite][prompt.key]]
            records.append(record)
    return records


def _choice_scores(scorer: EvaluationScorer, choices: Sequence[forgetting.Choice]) -> dict[tuple[str, int], float]:
    flat = [(choice, number, option) for choice in choices for number, option in enumerate(choice.options)]
    scores = scorer.logprobs([choice.messages for choice, *_ in flat], [option for *_, option in flat])
    return {(flat[at][0].key, flat[at][1]): nats / tokens for at, nats, tokens in scores}


def _divergence(scorer: EvaluationScorer, base_neutral: Mapping[str, str] | None) -> dict[str, tuple[float, int]]:
    messages = {prompt.key: prompt.messages for prompt in rigidity.neutral_prompts()}
    if base_neutral is None:
        return dict.fromkeys(messages, (0.0, 1))
    keys = [key for key in messages if base_neutral[key].strip()]  # a blank answer has no token to compare
    scores = scorer.divergence([messages[key] for key in keys], [base_neutral[key] for key in keys])
    return {keys[at]: (nats, tokens) for at, nats, tokens in scores}


def _validation_loss(scorer: EvaluationScorer, rows: Sequence[ValidationExample]) -> Metric:
    """Return the loss on the validation rows; rows that are too long for the scorer are left out."""
    scores = scorer.logprobs([prompt for _, prompt, _ in rows], [response for *_, response in rows])
    known = {rows[at][0]: (nats, tokens) for at, nats, tokens in scores if not math.isnan(nats)}
    return Metric(
        "validation loss", "nats per token", "lower",
        {id: -nats for id, (nats, _) in known.items()}, {id: tokens for id, (_, tokens) in known.items()},
    )  # fmt: skip
