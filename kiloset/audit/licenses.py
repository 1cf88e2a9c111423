"""Which licences of a set bind the whole of it, contradict each other, or are not known: facts of their texts, no legal advice.

Looked at are the clauses that matter for rows that are rewritten, mixed, passed on and trained on: share-alike, no commercial use,
no derivatives, and what a model's licence says of its output. Attribution and notices are kept by the column `license` of each row
and are not reported. Patents, trademarks, databases' own rights and GPL-2.0 beside Apache-2.0 are not looked at.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass

EXPRESSION = re.compile(r"-(and|with)-|-or-(?!later)")
NOT_STATED = {"", "unknown", "none", "null", "n/a", "na", "?", "noassertion"}
FREE = ("cc0-1.0", "pddl", "pddl-1.0", "unlicense", "wtfpl", "0bsd", "mit-0")
"""They ask for nothing, so they join any other."""
ATTRIBUTION = r"""apache-[12]\.\d | mit | bsd(-\dc?-clause(-clear)?)? | isc | zlib | ncsa | postgresql | bsl-1\.0 | afl-3\.0 | ecl-2\.0
    | cc-by-\d\.\d(-[a-z]+)? | odc-by(-1\.0)? | cdla-permissive-[12]\.0 | etalab-2\.0 | ogl-uk-\d\.0 | openmdw-1\.0 | python-2\.0 | unicode-3\.0"""
"""SPDX and hub ids that ask only for names, notices or the like; `cc-by-3.0-us` is a port."""
SHARE_ALIKE = r"""cc-by(-nc)?-sa(-\d.*)? | (a|l)?gpl(-.*)? | odbl(-1\.0)? | gfdl(-.*)? | cdla-sharing-1\.0 | eupl-.* | mpl-.* | epl-.* | osl-.*
    | cecill(-[12].*)? | ms-rl"""
NON_COMMERCIAL = r"""cc-(by-)?nc(-.*)? | polyform-noncommercial-.* | fair-noncommercial-research-license | h-research | intel-research
    | apple-amlr | mistral-?research.* | mrl(-.*)? | mnpl(-.*)? | .*non-?commercial.*"""
NO_DERIVATIVES = r"cc-by(-nc)?-nd(-.*)?"
OUTPUT = {
    r"llama-?[23]": "its licence forbids using the model's output to improve any other large language model than its own kind",
    r"llama-?(3\.[1-9]|4)": (
        "its licence asks that a model trained on the output carries Llama at the start of its name and is passed on with that licence's notice"
    ),
    r"gemma": "its terms count a model trained on the output to do as it does as a derivative, which their restrictions of use bind",
    r"(.*-)?openrail(\+\+|-?m|-.*)?|bigscience-bloom-rail-1\.0": (
        "its restrictions of use are to be passed on with what is made of the model, by its output too where that trains a model like it"
    ),
    r"(openai|chatgpt|gpt-[345])\b.*": "its provider's terms forbid using the output to make models that compete with the provider's",
    r"(anthropic|claude|gemini|google-ai)\b.*": (
        "its provider's terms forbid using the output to make models that compete with the provider's"
    ),
    r"grok2-community": "its licence forbids using the output to train other large language models",
}  # fmt: skip
"""Licences and terms of models: what the versions that we know say of output and of models trained on it."""


@dataclass(frozen=True, slots=True)
class Conflict:
    """Licences that bind a whole set, contradict each other, or say nothing that we could read."""

    licences: tuple[str, ...]
    """Their names as the rows have them, in alphabetical order."""
    why: str
    """Which clause, and what follows; one sentence without a full stop."""


def conflicts(licences: Mapping[str, int]) -> list[Conflict]:
    """Return what a set's licences ask of the whole, in a fixed order; [] where every one is known and asks for attribution at most.

    Args:
        licences: Rows of each licence, by the name in the rows; those with no rows are not looked at.
    """
    names = sorted(name for name, rows in licences.items() if rows > 0)
    ids = {name: normal_id(name) for name in names}
    shares = [name for name in names if _is(SHARE_ALIKE, ids[name])]
    closed = [name for name in names if _is(NON_COMMERCIAL, ids[name])]
    fixed = [name for name in names if _is(NO_DERIVATIVES, ids[name])]
    output = {name: clause for name in names if (clause := _output_clause(ids[name]))}
    found = [
        *_sharing(shares, ids),
        *_one(closed, "no commercial use: that binds whoever uses these rows, and any whole they are part of"),
        *_one(fixed, "no derivatives: rewriting, editing and selecting make derivatives, which may not be passed on"),
        *[Conflict((name,), f"a model's terms: {clause}") for name, clause in output.items()],
    ]
    free_shares = [name for name in shares if name not in closed]
    limits = sorted({*closed, *fixed, *output})
    if free_shares and limits:
        why = "share-alike beside terms that restrict more: share-alike forbids adding restrictions to what is passed on as one work"
        found.append(Conflict(tuple(sorted({*free_shares, *limits})), why))
    unstated = [name for name in names if ids[name] in NOT_STATED]
    found += _one(unstated, "no licence is stated: nobody here knows whether these rows may be passed on")
    known = {*shares, *closed, *fixed, *output, *unstated}
    foreign = [name for name in names if name not in known and not is_attribution(ids[name])]
    return found + _one(foreign, "not a licence that is known here: read its text before the rows are passed on")


def common_licence(licences: Mapping[str, int]) -> str | None:
    """Return the normalised id of the one licence that all rows agree on or can be passed on under, None where there is none.

    More than one is never judged compatible, but for: those that ask for nothing join any other, and CC-BY joins CC-BY-SA.
    """
    ids = {normal_id(name) for name, rows in licences.items() if rows > 0}
    left = ids - set(FREE) if len(ids) > 1 else ids
    if not left:
        return "cc0-1.0" if "cc0-1.0" in ids else None
    sharing = {id for id in left if re.fullmatch(r"cc-by-sa-\d\.\d", id)}
    if len(sharing) == 1 and all(re.fullmatch(r"cc-by-\d\.\d", id) for id in left - sharing):
        left = sharing
    (one, *others) = left
    return None if others or one in NOT_STATED else one


def normal_id(name: str) -> str:
    """Return a licence's name as an SPDX or hub id in lower case: `CC BY-SA 4.0` and its address are `cc-by-sa-4.0`."""
    text = re.sub(r"[\s_]+", "-", name.strip().lower())
    if found := re.fullmatch(r"https?://(www\.)?creativecommons\.org/licenses/([a-z-]+)/(\d\.\d)(/.*)?", text):
        return f"cc-{found[2]}-{found[3]}"
    if re.fullmatch(r"https?://(www\.)?creativecommons\.org/publicdomain/zero/1\.0(/.*)?", text):
        return "cc0-1.0"
    if re.fullmatch(r"cc0(-1\.0-universal)?|cc-0(-1\.0)?", text):
        return "cc0-1.0"
    text = re.sub(r"^(meta-)?llama-(?=\d)", "llama", text)
    if found := re.fullmatch(r"(the-)?(apache|mit|isc|zlib)(-licen[cs]e)?(,?-?(v|version-)?(\d(\.\d)?))?", text):
        return f"{found[2]}-{found[6] if found[7] else found[6] + '.0'}" if found[6] else found[2]
    return re.sub(r"^(cc-[a-z-]*?)-?v?(\d\.\d)", r"\1-\2", text) if text.startswith("cc-") else text


