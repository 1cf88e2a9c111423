import json
import math
import os
import sqlite3
from contextlib import closing
from dataclasses import replace
from io import StringIO

import polars as pl
import pytest
from rich.console import Console

from kiloset.cli.plan_report import plan_line, show_plan
from kiloset.core.calls import CallStore
from kiloset.core.config import parse
from kiloset.core.errors import ConfigError
from kiloset.core.models import Completion, Request
from kiloset.core.run import RunFolder
from kiloset.core.table import no_rows, table_of
from kiloset.generator.settings import PURPOSES, STRATEGIES
from kiloset.plan.estimate import INSTRUCTION_PURPOSE, PROMPT_TOKENS, Range, estimate, rows_wanted
from kiloset.plan.evidence import (
    REWRITES,
    Evidence,
    StrategyYield,
    TokenUsage,
    assume_nothing_measured,
    find_evidence,
    measured_evidence,
)
from kiloset.settings import NOT_CONTENT, RunConfig, check_same, data_relevant, run_name, settings_help, to_toml

MODEL, BASE = "org/writer", "org/base"
PLAIN = {
    "models": {"generator": {"name": MODEL}},
    "generate": {
        "strategies": {"self_instruct": 1.0},
        "candidates_per_row": 2.0,
        "samples_per_prompt": 1,
        "prompt_style": "continue",
    },
    "rewrite": {"enabled": False},
}
WANTED = {"a": 30, "b": 20}
USAGE = {
    "instruction": TokenUsage(10, 1000, 200),
    "input": TokenUsage(20, 4000, 1200),
    "response": TokenUsage(5, 300, 500),
}
# With the prior of two in four the yield is 30 in 100.
SEEN = Evidence(
    "test",
    yields={"self_instruct": StrategyYield(96, 28)},
    following={"self_instruct": {"input": 0.5, "response": 0.6}},
    usage=USAGE,
    speeds={"generator": 50.0},
)


def config_of(**tables):
    merged = {name: {**PLAIN.get(name, {}), **tables.get(name, {})} for name in {**PLAIN, **tables}}
    return parse(RunConfig, merged)


def beta_quantile(a, b, q):
    """By the identity of the Beta's and the binomial's tails, for whole a and b, and bisection."""
    low, high = 0.0, 1.0
    for _ in range(60):
        x = (low + high) / 2
        tail = sum(math.comb(a + b - 1, k) * x**k * (1 - x) ** (a + b - 1 - k) for k in range(a, a + b))
        low, high = (x, high) if tail < q else (low, x)
    return x


# ------------------------------------------------------------------------------------------------------------ estimates


def test_requests_tokens_and_seconds_are_those_computed_by_hand():
    plan = estimate(config_of(), WANTED, SEEN)
    assert (plan.rows, plan.candidates) == (50, 100)
    instructions = 100 / 0.3
    requests = {name: spend.requests.expected for name, spend in plan.purposes.items()}
    assert requests == pytest.approx(
        {"instruction": instructions, "input": instructions / 2, "response": instructions * 0.6}
    )
    assert plan.total.requests.expected == pytest.approx(700)
    # 100 prompt tokens an instruction, 200 an input, 60 a response; 20, 60 and 100 written.
    assert plan.total.prompt_tokens.expected == pytest.approx(instructions * (100 + 100 + 36))
    assert plan.total.written_tokens.expected == pytest.approx(instructions * (20 + 30 + 60))
    assert plan.total.seconds.expected == pytest.approx(instructions * 110 / 50)
    assert plan.total.cost == Range(0, 0, 0)
    assert (plan.scores, plan.shortages, plan.assumed) == (35 + 23, (), ())


