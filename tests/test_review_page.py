"""The review page in a real browser, by the keyboard alone: kills of the server, hostile rows, two windows."""

import re
import shutil
import signal
from contextlib import contextmanager

import pytest

from kiloset.core.review import read_decisions
from tests.test_review import make_run
from tests.test_review_server import ATTACKS
from tests.test_reviewing import start

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="needs Chromium or Chrome on the PATH")
DOWN = "server cannot be reached"


class Server:
    """The command in its own process, which a test can kill and start again."""

    def __init__(self, folder):
        self.folder, self.process = folder, None
        self.start()

    def start(self):
        self.process = start(self.folder)
        self.link = re.search(r"http\S+", self.process.stdout.readline())[0]

    def kill(self):
        self.process.send_signal(signal.SIGKILL)
        self.process.communicate()


class Window:
    """One window of the browser, with its messages, requests and dialogs."""

    def __init__(self, context, link):
        self.page, self.messages, self.requests, self.dialogs = context.new_page(), [], [], []
        self.page.on("console", lambda message: self.messages.append(message.text))
        self.page.on("pageerror", lambda error: self.messages.append(str(error)))
        self.page.on("request", lambda request: self.requests.append(request.url))
        self.page.on("dialog", lambda dialog: (self.dialogs.append(dialog.message), dialog.accept()))
        self.page.goto(link)
        self.page.wait_for_function("location.search === '' && document.getElementById('row')")

    @property
    def row(self):
        return self.page.text_content("#row")

    @property
    def alarm(self):
        return self.page.text_content("#alarm")

    def press(self, *keys):
        for key in keys:
            self.page.keyboard.press(key)

    def until(self, script, arg=None):
        self.page.wait_for_function(script, arg=arg, timeout=20_000)

    def decide(self, *keys):
        """Press keys, and wait until the page confirms; return the row decided about."""
        before = self.row
        self.press(*keys)
        self.until("id => document.getElementById('status').textContent.startsWith(id)", before)
        self.until("id => document.getElementById('row').textContent !== id", before)
        return before


@contextmanager
def browsing(folder, **options):
    from playwright.sync_api import sync_playwright

    server = Server(folder)
    try:
        with sync_playwright() as playwright:
            browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
            yield server, browser.new_context(**options)
            browser.close()
    finally:
        server.kill()


def kinds(folder):
    return {id: (decision.verdict, decision.reason) for id, decision in read_decisions(folder.review).items()}


def test_thirty_rows_are_reviewed_by_keyboard_while_the_server_is_killed_twice(tmp_path):
    folder = make_run(tmp_path / "demo")
    with browsing(folder) as (server, context):
        window, expected = Window(context, server.link), {}
        for _ in range(8):
            expected[window.decide("a")] = ("accept", "")
        for key, reason in (("1", "false"), ("7", "personal data")):
            expected[window.decide(key)] = ("reject", reason)
        expected[window.decide("r", "2")] = ("reject", "no task")
        window.press("r", "t")
        window.page.keyboard.type("too short, j and a")
        expected[window.decide("Enter")] = ("reject", "too short, j and a")

        window.press("e", "Control+End")
        window.page.keyboard.type(" More, ja?")
        edited = window.decide("Control+Enter")
        expected[edited] = ("accept", "")
        window.press("c")
        window.page.keyboard.type("po")
        relabelled = window.decide("Enter")
        expected[relabelled] = ("accept", "")

        # The server is killed while the field contains an edit: the typed text is kept and can be saved later.
        server.kill()
        typed_in = window.row
        window.press("e", "Control+End")
        window.page.keyboard.type(" Typed while it was down.")
        window.press("Control+Enter")
        window.until("text => document.getElementById('alarm').textContent.includes(text)", DOWN)
        assert "NOT saved" in window.alarm
        assert window.row == typed_in
        assert kinds(folder) == expected
        server.start()
        expected[window.decide("Control+Enter")] = ("accept", "")
        assert window.alarm == ""

        wrong = window.decide("a")
        window.press("u")
        window.until("id => document.getElementById('row').textContent === id", wrong)
        assert wrong not in kinds(folder)
        assert len([line for line in folder.review.read_text().splitlines() if '"undo"' in line]) == 1
        expected[window.decide("4")] = ("reject", "not useful")

        while len(expected) < 24:
            expected[window.decide("a")] = ("accept", "")
        # The server is killed during a decision. If the page confirmed it, it is on the disk; else the page reports the failure.
        hurried = window.row
        window.press("a")
        server.kill()
        window.until(
            f"id => document.getElementById('alarm').textContent.includes('{DOWN}') || document.getElementById('row').textContent !== id",
            hurried,
        )
        server.start()
        if window.row == hurried:
            window.press("a")
            window.until(
                "id => document.getElementById('row').textContent !== id || document.getElementById('alarm').textContent.includes('another window')",
                hurried,
            )
            window.press(*("n" if window.row == hurried else ""))
        expected[hurried] = ("accept", "")
        window.until("id => document.getElementById('row').textContent !== id", hurried)
        while len(expected) < 30:
            expected[window.decide("a")] = ("accept", "")

        window.press("f", "ArrowDown", "Enter")  # rows: dropped
        window.until("() => location.search.includes('part=dropped')")
        window.until("() => document.querySelector('[data-key=a]').textContent.includes('Restore')")
        back = window.decide("a")
        expected[back] = ("accept", "")
        window.page.reload()
        window.until("() => location.search.includes('part=dropped') && document.getElementById('row')")

        decisions = read_decisions(folder.review)
        assert kinds(folder) == expected
        assert len(expected) == 31
        assert back >= "g036"
        assert decisions[edited].response.endswith("here. More, ja?")
        assert decisions[relabelled].category == "poetry"
        assert decisions[typed_in].response.endswith(" Typed while it was down.")
        assert window.dialogs == []
        failed = [
            message
            for message in window.messages
            if re.match(r"htmx:(sendError|afterRequest|afterOnLoad), |Failed to load resource: net::ERR_", message)
        ]
        conflicts = [message for message in window.messages if "409" in message]
        assert len(conflicts) <= 1
        assert sorted([*failed, *conflicts]) == sorted(window.messages)
        host = server.link.partition("/?")[0]
        assert {url for url in window.requests if not url.startswith((f"{host}/", "data:"))} == set()


