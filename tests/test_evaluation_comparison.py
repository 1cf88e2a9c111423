"""The comparison of arms: verdicts, guards, and the arms' rows."""

import io
import json
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import polars as pl
import pytest
from rich.console import Console

from kiloset.cli.show import show_proof
from kiloset.core.config import parse, settings
from kiloset.core.errors import ConfigError, DataError
from kiloset.core.run import RunFolder
from kiloset.core.table import VERDICT, table_of
from kiloset.evaluation.arms import arms_of
from kiloset.evaluation.comparison import Guard, compare_arms, guards
from kiloset.evaluation.metrics import Metric
from kiloset.evaluation.settings import ARMS, ProveConfig
from kiloset.evaluation.suite import Suite, check_target

Better = Literal["higher", "lower", "neither"]
TARGET = "following strict prompt"


def metric(name: str, values: "np.ndarray[Any, Any] | float", better: Better = "higher") -> Metric:
    listed = np.full(100, values) if isinstance(values, float) else values
    return Metric(
        name, "u", better, {f"k{n}": float(v) for n, v in enumerate(listed)}, {f"k{n}": 1.0 for n in range(100)}
    )


def model(target: float, **others: float) -> dict[str, Metric]:
    """Return metrics of a model that is correct on this fraction of the target's items, the first ones."""
    right = (np.arange(100) < round(target * 100)).astype(float)
    named = {
        "NLL of prose": (others.get("prose", 3.0), "lower"), "NLL of code": (others.get("code", 2.0), "lower"),
        "accuracy facts": (others.get("facts", 0.6), "higher"), "accuracy sums": (others.get("sums", 0.4), "higher"),
        "opening concentration": (others.get("opening", 0.1), "lower"),
        "paraphrase consistency": (others.get("paraphrase", 0.8), "higher"),
        "tokens per answer": (others.get("tokens", 100.0), "neither"),
    }  # fmt: skip
    built = {name: metric(name, value, better) for name, (value, better) in named.items()}  # type: ignore[arg-type]
    return {TARGET: metric(TARGET, right), **built}


CONFIG = ProveConfig()
BASE = model(0.2)


@pytest.mark.parametrize(
    ("curated", "random", "verdict"),
    [((0.5, 0.52), (0.2, 0.2), "better"), ((0.2, 0.2), (0.5, 0.52), "worse"), ((0.3, 0.3), (0.3, 0.3), "not distinguishable"),
     ((0.2, 0.6), (0.4, 0.4), "not distinguishable")],
)  # fmt: skip
def test_the_verdict_is_one_of_three(curated: tuple[float, ...], random: tuple[float, ...], verdict: str) -> None:
    arms = {"curated": [model(one) for one in curated], "random": [model(one) for one in random]}
    result = compare_arms(CONFIG, BASE, arms)
    assert result.verdict == verdict
    assert result.is_proved is (verdict == "better")


def test_a_lower_loss_is_better() -> None:
    config = replace(CONFIG, target="validation loss")
    loss = {name: metric("validation loss", value, "lower") for name, value in (("low", 1.0), ("high", 2.0))}
    better = [{**BASE, "validation loss": loss["low"]}] * 2
    worse = [{**BASE, "validation loss": loss["high"]}] * 2
    base = {**BASE, "validation loss": loss["high"]}
    assert compare_arms(config, base, {"curated": better, "random": worse}).verdict == "better"
    assert compare_arms(config, base, {"curated": worse, "random": better}).verdict == "worse"


def test_a_metric_without_a_better_direction_gets_no_verdict() -> None:
    arms = {"curated": [model(0.5, tokens=50.0)] * 2, "random": [model(0.5, tokens=150.0)] * 2}
    result = {one.metric: one for one in compare_arms(CONFIG, BASE, arms).figures["curated"]}
    assert result["tokens per answer"].to_random is not None
    assert result["tokens per answer"].to_random.value == -100
    assert result["tokens per answer"].verdict == ""


