"""Which rows a reviewer wants to see, and in what order, as it stands in the address of the page."""

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from urllib.parse import urlencode

import polars as pl

from kiloset.core.errors import DataError

FATES = {"set": "in the set", "dropped": "dropped", "all": "all rows"}
STATES = {
    "": "any", "undecided": "undecided", "accepted": "accepted", "edited": "accepted with changes", "rejected": "rejected",
}  # fmt: skip
SCORES = {
    "quality": "what the selection went by: a weighted sum of standardised terms within the category; 0 is its middle, more is better",
    "relevance": "cosine of task and answer, from -1 to 1; low where the answer is about something else",
    "response_words": "length of the answer, in words",
    "rule_nearness": "how near the row is to breaking a rule, from 0 (far) to 1 (on a limit)",
    "surprisal": "how foreign the answer is to the base model, in nats per token; less is more natural",
    "reference_surprisal": "the same of the answer before rewriting",
    "fit_gain": "what rewriting gained, in nats per token; 0 where the answer was left alone",
    "best_gain": "what the best rewrite that passed the checks would gain, chosen or not",
    "nearest_cosine": "cosine with the nearest row taken into the set; near 1 they ask for the same",
    "nearest_kept_cosine": "cosine with the nearest other row with the same input, where near enough to be noted",
    "style_distance": "how far the answer's form is from its category's middle, in robust standard deviations",
    "style_score": "quality less style distance, by which the last rows were chosen; more is better",
    "style_rank": "place by that score in the category; 1 is first",
    "category_share": "share of the neighbours that have the category the row was given, from 0 to 1",
    "measured": "what a dropped row was dropped for, as measured",
}
"""The figures a row may have, with what they mean."""


@dataclass(frozen=True, slots=True)
class Filter:
    """What the address of the page says; the names are those there."""

    fate: str = "set"
    """One of `FATES`."""
    category: str = ""
    reason: str = ""
    """Of a dropped row."""
    origin: str = ""
    """A source or a strategy."""
    state: str = ""
    """One of `STATES`."""
    rewritten: str = ""
    """"yes" for the rows whose answer was rewritten."""
    text: str = ""
    """Stands in the id, the instruction, the input or the response, in any case."""
    score: str = ""
    """One of `SCORES`, which is to lie in the range."""
    least: str = ""
    most: str = ""
    order: str = "borderline"
    """`borderline`, `id`, or one of `SCORES`, the lowest first, the highest first after "-"."""

    def query(self, **more: str) -> str:
        """Return what stands behind "?" in the address: what differs from the default, in one order."""
        said = {name: value for name, value in asdict(self).items() if value != getattr(Filter(), name)}
        return urlencode(said | {name: value for name, value in more.items() if value})

    def ordered_by(self) -> list[str]:
        """Return the column that the order goes by besides the place and the id."""
        return [] if self.order in ("borderline", "id") else [self.order.removeprefix("-")]

    def order_keys(self) -> tuple[list[str], list[bool]]:
        """Return by which columns to sort, and which of them the highest first."""
        if self.order == "borderline":
            return ["rank"], [False]
        return [*self.ordered_by(), "id"], [*(self.order.startswith("-") for _ in self.ordered_by()), False]

    def expression(self) -> pl.Expr:
        """Return which rows of `kiloset.review.rows.overlaid` are shown."""
        tests = [pl.lit(value=True)]
        if self.fate != "all":
            tests.append(pl.col("fate") == self.fate)
        tests += [
            pl.col(name).eq_missing(getattr(self, name)) for name in ("category", "reason") if getattr(self, name)
        ]
        if self.state:
            wanted = ["accepted", "edited"] if self.state == "accepted" else [self.state]
            tests.append(pl.col("state").is_in(wanted))
        if self.origin:
            tests.append(pl.col("source").eq_missing(self.origin) | pl.col("strategy").eq_missing(self.origin))
        if self.rewritten:
            tests.append(pl.col("original_response").is_not_null())
        if self.text:
            wanted_text = self.text.lower()
            columns = ("id", "instruction", "input", "response")
            tests.append(
                pl.any_horizontal(
                    pl.col(name).str.to_lowercase().str.contains(wanted_text, literal=True) for name in columns
                )
            )
        if self.score:
            tests += [pl.col(self.score) >= float(self.least)] if self.least else []
            tests += [pl.col(self.score) <= float(self.most)] if self.most else []
            tests.append(pl.col(self.score).is_not_null())
        return pl.all_horizontal(tests).fill_null(value=False)


def read_filter(said: Mapping[str, str], table: pl.DataFrame) -> Filter:
    """Read the address of the page; a reason alone means dropped rows.

    Raises:
        DataError: A value is none of those allowed.
    """
    found = Filter(**{each.name: said[each.name].strip() for each in fields(Filter) if said.get(each.name, "").strip()})
    scores = [name for name in SCORES if name in table.columns]
    orders = ["borderline", "id", *scores, *(f"-{name}" for name in scores)]
    allowed = {"fate": FATES, "state": STATES, "score": ["", *scores], "order": orders, "rewritten": ["", "yes"]}
    for name, values in allowed.items():
        if (value := getattr(found, name)) not in values:
            raise DataError(
                "KS701", f"the address has {name}={value!r}; it must be one of {', '.join(v for v in values if v)}"
            )
    for name in ("least", "most"):
        if not _is_number(getattr(found, name)):
            raise DataError("KS702", f"the address has {name}={getattr(found, name)!r}; it must be a number")
    if found.reason and "fate" not in said:
        return Filter(**{**asdict(found), "fate": "dropped"})
    return found


def _is_number(text: str) -> bool:
    try:
        return not text or math.isfinite(float(text))
    except ValueError:
        return False