def test_no_row_can_run_a_script_and_unchanged_fields_keep_their_text(tmp_path):
    texts = {id: {"instruction": f"{text} in {id}", "response": text} for id, text in ATTACKS.items() if text.strip()}
    folder = make_run(tmp_path / "demo", texts)
    with browsing(folder) as (server, context):
        window = Window(context, server.link)
        for id in texts:
            window.page.goto(f"{server.link.partition('?')[0]}?row={id}")
            window.press("e")
            assert window.page.evaluate("document.activeElement.name") == "response"
            assert window.decide("Control+Enter") == id
            decision = read_decisions(folder.review)[id]
            assert (decision.instruction, decision.response) == (texts[id]["instruction"], texts[id]["response"])
            assert "owned" not in window.page.title()
        assert window.dialogs == []
        assert window.messages == []


def test_a_window_reports_the_decision_of_another_window_about_its_row(tmp_path):
    folder = make_run(tmp_path / "demo")
    with browsing(folder) as (server, context):
        one, two = Window(context, server.link), Window(context, server.link)
        row = one.row
        assert two.row == row
        two.press("e", "Control+End")
        two.page.keyboard.type(" Mine.")
        one.decide("3")
        two.press("Control+Enter")
        two.until("() => document.getElementById('alarm').textContent.includes('it was rejected (unclear)')")
        assert kinds(folder) == {row: ("reject", "unclear")}
        assert two.page.input_value("#new-response").endswith(" Mine.")
        assert two.page.evaluate("document.activeElement.name") == "response"
        two.decide("Control+Enter")
        assert read_decisions(folder.review)[row].response.endswith(" Mine.")
        # The first window cannot undo its decision, because it is no longer the last one.
        one.press("u")
        one.until("() => document.getElementById('alarm').textContent.includes('it was accepted at 20')")
        assert kinds(folder) == {row: ("accept", "")}
        assert [message for message in one.messages + two.messages if "409" not in message] == []


def test_undo_revokes_one_decision_after_the_other_also_of_one_row(tmp_path):
    folder = make_run(tmp_path / "demo")
    with browsing(folder) as (server, context):
        window = Window(context, server.link)
        row = window.decide("a")
        window.press("k")
        window.until("id => document.getElementById('row').textContent === id", row)
        window.decide("3")
        other = window.decide("a")
        for remaining in ({row: ("reject", "unclear")}, {row: ("accept", "")}, {}):
            window.press("u")
            window.until("() => document.getElementById('status').textContent.includes('undone')")
            assert kinds(folder) == remaining
            assert window.row == (other if row in remaining and remaining[row][0] == "reject" else row)
            window.press("r")  # clears the status
            window.press("Escape")
        window.press("u")
        window.until("() => document.getElementById('status').textContent.includes('no decision to undo')")
        assert window.messages == []


def test_no_key_discards_typed_text_by_accident(tmp_path):
    folder = make_run(tmp_path / "demo")
    with browsing(folder) as (server, context):
        window = Window(context, server.link)
        row = window.row
        window.press("e")
        window.page.keyboard.type("Not yet ")
        window.press("Escape", "a")
        window.until("() => document.getElementById('status').textContent.includes('not saved')")
        assert (window.row, kinds(folder)) == (row, {})
        window.press("e")
        assert window.page.input_value("#new-response").startswith("Not yet ")
        window.press("Escape", "j", "j")
        window.until("id => document.getElementById('row').textContent !== id", row)
        assert kinds(folder) == {}


def test_keys_do_nothing_in_fields_and_every_control_has_a_name(tmp_path):
    folder = make_run(tmp_path / "demo")
    with browsing(folder, viewport={"width": 400, "height": 800}) as (server, context):
        window = Window(context, server.link)
        row = window.row
        window.press("/")
        window.page.keyboard.type("number 1rajkenuc?")
        assert window.page.input_value("input[type=search]") == "number 1rajkenuc?"
        assert (window.row, kinds(folder)) == (row, {})
        window.press("Control+a")
        window.page.keyboard.type("number 17")
        window.press("Enter")
        window.until("() => document.getElementById('row').textContent === 'g017'")
        assert "text=number+17" in window.page.url
        window.press("?")
        assert window.page.locator("#help").is_visible()
        window.press("a", "1", "Escape")
        assert kinds(folder) == {}
        nameless = window.page.evaluate("""() => [...document.querySelectorAll('button, a, input:not([type=hidden]), select, textarea')]
            .filter(one => !(one.textContent.trim() || one.getAttribute('aria-label') || (one.labels && one.labels.length))).map(one => one.outerHTML)""")
        assert nameless == []
        for name in ("edit", "reject", "relabel", "filters"):
            window.page.click(f"[data-opens={name}]")
            assert window.page.evaluate("document.documentElement.scrollWidth") <= 400
            assert window.page.evaluate(f"document.getElementById('{name}').contains(document.activeElement)")
        window.press("Escape")
        assert window.page.evaluate("document.activeElement.id") == "row"
        assert window.messages == []
