"""The audit of a run: reads the run folder, changes no row in it, and prints what it measured.

What the folder does not hold is None or empty here, and "not recorded" on the screen.
"""

from collections.abc import Mapping
from contextlib import closing
from dataclasses import dataclass
from typing import Any

import polars as pl
from rich.console import Console

from kiloset.audit import figures
from kiloset.audit.acceptance import Acceptance, acceptance, show_acceptance
from kiloset.audit.distribution import Distribution, distribution, show_distribution
from kiloset.audit.examples import Examples, examples, show_examples
from kiloset.audit.figures import Duplicates, Lengths, Spread, StageCount
from kiloset.audit.lineage import Lineage, lineage, show_lineage
from kiloset.audit.reading import Edits, find_edits, read_limit, read_settings, read_stages
from kiloset.audit.rewriting import Rewriting, came_to_rewriting, candidates, rewriting, show_rewriting
from kiloset.audit.spreads import Style, show_style, style
from kiloset.audit.strategies import Strategies, show_strategies, strategies
from kiloset.audit.terminal import literal, print_heading, print_table, share_of
from kiloset.core.calls import CallStore
from kiloset.core.run import RunFolder
from kiloset.data.curated import read_curated

EXAMPLES = 3
"""Rewrites shown beside their references."""


@dataclass(frozen=True, slots=True)
class Audit:
    """Every figure of a run."""

    name: str
    rows: int
    """Lines of curated.jsonl."""
    table: pl.DataFrame
    """These lines (`kiloset.data.curated.SCHEMA`), in order, with the last stage's columns where it has the row."""
    ledger: pl.DataFrame
    """Every dropped row, with its verdict."""
    distribution: Distribution
    funnel: list[StageCount]
    problems: list[str]
    """What does not add up, a sentence each."""
    lengths: dict[str, Lengths]
    """Of instruction, input and response."""
    spread: Spread | None
    borderline: int | None
    """Pairs of rows that lie close and that a word tells apart, as the run noted; borderline.parquet lists the closest."""
    closest: pl.DataFrame
    """The first of them: `id`, `other`, `cosine`, `why`, `instruction`, `other_instruction`."""
    diversity: Mapping[str, Mapping[str, Any]] | None
    """Of the candidates, those that balance took and as many random ones, as it noted them (`kiloset.filters.diversity`)."""
    duplicates: Duplicates
    instructions: dict[str, str]
    """Texts of the rows in `duplicates.nearest`."""
    rewriting: Rewriting | None
    """Like `style` and `examples`, of the rows of the last stage that are still in curated.jsonl, as the run wrote them."""
    acceptance: Acceptance | None
    """Of all rows that came to rewriting."""
    style: Style | None
    examples: Examples | None
    strategies: Strategies
    lineage: Lineage
    calls: dict[str, dict[str, int]] | None
    """Requests and tokens by purpose."""
    resent: int | None
    """Requests sent although their completion was stored already; 0 is the promise."""
    seconds: dict[str, float]
    """By stage."""
    openings: dict[str, int]
    """Rows by the first three words of the response, most first."""
    edits: Edits | None


