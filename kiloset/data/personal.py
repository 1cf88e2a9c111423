"""Find personal data and secrets in a text, as far as a standard, a check digit or a published form identifies them.

E-mail addresses (RFC 5322's common form), phone numbers (the `phonenumbers` library), payment cards (ISO/IEC 7812: prefix of
an issuer, length, Luhn's digit), IBAN (ISO 13616: length by country, remainder modulo 97), public IP addresses, keys and
tokens by their publishers' patterns. Values that standards reserve for examples do not count: RFC 2606 domains, +1 555-01xx
numbers, private and documentation addresses. Not searched for: names, postal addresses, passport and tax numbers, phone numbers
without separators. One in ten random numbers that begin like a card passes Luhn; test numbers of issuers pass as well.

The tables were compared with published ones on 2026-11-26 (`tests/test_personal.py` has one case of each):

* IBAN lengths: all 89 of release 101 of SWIFT's registry (by python-stdnum 2.2), without the 38 countries that only schwifty
  2026.10.1 has.
* Card issuers: braintree's credit-card-type (commit 0bac61c), without Maestro's whole 50, 56 to 59 and 6, Visa's 18 digits and
  UnionPay's 14 and 15 digits, which match far too many numbers; with Visa's 13 digits.
* Keys: of the more than 200 patterns of gitleaks (commit 009e025) and detect-secrets 1.5.0, the patterns of a dozen common
  services that need no variable's name beside the key; without Stripe's test keys and webhooks.
"""

import base64
import ipaddress
import json
import re
from collections.abc import Callable, Iterator, Sequence

from kiloset.core.errors import ConfigError

EMAIL = re.compile(
    r"(?<![\w.%+@/-])(\w[\w.%+'-]{0,63})@((?:[\w-]{1,63}\.)+([^\W\d_]{2,24}))(?![\w@]|-\w|\.\w)"
)  # fmt: skip
EXAMPLE_DOMAIN = re.compile(
    r"(?:^|\.)(?:example\.(?:com|org|net)|example|invalid|test|localhost|local)$", re.IGNORECASE
)
"""RFC 2606 and RFC 6761, and RFC 6762's local names."""
FILE_ENDINGS = frozenset(("png", "jpg", "jpeg", "gif", "svg", "webp", "ico", "css", "js", "html"))
"""Endings of file names such as "icon@2x.png", which are no domains."""
CREDENTIALS = re.compile(r"://[^\s/@]*$")

PUNCTUATION = " .()/\\[\\]~\u2010-\u2015\u2212\u30fc\uff0d-\uff0f\u3000\u00a0\u00ad\u200b\u2060\uff08\uff09\uff3b\uff3d\u2053\u223c\uff5e\\-"
"""Characters that the library allows between the digits of a phone number."""
SEPARATED = re.compile(r"\d\D+\d")
FICTIONAL = re.compile(r"\d{3}55501\d{2}")
"""Numbers of the North American plan that are reserved for fiction."""

CARD = re.compile(
    r"(?<![A-Za-z_\d.])(?=(\d{13,19}|\d{4}([ -])\d{4}\2\d{4}\2\d{1,4}(?:\2\d{1,3})?|\d{4}([ -])\d{6}\3\d{4,5})(?![A-Za-z_\d]|[.,]\d))"
)
"""As printed on cards: in one piece, in groups of four, or as on American Express and Diners Club cards."""
ISSUERS = {
    "Visa": (r"4", (13, 16, 19)),
    "Mastercard": (r"5[1-5]|222[1-9]|22[3-9]|2[3-6]|27[01]|2720", (16,)),
    "American Express": (r"3[47]", (15,)),
    "Discover": (r"6011|64[4-9]|65", (16, 17, 18, 19)),
    "Diners Club": (r"30[0-5]|3095|36|3[89]", (14, 15, 16, 17, 18, 19)),
    "JCB": (r"352[89]|35[3-8]", (16, 17, 18, 19)),
    "JCB, the older": (r"2131|1800", (15,)),
    "UnionPay": (r"62|81[0-7]", (16, 17, 18, 19)),
    "Maestro": (r"5018|5020|5038|5893|6304|6759|676[1-3]", (13, 14, 15, 16, 17, 18, 19)),
    "Mir": (r"220[0-4]", (16, 17, 18, 19)),
    "Elo": (r"504175|506699|5067[0-6]|50677[0-8]|509|636297|636368", (16,)),
    "Verve": (r"506099|5061|50786[5-9]|5078[78]|507900|507941", (16, 18, 19)),
    "Hipercard, Hiper": (r"606282|637095|63737423|63743358|637568|637599|637609|637612", (16,)),
}
"""First digits and lengths of the card numbers of each issuer."""

