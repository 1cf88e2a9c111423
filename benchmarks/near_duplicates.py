"""Compare the speed and recall of near-duplicate detection with rensa and datasketch, in whole processes, in turn.

All three read the same texts and search for duplicates of character 5-grams in 25 bands of 5. The peers drop whatever their index
returns. Ours also verifies every candidate exactly, and keeps rows that differ in numbers or names. The benchmark also prints the
cost of ten times as many rows, and the recall against an exact comparison of all pairs.

With --engines our two engines are compared on files of instructions and on random texts: the CPU seconds of the stage in a process of
its own, with the compiled code cached and with an empty cache, and whether the verdicts are equal.

With --planted a file of instructions gets 300 copies, edited in ten ways, and the benchmark prints which of them are detected.

    pip install rensa -c constraints.txt
    python benchmarks/near_duplicates.py [--texts 100000] [--rounds 3] [--million] [--planted dolly.jsonl]
    python benchmarks/near_duplicates.py --engines seeds/seeds.jsonl dolly.jsonl
"""

import argparse
import json
import math
import os
import random
import re
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

from harness import ROOT, figure, peak_mib, ratio, run_child

WORDS = 36
EDITED = 0.1
"""Share of the texts that are another one with a few words changed."""
SAMPLE = 10_000
"""Texts whose pairs are all compared, to compute the recall."""


def write_texts(path: Path, number: int) -> None:
    """Write texts of random words with frequencies as in a language; a tenth of the texts are edits of others."""
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

    # `from_token_sets` and `RMinHashDeduplicator` take as long. The calls for whole matrices only return which texts have a copy
    # anywhere, not which of them to drop.
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


def timed(side: str, path: Path) -> tuple[float, float, int]:
    """Run one side in a process of its own; return seconds, peak GB and dropped rows."""
    started = time.monotonic()
    result = run_child([__file__, "--worker", side, path])
    return time.monotonic() - started, result["gb"], result["dropped"]


def recall(path: Path) -> tuple[float, int, int]:
    """Return the share of the similar pairs that share a band, the number of similar pairs, and the number of texts."""
    import numpy as np
    import polars as pl
    from scipy.sparse import csr_matrix

    from kiloset.core.text import normal_form
    from kiloset.filters.minhash import BANDS
    from kiloset.filters.minhash_compiled import compiled_texts

    keys = sorted({normal_form(text) for text in read_texts(path)[:SAMPLE]})
    sets = [{f" {key} "[i : i + 5] for i in range(len(key) - 2)} for key in keys]
    number: dict[str, int] = {}
    columns = [number.setdefault(gram, len(number)) for row_grams in sets for gram in row_grams]
    sizes = np.array([len(row_grams) for row_grams in sets])
    starts = np.concatenate([[0], np.cumsum(sizes)])
    matrix = csr_matrix((np.ones(len(columns), np.int32), columns, starts), shape=(len(keys), len(number)))
    bands = compiled_texts(pl.Series(keys), pl.Series([""] * len(keys))).band_keys(seed=0)[:, :BANDS]
    similar = detected = 0
    for begin in range(0, len(keys), 500):
        common = (matrix[begin : begin + 500] @ matrix.T).tocoo()
        rows = common.row + begin
        jaccard = common.data / (sizes[rows] + sizes[common.col] - common.data)
        at = (rows < common.col) & (jaccard >= 0.7)
        similar += int(at.sum())
        detected += int((bands[rows[at]] == bands[common.col[at]]).any(axis=1).sum())
    return detected / similar, similar, len(keys)


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


def plant(path: Path) -> tuple[list[dict[str, Any]], dict[str, str]]:
    """Return the rows of a file with 30 edited copies of each kind, and the kind of each copy by its id."""
    rng = random.Random(0)
    lines = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    texts = sorted({line["instruction"].strip() for line in lines if 20 <= len(line["instruction"]) <= 600})
    rows = [{"id": f"p{n:05d}", "instruction": text, "source": "pool", "response": "x"} for n, text in enumerate(texts)]
    kinds: dict[str, str] = {}
    for kind, edit in KINDS.items():
        fit = [text for text in texts if kind != "number changed" or re.search(r"\d", text)]
        for text in rng.sample(fit, 30):
            id = f"g{len(kinds):05d}"
            kinds[id] = kind
            rows.append({"id": id, "instruction": edit(text, rng), "source": "generated", "response": "x"})
    return rows, kinds


def is_true(row: dict[str, Any], text_of: dict[str, str], embedder: Any) -> bool:
    """Recompute the evidence of a dropped row, and return whether it is true."""
    from kiloset.core.text import normal_form

    first, second = (f" {normal_form(text_of[id])} " for id in (row["id"], row["twin"]))
    if row["reason"] == "exact_duplicate":
        return first == second
    if row["reason"] == "near_duplicate":
        if "words" in row["evidence"]:
            return sorted(first.split()) == sorted(second.split())
        length = 4 if "4-grams" in row["evidence"] else 5
        one, other = ({t[i : i + length] for i in range(max(1, len(t) - length + 1))} for t in (first, second))
        jaccard = len(one & other) / len(one | other)
        return abs(jaccard - row["measured"]) < 1e-9 and jaccard >= row["limit"]
    if row["reason"] == "semantic_duplicate":
        left, right = embedder.embed([text_of[row["id"]], text_of[row["twin"]]])
        return abs(float(left @ right) - row["measured"]) < 1e-3 and row["measured"] >= row["limit"]
    return True