def audit(run: RunFolder, most_examples: int = EXAMPLES) -> Audit:
    """Measure a finished run, and pick at most so many examples of rewrites.

    Raises:
        DataError: The folder is no run or not finished, or a line of curated.jsonl cannot be read.
    """
    run.require()
    manifest, (stages, ledger), curated = run.manifest, read_stages(run), read_curated(run.curated).rows
    final = stages[-1][1]
    rows = curated.select("id", "user", "response", "category", "split").join(
        final.drop("category"), on="id", how="left", maintain_order="left"
    )
    split = [_split(user, given or "") for user, given in rows.select("user", "input").iter_rows()]
    texts = dict(zip(curated["id"], curated["user"], strict=True))
    responses = curated["response"].to_list()
    recorded: dict[str, Any] = manifest.get("stages", {})
    funnel, problems = figures.funnel(stages, ledger, recorded)
    edits = find_edits(run, curated, final)
    if curated.height != final.height and (edits is None or edits.untouched):
        problems.append(f"curated.jsonl has {curated.height} rows, the last stage kept {final.height}")
    duplicates = figures.duplicates(list(texts), list(texts.values()))
    calls, resent = _calls(run)
    unremoved = final.filter(pl.col("id").is_in(curated["id"].to_list()))
    came = came_to_rewriting(stages, ledger)
    offered = None if came is None else candidates(came)
    return Audit(
        name=str(manifest.get("name", run.path.name)),
        rows=curated.height,
        table=rows,
        ledger=ledger,
        distribution=distribution(curated, manifest),
        funnel=funnel,
        problems=problems,
        lengths={
            "instruction": figures.lengths([instruction for instruction, _ in split]),
            "input": figures.lengths([given for _, given in split]),
            "response": figures.lengths(responses),
        },
        spread=figures.spread(rows),
        borderline=manifest.get("borderline"),
        closest=pl.read_parquet(run.borderline).head(figures.NEAREST) if run.borderline.exists() else pl.DataFrame(),
        diversity=manifest.get("diversity") or None,
        duplicates=duplicates,
        instructions={id: texts[id] for pair in duplicates.nearest for id in (pair.first, pair.second)},
        rewriting=rewriting(unremoved, offered),
        acceptance=acceptance(offered, 0 if came is None else came.height),
        style=style(unremoved, came),
        examples=examples(
            unremoved, read_settings(run, "gate"), read_settings(run, "rewrite").get("min_gain"), most_examples
        ),
        strategies=strategies(final, ledger),
        lineage=lineage(final, ledger, read_limit(run, "max_depth"), read_limit(run, "max_shown")),
        calls=calls,
        resent=resent,
        seconds={stage: said["seconds"] for stage, said in recorded.items() if "seconds" in said},
        openings=figures.openings(responses),
        edits=edits,
    )


def show(audit: Audit, console: Console) -> None:
    """Print every figure as tables that stay readable 80 columns wide and without a terminal."""
    print_heading(console, f"Audit of {audit.name}: {audit.rows} rows")
    show_distribution(audit.distribution, console)
    _show_funnel(audit, console)
    lengths = [(name, n.rows, *(f"{q:.0f}" for q in n.quantiles or ())) for name, n in audit.lengths.items() if n.rows]
    columns = ("text", "rows", "min", "p10", "median", "p90", "max")
    print_table(console, "Lengths in words, of texts that are not empty", columns, lengths)
    _show_diversity(audit, console)
    _show_rewriting(audit, console)
    show_strategies(audit.strategies, console)
    show_lineage(audit.lineage, console)
    _show_cost(audit, console)
    openings = [(opening, rows, share_of(rows, audit.rows)) for opening, rows in audit.openings.items()]
    print_table(console, "Most common openings of responses", ("first words", "rows", "share"), openings)
    _show_edits(audit.edits, console)


def _show_funnel(audit: Audit, console: Console) -> None:
    rows: list[tuple[object, ...]] = []
    for count in audit.funnel:
        rows.append((count.stage, count.entered, count.created, count.kept, sum(count.dropped.values())))
        rows += [(f"- {reason}", "", "", "", dropped) for reason, dropped in count.dropped.items()]
    print_table(console, "Funnel", ("stage", "in", "new", "kept", "dropped"), rows)
    for problem in audit.problems:
        console.print(literal(f"DOES NOT ADD UP: {problem}"))
    if not audit.problems:
        console.print(literal("The counts add up: every row was kept or dropped once, with a reason."))


def _show_diversity(audit: Audit, console: Console) -> None:
    print_heading(console, "Diversity")
    spread, found = audit.spread, audit.duplicates
    if spread is None:
        console.print(literal("cluster entropy: not recorded"))
    else:
        shown = f"{spread.entropy:.3f} nats over {spread.clusters} clusters, evenness {spread.evenness:.3f} of 1"
        console.print(literal(f"cluster entropy: {shown}"))
    _show_vendi(audit.diversity or {}, console)
    share = f"{found.rows} of {audit.rows} rows ({100 * found.share:.1f} %)"
    console.print(
        literal(f"duplicates: {share} have a twin with Jaccard >= {figures.THRESHOLD:.2f}, all pairs compared")
    )
    rows: list[tuple[object, ...]] = []
    for pair in found.nearest:
        rows.append((f"{pair.first} {audit.instructions[pair.first]}", f"{pair.jaccard:.3f}"))
        rows.append((f"{pair.second} {audit.instructions[pair.second]}", ""))
    if rows:
        print_table(console, "Most similar pairs", ("rows", "Jaccard"), rows)
    _show_borderline(audit, console)


