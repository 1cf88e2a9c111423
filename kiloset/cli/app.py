"""The command line: `kiloset plan | dataset | audit | compare | review | whatif | explain | export | train | merge | evaluate | prove | config`.

Exit status: 0 done, 1 not proved, 2 bad input or nothing accepted, 3 fewer rows than asked, 130 and 143 interrupted.
"""

import os
import signal
import sys
from collections import Counter
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import asdict, fields
from json import dumps
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Annotated, Literal, NoReturn

import typer
from rich.console import Console

from kiloset.cli.live import Json, Mode, Watch, watching
from kiloset.core.errors import KilosetError

if TYPE_CHECKING:
    from kiloset.core.run import RunFolder
    from kiloset.pipeline import Inputs
    from kiloset.settings import RunConfig

app = typer.Typer(
    add_completion=False,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
    context_settings={"help_option_names": ["-h", "--help"]},
    help="Turn a handful of seed examples into the instruction set a base model learns most from.\n\n"
    "Typical order: [bold]plan[/bold] tells what it will take, [bold]dataset[/bold] makes the set, [bold]audit[/bold] shows how it is distributed and what was "
    "dropped, [bold]review[/bold] lets you accept, reject and edit its rows, [bold]whatif[/bold] what other thresholds would keep, [bold]explain[/bold] tells one row's life, [bold]export[/bold] hands the set to other tools, [bold]train[/bold] fits a LoRA adapter, [bold]evaluate[/bold] judges it beside the base model, [bold]prove[/bold] holds the set against random rows, [bold]merge[/bold] writes the adapter into the model's weights. Everything lies in "
    "runs/<name>/; running a command again continues where it stopped.",
)

Config = Annotated[Path | None, typer.Option("--config", "-c", help="The run's TOML; default configs/gpu.toml with an NVIDIA driver, else configs/cpu.toml.")]  # fmt: skip
Overrides = Annotated[list[str] | None, typer.Option("--set", metavar="TABLE.KEY=VALUE", help="Change any setting; `kiloset config` lists them. May be repeated.")]  # fmt: skip
Size = Annotated[str | None, typer.Option(metavar="ROWS", help="Rows of the curated set.")]
Seeds = Annotated[str | None, typer.Option(help="Seeds: .jsonl, .json, .csv, .parquet, a folder of them or a hub id.")]
Model = Annotated[str | None, typer.Option(help="Generator model: local folder, hub id or embedded name.")]
Base = Annotated[str | None, typer.Option(help="Base model, the one to be tuned; default: the generator model.")]
RunName = Annotated[str | None, typer.Option("--run", help="Name of the run; default: the config's name and a hash of it.")]  # fmt: skip
Shown = Annotated[Mode, typer.Option("--progress", help="How to tell how far it is, on stderr: live (a table), lines (one every 30 s), json (one object a line), none; auto is live on a terminal, else lines.")]  # fmt: skip
Runs = Annotated[Path, typer.Option("--runs", help="Folder that holds the runs.")]
Run = Annotated[str | None, typer.Option("--run", help="A run's name; default: the one worked on last.")]
Layout = Literal["messages", "alpaca", "sharegpt", "parquet", "hf"]
Pushed = Literal["messages", "alpaca", "sharegpt", "parquet"]


