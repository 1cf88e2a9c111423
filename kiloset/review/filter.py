"""The filter of a review: which rows it selects, and in what order; the page's address contains it."""

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from urllib.parse import urlencode

import polars as pl

from kiloset.core.errors import DataError

PARTS = {"set": "in the set", "dropped": "dropped", "all": "all rows"}
STATES = {
    "": "any", "undecided": "undecided", "accepted": "accepted", "edited": "accepted with changes", "rejected": "rejected",
}  # fmt: skip
SCORES = {
    "quality": "the score for selection: a weighted sum of standardised terms within the category; 0 is the mean, higher is better",
    "relevance": "cosine of task and answer, from -1 to 1; low if the answer is about something else",
    "response_words": "length of the answer, in words",
    "rule_nearness": "how near the row is to breaking a rule, from 0 (far) to 1 (on a limit)",
    "surprisal": "surprisal of the answer to the base model, in nats per token; lower is more natural",
    "reference_surprisal": "surprisal of the answer before rewriting",
    "fit_gain": "surprisal that rewriting removed, in nats per token; 0 if the answer was not rewritten",
    "best_gain": "gain of the best rewrite that passed the checks, chosen or not",
    "nearest_cosine": "cosine with the nearest selected row; near 1, both are the same task",
    "nearest_kept_cosine": "cosine with the nearest other row with the same input, recorded only for near rows",
    "style_distance": "distance of the answer's form from the median of its category, in robust standard deviations",
    "style_score": "quality minus style distance, the score for the final rows; higher is better",
    "style_rank": "rank by style_score in the category; 1 is first",
    "category_share": "share of the neighbours that have the category the row was given, from 0 to 1",
    "measured": "the measured value for which a row was dropped",
}
"""The figures of a row, with their meaning."""


@dataclass(frozen=True, slots=True)
class Filter:
    """The parameters of the page's address, under their names there."""

    part: str = "set"
    """One of `PARTS`."""
    category: str = ""
    reason: str = ""
    """Of a dropped row."""
    origin: str = ""
    """A source or a strategy."""
    state: str = ""
    """One of `STATES`."""
    sample: str = ""
    """"yes" for the rows of the blind sample, in its order, whatever part of the run has them now."""
    rewritten: str = ""
    """"yes" for the rows whose answer was rewritten."""
    text: str = ""
    """Text to find in the id, the instruction, the input or the response; case is ignored."""
    score: str = ""
    """One of `SCORES`; its value must be between `least` and `most`."""
    least: str = ""
    most: str = ""
    order: str = "borderline"
    """`borderline`, `id`, or one of `SCORES`, the lowest first; with "-" before it, the highest first."""

    def query(self, **more: str) -> str:
        """Return the query of the address: the parameters that differ from the default, in a fixed order."""
        changed = {name: value for name, value in asdict(self).items() if value != getattr(Filter(), name)}
        return urlencode(changed | {name: value for name, value in more.items() if value})

    def ordered_by(self) -> list[str]:
        """Return the score column of the order, [] if it uses only rank or id."""
        if self.sample:
            return ["sampled"]
        return [] if self.order in ("borderline", "id") else [self.order.removeprefix("-")]

    def order_keys(self) -> tuple[list[str], list[bool]]:
        """Return the columns to sort by, and for each whether the highest comes first."""
        if self.sample:
            return ["sampled"], [False]
        if self.order == "borderline":
            return ["rank"], [False]
        return [*self.ordered_by(), "id"], [*(self.order.startswith("-") for _ in self.ordered_by()), False]

    def expression(self) -> pl.Expr:
        """Return the condition that selects rows of `kiloset.review.rows.overlaid`."""
        tests = [pl.lit(value=True)]
        if self.sample:
            tests.append(pl.col("sampled").is_not_null())
        elif self.part != "all":
            tests.append(pl.col("part") == self.part)
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


def read_filter(query: Mapping[str, str], table: pl.DataFrame) -> Filter:
    """Read the query of the page's address; a reason without `part` means dropped rows.

    Raises:
        DataError: A value is not allowed.
    """
    chosen = Filter(
        **{each.name: query[each.name].strip() for each in fields(Filter) if query.get(each.name, "").strip()}
    )
    scores = [name for name in SCORES if name in table.columns]
    orders = ["borderline", "id", *scores, *(f"-{name}" for name in scores)]
    allowed = {
        "part": PARTS,
        "state": STATES,
        "score": ["", *scores],
        "order": orders,
        "rewritten": ["", "yes"],
        "sample": ["", "yes"],
    }
    for name, values in allowed.items():
        if (value := getattr(chosen, name)) not in values:
            raise DataError(
                "KS701", f"the address has {name}={value!r}; it must be one of {', '.join(v for v in values if v)}"
            )
    for name in ("least", "most"):
        if not _is_number(getattr(chosen, name)):
            raise DataError("KS702", f"the address has {name}={getattr(chosen, name)!r}; it must be a number")
    if chosen.reason and "part" not in query:
        return Filter(**{**asdict(chosen), "part": "dropped"})
    return chosen


def _is_number(text: str) -> bool:
    try:
        return not text or math.isfinite(float(text))
    except ValueError:
        return False
