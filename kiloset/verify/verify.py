"""The stage that drops rows whose answer a check shows to be wrong, or that the writer model does not give again.

Agreement is the self-consistency of sampled answers: a model that knows an answer repeats it, and one that invents it varies.
Wang et al., "Self-Consistency Improves Chain of Thought Reasoning in Language Models" (ICLR 2023, arXiv:2203.11171) vote on final answers, and
Manakul et al., "SelfCheckGPT" (EMNLP 2023, arXiv:2303.08896) compare sentences of a text with samples. Departure: one number for
answers of every kind, the mean ROUGE-L F1 of the answer with the others, because it needs no second model and no answer format;
only calculations are compared by their last number.
It does not see an error that the model repeats. The generation measures it (`kiloset.generator.candidates`), so that a wave
counts verified rows only.

The other checks need no model. They read English, and each of them passes what it cannot read.
"""

from collections.abc import Mapping
from typing import Any

import polars as pl

from kiloset.core.table import Outcome, with_verdicts
from kiloset.verify.arithmetic import wrong_equation
from kiloset.verify.grounding import added_number
from kiloset.verify.programs import broken_code
from kiloset.verify.settings import CHECKS, VerifyConfig
from kiloset.verify.stated import broken_count

REASONS = {
    "agreement": "answers_disagree",
    "count": "count_broken",
    "equation": "equation_wrong",
    "number": "number_not_in_text",
    "code": "code_broken",
}
"""The reason of a dropped row, by check."""
CHECK = pl.Struct({"check": pl.String, "passed": pl.Boolean, "detail": pl.String})
"""One entry of the column `verified`."""
TEXTS = ("instruction", "input", "response", "category")


def verify(table: pl.DataFrame, config: VerifyConfig, known: dict[str, list[dict[str, Any]]] | None = None) -> Outcome:
    """Drop rows that fail a check; seeds are kept.

    Adds the column `verified`: the checks that apply to the row, whether it passed, and what was measured or why it failed.
    `known` has the results of rows by id and gets those of the others: the generation loop checks each row once, not wave after wave.
    """
    known = {} if known is None else known
    agreement = table["agreement"].to_list() if "agreement" in table.columns else [None] * table.height
    is_seed = (table["source"] == "seed").to_list()
    rows = table.select("id", *TEXTS).iter_rows(named=True)
    for row, score, seed in zip(rows, agreement, is_seed, strict=True):
        if row["id"] not in known:
            known[row["id"]] = [] if seed else check_row(row, config, score)
    results = [known[id] for id in table["id"]]
    verdicts = {
        id: _verdict(failed[0], score, config)
        for id, checks, score in zip(table["id"], results, agreement, strict=True)
        if (failed := [check for check in checks if not check["passed"]])
    }
    return with_verdicts(table.with_columns(verified=pl.Series(results, dtype=pl.List(CHECK))), verdicts)


def check_row(row: Mapping[str, Any], config: VerifyConfig, agreement: float | None = None) -> list[dict[str, Any]]:
    """Return the result of each check that applies to a row: `check`, `passed` and `detail`."""
    instruction, input, response, category = (row[name] for name in TEXTS)
    faults = {
        "count": broken_count(instruction, response),
        "equation": wrong_equation(response),
        "code": broken_code(instruction, response),
    }
    if input and category in config.copying:
        number = added_number(instruction, input, response)
        faults["number"] = f"the answer has the number {number}, which does not follow from the text" if number else ""
    if agreement is not None and category not in config.open_ended:
        low = agreement < config.least_agreement
        faults["agreement"] = (
            f"the writer model answers otherwise when asked again (ROUGE-L {agreement:.2f} < {config.least_agreement:.2f})"
            if low
            else ""
        )
    results = []
    for check in CHECKS:
        if check in faults and check not in config.off:
            detail = f"{agreement:.2f}" if check == "agreement" and not faults[check] else faults[check]
            results.append({"check": check, "passed": not faults[check], "detail": detail})
    return results


def _verdict(failed: Mapping[str, Any], agreement: float | None, config: VerifyConfig) -> dict[str, Any]:
    verdict: dict[str, Any] = {"reason": REASONS[failed["check"]], "evidence": failed["detail"]}
    if failed["check"] == "agreement":
        verdict |= {"measured": agreement, "limit": config.least_agreement}
    return verdict
