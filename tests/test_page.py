"""The report page: its content, its defence against hostile texts, and that a real browser draws it without an error."""

import base64
import hashlib
import json
import re
import shutil
from contextlib import contextmanager
from dataclasses import replace
from html.parser import HTMLParser

import numpy as np
import polars as pl
import pytest

from kiloset.audit import charts
from kiloset.audit.pages import policy, project, save_page
from kiloset.audit.run_audit import audit
from kiloset.audit.run_page import render
from kiloset.audit.safe_text import CHARACTERS, mark_differences, visible
from kiloset.core.errors import DataError
from tests.test_audit import run, whole  # noqa: F401

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
in_browser = pytest.mark.skipif(CHROMIUM is None, reason="needs Chromium or Chrome on the PATH")
ATTACKS = [
    "<script>document.title = 'owned'</script>",
    "</textarea></script><img src=x onerror=\"document.title='owned'\">",
    "[a](javascript:alert(1)) {{ 7 * 7 }} ${7 * 7} <!-- <script>",
    "abc \u202egnp.exe\u2028\u2029 \x1b[2J\x00 end",
    "x" * 100_000,
]


class Tags(HTMLParser):
    """Collects the tags and the text of a page, scripts and styles apart."""

    def __init__(self, page):
        super().__init__()
        self.tags, self.text, self.scripts, self.inside = [], "", [], None
        self.feed(page)

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        self.inside = tag if tag in ("script", "style") else None

    def handle_endtag(self, tag):
        self.inside = None

    def handle_data(self, data):
        if self.inside == "script":
            self.scripts.append((self.tags[-1][1], data))
        elif self.inside is None:
            self.text += data


def vectors_of(texts):
    rng = np.random.default_rng(len(texts))
    vectors = rng.normal(size=(len(texts), 16)).astype(np.float32)
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


@pytest.fixture
def hostile(run):  # noqa: F811
    """A run whose texts, ids, reasons and file contents attack the page, with enough rows for a map."""
    lines = run.curated.read_text().splitlines()
    for number, text in enumerate(ATTACKS * 3):
        row = json.loads(lines[0])
        row |= {"id": f"h{number}" + ("<b>" if number == 0 else ""), "category": ATTACKS[number % 3]}
        row["messages"] = [{"role": "user", "content": f"{text} {number}"}, {"role": "assistant", "content": text}]
        lines.append(json.dumps(row))
    run.curated.write_text("".join(f"{line}\n" for line in lines))
    run.config.write_text("# </pre><script>alert(1)</script>\n")
    ledger = run.dropped()
    reasons = pl.Series([ATTACKS[0]] * ledger.height)
    kinds = {"reason": reasons, "evidence": pl.Series([ATTACKS[1]] * ledger.height)}
    manifest = run.manifest
    ledger.with_columns(**kinds).write_parquet(run.dropped_file)
    for stage in manifest["stages"].values():
        stage["dropped"] = {ATTACKS[0]: sum(stage["dropped"].values())} if stage["dropped"] else {}
    run.update_manifest(manifest)
    return run


def test_the_page_shows_every_section_and_the_rows_behind_each_reason(run):  # noqa: F811
    page = Tags(render(run, audit(run), vectors_of))
    headings = [tag for tag in page.tags if tag[0] == "section"]
    assert [attrs["id"] for _, attrs in headings] == [
        "categories", "funnel", "lengths", "strategies", "map", "rewriting", "pairs", "cost", "rows", "config"
    ]  # fmt: skip
    for text in (
        "instruction_too_short",
        "near_duplicate",
        "jaccard 0.97",
        "in favour of g00001",
        "Read this aloud and smile",
    ):
        assert text in page.text
    names = {attrs["data-chart"] for tag, attrs in page.tags if "data-chart" in attrs}
    assert names == {"categories", "lengths", "strategies", "surprisal", "style", "tokens", "seconds"}


