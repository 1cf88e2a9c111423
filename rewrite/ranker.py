"""A SCAR-style ranker of answers by style, trained on the run's own answers.

After Z. Li et al., "SCAR: Data Selection via Style Consistency-Aware Response Ranking for Efficient Instruction-Tuning
of Large Language Models" (ACL 2025, arXiv:2406.10882). An instruction has up to three kinds of answer: *direct*, a
model's own; *referenced*, the model's rewrite of the reference; and *human*, the reference. The ranker learns to score
direct above referenced above human by a margin, and two representations: of what is said, in which referenced lies
nearer to human than to direct, and of how it is said, in which direct lies nearer to referenced than to human.

Departures. The encoder is the run's embedder, frozen, so that linear layers on its vectors stand where SCAR trains one.
The form representation is learnt from the counts of `kiloset.core.form` and not from the maximum over the tokens' last hidden
states: without training these tell little of form. Inputs are standardised, layers are smaller, and the learning rate is
that of a small network. The answers are those sampled for rewriting, in place of GPT-3.5's; no judge rates them, instead
they must have passed checks of the gate (`usable`). All answers of a kind count, with equal weight a row. Folds of whole
user turns stand in place of one split of 80/10/10; nothing is chosen on them.

Limits. As SCAR's reviewers objected, such a ranker may learn no more than "looks like the model that wrote the
rewrites"; its score does not involve the base model's likelihood and says nothing of correctness. The trivial rankers
"shorter wins" and "longer wins" are therefore reported beside it, on the same pairs. Only its accuracy is held out: in
selection it scores rows that it was trained on. SCAR's released rankers are pickles that need remote code, and are not
loaded.
"""

import json
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from kiloset.core.errors import DataError
from kiloset.core.form import FORM_COLUMNS, form_of
from kiloset.core.models import Embedder
from kiloset.core.table import full_instruction

RANKER_FILE = "ranker.safetensors"
"""Its name in the run folder."""
METADATA = "kiloset.ranker"
"""Key of the file's metadata, under which JSON says what the ranker is."""

KINDS = (("plain", "guided"), ("guided", "reference"), ("plain", "reference"))
"""Kinds of pair, the better answer first: SCAR's direct > referenced > human."""
WELL_FORMED = ("finished", "leak", "constraints", "refusal", "repetition")
"""Checks of the gate that a plain answer may not fail; a guided one may fail none, so that it keeps the facts."""

RANKING_MARGIN, TRIPLET_MARGIN, TRIPLET_WEIGHT = 0.5, 1.0, 0.1
WARM_UP, MAX_NORM = 0.1, 1.0
"""SCAR's: margins and weight of the losses, share of the steps in which the learning rate rises, bound of the gradient."""
HIDDEN, EPOCHS, BATCH, LEARNING_RATE, WEIGHT_DECAY = 64, 20, 32, 1e-3, 0.1
"""Ours: units of a layer, passes, rows in a step, and AdamW's two."""
MOST_ROWS = 2000
"""Rows trained on, chosen at random where there are more."""
FOLDS = 5
RESAMPLES = 2000
"""Bootstrap resamples of rows behind a 95 % interval."""

Weights = dict[str, Any]
"""Tensors, or arrays, by name: those of `_shapes`."""


@dataclass(frozen=True, slots=True)
class Answers:
    """Usable answers of some rows, and what may be compared."""

    turns: list[str]
    """Each answer's user turn."""
    texts: list[str]
    pairs: NDArray[np.int64]
    """(pairs, 4): row, kind (a number in `KINDS`), better answer, worse answer."""
    triples: NDArray[np.int64]
    """(triples, 4): row, and a plain, a guided and the reference answer."""
    unused: dict[str, dict[str, int]]
    """Candidates that may not be used, by kind and by the check they fail or `repeats`."""

    @property
    def rows(self) -> NDArray[np.int64]:
        """Numbers of the rows that have a pair, in order."""
        return np.unique(self.pairs[:, 0])


