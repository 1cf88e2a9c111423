"""Every checker on hand-written responses, at its bounds; what is no constraint; sentences, words and languages."""

import json
import random
import re
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kiloset.core import constraint_text
from kiloset.core.constraint_checks import CHECKS
from kiloset.core.constraint_text import count_words, language_of
from kiloset.core.constraints import ARGS, IDS, LANGUAGES, check, check_loose, failing, validate
from kiloset.core.errors import DataError
from kiloset.core.sentences import sentence_spans, sentences

FENCE = "```"
LESS, LEAST = "less than", "at least"
GERMAN = "Das Wetter ist heute schön und wir gehen in den Garten."
SPANISH = "El gato duerme en la cocina mientras llueve."
ENGLISH = "The cat sleeps in the kitchen while it rains."
TASK = "Say why the sky is blue."

# Each entry: arguments, responses that obey, responses that do not.
CASES: list[tuple[str, dict[str, Any], list[str], list[str]]] = [
    ("keywords:existence", {"keywords": ["rain", "sea salt"]},
     ["Rain carries SEA\nsalt.", "sea salt, then rain!", "**rain** and _sea salt_"],
     ["It trains on sea salt.", "Rain and the sea: salt is all.", "rain", "rainy sea salt"]),
    ("keywords:existence", {"keywords": ["C++", "café"]}, ["In C++, at the cafe\u0301.", "CAFÉ C++"], ["In C, at the café.", "cafe C++"]),
    ("keywords:existence", {"keywords": ["重点"]}, ["这是重点吗"], ["这是点吗"]),
    ("keywords:frequency", {"relation": LEAST, "keyword": "tea", "frequency": 2},
     ["Tea or tea?", "tea, tea and tea", "TEA\ntea"], ["tea", "Tea in a teapot.", "steam and tea", "coffee"]),
    ("keywords:frequency", {"relation": LESS, "keyword": "tea", "frequency": 2},
     ["One tea.", "None here.", "teapot tea team"], ["tea tea", "Tea, TEA and tea."]),
    ("keywords:forbidden_words", {"forbidden_words": ["very", "in fact"]},
     ["Every factory is in use.", "Not so."], ["Very well.", "It is, in\nfact, true.", "VERY"]),
    ("keywords:letter_frequency", {"let_relation": LEAST, "letter": "E", "let_frequency": 3},
     ["eel, Eve", "bEEkeeper"], ["eel", "a b c", "ee"]),
    ("keywords:letter_frequency", {"let_relation": LESS, "letter": "!", "let_frequency": 2},
     ["Go!", "Go."], ["Go!!", "Stop! Go!"]),
    ("language:response_language", {"language": "de"}, [GERMAN, GERMAN.upper(), f"{GERMAN.upper()} Ja."], [SPANISH, ENGLISH, "12 345", "...", "🙂"]),
    ("language:response_language", {"language": "ja"}, ["今日は天気がいいので散歩に行きます。"], [ENGLISH, "今天天气很好，我们去散步。"]),
    ("length_constraints:number_sentences", {"relation": LESS, "num_sentences": 3},
     ["One. Two.", "Dr. Lee paid 3.50 for it, e.g. in May. Fine."], ["One. Two. Three.", "Is it? Yes! Good."]),
    ("length_constraints:number_sentences", {"relation": LEAST, "num_sentences": 2},
     ["one. two.", "One\n\nTwo", "- One\n- Two", "你好。再见。"], ["One.", "Wait... what is it", "***\n\nOne."]),
    ("length_constraints:number_paragraphs", {"num_paragraphs": 2},
     ["One.\n***\nTwo.", "***\nOne.\n\n***\n\nTwo.\n***\n", "a\n  ***  \nb"],
     ["One.", "One.\n\nTwo.", "a\n***\nb\n***\nc", "a\n***\n***\nb", "a *** b", "a\n******\nb", "***\na\n***"]),
    ("length_constraints:number_words", {"relation": LESS, "num_words": 4},
     ["One two three.", "It's so", "हिन्दी भाषा है"], ["One two three four", "It's so it", "a-b-c-d"]),
    ("length_constraints:number_words", {"relation": LEAST, "num_words": 4},
     ["One two three four", "don't won't"], ["One two three", "- * - * -", "हिन्दी भाषा है"]),
    ("length_constraints:nth_paragraph_first_word", {"num_paragraphs": 2, "nth_paragraph": 2, "first_word": "well"},
     ["First.\n\nWell, it is.", "\n\nFirst.\n \n\n  \"WELL\" she said.\n\n", "a\n\n- **Well**: b"],
     ["Well.\n\nFirst.", "Well, it is.", "a\n\nwell\n\nb", "a\nwell", "a\n\nWell-known", "a\n\n...", "a\n\nwellness"]),
    ("detectable_content:number_placeholders", {"num_placeholders": 2},
     ["Dear [name], at [time].", "[a][b]", "[one] [two] [three]"],
     ["Dear [name].", "[] [ ] [-]", "[text](url) [more](url)", "[a\nb] [c]"]),
    ("detectable_content:postscript", {"postscript_marker": "P.S."},
     ["Bye.\nP.S. Bring tea.", "Bye.\n\n**P.S.** Bring tea.", "bye\np. s. tea", "Bye.\nP.S.: tea"],
     ["P.S. Bring tea.", "Bye. P.S. Bring tea.", "Bye.\nP.S.", "Bye.\nP.P.S. tea", "Bye.\nPS tea"]),
    ("detectable_content:postscript", {"postscript_marker": "P.P.S"},
     ["Bye.\nP.P.S. Bring tea.", "Bye.\nP.P.S Bring tea."], ["Bye.\nP.S. Bring tea.", "Bye.\nP.P.S."]),
    ("detectable_format:number_bullet_lists", {"num_bullets": 2},
     ["* One\n* Two", "Here:\n - One\n - Two\nEnd.", "---\n- One\n- **Two**", "* * *\n* a\n* b"],
     ["* One", "* One\n* Two\n* Three", "1. One\n2. Two", "**One**\n**Two**", "-One\n-Two", "- \n- ", "• One\n• Two"]),
    ("detectable_format:constrained_response", {},
     ["My answer is yes.", "Well. My answer is no. It rains.", "**My answer is maybe.**"],
     ["Yes.", "my answer is yes", "My answer is yes. My answer is no.", "My answer is Yes."]),
    ("detectable_format:number_highlighted_sections", {"num_highlights": 2},
     ["*One* and **two**.", "*a*, *b* and ***c***", "* *One* is\n* **two b**", "这*是*重*点*吗"],
     ["*One*.", "2*3*4 and 5*6*7", "* One\n* Two\n* Three", "** ** * *", "*One\ntwo* *three*", "*a **"]),
    ("detectable_format:multiple_sections", {"section_spliter": "Section", "num_sections": 2},
     ["Section 1\nA\nSection 2\nB", "## SECTION 1: A\n\n**Section 2**\nB\n\nsection 3"],
     ["Section 1\nA", "See Section 1 and Section 2.", "Section 1\nA\nSection 1\nB", "Section one\nSection two", "Subsection 1\nSubsection 2"]),
    ("detectable_format:json_format", {},
     ['{"a": 1}', f'{FENCE}json\n[1, "b"]\n{FENCE}', f"{FENCE}\n[]{FENCE}", ' \n[{"a": null}] '],
     ["5", '"five"', "null", '{"a": NaN}', "{'a': 1}", 'Here: {"a": 1}', f'{FENCE}json\n{{"a": 1}}', '{"a": 1} {"b": 2}',
      "[" * 100_000, f"{FENCE}python\n[1]\n{FENCE}", f"{FENCE}{FENCE}"]),
    ("detectable_format:title", {},
     ["<<Rain>>\nIt rains.", "It rains.\n<< On rain >>"], ["<Rain>\nIt rains.", "<<>> a", "<<\nRain>>", "<< - >>", "# Rain", "cout << rain"]),
    ("combination:two_responses", {},
     ["One.\n******\nTwo.", "One.****** Two."],
     ["One.", "One.\n******\n", "******\nOne.", "One.\n******\none!", "a\n******\nb\n******\nc", "a\n*****\nb", "a\n*******\nb"]),
    ("combination:repeat_prompt", {"prompt_to_repeat": TASK},
     [f"{TASK}\n\nAir scatters it.", f"  {TASK.upper()} Air.", "Say why\nthe sky  is blue. Air."],
     [TASK, f"Sure. {TASK} Air.", "Air scatters it.", f"{TASK} ...", "Say why the sky is red. Air."]),
    ("combination:repeat_prompt", {"prompt_to_repeat": "Say {it}"}, ["Say {it}: hi", "say {it} hi"], ["Say hi", "Say {0} hi"]),
    ("combination:repeat_prompt", {"prompt_to_repeat": "Say hi"}, ["Say hi. Hi", "Say hi - hi"], ["Say him hi", "Say hi"]),
    ("startend:end_checker", {"end_phrase": "That is all."},
     ["It rains. That is all.", '"It rains. that is\nall." ', "That is all."],
     ["It rains.", "That is all. It rains.", "That is all", "It rains. That is all.."]),
    ("startend:end_checker", {"end_phrase": "end"}, ["The end", "the end "], ["weekend", "The end."]),
    ("startend:quotation", {},
     ['"It rains."', ' "It rains"\n', "“It rains.”"], ["It rains.", '"It rains.', 'It "rains"', "'It rains.'", '""', '"', '"..."', '“It rains."']),
    ("change_case:capital_word_frequency", {"capital_relation": LEAST, "capital_frequency": 2},
     ["NASA and ESA", "I SAID NO", "SO-SO É ÉTÉ"], ["NASA and I", "I A X", "Nasa Esa", "B2 C3 4"]),
    ("change_case:capital_word_frequency", {"capital_relation": LESS, "capital_frequency": 1},
     ["I say no.", "A B"], ["I say NO.", "NASA"]),
    ("change_case:english_capital", {},
     [ENGLISH.upper(), "MY ANSWER IS: 42 CATS IN THE HOUSE!"], [ENGLISH, GERMAN.upper(), "42", "THE CAT SLEEPS IN THE kitchen", "QXZ VBN"]),
    ("change_case:english_lowercase", {},
     [ENGLISH.lower(), "the answer is 42 because of the rain."], [ENGLISH, GERMAN.lower(), "42", "...", "今天天气很好"]),
    ("punctuation:no_comma", {},
     ["It rains; it pours.", "one two"], ["It rains, it pours.", "一，二", "أ، ب", "1,000"]),
]  # fmt: skip
PASSING = [pytest.param(id, args, text, id=f"{id} {n}") for id, args, good, _ in CASES for n, text in enumerate(good)]
FAILING = [pytest.param(id, args, text, id=f"{id} {n}") for id, args, _, bad in CASES for n, text in enumerate(bad)]


