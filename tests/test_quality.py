"""Quality against z-scores computed by hand, with models whose likelihoods and answers are written down here."""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
from numpy.typing import NDArray

from kiloset.core.calls import CallStore
from kiloset.core.config import parse
from kiloset.core.errors import ConfigError
from kiloset.core.models import Message, Request, Silent
from kiloset.core.recorded import RecordedEngine, RecordedScorer
from kiloset.core.table import table_of
from kiloset.filters.quality import TERMS, QualityConfig, weighed, with_measured, with_quality
from kiloset.filters.rules import RulesConfig
from tests.fakes import FakeEmbedder, FakeEngine, FakeScorer


class Directions:
    """An embedder of known directions, told as angles in degrees."""

    identity = "directions"

    def __init__(self, angles: Mapping[str, float]) -> None:
        self.angles = angles

    def embed(self, texts: Sequence[str]) -> NDArray[np.float32]:
        turns = np.radians([self.angles[text] for text in texts])
        return np.stack([np.cos(turns), np.sin(turns)], axis=1).astype(np.float32)


class Unasked:
    """A model that nothing may be asked of."""

    identity = "unasked"
    templated = raw = transparent = structured = True

    def refuse(self, *_: Any) -> Any:
        raise AssertionError("a term of weight 0 was paid for")

    render = submit = receive = logprobs = refuse


class Known:
    """A scorer that knows each answer's `(nats, tokens)` with an instruction and without."""

    identity = "known"

    def __init__(self, nats: Mapping[str, tuple[float, float]]) -> None:
        self.nats = nats
        self.asked: list[tuple[str, str]] = []

    def logprobs(self, prompts: Sequence[Sequence[Message]], responses: Sequence[str]) -> list[tuple[int, float, int]]:
        self.asked += [(prompt[0]["content"], response) for prompt, response in zip(prompts, responses, strict=True)]
        assert all([message["role"] for message in prompt] == ["user"] for prompt in prompts)
        pairs = zip(prompts, responses, strict=True)
        return [(at, self.nats[r][0 if p[0]["content"] else 1], 4) for at, (p, r) in enumerate(pairs)]


def judged(
    table: pl.DataFrame, path: Path, *, embedder: Any = None, scorer: Any = None, engine: Any = None, judge: Any = None,
    candidates: pl.Expr | None = None, **config: Any,
) -> pl.DataFrame:  # fmt: skip
    store = CallStore(path / "calls.sqlite")
    found = with_quality(
        table, QualityConfig(**config), rules=RulesConfig(), embedder=embedder or FakeEmbedder(),
        scorer=RecordedScorer(scorer or Unasked(), store, Silent()),
        generator=RecordedEngine(engine or Unasked(), store, Silent()),
        judge=RecordedEngine(judge or Unasked(), store, Silent()),
        sampling={"max_tokens": 64, "temperature": 0.5, "top_p": 0.9}, candidates=candidates,
    )  # fmt: skip
    assert store.resent_after_completion() == 0
    store.close()
    return found


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


def test_quality_is_the_weighted_sum_of_z_scores_within_the_category(tmp_path: Path) -> None:
    rows, embedder = table()
    found = judged(rows, tmp_path, embedder=embedder, relevance_weight=2.0, length_weight=0.5)

    cosines = [math.cos(math.radians(a - b)) for *_, a, _, b in ROWS]
    assert found["relevance"].to_list() == pytest.approx(cosines, abs=6e-5)
    assert found["response_words"].to_list() == [2, 8, 30, 400, 5, 5]
    # The 90th percentile of four lengths, the nearest one, is the longest; of two equal ones it is that length.
    maths = 2 * z_scores(cosines[:4]) + 0.5 * z_scores([math.log(length) for length in (2, 8, 30, 400)])
    poems = 2 * z_scores(cosines[4:])
    assert found["quality"].to_list() == pytest.approx([*maths, *poems], abs=1e-3)
    assert poems.tolist() == pytest.approx([2, -2])


def test_length_beyond_the_ninetieth_percentile_earns_nothing(tmp_path: Path) -> None:
    lengths = [*range(10, 101, 10), 900]  # of eleven values, number ten (100) is the 90th percentile
    rows = table_of(
        [{"id": f"g{n:02d}", "instruction": "i", "response": " ".join(["r"] * n)} for n in lengths],
    )
    angles = dict.fromkeys([*rows["response"], "i"], 0.0)
    found = judged(rows, tmp_path, embedder=Directions(angles), length_weight=1.0)
    capped = z_scores([math.log(min(length, 100)) for length in lengths])
    assert found["quality"].to_list() == pytest.approx(capped.tolist(), abs=1e-6)
    assert found["quality"][-1] == found["quality"][-2]


def test_what_does_not_vary_counts_nothing(tmp_path: Path) -> None:
    rows, embedder = table()
    alone = judged(rows[:1], tmp_path, embedder=embedder)
    assert alone["quality"].to_list() == [0.0]
    weightless = judged(rows, tmp_path, embedder=embedder, relevance_weight=0.0, length_weight=0.0)
    assert weightless["quality"].to_list() == [0.0] * 6


