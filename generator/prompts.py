"""The texts sent to the generator model, and how its completions are read.

Plain text to be continued, not a chat: of what was tried with a 135M model, a numbered list of tasks gave the most
coherent instructions; a bare user turn and few-shot chat turns the worst. What varies stands last, so that requests of
one category share their beginning.
"""

import re
from collections.abc import Sequence

from core.text import squash


def readable(category: str) -> str:
    """Return a category's name as words."""
    return category.replace("_", " ").replace("-", " ")


def instruction_prompt(category: str, demonstrations: Sequence[str]) -> str:
    """Return a numbered list of instructions that stops where the next one begins (Wang et al., arXiv:2212.10560)."""
    numbered = [f"{number}. {squash(text)}" for number, text in enumerate(demonstrations, 1)]
    header = (
        f"Come up with a series of different tasks for an assistant. All of them are of one kind: {readable(category)}."
    )
    return "\n".join([header, "", *numbered, f"{len(numbered) + 1}."])


INSTRUCTION_STOP = ("\n",)
NUMBERING = re.compile(r"\d{1,3}[.)]\s+")
QUOTES = '"“”'


def read_instruction(text: str) -> str:
    """Return the instruction a completion holds, "" if none: its first line, without a leading number or quotes around it."""
    line = squash(text.split("\n", 1)[0])
    line = line[numbered.end() :] if (numbered := NUMBERING.match(line)) else line
    bare = line.strip(f"{QUOTES} ")
    return line if any(mark in bare for mark in QUOTES) else bare


def input_prompt(instruction: str, demonstrations: Sequence[tuple[str, str]]) -> str:
    """Return pairs of task and text that stop where the text of the new task begins (input-first, arXiv:2212.10560)."""
    shown = [f"Task: {squash(task)}\nText: {_compact(text)}" for task, text in demonstrations]
    header = "Each task comes with the text it is about."
    return "\n\n".join([header, *shown, f"Task: {squash(instruction)}\nText:"])


INPUT_STOP = ("\n\n", "\nTask:", "\nText:")


def read_input(text: str) -> str:
    """Return the input a completion holds, "" if none."""
    found = text.strip()
    return "" if squash(found).casefold().strip(".()[]") in ("none", "n/a", "no text", "no input") else found


def _compact(text: str) -> str:
    """Return a text without empty lines, which end an input."""
    return "\n".join(line for line in text.splitlines() if line.strip())
