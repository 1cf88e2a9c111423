"""The errors this project raises on purpose; anything else that escapes is a bug.

* KilosetError
  - ConfigError   a setting is unknown, of the wrong type or out of range   (also a ValueError)
  - DataError     a file or a row breaks the schema                         (also a ValueError)
  - StageError    a stage lost, invented or renamed rows                    (also a RuntimeError)
  - ModelError    a model cannot be loaded or its process died              (also a RuntimeError)
  - EmptyError    a run or a file leaves no row to go on with               (also a RuntimeError)
"""


class KilosetError(Exception):
    """Base of every deliberate error; the command line prints its code and message and exits with 2."""

    def __init__(self, code: str, message: str) -> None:
        """Take a code such as `KS101`, which names the place that raises and never changes, and a message in one line."""
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
    """Nothing was accepted; the message names the reasons."""
