"""The public functions: what each command does, for Python programs.

`import kiloset` gives all of them. Nothing is printed; messages go to `logging`, and progress to a `Progress` if one is given.
"""

import logging
from collections.abc import Mapping, Sequence
from contextlib import closing
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import polars as pl

from kiloset.core.config import parse, with_settings
from kiloset.core.progress import Progress, Silent
from kiloset.core.run import PACKAGE, RunFolder
from kiloset.settings import RunConfig, load_config, plain_table, run_name

if TYPE_CHECKING:
    from kiloset.audit.compare import Comparison
    from kiloset.audit.file_audit import FileAudit
    from kiloset.evaluation.comparison import Proof
    from kiloset.evaluation.suite import Evaluation
    from kiloset.inputs import Inputs
    from kiloset.previewing import Preview
    from kiloset.result import Result
    from kiloset.train.report import TrainReport


logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Run:
    """One run's folder, and what it holds."""

    folder: RunFolder
    result: "Result | None" = None
    """How the run ended, None for a run that was opened."""

    @classmethod
    def open(cls, path: str | Path) -> "Run":
        """Open the folder of a run.

        Raises:
            DataError: There is no run, or an older version made it.
        """
        folder = RunFolder(Path(path))
        folder.require()
        return cls(folder)

    @property
    def path(self) -> Path:
        """The run's folder."""
        return self.folder.path

    @property
    def curated(self) -> pl.DataFrame:
        """The rows of curated.jsonl as they are now, edits by hand included.

        Columns: `id`, `messages`, `instruction` (all user turns), `response`, `category`, `source`, `license`, `writer`, `split`.

        Raises:
            DataError: There is no curated.jsonl, or a line of it is invalid.
        """
        from kiloset.data.curated import read_curated

        return read_curated(self.folder.curated).rows.rename({"user": "instruction"}).drop("line")

    @property
    def dropped(self) -> pl.DataFrame:
        """Every dropped row with `stage`, `reason`, `evidence`, `measured`, `limit` and `twin`."""
        return self.folder.dropped()

    @property
    def manifest(self) -> dict[str, Any]:
        """Versions, models, counts and seconds of the run."""
        return self.folder.manifest

    def report(self, page: str | Path | None = None) -> Path:
        """Write the report page and return its path, report.html in the run's folder by default."""
        from kiloset.audit.run_audit import audit
        from kiloset.audit.run_page import write_report
        from kiloset.models import embedder_of

        target = self.path / "report.html" if page is None else Path(page)
        write_report(self.folder, audit(self.folder), target, partial(embedder_of, progress=Silent()), Silent())
        return target


def make_dataset(
    seeds: str | Path | None = None, size: int | None = None, model: str | None = None, base: str | None = None, *,
    config: RunConfig | str | Path | None = None, settings: Mapping[str, Any] | None = None, name: str | None = None,
    runs: str | Path = "runs", reuse: "Run | str | Path | None" = None, progress: Progress | None = None,
) -> Run:  # fmt: skip
    """Make a curated set, or resume it, with the same defaults as `kiloset dataset`.

    Args:
        seeds: Seed examples: a file, a folder of files or a hub id; default: the bundled seeds.
        size: Rows of the set.
        model: Writer model: a local folder, a hub id or embedded:NAME.
        base: Base model, which will be tuned; default: the writer model.
        config: A TOML file or a `RunConfig`; default: the built-in config for this machine.
        settings: Single settings by dotted name, such as `{"rules.max_response_words": 300}`.
        name: Name of the run; default: the config's name and a hash of everything that decides the content.
        runs: Folder of the runs.
        reuse: Another run, whose completions, scores and vectors the new run begins with.
        progress: Receives the progress of stages.

    Returns:
        The run. `run.result.shortfall` names the categories that have fewer rows than wanted.

    Raises:
        ConfigError: A setting is invalid, or the folder belongs to another config.
        DataError: A file is invalid.
        EmptyError: No row was accepted.
        ModelError: A model cannot be loaded, or its process died.
    """
    from kiloset.models import RunModels
    from kiloset.runner import begin, reuse_completions, run_pipeline

    changes = {**_chosen(seeds, size, model, base), **(settings or {})}
    options, inputs, folder = prepare(config, changes, name, Path(runs))
    if reuse is not None:
        reuse_completions(options, inputs, folder, reuse.folder if isinstance(reuse, Run) else RunFolder(Path(reuse)))
    begin(options, folder)
    counts = inputs.seeds.height, inputs.pool.height
    logger.info("%s: %d seeds, %d pool rows, %d rows wanted", folder.path, *counts, options.run.size)
    display = progress or Silent()
    with closing(RunModels(options, sum(counts), folder.engine_log, display)) as models:
        return Run(folder, run_pipeline(options, inputs, folder, models, display))


