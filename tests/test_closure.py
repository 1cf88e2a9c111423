"""A cache key covers exactly the code that a function can run."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from kiloset import recipe
from kiloset.core import closure as closures
from kiloset.core.closure import closure, code_sha256
from kiloset.core.run import PACKAGE
from kiloset.evaluation.suite import evaluate_model
from kiloset.recipe import RECIPE
from tests.paths import ROOT

STAGES = {stage.name: [each.__module__ for each in stage.code] for stage in RECIPE}


@pytest.fixture(scope="module")
def copy(tmp_path_factory):
    """A copy of the package, its links resolved, which a test may edit and must restore."""
    target = tmp_path_factory.mktemp("copy") / "kiloset"
    return Path(shutil.copytree(PACKAGE, target, ignore=shutil.ignore_patterns("__pycache__")))


def hashed_after(edit, copy, *modules):
    """The hash of these modules before and after a line was added to a file of the copy."""
    before = code_sha256(*modules, package=copy)
    path = copy / edit
    whole = path.read_bytes()
    path.write_bytes(whole + b"\n# changed\n")
    try:
        for cached in (closures._digest, closures._references):
            cached.cache_clear()  # files are read once in a process
        return before, code_sha256(*modules, package=copy)
    finally:
        path.write_bytes(whole)
        closures._digest.cache_clear()


@pytest.mark.parametrize(
    ("stage", "inside", "outside"),
    [
        ("rules", "filters/languages.py", "generator/loop.py"),
        ("near_duplicates", "filters/minhash.py", "generator/loop.py"),
        ("generate", "generator/prompts/self_instruct.j2", "evaluation/drift.py"),
        ("rewrite", "core/constraint_checks.py", "filters/selection.py"),
        ("style", "core/form.py", "audit/charts.py"),
    ],
)
def test_a_stage_depends_on_the_files_of_its_closure_and_on_no_other(copy, stage, inside, outside):
    before, after = hashed_after(inside, copy, *STAGES[stage])
    assert before != after
    before, after = hashed_after(outside, copy, *STAGES[stage])
    assert before == after


def test_a_fixed_checker_or_data_file_invalidates_an_evaluation_and_training_code_does_not(copy):
    module = evaluate_model.__module__
    for inside in ("core/constraint_checks.py", "evaluation/data/questions.jsonl"):
        before, after = hashed_after(inside, copy, module)
        assert before != after
    before, after = hashed_after("train/lora.py", copy, module)
    assert before == after


def test_imports_inside_functions_count_and_a_cycle_ends(tmp_path):
    package = tmp_path / "kiloset"
    for name, text in {
        "__init__": "",
        "a": "from kiloset.b import f\n",
        "b": "def f():\n    from kiloset import c\n    from kiloset.a import g\n",
        "c": 'TABLE = "words.txt"\nTEXT = "no such file"\n',
        "d": "import os\n",
    }.items():
        package.mkdir(exist_ok=True)
        (package / f"{name}.py").write_text(text)
    (package / "words.txt").write_text("one")
    names = {path.name for path in closure("kiloset.a", package)}
    assert names == {"__init__.py", "a.py", "b.py", "c.py", "words.txt"}
    with pytest.raises(ValueError, match="has no module os"):
        closure("os", package)


@pytest.mark.parametrize("stage", RECIPE, ids=lambda stage: stage.name)
def test_the_closure_holds_every_function_that_a_stage_names(stage):
    files = {path for module in STAGES[stage.name] for path in closure(module)}
    named = [getattr(recipe, name, None) for name in stage.act.__code__.co_names]
    modules = {each.__module__ for each in named if getattr(each, "__module__", "").startswith("kiloset.")}
    for module in modules - {"kiloset.recipe"}:
        assert PACKAGE.joinpath(*module.split(".")[1:]).with_suffix(".py") in files


@pytest.mark.slow
def test_a_run_does_a_stage_again_after_its_code_changed_and_keeps_the_stages_before_it(tmp_path, copy):
    shutil.copytree(ROOT / "tests", copy.parent / "tests", ignore=shutil.ignore_patterns("__pycache__"))
    environment = {**os.environ, "PYTHONPATH": str(copy.parent), "PYTHONDONTWRITEBYTECODE": "1"}

    def run():
        command = [sys.executable, "-m", "tests.fake_run", str(tmp_path / "run"), "0"]
        subprocess.run(command, cwd=copy.parent, env=environment, check=True, capture_output=True)
        return {path.name: path.stat().st_mtime_ns for path in sorted((tmp_path / "run").glob("[01]*-*.parquet"))}

    first = run()
    assert run() == first
    path = copy / "rewrite" / "gate.py"
    path.write_text(path.read_text() + "\n# changed\n")
    changed = {name for name, time in run().items() if time != first[name]}
    assert changed == {name for name in first if name >= "10-rewrite"}