def test_the_rows_stay_as_they_were_and_in_their_order(tmp_path: Path) -> None:
    rows, embedder = table()
    backwards = rows.reverse()
    models: dict[str, Any] = {"embedder": embedder, "scorer": FakeScorer(), "ifd_weight": 1.0}
    found = judged(backwards, tmp_path, **models)
    assert found.select(rows.columns).equals(backwards)
    assert found.reverse().equals(judged(rows, tmp_path, **models))


def test_a_table_without_rows_gets_the_columns(tmp_path: Path) -> None:
    found = judged(table_of([]), tmp_path, ifd_weight=1.0, consistency_weight=1.0, judge_weight=1.0)
    assert found.height == 0
    assert {name: found.schema[name] for name in TERMS} == TERMS
    assert found.schema["quality"] == pl.Float64


def test_by_default_no_model_but_the_embedder_is_asked_and_what_it_would_measure_is_null(tmp_path: Path) -> None:
    rows, embedder = table()
    found = judged(rows, tmp_path, embedder=embedder)
    assert found.columns == [*rows.columns, *TERMS, "quality"]
    for name in ("surprisal", "ifd", "consistency", "judge", "judge_ratings"):
        assert found[name].null_count() == 6
    for name in ("relevance", "response_words", "rule_nearness"):
        assert found[name].null_count() == 0


def four(**more: Any) -> pl.DataFrame:
    answers = ["one one one", "two two", "three", "four four"]
    return table_of(
        [{"id": f"g{n}", "instruction": f"i{n}", "response": text, **more} for n, text in enumerate(answers)]
    )


FOUR = {"one one one": (-4.0, -8.0), "two two": (-2.0, -16.0), "three": (-9.0, -8.0), "four four": (-6.0, -8.0)}
"""Nats of four tokens: mean losses of 1, 0.5, 2.25 and 1.5 with the instruction, of 2, 4, 2 and 2 without."""
ONLY_IFD: dict[str, Any] = {"relevance_weight": 0.0, "length_weight": 0.0, "ifd_weight": 2.0}


def test_ifd_is_the_ratio_of_mean_losses_with_and_without_the_instruction(tmp_path: Path) -> None:
    scorer = Known(FOUR)
    found = judged(four(input="x"), tmp_path, scorer=scorer, **ONLY_IFD)
    assert found["surprisal"].to_list() == [1.0, 0.5, 2.25, 1.5]
    assert found["ifd"].to_list() == [0.5, 0.125, 1.125, 0.75]
    # Below 0.3 and from 1 on it counts as 0.3.
    assert found["quality"].to_list() == pytest.approx((2 * z_scores([0.5, 0.3, 0.3, 0.75])).tolist(), abs=1e-5)
    texts = four()["response"].to_list()
    assert sorted(scorer.asked) == sorted(
        [(f"i{n}\n\nx", text) for n, text in enumerate(texts)] + [("", t) for t in texts]
    )


def test_likelihoods_are_computed_once_also_for_whoever_asks_later(tmp_path: Path) -> None:
    first = judged(four(), tmp_path, scorer=Known(FOUR), **ONLY_IFD)
    again = Known(FOUR)
    assert judged(four(), tmp_path, scorer=again, **ONLY_IFD).equals(first)
    assert again.asked == []
    more = pl.concat([table_of([{"id": "h", "instruction": "i9", "response": "three"}]), four()])
    assert judged(more, tmp_path, scorer=again, **ONLY_IFD)["ifd"].to_list()[1:] == first["ifd"].to_list()
    assert again.asked == [("i9", "three")]  # without an instruction it is known


def test_a_row_too_long_for_the_base_model_has_no_ifd_and_counts_as_the_mean(tmp_path: Path) -> None:
    scorer = Known(FOUR | {"two two": (math.nan, -16.0), "three": (-0.0, 0.0)})
    found = judged(four(), tmp_path, scorer=scorer, **ONLY_IFD)
    assert found["surprisal"].to_list() == [1.0, None, 0.0, 1.5]
    assert found["ifd"].to_list() == [0.5, None, None, 0.75]
    assert found["quality"].to_list() == [-2.0, 0.0, 0.0, 2.0]
    assert ("", "two two") not in scorer.asked


def test_models_are_asked_of_candidates_alone(tmp_path: Path) -> None:
    scorer = Known(FOUR)
    candidates = pl.col("id").is_in(["g1", "g3"])
    found = judged(four(), tmp_path, scorer=scorer, candidates=candidates, **ONLY_IFD)
    assert found["ifd"].to_list() == [None, 0.125, None, 0.75]
    assert found["relevance"].null_count() == 0
    assert {response for _, response in scorer.asked} == {"two two", "four four"}


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


