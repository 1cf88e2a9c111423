"""Log-probabilities of responses under a model, with transformers.

A score does not depend on the batch it was computed in, so that a resumed run, another stage or a larger run gets the same
digits. For this, every forward pass has one of a few fixed shapes: examples of one length class, padded on the right to the
same length, with a fixed number of rows; the last batch is filled up with padding. A matrix product of one shape computes
each row in the same way whatever the other rows contain. No token attends to padding on its right, so no mask is needed.
Logits are computed for response positions only, a fixed number at a time, so that memory does not grow with the batch.
"""

import math
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kiloset.core.loading import load_adapter, load_model, load_tokenizer
from kiloset.core.logits import check_logits, logits_of, padded, states_at
from kiloset.core.models import Message, tokenize_example

if TYPE_CHECKING:
    import torch

CPU_TOKENS, CUDA_TOKENS = 128, 16_384
"""Tokens in a batch. Larger batches are not faster on a CPU (tokens/s per core: 126 with 32, 177 with 128, 173 with 512)."""
CLASSES = 8
"""Length classes in each octave: padding is at most an eighth of an example, on average a sixteenth."""
SHORTEST = 16
"""Length of the shortest class, in tokens."""
POSITIONS = 128
"""Positions whose logits are computed at a time: 25 MB of float32 for a vocabulary of 49,152, 78 MB for 152,064."""


