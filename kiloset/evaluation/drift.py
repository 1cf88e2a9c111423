"""Measures how far training moved a model's distribution: loss on general text and code, and divergence from the base model.

The loss on text unrelated to the training set shows damage that no task reveals. Divergence from the base model predicts
forgetting (I. Shenfeld, J. Pari and P. Agrawal, "RL's Razor: Why Online Reinforcement Learning Forgets Less", 2025,
arXiv:2509.04259). The paper measures it on the trained task; we measure it on the neutral prompts of every evaluation.

`data/passages.jsonl` holds the passages and their sources: public-domain prose and verse of 1625 to 1865, which a model has
probably seen, and prose and code written for this project. Only differences between two models are meaningful.
"""

import math
from collections.abc import Mapping

from kiloset.evaluation.bundled import bundled_rows
from kiloset.evaluation.metrics import Metric


def passages() -> list[tuple[str, str]]:
    """Return `(key, text)` of the 24 passages in a fixed order; the keys of code begin with "code_"."""
    return [(row["key"], row["text"]) for row in bundled_rows("passages")]


def nll_metrics(scores: Mapping[str, tuple[float, float]]) -> list[Metric]:
    """Return the loss per token on prose and on code.

    Args:
        scores: By the passage's key, its log-probability in nats and its tokens; a passage with nan is left out.
    """
    nll = {key: (-nats, tokens) for key, (nats, tokens) in scores.items()}
    code = {key for key in nll if key.startswith("code_")}
    return [
        _per_token("NLL of prose", {key: score for key, score in nll.items() if key not in code}),
        _per_token("NLL of code", {key: score for key, score in nll.items() if key in code}),
    ]


def kl_metric(scores: Mapping[str, tuple[float, float]]) -> Metric:
    """Return the divergence from the base model per token.

    Args:
        scores: By the prompt's key, the divergence summed over the answer's tokens in nats, and the tokens; an answer with
            nan is left out.
    """
    return _per_token("KL to base", scores)


def _per_token(name: str, scores: Mapping[str, tuple[float, float]]) -> Metric:
    known = {key: score for key, score in scores.items() if not math.isnan(score[0])}
    sums = {key: float(nats) for key, (nats, _) in known.items()}
    return Metric(name, "nats per token", "lower", sums, {key: float(tokens) for key, (_, tokens) in known.items()})
