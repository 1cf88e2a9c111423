"""The loop that asks for what is missing, with an engine whose answers are known beforehand."""

import dataclasses
import random
import re
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from kiloset.core.calls import CallStore
from kiloset.core.models import Request
from kiloset.core.progress import Silent
from kiloset.core.recorded import RecordedEngine
from kiloset.core.table import Outcome, check_outcome, table_of, with_verdicts
from kiloset.core.text import words
from kiloset.generator.loop import GenerationResult, generate
from kiloset.generator.settings import GenerateConfig
from kiloset.generator.templates import Templates
from tests.fakes import FakeEngine, plausible
from tests.test_novelty import longest_common_subsequence

WANTED = {"stories": 6, "summaries": 5}
TEMPLATES = Templates()
UNLIKE = [
    "amber", "birch", "cobalt", "delta", "ember", "fjord", "grove", "heron", "inlet", "juniper", "kelp", "lotus",
    "maple", "nectar", "onyx", "pearl", "quartz", "reed",
]  # fmt: skip


def unlike(key: str, length: int = 9) -> str:
    """Return words that no other key is likely to share in this order."""
    rng = random.Random(key)
    return " ".join(f"{rng.choice(UNLIKE)}{rng.randrange(1000)}" for _ in range(length))


def seeds_of(**categories: tuple[int, int]) -> pl.DataFrame:
    """Make seeds: category = (how many, how many of them with an input)."""
    rows: list[dict[str, Any]] = []
    for name, (count, inputs) in categories.items():
        for n in range(count):
            text = f"It is about {unlike(name + str(n))}." if n < inputs else ""
            rows.append(
                {
                    "id": f"s{len(rows) + 1:04d}", "instruction": f"Tell {unlike(f'{n} {name}')}.", "input": text, "response": "Done.",
                    "category": name, "category_source": "seed", "source": "seed", "writer": "human", "license": "MIT",
                }
            )  # fmt: skip
    return table_of(rows)


SEEDS = seeds_of(stories=(9, 0), summaries=(7, 7))


def keep_all(table: pl.DataFrame) -> Outcome:
    return with_verdicts(table, {})


def drop_where(predicate: Callable[[dict[str, Any]], bool], reason: str) -> Callable[[pl.DataFrame], Outcome]:
    def judge(table: pl.DataFrame) -> Outcome:
        verdict = {"reason": reason, "evidence": f"because {reason}", "measured": 1.0, "limit": 2.0}
        return with_verdicts(table, {row["id"]: verdict for row in table.iter_rows(named=True) if predicate(row)})

    return judge


@pytest.fixture
def store() -> Iterator[CallStore]:
    with closing(CallStore(Path(":memory:"))) as store:
        yield store


def loop(
    store: CallStore, engine: FakeEngine | None = None, *, table: pl.DataFrame = SEEDS, wanted: dict[str, int] | None = None,
    seed: int = 0, check_instructions: Any = keep_all, check_candidates: Any = keep_all, **settings: Any,
) -> Outcome:  # fmt: skip
    return generated(
        store,
        engine,
        table=table,
        wanted=wanted,
        seed=seed,
        check_instructions=check_instructions,
        check_candidates=check_candidates,
        **settings,
    ).outcome


def generated(
    store: CallStore, engine: FakeEngine | None = None, *, table: pl.DataFrame = SEEDS, wanted: dict[str, int] | None = None,
    seed: int = 0, check_instructions: Any = keep_all, check_candidates: Any = keep_all, lacking: Any = None, plan: bool = True, **settings: Any,
) -> GenerationResult:  # fmt: skip
    config = GenerateConfig(
        **{"strategies": {"self_instruct": 1.0}, "prompt_style": "continue", "least_yield": 0, **settings}
    )
    return generate(
        table, RecordedEngine(engine or FakeEngine(), store, Silent()), WANTED if wanted is None else wanted,
        config, TEMPLATES, seed=seed, license="Apache-2.0", check_instructions=check_instructions, check_candidates=check_candidates, lacking=lacking, plan=plan,
    )  # fmt: skip


def good(key: str, request: Request) -> tuple[str, str]:
    """Never fail."""
    return (unlike(key) if request.purpose != "response" else f"Here is {unlike(key, 3)}."), "stop"


def always(purpose: str, text: str, reason: str = "stop") -> FakeEngine:
    """Answer one kind of request always so, the others well."""
    return FakeEngine(answer=lambda key, request: (text, reason) if request.purpose == purpose else good(key, request))


