"""Commands that fit an adapter and measure it: train, evaluate, prove, merge."""

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from kiloset.cli.options import Overrides, ProgressMode, Run, Runs, find_run
from kiloset.cli.progress import progress_on_stderr

Adapter = Annotated[Path | None, typer.Option(help="Folder of the adapter; default: adapter/ in the run's folder.")]


def train(
    run: Run = None, set_: Overrides = None,
    show: Annotated[int, typer.Option(min=0, metavar="ROWS", help="Train nothing; print this many rows token by token, trained tokens green and underlined.")] = 0,
    progress: ProgressMode = "auto", runs: Runs = Path("runs"),
) -> None:  # fmt: skip
    """Train a LoRA adapter on the run's curated.jsonl and base model.

    If you edited curated.jsonl, the edited file is used. Only response tokens count in the loss. The adapter is the one of
    the epoch with the lowest validation loss. Interrupted training resumes at its last checkpoint, with the same result.

    Example: `kiloset train --set train.epochs=3`
    """
    from kiloset import api
    from kiloset.cli.show import show_masks, show_training
    from kiloset.core.config import parse_overrides
    from kiloset.engines.embedded import model_path
    from kiloset.models import base_name
    from kiloset.settings import load_config
    from kiloset.train.loss import masked_rows

    folder, overrides = find_run(run, runs), parse_overrides(set_ or [])
    with progress_on_stderr(progress) as display:
        if show:
            settings = load_config(folder.config, overrides)
            path = Path(model_path(base_name(settings), "models.base"))
            show_masks(masked_rows(folder, settings.train, path, show), Console())
            return
        report = api.train_adapter(api.Run(folder), overrides, display)
    show_training(report, folder, Console())


def evaluate(
    run: Run = None, adapter: Adapter = None, set_: Overrides = None, progress: ProgressMode = "auto", runs: Runs = Path("runs"),
) -> None:  # fmt: skip
    """Compare the adapter with its base model: are constraints followed, and what did training damage?

    Damage is measured as drift (a higher loss on general text and code), forgetting (a lower accuracy on other tasks) and
    rigidity (uniform, unfinished or refusing answers, and answers that change when the prompt is only rephrased). The loss
    on validation rows and the tokens per answer are measured too. The test prompts are part of Kiloset, so nothing is
    downloaded. Completions are stored in the run's evaluation/ folder; the next evaluation sends only requests that are
    not stored.

    Example: `kiloset evaluate --run my-run`
    """
    from kiloset import api
    from kiloset.cli.show import show_judgement
    from kiloset.core.config import parse_overrides

    folder, overrides = find_run(run, runs), parse_overrides(set_ or [])
    with progress_on_stderr(progress) as display:
        base, tuned = api.evaluate(api.Run(folder), overrides, display, adapter)
    show_judgement(base.metrics, tuned.metrics, folder.path / "evaluation", Console())


def prove(run: Run = None, set_: Overrides = None, progress: ProgressMode = "auto", runs: Runs = Path("runs")) -> None:
    """Compare the curated set with control arms: random rows, the longest rows, no rewriting, the seeds alone.

    A control arm is another training set. An adapter is trained on each set for the same number of steps, with two or more
    random seeds, and evaluated on the same prompts. The exit status is 0 if the curated set is better than random rows on
    the metric prove.target and no side effect (forgetting, drift, rigidity; see `kiloset evaluate --help`) exceeds its
    limit; otherwise it is 1. After an interruption, run the command again to resume.

    Example: `kiloset prove --set prove.seeds=3`
    """
    from kiloset import api
    from kiloset.cli.show import show_proof
    from kiloset.core.config import parse_overrides

    folder, overrides = find_run(run, runs), parse_overrides(set_ or [])
    with progress_on_stderr(progress) as display:
        proof = api.prove(api.Run(folder), overrides, display)
    show_proof(proof, folder.path / "prove", Console())
    if not proof.is_proved:
        raise typer.Exit(1)


def merge(
    run: Run = None, adapter: Adapter = None,
    out: Annotated[Path | None, typer.Option(help="Folder to write the model to; default: merged/ in the run's folder.")] = None,
    runs: Runs = Path("runs"),
) -> None:  # fmt: skip
    """Write the base model with the run's adapter merged into its weights, for programs that load no adapters.

    Example: `kiloset merge --out my-model`
    """
    from kiloset.core.run import check_free
    from kiloset.engines.embedded import model_path
    from kiloset.models import base_name
    from kiloset.settings import load_config
    from kiloset.train.adapter import merge_adapter

    folder = find_run(run, runs)
    settings = load_config(folder.config)
    target = out or folder.path / "merged"
    if out is not None:
        check_free(out)
    with folder.lock(), progress_on_stderr("auto"):
        path = Path(model_path(base_name(settings), "models.base"))
        merge_adapter(path, adapter or folder.adapter, target)
    print(target)
