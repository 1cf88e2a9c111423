"""Check that the numbers of an answer come from its task and text."""

import re
from itertools import accumulate, combinations

from kiloset.core.text import SPELLED, numbers, words

COMPUTED = re.compile(
    r"\bhow (?:much|many|long|old|far)\b|\b(?:calculate|compute|work out|total|altogether|estimate|average|mean|percent(?:age)?|difference|century)\b",
    re.IGNORECASE,
)
"""A task whose answer may be any result of the numbers."""
SMALL = 10
"""Whole numbers up to this one may count parts of the answer ("two of the three")."""
MONTHS = words("january february march april may june july august september october november december")
NAMED_NUMBERS = {word: digits for word, digits in SPELLED.items() if "-" not in word} | {
    "hundred": "100", "thousand": "1000", "dozen": "12", "half": "0.5",
}  # fmt: skip
MOST_NUMBERS = 40
"""Most numbers of a text whose sums and differences are computed."""


def added_number(instruction: str, input: str, response: str) -> str:
    """Return a number of the answer that neither the task and text have nor simple sums of their numbers; "" if none."""
    source = f"{instruction}\n{input}"
    known = {*numbers(source), *_in_words(source)}
    if COMPUTED.search(instruction):
        return ""
    ordered = [float(number) for number in numbers(source)][:MOST_NUMBERS]
    values = sorted({float(number) for number in known})[:MOST_NUMBERS]
    sums = _sums(ordered)
    for number in numbers(response):
        value = abs(float(number))
        if number in known or number.lstrip("-") in known or (value <= SMALL and value.is_integer()):
            continue
        if not _is_derived(value, values) and not any(abs(value - total) <= 0.006 for total in sums):
            return number
        values.append(value)  # "88 earned and 75 spent, so 13 remain": from a sum, a difference of sums
    return ""


def _sums(values: list[float]) -> set[float]:
    """Return the sums of consecutive numbers, and of every second, third, … number as in the columns of a table."""
    sums: set[float] = set()
    for step in range(1, 7):
        for start in range(step):
            column = values[start::step]
            for first in range(len(column)):
                sums |= set(accumulate(column[first:]))
    return sums


def _in_words(text: str) -> list[str]:
    tokens = words(text)
    return [NAMED_NUMBERS[token] for token in tokens if token in NAMED_NUMBERS] + [
        str(MONTHS.index(token) + 1) for token in tokens if token in MONTHS
    ]


def _is_derived(value: float, values: list[float]) -> bool:
    """Return whether a value is the sum, difference, product, quotient, percentage or change in per cent of two values, or the sum or mean of all.

    12-hour times become 24-hour ones, and a two-digit year has a century before it.
    """
    near = max(0.006 * value, 0.006)
    if values and min(abs(value - sum(values)), abs(value - sum(values) / len(values))) <= near:
        return True
    if any(
        abs(value - other) <= near for one in values for other in (one + 12, one - 12, one * 100, one / 100, one % 100)
    ):
        return True
    for one, other in combinations(values, 2):
        results = [one + other, abs(one - other), one * other]
        results += [one / other, other / one, 100 * one / other, 100 * other / one,
                    100 * abs(one - other) / one, 100 * abs(one - other) / other] if one and other else []  # fmt: skip
        if any(abs(value - result) <= near for result in results):
            return True
    return False
