"""The command line: `kiloset dataset | audit | explain | train | config`.

Exit status: 0 done, 2 bad input or nothing accepted, 3 fewer rows than asked, 130 and 143 interrupted.
"""

import os
import signal
import sys
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Annotated, NoReturn

import typer
from rich.console import Console

from core.errors import KilosetError

if TYPE_CHECKING:
    from core.run import RunFolder

app = typer.Typer(
    add_completion=False,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
    context_settings={"help_option_names": ["-h", "--help"]},
    help="Turn a handful of seed examples into the instruction set a base model learns most from.\n\n"
    "Typical order: [bold]dataset[/bold] makes the set, [bold]audit[/bold] shows how it is distributed and what was "
    "dropped, [bold]explain[/bold] tells one row's life, [bold]train[/bold] fits a LoRA adapter. Everything lies in "
    "runs/<name>/; running a command again continues where it stopped.",
)

Config = Annotated[Path | None, typer.Option("--config", "-c", help="The run's TOML; default configs/gpu.toml with an NVIDIA driver, else configs/cpu.toml.")]  # fmt: skip
Overrides = Annotated[list[str] | None, typer.Option("--set", metavar="TABLE.KEY=VALUE", help="Change any setting; `kiloset config` lists them. May be repeated.")]  # fmt: skip
Runs = Annotated[Path, typer.Option("--runs", help="Folder that holds the runs.")]
Run = Annotated[str | None, typer.Option("--run", help="A run's name; default: the one worked on last.")]


@app.command()
def dataset(
    config: Config = None,
    size: Annotated[str | None, typer.Option(metavar="ROWS", help="Rows of the curated set.")] = None,
    seeds: Annotated[
        str | None, typer.Option(help="Seeds: .jsonl, .json, .csv, .parquet, a folder of them or a hub id.")
    ] = None,
    model: Annotated[str | None, typer.Option(help="Generator model: local folder, hub id or embedded name.")] = None,
    base: Annotated[
        str | None, typer.Option(help="Base model, the one to be tuned; default: the generator model.")
    ] = None,
    run: Annotated[
        str | None, typer.Option(help="Name of the run; default: the config's name and a hash of it.")
    ] = None,
    runs: Runs = Path("runs"),
    set_: Overrides = None,
) -> None:
    """Make the curated set: seeds, generate, rules, near-duplicates, balance, rewrite, style.

    Run it again to continue after any interruption; finished stages and paid completions are never redone.
    """
    from core.run import RunFolder
    from engines.vllm import has_cuda
    from kiloset.models import check_models, real_models
    from kiloset.pipeline import begin, read_inputs, run_pipeline
    from kiloset.settings import ROOT, load_config, run_name
    from kiloset.show import bars, show_result

    console = Console(stderr=True)
    path = config or ROOT / "configs" / ("gpu.toml" if has_cuda() else "cpu.toml")
    chosen = {"run.size": size, "seeds.path": seeds, "models.generator.name": model, "models.base.name": base}
    quoted = [
        f"{key}={value if key == 'run.size' else _toml_text(value)}"
        for key, value in chosen.items()
        if value is not None
    ]
    settings = load_config(path, [*quoted, *(set_ or [])])
    inputs = read_inputs(settings)
    check_models(settings)
    folder = RunFolder(runs / (run or run_name(settings, path.stem, inputs.content())))
    begin(settings, folder)
    with bars(console) as shown:
        shown.say(
            f"{folder.path}: {inputs.seeds.height} seeds, {inputs.pool.height} pool rows, {settings.run.size} rows wanted"
        )
        with real_models(settings, folder.engine_log, shown.say, shown) as models:
            result = run_pipeline(settings, inputs, folder, models, shown)
    show_result(result, folder, Console())
    if result.shortfall:
        raise typer.Exit(3)


@app.command()
def audit(run: Run = None, runs: Runs = Path("runs")) -> None:
    """Show how the set is distributed and what became of every candidate, from the run folder alone."""
    from audit.report import audit as examine
    from audit.report import show

    show(examine(_folder(run, runs)), Console())


@app.command()
def explain(
    row: Annotated[str, typer.Argument(help="A row's id, such as g00042, s0007 or p00012.")],
    run: Run = None,
    runs: Runs = Path("runs"),
    full: Annotated[bool, typer.Option("--full", help="Show whole prompts.")] = False,
) -> None:
    """Tell one row's whole life: parents, prompts, measurements, rewrites, and what it lost to."""
    from audit.explain import explain as follow
    from audit.explain import show_life

    show_life(follow(_folder(run, runs), row), Console(), full=full)


@app.command()
def train(run: Run = None, runs: Runs = Path("runs"), set_: Overrides = None) -> None:
    """Fit a LoRA adapter to the run's curated.jsonl, edits by hand included, on the run's base model."""
    from engines.embedded import model_path
    from kiloset.models import base_name
    from kiloset.settings import load_config
    from kiloset.show import bars, show_training
    from train.lora import train as fit

    console = Console(stderr=True)
    folder = _folder(run, runs)
    settings = load_config(folder.config, set_ or [])
    with folder.lock(), bars(console) as shown:
        path = model_path(base_name(settings), "models.base", shown.say)
        report = fit(folder, settings.train, Path(path), shown)
    show_training(report, folder, Console())


@app.command("config")
def config_(config: Config = None, set_: Overrides = None) -> None:
    """List every setting with its meaning, default, and value in the given config."""
    from dataclasses import asdict

    from engines.vllm import has_cuda
    from kiloset.settings import ROOT, load_config, settings_help
    from kiloset.show import show_settings

    path = config or ROOT / "configs" / ("gpu.toml" if has_cuda() else "cpu.toml")
    show_settings(settings_help(), asdict(load_config(path, set_ or [])), Console())


def _folder(run: str | None, runs: Path) -> "RunFolder":
    from core.errors import DataError
    from core.run import RunFolder

    if run is None:
        found = sorted(runs.glob("*/manifest.json"), key=lambda path: path.stat().st_mtime)
        if not found:
            raise DataError(f"{runs}: no run in it; make one with `make dataset`")
        run = found[-1].parent.name
    folder = RunFolder(runs / run)
    folder.require()
    return folder


def _toml_text(value: object) -> str:
    import json

    return json.dumps(str(value), ensure_ascii=False)


def _interrupted(number: int, _: FrameType | None) -> NoReturn:
    # As an exception, so that every engine process is ended on the way out.
    print("\nkiloset: interrupted; run the same command again to continue", file=sys.stderr)
    raise SystemExit(128 + number)


def main() -> None:
    """Run the command line."""
    signal.signal(signal.SIGTERM, _interrupted)
    signal.signal(signal.SIGINT, _interrupted)
    os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    os.environ.setdefault("TQDM_DISABLE", "1")  # other libraries' bars; ours are rich's
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    try:
        app()
    except KilosetError as error:
        print(f"kiloset: {error}", file=sys.stderr)
        sys.exit(2)


if __name__ == "__main__":
    main()
