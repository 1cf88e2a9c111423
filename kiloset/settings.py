"""The whole of a run's TOML, each table the dataclass of the room that uses it."""

from collections.abc import Collection, Mapping
from dataclasses import asdict, field
from pathlib import Path
from typing import Annotated, Any

import tomli_w
from pydantic import Field

from kiloset.core.config import (
    Count,
    Fraction,
    Natural,
    NonNegative,
    describe,
    parse,
    read_toml,
    settings,
    with_settings,
)
from kiloset.core.errors import ConfigError
from kiloset.core.run import sha256_of
from kiloset.data.examples import PoolConfig, SeedsConfig
from kiloset.engines.settings import EngineConfig
from kiloset.evaluation.settings import EvaluationConfig, ProveConfig
from kiloset.filters.contamination import ContaminationConfig
from kiloset.filters.near_duplicates import NearDuplicatesConfig
from kiloset.filters.quality import QualityConfig
from kiloset.filters.rules import RulesConfig
from kiloset.filters.selection import SelectConfig
from kiloset.filters.semantic import SemanticConfig
from kiloset.generator.categories import CategoriesConfig
from kiloset.generator.settings import GenerateConfig
from kiloset.rewrite.gate import GateConfig
from kiloset.rewrite.rewrite import RewriteConfig
from kiloset.rewrite.style import StyleConfig
from kiloset.train.settings import TrainConfig
from kiloset.verify.settings import VerifyConfig


@settings
class RunSettings:
    """The `[run]` table."""

    size: Count = 120
    """Rows of the curated set."""
    seed: Annotated[int, Field(ge=0, le=2**31 - 2)] = 0
    """Every random choice of the run follows from it; faiss and numpy take 31 bits."""
    validation: Fraction = 0.1
    """Share of the curated rows marked as validation, not trained on."""


@settings
class ModelSettings:
    """One of the tables `[models.generator]`, `[models.base]`, `[models.rewriter]`."""

    name: str = ""
    """A local folder, a hub id (owner/model), or an embedded model; for base, "" is the generator model, for rewriter the base model, or the generator where the base model has no chat template."""
    license: str = "unknown"
    """SPDX id under which the model's output may be used; recorded in each row it writes."""
    price_prompt: NonNegative = 0.0
    """Price of a million prompt tokens, in [models] currency, for `kiloset plan`; 0 is free, as on hardware of your own."""
    price_written: NonNegative = 0.0
    """Price of a million written tokens."""


@settings
class EmbedderSettings:
    """The table `[models.embedder]`."""

    name: str = "embedded:all-minilm-l6-v2"
    """A sentence-transformers model: a local folder, a hub id (owner/model), or the embedded one."""
    static_above: Natural = 20_000
    """Rows of seeds and pool above which a static embedder takes the model's place: distilled from it once, kept in the cache, over 100 times as fast, and coarser (docs/configuration.md). 0: always."""


@settings
class ModelsSettings:
    """The `[models]` table."""

    generator: ModelSettings = field(
        default_factory=lambda: ModelSettings(name="embedded:smollm2-135m-instruct", license="Apache-2.0")
    )
    """Writes instructions and reference answers."""
    base: ModelSettings = field(default_factory=ModelSettings)
    """Is to be tuned; scores, and rewrites unless it has no chat template."""
    rewriter: ModelSettings = field(default_factory=ModelSettings)
    """Writes the rewrites: an instruct sibling of a base model without a chat template; with [engine] kind = "openai", "" is that server's model then."""
    embedder: EmbedderSettings = field(default_factory=EmbedderSettings)
    """Turns texts into vectors."""
    currency: str = ""
    """Currency of the prices, such as EUR; only shown."""


@settings
class RunConfig:
    """A run's TOML."""

    run: RunSettings = field(default_factory=RunSettings)
    seeds: SeedsConfig = field(default_factory=SeedsConfig)
    pool: PoolConfig = field(default_factory=PoolConfig)
    categories: CategoriesConfig = field(default_factory=CategoriesConfig)
    models: ModelsSettings = field(default_factory=ModelsSettings)
    engine: EngineConfig = field(default_factory=EngineConfig)
    generate: GenerateConfig = field(default_factory=GenerateConfig)
    verify: VerifyConfig = field(default_factory=VerifyConfig)
    rules: RulesConfig = field(default_factory=RulesConfig)
    near_duplicates: NearDuplicatesConfig = field(default_factory=NearDuplicatesConfig)
    contamination: ContaminationConfig = field(default_factory=ContaminationConfig)
    semantic: SemanticConfig = field(default_factory=SemanticConfig)
    quality: QualityConfig = field(default_factory=QualityConfig)
    select: SelectConfig = field(default_factory=SelectConfig)
    rewrite: RewriteConfig = field(default_factory=RewriteConfig)
    gate: GateConfig = field(default_factory=GateConfig)
    style: StyleConfig = field(default_factory=StyleConfig)
    train: TrainConfig = field(default_factory=TrainConfig)
    evaluation: EvaluationConfig = field(default_factory=EvaluationConfig)
    prove: ProveConfig = field(default_factory=ProveConfig)


