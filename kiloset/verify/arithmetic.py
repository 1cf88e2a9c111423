"""Compute the equations that an answer states.

Only whole equations with plain numbers are read ("3 × 4 = 12", "$1,200 / 4 = $300", "20% of 50 = 10"): no variables, no
words as operators. An equation may be rounded to the decimals that it shows. Nothing is evaluated as code.
"""

import re
from collections.abc import Iterator
from fractions import Fraction

NUMBER = r"(?:[-−](?=[\d$€£¥]))?[$€£¥]?[ ]?(?:\d{1,3}(?:,\d{3})+|\d+)(?:\.\d+)?"
UNIT = r"(?:[ ]?(?:%|°[CF]?|[$€£¥]|[A-Za-z]{2,12}(?:/[A-Za-z]{1,8})?|[gmlshLkWVJN]\b))?"
"""A unit or noun after a number; it is not compared. Other single letters are variables."""
OPERATOR = r"(?:[+\-−–×*·÷/]|(?<=[ ])x(?=[ ][\d$€£¥(]))"
TERM = rf"\(*{NUMBER}{UNIT}\)*"
EQUATION = re.compile(
    rf"(?<![\w.,:)=+×*·÷/^√-])(?P<left>{TERM}(?:[ ]*{OPERATOR}[ ]*{TERM})+)[ ]*(?P<sign>=|≈|≃)[ ]*(?P<right>{NUMBER})(?![.,]?\d|[\w^]|[ ]*(?:[+×*·÷/^(]|[-−–][ ]*[\d(]))"
)
PERCENTAGE = re.compile(
    rf"(?P<rate>\d+(?:\.\d+)?)[ ]?% of (?P<whole>{NUMBER})[ ]*(?:=|is|equals)[ ]*(?P<right>{NUMBER})(?![.,]?\d|[\w%]|[ ]*(?:[+×*·÷/^(]|[-−–x][ ]*[\d(]))"
)
TOKEN = re.compile(
    rf"\(|\)|(?P<number>(?:\d{{1,3}}(?:,\d{{3}})+|\d+)(?:\.\d+)?)(?:/(?P<below>\d+)(?![\d.,]))?(?P<percent>[ ]?%)?|(?P<operator>{OPERATOR})"
)
"""A fraction without spaces binds closer than a sign with spaces: "7/12 ÷ 1/6"."""
WORDS = re.compile(r"[A-Za-z°]{2,12}(?:/[A-Za-z]{1,8})?|(?<=[\d ])[A-WYZa-wyz](?=[ )]|\Z)")
MOST_TERMS = 40
"""Most tokens of one equation that are read."""
RELATIVE = Fraction(1, 100)
"""Largest relative error of a result marked as rounded."""


def wrong_equation(text: str) -> str:
    """Return the first equation of a text that is false, with its right result; "" if all that are read are true."""
    for stated, left, right, is_rounded in _equations(text):
        if left is None or right is None:
            continue
        decimals = len(stated.rpartition(".")[2].strip()) if re.search(r"\.\d+\s*\Z", stated) else 0
        # "2/3 = 0.67" rounds, "7/2 = 3" cuts: both show fewer decimals than the result has.
        allowed = Fraction(1, 2 * 10**decimals) if decimals else Fraction(0)
        if is_rounded or (left.denominator != 1 and not decimals):
            allowed = max(allowed, abs(left) * RELATIVE, Fraction(1, 2))
        if abs(left - right) > allowed:
            return f"{stated.strip()!r} is false: the result is {_decimal(left)}"
    return ""


def _equations(text: str) -> Iterator[tuple[str, Fraction | None, Fraction | None, bool]]:
    """Yield the text, the computed left side, the stated right side and whether it is marked as rounded."""
    for match in EQUATION.finditer(text):
        yield match[0], _value(match["left"]), _number(match["right"]), match["sign"] != "="
    for match in PERCENTAGE.finditer(text):
        whole = _number(match["whole"])
        left = None if whole is None else Fraction(match["rate"]) * whole / 100
        yield match[0], left, _number(match["right"]), False


def _number(text: str) -> Fraction | None:
    plain = re.sub(r"[^\d.\-−]", "", text).replace("−", "-").rstrip(".")
    try:
        return Fraction(plain)
    except (ValueError, ZeroDivisionError):
        return None


def _value(expression: str) -> Fraction | None:
    """Return the value of sums, products and brackets of plain numbers, None if it is anything else."""
    tokens: list[str | Fraction] = []
    # A date, a division by zero, and "100 - 20%", of which the percentage is relative.
    if re.search(r"\d{4}-\d\d-\d\d|/0+(?!\d|\.)|[-+−–]\s*\d+(?:\.\d+)?\s*%", expression):
        return None
    for match in TOKEN.finditer(WORDS.sub(" ", expression)):
        if match["number"]:
            number = Fraction(match["number"].replace(",", "")) / int(match["below"] or 1)
            tokens.append(number / 100 if match["percent"] else number)
        else:
            tokens.append(match[0])
    if len(tokens) > MOST_TERMS:
        return None
    try:
        value, rest = _sum(tokens)
    except (IndexError, ZeroDivisionError, TypeError):
        return None
    return value if not rest else None


def _sum(tokens: list[str | Fraction]) -> tuple[Fraction, list[str | Fraction]]:
    value, rest = _product(tokens)
    while rest and rest[0] in ("+", "-", "−", "–"):
        other, after = _product(rest[1:])
        value, rest = (value + other if rest[0] == "+" else value - other), after
    return value, rest


def _product(tokens: list[str | Fraction]) -> tuple[Fraction, list[str | Fraction]]:
    value, rest = _factor(tokens)
    while rest and rest[0] in ("×", "x", "*", "·", "÷", "/"):
        other, after = _factor(rest[1:])
        value, rest = (value * other if rest[0] in ("×", "x", "*", "·") else value / other), after
    return value, rest


def _factor(tokens: list[str | Fraction]) -> tuple[Fraction, list[str | Fraction]]:
    if tokens[0] in ("-", "−", "–"):
        value, rest = _factor(tokens[1:])
        return -value, rest
    if tokens[0] == "(":
        value, rest = _sum(tokens[1:])
        if rest[0] != ")":
            raise IndexError
        return value, rest[1:]
    if not isinstance(tokens[0], Fraction):
        raise TypeError
    return tokens[0], tokens[1:]


def _decimal(value: Fraction) -> str:
    return f"{float(value):,.6g}" if value.denominator != 1 else f"{value.numerator:,}"
