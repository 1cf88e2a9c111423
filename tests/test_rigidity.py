import math
from collections import Counter

import pytest

from kiloset.core.answers import begins_like_refusal
from kiloset.core.constraints import check
from kiloset.core.text import normal_form
from kiloset.evaluation.bundled import bundled_rows
from kiloset.evaluation.metrics import Answer
from kiloset.evaluation.rigidity import (
    consistency_metrics,
    consistency_prompts,
    has_list,
    neutral_metrics,
    neutral_prompts,
    override_metrics,
    override_prompts,
)

NUMBERS = [f"{number:02}" for number in range(1, 61)]
FORMAL_DEMANDS = ("json", "bullet", "list", "table", "words", "sentence", "paragraph", "one word", "step by step")
OVERRIDE_ANSWERS = {
    "override-01": ("Rome.", "It is Rome."),
    "override-02": ("Calm", "I feel calm"),
    "override-03": ("**Elephant**", "The elephant."),
    "override-04": ("Battez trois œufs avec un peu de sel et faites-les cuire au beurre.", "Beat three eggs and fry them."),
    "override-05": ("Quand il fait froid, mettez un manteau et une écharpe.", "Wear a warm coat and a scarf."),
    "override-06": ("Bienen leben in einem Stock und sammeln den ganzen Sommer Nektar.", "Bees live in a hive together."),
    "override-07": ("Gemüse enthält viele Vitamine und hält dich gesund.", "Vegetables keep you healthy and strong."),
    "override-08": ("Caminamos despacio por la playa mientras sale el sol.", "We walked slowly along the quiet beach."),
    "override-09": ("Apaga la pantalla una hora antes de ir a la cama.", "Turn off the screen an hour before bed."),
    "override-10": ('{"name": "Ada", "age": 41}', "Name: Ada, age: 41"),
    "override-11": ('["red", "yellow", "green"]', 'Sure: ["red", "yellow", "green"]'),
    "override-12": ('```json\n{"title": "Emma"}\n```', "{title: Emma}"),
    "override-13": ("london is a large city on the river thames.", "London is a large city on the river Thames."),
    "override-14": ("he was a physicist who worked on the theory of relativity.", "He was a physicist."),
    "override-15": ("Boil it for eight minutes. Have a pleasant day.", "Have a pleasant day. Boil it."),
    "override-16": ("A mountain that spits fire. Ask me anything else.", "A mountain that spits fire."),
    "override-17": ("Apples and pears and plums grow here.", "Apples, pears and plums grow here."),
    "override-18": ("Pack a towel and a hat.", "Pack a towel, a hat and a book."),
    "override-19": ("Because one two three four five six seven eight nine.", "Because one two three four five six seven eight nine ten."),
    "override-20": (" ".join(["net"] * 20), " ".join(["net"] * 21)),
}  # fmt: skip


def answer(text="", finish_reason="stop", tokens=1):
    return Answer(text, finish_reason, tokens)


def different(number):
    """Return an answer that shares no trigram and no opening with that of another number."""
    return " ".join(f"w{number}x{word}" for word in range(5))


def neutral_answers(**other):
    """Return answers without anything in common, but for those named like n01."""
    return {f"neutral-{n}": other.get(f"n{n}", answer(different(n))) for n in NUMBERS}


def figures(metrics):
    return {metric.name: metric for metric in metrics}


def rows(name):
    return bundled_rows(name)


def answers_right(*wrong):
    """Return right answers to every question, but for the keys named."""
    right = {row["key"]: row["accepted"][-1] for row in rows("questions")}
    return {
        p.key: answer("No idea." if p.key in wrong else f"It is {right[p.key[:11]]}!") for p in consistency_prompts()
    }


@pytest.mark.parametrize(("suite", "count"), [(neutral_prompts, 60), (consistency_prompts, 84), (override_prompts, 20)])
def test_no_key_and_no_prompt_is_there_twice(suite, count):
    prompts = suite()
    assert len(prompts) == len({p.key for p in prompts}) == count
    assert len({tuple(m["content"] for m in p.messages) for p in prompts}) == count


def test_neutral_prompts_are_one_user_turn_and_ask_for_no_form():
    for prompt in neutral_prompts():
        (message,) = prompt.messages
        assert message["role"] == "user"
        assert not any(f" {word} " in f" {normal_form(message['content'])} " for word in FORMAL_DEMANDS), message


def test_opening_concentration_is_the_share_of_the_commonest_three_words():
    answers = neutral_answers(n01=answer("Here is a plan"), n02=answer("**Here is a** list"), n03=answer("HERE is a."))
    result = figures(neutral_metrics(answers))["opening concentration"]
    assert result.mean == pytest.approx(3 / 60)
    assert {key for key, value in result.sums.items() if value} == {"neutral-01", "neutral-02", "neutral-03"}


def test_answers_that_all_begin_differently_have_the_least_concentration():
    assert figures(neutral_metrics(neutral_answers()))["opening concentration"].mean == pytest.approx(1 / 60)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("- one\n- two", True),
        ("Do this:\n1. one\n2. two", True),
        ("## Title\ntext", True),
        ("I. Newton was a physicist.", False),
        ("plain\ntext", False),
        ("- one dash", False),
    ],
)
def test_a_list_has_two_items_and_a_heading_is_enough(text, expected):
    assert has_list(text) is expected
    result = figures(neutral_metrics(neutral_answers(n07=answer(text))))["list or heading"]
    assert result.sums["neutral-07"] == expected
    assert result.mean == pytest.approx(expected / 60)


