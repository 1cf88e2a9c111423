"""Print the estimate of a run."""

from collections.abc import Callable

from rich.console import Console
from rich.table import Table
from rich.text import Text

from kiloset.cli.text import duration, printable
from kiloset.plan.estimate import Plan, Range, Shortage, Spend


def show_plan(plan: Plan, name: str, console: Console) -> None:
    """Print what a run will cost, what the estimate is based on, and the budgets that may not be enough."""
    priced = plan.total.cost.high > 0
    title = Text(f"{printable(name)}: {plan.rows} rows, {plan.candidates} candidates to generate")
    table = Table(title=title, title_justify="left")
    table.add_column("for")
    for heading in ("requests", "prompt tokens", "written tokens", "time", *(["cost"] if priced else [])):
        table.add_column(heading, justify="right")
    for purpose, spend in plan.purposes.items():
        table.add_row(purpose, *_cells(spend, plan.currency, priced))
    table.add_section()
    table.add_row("total", *_cells(plan.total, plan.currency, priced), style="bold")
    console.print(table)
    for line in (*_evidence(plan), *(_shortage(short, plan) for short in plan.shortages), plan_line(plan, name)):
        console.print(Text(printable(line)), soft_wrap=True)


def plan_line(plan: Plan, name: str) -> str:
    """Return a plan in one line."""
    total = plan.total
    parts = [
        f"{_with_range(total.requests, _count)} requests", f"{_with_range(total.prompt_tokens, _count)} prompt tokens",
        f"{_with_range(total.written_tokens, _count)} written tokens",
        "an unknown time" if total.seconds is None else _with_range(total.seconds, duration),
        *([_money(total.cost, plan.currency)] if total.cost.high > 0 else []),
    ]  # fmt: skip
    return f"{name}: {plan.rows} rows take about {', '.join(parts)} (evidence: {plan.origin})"


def _cells(spend: Spend, currency: str, priced: bool) -> list[str]:
    cells = [_with_range(figure, _count) for figure in (spend.requests, spend.prompt_tokens, spend.written_tokens)]
    cells.append("?" if spend.seconds is None else _with_range(spend.seconds, duration))
    return [*cells, _money(spend.cost, currency)] if priced else cells


def _evidence(plan: Plan) -> list[str]:
    lines = [f"  evidence: {plan.origin}; the ranges in brackets come from the uncertainty of the yields"]
    if plan.yields:
        rates = (f"{name} {_with_range(rate, lambda share: f'{share:.2f}')}" for name, rate in plan.yields.items())
        lines.append(f"  candidates per instruction: {', '.join(rates)}")
    if plan.assumed and plan.origin != "assumed":
        lines.append(f"  assumed because nothing has measured it: {', '.join(plan.assumed)}")
    lines.append(f"  scored by the base model, without a request: up to {plan.scores} responses")
    if plan.paid:
        requests = sum(used.requests for used in plan.paid.values())
        tokens = sum(used.prompt_tokens + used.written_tokens for used in plan.paid.values())
        lines.append(f"  of this, the run has already used: {requests:,} requests, {tokens:,} tokens")
    return [*lines, *(f"  generate.{name} cannot be checked: the speed is unknown" for name in plan.unchecked)]


def _shortage(short: Shortage, plan: Plan) -> str:
    is_sure, is_likely = short.allowed < short.needed.low, short.allowed < short.needed.expected
    verdict = "is too low" if is_sure else "is probably too low" if is_likely else "may be too low"
    figure = (lambda hours: f"{hours:.2f}") if short.limit == "max_hours" else _count
    return (
        f"  generate.{short.limit} = {figure(short.allowed)} {verdict}: {_with_range(short.needed, figure)} needed; "
        f"it pays for {_with_range(short.candidates, _count)} of {plan.candidates} candidates, "
        f"enough for {_with_range(short.rows, _count)} of {plan.rows} rows"
    )


def _with_range(figure: Range, as_text: Callable[[float], str]) -> str:
    """Return a figure with its range, unless rounding hides the range."""
    low, expected, high = as_text(figure.low), as_text(figure.expected), as_text(figure.high)
    return expected if low == high else f"{expected} ({low}–{high})"


def _count(number: float) -> str:
    """Return a number to about three digits, because it is an estimate."""
    if number < 9_999.5:
        return f"{number:,.0f}"
    if number < 99_950:
        return f"{number / 1e3:.1f} k"
    return f"{number / 1e3:.0f} k" if number < 999_500 else f"{number / 1e6:,.2f} M"


def _money(cost: Range, currency: str) -> str:
    return f"{_with_range(cost, lambda amount: f'{amount:,.2f}')} {currency}".rstrip()
