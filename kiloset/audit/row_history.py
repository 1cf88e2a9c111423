"""The history of one row, from the run folder alone: its parents, completions, stages, rewrites, and how it ended."""

import json
from collections.abc import Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from difflib import get_close_matches
from typing import Any

import polars as pl
from rich.console import Console

from kiloset.audit.run_folder import read_stages
from kiloset.audit.safe_text import cell, literal, print_heading, print_lines
from kiloset.core.calls import CallStore
from kiloset.core.errors import DataError
from kiloset.core.run import RunFolder
from kiloset.core.table import ROW, VERDICT
from kiloset.data.curated import read_curated

PROMPT_TAIL = 600
"""Characters of a prompt printed by default; the end is where prompts differ."""
ORIGIN = ("source", "strategy", "category", "category_source", "writer", "license", "depth", "operator")
"""Columns printed as the row's origin."""


@dataclass(frozen=True, slots=True)
class Relative:
    """Another row that is connected with this one."""

    id: str
    instruction: str
    """The review page adds the input; "" if the run folder lacks that row."""
    note: str = ""
    """How the rows are connected."""


@dataclass(frozen=True, slots=True)
class Passage:
    """A stage that the row went through."""

    stage: str
    kept: bool
    added: dict[str, Any]
    """The columns that this stage added, with the row's values that are not null; `rewrites` are listed separately."""


@dataclass(frozen=True, slots=True)
class RowHistory:
    """Everything that a run folder records about one row."""

    row: dict[str, Any]
    """The row as it was when it was dropped, or as the last stage kept it."""
    parents: list[Relative]
    calls: list[dict[str, Any] | str]
    """The stored completions it was made from; only the key if calls.sqlite lacks one."""
    passages: list[Passage]
    rewrites: list[dict[str, Any]]
    outcome: str
    """How the row ended, in one sentence."""
    verdict: dict[str, Any] | None
    """Stage, reason, evidence, measured, limit and `twin` of a dropped row."""
    dropped_for: Relative | None
    """The row that it duplicates or that was preferred."""
    preferred_to: list[Relative]
    """Rows dropped in its favour; the note names the stage and the reason."""


def explain(run: RunFolder, row_id: str) -> RowHistory:
    """Gather one row's history.

    Raises:
        DataError: The folder is no run, a file in it is broken, or no row has this id; the nearest ids are named.
    """
    run.require()
    stages, ledger = read_stages(run)
    dropped = ledger.filter(pl.col("id") == row_id).to_dicts()
    passages, row = _passages(stages, dropped[0] if dropped else None, row_id)
    tables = (*(kept for _, kept in stages), ledger)
    texts = dict(pair for table in tables for pair in table.select("id", "instruction").iter_rows())
    splits = dict(read_curated(run.curated).rows.select("id", "split").iter_rows()) if run.curated.exists() else None
    if row is None:
        raise DataError("KS653", f"{run.path}: no row {row_id!r}{_hint(row_id, texts, splits or {})}")
    verdict = {name: row[name] for name in VERDICT} if dropped else None
    other = verdict["twin"] if verdict else None
    beaten = ledger.filter(pl.col("twin") == row_id).select("id", "stage", "reason").iter_rows()
    return RowHistory(
        row=row,
        parents=[Relative(id, texts.get(id, "")) for id in row["parents"] or []],
        calls=_calls(run, row["calls"] or []),
        passages=passages,
        rewrites=row.get("rewrites") or [],
        outcome=_outcome(row, verdict, passages, splits),
        verdict=verdict,
        dropped_for=Relative(other, texts.get(other, "")) if other else None,
        preferred_to=[Relative(id, texts[id], f"at {stage}: {reason}") for id, stage, reason in beaten],
    )


def print_history(history: RowHistory, console: Console, *, full: bool = False) -> None:
    """Print a row's history; prompts are cut to their last 600 characters unless `full`."""
    row = history.row
    print_heading(console, f"{row['id']}: {history.outcome}")
    _print_texts(
        console, {name: row[name] for name in ("instruction", "input", "response", "original_response") if row[name]}
    )
    print_heading(console, "Origin")
    _print_values(console, {name: row.get(name) for name in ORIGIN})
    for constraint in row["constraints"] or []:
        console.print(literal("  constraint: ") + cell(constraint_text(constraint)))
    _print_values(console, {"edits of the answer, in order": ", ".join(row.get("edits") or [])})
    _print_relatives(console, "parent", history.parents)
    print_heading(console, f"Completions it was made from: {len(history.calls)}")
    for call in history.calls:
        _print_call(console, call, full)
    print_heading(console, "Stages")
    for passage in history.passages:
        print_lines(console, f"{passage.stage}: {'kept' if passage.kept else 'dropped'}")
        _print_values(console, passage.added)
    if history.rewrites:
        print_heading(console, f"Candidate rewrites: {len(history.rewrites)}")
    for rewrite in history.rewrites:
        _print_values(console, {name: value for name, value in rewrite.items() if name not in ("text", "verdicts")})
        _print_values(console, _checks(rewrite.get("verdicts") or []))
        _print_texts(console, {"text": rewrite.get("text") or ""})
    print_heading(console, "Outcome")
    print_lines(console, history.outcome)
    _print_values(console, {name: value for name, value in (history.verdict or {}).items() if name != "twin"})
    _print_relatives(console, "in favour of", [history.dropped_for] if history.dropped_for else [])
    _print_relatives(console, "dropped in its favour:", history.preferred_to)


