"""Each rule on hand-written rows: what it must drop, and what looks like it and must stay."""

import json
from collections import Counter
from collections.abc import Callable
from typing import Any

import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kiloset.core.config import parse
from kiloset.core.constraints import IDS
from kiloset.core.errors import ConfigError
from kiloset.core.table import Outcome, check_outcome, table_of
from kiloset.core.text import repeat_rate, words
from kiloset.filters import rule_checks, rules
from kiloset.filters.rules import (
    RulesConfig,
    check_rule_names,
    drop_by_rules,
    instruction_rules,
    row_rules,
    rule_nearness,
    screen_instructions,
    with_languages,
)

CONFIG = RulesConfig()
ENGLISH = RulesConfig(languages=("en",))
TASK = "Explain why the sky is blue."
ANSWER = "Air scatters short waves of light more than long ones."
ODE = "Roses are red and violets are blue, sugar is sweet and so are you. "
FENCE = "```"


def say(instruction: str = TASK, context: str = "", response: str = ANSWER) -> dict[str, Any]:
    return {"instruction": instruction, "input": context, "response": response, "source": "generated"}


def bound(response: str, **constraints: dict[str, Any]) -> dict[str, Any]:
    """Return a row whose instruction carries constraints, named by what stands after the colon of their id."""
    ids = {id.partition(":")[2]: id for id in IDS}
    carried = [{"id": ids[name], "args": json.dumps(args)} for name, args in constraints.items()]
    return {**say(response=response), "constraints": carried}


def table(*rows: dict[str, Any]) -> pl.DataFrame:
    return table_of([{"id": f"g{number:05d}", **row} for number, row in enumerate(rows)])


def count(number: int) -> str:
    """Return `number` different words."""
    return " ".join(f"w{i}" for i in range(number))


