"""Contamination against the rule written out naively, by kind of copy, on phrases that only look like one, and in a run."""

import json
import random
import re
from collections import Counter
from functools import cache
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from kiloset.core.config import parse
from kiloset.core.errors import DataError, EmptyError
from kiloset.core.progress import Silent
from kiloset.core.run import RunFolder
from kiloset.core.table import check_outcome, table_of
from kiloset.evaluation.forgetting import choices
from kiloset.evaluation.held_out import tasks_of
from kiloset.filters.contamination import BENCHMARKS, ContaminationConfig, Prompts, drop_contaminated
from kiloset.inputs import read_inputs
from kiloset.runner import run_pipeline
from kiloset.settings import RunConfig
from tests import fake_run
from tests.paths import ROOT

CONFIG = ContaminationConfig()


def table(*rows: str | dict[str, Any]) -> pl.DataFrame:
    full_rows = [row if isinstance(row, dict) else {"instruction": row} for row in rows]
    return table_of(
        [{"id": f"g{i}", "source": "generated", "response": "Fine.", **row} for i, row in enumerate(full_rows)]
    )


def prompts(*texts: str) -> pl.DataFrame:
    places = [(f"bench.jsonl:{number}", text) for number, text in enumerate(texts, 1)]
    return pl.DataFrame(places, schema=BENCHMARKS, orient="row")


def verdicts(rows: pl.DataFrame, benchmarks: pl.DataFrame, config: ContaminationConfig = CONFIG) -> dict[str, Any]:
    """Return the dropped rows by id, each row accounted for and what is kept in order."""
    outcome = drop_contaminated(rows, Prompts(benchmarks, config), seeds_in_set=False)
    check_outcome("contamination", rows, outcome, creates=False)
    gone = {row["id"]: row for row in outcome.dropped.to_dicts()}
    assert outcome.kept["id"].to_list() == [id for id in rows["id"] if id not in gone]
    return gone


@cache
def eights(text: str) -> list[tuple[str, ...]]:
    words = re.findall("[a-z0-9]+", text)
    return [tuple(words[i : i + 8]) for i in range(len(words) - 7)]


@cache
def fives(text: str) -> frozenset[str]:
    padded = f" {' '.join(re.findall('[a-z0-9]+', text))} "
    return frozenset(padded[i : i + 5] for i in range(len(padded) - 4))


@cache
def numerals(text: str) -> set[str]:
    return set(re.findall(r"\d+", text))


@cache
def frequencies(asked: tuple[str, ...]) -> Counter[tuple[str, ...]]:
    return Counter(gram for prompt in asked for gram in set(eights(prompt)))


def naive(turn: str, response: str, asked: list[str]) -> tuple[str, float] | None:
    """Apply the rule to texts of plain words and full stops: every n-gram of every prompt in turn."""
    having = frequencies(tuple(asked))
    for text, shortest in ((turn, 5), (response, 8)):
        grams, best = set(eights(text)), 0.0
        for prompt in asked:
            words = prompt.split()
            if len(words) < 13:
                ends = (sentence.split()[-len(words) :] == words for sentence in text.split("."))
                best = 1.0 if len(words) >= shortest and any(ends) else best
                continue
            weights = [1 / having[gram] if having[gram] <= 20 else 0.0 for gram in eights(prompt)]
            shared = [i for i, gram in enumerate(eights(prompt)) if gram in grams]
            own = sum(weights[i] for i in shared)
            covered = len({i + k for i in shared for k in range(8)})
            if own and (len(shared) == len(weights) or covered * own / len(shared) >= 20):
                best = max(best, own / sum(weights))
        if best >= 0.5:
            return "contaminated_ngrams", best
    jaccards = [(len(fives(turn) & fives(p)) / len(fives(turn) | fives(p)), p) for p in asked]
    near = [j for j, p in jaccards if j >= 0.7 and (len(p.split()) >= 20 or numerals(p) == numerals(turn))]
    return ("contaminated_near_duplicate", max(near)) if near else None


