"""Personal data, each kind by vectors of its standard and by what looks like it; check digits against brute force."""

import base64
import json
from types import SimpleNamespace
from typing import Any

import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from kiloset.core.config import parse
from kiloset.core.errors import ConfigError
from kiloset.core.table import check_outcome, table_of
from kiloset.data.personal import CANDIDATES, IBAN_LENGTHS, find_personal, is_iban, passes_luhn
from kiloset.filters.chain import FilterChain
from kiloset.filters.contamination import BENCHMARKS, ContaminationConfig, Prompts
from kiloset.filters.near_duplicates import NearDuplicatesConfig
from kiloset.filters.personal import personal_rows
from kiloset.filters.rules import RulesConfig, check_rule_names, drop_by_rules
from kiloset.recipe import apply_rules
from kiloset.settings import RunConfig

US = ("US",)
LETTERS = "aB3dE5gH7jK9mN1pQ2sT4vW6yZ8bC0eF"


def _base64(value: object) -> str:
    return base64.urlsafe_b64encode(json.dumps(value).encode()).decode().rstrip("=")


JWT = f"{_base64({'alg': 'HS256', 'typ': 'JWT'})}.{_base64({'sub': '1234567890'})}.{LETTERS}"
PEM = f"-----BEGIN RSA PRIVATE KEY-----\n{LETTERS * 2}\n-----END RSA PRIVATE KEY-----"

# Card numbers as Visa, Mastercard, American Express, Discover, Diners Club, JCB publish them for tests; IBAN of ISO 13616's registry.
HELD = {
    "e-mail": [
        "jane.roe+news@mail.uni-bonn.de", "josé@correo.es", "jane@例え.jp", "j_o'hara@acme.co.uk", "x@exampled.com",
        "user@my-example.com",
    ],
    "phone": [
        "+1 212-736-5000", "(212) 736-5000", "212.736.5000", "+44 20 7031 3000", "+49 30 227-32152", "＋４４ ２０ ７０３１ ３０００",
        "２１２－７３６－５０００", "+33142685300",
    ],
    "card": [
        "4111 1111 1111 1111", "4012888888881881", "5555-5555-5555-4444", "2223003122003222", "3782 822463 10005", "6011111111111117",
        "3056 930902 5904", "3530111333300000", "４１１１ １１１１ １１１１ １１１１", "4222222222222",
    ],
    "IBAN": [
        "GB82 WEST 1234 5698 7654 32", "DE89 3704 0044 0532 0130 00", "DE89370400440532013000", "NO93 8601 1117 947",
        "FR14 2004 1010 0505 0001 3M02 606", "MT84 MALT 0110 0001 2345 MTLC AST0 01S",
    ],
    "IP address": ["93.184.216.34", "2001:4860:4860::8844", "2606:2800:220:1:248:1893:25c8:1946"],
    "key": [
        "AKIA" + "ABCDEFGH2345WXYZ", "ghp_" + LETTERS + "abcd", "github_pat_" + LETTERS[:22] + "_" + LETTERS + LETTERS[:27],
        "xoxb-123456789012-" + LETTERS, "sk-" + LETTERS, "sk-proj-" + LETTERS, "AIza" + LETTERS + "abc", JWT, PEM,
        "ABIA" + "ABCDEFGH2345WXYZ", "glpat-" + LETTERS[:20], "xoxe-1-" + LETTERS, "xapp-1-A0B1C2-123456-" + LETTERS.lower(),
        "sk_live_" + LETTERS[:24], "GOCSPX-" + LETTERS[:28], "npm_" + LETTERS + "abcd", "pypi-AgEIcHlwaS5vcmc" + LETTERS * 2,
        "SG." + LETTERS[:22] + "." + LETTERS + "abcdefghijk", "hf_" + "aBcDeFgHiJkLmNoPqRsTuVwXyZaBcDeFgH", "dop_v1_" + "0123456789abcdef" * 4,
        PEM.partition("-----END")[0].strip() + f"\n{LETTERS * 2}\n{LETTERS[:20]}\nabc==",
    ],
}  # fmt: skip
CASES = [(kind, value) for kind, values in HELD.items() for value in values]

