"""Replace personal data in the texts of one row by placeholders: `[e-mail address]`, `[phone number 2]`.

The same value gets the same placeholder in all texts; several values of one kind are numbered in their order.
"""

from collections.abc import Iterable, Sequence

from kiloset.data.personal import NAMES, PLACEHOLDER, find_personal, redacted


def masked(texts: Sequence[str], regions: Sequence[str]) -> tuple[list[str], list[str]]:
    """Return the texts without personal data, and the masked kinds in order of precedence.

    Nothing else is changed. Existing placeholders stay, and new ones are numbered after them.
    """
    now, kinds = list(texts), set[str]()
    # Repeated, because the rest of two overlapping matches may be a match of its own after the first is masked.
    while any(spans_of := [find_personal(text, regions) for text in now]):
        kinds |= {kind for spans in spans_of for _, _, kind in spans}
        now = _once(now, spans_of)
    return now, [kind for kind in NAMES if kind in kinds]


def veiled(text: str, regions: Sequence[str]) -> str:
    """Return a text for display, in which each value is redacted and has its kind."""
    for start, end, kind in reversed(find_personal(text, regions)):
        text = f"{text[:start]}[{kind} {redacted(text[start:end])}]{text[end:]}"
    return text


def placeholders(text: str) -> list[str]:
    """Return the different placeholders of a text, in order."""
    return list(dict.fromkeys(match[0] for match in PLACEHOLDER.finditer(text)))


def _once(texts: Sequence[str], spans_of: Sequence[Iterable[tuple[int, int, str]]]) -> list[str]:
    taken: dict[str, int] = {}
    for one in PLACEHOLDER.finditer("\n".join(texts)):
        taken[one[1]] = max(taken.get(one[1], 0), int(one[2] or 1))
    values: dict[str, list[str]] = {}
    pieces: list[tuple[list[str], list[tuple[str, int]]]] = []
    for text, spans in zip(texts, spans_of, strict=True):
        between, own, end = [], [], 0
        for start, until, kind in spans:
            between.append(text[end:start])
            own.append((kind, _number(values.setdefault(kind, []), _canonical(kind, text[start:until]), kind)))
            end = until
        pieces.append(([*between, text[end:]], own))

    def placeholder(kind: str, at: int) -> str:
        name, before = NAMES[kind], taken.get(NAMES[kind], 0)
        return f"[{name}]" if not before and len(values[kind]) == 1 else f"[{name} {before + at + 1}]"

    return [
        between[0] + "".join(placeholder(*one) + rest for one, rest in zip(own, between[1:], strict=True))
        for between, own in pieces
    ]


def _number(known: list[str], value: str, kind: str) -> int:
    """Return a value's place among the values of its kind; add it if it is new."""
    for at, other in enumerate(known):
        # A phone number with and without its country code is the same number.
        if value == other or (kind == "phone" and (value.endswith(other) or other.endswith(value))):
            return at
    known.append(value)
    return len(known) - 1


def _canonical(kind: str, value: str) -> str:
    """Return a form of a value that is the same in other notations."""
    if kind in ("card", "phone"):
        return "".join(str(int(c)) for c in value if c.isdecimal()).lstrip("0")
    return "".join(value.split()) if kind == "IBAN" else value.casefold() if kind in ("e-mail", "IP address") else value
