"""Does a run survive `kill -9` at any moment? Twenty random ones over a real run, then a replay of what it stored.

The same command is started again after each kill. At the end: no completion stored before a kill may have changed, no
request may have been sent after its completion was stored, no engine may live on, and a second folder that is given
nothing but the store must come to the same bytes in every stage file, dropped.parquet and curated.jsonl, sending nothing.

    python benchmarks/kills.py [--kills 20] [--config configs/cpu.toml]
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

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from kiloset.core.calls import CallStore  # noqa: E402


def command(runs: Path, name: str, config: Path) -> list[str]:
    less = ["--size", "30", "--set", "generate.candidates_per_row=1.5"]
    return [
        sys.executable,
        "-m",
        "kiloset",
        "dataset",
        "--config",
        str(config),
        "--runs",
        str(runs),
        "--run",
        name,
        *less,
    ]


def stored(folder: Path) -> dict[tuple[str, int], str]:
    if not (folder / "calls.sqlite").exists():
        return {}
    with closing(sqlite3.connect(folder / "calls.sqlite")) as db:
        try:
            return {(key, most): text for key, most, text in db.execute("SELECT key, max_tokens, text FROM calls")}
        except sqlite3.OperationalError:
            return {}


def engines(log: Path) -> int:
    """Count the engine processes that write to a log."""
    found = 0
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            ours = (
                b"kiloset.engines.vllm" in (folder / "cmdline").read_bytes() and (folder / "fd" / "2").readlink() == log
            )
            found += ours and (folder / "stat").read_text().rpartition(")")[2].split()[0] != "Z"
        except OSError:
            continue
    return found


def run_and_kill(runs: Path, name: str, config: Path, rng: random.Random, longest: float) -> tuple[bool, int, int]:
    """Run until a random moment; return whether it was killed, and completions stored and engines left by then."""
    with (runs / "log.txt").open("a") as log:
        process = subprocess.Popen(command(runs, name, config), cwd=ROOT, stdout=log, stderr=log)
    try:
        process.wait(rng.uniform(0.5, longest))
        return False, len(stored(runs / name)), 0
    except subprocess.TimeoutExpired:
        process.send_signal(signal.SIGKILL)
        process.wait()
    until = time.monotonic() + 10
    while engines(runs / name / "engine.log") and time.monotonic() < until:
        time.sleep(0.05)
    return True, len(stored(runs / name)), engines(runs / name / "engine.log")


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in [*folder.glob("*.parquet"), folder / "curated.jsonl"]}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--config", type=Path, default=ROOT / "kiloset" / "configs" / "cpu.toml")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--longest", type=float, default=60.0, help="seconds before a kill, at most")
    options = parser.parse_args()
    rng, changed, left, killed = random.Random(options.seed), 0, 0, 0
    with tempfile.TemporaryDirectory() as name:
        runs = Path(name).resolve()
        folder = runs / "killed"
        before: dict[tuple[str, int], str] = {}
        while killed < options.kills:
            was_killed, count, alive = run_and_kill(runs, "killed", options.config, rng, options.longest)
            now = stored(folder)
            changed += sum(now.get(key) != text for key, text in before.items())
            before, left, killed = now, left + alive, killed + was_killed
            stages = len(list(folder.glob("[0-9]*.parquet")))
            print(f"kill {killed}: {count} completions, {stages} stages finished, {alive} engines left", flush=True)
            if not was_killed:
                print("the run ended before it was killed")
                break
        ended = subprocess.run(command(runs, "killed", options.config), cwd=ROOT, capture_output=True, text=True)
        changed += sum(stored(folder).get(key) != text for key, text in before.items())
        with closing(CallStore.read_only(folder / "calls.sqlite")) as store:
            resent, account = store.resent_after_completion(), store.account()
        (runs / "replayed").mkdir()
        with (
            closing(sqlite3.connect(folder / "calls.sqlite")) as db,
            closing(sqlite3.connect(runs / "replayed" / "calls.sqlite")) as copy,
        ):
            db.backup(copy)
        subprocess.run(command(runs, "replayed", options.config), cwd=ROOT, capture_output=True, check=False)
        same = contents(folder) == contents(runs / "replayed")
        with closing(CallStore.read_only(runs / "replayed" / "calls.sqlite")) as store:
            sent_again = sum(a["sent"] for a in store.account().values()) - sum(a["sent"] for a in account.values())
        print(ended.stdout[-800:])
    print(f"figure kills {killed} kills")
    print(f"figure exit_status_at_the_end {ended.returncode} status")
    print(f"figure completions_changed {changed} completions")
    print(f"figure requests_sent_after_completion {resent} requests")
    print(f"figure engines_left {left} processes")
    print(f"figure requests_sent {sum(a['sent'] for a in account.values())} requests")
    print(f"figure completions {sum(a['completed'] for a in account.values())} completions")
    print(f"figure replay_sent {sent_again} requests")
    print(f"figure replay_has_the_same_bytes {int(same)} of 1")
    raise SystemExit(0 if same and not (changed or resent or left or sent_again) else 1)


if __name__ == "__main__":
    main()
