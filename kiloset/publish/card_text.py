"""Writes the data card of a run: README.md in its folder, and the text of one for an export of it."""

import hashlib
import json
import shlex
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, fields, is_dataclass
from typing import Any

import polars as pl
import tomli_w

from kiloset.audit.escaping import shown
from kiloset.audit.reading import read_stages
from kiloset.audit.report import Audit, audit
from kiloset.core.errors import DataError
from kiloset.core.review import read_decisions
from kiloset.core.run import RunFolder, file_sha256, sha256_of, write_text
from kiloset.data.curated import read_curated
from kiloset.filters.languages import languages_known
from kiloset.filters.personal import personal_rows
from kiloset.filters.rules import RulesConfig
from kiloset.publish.card import card
from kiloset.publish.export import export_rows
from kiloset.publish.facts import Facts, Part, private, rewritten
from kiloset.settings import RunConfig, data_relevant, load_config

CARD = "README.md"
ELSEWHERE = "path/to/this/folder"
SUFFIXES = {"parquet": ".parquet", "hf": ""}
"""What an export's files end with; the others are .jsonl."""
EXAMPLES, CHARACTERS = 3, 400
"""Rows shown, and the longest text shown of one."""
NOT_TOLD = {"engine": ("base_url", "api_key_env")}
"""Settings of a machine that are nobody else's business."""


def write_card(folder: RunFolder, *, force: bool) -> None:
    """Write README.md into a run's folder.

    Its sha256 is kept in the manifest, by which a later edit is noticed.

    Raises:
        DataError: There is a README.md that we did not write or that was edited, unless `force`; it cannot be written, or a file
            of the run cannot be read.
        ConfigError: config.toml is not one.
        EmptyError: curated.jsonl has no row.
    """
    path, written = folder.path / CARD, folder.manifest.get("card_sha256")
    if path.exists() and not force and file_sha256(path) != written:
        raise DataError("KS753", f"{path}: was not written by `kiloset card`, or was edited since; --force replaces it")
    text = card_text(folder, "", ())
    # Known before it is there, as for curated.jsonl: a kill in between must not look like an edit.
    folder.update_manifest({"card_sha256": hashlib.sha256(text.encode()).hexdigest()})
    try:
        write_text(path, text)
    except OSError as error:
        raise DataError("KS754", f"{path}: cannot be written ({error.strerror})") from None


def card_text(folder: RunFolder, layout: str, files: Sequence[Part], place: str = ELSEWHERE) -> str:
    """Return the data card of a run's curated.jsonl, edits by hand included; arguments and errors as those of `described`."""
    return card(*described(folder, layout, files, place))


def described(folder: RunFolder, layout: str, files: Sequence[Part], place: str = ELSEWHERE) -> tuple[Audit, Facts]:
    """Return what a data card tells of a run's curated.jsonl.

    Args:
        folder: The run; it is only read.
        layout: That of the export which the card goes with, "" for the run's folder.
        files: Its files (`parts_of`); for the run's folder none.
        place: What `load_dataset` is given: a repository, or a folder.

    Raises:
        DataError: A file of the run cannot be read.
        ConfigError: config.toml is not one.
        EmptyError: curated.jsonl has no row.
    """
    found = audit(folder, 0)
    stages, _ = read_stages(folder)
    rows, _ = export_rows(folder, stages[-1][1], single_turn=False)
    config = load_config(folder.config, []) if folder.config.exists() else None
    if not files:
        counts = Counter(rows["split"])
        files = [Part(split, folder.curated.name, counts[split]) for split in sorted(counts)]
    texts = [turn["content"] for turns in rows["messages"] for turn in turns]
    personal = personal_data(rows, config)
    facts = Facts(
        manifest=folder.manifest,
        settings={} if config is None else asdict(config),
        changed="" if config is None else tomli_w.dumps(_changed(config, RunConfig())),
        settings_sha256="not recorded" if config is None else sha256_of(data_relevant(config)),
        curated_sha256=file_sha256(folder.curated),
        command=f"kiloset dataset --config config.toml --run {shlex.quote(found.name)}",
        layout=layout,
        columns=read_curated(folder.curated).columns,
        parts=files,
        place=place,
        given=_given(stages[0][1]),
        sources=_sources(rows, found.table),
        rewriter=_rewriter(config, folder.manifest) if rewritten(found) else None,
        examples=_examples(rows.filter(~pl.col("id").is_in(personal["id"].to_list()))),
        personal=dict(sorted(Counter(personal["kind"]).items())),
        languages=languages_known(texts),
        decisions=dict(sorted(Counter(said.verdict for said in read_decisions(folder.review).values()).items())),
        evaluation=_read(folder, "evaluation.json"),
        proof=_read(folder, "prove/proof.json"),
    )
    return found, facts


