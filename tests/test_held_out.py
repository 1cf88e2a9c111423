"""The held-out set: satisfiable, consistent, balanced, reproducible, and different from training."""

import hashlib
import json
import random
import re
import subprocess
import sys
from collections import Counter
from itertools import combinations
from pathlib import Path

import pytest

from kiloset.core.constraint_checks import OPTIONS
from kiloset.core.constraint_text import count_phrase, count_words, language_of
from kiloset.core.constraints import IDS, check
from kiloset.core.text import normal_form, words
from kiloset.evaluation.held_out import LANGUAGES, compatible, held_out, phrase_book, tasks_of
from kiloset.generator import constraint_phrases
from kiloset.generator.constraint_phrases import FILLERS

ROOT = Path(__file__).resolve().parent.parent
LESS, LEAST = "less than", "at least"
OPEN, YES_OR_NO, LETTERS = tasks_of("open"), tasks_of("yes_or_no"), tasks_of("letter")
TASKS = (*OPEN, *YES_OR_NO, *LETTERS)
PHRASES = {" ".join(key).rstrip(): texts for key, texts in phrase_book().phrases.items()}
ARGUMENTS = phrase_book().arguments
CHOICES = constraint_phrases.phrase_book().arguments
MANY = held_out(1000, 3, [])[0]

# By id: arguments that are drawn, an answer that obeys and one that does not.
BY_HAND = {
    "keywords:existence": ({"keywords": ["moon"]}, "The Moon pulls at the sea.", "The sea is pulled."),
    "keywords:frequency": ({"relation": LEAST, "keyword": "rain", "frequency": 3}, "Rain, rain and rain.", "Rain and rain."),
    "keywords:forbidden_words": ({"forbidden_words": ["oven"]}, "Bake it until it is brown.", "Put it into the oven."),
    "keywords:letter_frequency": ({"let_relation": LESS, "letter": "k", "let_frequency": 4}, "Kick it back.", "Kick it back, Jack."),
    "language:response_language": ({"language": "fi"}, "Sää on tänään kaunis ja me menemme puutarhaan.", "The weather is fine today."),
    "length_constraints:number_sentences": ({"relation": LESS, "num_sentences": 4}, "It rains. It pours. We wait.", "No. No. No. No."),
    "length_constraints:number_paragraphs": ({"num_paragraphs": 2}, "It rains.\n***\nIt pours.", "It rains.\n\nIt pours."),
    "length_constraints:number_words": ({"relation": LESS, "num_words": 55}, "word " * 54, "word " * 55),
    "length_constraints:nth_paragraph_first_word": (
        {"num_paragraphs": 2, "nth_paragraph": 2, "first_word": "indeed"}, "It rains.\n\nIndeed it pours.", "Indeed it rains.\n\nIt pours."),
    "detectable_content:number_placeholders": ({"num_placeholders": 2}, "Dear [name], come at [time].", "Dear [name], come at five."),
    "detectable_content:postscript": ({"postscript_marker": "P.P.S"}, "See you.\nP.P.S. Bring tea.", "See you.\nP.S. Bring tea."),
    "detectable_format:number_bullet_lists": ({"num_bullets": 3}, "- One\n- Two\n- Three", "- One\n- Two"),
    "detectable_format:constrained_response": ({}, "My answer is maybe. It depends.", "Maybe. It depends."),
    "detectable_format:number_highlighted_sections": ({"num_highlights": 2}, "*Tea* and *milk* help.", "*Tea* and milk help."),
    "detectable_format:multiple_sections": (
        {"section_spliter": "Step", "num_sections": 2}, "Step 1\nBoil it.\nStep 2\nDrink it.", "Step one\nBoil it.\nStep two\nDrink it."),
    "detectable_format:json_format": ({}, '{"answer": "It rains."}', '"answer": "It rains."'),
    "detectable_format:title": ({}, "<<On Rain>>\nIt rains.", "# On Rain\nIt rains."),
    "combination:two_responses": ({}, "It rains.\n******\nIt pours.", "It rains.\n***\nIt pours."),
    "combination:repeat_prompt": (
        {"prompt_to_repeat": OPEN[0].text}, f"{OPEN[0].text}\nThey give off a gas.", "They give off a gas."),
    "startend:end_checker": ({"end_phrase": "Over and out."}, "It rains. Over and out.", "Over and out. It rains."),
    "startend:quotation": ({}, '"It rains."', '"It" rains.'),
    "change_case:capital_word_frequency": ({"capital_relation": LEAST, "capital_frequency": 4}, "RAIN AND SNOW FELL.", "RAIN AND SNOW fell."),
    "change_case:english_capital": ({}, "IT RAINS ON THE ROOF.", "It rains on the roof."),
    "change_case:english_lowercase": ({}, "it rains on the roof.", "It rains on the roof."),
    "punctuation:no_comma": ({}, "It rains; it pours.", "It rains, it pours."),
}  # fmt: skip

