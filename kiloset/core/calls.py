"""The call store: every completion, score and vector of a run in one SQLite file.

It is the cache that makes a run resumable, the account of its cost, and the raw evidence. A completion is committed as soon
as it is finished, and a request with a stored completion is never sent again. The file survives `kill -9` at any moment
(write-ahead log; the death of a process loses no committed page).
"""

import json
import math
import os
import sqlite3
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

from kiloset.core.errors import DataError
from kiloset.core.models import Completion, Request

LONGEST_GAP = 60
"""Longest time between two completions that counts as work, in seconds."""
LOOKUP_KEYS = 500
"""Keys in one query; SQLite limits the parameters of a query."""
APPLICATION_ID = 0x4B494C4F
"""In the file's header: "KILO"."""

SCHEMA = """
CREATE TABLE calls (
  key TEXT NOT NULL, max_tokens INTEGER NOT NULL, model TEXT NOT NULL, purpose TEXT NOT NULL, prompt TEXT NOT NULL,
  params TEXT NOT NULL, text TEXT NOT NULL, finish_reason TEXT NOT NULL, prompt_tokens INTEGER NOT NULL,
  completion_tokens INTEGER NOT NULL, finished REAL NOT NULL, cached_tokens INTEGER NOT NULL DEFAULT 0,
  PRIMARY KEY (key, max_tokens));
CREATE TABLE waves (number INTEGER PRIMARY KEY, asks TEXT NOT NULL, cut INTEGER NOT NULL);
CREATE TABLE lost (id TEXT PRIMARY KEY, reason TEXT NOT NULL, evidence TEXT NOT NULL);
CREATE TABLE sends (key TEXT NOT NULL, max_tokens INTEGER NOT NULL, purpose TEXT NOT NULL, sent REAL NOT NULL);
CREATE TABLE scores (
  key TEXT PRIMARY KEY, model TEXT NOT NULL, nats REAL, tokens INTEGER NOT NULL, finished REAL NOT NULL);
CREATE TABLE vectors (key TEXT PRIMARY KEY, vector BLOB NOT NULL);
"""

ADDED = ("calls", "cached_tokens")
"""A column that the stores of older versions lack; it is added when a store is opened for writing."""
DROPS = """
CREATE TABLE IF NOT EXISTS drops (id TEXT PRIMARY KEY, stage TEXT NOT NULL, reason TEXT NOT NULL, evidence TEXT,
  measured REAL, "limit" REAL, "twin" TEXT)
"""
"""A table that the stores of older versions lack; it is created when it is needed."""


