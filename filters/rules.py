"""Named rules, each of which drops what it can show to be wrong.

Rules on the instruction run before an answer is paid for; rules on the whole row run on everything but the user's own
seeds. Each has a name, a measured value and a limit, and can be switched off, but for that on masked constraints.
"""

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import polars as pl

from kiloset.core.config import Count, Fraction, Names, settings
from kiloset.core.constraints import failing
from kiloset.core.errors import ConfigError
from kiloset.core.table import Outcome, no_rows
from kiloset.core.text import normal_form
from kiloset.data.personal import check_regions
from kiloset.filters.languages import SURE, foreign, languages_known, languages_told_apart
from kiloset.filters.measures import WHITE, holds, may_begin_alike, repeat_rate, top_word_share, where
from kiloset.filters.personal import LOSSES, PIECE, mask_with_losses, personal_pieces

MEDIA = r"images?|pictures?|photos?|photographs?|videos?|audio|recordings?|files?|graphs?|maps?|diagrams?|charts?|attachments?|screenshots?"
TEXTS = r"texts?|passages?|sentences?|paragraphs?|lists?|articles?|story|stories|data|code|snippets?|functions?|e-?mails?|messages?|words?|poems?|songs?|links?|tables?|reviews?|statements?|conversations?|numbers|items|facts|notes?"
BESIDE = r"(?:below|above|given|provided|shown|attached)(?! (?:by|zero|the|an?|\d+)\b)"
GIVEN = r"(?:the following|attached|above|below|(?<!\ba )(?<!\ban )(?<!\bany )(?:(?-i:given)|provided))"
MEDIA_REFERENCE = re.compile(rf"\b(?:(?:this|these|{GIVEN}) (?:{MEDIA})\b|the (?:{MEDIA}) {BESIDE}\b)", re.IGNORECASE)
TEXT_REFERENCE = re.compile(
    rf"\b(?:(?:the|this|these|each) (?:following |given |same )?(?:{TEXTS}) {BESIDE}\b"
    rf"|(?:the following|this|these|(?<!\ba )(?<!\ban )(?<!\bany )(?-i:given)) (?:{TEXTS})\b)",
    re.IGNORECASE,
)
HELD = re.compile(
    r"(?::(?!//)|[：\n])\s*(?!https?:|www\.|[\[<(](?:insert|your|paste|image|picture|photo|video|text|article|link)\b)\S"
    r"|[\"“«「『`]\S|\s['‘]\S|\A\s*[\[({]?-?\d[\d.]*,\s*-?\d|\?\s[^.?]*,[^.?]*,",
    re.IGNORECASE,
)
"""What shows, after such a reference, that the text itself follows: a colon or line break, a quotation, a list."""
PROGRAM = re.compile(
    r"\b(?:write|create|implement|develop|build|make|design|define)\b[^.?!]{0,60}"
    r"\b(?:functions?|programs?|scripts?|methods?|class|algorithm|regex|query|command)\b",
    re.IGNORECASE,
)
"""Who asks for a program means its argument by "the given list"."""
CANNOT = r"(?:(?:i (?:cannot|can['’]t|can not|will not|won['’]t|am (?:unable|not able|not allowed) to)|i['’]m (?:unable|not able|not allowed) to)"
REFUSAL = (
    r"(?i)^\W*(?:(?:(?:i['’]m |i am )?(?:really |very |so |truly )?sorry|i apologi[sz]e|my apologies|unfortunately)"
    r"(?: for (?:any|the) (?:confusion|inconvenience))?[,.:;!]? ?(?:but )?)?(?:as an? (?:ai|(?:large )?language model)\b[\w ]{0,30},? ?)?"
    rf"(?:{CANNOT} (?:assist|help (?:you|with)|provide|comply|fulfil|complete (?:this|that|the|your)|answer (?:this|that|the|your)|generate|create"
    r"|produce|engage in|discuss|respond to|write|translate|summari[sz]e"
    rf"|(?:see|view|open|access|process) (?:(?:any|the|your|that|this) )?(?:{MEDIA}|{TEXTS})\b))"
    r"|i do(?:n['’]t| not) have (?:access to (?:the|your|any|real|external|current)|the (?:ability|capability)|enough (?:context|information)))"
)
SELF = (
    r"(?i)\bas an? (?:[\w-]+ ){0,2}ai(?: language model\b|(?: model| assistant)?,? i\b)|\bas a (?:large )?language model,? (?:i\b|(?:trained|developed|created|made) by\b)"
    r"|\bi(?:['’]m| am) not an? (?:[\w-]+ ){0,3}ai(?:[,.;:!)]|\s*$)|\bi(?:['’]m| am) (?:a chatbot |an? (?:ai )?assistant )?designed to (?:assist|help|provide|be)\b"
    r"|\bi(?:['’]m| am) (?:just |only )?an? (?:(?:ai|artificial intelligence) (?:language model|model|assistant|chatbot|program)\b|(?:large )?language model\b"
    r"|(?:ai|artificial intelligence)(?:[,.;:!)]|\s*$))|\b(?:i(?:['’]m| am)|my name is) smollm|trained by hugging face\b"
)
LABEL = r"(?i)\A\W*(a|(?:ans|answer|response|output|assistant)[ \t]*\d*)[ \t*_]*[:：]"
"""A label before the answer, as in the prompts of few shots."""
OTHER_LABEL = re.compile(r"^[^\w\n]*\w[\w ]{0,20}[*_]*[:：]|(?<!\w)[b-z][:：]", re.IGNORECASE | re.MULTILINE)
QUESTION = re.compile(r"^[^\w\n]*q(?:uestion)?[ \t]*\d*[:：]", re.IGNORECASE | re.MULTILINE)
APOLOGY = (
    r"(?i)\A\W*(?:(?:please accept )?(?:my|our) (?:\w+ )?apologies|(?:i(?:['’]m| am)?|we(?:['’]re| are)?) (?:\w+ ){0,2}(?:sorry|apologi[sz]e)"
    r"|(?:very |so )?sorry|apologies) for (?:any|the|this|that|my|our|all)(?: \w+){0,2}"
    r" (?:confusion|misunderstandings?|miscommunication|inconvenience|mistakes?|errors?|oversight|mix-?up)\b"
)
APOLOGY_ASKED = re.compile(
    r"\b(?:apolog|sorry|excuse|forgiv|regret|repl(?:y|ies)|respon[ds]|customer|client|complain|guest|e-?mail|letter|message|review"
    r"|role|pretend|act as|imagine you|dialogue|scene|script|character)",
    re.IGNORECASE,
)
"""Words of tasks whose answer may well begin with an apology: letters, replies, parts that are played."""
TEMPLATE = (
    r"<\|[a-z_]+\|>|\[/?INST\]|</s>\s*$|<(?:start|end)_of_turn>|(?:^|\n)###\s*(?:Instruction|Response|Input|Output):"
)
LEAK = (
    r"(?im)^[^\w\n]*(?:task|instruction|input|output|answer)\s*\d*\s*:(?:\s|$)|\b(?:task|instruction|input|output)\s*\d+\s*:\s"
    r"|come up with a series of (?:different )?(?:tasks|instructions)"
)
INPUT_LEAK = r"(?im)^\s*(?:output|instruction|text)\s*\d*\s*:|^\s*task\s*\d+\s*:"
CUT = r"[,:]\s*$|(?:^|[^:;=\-])[(\[{]\s*$|[a-z],? (?:and|or|the|an?|because)\s*$"
SIGN_OFF = r"(?i)\n\W*(?:thank|many thanks|sincerely|regards|best|cheers|yours|love|warm|kind|respectfully|with|take care|all the)[^\n]{0,30},\s*$"
LOOP_WORDS = 30
"""A response of fewer words may repeat itself: a list of labels does. (A looping model runs on to its limit.)"""
TOP_SHARE = 0.5
GRADED = (
    "instruction_too_long", "instruction_repetitive", "input_too_long", "input_repetitive", "response_too_long",
    "response_repetitive", "response_loops",
)  # fmt: skip
"""Rules with an upper limit that a good row may come near to."""
JSON = r"(?i)\A\s*(?:\[\s*)?\{\s*\"[^\"\n]*\"\s*:|```json\b"
"""Where a response is, or holds, what is meant to be JSON. Lists of anything but objects may be something else."""
JSON_FENCE = re.compile(r"```json\b[^\n]*\n(.*?)(?:```|\Z)", re.IGNORECASE | re.DOTALL)
PART = 50_000
"""Rows judged at once, which bounds the memory."""
PYTHON = re.compile(r"\b(?:None|True|False)\b")
MASK_BREAKS = "mask_breaks_constraint"
PIECES = "pieces of personal data"
"""A column that a table has only while it is judged."""
CONTROL = r"[\x00-\x08\x0B\x0C\x0E-\x1F\x7F\x{FFFD}]"


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
    """ISO 639-1 codes of the languages that instructions and responses may be in; none means those of the seeds."""
    max_repeat_rate: Fraction = 0.25
    """Largest fraction of a text's 4-grams of words that may have occurred before in it."""
    personal_data: Literal["flag", "mask", "drop", "off"] = "flag"
    """What becomes of rows with e-mail addresses, phone and card numbers, IBAN, public IP addresses, keys or tokens: "flag" keeps and lists them, values redacted, in personal.parquet; "mask" also puts placeholders such as [e-mail address] in their place; "drop" drops such rows (seeds excepted); "off" does not look."""
    phone_regions: Names = ("US",)
    """ISO 3166 codes of the regions whose phone numbers are found without "+" and country code; international ones always are."""