SHORT, LONG = "There is more to it.", "Nor is there an hour or so in it to say more on this."
IN = {
    "de": "Das ist heute sehr gut und schön.", "es": "El gato duerme en la cocina mientras llueve.",
    "fi": "Sää on tänään kaunis ja me menemme puutarhaan.", "fr": "Il fait beau et nous allons dans le jardin.",
    "it": "Oggi il tempo è bello e andiamo in giardino.", "pl": "Dzisiaj jest piękna pogoda i idziemy do ogrodu.",
    "pt": "Hoje o tempo está bom e vamos para o jardim.", "ru": "Сегодня хорошая погода и мы идём в сад.",
    "vi": "Hôm nay thời tiết đẹp và chúng tôi đi ra vườn.",
}  # fmt: skip
"""A sentence in each language that may be asked for, without commas."""


def composed(item):
    """Write an answer to an item by rule: as many plain units as its shape needs, and what else is wanted put into them."""
    args = dict(item.constraints)

    def of(id, name, default=0):
        return args[id][name] if id in args else default

    if "combination:two_responses" in args:
        return f"{SHORT}\n******\n{LONG}"
    language = of("language:response_language", "language", "en")
    short, long = (SHORT, LONG) if language == "en" else (IN[language], IN[language])
    letters = of("keywords:letter_frequency", "let_relation", LESS) == LEAST
    sentences = args.get("length_constraints:number_sentences", {"relation": LESS, "num_sentences": 4})
    number = (
        sentences["num_sentences"]
        if sentences["relation"] == LEAST
        else 3 - ("detectable_format:constrained_response" in args)
    )
    bullets = of("detectable_format:number_bullet_lists", "num_bullets")
    sections = of("detectable_format:multiple_sections", "num_sections")
    parts = of("length_constraints:number_paragraphs", "num_paragraphs")
    blocks = of("length_constraints:nth_paragraph_first_word", "num_paragraphs")
    number = bullets or sections or parts or blocks or number
    units = [long if letters and at < 2 else short for at in range(number)]
    extras = [*of("keywords:existence", "keywords", [])]
    if of("keywords:frequency", "relation") == LEAST:
        extras += [of("keywords:frequency", "keyword")] * of("keywords:frequency", "frequency")
    extras += [f"[a {at}]" for at in range(of("detectable_content:number_placeholders", "num_placeholders"))]
    extras += [f"*{at}*" for at in range(of("detectable_format:number_highlighted_sections", "num_highlights"))]
    if of("change_case:capital_word_frequency", "capital_relation") == LEAST:
        extras += ["SO"] * of("change_case:capital_word_frequency", "capital_frequency")
    units[0] = " ".join([units[0][:-1], *extras]) + "."
    bound = args.get("length_constraints:number_words", {"relation": LESS})
    while bound["relation"] == LEAST and count_words(" ".join(units)) < bound["num_words"]:
        units[-1] += f" {long}"
    if blocks:
        at = of("length_constraints:nth_paragraph_first_word", "nth_paragraph") - 1
        units[at] = f"{of('length_constraints:nth_paragraph_first_word', 'first_word').capitalize()} {units[at]}"
    units = [f"- {unit}" if bullets else unit for unit in units]
    head = of("detectable_format:multiple_sections", "section_spliter")
    units = [f"{head} {at}\n{unit}" if sections else unit for at, unit in enumerate(units, 1)]
    text = ("\n" if bullets or sections else "\n***\n" if parts else "\n\n" if blocks else " ").join(units)
    if "detectable_format:constrained_response" in args:
        text = f"{OPTIONS[0]} {text}"
    if "detectable_format:title" in args:
        text = f"<<{short[:-1]}>>\n{text}"
    if "combination:repeat_prompt" in args:
        text = f"{args['combination:repeat_prompt']['prompt_to_repeat']}\n{text}"
    if "detectable_content:postscript" in args:
        text = f"{text}\n{of('detectable_content:postscript', 'postscript_marker')} {short}"
    if "startend:end_checker" in args:
        text = f"{text}\n{of('startend:end_checker', 'end_phrase')}"
    text = text.upper() if "change_case:english_capital" in args else text
    text = text.lower() if "change_case:english_lowercase" in args else text
    text = f'"{text}"' if "startend:quotation" in args else text
    return json.dumps({"answer": text}) if "detectable_format:json_format" in args else text


