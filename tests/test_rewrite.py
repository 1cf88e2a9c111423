"""Gate, then fit, with a base model whose answers and likelihoods are written down here."""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
from numpy.typing import NDArray

from kiloset.core.calls import CallStore
from kiloset.core.models import Completion, Message, Request
from kiloset.core.progress import Silent
from kiloset.core.recorded import RecordedEngine, RecordedScorer
from kiloset.core.table import Outcome, check_outcome, table_of
from kiloset.rewrite.gate import GateConfig, judge
from kiloset.rewrite.rewrite import RewriteConfig, guided_prompt, rewrite
from tests.fakes import InBatches

TASK = "Why does water boil?"
REFERENCE = "Water boils when its vapour reaches the pressure of the air above."
PLAIN = "As soon as its vapour presses as hard as the air above, water boils."
GUIDED = "Water boils once vapour and air press equally hard."
CLOSE = RewriteConfig(min_gain=0.125, keep_originals=0.0, max_opening_share=1.0)
"""A gain that floats hold exactly, and no originals kept."""


class Base(InBatches):
    """A base model: what it answers to each prompt, and what each response's tokens cost it."""

    identity = "base@1"

    def __init__(self, answers: Mapping[tuple[str, int], str], nats: Mapping[str, tuple[float, int]]) -> None:
        self.answers, self.nats = answers, nats
        self.requests: list[Request] = []
        self.scored: list[tuple[Sequence[Message], str]] = []

    def render(self, messages: Sequence[Message]) -> str:
        return f"<{messages[-1]['content']}>"

    def complete(self, requests: Sequence[tuple[str, Request]]) -> Iterator[tuple[str, Completion]]:
        for key, request in reversed(requests):  # finished in another order than asked
            self.requests.insert(0, request)
            yield key, Completion(self.answers[request.purpose, request.sample], "stop", 5, 7)

    def logprobs(self, prompts: Sequence[Sequence[Message]], responses: Sequence[str]) -> list[tuple[int, float, int]]:
        self.scored += zip(prompts, responses, strict=True)
        return [(at, *self.nats[response]) for at, response in enumerate(responses)]


class OneDirection:
    """An embedder for which all texts mean the same, except the texts that it is created with."""

    identity = "one direction"

    def __init__(self, foreign: Sequence[str] = ()) -> None:
        self.foreign = foreign

    def embed(self, texts: Sequence[str]) -> NDArray[np.float32]:
        return np.float32([[0.0, 1.0] if text in self.foreign else [1.0, 0.0] for text in texts])


def run(
    table: pl.DataFrame, base: Base, path: Path, config: RewriteConfig = CLOSE, *,
    gate: GateConfig | None = None, foreign: Sequence[str] = (),
) -> Outcome:  # fmt: skip
    store = CallStore(path / "calls.sqlite")
    engine, scorer = RecordedEngine(base, store, Silent()), RecordedScorer(base, store, Silent())
    outcome = rewrite(table, engine, scorer, OneDirection(foreign), config, gate or GateConfig())
    check_outcome("rewrite", table, outcome, creates=False)
    assert store.resent_after_completion() == 0
    gone = outcome.dropped["id"].to_list()
    assert outcome.kept["id"].to_list() == [id for id in table["id"] if id not in gone]
    assert outcome.kept["response_reason"].null_count() == 0
    store.close()
    return outcome


def one_row(response: str = REFERENCE, **context: Any) -> pl.DataFrame:
    row = {"id": "g00000", "instruction": TASK, "response": response, "category": "science", "calls": ["birth"]}
    return table_of([{**row, **context}])


def candidates_of(row: Mapping[str, Any]) -> list[tuple[Any, ...]]:
    return [(c["kind"], c["status"], c["check"]) for c in row["rewrites"]]


def test_a_candidate_that_breaks_a_constraint_of_its_row_is_rejected(tmp_path: Path) -> None:
    row = {"instruction": TASK, "response": REFERENCE, "category": "science", "calls": ["birth"]}
    table = table_of([
        {**row, "id": "g00000", "constraints": [{"id": "punctuation:no_comma", "args": "{}"}]},
        {**row, "id": "g00001"},
    ])  # fmt: skip
    nats = {REFERENCE: (-24.0, 12), PLAIN: (-4.0, 16), GUIDED: (-10.0, 10)}
    kept = run(table, Base({("plain", 1): PLAIN, ("guided", 1): GUIDED}, nats), tmp_path).kept.to_dicts()
    assert candidates_of(kept[0]) == [("plain", "rejected", "constraints"), ("guided", "chosen", None)]
    assert candidates_of(kept[1]) == [("plain", "chosen", None), ("guided", "passed", None)]
    assert [row["response"] for row in kept] == [GUIDED, PLAIN]


