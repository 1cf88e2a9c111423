"""What the review page sends: forms of limited size, and texts that come back from fields."""

from urllib.parse import parse_qsl

from starlette.requests import Request

LARGEST = 2_000_000
"""Bytes of a request's body."""


class Refused(Exception):
    """A request that cannot be met, with the status of the answer."""

    def __init__(self, status: int, said: str) -> None:
        """Say why."""
        super().__init__(said)
        self.status = status


def sent(text: str) -> str:
    """Return a text that a form brought, with its line feeds as the table has them."""
    return text.replace("\r\n", "\n")


def kept(now: str, came: str) -> str:
    """Return a text that came back from a field: as it was, where nobody touched it.

    A field turns CRLF and CR into LF and U+0000 into U+FFFD; a text that differs by these alone was not edited.
    """
    came = sent(came)
    untouched = now.replace("\r\n", "\n").replace("\r", "\n").replace("\0", "\ufffd")
    return now if came == untouched else came


async def read_form(request: Request) -> dict[str, str]:
    """Read a form of limited size; the rest of a larger one is read and forgotten, so that the browser hears the answer.

    Raises:
        Refused: It is larger, or no form.
    """
    parts, size = [], 0
    async for part in request.stream():
        size += len(part)
        if size <= LARGEST:
            parts.append(part)
    if size > LARGEST:
        raise Refused(413, f"NOT saved: larger than {LARGEST:,} bytes")
    if not request.headers.get("content-type", "").startswith("application/x-www-form-urlencoded"):
        raise Refused(415, "must be a form")
    try:
        return dict(
            parse_qsl(b"".join(parts).decode("ascii"), keep_blank_values=True, errors="strict", max_num_fields=20)
        )
    except ValueError:
        raise Refused(400, "not a form in UTF-8") from None
