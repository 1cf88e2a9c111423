"""Put an export in its place: whole or not at all, and over nothing but an unchanged export of the same run and format.

An export is recognised by its file `MARKER`, which names the run, the format, and the sha256 of each file.
"""

import ctypes
import json
import os
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from kiloset.core.errors import DataError
from kiloset.core.run import file_sha256

MARKER = ".kiloset-export.json"
"""A hidden file, so that `datasets` does not read it as data."""
DERIVED = "cache-*.arrow"
"""Files that `datasets` adds to a folder of its own format when it maps rows; they are not edits."""


def put_in_place(target: Path, marker: Mapping[str, str], write: Callable[[Path], None]) -> bool:
    """Let `write` fill a temporary folder beside `target`, then put it there; return whether an export was replaced.

    Args:
        target: The folder; `write` must not create a file named `MARKER`.
        marker: What the marker records besides the files; only an export with an equal marker is replaced.
        write: Fills an empty folder.

    Raises:
        DataError: It cannot be written, or `target` has become something else.
    """
    temporary = target.with_name(f".{target.name}.{os.getpid()}.partial")
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        temporary.mkdir()
        write(temporary)
        content = json.dumps({**marker, "sha256": _files(temporary)}, indent=2, ensure_ascii=False)
        (temporary / MARKER).write_text(content + "\n", encoding="utf-8")
        if replaces := target.is_dir() and any(target.iterdir()):
            _exchange(temporary, target)
            try:
                check_place(temporary, target, marker)  # somebody may have changed it since the first check
            except DataError:
                _exchange(temporary, target)
                raise
        else:
            os.replace(temporary, target)  # replaces an empty folder, fails if files have appeared in it
    except OSError as error:
        raise DataError(
            "KS765",
            f"{target}: cannot be written ({error.strerror or error}); choose another folder with --out (make: OUT=)",
        ) from None
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    return replaces


def check_place(place: Path, name: Path, marker: Mapping[str, str]) -> None:
    """Check that nothing is lost if an export replaces `place`, which messages call `name`.

    Raises:
        DataError: There is something that is not an unchanged export of this run and format.
    """
    try:
        why = _obstacle(place, marker)
    except OSError as error:
        raise DataError("KS766", f"{name}: cannot be read ({error.strerror})") from None
    if why:
        raise DataError("KS767", f"{name}: {why}; name a folder that is new or empty with --out (make: OUT=)")


def _obstacle(place: Path, marker: Mapping[str, str]) -> str:
    """Return why an export of this run and format may not replace `place`, "" if it may."""
    if not place.is_symlink() and (not place.exists() or (place.is_dir() and not any(place.iterdir()))):
        return ""
    record: Any = None
    if place.is_dir() and not place.is_symlink() and (place / MARKER).is_file():
        try:
            record = json.loads((place / MARKER).read_text(encoding="utf-8"))
        except (ValueError, RecursionError):
            record = None
    if not isinstance(record, dict) or not isinstance(record.get("sha256"), dict):
        return "exists already and is not an export"
    if other := [f"{key} {record.get(key)!r}" for key in marker if record.get(key) != marker[key]]:
        return f"is an export already, of {' and '.join(other)}"
    now, recorded = _files(place), record["sha256"]
    changed = sorted(name for name in now.keys() | recorded.keys() if now.get(name) != recorded.get(name))
    more = f" and {len(changed) - 1} more" if len(changed) > 1 else ""
    return f"changed by hand since it was exported ({changed[0]!r}{more})" if changed else ""


def _files(place: Path) -> dict[str, str]:
    """Return the sha256 of each file in a folder by its relative path; "other" for what is neither a file nor a folder."""
    return {
        path.relative_to(place).as_posix(): file_sha256(path) if path.is_file() and not path.is_symlink() else "other"
        for path in sorted(place.rglob("*"))
        if (path.is_symlink() or not path.is_dir()) and path.name != MARKER and not path.match(DERIVED)
    }


def _exchange(one: Path, other: Path) -> None:
    """Exchange two folders: in one step on Linux, elsewhere by renames, between which `other` is missing."""
    at_cwd, exchange = -100, 2  # AT_FDCWD and RENAME_EXCHANGE of Linux's renameat2, which Python does not offer
    swap = getattr(ctypes.CDLL(None), "renameat2", None)
    if swap is not None and swap(at_cwd, os.fsencode(one), at_cwd, os.fsencode(other), exchange) == 0:
        return
    aside = one.with_name(f"{one.name}.old")
    os.rename(other, aside)
    try:
        os.rename(one, other)
    except OSError:
        os.rename(aside, other)
        raise
    os.rename(aside, one)
