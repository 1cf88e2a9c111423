"""Which rows are shown to the model: the user's seeds, and new rows within limits that keep drift small.

A model shown its own texts, and then texts made from those, wanders off; so a machine row is shown only so often, and
none is shown whose lineage is as long as `max_depth` already.
"""

import random
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

Row = dict[str, Any]


class Demonstrations:
    """The rows that may be shown, by category, and how often each was."""

    def __init__(self, seeds: Mapping[str, Sequence[Row]], max_depth: int, max_shown: int) -> None:
        """Begin with the seeds alone.

        Args:
            seeds: Seeds of each category.
            max_depth: Longest lineage of a row; one that has it is not shown.
            max_shown: Prompts that may show one machine row.
        """
        self.seeds = {name: list(rows) for name, rows in seeds.items()}
        self.times_shown: Counter[str] = Counter()
        self._machine: dict[str, list[Row]] = {}
        self._max_depth, self._max_shown = max_depth, max_shown

    def add(self, row: Row) -> None:
        """Make a new row one that may be shown."""
        if row["depth"] < self._max_depth:
            self._machine.setdefault(row["category"], []).append(row)

    def choose(self, category: str, human: int, machine: int, rng: random.Random) -> list[Row]:
        """Return seeds and up to `machine` new rows of a category, shuffled; more seeds where new rows lack."""
        open_ = self._open(category)
        shown = rng.sample(open_, min(machine, len(open_)))
        seeds = self.seeds[category]
        shown = [*rng.sample(seeds, min(human + machine - len(shown), len(seeds))), *shown]
        rng.shuffle(shown)
        self.times_shown.update(row["id"] for row in shown)
        return shown

    def choose_parent(self, category: str, rng: random.Random) -> Row:
        """Return one row of a category, a seed or a new one."""
        row = rng.choice([*self.seeds[category], *self._open(category)])
        self.times_shown[row["id"]] += 1
        return row

    def with_inputs(self, category: str) -> list[Row]:
        """Return the seeds of a category that have an input."""
        return [row for row in self.seeds.get(category, ()) if row["input"]]

    def _open(self, category: str) -> list[Row]:
        return [row for row in self._machine.get(category, ()) if self.times_shown[row["id"]] < self._max_shown]
