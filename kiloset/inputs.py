"""Read and check the user's files before any model loads."""

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import polars as pl

from kiloset.core.errors import EmptyError
from kiloset.core.run import PACKAGE, sha256_of
from kiloset.core.table import table_of
from kiloset.data.examples import load_pool, load_seeds
from kiloset.data.files import SUFFIXES, read_records
from kiloset.data.layouts import parse_prompt
from kiloset.filters.contamination import BENCHMARKS
from kiloset.filters.rules import check_rule_names
from kiloset.filters.semantic import check_semantic
from kiloset.generator.categories import check_pool_categories, check_target
from kiloset.generator.templates import Templates
from kiloset.generator.topics import read_topics
from kiloset.generator.usage import UsagePrompts, read_usage
from kiloset.settings import RunConfig


@dataclass(frozen=True)
class Inputs:
    """The content of the user's files."""

    seeds: pl.DataFrame
    pool: pl.DataFrame
    labelled: pl.DataFrame
    """Rows that teach the categories: the seeds that have a category, else the bundled seeds."""
    templates: Templates
    usage: UsagePrompts | None = None
    """Prompts of real use, for a target that follows them."""
    topics: Mapping[str, Sequence[str]] = field(default_factory=dict)
    """Subjects for new tasks by category, "" for all; without any, generation takes those of the seeds."""
    benchmarks: pl.DataFrame = field(default_factory=lambda: pl.DataFrame(schema=BENCHMARKS))
    """Prompts that no row may repeat."""

    def content(self) -> dict[str, str]:
        """Return a sha256 of each input."""
        tables = {"seeds": self.seeds, "pool": self.pool, "labelled": self.labelled}
        tables |= {} if self.benchmarks.is_empty() else {"benchmarks": self.benchmarks}
        digests = {name: hashlib.sha256(table.write_json().encode()).hexdigest() for name, table in tables.items()}
        # The bundled prompts belong to the code: they change with the version and are hashed with it.
        digests |= {"prompts": self.templates.digest} if self.templates.has_user_templates else {}
        digests |= {"topics": sha256_of(dict(self.topics))} if self.topics else {}
        return digests | ({"usage": self.usage.digest} if self.usage else {})


def read_inputs(config: RunConfig) -> Inputs:
    """Read seeds, pool, category labels, prompts of real use and benchmarks; check everything that needs no model.

    Raises:
        DataError: A file is missing or broken.
        ConfigError: The target names an unknown category, or [rules] off names an unknown rule.
        EmptyError: A file has no example.
    """
    check_rule_names(config.rules)
    check_semantic(config.semantic)
    seeds = load_seeds(located(config.seeds.path), license=config.seeds.license)
    pool = table_of([])
    if config.pool.path:
        pool = load_pool(located(config.pool.path), license=config.pool.license, limit=config.pool.limit)
    labelled = seeds.filter(pl.col("category") != "")
    if labelled.is_empty():
        path = located(config.categories.labels)
        every = load_seeds(path, license="unknown", table="categories")
        labelled = every.filter(pl.col("category") != "")
        if labelled.is_empty():
            raise EmptyError("KS855", f"{path}: no example has a category ([categories] labels)")
    known = labelled["category"].unique().to_list()
    if isinstance(config.categories.target, dict):
        check_target(config.categories.target, known)
    check_pool_categories(pool, known, config.categories.target)
    usage = None
    if config.categories.usage:
        usage = read_usage(located(config.categories.usage), config.categories.usage_limit, config.run.seed)
    benchmarks = read_benchmarks(config.contamination.files)
    topics = _topics(config, known)
    return Inputs(seeds, pool, labelled, Templates(config.generate.prompts), usage, topics, benchmarks)


def _topics(config: RunConfig, categories: Iterable[str]) -> Mapping[str, Sequence[str]]:
    """Return the subjects of the file in the config, else of topics.txt beside the seeds; {} if there is none."""
    path = located(config.generate.topics)
    if not config.generate.topics:
        beside = Path(located(config.seeds.path)).parent / "topics.txt"
        if not beside.is_file():
            return {}
        path = str(beside)
    return read_topics(path, sorted(categories))


def read_benchmarks(paths: Iterable[str], setting: str = "[contamination] files") -> pl.DataFrame:
    """Return every prompt of some files with its place; of a Self-Instruct task, one for each of its inputs.

    `setting` is the name that error messages give to the option that named the files.
    """
    prompts: list[tuple[str, str]] = []
    for path in paths:
        before = len(prompts)
        for place, value in read_records(located(path), setting, (*SUFFIXES, ".txt")):
            instances = value.get("instances") if isinstance(value, dict) else None
            objects = [each for each in instances if isinstance(each, dict)] if isinstance(instances, list) else []
            values = [{**value, "input": each.get("input")} for each in objects] or [value]
            prompts += [(place, parse_prompt(each, place)) for each in values]
        if len(prompts) == before:
            raise EmptyError("KS856", f"{path}: no prompt in it; each of {setting} needs at least one")
    return pl.DataFrame(prompts, schema=BENCHMARKS, orient="row")


def located(path: str) -> str:
    """Return a path unchanged if it exists or is absolute, else the file of that path inside the package, if there is one."""
    bundled = PACKAGE / path
    return str(bundled) if not Path(path).exists() and not Path(path).is_absolute() and bundled.exists() else path
