"""Tells apart how rows repeat each other: whole, with another answer, nearly, on the same text, or on one frame."""

from collections.abc import Mapping
from typing import Any

import polars as pl

from kiloset.audit.figures import shingles
from kiloset.core.text import normal_form

ALIKE = 0.5
"""Jaccard similarity, in [0, 1], that instructions, and inputs, of a near-duplicate must each have: two questions about one long
passage, or one long instruction with two inputs, are alike as a whole and yet two tasks."""


def repeats(table: pl.DataFrame, left: pl.DataFrame) -> list[tuple[str, str, str, str]]:
    """Return `(fault, id, evidence, twin)` of each row that repeats another one.

    Args:
        table: Rows.
        left: Those of them that left for another, as `kiloset.filters.near_duplicates` says: `id`, `reason`, `evidence`, `twin`.
    """
    rows = {row["id"]: row for row in table.select("id", "instruction", "input", "response").iter_rows(named=True)}
    said: dict[str, dict[str, str]] = {}
    """By the row that all others of a group are copies of: normal forms of the answers so far, each with its first row."""
    found = []
    for id, reason, evidence, twin in left.sort("id").select("id", "reason", "evidence", "twin").iter_rows():
        if reason == "exact_duplicate":
            answers = said.setdefault(twin, {normal_form(rows[twin]["response"]): twin})
            first = answers.setdefault(normal_form(rows[id]["response"]), id)
            if first == id:
                found.append(("other_answer", id, "same instruction and input, another answer", twin))
            else:
                found.append(("exact_duplicate", id, "same instruction, input and answer", first))
        elif reason == "near_duplicate":
            slug = "near_duplicate" if is_one_task(rows[id], rows[twin]) else "shared_text"
            found.append((slug, id, evidence.replace(f" with {twin}", ""), twin))
        else:
            found.append(("template", id, "differs from three rows like it in numbers, names or symbols only", twin))
    return found


def is_one_task(one: Mapping[str, Any], other: Mapping[str, Any]) -> bool:
    """Tell whether two rows that are alike as a whole are so in the instruction and in the input, where both have one."""
    if not (one["input"] and other["input"]):
        return True
    return all(_jaccard(one[part], other[part]) >= ALIKE for part in ("instruction", "input"))


def _jaccard(one: str, other: str) -> float:
    first, second = shingles(one), shingles(other)
    return len(first & second) / len(first | second)