IBAN = re.compile(r"(?<![A-Za-z0-9])([A-Z]{2})\d{2}(?= ?[A-Z0-9])")
IBAN_LENGTHS = {
    "AD": 24, "AE": 23, "AL": 28, "AT": 20, "AZ": 28, "BA": 20, "BE": 16, "BG": 22, "BH": 22, "BI": 27, "BR": 29,
    "BY": 28, "CH": 21, "CR": 22, "CY": 28, "CZ": 24, "DE": 22, "DJ": 27, "DK": 18, "DO": 28, "EE": 20, "EG": 29,
    "ES": 24, "FI": 18, "FK": 18, "FO": 18, "FR": 27, "GB": 22, "GE": 22, "GI": 23, "GL": 18, "GR": 27, "GT": 28,
    "HN": 28, "HR": 21, "HU": 28, "IE": 22, "IL": 23, "IQ": 23, "IS": 26, "IT": 27, "JO": 30, "KW": 30, "KZ": 20,
    "LB": 28, "LC": 32, "LI": 21, "LT": 20, "LU": 20, "LV": 21, "LY": 25, "MC": 27, "MD": 24, "ME": 22, "MK": 19,
    "MN": 20, "MR": 27, "MT": 31, "MU": 30, "NI": 28, "NL": 18, "NO": 15, "OM": 23, "PK": 24, "PL": 28, "PS": 29,
    "PT": 25, "QA": 29, "RO": 24, "RS": 22, "RU": 33, "SA": 24, "SC": 31, "SD": 18, "SE": 24, "SI": 19, "SK": 24,
    "SM": 27, "SO": 23, "ST": 25, "SV": 28, "TL": 23, "TN": 24, "TR": 26, "UA": 29, "VA": 22, "VG": 24, "XK": 20,
    "YE": 30,
}  # fmt: skip
"""Characters of an IBAN by country (ISO 13616)."""

IPV4 = re.compile(r"(?<![A-Za-z_\d.])(?<![A-Za-z]/)\d{1,3}(?:\.\d{1,3}){3}(?![A-Za-z_\d]|\.\d)")
IPV6 = re.compile(r"(?<![A-Za-z_\d:.])[23][0-9A-Fa-f]{3}:[0-9A-Fa-f:]{1,34}(?![A-Za-z_\d:])")
"""Only addresses of 2000::/3, the assigned range: `x[::2]` would be an address too."""
NUMBERED = re.compile(
    r"(?:\b(?:versions?|ver|v|releases?|build|firmware|sections?|chapter|clause)\b|§)[.:]?\s*$", re.IGNORECASE
)
"""Words before four numbers that are a version or a section; four single digits always count as a version."""
RESOLVERS = frozenset(("1.1.1.1", "1.0.0.1", "8.8.8.8", "8.8.4.4", "9.9.9.9", "208.67.222.222", "208.67.220.220"))
"""Public name servers, which many manuals contain."""

KEY = re.compile(
    r"(?<![A-Za-z0-9_-])(?:"
    r"(?P<aws>(?:AKIA|ASIA|ABIA|ACCA|A3T[A-Z0-9])[A-Z2-7]{16})"
    r"|(?P<token>gh[pousr]_[A-Za-z0-9]{36,255}|github_pat_[A-Za-z0-9]{22}_[A-Za-z0-9]{59}|glpat-[A-Za-z0-9_-]{20,}"
    r"|xox[abeoprs]-(?:\d{6,}|\d)-[A-Za-z0-9-]{10,}|xapp-\d-[A-Z0-9]+-\d+-[a-z0-9]+|sk-[A-Za-z0-9_-]{20,}|[sr]k_(?:live|prod)_[A-Za-z0-9]{16,}"
    r"|AIza[A-Za-z0-9_-]{35}|GOCSPX-[A-Za-z0-9_-]{28}|npm_[A-Za-z0-9]{36}|pypi-AgEIcHlwaS5vcmc[A-Za-z0-9_-]{50,}"
    r"|SG\.[A-Za-z0-9_-]{22}\.[A-Za-z0-9_-]{43})"
    r"|(?P<uniform>hf_[A-Za-z]{34}|dop_v1_[a-f0-9]{64})"
    r"|(?P<jwt>eyJ[A-Za-z0-9_-]{8,}\.eyJ[A-Za-z0-9_-]{8,}\.[A-Za-z0-9_-]{16,})"
    r")(?![A-Za-z0-9_-])"
    r"|(?P<pem>-----BEGIN (?:[A-Z0-9]+ ){0,2}PRIVATE KEY(?: BLOCK)?-----[\s\S]{0,300}?[A-Za-z0-9+/]{40,}"
    r"(?:[^-]{0,20000}-----END [A-Z0-9 ]+-----|(?:\s+[A-Za-z0-9+/=]{16,})*(?:\s+[A-Za-z0-9+/]+={1,2})?))"
)
"""AWS, GitHub, GitLab, Slack, OpenAI (and Anthropic), Stripe, Google, npm, PyPI, SendGrid; Hugging Face, DigitalOcean; RFC 7519; RFC 7468.

A private key without its end is matched up to its last line.
"""
MANY_SIGNS = 12
"""Least number of different characters of a key without mixed characters; "xxxx" has fewer."""

