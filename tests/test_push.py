"""Pushing a set: what arrives at a hub that speaks HTTP, what is refused, and that what was pushed loads as it was curated."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import get_args

import polars as pl
import pytest

from kiloset.cli.publish import HubLayout
from kiloset.core.errors import ConfigError, DataError
from kiloset.core.run import RunFolder
from kiloset.publish import push as pushing
from kiloset.publish.export import export
from tests.fake_hub import TOKEN, Repo, serving

ROOT = Path(__file__).resolve().parent.parent
KEY = "AKIA" + "QWERTYUIOPASDFGH"


@pytest.fixture
def hub(monkeypatch, tmp_path):
    from huggingface_hub import constants
    from huggingface_hub.utils import _http

    with serving() as hub:
        monkeypatch.setattr(constants, "ENDPOINT", hub.address)
        monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)  # the stand-in takes large files by LFS
        monkeypatch.setattr(constants, "HF_TOKEN_PATH", str(tmp_path / "no-token"))
        monkeypatch.setattr(_http.time, "sleep", lambda seconds: None)
        monkeypatch.setenv("HF_TOKEN", TOKEN)
        yield hub


@pytest.fixture
def run(finished):
    return RunFolder(finished)


def send(run, repo="jo/set", layout="parquet", **options):
    lines = []
    arguments = {
        "private": True, "branch": None, "message": None, "validation": 0.25, "allow_personal": False,
        "say": lines.append, "confirm": lambda: None, **options,
    }  # fmt: skip
    lines.append(pushing.push(run, repo, layout, **arguments))
    return "\n".join(lines)


def edit(run, change):
    rows = [json.loads(line) for line in run.curated.read_text().splitlines()]
    change(rows)
    run.curated.write_text("".join(json.dumps(row) + "\n" for row in rows))


def has_personal(rows):
    rows[0]["messages"][1]["content"] += " Write to jane.miller@gmail.com."


def has_key(rows):
    rows[0]["messages"][0]["content"] += f" My key is {KEY}."


@pytest.mark.parametrize("layout", get_args(HubLayout))
def test_one_commit_brings_exactly_the_export_and_its_card(hub, run, tmp_path, layout):
    output = send(run, layout=layout)
    export(run, layout, tmp_path / "mine", 0.25)

    commits = hub.repos["jo/set"].branches["main"]
    assert [commit.message for commit in commits] == ["Initial commit", "Kiloset run mine: 12 rows"]
    arrived = {name: content for name, content in commits[-1].files.items() if name != ".gitattributes"}
    ours = {path.name: path.read_bytes() for path in (tmp_path / "mine").iterdir() if not path.name.startswith(".")}
    card = arrived.pop("README.md").decode()
    assert arrived == ours
    assert len(ours) == 2 + (layout not in ("messages", "parquet"))
    assert 'load_dataset("jo/set")' in card
    assert all(f"sends {name}, {len(content):,} bytes" in output for name, content in ours.items())
    assert commits[-1].oid[:12] in output
    assert hub.repos["jo/set"].private


def test_the_token_goes_into_the_headers_of_the_hub_and_nowhere_else(hub, run, capfd):
    output = send(run)
    captured = capfd.readouterr()
    assert len(hub.asked) >= 7
    for asked in hub.asked:
        assert TOKEN not in asked.path
        assert TOKEN.encode() not in asked.body
        is_storage = asked.path.startswith("/storage/")
        assert {name for name, value in asked.headers.items() if TOKEN in value} == (
            set() if is_storage else {"authorization"}
        ), asked.path
    assert TOKEN not in output + captured.out + captured.err
    assert not any(TOKEN.encode() in path.read_bytes() for path in run.path.rglob("*") if path.is_file())


def test_warnings_of_the_hub_about_the_card_are_shown_and_nothing_else(hub, run):
    assert "warning" not in send(run)
    hub.warnings = ["license is\x1b[31m odd"]
    edit(run, lambda rows: rows.pop())
    assert "  warning of the hub: Warnings while validating metadata in README.md: - license is[31m odd" in send(run)


def test_nothing_of_the_run_but_the_export_is_sent(hub, run):
    (run.path / "notes.txt").write_text("mine alone")
    send(run)
    assert set(hub.head("jo/set").files) == {".gitattributes", "README.md", "train.parquet", "validation.parquet"}
    assert not any(b"mine alone" in asked.body or b"SQLite format" in asked.body for asked in hub.asked)


def test_what_was_pushed_already_is_not_committed_again(hub, run):
    send(run)
    output = send(run)
    assert len(hub.repos["jo/set"].branches["main"]) == 2
    assert "nothing has changed since commit" in output
    edit(run, lambda rows: rows.pop())
    send(run, message="one row less")
    commits = hub.repos["jo/set"].branches["main"]
    assert [commit.message for commit in commits[2:]] == ["one row less"]


def test_a_file_of_an_earlier_push_that_is_no_more_is_taken_away_in_the_same_commit(hub, run):
    send(run, layout="messages")
    hub.head("jo/set").files["notes.txt"] = b"the owner's"
    output = send(run, validation=0.0)
    assert set(hub.head("jo/set").files) == {".gitattributes", "README.md", "train.parquet", "notes.txt"}
    assert "deletes validation.jsonl of an earlier push" in output
    assert len(hub.repos["jo/set"].branches["main"]) == 3


def test_a_missing_branch_is_made(hub, run):
    send(run)
    send(run, branch="v2", message="two", validation=0.0)
    send(run, branch="v2", message="three")
    branches = hub.repos["jo/set"].branches
    assert [commit.message for commit in branches["v2"][2:]] == ["two", "three"]
    assert len(branches["main"]) == 2


def test_a_name_without_an_owner_is_under_the_account_of_the_token(hub, run):
    assert "jo/set (private, will be created)" in send(run, repo="set")
    assert list(hub.repos) == ["jo/set"]


def test_nobody_publishes_by_accident_in_a_repository_that_is_public_already(hub, run):
    hub.repos["jo/set"] = Repo(private=False)
    with pytest.raises(ConfigError, match="jo/set: is public already; push to it with --public"):
        send(run)
    hub.repos["jo/other"] = Repo(private=True)
    with pytest.raises(ConfigError, match="jo/other: is private already; push to it with --private"):
        send(run, repo="jo/other", private=False)
    assert [len(repo.branches["main"]) for repo in hub.repos.values()] == [1, 1]
    assert "jo/set (PUBLIC, exists)" in send(run, private=False)


def test_what_is_public_holds_no_personal_data_unless_that_is_allowed_and_no_key_ever(hub, run):
    edit(run, has_personal)
    with pytest.raises(DataError, match=r"not sent: the rows contain personal data \(1 x e-mail;.*--allow-personal"):
        send(run, private=False)
    assert not hub.repos
    assert "personal data: 1 x e-mail" in send(run, repo="jo/private")
    assert "PUBLIC" in send(run, repo="jo/allowed", private=False, allow_personal=True)
    edit(run, has_key)
    with pytest.raises(
        DataError, match=r"not sent: the rows contain keys or tokens \(1 x e-mail, 1 x key\)"
    ) as refused:
        send(run, repo="jo/key", private=False, allow_personal=True)
    assert KEY not in str(refused.value)
    assert sorted(hub.repos) == ["jo/allowed", "jo/private"]


def test_licences_that_bind_the_whole_are_named_before_it_is_sent(hub, run):
    edit(run, lambda rows: rows[0].update(license="CC-BY-SA-4.0"))
    output = send(run)
    assert "licence CC-BY-SA-4.0: share-alike" in output
    assert "license: other" in hub.head("jo/set").files["README.md"].decode()


def test_nothing_is_made_or_sent_where_the_user_does_not_want_it(hub, run):
    def no():
        raise ConfigError("KS000", "no")

    with pytest.raises(ConfigError, match=r"^no$"):
        send(run, confirm=no)
    assert not hub.repos
    assert {asked.method for asked in hub.asked} == {"GET"}


@pytest.mark.parametrize(
    "repo", ["a/b/c", "-x", "a--b", "x.git", "jo/ set", "jo/sét", "", "jo/" + "x" * 97, "\x1b[31m"]
)
def test_a_name_that_is_none_is_refused_before_anything_is_asked(hub, run, repo):
    with pytest.raises(ConfigError, match="is not a valid repository name") as refused:
        send(run, repo=repo)
    assert "\x1b" not in str(refused.value)
    assert not hub.asked


def test_without_a_token_nothing_is_asked(hub, run, monkeypatch):
    monkeypatch.delenv("HF_TOKEN")
    with pytest.raises(ConfigError, match="no token for the hub: set HF_TOKEN, or log in once with `hf auth login`"):
        send(run)
    assert not hub.asked


def test_a_token_that_is_none_and_one_that_may_not_write_are_distinguished(hub, run, monkeypatch):
    with pytest.raises(DataError, match=r"^somebody/set: the hub answers 403: the token may not write there"):
        send(run, repo="somebody/set")
    monkeypatch.setenv("HF_TOKEN", "hf_wrong")
    with pytest.raises(DataError, match=r"^jo/set: the hub answers 401: the token is not valid"):
        send(run)
    assert not hub.repos


@pytest.mark.parametrize(
    ("method", "path", "status", "message"),
    [
        (
            "POST",
            "/commit/",
            409,
            "the hub answers 409: somebody else changed the repository at the same time; push again",
        ),
        ("POST", "/commit/", 404, "the hub answers 404: there is no such repository or branch"),
        ("POST", "/commit/", 500, "the hub answers 500: the hub failed; push again"),
        ("GET", "/whoami", 503, "the hub answers 503: the hub failed"),
        ("PUT", "/storage/", 403, "the hub answers 403: the token may not write there"),
        ("POST", "/validate-yaml", 418, r"the hub answers 418 \(made to fail with 418\)"),
    ],
)
def test_a_refusal_is_one_line_and_leaves_no_commit(hub, run, method, path, status, message):
    hub.fail(method, path, status)
    with pytest.raises(DataError, match=message) as refused:
        send(run)
    assert "\n" not in str(refused.value)
    assert all(len(repo.branches["main"]) == 1 for repo in hub.repos.values())
    send(run)
    assert len(hub.repos["jo/set"].branches["main"]) == 2


def test_a_fault_of_the_hub_that_passes_is_waited_out(hub, run):
    hub.fail("POST", "/preupload/", 500, 503)
    hub.fail("PUT", "/storage/", "drop", 502)
    send(run)
    assert len(hub.repos["jo/set"].branches["main"]) == 2


@pytest.mark.parametrize(("method", "path"), [("GET", "/whoami"), ("POST", "/commit/"), ("PUT", "/storage/")])
def test_a_connection_that_breaks_is_one_line(hub, run, method, path):
    hub.fail(method, path, *["drop"] * 20)
    with pytest.raises(DataError, match=r"^jo/set: the hub cannot be reached \(\w+: .*\); try again") as refused:
        send(run)
    assert "\n" not in str(refused.value)


def test_the_hubs_words_cannot_colour_the_screen(hub, run, monkeypatch):
    from tests import fake_hub

    monkeypatch.setattr(
        fake_hub.Handler, "user", lambda self: (_ for _ in ()).throw(fake_hub.Refusal(403, "no\x1b[31m " + "x" * 999))
    )
    with pytest.raises(DataError, match="answers 403") as refused:
        send(run)
    assert "\x1b" not in str(refused.value)
    assert len(str(refused.value)) < 600


CLI = "import sys; from kiloset.cli import main; sys.argv = ['kiloset', *sys.argv[1:]]; main()"


def kiloset(hub, run, *arguments, **environment):
    environment = {
        **os.environ,
        "HF_ENDPOINT": hub.address,
        "HF_HUB_DISABLE_XET": "1",
        "HF_TOKEN": TOKEN,
        **environment,
    }
    return subprocess.run(
        [sys.executable, "-c", CLI, "push", *arguments, "--run", run.path.name, "--runs", str(run.path.parent)],
        capture_output=True, text=True, env=environment, cwd=ROOT, stdin=subprocess.DEVNULL,
    )  # fmt: skip


@pytest.mark.slow
def test_the_command_shows_what_it_would_send_and_without_a_terminal_requires_yes(hub, run):
    asked = kiloset(hub, run, "jo/set")
    assert (asked.returncode, hub.repos) == (2, {})
    assert "sends train.parquet" in asked.stdout
    assert (
        asked.stderr
        == "kiloset: KS851 nothing was sent: add --yes (make: YES=1) where there is no terminal to confirm on\n"
    )
    hub.fail("POST", "/preupload/", 500)  # waited out for a second, silently
    sent = kiloset(hub, run, "jo/set", "--yes")
    assert (sent.returncode, sent.stderr) == (0, "")
    assert sent.stdout.endswith(f"/datasets/jo/set/commit/{hub.head('jo/set').oid}\n")
    assert TOKEN not in sent.stdout


def test_an_unreachable_hub_is_reported_in_one_line(hub, run):
    output = kiloset(hub, run, "jo/set", "--yes", HF_ENDPOINT="http://127.0.0.1:9")
    assert output.returncode == 2
    assert re.sub(r"KS\d{3} ", "", output.stderr).startswith(
        "kiloset: jo/set: the hub cannot be reached (ConnectError: "
    )
    assert output.stderr.count("\n") == 1


LOAD = """
import json, sys
from datasets import load_dataset
sets = load_dataset(sys.argv[1])
print(json.dumps({name: list(rows) for name, rows in sets.items()}))
"""


@pytest.mark.parametrize("layout", get_args(HubLayout))
def test_datasets_loads_from_the_hub_the_rows_that_were_curated(hub, run, tmp_path, layout):
    send(run, layout=layout)
    environment = {
        **os.environ, "HF_ENDPOINT": hub.address, "HF_HUB_DISABLE_XET": "1", "HF_TOKEN": TOKEN,
        "HF_HOME": str(tmp_path / "hub"), "HF_DATASETS_DISABLE_PROGRESS_BARS": "1",
    }  # fmt: skip
    ran = subprocess.run(
        [sys.executable, "-c", LOAD, "jo/set"], capture_output=True, text=True, env=environment, cwd=tmp_path
    )
    assert ran.returncode == 0, ran.stderr[-2000:]
    loaded = json.loads(ran.stdout)
    assert {name: len(rows) for name, rows in loaded.items()} == {"train": 9, "validation": 3}
    curated = {row["id"]: row for row in map(json.loads, run.curated.read_text().splitlines())}
    rows = [row for side in loaded.values() for row in side]
    assert sorted(row["id"] for row in rows) == sorted(curated)
    for row in rows:
        mine = curated[row["id"]]
        assert [row[name] for name in ("category", "source", "license")] == [
            mine[name] for name in ("category", "source", "license")
        ]
        assert answer(row) == mine["messages"][-1]["content"]
        if "messages" in row:
            assert row["messages"] == mine["messages"]


def answer(row):
    if "output" in row:
        return row["output"]
    return row["messages"][-1]["content"] if "messages" in row else row["conversations"][-1]["value"]


def test_polars_reads_the_parquet_that_arrived(hub, run, tmp_path):
    send(run)
    (tmp_path / "x.parquet").write_bytes(hub.head("jo/set").files["train.parquet"])
    assert pl.read_parquet(tmp_path / "x.parquet").height == 9
