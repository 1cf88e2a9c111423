"""Verification: further answers in the loop, the stage, and what happens to a category that fails."""

import json
from contextlib import closing
from pathlib import Path

import polars as pl
import pytest

from kiloset.core.calls import CallStore
from kiloset.core.config import parse
from kiloset.core.errors import ConfigError
from kiloset.core.progress import Silent
from kiloset.core.recorded import RecordedEngine
from kiloset.core.table import table_of
from kiloset.generator.loop import generate
from kiloset.generator.planning import Yields
from kiloset.generator.settings import GenerateConfig, Resampling
from kiloset.runner import _without_hopeless
from kiloset.verify.settings import VerifyConfig
from kiloset.verify.verify import CHECKS, REASONS, check_row, verify
from tests.fakes import FakeEngine
from tests.paths import ROOT
from tests.test_loop import SEEDS, TEMPLATES, generated_rows, keep_all, store, unlike  # noqa: F401
from tests.test_novelty import f1

SURE, UNSURE = "the fox sleeps in the den all day", "wholly other words"


def writer(key, request):
    """Write a task of each kind; repeat the answer to every other task, and vary the answers to the rest."""
    if request.purpose == "instruction":
        return f"Task: Tell of {unlike(key)}.", "stop"
    is_sure = int(unlike(request.prompt[-60:])[0:1] > "m")
    return (SURE if request.purpose == "response" or is_sure else f"{UNSURE} {unlike(key)}"), "stop"


def run(store, engine=None, *, samples=3, skips=lambda row: False, check=keep_all, final_number=(), **settings):  # noqa: F811
    config = GenerateConfig(**{"strategies": {"self_instruct": 1.0}, "least_yield": 0, "max_waves": 1, **settings})
    resampling = Resampling(samples, 0.7, skips, final_number) if samples else None
    return generate(
        SEEDS, RecordedEngine(engine or FakeEngine(answer=writer), store, Silent()), {"stories": 12}, config, TEMPLATES,
        seed=0, license="Apache-2.0", check_instructions=keep_all, check_candidates=check, resampling=resampling,
    )  # fmt: skip


def test_agreement_is_the_mean_rouge_l_with_further_answers(store):  # noqa: F811
    rows = generated_rows(run(store).outcome).filter(pl.col("agreement").is_not_null())
    for row in rows.iter_rows(named=True):
        repeats = [c["text"] for key in row["calls"] if (c := store.call(key)) and c["purpose"] == "verify"]
        expected = [f1(row["response"], text) for text in repeats]
        assert row["agreement"] == pytest.approx(sum(expected) / len(expected), abs=1e-4)
        assert len(repeats) == 3
        assert row["others"] == repeats
    assert rows["agreement"].min() < 0.3 < rows["agreement"].max() == 1


def test_calculations_agree_if_they_end_in_the_same_number(store):  # noqa: F811
    def sums(key, request):
        if request.purpose == "instruction":
            return f"Task: Tell of {unlike(key)}.", "stop"
        return (f"{unlike(key)}, so it is {7 if request.purpose == 'response' or request.sample % 2 else 8}."), "stop"

    result = run(store, FakeEngine(answer=sums), final_number=("stories",))
    rows = generated_rows(result.outcome).filter(pl.col("agreement").is_not_null())
    assert set(rows["agreement"]) == {0.6667}  # samples 1 and 3 of three say 7


def test_a_row_that_needs_no_comparison_gets_none(store):  # noqa: F811
    rows = generated_rows(run(store, skips=lambda row: True).outcome)
    assert rows["agreement"].null_count() == rows.height
    assert "verify" not in store.account()
    assert generated_rows(run(store, samples=0).outcome)["response"].to_list() == rows["response"].to_list()


def test_the_rows_do_not_depend_on_the_order_of_the_answers():
    results = []
    for order in range(3):
        with closing(CallStore(Path(":memory:"))) as calls:
            results.append(run(calls, FakeEngine(answer=writer, order=order)).outcome.kept.write_json())
    assert results[0] == results[1] == results[2]


def test_a_wave_counts_only_verified_rows(store):  # noqa: F811
    config = VerifyConfig(off=tuple(check for check in CHECKS if check != "agreement"))
    result = run(store, check=lambda table: verify(table, config), max_waves=6)
    kept, dropped = verify(result.outcome.kept, config)
    new = kept.filter(pl.col("source") == "generated")
    assert result.accepted["stories"] == new.height >= 24
    assert set(dropped["reason"]) == {"answers_disagree"}


