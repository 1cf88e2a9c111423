"""The import rules of the house: who may know whom, and who owns each heavy library."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
ROOMS = ("generator", "filters", "rewrite", "train", "evaluation", "audit")
MAY_IMPORT = {
    "core": {"core"},
    "engines": {"engines", "core"},
    **{room: {room, "core"} for room in ROOMS},
    "kiloset": {"kiloset", "core", "engines", *ROOMS},
}
OWNERS = {
    "altair": ("audit/charts.py",),
    "vllm": ("engines/vllm.py",),
    "faiss": ("filters/nearest.py",),
    "model2vec": ("engines/static.py",),
    "numba": ("filters/minhash.py",),
    "openai": ("engines/openai.py",),
    "peft": ("train/",),
    "ray": ("engines/ray",),
    "sentence_transformers": ("engines/embedder.py",),
}
HEAVY = {"torch", "transformers", "datasets", "datasketch", "scipy", "sklearn", *OWNERS}


def _sources():
    return [path for package in MAY_IMPORT for path in sorted((ROOT / package).glob("*.py"))]


def _imports(path):
    """Yield `(top-level package, whether the import stands at module level and runs)`."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    at_top = {id(node) for node in tree.body}
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for name in node.names:
                yield name.name.split(".")[0], id(node) in at_top
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            yield node.module.split(".")[0], id(node) in at_top


@pytest.mark.parametrize("path", _sources(), ids=lambda path: str(path.relative_to(ROOT)))
def test_a_file_imports_only_what_its_room_may(path):
    room = path.parent.name
    ours = {name for name, _ in _imports(path)} & set(MAY_IMPORT)
    assert ours <= MAY_IMPORT[room]


@pytest.mark.parametrize("library", OWNERS)
def test_a_heavy_library_has_one_owner(library):
    users = {str(path.relative_to(ROOT)) for path in _sources() if library in {name for name, _ in _imports(path)}}
    assert users
    assert all(user.startswith(OWNERS[library]) for user in users)


@pytest.mark.parametrize("path", _sources(), ids=lambda path: str(path.relative_to(ROOT)))
def test_no_file_imports_a_heavy_library_when_it_is_imported(path):
    # numba's decorators are needed at once; that file is imported only where it is used, as the next test sees.
    allowed = {"numba"} if path.name == "minhash.py" else set()
    assert not {name for name, at_top in _imports(path) if at_top} & HEAVY - allowed


def test_the_command_line_starts_without_any_heavy_library():
    code = "import sys, kiloset.cli, kiloset.pipeline, kiloset.models, kiloset.show; print(*sys.modules)"
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, check=True)
    assert not set(ran.stdout.split()) & HEAVY


def test_the_packages_in_pyproject_are_the_packages_there_are():
    import tomllib

    listed = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]["packages"]
    there = {path.parent.name for path in ROOT.glob("*/__init__.py") if path.parent.name != "tests"}
    assert set(listed) == there == set(MAY_IMPORT)
