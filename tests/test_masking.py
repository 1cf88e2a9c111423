"""Masking: what is found has a placeholder, nothing else changes, and no value is left in what a run writes afterwards."""

import hashlib
import json
import re
from typing import Any

import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kiloset.core.constraints import failing
from kiloset.core.errors import ConfigError
from kiloset.core.table import check_outcome, table_of
from kiloset.data.masking import masked, placeholders
from kiloset.data.personal import CANDIDATES, NAMES, PLACEHOLDER, find_personal
from kiloset.filters import personal
from kiloset.filters.personal import mask_rows, personal_pieces, personal_rows, personal_seeds
from kiloset.filters.rules import RulesConfig, check_rule_names, drop_by_rules
from tests import fake_run
from tests.fakes import plausible
from tests.test_personal import CASES, FREE, US

MASK = RulesConfig(languages=("en",), personal_data="mask")
ROE, DOE, CARD, IBAN = "jane.roe@acme.de", "john.doe@acme.de", "4111 1111 1111 1111", "DE89370400440532013000"


def row(**more: Any) -> dict[str, Any]:
    plain = {"instruction": "Tell me whom to ask.", "response": "You may ask anyone you like.", "source": "generated"}
    return {**plain, **more}


def rows(*more: dict[str, Any]) -> pl.DataFrame:
    return table_of([{"id": f"g{n:05d}", **row(**each)} for n, each in enumerate(more)])


def constraint(id: str, **args: Any) -> dict[str, str]:
    return {"id": id, "args": json.dumps(args)}


# ------------------------------------------------------------------------------------------------------- texts


@pytest.mark.parametrize(("kind", "value"), CASES)
def test_each_kind_has_its_placeholder_and_the_rest_stays(kind: str, value: str) -> None:
    for before, after in (("", ""), ("Ask (", "), then go."), ("1.\n\t", "\n")):
        assert masked([before + value + after], US) == ([f"{before}[{NAMES[kind]}]{after}"], [kind])


def test_what_is_none_stays_to_the_letter() -> None:
    assert masked(FREE, US) == (FREE, [])


def test_every_kind_that_is_found_has_a_name() -> None:
    assert list(NAMES) == list(CANDIDATES)


@pytest.mark.parametrize(
    ("texts", "expected"),
    [
        ([f"{ROE} and {DOE}", f"{DOE}, {ROE}!"], ["[e-mail address 1] and [e-mail address 2]", "[e-mail address 2], [e-mail address 1]!"]),
        ([f"{ROE}.", "JANE.ROE@acme.DE?"], ["[e-mail address].", "[e-mail address]?"]),
        (["+1 212-736-5000", "(212) 736-5000", "212.736.5001"], ["[phone number 1]", "[phone number 1]", "[phone number 2]"]),
        (["(212) 736-5000", "+1 212-736-5000"], ["[phone number]", "[phone number]"]),
        (["DE89 3704 0044 0532 0130 00", IBAN], ["[IBAN]", "[IBAN]"]),
        ([CARD, "4111111111111111 5555-5555-5555-4444"], ["[card number 1]", "[card number 1] [card number 2]"]),
        (["2001:4860:4860::AAAA or 2001:4860:4860::aaaa"], ["[IP address] or [IP address]"]),
        ([f"{ROE} or {CARD}"], ["[e-mail address] or [card number]"]),
        # What is there already is not what comes.
        (["[e-mail address]", ROE], ["[e-mail address]", "[e-mail address 2]"]),
        (["[phone number 3], +49 30 227-32152", "[phone number 1]"], ["[phone number 3], [phone number 4]", "[phone number 1]"]),
        (["AKIAABCDEFGH2345WXYZ 2127365000 ghp_aB3dE5gH7jK9mN1pQ2sT4vW6yZ8bC0eFabcd"], ["[key 1] 2127365000 [key 2]"]),  # ten bare digits are no phone number, with the 1 of a placeholder neither
        (["[Your e-mail address]", ROE], ["[Your e-mail address]", "[e-mail address]"]),
    ],
)  # fmt: skip
def test_the_same_value_has_the_same_placeholder_and_several_are_numbered(
    texts: list[str], expected: list[str]
) -> None:
    assert masked(texts, US)[0] == expected


PIECES = [value for _, value in CASES] + FREE + [
    "[e-mail address]", "[phone number 2]", "[", "]", " ", "\n", ".", "@", "+", "(", "1", "4111", "DE89", "x", "é", "用", "\x00", "\ud800", "-----END X-----",
]  # fmt: skip


