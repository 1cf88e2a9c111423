"""The set's categories against its target, by hand, and what is said of a target read from real use."""

import io
from typing import Any

import polars as pl
import pytest
from rich.console import Console

from kiloset.audit.run_audit import distribution, print_distribution

USAGE = {
    "prompts": 9000, "sampled": 5000, "unsure_share": 0.592, "min_confidence": 0.5, "mean_confidence": 0.476,
    "leave_one_out_accuracy": 0.5, "leave_one_out_accuracy_of_sure": None,
}  # fmt: skip


def curated(**rows: int) -> pl.DataFrame:
    return pl.DataFrame(
        {"category": [name for name, count in rows.items() for _ in range(count)]}, schema={"category": pl.String}
    )


def shown(found: Any) -> str:
    file = io.StringIO()
    print_distribution(found, Console(file=file, width=80))
    return file.getvalue()


def test_a_deviation_is_the_difference_of_shares_in_points() -> None:
    found = distribution(curated(code=6, maths=3, songs=1), {"target": {"code": 5, "maths": 10, "poems": 5}})
    expected = {"code": 60 - 25, "maths": 30 - 50, "poems": -25, "songs": 10}
    assert found.deviations == pytest.approx(expected)
    assert found.largest == ("code", pytest.approx(35))
    lines = [line.split() for line in shown(found).splitlines()]
    assert ["code", "5", "25.0", "%", "6", "60.0", "%", "+35.0"] in lines
    assert ["poems", "5", "25.0", "%", "0", "0.0", "%", "-25.0"] in lines
    assert "largest deviation: +35.0 percentage points, code" in shown(found)


def test_the_largest_deviation_may_be_a_lack() -> None:
    found = distribution(curated(a=1, b=1, c=1), {"target": {"a": 1, "b": 1, "c": 8}})
    assert found.largest == ("c", pytest.approx(100 / 3 - 80))


@pytest.mark.parametrize(("rows", "manifest"), [({"a": 1}, {}), ({}, {"target": {"a": 1}})])
def test_without_a_target_or_a_row_there_is_no_deviation(rows: dict[str, int], manifest: dict[str, Any]) -> None:
    found = distribution(curated(**rows), manifest)
    assert (found.deviations, found.largest, found.js_distance, found.usage) == ({}, None, None, None)
    assert "largest deviation" not in shown(found)


def test_a_target_of_real_use_says_how_sure_it_is() -> None:
    text = shown(distribution(curated(a=1), {"target": {"a": 1}, "usage": USAGE}))
    lines = [line.split() for line in text.splitlines()]
    assert "5000 of 9000 prompts" in text
    assert "unsure: 59.2 % of them (confidence below 0.50); these are counted too" in text
    assert [line[-2:] for line in lines if line[:1] == ["of"]] == [["47.6", "%"], ["50.0", "%"]]
    assert "the target follows real use" in shown(distribution(curated(a=1), {"target": {"a": 1}, "usage": {}}))
