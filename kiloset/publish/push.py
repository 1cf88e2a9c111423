"""Puts an export of a run, with its data card, on the Hugging Face hub as one commit; nothing else of the run leaves the machine."""

import re
import tempfile
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from kiloset.audit.licenses import Conflict, conflicts
from kiloset.audit.terminal import plain
from kiloset.core.errors import ConfigError, DataError
from kiloset.core.run import RunFolder
from kiloset.publish.card import card
from kiloset.publish.card_text import CARD, described, parts_of
from kiloset.publish.export import export

PUSHED = ("messages", "alpaca", "sharegpt", "parquet")
"""Layouts that `datasets.load_dataset` reads from the hub; "hf" is for load_from_disk alone."""
OURS = re.compile(r"(train|validation)\.(jsonl|parquet)|dataset_info\.json")
"""Files of earlier pushes, which a new one takes away where it has none of that name."""
KEYS = "key"
"""The kind of personal data that nobody may read, whoever allows it."""
SAID = 300
"""Longest message of the hub that is shown, in characters."""


@dataclass(frozen=True, slots=True)
class Parcel:
    """What is about to be sent."""

    folder: Path
    sizes: Mapping[str, int]
    """Bytes by file."""
    rows: int
    personal: Mapping[str, int]
    """Pieces by kind."""
    conflicts: tuple[Conflict, ...]


@dataclass(frozen=True, slots=True)
class There:
    """What is on the hub before."""

    repo: str
    """owner/name."""
    exists: bool
    is_public: bool
    has_branch: bool
    head: str | None
    """The last commit."""
    files: tuple[str, ...]


def push(
    folder: RunFolder, repo: str, layout: str, *, private: bool, branch: str | None, message: str | None,
    validation: float | None, allow_personal: bool, say: Callable[[str], None], confirm: Callable[[], None],
) -> str:  # fmt: skip
    """Export a run, say what will be sent, and send it.

    Args:
        folder: The run; it is only read.
        repo: `owner/name` on the hub, or a name under the account of the token.
        layout: One of `PUSHED`.
        private: Whether a repository that is made is private. One that is there must be as this says.
        branch: Made if it is not there; None is main.
        message: Of the commit; None is the run's name and its rows.
        validation: As for `export`.
        allow_personal: Whether a public set may hold personal data; keys it may never hold.
        say: Shows a line.
        confirm: Raises if the user does not want it sent.

    Returns:
        A line that says what was sent, and where it is.

    Raises:
        ConfigError: The repository's or the branch's name is none, there is no token, or the repository is not as `private` says.
        DataError: The set holds what must not be public, the run cannot be exported, or the hub refuses or cannot be reached.
    """
    _check_names(repo, branch)
    api = _api()  # first: without a token there is no need to read the run
    with _hub_errors(repo):
        there = _look(api, repo, branch)
    if there.exists and there.is_public is private:
        is_, asked = ("public", "--public") if there.is_public else ("private", "--private")
        raise ConfigError(
            "KS768",
            f"{there.repo}: is {is_} already; say {asked} to push to it, or change that on the hub, in its settings",
        )
    with tempfile.TemporaryDirectory(prefix="kiloset-push-") as place:
        parcel = _pack(folder, layout, validation, there.repo, Path(place) / "export")
        if not private:
            _check_public(parcel, allow_personal)
        gone = [name for name in there.files if OURS.fullmatch(name) and name not in parcel.sizes]
        for line in _told(parcel, there, gone, private=private, branch=branch):
            say(line)
        confirm()
        text = message or f"Kiloset run {folder.path.name}: {parcel.rows} rows"
        with warnings.catch_warnings(record=True) as said, _hub_errors(there.repo):
            warnings.simplefilter("ignore")  # what its client says of its own libraries
            warnings.simplefilter("always", UserWarning)  # what the hub says of the card
            done = _send(api, parcel, there, gone, private=private, branch=branch, message=text)
        for each in said:
            say(f"  the hub warns: {_line(each.message)}")
    if done.oid == there.head:
        return f"{there.repo}: nothing has changed since commit {done.oid[:12]}; nothing was sent"
    return f"{there.repo}: commit {done.oid[:12]}, {done.commit_url}"


def _check_names(repo: str, branch: str | None) -> None:
    from huggingface_hub.errors import HFValidationError
    from huggingface_hub.utils import validate_repo_id

    try:
        validate_repo_id(repo)
    except HFValidationError:
        raise ConfigError(
            "KS769",
            f"{plain(repo)!r} is no name of a repository: `owner/name` is, of ASCII letters, digits, '-', '_' and '.', "
            "neither first nor last '-' or '.', no '--', no '..', at most 96 characters",
        ) from None
    if branch is not None and not re.fullmatch(r"[\w][\w./-]{0,99}", branch, re.ASCII):
        raise ConfigError("KS770", f"--revision must be a branch's name, got {plain(branch)!r}")


def _api() -> Any:
    """Return the hub's client, which finds the token where its own login put it, or in HF_TOKEN; we never look at it.

    Raises:
        ConfigError: There is none.
    """
    from huggingface_hub import HfApi, get_token
    from huggingface_hub.utils import logging

    logging.set_verbosity_error()  # it tells of each attempt; we tell of the last
    if get_token() is None:
        raise ConfigError("KS771", "no token for the hub: set HF_TOKEN, or log in once with `hf auth login`")
    return HfApi()