FREE = [
    # Addresses that standards keep for examples, and what only has an "@".
    "jane@example.com", "a@mail.example.org", "a@b.test", "a@no.invalid", "user@localhost", "@app.route and x @ y.T", "logo@2x.png",
    "npm i left-pad@1.3.0", "git@github.com:owner/name", "postgres://me:secret@db.acme.com/x", "meet @ noon.today 😀@😀.com",
    # Dates, years, prices, sums, ISBN, and numbers kept for fiction or for firms.
    "2013-05-06 10:15:30", "1939-1945, 1914-1918", "12/25/2015 - 01/06/2016", "$1,234,567.89 or 2 345 678 901", "3.14159265358979",
    "ISBN 978-0-306-40615-7", "9780306406157", "ISBN 0-306-40615-2", "212 + 736 - 5000 = x", "2127365000", "123-456-7890", "10000-20000-30000",
    "+1 212-555-0123", "(415) 555-0199", "1-800-692-7753", "5 +12127365000", "1, 1, 2, 3, 5, 8, 13, 21, 34, 55, 89, 144",
    # A card whose last digit is wrong, an unknown issuer, digits of a fraction, other groups.
    "4111 1111 1111 1112", "1111 1111 1111 1117", "0.4111111111111111", "4 11 111 111 111 1111 1", "41111111111111110000",
    "GB82 WEST 1234 5698 7654 33", "XX82 WEST 1234 5698 7654 32", "DE89 3704 0044 0532 0130 0", "AB12 CDEF GHIJ KLMN",
    # Versions, sections, addresses that are no one's; code with two colons.
    "version 91.0.44.12", "v10.2.3.40", "Chrome/41.0.22.12", "section 12.1.3.4", "1.2.3.4", "10.0.0.1", "192.168.1.17", "127.0.0.1",
    "203.0.113.9", "255.255.255.0", "8.8.8.8", "256.300.1.12", "1.2.3.4.50", "2001:db8::1", "fe80::1", "x[::2]", "std::vector", "at 20:30:45",
    "224.0.0.251",
    # Keys of manuals, and words that begin like one.
    "AKIAIOSFODNN7EXAMPLE", "sk-xxxxxxxxxxxxxxxxxxxxxxxx", "risk-averse-and-other-long-words-1A", "xoxb-your-token", "eyJhbGciOi.x.y",
    "ghp_" + "x" * 36, "hf_" + "x" * 34, "sk_test_" + LETTERS, "SG.x.y", "npm_package_config_some_long_variable_name", "A3TEAM",
    "-----BEGIN PRIVATE KEY-----\n...", "-----BEGIN PUBLIC KEY-----\n" + LETTERS * 2,
]  # fmt: skip


def rows(*texts: str, column: str = "response", source: str = "generated") -> pl.DataFrame:
    plain = {"instruction": "Explain why the sky is blue.", "response": "Air scatters short waves more than long ones."}
    return table_of(
        [{"id": f"g{n:05d}", **plain, column: text, "source": source} for n, text in enumerate(texts)]
    )  # fmt: skip


@pytest.mark.parametrize(("kind", "value"), CASES)
def test_what_its_standard_shows_is_found_whole_wherever_it_stands(kind: str, value: str) -> None:
    for before, after in (
        ("", ""),
        ("Write to ", "."),
        ("😀 (", ")"),
        ("see:\n", "\nThanks"),
        ("用", "。"),
        ("3 of ", ", 12/27"),
    ):
        if (before, value[0].isascii()) != ("用", True) or kind == "phone":
            assert find_personal(f"{before}{value}{after}", US) == [(len(before), len(before) + len(value), kind)]


@pytest.mark.parametrize("text", FREE)
def test_what_only_looks_like_it_is_none(text: str) -> None:
    for before, after in (("", ""), ("It is ", "."), ("(", ")")):
        assert find_personal(f"{before}{text}{after}", US) == []


def test_candidates_in_a_table_lose_nothing_that_is_in_its_texts() -> None:
    texts = [value for _, value in CASES] + FREE
    for column in ("instruction", "input", "response"):
        result = personal_rows(rows(*texts, column=column), US)
        assert result["kind"].to_list() == [kind for kind, _ in CASES]
        assert set(result["column"]) == {column}
        assert result["id"].to_list() == [f"g{n:05d}" for n in range(len(CASES))]


