"""The audit of a run with the personal data in its rows redacted, for the page may be passed on where the run's folder is not."""

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import polars as pl

from kiloset.audit.examples import Examples
from kiloset.audit.reading import read_settings
from kiloset.audit.report import Audit
from kiloset.core.run import RunFolder
from kiloset.data.masking import veiled

Veil = Callable[[str], str]
"""Returns a text as it may be shown."""
TEXTS = ("user", "instruction", "input", "response", "evidence", "other_instruction")
"""Columns in which a row's text stands, or is quoted."""
REGIONS = ("US",)
"""As [rules] phone_regions has it by default, for a run that did not record its own."""


def veil_of(run: RunFolder) -> Veil:
    """Return what redacts a run's texts: nothing does where its rules were told not to look for personal data."""
    rules = read_settings(run, "rules")
    if rules.get("personal_data") == "off":
        return lambda text: text
    regions = tuple(rules.get("phone_regions", REGIONS))
    return lambda text: veiled(text, regions)


def veiled_audit(found: Audit, veil: Veil) -> Audit:
    """Return an audit in whose rows of the set, rewrites and pairs no value is read; the ledger is left as it is (`veiled_row`)."""
    examples = found.examples
    if examples is not None:
        shown = tuple(
            replace(one, instruction=veil(one.instruction), reference=veil(one.reference), rewrite=veil(one.rewrite))
            for one in examples.shown
        )
        examples = Examples(examples.rewritten, shown, examples.recorded)
    return replace(
        found, table=_veiled_table(found.table, veil), closest=_veiled_table(found.closest, veil), examples=examples,
        instructions={id: veil(text) for id, text in found.instructions.items()},
    )  # fmt: skip


def veiled_row(row: Mapping[str, Any], veil: Veil) -> dict[str, Any]:
    """Return a row of a table as it may be shown."""
    return {name: veil(value) if name in TEXTS and isinstance(value, str) else value for name, value in row.items()}


def _veiled_table(table: pl.DataFrame, veil: Veil) -> pl.DataFrame:
    there = [name for name in TEXTS if name in table.columns and table.schema[name] == pl.String]
    return table.with_columns(pl.col(name).map_elements(veil, pl.String) for name in there)
