"""Drop rows that break a named rule: each rule has a measured value and a limit, and can be switched off.

Rules on the instruction run before the run pays for an answer; rules on the whole row run on all rows except seeds. The
rule on masked constraints cannot be switched off.

>>> from kiloset.core.table import table_of
>>> from kiloset.filters import rules
>>> table = table_of([{"id": "g1", "instruction": "Describe it", "response": "A cat.", "source": "generated"}])
>>> kept, dropped = rules.drop(table, rules.Config(min_instruction_words=3))
>>> dropped["evidence"].item()
'2.0 words (limit 3.0)'
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

import polars as pl

from kiloset.core.answers import CUT, MEDIA, REFUSAL, SELF_DESCRIPTION, SIGN_OFF, TEMPLATE, TEXTS
from kiloset.core.config import Count, Fraction, Names, settings
from kiloset.core.errors import ConfigError
from kiloset.core.table import Outcome
from kiloset.data.personal import check_regions
from kiloset.filters import rule_checks
from kiloset.filters.languages import SURE, foreign, known_languages, languages_known
from kiloset.filters.measures import WHITE, loose_pattern, may_begin_alike, measured_where, repeat_rate, top_word_share
from kiloset.filters.personal import LOSSES, PIECE, mask_with_losses, personal_pieces

LEAK = (
    r"(?im)^[^\w\n]*(?:task|instruction|input|output|answer)\s*\d*\s*:(?:\s|$)|\b(?:task|instruction|input|output)\s*\d+\s*:\s"
    r"|come up with a series of (?:different )?(?:tasks|instructions)"
)
INPUT_LEAK = r"(?im)^\s*(?:output|instruction|text)\s*\d*\s*:|^\s*task\s*\d+\s*:"
CONTROL = r"[\x00-\x08\x0B\x0C\x0E-\x1F\x7F\x{FFFD}]"
LOOP_WORDS = 30
"""A response of fewer words may repeat itself, as a list of labels does. A looping model writes up to its limit."""
TOP_SHARE = 0.5
"""Largest share of one word in a response."""
GRADED = (
    "instruction_too_long", "instruction_repetitive", "input_too_long", "input_repetitive", "response_too_long",
    "response_repetitive", "response_loops",
)  # fmt: skip
"""Rules with an upper limit that a good row may come near to."""
PART = 50_000
"""Rows measured at once; bounds the memory."""
MASK_BREAKS = "mask_breaks_constraint"
PIECES = "pieces of personal data"
"""A column that a table has only while the rules measure it."""


@settings
class RulesConfig:
    """The `[rules]` table of a run's TOML."""

    off: Names = ()
    """Names of rules not to apply."""
    min_instruction_words: Count = 3
    """Shortest instruction kept, in words (Self-Instruct's bound)."""
    max_instruction_words: Count = 150
    """Longest instruction kept, in words (Self-Instruct's bound)."""
    max_input_words: Count = 600
    """Longest input kept, in words."""
    max_response_words: Count = 800
    """Longest response kept, in words."""
    languages: Names = ()
    """ISO 639-1 codes of the languages allowed in instructions and responses; without any, the languages of the seeds."""
    max_repeat_rate: Fraction = 0.25
    """Largest fraction of a text's 4-grams of words that may have occurred before in it."""
    personal_data: Literal["flag", "mask", "drop", "off"] = "flag"
    """What to do with e-mail addresses, phone and card numbers, IBAN, public IP addresses, keys and tokens: "flag" keeps the rows and lists the values, redacted, in personal.parquet; "mask" also replaces them by placeholders such as [e-mail address]; "drop" drops the rows (except seeds); "off" does not search for them."""
    phone_regions: Names = ("US",)
    """ISO 3166 codes of the regions whose phone numbers are recognised without "+" and country code; international numbers always are."""


Config = RulesConfig


@dataclass(frozen=True, slots=True)
class Rule:
    """One rule, as Polars expressions over the columns of a row."""

    measured: pl.Expr
    broken: pl.Expr
    limit: float
    quantity: str | pl.Expr
    """What `measured` counts, for the evidence."""