@dataclass(frozen=True, slots=True)
class _Rule:
    """What is measured, when it is broken, the limit, and how to say it."""

    measured: pl.Expr
    broken: pl.Expr
    limit: float
    says: str | pl.Expr


def instruction_rules(config: RulesConfig) -> dict[str, _Rule]:
    """Return the rules an instruction alone can break, in order of precedence."""
    length, characters = _words("instruction"), _words("instruction", cjk=1)
    return {
        "instruction_too_short": _Rule(
            characters, characters < config.min_instruction_words, config.min_instruction_words, "words"
        ),
        "instruction_too_long": _Rule(
            length, length > config.max_instruction_words, config.max_instruction_words, "words"
        ),
        "instruction_needs_media": _over(
            where(pl.col("instruction").str.contains(holds(MEDIA)), ["instruction"], _needs_media), 0,
            "references to a medium no text model sees",
        ),
        "instruction_repetitive": _over(repeat_rate("instruction"), config.max_repeat_rate, "repeated 4-grams"),
        "instruction_leaks_prompt": _matches("instruction", f"{LEAK}|{TEMPLATE}", "scaffolding of a prompt"),
        "instruction_has_answer": _matches(
            "instruction", r"(?i)[?.]\s*(?:answer|output|response)\s*[:=]\s*\S", "the answer within the task"
        ),
        "instruction_language": _in_another_language("instruction", config.languages),
    }  # fmt: skip


