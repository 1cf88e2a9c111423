"""Read the forms that the review page sends: their size is limited, and unedited texts come back unchanged."""

from urllib.parse import parse_qsl

from starlette.requests import Request

LARGEST = 2_000_000
"""Largest body of a request, in bytes."""


class Refused(Exception):
    """A request that is refused, with the status of the response."""

    def __init__(self, status: int, message: str) -> None:
        """Take the status and the message."""
        super().__init__(message)
        self.status = status


def from_form(text: str) -> str:
    """Return a text of a form with the line feeds of the table."""
    return text.replace("\r\n", "\n")


def edited_text(now: str, field: str) -> str:
    """Return the text of a field, or the text before, `now`, if nobody edited it.

    A field turns CRLF and CR into LF and U+0000 into U+FFFD; a text with only these differences was not edited.
    """
    field = from_form(field)
    untouched = now.replace("\r\n", "\n").replace("\r", "\n").replace("\0", "\ufffd")
    return now if field == untouched else field


async def read_form(request: Request) -> dict[str, str]:
    """Read a form. The rest of a body that is too large is read and discarded, so that the browser receives the response.

    Raises:
        Refused: The body is too large, or no form.
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