def preview(
    seeds: str | Path | None = None, size: int | None = None, model: str | None = None, base: str | None = None, *,
    rows: int = 10, config: RunConfig | str | Path | None = None, settings: Mapping[str, Any] | None = None,
    name: str | None = None, runs: str | Path = "runs", progress: Progress | None = None,
) -> "Preview":  # fmt: skip
    """Generate the first rows of a set; `make_dataset` with the same arguments continues from there and requests nothing twice.

    About `rows` rows will pass the checks; the other arguments are the same as in `make_dataset`.

    Returns:
        The rows that pass the checks before selection, the dropped rows with `reason` and `evidence`, and the tokens used. If
        the run has made more rows already, nothing is sent, and these are its first rows.

    Raises:
        ConfigError: A setting is invalid, generation is off, or the folder belongs to another config.
        DataError: A file is invalid.
        ModelError: The writer model cannot be loaded, or its process died.
    """
    from kiloset.models import RunModels
    from kiloset.previewing import preview_run

    changes = {**_chosen(seeds, size, model, base), **(settings or {})}
    options, inputs, folder = prepare(config, changes, name, Path(runs))
    display, known = progress or Silent(), inputs.seeds.height + inputs.pool.height
    with closing(RunModels(options, known, folder.engine_log, display)) as models:
        return preview_run(options, inputs, folder, models, rows, display)


def _chosen(seeds: str | Path | None, size: int | None, model: str | None, base: str | None) -> dict[str, Any]:
    """Return arguments that are not None as settings by dotted name."""
    chosen = {"seeds.path": seeds, "run.size": size, "models.generator.name": model, "models.base.name": base}
    return {key: str(value) if isinstance(value, Path) else value for key, value in chosen.items() if value is not None}


def prepare(
    config: RunConfig | str | Path | None, settings: Mapping[str, Any], name: str | None, runs: Path
) -> "tuple[RunConfig, Inputs, RunFolder]":
    """Read and check config, input files and model names, before any model loads and anything is written.

    Raises:
        ConfigError: A setting is invalid.
        DataError: A file is invalid.
    """
    from kiloset.inputs import read_inputs
    from kiloset.models import check_models

    settings = _with_model_settings(settings, is_builtin=config is None)
    if isinstance(config, RunConfig):
        stem, options = "run", parse(RunConfig, with_settings(plain_table(asdict(config)), settings))
    else:
        path = config_path(config)
        stem, options = path.stem, load_config(path, settings)
    inputs = read_inputs(options)
    check_models(options)
    return options, inputs, RunFolder(runs / (name or run_name(options, stem, inputs.content())))


def _with_model_settings(settings: Mapping[str, Any], *, is_builtin: bool) -> Mapping[str, Any]:
    """Return the settings with what a config's own models decided, but others do not.

    The config's license is that of its writer. A built-in config also names a base model and a rewriter beside its writer:
    another writer is itself the base model, as without a config, unless its int8 weights cannot be trained; and with another
    writer or base model the base model rewrites.
    """
    from kiloset.engines.embedded import PREFIX, is_writer_only

    name = str(settings.get("models.generator.name") or "")
    is_other = bool(name) and not is_writer_only(name)
    chosen: dict[str, Any] = {}
    if is_builtin and (is_other or settings.get("models.base.name")):
        chosen["models.rewriter.name"] = ""
    if name:
        chosen["models.generator.license"] = "Apache-2.0" if name.startswith(PREFIX) else "unknown"
    if is_builtin and is_other:
        chosen["models.base.name"] = ""
    return chosen | dict(settings)


