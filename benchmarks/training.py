"""Compare LoRA training with TRL's SFTTrainer: speed, memory, and whether both learn the same.

Three sides run in turn, each in a process of its own: ours; TRL at its defaults; TRL at the best of the settings that it offers on a
CPU (`SETTINGS`: each is tried for a few steps first, and the fastest takes part in the rounds).

    python benchmarks/training.py [--data rows.jsonl] [--rows 64] [--steps N] [--rounds 3]
    python benchmarks/training.py --curves

All sides share the rows (a quarter as many are held out), the adapter (rank, alpha, dropout, every linear layer), 16 rows per step,
the number of steps, AdamW with its rate, cosine and warm-up, no weight decay, clipping at 1.0, the loss on completions only averaged
over the tokens of a step, and the precision. The precision is float32 on a CPU, so TRL's default bf16=True is off there, and bfloat16
weights under a float32 adapter on CUDA, where TRL's bf16=True stays on. "TRL's defaults" are the other defaults of SFTConfig: 8 rows at
once, gradient checkpointing, rows in random order.

Tokens are those of prompts and responses without padding, over the wall time of all steps but the first, which includes fetching
batches and logging. Loading, tokenizing, validation and the first step are not timed. TRL also trains the line break that the chat
template puts after the end token, one token per row, and is credited for it. Memory is the largest resident set of the process (on
CUDA, the allocated memory) until training ends. The held-out loss is that of the saved adapter, loaded by PEFT, row by row with full
logits, in nats per response token, the end token included.

transformers sorts by length among the rows of `rows / 64` steps, at most 50. With few rows its `group_by_length` groups little; pass
many rows and few steps (--rows 1600 --steps 8) to see it at its best.

--curves trains without dropout on our steps in our order and with the same initial adapter. TRL (padded and padding-free) must then
give our losses step by step; a difference of 1e-3 nats or more ends with exit status 1.

The data are JSON lines with instruction, input and output; by default the bundled seeds.
"""

import argparse
import json
import math
import os
import random
import signal
import statistics
import sys
import tempfile
import time
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from harness import SEEDS, figure, peak_mib, ratio, run_child

from kiloset.core.loading import load_model, load_tokenizer
from kiloset.core.models import tokenize_example
from kiloset.core.progress import Silent
from kiloset.core.run import RunFolder
from kiloset.core.table import full_instruction
from kiloset.data.examples import load_seeds
from kiloset.engines.embedded import model_path
from kiloset.train.data import TokenizedRow, planned
from kiloset.train.loop import CLIP
from kiloset.train.lora import train_run
from kiloset.train.settings import TrainConfig

ROWS_A_STEP = 16
TRIED_STEPS = 3
CLOSE = 1e-3  # nats
KEEP_FREED_MEMORY = {"MALLOC_MMAP_THRESHOLD_": str(2**30), "MALLOC_TRIM_THRESHOLD_": str(2**31 - 1)}
"""glibc settings that our trainer applies; also applied to TRL, except at its defaults, so that TRL does not lose by them."""
GROUPED = {"gradient_checkpointing": False, "train_sampling_strategy": "group_by_length"}
FREE = {"gradient_checkpointing": False, "padding_free": True, "max_length": None}  # no row is longer than max_length
SETTINGS: dict[str, dict[str, Any]] = {
    "defaults": {},
    "no-checkpointing": {"gradient_checkpointing": False},
    "grouped-8": GROUPED,
    "grouped-4": {**GROUPED, "per_device_train_batch_size": 4},
    "grouped-2": {**GROUPED, "per_device_train_batch_size": 2},
    "one-by-one": {"gradient_checkpointing": False, "per_device_train_batch_size": 1},  # no padding either
    # The mask of such a row is as large as its length squared, so more rows at once are not always faster.
    "padding-free-8": FREE,
    "padding-free-4": {**FREE, "per_device_train_batch_size": 4},
    "padding-free-2": {**FREE, "per_device_train_batch_size": 2},
}
"""Arguments of SFTConfig beyond the shared ones.

Left out: packing puts a varying number of rows into a batch, so that steps would average over different numbers of rows;
selective checkpointing and activation offloading save memory, not time; Liger and hub kernels need a GPU; the loss is
computed in chunks and for labelled positions alone by default; torch_compile compiles again for new lengths.
"""


