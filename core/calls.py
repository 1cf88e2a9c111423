"""Every completion and score that was paid for, in one SQLite file: resume mechanism, cost account and raw evidence.

A completion is committed as it finishes, before anything counts on it; a request found here is never sent again.
The file survives `kill -9` at any moment (write-ahead log; a process's death loses no committed page).
"""

import json
import sqlite3
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from core.errors import DataError
from core.models import Completion, Message, Progress, Request, Scorer, TextEngine

BATCH = 32
"""Responses scored and committed together."""

SCHEMA = """
CREATE TABLE IF NOT EXISTS calls (
  key TEXT PRIMARY KEY, model TEXT NOT NULL, purpose TEXT NOT NULL, prompt TEXT NOT NULL, params TEXT NOT NULL,
  text TEXT NOT NULL, finish_reason TEXT NOT NULL, prompt_tokens INTEGER NOT NULL, completion_tokens INTEGER NOT NULL,
  finished REAL NOT NULL);
CREATE TABLE IF NOT EXISTS sends (key TEXT NOT NULL, purpose TEXT NOT NULL, sent REAL NOT NULL);
CREATE TABLE IF NOT EXISTS scores (
  key TEXT PRIMARY KEY, model TEXT NOT NULL, nats REAL NOT NULL, tokens INTEGER NOT NULL, finished REAL NOT NULL);
"""


class CallStore:
    """The run's `calls.sqlite`."""

    def __init__(self, path: Path) -> None:
        """Open the file, or make it.

        Raises:
            DataError: The file is not such a store.
        """
        self.path = path
        self._db = sqlite3.connect(path, isolation_level=None)
        try:
            self._db.execute("PRAGMA journal_mode=WAL")
            self._db.execute("PRAGMA synchronous=NORMAL")
            self._db.executescript(SCHEMA)
        except sqlite3.DatabaseError as error:
            self._db.close()
            raise DataError(f"{path}: not a store of completions ({error}); move it away to begin anew") from None

    def close(self) -> None:
        """Close the file."""
        self._db.close()

    def completions(self, keys: Sequence[str]) -> dict[str, Completion]:
        """Return the stored completions among `keys`."""
        found = self._lookup("SELECT key, text, finish_reason, prompt_tokens, completion_tokens FROM calls", keys)
        return {key: Completion(text, reason, prompt, written, key) for key, text, reason, prompt, written in found}

    def scores(self, keys: Sequence[str]) -> dict[str, tuple[float, int]]:
        """Return the stored `(nats, tokens)` among `keys`."""
        return {key: (nats, tokens) for key, nats, tokens in self._lookup("SELECT key, nats, tokens FROM scores", keys)}

    def note_sent(self, requests: Sequence[tuple[str, Request]]) -> None:
        """Record that these requests go to the engine now."""
        now = time.time()
        with self._transaction():
            self._db.executemany("INSERT INTO sends VALUES (?, ?, ?)", [(key, r.purpose, now) for key, r in requests])

    def add(self, model: str, key: str, request: Request, completion: Completion) -> None:
        """Commit a completion."""
        params: dict[str, Any] = {
            "max_tokens": request.max_tokens,
            "temperature": request.temperature,
            "top_p": request.top_p,
        }
        params |= {"stop": list(request.stop), "sample": request.sample, "raw": request.raw}
        self._db.execute(
            "INSERT OR IGNORE INTO calls VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
            (key, model, request.purpose, request.prompt, json.dumps(params), completion.text,
             completion.finish_reason, completion.prompt_tokens, completion.completion_tokens, time.time()),
        )  # fmt: skip

    def add_scores(self, model: str, scores: Sequence[tuple[str, float, int]]) -> None:
        """Commit a batch of scores at once."""
        now = time.time()
        with self._transaction():
            self._db.executemany(
                "INSERT OR REPLACE INTO scores VALUES (?, ?, ?, ?, ?)", [(k, model, n, t, now) for k, n, t in scores]
            )

    def account(self) -> dict[str, dict[str, int]]:
        """Return, per purpose, how many requests were sent and completed and the tokens they took."""
        rows = self._db.execute(
            "SELECT purpose, COUNT(*), SUM(prompt_tokens), SUM(completion_tokens) FROM calls GROUP BY purpose ORDER BY 1"
        )
        sent = dict(self._db.execute("SELECT purpose, COUNT(*) FROM sends GROUP BY purpose"))
        return {
            purpose: {
                "sent": sent.get(purpose, 0),
                "completed": n,
                "prompt_tokens": asked,
                "completion_tokens": written,
            }
            for purpose, n, asked, written in rows
        }

    def resent_after_completion(self) -> int:
        """Return how many requests were sent although their completion was stored already; 0 is the promise."""
        query = "SELECT COUNT(*) FROM sends JOIN calls USING (key) WHERE sends.sent > calls.finished"
        return int(self._db.execute(query).fetchone()[0])

    def call(self, key: str) -> dict[str, Any] | None:
        """Return one stored call with its prompt, or None."""
        cursor = self._db.execute("SELECT * FROM calls WHERE key = ?", (key,))
        row = cursor.fetchone()
        return dict(zip([column[0] for column in cursor.description], row, strict=True)) if row else None

    def _lookup(self, select: str, keys: Sequence[str]) -> list[Any]:
        found: list[Any] = []
        for start in range(0, len(keys), 500):
            part = keys[start : start + 500]
            found += self._db.execute(f"{select} WHERE key IN ({','.join('?' * len(part))})", part).fetchall()
        return found

    def _transaction(self) -> sqlite3.Connection:
        self._db.execute("BEGIN")
        return self._db


