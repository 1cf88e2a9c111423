"""The rows of a review: which rows exist, which ones a filter selects, their order, and the view of one row."""

import json
from collections import Counter
from pathlib import Path

import polars as pl
import pytest

from kiloset.core.errors import DataError
from kiloset.core.review import Decision, task_digest
from kiloset.core.run import RunFolder, file_sha256
from kiloset.core.table import table_of, user_turn, with_verdicts
from kiloset.review.borderline import in_order
from kiloset.review.filter import SCORES, Filter, read_filter
from kiloset.review.row_view import view_row
from kiloset.review.rows import by_category, neighbours, overlaid, progress, read_rows, select, signature

CATEGORIES = ("code", "maths", "writing")
CONSTRAINT = {"id": "change_case:english_lowercase", "args": "{}"}
ATTACK = "<script>document.title='owned'</script></textarea><img src=x onerror=alert(1)>"
REWRITES = [
    {"kind": "plain", "status": "rejected", "check": "numbers", "evidence": "3 is gone", "measured": 0.5, "limit": 1.0, "score": None, "text": "Some apples.", "verdicts": []},
    {"kind": "guided", "status": "chosen", "check": None, "evidence": None, "measured": None, "limit": None, "score": -0.5, "text": "There are 3 apples.",
     "verdicts": [{"check": "numbers", "status": "passed", "measured": 1.0, "limit": 1.0}, {"check": "meaning", "status": "passed", "measured": 0.81, "limit": 0.8}]},
]  # fmt: skip
REWRITE_TYPE = pl.List(
    pl.Struct({
        **dict.fromkeys(("kind", "status", "check", "evidence"), pl.String), **dict.fromkeys(("measured", "limit", "score"), pl.Float64),
        "text": pl.String, "verdicts": pl.List(pl.Struct({"check": pl.String, "status": pl.String, "measured": pl.Float64, "limit": pl.Float64})),
    })
)  # fmt: skip


def rows_of(count, texts):
    """Return the seeds s0 to s2, and generated rows from g000 of three categories in turn; `texts` replaces columns, by id."""
    seeds = [
        {"id": f"s{n}", "instruction": f"Seed {n}", "response": "Yes.", "category": CATEGORIES[n], "source": "seed", "writer": "human", "license": "MIT"}
        for n in range(3)
    ]  # fmt: skip
    generated = [
        {"id": f"g{n:03}", "instruction": f"Task number {n}", "input": f"given {n}" if n % 4 == 0 else "", "response": f"Answer {n} is here.",
         "category": CATEGORIES[n % 3], "category_source": "asked", "source": "generated", "strategy": "constraint" if n % 5 == 0 else "self_instruct",
         "parents": [f"s{n % 3}"], "depth": 1, "writer": "tiny@1", "license": "Apache-2.0"}
        for n in range(count)
    ]  # fmt: skip
    generated[5] |= {"response": "all of it is small.", "constraints": [CONSTRAINT]}
    return seeds, [row | texts.get(row["id"], {}) for row in generated]


