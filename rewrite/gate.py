"""The fidelity gate: decide whether a rewrite of a response may replace the reference.

SDFT (Yang et al., "Self-Distillation Bridges Distribution Gap in Language Model Fine-Tuning", 2024, arXiv:2402.13669)
keeps a rewrite unless it contains one of six phrases or, for some data sets, a task checker fails. Here a rewrite must pass
every check: the checks below examine its form, `checks.py` the facts that it keeps, `clauses.py` and `passages.py` compare the
two texts part by part. If one check fails, the row keeps its reference. We depart from SDFT in four ways: a phrase must match
whole words and be absent from the reference; numbers, units, names, quotes, links, identifiers, lists and series are compared
with the reference on every task, and the instruction's verifiable constraints are checked on the rewrite; an answer without a
number never equals another answer without one; meaning is compared by embedding, of the whole and of each sentence.

The gate reads surfaces. It does not detect that a statement was denied or turned around ("A is larger than B"), that two steps
changed their order, or that a few words were lost or added. Checks of denials, opposites, roles and choices in matching
sentences caught such faults in pairs written by hand, but changed nothing on rewrites of models (docs/results/fidelity_gate.md).
It rejects a faithful rewrite with another calculation or another notation of a number ("two hundred"). Phrases, names, refusals
and yes/no words are English; in other languages these checks pass or do not apply. Nothing is executed. `benchmarks/gate.py`
measures precision and recall on labelled pairs.
"""

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from itertools import islice
from typing import Annotated

from pydantic import Field

from kiloset.core.answers import CUT_OR_PREPOSITION, REFUSAL_AS_MODEL, TEMPLATE
from kiloset.core.config import Fraction, Natural, Share, settings
from kiloset.core.constraints import failing
from kiloset.core.text import WORD, normal_form, numbers, repeat_rate, squash, words
from kiloset.rewrite import checks, clauses
from kiloset.rewrite.checks import Verdict, fences, not_applicable, plain, verdict
from kiloset.rewrite.passages import Covered

__all__ = ["GateConfig", "Verdict", "first_failure", "judge"]


ECHO_WORDS = 4
"""An instruction of at least so many words is not repeated by chance."""
COPIED_WORDS = 8
"""A rewrite of at least so many words is no passage of its task by chance."""
OPENING_WORDS = 12
"""Words at the beginning of a rewrite in which "another" refers to something outside of it."""
REPEATED_LINES = 3
"""A line of at least so many words that occurs so many times is a loop."""
LEAKS = re.compile(
    r"\b(?:reference answer|the (?:given|original|provided) answer|the reference|as mentioned above"
    r"|(?:my|your) (?:own )?response|now it's your turn|this answer|the answer to (?:this|the|your) (?:question|prompt)"
    r"|(?:original|previous|revised|edited|corrected|above) answer|answer above|(?:answer|text) (?:that )?you (?:gave|provided)"
    r"|re(?:written|phrased) (?:version|answer)|more (?:accurate|concise|detailed|engaging) (?:answer|response|version)"
    r"|in this (?:response|rewrite)|i(?:'ve| have) (?:rewritten|rephrased|reworded|added|kept)|i(?:'ll| will) (?:rewrite|rephrase)"
    r"|the answer is(?=:)"
    r"|ready to (?:help|assist)|i(?:'m|'d| am| will| would)(?: be)? (?:happy|glad|here) to (?:help|assist)"
    r"|write (?:that|this|the) answer again|in your own words|keep every fact|write only the answer)\b",
    re.IGNORECASE,
)
LEAK_OPENINGS = re.compile(
    r"\A\W*+(your turn)\b|\b(another|additional|in addition to)\b"
    r"|\A\W*+(sure|certainly|of course|absolutely)(?:!|, here\b)",
    re.IGNORECASE,
)
PREAMBLE = re.compile(
    r"\A[^\n:]{0,100}?\b(?:(?:the|this|that|your|an?)(?: [\w-]{1,20}){0,3} answer"
    r"|here(?:'s| is)(?: [\w-]{1,20}){1,4} (?:response|version|rewrite))\b[^\n:]{0,80}:",
    re.IGNORECASE,
)
"""A first line that announces the answer ("Here is the answer:")."""
LIST_START = re.compile(r"^[ \t]*+[*_(]{0,3}(\d{1,3})[.)][*_]{0,3}[ \t]", re.MULTILINE)


