"""Compare two sets, each a file or a run: audit both, and find the rows of each in the other."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import polars as pl
from rich.console import Console

from kiloset.audit import charts
from kiloset.audit.faults import MEANINGS, FaultExample, RowText
from kiloset.audit.figures import distinct_trigrams, js_distance
from kiloset.audit.file_audit import LINE, FileAudit, audit_lines, is_one_task
from kiloset.audit.pages import Embed, LoadEmbedder, as_text, map_of, render_page, save_page
from kiloset.audit.safe_text import print_heading, print_lines, print_table
from kiloset.core.errors import DataError
from kiloset.core.form import opening
from kiloset.core.run import RunFolder
from kiloset.core.text import normal_form, words
from kiloset.data.examples import read_example_file
from kiloset.filters.diversity import vendi_score
from kiloset.filters.near_duplicates import NearDuplicatesConfig, drop_near_duplicates
from kiloset.settings import RunConfig

UNBOUNDED = 10**9
"""Limit on the rows of one template: here no row may be dropped because its template is full."""
EMBEDDED = 2000
"""Rows of each set whose Vendi score is measured, drawn at random; the score grows with their number, so both have as many."""
EXAMPLES = 8
"""Rows shown that both sets contain."""
NAMED = 30
"""Categories, licences and openings of each set that are compared."""
MOST_WORDS = 100_000
"""Words of answers whose trigrams are counted in each set; fewer if the smaller set has fewer."""
KINDS = {
    "whole": "instruction, input and answer",
    "task": "instruction and input, another answer",
    "near": "almost the same instruction and input",
}
"""How a row can be in the other set too."""
SECTIONS = (
    ("numbers", "Figures"), ("faults", "Faults"), ("categories", "Categories"), ("lengths", "Lengths"), ("openings", "Openings"),
    ("licences", "Licences"), ("common", "In both"), ("map", "Map"), ("figures", "All figures"),
)  # fmt: skip
COLOURS = {"A": charts.KEPT, "B": charts.COLOURS[1]}

Match = tuple[str, str, str]
"""A row's id, the id of its match in the other set, and whether that is an `exact_duplicate` or a `near_duplicate`."""


@dataclass(frozen=True, slots=True)
class Common:
    """Rows of one set that are in the other one too."""

    rows: int
    kinds: dict[str, int]
    """Rows by `KINDS`; their sum is `rows`."""
    examples: tuple[FaultExample, ...]


@dataclass(frozen=True, slots=True)
class Comparison:
    """Two sets, A and B, and what they have in common."""

    sides: dict[str, FileAudit]
    common: dict[str, Common]
    """The rows of each side that the other one has too."""
    js_distance: float | None
    """Jensen-Shannon distance of their categories, in [0, 1]; None if a side records none."""
    trigrams: dict[str, float]
    """Distinct trigrams over all trigrams, in as many words of answers of each."""
    words_read: int
    vendi: dict[str, float]
    """Effective number of rows (Vendi score) of as many rows of each; {} without an embedder."""
    vendi_rows: int

    def faults_per_hundred(self) -> dict[str, dict[str, float]]:
        """Return, by fault, rows with it per 100 rows of each side; the most common first."""
        shares = {
            name: {side: 100 * report.count(name) / report.rows for side, report in self.sides.items()}
            for name in MEANINGS
            if any(report.count(name) for report in self.sides.values()) and name != "broken_line"
        }
        return dict(sorted(shares.items(), key=lambda pair: (-max(pair[1].values()), pair[0])))


def compare(first: str, second: str, runs: Path, load_embedder: LoadEmbedder | None) -> Comparison:
    """Compare two sets.

    Args:
        first: A file, a folder of files, a run's folder or its name; this is A.
        second: The same for B.
        runs: The folder that holds the runs.
        load_embedder: Returns the embedder for Vendi scores; None leaves them out.

    Raises:
        DataError: There is no such file or run, or none of its lines can be read.
        EmptyError: A file is empty.
    """
    places = {"A": locate(first, runs), "B": locate(second, runs)}
    lines = {side: read_example_file(str(path)) for side, (_, path) in places.items()}
    sides = {side: audit_lines(places[side][0], read) for side, read in lines.items()}
    one, other = (read.table for read in lines.values())
    rows = min(EMBEDDED, one.height, other.height)
    vendi: dict[str, float] = {}
    if load_embedder is not None:
        embedder = load_embedder(RunConfig(), one.height + other.height)
        for side, read in lines.items():
            drawn = read.table.sample(rows, seed=0)["user"].to_list()
            vendi[side] = vendi_score(np.asarray(embedder.embed(drawn), np.float32))
    answers = {side: report.table["response"].to_list() for side, report in sides.items()}
    words_read = min(MOST_WORDS, *(sum(len(words(text)) for text in texts) for texts in answers.values()))
    a, b = sides["A"], sides["B"]
    return Comparison(
        sides=sides,
        common={
            "A": _common(a.table, b.table, matches_in(one, other)),
            "B": _common(b.table, a.table, matches_in(other, one)),
        },
        js_distance=js_distance(a.categories, b.categories),
        trigrams={side: distinct_trigrams(texts, words_read) for side, texts in answers.items()},
        words_read=words_read,
        vendi=vendi,
        vendi_rows=rows,
    )


