import json
import re
from importlib.metadata import version

import pytest

from kiloset.cli.app import app
from tests.paths import ROOT

GOOD = {"instruction": "Name a colour.", "input": "", "response": "Blue.", "category": "open_qa"}


@pytest.fixture
def seeds(tmp_path):
    def write(content):
        path = tmp_path / "mine.jsonl"
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
        return path

    return write


@pytest.mark.parametrize(
    ("content", "code", "line"),
    [
        ("", "KS102", ""),
        (json.dumps(GOOD) + "\n{broken", "KS126", ":2"),
        (json.dumps(GOOD).encode("utf-16"), "KS125", ":1"),
        (json.dumps({**GOOD, "id": "a"}) + "\n" + json.dumps({**GOOD, "id": "a"}), "KS101", ":2"),
        (json.dumps({**GOOD, "response": ""}), "KS147", ":1"),
        (json.dumps({"prompt": "x"}), "KS109", ":1"),
    ],
)  # fmt: skip
def test_broken_seeds_are_refused_in_one_line_before_any_model_loads(kiloset, seeds, tmp_path, content, code, line):
    path = seeds(content)
    ran = kiloset("dataset", "--seeds", path, "--runs", tmp_path / "runs", cwd=tmp_path)
    assert (ran.returncode, ran.stdout) == (2, "")
    assert ran.stderr.startswith(f"kiloset: {code} {path}{line}: ")
    assert len(ran.stderr.splitlines()) == 1
    assert not (tmp_path / "runs").exists()


@pytest.mark.parametrize(
    ("arguments", "code"),
    [
        (["--seeds", "none.jsonl"], "KS120"),
        (["--config", "none.toml"], "KS003"),
        (["--set", "run.sise=3"], "KS011"),
        (["--size", "0"], "KS013"),
        (["--set", "categories.target={matsh=1}"], "KS201"),
        (["--set", "rules.off=['nothing']"], "KS301"),
        (["--model", "./no-such-model"], "KS551"),
        (["--model", "embedded:gpt9"], "KS556"),
        (["--base", "justaname"], "KS552"),
        (["--base", "embedded:qwen2.5-coder-1.5b-instruct-int8"], "KS578"),
        (["--set", "pool.path=gone.csv"], "KS120"),
    ],
)
def test_bad_arguments_are_refused_in_one_line_with_status_2(kiloset, tmp_path, arguments, code):
    ran = kiloset("dataset", "--runs", tmp_path / "runs", *arguments, cwd=tmp_path)
    assert ran.returncode == 2
    assert ran.stderr.startswith(f"kiloset: {code} ")
    assert len(ran.stderr.splitlines()) == 1
    assert not (tmp_path / "runs").exists()


def test_a_folder_that_cannot_be_written_is_refused(kiloset, tmp_path):
    (tmp_path / "runs").write_text("a file, not a folder")
    ran = kiloset("dataset", "--runs", tmp_path / "runs", cwd=tmp_path)
    assert (ran.returncode, ran.stderr[:14]) == (2, "kiloset: KS048")
    assert len(ran.stderr.splitlines()) == 1


def test_a_run_of_another_config_is_refused_before_any_model_loads(kiloset, finished, tmp_path):
    ran = kiloset("dataset", "--runs", tmp_path / "runs", "--run", "mine", cwd=tmp_path)
    assert (ran.returncode, ran.stderr[:14]) == (2, "kiloset: KS859")


def test_audit_and_explain_read_the_run_folder_alone(kiloset, finished, tmp_path):
    audit = kiloset("audit", "--runs", tmp_path / "runs")
    assert audit.returncode == 0, audit.stderr
    assert "open_qa" in audit.stdout
    assert "seed_kept_apart" not in audit.stdout
    assert (
        "Rewrites, the nearest to each limit first: 1 of"
        in kiloset("audit", "--examples", 1, "--runs", tmp_path / "runs").stdout
    )
    assert kiloset("audit", "--examples", -1, "--runs", tmp_path / "runs").returncode == 2
    assert "report.html: " in audit.stderr
    assert "<h1>Audit of " in (finished / "report.html").read_text(encoding="utf-8")
    elsewhere = tmp_path / "elsewhere.html"
    assert kiloset("audit", "--no-page", "--page", elsewhere, "--runs", tmp_path / "runs").returncode == 0
    assert not elsewhere.exists()
    first = json.loads((finished / "curated.jsonl").read_text().splitlines()[0])
    life = kiloset("explain", first["id"], "--runs", tmp_path / "runs", "--run", "mine")
    assert life.returncode == 0, life.stderr
    assert first["id"] in life.stdout
    assert "s0" in life.stdout
    unknown = kiloset("explain", "g99999", "--runs", tmp_path / "runs")
    assert unknown.returncode == 2
    assert "g99999" in unknown.stderr


def test_with_json_an_error_is_an_event_with_its_status(kiloset, seeds, tmp_path):
    ran = kiloset("dataset", "--seeds", seeds(""), "--runs", tmp_path / "runs", "--progress", "json", cwd=tmp_path)
    assert (ran.returncode, ran.stdout) == (2, "")
    (event,) = (json.loads(line) for line in ran.stderr.splitlines())
    assert (event["event"], event["code"], event["status"]) == ("error", "KS102", 2)
    assert "mine.jsonl: no example in it" in event["text"]


