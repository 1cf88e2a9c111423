"""A pool thinned in this process and on a cluster of one and of two nodes: the rows that one machine keeps."""

import itertools
import json
import pickle
import random
from collections import Counter
from contextlib import suppress
from functools import partial

import numpy as np
import polars as pl
import pytest

from kiloset import thinning
from kiloset.core.errors import DataError, EmptyError
from kiloset.core.folders import read_part, row_groups, write_part
from kiloset.core.progress import Silent
from kiloset.engines.settings import EngineConfig
from kiloset.filters.near_duplicates import NearDuplicatesConfig, drop_near_duplicates
from kiloset.filters.selection import tempered_quotas
from kiloset.thinning import _table, thin
from tests.fakes import FakeEmbedder

with suppress(pytest.skip.Exception):  # ray is an extra
    from tests.test_ray import cluster, head, two_nodes  # noqa: F401

NEAR = NearDuplicatesConfig()


def _pool(folder, number=600, parts=5, seed=3):
    """Write rows of made-up words, of which some are copies, edits, templates or short."""
    rng = random.Random(seed)
    words = ["".join(rng.choices("abcdefghiklmnoprstuw", k=rng.randint(2, 8))) for _ in range(800)]
    texts = []
    for _ in range(number):
        kind = rng.random()
        if texts and kind < 0.15:
            text = rng.choice(texts)
        elif texts and kind < 0.4:
            some = rng.choice(texts).split()
            some[rng.randrange(len(some))] = rng.choice(words)
            text = " ".join(some)
        elif kind < 0.5:
            text = f"How many days did month {rng.randint(1, 400)} have in the old calendar of this town?"
        elif kind < 0.6:
            text = " ".join(rng.choices(words[:40], k=rng.randint(1, 5)))
        else:
            text = " ".join(rng.choices(words, k=rng.randint(6, 40)))
        texts.append(text)
    rows = pl.DataFrame(
        {
            "instruction": texts,
            "context": [rng.choice(["", "", "Given this."]) for _ in texts],
            "output": ["x" * rng.randint(1, 5) for _ in texts],
            "topic": [rng.choice("ab") for _ in texts],
        }
    )
    bounds = sorted({0, number, *(rng.randrange(number) for _ in range(parts - 1))})
    for at, (begin, end) in enumerate(itertools.pairwise(bounds)):
        rows[begin:end].write_parquet(folder / f"{at:03d}.parquet", row_group_size=70)
    return rows


def _local(rows):
    named = rows.rename({"context": "input", "output": "response"}).with_row_index("row")
    return drop_near_duplicates(_table(named), NEAR, seed=0)


class _Broadcast:
    def __init__(self, value):
        self._value = value

    def __call__(self):
        return self._value


def _sent(work):
    """Return a function as a worker gets it."""
    return pickle.loads(pickle.dumps(work))


def _map_parts(_, parts, work):
    return (_sent(work)(json.loads(json.dumps(part))) for part in parts)


def _map_groups(config, parts, emit, gather, groups):
    rows = pl.concat(_map_parts(config, parts, emit)).sample(fraction=1.0, shuffle=True, seed=1)
    assert rows["group"].is_between(0, groups - 1).all()
    return (_sent(gather)(group) for _, group in rows.group_by("group"))


def _address(request, monkeypatch, nodes):
    """Return the address of a cluster; without `nodes`, put functions of this process in the cluster's place."""
    if nodes:
        pytest.importorskip("ray")
        return request.getfixturevalue(nodes).address
    for name, function in (
        ("map_parts", _map_parts),
        ("map_groups", _map_groups),
        ("broadcast", lambda _, value: _Broadcast(value)),
    ):
        monkeypatch.setattr(thinning, name, function)
    return ""


def _thin(address, pool, out, rows=None):
    return thin(
        str(pool), str(out), rows, NEAR, EngineConfig(kind="ray", address=address), seed=0, temper=0.5,
        make_embedder=FakeEmbedder, progress=Silent(),
    )  # fmt: skip


def _read(folder):
    return pl.concat([pl.read_parquet(file) for file in sorted(folder.glob("*.parquet"))])


@pytest.mark.parametrize("nodes", ["", pytest.param("two_nodes", marks=pytest.mark.cluster)])
def test_near_duplicates_leave_as_on_one_machine_whatever_the_cluster(request, nodes, tmp_path, monkeypatch):
    address = _address(request, monkeypatch, nodes)
    (tmp_path / "pool").mkdir()
    rows = _pool(tmp_path / "pool")
    local = _local(rows)
    reasons = Counter(local.dropped["reason"])
    assert min(reasons["exact_duplicate"], reasons["near_duplicate"], reasons["template_full"]) > 5
    result = _thin(address, tmp_path / "pool", tmp_path / "out")
    dropped = _read(tmp_path / "out" / "dropped").sort("id")
    assert dropped.drop("row").equals(local.dropped.select(dropped.drop("row").columns).sort("id"))
    kept = rows.with_row_index("row").filter(~pl.col("row").is_in(dropped["row"].to_list())).drop("row")
    assert _read(tmp_path / "out" / "kept").equals(kept)
    assert (result.rows, result.kept, result.dropped) == (600, kept.height, {"near-duplicates": dropped.height})
    assert json.loads((tmp_path / "out" / "thinned.json").read_text())["kept"] == kept.height


