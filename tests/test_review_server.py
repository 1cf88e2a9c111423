"""The server of the review: access, decisions on disk before each response, and hostile rows on its page."""

import json
import os
import re
from html.parser import HTMLParser
from urllib.parse import parse_qs, urlencode, urlsplit

import pytest
from starlette.testclient import TestClient

from kiloset.core.review import open_review_file, read_decisions
from kiloset.review.form import LARGEST
from kiloset.review.guard import HEADERS, AccessGuard
from kiloset.review.rows import read_rows
from kiloset.review.server import REASONS, ReviewServer
from tests.test_review import ATTACK, make_run

TOKEN = "t" * 43
HOST = "127.0.0.1:8642"
FORM = "application/x-www-form-urlencoded"
ATTACKS = {
    "g000": ATTACK, "g009": "</textarea><script>alert(1)</script>", "g002": "[a](javascript:alert(1)) {{ 7 * 7 }} ${7*7} <!--",
    "g003": "abc \u202egnp.exe\u2028\u2029 \x1b[2J\x00 end", "g004": "x" * 100_000, "g005": "\n\n two line feeds first",
    "g006": "CR\rLF CRLF\r\nend \t\u200b\ufeff\u00a0", "g007": "\n", "g008": "  spaces, & &amp; &lt;b&gt; \" ' `",
}  # fmt: skip


class Fields(HTMLParser):
    """Reads the values that a browser puts into the fields of a page, and collects its tags and text."""

    def __init__(self, page):
        super().__init__()
        self.tags, self.fields, self.text, self.field = [], {}, "", None
        self.feed(page)

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        if tag == "textarea":
            self.field = dict(attrs)["name"]
            self.fields[self.field] = ""

    def handle_endtag(self, tag):
        if tag == "textarea":
            self.fields[self.field] = self.fields[self.field].removeprefix("\n")  # as the HTML standard requires
            self.field = None

    def handle_data(self, data):
        if self.field is None:
            self.text += data
        else:
            self.fields[self.field] += data


@pytest.fixture
def folder(tmp_path):
    return make_run(tmp_path / "runs" / "demo")


def serving(folder):
    """Return a client that has followed the link, and the file of decisions, which is locked until the test ends."""
    lock = open_review_file(folder.review)
    file = lock.__enter__()
    app = AccessGuard(ReviewServer(folder, read_rows(folder), file).app(), TOKEN, 8642)
    client = TestClient(app, base_url=f"http://{HOST}", follow_redirects=False)
    client.lock = lock
    assert client.get(f"/?token={TOKEN}").status_code == 200
    return client, file


@pytest.fixture
def served(folder):
    client, file = serving(folder)
    yield client, file
    client.lock.__exit__(None, None, None)


def send(client, address="/decide", headers=None, **fields):
    base = {"origin": f"http://{HOST}", "hx-request": "true", "content-type": FORM}
    sent = {name: value for name, value in (base | (headers or {})).items() if value is not None}
    return client.post(address, content=urlencode(fields), headers=sent)


def row_of(answer):
    return re.search(r'<h2 id="row"[^>]*>([^<]*)<', answer.text)[1]


def test_the_link_sets_a_cookie_that_no_script_and_no_other_site_gets(folder):
    client, _ = serving(folder)
    answer = client.get(f"/?token={TOKEN}")
    cookie = answer.headers["set-cookie"].lower()
    assert "httponly" in cookie
    assert "samesite=strict" in cookie
    assert 'content="0;url=/"' in answer.text
    assert row_of(client.get("/")) == "g000"
    client.lock.__exit__(None, None, None)


@pytest.mark.parametrize(
    "address", ["/", "/static/review.js", "/nothing", "/?token=wrong", f"/?token={TOKEN[:-1]}", "/?token="]
)
def test_without_the_token_nothing_is_shown(folder, served, address):
    client, _ = served
    answer = (
        client.get(address, headers={"cookie": "kiloset-0=x"})
        if "token" in address
        else TestClient(client.app, base_url=f"http://{HOST}").get(address)
    )
    assert answer.status_code == 403
    assert "g000" not in answer.text
    assert "kiloset review" in answer.text


