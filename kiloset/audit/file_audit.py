"""The audit of an instruction file made by others: read all of it, apply every rule to its rows, and measure the set."""

from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import polars as pl
from rich.console import Console

from kiloset.audit import figures
from kiloset.audit.answers import cut_answers, is_begun, is_without_stop, too_short
from kiloset.audit.faults import GRADES, OF_RULES, Fault, Finding, faults_of
from kiloset.audit.figures import Lengths
from kiloset.audit.licenses import Conflict, conflicts
from kiloset.audit.pages import LoadEmbedder
from kiloset.audit.run_audit import print_lengths
from kiloset.audit.safe_text import literal, print_heading, print_lines, print_table, share_of, visible
from kiloset.audit.unrelated import FEWEST, unrelated
from kiloset.core.text import jaccard, normal_form, squash
from kiloset.data.examples import ExampleFile, read_example_file
from kiloset.data.masking import veiled
from kiloset.filters.contamination import ContaminationConfig, Prompts
from kiloset.filters.languages import languages_known
from kiloset.filters.near_duplicates import NearDuplicatesConfig, drop_near_duplicates
from kiloset.filters.personal import personal_rows
from kiloset.filters.rules import PART, RulesConfig, instruction_rules, row_rules
from kiloset.inputs import read_benchmarks
from kiloset.settings import RunConfig
from kiloset.verify.settings import VerifyConfig
from kiloset.verify.verify import REASONS, check_row

LONGEST = 600
"""Longest instruction, in words: in a chat it includes its input, for which the rules allow as many."""
REGIONS = RulesConfig().phone_regions
"""Regions whose phone numbers are recognised without a country code."""
OWN_SHARE, SAMPLE = 0.2, 500
"""Share of the rows that makes a language one of the set's own, and the number of rows sampled to estimate it."""
NAME = 60
"""Longest name of a category or a licence, in characters."""
COLUMNS = ("id", "place", "user", "instruction", "input", "response", "category", "license", "turns")
LISTED = 40
"""Most categories listed."""
WORDS_READ = 20_000
"""Words of answers whose trigrams are counted: the share of distinct trigrams falls with the length of the text."""
ALIKE = 0.5
"""Jaccard similarity, in [0, 1], that both the instructions and the inputs of near-duplicates must have to be one task: two
questions about one long passage, or one long instruction with two inputs, are similar as a whole and yet two tasks."""
LINE = 160
"""Longest line shown of a row, in characters."""


@dataclass(frozen=True, slots=True)
class Source:
    """What was read from a file, before any measurement."""

    name: str
    lines: int
    """Lines that are not empty: the ones read and the broken ones."""
    broken: tuple[tuple[str, str], ...]
    """Place and reason of each line that could not be read."""
    layouts: dict[str, int]
    """Rows by layout, most first."""
    systems: int
    """Rows with a system turn, which the audit ignores."""
    benchmarks: tuple[str, ...] = ()
    """Names of the files whose prompts were searched for."""
    languages: tuple[str, ...] = ()
    """ISO 639 codes of the languages that at least a fifth of the rows are in."""
    is_embedded: bool = False
    """Whether answers to another question were to be searched for, which needs a model."""
    too_few: bool = False
    """Whether there are too few rows to search for them."""


@dataclass(frozen=True, slots=True)
class FileAudit:
    """Every figure of a set."""

    source: Source
    table: pl.DataFrame
    """The rows as they may be shown: `COLUMNS`, and `fault`, the worst fault of the row, "none" without one."""
    faults: list[Fault]
    categories: dict[str, int]
    """Rows by category, most first; {} if none is recorded."""
    licences: dict[str, int]
    """Rows by licence, most first; {} if none is recorded."""
    conflicts: list[Conflict]
    """What the licences require of the set."""
    lengths: dict[str, Lengths]
    openings: dict[str, int]
    trigrams: float
    """Distinct trigrams over all trigrams in the first `WORDS_READ` words of answers in random order."""

    @property
    def rows(self) -> int:
        """Rows read."""
        return self.table.height

    @property
    def sound(self) -> int:
        """Rows without a fault of their own."""
        return self.table.filter(pl.col("fault") == "none").height

    @property
    def multi_turn(self) -> int:
        """Rows with more than one user turn."""
        return self.table.filter(pl.col("turns") > 1).height

    def count(self, name: str) -> int:
        """Return the number of rows with a fault."""
        return next((fault.rows for fault in self.faults if fault.name == name), 0)