def made_up(rng: random.Random) -> tuple[list[str], list[tuple[str, str]]]:
    """Return prompts, some in families with a frame, and rows made of whole, cut and changed ones among other words."""
    vocabulary = ["".join(rng.choices("abcdefghijklmnopqrstuvwxyz", k=rng.randint(3, 9))) for _ in range(300)]
    vocabulary += [str(n) for n in range(20, 40)]

    def some(least: int, most: int) -> list[str]:
        return rng.choices(vocabulary, k=rng.randint(least, most))

    frames = [some(5, 25) for _ in range(4)]
    asked = [(rng.choice(frames) if rng.random() < 0.4 else []) + some(1, 30) for _ in range(90)]
    asked += [some(9, 11) * 3 for _ in range(10)]
    asked += [frames[0] + [str(n), *some(1, 2)] for n in range(25)]

    def text() -> str:
        words = list(rng.choice(asked))
        for _ in range(rng.choice((0, 0, 1, 1, 3))):
            words[rng.randrange(len(words))] = rng.choice(vocabulary)
        if rng.random() < 0.3:
            words = words[: rng.randint(1, len(words))]
        before, after = (" ".join(some(0, 6)) + rng.choice((". ", " ")) for _ in range(2))
        return rng.choice((" ".join(words), f"{before}{' '.join(words)}{rng.choice(('. ', ' '))}{after}"))

    rows = [(text(), text() if rng.random() < 0.3 else "fine") for _ in range(250)]
    return [" ".join(words) for words in asked], rows


@pytest.mark.parametrize("seed", [0, 1])
def test_drops_exactly_what_the_rule_written_out_naively_drops(seed: int) -> None:
    asked, rows = made_up(random.Random(seed))
    distinct = list(dict.fromkeys(asked))
    wanted = {f"g{i}": naive(*row, distinct) for i, row in enumerate(rows)}
    gone = verdicts(table(*({"instruction": turn, "response": response} for turn, response in rows)), prompts(*asked))
    reasons = {id: (row["reason"], pytest.approx(row["measured"])) for id, row in gone.items()}
    assert {id: verdict for id, verdict in wanted.items() if verdict} == reasons
    assert {verdict[0] for verdict in wanted.values() if verdict} == {
        "contaminated_ngrams",
        "contaminated_near_duplicate",
    }
    assert 60 < len(reasons) < 200


LONG = (
    "A farmer has 12 rows of apple trees with 9 trees in each row, and every tree gives 40 apples a year. If a storm "
    "uproots 15 trees in spring, how many apples can the farmer still expect to pick this autumn?"
)
MIDDLE = "Which European king moved his whole court to a palace outside the capital, and in what year did he do so?"
SHORT = "Why do cats purr when they sleep in the sun?"
TINY = "Why do babies cry?"
CHOICE = (
    "Which of these animals is the heaviest when fully grown?\nA) the blue whale of the Pacific\nB) a small grey mouse"
)
AROUND = "I am putting together a quiz for my neighbours and need your help with this part of it."


@pytest.mark.parametrize("prompt", [LONG, MIDDLE, SHORT, TINY])
@pytest.mark.parametrize(
    "copied",
    [
        lambda text: text,
        lambda text: re.sub(r"[^\w\s]", " ", text).upper(),
        lambda text: f"  {text.replace(' ', '  ')}\n",
        lambda text: text.replace(",", " --").replace("?", "?!"),
    ],
    ids=["exact", "case", "white space", "punctuation"],
)
def test_copies_that_differ_in_nothing_but_form_are_found_at_any_length(prompt: str, copied: Any) -> None:
    assert list(verdicts(table(copied(prompt)), prompts(LONG, MIDDLE, SHORT, TINY))) == ["g0"]


