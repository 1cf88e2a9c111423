"""Gate, then fit: give each row the answer that the base model finds most natural among those that keep the facts.

Candidates as in Yang et al., "Self-Distillation Bridges Distribution Gap in Language Model Fine-Tuning" (ACL 2024,
arXiv:2402.13669): rewrites by the base model guided by the reference; and its plain answers, as Gupta et al. (S3FT,
arXiv:2502.08130) prefer. Choice as in Zhang et al., GRAPE (arXiv:2502.04194): the highest length-normalised likelihood
under the base model and the very prompt the trainer renders, the reference not in it. Departures: a fidelity gate comes
first (the released SDFT data lost or invented numbers in one row of five), the reference stays unless the gain is worth
`min_gain`, and a share of originals always stays against collapse.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Annotated, Any

import numpy as np
import polars as pl
from pydantic import Field

from core.config import Count, Fraction, Natural, NonNegative, Share, settings
from core.models import Embedder, Message, Request, chat_request
from core.recorded import RecordedEngine, RecordedScorer
from core.table import Outcome, full_instruction, with_verdicts
from core.text import words
from rewrite.gate import GateConfig, first_failure, judge

REWRITE: dict[str, Any] = {
    "kind": pl.String, "status": pl.String, "check": pl.String, "evidence": pl.String,
    "measured": pl.Float64, "limit": pl.Float64, "score": pl.Float64, "text": pl.String,
}  # fmt: skip
"""Fields of one entry of the column `rewrites`; `score` is the mean log-probability in nats per token, null where none
was needed. `status` is `chosen`, `passed` (the gate; `response_reason` says why its row kept another answer) or
`rejected` (by `check`, null for the others): by the gate, or as `too_long_for_base`."""

TOO_LONG = "too_long_for_base"
"""Reason of a dropped row, and check of a rejected candidate, that the base model cannot read whole."""


@settings
class RewriteConfig:
    """The `[rewrite]` table: whether and how answers are rewritten."""

    enabled: bool = True
    """Whether to rewrite at all."""
    plain: Natural = 1
    """Answers sampled from the base model without showing it the reference."""
    guided: Natural = 1
    """Answers sampled with the reference shown."""
    temperature: Annotated[float, Field(ge=0, le=2)] = 0.7
    """For both."""
    top_p: Share = 0.9
    """For both."""
    max_tokens: Count = 1024
    """Longest candidate; one that may be at most twice its reference gets no more tokens than that needs."""
    min_gain: NonNegative = 0.05
    """Gain in nats per token from which a candidate replaces the reference."""
    keep_originals: Fraction = 0.2
    """Share of rows that keep their original answer whatever the scores say, against collapse."""


@dataclass(slots=True)
class _Candidate:
    """One offered answer to the row number `row`."""

    row: int
    kind: str
    text: str
    finish_reason: str
    call: str
    status: str = "passed"
    check: str | None = None
    evidence: str | None = None
    measured: float | None = None
    limit: float | None = None
    score: float | None = None


def guided_prompt(turn: str, reference: str) -> str:
    """Return the user turn that asks for an answer again, in the model's own words."""
    return (
        f"{turn}\n\nThis answer was given:\n\n{reference}\n\n"
        "Write that answer again in your own words. Keep every fact, name and number, keep about the same length, "
        "add nothing, and write only the answer itself."
    )