def test_a_token_in_the_address_of_a_decision_is_no_cookie(served):
    client, file = served
    stranger = TestClient(client.app, base_url=f"http://{HOST}")
    assert send(stranger, f"/decide?token={TOKEN}", id="g000", version="0", verdict="reject").status_code == 403
    assert file.decisions == {}


@pytest.mark.parametrize(
    "host", ["evil.example:8642", "127.0.0.1:80", "127.0.0.1", "localhost", f"{HOST}.evil.example", ""]
)
def test_another_name_of_this_machine_is_refused(served, host):
    client, file = served
    assert client.get("/", headers={"host": host}).status_code == 400
    assert (
        send(
            client, headers={"host": host, "origin": f"http://{host}"}, id="g000", version="0", verdict="reject"
        ).status_code
        == 400
    )
    assert client.get(f"/?token={TOKEN}", headers={"host": host}).status_code == 400
    assert file.decisions == {}


@pytest.mark.parametrize(
    "headers",
    [
        {"origin": "http://evil.example"}, {"origin": "null"}, {"origin": None}, {"origin": f"https://{HOST}"},
        {"origin": "http://localhost:8642"}, {"sec-fetch-site": "cross-site"}, {"sec-fetch-site": "same-site"}, {"sec-fetch-site": "none"},
    ],
)  # fmt: skip
def test_a_decision_from_another_page_is_refused(served, headers):
    client, file = served
    for address in ("/decide", "/check"):
        assert send(client, address, headers, id="g000", version="0", verdict="reject").status_code == 403
    assert file.decisions == {}


def test_the_other_name_localhost_works_by_itself(served):
    client, file = served
    cookie = "; ".join(f"{name}={value}" for name, value in client.cookies.items())
    headers = {
        "host": "localhost:8642",
        "origin": "http://localhost:8642",
        "sec-fetch-site": "same-origin",
        "cookie": cookie,
    }
    assert send(client, headers=headers, id="g000", version="0", verdict="reject").status_code == 200
    assert file.decisions["g000"].verdict == "reject"


@pytest.mark.parametrize(("method", "address"), [("GET", "/decide"), ("GET", "/check"), ("POST", "/"), ("PUT", "/decide"), ("DELETE", "/"), ("POST", "/static/review.js"), ("OPTIONS", "/decide")])  # fmt: skip
def test_other_methods_are_refused(served, method, address):
    client, file = served
    answer = client.request(method, address, headers={"origin": f"http://{HOST}"})
    assert answer.status_code == 405
    assert file.decisions == {}


@pytest.mark.parametrize(
    "address",
    ["/", f"/?token={TOKEN}", "/static/review.css", "/static/..%2Freview.py", "/nothing", "/?part=x", "/decide"],
)
def test_every_answer_carries_the_headers(served, address):
    answer = served[0].get(address)
    assert {name: answer.headers.get(name) for name in HEADERS} == HEADERS
    assert "unsafe" not in answer.headers["content-security-policy"]
    assert "server" not in answer.headers


def test_the_server_sends_only_its_own_files(served):
    client, _ = served
    assert "htmx" in client.get("/static/htmx.min.js").text
    for name in ("htmx.LICENSE", "..%2Freview.py", "%2e%2e/guard.py", "review.js/"):
        assert client.get(f"/static/{name}").status_code == 404


@pytest.mark.parametrize(
    ("content", "kind", "status"),
    [
        ("id=g000&version=0&verdict=reject&reason=" + "x" * LARGEST, FORM, 413), ("{}", "application/json", 415),
        ("id=%ff&version=0&verdict=reject", FORM, 400), ("é", FORM, 400), ("&".join(f"a{n}=1" for n in range(40)), FORM, 400),
        ("id=nobody&version=0&verdict=reject", FORM, 404), ("id=g000&verdict=reject", FORM, 400), ("id=g000&version=-1&verdict=reject", FORM, 400),
        ("id=g000&version=x&verdict=reject", FORM, 400), ("id=g000&verdict=reject&version=" + "9" * 5000, FORM, 400), ("id=g000&version=0&verdict=perhaps", FORM, 400), ("", FORM, 404),
        ("id=g000&version=0&verdict=accept&response=%20", FORM, 422), ("id=g000&version=0&verdict=accept&category=cooking", FORM, 422),
        ("id=g000&version=0&verdict=undo", FORM, 422),
    ],
)  # fmt: skip
def test_an_invalid_decision_is_refused_and_not_written(served, folder, content, kind, status):
    client, _ = served
    headers = {"origin": f"http://{HOST}", "hx-request": "true", "content-type": kind}
    assert client.post("/decide", content=content.encode(), headers=headers).status_code == status
    assert folder.review.read_bytes() == b""


