"""What the rules measure in one row at a time: missing inputs, labels, apologies, copies, broken JSON and constraints."""

import json
import re
from typing import Any

from kiloset.core.answers import MEDIA, TEXTS
from kiloset.core.constraints import failing
from kiloset.core.text import normal_form

_BESIDE = r"(?:below|above|given|provided|shown|attached)(?! (?:by|zero|the|an?|\d+)\b)"
_NOT_ANY = r"(?<!\ba )(?<!\ban )(?<!\bany )"
MEDIA_REFERENCE = re.compile(
    rf"\b(?:(?:this|these|the following|attached|above|below|{_NOT_ANY}(?:(?-i:given)|provided)) (?:{MEDIA})\b"
    rf"|the (?:{MEDIA}) {_BESIDE}\b)",
    re.IGNORECASE,
)
TEXT_REFERENCE = re.compile(
    rf"\b(?:(?:the|this|these|each) (?:following |given |same )?(?:{TEXTS}) {_BESIDE}\b"
    rf"|(?:the following|this|these|{_NOT_ANY}(?-i:given)) (?:{TEXTS})\b)",
    re.IGNORECASE,
)
CONTENT = re.compile(
    r"(?::(?!//)|[：\n])\s*(?!https?:|www\.|[\[<(](?:insert|your|paste|image|picture|photo|video|text|article|link)\b)\S"
    r"|[\"“«「『`]\S|\s['‘]\S|\A\s*[\[({]?-?\d[\d.]*,\s*-?\d|\?\s[^.?]*,[^.?]*,",
    re.IGNORECASE,
)
"""After a reference, this shows that the text itself follows: a colon or line break, a quotation, a list."""
PROGRAM = re.compile(
    r"\b(?:write|create|implement|develop|build|make|design|define)\b[^.?!]{0,60}"
    r"\b(?:functions?|programs?|scripts?|methods?|class|algorithm|regex|query|command)\b",
    re.IGNORECASE,
)
"""In a request for a program, "the given list" is the program's argument."""
MOST_REFERRING_WORDS = 40
"""An instruction of so many words is assumed to contain the text that it refers to."""
LABEL = r"(?i)\A\W*(a|(?:ans|answer|response|output|assistant)[ \t]*\d*)[ \t*_]*[:：]"
"""A label before the answer, as in few-shot prompts."""
OTHER_LABEL = re.compile(r"^[^\w\n]*\w[\w ]{0,20}[*_]*[:：]|(?<!\w)[b-z][:：]", re.IGNORECASE | re.MULTILINE)
QUESTION = re.compile(r"^[^\w\n]*q(?:uestion)?[ \t]*\d*[:：]", re.IGNORECASE | re.MULTILINE)
APOLOGY = (
    r"(?i)\A\W*(?:(?:please accept )?(?:my|our) (?:\w+ )?apologies|(?:i(?:['’]m| am)?|we(?:['’]re| are)?) (?:\w+ ){0,2}(?:sorry|apologi[sz]e)"
    r"|(?:very |so )?sorry|apologies) for (?:any|the|this|that|my|our|all)(?: \w+){0,2}"
    r" (?:confusion|misunderstandings?|miscommunication|inconvenience|mistakes?|errors?|oversight|mix-?up)\b"
)
APOLOGY_TASK = re.compile(
    r"\b(?:apolog|sorry|excuse|forgiv|regret|repl(?:y|ies)|respon[ds]|customer|client|complain|guest|e-?mail|letter|message|review"
    r"|role|pretend|act as|imagine you|dialogue|scene|script|character)",
    re.IGNORECASE,
)
"""Words of tasks whose answer may begin with an apology: letters, replies, roles."""
JSON = r"(?i)\A\s*(?:\[\s*)?\{\s*\"[^\"\n]*\"\s*:|```json\b"
"""A response that is meant to be, or to contain, JSON. A list of anything but objects may be something else."""
JSON_FENCE = re.compile(r"```json\b[^\n]*\n(.*?)(?:```|\Z)", re.IGNORECASE | re.DOTALL)
PYTHON = re.compile(r"\b(?:None|True|False)\b")