def row_rules(config: RulesConfig) -> dict[str, _Rule]:
    """Return the rules a whole row can break, in order of precedence."""
    given, answer = _words("input"), _words("response")
    cut = pl.col("response").str.count_matches(CUT) * ~pl.col("response").str.contains(SIGN_OFF)
    unpaired = (pl.col("response").str.count_matches("```") % 2).cast(pl.Float64)
    control = pl.sum_horizontal(pl.col("instruction", "input", "response").str.count_matches(CONTROL)).cast(pl.Float64)
    copies = pl.col("response").str.strip_chars(WHITE) == pl.col("input").str.strip_chars(WHITE)
    echoes = may_begin_alike("response", "instruction") | copies
    constrained = pl.col("constraints").list.len() > 0
    if config.personal_data == "mask":
        constrained &= pl.col(LOSSES).list.len() == 0  # what is lost already need not be checked, or cannot
    points = pl.col("instruction").str.contains(rf"{holds(TEXTS)}|[:：][{WHITE}]*$") & (pl.col("input") == "")
    return {
        "refers_to_missing_input": _over(
            where(points, ["instruction"], _missing_input), 0, "references to a text that is not given"
        ),
        "input_too_long": _Rule(given, given > config.max_input_words, config.max_input_words, "words"),
        "input_repetitive": _over(repeat_rate("input"), config.max_repeat_rate, "repeated 4-grams"),
        "input_leaks_prompt": _matches("input", f"{INPUT_LEAK}|{TEMPLATE}", "scaffolding of a prompt"),
        "response_empty": _Rule(answer, pl.col("response").str.strip_chars() == "", 1, "words"),
        "response_too_long": _Rule(answer, answer > config.max_response_words, config.max_response_words, "words"),
        "response_refuses": _matches("response", REFUSAL, "a refusal"),
        "response_speaks_of_itself": _matches("response", SELF, "the model speaking of itself"),
        "response_labelled": _over(
            where(pl.col("response").str.contains(LABEL), ["instruction", "input", "response"], _is_labelled), 0,
            "a label before the answer",
        ),
        "response_apologises": _over(
            where(pl.col("response").str.contains(APOLOGY), ["instruction", "input"], _apology_is_unasked), 0,
            "an apology for nothing",
        ),
        "response_repetitive": _over(
            repeat_rate("response", least_words=LOOP_WORDS), config.max_repeat_rate, "repeated 4-grams"
        ),
        "response_loops": _over(top_word_share("response", least_words=LOOP_WORDS), TOP_SHARE, "share of one word"),
        "response_leaks_template": _matches("response", TEMPLATE, "tokens of a chat template"),
        "response_unfinished": _Rule(cut.cast(pl.Float64), cut > 0, 0, "ends in the middle of a sentence"),
        "response_fence_open": _Rule(unpaired, unpaired > 0, 0, "code fences without their pair"),
        "response_json_broken": _over(
            where(pl.col("response").str.contains(JSON), ["response"], _broken_json), 0, "JSON values that do not parse"
        ),
        "response_language": _in_another_language("response", config.languages),
        "response_echoes": _over(
            where(echoes, ["instruction", "input", "response"], _echo), 0, "the response is the instruction or the input again"
        ),
        "control_characters": _Rule(control, control > 0, 0, "control or replacement characters"),
        **_after_masking(config),
        "constraint_broken": _over(
            where(constrained, ["response", "constraints"], _broken_constraints), 0,
            "broken constraints of the instruction",
        ),
        **({"personal_data": _personal_data()} if config.personal_data == "drop" else {}),
    }  # fmt: skip