def test_the_likeliest_candidate_that_passes_the_gate_is_chosen(tmp_path: Path) -> None:
    nats = {REFERENCE: (-24.0, 12), PLAIN: (-20.0, 16), GUIDED: (-5.0, 5)}
    base = Base({("plain", 1): PLAIN, ("guided", 1): f"  {GUIDED}\n"}, nats)
    (row,) = run(one_row(), base, tmp_path).kept.to_dicts()

    # Per token: reference -2, plain -1.25, guided -1; by sums the guided one would win by another margin.
    assert (row["response"], row["original_response"], row["response_source"]) == (GUIDED, REFERENCE, "guided")
    assert (row["surprisal"], row["reference_surprisal"], row["fit_gain"]) == (1.0, 2.0, 1.0)
    assert (row["response_reason"], row["best_gain"]) == ("best_fit", 1.0)
    assert candidates_of(row) == [("plain", "passed", None), ("guided", "chosen", None)]
    assert [c["score"] for c in row["rewrites"]] == [-1.25, -1.0]
    keys = [request.key("base@1") for request in base.requests]
    assert row["calls"] == ["birth", *keys]


def test_a_further_answer_of_the_writer_is_a_candidate_that_costs_no_request(tmp_path: Path) -> None:
    wrong = "At the level of the sea, water boils at 90 degrees."
    nats = {REFERENCE: (-24.0, 12), PLAIN: (-4.0, 16), GUIDED: (-10.0, 10)}
    base = Base({("guided", 1): GUIDED}, nats)
    config = replace(CLOSE, plain=0)
    (row,) = run(one_row(others=[PLAIN, wrong]), base, tmp_path, config).kept.to_dicts()
    assert [(kind, status) for kind, status, _ in candidates_of(row)] == [
        ("plain", "chosen"),
        ("plain", "rejected"),
        ("guided", "passed"),
    ]
    assert (row["response"], row["response_source"]) == (PLAIN, "plain")
    assert row["calls"] == ["birth", *(request.key("base@1") for request in base.requests)]
    assert len(base.requests) == 1


def test_length_is_normalised_so_that_a_longer_candidate_can_win(tmp_path: Path) -> None:
    nats = {REFERENCE: (-24.0, 12), PLAIN: (-16.0, 16), GUIDED: (-10.0, 5)}
    base = Base({("plain", 1): PLAIN, ("guided", 1): GUIDED}, nats)
    (row,) = run(one_row(), base, tmp_path).kept.to_dicts()
    assert (row["response_source"], row["surprisal"], row["fit_gain"]) == ("plain", 1.0, 1.0)


def test_what_the_gate_rejects_is_named_and_never_scored_however_likely(tmp_path: Path) -> None:
    reference = "Water boils at 100 degrees at the level of the sea."
    wrong, foreign = "At the level of the sea, water boils at 90 degrees.", "Water is 100 times as wet as the sea is."
    base = Base({("plain", 1): wrong, ("guided", 1): foreign}, {reference: (-30.0, 10), wrong: (0.0, 9)})
    (row,) = run(one_row(reference), base, tmp_path, foreign=[foreign]).kept.to_dicts()
    assert (row["response"], row["original_response"], row["response_source"]) == (reference, None, "reference")
    assert candidates_of(row) == [("plain", "rejected", "numbers"), ("guided", "rejected", "meaning")]
    plain, guided = row["rewrites"]
    assert "100" in plain["evidence"]
    assert (guided["measured"], guided["limit"]) == (0.0, 0.8)
    assert [plain["text"], guided["text"]] == [wrong, foreign]
    assert [plain["score"], guided["score"]] == [None, None]
    assert [response for _, response in base.scored] == [reference]
    assert (row["surprisal"], row["fit_gain"]) == (3.0, 0.0)
    assert (row["response_reason"], row["best_gain"]) == ("nothing_passed", None)


