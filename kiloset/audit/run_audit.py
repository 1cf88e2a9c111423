"""The audit of a run: read the run folder, measure, and print every figure.

Figures that the folder does not record are None or empty here, and "not recorded" on the terminal.
"""

from collections.abc import Mapping
from contextlib import closing
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import polars as pl
from rich.console import Console

from kiloset.audit import figures
from kiloset.audit.figures import Duplicates, Lengths, Spread, StageCount
from kiloset.audit.gate import Acceptance, Examples, acceptance, examples, print_acceptance, print_examples
from kiloset.audit.origins import Lineage, Strategies, lineage, print_lineage, print_strategies, strategies
from kiloset.audit.rewriting import (
    Rewriting,
    Style,
    candidates,
    print_rewriting,
    print_style,
    rewriting,
    rewriting_input,
)
from kiloset.audit.rewriting import style as measure_style
from kiloset.audit.run_folder import Edits, find_edits, read_limit, read_settings, read_stages
from kiloset.audit.safe_text import print_heading, print_lines, print_table, share_of
from kiloset.core.blind_sample import Precision, precision_of, read_sample, whole_precision
from kiloset.core.calls import CallStore
from kiloset.core.errors import ConfigError
from kiloset.core.review import read_decisions
from kiloset.core.run import RunFolder
from kiloset.data.curated import read_curated

EXAMPLES = 3
"""Rewrites printed beside their references by default."""


@dataclass(frozen=True, slots=True)
class Distribution:
    """The categories of a set compared with its target."""

    target: dict[str, int]
    """Target rows by category."""
    result: dict[str, int]
    """Rows of curated.jsonl by category."""
    deviations: dict[str, float]
    """Share in the set minus share in the target, in percentage points, by category; {} if either is empty."""
    js_distance: float | None
    """Jensen-Shannon distance of the two, in [0, 1]."""
    usage: dict[str, Any] | None
    """How the target was derived from prompts of real use, as the manifest records it."""

    @property
    def largest(self) -> tuple[str, float] | None:
        """The category with the largest deviation, and the deviation; of equal ones the first."""
        return max(self.deviations.items(), key=lambda pair: abs(pair[1]), default=None)


@dataclass(frozen=True, slots=True)
class Audit:
    """Every figure of a run."""

    name: str
    rows: int
    """Lines of curated.jsonl."""
    table: pl.DataFrame
    """These lines in order (id, user, response, category, split), with the columns of the last stage if it has the row."""
    ledger: pl.DataFrame
    """Every dropped row, with its verdict."""
    distribution: Distribution
    precision: dict[str, Precision]
    """What a reader found in the blind sample (`kiloset review --sample`), by category; {} without one."""
    funnel: list[StageCount]
    problems: list[str]
    """A sentence for every count that is not consistent."""
    lengths: dict[str, Lengths]
    """Of instruction, input and response."""
    spread: Spread | None
    borderline: int | None
    """Pairs of rows close in meaning that were both kept, as the run recorded; borderline.parquet lists the closest."""
    closest: pl.DataFrame
    """The first of these: `id`, `other`, `cosine`, `why`, `instruction`, `other_instruction`."""
    diversity: Mapping[str, Mapping[str, Any]] | None
    """Of the candidates, the selected ones and as many random ones, as recorded by selection (`kiloset.filters.diversity`)."""
    duplicates: Duplicates
    instructions: dict[str, str]
    """Texts of the rows in `duplicates.nearest`."""
    rewriting: Rewriting | None
    """Like `style` and `examples`, of the last stage's rows that are still in curated.jsonl, as the run wrote them."""
    acceptance: Acceptance | None
    """Of all rows that entered rewriting."""
    style: Style | None
    examples: Examples | None
    strategies: Strategies
    lineage: Lineage
    calls: dict[str, dict[str, int]] | None
    """Requests and tokens by purpose."""
    resent: int | None
    """Requests sent although their completion was stored; this should be 0."""
    seconds: dict[str, float]
    """By stage."""
    openings: dict[str, int]
    """Rows by the first three words of the response, most first."""
    edits: Edits | None
    note: str | None
    """A sentence about rows of curated.jsonl without a split, None if there are none."""


def run_of(file: Path | None, run: str | None, for_file_only: bool) -> RunFolder | None:
    """Return the run if FILE is a run folder; None if it is a file, or missing.

    Args:
        file: FILE.
        run: `--run`.
        for_file_only: Whether an option was input_ that applies to files only.

    Raises:
        ConfigError: FILE and `--run` are both input_, or such an option is input_ with a run.
    """
    if file is not None and run is not None:
        raise ConfigError("KS661", f"FILE and --run name two things to audit, got {file} and {run}; leave one out")
    is_run = file is not None and RunFolder(file).manifest_file.is_file()
    if for_file_only and (file is None or is_run):
        raise ConfigError(
            "KS662",
            "--benchmark, --embed and --verify need FILE; a run has its own benchmarks ([contamination] files) and vectors",
        )
    return RunFolder(file) if file is not None and is_run else None