def test_where_two_kinds_overlap_the_surer_one_is_named() -> None:
    text = "IBAN DE89 3704 0044 0532 0130 00, card 4111 1111 1111 1111, a.roe@acme.de, +49 30 227-32152"
    assert [kind for _, _, kind in find_personal(text, US)] == ["IBAN", "card", "e-mail", "phone"]
    assert next(iter(CANDIDATES)) == "key"


def test_phones_without_country_code_are_those_of_the_regions() -> None:
    berlin, london = "030 227-32152", "+44 20 7031 3000"
    assert [kind for _, _, kind in find_personal(f"{berlin}; {london}", ())] == ["phone"]
    assert len(find_personal(f"{berlin}; {london}", ("US", "DE"))) == 2
    check_rule_names(RulesConfig(phone_regions=("DE", "GB")))
    with pytest.raises(ConfigError, match=r"\[rules\] phone_regions: no region 'EU'"):
        check_rule_names(RulesConfig(phone_regions=("EU",)))


def _luhn_by_hand(digits: str) -> bool:
    """Double every second digit from the right and add the digits of what comes out."""
    written = "".join(
        str(int(c) * (1 + (len(digits) - 1 - at) % 2)) for at, c in enumerate(digits)
    )  # fmt: skip
    return sum(map(int, written)) % 10 == 0


@given(st.text("0123456789", min_size=2, max_size=19), st.data())
def test_luhn_is_that_of_the_standard_and_one_wrong_digit_breaks_it(digits: str, data: st.DataObject) -> None:
    assert passes_luhn(digits) == _luhn_by_hand(digits)
    (check,) = [c for c in "0123456789" if passes_luhn(digits + c)]
    whole = digits + check
    at, other = data.draw(st.integers(0, len(whole) - 1)), data.draw(st.sampled_from("0123456789"))
    assert passes_luhn(whole[:at] + other + whole[at + 1 :]) == (other == whole[at])


@pytest.mark.parametrize(
    ("issuer", "prefixes", "length"),
    [
        ("Visa", "4000 4999", 19), ("Mastercard", "5100 5599 2221 2720", 16), ("American Express", "34 37", 15),
        ("Diners Club", "300 305 36 38 39", 14), ("Discover", "6011 644 649 65", 16), ("JCB", "3528 3589", 17), ("JCB", "1800 2131", 15),
        ("UnionPay", "6210 6299 810 8171", 18), ("Maestro", "5018 5020 5038 5893 6304 6759 6761 6763", 13), ("Mir", "2200 2204", 16),
        ("Elo", "504175 506699 506778 509000 509999 636297 636368", 16), ("Verve", "506099 506197 507865 507888 507900 507941", 18),
        ("Hipercard", "606282", 16), ("Hiper", "637095 63737423 63743358 637568 637599 637609 637612", 16),
    ],
)  # fmt: skip
def test_every_issuer_is_known_by_its_first_digits_and_none_by_others(issuer: str, prefixes: str, length: int) -> None:
    for prefix in prefixes.split():
        rest = "7" * (length - len(prefix) - 1)
        (check,) = [c for c in "0123456789" if _luhn_by_hand(prefix + rest + c)]
        assert find_personal(f"Pay with {prefix}{rest}{check}.", ()) == [(9, 9 + length, "card")]


@pytest.mark.parametrize(
    "prefix", ["1234", "2220", "2721", "35270", "5019", "56", "6012", "643", "818", "2199", "2205", "508", "9792"]
)
def test_other_first_digits_are_no_issuers(prefix: str) -> None:
    rest = "7" * (15 - len(prefix))
    (check,) = [c for c in "0123456789" if _luhn_by_hand(prefix + rest + c)]
    assert find_personal(f"Number {prefix}{rest}{check}.", ()) == []


def _rest_of_97(iban: str) -> int:
    """Divide as on paper, digit by digit."""
    rest = 0
    for c in iban[4:] + iban[:4]:
        for digit in c if c.isdigit() else str(ord(c) - ord("A") + 10):
            rest = (10 * rest + int(digit)) % 97
    return rest


