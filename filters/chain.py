"""Rules, near-duplicates and contamination of a growing table, with each row judged once by each filter.

The generation loop counts a candidate only if it passes these filters, wave after wave, and the stages of the same names
judge the same rows again afterwards. Rules and contamination depend on the row alone, so the loop's verdicts are
remembered by row. Which row is a near-duplicate depends on the others: that outcome is remembered for a whole table.
"""

from dataclasses import dataclass
from typing import Any

import polars as pl

from kiloset.core.table import Outcome, with_verdicts
from kiloset.filters.contamination import Prompts
from kiloset.filters.near_duplicates import NearDuplicatesConfig, drop_near_duplicates
from kiloset.filters.personal import PIECE, personal_pieces, personal_rows
from kiloset.filters.rules import RulesConfig, drop_by_rules, with_languages

TEXTS = ("instruction", "input", "response")


@dataclass(frozen=True)
class _Judged:
    """Rows that the rules have judged."""

    before: pl.DataFrame
    """`id` and the texts as they were judged, before personal data was masked, and `piece`: the personal data found."""
    outcome: Outcome


class FilterChain:
    """The filters of one run, and the verdicts that they have reached so far."""

    def __init__(self, rules: RulesConfig, near_duplicates: NearDuplicatesConfig, prompts: Prompts, seed: int) -> None:
        """Take the settings; `prompts` are the benchmarks', and `seed` is that of the hash functions."""
        self._rules, self._near_duplicates, self._prompts, self._seed = rules, near_duplicates, prompts, seed
        self._allowed: RulesConfig | None = None
        self._judged: _Judged | None = None
        self._contaminated: dict[str, dict[str, Any] | None] = {}
        self._distinct: tuple[pl.DataFrame, Outcome] | None = None

    def candidates(self, table: pl.DataFrame) -> Outcome:
        """Return which rows pass all three filters, and remember the verdicts."""
        self._judged = self._by_rules(table)
        distinct = self.by_near_duplicates(self._judged.outcome.kept).kept
        return with_verdicts(distinct, self.repeated_by(distinct))

    def by_rules(self, table: pl.DataFrame) -> tuple[Outcome, pl.DataFrame]:
        """Drop rows that break a rule (`drop_by_rules`); also return the personal data found (`personal_rows`)."""
        judged = self._by_rules(table)
        return judged.outcome, personal_rows(judged.before, self._rules.phone_regions, judged.before["piece"])

    def by_near_duplicates(self, table: pl.DataFrame) -> Outcome:
        """Drop near-duplicates of kept rows (`drop_near_duplicates`); the same table is not judged twice."""
        if self._distinct is None or not self._distinct[0].equals(table):
            outcome = drop_near_duplicates(table, self._near_duplicates, seed=self._seed)
            self._distinct = table, outcome
        return self._distinct[1]

    def repeated_by(self, table: pl.DataFrame) -> dict[str, dict[str, Any]]:
        """Return the verdicts of rows that repeat a benchmark, by id (`Prompts.repeated_by`)."""
        fresh = table.filter(~pl.col("id").is_in(list(self._contaminated)))
        verdicts = self._prompts.repeated_by(fresh) if fresh.height else {}
        self._contaminated |= {id: verdicts.get(id) for id in fresh["id"]}
        return {id: verdict for id in table["id"] if (verdict := self._contaminated[id]) is not None}

    def _by_rules(self, table: pl.DataFrame) -> _Judged:
        if self._allowed is None:
            self._allowed = with_languages(self._rules, table)
        old = self._judged
        if old is None or not {*table.columns} <= {*old.outcome.kept.columns}:
            return self._judge(table, self._allowed)
        fresh = table.join(old.before, on=["id", *TEXTS], how="anti", maintain_order="left")
        if fresh.is_empty() and table.height == old.before.height:
            return old
        new = self._judge(fresh, self._allowed)

        def merged(*parts: pl.DataFrame) -> pl.DataFrame:
            unchanged = parts[0].join(fresh.select("id"), on="id", how="anti")
            both = pl.concat([unchanged, parts[1]], how="diagonal_relaxed")
            return table.select("id").join(both, on="id", how="inner", maintain_order="left")

        kept, dropped = (merged(*parts) for parts in zip(old.outcome, new.outcome, strict=True))
        return _Judged(merged(old.before, new.before), Outcome(kept, dropped))

    def _judge(self, table: pl.DataFrame, rules: RulesConfig) -> _Judged:
        if rules.personal_data == "off":
            pieces = pl.Series([None] * table.height, dtype=pl.List(PIECE))
        else:
            pieces = personal_pieces(table, rules.phone_regions)
        before = table.select("id", *TEXTS, pieces.alias("piece"))
        return _Judged(before, drop_by_rules(table, rules, pieces))
