"""Every completion, score and vector that was paid for, in one SQLite file: resume mechanism, cost account and raw evidence.

A completion is committed as it finishes, before anything counts on it; a request found here is never sent again.
The file survives `kill -9` at any moment (write-ahead log; a process's death loses no committed page).
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
"""Seconds between two completions that still count as work."""

APPLICATION_ID = 0x4B494C4F
"""In the file's header: "KILO"."""

SCHEMA = """
CREATE TABLE calls (
  key TEXT NOT NULL, max_tokens INTEGER NOT NULL, model TEXT NOT NULL, purpose TEXT NOT NULL, prompt TEXT NOT NULL,
  params TEXT NOT NULL, text TEXT NOT NULL, finish_reason TEXT NOT NULL, prompt_tokens INTEGER NOT NULL,
  completion_tokens INTEGER NOT NULL, finished REAL NOT NULL, PRIMARY KEY (key, max_tokens));
CREATE TABLE waves (number INTEGER PRIMARY KEY, asks TEXT NOT NULL, cut INTEGER NOT NULL);
CREATE TABLE lost (id TEXT PRIMARY KEY, reason TEXT NOT NULL, evidence TEXT NOT NULL);
CREATE TABLE sends (key TEXT NOT NULL, max_tokens INTEGER NOT NULL, purpose TEXT NOT NULL, sent REAL NOT NULL);
CREATE TABLE scores (
  key TEXT PRIMARY KEY, model TEXT NOT NULL, nats REAL, tokens INTEGER NOT NULL, finished REAL NOT NULL);
CREATE TABLE vectors (key TEXT PRIMARY KEY, vector BLOB NOT NULL);
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

    def copy_to(self, path: Path) -> None:
        """Write a new store with all that was paid for here; not what selection lost, for other settings may keep it."""
        partial = path.with_name(f".{path.name}.partial")
        partial.unlink(missing_ok=True)
        with _errors_of(path), closing(sqlite3.connect(partial, isolation_level=None)) as copy:
            self._db.backup(copy)
            copy.execute("PRAGMA journal_mode=DELETE")
            copy.execute("DELETE FROM lost")
        os.replace(partial, path)

    def close(self) -> None:
        """Close the file."""
        self._db.close()

    def completions(self, limits: Mapping[str, int]) -> dict[str, Completion]:
        """Return the stored completions among `limits`, a request's `max_tokens` by its key.

        One that ended by itself counts under any limit, as cut (`length`) under one it would not have kept; one that was
        cut counts unless the limit is larger now.
        """
        select = "SELECT key, text, finish_reason, prompt_tokens, completion_tokens, max_tokens FROM calls"
        found: dict[str, Completion] = {}
        for key, text, reason, prompt, written, limit in self._lookup(select, list(limits), "ORDER BY max_tokens"):
            cut = reason == "length" or written > limits[key]
            if reason != "length" or limit >= limits[key]:
                found[key] = Completion(text, "length" if cut else reason, prompt, written, key)
        return found

    def scores(self, keys: Sequence[str]) -> dict[str, tuple[float, int]]:
        """Return the stored `(nats, tokens)` among `keys`; nats are nan where the scorer gave none."""
        found = self._lookup("SELECT key, nats, tokens FROM scores", keys)
        return {key: (math.nan if nats is None else nats, tokens) for key, nats, tokens in found}

    def note_sent(self, requests: Sequence[tuple[str, Request]]) -> None:
        """Record that these requests go to the engine now."""
        now = time.time()
        with self._transaction():
            self._db.executemany(
                "INSERT INTO sends VALUES (?, ?, ?, ?)", [(key, r.max_tokens, r.purpose, now) for key, r in requests]
            )

    def add(self, model: str, key: str, request: Request, completion: Completion) -> None:
        """Commit a completion."""
        params: dict[str, Any] = {"temperature": request.temperature, "top_p": request.top_p}
        params |= {"stop": list(request.stop), "sample": request.sample, "raw": request.raw, "schema": request.schema}
        with _errors_of(self.path):
            self._db.execute(
                "INSERT OR IGNORE INTO calls VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
                (key, request.max_tokens, model, request.purpose, request.prompt, json.dumps(params), completion.text,
                 completion.finish_reason, completion.prompt_tokens, completion.completion_tokens, time.time()),
            )  # fmt: skip

    def add_scores(self, model: str, scores: Sequence[tuple[str, float, int]]) -> None:
        """Commit a batch of scores at once; SQLite stores nan as NULL."""
        now = time.time()
        with self._transaction():
            self._db.executemany(
                "INSERT OR REPLACE INTO scores VALUES (?, ?, ?, ?, ?)", [(k, model, n, t, now) for k, n, t in scores]
            )

    def vectors(self, keys: Sequence[str]) -> dict[str, bytes]:
        """Return the stored vectors among `keys`, as bytes."""
        return dict(self._lookup("SELECT key, vector FROM vectors", keys))

    def add_vectors(self, vectors: Sequence[tuple[str, bytes]]) -> None:
        """Commit a batch of vectors at once; the first of a key stays."""
        with self._transaction():
            self._db.executemany("INSERT OR IGNORE INTO vectors VALUES (?, ?)", vectors)

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

    def spent(self, purposes: Sequence[str]) -> tuple[int, int, float]:
        """Return `(completions, prompt and written tokens, hours)` that requests for these purposes took.

        The hours are those between completions, a gap of over a minute counted as one: a run may have been interrupted.
        """
        among = f"WHERE purpose IN ({','.join('?' * len(purposes))})"
        select = f"SELECT finished - LAG(finished) OVER (ORDER BY finished) AS gap FROM calls {among}"
        (seconds,) = self._rows(f"SELECT TOTAL(MIN(gap, {LONGEST_GAP})) FROM ({select})", purposes)[0]
        total = f"SELECT COUNT(*), TOTAL(prompt_tokens + completion_tokens) FROM calls {among}"
        requests, tokens = self._rows(total, purposes)[0]
        return int(requests), int(tokens), float(seconds) / 3600

    def superseded(self, purposes: Sequence[str]) -> tuple[int, int]:
        """Return `(completions, prompt and written tokens)` that were cut and later asked for with a larger limit."""
        newer = (
            "EXISTS (SELECT 1 FROM calls AS newer WHERE newer.key = calls.key AND newer.max_tokens > calls.max_tokens)"
        )
        among = f"purpose IN ({','.join('?' * len(purposes))}) AND finish_reason = 'length' AND {newer}"
        total = f"SELECT COUNT(*), TOTAL(prompt_tokens + completion_tokens) FROM calls WHERE {among}"
        requests, tokens = self._rows(total, purposes)[0]
        return int(requests), int(tokens)

    def waves(self) -> list[Any]:
        """Return what each wave of generation asked for, in order; JSON values as they were noted."""
        return [json.loads(asks) for (asks,) in self._rows("SELECT asks FROM waves ORDER BY number")]

    def whole_waves(self) -> int:
        """Return how many waves asked for all that was wanted."""
        return int(self._rows("SELECT COUNT(*) FROM waves WHERE NOT cut")[0][0])

    def add_wave(self, asks: Any, *, cut: bool = False) -> None:
        """Note what the next wave asks for, before it sends anything: a wave once begun is the same ever after.

        `cut` says that a limit allowed only a part of what was wanted.
        """
        with _errors_of(self.path):
            query = "INSERT INTO waves VALUES ((SELECT COUNT(*) FROM waves), ?, ?)"
            self._db.execute(query, (json.dumps(asks), cut))

    def lost(self) -> dict[str, tuple[str, str]]:
        """Return `(reason, evidence)` of the rows, by id, that were selected once and lost afterwards."""
        return {id: (reason, evidence) for id, reason, evidence in self._rows("SELECT * FROM lost ORDER BY id")}

    def add_lost(self, rows: Sequence[tuple[str, str, str]]) -> None:
        """Note `(id, reason, evidence)` of rows that later stages dropped, so that selection takes others for them."""
        with self._transaction():
            self._db.executemany("INSERT OR IGNORE INTO lost VALUES (?, ?, ?)", rows)

    def resent_after_completion(self) -> int:
        """Return how many requests were sent although a completion that counts was stored; 0 is the promise.

        A completion that was cut counts for no request with a larger limit.
        """
        query = """
        SELECT COUNT(*) FROM sends JOIN calls USING (key)
        WHERE sends.sent > calls.finished AND (calls.finish_reason <> 'length' OR calls.max_tokens >= sends.max_tokens)
        """
        return int(self._rows(query)[0][0])

    def call(self, key: str) -> dict[str, Any] | None:
        """Return one stored call with its prompt, that of the largest limit, or None."""
        with _errors_of(self.path):
            cursor = self._db.execute("SELECT * FROM calls WHERE key = ? ORDER BY max_tokens DESC", (key,))
            row = cursor.fetchone()
        return dict(zip([column[0] for column in cursor.description], row, strict=True)) if row else None

    def _lookup(self, select: str, keys: Sequence[str], order: str = "") -> list[Any]:
        found: list[Any] = []
        for start in range(0, len(keys), 500):
            part = keys[start : start + 500]
            found += self._rows(f"{select} WHERE key IN ({','.join('?' * len(part))}) {order}", part)
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
        raise DataError("KS001", f"{path}: this store of completions cannot be used ({error})") from None
    except sqlite3.Error as error:
        raise _not_a_store(path, str(error)) from None


def _not_a_store(path: Path, cause: str) -> DataError:
    return DataError("KS002", f"{path}: not a store of completions ({cause}); move it away to begin anew")


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
    WHERE found.type = 'table' AND found.name IN ('calls', 'waves', 'lost', 'sends', 'scores', 'vectors') ORDER BY found.name, columns.cid
    """
    return db.execute(query).fetchall()
