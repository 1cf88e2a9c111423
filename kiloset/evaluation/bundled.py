"""Reads the evaluation prompts that are installed with the package; all of them were written for this project.

`choices`, `written` (forgetting), `neutral`, `questions`, `overrides` (rigidity), `passages` (drift), and `tasks`,
`constraints` (held-out instructions; `only_with` and `not_with` name the ids that a prompt may or may not combine).
"""

import json
from functools import cache
from pathlib import Path
from typing import Any

FOLDER = Path(__file__).parent / "data"


@cache
def bundled_rows(name: str) -> tuple[dict[str, Any], ...]:
    """Return the rows of `data/<name>.jsonl` in the order of the file; do not change them."""
    lines = (FOLDER / f"{name}.jsonl").read_text(encoding="utf-8").split("\n")
    return tuple(json.loads(line) for line in lines if line)