def test_the_range_is_that_of_the_beta_distribution_of_the_yield():
    plan = estimate(config_of(), WANTED, SEEN)
    rate = plan.yields["self_instruct"]
    assert rate.low == pytest.approx(beta_quantile(30, 70, 0.1), abs=1e-9)
    assert rate.high == pytest.approx(beta_quantile(30, 70, 0.9), abs=1e-9)
    assert plan.total.requests.high == pytest.approx(2.1 * 100 / rate.low)
    assert plan.total.requests.low == pytest.approx(2.1 * 100 / rate.high)


def test_more_than_two_hundred_instructions_teach_no_more_of_a_yield():
    known = estimate(config_of(), WANTED, replace(SEEN, yields={"self_instruct": StrategyYield(200, 60)}))
    surer = estimate(config_of(), WANTED, replace(SEEN, yields={"self_instruct": StrategyYield(20_000, 6_000)}))
    assert surer.yields == known.yields


def test_the_first_wave_asks_by_the_loops_own_assumption_however_good_the_yield_is():
    good = replace(SEEN, yields={"self_instruct": StrategyYield(196, 178)})  # 0.9
    plan = estimate(config_of(), WANTED, good)
    assert plan.purposes["instruction"].requests == Range(200, 200, 200)
    # In eights for each of the categories: 120 and 80 divide; 33 rows do not.
    eights = config_of(generate={"samples_per_prompt": 8})
    assert estimate(eights, {"a": 33, "b": 20}, good).purposes["instruction"].requests.expected == 136 + 80


def test_strategies_share_the_candidates_by_weight_and_have_their_own_yield_and_answers():
    config = config_of(
        generate={"strategies": {"self_instruct": 3.0, "evolve": 1.0, "constraint": 1.0}, "constraint_samples": 4}
    )
    rates = {
        "self_instruct": StrategyYield(96, 28),
        "evolve": StrategyYield(96, 38),
        "constraint": StrategyYield(96, 18),
    }
    shares = {"input": 0.0, "response": 0.5}
    seen = replace(SEEN, yields=rates, following=dict.fromkeys(rates, shares))
    plan = estimate(config, WANTED, seen)
    instructions = {"self_instruct": 60 / 0.3, "evolve": 20 / 0.4, "constraint": 20 / 0.2}
    requests = {name: spend.requests.expected for name, spend in plan.purposes.items()}
    assert requests == pytest.approx(
        {
            "instruction": instructions["self_instruct"] + instructions["constraint"],
            "evolve": instructions["evolve"],
            "response": 0.5 * (instructions["self_instruct"] + instructions["evolve"])
            + 0.5 * 4 * instructions["constraint"],
        }
    )


def test_rewriting_takes_the_reserve_too_and_has_the_base_models_price_and_speed():
    config = config_of(
        rewrite={"enabled": True, "plain": 2, "guided": 3},
        select={"reserve": 0.15},
        models={
            "generator": {"name": MODEL, "price_prompt": 1.0, "price_written": 10.0},
            "base": {"name": BASE, "price_prompt": 2.0, "price_written": 4.0},
            "currency": "EUR",
        },
    )
    usage = {**USAGE, "plain": TokenUsage(1, 50, 100), "guided": TokenUsage(1, 150, 100)}
    seen = replace(SEEN, usage=usage, rewritten=0.5, speeds={"generator": 50.0, "rewriter": 20.0})
    plan = estimate(config, WANTED, seen)
    rows = (30 + 5) + (20 + 3)  # a seventh more, rounded up in each category
    plain, guided = plan.purposes["plain"], plan.purposes["guided"]
    assert plain.requests == Range(rows, rows, rows)
    assert guided.requests.expected == rows * 1.5
    assert plain.seconds.expected == rows * 100 / 20
    assert plain.cost.expected == pytest.approx(rows * (50 * 2 + 100 * 4) / 1e6)
    assert plan.purposes["instruction"].cost.expected == pytest.approx(100 / 0.3 * (100 * 1 + 20 * 10) / 1e6)
    assert plan.total.cost.expected == pytest.approx(sum(spend.cost.expected for spend in plan.purposes.values()))
    assert plan.scores == rows * 6
    assert plan.currency == "EUR"