@settings(deadline=None, derandomize=True, max_examples=300)
@given(
    st.lists(st.lists(st.sampled_from(PIECES), max_size=6), min_size=1, max_size=3), st.sampled_from(["", " ", ", "])
)
def test_nothing_is_found_afterwards_and_nothing_but_finds_is_changed(parts: list[list[str]], between: str) -> None:
    texts = [between.join(each) for each in parts]
    new, kinds = masked(texts, US)
    assert not any(find_personal(text, US) for text in new)
    assert masked(new, US) == (new, [])
    first = {kind for text in texts for _, _, kind in find_personal(text, US)}
    assert first <= set(kinds)
    for text, after in zip(texts, new, strict=True):
        # What stands between placeholders stood in the text before, in this order.
        kept = "[\\s\\S]*".join(re.escape(part) for part in PLACEHOLDER.sub("\uffff", after).split("\uffff"))
        assert re.fullmatch(kept, text)
        if not find_personal(text, US):
            assert after == text


def test_placeholders_are_reported_in_order_and_once() -> None:
    assert placeholders("[IBAN], [key 12], [IBAN], [iban], [phone], [key 0]") == ["[IBAN]", "[key 12]"]


# ------------------------------------------------------------------------------------------------------- tables


def test_mask_keeps_every_row_without_its_values_and_names_what_it_masked() -> None:
    before = rows(
        {"instruction": f"Write a mail to {ROE}.", "input": f"From: {DOE}", "response": f"To {ROE} from {DOE}: hello there."},
        {},
        {"response": f"Pay it with {CARD} or to {IBAN} today.", "source": "pool"},
        {"instruction": f"Why does {ROE} not answer?", "source": "seed"},
    )  # fmt: skip
    outcome = drop_by_rules(before, MASK)
    check_outcome("rules", before, outcome, creates=False)
    assert outcome.dropped.is_empty()
    texts = outcome.kept.select("instruction", "input", "response").rows()
    assert texts == [
        ("Write a mail to [e-mail address 1].", "From: [e-mail address 2]", "To [e-mail address 1] from [e-mail address 2]: hello there."),
        ("Tell me whom to ask.", "", "You may ask anyone you like."),
        ("Tell me whom to ask.", "", "Pay it with [card number] or to [IBAN] today."),
        ("Why does [e-mail address] not answer?", "", "You may ask anyone you like."),
    ]  # fmt: skip
    assert outcome.kept["masked"].to_list() == [["e-mail"], [], ["IBAN", "card"], ["e-mail"]]
    assert outcome.kept.columns == [*before.columns, "masked"]
    rest = [name for name in before.columns if name not in ("instruction", "input", "response")]
    assert outcome.kept.select(rest).equals(before.select(rest))
    assert personal_rows(outcome.kept, US).is_empty()
    again = drop_by_rules(outcome.kept, MASK)
    assert again.kept.equals(outcome.kept)


def test_only_mask_adds_a_column_and_a_table_with_it_goes_together_with_one_without() -> None:
    before = rows({"response": f"Ask {ROE} about it."}, {})
    for mode in ("flag", "off", "drop"):
        outcome = drop_by_rules(before, RulesConfig(languages=("en",), personal_data=mode))
        assert outcome.kept.columns == before.columns
    new = drop_by_rules(before, MASK).kept
    both = pl.concat([before, new], how="diagonal_relaxed")
    assert both["masked"].to_list() == [None, None, ["e-mail"], []]
    assert mask_rows(both, US)["masked"].to_list() == [["e-mail"], [], ["e-mail"], []]
    for table in (rows(), rows({})):
        assert drop_by_rules(table, MASK).kept.schema == new.schema


def test_a_row_that_another_rule_drops_is_masked_too() -> None:
    outcome = drop_by_rules(rows({"response": f"I'm sorry, but I can't help you with {ROE} or {CARD}."}), MASK)
    (gone,) = outcome.dropped.to_dicts()
    assert (gone["reason"], gone["masked"]) == ("response_refuses", ["e-mail", "card"])
    assert gone["response"] == "I'm sorry, but I can't help you with [e-mail address] or [card number]."