def instruction_rules(config: RulesConfig) -> dict[str, Rule]:
    """Return the rules that an instruction alone can break, in order of precedence."""
    length, characters = _words("instruction"), _words("instruction", cjk=1)
    least, most = config.min_instruction_words, config.max_instruction_words
    return {
        "instruction_too_short": Rule(characters, characters < least, least, "words"),
        "instruction_too_long": Rule(length, length > most, most, "words"),
        "instruction_needs_media": _over(
            measured_where(pl.col("instruction").str.contains(loose_pattern(MEDIA)), ["instruction"], rule_checks.missing_media),
            0, "references to a medium no text model sees",
        ),
        "instruction_repetitive": _over(repeat_rate("instruction"), config.max_repeat_rate, "repeated 4-grams"),
        "instruction_leaks_prompt": _matches("instruction", f"{LEAK}|{TEMPLATE}", "scaffolding of a prompt"),
        "instruction_has_answer": _matches(
            "instruction", r"(?i)[?.]\s*(?:answer|output|response)\s*[:=]\s*\S", "the answer within the task"
        ),
        "instruction_language": _in_another_language("instruction", config.languages),
    }  # fmt: skip


def row_rules(config: RulesConfig) -> dict[str, Rule]:
    """Return the rules that a whole row can break, in order of precedence."""
    size, answer = _words("input"), _words("response")
    cut = pl.col("response").str.count_matches(CUT) * ~pl.col("response").str.contains(SIGN_OFF)
    unpaired = (pl.col("response").str.count_matches("```") % 2).cast(pl.Float64)
    control = pl.sum_horizontal(pl.col("instruction", "input", "response").str.count_matches(CONTROL)).cast(pl.Float64)
    copies = pl.col("response").str.strip_chars(WHITE) == pl.col("input").str.strip_chars(WHITE)
    echoes = may_begin_alike("response", "instruction") | copies
    constrained = pl.col("constraints").list.len() > 0
    if config.personal_data == "mask":
        constrained &= pl.col(LOSSES).list.len() == 0  # a constraint that masking broke is reported already
    points = pl.col("instruction").str.contains(rf"{loose_pattern(TEXTS)}|[:：][{WHITE}]*$") & (pl.col("input") == "")
    columns = ["instruction", "input", "response"]
    return {
        "refers_to_missing_input": _over(
            measured_where(points, ["instruction"], rule_checks.missing_inputs), 0, "references to a text that is not given"
        ),
        "input_too_long": Rule(size, size > config.max_input_words, config.max_input_words, "words"),
        "input_repetitive": _over(repeat_rate("input"), config.max_repeat_rate, "repeated 4-grams"),
        "input_leaks_prompt": _matches("input", f"{INPUT_LEAK}|{TEMPLATE}", "scaffolding of a prompt"),
        "response_empty": Rule(answer, pl.col("response").str.strip_chars() == "", 1, "words"),
        "response_too_long": Rule(answer, answer > config.max_response_words, config.max_response_words, "words"),
        "response_refuses": _matches("response", REFUSAL, "a refusal"),
        "response_speaks_of_itself": _matches("response", SELF_DESCRIPTION, "the model speaking of itself"),
        "response_labelled": _over(
            measured_where(pl.col("response").str.contains(rule_checks.LABEL), columns, rule_checks.has_label), 0,
            "a label before the answer",
        ),
        "response_apologises": _over(
            measured_where(
                pl.col("response").str.contains(rule_checks.APOLOGY), columns[:2], rule_checks.is_unasked_apology
            ), 0, "an apology for nothing",
        ),
        "response_repetitive": _over(
            repeat_rate("response", least_words=LOOP_WORDS), config.max_repeat_rate, "repeated 4-grams"
        ),
        "response_loops": _over(top_word_share("response", least_words=LOOP_WORDS), TOP_SHARE, "share of one word"),
        "response_leaks_template": _matches("response", TEMPLATE, "tokens of a chat template"),
        "response_unfinished": Rule(cut.cast(pl.Float64), cut > 0, 0, "ends in the middle of a sentence"),
        "response_fence_open": Rule(unpaired, unpaired > 0, 0, "code fences without their pair"),
        "response_json_broken": _over(
            measured_where(pl.col("response").str.contains(rule_checks.JSON), ["response"], rule_checks.broken_json), 0,
            "JSON values that do not parse",
        ),
        "response_language": _in_another_language("response", config.languages),
        "response_echoes": _over(
            measured_where(echoes, columns, rule_checks.is_echo), 0, "the response is the instruction or the input again"
        ),
        "control_characters": Rule(control, control > 0, 0, "control or replacement characters"),
        **({MASK_BREAKS: _mask_breaks()} if config.personal_data == "mask" else {}),
        "constraint_broken": _over(
            measured_where(constrained, ["response", "constraints"], rule_checks.broken_constraints), 0,
            "broken constraints of the instruction",
        ),
        **({"personal_data": _personal_data()} if config.personal_data == "drop" else {}),
    }  # fmt: skip