@pytest.mark.parametrize(("id", "args", "response"), PASSING)
def test_a_response_that_obeys_passes(id: str, args: dict[str, Any], response: str) -> None:
    assert check(id, args, response)
    assert check_loose(id, args, response)


@pytest.mark.parametrize(("id", "args", "response"), FAILING)
def test_a_response_that_does_not_fails(id: str, args: dict[str, Any], response: str) -> None:
    assert not check(id, args, response)


@pytest.mark.parametrize("blank", ["", " ", "\n\t\n", "\u200b", "\u00a0\u3000"])
def test_a_blank_response_obeys_nothing(blank: str) -> None:
    assert [id for id, args, *_ in CASES if check(id, args, blank) or check_loose(id, args, blank)] == []


def test_all_25_are_there_and_each_is_seen_to_pass_and_to_fail() -> None:
    assert len(set(IDS)) == len(IDS) == 25
    assert set(IDS) == set(CHECKS) == set(ARGS)
    for id in IDS:
        assert sum(len(good) for name, _, good, _ in CASES if name == id) >= 2, id
        assert sum(len(bad) for name, _, _, bad in CASES if name == id) >= 2, id


@pytest.mark.parametrize(
    ("id", "args", "response"),
    [
        ("punctuation:no_comma", {}, "Sure, here it is:\nIt rains.\nIt pours."),
        ("punctuation:no_comma", {}, "It rains.\nIt pours.\nI hope so, friend."),
        ("punctuation:no_comma", {}, "Sure, so:\nIt rains.\nWell, bye."),
        ("startend:end_checker", {"end_phrase": "That is all."}, "It rains. **That is all.**"),
        ("startend:quotation", {}, '**"It rains."**'),
        ("startend:quotation", {}, 'Here:\n**"It rains."**'),
        ("startend:quotation", {}, '**"It rains."**\nBye.'),
        ("startend:quotation", {}, 'Here:\n**"It rains."**\nBye.'),
    ],
)
def test_loosely_a_response_passes_in_any_of_the_eight_variants(id: str, args: dict[str, Any], response: str) -> None:
    assert not check(id, args, response)
    assert check_loose(id, args, response)