@app.command()
def plan(
    config: Config = None, size: Size = None, seeds: Seeds = None, model: Model = None, base: Base = None,
    run: RunName = None, runs: Runs = Path("runs"), set_: Overrides = None,
    json: Annotated[bool, typer.Option("--json", help="Print the plan as JSON.")] = False,
    measure: Annotated[bool, typer.Option("--probe/--no-probe", help="Where no run of these models is found, try some requests (they count for the run) or go by assumptions.")] = True,
    progress: Shown = "auto",
) -> None:  # fmt: skip
    """Tell what a set will take before it is made: requests, tokens, time and, with prices set, money.

    It goes by what the run has done so far, else by the latest run of the same models, else by a short probe, which is
    the run's first wave, so that nothing of it is lost.
    """
    from kiloset.cli.show import show_plan
    from kiloset.models import real_models
    from kiloset.pipeline import probe
    from kiloset.plan import Evidence, assumed, plan_run, rows_wanted
    from kiloset.settings import check_same

    settings, inputs, folder = _prepared(config, _chosen(size, seeds, model, base, set_), run, runs)
    if folder.config.exists():
        check_same(settings, folder.config.read_text(encoding="utf-8"), folder.path)
    wanted = rows_wanted(settings, folder, inputs.labelled, inputs.pool)

    def probed() -> Evidence:
        rows = inputs.seeds.height + inputs.pool.height
        with watching(progress) as shown, real_models(settings, rows, folder.engine_log, shown.say, shown) as models:
            return probe(settings, inputs, folder, models, shown)

    provider = probed if measure and settings.generate.enabled else assumed
    made = plan_run(settings, wanted, Counter(inputs.pool["category"]), folder, runs, provider)
    if json:
        print(dumps({"run": folder.path.name, **asdict(made)}))
    else:
        show_plan(made, folder.path.name, Console())


@app.command()
def dataset(
    config: Config = None, size: Size = None, seeds: Seeds = None, model: Model = None, base: Base = None,
    run: RunName = None, runs: Runs = Path("runs"), set_: Overrides = None, progress: Shown = "auto",
    from_: Annotated[str | None, typer.Option("--from", metavar="RUN", help="A new run begins with all completions, scores and vectors of another one: other settings, nothing paid twice.")] = None,
) -> None:  # fmt: skip
    """Make the curated set: seeds, generate, rules, near-duplicates, contamination, semantic, balance, rewrite, style.

    Run it again to continue after any interruption; finished stages and paid completions are never redone.
    """
    from kiloset.cli.show import show_result
    from kiloset.core.calls import CallStore
    from kiloset.models import real_models
    from kiloset.pipeline import begin, check_same_categories, run_pipeline

    with watching(progress) as shown, _errors_as_events(shown):
        settings, inputs, folder = _prepared(config, _chosen(size, seeds, model, base, set_), run, runs)
        other = None if from_ is None else _folder(from_, runs)
        if other is not None:
            with closing(CallStore.read_only(other.calls)) as store:
                check_same_categories(store, inputs.labelled["category"], other.path.name)
        begin(settings, folder)
        if other is not None:
            with folder.lock(), closing(CallStore.read_only(other.calls)) as store:
                if not folder.calls.exists():
                    store.copy_to(folder.calls)
        shown.say(
            f"{folder.path}: {inputs.seeds.height} seeds, {inputs.pool.height} pool rows, {settings.run.size} rows wanted"
        )
        rows = inputs.seeds.height + inputs.pool.height
        with real_models(settings, rows, folder.engine_log, shown.say, shown) as models:
            result = run_pipeline(settings, inputs, folder, models, shown)
        shown.result({"folder": str(folder.path), **asdict(result), "shortfall": result.shortfall})
    show_result(result, folder, Console())
    if result.shortfall:
        raise typer.Exit(3)