def check_rule_names(config: RulesConfig) -> None:
    """Check the names in `off` and the codes in `languages` and `phone_regions`.

    Raises:
        ConfigError: A name or code is unknown; the message lists the known ones.
    """
    # Masking can invalidate a constraint, and no later stage checks it.
    known = [name for name in (*instruction_rules(config), *row_rules(config)) if name != MASK_BREAKS]
    for name in config.off:
        if name not in known:
            raise ConfigError("KS301", f"[rules] off: no rule {name!r}; known: {', '.join(known)}")
    check_regions(config.phone_regions)
    for code in config.languages:
        if code not in known_languages():
            raise ConfigError(
                "KS302", f"[rules] languages: no language {code!r}; known: {', '.join(known_languages())}"
            )


def with_languages(config: RulesConfig, table: pl.DataFrame) -> RulesConfig:
    """Return a config with the allowed languages: its own or, if it has none, those detected in the table's seeds."""
    if config.languages or {"instruction_language", "response_language"} <= {*config.off}:
        return config
    seeds = table.filter(pl.col("source") == "seed")
    return replace(config, languages=languages_known([*seeds["instruction"], *seeds["response"]]))


def screen_instructions(table: pl.DataFrame, config: RulesConfig) -> Outcome:
    """Drop rows, except seeds, whose instruction breaks a rule; the reason is the first broken rule.

    Without `[rules] languages`, the languages of the table's seeds are allowed, and all languages if it has no seeds.
    """
    rules = instruction_rules(with_languages(config, table))
    return _split(table, _verdicts(table, rules, config.off))


def drop_by_rules(table: pl.DataFrame, config: RulesConfig, pieces: pl.Series | None = None) -> Outcome:
    """Drop rows, except seeds, that break a rule of either kind; the reason is the first broken rule.

    Without `[rules] languages`, the languages of the table's seeds are allowed, and all languages if it has no seeds. With
    `personal_data = "mask"` all rows, also seeds and dropped ones, are masked first (`kiloset.filters.personal.mask_rows`).

    Args:
        table: The rows.
        config: The rules.
        pieces: `personal_pieces` of the table if they are known; None searches for them if the config needs them.
    """
    config = with_languages(config, table)
    prepared = _with_personal_data(table, config, pieces)
    outcome = _split(prepared, _verdicts(prepared, {**instruction_rules(config), **row_rules(config)}, config.off))
    return replace(
        outcome,
        kept=outcome.kept.drop(LOSSES, PIECES, strict=False),
        dropped=outcome.dropped.drop(LOSSES, PIECES, strict=False),
    )


drop = drop_by_rules


def rule_nearness(config: RulesConfig) -> pl.Expr:
    """Measure how near a row is to breaking a rule, in [0, 1]: the largest share of an upper limit that it uses up."""
    rules = {**instruction_rules(config), **row_rules(config)}
    shares = [rule.measured / rule.limit for name, rule in rules.items() if name in GRADED and name not in config.off]
    return pl.max_horizontal(pl.lit(0.0), *shares).clip(0, 1)


def _with_personal_data(table: pl.DataFrame, config: RulesConfig, pieces: pl.Series | None) -> pl.DataFrame:
    """Return the table with the columns that the rules on personal data read."""
    if config.personal_data not in ("drop", "mask"):
        return table
    known = personal_pieces(table, config.phone_regions) if pieces is None else pieces
    if config.personal_data == "mask":
        return mask_with_losses(table, config.phone_regions, known)
    return table.with_columns(pl.Series(PIECES, known, dtype=pl.List(PIECE)))


def _split(table: pl.DataFrame, verdicts: pl.DataFrame) -> Outcome:
    kept = verdicts["reason"].is_null()
    return Outcome(kept=table.filter(kept), dropped=table.hstack(verdicts).filter(~kept))


