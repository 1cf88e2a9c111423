"""What the held-out set asks of an answer, and in what words; data, all of it our own.

The words are not those of the training set: no sentence here shares a run of five words with one of `generator/phrases.py`,
values left blank, and a test holds that. Many values are not drawn there either. `$name` is an argument, `$most` one less than
the bound of "less than".
"""

from collections.abc import Mapping
from random import Random
from string import Template
from typing import Any

LESS, LEAST = "less than", "at least"

LANGUAGES = {
    "de": "German", "es": "Spanish", "fi": "Finnish", "fr": "French", "it": "Italian", "pl": "Polish",
    "pt": "Portuguese", "ru": "Russian", "vi": "Vietnamese",
}  # fmt: skip
"""By code; languages that part words by spaces, so that a word count means the same."""
ENDINGS = (
    "Now have a go yourself.",
    "More on this another day.",
    "And so it ends.",
    "That covers the essentials.",
    "Over and out.",
    "Write back soon.",
    "Have a pleasant week.",
    "Is that clear to you?",
)
FIRST_WORDS = ("meanwhile", "today", "perhaps", "finally", "indeed", "still", "certainly", "generally")

CHOICES: dict[str, tuple[dict[str, Any], ...]] = {
    "keywords:letter_frequency": (
        *({"let_relation": LEAST, "letter": letter, "let_frequency": n} for letter, n in zip("onir", (9, 7, 7, 5), strict=True)),
        *({"let_relation": LESS, "letter": letter, "let_frequency": n} for letter, n in zip("kvbw", (4, 4, 6, 6), strict=True)),
    ),
    "language:response_language": tuple({"language": code} for code in LANGUAGES),
    "length_constraints:number_sentences": (
        *({"relation": LESS, "num_sentences": bound} for bound in (4, 7, 8)),
        *({"relation": LEAST, "num_sentences": bound} for bound in (4, 5, 6)),
    ),
    "length_constraints:number_paragraphs": ({"num_paragraphs": 2}, {"num_paragraphs": 4}, {"num_paragraphs": 5}),
    "length_constraints:number_words": (
        *({"relation": LESS, "num_words": bound} for bound in (55, 70, 90, 130)),
        *({"relation": LEAST, "num_words": bound} for bound in (25, 45, 60, 75)),
    ),
    "length_constraints:nth_paragraph_first_word": tuple(
        {"num_paragraphs": count, "nth_paragraph": nth, "first_word": word}
        for count, nth in ((2, 1), (2, 2), (3, 2), (3, 3))
        for word in FIRST_WORDS
    ),
    "detectable_content:number_placeholders": tuple({"num_placeholders": count} for count in (2, 4, 5)),
    "detectable_content:postscript": ({"postscript_marker": "P.S."}, {"postscript_marker": "P.P.S"}),
    "detectable_format:number_bullet_lists": tuple({"num_bullets": count} for count in (3, 4, 6, 7)),
    "detectable_format:constrained_response": ({},),
    "detectable_format:number_highlighted_sections": tuple({"num_highlights": count} for count in (2, 4, 5)),
    "detectable_format:multiple_sections": tuple(
        {"section_spliter": head, "num_sections": count} for head in ("Chapter", "Step", "Topic") for count in (2, 3, 4)
    ),
    "detectable_format:json_format": ({},),
    "detectable_format:title": ({},),
    "combination:two_responses": ({},),
    "startend:end_checker": tuple({"end_phrase": phrase} for phrase in ENDINGS),
    "startend:quotation": ({},),
    "change_case:capital_word_frequency": (
        *({"capital_relation": LEAST, "capital_frequency": bound} for bound in (4, 5, 6)),
        *({"capital_relation": LESS, "capital_frequency": bound} for bound in (2, 5, 6)),
    ),
    "change_case:english_capital": ({},),
    "change_case:english_lowercase": ({},),
    "punctuation:no_comma": ({},),
}  # fmt: skip
"""The arguments that are chosen from, for each id whose arguments do not depend on the task."""
FREQUENCIES = ((LEAST, 3), (LEAST, 4), (LESS, 2), (LESS, 4))
"""How often a keyword is wanted."""

