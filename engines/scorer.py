"""Log-probabilities of responses under the base model, with transformers."""

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from core.loading import load_model, load_tokenizer
from core.logits import check_logits, logits_at, padded
from core.models import Message, tokenize_example


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

        Each row is a pass of its own, so that its last digits do not depend on the others. A row longer than `max_tokens`
        gets nan.
        """
        model, tokenizer = self._model()
        return [
            self._score(model, *tokenize_example(tokenizer, prompt, response))
            for prompt, response in zip(prompts, responses, strict=True)
        ]

    def _score(self, model: Any, prompt: list[int], response: list[int]) -> tuple[float, int]:
        import torch

        if len(prompt) + len(response) > self._max_tokens:
            return math.nan, len(response)
        with torch.inference_mode():
            ids, mask, is_response = padded([(prompt, response)], model.device)
            logits = logits_at(model, ids, mask, is_response)  # (response tokens, vocabulary)
            found = logits.log_softmax(-1).gather(1, ids[is_response][:, None])[:, 0]
        return math.fsum(found.tolist()), len(response)

    def _model(self) -> tuple[Any, Any]:
        if self._loaded is None:
            tokenizer, model = load_tokenizer(Path(self._path)), load_model(Path(self._path)).eval()
            probe = tokenize_example(tokenizer, [{"role": "user", "content": "Say yes."}], "Yes.")
            check_logits(model, *padded([probe], model.device))
            self._loaded = (model, tokenizer)
        return self._loaded