def locate(name: str, runs: Path) -> tuple[str, Path]:
    """Return the name of a set and the file or folder that holds it.

    Raises:
        DataError: It is neither a file nor a run, or the run is not finished.
    """
    path = Path(name).expanduser()
    for folder in (RunFolder(path), RunFolder(runs / name)):
        if folder.manifest_file.is_file():
            if not folder.curated.is_file():
                raise DataError(
                    "KS651", f"{folder.curated}: missing, the run is not finished; `kiloset dataset` continues it"
                )
            return folder.path.name, folder.curated
    if not path.exists():
        raise DataError("KS652", f"{name}: no such file or folder, and no such run in {runs}")
    return path.name, path


def matches_in(mine: pl.DataFrame, theirs: pl.DataFrame) -> list[Match]:
    """Return each row that has a match in another table, by the measures of `kiloset.filters.near_duplicates`."""
    # The others are passed as seeds, which come first and are never dropped. A row that was dropped for one of its own is compared
    # again, without the own rows that were kept, until every dropped row matches one of the others.
    config = NearDuplicatesConfig(per_template=UNBOUNDED)
    others = theirs.with_columns(pl.lit("seed").alias("source"), (pl.lit("b") + pl.col("id")).alias("id"))
    rows = mine.with_columns((pl.lit("a") + pl.col("id")).alias("id"))
    matches: dict[str, Match] = {}
    while rows.height:
        dropped = drop_near_duplicates(pl.concat([others, rows]), config, seed=0).dropped
        is_other = pl.col("twin").str.starts_with("b")
        for id, match, reason in dropped.filter(is_other).select("id", "twin", "reason").iter_rows():
            matches[id] = (id[1:], match[1:], reason)
        rows = dropped.filter(~is_other).select(rows.columns)
    return [matches[id] for id in sorted(matches)]


def print_comparison(result: Comparison, examples: int, console: Console) -> None:
    """Print both sides beside each other, and so many rows that are in both."""
    one, other = result.sides["A"], result.sides["B"]
    print_heading(console, f"A: {one.source.name}   B: {other.source.name}")
    print_table(console, "Figures", ("figure", "A", "B"), figures_of(result))
    faults = [
        (MEANINGS[name].title, *(f"{rows:.2f}" for rows in sides.values()))
        for name, sides in result.faults_per_hundred().items()
    ]
    print_table(console, "Rows with a fault, per 100 rows", ("fault", "A", "B"), faults, "no faults in A or B")
    _print_shares(result, "categories", "Categories", "category", console)
    distance = "not known, a side records none" if result.js_distance is None else f"{result.js_distance:.3f}"
    print_lines(console, f"Jensen-Shannon distance of the categories: {distance} (0: equal, 1: disjoint)")
    _print_shares(result, "licences", "Licences", "licence", console)
    _print_shares(result, "openings", "Most common openings of answers", "first words", console)
    for side, common in result.common.items():
        _print_common(side, common, examples, console)


def figures_of(result: Comparison) -> list[tuple[str, str, str]]:
    """Return the figures that are one number for each side."""
    sides = list(result.sides.values())
    rows = [
        ("rows", *(f"{side.rows:,}" for side in sides)),
        ("lines that cannot be read", *(f"{len(side.source.broken):,}" for side in sides)),
        ("rows without a fault", *(f"{side.sound / side.rows:.1%}" for side in sides)),
        ("rows of several user turns", *(f"{side.multi_turn:,}" for side in sides)),
    ]
    for name in sides[0].lengths:
        quantiles = [side.lengths[name].quantiles for side in sides]
        cells = [f"{q[2]:.0f} ({q[1]:.0f} to {q[3]:.0f})" if q else "" for q in quantiles]
        rows.append((f"words of {name}, median (p10 to p90)", *cells))
    duplicates = ("exact_duplicate", "near_duplicate", "other_answer")
    rows += [
        (f"within: {MEANINGS[name].title.lower()}", *(f"{side.count(name):,}" for side in sides)) for name in duplicates
    ]
    common = result.common.values()
    rows.append(("between: rows that the other has too", *(f"{one.rows:,}" for one in common)))
    rows += [(f"- {label}", *(f"{one.kinds[kind]:,}" for one in common)) for kind, label in KINDS.items()]
    trigrams = [f"{share:.3f}" for share in result.trigrams.values()]
    rows.append((f"distinct trigrams in {result.words_read:,} words of answers", *trigrams))
    if result.vendi:
        scores = [f"{score:.1f}" for score in result.vendi.values()]
        rows.append((f"effective number of rows, of {result.vendi_rows:,} (Vendi score)", *scores))
    rows.append(("languages", *(", ".join(side.source.languages) or "?" for side in sides)))
    return [(name, one, other) for name, one, other in rows]


