"""How fast are near-duplicates found, and how many? Against rensa and datasketch, in whole processes, in turn.

All three read the same texts and look for duplicates of character 5-grams in 25 bands of 5. The peers take whatever their
index returns for a duplicate; ours also verifies every candidate exactly, and keeps numbers and names apart. Then the cost of
ten times as many rows, and the recall against an exact comparison of all pairs.

With --planted a file of instructions gets 300 copies, edited in ten ways, and it is told which of them are found.

With --engines our two engines are compared on files of instructions and on random texts: the CPU seconds of the stage in a
process of its own, with the compiled code cached and with an empty cache, and whether the verdicts are equal.

    pip install rensa -c constraints.txt
    python benchmarks/near_duplicates.py [--texts 100000] [--rounds 3] [--million] [--planted dolly.jsonl]
    python benchmarks/near_duplicates.py --engines seeds/seeds.jsonl dolly.jsonl
"""

import argparse
import json
import math
import random
import re
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

WORDS = 36
EDITED = 0.1
"""Share of the texts that are another one with a few words changed."""
SAMPLE = 10_000
"""Texts whose pairs are all compared, for the recall."""


def write_texts(path: Path, number: int) -> None:
    """Write texts of made-up words, frequent ones more often, as in a language; a tenth are edits of others."""
    rng = random.Random(number)
    parts = [a + b for a in "bcdfghklmnprstvw" for b in ("a", "e", "i", "o", "u", "ar", "en", "is")]
    vocabulary = ["".join(rng.choices(parts, k=rng.choice((1, 1, 2, 2, 2, 3, 3, 4)))) for _ in range(30_000)]
    weights = [1 / (rank + 3) for rank in range(len(vocabulary))]
    stream = iter(rng.choices(vocabulary, weights, k=number * (WORDS + 25)))
    texts: list[list[str]] = []
    with path.open("w", encoding="utf-8") as file:
        for _ in range(number):
            if texts and rng.random() < EDITED:
                words = list(rng.choice(texts))
                for at in rng.sample(range(len(words)), min(len(words), rng.randint(1, 6))):
                    words[at] = next(stream)
            else:
                words = [next(stream) for _ in range(max(4, round(rng.gauss(WORDS, 9))))]
            if len(texts) < 200_000:
                texts.append(words)
            file.write(" ".join(words) + "\n")


def read_texts(path: Path) -> list[str]:
    return path.read_text(encoding="utf-8").splitlines()


def ours(path: Path) -> int:
    import polars as pl

    from kiloset.core.table import table_of
    from kiloset.filters.near_duplicates import NearDuplicatesConfig, drop_near_duplicates

    rows = pl.read_lines(path, name="instruction", row_index_name="id")
    blank = table_of([])
    table = rows.with_columns(
        pl.format("g{}", pl.col("id").cast(pl.String).str.zfill(8)).alias("id"), source=pl.lit("generated"), input=pl.lit(""),
        response=pl.lit("x"), depth=pl.lit(0).cast(blank.schema["depth"]),
    )  # fmt: skip
    return drop_near_duplicates(
        pl.concat([blank, table], how="diagonal"), NearDuplicatesConfig(), seed=0
    ).dropped.height


def grams(text: str) -> list[str]:
    return [text[i : i + 5] for i in range(len(text) - 4)]


def rensa(path: Path) -> int:
    from rensa import RMinHash, RMinHashLSH

    # With `from_token_sets` or `RMinHashDeduplicator` it takes as long; its calls for whole matrices only tell which texts have
    # a copy anywhere, not which of them to drop.
    index = RMinHashLSH(threshold=0.7, num_perm=125, num_bands=25)
    dropped = 0
    for number, text in enumerate(read_texts(path)):
        signature = RMinHash(num_perm=125, seed=42)
        signature.update(grams(text))
        if index.query(signature):
            dropped += 1
        else:
            index.insert(number, signature)
    return dropped


