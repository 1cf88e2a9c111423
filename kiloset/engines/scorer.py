"""Log-probabilities of responses under the base model, with transformers.

Every pass through the model has one of a few fixed shapes: examples of one class of length, padded on the right to the
same length, as many in a batch as that length allows, the last batch filled up. A matrix product of one shape gives a
row the same digits whatever the other rows hold, so a score does not depend on what it was computed with: a resumed
run, another stage or a run of more rows finds the same one. Nothing attends to padding on the right, so no mask is
needed. Logits, as wide as the vocabulary, are computed for response positions only, a fixed number at a time: memory
grows neither with the batch nor with the vocabulary times the prompts.
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
"""Tokens in a batch. A CPU is as fast with 128 as with more (177 tokens/s a core; 126 with 32, 173 with 512)."""
CLASSES = 8
"""Classes of length in each octave: padding is at most an eighth of an example, a sixteenth in the mean."""
SHORTEST = 16
"""No class is shorter."""
POSITIONS = 128
"""Positions whose logits are computed at once: 25 MB of float32 for a vocabulary of 49,152, 78 MB for 152,064."""


class TransformersScorer:
    """A `Scorer`: batches by length, logits at response positions only, digits that do not depend on the batch."""

    def __init__(self, path: str, identity: str, max_tokens: int, adapter: Path | None = None) -> None:
        """Name the model; it is loaded with the first response.

        Args:
            path: A local folder; safetensors only.
            identity: Name and revision, part of every score's key.
            max_tokens: Longest prompt and response together.
            adapter: A folder with an adapter in PEFT's format, with which the model scores.
        """
        self.identity, self._path, self._max_tokens, self._adapter = identity, path, max_tokens, adapter
        self._loaded: tuple[Any, Any] | None = None

    def logprobs(
        self, prompts: Sequence[Sequence[Message]], responses: Sequence[str]
    ) -> Iterator[tuple[int, float, int]]:
        r"""Yield :math:`(i, \sum_t \ln p(y_t \mid x, y_{<t}), T)` of response number i, as its batch is done.

        In nats, over the T tokens of response and end token; the longest come first, so that memory is at its peak at
        once. A row longer than `max_tokens` gets nan.
        """
        model, tokenizer = self._model()
        yield from self._each(self._examples(tokenizer, prompts, responses), lambda *batch: score_batch(model, *batch))

    def text_logprobs(self, texts: Sequence[str]) -> Iterator[tuple[int, float, int]]:
        """Yield as `logprobs` does for plain texts, of which the first token is given; no end token is counted."""
        model, tokenizer = self._model()
        ids = [list(tokenizer.encode(text)) for text in texts]
        yield from self._each([(one[:1], one[1:]) for one in ids], lambda *batch: score_batch(model, *batch))

    def divergence(
        self, prompts: Sequence[Sequence[Message]], responses: Sequence[str]
    ) -> Iterator[tuple[int, float, int]]:
        r"""Yield :math:`(i, \sum_t KL(p_{base} \| p_{tuned})(\cdot \mid x, y_{<t}), T)` of response number i, in nats.

        Over the whole vocabulary; the base is this model without its adapter.
        """
        model, tokenizer = self._model()
        if self._adapter is None:
            raise ValueError("a divergence is that of an adapter from its base")
        yield from self._each(self._examples(tokenizer, prompts, responses), lambda *batch: _diverge(model, *batch))

    def _examples(
        self, tokenizer: Any, prompts: Sequence[Sequence[Message]], responses: Sequence[str]
    ) -> list[tuple[list[int], list[int]]]:
        return [tokenize_example(tokenizer, *pair) for pair in zip(prompts, responses, strict=True)]

    def _each(
        self, examples: Sequence[tuple[list[int], list[int]]], compute: Callable[..., list[float]]
    ) -> Iterator[tuple[int, float, int]]:
        """Yield `(number, sum, tokens)` of each example, computed in batches of one shape."""
        model, _ = self._model()
        lengths = [len(prompt) + len(response) for prompt, response in examples]
        for at, length in enumerate(lengths):
            if length > self._max_tokens:
                yield at, math.nan, len(examples[at][1])
        fitting = [at for at, length in enumerate(lengths) if length <= self._max_tokens]
        tokens = CUDA_TOKENS if model.device.type == "cuda" else CPU_TOKENS
        classes = {at: padded_length(lengths[at], self._max_tokens) for at in fitting}
        for length in sorted(set(classes.values()), reverse=True):
            alike = [at for at in fitting if classes[at] == length]
            rows = max(1, tokens // length)
            for start in range(0, len(alike), rows):
                batch = alike[start : start + rows]
                nats = compute([examples[at] for at in batch], rows, length)
                for at, found in zip(batch, nats, strict=True):
                    yield at, found, len(examples[at][1])

    def _model(self) -> tuple[Any, Any]:
        if self._loaded is None:
            tokenizer, model = load_tokenizer(Path(self._path)), load_model(Path(self._path)).eval()
            probe = tokenize_example(tokenizer, [{"role": "user", "content": "Say yes."}], "Yes.")
            check_logits(model, *padded([probe], model.device))
            if self._adapter is not None:
                load_adapter(model, self._adapter)
            self._loaded = (model, tokenizer)
        return self._loaded


def padded_length(tokens: int, longest: int) -> int:
    """Return the class of a length: the next multiple of an eighth of its octave, at most `longest`."""
    step = max(1, (1 << max(tokens, SHORTEST).bit_length() - 1) // CLASSES)
    return min(max(SHORTEST, math.ceil(tokens / step) * step), longest)


def score_batch(model: Any, examples: Sequence[tuple[list[int], list[int]]], rows: int, length: int) -> list[float]:
    """Return the summed log-probability, in nats, of each response, computed in one pass of shape (rows, length)."""
    import torch

    with torch.inference_mode():
        ids, _, is_response = padded(examples, model.device, rows=rows, length=length)
        states = states_at(model, ids, None, is_response)  # (response tokens, dims)
        found = _logprobs(model, states, ids[is_response])
    # Summed in float64, exactly: the order in which a library adds up may change with the length.
    return [math.fsum(part.tolist()) for part in torch.split(found, [len(response) for _, response in examples])]


def _diverge(model: Any, examples: Sequence[tuple[list[int], list[int]]], rows: int, length: int) -> list[float]:
    """Return the summed divergence of the model with its adapter from that without, in nats, of each response."""
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
        found = torch.cat(parts)
    return [math.fsum(part.tolist()) for part in torch.split(found, [len(response) for _, response in examples])]


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
