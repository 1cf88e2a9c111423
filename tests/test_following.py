"""How well constraints are followed, against verdicts and sums worked out by hand."""

import pytest

from kiloset.core.constraints import check
from kiloset.core.statistics import ratio_interval
from kiloset.evaluation.following import Item, by_type, check_answers, metrics, prompts
from kiloset.evaluation.metrics import Answer, Prompt

COMMA, JSON, TITLE, END = (
    "punctuation:no_comma", "detectable_format:json_format", "detectable_format:title", "startend:end_checker",
)  # fmt: skip
SMALL, BULLETS, WORDS = (
    "change_case:english_lowercase", "detectable_format:number_bullet_lists", "length_constraints:number_words",
)  # fmt: skip
FENCE = "```"


def _item(key, *constraints):
    return Item(key, f"Prompt {key}", tuple(constraints))


def _answers(**texts):
    return {key: Answer(text, "stop", 1) for key, text in texts.items()}


ITEMS = [
    _item("a", (COMMA, {}), (END, {"end_phrase": "Bye."})),
    _item("b", (JSON, {})),
    _item("c", (SMALL, {}), (BULLETS, {"num_bullets": 2}), (TITLE, {})),
    _item("d", (COMMA, {})),
    _item("e", (COMMA, {}), (WORDS, {"relation": "less than", "num_words": 90})),
]
ANSWERS = _answers(
    a="It rains. **Bye.**",  # strictly no comma only, loosely both
    b=f'Here it is:\n{FENCE}json\n{{"rain": true}}\n{FENCE}',  # loosely, without its first line
    c="<<rain>>\n- it rains in the garden\n- it pours in the street",  # all three
    e=" \n\u200b",  # blank: neither, short and free of commas as it is
)  # d is missing


def test_each_item_is_asked_as_one_user_message():
    assert prompts(ITEMS[:2]) == [
        Prompt("a", ({"role": "user", "content": "Prompt a"},)),
        Prompt("b", ({"role": "user", "content": "Prompt b"},)),
    ]


def test_verdicts_stand_in_the_order_of_the_constraints():
    assert check_answers(ITEMS, ANSWERS) == {
        "a": [(COMMA, True, True), (END, False, True)],
        "b": [(JSON, False, True)],
        "c": [(SMALL, True, True), (BULLETS, True, True), (TITLE, True, True)],
        "d": [(COMMA, False, False)],
        "e": [(COMMA, False, False), (WORDS, False, False)],
    }


def test_the_four_figures_are_those_worked_out_by_hand():
    result = {metric.name: metric for metric in metrics("following", check_answers(ITEMS, ANSWERS))}
    assert {name: metric.mean for name, metric in result.items()} == {
        "following strict prompt": 1 / 5,  # c
        "following loose prompt": 3 / 5,  # a, b, c
        "following strict instruction": 4 / 9,  # 1 + 0 + 3 + 0 + 0
        "following loose instruction": 6 / 9,  # 2 + 1 + 3 + 0 + 0
    }
    assert result["following strict instruction"].sums == {"a": 1, "b": 0, "c": 3, "d": 0, "e": 0}
    assert result["following strict instruction"].counts == {"a": 2, "b": 1, "c": 3, "d": 1, "e": 2}
    assert result["following loose prompt"].sums == {"a": 1, "b": 1, "c": 1, "d": 0, "e": 0}
    assert result["following loose prompt"].counts == dict.fromkeys("abcde", 1)
    assert {(metric.unit, metric.better) for metric in result.values()} == {("fraction", "higher")}


def test_a_resample_draws_prompts_with_all_their_constraints():
    items = [_item("x", *[(COMMA, {})] * 10), _item("y", (COMMA, {}))]
    metric = metrics("f", check_answers(items, _answers(x="No.", y="Well, no.")))[2]
    result = ratio_interval([*metric.sums.values()], [*metric.counts.values()])
    # (10 + 0) / (10 + 1), and a resample of the two prompts is all x, all y or both: 1, 0 or 10/11, never 5/11
    assert (result.value, result.low, result.high) == (10 / 11, 0, 1)


def test_by_type_counts_each_id_where_it_is_asked_and_twice_where_it_is_asked_twice():
    bounds = [(WORDS, {"relation": "at least", "num_words": 2}), (WORDS, {"relation": "less than", "num_words": 4})]
    result = by_type(
        "following", check_answers([*ITEMS, _item("f", *bounds)], {**ANSWERS, **_answers(f="One two three four.")})
    )
    assert [(metric.name, metric.sums, metric.counts) for metric in result] == [
        (f"following {WORDS}", {"e": 0, "f": 1}, {"e": 1, "f": 2}),
        (f"following {BULLETS}", {"c": 1}, {"c": 1}),
        (f"following {JSON}", {"b": 0}, {"b": 1}),
        (f"following {TITLE}", {"c": 1}, {"c": 1}),
        (f"following {END}", {"a": 0}, {"a": 1}),
        (f"following {SMALL}", {"c": 1}, {"c": 1}),
        (f"following {COMMA}", {"a": 1, "d": 0, "e": 0}, {"a": 1, "d": 1, "e": 1}),
    ]
    strict = metrics("following", check_answers(ITEMS, ANSWERS))[2]
    types = by_type("following", check_answers(ITEMS, ANSWERS))
    assert sum(sum(one.sums.values()) for one in types) == sum(strict.sums.values())
    assert sum(sum(one.counts.values()) for one in types) == sum(strict.counts.values())


def test_loosely_each_constraint_takes_the_variant_that_suits_it():
    wanted = (("keywords:existence", {"keywords": ["sure"]}), (COMMA, {}))
    text = "Sure, here:\nIt rains.\nIt pours."
    variants = [text, "It rains.\nIt pours.", "Sure, here:\nIt rains.", "It rains."]
    assert not any(all(check(id, args, variant) for id, args in wanted) for variant in variants)
    _, loose, *_ = metrics("f", check_answers([_item("x", *wanted)], _answers(x=text)))
    assert loose.mean == 1


@pytest.mark.parametrize(
    ("id", "args", "text", "strict", "loose"),
    [
        (COMMA, {}, "今天很好，我们走吧。", False, False),  # U+FF0C
        (COMMA, {}, "今天很好。", True, True),
        (JSON, {}, f'{FENCE}json\n{{"a": "今天，好"}}\n{FENCE}', True, True),
        (JSON, {}, f"{FENCE}python\n[1]\n{FENCE}", False, True),  # without its first and last line
        (JSON, {}, "yes", False, False),
        (SMALL, {}, "今天天气很好", False, False),
        ("language:response_language", {"language": "ru"}, "Сегодня хорошая погода, и мы идём в сад.", True, True),
        ("language:response_language", {"language": "ru"}, "The weather is fine today.", False, False),
        ("startend:quotation", {}, 'Of course:\n"It rains."', False, True),
        (END, {"end_phrase": "Bye."}, "It rains. Bye.\nP.S. Tea.", False, True),
    ],
)  # fmt: skip
def test_scripts_fences_and_frames_are_distinguished(id, args, text, strict, loose):
    assert check_answers([_item("x", (id, args))], _answers(x=text)) == {"x": [(id, strict, loose)]}


def test_nothing_asked_is_no_figure_rather_than_a_zero():
    assert [metric.mean != metric.mean for metric in metrics("f", check_answers([], {}))] == [True] * 4  # nan
    assert by_type("f", check_answers([], {})) == []
