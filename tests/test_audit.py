"""The audit's figures against hand-computed values and naive loops, on run folders that the tests write."""

import io
import itertools
import json
import math
import random
import shutil
import sqlite3
from collections.abc import Sequence
from contextlib import closing
from functools import reduce
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from rich.console import Console

from kiloset.audit.figures import duplicates, funnel, js_distance, lengths, spread
from kiloset.audit.row_history import explain, print_history
from kiloset.audit.run_audit import _print_vendi, audit, print_audit
from kiloset.core.calls import CallStore
from kiloset.core.errors import DataError
from kiloset.core.models import Completion, Request
from kiloset.core.run import RunFolder, file_sha256
from kiloset.core.table import ROW, VERDICT, table_of, user_turn, with_verdicts
from kiloset.core.text import normal_form

HOSTILE = "Say [red]x[/red] and :smile: \x1b[2J\x9b2J\u202e now\\"
PRINTED = "Say [red]x[/red] and :smile: [2J2J now\\"
REQUEST = Request("П" * 700 + "The task [bold]is[/bold]:", "instruction", 64, 0.7, 0.9)
KEY = REQUEST.key("tiny@1")
SEEDS = [
    {"id": "s0001", "instruction": "Назови три цвета радуги", "response": "красный, синий, жёлтый", "category": "list"},
    {
        "id": "s0002",
        "instruction": "Read this aloud and smile",
        "input": "色は匂へど",
        "response": "いろは",
        "category": "write",
    },
]
GENERATED = [
    {
        "id": "g00001",
        "instruction": HOSTILE,
        "response": "Here is one: x",
        "parents": ["s0001"],
        "calls": [KEY, "gone"],
    },
    {"id": "g00002", "instruction": "Hi", "response": "Hello", "parents": ["s0002"]},
    {"id": "g00003", "instruction": HOSTILE + "!", "response": "Here is one", "parents": ["s0001", "s0002"]},
]
REWRITES = [
    {"kind": "plain", "status": "rejected", "check": "numbers", "evidence": "3 is gone", "score": -1.5, "text": "A"},
    {"kind": "guided", "status": "chosen", "check": "", "evidence": "", "score": -0.5, "text": "Here is one: x"},
]
REWRITTEN = {
    "response_source": "guided",
    "response_reason": "best_fit",
    "fit_gain": 0.75,
    "reference_surprisal": 4.0,
    "surprisal": 3.25,
}
NAMES = ("seeds", "generate", "rules", "near_duplicates", "select", "rewrite", "style")


def rows_of(rows: Sequence[dict[str, Any]], **same: Any) -> pl.DataFrame:
    return table_of([{"writer": "human", "license": "MIT", "source": "seed", **same, **row} for row in rows])


