"""Each check of the fidelity gate, on hand-written pairs of reference and rewrite."""

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kiloset.core.config import parse
from kiloset.core.errors import ConfigError, DataError
from kiloset.rewrite.gate import GateConfig, Verdict, first_failure, judge
from kiloset.rewrite.passages import Covered

SLUGS = [
    "finished", "leak", "copy", "length", "short_reference", "personal", "numbers", "new_numbers", "units", "names", "new_names", "quotes",
    "links", "identifiers", "list", "series", "polarity", "clauses", "new_clauses", "maths", "code",
    "json", "constraints", "refusal", "meaning", "repetition", "sentences", "new_sentences",
]  # fmt: skip
PROSE = "Water boils when its vapour reaches the pressure of the air above."
RETOLD = "As soon as its vapour presses as hard as the air above, water boils."
PYTHON = "Use this:\n```python\ndef add(a, b):\n    return a + b\n```"
MESSAGE = "Who wrote it, and what about?\n\nAnn to Ben: the lift is broken and I cannot serve you today."
NO_COMMA = {"id": "punctuation:no_comma", "args": "{}"}
SHORT = {"id": "length_constraints:number_words", "args": '{"relation": "less than", "num_words": 8}'}
OBJECT = '{"name": "Ada", "born": 1815, "tags": ["maths"]}'


def verdicts_of(reference: str, rewrite: str, instruction: str = "Explain it.", **more: Any) -> dict[str, Verdict]:
    config = GateConfig(**more.pop("config", {}))
    options = {"category": "science", "finish_reason": "stop", "meaning": 0.9, **more}
    return {v.check: v for v in judge(instruction, reference, rewrite, **options, config=config)}


def pair(reference: str, rewrite: str, **more: Any) -> tuple[str, str, dict[str, Any]]:
    return reference, rewrite, more