def test_an_empty_candidate_is_rejected_as_unfinished(tmp_path: Path) -> None:
    base = Base({("plain", 1): " \n", ("guided", 1): ""}, {REFERENCE: (-24.0, 12)})
    (row,) = run(one_row(), base, tmp_path).kept.to_dicts()
    assert candidates_of(row) == [("plain", "rejected", "finished"), ("guided", "rejected", "finished")]


@pytest.mark.parametrize(
    ("total", "source"), [(-30.0, "plain"), (-30.0 - 2**-20, "reference"), (-32.0, "reference"), (-40.0, "reference")]
)
def test_a_gain_of_exactly_min_gain_replaces_the_reference_and_one_below_does_not(
    tmp_path: Path, total: float, source: str
) -> None:
    base = Base({("plain", 1): PLAIN}, {REFERENCE: (-24.0, 12), PLAIN: (total, 16)})  # -2 and -1.875
    config = RewriteConfig(min_gain=0.125, keep_originals=0.0, guided=0)
    (row,) = run(one_row(), base, tmp_path, config).kept.to_dicts()
    assert row["response_source"] == source
    assert candidates_of(row) == [("plain", "chosen" if source == "plain" else "passed", None)]
    assert row["fit_gain"] == (0.125 if source == "plain" else 0.0)
    assert row["response_reason"] == ("best_fit" if source == "plain" else "gain_too_small")
    assert row["best_gain"] == round(2.0 + total / 16, 4)


def test_likelihood_is_taken_under_the_task_alone_with_its_input(tmp_path: Path) -> None:
    base = Base({("plain", 1): PLAIN, ("guided", 1): GUIDED}, dict.fromkeys([REFERENCE, PLAIN, GUIDED], (-1.0, 1)))
    run(one_row(input="In a pot."), base, tmp_path)
    turn = f"{TASK}\n\nIn a pot."
    prompt = [{"role": "user", "content": turn}]
    assert base.scored == [(prompt, REFERENCE), (prompt, PLAIN), (prompt, GUIDED)]
    assert [(r.purpose, r.prompt, r.sample) for r in base.requests] == [
        ("plain", f"<{turn}>", 1),
        ("guided", f"<{guided_prompt(turn, REFERENCE)}>", 1),
    ]
    assert REFERENCE in base.requests[1].prompt
    # Twelve words of reference: 64 tokens and four a word.
    assert {(r.max_tokens, r.temperature, r.top_p) for r in base.requests} == {(112, 0.7, 0.9)}


def test_several_samples_of_each_kind_are_asked_for_by_number(tmp_path: Path) -> None:
    texts = {("plain", n): f"{PLAIN} Steam {'rises ' * n}" for n in (1, 2, 3)} | {("guided", n): GUIDED for n in (1, 2)}
    nats = {text.strip(): (-1.0, 1) for text in [*texts.values(), REFERENCE]}
    base = Base(texts, nats)
    run(one_row(), base, tmp_path, RewriteConfig(plain=3, guided=2, keep_originals=0.0))
    assert [(r.purpose, r.sample) for r in base.requests] == [
        ("plain", 1), ("plain", 2), ("plain", 3), ("guided", 1), ("guided", 2),
    ]  # fmt: skip


def test_short_references_cost_no_request(tmp_path: Path) -> None:
    rows = table_of(
        [{"id": f"g{n}", "instruction": TASK, "response": text, "category": "science"}
         for n, text in enumerate(["Yes", "It is so", "It is so now"])]
    )  # fmt: skip
    nats = {"Yes": (-1.0, 2), "It is so": (-1.0, 4), "It is so now": (-1.0, 5), PLAIN: (-9.0, 1)}
    base = Base({("plain", 1): PLAIN, ("guided", 1): PLAIN}, nats)
    kept = run(rows, base, tmp_path).kept
    assert [len(offered) for offered in kept["rewrites"]] == [0, 0, 2]
    assert len(base.requests) == 2
    assert kept["surprisal"].to_list() == [0.5, 0.25, 0.2]
    assert kept["response_reason"].to_list() == ["short_reference", "short_reference", "gain_too_small"]
    assert kept["best_gain"].null_count() == 2


