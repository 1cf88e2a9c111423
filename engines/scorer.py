"""Log-probabilities of responses under the base model, with transformers."""

import math
from collections.abc import Sequence
from typing import Any

from core.errors import ModelError
from core.logits import check_logits, logits_at
from core.models import Message, tokenize_example


class TransformersScorer:
    """A `Scorer`: one forward pass a response, logits at response positions only."""

    def __init__(self, path: str, identity: str, max_tokens: int) -> None:
        """Name the model; it is loaded with the first response.

        Args:
            path: A local folder or hub id; safetensors only.
            identity: Name and revision, part of every score's key.
            max_tokens: Longest prompt and response together.
        """
        self.identity, self._path, self._max_tokens = identity, path, max_tokens
        self._loaded: tuple[Any, Any] | None = None

    def logprobs(self, prompts: Sequence[Sequence[Message]], responses: Sequence[str]) -> list[tuple[float, int]]:
        r"""Return :math:`(\sum_t \ln p(y_t \mid x, y_{<t}), T)` in nats over the T tokens of response and end token.

        Rows are padded on the right to the longest of the call; attention is causal, so padding changes nothing but the
        last digits (below 1e-4 nats per token).

        Raises:
            ModelError: A prompt and response are longer than `max_tokens`.
        """
        import torch

        model, tokenizer = self._model()
        examples = [tokenize_example(tokenizer, p, r) for p, r in zip(prompts, responses, strict=True)]
        if too_long := [len(p) + len(r) for p, r in examples if len(p) + len(r) > self._max_tokens]:
            raise ModelError(
                f"a response to score has {max(too_long)} tokens with its prompt, more than {self._max_tokens}"
            )
        results: list[tuple[float, int]] = [(0.0, 0)] * len(examples)
        by_length = sorted(range(len(examples)), key=lambda i: len(examples[i][0]) + len(examples[i][1]))
        for start in range(0, len(by_length), 8):
            part = by_length[start : start + 8]
            with torch.inference_mode():
                for i, nats in zip(part, _score_batch(model, [examples[i] for i in part]), strict=True):
                    results[i] = (nats, len(examples[i][1]))
        return results

    def close(self) -> None:
        """Free the model."""
        self._loaded = None

    def _model(self) -> tuple[Any, Any]:
        if self._loaded is None:
            import torch
            from transformers import AutoModelForCausalLM, AutoTokenizer

            cuda = torch.cuda.is_available()
            model = AutoModelForCausalLM.from_pretrained(
                self._path,
                dtype=torch.bfloat16 if cuda else torch.float32,
                use_safetensors=True,
                device_map="cuda" if cuda else None,
            )
            tokenizer = AutoTokenizer.from_pretrained(self._path)
            probe = tokenize_example(tokenizer, [{"role": "user", "content": "Say yes."}], "Yes.")
            check_logits(model.eval(), *_padded([probe], model.device))
            self._loaded = (model, tokenizer)
        return self._loaded


def _score_batch(model: Any, examples: Sequence[tuple[list[int], list[int]]]) -> list[float]:
    """Return the sum of log-probabilities of each `(prompt ids, response ids)`."""
    ids, mask, is_response = _padded(examples, model.device)
    logits = logits_at(model, ids, mask, is_response)  # (response tokens of all rows, vocabulary)
    found = logits.log_softmax(-1).gather(1, ids[is_response][:, None])[:, 0]
    values: list[float] = found.tolist()
    sums, start = [], 0
    for _, response in examples:
        sums.append(math.fsum(values[start : start + len(response)]))
        start += len(response)
    return sums


def _padded(examples: Sequence[tuple[list[int], list[int]]], device: Any) -> tuple[Any, Any, Any]:
    """Return ids, attention mask and response mask, each (rows, tokens)."""
    import torch

    longest = max(len(prompt) + len(response) for prompt, response in examples)
    ids = torch.zeros(len(examples), longest, dtype=torch.long)
    mask = torch.zeros_like(ids)
    is_response = torch.zeros(len(examples), longest, dtype=torch.bool)
    for row, (prompt, response) in enumerate(examples):
        end = len(prompt) + len(response)
        ids[row, :end] = torch.tensor(prompt + response)
        mask[row, :end] = 1
        is_response[row, len(prompt) : end] = True
    return ids.to(device), mask.to(device), is_response.to(device)
