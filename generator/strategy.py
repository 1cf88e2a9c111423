"""What every strategy has in common: it asks for new instructions, and reads them."""

import random
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

from kiloset.core.models import Renderer, Request, chat_request
from kiloset.generator.demonstrations import Demonstrations
from kiloset.generator.templates import Templates


class Writer(Renderer, Protocol):
    """What a strategy needs to know of the engine."""

    @property
    def raw(self) -> bool:
        """Whether it takes plain text to be continued."""

    @property
    def transparent(self) -> bool:
        """Whether `render` returns the very text that the model sees."""


@dataclass(frozen=True, slots=True)
class Sampling:
    """How instructions are sampled."""

    max_tokens: int
    temperature: float
    top_p: float

    def as_arguments(self) -> dict[str, Any]:
        """Return it as arguments of a request."""
        return {"max_tokens": self.max_tokens, "temperature": self.temperature, "top_p": self.top_p}


@dataclass(frozen=True, slots=True)
class Birth:
    """One request for a new instruction."""

    request: Request
    parents: tuple[dict[str, Any], ...] = ()
    operator: str = ""


@dataclass(frozen=True, slots=True)
class Setting:
    """What a strategy writes with."""

    engine: Writer
    templates: Templates
    shown: Demonstrations
    sampling: Sampling
    human: int
    machine: int
    samples_per_prompt: int


@dataclass(frozen=True, slots=True)
class Strategy:
    """A way to come by new instructions."""

    name: str
    ask: Callable[[Setting, str, int, random.Random], list[Birth]]
    """Return so many requests for a category; a prefix of them is what fewer would have been."""
    read: Callable[[str], str]
    """Return the instruction a completion holds, "" if none."""
    constrained: bool = False
    """Whether instructions are given verifiable constraints."""


def text_request(engine: Writer, prompt: str, purpose: str, sampling: Sampling, stop: tuple[str, ...]) -> Request:
    """Return the request that continues a text where the engine takes one, else the chat that asks for what follows."""
    if engine.raw:
        return Request(prompt, purpose, **sampling.as_arguments(), stop=stop, raw=True)
    return chat_request(engine, prompt, purpose, **sampling.as_arguments())


def readable(category: str) -> str:
    """Return a category's name as words."""
    return category.replace("_", " ").replace("-", " ")