# Each entry: the rule, its limit, and rows that break it with what is measured in each.
BREAKING: dict[str, tuple[float, list[tuple[dict[str, Any], float]]]] = {
    "instruction_too_short": (3, [(say("Describe euphoria"), 2), (say("Bioinformatics"), 1), (say("写诗"), 2)]),
    "instruction_too_long": (150, [(say(count(151)), 151), (say("Summarise: " + count(400)), 401)]),
    "instruction_needs_media": (0, [
        (say("Describe what happens in this image."), 1),
        (say("Write a caption for the following photo and say where the picture below was taken."), 2),
        (say("Transcribe the attached recording, please."), 1),
        (say("What does this chart tell about sales? https://example.org/chart.png"), 1),
        (say("Describe the following image: [image]"), 1),
        (say("Tell me what the diagram below shows."), 1),
    ]),
    "instruction_repetitive": (0.25, [
        # 12 words, 9 four-grams, of which 3 are new.
        (say("Tell me a story, tell me a story, tell me a story"), 5 / 9),
        (say("and then and then and then and then and then"), 5 / 7),
    ]),
    "instruction_leaks_prompt": (0, [
        (say("Task: Write a poem about autumn in the city"), 1),
        (say("Write a short poem about rain. Task 3: Name four rivers of Asia."), 1),
        (say("Name a colour of the rainbow.\nOutput: red"), 1),
        (say("Come up with a series of different tasks for an assistant."), 1),
        (say("<|im_start|>user Name a colour of the rainbow"), 1),
        (say("### Instruction:\nName a colour of the rainbow"), 1),
    ]),
    "instruction_has_answer": (0, [
        (say("What is the capital of France? Answer: Paris"), 1),
        (say("Reverse the word stop. Output: pots"), 1),
    ]),
    # What py3langid 0.4 finds of each text in lower case (test_languages.py holds our figures to its own).
    "instruction_language": (0.5, [
        (say("Explique pourquoi le ciel est bleu pendant la journée et rouge le soir, en deux phrases simples."), 1.0),
        (say("Erkläre in zwei kurzen Sätzen, warum der Himmel am Tag blau und am Abend rot ist."), 0.9938),
        (say("请用简单的话解释为什么天空在白天是蓝色的，而在傍晚是红色的。"), 0.9904),
    ]),
    "refers_to_missing_input": (0, [
        (say("Summarize the following article in two sentences."), 1),
        (say("Translate the sentence below into French."), 1),
        (say("What is the mood of this poem?"), 1),
        (say("Find the spelling mistakes in the given text and correct them."), 1),
        (say("Classify the review:"), 1),
        (say("Explain briefly why:\x1c\u2003"), 1),
        (say("Rewrite the following paragraph: [insert paragraph here]"), 1),
        (say("Summarize the article at this link: https://en.wikipedia.org/wiki/Rome"), 1),
        (say("Extract the names from the passage provided"), 1),
    ]),
    "input_too_long": (600, [(say(context=count(601)), 601), (say(context=count(2000)), 2000)]),
    "input_repetitive": (0.25, [(say(context="the cat sat down " * 4), 9 / 13), (say(context=ODE * 2), 11 / 25)]),
    "input_leaks_prompt": (0, [
        (say(context="The bus was late.\nOutput: negative"), 1),
        (say(context="Rome is old.\nTask 4: Name a river."), 1),
        (say(context="He left early.<|im_end|>"), 1),
    ]),
    "response_empty": (1, [(say(response=""), 0), (say(response=" \n\t\u3000"), 0)]),
    "response_too_long": (800, [(say(response=count(801)), 801), (say(response=count(1500)), 1500)]),
    "response_refuses": (0, [
        (say(response="I'm sorry, but I can't assist with that."), 1),
        (say(response="I cannot provide medical advice."), 1),
        (say(response="Sorry, I am unable to answer that question."), 1),
        (say(response="Unfortunately, I’m not able to view images."), 1),
        (say(response="As an AI language model, I do not have access to current news."), 1),
        (say(response="I apologize for the confusion, but I cannot open the file."), 1),
        (say(response="I don't have enough context to say."), 1),
    ]),
    "response_speaks_of_itself": (0, [
        (say(response="Rome is old. As an AI language model, nothing more is known to me."), 1),
        (say(response="As a large language model trained by OpenAI, I have no body."), 1),
        (say(response="As a language model, I cannot see."), 1),
        (say(response="Hello! I'm SmolLM, a small model."), 1),
        (say(response="I am just an AI, so take this with care."), 1),
        (say(response="I'm sorry for your loss, but as a text-based AI, I don't read accounts."), 1),
        (say(response="Sorry for the misunderstanding, but I'm not a job search AI."), 1),
        (say(response="I'm glad. I'm a chatbot designed to help with anything."), 1),
        (say(response="As you see, I'm designed to assist with any task about language."), 1),
        (say(response="My name is Ada and I was trained by Hugging Face."), 1),
        (say(response="Hello! I'm a friendly robot named Qwen. Look at my arms."), 1),
        (say(response="I am a helpful assistant, created by Alibaba Cloud."), 1),
    ]),
    "response_labelled": (0, [
        (say(response="A: Air scatters short waves more than long ones."), 1),
        (say(response="Answer: Air scatters it."), 1),
        (say(response="**Answer:** Air scatters it."), 1),
        (say(response="ANSWER : Air scatters it."), 1),
        (say(response="\n- Output 2: Air scatters it."), 1),
        (say(response="**Response**: Air scatters it."), 1),
        (say("Tell me a fact about a vitamin.", response="A：Vitamins are found in fruit."), 1),
        (say("Answer the question, then the next.", "She was kind to all. Was she?", "A: yes"), 1),
    ]),
    "response_apologises": (0, [
        (say(response="I apologize for the confusion. Air scatters short waves."), 1),
        (say(response="Sorry for the misunderstanding! Air scatters short waves."), 1),
        (say(response="I’m sorry for any inconvenience. Air scatters short waves."), 1),
        (say(response="My sincere apologies for the earlier mistake: air scatters it."), 1),
        (say(response="I am truly sorry for my previous error; air scatters it."), 1),
    ]),
    "response_repetitive": (0.25, [
        # 40 words, 37 four-grams, of which 8 are new (a cycle of 8).
        (say(response="The cat sat on the mat at noon. " * 5), 29 / 37),
        (say(response="We need to find the age. " * 8), 39 / 45),
    ]),
    "response_loops": (0.5, [
        (say(response=" ".join(f"very w{i} very v{i} very" for i in range(10))), 30 / 50),
        (say(response=" ".join(f"no {'no ' * (i % 3)}n{i}" for i in range(16))), 31 / 47),
    ]),
    "response_leaks_template": (0, [
        (say(response="Rome.<|im_end|>\n<|im_start|>user"), 2),
        (say(response="Rome is the capital.</s>"), 1),
        (say(response="Rome.\n\n### Instruction:\nName a river."), 1),
        (say(response="[INST] Rome [/INST]"), 2),
    ]),
    "response_unfinished": (0, [
        (say(response="The three largest are Lagos, Cairo,"), 1),
        (say(response="There are two reasons for this:"), 1),
        (say(response="It is still largely experimental and a"), 1),
        (say(response="It pays to be early because"), 1),
        (say(response="def area(r):\n    return 3.14 * ("), 1),
    ]),
    "response_fence_open": (0, [
        (say(response=f"{FENCE}python\nprint(1)"), 1),
        (say(response=f"{FENCE}\na\n{FENCE}\nThen:\n{FENCE}\nb"), 1),
    ]),
    "response_json_broken": (0, [
        (say(response='{"name": "Rome", "rivers": ["Tiber",]}'), 1),
        (say(response='[{"name": "Rome"}, {"name": Paris}]'), 1),
        (say(response='{"name": "Rome", "rivers": {"Tiber": 405}'), 1),
        (say(response='{"a": ' + "[" * 100_000 + "1"), 1),
        (say(response=f'Here it is:\n{FENCE}json\n{{"a": 1\n{FENCE}\nand\n{FENCE}json\n{{"b": 2}}\n{FENCE}'), 1),
    ]),
    "response_language": (0.5, [
        (say(response="El cielo se ve azul porque el aire dispersa más la luz de onda corta que la de onda larga."), 0.7918),
        (say(response="Небо голубое, потому что воздух рассеивает короткие волны света сильнее, чем длинные."), 0.999),
    ]),
    "response_echoes": (0, [
        (say("Explain why the sky is blue.", response="Explain why the sky is blue!"), 1),
        (say("Who is Linkin Park?", "Linkin Park is a band.", "Linkin Park is a band. "), 1),
    ]),
    "control_characters": (0, [
        (say(response="A\x00 zero and a\x1b bell."), 2),
        (say(context="Between 2 and \ufffd the number"), 1),
    ]),
    "constraint_broken": (0, [
        (bound("Air, then light.", no_comma={}), 1),
        (bound("Air, then light.", no_comma={}, title={}, number_words={"relation": "at least", "num_words": 3}), 2),
        (bound("the sky scatters blue light.", english_capital={}), 1),
    ]),
}  # fmt: skip

