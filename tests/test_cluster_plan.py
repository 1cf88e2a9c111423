"""The plan on paper gives the numbers computed by hand, and the rows of the published table that it does not use."""

import importlib
import json
import sys
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import pytest

from kiloset.core.calls import CallStore

sys.path.insert(0, str(Path(__file__).parents[1] / "benchmarks"))
plan_file = importlib.import_module("cluster_plan")

EIGHT, SEVENTY = plan_file.MODELS
# A millisecond a prompt token, two a written one, whatever it attends to, on two GPUs.
SIMPLE = plan_file.Published(
    EIGHT.shape, 2, ((100, 100, 100 / 0.3), (1000, 100, 100 / 1.2), (1000, 1000, 1000 / 3.0))
)  # fmt: skip
RATES = replace(plan_file.Rates(), driver_per_s=1000, commits_per_s=10_000, novelty_ns=1000, novelty_bytes=2000)
# The run whose counts the plan uses made 369 candidates.
HERE = plan_file.plan(SIMPLE, SIMPLE, 8, 369, 369 / 1134, 0.5, RATES)


@pytest.mark.parametrize(
    ("model", "parameters", "kv_bytes"), [(EIGHT, 8_030_261_248, 131_072), (SEVENTY, 70_553_706_496, 327_680)]
)
def test_parameters_and_cache_of_a_token_are_those_of_llama_3_1(model, parameters, kv_bytes):
    assert (model.shape.parameters, model.shape.kv_bytes) == (parameters, kv_bytes)


@pytest.mark.parametrize("model", [EIGHT, SEVENTY])
def test_costs_reproduce_the_published_rates_that_they_are_fitted_to(model):
    for prompt, written, rate in model.points:
        assert written / model.seconds(prompt, written) == pytest.approx(rate)
    assert all(model.costs() > 0)


@pytest.mark.parametrize(
    ("model", "prompt", "written", "rate"),
    [(EIGHT, 500, 2000, 7953.1), (EIGHT, 2048, 2048, 4370.61), (EIGHT, 128, 2048, 9894.49), (EIGHT, 5000, 500, 1802.2),
     (SEVENTY, 500, 2000, 4375.09), (SEVENTY, 2048, 2048, 2609.39), (SEVENTY, 5000, 500, 874.96)],
)  # fmt: skip
def test_costs_predict_other_published_rates_within_a_fifth(model, prompt, written, rate):
    assert written / model.seconds(prompt, written) == pytest.approx(rate, rel=0.2)


def test_hours_are_those_computed_by_hand():
    # 2,411 completions: 488,270 prompt and 143,144 written tokens; four actors at half their rate.
    assert HERE["completions"] == pytest.approx(2411)
    assert HERE["actors"] == 4
    assert HERE["generation_h"] == pytest.approx((488.27 + 286.288) / 0.5 / 4 / 3600)
    assert HERE["completions_per_s"] == pytest.approx(2411 * 2 / 774.558)
    # 369 / 20 rows and 15 %; of 148 rows 35,740 prompt and 23,646 written tokens.
    assert HERE["rows_rewritten"] == pytest.approx(21.2175)
    assert HERE["rewriting_h"] == pytest.approx((35.74 + 47.292) * 21.2175 / 148 / 0.5 / 4 / 3600)
    # 170 scores for 148 rows, of 25,020 / 145 tokens, on all eight GPUs.
    assert HERE["scoring_h"] == pytest.approx(170 / 148 * 21.2175 * 25.02 / 145 / 0.5 / 8 / 3600)
    assert HERE["driver_h"] == pytest.approx(2.411 / 3600)
    # 1,134 instructions, each compared with half of the 834 new ones, a microsecond per pair.
    assert HERE["novelty_h"] == pytest.approx(1134 * 417 * 1e-6 / 3600)


def test_bytes_are_those_computed_by_hand():
    assert HERE["weights_gb_per_gpu"] == pytest.approx(8.030261248)
    # 256 sequences of the mean length, over two GPUs.
    assert HERE["kv_gb_per_gpu"] == pytest.approx(131_072 * 256 * (488_270 + 143_144) / 2411 / 2 / 1e9)
    assert HERE["longest_sequences_that_fit"] == pytest.approx((144e9 - 16_060_522_496) / (131_072 * 4096))
    assert HERE["novelty_gb"] == pytest.approx(834 * 2000 / 1e9)
    assert HERE["calls_gb"] == pytest.approx((2411 + 290 * 21.2175 / 148) * 1677 / 1e9)
    assert HERE["network_mb_per_s"] == pytest.approx(HERE["completions_per_s"] * 1010 / 1e6)


