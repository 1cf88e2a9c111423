"""What a rewrite must keep of its reference: numbers, names, quotes, links, identifiers, yes or no, code, JSON.

One function a check. A check that cannot be applied says so and never says it passed. A model wrote the
texts, so patterns are linear in them, parsers may fail and nothing is executed.
"""

import ast
import json
import re
import warnings
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from textwrap import dedent
from typing import Literal, NamedTuple, NoReturn

from core.form import FUNCTION_WORDS
from core.text import LIST_MARK, WORD, normal_form, numbers, squash, words

FEW_NUMBERS = 3
"""Up to this many numbers none may be lost."""
MIN_IDENTIFIER_RECALL = 0.8
"""Share of the reference's code identifiers that must be kept, as of its names, which they are."""
LABEL_WORDS = 5
"""A reference up to this long without a full stop is a label."""
SPELLED = {
    word: str(value)
    for value, word in enumerate(words("zero one two three four five six seven eight nine ten eleven twelve"))
}
STOPS = frozenset('.!?:;\n|•"“(')
"""A capital after one of these may begin a sentence."""
QUOTE = re.compile(r"\"([^\"\n]{1,400})\"|“([^“”\n]{1,400})”")
LINK = re.compile(
    r"(?:https?://|\bwww\.)[^\s<>\"'`)\]]+|(?<![\w.+-])[\w.+-]{1,64}@(?:[\w-]{1,63}\.){1,8}[A-Za-z]{2,24}\b",
    re.IGNORECASE,
)
IDENTIFIER = re.compile(
    r"`([^`\n]{1,80})`|\b([A-Za-z]\w*_\w+)|\b([a-z]+[A-Z]\w*)|(?<![\w.])([A-Za-z_][\w.]*+)\((?!s\)|es\))"
)
POLE = re.compile(
    r"\W*+(yes|no(?!\. ?\d)|true|false|correct|incorrect)\b"
    r"(?:[,.!?;:)*\"'”–—]|\s*\Z|\s+[-–—(]|\s+(?:it|the|this|that|these|there|they|he|she|we|you|i|is|because)\b)"
)
SAID_POLE = re.compile(r"\b(?:is|are|was|were)(n't| not)? (true|false|correct|incorrect)\b|\banswer is (yes|no)\b")
UNCONTRACTED = {"can't": "can not", "cannot": "can not", "won't": "will not"}
FENCE = re.compile(r"[ \t]*+(`{3,}+|~{3,}+)([^`]*)")
PYTHON_LINE = re.compile(r"^(?:(?:async )?def|class) \w++[^{\n]*:[ \t]*$", re.MULTILINE)


@dataclass(frozen=True, slots=True)
class Verdict:
    """What one check found: `check` is its slug, `evidence` one readable sentence."""

    check: str
    status: Literal["passed", "failed", "not_applicable"]
    measured: float | None
    """The quantity compared, in the check's own unit; None where the check is a yes or no."""
    limit: float | None
    """The bound it was held against: the one it broke, if it broke one."""
    evidence: str


def keeps_numbers(reference: str, rewrite: str, min_recall: float) -> Verdict:
    """`numbers`: the reference's distinct numbers return, as digits or, up to twelve, as words."""
    wanted = list(dict.fromkeys(numbers(reference)))
    return _recall("numbers", wanted, _numbers_said(rewrite), min_recall if len(wanted) > FEW_NUMBERS else 1.0)


def adds_no_numbers(instruction: str, reference: str, rewrite: str, limit: int) -> Verdict:
    """`new_numbers`: no number but those given; one that could be worked out from them is not, and counts as new."""
    found = list(dict.fromkeys(numbers(rewrite)))
    if not found:
        return not_applicable("new_numbers", "the rewrite has no numbers")
    known = _numbers_said(reference) | _numbers_said(instruction)
    new = [number for number in found if number not in known]
    evidence = f"the rewrite brings in {_some(new)}" if new else "every number of the rewrite was given"
    return verdict("new_numbers", len(new) <= limit, evidence, len(new), limit)


def keeps_names(reference: str, rewrite: str, min_recall: float) -> Verdict:
    """`names`: the capitalised words that do not merely begin a sentence return, word by word and in any case."""
    return _recall("names", _names(fences(reference).prose), {_bare(word) for word in words(rewrite)}, min_recall)


def keeps_quotes(reference: str, rewrite: str) -> Verdict:
    """`quotes`: what stands in double quotes and has two words or more returns verbatim, with or without the quotes."""
    quotes = [squash(match[1] or match[2]).rstrip(",.;:!?") for match in QUOTE.finditer(fences(reference).prose)]
    wanted = [quote for quote in dict.fromkeys(quotes) if len(words(quote)) >= 2]
    text = squash(rewrite)
    return _recall("quotes", wanted, {quote for quote in wanted if quote in text}, 1.0)