def _verdicts(table: pl.DataFrame, rules: dict[str, Rule], off: Sequence[str]) -> pl.DataFrame:
    """Return the verdict on each row, null if it breaks no rule."""
    active = {name: rule for name, rule in rules.items() if name not in off}
    parts = [table[start : start + PART] for start in range(0, max(table.height, 1), PART)]
    return pl.concat([_first_broken(part, active) for part in parts])


def _first_broken(table: pl.DataFrame, rules: dict[str, Rule]) -> pl.DataFrame:
    # Each rule is measured once, in a column of its own; then the first broken rule is taken.
    columns = table.select(
        pl.col("id"),
        *(rule.measured.cast(pl.Float64).alias(f"measured {name}") for name, rule in rules.items()),
        *((rule.broken & (pl.col("source") != "seed")).alias(f"broken {name}") for name, rule in rules.items()),
        *(rule.quantity.alias(f"of {name}") for name, rule in rules.items() if isinstance(rule.quantity, pl.Expr)),
    )
    reason, measured, limit, quantity = (pl.lit(None, kind) for kind in (pl.String, pl.Float64, pl.Float64, pl.String))
    for name, rule in reversed(rules.items()):
        broken = pl.col(f"broken {name}")
        reason = pl.when(broken).then(pl.lit(name)).otherwise(reason)
        measured = pl.when(broken).then(pl.col(f"measured {name}")).otherwise(measured)
        limit = pl.when(broken).then(pl.lit(float(rule.limit))).otherwise(limit)
        own = pl.lit(rule.quantity) if isinstance(rule.quantity, str) else pl.col(f"of {name}")
        quantity = pl.when(broken).then(own).otherwise(quantity)
    return columns.with_columns(reason=reason, measured=measured, limit=limit, quantity=quantity).select(
        "reason",
        pl.format("{} {} (limit {})", pl.col("measured").round(3), pl.col("quantity"), pl.col("limit")).alias(
            "evidence"
        ),
        "measured",
        "limit",
        pl.lit(None, pl.String).alias("twin"),
    )


def _words(column: str, cjk: int = 2) -> pl.Expr:
    """Count words at white space; in Chinese and Japanese, which have no spaces, every `cjk` characters are a word."""
    script = r"\p{Han}\p{Hiragana}\p{Katakana}"
    return pl.col(column).str.count_matches(rf"[{script}]{{1,{cjk}}}|[^\s{script}]+").cast(pl.Float64)


def _matches(column: str, pattern: str, name: str) -> Rule:
    number = pl.col(column).str.count_matches(pattern).cast(pl.Float64)
    return Rule(number, number > 0, 0, f"matches of {name}")


def _over(value: pl.Expr, limit: float, quantity: str) -> Rule:
    measured = value.fill_null(0.0)
    return Rule(measured, measured > limit, limit, quantity)


def _in_another_language(column: str, allowed: Sequence[str]) -> Rule:
    detected = foreign(column, allowed)
    share = detected.struct.field("share").fill_null(0.0)
    language = detected.struct.field("language")
    quantity = pl.format(f"probability of the language {{}}; allowed: {', '.join(allowed)}", language)
    return Rule(share, share > SURE, SURE, quantity)


def _mask_breaks() -> Rule:
    """Count the constraints that a row's answer kept only until the row was masked."""
    lost = pl.col(LOSSES)
    number = lost.list.len().cast(pl.Float64)
    quantity = pl.format("constraints kept only until the row was masked: {}", lost.list.join(", "))
    return Rule(number, number > 0, 0, quantity)


def _personal_data() -> Rule:
    """Count the pieces of personal data; the evidence shows the kind and place of each piece, not its value."""
    pieces = pl.col(PIECES)
    number = pieces.list.len().fill_null(0).cast(pl.Float64)
    piece = pl.concat_str(
        pl.element().struct.field("kind"), pl.lit(" "), pl.element().struct.field("redacted"), pl.lit(" in "),
        pl.element().struct.field("column"),
    )  # fmt: skip
    quantity = pl.format("pieces of personal data: {}", pieces.list.eval(piece).list.join(", "))
    return Rule(number, number > 0, 0, quantity)
