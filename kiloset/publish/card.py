"""The data card of a set: what it is, how it was made, what is known about it and what is not. The same run gives the same bytes.

The bars of the card are text: they appear wherever markdown is shown, the hub and a terminal included, and need no second file.
"""

import hashlib
import json
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from kiloset.audit.figures import THRESHOLD
from kiloset.audit.licenses import NOT_STATED, common_licence, conflicts, normal_id
from kiloset.audit.run_audit import Audit
from kiloset.audit.safe_text import visible
from kiloset.core.blind_sample import whole_precision
from kiloset.core.errors import DataError
from kiloset.core.run import RunFolder, file_sha256, write_text
from kiloset.publish.facts import Facts, Part, gather_facts, private
from kiloset.publish.markdown import bar, fenced, inline, table

CARD = "README.md"
FOLDER = "path/to/this/folder"
"""What the card names as the folder to load, if it is not known."""
TEMPLATES = Path(__file__).parent / "templates"
STAGES = {
    "seeds": "{new:,} examples were read: seeds, and rows of an existing set if one was given.",
    "generate": "The generator model was prompted for {new:,} instructions, their inputs and their answers; {dropped:,} were dropped at once.",
    "rules": "{dropped:,} rows broke a rule that a program checks, for example on length, repetition, language or a missing input.",
    "near_duplicates": "{dropped:,} rows repeated another row almost word for word.",
    "contamination": "{dropped:,} rows repeated a prompt of the benchmarks named below, if any.",
    "semantic": "{dropped:,} rows had the same meaning as another row.",
    "score": "The quality of each row was measured; {aside:,} seeds were set aside, because they stay out of the set.",
    "select": "Of {entered:,} rows {kept:,} were selected: the wanted number of each category and a reserve, as different from each other as possible.",
    "rewrite": "Rewrites of the answers were tried. A rewrite was taken only if checks of numbers, names, code, negations and length found no change and the base model found it more natural. {dropped:,} rows were dropped.",
    "style": "Of {entered:,} rows the ones with the most uniform style were kept; {dropped:,} rows of the reserve were dropped.",
    "review": "The decisions of a reviewer were applied, if there are any.",
}  # fmt: skip
"""What each stage did."""
COLUMNS = {
    "messages": "the conversation: a list of turns, each with role and content", "conversations": "the conversation: a list of turns, each with from and value",
    "instruction": "the task", "input": "a text that the task refers to, or nothing", "output": "the answer", "id": "the row's name within the run",
    "category": "the kind of task", "source": "generated, pool (an existing set) or seed", "license": "the licence under which the row may be passed on",
    "writer": "the model that first wrote the answer", "strategy": "how the row was generated", "constraints": "constraints that the answer satisfies, checked by a program",
    "edits": "edits by a program that make the answer satisfy them", "response_source": "reference: as first written; plain or guided: a rewrite",
    "response_reason": "why the row has that answer", "review": "a reviewer's decision on the row, if any", "split": "train or validation",
}  # fmt: skip
SHARED = ("id", "category", "source", "license")
LAYOUT_COLUMNS = {
    "alpaca": ("instruction", "input", "output", *SHARED),
    "sharegpt": ("conversations", *SHARED),
}
"""Columns by layout of an export; the others have `messages` and `SHARED`."""
ROLES = {
    "generator": "writes instructions, inputs and answers", "rewriter": "rewrites answers",
    "scorer": "the base model: scores how natural an answer is",
    "embedder": "turns texts into vectors, for similarity and balance",
}  # fmt: skip
SMALL = "smollm2-135m"
SIZES = (
    (1_000, "n<1K"),
    (10_000, "1K<n<10K"),
    (100_000, "10K<n<100K"),
    (1_000_000, "100K<n<1M"),
    (10_000_000, "1M<n<10M"),
)
HUB_LICENCES = frozenset((
    "apache-2.0", "mit", "openrail", "bigscience-openrail-m", "creativeml-openrail-m", "bigscience-bloom-rail-1.0",
    "bigcode-openrail-m", "afl-3.0", "artistic-2.0", "bsl-1.0", "bsd", "bsd-2-clause", "bsd-3-clause",
    "bsd-3-clause-clear", "c-uda", "cc", "cc0-1.0", "cc-by-2.0", "cc-by-2.5", "cc-by-3.0", "cc-by-4.0",
    "cc-by-sa-3.0", "cc-by-sa-4.0", "cc-by-nc-2.0", "cc-by-nc-3.0", "cc-by-nc-4.0", "cc-by-nd-4.0", "cc-by-nc-nd-3.0",
    "cc-by-nc-nd-4.0", "cc-by-nc-sa-2.0", "cc-by-nc-sa-3.0", "cc-by-nc-sa-4.0", "cdla-sharing-1.0",
    "cdla-permissive-1.0", "cdla-permissive-2.0", "wtfpl", "ecl-2.0", "epl-1.0", "epl-2.0", "etalab-2.0", "eupl-1.1",
    "eupl-1.2", "agpl-3.0", "gfdl", "gpl", "gpl-2.0", "gpl-3.0", "lgpl", "lgpl-2.1", "lgpl-3.0", "isc", "lppl-1.3c",
    "ms-pl", "mpl-2.0", "odc-by", "odbl", "openrail++", "osl-3.0", "postgresql", "ofl-1.1", "ncsa", "unlicense",
    "zlib", "pddl", "lgpl-lr", "deepfloyd-if-license", "llama2", "llama3", "llama3.1", "llama3.2", "llama3.3",
    "llama4", "gemma",
))  # fmt: skip
"""Licence identifiers of the hub (its documentation, "Licenses")."""