class Ten(Base):
    """Answers the row number n with "… is n." and gains n / 8 nats per token by it."""

    def complete(self, requests: Sequence[tuple[str, Request]]) -> Iterator[tuple[str, Completion]]:
        for key, request in requests:
            self.requests.append(request)
            number = request.prompt.split("number ")[1].split()[0]
            yield key, Completion(f"It can be said that the answer is {number}.", "stop", 5, 7)

    def logprobs(self, prompts: Sequence[Sequence[Message]], responses: Sequence[str]) -> list[tuple[int, float, int]]:
        self.scored += zip(prompts, responses, strict=True)
        gains = [int(r.rstrip(".").split()[-1]) / 8 if r.startswith("It can") else 0.0 for r in responses]
        return [(at, (gain - 3.0) * 4, 4) for at, gain in enumerate(gains)]


def ten_rows() -> pl.DataFrame:
    return table_of(
        [{"id": f"g{n}", "instruction": f"What is number {n} ?", "response": f"The answer to this is {n}."}
         for n in (4, 0, 9, 1, 7, 3, 8, 2, 6, 5)]
    )  # fmt: skip


@pytest.mark.parametrize(
    ("share", "rewritten"),
    [(0.0, "23456789"), (0.2, "23456789"), (0.3, "3456789"), (0.45, "56789"), (0.5, "56789"), (0.9, "9"), (1.0, "")],
)
def test_a_share_of_originals_stays_and_the_smallest_gains_give_way(
    tmp_path: Path, share: float, rewritten: str
) -> None:
    config = RewriteConfig(
        guided=0, min_gain=0.25, keep_originals=share, max_opening_share=1.0
    )  # rows 0 and 1 gain too little
    kept = run(ten_rows(), Ten({}, {}), tmp_path, config).kept
    changed = kept.filter(pl.col("original_response").is_not_null())
    assert "".join(sorted(id[1:] for id in changed["id"])) == rewritten
    assert kept.filter(pl.col("response_source") == "reference").height >= share * 10
    for row in kept.to_dicts():
        number, ((kind, status, check),) = int(row["id"][1:]), candidates_of(row)
        enough = "best_fit" if str(number) in rewritten else "keep_originals"
        assert (kind, status) == ("plain", "chosen" if str(number) in rewritten else "passed")
        assert check is None
        assert row["response_reason"] == (enough if number >= 2 else "gain_too_small")
        assert row["best_gain"] == number / 8
        assert row["fit_gain"] == (number / 8 if str(number) in rewritten else 0.0)


def test_between_equal_gains_the_smaller_id_is_rewritten(tmp_path: Path) -> None:
    rows = table_of([{"id": id, "instruction": TASK, "response": REFERENCE} for id in ("g3", "g1", "g2")])
    base = Base({("plain", 1): PLAIN}, {REFERENCE: (-24.0, 12), PLAIN: (-16.0, 16)})
    kept = run(rows, base, tmp_path, RewriteConfig(guided=0, keep_originals=0.5)).kept
    assert kept["response_source"].to_list() == ["reference", "plain", "reference"]


def test_an_answer_has_an_original_only_if_it_was_rewritten(tmp_path: Path) -> None:
    rows = ten_rows()
    kept = run(rows, Ten({}, {}), tmp_path, RewriteConfig(guided=0, keep_originals=0.4)).kept
    for before, after in zip(rows.to_dicts(), kept.to_dicts(), strict=True):
        if after["response_source"] == "reference":
            assert (after["response"], after["original_response"]) == (before["response"], None)
        else:
            assert after["original_response"] == before["response"] != after["response"]
        unchanged = set(before) - {"response", "original_response", "calls"}
        assert {name: after[name] for name in unchanged} == {name: before[name] for name in unchanged}


def test_a_second_run_sends_nothing_and_ends_the_same(tmp_path: Path) -> None:
    first, again = Ten({}, {}), Ten({}, {})
    config = RewriteConfig(guided=0)
    outcome = run(ten_rows(), first, tmp_path, config)
    repeated = run(ten_rows(), again, tmp_path, config)
    assert (len(first.requests), len(first.scored)) == (10, 20)
    assert (again.requests, again.scored) == ([], [])
    assert repeated.kept.equals(outcome.kept)


