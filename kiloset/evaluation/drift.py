"""How far training moved a model's distribution: its loss on general text and code, and its divergence from its base.

Loss on text that has nothing to do with the training set tells what was lost beside the tasks that are asked about.
Divergence from the base was found to predict forgetting (I. Shenfeld, J. Pari and P. Agrawal, "RL's Razor: Why Online
Reinforcement Learning Forgets Less", 2025, arXiv:2509.04259); they take it on the task trained for, we on the neutral
prompts that every model is asked.

The passages lie in `data/passages.jsonl` with their sources: public-domain prose and verse of 1625 to 1865, which a
model has probably read, and prose and code of this project's own, which it has not. Only differences between two
models mean something.
"""

import json
import math
from collections.abc import Mapping
from pathlib import Path

from kiloset.evaluation.metrics import Metric

DATA = Path(__file__).parent / "data"


def texts() -> list[tuple[str, str]]:
    """Return `(key, text)` of the 24 passages in a fixed order; keys of code begin with "code_"."""
    rows = map(json.loads, (DATA / "passages.jsonl").read_text(encoding="utf-8").split("\n")[:-1])
    return [(row["key"], row["text"]) for row in rows]


def nll_metrics(scores: Mapping[str, tuple[float, float]]) -> list[Metric]:
    """Return the loss per token over prose and over code.

    Args:
        scores: By the passage's key its log-probability in nats, which is at most 0, and its tokens; a passage with nan
            nats is left out.
    """
    nll = {key: (-nats, tokens) for key, (nats, tokens) in scores.items()}
    code = {key for key in nll if key.startswith("code_")}
    return [
        _per_token("NLL of prose", {key: score for key, score in nll.items() if key not in code}),
        _per_token("NLL of code", {key: score for key, score in nll.items() if key in code}),
    ]


def kl_metric(scores: Mapping[str, tuple[float, float]]) -> Metric:
    """Return the divergence from the base per token.

    Args:
        scores: By the prompt's key the sum over the answer's tokens of the divergence in nats, and the tokens; an answer
            with nan nats is left out.
    """
    return _per_token("KL to base", scores)


def _per_token(name: str, scores: Mapping[str, tuple[float, float]]) -> Metric:
    known = {key: score for key, score in scores.items() if not math.isnan(score[0])}
    sums = {key: float(nats) for key, (nats, _) in known.items()}
    return Metric(name, "nats per token", "lower", sums, {key: float(tokens) for key, (_, tokens) in known.items()})