@app.command()
def audit(
    file: Annotated[Path | None, typer.Argument(metavar="[FILE]", show_default=False, help="An instruction file of yours or of others (.jsonl, .json, .csv, .parquet, a folder of them) to audit instead of a run.")] = None,
    run: Run = None, runs: Runs = Path("runs"),
    examples: Annotated[int, typer.Option(min=0, help="Of a run, rewrites to show beside their references, the nearest to each limit first; of a file, rows of each fault.")] = 3,
    page: Annotated[Path | None, typer.Option(help="Where the page is written; default: report.html in the run's folder, or FILE's name and .report.html in this folder.")] = None,
    no_page: Annotated[bool, typer.Option("--no-page", help="Print the figures only.")] = False,
    benchmark: Annotated[list[str] | None, typer.Option(metavar="FILE", help="With FILE: a benchmark whose prompts no row should repeat. May be repeated.")] = None,
    embed: Annotated[bool, typer.Option("--embed/--no-embed", help="With FILE: a map of the rows, which takes a model (2,000 rows: 40 s).")] = False,
) -> None:  # fmt: skip
    """Show how the set is distributed and what became of every candidate, and write it all to a page, report.html.

    Both come from the run folder alone. The page has the rows behind the figures, a map of the set and the rewrites with
    their differences marked; it opens offline in any browser.

    With FILE, any instruction set is audited: duplicates, cut and empty answers, refusals, leaked benchmarks, licences, personal
    data, broken lines and all else that the rules know, each with its count, its meaning and rows that have it.
    """
    from kiloset.audit.reporting import audited_run, examine, show_figures, write_report
    from kiloset.models import embedder_of

    folder = audited_run(file, run, bool(benchmark or embed))
    if file is not None and folder is None:
        _audit_file(file, benchmark or [], examples, page, no_page, embed)
        return
    folder = folder or _folder(run, runs)
    found = examine(folder, examples)
    show_figures(found, examples, Console())
    if no_page:
        return
    out = page or folder.path / "report.html"
    with watching("auto") as shown:
        size = write_report(folder, found, out, lambda config, rows: embedder_of(config, rows, shown.say, shown), shown)
        shown.say(f"{out}: {size / 1e6:.1f} MB, opens in any browser")


@app.command()
def compare(
    first: Annotated[str, typer.Argument(metavar="A", help="A file, a folder of files, a run's folder or its name.")],
    second: Annotated[str, typer.Argument(metavar="B", help="Likewise.")],
    runs: Runs = Path("runs"),
    examples: Annotated[int, typer.Option(min=0, help="Rows in both to show.")] = 3,
    page: Annotated[Path | None, typer.Option(help="Write a page with charts of both beside each other.")] = None,
    embed: Annotated[bool, typer.Option("--embed/--no-embed", help="Tell rows in effect (Vendi score) and, on the page, draw a map of both; takes a model.")] = False,
) -> None:  # fmt: skip
    """Hold two sets against each other: size, faults, categories, lengths, openings, licences, and rows that are in both."""
    from kiloset.audit.comparing import compare as hold
    from kiloset.audit.comparing import write_comparison
    from kiloset.audit.comparison import show_comparison
    from kiloset.models import embedder_of

    with watching("auto") as shown:
        load = (lambda config, rows: embedder_of(config, rows, shown.say, shown)) if embed else None
        found = hold(first, second, runs, load)
        show_comparison(found, examples, Console())
        if page is not None:
            size = write_comparison(found, page, load)
            shown.say(f"{page}: {size / 1e6:.1f} MB, opens in any browser")


@app.command()
def review(
    run: Run = None, runs: Runs = Path("runs"),
    port: Annotated[int | None, typer.Option(min=1024, max=65535, help="Port on this machine; default: the one this run's review had last, else any free one.")] = None,
    open_: Annotated[bool, typer.Option("--open/--no-open", help="Open the page in the browser.")] = True,
) -> None:  # fmt: skip
    """Review the rows of a finished run in the browser, by keyboard: accept, reject, edit, relabel, call dropped ones back.

    Each decision is in the run's review.jsonl before the page moves on; `kiloset dataset`, run again, applies them. Only this
    machine can reach the page, and only by the link that is printed.
    """
    from kiloset.review.launch import browser
    from kiloset.review.launch import review as serve

    serve(_folder(run, runs), port, browser() if open_ else None, lambda said: print(said, flush=True))


