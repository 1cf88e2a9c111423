"""The layouts of instruction data, and the one parser for all of them.

| layout | a record has |
|---|---|
| `instruction` | `instruction`, `input`, `response` (ours) or `output` (Alpaca), or other usual names of these fields |
| `messages` | chat turns with `role` and `content` |
| `conversations` | ShareGPT turns with `from` and `value` |
| `instances` | Self-Instruct: one `instruction`, and for each instance an `input` and an `output` |
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from kiloset.core.errors import DataError
from kiloset.core.table import user_turn

TURN_LAYOUTS = ("messages", "conversations")
USER_ROLES = ("user", "human")
ASSISTANT_ROLES = ("assistant", "gpt", "model")
INSTRUCTION_FIELDS = ("instruction", "prompt", "question")
RESPONSE_FIELDS = ("response", "output", "completion", "answer")
INPUT_FIELDS = ("input", "context")
NO_INPUT = {"<noinput>", "noinput", "n/a", "none"}
"""Texts by which Alpaca files mark an example without input."""
LONE_SURROGATE = re.compile("[\ud800-\udfff]")


@dataclass(frozen=True, slots=True)
class Example:
    """One instruction with its response. A text that the record leaves empty is ""."""

    layout: str
    category: str
    instruction: str
    input: str
    response: str
    """In a conversation the last assistant turn."""
    first_response: str | None = None
    """In a conversation the turn directly after the first user turn; None if it is not the assistant's."""
    system: str = ""
    """The system turns before the first user turn."""
    user_turns: int = 1


def parse_examples(record: Mapping[str, Any], place: str) -> list[Example]:
    """Return the examples of a record in any layout: one, or one for each instance of Self-Instruct.

    Raises:
        DataError: The record has no known layout, lacks a field, or a field has the wrong type; the message names the place.
    """
    category = text_field(record, ("category",), place)
    if (layout := _turn_layout(record)) is not None:
        return [_conversation(layout, _turns(record, layout, place), category, place)]
    instruction = _required_field(record, INSTRUCTION_FIELDS, place)
    if "instances" not in record:
        response = _required_field(record, RESPONSE_FIELDS, place)
        return [Example("instruction", category, instruction, _input(record, place), response, response)]
    instances = record["instances"]
    if not isinstance(instances, list) or not instances:
        raise DataError("KS104", f'{place}: "instances" must be a list with at least one {{input, output}}')
    responses = [_required_field(check_object(each, place), ("output",), place) for each in instances]
    return [
        Example("instances", category, instruction, text_field(each, ("input",), place), response, response)
        for each, response in zip(instances, responses, strict=True)
    ]


def parse_prompt(value: Any, place: str) -> str:
    """Return the first user turn of a record in any layout; a text is a user turn.

    Raises:
        DataError: There is no user turn, or it is empty; the message names the place.
    """
    record = {"text": value} if isinstance(value, str) else check_object(value, place)
    if (layout := _turn_layout(record)) is not None:
        prompt = next((text for role, text in _turns(record, layout, place) if role in USER_ROLES), "")
    elif prompt := _required_field(record, (*INSTRUCTION_FIELDS, "text", "content"), place):
        prompt = user_turn(prompt, _input(record, place))
    if not prompt:
        raise DataError("KS106", f"{place}: the prompt or first user turn is empty")
    return prompt


def check_object(value: Any, place: str) -> Mapping[str, Any]:
    """Return the value if it is an object.

    Raises:
        DataError: It is not.
    """
    if not isinstance(value, dict):
        raise DataError("KS103", f"{place}: must be an object, got {type(value).__name__}")
    return value


def text_field(record: Mapping[str, Any], names: tuple[str, ...], place: str) -> str:
    """Return the first of these fields that is not empty, stripped; "" if all are empty or missing.

    Raises:
        DataError: One of the fields is not a text.
    """
    texts = [_text(record[name], name, place) for name in names if record.get(name) is not None]
    return next(filter(None, texts), "")


def without_lone_surrogates(value: Any) -> Any:
    """Return a JSON value with U+FFFD for each half of an escaped character, which is not text."""
    if isinstance(value, str):
        return LONE_SURROGATE.sub("\ufffd", value)
    if isinstance(value, Mapping):
        return {name: without_lone_surrogates(inner) for name, inner in value.items()}
    return [without_lone_surrogates(inner) for inner in value] if isinstance(value, list) else value


def _conversation(layout: str, turns: list[tuple[str, str]], category: str, place: str) -> Example:
    roles = [role for role, _ in turns]
    first = next((at for at, role in enumerate(roles) if role in USER_ROLES), len(turns))
    responses = [text for role, text in turns[first:] if role in ASSISTANT_ROLES]
    if not responses:
        raise DataError("KS134", f'{place}: "{layout}" needs a user turn and an answer; got {", ".join(roles)}')
    return Example(
        layout,
        category,
        instruction=turns[first][1],
        input="",
        response=responses[-1],
        first_response=turns[first + 1][1] if roles[first + 1] in ASSISTANT_ROLES else None,
        system="\n\n".join(text for role, text in turns[:first] if role == "system" and text),
        user_turns=sum(role in USER_ROLES for role in roles),
    )


def _turn_layout(record: Mapping[str, Any]) -> str | None:
    return next((layout for layout in TURN_LAYOUTS if record.get(layout) is not None), None)


def _turns(record: Mapping[str, Any], layout: str, place: str) -> list[tuple[str, str]]:
    """Return `(role, text)` of every turn."""
    turns = record[layout]
    if not isinstance(turns, list) or not turns:
        raise DataError("KS108", f'{place}: "{layout}" must be a list of turns')
    objects = [check_object(turn, place) for turn in turns]
    return [
        (text_field(turn, ("role", "from"), place), text_field(turn, ("content", "value"), place)) for turn in objects
    ]


def _required_field(record: Mapping[str, Any], names: tuple[str, ...], place: str) -> str:
    """Return the first of these fields that the record has; it may be empty."""
    name = next((name for name in names if name in record), None)
    if name is None:
        others = f" (or {', '.join(names[1:])})" if names[1:] else ""
        raise DataError("KS109", f'{place}: "{names[0]}"{others} is missing; got {", ".join(record) or "no field"}')
    return text_field(record, (name,), place)


def _input(record: Mapping[str, Any], place: str) -> str:
    text = text_field(record, INPUT_FIELDS, place)
    return "" if text.casefold() in NO_INPUT else text


def _text(value: Any, name: str, place: str) -> str:
    if not isinstance(value, str):
        raise DataError("KS110", f'{place}: "{name}" must be text, got {type(value).__name__}')
    if (half := LONE_SURROGATE.search(value)) is not None:
        raise DataError(
            "KS149",
            f'{place}: "{name}" has {half[0]!r}, one half of an escaped character; write both halves or neither',
        )
    return value.strip()