CASES = [(rule, limit, row, measured) for rule, (limit, rows) in BREAKING.items() for row, measured in rows]

STAYING: dict[str, list[dict[str, Any]]] = {
    "instruction_too_short": [say("Describe euphoria briefly"), say("写一首诗"), say("Напиши короткое стихотворение"),
                              say("俳句を書いて。")],
    "instruction_too_long": [say(count(150)), say("请" + "天地玄黄" * 60)],
    "instruction_needs_media": [
        say("Map each word to the number of its letters: cat, horse."),
        say("How do I file a complaint with my landlord?"),
        say("Write a caption for a photo of a dog that sleeps on a piano."),
        say("Write a Python function that rotates a given image by 90 degrees."),
        say("Write a script that reads the given file and prints its longest line."),
        say("Find the shortest path from A to C in the following graph: A-B 3, B-C 4, A-C 9."),
        say("I keep losing old photos. Where should I store these photos?"),
        say("Draw up a plan to learn how maps are made."),
        say("Which files does git ignore by default?"),
        say("What is the picture of Dorian Gray about?"),
    ],
    "instruction_repetitive": [
        say("Tell me a story about a king and tell me a riddle about a queen."),
        say("Is a tomato a fruit or a vegetable, and is a cucumber a fruit or a berry?"),
        say("Say whether 1, 2, 3, 5, 8 and 13 are Fibonacci numbers."),
    ],
    "instruction_leaks_prompt": [
        say("Answer this question: who was the first person on the moon?"),
        say("Tag the words of a sentence. Here is an example: cat (noun) runs (verb)."),
        say("Come up with a series of blog titles about bread."),
        say("What is the difference between input: and output: in a YAML file?"),
        say("Question: in which year did Yao Ming retire?"),
        say("Write the HTML for a heading that says ### Output"),
    ],
    "instruction_has_answer": [
        say("What is the right answer: tea or coffee?"),
        say("Is it rude to leave a letter unanswered? Answer in one sentence."),
        say("Why do people fear silence?"),
    ],
    "instruction_language": [
        say("Translate into English: Le ciel est bleu pendant la journée et rouge le soir, en été."),
        say("Say déjà vu in plain words, please, without any other word of that kind."),
        say("Bonjour, ça va?"),
        say("Fix: for i in range(10): print(i); if i > 3: break; else: continue"),
    ],
    "refers_to_missing_input": [
        say("Summarize the following article.", context="Rain fell on Rome all night."),
        say('Rewrite the following sentence in terms of horses: "The adjective form of dog is canine."'),
        say("Translate this sentence into Arabic: The beautiful ones are not yet born."),
        say("Select the odd word from this list and explain why:\nChair\nSofa\nDinosaur"),
        say("Which of the following items protect you from injury: helmet, cap, knee pads?"),
        say("Of this list of countries, which share a border? New Zealand, Canada, France, Japan."),
        say("I have a list of herbs and spices. Please divide this list: basil, thyme, nutmeg."),
        say("Sort the following numbers 5, 3, 9 in descending order."),
        say("Write a Python function that returns the largest element of a given list of numbers."),
        say("Write a program that counts how often each letter occurs in the given text."),
        say("Add up all the numbers below 100 that three divides."),
        say("Why is the data provided by weather stations so coarse?"),
        say("Write a poem about autumn and give this poem a title."),
        say("Explain what 'this too shall pass' means."),
        say("Переведи на английский: доброе утро, друзья."),
    ],
    "input_too_long": [say(context=count(600)), say(context="字" * 1200)],
    "input_repetitive": [say(context=ODE), say(context="Ann: yes. Bob: yes. Ann: no. Bob: no. Both: maybe later.")],
    "input_leaks_prompt": [
        say(context="Name: Ann\nTask: water the plants\nDay: Friday"),
        say(context="The output: 240 W. The task was hard."),
    ],
    "response_empty": [say(response="?"), say(response="👍"), say(response="4")],
    "response_too_long": [say(response=count(800)), say(response="春" * 1600)],
    "response_refuses": [
        say(response="Dear Ms Bell, I'm sorry for the delay. Your parcel left today."),
        say(response="I'm sorry for the delay, but I cannot make Friday either."),
        say(response="I'm sorry I could not come to your wedding."),
        say(response="Sorry, I can't make it tonight. Have fun!"),
        say(response="I can't help falling in love with this town."),
        say(response="I am unable to attend the meeting on Monday."),
        say(response="Unfortunately, the ferry no longer runs in winter."),
        say(response="A polite refusal could read: I cannot provide that."),
    ],
    "response_speaks_of_itself": [
        say(response="I am an AI engineer with ten years of practice."),
        say(response="As an AI model improves, its errors change."),
        say(response="A language model predicts the next word."),
        say(response="It can be used as a large language model or as a base for one."),
        say(response="I'm an artist from Lyon."),
        say(response="Qwen is a family of models developed by Alibaba Cloud."),
        say(response="I am sure. It was made by Google."),
        say(response="I am not an AI researcher, but I read their papers."),
        say(response="The chair I am designing is designed to help the back."),
    ],
    "response_labelled": [
        # The task has the label, or others, or asks for it; a dialogue; choices; a form with several.
        say("Q: Why is the sky blue?", response="A: Air scatters short waves."),
        say("Why is the sky blue? End with a line that begins with \"Answer\".", response="Answer: air scatters it."),
        say("Give your reply in the form \"Answer: ...\", please.", response="Answer: air scatters it."),
        say("Which of these is a fish?", "A: a whale\nB: a trout", "A: no, it is a mammal"),
        say("Which of these is a fish? A) a whale, B) a trout", response="A: no, it is a mammal"),
        say("Sort the sessions by what they train.", "90 minutes of cycling, then weights", "A: endurance\nB: strength"),
        say("Write a short talk of two friends.", response="A: Hello there! B: Oh, hello to you."),
        say("Say whether it is true, and why.", "Whales are fish.", "Answer: no\nReason: they breathe air."),
        say(response="A colour is what the eye makes of light."),
        say(response="Answer key and notes: air scatters it."),
        say(response="Outputs of the eye: air scatters it."),
    ],
    "response_apologises": [
        say("Write a note to a guest who waited an hour.", response="I apologize for the inconvenience, and hope to see you again."),
        say("How do I say that I am late?", "Say that you are sorry.", "I'm sorry for the oversight."),
        say("Play the part of a clerk in this scene: I want my coat back.", response="I'm sorry for the mix-up, sir."),
        say("My dog has died.", response="I am so sorry for your loss."),
        say("Tell me why the train was late.", response="The line says sorry for the inconvenience: a tree had fallen."),
        say("What is he sorry for?", "He ate all the cake.", "Sorry for the cake, he goes to buy another."),
    ],
    "response_repetitive": [
        say(response="'water', 'water', 'not water', 'water', 'not water', 'water', 'water', 'not water'"),
        say(response="Row, row, row your boat, gently down the stream."),
        say(response=ODE + "The rest of the song is about how the singer lost her way in the rain and found it again."),
    ],
    "response_loops": [
        say(response="positive, positive, negative, positive, positive, positive, positive, negative, positive, "
            "positive, positive, positive"),
        say(response="the cat, the dog, the hen, the cow and the goat all slept"),
    ],
    "response_leaks_template": [
        say(response="Write <s>old</s> to strike a word out; it is HTML."),
        say(response="## Report\n\n### Input\nThe rows.\n\n### Output\nThe sums."),
        say(response="if a < b and c|d: print(a)"),
    ],
    "response_unfinished": [
        say(response="The answer is A"),
        say(response="Hepatitis A"),
        say(response="to"),
        say(response="That is what friends are for"),
        say(response="console.log(new Date());"),
        say(response="I miss you :("),
        say(response="Dear Ann,\n\nI am awaiting your response.\n\nBest wishes,"),
        say(response="Hi Professor,\n\nPlease keep me in mind.\n\nThank you,"),
        say(response=f"Begin the loop so:\n{FENCE}python\nfor x in xs:\n{FENCE}"),
        say(response="1. Awaiting your response\n2. Looking forward to hearing from you"),
        say(response="好的。"),
        say(response="Готово 🎉"),
    ],
    "response_fence_open": [
        say(response=f"{FENCE}python\nprint(1)\n{FENCE}"),
        say(response="Use `a` or ``b``, never more."),
    ],
    "response_json_broken": [
        say(response='{"name": "Rome", "rivers": ["Tiber"]}'),
        say(response="{'name': 'Rome'}"),
        say(response="[Your name], thank you for the letter"),
        say(response="[1] Rome is old. [2] Paris is younger."),
        say(response=f'{FENCE}json\n[1, 2, {{"a": null}}]\n{FENCE}'),
        say(response="{\n  color: red;\n}"),
        say(response='{"name": None, "rivers": ("Tiber",)}'),
        say(response='{"name": "Rome"}\n\nThis is an object of one pair.'),
        say(response="[[Rome]] is how a wiki links to Rome."),
        say(response=f'{FENCE}json\n{{"a": 1}}\n{{"a": {"9" * 5000}}}\n{FENCE}'),
    ],
    "response_language": [
        say("Say in Spanish why the sky is blue.",
            response="El cielo se ve azul porque el aire dispersa más la luz de onda corta que la de onda larga."),
        say("Make it shorter, please.", "El cielo se ve azul casi siempre, porque el aire dispersa más la luz de onda corta que la larga.",
            "El cielo se ve azul porque el aire dispersa más la luz de onda corta que la de onda larga."),
        say(response="Ja, das stimmt."),
        say("Name six kinds of pasta.", response="Casarecce, gnocchi, tonnarelli, orecchiette, conchiglie, penne"),
    ],
    "response_echoes": [
        say("Add punctuation and capitals.", "hello how are you ann", "Hello, how are you, Ann?"),
        say("Repeat the word yes.", "yes", "yes"),
        say("Correct it if needed.", "He go home every day.", "He goes home every day."),
    ],
    "control_characters": [
        say(response="Line one\r\n\tline two\n"),
        say(response="Émile, Ψ, 漢字, 👩‍👩‍👧 and a zero-width\u200bspace."),
    ],
    "constraint_broken": [
        say(response="Air, then light."),
        bound("Air then light.", no_comma={}),
        bound('{"answer": "air, then light"}', json_format={}),
        bound("the sky scatters blue light more than red light", english_lowercase={}),
        bound('"Air scatters blue light"', quotation={}),
        bound("Air scatters it.\n\nThat is all for now", end_checker={"end_phrase": "That is all for now"}),
        bound("* Air scatters it\n* The sun shines", number_bullet_lists={"num_bullets": 2}),
        bound("My answer is yes.", constrained_response={}),
    ],
}  # fmt: skip