def generated_rows(outcome: Outcome) -> pl.DataFrame:
    return pl.concat([outcome.kept, outcome.dropped], how="diagonal").filter(pl.col("source") == "generated").sort("id")


def calls_of(store: CallStore, keys: list[str]) -> list[dict[str, Any]]:
    return [call for key in keys if (call := store.call(key)) is not None]


def as_bytes(outcome: Outcome) -> tuple[str, str]:
    return outcome.kept.write_json(), outcome.dropped.write_json()


def test_ids_and_rows_do_not_depend_on_the_order_completions_come_in() -> None:
    results, orders = [], []
    for order in range(3):
        engine = FakeEngine(order=order)
        with closing(CallStore(Path(":memory:"))) as store:
            results.append(as_bytes(loop(store, engine)))
        orders.append(engine.sent)
    assert results[0] == results[1] == results[2]
    assert orders[0] != orders[1]
    assert sorted(orders[0]) == sorted(orders[1]) == sorted(orders[2])


def test_another_seed_shows_other_demonstrations(store: CallStore) -> None:
    first, second = generated_rows(loop(store, seed=0)), generated_rows(loop(store, seed=1))
    assert not {tuple(p) for p in first["parents"]} & {tuple(p) for p in second["parents"]}


def test_global_random_state_is_not_touched(store: CallStore) -> None:
    before = random.getstate()
    loop(store)
    assert random.getstate() == before


def test_completions_that_are_stored_already_are_not_sent_again(store: CallStore) -> None:
    first, second = FakeEngine(), FakeEngine()
    assert as_bytes(loop(store, first)) == as_bytes(loop(store, second))
    assert first.sent
    assert second.sent == []


@pytest.mark.parametrize("moment", [1, 30, 70])
def test_a_halted_loop_goes_on_with_the_rest_and_ends_the_same(store: CallStore, moment: int) -> None:
    whole = FakeEngine()
    with closing(CallStore(Path(":memory:"))) as other:
        expected = as_bytes(loop(other, whole))

    def halt(key: str, request: Request) -> tuple[str, str]:
        if len(halted.sent) == moment:
            raise KeyboardInterrupt
        return plausible(key, request)

    halted, rest = FakeEngine(answer=halt), FakeEngine()
    with pytest.raises(KeyboardInterrupt):
        loop(store, halted)
    assert as_bytes(loop(store, rest)) == expected
    assert len(halted.sent) == moment
    assert sorted(halted.sent + rest.sent) == sorted(whole.sent)


def test_every_completion_ends_in_one_row_that_is_kept_or_dropped_with_a_reason(store: CallStore) -> None:
    engine = FakeEngine()
    unlucky = drop_where(lambda row: row["id"].endswith("3"), "unlucky")
    outcome = loop(store, engine, wanted={"stories": 10, "summaries": 25}, check_candidates=unlucky)
    check_outcome("generate", SEEDS, outcome, creates=True)
    rows = generated_rows(outcome)
    assert rows["id"].to_list() == [f"g{n:05d}" for n in range(1, rows.height + 1)]
    assert sorted(key for keys in rows["calls"] for key in keys) == sorted(engine.sent)
    assert outcome.kept.filter(pl.col("response") == "").is_empty()
    assert outcome.dropped.filter(
        (pl.col("evidence").fill_null("") == "") | (pl.col("reason").fill_null("") == "")
    ).is_empty()
    assert {"instruction_cut", "instruction_unreadable", "not_new", "input_copied", "response_cut"} <= set(
        outcome.dropped["reason"]
    )


def test_the_table_stands_first_and_unchanged_in_what_is_kept(store: CallStore) -> None:
    table = SEEDS.with_columns(category_share=pl.lit(None, pl.Float64))
    kept = loop(store, table=table).kept
    assert kept.select(table.columns).head(table.height).equals(table)
    assert kept.height > table.height


def test_a_row_records_where_it_came_from(store: CallStore) -> None:
    row = loop(store, FakeEngine(answer=good), wanted={"summaries": 1}).kept.row(SEEDS.height, named=True)
    asked = calls_of(store, row["calls"])
    assert [call["purpose"] for call in asked] == ["instruction", "input", "response"]
    assert [row["instruction"], row["input"], row["response"]] == [call["text"] for call in asked]
    assert f"{row['instruction']}\n\n{row['input']}" in asked[2]["prompt"]
    assert {name: row[name] for name in ("category", "category_source", "source", "strategy", "writer", "license", "depth")} == {
        "category": "summaries", "category_source": "asked", "source": "generated", "strategy": "self_instruct",
        "writer": "fake@1", "license": "Apache-2.0", "depth": 1,
    }  # fmt: skip