def check_rule_names(config: RulesConfig) -> None:
    """Refuse a name in `off` that is no rule, and codes in `languages` and `phone_regions` that are not known.

    Raises:
        ConfigError: With those there are.
    """
    # A masked constraint may be none any more, which nothing after the rules could check.
    known = [name for name in (*instruction_rules(config), *row_rules(config)) if name != MASK_BREAKS]
    for name in config.off:
        if name not in known:
            raise ConfigError("KS301", f"[rules] off: no rule {name!r}; known: {', '.join(known)}")
    check_regions(config.phone_regions)
    for code in config.languages:
        if code not in languages_told_apart():
            raise ConfigError(
                "KS302", f"[rules] languages: no language {code!r}; known: {', '.join(languages_told_apart())}"
            )


def with_languages(config: RulesConfig, table: pl.DataFrame) -> RulesConfig:
    """Return a config that names the languages rows may be in: its own or else, where they can be told, those of the seeds."""
    if config.languages or {"instruction_language", "response_language"} <= {*config.off}:
        return config
    seeds = table.filter(pl.col("source") == "seed")
    return replace(config, languages=languages_known([*seeds["instruction"], *seeds["response"]]))


def screen_instructions(table: pl.DataFrame, config: RulesConfig) -> Outcome:
    """Drop rows, other than seeds, whose instruction breaks a rule; the first rule broken is the reason.

    Without `[rules] languages` those of the seeds in the table are allowed, and all where it has none (`with_languages`).
    """
    config = with_languages(config, table)
    return _apply(table, instruction_rules(config), config.off)


def drop_by_rules(table: pl.DataFrame, config: RulesConfig, pieces: pl.Series | None = None) -> Outcome:
    """Drop rows, other than seeds, that break a rule of either kind; the first rule broken is the reason.

    Without `[rules] languages` those of the seeds in the table are allowed, and all where it has none (`with_languages`).
    Under `personal_data = "mask"` rows, seeds too, are masked first (`kiloset.filters.personal.mask_rows`), those that are dropped as well.

    Args:
        table: The rows.
        config: The rules.
        pieces: `personal_pieces` of the table, where they are known already; None reads it where the config asks for it.
    """
    config = with_languages(config, table)
    looks = config.personal_data in ("drop", "mask")
    found = personal_pieces(table, config.phone_regions) if looks and pieces is None else pieces
    if config.personal_data == "mask":
        table = mask_with_losses(table, config.phone_regions, found)
    elif config.personal_data == "drop":
        table = table.with_columns(pl.Series(PIECES, found, dtype=pl.List(PIECE)))
    outcome = _apply(table, {**instruction_rules(config), **row_rules(config)}, config.off)
    return Outcome(*(part.drop(LOSSES, PIECES, strict=False) for part in (outcome.kept, outcome.dropped)))