def write_card(folder: RunFolder, *, force: bool) -> None:
    """Write README.md into a run's folder.

    Its sha256 goes to the manifest, so that a later edit is noticed.

    Raises:
        DataError: README.md was not written by Kiloset or was edited, unless `force`; it cannot be written, or a file of the run
            cannot be read.
        ConfigError: config.toml is invalid.
        EmptyError: curated.jsonl has no row.
    """
    path, written = folder.path / CARD, folder.manifest.get("card_sha256")
    if path.exists() and not force and file_sha256(path) != written:
        raise DataError("KS753", f"{path}: not written by `kiloset card`, or edited since; --force replaces it")
    text = card_text(folder, "", ())
    # In the manifest first, as for curated.jsonl: if the process is killed in between, the file does not look edited.
    folder.update_manifest({"card_sha256": hashlib.sha256(text.encode()).hexdigest()})
    try:
        write_text(path, text)
    except OSError as error:
        raise DataError("KS754", f"{path}: cannot be written ({error.strerror})") from None


def card_text(folder: RunFolder, layout: str, parts: Sequence[Part], place: str = FOLDER) -> str:
    """Return the data card of a run's curated.jsonl; arguments and errors as of `kiloset.publish.facts.gather_facts`."""
    return card(gather_facts(folder, layout, parts, place))


def card(facts: Facts) -> str:
    """Return the text of README.md: a block of metadata for the hub, and the card.

    Raises:
        DataError: evaluation.json or proof.json does not have the structure that Kiloset writes.
    """
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    environment = Environment(
        loader=FileSystemLoader(TEMPLATES), autoescape=False, undefined=StrictUndefined, trim_blocks=True,
        lstrip_blocks=True, keep_trailing_newline=True,
    )  # fmt: skip
    environment.filters |= {"inline": inline, "private": private, "number": "{:,}".format, "percent": "{:.1%}".format}
    report, machine = facts.audit, facts.manifest.get("machine") or {}
    text = environment.get_template("card.md.j2").render(
        report=report, precision=str(whole_precision(report.precision.values())), facts=facts, table=table,
        fenced=fenced, place=json.dumps(facts.place), setting=facts.setting,
        short=facts.manifest.get("shortfall") or {}, commit=machine.get("commit"), uncommitted=machine.get("uncommitted"),
        common=common_licence(facts.licences), threshold=THRESHOLD, conflicts=conflicts(facts.licences),
        is_small=SMALL in str(facts.setting("models.generator.name")),
        contaminated=sum(stage.dropped_rows for stage in report.funnel if stage.stage == "contamination"),
        stale=facts.manifest.get("train", {}).get("rows_sha256") != facts.curated_sha256,
        evaluation=_evaluation(facts), proof=_proof(facts), **_tables(facts),
    )  # fmt: skip
    return f"---\n{metadata(facts)}\n---\n\n{text}"


