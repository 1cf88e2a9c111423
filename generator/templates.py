"""The prompts for the writer model: Jinja templates, which the user may replace one by one.

An instruct model is asked in chats (`task_system`, `task`); `kiloset.generator.whole_tasks` puts the seeds between them. A
model without a chat template, and a very small one, continues plain text: with 135M parameters a numbered list of tasks gave
the most coherent instructions of all prompts that were tried, and few-shot chat turns the least. The variable parts come last,
so that requests of one category share their beginning.
"""

from functools import cached_property
from pathlib import Path
from typing import Any

from jinja2 import StrictUndefined, TemplateError
from jinja2.sandbox import ImmutableSandboxedEnvironment

from kiloset.core.errors import ConfigError, did_you_mean
from kiloset.core.run import sha256_of

BUNDLED = Path(__file__).resolve().parent / "prompts"
EXAMPLE = {"task": "Tell a story.", "text": "A ship.", "answer": "Once."}
VALUES: dict[str, dict[str, Any]] = {
    "self_instruct": {"category": "stories", "tasks": ["Tell a story.", "Sing a song."], "chat": False},
    "input": {"task": "Tell a story.", "examples": [EXAMPLE], "chat": False},
    "labelled_input": {"task": "Tell a story.", "examples": [EXAMPLE], "chat": False},
    "evolve": {"category": "stories", "task": "Tell a story.", "operator": "Make it longer."},
    "magpie": {"category": "stories"},
    "task_system": {"text": True},
    "task": {"category": "stories", "topic": "a ship", "text": True},
}
"""The names of the templates, each with example values of its variables."""

FILES = ", ".join(f"{name}.j2" for name in VALUES)


class Templates:
    """The bundled templates, some of them replaced by the user's."""

    def __init__(self, folder: str = "") -> None:
        """Read the bundled templates; a file `<name>.j2` in `folder` replaces the template of that name. "" is no folder.

        Raises:
            ConfigError: The folder or a file cannot be read, a file's name is no template's name, or a file is not a valid
                template or uses a variable that its template does not have.
        """
        self.sources = {name: (BUNDLED / f"{name}.j2").read_text(encoding="utf-8") for name in VALUES}
        self._files = {name: str(BUNDLED / f"{name}.j2") for name in VALUES}
        self.has_user_templates = bool(folder)
        if folder:
            self._replace(Path(folder).expanduser())
        # Sandboxed, because a folder of templates may come from a stranger and must not run code. A value, such as a seed's
        # text, is inserted as plain text, also if it contains braces.
        environment = ImmutableSandboxedEnvironment(undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
        self._templates = {}
        for name, source in self.sources.items():
            try:
                self._templates[name] = environment.from_string(source)
                self.render(name, **VALUES[name])
            except TemplateError as error:
                line = getattr(error, "lineno", None)
                place = self._files[name] + (f":{line}" if line else "")
                raise ConfigError(
                    "KS205",
                    f"{place}: this template is not valid ({error}); it may use the variables {', '.join(VALUES[name])}",
                ) from None

    @cached_property
    def digest(self) -> str:
        """The sha256 of all templates."""
        return sha256_of(self.sources)

    def render(self, name: str, **values: Any) -> str:
        """Return a prompt; braces and tags in the values are plain text."""
        return self._templates[name].render(values).strip("\n")

    def _replace(self, folder: Path) -> None:
        if not folder.is_dir():
            raise ConfigError("KS206", f"[generate] prompts: {folder}: no such folder; it may have {FILES}")
        for path in sorted(folder.glob("*.j2")):
            if path.stem not in VALUES:
                hint = did_you_mean(path.stem, VALUES)
                raise ConfigError("KS207", f"{path}: no prompt has this name{hint}; known: {FILES}")
            try:
                self.sources[path.stem], self._files[path.stem] = path.read_text(encoding="utf-8"), str(path)
            except (OSError, UnicodeDecodeError) as error:
                raise ConfigError("KS208", f"{path}: cannot be read ({error})") from None
