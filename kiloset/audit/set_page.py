"""The page of an audited set: its faults with rows that have them, its figures, and a map."""

import random
from collections.abc import Mapping
from itertools import groupby
from pathlib import Path
from typing import Any

from kiloset.audit import charts
from kiloset.audit.faults import Fault
from kiloset.audit.frame import as_text, framed, save
from kiloset.audit.mapping import Embed, map_of
from kiloset.audit.meanings import GRADES
from kiloset.audit.sets import LISTED, SetAudit, opened, show_set
from kiloset.core.text import words

SECTIONS = (
    ("faults", "Faults"), ("categories", "Categories"), ("lengths", "Lengths"), ("openings", "Openings"), ("licences", "Licences"),
    ("map", "Map"), ("rows", "Rows"), ("figures", "All figures"),
)  # fmt: skip
FIELDS = ("fault", "category", "license")
"""What the map can be coloured by, where the rows differ in it."""
TOLD = ("place", "fault", "category")
SAMPLE = 20
"""Rows shown, drawn at random, the same ones each time."""


def write_set_page(found: SetAudit, embed: Embed | None, out: Path) -> int:
    """Write the page of a set and return its size in bytes; the same set gives the same bytes.

    Args:
        found: Its audit.
        embed: Gives the vectors of user turns for the map; without it there is none.
        out: The page.

    Raises:
        DataError: It cannot be written.
    """
    return save(render_set(found, embed), out)


def render_set(found: SetAudit, embed: Embed | None) -> str:
    """Return the page's text."""
    rows = found.table.to_dicts()
    return framed(
        "set.html.j2", f"Audit of {found.source.name}", SECTIONS, _charts(found), map_of(found.table, embed, FIELDS, TOLD),
        found=found, opened=opened(found.source, found.rows, found.turned), grades=_graded(found),
        sample=random.Random("sample").sample(rows, min(SAMPLE, len(rows))), embedded=embed is not None, text=as_text(lambda console: show_set(found, 0, console)),
    )  # fmt: skip


def _first_of(counts: Mapping[str, int]) -> dict[str, int]:
    """Return as many of the commonest as are drawn."""
    return dict(list(counts.items())[:LISTED])


def _graded(found: SetAudit) -> list[dict[str, Any]]:
    """Return the faults by grade, each with the width of its bar in per cent of the commonest one's."""
    widest = max((fault.share for fault in found.faults), default=1.0)

    def drawn(fault: Fault) -> dict[str, Any]:
        return {"fault": fault, "width": round(100 * fault.share / widest, 1), "share": f"{fault.share:.1%}"}

    return [
        {"name": grade, "says": GRADES[grade], "faults": [drawn(fault) for fault in faults]}
        for grade, faults in groupby(found.faults, lambda fault: fault.meaning.grade)
    ]


def _charts(found: SetAudit) -> dict[str, charts.Spec]:
    texts = {"instruction, input included": found.table["user"], "response": found.table["response"]}
    specs = {"lengths": charts.histograms({name: [len(words(one)) for one in of] for name, of in texts.items()})}
    if found.openings:
        specs["openings"] = charts.bars(found.openings, "first words")
    if found.categories:
        specs["categories"] = charts.bars(_first_of(found.categories), "category")
    if found.licences:
        specs["licences"] = charts.bars(_first_of(found.licences), "licence")
    return specs
