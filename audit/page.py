"""The report page: everything an audit measured on one self-contained page, with the rows behind it.

The page opens from the file system and asks the network for nothing. What models and people wrote is escaped, its control
and reordering marks are spelt out, and the page's policy lets no other script run than the two whose hashes it names.
"""

import base64
import difflib
import hashlib
import io
import json
import random
import re
import unicodedata
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray
from rich.console import Console

from audit import charts
from audit.examples import Example
from audit.report import Audit, show
from audit.terminal import REORDERING
from core.errors import DataError
from core.run import RunFolder, write_text
from core.table import user_turn
from core.text import words

Embed = Callable[[Sequence[str]], NDArray[np.float32]]
"""Texts to `(texts, dims)` float32, rows of length 1."""

TEMPLATES = Path(__file__).parent / "templates"
PER_REASON = 5
"""Rows shown of those that left by one reason: drawn at random, the same ones each time."""
SAMPLE = 20
"""Rows of the set shown, drawn likewise."""
PAIRS, GROUPS, GROUP_ROWS = 50, 30, 6
"""Borderline pairs, groups of duplicates and rows of one group shown."""
CHARACTERS = 1200
"""Longest text shown of a row."""
HOVER = 160
"""Longest text shown of a point of the map."""
FEWEST = 8
"""Rows below which there is no map."""
MAPPED = 5000
"""Rows on the map at most, drawn at random: more cannot be told apart, and the page would grow beyond its 5 MB."""
FIELDS = ("category", "source", "strategy", "cluster", "response_source", "quality", "surprisal", "nearest_cosine")
"""What the map can be coloured by, where the rows have it."""
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
    text = render(run, found, embed)
    try:
        write_text(out, text)
    except OSError as error:
        raise DataError(f"{out}: cannot be written ({error.strerror}); choose another file with --page") from None
    return len(text.encode())


def render(run: RunFolder, found: Audit, embed: Embed | None) -> str:
    """Return the page's text."""
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    environment = Environment(loader=FileSystemLoader(TEMPLATES), autoescape=True, undefined=StrictUndefined)
    environment.filters |= {"shown": shown, "shown_whole": lambda text: shown(text, None)}
    drawn, encodings = _map(found.table, embed)
    specs = _charts(found) | ({"map": drawn} if drawn else {})
    script, bundle = _source("report.js"), charts.bundle().replace("</script", "<\\/script")
    template = environment.get_template("report.html.j2")
    return template.render(
        found=found, sections=SECTIONS, born=sum(stage.created for stage in found.funnel), policy=policy(bundle, script),
        style=_safe(_source("report.css")), script=_safe(script), bundle=_safe(bundle),
        charts={name: _safe(_json(spec)) for name, spec in specs.items()},
        map_fields=list(encodings), map_encodings=_safe(_json(encodings)), map_said=_said_of_map(found.rows),
        funnel=_funnel(found), rewrites=_rewrites(found.examples.shown if found.examples else ()),
        borderline=_head(run.borderline, PAIRS), groups=_groups(run.duplicates), sample=_sample(found.table),
        config=run.config.read_text(encoding="utf-8") if run.config.exists() else "", text=_as_text(found),
    )  # fmt: skip


def policy(*scripts: str) -> str:
    """Return the Content-Security-Policy that allows these scripts by their hash, and nothing from anywhere else."""
    digests = (base64.b64encode(hashlib.sha256(script.encode()).digest()).decode() for script in scripts)
    hashes = " ".join(f"'sha256-{digest}'" for digest in digests)
    return f"default-src 'none'; script-src {hashes}; style-src 'unsafe-inline'; img-src data:; base-uri 'none'; form-action 'none'"


def shown(text: object, most: int | None = CHARACTERS) -> str:
    """Return a text with its control, reordering and private marks spelt out, cut to so many characters.

    It is not escaped yet; the template does that.
    """
    whole = str(text)
    part = whole if most is None or len(whole) <= most else whole[:most]
    visible = "".join(c if _harmless(c) else f"⟨U+{ord(c):04X}⟩" for c in part)
    return visible if len(part) == len(whole) else f"{visible}… ({len(whole):,} characters)"


def marked(before: str, after: str) -> tuple[list[tuple[str, str]], list[tuple[str, str]]]:
    """Compare two texts word by word.

    Returns:
        The parts of the first, each `same` or `del`, and those of the second, each `same` or `ins`; joined, they are the texts.
    """
    one, other = (re.findall(r"\s+|\w+|[^\w\s]", text[:CHARACTERS]) for text in (before, after))
    old: list[tuple[str, str]] = []
    new: list[tuple[str, str]] = []
    for kind, i, j, k, m in difflib.SequenceMatcher(None, one, other, autojunk=False).get_opcodes():
        same = kind == "equal"
        if i < j:
            old.append(("same" if same else "del", "".join(one[i:j])))
        if k < m:
            new.append(("same" if same else "ins", "".join(other[k:m])))
    rest = [(text[CHARACTERS:], parts) for text, parts in ((before, old), (after, new))]
    for left, parts in rest:
        if left:
            parts.append(("same", f"… ({len(left):,} more characters)"))
    return old, new


