"""Rewrite answers: of the faithful candidates, each row gets the answer that is most likely under the base model.

Candidates as in Yang et al., "Self-Distillation Bridges Distribution Gap in Language Model Fine-Tuning" (ACL 2024,
arXiv:2402.13669): rewrites guided by the reference; and plain answers, as in Gupta et al. (S3FT, arXiv:2502.08130):
new ones, and answers that the writer model gave besides the row's own, for a vote or for a constraint.
The base model writes them if it has a chat template; else an instruct sibling writes them, and the base model scores them.
Choice as in Zhang et al., GRAPE (arXiv:2502.04194): the highest length-normalised likelihood under the base model, for the
prompt that the trainer renders, without the reference in it. Departures:

- A fidelity gate comes first: the released SDFT data lost or invented numbers in one row of five.
- The reference is a candidate too, and is replaced only for a gain of at least `min_gain`.
- Against collapse (in section 5.7 of GRAPE, training only on a model's own answers is worse), a share of the originals is
  always kept, and rewriting may not make an opening frequent; then the next best candidate is taken.
- Each kind has several samples, not one, and no limit of 512 tokens as in SDFT, which cut off 8 % of the answers.
"""

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from typing import Annotated, Any

import numpy as np
import polars as pl
from pydantic import Field

from kiloset.core.config import Count, Fraction, Natural, NonNegative, Share, settings
from kiloset.core.form import opening
from kiloset.core.models import Embedder, Message, Request, chat_request
from kiloset.core.recorded import RecordedEngine, RecordedScorer
from kiloset.core.review import is_edited
from kiloset.core.table import Outcome, full_instruction, with_verdicts
from kiloset.core.text import words
from kiloset.rewrite.gate import GateConfig, Verdict, first_failure, judge
from kiloset.rewrite.passages import Covered, covered

REWRITE: dict[str, Any] = {
    "kind": pl.String, "status": pl.String, "check": pl.String, "evidence": pl.String,
    "measured": pl.Float64, "limit": pl.Float64, "score": pl.Float64, "text": pl.String,
    "verdicts": pl.List(pl.Struct({"check": pl.String, "status": pl.String, "measured": pl.Float64, "limit": pl.Float64})),
}  # fmt: skip
"""Fields of one entry of the column `rewrites`. `score` is the mean log-probability in nats per token, null if none was
needed. `status` is `chosen`, `passed` (the gate; `response_reason` gives the reason why another answer was kept) or
`rejected` (by `check`, which is null otherwise): by the gate, or as `too_long_for_base`. `verdicts` has each applicable check of
the gate, `passed` or `failed`, with its measured value and limit if it has them."""

ALWAYS_ALLOWED = 3
"""Number of answers that may have the same opening in any set."""
TOO_LONG = "too_long_for_base"
"""Reason of a dropped row, and check of a rejected candidate, that exceeds the context of the base model."""


@settings
class RewriteConfig:
    """The `[rewrite]` table: whether and how answers are rewritten."""

    enabled: bool = True
    """Whether to rewrite at all."""
    plain: Natural = 1
    """Answers sampled without showing the reference."""
    guided: Natural = 1
    """Answers sampled with the reference shown."""
    temperature: Annotated[float, Field(ge=0, le=2)] = 0.7
    """For both."""
    top_p: Share = 0.9
    """For both."""
    max_tokens: Count = 1024
    """Longest candidate, in tokens; the limit is lower for a short reference."""
    min_gain: NonNegative = 0.05
    """Least gain, in nats per token, for which a candidate replaces the reference."""
    keep_originals: Fraction = 0.2
    """Share of rows that keep their original answer whatever the scores are, against collapse."""
    max_opening_share: Share = 0.02
    """Largest share of answers, in (0, 1], to which rewriting may give the same first three words; 3 answers are always allowed."""