@pytest.mark.parametrize("nodes", ["", pytest.param("two_nodes", marks=pytest.mark.cluster)])
def test_many_small_shuffles_give_what_one_gives_and_clusters_get_their_quotas(request, nodes, tmp_path, monkeypatch):
    address = _address(request, monkeypatch, nodes)
    (tmp_path / "pool").mkdir()
    rows = _pool(tmp_path / "pool", number=300)
    monkeypatch.setattr(thinning, "SHUFFLED_BYTES", 800_000)
    monkeypatch.setattr(thinning, "GROUP_ROWS", 400)
    result = _thin(address, tmp_path / "pool", tmp_path / "out", rows=60)
    dropped = _read(tmp_path / "out" / "dropped")
    near = dropped.filter(pl.col("reason") != "over_quota")
    assert set(near["id"]) == set(_local(rows).dropped["id"])
    # Every row is kept or dropped once.
    assert dropped["row"].n_unique() == dropped.height == 300 - result.kept
    remaining = rows.with_row_index("row").filter(~pl.col("row").is_in(near["row"].to_list()))
    over = dropped.filter(pl.col("reason") == "over_quota")
    label = {row: int(evidence.split()[-1]) for row, evidence in over.select("row", "evidence").iter_rows()}
    assert 60 - result.clusters <= result.kept <= 60
    # By hand: each cluster has its quota, or less by what shares the last chance.
    centres = thinning._centres(
        listed_with_columns(tmp_path / "pool"), np.isin(np.arange(300), near["row"]), 60, 0, FakeEmbedder
    )
    turns = [f"{a}\n\n{b}" if b else a for a, b in remaining.select("instruction", "context").iter_rows()]
    at = (FakeEmbedder().embed(turns) @ centres.T).argmax(axis=1)
    assert {row: int(c) for row, c in zip(remaining["row"], at, strict=True) if row in label} == label
    quotas = tempered_quotas(Counter(at.tolist()), 60, 0.5)
    kept = Counter(int(c) for row, c in zip(remaining["row"], at, strict=True) if row not in label)
    assert all(quotas[c] - 1 <= kept[c] <= quotas[c] for c in quotas)


def listed_with_columns(pool):
    return [{**part, "columns": thinning._columns(part)} for part in row_groups(str(pool))]


def test_a_folder_is_read_by_row_groups_in_order_from_any_address(tmp_path):
    rows = _pool(tmp_path)
    parts = row_groups(f"file://{tmp_path}")
    assert len(parts) > len(list(tmp_path.glob("*.parquet")))
    read = pl.concat([read_part(part) for part in parts])
    assert read.drop("row").equals(rows)
    assert read["row"].to_list() == list(range(600))
    write_part("memory://thin", "a.parquet", rows)
    assert read_part(row_groups("memory://thin")[0]).drop("row").equals(rows)


def test_what_is_no_pool_is_refused_in_one_line(tmp_path):
    call = partial(
        thin,
        rows=None,
        near=NEAR,
        engine=EngineConfig(kind="ray"),
        seed=0,
        temper=0.5,
        make_embedder=FakeEmbedder,
        progress=Silent(),
    )
    with pytest.raises(DataError, match="no such folder"):
        call(str(tmp_path / "none"), str(tmp_path / "out"))
    (tmp_path / "pool").mkdir()
    with pytest.raises(DataError, match=r"no \.parquet file in this folder"):
        call(str(tmp_path / "pool"), str(tmp_path / "out"))
    file = tmp_path / "pool" / "a.parquet"
    pl.DataFrame({"instruction": ["a"], "answer": ["b"]}).write_parquet(file)
    with pytest.raises(DataError, match="no column 'response', found instruction, answer"):
        call(str(tmp_path / "pool"), str(tmp_path / "out"))
    with pytest.raises(DataError, match="not empty"):
        call(str(tmp_path / "pool"), str(tmp_path / "pool"))
    file.write_bytes(b"PAR1 no")
    with pytest.raises(DataError, match="not a readable parquet file"):
        call(str(tmp_path / "pool"), str(tmp_path / "out"))
    pl.DataFrame(schema={"instruction": pl.String, "response": pl.String}).write_parquet(file)
    with pytest.raises(EmptyError, match="no row in it"):
        call(str(tmp_path / "pool"), str(tmp_path / "out"))
    assert not (tmp_path / "out").exists()
