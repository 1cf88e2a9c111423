"""Models whose answers are stored as they come and never paid for twice."""

import json
from collections import deque
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from kiloset.core.calls import CallStore
from kiloset.core.models import Capabilities, Completion, Message, Request, Scorer, TextEngine
from kiloset.core.progress import Progress


class Flow:
    """Requests under way: answered from the store at once, else by the engine as each is finished.

    Every request is put in with a tag, any value, that comes back with its completion. Equal requests are sent once.
    """

    def __init__(self, engine: TextEngine, store: CallStore) -> None:
        """Begin with nothing under way."""
        self._engine, self._store = engine, store
        self._ready: deque[tuple[Any, Completion]] = deque()
        self._tags: dict[str, list[Any]] = {}
        self._sent: dict[str, Request] = {}
        self.sent = self.received = self.prompt_tokens = self.completion_tokens = 0
        """Requests that really went to the engine, those of them that came back, and the tokens of these."""

    def __len__(self) -> int:
        """Return how many requests have no answer yet."""
        return len(self._ready) + sum(len(tags) for tags in self._tags.values())

    def put(self, requests: Sequence[tuple[Request, Any]], *, send: bool = True) -> list[Any]:
        """Put in `(request, tag)` pairs; without `send` only what the store can answer.

        Returns:
            The tags of those that were not taken.
        """
        keyed = [(request.key(self._engine.identity), request, tag) for request, tag in requests]
        known = self._store.completions({key: request.max_tokens for key, request, _ in keyed})
        missing: dict[str, Request] = {}
        left: list[Any] = []
        for key, request, tag in keyed:
            if key in known:
                self._ready.append((tag, known[key]))
                continue
            if not send and key not in self._sent:
                left.append(tag)
                continue
            if key not in self._sent:
                missing[key] = self._sent[key] = request
            self._tags.setdefault(key, []).append(tag)
        if missing:
            self._store.note_sent(list(missing.items()))
            self._engine.submit(list(missing.items()))
            self.sent += len(missing)
        return left

    def get(self) -> tuple[Any, Completion]:
        """Wait for the next `(tag, completion)`.

        A refused completion is not stored: an engine with a longer context would take the prompt.
        """
        if not self._ready:
            key, completion = self._engine.receive()
            request = self._sent.pop(key)
            self.received += 1
            if completion.finish_reason != "refused":
                self._store.add(self._engine.identity, key, request, completion)
            self.prompt_tokens += completion.prompt_tokens
            self.completion_tokens += completion.completion_tokens
            self._ready.extend((tag, replace(completion, key=key)) for tag in self._tags.pop(key))
        return self._ready.popleft()


class RecordedEngine:
    """A text engine whose completions are stored and never paid for twice."""

    def __init__(self, engine: TextEngine, store: CallStore, progress: Progress) -> None:
        """Wrap an engine; nothing is sent before `complete` or `Flow.put` is called."""
        self._engine, self.store, self.progress = engine, store, progress
        self.identity = engine.identity
        self.render = engine.render

    @property
    def capabilities(self) -> Capabilities:
        """What the engine supports."""
        return self._engine.capabilities

    def flow(self) -> Flow:
        """Return a way to send requests while others are under way."""
        return Flow(self._engine, self.store)

    def complete(self, requests: Sequence[Request], label: str) -> list[Completion]:
        """Return the completions in the order of the requests, sending only those that are not stored yet.

        Equal requests are sent once; ask for several samples by numbering them.
        """
        flow = self.flow()
        flow.put([(request, number) for number, request in enumerate(requests)])
        found: dict[int, Completion] = {}
        shown = flow.sent > 0
        if shown:
            self.progress.begin(label, flow.sent)
        while flow:
            before = flow.received
            number, found[number] = flow.get()
            if flow.received > before:
                self.progress.advance(1, f"{flow.completion_tokens} tokens")
        if shown:
            self.progress.end()
        return [found[number] for number in range(len(requests))]


class RecordedScorer:
    """A scorer whose results are stored and never computed twice."""

    def __init__(self, scorer: Scorer, store: CallStore, progress: Progress) -> None:
        """Wrap a scorer."""
        self._scorer, self._store, self._progress = scorer, store, progress
        self.identity = scorer.identity

    def mean_logprobs(self, prompts: Sequence[Sequence[Message]], responses: Sequence[str], label: str) -> list[float]:
        r"""Return :math:`\frac1{|y|}\sum_t \ln p(y_t \mid x, y_{<t})` of each response, in nats per token.

        nan where the scorer gave nan: the row is too long for the model.
        """
        keys = [self._key(prompt, response) for prompt, response in zip(prompts, responses, strict=True)]
        known = self._store.scores(keys)
        missing = list({key: at for at, key in enumerate(keys) if key not in known}.items())
        if missing:
            self._progress.begin(label, len(missing))
            found = self._scorer.logprobs([prompts[at] for _, at in missing], [responses[at] for _, at in missing])
            for number, nats, tokens in found:
                key, _ = missing[number]
                known[key] = nats, tokens
                self._store.add_scores(self.identity, [(key, nats, tokens)])
                self._progress.advance()
            self._progress.end()
        return [known[key][0] / known[key][1] for key in keys]

    def _key(self, prompt: Sequence[Message], response: str) -> str:
        text = json.dumps([dict(message) for message in prompt], ensure_ascii=False)
        return Request(f"{text}\0{response}", "score", 0, 0.0, 1.0).key(self.identity)