def test_loosely_the_middle_is_not_to_be_removed() -> None:
    assert not check_loose("punctuation:no_comma", {}, "Well.\nSure, here it is.\nWell.")


@pytest.mark.parametrize(
    ("id", "args", "message"),
    [
        ("keywords:existance", {}, r"constraint 'keywords:existance': no such id; did you mean 'keywords:existence'\?"),
        ("", {}, "no such id; did you mean"),
        (7, {}, "constraint 7: no such id; did you mean"),
        ("startend:quotation", [], "arguments must be an object, got \\[\\]"),
        ("startend:end_checker", {}, "constraint startend:end_checker: end_phrase is missing"),
        ("startend:quotation", {"x": 1}, "startend:quotation: no argument 'x'; it takes none"),
        ("startend:end_checker", {"end_phrase": "a", "relation": LESS}, "no argument 'relation'; it takes end_phrase"),
        ("startend:end_checker", {"end_phrase": " .\n"}, r"end_phrase must be text with a letter or digit, got ' \.\\n'"),
        ("keywords:existence", {"keywords": []}, "keywords must be a list, not empty"),
        ("keywords:existence", {"keywords": "rain"}, "keywords must be a list, not empty, .*, got 'rain'"),
        ("keywords:existence", {"keywords": ["rain", ""]}, "keywords must be a list, not empty"),
        ("keywords:frequency", {"relation": "at most", "keyword": "a", "frequency": 1}, "'less than' or 'at least', got 'at most'"),
        ("keywords:frequency", {"relation": LEAST, "keyword": "a", "frequency": 0}, "frequency must be a whole number from 1 to 10000, got 0"),
        ("keywords:letter_frequency", {"let_relation": LEAST, "letter": "ab", "let_frequency": 1}, "letter must be one visible character"),
        ("keywords:letter_frequency", {"let_relation": LEAST, "letter": " ", "let_frequency": 1}, "letter must be one visible character"),
        ("language:response_language", {"language": "xx"}, "language must be one of ar, bg, .*, got 'xx'"),
        ("length_constraints:number_words", {"relation": LEAST, "num_words": True}, "num_words must be a whole number .* got True"),
        ("length_constraints:number_words", {"relation": LEAST, "num_words": 20.0}, "num_words must be a whole number .* got 20.0"),
        ("length_constraints:number_words", {"relation": LEAST, "num_words": 10_001}, "got 10001"),
        ("length_constraints:number_words", {"relation": LESS, "num_words": 1}, "leaves only the blank response"),
        ("length_constraints:number_sentences", {"relation": LESS, "num_sentences": 1}, "leaves only the blank response"),
        ("length_constraints:nth_paragraph_first_word", {"num_paragraphs": 2, "nth_paragraph": 3, "first_word": "a"},
         "nth_paragraph must be at most num_paragraphs = 2, got 3"),
        ("length_constraints:nth_paragraph_first_word", {"num_paragraphs": 2, "nth_paragraph": 2, "first_word": "a b"}, "one word"),
        ("detectable_content:postscript", {"postscript_marker": "NB"}, r"postscript_marker must be 'P\.S\.' or 'P\.P\.S', got 'NB'"),
        ("combination:repeat_prompt", {"prompt_to_repeat": None}, "prompt_to_repeat must be text .* got None"),
    ],
)  # fmt: skip
def test_what_is_no_constraint_is_refused_in_one_line(id: Any, args: Any, message: str) -> None:
    with pytest.raises(DataError, match=message) as raised:
        validate(id, args)
    assert "\n" not in str(raised.value)
    with pytest.raises(DataError, match=message):
        check(id, args, ENGLISH)
    with pytest.raises(DataError, match=message):
        check_loose(id, args, "")