def parts_of(layout: str, rows: Mapping[str, int]) -> list[Part]:
    """Return the files of an export, by what it says of its rows on each side."""
    return [Part(split, f"{split}{SUFFIXES.get(layout, '.jsonl')}", count) for split, count in rows.items() if count]


def personal_data(rows: pl.DataFrame, config: RunConfig | None) -> pl.DataFrame:
    """Return the personal data in rows of `export_rows`, every turn read, edits by hand included (`kiloset.filters.personal`)."""
    told = [
        {
            "id": id,
            "instruction": "\n\n".join(turn["content"] for turn in turns if turn["role"] == "user"),
            "input": "",
            "response": "\n\n".join(turn["content"] for turn in turns if turn["role"] != "user"),
        }
        for id, turns in rows.select("id", "messages").iter_rows()
    ]
    rules = config.rules if config is not None else RulesConfig()
    return personal_rows(pl.DataFrame(told), rules.phone_regions)


def _sources(rows: pl.DataFrame, table: pl.DataFrame) -> dict[tuple[str, str, str], int]:
    """Count rows by source, writer and licence, most first; curated.jsonl names source and licence, the last stage the writer."""
    writers = dict(table.select("id", "writer").iter_rows()) if "writer" in table.columns else {}
    counts = Counter(
        (source, writers.get(id) or "not recorded", licence)
        for id, source, licence in rows.select("id", "source", "license").iter_rows()
    )
    return dict(sorted(counts.items(), key=lambda pair: (-pair[1], pair[0])))


def _given(first: pl.DataFrame) -> dict[str, dict[str, int]]:
    """Count what a run began with, by source and licence, most first."""
    found: dict[str, dict[str, int]] = {}
    counts = first.group_by("source", "license").len().sort("len", "license", descending=[True, False])
    for source, licence, rows in counts.iter_rows():
        found.setdefault(source, {})[licence] = rows
    return found


def _rewriter(config: RunConfig | None, manifest: Mapping[str, Any]) -> str | None:
    """Return the licence of the model that rewrites, None where it is the generator or is not recorded."""
    seen: dict[str, str] = {}
    for said in manifest.get("stages", {}).values():
        seen |= said.get("models", {})
    if config is None or seen.get("rewriter") == seen.get("generator"):
        return None
    return config.models.rewriter.license if config.models.rewriter.name else config.models.base.license


def _examples(rows: pl.DataFrame) -> list[tuple[str, str, str]]:
    """Return some rows of different categories, always the same ones."""
    order = sorted(rows.iter_rows(named=True), key=lambda row: hashlib.sha256(f"card/{row['id']}".encode()).digest())
    firsts: dict[str, tuple[str, str, str]] = {}
    for row in order:
        asked = "\n\n".join(turn["content"] for turn in row["messages"] if turn["role"] == "user")
        shortened = (shown(asked, CHARACTERS), shown(row["messages"][-1]["content"], CHARACTERS))
        firsts.setdefault(row["category"], (row["category"], *shortened))
    return list(firsts.values())[:EXAMPLES]


def _changed(config: Any, default: Any, where: str = "") -> dict[str, Any]:
    """Return the settings that are not as by default, as tables; paths of somebody's machine by their last part."""
    found: dict[str, Any] = {}
    for field in fields(config):
        value, usual = getattr(config, field.name), getattr(default, field.name)
        if is_dataclass(value):
            if inner := _changed(value, usual, field.name):
                found[field.name] = inner
        elif value != usual and value is not None and field.name not in NOT_TOLD.get(where, ()):
            found[field.name] = _told(value)
    return found


def _told(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {name: _told(inner) for name, inner in value.items()}
    if isinstance(value, (list, tuple)):
        return [_told(inner) for inner in value]
    return private(value) if isinstance(value, str) else value


def _read(folder: RunFolder, name: str) -> dict[str, Any] | None:
    path = folder.path / name
    if not path.exists():
        return None
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise DataError("KS755", f"{path}: cannot be read ({error}); run it again, or delete it") from None
    if not isinstance(found, dict):
        raise DataError(
            "KS756", f"{path}: must hold an object, found {type(found).__name__}; run it again, or delete it"
        )
    return found
