"""Commands that make a set or show what settings do: plan, preview, dataset, whatif, config, thin."""

from collections import Counter
from contextlib import closing
from dataclasses import asdict, fields
from functools import partial
from json import dumps
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console

from kiloset.cli.options import (
    Base,
    Config,
    Model,
    NewRun,
    Overrides,
    ProgressMode,
    Run,
    Runs,
    Seeds,
    Size,
    all_settings,
    find_run,
)
from kiloset.cli.progress import progress_on_stderr

if TYPE_CHECKING:
    from kiloset.plan.evidence import Evidence


def plan(
    seeds: Seeds = None, size: Size = None, model: Model = None, base: Base = None, config: Config = None, set_: Overrides = None,
    run: NewRun = None,
    may_probe: Annotated[bool, typer.Option("--probe/--no-probe", help="If no earlier run used the same models, send a few requests and measure them; the run reuses them later. --no-probe sends none and uses built-in assumptions.")] = True,
    json: Annotated[bool, typer.Option("--json", help="Print the plan as JSON.")] = False,
    progress: ProgressMode = "auto", runs: Runs = Path("runs"),
) -> None:  # fmt: skip
    """Estimate requests, tokens, time and cost before a run.

    The estimate is based on the requests that this run has already sent; if there are none, on the latest run of the same
    models; without such a run, on a few requests sent now. For the cost, set the price of a million prompt tokens
    (models.generator.price_prompt) and of a million completion tokens (models.generator.price_written).

    Example: `kiloset plan --seeds my-seeds.jsonl --size 500`
    """
    from kiloset.api import prepare
    from kiloset.cli.plan_report import show_plan
    from kiloset.models import RunModels
    from kiloset.plan.estimate import estimate, rows_wanted
    from kiloset.plan.evidence import assume_nothing_measured, find_evidence
    from kiloset.runner import probe
    from kiloset.settings import check_same

    settings, inputs, folder = prepare(config, all_settings(size, seeds, model, base, set_), run, runs)
    if folder.config.exists():
        check_same(settings, folder.config.read_text(encoding="utf-8"), folder.path)
    wanted = rows_wanted(settings, folder, inputs.labelled, inputs.pool)

    def measure() -> "Evidence":
        rows = inputs.seeds.height + inputs.pool.height
        with (
            progress_on_stderr(progress) as display,
            closing(RunModels(settings, rows, folder.engine_log, display)) as models,
        ):
            return probe(settings, inputs, folder, models, display)

    otherwise = measure if may_probe and settings.generate.enabled else assume_nothing_measured
    evidence = find_evidence(settings, folder, runs) or otherwise()
    result = estimate(settings, wanted, evidence, Counter(inputs.pool["category"]))
    if json:
        print(dumps({"run": folder.path.name, **asdict(result)}))
    else:
        show_plan(result, folder.path.name, Console())


def preview(
    seeds: Seeds = None, size: Size = None, model: Model = None, base: Base = None, config: Config = None, set_: Overrides = None,
    run: NewRun = None,
    rows: Annotated[int, typer.Option(min=1, help="Number of rows that should pass the checks, about.")] = 10,
    json: Annotated[bool, typer.Option("--json", help="Print the rows as JSON, uncut.")] = False,
    progress: ProgressMode = "auto", runs: Runs = Path("runs"),
) -> None:  # fmt: skip
    """Generate and print the first rows of a set, with the dropped rows and why, before you make it.

    It uses the settings and models of the run, and its requests become the first wave of the run: `kiloset dataset` with the
    same options continues from there and requests nothing twice. If the run has made more rows already, the command
    sends nothing and prints the run's first rows.

    Example: `kiloset preview --seeds my-seeds.jsonl --size 500`
    """
    from kiloset import api
    from kiloset.cli.show import show_preview
    from kiloset.previewing import preview_rows

    with progress_on_stderr(progress) as display:
        settings = all_settings(size, seeds, model, base, set_)
        result = api.preview(rows=rows, config=config, settings=settings, name=run, runs=runs, progress=display)
        folder = result.folder
        counts = {name: getattr(result, name) for name in ("unfinished", "requests", "tokens", "seconds")}
        facts = {"folder": str(folder.path), "kept": result.kept.height, "dropped": result.dropped.height, **counts}
        display.result(facts)
    if json:
        print(dumps({"run": folder.path.name, **counts, **preview_rows(result)}))
    else:
        show_preview(result, folder.path.name, Console())