def constraint_text(constraint: Mapping[str, str]) -> str:
    """Return a constraint as its id and arguments; arguments that are no JSON object as they are stored."""
    try:
        args = json.loads(constraint["args"] or "{}")
    except ValueError:
        args = None
    if not isinstance(args, dict):
        return f"{constraint['id']} {constraint['args']}"
    pairs = ", ".join(f"{name} = {json.dumps(value, ensure_ascii=False)}" for name, value in args.items())
    return f"{constraint['id']}: {pairs}" if pairs else constraint["id"]


def _passages(
    stages: Sequence[tuple[str, pl.DataFrame]], dropped: Mapping[str, Any] | None, row_id: str
) -> tuple[list[Passage], dict[str, Any] | None]:
    passages: list[Passage] = []
    row: dict[str, Any] | None = None
    known = {*ROW, *VERDICT, "rewrites"}
    for stage, kept in stages:
        here = kept.filter(pl.col("id") == row_id).to_dicts()
        if not here and not (dropped and dropped["stage"] == stage):
            continue
        row = here[0] if here else dict(dropped or {})
        added = {name: value for name, value in row.items() if name not in known and value is not None}
        passages.append(Passage(stage, bool(here), added))
        known |= set(kept.columns)
    if dropped and (not passages or passages[-1].kept):  # its stage has not finished, or the row is also kept
        row = dict(dropped)
        passages.append(Passage(dropped["stage"], False, {}))
    return passages, row


def _outcome(
    row: Mapping[str, Any],
    verdict: Mapping[str, Any] | None,
    passages: Sequence[Passage],
    splits: Mapping[str, str] | None,
) -> str:
    if verdict:
        return f"dropped at {verdict['stage']}, {verdict['reason']}"
    if splits is None:
        return f"kept so far by {passages[-1].stage}; the run is not finished"
    if row["id"] not in splits:
        if row["source"] == "seed":
            return f"a seed, set aside after {passages[-1].stage}"
        return f"kept by {passages[-1].stage}, but not in curated.jsonl"
    return f"curated, split {splits[row['id']]}"


def _calls(run: RunFolder, keys: Sequence[str]) -> list[dict[str, Any] | str]:
    if not keys or not run.calls.exists():
        return list(keys)
    with closing(CallStore.read_only(run.calls)) as store:
        return [store.call(key) or key for key in keys]


def _hint(row_id: str, texts: Mapping[str, str], splits: Mapping[str, str]) -> str:
    if row_id in splits:
        return "; it was added to curated.jsonl by hand, so the run records nothing else about it"
    near = get_close_matches(row_id, texts, n=3)
    return f"; nearest: {', '.join(near)}" if near else "; ids look like s0007, p00012, g00042"


def _checks(verdicts: Sequence[Mapping[str, Any]]) -> dict[str, str]:
    """Return which checks of the gate failed, with measured value and limit if they have them, and how many passed."""
    failed = []
    for verdict in verdicts:
        if verdict["status"] == "failed":
            is_measured = verdict["measured"] is not None and verdict["limit"] is not None
            limit = f" {verdict['measured']:g} (limit {verdict['limit']:g})" if is_measured else ""
            failed.append(f"{verdict['check']}{limit}")
    passed = f"{len(verdicts) - len(failed)} of {len(verdicts)}" if verdicts else ""
    return {"checks failed": ", ".join(failed), "checks passed": passed}


def _print_call(console: Console, call: dict[str, Any] | str, full: bool) -> None:
    if isinstance(call, str):
        print_lines(console, f"  {call}: not in calls.sqlite")
        return
    _print_values(console, {name: call[name] for name in ("purpose", "model", "params", "finish_reason")})
    prompt = call["prompt"]
    cut = not full and len(prompt) > PROMPT_TAIL
    name = f"prompt, its last {PROMPT_TAIL} of {len(prompt)} characters" if cut else "prompt"
    _print_texts(console, {name: prompt[-PROMPT_TAIL:] if cut else prompt, "completion": call["text"]})


def _print_texts(console: Console, texts: Mapping[str, str]) -> None:
    for name, text in texts.items():
        print_lines(console, f"  {name}:", *(f"    | {line}" for line in text.split("\n")))


def _print_values(console: Console, values: Mapping[str, Any]) -> None:
    for name, value in values.items():
        text = f"{value:g}" if isinstance(value, float) else value
        if text not in (None, "", []):
            console.print(literal(f"  {name}: ") + cell(text))


def _print_relatives(console: Console, title: str, relatives: Sequence[Relative]) -> None:
    for relative in relatives:
        note = f" ({relative.note})" if relative.note else ""
        text = cell(relative.instruction or "not in the run folder")
        console.print(literal(f"  {title} {relative.id}{note}: ") + text)