def is_attribution(id: str) -> bool:
    """Tell whether a normalised id is one that we know to ask for names and notices at most."""
    return id in FREE or _is(ATTRIBUTION, id)


def _sharing(names: list[str], ids: Mapping[str, str]) -> list[Conflict]:
    """Return what share-alike licences ask, and of two kinds that no whole can meet both."""
    found = _one(names, "share-alike: what is made from these rows and passed on must be under the same licence")
    if len({_kind(ids[name]) for name in names}) > 1:
        why = "share-alike of different kinds: each asks for itself, so one work of all of them meets none unless one licence allows the other by name"
        found.append(Conflict(tuple(names), why))
    return found


def _kind(id: str) -> str:
    """Return what two share-alike licences must have in common to go together.

    CC-BY-SA from 2.0 on lets what is made of it be under a later version and its ports; of the rest every id is its own.
    """
    found = re.fullmatch(r"(cc-by-sa|cc-by-nc-sa)(-([2-9])\.\d(-.*)?)?", id)
    return found[1] if found else id


def _one(names: list[str], why: str) -> list[Conflict]:
    return [Conflict(tuple(names), why)] if names else []


def _output_clause(id: str) -> str | None:
    return next((clause for pattern, clause in OUTPUT.items() if _is(pattern, id)), None)


def _is(pattern: str, id: str) -> bool:
    # An expression of several is not taken apart: it is none that we know.
    return not EXPRESSION.search(id) and re.fullmatch(pattern, id, re.VERBOSE) is not None
