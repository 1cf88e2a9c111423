"""Kill a real run with `kill -9` at random moments, resume it each time, and replay its stored completions.

At the end no completion that was stored before a kill may have changed, no request may have been sent after its completion was
stored, no engine process may be left, and a second folder that gets only the call store must produce the same bytes in every
stage file, dropped.parquet and curated.jsonl without sending a request.

    python benchmarks/kills.py [--kills 20] [--config kiloset/configs/cpu.toml]
"""

import argparse
import random
import signal
import sqlite3
import subprocess
import sys
import tempfile
import time
from contextlib import closing
from pathlib import Path

from harness import CONFIGS, ROOT, figure

from kiloset.core.calls import CallStore


def command(runs: Path, name: str, config: Path) -> list[str]:
    options = f"--config {config} --runs {runs} --run {name} --size 30 --set generate.candidates_per_row=1.5"
    return [sys.executable, "-m", "kiloset", "dataset", *options.split()]


def stored_texts(folder: Path) -> dict[tuple[str, int], str]:
    if not (folder / "calls.sqlite").exists():
        return {}
    with closing(sqlite3.connect(folder / "calls.sqlite")) as db:
        try:
            return {(key, limit): text for key, limit, text in db.execute("SELECT key, max_tokens, text FROM calls")}
        except sqlite3.OperationalError:
            return {}


def count_engines(log: Path) -> int:
    """Count the engine processes that write to a log."""
    count = 0
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            is_engine = b"kiloset.engines.vllm" in (folder / "cmdline").read_bytes()
            is_zombie = (folder / "stat").read_text().rpartition(")")[2].split()[0] == "Z"
            count += is_engine and (folder / "fd" / "2").readlink() == log and not is_zombie
        except OSError:
            continue
    return count


def run_and_kill(runs: Path, name: str, config: Path, rng: random.Random, longest: float) -> tuple[bool, int]:
    """Run until a random moment; return whether the run was killed, and the number of engines left 10 s later."""
    with (runs / "log.txt").open("a") as log:
        process = subprocess.Popen(command(runs, name, config), cwd=ROOT, stdout=log, stderr=log)
    try:
        process.wait(rng.uniform(0.5, longest))
        return False, 0
    except subprocess.TimeoutExpired:
        process.send_signal(signal.SIGKILL)
        process.wait()
    until = time.monotonic() + 10
    while count_engines(runs / name / "engine.log") and time.monotonic() < until:
        time.sleep(0.05)
    return True, count_engines(runs / name / "engine.log")


def replay(runs: Path, folder: Path, config: Path) -> Path:
    """Run again in a new folder that has nothing but the call store; return the folder."""
    copy = runs / "replayed"
    copy.mkdir()
    with (
        closing(sqlite3.connect(folder / "calls.sqlite")) as source,
        closing(sqlite3.connect(copy / "calls.sqlite")) as target,
    ):
        source.backup(target)
    subprocess.run(command(runs, "replayed", config), cwd=ROOT, capture_output=True, check=False)
    return copy


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in [*folder.glob("*.parquet"), folder / "curated.jsonl"]}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--config", type=Path, default=CONFIGS / "cpu.toml")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--longest", type=float, default=60.0, help="longest time before a kill, in seconds")
    options = parser.parse_args()
    rng, changed, engines, killed = random.Random(options.seed), 0, 0, 0
    with tempfile.TemporaryDirectory() as name:
        runs = Path(name).resolve()
        folder = runs / "killed"
        before: dict[tuple[str, int], str] = {}
        while killed < options.kills:
            was_killed, alive = run_and_kill(runs, "killed", options.config, rng, options.longest)
            now = stored_texts(folder)
            changed += sum(now.get(key) != text for key, text in before.items())
            before, engines, killed = now, engines + alive, killed + was_killed
            stages = len(list(folder.glob("[0-9]*.parquet")))
            print(f"kill {killed}: {len(now)} completions, {stages} stages finished, {alive} engines left", flush=True)
            if not was_killed:
                print("the run ended before it was killed")
                break
        last = subprocess.run(command(runs, "killed", options.config), cwd=ROOT, capture_output=True, text=True)
        after = stored_texts(folder)
        changed += sum(after.get(key) != text for key, text in before.items())
        with closing(CallStore.read_only(folder / "calls.sqlite")) as store:
            resent, account = store.resent_after_completion(), store.account()
        copy = replay(runs, folder, options.config)
        same = contents(folder) == contents(copy)
        with closing(CallStore.read_only(copy / "calls.sqlite")) as store:
            sent_again = sum(a["sent"] for a in store.account().values()) - sum(a["sent"] for a in account.values())
        print(last.stdout[-800:])
    figure("kills", killed, "kills")
    figure("exit_status_at_the_end", last.returncode, "status")
    figure("completions_changed", changed, "completions")
    figure("requests_sent_after_completion", resent, "requests")
    figure("engines_left", engines, "processes")
    figure("requests_sent", sum(a["sent"] for a in account.values()), "requests")
    figure("completions", sum(a["completed"] for a in account.values()), "completions")
    figure("replay_sent", sent_again, "requests")
    figure("replay_has_the_same_bytes", int(same), "of 1")
    raise SystemExit(0 if same and not (changed or resent or engines or sent_again) else 1)


if __name__ == "__main__":
    main()
