"""Puts a folder that we wrote in its place: whole or not at all, and over nothing but our own work that nobody has touched.

Our work is known by `MARKER`, which is written with it: it says what it is, and the sha256 of each file.
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
"""A hidden file, so that `datasets` does not take it for data: the run, the format, and the sha256 of each file."""
DERIVED = "cache-*.arrow"
"""What `datasets` puts into a folder of its own format when rows are mapped: no edit."""


def put_in_place(target: Path, made: Mapping[str, str], write: Callable[[Path], None]) -> bool:
    """Let `write` fill a temporary folder beside `target`, then put it there; return whether an export was replaced.

    Args:
        target: Where it shall lie; the marker must not be among the files that `write` makes.
        made: What the marker says of it besides the files; only an export that says the same is replaced.
        write: Fills the empty folder that it is given.

    Raises:
        DataError: It cannot be written, or something else lies there by now.
    """
    temporary = target.with_name(f".{target.name}.{os.getpid()}.partial")
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        temporary.mkdir()
        write(temporary)
        mark = json.dumps({**made, "sha256": _files(temporary)}, indent=2, ensure_ascii=False)
        (temporary / MARKER).write_text(mark + "\n", encoding="utf-8")
        if replaces := target.is_dir() and any(target.iterdir()):
            _exchange(temporary, target)
            try:
                check_place(temporary, target, made)  # somebody may have been at it since the first look
            except DataError:
                _exchange(temporary, target)
                raise
        else:
            os.replace(temporary, target)  # takes the place of an empty folder, refuses one that has filled since
    except OSError as error:
        raise DataError(
            "KS765",
            f"{target}: cannot be written ({error.strerror or error}); choose another folder with --out (make: OUT=)",
        ) from None
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    return replaces


def check_place(place: Path, name: Path, made: Mapping[str, str]) -> None:
    """Check that nothing is lost if an export takes this place.

    Raises:
        DataError: There is something that is not an untouched export of this run and format; it is called `name`.
    """
    try:
        why = _in_the_way(place, made)
    except OSError as error:
        raise DataError("KS766", f"{name}: cannot be read ({error.strerror})") from None
    if why:
        raise DataError("KS767", f"{name}: {why}; name a folder that is new or empty with --out (make: OUT=)")


def _in_the_way(place: Path, made: Mapping[str, str]) -> str:
    """Return what forbids to put an export of this run and format at `place`, "" if nothing does."""
    if not place.is_symlink() and (not place.exists() or (place.is_dir() and not any(place.iterdir()))):
        return ""
    mark: Any = None
    if place.is_dir() and not place.is_symlink() and (place / MARKER).is_file():
        try:
            mark = json.loads((place / MARKER).read_text(encoding="utf-8"))
        except (ValueError, RecursionError):
            mark = None
    if not isinstance(mark, dict) or not isinstance(mark.get("sha256"), dict):
        return "there is something already that no export made"
    if other := [f"{key} {mark.get(key)!r}" for key in made if mark.get(key) != made[key]]:
        return f"there is an export already, of {' and '.join(other)}"
    found, noted = _files(place), mark["sha256"]
    changed = sorted(name for name in found.keys() | noted.keys() if found.get(name) != noted.get(name))
    more = f" and {len(changed) - 1} more" if len(changed) > 1 else ""
    return f"changed by hand since it was exported ({changed[0]!r}{more})" if changed else ""


def _files(place: Path) -> dict[str, str]:
    """Return the sha256 of each file in a folder by its path from there; of what is neither file nor folder, "other"."""
    return {
        path.relative_to(place).as_posix(): file_sha256(path) if path.is_file() and not path.is_symlink() else "other"
        for path in sorted(place.rglob("*"))
        if (path.is_symlink() or not path.is_dir()) and path.name != MARKER and not path.match(DERIVED)
    }


def _exchange(one: Path, other: Path) -> None:
    """Let two folders change places: in one step on Linux, elsewhere by renames, between which `other` is missing."""
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
