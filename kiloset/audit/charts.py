"""The charts of the pages, as Vega-Lite specifications made with Altair; the only file that imports it.

Colours are Okabe and Ito's eight (2008), which people with any colour vision can distinguish. With more values than colours, a
colour is used again with another shape.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

COLOURS = ("#0072b2", "#e69f00", "#009e73", "#cc79a7", "#d55e00", "#56b4e9", "#7f7f7f", "#b5a500")
SHAPES = ("circle", "square", "triangle-up", "diamond", "cross", "triangle-down")
KEPT, GONE = "#0072b2", "#d55e00"
MOST_VALUES = len(COLOURS) * len(SHAPES)
"""Values that a colour and a shape can distinguish."""
BINS = 40
"""Most bars of a histogram."""
WIDTH = 620
"""Width of a plot, in pixels, before the page fits it to the window."""

Spec = dict[str, Any]
Rows = Sequence[Mapping[str, Any]]


def categories(target: Mapping[str, int], result: Mapping[str, int]) -> Spec:
    """Draw target rows and result rows side by side, by category."""
    rows = [
        {"category": name, "of": of, "rows": counts.get(name, 0)}
        for name in sorted({*target, *result})
        for of, counts in (("target", target), ("result", result))
        if counts
    ]
    return bars(rows, "category", "rows", "of", {"target": COLOURS[1], "result": KEPT}, offset="of")


def bars(
    rows: Rows, name: str, amount: str, part: str = "", colours: Mapping[str, str] | None = None, offset: str = ""
) -> Spec:  # fmt: skip
    """Draw horizontal bars of `amount` by `name`, in the order of the rows.

    Args:
        rows: The data.
        name: Column with the bar's name.
        amount: Column with the bar's length.
        part: Column by whose values a bar is divided; "" divides none.
        colours: Colour of each value of `part`.
        offset: Column by whose values bars stand side by side; "" stacks the parts.
    """
    import altair as alt

    whole = all(isinstance(row[amount], int) for row in rows)
    axis = alt.Axis(tickMinStep=1, format="d") if whole else alt.Axis()
    encoding: dict[str, Any] = {
        "y": alt.Y(f"{name}:N", title=None, sort=None),
        "x": alt.X(f"{amount}:Q", title=amount, axis=axis),
        "tooltip": [f"{column}:N" for column in (name, part) if column] + [f"{amount}:Q"],
    }
    if colours:
        scale = alt.Scale(domain=list(colours), range=list(colours.values()))
        encoding["color"] = alt.Color(f"{part}:N", title=None, scale=scale)
    if offset:
        encoding["yOffset"] = alt.YOffset(f"{offset}:N", sort=list(colours or ()))
    mark = _chart(rows).mark_bar() if colours else _chart(rows).mark_bar(color=KEPT)
    return _spec(mark.encode(**encoding).properties(width=WIDTH))


def histograms(values: Mapping[str, Sequence[int]]) -> Spec:
    """Draw a histogram of each list of whole numbers, one above the other, each over its own range."""
    import altair as alt

    plots = []
    for name, counts in values.items():
        if counts:
            edges = _edges(counts)
            plots.append(
                _chart(_binned(counts, edges))
                .mark_bar(color=KEPT)
                .encode(
                    x=alt.X("from:Q", bin="binned", title=f"words of {name}{_last_bar(counts, edges)}"),
                    x2="to:Q",
                    y=alt.Y("rows:Q", title="rows", axis=alt.Axis(tickMinStep=1, format="d")),
                    tooltip=["from:Q", "to:Q", "rows:Q"],
                )
                .properties(width=WIDTH, height=90)
            )
    return _spec(alt.vconcat(*plots))


def lengths_beside(values: Mapping[str, Mapping[str, Sequence[int]]], colours: Mapping[str, str]) -> Spec:
    """Draw the lengths of both sets in one plot for each text, as shares of their rows."""
    import altair as alt

    scale = alt.Scale(domain=list(colours), range=list(colours.values()))
    plots = []
    for name, sides in values.items():
        every = [value for counts in sides.values() for value in counts]
        if every:
            edges = _edges(every)
            rows = [
                {**row, "of": of, "percent of rows": round(100 * row["rows"] / len(counts), 2)}
                for of, counts in sides.items()
                if counts
                for row in [*_binned(counts, edges), {"from": edges[-1], "to": edges[-1], "rows": 0}]
            ]
            plots.append(
                _chart(rows)
                .mark_line(interpolate="step-after", strokeWidth=2)
                .encode(
                    x=alt.X("from:Q", title=f"words of {name}{_last_bar(every, edges)}"),
                    y=alt.Y("percent of rows:Q"),
                    color=alt.Color("of:N", title=None, scale=scale),
                    strokeDash=alt.StrokeDash("of:N", sort=list(colours), legend=None),
                    tooltip=["of:N", "from:Q", "to:Q", "percent of rows:Q"],
                )
                .properties(width=WIDTH, height=120)
            )
    return _spec(alt.vconcat(*plots))


def _edges(values: Sequence[int]) -> list[int]:
    """Return the edges of at most `BINS` bins for 99 of 100 values; the last bin takes all larger values."""
    longest = sorted(values)[int(0.99 * (len(values) - 1))]
    width = max(1, -(-(longest + 1) // BINS))
    return list(range(0, longest + width + 1, width))


def _binned(values: Sequence[int], edges: Sequence[int]) -> list[dict[str, int]]:
    width, last = edges[1] - edges[0], len(edges) - 2
    counts = Counter(min(value // width, last) for value in values)
    return [{"from": edges[at], "to": edges[at + 1], "rows": counts[at]} for at in range(last + 1)]


def _last_bar(values: Sequence[int], edges: Sequence[int]) -> str:
    return f" (the last bar: {edges[-2]} to {max(values)})" if max(values) >= edges[-1] else ""


def before_and_after(rows: Rows) -> Spec:
    """Draw each row's surprisal `before` and `after` (nats per token); below the line, the answer is more likely than before."""
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
            **_colour_and_shape("source", sources, alt),
        )
    )
    return _spec((line + points).properties(width=WIDTH, height=280))