def test_consistency_and_ratings_are_columns_and_terms(tmp_path: Path) -> None:
    engine = Votes(["One one one!", "two"], ["two two", "so two two"], ["3", "4"], ["four", "five"])
    weights: dict[str, Any] = {
        "relevance_weight": 0.0,
        "length_weight": 0.0,
        "consistency_weight": 1.0,
        "judge_weight": 0.5,
    }
    samples: dict[str, Any] = {"consistency_samples": 2, "judge_samples": 1}
    found = judged(four(), tmp_path, engine=engine, judge=engine, **weights, **samples)
    assert found["consistency"].to_list() == [0.5, 1.0, 0.0, 0.0]
    assert found["judge"].to_list() == [3.0, 4.0, None, 1.0]
    assert found["judge_ratings"].to_list() == [1, 1, 0, 1]
    rated = z_scores([3.0, 4.0, 1.0]) * 0.5
    expected = np.add(z_scores([0.5, 1.0, 0.0, 0.0]), [rated[0], rated[1], 0.0, rated[2]])
    assert found["quality"].to_list() == pytest.approx(expected.tolist(), abs=1e-5)
    assert judged(four(), tmp_path, engine=engine, judge=engine, **weights, **samples).equals(found)
    assert len(engine.sent) == 4 * 2 + 4


def test_nearness_to_breaking_a_rule_is_subtracted(tmp_path: Path) -> None:
    lengths = [80, 400, 800]
    rows = table_of(
        [{"id": f"g{n}", "instruction": "say w", "response": " ".join(f"w{i}" for i in range(n))} for n in lengths]
    )
    found = judged(rows, tmp_path, relevance_weight=0.0, length_weight=0.0, nearness_weight=3.0)
    assert found["rule_nearness"].to_list() == [0.1, 0.5, 1.0]
    assert found["quality"].to_list() == pytest.approx((-3 * z_scores([0.1, 0.5, 1.0])).tolist(), abs=1e-5)


def test_terms_measured_before_are_taken_as_they_were_and_a_row_without_them_counts_as_the_mean(tmp_path: Path) -> None:
    rows, embedder = table()
    weights = QualityConfig(ifd_weight=1.0)
    found = judged(rows, tmp_path, embedder=embedder, scorer=FakeScorer(), ifd_weight=1.0)
    measured = found.select("id", "ifd", "surprisal", "quality").reverse()
    again = with_measured(rows, measured, weights, rules=RulesConfig(), embedder=embedder)
    assert again.equals(found)
    without = found.with_columns(ifd=pl.when(pl.col("id") != "g1").then("ifd"))
    some = with_measured(
        rows, without.select("id", "ifd", "surprisal"), weights, rules=RulesConfig(), embedder=embedder
    )
    assert some.equals(weighed(without, weights))
    nothing = with_measured(rows, rows.select("id"), weights, rules=RulesConfig(), embedder=embedder)
    assert nothing["ifd"].null_count() == rows.height
    assert nothing.schema == found.schema


def test_other_weights_need_nothing_but_the_columns(tmp_path: Path) -> None:
    rows, embedder = table()
    found = judged(rows, tmp_path, embedder=embedder, scorer=FakeScorer(), ifd_weight=1.0)
    other: dict[str, Any] = {"relevance_weight": 0.2, "length_weight": 0.7, "nearness_weight": 0.1, "ifd_weight": 0.3}
    expected = judged(rows, tmp_path, embedder=embedder, scorer=FakeScorer(), **other)
    assert weighed(found, QualityConfig(**other)).equals(expected)
    assert not expected["quality"].equals(found["quality"])


def test_any_text_has_a_quality(tmp_path: Path) -> None:
    texts = ["", " ", "\0", "w " * 50_000, "東京", "🙂", "x\u202ey", "<|im_end|>\n", "{{ 7 * 7 }}", "5"]
    rows = table_of([{"id": f"g{n}", "instruction": text, "response": text} for n, text in enumerate(texts)])
    engine = FakeEngine(answer=lambda _, request: ("東京" if request.purpose == "consistency" else "2", "stop"))
    weights: dict[str, Any] = {
        "nearness_weight": 1.0,
        "ifd_weight": 1.0,
        "consistency_weight": 1.0,
        "judge_weight": 1.0,
    }
    found = judged(rows, tmp_path, scorer=FakeScorer(), engine=engine, judge=engine, **weights)
    assert found["quality"].is_finite().all()
    assert found["consistency"][4] == 1.0
    assert found["judge"].to_list() == [2.0] * len(texts)


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ({"ifd_weight": -1.0}, r"\[quality\] ifd_weight must be greater than or equal to 0, got -1.0"),
        ({"judge_samples": 0}, r"\[quality\] judge_samples must be greater than or equal to 1, got 0"),
    ],
)
def test_a_setting_out_of_range_is_refused(setting: dict[str, Any], message: str) -> None:
    from kiloset.settings import RunConfig

    with pytest.raises(ConfigError, match=message):
        parse(RunConfig, {"quality": setting})