HOW_NOT_WHAT = ("engine", "train", "evaluation", "prove")
"""Tables that change how a set is made or used, not what is in it; a run may be continued with others."""

NOT_CONTENT = frozenset(
    {
        "models.currency",
        *(
            f"models.{model}.price_{tokens}"
            for model in ("generator", "base", "rewriter")
            for tokens in ("prompt", "written")
        ),
        *(f"generate.max_{limit}" for limit in ("requests", "tokens", "hours", "waves")),
        *(f"generate.max_{part}_tokens" for part in ("response", "instruction", "input")),
        "rewrite.max_tokens",
        "categories.usage_min_confidence",
    }
)
"""Settings of other tables that a run may be continued with others of: what it may cost, and limits, which may be raised.
A limit (and what is only reported) stays part of its stage's fingerprint, so that the stage is done again under another; a price is part of nothing."""


def load_config(path: Path, settings: Mapping[str, Any] | None = None) -> RunConfig:
    """Read a TOML, and change the settings given by dotted name.

    Raises:
        ConfigError: See `kiloset.core.config.parse`.
    """
    return parse(RunConfig, with_settings(read_toml(path), settings or {}))


def data_relevant(config: RunConfig) -> dict[str, Any]:
    """Return what decides the content of the set: all settings but those of `HOW_NOT_WHAT` and `NOT_CONTENT`."""
    return {
        name: _without(table, NOT_CONTENT, name) for name, table in asdict(config).items() if name not in HOW_NOT_WHAT
    }


def run_name(config: RunConfig, stem: str, content: dict[str, str]) -> str:
    """Return `<config name>-<hash>`, the hash over all that decides the content: settings, seeds and pool."""
    return f"{stem}-{sha256_of({'config': data_relevant(config), 'content': content})[:8]}"


def to_toml(config: RunConfig) -> str:
    """Return the effective configuration as TOML."""
    return tomli_w.dumps(plain_table(asdict(config)))


def check_same(config: RunConfig, written: str, folder: Path) -> None:
    """Check that a run folder belongs to this configuration.

    Raises:
        ConfigError: Naming the first settings that differ.
    """
    stored = data_relevant(parse(RunConfig, read_toml_text(written, folder / "config.toml")))
    here = data_relevant(config)
    differ = [
        f"[{table}] {key} = {stored[table].get(key)!r} there, {value!r} here"
        for table in here
        for key, value in here[table].items()
        if stored[table].get(key) != value
    ]
    if differ:
        more = f" and {len(differ) - 2} more" if len(differ) > 2 else ""
        raise ConfigError(
            "KS859",
            f"{folder}: is a run of another config: {'; '.join(differ[:2])}{more}; choose another RUN=, or none to have one named",
        )


def read_toml_text(text: str, path: Path) -> dict[str, Any]:
    """Parse a run's config.toml.

    Raises:
        ConfigError: It is not TOML.
    """
    import tomllib

    try:
        return tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise ConfigError("KS860", f"{path}: not TOML: {error}") from None


def settings_help() -> list[tuple[str, str, Any, str]]:
    """Return `(table, key, default, help)` of every setting."""
    return describe(RunConfig)


def _without(table: dict[str, Any], dotted: Collection[str], where: str) -> dict[str, Any]:
    """Return a table, and those in it, without the keys whose dotted name is among `dotted`."""
    return {
        key: _without(value, dotted, f"{where}.{key}") if isinstance(value, dict) else value
        for key, value in table.items()
        if f"{where}.{key}" not in dotted
    }


def plain_table(value: Any) -> Any:
    """Return a value that TOML can hold: no tuples, no None."""
    if isinstance(value, dict):
        return {key: plain_table(inner) for key, inner in value.items() if inner is not None}
    return [plain_table(inner) for inner in value] if isinstance(value, (list, tuple)) else value