def shares_of(result: Comparison, what: str) -> dict[str, list[float]]:
    """Return percent of the rows of each side by `categories`, `licences` or `openings`, the most common first."""
    sides = result.sides.values()
    names = dict.fromkeys(name for side in sides for name in list(getattr(side, what))[:NAMED])
    if what == "openings":  # one that is common in one set need not be among the most common of the other
        counts: list[Mapping[str, int]] = [Counter(opening(text) for text in side.table["response"]) for side in sides]
        wholes = [side.rows for side in sides]
    else:
        counts = [getattr(side, what) for side in sides]
        wholes = [sum(of.values()) for of in counts]
    shares = {
        name: [100 * of.get(name, 0) / whole if whole else 0.0 for of, whole in zip(counts, wholes, strict=True)]
        for name in names
    }
    return dict(sorted(shares.items(), key=lambda pair: (-max(pair[1]), pair[0])))


def write_comparison_page(result: Comparison, out: Path, load_embedder: LoadEmbedder | None) -> int:
    """Write the page of a comparison and return its size in bytes; the same sets give the same bytes.

    Args:
        result: The comparison.
        out: The page.
        load_embedder: Returns the embedder for the map; None gives a page without a map.

    Raises:
        DataError: The page cannot be written.
    """
    rows = sum(side.rows for side in result.sides.values())
    embed = None if load_embedder is None else load_embedder(RunConfig(), rows).embed
    return save_page(render_comparison(result, embed), out)


def render_comparison(result: Comparison, embed: Embed | None) -> str:
    """Return the page's text; with the vectors of user turns it has a map of both sets."""
    one, other = (side.source.name for side in result.sides.values())
    both = pl.concat([side.table.with_columns(set=pl.lit(name)) for name, side in result.sides.items()])
    return render_page(
        "compare.html.j2", f"A: {one} and B: {other}", SECTIONS, _charts(result),
        map_of(both, embed, ("set", "category", "fault"), ("set", "place", "category")),
        result=result, numbers=figures_of(result), kinds=KINDS, embedded=embed is not None,
        text=as_text(lambda console: print_comparison(result, 0, console)),
    )  # fmt: skip


def _charts(result: Comparison) -> dict[str, charts.Spec]:
    specs = {}
    faults = [
        {"fault": MEANINGS[name].title, "of": side, "rows of 100": round(rows, 2)}
        for name, sides in result.faults_per_hundred().items()
        for side, rows in sides.items()
    ]
    if faults:
        specs["faults"] = charts.bars(faults, "fault", "rows of 100", "of", COLOURS, offset="of")
    for what in ("categories", "licences", "openings"):
        rows = [
            {"name": name, "of": side, "percent of rows": round(share, 2)}
            for name, both in shares_of(result, what).items()
            for side, share in zip(COLOURS, both, strict=True)
        ]
        if rows:
            specs[what] = charts.bars(rows, "name", "percent of rows", "of", COLOURS, offset="of")
    lengths = {
        name: {side: [len(words(text)) for text in of.table[column]] for side, of in result.sides.items()}
        for name, column in (("instruction, input included", "user"), ("response", "response"))
    }
    specs["lengths"] = charts.lengths_beside(lengths, COLOURS)
    return specs


def _common(mine: pl.DataFrame, theirs: pl.DataFrame, matches: Sequence[Match]) -> Common:
    own, others = ({row["id"]: row for row in table.iter_rows(named=True)} for table in (mine, theirs))
    kinds = dict.fromkeys(KINDS, 0)
    examples = []
    for id, match, reason in matches:
        one, other = own[id], others[match]
        if reason == "exact_duplicate":
            kind = "whole" if normal_form(one["response"]) == normal_form(other["response"]) else "task"
        elif is_one_task(one, other):
            kind = "near"
        else:
            continue
        kinds[kind] += 1
        texts = [RowText(row["place"], row["user"], row["response"]) for row in (one, other)]
        examples.append(FaultExample(KINDS[kind], *texts))
    return Common(sum(kinds.values()), kinds, tuple(examples[:EXAMPLES]))


def _print_shares(result: Comparison, what: str, title: str, name: str, console: Console) -> None:
    rows = [(label, *(f"{share:.1f} %" for share in sides)) for label, sides in shares_of(result, what).items()]
    print_table(console, title, (name, "A", "B"), rows, f"no {what} recorded")


def _print_common(side: str, common: Common, examples: int, console: Console) -> None:
    other = "B" if side == "A" else "A"
    rows: list[tuple[str, str]] = []
    for example in common.examples[:examples]:
        rows.append((f"{side} {example.row.place}", example.evidence))
        rows += [("", example.row.user), ("", f"→ {example.row.response}")]
        if match := example.duplicate:
            rows += [(f"{other} {match.place}", match.user), ("", f"→ {match.response}")]
    if rows:
        print_heading(console, f"Rows of {side} that {other} has too: {common.rows}")
        for place, text in rows:
            line = " ".join(text.split())
            print_lines(console, f"  {place}  {line[:LINE]}{'…' if len(line) > LINE else ''}")
