"""Prompts of real use: what of each layout counts, a fair draw, counts against a plain loop, and broken files."""

import json
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from kiloset.core.config import parse
from kiloset.core.errors import DataError, EmptyError
from kiloset.core.table import table_of
from kiloset.generator.categories import CategoriesConfig, wanted_rows
from kiloset.generator.category_classifier import train_classifier
from kiloset.generator.usage import UsagePrompts, count_usage, read_usage, recorded_counts
from tests.fakes import FakeEmbedder

SEEDS = [
    ("sum the odd numbers", "maths"), ("add two numbers", "maths"), ("count the numbers", "maths"),
    ("sing of the sea", "poems"), ("rhyme on the moon", "poems"), ("a song of the moon", "poems"),
    ("numbers of the sea", "poems"), ("sum of the moon", "maths"),
]  # fmt: skip
LABELLED = table_of([{"id": f"s{n}", "instruction": text, "category": name} for n, (text, name) in enumerate(SEEDS)])


def config_of(**table: Any) -> CategoriesConfig:
    return parse(CategoriesConfig, {"target": "usage", "usage": "prompts.jsonl", **table})


def lines(values: list[Any]) -> str:
    return "".join(json.dumps(value, ensure_ascii=False) + "\n" for value in values)


def tasks(path: Path, limit: int = 100, seed: int = 0) -> dict[tuple[str, bool], int]:
    return dict(read_usage(str(path), limit, seed).tasks)


@pytest.mark.parametrize(
    "value",
    [
        "Why is that?", {"text": "Why is that?"}, {"prompt": " Why is that? "}, {"instruction": "Why is that?", "input": ""},
        {"question": "Why is that?", "context": "N/A"}, {"content": "Why is that?", "category": 7},
        {"messages": [{"role": "system", "content": "Be kind."}, {"role": "user", "content": "Why is that?"}]},
        {"conversations": [{"from": "human", "value": "Why is that?"}, {"from": "gpt", "value": "So."},
                           {"from": "human", "value": "Sure?"}]},
    ],
)  # fmt: skip
def test_the_first_user_turn_of_every_layout_counts(tmp_path: Path, value: Any) -> None:
    file = tmp_path / "p.jsonl"
    file.write_text(lines([value, "Why is that?"]), encoding="utf-8")
    assert tasks(file) == {("Why is that?", False): 2}


def test_an_instruction_and_its_input_are_one_prompt(tmp_path: Path) -> None:
    file = tmp_path / "p.jsonl"
    file.write_text(lines([{"instruction": "Cut it.", "input": "Long ago …"}, "Cut it.\n\nLong ago …", "Cut it."]))
    assert tasks(file) == {("Cut it.", True): 2, ("Cut it.", False): 1}


def as_txt(file: Path, prompts: list[str]) -> None:
    file.write_text("\n".join(["", *prompts, " "]), encoding="utf-8-sig")


@pytest.mark.parametrize(
    ("name", "write"),
    [
        ("p.txt", as_txt),
        ("p.json", lambda file, prompts: file.write_text(json.dumps(prompts))),
        ("p.csv", lambda file, prompts: pl.DataFrame({"prompt": prompts}).write_csv(file)),
        ("p.parquet", lambda file, prompts: pl.DataFrame({"text": prompts}).write_parquet(file)),
        ("p.jsonl", lambda file, prompts: file.write_text(lines(prompts))),
    ],
)
def test_every_kind_of_file_reads_the_same(tmp_path: Path, name: str, write: Callable[[Path, list[str]], Any]) -> None:
    prompts = ["Why?", "Où est la gare ?", "Why?", "{}, [1]"]
    write(tmp_path / name, prompts)
    usage = read_usage(str(tmp_path / name), 10, 0)
    assert (usage.prompts, dict(usage.tasks)) == (4, Counter((prompt, False) for prompt in prompts))


@pytest.mark.parametrize(
    ("name", "content", "place", "code"),
    [
        ("p.jsonl", '"a"\n{"prompt": 3}\n', "p.jsonl:2", "KS110"),
        ("p.jsonl", '"a"\n" "\n', "p.jsonl:2", "KS106"),
        ("p.jsonl", '{"q": "a"}', "p.jsonl:1", "KS109"),
        ("p.jsonl", '"a"\n\n3', "p.jsonl:3", "KS103"),
        ("p.jsonl", '"a"\n{"', "p.jsonl:2", "KS126"),
        ("p.jsonl", '{"messages": [{"role": "assistant", "content": "a"}]}', "p.jsonl:1", "KS106"),
        ("p.json", '["a", {}]', r"p.json\[1\]", "KS109"),
        ("p.txt", b"a\n\xff", "p.txt:2", "KS125"),
        ("p.md", "a", "p.md", "KS119"),
    ],
)
def test_a_broken_file_is_refused_with_its_line(tmp_path: Path, name: str, content: Any, place: str, code: str) -> None:
    (tmp_path / name).write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(DataError, match=f"/{place}: ") as error:
        read_usage(str(tmp_path / name), 1, 0)
    assert error.value.code == code