class TransformersScorer:
    """An `EvaluationScorer` that loads its model at the first call."""

    def __init__(
        self, path: str, identity: str, max_tokens: int, adapter: Path | None = None,
        before_load: Callable[[], None] = lambda: None,
    ) -> None:  # fmt: skip
        """Keep the settings; nothing is loaded yet.

        Args:
            path: A local folder; safetensors only.
            identity: Name and revision, part of every score's cache key.
            max_tokens: Longest prompt and response together.
            adapter: Folder of an adapter in PEFT's format to score with.
            before_load: Called before the model is loaded, to free the memory of other models.
        """
        self.identity, self._path, self._max_tokens, self._adapter = identity, path, max_tokens, adapter
        self._before_load = before_load
        self._loaded: tuple[Any, Any] | None = None

    def logprobs(
        self, prompts: Sequence[Sequence[Message]], responses: Sequence[str]
    ) -> Iterator[tuple[int, float, int]]:
        r"""Yield :math:`(i, \sum_t \ln p(y_t \mid x, y_{<t}), T)` for each response i when its batch is finished.

        In nats, over the T tokens of the response and its end token. The longest responses come first, so that a lack of
        memory shows at once. A row longer than `max_tokens` gets nan.
        """
        model, tokenizer = self._model()
        yield from self._each(self._examples(tokenizer, prompts, responses), lambda *batch: score_batch(model, *batch))

    def text_logprobs(self, texts: Sequence[str]) -> Iterator[tuple[int, float, int]]:
        """Yield the same for plain texts, from their second token on and without an end token."""
        model, tokenizer = self._model()
        ids = [list(tokenizer.encode(text)) for text in texts]
        yield from self._each([(one[:1], one[1:]) for one in ids], lambda *batch: score_batch(model, *batch))

    def divergence(
        self, prompts: Sequence[Sequence[Message]], responses: Sequence[str]
    ) -> Iterator[tuple[int, float, int]]:
        r"""Yield :math:`(i, \sum_t KL(p_{base} \| p_{tuned})(\cdot \mid x, y_{<t}), T)` for each response i, in nats.

        Over the whole vocabulary; the base is this model without its adapter.
        """
        model, tokenizer = self._model()
        if self._adapter is None:
            raise ValueError("the divergence from the base model needs an adapter")
        yield from self._each(self._examples(tokenizer, prompts, responses), lambda *batch: _diverge(model, *batch))

    def _examples(
        self, tokenizer: Any, prompts: Sequence[Sequence[Message]], responses: Sequence[str]
    ) -> list[tuple[list[int], list[int]]]:
        return [tokenize_example(tokenizer, *pair) for pair in zip(prompts, responses, strict=True)]

    def _each(
        self, examples: Sequence[tuple[list[int], list[int]]], compute: Callable[..., list[float]]
    ) -> Iterator[tuple[int, float, int]]:
        """Yield `(number, sum, tokens)` of each example; `compute` gets batches of one shape."""
        model, _ = self._model()
        lengths = [len(prompt) + len(response) for prompt, response in examples]
        for at, length in enumerate(lengths):
            if length > self._max_tokens:
                yield at, math.nan, len(examples[at][1])
        fitting = [at for at, length in enumerate(lengths) if length <= self._max_tokens]
        tokens = CUDA_TOKENS if model.device.type == "cuda" else CPU_TOKENS
        classes = {at: padded_length(lengths[at], self._max_tokens) for at in fitting}
        for length in sorted(set(classes.values()), reverse=True):
            batchable = [at for at in fitting if classes[at] == length]
            rows = max(1, tokens // length)
            for start in range(0, len(batchable), rows):
                batch = batchable[start : start + rows]
                nats = compute([examples[at] for at in batch], rows, length)
                for at, total in zip(batch, nats, strict=True):
                    yield at, total, len(examples[at][1])

    def _model(self) -> tuple[Any, Any]:
        if self._loaded is None:
            self._before_load()
            tokenizer, model = load_tokenizer(Path(self._path)), load_model(Path(self._path)).eval()
            probe = tokenize_example(tokenizer, [{"role": "user", "content": "Say yes."}], "Yes.")
            check_logits(model, *padded([probe], model.device))
            if self._adapter is not None:
                load_adapter(model, self._adapter)
            self._loaded = (model, tokenizer)
        return self._loaded


def padded_length(tokens: int, longest: int) -> int:
    """Return the length class of an example: the next multiple of an eighth of its octave, at most `longest`."""
    step = max(1, (1 << max(tokens, SHORTEST).bit_length() - 1) // CLASSES)
    return min(max(SHORTEST, math.ceil(tokens / step) * step), longest)


def score_batch(model: Any, examples: Sequence[tuple[list[int], list[int]]], rows: int, length: int) -> list[float]:
    """Return the summed log-probability, in nats, of each response, computed in one pass of shape (rows, length)."""
    import torch

    with torch.inference_mode():
        ids, _, is_response = padded(examples, model.device, rows=rows, length=length)
        states = states_at(model, ids, None, is_response)  # (response tokens, dims)
        logprobs = _logprobs(model, states, ids[is_response])
    return _sums(logprobs, examples)


def _diverge(model: Any, examples: Sequence[tuple[list[int], list[int]]], rows: int, length: int) -> list[float]:
    """Return the KL divergence of each response, in nats: the model with its adapter from the model without it."""
    import torch

    with torch.inference_mode():
        ids, _, is_response = padded(examples, model.device, rows=rows, length=length)
        tuned = states_at(model, ids, None, is_response)
        model.disable_adapters()
        base = states_at(model, ids, None, is_response)
        model.enable_adapters()
        parts = []
        for ours, theirs in zip(torch.split(tuned, POSITIONS), torch.split(base, POSITIONS), strict=True):
            q, p = (logits_of(model, states).log_softmax(-1) for states in (ours, theirs))
            parts.append((p.exp() * (p - q)).sum(-1))
    return _sums(torch.cat(parts), examples)


def _sums(values: "torch.Tensor", examples: Sequence[tuple[list[int], list[int]]]) -> list[float]:
    """Return the sum of each response's values, exact in float64: a library's order of summation varies with length."""
    import torch

    return [math.fsum(part.tolist()) for part in torch.split(values, [len(response) for _, response in examples])]


def _logprobs(model: Any, states: "torch.Tensor", targets: "torch.Tensor") -> "torch.Tensor":
    """Return the log-probability of each target, (positions,) float32."""
    import torch

    parts = []
    for part, wanted in zip(torch.split(states, POSITIONS), torch.split(targets, POSITIONS), strict=True):
        full = torch.zeros(POSITIONS, states.shape[1], dtype=states.dtype, device=states.device)
        full[: len(part)] = part
        logits = logits_of(model, full)  # (POSITIONS, vocabulary)
        total = logits.logsumexp(-1)[: len(part)]
        parts.append(logits[: len(part)].gather(1, wanted[:, None])[:, 0] - total)
    return torch.cat(parts)