def make_run(path, texts=None, kept=36):
    """Write a finished run with `kept` generated rows in the set, eight more that were dropped, and g001 rewritten."""
    folder = RunFolder(Path(path))
    folder.create()
    seeds, generated = (table_of(part) for part in rows_of(kept + 8, texts or {}))
    everything = pl.concat([seeds, generated])
    ids = generated["id"].to_list()
    short = {
        id: {"reason": "too_short", "evidence": "1 word", "measured": float(n), "limit": 3.0}
        for n, id in enumerate(ids[kept : kept + 4])
    }
    rules = with_verdicts(everything, short)
    duplicates = {
        id: {"reason": "near_duplicate", "evidence": "jaccard", "measured": 0.7 + n / 10, "limit": 0.7, "twin": "g002"}
        for n, id in enumerate(ids[kept + 4 : kept + 6])
    }
    near = with_verdicts(rules.kept, duplicates)
    apart = {f"s{n}": {"reason": "seed_kept_apart", "evidence": "a seed"} for n in range(3)}
    spare = {id: {"reason": "over_quota", "evidence": "no room"} for id in ids[kept + 6 :]}
    scored = near.kept.with_columns(quality=pl.int_range(pl.len()).cast(pl.Float64) / 10)
    balanced = with_verdicts(scored, apart | spare)
    is_first = pl.col("id") == "g001"
    styled = balanced.kept.with_columns(
        original_response=pl.when(is_first).then(pl.lit("Here are 3 apples, I think.")),
        response=pl.when(is_first).then(pl.lit("There are 3 apples.")).otherwise("response"),
        response_source=pl.when(is_first).then(pl.lit("guided")).otherwise(pl.lit("reference")),
        response_reason=pl.when(is_first).then(pl.lit("best_fit")).otherwise(pl.lit("off")),
        fit_gain=pl.when(is_first).then(0.06), nearest_cosine=pl.lit(0.5),
        rewrites=pl.Series([REWRITES if id == "g001" else [] for id in balanced.kept["id"]], dtype=REWRITE_TYPE),
    )  # fmt: skip
    empty = with_verdicts(everything, {}).dropped
    stages = {
        "seeds": (seeds, empty), "generate": (everything, empty), "rules": (rules.kept, rules.dropped),
        "near_duplicates": (near.kept, near.dropped), "semantic": (near.kept, empty),
        "score": (scored, empty), "select": (balanced.kept, balanced.dropped), "rewrite": (styled, empty), "style": (styled, empty),
    }  # fmt: skip
    counts = {}
    for number, (name, (rows, gone)) in enumerate(stages.items(), start=1):
        folder.write_stage(number, name, "f", rows, gone)
        counts[name] = {"kept": rows.height, "dropped": dict(Counter(gone["reason"]))}
    pairs = {
        "id": ["g003"],
        "other": ["g006"],
        "cosine": [0.94],
        "why": ["other_order"],
        "instruction": [""],
        "other_instruction": [""],
    }
    pl.DataFrame(pairs).write_parquet(folder.borderline)
    folder.config.write_text("[semantic]\nthreshold = 0.95\nreview = 0.9\n[rewrite]\nmin_gain = 0.05\n[gate]\nlongest_ratio = 2.0\nshortest_ratio = 0.5\nlength_slack_words = 1\n")  # fmt: skip
    lines = []
    for row in styled.to_dicts():
        messages = [
            {"role": "user", "content": user_turn(row["instruction"], row["input"])},
            {"role": "assistant", "content": row["response"]},
        ]
        lines.append(json.dumps({"messages": messages, "id": row["id"], "category": row["category"], "split": "train"}))
    folder.curated.write_text("".join(f"{line}\n" for line in lines))
    folder.update_manifest(
        {
            "stages": counts,
            "target": {**dict.fromkeys(CATEGORIES, 12), "poetry": 0},
            "curated_sha256": file_sha256(folder.curated),
        }
    )
    return folder


def accept(rows, id, **changes):
    row = rows.row(id)
    texts = {name: row[name] for name in ("instruction", "input", "response", "category")}
    return Decision(id, "accept", rows.identity(id), "2026-11-26", **(texts | changes))


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    return make_run(tmp_path_factory.mktemp("review") / "demo")


@pytest.fixture(scope="module")
def rows(run):
    return read_rows(run)


def ids_of(rows, decisions=None, here=None, **options):
    table = overlaid(rows, decisions or {})
    return select(table, read_filter(options, table), here).filter("matches")["id"].to_list()


def test_every_row_of_the_run_occurs_once(rows):
    parts = dict(rows.table.select("id", "part").iter_rows())
    assert len(parts) == rows.table.height == 36 + 8 + 3
    assert Counter(parts.values()) == {"set": 36, "dropped": 11}
    assert {id for id, part in parts.items() if part == "dropped"} == {f"g{n:03}" for n in range(36, 44)} | {
        "s0",
        "s1",
        "s2",
    }
    assert rows.categories == ("code", "maths", "poetry", "writing")


@pytest.mark.parametrize(
    ("options", "is_shown"),
    [
        ({}, lambda row: row["part"] == "set"),
        ({"part": "dropped"}, lambda row: row["part"] == "dropped"),
        ({"part": "all"}, lambda row: True),
        ({"category": "maths"}, lambda row: row["part"] == "set" and row["category"] == "maths"),
        ({"reason": "near_duplicate"}, lambda row: row["reason"] == "near_duplicate"),
        ({"part": "all", "origin": "seed"}, lambda row: row["source"] == "seed"),
        ({"origin": "constraint"}, lambda row: row["part"] == "set" and row["strategy"] == "constraint"),
        ({"rewritten": "yes"}, lambda row: row["original_response"] is not None),
        ({"text": "NUMBER 12"}, lambda row: row["part"] == "set" and "number 12" in row["instruction"]),
        ({"text": "g00"}, lambda row: row["part"] == "set" and "g00" in row["id"]),
        (
            {"score": "quality", "least": "1", "most": "1.5"},
            lambda row: row["part"] == "set" and 1 <= row["quality"] <= 1.5,
        ),
        ({"part": "all", "score": "quality"}, lambda row: row["quality"] is not None),
    ],
)
def test_a_filter_selects_the_same_rows_as_a_loop(rows, options, is_shown):
    ids = ids_of(rows, **options)
    assert sorted(ids) == sorted(row["id"] for row in rows.table.to_dicts() if is_shown(row))
    assert ids