def test_the_charts_hold_the_figures_of_the_audit(run):  # noqa: F811
    report = audit(run)
    specs = {
        attrs["id"]: json.loads(text)
        for attrs, text in Tags(render(run, report, vectors_of)).scripts
        if attrs.get("type") == "application/json"
    }
    bars = specs["chart-categories"]["data"]["values"]
    assert {(bar["category"], bar["of"]): bar["rows"] for bar in bars} == {
        ("list", "target"): 1, ("write", "target"): 1,
        ("list", "result"): report.distribution.result["list"], ("write", "result"): report.distribution.result["write"],
    }  # fmt: skip
    outcomes = {bar["outcome"]: bar["rows"] for bar in specs["chart-strategies"]["data"]["values"]}
    assert outcomes == {"kept": 1, "dropped": 2}


def test_the_cosine_of_each_rewrite_with_its_reference_is_drawn_by_its_status(run):  # noqa: F811
    report = audit(run)
    verdict = {"check": "meaning", "status": "passed", "measured": 0.9123, "limit": 0.8}
    offered = [
        {"kind": "plain", "status": "rejected", "verdicts": [{**verdict, "measured": 0.4}]},
        {"kind": "guided", "status": "chosen", "verdicts": [{**verdict, "check": "length"}, verdict]},
        {"kind": "plain", "status": "passed", "verdicts": [{**verdict, "measured": None}]},
    ]
    rewrites = pl.Series([offered, None, []])
    report = replace(report, table=report.table.with_columns(rewrites=rewrites))
    scripts = {attrs.get("id"): text for attrs, text in Tags(render(run, report, None)).scripts}
    line, points = json.loads(scripts["chart-similarity"])["layer"]
    assert line["data"]["values"] == [{"limit": 0.8}]
    assert points["data"]["values"] == [
        {"id": report.table["id"][0], "status": "chosen", "kind": "guided", "cosine": 0.912, "limit": 0.8},
        {"id": report.table["id"][0], "status": "rejected", "kind": "plain", "cosine": 0.4, "limit": 0.8},
    ]


def test_no_personal_data_is_on_the_page_unless_the_setting_is_off(run):  # noqa: F811
    mail, phone = "greta.holm@fjordmail.net", "+49 30 901820"
    lines = [json.loads(line) for line in run.curated.read_text().splitlines()]
    for line in lines:
        line["messages"][1]["content"] += f" Write to {mail} or call {phone}."
    run.curated.write_text("".join(f"{json.dumps(line)}\n" for line in lines))
    ledger = run.dropped()
    quoted = pl.Series([f"it holds {mail}"] * ledger.height)
    ledger.with_columns(instruction=pl.format("{} for {}", "instruction", pl.lit(mail)), evidence=quoted).write_parquet(
        run.dropped_file
    )
    pair = {"id": "g1", "other": "g2", "cosine": 0.9, "why": "x", "instruction": mail, "other_instruction": phone}
    pl.DataFrame([pair]).write_parquet(run.borderline)
    row = {"group": 0, "id": "g1", "reason": None, "instruction": f"Ask {mail}"}
    pl.DataFrame([row], schema={**dict.fromkeys(row, pl.String), "group": pl.Int64}).write_parquet(run.duplicates)
    page = render(run, audit(run, 20), vectors_of)
    assert mail not in page
    assert phone not in page
    assert page.count("[e-mail g… (") > 5
    run.config.write_text('[rules]\npersonal_data = "off"\n')
    page = render(run, audit(run, 20), vectors_of)
    assert page.count(mail) > 5
    assert phone in page


def test_no_text_of_a_model_becomes_markup(hostile):
    page = Tags(render(hostile, audit(hostile), vectors_of))
    assert [attrs.get("type") for tag, attrs in page.tags if tag == "script"].count(None) == 2
    assert not [tag for tag, _ in page.tags if tag in ("img", "textarea", "iframe")]
    assert not [attrs for _, attrs in page.tags if any(name.startswith("on") for name in attrs)]
    assert all(attrs["href"].startswith(("#", "data:,")) for _, attrs in page.tags if "href" in attrs)
    assert ATTACKS[0] in page.text
    assert ATTACKS[2] in page.text
    assert not re.search("[\u202e\x00\x1b]", page.text)
    assert "⟨U+202E⟩" in page.text
    assert "(100,002 characters)" in page.text


