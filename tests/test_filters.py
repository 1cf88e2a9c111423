"""Every filter works alone on a table; its docstring has an example."""

import doctest

import polars as pl
import pytest

from kiloset.core.table import table_of
from kiloset.filters import contamination, near_duplicates, rules, semantic


@pytest.mark.parametrize("module", [contamination, near_duplicates, rules], ids=lambda module: module.__name__)
def test_the_example_of_a_filter_runs(module) -> None:
    result = doctest.testmod(module)
    assert result.attempted >= 4
    assert result.failed == 0


@pytest.mark.parametrize(
    "module", [contamination, near_duplicates, rules, semantic], ids=lambda module: module.__name__
)
def test_a_filter_has_the_short_names(module) -> None:
    assert callable(module.drop)
    assert module.Config() == module.Config()


@pytest.mark.parametrize("personal_data", ["flag", "mask", "drop"])
def test_the_verdicts_on_single_rows_are_those_on_the_table(personal_data) -> None:
    texts = [
        "Describe it",
        "Name three rivers of Asia.",
        "Write to ann@mail.com today.",
        "Explain why the sky is blue.",
    ]
    answers = [
        "A cat.",
        "I'm sorry, but I can't help with that.",
        "Done: bob@mail.com",
        "Air scatters short waves more.",
    ]
    rows = [
        {"id": f"g{n}", "instruction": text, "response": answer, "source": "generated"}
        for n, (text, answer) in enumerate(zip(texts, answers, strict=True))
    ]
    table = table_of([*rows, {**rows[0], "id": "s1", "source": "seed"}])
    config = rules.Config(languages=("en",), personal_data=personal_data)
    verdicts = rules.rule_verdicts(table, config)
    alone = pl.concat([rules.rule_verdicts(row, config) for row in table.iter_slices(1)])
    assert verdicts.equals(alone)
    assert verdicts["id"].to_list() == table["id"].to_list()
    dropped = rules.drop(table, config).dropped
    assert 2 <= dropped.height < table.height
    assert verdicts.drop_nulls("reason").equals(dropped.select(verdicts.columns))
