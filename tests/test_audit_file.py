"""The audit of somebody else's file: the report names each planted fault with its lines and none in a clean set."""

import json
import re
from functools import partial
from types import SimpleNamespace

import pytest

from kiloset.audit.answers import is_begun
from kiloset.audit.faults import EXAMPLES, MEANINGS, OF_RULES
from kiloset.audit.file_audit import audit_file
from kiloset.audit.file_page import render_file_page
from kiloset.audit.pages import save_page
from kiloset.core.errors import DataError, EmptyError
from kiloset.filters.rules import RulesConfig, instruction_rules, row_rules
from tests import planted
from tests.paths import ROOT
from tests.test_page import ATTACKS, CHROMIUM, Tags, vectors_of

ROW = {
    "instruction": "Name three primary colours.",
    "input": "",
    "response": "Red, yellow and blue.",
    "category": "art",
}


@pytest.fixture
def kiloset(kiloset, tmp_path):
    """Run the command line in a folder of the test's own."""
    return partial(kiloset, cwd=tmp_path)


@pytest.fixture(scope="module")
def faulty(tmp_path_factory):
    """A set of 1,200 lines with faults, its audit, and the lines of each fault."""
    file, benchmark, lines = planted.faulty(tmp_path_factory.mktemp("faulty"))
    return SimpleNamespace(file=file, benchmark=benchmark, lines=lines, report=audit_file(file, [str(benchmark)]))


def audited(tmp_path, *rows):
    return audit_file(planted.write(tmp_path / "set.jsonl", rows))


def named(report):
    return {fault.name: fault.rows for fault in report.faults}


def lines_of(report, name):
    fault = next(fault for fault in report.faults if fault.name == name)
    if name == "broken_line":
        return {int(example.row.place.split(":")[1]) for example in fault.examples}
    places = dict(report.table.select("id", "place").iter_rows())
    return {int(places[id].split(":")[1]) for id in fault.ids}


def test_every_planted_fault_is_named_with_exactly_its_lines(faulty):
    assert {name: lines_of(faulty.report, name) for name in faulty.lines} == faulty.lines
    assert named(faulty.report) == {
        **{name: len(lines) for name, lines in faulty.lines.items()}, "category_dominates": 720, "licences": 598
    }  # fmt: skip


def test_the_worst_fault_comes_first_with_its_meaning_and_its_places(faulty):
    faults = faulty.report.faults
    assert [fault.meaning.grade for fault in faults] == ["grave"] * 4 + ["poor"] * 4
    assert [fault.rows for fault in faults] == [598, 10, 3, 2, 720, 100, 100, 30]
    by_name = {fault.name: fault for fault in faults}
    assert 'bench.jsonl:1, "which the' in " ".join(e.evidence for e in by_name["contaminated"].examples)
    assert by_name["licences"].details[:3] == (
        "Apache-2.0: 600 rows",
        "CC-BY-NC-4.0: 299 rows",
        "CC-BY-SA-4.0: 299 rows",
    )
    assert (
        by_name["licences"]
        .details[-1]
        .startswith("CC-BY-NC-4.0, CC-BY-SA-4.0: share-alike together with more restrictive terms")
    )
    assert "“maths” has 720 of the 1198 rows" in by_name["category_dominates"].details[0]
    assert by_name["broken_line"].of == 1200
    assert {example.row.place for example in by_name["broken_line"].examples} == {"set.jsonl:500", "set.jsonl:900"}
    assert all(len(fault.examples) == min(EXAMPLES, fault.rows) for fault in faults if fault.ids)
    pair = by_name["near_duplicate"].examples[0]
    assert int(pair.row.place.split(":")[1]) - int(pair.duplicate.place.split(":")[1]) in (998, 999, 1000)


def test_no_line_is_lost(faulty):
    report = faulty.report
    assert (report.source.lines, report.rows, len(report.source.broken)) == (1200, 1198, 2)
    places = [*report.table["place"], *(place for place, _ in report.source.broken)]
    assert sorted(int(place.split(":")[1]) for place in places) == list(range(1, 1201))
    with_faults = set.union(*(lines for name, lines in faulty.lines.items() if name != "broken_line"))
    assert report.sound == 1198 - len(with_faults)


