"""Log-probabilities of responses under the base model, with transformers."""

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from core.loading import load_model, load_tokenizer
from core.logits import check_logits, logits_at, padded
from core.models import Message, tokenize_example

ROWS = 8
"""Rows in one forward pass."""


class TransformersScorer:
    """A `Scorer`: one forward pass a response, logits at response positions only."""

    def __init__(self, path: str, identity: str, max_tokens: int) -> None:
        """Name the model; it is loaded with the first response.

        Args:
            path: A local folder; safetensors only.
            identity: Name and revision, part of every score's key.
            max_tokens: Longest prompt and response together.
        """
        self.identity, self._path, self._max_tokens = identity, path, max_tokens
        self._loaded: tuple[Any, Any] | None = None

    def logprobs(self, prompts: Sequence[Sequence[Message]], responses: Sequence[str]) -> list[tuple[float, int]]:
        r"""Return :math:`(\sum_t \ln p(y_t \mid x, y_{<t}), T)` in nats over the T tokens of response and end token.

        Rows are padded on the right to the longest of the call; attention is causal, so padding changes nothing but the
        last digits (below 1e-4 nats per token).

        A row longer than `max_tokens` gets nan.
        """
        import torch

        model, tokenizer = self._model()
        examples = [tokenize_example(tokenizer, p, r) for p, r in zip(prompts, responses, strict=True)]
        lengths = [len(prompt) + len(response) for prompt, response in examples]
        results = [(math.nan, len(response)) for _, response in examples]
        by_length = sorted((i for i, n in enumerate(lengths) if n <= self._max_tokens), key=lengths.__getitem__)
        for start in range(0, len(by_length), ROWS):
            part = by_length[start : start + ROWS]
            with torch.inference_mode():
                for i, nats in zip(part, _score_batch(model, [examples[i] for i in part]), strict=True):
                    results[i] = (nats, len(examples[i][1]))
        return results

    def _model(self) -> tuple[Any, Any]:
        if self._loaded is None:
            tokenizer, model = load_tokenizer(Path(self._path)), load_model(Path(self._path)).eval()
            probe = tokenize_example(tokenizer, [{"role": "user", "content": "Say yes."}], "Yes.")
            check_logits(model, *padded([probe], model.device))
            self._loaded = (model, tokenizer)
        return self._loaded


def _score_batch(model: Any, examples: Sequence[tuple[list[int], list[int]]]) -> list[float]:
    """Return the sum of log-probabilities of each `(prompt ids, response ids)`."""
    ids, mask, is_response = padded(examples, model.device)
    logits = logits_at(model, ids, mask, is_response)  # (response tokens of all rows, vocabulary)
    found = logits.log_softmax(-1).gather(1, ids[is_response][:, None])[:, 0]
    values: list[float] = found.tolist()
    sums, start = [], 0
    for _, response in examples:
        sums.append(math.fsum(values[start : start + len(response)]))
        start += len(response)
    return sums
