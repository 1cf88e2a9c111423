"""Which licences of a set bind the whole set, contradict each other, or are unknown: facts from their texts, not legal advice.

The module checks the clauses that matter for rows that are rewritten, mixed, passed on and trained on: share-alike, no commercial
use, no derivatives, and a model licence's clause about output. It does not report attribution and notices, which the column
`license` of each row preserves. It does not check patents, trademarks, database rights, or GPL-2.0 together with Apache-2.0.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass

EXPRESSION = re.compile(r"-(and|with)-|-or-(?!later)")
NOT_STATED = {"", "unknown", "none", "null", "n/a", "na", "?", "noassertion"}
FREE = ("cc0-1.0", "pddl", "pddl-1.0", "unlicense", "wtfpl", "0bsd", "mit-0")
"""Licences without conditions: they are compatible with any other."""
ATTRIBUTION = r"""apache-[12]\.\d | mit | bsd(-\dc?-clause(-clear)?)? | isc | zlib | ncsa | postgresql | bsl-1\.0 | afl-3\.0 | ecl-2\.0
    | cc-by-\d\.\d(-[a-z]+)? | odc-by(-1\.0)? | cdla-permissive-[12]\.0 | etalab-2\.0 | ogl-uk-\d\.0 | openmdw-1\.0 | python-2\.0 | unicode-3\.0"""
"""SPDX and hub ids that require only attribution or notices; `cc-by-3.0-us` is a port."""
SHARE_ALIKE = r"""cc-by(-nc)?-sa(-\d.*)? | (a|l)?gpl(-.*)? | odbl(-1\.0)? | gfdl(-.*)? | cdla-sharing-1\.0 | eupl-.* | mpl-.* | epl-.* | osl-.*
    | cecill(-[12].*)? | ms-rl"""
NON_COMMERCIAL = r"""cc-(by-)?nc(-.*)? | polyform-noncommercial-.* | fair-noncommercial-research-license | h-research | intel-research
    | apple-amlr | mistral-?research.* | mrl(-.*)? | mnpl(-.*)? | .*non-?commercial.*"""
NO_DERIVATIVES = r"cc-by(-nc)?-nd(-.*)?"
OUTPUT = {
    r"llama-?[23]": "its licence forbids using the model's output to improve any other large language model than its own kind",
    r"llama-?(3\.[1-9]|4)": (
        "its licence requires that the name of a model trained on the output begins with Llama and that the model carries the licence's notice"
    ),
    r"gemma": "its terms treat a model trained on the output to imitate it as a derivative, to which their use restrictions apply",
    r"(.*-)?openrail(\+\+|-?m|-.*)?|bigscience-bloom-rail-1\.0": (
        "its use restrictions apply to derivatives of the model, including a similar model trained on its output"
    ),
    r"(openai|chatgpt|gpt-[345])\b.*": "its provider's terms forbid using the output to make models that compete with the provider's",
    r"(anthropic|claude|gemini|google-ai)\b.*": (
        "its provider's terms forbid using the output to make models that compete with the provider's"
    ),
    r"grok2-community": "its licence forbids using the output to train other large language models",
}  # fmt: skip
"""Licences and terms of models: the clause about output and models trained on it, in the versions known here."""


@dataclass(frozen=True, slots=True)
class Conflict:
    """Licences that bind a whole set, contradict each other, or are unknown."""

    licences: tuple[str, ...]
    """Their names as the rows have them, in alphabetical order."""
    why: str
    """The clause and its consequence, in one sentence without a full stop."""


def conflicts(licences: Mapping[str, int]) -> list[Conflict]:
    """Return what licences require of a whole set, in a fixed order; [] if all are known and require at most attribution.

    Args:
        licences: Rows of each licence, by the name in the rows; licences without rows are ignored.
    """
    names = sorted(name for name, rows in licences.items() if rows > 0)
    ids = {name: normal_id(name) for name in names}
    shares = [name for name in names if _is(SHARE_ALIKE, ids[name])]
    closed = [name for name in names if _is(NON_COMMERCIAL, ids[name])]
    fixed = [name for name in names if _is(NO_DERIVATIVES, ids[name])]
    output = {name: clause for name in names if (clause := _output_clause(ids[name]))}
    required = [
        *_sharing(shares, ids),
        *_one(closed, "no commercial use: this binds everybody who uses these rows, and any set that contains them"),
        *_one(fixed, "no derivatives: rewriting, editing and selecting create derivatives, which may not be passed on"),
        *[Conflict((name,), f"a model's terms: {clause}") for name, clause in output.items()],
    ]
    free_shares = [name for name in shares if name not in closed]
    limits = sorted({*closed, *fixed, *output})
    if free_shares and limits:
        why = "share-alike together with more restrictive terms: share-alike forbids additional restrictions on a work that is passed on"
        required.append(Conflict(tuple(sorted({*free_shares, *limits})), why))
    unstated = [name for name in names if ids[name] in NOT_STATED]
    required += _one(unstated, "no licence is stated: it is not known whether these rows may be passed on")
    known = {*shares, *closed, *fixed, *output, *unstated}
    unknown = [name for name in names if name not in known and not is_attribution(ids[name])]
    return required + _one(unknown, "an unknown licence: read its text before you pass the rows on")


def common_licence(licences: Mapping[str, int]) -> str | None:
    """Return the normalised id of the one licence under which all rows can be passed on, None if there is none.

    Different licences count as incompatible, with two exceptions: licences without conditions are compatible with any other,
    and CC-BY is compatible with CC-BY-SA.
    """
    ids = {normal_id(name) for name, rows in licences.items() if rows > 0}
    binding = ids - set(FREE) if len(ids) > 1 else ids
    if not binding:
        return "cc0-1.0" if "cc0-1.0" in ids else None
    sharing = {id for id in binding if re.fullmatch(r"cc-by-sa-\d\.\d", id)}
    if len(sharing) == 1 and all(re.fullmatch(r"cc-by-\d\.\d", id) for id in binding - sharing):
        binding = sharing
    (one, *others) = binding
    return None if others or one in NOT_STATED else one


def normal_id(name: str) -> str:
    """Return a licence's name as an SPDX or hub id in lower case: `CC BY-SA 4.0` and its address are `cc-by-sa-4.0`."""
    text = re.sub(r"[\s_]+", "-", name.strip().lower())
    if match := re.fullmatch(r"https?://(www\.)?creativecommons\.org/licenses/([a-z-]+)/(\d\.\d)(/.*)?", text):
        return f"cc-{match[2]}-{match[3]}"
    if re.fullmatch(r"https?://(www\.)?creativecommons\.org/publicdomain/zero/1\.0(/.*)?", text):
        return "cc0-1.0"
    if re.fullmatch(r"cc0(-1\.0-universal)?|cc-0(-1\.0)?", text):
        return "cc0-1.0"
    text = re.sub(r"^(meta-)?llama-(?=\d)", "llama", text)
    if match := re.fullmatch(r"(the-)?(apache|mit|isc|zlib)(-licen[cs]e)?(,?-?(v|version-)?(\d(\.\d)?))?", text):
        return f"{match[2]}-{match[6] if match[7] else match[6] + '.0'}" if match[6] else match[2]
    return re.sub(r"^(cc-[a-z-]*?)-?v?(\d\.\d)", r"\1-\2", text) if text.startswith("cc-") else text


