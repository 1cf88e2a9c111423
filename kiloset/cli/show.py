"""Print the results of commands."""

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.table import Table
from rich.text import Text

from kiloset.cli.text import duration, printable
from kiloset.core.run import RunFolder
from kiloset.core.statistics import Interval
from kiloset.evaluation.comparison import MetricComparison, Proof, verdict
from kiloset.evaluation.metrics import Metric, difference
from kiloset.previewing import Preview
from kiloset.result import Result
from kiloset.review.apply import Reviewed
from kiloset.train.loss import MaskedRow
from kiloset.train.report import TrainReport
from kiloset.whatif import Difference

ENDED = {
    "max_requests": "Generation ended because the budget of requests is spent: raise it with --set generate.max_requests=",
    "max_tokens": "Generation ended because the budget of tokens is spent: raise it with --set generate.max_tokens=",
    "max_hours": "Generation ended because its hours are over: raise them with --set generate.max_hours=",
    "max_waves": "Generation ended after the allowed number of waves: raise it with --set generate.max_waves=",
    "low_yield": "Of the short categories too few requests became candidates (generate.least_yield): the writer model is not up to them. Use a larger one, or let other categories fill with --set categories.fill=true",
    "no_seeds": "The short categories have no seeds to generate from: add seeds, or let other categories fill with --set categories.fill=true",
    "off": "Generation is off: give a larger pool, or let other categories fill with --set categories.fill=true",
    "done": "Selection had too few candidates: raise --set generate.candidates_per_row=, or let other categories fill with --set categories.fill=true",
}
"""Advice for a set that is too short, by the reason why generation ended (`kiloset.generator.loop`)."""

EXCERPT_LINES, EXCERPT_CHARACTERS = 4, 200
"""Largest number of lines of a text that a preview prints, and of characters of each line."""


def show_preview(result: Preview, name: str, console: Console) -> None:
    """Print the first rows of a run, the dropped rows with reason and evidence, and one line with what they cost."""
    for row in result.kept.iter_rows(named=True):
        _show_row(row, "green", "", console)
    for row in result.dropped.iter_rows(named=True):
        _show_row(row, "yellow", f"dropped: {row['reason']}: {row['evidence']}", console)
    if result.unfinished:
        _line(console, f"{result.unfinished} more rows have no completion yet; `kiloset dataset` requests it")
    counts = f"{result.kept.height} kept, {result.dropped.height} dropped, {duration(result.seconds)}"
    cost = f"{result.tokens:,} tokens" if result.requests else "nothing sent: the run has stored these rows before"
    _line(
        console,
        f"{name}: {counts}, {cost}; `kiloset dataset` with the same options continues from here, and `kiloset plan` now has "
        "measured costs",
    )


def _show_row(row: Mapping[str, Any], style: str, verdict: str, console: Console) -> None:
    """Print a row's texts, each cut to a few lines."""
    console.print(
        Text(printable(f"{row['id']}  {row['category']}  {row['strategy']}"), f"bold {style}"), soft_wrap=True
    )
    if verdict:
        _line(console, f"  {verdict}")
    for part in ("instruction", "input", "response"):
        for number, line in enumerate(_excerpt(row[part] or "")):
            _line(console, f"  {part if number == 0 else '':<12} {line}")


def _excerpt(text: str) -> list[str]:
    """Return the first lines of a text without empty ones; an ellipsis ends what is cut."""
    lines = [line.rstrip() for line in text.splitlines() if line.strip()]
    cut = [line if len(line) <= EXCERPT_CHARACTERS else f"{line[:EXCERPT_CHARACTERS]} …" for line in lines]
    return cut if len(cut) <= EXCERPT_LINES else [*cut[:EXCERPT_LINES], "…"]


def show_result(result: Result, folder: RunFolder, console: Console) -> None:
    """Print the end of a run: wanted and selected rows per category, drops, shortfall, and the paths."""
    title = escape(f"{folder.path.name}: {result.rows} of {sum(result.wanted.values())} rows")
    table = _table(title, "category", "wanted", "got", "short", text=("category",))
    for name in sorted({*result.wanted, *result.got}):
        wanted, got = result.wanted.get(name, 0), result.got.get(name, 0)
        table.add_row(Text(printable(name)), str(wanted), str(got), str(wanted - got) if got < wanted else "")
    console.print(table)
    for stage, reasons in result.dropped.items():
        counts = ", ".join(
            f"{reason} {n}" for reason, n in sorted(reasons.items(), key=lambda pair: (-pair[1], pair[0]))
        )
        _line(console, f"  dropped in {stage}: {sum(reasons.values())} ({counts})")
    if result.shortfall:
        _show_shortfall(result, console)
    if result.review is not None:
        _show_review(result.review, console)
    if result.edited:
        _line(console, f"{folder.curated} was edited by hand and stays as it is; delete it to have it written again")
    for path in (folder.curated, folder.dropped_file, folder.manifest_file):
        _line(console, str(path))


