"""A `TextEngine` for any server with OpenAI's protocol.

Only this file imports openai, at the first request. Requests run in one thread with its own event loop, which ends with the
process. The client's own retries are off. We decide from an answer's content whether it is valid, because a server may
also fail with status 200.

* Retried, with a wait that doubles: no connection or an interrupted one, a timeout, status 408, 409, 429 or 5xx, and an
  answer that is no completion (not JSON, no choice, no text, a finish reason other than `stop` and `length`). A 429 does not
  count as a failure of the request while the server completes others.
* Finish reason `refused`: the prompt is longer than the server's context, or the server's content policy rejects it.
* Finish reason `length`: also a text that the server's content filter cut, because it is paid for and not complete.
* Fatal: any other status; a request that failed `max_retries` + 1 times; no completion at all for longer than all retries
  of one request take. The engine then sends nothing more, delivers what is in flight, and raises the error.

Not checked: whether the server keeps the same weights under a name, whether it obeys the seed, and its defaults for settings
that we do not send (vLLM takes top_k and others from the model's generation_config.json). Token counts come from the server;
they are 0 if the server gives none.
"""

import asyncio
import contextlib
import ipaddress
import json
import os
import queue
import random
import re
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from email.utils import parsedate_to_datetime
from typing import Any
from urllib.parse import urlsplit

from kiloset.core.errors import ModelError
from kiloset.core.models import Capabilities, Completion, Message, Request, seed_of
from kiloset.engines.settings import EngineConfig

BACKOFF_SECONDS = 1.0
"""Wait before a request's first retry; it doubles with each retry."""
LONGEST_WAIT_SECONDS = 60.0
"""Longest wait before a retry, even if the server demands more."""
CLOSE_SECONDS = 5.0
"""Longest wait for the thread to end."""
PLACEHOLDER = "none"
"""Sent as the key if there is none, because the client requires one."""

REFUSED = Completion("", "refused", 0, 0)
TOO_LONG = re.compile(
    r"context[ _-]?(length|size|window)|maximum model length|(prompt|input)s? (is|are) too long|"
    r"input token count|inputs tokens \+ max_new_tokens",
    re.IGNORECASE,
)
"""Error messages for a prompt that is too long: OpenAI and vLLM, llama.cpp, Anthropic, Gemini, TGI."""
AGAINST_POLICY = {"content_filter", "content_policy_violation"}
"""Error codes for a prompt that a content policy rejects: Azure, OpenAI."""


@dataclass(frozen=True, slots=True)
class Failure:
    """An attempt that gave no completion."""

    cause: str
    """One line, without the key."""
    is_final: bool = False
    """A retry would fail in the same way."""
    is_rate_limit: bool = False
    """The server demands fewer requests."""
    wait_s: float = 0.0
    """Seconds that the server demands to wait."""


class OpenAIEngine:
    """A `TextEngine` behind a server's `/chat/completions` and `/completions`."""

    def __init__(
        self, model: str, config: EngineConfig, *, backoff_s: float = BACKOFF_SECONDS,
        longest_wait_s: float = LONGEST_WAIT_SECONDS,
    ) -> None:  # fmt: skip
        """Keep the settings; nothing is sent yet.

        Args:
            model: The model's name on the server.
            config: The `[engine]` table.
            backoff_s: Wait before a request's first retry, in seconds.
            longest_wait_s: Longest wait before a retry, in seconds.

        Raises:
            ModelError: See `api_key`.
        """
        api_key(config)
        self.identity = identity(model, config.base_url)
        self.description = f"{model} at {config.base_url}, up to {config.max_num_seqs} requests in flight"
        self.capabilities = Capabilities(plain_text=config.completions, exact_prompts=False, schemas=config.structured)
        self._model, self._config, self._waits = model, config, (backoff_s, longest_wait_s)
        self._client: _Client | None = None
        self._pending: set[str] = set()

    def render(self, messages: Sequence[Message]) -> str:
        """Return the messages as JSON; the server applies the model's template."""
        return json.dumps([dict(message) for message in messages], ensure_ascii=False, sort_keys=True)

    def submit(self, requests: Sequence[tuple[str, Request]]) -> None:
        """Accept `(key, request)` pairs and return at once; a key that is in flight is not sent again.

        Raises:
            ModelError: A request is plain text, and `completions` is off.
        """
        new = {key: request for key, request in requests if key not in self._pending}
        if not self.capabilities.plain_text and any(request.raw for request in new.values()):
            raise ModelError("KS560", f"{self.identity} takes no plain text ([engine] completions is false)")
        if self._client is None:
            self._client = _Client(self._model, self._config, *self._waits)
        self._pending |= new.keys()
        self._client.start(new)

    def receive(self) -> tuple[str, Completion]:
        """Wait for the next `(key, completion)`, in any order, each key once.

        Raises:
            ModelError: Nothing is in flight, or the server failed; every completion was returned before.
        """
        if self._client is None or not self._pending:
            raise ModelError("KS561", f"{self.identity}: nothing is in flight")
        answer = self._client.answers.get()
        if isinstance(answer, BaseException):
            self._client.answers.put(answer)  # the next call raises it again
            if not isinstance(answer, ModelError):
                raise answer
            missing = f"{len(self._pending)} requests have no completion; run again to continue"
            raise ModelError("KS562", f"{answer}; {missing}") from None
        self._pending.remove(answer[0])
        return answer

    def close(self) -> None:
        """Cancel every request in flight and end the thread."""
        if self._client is not None:
            self._client.close()
            self._client = None
            self._pending.clear()


