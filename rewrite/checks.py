"""Check that a rewrite keeps the facts of its reference: placeholders, numbers, units, names, quotes, links, lists, code, JSON.

Each function is one check. A check that does not apply returns `not_applicable`, never `passed`. A model wrote the texts, so
patterns are linear in them, parsers may fail and nothing is executed.
"""

import ast
import json
import re
import warnings
from bisect import bisect_left
from collections import Counter
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from itertools import islice
from textwrap import dedent
from typing import Literal, NamedTuple

from kiloset.core.form import FUNCTION_WORDS, LIST_LINE
from kiloset.core.text import GAP, LIST_MARK, NUMBER, SPELLED, WORD, numbers, read_json, squash, words
from kiloset.data.masking import placeholders
from kiloset.data.personal import find_personal, redacted

FEW_NUMBERS = 3
"""Of at most so many numbers none may be lost."""
MIN_IDENTIFIER_RECALL = 0.8
"""Share of the reference's code identifiers that must be kept, as for names."""
LEAST_SPELLED = 3
"""Least number in words that must return; "one" is usually a pronoun, and "two" may return as "both"."""
HINTED = {
    **{word: str(1 + value) for value, word in enumerate(
        words("first second third fourth fifth sixth seventh eighth ninth tenth eleventh twelfth"))},
    "twentieth": "20", "thirtieth": "30", "half": "0.5", "½": "0.5", "¼": "0.25", "¾": "0.75",
}  # fmt: skip
"""Words and signs that keep a number, but need not return themselves."""
CLOCK = re.compile(r"(?<=\d):00\b(?!:)")
QUANTITY = re.compile(
    rf"([$€£¥])?(?:({NUMBER.pattern})|(?<![\w-])({'|'.join(sorted(SPELLED, key=len, reverse=True))})(?![\w]))"
    rf"(?:{GAP}|-)?(?:square |cubic |degrees? |more )?(°[CF]|[%€£]|[a-z]{{1,20}}(?:-hours?)?)?",
    re.IGNORECASE,
)
UNITS = """
kilometer km kilometre|meter m metre|centimeter cm centimetre|millimeter mm millimetre|mile mi|foot feet ft|inch inche|yard yd
kilogram kg kilo|gram g|pound lb £|ounce oz|ton tonne|liter l litre|milliliter ml millilitre|gallon gal|pint|cup
tablespoon tbsp|teaspoon tsp|second sec|minute min m|hour h hr|day|week|month|year yr|decade|century centurie|°c celsiu|
°f fahrenheit|percent %|dollar $ usd|euro € eur|yen ¥|watt w|kilowatt kw|kilowatt-hour kwh|megabyte mb|gigabyte gb|kilobyte kb
terabyte tb|mph|kph|hundred|thousand k|million m mn|billion bn b|trillion tn
"""
"""Units and magnitudes, each with its other names; a plural "s" is left out, and "m" is a metre, a minute or a million."""
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
PEOPLE = ("ish", "ian", "ean", "an", "ese", "ic")
"""Endings that turn a country into a people or a language."""
MIN_ROOT = 4
"""Letters that related names ("Sweden", "Swedish") share at least."""
LONGEST_ROOT = 40
"""Letters of a name whose beginnings are compared with known words."""
ROOT = 4
"""First letters by which a word of a series is recognised."""
SERIES_ITEMS = 4
"""Least number of things of a series; in shorter ones ("cheap, fast and safe") synonyms are too frequent."""
SERIES_WORDS = 3
"""Words of the longest thing in a series."""
MOST_SERIES = 50
"""Series compared of each text; bounds the comparison of all with all."""
MIN_SERIES_RECALL = 0.6
"""Share of a series that must return if it may have become a sentence or a list, where synonyms replace some things."""
SERIES = re.compile(
    rf"(?<![\w,])\w[\w'’-]{{0,30}}(?: \w[\w'’-]{{0,30}}){{0,{SERIES_WORDS}}}"
    rf"(?:, (?:and |or )?\w[\w'’-]{{0,30}}(?: \w[\w'’-]{{0,30}}){{0,{SERIES_WORDS}}}){{1,40}}"
    rf"(?: \w[\w'’-]{{0,30}}){{0,{SERIES_WORDS}}}"
)
SERIES_END = re.compile(" and | or ")
FENCE = re.compile(r"[ \t]*+(`{3,}+|~{3,}+)([^`]*)")
PYTHON_LINE = re.compile(r"^(?:(?:async )?def|class) \w++[^{\n]*:[ \t]*$", re.MULTILINE)