WORDINGS: dict[str, tuple[str, ...]] = {
    "keywords:existence": (
        "Somewhere in the reply there has to be $keywords.",
        "I want to read $keywords in it.",
        "Bring in $keywords as you go along.",
        "A reply that lacks $keywords will not do.",
    ),
    "keywords:frequency at least": (
        "Say $keyword in no less than $frequency places.",
        "I expect $frequency appearances of $keyword, or even more.",
        "Repeat $keyword until it has been written $frequency times at the least.",
    ),
    "keywords:frequency less than": (
        "Be sparing with $keyword: $most is the highest count I accept.",
        "It is fine to skip $keyword, but if you need it, stop at a total of $most.",
        "Count how often you write $keyword and stay under $frequency.",
    ),
    "keywords:forbidden_words": (
        "Pretend that $forbidden_words had been struck from the dictionary.",
        "Find a way to say it that gets along without $forbidden_words.",
        "None of this may appear: $forbidden_words.",
        "I do not wish to see $forbidden_words anywhere.",
    ),
    "keywords:letter_frequency at least": (
        "Counting big and small alike, I should find $let_frequency or more of the letter $letter.",
        "Choose words so that the letter $letter turns up $let_frequency times, if not more often.",
        "Let there be a total of $let_frequency letters $letter, or a higher number.",
    ),
    "keywords:letter_frequency less than": (
        "The letter $letter is scarce: spend $most or fewer.",
        "Choose words so that the letter $letter turns up $most times at the very most.",
        "Count your letters: of $letter there have to be fewer than $let_frequency.",
    ),
    "language:response_language": (
        "I only read $language, so reply in that language throughout.",
        "Every word of the reply has to be $language.",
        "Give the reply in $language and in no second language.",
        "Please switch to $language for the whole of your reply.",
    ),
    "length_constraints:number_sentences at least": (
        "One or two sentences will not do; I would like $num_sentences or more of them.",
        "Let the number of sentences be $num_sentences or higher.",
        "Make it a text whose sentences number at least $num_sentences.",
    ),
    "length_constraints:number_sentences less than": (
        "Stop before you reach sentence number $num_sentences.",
        "I have time for $most sentences and not for one more.",
        "Let the count of sentences stay lower than $num_sentences.",
    ),
    "length_constraints:number_words at least": (
        "Anything below $num_words words is too thin for me.",
        "Keep going until the text holds $num_words words; more is welcome.",
        "The word count has to reach $num_words.",
    ),
    "length_constraints:number_words less than": (
        "The word count has to be lower than $num_words.",
        "Be done before the word count gets to $num_words.",
        "There is room for $most words and no further ones.",
    ),
    "length_constraints:number_paragraphs": (
        "I need $num_paragraphs paragraphs. Between neighbours, type a line made of just three asterisks, like this: ***",
        "Let *** stand alone on a line wherever one paragraph gives way to the following one, and have $num_paragraphs of them.",
        "The reply falls into $num_paragraphs paragraphs; the Markdown rule *** on a separate line divides each pair.",
    ),
    "length_constraints:nth_paragraph_first_word": (
        "Compose $num_paragraphs paragraphs with an empty line between them; number $nth_paragraph opens on the word \"$first_word\".",
        "There should be $num_paragraphs blocks of text, parted by empty lines and nothing else, and block $nth_paragraph has to "
        "have \"$first_word\" as its first word.",
        "Press return twice after each paragraph, make $num_paragraphs of them, and let \"$first_word\" lead off paragraph "
        "$nth_paragraph.",
    ),
    "detectable_content:number_placeholders": (
        "I will complete the details later, so show $num_placeholders or more gaps as [gap], with a telling word inside the brackets.",
        "Whatever you cannot know goes in brackets such as [amount]; there have to be $num_placeholders of these or more.",
        "Build in slots like [city] for me to complete, $num_placeholders as a minimum.",
    ),
    "detectable_content:postscript": (
        "Once you are done, skip a line and tack on a remark that opens with \"$postscript_marker\".",
        "I would like a final extra line after the text, introduced by \"$postscript_marker\".",
        "Do not forget a closing note under the main text; it has to open with \"$postscript_marker\".",
    ),
    "detectable_format:number_bullet_lists": (
        "Set it out as a bulleted list of $num_bullets entries, neither longer nor shorter, every entry after a \"- \".",
        "I want to count $num_bullets bullets, each one with a line to itself and opened by an asterisk and a space.",
        "Use a Markdown list whose unnumbered entries come to $num_bullets in all.",
    ),
    "detectable_format:constrained_response": (
        'Include one of these sentences to the letter and not the other two: "My answer is yes." / "My answer is no." / '
        '"My answer is maybe."',
        'Commit yourself to a single verdict of this list, in these very words: "My answer is maybe." / "My answer is no." / '
        '"My answer is yes."',
        'I will search your reply for "My answer is no." or "My answer is yes." or "My answer is maybe." and precisely one of '
        "them has to turn up.",
    ),
    "detectable_format:number_highlighted_sections": (
        "Wherever something matters most, set it *between single asterisks*; do so on $num_highlights occasions or beyond.",
        "I skim, so put stars around *the important bits*, $num_highlights of them as a minimum.",
        "With *emphasis of this kind*, bring out $num_highlights phrases or a few more.",
    ),
    "detectable_format:multiple_sections": (
        "Break it up under numbered headings in the style of \"$section_spliter 1\", $num_sections of them or more.",
        "Open each division with a heading line ($section_spliter 1, then $section_spliter 2 ...) and make $num_sections or more divisions.",
        "I would like to leaf through it by headings called $section_spliter plus a number, from 1 up to $num_sections or beyond.",
    ),
    "detectable_format:json_format": (
        "My script feeds what you send straight into a JSON parser, so add no text around the data.",
        "Send back JSON only.",
        "What I get from you has to parse as JSON from the first to the last character; keys are up to you.",
    ),
    "detectable_format:title": (
        "It needs a heading of the form <<heading>>, in doubled angle brackets.",
        "Before the text itself, name it like so: <<Name of the Text>>.",
        "Think of a headline and enclose it by << on the left and >> on the right.",
    ),
    "combination:two_responses": (
        "I should like to choose, so send two distinct replies with ****** (six asterisks) in between and nowhere else.",
        "Reply twice over in differing ways; a row of six asterisks, ******, keeps the two versions apart.",
        "Offer me a pair of alternative replies, the first and the second split by ******",
    ),
    "combination:repeat_prompt": (
        "Copy the following task into the top of your reply just as it stands, then carry it out: \"$prompt_to_repeat\"",
        "Your reply has to open with this very text and go on to deal with it: \"$prompt_to_repeat\"",
        "Quote the task back to me at the outset, without quotation marks, and see to it afterwards. The task to quote reads: "
        "$prompt_to_repeat",
    ),
    "startend:end_checker": (
        'Let nothing come after this closing line: "$end_phrase"',
        "I need \"$end_phrase\" to be what I read last.",
        'Sign off with these words and leave it there: "$end_phrase"',
    ),
    "startend:quotation": (
        "Treat the reply as a quotation: a \" at the very front, another \" at the very back.",
        "Open with a \" and shut with a \", so that all of it is quoted.",
        "Let a pair of double quotes enclose the reply from its first to its last character.",
    ),
    "change_case:capital_word_frequency at least": (
        "SHOUT $capital_frequency or more of your words by spelling them in capitals.",
        "Let $capital_frequency or more words be spelled LIKE THIS for stress.",
        "I want to see fully capitalised words, $capital_frequency of them as a minimum.",
    ),
    "change_case:capital_word_frequency less than": (
        "Go easy on words SPELLED LIKE THIS: allow yourself a maximum of $most.",
        "Fully capitalised words are to number below $capital_frequency.",
        "Should you spell words in capitals, halt at $most.",
    ),
    "change_case:english_capital": (
        "My old terminal shows just upper-case English, so type everything that way.",
        "Keep the caps lock key pressed from start to end, and stay with English.",
        "Each letter of the reply has to be upper case and the language English.",
    ),
    "change_case:english_lowercase": (
        "The shift key is broken: type English that is lower case from start to end.",
        "Even names and the beginnings of sentences go in lower case; the language is English.",
        "Each letter of the reply has to be lower case and the language English.",
    ),
    "punctuation:no_comma": (
        "The comma key is stuck, so punctuate in other ways.",
        "Among your punctuation marks the comma must be missing.",
        "Arrange sentences so that none of them calls for a comma, and put none.",
    ),
}  # fmt: skip
"""How each is asked for, by its id and, where it has one, its relation."""


def worded(rng: Random, id: str, args: Mapping[str, Any]) -> str:
    """Return words that ask for the constraint."""
    relation = next((value for name, value in args.items() if name.endswith("relation")), "")
    values = {name: _said(name, value) for name, value in args.items()}
    bounds = [value for value in args.values() if isinstance(value, int)]
    values["most"] = str(bounds[0] - 1) if bounds else ""
    return Template(rng.choice(WORDINGS[f"{id} {relation}".rstrip()])).substitute(values)


def _said(name: str, value: Any) -> str:
    """Return an argument as words: keywords in quotes, a language by its name."""
    if name == "language":
        return LANGUAGES[value]
    if name == "keyword":
        return f'"{value}"'
    if isinstance(value, tuple | list):
        return " and ".join(f'"{word}"' for word in value)
    return str(value)
