"""Measure the source: imports between packages, lines by package and the longest functions.

`python -m tests.draw_imports` writes the table of imports into docs/architecture.md.
`python -m tests.draw_imports FOLDER` prints all measures of a checkout, also of one from before `kiloset` was one package.
"""

import ast
import sys
from collections import Counter
from collections.abc import Collection, Iterator
from functools import cache
from graphlib import CycleError, TopologicalSorter
from pathlib import Path
from typing import NamedTuple

from tests.paths import ROOT

PAGE = ROOT / "docs" / "architecture.md"
BEGIN, END = "<!-- imports: begin -->", "<!-- imports: end -->"
"""The lines of docs/architecture.md between which the table stands."""
ORDER = (
    *("core", "data", "engines", "generator", "verify", "filters", "rewrite", "train", "evaluation"),
    *("audit", "review", "publish", "kiloset", "plan", "cli"),
)
"""Packages from the lowest to the highest; `kiloset` stands for the modules directly in it."""
LEFT_OUT = {"tests", "benchmarks", "docs", "build"}


class Import(NamedTuple):
    """One name that a file imports."""

    module: str
    at_top: bool
    """Whether the statement stands at module level, so that it runs when the file is imported."""


class Function(NamedTuple):
    """A function and its length with decorators and docstring."""

    lines: int
    place: str


@cache
def modules(root: Path = ROOT) -> dict[str, Path]:
    """Return the files of a checkout by module name, each once, without tests and benchmarks."""
    folders = [path for path in sorted(root.iterdir()) if path.is_dir() and not path.name.startswith(".")]
    files: dict[Path, str] = {}
    # Files of `kiloset` come first: a folder that is linked into it is a part of it.
    for folder in sorted(
        (path for path in folders if path.name not in LEFT_OUT), key=lambda path: path.name != "kiloset"
    ):
        for path in (
            *folder.glob("*.py"),
            *(file for inner in folder.iterdir() if inner.is_dir() for file in inner.rglob("*.py")),
        ):
            name = ".".join(path.relative_to(root).with_suffix("").parts).removesuffix(".__init__")
            files.setdefault(path.resolve(), name)
    return {name: path for path, name in sorted(files.items(), key=lambda pair: pair[1])}


@cache
def tree(path: Path) -> ast.Module:
    """Return the parsed file."""
    return ast.parse(path.read_text(encoding="utf-8"))


@cache
def imports(path: Path) -> tuple[Import, ...]:
    """Return what a file imports; `from a import b` counts as `a.b`, which may be a module or a name in `a`."""
    return tuple(_imports(tree(path)))


def _imports(parsed: ast.Module) -> Iterator[Import]:
    at_top = {id(node) for node in parsed.body}
    for node in ast.walk(parsed):
        if isinstance(node, ast.Import):
            yield from (Import(name.name, id(node) in at_top) for name in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield from (Import(f"{node.module}.{name.name}", id(node) in at_top) for name in node.names)


def package_of(module: str) -> str:
    """Return the package of a module: `kiloset.core.table` and `core.table` belong to `core`, `kiloset.models` to `kiloset`."""
    if module == "kiloset.__main__":
        return "cli"  # `python -m kiloset`
    first, *rest = module.split(".")
    return rest[0] if first == "kiloset" and (len(rest) > 1 or rest[:1] in ([p] for p in ORDER)) else first


def module_graph(root: Path = ROOT) -> dict[str, set[str]]:
    """Return the modules of the checkout that each module imports anywhere in its code."""
    known = modules(root)

    def owner(name: str) -> str | None:
        return name if name in known else name.rpartition(".")[0] if name.rpartition(".")[0] in known else None

    return {
        module: {name for one in imports(path) if (name := owner(one.module)) and name != module}
        for module, path in known.items()
    }


def package_graph(root: Path = ROOT) -> dict[str, set[str]]:
    """Return the packages that each package imports."""
    graph: dict[str, set[str]] = {}
    for module, imported in module_graph(root).items():
        graph.setdefault(package_of(module), set()).update(map(package_of, imported))
    return {package: graph[package] - {package} for package in sorted(graph, key=_rank)}


def import_cycle(allowed: Collection[tuple[str, str]] = (), root: Path = ROOT) -> list[str]:
    """Return the modules of one cycle of imports, without the imports that are allowed to close one; or no module."""
    graph = module_graph(root).items()
    try:
        TopologicalSorter(
            {one: {other for other in some if (one, other) not in allowed} for one, some in graph}
        ).prepare()
    except CycleError as error:
        return list(error.args[1])
    return []


def import_table(root: Path = ROOT) -> str:
    """Return a Markdown table: the package of a row imports the marked packages."""
    graph = package_graph(root)
    head = [f"| | {' | '.join(graph)} |", f"|---|{':-:|' * len(graph)}"]
    rows = (
        f"| **{package}** | {' | '.join('●' if other in imported else '–' if other == package else ' ' for other in graph)} |"
        for package, imported in graph.items()
    )
    return "\n".join([*head, *rows])


def lines_by_package(root: Path = ROOT) -> dict[str, int]:
    """Return the lines of Python code, blank lines and comments included, of each package."""
    counts: Counter[str] = Counter()
    for module, path in modules(root).items():
        counts[package_of(module)] += len(path.read_text(encoding="utf-8").splitlines())
    return {package: counts[package] for package in sorted(counts, key=_rank)}


def longest_functions(root: Path = ROOT) -> dict[str, Function]:
    """Return the longest function of each package."""
    longest: dict[str, Function] = {}
    for module, path in modules(root).items():
        package = package_of(module)
        for node in ast.walk(tree(path)):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                first = min([node.lineno, *(decorator.lineno for decorator in node.decorator_list)])
                function = Function((node.end_lineno or first) - first + 1, f"{module}.{node.name}")
                longest[package] = max(longest.get(package, function), function)
    return {package: longest[package] for package in sorted(longest, key=_rank)}


def _rank(package: str) -> tuple[int, str]:
    return (ORDER.index(package) if package in ORDER else len(ORDER), package)


def drawn(page: str) -> str:
    """Return the page with the table of this checkout between its two markers.

    Raises:
        ValueError: The page does not have each marker once.
    """
    before, _, rest = page.partition(BEGIN)
    _, _, after = rest.partition(END)
    if page.count(BEGIN) != 1 or page.count(END) != 1 or not before:
        raise ValueError(f"the page must have {BEGIN} and {END}, each once and in this order")
    return f"{before}{BEGIN}\n\n{import_table()}\n\n{END}{after}"


def measures(root: Path) -> str:
    """Return all measures of a checkout as text."""
    lines, longest, graph = lines_by_package(root), longest_functions(root), package_graph(root)
    rows = [f"{'package':12} {'lines':>6}  longest function"]
    rows += [
        f"{name:12} {lines[name]:6,}  {longest[name].lines if name in longest else 0:3} {longest[name].place if name in longest else ''}"
        for name in lines
    ]
    rows += [f"{'total':12} {sum(lines.values()):6,}  {max(function.lines for function in longest.values()):3}"]
    cycle = " -> ".join(import_cycle(root=root)) or "none"
    edges = sum(map(len, graph.values()))
    return "\n".join(
        [*rows, "", import_table(root), "", f"imports between packages: {edges}", f"cycle of modules: {cycle}"]
    )


if __name__ == "__main__":
    if folder := sys.argv[1:]:
        print(measures(Path(folder[0]).resolve()))
    else:
        PAGE.write_text(drawn(PAGE.read_text(encoding="utf-8")), encoding="utf-8")