Row = dict[str, Any]


def missing_media(row: Row) -> float:
    """Count the references of an instruction to media that it does not contain."""
    return _references_outside(row["instruction"], MEDIA_REFERENCE)


def missing_inputs(row: Row) -> float:
    """Count the references of an instruction to texts that it does not contain."""
    text = row["instruction"]
    if len(text.split()) >= MOST_REFERRING_WORDS:
        return 0.0
    return 1.0 if text.rstrip().endswith((":", "：")) else _references_outside(text, TEXT_REFERENCE)


def _references_outside(text: str, reference: re.Pattern[str]) -> float:
    """Count references whose content stands neither after them nor, after "this" and "these", before them."""
    matches = [match for match in reference.finditer(text) if not CONTENT.search(text[match.end() :])]
    return float(sum(not (PROGRAM.search(text[: m.start()]) or _is_named_before(text, m)) for m in matches))


def _is_named_before(text: str, reference: re.Match[str]) -> bool:
    determiner, noun = reference[0].casefold().split()[:2]
    earlier = rf"(?<!\bthe )(?<!\bthis )(?<!\bthese )(?<!ing )(?<!\bgiven )\b{re.escape(noun.rstrip('s'))}"
    return determiner in ("this", "these") and bool(re.search(earlier, text[: reference.start()], re.IGNORECASE))


def is_echo(row: Row) -> float:
    """Return 1 if the response copies the instruction, or the input letter for letter: punctuating it may be the task."""
    answer = normal_form(row["response"])
    copied = answer == normal_form(row["instruction"]) or row["response"].strip() == row["input"].strip()
    return float(len(answer.split()) > 3 and copied)


def has_label(row: Row) -> float:
    """Return 1 if a label precedes the answer that neither the task nor another line of the answer has.

    Multiple-choice questions and dialogues have several labels.
    """
    match = re.match(LABEL, row["response"])
    if match is None:  # Polars recognises a few more characters as white space and digits
        return 0.0
    label, task, rest = match[1].strip(), f"{row['instruction']}\n{row['input']}", row["response"][match.end() :]
    marks = r"[:：.)\]]" if label in ("a", "A") else "[:：]"
    named = re.search(rf"(?<!\w){re.escape(label)}[*_]*{marks}|[\"'“‘`*]{re.escape(label)}\b", task, re.IGNORECASE)
    return float(not (named or QUESTION.search(task) or OTHER_LABEL.search(rest)))


def is_unasked_apology(row: Row) -> float:
    """Return 1 if the task gives no reason for an apology."""
    return float(not APOLOGY_TASK.search(f"{row['instruction']}\n{row['input']}"))


def broken_json(row: Row) -> float:
    """Count broken JSON: in blocks with that label or, without any block, at the beginning of the response."""
    text = row["response"]
    if "```" in text:
        return float(sum(not _is_json(block) for block in JSON_FENCE.findall(text)))
    return float(_end_of_json(text.lstrip()) is None and not PYTHON.search(text))


def _is_json(text: str) -> bool:
    """Return whether a text is one or more JSON values."""
    rest = text.strip()
    while rest and (end := _end_of_json(rest)) is not None:
        rest = rest[end:].lstrip()
    return not rest


def _end_of_json(text: str) -> int | None:
    """Return where the JSON value at the beginning of a text ends."""
    try:
        return json.JSONDecoder(parse_int=str).raw_decode(text)[1]  # Python refuses to read 5,000 digits
    except (ValueError, RecursionError):
        return None


def broken_constraints(row: Row) -> float:
    """Count the instruction's constraints that the response breaks."""
    return float(len(failing(row["constraints"], row["response"])))