def test_a_prompt_shows_six_seeds_and_two_new_rows_once_there_are_any(store: CallStore) -> None:
    unlucky = drop_where(lambda row: row["id"][-1] in "123456", "unlucky")
    outcome = loop(store, wanted={"stories": 6, "summaries": 8}, check_candidates=unlucky)
    # An instruction that is new may be shown, whatever became of its answer: a redone answer changes no prompt.
    read = pl.col("reason").fill_null("").str.contains("^instruction_|^not_new")
    good_ids = set(generated_rows(outcome).filter(~read)["id"])
    rows = {row["id"]: row for row in [*SEEDS.iter_rows(named=True), *generated_rows(outcome).iter_rows(named=True)]}
    mixes, places = set(), set()
    for row in generated_rows(outcome).iter_rows(named=True):
        parents = [rows[id] for id in row["parents"]]
        matches = re.findall(r"^\d+\. (.+)$", calls_of(store, row["calls"][:1])[0]["prompt"], re.MULTILINE)
        assert matches == [parent["instruction"] for parent in parents]
        assert {parent["category"] for parent in parents} == {row["category"]}
        machine = [parent for parent in parents if parent["source"] == "generated"]
        assert {parent["id"] for parent in machine} <= good_ids
        assert row["depth"] == 1 + max(parent["depth"] for parent in parents)
        mixes.add((row["category"], len(parents) - len(machine), len(machine)))
        places |= {parents.index(parent) for parent in machine}
    assert places == set(range(8))  # shuffled
    assert mixes == {("stories", 8, 0), ("stories", 6, 2), ("summaries", 7, 0), ("summaries", 6, 2)}


def test_a_category_with_one_seed_is_never_asked_the_same_twice(store: CallStore) -> None:
    engine = FakeEngine(answer=lambda key, request: ("same again and again", "stop"))
    outcome = loop(store, engine, table=seeds_of(few=(1, 0)), wanted={"few": 3}, max_waves=3)
    rows = generated_rows(outcome)
    assert len({keys[0] for keys in rows["calls"]}) == rows.height > 100
    assert sum(call["sent"] for call in store.account().values()) == len(engine.sent) == rows.height + 1


def scarce_stories(key: str, request: Request) -> tuple[str, str]:
    """Fail seven of eight instructions for a story."""
    if request.purpose == "instruction" and "kind: stories" in request.prompt and int(key[0], 16) >= 2:
        return "", "stop"
    return good(key, request)


def test_a_scarce_category_is_asked_for_again_until_it_has_enough(store: CallStore) -> None:
    outcome = loop(store, FakeEngine(answer=scarce_stories), wanted={"stories": 4, "summaries": 4})
    asked = Counter(generated_rows(outcome)["category"])
    got = Counter(outcome.kept.filter(pl.col("source") == "generated")["category"])
    assert got["stories"] >= 8
    assert got["summaries"] == asked["summaries"] == 16  # twice what is missing, since one in two is expected to pass
    assert asked["stories"] > 40


def test_what_the_judge_drops_is_kept_here_but_does_not_count(store: CallStore) -> None:
    unlucky = drop_where(lambda row: row["id"][-1] in "123456", "unlucky")
    outcome = loop(store, FakeEngine(answer=good), wanted={"stories": 8}, check_candidates=unlucky)
    judged = unlucky(outcome.kept.filter(pl.col("source") == "generated"))
    assert outcome.dropped.is_empty()
    assert judged.kept.height >= 16
    assert judged.kept.height + judged.dropped.height > 32  # the first wave's 32 leave 12


def test_what_the_screen_drops_carries_its_reason_and_costs_no_answer(store: CallStore) -> None:
    short = drop_where(lambda row: len(row["instruction"].split()) < 3, "instruction_too_short")
    outcome = loop(store, check_instructions=short)
    gone = outcome.dropped.filter(pl.col("reason") == "instruction_too_short")
    assert gone.height > 0
    assert short(outcome.kept).dropped.is_empty()
    assert gone.select("evidence", "measured", "limit", "twin").unique().rows() == [
        ("because instruction_too_short", 1.0, 2.0, None)
    ]
    assert gone["calls"].list.len().unique().to_list() == [1]


