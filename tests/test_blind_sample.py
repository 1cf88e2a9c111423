"""The blind sample: which rows are drawn, what the page hides, and the share of right rows in report, page and card."""

import io
from collections import Counter
from math import isclose, sqrt
from urllib.parse import urlencode

import pytest
from rich.console import Console
from starlette.testclient import TestClient

from kiloset.audit.run_audit import audit, print_audit
from kiloset.audit.run_page import render
from kiloset.core.blind_sample import Drawn, precision_of, read_sample, texts_digest, whole_precision, write_sample
from kiloset.core.errors import DataError
from kiloset.core.review import Decision, open_review_file
from kiloset.core.statistics import proportion_interval
from kiloset.review.guard import AccessGuard
from kiloset.review.launch import review, sample_beginning, sample_ending
from kiloset.review.rows import read_rows
from kiloset.review.sample import draw_sample
from kiloset.review.server import ReviewServer
from tests.test_review import make_run

TEXTS = ("instruction", "input", "response", "category")


@pytest.fixture
def folder(tmp_path):
    return make_run(tmp_path / "runs" / "demo")


def decide(rows, id, verdict="accept", blind="yes", **texts):
    row = rows.row(id)
    columns = {name: row[name] for name in TEXTS} | texts if verdict == "accept" else {}
    return Decision(id, verdict, rows.identity(id), "2026-11-28T12:00:00+00:00", **columns, blind=blind)


def test_rows_of_the_set_are_drawn_each_category_in_proportion_and_always_the_same(folder):
    rows = read_rows(folder)
    drawn = draw_sample(rows, 12)
    kept = rows.table.filter(part="set")
    assert len({each.id for each in drawn}) == 12
    assert {each.id for each in drawn} <= set(kept["id"])
    assert Counter(each.category for each in drawn) == {"code": 4, "maths": 4, "writing": 4}
    assert drawn == draw_sample(rows, 12)
    assert [each.id for each in drawn] != sorted(each.id for each in drawn)
    assert len(draw_sample(rows, 1000)) == kept.filter(source="generated").height


def test_a_larger_sample_begins_with_the_smaller_one(folder):
    rows = read_rows(folder)
    small = draw_sample(rows, 7)
    large = draw_sample(rows, 21, small)
    assert large[:7] == small
    assert Counter(each.category for each in large) == {"code": 7, "maths": 7, "writing": 7}
    assert draw_sample(rows, 5, small) == small


def test_seeds_are_not_drawn(tmp_path):
    folder = make_run(tmp_path / "demo", texts={"g003": {"source": "seed"}})
    assert "g003" in read_rows(folder).places
    assert "g003" not in {each.id for each in draw_sample(read_rows(folder), 1000)}


def test_only_a_row_accepted_as_it_was_counts_as_right(folder):
    rows = read_rows(folder)
    sample = draw_sample(rows, 6)
    first, second, third, fourth, fifth, _ = (each.id for each in sample)
    other_task = Decision(**{**_fields(decide(rows, fifth)), "born": "0" * 16})
    decisions = {
        first: decide(rows, first),
        second: decide(rows, second, category="another"),  # the category does not make an answer wrong
        third: decide(rows, third, response="A better answer."),
        fourth: decide(rows, fourth, "reject"),
        fifth: other_task,
    }
    parts = precision_of(sample, decisions)
    whole = whole_precision(parts.values())
    assert (whole.drawn, whole.read, whole.right) == (6, 4, 2)
    assert sum(part.drawn for part in parts.values()) == 6
    assert str(whole) == "2 of 4 (0.15 to 0.85)"
    assert str(whole_precision([])) == "not read"


def _fields(decision):
    return {name: getattr(decision, name) for name in Decision.__slots__}