def config_path(config: str | Path | None) -> Path:
    """Return the config file to use: the given one, or the built-in one for this machine."""
    from kiloset.engines.vllm import has_cuda

    return Path(config) if config else PACKAGE / "configs" / ("gpu.toml" if has_cuda() else "cpu.toml")


def audit_file(path: str | Path, benchmarks: Sequence[str | Path] = (), *, verify: bool = False) -> "FileAudit":
    """Audit an instruction file, or a folder of files; `.faults` lists its faults, the worst first.

    Args:
        path: The file or folder.
        benchmarks: Files whose prompts no row should repeat.
        verify: Also search for answers to another question, with an embedding model.

    Raises:
        DataError: A file is missing or unreadable as a whole, or no line of it holds an example.
        EmptyError: A file is empty.
        ModelError: The embedding model cannot be loaded.
    """
    from kiloset.audit.file_audit import audit_file as audit
    from kiloset.models import embedder_of

    load = partial(embedder_of, progress=Silent()) if verify else None
    return audit(Path(path), [str(benchmark) for benchmark in benchmarks], load)


def compare(first: str | Path, second: str | Path, runs: str | Path = "runs") -> "Comparison":
    """Compare two sets, each a file, a folder of files or a run.

    Raises:
        DataError: There is no such file or run, or no line of it can be read.
    """
    from kiloset.audit.compare import compare as compare_sets

    return compare_sets(str(first), str(second), Path(runs), None)


def train_adapter(
    run: Run | str | Path, settings: Mapping[str, Any] | None = None, progress: Progress | None = None
) -> "TrainReport":
    """Train a LoRA adapter on a run's curated.jsonl; it lies in the run's folder `adapter/`.

    Raises:
        DataError: The run has no valid curated.jsonl.
        ModelError: The base model cannot be loaded, or training diverged.
    """
    from kiloset.engines.embedded import model_path
    from kiloset.models import base_name
    from kiloset.train.lora import train_run

    folder, options = _opened(run, settings)
    with folder.lock():
        return train_run(
            folder, options.train, Path(model_path(base_name(options), "models.base")), progress or Silent()
        )


def evaluate(
    run: Run | str | Path, settings: Mapping[str, Any] | None = None, progress: Progress | None = None,
    adapter: Path | None = None,
) -> "tuple[Evaluation, Evaluation]":  # fmt: skip
    """Evaluate a run's base model and an adapter, the run's own by default, on one suite; return both evaluations.

    Raises:
        DataError: The run has no adapter.
        ModelError: The base model cannot be loaded.
    """
    from kiloset.evaluator import evaluate_adapter

    folder, options = _opened(run, settings)
    with folder.lock():
        return evaluate_adapter(folder, options, adapter or folder.adapter, progress or Silent())


def prove(
    run: Run | str | Path, settings: Mapping[str, Any] | None = None, progress: Progress | None = None
) -> "Proof":
    """Compare a run's curated set with control arms; `.is_proved` is true if it beats random rows and every guard holds.

    Raises:
        ConfigError: The suite does not measure the target.
        DataError: The run has no curated set.
        ModelError: The base model cannot be loaded, or training diverged.
    """
    from kiloset.proof import prove_run

    folder, options = _opened(run, settings)
    with folder.lock():
        return prove_run(folder, options, progress or Silent())


def _opened(run: Run | str | Path, settings: Mapping[str, Any] | None) -> tuple[RunFolder, RunConfig]:
    folder = run.folder if isinstance(run, Run) else Run.open(run).folder
    return folder, load_config(folder.config, settings or {})
