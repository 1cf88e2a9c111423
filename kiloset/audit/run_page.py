"""The report page of a run: every figure of its audit, with the rows behind it, and personal data replaced.

The page may be passed on where the run folder may not, so it shows no value of personal data.
"""

import random
from collections.abc import Callable, Mapping
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import polars as pl

from kiloset.audit import charts
from kiloset.audit.gate import Examples
from kiloset.audit.pages import Embed, LoadEmbedder, as_text, map_of, render_page, save_page
from kiloset.audit.run_audit import Audit, precision_rows, print_audit
from kiloset.audit.run_folder import read_settings
from kiloset.audit.safe_text import mark_differences
from kiloset.core.calls import CallStore
from kiloset.core.progress import Progress
from kiloset.core.recorded import RecordedEmbedder
from kiloset.core.run import RunFolder, last_verdicts
from kiloset.core.table import user_turn
from kiloset.core.text import words
from kiloset.data.masking import veiled
from kiloset.filters.rules import RulesConfig
from kiloset.settings import load_config

EXAMPLES = 50
"""Rewrites shown on the page by default."""
PER_REASON = 5
"""Rows shown of each drop reason: drawn at random, the same ones each time."""
SAMPLE = 20
"""Rows of the set shown, drawn in the same way."""
PAIRS, GROUPS, GROUP_ROWS = 50, 30, 6
"""Borderline pairs, groups of duplicates and rows of one group shown."""
FIELDS = ("category", "source", "strategy", "cluster", "response_source", "quality", "surprisal", "nearest_cosine")
"""What the map can be coloured by, if the rows have it."""
POINT = ("id", "category", "source")
"""What the map shows of a point."""
STATUS = {"chosen": "chosen", "passed": "passed, not chosen", "rejected": "rejected"}
"""What the page calls the status of a rewrite."""
SECTIONS = (
    ("categories", "Categories"), ("funnel", "Funnel"), ("lengths", "Lengths"), ("strategies", "Strategies"), ("map", "Map"),
    ("rewriting", "Rewriting"), ("pairs", "Close pairs"), ("cost", "Cost"), ("rows", "Rows"), ("config", "Configuration"),
)  # fmt: skip
TEXTS = ("user", "instruction", "input", "response", "evidence", "other_instruction")
"""Columns that contain or quote a row's text."""

Mask = Callable[[str], str]
"""Returns a text with its personal data replaced."""


def write_report(run: RunFolder, report: Audit, out: Path, load_embedder: LoadEmbedder, progress: Progress) -> int:
    """Write the page of an audit and return its size in bytes; the same run gives the same bytes.

    The map uses the vectors that the run stored. A model is loaded only for rows that were edited, or if the run stored no
    vectors. Without config.toml or calls.sqlite the page has no map.

    Args:
        run: The run's folder; only `out` is written.
        report: The audit of the run.
        out: The page.
        load_embedder: Returns the embedder of a config for a number of rows.
        progress: Reports the embedding.

    Raises:
        ConfigError: config.toml is invalid.
        DataError: A file of the run cannot be read, or the page cannot be written.
    """
    if not (run.config.exists() and run.calls.exists()):
        return save_page(render(run, report, None), out)
    rows = sum(stage.created for stage in report.funnel if stage.stage == "seeds")
    embedder = load_embedder(load_config(run.config), rows)
    with closing(CallStore.read_only(run.calls)) as store:
        if embedder.is_costly:
            embedder = RecordedEmbedder(embedder, store, progress)
        return save_page(render(run, report, embedder.embed), out)


def render(run: RunFolder, report: Audit, embed: Embed | None) -> str:
    """Return the page's text; without vectors of user turns (`embed`) it has no map."""
    mask = _mask_of(run)
    report = _masked_audit(report, mask)
    return render_page(
        "report.html.j2", f"Audit of {report.name}", SECTIONS, _charts(report), map_of(report.table, embed, FIELDS, POINT),
        report=report, precision=precision_rows(report), candidates=sum(stage.created for stage in report.funnel), funnel=_funnel(report, mask),
        rewrites=_rewrites(report), borderline=_masked_rows(run.borderline, mask), groups=_groups(run.duplicates, mask),
        sample=_sample(report.table), config=run.config.read_text(encoding="utf-8") if run.config.exists() else "",
        text=mask(as_text(lambda console: print_audit(report, console))),
    )  # fmt: skip