CANDIDATES = {
    "key": r"(?:AKIA|ASIA|ABIA|ACCA|A3T[A-Z0-9])[A-Z2-7]|gh[pousr]_|github_pat_|glpat-|xox[abeoprs]-|xapp-|sk-[A-Za-z0-9_-]{20}"
    r"|[sr]k_(?:live|prod)_|AIza|GOCSPX-|npm_|pypi-|SG\.|hf_|dop_v1_|eyJ|PRIVATE KEY",
    "e-mail": r"\w[.%+'-]*@[\w-]",
    "IBAN": r"[A-Z]{2}\d{2} ?[A-Z0-9]{2}",
    "card": r"\d{13}|\d{4}[ -]\d{4,6}[ -]\d{4}",
    "IP address": r"\d\.\d{1,3}\.\d{1,3}\.\d|[23][0-9A-Fa-f]{3}:[0-9A-Fa-f:]",
    "phone": rf"(?:\d[{PUNCTUATION}]{{0,4}}){{7}}",
}
"""By kind, a pattern of every text that can contain it. If matches of two kinds overlap, the first kind is taken."""


NAMES = {
    "key": "key", "e-mail": "e-mail address", "IBAN": "IBAN", "card": "card number", "IP address": "IP address",
    "phone": "phone number",
}  # fmt: skip
"""The name of each kind in a placeholder, which `kiloset.data.masking` writes in the place of a value."""
OPAQUE = "\n"
"""A character that replaces those of a placeholder while a text is searched."""
PLACEHOLDER = re.compile(rf"\[({'|'.join(NAMES.values())})(?: ([1-9]\d{{0,3}}))?\]")


def find_personal(text: str, regions: Sequence[str]) -> list[tuple[int, int, str]]:
    """Return `(start, end, kind)` of each piece of personal data in a text, in order and without overlaps.

    A placeholder is no part of one: the 1 of `[key 1] 212…` belongs to no phone number.
    """
    text = PLACEHOLDER.sub(lambda match: OPAQUE * len(match[0]), text)
    taken: list[tuple[int, int, str]] = []
    for kind, pattern in _PATTERNS.items():
        if pattern.search(text):
            for start, end in _phones(text, regions) if kind == "phone" else _EXACT[kind](text):
                if all(end <= other or start >= until for other, until, _ in taken):
                    taken.append((start, end, kind))
    return sorted(taken)


def redacted(value: str) -> str:
    """Return a value's first character and its length."""
    return f"{value[0]}… ({len(value)} characters)"


def passes_luhn(digits: str) -> bool:
    """Return whether a number ends with the check digit of ISO/IEC 7812-1, annex B."""
    doubled = (0, 2, 4, 6, 8, 1, 3, 5, 7, 9)
    return sum(doubled[int(c)] if at % 2 else int(c) for at, c in enumerate(reversed(digits))) % 10 == 0


def is_iban(characters: str) -> bool:
    """Return whether an IBAN without spaces has its country's length and a remainder of 1 modulo 97."""
    if len(characters) != IBAN_LENGTHS.get(characters[:2]):
        return False
    return int("".join(str(int(c, 36)) for c in characters[4:] + characters[:4])) % 97 == 1


def check_regions(regions: Sequence[str]) -> None:
    """Check the codes of regions.

    Raises:
        ConfigError: A code is unknown.
    """
    from phonenumbers import SUPPORTED_REGIONS

    for code in regions:
        if code not in SUPPORTED_REGIONS:
            raise ConfigError(
                "KS135", f"[rules] phone_regions: no region {code!r}; ISO 3166 codes such as US, GB, DE are known"
            )


