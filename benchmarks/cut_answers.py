"""Measure how many cut answers the audit detects: a tenth of a file's answers is cut, inside a word or between words.

    python benchmarks/cut_answers.py dolly.jsonl [--share 0.1]

The file has JSON lines with instruction, input and output. Answers of fewer than 20 words stay whole. The audit compares endings with
the other answers of the file, so it detects fewer if more of them are cut.
"""

import argparse
import json
import random
import tempfile
from pathlib import Path

from harness import figure

from kiloset.audit.file_audit import audit_file

LEAST_WORDS = 20
FAULTS = ("response_cut", "response_no_stop")


def cut_inside_word(answer: str, rng: random.Random) -> str:
    return answer[: rng.choice(inside_words(answer))]


def inside_words(answer: str) -> list[int]:
    """Return the positions between two letters, the first 20 characters left out."""
    return [at for at in range(20, len(answer)) if answer[at - 1 : at + 1].isalpha()]


def cut_between_words(answer: str, rng: random.Random) -> str:
    words = answer.split(" ")
    return " ".join(words[: rng.randrange(5, len(words))])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("file", type=Path)
    parser.add_argument("--share", type=float, default=0.1, help="share of the answers that are cut")
    options = parser.parse_args()
    rows = [json.loads(line) for line in options.file.read_text(encoding="utf-8").splitlines()]
    long = [
        at for at, row in enumerate(rows) if len(row["output"].split()) >= LEAST_WORDS and inside_words(row["output"])
    ]
    for cut in (cut_inside_word, cut_between_words):
        rng = random.Random(0)
        chosen = set(rng.sample(long, round(options.share * len(rows))))
        edited = [
            {**row, "output": cut(row["output"], rng) if at in chosen else row["output"]} for at, row in enumerate(rows)
        ]
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "cut.jsonl"
            path.write_text("".join(json.dumps(row) + "\n" for row in edited), encoding="utf-8")
            audit = audit_file(path)
        for fault in audit.faults:
            if fault.name in FAULTS:
                detected = sum(int(id[1:]) - 1 in chosen for id in fault.ids)
                figure(f"{cut.__name__} {fault.name}", f"{detected / len(chosen):.3f}", f"of {len(chosen)} cut answers")


if __name__ == "__main__":
    main()