@dataclass(frozen=True, slots=True)
class Verdict:
    """The result of one check: `check` is its slug, `evidence` one readable sentence."""

    check: str
    status: Literal["passed", "failed", "not_applicable"]
    measured: float | None
    """The quantity compared, in the check's own unit; None where the check is a yes or no."""
    limit: float | None
    """The bound that `measured` is compared with; of two bounds, the broken one."""
    evidence: str


def keeps_privacy(instruction: str, reference: str, rewrite: str) -> Verdict:
    """`personal`: the rewrite adds no personal data, and every placeholder of the reference (`kiloset.data.masking`) returns.

    Only phone numbers with "+" are recognised here, without a region; the digits of other phone numbers are new numbers. The
    evidence quotes no value.
    """
    source = f"{instruction}\n{reference}"
    held, wanted, known = (placeholders(text) for text in (rewrite, reference, source))
    values = [(kind, rewrite[start:end]) for start, end, kind in find_personal(rewrite, ())]
    new = [(kind, value) for kind, value in values if value.casefold() not in source.casefold()]
    if not (held or wanted or new):
        return not_applicable("personal", "neither text has personal data or a placeholder that the other lacks")
    invented = [f"{kind} {redacted(value)}" for kind, value in new] + [each for each in held if each not in known]
    lost = [each for each in wanted if each not in held]
    faults = [f"lacks {_some(lost)}"] * bool(lost) + [f"adds {_some(invented)}"] * bool(invented)
    evidence = f"the rewrite {' and '.join(faults) or 'keeps every placeholder'}"
    return verdict("personal", not faults, evidence, len(lost) + len(invented), 0)


def keeps_numbers(reference: str, rewrite: str, min_recall: float) -> Verdict:
    """`numbers`: the reference's distinct numbers, in digits or, from three, in words, return in digits or in words.

    "11:00" is 11. The number of items of a list that returns as a whole ("Here are five tips") may be missing.
    """
    counted = {str(list_items(reference))} & {str(list_items(rewrite))}
    wanted = [number for number in _numbers_of(reference) if number not in counted or number in numbers(reference)]
    return _recall("numbers", wanted, _numbers_mentioned(rewrite), min_recall if len(wanted) > FEW_NUMBERS else 1.0)


def adds_no_numbers(instruction: str, reference: str, rewrite: str, limit: int) -> Verdict:
    """`new_numbers`: the rewrite has no number that reference and instruction lack; a calculated number counts as new.

    The number of the rewrite's list items is allowed.
    """
    every = _numbers_of(rewrite)
    if not every:
        return not_applicable("new_numbers", "the rewrite has no numbers")
    known = _numbers_mentioned(reference) | _numbers_mentioned(instruction) | {str(list_items(rewrite))}
    new = [number for number in every if number not in known]
    evidence = f"the rewrite adds {_some(new)}" if new else "every number of the rewrite is known"
    return verdict("new_numbers", len(new) <= limit, evidence, len(new), limit)


def keeps_units(reference: str, rewrite: str) -> Verdict:
    """`units`: a number that has a unit or a magnitude ("3 litres", "2 million") in both texts has the same one."""
    theirs, ours = _units(reference), _units(rewrite)
    both = [number for number in theirs if number in ours]
    if not both:
        return not_applicable("units", "no number has a known unit in both texts")
    changed = [number for number in both if not theirs[number] & ours[number]]
    evidence = "every number keeps its unit"
    if changed:
        was, now = (" or ".join(sorted(units[changed[0]])) for units in (theirs, ours))
        evidence = f"{changed[0]} is {now} in the rewrite and {was} in the reference"
    return verdict("units", not changed, evidence, len(changed), 0)


def keeps_names(reference: str, rewrite: str, min_recall: float) -> Verdict:
    """`names`: the capitalised words, except at the beginning of a sentence, return one by one and in any case.

    "Sweden" may return as "Swedish" and, just as crudely, "Julia" as "Julian".
    """
    wanted = names_of(fences(reference).prose)
    return _recall("names", wanted, _kept(wanted, rewrite), min_recall)


