"""Each edit on hand-written answers, with what must stay as it is; and that whatever comes out keeps its constraints."""

import itertools
import json
import random
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kiloset.core.constraints import check, failing
from kiloset.core.errors import DataError
from kiloset.core.table import table_of
from kiloset.core.text import words
from kiloset.filters.rules import RulesConfig, drop_by_rules
from kiloset.generator.constraint_phrases import weights
from kiloset.generator.constraint_sampling import sample_constraints
from kiloset.generator.edits import ADDING, EDITS, MOST_DASHES, edit_to_satisfy, without_commas

LESS, LEAST = "less than", "at least"
BREAD = (
    "Bread goes stale as its starch hardens. The cold of a refrigerator speeds that up, and a counter is kinder. "
    "A freezer stops it altogether. Wrap the loaf well before you put it away."
)
TASK = "Explain why bread goes stale faster in the refrigerator than on the counter."
LONG = (
    "Bread stales because its starch changes. Fresh from the oven, the starch is soft and holds water. As the loaf cools, the "
    "grains line up again. Water leaves them and the crumb turns firm. This is really quick just above freezing. A counter is "
    "warmer than that. However, mould grows there sooner. Freezing is better for a long time, since the water cannot move. "
    "Bread in the freezer keeps for months. Toasting brings some softness back. Slices thaw within minutes on a plate. "
    "People in old times baked twice a week. A clay pot or a cloth bag served them well. Bread was never thrown away. Stale "
    "bread went into soup. Dry crumbs went into the pan. Every crust had a use."
)
CODE = "Use this:\n```python\nprint('Hi, you')\n```\nIt prints a greeting. It needs no library. It is short."
NUMBERS = "1. Wrap the loaf.\n2. Freeze it, very cold.\n3. Thaw it."

# Each entry: constraint, its arguments, the answer, the edit's name, and what comes out.
MENDED: list[tuple[str, dict[str, Any], str, str, str]] = [
    ("change_case:english_lowercase", {}, "The Sky is Blue today.", "lower_case", "the sky is blue today."),
    ("change_case:english_capital", {}, "The sky is blue today.", "upper_case", "THE SKY IS BLUE TODAY."),
    ("startend:quotation", {}, 'She said "no" to it.', "quote_whole", "\"She said 'no' to it.\""),
    ("startend:end_checker", {"end_phrase": "That is all."}, "It rains. ", "append_end_phrase", "It rains.\n\nThat is all."),
    ("detectable_format:json_format", {}, 'Say "hi".\nOr not.', "wrap_in_json", '{"answer": "Say \\"hi\\".\\nOr not."}'),
    ("detectable_format:json_format", {}, "One\nTwo\nThree", "wrap_in_json", '{"answer": "One\\nTwo\\nThree"}'),
    ("detectable_format:json_format", {}, "- Red\n- Green", "wrap_in_json", '{"answer": ["Red", "Green"]}'),
    ("detectable_format:title", {}, "Starch hardens. Cold starch hardens faster in cold air.", "add_title",
     "<<Starch and Hardens>>\n\nStarch hardens. Cold starch hardens faster in cold air."),
    ("combination:repeat_prompt", {"prompt_to_repeat": "Why {is} it?"}, "It rains.", "repeat_prompt_first", "Why {is} it?\n\nIt rains."),
    ("detectable_content:postscript", {"postscript_marker": "P.S."}, "One is here. Two is there. Three is far.", "add_postscript",
     "One is here. Two is there.\n\nP.S. Three is far."),
    ("detectable_content:postscript", {"postscript_marker": "P.P.S"}, "One is here. Two is there. Three is far.", "add_postscript",
     "One is here. Two is there.\n\nP.P.S. Three is far."),
    ("detectable_format:number_bullet_lists", {"num_bullets": 2}, "One is. Two is. Three is.", "to_bullets", "* One is.\n* Two is. Three is."),
    ("detectable_format:number_bullet_lists", {"num_bullets": 2}, "Do:\n1. Mix\n2. Bake", "to_bullets", "Do:\n* Mix\n* Bake"),
    ("length_constraints:number_paragraphs", {"num_paragraphs": 2}, "One is. Two is. Three is.", "split_paragraphs",
     "One is.\n\n***\n\nTwo is. Three is."),
    ("length_constraints:number_paragraphs", {"num_paragraphs": 2}, "A, b.\n\nC:\n- d\n\nE.", "split_paragraphs", "A, b.\n\n***\n\nC:\n- d\n\nE."),
    ("detectable_format:multiple_sections", {"section_spliter": "Part", "num_sections": 2}, "One is. Two is.", "add_section_heads",
     "Part 1\nOne is.\n\nPart 2\nTwo is."),
    ("detectable_format:number_highlighted_sections", {"num_highlights": 2}, "It is one. *Two* is. Three is it.", "highlight_sentences",
     "*It is one.* *Two* is. Three is it."),
    ("detectable_format:number_highlighted_sections", {"num_highlights": 2}, "Paris is the capital of France.", "highlight_words",
     "Paris is the *capital* of *France*."),
    ("length_constraints:number_sentences", {"relation": LESS, "num_sentences": 3}, "One is. Two is. Three.", "keep_first_sentences", "One is. Two is."),
    ("length_constraints:number_words", {"relation": LESS, "num_words": 6}, "One is here. Two is. Three.", "keep_first_words", "One is here. Two is."),
    ("keywords:forbidden_words", {"forbidden_words": ["very"]}, "One is here. Two is very odd.\n\nThree is far away.", "drop_sentences_with_forbidden_words",
     "One is here.\n\nThree is far away."),
    ("keywords:frequency", {"relation": LESS, "keyword": "tea", "frequency": 2}, "Tea is hot. Milk is cold. More tea is hot.", "drop_sentences_with_surplus_keyword",
     "Tea is hot. Milk is cold."),
    ("change_case:capital_word_frequency", {"capital_relation": LEAST, "capital_frequency": 3}, "NASA keeps bread in rockets.", "capitalise_words",
     "NASA KEEPS bread in ROCKETS."),
    ("detectable_format:constrained_response", {}, "Yes, it does so.", "state_option", "My answer is yes. It does so."),
    ("detectable_format:constrained_response", {}, "no", "state_option", "My answer is no."),
    ("punctuation:no_comma", {}, "Well, it costs 1,250 euros, and more.", "remove_commas", "Well it costs 1250 euros and more."),
]  # fmt: skip