def test_a_clean_set_names_nothing(tmp_path):
    report = audited(tmp_path, *planted.clean(1000))
    assert named(report) == {}
    assert report.sound == 1000


def test_neither_personal_data_nor_folders_are_shown(faulty):
    assert "harbour-post" in faulty.file.read_text()
    assert "harbour-post" not in str(faulty.report.table.to_dicts()) + str(faulty.report.faults)
    assert "harbour-post" not in render_file_page(faulty.report, None)
    assert "e-mail p… (" in str(faulty.report.faults)
    assert str(faulty.file.parent) not in render_file_page(faulty.report, None)


def test_a_sentence_that_the_model_shall_complete_lacks_no_input(tmp_path):
    assert is_begun("The exterior was shot at this location:")
    assert not is_begun("Summarise the following text:")
    report = audited(
        tmp_path,
        {**ROW, "instruction": "The film was shot at this location:"},
        {**ROW, "instruction": "Sum up the following text:"},
    )
    assert lines_of(report, "refers_to_missing_input") == {2}


def test_a_copy_with_another_answer_and_two_questions_on_one_text_are_no_duplicates(tmp_path):
    text = " ".join(row["response"] for row in planted.clean(6, seed=9))
    rows = [
        ROW, {**ROW, "response": "Cyan, magenta and yellow, in print."}, {**ROW, "response": "red YELLOW and blue"},
        {**ROW, "instruction": "Who painted the bridge?", "input": text, "response": "A teacher."},
        {**ROW, "instruction": "List all the animals that are named.", "input": text, "response": "None are."},
    ]  # fmt: skip
    report = audited(tmp_path, *rows)
    counted = {name: rows for name, rows in named(report).items() if name != "instruction_too_short"}
    assert counted == {"other_answer": 1, "exact_duplicate": 1, "shared_text": 1}


def test_every_rule_has_a_meaning():
    rules = {**instruction_rules(RulesConfig()), **row_rules(RulesConfig())}
    assert {OF_RULES.get(name, name) for name in rules} <= {*MEANINGS}
    assert {*OF_RULES} <= {*rules}


@pytest.mark.parametrize(
    ("row", "fault"),
    [
        ({"response": ""}, "response_empty"), ({"response": "I cannot help with that."}, "response_refuses"),
        ({"response": "As an AI language model I like red."}, "response_speaks_of_itself"),
        ({"response": "Red.<|im_end|>"}, "scaffolding"), ({"response": "Here:\n```\nred"}, "response_fence_open"),
        ({"response": "Rot, Gelb und Blau sind die drei Grundfarben, aus denen sich alle anderen Farben mischen lassen."}, "other_language"),
        ({"response": "Red \x00 blue."}, "control_characters"), ({"instruction": "Colours"}, "instruction_too_short"),
        ({"response": "Name three primary colours!"}, "response_echoes"), ({"response": "red " * 900}, "response_too_long"),
    ],
)  # fmt: skip
def test_rules_of_generation_hold_for_files_too(tmp_path, row, fault):
    others = planted.clean(20, seed=4)
    report = audited(tmp_path, *others, {**ROW, **row})
    assert lines_of(report, fault) == {21}


def test_sums_stated_numbers_and_code_are_checked(tmp_path):
    rows = [
        ROW,
        {**ROW, "instruction": "How much do 4 pens at 3 euros cost?", "response": "4 × 3 = 13, so they cost 13 euros."},
        {**ROW, "instruction": "Describe the sea in one sentence.", "response": "It is wide. It is deep."},
        {
            **ROW,
            "instruction": "Write a Python function that doubles.",
            "response": "```python\ndef double(x)\n    return 2 * x\n```",
        },
    ]
    report = audited(tmp_path, *rows)
    assert {name: lines_of(report, name) for name in ("equation_wrong", "count_broken", "code_broken")} == {
        "equation_wrong": {2}, "count_broken": {3}, "code_broken": {4},
    }  # fmt: skip