@dataclass(slots=True)
class _Candidate:
    """One candidate answer for the row number `row`."""

    row: int
    kind: str
    text: str
    finish_reason: str
    call: str
    """Key of the completion; "" for an answer of the row's own `others`, whose keys the row has already."""
    status: str = "passed"
    check: str | None = None
    evidence: str | None = None
    measured: float | None = None
    limit: float | None = None
    score: float | None = None
    verdicts: list[dict[str, Any]] = field(default_factory=list)


def guided_prompt(turn: str, reference: str) -> str:
    """Return the user turn that requests the answer again, in the model's own words."""
    return (
        f"{turn}\n\nThis answer was given:\n\n{reference}\n\n"
        "Write that answer again in your own words. Keep every fact, name and number, keep about the same length, "
        "add nothing, and write only the answer itself."
    )


def rewrite(
    table: pl.DataFrame, engine: RecordedEngine, scorer: RecordedScorer, embedder: Embedder,
    config: RewriteConfig, gate: GateConfig,
) -> Outcome:  # fmt: skip
    """Choose each row's answer, and drop the rows that exceed the context of the base model (`too_long_for_base`).

    Adds these columns:

    * `response_source`: reference, plain or guided.
    * `response_reason`: `off` (rewriting is disabled), `short_reference` (the reference is too short to be rewritten),
      `nothing_passed` (no candidate passed the gate), `gain_too_small` (the best gain is less than `min_gain`), `opening_cap`
      (all candidates with enough gain have an opening that is too frequent), `keep_originals` (the gain was enough, but a
      share of originals is kept), `edited` (a reviewer wrote the answer) or `best_fit` (rewritten).
    * `surprisal` of the chosen response and `reference_surprisal`, in nats per token; `fit_gain`, their difference;
      `best_gain`, the gain of the best candidate that passed, or null. They are rounded to 4 digits after the choice.
    * `rewrites`: every candidate with its verdict. A rewritten row's earlier answer moves to `original_response`.

    A dropped row has its candidates, but null in the figures and in `response_reason`.
    """
    candidates = _sample(table, engine, config, gate) if config.enabled else []
    _check(table, candidates, embedder, gate)
    references = _score(table, candidates, scorer)
    gains = _gains(candidates, references)
    chosen, reasons = _choose(table, gains, references, config, gate)
    too_long = {
        "reason": TOO_LONG,
        "evidence": "instruction, input and response are longer than the base model reads",
    }
    verdicts = {id: too_long for id, score in zip(table["id"], references, strict=True) if score is None}
    return with_verdicts(_with_choice(table, candidates, gains, chosen, reasons, references), verdicts)


def _sample(table: pl.DataFrame, engine: RecordedEngine, config: RewriteConfig, gate: GateConfig) -> list[_Candidate]:
    """Request candidates for all rows, except short references and edited answers."""
    requests: list[Request] = []
    owners: list[tuple[int, str]] = []
    turns, edited = full_instruction(table), is_edited(table)
    for row, reference in enumerate(table["response"]):
        if _is_short(reference, gate) or edited[row]:
            continue
        limit = min(config.max_tokens, 64 + 4 * len(words(reference)))
        for kind, samples in (("plain", config.plain), ("guided", config.guided)):
            turn = turns[row] if kind == "plain" else guided_prompt(turns[row], reference)
            request = chat_request(
                engine, turn, kind, max_tokens=limit, temperature=config.temperature, top_p=config.top_p
            )
            # Numbered from 1: sample 0 of the plain prompt may be the reference's own request.
            requests += [replace(request, sample=sample + 1) for sample in range(samples)]
            owners += [(row, kind)] * samples
    completions = engine.complete(requests, "rewrites") if requests else []
    # A further answer of the writer model is what a plain request would be answered with, and costs nothing.
    others = [
        _Candidate(row, "plain", text, "stop", "")
        for row, texts in enumerate(table["others"])
        if not _is_short(table["response"][row], gate) and not edited[row]
        for text in texts
    ]
    return others + [
        _Candidate(row, kind, completion.text.strip(), completion.finish_reason, completion.key)
        for (row, kind), completion in zip(owners, completions, strict=True)
    ]