def test_a_decision_is_on_the_disk_before_the_page_moves_on(served, folder):
    client, _ = served
    first = row_of(client.get("/"))
    answer = send(client, "/decide?category=code", id=first, version="0", verdict="reject", reason="false")
    assert answer.status_code == 200
    (line,) = folder.review.read_text().splitlines()
    assert json.loads(line) | {"time": ""} == {
        "id": first,
        "verdict": "reject",
        "born": read_rows(folder).identity(first),
        "time": "",
        "reason": "false",
    }
    assert row_of(answer) != first
    where = parse_qs(urlsplit(answer.headers["hx-push-url"]).query)
    assert where == {"category": ["code"], "row": [row_of(answer)]}
    assert json.loads(answer.headers["hx-trigger-after-swap"]) == {
        "decided": {"id": first, "version": 1, "undo": False}
    }


def test_a_decision_that_cannot_be_written_keeps_the_page_where_it_is(served, folder):
    client, file = served
    file.path = folder.path / "gone" / "review.jsonl"
    answer = send(
        client, id="g000", version="0", verdict="accept", instruction="Typed", input="", response="also <b>typed</b>"
    )
    assert answer.status_code == 507
    assert row_of(answer) == "g000"
    assert "hx-push-url" not in answer.headers
    assert "hx-trigger-after-swap" not in answer.headers
    page = Fields(answer.text)
    assert "NOT saved" in page.text
    assert (page.fields["instruction"], page.fields["response"]) == ("Typed", "also <b>typed</b>")
    assert file.decisions == {}


def test_two_windows_do_not_overwrite_each_other(served, folder):
    client, file = served
    assert send(client, id="g000", version="0", verdict="reject", reason="unclear").status_code == 200
    before = folder.review.read_bytes()
    answer = send(client, id="g000", version="0", verdict="accept", response="my long edit")
    assert answer.status_code == 409
    assert folder.review.read_bytes() == before
    assert row_of(answer) == "g000"
    page = Fields(answer.text)
    assert re.search(
        r"NOT saved: the decision about this row has changed .*: it was rejected \(unclear\) at 20.*, in another window",
        page.text,
    )
    assert page.fields["response"] == "my long edit"
    versions = {attrs["value"] for tag, attrs in page.tags if attrs.get("name") == "version"}
    assert versions == {"1"}
    assert send(client, id="g000", version="1", verdict="accept", response="my long edit").status_code == 200
    assert file.decisions["g000"].response == "my long edit"
    assert send(client, id="g000", version="1", verdict="undo").status_code == 409


def test_undo_goes_to_the_row_and_a_dropped_one_can_be_called_back(served):
    client, file = served
    send(client, id="g041", version="0", verdict="accept")
    assert (file.decisions["g041"].response, file.decisions["g041"].category) == ("Answer 41 is here.", "writing")
    answer = send(client, id="g041", version="1", verdict="undo")
    assert row_of(answer) == "g041"
    assert file.decisions == {}


def test_a_relabel_keeps_the_texts_of_the_current_decision(served):
    client, file = served
    send(client, id="g001", version="0", verdict="accept", response="Edited.")
    send(client, id="g001", version="1", verdict="accept", category="poetry")
    decision = file.decisions["g001"]
    assert (decision.response, decision.category, decision.instruction) == ("Edited.", "poetry", "Task number 1")


