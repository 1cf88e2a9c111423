"""Draw rows for a blind reading, and compute from the readers' labels how many are sensible and right.

    python benchmarks/reading.py draw OUT.jsonl RUN[:ROWS] [RUN[:ROWS] …] [--seed 0]
    python benchmarks/reading.py score KEY.jsonl LABELS.jsonl [LABELS.jsonl …]

`draw` writes the rows of the runs' curated sets, drawn at random and shuffled together, with a number and without anything that
shows which run or which filter saw them; KEY.jsonl beside it (OUT.key.jsonl) has the run and id of each number. A reader writes
one JSON object a line: {"n": 17, "sensible": true, "right": false, "why": "…"}. A task is sensible if a person might
ask it and it can be answered from what is there. An answer is right if it is true and does exactly what was asked.

`score` prints, for each run, the share of both with a 95 % Wilson interval for each reader, for the rows that all readers accept,
by category, and the agreement of the readers (Cohen's kappa for two).
"""

import argparse
import json
import random
from collections import defaultdict
from pathlib import Path
from typing import Any

from harness import figure, run_folder
from scipy.stats import binomtest
from sklearn.metrics import cohen_kappa_score

COLUMNS = ("category", "instruction", "input", "response")


def draw(out: Path, runs: list[str], seed: int) -> None:
    """Write the rows to read, and the key beside them."""
    rng, rows = random.Random(seed), []
    for name in runs:
        run, _, count = name.partition(":")
        table = run_folder(run).stages()[-1][1]
        curated = table.sort("id").to_dicts()
        chosen = rng.sample(curated, min(int(count or len(curated)), len(curated)))
        rows += [(Path(run).name, row) for row in chosen]
    rng.shuffle(rows)
    numbered = list(enumerate(rows, start=1))
    out.write_text(
        "".join(_line({"n": n, **{c: row[c] for c in COLUMNS}}) for n, (_, row) in numbered), encoding="utf-8"
    )
    key = out.with_suffix(".key.jsonl")
    columns = ("id", *COLUMNS)
    key.write_text(
        "".join(_line({"n": n, "run": run, **{c: row[c] for c in columns}}) for n, (run, row) in numbered),
        encoding="utf-8",
    )
    print(f"{len(rows)} rows in {out}, their origin in {key}")


def score(key: Path, files: list[Path]) -> None:
    """Print the shares that the labels give."""
    origin = {row["n"]: row for row in _read(key)}
    readers = [{row["n"]: row for row in _read(file)} for file in files]
    if missing := [n for n in origin for labels in readers if n not in labels]:
        raise SystemExit(f"rows without a label: {sorted(set(missing))[:10]}")
    for run in sorted({row["run"] for row in origin.values()}):
        numbers = [n for n, row in origin.items() if row["run"] == run]
        for what in ("sensible", "right"):
            for place, labels in enumerate(readers, start=1):
                _share(f"{what}_{run}_reader_{place}", [bool(labels[n][what]) for n in numbers])
            _share(f"{what}_{run}_all_readers", [all(labels[n][what] for labels in readers) for n in numbers])
            if len(readers) == 2:
                first, second = ([bool(labels[n][what]) for n in numbers] for labels in readers)
                figure(f"kappa_{what}_{run}", round(float(cohen_kappa_score(first, second)), 2))
        by_category: dict[str, list[int]] = defaultdict(list)
        for n in numbers:
            by_category[origin[n]["category"]].append(n)
        print("category: rows, sensible and right for every reader")
        for category, group in sorted(by_category.items()):
            counts = [sum(all(labels[n][what] for labels in readers) for n in group) for what in ("sensible", "right")]
            print(f"  {category}: {len(group)}, {counts[0]}, {counts[1]}")


def _share(name: str, hits: list[bool]) -> None:
    interval = binomtest(sum(hits), len(hits)).proportion_ci(method="wilson")
    bounds = f"95 % interval {interval.low:.2f} to {interval.high:.2f}"
    figure(name, f"{sum(hits) / len(hits):.3f}", f"({sum(hits)} of {len(hits)}, {bounds})")


def _read(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines() if line.strip()]


def _line(row: dict[str, Any]) -> str:
    return json.dumps(row, ensure_ascii=False) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    commands = parser.add_subparsers(dest="command", required=True)
    drawing = commands.add_parser("draw", help="write rows for readers")
    drawing.add_argument("out", type=Path)
    drawing.add_argument("runs", nargs="+", metavar="RUN[:ROWS]")
    drawing.add_argument("--seed", type=int, default=0)
    scoring = commands.add_parser("score", help="compute shares from labels")
    scoring.add_argument("key", type=Path)
    scoring.add_argument("labels", nargs="+", type=Path)
    arguments = parser.parse_args()
    if arguments.command == "draw":
        draw(arguments.out, arguments.runs, arguments.seed)
    else:
        score(arguments.key, arguments.labels)


if __name__ == "__main__":
    main()