@pytest.fixture
def run(whole: Path, tmp_path: Path) -> RunFolder:
    return RunFolder(shutil.copytree(whole, tmp_path / "demo"))


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A whole run of five rows: three are curated, a rule drops one, and one is dropped as a near-duplicate of g00001."""
    folder = RunFolder(tmp_path_factory.mktemp("whole") / "demo")
    folder.create()
    seeds = rows_of(SEEDS)
    generated = rows_of(
        GENERATED, source="generated", strategy="self_instruct", category="list", depth=1, writer="tiny@1"
    )
    everything = pl.concat([seeds, generated])
    short = {"g00002": {"reason": "instruction_too_short", "evidence": "1 word", "measured": 1.0, "limit": 3.0}}
    duplicate = {"g00003": {"reason": "near_duplicate", "evidence": "jaccard 0.97", "measured": 0.97, "limit": 0.7}}
    duplicate["g00003"]["twin"] = "g00001"
    rules = with_verdicts(everything, short)
    near = with_verdicts(rules.kept.with_columns(nearest=pl.Series([0.1, 0.2, 0.9, 0.97])), duplicate)
    balanced = near.kept.with_columns(cluster=pl.Series([0, 0, 1]))
    response_source = pl.Series(["reference", "plain", "guided"])
    styled = balanced.with_columns(
        response_source=response_source,
        response_reason=pl.Series(["short_reference", "best_fit", "best_fit"]),
        original_response=pl.Series([None, "Iroha!", "- x\n- y"]),
        fit_gain=pl.Series([None, 0.25, 0.75]),
        reference_surprisal=pl.Series([2.0, 3.0, 4.0]),
        surprisal=pl.Series([2.0, 2.75, 3.25]),
        rewrites=pl.Series([[], None, REWRITES]),
    )
    nothing = with_verdicts(everything, {}).dropped
    kept = [seeds, everything, rules.kept, near.kept, balanced, styled, styled]
    dropped = [nothing, nothing, rules.dropped, near.dropped, nothing, nothing, nothing]
    counts, before = {}, 0
    for number, (name, rows, removed) in enumerate(zip(NAMES, kept, dropped, strict=True), start=1):
        folder.write_stage(number, name, "f", rows, removed)
        reasons = dict.fromkeys(removed["reason"], 1)
        counts[name] = {"in": before, "kept": rows.height, "dropped": reasons, "seconds": 1.5}
        before = rows.height
    write_curated(folder, styled)
    sha256 = file_sha256(folder.curated)
    folder.update_manifest(
        {"name": "demo", "target": {"list": 1, "write": 1}, "stages": counts, "curated_sha256": sha256}
    )
    store = CallStore(folder.calls)
    store.note_sent([(KEY, REQUEST)])
    store.add("tiny@1", KEY, REQUEST, Completion("Say \x1b[1mx", "stop", 11, 7))
    store.close()
    return folder.path


def write_curated(folder: RunFolder, table: pl.DataFrame) -> None:
    lines = []
    for row in table.to_dicts():
        user = {"role": "user", "content": user_turn(row["instruction"], row["input"])}
        messages = [user, {"role": "assistant", "content": row["response"]}]
        split = {"split": "train"} if row["id"] != "s0002" else {"split": "validation"}
        lines.append(
            json.dumps(
                {"messages": messages, "id": row["id"], "category": row["category"], **split}, ensure_ascii=False
            )
        )
    folder.curated.write_text("".join(line + "\n" for line in lines), encoding="utf-8")


def printed(draw: Any, *values: Any, width: int = 80, terminal: bool = False, **options: Any) -> str:
    file = io.StringIO()
    draw(*values, Console(file=file, width=width, force_terminal=terminal), **options)
    return file.getvalue()


def test_a_run_adds_up(run: RunFolder) -> None:
    report = audit(run)
    assert report.problems == []
    counted = [(c.stage, c.entered, c.created, c.kept, c.dropped) for c in report.funnel]
    assert counted[:4] == [
        ("seeds", 0, 2, 2, {}),
        ("generate", 2, 3, 5, {}),
        ("rules", 5, 0, 4, {"instruction_too_short": 1}),
        ("near_duplicates", 4, 0, 3, {"near_duplicate": 1}),
    ]
    assert all(c.entered + c.created == c.kept + sum(c.dropped.values()) for c in report.funnel)
    assert (report.rows, report.distribution.result) == (3, {"list": 2, "write": 1})
    spent = {"sent": 1, "completed": 1, "prompt_tokens": 11, "completion_tokens": 7}
    assert (report.calls, report.resent, sum(report.seconds.values())) == ({"instruction": spent}, 0, 7 * 1.5)
    assert report.openings == {"here is one": 1, "красный синий жёлтый": 1, "いろは": 1}
    assert report.lengths["input"].rows == 1
    run.curated.write_text(run.curated.read_text(encoding="utf-8").splitlines()[0], encoding="utf-8")
    run.update_manifest({"curated_sha256": file_sha256(run.curated)})
    assert audit(run).problems == ["curated.jsonl has 1 rows, the last stage kept 3"]


def test_a_missing_row_and_a_row_that_occurs_twice_are_reported() -> None:
    two, ledger = rows_of(SEEDS), pl.DataFrame(schema={**ROW, **VERDICT})
    manifest = {
        "seeds": {"in": 0, "kept": 3, "dropped": {"r": 0}},
        "rules": {"in": 2, "kept": 1, "dropped": {}},
        "style": {},
    }
    _, problems = funnel([("seeds", two), ("rules", two.tail(1))], ledger, manifest)
    lost = "rules: 1 rows vanished without a reason, for example s0001"
    assert problems == [
        "seeds: kept: 3 in the manifest, 2 in the files",
        lost,
        "style: in the manifest, but its file is missing",
    ]
    _, problems = funnel([("seeds", two.head(1)), ("rules", two)], ledger, {})
    assert problems == ["rules: 1 rows appeared from nowhere, for example s0002"]
    again = two.head(1).with_columns(stage=pl.lit("seeds"), reason=pl.lit("r"))
    _, problems = funnel([("seeds", two)], again, {})
    assert problems == ["seeds: 1 rows were kept and dropped, for example s0001"]
    _, problems = funnel([("seeds", two)], again.with_columns(stage=pl.lit("rules")), {})
    assert problems == ["rules: 1 rows dropped, but the file of the kept rows is missing"]


def test_seeds_that_a_stage_sets_aside_are_counted_and_not_lost() -> None:
    two, ledger = rows_of(SEEDS), pl.DataFrame(schema={**ROW, **VERDICT})
    stages = [("seeds", two), ("score", two.tail(1))]
    counts, problems = funnel(stages, ledger, {"seeds": {}, "score": {"set_aside": 1}})
    assert (counts[1].set_aside, counts[1].kept, problems) == (1, 1, [])
    _, problems = funnel(stages, ledger, {"seeds": {}, "score": {"set_aside": 2}})
    assert problems == ["score: 1 rows vanished without a reason, for example s0001"]


def test_the_distance_to_the_target_is_the_root_of_the_mean_divergence_from_the_middle() -> None:
    target, got = {"a": 6, "b": 3, "c": 1}, {"a": 1, "b": 1, "d": 2}
    p, q = (0.6, 0.3, 0.1, 0.0), (0.25, 0.25, 0.0, 0.5)
    half = [
        sum(x * math.log2(2 * x / (x + y)) for x, y in zip(a, b, strict=True) if x) / 2 for a, b in ((p, q), (q, p))
    ]
    assert js_distance(target, got) == pytest.approx(math.sqrt(sum(half)))
    assert js_distance({"a": 1}, {"b": 5}) == pytest.approx(1)
    assert js_distance({"a": 1, "b": 2}, {"a": 20, "b": 40}) == pytest.approx(0, abs=1e-7)
    assert js_distance({}, {"a": 1}) is None


def test_entropy_of_clusters_is_in_nats_and_compared_with_its_maximum() -> None:
    figures = spread(pl.DataFrame({"cluster": [4, 4, 7, None]}))
    assert figures is not None
    by_hand = -(2 / 3) * math.log(2 / 3) - (1 / 3) * math.log(1 / 3)
    assert figures.clusters == 2
    assert figures.entropy == pytest.approx(by_hand)
    assert figures.evenness == pytest.approx(by_hand / math.log(2))
    assert spread(pl.DataFrame({"id": ["a"]})) is None
    one = spread(pl.DataFrame({"cluster": [1, 1]}))
    assert one is not None
    assert (one.entropy, one.evenness) == (0.0, 0.0)


def test_duplicates_equal_those_of_a_naive_double_loop() -> None:
    rng = random.Random(0)
    alphabet = ["abcdefg", "абвгдеж", "日本語の色は匂"]
    letters = [rng.choice(alphabet) for _ in range(200)]
    # Over nine words each: shorter texts are also compared by other measures.
    texts = [
        " ".join("".join(rng.choices(of, k=rng.randint(1, 6))) for _ in range(rng.randint(10, 20))) for of in letters
    ]
    texts += [text[: -rng.randint(1, 12)] + rng.choice("xyz") for text in texts[:80]] + [
        text.upper() + "!" for text in texts[5:9]
    ]
    ids = [f"p{i:05d}" for i in range(len(texts))]

    def grams(text: str) -> set[str]:
        key = f" {normal_form(text)} "
        return {key[i : i + 5] for i in range(len(key) - 4)}

    sets = list(zip(ids, map(grams, texts), strict=True))
    pairs = [(-len(a & b) / len(a | b), first, second) for (first, a), (second, b) in itertools.combinations(sets, 2)]
    wide = {id for value, *both in pairs if -value >= 0.70 for id in both}
    figures = duplicates(ids, texts)
    assert 100 < figures.rows == len(wide) < 200
    assert figures.share == len(wide) / len(texts)
    assert [(-value, first, second) for first, second, value in figures.nearest] == sorted(pairs)[:3]


def test_seven_of_ten_shingles_is_a_duplicate() -> None:
    figures = duplicates(["a", "b"], ["abcdefghij", "abcdefghijk"])  # 8 and 9 shingles, " abcd" to "fghij" in common
    assert (figures.rows, figures.nearest) == (2, (("a", "b", 7 / 10),))
    assert duplicates(["a", "b"], ["abcdefghij", "abcdefghijkl"]).rows == 0  # 7 of 11
    assert duplicates(["a", "b"], ["Hi!", "hi"]).share == 1.0
    assert duplicates([], []).rows == 0


def test_lengths_are_words_of_texts_that_are_not_empty() -> None:
    figures = lengths(["a", "b c", "", "один два три", "d e f g", "h i j k l"])
    assert figures.quantiles == pytest.approx((1, 1.4, 3, 4.6, 5))
    assert lengths([""]).quantiles == ()


def test_rewriting_covers_the_rows_of_the_set_and_the_gate_all_rows_that_entered_it(run: RunFolder) -> None:
    report = audit(run)
    assert report.rewriting is not None
    assert report.rewriting.sources == {"list": {"guided": 1, "reference": 1}, "write": {"plain": 1}}
    assert report.rewriting.gains["rewritten"].gain.value == 0.5
    lines = run.curated.read_text(encoding="utf-8").splitlines()
    run.curated.write_text("\n".join(lines[:2]), encoding="utf-8")
    report = audit(run)
    assert report.rewriting is not None
    assert report.rewriting.gains["rewritten"].gain.value == 0.25
    assert report.style is not None
    assert report.style.entered is not None
    assert (report.style.entered.rows, report.style.before.rows) == (3, 2)
    assert report.acceptance is not None
    assert (report.acceptance.rows, [kind.kind for kind in report.acceptance.kinds]) == (3, ["plain", "guided"])
    assert report.examples is not None
    assert [example.id for example in report.examples.chosen] == ["s0002"]


def test_the_limits_of_the_run_decide_which_examples_are_shown(run: RunFolder) -> None:
    run.config.write_text(
        "[rewrite]\nmin_gain = 0.2\n[gate]\nshortest_ratio = 0.5\nlongest_ratio = 2.0\nlength_slack_words = 2\n"
    )
    examples = audit(run, 1).examples
    assert examples is not None
    (only,) = examples.chosen  # "Iroha!" to "いろは" gains 0.25, the other 0.75
    assert (only.id, only.nearest and only.nearest.check) == ("s0002", "gain")
    assert "2. g00001" in printed(print_audit, audit(run))
    assert "1. s0002" not in printed(print_audit, audit(run, 0))


def test_the_verdicts_of_a_rewrite_are_printed_in_two_lines(run: RunFolder) -> None:
    verdicts = [
        {"check": "leak", "status": "passed", "measured": None, "limit": None},
        {"check": "[red]\x1b", "status": "failed", "measured": 0.5, "limit": 0.95},
        {"check": "polarity", "status": "failed", "measured": None, "limit": None},
    ]
    row = {**GENERATED[0], "id": "g00009"}
    table = rows_of([row]).with_columns(rewrites=pl.Series([[{**REWRITES[0], "verdicts": verdicts}]]))
    run.write_stage(1, "generate", "f", table, with_verdicts(table, {}).dropped)
    text = printed(print_history, explain(run, "g00009"))
    lines = [line.strip() for line in text.splitlines()]
    assert "checks failed: [red] 0.5 (limit 0.95), polarity" in lines
    assert "checks passed: 1 of 3" in lines
    assert "verdicts" not in text


def test_a_missing_ledger_is_named_where_rows_were_dropped(run: RunFolder) -> None:
    run.dropped_file.unlink()
    for read in (lambda: audit(run), lambda: explain(run, "g00003")):
        with pytest.raises(DataError, match=r"dropped.parquet: the ledger is missing, manifest.json counts 2 dropped"):
            read()
    stages = {stage: {**counts, "dropped": {}} for stage, counts in run.manifest["stages"].items()}
    run.update_manifest({"stages": stages})
    assert audit(run).funnel[2].dropped == {}


def test_edits_by_hand_are_counted_by_comparison_with_the_last_stage(run: RunFolder) -> None:
    before = audit(run).edits
    assert before is not None
    assert before.untouched
    first, second, third = run.curated.read_text(encoding="utf-8").splitlines()
    edited = [first.replace("синий", "белый"), second.replace("匂", "散")]
    copies = [third.replace("g00001", "g90001"), third.replace("g00001", "g90002")]
    run.curated.write_text("\n".join([*edited, *copies, ""]), encoding="utf-8")
    edits = audit(run).edits
    assert edits is not None
    assert (edits.untouched, edits.changed, edits.added, edits.removed) == (False, 2, 2, 1)
    assert "5 rows of curated.jsonl: 2 changed, 2 added, 1 removed" in printed(print_audit, audit(run))
    assert explain(run, "g00001").outcome == "kept by style, but not in curated.jsonl"
    with pytest.raises(DataError, match=r"no row 'g90001'; it was added to curated.jsonl by hand"):
        explain(run, "g90001")


def test_a_folder_that_is_no_finished_run_is_refused(run: RunFolder, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no run there; runs there: demo"):
        audit(RunFolder(tmp_path / "other"))
    run.curated.write_text(run.curated.read_text(encoding="utf-8") * 2, encoding="utf-8")
    with pytest.raises(DataError, match=r"curated.jsonl:4: .*'s0001'"):
        audit(run)
    run.curated.unlink()
    with pytest.raises(DataError, match=r"curated.jsonl: no curated rows yet"):
        audit(run)
    assert explain(run, "s0001").outcome == "kept so far by style; the run is not finished"
    run.stage_file(3, "rules").write_bytes(b"PAR1")
    with pytest.raises(DataError, match="a stage's file cannot be read"):
        audit(run)


def test_the_audit_reports_which_columns_a_run_did_not_record(tmp_path: Path) -> None:
    bare = RunFolder(tmp_path / "bare")
    bare.create()
    bare.write_stage(1, "seeds", "f", rows_of(SEEDS), with_verdicts(rows_of(SEEDS), {}).dropped)
    write_curated(bare, rows_of(SEEDS))
    bare.update_manifest({"name": "bare"})
    text = printed(print_audit, audit(bare))
    assert text.count("not recorded") == 7
    assert text.count("no generated rows") == 2
    assert not bare.calls.exists()


@pytest.mark.parametrize("terminal", [False, True])
@pytest.mark.parametrize("width", [40, 80, 120])
def test_the_printed_text_is_literal_and_within_the_width(run: RunFolder, width: int, terminal: bool) -> None:
    report = printed(print_audit, audit(run), width=width, terminal=terminal)
    history = printed(print_history, explain(run, "g00001"), width=width, terminal=terminal)
    styles = ("\x1b[1m", "\x1b[0m", "\x1b[1;3m", "\x1b[3m") if terminal else ()
    for text in (report, history):
        bare = reduce(lambda rest, style: rest.replace(style, ""), styles, text)
        assert not {"\x1b", "\x9b", "\u202e"} & set(bare)
    assert "+16.7" in report  # two of three rows where one of two was wanted
    if width == 120:
        assert PRINTED in report
        assert PRINTED in history
    if not terminal:
        assert max(len(line) for line in (report + history).splitlines()) <= width


def test_the_history_of_a_kept_row(run: RunFolder) -> None:
    history = explain(run, "g00001")
    assert (history.outcome, history.verdict, history.dropped_for) == ("curated, split train", None, None)
    assert [(p.id, p.instruction) for p in history.parents] == [("s0001", "Назови три цвета радуги")]
    assert [(w.id, w.note) for w in history.preferred_to] == [("g00003", "at near_duplicates: near_duplicate")]
    stored, missing = history.calls
    assert isinstance(stored, dict)
    assert (stored["prompt"], stored["text"], missing) == (REQUEST.prompt, "Say \x1b[1mx", "gone")
    assert [(p.stage, p.added) for p in history.passages if p.added] == [
        ("near_duplicates", {"nearest": 0.9}),
        ("select", {"cluster": 1}),
        ("rewrite", REWRITTEN),
    ]
    assert [p.stage for p in history.passages] == list(NAMES[1:])
    assert [rewrite["status"] for rewrite in history.rewrites] == ["rejected", "chosen"]
    text = printed(print_history, history)
    assert "its last 600 of 725 characters" in text
    assert text.count("П") == 600 - len("The task [bold]is[/bold]:")
    assert printed(print_history, history, full=True).count("П") == 700


def test_how_often_a_row_may_be_shown_is_read_from_the_config(run: RunFolder) -> None:
    assert audit(run).lineage.max_shown is None
    run.config.write_text("[generate]\nmax_shown = 4\n[run]\nseed = 1\n")
    lineage = audit(run).lineage
    assert (lineage.max_shown, lineage.max_depth, lineage.depths) == (4, None, {1: (3, 1)})
    run.config.write_text("generate = 1\n")
    assert audit(run).lineage.max_shown is None


def test_the_history_of_a_constrained_row_names_operator_constraints_and_edits(run: RunFolder) -> None:
    constraints = [
        {"id": "length_constraints:number_words", "args": '{"relation": "at least", "num_words": 5}'},
        {"id": "punctuation:no_comma", "args": "{}"},
        {"id": "broken", "args": "{"},
    ]
    row = {
        **GENERATED[0],
        "id": "g00009",
        "operator": "deepen",
        "constraints": constraints,
        "edits": ["add_title", "upper_case"],
    }
    rows = rows_of([row], source="generated", strategy="constraint")
    shown_often = rows.with_columns(times_shown=pl.Series([3], dtype=pl.UInt16))
    run.write_stage(1, "generate", "f", shown_often, with_verdicts(shown_often, {}).dropped)
    lines = [line.strip() for line in printed(print_history, explain(run, "g00009"), width=120).splitlines()]
    assert "operator: deepen" in lines
    assert 'constraint: length_constraints:number_words: relation = "at least", num_words = 5' in lines
    assert "constraint: punctuation:no_comma" in lines
    assert "constraint: broken {" in lines
    assert "edits of the answer, in order: add_title, upper_case" in lines
    assert "times_shown: 3" in lines
    old = rows.drop("operator", "edits")
    run.write_stage(1, "generate", "f", old, with_verdicts(rows, {}).dropped)
    assert "operator" not in printed(print_history, explain(run, "g00009"))


def test_the_history_of_a_dropped_row_names_the_kept_duplicate(run: RunFolder) -> None:
    history = explain(run, "g00003")
    assert history.outcome == "dropped at near_duplicates, near_duplicate"
    assert history.verdict is not None
    assert (history.verdict["evidence"], history.verdict["measured"], history.verdict["limit"]) == (
        "jaccard 0.97",
        0.97,
        0.7,
    )
    assert history.dropped_for is not None
    assert (history.dropped_for.id, history.dropped_for.instruction) == ("g00001", HOSTILE)
    passed = [(p.stage, p.kept, p.added) for p in history.passages]
    assert passed[1:] == [("rules", True, {}), ("near_duplicates", False, {"nearest": 0.97})]


def test_an_unknown_row_is_answered_with_the_nearest_ids(run: RunFolder) -> None:
    with pytest.raises(DataError, match=r"no row 'g0003'; nearest: g00003"):
        explain(run, "g0003")
    with pytest.raises(DataError, match="ids look like s0007"):
        explain(run, "\x1b")


def test_the_audit_changes_no_file(run: RunFolder) -> None:
    before = {path.name: file_sha256(path) for path in run.path.iterdir()}
    audit(run)
    explain(run, "g00001")
    assert {path.name: file_sha256(path) for path in run.path.iterdir()} == before


def test_the_call_store_is_opened_for_reading_only(run: RunFolder) -> None:
    with closing(sqlite3.connect(run.calls)) as db:
        db.execute("PRAGMA journal_mode=DELETE")  # opening it to write would set it back
    before = file_sha256(run.calls)
    assert audit(run).calls is not None
    assert explain(run, "g00001").calls[1] == "gone"
    assert file_sha256(run.calls) == before


def test_the_diversity_of_the_selection_is_printed_beside_that_of_random_rows(tmp_path, capsys):
    diversity = {
        "candidates": {"rows": 300, "vendi": 41.5, "nearest": [0.2, 0.3, 0.5, 0.6, 0.93]},
        "selected": {"rows": 30, "vendi": 22.25, "cluster_entropy": 0.937, "nearest": [0.1, 0.2, 0.3, 0.4, 0.51]},
        "random": {
            "rows": 30,
            "vendi": 18.0,
            "vendi_least": 17.2,
            "vendi_most": 19.1,
            "nearest": [0.1, 0.2, 0.4, 0.5, 0.88],
        },
    }
    console = Console(width=120, force_terminal=False)
    _print_vendi(diversity, console)
    output = capsys.readouterr().out
    assert [line.split() for line in output.splitlines() if "selected" in line] == [
        ["selected", "30", "22.2", "0.94", "0.10", "0.30", "0.51"]
    ]
    assert "18.0 (17.2 to 19.1)" in output
    _print_vendi({}, console)
    assert capsys.readouterr().out == ""


def test_pairs_close_in_meaning_are_counted_and_the_closest_is_printed(run: RunFolder) -> None:
    assert "borderline" not in printed(print_audit, audit(run))
    pairs = {
        "id": ["g00001"], "other": ["s0002"], "cosine": [0.9312], "why": ["other_order"],
        "instruction": ["From cats \x1b[1mto dogs"], "other_instruction": ["From dogs to cats"],
    }  # fmt: skip
    pl.DataFrame(pairs).write_parquet(run.borderline)
    run.update_manifest({"borderline": 1})
    text = printed(print_audit, audit(run), width=120)
    assert (
        "borderline: 1 pairs of candidates are close in meaning; both were kept, for review in borderline.parquet"
        in text
    )
    line = next(line for line in text.splitlines() if "From cats" in line)
    assert tuple(line.split()[at] for at in (0, -2, -1)) == ("g00001", "0.931", "other_order")
    assert "\x1b" not in text