@app.command()
def whatif(
    settings: Annotated[list[str], typer.Argument(metavar="TABLE.KEY=VALUE...", help="What to change, such as near_duplicates.threshold=0.8.")],
    run: Run = None, runs: Runs = Path("runs"),
    rows: Annotated[int, typer.Option(min=0, help="Rows of another fate to show.")] = 20,
    json: Annotated[bool, typer.Option("--json", help="Print everything as JSON, all rows included.")] = False,
) -> None:  # fmt: skip
    """Tell which rows other settings of rules, duplicates, quality and balance would keep and drop; nothing is changed.

    Goes by what the run has stored, so it takes seconds and asks no model. To have the set so, make a new run of it:
    `kiloset dataset --from RUN --set TABLE.KEY=VALUE`, which pays for nothing twice.
    """
    from kiloset.cli.show import show_difference
    from kiloset.models import embedder_of
    from kiloset.whatif import what_if

    folder = _folder(run, runs)
    with watching("auto") as shown:
        found = what_if(folder, settings, lambda config, rows: embedder_of(config, rows, shown.say, shown), shown)
    if json:
        facts = {field.name: getattr(found, field.name) for field in fields(found)}
        print(dumps({"run": folder.path.name, **facts, "changed": found.changed.to_dicts()}))
    else:
        show_difference(found, folder.path.name, rows, Console())


@app.command()
def explain(
    row: Annotated[str, typer.Argument(help="A row's id, such as g00042, s0007 or p00012.")],
    run: Run = None,
    runs: Runs = Path("runs"),
    full: Annotated[bool, typer.Option("--full", help="Show whole prompts.")] = False,
) -> None:
    """Tell one row's whole life: parents, prompts, measurements, rewrites, and what it lost to."""
    from kiloset.audit.explain import explain as follow
    from kiloset.audit.explain import show_life

    show_life(follow(_folder(run, runs), row), Console(), full=full)


@app.command()
def export(
    run: Run = None, runs: Runs = Path("runs"),
    layout: Annotated[Layout, typer.Option("--format", help="messages, alpaca and sharegpt are .jsonl files; hf is a folder for datasets.load_from_disk.")] = "messages",
    out: Annotated[Path | None, typer.Option(metavar="FOLDER", help="A folder that is new, empty, or an untouched export of this run and format; default: export-FORMAT in the run's folder.")] = None,
    validation: Annotated[float | None, typer.Option(metavar="SHARE", help="Split the rows anew, with this share for validation, in [0, 1); default: keep the split of curated.jsonl.")] = None,
) -> None:  # fmt: skip
    """Hand the run's curated.jsonl, edits by hand included, to other tools, split into train and validation, with a data card.

    The split is that of curated.jsonl, which training uses too: near-duplicates, and rows and their ancestors, are on one side.
    Run it again after an edit to replace the export, unless you changed the export.
    """
    from kiloset.publish.card_text import card_text, parts_of
    from kiloset.publish.export import export as write
    from kiloset.publish.export import summary

    folder = _folder(run, runs)
    done = write(
        folder, layout, out or folder.path / f"export-{layout}", validation,
        lambda rows: card_text(folder, layout, parts_of(layout, rows)),
    )  # fmt: skip
    for line in summary(done):
        print(line)


@app.command()
def card(
    run: Run = None, runs: Runs = Path("runs"),
    force: Annotated[bool, typer.Option("--force", help="Replace a README.md that was edited, or that is not ours.")] = False,
) -> None:  # fmt: skip
    """Write the data card of the set, README.md in the run's folder: what it is, how it was made, what is known and what not.

    `kiloset push` sends one with the set; it is written anew from the run each time.
    """
    from kiloset.publish.card_text import CARD, write_card

    folder = _folder(run, runs)
    with folder.lock():
        write_card(folder, force=force)
    print(folder.path / CARD)


