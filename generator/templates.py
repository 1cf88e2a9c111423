"""The texts sent to the generator model: Jinja templates, which a folder of the user's may replace one by one.

Plain text to be continued where the engine takes it: of what was tried with a 135M model, a numbered list of tasks gave
the most coherent instructions; a bare user turn and few-shot chat turns the worst. What varies stands last, so that
requests of one category share their beginning.
"""

from collections.abc import Mapping
from difflib import get_close_matches
from functools import cached_property
from pathlib import Path
from typing import Any

from jinja2 import StrictUndefined, TemplateError
from jinja2.sandbox import ImmutableSandboxedEnvironment

from kiloset.core.errors import ConfigError
from kiloset.core.run import sha256_of

BUNDLED = Path(__file__).resolve().parent / "prompts"
EXAMPLE = {"task": "Tell a story.", "text": "A ship.", "answer": "Once."}
VALUES: dict[str, dict[str, Any]] = {
    "self_instruct": {"category": "stories", "tasks": ["Tell a story.", "Sing a song."], "chat": False},
    "input": {"task": "Tell a story.", "examples": [EXAMPLE], "chat": False},
    "labelled_input": {"task": "Tell a story.", "examples": [EXAMPLE], "chat": False},
    "evolve": {"category": "stories", "task": "Tell a story.", "operator": "Make it longer."},
    "magpie": {"category": "stories"},
}
"""The templates there are, each with an example of all the values it is given."""


class Templates:
    """The bundled templates, with those of a folder in their place."""

    def __init__(self, folder: str = "") -> None:
        """Read a folder of `<name>.j2` files; "" is none.

        Raises:
            ConfigError: The folder or a file in it cannot be read, has an unknown name, or is no template for its values.
        """
        self.sources = {name: (BUNDLED / f"{name}.j2").read_text(encoding="utf-8") for name in VALUES}
        self._files = {name: str(BUNDLED / f"{name}.j2") for name in VALUES}
        self.are_replaced = bool(folder)
        if folder:
            self._replace(Path(folder).expanduser())
        # Sandboxed: a downloaded folder of prompts must not run code. Values are never parsed as templates.
        environment = ImmutableSandboxedEnvironment(undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
        self._templates = {}
        for name, source in self.sources.items():
            try:
                self._templates[name] = environment.from_string(source)
                self.render(name, **VALUES[name])
            except TemplateError as error:
                line = getattr(error, "lineno", None)
                place = self._files[name] + (f":{line}" if line else "")
                known = ", ".join(VALUES[name])
                raise ConfigError("KS205", f"{place}: not a template ({error}); it is given: {known}") from None

    @cached_property
    def digest(self) -> str:
        """The sha256 of all their texts."""
        return sha256_of(self.sources)

    def render(self, name: str, **values: Any) -> str:
        """Return a prompt; braces and tags in values are plain text."""
        return self._templates[name].render(values).strip("\n")

    def _replace(self, folder: Path) -> None:
        if not folder.is_dir():
            raise ConfigError(
                "KS206", f"[generate] prompts: {folder}: no such folder; it holds any of {_names(VALUES)}"
            )
        for path in sorted(folder.glob("*.j2")):
            if path.stem not in VALUES:
                near = get_close_matches(path.stem, VALUES, n=1)
                hint = f"; did you mean {near[0]}.j2?" if near else ""
                raise ConfigError("KS207", f"{path}: no prompt of this name{hint}; known: {_names(VALUES)}")
            try:
                self.sources[path.stem], self._files[path.stem] = path.read_text(encoding="utf-8"), str(path)
            except (OSError, UnicodeDecodeError) as error:
                raise ConfigError("KS208", f"{path}: cannot be read ({error})") from None


def _names(values: Mapping[str, Any]) -> str:
    return ", ".join(f"{name}.j2" for name in values)