def _check(table: pl.DataFrame, candidates: list[_Candidate], embedder: Embedder, gate: GateConfig) -> None:
    """Check each candidate with the gate; its verdict is the first check that fails."""
    turns, references = full_instruction(table), table["response"].to_list()
    categories, constraints = table["category"].to_list(), table["constraints"].to_list()
    written = [c for c in candidates if c.text]
    if written:
        cosines = np.einsum(
            "ij,ij->i", embedder.embed([c.text for c in written]), embedder.embed([references[c.row] for c in written])
        )
        meaning = {id(c): round(float(cosine), 4) for c, cosine in zip(written, cosines, strict=True)}

    def verdicts_of(candidate: _Candidate, covered: Covered | None) -> list[Verdict]:
        return judge(
            turns[candidate.row], references[candidate.row], candidate.text, category=categories[candidate.row],
            finish_reason=candidate.finish_reason, meaning=meaning[id(candidate)] if candidate.text else None, config=gate,
            constraints=constraints[candidate.row], covered=covered,
        )  # fmt: skip

    # Sentences are compared only if all other checks pass, because every stretch of both texts must be embedded.
    checked = [verdicts_of(candidate, None) for candidate in candidates]
    good = [at for at, verdicts in enumerate(checked) if first_failure(verdicts) is None]
    coverage = covered([(references[candidates[at].row], candidates[at].text) for at in good], embedder)
    for at, one in zip(good, coverage, strict=True):
        checked[at] = verdicts_of(candidates[at], one)
    for candidate, verdicts in zip(candidates, checked, strict=True):
        candidate.verdicts = [
            {"check": v.check, "status": v.status, "measured": v.measured, "limit": v.limit}
            for v in verdicts if v.status != "not_applicable"
        ]  # fmt: skip
        if (failure := first_failure(verdicts)) is not None:
            candidate.status, candidate.check, candidate.evidence = "rejected", failure.check, failure.evidence
            candidate.measured, candidate.limit = failure.measured, failure.limit


def _is_short(reference: str, gate: GateConfig) -> bool:
    return len(words(reference)) <= gate.short_reference_words


def _score(table: pl.DataFrame, candidates: Sequence[_Candidate], scorer: RecordedScorer) -> list[float | None]:
    """Score the candidates that passed; return the references' scores, None if a row exceeds the context."""
    prompts: list[Sequence[Message]] = [[{"role": "user", "content": turn}] for turn in full_instruction(table)]
    passed = [candidate for candidate in candidates if candidate.status == "passed"]
    means = scorer.mean_logprobs(
        [*prompts, *(prompts[c.row] for c in passed)],
        [*table["response"], *(c.text for c in passed)],
        "fit to the base model",
    )
    scores = [None if math.isnan(score) else score for score in means]
    for candidate, score in zip(passed, scores[table.height :], strict=True):
        candidate.score = score
        if score is None:
            candidate.status, candidate.check = "rejected", TOO_LONG
            candidate.evidence = "instruction, input and rewrite are longer than the base model reads"
    return scores[: table.height]


def _gains(
    candidates: Sequence[_Candidate], references: Sequence[float | None]
) -> dict[int, list[tuple[_Candidate, float]]]:
    """Return, by row number, the candidates that passed with their gains, the most likely first; ties keep their order."""
    gains: dict[int, list[tuple[_Candidate, float]]] = {}
    for candidate in candidates:
        reference = references[candidate.row]
        if candidate.status == "passed" and candidate.score is not None and reference is not None:
            gains.setdefault(candidate.row, []).append((candidate, candidate.score - reference))
    return {row: sorted(offers, key=lambda offer: -offer[1]) for row, offers in gains.items()}


