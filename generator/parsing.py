"""Reads completions of the writer model. The rules are strict: a completion that does not fit yields "", never a guess."""

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
"""Words of a completion that describes a task instead of being one."""
LONGEST_LABEL = 8
"""Largest number of words in an answer that is a label."""


def read_instruction(text: str) -> str:
    """Return the first line of a completion without a leading number and without quotes around it."""
    line = squash(text.strip().split("\n", 1)[0])
    return without_quotes(line[number.end() :] if (number := NUMBERING.match(line)) else line)


def read_task(text: str) -> str:
    """Return the first paragraph of a chat completion without preamble, title and quotes; "" if it describes a task."""
    paragraph = PREAMBLE.sub("", text.strip(), count=1).strip().split("\n\n", 1)[0]
    task = without_quotes(TITLE.sub("", squash(paragraph), count=1))
    return "" if META.search(task) else task


def read_input(text: str) -> str:
    """Return the input in a completion, "" if the completion states that there is none."""
    input = text.strip().removeprefix("Text:").strip()
    return "" if squash(input).casefold().strip(".()[]") in ("none", "n/a", "no text", "no input") else input


def read_labelled_input(text: str) -> tuple[str, str]:
    """Return `(answer, input)` of a completion with the answer first, ("", "") unless it has both."""
    if (match := LABEL.match(text)) is None or len(match["answer"].split()) > LONGEST_LABEL:
        return "", ""
    input = read_input(match["text"])
    return (match["answer"].strip(), input) if input else ("", "")


def without_quotes(line: str) -> str:
    """Return a line without quotation marks around it, unless it has others inside."""
    bare = line.strip(f"{QUOTES} ")
    return line if any(mark in bare for mark in QUOTES) else bare
