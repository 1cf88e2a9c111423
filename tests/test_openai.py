"""The engine against a server on this machine that misbehaves in every way we know."""

import json
import random
import socket
import sqlite3
import threading
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from dataclasses import field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from kiloset.core.calls import CallStore
from kiloset.core.config import parse, settings
from kiloset.core.errors import ConfigError, ModelError
from kiloset.core.models import Request
from kiloset.core.progress import Silent
from kiloset.core.recorded import RecordedEngine
from kiloset.engines.openai import OpenAIEngine, api_key, identity, is_loopback
from kiloset.engines.settings import EngineConfig

KEY = "sk-very-secret-4711"
STALL_SECONDS = 120.0
CONTEXT = "This model's maximum context length is 512 tokens. However, your prompt contains at least 513 input tokens"


class _Http(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 256  # with the usual 5, a connection among many at once waits a second


class Server:
    """Answers each request as `behave(prompt, attempt)` returns: `(status, body)`, `(status, body, headers)` or a name.

    `None` is a good completion; "cut" ends the connection within the body, "drop" before it, "stall" keeps it waiting, "trickle" never ends.
    """

    def __init__(self, behave):
        self.behave = behave
        self.bodies, self.keys, self.paths, self.times = [], [], [], []
        self.attempts = Counter()
        self.now = self.most = 0
        self.lock, self.over = threading.Lock(), threading.Event()
        self.http = _Http(("127.0.0.1", 0), self._handler())
        self.url = f"http://127.0.0.1:{self.http.server_port}/v1"
        threading.Thread(target=self.http.serve_forever, args=(0.01,), daemon=True).start()

    def close(self):
        self.over.set()
        self.http.shutdown()
        self.http.server_close()

    def _handler(self):
        server = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"
            disable_nagle_algorithm = True  # else each answer waits 40 ms for the client's acknowledgement

            def do_POST(self):
                body = json.loads(self.rfile.read(int(self.headers["content-length"])))
                prompt = body.get("prompt") or body["messages"][-1]["content"]
                with server.lock:
                    server.attempts[prompt] += 1
                    attempt = server.attempts[prompt]
                    server.bodies.append(body)
                    server.keys.append(self.headers["authorization"])
                    server.paths.append(self.path)
                    server.times.append(time.monotonic())
                    server.now += 1
                    server.most = max(server.most, server.now)
                try:
                    server.answer(self, body, server.behave(prompt, attempt))
                except OSError:
                    self.close_connection = True  # the client did not wait

            def log_message(self, *arguments):
                pass

        return Handler

    def answer(self, handler, body, act):
        if act == "stall":
            self.over.wait(STALL_SECONDS)
        status, content, headers = (*act, {})[:3] if isinstance(act, tuple) else (200, good(body), {})
        content = content if isinstance(content, bytes) else json.dumps(content).encode()
        with self.lock:
            self.now -= 1
        if act == "drop":
            handler.connection.shutdown(socket.SHUT_RDWR)
            handler.close_connection = True
            return
        handler.send_response(status)
        for name, value in {"content-type": "application/json", "content-length": str(len(content)), **headers}.items():
            handler.send_header(name, value)
        handler.end_headers()
        while act == "trickle" and not self.over.wait(0.02):
            handler.wfile.write(b" ")
        handler.wfile.write(content[: len(content) // 2] if act == "cut" else content)
        if act == "cut":
            handler.wfile.flush()
            handler.connection.shutdown(socket.SHUT_RDWR)
            handler.close_connection = True


def good(body, text=None, reason="stop", **more):
    """A completion that names its request."""
    asked = body["prompt"] if "prompt" in body else body["messages"][-1]["content"]
    text = f"answer to {asked}" if text is None else text
    choice = {"index": 0, "finish_reason": reason}
    choice |= {"text": text} if "prompt" in body else {"message": {"role": "assistant", "content": text}}
    return {"choices": [choice], "usage": {"prompt_tokens": 3, "completion_tokens": 4, "total_tokens": 7}} | more


def error(message, code=None, **more):
    return {"error": {"message": message, "code": code, **more}}


@pytest.fixture
def serve(monkeypatch):
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    for name in ("OPENAI_ORG_ID", "OPENAI_PROJECT_ID", "OPENAI_BASE_URL"):
        monkeypatch.delenv(name, raising=False)
    # 50 ms for each client, and none of them speaks TLS.
    monkeypatch.setattr("ssl.SSLContext.load_verify_locations", lambda *arguments, **more: None)
    begun = []

    def start(behave=lambda prompt, attempt: None, *, longest_wait_s=0.05, **table):
        server = Server(behave)
        config = EngineConfig(
            **({"kind": "openai", "base_url": server.url, "max_retries": 4, "timeout_s": 30.0} | table)
        )
        engine = OpenAIEngine("tiny", config, backoff_s=0.001, longest_wait_s=longest_wait_s)
        begun.extend((engine, server))
        return server, engine

    yield start
    for one in begun:
        one.close()
    assert not [thread for thread in threading.enumerate() if thread.name == "kiloset-openai"]


def requests(engine, count, raw=True):
    target = []
    for number in range(count):
        prompt = f"p{number}" if raw else engine.render([{"role": "user", "content": f"p{number}"}])
        target.append(Request(prompt, "response", 16, 0.7, 0.9, raw=raw))
    return [(request.key(engine.identity), request) for request in target]


def received(engine, count):
    return [engine.receive() for _ in range(count)]


def ask(engine, count=1, raw=True):
    asked = requests(engine, count, raw)
    engine.submit(asked)
    answers = received(engine, count)
    assert sorted(key for key, _ in answers) == sorted(key for key, _ in asked)  # each once
    return [dict(answers)[key] for key, _ in asked]


def once(act):
    """Behave so at each request's first attempt, and well from then on."""
    return lambda prompt, attempt: act if attempt == 1 else None


# ------------------------------------------------------------------------------------------------- what is sent


def test_plain_text_goes_to_completions_and_a_chat_to_chat_completions(serve):
    server, engine = serve()
    assert ask(engine)[0].text == "answer to p0"
    messages = [{"role": "system", "content": "be brief"}, {"role": "user", "content": 'größer \u2028 ünd "q"'}]
    chat = Request(engine.render(messages), "response", 16, 0.7, 0.9, stop=("\n### ",))
    engine.submit([(chat.key("x"), chat)])
    _, completion = engine.receive()
    assert (completion.text, completion.finish_reason) == ('answer to größer \u2028 ünd "q"', "stop")
    assert (completion.prompt_tokens, completion.completion_tokens) == (3, 4)
    assert server.paths == ["/v1/completions", "/v1/chat/completions"]
    assert server.bodies[0]["prompt"] == "p0"
    assert server.bodies[1]["messages"] == messages
    assert server.bodies[1]["stop"] == ["\n### "]
    for body in server.bodies:
        assert (body["model"], body["max_tokens"], body["temperature"], body["top_p"]) == ("tiny", 16, 0.7, 0.9)
        assert "response_format" not in body


def test_a_chat_renders_the_same_however_its_messages_were_built(serve):
    _, engine = serve()
    assert engine.render([{"role": "user", "content": "é"}]) == engine.render([{"content": "é", "role": "user"}])
    assert engine.render([{"role": "user", "content": "é"}]) == '[{"content": "é", "role": "user"}]'


def test_every_request_has_a_seed_of_its_own_that_follows_from_its_key(serve):
    server, engine = serve()
    asked = requests(engine, 20)
    ask(engine, 20)
    seeds = {body["prompt"]: body["seed"] for body in server.bodies}
    assert seeds == {request.prompt: int(key[:8], 16) & 0x7FFFFFFF for key, request in asked}
    assert len(set(seeds.values())) == 20


@pytest.mark.parametrize("raw", [True, False])
def test_a_schema_goes_to_a_server_that_keeps_to_it_and_to_no_other(serve, raw):
    schema = {"type": "object", "properties": {"a": {"type": "string"}}, "required": ["a"]}
    for structured in (True, False):
        server, engine = serve(structured=structured)
        assert engine.capabilities.schemas is structured
        ((_, plain),) = requests(engine, 1, raw)
        request = Request(plain.prompt, "x", 16, 0.7, 0.9, raw=raw, schema=json.dumps(schema))
        engine.submit([(request.key("x"), request)])
        engine.receive()
        wanted = {"type": "json_schema", "json_schema": {"name": "answer", "strict": True, "schema": schema}}
        assert server.bodies[0].get("response_format") == (wanted if structured else None)


def test_plain_text_is_refused_where_the_server_has_no_completions(serve):
    server, engine = serve(completions=False)
    assert engine.capabilities.plain_text is False
    with pytest.raises(ModelError, match="takes no plain text"):
        engine.submit(requests(engine, 1))
    assert ask(engine, 1, raw=False)[0].text == "answer to p0"
    assert server.paths == ["/v1/chat/completions"]


def test_no_more_requests_are_in_flight_than_allowed(serve):
    full = threading.Barrier(5)

    def behave(prompt, attempt):
        full.wait(10)  # for four others, at all times
        time.sleep(0.02)  # for a sixth

    server, engine = serve(behave, max_num_seqs=5)
    ask(engine, 30)
    assert server.most == 5


def test_requests_may_be_added_while_others_are_in_flight_and_none_is_sent_twice(serve):
    server, engine = serve(max_num_seqs=2)
    asked = requests(engine, 30)
    engine.submit(asked[:10])
    answers = received(engine, 3)
    engine.submit(asked)  # the seven in flight are not sent again, the three received are
    answers += received(engine, 30)
    assert Counter(server.attempts.values()) == {1: 27, 2: 3}
    assert {key for key, _ in answers} == {key for key, _ in asked}
    with pytest.raises(ModelError, match="nothing is in flight"):
        engine.receive()


# --------------------------------------------------------------------------------------------- what comes back


@pytest.mark.parametrize(
    "act",
    [
        (408, error("slow")),
        (409, error("locked")),
        (429, error("too many")),
        (500, error("oops")),
        (503, b"upstream"),
        (599, b""),
        "cut",
        "drop",
        (200, b"<html><body>It works!</body></html>", {"content-type": "text/html"}),
        (200, b""),
        (200, b'{"choices": [{"text": "half'),
        (200, b"[" * 100_000),
        (200, b"\xff\xfe\xff"),
        (200, []),
        (200, {}),
        (200, error("overloaded")),
        (200, {"choices": []}),
        (200, {"choices": [None]}),
        (200, {"choices": [{"finish_reason": "stop"}]}),
        (200, {"choices": [{"finish_reason": "stop", "text": None}]}),
        (200, {"choices": [{"finish_reason": "stop", "text": 3}]}),
        (200, {"choices": [{"finish_reason": "stop", "message": {"content": None}}]}),
        (200, {"choices": [{"finish_reason": "abort", "text": "half an ans"}]}),
        (200, {"choices": [{"finish_reason": None, "text": "half an ans"}]}),
        (200, {"choices": [{"finish_reason": ["stop"], "text": "x"}]}),
        (200, good({"prompt": "x"}, usage={"completion_tokens": "many"})),
        (200, good({"prompt": "x"}, usage={"completion_tokens": -1})),
        (200, good({"prompt": "x"}, usage=[1])),
    ],
    ids=str,
)  # fmt: skip
def test_what_may_pass_is_asked_again(serve, act):
    server, engine = serve(once(act))
    before = random.getstate()
    assert [c.text for c in ask(engine, 3)] == ["answer to p0", "answer to p1", "answer to p2"]
    assert set(server.attempts.values()) == {2}
    assert random.getstate() == before


@pytest.mark.parametrize("act", ["stall", "trickle"])
def test_an_answer_that_does_not_come_in_time_is_asked_for_again_and_counted_once(serve, act):
    server, engine = serve(once(act), timeout_s=0.4, max_retries=50)
    assert [c.text for c in ask(engine, 3)] == ["answer to p0", "answer to p1", "answer to p2"]
    assert min(server.attempts.values()) >= 2


@pytest.mark.parametrize(
    ("choice", "expected"),
    [
        ({"finish_reason": "length", "text": "cut he"}, ("cut he", "length")),
        ({"finish_reason": "stop", "text": ""}, ("", "stop")),
        ({"finish_reason": "content_filter", "text": "I was abo"}, ("I was abo", "length")),
        ({"finish_reason": "length", "message": {"content": None, "reasoning": "hm"}}, ("", "length")),
        ({"finish_reason": "stop", "message": {"content": None, "refusal": "No."}}, ("No.", "stop")),
        ({"finish_reason": "stop", "text": "a\ud800b \ud83d\ude00 \udc00"}, ("a\ufffdb 😀 \ufffd", "stop")),
        ({"finish_reason": "stop", "text": "nul \x00 bel \x07"}, ("nul \x00 bel \x07", "stop")),
    ],
)  # fmt: skip
def test_a_completion_is_read_as_it_is(serve, tmp_path, choice, expected):
    _, engine = serve(lambda prompt, attempt: (200, {"choices": [choice], "usage": {"completion_tokens": 2}}))
    (completion,) = ask(engine)
    assert (completion.text, completion.finish_reason) == expected
    assert (completion.prompt_tokens, completion.completion_tokens) == (0, 2)
    with sqlite3.connect(tmp_path / "x.sqlite") as db:  # what SQLite takes and gives back
        assert db.execute("SELECT ?", [completion.text]).fetchone()[0] == completion.text


def test_cached_prompt_tokens_are_counted_if_the_server_reports_them(serve):
    for details, cached in (({"cached_tokens": 2}, 2), ({"cached_tokens": None}, 0), (None, 0)):
        usage = {"prompt_tokens": 3, "completion_tokens": 4, "prompt_tokens_details": details}
        _, engine = serve(lambda prompt, attempt, usage=usage: (200, good({"prompt": prompt}, usage=usage)))
        (completion,) = ask(engine)
        assert (completion.prompt_tokens, completion.completion_tokens, completion.cached_tokens) == (3, 4, cached)


@pytest.mark.parametrize("usage", [{}, {"usage": None}, {"usage": {"prompt_tokens": None}}])
def test_tokens_a_server_does_not_count_are_none_and_the_completion_is_kept(serve, usage):
    choices = {"choices": [{"finish_reason": "stop", "text": "fine"}]}
    server, engine = serve(lambda prompt, attempt: (200, choices | usage))
    (completion,) = ask(engine)
    assert (completion.text, completion.prompt_tokens, completion.completion_tokens) == ("fine", 0, 0)
    assert server.attempts["p0"] == 1


@pytest.mark.parametrize(
    ("status", "body"),
    [
        (400, error(CONTEXT, 400)),
        (400, error("too much", "context_length_exceeded")),
        (400, error("the request exceeds the available context size (512 tokens)", 400)),
        (400, error("prompt is too long: 208310 tokens > 200000 maximum")),
        (422, {"error": "`inputs tokens + max_new_tokens` must be <= 512", "error_type": "validation"}),
        (413, b"<html>too large</html>"),
        (400, error("rejected as a result of our safety system", "content_policy_violation")),
    ],
)
def test_a_prompt_the_server_does_not_take_is_refused_and_the_others_go_on(serve, status, body):
    server, engine = serve(lambda prompt, attempt: (status, body) if prompt == "p1" else None)
    answers = ask(engine, 3)
    assert [(c.text, c.finish_reason) for c in answers] == [
        ("answer to p0", "stop"), ("", "refused"), ("answer to p2", "stop")
    ]  # fmt: skip
    assert server.attempts["p1"] == 1


def test_the_wait_a_server_asks_for_is_kept_and_is_bounded(serve):
    for asked, least in (("0.06", 0.06), ("3600", 0.1), ("Wed, 21 Oct 2099 07:28:00 GMT", 0.1)):
        server, engine = serve(once((429, error("slow down"), {"retry-after": asked})), longest_wait_s=0.1)
        ask(engine)
        assert least <= server.times[1] - server.times[0] < 5
    for asked in ("-5", "nan", "soon", "Wed, 99 Oct"):
        server, engine = serve(once((503, b"", {"retry-after": asked})))
        ask(engine)
        assert server.times[1] - server.times[0] < 5


def test_a_limit_on_the_rate_is_no_failure_while_the_server_completes_others(serve):
    # One in six is taken: most requests are sent back more often than max_retries.
    count = iter(range(100_000))
    server, engine = serve(
        lambda prompt, attempt: (429, error("slow down")) if next(count) % 6 else None, max_retries=2
    )
    answers = ask(engine, 30)
    assert [c.text for c in answers] == [f"answer to p{number}" for number in range(30)]
    assert max(server.attempts.values()) > 3


# ------------------------------------------------------------------------------------------------------ the end


@pytest.mark.parametrize(
    ("status", "message"),
    [
        (401, r"HTTP 401: no good .*set the environment variable OPENAI_API_KEY"),
        (403, r"HTTP 403: no good .*OPENAI_API_KEY to a key that may use this model"),
        (404, r"HTTP 404: no good .*check the model's name, \[engine\] base_url"),
        (400, "HTTP 400: no good"),
        (422, "HTTP 422: no good"),
        (302, r"HTTP 302: no good .*\(check \[engine\] base_url\)"),
    ],
)
def test_what_cannot_pass_ends_it_at_once_in_one_line(serve, status, message):
    server, engine = serve(
        lambda prompt, attempt: (status, error("no good\n\x1b[31m"), {"location": "/elsewhere"}), max_num_seqs=1
    )
    engine.submit(requests(engine, 4))
    for _ in range(2):  # the next call raises it again
        with pytest.raises(ModelError, match=rf"^tiny at {server.url}: {message}") as caught:
            engine.receive()
        assert str(caught.value).isprintable()
        assert str(caught.value).endswith("4 requests have no completion; run again to continue")
    assert len(server.bodies) == 1


def test_an_account_with_nothing_left_ends_it_at_once(serve):
    server, engine = serve(lambda prompt, attempt: (429, error("quota", "insufficient_quota")))
    engine.submit(requests(engine, 1))
    with pytest.raises(ModelError, match=r"HTTP 429: quota \(the account behind the key has no credit left\)"):
        engine.receive()
    assert len(server.bodies) == 1


def test_when_a_request_fails_for_good_all_that_is_in_flight_is_delivered_first(serve):
    held = threading.Event()

    def behave(prompt, attempt):
        if prompt == "p0":
            if attempt == 5:  # the last: only then may the others end
                threading.Timer(0.2, held.set).start()
            return (500, error("oops"))
        held.wait(STALL_SECONDS)
        return None

    server, engine = serve(behave, max_num_seqs=4)
    asked = requests(engine, 10)
    engine.submit(asked)
    answers = dict(received(engine, 3))
    assert answers.keys() == {key for key, _ in asked[1:4]}
    what = (
        r"a request failed 5 times, the last with HTTP 500: oops; 7 requests have no completion; run again to continue"
    )
    with pytest.raises(ModelError, match=rf"^tiny at {server.url}: {what}$"):
        engine.receive()
    assert server.attempts == {"p0": 5, "p1": 1, "p2": 1, "p3": 1}


@pytest.mark.timeout(30)  # 2000 requests that each fail on their own take minutes
@pytest.mark.parametrize("act", [(500, error("dead")), (429, error("dead")), "drop", "stall", (200, b"dead")], ids=str)
def test_a_server_that_never_recovers_costs_no_more_than_one_request(serve, act):
    server, engine = serve(lambda prompt, attempt: act, max_num_seqs=8, timeout_s=0.1, longest_wait_s=0.01)
    engine.submit(requests(engine, 2000))
    with pytest.raises(ModelError, match="2000 requests have no completion"):
        engine.receive()
    if act != (429, error("dead")):  # which goes on for as long as an answer might still come
        assert len(server.bodies) <= 8 * 5


def test_failures_between_which_the_server_completes_others_do_not_add_up(serve):
    act = (429, error("slow down"))
    _, engine = serve(lambda prompt, attempt: act if attempt == 1 else time.sleep(0.05), max_retries=3, timeout_s=0.5)
    for number in range(16):  # 0.8 s in all, and the server is given up after 0.5 s and 3 failures without a completion
        engine.submit([requests(engine, 16)[number]])
        assert engine.receive()[1].text == f"answer to p{number}"


def test_a_missing_server_is_an_error(serve):
    server, engine = serve()
    server.close()
    engine.submit(requests(engine, 3))
    with pytest.raises(
        ModelError, match=r"failed 5 times, the last with no whole answer \(All connection attempts failed\)"
    ):
        engine.receive()


def test_after_an_error_and_a_close_it_begins_anew(serve):
    server, engine = serve(lambda prompt, attempt: (401, error("no")))
    engine.submit(requests(engine, 2))
    with pytest.raises(ModelError):
        engine.receive()
    engine.close()
    server.behave = lambda prompt, attempt: None
    assert len(ask(engine, 2)) == 2


@pytest.mark.timeout(20)  # an engine that waits for its requests waits for 30 s
def test_closing_cancels_the_requests_in_flight(serve):
    _, engine = serve(lambda prompt, attempt: "stall")
    engine.submit(requests(engine, 50))
    time.sleep(0.05)
    engine.close()
    engine.close()
    assert not [thread for thread in threading.enumerate() if thread.name == "kiloset-openai"]


def test_of_several_errors_the_first_is_raised(serve):
    release = threading.Event()

    def behave(prompt, attempt):
        if prompt == "p0":
            release.wait(STALL_SECONDS)
            return (403, error("later"))
        threading.Timer(0.2, release.set).start()
        return (401, error("first"))

    _, engine = serve(behave)
    engine.submit(requests(engine, 2))
    with pytest.raises(ModelError, match="HTTP 401: first"):
        engine.receive()


def test_a_bug_in_a_request_reaches_the_caller_and_does_not_hang(serve):
    _, engine = serve()
    engine.submit([("0" * 64, Request("no JSON", "response", 16, 0.7, 0.9))])
    with pytest.raises(json.JSONDecodeError):
        engine.receive()


# ---------------------------------------------------------------------------------------------- with the store


ILLS = [
    None, None, None, (429, error("slow"), {"retry-after": "0.01"}), (500, error("oops")), "cut", "drop",
    (200, b"<html>"), (200, b'{"choices'), (200, {"choices": []}), (503, b""),
]  # fmt: skip


def test_behind_the_store_nothing_is_lost_or_counted_twice_whatever_the_server_does(serve, tmp_path):
    rng, lock = random.Random(7), threading.Lock()

    def behave(prompt, attempt):
        if prompt == "p13" and not healed.is_set():
            return (500, error("oops"))
        if prompt in ("p5", "p40") and attempt == 1:
            return "stall"
        with lock:
            return rng.choice(ILLS) if attempt < 4 else None

    healed = threading.Event()
    store = CallStore(tmp_path / "calls.sqlite")
    _, engine = serve(behave, max_num_seqs=8, timeout_s=2.0, max_retries=20)
    asked = [request for _, request in requests(engine, 80)]
    recorded = RecordedEngine(engine, store, Silent())
    with pytest.raises(ModelError, match="requests have no completion"):
        recorded.complete(asked, "test")
    kept = _stored(tmp_path)
    assert 0 < len(kept) < 80
    engine.close()
    healed.set()
    answers = recorded.complete(asked, "test")
    store.close()
    assert [completion.text for completion in answers] == [f"answer to p{number}" for number in range(80)]
    after = _stored(tmp_path)
    assert kept.items() <= after.items()
    assert after == {request.key(engine.identity): f"answer to {request.prompt}" for request in asked}
    with sqlite3.connect(tmp_path / "calls.sqlite") as db:
        assert db.execute("SELECT COUNT(*), SUM(completion_tokens) FROM calls").fetchone() == (80, 320)
        sent = dict(db.execute("SELECT key, COUNT(*) FROM sends GROUP BY key"))
    assert all(sent[key] == 1 for key in kept)  # what was completed is not asked for again


def _stored(folder):
    with sqlite3.connect(folder / "calls.sqlite") as db:
        return dict(db.execute("SELECT key, text FROM calls"))


# ---------------------------------------------------------------------------------------- the key and the names


def test_the_key_is_in_the_header_and_nowhere_else(serve, tmp_path, caplog, capfd, monkeypatch):
    monkeypatch.setenv("OPENAI_LOG", "debug")
    caplog.set_level("DEBUG")
    spoken = []
    for act in ((401, error(f"Incorrect API key provided: {KEY}")), (500, f"key {KEY}".encode()), (200, KEY.encode())):
        server, engine = serve(lambda prompt, attempt, act=act: act)
        store = CallStore(tmp_path / "calls.sqlite")
        with pytest.raises(ModelError) as caught:
            RecordedEngine(engine, store, Silent()).complete([requests(engine, 1)[0][1]], "test")
        store.close()
        assert "***" in str(caught.value)
        assert set(server.keys) == {f"Bearer {KEY}"}
        spoken += [str(caught.value), repr(caught.value), repr(engine), repr(vars(engine)), engine.description]
        spoken += [engine.identity, repr(server.bodies)]
    spoken += [caplog.text, *capfd.readouterr()]
    spoken += [path.read_bytes().decode("latin1") for path in tmp_path.rglob("*") if path.is_file()]
    assert not [text for text in spoken if KEY in text]


def test_without_a_key_a_server_on_this_machine_is_sent_a_placeholder(serve, monkeypatch):
    server, engine = serve()
    monkeypatch.delenv("OPENAI_API_KEY")
    ask(engine)
    assert server.keys == ["Bearer none"]


def test_a_key_that_is_missing_or_cannot_be_sent_is_refused_early_and_not_shown(monkeypatch):
    config = EngineConfig(kind="openai", base_url="https://api.example.org/v1", api_key_env="MY_KEY")
    monkeypatch.delenv("MY_KEY", raising=False)
    with pytest.raises(ModelError, match=r"^\[engine\] api_key_env: the environment variable MY_KEY is not set"):
        OpenAIEngine("m", config)
    for wrong in (f"{KEY}\nX-More: 1", f"{KEY} two", f"{KEY}é"):
        monkeypatch.setenv("MY_KEY", wrong)
        with pytest.raises(ModelError, match="MY_KEY holds characters that no key has") as caught:
            OpenAIEngine("m", config)
        assert KEY not in str(caught.value)
    monkeypatch.setenv("MY_KEY", f" {KEY}\n")  # as `export MY_KEY="$(cat file)"` may leave it
    assert api_key(config) == KEY


@pytest.mark.parametrize(
    ("table", "message"),
    [
        ({"kind": "openai"}, r"base_url must be the server's address, such as .*, when kind is \"openai\", got ''"),
        (
            {"base_url": "ftp://h/v1"},
            "base_url must be an address that begins with http:// or https://.*got 'ftp://h/v1'",
        ),
        ({"base_url": "http://"}, "base_url must be an address"),
        ({"base_url": "http://h:port/v1"}, "base_url must be an address"),
        ({"base_url": "http://[::1/v1"}, "base_url must be an address"),
        ({"base_url": "http://h/v1\n"}, "base_url must be an address"),
        ({"base_url": f"https://me:{KEY}@h/v1"}, r"base_url must be without a user name.*got 'https://\*\*\*@h/v1'"),
        ({"base_url": f"https://me:{KEY}/@@h/v1"}, "base_url must be without a user name"),
        ({"base_url": f"me:{KEY}@h/v1"}, "base_url must be an address"),
        ({"base_url": f"https://h/v1?key={KEY}"}, r"base_url must be without a user name.*got 'https://h/v1\?\*\*\*'"),
        ({"base_url": f"https://h/v1#{KEY}"}, "base_url must be without a user name"),
        ({"api_key_env": KEY}, r"api_key_env must be the name of an environment variable in capitals.*got '\*\*\*'"),
        ({"timeout_s": 0.0}, "timeout_s must be greater than 0"),
        ({"max_retries": -1}, "max_retries must be greater than or equal to 0"),
    ],
)
def test_settings_that_cannot_be_meant_are_refused_without_showing_a_secret(table, message):
    with pytest.raises(ConfigError, match=rf"^\[engine\] {message}") as caught:
        parse(_Config, {"engine": table})
    assert KEY not in str(caught.value)


@settings
class _Config:
    engine: EngineConfig = field(default_factory=EngineConfig)


def test_the_identity_is_the_same_for_every_spelling_of_an_address_and_holds_no_scheme():
    assert identity("org/m", "http://127.0.0.1:8000/v1") == "org/m@127.0.0.1:8000/v1"
    spellings = ("https://API.example.org/v1", "https://api.example.org:443/v1/", "HTTPS://api.example.org/v1")
    assert {identity("m", url) for url in spellings} == {"m@api.example.org/v1"}
    assert identity("m", "http://api.example.org:8000/v1") != identity("m", "http://api.example.org:8001/v1")


def test_only_this_machine_is_loopback():
    assert all(
        map(is_loopback, ("http://127.0.0.1:1/v1", "http://localhost/v1", "http://[::1]:8/v1", "http://127.9.9.9"))
    )
    assert not any(map(is_loopback, ("http://10.0.0.1/v1", "https://localhost.example.org/v1", "http://[2001::1]/v1")))


def test_several_engines_may_work_at_once(serve):
    engines = [serve()[1] for _ in range(3)]
    with ThreadPoolExecutor() as pool:
        assert [len(result) for result in pool.map(lambda engine: ask(engine, 20), engines)] == [20, 20, 20]


# ------------------------------------------------------------------------------------------- the models of a run


def _run_config(**models):
    from kiloset.settings import RunConfig

    engine = {"kind": "openai", "base_url": "http://127.0.0.1:1/v1"}
    return parse(RunConfig, {"engine": engine, "models": models})


def test_the_generator_behind_a_server_needs_no_files_and_the_base_model_does():
    from kiloset.models import check_models

    base = {"name": "embedded:smollm2-135m-instruct"}
    check_models(_run_config(generator={"name": "served"}, base=base))
    with pytest.raises(ConfigError, match=r"^\[models.generator\] name must be the model's name on the server"):
        check_models(_run_config(generator={"name": ""}, base=base))
    with pytest.raises(ConfigError, match=r"^\[models.base\] name must be a local folder or a hub id .*got ''"):
        check_models(_run_config(generator={"name": "served"}))
    with pytest.raises(ModelError, match=r"^\[models.base\] name must be a local folder"):
        check_models(_run_config(generator={"name": "served"}, base={"name": "served"}))