def audit_file(path: Path, benchmarks: Sequence[str] = (), load_embedder: LoadEmbedder | None = None) -> FileAudit:
    """Audit a file, or a folder of files, of any layout that Kiloset reads as seeds; nothing is written.

    Args:
        path: A .jsonl, .json, .csv or .parquet file, a folder of them, or a folder saved by `datasets`.
        benchmarks: Files whose prompts no row should repeat.
        load_embedder: Returns the embedder for the check of answers to another question; None leaves it out.

    Raises:
        DataError: A file is missing or unreadable as a whole, or no line of it contains an example.
        EmptyError: A file is empty.
    """
    prompts = read_benchmarks(benchmarks, "--benchmark") if benchmarks else None
    return audit_lines(path.name, read_example_file(str(path)), benchmarks, prompts, load_embedder)


def audit_lines(
    name: str, lines: ExampleFile, benchmarks: Sequence[str] = (), prompts: pl.DataFrame | None = None,
    load_embedder: LoadEmbedder | None = None,
) -> FileAudit:  # fmt: skip
    """Audit the lines of a file, with the prompts of benchmarks and with an embedder if there are any."""
    table = lines.table
    languages = own_languages(table)
    source = Source(
        name=name,
        lines=lines.lines,
        broken=lines.broken,
        layouts=lines.layouts,
        systems=lines.systems,
        benchmarks=tuple(Path(benchmark).name for benchmark in benchmarks),
        languages=languages,
        is_embedded=load_embedder is not None,
        too_few=load_embedder is not None and table.height < FEWEST,
    )
    personal, kinds = _personal(table)
    findings = [*_rules(table, languages), *_answers(table), *_checks(table), *_repeats(table), *personal]
    if load_embedder is not None:
        findings += unrelated(table, load_embedder(RunConfig(), table.height))
    notes: dict[str, Sequence[str]] = {"personal_data": kinds}
    if prompts is not None:
        # The page may be passed on, so it names the benchmark files without their folders.
        prompts = prompts.with_columns(pl.col("place").str.split("/").list.last())
        leaked = Prompts(prompts, ContaminationConfig()).repeated_by(table)
        findings += [("contaminated", id, verdict["evidence"], None) for id, verdict in leaked.items()]
        notes["contaminated"] = [f"searched for {prompts.height} prompts of {', '.join(source.benchmarks)}"]
    hidden = {id for _, id, _, _ in personal}
    safe = [(fault, id, _mask(text) if id in hidden else text, other) for fault, id, text, other in findings]
    return _measure(source, _masked(table.select(COLUMNS), hidden), safe, notes)


def own_languages(table: pl.DataFrame) -> tuple[str, ...]:
    """Return the ISO 639 codes of the languages of at least a fifth of a random sample; () if no language is recognised."""
    some = table if table.height <= SAMPLE else table.sample(SAMPLE, seed=0)
    counts = Counter(code for text in some["response"] for code in languages_known([text]))
    return tuple(sorted(code for code, number in counts.items() if number >= OWN_SHARE * counts.total()))


def summary(source: Source, rows: int, multi_turn: int) -> list[str]:
    """Return sentences about what was read and what was ignored."""
    layouts = ", ".join(f"{name} {number}" for name, number in source.layouts.items())
    lines = [f"{source.lines} lines: {source.lines - len(source.broken)} read, {len(source.broken)} cannot be read"]
    lines.append(f"{rows} rows; by layout: {layouts}")
    if multi_turn:
        lines.append(f"{multi_turn} rows have several user turns; the audit reads the first turn and the last answer")
    if source.systems:
        lines.append(f"{source.systems} rows have a system turn, which the audit ignores")
    if source.benchmarks:
        lines.append(f"The prompts of {', '.join(source.benchmarks)} were searched for")
    else:
        lines.append("No benchmark was searched for; name one with --benchmark FILE")
    if source.too_few:
        lines.append(f"Answers to another question were not searched for: that needs {FEWEST} rows")
    elif not source.is_embedded:
        lines.append("Answers to another question were not searched for; --verify does, with an embedding model")
    return lines


def is_one_task(one: Mapping[str, Any], other: Mapping[str, Any]) -> bool:
    """Return whether two near-duplicates are similar both in the instruction and in the input, if both have an input."""
    if not (one["input"] and other["input"]):
        return True
    return all(jaccard(shingles(one[part]), shingles(other[part])) >= ALIKE for part in ("instruction", "input"))


def shingles(text: str) -> set[str]:
    """Return the character 5-grams of a text's normal form between spaces, as for near-duplicates.

    A text of punctuation alone has no normal form and is used unchanged, so that "?" and "!" differ.
    """
    key = f" {normal_form(text) or squash(text)} "
    return {key[at : at + 5] for at in range(max(1, len(key) - 4))}


