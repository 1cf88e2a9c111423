"""The public API: README's example as it stands, and every stage alone on a frame."""

import re
import subprocess
import sys

import polars as pl
import pytest

import kiloset
from kiloset.core.run import RunFolder
from tests import fake_run
from tests.fake_run import FakeModels
from tests.paths import ROOT

EXAMPLE = re.search(r"```python\n(.*?)```", (ROOT / "README.md").read_text(encoding="utf-8"), re.DOTALL)[1]


class Models(FakeModels):
    """Fakes in place of the models of a run."""

    def __init__(self, *_):
        super().__init__()

    def close(self):
        pass


@pytest.fixture
def fakes(monkeypatch):
    monkeypatch.setattr("kiloset.models.RunModels", Models)
    monkeypatch.setattr("kiloset.models.embedder_of", lambda *_, **__: Models().embedder)


def test_every_public_name_exists_and_has_a_docstring():
    for name in kiloset.__all__:
        assert getattr(kiloset, name).__doc__, name
    assert {*kiloset.__all__} <= {*dir(kiloset)}
    with pytest.raises(AttributeError, match="no attribute 'make'"):
        kiloset.make  # noqa: B018


def test_importing_the_package_imports_nothing_heavy():
    code = "import sys, kiloset; print(*(name for name in ('polars', 'torch', 'pydantic') if name in sys.modules))"
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, check=True)
    assert ran.stdout.strip() == ""


def test_the_example_of_the_readme_runs(fakes, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "my-seeds.jsonl").write_bytes((ROOT / "tests" / "seeds.jsonl").read_bytes())
    rows = [
        {"instruction": f"Name a river in country {n}.", "response": "" if n == 3 else f"River {n}."} for n in range(9)
    ]
    pl.DataFrame(rows).write_ndjson(tmp_path / "theirs.jsonl")
    # As it stands but for the size, since the fakes would need minutes for 500 rows, and for verification: they write at random.
    assert "size=500" in EXAMPLE
    changed = f"size=12, settings={flat({'verify': fake_run.TABLE['verify']})}"
    names = {}
    exec(compile(EXAMPLE.replace("size=500", changed), "README.md", "exec"), names)
    run = names["run"]
    assert run.curated.height == 12
    assert run.result.shortfall == {}
    assert run.dropped.height == RunFolder(run.path).dropped().height > 0
    assert (run.path / "report.html").is_file()
    assert "empty" in capsys.readouterr().out


def test_a_run_can_be_opened_and_its_completions_reused(fakes, finished, tmp_path):
    run = kiloset.Run.open(finished)
    assert run.manifest["got"] == {"maths": 4, "open_qa": 4, "summarising": 4}
    assert run.curated.columns[:4] == ["id", "messages", "instruction", "response"]
    assert set(run.curated["split"]) == {"train", "validation"}
    settings = {key: value for key, value in flat(fake_run.TABLE).items() if key != "run.size"}
    smaller = kiloset.make_dataset(size=6, settings=settings, runs=tmp_path, name="smaller", reuse=run)
    assert smaller.curated.height == 6
    with pytest.raises(kiloset.DataError) as refused:
        kiloset.Run.open(tmp_path / "absent")
    assert refused.value.code.startswith("KS")


def test_a_config_can_be_an_object_or_a_file(fakes, tmp_path):
    config = kiloset.RunConfig()
    settings = flat(fake_run.TABLE)
    one = kiloset.make_dataset(config=config, settings=settings, runs=tmp_path, name="one")
    two = kiloset.make_dataset(
        config=ROOT / "kiloset" / "configs" / "smoke.toml", settings=settings, runs=tmp_path, name="two"
    )
    assert one.curated.height == two.curated.height == 12
    with pytest.raises(kiloset.ConfigError, match="did you mean 'size'"):
        kiloset.make_dataset(settings={"run.sise": 3}, runs=tmp_path)


def flat(table, where=""):
    """A config table as settings by dotted name."""
    values = {}
    for key, value in table.items():
        inner = isinstance(value, dict) and key != "target"
        values |= flat(value, f"{where}{key}.") if inner else {f"{where}{key}": value}
    return values


@pytest.mark.parametrize(
    ("settings", "is_builtin", "expected"),
    [
        ({}, True, {}),
        ({"models.generator.name": "a/b"}, True, {"models.generator.license": "unknown", "models.base.name": "", "models.rewriter.name": ""}),
        ({"models.base.name": "c/d"}, True, {"models.rewriter.name": ""}),
        ({"models.base.name": "c/d", "models.rewriter.name": "e/f"}, True, {}),
        ({"models.base.name": "c/d"}, False, {}),
        ({"models.generator.name": "a/b"}, False, {"models.generator.license": "unknown"}),
        ({"models.generator.name": "a/b", "models.base.name": "c/d", "models.generator.license": "MIT"}, True, {"models.rewriter.name": ""}),
        (
            {"models.generator.name": "embedded:qwen2.5-coder-1.5b-instruct-int8"}, True,
            {"models.generator.license": "Apache-2.0"},
        ),
        (
            {"models.generator.name": "embedded:smollm2-135m-instruct"}, True,
            {"models.generator.license": "Apache-2.0", "models.base.name": "", "models.rewriter.name": ""},
        ),
    ],
)  # fmt: skip
def test_another_writer_model_has_its_own_license_and_is_the_base_model(settings, is_builtin, expected):
    from kiloset.api import _with_model_settings

    assert _with_model_settings(settings, is_builtin=is_builtin) == {**expected, **settings}
