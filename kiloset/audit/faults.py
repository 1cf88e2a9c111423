"""The faults of a set: what each means, how many rows have it, and rows with their places, the worst first."""

import random
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import polars as pl

from kiloset.audit.figures import tally
from kiloset.audit.licenses import NOT_STATED, Conflict
from kiloset.core.form import opening

EXAMPLES = 8
"""Most rows shown of a fault: drawn at random, the same ones each time."""
HALF, EVEN = 0.5, 1.5
"""A category dominates with more than this share of the rows that have a category, and more than so many equal shares."""
OPENING_SHARE, OPENING_ROWS, OPENING_WORDS = 0.1, 20, 6
"""Share and number of answers from which an opening is too common, and the least words of an answer whose opening counts."""

Grade = Literal["grave", "poor", "notice"]
GRADES: dict[Grade, str] = {
    "grave": "settle these before you use the set",
    "poor": "these teach the wrong thing, or the same thing twice",
    "notice": "worth a look, often intended",
}
"""Grades, the worst first."""

Finding = tuple[str, str, str, str | None]
"""A fault's name, the row's id, the evidence, and the id of the row that it duplicates, if any."""


@dataclass(frozen=True, slots=True)
class Meaning:
    """What a fault is."""

    grade: Grade
    title: str
    description: str


MEANINGS = {
    "broken_line": Meaning("grave", "Lines that cannot be read", "No figure below includes them. A trainer may stop at them or skip them silently."),
    "contaminated": Meaning("grave", "Rows that repeat a benchmark", "A model trained on them gets a worthless score on that benchmark. The evidence quotes the shared text."),
    "personal_data": Meaning("grave", "Personal data and keys", "E-mail addresses, phone and card numbers, IBANs, public IP addresses, keys and tokens. A model can memorise them. Names of people are not searched for. The values are not shown."),
    "licences": Meaning("grave", "Licences that bind or contradict each other", "The set as a whole can be passed on only as all its licences allow. These are facts from the licence texts, not legal advice."),
    "response_empty": Meaning("poor", "Empty answers", "They teach the model to answer nothing."),
    "response_short": Meaning("poor", "Answers too short for what is asked", "One or two words although the task asks for a text, or no letter at all. Tasks are recognised in English only."),
    "response_cut": Meaning("poor", "Cut answers", "They end in the middle of a sentence and teach the model to stop there. An answer cut after a word that could end a sentence is not detected."),
    "response_refuses": Meaning("poor", "Refusals", "They teach the model to refuse such tasks. Recognised in English only."),
    "response_apologises": Meaning("poor", "Answers that apologise without a reason", "“I apologize for the confusion, …” without a reason: the rest of a conversation that the row does not contain. Recognised in English only."),
    "response_speaks_of_itself": Meaning("poor", "Answers that mention being a model", "They teach the model another model's name and habits."),
    "scaffolding": Meaning("poor", "Scaffolding of prompts and chat templates", "Tokens such as <|im_end|>, or “Task 3:” and “Output:” in place of a text: remains of how the rows were generated."),
    "exact_duplicate": Meaning("poor", "Exact duplicates", "Instruction, input and answer equal another row's, ignoring case, punctuation and white space. The model learns each copy again."),
    "near_duplicate": Meaning("poor", "Near-duplicates", "Instruction and input share at least 70 % of their character 5-grams with another row's (short ones 75 % of the 4-grams, or all words). If the two rows are in different splits, the split leaks."),
    "other_answer": Meaning("poor", "Same task, another answer", "Instruction and input equal another row's, but the answer differs: the model learns both. This is fine if several answers are intended."),
    "category_dominates": Meaning("poor", "A category that dominates", "It has more than half of the rows and more than 1.5 times an equal share, so it is what the set mostly teaches."),
    "other_language": Meaning("poor", "Rows in another language", "The instruction or the answer is surely in a language of less than a fifth of the rows. Tasks about languages or translation are exempt."),
    "response_json_broken": Meaning("poor", "JSON that does not parse", "The answer is, or contains, text that should be JSON."),
    "response_fence_open": Meaning("poor", "Code blocks that are not closed", "A code fence without its closing fence, often because the answer was cut."),
    "response_echoes": Meaning("poor", "Answers that repeat the question", "The answer repeats the instruction or the whole input."),
    "response_repetitive": Meaning("poor", "Answers that repeat themselves", "More than a quarter of the word 4-grams occur earlier in the text, or one word makes up half of it. A model in a loop writes like this; so does a song with a chorus."),
    "control_characters": Meaning("poor", "Control and replacement characters", "Usually the result of a wrong encoding."),
    "answer_unrelated": Meaning("poor", "Answers to another question", "Most likely the columns of the file were shifted, or answers were joined to the wrong tasks: the embedding of the task is nearer to many other answers than to its own."),
    "equation_wrong": Meaning("poor", "Wrong sums", "The answer states an equation of plain numbers that is false. Equations with variables are not read."),
    "count_broken": Meaning("poor", "Answers that miss a stated number", "The task asks for so many sentences, words, lines or list items, and the answer has another number. Recognised in English only."),
    "code_broken": Meaning("poor", "Code that cannot run", "Python that does not parse or lacks the function that the task names, or JSON that is none. Nothing is executed."),
    "constraint_broken": Meaning("poor", "Answers that break a constraint", "The row states a constraint that a program can check, and the answer does not satisfy it."),
    "refers_to_missing_input": Meaning("poor", "Tasks that refer to a missing text", "“The following text” is missing, so the answer can only be invented."),
    "instruction_needs_media": Meaning("poor", "Tasks about pictures, sound or files", "A text model cannot see what they refer to."),
    "instruction_has_answer": Meaning("poor", "Tasks that contain their answer", "The instruction ends with “Answer: …”."),
    "instruction_too_short": Meaning("notice", "Instructions of one or two words", "It is hard to know what they ask for."),
    "instruction_repetitive": Meaning("notice", "Instructions that repeat themselves", "More than a quarter of the word 4-grams occur earlier in the text."),
    "input_repetitive": Meaning("notice", "Inputs that repeat themselves", "More than a quarter of the word 4-grams occur earlier in the text."),
    "instruction_too_long": Meaning("notice", "Very long instructions", "Over 600 words: a trainer cuts what exceeds its maximum length, often the answer."),
    "input_too_long": Meaning("notice", "Very long inputs", "Over 600 words: a trainer cuts what exceeds its maximum length, often the answer."),
    "response_too_long": Meaning("notice", "Very long answers", "Over 800 words: a trainer cuts what exceeds its maximum length, so the model does not learn the end of the answer."),
    "response_no_stop": Meaning("notice", "Answers that end without a full stop", "The earlier sentences of the answer have theirs: perhaps it was cut, perhaps written carelessly."),
    "shared_text": Meaning("notice", "Two tasks on one text", "Much of the text equals another row's, but the instruction or the input differs: for example, two questions about one passage. They belong in the same split."),
    "template": Meaning("notice", "More than three rows with one template", "They differ in numbers, names or symbols only. This is fine if the model should learn exactly that."),
    "opening_common": Meaning("notice", "An opening that dominates", "More than a tenth of the answers of six words or more begin with the same three words, and the model will do the same."),
    "license_missing": Meaning("notice", "Rows without a licence", "Other rows state one. Nobody knows whether these may be passed on."),
}  # fmt: skip
"""By name. Most names are those of rules (`kiloset.filters.rules`); `OF_RULES` has the others."""

