"""The ranker against losses, accuracies and files made by hand."""

import json
import random
import struct
from typing import Any

import numpy as np
import polars as pl
import pytest
import torch

from kiloset.core.errors import DataError
from kiloset.core.form import FORM_COLUMNS
from kiloset.core.table import full_instruction, table_of
from kiloset.rewrite import ranker
from kiloset.rewrite.ranker import Answers, Ranker, beats_length, load_ranker, train_ranker, usable
from kiloset.rewrite.rewrite import REWRITE
from tests.fakes import ADJECTIVES, NOUNS, PLACES, FakeEmbedder


def candidate(kind: str, text: str, *failed: str) -> dict[str, Any]:
    """Return a candidate that fails these checks of the gate and passes another."""
    checks = {"meaning": "passed", **dict.fromkeys(failed, "failed")}
    verdicts = [{"check": check, "status": status, "measured": None, "limit": None} for check, status in checks.items()]
    return {**dict.fromkeys(REWRITE), "kind": kind, "text": text, "verdicts": verdicts}


def table(*rows: tuple[str, list[dict[str, Any]]]) -> pl.DataFrame:
    """Return rewritten rows of reference and candidates."""
    made = table_of([
        {"id": f"g{n:03d}", "instruction": f"Tell of number {n}.", "response": text, "category": "open_qa"}
        for n, (text, _) in enumerate(rows)
    ])  # fmt: skip
    return made.with_columns(rewrites=pl.Series([row[1] for row in rows], dtype=pl.List(pl.Struct(REWRITE))))


def sentence(rng: random.Random, *more: str) -> str:
    told = [*rng.sample(NOUNS, 3), rng.choice(ADJECTIVES), rng.choice(PLACES), *more]
    rng.shuffle(told)
    return " ".join(told).capitalize() + "."


def triples(
    rows: int, plain: tuple[str, ...] = (), guided: tuple[str, ...] = (), human: tuple[str, ...] = ()
) -> pl.DataFrame:
    """Return rows of three answers of random words, and of these words besides."""
    rng = random.Random(0)
    return table(*(
        (sentence(rng, *human), [candidate("plain", sentence(rng, *plain)), candidate("guided", sentence(rng, *guided))])
        for _ in range(rows)
    ))  # fmt: skip


def trained(rows: pl.DataFrame, **more: Any) -> tuple[Ranker, dict[str, Any]]:
    found, figures = train_ranker(rows, FakeEmbedder(), **{"seed": 0, "min_rows": 5, **more})
    assert found is not None
    return found, figures


@pytest.fixture(scope="module")
def separable() -> pl.DataFrame:
    return triples(60, plain=("certainly", "indeed"), guided=("certainly", "perhaps"), human=("aye", "perhaps"))


@pytest.fixture(scope="module")
def made(separable: pl.DataFrame) -> tuple[Ranker, dict[str, Any]]:
    return trained(separable)


def by_hand(weights: dict[str, Any], inputs: Any, pairs: Any, triples: Any) -> float:
    """Return the loss of some rows, pair by pair."""

    def layer(name: str, x: Any) -> Any:
        return np.array(
            [weights[f"{name}.weight"][n] @ x + weights[f"{name}.bias"][n] for n in range(len(weights[f"{name}.bias"]))]
        )

    def relu(x: Any) -> Any:
        return np.where(x > 0, x, 0)

    width = len(inputs[0]) - 8
    surprisal = [relu(layer("surprisal", x[:width])) for x in inputs]
    form = [relu(layer("form", x[width:])) for x in inputs]
    score = [
        layer("score", relu(layer("hidden", np.concatenate(both))))[0] for both in zip(surprisal, form, strict=True)
    ]

    def apart(space: Any, anchor: int, near: int, far: int) -> float:
        return max(0.0, np.linalg.norm(space[anchor] - space[near]) - np.linalg.norm(space[anchor] - space[far]) + 1.0)

    total = 0.0
    for row in {*pairs[:, 0]}:
        for kind in range(3):
            mine = [max(0.0, 0.5 - (score[a] - score[b])) for r, k, a, b in pairs if (r, k) == (row, kind)]
            total += sum(mine) / max(len(mine), 1)
        mine = [
            (apart(surprisal, guided, human, plain) + apart(form, plain, guided, human)) / 2
            for r, plain, guided, human in triples if r == row
        ]  # fmt: skip
        total += 0.1 * sum(mine) / max(len(mine), 1)
    return total


