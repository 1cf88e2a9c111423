"""The audit of an instruction set that somebody else made: its faults, the worst first, and its figures."""

import random
from collections.abc import Sequence
from dataclasses import dataclass

import polars as pl
from rich.console import Console

from kiloset.audit import figures
from kiloset.audit.faults import Fault, Finding, faults_of
from kiloset.audit.figures import Lengths
from kiloset.audit.licenses import Conflict, conflicts
from kiloset.audit.meanings import GRADES
from kiloset.audit.terminal import literal, print_heading, print_table, share_of
from kiloset.core.text import words

LISTED = 40
"""Categories listed at most."""
WORDS_READ = 20_000
"""Words of answers of which the trigrams are counted: the share of distinct ones falls with the length of what is read."""


@dataclass(frozen=True, slots=True)
class Source:
    """What a file was, before anything was measured."""

    name: str
    lines: int
    """Lines with anything in them: those read and those broken."""
    broken: tuple[tuple[str, str], ...]
    """Place and reason of each line that could not be read."""
    layouts: dict[str, int]
    """Rows by layout, most first."""
    systems: int
    """Rows with a system turn, which is not looked at."""
    benchmarks: tuple[str, ...] = ()
    """Files whose prompts were looked for."""
    languages: tuple[str, ...] = ()
    """ISO 639 codes of the languages that a fifth of the rows are in."""


@dataclass(frozen=True, slots=True)
class SetAudit:
    """Every figure of a set."""

    source: Source
    table: pl.DataFrame
    """The rows, as they may be shown: `id`, `place`, `user`, `instruction`, `response`, `category`, `license`, `turns`, and
    `fault`, the worst one of the row, "none" where it has none."""
    faults: list[Fault]
    categories: dict[str, int]
    """Rows by category, most first; {} where none is recorded."""
    licences: dict[str, int]
    """Likewise; {} where none is recorded."""
    asked: list[Conflict]
    """What the licences ask of the set."""
    lengths: dict[str, Lengths]
    openings: dict[str, int]
    trigrams: float
    """Distinct trigrams of words over all, of the first `WORDS_READ` words of answers in random order."""

    @property
    def rows(self) -> int:
        """Rows read."""
        return self.table.height

    @property
    def sound(self) -> int:
        """Rows that have no fault of their own."""
        return self.table.filter(pl.col("fault") == "none").height

    @property
    def turned(self) -> int:
        """Rows of more than one user turn."""
        return self.table.filter(pl.col("turns") > 1).height

    def count(self, name: str) -> int:
        """Return the rows that have a fault."""
        return next((fault.rows for fault in self.faults if fault.name == name), 0)


def audit_set(
    source: Source, table: pl.DataFrame, findings: Sequence[Finding], notes: dict[str, Sequence[str]]
) -> SetAudit:
    """Measure a set, given what was found in its rows.

    Args:
        source: What was read.
        table: The rows, as they may be shown.
        findings: See `faults_of`, as for `notes`.
        notes: Sentences to be told of a fault.
    """
    licences, categories = (figures.tally(table[name]) for name in ("license", "category"))
    asked = conflicts(licences) if {*licences} != {""} else []
    faults = faults_of(table, findings, source.broken, asked, notes)
    worst = {id: fault.name for fault in reversed(faults) for id in fault.ids}
    responses = table["response"].to_list()
    return SetAudit(
        source=source,
        table=table.with_columns(fault=pl.Series([worst.get(id, "none") for id in table["id"]])),
        faults=faults,
        categories=_named(categories),
        licences=_named(licences),
        asked=asked,
        lengths={
            "instruction, input included": figures.lengths(table["user"].to_list()),
            "response": figures.lengths(responses),
        },
        openings=figures.openings(responses),
        trigrams=distinct_trigrams(responses, WORDS_READ),
    )


def distinct_trigrams(texts: Sequence[str], most: int) -> float:
    """Return distinct trigrams of words over all trigrams, in [0, 1], of the first so many words of texts in random order."""
    seen: set[tuple[str, ...]] = set()
    counted = read = 0
    for text in random.Random("trigrams").sample(texts, len(texts)):
        found = words(text)[: most - read]
        read += len(found)
        grams = [tuple(found[at : at + 3]) for at in range(len(found) - 2)]
        counted += len(grams)
        seen.update(grams)
        if read >= most:
            break
    return len(seen) / counted if counted else 0.0


