"""The whole life of one row: birth, completions, stages, rewrites, and where it ended, from the run folder alone."""

import json
from collections.abc import Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from difflib import get_close_matches
from typing import Any

import polars as pl
from rich.console import Console

from kiloset.audit.reading import read_stages
from kiloset.audit.terminal import cell, literal, print_heading
from kiloset.core.calls import CallStore
from kiloset.core.errors import DataError
from kiloset.core.run import RunFolder
from kiloset.core.table import ROW, VERDICT
from kiloset.data.curated import read_curated

PROMPT_TAIL = 600
"""Characters of a prompt shown unless all of it is asked for; the end holds what differs between prompts."""


@dataclass(frozen=True, slots=True)
class Relative:
    """Another row that had to do with this one."""

    id: str
    instruction: str
    """"" where the run folder does not hold that row."""
    note: str = ""


@dataclass(frozen=True, slots=True)
class Passage:
    """A stage that the row went through."""

    stage: str
    kept: bool
    added: dict[str, Any]
    """The columns this stage added, with the row's values that are not null; `rewrites` stands apart."""


@dataclass(frozen=True, slots=True)
class Life:
    """Everything a run folder knows of one row."""

    row: dict[str, Any]
    """The row as it was when it left the flow, or as the last stage kept it."""
    parents: list[Relative]
    calls: list[dict[str, Any] | str]
    """The completions it was made from, as stored; only the key where calls.sqlite does not hold it."""
    passages: list[Passage]
    rewrites: list[dict[str, Any]]
    ended: str
    """Where it ended, in one sentence."""
    verdict: dict[str, Any] | None
    """Stage, reason, evidence, measured, limit and twin of a dropped row."""
    twin: Relative | None
    """The row it duplicates or lost to."""
    won: list[Relative]
    """Rows dropped in its favour; the note says where and why."""


def explain(run: RunFolder, row_id: str) -> Life:
    """Gather one row's life.

    Raises:
        DataError: The folder is no run, a file in it is broken, or no row has this id; the nearest ids are named.
    """
    run.require()
    stages, ledger = read_stages(run)
    gone = ledger.filter(pl.col("id") == row_id).to_dicts()
    passages, row = _passages(stages, gone[0] if gone else None, row_id)
    texts = dict(
        pair
        for table in (*(kept for _, kept in stages), ledger)
        for pair in table.select("id", "instruction").iter_rows()
    )
    curated = dict(read_curated(run.curated).rows.select("id", "split").iter_rows()) if run.curated.exists() else None
    if row is None:
        raise DataError("KS653", f"{run.path}: no row {row_id!r}{_hint(row_id, texts, curated or {})}")
    won = ledger.filter(pl.col("twin") == row_id).select("id", "stage", "reason").iter_rows()
    verdict = {name: row[name] for name in VERDICT} if gone else None
    twin = verdict["twin"] if verdict else None
    return Life(
        row=row,
        parents=[Relative(id, texts.get(id, "")) for id in row["parents"] or []],
        calls=_calls(run, row["calls"] or []),
        passages=passages,
        rewrites=row.get("rewrites") or [],
        ended=_ending(row_id, verdict, passages, curated),
        verdict=verdict,
        twin=Relative(twin, texts.get(twin, "")) if twin else None,
        won=[Relative(id, texts[id], f"at {stage}: {reason}") for id, stage, reason in won],
    )


def show_life(life: Life, console: Console, *, full: bool = False) -> None:
    """Print a row's life; prompts are cut to their last 600 characters unless `full`."""
    row = life.row
    print_heading(console, f"{row['id']}: {life.ended}")
    _show_texts(
        console, {name: row[name] for name in ("instruction", "input", "response", "original_response") if row[name]}
    )
    print_heading(console, "Birth")
    birth = {
        name: row[name] for name in ("source", "strategy", "category", "category_source", "writer", "license", "depth")
    }
    _show_values(console, {**birth, "operator": row.get("operator")})
    for constraint in row["constraints"] or []:
        console.print(literal("  constraint: ") + cell(_constraint(constraint)))
    _show_values(console, {"edits of the answer, in order": ", ".join(row.get("edits") or [])})
    _show_relatives(console, "parent", life.parents)
    print_heading(console, f"Completions it was made from: {len(life.calls)}")
    for call in life.calls:
        _show_call(console, call, full)
    print_heading(console, "Stages")
    for passage in life.passages:
        console.print(literal(f"{passage.stage}: {'kept' if passage.kept else 'dropped'}"))
        _show_values(console, passage.added)
    if life.rewrites:
        print_heading(console, f"Rewrites offered: {len(life.rewrites)}")
    for rewrite in life.rewrites:
        _show_values(console, {name: value for name, value in rewrite.items() if name not in ("text", "verdicts")})
        _show_values(console, _verdicts(rewrite.get("verdicts") or []))
        _show_texts(console, {"text": rewrite.get("text") or ""})
    print_heading(console, "End")
    console.print(literal(life.ended))
    _show_values(console, {name: value for name, value in (life.verdict or {}).items() if name != "twin"})
    _show_relatives(console, "twin", [life.twin] if life.twin else [])
    _show_relatives(console, "dropped in its favour:", life.won)


