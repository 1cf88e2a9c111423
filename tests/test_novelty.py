"""The novelty gate, compared with a comparison of all pairs by the textbook recurrence."""

from collections.abc import Sequence

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kiloset.core.text import words_and_signs as words
from kiloset.generator.novelty import NoveltyIndex, rouge_l

VOCABULARY = [
    "write",
    "Write",
    "poem",
    "the",
    "don't",
    "2",
    "напиши",
    "Стих",
    "о",
    "весне",
    "写",
    "一首诗",
    "詩",
    "καλή",
    "straße",
    "?",
]
phrases = st.lists(st.sampled_from(VOCABULARY), max_size=8).map(" ".join)
texts = phrases | st.text(max_size=12)


def longest_common_subsequence(first: Sequence[str], second: Sequence[str]) -> int:
    """Return its length by the recurrence of Wagner and Fischer."""
    table = [[0] * (len(second) + 1) for _ in range(len(first) + 1)]
    for i, a in enumerate(first):
        for j, b in enumerate(second):
            table[i + 1][j + 1] = table[i][j] + 1 if a == b else max(table[i][j + 1], table[i + 1][j])
    return table[-1][-1]


def f1(first: str, second: str) -> float:
    a, b = words(first), words(second)
    return 2 * longest_common_subsequence(a, b) / (len(a) + len(b)) if a and b else 0.0


def index_of(pool: Sequence[str]) -> NoveltyIndex:
    index = NoveltyIndex()
    for number, text in enumerate(pool):
        index.add(f"s{number:04d}", text)
    return index


@settings(max_examples=150, deadline=None)
@given(st.lists(texts, max_size=10), texts, st.sampled_from([0.0, 0.3, 0.5, 0.7, 0.9, 1.0]))
def test_the_nearest_is_what_a_comparison_of_all_pairs_finds(pool: list[str], asked: str, above: float) -> None:
    scores = [f1(asked, text) for text in pool]
    best = max(scores, default=0.0)
    expected = (f"s{scores.index(best):04d}", pytest.approx(best)) if best > above else None
    assert index_of(pool).nearest(asked, above) == expected


@settings(max_examples=100, deadline=None)
@given(texts, texts)
def test_rouge_l_is_the_textbook_f1_and_symmetric(first: str, second: str) -> None:
    assert rouge_l(words(first), words(second)) == pytest.approx(f1(first, second))
    assert rouge_l(words(first), words(second)) == rouge_l(words(second), words(first))


def test_rouge_l_of_a_pair_counted_by_hand() -> None:
    # common in order: write a poem spring
    assert rouge_l(words("Write a short poem about spring"), words("Write a spring poem for spring")) == pytest.approx(
        8 / 12
    )


def test_a_tie_goes_to_the_one_added_first() -> None:
    index = index_of(["name three rivers", "name four rivers", "Name three rivers!"])
    assert index.nearest("name two rivers", 0.5) == ("s0000", pytest.approx(2 / 3))
    assert index.nearest("name three rivers", 0.5) == ("s0000", 1.0)
    assert index.nearest("name four rivers", 0.5) == ("s0001", 1.0)


def test_the_limit_itself_is_still_new() -> None:
    index = index_of(["a b c d e f g x y z"])
    assert index.nearest("a b c d e f g u v w", 0.7) is None  # 2 * 7 / 20
    assert index.nearest("a b c d e f g u v w", 0.69) == ("s0000", pytest.approx(0.7))


def test_a_repeated_word_counts_as_often_as_both_hold_it() -> None:
    assert index_of(["tea tea tea milk"]).nearest("tea sugar sugar sugar", 0.2) == ("s0000", pytest.approx(2 / 8))


def test_the_same_words_in_another_order_are_new() -> None:
    assert index_of(["one two three four"]).nearest("four three two one", 0.7) is None  # bound 1.0, score 0.25


@pytest.mark.parametrize(
    ("held", "asked"),
    [
        ("Напиши стих о весне", "НАПИШИ СТИХ О ВЕСНЕ!"),
        ("写 一首 关于 春天 的 诗", "写,一首,关于,春天,的,诗。"),
        ("Die Straße", "die STRASSE"),
    ],
)
def test_case_and_punctuation_do_not_make_an_instruction_new_in_any_script(held: str, asked: str) -> None:
    assert index_of([held]).nearest(asked, 0.7) == ("s0000", 1.0)


def test_a_text_without_words_is_near_to_nothing() -> None:
    assert index_of(["?!", "", "a b"]).nearest("…", 0.0) is None


def test_chinese_is_compared_sign_by_sign() -> None:
    index = NoveltyIndex()
    index.add("a", "请写一首关于秋天的诗歌")
    nearest = index.nearest("请写一首关于春天的诗歌", 0.7)
    assert nearest is not None
    assert nearest[0] == "a"
    assert nearest[1] == pytest.approx(10 / 11)
    assert index.nearest("请列出三种水果的名字", 0.7) is None
