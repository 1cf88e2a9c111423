"""The data card of a set: what it is, how it was made, what is known of it and what is not; the same run gives the same bytes.

Bars of the card are text: they show wherever markdown is read, the hub and a terminal included, and need no second file.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import polars as pl

from kiloset.audit.figures import THRESHOLD
from kiloset.audit.licenses import common_licence, conflicts
from kiloset.audit.report import Audit
from kiloset.core.errors import DataError
from kiloset.publish.facts import Facts, private, rewritten
from kiloset.publish.markdown import bar, fenced, inline, table
from kiloset.publish.metadata import metadata

TEMPLATES = Path(__file__).parent / "templates"
STAGES = {
    "seeds": "{new:,} examples were read: seeds, and rows of an existing set where one was given.",
    "generate": "The generator model was asked for {new:,} instructions, their inputs and their answers; {gone:,} were dropped as they came.",
    "rules": "{gone:,} rows broke a rule that a program checks, such as those of length, repetition, language or a missing input.",
    "near_duplicates": "{gone:,} rows repeated another one almost word for word.",
    "contamination": "{gone:,} rows repeated a prompt of the benchmarks named below, if any.",
    "semantic": "{gone:,} rows said what another one says in other words.",
    "select": "Of {entered:,} rows {kept:,} were selected: as many of each category as wanted and a reserve, unlike each other.",
    "rewrite": "Rewrites of the answers were tried, and taken only where checks of numbers, names, code, negations and length found nothing changed and the base model found them more natural; {gone:,} rows were dropped.",
    "style": "Of {entered:,} rows those with the most even style stayed; {gone:,} of the reserve were given up.",
    "review": "The decisions of a reviewer were applied, if there are any.",
}  # fmt: skip
"""What each stage did, in the order in which a card tells them."""


COLUMNS = {
    "messages": "the conversation: a list of turns, each with role and content", "conversations": "the conversation: a list of turns, each with from and value",
    "instruction": "what is asked", "input": "a text that the task is about, or nothing", "output": "the answer", "id": "the row's name within the run",
    "category": "the kind of task", "source": "generated, pool (an existing set) or seed", "license": "under which the row may be passed on",
    "writer": "the model that first wrote the answer", "strategy": "how the row came about", "constraints": "what the answer must keep, checked by a program",
    "edits": "formal edits by a program that make the answer keep it", "response_source": "reference: as first written; plain or guided: a rewrite",
    "response_reason": "why it is that answer", "review": "what a reviewer did with the row, if anything", "split": "train or validation",
}  # fmt: skip
TOLD = ("id", "category", "source", "license")
HOLDS = {
    "": (
        "messages",
        *TOLD,
        "writer",
        "strategy",
        "constraints",
        "edits",
        "response_source",
        "response_reason",
        "split",
    ),
    "alpaca": ("instruction", "input", "output", *TOLD),
    "sharegpt": ("conversations", *TOLD),
}
"""Columns by layout of an export; the others have `messages` and `TOLD`."""
SMALL = "smollm2-135m"


def card(found: Audit, facts: Facts) -> str:
    """Return the text of README.md: a block of metadata for the hub, and the card.

    Raises:
        DataError: evaluation.json or proof.json is not as it was written.
    """
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    environment = Environment(
        loader=FileSystemLoader(TEMPLATES), autoescape=False, undefined=StrictUndefined, trim_blocks=True,
        lstrip_blocks=True, keep_trailing_newline=True,
    )  # fmt: skip
    environment.filters |= {"inline": inline, "private": private, "number": "{:,}".format, "percent": "{:.1%}".format}
    machine = facts.manifest.get("machine") or {}
    text = environment.get_template("card.md.j2").render(
        found=found, facts=facts, table=table, fenced=fenced, place=json.dumps(facts.place), rewritten=rewritten(found),
        said=facts.setting, short=facts.manifest.get("shortfall") or {}, commit=machine.get("commit"),
        uncommitted=machine.get("uncommitted"), common=common_licence(facts.licences), threshold=THRESHOLD,
        conflicts=conflicts(facts.licences), is_small=SMALL in str(facts.setting("models.generator.name")),
        contaminated=sum(sum(each.dropped.values()) for each in found.funnel if each.stage == "contamination"),
        stale=facts.manifest.get("train", {}).get("rows_sha256") != facts.curated_sha256,
        evaluation=_evaluation(facts), proof=_proof(facts), **_tables(found, facts),
    )  # fmt: skip
    return f"---\n{metadata(found, facts)}\n---\n\n{text}"


def _tables(found: Audit, facts: Facts) -> dict[str, list[tuple[object, ...]]]:
    origins = pl.DataFrame([{"source": source, "rows": rows} for (source, _, _), rows in facts.sources.items()])
    lengths = found.lengths.items()
    holds = HOLDS.get(facts.layout, ("messages", *TOLD)) if facts.layout else facts.columns
    machine = facts.manifest.get("machine") or {}
    packages = ", ".join(f"{name} {version}" for name, version in sorted((machine.get("packages") or {}).items()))
    return {
        "origins": origins.group_by("source").sum().sort("rows", "source", descending=[True, False]).rows(),
        "splits": [(part.split, part.path, part.rows) for part in facts.parts],
        "columns": [(name, COLUMNS.get(name, "")) for name in holds],
        "categories": _categories(found),
        "lengths": [
            (name, said.rows, *(round(said.quantiles[at]) for at in (0, 2, 3, 4))) for name, said in lengths if said.rows
        ],
        "chain": _chain(found),
        "funnel": [
            (each.stage, each.entered, each.created, sum(each.dropped.values()), each.kept) for each in found.funnel
        ],
        "reasons": [(each.stage, reason, rows) for each in found.funnel for reason, rows in each.dropped.items()],
        "strategies": [(name, said.born, said.kept) for name, said in found.strategies.strategies.items()],
        "models": _models(facts),
        "sources": [(source, private(writer), licence, rows) for (source, writer, licence), rows in facts.sources.items()],
        "identity": [
            ("the settings that decide what is in it (sha256)", facts.settings_sha256),
            ("curated.jsonl, which holds the rows (sha256)", facts.curated_sha256),
            ("random seed", str(facts.manifest.get("seed", "not recorded"))),
            ("Python, and packages that a result may depend on", f"{machine.get('python', 'not recorded')}; {packages}"),
        ],
    }  # fmt: skip


def _categories(found: Audit) -> list[tuple[object, ...]]:
    said = found.distribution
    most = max([*said.target.values(), *said.got.values()], default=0)
    rows: list[tuple[object, ...]] = []
    for name in sorted({*said.target, *said.got}):
        got = said.got.get(name, 0)
        points = f"{said.deviations[name]:+.1f}" if name in said.deviations else ""
        target = said.target.get(name, 0) if said.target else ""
        rows.append((name, target, got, f"{got / found.rows:.1%}" if found.rows else "", points, bar(got, most)))
    return rows


def _chain(found: Audit) -> list[tuple[object, ...]]:
    return [
        (
            count.stage,
            STAGES.get(count.stage, "{gone:,} rows were dropped.").format(
                entered=count.entered, new=count.created, kept=count.kept, gone=sum(count.dropped.values())
            ),
        )
        for count in found.funnel
    ]


def _models(facts: Facts) -> list[tuple[object, ...]]:
    """Return the models that took part, each with its revision and its licence as the run's settings say it."""
    seen: dict[str, str] = {}
    for said in facts.manifest.get("stages", {}).values():
        seen |= said.get("models", {})
    does = {
        "generator": "writes instructions, inputs and answers", "rewriter": "rewrites answers",
        "scorer": "the base model: tells what it finds natural",
        "embedder": "turns texts into vectors, for likeness and balance",
    }  # fmt: skip
    return [(text, private(seen[role]), _licence_of(role, seen, facts)) for role, text in does.items() if role in seen]