def datasketch(path: Path) -> int:
    from datasketch import MinHash, MinHashLSH

    index = MinHashLSH(num_perm=125, params=(25, 5))
    texts = ([gram.encode() for gram in grams(text)] for text in read_texts(path))
    dropped = 0
    for number, signature in enumerate(MinHash.bulk(texts, num_perm=125, seed=1, scheme="affine32")):
        if index.query(signature):
            dropped += 1
        else:
            index.insert(number, signature)
    return dropped


def timed(which: str, path: Path) -> tuple[float, float, int]:
    """Run one of them in a process of its own; return seconds, GB at most, and rows dropped."""
    started = time.monotonic()
    ran = subprocess.run(
        [sys.executable, str(Path(__file__)), "--worker", which, str(path)], capture_output=True, text=True
    )
    seconds = time.monotonic() - started
    if ran.returncode:
        raise SystemExit(f"{which}: {ran.stderr[-800:]}")
    found = json.loads(ran.stdout.splitlines()[-1])
    return seconds, found["gb"], found["dropped"]


def recall(path: Path) -> tuple[float, int, int]:
    """Return the share of the pairs alike that share a band, their number, and rows dropped with less than the threshold."""
    import numpy as np
    import polars as pl
    from scipy.sparse import csr_matrix

    from kiloset.core.text import normal_form
    from kiloset.filters.minhash import BANDS
    from kiloset.filters.minhash_compiled import compiled_texts

    keys = sorted({normal_form(text) for text in read_texts(path)[:SAMPLE]})
    sets = [{f" {key} "[i : i + 5] for i in range(len(key) - 2)} for key in keys]
    number: dict[str, int] = {}
    columns = [number.setdefault(gram, len(number)) for found in sets for gram in found]
    sizes = np.array([len(found) for found in sets])
    starts = np.concatenate([[0], np.cumsum(sizes)])
    matrix = csr_matrix((np.ones(len(columns), np.int32), columns, starts), shape=(len(keys), len(number)))
    bands = compiled_texts(pl.Series(keys), pl.Series([""] * len(keys))).band_keys(seed=0)[:, :BANDS]
    there = found = 0
    for begin in range(0, len(keys), 500):
        common = (matrix[begin : begin + 500] @ matrix.T).tocoo()
        rows = common.row + begin
        alike = common.data / (sizes[rows] + sizes[common.col] - common.data)
        at = (rows < common.col) & (alike >= 0.7)
        there += int(at.sum())
        found += int((bands[rows[at]] == bands[common.col[at]]).any(axis=1).sum())
    return found / there, there, len(keys)


def _one_word(text: str, rng: random.Random) -> str:
    words = text.split(" ")
    words[rng.randrange(len(words))] = "lighthouse"
    return " ".join(words)


def _typo(text: str, rng: random.Random) -> str:
    at = rng.choice([i for i, c in enumerate(text) if c.isalpha()])
    return text[:at] + text[at + 1 :]


def _swapped(text: str, _: random.Random) -> str:
    words = text.rstrip(".?!").split(" ")
    half = len(words) // 2
    return " ".join([*words[half:], *words[:half]]) + "."


KINDS = {
    "case": lambda text, _: text.upper(),
    "punctuation": lambda text, _: re.sub(r"[^\w\s]", "", text) + " !!",
    "typographic punctuation": lambda text, _: "“" + text.replace("'", "’").replace("-", "–").replace("...", "…") + "”",
    "white space": lambda text, _: "  " + text.replace(" ", "\n", 2).replace(" ", "   ", 3),
    "full-width forms": lambda text, _: "".join(chr(ord(c) + 0xFEE0) if "!" <= c <= "~" else c for c in text),
    "one letter left out": _typo,
    "one word replaced": _one_word,
    "polite prefix": lambda text, _: "Could you please help me with this: " + text,
    "halves swapped": _swapped,
    "number changed": lambda text, rng: re.sub(r"\d+", lambda m: str(int(m[0]) + rng.randint(1, 9)), text),
}