def strip(
    rows: Rows, name: str, amount: str, part: str, parts: Sequence[str], title: str, limits: Sequence[float]
) -> Spec:
    """Draw `amount` of each row as a point by `name`, with a colour and shape by `part` and a line at each limit."""
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
            **_colour_and_shape(part, parts, alt),
        )
    )
    return _spec((mark + points).properties(width=WIDTH))


def map_of(rows: Rows, columns: Sequence[str]) -> Spec:
    """Draw rows at `x` and `y`, with some columns as tooltip; the page adds zoom and colour (`colours_by`)."""
    import altair as alt

    zoom = alt.selection_interval(name="zoom", bind="scales")  # report.js uses its signals
    bare = alt.Axis(labels=False, ticks=False, title=None, grid=False, domain=False)
    return _spec(
        _chart(rows)
        .mark_point(filled=True, size=45, opacity=0.8)
        .encode(
            x=alt.X("x:Q", axis=bare, scale=alt.Scale(zero=False)),
            y=alt.Y("y:Q", axis=bare, scale=alt.Scale(zero=False)),
            tooltip=[f"{name}:N" for name in columns],
        )
        .add_params(zoom)
        .properties(width=WIDTH, height=460)
    )


def colours_by(field: str, values: Sequence[Any]) -> Spec:
    """Return the encoding that colours a map by a field: by colour and shape if its values are names, else on a scale."""
    import altair as alt

    known = [value for value in values if value is not None]
    if all(isinstance(value, float) for value in known):
        colour = alt.Color(f"{field}:Q", scale=alt.Scale(scheme="viridis"))
        return {"color": colour.to_dict(), "shape": {"value": "circle"}}
    names = sorted({*known}, key=lambda value: (isinstance(value, str), value))
    if len(names) > MOST_VALUES:
        return {"color": alt.Color(f"{field}:N", legend=None).to_dict(), "shape": {"value": "circle"}}
    return {name: channel.to_dict() for name, channel in _colour_and_shape(field, names, alt).items()}


def bundle() -> str:
    """Return the scripts of Vega, Vega-Lite and Vega-Embed, which the page includes."""
    import vl_convert

    return str(vl_convert.javascript_bundle())  # type: ignore[call-arg]  # its stub lacks the default


def _colour_and_shape(field: str, names: Sequence[Any], alt: Any) -> dict[str, Any]:
    """Return the colour and shape encodings of a field with these values, under one legend."""
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
