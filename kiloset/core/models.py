"""Protocols of the models that stages use, and the one way to render a prompt for generation, scoring and training."""

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from kiloset.core.errors import ModelError

Message = Mapping[str, str]


@dataclass(frozen=True, slots=True)
class Request:
    """A request for one completion."""

    prompt: str
    """The rendered text that the model sees."""
    purpose: str
    """`instruction`, `input`, `response`, `evolve`, `magpie`, `plain`, `guided`, …; not part of the key."""
    max_tokens: int
    temperature: float
    top_p: float
    stop: tuple[str, ...] = ()
    sample: int = 0
    """Number among otherwise equal requests, for several samples of one prompt."""
    raw: bool = False
    """The prompt is plain text, so the tokenizer adds its begin token; a rendered chat already has it."""
    schema: str = ""
    """JSON schema of the completion, "" for none; only engines with the capability `schemas` obey it."""

    def key(self, model: str) -> str:
        """Return the cache key: the sha256 of the request and the model's identity.

        `max_tokens` is not part of it: a completion that ended by itself is the same under any larger limit, and one that
        was cut is requested again only if the limit was raised (`kiloset.core.calls`).
        """
        parts = [model, self.prompt, self.temperature, self.top_p, self.stop, self.sample, self.raw, self.schema]
        return hashlib.sha256(json.dumps(parts, ensure_ascii=False).encode()).hexdigest()


def seed_of(key: str) -> int:
    """Return a request's sampling seed: 31 bits of its key, so that its completion is as reproducible as the engine allows."""
    return int(key[:8], 16) & 0x7FFFFFFF


@dataclass(frozen=True, slots=True)
class Completion:
    """The result of a request."""

    text: str
    finish_reason: str
    """`stop`, `length` (cut at max_tokens) or `refused` (the engine did not accept the prompt)."""
    prompt_tokens: int
    completion_tokens: int
    key: str = ""
    """The request's key, if the completion is stored."""
    cached_tokens: int = 0
    """Tokens of the prompt that the engine took from its prefix cache; 0 if it does not report them."""


@dataclass(frozen=True, slots=True)
class Capabilities:
    """What an engine supports."""

    chat_template: bool = True
    """The model has a chat template."""
    plain_text: bool = True
    """The engine continues plain text, besides answering chats."""
    exact_prompts: bool = True
    """`render` returns the exact text that the model sees, and a request may send a part of such a text."""
    schemas: bool = True
    """The engine keeps a completion to a request's JSON schema."""


class Renderer(Protocol):
    """Renders chats as prompts."""

    @property
    def capabilities(self) -> Capabilities:
        """What the engine supports."""

    def render(self, messages: Sequence[Message]) -> str:
        """Return the prompt of a chat, which ends where the assistant's answer begins."""


class TextEngine(Renderer, Protocol):
    """A model that completes prompts, many at a time."""

    identity: str
    """Name and revision; part of every request's key."""

    def submit(self, requests: Sequence[tuple[str, Request]]) -> None:
        """Accept `(key, request)` pairs, also while others are in flight."""

    def receive(self) -> tuple[str, Completion]:
        """Wait for the next `(key, completion)` of the submitted requests, in any order.

        Raises:
            ModelError: The engine failed; every completion it had finished was returned before.
        """


class Scorer(Protocol):
    """A model that computes the likelihood of responses."""

    identity: str
    """Name, revision and settings; part of every score's cache key."""

    def logprobs(
        self, prompts: Sequence[Sequence[Message]], responses: Sequence[str]
    ) -> Iterable[tuple[int, float, int]]:
        """Yield `(number, sum of log-probabilities in nats, tokens)` of each response with its end token, in any order.

        A score does not depend, to the last digit, on the other responses.
        """


