"""Puts placeholders where texts of one row hold personal data: `[e-mail address]`, `[phone number 2]`.

The same value has the same placeholder in all of them; where a kind has several values they are numbered as they come.
"""

import re
from collections.abc import Iterable, Sequence

from kiloset.data.personal import finds, redacted

NAMES = {
    "key": "key", "e-mail": "e-mail address", "IBAN": "IBAN", "card": "card number", "IP address": "IP address",
    "phone": "phone number",
}  # fmt: skip
"""How a placeholder calls each kind of `kiloset.data.personal`."""
PLACEHOLDER = re.compile(rf"\[({'|'.join(NAMES.values())})(?: ([1-9]\d{{0,3}}))?\]")


def masked(texts: Sequence[str], regions: Sequence[str]) -> tuple[list[str], list[str]]:
    """Return texts in which nothing is found any more, and the kinds that were, in order of precedence.

    Nothing else is changed. What has a placeholder already keeps it, and new ones are numbered after it.
    """
    now, kinds = list(texts), set[str]()
    # Again until nothing is found: what two finds shared may be one of its own once the surer of them is gone.
    while any(found := [finds(text, regions) for text in now]):
        kinds |= {kind for spans in found for _, _, kind in spans}
        now = _once(now, found)
    return now, [kind for kind in NAMES if kind in kinds]


def veiled(text: str, regions: Sequence[str]) -> str:
    """Return a text as it may be shown: each value with its kind, and redacted."""
    for start, end, kind in reversed(finds(text, regions)):
        text = f"{text[:start]}[{kind} {redacted(text[start:end])}]{text[end:]}"
    return text


def placeholders(text: str) -> list[str]:
    """Return the different placeholders of a text, in order."""
    return list(dict.fromkeys(found[0] for found in PLACEHOLDER.finditer(text)))


def _once(texts: Sequence[str], found: Sequence[Iterable[tuple[int, int, str]]]) -> list[str]:
    taken: dict[str, int] = {}
    for one in PLACEHOLDER.finditer("\n".join(texts)):
        taken[one[1]] = max(taken.get(one[1], 0), int(one[2] or 1))
    values: dict[str, list[str]] = {}
    pieces: list[tuple[list[str], list[tuple[str, int]]]] = []
    for text, spans in zip(texts, found, strict=True):
        between, here, end = [], [], 0
        for start, until, kind in spans:
            between.append(text[end:start])
            here.append((kind, _number(values.setdefault(kind, []), _canonical(kind, text[start:until]), kind)))
            end = until
        pieces.append(([*between, text[end:]], here))

    def placeholder(kind: str, at: int) -> str:
        name, before = NAMES[kind], taken.get(NAMES[kind], 0)
        return f"[{name}]" if not before and len(values[kind]) == 1 else f"[{name} {before + at + 1}]"

    return [
        between[0] + "".join(placeholder(*one) + rest for one, rest in zip(here, between[1:], strict=True))
        for between, here in pieces
    ]


def _number(known: list[str], value: str, kind: str) -> int:
    """Return a value's place among those of its kind, where it is put if it is new."""
    for at, other in enumerate(known):
        # With or without country code it is one number.
        if value == other or (kind == "phone" and (value.endswith(other) or other.endswith(value))):
            return at
    known.append(value)
    return len(known) - 1


def _canonical(kind: str, value: str) -> str:
    """Return what a value has in common with itself written otherwise."""
    if kind in ("card", "phone"):
        return "".join(str(int(c)) for c in value if c.isdecimal()).lstrip("0")
    return "".join(value.split()) if kind == "IBAN" else value.casefold() if kind in ("e-mail", "IP address") else value