def is_attribution(id: str) -> bool:
    """Return whether a normalised id is known to require at most attribution and notices."""
    return id in FREE or _is(ATTRIBUTION, id)


def _sharing(names: list[str], ids: Mapping[str, str]) -> list[Conflict]:
    """Return what share-alike licences require, and whether licences of different kinds contradict each other."""
    required = _one(names, "share-alike: a work made from these rows must be passed on under the same licence")
    if len({_kind(ids[name]) for name in names}) > 1:
        why = "share-alike licences of different kinds: each requires itself, so no work can satisfy all of them unless one licence allows the other by name"
        required.append(Conflict(tuple(names), why))
    return required


def _kind(id: str) -> str:
    """Return the kind of a share-alike licence; licences of one kind are compatible.

    CC-BY-SA from 2.0 on allows later versions and ports for derived works; every other id is a kind of its own.
    """
    match = re.fullmatch(r"(cc-by-sa|cc-by-nc-sa)(-([2-9])\.\d(-.*)?)?", id)
    return match[1] if match else id


def _one(names: list[str], why: str) -> list[Conflict]:
    return [Conflict(tuple(names), why)] if names else []


def _output_clause(id: str) -> str | None:
    return next((clause for pattern, clause in OUTPUT.items() if _is(pattern, id)), None)


def _is(pattern: str, id: str) -> bool:
    # An expression of several licences is not parsed: it counts as unknown.
    return not EXPRESSION.search(id) and re.fullmatch(pattern, id, re.VERBOSE) is not None