def test_a_file_that_is_missing_or_empty_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"gone\.jsonl: no such file or folder \(\[categories\] usage\)"):
        read_usage(str(tmp_path / "gone.jsonl"), 1, 0)
    (tmp_path / "p.txt").write_text("\n")
    with pytest.raises(EmptyError, match=r"p\.txt: no prompt in it; \[categories\] usage needs at least one"):
        read_usage(str(tmp_path / "p.txt"), 1, 0)


def test_a_draw_has_the_size_asked_for_is_fair_and_repeats(tmp_path: Path) -> None:
    file = tmp_path / "p.txt"
    file.write_text("\n".join(f"prompt {n % 20}" for n in range(40)))
    drawn = Counter[str]()
    for seed in range(400):
        usage = read_usage(str(file), 10, seed)
        assert (usage.prompts, usage.sampled) == (40, 10)
        drawn.update({task: count for (task, _), count in usage.tasks.items()})
    # 400 draws of 10 from 20 pairs: 200 each, standard deviation below 14
    assert max(abs(count - 200) for count in drawn.values()) < 4 * 14
    assert tasks(file, 10, 3) == tasks(file, 10, 3) != tasks(file, 10, 4)
    file.write_text("\n".join(f"{n:02d}" for n in range(40)))
    assert list(tasks(file, 10)) == sorted(tasks(file, 10))


def test_a_file_within_the_limit_is_read_whole_in_its_order(tmp_path: Path) -> None:
    file = tmp_path / "p.txt"
    file.write_text("\n".join(f"prompt {n % 20}" for n in range(40)))
    assert list(tasks(file, 40)) == [(f"prompt {n}", False) for n in range(20)]


def test_different_files_have_different_digests(tmp_path: Path) -> None:
    digests = set()
    for content in ("a\nb", "a\nb\nb", "b\na", "a\nb"):
        (tmp_path / "p.txt").write_text(content)
        digests.add(read_usage(str(tmp_path / "p.txt"), 10, 0).digest)
    assert len(digests) == 3


USAGE = UsagePrompts(900, {("sum of numbers", False): 5, ("sing to the moon", False): 3, ("unlike all", True): 2})


class Noting:
    identity = "noting@1"

    def __init__(self) -> None:
        self.asked: list[list[str]] = []

    def embed(self, texts: list[str]) -> Any:
        self.asked.append(list(texts))
        return FakeEmbedder().embed(texts)


@pytest.mark.parametrize("part", [1, 2, 1024])
def test_prompts_count_as_often_as_the_file_has_them(monkeypatch: pytest.MonkeyPatch, part: int) -> None:
    monkeypatch.setattr("kiloset.generator.usage.BATCH", part)
    classifier = train_classifier([(text, False) for text, _ in SEEDS], [name for _, name in SEEDS], FakeEmbedder())
    expected, sure, confidence = Counter[str](), 0, 0.0
    for task, count in USAGE.tasks.items():
        (prediction,) = classifier.predict([task], FakeEmbedder())
        expected[prediction.category] += count
        sure += count * (prediction.confidence >= 0.65)
        confidence += count * prediction.confidence

    embedder = Noting()
    usage = count_usage(USAGE, LABELLED, ["poems", "maths"], embedder, config_of(usage_min_confidence=0.65))

    assert usage.counts == dict(sorted(expected.items()))
    assert usage.shares == {name: count / 10 for name, count in usage.counts.items()}
    assert (usage.prompts, usage.sampled, usage.distinct, usage.labelled) == (900, 10, 3, 8)
    assert 0 < sure < 10
    assert (usage.unsure_share, usage.mean_confidence) == (1 - sure / 10, round(confidence / 10, 4))
    assert sum(usage.sure_shares.values()) == pytest.approx(1)
    assert usage.leave_one_out_accuracy == round(classifier.accuracy(), 4)
    assert [len(texts) for texts in embedder.asked] == [8, *{1: [1, 1, 1], 2: [2, 1], 1024: [3]}[part]]


def test_only_categories_that_a_row_can_have_are_read() -> None:
    usage = count_usage(USAGE, LABELLED, ["maths"], FakeEmbedder(), config_of())
    assert (usage.counts, usage.labelled, usage.unsure_share) == ({"maths": 10}, 4, 0.0)


def test_unsure_prompts_count_in_the_target_too() -> None:
    usage = count_usage(USAGE, LABELLED, ["maths", "poems"], FakeEmbedder(), config_of(usage_min_confidence=1.0))
    assert (usage.unsure_share, usage.sure_shares) == (1.0, {})
    assert wanted_rows(config_of(), ["maths", "poems"], usage.counts, 20) == {
        name: 2 * count for name, count in usage.counts.items()
    }


def test_a_record_holds_counts_and_no_prompt_and_is_taken_only_if_it_is_of_the_same_reading() -> None:
    record = json.loads(
        json.dumps(count_usage(USAGE, LABELLED, ["maths", "poems"], FakeEmbedder(), config_of()).as_record("f1"))
    )
    assert not any(task in json.dumps(record) for task, _ in USAGE.tasks)
    assert recorded_counts(record, "f1") == record["counts"]
    assert recorded_counts(record, "f2") is None
    assert recorded_counts(None, "f1") is None
