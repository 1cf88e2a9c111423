"""Push an export of a run, with its data card, to the Hugging Face hub as one commit; nothing else of the run is sent."""

import re
import tempfile
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from kiloset.audit.licenses import Conflict, conflicts
from kiloset.audit.safe_text import plain
from kiloset.core.errors import ConfigError, DataError
from kiloset.core.run import RunFolder
from kiloset.publish.card import CARD, card
from kiloset.publish.export import export
from kiloset.publish.facts import gather_facts, parts_of

OURS = re.compile(r"(train|validation)\.(jsonl|parquet)|dataset_info\.json")
"""Files of earlier pushes; a new push deletes them unless it has a file of that name."""
KEYS = "key"
"""The kind of personal data that may never be public."""
MESSAGE = 300
"""Longest message of the hub that is printed, in characters."""


@dataclass(frozen=True, slots=True)
class Parcel:
    """What a push will send."""

    folder: Path
    sizes: Mapping[str, int]
    """Bytes by file."""
    rows: int
    personal: Mapping[str, int]
    """Pieces by kind."""
    conflicts: tuple[Conflict, ...]


@dataclass(frozen=True, slots=True)
class Remote:
    """The repository on the hub before the push."""

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
    """Export a run, print what will be sent, and send it.

    Args:
        folder: The run; it is only read.
        repo: `owner/name` on the hub, or a name under the account of the token.
        layout: A layout of `kiloset.publish.export.LAYOUTS` except "hf", which works with load_from_disk only.
        private: Whether a new repository is private. An existing one must already be as this states.
        branch: Created if it does not exist; None is main.
        message: Message of the commit; by default the run's name and its rows.
        validation: As for `export`.
        allow_personal: Whether a public set may contain personal data; it may never contain keys.
        say: Prints a line.
        confirm: Raises if the user refuses.

    Returns:
        A line that names what was sent, and its address.

    Raises:
        ConfigError: The repository's or the branch's name is invalid, there is no token, or the repository is not as `private` states.
        DataError: The set contains what must not be public, the run cannot be exported, or the hub refuses or cannot be reached.
    """
    _check_names(repo, branch)
    api = _api()  # before the run is read, because a push needs a token
    with _hub_errors(repo):
        remote = _look(api, repo, branch)
    if remote.exists and remote.is_public is private:
        state, option = ("public", "--public") if remote.is_public else ("private", "--private")
        raise ConfigError(
            "KS768",
            f"{remote.repo}: is {state} already; push to it with {option}, or change its settings on the hub",
        )
    with tempfile.TemporaryDirectory(prefix="kiloset-push-") as place:
        parcel = _pack(folder, layout, validation, remote.repo, Path(place) / "export")
        if not private:
            _check_public(parcel, allow_personal)
        deleted = [name for name in remote.files if OURS.fullmatch(name) and name not in parcel.sizes]
        for line in _plan(parcel, remote, deleted, private=private, branch=branch):
            say(line)
        confirm()
        text = message or f"Kiloset run {folder.path.name}: {parcel.rows} rows"
        with warnings.catch_warnings(record=True) as warned, _hub_errors(remote.repo):
            warnings.simplefilter("ignore")  # of the hub's client about its own libraries
            warnings.simplefilter("always", UserWarning)  # of the hub about the card
            done = _send(api, parcel, remote, deleted, private=private, branch=branch, message=text)
        for each in warned:
            say(f"  warning of the hub: {_line(each.message)}")
    if done.oid == remote.head:
        return f"{remote.repo}: nothing has changed since commit {done.oid[:12]}; nothing was sent"
    return f"{remote.repo}: commit {done.oid[:12]}, {done.commit_url}"


def _check_names(repo: str, branch: str | None) -> None:
    from huggingface_hub.errors import HFValidationError
    from huggingface_hub.utils import validate_repo_id

    try:
        validate_repo_id(repo)
    except HFValidationError:
        raise ConfigError(
            "KS769",
            f"{plain(repo)!r} is not a valid repository name: use `owner/name` with ASCII letters, digits, '-', '_' and '.', "
            "no '-' or '.' at either end, no '--', no '..', at most 96 characters",
        ) from None
    if branch is not None and not re.fullmatch(r"[\w][\w./-]{0,99}", branch, re.ASCII):
        raise ConfigError("KS770", f"--revision must be a branch's name, got {plain(branch)!r}")


def _api() -> Any:
    """Return the hub's client, which reads the token from its own login or HF_TOKEN; Kiloset never reads it.

    Raises:
        ConfigError: There is no token.
    """
    from huggingface_hub import HfApi, get_token
    from huggingface_hub.utils import logging

    logging.set_verbosity_error()  # the client logs each attempt; we report the last
    if get_token() is None:
        raise ConfigError("KS771", "no token for the hub: set HF_TOKEN, or log in once with `hf auth login`")
    return HfApi()


def _look(api: Any, repo: str, branch: str | None) -> Remote:
    from huggingface_hub.errors import RepositoryNotFoundError, RevisionNotFoundError

    user = api.whoami()["name"]  # distinguishes a wrong token from a missing repository
    full = repo if "/" in repo else f"{user}/{repo}"
    try:
        try:
            info, has_branch = api.repo_info(full, repo_type="dataset", revision=branch), True
        except RevisionNotFoundError:
            info, has_branch = api.repo_info(full, repo_type="dataset"), False
    except RepositoryNotFoundError:
        return Remote(full, exists=False, is_public=False, has_branch=branch is None, head=None, files=())
    files = tuple(sorted(each.rfilename for each in info.siblings or ()))
    return Remote(full, True, not info.private, has_branch, info.sha, files)


