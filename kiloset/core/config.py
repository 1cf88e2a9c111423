"""Turns a run's TOML into frozen dataclasses and refuses unknown keys.

pydantic checks types and ranges; this module turns its errors into one line each.
"""

import tomllib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import is_dataclass
from difflib import get_close_matches
from pathlib import Path
from typing import Annotated, Any, TypeVar, dataclass_transform

from pydantic import ConfigDict, Field, ValidationError
from pydantic.dataclasses import dataclass as pydantic_dataclass

from kiloset.core.errors import ConfigError

T = TypeVar("T")

Fraction = Annotated[float, Field(ge=0, le=1, allow_inf_nan=False)]
Share = Annotated[float, Field(gt=0, le=1, allow_inf_nan=False)]
Count = Annotated[int, Field(ge=1)]
Natural = Annotated[int, Field(ge=0)]
Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]
NonNegative = Annotated[float, Field(ge=0, allow_inf_nan=False)]
Names = Annotated[tuple[str, ...], Field(strict=False)]


@dataclass_transform(frozen_default=True)
def settings(cls: type[T]) -> type[T]:
    """Turn a class into a frozen, strict dataclass for a config table; the docstring under a field is its help text."""
    config = ConfigDict(extra="forbid", strict=True, use_attribute_docstrings=True)
    table: type[T] = pydantic_dataclass(frozen=True, config=config)(cls)  # type: ignore[assignment]
    return table


def read_toml(path: Path) -> dict[str, Any]:
    """Read a TOML file.

    Raises:
        ConfigError: The file is missing, cannot be read, or is not UTF-8 or not TOML.
    """
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ConfigError("KS003", f"{path}: no such config file") from None
    except IsADirectoryError:
        raise ConfigError("KS004", f"{path}: is a folder; expected a .toml file") from None
    except OSError as error:
        raise ConfigError("KS005", f"{path}: cannot be read ({error.strerror})") from None
    except UnicodeDecodeError as error:
        raise ConfigError("KS006", f"{path}: not UTF-8 text ({error.reason} at byte {error.start})") from None
    except ValueError as error:  # TOMLDecodeError, or a number of more digits than Python reads
        raise ConfigError("KS007", f"{path}: not TOML: {error}") from None
    except RecursionError:
        raise ConfigError("KS008", f"{path}: not TOML: nested too deeply") from None


def parse_overrides(assignments: Iterable[str]) -> dict[str, Any]:
    """Return the values of assignments `table.key=value` by dotted name; a value is TOML, or text if it is not valid TOML.

    Raises:
        ConfigError: An assignment has no `=`, or no dot in its name.
    """
    values: dict[str, Any] = {}
    for assignment in assignments:
        name, equals, text = assignment.partition("=")
        keys = [key.strip() for key in name.split(".")]
        if not equals or len(keys) < 2 or not all(keys):
            raise ConfigError("KS009", f"--set takes table.key=value, got {assignment!r}")
        try:
            value = tomllib.loads(f"value = {text.strip()}")["value"]
        except (ValueError, RecursionError):
            value = text.strip()
        values[".".join(keys)] = value
    return values


def with_settings(table: Mapping[str, Any], settings: Mapping[str, Any]) -> dict[str, Any]:
    """Return a copy of a table in which the settings, given by dotted name, have these values.

    Raises:
        ConfigError: A name needs a table where there is a value.
    """
    copy = dict(table)
    for name, value in settings.items():
        *tables, last = name.split(".")
        target = copy
        for key in tables:
            inner = target.get(key, {})
            if not isinstance(inner, Mapping):
                raise ConfigError("KS010", f"--set {name}: {key!r} is a value, not a table")
            target[key] = dict(inner)
            target = target[key]
        target[last] = value
    return copy


def parse(cls: type[T], table: Mapping[str, Any]) -> T:
    """Build the config dataclass `cls` from a parsed TOML document.

    Raises:
        ConfigError: A key is unknown (the message suggests a similar one), or a value has the wrong type or range.
    """
    return _parse(cls, table, ())


def describe(cls: type[Any]) -> list[tuple[str, str, Any, str]]:
    """Return `(table, key, default, help)` of every setting, in the order of the dataclasses."""
    return list(_settings(cls, ""))


def _settings(cls: type[Any], table: str) -> Iterator[tuple[str, str, Any, str]]:
    for name, field in cls.__pydantic_fields__.items():
        kind = field.annotation
        if isinstance(kind, type) and is_dataclass(kind):
            yield from _settings(kind, f"{table}.{name}".lstrip("."))
        else:
            default = field.get_default(call_default_factory=True)
            yield table, name, default, " ".join((field.description or "").split())


def _parse(cls: type[T], table: Mapping[str, Any], path: tuple[str, ...]) -> T:
    kinds = {name: field.annotation for name, field in cls.__pydantic_fields__.items()}  # type: ignore[attr-defined]
    values: dict[str, Any] = {}
    for key, value in table.items():
        if key not in kinds:
            raise ConfigError("KS011", _unknown(key, list(kinds), path))
        kind = kinds[key]
        if isinstance(kind, type) and is_dataclass(kind):
            if not isinstance(value, Mapping):
                raise ConfigError("KS012", f"[{'.'.join((*path, key))}] must be a table, got {value!r}")
            values[key] = _parse(kind, value, (*path, key))
        else:
            values[key] = value
    try:
        return cls(**values)
    except ValidationError as error:
        raise ConfigError("KS013", _one_line(error, path)) from None


def _unknown(key: str, known: Sequence[str], path: tuple[str, ...]) -> str:
    near = get_close_matches(key, known, n=1, cutoff=0.5)
    hint = f"; did you mean {near[0]!r}?" if near else f"; known: {', '.join(known)}"
    where = f"[{'.'.join(path)}] has no setting" if path else "the config has no table"
    return f"{where} {key!r}{hint}"


def _one_line(error: ValidationError, path: tuple[str, ...]) -> str:
    """Return pydantic's first error as `[table] key must be …, got …`; the errors of a union are joined with "or"."""
    errors = error.errors(include_url=False)
    first = errors[0]
    key = str(first["loc"][0]) if first["loc"] else ""
    allowed = dict.fromkeys(
        each["msg"]
        .removeprefix("Input should be ")
        .removeprefix("Value error, ")
        .replace("Dictionary should have", "a table with")
        for each in errors
        if each["loc"] and each["loc"][0] == first["loc"][0]
    )
    return f"[{'.'.join(path)}] {key} must be {' or '.join(allowed)}, got {first['input']!r}"