def test_there_are_cases_for_every_rule() -> None:
    rules = [*instruction_rules(CONFIG), *row_rules(CONFIG)]
    assert [list(BREAKING), list(STAYING)] == [rules, rules]
    assert all(len(rows) >= 2 for _, rows in BREAKING.values())
    assert all(len(rows) >= 2 for rows in STAYING.values())


@pytest.mark.parametrize(("rule", "limit", "row", "measured"), CASES)
def test_a_rule_drops_what_breaks_it_and_names_how(
    rule: str, limit: float, row: dict[str, Any], measured: float
) -> None:
    (verdict,) = drop_by_rules(table(row), ENGLISH).dropped.to_dicts()
    assert (verdict["reason"], verdict["limit"], verdict["twin"]) == (rule, limit, None)
    assert verdict["measured"] == pytest.approx(measured, abs=0.0005)
    assert verdict["evidence"].startswith(f"{round(verdict['measured'], 3)} ")
    assert verdict["evidence"].endswith(f"(limit {float(limit)})")


def test_the_rules_leave_alone_what_only_looks_like_a_fault() -> None:
    rows = [row for rows in STAYING.values() for row in rows]
    dropped = drop_by_rules(table(*rows), ENGLISH).dropped
    assert dropped.select("instruction", "response", "reason").rows() == []