@app.command()
def push(
    repo: Annotated[str, typer.Argument(metavar="REPO_ID", help="owner/name on the hub, or a name under your account.")],
    run: Run = None, runs: Runs = Path("runs"),
    layout: Annotated[Pushed, typer.Option("--format", help="As for export.")] = "parquet",
    private: Annotated[bool, typer.Option("--private/--public", help="What the repository is, or is made as.")] = True,
    revision: Annotated[str | None, typer.Option(metavar="BRANCH", help="A branch, made if it is not there; default: main.")] = None,
    message: Annotated[str | None, typer.Option(help="Of the commit; default: the run's name and its rows.")] = None,
    validation: Annotated[float | None, typer.Option(metavar="SHARE", help="Split the rows anew, with this share for validation, in [0, 1); default: keep the split of curated.jsonl.")] = None,
    allow_personal: Annotated[bool, typer.Option("--allow-personal", help="Let a public set hold personal data; keys it may never hold.")] = False,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Send it without asking; needed where there is no terminal.")] = False,
) -> None:  # fmt: skip
    """Send an export of the set, with its data card, to the Hugging Face hub as one commit; what is sent is shown first.

    The token is that of `hf auth login` or of the environment variable HF_TOKEN; nothing else of the run is sent.
    """
    from kiloset.core.errors import ConfigError
    from kiloset.publish.push import push as send

    def confirm() -> None:
        if not yes and not sys.stdin.isatty():
            raise ConfigError("KS851", "nothing was sent: say --yes (make: YES=1) where there is no terminal to ask on")
        if not yes and not typer.confirm("Send it?"):
            print("nothing was sent")
            raise typer.Exit

    line = send(
        _folder(run, runs), repo, layout, private=private, branch=revision, message=message, validation=validation,
        allow_personal=allow_personal, say=print, confirm=confirm,
    )  # fmt: skip
    print(line)


@app.command()
def train(
    run: Run = None, runs: Runs = Path("runs"), set_: Overrides = None, progress: Shown = "auto",
    show: Annotated[int, typer.Option(min=0, metavar="ROWS", help="Train nothing; print so many rows token by token, those that train in green and underlined.")] = 0,
) -> None:  # fmt: skip
    """Fit a LoRA adapter to the run's curated.jsonl, edits by hand included, on the run's base model.

    The loss counts on responses alone; the epoch with the lowest validation loss is kept. Interrupted, it goes on from its
    last checkpoint to the same weights.
    """
    from kiloset.cli.show import show_masks, show_training
    from kiloset.engines.embedded import model_path
    from kiloset.models import base_name
    from kiloset.settings import load_config
    from kiloset.train.lora import train as fit
    from kiloset.train.shown import masked_rows

    folder = _folder(run, runs)
    settings = load_config(folder.config, set_ or [])
    with watching(progress) as shown:
        path = Path(model_path(base_name(settings), "models.base", shown.say))
        if show:
            show_masks(masked_rows(folder, settings.train, path, show), Console())
            return
        with folder.lock():
            report = fit(folder, settings.train, path, shown)
    show_training(report, folder, Console())


@app.command()
def merge(
    run: Run = None, runs: Runs = Path("runs"),
    adapter: Annotated[Path | None, typer.Option(help="The adapter's folder; default: the run's own.")] = None,
    out: Annotated[Path | None, typer.Option(help="Where the model is written; default: merged in the run's folder.")] = None,
) -> None:  # fmt: skip
    """Write the base model with the run's adapter in its weights, for whatever loads no adapters."""
    from kiloset.core.run import check_free
    from kiloset.engines.embedded import model_path
    from kiloset.models import base_name
    from kiloset.settings import load_config
    from kiloset.train.merge import merge_adapter

    folder = _folder(run, runs)
    settings = load_config(folder.config, [])
    target = out or folder.path / "merged"
    if out is not None:
        check_free(out)
    with folder.lock(), watching("auto") as shown:
        path = Path(model_path(base_name(settings), "models.base", shown.say))
        merge_adapter(path, adapter or folder.adapter, target)
    print(target)


