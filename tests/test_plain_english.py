"""The glossary of CONTRIBUTING.md, enforced: names and prose use the field's words.

Checked are the identifiers of all Python code, its docstrings, comments and texts (string literals of three words or more), the
templates, the Makefile, README.md and docs/. Quoted text and code spans in prose are skipped, so a page may quote a model's answer.
`python -m tests.test_plain_english PATH...` prints what to change in some files.
"""

import ast
import io
import re
import subprocess
import sys
import tokenize
from collections.abc import Iterator

import pytest

from tests.paths import ROOT

NAMES = {"found", "said", "told", "given", "made", "there", "left", "shown"}
"""Participles that name no thing. Name the thing instead: `duplicates`, `message`, `options`, `path`, `kept`."""
CLASSES = {"Alone", "Asked", "Born", "Found", "Given", "Held", "Left", "Lost", "Made", "Said", "Shown", "Told"}
"""Class names must be nouns."""
WORDS = {"said", "told", "tell", "tells", "says", "born", "birth", "fate", "foretell", "twins"}
"""Words that no identifier may contain as one of its parts."""
PUBLIC_NAMES = {"born"}
"""Identifiers that are a public interface (a config key, a column, a key of review.jsonl) and keep their name."""

PHRASES = {
    r"\b(tells?|telling|told|foretells?)\b": "report, print, log, show or distinguish",
    r"\b(says|said)\b": "state, report, name or mean",
    r"\b(born|births?)\b": "generated, created",
    r"\btwins?\b": "duplicate, near-duplicate or match; the column `twin` stands in code quotes",
    r"\b(fates?|whole life|'s life)\b": "history, lineage, outcome",
    r"\basking\b": "request, prompt",
    r"\bhears?\b": "detect, be sensitive to",
    r"\b(hold|holds|held|holding)\b[^.;:|]{0,60}\bagainst\b": "compare with, check against",
    r"\bknows? no\b": "does not support, has no",
    r"\b(is|are) not there\b": "is not supported, not available, not measured",
    r"\bwhat (is|are) not there\b": "what is missing",
    r"\bthose (of them )?that\b": "name the things",
    r"\bsuch as come\b": "name the things",
    r"\bwhat (it|a set|they|that) (will|would) take\b": "the estimated cost, the requirements",
    r"\b(unless said|what is so unless)\b": "by default",
    r"\b(counts? still|still counts?)\b": "stay valid, is reused",
    r"\bmakes? room\b": "evict, invalidate",
    r"\bhow far it is\b": "progress",
    r"\b(the house|rooms)\b": "the package, packages",
    r"\bwithout a word\b": "silently",
}
"""Phrases that are hard to understand, each with the words to write instead."""
PATTERNS = [(re.compile(pattern, re.IGNORECASE), instead) for pattern, instead in PHRASES.items()]
QUOTED = re.compile(
    r"\{\{.*?\}\}|\{%.*?%\}|`[^`\n]*`|\"[^\"\n]*\"|“[^”\n]*”|^```.*?^```|^>.*?$|^ {4,}.*?$", re.DOTALL | re.MULTILINE
)
QUOTED_IN_CODE = re.compile(r"``?[^`\n]*``?|\"[^\"\n]*\"|“[^”\n]*”")
LEAST_WORDS = 3
"""Words from which a string literal is a text and not a key or a pattern."""
DATA = ("generator/constraint_phrases.py", "generator/templates.py")
"""Files whose string literals are samples of prompts."""

TEXT_SUFFIXES = (".md", ".j2", ".toml", ".html")
SKIPPED = ("generator/prompts/", "tests/data/", "tests/test_plain_english.py", "seeds/seeds.jsonl", "constraints.txt")
"""Prompts are written for a model; the data are samples; this file lists the banned words."""


def _files() -> list[str]:
    listed = subprocess.run(["git", "ls-files", "-co", "--exclude-standard"], cwd=ROOT, capture_output=True, text=True)
    if listed.returncode:
        pytest.skip("not a git checkout", allow_module_level=True)
    names = [name for name in listed.stdout.splitlines() if (ROOT / name).is_file() and not (ROOT / name).is_symlink()]
    wanted = [name for name in names if name.endswith((".py", *TEXT_SUFFIXES)) or name == "Makefile"]
    return sorted(name for name in wanted if not name.startswith(SKIPPED))


