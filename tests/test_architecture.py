"""The import rules: which package may import which, which file owns each heavy library, and the table of imports."""

import ast
import re
import subprocess
import sys
from collections import Counter
from functools import cache

import pytest

from tests import draw_imports
from tests.draw_imports import imports, modules, package_of, tree
from tests.paths import ROOT

STAGES = ("generator", "verify", "filters", "rewrite", "train", "evaluation")
"""Packages that get models as arguments."""
LAYERS = {
    "core": {"core"},
    "data": {"data", "core"},
    "engines": {"engines", "core"},
    **{package: {package, "data", "core"} for package in STAGES},
}
"""What a package may import. A package that is not listed may import everything but `cli`."""
CLOSES_A_CYCLE = {("kiloset.filters.minhash", "kiloset.filters.minhash_compiled")}
"""Imports inside a function that close a cycle of modules: this one selects the engine by the size of the pool."""
OWNERS = {
    "altair": ("audit/charts.py",),
    "vllm": ("engines/vllm.py",),
    "faiss": ("filters/nearest.py",),
    "model2vec": ("engines/static.py",),
    "datasketch": ("filters/minhash.py",),
    "numba": ("filters/minhash_compiled.py",),
    "openai": ("engines/openai.py",),
    "peft": ("train/",),
    "ray": ("engines/ray",),
    "sentence_transformers": ("engines/embedder.py",),
}
HEAVY = {"torch", "transformers", "datasets", "scipy", "sklearn", *OWNERS}


SOURCES = {module.removeprefix("kiloset."): path for module, path in modules().items()}


def _file(module):
    """Return the file of a module by its name in the package, `core/table.py`."""
    path = modules()[f"kiloset.{module}"] if module != "kiloset" else modules()["kiloset"]
    return f"{module.replace('.', '/')}{'/__init__' if path.name == '__init__.py' else ''}.py"


@cache
def _libraries(path, *, at_top=False):
    """Return the first names of what a file imports: `torch`, `kiloset`."""
    return {one.module.split(".")[0] for one in imports(path) if one.at_top or not at_top}


@pytest.mark.parametrize("module", SOURCES)
def test_a_file_imports_only_the_packages_that_its_package_may_import(module):
    path = SOURCES[module]
    package = package_of(f"kiloset.{module}")
    imported = {package_of(one.module) for one in imports(path) if one.module.startswith("kiloset.")}
    if package in LAYERS:
        assert imported <= LAYERS[package]
    elif package != "cli":
        assert "cli" not in imported
    assert not _libraries(path) & {*LAYERS, "audit", "review", "publish", "cli"}, "imported without `kiloset.`"


def test_no_import_is_relative():
    nodes = ((module, node) for module, path in SOURCES.items() for node in ast.walk(tree(path)))
    assert [module for module, node in nodes if isinstance(node, ast.ImportFrom) and node.level] == []


def test_no_modules_import_each_other_in_a_cycle():
    graph = draw_imports.module_graph()
    assert [pair for pair in CLOSES_A_CYCLE if pair[1] not in graph[pair[0]]] == []
    assert draw_imports.import_cycle(CLOSES_A_CYCLE) == []


def test_the_architecture_page_shows_the_imports_between_packages():
    page = draw_imports.PAGE.read_text(encoding="utf-8")
    assert page == draw_imports.drawn(page), f"run `python -m tests.draw_imports`\n{draw_imports.import_table()}"


@pytest.mark.parametrize("library", OWNERS)
def test_a_heavy_library_has_one_owner(library):
    users = {_file(module) for module, path in SOURCES.items() if library in _libraries(path)}
    assert users
    assert all(user.startswith(OWNERS[library]) for user in users)


@pytest.mark.parametrize("module", SOURCES)
def test_no_file_imports_a_heavy_library_when_it_is_imported(module):
    # numba's decorators need it at once; that file is imported inside a function, which the next test checks.
    allowed = {"numba"} if module == "filters.minhash_compiled" else set()
    assert not _libraries(SOURCES[module], at_top=True) & HEAVY - allowed


def test_the_command_line_starts_without_any_heavy_library():
    code = "import sys, kiloset.cli.app, kiloset.runner, kiloset.models, kiloset.cli.show; print(*sys.modules)"
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, check=True)
    assert not set(ran.stdout.split()) & HEAVY


def test_every_deliberate_error_has_a_code_of_its_own():
    names = {"KilosetError", "ConfigError", "DataError", "StageError", "ModelError", "EmptyError"}
    codes = Counter(
        node.args[0].value
        for path in SOURCES.values()
        for node in ast.walk(tree(path))
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in names
    )
    assert len(codes) > 100
    assert not [code for code in codes if not re.fullmatch(r"KS\d{3}", code)]
    assert not [code for code, places in codes.items() if places > 1]


def test_no_two_public_classes_share_a_name():
    places = Counter(
        node.name
        for path in modules().values()
        for node in ast.parse(path.read_text(encoding="utf-8")).body
        if isinstance(node, ast.ClassDef) and not node.name.startswith("_")
    )
    assert len(places) > 100
    assert [name for name, number in places.items() if number > 1] == []
