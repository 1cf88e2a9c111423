"""Options that several commands share, and what they lead to: the config, the inputs, the run folder."""

from json import dumps
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from kiloset.cli.progress import Mode

if TYPE_CHECKING:
    from kiloset.core.run import RunFolder
    from kiloset.inputs import Inputs
    from kiloset.settings import RunConfig

Seeds = Annotated[str | None, typer.Option(help="Seed examples: a .jsonl, .json, .csv or .parquet file, a folder of them or a hub id.")]  # fmt: skip
Size = Annotated[str | None, typer.Option(metavar="ROWS", help="Rows of the curated set.")]
Model = Annotated[str | None, typer.Option(help="Writer model: a local folder, a hub id or embedded:NAME.")]
Base = Annotated[str | None, typer.Option(help="Base model, which will be tuned; default: the writer model.")]
Config = Annotated[Path | None, typer.Option("--config", "-c", help="The run's TOML file; default: the built-in gpu.toml with an NVIDIA driver, else cpu.toml.")]  # fmt: skip
Overrides = Annotated[list[str] | None, typer.Option("--set", metavar="TABLE.KEY=VALUE", help="Change one setting, such as run.seed=1; repeatable. `kiloset config` lists all settings.")]  # fmt: skip
NewRun = Annotated[str | None, typer.Option("--run", help="Name of the run; default: the config's name and a hash of it.")]  # fmt: skip
Run = Annotated[str | None, typer.Option("--run", help="Name of the run; default: the run that changed last.")]
Runs = Annotated[Path, typer.Option("--runs", help="Folder of the runs.")]
ProgressMode = Annotated[Mode, typer.Option("--progress", help="Progress on stderr: live (a table that is redrawn), lines (one every 30 s), json (one object per line), none; auto is live on a terminal, else lines.")]  # fmt: skip
Validation = Annotated[float | None, typer.Option(metavar="SHARE", help="Split the rows anew with this share for validation, in [0, 1); default: keep the split of curated.jsonl.")]  # fmt: skip


def config_path(config: Path | None) -> Path:
    """Return the config file to use: the given one, or the built-in one for this machine."""
    from kiloset.engines.vllm import has_cuda
    from kiloset.settings import PACKAGE

    return config or PACKAGE / "configs" / ("gpu.toml" if has_cuda() else "cpu.toml")


def all_overrides(
    size: str | None, seeds: str | None, model: str | None, base: str | None, overrides: list[str] | None
) -> list[str]:
    """Return the options as overrides of the config, followed by those of `--set`."""
    texts = {"seeds.path": seeds, "models.generator.name": model, "models.base.name": base}
    quoted = [f"{key}={dumps(value, ensure_ascii=False)}" for key, value in texts.items() if value is not None]
    return [*([f"run.size={size}"] if size is not None else []), *quoted, *(overrides or [])]


def prepare(
    config: Path | None, overrides: list[str], run: str | None, runs: Path
) -> "tuple[RunConfig, Inputs, RunFolder]":
    """Read and check the config, the input files and the model names, before any model loads and anything is written."""
    from kiloset.core.run import RunFolder
    from kiloset.inputs import read_inputs
    from kiloset.models import check_models
    from kiloset.settings import load_config, run_name

    path = config_path(config)
    settings = load_config(path, overrides)
    inputs = read_inputs(settings)
    check_models(settings)
    return settings, inputs, RunFolder(runs / (run or run_name(settings, path.stem, inputs.content())))


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
