"""Models whose completions, scores and vectors are stored as they come, and never computed or paid for twice."""

import hashlib
import json
from collections import deque
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from kiloset.core.calls import CallStore
from kiloset.core.models import Capabilities, Completion, Embedder, Message, Request, Scorer, TextEngine
from kiloset.core.progress import Progress

EMBED_TEXTS = 256
"""Texts that are embedded and committed together."""


class Flow:
    """Requests in flight: completed from the store at once, else by the engine in any order.

    Every request has a tag, any value, that is returned with its completion. Equal requests are sent once.
    """

    def __init__(self, engine: TextEngine, store: CallStore) -> None:
        """Start without requests."""
        self._engine, self._store = engine, store
        self._ready: deque[tuple[Any, Completion]] = deque()
        self._tags: dict[str, list[Any]] = {}
        self._in_flight: dict[str, Request] = {}
        self.sent = self.received = self.prompt_tokens = self.completion_tokens = 0
        """Requests sent to the engine, requests that it completed, and their tokens; cache hits do not count."""

    def __len__(self) -> int:
        """Return the number of requests whose completion was not returned yet."""
        return len(self._ready) + sum(len(tags) for tags in self._tags.values())

    def put(self, requests: Sequence[tuple[Request, Any]], *, send: bool = True) -> list[Any]:
        """Add `(request, tag)` pairs; without `send`, only if the store or a request in flight answers it.

        Returns:
            The tags of the requests that were not added.
        """
        keyed = [(request.key(self._engine.identity), request, tag) for request, tag in requests]
        stored = self._store.completions({key: request.max_tokens for key, request, _ in keyed})
        missing: dict[str, Request] = {}
        not_added: list[Any] = []
        for key, request, tag in keyed:
            if key in stored:
                self._ready.append((tag, stored[key]))
            elif not send and key not in self._in_flight:
                not_added.append(tag)
            else:
                if key not in self._in_flight:
                    missing[key] = self._in_flight[key] = request
                self._tags.setdefault(key, []).append(tag)
        if missing:
            if not self._store.is_read_only:
                self._store.note_sent(list(missing.items()))
            self._engine.submit(list(missing.items()))
            self.sent += len(missing)
        return not_added

    def get(self) -> tuple[Any, Completion]:
        """Wait for the next `(tag, completion)`.

        A refused completion is not stored, because an engine with a longer context would accept the prompt.
        """
        if not self._ready:
            key, completion = self._engine.receive()
            request = self._in_flight.pop(key)
            self.received += 1
            if completion.finish_reason != "refused":
                self._store.add(self._engine.identity, key, request, completion)
            self.prompt_tokens += completion.prompt_tokens
            self.completion_tokens += completion.completion_tokens
            self._ready.extend((tag, replace(completion, key=key)) for tag in self._tags.pop(key))
        return self._ready.popleft()


class RecordedEngine:
    """A text engine whose completions are stored."""

    def __init__(self, engine: TextEngine, store: CallStore, progress: Progress) -> None:
        """Wrap an engine; only `complete` and `Flow.put` send requests."""
        self._engine, self.store, self.progress = engine, store, progress
        self.identity, self.render = engine.identity, engine.render

    @property
    def capabilities(self) -> Capabilities:
        """What the engine supports."""
        return self._engine.capabilities

    def flow(self) -> Flow:
        """Return a new flow, to send requests while others are in flight."""
        return Flow(self._engine, self.store)

    def complete(self, requests: Sequence[Request], label: str) -> list[Completion]:
        """Return the completions in the order of the requests; only requests without a stored completion are sent.

        Equal requests get the same completion; number several samples of one prompt with `Request.sample`.
        """
        flow = self.flow()
        flow.put([(request, number) for number, request in enumerate(requests)])
        completions: dict[int, Completion] = {}
        with_bar = flow.sent > 0
        if with_bar:
            self.progress.begin(label, flow.sent)
        while flow:
            before = flow.received
            number, completions[number] = flow.get()
            if flow.received > before:
                self.progress.advance(1, f"{flow.completion_tokens} tokens")
        if with_bar:
            self.progress.end()
        return [completions[number] for number in range(len(requests))]


class RecordedScorer:
    """A scorer whose scores are stored."""

    def __init__(self, scorer: Scorer, store: CallStore, progress: Progress) -> None:
        """Wrap a scorer."""
        self._scorer, self._store, self._progress = scorer, store, progress
        self.identity = scorer.identity

    def mean_logprobs(self, prompts: Sequence[Sequence[Message]], responses: Sequence[str], label: str) -> list[float]:
        r"""Return :math:`\frac1{|y|}\sum_t \ln p(y_t \mid x, y_{<t})` of each response, in nats per token.

        A row that is too long for the model gets nan.
        """
        keys = [self._key(prompt, response) for prompt, response in zip(prompts, responses, strict=True)]
        scores = self._store.scores(keys)
        missing = list({key: at for at, key in enumerate(keys) if key not in scores}.items())
        if missing:
            self._progress.begin(label, len(missing))
            computed = self._scorer.logprobs([prompts[at] for _, at in missing], [responses[at] for _, at in missing])
            for number, nats, tokens in computed:
                key, _ = missing[number]
                scores[key] = nats, tokens
                self._store.add_scores(self.identity, [(key, nats, tokens)])
                self._progress.advance()
            self._progress.end()
        return [scores[key][0] / scores[key][1] for key in keys]

    def _key(self, prompt: Sequence[Message], response: str) -> str:
        text = json.dumps([dict(message) for message in prompt], ensure_ascii=False)
        return Request(f"{text}\0{response}", "score", 0, 0.0, 1.0).key(self.identity)


class RecordedEmbedder:
    """An embedder whose vectors are stored, unless the store is read-only.

    The last digits of a vector depend on the other texts of its batch. A stored vector is the same for the whole run, also
    after an interruption and in another batch.
    """

    def __init__(self, embedder: Embedder, store: CallStore, progress: Progress) -> None:
        """Wrap an embedder."""
        self._embedder, self._store, self._progress = embedder, store, progress
        self.identity, self.is_costly = embedder.identity, embedder.is_costly

    def embed(self, texts: Sequence[str]) -> NDArray[np.float32]:
        """Return `(texts, dims)` float32 with rows of length 1."""
        keys = [hashlib.sha256(f"{self.identity}\0{text}".encode()).hexdigest() for text in texts]
        unique = dict(zip(keys, texts, strict=True))
        stored = self._store.vectors(list(unique))
        missing = [(key, text) for key, text in unique.items() if key not in stored]
        # A few texts at a time would not keep an embedder on several machines busy.
        batch = int(getattr(self._embedder, "at_once", EMBED_TEXTS))
        with_bar = len(missing) > EMBED_TEXTS
        if with_bar:
            self._progress.begin("embedding", len(missing))
        for start in range(0, len(missing), batch):
            part = missing[start : start + batch]
            vectors = self._embedder.embed([text for _, text in part])
            computed = [(key, vector.tobytes()) for (key, _), vector in zip(part, vectors, strict=True)]
            if not self._store.is_read_only:
                self._store.add_vectors(computed)
            stored |= computed
            if with_bar:
                self._progress.advance(len(part))
        if with_bar:
            self._progress.end()
        rows = [np.frombuffer(stored[key], np.float32) for key in keys]
        return np.array(rows, np.float32).reshape(len(texts), -1 if texts else 0)