@pytest.mark.parametrize(("options", "fault"), [({"part": "none"}, "part"), ({"order": "size"}, "order"), ({"score": "x"}, "score"), ({"least": "one"}, "least"), ({"most": "nan"}, "most"), ({"state": "done"}, "state")])  # fmt: skip
def test_an_address_with_an_unknown_value_is_refused(rows, options, fault):
    with pytest.raises(DataError, match=f"the address has {fault}="):
        read_filter(options, rows.table)


def test_a_filter_survives_the_address(rows):
    from urllib.parse import parse_qsl

    chosen = Filter(part="all", category="a&b=c", text="#?é ", score="quality", least="-1.5", order="-quality")
    assert dict(parse_qsl(chosen.query(row="g001")))["row"] == "g001"
    assert read_filter(dict(parse_qsl(chosen.query())), rows.table) == Filter(part="all", category="a&b=c", text="#?é", score="quality", least="-1.5", order="-quality")  # fmt: skip
    assert Filter().query() == ""


def test_orders_by_id_and_by_figures(rows):
    assert ids_of(rows, order="id") == [f"g{n:03}" for n in range(36)]
    assert ids_of(rows, order="-quality")[:2] == ["g035", "g034"]
    without = [f"g{n:03}" for n in range(36, 42)]  # dropped before quality was measured
    assert ids_of(rows, order="quality", part="all")[-6:] == ids_of(rows, order="-quality", part="all")[-6:] == without


def test_borderline_first_takes_turns_and_begins_with_broken_constraints(run, rows):
    # By hand: no constraint is broken. Distances from the limit: quality 0 of each category, meaning 0.81 of 0.8 to 1 (0.05),
    # gain 0.06 of 0.05 (1/6), cosine 0.94 of 0.9 to 0.95 (0.2). Quality's first is g000.
    order = ids_of(rows)
    assert order[0] == "g000"
    assert order[1] == "g001"  # for its meaning
    assert rows.near["g001"].text == "rewriting: meaning 0.81, limit 0.8"
    assert order[2] in ("g003", "g006")
    assert rows.near[order[2]].text.startswith("cosine 0.94 with g00")
    broken = rows.table.with_columns(
        response=pl.when(pl.col("id") == "g005").then(pl.lit("All Of It.")).otherwise("response")
    )
    near, ranks = in_order(broken, None, run)
    assert ranks[broken["id"].to_list().index("g005")] == 0
    assert near["g005"].text == "breaks change_case:english_lowercase"


def test_dropped_rows_alternate_by_reason_with_the_nearest_to_its_limit_first(rows):
    order = ids_of(rows, part="dropped")
    reasons = dict(rows.table.select("id", "reason").iter_rows())
    assert {reasons[id] for id in order[:4]} == {"too_short", "near_duplicate", "seed_kept_apart", "over_quota"}
    assert order[:2] == ["g040", "g039"]  # 0.7 of 0.7, and 3 words of 3


def test_decisions_replace_columns_of_the_rows(rows):
    decisions = {
        "g000": accept(rows, "g000"), "g001": accept(rows, "g001", response="Other."), "g002": accept(rows, "g002", category="poetry"),
        "g003": Decision("g003", "reject", rows.identity("g003"), "t", "false"), "g036": accept(rows, "g036"),
        "g004": Decision("g004", "reject", "another row", "t"), "gone": Decision("gone", "reject", "x", "t"),
    }  # fmt: skip
    counted = rows.valid(decisions)
    assert set(counted) == {"g000", "g001", "g002", "g003", "g036"}
    table = overlaid(rows, counted)
    states = dict(table.select("id", "state").iter_rows())
    assert [states[f"g00{n}"] for n in range(5)] == ["accepted", "edited", "edited", "rejected", "undecided"]
    assert ids_of(rows, counted, category="poetry") == ["g002"]
    assert ids_of(rows, counted, text="other.") == ["g001"]
    assert sorted(ids_of(rows, counted, state="accepted", part="all")) == ["g000", "g001", "g002", "g036"]
    numbers = progress(table.filter(part="set")["state"])
    assert (numbers.rows, numbers.decided, numbers.accepted, numbers.edited, numbers.rejected) == (36, 4, 3, 2, 1)
    assert [(name, done.decided, done.rows) for name, done in by_category(table.filter(part="set"))] == [
        ("code", 2, 12), ("maths", 1, 12), ("poetry", 1, 1), ("writing", 0, 11),
    ]  # fmt: skip