def test_an_answer_by_hand_obeys_each_id_and_another_does_not():
    assert set(BY_HAND) == set(IDS)
    for id, (args, good, bad) in BY_HAND.items():
        assert check(id, args, good), id
        assert not check(id, args, bad), id
        without_keyword = {name: value for name, value in args.items() if name != "keyword"}
        assert id not in ARGUMENTS or without_keyword in ARGUMENTS[id], id


@pytest.mark.parametrize("language", LANGUAGES)
def test_every_language_of_the_set_is_distinguished_from_english(language):
    assert language_of(IN[language]) == language


def test_everything_asked_of_a_prompt_can_be_obeyed_at_once():
    assert Counter(len(item.constraints) for item in MANY)[3] > 150
    broken = [
        (item.prompt, id, args, composed(item))
        for item in MANY
        for id, args in item.constraints
        if not check(id, args, composed(item))
    ]
    assert broken[:3] == []


def test_ids_that_contradict_each_other_are_not_asked_for_at_once():
    short = {id.split(":")[1]: id for id in IDS}
    apart = """
        english_capital english_lowercase; english_capital capital_word_frequency; english_lowercase capital_word_frequency;
        quotation end_checker; quotation json_format; no_comma json_format; title json_format; postscript json_format;
        number_bullet_lists json_format; multiple_sections number_bullet_lists; number_paragraphs multiple_sections;
        number_paragraphs nth_paragraph_first_word; number_sentences number_words; number_sentences number_paragraphs;
        repeat_prompt english_capital; repeat_prompt english_lowercase; repeat_prompt quotation; repeat_prompt no_comma;
        response_language keywords:existence; response_language english_capital; response_language end_checker;
        constrained_response english_lowercase; constrained_response number_bullet_lists; end_checker postscript;
        end_checker english_lowercase; postscript english_lowercase; letter_frequency keywords:existence; letter_frequency end_checker
    """
    pairs = [frozenset(short.get(id, id) for id in pair.split()) for pair in apart.split(";")]
    asked = {frozenset(pair) for item in MANY for pair in combinations([id for id, _ in item.constraints], 2)}
    assert all(len(pair) == 2 for pair in asked)  # no id twice
    assert not asked & set(pairs)
    assert {pair for pair in asked if short["two_responses"] in pair} == set()
    allowed = {frozenset(pair) for pair in combinations(IDS, 2) if compatible(*pair)}
    assert asked <= allowed
    assert len(asked) > 0.95 * len(allowed)  # nothing is kept apart by accident


def test_one_to_three_constraints_are_asked_for_as_five_to_three_to_two():
    counts = Counter(len(item.constraints) for item in held_out(3000, 0, [])[0])
    assert set(counts) == {1, 2, 3}
    assert all(abs(counts[number] / 3000 - share) < 0.03 for number, share in ((1, 0.5), (2, 0.3), (3, 0.2)))


@pytest.mark.parametrize("seed", range(5))
def test_each_id_is_asked_for_about_equally_often(seed):
    items, _ = held_out(150, seed, [])
    counts = Counter(id for item in items for id, _ in item.constraints)
    assert set(counts) == set(IDS)
    assert max(counts.values()) - min(counts.values()) <= 3
    assert len({item.prompt for item in items}) == len({item.key for item in items}) == 150


def test_a_task_suits_its_constraints_and_stands_in_the_prompt_once():
    longest_first = sorted(TASKS, key=lambda task: -len(task.text))
    for item in MANY:
        task = next(task for task in longest_first if task.text in item.prompt)
        args = dict(item.constraints)
        assert item.prompt.count(task.text) == 1
        assert (task in YES_OR_NO) == ("detectable_format:constrained_response" in args)
        assert (task in LETTERS) == ("detectable_content:number_placeholders" in args)
        assert args.get("combination:repeat_prompt", {}).get("prompt_to_repeat", task.text) == task.text


def test_the_prompt_states_the_arguments():
    for item in MANY:
        for id, args in item.constraints:
            for name, value in args.items():
                if name == "language":
                    assert LANGUAGES[value] in item.prompt
                elif isinstance(value, str) and not name.endswith("relation"):
                    assert value in item.prompt
                elif isinstance(value, list):
                    assert all(f'"{word}"' in item.prompt for word in value)
                elif isinstance(value, int):
                    less = LESS in args.values()
                    assert {str(value), str(value - 1) if less else ""} & set(re.findall(r"\d+", item.prompt)), (
                        id,
                        item.prompt,
                    )
        assert not re.search(r"\$\w|[{}]", item.prompt)