def rewrite(
    table: pl.DataFrame, engine: RecordedEngine, scorer: RecordedScorer, embedder: Embedder,
    config: RewriteConfig, gate: GateConfig,
) -> Outcome:  # fmt: skip
    """Choose each row's answer, and drop (`too_long_for_base`) the rows that the base model cannot read whole.

    Adds `response_source` (reference, plain, guided) and `response_reason`, why that one: `off` (rewriting is disabled),
    `short_reference` (so short that nothing may be rewritten), `nothing_passed` (no candidate passed the gate),
    `gain_too_small` (the best one gains less than `min_gain`), `keep_originals` (its gain was enough, but a share of
    originals is kept) or `best_fit` (rewritten). Adds `surprisal` of the response in the set and `reference_surprisal`
    (nats per token), `fit_gain` (their difference, 0 where the reference stays), `best_gain` (that of the best passing
    candidate, null where none passed) and `rewrites`, every candidate with its verdict. A rewritten row's earlier answer
    goes to `original_response`. All four figures are rounded to 4 digits, the choice is not. A dropped row has no figure
    and no `response_reason`, but its candidates.
    """
    candidates = _ask(table, engine, config, gate) if config.enabled else []
    _judge(table, candidates, embedder, gate)
    references = _score(table, candidates, scorer)
    best = _best(candidates, references)
    reasons = _reasons(table, best, references, config, gate)
    too_long = {
        "reason": TOO_LONG,
        "evidence": "instruction, input and response are longer than the base model reads",
    }
    verdicts = {id: too_long for id, score in zip(table["id"], references, strict=True) if score is None}
    return with_verdicts(_with_choice(table, candidates, best, reasons, references), verdicts)


def _ask(table: pl.DataFrame, engine: RecordedEngine, config: RewriteConfig, gate: GateConfig) -> list[_Candidate]:
    """Ask for candidates, except where the reference is so short that nothing may be rewritten."""
    requests: list[Request] = []
    asked: list[tuple[int, str]] = []
    turns = full_instruction(table)
    for row, reference in enumerate(table["response"]):
        if _is_short(reference, gate):
            continue
        limit = min(config.max_tokens, 64 + 4 * len(words(reference)))
        for kind, samples in (("plain", config.plain), ("guided", config.guided)):
            turn = turns[row] if kind == "plain" else guided_prompt(turns[row], reference)
            request = chat_request(
                engine, turn, kind, max_tokens=limit, temperature=config.temperature, top_p=config.top_p
            )
            # Numbered from 1: sample 0 of the plain prompt may be the reference's own request.
            requests += [replace(request, sample=sample + 1) for sample in range(samples)]
            asked += [(row, kind)] * samples
    completions = engine.complete(requests, "rewrites") if requests else []
    return [
        _Candidate(row, kind, completion.text.strip(), completion.finish_reason, completion.key)
        for (row, kind), completion in zip(asked, completions, strict=True)
    ]


def _judge(table: pl.DataFrame, candidates: list[_Candidate], embedder: Embedder, gate: GateConfig) -> None:
    """Put each candidate through the gate; the first check it fails is its verdict."""
    turns, references = full_instruction(table), table["response"].to_list()
    categories, constraints = table["category"].to_list(), table["constraints"].to_list()
    worth = [c for c in candidates if c.text]
    if worth:
        cosines = np.einsum(
            "ij,ij->i", embedder.embed([c.text for c in worth]), embedder.embed([references[c.row] for c in worth])
        )
        meaning = {id(c): round(float(cosine), 4) for c, cosine in zip(worth, cosines, strict=True)}
    for candidate in candidates:
        verdicts = judge(
            turns[candidate.row], references[candidate.row], candidate.text, category=categories[candidate.row],
            finish_reason=candidate.finish_reason, meaning=meaning[id(candidate)] if candidate.text else None, config=gate,
            constraints=constraints[candidate.row],
        )  # fmt: skip
        if (failure := first_failure(verdicts)) is not None:
            candidate.status, candidate.check, candidate.evidence = "rejected", failure.check, failure.evidence
            candidate.measured, candidate.limit = failure.measured, failure.limit


def _is_short(reference: str, gate: GateConfig) -> bool:
    return len(words(reference)) <= gate.short_reference_words


def _score(table: pl.DataFrame, candidates: Sequence[_Candidate], scorer: RecordedScorer) -> list[float | None]:
    """Score what passed the gate, and return the references' scores, None where the base model cannot read the row."""
    prompts: list[Sequence[Message]] = [[{"role": "user", "content": turn}] for turn in full_instruction(table)]
    passed = [candidate for candidate in candidates if candidate.status == "passed"]
    found = scorer.mean_logprobs(
        [*prompts, *(prompts[c.row] for c in passed)],
        [*table["response"], *(c.text for c in passed)],
        "fit to the base model",
    )
    scores = [None if math.isnan(score) else score for score in found]
    for candidate, score in zip(passed, scores[table.height :], strict=True):
        candidate.score = score
        if score is None:
            candidate.status, candidate.check = "rejected", TOO_LONG
            candidate.evidence = "instruction, input and rewrite are longer than the base model reads"
    return scores[: table.height]


