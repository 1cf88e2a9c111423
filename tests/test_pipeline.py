import hashlib
import json
import math
import os
import re
import shutil
import subprocess
import sys
from contextlib import ExitStack, closing

import polars as pl
import pytest

from kiloset.audit.run_audit import audit
from kiloset.core.calls import CallStore
from kiloset.core.config import parse
from kiloset.core.errors import ConfigError, DataError, EmptyError
from kiloset.core.progress import Silent
from kiloset.core.run import RunFolder, last_verdict
from kiloset.core.table import table_of, with_verdicts
from kiloset.generator.settings import PURPOSES
from kiloset.inputs import read_inputs
from kiloset.models import embedder_of
from kiloset.recipe import RECIPE
from kiloset.runner import begin, probe, reuse_completions, with_first_verdicts
from kiloset.settings import RunConfig
from tests import fake_run
from tests.fake_run import FakeModels, Halt, Moments
from tests.fakes import FakeScorer, plausible
from tests.paths import ROOT

PARTS = (0.15, 0.5, 0.9)


def _bytes(folder):
    """The bytes of everything a run promises to repeat: not the clock in the manifest, not the database's pages."""
    files = sorted([
        *folder.glob("*.parquet"), *folder.glob("*.safetensors"), folder / "curated.jsonl", folder / "config.toml",
    ])  # fmt: skip
    return {file.name: file.read_bytes() for file in files}


def _curated(folder):
    return [json.loads(line) for line in (folder / "curated.jsonl").read_text(encoding="utf-8").splitlines()]


def _halted(folder, at, monkeypatch):
    """Run until moment `at`, where it stops dead; return whether it came that far."""

    def stop():
        raise Halt

    moments = Moments(at, stop)
    with monkeypatch.context() as patch:
        patch.setattr(os, "replace", os.replace)
        fake_run.count_renames(moments)
        try:
            fake_run.run(folder, moments=moments)
        except Halt:
            return True
    return False


def test_a_run_gives_exactly_the_rows_asked_for_in_the_categories_asked_for(undisturbed):
    folder, result, _ = undisturbed
    rows = _curated(folder)
    assert len(rows) == result.rows == 12
    assert result.shortfall == {}
    assert {row["category"] for row in rows} <= {"maths", "open_qa", "summarising"}
    assert all(row["source"] == "generated" and row["license"] == "Apache-2.0" for row in rows)
    assert sum(row["split"] == "validation" for row in rows) == 3
    assert all([turn["role"] for turn in row["messages"]] == ["user", "assistant"] for row in rows)


def test_every_row_is_kept_or_dropped_exactly_once(undisturbed):
    folder, *_ = undisturbed
    run = RunFolder(folder)
    seeds = {f"s{number:04d}" for number in range(1, 33)}
    ledger, (_, last) = run.dropped(), run.stages()[-1]
    everything = ledger["id"].to_list() + last["id"].to_list()
    assert len(everything) == len(set(everything))
    assert set(run.stages()[0][1]["id"]) == seeds
    assert not seeds & set(everything)  # shown to the model, and neither in the set nor dropped
    numbers = sorted(int(id[1:]) for id in everything if id.startswith("g"))
    assert numbers == list(range(1, len(numbers) + 1))
    assert ledger["reason"].null_count() == ledger["evidence"].null_count() == 0


def test_the_manifest_adds_up(undisturbed):
    folder, *_ = undisturbed
    stages = RunFolder(folder).manifest["stages"]
    assert list(stages) == [stage.name for stage in RECIPE]
    before = 0
    for stage in stages.values():
        assert stage["in"] == before
        assert stage["in"] + stage["born"] == stage["kept"] + stage["set_aside"] + sum(stage["dropped"].values())
        before = stage["kept"]


@pytest.mark.slow
def test_the_same_run_twice_gives_the_same_bytes(undisturbed, tmp_path):
    folder, *_ = undisturbed
    fake_run.run(tmp_path / "again")
    assert _bytes(tmp_path / "again") == _bytes(folder)


def test_running_again_sends_nothing_and_changes_nothing(undisturbed):
    folder, *_ = undisturbed
    before, models = _bytes(folder), FakeModels(Moments(1, lambda: pytest.fail("a model was used")))
    fake_run.run(folder, models=models)
    assert _bytes(folder) == before