@pytest.mark.parametrize(
    ("change", "fallen"),
    [
        ({}, set()),
        ({"prose": 3.09}, set()),
        ({"prose": 3.2}, {"NLL of prose"}),
        ({"code": 2.2}, {"NLL of code"}),
        ({"facts": 0.52}, set()),  # 0.08 over two capabilities is 0.04
        ({"facts": 0.48}, {"forgetting"}),
        ({"facts": 0.48, "sums": 1.0}, {"forgetting"}),  # a gain does not make up for a loss
        ({"opening": 0.3}, {"opening concentration"}),
        ({"paraphrase": 0.6}, {"paraphrase consistency"}),
        ({"paraphrase": 1.0, "opening": 0.0, "prose": 1.0}, set()),
        ({"tokens": 999.0}, set()),
    ],
)
def test_a_guard_falls_beyond_its_limit_and_only_for_the_worse(change: dict[str, float], fallen: set[str]) -> None:
    curated = [model(0.6, **change)] * 2
    result = compare_arms(CONFIG, BASE, {"curated": curated, "random": [model(0.2)] * 2})
    assert {guard.name for guard in result.guards if not guard.holds} == fallen
    assert result.verdict == "better"
    assert result.is_proved is not bool(fallen)


def test_guards_are_the_mean_over_seeds() -> None:
    result = guards(CONFIG, BASE, [model(0.5, prose=3.0), model(0.5, prose=3.3)])
    assert next(one.change for one in result if one.name == "NLL of prose") == pytest.approx(0.15)
    assert not Guard("x", float("nan"), 1.0).holds


@settings
class Tables:
    """A document with our table alone."""

    prove: ProveConfig = CONFIG


@pytest.mark.parametrize(
    ("table", "message"),
    [
        ({"arms": ["curated"]}, r"\[prove\] arms must be a list that contains curated and random, which are compared"),
        ({"arms": ["curated", "random", "best"]}, r"\[prove\] arms must be names among curated, .*; 'best' is unknown"),
        ({"seeds": 1}, r"\[prove\] seeds must be greater than or equal to 2, got 1"),
        ({"target": "beauty"}, r"\[prove\] target must be 'following strict prompt', .* got 'beauty'"),
    ],
)
def test_invalid_settings_are_refused_in_one_line(table: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message) as raised:
        parse(Tables, {"prove": table})
    assert "\n" not in str(raised.value)


def test_a_target_that_the_suite_does_not_measure_is_refused() -> None:
    suite = Suite({"following": ()}, 0, ())
    with pytest.raises(ConfigError, match=r"needs IFEval's file; name it in \[evaluation\] ifeval"):
        check_target(replace(CONFIG, target="ifeval strict prompt"), suite)
    with pytest.raises(ConfigError, match=r"needs validation rows; set \[run\] validation above 0"):
        check_target(replace(CONFIG, target="validation loss"), suite)
    check_target(CONFIG, suite)


def run_of(folder: Path) -> RunFolder:
    """Return a run of 4 seeds and 12 candidates, whose curated set has 5 rows for training, one rewritten, and 1 held out."""
    run = RunFolder(folder)
    run.create()
    seeds = [{"id": f"s{n}", "instruction": f"Seed {n}", "response": f"S{n}", "source": "seed"} for n in range(4)]
    built = [
        {"id": f"g{n:02}", "instruction": f"Task {n}", "response": "long " * n + "word", "source": "generated"}
        for n in range(12)
    ]
    built[7]["response"] = " "
    table = table_of([*seeds, *built])
    run.write_stage(2, "generate", "f", table, pl.DataFrame(schema={**table.schema, **VERDICT}))
    chosen = table.filter(pl.col("id").is_in([f"g{n:02}" for n in range(6)])).with_columns(
        original_response=pl.when(pl.col("id") == "g01").then(pl.lit("Before rewriting.")).otherwise(None),
    )
    twin = {
        "stage": "near_duplicates",
        "reason": "near_duplicate",
        "evidence": "",
        "measured": 0.9,
        "limit": 0.7,
        "twin": "g05",
    }
    lost = table.filter(pl.col("id") == "g11").with_columns(**{name: pl.lit(value) for name, value in twin.items()})
    run.write_stage(3, "style", "f", chosen, lost)
    lines = [
        {"id": row["id"], "split": "validation" if row["id"] == "g05" else "train",
         "messages": [{"role": "user", "content": row["instruction"]}, {"role": "assistant", "content": row["response"]}]}
        for row in chosen.iter_rows(named=True)
    ]  # fmt: skip
    run.curated.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return run