def audit(run: RunFolder, most_examples: int = EXAMPLES) -> Audit:
    """Measure a finished run, with at most `most_examples` examples of rewrites.

    Raises:
        DataError: The folder is no run or not finished, or a line of curated.jsonl cannot be read.
    """
    run.require()
    manifest, (stages, ledger), curated = run.manifest, read_stages(run), read_curated(run.curated)
    final, lines = stages[-1][1], curated.rows.select("id", "user", "response", "category", "split")
    rows = lines.join(final.drop("category"), on="id", how="left", maintain_order="left")
    parts = [_split_user_turn(user, input_ or "") for user, input_ in rows.select("user", "input").iter_rows()]
    texts = dict(lines.select("id", "user").iter_rows())
    responses = lines["response"].to_list()
    recorded: dict[str, Any] = manifest.get("stages", {})
    funnel, problems = figures.funnel(stages, ledger, recorded)
    edits = find_edits(run, lines, final)
    if lines.height != final.height and (edits is None or edits.untouched):
        problems.append(f"curated.jsonl has {lines.height} rows, the last stage kept {final.height}")
    duplicates = figures.duplicates(list(texts), list(texts.values()))
    calls, resent = _calls(run)
    present = final.filter(pl.col("id").is_in(lines["id"].to_list()))
    entered = rewriting_input(stages, ledger)
    offered = None if entered is None else candidates(entered)
    min_gain = read_settings(run, "rewrite").get("min_gain")
    return Audit(
        name=str(manifest.get("name", run.path.name)),
        rows=lines.height,
        table=rows,
        ledger=ledger,
        distribution=distribution(lines, manifest),
        precision=precision_of(read_sample(run.sample), read_decisions(run.review)),
        funnel=funnel,
        problems=problems,
        lengths={
            "instruction": figures.lengths([instruction for instruction, _ in parts]),
            "input": figures.lengths([input_ for _, input_ in parts]),
            "response": figures.lengths(responses),
        },
        spread=figures.spread(rows),
        borderline=manifest.get("borderline"),
        closest=pl.read_parquet(run.borderline).head(figures.NEAREST) if run.borderline.exists() else pl.DataFrame(),
        diversity=manifest.get("diversity") or None,
        duplicates=duplicates,
        instructions={id: texts[id] for one, other, _ in duplicates.nearest for id in (one, other)},
        rewriting=rewriting(present, offered),
        acceptance=acceptance(offered, 0 if entered is None else entered.height),
        style=measure_style(present, entered),
        examples=examples(present, read_settings(run, "gate"), min_gain, most_examples),
        strategies=strategies(final, ledger),
        lineage=lineage(final, ledger, read_limit(run, "max_depth"), read_limit(run, "max_shown")),
        calls=calls,
        resent=resent,
        seconds={stage: entry["seconds"] for stage, entry in recorded.items() if "seconds" in entry},
        openings=figures.openings(responses),
        edits=edits,
        note=curated.note,
    )


def distribution(curated: pl.DataFrame, manifest: Mapping[str, Any]) -> Distribution:
    """Compare the rows of curated.jsonl with the target in the manifest."""
    target, result = dict(manifest.get("target", {})), figures.tally(curated["category"].replace("", None))
    wanted, rows = sum(target.values()), curated.height
    deviations = {}
    if wanted and rows:
        names = sorted({*target, *result})
        deviations = {name: 100 * (result.get(name, 0) / rows - target.get(name, 0) / wanted) for name in names}
    return Distribution(target, result, deviations, figures.js_distance(target, result), manifest.get("usage"))


def print_audit(report: Audit, console: Console, most_examples: int | None = None) -> None:
    """Print every figure as tables that are readable 80 columns wide and without a terminal.

    Args:
        report: The audit.
        console: Where to print.
        most_examples: Prints at most so many of the audit's examples of rewrites; None prints all.
    """
    print_heading(console, f"Audit of {report.name}: {report.rows} rows")
    print_distribution(report.distribution, console)
    _print_precision(report, console)
    _print_funnel(report, console)
    print_lengths(report.lengths, console)
    _print_diversity(report, console)
    print_rewriting(report.rewriting, console)
    if report.rewriting is not None:
        print_acceptance(report.acceptance, console)
        print_style(report.style, console)
        if report.examples is not None:
            chosen = report.examples.chosen[:most_examples]
            print_examples(replace(report.examples, chosen=chosen), console)
    print_strategies(report.strategies, console)
    print_lineage(report.lineage, console)
    _print_cost(report, console)
    openings = [(opening, rows, share_of(rows, report.rows)) for opening, rows in report.openings.items()]
    print_table(console, "Most common openings of responses", ("first words", "rows", "share"), openings)
    _print_edits(report, console)


