"""Licences of a set against a table made by hand, from the licences' own texts."""

import itertools

import pytest

from kiloset.audit.licenses import Conflict, common_licence, conflicts, normal_id

CLAUSES = {
    "share-alike: a work": "share",
    "share-alike licences of different": "kinds",
    "share-alike together": "beside",
    "no commercial use": "trade",
    "no derivatives": "fixed",
    "a model's terms": "output",
    "no licence is stated": "unstated",
    "an unknown licence": "foreign",
}


def clauses_of(*names):
    """The clauses that are reported, each with the licences it is reported of."""
    reported = {}
    for each in conflicts(dict.fromkeys(names, 1)):
        (clause,) = [short for begins, short in CLAUSES.items() if each.why.startswith(begins)]
        reported.setdefault(clause, []).append(each.licences)
    return reported


@pytest.mark.parametrize(
    ("name", "clauses"),
    [
        ("Apache-2.0", []), ("MIT", []), ("CC0-1.0", []), ("CC-BY-4.0", []), ("BSD-3-Clause", []), ("ISC", []),
        ("ODC-By-1.0", []), ("CDLA-Permissive-2.0", []), ("Unlicense", []), ("mit license", []), ("Apache License 2.0", []),
        ("CC-BY-SA-3.0", ["share"]), ("cc by-sa 4.0", ["share"]), ("GPL-3.0-or-later", ["share"]), ("AGPL-3.0", ["share"]),
        ("LGPL-2.1", ["share"]), ("ODbL-1.0", ["share"]), ("GFDL-1.3", ["share"]), ("CDLA-Sharing-1.0", ["share"]), ("MPL-2.0", ["share"]),
        ("CC-BY-NC-4.0", ["trade"]), ("CC BY NC 2.0", ["trade"]), ("Fair-Noncommercial-Research-License", ["trade"]),
        ("PolyForm-Noncommercial-1.0.0", ["trade"]), ("CC-BY-ND-4.0", ["fixed"]), ("CC-BY-NC-ND-4.0", ["trade", "fixed"]),
        ("CC-BY-NC-SA-4.0", ["share", "trade"]),
        ("llama2", ["output"]), ("Llama3", ["output"]), ("llama-3.1", ["output"]), ("llama3.3", ["output"]), ("gemma", ["output"]),
        ("bigcode-openrail-m", ["output"]), ("openrail++", ["output"]), ("OpenAI terms", ["output"]), ("claude", ["output"]),
        ("", ["unstated"]), ("unknown", ["unstated"]), (" Unknown ", ["unstated"]), ("NOASSERTION", ["unstated"]),
        ("other", ["foreign"]), ("proprietary", ["foreign"]), ("GPL-3.0 OR MIT", ["foreign"]), ("CC-BY-SA-4.0 and MIT", ["foreign"]), ("MIT AND CC-BY-NC-4.0", ["foreign"]), ("cc", ["foreign"]),
        ("Apache-3.0", ["foreign"]), ("MITx", ["foreign"]), ("CC-BY", ["foreign"]), ("nc", ["foreign"]),
    ],
)  # fmt: skip
def test_each_licence_is_reported_by_its_clauses(name, clauses):
    assert list(clauses_of(name)) == clauses
    assert all(of == [(name,)] for of in clauses_of(name).values())