def test_switched_off_everything_stays_and_is_still_scored(tmp_path: Path) -> None:
    base = Ten({}, {})
    kept = run(ten_rows(), base, tmp_path, RewriteConfig(enabled=False)).kept
    assert kept["response"].equals(ten_rows()["response"])
    assert (base.requests, len(base.scored)) == ([], 10)
    assert kept["surprisal"].to_list() == kept["reference_surprisal"].to_list() == [3.0] * 10
    assert kept["rewrites"].to_list() == [[]] * 10
    assert (set(kept["response_reason"]), kept["best_gain"].null_count()) == ({"off"}, 10)
    assert set(kept["fit_gain"]) == {0.0}
    assert kept["original_response"].null_count() == 10


def test_the_columns_are_the_same_with_and_without_rows(tmp_path: Path) -> None:
    full = run(ten_rows(), Ten({}, {}), tmp_path, RewriteConfig(guided=0)).kept
    none = run(table_of([]), Ten({}, {}), tmp_path).kept
    assert (none.height, none.schema) == (0, full.schema)


class Blind(Ten):
    """Cannot read whole what ends in one of these texts."""

    def __init__(self, *endings: str) -> None:
        super().__init__({}, {})
        self.endings = endings

    def logprobs(self, prompts: Sequence[Sequence[Message]], responses: Sequence[str]) -> list[tuple[int, float, int]]:
        result = super().logprobs(prompts, responses)
        return [(at, math.nan if responses[at].endswith(self.endings) else nats, 4) for at, nats, _ in result]


@pytest.mark.parametrize("enabled", [True, False])
def test_a_row_that_the_base_model_cannot_read_is_dropped_and_the_others_go_on(tmp_path: Path, enabled: bool) -> None:
    base, rows = Blind("to this is 3.", "to this is 9."), ten_rows()
    config = RewriteConfig(enabled=enabled, guided=0, min_gain=0.25, keep_originals=0.5, max_opening_share=1.0)
    outcome = run(rows, base, tmp_path, config)
    assert sorted([*outcome.kept["id"], *outcome.dropped["id"]]) == sorted(rows["id"])
    for row in outcome.dropped.to_dicts():
        assert row["reason"] == "too_long_for_base"
        assert row["evidence"] == "instruction, input and response are longer than the base model reads"
        assert {row[name] for name in ("measured", "limit", "twin", "surprisal", "best_gain", "response_reason")} == {
            None
        }
        assert (len(row["rewrites"]), len(row["calls"])) == ((1, 1) if enabled else (0, 0))
    assert outcome.dropped["id"].to_list() == ["g9", "g3"]
    assert not outcome.kept["surprisal"].is_nan().any()
    # Half of the eight rows that are left, not of the ten that came.
    changed = outcome.kept.filter(pl.col("response_reason") == "best_fit")["id"]
    assert sorted(changed) == (["g5", "g6", "g7", "g8"] if enabled else [])


def test_a_candidate_that_the_base_model_cannot_read_is_rejected_and_the_next_best_wins(tmp_path: Path) -> None:
    nats = {REFERENCE: (-24.0, 12), PLAIN: (math.nan, 16), GUIDED: (-5.0, 5)}
    for number, answers in enumerate([[PLAIN, GUIDED], [GUIDED, PLAIN], [PLAIN, PLAIN]]):
        base = Base({("plain", 1): answers[0], ("guided", 1): answers[1]}, nats)
        (tmp_path / str(number)).mkdir()
        (row,) = run(one_row(), base, tmp_path / str(number)).kept.to_dicts()
        expected = ("best_fit", GUIDED, 1.0) if GUIDED in answers else ("nothing_passed", REFERENCE, None)
        assert (row["response_reason"], row["response"], row["best_gain"]) == expected
        for offer in row["rewrites"]:
            unread = ("rejected", "too_long_for_base", None)
            messagess = (offer["status"], offer["check"], offer["score"])
            assert messagess == (unread if offer["text"] == PLAIN else ("chosen", None, -1.0))


@pytest.mark.parametrize(("share", "alike"), [(0.02, 3), (0.3, 3), (0.4, 4), (1.0, 8)])
def test_no_opening_becomes_common_by_rewriting(tmp_path: Path, share: float, alike: int) -> None:
    config = RewriteConfig(guided=0, min_gain=0.25, keep_originals=0.0, max_opening_share=share)
    kept = run(ten_rows(), Ten({}, {}), tmp_path, config).kept  # all candidates begin "It can be"
    reasons = {row["id"]: row["response_reason"] for row in kept.to_dicts()}
    assert [id for id in sorted(reasons) if reasons[id] == "best_fit"] == [f"g{n}" for n in range(10 - alike, 10)]
    assert [id for id in sorted(reasons) if reasons[id] == "opening_cap"] == [f"g{n}" for n in range(2, 10 - alike)]
    # The references all begin "The answer to", and may: that is none of rewriting's doing.
    assert kept.filter(pl.col("response").str.starts_with("The answer to")).height == 10 - alike


