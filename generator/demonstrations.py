"""Which rows are shown to the writer model: the user's seeds, and generated rows within limits.

A model that is shown its own texts, and then texts made from those, drifts away from the seeds. So each generated row is
shown in a limited number of prompts, and a row whose lineage is `max_depth` long is not shown.
"""

import random
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

Row = dict[str, Any]


def task_of(row: Mapping[str, Any]) -> str:
    """Return a row's instruction without the constraints it carries."""
    return str(row.get("task") or row["instruction"])


class Demonstrations:
    """The rows that prompts may show, by category, and how many prompts have shown each."""

    def __init__(self, seeds: Mapping[str, Sequence[Row]], max_depth: int, max_shown: int) -> None:
        """Start with the seeds alone.

        Args:
            seeds: Seeds of each category.
            max_depth: Generated rows with a lineage of this length or longer are not shown.
            max_shown: Largest number of prompts that may show one generated row.
        """
        self.seeds = {name: list(rows) for name, rows in seeds.items()}
        self.times_shown: Counter[str] = Counter()
        self._generated: dict[str, list[Row]] = {}
        self._max_depth, self._max_shown = max_depth, max_shown

    def add(self, row: Row) -> None:
        """Allow prompts to show a generated row."""
        if row["depth"] < self._max_depth:
            self._generated.setdefault(row["category"], []).append(row)

    def choose(self, category: str, human: int, machine: int, rng: random.Random) -> list[Row]:
        """Return up to `machine` generated rows of a category and seeds up to `human + machine` rows in all, shuffled."""
        available = self._available(category)
        rows = rng.sample(available, min(machine, len(available)))
        seeds = self.seeds[category]
        rows = [*rng.sample(seeds, min(human + machine - len(rows), len(seeds))), *rows]
        rng.shuffle(rows)
        self.count_shown(rows)
        return rows

    def count_shown(self, rows: Sequence[Row]) -> None:
        """Count one more prompt that shows these rows."""
        self.times_shown.update(row["id"] for row in rows)

    def choose_parent(self, category: str, rng: random.Random) -> Row:
        """Return one seed or generated row of a category."""
        row = rng.choice([*self.seeds[category], *self._available(category)])
        self.times_shown[row["id"]] += 1
        return row

    def with_inputs(self, category: str) -> list[Row]:
        """Return the seeds of a category that have an input."""
        return [row for row in self.seeds.get(category, ()) if row["input"]]

    def takes_input(self, category: str, input_share: float) -> bool:
        """Return whether at least one seed of a category, and at least this share of them, has an input."""
        return len(self.with_inputs(category)) >= max(1, input_share * len(self.seeds.get(category, ())))

    def _available(self, category: str) -> list[Row]:
        return [row for row in self._generated.get(category, ()) if self.times_shown[row["id"]] < self._max_shown]
