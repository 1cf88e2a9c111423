"""Rows of an instruction file whose answer belongs to another task.

The embedding of an answer is near that of its task, so the task is compared with its own answer and with a sample of the others.
Of 400 rows of Dolly, a quarter with another row's answer, this rank separates the two with an AUC of 0.997. Further answers of a
1.5B model to the short questions were worse evidence (docs/results/audit_planted.md).
"""

import random

import numpy as np
import polars as pl

from kiloset.audit.faults import Finding
from kiloset.core.models import Embedder
from kiloset.core.text import normal_form, words

OTHERS = 300
"""Most answers of other rows that a task is compared with."""
FEWEST = 30
"""A row is not checked against fewer different answers: ranks among so few say little."""
LIMITS = ((5, 0.1), (1, 0.3))
"""Fewest words of an answer, and the largest share of other answers that may be nearer to the task: the embedding of a short answer
("1922", "positive") is less sure."""


def unrelated(table: pl.DataFrame, embedder: Embedder) -> list[Finding]:
    """Return the rows to whose task more other answers are near than `LIMITS` allow; [] for fewer than `FEWEST` rows."""
    if table.height < FEWEST:
        return []
    columns = [table[name].to_list() for name in ("instruction", "user", "response")]
    texts = list(dict.fromkeys(text for column in columns for text in column))
    place_of = {text: place for place, text in enumerate(texts)}
    vectors = embedder.embed(texts)
    instructions, turns, answers = (vectors[[place_of[text] for text in column]] for column in columns)
    # Equal answers count once, and never against each other: `first` has the place of each different one.
    forms = [normal_form(text) for text in columns[-1]]
    first: dict[str, int] = {}
    same_as = np.array([first.setdefault(form, place) for place, form in enumerate(forms)])
    others = np.array(sorted(random.Random("unrelated").sample(list(first.values()), min(OTHERS, len(first)))))
    findings: list[Finding] = []
    for place, (id, text) in enumerate(zip(table["id"], columns[-1], strict=True)):
        limit = next((limit for fewest, limit in LIMITS if len(words(text)) >= fewest), None)
        compared = others[others != same_as[place]]
        if limit is None or len(compared) < FEWEST - 1:
            continue
        # A long input hides what is asked, so the task is also compared without it, and the better rank counts.
        share = min(
            float(np.mean(answers[compared] @ task[place] > answers[place] @ task[place]))
            for task in (instructions, turns)
        )
        if share > limit:
            evidence = f"{share:.0%} of the answers of other rows fit the task better (limit {limit:.0%})"
            findings.append(("answer_unrelated", id, evidence, None))
    return findings
