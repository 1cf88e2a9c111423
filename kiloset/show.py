"""What the user sees: progress while it runs, one table at the end."""

import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    SpinnerColumn,
    TaskID,
    TextColumn,
    TimeRemainingColumn,
)
from rich.table import Table

from core.run import RunFolder
from kiloset.pipeline import Result
from train.lora import TrainReport

EVERY = 30.0
"""Seconds between two lines where there is no terminal to redraw."""


class Bars:
    """Progress bars on a terminal, a line every 30 s elsewhere."""

    def __init__(self, console: Console) -> None:
        """Show on this console."""
        self._console = console
        columns = (
            SpinnerColumn(), TextColumn("{task.description}"), BarColumn(bar_width=24), MofNCompleteColumn(),
            TextColumn("{task.fields[rate]}"), TimeRemainingColumn(), TextColumn("{task.fields[note]}"),
        )  # fmt: skip
        self._progress = Progress(*columns, console=console) if console.is_terminal else None
        self._task: TaskID | None = None
        self._label, self._total, self._done, self._note = "", 0, 0, ""
        self._started = self._said = 0.0

    def begin(self, label: str, total: int) -> None:
        """Start a bar."""
        self._label, self._total, self._done, self._note = label, total, 0, ""
        self._started = self._said = time.monotonic()
        if self._progress is not None:
            self._progress.start()
            self._task = self._progress.add_task(escape(label), total=total, rate="", note="")

    def advance(self, amount: int = 1, note: str = "") -> None:
        """Move it."""
        self._done, self._note = self._done + amount, note
        if self._progress is not None and self._task is not None:
            self._progress.update(self._task, advance=amount, rate=self._rate(), note=escape(note))
        elif time.monotonic() - self._said >= EVERY:
            self._said = time.monotonic()
            self._line(self._left())

    def end(self) -> None:
        """Close it, and leave one line of it."""
        if self._progress is not None and self._task is not None:
            self._progress.remove_task(self._task)
            self._progress.stop()
            self._task = None
        self._line(f"{time.monotonic() - self._started:.0f} s")

    def say(self, text: str) -> None:
        """Print a line between the bars."""
        self._console.print(f"[dim]{escape(text)}[/dim]", soft_wrap=True)

    def _line(self, end: str) -> None:
        parts = [f"{self._label}: {self._done}/{self._total}", self._rate(), self._note, end]
        self._console.print("  " + escape(", ".join(part for part in parts if part)), soft_wrap=True)

    def _rate(self) -> str:
        seconds = time.monotonic() - self._started
        return f"{self._done / seconds:.1f}/s" if seconds > 0.5 else ""

    def _left(self) -> str:
        seconds = time.monotonic() - self._started
        return f"{(self._total - self._done) * seconds / self._done:.0f} s left" if self._done else ""


@contextmanager
def bars(console: Console) -> Iterator[Bars]:
    """Hold the bars, and take them off the screen whatever happens."""
    shown = Bars(console)
    try:
        yield shown
    finally:
        if shown._progress is not None:
            shown._progress.stop()


def show_result(result: Result, folder: RunFolder, console: Console) -> None:
    """Print the end of a run: rows wanted and got per category, what fell short, and the paths."""
    table = Table(
        title=escape(f"{folder.path.name}: {result.rows} of {sum(result.wanted.values())} rows"), title_justify="left"
    )
    for name, side in (("category", "left"), ("wanted", "right"), ("got", "right"), ("short", "right")):
        table.add_column(name, justify=side)  # type: ignore[arg-type]
    for name in sorted({*result.wanted, *result.got}):
        wanted, got = result.wanted.get(name, 0), result.got.get(name, 0)
        table.add_row(escape(name), str(wanted), str(got), str(wanted - got) if got < wanted else "")
    console.print(table)
    for stage, reasons in result.dropped.items():
        said = ", ".join(f"{reason} {n}" for reason, n in sorted(reasons.items(), key=lambda pair: (-pair[1], pair[0])))
        console.print(f"  dropped in {stage}: {sum(reasons.values())} ({said})", soft_wrap=True, highlight=False)
    if result.shortfall:
        missing = ", ".join(f"{name} {n}" for name, n in result.shortfall.items())
        console.print(f"[bold]{sum(result.shortfall.values())} rows short:[/bold] {escape(missing)}", soft_wrap=True)
        console.print(
            "  more candidates: --set generate.candidates_per_row=4; or let others fill: --set categories.fill=true"
        )
    if result.edited:
        console.print(
            escape(f"{folder.curated} was edited by hand and is left as it is; delete it to have it written anew"),
            soft_wrap=True,
        )
    for path in (folder.curated, folder.dropped_file, folder.manifest_file):
        console.print(escape(str(path)), soft_wrap=True, highlight=False)


def show_training(report: TrainReport, folder: RunFolder, console: Console) -> None:
    """Print what a training run did."""
    left_out = report.train_rows_too_long + report.validation_rows_too_long
    rows = [
        ("rows trained on, held out", f"{report.train_rows}, {report.validation_rows}"),
        ("rows left out as too long", str(left_out)),
        ("trainable parameters", f"{report.trainable_parameters:,} ({report.trainable_share:.2%} of the base model's)"),
        ("steps", str(report.steps)),
        ("speed", f"{report.tokens_per_second:.0f} tokens/s, prompt and response"),
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