def planted(path: Path) -> None:
    """Plant 30 edited copies of each kind among the instructions of a file, and tell which are found, here and by meaning."""
    import polars as pl

    from kiloset.core.table import table_of
    from kiloset.core.text import normal_form
    from kiloset.engines.embedded import model_path
    from kiloset.engines.embedder import SentenceEmbedder
    from kiloset.filters.near_duplicates import NearDuplicatesConfig, drop_near_duplicates
    from kiloset.filters.semantic import SemanticConfig, drop_semantic_duplicates

    rng = random.Random(0)
    lines = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    texts = sorted({line["instruction"].strip() for line in lines if 20 <= len(line["instruction"]) <= 600})
    rows = [{"id": f"p{n:05d}", "instruction": text, "source": "pool", "response": "x"} for n, text in enumerate(texts)]
    made: dict[str, tuple[str, str]] = {}
    for kind, edit in KINDS.items():
        fit = [
            row
            for row in rows
            if row["source"] == "pool" and (kind != "number changed" or re.search(r"\d", row["instruction"]))
        ]
        for row in rng.sample(fit, 30):
            id = f"g{len(made):05d}"
            made[id] = (kind, row["id"])
            rows.append(
                {"id": id, "instruction": edit(row["instruction"], rng), "source": "generated", "response": "x"}
            )
    table = table_of(rows)
    near = drop_near_duplicates(table, NearDuplicatesConfig(), seed=0)
    embedder = SentenceEmbedder(model_path("embedded:all-minilm-l6-v2", "models.embedder"), "minilm")
    later = drop_semantic_duplicates(near.kept, embedder, SemanticConfig(), protect_pool=False, seed=0)
    dropped = {row["id"]: row for row in (*near.dropped.to_dicts(), *later.outcome.dropped.to_dicts())}
    text_of = dict(zip(table["id"], table["instruction"], strict=True))
    untrue = 0
    for row in dropped.values():
        one, other = (f" {normal_form(text_of[id])} " for id in (row["id"], row["twin"]))
        length = 4 if "4-grams" in row["evidence"] else 5
        first, second = ({t[i : i + length] for i in range(max(1, len(t) - length + 1))} for t in (one, other))
        exact = len(first & second) / len(first | second)
        same_words = sorted(one.split()) == sorted(other.split())
        if row["reason"] == "exact_duplicate":
            untrue += one != other
        elif row["reason"] == "near_duplicate":
            untrue += not (
                same_words
                if "words" in row["evidence"]
                else abs(exact - row["measured"]) < 1e-9 and exact >= row["limit"]
            )
        elif row["reason"] == "semantic_duplicate":
            mine, theirs = embedder.embed([text_of[row["id"]], text_of[row["twin"]]])
            untrue += not (abs(float(mine @ theirs) - row["measured"]) < 1e-3 and row["measured"] >= row["limit"])
    print(
        f"{len(texts)} instructions, {len(made)} planted; {len(dropped) - len(made.keys() & dropped.keys())} others dropped; evidence untrue of {untrue}"
    )
    for kind in KINDS:
        mine = [id for id, (name, _) in made.items() if name == kind]
        reasons = pl.Series([dropped[id]["reason"] if id in dropped else "kept" for id in mine]).value_counts(sort=True)
        print(f"  {kind}: " + ", ".join(f"{reason} {n}" for reason, n in reasons.iter_rows()))


ENGINE = """
import json, sys, time
from pathlib import Path
import polars as pl
from kiloset.core.table import table_of
from kiloset.filters import minhash, near_duplicates
minhash.COMPILED_ABOVE = 10**9 if sys.argv[1] == "datasketch" else 0
table = table_of(json.loads(Path(sys.argv[2]).read_text()))
started = time.process_time()
outcome = near_duplicates.drop_near_duplicates(table, near_duplicates.NearDuplicatesConfig(), seed=0)
print(json.dumps([time.process_time() - started, outcome.dropped.select("id", "reason", "evidence").rows()]))
"""