def test_a_common_opening_is_named_and_a_rare_one_is_not(tmp_path):
    rows = planted.clean(200, seed=6)
    for row in rows[:30]:
        row["response"] = f"Sure, here is what I know. {row['response']}"
    report = audited(tmp_path, *rows)
    assert named(report) == {"opening_common": 30}
    assert report.faults[0].details == ("“sure here is …”: 30 rows",)


def test_one_licence_is_no_fault_and_one_row_without_is(tmp_path):
    rows = planted.clean(40, seed=7)
    for row in rows:
        row["license"] = "CC-BY-SA-4.0"
    assert named(audited(tmp_path, *rows)) == {}
    del rows[3]["license"]
    report = audited(tmp_path, *rows)
    assert named(report) == {"license_missing": 1}
    assert report.licences == {"CC-BY-SA-4.0": 39, "not stated": 1}


@pytest.mark.parametrize(
    ("name", "content", "error", "message"),
    [
        ("absent.jsonl", None, DataError, "absent.jsonl: no such file or folder"), ("empty.jsonl", "", EmptyError, "empty.jsonl: no line in it"),
        ("blank.jsonl", "\n \n", EmptyError, "no line in it"), ("set.xml", "<a/>", DataError, r"must end in \.jsonl"),
        ("set.jsonl", '{"text": "a"}\n{"text": "b"}\n', DataError, '2 lines, but no instruction with a response; set.jsonl:1: "instruction"'),
        ("set.json", "{", DataError, "set.json: not JSON"), ("set.parquet", "x", DataError, "not a readable parquet file"),
    ],
)  # fmt: skip
def test_a_file_without_a_set_is_refused_in_one_line(tmp_path, kiloset, name, content, error, message):
    if content is not None:
        (tmp_path / name).write_text(content)
    with pytest.raises(error, match=message):
        audit_file(tmp_path / name)
    ran = kiloset("audit", tmp_path / name)
    assert ran.returncode == 2
    assert ran.stderr.count("\n") == 1
    assert ran.stderr.startswith("kiloset: ")


# ----------------------------------------------------------------------------------------------- command, page


def test_the_command_prints_the_faults_and_writes_only_its_page(kiloset, faulty, tmp_path):
    ran = kiloset("audit", faulty.file, "--benchmark", faulty.benchmark)
    assert ran.returncode == 0
    output = " ".join(ran.stdout.split())
    assert "1200 lines: 1198 read, 2 cannot be read" in output
    assert re.search(r"Cut answers poor 30 2\.5%", output)
    assert "set.jsonl:500: not JSON" in output
    assert (tmp_path / "set.report.html").stat().st_size < 5e6
    assert {path.name for path in tmp_path.iterdir()} == {"set.report.html"}
    assert kiloset("audit", faulty.file, "--no-page", "--examples", 0).returncode == 0


def test_a_run_and_a_file_are_not_audited_at_once(kiloset, finished, faulty):
    assert "leave one out" in kiloset("audit", faulty.file, "--run", "mine").stderr
    assert "KS662" in kiloset("audit", "--embed").stderr
    assert "KS662" in kiloset("audit", finished, "--embed").stderr
    ran = kiloset("audit", finished, "--no-page")
    assert "Audit of" in ran.stdout
    assert "Funnel" in ran.stdout


@pytest.fixture
def hostile(tmp_path):
    """A set whose texts, names and lines attack the page, with enough rows for a map."""
    rows = planted.clean(12, seed=3)
    for number, text in enumerate(ATTACKS * 2):
        rows.append(
            {
                **ROW,
                "instruction": f"{text} {number}",
                "response": text,
                "category": ATTACKS[number % 3],
                "license": ATTACKS[number % 2],
            }
        )
    rows.append({**ROW, "instruction": ATTACKS[0], "response": f"{ATTACKS[1]} and the"})
    return audited(tmp_path, *rows, f'{{"{ATTACKS[0]}": 1}}')


