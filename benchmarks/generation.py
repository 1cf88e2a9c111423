"""Compare the whole generate stage with one bare `LLM.generate` of the same requests: is the engine kept busy?

Our stage plans waves, checks novelty, judges rows and commits every completion, and it does not know the later prompts before the
earlier completions have arrived. The bare call gets all requests at once. Each side runs in a fresh process, in turn, so neither
uses the other's cached prompts.

    python benchmarks/generation.py [--size 80] [--rounds 2] [--config kiloset/configs/cpu.toml]
"""

import argparse
import json
import os
import sqlite3
import tempfile
import time
from contextlib import closing
from dataclasses import asdict
from pathlib import Path

from harness import CONFIGS, ROOT, figure, ratio, run_child

from kiloset.core.calls import CallStore
from kiloset.core.config import parse_overrides
from kiloset.core.models import Request, seed_of
from kiloset.core.progress import Silent
from kiloset.engines.embedded import model_path
from kiloset.engines.vllm import cores, cpu_environment, has_cuda
from kiloset.inputs import read_inputs
from kiloset.models import RunModels
from kiloset.recipe import add_generated
from kiloset.runner import context_of
from kiloset.settings import RunConfig, load_config


def run_stage(config: RunConfig, folder: Path) -> tuple[float, int]:
    """Run the generate stage; return seconds and written tokens."""
    inputs = read_inputs(config)
    store = CallStore(folder / "calls.sqlite")
    with closing(RunModels(config, 0, folder / "engine.log", Silent())) as models:
        context, table = context_of(config, inputs, models, store, Silent())
        models.generator.submit([("0" * 64, Request("Warm up.", "warm", 4, 1.0, 1.0, raw=True))])
        models.generator.receive()
        started = time.monotonic()
        add_generated(table, context)
        seconds = time.monotonic() - started
    tokens = sum(spent["completion_tokens"] for spent in store.account().values())
    store.close()
    return seconds, tokens


def run_bare(config: RunConfig, folder: Path) -> tuple[float, int, float]:
    """Send the stored requests again in one call; return seconds, written tokens, and the share of equal texts."""
    path = model_path(config.models.generator.name, "models.generator")
    with sqlite3.connect(folder / "calls.sqlite") as db:
        rows = db.execute(
            "SELECT key, prompt, params, max_tokens, text FROM calls JOIN (SELECT key AS k, MIN(rowid) AS r FROM sends GROUP BY key) "
            "ON k = key ORDER BY r"
        ).fetchall()
    calls = [
        {"prompt": prompt, "max_tokens": limit, "seed": seed_of(key), **json.loads(params)}
        for key, prompt, params, limit, _ in rows
    ]
    work = {"options": {"path": path, **asdict(config.engine)}, "calls": calls}
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "VLLM_NO_USAGE_STATS": "1", "VLLM_LOGGING_LEVEL": "WARNING"}
    if not has_cuda():
        environment |= cpu_environment(cores())
    peer = run_child(["-P", ROOT / "benchmarks" / "bare_generate.py"], env=environment, stdin=json.dumps(work))
    equal = sum(text == row[4] for text, row in zip(peer["texts"], rows, strict=True)) / len(rows)
    return peer["seconds"], peer["tokens"], equal


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--size", type=int, default=80)
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--config", type=Path, default=CONFIGS / ("gpu.toml" if has_cuda() else "cpu.toml"))
    parser.add_argument("--set", action="append", default=[], metavar="TABLE.KEY=VALUE")
    options = parser.parse_args()
    config = load_config(options.config, {"run.size": options.size, **parse_overrides(options.set)})
    ratios = []
    for number in range(options.rounds):
        with tempfile.TemporaryDirectory() as name:
            seconds, tokens = run_stage(config, Path(name))
            bare_seconds, bare_tokens, equal = run_bare(config, Path(name))
        ratios.append((tokens / seconds) / (bare_tokens / bare_seconds))
        print(
            f"round {number + 1}: ours {tokens} tokens in {seconds:.1f} s ({tokens / seconds:.1f}/s), bare {bare_tokens} in "
            f"{bare_seconds:.1f} s ({bare_tokens / bare_seconds:.1f}/s), ratio {ratios[-1]:.3f}, equal texts {equal:.1%}",
            flush=True,
        )
    figure("generate_tokens_per_second", f"{tokens / seconds:.1f}", "tokens/s")
    figure("equal_texts", f"{equal:.3f}", "fraction")
    ratio("vllm", sum(ratios) / len(ratios), 3)


if __name__ == "__main__":
    main()
