"""Quality against z-scores computed by hand."""

import math
from collections.abc import Mapping, Sequence

import numpy as np
import polars as pl
import pytest
from numpy.typing import NDArray

from core.table import table_of
from filters.quality import QualityConfig, with_quality


class Directions:
    """An embedder of known directions, told as angles in degrees."""

    identity = "directions"

    def __init__(self, angles: Mapping[str, float]) -> None:
        self.angles = angles

    def embed(self, texts: Sequence[str]) -> NDArray[np.float32]:
        turns = np.radians([self.angles[text] for text in texts])
        return np.stack([np.cos(turns), np.sin(turns)], axis=1).astype(np.float32)


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
    for number, (category, instruction, given, angle, length, answer_angle) in enumerate(ROWS):
        response = " ".join(f"r{number}w{i}" for i in range(length))
        rows.append(
            {"id": f"g{number}", "category": category, "instruction": instruction, "input": given, "response": response}
        )
        angles[f"{instruction}\n\n{given}" if given else instruction] = angle
        angles[response] = answer_angle
    return table_of(rows), Directions(angles)


def z_scores(values: list[float]) -> NDArray[np.float64]:
    known = np.array(values)
    return (known - known.mean()) / known.std() if known.std() else np.zeros(len(known))


def test_quality_is_the_weighted_sum_of_z_scores_within_the_category() -> None:
    rows, embedder = table()
    found = with_quality(rows, embedder, QualityConfig(relevance_weight=2.0, length_weight=0.5))

    cosines = [math.cos(math.radians(a - b)) for *_, a, _, b in ROWS]
    assert found["relevance"].to_list() == pytest.approx(cosines, abs=6e-5)
    assert found["response_words"].to_list() == [2, 8, 30, 400, 5, 5]
    # The 90th percentile of four lengths, the nearest one, is the longest; of two equal ones it is that length.
    maths = 2 * z_scores(cosines[:4]) + 0.5 * z_scores([math.log(length) for length in (2, 8, 30, 400)])
    poems = 2 * z_scores(cosines[4:])
    assert found["quality"].to_list() == pytest.approx([*maths, *poems], abs=1e-3)
    assert poems.tolist() == pytest.approx([2, -2])


def test_length_beyond_the_ninetieth_percentile_earns_nothing() -> None:
    lengths = [*range(10, 101, 10), 900]  # of eleven values, number ten (100) is the 90th percentile
    rows = table_of(
        [{"id": f"g{n:02d}", "instruction": "i", "response": " ".join(["r"] * n)} for n in lengths],
    )
    angles = dict.fromkeys([*rows["response"], "i"], 0.0)
    found = with_quality(rows, Directions(angles), QualityConfig(relevance_weight=1.0, length_weight=1.0))
    capped = z_scores([math.log(min(length, 100)) for length in lengths])
    assert found["quality"].to_list() == pytest.approx(capped.tolist(), abs=1e-6)
    assert found["quality"][-1] == found["quality"][-2]


def test_what_does_not_vary_counts_nothing() -> None:
    rows, embedder = table()
    alone = with_quality(rows[:1], embedder, QualityConfig())
    assert alone["quality"].to_list() == [0.0]
    weightless = with_quality(rows, embedder, QualityConfig(relevance_weight=0.0, length_weight=0.0))
    assert weightless["quality"].to_list() == [0.0] * 6


def test_the_rows_stay_as_they_were_and_in_their_order() -> None:
    rows, embedder = table()
    backwards = rows.reverse()
    found = with_quality(backwards, embedder, QualityConfig())
    assert found.select(rows.columns).equals(backwards)
    assert found.reverse().equals(with_quality(rows, embedder, QualityConfig()))


def test_a_table_without_rows_gets_the_columns() -> None:
    found = with_quality(table_of([]), Directions({}), QualityConfig())
    assert found.height == 0
    assert [found.schema[name] for name in ("relevance", "response_words", "quality")] == [pl.Float64] * 3
