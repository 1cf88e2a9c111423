"""Put the finished adapter in its place."""

import json
import os
import shutil
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

Log = Callable[[Mapping[str, Any]], None]


def save_adapter(model: Any, folder: Path) -> None:
    """Save the adapter in PEFT's format; the base model's own files are not copied."""
    lora = model.peft_config["default"]
    # PEFT writes this set in the order of the process's string hashes; sorted, equal runs write equal bytes.
    lora.target_modules = sorted(lora.target_modules)
    model.save_pretrained(folder, safe_serialization=True, save_embedding_layers=False)
    # PEFT's model card: 5 KB of headings over "[More Information Needed]".
    (folder / "README.md").unlink(missing_ok=True)


@contextmanager
def replacing(folder: Path) -> Iterator[Path]:
    """Yield an empty folder that takes the place of `folder` when the block ends well.

    A folder cannot be renamed onto a full one: a kill between the two renames leaves the older as `.<name>.old`.
    """
    partial, old = folder.with_name(f".{folder.name}.partial"), folder.with_name(f".{folder.name}.old")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir()
    yield partial
    if folder.exists():
        shutil.rmtree(old, ignore_errors=True)
        os.replace(folder, old)
    os.replace(partial, folder)
    shutil.rmtree(old, ignore_errors=True)


@contextmanager
def json_lines(path: Path) -> Iterator[Log]:
    """Yield a function that writes an object as a line of JSON, at once readable."""
    with path.open("w", encoding="utf-8", buffering=1) as file:
        yield lambda entry: print(json.dumps(entry), file=file)
