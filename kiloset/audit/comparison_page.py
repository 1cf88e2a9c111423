"""The page of two sets side by side."""

from pathlib import Path

import polars as pl

from kiloset.audit import charts
from kiloset.audit.comparison import KINDS, Comparison, figures_of, shares_of, show_comparison
from kiloset.audit.frame import as_text, framed, save
from kiloset.audit.mapping import Embed, map_of
from kiloset.audit.meanings import MEANINGS
from kiloset.core.text import words

SECTIONS = (
    ("numbers", "Figures"), ("faults", "Faults"), ("categories", "Categories"), ("lengths", "Lengths"), ("openings", "Openings"),
    ("licences", "Licences"), ("common", "In both"), ("map", "Map"), ("figures", "All figures"),
)  # fmt: skip
COLOURS = {"A": charts.KEPT, "B": charts.COLOURS[1]}


def write_comparison_page(found: Comparison, embed: Embed | None, out: Path) -> int:
    """Write the page of a comparison and return its size in bytes; the same sets give the same bytes.

    Raises:
        DataError: It cannot be written.
    """
    return save(render_comparison(found, embed), out)


def render_comparison(found: Comparison, embed: Embed | None) -> str:
    """Return the page's text; with the vectors of user turns it has a map of both sets."""
    one, other = (side.source.name for side in found.sides.values())
    both = pl.concat([side.table.with_columns(set=pl.lit(name)) for name, side in found.sides.items()])
    return framed(
        "compare.html.j2", f"A: {one} and B: {other}", SECTIONS, _charts(found),
        map_of(both, embed, ("set", "category", "fault"), ("set", "place", "category")),
        found=found, numbers=figures_of(found), kinds=KINDS, embedded=embed is not None, text=as_text(lambda console: show_comparison(found, 0, console)),
    )  # fmt: skip


def _charts(found: Comparison) -> dict[str, charts.Spec]:
    specs = {}
    faults = [
        {"fault": MEANINGS[name].title, "of": side, "rows of 100": round(rows, 2)}
        for name, sides in found.per_hundred().items()
        for side, rows in sides.items()
    ]
    if faults:
        specs["faults"] = charts.beside(faults, "fault", "rows of 100", COLOURS)
    for what in ("categories", "licences", "openings"):
        shares = shares_of(found, what)
        if shares:
            rows = [
                {"name": name, "of": side, "percent of rows": round(share, 2)}
                for name, both in shares.items()
                for side, share in zip(COLOURS, both, strict=True)
            ]
            specs[what] = charts.beside(rows, "name", "percent of rows", COLOURS)
    lengths = {
        name: {side: [len(words(text)) for text in of.table[column]] for side, of in found.sides.items()}
        for name, column in (("instruction, input included", "user"), ("response", "response"))
    }
    specs["lengths"] = charts.lengths_beside(lengths, COLOURS)
    return specs
