"""Lets nobody but the reviewer's own browser through to the review page, and says with every answer what a page may do.

The link that the server prints carries a token; it is exchanged for a cookie that no script can read and no other site
can send along, so that the address of the page is clean. Limits: a browser sends a cookie to every port of this machine,
and while it starts, the link stands among its arguments; so other users of this machine whom you visit with the browser, or
who watch your processes, can learn the token.
"""

import hashlib
import hmac

from starlette.requests import Request
from starlette.responses import HTMLResponse, PlainTextResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

HEADERS = {
    "content-security-policy": "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; "
    "form-action 'self'; frame-ancestors 'none'; base-uri 'none'; img-src data:",
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
    "cache-control": "no-store",
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
}
"""With every answer, refusals included."""
LOCKED = "open the link that `kiloset review` printed in its terminal; this browser has no valid token"


class Guard:
    """Wraps an application: who asks, by which name, and from where is checked before it sees a request."""

    def __init__(self, app: ASGIApp, token: str, port: int) -> None:
        """Take the application, the secret of its link, and the port it is to be asked at."""
        self._app, self._token = app, token
        self._hosts = (f"127.0.0.1:{port}", f"localhost:{port}")
        self._cookie = f"kiloset-{hashlib.sha256(token.encode()).hexdigest()[:8]}"

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request, or hand it on."""
        if scope["type"] != "http":
            return

        async def send_with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                extra = [(name.encode(), value.encode()) for name, value in HEADERS.items()]
                message = {**message, "headers": [*message.get("headers", ()), *extra]}
            await send(message)

        refusal = self._refusal(Request(scope, receive))
        await (refusal or self._app)(scope, receive, send_with_headers)

    def _refusal(self, request: Request) -> Response | None:
        host = request.headers.get("host", "").lower()
        if host not in self._hosts:  # a foreign name that was made to point at this machine
            return PlainTextResponse(f"this page is at http://{self._hosts[0]}\n", 400)
        if "token" in request.query_params:
            if not self._is_token(request.query_params["token"]):
                return PlainTextResponse(f"wrong token: {LOCKED}\n", 403)
            if request.method == "GET" and request.url.path == "/":
                return self._let_in()
        if not self._is_token(request.cookies.get(self._cookie, "")):
            return PlainTextResponse(f"{LOCKED}\n", 403)
        return None if request.method in ("GET", "HEAD") else _foreign(request, host)

    def _is_token(self, said: str) -> bool:
        return hmac.compare_digest(said.encode(), self._token.encode())

    def _let_in(self) -> Response:
        """Set the cookie and go on to the page.

        By the page itself and not by a redirect: after a click on the link in another site's page, a terminal in a browser
        say, a redirect would still count as that site's, and the cookie would stay behind.
        """
        answer = HTMLResponse(
            '<!doctype html><html lang="en"><meta charset="utf-8"><meta http-equiv="refresh" content="0;url=/">'
            '<title>Review</title><a href="/">To the review</a></html>'
        )
        answer.set_cookie(self._cookie, self._token, httponly=True, samesite="strict", path="/")
        return answer


def _foreign(request: Request, host: str) -> Response | None:
    """Refuse what another page makes this browser send."""
    if request.headers.get("origin") != f"http://{host}":
        return PlainTextResponse("the request does not come from this page\n", 403)
    if request.headers.get("sec-fetch-site", "same-origin") != "same-origin":
        return PlainTextResponse("the request comes from another site\n", 403)
    return None
