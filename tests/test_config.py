import pytest

from kiloset.core.config import describe, parse, parse_overrides, read_toml, with_settings
from kiloset.core.errors import ConfigError
from kiloset.settings import RunConfig, check_same, data_relevant, load_config, run_name, to_toml
from tests.paths import ROOT


@pytest.mark.parametrize(
    ("assignment", "message"),
    [
        ("near_duplicates.threshold=1.4", r"\[near_duplicates\] threshold must be less than or equal to 1, got 1.4"),
        ("near_duplicates.treshold=0.5", r"\[near_duplicates\] has no setting 'treshold'; did you mean 'threshold'\?"),
        ("near_duplicate.threshold=0.5", "the config has no table 'near_duplicate'; did you mean 'near_duplicates'"),
        ("run.size='many'", r"\[run\] size must be a valid integer, got 'many'"),
        ("run.size=true", r"\[run\] size must be a valid integer, got True"),
        ("run.size=0", r"\[run\] size must be greater than or equal to 1, got 0"),
        ("engine.dtype=int8", r"\[engine\] dtype must be 'auto', 'float32', 'bfloat16' or 'float16', got 'int8'"),
        ("categories.target=even", r"\[categories\] target must be .*'uniform'.* or a valid dictionary, got 'even'"),
        ("categories.target={maths=-1}", r"\[categories\] target must be .*greater than 0"),
        ("categories.target={maths=inf}", r"\[categories\] target must be .*finite number"),
        ("categories.target={}", r"\[categories\] target must be .* or a table with at least 1 item.*, got {}"),
        ("select.temper=1.5", r"\[select\] temper must be less than or equal to 1, got 1.5"),
        ("run.size=" + "9" * 5000, r"\[run\] size must be a valid integer"),
        ("models.generator=big", r"\[models.generator\] must be a table, got 'big'"),
        ("models.base.nam=big", r"\[models.base\] has no setting 'nam'; did you mean 'name'\?"),
    ],
)
def test_a_wrong_setting_is_refused_with_where_what_and_what_is_allowed(assignment, message):
    with pytest.raises(ConfigError, match=message):
        parse(RunConfig, with_settings({}, parse_overrides([assignment])))


@pytest.mark.parametrize("assignment", ["size=3", "run.size", "=3", "run.=3"])
def test_an_override_needs_table_key_and_value(assignment):
    with pytest.raises(ConfigError, match=r"--set takes table.key=value"):
        with_settings({}, parse_overrides([assignment]))


def test_an_override_leaves_the_table_it_was_given_alone():
    table = {"run": {"size": 5, "seed": 1}}
    assert with_settings(table, parse_overrides(["run.size=7"])) == {"run": {"size": 7, "seed": 1}}
    assert table == {"run": {"size": 5, "seed": 1}}


def test_a_value_that_is_no_toml_is_text():
    assert with_settings({}, parse_overrides(["seeds.path=my seeds.jsonl"])) == {"seeds": {"path": "my seeds.jsonl"}}
    assert with_settings({}, parse_overrides(["rules.off=['a', 'b']"])) == {"rules": {"off": ["a", "b"]}}


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"[run\n", "not TOML"),
        (b"a = " + b"9" * 5000, "not TOML: Exceeds the limit"),
        (b"a = " + b"[" * 100_000, "not TOML: nested too deeply"),
        (b"a = '\xff'", "not UTF-8 text"),
        (None, "no such config file"),
    ],
)
def test_a_broken_config_file_is_named(tmp_path, content, message):
    path = tmp_path / "my.toml"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(ConfigError, match=f"my.toml: {message}"):
        read_toml(path)


@pytest.mark.parametrize(
    ("path", "cause"), [("my.toml/x", "Not a directory"), ("x" * 300, "File name too long")], ids=["file", "long"]
)
def test_a_config_path_that_cannot_be_read_is_named(tmp_path, path, cause):
    (tmp_path / "my.toml").touch()
    with pytest.raises(ConfigError, match=rf"{path}: cannot be read \({cause}\)$"):
        read_toml(tmp_path / path)


@pytest.mark.parametrize("name", ["cpu", "gpu", "smoke"])
def test_the_shipped_configs_are_valid_and_written_back_unchanged(name, tmp_path):
    config = load_config(ROOT / "kiloset" / "configs" / f"{name}.toml")
    (tmp_path / "config.toml").write_text(to_toml(config))
    assert load_config(tmp_path / "config.toml") == config


def test_every_setting_has_a_meaning():
    undocumented = [f"{table}.{key}" for table, key, _, text in describe(RunConfig) if not text]
    assert undocumented == []


def test_the_run_name_follows_what_decides_the_content_and_nothing_else():
    plain = parse(RunConfig, {})
    faster = parse(RunConfig, {"engine": {"max_num_seqs": 7}, "train": {"epochs": 9}})
    larger = parse(RunConfig, {"run": {"size": 121}})
    content = {"seeds": "abc"}
    assert run_name(plain, "cpu", content) == run_name(faster, "cpu", content)
    assert run_name(plain, "cpu", content) != run_name(larger, "cpu", content)
    assert run_name(plain, "cpu", content) != run_name(plain, "cpu", {"seeds": "abd"})


def test_a_folder_of_another_config_is_refused_and_the_difference_named(tmp_path):
    written = to_toml(parse(RunConfig, {"run": {"size": 50}}))
    check_same(parse(RunConfig, {"run": {"size": 50}, "engine": {"max_num_seqs": 3}}), written, tmp_path)
    with pytest.raises(ConfigError, match=r"another config: \[run\] size = 50 there, 60 here"):
        check_same(parse(RunConfig, {"run": {"size": 60}}), written, tmp_path)


def test_engine_and_training_do_not_decide_the_content():
    assert {"engine", "train"}.isdisjoint(data_relevant(parse(RunConfig, {})))