# Row 0 has two plain answers (1, 2), a guided one (3) and its reference (0); row 1 has no guided one.
PAIRS = np.array([[0, 0, 1, 3], [0, 0, 2, 3], [0, 1, 3, 0], [0, 2, 1, 0], [0, 2, 2, 0], [1, 2, 5, 4]])
TRIPLES = np.array([[0, 1, 3, 0], [0, 2, 3, 0]])


@pytest.fixture
def batch() -> tuple[dict[str, Any], Any]:
    rng = np.random.default_rng(1)
    inputs = rng.standard_normal((6, INPUTS))
    weights = ranker._initial(inputs, torch.Generator().manual_seed(0))
    return weights, inputs


INPUTS = 4 + len(FORM_COLUMNS)


@pytest.mark.parametrize(("pairs", "triples"), [(PAIRS, TRIPLES), (PAIRS[5:], TRIPLES[:0]), (PAIRS[:3], TRIPLES[:1])])
def test_the_loss_is_that_of_pairs_and_triples_one_by_one(batch, pairs, triples):
    weights, inputs = batch
    found = ranker.loss(weights, torch.from_numpy(inputs), pairs, triples)
    assert found.item() == pytest.approx(
        by_hand({k: v.numpy() for k, v in weights.items()}, inputs, pairs, triples), rel=1e-5
    )


@pytest.mark.parametrize("name", ["surprisal.weight", "form.weight", "hidden.bias", "score.weight"])
def test_its_gradient_is_what_a_small_step_changes(batch, name):
    weights, inputs = batch
    weights[name].requires_grad_()
    ranker.loss(weights, torch.from_numpy(inputs), PAIRS, TRIPLES).backward()
    plain = {k: v.detach().numpy().copy() for k, v in weights.items()}
    step = np.random.default_rng(2).standard_normal(plain[name].shape) * 1e-6
    up, down = ({**plain, name: plain[name] + sign * step} for sign in (1, -1))
    changed = by_hand(up, inputs, PAIRS, TRIPLES) - by_hand(down, inputs, PAIRS, TRIPLES)
    assert changed / 2 == pytest.approx(float((weights[name].grad.numpy() * step).sum()), rel=1e-3)


def test_answers_told_apart_by_a_word_are_ranked_right_unseen(made):
    _, figures = made
    found = figures["accuracy"]
    assert found["all"]["pairs"] == 180
    assert all(found[kind]["ranker"] > 0.9 for kind in found)
    assert all(found[kind]["low"] <= found[kind]["ranker"] <= found[kind]["high"] for kind in found)
    assert found["all"]["gain_low"] > 0


def test_answers_that_are_all_alike_are_ranked_by_chance_unseen_though_learnt_by_heart():
    rows = triples(60)
    made, figures = trained(rows)
    assert figures["accuracy"]["all"]["ranker"] == pytest.approx(0.5, abs=0.1)
    assert figures["accuracy"]["all"]["low"] < 0.5 < figures["accuracy"]["all"]["high"]
    answers = usable(rows)
    scores = made.scores(answers.turns, answers.texts, FakeEmbedder())
    assert (scores[answers.pairs[:, 2]] > scores[answers.pairs[:, 3]]).mean() > 0.7