@pytest.mark.parametrize("prompt", [LONG, MIDDLE, SHORT])
@pytest.mark.parametrize(
    "row",
    [
        lambda text: f"Please answer this one for me: {text}",
        lambda text: f"{text} Explain each of your steps.",
        lambda text: f"{AROUND}\n\n{text}\n\n{AROUND}",
        lambda text: {"instruction": "Answer the question.", "input": text},
        lambda text: {
            "instruction": text[:20].rsplit(" ", 1)[0],
            "input": text[20 - len(text[:20].rsplit(" ", 1)[1]) :],
        },
        lambda text: {"instruction": "Write an exam question.", "response": f"Here is one. {text} Good luck!"},
        lambda text: text.replace("how", "however", 1).replace("whole", "entire").replace("sleep", "sleeping"),
    ],
    ids=["prefix", "suffix", "embedded", "in the input", "across both", "in the response", "one word changed"],
)
def test_copies_with_more_around_them_or_a_word_changed_are_found(prompt: str, row: Any) -> None:
    assert list(verdicts(table(row(prompt)), prompts(LONG, MIDDLE, SHORT))) == ["g0"]


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        (f"{AROUND} {LONG.replace('storm', 'flood')} {AROUND}", "contaminated_ngrams"),
        (LONG.replace("12", "14").replace("40", "55").replace("15", "8"), "contaminated_near_duplicate"),
        (CHOICE.replace("A) the blue whale of the Pacific\nB) a small grey mouse", "A) a small grey mouse\nB) the blue whale of the Pacific"), "contaminated_near_duplicate"),
    ],
    ids=["embedded, one word changed", "numbers changed", "options reordered"],
)  # fmt: skip
def test_longer_prompts_are_found_though_changed(row: str, reason: str) -> None:
    assert [verdict["reason"] for verdict in verdicts(table(row), prompts(LONG, CHOICE)).values()] == [reason]


@pytest.mark.parametrize(
    ("prompt", "row"),
    [
        ("Write a short story about a dog.", "Write a short story about a dog who sails around the world alone."),
        (
            f"Write a short story about a dog who finds {AROUND}",
            "Write a short story about a dog who finds an old coin.",
        ),
        (
            "Given the following list of numbers, find the median of all the even ones: 4, 8, 15, 16",
            "Given the following list of numbers, find the median of all the even ones: 23, 42, 7, 90",
        ),
        ("What is the capital of Kansas?", "What is the capital of Arkansas?"),
        (
            "Identify which car is German or American: Audi, Buick",
            "Identify which car is German or American: Opel, GMC",
        ),
        (
            "In the series A Song of Ice and Fire, who is the founder of House Casterly?",
            "In the series A Song of Ice and Fire, who is the founder of House Clegane?",
        ),
        (TINY, "I work in a ward and often ask myself: Why do babies cry? Write a song that says so."),
        (
            SHORT,
            {"instruction": "Write a sad poem.", "response": "Cats purr when they sleep in the sun, and I do not."},
        ),
        (
            "Why is the sky blue?",
            {"instruction": "Write a poem.", "response": "Why is the sky blue?\nIt makes me sad."},
        ),
    ],
)
def test_common_phrases_and_other_tasks_on_the_same_frame_raise_no_alarm(
    prompt: str, row: str | dict[str, Any]
) -> None:
    assert verdicts(table(row), prompts(prompt)) == {}


def test_the_frame_of_a_benchmark_is_no_evidence_and_a_passage_that_comes_with_several_questions_is() -> None:
    frame = "Read the question below carefully, think about it step by step, and then give the letter of the right answer only"
    asked = [
        f"{frame}. What did the {n} of {m} do?" for n in ("king", "cook", "mayor") for m in ("Oslo", "Rome", "Bonn")
    ]
    passage = f"{LONG} {MIDDLE.replace('?', '.')} {AROUND}"
    several = [
        f"{passage} {question}" for question in ("Who is the king?", "How large is a tree?", "What is the quiz for?")
    ]
    rows = table(f"{frame}. Which of the two roads is longer?", f"{passage} Sum it up in a line.", asked[4])
    assert list(verdicts(rows, prompts(*asked, *several))) == ["g1", "g2"]


def test_of_real_rows_only_rows_with_a_prompt_are_contaminated() -> None:
    seeds, passages = (
        [json.loads(line) for line in (ROOT / file).read_text(encoding="utf-8").splitlines()]
        for file in ("seeds/seeds.jsonl", "kiloset/evaluation/data/passages.jsonl")
    )
    rows = [{name: row[name] for name in ("instruction", "input", "response")} for row in seeds]
    asked = [task.text for kind in ("open", "yes_or_no", "letter") for task in tasks_of(kind)]
    asked += [row["text"] for row in passages]
    asked += [choice.messages[0]["content"] for choice in choices()]
    planted = [{"instruction": AROUND, "input": text} for text in asked if len(text.split()) > 8]
    dropped = verdicts(table(*rows, *planted), prompts(*asked))
    assert list(dropped) == [f"g{number}" for number in range(len(rows), len(rows) + len(planted))]


