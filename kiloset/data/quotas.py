"""Divide a number of rows among categories."""

from collections.abc import Mapping
from fractions import Fraction
from typing import Any


def apportion(weights: Mapping[str, Any], size: int) -> dict[str, int]:
    """Divide `size` in proportion to `weights` by largest remainders; ties go to the name that stands first."""
    total = sum(weights.values())
    exact = {name: Fraction(size) * Fraction(weight) / Fraction(total) for name, weight in weights.items()}
    quotas = {name: int(share) for name, share in exact.items()}
    by_remainder = sorted(quotas, key=lambda name: quotas[name] - exact[name])
    for name in by_remainder[: size - sum(quotas.values())]:
        quotas[name] += 1
    return quotas
