"""`kiloset preview`: the first rows of a run, which the run repeats from its store."""

import json
import math
from contextlib import closing

import polars as pl
import pytest

from kiloset.core.calls import CallStore
from kiloset.core.config import parse
from kiloset.core.errors import ConfigError
from kiloset.core.progress import Silent
from kiloset.core.run import RunFolder
from kiloset.generator.planning import WHOLE_TASK_YIELD, count_instructions
from kiloset.inputs import read_inputs
from kiloset.plan.evidence import find_evidence
from kiloset.previewing import plan_preview, preview_run
from kiloset.settings import RunConfig
from kiloset.verify.settings import CHECKS
from tests import fake_run
from tests.fake_run import FakeModels, Halt, Moments
from tests.fakes import FakeEngine, plausible

TABLE = {
    **fake_run.TABLE,
    "categories": {"target": {"maths": 1, "open_qa": 1, "summarising": 1}},
    "generate": {"max_response_tokens": 96, "candidates_per_row": 1.5, "prompt_style": "continue", "least_yield": 0},
}


def previewed(folder, models=None, *, rows=10, table=TABLE):
    config = parse(RunConfig, table)
    return preview_run(config, read_inputs(config), RunFolder(folder), models or FakeModels(), rows, Silent())


def texts(*frames):
    """Return the ids and instructions of generated rows."""
    rows = pl.concat([frame.select("id", "instruction", "source") for frame in frames])
    return dict(rows.filter(pl.col("source") == "generated").select("id", "instruction").rows())


def waves(folder):
    with closing(CallStore.read_only(folder / "calls.sqlite")) as store:
        return store.waves()


def test_a_run_continues_from_its_preview_and_sends_nothing_twice(tmp_path):
    folder, first, second = tmp_path / "r", FakeModels(), FakeModels()
    preview = previewed(folder, first)
    assert preview.requests == len(first.engine.sent) > 0
    assert preview.tokens > 0
    assert preview.kept.height + preview.dropped.height == 20
    assert 5 <= preview.kept.height <= 15
    assert set(preview.kept["category"]) == {"maths", "open_qa", "summarising"}
    assert preview.dropped["reason"].null_count() == preview.dropped["evidence"].null_count() == 0
    assert "generate" not in RunFolder(folder).manifest.get("stages", {})
    assert not list(folder.glob("*.parquet"))
    result = fake_run.run(folder, table=TABLE, models=second)
    assert result.shortfall == {}
    assert result.rows == 12
    assert not set(first.engine.sent) & set(second.engine.sent)
    run = RunFolder(folder)
    everything = texts(run.dropped(), run.stages()[-1][1])
    previewed_texts = texts(preview.kept, preview.dropped)
    assert previewed_texts.items() <= everything.items()
    with closing(CallStore.read_only(folder / "calls.sqlite")) as store:
        assert store.resent_after_completion() == 0


def test_a_second_preview_sends_nothing_and_shows_the_same_rows(tmp_path):
    folder, again = tmp_path / "r", FakeModels()
    first, second = previewed(folder), previewed(folder, again)
    assert again.engine.prompts == {}
    assert (second.requests, second.tokens) == (0, 0)
    assert second.kept.equals(first.kept)
    assert second.dropped.equals(first.dropped)
    smaller = previewed(folder, again, rows=2)
    assert again.engine.prompts == {}
    assert smaller.kept.height + smaller.dropped.height == 4
    assert texts(smaller.kept, smaller.dropped).items() <= texts(first.kept, first.dropped).items()


def test_a_preview_of_a_finished_run_sends_nothing_and_changes_nothing(finished):
    def content():
        return {path.name: path.read_bytes() for path in finished.iterdir() if path.is_file()}

    before, models, run = content(), FakeModels(), RunFolder(finished)
    preview = previewed(finished, models, rows=4, table=fake_run.TABLE)
    assert models.engine.prompts == {}
    assert content() == before
    assert (preview.requests, preview.unfinished) == (0, 0)
    assert preview.kept.height + preview.dropped.height == 8
    assert {*preview.kept["category"], *preview.dropped["category"]} == {"maths", "open_qa", "summarising"}
    assert texts(preview.kept, preview.dropped).items() <= texts(run.dropped(), run.stages()[-1][1]).items()
    assert set(preview.kept["id"]) <= set(run.stages()[1][1]["id"])