@dataclass(frozen=True, slots=True)
class Ranker:
    """A trained ranker."""

    embedder: str
    """Identity of the embedder whose vectors it reads."""
    weights: Mapping[str, NDArray[np.float32]]
    figures: Mapping[str, Any]
    """How it was trained and what it is worth, as `train_ranker` returns it."""

    def scores(self, turns: Sequence[str], answers: Sequence[str], embedder: Embedder) -> NDArray[np.float64]:
        """Return `(answers,)` scores, which mean nothing but their order; the higher, the more like a model's own answer.

        Raises:
            DataError: It was trained on the vectors of another embedder.
        """
        if embedder.identity != self.embedder:
            raise DataError("KS401", f"the ranker reads vectors of {self.embedder}, not of {embedder.identity}")
        return _scores(self.weights, _inputs(turns, answers, embedder)) if answers else np.zeros(0)

    def as_bytes(self) -> bytes:
        """Return the file's content, the same for the same ranker: safetensors, what is known of it in the metadata."""
        from safetensors.numpy import save

        # One key, since the order of several is not fixed.
        about = json.dumps({"embedder": self.embedder, "figures": self.figures}, ensure_ascii=False)
        return bytes(save(dict(self.weights), {METADATA: about}))


def beats_length(figures: Mapping[str, Any]) -> bool:
    """Tell, of the figures of `train_ranker`, whether it is better held out than the better of two rules on length.

    Its gain's whole interval has to lie above 0; otherwise nothing shows that it has learnt more than a length.
    """
    low = figures.get("accuracy", {}).get("all", {}).get("gain_low")
    return low is not None and low > 0


def load_ranker(path: Path) -> Ranker:
    """Read a ranker from `ranker.safetensors`.

    Raises:
        DataError: The file is missing, or holds something else.
    """
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, "numpy") as file:
            about = json.loads((file.metadata() or {})[METADATA])
            weights = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        embedder, figures = str(about["embedder"]), dict(about["figures"])
    except (OSError, SafetensorError) as error:
        raise DataError("KS402", f"{path}: cannot be read as safetensors ({error})") from None
    except (KeyError, TypeError, ValueError, RecursionError):
        raise DataError("KS403", f"{path}: does not say that it is a ranker") from None
    found = {name: array.shape for name, array in weights.items()}
    wanted = _shapes(weights["mean"].size if "mean" in weights else 0)
    if found != wanted or any(array.dtype != np.float32 for array in weights.values()):
        odd = sorted({*found.items()} ^ {*wanted.items()})
        raise DataError("KS404", f"{path}: is a ranker of another shape ({odd[0] if odd else 'not float32'})")
    if not all(np.isfinite(array).all() for array in weights.values()):
        raise DataError("KS405", f"{path}: holds weights that are not finite")
    return Ranker(embedder, weights, figures)


def train_ranker(
    table: pl.DataFrame, embedder: Embedder, *, seed: int, min_rows: int
) -> tuple[Ranker | None, dict[str, Any]]:
    """Train a ranker on the answers of a rewritten table, and measure how it ranks those of rows it has not seen.

    Returns the ranker, None where fewer than `min_rows` rows have a pair of usable answers, and its figures: `rows` that
    have a pair; `unused` (see `Answers`); `trained`; and, if it is, `embedder` and `accuracy`: for `all` pairs and by kind
    of pair, the `rows` and `pairs` and the share ranked right, ties one half, by the `ranker` in `FOLDS`-fold
    cross-validation with its 95 % interval (`low`, `high`, over rows), by `shorter` and by `longer` answers first (in
    characters), and by how much the ranker beats the better of these (`gain`, `gain_low`, `gain_high`); `used`, whether
    it may count in selection (`beats_length`).

    The same table, vectors and seed give the same bits on one machine, whatever the number of threads.
    """
    answers = _some_rows(usable(table), seed)
    figures: dict[str, Any] = {"rows": len(answers.rows), "unused": answers.unused, "trained": False}
    if len(answers.rows) < min_rows:
        return None, figures | {"why": "too_few_rows"}
    inputs = _inputs(answers.turns, answers.texts, embedder)
    figures |= {
        "trained": True,
        "embedder": embedder.identity,
        "accuracy": _accuracies(answers, _held_out(answers, inputs, seed), seed),
    }
    figures["used"] = beats_length(figures)
    weights = _fit(answers, inputs, answers.rows, seed)
    return Ranker(embedder.identity, weights, figures), figures