def test_no_ranker_is_asked_of_an_answer_to_a_turn_it_was_trained_on(monkeypatch):
    rows = triples(20).with_columns(instruction=pl.Series([f"Tell of {n // 2}." for n in range(20)]))
    answers, turns = usable(rows), full_instruction(rows)
    fitted, asked = [], []

    def fit(answers, inputs, seen, seed):
        fitted.append({turns[row] for row in seen})
        return {}

    def scores(weights, inputs):
        asked.append({answers.turns[int(at)] for at in inputs[:, 0]})
        return np.zeros(len(inputs))

    monkeypatch.setattr(ranker, "_fit", fit)
    monkeypatch.setattr(ranker, "_scores", scores)
    ranker._held_out(answers, np.arange(len(answers.texts))[:, None], 0)
    assert len(fitted) == 5
    assert all(len(asks) == 2 and len(seen) == 8 and not asks & seen for asks, seen in zip(asked, fitted, strict=True))
    assert set().union(*asked) == set(turns)


def test_the_same_bits_come_out_on_any_number_of_threads_and_torch_is_left_as_it_was(separable, monkeypatch):
    before, forward = torch.get_num_threads(), ranker.forward
    found, used = [], set()

    def watched(*given):
        used.add(torch.get_num_threads())  # matrices as small as here are not shared out anyway
        return forward(*given)

    monkeypatch.setattr(ranker, "forward", watched)
    try:
        for threads in (1, 3):
            torch.set_num_threads(threads)
            state = torch.random.get_rng_state()
            made, figures = trained(separable)
            scores = made.scores(full_instruction(separable), separable["response"].to_list(), FakeEmbedder())
            found.append((made.as_bytes(), scores.tobytes(), figures))
            assert torch.get_num_threads() == threads
            assert torch.random.get_rng_state().equal(state)
    finally:
        torch.set_num_threads(before)
    assert found[0] == found[1]
    assert used == {1}
    assert trained(separable, seed=1)[0].as_bytes() != found[0][0]


