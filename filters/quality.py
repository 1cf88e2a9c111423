"""A cheap quality of a row: terms, each a column, and the weighted sum of their z-scores within the category.

Our own proposal, not a published score: with a weak generator the commonest fault is an answer about something else, so
the cosine between task and answer counts most; among answers on the subject the longer one tends to say more ("Long is
more for alignment", arXiv:2402.04833), up to the 90th percentile.

`ifd` is the instruction-following difficulty of Li et al., "From Quantity to Quality: Boosting LLM Performance with
Self-Guided Data Selection for Instruction Tuning" (Cherry; NAACL 2024, arXiv:2308.12032): the ratio of mean losses
L(y|x) / L(y), not Superfiltering's ratio of perplexities (ACL 2024, arXiv:2402.00530), which is exp(L(y|x) - L(y)) and
orders rows otherwise. Departures from Cherry's released code: the base model as it is, without an epoch on 1,000 rows
first; the training prompt; the end token counts, since it is trained; and L(y) is under that prompt with an empty user
turn, so that the two differ by the instruction alone, where Cherry leaves "### Response:" of its own. After the begin
token alone an answer also pays for the missing frame: of 60 answers to other instructions 52 % then had an IFD of 1 or
more under a 135M base, 88 % with the empty turn.

Off by default: Cherry takes the highest below 1, and that is where answers to a similar task lie (AUC of the right ones
0.08 by ifd, 0.97 by relevance); in an independent comparison random choice did better (arXiv:2503.01807, table 1).
"""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import polars as pl

from kiloset.core.config import Count, NonNegative, settings
from kiloset.core.models import Embedder, Message
from kiloset.core.recorded import RecordedEngine, RecordedScorer
from kiloset.core.table import full_instruction
from kiloset.filters.judging import agreements, ratings
from kiloset.filters.rules import RulesConfig, rule_nearness

LEAST_IFD = 0.3
"""What a lower one counts as, and one of 1 or more, which Cherry drops: there the instruction does not help."""
LEAST_SPREAD = 1e-9
"""Standard deviation below which values are equal but for rounding."""
NO_INSTRUCTION: Sequence[Message] = [{"role": "user", "content": ""}]
MODEL_TERMS = {
    "surprisal": pl.Float64, "ifd": pl.Float64, "consistency": pl.Float64, "judge": pl.Float64,
    "judge_ratings": pl.UInt32,
}  # fmt: skip
"""Columns of terms that a model is asked for."""
ASKED_FOR = {
    "ifd_weight": "ifd", "consistency_weight": "consistency", "consistency_samples": "consistency",
    "judge_weight": "judge", "judge_samples": "judge",
}  # fmt: skip
"""The settings that decide whether, and how well, a model measures a term."""
TERMS = {"relevance": pl.Float64, "response_words": pl.Float64, "rule_nearness": pl.Float64, **MODEL_TERMS}
"""Columns that `with_quality` adds besides `quality`."""


@settings
class QualityConfig:
    """The `[quality]` table of a run's TOML. Of the terms that ask a model, those of weight 0 are not measured."""

    relevance_weight: NonNegative = 1.0
    """Weight of the standardised cosine between instruction and response."""
    length_weight: NonNegative = 0.5
    """Weight of the standardised logarithm of the response's length, capped at its 90th percentile."""
    nearness_weight: NonNegative = 0.0
    """Weight, subtracted, of how near a row is to breaking a rule. [rules] drops what is beyond a limit; short of it
    this favours the shorter of two answers, a cut one above all."""
    ifd_weight: NonNegative = 0.0
    """Weight of the instruction-following difficulty under the base model, at least 0.3; where it is 1 or more, so that
    the instruction does not help, it counts as 0.3. Two passes of the base model a row."""
    consistency_weight: NonNegative = 0.0
    """Weight of the agreement with further answers of the generator model."""
    consistency_samples: Count = 3
    """Further answers asked for, a row."""
    judge_weight: NonNegative = 0.0
    """Weight of a judge's mean rating."""
    judge_samples: Count = 3
    """Ratings asked for, a row."""


def with_quality(
    table: pl.DataFrame, config: QualityConfig, *, rules: RulesConfig, embedder: Embedder, scorer: RecordedScorer,
    generator: RecordedEngine, judge: RecordedEngine, sampling: Mapping[str, Any], candidates: pl.Expr | None = None,
) -> pl.DataFrame:  # fmt: skip
    """Add a column for every term, null where it was not measured, and `quality`.

    `relevance` (cosine of task and response), `response_words` (words), `rule_nearness` (fraction in [0, 1],
    `kiloset.filters.rules.rule_nearness`), `surprisal` (of the response given the instruction, nats per token), `ifd` (a
    ratio), `consistency` (`kiloset.filters.judging.agreements`), `judge` (mean rating in [1, 5]), `judge_ratings` (how many
    ratings that is of) and `quality` (`weighed`). A row too long for the base model has neither `surprisal` nor `ifd`.

    Args:
        table: Rows.
        config: The `[quality]` table.
        rules: The `[rules]` table.
        embedder: For relevance and consistency.
        scorer: The base model's likelihoods.
        generator: What writes further answers.
        judge: What rates; may be the generator.
        sampling: `max_tokens`, `temperature` and `top_p` of the answers that rows were born with.
        candidates: Rows worth asking a model about; all by default.
    """
    places = table.select(place=pl.int_range(pl.len()), wanted=pl.lit(True) if candidates is None else candidates)
    asked = places.filter("wanted")["place"]
    rows = table[asked]
    found: dict[str, Sequence[float | None]] = {name: [None] * len(asked) for name in MODEL_TERMS}
    if config.ifd_weight:
        found |= difficulty(rows, scorer)
    turns, responses = full_instruction(rows), rows["response"].to_list()
    if config.consistency_weight:
        calls, edited = rows["calls"].to_list(), (rows["edits"].list.len() > 0).to_list()
        agreed = agreements(
            turns, responses, calls, edited, generator, embedder, samples=config.consistency_samples, sampling=sampling
        )  # fmt: skip
        found["consistency"] = _rounded(agreed)
    if config.judge_weight:
        rated = ratings(turns, responses, judge, samples=config.judge_samples)
        found |= {"judge": _rounded([mean for mean, _ in rated]), "judge_ratings": [count for _, count in rated]}
    told = pl.DataFrame({"place": asked, **found}, schema_overrides={name: TERMS[name] for name in found})
    beside = places.select("place").join(told, on="place", how="left", maintain_order="left")
    return weighed(_at_hand(table, rules, embedder).with_columns(beside.drop("place").get_columns()), config)


