"""Scores and embeddings of many texts, and functions over parts of a pool, on a Ray cluster with Ray Data.

Each worker holds the scorer or embedder of a single machine. Rows are numbered, because blocks return in any order.
"""

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from kiloset.core.models import Embedder, Message
from kiloset.core.progress import Progress
from kiloset.engines.ray import connect, placement
from kiloset.engines.settings import EngineConfig

SCORE_BATCH = 32
"""Responses in one call of a worker."""
EMBED_BATCH = 256
"""Texts in one call of a worker."""
FEW = 2_000
"""Up to this number, texts are embedded on the driver, because starting a model on a worker takes longer."""
BLOCKS = 200
"""Largest number of blocks."""


def connect_data(config: EngineConfig) -> Any:
    """Join the cluster, and return `ray.data` with its output switched off.

    Raises:
        ModelError: The cluster cannot be reached.
    """
    connect(config)
    import logging

    import ray

    context = ray.data.DataContext.get_current()
    context.enable_progress_bars = False
    context.print_on_execution_start = False
    logging.getLogger("ray.data").setLevel(logging.ERROR)
    return ray.data


class RayScorer:
    """A `Scorer` that runs in a pool of actors."""

    def __init__(self, identity: str, make_scorer: Callable[[], Any], config: EngineConfig) -> None:
        """Keep the settings.

        Args:
            identity: Name, revision and longest text, part of every score's cache key.
            make_scorer: Creates a `Scorer` on any machine.
            config: The `[engine]` table.
        """
        self.identity, self._make_scorer, self._config = identity, make_scorer, config

    def logprobs(
        self, prompts: Sequence[Sequence[Message]], responses: Sequence[str]
    ) -> Iterator[tuple[int, float, int]]:
        """Yield `(number, sum of log-probabilities in nats, tokens)` of each response when its block is finished."""
        data = connect_data(self._config)
        rows = [
            {"number": number, "prompt": json.dumps([dict(turn) for turn in prompt]), "response": response}
            for number, (prompt, response) in enumerate(zip(prompts, responses, strict=True))
        ]
        scored = _mapped(data, rows, ("prompt", "response"), _ScoreWorker, self._make_scorer, self._config, SCORE_BATCH)
        for row in scored.iter_rows():
            yield int(row["number"]), float(row["nats"]), int(row["tokens"])


class _ScoreWorker:
    """A worker of the scorer's pool."""

    def __init__(self, make_model: Callable[[], Any]) -> None:
        self._scorer = make_model()

    def __call__(self, batch: Mapping[str, Any]) -> dict[str, Any]:
        prompts = [json.loads(prompt) for prompt in batch["prompt"]]
        scores = sorted(self._scorer.logprobs(prompts, list(batch["response"])))
        numbers = batch["number"]
        return {
            "number": np.array([numbers[at] for at, _, _ in scores], np.int64),
            "nats": np.array([nats for _, nats, _ in scores], np.float64),
            "tokens": np.array([tokens for _, _, tokens in scores], np.int64),
        }


class RayEmbedder:
    """An `Embedder` that embeds many texts on the cluster and a few on the driver."""

    at_once = 50_000
    """Texts that are stored together; if the driver is killed, the current ones are embedded again."""

    def __init__(
        self, local: Embedder, make_embedder: Callable[[], Embedder], config: EngineConfig, progress: Progress,
        before_start: Callable[[], None] = lambda: None,
    ) -> None:  # fmt: skip
        """Keep the settings.

        Args:
            local: The embedder on this machine, for up to `FEW` texts.
            make_embedder: Creates the same embedder on any machine.
            config: The `[engine]` table.
            progress: Receives the progress of many texts.
            before_start: Called before workers are started, to free the cluster's cores.
        """
        self.identity, self.is_costly = local.identity, local.is_costly
        self._local, self._make_embedder, self._config, self._progress = local, make_embedder, config, progress
        self._before_start = before_start

    def embed(self, texts: Sequence[str]) -> NDArray[np.float32]:
        """Return `(texts, dims)` float32 with rows of length 1."""
        if len(texts) <= FEW:
            return self._local.embed(texts)
        self._before_start()
        data = connect_data(self._config)
        rows = [{"number": number, "text": text} for number, text in enumerate(texts)]
        embedded = _mapped(data, rows, ("text",), _EmbedWorker, self._make_embedder, self._config, EMBED_BATCH)
        vectors: NDArray[np.float32] | None = None
        self._progress.begin("embedding", len(texts))
        for batch in embedded.iter_batches(batch_size=None, batch_format="numpy"):
            part = np.stack(batch["vector"]).astype(np.float32)
            if vectors is None:
                vectors = np.empty((len(texts), part.shape[1]), np.float32)
            vectors[batch["number"]] = part
            self._progress.advance(len(part))
        self._progress.end()
        assert vectors is not None
        return vectors


