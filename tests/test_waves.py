"""Waves, limits, strategies and lineage of the loop; what becomes of single completions is in test_loop.py."""

import itertools
import json
from collections import Counter
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from kiloset.core.calls import CallStore
from kiloset.core.constraints import failing
from kiloset.core.errors import ConfigError
from kiloset.core.models import Capabilities, Request
from kiloset.core.progress import GenerationProgress, Silent
from kiloset.core.recorded import RecordedEngine
from kiloset.generator.loop import generate
from kiloset.generator.planning import Yields
from kiloset.generator.settings import PURPOSES, GenerateConfig
from kiloset.generator.strategies import OPERATORS
from kiloset.generator.templates import Templates
from tests.fakes import FakeEngine, plausible
from tests.test_loop import (
    SEEDS,
    as_bytes,
    calls_of,
    drop_where,
    generated,
    generated_rows,
    good,
    keep_all,
    loop,
    seeds_of,
    store,
    unlike,
)

__all__ = ["store"]

MIX = {"self_instruct": 0.4, "evolve": 0.2, "magpie": 0.2, "constraint": 0.2}


def writer(key: str, request: Request) -> tuple[str, str]:
    """Never fail, and write plain sentences."""
    if request.purpose == "labelled_input":
        return f" good\nText: It was {unlike(key)}.", "stop"
    if request.purpose == "response":
        return f"Here is {unlike(key, 12)}. It tells of {unlike(key + 'x', 9)}. That is all, {unlike(key, 3)}.", "stop"
    return f"Tell of {unlike(key)}.", "stop"


def test_the_next_wave_is_asked_for_while_answers_of_the_last_are_still_being_written(store: CallStore) -> None:
    waiting: Counter[str] = Counter()
    seen: list[int] = []

    class Watched(FakeEngine):
        def submit(self, requests: Any) -> None:
            super().submit(requests)
            purposes = Counter(request.purpose for _, request in requests)
            if purposes["instruction"]:
                seen.append(waiting["response"])
            waiting.update(purposes)

        def receive(self) -> Any:
            key, completion = super().receive()
            waiting["instruction" if "1." in self.prompts[key] else "response"] -= 1
            return key, completion

    engine = Watched(answer=lambda key, request: ("", "stop") if poor(key, request) else good(key, request))
    poor = lambda key, request: request.purpose == "instruction" and int(key[0], 16) < 11  # noqa: E731
    generated(store, engine, wanted={"stories": 40})
    assert seen[0] == 0
    assert seen[1] > 0


def test_what_a_wave_asks_for_is_noted_before_anything_is_sent(store: CallStore) -> None:
    class Dead(FakeEngine):
        def submit(self, requests: Any) -> None:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        loop(store, Dead(), wanted={"stories": 6})
    assert store.waves() == [{"stories": {"self_instruct": 24}}]


def test_noted_waves_are_gone_through_even_if_a_plan_would_ask_otherwise(store: CallStore) -> None:
    asks = [{"stories": {"self_instruct": 3}}, {"summaries": {"self_instruct": 5}}]
    for each in asks:
        store.add_wave(each)
    result = generated(store, FakeEngine(answer=good), wanted={"stories": 1}, plan=False)
    assert Counter(generated_rows(result.outcome)["category"]) == {"stories": 3, "summaries": 5}
    assert store.waves() == asks


@pytest.mark.parametrize(("most", "least"), [(2_000, 0), (6_000, 0), (20_000, 10_000), (60_000, 30_000)])
def test_no_token_is_spent_beyond_the_budget_and_most_of_a_large_budget_is_used(most: int, least: int) -> None:
    with closing(CallStore(Path(":memory:"))) as store:
        strategies = {name: w for name, w in MIX.items() if name != "magpie"}
        result = generated(
            store, FakeEngine(answer=writer), wanted={"stories": 300, "summaries": 200}, max_tokens=most, max_waves=2,
            strategies=strategies, max_response_tokens=60, max_input_tokens=30, max_instruction_tokens=30,
        )  # fmt: skip
        _, tokens, _ = store.spent(PURPOSES)
        assert least <= tokens <= most
        assert result.ended == "max_tokens"