GARBAGE = st.one_of(
    st.none(), st.booleans(), st.floats(), st.integers(max_value=0), st.integers(min_value=10_001), st.just(""),
    st.text(alphabet=" \n.!", max_size=3), st.binary(max_size=2), st.lists(st.none()), st.dictionaries(st.text(max_size=2), st.none()),
)  # fmt: skip


@settings(deadline=None, derandomize=True, max_examples=100)
@given(st.sampled_from(CASES), st.data())
def test_an_argument_replaced_by_garbage_is_refused(case: Any, data: st.DataObject) -> None:
    id, args = case[:2]
    broken = {**args, data.draw(st.sampled_from([*args, "superfluous"])): data.draw(GARBAGE)}
    if broken.get("letter") not in (None, args.get("letter")) and str(broken["letter"]) in ".!":
        return  # a full stop may be counted
    with pytest.raises(DataError, match=re.escape(id)):
        check(id, broken, ENGLISH)


@settings(deadline=None, derandomize=True, max_examples=50)
@given(st.text(max_size=20), st.dictionaries(st.text(max_size=5), GARBAGE, max_size=3))
def test_an_id_that_is_none_is_refused_whatever_comes_with_it(id: str, args: dict[str, Any]) -> None:
    with pytest.raises(DataError, match="no such id"):
        check(id, args, ENGLISH)


