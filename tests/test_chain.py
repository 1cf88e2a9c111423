"""Filters that judge a growing table, each row once, with the verdicts of the stages themselves."""

from collections import Counter

import polars as pl
import pytest

from kiloset.core.table import table_of, with_verdicts
from kiloset.filters import chain
from kiloset.filters.chain import FilterChain
from kiloset.filters.contamination import BENCHMARKS, ContaminationConfig, Prompts
from kiloset.filters.near_duplicates import NearDuplicatesConfig, drop_near_duplicates
from kiloset.filters.rules import RulesConfig, drop_by_rules

TOPICS = ["river", "stone", "candle", "market", "pencil", "thunder", "garden", "violin", "harbour", "lantern"]
LEAKED = "Explain in your own words why the old bridge over the river was closed for the whole winter."


def rows(number):
    """Good rows, and for every fifth a near copy, a refusal, a leaked prompt or personal data."""
    samples = []
    for at in range(number):
        topic, other = TOPICS[at % 10], TOPICS[at // 10 % 10]
        instruction = f"Write two sentences about a {topic} that somebody finds beside a {other} in year {1900 + at}."
        response = f"The {topic} lay beside the {other}. Nobody knew who had left it there, number {at}."
        kind = at % 5
        if kind == 1:
            instruction = samples[-1]["instruction"].replace("somebody", "someone")
        elif kind == 2:
            response = "I'm sorry, but I can't help with that."
        elif kind == 3 and at % 2:
            instruction = LEAKED
        elif kind == 4:
            response = f"{response} Write to a{at}.roe@acme.de."
        source = "seed" if at < 6 else "generated"
        samples.append(
            {"id": f"{source[0]}{at:04d}", "instruction": instruction, "response": response, "source": source,
             "category": "writing"}
        )  # fmt: skip
    return table_of(samples)


def filters(mode="flag"):
    prompts = Prompts(pl.DataFrame([(LEAKED, "test.jsonl:1")], schema=BENCHMARKS, orient="row"), ContaminationConfig())
    rules = RulesConfig(languages=("en",), personal_data=mode)
    return FilterChain(rules, NearDuplicatesConfig(), prompts, 0), rules, prompts


@pytest.mark.parametrize("mode", ["flag", "mask", "drop", "off"])
def test_a_table_that_grows_gets_the_verdicts_of_the_stages(mode):
    whole = rows(120)
    one, rules, prompts = filters(mode)
    for size in (30, 31, 80, 120):
        grown = one.candidates(whole[:size])
        distinct = drop_near_duplicates(drop_by_rules(whole[:size], rules).kept, NearDuplicatesConfig(), seed=0).kept
        assert grown.kept.equals(with_verdicts(distinct, prompts.repeated_by(distinct)).kept)
    outcome, _ = one.by_rules(whole)
    expected = drop_by_rules(whole, rules)
    assert outcome.kept.equals(expected.kept)
    assert outcome.dropped.equals(expected.dropped)
    assert {"response_refuses", "near_duplicate"} & set(outcome.dropped["reason"])
    assert outcome.dropped.height > 10


def test_each_row_is_judged_by_the_rules_once(monkeypatch):
    judged, whole = Counter(), rows(120)

    def counted(table, *arguments):
        judged.update(table["id"].to_list())
        return drop_by_rules(table, *arguments)

    monkeypatch.setattr(chain, "drop_by_rules", counted)
    one, *_ = filters()
    for size in (40, 90, 120):
        one.candidates(whole[:size])
    one.by_rules(whole)
    assert set(judged.values()) == {1}
    assert len(judged) == 120


def test_the_same_table_is_compared_for_near_duplicates_once_and_another_one_again(monkeypatch):
    times, whole = [], rows(60)

    def counted(table, *arguments, **options):
        times.append(table.height)
        return drop_near_duplicates(table, *arguments, **options)

    monkeypatch.setattr(chain, "drop_near_duplicates", counted)
    one, *_ = filters()
    one.candidates(whole)
    one.by_near_duplicates(one.by_rules(whole)[0].kept)
    assert len(times) == 1
    one.by_near_duplicates(whole)
    assert len(times) == 2


def test_a_row_whose_text_changed_is_judged_again():
    one, *_ = filters()
    whole = rows(20)
    one.candidates(whole)
    changed = whole.with_columns(
        response=pl.when(pl.col("id") == "g0010")
        .then(pl.lit("I'm sorry, but I can't help with that."))
        .otherwise("response")
    )
    dropped = one.by_rules(changed)[0].dropped
    assert "g0010" in dropped["id"].to_list()
    assert "g0010" not in one.by_rules(whole)[0].dropped["id"].to_list()


def test_personal_data_is_listed_from_the_texts_as_they_were():
    one, *_ = filters("mask")
    whole = rows(40)
    one.candidates(whole)
    outcome, personal = one.by_rules(whole)
    assert personal.height == sum("@" in text for text in whole["response"]) > 5
    assert not outcome.kept["response"].str.contains("@").any()