CLAUSE = "which old farmers in northern valleys still plough by hand"
SORT = "Which are pets: cats, sheep, dogs, whales?"
PASS = {
    "personal": [
        pair("Write to [e-mail address] today.", "Today, write to [e-mail address]."),
        pair("Write to Ada@acme.de or [phone number 2].", "To [phone number 2] or ada@acme.de it is."),
        pair("Ask the shop for it.", "Call [phone number].", instruction="Whom do I ask, [phone number]?"),
    ],
    "clauses": [
        pair(f"The fields, {CLAUSE}, lie low.", f"Low lie the fields {CLAUSE}."),
        pair(
            f"The fields, {CLAUSE}, lie low.", "The fields, that aged peasants up north keep tilling manually, lie low."
        ),
        pair("The wet green fields lie very low today.", "Fields lie low."),
        pair(f"The fields, {CLAUSE}, lie low.", "The fields lie low.", config={"max_clause_words": 7}),
    ],
    "new_clauses": [
        pair("The fields lie low.", f"The fields, {CLAUSE}, lie low.", instruction=f"What of fields {CLAUSE}?"),
        pair("The fields lie low.", "The wet green fields lie very low today."),
    ],
    "sentences": [
        pair(PROSE, RETOLD, covered=Covered(0.45, "a", 0.1, "b")),
        pair(PROSE, RETOLD, covered=Covered(0.2, "a", 0.1, "b"), config={"min_sentence_meaning": 0.2}),
    ],
    "new_sentences": [
        pair(PROSE, RETOLD, covered=Covered(0.1, "a", 0.45, "b")),
        pair(PROSE, RETOLD, covered=Covered(0.1, "a", 0.2, "b"), config={"min_sentence_meaning": 0.2}),
    ],
    "series": [
        pair("It has oak, ash, elm, lime and fir trees.", "It has firs, limes, elms, ash trees and oak."),
        pair("Pack a hat, a book, a towel and a coat.", "Pack a hat, a novel, a towel and a coat."),
        pair("It has oak, ash, elm, and lime trees.", "Lime, elm, ash and oak grow there."),
        pair("It has oak, ash, elm, lime, and fir.", "Ash is there. So is elm. So is oak."),
        pair("Besides hedgehogs, bats, mice and frogs sleep.", "Animals that sleep are bats, mice and frogs."),
        pair("It is clear, warm, safe, and wide.", "Clearly it is warm, safely wide."),
    ],
    "units": [
        pair("Take 3 litres, or 2.5 kg.", "You need 3 l or 2.5 kilograms."),
        pair("It costs 8 euros.", "It costs €8."),
        pair("It is 20 °C or 5 square metres.", "It is 20 degrees Celsius and 5 m²."),
        pair("It has 3 million people.", "Its 3m people are many."),
    ],
    "new_names": [
        pair("The moon reflects sunlight.", "The light of the Sun is reflected by it."),
        pair("It was a democracy then.", "It was a Democracy, most Democracy-like."),
        pair("It lies in Ivry-sur-le-Lac now.", "Now it lies in Ivry-sur-le-Lac."),
        pair("They gave the x ray then.", "We saw an X-ray."),
        pair("It lies in Sweden now.", "It is a Swedish town now."),
        pair("He was born there.", "His birthplace was Rome.", instruction="Was he born in Rome?"),
        pair("He was born there.", "His birthplace was Rome.", config={"max_new_names": 1}),
    ],
    "list": [pair("- red\n- blue", "* blue\n* red"), pair("1. red\n2. blue", "- red\n- blue\n- light blue")],
    "finished": [
        pair(PROSE, RETOLD),
        pair("Say <|im_start|> first, then go.", "Go on after <|im_start|> was said."),
        pair("The articles are a, an and the", "English articles: a, an and the"),
        pair("Make this list:", "Write down this list:"),
        pair("Use vitamin A and B.", "Take vitamins B and A"),
    ],
    "copy": [
        pair(
            "Ann wrote to Ben about a broken lift, so she cannot serve him.",
            "Ann told Ben about the lift: it is broken and she cannot serve him.",
            instruction=MESSAGE,
        ),
        pair(
            "The lift is broken and I cannot serve you today.",
            "the lift is broken and I cannot serve you",
            instruction=MESSAGE,
        ),
    ],
    "leak": [
        pair("The answer: water boils.", "The answer is this: water boils."),
        pair(PROSE, f"Short answer: {RETOLD}"),
        pair(PROSE, f"Certainly, at times, {RETOLD}"),
        pair("Thanks for your gift. I put in salt.", "Thank you for what you gave me. I added salt and kept it."),
        pair("Update it so:\n`pip`", "Get the latest version of it so:\n`pip`"),
        pair("Which one is it? It is water.", "Which one is it? Water.", instruction="Which one is it?"),
        pair(PROSE, RETOLD),
        pair("Dear Sir, we wait.", "We are awaiting your responses, dear Sir."),
        pair("It is liked best by most.", "It is the preference answer of most people."),
        pair(PROSE, RETOLD, instruction="Say in your own words why water boils."),
        pair(PROSE, f"In your own words, then: {RETOLD}", instruction="Say in your own words why water boils."),
        pair("The reference point is the origin here.", "Here, the reference point is at the origin."),
        pair(PROSE, "Here is another way to see it.", instruction="Give me another explanation."),
        pair(PROSE, f"{RETOLD} This holds in the open, on hills, in a pot; another case is a kettle."),
        pair("1. Red\n2. Blue is cold", "1. Warm red\n2. Cold blue"),
        pair("11. Red\n12. Blue is cold", "11. Warm red\n12. Cold blue"),
        pair("The answer here is 7 apples.", "7. That is how many apples there are."),
        pair(PROSE, f"Additionally, {RETOLD}"),
        pair(PROSE, "Wait for your turn at the kettle."),
    ],
    "length": [
        pair("word " * 100, "word " * 30),
        pair("word " * 100, "word " * 220),
        pair("word " * 4, "word " * 28),
        pair("word " * 10, "word " * 10, config={"length_slack_words": 0, "shortest_ratio": 1.0, "longest_ratio": 1.0}),
    ],
    "short_reference": [pair("Paris", "Paris"), pair(" Yes, it is\n", "Yes, it  is")],
    "numbers": [
        pair("It takes thirty minutes.", "It takes 30 minutes."),
        pair("It is on the 3rd floor.", "It is on the third floor."),
        pair("It opens at 11:00 today.", "It opens at 11 today."),
        pair("Take 0.5 of it.", "Take half of it."),
        pair("No digit, only seven words.", "7 words"),
        pair("It costs $1,250.50 and 3 coins.", "For 1250.5 dollars and three coins it is yours."),
        pair("It is 1 000 m and 2.5% steep.", "Steep by 2.50%, it runs for 1,000 m."),
        pair("1. Mix 5 eggs\n2. Bake", "Mix 5 eggs, then bake."),
        pair(" ".join(map(str, range(20, 40))), " ".join(map(str, range(20, 39)))),
    ],
    "new_numbers": [
        pair("It takes 30 minutes.", "It takes thirty minutes."),
        pair("- red\n- blue\n- grey", "Here are three ideas:\n- red\n- blue\n- grey"),
        pair("There are 12 eggs in all.", "In all, there are 12 eggs."),
        pair("There are twelve eggs in all.", "In all, there are 12 eggs."),
        pair("They are sold out now.", "All 30 are sold out.", instruction="What of the 30 eggs?"),
        pair("They are sold out now.", "All 30 are gone.", config={"max_new_numbers": 1}),
    ],
    "names": [
        pair("He wore a T-shirt then.", "Then he wore his T-shirt."),
        pair("He wore a T-shirt then.", "Then he wore a t-shirt."),
        pair("It lies in Sweden now.", "It is a Swedish town now."),
        pair("It is a Swedish town now.", "It lies in Sweden now."),
        pair("He was born in Sweden.", "It was a Swedish-born man."),
        pair("- 7:15 Eat with Ada\n- 8:30 Write", "At 7:15 dine with Ada, at 8:30 start work."),
        pair("Albert Einstein moved to Bern.", "To Bern moved ALBERT EINSTEIN."),
        pair("It is Ada's idea, not Bob's.", "Not Bob but Ada had it."),
        pair("We saw Ann, Bea, Cleo, Dora, Ella.", "We saw Ann, Bea, Cleo and Dora."),
        pair("The Alps are high.", "Higher than all: alps."),
    ],
    "quotes": [
        pair('He said "to be or not" twice.', 'Twice he said "to be or not."'),
        pair("It is called “open sea” here.", 'Here its name is "open sea".'),
        pair('It ends with "so be it."', 'Then "so be it" ends the whole.'),
    ],
    "links": [
        pair("See https://example.org/a.", "It is at https://example.org/a"),
        pair("Write to ada@example.org today.", "Today, write to Ada@example.org!"),
        pair("See the page for it.", "See www.example.org for it.", instruction="What is www.example.org?"),
    ],
    "identifiers": [
        pair("Call `open` and then my_close here.", "First `open`, then `my_close`."),
        pair("Use getName() or a_b, c_d, e_f, g_h.", "Take getName, a_b, c_d and e_f."),
    ],
    "polarity": [
        pair("Yes, it is warm there.", "Yes. Warm it is."),
        pair("False: it rains today.", "No, it rains today."),
    ],
    "maths": [
        pair("3 + 4 = 7, so x = 7.", "As 4 and 3 give 7.0, x is 7", category="maths"),
        pair("So the sum is 1,200 euros.", "The sum is 1200 euros.", category="maths"),
    ],
    "code": [
        pair(PYTHON, PYTHON.replace("a + b", "b - a").replace("Use", "So")),
        pair(PYTHON, PYTHON.replace("add(a, b)", "add(a, b, c=1)")),
        pair("```python\nprint('a', 1)\n```", "```python\nprint('b', 1)\n```"),
        pair(PYTHON, "Write:\n```py\ndef add(x, y):\n    return y + x\n```\nDone."),
        pair("Run this:\n```bash\nls -l\n```", "List them:\n~~~\nls -l -a\n~~~"),
        pair(PYTHON, "```python\ndef add(a, b):\n    '''\n~~~\n    '''\n    return b + a\n```"),
        pair("Broken:\n```python\ndef (\n```", "It is broken:\n```python\ndef (\n```"),
        pair("def f():\n    return 1", "```python\ndef f():\n    return 2 - 1\n```", category="code"),
        pair("As a list:\n```python\nx = '\\d'\n```", "In a list:\n  ```python\n  y = '\\d'\n  ```"),
    ],
    "json": [
        pair(OBJECT, '{"born": 1815, "tags": ["maths"], "name": "Ada"}'),
        pair(f"Here you are:\n```json\n{OBJECT}\n```", f"As asked:\n```json\n{OBJECT}\n```"),
    ],
    "constraints": [
        pair(PROSE, "Water boils under the pressure of air.", constraints=[NO_COMMA, SHORT]),
        pair("Air, fire.", "Air; fire.", constraints=[NO_COMMA]),
    ],
    "refusal": [
        pair(PROSE, RETOLD),
        pair("I waited long for this.", "I can't wait to tell you of it."),
        pair("Tell him you are sorry.", "I am sorry, but I was late; tell him that."),
        pair("Love came over me.", "I cannot help falling in love."),
        pair("Write a polite mail.", 'Write: "I cannot provide the goods."'),
    ],
    "meaning": [pair(PROSE, RETOLD, meaning=0.8), pair(PROSE, RETOLD, meaning=1.0)],
    "repetition": [
        pair(PROSE, RETOLD),
        pair(PROSE, "Sing it well, my dear\nand yes\nOh\nOh\nOh\nmy dear sing on"),
        pair(PROSE, "a b a b a b c", config={"max_repeat_rate": 0.25}),
        pair(
            PROSE, "So:\n```\nreturn it now\nx\nreturn it now\ny\nreturn it now\n```", config={"max_repeat_rate": 1.0}
        ),
    ],
}
FAIL = {
    "personal": [
        pair("Write to [e-mail address] today.", "Write to them today."),
        pair("Write to [e-mail address 1], not to [e-mail address 2].", "Write to [e-mail address 1]."),
        pair("Write to [e-mail address] today.", "Write today to [e-mail address], or call [phone number]."),
        pair("Write to them today.", "Write to ada@acme.de today."),
        pair("Write to them today.", "Call +49 30 227-32152 today.", config={"max_new_numbers": 9}),
        pair("Pay it today.", "Pay it to DE89370400440532013000.", config={"max_new_numbers": 9}),
        pair("Pay it today.", "With 4111 1111 1111 1111 pay it.", instruction="Say 4111 and 1111."),
    ],
    "clauses": [
        pair(f"The fields, {CLAUSE}, lie low.", "The fields lie low."),
        pair(f"The fields lie low. {CLAUSE.capitalize()}?", "The fields lie low."),
        pair("水在一百度沸腾，因为蒸汽压力等于大气压力。", "水在一百度沸腾。"),
    ],
    "new_clauses": [
        pair("The fields lie low.", f"The fields, {CLAUSE}, lie low."),
        pair("The fields lie low.", f"{CLAUSE.capitalize()}: the fields, which lie low."),
    ],
    "sentences": [
        pair(PROSE, RETOLD, covered=Covered(0.4499, "a", 1.0, "b")),
        pair(PROSE, RETOLD, covered=Covered(float("nan"), "a", 1.0, "b")),
    ],
    "new_sentences": [
        pair(PROSE, RETOLD, covered=Covered(1.0, "a", 0.4499, "b")),
        pair(PROSE, RETOLD, covered=Covered(1.0, "a", -1.0, "b")),
    ],
    "series": [
        pair("Pack a towel, a hat, a book and a bottle of water.", "Pack a hat, a towel and a book."),
        pair("It has oak, ash, elm, lime, and fir.", "It has oak, ash, fir, and lime."),
        pair("It has oak, ash, elm, lime, and fir.", "It has oak and ash."),
        pair("It has oak, ash, elm, lime, and fir.", "Its trees are oak, ash and elm."),
        pair("Get the flat heel, kitten heel, block heel, or wedge heel.", "Get the flat heel."),
    ],
    "units": [
        pair("Take 3 litres of it.", "Take 3 gallons of it."),
        pair("It has 3 million people.", "It has 3 billion people."),
        pair("It takes five minutes.", "It takes five hours."),
        pair("It costs $8.", "It costs 8 euros."),
        pair("It costs 8 kilowatt-hours.", "It costs 8 kilowatts."),
    ],
    "new_names": [
        pair("It was cold then.", "It was cold in May."),
        pair("The play was written long ago.", "The play was written by Oscar Wilde."),
        pair("It is made by cells.", "It is made by cells as ATP."),
    ],
    "list": [pair("- red\n- blue\n- grey", "- red\n- blue"), pair("1. red\n2. blue\n3. grey", "* red\n* grey")],
    "finished": [
        pair(PROSE, "It boils if someone goes to"),
        pair(PROSE, "It boils at the top of your"),
        pair(PROSE, RETOLD, finish_reason="length"),
        pair(PROSE, " \n"),
        pair(PROSE, f"{RETOLD}<|im_end|>"),
        pair(PROSE, f"[/INST] {RETOLD}"),
        pair(PROSE, f"{RETOLD}<|eot_id|>"),
        pair(PROSE, f"{RETOLD}\n### Response: it"),
        pair(PROSE, "It boils when vapour, air, and"),
        pair(PROSE, "It boils in these cases:"),
        pair(PROSE, "It boils, as we know,"),
        pair(PROSE, "It boils by evapor-"),
        pair(PROSE, "It boils:\n- hot\n-"),
        pair(PROSE, "It boils \ufffd here."),
        pair(PROSE, "It boils \ud800 here."),
    ],
    "copy": [
        pair(
            "It is about a lift that is broken.",
            "Who wrote it, and what about? Ann to Ben: the lift.",
            instruction=MESSAGE,
        ),
        pair(
            "Ann wrote to Ben about a broken lift, so she cannot serve him.",
            "Ann to Ben: the lift is broken and I cannot serve you today.",
            instruction=MESSAGE,
        ),
    ],
    "leak": [
        *[
            pair(PROSE, f"{phrase}{RETOLD}")
            for phrase in (
                "The answer is:\n",
                "Here's a rewritten version:\n",
                "Here’s an alternative version of it: ",
                "The answer to your question is this. ",
                "As in the text you provided, ",
                "From the answer you gave me: ",
                "Sure! ",
                "Certainly, here it is. ",
                "Of course, here it is. ",
                "I'd be happy to help. ",
            )
        ],
        pair(PROSE, f"{RETOLD} This answer keeps all facts."),
        pair(PROSE, f"{RETOLD} I have added nothing."),
        pair(PROSE, "Explain why water boils in a pot.", instruction="Explain why water boils in a pot."),
        pair(PROSE, f"{RETOLD} I am ready to help."),
        pair(PROSE, f"Let us write a more accurate answer. {RETOLD}"),
        pair(PROSE, f"Here is a rewritten version: {RETOLD}"),
        pair(PROSE, f'This answer is: "{RETOLD}"'),
        pair(PROSE, f"{RETOLD}\n\nI’ve added nothing."),
        pair(PROSE, f"The original answer holds that {RETOLD}"),
        pair(PROSE, f"As the Reference  Answer says, {RETOLD}"),
        pair(PROSE, f"{RETOLD} This is my own response."),
        pair(PROSE, f"{RETOLD} I hope your response is good."),
        pair(PROSE, f"{RETOLD} Now it’s your turn!"),
        pair(PROSE, f"{RETOLD}\n\nWrite that answer again in your own words. Keep every fact."),
        pair(PROSE, f"This answer was given: {RETOLD}"),
        pair(PROSE, "Your turn: why does it boil?"),
        pair(PROSE, f"As mentioned above, {RETOLD}"),
        pair(PROSE, f"Another example: {RETOLD}"),
        pair(PROSE, f"In addition to that, {RETOLD}"),
        pair("1. Red\n2. Blue is cold", "11. Green\n12. Grey"),
        pair("Red and blue and cold.", "Some more:\n4. Green\n5. Grey"),
        pair("3. Red\n4. Blue is cold", "1. Warm red\n2. Cold blue"),
    ],
    "length": [
        pair("word " * 100, "word " * 29),
        pair("word " * 100, "word " * 221),
        pair("word " * 4, "word " * 29),
    ],
    "short_reference": [pair("Paris", "It is Paris."), pair("Yes, it is", "Yes, it was")],
    "numbers": [
        pair("It takes thirty minutes.", "It takes forty minutes."),
        pair("It opens at 11:30 today.", "It opens at 11 today."),
        pair("Take 42, 7 and 9 of them.", "Take 9 of them."),
        pair("It was -5 degrees outside.", "It was 5 degrees outside."),
        pair(" ".join(map(str, range(20, 40))), " ".join(map(str, range(20, 38)))),
        pair("It has 1,000 rooms.", "It has 1 rooms and 000 doors."),
    ],
    "new_numbers": [
        pair("It takes some minutes.", "It takes thirty-five minutes."),
        pair("There are many eggs in all.", "In all, there are 12 eggs."),
        pair("There are 6 and 6 eggs.", "There are 6 and 6, that is 12 eggs."),
        pair("It was 5 degrees outside.", "It was -5 degrees outside."),
    ],
    "names": [
        pair("He wore a T-shirt then.", "Then he wore a shirt."),
        pair("It lies in Austria now.", "It is an Australian town now."),
        pair("Albert Einstein moved to Bern.", "Alfred Einstein moved to Bern."),
        pair("It was founded by NASA then.", "It was founded by ESA then."),
        pair("NASA built it then.", "ESA built it then."),
        pair("We saw Ann, Bea, Cleo and Dora.", "We saw Ann, Bea and Cleo."),
    ],
    "quotes": [
        pair('He said "to be or not" twice.', 'Twice he said "not to be".'),
        pair("It is called “open sea” here.", 'Here its name is "Open Sea".'),
    ],
    "links": [
        pair("See https://example.org/a.", "See https://example.org/b."),
        pair("Write to ada@example.org today.", "Write to her today."),
        pair("See the page for it.", "See www.example.org for it."),
    ],
    "identifiers": [
        pair("Call `open` and then my_close here.", "First opened, then my_close."),
        pair("Use getName() or a_b, c_d, e_f, g_h.", "Take getName, a_b and c_d."),
        pair("Then run main() at once.", "Then run remain at once."),
        pair("Use a_b, c_d, e_f or g_h.", "Take a_b, c_d or e_f."),
    ],
    "polarity": [
        pair("Yes, it is warm there.", "No, it is not warm there."),
        pair("Yes, it is warm there.", "It is warm there."),
        pair("False: it rains today.", "Yes, it rains today."),
    ],
    "maths": [
        pair("3 + 4 = 7, so x = 7.", "3 + 4 = 7, so x = 8.", category="maths"),
        pair("So the sum is 7 euros.", "It is what you said.", category="maths"),
        pair("Then x = -7 holds.", "Then x = 7 holds.", category="maths"),
    ],
    "code": [
        pair(PYTHON, PYTHON.replace("a + b", "a - b")),
        pair("```\ndef f(a):\n    return a > 0\n```", "```\ndef f(a):\n    return a >= 0\n```"),
        pair("```python\nx = 1\nprint('a')\n```", "```python\nx = 2\nprint('b')\n```"),
        pair(PYTHON, "Write a function that adds them."),
        pair(PYTHON, "```python\ndef add(x, y):\n    return y + x\n"),
        pair(PYTHON, "```python\ndef add(x, y)\n    return y + x\n```"),
        pair(PYTHON, "```python\ndef plus(x, y):\n    return y + x\n```"),
        pair(PYTHON, f"```\ndef add(x, y):\n    return {'(' * 300}\n```"),
        pair(PYTHON, f"```python\n{'-' * 100_000}1\n```"),
        pair(PYTHON, "```python\ndef add(x, y):\n    return '\x00'\n```"),
        pair("Run this:\n```bash\nls -l\n```", "Run ls -l at once."),
        pair(PYTHON, f"{PYTHON.replace('a + b', 'b + a')}\n```\nand on"),
        pair(PYTHON, f"{PYTHON.replace('a + b', 'b + a')}\n```python\nadd(\n```"),
        pair(PYTHON, f"{PYTHON}\n```python\ndef more(): pass\n```"),
        pair(f"{PYTHON}\n```python\nclass More: pass\n```", PYTHON),
        pair("```\ndef add(a):\n    return a\n```", "```\ndef sub(a):\n    return a\n```"),
        pair(PYTHON, "```python\ndef add(x, y):\n    return '\ud800'\n```"),
        pair("def f():\n    return 1", "```python\ndef g():\n    return 1\n```", category="code"),
    ],
    "json": [
        pair(OBJECT, OBJECT.replace("1815", "1816")),
        pair(OBJECT, OBJECT.replace("1815", "true")),
        pair('{"a": 1, "b": [true]}', '{"a": 1, "b": [1]}'),
        pair(OBJECT, f"```json\n{OBJECT}\n```"),
        pair(OBJECT, f"Here you are:\n```json\n{OBJECT}\n```"),
        pair(OBJECT, "Ada, who loved maths, was born in 1815."),
        pair(OBJECT, "[" * 100_000),
        pair(f"Here you are:\n```json\n{OBJECT}\n```", "As asked:\n```json\n{}\n```"),
    ],
    "constraints": [
        pair(PROSE, RETOLD, constraints=[NO_COMMA]),
        pair(PROSE, PROSE, constraints=[NO_COMMA, SHORT]),
        pair("Air, fire.", "Air, fire.", constraints=[NO_COMMA]),
        pair(PROSE, "", constraints=[NO_COMMA]),
    ],
    "refusal": [
        pair(PROSE, "I'm sorry, but I can't assist with that."),
        pair(PROSE, "I’m sorry, but I cannot provide an explanation."),
        pair(PROSE, "Unfortunately, I am not able to help you."),
        pair(PROSE, "As an AI language model, I don't have a view on water."),
        pair(PROSE, "I must respectfully decline."),
        pair(PROSE, "I am so sorry, but I won't discuss water."),
    ],
    "meaning": [
        pair(PROSE, RETOLD, meaning=0.7999),
        pair(PROSE, RETOLD, meaning=-1.0),
        pair(PROSE, RETOLD, meaning=float("nan")),
    ],
    "repetition": [
        pair(PROSE, "so it goes on " * 8),
        pair(PROSE, "It goes on\na\nIt  goes on\nb\nIt goes on", config={"max_repeat_rate": 1.0}),
        pair(PROSE, "a b a b a b c", config={"max_repeat_rate": 0.249}),
    ],
}
NOT_APPLICABLE = {
    "personal": [
        pair(PROSE, RETOLD),
        pair("Write to ada@acme.de today.", "Write to ada@acme.de."),
        pair("[Your name]", "[Name]"),
    ],
    "clauses": [pair("...", PROSE), pair("water " * 6_000, PROSE)],
    "new_clauses": [pair(PROSE, "..."), pair(PROSE, "water " * 6_000)],
    "sentences": [pair(PROSE, RETOLD)],
    "new_sentences": [pair(PROSE, RETOLD)],
    "series": [pair("It is cheap, fast, and safe.", "It is cheap."), pair("So, then, but, or, he.", "No.")],
    "units": [pair("Take 3 of the 7 m.", "Take 3 m."), pair("Take 3 litres.", "Take 4 gallons.")],
    "new_names": [pair("We saw Ann.", "We saw her.")],
    "list": [pair("- red\n- blue", "Red and blue."), pair("Red and blue.", "- red\n- blue")],
    "leak": [pair(PROSE, "...")],
    "copy": [pair("Ann wrote to Ben.", "the lift is broken", instruction=MESSAGE)],
    "length": [pair("!?", PROSE)],
    "short_reference": [pair("It is Paris, France.", "Paris")],
    "numbers": [
        pair("No digit, only two words.", "2 words"),
        pair("1. Red\n2. Blue", "Red, blue"),
        pair("Three hues:\n- red\n- blue\n- grey", "- red\n- blue\n- grey"),
    ],
    "new_numbers": [pair("There are 2.", "There are two."), pair("Red, blue.", "1. Red\n2. Blue")],
    "names": [pair("The sea is wide. Sadly I love it.", "Wide is the sea.")],
    "quotes": [pair('The "sea" is wide.', "The sea is wide.")],
    "links": [pair(PROSE, RETOLD)],
    "identifiers": [pair("Take the book(s) with you.", "Take them."), pair(PYTHON, PYTHON)],
    "polarity": [
        pair(PROSE, RETOLD),
        pair("No one came to the party.", "The party was empty."),
        pair("No. 5 is alive and well.", "Alive and well is number 5."),
        pair("The capital is Paris.", "It is Paris, yes."),
        pair("True love waits for nobody.", "Nobody is awaited by true love."),
    ],
    "maths": [pair("It is a prime.", "A prime it is.", category="maths"), pair("It is 7.", "It is 8.")],
    "code": [pair(PROSE, PYTHON), pair(PROSE, RETOLD, category="code")],
    "json": [pair(PROSE, OBJECT), pair("[see below]", "{}"), pair("[NaN]", "[NaN]"), pair("42", "43")],
    "constraints": [pair(PROSE, RETOLD), pair(PROSE, "")],
    "refusal": [pair("I'm sorry, I can't help with that.", "I cannot assist you.")],
    "meaning": [pair(PROSE, RETOLD, meaning=None)],
    "repetition": [pair(PROSE, "so so so")],
}