def adds_no_names(instruction: str, reference: str, rewrite: str, limit: int) -> Verdict:
    """`new_names`: the rewrite has no capitalised word, except at the beginning of a sentence, that the other texts lack.

    A name is not new either if it begins one of their words ("Sun", "sunlight") or begins with one ("Christian", "Christ"),
    so "Ann" passes if they have "annual".
    """
    every = names_of(fences(rewrite).prose)
    if not every:
        return not_applicable("new_names", "the rewrite has no names")
    source = f"{instruction}\n{reference}"
    known, source_words = _kept(every, source), sorted(set(words(source)))
    new = [name for name in every if name not in known and not _is_derived(name, source_words)]
    evidence = f"the rewrite adds {_some(new)}" if new else "every name of the rewrite is known"
    return verdict("new_names", len(new) <= limit, evidence, len(new), limit)


def keeps_list_items(reference: str, rewrite: str) -> Verdict:
    """`list`: if both texts are lists, the rewrite has at least as many items as the reference."""
    wanted, items = list_items(reference), list_items(rewrite)
    if wanted < 2 or items < 2:
        return not_applicable("list", "not both texts are lists")
    return verdict("list", items >= wanted, f"the rewrite lists {items} items, the reference {wanted}", items, wanted)


def keeps_series(reference: str, rewrite: str) -> Verdict:
    """`series`: of four or more things in a row ("oak, ash, elm and lime") most return, recognised by their own words.

    If a shorter series returns, all things must return, because then none became a synonym. The first thing may not belong to
    the series ("Besides hedgehogs, bats, mice and frogs"), so it alone may be lost.
    """
    groups = [group for group in series(fences(reference).prose) if len(group) >= SERIES_ITEMS]
    if not groups:
        return not_applicable("series", "the reference has no series of four")
    roots, rows = _roots(rewrite), [(len(row), _roots(" ".join(row))) for row in series(fences(rewrite).prose)]
    results = []
    for group in groups:
        lost = [item for item in group if not _roots(item) & roots]
        kept = [_roots(item) for item in group if item not in lost]
        is_series = len(kept) >= 2 and any(n < len(group) and all(item & row for item in kept) for n, row in rows)
        limit = 1.0 if is_series and lost != group[:1] else MIN_SERIES_RECALL
        share = len(kept) / len(group)
        results.append(
            (share >= limit, share, limit, f"the rewrite lacks {_some(lost)} of {len(group)} things in a row")
        )
    passed, share, limit, evidence = min(results)
    return verdict("series", passed, "every series returns" if passed else evidence, share, limit)


def keeps_quotes(reference: str, rewrite: str) -> Verdict:
    """`quotes`: a quotation of two or more words in double quotes returns verbatim, with or without the quotes."""
    quotes = [squash(match[1] or match[2]).rstrip(",.;:!?") for match in QUOTE.finditer(fences(reference).prose)]
    wanted = [quote for quote in dict.fromkeys(quotes) if len(words(quote)) >= 2]
    text = squash(rewrite)
    return _recall("quotes", wanted, {quote for quote in wanted if quote in text}, 1.0)


def keeps_links(instruction: str, reference: str, rewrite: str) -> Verdict:
    """`links`: every URL and e-mail address returns, and the rewrite adds none that reference and instruction lack."""
    wanted, links = _links(reference), _links(rewrite)
    if not wanted and not links:
        return not_applicable("links", "neither text has a link")
    lost, new = sorted(wanted - links), sorted(links - wanted - _links(instruction))
    faults = [f"lacks {_some(lost)}"] * bool(lost) + [f"adds {_some(new)}"] * bool(new)
    evidence = f"the rewrite {' and '.join(faults) or 'keeps every link'}"
    return verdict("links", not faults, evidence, len(lost) + len(new), 0)


def keeps_identifiers(reference: str, rewrite: str) -> Verdict:
    """`identifiers`: text in backticks outside code blocks, snake_case, camelCase and called names return."""
    matches = IDENTIFIER.finditer(fences(reference).prose)
    wanted = [name for name in dict.fromkeys(next(filter(None, m.groups())).strip() for m in matches) if name]
    kept = {name for name in wanted if re.search(rf"(?<!\w){re.escape(name)}(?!\w)", rewrite)}
    return _recall("identifiers", wanted, kept, MIN_IDENTIFIER_RECALL)