def _pack(folder: RunFolder, layout: str, validation: float | None, repo: str, place: Path) -> Parcel:
    done = export(folder, layout, place, validation)
    parts = parts_of(layout, done.rows)
    facts = gather_facts(folder, layout, parts, repo)
    (place / CARD).write_text(card(facts), encoding="utf-8")
    files = sorted(path for path in place.iterdir() if not path.name.startswith("."))  # the marker is a hidden file
    sizes = {path.name: path.stat().st_size for path in files}
    return Parcel(place, sizes, facts.audit.rows, facts.personal, tuple(conflicts(facts.licences)))


def _check_public(parcel: Parcel, allow_personal: bool) -> None:
    kinds = ", ".join(f"{pieces} x {kind}" for kind, pieces in parcel.personal.items())
    if KEYS in parcel.personal:
        raise DataError(
            "KS772",
            f"not sent: the rows contain keys or tokens ({kinds}), which must never be public; remove them from curated.jsonl "
            "(personal.parquet lists what the run found)",
        )
    if parcel.personal and not allow_personal:
        raise DataError(
            "KS773",
            f"not sent: the rows contain personal data ({kinds}; personal.parquet lists what the run found); remove it from "
            "curated.jsonl, push with --private, or allow it with --allow-personal",
        )


def _plan(parcel: Parcel, remote: Remote, deleted: list[str], *, private: bool, branch: str | None) -> Iterator[str]:
    """Yield what the push will do, line by line."""
    state = "exists" if remote.exists else "will be created"
    yield f"{remote.repo} ({'private' if private else 'PUBLIC'}, {state}), branch {branch or 'main'}{'' if remote.has_branch else ', will be created'}"
    yield from (f"  sends {name}, {size:,} bytes" for name, size in parcel.sizes.items())
    yield from (f"  deletes {name} of an earlier push" for name in deleted)
    yield f"  {parcel.rows} rows; " + (
        "personal data: " + ", ".join(f"{pieces} x {kind}" for kind, pieces in parcel.personal.items())
        if parcel.personal
        else "no personal data found"
    )
    for each in parcel.conflicts:
        yield f"  licence {', '.join(plain(name) or '(none)' for name in each.licences)}: {each.why}"


def _send(
    api: Any, parcel: Parcel, remote: Remote, deleted: list[str], *, private: bool, branch: str | None, message: str
) -> Any:
    """Create the repository and the branch if they are missing, and make one commit; `upload_folder` can make several."""
    from huggingface_hub import CommitOperationAdd, CommitOperationDelete

    if not remote.exists:
        api.create_repo(remote.repo, repo_type="dataset", private=private, exist_ok=True)
    if branch is not None and not remote.has_branch:
        api.create_branch(remote.repo, branch=branch, repo_type="dataset", exist_ok=True)
    adds = [CommitOperationAdd(path_in_repo=name, path_or_fileobj=parcel.folder / name) for name in parcel.sizes]
    deletes = [CommitOperationDelete(path_in_repo=name) for name in deleted]
    return api.create_commit(
        remote.repo, [*deletes, *adds], commit_message=message, repo_type="dataset", revision=branch
    )


@contextmanager
def _hub_errors(repo: str) -> Iterator[None]:
    """Report in one line why the hub refuses, or why it cannot be reached."""
    from huggingface_hub.errors import HfHubHTTPError, OfflineModeIsEnabled

    # Raised by the HTTP library of the hub's client if no response comes; the library changed between versions.
    from huggingface_hub.errors import HTTPError as NoAnswer

    try:
        yield
    except OfflineModeIsEnabled:
        raise DataError("KS774", f"{repo}: HF_HUB_OFFLINE is set; unset it to reach the hub") from None
    except (NoAnswer, RuntimeError, OSError, ValueError) as error:
        # A failed upload of a file is a RuntimeError with its reason as the cause.
        why = error.__cause__ if isinstance(error, RuntimeError) and error.__cause__ else error
        if isinstance(why, HfHubHTTPError):
            raise DataError("KS775", f"{repo}: {_refusal(why)}") from None
        if isinstance(why, NoAnswer):
            reason = f"the hub cannot be reached ({type(why).__name__}: {_line(why)})"
            raise DataError("KS776", f"{repo}: {reason}; try again, files already sent are not sent twice") from None
        raise DataError("KS777", f"{repo}: not sent ({type(why).__name__}: {_line(why)})") from None


def _refusal(error: Any) -> str:
    status = error.response.status_code
    meaning = {
        401: "the token is not valid (HF_TOKEN comes before `hf auth login`)",
        403: "the token may not write there; it needs the right to write to this repository",
        404: "there is no such repository or branch, or the token may not see it",
        409: "somebody else changed the repository at the same time; push again",
        429: "too many requests; wait, and push again",
    }.get(status, "the hub failed; push again, files already sent are not sent twice" if status >= 500 else "")
    message = _line(error.server_message or "")
    return f"the hub answers {status}" + (f": {meaning}" if meaning else "") + (f" ({message})" if message else "")


def _line(message: object) -> str:
    line = " ".join(plain(str(message)).split())
    return line if len(line) <= MESSAGE else line[: MESSAGE - 1] + "…"