def cases(table: dict[str, list[tuple[str, str, dict[str, Any]]]]) -> list[Any]:
    return [
        pytest.param(slug, *case, id=f"{slug}-{number}")
        for slug, result in table.items()
        for number, case in enumerate(result)
    ]


def test_the_checks_come_in_a_fixed_order() -> None:
    assert list(verdicts_of("", "")) == list(verdicts_of(PYTHON, RETOLD, meaning=None)) == SLUGS


@pytest.mark.parametrize("slug", SLUGS)
def test_every_check_is_seen_to_pass_and_to_fail(slug: str) -> None:
    assert len(PASS[slug]) >= 2
    assert len(FAIL[slug]) >= 2
    assert slug == "finished" or NOT_APPLICABLE[slug]  # an empty answer is not finished, so that this always applies


@pytest.mark.parametrize(("slug", "reference", "rewrite", "more"), cases(PASS))
def test_a_faithful_rewrite_passes(slug: str, reference: str, rewrite: str, more: dict[str, Any]) -> None:
    assert (result := verdicts_of(reference, rewrite, **more)[slug]).status == "passed", result


@pytest.mark.parametrize(("slug", "reference", "rewrite", "more"), cases(FAIL))
def test_an_unfaithful_rewrite_fails(slug: str, reference: str, rewrite: str, more: dict[str, Any]) -> None:
    assert (result := verdicts_of(reference, rewrite, **more)[slug]).status == "failed", result