@pytest.mark.slow
def test_a_run_halted_at_any_moment_continues_to_the_same_bytes_and_pays_nothing_twice(
    undisturbed, tmp_path, monkeypatch
):
    folder, _, moments = undisturbed
    for at in range(1, moments, moments // 6):
        here = tmp_path / f"halted-{at}"
        assert _halted(here, at, monkeypatch)
        fake_run.run(here)
        assert _bytes(here) == _bytes(folder), f"halted at moment {at} of {moments}"
        store = CallStore(here / "calls.sqlite")
        assert store.resent_after_completion() == 0
        store.close()


@pytest.fixture(scope="module", autouse=True)
def killed(undisturbed, tmp_path_factory):
    """By the part of its completions after which it ends: a run's folder, and its process; they run beside the other tests."""
    folder, *_ = undisturbed
    with closing(CallStore(folder / "calls.sqlite")) as store:
        total = sum(purpose["completed"] for purpose in store.account().values())
    runs = {}
    with ExitStack() as processes:
        for part in PARTS:
            here = tmp_path_factory.mktemp("killed") / "run"
            command = [sys.executable, "-m", "tests.fake_run", str(here), str(int(total * part))]
            process = subprocess.Popen(command, cwd=ROOT, stderr=subprocess.PIPE, text=True)
            runs[part] = here, processes.enter_context(process)
        yield runs


@pytest.mark.parametrize("part", PARTS)
def test_a_run_killed_with_sigkill_continues_to_the_same_bytes(undisturbed, killed, part):
    folder, *_ = undisturbed
    here, process = killed[part]
    assert process.wait() == -9, process.stderr.read()
    fake_run.run(here)
    assert _bytes(here) == _bytes(folder)


def test_a_torn_stage_file_is_made_anew(undisturbed, finished):
    folder, *_ = undisturbed
    whole = (finished / "05-near_duplicates.parquet").read_bytes()
    (finished / "05-near_duplicates.parquet").write_bytes(whole[: len(whole) // 2])
    fake_run.run(finished)
    assert _bytes(finished) == _bytes(folder)


def test_a_set_edited_by_hand_is_left_as_it_is(finished):
    file = finished / "curated.jsonl"
    edited = "\n".join(file.read_text(encoding="utf-8").splitlines()[:5]) + "\n"
    file.write_text(edited, encoding="utf-8")
    assert fake_run.run(finished).edited
    assert file.read_text(encoding="utf-8") == edited
    file.unlink()
    assert not fake_run.run(finished).edited
    assert len(_curated(finished)) == 12


def test_a_folder_of_another_config_is_refused(undisturbed):
    folder, *_ = undisturbed
    other = {**fake_run.TABLE, "run": {"size": 13, "validation": 0.25}}
    with pytest.raises(ConfigError, match=r"another config: \[run\] size = 12 there, 13 here"):
        fake_run.run(folder, table=other)


@pytest.mark.slow
def test_a_budget_too_small_still_writes_the_set_and_names_what_is_short(tmp_path):
    short = {**fake_run.TABLE, "generate": {"max_requests": 24}}
    result = fake_run.run(tmp_path / "short", table=short)
    assert 0 < result.rows < 12
    assert sum(result.shortfall.values()) >= 12 - result.rows
    assert len(_curated(tmp_path / "short")) == result.rows


class Picky(FakeScorer):
    """Cannot read most rows: what only shows when everything before is paid."""

    def __init__(self, reads=102):
        self.reads = reads  # of 256

    def logprobs(self, prompts, responses):
        for at, nats, tokens in super().logprobs(prompts, responses):
            lucky = hashlib.sha256(prompts[at][0]["content"].encode()).digest()[0] < self.reads
            yield at, nats if lucky else math.nan, tokens


NO_FILL = {
    **fake_run.TABLE,
    "categories": {"target": {"maths": 1, "open_qa": 1, "summarising": 2}},
    "generate": {"max_response_tokens": 96, "candidates_per_row": 1.5},
}


def _picky(order=0, reads=102):
    models = FakeModels()
    models.scorer._model = Picky(reads)
    models.engine.order = order
    return models


@pytest.mark.slow
def test_where_later_stages_take_rows_away_generation_goes_back_for_them(tmp_path):
    table = {**NO_FILL, "generate": {**NO_FILL["generate"], "candidates_per_row": 1.0}}
    fake_run.run(tmp_path / "plain", table=table)
    models = _picky(reads=64)
    result = fake_run.run(tmp_path / "picky", table=table, models=models)
    assert result.got == result.wanted == {"maths": 3, "open_qa": 3, "summarising": 6}
    assert (result.ended, result.shortfalls) == ("done", ())
    lost = [reasons.get("too_long_for_base", 0) for reasons in result.dropped.values()]
    assert sum(lost) > 6
    assert result.dropped["rewrite"]["too_long_for_base"] > 0  # lost once, and not selected again
    with closing(CallStore(tmp_path / "plain" / "calls.sqlite")) as store:
        first_pass = store.waves()
    with closing(CallStore(tmp_path / "picky" / "calls.sqlite")) as store:
        waves = store.waves()
        assert store.resent_after_completion() == 0
    assert waves[: len(first_pass)] == first_pass  # up to selection nothing differs
    assert len(waves) > len(first_pass)
    sent = len(models.engine.sent)
    again = _picky(reads=64)
    fake_run.run(tmp_path / "picky", table=table, models=again)
    assert (again.engine.sent, sent) == ([], sent)


@pytest.mark.slow
def test_a_run_that_went_back_is_the_same_after_a_halt_and_from_its_stored_completions(tmp_path):
    whole, moments = tmp_path / "whole", Moments()
    models = FakeModels(moments)
    models.scorer._model = Picky()
    fake_run.run(whole, table=NO_FILL, models=models)

    def stop():
        raise Halt

    halted = FakeModels(Moments(int(moments.count * 0.85), stop))
    halted.scorer._model = Picky()
    with pytest.raises(Halt):
        fake_run.run(tmp_path / "halted", table=NO_FILL, models=halted)
    fake_run.run(tmp_path / "halted", table=NO_FILL, models=_picky(order=3))
    assert _bytes(tmp_path / "halted") == _bytes(whole)
    replayed, models = tmp_path / "replayed", _picky()
    replayed.mkdir()
    shutil.copy(whole / "calls.sqlite", replayed / "calls.sqlite")
    fake_run.run(replayed, table=NO_FILL, models=models)
    assert models.engine.sent == []
    assert _bytes(replayed) == _bytes(whole)


@pytest.fixture(scope="module")
def fell_short(tmp_path_factory):
    """A run that ended short of rows: its folder, its result and its models."""
    table = {**NO_FILL, "generate": {**NO_FILL["generate"], "max_requests": 60}}
    folder, models = tmp_path_factory.mktemp("runs") / "short", _picky()
    return folder, fake_run.run(folder, table=table, models=models), models


@pytest.mark.slow
def test_a_shortfall_is_reported_with_its_reasons_and_its_cost(fell_short):
    folder, result, _ = fell_short
    assert result.ended == "max_requests"
    run = RunFolder(folder)
    everything = pl.concat([run.dropped(), run.stages()[-1][1]], how="diagonal_relaxed")
    for short in result.shortfalls:
        rows = everything.filter((pl.col("category") == short.category) & (pl.col("source") == "generated"))
        assert short.got == result.got.get(short.category, 0) < short.wanted
        assert short.requested == rows.height == short.got + sum(short.losses.values())
        if short.got:
            generated_rows = everything.filter(pl.col("source") == "generated").height
            requests = sum(each["completed"] for name, each in run.manifest["calls"].items() if name in PURPOSES)
            rows_needed = math.ceil((short.wanted - short.got) * short.requested / short.got)
            assert short.more_requests == math.ceil(rows_needed * requests / generated_rows)
    assert {short.category for short in result.shortfalls} == set(result.shortfall)


def test_a_probe_is_the_first_wave_of_the_run_and_costs_nothing_again(tmp_path):
    config = parse(RunConfig, NO_FILL)
    inputs, first, second = read_inputs(config), FakeModels(), FakeModels()
    evidence = probe(config, inputs, RunFolder(tmp_path / "r"), first, Silent())
    with closing(CallStore(tmp_path / "r" / "calls.sqlite")) as store:
        (wave,) = store.waves()
        assert store.spent(PURPOSES)[0] == len(first.engine.sent)
    assert evidence.origin == f"a probe of {len(first.engine.sent)} requests"
    assert {name: measured.requested for name, measured in evidence.yields.items()} == dict.fromkeys(
        config.generate.strategies, 12
    )
    assert wave == {name: dict.fromkeys(config.generate.strategies, 4) for name in ("maths", "open_qa", "summarising")}
    assert fake_run.run(tmp_path / "r", table=NO_FILL, models=second).shortfall == {}
    assert not set(first.engine.sent) & set(second.engine.sent)


def test_a_probe_stays_within_the_budget(tmp_path):
    config, models = parse(RunConfig, {**NO_FILL, "generate": {"max_requests": 11}}), FakeModels()
    probe(config, read_inputs(config), RunFolder(tmp_path / "r"), models, Silent())
    assert len(models.engine.sent) <= 11


@pytest.mark.slow
def test_a_run_with_a_larger_budget_goes_on_in_the_same_folder(fell_short, tmp_path):
    folder, little, first = fell_short
    assert little.shortfall
    here, second = shutil.copytree(folder, tmp_path / "r"), _picky()
    assert fake_run.run(here, table=NO_FILL, models=second).shortfall == {}
    assert not set(first.engine.sent) & set(second.engine.sent)


def test_nothing_accepted_is_an_error_that_names_the_reasons(tmp_path):
    nothing = {**fake_run.TABLE, "generate": {"max_requests": 1}}
    with pytest.raises(EmptyError, match="no row was accepted; dropped: nothing was generated"):
        fake_run.run(tmp_path / "nothing", table=nothing)


def test_seeds_can_be_part_of_the_set(tmp_path):
    bundled = {"path": str(ROOT / "seeds" / "seeds.jsonl"), "in_set": True}
    table = {**fake_run.TABLE, "seeds": bundled, "generate": {"enabled": False}}
    fake_run.run(tmp_path / "seeds", table=table)
    assert {row["source"] for row in _curated(tmp_path / "seeds")} == {"seed"}


def test_a_pool_is_selected_from_without_generating(tmp_path):
    pool = tmp_path / "pool.jsonl"
    texts = ["Name a river in {}.", "What grows in {}?", "How tall is the tower of {}?"]
    places = ["Peru", "Chad", "Oslo", "Lima", "Graz", "Bonn", "Kyiv", "Turin"]
    lines = [
        {"instruction": text.format(place), "input": "", "output": f"An answer about {place}, number {n}."}
        for n, place in enumerate(places)
        for text in texts
    ]
    pool.write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")
    table = {
        **fake_run.TABLE,
        "run": {"size": 6},
        "pool": {"path": str(pool), "license": "CC-BY-SA-3.0"},
        "generate": {"enabled": False},
        "categories": {"target": "candidates", "fill": True},
        "rewrite": {"enabled": False},
    }
    models = FakeModels()
    fake_run.run(tmp_path / "run", table=table, models=models)
    rows = _curated(tmp_path / "run")
    assert len(rows) == 6
    assert all(row["source"] == "pool" and row["license"] == "CC-BY-SA-3.0" for row in rows)
    assert models.engine.sent == []


def _pool(path, instructions):
    rows = [
        {"instruction": text, "response": f"It is {n}.", "category": "maths"} for n, text in enumerate(instructions)
    ]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return {**fake_run.TABLE, "pool": {"path": str(path)}, "generate": {"enabled": False}, "run": {"size": 6}}


def test_rows_that_ask_the_same_in_other_words_leave_for_one_that_stays_and_close_pairs_are_listed(tmp_path):
    subjects = [
        "amber weaving",
        "tidal glaciers",
        "copper violins",
        "paper lanterns",
        "desert orchids",
        "stone bridges",
    ]
    asked = [f"{frame} {what}" for what in subjects for frame in ("Please explain the", "Could you explain the")]
    table = _pool(tmp_path / "pool.jsonl", [*asked, "Please explain the amber glass"])
    table["semantic"] = {"threshold": 0.5, "review": 0.3}
    folder = tmp_path / "run"
    fake_run.run(folder, table=table)
    run = RunFolder(folder)
    gone = run.dropped().filter(pl.col("stage") == "semantic")
    assert gone.height == len(subjects)
    assert set(gone["reason"]) == {"semantic_duplicate"}
    after = dict(run.stages())["semantic"]
    assert set(gone["twin"]) <= set(after["id"])
    groups = pl.read_parquet(run.duplicates).filter(pl.col("reason") == "semantic_duplicate")
    assert set(groups["id"]) == set(gone["id"])
    pairs = pl.read_parquet(run.borderline)
    assert pairs.height == run.manifest["borderline"] > 0
    assert {*pairs["id"], *pairs["other"]} <= set(after["id"])
    assert pairs["cosine"].is_between(0.3, 1.0).all()
    table["semantic"]["enabled"] = False
    fake_run.run(tmp_path / "off", table=table)
    off = RunFolder(tmp_path / "off")
    assert off.dropped().filter(pl.col("stage") == "semantic").is_empty()
    assert not off.borderline.exists()


def test_instructions_in_another_language_than_the_seeds_are_screened_before_an_answer_is_paid_for(tmp_path):
    spanish = " Escribe una carta corta a tu vecina para pedirle que cuide las plantas del jardín mientras viajas."

    def answer(key, request):
        text, reason = plausible(key, request)
        mine = request.purpose == "instruction" and int(key[:2], 16) < 64
        return (spanish, "stop") if mine else (text, reason)

    models = FakeModels()
    models.engine.answer = answer
    fake_run.run(tmp_path / "run", models=models)
    ledger = RunFolder(tmp_path / "run").dropped()
    foreign = ledger.filter(pl.col("reason") == "instruction_language")
    assert foreign.height > 3
    assert set(foreign["stage"]) == {"generate"}
    assert foreign["evidence"].str.contains("language es; allowed: en").all()
    assert set(foreign["response"]) == {""}


def test_a_large_pool_gets_the_static_embedder_and_a_small_one_the_model_itself():
    config = parse(RunConfig, {"models": {"embedder": {"static_above": 100}}})
    small, large = (embedder_of(config, rows, Silent()) for rows in (100, 101))
    assert (type(small).__name__, type(large).__name__) == ("SentenceEmbedder", "StaticEmbedder")
    assert small.identity != large.identity
    assert (small.is_costly, large.is_costly) == (True, False)


def test_the_manifest_of_an_earlier_pass_does_not_count(finished):
    run = RunFolder(finished)
    stages = run.manifest["stages"]
    run.update_manifest({"stages": {**stages, "select": {**stages["select"], "fingerprint": "other", "kept": 5}}})
    fake_run.run(finished)
    assert run.manifest["stages"]["select"]["kept"] == stages["select"]["kept"]
    assert run.manifest["stages"]["select"]["fingerprint"] == stages["select"]["fingerprint"]


def test_a_row_keeps_the_stage_and_reason_of_its_first_drop_when_a_later_pass_meets_it_again(tmp_path):
    store = CallStore(tmp_path / "calls.sqlite")
    rows = table_of([{"id": f"g{n}", "instruction": f"task {n}", "category": "maths"} for n in range(4)])
    verdicts = {id: {"reason": "too_long_for_base", "evidence": "now", "measured": 2.0} for id in ("g0", "g1", "g2")}
    dropped = with_verdicts(rows, verdicts).dropped
    store.set_drops(
        [
            (
                "g0",
                "rewrite",
                "too_long_for_base",
                "first",
                1.0,
                None,
                None,
            ),  # lost by a later stage: its verdict stands
            ("g1", "near_duplicates", "near_duplicate", "first", 0.8, 0.7, "g3"),  # this pass carried it beyond that
        ]
    )
    ledger = with_first_verdicts(dropped, "select", store)
    columns = ("id", "stage", "reason", "evidence", "measured", "again")
    assert ledger.select(columns).rows() == [
        ("g0", "rewrite", "too_long_for_base", "first", 1.0, "select/too_long_for_base"),
        ("g1", "select", "too_long_for_base", "now", 2.0, None),
        ("g2", "select", "too_long_for_base", "now", 2.0, None),
    ]
    last = ledger.select(stage=last_verdict("stage"), reason=last_verdict("reason"))
    assert set(last.rows()) == {("select", "too_long_for_base")}
    store.close()


def test_a_run_of_an_older_version_is_refused_in_one_line_and_its_completions_can_be_reused(kiloset, finished):
    run = RunFolder(finished)
    manifest = run.manifest
    del manifest["format"]
    run.manifest_file.write_text(json.dumps(manifest))
    for command in (("audit",), ("explain", "g00001"), ("train",), ("export",)):
        ran = kiloset(*command, "--run", "mine", "--runs", finished.parent)
        assert ran.returncode == 2
        assert re.fullmatch(r"kiloset: KS059 .*kiloset dataset --from mine .*\n", ran.stderr)
    config = parse(RunConfig, fake_run.TABLE)
    with pytest.raises(DataError) as refused:
        begin(config, run)
    assert refused.value.code == "KS059"
    new = RunFolder(finished.parent / "new")
    reuse_completions(config, read_inputs(config), new, run)
    fake_run.run(new.path, models=FakeModels(Moments(1, lambda: pytest.fail("a model was used"))))
    assert new.curated.read_bytes() == run.curated.read_bytes()


def test_the_audit_of_a_run_that_went_back_adds_up(tmp_path):
    table = {**NO_FILL, "generate": {**NO_FILL["generate"], "candidates_per_row": 1.0}}
    fake_run.run(tmp_path / "picky", table=table, models=_picky(reads=64))
    run = RunFolder(tmp_path / "picky")
    assert run.dropped()["again"].count() > 6
    report = audit(run)
    assert report.problems == []
    counts = {count.stage: count for count in report.funnel}
    assert counts["select"].dropped["too_long_for_base"] > 6  # met again there, and first dropped by rewriting