@app.command()
def evaluate(
    run: Run = None, runs: Runs = Path("runs"), set_: Overrides = None, progress: Shown = "auto",
    adapter: Annotated[Path | None, typer.Option(help="The adapter's folder; default: the run's own.")] = None,
) -> None:  # fmt: skip
    """Judge the run's adapter beside its base model: constraints, drift, forgetting, rigidity, loss, tokens.

    Works without a download. Every answer lies in the run's evaluation/; run again, only what has changed is asked.
    """
    from dataclasses import asdict as plain

    from kiloset.cli.show import show_judgement
    from kiloset.core.run import write_text
    from kiloset.data.curated import read_curated
    from kiloset.evaluation.evaluate import suites
    from kiloset.evaluation.metrics import difference
    from kiloset.judging import panel, taught_by, validation_rows
    from kiloset.settings import load_config
    from kiloset.train.merge import check_adapter

    folder = _folder(run, runs)
    settings = load_config(folder.config, set_ or [])
    tuned_by = adapter or folder.adapter
    check_adapter(tuned_by)
    taught = taught_by(read_curated(folder.curated).conversations("train"))
    asked = suites(settings.evaluation, taught, validation_rows(folder))
    place = folder.path / "evaluation"
    with folder.lock(), watching(progress) as shown, panel(folder, settings, asked, place, shown) as judges:
        base = judges.base(place / "base")
        tuned = judges.tuned("tuned", tuned_by, place / "tuned", base)
    found = {
        name: {"unit": one.unit, "better": one.better, "base": one.mean, "tuned": tuned.metrics[name].mean,
               "difference": plain(difference(tuned.metrics[name], one))}
        for name, one in base.metrics.items()
    }  # fmt: skip
    write_text(folder.path / "evaluation.json", dumps(found, indent=2) + "\n")
    show_judgement(base.metrics, tuned.metrics, place, Console())


@app.command()
def prove(run: Run = None, runs: Runs = Path("runs"), set_: Overrides = None, progress: Shown = "auto") -> None:
    """Hold the curated set against as many random rows, the longest, the same without rewriting, and the seeds.

    Each is trained for as many steps, twice or more with other seeds, and judged alike. Exit status 0 only if the curated set beats
    random rows on the target and no guard falls, else 1. Interrupted, it goes on where it stopped.
    """
    from kiloset.cli.show import show_proof
    from kiloset.prove import prove_run
    from kiloset.settings import load_config

    folder = _folder(run, runs)
    settings = load_config(folder.config, set_ or [])
    with folder.lock(), watching(progress) as shown:
        found = prove_run(folder, settings, shown)
    show_proof(found, folder.path / "prove", Console())
    if not found.is_proved:
        raise typer.Exit(1)


@app.command()
def thin(
    pool: Annotated[str, typer.Argument(help="Folder of Parquet files with the columns instruction, response (or output) and perhaps input (or context); local or any fsspec address.")],
    out: Annotated[str, typer.Argument(help="Folder to be written, new or empty: kept/, dropped/, thinned.json.")],
    rows: Annotated[int | None, typer.Option(min=1, help="Rows to keep at most, drawn evenly over clusters; without it all that are no near-duplicates.")] = None,
    config: Config = None, set_: Overrides = None, progress: Shown = "auto",
) -> None:  # fmt: skip
    """Make a pool that is too large for one machine smaller, on a Ray cluster; `pool.path` of a run then names OUT/kept.

    Near-duplicates leave as in a run, the same rows whatever the cluster. The setting engine.address names the cluster; without it
    this machine is one. The pool is never held in one place.
    """
    from kiloset.models import thinning_embedder
    from kiloset.settings import load_config
    from kiloset.thinning import thin as make_thin

    settings = load_config(_config_path(config), ['engine.kind="ray"', *(set_ or [])])
    with watching(progress) as shown:
        make = thinning_embedder(settings, shown.say)
        found = make_thin(
            pool, out, rows, settings.near_duplicates, settings.engine, seed=settings.run.seed, temper=settings.balance.temper,
            make_embedder=make, progress=shown,
        )  # fmt: skip
    said = ", ".join(f"{reason} {n:,}" for reason, n in found.dropped.items()) or "nothing"
    print(f"{out}/kept: {found.kept:,} of {found.rows:,} rows; dropped: {said}")
    if found.cut_short:
        print(
            f"  {found.cut_short:,} times a row was compared with 2,000 of the rows that share a key with it, not with all"
        )