@pytest.mark.parametrize(
    ("setting", "limit", "text", "over"),
    [
        ("min_instruction_words", 5, "instruction", -1),
        ("max_instruction_words", 5, "instruction", 1),
        ("max_input_words", 5, "input", 1),
        ("max_response_words", 5, "response", 1),
    ],
)
def test_a_length_at_the_limit_stays_and_one_word_beyond_goes(setting: str, limit: int, text: str, over: int) -> None:
    config = RulesConfig(**{setting: limit})
    at, beyond = ({**say(), text: count(length)} for length in (limit, limit + over))
    outcome = drop_by_rules(table({**at, "id": "at"}, {**beyond, "id": "beyond"}), config)
    assert (outcome.kept["id"].to_list(), outcome.dropped["id"].to_list()) == (["at"], ["beyond"])
    assert outcome.dropped["measured"].to_list() == [limit + over]


def test_a_repeat_rate_at_the_limit_stays_and_one_just_above_goes() -> None:
    row = say("one two three four five one two three four six")  # 7 four-grams, 6 of them new
    assert drop_by_rules(table(row), RulesConfig(max_repeat_rate=1 - 6 / 7)).dropped.is_empty()
    (verdict,) = drop_by_rules(table(row), RulesConfig(max_repeat_rate=0.14)).dropped.to_dicts()
    assert (verdict["reason"], verdict["measured"]) == ("instruction_repetitive", pytest.approx(1 / 7))