@pytest.mark.parametrize("most", [40, 100, 333])
def test_with_all_strategies_no_more_requests_than_allowed_are_sent(store: CallStore, most: int) -> None:
    engine = FakeEngine(answer=writer)
    generated(store, engine, wanted={"stories": 50, "summaries": 50}, strategies=MIX, max_requests=most, max_waves=40)
    assert 0 < len(engine.sent) <= most


def test_a_run_that_may_spend_more_goes_on_where_it_was(store: CallStore) -> None:
    first, second = FakeEngine(answer=good), FakeEngine(answer=good)
    little = generated(store, first, wanted={"stories": 30}, max_requests=60)
    assert little.ended == "max_requests"
    more = generated(store, second, wanted={"stories": 30}, max_requests=1000)
    assert more.ended == "done"
    assert not set(first.sent) & set(second.sent)
    kept = set(little.outcome.kept["instruction"])
    assert kept <= set(more.outcome.kept["instruction"])


def test_when_the_hours_are_over_nothing_more_is_sent_and_what_came_is_kept(
    store: CallStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = itertools.count(0.0, 1.5)  # seconds, each time the clock is read
    monkeypatch.setattr("kiloset.generator.loop.time.monotonic", lambda: next(now))
    engine = FakeEngine(answer=good)
    result = generated(store, engine, wanted={"stories": 200}, max_hours=1.0)
    assert result.ended == "max_hours"
    assert 0 < len(engine.sent) < 1200
    late = result.outcome.dropped.filter(pl.col("reason") == "budget_spent")
    assert late.height > 0
    assert all("1.0 hours" in evidence for evidence in late["evidence"])
    assert store.account()["response"]["completed"] == result.outcome.kept.height - SEEDS.height


def test_larger_answers_repeat_only_the_responses_that_were_cut(store: CallStore) -> None:
    def long_winded(key: str, request: Request) -> tuple[str, str]:
        cut = request.purpose == "response" and request.max_tokens < 99 and int(request.key("x")[0], 16) < 8
        return good(key, request)[0], "length" if cut else "stop"

    first, second = FakeEngine(answer=long_winded), FakeEngine(answer=long_winded)
    before = generated(store, first, wanted={"stories": 20, "summaries": 9}, max_response_tokens=50)
    cut = before.outcome.dropped.filter(pl.col("reason") == "response_cut")
    assert cut.height > 5
    after = generated(store, second, wanted={"stories": 20, "summaries": 9}, max_response_tokens=99)
    assert sorted(second.sent) == sorted(keys[-1] for keys in cut["calls"])
    assert after.outcome.dropped.filter(pl.col("reason") == "response_cut").is_empty()
    assert set(cut["id"]) <= set(after.outcome.kept["id"])


def test_what_the_set_lacked_in_the_end_is_asked_for_and_for_that_alone(store: CallStore) -> None:
    first = generated(store, FakeEngine(answer=good), wanted={"stories": 8, "summaries": 8})
    waves = store.waves()
    pair = ("stories", "self_instruct")
    through = Yields({pair: 32}, {pair: 8})
    again = generated(
        store, FakeEngine(answer=good), wanted={"stories": 8, "summaries": 8}, lacking=({"stories": 5}, through)
    )
    (extra,) = store.waves()[len(waves) :]
    assert set(extra) == {"stories"}
    assert extra["stories"]["self_instruct"] >= 5 / 0.25
    assert set(first.outcome.kept["id"]) < set(again.outcome.kept["id"])
    assert again.ended == "done"


def test_nothing_is_asked_for_again_beyond_the_limits_and_the_reason_is_returned(store: CallStore) -> None:
    generated(store, FakeEngine(answer=good), wanted={"stories": 8})
    waves, pair = store.waves(), ("stories", "self_instruct")
    lacking = ({"stories": 5}, Yields({pair: 32}, {pair: 8}))
    for limits, reason in (({"max_waves": len(waves)}, "max_waves"), ({"max_requests": 50}, "max_requests")):
        result = generated(store, FakeEngine(answer=good), wanted={"stories": 8}, lacking=lacking, **limits)
        assert (result.ended, store.waves()) == (reason, waves)


# ---------------------------------------------------------------------------------------------------- strategies


def test_every_strategy_contributes_by_its_weight(store: CallStore) -> None:
    result = generated(store, FakeEngine(answer=writer), wanted={"stories": 40, "summaries": 40}, strategies=MIX)
    asked = Counter(generated_rows(result.outcome)["strategy"])
    kept = Counter(result.outcome.kept.filter(pl.col("source") == "generated")["strategy"])
    assert set(asked) == set(MIX)
    total = sum(kept.values())
    assert kept["self_instruct"] / total == pytest.approx(0.4, abs=0.1)
    assert kept["constraint"] / total == pytest.approx(0.2, abs=0.1)


def test_an_evolved_row_names_its_operator_and_its_one_parent(store: CallStore) -> None:
    result = generated(store, FakeEngine(answer=writer), wanted={"stories": 20}, strategies={"evolve": 1.0})
    rows = generated_rows(result.outcome)
    texts = {row["id"]: row["instruction"] for row in [*SEEDS.iter_rows(named=True), *rows.iter_rows(named=True)]}
    assert set(rows["operator"]) == set(OPERATORS)
    for row in rows.iter_rows(named=True):
        (parent,) = row["parents"]
        (call,) = calls_of(store, row["calls"][:1])
        assert texts[parent] in call["prompt"]
        assert OPERATORS[row["operator"]] in call["prompt"]


def test_a_bare_user_turn_is_the_template_up_to_where_the_user_writes(store: CallStore) -> None:
    result = generated(store, FakeEngine(answer=writer), wanted={"stories": 4}, strategies={"magpie": 1.0})
    row = generated_rows(result.outcome).row(0, named=True)
    (call,) = calls_of(store, row["calls"][:1])
    assert call["prompt"].startswith("<system>You are a helpful assistant.")
    assert call["prompt"].endswith("stories.</system><user>")
    assert (row["parents"], row["depth"], json.loads(call["params"])["raw"]) == ([], 1, False)


@pytest.mark.parametrize("lacks", ["plain_text", "exact_prompts", "chat_template"])
def test_magpie_is_refused_where_the_engine_cannot_do_it(store: CallStore, lacks: str) -> None:
    engine = FakeEngine()
    engine.capabilities = Capabilities(**{lacks: False})
    with pytest.raises(ConfigError) as error:
        generated(store, engine, strategies={"magpie": 1.0})
    assert error.value.code == "KS203"
    assert engine.sent == []


def test_an_engine_that_takes_only_chats_is_asked_in_chats(store: CallStore) -> None:
    engine = FakeEngine(answer=writer)
    engine.capabilities = Capabilities(plain_text=False)
    generated(store, engine, strategies={"self_instruct": 1.0, "constraint": 1.0})
    calls = calls_of(store, engine.sent)
    assert {call["purpose"] for call in calls} == {"instruction", "input", "response"}
    assert not any(json.loads(call["params"])["raw"] for call in calls)
    assert all(call["prompt"].startswith("<user>") for call in calls)


def test_a_label_is_written_before_its_text_and_is_the_answer(store: CallStore) -> None:
    table = seeds_of(classification=(8, 8))
    result = generated(store, FakeEngine(answer=writer), table=table, wanted={"classification": 5})
    kept = result.outcome.kept.filter(pl.col("source") == "generated")
    assert kept["response"].unique().to_list() == ["good"]
    assert all(text.startswith("It was") for text in kept["input"])
    assert set(store.account()) == {"instruction", "labelled_input"}
    assert generated(
        store, FakeEngine(answer=writer), table=table, wanted={"classification": 5}, output_first=()
    ).outcome.kept.height
    assert "input" in store.account()


def test_kept_rows_with_constraints_keep_them_and_the_others_are_dropped(store: CallStore) -> None:
    engine = FakeEngine(answer=writer)
    result = generated(store, engine, wanted={"stories": 60}, strategies={"constraint": 1.0}, constraint_samples=3)
    rows = result.outcome.kept.filter(pl.col("source") == "generated")
    assert rows.height > 20
    for row in rows.iter_rows(named=True):
        assert 1 <= len(row["constraints"]) <= 3
        assert failing(row["constraints"], row["response"]) == []
        answers = [call["text"] for call in calls_of(store, row["calls"][-3:])]
        assert (row["response"] in answers) == (row["edits"] == [])
        also = [text for text in answers if text != row["response"] and not failing(row["constraints"], text)]
        assert row["others"] == also
    assert rows.filter(pl.col("edits").list.len() > 0).height > 0
    assert rows.filter(pl.col("others").list.len() > 0).height > 0
    failed = result.outcome.dropped.filter(pl.col("reason") == "constraint_failed")
    for row in failed.iter_rows(named=True):
        assert failing(row["constraints"], row["response"])


def test_a_row_with_constraints_is_shown_and_repeated_without_them(store: CallStore) -> None:
    unlucky = drop_where(lambda row: row["id"][-1] in "123456", "unlucky")
    result = generated(
        store,
        FakeEngine(answer=writer),
        wanted={"stories": 40},
        strategies={"constraint": 1.0},
        check_candidates=unlucky,
    )
    rows = {row["id"]: row for row in generated_rows(result.outcome).iter_rows(named=True)}
    with_parents = [row for row in rows.values() if any(parent in rows for parent in row["parents"])]
    assert with_parents
    for row in with_parents:
        (call,) = calls_of(store, row["calls"][:1])
        for parent in (id for id in row["parents"] if id in rows and rows[id]["constraints"]):
            plain = calls_of(store, rows[parent]["calls"][:1])[0]["text"].strip()
            assert plain in call["prompt"]
            assert rows[parent]["instruction"] not in call["prompt"]


def test_json_is_asked_for_under_a_schema_where_the_engine_can(store: CallStore) -> None:
    seen: list[Request] = []

    def note(key: str, request: Request) -> tuple[str, str]:
        seen.append(request)
        return writer(key, request)

    generated(store, FakeEngine(answer=note), wanted={"stories": 40}, strategies={"constraint": 1.0})
    with_schema = [request for request in seen if request.schema]
    assert with_schema
    assert all(json.loads(request.schema) == {"type": "object"} for request in with_schema)
    assert {request.purpose for request in with_schema} == {"response"}
    engine = FakeEngine(answer=note)
    engine.capabilities = Capabilities(schemas=False)
    seen.clear()
    with closing(CallStore(Path(":memory:"))) as other:
        generated(other, engine, wanted={"stories": 40}, strategies={"constraint": 1.0})
    assert not any(request.schema for request in seen)


@pytest.mark.parametrize("order", [1, 2])
def test_with_all_strategies_the_outcome_does_not_depend_on_the_order_completions_come_in(order: int) -> None:
    results = []
    for each in (0, order):
        with closing(CallStore(Path(":memory:"))) as store:
            result = generated(store, FakeEngine(order=each, answer=plausible_with_labels), strategies=MIX, wanted={"stories": 25, "summaries": 20})  # fmt: skip
            results.append((as_bytes(result.outcome), result.ended, store.waves()))
    assert results[0] == results[1]


def plausible_with_labels(key: str, request: Request) -> tuple[str, str]:
    text, reason = plausible(key, request)
    return (text.strip() or "x") if request.purpose in ("magpie", "evolve") else text, reason


@pytest.mark.parametrize("moment", [1, 40, 75, 110])
def test_a_halted_loop_with_all_strategies_ends_as_an_undisturbed_one(moment: int) -> None:
    with closing(CallStore(Path(":memory:"))) as store:
        whole = generated(store, FakeEngine(answer=writer), strategies=MIX)
        expected = as_bytes(whole.outcome), store.waves()
    halted = FakeEngine(answer=writer)

    def halt(key: str, request: Request) -> tuple[str, str]:
        if len(halted.sent) == moment:
            raise KeyboardInterrupt
        return writer(key, request)

    halted.answer = halt
    rest = FakeEngine(answer=writer, order=5)
    with closing(CallStore(Path(":memory:"))) as store:
        with pytest.raises(KeyboardInterrupt):
            generated(store, halted, strategies=MIX)
        resumed = generated(store, rest, strategies=MIX)
        assert (as_bytes(resumed.outcome), store.waves()) == expected
    assert not set(halted.sent) & set(rest.sent)


# ------------------------------------------------------------------------------------------------------- lineage


def test_no_new_row_is_shown_more_often_than_allowed_nor_has_a_longer_lineage(store: CallStore) -> None:
    result = generated(
        store, FakeEngine(answer=good), wanted={"stories": 120}, max_shown=2, max_depth=2, samples_per_prompt=1,
        check_candidates=drop_where(lambda row: row["id"][-1] in "1234567", "unlucky"), max_waves=6,
    )  # fmt: skip
    rows = generated_rows(result.outcome)
    assert rows["depth"].max() == 2
    times = Counter(parent for parents in rows["parents"] for parent in parents)
    machine = {id: n for id, n in times.items() if id.startswith("g")}
    assert machine
    assert max(machine.values()) == 2
    depth = dict(rows.select("id", "depth").iter_rows())
    assert {depth[id] for id in machine} == {1}
    assert {id: n for id, n in rows.select("id", "times_shown").iter_rows() if n} == machine


def test_the_counts_of_the_progress_add_up(store: CallStore) -> None:
    last: list[GenerationProgress] = []

    class Recorder(Silent):
        def update_generation(self, progress: GenerationProgress) -> None:
            last.append(progress)

    engine = FakeEngine(answer=good)
    result = generate(
        SEEDS, RecordedEngine(engine, store, Recorder()), {"stories": 10}, GenerateConfig(max_tokens=10**6, prompt_style="continue"),
        Templates(), seed=0, license="MIT", check_instructions=keep_all, check_candidates=keep_all,
    )  # fmt: skip
    end = last[-1]
    assert (end.in_flight, end.requests, end.sent) == (0, len(engine.sent), len(engine.sent))
    account = store.account().values()
    assert end.prompt_tokens + end.completion_tokens == sum(
        a["prompt_tokens"] + a["completion_tokens"] for a in account
    )
    assert end.budget["tokens"] == (end.prompt_tokens + end.completion_tokens, 10**6)
    assert end.wanted == result.wanted == {"stories": 20}
    assert sum(end.requested.values()) == generated_rows(result.outcome).height
    assert end.accepted["stories"] == result.accepted["stories"]


def test_an_engine_that_answers_nothing_is_asked_no_more_than_the_waves_allow(store: CallStore) -> None:
    silent = FakeEngine(answer=lambda key, request: ("", "stop"))
    result = generated(store, silent, wanted={"stories": 3}, max_waves=4, strategies=MIX)
    assert result.ended == "max_waves"
    assert len(store.waves()) == 4


def test_a_request_of_another_sample_is_another_request() -> None:
    request = Request("p", "response", 5, 0.5, 0.9)
    assert replace(request, sample=1).key("m") != request.key("m")
