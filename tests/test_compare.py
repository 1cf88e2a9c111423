"""Two sets compared: rows in both are comparison exactly, and each figure stands beside its like."""

import json
import random
import re

import numpy as np
import polars as pl
import pytest
from scipy.spatial.distance import jensenshannon

from kiloset.audit.compare import (
    compare,
    figures_of,
    locate,
    matches_in,
    render_comparison,
    shares_of,
    write_comparison_page,
)
from kiloset.audit.file_audit import shingles
from kiloset.core.errors import DataError
from kiloset.data.examples import read_example_file
from kiloset.filters.diversity import vendi_score
from tests import planted
from tests.fakes import FakeEmbedder
from tests.test_audit_file import hostile, kiloset, open_page  # noqa: F401
from tests.test_page import ATTACKS, CHROMIUM, Tags, vectors_of


@pytest.fixture
def pair(tmp_path):
    """A of 300 rows and B of 200: 20 rows of A are in B, 10 with another answer, 15 nearly; two each of these B has twice."""
    first, rows = planted.clean(300, seed=11), planted.clean(153, seed=12)
    rows += first[:20]
    rows += [{**row, "response": rows[at]["response"]} for at, row in enumerate(first[20:30])]
    rows += [{**row, "instruction": row["instruction"].replace("the ", "the very ", 1)} for row in first[30:45]]
    rows += first[:2]
    for row in rows[:100]:
        row |= {"category": "code", "license": "MIT"}
    return planted.write(tmp_path / "a.jsonl", first), planted.write(tmp_path / "b.jsonl", rows), first, rows


def compared(pair, tmp_path, **kwargs):
    return compare(str(pair[0]), str(pair[1]), tmp_path, kwargs.get("load"))


def test_rows_that_are_in_both_are_counted_by_kind_from_either_side(pair, tmp_path):
    comparison = compared(pair, tmp_path)
    assert comparison.common["A"].kinds == {"whole": 20, "task": 10, "near": 15}
    assert comparison.common["B"].kinds == {"whole": 22, "task": 10, "near": 15}
    assert comparison.common["A"].rows == 45
    example = comparison.common["A"].examples[0]
    assert (example.row.place, example.duplicate.place) in {("a.jsonl:1", "b.jsonl:154"), ("a.jsonl:1", "b.jsonl:199")}


def test_a_row_is_in_both_exactly_where_a_comparison_of_all_pairs_finds_it(tmp_path):
    mine, theirs = planted.clean(120, seed=21), planted.clean(80, seed=22)
    # Rows that are alike within A too: of each four near copies only one is in B.
    for at in range(20):
        mine += [
            {**mine[at], "instruction": f"{mine[at]['instruction']} {tail}"}
            for tail in ("Please.", "Be brief.", "Do it now.")
        ]
    theirs += [mine[120 + at * 3] for at in range(20)]
    tables = [
        read_example_file(str(planted.write(tmp_path / name, rows))).table
        for name, rows in (("a.jsonl", mine), ("b.jsonl", theirs))
    ]
    grams = [[shingles(user) for user in table["user"]] for table in tables]
    expected = {
        id for id, one in zip(tables[0]["id"], grams[0], strict=True)
        if any(len(one & other) / len(one | other) >= 0.7 for other in grams[1])
    }  # fmt: skip
    assert {id for id, _, _ in matches_in(*tables)} == expected
    assert len(expected) >= 60


def test_a_row_more_like_one_of_its_own_set_is_in_both_all_the_same(tmp_path):
    sentence_words = (planted.sentence(random.Random(3)) + " and " + planted.sentence(random.Random(4))).split()
    texts = [
        " ".join([*sentence_words[:-4], "gone", "with", "no", "word"]),
        " ".join(sentence_words),
        " ".join(["some", "other", "words", "here", "now", *sentence_words[5:]]),
    ]
    grams = [shingles(text) for text in texts]
    alike = [len(grams[one] & grams[other]) / len(grams[one] | grams[other]) for one, other in ((0, 1), (1, 2), (0, 2))]
    assert alike[0] > alike[1] >= 0.7 > alike[2]
    rows = [{"instruction": text, "response": "It is so."} for text in texts]
    one, other = (
        read_example_file(str(planted.write(tmp_path / name, part))).table
        for name, part in (("a.jsonl", rows[:2]), ("b.jsonl", rows[2:]))
    )
    assert matches_in(one, other) == [("r00002", "r00001", "near_duplicate")]


def test_figures_are_those_of_each_side(pair, tmp_path):
    comparison = compared(pair, tmp_path)
    figures = {name: sides for name, *sides in figures_of(comparison)}
    assert figures["rows"] == ["300", "200"]
    assert figures["within: exact duplicates"] == ["0", "2"]
    assert figures["between: rows that the other has too"] == ["45", "47"]
    names = sorted(planted.CATEGORIES)
    counts = [[sum(row["category"] == name for row in rows) for name in names] for rows in pair[2:]]
    assert comparison.js_distance == pytest.approx(jensenshannon(*counts, 2))
    assert shares_of(comparison, "licences") == {"Apache-2.0": [100.0, 50.0], "MIT": [0.0, 50.0]}
    assert shares_of(comparison, "categories")["code"] == [
        pytest.approx(100 * 50 / 300),
        pytest.approx(100 * counts[1][names.index("code")] / 200),
    ]
    assert comparison.faults_per_hundred()["exact_duplicate"] == {"A": 0.0, "B": 1.0}