class _EmbedWorker:
    """A worker of the embedder's pool."""

    def __init__(self, make_model: Callable[[], Embedder]) -> None:
        self._embedder = make_model()

    def __call__(self, batch: Mapping[str, Any]) -> dict[str, Any]:
        return {"number": batch["number"], "vector": self._embedder.embed([str(text) for text in batch["text"]])}


def _mapped(
    data: Any, rows: list[dict[str, Any]], texts: Sequence[str], worker: type, make_model: Callable[[], Any],
    config: EngineConfig, batch: int,
) -> Any:  # fmt: skip
    """Map rows in a pool of workers, each of which creates its own model with `make_model`.

    The pool has more workers while more rows wait.
    """
    # The longest first, texts of similar length together, as on one machine.
    rows = sorted(rows, key=lambda row: -sum(len(row[name]) for name in texts))
    blocks = max(1, min(BLOCKS, len(rows) // batch))
    most = min(config.max_actors, blocks)
    pool = data.ActorPoolStrategy(min_size=min(config.min_actors, most), max_size=most)
    return data.from_items(rows, override_num_blocks=blocks).map_batches(
        worker,
        batch_size=batch,
        fn_constructor_kwargs={"make_model": make_model},
        compute=pool,
        **placement(config, gpus=1),
    )


Part = dict[str, Any]
"""Identifies a part of the rows; the worker reads the rows itself."""


def map_parts(
    config: EngineConfig, parts: Sequence[Part], work: Callable[[Part], pl.DataFrame]
) -> Iterator[pl.DataFrame]:
    """Call `work` on each part in the cluster; yield its results in any order. Results must be small."""
    results = _map_each(config, parts, work)
    for batch in results.iter_batches(batch_size=None, batch_format="pyarrow"):
        yield _polars(batch)


def map_groups(
    config: EngineConfig, parts: Sequence[Part], emit: Callable[[Part], pl.DataFrame],
    gather: Callable[[pl.DataFrame], pl.DataFrame], groups: int,
) -> Iterator[pl.DataFrame]:  # fmt: skip
    """Emit rows from each part, collect the rows of each `group` on one machine, and call `gather` on them.

    Args:
        config: The `[engine]` table.
        parts: The parts.
        emit: Returns the rows of a part, with a column `group`, in [0, groups).
        gather: Gets all rows of one group, in any order; its result must be small.
        groups: Largest number of groups; each must fit into a worker's memory.

    Yields:
        The results of `gather`, in any order.
    """

    def work(batch: Any) -> Any:
        return _arrow(gather(_polars(batch)))

    shuffled = _map_each(config, parts, emit).groupby("group", num_partitions=groups)
    results = shuffled.map_groups(work, batch_format="pyarrow")
    for batch in results.iter_batches(batch_size=None, batch_format="pyarrow"):
        yield _polars(batch)


def broadcast(config: EngineConfig, value: Any) -> Callable[[], Any]:
    """Store a value in the cluster, copied to each machine at most once; return a function that gets it."""
    connect_data(config)
    import ray

    return _Broadcast(ray.put(value))


def _map_each(config: EngineConfig, parts: Sequence[Part], work: Callable[[Part], pl.DataFrame]) -> Any:
    data = connect_data(config)
    rows = data.from_items([{"part": json.dumps(part)} for part in parts], override_num_blocks=len(parts))
    return rows.map_batches(_PartWorker(work), batch_size=1, batch_format="pyarrow")


class _PartWorker:
    def __init__(self, work: Callable[[Part], pl.DataFrame]) -> None:
        self._work = work

    def __call__(self, batch: Any) -> Any:
        return _arrow(self._work(json.loads(batch["part"][0].as_py())))


class _Broadcast:
    def __init__(self, ref: Any) -> None:
        self._ref = ref

    def __call__(self) -> Any:
        import ray

        return ray.get(self._ref)


def _arrow(table: pl.DataFrame) -> Any:
    return table.to_arrow(compat_level=pl.CompatLevel.oldest())


def _polars(batch: Any) -> pl.DataFrame:
    table = pl.from_arrow(batch)
    assert isinstance(table, pl.DataFrame)
    return table