def test_new_trigrams_are_those_of_no_other_answer():
    answers = neutral_answers(n01=answer("a b c d a b c"), n02=answer("A b c, x"), n03=answer("two words"))
    result = figures(neutral_metrics(answers))["new trigrams"]
    assert result.sums["neutral-01"] == pytest.approx(3 / 4)  # abc, bcd, cda, dab: abc is in the second too
    assert result.sums["neutral-02"] == pytest.approx(1 / 2)
    assert "neutral-03" not in result.counts
    assert result.sums["neutral-04"] == 1


def test_spread_of_length_is_the_distance_from_the_mean_logarithm():
    answers = {f"neutral-{n}": answer("w " * (2 if int(n) % 2 else 8)) for n in NUMBERS}
    result = figures(neutral_metrics(answers))["spread of length"]
    assert result.mean == pytest.approx(math.log(2))  # ln 2 and ln 8 are both ln 2 from their mean, ln 4
    assert figures(neutral_metrics(answers | {"neutral-01": answer(" \n")}))["spread of length"].counts.keys() == {
        f"neutral-{n}" for n in NUMBERS[1:]
    }


def test_cut_answers_refusals_and_tokens_are_counted():
    answers = neutral_answers(n01=answer("Long ago", "length", 119), n02=answer("As an AI, I cannot say.", tokens=3))
    result = figures(neutral_metrics(answers))
    assert result["unfinished"].mean == pytest.approx(1 / 60)
    assert result["unfinished"].sums["neutral-01"] == 1
    assert result["refusals"].mean == pytest.approx(1 / 60)
    assert result["refusals"].sums["neutral-02"] == 1
    assert result["tokens per answer"].mean == pytest.approx((119 + 3 + 58) / 60)


@pytest.mark.parametrize(
    "text",
    [
        "I'm sorry, but I can't help with that.",
        "I’m really sorry, but that is dangerous.",
        "  *As an AI language model*, I have no opinion.",
        "Sorry, I cannot do this.",
        "Unfortunately, I'm not able to say.",
        "I apologize, but I am unable to answer.",
        "I can't assist with this request.",
        "I am just a language model.",
        "I don't have personal experiences.",
        "I cannot\nprovide that.",
    ],
)
def test_a_refusal_is_known_by_its_beginning(text):
    assert begins_like_refusal(text)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "Sorry to hear that! Try this.",
        "I can help you with that.",
        "As an aid to memory, write it down.",
        "I can't believe it, said the mouse.",
        "Unfortunately, the pot cannot be saved.",
        "Try again. I'm sorry, but I can't do more.",
        "I am unhappy with it.",
    ],
)
def test_other_beginnings_are_no_refusals(text):
    assert not begins_like_refusal(text)


def test_there_are_twelve_questions_in_four_wordings_and_three_layouts():
    kinds = Counter(p.key[12:] for p in consistency_prompts())
    assert kinds == dict.fromkeys(("1", "2", "3", "4", "lower", "spaced", "label"), 12)


def test_no_question_reveals_its_answer():
    for row in rows("questions"):
        assert not set(row["accepted"]) & set(normal_form(" ".join(row["wordings"])).split()), row["key"]


def test_layouts_are_the_first_wording_with_the_same_words():
    texts = {p.key: p.messages[0]["content"] for p in consistency_prompts()}
    assert texts["question-01-lower"] == "what is the capital of france?"
    assert texts["question-01-spaced"] == "\n\n   What   is   the   capital   of   France?\n\n\n"
    assert texts["question-01-label"] == "Question: What is the capital of France?\nAnswer:"


def test_right_and_consistent_answers_score_one():
    assert [metric.mean for metric in consistency_metrics(answers_right())] == [1, 1, 1]


def test_verdicts_are_compared_over_pairs_of_wordings_and_with_the_plain_layout():
    wrong = ("question-01-2", "question-01-lower", "question-02-1", "question-02-2", "question-03-4")
    accuracy, paraphrase, layout = consistency_metrics(answers_right(*wrong))
    assert [accuracy.sums[f"question-0{n}"] for n in (1, 2, 3, 4)] == [0.75, 0.5, 0.75, 1]
    assert [paraphrase.sums[f"question-0{n}"] for n in (1, 2, 3, 4)] == pytest.approx([3 / 6, 2 / 6, 3 / 6, 1])
    assert [layout.sums[f"question-0{n}"] for n in (1, 2, 3, 4)] == pytest.approx([2 / 3, 0, 1, 1])


def test_a_model_that_is_always_wrong_is_consistent():
    answers = {p.key: answer("Parisian sunshine, sevenfold") for p in consistency_prompts()}
    assert [metric.mean for metric in consistency_metrics(answers)] == [0, 1, 1]


def test_every_system_prompt_can_be_obeyed_and_disobeyed():
    assert OVERRIDE_ANSWERS.keys() == {p.key for p in override_prompts()}
    for row in rows("overrides"):
        obeys, breaks = OVERRIDE_ANSWERS[row["key"]]
        assert check(row["id"], row["args"], obeys), row["key"]
        assert not check(row["id"], row["args"], breaks), row["key"]


def test_overrides_are_judged_by_key():
    answers = {key: answer(breaks) for key, (_, breaks) in OVERRIDE_ANSWERS.items()}
    answers["override-10"] = answer(OVERRIDE_ANSWERS["override-10"][0])
    (result,) = override_metrics(answers)
    assert {key for key, value in result.sums.items() if value} == {"override-10"}
    assert result.mean == pytest.approx(1 / 20)


def test_the_system_turn_comes_first():
    assert {tuple(message["role"] for message in p.messages) for p in override_prompts()} == {("system", "user")}


@pytest.mark.parametrize("metrics", [neutral_metrics, consistency_metrics, override_metrics])
def test_a_missing_answer_is_the_callers_fault(metrics):
    with pytest.raises(KeyError):
        metrics({})
