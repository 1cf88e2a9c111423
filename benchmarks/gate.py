"""Compare versions of the fidelity gate on labelled pairs of reference and rewrite.

    python benchmarks/gate.py [PAIRS.jsonl]

PAIRS.jsonl (default: `tests/data/gate_pairs_unseen.jsonl`) has one pair a line: the task, `reference`, `rewrite`, `faithful`
(one label for each reader), `meaning`, `kept` and `given` (the cosines that the gate is passed), `p_same` (the writer model's
probability that both texts say the same, asked both ways round) and `weight`, the number of pairs that a drawn one stands for:
pairs were drawn more often where the versions differ. `by` names the model that wrote the rewrite.

Prints, for each version, the share of faithful pairs among those it accepts and the share of the faithful ones that it accepts,
both weighted, with 95 % intervals over resampled pairs. `figure gate_precision` and `figure gate_recall` are those of the gate
that a run uses. A pair is faithful if every reader agrees that it is.
"""

import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from harness import ROOT, figure, read_lines
from sklearn.metrics import cohen_kappa_score, roc_auc_score

from kiloset.core.statistics import Interval, ratio_interval
from kiloset.core.table import user_turn
from kiloset.rewrite.gate import GateConfig, judge
from kiloset.rewrite.passages import Covered

UNSEEN = ROOT / "tests" / "data" / "gate_pairs_unseen.jsonl"
MEANING = {"meaning", "sentences", "new_sentences"}
"""The checks that compare embeddings."""
LEXICAL = {"series", "polarity", "clauses", "new_clauses"}
"""The checks that compare words by lists and patterns of English."""
LEAST_SAME = 0.5
"""Limit of `p_same`, in both directions."""
CURRENT = "the gate of a run"
Pair = Mapping[str, Any]


def failed(pair: Pair) -> set[str]:
    """Return the checks of the gate that reject a pair."""
    verdicts = judge(
        user_turn(pair["instruction"], pair["input"]), pair["reference"], pair["rewrite"], category=pair["category"], finish_reason=pair["finish_reason"],
        meaning=pair["meaning"], config=GateConfig(), constraints=pair.get("constraints", []),
        covered=Covered(pair["kept"], "", pair["given"], ""),
    )  # fmt: skip
    return {verdict.check for verdict in verdicts if verdict.status == "failed"}


def versions(pairs: Sequence[Pair], by_check: Sequence[set[str]]) -> dict[str, list[bool]]:
    """Return which pairs each version accepts; `by_check` has the checks that reject each pair."""

    def without(left_out: set[str]) -> list[bool]:
        return [not (checks - left_out) for checks in by_check]

    same = [min(pair["p_same"]) >= LEAST_SAME for pair in pairs]
    hard, now = without(MEANING | LEXICAL), without(set())
    return {
        CURRENT: now,
        "hard checks only": hard,
        "hard checks and embeddings": without(LEXICAL),
        "hard checks and word lists": without(MEANING),
        "hard checks and P(same)": [one and other for one, other in zip(hard, same, strict=True)],
        "everything": [one and other for one, other in zip(now, same, strict=True)],
    }


def shares(pairs: Sequence[Pair], accepted: Sequence[bool]) -> tuple[Interval, Interval]:
    """Return weighted precision and recall."""
    weight = np.array([pair["weight"] for pair in pairs])
    faithful = np.array([all(pair["faithful"]) for pair in pairs])
    both = weight * (faithful & np.array(accepted))
    return ratio_interval(both, weight * np.array(accepted)), ratio_interval(both, weight * faithful)


def main() -> None:
    """Print the comparison."""
    pairs = read_lines(Path(sys.argv[1]) if len(sys.argv) > 1 else UNSEEN)
    faithful = [all(pair["faithful"]) for pair in pairs]
    first, second = zip(*(pair["faithful"] for pair in pairs), strict=True)
    figure("pairs", len(pairs), f"({sum(faithful)} faithful)")
    figure("kappa", round(float(cohen_kappa_score(first, second)), 2))
    figure("auc_p_same", round(float(roc_auc_score(faithful, [min(pair["p_same"]) for pair in pairs])), 3))
    print("version | accepted | precision | recall")
    by_check = [failed(pair) for pair in pairs]
    compared = versions(pairs, by_check)
    for name, accepted in compared.items():
        precision, recall = shares(pairs, accepted)
        cells = [f"{one.value:.2f} ({one.low:.2f} to {one.high:.2f})" for one in (precision, recall)]
        print(f"{name} | {sum(accepted)} | {' | '.join(cells)}")
        if name == CURRENT:
            figure("gate_precision", f"{precision.value:.3f}")
            figure("gate_recall", f"{recall.value:.3f}")
    print("writer | pairs | faithful | accepted | of these faithful")
    for by in sorted({pair["by"] for pair in pairs}):
        rows = [(one, ok) for pair, one, ok in zip(pairs, faithful, compared[CURRENT], strict=True) if pair["by"] == by]
        print(
            f"{by} | {len(rows)} | {sum(one for one, _ in rows)} | {sum(ok for _, ok in rows)} | {sum(one and ok for one, ok in rows)}"
        )
    print("check: rejected pairs, of these faithful, rejected by it alone, of these faithful")
    for check in sorted({check for checks in by_check for check in checks}):
        mine = [(one, len(checks) == 1) for one, checks in zip(faithful, by_check, strict=True) if check in checks]
        alone = [one for one, only in mine if only]
        print(f"{check}: {len(mine)}, {sum(one for one, _ in mine)}, {len(alone)}, {sum(alone)}")


if __name__ == "__main__":
    main()
