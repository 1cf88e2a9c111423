"""Hands curated.jsonl, edits by hand included, to the next tool: five layouts, split so that no row has its like on the other side."""

import hashlib
import json
import os
import shutil
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

import polars as pl

from audit.reading import read_curated, read_settings, read_stages
from core.errors import ConfigError, DataError, EmptyError
from core.models import PLAIN_TURNS
from core.run import RunFolder, check_free
from core.table import user_turn
from filters.near_duplicates import NearDuplicatesConfig
from generator.categories import apportion

TEXT = ("id", "category", "source", "license")
"""What every layout tells of a row besides its turns, as text; "" where the line says nothing."""
ROWS: dict[str, Any] = {
    "messages": pl.List(pl.Struct({"role": pl.String, "content": pl.String})),
    **dict.fromkeys((*TEXT, "instruction", "input", "split"), pl.String),
}
SHAREGPT = {"system": "system", "user": "human", "assistant": "gpt"}
DRAWS = 3
"""Times that near-duplicates are looked for, each with other hash functions: a pair at the threshold of 0.70 is overlooked
by one with a probability of 0.010, by all with 10^-6."""


@dataclass(frozen=True, slots=True)
class Exported:
    """What an export wrote."""

    folder: Path
    rows: dict[str, int]
    """Rows on each side, `train` and `validation`. A side without rows has no file."""
    ties: tuple[int, ...]
    """Rows of each group of more than one, the largest first."""
    moved: int
    """Rows that are on another side than curated.jsonl says."""


def export(folder: RunFolder, layout: str, target: Path, validation: float) -> Exported:
    """Write a run's curated rows as a new folder, which appears whole or not at all.

    The split is made anew, for that of curated.jsonl knows no groups; it depends on the rows, not on their order.

    Args:
        folder: The run.
        layout: One of `LAYOUTS`.
        target: The folder to make; there may be an empty one.
        validation: Share of the rows that is held out, in [0, 1), reached as nearly as whole groups allow.

    Raises:
        ConfigError: The share is out of range.
        DataError: There is something at `target`, it cannot be written, a line of curated.jsonl is not a row or does not fit the
            layout, or the run's tables cannot be read.
        EmptyError: curated.jsonl has no row.
    """
    if not 0 <= validation < 1:
        raise ConfigError(f"--validation must be in [0, 1), got {validation}")
    check_free(target)
    stages, ledger = read_stages(folder)
    rows = read_rows(folder, stages[-1][1], single=layout == "alpaca")
    groups = tied(rows, ancestors(pl.concat([stages[-1][1], ledger], how="diagonal_relaxed")), _threshold(folder))
    held_out = held_out_rows(groups, rows, validation)
    side = pl.Series([at in held_out for at in range(rows.height)], dtype=pl.Boolean)
    sides = {"train": rows.filter(~side), "validation": rows.filter(side)}
    _write_whole(
        target, lambda place: LAYOUTS[layout](place, {name: part for name, part in sides.items() if part.height})
    )
    return Exported(
        folder=target,
        rows={name: part.height for name, part in sides.items()},
        ties=tuple(sorted((len(group) for group in groups if len(group) > 1), reverse=True)),
        moved=sum(part.filter(pl.col("split") != name).height for name, part in sides.items()),
    )


def summary(done: Exported, validation: float) -> list[str]:
    """Return what to tell of an export, line by line."""
    train, held_out = done.rows["train"], done.rows["validation"]
    lines = [
        f"{done.folder}: {train} rows in train, {held_out} in validation"
        f" ({held_out / (train + held_out):.1%}, asked for {validation:.1%})"
    ]
    if done.ties:
        lines.append(
            f"  {len(done.ties)} groups of more than one row, {sum(done.ties)} rows in them, the largest of {done.ties[0]}: "
            "near-duplicates and ancestors in the set are on one side"
        )
    else:
        lines.append("  no groups of more than one row")
    lines.append(f"  {done.moved} rows are on another side than in curated.jsonl")
    return lines


