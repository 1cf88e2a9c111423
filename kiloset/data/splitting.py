"""Splits rows into train and validation so that no row has its like, or one it descends from, on the other side."""

import hashlib
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from fractions import Fraction

import polars as pl

from kiloset.audit.reading import read_settings
from kiloset.core.run import RunFolder
from kiloset.core.table import user_turn
from kiloset.filters.near_duplicates import NearDuplicatesConfig
from kiloset.generator.categories import apportion

DRAWS = 3
"""Times that near-duplicates are looked for, each with other hash functions: a pair at the threshold of 0.70 is overlooked
by one with a probability of 0.010, by all with 10^-6."""


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

    Alike are instructions, with their inputs, that `kiloset.filters.near_duplicates` would compare as such, whether their numbers and
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


def tying_threshold(folder: RunFolder) -> float:
    """Return the run's threshold for near-duplicates, or the default where that is lower: a lenient run has more to tie."""
    usual, own = NearDuplicatesConfig().threshold, read_settings(folder, "near_duplicates").get("threshold")
    return min(usual, own) if isinstance(own, float) and own > 0 else usual


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
    from kiloset.filters.minhash import Walk, normal_texts

    # Of an edited row nobody knows where its input begins, so it is compared with others as one text too.
    whole = pl.Series([user_turn(*both) for both in rows.select("instruction", "input").iter_rows()], dtype=pl.String)
    nothing = pl.repeat("", rows.height, dtype=pl.String, eager=True)
    for texts in (normal_texts(rows["instruction"], rows["input"]), normal_texts(whole, nothing)):
        for seed in range(DRAWS):
            walk = Walk(texts, threshold, seed)
            while (found := walk.step()) is not None:
                yield from ((found[0], like.row) for like in found[1])
                walk.keep(found[0])
