"""The report page of a run: everything its audit measured, with the rows behind it."""

import random
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import polars as pl

from kiloset.audit import charts
from kiloset.audit.escaping import marked, shown
from kiloset.audit.examples import Example
from kiloset.audit.frame import TEMPLATES, as_text, framed, policy, save
from kiloset.audit.mapping import Embed, map_of
from kiloset.audit.report import Audit, show
from kiloset.audit.veiling import Veil, veil_of, veiled_audit, veiled_row
from kiloset.core.run import RunFolder
from kiloset.core.table import user_turn
from kiloset.core.text import words

__all__ = ["TEMPLATES", "marked", "policy", "render", "shown", "write_page"]

PER_REASON = 5
"""Rows shown of those that left by one reason: drawn at random, the same ones each time."""
SAMPLE = 20
"""Rows of the set shown, drawn likewise."""
PAIRS, GROUPS, GROUP_ROWS = 50, 30, 6
"""Borderline pairs, groups of duplicates and rows of one group shown."""
FIELDS = ("category", "source", "strategy", "cluster", "response_source", "quality", "surprisal", "nearest_cosine")
"""What the map can be coloured by, where the rows have it."""
TOLD = ("id", "category", "source")
"""What it tells of a point."""
FATES = {"chosen": "taken", "passed": "passed, not taken", "rejected": "refused"}
"""What became of a rewrite, by its status."""
SECTIONS = (
    ("categories", "Categories"), ("funnel", "Funnel"), ("lengths", "Lengths"), ("strategies", "Strategies"), ("map", "Map"),
    ("rewriting", "Rewriting"), ("pairs", "Close pairs"), ("cost", "Cost"), ("rows", "Rows"), ("config", "Configuration"),
)  # fmt: skip


def write_page(run: RunFolder, found: Audit, embed: Embed | None, out: Path) -> int:
    """Write the report of a finished run; the same run gives the same bytes.

    Args:
        run: The run's folder; it is only read.
        found: Its audit.
        embed: Gives the vectors of user turns for the map; without it there is none.
        out: The page.

    Returns:
        Its size in bytes.

    Raises:
        DataError: A file of the run cannot be read, or the page cannot be written.
    """
    return save(render(run, found, embed), out)


def render(run: RunFolder, found: Audit, embed: Embed | None) -> str:
    """Return the page's text."""
    veil = veil_of(run)
    found = veiled_audit(found, veil)
    return framed(
        "report.html.j2", f"Audit of {found.name}", SECTIONS, _charts(found), map_of(found.table, embed, FIELDS, TOLD),
        found=found, born=sum(stage.created for stage in found.funnel), funnel=_funnel(found, veil),
        rewrites=_rewrites(found.examples.shown if found.examples else ()),
        borderline=_head(run.borderline, PAIRS, veil), groups=_groups(run.duplicates, veil), sample=_sample(found.table),
        config=run.config.read_text(encoding="utf-8") if run.config.exists() else "", text=veil(as_text(lambda console: show(found, console))),
    )  # fmt: skip


def _charts(found: Audit) -> dict[str, charts.Spec]:
    rows = found.table
    specs: dict[str, charts.Spec] = {}
    if found.rows:
        specs["categories"] = charts.categories(found.distribution.target, found.distribution.got)
        texts = {"instructions, inputs included": rows["user"], "responses": rows["response"]}
        specs["lengths"] = charts.histograms({name: [len(words(one)) for one in of] for name, of in texts.items()})
    fates = {"kept": charts.KEPT, "dropped": charts.GONE}
    if found.strategies.strategies:
        counted = [
            {"strategy": name, "rows": count, "fate": fate}
            for name, said in found.strategies.strategies.items()
            for fate, count in (("kept", said.kept), ("dropped", said.born - said.kept))
        ]
        specs["strategies"] = charts.stacked(counted, "strategy", "rows", "fate", fates)
    if found.calls:
        kinds = {"read": charts.COLOURS[5], "written": charts.KEPT}
        spent = [
            {"purpose": name, "tokens": said[f"{key}_tokens"] or 0, "kind": kind}
            for name, said in found.calls.items()
            for key, kind in (("prompt", "read"), ("completion", "written"))
        ]
        specs["tokens"] = charts.stacked(spent, "purpose", "tokens", "kind", kinds)
    if found.seconds:
        took = [{"stage": name, "seconds": value, "what": "seconds"} for name, value in found.seconds.items()]
        specs["seconds"] = charts.stacked(took, "stage", "seconds", "what", {"seconds": charts.KEPT})
    if pairs := _surprisals(rows):
        specs["surprisal"] = charts.before_and_after(pairs)
    if cosines := _cosines(rows):
        offered, limits = sorted({one["kind"] for one in cosines}), sorted({one["limit"] for one in cosines} - {None})
        title = "cosine of rewrite and reference, 1 means the same; the line is the gate's limit"
        specs["similarity"] = charts.strip(cosines, "fate", "cosine", "kind", offered, title, limits)
    if ratios := _ratios(found):
        title, done = "spread within categories, after over before", ("selection", "rewriting")
        specs["style"] = charts.strip(ratios, "measure", "ratio", "done", done, title, [1.0])
    return specs