def rule_nearness(config: RulesConfig) -> pl.Expr:
    """Measure how near a row is to breaking a rule, in [0, 1]: the largest share of an upper limit that it uses up."""
    rules = {**instruction_rules(config), **row_rules(config)}
    shares = [rule.measured / rule.limit for name, rule in rules.items() if name in GRADED and name not in config.off]
    return pl.max_horizontal(pl.lit(0.0), *shares).clip(0, 1)


def _apply(table: pl.DataFrame, rules: dict[str, _Rule], off: Sequence[str]) -> Outcome:
    active = {name: rule for name, rule in rules.items() if name not in off}
    if not active:
        return Outcome(kept=table, dropped=no_rows(table))
    parts = [table[start : start + PART] for start in range(0, max(table.height, 1), PART)]
    judged = table.hstack(pl.concat([_verdict(part, active) for part in parts]))
    kept = pl.col("reason").is_null()
    return Outcome(kept=judged.filter(kept).select(table.columns), dropped=judged.filter(~kept))


def _verdict(table: pl.DataFrame, rules: dict[str, _Rule]) -> pl.DataFrame:
    """Return what `Outcome.dropped` says of each row; null where it breaks no rule."""
    # Every rule is measured once, in a column of its own; then the first broken one speaks.
    found = table.select(
        *(rule.measured.cast(pl.Float64).alias(f"measured {name}") for name, rule in rules.items()),
        *((rule.broken & (pl.col("source") != "seed")).alias(f"broken {name}") for name, rule in rules.items()),
        *(rule.says.alias(f"says {name}") for name, rule in rules.items() if isinstance(rule.says, pl.Expr)),
    )
    reason, measured, limit, says = (pl.lit(None, kind) for kind in (pl.String, pl.Float64, pl.Float64, pl.String))
    for name, rule in reversed(rules.items()):
        broken = pl.col(f"broken {name}")
        reason = pl.when(broken).then(pl.lit(name)).otherwise(reason)
        measured = pl.when(broken).then(pl.col(f"measured {name}")).otherwise(measured)
        limit = pl.when(broken).then(pl.lit(float(rule.limit))).otherwise(limit)
        said = pl.lit(rule.says) if isinstance(rule.says, str) else pl.col(f"says {name}")
        says = pl.when(broken).then(said).otherwise(says)
    return found.select(reason=reason, measured=measured, limit=limit, says=says).select(
        "reason",
        pl.format("{} {} (limit {})", pl.col("measured").round(3), pl.col("says"), pl.col("limit")).alias("evidence"),
        "measured",
        "limit",
        pl.lit(None, pl.String).alias("twin"),
    )


def _words(column: str, cjk: int = 2) -> pl.Expr:
    """Count words at white space, and in Chinese and Japanese, which have none, one for every `cjk` characters."""
    script = r"\p{Han}\p{Hiragana}\p{Katakana}"
    return pl.col(column).str.count_matches(rf"[{script}]{{1,{cjk}}}|[^\s{script}]+").cast(pl.Float64)


def _matches(column: str, pattern: str, says: str) -> _Rule:
    found = pl.col(column).str.count_matches(pattern).cast(pl.Float64)
    return _Rule(found, found > 0, 0, f"matches of {says}")


def _over(value: pl.Expr, limit: float, says: str) -> _Rule:
    found = value.fill_null(0.0)
    return _Rule(found, found > limit, limit, says)


def _in_another_language(column: str, allowed: Sequence[str]) -> _Rule:
    found = foreign(column, allowed)
    share = found.struct.field("share").fill_null(0.0)
    says = pl.format(f"probability of the language {{}}; allowed: {', '.join(allowed)}", found.struct.field("language"))
    return _Rule(share, share > SURE, SURE, says)