PIECES = ["*", "***", "******", "\n", "\n\n", " ", "- ", "1. ", "Section 1", "<<", ">>", "[", "]", '"', "“", "”", "```", "{}", ",",
          "P.S. ", "e.g.", "Dr. ", "...", "…", "!?", "A", "a", "İ", "ß", "你好。", "\x00", "\ud800", "\u2028", TASK, ENGLISH]  # fmt: skip


@settings(deadline=None, derandomize=True, max_examples=50)
@given(st.lists(st.sampled_from(PIECES)).map("".join))
def test_no_response_makes_a_checker_raise(response: str) -> None:
    for id, args, *_ in CASES:
        assert check(id, args, response) <= check_loose(id, args, response)


@pytest.mark.parametrize(
    "piece",
    ["a", ".", "!", "*", "*a", "[", "[a", "<<", "\n", " \n", "\n ", "P.S. ", "- ", "```\n", '"', "#", "Section 1"],
)
@pytest.mark.timeout(20)  # 0.5 s of work; a pattern that tries every start and every end takes 25 s and more
def test_a_long_monotonous_response_takes_no_quadratic_time(piece: str) -> None:
    text = piece * (200_000 // len(piece)) + "x"
    results = [check(id, args, text) for id, args, *_ in CASES]
    assert len(results) == len(CASES)


def test_failing_names_the_broken_constraints_of_a_row_in_order() -> None:
    row = [
        {"id": "punctuation:no_comma", "args": "{}"},
        {"id": "startend:end_checker", "args": json.dumps({"end_phrase": "Bye."})},
        {"id": "detectable_format:title", "args": "{}"},
    ]
    assert failing(row, "<<Rain>> Well, bye.") == ["punctuation:no_comma"]
    assert failing(row, "Well, hello.") == [one["id"] for one in row]
    assert failing([], "Well, hello.") == []


@pytest.mark.parametrize(
    ("args", "message"),
    [("{", "constraint startend:quotation: args is not JSON text: '{'"), (None, "not JSON text: None"),
     ("[]", "arguments must be an object, got \\[\\]"), ('{"a": 1}', "no argument 'a'")],
)  # fmt: skip
def test_arguments_that_are_no_json_object_are_refused(args: Any, message: str) -> None:
    with pytest.raises(DataError, match=message):
        failing([{"id": "startend:quotation", "args": args}], ENGLISH)


@pytest.mark.parametrize(
    ("text", "pieces"),
    [
        ("Dr. Lee met Mr. J. K. Ray. They spoke.", ["Dr. Lee met Mr. J. K. Ray.", "They spoke."]),
        ("It costs 3.50 a kg. See fig. 2, i.e. the last.", ["It costs 3.50 a kg.", "See fig. 2, i.e. the last."]),
        ("The answer is no. It is 5 p.m. today. So did I. Then we left.",
         ["The answer is no.", "It is 5 p.m. today.", "So did I.", "Then we left."]),
        ("We saw cats, dogs, etc. Then we left.", ["We saw cats, dogs, etc.", "Then we left."]),
        ('"Stop!" he said. "Why?" "Because."', ['"Stop!" he said.', '"Why?"', '"Because."']),
        ("Well... maybe. Hm… Yes.", ["Well... maybe.", "Hm…", "Yes."]),
        ("all in small. letters here! really? yes.", ["all in small.", "letters here!", "really?", "yes."]),
        ("Take:\n1. Two eggs\n2. Milk. Stir.\n\nServe", ["Take:", "1. Two eggs", "2. Milk.", "Stir.", "Serve"]),
        ("# Rain\nIt rains.\n***\nIt pours.", ["# Rain", "It rains.", "It pours."]),
        ("<<Rain>>\nIt rains\nand pours.", ["<<Rain>>", "It rains\nand pours."]),
        ("See https://a.org/b.html. Or not?! (Yes.) *No.*", ["See https://a.org/b.html.", "Or not?!", "(Yes.)", "*No.*"]),
        ("今天很好。明天呢？「好。」", ["今天很好。", "明天呢？", "「好。」"]),
        ("यह ठीक है। वह नहीं।", ["यह ठीक है।", "वह नहीं।"]),
        ("... --- ***", []),
    ],
)  # fmt: skip
def test_sentences_are_cut_where_they_end(text: str, pieces: list[str]) -> None:
    assert sentences(text) == pieces


@settings(deadline=None, derandomize=True, max_examples=50)
@given(st.lists(st.sampled_from(PIECES)).map("".join))
def test_sentences_neither_overlap_nor_lose_a_letter(text: str) -> None:
    spans = sentence_spans(text)
    assert all(a < b <= c < d for (a, b), (c, d) in pairwise(spans))
    inside = "".join(text[start:end] for start, end in spans)
    assert sum(map(str.isalnum, inside)) == sum(map(str.isalnum, text))


def test_words_are_counted_as_ifeval_does_with_marks_inside_them() -> None:
    text = "Don't re-do 3.5 things_now, naïve हिन्दी"
    assert count_words(text) == 9  # don t, re do, 3 5, things_now, naïve, हिन्दी
    assert count_words("naïve cafe\u0301") == 2


def test_a_language_is_detected_alike_every_time_and_leaves_the_library_as_it_was() -> None:
    state = random.getstate()
    languages = {text: language_of(text) for text in (ENGLISH, GERMAN, SPANISH, "5", "")}
    assert list(languages.values()) == ["en", "de", "es", None, None]
    constraint_text.language_detector.cache_clear()
    assert {text: language_of(text) for text in languages} == languages
    assert random.getstate() == state

    import py3langid.langid

    assert py3langid.langid.IDENTIFIER is None


def test_every_language_that_a_constraint_may_name_can_be_detected() -> None:
    assert len(LANGUAGES) == 30
    assert set(constraint_text.DETECTED) >= LANGUAGES
    assert set(constraint_text.DETECTED) == set(constraint_text.language_detector(constraint_text.DETECTED).labels)