def print_file_audit(report: FileAudit, examples: int, console: Console) -> None:
    """Print the faults, each with at most `examples` rows, and the figures, readable 80 columns wide."""
    print_heading(console, f"Audit of {report.source.name}")
    print_lines(console, *summary(report.source, report.rows, report.multi_turn))
    print_lines(console, f"{report.sound} rows ({share_of(report.sound, report.rows)}) have no fault of their own")
    listed = [(fault.meaning.title, fault.meaning.grade, fault.rows, f"{fault.share:.1%}") for fault in report.faults]
    print_table(console, "Faults, the worst first", ("fault", "grade", "rows", "share"), listed, "no faults")
    for fault in report.faults:
        _print_fault(fault, examples, console)
    _print_figures(report, console)


def _print_figures(report: FileAudit, console: Console) -> None:
    total = sum(report.categories.values())
    counted = [(name, rows, share_of(rows, total)) for name, rows in report.categories.items()]
    title = "Categories" if len(counted) <= LISTED else f"The {LISTED} most common of {len(counted)} categories"
    print_table(console, title, ("category", "rows", "share"), counted[:LISTED], "no categories recorded")
    print_lengths(report.lengths, console)
    licences = [(name, rows, share_of(rows, report.rows)) for name, rows in report.licences.items()]
    print_table(console, "Licences", ("licence", "rows", "share"), licences, "no licences recorded")
    print_lines(console, *(f"{', '.join(one.licences) or 'none'}: {one.why}" for one in report.conflicts))
    openings = [(opening, rows, share_of(rows, report.rows)) for opening, rows in report.openings.items()]
    print_table(console, "Most common openings of answers", ("first words", "rows", "share"), openings)
    print_lines(
        console,
        f"languages: {', '.join(report.source.languages) or 'not recognised'}",
        f"distinct trigrams: {report.trigrams:.3f} of all trigrams in {WORDS_READ:,} words of answers (1: all differ)",
    )


def _print_fault(fault: Fault, examples: int, console: Console) -> None:
    meaning = fault.meaning
    print_heading(
        console, f"{meaning.title}: {fault.rows} ({fault.share:.1%}), {meaning.grade}: {GRADES[meaning.grade]}"
    )
    print_lines(console, meaning.description, *(f"- {detail}" for detail in fault.details))
    rows: list[tuple[object, ...]] = []
    for example in fault.examples[:examples]:
        rows.append((example.row.place, example.evidence))
        rows += [("", text) for text in (example.row.user, f"→ {example.row.response}") if text not in ("", "→ ")]
        if other := example.duplicate:
            rows += [(f"like {other.place}", other.user), ("", f"→ {other.response}")]
    for place, text in rows:
        line = str(text) if len(str(text)) <= LINE else f"{str(text)[: LINE - 1]}…"
        console.print(literal(f"  {place}: {line}" if place else f"    {line}".replace("\n", " ")), soft_wrap=False)


def _measure(
    source: Source, table: pl.DataFrame, findings: Sequence[Finding], notes: dict[str, Sequence[str]]
) -> FileAudit:
    licences, categories = (figures.tally(table[name]) for name in ("license", "category"))
    required = conflicts(licences) if {*licences} != {""} else []
    faults = faults_of(table, findings, source.broken, required, notes)
    worst = {id: fault.name for fault in reversed(faults) for id in fault.ids}
    responses = table["response"].to_list()
    return FileAudit(
        source=source,
        table=table.with_columns(fault=pl.Series([worst.get(id, "none") for id in table["id"]])),
        faults=faults,
        categories=_named(categories),
        licences=_named(licences),
        conflicts=required,
        lengths={
            "instruction, input included": figures.lengths(table["user"].to_list()),
            "response": figures.lengths(responses),
        },
        openings=figures.openings(responses),
        trigrams=figures.distinct_trigrams(responses, WORDS_READ),
    )


def _named(counts: dict[str, int]) -> dict[str, int]:
    """Return counts with a name for rows that state nothing; {} if no row states anything."""
    return {name or "not stated": rows for name, rows in counts.items()} if {*counts} != {""} else {}