def read_rows(folder: RunFolder, final: pl.DataFrame, *, single: bool) -> pl.DataFrame:
    """Return the lines of curated.jsonl in order, with the columns `ROWS`, every text exactly as it stands there.

    `instruction` and `input` are the last stage's where they still make the user turn; else that is the instruction, whole.

    Args:
        folder: The run.
        final: The last stage's rows.
        single: Whether only a user's turn and the answer to it fit the layout.

    Raises:
        DataError: A line is not a row, or does not fit; the message names it.
        EmptyError: There is no line.
    """
    read_curated(folder)  # its checks, which name the line
    parts = {id: (one, given) for id, one, given in final.select("id", "instruction", "input").iter_rows()}
    rows = []
    for number, line in enumerate(folder.curated.read_bytes().split(b"\n"), start=1):
        if line.strip():
            place = f"{folder.curated}:{number}"
            row = json.loads(line)
            messages = _messages(row["messages"], place)
            if single and [turn["role"] for turn in messages] != ["user", "assistant"]:
                raise DataError(
                    f"{place}: alpaca holds one user turn and its answer, found "
                    f"{', '.join(turn['role'] for turn in messages)}; choose another --format"
                )
            asked = "\n\n".join(turn["content"] for turn in messages if turn["role"] == "user")
            instruction, given = parts.get(row["id"], (asked, ""))
            if user_turn(instruction, given) != asked:
                instruction, given = asked, ""
            said = {name: _text(row.get(name), f'"{name}"', place) for name in TEXT}
            split = str(row.get("split", ""))
            rows.append({"messages": messages, **said, "instruction": instruction, "input": given, "split": split})
    if not rows:
        raise EmptyError(f"{folder.curated}: no row in it, so there is nothing to export")
    return pl.DataFrame(rows, schema=ROWS)


def ancestors(every: pl.DataFrame) -> Callable[[str], set[str]]:
    """Return a function that names the rows which one descends from, those that left the set included.

    A seed or a row of the pool is an ancestor of what was evolved from it, not of what was written after it was shown as one of
    several demonstrations: seeds are shown to hundreds of rows, so that would tie the whole set into one group. Rows that merely
    saw the same seeds are tied where they came out alike. A generated row, shown to few, is the ancestor of all that saw it. The more
    generated rows are shown and kept, the larger the groups become, in the end most of the set: then the summary shows it.
    """
    generated = set(every.filter(pl.col("source") == "generated")["id"])
    known = {
        id: [parent for parent in parents or [] if operator or parent in generated]
        for id, operator, parents in every.select("id", "operator", "parents").iter_rows()
    }

    def found(id: str) -> set[str]:
        seen: set[str] = set()
        open_ = list(known.get(id, ()))
        while open_:
            one = open_.pop()
            if one not in seen:
                seen.add(one)
                open_ += known.get(one, ())
        return seen

    return found


def tied(rows: pl.DataFrame, ancestors_of: Callable[[str], Iterable[str]], threshold: float) -> list[list[int]]:
    """Return groups of row numbers such that rows alike, and rows and their ancestors in the set, are in one.

    Alike are instructions, with their inputs, that `filters.near_duplicates` would compare as such, whether their numbers and
    names differ or not: a template that is on both sides is a leak as well. Where over 2,000 rows share a band of hashes, a
    row is compared with the last 2,000.
    """
    numbers = {id: at for at, id in enumerate(rows["id"])}
    first = list(range(rows.height))

    def root(at: int) -> int:
        while first[at] != at:
            first[at] = at = first[first[at]]
        return at

    for one, other in _alike(rows, threshold):
        first[root(one)] = root(other)
    for id, at in numbers.items():
        for ancestor in ancestors_of(id):
            if ancestor in numbers:
                first[root(at)] = root(numbers[ancestor])
    groups: dict[int, list[int]] = defaultdict(list)
    for at in range(rows.height):
        groups[root(at)].append(at)
    return list(groups.values())