def _surprisals(rows: pl.DataFrame) -> list[dict[str, Any]]:
    wanted = ("reference_surprisal", "surprisal", "response_source")
    if not {*wanted} <= {*rows.columns}:
        return []
    known = rows.drop_nulls(wanted).select(
        "id", source="response_source", before=pl.col(wanted[0]).round(3), after=pl.col(wanted[1]).round(3)
    )
    return known.to_dicts()


def _cosines(rows: pl.DataFrame) -> list[dict[str, Any]]:
    """Return how near each rewrite of the set's rows stays to its reference, by what became of it."""
    found = [
        {
            "id": id, "fate": FATES.get(one["status"], one["status"]), "kind": one["kind"],
            "cosine": round(said["measured"], 3), "limit": said["limit"],
        }
        for id, offered in (rows.select("id", "rewrites").iter_rows() if "rewrites" in rows.columns else ())
        for one in offered or ()
        for said in one.get("verdicts") or ()
        if said["check"] == "meaning" and said["measured"] is not None
    ]  # fmt: skip
    return sorted(found, key=lambda one: [*FATES.values(), one["fate"]].index(one["fate"]))


def _ratios(found: Audit) -> list[dict[str, Any]]:
    if found.style is None:
        return []
    came, before, after = (
        None if said is None else said.within for said in (found.style.came, found.style.before, found.style.after)
    )
    steps = (("selection", came, before), ("rewriting", before, after))
    return [
        {"measure": name, "done": done, "ratio": round(later[name] / value, 3)}
        for done, earlier, later in steps
        for name, value in (earlier or {}).items()
        if value and later and name in later
    ]


def _funnel(found: Audit, veil: Veil) -> list[dict[str, Any]]:
    widest = max((said.kept + sum(said.dropped.values()) for said in found.funnel), default=0) or 1
    stages = []
    for said in found.funnel:
        gone = sum(said.dropped.values())
        left = found.ledger.filter(pl.col("stage") == said.stage)
        reasons = [
            {
                "name": reason, "rows": rows, "width": round(100 * rows / gone, 1),
                "examples": [
                    veiled_row(row, veil) for row in _drawn(left.filter(pl.col("reason") == reason), PER_REASON, reason)
                ],
            }
            for reason, rows in said.dropped.items()
        ]  # fmt: skip
        stages.append(
            {
                "name": said.stage, "kept": said.kept, "gone": gone, "created": said.created, "reasons": reasons,
                "kept_width": round(100 * said.kept / widest, 2), "gone_width": round(100 * gone / widest, 2),
            }
        )  # fmt: skip
    return stages


def _drawn(rows: pl.DataFrame, most: int, seed: str) -> list[dict[str, Any]]:
    chosen = sorted(random.Random(seed).sample(range(rows.height), min(most, rows.height)))
    return [{**row, "user": user_turn(row["instruction"], row["input"])} for row in rows[chosen].to_dicts()]


def _sample(table: pl.DataFrame) -> list[dict[str, Any]]:
    chosen = sorted(random.Random("sample").sample(range(table.height), min(SAMPLE, table.height)))
    return [{**row, "evidence": row["split"], "twin": None} for row in table[chosen].to_dicts()]


def _rewrites(examples: Sequence[Example]) -> list[dict[str, Any]]:
    rows = []
    for one in examples:
        before, after = marked(one.reference, one.rewrite)
        near = one.shown_for
        said = "" if near is None else f"{near.check} {near.measured:.3g} against a limit of {near.limit:.3g}"
        rows.append(
            {
                "id": one.id, "category": one.category, "source": one.source, "gain": one.gain, "near": said,
                "instruction": one.instruction, "before": before, "after": after,
            }
        )  # fmt: skip
    return rows


def _head(path: Path, most: int, veil: Veil) -> list[dict[str, Any]]:
    return (
        [veiled_row(row, veil) for row in pl.read_parquet(path).head(most).iter_rows(named=True)]
        if path.exists()
        else []
    )


def _groups(path: Path, veil: Veil) -> list[dict[str, Any]]:
    """Return the largest groups of duplicates, each with its first rows and how many of it stayed."""
    if not path.exists():
        return []
    parts = pl.read_parquet(path).partition_by("group", maintain_order=True)[:GROUPS]
    return [
        {
            "rows": [
                {**veiled_row(row, veil), "kept": row["reason"] is None} for row in part.head(GROUP_ROWS).to_dicts()
            ],
            "kept": part["reason"].null_count(),
            "size": part.height,
        }
        for part in parts
    ]