@app.command("config")
def config_(config: Config = None, set_: Overrides = None) -> None:
    """List every setting with its meaning, default, and value in the given config."""
    from kiloset.cli.show import show_settings
    from kiloset.settings import load_config, settings_help

    show_settings(settings_help(), asdict(load_config(_config_path(config), set_ or [])), Console())


def _config_path(config: Path | None) -> Path:
    from kiloset.engines.vllm import has_cuda
    from kiloset.settings import PACKAGE

    return config or PACKAGE / "configs" / ("gpu.toml" if has_cuda() else "cpu.toml")


def _chosen(
    size: str | None, seeds: str | None, model: str | None, base: str | None, overrides: list[str] | None
) -> list[str]:
    """Return the options as overrides of the config, those of `--set` last."""
    texts = {"seeds.path": seeds, "models.generator.name": model, "models.base.name": base}
    quoted = [f"{key}={dumps(value, ensure_ascii=False)}" for key, value in texts.items() if value is not None]
    return [*([f"run.size={size}"] if size is not None else []), *quoted, *(overrides or [])]


def _prepared(
    config: Path | None, overrides: list[str], run: str | None, runs: Path
) -> "tuple[RunConfig, Inputs, RunFolder]":
    """Read and check all that can be, before any model loads and before anything is written."""
    from kiloset.core.run import RunFolder
    from kiloset.models import check_models
    from kiloset.pipeline import read_inputs
    from kiloset.settings import load_config, run_name

    path = _config_path(config)
    settings = load_config(path, overrides)
    inputs = read_inputs(settings)
    check_models(settings)
    return settings, inputs, RunFolder(runs / (run or run_name(settings, path.stem, inputs.content())))


@contextmanager
def _errors_as_events(shown: Watch) -> Iterator[None]:
    """Tell a program of an error in its own words; everyone else hears of it from `main`."""
    try:
        yield
    except KilosetError as error:
        if not isinstance(shown, Json):
            raise
        shown.failed(str(error), 2)
        raise SystemExit(2) from None


def _folder(run: str | None, runs: Path) -> "RunFolder":
    from kiloset.core.errors import DataError
    from kiloset.core.run import RunFolder

    if run is None:
        found = sorted(runs.glob("*/manifest.json"), key=lambda path: path.stat().st_mtime)
        if not found:
            raise DataError("KS852", f"{runs}: no run in it; make one with `make dataset`")
        run = found[-1].parent.name
    folder = RunFolder(runs / run)
    folder.require()
    return folder


def _audit_file(
    file: Path, benchmarks: list[str], examples: int, page: Path | None, no_page: bool, embed: bool
) -> None:
    from kiloset.audit.files import audit_file, write_report
    from kiloset.audit.sets import show_set
    from kiloset.models import embedder_of

    found = audit_file(file, benchmarks)
    show_set(found, examples, Console())
    if no_page:
        return
    out = page or Path(f"{file.stem}.report.html")
    with watching("auto") as shown:
        load = (lambda config, rows: embedder_of(config, rows, shown.say, shown)) if embed else None
        size = write_report(found, out, load)
        shown.say(f"{out}: {size / 1e6:.1f} MB, opens in any browser")


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
        print(f"kiloset: {error.code} {error}", file=sys.stderr)
        sys.exit(2)


if __name__ == "__main__":
    main()