def _choose(
    table: pl.DataFrame,
    gains: Mapping[int, Sequence[tuple[_Candidate, float]]],
    references: Sequence[float | None],
    config: RewriteConfig,
    gate: GateConfig,
) -> tuple[dict[int, tuple[_Candidate, float]], list[str | None]]:
    """Return the chosen candidate and its gain by row number, and each row's `response_reason`, None for a dropped row.

    Rows are decided in the order of their best gains, so that `keep_originals` affects the smallest gains.
    """
    ids, texts, edited = table["id"].to_list(), table["response"].to_list(), is_edited(table)
    read = [row for row, score in enumerate(references) if score is not None]
    begins = Counter(opening(texts[row]) for row in read)
    cap = max(ALWAYS_ALLOWED, math.ceil(len(read) * config.max_opening_share - 1e-9))
    most = int(len(read) * (1 - config.keep_originals) + 1e-9)
    enough = {row: [offer for offer in gains.get(row, ()) if offer[1] >= config.min_gain] for row in read}
    chosen: dict[int, tuple[_Candidate, float]] = {}
    reasons: list[str | None] = [None] * table.height
    for row in sorted(read, key=lambda row: (-enough[row][0][1] if enough[row] else math.inf, ids[row])):
        now = opening(texts[row])
        fresh = [o for o in enough[row] if opening(o[0].text) in (now, "") or begins[opening(o[0].text)] < cap]
        if not config.enabled:
            reasons[row] = "off"
        elif edited[row]:
            reasons[row] = "edited"
        elif _is_short(texts[row], gate):
            reasons[row] = "short_reference"
        elif row not in gains:
            reasons[row] = "nothing_passed"
        elif not enough[row]:
            reasons[row] = "gain_too_small"
        elif len(chosen) >= most:
            reasons[row] = "keep_originals"
        elif not fresh:
            reasons[row] = "opening_cap"
        else:
            reasons[row], chosen[row] = "best_fit", fresh[0]
            begins.subtract([now])
            begins.update([opening(fresh[0][0].text)])
    return chosen, reasons


def _with_choice(
    table: pl.DataFrame,
    candidates: Sequence[_Candidate],
    gains: Mapping[int, Sequence[tuple[_Candidate, float]]],
    choice: Mapping[int, tuple[_Candidate, float]],
    reasons: Sequence[str | None],
    references: Sequence[float | None],
) -> pl.DataFrame:
    chosen = {row: candidate for row, (candidate, _) in choice.items()}
    for candidate in chosen.values():
        candidate.status = "chosen"
    names = [each.name for each in fields(_Candidate) if each.name in REWRITE]
    offered: list[list[dict[str, Any]]] = [[] for _ in range(table.height)]
    calls: list[list[str]] = [list(keys) for keys in table["calls"]]
    for candidate in candidates:
        offered[candidate.row].append({name: getattr(candidate, name) for name in names})
        calls[candidate.row] += [candidate.call] if candidate.call else []
    rows, texts = range(table.height), table["response"].to_list()
    kinds = [chosen[row].kind if row in chosen else "reference" for row in rows]
    before = pl.Series([_surprisal(score) for score in references], dtype=pl.Float64)
    best = pl.Series([_surprisal(gains[row][0][0].score) if row in gains else None for row in rows], dtype=pl.Float64)
    after = pl.Series(
        [_surprisal(chosen[row].score if row in chosen else references[row]) for row in rows], dtype=pl.Float64
    )
    return table.with_columns(
        response=pl.Series([chosen[row].text if row in chosen else texts[row] for row in rows], dtype=pl.String),
        original_response=pl.Series([texts[row] if row in chosen else None for row in rows], dtype=pl.String),
        calls=pl.Series(calls, dtype=pl.List(pl.String)),
        response_source=pl.Series(kinds, dtype=pl.String),
        response_reason=pl.Series(reasons, dtype=pl.String),
        surprisal=after,
        reference_surprisal=before,
        fit_gain=(before - after).round(4),
        best_gain=(before - best).round(4),
        rewrites=pl.Series(offered, dtype=pl.List(pl.Struct(REWRITE))),
    )


def _surprisal(score: float | None) -> float | None:
    return None if score is None else -round(score, 4)