@settings
class GateConfig:
    """The `[gate]` table of a run's TOML: what a rewrite must keep to replace its reference."""

    shortest_ratio: Share = 0.5
    """Words of the shortest rewrite allowed, as a ratio of the reference's words, before the slack; in (0, 1]."""
    longest_ratio: Annotated[float, Field(ge=1)] = 2.0
    """Words of the longest rewrite allowed, as a ratio of the reference's words, before the slack; at least 1."""
    length_slack_words: Natural = 20
    """Words by which both length limits are widened, so that short answers may grow or shrink."""
    short_reference_words: Natural = 3
    """A reference of at most so many words is not rewritten; 0 switches the check off."""
    min_number_recall: Fraction = 0.95
    """Share of the reference's distinct numbers that the rewrite must contain; all of them if there are 3 or fewer."""
    min_name_recall: Fraction = 0.8
    """Share of the reference's capitalised name words that the rewrite must contain, in [0, 1]."""
    min_meaning: Fraction = 0.80
    """Least cosine between the embeddings of reference and rewrite.

    With MiniLM, 39 of the 42 faithful pairs in `tests/data` have 0.81 or more; a maths answer has 0.77, a list rewritten as
    prose 0.72, a sentence rewritten as a list 0.79. A lower limit would not help: of eleven rewrites of a small model that only
    this check rejected (0.54 to 0.80; three of them with a list in one text and prose in the other), none was clearly faithful.
    """
    min_sentence_meaning: Fraction = 0.45
    """Least cosine of each sentence of either text with the nearest passage of the other text (`rewrite/passages.py`).

    None of the 47 faithful pairs, written by hand or by a model, has less. 0 switches the check off.
    """
    max_clause_words: Natural = 4
    """Content words that may be removed, or added, in one place without a replacement (`rewrite/clauses.py`)."""
    max_repeat_rate: Fraction = 0.2
    """Largest share of the rewrite's word 4-grams that may have occurred in it before, in [0, 1]."""
    max_new_numbers: Natural = 0
    """Distinct numbers that the rewrite may contain although neither reference nor instruction does."""
    max_new_names: Natural = 0
    """Distinct capitalised name words that the rewrite may contain although neither reference nor instruction does."""


def judge(
    instruction: str,
    reference: str,
    rewrite: str,
    *,
    category: str,
    finish_reason: str,
    meaning: float | None,
    config: GateConfig,
    constraints: Sequence[Mapping[str, str]] = (),
    covered: Covered | None = None,
) -> list[Verdict]:
    """Return the verdicts of all checks in this order; no text makes it raise. A pure function of its arguments.

    Args:
        instruction: Instruction and input as one text.
        reference: The response that the rewrite may replace.
        rewrite: The candidate.
        category: The row's category; some checks apply only to maths or code.
        finish_reason: The engine's reason for the end of the completion.
        meaning: Cosine between the embeddings of reference and rewrite, or None if it was not computed.
        config: The limits.
        constraints: The row's constraints, as `kiloset.core.table.CONSTRAINT`.
        covered: The comparison of sentences by `kiloset.rewrite.passages`, or None if it was not made.

    Raises:
        DataError: `kiloset.core.constraints` does not know a constraint.
    """
    return [
        is_finished(reference, rewrite, finish_reason),
        keeps_silent_about_the_prompt(instruction, reference, rewrite),
        does_not_copy_the_task(instruction, reference, rewrite),
        has_similar_length(reference, rewrite, config.shortest_ratio, config.longest_ratio, config.length_slack_words),
        leaves_short_reference_alone(reference, rewrite, config.short_reference_words),
        checks.keeps_privacy(instruction, reference, rewrite),
        checks.keeps_numbers(reference, rewrite, config.min_number_recall),
        checks.adds_no_numbers(instruction, reference, rewrite, config.max_new_numbers),
        checks.keeps_units(reference, rewrite),
        checks.keeps_names(reference, rewrite, config.min_name_recall),
        checks.adds_no_names(instruction, reference, rewrite, config.max_new_names),
        checks.keeps_quotes(reference, rewrite),
        checks.keeps_links(instruction, reference, rewrite),
        checks.keeps_identifiers(reference, rewrite),
        checks.keeps_list_items(reference, rewrite),
        checks.keeps_series(reference, rewrite),
        checks.keeps_polarity(reference, rewrite),
        clauses.keeps_clauses(reference, rewrite, config.max_clause_words),
        clauses.adds_no_clauses(instruction, reference, rewrite, config.max_clause_words),
        checks.keeps_final_number(reference, rewrite, category),
        checks.keeps_code(reference, rewrite, category),
        checks.keeps_json(reference, rewrite),
        keeps_constraints(constraints, rewrite),
        does_not_refuse(reference, rewrite),
        keeps_meaning(meaning, config.min_meaning),
        does_not_repeat(rewrite, config.max_repeat_rate),
        keeps_sentences(covered, config.min_sentence_meaning),
        adds_no_sentences(covered, config.min_sentence_meaning),
    ]


