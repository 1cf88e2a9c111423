"""Draw rows for a blind reading, and compute from the readers' labels how many are sensible and right.

    python benchmarks/reading.py draw OUT.jsonl RUN[:ROWS] [RUN[:ROWS] …] [--stage generate] [--seed 0]
    python benchmarks/reading.py score KEY.jsonl LABELS.jsonl [LABELS.jsonl …]
    python benchmarks/reading.py quote RUN [--kept 20] [--dropped 10] [--seed 0]

`draw` writes the rows of the runs' curated sets, or the generated rows that another stage kept, drawn at random and shuffled together, with a number and without anything that
shows which run or which filter saw them; KEY.jsonl beside it (OUT.key.jsonl) has the run and id of each number. A reader writes
one JSON object a line: {"n": 17, "sensible": true, "right": false, "why": "…"}. A task is sensible if a person might
ask it and it can be answered from what is there. An answer is right if it is true and does exactly what was asked.

`score` prints, for each run, the share of both with a 95 % Wilson interval for each reader, for the rows that all readers accept,
by category, and the agreement of the readers (Cohen's kappa for two).

`quote` prints rows drawn at random as Markdown: kept rows, and rows that a check dropped (surplus rows of selection are left out).
"""

import argparse
import json
import random
import re
from collections import defaultdict
from pathlib import Path
from typing import Any

import polars as pl
from harness import figure, read_lines, run_folder, share
from sklearn.metrics import cohen_kappa_score

from kiloset.result import SURPLUS

LONGEST = 400
"""Most characters of a quoted text."""
COLUMNS = ("category", "instruction", "input", "response")


def draw(out: Path, runs: list[str], seed: int, stage: str = "") -> None:
    """Write the rows to read, and the key beside them."""
    rng, rows = random.Random(seed), []
    for name in runs:
        run, _, count = name.partition(":")
        stages = run_folder(run).stages()
        table = dict(stages)[stage].filter(pl.col("source") != "seed") if stage else stages[-1][1]
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
    origin = {row["n"]: row for row in read_lines(key)}
    readers = [{row["n"]: row for row in read_lines(file)} for file in files]
    if missing := [n for n in origin for labels in readers if n not in labels]:
        raise SystemExit(f"rows without a label: {sorted(set(missing))[:10]}")
    for run in sorted({row["run"] for row in origin.values()}):
        numbers = [n for n, row in origin.items() if row["run"] == run]
        for what in ("sensible", "right"):
            for place, labels in enumerate(readers, start=1):
                share(f"{what}_{run}_reader_{place}", [bool(labels[n][what]) for n in numbers])
            share(f"{what}_{run}_all_readers", [all(labels[n][what] for labels in readers) for n in numbers])
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


def quote(run: str, kept: int, dropped: int, seed: int) -> None:
    """Print rows of a run for a page of the documentation."""
    rng, folder = random.Random(seed), run_folder(run)
    curated = folder.stages()[-1][1].sort("id").to_dicts()
    lost = folder.dropped().filter(~pl.col("reason").is_in(SURPLUS)).sort("id").to_dicts()
    for title, rows, count in (("Kept", curated, kept), ("Dropped", lost, dropped)):
        print(f"## {title}\n")
        for row in rng.sample(rows, min(count, len(rows))):
            reason = f", {row['reason']}: {row['evidence']}" if title == "Dropped" else ""
            print(f"**{row['category']}{_plain(reason)}**\n")
            for name in ("instruction", "input", "response"):
                if row[name]:
                    print(f"> {name}: {_plain(row[name])}\n>")
            print()


def _plain(text: str) -> str:
    """Return a text on one line without marks of Markdown or HTML, cut after `LONGEST` characters."""
    line = " / ".join(part.strip() for part in text.splitlines() if part.strip())
    line = re.sub(r"([\\`*_#<>\[\]|])", r"\\\1", line)
    return line if len(line) <= LONGEST else f"{line[:LONGEST]} …"


def _line(row: dict[str, Any]) -> str:
    return json.dumps(row, ensure_ascii=False) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    commands = parser.add_subparsers(dest="command", required=True)
    drawing = commands.add_parser("draw", help="write rows for readers")
    drawing.add_argument("out", type=Path)
    drawing.add_argument("runs", nargs="+", metavar="RUN[:ROWS]")
    drawing.add_argument(
        "--stage", default="", help="stage whose kept rows are drawn, such as generate; the last one by default"
    )
    drawing.add_argument("--seed", type=int, default=0)
    scoring = commands.add_parser("score", help="compute shares from labels")
    scoring.add_argument("key", type=Path)
    scoring.add_argument("labels", nargs="+", type=Path)
    quoting = commands.add_parser("quote", help="print rows as Markdown")
    quoting.add_argument("run")
    quoting.add_argument("--kept", type=int, default=20)
    quoting.add_argument("--dropped", type=int, default=10)
    quoting.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    if arguments.command == "draw":
        draw(arguments.out, arguments.runs, arguments.seed, arguments.stage)
    elif arguments.command == "quote":
        quote(arguments.run, arguments.kept, arguments.dropped, arguments.seed)
    else:
        score(arguments.key, arguments.labels)


if __name__ == "__main__":
    main()
