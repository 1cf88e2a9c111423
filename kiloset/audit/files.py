"""Audits an instruction file that somebody else made: reads it to its end, and holds its rows against every rule there is."""

from collections import Counter, defaultdict
from collections.abc import Callable, Sequence
from pathlib import Path

import polars as pl

from kiloset.audit.answers import cut_answers, is_begun, is_without_stop, too_short
from kiloset.audit.escaping import shown
from kiloset.audit.faults import Finding
from kiloset.audit.meanings import OF_RULES
from kiloset.audit.repeats import repeats
from kiloset.audit.set_page import write_set_page
from kiloset.audit.sets import SetAudit, Source, audit_set
from kiloset.core.models import Embedder
from kiloset.data.examples import ExampleFile, read_example_file
from kiloset.data.masking import veiled
from kiloset.filters.contamination import ContaminationConfig, Prompts
from kiloset.filters.languages import languages_known
from kiloset.filters.near_duplicates import NearDuplicatesConfig, drop_near_duplicates
from kiloset.filters.personal import personal_rows
from kiloset.filters.rules import PART, RulesConfig, instruction_rules, row_rules
from kiloset.inputs import read_benchmarks
from kiloset.settings import RunConfig

LONGEST = 600
"""Words of an instruction at most: in a chat it holds its input, for which the rules allow as many."""
REGIONS = RulesConfig().phone_regions
"""Whose phone numbers are found without a country code."""
OWN_SHARE, SAMPLE = 0.2, 500
"""Share of the rows that makes a language the set's own, and rows by which that is told."""
NAME = 60
"""Longest name of a category or a licence, in characters."""
SHOWN = ("id", "place", "user", "instruction", "input", "response", "category", "license", "turns")


def audit_file(path: Path, benchmarks: Sequence[str] = ()) -> SetAudit:
    """Audit a file, or a folder of files, of any layout that is read as seeds; nothing is written.

    Args:
        path: A .jsonl, .json, .csv or .parquet file, a folder of them, or one that `datasets` saved.
        benchmarks: Files whose prompts no row should repeat.

    Raises:
        DataError: A file is missing or as a whole unreadable, or none of its lines holds an example.
        EmptyError: A file is empty.
    """
    prompts = read_benchmarks(benchmarks, "--benchmark") if benchmarks else None
    return audit_lines(path.name, read_example_file(str(path)), benchmarks, prompts)


def audit_lines(
    name: str, lines: ExampleFile, benchmarks: Sequence[str] = (), prompts: pl.DataFrame | None = None
) -> SetAudit:
    """Audit what was read of a file, with the prompts of benchmarks if there are any."""
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
    )
    personal, pieces = _personal(table)
    findings = [*_rules(table, languages), *_answers(table), *_repeats(table), *personal]
    notes: dict[str, Sequence[str]] = {"personal_data": pieces}
    if prompts is not None:
        # The page may be passed on, and whose folders these are is nobody's business.
        prompts = prompts.with_columns(pl.col("place").str.split("/").list.last())
        leaked = Prompts(prompts, ContaminationConfig()).repeated_by(table)
        findings += [("contaminated", id, said["evidence"], None) for id, said in leaked.items()]
        notes["contaminated"] = [f"{prompts.height} prompts of {', '.join(source.benchmarks)} were looked for"]
    hidden = {id for _, id, _, _ in personal}
    safe = [(fault, id, _hide(said) if id in hidden else said, twin) for fault, id, said, twin in findings]
    return audit_set(source, _redacted(table.select(SHOWN), hidden), safe, notes)


def write_report(found: SetAudit, out: Path, load_embedder: Callable[[RunConfig, int], Embedder] | None) -> int:
    """Write the page of an audit and return its size in bytes; the map needs an embedder.

    Raises:
        DataError: It cannot be written.
    """
    embed = None if load_embedder is None else load_embedder(RunConfig(), found.rows).embed
    return write_set_page(found, embed, out)


def own_languages(table: pl.DataFrame) -> tuple[str, ...]:
    """Return the ISO 639 codes of the languages that a fifth of some rows, drawn at random, are in; () where none can be told."""
    some = table if table.height <= SAMPLE else table.sample(SAMPLE, seed=0)
    counts = Counter(code for text in some["response"] for code in languages_known([text]))
    return tuple(sorted(code for code, number in counts.items() if number >= OWN_SHARE * counts.total()))


def _rules(table: pl.DataFrame, languages: tuple[str, ...]) -> list[Finding]:
    """Return every rule that a row breaks, not only the first."""
    config = RulesConfig(max_instruction_words=LONGEST, languages=languages)
    rules = {**instruction_rules(config), **row_rules(config)}
    found: list[Finding] = []
    for part in table.iter_slices(PART):
        for name, rule in rules.items():
            says = pl.lit(rule.quantity) if isinstance(rule.quantity, str) else rule.quantity
            broken = part.select(
                "id",
                "instruction",
                rule.broken.alias("broken"),
                rule.measured.cast(pl.Float64).alias("measured"),
                says.alias("says"),
            ).filter("broken")
            for id, instruction, _, measured, said in broken.iter_rows():
                if name == "refers_to_missing_input" and is_begun(instruction):
                    continue
                value = f"{measured:.0f}" if measured.is_integer() else f"{measured:.2f}"
                evidence = said if rule.limit == 0 else f"{value} {said} (limit {rule.limit:g})"
                found.append((OF_RULES.get(name, name), id, evidence, None))
    return found


def _answers(table: pl.DataFrame) -> list[Finding]:
    found: list[Finding] = []
    cut = cut_answers(table["response"].to_list())
    for at, (id, instruction, response) in enumerate(table.select("id", "instruction", "response").iter_rows()):
        if at in cut:
            found.append(("response_cut", id, cut[at], None))
        elif is_without_stop(response):
            found.append(("response_no_stop", id, f"ends with “… {' '.join(response.split()[-3:])}”", None))
        if why := too_short(instruction, response):
            found.append(("response_short", id, why, None))
    return found


def _repeats(table: pl.DataFrame) -> list[Finding]:
    outcome = drop_near_duplicates(table, NearDuplicatesConfig(), seed=0)
    return list(repeats(table, outcome.dropped))


def _personal(table: pl.DataFrame) -> tuple[list[Finding], list[str]]:
    """Return the rows with personal data, and how many pieces of each kind there are."""
    pieces = personal_rows(table, REGIONS)
    said: dict[str, list[str]] = defaultdict(list)
    for id, column, kind, value in pieces.select("id", "column", "kind", "redacted").iter_rows():
        said[id].append(f"{kind} {value} in the {column}")
    kinds = Counter(pieces["kind"].to_list())
    found: list[Finding] = [("personal_data", id, "; ".join(each), None) for id, each in said.items()]
    return found, [f"{kind}: {number}" for kind, number in kinds.most_common()]


def _redacted(table: pl.DataFrame, ids: set[str]) -> pl.DataFrame:
    """Return rows as they may be shown: some with their personal data replaced, and names that fit a chart's axis."""
    hidden = pl.col("id").is_in(sorted(ids))
    texts = [
        pl.when(hidden).then(pl.col(name).map_elements(_hide, pl.String)).otherwise(name).alias(name)
        for name in ("user", "instruction", "input", "response")
    ]
    names = [
        pl.col(name).replace_strict({each: shown(each, NAME) for each in table[name].unique()}, return_dtype=pl.String)
        for name in ("category", "license")
    ]
    return table.with_columns(*texts, *names)


def _hide(text: str) -> str:
    return veiled(text, REGIONS)