def metadata(facts: Facts) -> str:
    """Return the YAML that the hub indexes a set by, and that `datasets` loads it by."""
    from huggingface_hub import DatasetCardData

    sources, edits = {source for source, _, _ in facts.sources}, facts.audit.edits
    creators = {
        "machine-generated": "generated" in sources or facts.rewrites > 0,
        "expert-generated": edits is not None and edits.changed + edits.added > 0,
        "found": "pool" in sources,
        "other": bool(sources - {"generated", "pool"}),
    }
    data = DatasetCardData(
        pretty_name=" ".join(visible(facts.audit.name, 100).split()),
        language=list(facts.languages) or None,
        **_license(facts.licences),
        size_categories=[next((name for most, name in SIZES if facts.audit.rows < most), "n>10M")],
        task_categories=["text-generation"],
        tags=["instruction-tuning", "kiloset", *(["synthetic"] if creators["machine-generated"] else [])],
        annotations_creators=["machine-generated"],
        language_creators=[name for name, took_part in creators.items() if took_part],
        source_datasets=["extended" if "pool" in sources else "original"],
        configs=_configs(facts),
    )
    return str(data.to_yaml())


def _license(licences: Mapping[str, int]) -> dict[str, str]:
    """Return the hub's id of the licence for all rows; without one it is `other`, with a name."""
    if all(normal_id(name) in NOT_STATED for name in licences):
        return {"license": "unknown"}
    common = re.sub("-(only|or-later)$", "", common_licence(licences) or "")
    if common in HUB_LICENCES:
        return {"license": common}
    slug = re.sub(r"[^a-z0-9.+]+", "-", common).strip("-")[:60]
    return {"license": "other", "license_name": slug or "see-the-licences-of-the-rows"}


def _configs(facts: Facts) -> list[dict[str, Any]] | None:
    if facts.layout == "hf":  # load_dataset refuses this format
        return None
    files: Any = facts.parts[0].path
    if facts.layout:
        files = [{"split": part.split, "path": part.path} for part in facts.parts]
    return [{"config_name": "default", "data_files": files}]


def _tables(facts: Facts) -> dict[str, list[tuple[object, ...]]]:
    report, machine = facts.audit, facts.manifest.get("machine") or {}
    origins = Counter[str]()
    for (source, _, _), rows in facts.sources.items():
        origins[source] += rows
    columns = LAYOUT_COLUMNS.get(facts.layout, ("messages", *SHARED)) if facts.layout else facts.columns
    packages = ", ".join(f"{name} {version}" for name, version in sorted((machine.get("packages") or {}).items()))
    return {
        "origins": [(source, origins[source]) for source in sorted(origins, key=lambda name: (-origins[name], name))],
        "splits": [(part.split, part.path, part.rows) for part in facts.parts],
        "columns": [(name, COLUMNS.get(name, "")) for name in columns],
        "categories": _categories(report),
        "lengths": [
            (name, one.rows, *(round(one.quantiles[at]) for at in (0, 2, 3, 4)))
            for name, one in report.lengths.items()
            if one.rows
        ],
        "chain": _chain(report),
        "funnel": [(each.stage, each.entered, each.created, each.dropped_rows, each.set_aside, each.kept) for each in report.funnel],
        "reasons": [(each.stage, reason, rows) for each in report.funnel for reason, rows in each.dropped.items()],
        "strategies": [(name, one.candidates, one.kept) for name, one in report.strategies.strategies.items()],
        "models": _models(facts),
        "sources": [(source, private(writer), licence, rows) for (source, writer, licence), rows in facts.sources.items()],
        "identity": [
            ("the settings that decide the rows (sha256)", facts.settings_sha256),
            ("curated.jsonl, which contains the rows (sha256)", facts.curated_sha256),
            ("random seed", str(facts.manifest.get("seed", "not recorded"))),
            ("Python, and packages that a result may depend on", f"{machine.get('python', 'not recorded')}; {packages}"),
        ],
    }  # fmt: skip