@pytest.mark.parametrize(("id", "args", "answer", "name", "mended"), MENDED)
def test_an_edit_mends_what_it_is_for(id: str, args: dict[str, Any], answer: str, name: str, mended: str) -> None:
    assert not check(id, args, answer)
    assert edit_to_satisfy([(id, args)], answer) == (mended, (name,))
    assert check(id, args, mended)


def test_every_edit_is_seen_to_mend() -> None:
    assert {name for _, _, _, name, _ in MENDED} == {name for _, name, _ in EDITS}
    assert {name for _, name, _ in EDITS} >= ADDING
    assert {id for id, _, _ in EDITS} <= set(weights())


@pytest.mark.parametrize(
    ("id", "args", "answer"),
    [
        ("keywords:existence", {"keywords": ["starch"]}, "It rains."),
        ("keywords:frequency", {"relation": LEAST, "keyword": "tea", "frequency": 2}, "Tea is hot."),
        ("length_constraints:number_words", {"relation": LEAST, "num_words": 20}, "It rains."),
        ("length_constraints:number_sentences", {"relation": LEAST, "num_sentences": 3}, "It rains."),
        ("change_case:capital_word_frequency", {"capital_relation": LESS, "capital_frequency": 2}, "NASA and ESA."),
        ("length_constraints:number_sentences", {"relation": LESS, "num_sentences": 2}, "One is. Two is. Three is it."),  # too little is left
        ("length_constraints:number_words", {"relation": LESS, "num_words": 3}, "Yes. It is so."),
        ("length_constraints:number_words", {"relation": LESS, "num_words": 12}, NUMBERS),  # a list would end early
        ("keywords:forbidden_words", {"forbidden_words": ["very"]}, NUMBERS),  # the numbers would jump
        ("keywords:forbidden_words", {"forbidden_words": ["very"]}, "One is here. Two is very odd. It is far away from it."),
        ("keywords:forbidden_words", {"forbidden_words": ["very"]}, "A very short one."),
        ("keywords:forbidden_words", {"forbidden_words": ["very"]}, "It is very odd and very long and so on and on. Yes, it is."),
        ("detectable_format:number_bullet_lists", {"num_bullets": 3}, "- One\n- Two"),
        ("detectable_format:number_bullet_lists", {"num_bullets": 3}, "One is. Two is."),
        ("detectable_format:number_bullet_lists", {"num_bullets": 2}, "Take what is here:\n\nOne. Two."),
        ("length_constraints:number_paragraphs", {"num_paragraphs": 3}, "- One.\n- Two.\n- Three."),
        ("detectable_content:postscript", {"postscript_marker": "P.S."}, "One is here. Two is there."),
        ("detectable_content:postscript", {"postscript_marker": "P.S."}, "One is here:\n- Two is.\n- Three is."),
        ("detectable_format:constrained_response", {}, "It depends on the weather."),
        ("detectable_format:constrained_response", {}, "No one knows it."),
        ("detectable_format:constrained_response", {}, "My answer is yes. My answer is no."),
        ("change_case:english_lowercase", {}, "Das Wetter ist heute sehr gut."),
        ("punctuation:no_comma", {}, "Call f(x,y) now."),
        ("punctuation:no_comma", {}, "今天很好，真的。"),
        *((id, {}, CODE) for id in ("change_case:english_capital", "punctuation:no_comma", "detectable_format:json_format", "startend:quotation")),
        ("combination:two_responses", {}, "It rains."),
        ("startend:end_checker", {"end_phrase": "Bye."}, ""),
        ("startend:end_checker", {"end_phrase": "Bye."}, " \n"),
    ],
)  # fmt: skip
def test_what_no_formal_edit_mends_is_given_up(id: str, args: dict[str, Any], answer: str) -> None:
    assert not check(id, args, answer)
    assert edit_to_satisfy([(id, args)], answer) is None