def print_distribution(result: Distribution, console: Console) -> None:
    """Print target, result and deviation of every category, and the distance of the two."""
    wanted, had, rows = sum(result.target.values()), sum(result.result.values()), []
    for name in sorted({*result.target, *result.result}):
        target, actual = result.target.get(name, 0), result.result.get(name, 0)
        points = f"{result.deviations[name]:+.1f}" if name in result.deviations else ""
        rows.append((name, target, share_of(target, wanted), actual, share_of(actual, had), points))
    columns = ("category", "target", "share", "result", "share", "points")
    print_table(console, "Categories" + ("" if wanted else " (target not recorded)"), columns, rows)
    distance = "not recorded" if result.js_distance is None else f"{result.js_distance:.3f}"
    print_lines(console, f"Jensen-Shannon distance of target and result: {distance} (0: equal, 1: disjoint)")
    if result.largest is not None:
        name, deviation = result.largest
        largest = f"{deviation:+.1f} percentage points, {name}" if deviation else "none"
        print_lines(console, f"largest deviation: {largest}")
    if result.usage is not None:
        _print_usage(result.usage, console)


def precision_rows(report: Audit) -> list[tuple[str, str]]:
    """Return which share of the rows was right when read, for each category and for all; "not read" where nobody has."""
    names = sorted({*report.distribution.target, *report.distribution.result, *report.precision})
    whole = whole_precision(report.precision.values())
    return [(name, str(report.precision.get(name, Precision(0, 0, 0)))) for name in names] + [("all", str(whole))]


def _print_precision(report: Audit, console: Console) -> None:
    whole = whole_precision(report.precision.values())
    if not whole.read:
        drawn = f"{whole.drawn} rows are drawn; `kiloset review --sample {whole.drawn}` opens them"
        none = "`kiloset review --sample 50` draws rows for a blind reading"
        print_lines(console, f"right rows: not read; {drawn if whole.drawn else none}")
        return
    title = "Right rows of the blind sample, with 95 % intervals"
    print_table(console, title, ("category", "right of read"), precision_rows(report))
    if whole.read < whole.drawn:
        print_lines(console, f"{whole.drawn - whole.read} of the {whole.drawn} drawn rows are not read yet")


def print_lengths(lengths: Mapping[str, Lengths], console: Console) -> None:
    """Print the lengths of texts."""
    rows = [(name, n.rows, *(f"{q:.0f}" for q in n.quantiles)) for name, n in lengths.items() if n.rows]
    columns = ("text", "rows", "min", "p10", "median", "p90", "max")
    print_table(console, "Lengths in words, of texts that are not empty", columns, rows)


def _print_usage(usage: Mapping[str, Any], console: Console) -> None:
    """Print how the target was derived from real prompts; figures that an older manifest lacks are left out."""
    line = "the target follows real use"
    if {"sampled", "prompts"} <= usage.keys():
        line += (
            f": {usage['sampled']} of {usage['prompts']} prompts, each in the category of its nearest labelled seeds"
        )
    print_lines(console, line)
    if usage.get("unsure_share") is not None:
        below = f" (confidence below {usage['min_confidence']:.2f})" if "min_confidence" in usage else ""
        print_lines(console, f"unsure: {100 * usage['unsure_share']:.1f} % of them{below}; these are counted too")
    accuracies = {
        "of these prompts, expected (mean confidence)": usage.get("mean_confidence"),
        "of the labelled seeds, leave-one-out": usage.get("leave_one_out_accuracy"),
        "of the sure ones among these seeds": usage.get("leave_one_out_accuracy_of_sure"),
    }
    rows = [(name, f"{100 * value:.1f} %") for name, value in accuracies.items() if value is not None]
    print_table(console, "Accuracy of the categories of real prompts", ("share", "estimate"), rows)


def _print_funnel(report: Audit, console: Console) -> None:
    rows: list[tuple[object, ...]] = []
    for count in report.funnel:
        rows.append((count.stage, count.entered, count.created, count.kept, count.dropped_rows, count.set_aside or ""))
        rows += [(f"- {reason}", "", "", "", dropped, "") for reason, dropped in count.dropped.items()]
    print_table(console, "Funnel", ("stage", "in", "new", "kept", "dropped", "set aside"), rows)
    earlier = report.ledger["again"].count() if "again" in report.ledger.columns else 0
    if earlier:
        print_lines(
            console,
            f"{earlier} rows were first dropped in an earlier pass, by another stage or reason, which dropped.parquet records.",
        )
    print_lines(console, *(f"NOT CONSISTENT: {problem}" for problem in report.problems))
    if not report.problems:
        print_lines(
            console, "The counts are consistent: every row was kept, dropped once with a reason, or set aside (seeds)."
        )


