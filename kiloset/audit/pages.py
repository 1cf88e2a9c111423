"""What every page of an audit shares: one offline HTML file, its security policy, its frame, and the map of its rows.

A page makes no network request. It escapes what models and people wrote and spells out control and reordering marks. Its policy
allows only the two scripts whose hashes it names.
"""

import base64
import hashlib
import io
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray
from rich.console import Console

from kiloset.audit import charts
from kiloset.audit.safe_text import visible
from kiloset.core.errors import DataError
from kiloset.core.models import Embedder
from kiloset.core.run import write_text
from kiloset.settings import RunConfig

Embed = Callable[[Sequence[str]], NDArray[np.float32]]
"""Texts to `(texts, dims)` float32, rows of length 1."""
LoadEmbedder = Callable[[RunConfig, int], Embedder]
"""Returns the embedder of a config for a number of rows."""

TEMPLATES = Path(__file__).parent / "templates"
HOVER = 160
"""Longest text shown of a point on the map, in characters."""
FEWEST = 8
"""With fewer rows there is no map."""
MAPPED = 5000
"""Most rows on the map, drawn at random: more cannot be distinguished, and the page would exceed 5 MB."""


@dataclass(frozen=True, slots=True)
class Map:
    """The rows of a set in the plane, with similar rows near each other."""

    spec: charts.Spec
    encodings: Mapping[str, charts.Spec]
    """The colour encoding of each field that the map can be coloured by."""
    caption: str
    """How many of the rows the map shows."""


def render_page(
    template: str, title: str, sections: Sequence[tuple[str, str]], specs: Mapping[str, charts.Spec], map_: Map | None,
    **values: Any,
) -> str:  # fmt: skip
    """Return a page's text.

    Args:
        template: The file in `TEMPLATES`; it extends `frame.html.j2`.
        title: Title of the page.
        sections: Id and title of each section.
        specs: The charts by the names that the template uses.
        map_: The map, if there is one.
        values: Other values of the template.
    """
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    environment = Environment(loader=FileSystemLoader(TEMPLATES), autoescape=True, undefined=StrictUndefined)
    environment.filters |= {"visible": visible, "visible_whole": lambda text: visible(text, None)}
    script, bundle = _source("report.js"), charts.bundle().replace("</script", "<\\/script")
    drawn = {**specs, **({"map": map_.spec} if map_ else {})}
    return environment.get_template(template).render(
        title=title, sections=sections, policy=policy(bundle, script),
        style=_safe(_source("report.css")), script=_safe(script), bundle=_safe(bundle),
        charts={name: _safe(_json(spec)) for name, spec in drawn.items()},
        map_fields=list(map_.encodings) if map_ else [], map_caption=map_.caption if map_ else "",
        map_encodings=_safe(_json(map_.encodings if map_ else {})), **values,
    )  # fmt: skip


def as_text(show: Callable[[Console], object]) -> str:
    """Return what `show` prints, for a page."""
    written = io.StringIO()
    show(Console(file=written, width=110, no_color=True))
    return written.getvalue()


def save_page(text: str, out: Path) -> int:
    """Write a page and return its size in bytes.

    Raises:
        DataError: It cannot be written.
    """
    try:
        write_text(out, text)
    except OSError as error:
        raise DataError(
            "KS654", f"{out}: cannot be written ({error.strerror}); choose another file with --page"
        ) from None
    return len(text.encode())


def policy(*scripts: str) -> str:
    """Return the Content-Security-Policy that allows these scripts by their hash and forbids everything else."""
    digests = (base64.b64encode(hashlib.sha256(script.encode()).digest()).decode() for script in scripts)
    hashes = " ".join(f"'sha256-{digest}'" for digest in digests)
    return f"default-src 'none'; script-src {hashes}; style-src 'unsafe-inline'; img-src data:; base-uri 'none'; form-action 'none'"


def map_of(rows: pl.DataFrame, embed: Embed | None, fields: Sequence[str], columns: Sequence[str]) -> Map | None:
    """Return the map of a set, None without `embed` or with too few rows.

    Args:
        rows: The set, with the column `user`.
        embed: Returns the vectors of user turns.
        fields: Columns to colour by, if their values differ.
        columns: Columns shown of a point, besides its text.
    """
    some = rows if rows.height <= MAPPED else rows.sample(MAPPED, seed=0)
    if embed is None or some.height < FEWEST:
        return None
    coordinates = project(embed(some["user"].to_list()))
    differing = [name for name in fields if name in some.columns and some[name].drop_nulls().n_unique() > 1]
    present = [name for name in columns if name in some.columns]
    table = some.select(list(dict.fromkeys(present + differing)))
    floats = [name for name, kind in table.schema.items() if kind.is_float()]
    rounded = table.with_columns(pl.col(floats).cast(pl.Float64).round(3)).to_dicts()
    points = [
        {**row, "x": round(float(x), 2), "y": round(float(y), 2), "text": visible(text, HOVER)}
        for row, (x, y), text in zip(rounded, coordinates, some["user"], strict=True)
    ]
    encodings = {name: charts.colours_by(name, [point[name] for point in points]) for name in differing}
    all_rows = f"All {rows.height:,} rows."
    caption = all_rows if rows.height <= MAPPED else f"{MAPPED:,} of the {rows.height:,} rows, drawn at random."
    return Map(charts.map_of(points, [*present, "text"]), encodings, caption)


def project(vectors: NDArray[np.float32], seed: int = 0) -> NDArray[np.float32]:
    """Return `(rows, 2)` coordinates that keep near rows near: t-SNE (van der Maaten and Hinton 2008) of the vectors.

    It starts from principal components, so that the same rows get the same coordinates; the perplexity is 30, or the largest
    that few rows allow.
    """
    from sklearn.decomposition import PCA  # type: ignore[import-untyped]
    from sklearn.manifold import TSNE  # type: ignore[import-untyped]

    narrow = PCA(min(50, *vectors.shape), random_state=seed, svd_solver="full").fit_transform(vectors)
    perplexity = min(30.0, (len(vectors) - 1) / 3)
    coordinates = TSNE(perplexity=perplexity, init="pca", random_state=seed, n_jobs=1).fit_transform(narrow)
    return np.asarray(coordinates, dtype=np.float32)


def _json(value: Any) -> str:
    """Return JSON that an HTML parser cannot read as markup, nor a script as the end of a line."""
    text = json.dumps(value, ensure_ascii=False, separators=(",", ":"))
    for sign in "<>&\u2028\u2029":
        text = text.replace(sign, f"\\u{ord(sign):04x}")
    return text


def _source(name: str) -> str:
    return (TEMPLATES / name).read_text(encoding="utf-8")


def _safe(text: str) -> Any:
    """Mark our own text, or harmless JSON, so that the template does not escape it."""
    from markupsafe import Markup

    return Markup(text)