def first_failure(verdicts: Sequence[Verdict]) -> Verdict | None:
    """Return the first verdict that failed, or None; its check is the reason to keep the reference."""
    return next((verdict for verdict in verdicts if verdict.status == "failed"), None)


def is_finished(reference: str, rewrite: str, finish_reason: str) -> Verdict:
    """`finished`: the engine stopped by itself and the text is complete, as far as its ending shows."""
    text = rewrite.rstrip()
    token, cut = re.search(TEMPLATE, text), re.search(CUT_OR_PREPOSITION, text)
    faults = {
        f"the engine stopped for {finish_reason!r}, not for 'stop'": finish_reason != "stop",
        "the rewrite is empty": not text,
        "the rewrite contains broken UTF-8": any(c == "\ufffd" or "\ud800" <= c <= "\udfff" for c in text),
        f"the rewrite contains the chat-template token {token and token[0]!r}": bool(
            token and token[0] not in reference
        ),
        f"the rewrite breaks off after {text[-20:]!r}": bool(cut and not reference.rstrip().endswith(cut[0])),
    }
    fault = next((sentence for sentence, is_true in faults.items() if is_true), None)
    return verdict("finished", not fault, fault or "the rewrite is finished")


def keeps_silent_about_the_prompt(instruction: str, reference: str, rewrite: str) -> Verdict:
    """`leak`: the rewrite does not mention the reference of its prompt and does not continue the reference's numbering.

    It does not announce its answer ("Here is the answer:") and does not begin with the instruction's first paragraph.
    """
    if not WORD.search(rewrite):
        return not_applicable("leak", "the rewrite has no words")
    known = plain(f"{instruction}\n{reference}")
    text = plain(rewrite)
    opening = text[: [match.end() for match in islice(WORD.finditer(text), OPENING_WORDS)][-1]]
    phrases = [match[match.lastindex or 0] for match in [*LEAKS.finditer(text), *LEAK_OPENINGS.finditer(opening)]]
    leak = next(
        (phrase for phrase in phrases if not re.search(rf"\b{re.escape(phrase)}\b", known, re.IGNORECASE)), None
    )
    if leak:
        return verdict("leak", False, f'the rewrite contains "{leak}", which neither instruction nor reference does')
    preamble = PREAMBLE.match(rewrite.replace("’", "'"))
    if preamble and not re.match(r"[^\n]{0,200}\banswer", reference, re.IGNORECASE):
        return verdict("leak", False, f"the rewrite begins {squash(preamble[0])[:60]!r}, the reference does not")
    task, new, old = (normal_form(part) for part in (instruction.lstrip().split("\n\n")[0], rewrite, reference))
    if len(task.split()) >= ECHO_WORDS and new.startswith(task) and not old.startswith(task):
        return verdict("leak", False, "the rewrite begins with the instruction")
    ours, theirs = LIST_START.search(rewrite), LIST_START.search(reference)
    starts = {int(theirs[1])} if theirs else {0, 1}
    if ours and int(ours[1]) not in starts and str(int(ours[1])) not in numbers(reference):
        where = f"at {theirs[1]}" if theirs else "nowhere"
        return verdict("leak", False, f"the rewrite's list starts at {ours[1]}, the reference's {where}")
    return verdict("leak", True, "the rewrite does not mention its prompt")


def does_not_copy_the_task(instruction: str, reference: str, rewrite: str) -> Verdict:
    """`copy`: the rewrite is not a passage of the instruction or its text, unless the reference is one."""
    task, ours, theirs = (f" {' '.join(words(text))} " for text in (instruction, rewrite, reference))
    if len(ours.split()) < COPIED_WORDS:
        return not_applicable("copy", f"the rewrite has fewer than {COPIED_WORDS} words")
    return verdict(
        "copy",
        ours not in task or theirs in task,
        "the rewrite is a passage of the task" if ours in task else "the rewrite is no passage of the task",
    )