@given(st.sampled_from(sorted(IBAN_LENGTHS)), st.data())
def test_an_iban_leaves_1_modulo_97_and_one_wrong_character_breaks_it(country: str, data: st.DataObject) -> None:
    length = IBAN_LENGTHS[country] - 4
    account = data.draw(st.text("0123456789ABCXYZ", min_size=length, max_size=length))
    whole = f"{country}{98 - _rest_of_97(country + '00' + account):02d}{account}"
    assert is_iban(whole)
    assert find_personal(f"to {whole}.", ()) == [(3, 3 + len(whole), "IBAN")]
    at = data.draw(st.integers(2, len(whole) - 1))
    other = data.draw(st.sampled_from("0123456789" if whole[at].isdigit() else "ABCXYZ"))
    assert is_iban(whole[:at] + other + whole[at + 1 :]) == (other == whole[at])
    assert not is_iban(whole + "0")


DROP, FLAG = RulesConfig(languages=("en",), personal_data="drop"), RulesConfig(languages=("en",))


@pytest.mark.slow
def test_drop_takes_rows_by_kind_and_place_and_never_quotes_a_value() -> None:
    texts = [f"Please use {value} from now on." for _, value in CASES]
    before = rows(*texts, "Nothing of that kind is in here.")
    outcome = drop_by_rules(before, DROP)
    check_outcome("rules", before, outcome, creates=False)
    assert outcome.kept["id"].to_list() == [f"g{len(CASES):05d}"]
    assert set(outcome.dropped["reason"]) == {"personal_data"}
    displayed = outcome.dropped["evidence"].to_list() + personal_rows(before, US)["redacted"].to_list()
    for (kind, value), message in zip(CASES * 2, displayed, strict=True):
        assert f"{value[0]}… ({len(value)} characters)" in message
        assert value[:4] not in message
        assert kind in message or not message.startswith("1.0")
    two = drop_by_rules(rows("Ask a.roe@acme.de or b.roe@acme.de today."), DROP).dropped
    assert two["measured"].to_list() == [2]
    assert two["evidence"].to_list() == [
        "2.0 pieces of personal data: e-mail a… (13 characters) in response, e-mail b… (13 characters) in response (limit 0.0)"
    ]


def test_flag_and_off_drop_nothing_and_seeds_are_reported_but_never_dropped() -> None:
    texts = [f"Please use {value} from now on." for _, value in CASES]
    for config in (FLAG, RulesConfig(languages=("en",), personal_data="off")):
        assert drop_by_rules(rows(*texts), config).kept.equals(rows(*texts))
    seeds = rows(*texts, source="seed")
    assert drop_by_rules(seeds, DROP).kept.equals(seeds)
    assert personal_rows(seeds, US).height == len(CASES)


def test_a_table_without_finds_or_rows_gives_a_report_of_the_same_columns() -> None:
    for table in (rows(), rows("Nothing is in here."), rows("1914-1918 and 1939-1945")):
        result = personal_rows(table, US)
        assert (result.height, result.columns) == (0, ["id", "column", "kind", "redacted"])
        assert set(result.dtypes) == {pl.String}


NO_BENCHMARK = pl.DataFrame(schema=BENCHMARKS)


def test_the_stage_leaves_its_finds_beside_its_rows_unless_it_is_off() -> None:
    before = rows("Ask a.roe@acme.de or +49 30 227-32152.", "Ask b.roe@acme.de.", "Ask no one.")
    for mode, kept in (("flag", 3), ("drop", 1), ("off", 3)):
        rules = RulesConfig(languages=("en",), personal_data=mode)
        filters = FilterChain(rules, NearDuplicatesConfig(), Prompts(NO_BENCHMARK, ContaminationConfig()), 0)
        context: Any = SimpleNamespace(config=RunConfig(rules=rules), filters=filters)
        outcome = apply_rules(before, context)
        assert outcome.kept.height == kept
        if mode == "off":
            assert (outcome.tables, outcome.notes) == ({}, {})
        else:
            assert outcome.tables["personal"].equals(personal_rows(before, US))
            assert outcome.notes["personal"] == {"e-mail": 2, "phone": 1}


def test_the_setting_is_one_of_four() -> None:
    assert parse(RulesConfig, {"personal_data": "drop"}).personal_data == "drop"
    with pytest.raises(ConfigError, match="personal_data must be 'flag', 'mask', 'drop' or 'off', got 'hide'"):
        parse(RulesConfig, {"personal_data": "hide"})