def _mask_of(run: RunFolder) -> Mask:
    """Return what replaces personal data in a run's texts; nothing does if its rules do not look for personal data."""
    rules = read_settings(run, "rules")
    if rules.get("personal_data") == "off":
        return lambda text: text
    regions = tuple(rules.get("phone_regions", RulesConfig().phone_regions))
    return lambda text: veiled(text, regions)


def _masked_audit(report: Audit, mask: Mask) -> Audit:
    """Return an audit with the texts of rows, rewrites and pairs masked; the ledger is masked row by row, when it is shown."""
    examples = report.examples
    if examples is not None:
        chosen = tuple(
            replace(one, instruction=mask(one.instruction), reference=mask(one.reference), rewrite=mask(one.rewrite))
            for one in examples.chosen
        )
        examples = Examples(examples.rewritten, chosen, examples.recorded)
    return replace(
        report, table=_masked_table(report.table, mask), closest=_masked_table(report.closest, mask), examples=examples,
        instructions={id: mask(text) for id, text in report.instructions.items()},
    )  # fmt: skip


def _masked_table(table: pl.DataFrame, mask: Mask) -> pl.DataFrame:
    columns = [name for name in TEXTS if name in table.columns and table.schema[name] == pl.String]
    return table.with_columns(pl.col(name).map_elements(mask, pl.String) for name in columns)


def _masked_row(row: Mapping[str, Any], mask: Mask) -> dict[str, Any]:
    return {name: mask(value) if name in TEXTS and isinstance(value, str) else value for name, value in row.items()}


def _masked_rows(path: Path, mask: Mask) -> list[dict[str, Any]]:
    """Return the first rows of a table of borderline pairs, [] without the file."""
    if not path.exists():
        return []
    return [_masked_row(row, mask) for row in pl.read_parquet(path).head(PAIRS).iter_rows(named=True)]


def _charts(report: Audit) -> dict[str, charts.Spec]:
    rows = report.table
    specs: dict[str, charts.Spec] = {}
    if report.rows:
        specs["categories"] = charts.categories(report.distribution.target, report.distribution.result)
        texts = {"instructions, inputs included": rows["user"], "responses": rows["response"]}
        specs["lengths"] = charts.histograms({name: [len(words(one)) for one in of] for name, of in texts.items()})
    if report.strategies.strategies:
        counts = [
            {"strategy": name, "rows": count, "outcome": outcome}
            for name, one in report.strategies.strategies.items()
            for outcome, count in (("kept", one.kept), ("dropped", one.candidates - one.kept))
        ]
        outcomes = {"kept": charts.KEPT, "dropped": charts.GONE}
        specs["strategies"] = charts.bars(counts, "strategy", "rows", "outcome", outcomes)
    if report.calls:
        kinds = {"prompt": charts.COLOURS[5], "completion": charts.KEPT}
        tokens = [
            {"purpose": name, "tokens": spent[f"{kind}_tokens"] or 0, "kind": kind}
            for name, spent in report.calls.items()
            for kind in kinds
        ]
        specs["tokens"] = charts.bars(tokens, "purpose", "tokens", "kind", kinds)
    if report.seconds:
        seconds = [{"stage": name, "seconds": value} for name, value in report.seconds.items()]
        specs["seconds"] = charts.bars(seconds, "stage", "seconds")
    if pairs := _surprisals(rows):
        specs["surprisal"] = charts.before_and_after(pairs)
    if cosines := _cosines(rows):
        kinds_of = sorted({one["kind"] for one in cosines})
        limits = sorted({one["limit"] for one in cosines} - {None})
        title = "cosine of rewrite and reference, 1 means the same; the line is the gate's limit"
        specs["similarity"] = charts.strip(cosines, "status", "cosine", "kind", kinds_of, title, limits)
    if ratios := _ratios(report):
        title = "spread within categories, after over before"
        specs["style"] = charts.strip(ratios, "measure", "ratio", "step", ("selection", "rewriting"), title, [1.0])
    return specs