def keeps_links(instruction: str, reference: str, rewrite: str) -> Verdict:
    """`links`: every URL and e-mail address returns, and none comes that reference and instruction lack."""
    wanted, found = _links(reference), _links(rewrite)
    if not wanted and not found:
        return not_applicable("links", "neither text has a link")
    lost, new = sorted(wanted - found), sorted(found - wanted - _links(instruction))
    faults = [f"lacks {_some(lost)}"] * bool(lost) + [f"brings in {_some(new)}"] * bool(new)
    evidence = f"the rewrite {' and '.join(faults) or 'keeps every link'}"
    return verdict("links", not faults, evidence, len(lost) + len(new), 0)


def keeps_identifiers(reference: str, rewrite: str) -> Verdict:
    """`identifiers`: what stands in backticks outside code blocks, snake_case, camelCase and called names return."""
    matches = IDENTIFIER.finditer(fences(reference).prose)
    wanted = [name for name in dict.fromkeys(next(filter(None, m.groups())).strip() for m in matches) if name]
    found = {name for name in wanted if re.search(rf"(?<!\w){re.escape(name)}(?!\w)", rewrite)}
    return _recall("identifiers", wanted, found, MIN_IDENTIFIER_RECALL)


def keeps_polarity(reference: str, rewrite: str) -> Verdict:
    """`polarity`: the first sentence says yes or no (true, false, ...) as before; a label is the same label.

    Where neither is the case, "Do not ..." must not become "Do ...", nor the other way round.
    """
    ours, theirs = _pole(rewrite), _pole(reference)
    if theirs is not None:
        said = {True: "yes", False: "no", None: "neither yes nor no"}
        return verdict("polarity", ours == theirs, f"the rewrite says {said[ours]}, the reference {said[theirs]}")
    if 0 < len(words(reference)) <= LABEL_WORDS and not re.search(r"[.!?\n]", reference.strip()):
        same = normal_form(reference) == normal_form(rewrite)
        return verdict("polarity", same, f"the label {'is still' if same else 'is no longer'} {squash(reference)!r}")
    (lead, denied), (old_lead, was_denied) = _lead(rewrite), _lead(reference)
    if lead == old_lead and (denied or was_denied):
        return verdict("polarity", denied == was_denied, f"{lead!r} is {'' if denied else 'not '}denied in the rewrite")
    return not_applicable("polarity", "the reference begins with no yes, no, label or denial")


def keeps_final_number(reference: str, rewrite: str, category: str) -> Verdict:
    """`maths`: a maths answer ends in the same number, be it a unit's exponent; no number never equals no number."""
    ours, theirs = numbers(rewrite), numbers(reference)
    if category != "maths" or not theirs:
        return not_applicable("maths", "the reference has no number" if category == "maths" else "not a maths answer")
    last = ours[-1] if ours else "no number"
    return verdict("maths", last == theirs[-1], f"the rewrite ends in {last}, the reference in {theirs[-1]}")


def keeps_code(reference: str, rewrite: str, category: str) -> Verdict:
    """`code`: code blocks are there and closed; Python parses and defines the same names. Nothing is executed.

    Blocks that are the reference's own, letter for letter, are not parsed: they are as good as they were.
    """
    old, new = fences(reference), fences(rewrite)
    if not old.blocks and not (category == "code" and new.blocks):
        return not_applicable("code", "the reference has no code block")
    if not new.closed or not new.blocks:
        fault = "has no code block" if new.closed else "leaves a code block open"
        return verdict("code", False, f"the rewrite {fault}")
    if new.blocks == old.blocks:
        return verdict("code", True, "the code is unchanged")
    defined = [_definitions(body) for language, body in new.blocks if _is_python(language, body)]
    if None in defined:
        return verdict("code", False, "a Python block of the rewrite does not parse")
    blocks = old.blocks or (("python", reference),)
    before = {name for language, body in blocks if _is_python(language, body) for name in _definitions(body) or ()}
    after = {name for names in defined for name in names or ()}
    lost, added = _some(sorted(before - after)) or "nothing", _some(sorted(after - before)) or "nothing"
    return verdict("code", before == after, f"of top-level definitions the rewrite lacks {lost} and adds {added}")


def keeps_json(reference: str, rewrite: str) -> Verdict:
    """`json`: a reference that is JSON, or whose only JSON block is, returns with equal keys and values.

    JSON without a word around it stays so, a code block apart.
    """
    bare, ours = _json_form(reference), _json_form(rewrite)
    wanted = bare or _only_json_block(reference)
    if wanted is None:
        return not_applicable("json", "the reference is not a JSON object or array")
    if ours is None and (bare is None or not fences(rewrite).prose.strip()):
        ours = _only_json_block(rewrite)
    evidence = "holds equal JSON" if ours == wanted else "holds other JSON" if ours else "is not JSON where it was"
    return verdict("json", ours == wanted, f"the rewrite {evidence}")


class Fences(NamedTuple):
    """A Markdown text taken apart at its code fences."""

    blocks: tuple[tuple[str, str], ...]
    """Language (may be "") and body of each closed code block."""
    prose: str
    """Everything outside closed code blocks."""
    closed: bool


