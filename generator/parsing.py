"""How the generator model's completions are read: strictly, and what cannot be read is "" and never guessed."""

import re

from kiloset.core.text import squash

NUMBERING = re.compile(r"\d{1,3}[.)]\s+")
QUOTES = '"“”'
LABEL = re.compile(r"\s*(?:Answer:)?\s*(?P<answer>[^\n]+?)\s*\n\s*Text:(?P<text>.+)", re.DOTALL)
PREAMBLE = re.compile(r"^(?:sure|certainly|of course|here(?: is|['’]s)|okay|ok)\b[^\n]{0,80}[:.!]\s*\n+", re.IGNORECASE)
TITLE = re.compile(
    r"^\W*(?:the )?(?:new|evolved|rewritten|revised)? ?(?:task|instruction|prompt)\W{0,3}:\W{0,3}\s*", re.IGNORECASE
)
META = re.compile(
    r"\b(?:new|original|previous|given|rewritten|revised|evolved|first) (?:task|prompt|instruction)s?\b|\bwrite a task\b",
    re.IGNORECASE,
)
"""A task that speaks of tasks has mistaken what was asked of it."""
LONGEST_LABEL = 8
"""Words of an answer that still is a label."""


def read_instruction(text: str) -> str:
    """Return the instruction a completion holds, "" if none: its first line, without a leading number or quotes around it."""
    line = squash(text.strip().split("\n", 1)[0])
    line = line[numbered.end() :] if (numbered := NUMBERING.match(line)) else line
    return _bare(line)


def read_task(text: str) -> str:
    """Return the task a chat answer holds, "" if none: its first paragraph, without a preamble, title or quotes."""
    found = PREAMBLE.sub("", text.strip(), count=1)
    task = _bare(TITLE.sub("", squash(found.strip().split("\n\n", 1)[0]), count=1))
    return "" if META.search(task) else task


def read_input(text: str) -> str:
    """Return the input a completion holds, "" if none."""
    found = text.strip().removeprefix("Text:").strip()
    return "" if squash(found).casefold().strip(".()[]") in ("none", "n/a", "no text", "no input") else found


def read_labelled_input(text: str) -> tuple[str, str]:
    """Return `(answer, input)` of a completion that puts the answer first, ("", "") if it has not both."""
    if (found := LABEL.match(text)) is None or len(found["answer"].split()) > LONGEST_LABEL:
        return "", ""
    given = read_input(found["text"])
    return (found["answer"].strip(), given) if given else ("", "")


def _bare(line: str) -> str:
    bare = line.strip(f"{QUOTES} ")
    return line if any(mark in bare for mark in QUOTES) else bare