def _surprisals(rows: pl.DataFrame) -> list[dict[str, Any]]:
    names = ("reference_surprisal", "surprisal", "response_source")
    if not {*names} <= {*rows.columns}:
        return []
    known = rows.drop_nulls(names).select(
        "id", source="response_source", before=pl.col(names[0]).round(3), after=pl.col(names[1]).round(3)
    )
    return known.to_dicts()


def _cosines(rows: pl.DataFrame) -> list[dict[str, Any]]:
    """Return how similar each rewrite of the set's rows is to its reference, by status."""
    cosines = [
        {
            "id": id, "status": STATUS.get(one["status"], one["status"]), "kind": one["kind"],
            "cosine": round(verdict["measured"], 3), "limit": verdict["limit"],
        }
        for id, offered in (rows.select("id", "rewrites").iter_rows() if "rewrites" in rows.columns else ())
        for one in offered or ()
        for verdict in one.get("verdicts") or ()
        if verdict["check"] == "meaning" and verdict["measured"] is not None
    ]  # fmt: skip
    return sorted(cosines, key=lambda one: [*STATUS.values(), one["status"]].index(one["status"]))


def _ratios(report: Audit) -> list[dict[str, Any]]:
    if report.style is None:
        return []
    entered, before, after = (
        None if spreads is None else spreads.within
        for spreads in (report.style.entered, report.style.before, report.style.after)
    )
    return [
        {"measure": name, "step": step, "ratio": round(later[name] / value, 3)}
        for step, earlier, later in (("selection", entered, before), ("rewriting", before, after))
        for name, value in (earlier or {}).items()
        if value and later and name in later
    ]


def _funnel(report: Audit, mask: Mask) -> list[dict[str, Any]]:
    widest = max((stage.kept + stage.dropped_rows for stage in report.funnel), default=0) or 1
    stages, ledger = [], last_verdicts(report.ledger)
    for stage in report.funnel:
        dropped = ledger.filter(pl.col("stage") == stage.stage)
        reasons = [
            {
                "name": reason, "rows": rows, "width": round(100 * rows / stage.dropped_rows, 1),
                "examples": [_masked_row(row, mask) for row in _drawn(dropped.filter(pl.col("reason") == reason), PER_REASON, reason)],
            }
            for reason, rows in stage.dropped.items()
        ]  # fmt: skip
        widths = [round(100 * rows / widest, 2) for rows in (stage.kept, stage.dropped_rows)]
        stages.append({"count": stage, "reasons": reasons, "kept_width": widths[0], "dropped_width": widths[1]})
    return stages


def _drawn(rows: pl.DataFrame, most: int, seed: str) -> list[dict[str, Any]]:
    chosen = sorted(random.Random(seed).sample(range(rows.height), min(most, rows.height)))
    return [{**row, "user": user_turn(row["instruction"], row["input"])} for row in rows[chosen].to_dicts()]


def _sample(table: pl.DataFrame) -> list[dict[str, Any]]:
    chosen = sorted(random.Random("sample").sample(range(table.height), min(SAMPLE, table.height)))
    return [{**row, "evidence": row["split"], "twin": None} for row in table[chosen].to_dicts()]


def _rewrites(report: Audit) -> list[dict[str, Any]]:
    rows = []
    for example in report.examples.chosen if report.examples else ():
        before, after = mark_differences(example.reference, example.rewrite)
        rows.append({"example": example, "before": before, "after": after})
    return rows


def _groups(path: Path, mask: Mask) -> list[dict[str, Any]]:
    """Return the largest groups of duplicates, each with its first rows and the number of its kept rows."""
    if not path.exists():
        return []
    parts = pl.read_parquet(path).partition_by("group", maintain_order=True)[:GROUPS]
    return [
        {
            "rows": [{**_masked_row(row, mask), "kept": row["reason"] is None} for row in part.head(GROUP_ROWS).to_dicts()],
            "kept": part["reason"].null_count(), "size": part.height,
        }
        for part in parts
    ]  # fmt: skip
