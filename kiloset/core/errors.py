"""The errors that this project raises deliberately; any other exception is a bug.

* KilosetError
  - ConfigError   a setting is unknown, of the wrong type or out of range   (also a ValueError)
  - DataError     a file or a row breaks the schema                         (also a ValueError)
  - StageError    a stage lost, invented or renamed rows                    (also a RuntimeError)
  - ModelError    a model cannot be loaded or its process died              (also a RuntimeError)
  - EmptyError    a run or a file has no usable row                         (also a RuntimeError)
"""

from collections.abc import Iterable
from difflib import get_close_matches


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """Return `; did you mean 'NAME'?` with the known name that is most similar, "" if none is similar."""
    nearest = get_close_matches(name, list(known), n=1)
    return f"; did you mean {nearest[0]!r}?" if nearest else ""


class KilosetError(Exception):
    """Base of every deliberate error; the command line prints its code and message and exits with status 2."""

    def __init__(self, code: str, message: str) -> None:
        """Keep a code such as `KS101`, which identifies the raise statement and never changes, and a message of one line."""
        super().__init__(code, message)
        self.code, self.message = code, message

    def __str__(self) -> str:
        return self.message


class ConfigError(KilosetError, ValueError):
    """A setting is unknown, of the wrong type or out of range."""


class DataError(KilosetError, ValueError):
    """A file or a row breaks the schema; the message names the file and the line."""


class StageError(KilosetError, RuntimeError):
    """A stage lost, invented or renamed rows."""


class ModelError(KilosetError, RuntimeError):
    """A model cannot be loaded, or the process that runs it died."""


class EmptyError(KilosetError, RuntimeError):
    """No row is usable; the message names the reasons."""
