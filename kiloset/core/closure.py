"""Hash the code that a function runs, so that a result is computed again after that code has changed.

The closure of a module is the module itself, every module of this package that it imports (at the top of the file or
inside a function), and so on, and the data files that these modules name. A change of a file outside the closure
invalidates nothing.
"""

import ast
import re
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

from kiloset.core.run import PACKAGE, file_sha256, sha256_of

NAME = "kiloset"
FILE_NAME = re.compile(r"\w[\w-]*(\.[\w-]+)*")


def code_sha256(*roots: Callable[..., Any] | str, package: Path = PACKAGE) -> str:
    """Return the sha256 of the code that some functions, or modules given by dotted name, can run.

    A function stands for the whole closure of its module.
    """
    names = {root if isinstance(root, str) else root.__module__ for root in roots}
    paths = set().union(*(closure(name, package) for name in names))
    return sha256_of({str(path.relative_to(package)): _digest(path) for path in sorted(paths)})


def closure(module: str, package: Path = PACKAGE) -> frozenset[Path]:
    """Return the files that a module of this package can run or read: modules, and data files that lie beside them.

    Raises:
        ValueError: The package has no such module.
    """
    seen: set[Path] = set()
    root = _file_of(module, package)
    if root is None:
        raise ValueError(f"{package} has no module {module}")
    waiting = [root]
    while waiting:
        path = waiting.pop()
        if path not in seen:
            seen.add(path)
            if path.suffix == ".py":
                imports, data = _references(path, package)
                waiting += [*imports, *data]
    return frozenset(seen)


@cache
def _digest(path: Path) -> str:
    return file_sha256(path)


@cache
def _references(path: Path, package: Path) -> tuple[list[Path], list[Path]]:
    """Return the modules that a file imports, and the data files beside it whose file or folder name it contains."""
    modules: set[str] = set()
    texts: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            modules |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            # `from kiloset.filters import rules` imports the module rules, if there is one of that name.
            modules |= {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
        elif isinstance(node, ast.Constant) and isinstance(node.value, str):
            texts.add(node.value)
    imports = [file for name in modules if (file := _file_of(name, package))]
    named = [path.parent / text for text in texts if FILE_NAME.fullmatch(text)]
    data = [file for each in named if each.suffix != ".py" for file in _data_files(each)]
    return imports, data


def _data_files(path: Path) -> list[Path]:
    if path.is_file():
        return [path]
    if not path.is_dir() or (path / "__init__.py").exists():
        return []
    return [file for file in path.rglob("*") if file.is_file() and file.suffix not in (".py", ".pyc")]


def _file_of(module: str, package: Path) -> Path | None:
    """Return the file of a module of this package, None for others and for names that are no modules."""
    first, *rest = module.split(".")
    if first != NAME:
        return None
    base = package.joinpath(*rest)
    candidates = (base / "__init__.py", base.with_suffix(".py")) if rest else (package / "__init__.py",)
    return next((path for path in candidates if path.is_file()), None)