class Two(Ten):
    """Besides, a guided answer that begins as the reference does and gains a quarter as much."""

    def complete(self, requests: Sequence[tuple[str, Request]]) -> Iterator[tuple[str, Completion]]:
        guided = [(key, request) for key, request in requests if request.purpose == "guided"]
        yield from super().complete([(key, request) for key, request in requests if request.purpose != "guided"])
        for key, request in guided:
            number = request.prompt.split("number ")[1].split()[0]
            yield key, Completion(f"The answer to that is {number}.", "stop", 5, 7)

    def logprobs(self, prompts: Sequence[Sequence[Message]], responses: Sequence[str]) -> list[tuple[int, float, int]]:
        result = super().logprobs(prompts, responses)
        quarter = [int(r.rstrip(".").split()[-1]) / 8 if "to that" in r else 0.0 for r in responses]
        return [(at, nats + quarter[at], tokens) for at, nats, tokens in result]


def test_where_an_opening_is_taken_the_next_best_candidate_is(tmp_path: Path) -> None:
    config = RewriteConfig(min_gain=0.125, keep_originals=0.0)
    kept = run(ten_rows(), Two({}, {}), tmp_path, config).kept
    source = {row["id"]: (row["response_source"], row["response_reason"], row["fit_gain"]) for row in kept.to_dicts()}
    assert [source[f"g{n}"] for n in (7, 8, 9)] == [("plain", "best_fit", n / 8) for n in (7, 8, 9)]
    assert [source[f"g{n}"] for n in (4, 5, 6)] == [("guided", "best_fit", round(n / 32, 4)) for n in (4, 5, 6)]
    assert [source[f"g{n}"][:2] for n in (1, 2, 3)] == [
        ("reference", "opening_cap")
    ] * 3  # the guided gain is too small
    assert source["g0"][:2] == ("reference", "gain_too_small")
    assert kept.filter(pl.col("id") == "g4")["best_gain"].to_list() == [0.5]


def test_every_candidate_has_the_verdict_of_every_check_that_applies(tmp_path: Path) -> None:
    reference = "Water boils at 100 degrees at the level of the sea."
    wrong = "At the level of the sea, water boils at 90 degrees."
    base = Base({("plain", 1): wrong, ("guided", 1): PLAIN}, {reference: (-30.0, 10)})
    gate = GateConfig()
    (row,) = run(one_row(reference), base, tmp_path, gate=gate, foreign=[PLAIN]).kept.to_dicts()
    for offer, meaning in zip(row["rewrites"], (1.0, 0.0), strict=True):
        result = judge(
            TASK, reference, offer["text"], category="science", finish_reason="stop", meaning=meaning, config=gate
        )
        assert [tuple(v.values()) for v in offer["verdicts"]] == [
            (v.check, v.status, v.measured, v.limit) for v in result if v.status != "not_applicable"
        ]
        failed = [v["check"] for v in offer["verdicts"] if v["status"] == "failed"]
        assert failed[0] == offer["check"]
    assert failed == ["numbers", "new_clauses", "meaning"]


def test_sentences_are_compared_only_where_all_else_passes(tmp_path: Path) -> None:
    lost = "Steam then rises from the pot into the room above."
    reference, wrong = f"{REFERENCE} {lost}", f"{PLAIN} It takes 9 minutes."
    base = Base({("plain", 1): PLAIN, ("guided", 1): wrong}, {reference: (-30.0, 10)})
    (row,) = run(one_row(reference), base, tmp_path, foreign=[lost]).kept.to_dicts()
    assert candidates_of(row) == [("plain", "rejected", "sentences"), ("guided", "rejected", "new_numbers")]
    plain, guided = ({v["check"]: v for v in offer["verdicts"]} for offer in row["rewrites"])
    assert (plain["sentences"]["measured"], plain["new_sentences"]["status"]) == (0.0, "passed")
    assert "Steam then rises" in row["rewrites"][0]["evidence"]
    assert not {"sentences", "new_sentences"} & set(guided)
