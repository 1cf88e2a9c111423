"""Gate, then fit: give each row the answer that the base model finds most natural among those that keep the facts.

Candidates as in Yang et al., "Self-Distillation Bridges Distribution Gap in Language Model Fine-Tuning" (ACL 2024,
arXiv:2402.13669): rewrites by the base model guided by the reference; and its plain answers, as Gupta et al. (S3FT,
arXiv:2502.08130) prefer. Choice as in Zhang et al., GRAPE (arXiv:2502.04194): the highest length-normalised likelihood
under the base model and the very prompt the trainer renders, the reference not in it. Departures: a fidelity gate comes
first (the released SDFT data lost or invented numbers in one row of five), the reference stays unless the gain is worth
`min_gain`, and a share of originals always stays against collapse.
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Annotated, Any

import numpy as np
import polars as pl
from pydantic import Field

from core.calls import RecordedEngine, RecordedScorer
from core.config import Count, Fraction, Natural, NonNegative, Share, settings
from core.models import Embedder, Message, Request
from core.table import Outcome, full_instruction, table_of
from core.text import words
from rewrite.gate import GateConfig, first_failure, judge

REWRITE: dict[str, Any] = {
    "kind": pl.String, "status": pl.String, "check": pl.String, "evidence": pl.String,
    "measured": pl.Float64, "limit": pl.Float64, "score": pl.Float64, "text": pl.String,
}  # fmt: skip
"""Fields of one entry of the column `rewrites`; `score` is the mean log-probability in nats per token, null where none
was needed. `status` is `chosen`, `passed` (the gate, but not best or not by enough) or `rejected` (by `check`)."""


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
    """Choose each row's answer; no row is dropped.

    Adds `response_source` (reference, plain, guided), `surprisal` of the response in the set and `reference_surprisal`
    (nats per token), `fit_gain` (their difference, 0 where the reference stays) and `rewrites`, every candidate with
    its verdict. A rewritten row's earlier answer goes to `original_response`.
    """
    candidates = _ask(table, engine, config, gate) if config.enabled else []
    _judge(table, candidates, embedder, gate)
    prompts: list[Sequence[Message]] = [[{"role": "user", "content": turn}] for turn in full_instruction(table)]
    references = table["response"].to_list()
    passed = [candidate for candidate in candidates if candidate.status == "passed"]
    scores = scorer.mean_logprobs(
        [*prompts, *(prompts[c.row] for c in passed)], [*references, *(c.text for c in passed)], "fit to the base model"
    )
    reference_scores, passed_scores = scores[: len(references)], scores[len(references) :]
    for candidate, score in zip(passed, passed_scores, strict=True):
        candidate.score = score
    chosen = _choose(table["id"].to_list(), passed, reference_scores, config)
    return Outcome(kept=_with_choice(table, candidates, chosen, reference_scores), dropped=_no_rows())


def _ask(table: pl.DataFrame, engine: RecordedEngine, config: RewriteConfig, gate: GateConfig) -> list[_Candidate]:
    """Ask for candidates, except where the reference is so short that nothing may be rewritten."""
    requests: list[Request] = []
    asked: list[tuple[int, str]] = []
    turns = full_instruction(table)
    for row, reference in enumerate(table["response"]):
        length = len(words(reference))
        if length <= gate.short_reference_words:
            continue
        limit = min(config.max_tokens, 64 + 4 * length)
        for kind, samples in (("plain", config.plain), ("guided", config.guided)):
            turn = turns[row] if kind == "plain" else guided_prompt(turns[row], reference)
            prompt = engine.render([{"role": "user", "content": turn}])
            for sample in range(samples):
                # Numbered from 1: sample 0 of the plain prompt may be the reference's own request.
                requests.append(Request(prompt, kind, limit, config.temperature, config.top_p, sample=sample + 1))
                asked.append((row, kind))
    completions = engine.complete(requests, "rewrites") if requests else []
    return [
        _Candidate(row, kind, completion.text.strip(), completion.finish_reason, completion.key)
        for (row, kind), completion in zip(asked, completions, strict=True)
    ]


def _judge(table: pl.DataFrame, candidates: list[_Candidate], embedder: Embedder, gate: GateConfig) -> None:
    """Put each candidate through the gate; the first check it fails is its verdict."""
    turns, references = full_instruction(table), table["response"].to_list()
    categories = table["category"].to_list()
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
        )  # fmt: skip
        if (failure := first_failure(verdicts)) is not None:
            candidate.status, candidate.check, candidate.evidence = "rejected", failure.check, failure.evidence
            candidate.measured, candidate.limit = failure.measured, failure.limit


def _choose(
    ids: Sequence[str], passed: Sequence[_Candidate], reference_scores: Sequence[float], config: RewriteConfig
) -> dict[int, _Candidate]:
    """Return the row numbers to rewrite, each with its candidate; the smallest gains give way to `keep_originals`."""
    best: dict[int, _Candidate] = {}
    for candidate in passed:
        score = candidate.score if candidate.score is not None else float("-inf")
        rival = best.get(candidate.row)
        if rival is None or rival.score is None or score > rival.score:
            best[candidate.row] = candidate
    gains = {row: (c.score or 0.0) - reference_scores[row] for row, c in best.items()}
    worth = sorted((row for row in best if gains[row] >= config.min_gain), key=lambda row: (-gains[row], ids[row]))
    most = int(len(ids) * (1 - config.keep_originals) + 1e-9)
    for row in worth[most:]:
        best[row].check, best[row].evidence = (
            "keep_originals",
            "a share of originals is kept; this gain was among the smallest",
        )
    return {row: best[row] for row in worth[:most]}


def _with_choice(
    table: pl.DataFrame,
    candidates: Sequence[_Candidate],
    chosen: dict[int, _Candidate],
    reference_scores: Sequence[float],
) -> pl.DataFrame:
    for candidate in chosen.values():
        candidate.status = "chosen"
    offered: list[list[dict[str, Any]]] = [[] for _ in range(table.height)]
    calls: list[list[str]] = [list(keys) for keys in table["calls"]]
    for candidate in candidates:
        offered[candidate.row].append({name: asdict(candidate)[name] for name in REWRITE})
        calls[candidate.row].append(candidate.call)
    references = table["response"].to_list()
    scores = [chosen[row].score if row in chosen else reference_scores[row] for row in range(table.height)]
    surprisal = [-round(float(score or 0.0), 4) for score in scores]
    before = [-round(float(score), 4) for score in reference_scores]
    return table.with_columns(
        response=pl.Series(
            [chosen[row].text if row in chosen else text for row, text in enumerate(references)], dtype=pl.String
        ),
        original_response=pl.Series(
            [text if row in chosen else None for row, text in enumerate(references)], dtype=pl.String
        ),
        calls=pl.Series(calls, dtype=pl.List(pl.String)),
        response_source=pl.Series(
            [chosen[row].kind if row in chosen else "reference" for row in range(table.height)], dtype=pl.String
        ),
        surprisal=pl.Series(surprisal, dtype=pl.Float64),
        reference_surprisal=pl.Series(before, dtype=pl.Float64),
        fit_gain=pl.Series([round(b - a, 4) for a, b in zip(surprisal, before, strict=True)], dtype=pl.Float64),
        rewrites=pl.Series(offered, dtype=pl.List(pl.Struct(REWRITE))),
    )


def _no_rows() -> pl.DataFrame:
    empty = table_of([])
    return empty.with_columns(
        reason=pl.lit(None, pl.String), evidence=pl.lit(None, pl.String), measured=pl.lit(None, pl.Float64),
        limit=pl.lit(None, pl.Float64), twin=pl.lit(None, pl.String),
    )  # fmt: skip