def usable(table: pl.DataFrame) -> Answers:
    """Return the answers of a rewritten table that may be compared.

    A plain one may not fail a check of `WELL_FORMED`, a guided one none of the gate; no text stands twice in a row.
    """
    turns, texts, pairs, triples = list[str](), list[str](), list[tuple[int, ...]](), list[tuple[int, ...]]()
    unused: dict[str, Counter[str]] = {"plain": Counter(), "guided": Counter()}
    rows = table.select("response", "original_response", "rewrites").iter_rows(named=True)
    for row, (turn, given) in enumerate(zip(full_instruction(table), rows, strict=True)):
        reference = given["response"] if given["original_response"] is None else given["original_response"]
        found: dict[str, list[int]] = {"plain": [], "guided": [], "reference": [len(texts)]}
        here = [reference]
        for candidate in given["rewrites"]:
            fault = _fault(candidate) or ("repeats" if candidate["text"] in here else "")
            if fault:
                unused[candidate["kind"]][fault] += 1
                continue
            found[candidate["kind"]].append(len(texts) + len(here))
            here.append(candidate["text"])
        if len(here) == 1:
            continue
        texts += here
        turns += [turn] * len(here)
        pairs += [
            (row, kind, better, worse)
            for kind, (first, second) in enumerate(KINDS)
            for better in found[first]
            for worse in found[second]
        ]
        triples += [
            (row, plain, guided, found["reference"][0]) for plain in found["plain"] for guided in found["guided"]
        ]
    return Answers(
        turns, texts, _numbers(pairs), _numbers(triples),
        {kind: dict(sorted(counts.items())) for kind, counts in unused.items()},
    )  # fmt: skip


def _fault(candidate: Mapping[str, Any]) -> str | None:
    """Return the first check for which a candidate may not be used, None if it may."""
    failed = [verdict["check"] for verdict in candidate["verdicts"] if verdict["status"] == "failed"]
    return next((check for check in failed if candidate["kind"] == "guided" or check in WELL_FORMED), None)


def _numbers(rows: Sequence[tuple[int, ...]]) -> NDArray[np.int64]:
    return np.array(rows, dtype=np.int64).reshape(len(rows), 4)


def _some_rows(answers: Answers, seed: int) -> Answers:
    """Return them with at most `MOST_ROWS` rows."""
    if len(answers.rows) <= MOST_ROWS:
        return answers
    kept = np.random.default_rng(seed).choice(answers.rows, MOST_ROWS, replace=False)
    pairs, triples = (found[np.isin(found[:, 0], kept)] for found in (answers.pairs, answers.triples))
    used, place = np.unique(pairs[:, 2:], return_inverse=True)
    pairs[:, 2:] = place.reshape(-1, 2)
    triples[:, 1:] = np.searchsorted(used, triples[:, 1:])
    turns, texts = ([texts[at] for at in used] for texts in (answers.turns, answers.texts))
    return Answers(turns, texts, pairs, triples, answers.unused)


def _inputs(turns: Sequence[str], answers: Sequence[str], embedder: Embedder) -> NDArray[np.float64]:
    """Return `(answers, 2 dims + forms)`: vectors of user turn and answer, and the answer's form."""
    forms = np.array([list(form_of(answer).values()) for answer in answers])
    return np.hstack([embedder.embed(turns), embedder.embed(answers), forms]).astype(np.float64)


def _shapes(width: int) -> dict[str, tuple[int, ...]]:
    """Return the shape of each tensor of a ranker that reads so many inputs, the forms among them."""
    vectors, forms = width - len(FORM_COLUMNS), len(FORM_COLUMNS)
    layers = {
        "surprisal": (HIDDEN, vectors),
        "form": (HIDDEN, forms),
        "hidden": (HIDDEN, 2 * HIDDEN),
        "score": (1, HIDDEN),
    }
    shapes: dict[str, tuple[int, ...]] = {"mean": (width,), "scale": (width,)}
    for name, shape in layers.items():
        shapes |= {f"{name}.weight": shape, f"{name}.bias": shape[:1]}
    return shapes


