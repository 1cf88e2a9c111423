"""The import rules of the house: who may know whom, and who owns each heavy library."""

import ast
import re
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
PACKAGE = ROOT / "kiloset"
LINKED = ("generator", "filters", "rewrite", "train")
"""Rooms that stand at the top of the repository and are linked into the package."""
ROOMS = (*LINKED, "evaluation")
LAYERS = {
    "core": {"core"},
    "data": {"data", "core"},
    "engines": {"engines", "core"},
    **{room: {room, "data", "core"} for room in ROOMS},
}
"""Subpackages whose imports are restricted; what is not listed may import anything below `cli`."""
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


def _sources():
    return sorted(path for folder in (PACKAGE, *(PACKAGE / name for name in LINKED)) for path in folder.rglob("*.py"))


def _name(path):
    return str(path.relative_to(PACKAGE))


def _imports(path):
    """Yield `(imported module, whether the import stands at module level and runs)`."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    at_top = {id(node) for node in tree.body}
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for name in node.names:
                yield name.name, id(node) in at_top
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            yield node.module, id(node) in at_top


def _top(name):
    return name.split(".")[0]


@pytest.mark.parametrize("path", _sources(), ids=_name)
def test_a_file_imports_only_what_its_room_may(path):
    room = _name(path).split("/")[0].removesuffix(".py")
    ours = {name.split(".")[1] for name, _ in _imports(path) if name.startswith("kiloset.")}
    if room in LAYERS:
        assert ours <= LAYERS[room]
    elif room not in ("cli", "__main__"):
        assert "cli" not in ours
    assert not {_top(name) for name, _ in _imports(path)} & {*LAYERS, "audit"}, "a bare import of a room"


@pytest.mark.parametrize("library", OWNERS)
def test_a_heavy_library_has_one_owner(library):
    users = {_name(path) for path in _sources() if library in {_top(name) for name, _ in _imports(path)}}
    assert users
    assert all(user.startswith(OWNERS[library]) for user in users)


@pytest.mark.parametrize("path", _sources(), ids=_name)
def test_no_file_imports_a_heavy_library_when_it_is_imported(path):
    # numba's decorators are needed at once; that file is imported only where it is used, as the next test sees.
    allowed = {"numba"} if path.name == "minhash_compiled.py" else set()
    assert not {_top(name) for name, at_top in _imports(path) if at_top} & HEAVY - allowed


def test_the_command_line_starts_without_any_heavy_library():
    code = "import sys, kiloset.cli.app, kiloset.pipeline, kiloset.models, kiloset.cli.show; print(*sys.modules)"
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, check=True)
    assert not set(ran.stdout.split()) & HEAVY


def test_every_deliberate_error_has_a_code_of_its_own():
    names = {"KilosetError", "ConfigError", "DataError", "StageError", "ModelError", "EmptyError"}
    codes = Counter(
        node.args[0].value
        for path in _sources()
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in names
    )
    assert len(codes) > 100
    assert not [code for code in codes if not re.fullmatch(r"KS\d{3}", code)]
    assert not [code for code, places in codes.items() if places > 1]