def identity(model: str, base_url: str) -> str:
    """Return `model@host[:port]/path`, the same for every spelling of one address."""
    parts = urlsplit(base_url)
    port = "" if parts.port in (None, {"http": 80, "https": 443}[parts.scheme]) else f":{parts.port}"
    return f"{model}@{parts.hostname}{port}{parts.path.rstrip('/')}"


def is_loopback(base_url: str) -> bool:
    """Return whether a server runs on this machine."""
    host = urlsplit(base_url).hostname or ""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost" or host.endswith(".localhost")


def api_key(config: EngineConfig) -> str:
    """Return the key from the environment; a server on this machine needs none.

    Raises:
        ModelError: The key is missing or has characters that cannot be sent. The message does not contain the key.
    """
    name = config.api_key_env
    key = os.environ.get(name, "").strip()
    if not key and not is_loopback(config.base_url):
        raise ModelError(
            "KS563",
            f"[engine] api_key_env: the environment variable {name} is not set, and {config.base_url} is not on this "
            "machine; export the server's key in it (any word, if the server needs none)",
        )
    if not re.fullmatch(r"[\x21-\x7e]*", key):
        raise ModelError(
            "KS564", f"[engine] api_key_env: the environment variable {name} holds characters that no key has"
        )
    return key or PLACEHOLDER