def held_out_rows(groups: Sequence[Sequence[int]], rows: pl.DataFrame, share: float) -> set[int]:
    """Choose whole groups, by a hash of their ids, whose rows are `share` of all as nearly as can be; one row trains at least.

    First those that leave every category within its own share, then those that exceed these least; a group larger than these
    shares trains. Only where that misses the size are they chosen for the size alone.
    """
    wanted = min(int(rows.height * share + 0.5), rows.height - 1)
    ids, categories = rows["id"].to_list(), rows["category"].to_list()
    order = sorted(groups, key=lambda group: min(hashlib.sha256(f"export/{ids[at]}".encode()).digest() for at in group))
    counts = Counter(categories)
    quotas = Counter(apportion({name: Fraction(counts[name]) for name in sorted(counts)}, wanted))
    made_of = [Counter(categories[at] for at in group) for group in order]
    chosen: list[int] = []

    def take(number: int) -> None:
        chosen.append(number)
        quotas.subtract(made_of[number])

    for number, made in enumerate(made_of):
        if all(quotas[name] >= count for name, count in made.items()):
            take(number)
    beyond = {number: _beyond(made_of[number], quotas) for number in range(len(order)) if number not in set(chosen)}
    for number in sorted(beyond, key=lambda number: beyond[number]):
        if quotas.total() >= len(order[number]):
            take(number)
    if quotas.total():
        nearest = _nearest([len(group) for group in order], wanted, rows.height - 1)
        if abs(wanted - sum(len(order[number]) for number in nearest)) < quotas.total():
            chosen = nearest
    return {at for number in chosen for at in order[number]}


def _beyond(made: Mapping[str, int], quotas: Mapping[str, int]) -> int:
    """Return the rows of a group that are beyond what is left of their categories' shares."""
    return sum(max(0, count - max(0, quotas[name])) for name, count in made.items())


def _nearest(sizes: Sequence[int], wanted: int, most: int) -> list[int]:
    """Return the groups whose sizes add up nearest to `wanted`, to less rather than more, to `most` at most."""
    within = (1 << (min(2 * wanted, most) + 1)) - 1
    reached = [1]  # bit n: some of the groups so far add up to n
    for size in sizes:
        reached.append((reached[-1] | reached[-1] << size) & within)
    left = min((n for n in range(within.bit_length()) if reached[-1] >> n & 1), key=lambda n: (abs(n - wanted), n))
    chosen = []
    for number in reversed(range(len(sizes))):
        if not reached[number] >> left & 1:
            chosen.append(number)
            left -= sizes[number]
    return chosen


def _alike(rows: pl.DataFrame, threshold: float) -> Iterable[tuple[int, int]]:
    """Yield pairs of rows with instructions alike, by exact Jaccard similarity, each perhaps more than once."""
    from filters.minhash import Walk, normal_texts

    # Of an edited row nobody knows where its input begins, so it is compared with others as one text too.
    whole = pl.Series([user_turn(*both) for both in rows.select("instruction", "input").iter_rows()], dtype=pl.String)
    nothing = pl.repeat("", rows.height, dtype=pl.String, eager=True)
    for texts in (normal_texts(rows["instruction"], rows["input"]), normal_texts(whole, nothing)):
        for seed in range(DRAWS):
            walk = Walk(texts, threshold, seed)
            while (found := walk.step()) is not None:
                yield from ((found[0], like.row) for like in found[1])
                walk.keep(found[0])


def _threshold(folder: RunFolder) -> float:
    """Return the run's threshold for near-duplicates, or the default where that is lower: a lenient run has more to tie."""
    usual, own = NearDuplicatesConfig().threshold, read_settings(folder, "near_duplicates").get("threshold")
    return min(usual, own) if isinstance(own, float) and own > 0 else usual