def _best(candidates: Sequence[_Candidate], references: Sequence[float | None]) -> dict[int, tuple[_Candidate, float]]:
    """Return, by row number, the likeliest candidate that passed (the earlier of equals) and its gain."""
    best: dict[int, tuple[_Candidate, float]] = {}
    for candidate in candidates:
        reference = references[candidate.row]
        if candidate.status != "passed" or candidate.score is None or reference is None:
            continue
        gain = candidate.score - reference
        if candidate.row not in best or gain > best[candidate.row][1]:
            best[candidate.row] = candidate, gain
    return best


def _reasons(
    table: pl.DataFrame,
    best: Mapping[int, tuple[_Candidate, float]],
    references: Sequence[float | None],
    config: RewriteConfig,
    gate: GateConfig,
) -> list[str | None]:
    """Return each row's `response_reason`, None for a row to drop; the smallest gains give way to `keep_originals`."""
    ids, texts = table["id"].to_list(), table["response"].to_list()
    worth = sorted(
        (row for row, (_, gain) in best.items() if gain >= config.min_gain), key=lambda row: (-best[row][1], ids[row])
    )
    rows = sum(score is not None for score in references)
    most = int(rows * (1 - config.keep_originals) + 1e-9)
    rewritten = {row: "best_fit" if place < most else "keep_originals" for place, row in enumerate(worth)}
    reasons: list[str | None] = []
    for row, score in enumerate(references):
        if score is None:
            reasons.append(None)
        elif not config.enabled:
            reasons.append("off")
        elif _is_short(texts[row], gate):
            reasons.append("short_reference")
        elif row not in best:
            reasons.append("nothing_passed")
        else:
            reasons.append(rewritten.get(row, "gain_too_small"))
    return reasons


def _with_choice(
    table: pl.DataFrame,
    candidates: Sequence[_Candidate],
    best: Mapping[int, tuple[_Candidate, float]],
    reasons: Sequence[str | None],
    references: Sequence[float | None],
) -> pl.DataFrame:
    chosen = {row: candidate for row, (candidate, _) in best.items() if reasons[row] == "best_fit"}
    for candidate in chosen.values():
        candidate.status = "chosen"
    offered: list[list[dict[str, Any]]] = [[] for _ in range(table.height)]
    calls: list[list[str]] = [list(keys) for keys in table["calls"]]
    for candidate in candidates:
        offered[candidate.row].append({name: asdict(candidate)[name] for name in REWRITE})
        calls[candidate.row].append(candidate.call)
    rows, texts = range(table.height), table["response"].to_list()
    kinds = [chosen[row].kind if row in chosen else "reference" for row in rows]
    before = pl.Series([_surprisal(score) for score in references], dtype=pl.Float64)
    least = pl.Series([_surprisal(best[row][0].score) if row in best else None for row in rows], dtype=pl.Float64)
    rewritten = pl.Series([row in chosen for row in rows], dtype=pl.Boolean)
    return table.with_columns(
        response=pl.Series([chosen[row].text if row in chosen else texts[row] for row in rows], dtype=pl.String),
        original_response=pl.Series([texts[row] if row in chosen else None for row in rows], dtype=pl.String),
        calls=pl.Series(calls, dtype=pl.List(pl.String)),
        response_source=pl.Series(kinds, dtype=pl.String),
        response_reason=pl.Series(reasons, dtype=pl.String),
        surprisal=least.zip_with(rewritten, before),
        reference_surprisal=before,
        fit_gain=(before - least.zip_with(rewritten, before)).round(4),
        best_gain=(before - least).round(4),
        rewrites=pl.Series(offered, dtype=pl.List(pl.Struct(REWRITE))),
    )


def _surprisal(score: float | None) -> float | None:
    return None if score is None else -round(score, 4)