def test_arms_have_one_size_and_no_row_that_is_held_out_nor_its_near_duplicate(tmp_path: Path) -> None:
    arms = {arm.name: arm for arm in arms_of(run_of(tmp_path), tuple(ARMS), 0)}
    assert list(arms) == list(ARMS)
    assert {len(arm.rows) for arm in arms.values()} == {5}
    ids = {name: [row["id"] for row in arm.rows] for name, arm in arms.items()}
    assert ids["curated"] == ids["unrewritten"] == ["g00", "g01", "g02", "g03", "g04"]
    assert ids["longest"] == [
        "g10",
        "g09",
        "g08",
        "g06",
        "g04",
    ]  # g11 is a duplicate of g05, which is held out; g07 is blank
    assert ids["seeds"] == ["s0", "s1", "s2", "s3", "s0/1"]
    assert arms["seeds"].distinct == 4
    assert set(ids["random"]) <= {f"g{n:02}" for n in range(12)} - {"g05", "g07", "g11"}
    assert len(set(ids["random"])) == 5


def test_the_unrewritten_arm_has_the_responses_before_rewriting(tmp_path: Path) -> None:
    curated, unrewritten = arms_of(run_of(tmp_path), ["curated", "unrewritten"], 0)
    answers = [[row["messages"][-1]["content"] for row in arm.rows] for arm in (curated, unrewritten)]
    assert answers[0][0] == answers[1][0]
    assert (answers[0][1], answers[1][1]) == ("long word", "Before rewriting.")


def test_random_rows_differ_by_seed_and_repeat_for_one(tmp_path: Path) -> None:
    run = run_of(tmp_path)
    drawn = [[row["id"] for row in arms_of(run, ["random"], seed)[0].rows] for seed in (0, 0, 1, 2)]
    assert drawn[0] == drawn[1]
    assert len({tuple(one) for one in drawn}) == 3


def test_an_edit_by_hand_is_in_the_curated_arm(tmp_path: Path) -> None:
    run = run_of(tmp_path)
    run.curated.write_text(run.curated.read_text().replace("Task 3", "Task 3, edited"))
    (curated,) = arms_of(run, ["curated"], 0)
    assert curated.rows[3]["messages"][0]["content"] == "Task 3, edited"


def test_a_run_whose_generation_is_not_finished_is_refused(tmp_path: Path) -> None:
    run = run_of(tmp_path)
    run.stage_file(2, "generate").unlink()
    with pytest.raises(DataError) as error:
        arms_of(run, ["curated"], 0)
    assert error.value.code == "KS501"


def test_the_output_has_the_verdict_each_guard_and_every_arm() -> None:
    arms = {"curated": [model(0.6, prose=3.4)] * 2, "random": [model(0.2)] * 2, "longest": [model(0.1)] * 2}
    result = compare_arms(CONFIG, BASE, arms)
    console = Console(file=io.StringIO(), width=120)
    show_proof(result, Path("runs/x/prove"), console)
    output = console.file.getvalue()  # type: ignore[attr-defined]
    assert "curated rows compared with random rows on following strict prompt: better" in output
    assert "guard NLL of prose: +0.400 for the worse, 0.1 allowed: FAILS" in output
    assert "guard forgetting: +0.000 for the worse, 0.05 allowed: holds" in output
    lines = [line for line in output.splitlines() if "longest" in line]
    assert "-0.100" in lines[0]
    assert "worse" in lines[0]