def _print_diversity(report: Audit, console: Console) -> None:
    print_heading(console, "Diversity")
    spread, duplicates = report.spread, report.duplicates
    entropy = "not recorded"
    if spread is not None:
        entropy = f"{spread.entropy:.3f} nats over {spread.clusters} clusters, evenness {spread.evenness:.3f} of 1"
    print_lines(console, f"cluster entropy: {entropy}")
    _print_vendi(report.diversity or {}, console)
    share = f"{duplicates.rows} of {report.rows} rows ({100 * duplicates.share:.1f} %)"
    print_lines(console, f"near-duplicates: {share} have one in the set, Jaccard similarity >= {figures.THRESHOLD:.2f}")
    rows: list[tuple[object, ...]] = []
    for one, other, similarity in duplicates.nearest:
        rows += [
            (f"{one} {report.instructions[one]}", f"{similarity:.3f}"),
            (f"{other} {report.instructions[other]}", ""),
        ]
    if rows:
        print_table(console, "Most similar pairs", ("rows", "similarity"), rows)
    if report.borderline is None:
        return
    where = ", for review in borderline.parquet" if report.borderline else ""
    print_lines(
        console, f"borderline: {report.borderline} pairs of candidates are close in meaning; both were kept{where}"
    )
    rows = []
    for pair in report.closest.iter_rows(named=True):
        rows.append((f"{pair['id']} {pair['instruction']}", f"{pair['cosine']:.3f}", pair["why"]))
        rows.append((f"{pair['other']} {pair['other_instruction']}", "", ""))
    if rows:
        print_table(console, "Pairs closest in meaning, both kept", ("rows", "cosine", "difference"), rows)


def _print_vendi(diversity: Mapping[str, Mapping[str, Any]], console: Console) -> None:
    rows = []
    for name, one in diversity.items():
        range_ = f" ({one['vendi_least']:.1f} to {one['vendi_most']:.1f})" if "vendi_least" in one else ""
        nearest = [f"{value:.2f}" for value in one["nearest"]] or ["", "", "", "", ""]
        even = f"{one['cluster_entropy']:.2f}" if "cluster_entropy" in one else ""
        rows.append((name, one["rows"], f"{one['vendi']:.1f}{range_}", even, *nearest[::2]))
    title = "Effective number of rows (Vendi score), entropy over clusters (1: even), cosine with the nearest other row"
    if rows:
        print_table(console, title, ("rows", "number", "Vendi", "entropy", "5 %", "half", "95 %"), rows)


def _print_cost(report: Audit, console: Console) -> None:
    columns = ("sent", "completed", "prompt_tokens", "completion_tokens")
    calls = report.calls or {}
    rows = [(purpose, *(spent[name] for name in columns)) for purpose, spent in calls.items()]
    if rows:
        rows.append(("all", *(sum(spent[name] for spent in calls.values()) for name in columns)))
    print_table(console, "Requests", ("purpose", "sent", "completed", "prompt tokens", "completion tokens"), rows)
    if report.resent is not None:
        print_lines(console, f"requests sent again although their completion was stored: {report.resent}")
    seconds = [(stage, f"{spent:.1f}") for stage, spent in report.seconds.items()]
    print_table(console, "Time", ("stage", "seconds"), seconds)


def _print_edits(report: Audit, console: Console) -> None:
    print_heading(console, "Edits by hand")
    edits = report.edits
    if edits is None:
        line = "not recorded"
    elif edits.untouched:
        line = "0 rows: curated.jsonl is the file that the run wrote"
    else:
        rows = edits.changed + edits.added + edits.removed
        line = f"{rows} rows of curated.jsonl: {edits.changed} changed, {edits.added} added, {edits.removed} removed"
    print_lines(console, line, *([report.note] if report.note else []))


def _calls(run: RunFolder) -> tuple[dict[str, dict[str, int]] | None, int | None]:
    if not run.calls.exists():
        return None, None
    with closing(CallStore.read_only(run.calls)) as store:
        return store.account(), store.resent_after_completion()


def _split_user_turn(user: str, input_: str) -> tuple[str, str]:
    """Return instruction and input of a user turn; if the input was edited, the whole turn is the instruction."""
    tail = f"\n\n{input_}"
    return (user.removesuffix(tail), input_) if input_ and user.endswith(tail) else (user, "")