class CallStore:
    """A run's `calls.sqlite`."""

    is_read_only = False

    def __init__(self, path: Path) -> None:
        """Open the file, or create it.

        Raises:
            DataError: The file is not a call store, or cannot be opened; the file is not changed.
        """
        self.path = path
        with _data_errors(path):
            self._db = sqlite3.connect(path, isolation_level=None)
            try:
                _create_tables(self._db)
                _check_schema(self._db, path, (APPLICATION_ID,))
                if ADDED not in _columns(self._db):
                    self._db.execute("ALTER TABLE calls ADD COLUMN cached_tokens INTEGER NOT NULL DEFAULT 0")
                self._cached = "cached_tokens"
                self._db.execute("PRAGMA journal_mode=WAL")
                self._db.execute("PRAGMA synchronous=NORMAL")
            except BaseException:
                self._db.close()
                raise

    @classmethod
    def read_only(cls, path: Path) -> "CallStore":
        """Open a store for reading, also in a folder without write permission; the file is not changed.

        In such a folder SQLite cannot read the write-ahead log of a stopped run if the log's index is missing; completions
        that are only in the log are then not found.

        Raises:
            DataError: The file is not a call store, or cannot be opened.
        """
        store = cls.__new__(cls)
        store.path, store.is_read_only = path, True
        # Without a log there is no writer, and `mode=ro` would leave an empty log and its index behind.
        # os.path.exists returns False in a folder without permission, where Path.exists raises.
        has_log = os.path.exists(f"{path}-wal")
        with _data_errors(path):
            try:
                store._db = _connect_read_only(path, "mode=ro" if has_log else "immutable=1")
            except sqlite3.OperationalError:
                store._db = _connect_read_only(path, "immutable=1")
            store._cached = "cached_tokens" if ADDED in _columns(store._db) else "0"
        return store

    def copy_to(self, path: Path) -> None:
        """Copy everything except the drops after selection, because with other settings the rows may be kept."""
        partial = path.with_name(f".{path.name}.partial")
        partial.unlink(missing_ok=True)
        with _data_errors(path), closing(sqlite3.connect(partial, isolation_level=None)) as copy:
            self._db.backup(copy)
            copy.execute("PRAGMA journal_mode=DELETE")
            copy.execute("DELETE FROM lost")
            copy.execute(DROPS)
            copy.execute("DELETE FROM drops")
        os.replace(partial, path)

    def close(self) -> None:
        """Close the file."""
        self._db.close()

    # ------------------------------------------------------------------------------------------ the cache

    def completions(self, limits: Mapping[str, int]) -> dict[str, Completion]:
        """Return the stored completions of requests, given as `max_tokens` by key.

        A completion that ended by itself is valid for every limit; under a smaller limit than its length its finish reason
        becomes `length`. A completion that was cut is valid for limits up to its own.
        """
        names = f"key, text, finish_reason, prompt_tokens, completion_tokens, {self._cached}, max_tokens"
        rows = self._lookup(f"SELECT {names} FROM calls", list(limits), "ORDER BY max_tokens")
        completions: dict[str, Completion] = {}
        for key, text, reason, prompt, written, cached, limit in rows:
            is_cut = reason == "length" or written > limits[key]
            if reason != "length" or limit >= limits[key]:
                completions[key] = Completion(text, "length" if is_cut else reason, prompt, written, key, cached)
        return completions

    def note_sent(self, requests: Sequence[tuple[str, Request]]) -> None:
        """Record that `(key, request)` pairs are sent now."""
        now = time.time()
        rows = [(key, request.max_tokens, request.purpose, now) for key, request in requests]
        self._insert("INSERT INTO sends VALUES (?, ?, ?, ?)", rows)

    def add(self, model: str, key: str, request: Request, completion: Completion) -> None:
        """Commit a completion."""
        params: dict[str, Any] = {"temperature": request.temperature, "top_p": request.top_p}
        params |= {"stop": list(request.stop), "sample": request.sample, "raw": request.raw, "schema": request.schema}
        row = (
            key, request.max_tokens, model, request.purpose, request.prompt, json.dumps(params), completion.text,
            completion.finish_reason, completion.prompt_tokens, completion.completion_tokens, time.time(),
            completion.cached_tokens,
        )  # fmt: skip
        with _data_errors(self.path):
            self._db.execute("INSERT OR IGNORE INTO calls VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)", row)

    def scores(self, keys: Sequence[str]) -> dict[str, tuple[float, int]]:
        """Return the stored `(nats, tokens)` by key; nats are nan for a row that the scorer could not score."""
        rows = self._lookup("SELECT key, nats, tokens FROM scores", keys)
        return {key: (math.nan if nats is None else nats, tokens) for key, nats, tokens in rows}

    def add_scores(self, model: str, scores: Sequence[tuple[str, float, int]]) -> None:
        """Commit `(key, nats, tokens)` in one transaction; SQLite stores nan as NULL."""
        now = time.time()
        rows = [(key, model, nats, tokens, now) for key, nats, tokens in scores]
        self._insert("INSERT OR REPLACE INTO scores VALUES (?, ?, ?, ?, ?)", rows)

    def vectors(self, keys: Sequence[str]) -> dict[str, bytes]:
        """Return the stored vectors by key, as bytes."""
        return dict(self._lookup("SELECT key, vector FROM vectors", keys))

    def add_vectors(self, vectors: Sequence[tuple[str, bytes]]) -> None:
        """Commit vectors in one transaction; a stored vector is never replaced."""
        self._insert("INSERT OR IGNORE INTO vectors VALUES (?, ?)", vectors)

    # ------------------------------------------------------------------------------------------ the account

    def account(self) -> dict[str, dict[str, int]]:
        """Return the requests sent and completed and their tokens, by purpose."""
        rows = self._rows(
            "SELECT purpose, COUNT(*), SUM(prompt_tokens), SUM(completion_tokens) FROM calls GROUP BY purpose ORDER BY 1"
        )
        sent = dict(self._rows("SELECT purpose, COUNT(*) FROM sends GROUP BY purpose"))
        names = ("sent", "completed", "prompt_tokens", "completion_tokens")
        return {purpose: dict(zip(names, (sent.get(purpose, 0), *counts), strict=True)) for purpose, *counts in rows}

    def cached_tokens(self) -> dict[str, int]:
        """Return the prompt tokens that the engine took from its prefix cache, by purpose.

        They are not part of `account`, because they depend on the order of the requests in the engine.
        """
        return dict(self._rows(f"SELECT purpose, SUM({self._cached}) FROM calls GROUP BY purpose ORDER BY 1"))

    def spent(self, purposes: Sequence[str]) -> tuple[int, int, float]:
        """Return `(completions, prompt and completion tokens, hours)` of the requests for these purposes.

        The hours add up the gaps between completions. A gap counts for at most a minute, because a run may be interrupted.
        """
        among = f"purpose IN ({','.join('?' * len(purposes))})"
        select = f"SELECT finished - LAG(finished) OVER (ORDER BY finished) AS gap FROM calls WHERE {among}"
        (seconds,) = self._rows(f"SELECT TOTAL(MIN(gap, {LONGEST_GAP})) FROM ({select})", purposes)[0]
        return *self._usage(among, purposes), float(seconds) / 3600

    def superseded(self, purposes: Sequence[str]) -> tuple[int, int]:
        """Return `(completions, prompt and completion tokens)` that were cut and later requested with a larger limit."""
        newer = "SELECT 1 FROM calls AS newer WHERE newer.key = calls.key AND newer.max_tokens > calls.max_tokens"
        among = f"purpose IN ({','.join('?' * len(purposes))})"
        return self._usage(f"{among} AND finish_reason = 'length' AND EXISTS ({newer})", purposes)

    def drops(self) -> list[tuple[Any, ...]]:
        """Return `(id, stage, reason, evidence, measured, limit, twin)` of the rows that earlier passes dropped."""
        known = self._rows("SELECT name FROM sqlite_master WHERE name = 'drops'")
        return self._rows("SELECT * FROM drops ORDER BY id") if known else []

    def set_drops(self, rows: Sequence[tuple[Any, ...]]) -> None:
        """Store the verdicts of a whole pass in place of those of earlier passes."""
        with _data_errors(self.path):
            self._db.execute(DROPS)
        self._insert("INSERT OR REPLACE INTO drops VALUES (?, ?, ?, ?, ?, ?, ?)", rows)

    def resent_after_completion(self) -> int:
        """Return how many requests were sent although a valid completion was stored; the store promises 0.

        A completion that was cut is not valid for a request with a larger limit.
        """
        query = """
        SELECT COUNT(*) FROM sends JOIN calls USING (key)
        WHERE sends.sent > calls.finished AND (calls.finish_reason <> 'length' OR calls.max_tokens >= sends.max_tokens)
        """
        return int(self._rows(query)[0][0])

    def call(self, key: str) -> dict[str, Any] | None:
        """Return the stored call of a key with its prompt, the one with the largest limit; None if there is none."""
        with _data_errors(self.path):
            cursor = self._db.execute("SELECT * FROM calls WHERE key = ? ORDER BY max_tokens DESC", (key,))
            row = cursor.fetchone()
        return dict(zip([column[0] for column in cursor.description], row, strict=True)) if row else None

    # ------------------------------------------------------------------------------------------ the state of generation

    def waves(self) -> list[Any]:
        """Return the plan of each wave of generation, in order, as JSON values."""
        return [json.loads(asks) for (asks,) in self._rows("SELECT asks FROM waves ORDER BY number")]

    def whole_waves(self) -> int:
        """Return the number of waves that no limit reduced."""
        return int(self._rows("SELECT COUNT(*) FROM waves WHERE NOT cut")[0][0])

    def add_wave(self, asks: Any, *, cut: bool = False) -> None:
        """Store the plan of the next wave before it sends a request, so that a resumed wave is the same.

        Args:
            asks: The plan, a JSON value.
            cut: Whether a limit reduced the plan.
        """
        query = "INSERT INTO waves VALUES ((SELECT COUNT(*) FROM waves), ?, ?)"
        with _data_errors(self.path):
            self._db.execute(query, (json.dumps(asks), cut))

    def dropped_after_selection(self) -> dict[str, tuple[str, str]]:
        """Return `(reason, evidence)` by id of the rows that were selected once and that a later stage dropped."""
        return {id: (reason, evidence) for id, reason, evidence in self._rows("SELECT * FROM lost ORDER BY id")}

    def add_dropped_after_selection(self, rows: Sequence[tuple[str, str, str]]) -> None:
        """Store `(id, reason, evidence)` of selected rows that a later stage dropped; selection then replaces them."""
        self._insert("INSERT OR IGNORE INTO lost VALUES (?, ?, ?)", rows)

    # ------------------------------------------------------------------------------------------ queries

    def _usage(self, condition: str, values: Sequence[str]) -> tuple[int, int]:
        select = f"SELECT COUNT(*), TOTAL(prompt_tokens + completion_tokens) FROM calls WHERE {condition}"
        requests, tokens = self._rows(select, values)[0]
        return int(requests), int(tokens)

    def _lookup(self, select: str, keys: Sequence[str], order: str = "") -> list[Any]:
        rows: list[Any] = []
        for start in range(0, len(keys), LOOKUP_KEYS):
            part = keys[start : start + LOOKUP_KEYS]
            rows += self._rows(f"{select} WHERE key IN ({','.join('?' * len(part))}) {order}", part)
        return rows

    def _rows(self, query: str, values: Sequence[str] = ()) -> list[Any]:
        with _data_errors(self.path):
            return self._db.execute(query, values).fetchall()

    def _insert(self, statement: str, rows: Sequence[tuple[Any, ...]]) -> None:
        """Insert rows in one transaction."""
        with _data_errors(self.path):
            self._db.execute("BEGIN")
            with self._db:
                self._db.executemany(statement, rows)