@pytest.mark.parametrize(
    ("names", "together"),
    [
        (("Apache-2.0", "MIT", "CC-BY-4.0", "CC0-1.0"), {}),
        (("CC-BY-SA-3.0", "MIT"), {"share": [("CC-BY-SA-3.0",)]}),
        (("CC-BY-SA-3.0", "CC-BY-SA-4.0"), {"share": [("CC-BY-SA-3.0", "CC-BY-SA-4.0")]}),
        (
            ("CC-BY-SA-1.0", "CC-BY-SA-4.0"),
            {"share": [("CC-BY-SA-1.0", "CC-BY-SA-4.0")], "kinds": [("CC-BY-SA-1.0", "CC-BY-SA-4.0")]},
        ),
        (
            ("GPL-3.0", "CC-BY-SA-4.0"),
            {"share": [("CC-BY-SA-4.0", "GPL-3.0")], "kinds": [("CC-BY-SA-4.0", "GPL-3.0")]},
        ),
        (
            ("CC-BY-SA-4.0", "CC-BY-NC-SA-4.0"),
            {
                "share": [("CC-BY-NC-SA-4.0", "CC-BY-SA-4.0")], "kinds": [("CC-BY-NC-SA-4.0", "CC-BY-SA-4.0")],
                "trade": [("CC-BY-NC-SA-4.0",)], "beside": [("CC-BY-NC-SA-4.0", "CC-BY-SA-4.0")],
            },
        ),
        (
            ("CC-BY-SA-4.0", "llama3"),
            {"share": [("CC-BY-SA-4.0",)], "output": [("llama3",)], "beside": [("CC-BY-SA-4.0", "llama3")]},
        ),
        (("CC-BY-NC-4.0", "MIT"), {"trade": [("CC-BY-NC-4.0",)]}),
        (("llama3", "gemma"), {"output": [("gemma",), ("llama3",)]}),
        (("", "unknown", "Bespoke-1"), {"unstated": [("", "unknown")], "foreign": [("Bespoke-1",)]}),
    ],
)  # fmt: skip
def test_licences_together_are_reported_by_what_they_ask_of_each_other(names, together):
    for order in itertools.permutations(names):
        assert clauses_of(*order) == together


def test_llama_3_and_3_1_say_different_things_of_output():
    (old,), (new,) = conflicts({"llama3": 1}), conflicts({"llama3.1": 1})
    assert "forbids" in old.why
    assert "begins with Llama" in new.why


def test_a_licence_without_rows_is_not_looked_at():
    assert conflicts({"MIT": 3, "CC-BY-NC-4.0": 0}) == []
    assert conflicts({"CC-BY-NC-4.0": 1}) == [
        Conflict(
            ("CC-BY-NC-4.0",),
            "no commercial use: this binds everybody who uses these rows, and any set that contains them",
        )
    ]


@pytest.mark.parametrize(
    ("names", "common"),
    [
        (["Apache-2.0", "apache 2.0"], "apache-2.0"),
        (["MIT"], "mit"),
        (["MIT", "Apache-2.0"], None),
        (["MIT", "CC0-1.0"], "mit"),
        (["CC0-1.0", "Unlicense"], "cc0-1.0"),
        (["Unlicense", "PDDL"], None),
        (["CC-BY-4.0", "CC-BY-SA-4.0"], "cc-by-sa-4.0"),
        (["CC-BY-3.0", "CC0-1.0", "CC-BY-SA-4.0"], "cc-by-sa-4.0"),
        (["CC-BY-SA-3.0", "CC-BY-SA-4.0"], None),
        (["CC-BY-4.0", "CC-BY-NC-4.0"], None),
        (["CC-BY-SA-4.0", "MIT"], None),
        (["MIT", "unknown"], None),
        (["unknown"], None),
        ([""], None),
        ([], None),
        (["Bespoke"], "bespoke"),
    ],
)
def test_one_licence_covers_all_rows_only_where_that_is_plain(names, common):
    assert common_licence(dict.fromkeys(names, 1)) == common


@pytest.mark.parametrize(
    ("name", "id"),
    [
        ("https://creativecommons.org/licenses/by-sa/4.0/", "cc-by-sa-4.0"),
        ("http://creativecommons.org/licenses/by-nc/3.0/us/", "cc-by-nc-3.0"),
        ("https://creativecommons.org/publicdomain/zero/1.0/", "cc0-1.0"),
        ("CC0", "cc0-1.0"), ("CC BY 4.0", "cc-by-4.0"), ("cc_by_sa_3.0", "cc-by-sa-3.0"), ("CC-BY-SA v4.0", "cc-by-sa-4.0"),
        ("The MIT License", "mit"), ("Apache 2", "apache-2.0"), ("Apache-2", "apache-2.0"), ("Apache License, Version 2.0", "apache-2.0"),
        ("Meta Llama 3.1", "llama3.1"), ("GPL-3.0-only", "gpl-3.0-only"),
    ],
)  # fmt: skip
def test_names_are_brought_to_the_identifiers_of_spdx_and_the_hub(name, id):
    assert normal_id(name) == id