def test_a_plan_after_a_preview_uses_its_yields(tmp_path):
    config, folder = parse(RunConfig, TABLE), RunFolder(tmp_path / "runs" / "r")
    for _ in range(2):
        preview = previewed(folder.path)
        evidence = find_evidence(config, folder, tmp_path / "runs")
        assert evidence.origin == "this run so far"
        assert sum(measured.requested for measured in evidence.yields.values()) == 20
        assert sum(measured.accepted for measured in evidence.yields.values()) == preview.kept.height
        assert set(evidence.following) == set(evidence.yields)
        assert folder.manifest["preview"]["seconds"] > 0


def test_an_interrupted_preview_resumes(tmp_path):
    def stop():
        raise Halt

    whole, halted, rest = FakeModels(), FakeModels(Moments(40, stop)), FakeModels()
    preview = previewed(tmp_path / "whole", whole)
    with pytest.raises(Halt):
        previewed(tmp_path / "r", halted)
    resumed = previewed(tmp_path / "r", rest)
    assert halted.engine.sent
    assert rest.engine.sent
    assert not set(halted.engine.sent[:-1]) & set(rest.engine.sent)
    assert resumed.kept.equals(preview.kept)
    assert resumed.dropped.equals(preview.dropped)


def test_a_preview_of_an_interrupted_run_names_the_rows_that_are_unfinished(tmp_path):
    def stop():
        raise Halt

    with pytest.raises(Halt):
        fake_run.run(tmp_path / "r", moments=Moments(80, stop))
    models = FakeModels()
    preview = previewed(tmp_path / "r", models, rows=3, table=fake_run.TABLE)
    assert models.engine.prompts == {}
    assert preview.unfinished > 0
    assert "prompt_too_long" not in set(preview.dropped["reason"])
    with closing(CallStore.read_only(tmp_path / "r" / "calls.sqlite")) as store:
        sent = sum(each["sent"] for each in store.account().values())
    assert previewed(tmp_path / "r", models, rows=3, table=fake_run.TABLE).unfinished == preview.unfinished
    with closing(CallStore.read_only(tmp_path / "r" / "calls.sqlite")) as store:
        assert sum(each["sent"] for each in store.account().values()) == sent


def test_instructions_are_spread_over_categories_and_strategies():
    weights = {"self_instruct": 0.7, "evolve": 0.1, "constraint": 0.2, "magpie": 0.0}
    plan = plan_preview(20, {f"c{number:02d}": 10 for number in range(12)}, weights, 2.0, 0.5)
    assert count_instructions(plan) == 20
    assert {sum(strategies.values()) for strategies in plan.values()} == {1, 2}
    counts = {name: sum(strategies.get(name, 0) for strategies in plan.values()) for name in weights}
    assert counts == {"self_instruct": 14, "evolve": 2, "constraint": 4, "magpie": 0}
    few = plan_preview(20, {"large": 30, "small": 1}, {"self_instruct": 1.0}, 1.5, 0.5)
    assert few == {"large": {"self_instruct": 17}, "small": {"self_instruct": 3}}
    assert plan_preview(20, {}, weights, 2.0, 0.5) == {}


@pytest.mark.parametrize(
    ("changes", "rows", "message"),
    [
        ({"generate": {"enabled": False}}, 10, "generate.enabled is false"),
        ({}, 0, "rows must be 1 or more, got 0"),
    ],
)
def test_what_cannot_be_previewed_is_refused(tmp_path, changes, rows, message):
    with pytest.raises(ConfigError, match=message):
        previewed(tmp_path / "r", rows=rows, table={**TABLE, **changes})
    assert not (tmp_path / "r").exists()