def _show_review(review: Reviewed, console: Console) -> None:
    accepted = f"{review.edited} edited, {review.relabelled} relabelled, {review.called_back} called back"
    _line(console, f"  review: {review.accepted} accepted ({accepted}), {review.rejected} rejected")
    if review.beyond:
        _line(console, f"  review: {review.beyond} accepted rows exceed their category's target and enlarge the set")
    if review.unreadable:
        _line(console, f"  review: accepted, but longer than the base model's context: {', '.join(review.unreadable)}")
    if review.gone:
        _line(
            console, f"  review: decisions without effect, because the row is gone or changed: {', '.join(review.gone)}"
        )


def _show_shortfall(result: Result, console: Console) -> None:
    headings = ("category", "short", "requested", "main losses", "estimated need")
    table = _table(f"{sum(result.shortfall.values())} rows short", *headings, text=(headings[0], *headings[3:]))
    for short in result.shortfalls:
        losses = ", ".join(f"{reason} {n}" for reason, n in list(short.losses.items())[:3])
        need = "unknown: no candidate was accepted" if result.ended != "off" else ""
        if short.more_requests is not None and short.more_tokens is not None:
            need = f"{short.more_requests:,} requests, {short.more_tokens:,} tokens"
        table.add_row(
            Text(printable(short.category)), str(short.wanted - short.got), str(short.requested), losses, need
        )
    console.print(table)
    _line(console, f"{ENDED[result.ended]}. All completions are kept; the same command with a higher limit resumes.")


def show_difference(result: Difference, name: str, rows: int, console: Console) -> None:
    """Print what other settings change: by stage and reason, and the first `rows` rows that they keep or drop instead."""
    settings = ", ".join(f"{key} = {now!r} (run: {then!r})" for key, (then, now) in result.settings.items())
    _line(console, f"{name} with {settings}")
    if result.moved:
        console.print(
            "the run was made by another version of Kiloset or was reviewed since: `then` is what this version does with "
            "the run's own settings",
            style="dim",
        )
    table = _table(None, "stage", "kept then", "now", "dropped then → now", text=("stage", "dropped then → now"))
    for stage, then, now, reasons in result.stages:
        changes = ", ".join(f"{reason} {old} → {new}" for reason, (old, new) in reasons.items() if old != new)
        table.add_row(stage, str(then), str(now), changes or "as before")
    console.print(table)
    then, now, both = result.selected
    console.print(f"selected: {then} then, {now} now, {both} of them the same", soft_wrap=True)
    if result.unasked:
        console.print(
            f"{result.unasked} instructions that the rules dropped before a response was requested would pass now; they are "
            "not included here",
            soft_wrap=True,
        )
    for row in result.changed.head(rows).iter_rows(named=True):
        instruction = printable(" ".join(row["instruction"].split()))
        short = f"{instruction[:100]} …" if len(instruction) > 100 else instruction
        console.print(Text(f"{row['id']}  {short}", style="bold"), soft_wrap=True)
        console.print(Text(f"    then  {printable(row['then'])}\n    now   {printable(row['now'])}"), soft_wrap=True)
    if result.changed.height > rows:
        console.print(f"and {result.changed.height - rows} more changed rows (--rows)", style="dim")


def show_training(report: TrainReport, folder: RunFolder, console: Console) -> None:
    """Print the report of a training run."""
    too_long = report.train_rows_too_long + report.validation_rows_too_long
    share = "" if report.utilisation is None else f", {report.utilisation:.0%} of the GPU's peak"
    padded = "" if report.packed else ", padded: this model does not support packing"
    early = ", stopped early" if report.stopped_early else ""
    resumed = f", resumed at {report.resumed_at}" if report.resumed_at else ""
    rows = {
        "training rows, validation rows": f"{report.train_rows}, {report.validation_rows}",
        "rows skipped because too long": str(too_long),
        "trainable parameters": f"{report.trainable_parameters:,} ({report.trainable_share:.2%} of the base model's)",
        "steps": f"{report.steps}{early}{resumed}",
        "speed": f"{report.tokens_per_second:.0f} tokens/s, prompt and response; {report.teraflops:.3g} TFLOP/s{share}{padded}",
        "peak memory": f"{report.peak_memory_gib:.2f} GiB",
        "validation loss before": _nats(report.validation_before),
        "validation loss after": _nats(report.validation_after),
        "kept": f"epoch {report.best_epoch}: {report.chosen_by}",
        "time": f"{report.seconds:.0f} s",
    }
    table = Table(title=escape(f"{folder.path.name}: adapter"), title_justify="left", show_header=False)
    for name, value in rows.items():
        table.add_row(name, value)
    console.print(table)
    _line(console, str(folder.adapter))