def test_where_the_base_model_is_the_generator_its_price_and_speed_are_the_generators():
    models = {"generator": {"name": MODEL, "price_written": 10.0}, "base": {"price_written": 99.0}}
    config = config_of(rewrite={"enabled": True, "plain": 1, "guided": 0}, models=models)
    plain = estimate(config, WANTED, replace(SEEN, usage={"plain": TokenUsage(1, 50, 100)})).purposes["plain"]
    assert plain.cost.expected == pytest.approx(58 * 100 * 10 / 1e6)
    assert plain.seconds.expected == 58 * 100 / 50


def test_tokens_never_exceed_the_limit_there_is_now():
    config = config_of(generate={"max_response_tokens": 40})
    plan = estimate(config, WANTED, SEEN)
    response = plan.purposes["response"]
    assert response.written_tokens.expected == pytest.approx(40 * response.requests.expected)


def test_a_pool_spares_what_it_has_of_each_category():
    plan = estimate(config_of(), WANTED, SEEN, {"a": 100, "b": 10, "c": 5})
    assert plan.candidates == 30  # b alone: 40 less 10
    assert estimate(config_of(), WANTED, SEEN, {"": 40}).candidates == 60
    assert estimate(config_of(), WANTED, SEEN, {"": 400}).purposes == {}


def test_without_generation_there_is_nothing_to_pay():
    plan = estimate(config_of(generate={"enabled": False, "max_requests": 1}), WANTED, SEEN)
    assert (plan.candidates, plan.purposes, plan.shortages) == (0, {}, ())
    assert plan.total.seconds == Range(0, 0, 0)