@contextmanager
def _data_errors(path: Path) -> Iterator[None]:
    """Turn SQLite's errors into errors that name the file.

    Raises:
        DataError: In place of each of them.
    """
    try:
        yield
    except sqlite3.OperationalError as error:  # locked, full, no permission: the file itself may be intact
        raise DataError("KS001", f"{path}: this store of completions cannot be used ({error})") from None
    except sqlite3.Error as error:
        raise _not_a_store(path, str(error)) from None


def _not_a_store(path: Path, cause: str) -> DataError:
    return DataError("KS002", f"{path}: not a store of completions ({cause}); move it away to begin anew")


def _connect_read_only(path: Path, mode: str) -> sqlite3.Connection:
    db = sqlite3.connect(f"{path.absolute().as_uri()}?{mode}", isolation_level=None, uri=True)
    try:
        # Older runs have the id 0. Reading is harmless, so a file with our tables is accepted.
        _check_schema(db, path, (APPLICATION_ID, 0))
    except BaseException:
        db.close()
        raise
    return db


def _create_tables(db: sqlite3.Connection) -> None:
    """Create the tables in an empty file, in one transaction: an interruption leaves a complete store or an empty file."""
    if _application_id(db) == 0 and db.execute("SELECT COUNT(*) FROM sqlite_master").fetchone()[0] == 0:
        db.executescript(f"BEGIN IMMEDIATE; {SCHEMA} PRAGMA application_id={APPLICATION_ID}; COMMIT;")


def _check_schema(db: sqlite3.Connection, path: Path, ids: Sequence[int]) -> None:
    """Check that a database is a call store with the current tables and columns, or lacks only the column `ADDED`.

    Raises:
        DataError: It is another program's, or has other tables or columns.
    """
    with closing(sqlite3.connect(":memory:")) as new:
        new.executescript(SCHEMA)
        expected = _columns(new)
    if (application_id := _application_id(db)) not in ids:
        raise _not_a_store(path, f"its application id is {application_id:#x}, not {APPLICATION_ID:#x}")
    if _columns(db) not in (expected, [column for column in expected if column != ADDED]):
        raise _not_a_store(path, "its tables or columns are others")


def _application_id(db: sqlite3.Connection) -> int:
    return int(db.execute("PRAGMA application_id").fetchone()[0])


def _columns(db: sqlite3.Connection) -> list[tuple[str, str]]:
    query = """
    SELECT tables.name, columns.name FROM sqlite_master AS tables, pragma_table_info(tables.name) AS columns
    WHERE tables.type = 'table' AND tables.name IN ('calls', 'waves', 'lost', 'sends', 'scores', 'vectors')
    ORDER BY tables.name, columns.cid
    """
    return db.execute(query).fetchall()
