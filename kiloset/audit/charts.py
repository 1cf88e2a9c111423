"""The charts of the report page, as Vega-Lite specifications made with Altair; the only file that imports it.

Colours are Okabe and Ito's eight (2008), which people with any colour vision can tell apart; where there are more values
than colours, a colour comes again with another shape.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

COLOURS = ("#0072b2", "#e69f00", "#009e73", "#cc79a7", "#d55e00", "#56b4e9", "#7f7f7f", "#b5a500")
SHAPES = ("circle", "square", "triangle-up", "diamond", "cross", "triangle-down")
KEPT, GONE = "#0072b2", "#d55e00"
MOST_VALUES = len(COLOURS) * len(SHAPES)
"""Values that a colour and a shape can tell apart."""
BINS = 40
"""Bars of a histogram at most."""
WIDTH = 620
"""Width of a plot, in pixels, until the page fits it to the room there is."""

Spec = dict[str, Any]
Rows = Sequence[Mapping[str, Any]]


def categories(target: Mapping[str, int], got: Mapping[str, int]) -> Spec:
    """Draw rows wanted and rows got side by side, by category."""
    rows = [
        {"category": name, "of": of, "rows": counts.get(name, 0)}
        for name in sorted({*target, *got})
        for of, counts in (("target", target), ("result", got))
        if counts
    ]
    return beside(rows, "category", "rows", {"target": COLOURS[1], "result": KEPT})


def beside(rows: Rows, name: str, amount: str, colours: Mapping[str, str]) -> Spec:
    """Draw bars of `amount` by `name`, those of each value of `of` side by side, in the order of the rows."""
    import altair as alt

    whole = all(isinstance(row[amount], int) for row in rows)
    axis = alt.Axis(tickMinStep=1, format="d") if whole else alt.Axis()
    colour = alt.Scale(domain=list(colours), range=list(colours.values()))
    return _spec(
        _chart(rows)
        .mark_bar()
        .encode(
            y=alt.Y(f"{name}:N", title=None, sort=None),
            yOffset=alt.YOffset("of:N", sort=list(colours)),
            x=alt.X(f"{amount}:Q", title=amount, axis=axis),
            color=alt.Color("of:N", title=None, scale=colour),
            tooltip=[f"{name}:N", "of:N", f"{amount}:Q"],
        )
        .properties(width=WIDTH)
    )


def bars(counts: Mapping[str, int], name: str) -> Spec:
    """Draw a bar of rows for each name, in the order given."""
    import altair as alt

    return _spec(
        _chart([{name: value, "rows": rows} for value, rows in counts.items()])
        .mark_bar(color=KEPT)
        .encode(
            y=alt.Y(f"{name}:N", title=None, sort=None),
            x=alt.X("rows:Q", title="rows", axis=alt.Axis(tickMinStep=1, format="d")),
            tooltip=[f"{name}:N", "rows:Q"],
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

    plots = []
    for name, found in values.items():
        if found:
            edges = _edges(found)
            plots.append(
                _chart(_binned(found, edges))
                .mark_bar(color=KEPT)
                .encode(
                    x=alt.X("from:Q", bin="binned", title=f"words of {name}{_said_of_rest(found, edges)}"),
                    x2="to:Q",
                    y=alt.Y("rows:Q", title="rows", axis=alt.Axis(tickMinStep=1, format="d")),
                    tooltip=["from:Q", "to:Q", "rows:Q"],
                )
                .properties(width=WIDTH, height=90)
            )
    return _spec(alt.vconcat(*plots))


def lengths_beside(values: Mapping[str, Mapping[str, Sequence[int]]], colours: Mapping[str, str]) -> Spec:
    """Draw for each text the lengths of both sets over one another, as shares of their rows."""
    import altair as alt

    scale = alt.Scale(domain=list(colours), range=list(colours.values()))
    plots = []
    for name, sides in values.items():
        every = [value for found in sides.values() for value in found]
        if every:
            edges = _edges(every)
            rows = [
                {**row, "of": of, "percent of rows": round(100 * row["rows"] / len(found), 2)}
                for of, found in sides.items()
                if found
                for row in [*_binned(found, edges), {"from": edges[-1], "to": edges[-1], "rows": 0}]
            ]
            plots.append(
                _chart(rows)
                .mark_line(interpolate="step-after", strokeWidth=2)
                .encode(
                    x=alt.X("from:Q", title=f"words of {name}{_said_of_rest(every, edges)}"),
                    y=alt.Y("percent of rows:Q"),
                    color=alt.Color("of:N", title=None, scale=scale),
                    strokeDash=alt.StrokeDash("of:N", sort=list(colours), legend=None),
                    tooltip=["of:N", "from:Q", "to:Q", "percent of rows:Q"],
                )
                .properties(width=WIDTH, height=120)
            )
    return _spec(alt.vconcat(*plots))


def _edges(values: Sequence[int]) -> list[int]:
    """Return where bins begin and end: as wide as holds 99 of 100 values in `BINS`; what is longer goes into the last."""
    longest = sorted(values)[int(0.99 * (len(values) - 1))]
    width = max(1, -(-(longest + 1) // BINS))
    return list(range(0, longest + width + 1, width))


def _binned(values: Sequence[int], edges: Sequence[int]) -> list[dict[str, int]]:
    width, last = edges[1] - edges[0], len(edges) - 2
    counts = Counter(min(value // width, last) for value in values)
    return [{"from": edges[at], "to": edges[at + 1], "rows": counts[at]} for at in range(last + 1)]


def _said_of_rest(values: Sequence[int], edges: Sequence[int]) -> str:
    return f" (the last bar: {edges[-2]} to {max(values)})" if max(values) >= edges[-1] else ""


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


def strip(
    rows: Rows, name: str, amount: str, part: str, parts: Sequence[str], title: str, limits: Sequence[float]
) -> Spec:
    """Draw `amount` of each row as a point by `name`, told apart by `part`, with a line at each of the limits."""
    import altair as alt

    mark = (
        _chart([{"limit": limit} for limit in limits]).mark_rule(strokeDash=[4, 4], color="#7f7f7f").encode(x="limit:Q")
    )
    points = (
        _chart(rows)
        .mark_point(filled=True, size=70)
        .encode(
            y=alt.Y(f"{name}:N", title=None, sort=None),
            x=alt.X(f"{amount}:Q", title=title, scale=alt.Scale(zero=False)),
            tooltip=[*(["id:N"] if "id" in rows[0] else []), f"{name}:N", f"{part}:N", f"{amount}:Q"],
            **_told_apart(part, parts, alt),
        )
    )
    return _spec((mark + points).properties(width=WIDTH))


def map_of(rows: Rows, told: Sequence[str]) -> Spec:
    """Draw rows at `x` and `y`; the page zooms it and shows some columns of a row. Colour comes apart."""
    import altair as alt

    zoom = alt.selection_interval(name="zoom", bind="scales")  # its signals are the page's too
    bare = alt.Axis(labels=False, ticks=False, title=None, grid=False, domain=False)
    return _spec(
        _chart(rows)
        .mark_point(filled=True, size=45, opacity=0.8)
        .encode(
            x=alt.X("x:Q", axis=bare, scale=alt.Scale(zero=False)),
            y=alt.Y("y:Q", axis=bare, scale=alt.Scale(zero=False)),
            tooltip=[f"{name}:N" for name in told],
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
