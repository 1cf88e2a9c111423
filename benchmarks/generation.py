"""Is the engine kept busy? The whole generate stage against one bare `LLM.generate` of the very same requests.

Ours plans waves, screens, checks novelty, judges, commits every completion, and cannot know the later prompts before the
earlier completions have come; the bare call gets all of them at once. Both in fresh processes, one after the other, in
turn; so neither profits from the other's cached prompts.

    python benchmarks/generation.py [--size 80] [--rounds 2] [--config configs/cpu.toml]
"""

import argparse
import json
import os
import sqlite3
import subprocess
import sys
import tempfile
import time
from dataclasses import asdict
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from kiloset.core.calls import CallStore  # noqa: E402
from kiloset.core.models import Request, Silent, seed_of  # noqa: E402
from kiloset.engines.embedded import model_path  # noqa: E402
from kiloset.engines.vllm import cores, cpu_environment, has_cuda  # noqa: E402
from kiloset.models import open_models  # noqa: E402
from kiloset.pipeline import context_of, generate_rows, read_inputs  # noqa: E402
from kiloset.settings import RunConfig, load_config  # noqa: E402


def ours(config: RunConfig, folder: Path) -> tuple[float, int]:
    """Run the stage; return seconds and written tokens."""
    inputs = read_inputs(config)
    store = CallStore(folder / "calls.sqlite")
    with open_models(config, 0, folder / "engine.log", Silent()) as models:
        context, table = context_of(config, inputs, models, store, Silent())
        models.generator.submit([("0" * 64, Request("Warm up.", "warm", 4, 1.0, 1.0, raw=True))])
        models.generator.receive()
        started = time.monotonic()
        generate_rows(table, context)
        seconds = time.monotonic() - started
    written = sum(spent["completion_tokens"] for spent in store.account().values())
    store.close()
    return seconds, written


def bare(config: RunConfig, folder: Path) -> tuple[float, int, float]:
    """Send the stored requests again in one call; return seconds, written tokens, and the share of equal texts."""
    path = model_path(config.models.generator.name, "models.generator")
    with sqlite3.connect(folder / "calls.sqlite") as db:
        rows = db.execute(
            "SELECT key, prompt, params, max_tokens, text FROM calls JOIN (SELECT key AS k, MIN(rowid) AS r FROM sends GROUP BY key) "
            "ON k = key ORDER BY r"
        ).fetchall()
    calls = [
        {"prompt": prompt, "max_tokens": most, "seed": seed_of(key), **json.loads(params)}
        for key, prompt, params, most, _ in rows
    ]
    asked = {"options": {"path": path, **asdict(config.engine)}, "calls": calls}
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "VLLM_NO_USAGE_STATS": "1", "VLLM_LOGGING_LEVEL": "WARNING"}
    if not has_cuda():
        environment |= cpu_environment(cores())
    ran = subprocess.run(
        [sys.executable, "-P", str(ROOT / "benchmarks" / "bare_generate.py")],
        input=json.dumps(asked), capture_output=True, text=True, env=environment,
    )  # fmt: skip
    if ran.returncode:
        raise SystemExit(ran.stderr[-2000:])
    found = json.loads(ran.stdout.strip().splitlines()[-1])
    same = sum(a == row[4] for a, row in zip(found["texts"], rows, strict=True)) / len(rows)
    return found["seconds"], found["tokens"], same


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--size", type=int, default=80)
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument(
        "--config", type=Path, default=ROOT / "kiloset" / "configs" / ("gpu.toml" if has_cuda() else "cpu.toml")
    )
    parser.add_argument("--set", action="append", default=[], metavar="TABLE.KEY=VALUE")
    options = parser.parse_args()
    config = load_config(options.config, [f"run.size={options.size}", *options.set])
    ratios = []
    for number in range(options.rounds):
        with tempfile.TemporaryDirectory() as name:
            seconds, tokens = ours(config, Path(name))
            bare_seconds, bare_tokens, same = bare(config, Path(name))
        ratios.append((tokens / seconds) / (bare_tokens / bare_seconds))
        print(
            f"round {number + 1}: ours {tokens} tokens in {seconds:.1f} s ({tokens / seconds:.1f}/s), bare {bare_tokens} in "
            f"{bare_seconds:.1f} s ({bare_tokens / bare_seconds:.1f}/s), ratio {ratios[-1]:.3f}, equal texts {same:.1%}",
            flush=True,
        )
    print(f"figure generate_tokens_per_second {tokens / seconds:.1f} tokens/s")
    print(f"figure equal_texts {same:.3f} fraction")
    print(f"ratio vllm {sum(ratios) / len(ratios):.3f}")


if __name__ == "__main__":
    main()
