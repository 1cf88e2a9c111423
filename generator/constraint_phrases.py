"""The wording of constraints: the arguments to choose from and several phrases for each constraint. All of it is data of ours.

A phrase is a whole sentence. `$name` is an argument; `$most` is one less than the bound of "less than". `string.Template`
inserts the values and never parses them, so braces and dollar signs in a user's text stay as they are.
"""

import random
from collections.abc import Mapping
from string import Template
from typing import Any

from kiloset.core.text import words

LESS, LEAST = "less than", "at least"

ENDINGS = (
    "Let me know if you need more.",
    "I hope this helps.",
    "That is all for now.",
    "Is there anything else?",
    "Thank you for asking.",
    "Feel free to ask again.",
    "And that is the whole story.",
    "Good luck with it.",
    "What do you think?",
    "Take care until next time.",
)
FILLERS = (
    "very", "really", "however", "important", "additionally", "simply", "essential", "ensure", "various", "overall",
    "basically", "great", "crucial", "furthermore", "actually", "certainly", "amazing", "literally",
)  # fmt: skip
"""Words that a constraint may forbid."""
TASK_WORDS = frozenset(
    words("""
    write explain describe list give tell make create suggest compose name find help show provide discuss define compare
    identify generate summarize summarise rewrite rephrase convert draft imagine pretend answer answers question questions
    sentence sentences word words paragraph paragraphs line lines example examples ways tips ideas steps reason reasons brief
    short long simple please using used uses want need needs know think like good best better much many well also difference
    differences between following given text passage article story essay email letter topic point points thing things
    response reply task detail details include including without something someone anyone your mine yourself let's keep
    sure take come goes going gets does doing made makes called means mean happens happen work works really very first
    fewer bring talk speak word wrote written second third last next some different main major people person would could should
    """)
)
"""Words about the task rather than about its subject."""

LETTERS = (("e", 10), ("t", 8), ("a", 8), ("s", 6))
RARE_LETTERS = (("z", 2), ("q", 2), ("x", 3), ("j", 3))

CHOICES: dict[str, tuple[dict[str, Any], ...]] = {
    "keywords:letter_frequency": (
        *({"let_relation": LEAST, "letter": letter, "let_frequency": bound} for letter, bound in LETTERS),
        *({"let_relation": LESS, "letter": letter, "let_frequency": bound} for letter, bound in RARE_LETTERS),
    ),
    "length_constraints:number_sentences": (
        *({"relation": LESS, "num_sentences": bound} for bound in (3, 4, 5, 6)),
        *({"relation": LEAST, "num_sentences": bound} for bound in (2, 3)),
    ),
    "length_constraints:number_words": (
        *({"relation": LESS, "num_words": bound} for bound in (60, 80, 100, 120, 150)),
        *({"relation": LEAST, "num_words": bound} for bound in (20, 30, 40, 50)),
    ),
    "length_constraints:number_paragraphs": ({"num_paragraphs": 2}, {"num_paragraphs": 3}),
    "detectable_content:number_placeholders": ({"num_placeholders": 2}, {"num_placeholders": 3}),
    "detectable_content:postscript": ({"postscript_marker": "P.S."}, {"postscript_marker": "P.P.S"}),
    "detectable_format:number_bullet_lists": tuple({"num_bullets": count} for count in (2, 3, 3, 4, 5)),
    "detectable_format:constrained_response": ({},),
    "detectable_format:number_highlighted_sections": ({"num_highlights": 2}, {"num_highlights": 3}),
    "detectable_format:multiple_sections": tuple(
        {"section_spliter": head, "num_sections": count} for head in ("Section", "Part", "SECTION") for count in (2, 3)
    ),
    "detectable_format:json_format": ({},),
    "detectable_format:title": ({},),
    "startend:end_checker": tuple({"end_phrase": phrase} for phrase in ENDINGS),
    "startend:quotation": ({},),
    "change_case:capital_word_frequency": (
        *({"capital_relation": LEAST, "capital_frequency": bound} for bound in (2, 3, 4)),
        *({"capital_relation": LESS, "capital_frequency": bound} for bound in (3, 4)),
    ),
    "change_case:english_capital": ({},),
    "change_case:english_lowercase": ({},),
    "punctuation:no_comma": ({},),
}
"""The argument sets to choose from, for each id whose arguments do not depend on the instruction."""

