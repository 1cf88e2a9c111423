"""Quality against z-scores computed by hand."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import polars as pl
import pytest
from numpy.typing import NDArray

from kiloset.core.config import parse
from kiloset.core.errors import ConfigError
from kiloset.core.models import Request
from kiloset.core.table import table_of
from kiloset.filters.quality import QualityConfig, with_quality
from kiloset.filters.rules import RulesConfig
from tests.fakes import FakeEmbedder, FakeEngine


class Directions:
    """An embedder of known directions, stated as angles in degrees."""

    identity = "directions"

    def __init__(self, angles: Mapping[str, float]) -> None:
        self.angles = angles

    def embed(self, texts: Sequence[str]) -> NDArray[np.float32]:
        turns = np.radians([self.angles[text] for text in texts])
        return np.stack([np.cos(turns), np.sin(turns)], axis=1).astype(np.float32)


def scored(table: pl.DataFrame, embedder: Any = None, **weights: float) -> pl.DataFrame:
    return with_quality(table, QualityConfig(**weights), RulesConfig(), embedder or FakeEmbedder())


ROWS = [
    # category, instruction, input, angle of both together, words of the response, its angle
    ("maths", "add", "", 0.0, 2, 10.0),
    ("maths", "multiply", "3 by 4", 20.0, 8, 80.0),
    ("maths", "divide", "", 90.0, 30, 90.0),
    ("maths", "halve", "", 45.0, 400, 75.0),
    ("poems", "rhyme", "", 30.0, 5, 60.0),
    ("poems", "scan", "a line", 10.0, 5, 100.0),
]


def table() -> tuple[pl.DataFrame, Directions]:
    rows, angles = [], {}
    for number, (category, instruction, text, angle, length, answer_angle) in enumerate(ROWS):
        response = " ".join(f"r{number}w{i}" for i in range(length))
        rows.append(
            {"id": f"g{number}", "category": category, "instruction": instruction, "input": text, "response": response}
        )
        angles[f"{instruction}\n\n{text}" if text else instruction] = angle
        angles[response] = answer_angle
    return table_of(rows), Directions(angles)


def z_scores(values: list[float]) -> NDArray[np.float64]:
    known = np.array(values)
    return (known - known.mean()) / known.std() if known.std() else np.zeros(len(known))


def test_quality_is_the_weighted_sum_of_z_scores_within_the_category() -> None:
    rows, embedder = table()
    result = scored(rows, embedder=embedder, relevance_weight=2.0, length_weight=0.5)

    cosines = [math.cos(math.radians(a - b)) for *_, a, _, b in ROWS]
    assert result["relevance"].to_list() == pytest.approx(cosines, abs=6e-5)
    assert result["response_words"].to_list() == [2, 8, 30, 400, 5, 5]
    # The 90th percentile of four lengths, the nearest one, is the longest; of two equal ones it is that length.
    maths = 2 * z_scores(cosines[:4]) + 0.5 * z_scores([math.log(length) for length in (2, 8, 30, 400)])
    poems = 2 * z_scores(cosines[4:])
    assert result["quality"].to_list() == pytest.approx([*maths, *poems], abs=1e-3)
    assert poems.tolist() == pytest.approx([2, -2])


def test_length_beyond_the_ninetieth_percentile_earns_nothing() -> None:
    lengths = [*range(10, 101, 10), 900]  # of eleven values, number ten (100) is the 90th percentile
    rows = table_of(
        [{"id": f"g{n:02d}", "instruction": "i", "response": " ".join(["r"] * n)} for n in lengths],
    )
    angles = dict.fromkeys([*rows["response"], "i"], 0.0)
    result = scored(rows, embedder=Directions(angles), length_weight=1.0)
    capped = z_scores([math.log(min(length, 100)) for length in lengths])
    assert result["quality"].to_list() == pytest.approx(capped.tolist(), abs=1e-6)
    assert result["quality"][-1] == result["quality"][-2]


def test_what_does_not_vary_counts_nothing() -> None:
    rows, embedder = table()
    alone = scored(rows[:1], embedder=embedder)
    assert alone["quality"].to_list() == [0.0]
    weightless = scored(rows, embedder=embedder, relevance_weight=0.0, length_weight=0.0)
    assert weightless["quality"].to_list() == [0.0] * 6


def test_the_rows_stay_as_they_were_and_in_their_order() -> None:
    rows, embedder = table()
    backwards = rows.reverse()
    result = scored(backwards, embedder=embedder)
    assert result.select(rows.columns).equals(backwards)
    assert result.reverse().equals(scored(rows, embedder=embedder))


def test_a_table_without_rows_gets_the_columns() -> None:
    result = scored(table_of([]))
    assert result.height == 0
    assert all(
        result.schema[name] == pl.Float64 for name in ("relevance", "response_words", "rule_nearness", "quality")
    )


def four(**more: Any) -> pl.DataFrame:
    answers = ["one one one", "two two", "three", "four four"]
    return table_of(
        [{"id": f"g{n}", "instruction": f"i{n}", "response": text, **more} for n, text in enumerate(answers)]
    )


FOUR = {"one one one": (-4.0, -8.0), "two two": (-2.0, -16.0), "three": (-9.0, -8.0), "four four": (-6.0, -8.0)}
"""Nats of four tokens: mean losses of 1, 0.5, 2.25 and 1.5 with the instruction, of 2, 4, 2 and 2 without."""
ONLY_IFD: dict[str, Any] = {"relevance_weight": 0.0, "length_weight": 0.0, "ifd_weight": 2.0}


class Votes(FakeEngine):
    """Answers "i<n>" by what is written under n, and rates by the row's number."""

    def __init__(self, *answers: Sequence[str]) -> None:
        super().__init__(answer=self._vote)
        self.answers = answers

    def _vote(self, key: str, request: Request) -> tuple[str, str]:
        if request.purpose == "judge":
            return ("3", "4", "five", "1")[int(request.prompt.split("task\ni")[1][0])], "stop"
        assert (request.purpose, request.temperature, request.top_p, request.max_tokens) == (
            "consistency",
            0.5,
            0.9,
            64,
        )
        return self.answers[int(request.prompt.split("i")[1][0])][request.sample - 1], "stop"


def test_nearness_to_breaking_a_rule_is_subtracted() -> None:
    lengths = [80, 400, 800]
    rows = table_of(
        [{"id": f"g{n}", "instruction": "say w", "response": " ".join(f"w{i}" for i in range(n))} for n in lengths]
    )
    result = scored(rows, relevance_weight=0.0, length_weight=0.0, nearness_weight=3.0)
    assert result["rule_nearness"].to_list() == [0.1, 0.5, 1.0]
    assert result["quality"].to_list() == pytest.approx((-3 * z_scores([0.1, 0.5, 1.0])).tolist(), abs=1e-5)


def test_any_text_has_a_quality() -> None:
    texts = ["", " ", "\0", "w " * 50_000, "東京", "🙂", "x\u202ey", "<|im_end|>\n", "{{ 7 * 7 }}", "5"]
    rows = table_of([{"id": f"g{n}", "instruction": text, "response": text} for n, text in enumerate(texts)])
    result = scored(rows, nearness_weight=1.0)
    assert result["quality"].is_finite().all()


def test_a_setting_out_of_range_is_refused() -> None:
    from kiloset.settings import RunConfig

    with pytest.raises(ConfigError, match=r"\[quality\] length_weight must be greater than or equal to 0, got -1.0"):
        parse(RunConfig, {"quality": {"length_weight": -1.0}})