def _after_masking(config: RulesConfig) -> dict[str, _Rule]:
    """Return what drops rows whose answers kept a constraint only until they were masked."""
    if config.personal_data != "mask":
        return {}
    lost = pl.col(LOSSES)
    number = lost.list.len().cast(pl.Float64)
    says = pl.format("constraints kept only until the row was masked: {}", lost.list.join(", "))
    return {MASK_BREAKS: _Rule(number, number > 0, 0, says)}


def _personal_data() -> _Rule:
    """Count the pieces of personal data; the evidence shows of each its kind and place, not the value."""
    pieces = pl.col(PIECES)
    number = pieces.list.len().fill_null(0).cast(pl.Float64)
    shown = pl.concat_str(
        pl.element().struct.field("kind"), pl.lit(" "), pl.element().struct.field("redacted"), pl.lit(" in "),
        pl.element().struct.field("column"),
    )  # fmt: skip
    says = pl.format("pieces of personal data: {}", pieces.list.eval(shown).list.join(", "))
    return _Rule(number, number > 0, 0, says)


def _needs_media(row: dict[str, str]) -> float:
    return _points_outside(row["instruction"], MEDIA_REFERENCE)


def _missing_input(row: dict[str, str]) -> float:
    text = row["instruction"]
    if len(text.split()) >= 40:
        return 0.0
    return 1.0 if text.rstrip().endswith((":", "：")) else _points_outside(text, TEXT_REFERENCE)


def _points_outside(text: str, reference: re.Pattern[str]) -> float:
    """Count references to what the text does not hold itself, either after them or, for "this" and "these", before."""
    return float(
        sum(
            not (
                HELD.search(text[found.end() :]) or PROGRAM.search(text[: found.start()]) or _named_before(text, found)
            )
            for found in reference.finditer(text)
        )
    )


def _named_before(text: str, found: re.Match[str]) -> bool:
    determiner, noun = found[0].casefold().split()[:2]
    earlier = rf"(?<!\bthe )(?<!\bthis )(?<!\bthese )(?<!ing )(?<!\bgiven )\b{re.escape(noun.rstrip('s'))}"
    return determiner in ("this", "these") and bool(re.search(earlier, text[: found.start()], re.IGNORECASE))


def _echo(row: dict[str, str]) -> float:
    """Tell a copy of the instruction, or of the input to the letter: to punctuate it may be the task."""
    answer = normal_form(row["response"])
    copied = answer == normal_form(row["instruction"]) or row["response"].strip() == row["input"].strip()
    return float(len(answer.split()) > 3 and copied)


def _is_labelled(row: dict[str, str]) -> float:
    """Tell a label that neither the task has, or asks for, nor another line of the answer: choices and dialogues have several."""
    found = re.match(LABEL, row["response"])
    if found is None:  # Polars' white space and digits are a little wider
        return 0.0
    label, task, rest = found[1].strip(), f"{row['instruction']}\n{row['input']}", row["response"][found.end() :]
    marks = r"[:：.)\]]" if label in ("a", "A") else "[:：]"
    named = re.search(rf"(?<!\w){re.escape(label)}[*_]*{marks}|[\"'“‘`*]{re.escape(label)}\b", task, re.IGNORECASE)
    return float(not (named or QUESTION.search(task) or OTHER_LABEL.search(rest)))


def _apology_is_unasked(row: dict[str, str]) -> float:
    return float(not APOLOGY_ASKED.search(f"{row['instruction']}\n{row['input']}"))


def _broken_json(row: dict[str, str]) -> float:
    """Count what is meant to be JSON and is not: blocks that say so or, without any block, what the response begins with."""
    text = row["response"]
    if "```" in text:
        return float(sum(not _is_json(block) for block in JSON_FENCE.findall(text)))
    return float(_end_of_json(text.lstrip()) is None and not PYTHON.search(text))


def _is_json(text: str) -> bool:
    """Tell whether a text is one or more values in JSON."""
    rest = text.strip()
    while rest and (end := _end_of_json(rest)) is not None:
        rest = rest[end:].lstrip()
    return not rest


def _end_of_json(text: str) -> int | None:
    """Return where the value that a text begins with ends."""
    try:
        return json.JSONDecoder(parse_int=str).raw_decode(text)[1]  # Python refuses to read 5,000 digits
    except (ValueError, RecursionError):
        return None


def _broken_constraints(row: dict[str, Any]) -> float:
    return float(len(failing(row["constraints"], row["response"])))