PHRASES: dict[str, tuple[str, ...]] = {
    "keywords:existence": (
        "Make sure to mention $keywords.",
        "Use $keywords somewhere in your answer.",
        "Your answer should contain $keywords.",
        "Work $keywords into what you write.",
    ),
    "keywords:frequency at least": (
        'Use the word "$keyword" at least $frequency times.',
        'Mention "$keyword" $frequency times or more.',
        'Your answer should say "$keyword" no fewer than $frequency times.',
        'Have "$keyword" come up at least $frequency times.',
    ),
    "keywords:frequency less than": (
        'Use the word "$keyword" fewer than $frequency times.',
        'Do not write "$keyword" more than $most times.',
        'Say "$keyword" less than $frequency times.',
        'Let "$keyword" appear at most $most times.',
    ),
    "keywords:forbidden_words": (
        "Do without $forbidden_words.",
        "Leave out $forbidden_words.",
        "Do not use $forbidden_words.",
        "Avoid $forbidden_words altogether.",
    ),
    "keywords:letter_frequency at least": (
        'Use the letter "$letter" at least $let_frequency times.',
        'The letter "$letter" should occur $let_frequency times or more.',
        'Have at least $let_frequency times the letter "$letter" in what you write.',
        'See to it that "$letter" is written at least $let_frequency times.',
    ),
    "keywords:letter_frequency less than": (
        'Use the letter "$letter" fewer than $let_frequency times.',
        'The letter "$letter" should occur less than $let_frequency times.',
        'Write "$letter" as a letter fewer than $let_frequency times in all.',
        'Keep the number of times you use the letter "$letter" below $let_frequency.',
    ),
    "length_constraints:number_sentences at least": (
        "Write at least $num_sentences sentences.",
        "Answer in $num_sentences sentences or more.",
        "Your answer should have no fewer than $num_sentences sentences.",
        "Give me at least $num_sentences full sentences.",
    ),
    "length_constraints:number_sentences less than": (
        "Use fewer than $num_sentences sentences.",
        "Answer in at most $most sentences.",
        "Keep it to $most sentences or fewer.",
        "Do not go beyond $most sentences.",
        "Your answer should have less than $num_sentences sentences.",
    ),
    "length_constraints:number_words at least": (
        "Write at least $num_words words.",
        "Use $num_words words or more.",
        "Your answer should be no shorter than $num_words words.",
        "Give me at least $num_words words on it.",
    ),
    "length_constraints:number_words less than": (
        "Use fewer than $num_words words.",
        "Stay under $num_words words.",
        "Keep your answer below $num_words words.",
        "Answer in less than $num_words words.",
    ),
    "length_constraints:number_paragraphs": (
        "Write $num_paragraphs paragraphs with a line of three asterisks (***) between one and the next.",
        "Divide the answer into $num_paragraphs paragraphs and put *** on its own line between them.",
        "Your answer should consist of $num_paragraphs paragraphs, separated by lines that hold only ***.",
        "Use exactly $num_paragraphs paragraphs; part them by a line with nothing but ***.",
    ),
    "detectable_content:number_placeholders": (
        "Leave at least $num_placeholders blanks in square brackets, such as [name].",
        "Put $num_placeholders or more placeholders like [date] where something must be filled in.",
        "Mark at least $num_placeholders places to fill in by square brackets, for example [address].",
        "Use no fewer than $num_placeholders placeholders in square brackets, as in [place].",
    ),
    "detectable_content:postscript": (
        "Add a postscript, set off by $postscript_marker, on a new line at the end.",
        'Put "$postscript_marker" and a last remark below the answer.',
        "After the answer, begin a new line with $postscript_marker and add an afterthought.",
        'Let a line that starts with "$postscript_marker" close the answer.',
    ),
    "detectable_format:number_bullet_lists": (
        'Give exactly $num_bullets bullet points, each on a line that starts with "* ".',
        "Answer with $num_bullets Markdown bullets, no more and no fewer.",
        'Put what you say into $num_bullets bullet points that begin with "- ".',
        "Your answer should hold exactly $num_bullets bullet points in Markdown.",
    ),
    "detectable_format:constrained_response": (
        'Begin with exactly one of "My answer is yes.", "My answer is no." and "My answer is maybe."',
        'Say clearly one of three things: "My answer is yes.", "My answer is no." or "My answer is maybe."',
        'Your answer must contain one of "My answer is yes.", "My answer is no." or "My answer is maybe."',
        'Settle it in so many words, with "My answer is yes.", "My answer is no." or "My answer is maybe."',
    ),
    "detectable_format:number_highlighted_sections": (
        "Highlight at least $num_highlights parts of your answer with asterisks, *like so*.",
        "Put at least $num_highlights passages between asterisks, *as here*, to make them stand out.",
        "Mark $num_highlights or more key parts with Markdown emphasis, for example *key part*.",
        "Set no fewer than $num_highlights pieces of the answer in *italics* as Markdown does.",
    ),
    "detectable_format:multiple_sections": (
        "Divide your answer into at least $num_sections sections headed $section_spliter 1, $section_spliter 2 and so on.",
        'Use $num_sections or more sections, the first under the heading "$section_spliter 1".',
        "Write at least $num_sections sections, each below a line such as $section_spliter 1.",
        "Structure it in no fewer than $num_sections sections and number them $section_spliter 1, $section_spliter 2 and on.",
    ),
    "detectable_format:json_format": (
        "Give the whole answer as one JSON object.",
        "Reply with valid JSON and nothing else.",
        "Wrap everything you say in JSON.",
        "Your whole answer should be a JSON object that a program can parse.",
    ),
    "detectable_format:title": (
        "Give your answer a title in double angle brackets, like <<My Title>>.",
        "Put a title on top, written as <<Title>>.",
        "Head it with a title between << and >>.",
        "Add a title wrapped in double angle brackets, such as <<A Title>>.",
    ),
    "combination:repeat_prompt": (
        "First repeat my request word for word (not its conditions), then answer it.",
        "Begin by copying my request exactly, though not how it is to be answered, and only then answer.",
        "Before you answer, say my request again without any change; leave out what I ask of the answer.",
        "Start with my own request, repeated to the letter but without conditions, and go on with your answer.",
    ),
    "startend:end_checker": (
        'End with exactly this: "$end_phrase"',
        'The last words of your answer should be "$end_phrase"',
        'Finish by saying "$end_phrase" and add nothing after it.',
        'Close with the phrase "$end_phrase"',
    ),
    "startend:quotation": (
        "Put your whole answer in double quotation marks.",
        "Wrap everything you write in double quotes.",
        "Begin and end your answer with a double quotation mark.",
        "Your entire answer should stand between double quotation marks.",
    ),
    "change_case:capital_word_frequency at least": (
        "Write at least $capital_frequency words in full capitals.",
        "Put $capital_frequency words or more in ALL CAPITALS.",
        "Stress no fewer than $capital_frequency words by capital letters throughout.",
        "At least $capital_frequency words should be all in capital letters.",
    ),
    "change_case:capital_word_frequency less than": (
        "Write fewer than $capital_frequency words in full capitals.",
        "Have at most $most words in ALL CAPITALS.",
        "No more than $most words may be in capital letters throughout.",
        "Keep words all in capital letters to less than $capital_frequency.",
    ),
    "change_case:english_capital": (
        "Write in English and in capital letters only.",
        "Your whole English answer should be in capital letters.",
        "Use nothing but capital letters, in English.",
        "Answer in English, ALL IN CAPITALS.",
    ),
    "change_case:english_lowercase": (
        "Write in English and in small letters only.",
        "Use no capital letters at all in your English answer.",
        "Keep everything in lower case, in English.",
        "Answer in English without a single capital letter.",
    ),
    "punctuation:no_comma": (
        "Do not use any commas.",
        "Write without commas.",
        "Your answer must not have a single comma.",
        "Get by without a comma.",
    ),
}
"""The phrases of each constraint, by its id and, where it has one, its relation."""


def phrase_constraint(rng: random.Random, id: str, args: Mapping[str, Any]) -> str:
    """Return a sentence that states the constraint."""
    relation = next((value for name, value in args.items() if name.endswith("relation")), "")
    values = {name: _argument_text(value) for name, value in args.items()}
    bounds = [value for value in args.values() if isinstance(value, int)]
    values["most"] = str(bounds[0] - 1) if bounds else ""
    return Template(rng.choice(PHRASES[f"{id} {relation}".rstrip()])).substitute(values)


def _argument_text(value: Any) -> str:
    """Return an argument as text; a list becomes quoted words joined by "and"."""
    if not isinstance(value, list):
        return str(value)
    quoted = [f'"{word}"' for word in value]
    joined = ", ".join(quoted[:-1]) + f" and {quoted[-1]}" if len(quoted) > 1 else quoted[0]
    return f"the word{'s' if len(quoted) > 1 else ''} {joined}"
