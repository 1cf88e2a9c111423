"""The facts of a data card: the audit of the run, and what else its folder records."""

import hashlib
import json
import re
import shlex
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields, is_dataclass
from typing import Any

import polars as pl
import tomli_w

from kiloset.audit.run_audit import Audit, audit
from kiloset.audit.run_folder import read_stages
from kiloset.audit.safe_text import visible
from kiloset.core.errors import DataError
from kiloset.core.review import read_decisions
from kiloset.core.run import RunFolder, file_sha256, sha256_of
from kiloset.data.curated import read_curated
from kiloset.filters.languages import languages_known
from kiloset.filters.personal import personal_rows
from kiloset.filters.rules import RulesConfig
from kiloset.publish.export import export_rows
from kiloset.settings import RunConfig, data_relevant, load_config

SUFFIXES = {"parquet": ".parquet", "hf": ""}
"""Endings of an export's files; the other layouts have .jsonl."""
EXAMPLES, CHARACTERS = 3, 400
"""Rows shown, and the longest text shown of each."""
PRIVATE_SETTINGS = {"engine": ("base_url", "api_key_env")}
"""Settings of a machine that the card leaves out."""


@dataclass(frozen=True, slots=True)
class Part:
    """A file, or a folder, with the rows of one split."""

    split: str
    path: str
    """Relative to the folder of the card."""
    rows: int


@dataclass(frozen=True, slots=True)
class Facts:
    """Everything that a data card states."""

    audit: Audit
    manifest: Mapping[str, Any]
    settings: Mapping[str, Any]
    """The tables of config.toml, defaults included; {} without the file."""
    changed: str
    """TOML of the settings that differ from the defaults."""
    settings_sha256: str
    curated_sha256: str
    command: str
    """The command that makes the set again."""
    layout: str
    """Layout of the export; "" for curated.jsonl in the run's folder."""
    columns: Sequence[str]
    """Columns of curated.jsonl, in order."""
    parts: Sequence[Part]
    place: str
    """The argument of `load_dataset`."""
    inputs: Mapping[str, Mapping[str, int]]
    """Rows of seeds and of the existing set at the start of the run, by source and licence."""
    sources: Mapping[tuple[str, str, str], int]
    """Rows by source, writer and licence, most first."""
    rewriter: str | None
    """Licence of the model that rewrote answers of the set; None if that is the generator, or no answer is a rewrite."""
    examples: Sequence[tuple[str, str, str]]
    """Category, user turn and answer of some rows."""
    personal: Mapping[str, int]
    """Pieces of personal data in the set, by kind."""
    languages: Sequence[str]
    """ISO 639 codes of the recognised languages of the set."""
    decisions: Mapping[str, int]
    """Current decisions of a review, by verdict."""
    evaluation: Mapping[str, Any] | None
    """evaluation.json."""
    proof: Mapping[str, Any] | None
    """prove/proof.json."""

    @property
    def licences(self) -> dict[str, int]:
        """Rows by licence, in alphabetical order; the licence of a model that rewrote answers counts as one row."""
        counts = Counter({} if self.rewriter is None else {self.rewriter: 1})
        for (_, _, licence), rows in self.sources.items():
            counts[licence] += rows
        return dict(sorted(counts.items()))

    @property
    def rewrites(self) -> int:
        """Answers of the set that are rewrites."""
        return 0 if self.audit.rewriting is None else self.audit.rewriting.rewrites

    @property
    def models(self) -> dict[str, str]:
        """The identity of each model that took part, by role."""
        models: dict[str, str] = {}
        for stage in self.manifest.get("stages", {}).values():
            models |= stage.get("models", {})
        return models

    def setting(self, dotted: str) -> Any:
        """Return a setting, None if it is not recorded."""
        value: Any = self.settings
        for name in dotted.split("."):
            value = value.get(name) if isinstance(value, Mapping) else None
        return value


def gather_facts(folder: RunFolder, layout: str, parts: Sequence[Part], place: str) -> Facts:
    """Return the facts about a run's curated.jsonl, edits by hand included.

    Args:
        folder: The run; it is only read.
        layout: Layout of the export that the card belongs to, "" for the run's folder.
        parts: The export's files (`parts_of`); () for the run's folder.
        place: The argument of `load_dataset`: a repository, or a folder.

    Raises:
        DataError: A file of the run cannot be read.
        ConfigError: config.toml is invalid.
        EmptyError: curated.jsonl has no row.
    """
    report = audit(folder, 0)
    stages, _ = read_stages(folder)
    rows, _ = export_rows(folder, stages[-1][1], single_turn=False)
    config = load_config(folder.config) if folder.config.exists() else None
    if not parts:
        counts = Counter(rows["split"])
        parts = [Part(split, folder.curated.name, counts[split]) for split in sorted(counts)]
    personal = personal_data(rows, config)
    manifest = folder.manifest
    return Facts(
        audit=report,
        manifest=manifest,
        settings={} if config is None else asdict(config),
        changed="" if config is None else tomli_w.dumps(_changed(config, RunConfig())),
        settings_sha256="not recorded" if config is None else sha256_of(data_relevant(config)),
        curated_sha256=file_sha256(folder.curated),
        command=f"kiloset dataset --config config.toml --run {shlex.quote(report.name)}",
        layout=layout,
        columns=read_curated(folder.curated).columns,
        parts=parts,
        place=place,
        inputs=_inputs(stages[0][1]),
        sources=_sources(rows, report.table),
        rewriter=_rewriter(config, manifest) if report.rewriting and report.rewriting.rewrites else None,
        examples=_examples(rows.filter(~pl.col("id").is_in(personal["id"].to_list()))),
        personal=dict(sorted(Counter(personal["kind"]).items())),
        languages=languages_known([turn["content"] for turns in rows["messages"] for turn in turns]),
        decisions=dict(sorted(Counter(each.verdict for each in read_decisions(folder.review).values()).items())),
        evaluation=_read(folder, "evaluation.json"),
        proof=_read(folder, "prove/proof.json"),
    )


