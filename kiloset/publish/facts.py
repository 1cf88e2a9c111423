"""What a data card tells besides what the audit measured."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from kiloset.audit.report import Audit


@dataclass(frozen=True, slots=True)
class Part:
    """A file, or a folder, with one side of the split."""

    split: str
    path: str
    """As the card's reader has it, from the folder of the card."""
    rows: int


@dataclass(frozen=True, slots=True)
class Facts:
    """What a card tells besides what the audit measured."""

    manifest: Mapping[str, Any]
    settings: Mapping[str, Any]
    """The tables of config.toml, defaults included; {} where it is not there."""
    changed: str
    """TOML of the settings that are not as by default."""
    settings_sha256: str
    curated_sha256: str
    command: str
    """What makes it again."""
    layout: str
    """Of the export; "" for curated.jsonl as it lies in the run's folder."""
    columns: Sequence[str]
    """Of curated.jsonl, in order."""
    parts: Sequence[Part]
    place: str
    """What `load_dataset` is given."""
    given: Mapping[str, Mapping[str, int]]
    """Rows of seeds and of the existing set that the run began with, by source and licence."""
    sources: Mapping[tuple[str, str, str], int]
    """Rows by source, writer and licence."""
    rewriter: str | None
    """Licence of the model that rewrote answers of the set, None where that is the generator or no answer is a rewrite."""
    examples: Sequence[tuple[str, str, str]]
    """Category, user's turn and answer of some rows."""
    personal: Mapping[str, int]
    """Pieces of personal data in the set, by kind."""
    languages: Sequence[str]
    """ISO 639 codes of what the set is in, as far as it can be told."""
    decisions: Mapping[str, int]
    """Decisions of a review that stand, by verdict."""
    evaluation: Mapping[str, Any] | None
    """evaluation.json."""
    proof: Mapping[str, Any] | None
    """prove/proof.json."""

    @property
    def licences(self) -> dict[str, int]:
        """Rows by licence, in alphabetical order; that of a model which rewrote answers counts as one."""
        found: dict[str, int] = {} if self.rewriter is None else {self.rewriter: 1}
        for (_, _, licence), rows in self.sources.items():
            found[licence] = found.get(licence, 0) + rows
        return dict(sorted(found.items()))

    def setting(self, dotted: str) -> Any:
        """Return a setting, None where it is not recorded."""
        found: Any = self.settings
        for name in dotted.split("."):
            found = found.get(name) if isinstance(found, Mapping) else None
        return found


def private(text: object) -> str:
    """Return a path of somebody's machine by its last part, and a model on a server without the server's address."""
    said = str(text)
    if re.match(r"/|~|\.\.|[A-Za-z]:[\\/]|\\\\|file:", said):
        said = re.split(r"[\\/]", said.rstrip("/\\"))[-1]
    return re.sub(r"@(?=[^\s@,]*[./:]|localhost)[^\s@,]+", "@(a server)", said)


def rewritten(found: Audit) -> int:
    """Return how many answers of the set are rewrites."""
    if found.rewriting is None:
        return 0
    counts = found.rewriting.sources.values()
    return sum(rows for said in counts for source, rows in said.items() if source not in ("reference", "none", ""))
