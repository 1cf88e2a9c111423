"""The charts of the report page, as Vega-Lite specifications made with Altair; the only file that imports it.

Colours are Okabe and Ito's eight (2008), which people with any colour vision can tell apart; where there are more values
than colours, a colour comes again with another shape.
"""

from collections.abc import Mapping, Sequence
from typing import Any

COLOURS = ("#0072b2", "#e69f00", "#009e73", "#cc79a7", "#d55e00", "#56b4e9", "#7f7f7f", "#b5a500")
SHAPES = ("circle", "square", "triangle-up", "diamond", "cross", "triangle-down")
KEPT, GONE = "#0072b2", "#d55e00"
MOST_VALUES = len(COLOURS) * len(SHAPES)
"""Values that a colour and a shape can tell apart."""
WIDTH = 620
"""Width of a plot, in pixels, until the page fits it to the room there is."""

Spec = dict[str, Any]
Rows = Sequence[Mapping[str, Any]]


def categories(target: Mapping[str, int], got: Mapping[str, int]) -> Spec:
    """Draw rows wanted and rows got side by side, by category."""
    import altair as alt

    rows = [
        {"category": name, "of": of, "rows": counts.get(name, 0)}
        for name in sorted({*target, *got})
        for of, counts in (("target", target), ("result", got))
        if counts
    ]
    colour = alt.Scale(domain=["target", "result"], range=[COLOURS[1], KEPT])
    return _spec(
        _chart(rows)
        .mark_bar()
        .encode(
            y=alt.Y("category:N", title=None, sort=None),
            yOffset=alt.YOffset("of:N", sort=["target", "result"]),
            x=alt.X("rows:Q", title="rows", axis=alt.Axis(tickMinStep=1, format="d")),
            color=alt.Color("of:N", title=None, scale=colour),
            tooltip=["category:N", "of:N", "rows:Q"],
        )
        .properties(width=WIDTH)
    )


def stacked(rows: Rows, name: str, amount: str, part: str, colours: Mapping[str, str]) -> Spec:
    """Draw horizontal bars of `amount` by `name`, each stacked by `part`, in the order of the rows."""
    import altair as alt

    scale = alt.Scale(domain=list(colours), range=list(colours.values()))
    return _spec(
        _chart(rows)
        .mark_bar()
        .encode(
            y=alt.Y(f"{name}:N", title=None, sort=None),
            x=alt.X(f"{amount}:Q", title=amount),
            color=alt.Color(f"{part}:N", title=None, scale=scale),
            tooltip=[f"{name}:N", f"{part}:N", f"{amount}:Q"],
        )
        .properties(width=WIDTH)
    )


def histograms(values: Mapping[str, Sequence[int]]) -> Spec:
    """Draw a histogram of each list of whole numbers, one above the other, each over its own range."""
    import altair as alt

    plots = [
        _chart([{"words": value} for value in found])
        .mark_bar(color=KEPT)
        .encode(
            x=alt.X("words:Q", bin=alt.Bin(maxbins=40), title=f"words of {name}"),
            y=alt.Y("count():Q", title="rows", axis=alt.Axis(tickMinStep=1, format="d")),
            tooltip=[alt.Tooltip("words:Q", bin=alt.Bin(maxbins=40)), "count():Q"],
        )
        .properties(width=WIDTH, height=90)
        for name, found in values.items()
        if found
    ]
    return _spec(alt.vconcat(*plots))


def before_and_after(rows: Rows) -> Spec:
    """Draw each row's surprisal `before` and `after` (nats per token); below the line, an answer became likelier."""
    import altair as alt

    ends = [row[name] for row in rows for name in ("before", "after")]
    span = [{"before": value, "after": value} for value in (min(ends), max(ends))]
    line = _chart(span).mark_line(color="#7f7f7f", strokeDash=[4, 4]).encode(x="before:Q", y="after:Q")
    sources = sorted({row["source"] for row in rows})
    points = (
        _chart(rows)
        .mark_point(filled=True, size=40, opacity=0.8)
        .encode(
            x=alt.X("before:Q", title="surprisal of the reference, nats per token"),
            y=alt.Y("after:Q", title="of the answer"),
            tooltip=["id:N", "source:N", "before:Q", "after:Q"],
            **_told_apart("source", sources, alt),
        )
    )
    return _spec((line + points).properties(width=WIDTH, height=280))