def test_no_token_is_spent_beyond_the_budget(store):  # noqa: F811
    for limit in (20_000, 60_000):
        run(store, max_tokens=limit, max_waves=20)
        assert sum(spent["prompt_tokens"] + spent["completion_tokens"] for spent in store.account().values()) <= limit


# ------------------------------------------------------------------------------------------------------------ the stage


def row(id, instruction="Say it.", response="Yes.", input="", category="open_qa", agreement=None, source="generated"):
    texts = {"instruction": instruction, "input": input, "response": response}
    return {"id": id, **texts, "category": category, "agreement": agreement, "source": source}


ROWS = [
    row("g1", agreement=0.9),
    row("g2", agreement=0.2),
    row("g3", "Sum it up in one sentence.", "It rained. It stopped.", agreement=0.9),
    row("g4", "What is 2 + 2?", "2 + 2 = 5", category="maths", agreement=0.9),
    row("g5", "When?", "In 1999.", "Some day in May.", "closed_qa", agreement=0.9),
    row("g7", "Write it in Python.", "```python\ndef f(\n```", category="code", agreement=0.9),
    row("p1", source="pool"),
    row("s1", "What is 2 + 2?", "2 + 2 = 5", source="seed"),
]


def test_each_check_drops_its_row_with_its_reason():
    kept, dropped = verify(table_of(ROWS), VerifyConfig())
    assert kept["id"].to_list() == ["g1", "p1", "s1"]
    reasons = dict(dropped.select("id", "reason").iter_rows())
    by_check = dict(
        zip(
            ["agreement", "count", "equation", "number", "code"],
            ["g2", "g3", "g4", "g5", "g7"],
            strict=True,
        )
    )
    assert reasons == {id: REASONS[check] for check, id in by_check.items()}
    assert dropped.filter(pl.col("id") == "g2").select("measured", "limit").row(0) == (0.2, 0.55)
    first = kept["verified"].to_list()[0]
    assert {"check": "agreement", "passed": True, "detail": "0.90"} in first
    for check, id in by_check.items():
        assert id in verify(table_of(ROWS), VerifyConfig(off=(check,))).kept["id"].to_list()


def test_no_right_row_that_was_read_fails_a_check_without_a_model():
    rows = [json.loads(line) for name in ("read_rows_2026_11_28", "verification_rows")
            for line in (ROOT / "tests" / "data" / f"{name}.jsonl").read_text(encoding="utf-8").splitlines()]  # fmt: skip
    failed = [row for row in rows if not all(check["passed"] for check in check_row(row, VerifyConfig()))]
    assert len(failed) >= 20
    assert not [row for row in failed if all(row["right"])]


def test_a_row_with_known_results_is_not_checked_again(monkeypatch):
    known = {}
    first = verify(table_of(ROWS), VerifyConfig(), known)
    monkeypatch.setattr("kiloset.verify.verify.check_row", None)
    again = verify(table_of(ROWS), VerifyConfig(), known)
    assert first.kept.equals(again.kept)
    assert first.dropped.equals(again.dropped)


def test_open_ended_categories_are_not_compared():
    assert verify(table_of(ROWS[:2]), VerifyConfig(open_ended=("open_qa",))).dropped.is_empty()


def test_an_unknown_check_is_refused():
    with pytest.raises(ConfigError, match="'agrement' is unknown"):
        parse(VerifyConfig, {"off": ["agrement"]})


# ------------------------------------------------------------------------------------------------- hopeless categories


def test_a_category_with_too_low_a_yield_is_asked_no_more(store):  # noqa: F811
    def never(table):
        return verify(table.with_columns(agreement=pl.when(pl.col("source") == "generated").then(0.0)), VerifyConfig())

    result = run(store, check=never, max_waves=12, least_yield=0.1)
    assert result.ended == "low_yield"
    requested = sum(sum(strategies.values()) for wave in store.waves() for strategies in wave.values())
    assert requested < 150
    assert run(store, check=never, max_waves=3).ended == "max_waves"


def test_missing_rows_of_hopeless_categories_are_spread_over_the_others():
    yields = Yields({("a", "x"): 50, ("b", "x"): 50, ("c", "x"): 10}, {("a", "x"): 2, ("b", "x"): 40, ("c", "x"): 0})
    wanted = {"a": 10, "b": 10, "c": 10}
    assert _without_hopeless({"a": 8, "c": 3}, wanted, yields, 0.1) == {"b": 4, "c": 7}
    assert _without_hopeless({"c": 3}, wanted, yields, 0.1) == {"c": 3}
    assert _without_hopeless({"a": 8}, {"a": 10}, yields, 0.1) == {}