class RecordedEngine:
    """A text engine whose completions are stored and never paid for twice."""

    def __init__(self, engine: TextEngine, store: CallStore, progress: Progress) -> None:
        """Wrap an engine; nothing is sent before `complete` is called."""
        self._engine, self._store, self._progress = engine, store, progress
        self.identity = engine.identity
        self.render = engine.render

    def complete(self, requests: Sequence[Request], label: str) -> list[Completion]:
        """Return the completions in the order of the requests, sending only those that are not stored yet.

        Equal requests are sent once; ask for several samples by numbering them.
        """
        keys = [request.key(self.identity) for request in requests]
        known = self._store.completions(keys)
        missing = {key: request for key, request in zip(keys, requests, strict=True) if key not in known}
        if missing:
            self._store.note_sent(list(missing.items()))
            self._progress.begin(label, len(missing))
            tokens = 0
            for key, completion in self._engine.complete(list(missing.items())):
                self._store.add(self.identity, key, missing[key], completion)
                known[key] = Completion(
                    completion.text,
                    completion.finish_reason,
                    completion.prompt_tokens,
                    completion.completion_tokens,
                    key,
                )
                tokens += completion.completion_tokens
                self._progress.advance(1, f"{tokens} tokens")
            self._progress.end()
        return [known[key] for key in keys]


class RecordedScorer:
    """A scorer whose results are stored, whole batches at a time."""

    def __init__(self, scorer: Scorer, store: CallStore, progress: Progress) -> None:
        """Wrap a scorer."""
        self._scorer, self._store, self._progress = scorer, store, progress
        self.identity = scorer.identity

    def mean_logprobs(self, prompts: Sequence[Sequence[Message]], responses: Sequence[str], label: str) -> list[float]:
        r"""Return :math:`\frac1{|y|}\sum_t \ln p(y_t \mid x, y_{<t})` of each response, in nats per token."""
        requests = [
            Request(json.dumps([dict(m) for m in p], ensure_ascii=False) + "\0" + r, "score", 0, 0.0, 1.0)
            for p, r in zip(prompts, responses, strict=True)
        ]
        keys = [request.key(self.identity) for request in requests]
        at = {key: i for i, key in reversed(list(enumerate(keys)))}
        unique = sorted(at, key=at.__getitem__)
        known = self._store.scores(unique)
        # Fixed batches, done whole or not at all: a resumed run scores in the same company and gets the same digits.
        batches = [unique[start : start + BATCH] for start in range(0, len(unique), BATCH)]
        todo = [batch for batch in batches if any(key not in known for key in batch)]
        if todo:
            self._progress.begin(label, sum(len(batch) for batch in todo))
            for batch in todo:
                found = self._scorer.logprobs([prompts[at[k]] for k in batch], [responses[at[k]] for k in batch])
                scored = [(key, nats, tokens) for key, (nats, tokens) in zip(batch, found, strict=True)]
                self._store.add_scores(self.identity, scored)
                known |= {key: (nats, tokens) for key, nats, tokens in scored}
                self._progress.advance(len(batch))
            self._progress.end()
        return [known[key][0] / known[key][1] for key in keys]