def test_a_decision_that_was_made_with_the_figures_visible_does_not_count(folder):
    rows = read_rows(folder)
    sample = draw_sample(rows, 3)
    decisions = {each.id: decide(rows, each.id, blind="") for each in sample[:2]}
    assert str(whole_precision(precision_of(sample, decisions).values())) == "not read"
    with open_review_file(folder.review) as file:
        for decision in decisions.values():
            assert file.append(decision, 0)
        message = sample_beginning(3, 0, sample, file)
    assert "3 rows of the set drawn at random; 2 of them were decided before" in message


def test_white_space_at_an_end_is_no_correction(folder):
    rows = read_rows(folder)
    sample = draw_sample(rows, 1)
    row = rows.row(sample[0].id)
    decision = decide(rows, row["id"], response=f"{row['response']} \n")
    assert whole_precision(precision_of(sample, {row["id"]: decision}).values()).right == 1


def test_the_page_marks_only_what_was_decided_without_figures(folder):
    sample = draw_sample(read_rows(folder), 2)
    write_sample(folder.sample, sample[:1])
    token = "t" * 43
    headers = {"origin": "http://127.0.0.1:8642", "content-type": "application/x-www-form-urlencoded"}
    with open_review_file(folder.review) as file:
        server = ReviewServer(folder, read_rows(folder), file).app()
        client = TestClient(AccessGuard(server, token, 8642), base_url="http://127.0.0.1:8642")
        client.get(f"/?token={token}")
        for each in sample:
            for version, verdict in enumerate(("accept", "reject")):
                form = urlencode({"id": each.id, "version": version, "verdict": verdict})
                assert client.post("/decide", content=form, headers=headers).status_code == 200
        # A second decision about a row that was read blind remains one.
        assert [file.decision(each.id).blind for each in sample] == ["yes", ""]
        assert [file.decision(each.id).verdict for each in sample] == ["reject", "reject"]


def test_a_review_that_cannot_start_leaves_the_sample_as_it_is(folder):
    with open_review_file(folder.review), pytest.raises(DataError, match="another review of this run is open"):
        review(folder, None, None, print, sample=4)
    assert not folder.sample.exists()


def test_the_message_names_what_was_drawn(folder):
    rows = read_rows(folder)
    with open_review_file(folder.review) as file:
        sample = draw_sample(rows, 5)
        assert sample_beginning(3, 5, sample, file).startswith("5 rows of the set drawn at random, 5 of them before. ")
        everything = draw_sample(rows, 1000)
        assert "at random, all that the set has. " in sample_beginning(1000, 0, everything, file)


def test_the_wilson_interval_is_the_formula_of_1927():
    for hits, trials in ((0, 5), (3, 7), (47, 80), (12, 12)):
        z, p = 1.959963984540054, hits / trials
        centre = (p + z * z / (2 * trials)) / (1 + z * z / trials)
        half = z / (1 + z * z / trials) * sqrt(p * (1 - p) / trials + z * z / (4 * trials * trials))
        interval = proportion_interval(hits, trials)
        assert isclose(interval.low, max(0, centre - half), abs_tol=1e-9)
        assert isclose(interval.high, min(1, centre + half), abs_tol=1e-9)


def test_a_sample_is_read_back_and_a_broken_line_is_named(tmp_path):
    sample = [Drawn("g1", "b" * 16, texts_digest("a", "", "é"), "code")]
    write_sample(tmp_path / "sample.jsonl", sample)
    assert read_sample(tmp_path / "sample.jsonl") == sample
    assert read_sample(tmp_path / "none.jsonl") == []
    for broken in ('{"id": "g1"}', "[]", "not json", '{"id": 1, "born": "b", "texts": "t", "category": "c"}'):
        (tmp_path / "sample.jsonl").write_text(f"{broken}\n")
        with pytest.raises(DataError, match=r"sample\.jsonl:1: must be an object"):
            read_sample(tmp_path / "sample.jsonl")
    write_sample(tmp_path / "sample.jsonl", sample * 2)
    with pytest.raises(DataError, match=r"sample\.jsonl:2: g1 stands in line 1 already"):
        read_sample(tmp_path / "sample.jsonl")