def test_a_preview_stays_within_the_budget_and_the_size_of_the_run(tmp_path):
    models = FakeModels()
    previewed(tmp_path / "few", models, table={**TABLE, "generate": {"max_requests": 11, "prompt_style": "continue"}})
    assert 0 < len(models.engine.sent) <= 11
    previewed(tmp_path / "small", table={**TABLE, "run": {"size": 3}})
    assert sum(count_instructions(wave) for wave in waves(tmp_path / "small")) == 6


def test_a_folder_of_another_config_is_refused(tmp_path):
    fake_run.run(tmp_path / "r", table=TABLE)
    for rows in (1, 10):
        with pytest.raises(ConfigError):
            previewed(tmp_path / "r", rows=rows, table={**TABLE, "run": {"size": 13}})


class Commanded(FakeModels):
    """The fakes, as the command opens them."""

    def __init__(self, *_):
        super().__init__()
        self.engine.answer = self._answer

    def _answer(self, key, request):
        text, reason = plausible(key, request)
        is_hostile = request.purpose == "response" and int(key, 16) % 2
        return text + "\x1b[31m" * is_hostile, reason

    def close(self):
        pass


def arguments(folder):
    settings = {"run.size": 12, "seeds.path": fake_run.TABLE["seeds"]["path"], "generate.max_response_tokens": 96,
                "verify.samples": 0, "verify.off": json.dumps(list(CHECKS))}  # fmt: skip
    set_ = [part for key, value in settings.items() for part in ("--set", f"{key}={value}")]
    return ("preview", "--runs", folder, "--run", "mine", "--progress", "none", *set_)


def test_the_command_prints_rows_that_cannot_control_a_terminal(kiloset, monkeypatch, tmp_path):
    monkeypatch.setattr("kiloset.models.RunModels", Commanded)
    ran = kiloset(*arguments(tmp_path), "--rows", "6")
    assert (ran.returncode, ran.stderr) == (0, "")
    assert "\x1b" not in ran.stdout
    assert "\\x1b[31m" in ran.stdout
    summary = ran.stdout.splitlines()[-1]
    assert summary.startswith("mine: ")
    assert " tokens; `kiloset dataset` with the same options continues from here" in summary
    kept, dropped = (int(part.split()[-2]) for part in summary.split(", ")[:2])
    assert kept + dropped == math.ceil(6 / WHOLE_TASK_YIELD)
    assert ran.stdout.count("  dropped: ") == dropped
    assert kept > 0
    printed = json.loads(kiloset(*arguments(tmp_path), "--rows", "6", "--json").stdout)
    assert (len(printed["kept"]), len(printed["dropped"]), printed["requests"]) == (kept, dropped, 0)
    assert {"id", "category", "instruction", "input", "response"} <= {*printed["kept"][0]}


def test_bad_input_is_refused_in_one_line(kiloset, tmp_path):
    for more in (("--set", "generate.enabled=false"), ("--set", "generate.tempratur=1"), ("--rows", "0")):
        ran = kiloset(*arguments(tmp_path), *more)
        assert (ran.returncode, ran.stdout) == (2, "")
        assert len(ran.stderr.splitlines()) == 1
    assert not (tmp_path / "mine").exists()


def test_the_function_and_the_command_preview_the_same_run(monkeypatch, tmp_path):
    import kiloset as package

    class Plain(FakeModels):
        def __init__(self, *_):
            super().__init__(None)
            assert isinstance(self.engine, FakeEngine)

        def close(self):
            pass

    monkeypatch.setattr("kiloset.models.RunModels", Plain)
    common = {"size": 12, "seeds": fake_run.TABLE["seeds"]["path"], "runs": tmp_path,
              "settings": {"verify.samples": 0, "verify.off": list(CHECKS)}}  # fmt: skip
    preview = package.preview(rows=4, **common)
    run = package.make_dataset(**common)
    assert preview.requests > 0
    assert [path.name for path in tmp_path.iterdir()] == [run.path.name]
    assert texts(preview.kept, preview.dropped).items() <= texts(run.dropped, run.folder.stages()[-1][1]).items()
