"""Faults of tasks and answers that a pattern or a comparison shows, without knowing what is true.

A task is checked before its answer is paid for. These checks are for what a writer model writes; the rules
(`kiloset.filters.rules`) are for rows of any origin.
"""

import json
import re
from collections.abc import Iterator, Mapping
from typing import Any

from rapidfuzz.distance import LCSseq

from kiloset.core.answers import REFUSAL_AS_MODEL
from kiloset.core.text import normal_form, words_and_signs
from kiloset.generator.novelty import rouge_l
from kiloset.generator.parsing import LONGEST_LABEL

Fault = tuple[str, str]
"""Reason and evidence."""

PLACEHOLDER = re.compile(
    r"\[(?![^\]]*\d\])(?:your|my|the|insert|recipient|sender|customer|client|company|employee|manager|landlord|tenant|neighbou?r|friend|teacher"
    r"|student|new|old|club|city|town|street|name|date|day|time|address|phone|title|position|department|number|product|event"
    r"|location|current|colleague|loved|artist|guest|host|school|shop|store|hotel|job|role|reason|first|last|contact)"
    r"(?:[ '’/-][^\]\n]{0,40}|s?)\]|\[e-?mail[\s\xa0]*(?:protected|address)\]",
    re.IGNORECASE,
)
"""A gap that somebody must fill in. The names of masked personal data ("[phone number 1]") have a number."""
ABOUT_PLACEHOLDERS = re.compile(
    r"\b(?:placeholders?|templates?|blanks?|fill(?:ed)? in|brackets?|forms?)\b", re.IGNORECASE
)
PROGRAM = re.compile(
    r"\b(?:write|create|implement|develop|build|define)\b[^.?!]{0,60}\b(?:functions?|programs?|scripts?|methods?|class|query|regex|regular expression|command)\b",
    re.IGNORECASE,
)
GIVEN_PROGRAM = re.compile(
    r"\b(?:fix|bug|wrong|fails?|error|improve|refactor|explain|tests?|document|comment|convert|translate|rewrite|replace|faster|shorter"
    r"|same|this|below|following|given (?:code|function|script|program)|original|existing)\b",
    re.IGNORECASE,
)
"""Words of a task about a program that is given."""
CODE = re.compile(r"```|^\s*(?:def|class|import|from|function|const|let|var|public|#include|SELECT)\b", re.MULTILINE)
SMALL_CHANGES = re.compile(
    r"\b(?:spell|grammar|punctuat|typo|proofread|mistakes?\b|correct|tense\b|(?:first|second|third)[ -]person|pronoun|capital|british"
    r"|american|repeated words?|the words? [\"“'])",
    re.IGNORECASE,
)
"""Tasks whose answer may be nearly the text."""
MOST_COPIED = 0.9
"""Largest ROUGE-L F1 of an answer with its input; of the bundled seeds the highest is 0.84 (American to British spelling)."""
WHOLE_TEXT, WHOLE_SHARE = 8, 0.98
"""Words from which on a text was copied rather than quoted if this fraction of its words stands, in order, in a longer answer. Of the bundled seeds the highest is 0.97 (a notice made from notes)."""
KEEPS_TEXT = re.compile(
    r"\b(?:add|append|insert|continue|extend|complete|finish|repeat|quote|copy|format|annotate|number|highlight|prefix|fill|explain)",
    re.IGNORECASE,
)
"""Tasks whose answer may hold the whole text."""
LEAST_WORDS = 8
"""An answer of fewer words may be a part of its text."""
REPEATED_ITEMS = 3
"""Lines of a list from which on they must differ."""


