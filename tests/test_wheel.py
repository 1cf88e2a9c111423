"""The built wheel in a virtual environment of its own, in a folder whose files have the names of our packages.

The environment sees the dependencies of the environment that runs the tests, but not its editable install of this checkout:
Python appends a path that a `.pth` file names to `sys.path`, and does not read the `.pth` files that lie in it.
"""

import hashlib
import json
import os
import re
import shutil
import site
import subprocess
import sys
import tarfile
import venv
import zipfile
from types import SimpleNamespace

import pytest

from tests import planted
from tests.paths import ROOT

pytestmark = pytest.mark.wheel
SOURCES = (
    *("pyproject.toml", "MANIFEST.in", "README.md", "LICENSE"),
    *("kiloset", "generator", "filters", "rewrite", "train", "seeds"),
)
"""What a build reads."""
HELPERS = ("__init__.py", "fakes.py", "fake_run.py", "paths.py", "seeds.jsonl")
"""The part of tests/ that runs the pipeline on fakes."""
INNER = sorted(
    {path.name.removesuffix(".py") for path in (ROOT / "kiloset").iterdir() if (path / "__init__.py").exists()}
    | {path.stem for path in (ROOT / "kiloset").glob("*.py")} - {"__init__", "__main__"}
)
"""Modules and subpackages that may be imported only as `kiloset.<name>`."""


def run(*command, cwd, status=0, **variables):
    """Run a command in a clean environment, check its exit status and return its output."""
    # Nothing is inherited: PYTHONPATH or PYTEST_* of the process that runs the tests could make the checkout visible.
    environment = {"PATH": os.environ["PATH"], "HOME": str(cwd), "COLUMNS": "200", **variables}
    ran = subprocess.run(list(map(str, command)), cwd=cwd, env=environment, capture_output=True, text=True)
    assert ran.returncode == status, ran.stdout + ran.stderr
    return ran.stdout


def build(source, out):
    """Build the source distribution and the wheel of a source tree, without network, and return both files."""
    hook = "import sys, setuptools.build_meta as backend; print(getattr(backend, sys.argv[1])(sys.argv[2]))"
    names = [
        run(sys.executable, "-c", hook, name, out, cwd=source).splitlines()[-1]
        for name in ("build_sdist", "build_wheel")
    ]
    return [out / name for name in names]


def hashes(wheel):
    """Return the SHA-256 of each file in a wheel by its name."""
    with zipfile.ZipFile(wheel) as archive:
        return {name: hashlib.sha256(archive.read(name)).hexdigest() for name in archive.namelist()}


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    """The source distribution and the wheel of a copy of this checkout."""
    folder = tmp_path_factory.mktemp("build")
    source = folder / "source"
    source.mkdir()
    for name in SOURCES:
        if (ROOT / name).is_dir():
            ignore = shutil.ignore_patterns("__pycache__", "*.egg-info")
            shutil.copytree(ROOT / name, source / name, symlinks=True, ignore=ignore)
        else:
            shutil.copy(ROOT / name, source / name)
    sdist, wheel = build(source, folder)
    return SimpleNamespace(folder=folder, sdist=sdist, wheel=wheel)


@pytest.fixture(scope="module")
def installed(built, tmp_path_factory):
    """A virtual environment with the wheel, and a folder in which a hostile file has the name of each of our packages."""
    environment = tmp_path_factory.mktemp("venv")
    venv.create(environment, symlinks=True, with_pip=False)
    python = environment / "bin" / "python"
    packages = environment / "lib" / f"python{sys.version_info[0]}.{sys.version_info[1]}" / "site-packages"
    (packages / "dependencies.pth").write_text("".join(f"{path}\n" for path in site.getsitepackages()))
    pip = (sys.executable, "-m", "pip", "--python", python, "install", "--quiet", "--no-deps", "--no-index")
    run(*pip, built.wheel, cwd=environment)

    folder = tmp_path_factory.mktemp("hostile")
    for at, name in enumerate(INNER):
        file = folder / (f"{name}.py" if at % 2 else f"{name}/__init__.py")
        file.parent.mkdir(exist_ok=True)
        file.write_text(
            f"open({str(folder / 'imported')!r}, 'w')\nraise RuntimeError('the hostile {name} was imported')\n"
        )
    return SimpleNamespace(folder=folder, python=python, kiloset=python.with_name("kiloset"), packages=packages)


@pytest.fixture
def command(installed):
    """Run a program of the environment, with the hostile folder as working directory and first on the import path."""

    def call(program, *arguments, helpers=(), **options):
        path = os.pathsep.join(map(str, (installed.folder, *helpers)))
        output = run(getattr(installed, program), *arguments, cwd=installed.folder, PYTHONPATH=path, **options)
        assert not (installed.folder / "imported").exists()
        return output

    return call