def test_a_verdict_names_file_and_line_quotes_the_words_shared_and_states_the_share_of_the_prompt() -> None:
    row = f"{AROUND} {LONG.partition(', how')[0]}. Sum that up."
    (ngrams, near) = verdicts(table(row, TINY), prompts(TINY, LONG)).values()
    words = re.findall(r"\w+", LONG.lower())
    share = (len(re.findall(r"\w+", LONG.partition(", how")[0])) - 7) / (len(words) - 7)
    assert (ngrams["reason"], ngrams["measured"], ngrams["limit"]) == ("contaminated_ngrams", pytest.approx(share), 0.5)
    assert ngrams["evidence"] == (
        f"instruction and input have {share:.0%} of the n-grams of 8 words of bench.jsonl:2, "
        f'"{" ".join(words[:12])} …" (limit 50%)'
    )
    assert (near["reason"], near["measured"], near["limit"]) == ("contaminated_near_duplicate", 1.0, 0.7)
    assert near["evidence"] == 'Jaccard 1.00 of character 5-grams with bench.jsonl:1, "why do babies cry" (limit 0.70)'


def test_chinese_and_japanese_are_counted_sign_by_sign() -> None:
    prompt = "一个农夫有十二排苹果树，每排九棵，每棵树每年结四十个苹果。他今年能摘多少个苹果？"
    rows = table(
        f"我在给邻居们准备一次小测验，请先回答下面的问题：{prompt}然后用一句话说明你是怎么算出来的，谢谢你！",
        "一个农夫有十二排苹果树，他很高兴。",
    )
    assert list(verdicts(rows, prompts(prompt))) == ["g0"]


def test_neither_order_nor_company_changes_a_verdict() -> None:
    asked, rows = made_up(random.Random(5))
    whole = table(*({"instruction": turn, "response": response} for turn, response in rows))
    wanted = verdicts(whole, prompts(*asked))
    assert verdicts(whole.sample(fraction=1, shuffle=True, seed=1), prompts(*asked)) == wanted
    few = whole.filter(pl.col("id").str.ends_with("7"))
    assert verdicts(few, prompts(*asked)) == {id: row for id, row in wanted.items() if id.endswith("7")}


def test_without_benchmarks_nothing_is_dropped() -> None:
    rows = table(LONG, "")
    for benchmarks in (prompts(), prompts("", "?!", "\n")):
        assert verdicts(rows, benchmarks) == {}
    assert verdicts(rows.clear(), prompts(LONG)) == {}


def test_hostile_texts_are_compared_like_any_other() -> None:
    long = " ".join(random.Random(3).choices(LONG.split(), k=30_000))
    texts = [
        "",
        "\0",
        "\0\0 a\0b",
        "(" * 3000,
        "e\u0301" * 50,
        "🦊🦊🦊🦊🦊",
        "\ufffd\u200b\u202e x",
        "x" * 1_000_000,
        long,
    ]
    dropped = verdicts(table(*texts, f"{long} {MIDDLE}"), prompts(*texts, MIDDLE, "a (b [c {d \\e *f +g ?h"))
    assert {"g7", "g8", "g9"} <= set(dropped)
    assert dropped["g9"]["reason"] == "contaminated_ngrams"
    assert not {"g0", "g1", "g3"} & set(dropped)


def test_a_seed_is_dropped_only_where_it_may_become_part_of_the_set() -> None:
    rows = table({"instruction": LONG, "source": "seed"}, {"instruction": MIDDLE, "source": "pool"})
    for in_set, gone in ((False, ["g1"]), (True, ["g0", "g1"])):
        outcome = drop_contaminated(rows, Prompts(prompts(LONG, MIDDLE), CONFIG), seeds_in_set=in_set)
        assert outcome.dropped["id"].to_list() == gone


def config_of(*files: Path, **tables: Any) -> RunConfig:
    return parse(RunConfig, {**fake_run.TABLE, **tables, "contamination": {"files": [str(file) for file in files]}})