@pytest.mark.parametrize(("slug", "reference", "rewrite", "more"), cases(NOT_APPLICABLE))
def test_a_check_without_ground_names_so(slug: str, reference: str, rewrite: str, more: dict[str, Any]) -> None:
    result = verdicts_of(reference, rewrite, **more)[slug]
    assert (result.status, result.measured, result.limit) == ("not_applicable", None, None), result


@pytest.mark.parametrize(
    ("slug", "reference", "rewrite", "measured", "limit", "evidence"),
    [
        ("numbers", "Take 42, 7 and 9.", "Take 9.", 1 / 3, 1.0, "the rewrite lacks 42, 7 of the reference's 3 numbers"),
        ("new_numbers", "Take some of it.", "Take 8, 9.", 2.0, 0.0, "the rewrite adds 8, 9"),
        ("length", "word " * 100, "word " * 20, 20.0, 30.0, "the rewrite has 20 words, the reference 100"),
        ("length", "word " * 100, "word " * 221, 221.0, 220.0, "the rewrite has 221 words, the reference 100"),
        ("leak", PROSE, "The reference says so.", None, None,
         'the rewrite contains "The reference", which neither instruction nor reference does'),
        ("leak", "1. Red\n2. Blue", "3. Green", None, None, "the rewrite's list starts at 3, the reference's at 1"),
        ("personal", "Ask [IBAN] or [e-mail address] first.", "Ask ada@acme.de first.", 3.0, 0.0,
         "the rewrite lacks [IBAN], [e-mail address] and adds e-mail a… (11 characters)"),
        ("links", "See www.a.org now.", "See www.b.org now.", 2.0, 0.0,
         "the rewrite lacks www.a.org and adds www.b.org"),
        ("polarity", "Yes, it is so.", "No, never.", None, None, "the rewrite begins with no, the reference with yes"),
        ("code", PYTHON, PYTHON.replace("add", "sum"), None, None,
         "of top-level definitions the rewrite lacks add and adds sum"),
        ("units", "Take 3 litres.", "Take 3 gallons.", 1.0, 0.0, "3 is gallon in the rewrite and liter in the reference"),
        ("new_names", "We saw Ann.", "We saw Ann, Bea.", 1.0, 0.0, "the rewrite adds bea"),
        ("list", "- a\n- b\n- c", "- a\n- b", 2.0, 3.0, "the rewrite lists 2 items, the reference 3"),
        ("clauses", f"The fields, {CLAUSE}, lie low.", "The fields lie low.", 7.0, 4.0,
         "the rewrite has nothing for 'old farmers northern valleys still plough hand'"),
        ("code", PYTHON, PYTHON.replace("a + b", "a - b"), None, None, "Add becomes Sub in otherwise equal code"),
        ("series", "Oak, ash, elm, and lime.", "Oak, ash, and elm.", 0.75, 1.0,
         "the rewrite lacks lime of 4 things in a row"),
        ("repetition", PROSE, "so it is\n" * 3, 3.0, 2.0, "the line 'so it is' occurs 3 times"),
    ],
)  # fmt: skip
def test_a_failure_names_what_was_found_and_what_was_allowed(
    slug: str, reference: str, rewrite: str, measured: float | None, limit: float | None, evidence: str
) -> None:
    result = verdicts_of(reference, rewrite)[slug]
    assert result == Verdict(slug, "failed", measured, limit, evidence)