@pytest.mark.parametrize("most", [1, 2, 3, 10, 40, 100])
def test_the_budget_is_never_exceeded_and_nothing_is_left_half_done(store: CallStore, most: int) -> None:
    engine = FakeEngine()
    outcome = loop(store, engine, max_requests=most)
    assert len(engine.sent) <= most
    assert bool(engine.sent) == (most >= 2)  # a row takes two requests where the category has no inputs
    assert outcome.kept.filter(pl.col("response") == "").is_empty()


def test_the_waves_come_to_an_end_where_nothing_is_accepted(store: CallStore) -> None:
    engine = always("instruction", "")
    outcome = loop(store, engine, wanted={"stories": 1}, max_waves=3)
    assert outcome.kept.select(SEEDS.columns).equals(SEEDS)
    # missing 2 over one in two; then, with a standard deviation on top, over three quarters of 1/8 and over the least yield
    assert outcome.dropped.height == len(engine.sent) == 4 + 36 + 114


@pytest.mark.parametrize(
    ("wanted", "table"),
    [({"stories": 0}, SEEDS), ({}, SEEDS), ({"nobody": 3}, SEEDS), ({"stories": 3}, table_of([]))],
    ids=["none wanted", "no category", "a category without a seed", "no seeds"],
)
def test_what_cannot_or_need_not_be_asked_for_is_not(
    store: CallStore, wanted: dict[str, int], table: pl.DataFrame
) -> None:
    engine = FakeEngine()
    outcome = loop(store, engine, wanted=wanted, table=table)
    assert engine.sent == []
    assert outcome.kept.select(table.columns).equals(table)
    assert outcome.dropped.is_empty()


def test_pool_rows_count_as_candidates_and_are_not_demonstrations(store: CallStore) -> None:
    pool = SEEDS.head(5).with_columns(
        id="p" + pl.col("id"), source=pl.lit("pool"), instruction=pl.col("instruction") + " again and again and again"
    )
    outcome = loop(store, FakeEngine(answer=good), table=pl.concat([SEEDS, pool]), wanted={"stories": 3})
    assert (
        outcome.kept.filter(pl.col("source") == "generated").height == 2
    )  # 3 * 2 - 5 is missing, and one in two expected
    assert not {id for parents in generated_rows(outcome)["parents"] for id in parents} & set(pool["id"])


def test_what_is_not_new_names_the_nearest_of_all_there_is(store: CallStore) -> None:
    outcome = loop(store, wanted={"stories": 30})
    everything = {
        row["id"]: row for row in [*SEEDS.iter_rows(named=True), *generated_rows(outcome).iter_rows(named=True)]
    }
    unread = set(outcome.dropped.filter(pl.col("reason").str.starts_with("instruction_"))["id"])
    verdicts = {row["id"]: row for row in outcome.dropped.filter(pl.col("reason") == "not_new").iter_rows(named=True)}
    pool: dict[str, list[str]] = {}
    for id, row in everything.items():
        asked = words(row["instruction"])
        if id.startswith("g") and id not in unread:
            scores = {
                twin: 2 * longest_common_subsequence(asked, held) / (len(asked) + len(held))
                for twin, held in pool.items()
            }
            nearest = max(scores, key=lambda twin: scores[twin])
            assert (scores[nearest] > 0.7) == (id in verdicts)
            if id in verdicts:
                verdict = verdicts[id]
                assert (verdict["twin"], verdict["limit"]) == (nearest, 0.7)
                assert verdict["measured"] == pytest.approx(scores[nearest])
                assert verdict["evidence"] == f"ROUGE-L {scores[nearest]:.2f} > 0.70 with {nearest}"
        if id not in unread and id not in verdicts:
            pool[id] = asked
    assert {twin[0] for twin in outcome.dropped["twin"].drop_nulls()} == {"s", "g"}


@pytest.mark.parametrize(
    ("purpose", "part", "limit"),
    [("instruction", "instruction", 11), ("input", "input", 22), ("response", "response", 33)],
)
def test_a_cut_completion_is_dropped_with_its_length(store: CallStore, purpose: str, part: str, limit: int) -> None:
    engine = always(purpose, "and then we will", "length")
    limits = {"max_instruction_tokens": 11, "max_input_tokens": 22, "max_response_tokens": 33}
    outcome = loop(store, engine, wanted={"summaries": 1}, max_waves=1, **limits)
    assert outcome.dropped.select("reason", "measured", "limit").rows() == [(f"{part}_cut", limit, limit)] * 4
    assert all(f"the {part}" in evidence and f"{limit} tokens" in evidence for evidence in outcome.dropped["evidence"])
    assert outcome.dropped[part].to_list() == ["and then we will"] * 4


