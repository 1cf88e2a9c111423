"""Phrases that ask for verifiable constraints, and the arguments to choose from.

A phrase is a whole sentence. `$name` is an argument; `$most` is one less than the bound of "less than". `string.Template`
inserts the values and never parses them, so braces and dollar signs in a user's text stay as they are.
"""

from collections.abc import Callable, Iterable, Mapping
from random import Random
from string import Template
from typing import Any


class PhraseBook:
    """The arguments and phrases of constraints."""

    def __init__(self, rows: Iterable[Mapping[str, Any]]) -> None:
        """Read rows with `id`, `arguments`, `phrases` and, if phrases depend on it, `relation`."""
        self.arguments: dict[str, tuple[Mapping[str, Any], ...]] = {}
        """The argument sets to choose from, for each id whose arguments do not depend on the instruction."""
        self.phrases: dict[tuple[str, str], tuple[str, ...]] = {}
        """The phrases of each id and relation, "" for none."""
        for row in rows:
            if row["arguments"]:
                self.arguments[row["id"]] = (*self.arguments.get(row["id"], ()), *row["arguments"])
            self.phrases[row["id"], row.get("relation", "")] = tuple(row["phrases"])

    def phrase(self, rng: Random, id: str, args: Mapping[str, Any], as_text: Callable[[str, Any], str]) -> str:
        """Return a sentence that states a constraint; `as_text` turns an argument's name and value into text."""
        relation = next((value for name, value in args.items() if name.endswith("relation")), "")
        values = {name: as_text(name, value) for name, value in args.items()}
        bounds = [value for value in args.values() if isinstance(value, int)]
        values["most"] = str(bounds[0] - 1) if bounds else ""
        return Template(rng.choice(self.phrases[id, relation])).substitute(values)