def test_a_response_may_repeat_itself_up_to_thirty_words() -> None:
    rows = [say(response=("yes it is " * 10)[:-6].strip()), say(response="yes it is " * 10)]  # 29 and 30 words
    assert drop_by_rules(table(*rows), ENGLISH).dropped.select("id", "reason").rows() == [
        ("g00001", "response_repetitive")
    ]


def test_half_of_the_words_may_be_one_word() -> None:
    half, more = ([f"so w{i}" for i in range(20)], [f"so w{i}" for i in range(20)] + ["so"])
    outcome = drop_by_rules(table(say(response=" ".join(half)), say(response=" ".join(more))), ENGLISH)
    assert outcome.dropped.select("id", "reason", "measured").rows() == [("g00001", "response_loops", 21 / 41)]


def test_the_first_rule_broken_in_the_stated_order_is_the_reason() -> None:
    order = list(BREAKING)
    worst = say("Task: this image", "x\x00", "")
    reasons = []
    for _ in order:
        dropped = drop_by_rules(table(worst), RulesConfig(off=tuple(reasons))).dropped
        if dropped.is_empty():
            break
        reasons += dropped["reason"].to_list()
    broken = ["instruction_needs_media", "instruction_leaks_prompt", "response_empty", "control_characters"]
    assert reasons == broken
    assert reasons == sorted(reasons, key=order.index)


@pytest.mark.parametrize("rule", list(BREAKING))
def test_a_rule_that_is_off_drops_nothing(rule: str) -> None:
    rows = table(*(row for row, _ in BREAKING[rule][1]))
    outcome = drop_by_rules(rows, RulesConfig(off=(rule,), languages=("en",)))
    assert rule not in outcome.dropped["reason"].to_list()