KEEPS = [
    # Arguments are masked like the texts, so that what quoted a value quotes its placeholder.
    (constraint("combination:repeat_prompt", prompt_to_repeat=f"Write to {ROE}."), f"Write to {ROE}.\n\nDear Jane, thank you."),
    (constraint("keywords:existence", keywords=["pay", ROE]), f"Pay {ROE} today, please."),
    (constraint("startend:end_checker", end_phrase=f"Bye, {ROE}"), f"I am done with it. Bye, {ROE}"),
    (constraint("punctuation:no_comma"), f"Write to {ROE} today."),
    (constraint("length_constraints:number_words", relation="less than", num_words=8), f"Write to {ROE}."),
]  # fmt: skip
LOSES = [
    (constraint("change_case:english_capital"), "PLEASE PAY THE WHOLE SUM TO JANE.ROE@ACME.DE TODAY."),
    (constraint("length_constraints:number_words", relation="less than", num_words=6), f"Pay with {CARD.replace(' ', '')} or {IBAN}."),
    (constraint("keywords:letter_frequency", letter="j", let_relation="at least", let_frequency=1), f"Write to {ROE}."),
    # A word that is no word any more: nothing after the rules could check it.
    (constraint("length_constraints:nth_paragraph_first_word", num_paragraphs=1, nth_paragraph=1, first_word=IBAN), f"{IBAN} is where to pay."),
]  # fmt: skip


@pytest.mark.parametrize(("one", "response"), KEEPS)
def test_a_row_whose_masked_answer_keeps_its_constraints_stays(one: dict[str, str], response: str) -> None:
    assert failing([one], response) == []
    outcome = drop_by_rules(rows({"response": response, "constraints": [one]}), MASK)
    assert outcome.dropped.is_empty()
    (kept,) = outcome.kept.to_dicts()
    assert failing(kept["constraints"], kept["response"]) == []
    assert ROE not in json.dumps(kept)
    if ROE not in one["args"]:
        assert kept["constraints"] == [one]


def test_a_further_answer_with_a_value_is_no_candidate_of_rewriting() -> None:
    outcome = drop_by_rules(
        rows({"response": "Write to her today.", "others": [f"Write to {ROE}.", "Write today."]}), MASK
    )
    assert outcome.kept["others"].to_list() == [["Write today."]]


@pytest.mark.parametrize(("one", "response"), LOSES)
def test_a_row_whose_masked_answer_breaks_a_constraint_leaves_without_its_values(
    one: dict[str, str], response: str
) -> None:
    assert failing([one], response) == []
    outcome = drop_by_rules(rows({"response": response, "constraints": [one]}), MASK)
    assert outcome.kept.is_empty()
    (gone,) = outcome.dropped.to_dicts()
    assert gone["reason"] == "mask_breaks_constraint"
    assert gone["evidence"] == f"1.0 constraints kept only until the row was masked: {one['id']} (limit 0.0)"
    for value in (ROE, CARD, CARD.replace(" ", ""), IBAN):
        assert value.casefold() not in json.dumps(gone).casefold()


def test_a_constraint_that_was_broken_before_is_not_laid_to_masking() -> None:
    one = constraint("punctuation:no_comma")
    outcome = drop_by_rules(rows({"response": f"Please, write to {ROE} today.", "constraints": [one]}), MASK)
    assert outcome.dropped["reason"].to_list() == ["constraint_broken"]


def test_that_rule_cannot_be_switched_off() -> None:
    with pytest.raises(ConfigError, match="off: no rule 'mask_breaks_constraint'"):
        check_rule_names(RulesConfig(personal_data="mask", off=("mask_breaks_constraint",)))


def test_what_only_a_constraint_quotes_is_masked_too() -> None:
    one = constraint("keywords:forbidden_words", forbidden_words=[ROE, "tea"])
    (kept,) = drop_by_rules(rows({"constraints": [one]}), MASK).kept.to_dicts()
    assert json.loads(kept["constraints"][0]["args"]) == {"forbidden_words": ["[e-mail address]", "tea"]}
    assert kept["masked"] == ["e-mail"]