def test_the_wheel_holds_one_package_with_its_data_files(built):
    names = hashes(built.wheel)
    with zipfile.ZipFile(built.wheel) as archive:
        (top_level,) = [name for name in names if name.endswith("top_level.txt")]
        assert archive.read(top_level).decode().split() == ["kiloset"]
    folders = [ROOT / "kiloset", *(path for path in (ROOT / "kiloset").iterdir() if path.is_symlink())]
    shipped = {
        str(path.relative_to(ROOT))
        for folder in folders
        for path in folder.rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }
    assert {name for name in names if ".dist-info/" not in name} == shipped
    assert len(shipped) > 150


def test_the_source_distribution_builds_the_same_wheel(built):
    unpacked = built.folder / "unpacked"
    with tarfile.open(built.sdist) as archive:
        archive.extractall(unpacked, filter="data")
    (source,) = unpacked.iterdir()
    _, wheel = build(source, unpacked)
    assert wheel.name == built.wheel.name
    assert hashes(wheel) == hashes(built.wheel)


def test_the_environment_sees_the_wheel_and_not_the_checkout(command, installed):
    code = "import json, os, sys, kiloset; print(json.dumps([kiloset.__file__, *map(os.path.realpath, sys.path)]))"
    file, *path = json.loads(command("python", "-c", code))
    assert file == str(installed.packages / "kiloset" / "__init__.py")
    assert str(ROOT) not in path
    shutil.move(installed.packages / "kiloset", installed.packages / "moved")
    try:
        command("python", "-c", "import kiloset", status=1)
    finally:
        shutil.move(installed.packages / "moved", installed.packages / "kiloset")


def test_no_inner_module_can_be_imported_without_the_package_name(installed):
    code = "import importlib.util as u, sys; print(*[n for n in sys.argv[1:] if u.find_spec(n)])"
    assert run(installed.python, "-c", code, *INNER, cwd=installed.packages.parent).split() == []
    assert set(INNER) >= {"core", "engines", "evaluation", "audit", "generator", "filters", "rewrite", "train"}


def test_the_version_is_printed(command, built):
    assert command("kiloset", "--version") == command("python", "-m", "kiloset", "--version")
    assert f"kiloset-{command('kiloset', '--version').split()[-1]}-" in built.wheel.name


def test_the_default_run_is_estimated(command):
    assert "120 rows take about" in command("kiloset", "plan", "--no-probe").splitlines()[-1]


def test_an_instruction_file_is_audited(command, tmp_path):
    rows = planted.clean(20)
    file, page = planted.write(tmp_path / "set.jsonl", [*rows, rows[0]]), tmp_path / "set.html"
    assert "exact duplicate" in command("kiloset", "audit", file, "--page", page).lower()
    assert "<h1>" in page.read_text(encoding="utf-8")


@pytest.fixture
def helpers(tmp_path):
    """A folder with the modules that run the pipeline on fakes; the wheel does not have them."""
    (tmp_path / "tests").mkdir()
    for name in HELPERS:
        shutil.copy(ROOT / "tests" / name, tmp_path / "tests" / name)
    return tmp_path


def test_a_run_of_two_rows_on_fakes_ends_with_two_rows(command, helpers, tmp_path):
    code = """if True:
        import sys
        from tests import fake_run
        fake_run.run(sys.argv[1], table={**fake_run.TABLE, "run": {"size": 2}})
    """
    command("python", "-c", code, tmp_path / "run", helpers=[helpers])
    lines = (tmp_path / "run" / "curated.jsonl").read_text(encoding="utf-8").splitlines()
    assert [json.loads(line)["messages"][0]["role"] for line in lines] == ["user", "user"]


def test_the_python_example_of_the_readme_runs_on_fakes(command, helpers, installed):
    (example,) = re.findall(r"^```python\n(.*?)^```$", (ROOT / "README.md").read_text(encoding="utf-8"), re.M | re.S)
    assert "size=500" in example
    fakes = """if True:
        import kiloset.models
        from tests import fake_run

        class Fakes(fake_run.FakeModels):
            def __init__(self, *_, **__):
                super().__init__()

            def close(self):
                pass

        kiloset.models.RunModels = Fakes
        kiloset.models.embedder_of = lambda *_, **__: Fakes().embedder
    """
    rows = planted.clean(20)
    planted.write(installed.folder / "theirs.jsonl", [*rows, rows[0]])
    shutil.copy(ROOT / "tests" / "seeds.jsonl", installed.folder / "my-seeds.jsonl")
    output = command("python", "-c", fakes + "\n" + example.replace("size=500", "size=5"), helpers=[helpers])
    assert re.search(r"shape: \(5, 4\)", output)
    assert "report.html" in output
    assert "exact_duplicate" in output