def _rules(table: pl.DataFrame, languages: tuple[str, ...]) -> list[Finding]:
    """Return every rule that a row breaks, not only the first."""
    config = RulesConfig(max_instruction_words=LONGEST, languages=languages)
    rules = {**instruction_rules(config), **row_rules(config)}
    findings: list[Finding] = []
    for part in table.iter_slices(PART):
        for name, rule in rules.items():
            broken = part.select(
                "id",
                "instruction",
                rule.broken.alias("broken"),
                rule.measured.cast(pl.Float64).alias("measured"),
                (pl.lit(rule.quantity) if isinstance(rule.quantity, str) else rule.quantity).alias("evidence"),
            ).filter("broken")
            for id, instruction, _, measured, evidence in broken.iter_rows():
                if name == "refers_to_missing_input" and is_begun(instruction):
                    continue
                value = f"{measured:.0f}" if measured.is_integer() else f"{measured:.2f}"
                text = evidence if rule.limit == 0 else f"{value} {evidence} (limit {rule.limit:g})"
                findings.append((OF_RULES.get(name, name), id, text, None))
    return findings


def _answers(table: pl.DataFrame) -> list[Finding]:
    findings: list[Finding] = []
    cut = cut_answers(table["response"].to_list())
    for at, (id, instruction, response) in enumerate(table.select("id", "instruction", "response").iter_rows()):
        if at in cut:
            findings.append(("response_cut", id, cut[at], None))
        elif is_without_stop(response):
            findings.append(("response_no_stop", id, f"ends with “… {' '.join(response.split()[-3:])}”", None))
        if why := too_short(instruction, response):
            findings.append(("response_short", id, why, None))
    return findings


def _checks(table: pl.DataFrame) -> list[Finding]:
    """Return the rows whose answer fails a check of `kiloset.verify` that needs neither a model nor known categories."""
    config = VerifyConfig(off=("agreement", "number"))
    columns = table.select("id", "instruction", "input", "response", "category").with_columns(
        pl.col("category").fill_null("")
    )
    return [
        (REASONS[check["check"]], row["id"], check["detail"], None)
        for row in columns.iter_rows(named=True)
        for check in check_row(row, config)
        if not check["passed"]
    ]


def _repeats(table: pl.DataFrame) -> list[Finding]:
    """Return the rows that repeat another row: all of it, with another answer, nearly, on the same text, or as a template."""
    dropped = drop_near_duplicates(table, NearDuplicatesConfig(), seed=0).dropped.sort("id")
    rows = {row["id"]: row for row in table.select("id", "instruction", "input", "response").iter_rows(named=True)}
    answers_of: dict[str, dict[str, str]] = {}
    """By the row that the others copy: normal forms of the answers so far, each with the first row that has it."""
    findings: list[Finding] = []
    for id, reason, evidence, other in dropped.select("id", "reason", "evidence", "twin").iter_rows():
        if reason == "exact_duplicate":
            answers = answers_of.setdefault(other, {normal_form(rows[other]["response"]): other})
            first = answers.setdefault(normal_form(rows[id]["response"]), id)
            if first == id:
                findings.append(("other_answer", id, "same instruction and input, another answer", other))
            else:
                findings.append(("exact_duplicate", id, "same instruction, input and answer", first))
        elif reason == "near_duplicate":
            name = "near_duplicate" if is_one_task(rows[id], rows[other]) else "shared_text"
            findings.append((name, id, evidence.replace(f" with {other}", ""), other))
        else:
            findings.append(
                ("template", id, "differs from three similar rows in numbers, names or symbols only", other)
            )
    return findings


def _personal(table: pl.DataFrame) -> tuple[list[Finding], list[str]]:
    """Return the rows with personal data, and the number of pieces of each kind."""
    pieces = personal_rows(table, REGIONS)
    evidence: dict[str, list[str]] = defaultdict(list)
    for id, column, kind, value in pieces.select("id", "column", "kind", "redacted").iter_rows():
        evidence[id].append(f"{kind} {value} in the {column}")
    kinds = Counter(pieces["kind"].to_list())
    findings: list[Finding] = [("personal_data", id, "; ".join(each), None) for id, each in evidence.items()]
    return findings, [f"{kind}: {number}" for kind, number in kinds.most_common()]


def _masked(table: pl.DataFrame, ids: set[str]) -> pl.DataFrame:
    """Return rows as they may be shown: personal data in the rows `ids` replaced, and names short enough for a chart's axis."""
    hidden = pl.col("id").is_in(sorted(ids))
    texts = [
        pl.when(hidden).then(pl.col(name).map_elements(_mask, pl.String)).otherwise(name).alias(name)
        for name in ("user", "instruction", "input", "response")
    ]
    names = [
        pl.col(name).replace_strict(
            {each: visible(each, NAME) for each in table[name].unique()}, return_dtype=pl.String
        )
        for name in ("category", "license")
    ]
    return table.with_columns(*texts, *names)


def _mask(text: str) -> str:
    return veiled(text, REGIONS)
