"""Start and end the review page: its run, its link, its port."""

import os
import re
import secrets
import signal
import socket
import sys
import threading
import webbrowser
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path

from kiloset.core.blind_sample import Drawn, not_blind, precision_of, read_sample, whole_precision, write_sample
from kiloset.core.errors import DataError
from kiloset.core.review import ReviewFile, open_review_file
from kiloset.core.run import RunFolder
from kiloset.data.curated import is_edited
from kiloset.review.rows import Rows, read_rows, with_sample
from kiloset.review.sample import draw_sample

LINK = re.compile(r"([A-Za-z0-9_-]{43})\n(\d{1,5})\n")
"""Content of `.review-token`: the token, and the last port."""


def review(
    folder: RunFolder,
    port: int | None,
    browse: Callable[[str], object] | None,
    say: Callable[[str], None],
    sample: int | None = None,
) -> None:
    """Serve the review of a run on 127.0.0.1 until it is interrupted; every decision is on disk before it is confirmed.

    The link stays the same: token and port are stored in the run's folder, readable by its owner alone.

    Args:
        folder: The run; `review.jsonl` and `.review-token` in it are written.
        port: Port to listen on; by default the port of this run's last review, or a free one.
        browse: Opens a link, if given.
        say: Prints the link, and at the end the number of decisions.
        sample: Draws so many rows of the set for a blind reading, and opens the page with them.

    Raises:
        DataError: The run is not finished or its curated.jsonl was edited by hand; another review of it is open; a file
            cannot be read or written; the port is taken.
    """
    rows = read_rows(folder)
    check_untouched(folder)
    drawn = read_sample(folder.sample)
    with open_review_file(folder.review) as file:
        kept = folder.path / ".review-token"
        token, last = _read_link(kept)
        with _listener(port, last) as listener:
            at = listener.getsockname()[1]
            _write_link(kept, token, at)
            link = f"http://127.0.0.1:{at}/?token={token}"
            if sample is not None:
                # Only now, so that a review that cannot start leaves the sample as it is.
                before = len(drawn)
                if before < sample:
                    drawn = draw_sample(rows, sample, drawn)
                    write_sample(folder.sample, drawn)
                    rows = with_sample(rows, drawn)
                say(f"{folder.path.name}: {sample_beginning(sample, before, drawn, file)}")

            def announce() -> None:
                say(f"{folder.path.name}: the review is at {link} (Ctrl-C ends it)")
                if browse is not None:
                    threading.Thread(target=browse, args=(link,), daemon=True).start()

            start = "/?sample=yes" if sample is not None else "/"
            _serve(folder, rows, file, token, listener, start, announce)
        say(ending(file))
        if drawn:
            say(sample_ending(drawn, file))


def browser() -> Callable[[str], object] | None:
    """Return a function that opens a link; None without a screen, because a text browser would take over the terminal."""
    has_screen = sys.platform in ("darwin", "win32") or os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY")
    return webbrowser.open if has_screen else None


def check_untouched(folder: RunFolder) -> None:
    """Check that decisions can be applied.

    Raises:
        DataError: curated.jsonl was edited by hand.
    """
    if is_edited(folder):
        raise DataError(
            "KS703",
            f"{folder.curated}: was edited by hand, so that `kiloset dataset` leaves it alone and cannot apply a review; "
            "move it away and run `kiloset dataset` again, then review",
        )


def ending(file: ReviewFile) -> str:
    """Return the message at the end of a review."""
    counts = Counter(decision.verdict for decision in file.decisions.values())
    if not counts:
        return "no decisions"
    verdicts = ", ".join(f"{counts[verdict]} {verdict}ed" for verdict in ("accept", "reject") if counts[verdict])
    stand = "1 decision" if counts.total() == 1 else f"{counts.total()} decisions"
    return f"{stand} ({verdicts}); `kiloset dataset` applies {'it' if counts.total() == 1 else 'them'}"


def sample_beginning(wanted: int, before: int, sample: Sequence[Drawn], file: ReviewFile) -> str:
    """Return what was drawn, and what to do with it."""
    parts = [f"{len(sample)} rows of the set drawn at random"]
    if before:
        parts.append(f"{before} of them before")
    if len(sample) < wanted:
        parts.append("all that the set has")
    known = not_blind(sample, file.decisions)
    counts = f"; {known} of them were decided before with their figures visible and do not count" if known else ""
    return f"{', '.join(parts)}{counts}. Accept a row that is right as it is, reject or correct any other; the report has the share"


def sample_ending(sample: Sequence[Drawn], file: ReviewFile) -> str:
    """Return what is known of the drawn rows."""
    whole = whole_precision(precision_of(sample, file.decisions).values())
    return f"blind sample: {whole.read} of {whole.drawn} rows read; right: {whole}"


def _serve(
    folder: RunFolder, rows: Rows, file: ReviewFile, token: str, listener: socket.socket, start: str,
    announce: Callable[[], None],
) -> None:  # fmt: skip
    import uvicorn

    from kiloset.review.guard import AccessGuard
    from kiloset.review.server import ReviewServer

    guarded = AccessGuard(ReviewServer(folder, rows, file).app(), token, listener.getsockname()[1], start)
    config = uvicorn.Config(
        guarded, http="h11", ws="none", lifespan="off", log_config=None, log_level="error", access_log=False,
        server_header=False, proxy_headers=False, timeout_graceful_shutdown=2,
    )  # fmt: skip
    server = uvicorn.Server(config)

    # Ctrl-C may come as soon as the link is printed, before uvicorn has a handler; while it serves it has its own, and raises
    # the signal again at its end for this one.
    def end(*_: object) -> None:
        server.should_exit = True

    before = signal.signal(signal.SIGINT, end)
    try:
        announce()
        server.run(sockets=[listener])
    finally:
        signal.signal(signal.SIGINT, before)


def _listener(port: int | None, last: int) -> socket.socket:
    """Return a socket that only this machine can reach."""
    for at in (port,) if port is not None else (last, 0):
        listener = socket.socket()
        # Connections of a killed server would block the port for a minute.
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            listener.bind(("127.0.0.1", at))
            listener.listen()
        except OSError as error:
            listener.close()
            refused = error.strerror
        else:
            return listener
    raise DataError(
        "KS704", f"--port {port}: cannot be used ({refused}); choose another port, or leave it out for a free one"
    )


def _read_link(path: Path) -> tuple[str, int]:
    """Return token and port of the last review of this run; a new token and 0 if there was none."""
    try:
        match = LINK.fullmatch(path.read_text(encoding="ascii")) if path.exists() else None
    except (OSError, UnicodeDecodeError):
        match = None
    at = int(match[2]) if match else 0
    return (match[1], at) if match and at <= 65535 else (secrets.token_urlsafe(32), 0)


def _write_link(path: Path, token: str, port: int) -> None:
    """Write token and port for the next review of this run, readable by its owner alone."""
    temporary = path.with_name(f"{path.name}.partial")
    try:
        temporary.unlink(missing_ok=True)
        with os.fdopen(os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w", encoding="ascii") as file:
            file.write(f"{token}\n{port}\n")
        os.replace(temporary, path)
    except OSError as error:
        raise DataError("KS705", f"{path}: cannot be written ({error.strerror})") from None