@pytest.mark.parametrize("evidence", [SEEN, assume_nothing_measured()], ids=["seen", "assumed"])
@pytest.mark.parametrize(
    "strategies", [{"self_instruct": 1.0}, {"self_instruct": 0.7, "evolve": 0.1, "constraint": 0.2}]
)
def test_a_larger_set_never_takes_less(evidence, strategies):
    config = config_of(
        generate={"strategies": strategies, "samples_per_prompt": 8}, rewrite={"enabled": True}, run={"size": 1}
    )
    before = estimate(config, {"a": 0, "b": 0}, evidence).total
    assert before.requests.high == 0
    for size in range(1, 200):
        total = estimate(config, {"a": (size + 1) // 2, "b": size // 2}, evidence).total
        for name in ("requests", "prompt_tokens", "written_tokens"):
            ours, theirs = getattr(total, name), getattr(before, name)
            assert ours.low <= ours.expected <= ours.high
            assert (ours.low, ours.expected, ours.high) >= (theirs.low, theirs.expected, theirs.high)
            assert ours.high >= theirs.high
        before = total


def test_what_nothing_has_measured_is_named():
    config = config_of(generate={"strategies": {"self_instruct": 1.0, "magpie": 1.0}})
    plan = estimate(config, WANTED, SEEN)
    assert plan.assumed == ("yield of magpie", "tokens of magpie")
    assert plan.yields["magpie"].expected == 0.5
    nothing = estimate(config, WANTED, assume_nothing_measured())
    assert nothing.origin == "assumed"
    assert nothing.total.seconds is None


def test_every_strategy_and_purpose_of_the_loop_is_known_here():
    assert set(INSTRUCTION_PURPOSE) == set(STRATEGIES)
    assert set(INSTRUCTION_PURPOSE.values()) <= set(PURPOSES)
    assert set(PROMPT_TOKENS) == {*PURPOSES, *REWRITES}


# -------------------------------------------------------------------------------------------------------------- budgets


def test_a_budget_too_small_names_the_candidates_and_rows_it_pays_for():
    (short,) = estimate(config_of(generate={"max_requests": 350}), WANTED, SEEN).shortages
    # 2.1 requests an instruction, 7 a candidate: 350 bring 50, and so 25 rows.
    assert (short.limit, short.allowed) == ("max_requests", 350)
    assert short.needed.expected == pytest.approx(700)
    assert short.candidates.expected == pytest.approx(50)
    assert short.rows.expected == 25
    worst = 350 * beta_quantile(30, 70, 0.1) / 2.1
    assert short.candidates.low == pytest.approx(worst)
    assert short.rows.low == int(worst / 2)


def test_tokens_count_with_the_prompts_and_hours_by_the_speed():
    instructions = 100 / 0.3
    tokens = instructions * (236 + 110)
    (short,) = estimate(config_of(generate={"max_tokens": int(tokens / 4)}), WANTED, SEEN).shortages
    assert (short.limit, short.rows.expected) == ("max_tokens", 12)
    hours = instructions * 110 / 50 / 3600
    (short,) = estimate(config_of(generate={"max_hours": hours / 2}), WANTED, SEEN).shortages
    assert short.limit == "max_hours"
    assert short.needed.expected == pytest.approx(hours)
    assert short.rows.expected == pytest.approx(25, abs=1)


def test_a_budget_is_named_only_if_it_may_not_do():
    enough = estimate(config_of(), WANTED, SEEN).total.requests
    assert estimate(config_of(generate={"max_requests": math.ceil(enough.high)}), WANTED, SEEN).shortages == ()
    (may,) = estimate(config_of(generate={"max_requests": math.ceil(enough.expected)}), WANTED, SEEN).shortages
    assert may.rows.expected == 50
    assert may.rows.low < 50


def test_rows_of_a_pool_count_where_the_budget_ends():
    pool = {"a": 60}  # all of a
    (short,) = estimate(config_of(generate={"max_requests": 140}), WANTED, SEEN, pool).shortages
    assert short.candidates.expected == pytest.approx(20)
    assert short.rows.expected == 40  # 60 and 20 candidates, two a row


def test_hours_that_cannot_be_checked_are_named():
    plan = estimate(config_of(generate={"max_hours": 0.001}), WANTED, replace(SEEN, speeds={}))
    assert (plan.shortages, plan.unchecked) == ((), ("max_hours",))


# ------------------------------------------------------------------------------------------------------------- evidence


def written(runs, name, *, model=f"{MODEL}@abc", base=f"{MODEL}@abc", age=0.0, accepted=3, selection="select"):
    """A run folder as a run leaves it: eight rows of self_instruct and two of evolve, half a second a completion."""
    folder = RunFolder(runs / name)
    folder.create()
    store = CallStore(folder.calls)

    def call(purpose, prompt, tokens):
        request = Request(f"{name} {purpose} {prompt}", purpose, 99, 0.5, 0.9)
        store.note_sent([(request.key("m"), request)])
        store.add("m", request.key("m"), request, Completion("text", "stop", 100, tokens))
        return request.key("m")

    rows = []
    for n in range(10):
        evolved = n >= 8
        calls = [call("evolve" if evolved else "instruction", n, 20)]
        if n < 4:
            calls.append(call("input", n, 40))
        if n < 6:
            calls += [call("response", n, 80)]
        rows.append({"id": f"g{n}", "source": "generated", "strategy": "evolve" if evolved else "self_instruct", "calls": calls})  # fmt: skip
    rewritten = [{**row, "calls": [*row["calls"], call("plain", row["id"], 60)]} for row in rows[:1]] + rows[1:2]
    store.close()
    with closing(sqlite3.connect(folder.calls)) as db, db:
        for number, (key,) in enumerate(db.execute("SELECT key FROM calls ORDER BY rowid").fetchall()):
            db.execute("UPDATE calls SET finished = ? WHERE key = ?", (1000 + number / 2, key))
    seed = {"id": "s1", "source": "seed", "strategy": "", "calls": []}
    kept, dropped = table_of([seed, *rows[:6]]), table_of(rows[6:])
    verdict = dropped.with_columns(
        reason=pl.lit("not_new"), evidence=pl.lit("x"), measured=pl.lit(None, pl.Float64),
        limit=pl.lit(None, pl.Float64), twin=pl.lit(None, pl.String),
    )  # fmt: skip
    good = table_of([seed, *rows[:accepted]])
    nothing = no_rows(table_of([]))
    folder.write_stage(1, "seeds", "f", table_of([seed]), nothing)
    folder.write_stage(2, "generate", "f", kept, verdict)
    folder.write_stage(3, "rules", "f", good, nothing)
    folder.write_stage(4, selection, "f", good, nothing)
    folder.write_stage(5, "rewrite", "f", table_of(rewritten), nothing)
    stages = {"generate": {"models": {"generator": model}}, "rewrite": {"models": {"rewriter": base, "scorer": "x"}}}
    folder.update_manifest({"name": name, "stages": stages})
    os.utime(folder.manifest_file, (10_000 - age, 10_000 - age))
    return folder


def test_evidence_is_what_a_run_folder_shows(tmp_path):
    written(tmp_path, "cpu-1")
    evidence = find_evidence(config_of(), RunFolder(tmp_path / "new"), tmp_path)
    assert evidence.origin == "run cpu-1 (same models)"
    assert evidence.yields == {"self_instruct": StrategyYield(8, 3), "evolve": StrategyYield(2, 0)}
    assert evidence.following["self_instruct"] == {"input": 0.5, "labelled_input": 0, "response": 0.75, "verify": 0}
    assert evidence.following["evolve"] == {"input": 0, "labelled_input": 0, "response": 0, "verify": 0}
    assert evidence.usage == {
        "instruction": TokenUsage(8, 800, 160), "evolve": TokenUsage(2, 200, 40), "input": TokenUsage(4, 400, 160),
        "response": TokenUsage(6, 600, 480), "plain": TokenUsage(1, 100, 60),
    }  # fmt: skip
    # 20 completions, half a second apart: 840 tokens in 9.5 s. One completion gives no speed.
    assert evidence.speeds == {"generator": pytest.approx(840 / 9.5)}
    assert evidence.rewritten == 0.5
    assert evidence.paid == {}


def test_a_run_from_before_balance_was_split_gives_the_same_yields(tmp_path):
    written(tmp_path, "cpu-1", selection="balance")
    evidence = find_evidence(config_of(), RunFolder(tmp_path / "new"), tmp_path)
    assert evidence.yields == {"self_instruct": StrategyYield(8, 3), "evolve": StrategyYield(2, 0)}


def test_several_answers_to_one_row_are_one_row_that_was_answered(tmp_path):
    store = CallStore(tmp_path / "calls.sqlite")
    keys = []
    for sample in range(3):
        request = Request("p", "response", 9, 0.5, 0.9, sample=sample)
        keys.append(request.key("m"))
        store.add("m", keys[-1], request, Completion("t", "stop", 1, 1))
    rows = table_of(
        [{"id": "g1", "strategy": "constraint", "calls": [*keys, "gone"]}, {"id": "g2", "strategy": "constraint"}]
    )
    evidence = measured_evidence("probe", rows, ["g2"], store)
    store.close()
    assert evidence.following["constraint"]["response"] == 0.5
    assert evidence.yields == {"constraint": StrategyYield(2, 1)}


def test_the_latest_run_of_the_same_models_is_taken_and_broken_ones_are_passed_over(tmp_path):
    written(tmp_path, "old", age=300)
    written(tmp_path, "newer", age=200, accepted=5)
    written(tmp_path, "other", age=100, model=f"{MODEL}-large@abc")
    broken = written(tmp_path, "broken", age=50)
    broken.calls.write_bytes(b"no database at all")
    torn = written(tmp_path, "torn", age=40)
    torn.stage_file(3, "rules").write_bytes(b"no parquet")
    (tmp_path / "empty").mkdir()
    (tmp_path / "empty" / "manifest.json").write_text("[")
    evidence = find_evidence(config_of(), RunFolder(tmp_path / "mine"), tmp_path)
    assert evidence.origin == "run newer (same models)"
    assert evidence.yields["self_instruct"].accepted == 5
    assert (
        find_evidence(config_of(models={"generator": {"name": "org/third"}}), RunFolder(tmp_path / "x"), tmp_path)
        is None
    )


def test_a_run_of_another_base_model_is_evidence_for_the_generator_alone(tmp_path):
    written(tmp_path, "cpu-1", base=f"{BASE}@1")
    evidence = find_evidence(config_of(), RunFolder(tmp_path / "new"), tmp_path)
    assert evidence.origin == "run cpu-1 (same generator model)"
    assert "plain" not in evidence.usage
    assert evidence.rewritten is None


def test_the_run_itself_comes_first_with_what_it_has_paid(tmp_path):
    mine = written(tmp_path, "mine", age=500)
    written(tmp_path, "later", accepted=5)
    evidence = find_evidence(config_of(), mine, tmp_path)
    assert (evidence.origin, evidence.yields["self_instruct"].accepted) == ("this run so far", 3)
    assert evidence.paid == evidence.usage
    assert estimate(config_of(), WANTED, evidence).paid["response"] == TokenUsage(6, 600, 480)


def test_a_run_stopped_while_it_generated_borrows_the_yields_of_another(tmp_path):
    mine = written(tmp_path, "mine")
    for number, name in enumerate(("seeds", "generate", "rules", "select", "rewrite"), 1):
        mine.stage_file(number, name).unlink()
    mine.manifest_file.write_text('{"name": "mine"}')
    alone = find_evidence(config_of(), mine, tmp_path)
    assert (alone.origin, alone.yields) == ("this run so far", {})
    assert alone.usage["instruction"] == TokenUsage(8, 800, 160)
    written(tmp_path, "whole", age=900)
    evidence = find_evidence(config_of(), mine, tmp_path)
    assert evidence.origin == "run whole (same models)"
    assert evidence.paid["instruction"] == TokenUsage(8, 800, 160)


def test_looking_for_evidence_changes_nothing(tmp_path):
    folder = written(tmp_path, "cpu-1")
    before = {file.name: file.read_bytes() for file in folder.path.iterdir()}
    find_evidence(config_of(), folder, tmp_path)
    assert {file.name: file.read_bytes() for file in folder.path.iterdir()} == before


def test_the_wanted_rows_come_from_the_manifest_or_else_from_the_files(tmp_path):
    labelled = pl.DataFrame({"category": ["b", "a", "a", "a"]})
    pool = pl.DataFrame({"category": ["", "b"]})
    folder = RunFolder(tmp_path / "r")
    assert rows_wanted(config_of(run={"size": 9}), folder, labelled, pool) == {"a": 5, "b": 4}
    seeds = config_of(run={"size": 8}, categories={"target": "seeds"})
    assert rows_wanted(seeds, folder, labelled, pool) == {"a": 6, "b": 2}
    candidates = config_of(run={"size": 8}, categories={"target": "candidates"})
    assert rows_wanted(candidates, folder, labelled, pool) == {"b": 8}
    assert rows_wanted(candidates, folder, labelled, pl.DataFrame({"category": [""]})) == {"a": 6, "b": 2}
    folder.create()
    folder.update_manifest({"size": 8, "target": {"c": 8}})
    assert rows_wanted(seeds, folder, labelled, pool) == {"c": 8}
    assert rows_wanted(config_of(run={"size": 9}), folder, labelled, pool) == {"a": 5, "b": 4}


# --------------------------------------------------------------------------------------------------------------- shown


def printed(plan):
    console = Console(file=StringIO(), width=160)
    show_plan(plan, "[b]run[/b]", console)
    return console.file.getvalue()


def test_a_plan_is_shown_with_its_grounds_and_its_summary_last():
    models = {"generator": {"name": MODEL, "price_prompt": 100.0, "price_written": 100.0}, "currency": "[i]EUR[/i]"}
    plan = estimate(config_of(models=models, generate={"max_requests": 350}), WANTED, SEEN)
    text = printed(replace(plan, paid={"response": TokenUsage(7, 1000, 234)}))
    low, high = (f"{2.1 * 100 / beta_quantile(30, 70, q):,.0f}" for q in (0.9, 0.1))
    assert "[b]run[/b]: 50 rows, 100 candidates to generate" in text
    assert "candidates per instruction: self_instruct 0.30 (0.24–0.36)" in text
    assert "of this, the run has already used: 7 requests, 1,234 tokens" in text
    assert f"generate.max_requests = 350 is too low: 700 ({low}–{high}) needed; it pays for 50 (" in text
    assert "of 100 candidates, enough for 25 (" in text
    # (236 + 110) tokens an instruction, at 100 a million.
    assert text.splitlines()[-1] == plan_line(plan, "[b]run[/b]")
    assert f"about 700 ({low}–{high}) requests" in text.splitlines()[-1]
    assert f"{100 / 0.3 * 346 / 1e4:,.2f} (" in text.splitlines()[-1]
    assert text.splitlines()[-1].endswith("[i]EUR[/i] (evidence: test)")


def test_a_plan_without_prices_or_speed_shows_no_cost_and_an_unknown_time():
    plan = estimate(config_of(generate={"max_hours": 1.0}), WANTED, assume_nothing_measured())
    text = printed(plan)
    assert "cost" not in text
    assert "an unknown time" in text
    assert "max_hours cannot be checked: the speed is unknown" in text


# ------------------------------------------------------------------------------------------- prices, limits, run's name


def test_each_setting_that_is_no_content_is_a_setting():
    assert {f"{table}.{key}" for table, key, _, _ in settings_help()} >= NOT_CONTENT


def test_prices_and_limits_change_neither_a_runs_name_nor_whose_folder_it_is(tmp_path):
    plain = parse(RunConfig, {})
    other = parse(
        RunConfig,
        {
            "models": {"generator": {"name": plain.models.generator.name, "license": "Apache-2.0", "price_prompt": 3.0},
                       "base": {"price_written": 1}, "currency": "EUR"},
            "generate": {"max_requests": 7, "max_tokens": 8, "max_hours": 9.0, "max_waves": 3, "max_response_tokens": 5,
                         "max_instruction_tokens": 6, "max_input_tokens": 7},
            "rewrite": {"max_tokens": 77},
        },
    )  # fmt: skip
    assert data_relevant(plain) == data_relevant(other)
    assert run_name(plain, "cpu", {}) == run_name(other, "cpu", {})
    check_same(other, to_toml(plain), tmp_path)


def test_everything_else_of_these_tables_is_content(tmp_path):
    plain = parse(RunConfig, {})
    for table in ({"generate": {"novelty": 0.6}}, {"rewrite": {"plain": 2}}, {"models": {"base": {"name": "a/b"}}}):
        other = parse(RunConfig, table)
        assert run_name(plain, "cpu", {}) != run_name(other, "cpu", {})
        with pytest.raises(ConfigError, match="is a run of another config"):
            check_same(other, to_toml(plain), tmp_path)


def test_a_price_is_a_number_of_at_least_zero():
    with pytest.raises(ConfigError, match=r"\[models.generator\] price_prompt must be greater than or equal to 0"):
        parse(RunConfig, {"models": {"generator": {"price_prompt": -1.0}}})


def test_a_plan_can_be_written_as_json():
    from dataclasses import asdict

    plan = json.loads(json.dumps(asdict(estimate(config_of(), WANTED, SEEN)), allow_nan=False))
    assert plan["total"]["requests"]["expected"] == pytest.approx(700)
    assert plan["purposes"]["input"]["prompt_tokens"]["expected"] == pytest.approx(100 / 0.3 * 100)