def _held_out(answers: Answers, inputs: NDArray[np.float64], seed: int) -> NDArray[np.float64]:
    """Return each answer's score by a ranker that has seen no answer to the same user turn."""
    turn_of = {int(row): answers.turns[better] for row, _, better, _ in answers.pairs}
    turns = sorted({*turn_of.values()})
    places = np.random.default_rng(seed).permutation(len(turns)) % FOLDS
    fold_of = dict(zip(turns, places.tolist(), strict=True))
    scores = np.zeros(len(answers.texts))
    fold = np.array([fold_of[turn] for turn in answers.turns])
    for number in range(FOLDS):
        seen = np.array([row for row, turn in sorted(turn_of.items()) if fold_of[turn] != number], dtype=np.int64)
        unseen = fold == number
        if len(seen) and unseen.any():
            scores[unseen] = _scores(_fit(answers, inputs, seen, seed), inputs[unseen])
    return scores


def _accuracies(answers: Answers, scores: NDArray[np.float64], seed: int) -> dict[str, Any]:
    """Return how well these scores rank the pairs, beside the trivial rankers."""
    lengths = np.array([len(text) for text in answers.texts], dtype=np.float64)
    rng = np.random.default_rng(seed)
    found = {"all": _accuracy(answers.pairs, scores, lengths, rng)}
    for kind, (better, worse) in enumerate(KINDS):
        found[f"{better}_over_{worse}"] = _accuracy(answers.pairs[answers.pairs[:, 1] == kind], scores, lengths, rng)
    return found


def _accuracy(
    pairs: NDArray[np.int64], scores: NDArray[np.float64], lengths: NDArray[np.float64], rng: np.random.Generator
) -> dict[str, float | int]:
    if not len(pairs):
        return {"rows": 0, "pairs": 0}
    better, worse = pairs[:, 2], pairs[:, 3]
    rows, place = np.unique(pairs[:, 0], return_inverse=True)
    right = np.stack([(np.sign(by[better] - by[worse]) + 1) / 2 for by in (scores, -lengths, lengths)])  # (3, pairs)
    sums = np.stack([np.bincount(place, each, len(rows)) for each in right])  # (3, rows)
    counts = np.bincount(place, minlength=len(rows))
    drawn = rng.integers(0, len(rows), (RESAMPLES, len(rows)))
    resampled = sums[:, drawn].sum(axis=2) / counts[drawn].sum(axis=1)  # (3, resamples)
    ranker, shorter, longer = right.mean(axis=1)
    gains = resampled[0] - resampled[1 if shorter >= longer else 2]
    figures = {
        "ranker": ranker, **_interval(resampled[0]), "shorter": shorter, "longer": longer,
        "gain": ranker - max(shorter, longer), **_interval(gains, "gain_"),
    }  # fmt: skip
    return {"rows": len(rows), "pairs": len(pairs), **{name: round(float(value), 4) for name, value in figures.items()}}


def _interval(resampled: NDArray[np.float64], prefix: str = "") -> dict[str, float]:
    low, high = np.quantile(resampled, [0.025, 0.975])
    return {f"{prefix}low": low, f"{prefix}high": high}