def has_similar_length(reference: str, rewrite: str, shortest: float, longest: float, slack: int) -> Verdict:
    """`length`: words between `shortest` and `longest` times the reference's words, plus or minus `slack` words.

    A run of Chinese, Japanese or Thai counts as one word, so the slack hides most changes there.
    """
    wanted, length = len(words(reference)), len(words(rewrite))
    if not wanted:
        return not_applicable("length", "the reference has no words")
    low, high = shortest * wanted - slack, longest * wanted + slack
    limit = low if length < low else high
    return verdict(
        "length", low <= length <= high, f"the rewrite has {length} words, the reference {wanted}", length, limit
    )


def leaves_short_reference_alone(reference: str, rewrite: str, short: int) -> Verdict:
    """`short_reference`: a reference of at most `short` words, usually a label, is not changed."""
    length = len(words(reference))
    if length > short:
        return not_applicable("short_reference", f"the reference has {length} words")
    same = squash(reference) == squash(rewrite)
    evidence = f"the reference has only {length} words and the rewrite {'repeats' if same else 'changes'} them"
    return verdict("short_reference", same, evidence, length, short)


def keeps_constraints(constraints: Sequence[Mapping[str, str]], rewrite: str) -> Verdict:
    """`constraints`: the rewrite keeps every verifiable constraint that the instruction carries."""
    if not constraints:
        return not_applicable("constraints", "the instruction carries no constraint")
    broken = failing(constraints, rewrite)
    evidence = f"the rewrite breaks {', '.join(broken)}" if broken else "the rewrite keeps every constraint"
    return verdict("constraints", not broken, evidence, len(broken), 0)


def does_not_refuse(reference: str, rewrite: str) -> Verdict:
    """`refusal`: the rewrite does not begin with a refusal. Polite evasion is not detected."""
    if re.match(REFUSAL_AS_MODEL, plain(reference)):
        return not_applicable("refusal", "the reference refuses too")
    refusal = re.match(REFUSAL_AS_MODEL, plain(rewrite))
    return verdict("refusal", not refusal, f"the rewrite begins {refusal[0]!r}" if refusal else "the rewrite answers")


def keeps_meaning(meaning: float | None, limit: float) -> Verdict:
    """`meaning`: the cosine between the embeddings of reference and rewrite reaches the limit."""
    if meaning is None:
        return not_applicable("meaning", "no embedding was computed")
    return verdict("meaning", meaning >= limit, f"cosine {meaning:.3f} with the reference", meaning, limit)


def does_not_repeat(rewrite: str, limit: float) -> Verdict:
    """`repetition`: few word 4-grams recur, and outside code no line of three words or more occurs three times."""
    if len(words(rewrite)) < 4:
        return not_applicable("repetition", "the rewrite has fewer than 4 words")
    lines = [squash(line) for line in fences(rewrite).prose.split("\n")]
    copies_of = Counter(line for line in lines if len(words(line)) >= REPEATED_LINES)
    line, copies = max(copies_of.items(), key=lambda pair: pair[1], default=("", 0))
    if copies >= REPEATED_LINES:
        return verdict("repetition", False, f"the line {line[:60]!r} occurs {copies} times", copies, REPEATED_LINES - 1)
    rate = repeat_rate(rewrite)
    return verdict("repetition", rate <= limit, f"{rate:.1%} of the word 4-grams occur again", rate, limit)


def keeps_sentences(covered: Covered | None, limit: float) -> Verdict:
    """`sentences`: each sentence of the reference has a passage of the rewrite with the same meaning."""
    if covered is None:
        return not_applicable("sentences", "compared only if every other check passes")
    return verdict(
        "sentences", covered.kept >= limit, f"the rewrite has least of {covered.lost[:80]!r}", covered.kept, limit
    )


def adds_no_sentences(covered: Covered | None, limit: float) -> Verdict:
    """`new_sentences`: each sentence of the rewrite has a passage of the reference with the same meaning."""
    if covered is None:
        return not_applicable("new_sentences", "compared only if every other check passes")
    return verdict(
        "new_sentences",
        covered.added >= limit,
        f"the reference has least of {covered.new[:80]!r}",
        covered.added,
        limit,
    )
