"""Every completion and score that was paid for, in one SQLite file: resume mechanism, cost account and raw evidence.

A completion is committed as it finishes, before anything counts on it; a request found here is never sent again.
The file survives `kill -9` at any moment (write-ahead log; a process's death loses no committed page).
"""

import json
import math
import os
import sqlite3
import time
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

from core.errors import DataError
from core.models import Completion, Message, Progress, Request, Scorer, TextEngine

BATCH = 32
"""Responses scored and committed together."""

APPLICATION_ID = 0x4B494C4F
"""In the file's header: "KILO"."""

SCHEMA = """
CREATE TABLE calls (
  key TEXT PRIMARY KEY, model TEXT NOT NULL, purpose TEXT NOT NULL, prompt TEXT NOT NULL, params TEXT NOT NULL,
  text TEXT NOT NULL, finish_reason TEXT NOT NULL, prompt_tokens INTEGER NOT NULL, completion_tokens INTEGER NOT NULL,
  finished REAL NOT NULL);
CREATE TABLE sends (key TEXT NOT NULL, purpose TEXT NOT NULL, sent REAL NOT NULL);
CREATE TABLE scores (
  key TEXT PRIMARY KEY, model TEXT NOT NULL, nats REAL, tokens INTEGER NOT NULL, finished REAL NOT NULL);
"""


class CallStore:
    """The run's `calls.sqlite`."""

    def __init__(self, path: Path) -> None:
        """Open the file, or make it.

        Raises:
            DataError: The file is not such a store, or cannot be opened; then it is left as it was.
        """
        self.path = path
        with _errors_of(path):
            self._db = sqlite3.connect(path, isolation_level=None)
            try:
                _begin_if_empty(self._db)
                _check_ours(self._db, path, (APPLICATION_ID,))
                self._db.execute("PRAGMA journal_mode=WAL")
                self._db.execute("PRAGMA synchronous=NORMAL")
            except BaseException:
                self._db.close()
                raise

    @classmethod
    def read_only(cls, path: Path) -> "CallStore":
        """Open a store to look into it, also in a folder that cannot be written; nothing in the file is changed.

        Where SQLite cannot read the write-ahead log of a stopped run (a folder that cannot be written, and the log's
        index missing), the completions that stand only in that log are not seen.

        Raises:
            DataError: The file is not such a store, or cannot be opened.
        """
        store = cls.__new__(cls)
        store.path = path
        # Without a log there is no writer, and `mode=ro` would leave an empty log and its index behind.
        has_log = os.path.exists(f"{path}-wal")  # which, unlike Path.exists, says no where it may not look
        with _errors_of(path):
            try:
                store._db = _opened_to_read(path, "mode=ro" if has_log else "immutable=1")
            except sqlite3.OperationalError:
                store._db = _opened_to_read(path, "immutable=1")
        return store

    def close(self) -> None:
        """Close the file."""
        self._db.close()

    def completions(self, keys: Sequence[str]) -> dict[str, Completion]:
        """Return the stored completions among `keys`."""
        found = self._lookup("SELECT key, text, finish_reason, prompt_tokens, completion_tokens FROM calls", keys)
        return {key: Completion(text, reason, prompt, written, key) for key, text, reason, prompt, written in found}

    def scores(self, keys: Sequence[str]) -> dict[str, tuple[float, int]]:
        """Return the stored `(nats, tokens)` among `keys`; nats are nan where the scorer gave none."""
        found = self._lookup("SELECT key, nats, tokens FROM scores", keys)
        return {key: (math.nan if nats is None else nats, tokens) for key, nats, tokens in found}

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
        with _errors_of(self.path):
            self._db.execute(
                "INSERT OR IGNORE INTO calls VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
                (key, model, request.purpose, request.prompt, json.dumps(params), completion.text,
                 completion.finish_reason, completion.prompt_tokens, completion.completion_tokens, time.time()),
            )  # fmt: skip

    def add_scores(self, model: str, scores: Sequence[tuple[str, float, int]]) -> None:
        """Commit a batch of scores at once; SQLite stores nan as NULL."""
        now = time.time()
        with self._transaction():
            self._db.executemany(
                "INSERT OR REPLACE INTO scores VALUES (?, ?, ?, ?, ?)", [(k, model, n, t, now) for k, n, t in scores]
            )

    def account(self) -> dict[str, dict[str, int]]:
        """Return, per purpose, how many requests were sent and completed and the tokens they took."""
        rows = self._rows(
            "SELECT purpose, COUNT(*), SUM(prompt_tokens), SUM(completion_tokens) FROM calls GROUP BY purpose ORDER BY 1"
        )
        sent = dict(self._rows("SELECT purpose, COUNT(*) FROM sends GROUP BY purpose"))
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
        return int(self._rows(query)[0][0])

    def call(self, key: str) -> dict[str, Any] | None:
        """Return one stored call with its prompt, or None."""
        with _errors_of(self.path):
            cursor = self._db.execute("SELECT * FROM calls WHERE key = ?", (key,))
            row = cursor.fetchone()
        return dict(zip([column[0] for column in cursor.description], row, strict=True)) if row else None

    def _lookup(self, select: str, keys: Sequence[str]) -> list[Any]:
        found: list[Any] = []
        for start in range(0, len(keys), 500):
            part = keys[start : start + 500]
            found += self._rows(f"{select} WHERE key IN ({','.join('?' * len(part))})", part)
        return found

    def _rows(self, query: str, values: Sequence[str] = ()) -> list[Any]:
        with _errors_of(self.path):
            return self._db.execute(query, values).fetchall()

    @contextmanager
    def _transaction(self) -> Iterator[None]:
        with _errors_of(self.path):
            self._db.execute("BEGIN")
            with self._db:
                yield