@pytest.mark.parametrize("purpose", ["instruction", "input", "response"])
def test_a_prompt_the_model_cannot_take_is_not_called_cut(store: CallStore, purpose: str) -> None:
    outcome = loop(store, always(purpose, "", "refused"), wanted={"summaries": 1}, max_waves=1)
    assert outcome.dropped["reason"].to_list() == ["prompt_too_long"] * 4
    for row in outcome.dropped.iter_rows(named=True):
        assert row["measured"] > 5
        assert f"the {purpose} has {row['measured']:.0f} tokens" in row["evidence"]
        assert store.call(row["calls"][-1]) is None  # a model that reads more may be asked again


@pytest.mark.parametrize(
    ("purpose", "text", "reason"),
    [
        ("instruction", ' ""', "instruction_unreadable"), ("input", " None.", "input_missing"),
        ("response", " \n", "response_empty"),
    ],
)  # fmt: skip
def test_an_empty_completion_is_dropped(store: CallStore, purpose: str, text: str, reason: str) -> None:
    outcome = loop(store, always(purpose, text), wanted={"summaries": 1}, max_waves=1)
    assert outcome.dropped["reason"].to_list() == [reason] * 4
    assert outcome.dropped["evidence"].str.len_chars().min() > 0


def test_an_input_copied_from_a_demonstration_names_it(store: CallStore) -> None:
    def copy(key: str, request: Request) -> tuple[str, str]:
        matches = re.findall(r"^Text: (.+)$", request.prompt, re.MULTILINE)
        return (f" {matches[1]} Indeed.", "stop") if request.purpose == "input" else good(key, request)

    outcome = loop(store, FakeEngine(answer=copy), wanted={"summaries": 1}, max_waves=1)
    inputs = dict(SEEDS.select("id", "input").iter_rows())
    assert outcome.dropped["reason"].to_list() == ["input_copied"] * 4
    for row in outcome.dropped.iter_rows(named=True):
        assert row["input"] == f"{inputs[row['twin']]} Indeed."
        assert row["measured"] == pytest.approx(2 * 12 / 25)  # 12 words of 12 and 13
        assert row["evidence"] == f"the input repeats {row['twin']} (ROUGE-L 0.96 > 0.70)"


def test_an_input_that_is_the_instruction_again_is_dropped_without_a_duplicate_id(store: CallStore) -> None:
    def echo(key: str, request: Request) -> tuple[str, str]:
        task = re.findall(r"^Task: (.+)$", request.prompt, re.MULTILINE)
        return (f" {task[-1]}", "stop") if request.purpose == "input" else good(key, request)

    outcome = loop(store, FakeEngine(answer=echo), wanted={"summaries": 1}, max_waves=1)
    evidence = "the input repeats the instruction (ROUGE-L 1.00 > 0.70)"
    assert outcome.dropped.select("reason", "evidence", "twin").rows() == [("input_copied", evidence, None)] * 4


@pytest.mark.parametrize(
    ("inputs", "share", "asked"),
    [(0, 0.5, 0), (3, 0.5, 0), (4, 0.5, 1), (8, 0.5, 1), (1, 0.0, 1), (0, 0.0, 0), (7, 1.0, 0)],
)
def test_only_categories_whose_seeds_have_inputs_are_asked_for_one(
    store: CallStore, inputs: int, share: float, asked: int
) -> None:
    table = seeds_of(some=(8, inputs))
    outcome = loop(store, FakeEngine(answer=good), table=table, wanted={"some": 2}, input_share=share)
    rows = generated_rows(outcome)
    assert store.account().get("input", {"sent": 0})["sent"] == asked * rows.height
    assert {bool(text) for text in rows["input"]} == {bool(asked)}


def test_requests_carry_the_settings_of_their_kind(store: CallStore) -> None:
    seen: dict[str, Request] = {}

    def note(key: str, request: Request) -> tuple[str, str]:
        seen[request.purpose] = dataclasses.replace(request, prompt="", sample=0)
        return good(key, request)

    loop(store, FakeEngine(answer=note), temperature=0.9, top_p=0.8, response_temperature=0.1,
         max_instruction_tokens=11, max_input_tokens=22, max_response_tokens=33)  # fmt: skip
    assert seen == {
        "instruction": Request("", "instruction", 11, 0.9, 0.8, ("\n",), raw=True),
        "input": Request("", "input", 22, 0.9, 0.8, ("\n\n", "\nTask:", "\nText:"), raw=True),
        "response": Request("", "response", 33, 0.1, 0.8),
    }