def test_the_base_model_rewrites_and_scores():
    other = plan_file.plan(SIMPLE, EIGHT, 8, 369, 369 / 1134, 0.5, RATES)
    assert {name for name in HERE if HERE[name] != other[name]} == {"rewriting_h", "scoring_h"}
    again = 290 * EIGHT.seconds(35_740 / 290, 23_646 / 290)
    assert other["rewriting_h"] == pytest.approx(again * 21.2175 / 148 / 0.5 / 4 / 3600)


def test_only_novelty_grows_with_the_square_of_the_candidates():
    more = plan_file.plan(SIMPLE, SIMPLE, 8, 3690, 369 / 1134, 0.5, RATES)
    times = {name: more[name] / HERE[name] for name in ("generation_h", "driver_h", "calls_gb", "novelty_h")}
    assert times == pytest.approx({"generation_h": 10, "driver_h": 10, "calls_gb": 10, "novelty_h": 100})


def test_the_candidates_of_a_day_take_a_day_of_novelty():
    day = plan_file.plan(SIMPLE, SIMPLE, 8, round(HERE["candidates_of_a_day"]), 369 / 1134, 0.5, RATES)
    assert day["novelty_h"] == pytest.approx(24, rel=1e-4)


def test_the_first_bottleneck_has_the_highest_load():
    cost = plan_file.plan(EIGHT, EIGHT, 64, 10_000_000, 0.325, 0.5, RATES)
    shares = plan_file.loads(cost, RATES)
    assert list(shares.values()) == sorted(shares.values(), reverse=True)
    assert shares["calls.sqlite: one transaction a completion"] == pytest.approx(cost["completions_per_s"] / 10_000)
    text = plan_file.bottlenecks(cost, RATES)
    assert text.startswith("Bottlenecks with 8B on 64 GPUs, the highest load first: comparing every new instruction")
    fed = 64 * 1000 / cost["completions_per_s"]
    assert f"The loop alone feeds {fed:.3g} such GPUs" in text


def test_without_a_slow_part_there_is_no_bottleneck():
    fast = replace(RATES, driver_per_s=1e9, commits_per_s=1e9, novelty_ns=1e-9)
    cost = plan_file.plan(SEVENTY, EIGHT, 8, 10_000, 0.5, 0.5, fast)
    assert plan_file.bottlenecks(cost, fast).startswith("Nothing slows 70B on 8 GPUs down.")


def test_a_measurement_stores_every_completion_that_it_counts(tmp_path):
    plan_file._commits(tmp_path / "calls.sqlite", 300)
    with closing(CallStore.read_only(tmp_path / "calls.sqlite")) as store:
        (spent,) = store.account().values()
    assert (spent["sent"], spent["completed"]) == (300, 300)


@pytest.mark.slow
def test_the_instant_engine_makes_whole_runs(tmp_path):
    plan_file._driver(tmp_path, 15)
    for rows in (12, 15):
        folder = tmp_path / str(rows)
        assert len((folder / "curated.jsonl").read_text().splitlines()) == rows
        with closing(CallStore.read_only(folder / "calls.sqlite")) as store:
            account = store.account()
        assert {"instruction", "response"} <= set(account)
        assert all(spent["completed"] == spent["sent"] for spent in account.values())


def test_json_has_every_plan_with_its_source(monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["cluster_plan.py", "--json", "--candidates", "1000"])
    plan_file.main()
    printed = json.loads(capsys.readouterr().out)
    assert [(plan["model"], plan["gpus"]) for plan in printed["plans"]] == [
        (name, gpus) for name in ("8B", "70B") for gpus in (8, 16, 32, 64)
    ]
    assert "TensorRT-LLM 0.15.0" in printed["source"]
    assert printed["plans"][0] == plan_file.plan(EIGHT, EIGHT, 8, 1000, 369 / 1134, 0.5, plan_file.Rates())


def test_the_text_states_that_gpu_rates_are_not_ours(monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["cluster_plan.py"])
    plan_file.main()
    text = capsys.readouterr().out
    assert text.startswith("GPU rates are not ours: NVIDIA TensorRT-LLM 0.15.0")
    assert "Assumed: 50% of them are reached" in text
    assert text.count("Bottlenecks with") == 2