def spreads(rows: Rows) -> Spec:
    """Draw, by `measure`, the ratio of spread after to spread before (1: as it was), by what was `done`."""
    import altair as alt

    mark = _chart([{"one": 1.0}]).mark_rule(strokeDash=[4, 4], color="#7f7f7f").encode(x="one:Q")
    points = (
        _chart(rows)
        .mark_point(filled=True, size=70)
        .encode(
            y=alt.Y("measure:N", title=None, sort=None),
            x=alt.X("ratio:Q", title="spread within categories, after over before", scale=alt.Scale(zero=False)),
            tooltip=["measure:N", "done:N", "ratio:Q"],
            **_told_apart("done", ["selection", "rewriting"], alt),
        )
    )
    return _spec((mark + points).properties(width=WIDTH))


def map_of(rows: Rows) -> Spec:
    """Draw rows at `x` and `y`; the page zooms it and shows a row's `id`, `category` and `text`. Colour comes apart."""
    import altair as alt

    zoom = alt.selection_interval(bind="scales")
    bare = alt.Axis(labels=False, ticks=False, title=None, grid=False, domain=False)
    return _spec(
        _chart(rows)
        .mark_point(filled=True, size=45, opacity=0.8)
        .encode(
            x=alt.X("x:Q", axis=bare, scale=alt.Scale(zero=False)),
            y=alt.Y("y:Q", axis=bare, scale=alt.Scale(zero=False)),
            tooltip=[f"{name}:N" for name in ("id", "category", "source", "text")],
        )
        .add_params(zoom)
        .properties(width=WIDTH, height=460)
    )


def colours_by(field: str, values: Sequence[Any]) -> Spec:
    """Return the encoding that colours a map by a field: by colour and shape where it has names, else on a scale."""
    import altair as alt

    known = [value for value in values if value is not None]
    if all(isinstance(value, float) for value in known):
        colour = alt.Color(f"{field}:Q", scale=alt.Scale(scheme="viridis"))
        return {"color": colour.to_dict(), "shape": {"value": "circle"}}
    names = sorted({*known}, key=lambda value: (isinstance(value, str), value))
    if len(names) > MOST_VALUES:
        return {"color": alt.Color(f"{field}:N", legend=None).to_dict(), "shape": {"value": "circle"}}
    return {name: channel.to_dict() for name, channel in _told_apart(field, names, alt).items()}


def bundle() -> str:
    """Return the scripts of Vega, Vega-Lite and Vega-Embed, to be written into the page."""
    import vl_convert

    return str(vl_convert.javascript_bundle())  # type: ignore[call-arg]  # its stub knows no default


def _told_apart(field: str, names: Sequence[Any], alt: Any) -> dict[str, Any]:
    """Return colour and shape of a field with these values, under one legend."""
    domain = list(names)
    colours = [COLOURS[number % len(COLOURS)] for number in range(len(domain))]
    shapes = [SHAPES[number // len(COLOURS) % len(SHAPES)] for number in range(len(domain))]
    return {
        "color": alt.Color(f"{field}:N", scale=alt.Scale(domain=domain, range=colours)),
        "shape": alt.Shape(f"{field}:N", scale=alt.Scale(domain=domain, range=shapes)),
    }


def _chart(rows: Rows) -> Any:
    import altair as alt

    return alt.Chart(alt.Data(values=[dict(row) for row in rows]))  # type: ignore[no-untyped-call]


def _spec(chart: Any) -> Spec:
    spec: Spec = chart.to_dict(validate=True)
    spec.pop("config", None)  # the page's own, light or dark
    return spec