def _passages(
    stages: Sequence[tuple[str, pl.DataFrame]], gone: Mapping[str, Any] | None, row_id: str
) -> tuple[list[Passage], dict[str, Any] | None]:
    found: list[Passage] = []
    row: dict[str, Any] | None = None
    known = {*ROW, *VERDICT, "rewrites"}
    for stage, kept in stages:
        here = kept.filter(pl.col("id") == row_id).to_dicts()
        if not here and not (gone and gone["stage"] == stage):
            continue
        row = here[0] if here else dict(gone or {})
        added = {name: value for name, value in row.items() if name not in known and value is not None}
        found.append(Passage(stage, bool(here), added))
        known |= set(kept.columns)
    if gone and (not found or found[-1].kept):  # its stage has not finished, or the row stands twice
        row = dict(gone)
        found.append(Passage(gone["stage"], False, {}))
    return found, row


def _ending(
    row_id: str, verdict: Mapping[str, Any] | None, passages: Sequence[Passage], curated: Mapping[str, str] | None
) -> str:
    if verdict:
        return f"dropped at {verdict['stage']}, {verdict['reason']}"
    if curated is None:
        return f"kept so far by {passages[-1].stage}; the run is not finished"
    if row_id not in curated:
        return f"kept by {passages[-1].stage}, but not in curated.jsonl"
    return f"curated, split {curated[row_id]}" if curated[row_id] else "curated"


def _calls(run: RunFolder, keys: Sequence[str]) -> list[dict[str, Any] | str]:
    if not keys or not run.calls.exists():
        return list(keys)
    with closing(CallStore.read_only(run.calls)) as store:
        return [store.call(key) or key for key in keys]


def _hint(row_id: str, texts: Mapping[str, str], curated: Mapping[str, str]) -> str:
    if row_id in curated:
        return "; it was added to curated.jsonl by hand, and only that line is known of it"
    near = get_close_matches(row_id, texts, n=3)
    return f"; nearest: {', '.join(near)}" if near else "; ids look like s0007, p00012, g00042"


def _show_call(console: Console, call: dict[str, Any] | str, full: bool) -> None:
    if isinstance(call, str):
        console.print(literal(f"  {call}: not in calls.sqlite"))
        return
    _show_values(console, {name: call[name] for name in ("purpose", "model", "params", "finish_reason")})
    prompt = call["prompt"]
    cut = not full and len(prompt) > PROMPT_TAIL
    name = f"prompt, its last {PROMPT_TAIL} of {len(prompt)} characters" if cut else "prompt"
    _show_texts(console, {name: prompt[-PROMPT_TAIL:] if cut else prompt, "completion": call["text"]})


def _constraint(constraint: Mapping[str, str]) -> str:
    """Return a constraint as its id and arguments; arguments that are no JSON object as they are stored."""
    try:
        args = json.loads(constraint["args"] or "{}")
    except ValueError:
        args = None
    if not isinstance(args, dict):
        return f"{constraint['id']} {constraint['args']}"
    said = ", ".join(f"{name} = {json.dumps(value, ensure_ascii=False)}" for name, value in args.items())
    return f"{constraint['id']}: {said}" if said else constraint["id"]


def _verdicts(verdicts: Sequence[Mapping[str, Any]]) -> dict[str, str]:
    """Return which checks of the gate failed, with measured value and limit where they have them, and how many passed."""
    failed = []
    for said in verdicts:
        if said["status"] == "failed":
            known = said["measured"] is not None and said["limit"] is not None
            failed.append(f"{said['check']} {said['measured']:g} (limit {said['limit']:g})" if known else said["check"])
    passed = f"{len(verdicts) - len(failed)} of {len(verdicts)}" if verdicts else ""
    return {"checks failed": ", ".join(failed), "checks passed": passed}


def _show_texts(console: Console, texts: Mapping[str, str]) -> None:
    for name, text in texts.items():
        console.print(literal(f"  {name}:"))
        for line in text.split("\n"):
            console.print(literal(f"    | {line}"))


def _show_values(console: Console, values: Mapping[str, Any]) -> None:
    for name, value in values.items():
        shown = f"{value:g}" if isinstance(value, float) else value
        if shown not in (None, "", []):
            line = cell(shown)
            console.print(literal(f"  {name}: ") + line)


def _show_relatives(console: Console, title: str, relatives: Sequence[Relative]) -> None:
    for relative in relatives:
        said = f" ({relative.note})" if relative.note else ""
        console.print(
            literal(f"  {title} {relative.id}{said}: ") + cell(relative.instruction or "not in the run folder")
        )
