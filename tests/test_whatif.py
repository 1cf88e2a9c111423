"""Judging a finished run again under other settings."""

import json
from contextlib import closing

import polars as pl
import pytest

from kiloset.core.calls import CallStore
from kiloset.core.config import parse_overrides
from kiloset.core.errors import ConfigError, DataError
from kiloset.core.progress import Silent
from kiloset.core.run import RunFolder
from kiloset.filters.near_duplicates import NearDuplicatesConfig, drop_near_duplicates
from kiloset.filters.rules import RulesConfig, drop_by_rules
from kiloset.recipe import STAGE_NAMES
from kiloset.whatif import what_if
from tests import fake_run
from tests.fakes import FakeEmbedder

NAMES = "Ada Ben Cleo Dan Eve Finn Gus Hal Ida Jon Kim Lea Max Ned Ona Pat".lower().split()


@pytest.fixture(scope="module")
def pooled(tmp_path_factory):
    """A run over a pool in which every task stands three times, the copies with two words and with five words changed."""
    folder = tmp_path_factory.mktemp("pooled")
    rows = []
    for name in NAMES:
        words = f"please tell {name} in a few plain words how {name * 2} cooked the {name * 3} soup for all of the old {name}".split()
        for other in (
            words,
            [*words[:-2], "grey", "cats"],
            [*words[:6], "odd", "red", *words[8:-3], "tall", "grey", "cats"],
        ):
            rows.append(
                {"instruction": " ".join(other), "response": f"It was {name} and {len(rows)}.", "category": "maths"}
            )
    path = folder / "pool.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    table = {**fake_run.TABLE, "pool": {"path": str(path)}, "generate": {"enabled": False}}
    fake_run.run(folder / "run", table=table)
    return folder / "run"


def judged(folder, *settings):
    return what_if(RunFolder(folder), parse_overrides(settings), lambda *_: FakeEmbedder(), Silent())


def stored(folder, stage):
    """The rows a stage kept."""
    number = STAGE_NAMES.index(stage) + 1
    return pl.read_parquet(folder / f"{number:02d}-{stage}.parquet")


def kept(difference, stage):
    return next((then, now) for name, then, now, _ in difference.stages if name == stage)


def test_the_runs_own_settings_give_what_the_run_gave(undisturbed):
    folder, *_ = undisturbed
    difference = judged(folder, "rules.max_response_words=100000")
    assert not difference.moved
    assert difference.changed.is_empty()
    assert [(name, then) for name, then, _, _ in difference.stages] == [
        (name, stored(folder, name).height) for name, *_ in difference.stages
    ]
    assert all(then == now for _, then, now, _ in difference.stages)
    selected = stored(folder, "select").height
    assert difference.selected == (selected, selected, selected)


@pytest.mark.parametrize("threshold", [0.5, 0.9])
def test_another_threshold_is_judged_as_the_stage_itself_would(pooled, threshold):
    difference = judged(pooled, f"near_duplicates.threshold={threshold}")
    before = stored(pooled, "rules")
    then = drop_near_duplicates(before, NearDuplicatesConfig(), seed=0)
    now = drop_near_duplicates(before, NearDuplicatesConfig(threshold=threshold), seed=0)
    assert kept(difference, "near_duplicates") == (then.kept.height, now.kept.height)
    assert (now.kept.height < then.kept.height) is (threshold < 0.7)
    assert (now.kept.height > then.kept.height) is (threshold > 0.7)
    returned = set(then.dropped["id"]) - set(now.dropped["id"])
    fates = {row["id"]: row for row in difference.changed.iter_rows(named=True)}
    assert returned <= set(fates)
    assert all(fates[id]["then"].startswith("near_duplicate: Jaccard 0.") for id in returned)
    for id in set(now.dropped["id"]) - set(then.dropped["id"]):
        assert fates[id]["now"].startswith("near_duplicate: Jaccard 0.")


def test_a_stricter_rule_changes_all_stages_after_it_and_gives_the_reason(undisturbed):
    folder, *_ = undisturbed
    limit = int(stored(folder, "select")["response"].str.split(" ").list.len().max()) - 1
    difference = judged(folder, f"rules.max_response_words={limit}")
    strict = drop_by_rules(stored(folder, "generate"), RulesConfig(max_response_words=limit))
    assert kept(difference, "rules")[1] == strict.kept.height < stored(folder, "rules").height
    gone = difference.changed.filter(pl.col("now").str.starts_with("response_too_long: "))
    assert gone.height
    assert gone["now"].str.contains(rf"words \(limit {limit}").all()
    assert difference.selected[0] > difference.selected[2]


def test_instructions_that_never_got_an_answer_are_counted_apart(undisturbed):
    folder, *_ = undisturbed
    ledger = pl.read_parquet(folder / "dropped.parquet").filter(pl.col("stage") == "generate")
    short = ledger.filter(pl.col("reason") == "instruction_too_short").height
    difference = judged(folder, "rules.min_instruction_words=1")
    assert difference.unasked <= short
    assert judged(folder, "rules.off=['instruction_too_short', 'instruction_too_long']").unasked >= difference.unasked


def test_nothing_in_the_folder_changes(finished):
    def content():
        return {path.name: path.read_bytes() for path in finished.iterdir() if path.is_file()}

    before = content()
    judged(finished, "near_duplicates.threshold=0.4", "select.max_cosine=0.5")
    assert content() == before


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (["near_duplicates.threshold=0.7"], "nothing is changed"),
        ([], "nothing is changed"),
        (
            ["generate.temperature=0.1"],
            "generate.temperature: this setting changes what models write; only [contamination], [",
        ),
        (["near_duplicates.threshold=7"], r"\[near_duplicates\] threshold must be less than or equal to 1"),
        (["near_duplicates.treshold=0.8"], "did you mean 'threshold'"),
    ],
)
def test_what_cannot_be_judged_is_refused(undisturbed, settings, message):
    with pytest.raises(ConfigError, match=message.replace("only [contamination], [", r"only \[contamination\], \[")):
        judged(undisturbed[0], *settings)


def test_a_run_that_is_not_that_far_is_refused(finished):
    number = STAGE_NAMES.index("select") + 1
    (finished / f"{number:02d}-select.parquet").unlink()
    with pytest.raises(DataError, match="not selected yet"):
        judged(finished, "near_duplicates.threshold=0.8")


def test_a_new_run_from_another_pays_for_nothing_twice(undisturbed, tmp_path):
    folder = RunFolder(tmp_path / "other")
    folder.create()
    with closing(CallStore.read_only(undisturbed[0] / "calls.sqlite")) as store:
        store.copy_to(folder.calls)
        paid = store.account()
    table = {**fake_run.TABLE, "select": {"temper": 0.0}}
    models = fake_run.FakeModels()
    fake_run.run(folder.path, table=table, models=models)
    with closing(CallStore(folder.calls)) as store:
        assert store.resent_after_completion() == 0
        for purpose in ("instruction", "input", "response"):
            if purpose in paid:
                assert store.account()[purpose]["sent"] == paid[purpose]["sent"]
    balanced = stored(folder.path, "select")
    difference = judged(undisturbed[0], "select.temper=0.0")
    assert difference.selected[1] == balanced.height