def _show_borderline(audit: Audit, console: Console) -> None:
    if audit.borderline is None:
        return
    said = f"{audit.borderline} pairs of candidates are close in meaning and were both kept"
    console.print(literal(f"borderline: {said}" + (", for review in borderline.parquet" if audit.borderline else "")))
    rows: list[tuple[object, ...]] = []
    for pair in audit.closest.iter_rows(named=True):
        rows.append((f"{pair['id']} {pair['instruction']}", f"{pair['cosine']:.3f}", pair["why"]))
        rows.append((f"{pair['other']} {pair['other_instruction']}", "", ""))
    if rows:
        print_table(console, "Closest in meaning of those both kept", ("rows", "cosine", "told apart by"), rows)


def _show_vendi(found: Mapping[str, Mapping[str, Any]], console: Console) -> None:
    rows = []
    for name, said in found.items():
        range_ = f" ({said['vendi_least']:.1f} to {said['vendi_most']:.1f})" if "vendi_least" in said else ""
        nearest = [f"{value:.2f}" for value in said["nearest"]] or ["", "", "", "", ""]
        even = f"{said['cluster_entropy']:.2f}" if "cluster_entropy" in said else ""
        rows.append((name, said["rows"], f"{said['vendi']:.1f}{range_}", even, *nearest[::2]))
    title = "Rows in effect (Vendi score), entropy over clusters (1: even), cosine with the nearest other row"
    if rows:
        print_table(console, title, ("rows", "number", "Vendi", "entropy", "5 %", "half", "95 %"), rows)


def _show_rewriting(audit: Audit, console: Console) -> None:
    show_rewriting(audit.rewriting, console)
    if audit.rewriting is not None:
        show_acceptance(audit.acceptance, console)
        show_style(audit.style, console)
        show_examples(audit.examples, console)


def _show_cost(audit: Audit, console: Console) -> None:
    columns = ("sent", "completed", "prompt_tokens", "completion_tokens")
    rows = [(purpose, *(spent[name] for name in columns)) for purpose, spent in (audit.calls or {}).items()]
    if rows:
        rows.append(("all", *(sum(spent[name] for spent in (audit.calls or {}).values()) for name in columns)))
    print_table(console, "Calls", ("purpose", "sent", "completed", "prompt tokens", "written tokens"), rows)
    if audit.resent is not None:
        console.print(literal(f"requests sent again after their completion was stored: {audit.resent}"))
    seconds = [(stage, f"{spent:.1f}") for stage, spent in audit.seconds.items()]
    print_table(console, "Time", ("stage", "seconds"), seconds)


def _show_edits(edits: Edits | None, console: Console) -> None:
    print_heading(console, "Edits by hand")
    if edits is None:
        said = "not recorded"
    elif edits.untouched:
        said = "0 rows: curated.jsonl is as the run wrote it"
    else:
        said = f"{edits.changed + edits.added + edits.removed} rows: {edits.changed} changed, {edits.added} added, "
        said += f"{edits.removed} removed (curated.jsonl is not as the run wrote it)"
    console.print(literal(said))


def _calls(run: RunFolder) -> tuple[dict[str, dict[str, int]] | None, int | None]:
    if not run.calls.exists():
        return None, None
    with closing(CallStore.read_only(run.calls)) as store:
        return store.account(), store.resent_after_completion()


def _split(user: str, given: str) -> tuple[str, str]:
    """Take a user turn apart again; one whose input was edited counts as an instruction as a whole."""
    tail = f"\n\n{given}"
    return (user.removesuffix(tail), given) if given and user.endswith(tail) else (user, "")