def test_the_page_of_a_drawn_row_shows_only_its_texts_until_it_is_decided(folder):
    sample = draw_sample(read_rows(folder), 6)
    write_sample(folder.sample, sample)
    token = "t" * 43
    with open_review_file(folder.review) as file:
        server = ReviewServer(folder, read_rows(folder), file).app()
        client = TestClient(AccessGuard(server, token, 8642, "/?sample=yes"), base_url="http://127.0.0.1:8642")
        assert "url=/?sample=yes" in client.get(f"/?token={token}").text
        page = client.get("/?sample=yes").text
        assert f'id="row" tabindex="-1">{sample[0].id}<' in page
        assert "1 of 6" in page
        assert "Facts" not in page
        assert 'class="badge set"' not in page
        assert "shown after the decision" in page
        assert "Facts" not in client.get(f"/?row={sample[0].id}").text  # nor in the ordinary view
        other = next(id for id in read_rows(folder).places if id.startswith("g") and id not in {s.id for s in sample})
        assert "Facts" in client.get(f"/?row={other}").text
        decision = decide(read_rows(folder), sample[0].id)
        assert file.append(decision, 0)
        assert f'tabindex="-1">{sample[1].id}<' in client.get("/?sample=yes").text
        assert "Facts" in client.get(f"/?sample=yes&row={sample[0].id}").text
        assert client.get("/?sample=no").status_code == 400
        assert sample_ending(sample, file) == "blind sample: 1 of 6 rows read; right: 1 of 1 (0.21 to 1.00)"


def test_the_edit_form_of_a_drawn_row_checks_no_constraint_before_the_decision(folder):
    rows = read_rows(folder)
    write_sample(folder.sample, draw_sample(rows, 1000))  # g005 has a constraint
    token = "t" * 43
    with open_review_file(folder.review) as file:
        server = ReviewServer(folder, read_rows(folder), file).app()
        client = TestClient(AccessGuard(server, token, 8642), base_url="http://127.0.0.1:8642")
        client.get(f"/?token={token}")
        before = client.get("/?row=g005").text
        assert "data-live" not in before
        assert "Constraints" not in before
        assert file.append(decide(rows, "g005"), 0)
        after = client.get("/?row=g005").text
        assert "data-live" in after
        assert "Constraints of the edited answer" in after


def test_a_row_that_changed_since_it_was_drawn_is_not_offered(folder):
    sample = draw_sample(read_rows(folder), 4)
    write_sample(folder.sample, [*sample[:3], Drawn(sample[3].id, "0" * 16, sample[3].texts, sample[3].category)])
    table = read_rows(folder).table
    assert table.filter(table["sampled"].is_not_null()).sort("sampled")["id"].to_list() == [s.id for s in sample[:3]]


def test_the_report_has_the_share_by_category_and_names_where_nobody_has_read(folder):
    rows = read_rows(folder)
    assert "not read" in _text(folder)
    sample = draw_sample(rows, 6)
    write_sample(folder.sample, sample)
    assert "not read; 6 rows are drawn; `kiloset review --sample 6` opens them" in " ".join(_text(folder).split())
    assert "Not read" in render(folder, audit(folder), None)
    with open_review_file(folder.review) as file:
        for each in sample:
            if each.category == "code":
                assert file.append(decide(rows, each.id), 0)
    text = _text(folder)
    assert "2 of 2 (0.34 to 1.00)" in text
    assert "4 of the 6 drawn rows are not read yet" in text
    lines = [line.split() for line in text.splitlines()]
    assert ["maths", "not", "read"] in lines
    page = render(folder, audit(folder), None)
    assert '<th scope="row">code</th><td>2 of 2 (0.34 to 1.00)</td>' in page
    assert '<th scope="row">maths</th><td>not read</td>' in page


def _text(folder):
    file = io.StringIO()
    print_audit(audit(folder), Console(width=80, file=file))
    return file.getvalue()