def fences(text: str) -> Fences:
    """Return the code blocks of a text and the rest; a block that is never closed belongs to the rest."""
    blocks: list[tuple[str, str]] = []
    prose: list[str] = []
    body: list[str] = []
    mark = language = ""
    for line in text.split("\n"):
        fence = FENCE.fullmatch(line)
        if not mark and fence:
            mark, language, body = fence[1], (fence[2].split() or [""])[0].casefold(), []
        elif mark and fence and fence[1].startswith(mark) and not fence[2].strip():
            blocks.append((language, "\n".join(body)))
            mark = ""
        else:
            (body if mark else prose).append(line)
    return Fences(tuple(blocks), "\n".join(prose + body if mark else prose), not mark)


def _names(prose: str) -> list[str]:
    """Return the capitalised words, case-folded; the first of a sentence only before another ("Ada King")."""
    text = LIST_MARK.sub("\n", prose)
    found: dict[str, None] = {}
    previous, pending = 0, ""
    for match in WORD.finditer(text):
        word, gap = match[0], text[previous : match.start()]
        previous = match.end()
        name = _bare(word.casefold())
        if not word[0].isupper() or len(name) < 2 or name.startswith(("i'", "i’")):
            pending = ""
            continue
        if pending and gap == " ":
            found[pending] = None
        pending = ""
        if word.isupper() or (gap and STOPS.isdisjoint(gap) and match.start() > len(gap)):
            found[name] = None
        elif name not in FUNCTION_WORDS:
            pending = name
    return list(found)


def _bare(word: str) -> str:
    return word.removesuffix("'s").removesuffix("’s")


def _links(text: str) -> set[str]:
    return {match[0].casefold().rstrip(".,;:!?*_/") for match in LINK.finditer(text)}


def _numbers_said(text: str) -> set[str]:
    return {*numbers(text), *(SPELLED[word] for word in words(text) if word in SPELLED)}


def _pole(text: str) -> bool | None:
    answer = plain(text).casefold()
    if first := POLE.match(answer):
        return first[1] in ("yes", "true", "correct")
    if said := SAID_POLE.search(re.split(r"[.!?](?: |\Z)", answer, maxsplit=1)[0]):
        return ((said[2] or said[3]) in ("yes", "true", "correct")) != bool(said[1])
    return None


def _lead(text: str) -> tuple[str, bool]:
    """Return the first word and whether it is denied: "Don't" is ("do", True), "Not possible" ("possible", True)."""
    tokens = " ".join(UNCONTRACTED.get(word, word.replace("n't", " not")) for word in words(plain(text[:200]))).split()
    if tokens[:1] in (["not"], ["never"]):
        return " ".join(tokens[1:2]), True
    return " ".join(tokens[:1]), tokens[1:2] == ["not"]


def _is_python(language: str, body: str) -> bool:
    return language in ("python", "python3", "py") or (not language and bool(PYTHON_LINE.search(body)))


def _definitions(code: str) -> frozenset[str] | None:
    """Return the names of top-level functions and classes, or None where the code does not parse."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # "\d" in a string and `x is 1` warn while parsing
            body = ast.parse(dedent(code)).body
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return None
    kinds = (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)
    return frozenset(node.name for node in body if isinstance(node, kinds))


def _json_form(text: str) -> str | None:
    """Return a JSON object or array in a form equal for equal values only (1 is neither 1.0 nor true), or None."""
    if text.strip()[:1] not in ("{", "["):
        return None
    try:
        return json.dumps(json.loads(text, parse_constant=_refuse_constant), sort_keys=True)
    except (ValueError, RecursionError):
        return None


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not JSON")


def _only_json_block(text: str) -> str | None:
    forms = [_json_form(body) for language, body in fences(text).blocks if language in ("json", "")]
    found = [form for form in forms if form is not None]
    return found[0] if len(found) == 1 else None


def plain(text: str) -> str:
    """Return a text on one line, with straight apostrophes: what patterns of phrases are held against."""
    return squash(text.replace("’", "'"))


def _some(found: Sequence[str]) -> str:
    rest = f" and {len(found) - 5} more" if len(found) > 5 else ""
    return ", ".join(text[:60] for text in found[:5]) + rest


def _recall(check: str, wanted: Sequence[str], found: Collection[str], limit: float) -> Verdict:
    if not wanted:
        return not_applicable(check, f"the reference has no {check}")
    lost = [text for text in wanted if text not in found]
    recall = (len(wanted) - len(lost)) / len(wanted)
    evidence = (
        f"lacks {_some(lost)} of the reference's {len(wanted)} {check}" if lost else f"keeps the reference's {check}"
    )
    return verdict(check, recall >= limit, f"the rewrite {evidence}", recall, limit)


def verdict(
    check: str, passed: bool, evidence: str, measured: float | None = None, limit: float | None = None
) -> Verdict:
    """Return the verdict of a check that could be applied."""
    quantity, bound = (None if value is None else float(value) for value in (measured, limit))
    return Verdict(check, "passed" if passed else "failed", quantity, bound, evidence)


def not_applicable(check: str, why: str) -> Verdict:
    """Return the verdict of a check that has nothing to compare."""
    return Verdict(check, "not_applicable", None, None, why)
