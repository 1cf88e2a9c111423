"""Commands that show a set or its rows: audit, compare, review, explain."""

from functools import partial
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from kiloset.cli.options import Run, Runs, find_run
from kiloset.cli.progress import logger, progress_on_stderr


def audit(
    file: Annotated[Path | None, typer.Argument(metavar="FILE", show_default=False, help="Instruction file to audit instead of a run: .jsonl, .json, .csv, .parquet or a folder of them.")] = None,
    run: Run = None,
    examples: Annotated[int, typer.Option(min=0, help="Number of examples to print. Of a run: rewrites for each limit, those with values closest to the limit first. Of a file: rows for each kind of fault.")] = 3,
    page: Annotated[Path | None, typer.Option(help="HTML page to write; default: report.html in the run's folder, or NAME.report.html in the current folder for a file.")] = None,
    no_page: Annotated[bool, typer.Option("--no-page", help="Print the numbers and write no page.")] = False,
    benchmark: Annotated[list[str] | None, typer.Option(metavar="FILE", help="With FILE: a benchmark whose prompts no row should repeat; give the option again for each further benchmark.")] = None,
    verify: Annotated[bool, typer.Option("--verify/--no-verify", help="With FILE: also search for answers that belong to another task; this loads an embedding model (2,000 rows: 40 s).")] = False,
    embed: Annotated[bool, typer.Option("--embed/--no-embed", help="With FILE: add a map of the rows to the page; this loads a model (2,000 rows: 40 s).")] = False,
    runs: Runs = Path("runs"),
) -> None:  # fmt: skip
    """Show how a set is distributed and why rows were dropped, and write report.html.

    Without FILE it audits a run and reads only files in the run's folder. The page report.html lists the rows behind each
    number, and shows a map of the set and the differences between each answer and its rewrite. It opens offline in any
    browser.

    With FILE it audits any instruction set: duplicates, incomplete and empty responses, refusals, benchmark contamination,
    licences, personal data, wrong sums and broken lines, each with its count and example rows. With --verify it also searches
    for answers that belong to another task.

    Example: `kiloset audit my-data.jsonl --verify`
    """
    from kiloset.audit.run_audit import audit as audit_run
    from kiloset.audit.run_audit import print_audit, run_of
    from kiloset.audit.run_page import EXAMPLES, write_report
    from kiloset.models import embedder_of

    folder = run_of(file, run, bool(benchmark or embed or verify))
    if file is not None and folder is None:
        _audit_file(file, benchmark or [], examples, page, no_page, embed, verify)
        return
    folder = folder or find_run(run, runs)
    result = audit_run(folder, max(examples, EXAMPLES))
    print_audit(result, Console(), examples)
    if no_page:
        return
    out = page or folder.path / "report.html"
    with progress_on_stderr("auto") as display:
        _log_page(out, write_report(folder, result, out, partial(embedder_of, progress=display), display))


def _audit_file(
    file: Path, benchmarks: list[str], examples: int, page: Path | None, no_page: bool, embed: bool, verify: bool
) -> None:
    from kiloset.audit.file_audit import audit_file, print_file_audit
    from kiloset.audit.file_page import write_file_page
    from kiloset.models import embedder_of

    with progress_on_stderr("auto") as display:
        result = audit_file(file, benchmarks, partial(embedder_of, progress=display) if verify else None)
    print_file_audit(result, examples, Console())
    if no_page:
        return
    out = page or Path(f"{file.stem}.report.html")
    with progress_on_stderr("auto") as display:
        _log_page(out, write_file_page(result, out, partial(embedder_of, progress=display) if embed else None))


def _log_page(page: Path, size: int) -> None:
    logger.info("%s: %.1f MB, opens in any browser", page, size / 1e6)


def compare(
    first: Annotated[str, typer.Argument(metavar="A", help="A file, a folder of files, a run's folder or a run's name.")],
    second: Annotated[str, typer.Argument(metavar="B", help="The other set, given in the same way.")],
    examples: Annotated[int, typer.Option(min=0, help="Largest number of rows to print that are in both sets.")] = 3,
    page: Annotated[Path | None, typer.Option(help="HTML page to write, with charts of both sets side by side; default: none.")] = None,
    embed: Annotated[bool, typer.Option("--embed/--no-embed", help="Add the effective number of rows (Vendi score) and, on the page, a map of both; this loads a model.")] = False,
    runs: Runs = Path("runs"),
) -> None:  # fmt: skip
    """Compare two sets: size, faults, categories, lengths, first words of answers, licences, common rows.

    Example: `kiloset compare mine.jsonl theirs.jsonl --page both.html`
    """
    from kiloset.audit.compare import compare as compare_sets
    from kiloset.audit.compare import print_comparison, write_comparison_page
    from kiloset.models import embedder_of

    with progress_on_stderr("auto") as display:
        load = partial(embedder_of, progress=display) if embed else None
        comparison = compare_sets(first, second, runs, load)
        print_comparison(comparison, examples, Console())
        if page is not None:
            _log_page(page, write_comparison_page(comparison, page, load))


def review(
    run: Run = None,
    port: Annotated[int | None, typer.Option(min=1024, max=65535, help="Port on this machine; default: the port of this run's last review, else a free one.")] = None,
    open_: Annotated[bool, typer.Option("--open/--no-open", help="Open the page in the browser.")] = True,
    sample: Annotated[int | None, typer.Option(min=1, help="Draw so many rows at random, each category in proportion, to be read without figures; the report then shows which share is right.")] = None,
    runs: Runs = Path("runs"),
) -> None:  # fmt: skip
    """Review the rows of a finished run in the browser: accept, reject, edit, relabel, or restore dropped rows.

    Each decision is saved in the run's review.jsonl at once; run `kiloset dataset` again to apply them. Only this machine
    can open the page, and only through the printed link.

    How many rows are right is best measured before you correct any: `--sample 50` draws rows for that.

    Example: `kiloset review --run my-run --sample 50`
    """
    from kiloset.review.launch import browser
    from kiloset.review.launch import review as serve

    serve(find_run(run, runs), port, browser() if open_ else None, partial(print, flush=True), sample)


def explain(
    row: Annotated[str, typer.Argument(metavar="ID", help="Id of the row, such as g00042 (generated), s0007 (seed) or p00012 (pool).")],
    run: Run = None,
    full: Annotated[bool, typer.Option("--full", help="Print whole prompts.")] = False,
    runs: Runs = Path("runs"),
) -> None:  # fmt: skip
    """Print one row's lineage, prompts, measurements and rewrites, and why it was kept or dropped.

    Example: `kiloset explain g00042`
    """
    from kiloset.audit.row_history import explain as explain_row
    from kiloset.audit.row_history import print_history

    print_history(explain_row(find_run(run, runs), row), Console(), full=full)