def _licence_of(role: str, seen: Mapping[str, str], facts: Facts) -> str:
    """Return a model's licence as the settings say it; one that is the generator has the generator's."""
    is_generator = seen[role].split(",")[0] == seen.get("generator")
    name = "generator" if is_generator else {"scorer": "base"}.get(role, role)
    return str(facts.setting(f"models.{name}.license") or "not recorded")


def _evaluation(facts: Facts) -> list[tuple[object, ...]] | None:
    if facts.evaluation is None:
        return None
    try:
        return [
            (name, said["unit"], f"{said['base']:.3f}", f"{said['tuned']:.3f}", _interval(said["difference"]))
            for name, said in facts.evaluation.items()
            if ":" not in name  # a single kind of constraint
        ]
    except (KeyError, TypeError, ValueError, AttributeError):
        raise DataError(
            "KS751", "evaluation.json: not as `make evaluate` writes it; run that again, or delete it"
        ) from None


def _proof(facts: Facts) -> dict[str, Any] | None:
    if facts.proof is None:
        return None
    try:
        target, verdict = str(facts.proof["target"]), str(facts.proof["verdict"])
        arms = []
        for name, figures in facts.proof["figures"].items():
            said = next(one for one in figures if one["metric"] == target)
            against = "" if said["to_random"] is None else _interval(said["to_random"])
            arms.append((name, f"{said['arm']:.3f}", _interval(said["to_base"]), against))
        falls = [str(guard["name"]) for guard in facts.proof["guards"] if guard["change"] > guard["limit"]]
    except (KeyError, TypeError, ValueError, AttributeError, StopIteration):
        raise DataError(
            "KS752", "prove/proof.json: not as `make prove` writes it; run that again, or delete it"
        ) from None
    return {"target": target, "verdict": verdict, "arms": arms, "falls": falls}


def _interval(said: Mapping[str, float]) -> str:
    return f"{said['value']:+.3f} ({said['low']:+.3f} to {said['high']:+.3f})"