def opened(source: Source, rows: int, turned: int) -> list[str]:
    """Return what is to be known of a set before its figures, a sentence each."""
    layouts = ", ".join(f"{name} {number}" for name, number in source.layouts.items())
    said = [f"{source.lines} lines: {source.lines - len(source.broken)} read, {len(source.broken)} cannot be read"]
    said.append(f"{rows} rows; by layout: {layouts}")
    if turned:
        said.append(f"{turned} rows have several user turns: judged are the first and the last answer")
    if source.systems:
        said.append(f"{source.systems} rows have a system turn, which is not looked at")
    if source.benchmarks:
        said.append(f"Looked for the prompts of {', '.join(source.benchmarks)}")
    else:
        said.append("No benchmark was named (--benchmark FILE), so none was looked for")
    return said


def show_set(found: SetAudit, examples: int, console: Console) -> None:
    """Print the faults, each with so many examples, and the figures, 80 columns wide and without a terminal."""
    print_heading(console, f"Audit of {found.source.name}")
    for said in opened(found.source, found.rows, found.turned):
        console.print(literal(said))
    console.print(literal(f"{found.sound} rows ({share_of(found.sound, found.rows)}) have no fault of their own"))
    listed = [(fault.meaning.title, fault.meaning.grade, fault.rows, f"{fault.share:.1%}") for fault in found.faults]
    print_table(console, "Faults, the worst first", ("fault", "grade", "rows", "share"), listed, "none found")
    for fault in found.faults:
        _show_fault(fault, examples, console)
    show_figures(found, console)


def show_figures(found: SetAudit, console: Console) -> None:
    """Print what a set is made of."""
    total = sum(found.categories.values())
    counted = [(name, rows, share_of(rows, total)) for name, rows in found.categories.items()]
    title = "Categories" if len(counted) <= LISTED else f"The commonest {LISTED} of {len(counted)} categories"
    print_table(console, title, ("category", "rows", "share"), counted[:LISTED], "no categories recorded")
    lengths = [(name, n.rows, *(f"{q:.0f}" for q in n.quantiles)) for name, n in found.lengths.items() if n.rows]
    columns = ("text", "rows", "min", "p10", "median", "p90", "max")
    print_table(console, "Lengths in words, of texts that are not empty", columns, lengths)
    licences = [(name, rows, share_of(rows, found.rows)) for name, rows in found.licences.items()]
    print_table(console, "Licences", ("licence", "rows", "share"), licences, "no licences recorded")
    for conflict in found.asked:
        console.print(literal(f"{', '.join(conflict.licences) or 'none'}: {conflict.why}"))
    openings = [(opening, rows, share_of(rows, found.rows)) for opening, rows in found.openings.items()]
    print_table(console, "Most common openings of answers", ("first words", "rows", "share"), openings)
    console.print(literal(f"languages: {', '.join(found.source.languages) or 'cannot be told'}"))
    console.print(
        literal(
            f"distinct trigrams: {found.trigrams:.3f} of those in {WORDS_READ:,} words of answers (1: none stands twice)"
        )
    )


def _show_fault(fault: Fault, examples: int, console: Console) -> None:
    head = f"{fault.meaning.title}: {fault.rows} ({fault.share:.1%}), {GRADES[fault.meaning.grade]}"
    print_heading(console, head)
    console.print(literal(fault.meaning.says))
    for detail in fault.details:
        console.print(literal(f"- {detail}"))
    rows: list[tuple[object, ...]] = []
    for example in fault.examples[:examples]:
        rows.append((example.row.place, example.evidence))
        rows += [("", text) for text in (example.row.user, f"→ {example.row.response}") if text not in ("", "→ ")]
        if example.twin is not None:
            rows += [(f"like {example.twin.place}", example.twin.user), ("", f"→ {example.twin.response}")]
    for place, text in rows:
        cut = str(text) if len(str(text)) <= 160 else f"{str(text)[:159]}…"
        console.print(literal(f"  {place}: {cut}" if place else f"    {cut}".replace("\n", " ")), soft_wrap=False)


def _named(counts: dict[str, int]) -> dict[str, int]:
    """Return counts with a name for what is not stated; {} where nothing is."""
    return {name or "not stated": rows for name, rows in counts.items()} if {*counts} != {""} else {}
