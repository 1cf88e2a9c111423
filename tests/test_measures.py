"""Measures of many texts at once against those of one text, letter by letter."""

import sys

import polars as pl
import pytest

from kiloset.core.text import WORD, normal_form, repeat_rate, words
from kiloset.filters import measures
from kiloset.filters.measures import FIRST_WORD, WHITE, may_begin_alike, measured_where

EVERY = [chr(code) for code in range(sys.maxunicode + 1) if not 0xD800 <= code < 0xE000]


def test_white_space_is_what_python_strips() -> None:
    assert set(WHITE) == {char for char in EVERY if not char.strip()}


def test_words_are_those_of_core_text_for_every_character_with_case_and_every_hundredth_other() -> None:
    odd = [char for char in EVERY if char.lower() != char or char.casefold() != char or char.upper() != char]
    texts = [f"a{char}b {char} {char.upper()}{char.lower()}’s Σ-{char}" for char in odd + EVERY[::100]]
    hashes, sizes = measures._hashed(pl.Series(texts))
    expected = [words(text) for text in texts]
    assert sizes.tolist() == [len(row) for row in expected]
    assert hashes.tolist() == pl.Series([word for row in expected for word in row]).hash().to_list()


def test_the_pattern_of_words_knows_every_letter_as_python_does() -> None:
    pattern, _, _ = measures._alphabet()
    values = pl.Series(EVERY).str.contains(f"^(?:{pattern})$")
    assert [char for char, word in zip(EVERY, values, strict=True) if word != bool(WORD.fullmatch(char))] == []


def test_a_repeat_rate_holds_over_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    texts = ["one two three four five " * (n % 5) + f"and {n} more words here" for n in range(50)] + ["", "a b c", "."]
    monkeypatch.setattr(measures, "PART", 7)
    values = pl.DataFrame({"text": texts}).select(measures.repeat_rate("text")).to_series().to_list()
    assert values == [repeat_rate(text) for text in texts]


def test_texts_of_one_normal_form_may_begin_alike() -> None:
    after = [*" .,;=!-_'", "\u0301", "\u0338", "é", "™", "①", "ﬁ", "K", "\x00", "\x85", ""]
    texts = [
        f"{start}{word}{char} End"
        for start in ("", "“", "* ", "™ ")
        for word in ("Cafe", "caf", "a=", "CAFE")
        for char in after
    ]
    pairs = [(one, other) for one in texts for other in texts if normal_form(one) == normal_form(other)]
    alike = (
        pl.DataFrame(pairs, schema=["one", "other"], orient="row").select(may_begin_alike("one", "other")).to_series()
    )
    assert len(pairs) > len(texts)
    assert alike.all()
    assert (
        not pl.select(one=pl.lit("Rome is old"), other=pl.lit("Roman is old"))
        .select(may_begin_alike("one", "other"))
        .item()
    )
    assert pl.Series(["...Rome, the", "Römer", "", "Rom\u0301e"]).str.extract(FIRST_WORD).to_list() == [
        "Rome",
        None,
        None,
        None,
    ]


def test_only_suspicious_rows_are_measured_and_in_their_places() -> None:
    seen = []

    def measure(row: dict[str, str]) -> float:
        seen.append(row["text"])
        return float(len(row["text"]))

    rows = pl.DataFrame({"text": ["a", "", "ccc", "dd"]})
    values = rows.select(measured_where(pl.col("text") != "", ["text"], measure)).to_series().to_list()
    assert (values, seen) == ([1.0, None, 3.0, 2.0], ["a", "ccc", "dd"])
    assert rows.select(measured_where(pl.col("text") == "x", ["text"], measure)).to_series().to_list() == [None] * 4
    assert rows[:0].select(measured_where(pl.col("text") != "", ["text"], measure)).to_series().to_list() == []
