"""Near-duplicates against a naive comparison of all pairs, and the edits of METHODS §6.4 one by one."""

import json
import random
import re
from collections.abc import Callable
from functools import cache
from typing import Any

import numpy as np
import polars as pl
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from scipy.sparse import csr_matrix

from kiloset.core.table import check_outcome, table_of
from kiloset.core.text import normal_form
from kiloset.filters import minhash, minhash_compiled
from kiloset.filters.minhash import BANDS, COMPILED_ABOVE, LONGEST_WALK, ROWS, PaddedTexts
from kiloset.filters.minhash_compiled import CompiledTexts, compiled_texts
from kiloset.filters.near_duplicates import NearDuplicatesConfig, drop_near_duplicates
from tests.paths import ROOT

CONFIG = NearDuplicatesConfig()
RANKS = {"seed": 0, "pool": 1, "generated": 2}


@pytest.fixture(autouse=True, params=["datasketch", "compiled"])
def engine(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Let each test run on both engines."""
    monkeypatch.setattr(minhash, "COMPILED_ABOVE", 10**9 if request.param == "datasketch" else 0)
    return request.param


selects_engines = pytest.mark.parametrize("engine", ["datasketch"], indirect=True)
"""Marks a test that compares the engines itself, so that it runs once."""


def table(*texts: str | dict[str, Any]) -> pl.DataFrame:
    rows = [text if isinstance(text, dict) else {"instruction": text} for text in texts]
    return table_of([{"id": f"g{i:05d}", "source": "generated", "response": "ok", **row} for i, row in enumerate(rows)])


def kept_of(*texts: str | dict[str, Any], config: NearDuplicatesConfig = CONFIG) -> list[str]:
    """Return the instructions that stay; check that no row is lost and each `twin` is kept."""
    rows = table(*texts)
    outcome = drop_near_duplicates(rows, config, seed=0)
    check_outcome("near_duplicates", rows, outcome, creates=False)
    assert set(outcome.dropped["twin"]) <= set(outcome.kept["id"])
    return outcome.kept["instruction"].to_list()


@cache
def grams(text: str, length: int = 5) -> frozenset[str]:
    """Return the character n-grams of a text of plain words, written anew."""
    padded = " " + " ".join(re.findall(r"\w+", text.lower())) + " "
    return frozenset(padded[i:][:length] for i in range(max(1, len(padded) - length + 1)))


def likeness(first: str, second: str, length: int = 5) -> float:
    a, b = grams(first, length), grams(second, length)
    return len(a & b) / len(a | b)


def words_of(rng: random.Random, number: int) -> list[str]:
    return ["".join(rng.choices("abcdefghijklmnopqrstuvwxyz", k=rng.randint(3, 9))) for _ in range(number)]


def replace_words(text: str, number: int, rng: random.Random) -> str:
    """Return the text with some of its words replaced by random ones."""
    words = text.split()
    for at in rng.sample(range(len(words)), min(number, len(words))):
        words[at] = words_of(rng, 1)[0]
    return " ".join(words)


def planted(rng: random.Random) -> list[str]:
    """Return texts of 12 to 40 words and, for each, edits of one to eight of its words, and edits of those."""
    texts = []
    for _ in range(30):
        chain = words_of(rng, rng.randint(12, 40))
        texts.append(" ".join(chain))
        for _ in range(4):
            chain = list(chain)
            for at in rng.sample(range(len(chain)), rng.randint(1, 8)):
                chain[at] = words_of(rng, 1)[0]
            texts.append(" ".join(chain))
    return texts


# Of pairs at the very threshold one in a hundred is missed (25 bands of 5 rows); none is among these texts.
@pytest.mark.parametrize("seed", [0, 3])
def test_keeps_exactly_what_a_greedy_cover_over_all_pairs_keeps(seed: int) -> None:
    rng = random.Random(seed)
    rows = [
        {"id": f"x{number:04d}", "instruction": text, "source": rng.choice(list(RANKS)), "depth": rng.randint(0, 3),
         "response": "r" * rng.randint(1, 4)}
        for number, text in enumerate(planted(rng))
    ]  # fmt: skip
    rng.shuffle(rows)
    kept: list[dict[str, Any]] = []
    for row in sorted(rows, key=lambda r: (RANKS[r["source"]], -len(r["response"]), r["depth"], r["id"])):
        twin = any(likeness(row["instruction"], other["instruction"]) >= 0.7 for other in kept)
        if row["source"] == "seed" or not twin:
            kept.append(row)

    outcome = drop_near_duplicates(table_of(rows), CONFIG, seed=0)

    wanted = {row["id"] for row in kept}
    assert 30 < len(wanted) < len(rows) - 20
    assert outcome.kept["id"].to_list() == [row["id"] for row in rows if row["id"] in wanted]


def test_a_verdict_names_the_most_similar_kept_row_and_their_exact_likeness() -> None:
    rng = random.Random(7)
    rows = table(*planted(rng))
    outcome = drop_near_duplicates(rows, CONFIG, seed=0)
    text = dict(zip(rows["id"], rows["instruction"], strict=True))
    kept = outcome.kept["id"].to_list()
    assert outcome.dropped.height > 20
    for row in outcome.dropped.to_dicts():
        near = {id: likeness(row["instruction"], text[id]) for id in kept}
        assert row["reason"] == "near_duplicate"
        assert row["twin"] in kept
        assert row["measured"] == pytest.approx(near[row["twin"]])
        assert row["measured"] >= row["limit"] == 0.7
        assert f"Jaccard {row['measured']:.2f} of character 5-grams with {row['twin']} (limit 0.70)" == row["evidence"]


def test_signatures_propose_nearly_all_similar_pairs_of_real_instructions_with_edits() -> None:
    rng = random.Random(0)
    rows = [json.loads(line) for line in (ROOT / "seeds" / "seeds.jsonl").read_text(encoding="utf-8").splitlines()]
    texts = [f"{row['instruction']} {row['input']}"[:500] for row in rows]
    edits = [replace_words(text, number, rng) for text in texts for number in (1, 2, 4)]
    keys = sorted({normal_form(text) for text in texts + edits})
    sets = [{f" {key} "[i : i + 5] for i in range(len(key) - 2)} for key in keys]
    number: dict[str, int] = {}
    columns = [number.setdefault(gram, len(number)) for result in sets for gram in sorted(result)]
    sizes = np.array([len(result) for result in sets])
    starts = np.concatenate([[0], np.cumsum(sizes)])
    incidence = csr_matrix((np.ones(len(columns), np.int32), columns, starts), shape=(len(keys), len(number)))
    common = (incidence @ incidence.T).tocoo()
    jaccards = common.data / (sizes[common.row] + sizes[common.col] - common.data)
    at = (common.row < common.col) & (jaccards >= 0.7)
    true = set(zip(common.row[at].tolist(), common.col[at].tolist(), strict=True))

    bands = minhash.normal_texts(*columns_of(keys)).band_keys(seed=0)[:, :BANDS]
    result = {(a, b) for a, b in true if (bands[a] == bands[b]).any()}

    assert len(true) >= 500
    assert len(result) >= 0.98 * len(true)


def columns_of(instructions: list[str], inputs: list[str] | None = None) -> tuple[pl.Series, pl.Series]:
    return pl.Series(instructions, dtype=pl.String), pl.Series(inputs or [""] * len(instructions))


def texts_of(instructions: list[str], inputs: list[str] | None = None) -> CompiledTexts:
    return compiled_texts(*columns_of(instructions, inputs))


WORDS = st.text(st.sampled_from("abcdefghij"), min_size=1, max_size=6)


@st.composite
def edited_texts(draw: st.DrawFn) -> list[str]:
    """Draw a few texts, any of them also with some words replaced, left out or in another order."""
    texts = []
    for words in draw(st.lists(st.lists(WORDS, min_size=1, max_size=25), min_size=1, max_size=5)):
        texts.append(" ".join(words))
        for _ in range(draw(st.integers(0, 3))):
            changed = list(words)
            for _ in range(draw(st.integers(0, 3))):
                at = draw(st.integers(0, len(changed) - 1))
                changed[at] = draw(WORDS)
            texts.append(" ".join(draw(st.permutations(changed)) if draw(st.integers(0, 3)) == 0 else changed))
    return texts


def verdicts_by(name: str, rows: pl.DataFrame, config: NearDuplicatesConfig, patch: pytest.MonkeyPatch) -> pl.DataFrame:
    patch.setattr(minhash, "COMPILED_ABOVE", 10**9 if name == "datasketch" else 0)
    return drop_near_duplicates(rows, config, seed=0).dropped


@selects_engines
@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture], database=None)
@given(texts=edited_texts(), threshold=st.sampled_from([0.5, 0.7, 0.9]))
def test_both_engines_and_all_pairs_give_the_same_verdicts_on_random_texts(
    texts: list[str], threshold: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows, config = table(*texts), NearDuplicatesConfig(threshold=threshold)
    dropped = verdicts_by("datasketch", rows, config, monkeypatch)
    assert dropped.equals(verdicts_by("compiled", rows, config, monkeypatch))
    text = dict(zip(rows["id"], rows["instruction"], strict=True))
    for row in dropped.filter(pl.col("evidence").str.contains("5-grams")).to_dicts():
        assert row["measured"] == pytest.approx(likeness(text[row["id"]], text[row["twin"]]))
        assert row["measured"] >= threshold
    kept = [id for id in rows["id"] if id not in set(dropped["id"])]
    # A pair with a similarity of 0.9 is missed with a probability of 10^-10.
    assert not [(a, b) for a in kept for b in kept if a < b and likeness(text[a], text[b]) >= 0.9]


@selects_engines
@pytest.mark.parametrize("threshold", [0.5, 0.7])
def test_both_engines_give_the_same_verdicts_on_real_texts(threshold: float, monkeypatch: pytest.MonkeyPatch) -> None:
    rows = [json.loads(line) for line in (ROOT / "seeds" / "seeds.jsonl").read_text(encoding="utf-8").splitlines()]
    texts = [{"instruction": row["instruction"], "input": row["input"]} for row in rows]
    rng = random.Random(1)
    edited = [{**row, "instruction": swapped(row["instruction"], rng)} for row in rng.sample(texts, 100)]
    rows, config = table(*texts, *edited), NearDuplicatesConfig(threshold=threshold)
    dropped = verdicts_by("datasketch", rows, config, monkeypatch)
    assert dropped.height >= 50
    assert dropped.equals(verdicts_by("compiled", rows, config, monkeypatch))


def swapped(text: str, rng: random.Random) -> str:
    words = text.split(" ")
    words[rng.randrange(len(words))] = "lighthouse"
    return " ".join(words)


@selects_engines
def test_both_engines_have_the_same_keys() -> None:
    rng = random.Random(2)
    columns = columns_of([" ".join(words_of(rng, rng.randint(1, 30))) for _ in range(20)] + HOSTILE)
    for seed in (0, 4):
        assert (PaddedTexts.of(*columns).band_keys(seed) == compiled_texts(*columns).band_keys(seed)).all()


@selects_engines
def test_no_limit_of_a_bucket_decides_between_the_engines() -> None:
    assert LONGEST_WALK >= COMPILED_ABOVE
    assert minhash_compiled._MOST_MATCHES >= COMPILED_ABOVE


HOSTILE = ["", "a", "ab", "aaaaaaa", "The CAT sat_on -- the\tmat!", "请写一首关于秋天的诗。", "a\0b 😀 x" * 3, "  ﬁne Straße É",
           "?!", "नमस्ते दुनिया", "Ｎａｍｅ", "x" * 300, "𠮷 é ﷺ"]  # fmt: skip


def test_normal_forms_are_those_of_one_text_at_a_time() -> None:
    pairs = [(first, second) for first in HOSTILE for second in HOSTILE]
    texts = texts_of([first for first, _ in pairs], [second for _, second in pairs])
    for number, (first, second) in enumerate(pairs):
        key = normal_form(first) + (f" ∥ {normal_form(second)}" if normal_form(second) else "")
        written = texts.data[texts.begins[number] : texts.ends[number]]
        assert written.tobytes().decode() == f" {key} "
        assert texts.lengths[number] == len(key.split())
        if texts.lengths[number] > minhash.SHORT_WORDS:
            continue  # its bag is asked for by nobody
        same = [
            n
            for n in range(len(pairs))
            if texts.bags[n] == texts.bags[number] and texts.lengths[n] <= minhash.SHORT_WORDS
        ]
        spelled = [
            sorted((normal_form(a) + (f" ∥ {normal_form(b)}" if normal_form(b) else "")).split()) for a, b in pairs
        ]
        assert same == [n for n, each in enumerate(spelled) if each == sorted(key.split())]


@pytest.mark.parametrize("length", [4, 5])
def test_the_sets_of_n_grams_are_those_of_a_naive_reading(length: int) -> None:
    naive, mine = [], []
    for text in HOSTILE:
        padded = f" {normal_form(text)} "
        naive.append({padded[i : i + length] for i in range(max(1, len(padded) - length + 1))})
        mine.append(set(minhash.gram_hashes(f" {normal_form(text)} ", length).tolist()))
    for first in range(len(HOSTILE)):
        for second in range(len(HOSTILE)):
            assert len(mine[first] & mine[second]) == len(naive[first] & naive[second])


def test_many_texts_are_done_in_parts_as_few_are_in_one(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = random.Random(9)
    instructions = [" ".join(words_of(rng, rng.randint(1, 12))) for _ in range(61)] + HOSTILE
    alone = texts_of(instructions)
    monkeypatch.setattr(minhash_compiled, "_ONE_THREAD", 10)
    monkeypatch.setattr("os.sched_getaffinity", lambda _: {0, 1, 2}, raising=False)
    parted = texts_of(instructions)
    for name in ("begins", "ends", "hashes", "bags", "lengths"):
        assert getattr(parted, name).tolist() == getattr(alone, name).tolist()
    assert parted.band_keys(seed=1).tolist() == alone.band_keys(seed=1).tolist()


def test_bands_are_equal_where_the_signatures_are() -> None:
    rng = random.Random(8)
    columns = columns_of(planted(rng) + HOSTILE)
    texts = compiled_texts(*columns)
    bands, lows = minhash_compiled._bands_of(texts, seed=3)
    whole = minhash._signatures(PaddedTexts.of(*columns).sketches(seed=3))
    assert (lows == whole % 256).all()
    assert (bands[BANDS] == texts.bags).all()
    rows = whole.reshape(len(texts), BANDS, ROWS)
    for band in range(BANDS):
        same = (rows[:, None, band] == rows[None, :, band]).all(axis=2)
        assert same.sum() > len(texts)
        assert ((bands[band][:, None] == bands[band][None, :]) == same).all()


def test_a_copy_leaves_for_the_duplicate_of_the_row_it_copies() -> None:
    near, copy = TWENTY_FIVE.replace("heavy", "thick"), TWENTY_FIVE.replace("heavy", "THICK")
    rows = table({"instruction": TWENTY_FIVE, "response": "long"}, near, copy)
    dropped = drop_near_duplicates(rows, CONFIG, seed=0).dropped
    assert dropped.select("id", "reason", "twin").rows() == [
        ("g00001", "near_duplicate", "g00000"), ("g00002", "near_duplicate", "g00000"),
    ]  # fmt: skip


def test_a_protected_pool_loses_nothing_and_costs_new_rows() -> None:
    texts = [TWENTY_FIVE, TWENTY_FIVE.replace("heavy", "thick"), TWENTY_FIVE.upper()]
    pool = [{"id": f"p{n}", "source": "pool", "instruction": text} for n, text in enumerate(texts)]
    new = {"id": "g1", "source": "generated", "instruction": TWENTY_FIVE.replace("snow", "rain")}
    guarded = NearDuplicatesConfig(protect_pool=True)
    outcome = drop_near_duplicates(table(*pool, new), guarded, seed=0)
    assert outcome.kept["id"].to_list() == ["p0", "p1", "p2"]
    assert outcome.dropped["twin"][0] in {"p0", "p1"}
    assert drop_near_duplicates(table(*pool, new), CONFIG, seed=0).kept["id"].to_list() == ["p0"]


def test_a_walk_that_is_cut_short_is_logged(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    monkeypatch.setattr(minhash, "COMPILED_ABOVE", 0)
    texts = [f"Add {n} apples to the basket of pears in the cellar" for n in range(40)]
    rows, many = table(*texts), NearDuplicatesConfig(per_template=100)
    assert drop_near_duplicates(rows, many, seed=0).dropped.is_empty()
    assert caplog.messages == []
    monkeypatch.setattr("kiloset.filters.minhash_compiled.LONGEST_WALK", 5)
    monkeypatch.setattr("kiloset.filters.near_duplicates.LONGEST_WALK", 5)
    drop_near_duplicates(rows, many, seed=0)
    assert len(caplog.messages) == 1
    assert "a row was compared with only 5 of the rows that share a band with it" in caplog.messages[0]


def test_hostile_texts_pass() -> None:
    texts = ["", "\0", "x" * 1_000_000, "\u202e" * 9, "?", "!", "a" * 3, "   "]
    outcome = drop_near_duplicates(table(*texts), CONFIG, seed=0)
    assert outcome.kept.height + outcome.dropped.height == len(texts)


TWENTY_FIVE = (
    "Write a short letter to the head of our village school in which you ask for a later start of lessons on days "
    "when heavy snow falls"
)
EDITS: dict[str, tuple[list[str], list[int]]] = {
    "identical": (["Name three primary colours."] * 2, [0]),
    "case and punctuation only": (["Name three primary colours.", "name THREE, primary  colours!"], [0]),
    "one word of six": (["Describe how volcanoes form on islands", "Describe how volcanoes form on planets"], [0, 1]),
    "one letter of six words": (["Describe how a volcano is formed", "Describe how a volcanos is formed"], [0]),
    "one word of twenty-five": ([TWENTY_FIVE, TWENTY_FIVE.replace("heavy", "thick")], [0]),
    "a short text's words in another order": (["List cats and dogs", "List dogs and cats"], [0]),
    "short instructions": (["Tell a joke", "Name a fish", "cat", "dog", "ox", "a"], [0, 1, 2, 3, 4, 5]),
    "the same very short text": (["cat", "dog", "Cat!"], [0, 1]),
    "nothing at all": (["", "", "Name a fish"], [0, 2]),
    "languages of like names": (["Print hello in C", "Print hello in C++", "Print hello in C#"], [0, 1, 2]),
    "operators": (["Compute 12 + 7 now", "Compute 12 - 7 now", "Compute 12 * 7 now"], [0, 1, 2]),
    "emoji": (["What does 😀 mean in a chat?", "What does 😭 mean in a chat?"], [0, 1]),
    "marks of Markdown": (["Write a **short** `poem`", "Write a short poem"], [0]),
    "Cyrillic": (["Напиши стихотворение об осени", "напиши стихотворение об осени!", "Назови реки Азии"], [0, 2]),
    "Chinese": (["请写一首关于秋天的诗", "请写一首关于秋天的诗。", "请列出三种水果的名字", "写诗"], [0, 2, 3]),
    "a longer Chinese edit": (["请用简单的语言向小学生解释为什么天空是蓝色的并举一个例子",
                               "请用简单的语言向小学生解释为什么天空是蓝色的并举一个事例"], [0]),
    "full-width forms": (["Ｎａｍｅ three colours", "Name three colours"], [0]),
}  # fmt: skip


@pytest.mark.parametrize(("texts", "stay"), EDITS.values(), ids=EDITS)
def test_an_edit_is_judged_as_a_reader_would(texts: list[str], stay: list[int]) -> None:
    assert kept_of(*texts) == [texts[at] for at in stay]


def test_likeness_is_reported_by_the_measure_that_decided() -> None:
    def verdict(*texts: str) -> tuple[Any, ...]:
        dropped = drop_near_duplicates(table(*texts), CONFIG, seed=0).dropped
        (result,) = dropped.select("reason", "measured", "limit", "evidence", "twin").rows()
        return result

    assert verdict("Name a fish", "name a fish.") == (
        "exact_duplicate", 1.0, 0.7,
        "same instruction and input as g00000, except for case, punctuation and white space", "g00000",
    )  # fmt: skip
    assert verdict("List cats and dogs", "List dogs and cats") == (
        "near_duplicate", 1.0, 1.0, "Jaccard 1.00 of words in any order with g00000 (limit 1.00)", "g00000",
    )  # fmt: skip
    first, second = "Explain the laws of motion", "Explain the law of motion"
    assert likeness(first, second) < 0.7
    near = likeness(first, second, 4)
    assert verdict(first, second) == (
        "near_duplicate", near, 0.75,
        f"Jaccard {near:.2f} of character 4-grams with g00000 (limit 0.75)", "g00000",
    )  # fmt: skip


def test_the_input_counts() -> None:
    task = "Translate into French."
    assert (
        len(kept_of({"instruction": task, "input": "A dog barks."}, {"instruction": task, "input": "It rains."})) == 2
    )
    same = {"instruction": task, "input": "A dog barks in the old garden."}
    assert len(kept_of(same, {**same, "input": "a dog barks in the old garden"})) == 1


def test_rows_that_differ_in_numbers_are_a_template_of_which_a_few_stay() -> None:
    texts = [f"What is {n} percent of the price of a train ticket to Rome?" for n in (5, 17, 80, 31, 62)]
    outcome = drop_near_duplicates(table(*texts), CONFIG, seed=0)
    assert outcome.kept["id"].to_list() == ["g00000", "g00001", "g00002"]
    columns = ["id", "reason", "measured", "limit", "twin"]
    assert outcome.dropped.select(columns).rows() == [
        ("g00003", "template_full", 4.0, 3.0, "g00000"),
        ("g00004", "template_full", 4.0, 3.0, "g00000"),
    ]
    assert kept_of(*texts, config=NearDuplicatesConfig(per_template=1)) == texts[:1]
    assert kept_of(*texts, config=NearDuplicatesConfig(per_template=5)) == texts


def test_the_same_numbers_in_other_words_are_a_duplicate() -> None:
    text = "What is 15 percent of the price of a train ticket to Rome?"
    other, figure = text.replace("train", "tram"), text.replace("15", "51")
    assert min(likeness(text, other), likeness(text, figure)) >= 0.7
    assert kept_of(text, other, figure) == [text, figure]


def test_the_order_of_the_rows_does_not_matter() -> None:
    rng = random.Random(11)
    rows = table(*planted(rng), *(f"Add {n} apples to the basket of pears" for n in range(9)), *["say hi"] * 4)
    wanted = drop_near_duplicates(rows, CONFIG, seed=0)
    for seed in range(3):
        shuffled = rows.sample(fraction=1.0, shuffle=True, seed=seed)
        outcome = drop_near_duplicates(shuffled, CONFIG, seed=0)
        assert sorted(outcome.kept["id"]) == sorted(wanted.kept["id"])
        assert outcome.dropped.sort("id").equals(wanted.dropped.sort("id"))


def test_a_chain_keeps_its_two_ends() -> None:
    rng = random.Random(5)
    words = words_of(rng, 24)
    first = " ".join(words)
    middle = " ".join(["uvwxy", words[1], "defgh", *words[3:]])
    last = " ".join(["uvwxy", words[1], "defgh", *words[3:21], "pqrst", words[22], "klmno"])
    assert likeness(first, middle) >= 0.7
    assert likeness(middle, last) >= 0.7 > likeness(first, last)
    assert kept_of(first, middle, last) == [first, last]

    outcome = drop_near_duplicates(table(last, first, middle), CONFIG, seed=0)
    nearest = max((likeness(middle, text), id) for id, text in (("g00000", last), ("g00001", first)))
    assert outcome.dropped.select("id", "measured", "twin").rows() == [("g00002", *nearest)]
    assert nearest[1] == "g00001"


@pytest.mark.parametrize(
    ("winner", "loser"),
    [
        ({"source": "seed", "response": "r"}, {"source": "pool", "response": "r" * 9}),
        ({"source": "pool", "response": "r"}, {"source": "generated", "response": "r" * 9}),
        ({"response": "rr", "depth": 3}, {"response": "r", "depth": 0}),
        ({"depth": 1}, {"depth": 2}),
        ({"id": "g1"}, {"id": "g2"}),
    ],
)
@pytest.mark.parametrize("edit", [str.upper, lambda text: text.replace("heavy", "thick")])
def test_who_stays_is_decided_by_source_then_length_then_depth_then_id(
    winner: dict[str, Any], loser: dict[str, Any], edit: Callable[[str], str]
) -> None:
    stays = {"id": "g1", "instruction": TWENTY_FIVE, **winner}
    goes = {"id": "g2", "instruction": edit(TWENTY_FIVE), **loser}
    for rows in ((stays, goes), (goes, stays)):
        assert kept_of(*rows) == [TWENTY_FIVE]


def test_seeds_are_never_dropped() -> None:
    template = [f"Add {n} apples to the basket of pears" for n in range(6)]
    texts = ["Name a fish", "name a fish!", TWENTY_FIVE, TWENTY_FIVE.replace("heavy", "thick"), *template]
    assert kept_of(*({"instruction": text, "source": "seed"} for text in texts)) == texts


@pytest.mark.timeout(60)  # a comparison of all pairs takes minutes
def test_of_ten_thousand_equal_rows_one_stays() -> None:
    rows = table(*["Name three primary colours."] * 10_000)
    outcome = drop_near_duplicates(rows, CONFIG, seed=0)
    assert outcome.kept["id"].to_list() == ["g00000"]
    assert set(outcome.dropped["twin"]) == {"g00000"}


def test_a_table_without_rows_passes() -> None:
    outcome = drop_near_duplicates(table(), CONFIG, seed=0)
    check_outcome("near_duplicates", table(), outcome, creates=False)
    assert outcome.kept.height == 0


@pytest.mark.parametrize(
    ("first", "second"),
    [
        ("What is the capital of Arkansas?", "What is the capital of Kansas?"),
        ("In the series, who is the founder of House Massey?", "In the series, who is the founder of House Fossoway?"),
    ],
)
def test_another_name_in_the_same_frame_is_a_template_not_a_duplicate(first, second):
    outcome = drop_near_duplicates(table(first, second), NearDuplicatesConfig(), seed=0)
    assert outcome.dropped.is_empty()


@pytest.mark.parametrize(
    ("first", "second"),
    [
        ("What is electric current and how is it measured?", "What is Electric Current and how is it measured"),
        ("Please tell me what the river Rhine is famous for.", "Tell me what the river Rhine is famous for."),
        (
            "Please name one thing that the river rhine is famous for.",
            "Name one thing that the river Rhine is famous for.",
        ),
    ],
)
def test_the_same_name_however_written_is_no_other_name(first, second):
    outcome = drop_near_duplicates(table(first, second), NearDuplicatesConfig(), seed=0)
    assert outcome.dropped.height == 1