def test_the_policy_allows_the_two_scripts_of_the_page_and_no_other(hostile):
    page = Tags(render(hostile, audit(hostile), vectors_of))
    allowed = next(attrs["content"] for tag, attrs in page.tags if attrs.get("http-equiv"))
    ran = [text for attrs, text in page.scripts if "type" not in attrs]
    hashes = {base64.b64encode(hashlib.sha256(text.encode()).digest()).decode() for text in ran}
    assert set(re.findall(r"sha256-([^']+)'", allowed)) == hashes
    assert "unsafe-eval" not in allowed
    assert "script-src 'unsafe-inline'" not in allowed
    assert policy("a") != policy("b")


def test_the_same_run_gives_the_same_page(hostile, tmp_path):
    report = audit(hostile)
    sizes = [save_page(render(hostile, report, vectors_of), tmp_path / name) for name in ("a.html", "b.html")]
    assert (tmp_path / "a.html").read_bytes() == (tmp_path / "b.html").read_bytes()
    assert sizes[0] == (tmp_path / "a.html").stat().st_size < 5e6


def test_a_page_that_cannot_be_written_is_refused_in_one_line(run, tmp_path):  # noqa: F811
    with pytest.raises(DataError, match=r"cannot be written .*--page"):
        save_page(render(run, audit(run), None), tmp_path / "absent" / "report.html")


@pytest.mark.parametrize(
    ("before", "after"),
    [("", ""), ("a b c", "a x c"), ("one two", "one two three"), ("  a\n\n b", "a b"), ("色は", "色を"), ("x", "")],
)
def test_marked_parts_join_to_the_two_texts_and_share_what_is_not_marked(before, after):
    old, new = mark_differences(before, after)
    assert "".join(text for _, text in old) == before
    assert "".join(text for _, text in new) == after
    assert "".join(text for kind, text in old if kind == "same") == "".join(t for kind, t in new if kind == "same")


def test_only_the_changed_word_is_marked():
    old, new = mark_differences("The sea is blue.", "The sea is green.")
    assert [text for kind, text in old if kind == "del"] == ["blue"]
    assert [text for kind, text in new if kind == "ins"] == ["green"]


def test_a_long_text_is_cut_and_its_length_is_shown():
    assert visible("a" * CHARACTERS) == "a" * CHARACTERS
    assert visible("a" * (CHARACTERS + 1)) == "a" * CHARACTERS + "… (1,201 characters)"
    assert visible("a\tb\nc") == "a\tb\nc"


def test_a_histogram_counts_every_value_and_is_not_stretched_by_one():
    spec = charts.histograms({"response": [*range(1, 100), 5000]})
    bars = spec["data"]["values"]
    assert sum(bar["rows"] for bar in bars) == 100
    assert (len(bars), bars[-1]["to"]) == (34, 102)
    assert spec["vconcat"][0]["encoding"]["x"]["title"] == "words of response (the last bar: 99 to 5000)"