def _identifiers(tree: ast.AST) -> Iterator[tuple[int, str, bool]]:
    """Yield `(line, name, whether it names a class)` for each name that the file defines."""
    for node in ast.walk(tree):
        if isinstance(node, ast.ClassDef):
            yield node.lineno, node.name, True
        elif isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            yield node.lineno, node.name, False
        elif isinstance(node, ast.arg):
            yield node.lineno, node.arg, False
        elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            yield node.lineno, node.id, False
        elif isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Store):
            yield node.lineno, node.attr, False


def _bad_names(tree: ast.AST, is_test: bool) -> Iterator[tuple[int, str]]:
    identifiers = [*_identifiers(tree)]
    allowed = PUBLIC_NAMES | ({"left"} if "right" in {name for _, name, _ in identifiers} else set())
    for line, name, is_class in identifiers:
        bare = name.strip("_")
        # A test's name is a sentence; its words are checked like prose, by `_prose`.
        parts = set() if is_test and name.startswith("test_") else set(bare.lower().split("_"))
        if bare not in allowed and (bare in NAMES or (is_class and bare in CLASSES) or parts & WORDS):
            yield line, f"the name {name}"


def _prose(source: str, tree: ast.AST, name: str) -> Iterator[tuple[int, str]]:
    """Yield `(line, text)` of docstrings, comments and, outside tests, texts."""
    is_test = name.startswith("tests/")
    for node in ast.walk(tree):
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) and isinstance(node.value.value, str):
            yield node.lineno, node.value.value
        elif not (is_test or name in DATA) and isinstance(node, ast.Constant) and isinstance(node.value, str):
            yield node.lineno, node.value if len(node.value.split()) >= LEAST_WORDS else ""
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        if token.type == tokenize.COMMENT:
            yield token.start[0], token.string
        elif is_test and token.type == tokenize.NAME and token.string.startswith("test_"):
            yield token.start[0], token.string.replace("_", " ")


def _bad_phrases(line: int, text: str, quoted: re.Pattern[str]) -> Iterator[tuple[int, str]]:
    plain = quoted.sub(lambda match: re.sub(r"[^\n]", " ", match[0]), text)
    for pattern, instead in PATTERNS:
        for match in pattern.finditer(plain):
            yield line + plain.count("\n", 0, match.start()), f"{' '.join(match[0].split())!r}: write {instead}"


def faults(name: str, text: str) -> list[str]:
    """Return what a file breaks, each with its line."""
    if not name.endswith(".py"):
        return [f"{name}:{line}: {fault}" for line, fault in _bad_phrases(1, text, QUOTED)]
    tree, is_test = ast.parse(text), name.startswith("tests/")
    broken = [*_bad_names(tree, is_test)]
    for line, prose in _prose(text, tree, name):
        broken += _bad_phrases(line, prose, QUOTED_IN_CODE)
    return [f"{name}:{line}: {fault}" for line, fault in sorted(set(broken))]


@pytest.mark.parametrize("name", _files())
def test_a_file_uses_the_words_of_the_glossary(name: str) -> None:
    broken = faults(name, (ROOT / name).read_text(encoding="utf-8"))
    assert not broken, "\n" + "\n".join(broken)


def test_names_prose_and_messages_are_checked() -> None:
    source = '"""Tell what was born."""\n\n\ndef f(said):\n    # the twin of it\n    raise ValueError("it knows no such key")\n'
    assert [fault.split(": ")[0] for fault in faults("kiloset/x.py", source)] == [
        "kiloset/x.py:1", "kiloset/x.py:1", "kiloset/x.py:4", "kiloset/x.py:5", "kiloset/x.py:6",
    ]  # fmt: skip


@pytest.mark.parametrize(
    "text",
    [
        "Its `twin` is the kept row.",
        'The model wrote "Tell me a joke".',
        "What a stage reports, it reports once.\n\n    told = 1\n",
    ],
)
def test_quotations_and_code_are_not_prose(text: str) -> None:
    assert faults("docs/x.md", text) == []


if __name__ == "__main__":
    for file in _files():
        if file.startswith(tuple(sys.argv[1:]) or ""):
            for fault in faults(file, (ROOT / file).read_text(encoding="utf-8")):
                print(fault)
