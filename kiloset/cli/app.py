"""The command line: its commands, and what happens when one ends.

Exit status: 0 done, 1 not proved, 2 bad input or no accepted row, 3 fewer rows than requested, 130 and 143 interrupted.
"""

import os
import signal
import sys
from types import FrameType
from typing import Annotated, NoReturn

import typer

from kiloset.cli.dataset import config, dataset, plan, preview, thin, whatif
from kiloset.cli.inspect import audit, compare, explain, review
from kiloset.cli.publish import card, export, push
from kiloset.cli.training import evaluate, merge, prove, train
from kiloset.core.errors import KilosetError

app = typer.Typer(
    add_completion=False,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode="markdown",
    context_settings={"help_option_names": ["-h", "--help"]},
)
for command in (
    plan, preview, dataset, audit, review, explain, whatif, compare, train, evaluate, prove, merge, export, card, push, config, thin,
):  # fmt: skip
    app.command()(command)


def _print_version(wanted: bool) -> None:
    if wanted:
        from importlib.metadata import version

        print(f"kiloset {version('kiloset')}")
        raise typer.Exit


@app.callback()
def _kiloset(
    _version: Annotated[
        bool, typer.Option("--version", help="Print the version.", callback=_print_version, is_eager=True)
    ] = False,
) -> None:
    """Turn a few seed examples into a curated instruction set, train a LoRA adapter on it and measure whether it helped.

    Start with **plan** to estimate the cost and **preview** to see the first rows, then **dataset** to make the set and
    **audit** to inspect it. Then **train** an adapter, **evaluate** it, and use **prove** to measure whether the set is better
    than random rows.

    Each run has a folder, runs/NAME. Without --run, plan, preview and dataset derive NAME from the settings, and the other
    commands use the run that changed last. An interrupted command resumes when you run it again.

    Example: `kiloset dataset --seeds my-seeds.jsonl --size 500`
    """


def run() -> None:
    """Run the command line and exit with its status; an error is one line on stderr and status 2."""
    signal.signal(signal.SIGTERM, _interrupt)
    signal.signal(signal.SIGINT, _interrupt)
    os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    os.environ.setdefault("TQDM_DISABLE", "1")  # the bars of other libraries
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    try:
        sys.exit(app(standalone_mode=False))
    except KilosetError as error:
        print(f"kiloset: {error.code} {error}", file=sys.stderr)
    except typer.TyperException as error:  # a wrong option or argument
        print(f"kiloset: {' '.join(error.format_message().split())}", file=sys.stderr)
    except typer.Abort:
        print("kiloset: aborted", file=sys.stderr)
        sys.exit(1)
    sys.exit(2)


def _interrupt(number: int, _: FrameType | None) -> NoReturn:
    # Raise instead of ending at once: the exception passes the `with` blocks that end the engine's processes.
    print("\nkiloset: interrupted; run the same command again to resume", file=sys.stderr)
    raise SystemExit(128 + number)
