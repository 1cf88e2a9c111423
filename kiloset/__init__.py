"""Turn a few seed examples into a curated instruction set, train a LoRA adapter on it and measure whether it helped.

The public API; everything else may change from version to version. The names are imported when they are first used, so that
`import kiloset` takes no time.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from kiloset.api import Run, audit_file, compare, evaluate, make_dataset, preview, prove, train_adapter
    from kiloset.core.errors import ConfigError, DataError, EmptyError, KilosetError, ModelError
    from kiloset.settings import RunConfig

_HOME = {
    **dict.fromkeys(
        ("Run", "audit_file", "compare", "evaluate", "make_dataset", "preview", "prove", "train_adapter"), "kiloset.api"
    ),
    **dict.fromkeys(("ConfigError", "DataError", "EmptyError", "KilosetError", "ModelError"), "kiloset.core.errors"),
    "RunConfig": "kiloset.settings",
}
"""The module that defines each public name."""

__all__ = [
    "ConfigError", "DataError", "EmptyError", "KilosetError", "ModelError", "Run", "RunConfig", "audit_file", "compare",
    "evaluate", "make_dataset", "preview", "prove", "train_adapter",
]  # fmt: skip


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_HOME[name]), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
