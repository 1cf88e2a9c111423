"""The set's categories against its target, by hand, and the text about a target read from real use."""

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


def printed(figures: Any) -> str:
    file = io.StringIO()
    print_distribution(figures, Console(file=file, width=80))
    return file.getvalue()


def test_a_deviation_is_the_difference_of_shares_in_points() -> None:
    figures = distribution(curated(code=6, maths=3, songs=1), {"target": {"code": 5, "maths": 10, "poems": 5}})
    expected = {"code": 60 - 25, "maths": 30 - 50, "poems": -25, "songs": 10}
    assert figures.deviations == pytest.approx(expected)
    assert figures.largest == ("code", pytest.approx(35))
    lines = [line.split() for line in printed(figures).splitlines()]
    assert ["code", "5", "25.0", "%", "6", "60.0", "%", "+35.0"] in lines
    assert ["poems", "5", "25.0", "%", "0", "0.0", "%", "-25.0"] in lines
    assert "largest deviation: +35.0 percentage points, code" in printed(figures)


def test_the_largest_deviation_may_be_a_lack() -> None:
    figures = distribution(curated(a=1, b=1, c=1), {"target": {"a": 1, "b": 1, "c": 8}})
    assert figures.largest == ("c", pytest.approx(100 / 3 - 80))


@pytest.mark.parametrize(("rows", "manifest"), [({"a": 1}, {}), ({}, {"target": {"a": 1}})])
def test_without_a_target_or_a_row_there_is_no_deviation(rows: dict[str, int], manifest: dict[str, Any]) -> None:
    figures = distribution(curated(**rows), manifest)
    assert (figures.deviations, figures.largest, figures.js_distance, figures.usage) == ({}, None, None, None)
    assert "largest deviation" not in printed(figures)


def test_a_target_of_real_use_states_how_sure_it_is() -> None:
    text = printed(distribution(curated(a=1), {"target": {"a": 1}, "usage": USAGE}))
    lines = [line.split() for line in text.splitlines()]
    assert "5000 of 9000 prompts" in text
    assert "unsure: 59.2 % of them (confidence below 0.50); these are counted too" in text
    assert [line[-2:] for line in lines if line[:1] == ["of"]] == [["47.6", "%"], ["50.0", "%"]]
    assert "the target follows real use" in printed(distribution(curated(a=1), {"target": {"a": 1}, "usage": {}}))