def test_trigrams_are_counted_over_as_many_words_of_each(tmp_path):
    one = [{"instruction": "Tell me a thing.", "response": "one two three four five six."}]
    other = [{"instruction": "Tell me a thing.", "response": "one two three one two three one two three."}]
    planted.write(tmp_path / "a.jsonl", one)
    planted.write(tmp_path / "b.jsonl", other)
    comparison = compare(str(tmp_path / "a.jsonl"), str(tmp_path / "b.jsonl"), tmp_path, None)
    # Six words each: four trigrams, in B the first stands there again.
    assert (comparison.words_read, comparison.trigrams) == (6, {"A": 1.0, "B": 0.75})


def test_the_vendi_score_is_of_as_many_rows_of_each(pair, tmp_path):
    comparison = compared(pair, tmp_path, load=lambda *_: FakeEmbedder())
    assert comparison.vendi_rows == 200
    texts = read_example_file(str(pair[1])).table["user"].to_list()
    assert comparison.vendi["B"] == pytest.approx(
        vendi_score(np.asarray(FakeEmbedder().embed(texts), np.float32)), rel=1e-4
    )
    assert any("Vendi" in name for name, *_ in figures_of(comparison))
    assert not compared(pair, tmp_path).vendi


def test_a_set_is_as_itself(pair, tmp_path):
    comparison = compare(str(pair[0]), str(pair[0]), tmp_path, None)
    assert comparison.common["A"].kinds == comparison.common["B"].kinds == {"whole": 300, "task": 0, "near": 0}
    assert comparison.js_distance == 0
    assert len(set(comparison.trigrams.values())) == 1


def test_a_run_is_named_by_folder_or_name(kiloset, finished, pair):  # noqa: F811
    assert locate("mine", finished.parent) == ("mine", finished / "curated.jsonl")
    assert locate(str(finished), finished) == ("mine", finished / "curated.jsonl")
    ran = kiloset("compare", "mine", pair[0], "--runs", finished.parent)
    assert ran.returncode == 0
    assert "A: mine B: a.jsonl" in " ".join(ran.stdout.split())
    (finished / "curated.jsonl").unlink()
    with pytest.raises(DataError, match="the run is not finished"):
        locate("mine", finished.parent)


def test_a_missing_set_is_refused_in_one_line(kiloset, pair):  # noqa: F811
    ran = kiloset("compare", pair[0], "absent")
    assert ran.returncode == 2
    assert re.fullmatch(r"kiloset: KS\d{3} absent: no such file or folder, and no such run in runs\n", ran.stderr)


def test_the_command_writes_a_page_only_on_request(kiloset, pair, tmp_path):  # noqa: F811
    before = {path.name for path in tmp_path.iterdir()}
    assert kiloset("compare", pair[0], pair[1]).returncode == 0
    assert {path.name for path in tmp_path.iterdir()} == before
    assert kiloset("compare", pair[0], pair[1], "--page", "both.html").returncode == 0
    assert {path.name for path in tmp_path.iterdir()} == before | {"both.html"}


def test_the_charts_hold_the_shares_and_nothing_becomes_markup(pair, hostile, tmp_path):  # noqa: F811
    comparison = compare(str(tmp_path / "set.jsonl"), str(pair[1]), tmp_path, None)
    page = Tags(render_comparison(comparison, vectors_of))
    assert [attrs.get("type") for tag, attrs in page.tags if tag == "script"].count(None) == 2
    assert not [tag for tag, _ in page.tags if tag in ("img", "textarea", "iframe")]
    specs = {attrs["id"]: json.loads(text) for attrs, text in page.scripts if "id" in attrs}
    bars = specs["chart-categories"]["data"]["values"]
    assert {bar["name"] for bar in bars} >= {ATTACKS[0], "code"}
    assert sum(bar["percent of rows"] for bar in bars if bar["of"] == "B") == pytest.approx(100, abs=0.1)
    points = pl.DataFrame(specs["chart-map"]["data"]["values"])
    assert points["set"].value_counts().sort("set")["count"].to_list() == [comparison.sides["A"].rows, 200]
    lines = pl.DataFrame(specs["chart-lengths"]["vconcat"][1]["data"]["values"])
    assert lines.group_by("of").agg(pl.col("rows").sum()).sort("of")["rows"].to_list() == [
        comparison.sides["A"].rows,
        200,
    ]


@pytest.mark.skipif(CHROMIUM is None, reason="needs Chromium or Chrome on the PATH")
def test_a_browser_draws_both_and_reports_no_error(pair, hostile, tmp_path):  # noqa: F811
    comparison = compare(str(tmp_path / "set.jsonl"), str(pair[1]), tmp_path, None)
    write_comparison_page(comparison, tmp_path / "both.html", lambda *_: FakeEmbedder())
    with open_page(tmp_path / "both.html", "dark") as page:
        assert page.title() == "A: set.jsonl and B: b.jsonl"
        page.select_option("#map-field", "fault")