def project(vectors: NDArray[np.float32], seed: int = 0) -> NDArray[np.float32]:
    """Return `(rows, 2)` coordinates in which near rows stay near: t-SNE (van der Maaten and Hinton 2008) of the vectors.

    From principal components, so that the same rows lie the same way; perplexity 30 or what so few rows allow.
    """
    from sklearn.decomposition import PCA  # type: ignore[import-untyped]
    from sklearn.manifold import TSNE  # type: ignore[import-untyped]

    narrow = PCA(min(50, *vectors.shape), random_state=seed, svd_solver="full").fit_transform(vectors)
    perplexity = min(30.0, (len(vectors) - 1) / 3)
    drawn = TSNE(perplexity=perplexity, init="pca", random_state=seed, n_jobs=1).fit_transform(narrow)
    return np.asarray(drawn, dtype=np.float32)


def _harmless(c: str) -> bool:
    return c in "\n\t" or not (REORDERING.match(c) or unicodedata.category(c) in ("Cc", "Cs", "Co"))


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
    if ratios := _ratios(found):
        specs["style"] = charts.spreads(ratios)
    return specs


def _surprisals(rows: pl.DataFrame) -> list[dict[str, Any]]:
    wanted = ("reference_surprisal", "surprisal", "response_source")
    if not {*wanted} <= {*rows.columns}:
        return []
    known = rows.drop_nulls(wanted).select(
        "id", source="response_source", before=pl.col(wanted[0]).round(3), after=pl.col(wanted[1]).round(3)
    )
    return known.to_dicts()


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


def _map(rows: pl.DataFrame, embed: Embed | None) -> tuple[charts.Spec | None, dict[str, charts.Spec]]:
    """Return the map of the rows, and for each field by which it can be coloured the encoding that does."""
    some = rows if rows.height <= MAPPED else rows.sample(MAPPED, seed=0)
    if embed is None or some.height < FEWEST:
        return None, {}
    drawn = project(embed(some["user"].to_list()))
    fields = [name for name in FIELDS if name in some.columns and some[name].drop_nulls().n_unique() > 1]
    table = some.select(
        "id", *dict.fromkeys([name for name in ("category", "source") if name in some.columns] + fields)
    )
    floats = [name for name, kind in table.schema.items() if kind.is_float()]
    points = [
        {**row, "x": round(float(x), 2), "y": round(float(y), 2), "text": shown(text, HOVER)}
        for row, (x, y), text in zip(
            table.with_columns(pl.col(floats).cast(pl.Float64).round(3)).to_dicts(), drawn, some["user"], strict=True
        )
    ]
    return charts.map_of(points), {name: charts.colours_by(name, [point[name] for point in points]) for name in fields}


def _said_of_map(rows: int) -> str:
    return f"{MAPPED:,} of the {rows:,} rows, drawn at random." if rows > MAPPED else f"All {rows:,} rows."


def _funnel(found: Audit) -> list[dict[str, Any]]:
    widest = max((said.kept + sum(said.dropped.values()) for said in found.funnel), default=0) or 1
    stages = []
    for said in found.funnel:
        gone = sum(said.dropped.values())
        left = found.ledger.filter(pl.col("stage") == said.stage)
        reasons = [
            {
                "name": reason, "rows": rows, "width": round(100 * rows / gone, 1),
                "examples": _drawn(left.filter(pl.col("reason") == reason), PER_REASON, reason),
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


def _head(path: Path, most: int) -> list[dict[str, Any]]:
    return pl.read_parquet(path).head(most).to_dicts() if path.exists() else []


def _groups(path: Path) -> list[dict[str, Any]]:
    """Return the largest groups of duplicates, each with its first rows and how many of it stayed."""
    if not path.exists():
        return []
    parts = pl.read_parquet(path).partition_by("group", maintain_order=True)[:GROUPS]
    return [
        {
            "rows": [{**row, "kept": row["reason"] is None} for row in part.head(GROUP_ROWS).to_dicts()],
            "kept": part["reason"].null_count(),
            "size": part.height,
        }
        for part in parts
    ]


def _as_text(found: Audit) -> str:
    written = io.StringIO()
    show(found, Console(file=written, width=110, no_color=True))
    return written.getvalue()


def _json(value: Any) -> str:
    """Return JSON that no HTML parser takes for markup and no script for the end of a line."""
    text = json.dumps(value, ensure_ascii=False, separators=(",", ":"))
    for sign in "<>&\u2028\u2029":
        text = text.replace(sign, f"\\u{ord(sign):04x}")
    return text


def _source(name: str) -> str:
    return (TEMPLATES / name).read_text(encoding="utf-8")


def _safe(text: str) -> Any:
    """Mark our own text, or JSON made harmless, as needing no escapes."""
    from markupsafe import Markup

    return Markup(text)