def test_a_lost_sentence_and_a_new_one_are_quoted() -> None:
    result = verdicts_of(PROSE, RETOLD, covered=Covered(0.25, "It smells.", 0.125, "Ask a grocer."))
    assert result["sentences"] == Verdict("sentences", "failed", 0.25, 0.45, "the rewrite has least of 'It smells.'")
    assert result["new_sentences"] == Verdict(
        "new_sentences", "failed", 0.125, 0.45, "the reference has least of 'Ask a grocer.'"
    )


def test_a_broken_constraint_is_named_and_counted() -> None:
    result = verdicts_of(PROSE, RETOLD, constraints=[NO_COMMA, SHORT])["constraints"]
    messages = "the rewrite breaks punctuation:no_comma, length_constraints:number_words"
    assert result == Verdict("constraints", "failed", 2.0, 0.0, messages)
    with pytest.raises(DataError, match="did you mean 'punctuation:no_comma'"):
        verdicts_of(PROSE, RETOLD, constraints=[{"id": "punctuation:no_coma", "args": "{}"}])


def test_the_first_failure_is_the_reason() -> None:
    result = judge("Why?", "Take 42.0 of the eggs.", "As an AI model, I cannot count",
                  category="maths", finish_reason="stop", meaning=0.1, config=GateConfig())  # fmt: skip
    assert (reason := first_failure(result)) is not None
    assert reason.check == "numbers"
    assert first_failure([v for v in result if v.status != "failed"]) is None


