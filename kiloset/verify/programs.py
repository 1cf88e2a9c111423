"""Check code without running it: Python parses, JSON is JSON, and what the task names is defined."""

import ast
import re
import warnings
from textwrap import dedent

from kiloset.core.text import read_json

FENCE = re.compile(r"^[ \t]*(`{3,}|~{3,})[ \t]*([\w+-]*)[^\n]*\n(.*?)^[ \t]*\1[ \t]*$", re.MULTILINE | re.DOTALL)
OPEN_FENCE = re.compile(r"^[ \t]*`{3}", re.MULTILINE)
PYTHON = ("python", "python3", "py")
PYTHON_LINE = re.compile(r"^(?:def \w+\(.*\).*:|class \w+.*:|import \w+|from \w[\w.]* import )", re.MULTILINE)
NAMED = re.compile(
    r"\b(?:function|method|class|procedure)\s+(?:called|named)?\s*[`'\"]?(?P<after>[A-Za-z_]\w*(?:_\w+|\(|[A-Z]\w*))"
    r"|[`](?P<quoted>[A-Za-z_]\w*)(?:\([^`]*\))?[`]\s+(?:function|method|class)\b"
    r"|\b(?:called|named)\s+[`](?P<called>[A-Za-z_]\w*)",
)  # fmt: skip


def broken_code(instruction: str, response: str) -> str:
    """Return what is wrong with the code of an answer, "" if nothing shows that."""
    blocks = [(match[2].lower(), match[3]) for match in FENCE.finditer(response)]
    if not blocks and len(OPEN_FENCE.findall(response)) % 2:
        return "a code block is not closed"
    if not blocks and PYTHON_LINE.match(response):
        blocks = [("python", response)]
    for language, body in blocks:
        if language in PYTHON and (fault := _fault_of_python(body)):
            return fault
        if language == "json" and not _is_json(body):
            return "a block marked as JSON is not JSON"
    python = "\n".join(body for language, body in blocks if language in PYTHON)
    named = NAMED.search(instruction)
    if python and named:
        name = next(group for group in named.groups() if group).rstrip("(")
        if not re.search(rf"\b(?:def|class)\s+{re.escape(name)}\b|^\s*{re.escape(name)}\s*[:=]", python, re.MULTILINE):
            return f"the task names {name!r}, and the code does not define it"
    return ""


def _fault_of_python(body: str) -> str:
    if re.search(r"^\s*(?:>>>|\$ )", body, re.MULTILINE):
        return ""  # a session, not a program
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            tree = ast.parse(dedent(body))
    except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
        return f"a Python block does not parse: {getattr(error, 'msg', type(error).__name__)}"
    for node in ast.walk(tree):
        # `def f(x): pass` as the whole body of a function is a gap.
        if isinstance(node, ast.FunctionDef) and len(node.body) == 1 and isinstance(node.body[0], ast.Pass):
            return f"the function {node.name!r} has no body"
    return ""


def _is_json(body: str) -> bool:
    try:
        read_json(body)
    except (ValueError, RecursionError):
        return False
    return True
