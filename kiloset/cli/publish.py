"""Commands that hand a set on: export, card, push."""

import sys
from pathlib import Path
from typing import Annotated, Literal

import typer

from kiloset.cli.options import Run, Runs, Validation, find_run

Layout = Literal["messages", "alpaca", "sharegpt", "parquet", "hf"]
HubLayout = Literal["messages", "alpaca", "sharegpt", "parquet"]
"""Layouts that `datasets.load_dataset` reads from the hub; "hf" works with load_from_disk only."""


def export(
    run: Run = None,
    layout: Annotated[Layout, typer.Option("--format", help="Layout of the rows: messages, alpaca and sharegpt are .jsonl files; hf is a folder for datasets.load_from_disk.")] = "messages",
    out: Annotated[Path | None, typer.Option(metavar="FOLDER", help="Folder to write: new, empty, or an unchanged export of this run and format; default: export-FORMAT in the run's folder.")] = None,
    validation: Validation = None, runs: Runs = Path("runs"),
) -> None:  # fmt: skip
    """Export the run's curated.jsonl for other tools, split into train and validation, with a data card.

    If you edited curated.jsonl, the edited rows are exported. Training uses the same split: near-duplicates of each other, and
    rows of which one was generated from the other, are either all in train or all in validation. After a further edit, run
    the command again to replace the export; it does not replace an export that you changed by hand.

    Example: `kiloset export --format alpaca --out my-export`
    """
    from kiloset.publish.card import card_text
    from kiloset.publish.export import export as write
    from kiloset.publish.export import summary
    from kiloset.publish.facts import parts_of

    folder = find_run(run, runs)
    exported = write(
        folder, layout, out or folder.path / f"export-{layout}", validation,
        lambda rows: card_text(folder, layout, parts_of(layout, rows)),
    )  # fmt: skip
    for line in summary(exported):
        print(line)


def card(
    run: Run = None,
    force: Annotated[bool, typer.Option("--force", help="Replace a README.md that was edited or that Kiloset did not write.")] = False,
    runs: Runs = Path("runs"),
) -> None:  # fmt: skip
    """Write the set's data card, README.md in the run's folder: contents, method, known limits.

    `kiloset push` writes its own card from the run; it does not use this file.

    Example: `kiloset card --force`
    """
    from kiloset.publish.card import CARD, write_card

    folder = find_run(run, runs)
    with folder.lock():
        write_card(folder, force=force)
    print(folder.path / CARD)


def push(
    repo: Annotated[str, typer.Argument(metavar="REPO_ID", help="owner/name on the hub, or a name under your account.")],
    run: Run = None,
    private: Annotated[bool, typer.Option("--private/--public", help="Visibility of the repository. It is not changed: an existing repository must already have this visibility.")] = True,
    layout: Annotated[HubLayout, typer.Option("--format", help="Layout of the rows, as for export.")] = "parquet",
    revision: Annotated[str | None, typer.Option(metavar="BRANCH", help="Branch to push to; created if it does not exist; default: main.")] = None,
    message: Annotated[str | None, typer.Option(help="Commit message; default: the run's name and its number of rows.")] = None,
    validation: Validation = None,
    allow_personal: Annotated[bool, typer.Option("--allow-personal", help="Allow personal data in a public set; keys and tokens are never allowed.")] = False,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Send without confirmation; required where there is no terminal.")] = False,
    runs: Runs = Path("runs"),
) -> None:  # fmt: skip
    """Push an export of the set, with its data card, to the Hugging Face hub as one commit.

    The command lists the files that it will send and asks for confirmation; no other file of the run is sent. Log in with
    `hf auth login` before, or set the environment variable HF_TOKEN.

    Example: `kiloset push my-name/my-set --public`
    """
    from kiloset.core.errors import ConfigError
    from kiloset.publish.push import push as send

    def confirm() -> None:
        if not yes and not sys.stdin.isatty():
            raise ConfigError(
                "KS851", "nothing was sent: add --yes (make: YES=1) where there is no terminal to confirm on"
            )
        if not yes and not typer.confirm("Send it?"):
            print("nothing was sent")
            raise typer.Exit

    line = send(
        find_run(run, runs), repo, layout, private=private, branch=revision, message=message, validation=validation,
        allow_personal=allow_personal, say=print, confirm=confirm,
    )  # fmt: skip
    print(line)