def test_an_answer_that_keeps_its_constraints_is_returned_as_it_is() -> None:
    for id, args, _, _, mended in MENDED:
        assert edit_to_satisfy([(id, args)], f"{mended}") == (mended, ())
    assert edit_to_satisfy([], " Well, as it is.\n") == (" Well, as it is.\n", ())
    assert edit_to_satisfy([("punctuation:no_comma", {})], " As it is.\n") == (" As it is.\n", ())


def test_text_with_code_is_only_added_to() -> None:
    edited = edit_to_satisfy([("detectable_format:title", {}), ("startend:end_checker", {"end_phrase": "Bye."})], CODE)
    assert edited is not None
    assert CODE in edited[0]
    assert edited[1] == ("append_end_phrase", "add_title")


def test_edits_come_in_the_order_in_which_they_do_not_undo_each_other() -> None:
    wanted: list[tuple[str, dict[str, Any]]] = [
        ("startend:quotation", {}),
        ("change_case:english_lowercase", {}),
        ("detectable_format:title", {}),
        ("punctuation:no_comma", {}),
        ("length_constraints:number_words", {"relation": LESS, "num_words": 32}),
    ]
    assert edit_to_satisfy(wanted, BREAD) == (
        '"<<starch and bread>>\n\nbread goes stale as its starch hardens. the cold of a refrigerator speeds that up and a '
        'counter is kinder. a freezer stops it altogether."'.replace("starch and bread", "bread and goes"),
        ("keep_first_words", "remove_commas", "add_title", "lower_case", "quote_whole"),
    )


def test_one_constraint_that_cannot_be_mended_fails_them_all() -> None:
    assert (
        edit_to_satisfy([("detectable_format:title", {}), ("keywords:existence", {"keywords": ["yeast"]})], BREAD)
        is None
    )
    assert edit_to_satisfy([("change_case:english_capital", {}), ("change_case:english_lowercase", {})], BREAD) is None


def test_what_is_no_constraint_is_refused_even_behind_one_that_fails() -> None:
    with pytest.raises(DataError, match="no such id"):
        edit_to_satisfy([("keywords:existence", {"keywords": ["yeast"]}), ("punctuation:no_commas", {})], "Well, so.")


@pytest.mark.parametrize(
    ("text", "bare"),
    [
        ("Cats, dogs, and birds sing.", "Cats and dogs and birds sing."),
        ("In May, cats and dogs run.", "In May cats and dogs run."),
        ("It is in the house with the garden, far from here.", "It is in the house with the garden – far from here."),
        ("Dear Ann,\nIt rained on May 5, 2020.", "Dear Ann\nIt rained on May 5 2020."),
        ('"Go," he said.', '"Go" he said.'),
        ("It has 12,345,678 parts.", "It has 12345678 parts."),
        ("See (3, 4) and f(x,y) there.", "See (3, 4) and f(x,y) there."),
        (
            "See lines 3, 4 and 5 here. In Rome, Bonn and Oslo it rains.",
            "See lines 3 and 4 and 5 here. In Rome Bonn and Oslo it rains.",
        ),
        ("Take tea, which is hot, but not milk.", "Take tea which is hot but not milk."),
        ("None here.", "None here."),
    ],
)
def test_commas_go_as_an_editor_would_take_them_out(text: str, bare: str) -> None:
    assert without_commas(text) == bare