def test_the_last_decision_of_a_filter_is_announced_and_the_page_stays(served):
    client, _ = served
    answer = send(client, "/decide?rewritten=yes&state=undecided", id="g001", version="0", verdict="accept")
    assert row_of(answer) == "g001"
    assert "g001 accepted. Every row of this filter is decided." in answer.text
    assert "No row of this run" in client.get("/?rewritten=yes&state=undecided").text


def test_constraints_are_checked_while_an_answer_is_written(served):
    client, file = served
    assert (
        "satisfied: change_case:english_lowercase" in send(client, "/check", id="g005", response="small letters").text
    )
    assert (
        "NOT SATISFIED: change_case:english_lowercase"
        in send(client, "/check", id="g005", response="Large Letters").text
    )
    assert file.decisions == {}


@pytest.mark.parametrize("column", ["instruction", "input", "response"])
def test_hostile_rows_are_text_and_return_from_the_fields_unchanged(tmp_path, column):
    # The reader of curated.jsonl refuses an instruction or an answer of white space alone.
    attacks = {id: text for id, text in ATTACKS.items() if column == "input" or text.strip()}
    folder = make_run(tmp_path / "demo", {id: {column: text} for id, text in attacks.items()})
    client, file = serving(folder)
    for id, text in attacks.items():
        page = Fields(client.get(f"/?row={id}").text)
        assert not [tag for tag, _ in page.tags if tag in ("img", "iframe", "b", "object", "style")]
        assert [attrs["src"] for tag, attrs in page.tags if tag == "script"] == [
            "/static/htmx.min.js",
            "/static/review.js",
        ]
        assert not [name for _, attrs in page.tags for name in attrs if name.startswith("on") or name == "style"]
        assert all(attrs["href"].startswith(("/", "#", "data:,")) for _, attrs in page.tags if "href" in attrs)
        assert not re.search("[\u202e\x1b]", page.text)
        # A browser turns CR and CRLF of a field into LF, and U+0000 into U+FFFD.
        came = page.fields[column].replace("\r\n", "\n").replace("\r", "\n").replace("\0", "\ufffd")
        for version, sent in enumerate((came, came.replace("\n", "\r\n"))):
            answer = send(client, id=id, version=str(version), verdict="accept", **{column: sent})
            assert answer.status_code == 200
            assert getattr(file.decisions[id], column) == text
        send(client, id=id, version="2", verdict="accept", **{column: f"{came}!"})
        assert getattr(read_decisions(folder.review)[id], column) == f"{came}!"
    client.lock.__exit__(None, None, None)


def test_hostile_addresses_names_and_reasons_are_text(tmp_path):
    folder = make_run(tmp_path / "demo", {"g000": {"category": ATTACK, "strategy": ATTACK, "writer": ATTACK}})
    client, _ = serving(folder)
    send(client, id="g000", version="0", verdict="reject", reason=ATTACK)
    query = urlencode({"text": ATTACK, "category": ATTACK, "origin": ATTACK, "row": f'"><script>{ATTACK}'})
    for address in (f"/?{query}", "/?row=g000", f"/?row={ATTACK}"):
        answer = client.get(address)
        assert answer.status_code == 200
        page = Fields(answer.text)
        assert len([tag for tag, _ in page.tags if tag == "script"]) == 2
        assert not [tag for tag, _ in page.tags if tag == "img"]
        for name, value in answer.headers.items():
            assert "script>" not in value, name
    assert "text/plain" in client.get(f"/?part={ATTACK}").headers["content-type"]
    client.lock.__exit__(None, None, None)


def test_the_page_reports_that_the_run_was_made_again(served, folder):
    client, _ = served
    assert "made again" not in client.get("/").text
    os.utime(folder.dropped_file, (1, 1))
    assert "made again" in client.get("/").text


def test_reasons_have_the_keys_one_to_nine(served):
    page = Fields(served[0].get("/").text)
    keys = {attrs["data-key"]: attrs.get("value") for _, attrs in page.tags if "data-key" in attrs}
    assert [keys[str(n)] for n in range(1, 10)] == list(REASONS)
    assert {"a", "r", "e", "c", "u", "j", "n", "f", "?"} <= keys.keys()