def test_no_text_of_a_file_becomes_markup(hostile):
    page = Tags(render_file_page(hostile, vectors_of))
    assert [attrs.get("type") for tag, attrs in page.tags if tag == "script"].count(None) == 2
    assert not [tag for tag, _ in page.tags if tag in ("img", "textarea", "iframe")]
    assert not [attrs for _, attrs in page.tags if any(name.startswith("on") for name in attrs)]
    assert all(attrs["href"].startswith(("#", "data:,")) for _, attrs in page.tags if "href" in attrs)
    for text in (*ATTACKS[:3], "⟨U+202E⟩", "(100,000 characters)", "got <script>"):
        assert text in page.text
    assert not re.search("[\u202e\x00\x1b]", page.text)


def test_long_and_strange_names_of_categories_fit_the_charts(tmp_path):
    rows = [
        {**row, "category": "c" * 100_000 if at % 2 else "a\u202eb"}
        for at, row in enumerate(planted.clean(20, seed=13))
    ]
    report = audited(tmp_path, *rows)
    assert report.categories == {"a⟨U+202E⟩b": 10, f"{'c' * 60}… (100,000 characters)": 10}
    assert len(render_file_page(report, vectors_of)) < 2e6


def test_the_charts_hold_the_figures(faulty):
    specs = {
        attrs["id"]: json.loads(text)
        for attrs, text in Tags(render_file_page(faulty.report, None)).scripts
        if "id" in attrs
    }
    bars = {bar["category"]: bar["rows"] for bar in specs["chart-categories"]["data"]["values"]}
    assert bars == faulty.report.categories
    for plot in specs["chart-lengths"]["vconcat"]:
        assert sum(bar["rows"] for bar in plot["data"]["values"]) == 1198


def test_the_same_file_gives_the_same_page(hostile, tmp_path):
    for name in ("a.html", "b.html"):
        save_page(render_file_page(hostile, vectors_of), tmp_path / name)
    assert (tmp_path / "a.html").read_bytes() == (tmp_path / "b.html").read_bytes()


@pytest.mark.skipif(CHROMIUM is None, reason="needs Chromium or Chrome on the PATH")
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_a_browser_draws_the_page_without_requests_and_errors(hostile, tmp_path, scheme):
    save_page(render_file_page(hostile, vectors_of), tmp_path / "report.html")
    with open_page(tmp_path / "report.html", scheme) as page:
        assert page.title() == "Audit of set.jsonl"
        page.locator("#faults summary").first.focus()
        page.keyboard.press("Enter")
        assert page.locator("#faults details[open]").count() == 1
        page.select_option("#map-field", "category")


class open_page:
    """Opens a page in a browser 400 pixels wide, with all charts drawn; checks at the end that it sent no request and logged nothing."""

    def __init__(self, path, scheme="light"):
        self.path, self.scheme, self.messages, self.requests = path, scheme, [], []

    def __enter__(self):
        from playwright.sync_api import sync_playwright

        self.playwright = sync_playwright().start()
        self.browser = self.playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        page = self.browser.new_page(color_scheme=self.scheme, viewport={"width": 400, "height": 800})
        page.on("console", lambda message: self.messages.append(message.text))
        page.on("pageerror", lambda error: self.messages.append(str(error)))
        page.on("request", lambda request: self.requests.append(request.url))
        page.goto(self.path.as_uri())
        charts = page.locator("[data-chart]").count()
        page.wait_for_function(f"document.querySelectorAll('[data-drawn]').length === {charts}", timeout=30_000)
        assert charts > 2
        assert page.locator("[data-chart] svg, [data-chart] canvas").count() == charts
        assert page.evaluate("document.documentElement.scrollWidth") <= 400
        return page

    def __exit__(self, kind, *_):
        self.browser.close()
        self.playwright.stop()
        if kind is None:
            assert self.messages == []
            assert [url for url in self.requests if not url.startswith(("file:", "data:"))] == []


def test_the_bundled_seeds_have_no_fault():
    report = audit_file(ROOT / "seeds" / "seeds.jsonl")
    assert (report.rows, report.sound, named(report)) == (196, 196, {})