def parts_of(layout: str, rows: Mapping[str, int]) -> list[Part]:
    """Return the files of an export, given the rows of each split."""
    return [Part(split, f"{split}{SUFFIXES.get(layout, '.jsonl')}", count) for split, count in rows.items() if count]


def personal_data(rows: pl.DataFrame, config: RunConfig | None) -> pl.DataFrame:
    """Return the personal data in every turn of rows (`kiloset.filters.personal`), edits by hand included."""
    texts = [
        {
            "id": id,
            "instruction": "\n\n".join(turn["content"] for turn in turns if turn["role"] == "user"),
            "input": "",
            "response": "\n\n".join(turn["content"] for turn in turns if turn["role"] != "user"),
        }
        for id, turns in rows.select("id", "messages").iter_rows()
    ]
    rules = config.rules if config is not None else RulesConfig()
    return personal_rows(pl.DataFrame(texts), rules.phone_regions)


def private(text: object) -> str:
    """Return the last part of a path of a machine, and a model on a server without the server's address."""
    line = str(text)
    if re.match(r"/|~|\.\.|[A-Za-z]:[\\/]|\\\\|file:", line):
        line = re.split(r"[\\/]", line.rstrip("/\\"))[-1]
    return re.sub(r"@(?=[^\s@,]*[./:]|localhost)[^\s@,]+", "@(a server)", line)


def _sources(rows: pl.DataFrame, table: pl.DataFrame) -> dict[tuple[str, str, str], int]:
    """Count rows by source, writer and licence, most first; a row added by hand has no recorded writer."""
    writers = dict(table.select("id", "writer").iter_rows()) if "writer" in table.columns else {}
    counts = Counter(
        (source, writers.get(id) or "not recorded", licence)
        for id, source, licence in rows.select("id", "source", "license").iter_rows()
    )
    return dict(sorted(counts.items(), key=lambda pair: (-pair[1], pair[0])))


def _inputs(first: pl.DataFrame) -> dict[str, dict[str, int]]:
    """Count the rows at the start of a run, by source and licence, most first."""
    inputs: dict[str, dict[str, int]] = {}
    counts = first.group_by("source", "license").len().sort("len", "license", descending=[True, False])
    for source, licence, rows in counts.iter_rows():
        inputs.setdefault(source, {})[licence] = rows
    return inputs


def _rewriter(config: RunConfig | None, manifest: Mapping[str, Any]) -> str | None:
    """Return the licence of the model that rewrites, None if it is the generator or not recorded."""
    models: dict[str, str] = {}
    for stage in manifest.get("stages", {}).values():
        models |= stage.get("models", {})
    if config is None or models.get("rewriter") == models.get("generator"):
        return None
    return config.models.rewriter.license if config.models.rewriter.name else config.models.base.license


def _examples(rows: pl.DataFrame) -> list[tuple[str, str, str]]:
    """Return some rows of different categories, always the same ones."""
    order = sorted(rows.iter_rows(named=True), key=lambda row: hashlib.sha256(f"card/{row['id']}".encode()).digest())
    firsts: dict[str, tuple[str, str, str]] = {}
    for row in order:
        texts = (visible(row["user"], CHARACTERS), visible(row["response"], CHARACTERS))
        firsts.setdefault(row["category"], (row["category"], *texts))
    return list(firsts.values())[:EXAMPLES]


def _changed(config: Any, default: Any, where: str = "") -> dict[str, Any]:
    """Return the settings that differ from the defaults, as tables; a path of a machine by its last part."""
    changed: dict[str, Any] = {}
    for field in fields(config):
        value, usual = getattr(config, field.name), getattr(default, field.name)
        if is_dataclass(value):
            if inner := _changed(value, usual, field.name):
                changed[field.name] = inner
        elif value != usual and value is not None and field.name not in PRIVATE_SETTINGS.get(where, ()):
            changed[field.name] = _without_paths(value)
    return changed


def _without_paths(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {name: _without_paths(inner) for name, inner in value.items()}
    if isinstance(value, (list, tuple)):
        return [_without_paths(inner) for inner in value]
    return private(value) if isinstance(value, str) else value


def _read(folder: RunFolder, name: str) -> dict[str, Any] | None:
    path = folder.path / name
    if not path.exists():
        return None
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise DataError("KS755", f"{path}: cannot be read ({error}); run it again, or delete it") from None
    if not isinstance(record, dict):
        raise DataError("KS756", f"{path}: must be an object, got {type(record).__name__}; run it again, or delete it")
    return record