def _look(api: Any, repo: str, branch: str | None) -> There:
    from huggingface_hub.errors import RepositoryNotFoundError, RevisionNotFoundError

    user = api.whoami()["name"]  # tells a wrong token from a repository that is not there
    full = repo if "/" in repo else f"{user}/{repo}"
    try:
        try:
            found, has_branch = api.repo_info(full, repo_type="dataset", revision=branch), True
        except RevisionNotFoundError:
            found, has_branch = api.repo_info(full, repo_type="dataset"), False
    except RepositoryNotFoundError:
        return There(full, exists=False, is_public=False, has_branch=branch is None, head=None, files=())
    files = tuple(sorted(each.rfilename for each in found.siblings or ()))
    return There(full, True, not found.private, has_branch, found.sha, files)


def _pack(folder: RunFolder, layout: str, validation: float | None, repo: str, place: Path) -> Parcel:
    done = export(folder, layout, place, validation)
    parts = parts_of(layout, done.rows)
    found, facts = described(folder, layout, parts, repo)
    (place / CARD).write_text(card(found, facts), encoding="utf-8")
    files = sorted(path for path in place.iterdir() if not path.name.startswith("."))  # a marker of ours is hidden
    sizes = {path.name: path.stat().st_size for path in files}
    return Parcel(place, sizes, found.rows, facts.personal, tuple(conflicts(facts.licences)))


def _check_public(parcel: Parcel, allow_personal: bool) -> None:
    found = ", ".join(f"{pieces} x {kind}" for kind, pieces in parcel.personal.items())
    if KEYS in parcel.personal:
        raise DataError(
            "KS772",
            f"not sent: the rows hold keys or tokens ({found}), which nobody may publish; take them out of curated.jsonl "
            "(personal.parquet lists those that the run found)",
        )
    if parcel.personal and not allow_personal:
        raise DataError(
            "KS773",
            f"not sent: the rows hold personal data ({found}; personal.parquet lists what the run found); take it out of "
            "curated.jsonl, push with --private, or allow it with --allow-personal",
        )


def _told(parcel: Parcel, there: There, gone: list[str], *, private: bool, branch: str | None) -> Iterator[str]:
    """Yield what is about to be done, line by line."""
    state = "is there" if there.exists else "will be made"
    yield f"{there.repo} ({'private' if private else 'PUBLIC'}, {state}), branch {branch or 'main'}{'' if there.has_branch else ', will be made'}"
    yield from (f"  sends {name}, {size:,} bytes" for name, size in parcel.sizes.items())
    yield from (f"  takes away {name} of an earlier push" for name in gone)
    yield f"  {parcel.rows} rows; " + (
        "personal data: " + ", ".join(f"{pieces} x {kind}" for kind, pieces in parcel.personal.items())
        if parcel.personal
        else "no personal data found"
    )
    for each in parcel.conflicts:
        yield f"  licence {', '.join(plain(name) or '(none)' for name in each.licences)}: {each.why}"


def _send(
    api: Any, parcel: Parcel, there: There, gone: list[str], *, private: bool, branch: str | None, message: str
) -> Any:
    """Make what is missing, and the one commit; `upload_folder` would make several of a large folder."""
    from huggingface_hub import CommitOperationAdd, CommitOperationDelete

    if not there.exists:
        api.create_repo(there.repo, repo_type="dataset", private=private, exist_ok=True)
    if branch is not None and not there.has_branch:
        api.create_branch(there.repo, branch=branch, repo_type="dataset", exist_ok=True)
    adds = [CommitOperationAdd(path_in_repo=name, path_or_fileobj=parcel.folder / name) for name in parcel.sizes]
    deletes = [CommitOperationDelete(path_in_repo=name) for name in gone]
    return api.create_commit(
        there.repo, [*deletes, *adds], commit_message=message, repo_type="dataset", revision=branch
    )


@contextmanager
def _hub_errors(repo: str) -> Iterator[None]:
    """Say in one line what the hub, or the way to it, has against it."""
    from huggingface_hub.errors import HfHubHTTPError, OfflineModeIsEnabled

    # What its client raises where no answer comes; of the library for HTTP that it uses, which was another one before.
    from huggingface_hub.errors import HTTPError as NoAnswer

    try:
        yield
    except OfflineModeIsEnabled:
        raise DataError("KS774", f"{repo}: HF_HUB_OFFLINE is set; unset it to reach the hub") from None
    except (NoAnswer, RuntimeError, OSError, ValueError) as error:
        # An upload of a file that fails is a RuntimeError, with its reason as the cause.
        why = error.__cause__ if isinstance(error, RuntimeError) and error.__cause__ else error
        if isinstance(why, HfHubHTTPError):
            raise DataError("KS775", f"{repo}: {_refusal(why)}") from None
        if isinstance(why, NoAnswer):
            said = f"the hub cannot be reached ({type(why).__name__}: {_line(why)})"
            raise DataError("KS776", f"{repo}: {said}; try again, what is there already is not sent twice") from None
        raise DataError("KS777", f"{repo}: not sent ({type(why).__name__}: {_line(why)})") from None


def _refusal(error: Any) -> str:
    status = error.response.status_code
    meaning = {
        401: "the token is not valid (HF_TOKEN comes before `hf auth login`)",
        403: "the token may not write there; it needs the right to write to this repository",
        404: "there is no such repository or branch, or the token may not see it",
        409: "something else was changed there at the same time; push again",
        429: "too many requests; wait, and push again",
    }.get(status, "the hub has a fault; push again, what is there already is not sent twice" if status >= 500 else "")
    said = _line(error.server_message or "")
    return f"the hub answers {status}" + (f": {meaning}" if meaning else "") + (f" ({said})" if said else "")


def _line(said: object) -> str:
    line = " ".join(plain(str(said)).split())
    return line if len(line) <= SAID else line[: SAID - 1] + "…"
