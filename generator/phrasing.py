"""Verifiable constraints for an instruction, and the words that ask for them.

The ids are IFEval's (Zhou et al., "Instruction-Following Evaluation for Large Language Models", 2023, arXiv:2311.07911);
the phrasings are ours. 22 of the 25 are drawn. Not drawn: `language:response_language`, since in an English set it asks
for nothing; `combination:two_responses` and `length_constraints:nth_paragraph_first_word`, which a small model hardly ever
obeys and no formal edit can mend. Phrases are English, so instructions in other languages get none.
"""

import random
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Any

from kiloset.core.constraint_text import language_of
from kiloset.core.constraints import validate
from kiloset.core.form import FUNCTION_WORDS
from kiloset.core.text import WORD, words
from kiloset.generator.phrases import CHOICES, FILLERS, TASK_WORDS, worded

MOST = 3
"""Constraints drawn at once."""

LONGEST_REPEATED = 60
"""Longest instruction that an answer is asked to repeat, in words."""
WEIGHTS: dict[str, int] = {
    "keywords:existence": 5,
    "keywords:frequency": 3,
    "keywords:forbidden_words": 4,
    "keywords:letter_frequency": 1,
    "length_constraints:number_sentences": 5,
    "length_constraints:number_paragraphs": 4,
    "length_constraints:number_words": 6,
    "detectable_content:number_placeholders": 2,
    "detectable_content:postscript": 4,
    "detectable_format:number_bullet_lists": 6,
    "detectable_format:constrained_response": 6,
    "detectable_format:number_highlighted_sections": 5,
    "detectable_format:multiple_sections": 3,
    "detectable_format:json_format": 4,
    "detectable_format:title": 6,
    "combination:repeat_prompt": 3,
    "startend:end_checker": 6,
    "startend:quotation": 4,
    "change_case:capital_word_frequency": 3,
    "change_case:english_capital": 3,
    "change_case:english_lowercase": 5,
    "punctuation:no_comma": 5,
}
"""How often each is drawn where it suits: more where a formal edit mends most answers, less where asking seems odd."""

SHORT = frozenset(
    {
        "detectable_format:constrained_response", "detectable_format:json_format", "startend:end_checker",
        "startend:quotation", "change_case:english_capital", "change_case:english_lowercase", "punctuation:no_comma",
    }
)  # fmt: skip
"""What suits an answer of a few words."""
AROUND = frozenset(
    {
        "keywords:existence", "detectable_content:postscript", "detectable_format:title", "combination:repeat_prompt",
        "startend:end_checker",
    }
)  # fmt: skip
"""What leaves code and formulas alone."""
SUITABLE: dict[str, frozenset[str]] = {
    "classification": SHORT,
    "extraction": SHORT - {"change_case:english_capital"},
    "closed_qa": SHORT,
    "code": AROUND,
    "maths": AROUND | {"punctuation:no_comma", "startend:quotation"},
    "data_to_text": frozenset(WEIGHTS) - {"keywords:letter_frequency", "change_case:english_capital"},
    "rewriting": frozenset(WEIGHTS)
    - {"keywords:existence", "keywords:frequency", "detectable_format:multiple_sections"},
}
"""The ids that suit a category, by its name; any other gets all."""
CODE_WORDS = re.compile(r"(?i)code|program|sql|regex|math|arithmetic|algebra|calcul")

