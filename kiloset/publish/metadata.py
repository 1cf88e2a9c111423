"""The block of metadata at the head of a data card: what the hub files a set by, and what `datasets` loads it by."""

import re
from collections.abc import Mapping
from typing import Any

from kiloset.audit.escaping import shown
from kiloset.audit.licenses import NOT_STATED, common_licence, normal_id
from kiloset.audit.report import Audit
from kiloset.publish.facts import Facts, rewritten

SIZES = (
    (1_000, "n<1K"),
    (10_000, "1K<n<10K"),
    (100_000, "10K<n<100K"),
    (1_000_000, "100K<n<1M"),
    (10_000_000, "1M<n<10M"),
)
HUB_LICENCES = frozenset((
    "apache-2.0", "mit", "openrail", "bigscience-openrail-m", "creativeml-openrail-m", "bigscience-bloom-rail-1.0",
    "bigcode-openrail-m", "afl-3.0", "artistic-2.0", "bsl-1.0", "bsd", "bsd-2-clause", "bsd-3-clause",
    "bsd-3-clause-clear", "c-uda", "cc", "cc0-1.0", "cc-by-2.0", "cc-by-2.5", "cc-by-3.0", "cc-by-4.0",
    "cc-by-sa-3.0", "cc-by-sa-4.0", "cc-by-nc-2.0", "cc-by-nc-3.0", "cc-by-nc-4.0", "cc-by-nd-4.0", "cc-by-nc-nd-3.0",
    "cc-by-nc-nd-4.0", "cc-by-nc-sa-2.0", "cc-by-nc-sa-3.0", "cc-by-nc-sa-4.0", "cdla-sharing-1.0",
    "cdla-permissive-1.0", "cdla-permissive-2.0", "wtfpl", "ecl-2.0", "epl-1.0", "epl-2.0", "etalab-2.0", "eupl-1.1",
    "eupl-1.2", "agpl-3.0", "gfdl", "gpl", "gpl-2.0", "gpl-3.0", "lgpl", "lgpl-2.1", "lgpl-3.0", "isc", "lppl-1.3c",
    "ms-pl", "mpl-2.0", "odc-by", "odbl", "openrail++", "osl-3.0", "postgresql", "ofl-1.1", "ncsa", "unlicense",
    "zlib", "pddl", "lgpl-lr", "deepfloyd-if-license", "llama2", "llama3", "llama3.1", "llama3.2", "llama3.3",
    "llama4", "gemma",
))  # fmt: skip
"""Identifiers that the hub knows (its documentation, "Licenses")."""


def metadata(found: Audit, facts: Facts) -> str:
    """Return the YAML by which the hub files a set and `datasets` loads it."""
    from huggingface_hub import DatasetCardData

    sources = {source for source, _, _ in facts.sources}
    creators = {
        "machine-generated": "generated" in sources or rewritten(found) > 0,
        "expert-generated": found.edits is not None and found.edits.changed + found.edits.added > 0,
        "found": "pool" in sources,
        "other": bool(sources - {"generated", "pool"}),
    }
    data = DatasetCardData(
        pretty_name=" ".join(shown(found.name, 100).split()),
        language=list(facts.languages) or None,
        **_license(facts.licences),
        size_categories=[next((name for most, name in SIZES if found.rows < most), "n>10M")],
        task_categories=["text-generation"],
        tags=["instruction-tuning", "kiloset", *(["synthetic"] if creators["machine-generated"] else [])],
        annotations_creators=["machine-generated"],
        language_creators=[name for name, took_part in creators.items() if took_part],
        source_datasets=["extended" if "pool" in sources else "original"],
        configs=_configs(facts),
    )
    return str(data.to_yaml())


def _license(licences: Mapping[str, int]) -> dict[str, str]:
    """Return the hub's id of the licence that holds for all rows; without one it is `other`, with a name."""
    if all(normal_id(name) in NOT_STATED for name in licences):
        return {"license": "unknown"}
    common = re.sub("-(only|or-later)$", "", common_licence(licences) or "")
    if common in HUB_LICENCES:
        return {"license": common}
    slug = re.sub(r"[^a-z0-9.+]+", "-", common).strip("-")[:60]
    return {"license": "other", "license_name": slug or "see-the-licences-of-the-rows"}


def _configs(facts: Facts) -> list[dict[str, Any]] | None:
    if facts.layout == "hf":  # of another format, which load_dataset refuses
        return None
    if not facts.layout:
        return [{"config_name": "default", "data_files": facts.parts[0].path}]
    return [
        {
            "config_name": "default",
            "data_files": [{"split": part.split, "path": part.path} for part in facts.parts],
        }
    ]