def _nats(value: float | None) -> str:
    return "no validation rows" if value is None else f"{value:.4f} nats per response token"


def show_masks(rows: Iterable[MaskedRow], console: Console) -> None:
    """Print rows token by token: trained tokens green and underlined, so that they are visible without colour too."""
    for row in rows:
        trained = sum(counts for _, counts in row.tokens)
        console.print(f"\n[bold]{escape(row.id)}[/bold]: {trained} of {len(row.tokens)} tokens train")
        text = Text()
        for number, (token, counts) in enumerate(row.tokens):
            shade = " on grey15" if number % 2 else ""
            piece = printable(token) + ("\n" if token.endswith("\n") else "")
            text.append(piece, f"green underline{shade}" if counts else f"dim{shade}")
        console.print(text, soft_wrap=True)


def show_settings(described: Sequence[tuple[str, str, Any, str]], values: Mapping[str, Any], console: Console) -> None:
    """Print every setting with its value, its default where that differs, and its meaning."""
    last_table = ""
    for table, key, default, text in described:
        if table != last_table:
            console.print(f"\n[bold]{escape(f'[{table}]')}[/bold]")
            last_table = table
        value: Any = values
        for part in (*table.split("."), key):
            value = value[part]
        other = f" (default {default!r})" if value != default else ""
        console.print(escape(f"  {key} = {value!r}{other}"), soft_wrap=True)
        console.print(f"      [dim]{escape(text)}[/dim]", soft_wrap=True, highlight=False)


def show_judgement(base: Mapping[str, Metric], tuned: Mapping[str, Metric], folder: Path, console: Console) -> None:
    """Print the metrics of the base model and of the tuned model, with the confidence interval of the difference."""
    headings = ("metric", "unit", "items", "base", "tuned", "difference", "")
    table = _table("base and tuned model, 95 % intervals over items", *headings, text=("metric", "unit", ""))
    for name, metric in base.items():
        change = difference(tuned[name], metric)
        values = (f"{metric.mean:.3f}", f"{tuned[name].mean:.3f}", _interval(change))
        table.add_row(escape(name), metric.unit, str(len(metric.counts)), *values, verdict(change, metric.better))
    console.print(table)
    _line(console, str(folder))


def show_proof(proof: Proof, folder: Path, console: Console) -> None:
    """Print the curated set's metrics, every arm's on the target, the guards and the verdict; proof.json has the rest."""
    headings = ("metric", "base", "random", "curated", "curated - random", "")
    table = _table("curated and random rows: mean over seeds, 95 % interval", *headings, text=("metric", ""))
    for curated, random in zip(proof.figures["curated"], proof.figures["random"], strict=True):
        if ":" not in curated.metric:  # a colon: one kind of constraint
            table.add_row(escape(curated.metric), f"{curated.base:.3f}", f"{random.arm:.3f}", *_against_random(curated))
    console.print(table)
    arm_headings = ("arm", "mean", "arm - random", "", "arm - base")
    table = _table(f"every arm: {escape(proof.target)}", *arm_headings, text=("arm", ""))
    for name, compared in proof.figures.items():
        target = next(one for one in compared if one.metric == proof.target)
        table.add_row(name, *_against_random(target), _interval(target.to_base))
    console.print(table)
    for guard in proof.guards:
        outcome = "holds" if guard.holds else "FAILS"
        console.print(
            f"guard {escape(guard.name)}: {guard.change:+.3f} for the worse, {guard.limit:g} allowed: {outcome}"
        )
    console.print(f"curated rows compared with random rows on {escape(proof.target)}: [bold]{proof.verdict}[/bold]")
    _line(console, str(folder))


def _against_random(compared: MetricComparison) -> tuple[str, str, str]:
    interval = "" if compared.to_random is None else _interval(compared.to_random)
    return f"{compared.arm:.3f}", interval, compared.verdict


def _interval(interval: Interval) -> str:
    return f"{interval.value:+.3f} ({interval.low:+.3f} to {interval.high:+.3f})"


def _table(title: str | None, *headings: str, text: Sequence[str]) -> Table:
    """Return a table whose columns are aligned to the right, except the ones named in `text`."""
    table = Table(title=title, title_justify="left")
    for heading in headings:
        table.add_column(heading, justify="left" if heading in text else "right")
    return table


def _line(console: Console, text: str) -> None:
    """Print one line unwrapped, without markup or colours."""
    console.print(Text(printable(text)), soft_wrap=True)