@pytest.mark.parametrize(
    ("table", "message"),
    [
        ({"longest_ratio": 0.9}, "longest_ratio must be greater than or equal to 1, got 0.9"),
        ({"min_meaning": 1.4}, "min_meaning must be less than or equal to 1, got 1.4"),
        ({"max_new_number": 1}, "did you mean 'max_new_numbers'"),
    ],
)
def test_an_impossible_limit_is_refused(table: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        parse(GateConfig, table)


PIECES = [
    "```", "```python\n", "```json\n", "~~~", "\n", "\n1. ", "\n11. ", "- ", '"', "“", "”", "`", "{", "[", "}", "]", "(",
    "f(", "a_b", "getName()", "https://a.b/c", "x@y.zz", "www.", "Ada", "Ada Lovelace", "I'm sorry, I can't assist",
    "yes,", "No", "not", "the reference", "your turn", "another", "<|im_end|>", "1,000", "-5", "[IBAN]", "[phone number 2]", "+49 30 227-32152", "½", "٣", "你好", "\x00",
    "\u2028", "İ", "ß", "'", "’", ".", ":", " ", "unsafe", "safe", "warm", "cold", "3 km", "half", "into", "from 1 to", "than", "on.", "a or b", "seven", "- a\n",
]  # fmt: skip
TEXTS = st.one_of(
    st.text(alphabet=st.characters(exclude_categories=())),  # lone surrogates as well
    st.lists(st.sampled_from(PIECES)).map("".join),
    st.lists(st.sampled_from(PIECES)).map(" ".join),
)


@settings(deadline=None, derandomize=True)
@given(TEXTS, TEXTS, TEXTS, st.sampled_from(["maths", "code", "chat"]))
def test_no_text_makes_the_gate_raise(instruction: str, reference: str, rewrite: str, category: str) -> None:
    result = verdicts_of(reference, rewrite, instruction=instruction, category=category)
    assert list(result) == SLUGS
    assert all(verdict.evidence for verdict in result.values())


@settings(deadline=None, derandomize=True)
@given(TEXTS, st.sampled_from(["maths", "code", "chat"]))
def test_a_text_is_faithful_to_itself(text: str, category: str) -> None:
    result = verdicts_of(text, text, category=category, meaning=1.0)
    own_faults = {"finished", "repetition"} | ({"code"} if text.count("```") + text.count("~~~") else set())
    assert [v for v in result.values() if v.status == "failed" and v.check not in own_faults] == []


@pytest.mark.parametrize(
    "piece",
    ["a", "a.", "a_", "A ", "1", "1,111", " ", "\n", "\n ", '"', "“", "`", "f(", "(", "a@", "a-", "!", "?!", "```\n",
     "```python\n", "def a", ":", "{", '{"a":', "I am sorry ", "as an ai ", "yes ", "not ", "<|", "www.", "*", "- ",
     "rub it. ", "not rub it. ", "warm ", "cold air. ", "Ann ", "Ann saw Bea. ", "3 ", "3 km ", "six ", "-",
     "a, ", "a or ", "a: ", "a:\n", "a into b ", "1764 ", "on. ", "a and ", "the answer ", "a, and "],
)  # fmt: skip
@pytest.mark.timeout(20)  # 0.5 s of work; a pattern with nested repetition takes hours
def test_a_long_monotonous_text_is_compared_with_itself_within_seconds(piece: str) -> None:
    text = piece * (20_000 // len(piece)) + "x"
    assert list(verdicts_of(text, text, category="code")) == SLUGS
