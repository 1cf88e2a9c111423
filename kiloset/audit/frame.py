"""What every page of an audit shares: one file that opens offline, its policy, its escapes and its frame.

A page asks the network for nothing. What models and people wrote is escaped, its control and reordering marks are spelt out, and
the page's policy lets no other script run than the two whose hashes it names.
"""

import base64
import hashlib
import io
import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.console import Console

from kiloset.audit import charts
from kiloset.audit.escaping import shown
from kiloset.audit.mapping import Map
from kiloset.core.errors import DataError
from kiloset.core.run import write_text

TEMPLATES = Path(__file__).parent / "templates"


def framed(
    template: str, title: str, sections: Sequence[tuple[str, str]], specs: Mapping[str, charts.Spec], map_: Map | None,
    **values: Any,
) -> str:  # fmt: skip
    """Return a page's text.

    Args:
        template: The file in `TEMPLATES`; it extends `frame.html.j2`.
        title: Of the page.
        sections: Id and title of each.
        specs: Charts by the names that the template draws.
        map_: The map, if there is one.
        values: What else the template shows.
    """
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    environment = Environment(loader=FileSystemLoader(TEMPLATES), autoescape=True, undefined=StrictUndefined)
    environment.filters |= {"shown": shown, "shown_whole": lambda text: shown(text, None)}
    script, bundle = _source("report.js"), charts.bundle().replace("</script", "<\\/script")
    drawn = {**specs, **({"map": map_.spec} if map_ else {})}
    return environment.get_template(template).render(
        title=title, sections=sections, policy=policy(bundle, script),
        style=_safe(_source("report.css")), script=_safe(script), bundle=_safe(bundle),
        charts={name: _safe(_json(spec)) for name, spec in drawn.items()},
        map_fields=list(map_.encodings) if map_ else [], map_said=map_.said if map_ else "",
        map_encodings=_safe(_json(map_.encodings if map_ else {})), **values,
    )  # fmt: skip


def as_text(show: Callable[[Console], object]) -> str:
    """Return what the terminal shows, for a page."""
    written = io.StringIO()
    show(Console(file=written, width=110, no_color=True))
    return written.getvalue()


def save(text: str, out: Path) -> int:
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
    """Return the Content-Security-Policy that allows these scripts by their hash, and nothing from anywhere else."""
    digests = (base64.b64encode(hashlib.sha256(script.encode()).digest()).decode() for script in scripts)
    hashes = " ".join(f"'sha256-{digest}'" for digest in digests)
    return f"default-src 'none'; script-src {hashes}; style-src 'unsafe-inline'; img-src data:; base-uri 'none'; form-action 'none'"


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