@pytest.mark.parametrize("mode", ["auto", "live", "lines", "none"])
def test_an_error_is_printed_with_every_kind_of_progress(kiloset, tmp_path, mode):
    ran = kiloset("dataset", "--size", "0", "--runs", tmp_path / "runs", "--progress", mode, cwd=tmp_path)
    assert ran.returncode == 2
    assert ran.stderr == "kiloset: KS013 [run] size must be greater than or equal to 1, got 0\n"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["dataset", "--progress", "loud"], "Invalid value for '--progress': "),
        (["audit", "--examples", "-1"], "Invalid value for '--examples': "),
        (["plan", "--sise", "3"], "No such option: --sise (Possible options: --base, --set, --size)"),
        (["plan", "--size"], "Option '--size' requires an argument."),
        (["push"], "Missing argument 'REPO_ID'."),
        (["plann"], "No such command 'plann'."),
    ],
)
def test_a_wrong_option_is_refused_in_one_line(kiloset, arguments, message):
    ran = kiloset(*arguments)
    assert (ran.returncode, ran.stdout) == (2, "")
    assert ran.stderr.startswith(f"kiloset: {message}")
    assert len(ran.stderr.splitlines()) == 1


def test_the_version_is_the_packages(kiloset):
    ran = kiloset("--version")
    assert (ran.returncode, ran.stdout, ran.stderr) == (0, f"kiloset {version('kiloset')}\n", "")


def test_a_plan_writes_nothing_and_names_its_evidence(kiloset, tmp_path):
    ran = kiloset("plan", "--no-probe", "--runs", tmp_path / "runs", "--size", "30", cwd=tmp_path)
    assert (ran.returncode, ran.stderr) == (0, "")
    summary = ran.stdout.splitlines()[-1]
    assert "30 rows take about" in summary
    assert summary.endswith("(evidence: assumed)")
    assert not (tmp_path / "runs").exists()


def test_a_plan_as_json_is_of_the_config_that_dataset_would_run(kiloset, tmp_path):
    common = [
        "--config",
        ROOT / "kiloset" / "configs" / "smoke.toml",
        "--runs",
        tmp_path / "runs",
        "--json",
        "--no-probe",
    ]
    ran = kiloset("plan", *common, "--size", "14", "--set", "generate.max_requests=1", cwd=tmp_path)
    plan = json.loads(ran.stdout)
    assert plan["run"].startswith("smoke-")
    assert (plan["rows"], plan["candidates"]) == (14, 28)
    assert plan["shortages"][0]["limit"] == "max_requests"
    assert plan["shortages"][0]["rows"]["expected"] == 0


def test_a_plan_of_another_runs_folder_or_of_bad_input_is_refused_as_dataset_would(kiloset, tmp_path):
    (tmp_path / "runs" / "mine").mkdir(parents=True)
    (tmp_path / "runs" / "mine" / "config.toml").write_text("[run]\nsize = 12\n")
    ran = kiloset("plan", "--runs", tmp_path / "runs", "--run", "mine", cwd=tmp_path)
    assert ran.returncode == 2
    assert ran.stderr.startswith("kiloset: KS859 ")
    ran = kiloset("plan", "--seeds", "none.jsonl", cwd=tmp_path)
    assert ran.returncode == 2
    assert ran.stderr.startswith("kiloset: KS120 none.jsonl: ")


@pytest.mark.parametrize("command", ["audit", "train"])
def test_commands_without_a_run_are_refused(kiloset, tmp_path, command):
    ran = kiloset(command, "--runs", tmp_path / "runs")
    assert ran.returncode == 2
    assert ran.stderr.startswith("kiloset: KS852 ")
    assert len(ran.stderr.splitlines()) == 1


def test_help_lists_every_command_and_each_has_help_with_an_example(kiloset):
    overview = kiloset("--help")
    assert overview.returncode == 0
    commands = [command.name or command.callback.__name__ for command in app.registered_commands]
    assert len(commands) == 17
    for command in commands:
        assert re.search(rf"^│ {command} ", overview.stdout, re.MULTILINE)
        assert f"Example: kiloset {command}" in kiloset(command, "--help").stdout


def test_a_run_with_seeds_of_other_categories_cannot_go_on_from_one(kiloset, seeds, finished):
    path = seeds('{"instruction": "Name a river.", "response": "The Oder.", "category": "geography"}\n')
    arguments = ("dataset", "--runs", str(finished.parent), "--run", "other", "--from", finished.name)
    ran = kiloset(*arguments, "--seeds", str(path), "--progress", "none")
    assert ran.returncode == 2
    assert ran.stderr.startswith("kiloset: KS857 --from mine: ")
    assert not (finished.parent / "other").exists()


def test_thinning_refuses_what_is_no_pool_before_a_cluster_is_joined(kiloset, tmp_path):
    for pool, code in (("none", "KS022"), ("empty", "KS023")):
        (tmp_path / "empty").mkdir(exist_ok=True)
        ran = kiloset("thin", tmp_path / pool, tmp_path / "out", cwd=tmp_path)
        assert (ran.returncode, ran.stdout) == (2, "")
        assert ran.stderr.startswith(f"kiloset: {code} ")
        assert len(ran.stderr.splitlines()) == 1
    assert not (tmp_path / "out").exists()