OF_RULES = {
    "instruction_leaks_prompt": "scaffolding",
    "input_leaks_prompt": "scaffolding",
    "response_leaks_template": "scaffolding",
    "response_labelled": "scaffolding",
    "response_unfinished": "response_cut",
    "response_loops": "response_repetitive",
    "instruction_language": "other_language",
    "response_language": "other_language",
}
"""The faults of rules that have another name here."""


@dataclass(frozen=True, slots=True)
class RowText:
    """A row as it is shown."""

    place: str
    user: str
    response: str


@dataclass(frozen=True, slots=True)
class FaultExample:
    """A row that has a fault, or a line that cannot be read."""

    evidence: str
    row: RowText
    duplicate: RowText | None = None


@dataclass(frozen=True, slots=True)
class Fault:
    """A fault of a set, with its rows."""

    name: str
    rows: int
    """Rows with the fault; for `broken_line`, lines."""
    of: int
    """Rows, or lines, of the set."""
    ids: frozenset[str]
    """Ids of these rows; empty for a fault of the set as a whole."""
    examples: tuple[FaultExample, ...]
    details: tuple[str, ...] = ()

    @property
    def meaning(self) -> Meaning:
        """What the fault is."""
        return MEANINGS[self.name]

    @property
    def share(self) -> float:
        """Fraction of the rows in [0, 1]."""
        return self.rows / self.of


