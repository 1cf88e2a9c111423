"""Plant faults in a set of good rows, and count which of them the audit finds and how many sound rows it flags.

    python benchmarks/planted_faults.py FILE [--seed 0]

FILE is an instruction file of sound rows, for example 2,000 rows of databricks-dolly-15k. Of its rows, drawn at random, 5 % each get:

* another: the answer of another row;
* label: the answer of another row with an answer of at most 3 words, in rows with such an answer;
* sum: a sentence with a false sum after the answer; as many sound rows get a true one;
* count: a task with "Answer in exactly N sentences.", N being one more than the answer has; as many get the true number.

Prints `figure recall_KIND`, and `figure flagged_sound` for the rows without a planted fault that one of the checks flags. The
checks are those of `kiloset audit FILE --verify`: answer_unrelated, equation_wrong and count_broken.
"""

import argparse
import random
import re
from functools import partial
from pathlib import Path

import polars as pl
from harness import figure, share

from kiloset.audit.unrelated import unrelated
from kiloset.core.progress import Silent
from kiloset.core.text import words
from kiloset.data.examples import read_example_file
from kiloset.models import embedder_of
from kiloset.settings import RunConfig
from kiloset.verify.settings import VerifyConfig
from kiloset.verify.verify import check_row

SHARE = 0.05
SHORT = 3
STOP = re.compile(r"[.!?](?=\s|$)")
"""Counts sentences independently of the check; answers with line breaks are left out."""
CHECKS = {"another": "answer_unrelated", "label": "answer_unrelated", "sum": "equation", "count": "count"}


def planted(table: pl.DataFrame, seed: int) -> tuple[pl.DataFrame, list[str]]:
    """Return the table with faults, and the kind of fault of each row: "none" or one of `CHECKS`."""
    rng, rows = random.Random(seed), table.to_dicts()
    kinds, size = ["none"] * len(rows), round(SHARE * len(rows))
    order = rng.sample(range(len(rows)), len(rows))
    short = [n for n in order if 1 <= len(words(rows[n]["response"])) <= SHORT]
    whole = [n for n in order if len(words(rows[n]["response"])) > SHORT]
    plain = [n for n in whole[3 * size :] if "\n" not in (text := rows[n]["response"]) and STOP.search(text)]
    groups = {"label": short[:size], "another": whole[:size], "sum": whole[size : 2 * size], "count": plain[:size]}
    sound = {"sum": whole[2 * size : 3 * size], "count": plain[size : 2 * size]}
    for kind in ("label", "another"):
        texts = [rows[n]["response"] for n in groups[kind]]
        for n, text in zip(groups[kind], texts[1:] + texts[:1], strict=True):
            if text != rows[n]["response"]:
                rows[n]["response"], kinds[n] = text, kind
    for kind, wrong in (
        ("sum", groups["sum"]),
        ("sum", sound["sum"]),
        ("count", groups["count"]),
        ("count", sound["count"]),
    ):
        for n in wrong:
            is_fault = n in groups[kind]
            if kind == "sum":
                first, second = rng.randint(11, 400), rng.randint(11, 400)
                rows[n]["response"] += (
                    f"\nIn total, {first} + {second} = {first + second + is_fault * rng.choice((-10, 1, 9))}."
                )
            else:
                number = len(STOP.findall(rows[n]["response"])) + is_fault
                rows[n]["instruction"] += f" Answer in exactly {number} sentence{'s' if number != 1 else ''}."
                rows[n]["user"] = f"{rows[n]['instruction']}\n\n{rows[n]['input']}".strip()
            kinds[n] = kind if is_fault else "none"
    return pl.DataFrame(rows, schema=table.schema), kinds


def main() -> None:
    """Plant, check, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("file", type=Path)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    table, kinds = planted(read_example_file(str(options.file)).table, options.seed)
    load = partial(embedder_of, progress=Silent())
    flags = {id: {name} for name, id, _, _ in unrelated(table, load(RunConfig(), table.height))}
    config = VerifyConfig(off=("agreement", "number"))
    for row in table.with_columns(pl.col("category").fill_null("")).iter_rows(named=True):
        flags.setdefault(row["id"], set()).update(
            check["check"] for check in check_row(row, config) if not check["passed"]
        )
    ids = table["id"].to_list()
    figure("rows", table.height)
    for kind, check in CHECKS.items():
        share(f"recall_{kind}", [check in flags[id] for id, each in zip(ids, kinds, strict=True) if each == kind])
    share("flagged_sound", [bool(flags[id]) for id, each in zip(ids, kinds, strict=True) if each == "none"])
    for check in sorted({name for names in flags.values() for name in names}):
        mine = [kind for id, kind in zip(ids, kinds, strict=True) if check in flags[id]]
        print(f"{check}: {len(mine)} rows flagged, {sum(kind == 'none' for kind in mine)} of them sound")


if __name__ == "__main__":
    main()