def with_measured(
    table: pl.DataFrame, measured: pl.DataFrame, config: QualityConfig, *, rules: RulesConfig, embedder: Embedder
) -> pl.DataFrame:
    """Add what `with_quality` adds, `MODEL_TERMS` as they were measured before: null for a row that has none.

    Args:
        table: Rows.
        measured: `id` and those of `MODEL_TERMS` that there are.
        config: The `[quality]` table.
        rules: The `[rules]` table.
        embedder: For relevance.
    """
    blank = pl.DataFrame(schema={"id": pl.String, **MODEL_TERMS})
    known = pl.concat(
        [blank, measured.select(pl.col(name) for name in blank.columns if name in measured.columns)],
        how="diagonal_relaxed",
    )
    beside = table.select("id").join(known, on="id", how="left", maintain_order="left").drop("id")
    return weighed(_at_hand(table, rules, embedder).with_columns(beside.get_columns()), config)


def _at_hand(table: pl.DataFrame, rules: RulesConfig, embedder: Embedder) -> pl.DataFrame:
    """Add the terms that no text model is asked for."""
    return table.with_columns(
        relevance=pl.Series(_relevance(table, embedder), dtype=pl.Float64),
        response_words=pl.col("response").str.count_matches(r"\S+").cast(pl.Float64),
        rule_nearness=rule_nearness(rules).round(4),
    )


def weighed(table: pl.DataFrame, config: QualityConfig) -> pl.DataFrame:
    """Add `quality`: the weighted sum of the terms' z-scores within the category, in which a null counts as the mean.

    A function of the columns alone, so that other weights need no model.
    """
    length = pl.col("response_words").clip(1, None)
    capped = pl.min_horizontal(length, length.quantile(0.9, "nearest").over("category")).log()
    ifd = pl.when(pl.col("ifd") < 1).then(pl.col("ifd").clip(LEAST_IFD, None)).when(pl.col("ifd") >= 1).then(LEAST_IFD)
    terms = (
        config.relevance_weight * _z(pl.col("relevance"))
        + config.length_weight * _z(capped)
        - config.nearness_weight * _z(pl.col("rule_nearness"))
        + config.ifd_weight * _z(ifd)
        + config.consistency_weight * _z(pl.col("consistency"))
        + config.judge_weight * _z(pl.col("judge"))
    )
    return table.with_columns(quality=terms.round(6))


def _relevance(table: pl.DataFrame, embedder: Embedder) -> list[float]:
    if table.is_empty():
        return []
    tasks, answers = embedder.embed(full_instruction(table)), embedder.embed(table["response"].to_list())
    cosines: list[float] = np.round(np.einsum("ij,ij->i", tasks, answers).astype(np.float64), 4).tolist()
    return cosines


def difficulty(rows: pl.DataFrame, scorer: RecordedScorer) -> dict[str, list[float | None]]:
    """Return `surprisal`, the very one that rewriting measures of the same answer, and `ifd`."""
    prompts: list[Sequence[Message]] = [[{"role": "user", "content": turn}] for turn in full_instruction(rows)]
    responses = rows["response"].to_list()
    given = scorer.mean_logprobs(prompts, responses, "likelihood of answers")
    read = [at for at, score in enumerate(given) if not math.isnan(score)]
    alone = scorer.mean_logprobs(
        [NO_INSTRUCTION] * len(read), [responses[at] for at in read], "likelihood without the instruction"
    )
    ifd: list[float | None] = [None] * len(given)
    for at, score in zip(read, alone, strict=True):
        ifd[at] = given[at] / score if score < 0 else None
    return {"surprisal": _rounded([None if math.isnan(score) else -score for score in given]), "ifd": _rounded(ifd)}


def _rounded(values: Sequence[float | None]) -> list[float | None]:
    return [None if value is None else round(value, 4) for value in values]


def _z(value: pl.Expr) -> pl.Expr:
    spread = value.std(ddof=0).over("category")
    z = pl.when(spread > LEAST_SPREAD).then((value - value.mean().over("category")) / spread).otherwise(0.0)
    return z.fill_null(0.0)