class _Client:
    """Sends requests in its own thread, until the first fatal error."""

    def __init__(self, model: str, config: EngineConfig, backoff_s: float, longest_wait_s: float) -> None:
        import openai

        self._model, self._config, self._backoff_s, self._longest_wait_s = model, config, backoff_s, longest_wait_s
        self._key = api_key(config)
        # No proxy from the environment for a server on this machine.
        http = openai.DefaultAsyncHttpx2Client(
            timeout=config.timeout_s, follow_redirects=False, trust_env=not is_loopback(config.base_url)
        )
        self._openai = openai.AsyncOpenAI(
            base_url=config.base_url, api_key=self._key, timeout=config.timeout_s, max_retries=0, http_client=http
        )
        self.answers: queue.SimpleQueue[tuple[str, Completion] | BaseException] = queue.SimpleQueue()
        self._jitter = random.Random()
        self._slots, self._stopping = asyncio.Semaphore(config.max_num_seqs), asyncio.Event()
        self._tasks: set[asyncio.Task[None]] = set()
        self._error: BaseException | None = None
        self._failures, self._failing_since, self._last_success = 0, 0.0, 0.0
        # The longest time that one request may take: its timeout and the waits between its attempts.
        waits = (self._nominal_wait(retry) for retry in range(1, config.max_retries + 1))
        self._patience_s = config.timeout_s + sum(waits)
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="kiloset-openai", daemon=True)
        self._thread.start()

    def start(self, requests: Mapping[str, Request]) -> None:
        """Send requests as soon as slots are free."""
        self._loop.call_soon_threadsafe(self._start, requests)

    def close(self) -> None:
        """Cancel every request in flight and end the thread."""
        cancelled = asyncio.run_coroutine_threadsafe(self._cancel(), self._loop)
        with contextlib.suppress(TimeoutError):
            cancelled.result(CLOSE_SECONDS)
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(CLOSE_SECONDS)
        if not self._thread.is_alive():
            self._loop.close()

    # ------------------------------------------------------------------------------------------ in the thread

    def _start(self, requests: Mapping[str, Request]) -> None:
        for key, request in requests.items():
            task = self._loop.create_task(self._complete(key, request))
            self._tasks.add(task)
            task.add_done_callback(self._finish)

    def _finish(self, task: "asyncio.Task[None]") -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (bug := task.exception()) is not None:
            self._stop(bug)
        if self._error is not None and not self._tasks:
            self.answers.put(self._error)

    def _stop(self, error: BaseException) -> None:
        self._error = self._error or error
        self._stopping.set()

    async def _cancel(self) -> None:
        tasks = list(self._tasks)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await self._openai.close()
        await self._loop.shutdown_asyncgens()

    async def _complete(self, key: str, request: Request) -> None:
        """Send a request until it is completed or the engine stops."""
        tries = failures = 0
        async with self._slots:
            while not self._stopping.is_set():
                started = time.monotonic()
                answer = await self._attempt(key, request)
                if isinstance(answer, Completion):
                    self._failures, self._last_success = 0, time.monotonic()
                    self.answers.put((key, answer))
                    return
                tries += 1
                failures += not answer.is_rate_limit
                self._count(answer, failures, started)
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(self._stopping.wait(), self._wait(tries, answer.wait_s))

    def _count(self, failure: Failure, failures: int, started: float) -> None:
        """Stop the engine if a failure is fatal, or one too many for its request or for the server."""
        if self._failures == 0:
            self._failing_since = max(started, self._last_success)
        self._failures += 1
        seconds = time.monotonic() - self._failing_since
        server = f"{self._model} at {self._config.base_url}"
        if failure.is_final:
            self._stop(ModelError("KS565", f"{server}: {failure.cause}"))
        elif failures > self._config.max_retries:
            self._stop(
                ModelError("KS566", f"{server}: a request failed {failures} times, the last with {failure.cause}")
            )
        elif self._failures > self._config.max_retries and seconds > self._patience_s:
            times = f"nothing was completed for {seconds:.0f} s, and {self._failures} attempts failed"
            self._stop(ModelError("KS567", f"{server}: {times}, the last with {failure.cause}"))

    def _nominal_wait(self, retry: int) -> float:
        return float(min(self._longest_wait_s, self._backoff_s * 2.0 ** min(retry - 1, 60)))

    def _wait(self, retry: int, demanded_s: float) -> float:
        """Return the seconds before a request's n-th retry, with jitter so that requests do not return all at once."""
        ours = self._nominal_wait(retry) * self._jitter.uniform(0.5, 1.0)
        return max(ours, min(demanded_s, self._longest_wait_s) * self._jitter.uniform(1.0, 1.1))

    async def _attempt(self, key: str, request: Request) -> Completion | Failure:
        import openai

        body = self._body(key, request)
        endpoint: Any = self._openai.completions if request.raw else self._openai.chat.completions
        try:
            # The client's own timeout applies between two reads; this one to the whole request.
            async with asyncio.timeout(self._config.timeout_s):
                answer = await endpoint.with_raw_response.create(**body)
        except (TimeoutError, openai.APITimeoutError):
            return Failure(f"no answer within {self._config.timeout_s:g} s ([engine] timeout_s)")
        except openai.APIConnectionError as error:
            return Failure(self._printable(f"no whole answer ({error.__cause__ or error})"))
        except openai.APIStatusError as error:
            return self._from_status(error.status_code, error.body, error.response.headers)
        try:
            return _completion(json.loads(answer.content))
        except (KeyError, IndexError, TypeError, AttributeError, ValueError, RecursionError) as error:
            start = answer.content[:200].decode(errors="replace")
            return Failure(self._printable(f"an answer that is no completion ({error!r}): {start!r}"))

    def _body(self, key: str, request: Request) -> dict[str, Any]:
        body: dict[str, Any] = {
            "model": self._model, "max_tokens": request.max_tokens, "temperature": request.temperature,
            "top_p": request.top_p, "seed": seed_of(key),
        }  # fmt: skip
        body |= {"prompt": request.prompt} if request.raw else {"messages": json.loads(request.prompt)}
        if request.stop:
            body["stop"] = list(request.stop)
        if request.schema and self._config.structured:
            schema = {"name": "answer", "strict": True, "schema": json.loads(request.schema)}
            body["extra_body"] = {"response_format": {"type": "json_schema", "json_schema": schema}}
        return body

    def _from_status(self, status: int, body: object, headers: Mapping[str, str]) -> Completion | Failure:
        """Classify an answer with an error status."""
        details = body if isinstance(body, dict) else {"message": body}
        message = str(details.get("message") or details.get("detail") or details.get("error") or body or "no message")
        codes = {str(details.get("code")), str(details.get("type"))}
        cause = self._printable(f"HTTP {status}: {message}")
        if status == 413 or (status in (400, 422) and TOO_LONG.search(" ".join((message, *codes)))):
            return REFUSED
        if status in (400, 403) and codes & AGAINST_POLICY:
            return REFUSED
        if status == 429 and "insufficient_quota" not in codes:
            return Failure(cause, is_rate_limit=True, wait_s=_retry_after(headers))
        if status in (408, 409) or status >= 500:
            return Failure(cause, wait_s=_retry_after(headers))
        fixes = {
            401: f"set the environment variable {self._config.api_key_env} to a key that this server accepts",
            403: f"set the environment variable {self._config.api_key_env} to a key that may use this model",
            404: "check the model's name, [engine] base_url (it often ends in /v1) and, for plain text, completions",
            429: "the account behind the key has no credit left",
        }  # fmt: skip
        fix = "check [engine] base_url" if status < 400 else fixes.get(status, "")
        return Failure(f"{cause} ({fix})" if fix else cause, is_final=True)

    def _printable(self, text: str) -> str:
        """Return a server's message as one line of at most 300 printable characters, without the key."""
        if self._key != PLACEHOLDER:
            text = text.replace(self._key, "***")
        return " ".join("".join(c if c.isprintable() else " " for c in text).split())[:300]


