"""Split rows into train and validation; near-duplicates, and rows and their ancestors, always go to the same side."""

import hashlib
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from fractions import Fraction

import polars as pl

from kiloset.data.quotas import apportion

SPLITS = ("train", "validation")


def validation_ids(
    rows: pl.DataFrame, ledger: pl.DataFrame, pairs: Iterable[tuple[int, int, float]], share: float, seed: int
) -> set[str]:
    """Choose the ids of the rows for validation; the choice depends on the rows and the seed, not on the rows' order.

    Args:
        rows: The rows to split, with `id` and `category`.
        ledger: The rows of the run, kept or dropped, whose `parents` give the lineage of `rows`.
        pairs: Row numbers and similarity of near-duplicates in `rows`.
        share: Fraction of the rows for validation, in [0, 1).
        seed: The run's seed.
    """
    return choose_validation(group_rows(rows["id"].to_list(), pairs, ancestors(ledger)), rows, share, seed)


def ancestors(ledger: pl.DataFrame) -> Callable[[str], set[str]]:
    """Return a function that returns the ids of a row's ancestors, dropped rows included.

    A seed or a pool row is an ancestor of the rows that were evolved from it, but not of the rows that were written after it
    was one of several demonstrations: each seed is shown for hundreds of rows, so nearly all rows would form one group.
    A generated row is the ancestor of every row that it was shown for. The more generated rows a run shows and keeps,
    the larger the groups become.
    """
    generated = set(ledger.filter(pl.col("source") == "generated")["id"])
    parents_of = {
        id: [parent for parent in parents or [] if operator or parent in generated]
        for id, operator, parents in ledger.select("id", "operator", "parents").iter_rows()
    }

    def ancestors_of(id: str) -> set[str]:
        seen: set[str] = set()
        waiting = list(parents_of.get(id, ()))
        while waiting:
            parent = waiting.pop()
            if parent not in seen:
                seen.add(parent)
                waiting += parents_of.get(parent, ())
        return seen

    return ancestors_of


def group_rows(
    ids: Sequence[str], pairs: Iterable[tuple[int, int, float]], ancestors_of: Callable[[str], Iterable[str]]
) -> list[list[int]]:
    """Return groups of row numbers: paired rows are in one group, and so are a row and its ancestors among `ids`."""
    numbers = {id: at for at, id in enumerate(ids)}
    parent = list(range(len(ids)))

    def root(at: int) -> int:
        while parent[at] != at:
            parent[at] = at = parent[parent[at]]
        return at

    for one, other, _ in pairs:
        parent[root(one)] = root(other)
    for id, at in numbers.items():
        for ancestor in ancestors_of(id):
            if ancestor in numbers:
                parent[root(at)] = root(numbers[ancestor])
    groups: dict[int, list[int]] = defaultdict(list)
    for at in range(len(ids)):
        groups[root(at)].append(at)
    return list(groups.values())


def choose_validation(groups: Sequence[Sequence[int]], rows: pl.DataFrame, share: float, seed: int) -> set[str]:
    """Choose whole groups in the order of a hash of their ids; return the ids of their rows. At least one row trains.

    The number of rows is as near to `share` as whole groups allow. Groups that fit into the quota of each of their
    categories come first, then the groups that exceed these quotas least. If both miss the number, the groups are chosen for
    the number alone. A group larger than the whole number trains.
    """
    size = min(int(rows.height * share + 0.5), rows.height - 1)
    ids, categories = rows["id"].to_list(), rows["category"].to_list()
    order = sorted(groups, key=lambda group: min(_hash(ids[at], seed) for at in group))
    counts = Counter(categories)
    quotas = Counter(apportion({name: Fraction(counts[name]) for name in sorted(counts)}, size))
    by_category = [Counter(categories[at] for at in group) for group in order]
    chosen: list[int] = []

    def take(number: int) -> None:
        chosen.append(number)
        quotas.subtract(by_category[number])

    for number, group_counts in enumerate(by_category):
        if all(quotas[name] >= count for name, count in group_counts.items()):
            take(number)
    excess = {n: _excess(by_category[n], quotas) for n in sorted(set(range(len(order))) - set(chosen))}
    for number in sorted(excess, key=lambda number: excess[number]):
        if quotas.total() >= len(order[number]):
            take(number)
    if quotas.total():
        nearest = _nearest_sum([len(group) for group in order], size, rows.height - 1)
        if abs(size - sum(len(order[number]) for number in nearest)) < quotas.total():
            chosen = nearest
    return {ids[at] for number in chosen for at in order[number]}


def _hash(id: str, seed: int) -> bytes:
    return hashlib.sha256(f"{seed}/split/{id}".encode()).digest()


def _excess(group_counts: Mapping[str, int], quotas: Mapping[str, int]) -> int:
    """Return the number of a group's rows that exceed the remaining quotas of their categories."""
    return sum(max(0, count - max(0, quotas[name])) for name, count in group_counts.items())


def _nearest_sum(sizes: Sequence[int], wanted: int, most: int) -> list[int]:
    """Return the groups whose sizes have the sum nearest to `wanted` and at most `most`; of two sums, the smaller one."""
    within = (1 << (min(2 * wanted, most) + 1)) - 1
    reached = [1]  # bit n: some of the groups so far have the sum n
    for size in sizes:
        reached.append((reached[-1] | reached[-1] << size) & within)
    rest = min((n for n in range(within.bit_length()) if reached[-1] >> n & 1), key=lambda n: (abs(n - wanted), n))
    chosen = []
    for number in reversed(range(len(sizes))):
        if not reached[number] >> rest & 1:
            chosen.append(number)
            rest -= sizes[number]
    return chosen
