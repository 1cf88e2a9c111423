import ast
import re
from math import isnan, nan

import pytest

from kiloset.core.text import normal_form
from kiloset.evaluation.bundled import bundled_rows
from kiloset.evaluation.drift import kl_metric, nll_metrics, passages

OWN = re.compile(r"written for this project, [\w ]+")
PUBLIC = re.compile(r"[A-Z]\w+(?: \w+)+, .+, (\d{4})")


def rows():
    return bundled_rows("passages")


def test_there_are_eighteen_passages_of_prose_and_six_of_code_and_none_twice():
    result = passages()
    assert len(result) == len({key for key, _ in result}) == len({normal_form(text) for _, text in result}) == 24
    assert [row["kind"] for row in rows()] == ["prose"] * 18 + ["code"] * 6
    assert [key.startswith("code_") for key, _ in result] == [False] * 18 + [True] * 6


def test_every_passage_has_80_to_200_words():
    assert [key for key, text in passages() if not 80 <= len(text.split()) <= 200] == []


def test_every_passage_is_our_own_or_names_author_title_and_a_year_long_past():
    for row in rows():
        public = PUBLIC.fullmatch(row["source"])
        assert OWN.fullmatch(row["source"]) or (public and int(public[1]) < 1900), row["source"]


def test_the_python_passages_are_python():
    sources = [text for key, text in passages() if key.startswith("code_python")]
    assert len(sources) == 2
    for source in sources:
        ast.parse(source)


def test_loss_is_per_token_and_apart_for_prose_and_code():
    prose, code = nll_metrics({"austen": (-30.0, 10), "blake": (-10.0, 10), "code_c_list": (-8.0, 16)})
    assert (prose.name, prose.unit, prose.better) == ("NLL of prose", "nats per token", "lower")
    assert (prose.sums, prose.counts) == ({"austen": 30.0, "blake": 10.0}, {"austen": 10.0, "blake": 10.0})
    assert (prose.mean, code.name, code.mean) == (2.0, "NLL of code", 0.5)


def test_divergence_is_per_token():
    result = kl_metric({"a": (3.0, 4), "b": (0.0, 2)})
    assert (result.name, result.better, result.mean) == ("KL to base", "lower", 0.5)


def test_a_text_without_a_score_is_left_out():
    prose, code = nll_metrics({"austen": (nan, 5), "blake": (-4.0, 2), "code_c_list": (nan, 9)})
    assert (prose.sums, prose.counts) == ({"blake": 4.0}, {"blake": 2.0})
    assert isnan(code.mean)
    assert kl_metric({"a": (nan, 7), "b": (1.0, 4)}).mean == pytest.approx(0.25)
