"""Fake models: their completions, vectors and scores are pure functions of the request."""

import hashlib
import json
import random
import re
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from functools import cache
from itertools import chain

import numpy as np
from numpy.typing import NDArray

from kiloset.core.models import Capabilities, Completion, Message, Request
from kiloset.core.text import words
from kiloset.rewrite.rewrite import guided_prompt

DIMS = 32
ANSWER_TURN = "<assistant>"
REFERENCE_FRAME = guided_prompt("\0", "\1").partition("\0")[2].split("\1")

NOUNS = [
    "garden", "bridge", "letter", "kettle", "harbour", "violin", "orchard", "engine", "lantern", "recipe", "meadow",
    "ticket", "planet", "library", "candle", "river", "station", "blanket", "market", "compass", "tower", "island",
    "winter", "window", "teacher", "pocket", "mountain", "ladder", "basket", "village",
]  # fmt: skip
ADJECTIVES = [
    "quiet", "narrow", "golden", "broken", "early", "distant", "gentle", "crowded", "frozen", "simple", "wooden",
    "curious", "heavy", "bright", "ancient", "modest", "hidden", "rapid", "sturdy", "careful",
]  # fmt: skip
VERBS = [
    "describe", "compare", "explain", "rewrite", "list", "plan", "sketch", "defend", "praise", "question", "imagine",
    "outline", "review", "sort", "trace",
]  # fmt: skip
DOES = [
    "holds", "follows", "guards", "changes", "crosses", "measures", "leaves", "carries", "finds", "needs", "covers",
    "joins",
]  # fmt: skip
PLACES = [
    "Lisbon", "Oslo", "Nairobi", "Lima", "Kyoto", "Tartu", "Porto", "Quito", "Dakar", "Turin",
]  # fmt: skip

Answer = Callable[[str, Request], tuple[str, str]]


class InBatches:
    """Makes an engine of a method `complete` that answers a batch, one after the other."""

    capabilities = Capabilities()
    _answers: Iterator[tuple[str, Completion]] = iter(())

    def submit(self, requests: Sequence[tuple[str, Request]]) -> None:
        self._answers = chain(self._answers, self.complete(requests))  # type: ignore[attr-defined]

    def receive(self) -> tuple[str, Completion]:
        return next(self._answers)


class FakeEngine:
    """A text engine whose completions depend on nothing but key and request, and come in a scrambled order."""

    def __init__(
        self, identity: str = "fake@1", *, pause: float = 0.0, order: int = 0, answer: Answer | None = None
    ) -> None:
        """Make an engine that writes what `answer` returns as `(text, finish_reason)`, `plausible` by default.

        `pause` is in seconds before each completion; another `order` scrambles otherwise.
        """
        self.identity = identity
        self.pause = pause
        self.order = order
        self.answer = answer or plausible
        self._waiting: dict[str, Request] = {}
        self.sent: list[str] = []
        """Keys of the requests completed, as they were completed."""
        self.prompts: dict[str, str] = {}
        """Prompts of all that was submitted, by key."""

    capabilities = Capabilities()

    def render(self, messages: Sequence[Message]) -> str:
        return "".join(f"<{m['role']}>{m['content']}</{m['role']}>" for m in messages) + ANSWER_TURN

    def submit(self, requests: Sequence[tuple[str, Request]]) -> None:
        self._waiting |= dict(requests)
        self.prompts |= {key: request.prompt for key, request in requests}

    def receive(self) -> tuple[str, Completion]:
        key = min(self._waiting, key=lambda key: hashlib.sha256(f"{self.order}{key}".encode()).digest())
        request = self._waiting.pop(key)
        if self.pause:
            time.sleep(self.pause)
        text, reason = self.answer(key, request)
        taken = {"length": request.max_tokens, "refused": 0}.get(reason, len(text.split()) + 1)
        self.sent.append(key)
        return key, Completion(text, reason, len(request.prompt.split()), taken)


class FakeEmbedder:
    """Adds up a random direction per word: equal texts are equal, texts that share words are close."""

    identity = "fake-embedder@1"
    is_costly = True

    def embed(self, texts: Sequence[str]) -> NDArray[np.float32]:
        return np.array([_embedded(text) for text in texts], dtype=np.float32).reshape(len(texts), DIMS)


@cache
def _embedded(text: str) -> NDArray[np.float64]:
    total = np.zeros(DIMS)
    for word, count in sorted(Counter(words(text)).items()):
        total += count * _direction(word)
    length = np.linalg.norm(total)
    return total / length if length else np.eye(DIMS)[0]


@cache
def _direction(word: str) -> NDArray[np.float64]:
    seed = int.from_bytes(hashlib.sha256(word.encode()).digest()[:8], "big")
    return np.random.default_rng(seed).standard_normal(DIMS)


