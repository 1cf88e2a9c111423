"""What comes to a Ray cluster as a whole: scores and embeddings of many texts, through actor pools of Ray Data.

Each worker holds the very scorer or embedder that one machine uses. Rows are numbered, so that the order in which blocks
come back does not matter.
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

SCORED = 32
"""Responses that an actor takes at a time."""
EMBEDDED = 256
"""Texts that an actor takes at a time."""
FEW = 2_000
"""Texts that are embedded here: a model's start on a worker takes longer."""
BLOCKS = 200
"""Blocks at most into which rows are parted."""


def prepared(config: EngineConfig) -> Any:
    """Join the cluster, and return `ray.data`, quiet.

    Raises:
        ModelError: No cluster.
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
    """A `Scorer` of which each actor of a pool has one."""

    def __init__(self, identity: str, make: Callable[[], Any], config: EngineConfig) -> None:
        """Name the model.

        Args:
            identity: Name, revision and longest text, part of every score's key.
            make: Makes, on whatever machine it is called, a `Scorer`.
            config: The `[engine]` table.
        """
        self.identity, self._make, self._config = identity, make, config

    def logprobs(
        self, prompts: Sequence[Sequence[Message]], responses: Sequence[str]
    ) -> Iterator[tuple[int, float, int]]:
        """Yield `(number, sum of log-probabilities in nats, tokens)` of each response, as its block is done."""
        data = prepared(self._config)
        rows = [
            {"number": number, "prompt": json.dumps([dict(turn) for turn in prompt]), "response": response}
            for number, (prompt, response) in enumerate(zip(prompts, responses, strict=True))
        ]
        scored = _mapped(data, rows, ("prompt", "response"), _Scoring, self._make, self._config, SCORED)
        for row in scored.iter_rows():
            yield int(row["number"]), float(row["nats"]), int(row["tokens"])


class _Scoring:
    """A worker of the scorer's pool."""

    def __init__(self, make: Callable[[], Any]) -> None:
        self._scorer = make()

    def __call__(self, batch: Mapping[str, Any]) -> dict[str, Any]:
        prompts = [json.loads(prompt) for prompt in batch["prompt"]]
        found = sorted(self._scorer.logprobs(prompts, list(batch["response"])))
        numbers = batch["number"]
        return {
            "number": np.array([numbers[at] for at, _, _ in found], np.int64),
            "nats": np.array([nats for _, nats, _ in found], np.float64),
            "tokens": np.array([tokens for _, _, tokens in found], np.int64),
        }


class RayEmbedder:
    """An `Embedder` that embeds many texts on the cluster, and few here."""

    at_once = 50_000
    """Texts that are stored together, of which nothing is kept if the driver is killed meanwhile."""

    def __init__(
        self, local: Embedder, make: Callable[[], Embedder], config: EngineConfig, progress: Progress,
        make_room: Callable[[], None] = lambda: None,
    ) -> None:  # fmt: skip
        """Name the model as the one here.

        Args:
            local: Embeds up to `FEW` texts.
            make: Makes, on whatever machine it is called, the same embedder.
            config: The `[engine]` table.
            progress: Told of many texts.
            make_room: Called before workers are started, to end what holds the cluster's cores.
        """
        self.identity, self.is_costly = local.identity, local.is_costly
        self._local, self._make, self._config, self._progress = local, make, config, progress
        self._make_room = make_room

    def embed(self, texts: Sequence[str]) -> NDArray[np.float32]:
        """Return `(texts, dims)` float32 with rows of length 1."""
        if len(texts) <= FEW:
            return self._local.embed(texts)
        self._make_room()
        data = prepared(self._config)
        rows = [{"number": number, "text": text} for number, text in enumerate(texts)]
        embedded = _mapped(data, rows, ("text",), _Embedding, self._make, self._config, EMBEDDED)
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