def _categories(report: Audit) -> list[tuple[object, ...]]:
    result = report.distribution
    most = max([*result.target.values(), *result.result.values()], default=0)
    lines: list[tuple[object, ...]] = []
    for name in sorted({*result.target, *result.result}):
        rows = result.result.get(name, 0)
        points = f"{result.deviations[name]:+.1f}" if name in result.deviations else ""
        target = result.target.get(name, 0) if result.target else ""
        lines.append((name, target, rows, f"{rows / report.rows:.1%}" if report.rows else "", points, bar(rows, most)))
    return lines


def _chain(report: Audit) -> list[tuple[object, ...]]:
    return [
        (
            count.stage,
            STAGES.get(count.stage, "{dropped:,} rows were dropped.").format(
                entered=count.entered,
                new=count.created,
                kept=count.kept,
                dropped=count.dropped_rows,
                aside=count.set_aside,
            ),
        )
        for count in report.funnel
    ]


def _models(facts: Facts) -> list[tuple[object, ...]]:
    """Return the models that took part, each with its revision and the licence that the run's settings state."""
    models = facts.models

    def licence_of(role: str) -> str:
        # A model that is the generator has the generator's licence.
        is_generator = models[role].split(",")[0] == models.get("generator")
        name = "generator" if is_generator else {"scorer": "base"}.get(role, role)
        return str(facts.setting(f"models.{name}.license") or "not recorded")

    return [(task, private(models[role]), licence_of(role)) for role, task in ROLES.items() if role in models]


def _evaluation(facts: Facts) -> list[tuple[object, ...]] | None:
    if facts.evaluation is None:
        return None
    try:
        return [
            (name, one["unit"], f"{one['base']:.3f}", f"{one['tuned']:.3f}", _interval(one["difference"]))
            for name, one in facts.evaluation.items()
            if ":" not in name  # a single kind of constraint
        ]
    except (KeyError, TypeError, ValueError, AttributeError):
        raise DataError(
            "KS751", "evaluation.json: not as `kiloset evaluate` writes it; run that again, or delete the file"
        ) from None


def _proof(facts: Facts) -> dict[str, Any] | None:
    if facts.proof is None:
        return None
    try:
        target, verdict = str(facts.proof["target"]), str(facts.proof["verdict"])
        arms = []
        for name, figures in facts.proof["figures"].items():
            one = next(figure for figure in figures if figure["metric"] == target)
            to_random = "" if one["to_random"] is None else _interval(one["to_random"])
            arms.append((name, f"{one['arm']:.3f}", _interval(one["to_base"]), to_random))
        worse = [str(guard["name"]) for guard in facts.proof["guards"] if guard["change"] > guard["limit"]]
    except (KeyError, TypeError, ValueError, AttributeError, StopIteration):
        raise DataError(
            "KS752", "prove/proof.json: not as `kiloset prove` writes it; run that again, or delete the file"
        ) from None
    return {"target": target, "verdict": verdict, "arms": arms, "worse": worse}


def _interval(one: Mapping[str, float]) -> str:
    return f"{one['value']:+.3f} ({one['low']:+.3f} to {one['high']:+.3f})"