def keeps_polarity(reference: str, rewrite: str) -> Verdict:
    """`polarity`: an answer that begins with yes or no (true, false, ...) begins with the same, or with another word for it."""
    ours, theirs = _pole(rewrite), _pole(reference)
    if theirs is None:
        return not_applicable("polarity", "the reference begins with neither yes nor no")
    name = {True: "yes", False: "no", None: "neither yes nor no"}
    return verdict(
        "polarity", ours == theirs, f"the rewrite begins with {name[ours]}, the reference with {name[theirs]}"
    )


def keeps_final_number(reference: str, rewrite: str, category: str) -> Verdict:
    """`maths`: a maths answer ends in the same number, even if it is a unit's exponent; no number never equals no number."""
    ours, theirs = numbers(rewrite), numbers(reference)
    if category != "maths" or not theirs:
        return not_applicable("maths", "the reference has no number" if category == "maths" else "not a maths answer")
    last = ours[-1] if ours else "no number"
    return verdict("maths", last == theirs[-1], f"the rewrite ends in {last}, the reference in {theirs[-1]}")


def keeps_code(reference: str, rewrite: str, category: str) -> Verdict:
    """`code`: code blocks exist and are closed; Python parses and defines the same names. Nothing is executed.

    If code differs only in operators, constants and strings, a changed operator or constant is a fault (`>` became `<`).
    Blocks that are identical to the reference's are not parsed.
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
    if before != after:
        return verdict("code", False, f"of top-level definitions the rewrite lacks {lost} and adds {added}")
    changed = _changed_operation(old.blocks, new.blocks)
    return verdict("code", not changed, changed or "the code parses and defines the same names")


def keeps_json(reference: str, rewrite: str) -> Verdict:
    """`json`: JSON, as the whole reference or as its only JSON block, returns with equal keys and values.

    JSON without anything around it must stay so: likelihood prefers a code block where the task wants JSON only.
    """
    bare, ours = _json_form(reference), _json_form(rewrite)
    wanted = bare or _only_json_block(reference)
    if wanted is None:
        return not_applicable("json", "the reference is not a JSON object or array")
    if ours is None and bare is None:
        ours = _only_json_block(rewrite)
    evidence = (
        "contains equal JSON" if ours == wanted else "contains other JSON" if ours else "is not JSON where it was"
    )
    return verdict("json", ours == wanted, f"the rewrite {evidence}")


class Fences(NamedTuple):
    """A Markdown text divided at its code fences."""

    blocks: tuple[tuple[str, str], ...]
    """Language (may be "") and body of each closed code block."""
    prose: str
    """Everything outside closed code blocks."""
    closed: bool


def fences(text: str) -> Fences:
    """Return the code blocks of a text and the rest; an unclosed block belongs to the rest."""
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


def names_of(prose: str) -> list[str]:
    """Return the capitalised words, case-folded; the first word of a sentence only before another one ("Ada King").

    A number at the beginning of a line does not begin its sentence: "7:15 Eat" has no name.
    """
    text = LIST_MARK.sub("\n", prose)
    names: dict[str, None] = {}
    previous, pending, begins = 0, "", True
    for match in WORD.finditer(text):
        word, gap = match[0], text[previous : match.start()]
        previous = match.end()
        name = _name_in(word)
        begins = not STOPS.isdisjoint(gap) or (begins and not gap.strip(" -–—.:*_(#")) or match.start() == len(gap)
        if word[0].isdecimal():
            continue
        if len(name) < 2 or name.startswith(("i'", "i’")):
            pending, begins = "", False
            continue
        if pending and gap == " ":
            names[pending] = None
        pending = ""
        if word.isupper() or not begins:
            names[name] = None
        elif name not in FUNCTION_WORDS:
            pending = name
        begins = False
    return list(names)


def _name_in(word: str) -> str:
    """Return the capitalised parts of a word: "Swedish" of "Swedish-born", but all of "X-ray"."""
    parts = [part for part in word.split("-") if part[:1].isupper()] if word[0].isupper() else []
    return _bare((word if any(len(part) == 1 for part in parts) else "-".join(parts)).casefold())


def series(prose: str) -> list[list[str]]:
    """Return the things between commas and the last "and" or "or", without words that several things share."""
    groups = []
    for match in islice(SERIES.finditer(prose), MOST_SERIES):
        *middle, last = match[0].split(", ")
        pieces = [last] if last.startswith(("and ", "or ")) else SERIES_END.split(last, maxsplit=1)
        first, *rest = (words(item) for item in [*middle, *pieces])
        items = [first[-SERIES_WORDS:], *rest]
        shared = Counter(word for item in items for word in set(item))
        own = [[word for word in item if word not in FUNCTION_WORDS and shared[word] == 1] for item in items]
        groups.append([" ".join(item) for item in own if item])
    return groups


def _roots(text: str) -> set[str]:
    return {word[:ROOT] for word in words(text)}


def list_items(text: str) -> int:
    """Return how many lines outside code blocks are list items."""
    return sum(bool(LIST_LINE.match(line)) for line in fences(text).prose.split("\n"))


def _kept(names: Collection[str], text: str) -> set[str]:
    """Return the names that occur in a text, in any case, unchanged or as "Swedish" for "Sweden"."""
    parts = [part for word in WORD.findall(text) for part in (word, _name_in(word), *re.split(r"['’-]", word))]
    bare = {_bare(part.casefold()) for part in parts}
    peoples = {root for part in parts if part[:1].isupper() for root in _people(part.casefold())}
    lands = {root for part in parts if part[:1].isupper() for root in _land(part.casefold())}
    return {
        name
        for name in names
        if name in bare or set(name.split("-")) <= bare or _people(name) & lands or _land(name) & peoples
    }


def _is_derived(name: str, known: Sequence[str]) -> bool:
    """Return whether a name of 3 letters begins a known word, or a known word of `MIN_ROOT` letters begins the name.

    The known words are sorted.
    """
    roots = [name[:end] for end in range(MIN_ROOT, min(len(name), LONGEST_ROOT))]
    after = known[(place := bisect_left(known, name)) : place + 1]
    begins = len(name) >= MIN_ROOT - 1 and any(word.startswith(name) for word in after)
    return begins or any(known[(place := bisect_left(known, root)) : place + 1] == [root] for root in roots)


def _people(word: str) -> set[str]:
    return {word.removesuffix(end) for end in PEOPLE if word.endswith(end) and len(word) - len(end) >= MIN_ROOT}


def _land(word: str) -> set[str]:
    return {word[:end] for end in range(max(len(word) - 2, MIN_ROOT), len(word) + 1)}


def _bare(word: str) -> str:
    return word.removesuffix("'s").removesuffix("’s")


def _links(text: str) -> set[str]:
    return {match[0].casefold().rstrip(".,;:!?*_/") for match in LINK.finditer(text)}


def _numbers_of(text: str) -> list[str]:
    """Return the distinct numbers of a text, in digits or, from three, in words."""
    spelled = (SPELLED[word] for word in words(text) if word in SPELLED)
    return list(dict.fromkeys([*numbers(CLOCK.sub("", text)), *(n for n in spelled if int(n) >= LEAST_SPELLED)]))


def _numbers_mentioned(text: str) -> set[str]:
    """Return the numbers that a text contains or implies ("one", "third", "½")."""
    spelled = {SPELLED.get(word) or HINTED.get(word) for word in (*words(text), *(c for c in text if c in HINTED))}
    return {*numbers(CLOCK.sub("", text)), *numbers(text), *filter(None, spelled)}


def _units(text: str) -> dict[str, set[str]]:
    """Return, by number, the units beside it."""
    units: dict[str, set[str]] = {}
    for match in QUANTITY.finditer(text):
        sign, digits, spelled, after = match.groups()
        number = SPELLED[spelled.casefold()] if spelled else "".join(numbers(f"x {digits}"))
        unit = (after or "").casefold()
        for name in (sign or "", unit, unit.removesuffix("s")):
            if name in _UNIT_OF:
                units.setdefault(number, set()).update(_UNIT_OF[name])
    return units


def _pole(text: str) -> bool | None:
    first = POLE.match(plain(text).casefold())
    return first[1] in ("yes", "true", "correct") if first else None


def _is_python(language: str, body: str) -> bool:
    return language in ("python", "python3", "py") or (not language and bool(PYTHON_LINE.search(body)))


def _definitions(code: str) -> frozenset[str] | None:
    """Return the names of top-level functions and classes, or None if the code does not parse."""
    tree = _parsed(code)
    kinds = (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)
    return None if tree is None else frozenset(node.name for node in tree.body if isinstance(node, kinds))


def _parsed(code: str) -> ast.Module | None:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # "\d" in a string and `x is 1` warn while parsing
            return ast.parse(dedent(code))
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return None


def _changed_operation(old: Sequence[tuple[str, str]], new: Sequence[tuple[str, str]]) -> str:
    """Return how an operator or constant changed in Python blocks that are otherwise equal, or ""."""
    if len(old) != len(new):
        return ""
    for (language, before), (_, after) in zip(old, new, strict=True):
        trees = (_parsed(before), _parsed(after)) if _is_python(language, before) else (None, None)
        if trees[0] is not None and trees[1] is not None:
            (shape, was), (new_shape, now) = (_anatomy(tree) for tree in trees if tree is not None)
            if shape == new_shape and was != now:
                return next(f"{b} becomes {a} in otherwise equal code" for b, a in zip(was, now, strict=True) if b != a)
    return ""


def _anatomy(tree: ast.Module) -> tuple[list[tuple[object, ...]], list[str]]:
    """Return the kind, identifiers and number of children of each node, and separately the operators and constants."""
    shape: list[tuple[object, ...]] = []
    operations: list[str] = []
    for node in ast.walk(tree):
        if isinstance(node, (ast.operator, ast.unaryop, ast.cmpop, ast.boolop)):
            operations.append(type(node).__name__)
        elif isinstance(node, ast.Constant):
            shape.append((type(node.value) is str,))
            operations += [] if isinstance(node.value, (str, bytes)) else [repr(node.value)]
        else:
            named = tuple(value for _, value in ast.iter_fields(node) if isinstance(value, str))
            shape.append((type(node).__name__, named, sum(1 for _ in ast.iter_child_nodes(node))))
    return shape, operations


def _json_form(text: str) -> str | None:
    """Return a JSON object or array in a canonical form, in which 1 differs from 1.0 and true, or None."""
    if text.strip()[:1] not in ("{", "["):
        return None
    try:
        return json.dumps(read_json(text), sort_keys=True)
    except (ValueError, RecursionError):
        return None


def _only_json_block(text: str) -> str | None:
    forms = [_json_form(body) for language, body in fences(text).blocks if language in ("json", "")]
    valid = [form for form in forms if form is not None]
    return valid[0] if len(valid) == 1 else None


def plain(text: str) -> str:
    """Return a text on one line with straight apostrophes, as the patterns of phrases expect it."""
    return squash(text.replace("’", "'"))


def _some(texts: Sequence[str]) -> str:
    rest = f" and {len(texts) - 5} more" if len(texts) > 5 else ""
    return ", ".join(text[:60] for text in texts[:5]) + rest


def _recall(check: str, wanted: Sequence[str], kept: Collection[str], limit: float) -> Verdict:
    if not wanted:
        return not_applicable(check, f"the reference has no {check}")
    lost = [text for text in wanted if text not in kept]
    recall = (len(wanted) - len(lost)) / len(wanted)
    evidence = (
        f"lacks {_some(lost)} of the reference's {len(wanted)} {check}" if lost else f"keeps the reference's {check}"
    )
    return verdict(check, recall >= limit, f"the rewrite {evidence}", recall, limit)


def verdict(
    check: str, passed: bool, evidence: str, measured: float | None = None, limit: float | None = None
) -> Verdict:
    """Return the verdict of a check that applies."""
    quantity, bound = (None if value is None else float(value) for value in (measured, limit))
    return Verdict(check, "passed" if passed else "failed", quantity, bound, evidence)


def not_applicable(check: str, why: str) -> Verdict:
    """Return the verdict of a check that does not apply."""
    return Verdict(check, "not_applicable", None, None, why)


def _unit_of() -> dict[str, set[str]]:
    """Return, by name or sign, the units that it can mean."""
    units: dict[str, set[str]] = {}
    for line in re.split(r"[|\n]+", UNITS.strip()):
        for name in line.split():
            units.setdefault(name, set()).add(line.split()[0])
    return units


_UNIT_OF = _unit_of()