def test_trivial_rankers_and_the_share_ranked_right_are_as_counted_pair_by_pair():
    rng = np.random.default_rng(0)
    texts = ["x" * int(n) for n in rng.integers(1, 6, 60)]
    pairs = np.array([[n // 3, n % 3, *rng.choice(60, 2, replace=False)] for n in range(90)])
    scores = rng.integers(0, 4, 60).astype(float)
    found = ranker._accuracies(Answers([""] * 60, texts, pairs, PAIRS[:0], {}), scores, 0)

    def share(kind, better):
        mine = [pair for pair in pairs.tolist() if kind in (None, pair[1])]
        return sum((a := better(x)) > (b := better(y)) or (a == b) / 2 for _, _, x, y in mine) / len(mine)

    for kind, name in (
        (None, "all"),
        (0, "plain_over_guided"),
        (1, "guided_over_reference"),
        (2, "plain_over_reference"),
    ):
        assert found[name]["ranker"] == pytest.approx(share(kind, lambda n: scores[n]), abs=1e-4)
        assert found[name]["shorter"] == pytest.approx(share(kind, lambda n: -len(texts[n])), abs=1e-4)
        assert found[name]["longer"] == pytest.approx(share(kind, lambda n: len(texts[n])), abs=1e-4)
        best = max(found[name]["shorter"], found[name]["longer"])
        assert found[name]["gain"] == pytest.approx(found[name]["ranker"] - best, abs=2e-4)


def test_an_interval_over_rows_is_as_wide_as_rows_are_many():
    # Every row's pairs are all right or all wrong: 4 rows of 100 pairs tell no more than 4 of one.
    def width(rows, each):
        pairs = np.array(
            [[row, 0, 2 * row + row % 2, 2 * row + 1 - row % 2] for row in range(rows) for _ in range(each)]
        )
        scores = np.tile([1.0, 0.0], rows)
        found = ranker._accuracy(pairs, scores, np.zeros(2 * rows), np.random.default_rng(0))
        assert (found["rows"], found["pairs"], found["ranker"]) == (rows, rows * each, 0.5)
        return found["high"] - found["low"]

    assert width(4, 1) == width(4, 100) == 1.0
    uneven = np.array([[0, 0, 0, 1]] * 100 + [[row, 0, 1, 0] for row in (1, 2, 3)])
    found = ranker._accuracy(uneven, np.array([1.0, 0.0]), np.zeros(2), np.random.default_rng(0))
    assert (found["low"], found["high"]) == (0.0, 0.9967)  # 300 of 301: that row drawn three times, as in 5 % of draws
    assert width(400, 3) == pytest.approx(2 * 1.96 * 0.5 / 400**0.5, rel=0.1)


def test_too_few_rows_make_no_ranker_and_no_figure_is_pretended():
    rows = triples(9)
    assert train_ranker(rows, FakeEmbedder(), seed=0, min_rows=10) == (
        None, {"rows": 9, "unused": {"guided": {}, "plain": {}}, "trained": False, "why": "too_few_rows"},
    )  # fmt: skip
    assert train_ranker(table(), FakeEmbedder(), seed=0, min_rows=1)[0] is None
    assert trained(rows, min_rows=9)[1]["rows"] == 9


def test_no_text_stands_twice_in_a_row_and_what_is_not_well_formed_is_counted():
    reference = "The cat sleeps in Lima for 3 days."
    rows = table(
        (reference, [
            candidate("plain", "Cats sleep."),
            candidate("plain", "Cats sleep."),
            candidate("plain", reference),
            candidate("plain", "I cannot help with that.", "numbers", "refusal", "repetition"),
            candidate("plain", "It sleeps and", "finished", "meaning"),
            candidate("plain", "A cat sleeps in Oslo.", "numbers", "meaning", "length"),
            candidate("guided", "In Lima it sleeps 3 days."),
            candidate("guided", "It sleeps.", "numbers"),
            candidate("guided", "The cat sleeps 3 days long in Lima."),
        ]),
        ("None to compare.", [candidate("guided", "None to compare.")]),
        ("Nor here.", []),
    )  # fmt: skip
    found = usable(rows)
    assert found.texts == [
        reference, "Cats sleep.", "A cat sleeps in Oslo.", "In Lima it sleeps 3 days.", "The cat sleeps 3 days long in Lima.",
    ]  # fmt: skip
    assert found.unused == {
        "plain": {"finished": 1, "refusal": 1, "repeats": 2},
        "guided": {"numbers": 1, "repeats": 1},
    }
    kinds = {0: {(1, 3), (1, 4), (2, 3), (2, 4)}, 1: {(3, 0), (4, 0)}, 2: {(1, 0), (2, 0)}}
    assert {tuple(pair) for pair in found.pairs} == {
        (0, kind, *pair) for kind, pairs in kinds.items() for pair in pairs
    }
    assert {tuple(each) for each in found.triples} == {(0, plain, guided, 0) for plain in (1, 2) for guided in (3, 4)}
    assert found.rows.tolist() == [0]


def test_the_reference_of_a_rewritten_row_is_its_earlier_answer():
    rows = table(("The rewrite.", [candidate("guided", "The rewrite.")]))
    found = usable(rows.with_columns(original_response=pl.lit("The reference.")))
    assert found.texts == ["The reference.", "The rewrite."]
    assert found.pairs.tolist() == [[0, 1, 1, 0]]


def test_of_many_rows_so_many_are_trained_on(monkeypatch, separable):
    every = usable(separable)
    monkeypatch.setattr(ranker, "MOST_ROWS", 7)
    some = ranker._some_rows(every, seed=0)
    assert len(some.rows) == 7
    for name in ("pairs", "triples"):
        whole = {(row, *(every.texts[at] for at in answers)) for row, *answers in _without_kind(every, name)}
        part = {(row, *(some.texts[at] for at in answers)) for row, *answers in _without_kind(some, name)}
        assert part == {each for each in whole if each[0] in some.rows}
    assert [every.turns[every.texts.index(text)] for text in some.texts] == some.turns
    assert trained(separable)[1]["rows"] == 7


def _without_kind(answers: Answers, name: str) -> Any:
    found = getattr(answers, name)
    return np.delete(found, 1, axis=1).tolist() if name == "pairs" else found.tolist()


def test_a_saved_ranker_scores_as_before(tmp_path, separable, made):
    made, figures = made
    path = tmp_path / "ranker.safetensors"
    path.write_bytes(made.as_bytes())
    found = load_ranker(path)
    assert (found.embedder, found.figures) == ("fake-embedder@1", figures)
    given = full_instruction(separable), separable["response"].to_list(), FakeEmbedder()
    assert found.scores(*given).tobytes() == made.scores(*given).tobytes()
    assert found.as_bytes() == made.as_bytes()
    assert found.scores([], [], FakeEmbedder()).shape == (0,)


def test_a_ranker_refuses_vectors_of_another_embedder(made):
    other = FakeEmbedder()
    other.identity = "other@1"
    with pytest.raises(DataError, match=r"^the ranker reads vectors of fake-embedder@1, not of other@1$"):
        made[0].scores(["a"], ["b"], other)


def test_a_file_that_is_no_ranker_is_refused_in_one_line(tmp_path, made):
    from safetensors.numpy import save

    path, made = tmp_path / "ranker.safetensors", made[0]
    about = {"kiloset.ranker": json.dumps({"embedder": "e", "figures": {}})}
    weights = dict(made.weights)
    content = made.as_bytes()
    files = {
        "cannot be read as safetensors": [
            b"", b"none", content[:-1], struct.pack("<Q", 2**60) + b"{}", b"\x80\x04K\x01.",
        ],
        "does not say that it is a ranker": [
            save(weights), save(weights, {"kiloset.ranker": "{"}), save(weights, {"kiloset.ranker": "[]"}),
            save(weights, {"kiloset.ranker": '{"embedder": "e"}'}), save(weights, {"kiloset.ranker": "[" * 100_000}),
        ],
        "is a ranker of another shape": [
            save({}, about), save({**weights, "more": np.zeros(1, np.float32)}, about),
            save({k: v for k, v in weights.items() if k != "mean"}, about),
            save({**weights, "mean": np.array(1, np.float32)}, about),
            save({**weights, "form.weight": weights["form.weight"][:, 1:].copy()}, about),
            save({k: v.astype(np.float64) for k, v in weights.items()}, about),
        ],
        "holds weights that are not finite": [save({**weights, "mean": weights["mean"] * np.float32(np.nan)}, about)],
    }  # fmt: skip
    for message, contents in files.items():
        for each in contents:
            path.write_bytes(each)
            with pytest.raises(DataError, match=rf"^{path}: {message}[^\n]*$"):
                load_ranker(path)
    with pytest.raises(DataError, match="cannot be read as safetensors"):
        load_ranker(tmp_path / "none")


@pytest.mark.parametrize(
    ("figures", "better"),
    [
        ({"accuracy": {"all": {"gain": 0.1, "gain_low": 0.01, "gain_high": 0.2}}}, True),
        ({"accuracy": {"all": {"gain": 0.1, "gain_low": 0.0, "gain_high": 0.2}}}, False),
        ({"accuracy": {"all": {"gain": 0.1, "gain_low": -0.1, "gain_high": 0.2}}}, False),
        ({"accuracy": {"all": {"rows": 0, "pairs": 0}}}, False),
        ({"trained": False, "why": "off"}, False),
    ],
)
def test_a_ranker_counts_only_where_it_clearly_beats_length(figures: dict[str, Any], better: bool) -> None:
    assert beats_length(figures) == better