def faults_of(
    table: pl.DataFrame,
    findings: Iterable[Finding],
    broken: Sequence[tuple[str, str]],
    conflicts: Sequence[Conflict],
    notes: Mapping[str, Sequence[str]],
) -> list[Fault]:
    """Return the faults of a set, by grade and then by rows.

    Args:
        table: Rows as they may be shown: `id`, `place`, `user`, `response`, `category`, `license`.
        findings: The findings in single rows; a row counts once for each fault.
        broken: Place and reason of each line that could not be read.
        conflicts: Conflicts of its licences (`kiloset.audit.licenses.conflicts`).
        notes: Details of faults, by name.
    """
    by_fault: dict[str, dict[str, tuple[str, str | None]]] = {}
    for name, id, evidence, duplicate in findings:
        by_fault.setdefault(name, {}).setdefault(id, (evidence, duplicate))
    rows = {row["id"]: RowText(row["place"], row["user"], row["response"]) for row in table.iter_rows(named=True)}
    faults = [
        Fault(name, len(ids), table.height, frozenset(ids), _examples(name, ids, rows), tuple(notes.get(name, ())))
        for name, ids in by_fault.items()
    ]
    if broken:
        lines = table["place"].n_unique() + len(broken)
        examples = tuple(FaultExample(reason, RowText(place, "", "")) for place, reason in broken[:EXAMPLES])
        faults.append(Fault("broken_line", len(broken), lines, frozenset(), examples))
    faults += [*_category(table, rows), *_opening(table, rows), *_licences(table, conflicts, rows)]
    grades = list(GRADES)
    return sorted(faults, key=lambda fault: (grades.index(fault.meaning.grade), -fault.rows, fault.name))


def _examples(
    name: str, ids: Mapping[str, tuple[str, str | None]], rows: Mapping[str, RowText], most: int = EXAMPLES
) -> tuple[FaultExample, ...]:
    order = sorted(ids)
    chosen = sorted(random.Random(name).sample(order, min(most, len(order))))
    evidence = [(id, *ids[id]) for id in chosen]
    return tuple(FaultExample(text, rows[id], rows[other] if other else None) for id, text, other in evidence)


def _whole(name: str, part: pl.DataFrame, of: int, rows: Mapping[str, RowText], details: Sequence[str]) -> Fault:
    """Return a fault of the set as a whole, with some rows that show it."""
    examples = _examples(name, dict.fromkeys(part["id"], ("", None)), rows, 3)
    return Fault(name, part.height, of, frozenset(), examples, tuple(details))


def _category(table: pl.DataFrame, rows: Mapping[str, RowText]) -> list[Fault]:
    known = table.filter(pl.col("category") != "")
    counts = tally(known["category"])
    if len(counts) < 2:
        return []
    name, most = next(iter(counts.items()))
    if most <= known.height * max(HALF, EVEN / len(counts)):
        return []
    detail = f"“{name}” has {most} of the {known.height} rows with a category; there are {len(counts)} categories"
    return [_whole("category_dominates", known.filter(pl.col("category") == name), known.height, rows, [detail])]


def _opening(table: pl.DataFrame, rows: Mapping[str, RowText]) -> list[Fault]:
    long = table.filter(pl.col("response").str.count_matches(r"\S+") >= OPENING_WORDS)
    firsts = [opening(text) for text in long["response"]]
    counts = Counter(filter(None, firsts))
    common = {first for first, times in counts.items() if times >= OPENING_ROWS and times > OPENING_SHARE * long.height}
    part = long.filter(pl.Series([first in common for first in firsts], dtype=pl.Boolean))
    details = [f"“{first} …”: {counts[first]} rows" for first in sorted(common, key=lambda first: -counts[first])]
    return [_whole("opening_common", part, long.height, rows, details)] if common else []


def _licences(table: pl.DataFrame, conflicts: Sequence[Conflict], rows: Mapping[str, RowText]) -> list[Fault]:
    """Return the conflicts between several licences; what a single licence requires of the whole set is not a fault."""
    counts = tally(table["license"])
    stated = {name: number for name, number in counts.items() if name.strip().casefold() not in NOT_STATED}
    faults = []
    relevant = [conflict for conflict in conflicts if {*conflict.licences} & stated.keys()]
    if len(stated) > 1 and relevant:
        named = {name for conflict in relevant for name in conflict.licences}
        details = [f"{name}: {number} rows" for name, number in stated.items()]
        details += [f"{', '.join(conflict.licences)}: {conflict.why}" for conflict in relevant]
        part = table.filter(pl.col("license").is_in(sorted(named)))
        faults.append(_whole("licences", part, table.height, rows, details))
    if stated and len(stated) < len(counts):
        part = table.filter(~pl.col("license").is_in(list(stated)))
        faults.append(_whole("license_missing", part, table.height, rows, []))
    return faults