def dataset(
    seeds: Seeds = None, size: Size = None, model: Model = None, base: Base = None, config: Config = None, set_: Overrides = None,
    run: NewRun = None,
    from_: Annotated[str | None, typer.Option("--from", metavar="RUN", help="Start a new run with a copy of all completions, scores and vectors of this other run, so that a run with other settings computes only what is new.")] = None,
    progress: ProgressMode = "auto", runs: Runs = Path("runs"),
) -> None:  # fmt: skip
    """Make the curated set, curated.jsonl in the folder runs/NAME, from seed examples.

    Run the command again after an interruption: it reuses finished stages and all completions. The exit status is 3 if
    the set has fewer rows than requested.

    Example: `kiloset dataset --seeds my-seeds.jsonl --size 500`
    """
    from kiloset.api import make_dataset
    from kiloset.cli.show import show_result

    with progress_on_stderr(progress) as display:
        settings, reuse = all_settings(size, seeds, model, base, set_), None if from_ is None else runs / from_
        done = make_dataset(config=config, settings=settings, name=run, runs=runs, reuse=reuse, progress=display)
        result, folder = done.result, done.folder
        assert result is not None  # of a run that was opened only
        display.result({"folder": str(folder.path), **asdict(result), "shortfall": result.shortfall})
    show_result(result, folder, Console())
    if result.shortfall:
        raise typer.Exit(3)


def whatif(
    settings: Annotated[list[str], typer.Argument(metavar="TABLE.KEY=VALUE", help="Settings to change, such as near_duplicates.threshold=0.8.")],
    run: Run = None,
    rows: Annotated[int, typer.Option(min=0, help="Largest number of changed rows to print.")] = 20,
    json: Annotated[bool, typer.Option("--json", help="Print everything as JSON, with all changed rows.")] = False,
    runs: Runs = Path("runs"),
) -> None:  # fmt: skip
    """Show which rows other settings of rules, duplicates, quality and selection would keep and drop.

    It changes nothing and sends no request: it uses what the run has stored and takes seconds. To make the set with these
    settings, use `kiloset dataset --from RUN --set TABLE.KEY=VALUE`.

    Example: `kiloset whatif near_duplicates.threshold=0.8`
    """
    from kiloset.cli.show import show_difference
    from kiloset.core.config import parse_overrides
    from kiloset.models import embedder_of
    from kiloset.whatif import what_if

    folder = find_run(run, runs)
    with progress_on_stderr("auto") as display:
        difference = what_if(folder, parse_overrides(settings), partial(embedder_of, progress=display), display)
    if json:
        facts = {field.name: getattr(difference, field.name) for field in fields(difference)}
        print(dumps({"run": folder.path.name, **facts, "changed": difference.changed.to_dicts()}))
    else:
        show_difference(difference, folder.path.name, rows, Console())


def config(config: Config = None, set_: Overrides = None) -> None:
    """List every setting with its meaning, its default and its value in a config.

    Example: `kiloset config --config my.toml`
    """
    from kiloset.api import config_path
    from kiloset.cli.show import show_settings
    from kiloset.core.config import parse_overrides
    from kiloset.settings import load_config, settings_help

    show_settings(settings_help(), asdict(load_config(config_path(config), parse_overrides(set_ or []))), Console())


def thin(
    pool: Annotated[str, typer.Argument(metavar="POOL", help="Folder of Parquet files with the columns instruction, response (or output) and optionally input (or context): a local folder or an address that fsspec can open, such as s3://bucket/pool.")],
    out: Annotated[str, typer.Argument(metavar="OUT", help="New or empty folder for the result: kept/, dropped/, thinned.json.")],
    rows: Annotated[int | None, typer.Option(min=1, help="Largest number of rows to keep. They are drawn at random from groups of similar rows, so that small groups keep a larger share; default: all rows that are not near-duplicates.")] = None,
    config: Config = None, set_: Overrides = None, progress: ProgressMode = "auto",
) -> None:  # fmt: skip
    """Reduce a pool that is too large for one machine, on a Ray cluster.

    A pool is an existing instruction set whose rows are candidates for the curated set. The command drops the pool's
    near-duplicates by the same rule as `kiloset dataset`; the result does not depend on the cluster. The setting
    engine.address names the Ray cluster; without it, Ray runs on this machine alone. Afterwards, run `kiloset dataset --set
    pool.path=OUT/kept`.

    Example: `kiloset thin s3://bucket/pool s3://bucket/thinned --rows 1000000`
    """
    from kiloset.api import config_path
    from kiloset.core.config import parse_overrides
    from kiloset.models import static_embedder_factory
    from kiloset.settings import load_config
    from kiloset.thinning import thin as thin_pool

    settings = load_config(config_path(config), {"engine.kind": "ray", **parse_overrides(set_ or [])})
    with progress_on_stderr(progress) as display:
        thinned = thin_pool(
            pool, out, rows, settings.near_duplicates, settings.engine, seed=settings.run.seed,
            temper=settings.select.temper, make_embedder=static_embedder_factory(settings), progress=display,
        )  # fmt: skip
    reasons = ", ".join(f"{reason} {n:,}" for reason, n in thinned.dropped.items()) or "nothing"
    print(f"{out}/kept: {thinned.kept:,} of {thinned.rows:,} rows; dropped: {reasons}")
    if thinned.cut_short:
        print(f"  {thinned.cut_short:,} times a row was compared with only 2,000 of the rows that share a key with it")
