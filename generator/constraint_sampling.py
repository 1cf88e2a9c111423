"""Adds verifiable constraints to instructions, and chooses the response that satisfies them.

The constraint ids are IFEval's (Zhou et al., "Instruction-Following Evaluation for Large Language Models", 2023,
arXiv:2311.07911); the phrases are ours. 22 of the 25 ids are sampled. Three are not: `language:response_language` requires
nothing in an English set; small models hardly ever satisfy `combination:two_responses` and
`length_constraints:nth_paragraph_first_word`, and no formal edit can correct that. The phrases are English, so instructions
in other languages get no constraints.
"""

import json
import random
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Any

from kiloset.core.constraint_text import language_of
from kiloset.core.constraints import IDS, failing, validate
from kiloset.core.form import FUNCTION_WORDS
from kiloset.core.text import WORD, words
from kiloset.generator.constraint_phrases import (
    FILLERS,
    LEAST,
    LESS,
    TASK_WORDS,
    phrase_book,
    phrase_constraint,
    weights,
)
from kiloset.generator.edits import edit_to_satisfy

COUNT_WEIGHTS = (5, 3, 2)
"""How often a row carries one, two or three constraints."""
LEADS = ("Keep to these rules:", "Please also mind these points:", "What I ask of the answer:", "Requirements:")
"""Lines before a list of constraints."""
JSON_OBJECT = json.dumps({"type": "object"})
LONGEST_REPEATED = 60
"""Longest instruction that a response may have to repeat, in words."""

SHORT = frozenset({
    "detectable_format:constrained_response", "detectable_format:json_format", "startend:end_checker",
    "startend:quotation", "change_case:english_capital", "change_case:english_lowercase", "punctuation:no_comma",
})  # fmt: skip
"""Constraints for a response of a few words."""
AROUND_CODE = frozenset({
    "keywords:existence", "detectable_content:postscript", "detectable_format:title", "combination:repeat_prompt",
    "startend:end_checker",
})  # fmt: skip
"""Constraints that do not change code or formulas."""
SUITABLE: dict[str, frozenset[str]] = {
    "classification": SHORT,
    "extraction": SHORT - {"change_case:english_capital"},
    "closed_qa": SHORT,
    "code": AROUND_CODE,
    "maths": AROUND_CODE | {"punctuation:no_comma", "startend:quotation"},
    "data_to_text": frozenset(IDS) - {"keywords:letter_frequency", "change_case:english_capital"},
    "rewriting": frozenset(IDS) - {"keywords:existence", "keywords:frequency", "detectable_format:multiple_sections"},
}
"""The constraints suitable for a category, by its name; any other category may get all."""
CODE_WORDS = re.compile(r"(?i)code|program|sql|regex|math|arithmetic|algebra|calcul")