@pytest.mark.parametrize("mode", ["drop", "mask"])
def test_what_was_read_for_the_list_is_not_read_again_for_the_rule(mode: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    before = rows({"response": f"Ask {ROE} about it."}, {"response": "In 1914-1918 and 1939-1945 there was war."}, {})
    read: list[str] = []
    monkeypatch.setattr(
        personal, "find_personal", lambda text, regions: read.append(text) or find_personal(text, regions)
    )
    pieces = personal_pieces(before, US)
    listed = personal_rows(before, US, pieces)
    once = sorted(read)
    config = RulesConfig(languages=("en",), personal_data=mode)
    assert drop_by_rules(before, config, pieces).kept.equals(drop_by_rules(before, config).kept)
    assert sorted(read) == sorted(once * 2)  # the second is the call without `pieces`
    assert listed.equals(personal_rows(before, US))


# --------------------------------------------------------------------------------------------------------- seeds


def test_the_user_is_reported_which_seeds_hold_personal_data_and_what_becomes_of_them() -> None:
    seeds = rows(*({"response": f"Ask {ROE} at {IBAN}."} for _ in range(7)), {})
    result, message = personal_seeds(seeds, US, "mask")
    assert result == {f"g{n:05d}": ["IBAN", "e-mail"] for n in range(7)}
    assert message.startswith(
        "7 of 8 seeds hold personal data and are masked before they are shown to a model (g00000: IBAN, e-mail address; "
    )
    assert message.endswith("; and 2 more, in manifest.json)")
    assert ROE not in message
    for mode in ("flag", "drop"):
        assert (
            'are shown to models as they are; replace them, or set rules.personal_data="mask"'
            in personal_seeds(seeds, US, mode)[1]
        )
    assert personal_seeds(seeds, US, "off") == personal_seeds(seeds[7:], US, "mask") == ({}, "")


# ------------------------------------------------------------------------------------------------------ a whole run


def _with_addresses(key: str, request: Any) -> tuple[str, str]:
    """Write as the fake does, and now and then an address, which never ends a text that is cut off."""
    text, reason = plausible(key, request)
    if reason == "stop" and text.strip() and int(hashlib.sha256(key.encode()).hexdigest(), 16) % 2:
        text = f"{text.rstrip()} Write to made.up.{key[:6]}@acme.de first."
    return text, reason


def test_no_value_is_in_what_a_run_writes_from_the_rules_on(tmp_path) -> None:
    pool = tmp_path / "pool.jsonl"
    lines = [
        {"instruction": f"Plan a {word} trip to Tartu for {ROE}.", "response": f"{ROE} takes the {word} train to Tartu, then walks.", "category": "open_qa"}
        for word in ("short", "long", "cheap")
    ]  # fmt: skip
    pool.write_text("".join(f"{json.dumps(line)}\n" for line in lines))
    table = {**fake_run.TABLE, "rules": {"personal_data": "mask"}, "pool": {"path": str(pool), "license": "MIT"}}
    models = fake_run.FakeModels()
    models.engine.answer = _with_addresses
    folder = tmp_path / "runs" / "mine"
    fake_run.run(folder, table=table, models=models)

    address = re.compile(r"[\w.]+@acme\.de")
    tables = {path.name: pl.read_parquet(path) for path in folder.glob("*.parquet")}
    assert address.search(json.dumps(tables["02-generate.parquet"].to_dicts()))  # there was something to mask
    later = [name for name in tables if re.match(r"0[4-9]|1\d", name)]
    assert len(later) >= 7
    for name in later:
        assert tables[name]["masked"].null_count() == 0
        assert "e-mail" in tables[name]["masked"].explode().to_list()
        # A candidate that was refused may have made one up; it is kept, as refused, with what it was.
        displayed = tables[name].drop("rewrites", strict=False)
        assert not address.search(json.dumps(displayed.to_dicts(), default=str)), name
    ledger = (
        tables["dropped.parquet"].filter(~pl.col("stage").is_in(["generate", "verify"])).drop("rewrites", strict=False)
    )
    assert ledger.height
    assert not address.search(json.dumps(ledger.to_dicts(), default=str))
    assert "[e-mail address" in folder.joinpath("curated.jsonl").read_text()
    assert not address.search(folder.joinpath("curated.jsonl").read_text())
    assert tables["personal.parquet"].height
    assert not address.search(json.dumps(tables["personal.parquet"].to_dicts()))

    # What rewriting was shown is masked, and no rewrite with an address was chosen.
    prompts = [models.engine.prompts[key] for key in models.engine.prompts]
    rewriting = [prompt for prompt in prompts if "This answer was given" in prompt]
    assert any("[e-mail address" in prompt for prompt in rewriting)
    assert not any(address.search(prompt) for prompt in rewriting)
    offered = tables["10-rewrite.parquet"].explode("rewrites").unnest("rewrites").filter(pl.col("text").is_not_null())
    made_up = offered.filter(pl.col("text").str.contains(r"made\.up"))
    assert made_up.height
    assert set(made_up["status"]) == {"rejected"}