def _fit(
    answers: Answers, inputs: NDArray[np.float64], rows: NDArray[np.int64], seed: int
) -> dict[str, NDArray[np.float32]]:
    """Return the weights of a ranker trained on these rows."""
    import torch

    pairs, triples = (found[np.isin(found[:, 0], rows)] for found in (answers.pairs, answers.triples))
    used = inputs[np.unique(pairs[:, 2:])]
    generator, rng = torch.Generator().manual_seed(seed), np.random.default_rng(seed)
    with _one_thread():
        weights = _initial(used, generator)
        standard = (torch.from_numpy(inputs) - weights["mean"]) / weights["scale"]
        learnt = [tensor.requires_grad_() for name, tensor in weights.items() if name not in ("mean", "scale")]
        optimizer = torch.optim.AdamW(learnt, lr=LEARNING_RATE, weight_decay=WEIGHT_DECAY)
        steps = EPOCHS * -(-len(rows) // BATCH)
        warm = max(1, round(WARM_UP * steps))
        schedule = torch.optim.lr_scheduler.LambdaLR(
            optimizer, lambda step: min((step + 1) / warm, (steps - step) / max(1, steps - warm))
        )
        for _ in range(EPOCHS):
            order = rng.permutation(rows)
            for begin in range(0, len(order), BATCH):
                batch = order[begin : begin + BATCH]
                two, three = (found[np.isin(found[:, 0], batch)] for found in (pairs, triples))
                total = loss(weights, standard, two, three) / len(batch)
                optimizer.zero_grad()
                total.backward()
                torch.nn.utils.clip_grad_norm_(learnt, MAX_NORM)
                optimizer.step()
                schedule.step()
        return {name: tensor.detach().numpy().astype(np.float32) for name, tensor in weights.items()}


def _initial(inputs: NDArray[np.float64], generator: Any) -> Weights:
    """Return weights before training, in float64; `mean` and `scale` standardise these inputs and are not learnt."""
    import torch

    spread = inputs.std(axis=0)
    weights: Weights = {
        "mean": torch.from_numpy(inputs.mean(axis=0)),
        "scale": torch.from_numpy(np.where(spread > 1e-8, spread, 1.0)),
    }
    for name, shape in _shapes(inputs.shape[1]).items():
        if name not in weights:
            # As torch.nn.Linear; a bias, too, is drawn by the width of what it is added to.
            width = weights[name.replace("bias", "weight")].shape[1] if name.endswith("bias") else shape[1]
            weights[name] = (torch.rand(shape, generator=generator, dtype=torch.float64) * 2 - 1) / width**0.5
    return weights


def forward(weights: Weights, standard: Any) -> tuple[Any, Any, Any]:
    """Return `(score, surprisal representation, form representation)` of standardised inputs."""
    import torch
    from torch.nn.functional import linear, relu

    def layer(name: str, inputs: Any) -> Any:
        return linear(inputs, weights[f"{name}.weight"], weights[f"{name}.bias"])

    vectors, forms = standard[:, : -len(FORM_COLUMNS)], standard[:, -len(FORM_COLUMNS) :]
    surprisal, form = relu(layer("surprisal", vectors)), relu(layer("form", forms))
    hidden = relu(layer("hidden", torch.cat([surprisal, form], dim=1)))
    return layer("score", hidden)[:, 0], surprisal, form


def loss(weights: Weights, standard: Any, pairs: NDArray[np.int64], triples: NDArray[np.int64]) -> Any:
    """Return the loss summed over rows: of each kind of pair the mean hinge, plus the weighted triplet terms.

    `pairs` and `triples` are as in `Answers`; they name rows of `standard`, (answers, inputs).
    """
    import torch
    from torch.nn.functional import triplet_margin_loss

    used, place = np.unique(np.concatenate([pairs[:, 2:].ravel(), triples[:, 1:].ravel()]), return_inverse=True)
    score, surprisal, form = forward(weights, standard[torch.from_numpy(used)])
    better, worse = torch.from_numpy(place[: 2 * len(pairs)].reshape(-1, 2)).T
    hinge = (RANKING_MARGIN - (score[better] - score[worse])).clamp(min=0)
    total = (hinge * _weight(pairs[:, 0] * len(KINDS) + pairs[:, 1])).sum()
    if not len(triples):
        return total
    direct, referenced, human = torch.from_numpy(place[2 * len(pairs) :].reshape(-1, 3)).T

    def triplet(space: Any, anchor: Any, near: Any, far: Any) -> Any:
        return triplet_margin_loss(space[anchor], space[near], space[far], margin=TRIPLET_MARGIN, reduction="none")

    apart = triplet(surprisal, referenced, human, direct) + triplet(form, direct, referenced, human)
    return total + TRIPLET_WEIGHT * (apart / 2 * _weight(triples[:, 0])).sum()


def _weight(group: NDArray[np.int64]) -> Any:
    """Return one over the size of each element's group."""
    import torch

    _, place, counts = np.unique(group, return_inverse=True, return_counts=True)
    return torch.from_numpy(1 / counts[place])


def _scores(weights: Mapping[str, NDArray[np.float32]], inputs: NDArray[np.float64]) -> NDArray[np.float64]:
    import torch

    with _one_thread(), torch.no_grad():
        tensors = {name: torch.from_numpy(array.astype(np.float64)) for name, array in weights.items()}
        standard = (torch.from_numpy(inputs) - tensors["mean"]) / tensors["scale"]
        scores: NDArray[np.float64] = forward(tensors, standard)[0].numpy()
        return scores


@contextmanager
def _one_thread() -> Iterator[None]:
    """Keep torch to one thread: the order of its sums, and so their last digits, depends on how many there are."""
    import torch

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)