def rows_of(data: Path, rows: int, longest: int) -> tuple[list[tuple[str, str]], list[tuple[str, str]]]:
    """Return `(prompt, response)` pairs of at most `longest` tokens: training rows and held-out rows.

    The rows are drawn from the whole file: in a file sorted by category, like the seeds, the held-out rows would have other categories.
    """
    held_out = max(1, rows // 4)
    table = load_seeds(str(data), license="unknown", table="data")
    tokenizer = load_tokenizer(base())
    pairs = list(zip(full_instruction(table), table["response"].to_list(), strict=True))
    random.Random(0).shuffle(pairs)
    fit = [pair for pair in pairs if tokenized(tokenizer, *pair).tokens <= longest]
    if len(fit) < rows + held_out:
        raise SystemExit(f"{data}: {len(fit)} rows of at most {longest} tokens, {rows + held_out} needed; lower --rows")
    return fit[:rows], fit[rows : rows + held_out]


def base() -> Path:
    return Path(model_path("embedded:smollm2-135m-instruct", "models.base"))


def tokenized(tokenizer: Any, prompt: str, response: str) -> TokenizedRow:
    return TokenizedRow(*tokenize_example(tokenizer, [{"role": "user", "content": prompt}], response))


def config_of(rows: int, steps: int, dropout: float) -> TrainConfig:
    return TrainConfig(batch_size=ROWS_A_STEP, epochs=-(-steps * ROWS_A_STEP // rows), max_steps=steps, dropout=dropout)


def steps_of(rows: list[tuple[str, str]], config: TrainConfig) -> list[list[TokenizedRow]]:
    """Return the rows of each of our steps."""
    import torch

    tokenizer = load_tokenizer(base())
    examples = [tokenized(tokenizer, *pair) for pair in rows]
    plan = planned(examples, config.batch_size, config.epochs, torch.Generator().manual_seed(config.seed))
    return [examples for _, examples in plan[: config.max_steps]]


class Clock(Silent):
    """A progress that records the time at which each step ends."""

    ends: list[float] = []  # noqa: RUF012 one clock per process

    def advance(self, amount: int = 1, note: str = "") -> None:  # noqa: ARG002
        """Record the time. The trainer also advances by the steps of a checkpoint; here there are none."""
        if amount:
            self.ends.append(time.perf_counter())


def ours(folder: Path, rows: list[tuple[str, str]], config: TrainConfig) -> dict[str, Any]:
    run, clock = RunFolder(folder), Clock()
    turns = ([{"role": "user", "content": p}, {"role": "assistant", "content": r}] for p, r in rows)
    lines = [json.dumps({"id": f"r{n}", "messages": m, "split": "train"}) for n, m in enumerate(turns)]
    run.curated.write_text("\n".join(lines), encoding="utf-8")
    train_run(run, config, base(), clock)
    entries = map(json.loads, (run.adapter / "metrics.jsonl").read_text(encoding="utf-8").splitlines())
    tokens = sum(example.tokens for step in steps_of(rows, config)[1:] for example in step)
    return {
        "losses": [entry["loss"] for entry in entries if "loss" in entry],
        "tokens": tokens,
        "seconds": clock.ends[-1] - clock.ends[0],
    }


def trl(folder: Path, dataset: dict[str, list[Any]], config: TrainConfig, settings: dict[str, Any]) -> dict[str, Any]:
    import torch
    from datasets import Dataset
    from peft import LoraConfig
    from transformers import TrainerCallback
    from trl import SFTConfig, SFTTrainer

    ends: list[float] = []

    class Ends(TrainerCallback):
        def on_step_end(self, *_: Any, **__: Any) -> None:
            ends.append(time.perf_counter())

    steps, chosen = config.max_steps, {"per_device_train_batch_size": 8, **settings}
    arguments = SFTConfig(
        str(folder / "trl"),
        **chosen,
        gradient_accumulation_steps=ROWS_A_STEP // chosen["per_device_train_batch_size"],
        max_steps=steps,
        learning_rate=config.learning_rate,
        lr_scheduler_type="cosine",
        warmup_steps=int(config.warmup * steps),
        weight_decay=config.weight_decay,
        max_grad_norm=CLIP,
        bf16=torch.cuda.is_available(),
        seed=config.seed,
        logging_steps=1,  # for the tokens of each step; TRL gathers its metrics in every step anyway
        save_strategy="no",
        report_to=[],
        disable_tqdm=True,
    )
    adapter = LoraConfig(
        r=config.rank,
        lora_alpha=config.alpha,
        lora_dropout=config.dropout,
        target_modules="all-linear",
        task_type="CAUSAL_LM",
    )
    trainer = SFTTrainer(
        load_model(base()),
        arguments,
        train_dataset=Dataset.from_dict(dataset),
        processing_class=load_tokenizer(base()),
        peft_config=adapter,
        callbacks=[Ends()],
    )
    trainer.train()
    logged = [entry for entry in trainer.state.log_history if "loss" in entry]
    tokens = logged[-1]["num_tokens"] - logged[0]["num_tokens"]
    result = {"losses": [entry["loss"] for entry in logged], "tokens": tokens, "seconds": ends[-1] - ends[0]}
    trainer.save_model(str(folder / "adapter"))
    return result


def turns_of(rows: list[tuple[str, str]]) -> dict[str, list[Any]]:
    """Return rows as TRL's conversational prompts and completions."""
    return {
        "prompt": [[{"role": "user", "content": prompt}] for prompt, _ in rows],
        "completion": [[{"role": "assistant", "content": response}] for _, response in rows],
    }


def held_out_loss(adapter: Path, rows: list[tuple[str, str]]) -> float:
    """Return the loss of a saved adapter in nats per response token, computed without code of the trainer."""
    import torch
    from peft import PeftModel

    tokenizer, model = load_tokenizer(base()), PeftModel.from_pretrained(load_model(base()), adapter).eval()
    total, counted = 0.0, 0
    for pair in rows:
        example = tokenized(tokenizer, *pair)
        ids = torch.tensor([[*example.prompt, *example.response]], device=model.device)
        with torch.no_grad():
            logits = model(input_ids=ids).logits[0, len(example.prompt) - 1 : -1].float()
        total += torch.nn.functional.cross_entropy(logits, ids[0, len(example.prompt) :], reduction="sum").item()
        counted += len(example.response)
    return total / counted


def peak() -> float:
    """Return the peak memory of training in MiB: allocated on CUDA, resident otherwise."""
    import torch

    return torch.cuda.max_memory_allocated() / 2**20 if torch.cuda.is_available() else peak_mib()


def as_planned(steps: list[list[TokenizedRow]]) -> dict[str, list[Any]]:
    """Return the rows of all steps, in order, in the tokenized form that TRL accepts."""
    rows = [example for step in steps for example in step]
    return {
        "input_ids": [[*row.prompt, *row.response] for row in rows],
        "labels": [[-100] * len(row.prompt) + list(row.response) for row in rows],
    }


def child(options: argparse.Namespace) -> dict[str, Any]:
    config = config_of(options.rows, options.steps, 0.0 if options.curves else TrainConfig().dropout)
    training, held_out = rows_of(options.data, options.rows, config.max_length)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        if options.side == "ours":
            result = ours(folder, training, config)
        elif options.curves:
            settings = {**SETTINGS[options.side], "train_sampling_strategy": "sequential"}
            result = trl(folder, as_planned(steps_of(training, config)), config, settings)
        else:
            result = trl(folder, turns_of(training), config, SETTINGS[options.side])
        result["peak"] = peak()
        result["held_out"] = held_out_loss(folder / "adapter", held_out)
    return result


def run(side: str, options: argparse.Namespace, steps: int) -> dict[str, Any]:
    command = [__file__, "--side", side, "--data", options.data, "--rows", options.rows, "--steps", steps]
    malloc = {} if side == "defaults" else KEEP_FREED_MEMORY
    result = run_child([*command, *(["--curves"] if options.curves else [])], env={**os.environ, **malloc})
    result["rate"] = result["tokens"] / result["seconds"]
    return result


def summary(result: dict[str, Any]) -> str:
    return f"{result['rate']:.1f} tokens/s, {result['peak']:.0f} MiB, held-out loss {result['held_out']:.4f}"


def compare_speed(options: argparse.Namespace) -> None:
    tried = {}
    for name in SETTINGS:
        if name != "defaults":
            try:
                tried[name] = run(name, options, min(TRIED_STEPS, options.steps))
            except SystemExit as error:  # a setting that needs too much memory does not end the benchmark
                print(f"trl {name}: FAILED, left out: {error}", flush=True)
            else:
                print(f"trl {name}: {summary(tried[name])}", flush=True)
    if not tried:
        raise SystemExit("none of TRL's settings could be run, so there is nothing to compare with")
    best = max(tried, key=lambda name: tried[name]["rate"])
    print(f"best setting of TRL: {best}")
    sides = {"ours": "ours", "trl": "defaults", "trl-best": best}
    rounds: list[dict[str, dict[str, Any]]] = []
    for number in range(options.rounds):
        rounds.append({})
        for name, side in sides.items():
            rounds[-1][name] = run(side, options, options.steps)
            print(f"round {number + 1}: {name}: {summary(rounds[-1][name])}", flush=True)
    for name in sides:
        slug = name.replace("-", "_")
        rate, held_out = (statistics.median(r[name][key] for r in rounds) for key in ("rate", "held_out"))
        figure(f"{slug}_tokens_per_second", f"{rate:.1f}", "tokens/s")
        figure(f"{slug}_peak_memory", f"{max(r[name]['peak'] for r in rounds):.0f}", "MiB")
        figure(f"{slug}_held_out_loss", f"{held_out:.4f}", "nats/token")
    for name in ("trl", "trl-best"):
        ratio(name, statistics.median(r["ours"]["rate"] / r[name]["rate"] for r in rounds))


def compare_curves(options: argparse.Namespace) -> None:
    if options.rows % ROWS_A_STEP:
        raise SystemExit(f"--curves needs whole steps: make --rows a multiple of {ROWS_A_STEP}")
    mine, differences = run("ours", options, options.steps), []
    for name in ("defaults", "padding-free-8"):
        theirs = run(name, options, options.steps)
        for number, (a, b) in enumerate(zip(mine["losses"], theirs["losses"], strict=True), start=1):
            print(f"step {number}: ours {a:.6f}, trl {name} {b:.6f}, difference {a - b:+.1e}")
            differences.append(abs(a - b))
        print(f"held-out loss: ours {mine['held_out']:.6f}, trl {name} {theirs['held_out']:.6f}", flush=True)
    largest = math.nan if any(map(math.isnan, differences)) else max(differences)  # max() may pass over a NaN
    figure("curves", f"{largest:.2e}", "nats")
    if not largest < CLOSE:
        raise SystemExit(1)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, default=SEEDS)
    parser.add_argument("--rows", type=int, default=64, help="rows to train on")
    parser.add_argument("--steps", type=int, help="steps of 16 rows; one pass over the rows when left out")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--curves", action="store_true", help="compare the losses of equal steps instead")
    parser.add_argument("--side", choices=("ours", *SETTINGS), help=argparse.SUPPRESS)
    options = parser.parse_args()
    options.steps = options.steps or max(2, options.rows // ROWS_A_STEP)
    if options.steps < 2:
        parser.error("--steps must be at least 2, since the first step is not timed")
    if options.side:
        print(json.dumps(child(options)))
        return
    signal.signal(signal.SIGTERM, lambda *_: sys.exit("terminated"))  # otherwise the child process keeps running
    if find_spec("trl") is None:
        raise SystemExit("TRL is missing; install it with `pip install --no-deps trl==1.16.0`")
    (compare_curves if options.curves else compare_speed)(options)


if __name__ == "__main__":
    main()
