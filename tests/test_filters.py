"""Every filter works alone on a table; its docstring has an example."""

import doctest

import pytest

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