LENGTHS = frozenset(
    {
        "length_constraints:number_sentences", "length_constraints:number_paragraphs", "length_constraints:number_words",
        "detectable_format:number_bullet_lists", "detectable_format:multiple_sections",
    }
)  # fmt: skip
ADDED = frozenset(
    {
        "detectable_content:postscript", "detectable_format:title", "combination:repeat_prompt", "startend:end_checker",
    }
)  # fmt: skip
CASES = frozenset(
    {"change_case:capital_word_frequency", "change_case:english_capital", "change_case:english_lowercase"}
)
SHAPES = frozenset(
    {
        "length_constraints:number_sentences", "length_constraints:number_paragraphs",
        "detectable_format:number_bullet_lists", "detectable_format:constrained_response",
        "detectable_format:multiple_sections", "detectable_format:json_format",
    }
)  # fmt: skip
PAIRS: dict[str, frozenset[str]] = {
    "detectable_format:json_format": frozenset(WEIGHTS)
    - {"keywords:existence", "keywords:frequency", "keywords:forbidden_words", "change_case:english_lowercase"},
    "detectable_format:constrained_response": frozenset(WEIGHTS)
    - {"detectable_content:postscript", "detectable_format:title", "keywords:forbidden_words", "startend:end_checker"},
    "combination:repeat_prompt": frozenset(WEIGHTS)
    - {
        "detectable_content:postscript", "detectable_format:number_bullet_lists", "keywords:existence",
        "detectable_format:number_highlighted_sections", "startend:end_checker",
    },
    "startend:quotation": frozenset({"startend:end_checker", "detectable_content:postscript", "detectable_format:title"}),
    "startend:end_checker": CASES | {"detectable_content:postscript", "length_constraints:number_sentences"},
    "detectable_content:postscript": CASES | {"length_constraints:number_sentences"},
    "detectable_format:title": frozenset({"length_constraints:number_sentences"}),
    "detectable_format:multiple_sections": CASES,
    "length_constraints:number_words": frozenset({"length_constraints:number_sentences"}),
    "keywords:existence": frozenset({"keywords:frequency"}),
}  # fmt: skip
"""What an id does not go with: one cannot be obeyed beside the other, or not to the letter, or both ask for the same."""
CONFLICTS: frozenset[frozenset[str]] = frozenset(
    {frozenset(pair) for group in (CASES, SHAPES) for pair in combinations(sorted(group), 2)}
    | {frozenset({one, other}) for one, others in PAIRS.items() for other in others if one != other}
)
"""Every pair of ids that is never drawn together."""

OWN_LENGTH = re.compile(
    r"(?i)\b(?:one|two|three|four|five|six|seven|eight|nine|ten|twelve|single|few|couple|\d+)[- ](?:\w+[- ])?"
    r"(?:words?|sentences?|paragraphs?|lines?|bullets?|points?|items?|steps?|stanzas?|verses?|sections?|parts?)\b"
    r"|\b(?:brief(?:ly)?|short|concise(?:ly)?|tl;?dr|haiku|limerick|poem|sonnet|song|lyrics|rhym\w+|slogan|tagline|headline"
    r"|sentence|paragraph|word|one-liner|tweet|outline|list|name|in detail|long)\b"
)
"""Signs that an instruction sets its own length or shape."""
OWN_FORM = re.compile(
    r"(?i)\b(?:json|xml|yaml|csv|html|latex|table|markdown|bullets?|bulleted|numbered|commas?|punctuat\w*|quot\w+|capital\w*"
    r"|upper-?case|lower-?case|caps|titles?|headings?|format\w*|bold|italics?|letters? [a-z]\b|verbatim|word for word"
    r"|nothing else|(?:begin|start|end|open|clos)(?:s|e|ing|ning)? with|labelled|labeled"
    r"|translat\w*|spelling|grammar|proofread\w*|correct|regex|code|function|script|query|palindrome|acronym|anagram)\b"
)
"""Signs that an instruction sets its own form, which a constraint could contradict; it is left alone."""
YES_OR_NO = re.compile(
    r"(?i)\A\W*(?:is|are|was|were|do|does|did|can|could|should|will|would|has|have|had|may|must)\b(?:(?! or ).)*\?\s*\Z",
    re.DOTALL,
)
"""A question that yes or no can answer: no "or" between alternatives."""
PLAIN_WORD = re.compile(r"[A-Za-z]{4,15}")
EMPTY_WORDS = FUNCTION_WORDS | TASK_WORDS
LETTER = re.compile(r"(?i)\b(?:e-?mail|letter|invitation|template|form|notice|memo|flyer|announcement)\b")
"""Texts that are filled in later."""


@dataclass(frozen=True, slots=True)
class Drawn:
    """A constraint and the sentence that asks for it."""

    id: str
    args: dict[str, Any]
    phrase: str


def draw(rng: random.Random, instruction: str, *, has_input: bool, category: str, count: int) -> list[Drawn]:
    """Draw up to `count` constraints, at most 3, that suit an instruction and go together; fewer, or none, where fewer do.

    Raises:
        ValueError: `count` is not 1, 2 or 3.
    """
    if not 1 <= count <= MOST:
        raise ValueError(f"1 to {MOST} constraints can be drawn, got count={count}")
    left = {id: WEIGHTS[id] for id in suitable(instruction, has_input=has_input, category=category)}
    drawn: list[Drawn] = []
    while left and len(drawn) < count:
        id = rng.choices(list(left), list(left.values()))[0]
        args = _args(rng, id, instruction, drawn)
        if args is not None:
            validate(id, args)
            drawn.append(Drawn(id, args, worded(rng, id, args)))
        left = {
            other: weight for other, weight in left.items() if other != id and (args is None or compatible(id, other))
        }
    return drawn


