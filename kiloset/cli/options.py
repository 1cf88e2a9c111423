"""Options that several commands share, and what they lead to: the config, the inputs, the run folder."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from kiloset.cli.progress import Mode

if TYPE_CHECKING:
    from kiloset.core.run import RunFolder

Seeds = Annotated[str | None, typer.Option(help="Seed examples: a .jsonl, .json, .csv or .parquet file, a folder of them or a hub id.")]  # fmt: skip
Size = Annotated[str | None, typer.Option(metavar="ROWS", help="Rows of the curated set.")]
Model = Annotated[str | None, typer.Option(help="Writer model: a local folder, a hub id or embedded:NAME.")]
Base = Annotated[str | None, typer.Option(help="Base model, which will be tuned; default: the writer model.")]
Config = Annotated[Path | None, typer.Option("--config", "-c", help="The run's TOML file; default: the built-in gpu.toml with an NVIDIA driver, else cpu.toml.")]  # fmt: skip
Overrides = Annotated[list[str] | None, typer.Option("--set", metavar="TABLE.KEY=VALUE", help="Change one setting, such as run.seed=1; give the option again for each further setting. `kiloset config` lists all settings.")]  # fmt: skip
NewRun = Annotated[str | None, typer.Option("--run", help="Name of the run; default: the config's name and a hash of it.")]  # fmt: skip
Run = Annotated[str | None, typer.Option("--run", help="Name of the run; default: the run that changed last.")]
Runs = Annotated[Path, typer.Option("--runs", help="Folder of the runs.")]
ProgressMode = Annotated[Mode, typer.Option("--progress", help="Progress on stderr: live (a table that is redrawn), lines (one every 30 s), json (one object per line), none; auto is live on a terminal, else lines.")]  # fmt: skip
Validation = Annotated[float | None, typer.Option(metavar="SHARE", help="Fraction of the rows for validation, in [0, 1): make a new split with it; default: keep the split of curated.jsonl.")]  # fmt: skip


def all_settings(
    size: str | None, seeds: str | None, model: str | None, base: str | None, overrides: list[str] | None
) -> dict[str, Any]:
    """Return the options as settings by dotted name; `--set` overrules the others."""
    from kiloset.core.config import parse_overrides

    texts = {"seeds.path": seeds, "models.generator.name": model, "models.base.name": base}
    sizes = [] if size is None else [f"run.size={size}"]
    chosen = {key: value for key, value in texts.items() if value is not None}
    return {**parse_overrides(sizes), **chosen, **parse_overrides(overrides or [])}


def find_run(run: str | None, runs: Path) -> "RunFolder":
    """Return the folder of a run; without a name, of the run that changed last.

    Raises:
        DataError: There is no such run.
    """
    from kiloset.core.errors import DataError
    from kiloset.core.run import RunFolder

    if run is None:
        manifests = sorted(runs.glob("*/manifest.json"), key=lambda path: path.stat().st_mtime)
        if not manifests:
            raise DataError("KS852", f"{runs}: no run in it; `kiloset dataset` makes one")
        run = manifests[-1].parent.name
    folder = RunFolder(runs / run)
    folder.require()
    return folder
