"""The seeds that come with the project: what README and issue promise of them."""

import json
from collections import Counter

from kiloset.core.text import words
from kiloset.data.examples import load_pool
from kiloset.filters.rules import RulesConfig, drop_by_rules
from kiloset.generator.novelty import NoveltyIndex
from tests.paths import ROOT

PATH = ROOT / "seeds" / "seeds.jsonl"


def test_there_are_enough_of_every_category_and_all_are_ours():
    rows = [json.loads(line) for line in PATH.read_text(encoding="utf-8").splitlines()]
    counts = Counter(row["category"] for row in rows)
    assert len(rows) >= 180
    assert len(counts) >= 12
    assert min(counts.values()) >= 14
    assert {row["license"] for row in rows} == {"Apache-2.0"}
    assert any(row["input"] for row in rows)
    assert any(not row["input"] for row in rows)


def test_answers_are_as_long_as_the_task_needs():
    rows = [json.loads(line) for line in PATH.read_text(encoding="utf-8").splitlines()]
    lengths = [len(row["response"].split()) for row in rows]
    assert min(lengths) == 1
    assert max(lengths) <= 250


def test_none_repeats_another_and_none_breaks_a_rule_made_for_machines():
    table = load_pool(str(PATH), license="unknown")
    index = NoveltyIndex()
    for id, instruction in table.select("id", "instruction").iter_rows():
        assert words(instruction)
        assert index.nearest(instruction, 0.7) is None, f"{id} repeats an instruction before it"
        index.add(id, instruction)
    dropped = drop_by_rules(table, RulesConfig()).dropped
    assert dropped.select("id", "reason", "instruction").rows() == []
