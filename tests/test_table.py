import polars as pl
import pytest

from kiloset.core.errors import StageError
from kiloset.core.table import ROW, STAGE_VERDICT, Outcome, check_outcome, no_rows, table_of, user_turn, with_verdicts


def _rows(*ids):
    return table_of([{"id": id, "instruction": f"do {id}"} for id in ids])


def _split(table, dropped):
    return with_verdicts(table, {id: {"reason": "why", "evidence": "so"} for id in dropped})


def test_with_verdicts_splits_in_order_and_keeps_the_row_itself():
    outcome = with_verdicts(
        _rows("a", "b", "c"), {"b": {"reason": "why", "evidence": "so", "measured": 2.0, "twin": "a"}}
    )
    assert outcome.kept["id"].to_list() == ["a", "c"]
    (row,) = outcome.dropped.to_dicts()
    assert (row["id"], row["instruction"], row["reason"], row["measured"], row["limit"], row["twin"]) == (
        "b", "do b", "why", 2.0, None, "a",
    )  # fmt: skip


def test_no_rows_is_what_a_stage_drops_that_drops_nothing():
    before = _rows("a", "b").with_columns(quality=pl.lit(1.0))
    dropped = no_rows(before)
    assert (dropped.height, dropped.columns) == (0, [*before.columns, *STAGE_VERDICT])
    assert "stage" not in dropped.columns
    assert [dropped.schema[name] for name in ("measured", "limit", "twin")] == [pl.Float64, pl.Float64, pl.String]
    check_outcome("s", before, Outcome(before, dropped), creates=False)


def test_a_whole_outcome_passes_the_check():
    before = _rows("a", "b")
    check_outcome("s", before, _split(before, ["b"]), creates=False)


@pytest.mark.parametrize(
    ("after", "dropped", "creates", "message"),
    [
        (["a"], [], False, "stage s: lost 1 rows without a reason, b among them"),
        (["a", "b", "c"], [], False, "stage s: invented 1 rows, c among them"),
        (["a", "b", "b"], [], False, "stage s: row b stands twice"),
        (["a", "z"], [], True, "stage s: lost 1 rows without a reason, b among them"),
    ],
)
def test_lost_invented_doubled_and_renamed_rows_stop_the_run(after, dropped, creates, message):
    with pytest.raises(StageError, match=message):
        check_outcome("s", _rows("a", "b"), _split(_rows(*after), dropped), creates=creates)


def test_a_row_both_kept_and_dropped_stops_the_run():
    before = _rows("a", "b")
    split = _split(before, ["b"])
    with pytest.raises(StageError, match="row b stands twice"):
        check_outcome("s", before, Outcome(before, split.dropped), creates=False)


def test_a_row_dropped_without_a_reason_stops_the_run():
    before = _rows("a", "b")
    split = _split(before, ["b"])
    silent = split.dropped.with_columns(reason=pl.lit(None, pl.String))
    with pytest.raises(StageError, match="without a reason"):
        check_outcome("s", before, Outcome(split.kept, silent), creates=False)


def test_a_column_of_every_row_may_not_go_missing():
    before = _rows("a")
    split = _split(before, [])
    with pytest.raises(StageError, match="lost the column license"):
        check_outcome("s", before, Outcome(split.kept.drop("license"), split.dropped), creates=False)


def test_a_table_has_every_column_even_when_empty():
    assert table_of([]).schema == pl.Schema(ROW)


def test_the_user_turn_is_the_instruction_when_there_is_no_input():
    assert user_turn("Sum.", "") == "Sum."
    assert user_turn("Sum.", "1 2") == "Sum.\n\n1 2"