class FakeScorer:
    """Finds a word of a response -1.2 to -1.8 nats likely, as a hash of prompt and response has it."""

    identity = "fake-scorer@1"

    def logprobs(
        self, prompts: Sequence[Sequence[Message]], responses: Sequence[str]
    ) -> Iterator[tuple[int, float, int]]:
        for at in reversed(range(len(responses))):  # in another order than asked
            yield at, *self._logprob(prompts[at], responses[at])

    def _logprob(self, prompt: Sequence[Message], response: str) -> tuple[float, int]:
        asked = json.dumps([[dict(m) for m in prompt], response], ensure_ascii=False)
        share = int.from_bytes(hashlib.sha256(asked.encode()).digest()[:8], "big") / 2**64
        length = len(response.split())
        return -(1.2 + 0.6 * share) * max(length, 1), length + 1


def plausible(key: str, request: Request) -> tuple[str, str]:
    """Write what a small model might write; the prompt decides: an instruction, an input, an answer or a rewrite."""
    rng = random.Random(key)
    before, after = REFERENCE_FRAME
    if not request.prompt.endswith(ANSWER_TURN):
        return _input(rng, request.prompt) if request.prompt.endswith("Text:") else _instruction(rng, request.prompt)
    if before in request.prompt and after in request.prompt:
        return _rewrite(rng, request.prompt.partition(before)[2].rpartition(after)[0])
    last_turn = request.prompt.rpartition("<user>")[2]
    if last_turn.startswith("Write a new task"):
        return _whole_task(rng, request.prompt, with_text="with the text" in last_turn)
    return _answer(rng)


def _whole_task(rng: random.Random, prompt: str, *, with_text: bool) -> tuple[str, str]:
    examples = re.findall(r"<assistant>Task: (.+?)(?:\nText: |</assistant>)", prompt)
    task, reason = _instruction(rng, "\n".join(f"{number}. {each}" for number, each in enumerate(examples, start=1)))
    if not task or reason != "stop" or not with_text:
        return f"Task:{task}" if task else "", reason
    input, reason = _input(rng, prompt)
    return f"Task:{task}\nText:{input}", reason


def _instruction(rng: random.Random, prompt: str) -> tuple[str, str]:
    examples = re.findall(r"^\d+\. (.+)$", prompt, re.MULTILINE)
    verb, place = rng.choice(VERBS).capitalize(), rng.choice(PLACES)
    fresh = f"{verb} the {_thing(rng)} that {rng.choice(DOES)} a {_thing(rng)} near {place} in {rng.randint(2, 9)} sentences."
    kinds = {"fresh": 78, "copy": 8, "cut": 5, "empty": 4, "short": 5}
    return {
        "fresh": (f" {fresh}", "stop"),
        "copy": (f" {rng.choice(examples)}" if examples else "", "stop"),
        "cut": (f" {fresh.removesuffix('.')} and", "length"),
        "empty": ("", "stop"),
        "short": (f" {verb} it.", "stop"),
    }[_one_of(rng, kinds)]


def _input(rng: random.Random, prompt: str) -> tuple[str, str]:
    examples = re.findall(r"^Text: (.+)$", prompt, re.MULTILINE)
    fresh = " ".join(_sentence(rng) for _ in range(rng.randint(2, 3)))
    kinds = {"fresh": 85, "copy": 6, "cut": 5, "none": 4}
    return {
        "fresh": (f" {fresh}", "stop"),
        "copy": (f" {rng.choice(examples)}" if examples else " None.", "stop"),
        "cut": (f" {fresh.removesuffix('.')} and", "length"),
        "none": (" None.", "stop"),
    }[_one_of(rng, kinds)]


def _answer(rng: random.Random) -> tuple[str, str]:
    text = " ".join(_sentence(rng) for _ in range(rng.randint(1, 4)))
    kinds = {"fresh": 90, "cut": 6, "empty": 4}
    return {"fresh": (text, "stop"), "cut": (text.removesuffix("."), "length"), "empty": ("", "stop")}[
        _one_of(rng, kinds)
    ]


def _rewrite(rng: random.Random, reference: str) -> tuple[str, str]:
    sentences = re.split(r"(?<=[.!?])\s+", reference)
    turned = " ".join([*sentences[1:], sentences[0]]) if len(sentences) > 1 else f"In short: {reference}"
    kinds = {"turned": 60, "invented": 15, "unlike": 15, "cut": 10}
    return {
        "turned": (turned, "stop"),
        "invented": (f"{turned} It took {rng.randint(100, 999)} days.", "stop"),
        "unlike": (_sentence(rng), "stop"),
        "cut": (turned[: len(turned) // 2], "length"),
    }[_one_of(rng, kinds)]


def _sentence(rng: random.Random) -> str:
    """Write one of enough different frames that texts of several sentences hardly repeat themselves."""
    one, other, place, does = _thing(rng), _thing(rng), rng.choice(PLACES), rng.choice(DOES)
    frames = (
        f"The {one} {does} a {other} in {place}.",
        f"In {place} every {one} {does} some {other}.",
        f"After {rng.randint(2, 40)} days a {one} {does} its {other}.",
        f"Nobody in {place} says why this {one} {does} that {other}.",
    )
    return rng.choice(frames)


def _thing(rng: random.Random) -> str:
    return f"{rng.choice(ADJECTIVES)} {rng.choice(NOUNS)}"


def _one_of(rng: random.Random, weights: dict[str, int]) -> str:
    return rng.choices(list(weights), list(weights.values()))[0]