def task_fault(row: Mapping[str, Any]) -> Fault | None:
    """Return why a task with its text is no good, None if nothing shows that."""
    instruction, input, topic = row["instruction"], row["input"], row.get("topic") or ""
    if topic and normal_form(instruction) == normal_form(topic):
        return "instruction_copies_topic", f"the task is its subject again: {topic!r}"
    if re.match(REFUSAL_AS_MODEL, instruction) or re.match(REFUSAL_AS_MODEL, input):
        return "task_refused", "the writer model refused instead of writing a task"
    if gap := _gap(instruction, f"{instruction}\n{input}"):
        return "task_has_gap", f"the task has a gap to fill in: {gap}"
    if input and CODE.search(input) and PROGRAM.search(instruction) and not GIVEN_PROGRAM.search(instruction):
        return "input_has_answer", "the task asks for a program, and its text is one"
    return None


def answer_fault(row: Mapping[str, Any], *, label: bool) -> Fault | None:
    """Return why an answer is no good, None if nothing shows that; `label` for the categories whose answer is a label."""
    return next(_answer_faults(row, label=label), None)


def _answer_faults(row: Mapping[str, Any], *, label: bool) -> Iterator[Fault]:
    instruction, input, response = row["instruction"], row["input"], row["response"]
    if gap := _gap(instruction, response, known=f"{instruction}\n{input}"):
        yield "response_has_gap", f"the answer has a gap to fill in: {gap}"
    if _is_end_phrase(row):
        yield "response_only_constraint", "the answer is the phrase with which it should end, and nothing else"
    if _repeats(words_and_signs(response), words_and_signs(instruction)):
        yield "response_copies_instruction", "the answer is made of the words of the instruction, in their order"
    if label and input and _holds_label(input, response):
        yield "label_in_input", f"the text contains the label {response[:60]!r}"
    if input and (copied := _copied(instruction, input, response)):
        yield "response_copies_input", copied
    items = [normal_form(match) for match in re.findall(r"^\s*(?:\d{1,3}[.)]|[-*•])\s+(.+)$", response, re.MULTILINE)]
    if len(items) >= REPEATED_ITEMS and len(set(items)) <= len(items) // 2:
        yield "response_repeats_items", f"{len(items)} items of a list, {len(set(items))} of them different"


def _is_end_phrase(row: Mapping[str, Any]) -> bool:
    ends = (json.loads(each["args"]).get("end_phrase") for each in row.get("constraints") or ())
    return any(end and normal_form(row["response"]) == normal_form(end) for end in ends)


def _repeats(answer: list[str], instruction: list[str]) -> bool:
    return len(answer) > LEAST_WORDS and LCSseq.similarity(answer, instruction) > MOST_COPIED * len(answer)


def _gap(instruction: str, text: str, known: str = "") -> str:
    """Return the first gap of a text, "" if it has none, if the task is about gaps or if the gap was known before."""
    if ABOUT_PLACEHOLDERS.search(instruction):
        return ""
    gaps = (match[0] for match in PLACEHOLDER.finditer(text))
    return next((gap for gap in gaps if gap not in known), "")


def _copied(instruction: str, input: str, response: str) -> str:
    """Return how an answer repeats its text, "" if it does not. Code may differ in one sign and still be the answer."""
    if CODE.search(input):
        same = input.split() == re.sub(r"^\s*```.*$", "", response, flags=re.MULTILINE).split()
        return "the answer is the code of the text" if same else ""
    answer, text = words_and_signs(response), words_and_signs(input)
    if len(answer) <= LEAST_WORDS or SMALL_CHANGES.search(instruction):
        return ""
    copied = rouge_l(answer, text)
    if copied > MOST_COPIED:
        return f"the answer repeats the text (ROUGE-L {copied:.2f} > {MOST_COPIED:.2f})"
    whole = len(text) >= WHOLE_TEXT and LCSseq.similarity(answer, text) >= WHOLE_SHARE * len(text)
    return "the answer holds the whole text, in order" if whole and not KEEPS_TEXT.search(instruction) else ""


def _holds_label(input: str, response: str) -> bool:
    label = normal_form(response)
    return 0 < len(label.split()) <= LONGEST_LABEL and f" {label} " in f" {normal_form(input)} "
