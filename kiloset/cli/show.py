"""What the user sees at the end of a command, and of a plan."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.table import Table
from rich.text import Text

from kiloset.cli.text import duration, printable
from kiloset.core.run import RunFolder
from kiloset.core.statistics import Interval
from kiloset.evaluation.comparison import Compared, Proof, verdict
from kiloset.evaluation.metrics import Metric, difference
from kiloset.pipeline import Result
from kiloset.plan import Plan, Range, Shortage, Spend
from kiloset.review.apply import Reviewed
from kiloset.train.lora import TrainReport
from kiloset.train.shown import Masked
from kiloset.whatif import Difference


def show_result(result: Result, folder: RunFolder, console: Console) -> None:
    """Print the end of a run: rows wanted and got per category, what fell short, and the paths."""
    table = Table(
        title=escape(f"{folder.path.name}: {result.rows} of {sum(result.wanted.values())} rows"), title_justify="left"
    )
    for name, side in (("category", "left"), ("wanted", "right"), ("got", "right"), ("short", "right")):
        table.add_column(name, justify=side)  # type: ignore[arg-type]
    for name in sorted({*result.wanted, *result.got}):
        wanted, got = result.wanted.get(name, 0), result.got.get(name, 0)
        table.add_row(Text(printable(name)), str(wanted), str(got), str(wanted - got) if got < wanted else "")
    console.print(table)
    for stage, reasons in result.dropped.items():
        said = ", ".join(f"{reason} {n}" for reason, n in sorted(reasons.items(), key=lambda pair: (-pair[1], pair[0])))
        console.print(f"  dropped in {stage}: {sum(reasons.values())} ({said})", soft_wrap=True, highlight=False)
    if result.shortfall:
        _show_shortfall(result, console)
    if result.review is not None:
        _show_review(result.review, console)
    if result.edited:
        console.print(
            escape(f"{folder.curated} was edited by hand and is left as it is; delete it to have it written anew"),
            soft_wrap=True,
        )
    for path in (folder.curated, folder.dropped_file, folder.manifest_file):
        console.print(escape(str(path)), soft_wrap=True, highlight=False)


def _show_review(found: Reviewed, console: Console) -> None:
    said = f"{found.accepted} accepted ({found.edited} edited, {found.relabelled} relabelled, {found.called_back} called back)"
    lines = [f"  review: {said}, {found.rejected} rejected and replaced where others were to be had"]
    if found.beyond:
        lines.append(
            f"  review: {found.beyond} accepted rows are beyond their category's target; the set is larger by them"
        )
    if found.unreadable:
        lines.append(f"  review: accepted, but longer than the base model reads: {', '.join(found.unreadable)}")
    if found.gone:
        lines.append(f"  review: decided about, but no longer there or not the same: {', '.join(found.gone)}")
    for line in lines:
        console.print(escape(line), soft_wrap=True, highlight=False)


ENDED = {
    "max_requests": "the budget of requests is spent: raise it with --set generate.max_requests=",
    "max_tokens": "the budget of tokens is spent: raise it with --set generate.max_tokens=",
    "max_hours": "the hours are over: raise them with --set generate.max_hours=",
    "max_waves": "it has asked as often as it may: raise it with --set generate.max_waves=",
    "no_seeds": "what is short has no seeds to ask with: add some, or let others fill with --set categories.fill=true",
    "off": "generation is off: give a larger pool, or let others fill with --set categories.fill=true",
    "done": "selection left them out: raise --set generate.candidates_per_row=, or let others fill with --set categories.fill=true",
}
"""What to say of why generation ended (`kiloset.generator.loop.GenerationResult`)."""


def _show_shortfall(result: Result, console: Console) -> None:
    table = Table(title=f"{sum(result.shortfall.values())} rows short", title_justify="left")
    for name in ("category", "short", "asked for", "lost most to", "would take about"):
        table.add_column(name, justify="right" if name in ("short", "asked for") else "left")
    for short in result.shortfalls:
        losses = ", ".join(f"{reason} {n}" for reason, n in list(short.losses.items())[:3])
        more = "unknown: nothing came through" if result.ended != "off" else ""
        if short.more_requests is not None and short.more_tokens is not None:
            more = f"{short.more_requests:,} requests, {short.more_tokens:,} tokens"
        table.add_row(Text(printable(short.category)), str(short.wanted - short.got), str(short.born), losses, more)
    console.print(table)
    said = f"Generation ended because {ENDED[result.ended]}" if result.ended != "done" else ENDED["done"]
    console.print(
        escape(f"{said}. All that was paid for is kept; the same command with more goes on from here."), soft_wrap=True
    )


def show_difference(found: Difference, name: str, rows: int, console: Console) -> None:
    """Print what other settings would change: by stage and reason, and the first `rows` rows of another fate."""
    said = ", ".join(f"{key} = {now!r} (run: {then!r})" for key, (then, now) in found.settings.items())
    console.print(escape(f"{name}, judged again with {said}"), soft_wrap=True, highlight=False)
    if found.moved:
        console.print(
            "another version of the code made this run, or a review came after it: `then` is what this one makes of it under its own settings",
            style="dim",
        )
    table = Table()
    for heading, side in (("stage", "left"), ("kept then", "right"), ("now", "right"), ("dropped then → now", "left")):
        table.add_column(heading, justify=side)  # type: ignore[arg-type]
    for stage, then, now, reasons in found.stages:
        changes = ", ".join(f"{reason} {was} → {is_}" for reason, (was, is_) in reasons.items() if was != is_)
        table.add_row(stage, str(then), str(now), changes or "as before")
    console.print(table)
    then, now, both = found.selected
    console.print(f"selected: {then} then, {now} now, {both} of them the same", soft_wrap=True)
    if found.unasked:
        console.print(
            f"{found.unasked} instructions that rules dropped before an answer was asked for would pass now; they are not among these",
            soft_wrap=True,
        )
    for row in found.changed.head(rows).iter_rows(named=True):
        console.print(Text(f"{row['id']}  {_short(row['instruction'])}", style="bold"), soft_wrap=True)
        console.print(Text(f"    then  {printable(row['then'])}\n    now   {printable(row['now'])}"), soft_wrap=True)
    if found.changed.height > rows:
        console.print(f"and {found.changed.height - rows} more rows of another fate (--rows)", style="dim")


def _short(text: str) -> str:
    line = printable(" ".join(text.split()))
    return f"{line[:100]} …" if len(line) > 100 else line


def show_plan(plan: Plan, name: str, console: Console) -> None:
    """Print what a run will take, what the estimate goes by, and which budgets will not do."""
    priced = plan.total.cost.high > 0
    table = Table(
        title=Text(f"{printable(name)}: {plan.rows} rows, {plan.candidates} candidates to generate"),
        title_justify="left",
    )
    table.add_column("for")
    for heading in ("requests", "prompt tokens", "written tokens", "time", *(["cost"] if priced else [])):
        table.add_column(heading, justify="right")
    for purpose, spend in plan.purposes.items():
        table.add_row(purpose, *_cells(spend, plan.currency, priced))
    table.add_section()
    table.add_row("total", *_cells(plan.total, plan.currency, priced), style="bold")
    console.print(table)
    for line in (*_grounds(plan), *(_shortage(short, plan) for short in plan.shortages), plan_line(plan, name)):
        console.print(Text(printable(line)), soft_wrap=True)


def plan_line(plan: Plan, name: str) -> str:
    """Return a plan in one line."""
    total = plan.total
    cost = [_money(total.cost, plan.currency)] if total.cost.high > 0 else []
    time = [_between(total.seconds, duration)] if total.seconds is not None else ["an unknown time"]
    parts = [
        f"{_between(total.requests, _count)} requests", f"{_between(total.prompt_tokens, _count)} prompt tokens",
        f"{_between(total.written_tokens, _count)} written tokens", *time, *cost,
    ]  # fmt: skip
    return f"{name}: {plan.rows} rows take about {', '.join(parts)} (evidence: {plan.origin})"


def _cells(spend: Spend, currency: str, priced: bool) -> list[str]:
    cells = [_between(figure, _count) for figure in (spend.requests, spend.prompt_tokens, spend.written_tokens)]
    cells.append("?" if spend.seconds is None else _between(spend.seconds, duration))
    return [*cells, _money(spend.cost, currency)] if priced else cells


def _grounds(plan: Plan) -> list[str]:
    lines = [f"  evidence: {plan.origin}; in brackets the range that the yields leave open"]
    if plan.yields:
        rates = (f"{name} {_between(rate, lambda share: f'{share:.2f}')}" for name, rate in plan.yields.items())
        lines.append(f"  candidates per instruction: {', '.join(rates)}")
    if plan.assumed and plan.origin != "assumed":
        lines.append(f"  assumed, for nothing has measured it: {', '.join(plan.assumed)}")
    lines.append(f"  scored by the base model, here and without a request: up to {plan.scores} answers")
    if plan.paid:
        requests = sum(used.requests for used in plan.paid.values())
        tokens = sum(used.prompt_tokens + used.written_tokens for used in plan.paid.values())
        lines.append(f"  of all this, paid already: {requests:,} requests, {tokens:,} tokens")
    return [*lines, *(f"  {name} cannot be compared: the speed is not known" for name in plan.unchecked)]


def _shortage(short: Shortage, plan: Plan) -> str:
    sure, likely = short.allowed < short.needed.low, short.allowed < short.needed.expected
    will = "will not suffice" if sure else "is not expected to suffice" if likely else "may not suffice"
    figure = (lambda hours: f"{hours:.2f}") if short.limit == "max_hours" else _count
    return (
        f"  generate.{short.limit} = {figure(short.allowed)} {will}: {_between(short.needed, figure)} needed; "
        f"it brings {_between(short.candidates, _count)} of {plan.candidates} candidates, "
        f"enough for {_between(short.rows, _count)} of {plan.rows} rows"
    )


def _between(figure: Range, shown: Callable[[float], str]) -> str:
    """Return a figure with its range, if that can be seen in it."""
    low, expected, high = shown(figure.low), shown(figure.expected), shown(figure.high)
    return expected if low == high else f"{expected} ({low}–{high})"


def _count(number: float) -> str:
    """Return a number to about three digits: it is an estimate."""
    if number < 9_999.5:
        return f"{number:,.0f}"
    if number < 99_950:
        return f"{number / 1e3:.1f} k"
    return f"{number / 1e3:.0f} k" if number < 999_500 else f"{number / 1e6:,.2f} M"


def _money(cost: Range, currency: str) -> str:
    return f"{_between(cost, lambda amount: f'{amount:,.2f}')} {currency}".rstrip()


def show_training(report: TrainReport, folder: RunFolder, console: Console) -> None:
    """Print what a training run did."""
    left_out = report.train_rows_too_long + report.validation_rows_too_long
    rows = [
        ("rows trained on, held out", f"{report.train_rows}, {report.validation_rows}"),
        ("rows left out as too long", str(left_out)),
        ("trainable parameters", f"{report.trainable_parameters:,} ({report.trainable_share:.2%} of the base model's)"),
        ("steps", _steps(report)),
        ("speed", _speed(report)),
        ("peak memory", f"{report.peak_memory_gib:.2f} GiB"),
        ("validation loss before", _nats(report.validation_before)),
        ("validation loss after", _nats(report.validation_after)),
        ("kept", f"epoch {report.best_epoch}: {report.chosen_by}"),
        ("time", f"{report.seconds:.0f} s"),
    ]
    table = Table(title=escape(f"{folder.path.name}: adapter"), title_justify="left", show_header=False)
    for name, value in rows:
        table.add_row(name, value)
    console.print(table)
    console.print(escape(str(folder.adapter)), soft_wrap=True, highlight=False)


def _steps(report: TrainReport) -> str:
    early = ", stopped early" if report.stopped_early else ""
    resumed = f", gone on from {report.resumed_at}" if report.resumed_at else ""
    return f"{report.steps}{early}{resumed}"


def _speed(report: TrainReport) -> str:
    share = "" if report.utilisation is None else f", {report.utilisation:.0%} of the GPU's peak"
    padded = "" if report.packed else ", padded: this model cannot be packed"
    return (
        f"{report.tokens_per_second:.0f} tokens/s, prompt and response; {report.teraflops:.3g} TFLOP/s{share}{padded}"
    )


def show_masks(rows: Iterable[Masked], console: Console) -> None:
    """Print rows token by token: those that train in green and underlined, so that they are seen without colour too."""
    for row in rows:
        trained = sum(span.trains for span in row.spans)
        console.print(f"\n[bold]{escape(row.id)}[/bold]: {trained} of {len(row.spans)} tokens train")
        text = Text()
        for number, span in enumerate(row.spans):
            shade = " on grey15" if number % 2 else ""
            piece = printable(span.text) + ("\n" if span.text.endswith("\n") else "")
            text.append(piece, f"green underline{shade}" if span.trains else f"dim{shade}")
        console.print(text, soft_wrap=True)


def show_settings(described: Sequence[tuple[str, str, Any, str]], values: Mapping[str, Any], console: Console) -> None:
    """Print every setting with its value, its default where that differs, and its meaning."""
    shown = ""
    for table, key, default, text in described:
        if table != shown:
            console.print(f"\n[bold]{escape(f'[{table}]')}[/bold]")
            shown = table
        value: Any = values
        for part in (*table.split("."), key):
            value = value[part]
        other = f" (default {default!r})" if value != default else ""
        console.print(escape(f"  {key} = {value!r}{other}"), soft_wrap=True)
        console.print(f"      [dim]{escape(text)}[/dim]", soft_wrap=True, highlight=False)


def _nats(value: float | None) -> str:
    return "no validation rows" if value is None else f"{value:.4f} nats per response token"


def show_judgement(base: Mapping[str, Metric], tuned: Mapping[str, Metric], folder: Path, console: Console) -> None:
    """Print the base model's figures beside the tuned one's, with the interval of the difference over items."""
    table = Table(title="base and tuned, 95 % intervals over items", title_justify="left")
    for head in ("figure", "unit", "items", "base", "tuned", "difference", ""):
        table.add_column(head, justify="left" if head in ("figure", "unit", "") else "right")
    for name, metric in base.items():
        found = difference(tuned[name], metric)
        said = verdict(found, metric.better)
        cells = (f"{metric.mean:.3f}", f"{tuned[name].mean:.3f}", _interval(found))
        table.add_row(escape(name), metric.unit, str(len(metric.counts)), *cells, said)
    console.print(table)
    console.print(escape(str(folder)), soft_wrap=True, highlight=False)


def show_proof(proof: Proof, folder: Path, console: Console) -> None:
    """Print the curated set's figures, every arm's on the target, the guards and the verdict; proof.json has the rest."""
    table = Table(title="curated against random rows: mean over seeds, 95 % interval", title_justify="left")
    for head in ("figure", "base", "random", "curated", "curated - random", ""):
        table.add_column(head, justify="left" if head in ("figure", "") else "right")
    for curated, random in zip(proof.figures["curated"], proof.figures["random"], strict=True):
        if ":" not in curated.metric:  # a single kind of constraint
            table.add_row(escape(curated.metric), f"{curated.base:.3f}", f"{random.arm:.3f}", *_against_random(curated))
    console.print(table)
    table = Table(title=f"every arm: {escape(proof.target)}", title_justify="left")
    for head in ("arm", "mean", "arm - random", "", "arm - base"):
        table.add_column(head, justify="left" if head in ("arm", "") else "right")
    for name, compared in proof.figures.items():
        target = next(one for one in compared if one.metric == proof.target)
        table.add_row(name, *_against_random(target), _interval(target.to_base))
    console.print(table)
    for guard in proof.guards:
        held = "holds" if guard.holds else "FALLS"
        console.print(f"guard {escape(guard.name)}: {guard.change:+.3f} for the worse, {guard.limit:g} allowed: {held}")
    console.print(f"curated against random rows on {escape(proof.target)}: [bold]{proof.verdict}[/bold]")
    console.print(escape(str(folder)), soft_wrap=True, highlight=False)


def _against_random(compared: Compared) -> tuple[str, str, str]:
    shown = "" if compared.to_random is None else _interval(compared.to_random)
    return f"{compared.arm:.3f}", shown, compared.verdict


def _interval(found: Interval) -> str:
    return f"{found.value:+.3f} ({found.low:+.3f} to {found.high:+.3f})"