def _completion(answer: Any) -> Completion:
    """Return the completion in a parsed answer.

    Raises:
        KeyError, IndexError, TypeError, AttributeError, ValueError: The answer has no completion.
    """
    choice = answer["choices"][0]
    reason = {"stop": "stop", "length": "length", "content_filter": "length"}[choice["finish_reason"]]
    message = choice["message"] if "message" in choice else {"content": choice["text"]}
    text = message["content"]
    if text is None:
        # A refusal has its own field; a reasoning model may be cut before its answer begins.
        text = message.get("refusal") or ("" if reason == "length" else None)
    if not isinstance(text, str):
        raise TypeError("no text")
    usage = answer.get("usage") or {}
    cached = _tokens(usage.get("prompt_tokens_details") or {}, "cached_tokens")
    prompt, written = (_tokens(usage, name) for name in ("prompt_tokens", "completion_tokens"))
    return Completion(_valid_utf8(text), reason, prompt, written, cached_tokens=cached)


def _tokens(usage: Mapping[str, Any], name: str) -> int:
    """Return a token count; 0 if the server gives none, because the completion is valid and paid for."""
    count = usage.get(name)
    if count is None:
        return 0
    if not isinstance(count, int) or not 0 <= count < 2**31:
        raise ValueError(f"{name} {count!r}")
    return count


def _valid_utf8(text: str) -> str:
    """Join the two halves of a surrogate pair; replace a half without the other."""
    return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")


def _retry_after(headers: Mapping[str, str]) -> float:
    """Return the seconds that a server demands to wait (RFC 9110, Retry-After: seconds or a date); 0 for none."""
    value = headers.get("retry-after", "")
    with contextlib.suppress(ValueError):
        seconds = float(value)
        return seconds if seconds > 0 else 0.0  # nan counts as none
    with contextlib.suppress(ValueError, OverflowError):
        return max(0.0, parsedate_to_datetime(value).timestamp() - time.time())
    return 0.0