class _Embedding:
    """A worker of the embedder's pool."""

    def __init__(self, make: Callable[[], Embedder]) -> None:
        self._embedder = make()

    def __call__(self, batch: Mapping[str, Any]) -> dict[str, Any]:
        return {"number": batch["number"], "vector": self._embedder.embed([str(text) for text in batch["text"]])}


def _mapped(
    data: Any, rows: list[dict[str, Any]], texts: Sequence[str], worker: type, make: Callable[[], Any], config: EngineConfig,
    batch: int,
) -> Any:  # fmt: skip
    """Send rows through a pool of workers, each with what `make` makes; it grows with the work and shrinks at its end."""
    # The longest first, and alike together, as one machine does it.
    rows = sorted(rows, key=lambda row: -sum(len(row[name]) for name in texts))
    blocks = max(1, min(BLOCKS, len(rows) // batch))
    most = min(config.max_actors, blocks)
    pool = data.ActorPoolStrategy(min_size=min(config.min_actors, most), max_size=most)
    return data.from_items(rows, override_num_blocks=blocks).map_batches(
        worker, batch_size=batch, fn_constructor_kwargs={"make": make}, compute=pool, **placement(config, gpus=1)
    )


Part = dict[str, Any]
"""Names a part of the rows, as small as an address; what works on it reads them itself."""


def worked(config: EngineConfig, parts: Sequence[Part], work: Callable[[Part], pl.DataFrame]) -> Iterator[pl.DataFrame]:
    """Call `work` on each part somewhere in the cluster; yield what it returns as it comes, which must be little."""
    found = _emitted(config, parts, work)
    for batch in found.iter_batches(batch_size=None, batch_format="pyarrow"):
        yield _polars(batch)


def grouped(
    config: EngineConfig, parts: Sequence[Part], emit: Callable[[Part], pl.DataFrame],
    gather: Callable[[pl.DataFrame], pl.DataFrame], groups: int,
) -> Iterator[pl.DataFrame]:  # fmt: skip
    """Bring rows of one `group`, wherever they were emitted, together on one machine, and work on them there.

    Args:
        config: The `[engine]` table.
        parts: What is worked on.
        emit: Returns the rows of a part, with a column `group`, in [0, groups).
        gather: Gets all rows of one group, in any order; what it returns must be little.
        groups: How many there are at most; each must fit a worker's memory.

    Yields:
        What `gather` returned, as it comes.
    """

    def work(batch: Any) -> Any:
        return _arrow(gather(_polars(batch)))

    shuffled = _emitted(config, parts, emit).groupby("group", num_partitions=groups)
    found = shuffled.map_groups(work, batch_format="pyarrow")
    for batch in found.iter_batches(batch_size=None, batch_format="pyarrow"):
        yield _polars(batch)


def shared(config: EngineConfig, value: Any) -> Callable[[], Any]:
    """Put a value where every machine can get it, once each; return what gets it."""
    prepared(config)
    import ray

    return _Shared(ray.put(value))


def _emitted(config: EngineConfig, parts: Sequence[Part], work: Callable[[Part], pl.DataFrame]) -> Any:
    data = prepared(config)
    rows = data.from_items([{"part": json.dumps(part)} for part in parts], override_num_blocks=len(parts))
    return rows.map_batches(_Emitted(work), batch_size=1, batch_format="pyarrow")


class _Emitted:
    def __init__(self, work: Callable[[Part], pl.DataFrame]) -> None:
        self._work = work

    def __call__(self, batch: Any) -> Any:
        return _arrow(self._work(json.loads(batch["part"][0].as_py())))


class _Shared:
    def __init__(self, ref: Any) -> None:
        self._ref = ref

    def __call__(self) -> Any:
        import ray

        return ray.get(self._ref)


def _arrow(table: pl.DataFrame) -> Any:
    return table.to_arrow(compat_level=pl.CompatLevel.oldest())


def _polars(batch: Any) -> pl.DataFrame:
    found = pl.from_arrow(batch)
    assert isinstance(found, pl.DataFrame)
    return found