def test_similar_rows_are_near_each_other_on_the_map():
    rng = np.random.default_rng(0)
    centres = np.repeat(np.eye(4, 32), 15, axis=0)
    vectors = (centres + rng.normal(scale=0.02, size=centres.shape)).astype(np.float32)
    drawn = project(vectors)
    assert drawn.shape == (60, 2)
    apart = np.linalg.norm(drawn[:, None] - drawn[None], axis=2) + np.eye(60) * 1e9
    assert (apart.argmin(axis=1) // 15 == np.arange(60) // 15).all()


@contextmanager
def open_page(path, **options):
    """Open a page in a browser, wait until every chart is drawn, and yield the page, its messages and its requests."""
    from playwright.sync_api import sync_playwright

    messages, requests = [], []
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        page = browser.new_page(**options)
        page.on("console", lambda message: messages.append(message.text))
        page.on("pageerror", lambda error: messages.append(str(error)))
        page.on("request", lambda request: requests.append(request.url))
        page.goto(path.as_uri())
        charts = page.locator("[data-chart]").count()
        page.wait_for_function(f"document.querySelectorAll('[data-drawn]').length === {charts}", timeout=30_000)
        yield page, messages, requests
        browser.close()


@in_browser
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_a_browser_draws_every_chart_without_requests_and_errors(hostile, tmp_path, scheme):
    save_page(render(hostile, audit(hostile), vectors_of), tmp_path / "report.html")
    narrow = {"width": 400, "height": 800}
    with open_page(tmp_path / "report.html", color_scheme=scheme, viewport=narrow) as (page, messages, requests):
        assert page.title() == "Audit of demo"
        charts = page.locator("[data-chart]").count()
        assert page.locator("[data-chart] svg, [data-chart] canvas").count() == charts
        assert page.evaluate("document.documentElement.scrollWidth") <= 400
        page.select_option("#map-field", index=1)
        page.locator("#funnel summary").first.focus()
        page.keyboard.press("Enter")
        assert page.locator("#funnel details[open]").count() == 1
    assert messages == []
    assert [url for url in requests if not url.startswith(("file:", "data:"))] == []


@in_browser
def test_the_map_is_zoomed_moved_and_read_by_the_keyboard(hostile, tmp_path):
    save_page(render(hostile, audit(hostile), vectors_of), tmp_path / "report.html")
    with open_page(tmp_path / "report.html") as (page, messages, _):
        rows = json.loads(page.text_content("#chart-map"))["data"]["values"]
        texts = [row["text"] for row in sorted(rows, key=lambda row: (row["x"], -row["y"]))]
        page.focus("#map-field")
        page.keyboard.press("Tab")
        assert page.evaluate("document.activeElement.dataset.chart") == "map"
        for key, at in (("n", 0), ("n", 1), ("p", 0), ("p", -1)):
            page.keyboard.press(key)
            assert page.text_content("#map-row").endswith(f" · {texts[at]}")
        assert page.locator(".ring").is_visible()
        canvas = page.locator("[data-chart=map] canvas")
        whole = canvas.screenshot()
        page.keyboard.press("+")
        page.wait_for_timeout(100)
        near = canvas.screenshot()
        page.keyboard.press("ArrowRight")
        page.wait_for_timeout(100)
        assert not page.locator(".ring").is_visible()
        assert len({whole, near, canvas.screenshot()}) == 3
        for _ in range(12):
            page.keyboard.press("ArrowRight")
        page.keyboard.press("n")
        assert page.text_content("#map-row") == "No row is visible."
        page.keyboard.press("0")
        page.keyboard.press("n")
        assert page.text_content("#map-row").endswith(tuple(texts))
        assert messages == []


@in_browser
def test_a_dark_page_is_printed_dark_on_white_and_no_chart_is_wider_than_the_paper(hostile, tmp_path):
    save_page(render(hostile, audit(hostile), vectors_of), tmp_path / "report.html")
    with open_page(tmp_path / "report.html", color_scheme="dark", viewport={"width": 1280, "height": 900}) as (
        page,
        messages,
        _,
    ):
        inks = "[...new Set([...document.querySelectorAll('.chart svg text')].map((one) => one.getAttribute('fill')))]"
        widest = (
            "Math.max(...[...document.querySelectorAll('.chart svg, .chart canvas')].map((one) => one.clientWidth))"
        )
        assert page.evaluate(inks) == ["#e8eaed"]
        page.evaluate("dispatchEvent(new Event('beforeprint'))")
        assert page.evaluate(inks) == ["#1b1f24"]
        assert page.evaluate(widest) <= 720
        page.emulate_media(media="print", color_scheme="dark")
        assert page.evaluate("getComputedStyle(document.body).color") == "rgb(27, 31, 36)"
        page.emulate_media(media="screen", color_scheme="dark")
        page.evaluate("dispatchEvent(new Event('afterprint'))")
        assert page.evaluate(inks) == ["#e8eaed"]
        assert messages == []


def test_a_run_without_its_configuration_gives_a_page_without_a_map(run):  # noqa: F811
    run.config.unlink(missing_ok=True)
    assert "No map" in Tags(render(run, audit(run), None)).text
