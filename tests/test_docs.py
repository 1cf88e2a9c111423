"""README.md and docs/: links and paths lead somewhere, and each results page has one claim, one command and one run."""

import re
from pathlib import Path

import pytest

from tests.paths import ROOT

PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", ROOT / "CHANGELOG.md", *sorted((ROOT / "docs").rglob("*.md"))]
RESULTS = sorted(page for page in (ROOT / "docs" / "results").glob("*.md") if page.name not in {"README.md", "gpu.md"})
FOLDERS = ("generator", "filters", "rewrite", "train", "kiloset", "tests", "benchmarks", "seeds", "docs")
PATH = re.compile(rf"(?<![\w/.-])(?:{'|'.join(FOLDERS)})/[\w/.-]*\w\.(?:py|toml|jsonl|md)\b")


def _name(page: Path) -> str:
    return str(page.relative_to(ROOT))


def _anchors(page: Path) -> set[str]:
    heads = re.findall(r"^#+ (.*)$", page.read_text(encoding="utf-8"), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", head.lower()).replace(" ", "-") for head in heads}


@pytest.mark.parametrize("page", PAGES, ids=_name)
def test_every_link_leads_to_a_file_and_a_heading(page: Path) -> None:
    for link in re.findall(r"\]\(([^)]+)\)", page.read_text(encoding="utf-8")):
        if not link.startswith("https://"):
            path, _, anchor = link.partition("#")
            target = (page.parent / path).resolve() if path else page
            assert target.exists(), link
            assert not anchor or anchor in _anchors(target), link


@pytest.mark.parametrize("page", [page for page in PAGES if page.name != "CHANGELOG.md"], ids=_name)
def test_every_path_of_the_repository_exists(page: Path) -> None:
    paths = set(PATH.findall(page.read_text(encoding="utf-8")))
    assert {path for path in paths if not (ROOT / path).exists()} == set()


@pytest.mark.parametrize("page", RESULTS, ids=lambda page: page.stem)
def test_a_results_page_has_one_claim_one_command_and_one_run(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    assert [text.count(f"**{part}.**") for part in ("Claim", "Command", "Run")] == [1, 1, 1]
    assert re.search(r"\*\*Run\.\*\*.*20\d\d-\d\d-\d\d.*commits? .*[0-9a-f]{7}.*core", text)
    assert f"]({page.name})" in (page.parent / "README.md").read_text(encoding="utf-8")


def test_a_stage_works_alone_as_the_methods_page_shows(capsys: pytest.CaptureFixture[str]) -> None:
    text = (ROOT / "docs" / "methods.md").read_text(encoding="utf-8")
    (block,) = re.findall(r"^```python\n(.*?)^```", text, re.MULTILINE | re.DOTALL)
    exec(block, {})
    printed = capsys.readouterr().out
    assert printed.startswith("['p1'] ")
    assert "exact_duplicate" in printed


def test_readme_is_short() -> None:
    assert len((ROOT / "README.md").read_bytes()) < 10_000