@contextmanager
def _errors_of(path: Path) -> Iterator[None]:
    """Say of SQLite's errors which file they are about.

    Raises:
        DataError: In place of each of them.
    """
    try:
        yield
    except sqlite3.OperationalError as error:  # locked, full, not to be opened or written: the file itself may be sound
        raise DataError(f"{path}: this store of completions cannot be used ({error})") from None
    except sqlite3.Error as error:
        raise _not_a_store(path, str(error)) from None


def _not_a_store(path: Path, cause: str) -> DataError:
    return DataError(f"{path}: not a store of completions ({cause}); move it away to begin anew")


def _opened_to_read(path: Path, mode: str) -> sqlite3.Connection:
    db = sqlite3.connect(f"{path.absolute().as_uri()}?{mode}", isolation_level=None, uri=True)
    try:
        # A run made before the id was written has 0; whoever only reads does no harm to a file that has our tables.
        _check_ours(db, path, (APPLICATION_ID, 0))
    except BaseException:
        db.close()
        raise
    return db


def _begin_if_empty(db: sqlite3.Connection) -> None:
    """Make the tables in a file that holds nothing yet, all at once: a stop leaves a whole store or an empty file."""
    if _application_id(db) == 0 and db.execute("SELECT COUNT(*) FROM sqlite_master").fetchone()[0] == 0:
        db.executescript(f"BEGIN IMMEDIATE; {SCHEMA} PRAGMA application_id={APPLICATION_ID}; COMMIT;")


def _check_ours(db: sqlite3.Connection, path: Path, ids: Sequence[int]) -> None:
    """Refuse a database of another program, or with other columns than ours.

    Raises:
        DataError: It is one.
    """
    with closing(sqlite3.connect(":memory:")) as new:
        new.executescript(SCHEMA)
        expected = _columns(new)
    if (found := _application_id(db)) not in ids:
        raise _not_a_store(path, f"its application id is {found:#x}, not {APPLICATION_ID:#x}")
    if _columns(db) != expected:
        raise _not_a_store(path, "its tables or columns are others")


def _application_id(db: sqlite3.Connection) -> int:
    return int(db.execute("PRAGMA application_id").fetchone()[0])


def _columns(db: sqlite3.Connection) -> list[tuple[str, str]]:
    query = """
    SELECT found.name, columns.name FROM sqlite_master AS found, pragma_table_info(found.name) AS columns
    WHERE found.type = 'table' AND found.name IN ('calls', 'sends', 'scores') ORDER BY found.name, columns.cid
    """
    return db.execute(query).fetchall()


class RecordedEngine:
    """A text engine whose completions are stored and never paid for twice."""

    def __init__(self, engine: TextEngine, store: CallStore, progress: Progress) -> None:
        """Wrap an engine; nothing is sent before `complete` is called."""
        self._engine, self._store, self._progress = engine, store, progress
        self.identity = engine.identity
        self.render = engine.render

    @property
    def templated(self) -> bool:
        """Whether the model has a chat template."""
        return self._engine.templated

    def complete(self, requests: Sequence[Request], label: str) -> list[Completion]:
        """Return the completions in the order of the requests, sending only those that are not stored yet.

        Equal requests are sent once; ask for several samples by numbering them. A refused one is not stored: an engine
        with a longer context would take the prompt.
        """
        keys = [request.key(self.identity) for request in requests]
        known = self._store.completions(keys)
        missing = {key: request for key, request in zip(keys, requests, strict=True) if key not in known}
        if missing:
            self._store.note_sent(list(missing.items()))
            self._progress.begin(label, len(missing))
            tokens = 0
            for key, completion in self._engine.complete(list(missing.items())):
                if completion.finish_reason != "refused":
                    self._store.add(self.identity, key, missing[key], completion)
                known[key] = replace(completion, key=key)
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
        r"""Return :math:`\frac1{|y|}\sum_t \ln p(y_t \mid x, y_{<t})` of each response, in nats per token.

        nan where the scorer gave nan: the row is too long for the model.
        """
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