def test_a_name_in_off_that_is_no_rule_is_refused() -> None:
    check_rule_names(RulesConfig(off=tuple(BREAKING)))
    with pytest.raises(ConfigError, match=r"\[rules\] off: no rule 'refusals'; known: instruction_too_short, "):
        check_rule_names(RulesConfig(off=("response_empty", "refusals")))


def test_off_is_read_from_a_toml_list() -> None:
    assert parse(RulesConfig, {"off": ["response_echoes"]}).off == ("response_echoes",)
    with pytest.raises(ConfigError, match=r"max_repeat_rate must be less than or equal to 1, got 1.4"):
        parse(RulesConfig, {"max_repeat_rate": 1.4})


def test_seeds_are_never_dropped_and_pool_rows_are() -> None:
    bad = [row for _, _, row, _ in CASES]
    seeds = drop_by_rules(table(*({**row, "source": "seed"} for row in bad)), ENGLISH)
    pool = drop_by_rules(table(*({**row, "source": "pool"} for row in bad)), ENGLISH)
    assert (seeds.kept.height, seeds.dropped.height) == (len(bad), 0)
    assert (pool.kept.height, pool.dropped.height) == (0, len(bad))


def test_every_row_is_kept_unchanged_or_dropped_in_the_order_it_came() -> None:
    good = [row for rows in STAYING.values() for row in rows]
    bad = [row for _, _, row, _ in CASES]
    mixed = [row for pair in zip(good, bad, strict=False) for row in pair]
    before = table(*mixed)
    outcome: Outcome = drop_by_rules(before, ENGLISH)
    check_outcome("rules", before, outcome, creates=False)
    assert outcome.kept.equals(before[::2])
    assert outcome.dropped.select(before.columns).equals(before[1::2])


def test_screening_looks_at_instructions_only() -> None:
    unanswered = [say(task, response="") for task in ("Describe euphoria", TASK, "Summarize the following article.")]
    outcome = screen_instructions(table(*unanswered), CONFIG)
    assert outcome.dropped.select("id", "reason").rows() == [("g00000", "instruction_too_short")]
    assert outcome.kept["id"].to_list() == ["g00001", "g00002"]


def test_a_table_without_rows_passes() -> None:
    outcome = drop_by_rules(table(), ENGLISH)
    assert (outcome.kept.height, outcome.dropped.height) == (0, 0)
    check_outcome("rules", table(), outcome, creates=False)


def _top_word_share(text: str) -> float:
    result = words(text)
    return max(Counter(result).values()) / len(result)


PER_ROW: dict[str, Callable[[dict[str, Any]], float]] = {
    "instruction_needs_media": rule_checks.missing_media,
    "instruction_repetitive": lambda row: repeat_rate(row["instruction"]),
    "refers_to_missing_input": lambda row: 0.0 if row["input"] else rule_checks.missing_inputs(row),
    "input_repetitive": lambda row: repeat_rate(row["input"]),
    "response_repetitive": lambda row: repeat_rate(row["response"]) if len(words(row["response"])) >= 30 else 0.0,
    "response_loops": lambda row: _top_word_share(row["response"]) if len(words(row["response"])) >= 30 else 0.0,
    "response_echoes": rule_checks.is_echo,
    "constraint_broken": rule_checks.broken_constraints,
}
"""The same measures taken from every row, one at a time, with Python's ideas of words, white space and case."""


def _assert_as_one_by_one(result: pl.DataFrame) -> None:
    known = {**instruction_rules(CONFIG), **row_rules(CONFIG)}
    for name, measure in PER_ROW.items():
        at_once = result.select(known[name].measured).to_series().to_list()
        assert at_once == [measure(row) for row in result.to_dicts()], name


def test_measures_of_a_whole_column_are_those_of_one_row_at_a_time() -> None:
    rows = [row for _, _, row, _ in CASES] + [row for kept in STAYING.values() for row in kept]
    rows += [{**row, "instruction": row["response"], "input": row["instruction"]} for row in rows]
    _assert_as_one_by_one(table(*rows))