def test_next_wraps_round_to_the_next_undecided_row(rows):
    options = {"order": "id", "category": "maths"}  # g001, g004, …, g034
    table = overlaid(rows, {"g004": accept(rows, "g004")})
    selected = select(table, read_filter(options, table))
    assert neighbours(selected, "g001") == (None, "g004", "g007")
    assert neighbours(selected, "g034") == ("g031", None, "g001")
    assert neighbours(selected, None) == (None, "g001", "g001")
    with_another = select(table, read_filter(options, table), "g003")
    assert neighbours(with_another, "g003") == ("g001", "g004", "g007")
    all_done = {id: accept(rows, id) for id in selected["id"]}
    table = overlaid(rows, all_done)
    assert neighbours(select(table, read_filter(options, table)), "g004")[2] is None


def test_the_view_of_a_row_has_its_facts_scores_parents_rewrites_and_relatives(rows):
    view = view_row(rows, "g001", None, 0)
    assert dict(view.facts) | {
        "source": "generated",
        "writer": "tiny@1",
        "license": "Apache-2.0",
        "split": "train",
        "depth": 1,
    } == dict(view.facts)
    assert [(name, value) for name, value, _ in view.scores] == [
        ("quality", 0.4),
        ("fit_gain", 0.06),
        ("nearest_cosine", 0.5),
    ]
    assert {name for name, _, _ in view.scores} <= SCORES.keys()
    assert [(one.id, one.instruction) for one in view.parents] == [("s1", "Seed 1")]
    assert "".join(text for _, text in view.rewritten.before) == "Here are 3 apples, I think."
    assert "".join(text for kind, text in view.rewritten.after if kind == "ins").split() == ["There"]
    assert [(one["text"], one["why"]) for one in view.rewritten.candidates] == [
        ("Some apples.", "rejected by numbers: 3 is gone (0.5, limit 1)")
    ]
    pair = view_row(rows, "g006", None, 0).relatives
    assert [(one.id, one.note, one.instruction) for one in pair] == [
        ("g003", "cosine 0.94; the order of the words differs", "Task number 3")
    ]
    dropped = view_row(rows, "g041", None, 0)
    assert (dropped.verdict["stage"], dropped.relatives[0].id) == ("near_duplicates", "g002")
    assert dropped.verdict["measured"] == pytest.approx(0.8)
    assert [one.id for one in view_row(rows, "g002", None, 0).relatives] == ["g040", "g041"]


def test_the_view_of_a_decided_row_marks_the_change_and_checks_its_constraints_again(rows):
    assert [one.satisfied for one in view_row(rows, "g005", None, 0).constraints] == [True]
    view = view_row(rows, "g005", accept(rows, "g005", response="all of it is SMALL."), 3)
    assert (view.state, view.version, [one.satisfied for one in view.constraints]) == ("edited", 3, [False])
    ((column, before, after),) = view.changes
    assert (column, [t for k, t in before if k == "del"], [t for k, t in after if k == "ins"]) == (
        "response",
        ["small"],
        ["SMALL"],
    )
    rejected = view_row(rows, "g005", Decision("g005", "reject", rows.identity("g005"), "t", "false"), 1)
    assert (rejected.state, rejected.changes) == ("rejected", [])


def test_a_decision_stays_valid_after_a_later_run_applied_its_texts(tmp_path):
    folder = make_run(tmp_path / "demo")
    digest = read_rows(folder).identity("g007")
    stages = dict(folder.stages())
    is_edited = pl.col("id") == "g007"
    edited = stages["style"].with_columns(
        instruction=pl.when(is_edited).then(pl.lit("Another task")).otherwise("instruction"),
        response=pl.when(is_edited).then(pl.lit("Another answer")).otherwise("response"),
        review=pl.when(is_edited).then(pl.lit("edited")),
    )
    nothing = with_verdicts(edited, {}).dropped
    for number, name in enumerate(("score", "select", "rewrite", "style", "review"), start=6):
        folder.write_stage(number, name, "f", edited, nothing)
    rows = read_rows(folder)
    assert rows.identity("g007") == digest == task_digest("Task number 7", "")
    assert rows.row("g007")["response"] == "Answer 7 is here."
    decision = Decision("g007", "accept", digest, "t", "", "Another task", "", "Another answer", "maths")
    assert rows.valid({"g007": decision})
    assert view_row(rows, "g007", decision, 1).texts["instruction"] == "Another task"


def test_an_unfinished_run_is_refused_in_one_line(tmp_path):
    folder = make_run(tmp_path / "demo")
    folder.stage_file(9, "style").unlink()
    with pytest.raises(DataError, match="the run is not finished, its last stage is rewrite"):
        read_rows(folder)


def test_a_run_made_anew_has_another_signature(tmp_path):
    folder = make_run(tmp_path / "demo")
    before = signature(folder)
    assert before == signature(folder)
    pl.read_parquet(folder.borderline).head(0).write_parquet(folder.borderline)
    assert before != signature(folder)