def test_there_are_120_tasks_and_more_each_with_three_words_of_its_own():
    assert len({normal_form(task.text) for task in TASKS}) == len(TASKS) >= 120
    texts = {str(value) for drawn in ARGUMENTS.values() for args in drawn for value in args.values()}
    asked = " ".join([*texts, *OPTIONS])
    for task in TASKS:
        assert len(set(task.keywords)) == 3
        assert [word for word in task.keywords if count_phrase(task.text, word) or count_phrase(asked, word)] == []
        assert len(words(task.text)) >= 4


def test_three_wordings_and_more_for_each_id_and_relation_none_of_them_one_of_training():
    taught = {
        run for texts in constraint_phrases.phrase_book().phrases.values() for phrase in texts for run in _runs(phrase)
    }
    assert len(taught) > 500
    assert {key.split(" ")[0] for key in PHRASES} == set(IDS)
    assert set(PHRASES) >= {" ".join(key).rstrip() for key in constraint_phrases.phrase_book().phrases}
    for key, texts in PHRASES.items():
        assert len(set(texts)) >= 3, key
        assert [phrase for phrase in texts if _runs(phrase) & taught] == []


def _runs(phrase):
    """Return a phrase's runs of four words, with arguments and the three options blank."""
    for option in OPTIONS:
        phrase = phrase.replace(option, " blank ")
    blanked = words(re.sub(r"\$\w+", " blank ", phrase))
    return {tuple(blanked[at : at + 4]) for at in range(len(blanked) - 3)}


def test_each_id_with_arguments_has_some_that_training_never_draws():
    for id in set(ARGUMENTS) & set(CHOICES):
        if CHOICES[id] != ({},) and id != "detectable_content:postscript":  # which has only two
            assert [args for args in ARGUMENTS[id] if args not in CHOICES[id]], id
    frequencies = {(args["relation"], args["frequency"]) for args in ARGUMENTS["keywords:frequency"]}
    assert frequencies.isdisjoint({(LEAST, 2), (LESS, 3)})
    assert not {word for task in TASKS for word in task.keywords} & set(FILLERS)


def test_no_task_is_or_shares_eight_words_with_a_seed():
    rows = [json.loads(line) for line in (ROOT / "seeds" / "seeds.jsonl").read_text(encoding="utf-8").splitlines()]
    assert len(rows) > 100
    assert held_out(400, 0, [f"{row['instruction']}\n{row['input']}" for row in rows])[1] == 0


def _with_task(text):
    return [item for item in MANY if text in item.prompt]


def test_a_task_that_was_trained_on_is_left_out_and_counted_and_nothing_else_changes():
    task = "How do bees turn nectar into honey?"
    assert task in {one.text for one in OPEN}
    gone = _with_task(task)
    kept, left_out = held_out(1000, 3, ["Say hi.", "HOW do bees\nturn  nectar, into honey"])
    assert left_out == len(gone) > 0
    assert kept == [item for item in MANY if item not in gone]


def test_a_short_task_inside_a_longer_trained_instruction_is_left_out():
    assert held_out(1000, 3, ["Use JSON. How do bees turn nectar into honey? Be brief."])[1] == len(
        _with_task("How do bees turn nectar into honey?")
    )
    assert held_out(1000, 3, ["How do bees turn nectar into wax?"])[1] == 0


def test_eight_words_in_a_row_are_too_many_and_seven_are_not():
    gone = len(_with_task("How do I get a printer to work again when it claims to be offline?"))
    assert gone > 0
    assert held_out(1000, 3, ["Tell me: a Printer to work again, when it claims that."])[1] == gone
    assert held_out(1000, 3, ["Tell me: a printer to work again, when it says that."])[1] == 0


def test_a_set_depends_on_its_seed_alone():
    state = random.getstate()
    random.seed(5)
    assert held_out(1000, 3, [])[0] == MANY
    random.setstate(state)
    assert held_out(150, 4, [])[0] != held_out(150, 3, [])[0]
    code = (
        "from kiloset.evaluation.held_out import held_out; import hashlib;"
        "print(hashlib.sha256(repr(held_out(150, 3, [])).encode()).hexdigest())"
    )
    here = hashlib.sha256(repr(held_out(150, 3, [])).encode()).hexdigest()
    for hashing in ("1", "2"):
        ran = subprocess.run(
            [sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, check=True,
            env={"PYTHONHASHSEED": hashing, "PYTHONIOENCODING": "utf-8"},
        )  # fmt: skip
        assert ran.stdout.strip() == here


def test_no_prompts_are_an_empty_set():
    assert held_out(0, 0, ["Say hi."]) == ([], 0)