def planted(path: Path) -> None:
    """Print which of the planted copies are dropped, by the near-duplicate stage and by the semantic stage after it."""
    import polars as pl

    from kiloset.core.table import table_of
    from kiloset.engines.embedded import model_path
    from kiloset.engines.embedder import SentenceEmbedder
    from kiloset.filters.near_duplicates import NearDuplicatesConfig, drop_near_duplicates
    from kiloset.filters.semantic import SemanticConfig, drop_semantic_duplicates

    rows, kinds = plant(path)
    near = drop_near_duplicates(table_of(rows), NearDuplicatesConfig(), seed=0)
    embedder = SentenceEmbedder(model_path("embedded:all-minilm-l6-v2", "models.embedder"), "minilm")
    later = drop_semantic_duplicates(near.kept, embedder, SemanticConfig(), protect_pool=False, seed=0)
    dropped = {row["id"]: row for row in (*near.dropped.to_dicts(), *later.outcome.dropped.to_dicts())}
    text_of = {row["id"]: row["instruction"] for row in rows}
    print(f"{len(rows) - len(kinds)} instructions, {len(kinds)} planted copies")
    figure("other_rows_dropped", len(dropped.keys() - kinds.keys()), "rows")
    figure("untrue_evidence", sum(not is_true(row, text_of, embedder) for row in dropped.values()), "rows")
    for kind in KINDS:
        reasons = [dropped[id]["reason"] if id in dropped else "kept" for id, name in kinds.items() if name == kind]
        figure(f"planted {kind}", sum(reason != "kept" for reason in reasons), f"of {len(reasons)}")
        counts = pl.Series(reasons).value_counts(sort=True)
        print("  " + ", ".join(f"{reason} {n}" for reason, n in counts.iter_rows()))


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
seconds = time.process_time() - started
print(json.dumps({"seconds": seconds, "dropped": outcome.dropped.select("id", "reason", "evidence").rows()}))
"""
SIZES = (1_000, 2_000, 5_000, 10_000, 20_000)
"""Numbers of random texts on which the two engines are compared."""


def compare_engines(files: list[Path]) -> None:
    """Time both engines on the rows of some files and on random texts."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for file in files:
            lines = [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()]
            time_engines(file.name, [(line["instruction"], line.get("input", "")) for line in lines], folder)
        for number in SIZES:
            write_texts(folder / "texts.txt", number)
            texts = [(text, "") for text in read_texts(folder / "texts.txt")]
            time_engines(f"random texts of {WORDS} words", texts, folder)


def time_engines(name: str, texts: list[tuple[str, str]], folder: Path) -> None:
    """Print the CPU seconds of both engines on instructions with inputs, and whether the verdicts are equal."""
    rows = [
        {"id": f"g{n:06d}", "instruction": instruction, "input": text, "source": "generated", "response": "x"}
        for n, (instruction, text) in enumerate(texts)
    ]
    path = folder / "rows.json"
    path.write_text(json.dumps(rows), encoding="utf-8")
    with tempfile.TemporaryDirectory() as empty:
        sides = (("datasketch", {}), ("compiled", {}), ("compiled", {}), ("compiled", {"NUMBA_CACHE_DIR": empty}))
        results = [
            run_child(["-c", ENGINE, side, path], env={**os.environ, "PYTHONPATH": str(ROOT), **cache})
            for side, cache in sides
        ]
    equal = all(result["dropped"] == results[0]["dropped"] for result in results)
    first, _, cached, fresh = (result["seconds"] for result in results)
    print(
        f"{name}, {len(rows)} rows: datasketch {first:.2f} s, compiled {cached:.2f} s, compiled with an empty cache {fresh:.1f} s; "
        f"{len(results[0]['dropped'])} dropped, {'equal' if equal else 'DIFFERENT'} verdicts",
        flush=True,
    )


def compare(texts: int, rounds: int, million: bool) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "texts.txt"
        write_texts(path, texts)
        timed("ours", path)  # compiles once
        seconds: dict[str, list[float]] = {name: [] for name in WORKERS}
        for number in range(rounds):
            for name, durations in seconds.items():
                took, gb, dropped = timed(name, path)
                durations.append(took)
                print(f"round {number + 1}: {name} {took:.2f} s, {gb:.2f} GB, {dropped} dropped", flush=True)
        share, pairs, compared = recall(path)
        figure("recall", f"{share:.4f}", f"of {pairs} similar pairs among {compared} texts")
        median = statistics.median(seconds["ours"])
        figure("rows_per_second", f"{texts / median:.0f}", "rows/s")
        for name in ("rensa", "datasketch"):
            ratio(name, statistics.median(a / b for a, b in zip(seconds[name], seconds["ours"], strict=True)))
        if million:
            path = Path(folder) / "many.txt"
            write_texts(path, 10 * texts)
            took, gb, dropped = timed("ours", path)
            print(f"ours, {10 * texts} texts: {took:.1f} s, {gb:.2f} GB, {dropped} dropped")
            figure("growth_exponent", f"{math.log10(took / median):.3f}")


WORKERS = {"ours": ours, "rensa": rensa, "datasketch": datasketch}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--texts", type=int, default=100_000)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--million", action="store_true", help="also run ours on ten times as many texts")
    parser.add_argument("--worker", nargs=2, metavar=("SIDE", "FILE"), help=argparse.SUPPRESS)
    parser.add_argument(
        "--planted", type=Path, metavar="FILE", help="only plant duplicates in this file and detect them"
    )
    parser.add_argument("--engines", type=Path, nargs="+", metavar="FILE", help="only compare our two engines")
    options = parser.parse_args()
    if options.engines:
        compare_engines(options.engines)
    elif options.planted:
        planted(options.planted)
    elif options.worker:
        dropped = WORKERS[options.worker[0]](Path(options.worker[1]))
        print(json.dumps({"dropped": dropped, "gb": peak_mib() / 1024}))
    else:
        compare(options.texts, options.rounds, options.million)


if __name__ == "__main__":
    main()
