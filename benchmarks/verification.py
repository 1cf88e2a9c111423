"""Compare the verdicts of the stage `verify` with human-style labels: precision, recall and what each check contributes.

    python benchmarks/verification.py collect KEY.jsonl LABELS.jsonl LABELS.jsonl --run RUN --out ROWS.jsonl
    python benchmarks/verification.py score [ROWS.jsonl]

Rows are drawn and read with `reading.py` (`draw OUT.jsonl RUN:200 --stage generate`). `collect` joins the labels with what the run
measured of each row. `score` judges these rows again with the current checks and settings; no model is needed. Precision is the
share of right answers among the rows that pass, recall the share of right answers that pass; a row is right if all readers agree.
"""

import argparse
import json
from collections import Counter
from pathlib import Path
from typing import Any

from harness import figure, read_lines, run_folder, share
from sklearn.metrics import cohen_kappa_score, roc_auc_score

from kiloset.core.statistics import proportion_interval
from kiloset.verify.settings import CHECKS, VerifyConfig
from kiloset.verify.verify import check_row

ROWS = Path(__file__).parents[1] / "tests" / "data" / "verification_rows.jsonl"
LIMITS = (0.3, 0.4, 0.45, 0.5, 0.55, 0.6, 0.65, 0.7, 0.8)


def collect(key: Path, labels: list[Path], run: str, out: Path) -> None:
    """Write the rows with both labels and their agreement."""
    table = dict(run_folder(run).stages())["generate"]
    agreement = dict(table.select("id", "agreement").iter_rows())
    readers = [{row["n"]: row for row in read_lines(file)} for file in labels]
    with out.open("w", encoding="utf-8") as file:
        for row in read_lines(key):
            entry = {name: row[name] for name in ("id", "category", "instruction", "input", "response")}
            entry |= {name: [bool(reader[row["n"]][name]) for reader in readers] for name in ("sensible", "right")}
            entry |= {"why": [reader[row["n"]].get("why", "") for reader in readers], "agreement": agreement[row["id"]]}
            file.write(json.dumps(entry, ensure_ascii=False) + "\n")


def score(rows: list[dict[str, Any]]) -> None:
    """Print precision and recall, overall, by check, by limit of the agreement and by category."""
    config = VerifyConfig()
    right = [all(row["right"]) for row in rows]
    results = [check_row(row, config, row["agreement"]) for row in rows]
    passed = [all(check["passed"] for check in checks) for checks in results]
    figure("rows", len(rows))
    share("right_before", right)
    figure("kappa_right", round(float(cohen_kappa_score(*zip(*(row["right"] for row in rows), strict=True))), 2))
    share("precision", [one for one, ok in zip(right, passed, strict=True) if ok])
    share("recall", [ok for one, ok in zip(right, passed, strict=True) if one])
    share("false_positive_rate", [ok for one, ok in zip(right, passed, strict=True) if not one])
    measured = [(row["agreement"], one) for row, one in zip(rows, right, strict=True) if row["agreement"] is not None]
    figure(
        "agreement_auc", round(float(roc_auc_score([one for _, one in measured], [score for score, _ in measured])), 3)
    )
    print("check: rows that fail it, of these right")
    failed = Counter(
        (check["check"], one)
        for checks, one in zip(results, right, strict=True)
        for check in checks
        if not check["passed"]
    )
    for name in CHECKS:
        print(f"  {name}: {failed[name, False] + failed[name, True]}, {failed[name, True]}")
    print("limit of the agreement: rows that pass, precision, recall")
    for limit in LIMITS:
        other = VerifyConfig(least_agreement=limit)
        kept = [
            one
            for row, one in zip(rows, right, strict=True)
            if all(c["passed"] for c in check_row(row, other, row["agreement"]))
        ]
        print(f"  {limit:.2f}: {len(kept)}, {sum(kept) / max(1, len(kept)):.2f}, {sum(kept) / max(1, sum(right)):.2f}")
    print("category: rows, right, rows that pass, of these right, precision and recall with 95 % intervals")
    for category in sorted({row["category"] for row in rows}):
        mine = [(one, ok) for row, one, ok in zip(rows, right, passed, strict=True) if row["category"] == category]
        both, rights, passing = (
            sum(each) for each in ((a and b for a, b in mine), (a for a, _ in mine), (b for _, b in mine))
        )
        print(
            f"  {category}: {len(mine)}, {rights}, {passing}, {both}, {_share(both, passing)}, {_share(both, rights)}"
        )


def _share(hits: int, trials: int) -> str:
    if not trials:
        return "-"
    share = proportion_interval(hits, trials)
    return f"{share.value:.2f} ({share.low:.2f} to {share.high:.2f})"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    commands = parser.add_subparsers(dest="command", required=True)
    collecting = commands.add_parser("collect", help="join labels with what the run measured")
    collecting.add_argument("key", type=Path)
    collecting.add_argument("labels", nargs=2, type=Path)
    collecting.add_argument("--run", required=True)
    collecting.add_argument("--out", type=Path, default=ROWS)
    scoring = commands.add_parser("score", help="compute precision and recall")
    scoring.add_argument("rows", nargs="?", type=Path, default=ROWS)
    arguments = parser.parse_args()
    if arguments.command == "collect":
        collect(arguments.key, arguments.labels, arguments.run, arguments.out)
    else:
        score(read_lines(arguments.rows))


if __name__ == "__main__":
    main()
