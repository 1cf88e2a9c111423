"""The page of an audited file: its faults with rows that have them, its figures, and a map."""

import random
from itertools import groupby
from pathlib import Path
from typing import Any

from kiloset.audit import charts
from kiloset.audit.faults import GRADES, Fault
from kiloset.audit.file_audit import LISTED, FileAudit, print_file_audit, summary
from kiloset.audit.pages import Embed, LoadEmbedder, as_text, map_of, render_page, save_page
from kiloset.core.text import words
from kiloset.settings import RunConfig

SECTIONS = (
    ("faults", "Faults"), ("categories", "Categories"), ("lengths", "Lengths"), ("openings", "Openings"), ("licences", "Licences"),
    ("map", "Map"), ("rows", "Rows"), ("figures", "All figures"),
)  # fmt: skip
FIELDS = ("fault", "category", "license")
"""What the map can be coloured by, if the rows differ in it."""
POINT = ("place", "fault", "category")
"""What the map shows of a point."""
SAMPLE = 20
"""Rows shown: drawn at random, the same ones each time."""


def write_file_page(report: FileAudit, out: Path, load_embedder: LoadEmbedder | None) -> int:
    """Write the page of an audit and return its size in bytes; the same file gives the same bytes.

    Args:
        report: The audit.
        out: The page.
        load_embedder: Returns the embedder for the map; None gives a page without a map.

    Raises:
        DataError: The page cannot be written.
    """
    embed = None if load_embedder is None else load_embedder(RunConfig(), report.rows).embed
    return save_page(render_file_page(report, embed), out)


def render_file_page(report: FileAudit, embed: Embed | None) -> str:
    """Return the page's text."""
    rows = report.table.to_dicts()
    return render_page(
        "file.html.j2", f"Audit of {report.source.name}", SECTIONS, _charts(report), map_of(report.table, embed, FIELDS, POINT),
        report=report, summary=summary(report.source, report.rows, report.multi_turn), grades=_graded(report),
        sample=random.Random("sample").sample(rows, min(SAMPLE, len(rows))), embedded=embed is not None,
        text=as_text(lambda console: print_file_audit(report, 0, console)),
    )  # fmt: skip


def _graded(report: FileAudit) -> list[dict[str, Any]]:
    """Return the faults by grade, each with the width of its bar in percent of the most common one's."""
    widest = max((fault.share for fault in report.faults), default=1.0)

    def drawn(fault: Fault) -> dict[str, Any]:
        return {"fault": fault, "width": round(100 * fault.share / widest, 1), "share": f"{fault.share:.1%}"}

    return [
        {"name": grade, "description": GRADES[grade], "faults": [drawn(fault) for fault in faults]}
        for grade, faults in groupby(report.faults, lambda fault: fault.meaning.grade)
    ]


def _charts(report: FileAudit) -> dict[str, charts.Spec]:
    texts = {"instruction, input included": report.table["user"], "response": report.table["response"]}
    specs = {"lengths": charts.histograms({name: [len(words(one)) for one in of] for name, of in texts.items()})}
    bars = {"openings": ("first words", report.openings), "categories": ("category", report.categories)}
    for name, (label, counts) in {**bars, "licences": ("licence", report.licences)}.items():
        if counts:
            rows = [{label: value, "rows": number} for value, number in list(counts.items())[:LISTED]]
            specs[name] = charts.bars(rows, label, "rows")
    return specs