class EvaluationScorer(Scorer, Protocol):
    """A scorer that also scores plain texts, and compares a tuned model with its base model."""

    def text_logprobs(self, texts: Sequence[str]) -> Iterable[tuple[int, float, int]]:
        """Yield `(number, sum of log-probabilities in nats, tokens)` of each text, from its second token on."""

    def divergence(
        self, prompts: Sequence[Sequence[Message]], responses: Sequence[str]
    ) -> Iterable[tuple[int, float, int]]:
        """Yield `(number, summed KL divergence of the tuned model from its base in nats, tokens)` of each response."""


class Embedder(Protocol):
    """A model that embeds texts."""

    identity: str
    is_costly: bool
    """Whether a run stores the vectors, because computing them again is slow."""

    def embed(self, texts: Sequence[str]) -> NDArray[np.float32]:
        """Return `(texts, dims)` float32 with rows of length 1."""


def chat_request(engine: Renderer, turn: str, purpose: str, **sampling: Any) -> Request:
    """Return the request for an answer to one user turn, with the same prompt as in training."""
    return messages_request(engine, [{"role": "user", "content": turn}], purpose, **sampling)


def messages_request(engine: Renderer, messages: Sequence[Message], purpose: str, **sampling: Any) -> Request:
    """Return the request for an answer to a chat, with the same prompt as in training.

    A model without a chat template gets its begin token, as in training, and stops when it begins another turn.
    """
    plain: dict[str, Any] = {} if engine.capabilities.chat_template else {"raw": True, "stop": PLAIN_STOP}
    return Request(prompt=engine.render(messages), purpose=purpose, **sampling, **plain)


PLAIN_STOP = ("\n### ",)
PLAIN_TURNS = {"system": "{}\n\n", "user": "### Instruction:\n{}\n\n", "assistant": "### Response:\n{}\n\n"}


def render_prompt(tokenizer: Any, messages: Sequence[Message]) -> str:
    """Return the text before the response, by the tokenizer's chat template or, if it has none, with plain headings.

    Generation, scoring and training use this function, so that likelihoods are measured with the prompt of training.
    """
    if getattr(tokenizer, "chat_template", None):
        return str(tokenizer.apply_chat_template(list(messages), tokenize=False, add_generation_prompt=True))
    turns = "".join(PLAIN_TURNS[m["role"]].replace("{}", m["content"], 1) for m in messages)
    return turns + "### Response:\n"


def tokenize_example(tokenizer: Any, messages: Sequence[Message], response: str) -> tuple[list[int], list[int]]:
    """Return `(prompt ids, response ids)`; the response ends with the end-of-turn token, which is also trained and scored.

    Raises:
        ModelError: The chat template changes the text before the response, so no mask is exact; or there is no end token.
    """
    prompt, whole = render_prompt(tokenizer, messages), ""
    templated = bool(getattr(tokenizer, "chat_template", None))
    if templated:
        whole = str(
            tokenizer.apply_chat_template([*messages, {"role": "assistant", "content": response}], tokenize=False)
        )
        if not whole.startswith(prompt + response.strip()[:1]):
            raise ModelError(
                "KS034",
                "the chat template changes what stands before the response, so the loss cannot be kept to the response; "
                "use a template whose generation prompt is a prefix of the full conversation",
            )
    if tokenizer.eos_token_id is None:
        raise ModelError("KS035", "the tokenizer has no end-of-text token, so a response's end cannot be trained")
    prompt_ids = list(tokenizer.encode(prompt, add_special_tokens=not templated))
    response_ids = list(tokenizer.encode(response, add_special_tokens=False))
    end = _end_token(tokenizer, whole, prompt + response.strip()) if templated else int(tokenizer.eos_token_id)
    return prompt_ids, [*response_ids, end]


def _end_token(tokenizer: Any, whole: str, before: str) -> int:
    """Return the special token with which the template ends a turn, or the end-of-text token if there is none."""
    special = {id for id, token in tokenizer.added_tokens_decoder.items() if token.special}
    tail = tokenizer.encode(whole[len(before) :].strip(), add_special_tokens=False) if whole.startswith(before) else []
    return int(next((id for id in tail if id in special), tokenizer.eos_token_id))