def test_benchmarks_are_read_in_every_layout_and_decide_the_content_of_a_run(tmp_path: Path) -> None:
    values = [
        {"question": "Why?", "answer": "So."},
        {"instruction": "Sort.", "input": "3 1", "output": "1 3"},
        {"messages": [{"role": "system", "content": "Be kind."}, {"role": "user", "content": "Who?"}]},
        {"instruction": "Add.", "instances": [{"input": "1 2", "output": "3"}, {"input": "", "output": "0"}]},
        "When?",
    ]
    (tmp_path / "b.jsonl").write_text("".join(json.dumps(value) + "\n" for value in values))
    (tmp_path / "b.txt").write_text("How?\n\nWhere?\n")
    inputs = read_inputs(config_of(tmp_path / "b.jsonl", tmp_path / "b.txt"))
    assert inputs.benchmarks["prompt"].to_list() == [
        "Why?", "Sort.\n\n3 1", "Who?", "Add.\n\n1 2", "Add.", "When?", "How?", "Where?"
    ]  # fmt: skip
    assert inputs.benchmarks["place"][-1] == f"{tmp_path / 'b.txt'}:3"
    (tmp_path / "b.txt").write_text("How?\n\nWherefore?\n")
    assert read_inputs(config_of(tmp_path / "b.jsonl", tmp_path / "b.txt")).content() != inputs.content()
    assert "benchmarks" not in read_inputs(config_of()).content()


@pytest.mark.parametrize(
    ("name", "content", "kind", "message"),
    [
        ("none.jsonl", None, DataError, r"none\.jsonl: no such file or folder \(\[contamination\] files\)"),
        ("b.md", "a", DataError, r"b\.md: must end in \.jsonl, .*\.txt \(\[contamination\] files\)"),
        ("b.jsonl", "", EmptyError, r"b\.jsonl: no prompt in it; each of \[contamination\] files needs at least one"),
        ("b.jsonl", '"a"\n{"', DataError, r"b\.jsonl:2: not JSON"),
        ("b.jsonl", '{"ctx": "a"}', DataError, r'b\.jsonl:1: "instruction" \(or prompt, .*\) is missing; got ctx'),
        ("b.jsonl", r'{"prompt": "a \ud800"}', DataError, r"b\.jsonl:1: .* one half of an escaped character"),
    ],
)
def test_a_benchmark_file_that_cannot_be_read_is_refused_before_anything_else(
    tmp_path: Path, name: str, content: str | None, kind: type[Exception], message: str
) -> None:
    if content is not None:
        (tmp_path / name).write_text(content)
    with pytest.raises(kind, match=message):
        read_inputs(config_of(tmp_path / name))


def test_a_contaminated_row_never_comes_into_the_set_and_the_ledger_names_the_reason(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    def run(name: str, config: RunConfig) -> tuple[RunFolder, Any]:
        folder = RunFolder(tmp_path / name)
        return folder, run_pipeline(config, read_inputs(config), folder, fake_run.FakeModels(), Silent())

    def curated(folder: RunFolder) -> list[str]:
        return [json.loads(line)["messages"][0]["content"] for line in folder.curated.read_text().splitlines()]

    small = {"run": {"size": 4}, "rewrite": {"enabled": False}}
    clean, _ = run("clean", config_of(**small))
    asked = curated(clean)[:2]
    seed = json.loads(Path(fake_run.TABLE["seeds"]["path"]).read_text().splitlines()[6])
    (tmp_path / "b.jsonl").write_text("".join(json.dumps(text) + "\n" for text in [*asked, seed["instruction"]]))
    assert caplog.messages == []
    folder, result = run("checked", config_of(tmp_path / "b.jsonl", **small))

    ledger = folder.dropped().filter(pl.col("stage") == "contamination")
    assert not set(curated(folder)) & set(asked)
    assert result.rows == 4
    assert set(ledger["reason"]) <= {"contaminated_ngrams", "contaminated_near_duplicate"}
    assert all(f"{tmp_path / 'b.jsonl'}:" in evidence for evidence in ledger["evidence"])
    assert sum(result.dropped["contamination"].values()) == ledger.height == 2
    counted = folder.manifest["generate"]["candidates"]
    through = dict(folder.stages())["contamination"].filter(pl.col("source") == "generated")
    assert sum(counted.values()) == through.height
    assert len(caplog.messages) == 1
    assert caplog.messages[0].startswith("1 of 32 seeds repeat a benchmark and are still shown to the model")
    assert list(folder.manifest["contaminated_seeds"]) == ["s0007"]