def _messages(turns: Sequence[Mapping[str, Any]], place: str) -> list[dict[str, str]]:
    """Return the turns of a line, their roles and texts alone."""
    for number, turn in enumerate(turns, start=1):
        if turn.get("role") not in PLAIN_TURNS:
            known = ", ".join(PLAIN_TURNS)
            raise DataError(f'{place}: message {number}: "role" must be one of {known}, got {turn.get("role")!r}')
        if not _text(turn.get("content"), f'message {number}: "content"', place).strip():
            raise DataError(f'{place}: message {number}: "content" is empty')
    roles = [turn["role"] for turn in turns]
    if roles[-1] != "assistant" or "user" not in roles:
        raise DataError(f"{place}: messages must end with the assistant's, after a user's, got {', '.join(roles)}")
    return [{"role": turn["role"], "content": turn["content"]} for turn in turns]


def _text(value: Any, name: str, place: str) -> str:
    if value is None:
        return ""
    if not isinstance(value, str):
        raise DataError(f"{place}: {name} must be text, got {value!r}")
    try:
        value.encode("utf-8")
    except UnicodeEncodeError as error:
        raise DataError(f"{place}: {name} is not UTF-8 text ({error.reason})") from None
    return value


# --------------------------------------------------------------------------------------------------------- layouts


def _as_messages(row: Mapping[str, Any]) -> dict[str, Any]:
    return {"messages": row["messages"]}


def _as_alpaca(row: Mapping[str, Any]) -> dict[str, Any]:
    return {"instruction": row["instruction"], "input": row["input"], "output": row["messages"][-1]["content"]}


def _as_sharegpt(row: Mapping[str, Any]) -> dict[str, Any]:
    return {"conversations": [{"from": SHAREGPT[turn["role"]], "value": turn["content"]} for turn in row["messages"]]}


def _as_lines(
    layout: Callable[[Mapping[str, Any]], dict[str, Any]],
) -> Callable[[Path, Mapping[str, pl.DataFrame]], None]:
    """Return a function that writes each side as a .jsonl of this layout."""

    def write(place: Path, sides: Mapping[str, pl.DataFrame]) -> None:
        for name, rows in sides.items():
            with (place / f"{name}.jsonl").open("w", encoding="utf-8", newline="\n") as file:
                for row in rows.iter_rows(named=True):
                    line = {**layout(row), **{column: row[column] for column in TEXT}}
                    file.write(json.dumps(line, ensure_ascii=False) + "\n")

    return write


def _write_parquet(place: Path, sides: Mapping[str, pl.DataFrame]) -> None:
    for name, rows in sides.items():
        rows.select("messages", *TEXT).write_parquet(place / f"{name}.parquet")


def _write_dataset(place: Path, sides: Mapping[str, pl.DataFrame]) -> None:
    from datasets import Dataset, DatasetDict, Features, Value

    text = Value("string")
    features = Features({"messages": [{"role": text, "content": text}], **dict.fromkeys(TEXT, text)})
    made = {
        name: Dataset.from_dict(rows.select(*features).to_dict(as_series=False), features)
        for name, rows in sides.items()
    }
    DatasetDict(made).save_to_disk(place)


LAYOUTS: dict[str, Callable[[Path, Mapping[str, pl.DataFrame]], None]] = {
    "messages": _as_lines(_as_messages),
    "alpaca": _as_lines(_as_alpaca),
    "sharegpt": _as_lines(_as_sharegpt),
    "parquet": _write_parquet,
    "hf": _write_dataset,
}
"""What writes the sides that have rows into an empty folder."""


def _write_whole(target: Path, write: Callable[[Path], None]) -> None:
    """Let `write` fill a temporary folder beside `target`, then rename it into place."""
    temporary = target.with_name(f".{target.name}.{os.getpid()}.partial")
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        temporary.mkdir()
        write(temporary)
        os.replace(temporary, target)  # takes the place of an empty folder, refuses one that has filled since
    except OSError as error:
        raise DataError(
            f"{target}: cannot be written ({error.strerror or error}); choose another folder with --out"
        ) from None
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