PIECES = [
    "this image ", "These ımageſ", "the following İmage", "ATTACHED FİLES", "this photo\u0301", "given lıſt", "the list below",
    ":", "：", "\x1c", "\u2003", " ", "\n", "\0", "- ", "™", "①", "ﬁ", "fi", "é", "e\u0301", "ß", "SS", "ΣΑΣ ", "σας ", "ǰ ",
    "Hello", "hello ", "HELLO, ", "one two three four ", "Yes. ", "हिन्दी ", "漢字", "👍", "\U00010d50", '"', "Who asks? ",
]  # fmt: skip


@settings(max_examples=25, deadline=None)
@given(
    st.lists(
        st.tuples(*[st.lists(st.sampled_from(PIECES), max_size=9).map("".join)] * 2, st.integers(0, 6)), max_size=12
    )
)
def test_hostile_texts_are_measured_as_one_row_at_a_time(result: list[tuple[str, str, int]]) -> None:
    rows = []
    for one, other, kind in result:
        response = (one, one.upper(), one.lower(), other, f" {one}\x1c", one * 8, other * 12)[kind]
        rows.append(say(one, other if kind % 2 else "", response))
    _assert_as_one_by_one(table(*rows))


def test_nearness_is_the_largest_share_of_a_limit() -> None:
    rows = [
        say(),
        say(response=count(400)),
        say(count(120), response=count(200)),
        say("one two three four five one two three four six"),
        say(response=count(5000)),
    ]
    result = table(*rows).select(rule_nearness(CONFIG)).to_series()
    assert result.to_list() == pytest.approx([6 / 150, 0.5, 0.8, (1 / 7) / 0.25, 1.0])
    assert table(rows[1]).select(rule_nearness(RulesConfig(off=("response_too_long",)))).item() == pytest.approx(
        6 / 150
    )


SEEDS = [{**say(f"Explain why the sky over town number {n} is blue at noon."), "source": "seed"} for n in range(40)]
SPANISH = BREAKING["response_language"][1][0][0]


def test_without_a_setting_the_languages_are_those_of_the_seeds() -> None:
    french = {
        **say("Explique pourquoi le ciel est bleu pendant la journée et rouge le soir.", response="Oui"),
        "source": "seed",
    }
    assert with_languages(CONFIG, table(*SEEDS, french)).languages == ("en",)
    assert with_languages(CONFIG, table(*SEEDS[:9], french)).languages == ("en", "fr")
    assert with_languages(CONFIG, table({**say("Hi", response="Yes"), "source": "seed"})).languages == ()
    assert with_languages(RulesConfig(languages=("fr", "de")), table(*SEEDS)).languages == ("fr", "de")
    assert drop_by_rules(table(*SEEDS, SPANISH), CONFIG).dropped["reason"].to_list() == ["response_language"]
    assert drop_by_rules(table(*[{**row, "source": "pool"} for row in SEEDS], SPANISH), CONFIG).dropped.is_empty()


def test_the_evidence_names_the_language_found_and_those_allowed() -> None:
    (verdict,) = drop_by_rules(table(SPANISH), RulesConfig(languages=("de", "en"))).dropped.to_dicts()
    share = round(verdict["measured"], 3)
    assert verdict["evidence"] == f"{share} probability of the language es; allowed: de, en (limit 0.5)"


def test_a_language_that_cannot_be_reported_is_refused() -> None:
    check_rule_names(RulesConfig(languages=("en", "sr", "ms")))
    with pytest.raises(ConfigError, match=r"\[rules\] languages: no language 'english'; known: ace, af, "):
        check_rule_names(RulesConfig(languages=("english",)))


def test_rows_are_judged_alike_however_many_are_judged_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    rows = table(*(row for _, _, row, _ in CASES), *(row for kept in STAYING.values() for row in kept))
    whole = drop_by_rules(rows, ENGLISH)
    monkeypatch.setattr(rules, "PART", 50)
    parts = drop_by_rules(rows, ENGLISH)
    assert parts.kept.equals(whole.kept)
    assert parts.dropped.equals(whole.dropped)


def test_with_every_rule_off_nothing_is_dropped() -> None:
    every = tuple({**instruction_rules(CONFIG), **row_rules(CONFIG)})
    rows = table(*(row for _, _, row, _ in CASES))
    for some in (rows, rows.clear()):
        outcome = drop_by_rules(some, RulesConfig(off=every))
        assert outcome.kept.equals(some)
        assert outcome.dropped.is_empty()
        check_outcome("rules", some, outcome, creates=False)
    assert screen_instructions(rows, RulesConfig(off=tuple(instruction_rules(CONFIG)))).kept.equals(rows)