def test_a_text_that_would_be_all_dashes_keeps_its_commas() -> None:
    begun = "This is what the old man said to us"
    assert without_commas(begun + ", here" * MOST_DASHES + ".") is not None
    assert without_commas(begun + ", here" * (MOST_DASHES + 1) + ".") is None


ANSWERS = [
    BREAD, LONG, CODE, NUMBERS, "Paris", "Yes, but only in spring.", "No.", "Rain falls.", "- One thing\n- Another thing\n- The last, a third thing",
    "First paragraph, with a comma. It has two sentences.\n\nSecond paragraph. It ends here.\n\nThird and last, very short.",
    "# Bread\nIt is *very* good. I really like it! Do you, too? Then bake: flour, water, salt and time.",
    "Dear Ann,\n\nThank you for the letter. We were so happy to read it, and we will write again soon.\n\nYours,\nBob",
    "The answer is 1,250. We add 1,000 and 250. That is all there is to it.",
    "Dr. Lee said: \"Wait... what?\" Then he left, e.g. for the U.S. He came back at 5 p.m. today.",
]  # fmt: skip
CATEGORIES = ["writing", "open_qa", "classification", "code", "maths", "my own"]


def edited_rows() -> list[dict[str, Any]]:
    """Return rows whose answers were edited to keep one to three constraints drawn for their task."""
    rng, rows = random.Random(5), []
    for number, (answer, _) in enumerate(itertools.product(ANSWERS, range(90))):
        task = TASK if number % 3 else "Is it safe to freeze fresh bread at home?"
        drawn = sample_constraints(
            rng, task, has_input=False, category=CATEGORIES[number // 3 % 6], count=rng.randint(1, 3)
        )
        edited = edit_to_satisfy([(one.id, one.args) for one in drawn], answer)
        if edited is not None:
            rows.append({
                "id": f"g{number:05d}", "instruction": task, "response": edited[0], "source": "generated", "original": answer,
                "constraints": [{"id": one.id, "args": json.dumps(one.args)} for one in drawn], "edits": list(edited[1]),
            })  # fmt: skip
    return rows


def test_every_edited_answer_keeps_its_constraints_and_half_its_words_and_no_rule_drops_it() -> None:
    rows = edited_rows()
    assert len(rows) > 400
    assert {name for row in rows for name in row["edits"]} >= {name for _, name, _ in EDITS} - {
        "drop_sentences_with_surplus_keyword"
    }
    for row in rows:
        assert failing(row["constraints"], row["response"]) == []
        before = set(words(row["original"].replace(",", "")))
        after = set(words(row["response"].replace("\\n", " ")))
        assert len(before & after) >= 0.45 * len(before), row["response"]
    table = table_of([{name: row[name] for name in row if name != "original"} for row in rows])
    assert drop_by_rules(table, RulesConfig()).dropped.select("response", "reason").rows() == []


PIECES = [
    "*", "***", "\n", "\n\n", " ", "- ", "1. ", "Section 1", "<<", "[", '"', "“", "```", "{}", ",", ", ", "P.S. ", "e.g. ", "...", "!?",
    "Yes, ", "very ", "İ", "ß", "你好。", "\ud800", "\u2028", "It rains. ", "The bread is on the table, and it is good. ", "1,000 ",
]  # fmt: skip
WANTED = st.lists(st.sampled_from([(id, args) for id, args, *_ in MENDED]), max_size=3)


@settings(deadline=None, derandomize=True, max_examples=200)
@given(WANTED, st.lists(st.sampled_from(PIECES), max_size=20).map("".join))
def test_whatever_is_returned_passes_and_nothing_raises(wanted: list[tuple[str, dict[str, Any]]], answer: str) -> None:
    passes = all(check(id, args, answer) for id, args in wanted)
    edited = edit_to_satisfy(wanted, answer)
    assert (edited == (answer, ())) == passes
    if edited is not None:
        assert all(check(id, args, edited[0]) for id, args in wanted)
        assert edit_to_satisfy(wanted, edited[0]) == (edited[0], ())