LENGTHS = frozenset({
    "length_constraints:number_sentences", "length_constraints:number_paragraphs", "length_constraints:number_words",
    "detectable_format:number_bullet_lists", "detectable_format:multiple_sections",
})  # fmt: skip
"""Constraints on the length of a response, which an instruction may set itself."""
ADDITIONS = frozenset({
    "detectable_content:postscript", "detectable_format:title", "combination:repeat_prompt", "startend:end_checker",
})  # fmt: skip
"""Constraints that require more text than the instruction does."""
CASES = frozenset(
    {f"change_case:{name}" for name in ("capital_word_frequency", "english_capital", "english_lowercase")}
)
"""Constraints on capital letters; they exclude each other."""
SHAPES = frozenset({
    "length_constraints:number_sentences", "length_constraints:number_paragraphs",
    "detectable_format:number_bullet_lists", "detectable_format:constrained_response",
    "detectable_format:multiple_sections", "detectable_format:json_format",
})  # fmt: skip
"""Constraints on the layout of a response; they exclude each other."""
PAIRS: dict[str, frozenset[str]] = {
    "detectable_format:json_format": frozenset(IDS)
    - {"keywords:existence", "keywords:frequency", "keywords:forbidden_words", "change_case:english_lowercase"},
    "detectable_format:constrained_response": frozenset(IDS)
    - {"detectable_content:postscript", "detectable_format:title", "keywords:forbidden_words", "startend:end_checker"},
    "combination:repeat_prompt": frozenset(IDS)
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
"""The constraints that conflict with each: a response cannot satisfy both, or both require the same."""
CONFLICTS: frozenset[frozenset[str]] = frozenset(
    {frozenset(pair) for group in (CASES, SHAPES) for pair in combinations(sorted(group), 2)}
    | {frozenset({one, other}) for one, others in PAIRS.items() for other in others if one != other}
)
"""Every pair of constraints that one instruction never carries together."""

OWN_LENGTH = re.compile(
    r"(?i)\b(?:one|two|three|four|five|six|seven|eight|nine|ten|twelve|single|few|couple|\d+)[- ](?:\w+[- ])?"
    r"(?:words?|sentences?|paragraphs?|lines?|bullets?|points?|items?|steps?|stanzas?|verses?|sections?|parts?)\b"
    r"|\b(?:brief(?:ly)?|short|concise(?:ly)?|tl;?dr|haiku|limerick|poem|sonnet|song|lyrics|rhym\w+|slogan|tagline|headline"
    r"|sentence|paragraph|word|one-liner|tweet|outline|list|name|in detail|long)\b"
)
"""Words by which an instruction sets its own length or layout."""
OWN_FORM = re.compile(
    r"(?i)\b(?:json|xml|yaml|csv|html|latex|table|markdown|bullets?|bulleted|numbered|commas?|punctuat\w*|quot\w+|capital\w*"
    r"|upper-?case|lower-?case|caps|titles?|headings?|format\w*|bold|italics?|letters? [a-z]\b|verbatim|word for word"
    r"|nothing else|(?:begin|start|end|open|clos)(?:s|e|ing|ning)? with|labelled|labeled"
    r"|translat\w*|spelling|grammar|proofread\w*|correct|regex|code|function|script|query|palindrome|acronym|anagram)\b"
)
"""Words by which an instruction sets its own form, which a constraint could contradict; it gets no constraints."""
YES_OR_NO = re.compile(
    r"(?i)\A\W*(?:is|are|was|were|do|does|did|can|could|should|will|would|has|have|had|may|must)\b(?:(?! or ).)*\?\s*\Z",
    re.DOTALL,
)
"""A question with the answer yes or no: it has no "or" between alternatives."""
PLAIN_WORD = re.compile(r"[A-Za-z]{4,15}")
NOT_KEYWORDS = FUNCTION_WORDS | TASK_WORDS
FORM_LETTER = re.compile(r"(?i)\b(?:e-?mail|letter|invitation|template|form|notice|memo|flyer|announcement)\b")
"""Texts with gaps to fill in later."""


@dataclass(frozen=True, slots=True)
class SampledConstraint:
    """A constraint and the sentence that states it."""

    id: str
    args: dict[str, Any]
    phrase: str


def add_constraints(row: dict[str, Any], *, has_input: bool, rng: random.Random) -> bool:
    """Add constraints to a row's instruction and keep the plain instruction as `task`; return whether any was suitable."""
    count = rng.choices(range(1, len(COUNT_WEIGHTS) + 1), COUNT_WEIGHTS)[0]
    sampled = sample_constraints(rng, row["instruction"], has_input=has_input, category=row["category"], count=count)
    if not sampled:
        return False
    row["task"] = row["instruction"]
    row["instruction"] = with_constraints(row["instruction"], sampled, rng)
    row["constraints"] = [{"id": one.id, "args": json.dumps(one.args, ensure_ascii=False)} for one in sampled]
    return True


def response_schema(row: Mapping[str, Any]) -> str:
    """Return the JSON schema that an engine can enforce while it writes the row's response, "" if there is none."""
    return JSON_OBJECT if any(one["id"] == "detectable_format:json_format" for one in row["constraints"]) else ""


def choose_response(
    constraints: Sequence[Mapping[str, str]], responses: Sequence[str]
) -> tuple[str, tuple[str, ...]] | None:
    """Return the text and the edits of the first response that satisfies all constraints, None if there is none.

    Unedited responses come first; then the first response that formal edits make satisfy them.
    """
    for response in responses:
        if response and not failing(constraints, response):
            return response, ()
    parsed = [(one["id"], json.loads(one["args"])) for one in constraints]
    for response in responses:
        if (
            response
            and (edited := edit_to_satisfy(parsed, response)) is not None
            and not failing(constraints, edited[0])
        ):
            return edited
    return None


def sample_constraints(
    rng: random.Random, instruction: str, *, has_input: bool, category: str, count: int
) -> list[SampledConstraint]:
    """Sample up to `count` constraints that suit an instruction and do not conflict; fewer, or none, where fewer do.

    Raises:
        ValueError: `count` is not 1, 2 or 3.
    """
    if not 1 <= count <= len(COUNT_WEIGHTS):
        raise ValueError(f"count must be 1 to {len(COUNT_WEIGHTS)}, got {count}")
    available = {id: weights()[id] for id in suitable(instruction, has_input=has_input, category=category)}
    sampled: list[SampledConstraint] = []
    while available and len(sampled) < count:
        id = rng.choices(list(available), list(available.values()))[0]
        args = _sample_args(rng, id, instruction, sampled)
        if args is not None:
            validate(id, args)
            sampled.append(SampledConstraint(id, args, phrase_constraint(rng, id, args)))
        available = {
            other: weight
            for other, weight in available.items()
            if other != id and (args is None or compatible(id, other))
        }
    return sampled


def suitable(instruction: str, *, has_input: bool, category: str) -> list[str]:
    """Return the constraints that an instruction may carry, by its words and the name of its category; may be empty."""
    if OWN_FORM.search(instruction) or language_of(instruction) != "en":
        return []
    ids = set(SUITABLE.get(category, AROUND_CODE if CODE_WORDS.search(category) else IDS))
    if OWN_LENGTH.search(instruction):
        ids -= LENGTHS | ADDITIONS | {"detectable_format:json_format", "keywords:frequency"}
    if not YES_OR_NO.match(instruction):
        ids.discard("detectable_format:constrained_response")
    if not FORM_LETTER.search(instruction) or has_input:
        ids.discard("detectable_content:number_placeholders")
    if has_input or instruction.rstrip().endswith(":") or len(instruction.split()) > LONGEST_REPEATED:
        ids.discard("combination:repeat_prompt")
    return [id for id in weights() if id in ids]


def compatible(one: str, other: str) -> bool:
    """Return whether one instruction may carry both of two different constraints."""
    return frozenset({one, other}) not in CONFLICTS


def with_constraints(instruction: str, constraints: Sequence[SampledConstraint], rng: random.Random) -> str:
    """Return the instruction with its constraints: as sentences after it, as a list, or before one that ends in a colon."""
    if not constraints:
        return instruction
    text = instruction.rstrip()
    sentences = " ".join(one.phrase for one in constraints)
    listed = "\n".join(f"- {one.phrase}" for one in constraints)
    if text.endswith((":", "：")):
        return f"{sentences} {text}"
    ended = text if text.endswith((".", "!", "?", '"', "”", ")")) else f"{text}."
    same_line = f"{ended} {sentences}"
    layouts = [same_line, same_line, f"{ended}\n{sentences}", f"{ended}\n\n{sentences}"]
    if len(constraints) > 1:
        layouts += [f"{ended}\n\n{listed}", f"{ended}\n{rng.choice(LEADS)}\n{listed}"]
    return rng.choice(layouts)


def content_words(instruction: str) -> list[str]:
    """Return the distinct words that a response may contain: at least four plain letters, and not about the task."""
    by_lower = {word.casefold(): word for word in WORD.findall(instruction) if PLAIN_WORD.fullmatch(word)}
    return [word for lower, word in by_lower.items() if lower not in NOT_KEYWORDS]


def _sample_args(
    rng: random.Random, id: str, instruction: str, sampled: Sequence[SampledConstraint]
) -> dict[str, Any] | None:
    """Choose a constraint's arguments; None where the instruction has no suitable keyword."""
    if id in (choices := phrase_book().arguments):
        return dict(rng.choice(choices[id]))
    if id == "combination:repeat_prompt":
        return {"prompt_to_repeat": instruction.strip()}
    used = {word for one in sampled for text in _texts(one.args) for word in words(text)}
    if id == "keywords:forbidden_words":
        fillers = [word for word in FILLERS if word not in used | {*words(instruction)}]
        return {"forbidden_words": rng.sample(fillers, rng.choice((2, 2, 3)))}
    keywords = [word for word in content_words(instruction) if word.casefold() not in used]
    if not keywords:
        return None
    if id == "keywords:existence":
        return {"keywords": rng.sample(keywords, min(len(keywords), rng.choice((1, 1, 2))))}
    relation, bound = rng.choice(((LEAST, 2), (LESS, 3)))
    return {"relation": relation, "keyword": rng.choice(keywords), "frequency": bound}


def _texts(args: Mapping[str, Any]) -> list[str]:
    """Return the texts among a constraint's arguments, including those in lists."""
    values = [each for value in args.values() for each in (value if isinstance(value, list) else [value])]
    return [value for value in values if isinstance(value, str)]
