"""Allow only the reviewer's own browser to open the review page, and send a security policy with every response.

The printed link contains a token. The server exchanges it for a cookie that no script can read and no other site can send, so
the address of the page does not contain it. Limits: a browser sends a cookie to every port of this machine, and the link is
among the browser's arguments while it starts. So another user of this machine can learn the token if you open a page of his
with the browser, or if he can list your processes.
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
"""Headers of every response, refusals included."""
LOCKED = "open the link that `kiloset review` printed in its terminal; this browser has no valid token"


class AccessGuard:
    """Wraps an application and checks token, host and origin of a request before the application receives it."""

    def __init__(self, app: ASGIApp, token: str, port: int, start: str = "/") -> None:
        """Take the application, the token of its link, its port, and the address of the page that the link opens."""
        self._app, self._token, self._start = app, token, start
        self._hosts = (f"127.0.0.1:{port}", f"localhost:{port}")
        self._cookie = f"kiloset-{hashlib.sha256(token.encode()).hexdigest()[:8]}"

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Refuse a request, or pass it on."""
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
        if host not in self._hosts:  # a foreign host name that resolves to this machine
            return PlainTextResponse(f"this page is at http://{self._hosts[0]}\n", 400)
        if "token" in request.query_params:
            if not self._is_token(request.query_params["token"]):
                return PlainTextResponse(f"wrong token: {LOCKED}\n", 403)
            if request.method == "GET" and request.url.path == "/":
                return self._let_in()
        if not self._is_token(request.cookies.get(self._cookie, "")):
            return PlainTextResponse(f"{LOCKED}\n", 403)
        return None if request.method in ("GET", "HEAD") else _foreign(request, host)

    def _is_token(self, text: str) -> bool:
        return hmac.compare_digest(text.encode(), self._token.encode())

    def _let_in(self) -> Response:
        """Set the cookie and load the page.

        A page does this, not a redirect: after a click on the link in another site's page (for example a terminal in a browser),
        the browser would attribute a redirect to that site and not send the cookie.
        """
        answer = HTMLResponse(
            '<!doctype html><html lang="en"><meta charset="utf-8"><meta http-equiv="refresh" content="0;url='
            f'{self._start}"><title>Review</title><a href="{self._start}">Open the review</a></html>'
        )
        answer.set_cookie(self._cookie, self._token, httponly=True, samesite="strict", path="/")
        return answer


def _foreign(request: Request, host: str) -> Response | None:
    """Refuse a request that another page caused."""
    if request.headers.get("origin") != f"http://{host}":
        return PlainTextResponse("the request does not come from this page\n", 403)
    if request.headers.get("sec-fetch-site", "same-origin") != "same-origin":
        return PlainTextResponse("the request comes from another site\n", 403)
    return None
