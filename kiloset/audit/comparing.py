"""Compares two sets, each a file or a run: both are audited, and the rows of each are looked for in the other."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import polars as pl

from kiloset.audit.comparison import Comparison, Twin, comparison
from kiloset.audit.comparison_page import write_comparison_page
from kiloset.audit.files import audit_lines
from kiloset.core.errors import DataError
from kiloset.core.models import Embedder
from kiloset.core.run import RunFolder
from kiloset.data.examples import read_example_file
from kiloset.filters.diversity import vendi_score
from kiloset.filters.near_duplicates import NearDuplicatesConfig, drop_near_duplicates
from kiloset.settings import RunConfig

LoadEmbedder = Callable[[RunConfig, int], Embedder]
UNBOUNDED = 10**9
"""Rows of one frame that may differ in numbers and names: here none is dropped for being one too many."""
EMBEDDED = 2000
"""Rows of each set of which the Vendi score is told, drawn at random; it grows with their number, so both have as many."""


def compare(first: str, second: str, runs: Path, load_embedder: LoadEmbedder | None) -> Comparison:
    """Compare two sets.

    Args:
        first: A file, a folder of files, a run's folder or its name.
        second: Likewise.
        runs: The folder that holds the runs.
        load_embedder: Gives the embedder by which Vendi scores are told; without it they are not.

    Raises:
        DataError: There is no such file or run, or none of its lines can be read.
        EmptyError: A file is empty.
    """
    places = {"A": located(first, runs), "B": located(second, runs)}
    lines = {side: read_example_file(str(path)) for side, (_, path) in places.items()}
    sides = {side: audit_lines(places[side][0], found) for side, found in lines.items()}
    one, other = (found.table for found in lines.values())
    twins = {"A": twins_in(one, other), "B": twins_in(other, one)}
    rows = min(EMBEDDED, one.height, other.height)
    scores: dict[str, float] = {}
    if load_embedder is not None:
        embedder = load_embedder(RunConfig(), one.height + other.height)
        for side, found in lines.items():
            drawn = found.table.sample(rows, seed=0)["user"].to_list()
            scores[side] = vendi_score(np.asarray(embedder.embed(drawn), np.float32))
    return comparison(sides, twins, scores, rows)


def located(name: str, runs: Path) -> tuple[str, Path]:
    """Return what a set is called and the file or folder that holds it.

    Raises:
        DataError: It is neither a file nor a run, or the run is not finished.
    """
    path = Path(name).expanduser()
    for folder in (RunFolder(path), RunFolder(runs / name)):
        if folder.manifest_file.is_file():
            if not folder.curated.is_file():
                raise DataError(
                    "KS651",
                    f"{folder.curated}: not there, the run is not finished; `make dataset` goes on where it stopped",
                )
            return folder.path.name, folder.curated
    if not path.exists():
        raise DataError("KS652", f"{name}: no such file or folder, and no such run in {runs}")
    return path.name, path


def twins_in(mine: pl.DataFrame, theirs: pl.DataFrame) -> list[Twin]:
    """Return each row that has its like in another table, by the measures of `kiloset.filters.near_duplicates`, and that like."""
    # The others stand there as seeds, which come first and never leave; a row that leaves for one of its own is looked at again
    # without the own ones that stayed, until all that leave do so for one of the others.
    config = NearDuplicatesConfig(per_template=UNBOUNDED)
    others = theirs.with_columns(pl.lit("seed").alias("source"), (pl.lit("b") + pl.col("id")).alias("id"))
    rows = mine.with_columns((pl.lit("a") + pl.col("id")).alias("id"))
    found: dict[str, Twin] = {}
    while rows.height:
        left = drop_near_duplicates(pl.concat([others, rows]), config, seed=0).dropped
        here = left.filter(pl.col("twin").str.starts_with("b"))
        for id, twin, reason in here.select("id", "twin", "reason").iter_rows():
            found[id] = (id[1:], twin[1:], reason)
        rows = left.filter(~pl.col("twin").str.starts_with("b")).select(rows.columns)
    return [found[id] for id in sorted(found)]


def write_comparison(found: Comparison, out: Path, load_embedder: LoadEmbedder | None) -> int:
    """Write the page of a comparison and return its size in bytes; the map needs an embedder.

    Raises:
        DataError: It cannot be written.
    """
    rows = sum(side.rows for side in found.sides.values())
    embed = None if load_embedder is None else load_embedder(RunConfig(), rows).embed
    return write_comparison_page(found, embed, out)