def engines(files: list[Path]) -> None:
    """Time both engines on the rows of some files and on random texts of several numbers."""
    import os

    with tempfile.TemporaryDirectory() as folder:
        sets: dict[str, list[tuple[str, str]]] = {}
        for file in files:
            lines = [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()]
            sets[file.name] = [(line["instruction"], line.get("input", "")) for line in lines]
        for number in (1_000, 2_000, 5_000, 10_000, 20_000):
            path = Path(folder) / "texts.txt"
            write_texts(path, number)
            sets[f"random texts of {WORDS} words"] = [(text, "") for text in read_texts(path)]
            for name, texts in sets.items():
                rows = [
                    {"id": f"g{n:06d}", "instruction": one, "input": other, "source": "generated", "response": "x"}
                    for n, (one, other) in enumerate(texts)
                ]
                path = Path(folder) / "rows.json"
                path.write_text(json.dumps(rows), encoding="utf-8")
                seconds, verdicts = [], []
                for engine, cache in (
                    ("datasketch", ""),
                    ("compiled", ""),
                    ("compiled", ""),
                    ("compiled", f"{folder}/{name}"),
                ):
                    environment = {**os.environ, "PYTHONPATH": str(ROOT)} | (
                        {"NUMBA_CACHE_DIR": cache} if cache else {}
                    )
                    command = [sys.executable, "-c", ENGINE, engine, str(path)]
                    ran = subprocess.run(command, capture_output=True, text=True, check=True, env=environment)
                    took, dropped = json.loads(ran.stdout)
                    seconds.append(took)
                    verdicts.append(dropped)
                same = "equal verdicts" if all(each == verdicts[0] for each in verdicts) else "DIFFERENT VERDICTS"
                print(
                    f"{name}, {len(rows)} rows: datasketch {seconds[0]:.2f} s, compiled {seconds[2]:.2f} s, compiled with "
                    f"an empty cache {seconds[3]:.1f} s; {len(verdicts[0])} dropped, {same}",
                    flush=True,
                )
            sets = {}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--texts", type=int, default=100_000)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--million", action="store_true", help="ten times as many texts too, ours only")
    parser.add_argument("--worker", nargs=2, metavar=("WHICH", "FILE"), help=argparse.SUPPRESS)
    parser.add_argument(
        "--planted", type=Path, metavar="FILE", help="only plant duplicates in this file and look for them"
    )
    parser.add_argument("--engines", type=Path, nargs="+", metavar="FILE", help="only compare our two engines")
    options = parser.parse_args()
    if options.engines:
        engines(options.engines)
        return
    if options.planted:
        planted(options.planted)
        return
    workers = {"ours": ours, "rensa": rensa, "datasketch": datasketch}
    if options.worker:
        import resource

        dropped = workers[options.worker[0]](Path(options.worker[1]))
        most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
        print(json.dumps({"dropped": dropped, "gb": most}))
        return
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "texts.txt"
        write_texts(path, options.texts)
        timed("ours", path)  # compiles once
        seconds: dict[str, list[float]] = {name: [] for name in workers}
        for number in range(options.rounds):
            for name in workers:
                took, gb, dropped = timed(name, path)
                seconds[name].append(took)
                print(f"round {number + 1}: {name} {took:.2f} s, {gb:.2f} GB, {dropped} dropped", flush=True)
        share, pairs, texts = recall(path)
        print(f"figure recall {share:.4f} of {pairs} pairs alike among {texts} texts")
        mine = statistics.median(seconds["ours"])
        print(f"figure rows_per_second {options.texts / mine:.0f} rows/s")
        for name in ("rensa", "datasketch"):
            print(
                f"ratio {name} {statistics.median(a / b for a, b in zip(seconds[name], seconds['ours'], strict=True)):.2f}"
            )
        if options.million:
            many = Path(folder) / "many.txt"
            write_texts(many, 10 * options.texts)
            took, gb, dropped = timed("ours", many)
            print(f"ours, {10 * options.texts} texts: {took:.1f} s, {gb:.2f} GB, {dropped} dropped")
            print(f"figure growth_exponent {math.log10(took / mine):.3f}")


if __name__ == "__main__":
    main()