def suitable(instruction: str, *, has_input: bool, category: str) -> list[str]:
    """Return the ids that may be asked of an instruction, judged by its words and its category's name; they may be none."""
    if OWN_FORM.search(instruction) or language_of(instruction) != "en":
        return []
    fits = set(SUITABLE.get(category, AROUND if CODE_WORDS.search(category) else WEIGHTS))
    if OWN_LENGTH.search(instruction):
        fits -= LENGTHS | ADDED | {"detectable_format:json_format", "keywords:frequency"}
    if not YES_OR_NO.match(instruction):
        fits.discard("detectable_format:constrained_response")
    if not LETTER.search(instruction) or has_input:
        fits.discard("detectable_content:number_placeholders")
    if has_input or instruction.rstrip().endswith(":") or len(instruction.split()) > LONGEST_REPEATED:
        fits.discard("combination:repeat_prompt")
    return [id for id in WEIGHTS if id in fits]


def compatible(one: str, other: str) -> bool:
    """Tell whether two different constraints may be asked for at once."""
    return frozenset({one, other}) not in CONFLICTS


def with_constraints(instruction: str, drawn: Sequence[Drawn], rng: random.Random) -> str:
    """Add what is asked for to an instruction: as sentences, on a line of its own, or as a list; before one that ends in a colon."""
    if not drawn:
        return instruction
    text = instruction.rstrip()
    sentences = " ".join(one.phrase for one in drawn)
    listed = "\n".join(f"- {one.phrase}" for one in drawn)
    if text.endswith((":", "：")):
        return f"{sentences} {text}"
    ended = text if text.endswith((".", "!", "?", '"', "”", ")")) else f"{text}."
    same_line = f"{ended} {sentences}"
    ways = [same_line, same_line, f"{ended}\n{sentences}", f"{ended}\n\n{sentences}"]
    if len(drawn) > 1:
        ways += [f"{ended}\n\n{listed}", f"{ended}\n{rng.choice(LEADS)}\n{listed}"]
    return rng.choice(ways)


LEADS = ("Keep to these rules:", "Please also mind these points:", "What I ask of the answer:", "Requirements:")


def content_words(instruction: str) -> list[str]:
    """Return the distinct words an answer could well hold: four plain letters or more, and not words about the task."""
    found = {word.casefold(): word for word in WORD.findall(instruction) if PLAIN_WORD.fullmatch(word)}
    return [word for lower, word in found.items() if lower not in EMPTY_WORDS]


def _args(rng: random.Random, id: str, instruction: str, drawn: Sequence[Drawn]) -> dict[str, Any] | None:
    """Choose a constraint's arguments; None where the instruction gives none, such as a keyword."""
    if id in CHOICES:
        return dict(rng.choice(CHOICES[id]))
    if id == "combination:repeat_prompt":
        return {"prompt_to_repeat": instruction.strip()}
    used = {word for one in drawn for text in _texts(one.args) for word in words(text)}
    if id == "keywords:forbidden_words":
        fillers = [word for word in FILLERS if word not in used | {*words(instruction)}]
        return {"forbidden_words": rng.sample(fillers, rng.choice((2, 2, 3)))}
    keywords = [word for word in content_words(instruction) if word.casefold() not in used]
    if not keywords:
        return None
    if id == "keywords:existence":
        return {"keywords": rng.sample(keywords, min(len(keywords), rng.choice((1, 1, 2))))}
    relation, bound = rng.choice((("at least", 2), ("less than", 3)))
    return {"relation": relation, "keyword": rng.choice(keywords), "frequency": bound}


def _texts(args: Mapping[str, Any]) -> list[str]:
    """Return the texts among a constraint's arguments, those in lists included."""
    return [text for value in args.values() for text in ([value] if isinstance(value, str) else _strings(value))]


def _strings(value: Any) -> list[str]:
    return [text for text in value if isinstance(text, str)] if isinstance(value, list) else []