def _emails(text: str) -> Iterator[tuple[int, int]]:
    for match in EMAIL.finditer(text):
        is_address = not EXAMPLE_DOMAIN.search(match[2]) and match[3].lower() not in FILE_ENDINGS
        # "git@github.com:owner/name" and "postgres://user:secret@host.com" name machines.
        is_machine = (match[1] == "git" and text[match.end() :].startswith((":", "/"))) or CREDENTIALS.search(
            text, max(0, match.start() - 100), match.start()
        )
        if is_address and not is_machine:
            yield match.span()


def _phones(text: str, regions: Sequence[str]) -> Iterator[tuple[int, int]]:
    """Yield phone numbers with "+", and the regions' phone numbers in groups of digits."""
    from phonenumbers import Leniency, PhoneNumberMatcher, PhoneNumberType, number_type

    firms = (
        PhoneNumberType.TOLL_FREE, PhoneNumberType.PREMIUM_RATE, PhoneNumberType.SHARED_COST, PhoneNumberType.UAN,
    )  # fmt: skip
    anywhere: list[str | None] = [None]  # needs "+", which counts in every region
    for region in regions or anywhere:
        for match in PhoneNumberMatcher(text, region, Leniency.STRICT_GROUPING):
            number = match.number
            international = match.raw_string.lstrip("(（[［").startswith(("+", "＋"))
            operand = international and re.search(r"[\d=]\s*$", text[: match.start][-8:])
            fictional = number.country_code == 1 and FICTIONAL.fullmatch(str(number.national_number))
            written = international or SEPARATED.search(match.raw_string)
            if written and not operand and not fictional and number_type(number) not in firms:
                # An opening bracket before the number may be the sentence's own.
                lone = match.raw_string.startswith(("(", "（", "[", "［")) and not re.search(
                    r"[)）\]］]", match.raw_string
                )
                yield match.start + lone, match.end


def _cards(text: str) -> Iterator[tuple[int, int]]:
    for match in CARD.finditer(text):
        digits = "".join(str(int(c)) for c in match[1] if c.isdecimal())  # of any script
        issued = any(
            len(digits) in lengths and re.match(rf"(?:{first})", digits) for first, lengths in ISSUERS.values()
        )
        if issued and passes_luhn(digits):
            yield match.span(1)


def _ibans(text: str) -> Iterator[tuple[int, int]]:
    for match in IBAN.finditer(text):
        rest = IBAN_LENGTHS.get(match[1], 4) - 4
        whole = re.compile(rf"(?: ?[A-Z0-9]){{{rest}}}(?![A-Za-z0-9])").match(text, match.end())
        if whole and is_iban(text[match.start() : whole.end()].replace(" ", "")):
            yield match.start(), whole.end()


def _addresses(text: str) -> Iterator[tuple[int, int]]:
    for pattern in (IPV4, IPV6):
        for match in pattern.finditer(text):
            try:
                address = ipaddress.ip_address(match[0])
            except ValueError:
                continue
            numbers = pattern is IPV4 and (
                len(match[0]) == len("1.2.3.4") or NUMBERED.search(text[: match.start()][-16:])
            )
            if address.is_global and not address.is_multicast and not numbers and match[0] not in RESOLVERS:
                yield match.span()


def _keys(text: str) -> Iterator[tuple[int, int]]:
    for match in KEY.finditer(text):
        kind, value = match.lastgroup, match[0]
        if (
            (kind == "aws" and not value.endswith("EXAMPLE"))
            or (kind == "token" and all(re.search(sign, value) for sign in ("[A-Z]", "[a-z]", r"\d")))
            or (kind == "uniform" and len(set(value)) >= MANY_SIGNS)
            or (kind == "jwt" and _is_jwt_header(value.partition(".")[0]))
            or kind == "pem"
        ):
            yield match.span()


def _is_jwt_header(part: str) -> bool:
    try:
        header = json.loads(base64.urlsafe_b64decode(part + "=" * (-len(part) % 4)))
    except ValueError:
        return False
    return isinstance(header, dict) and "alg" in header


_PATTERNS = {kind: re.compile(pattern) for kind, pattern in CANDIDATES.items()}
_EXACT: dict[str, Callable[[str], Iterator[tuple[int, int]]]] = {
    "key": _keys, "e-mail": _emails, "IBAN": _ibans, "card": _cards, "IP address": _addresses,
}  # fmt: skip
