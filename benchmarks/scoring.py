"""Compare the speed and memory of scoring responses with padded batches of 16 and full logits.

A loop over a data loader works with such batches, and so do most scripts that measure perplexity. Each side runs in a process of
its own, in turn; loading is not timed. Tokens are those of prompts and responses without padding, the same for both sides. The
benchmark also prints the largest difference of the two sides in nats per token, and the share of the floating-point operations
that this machine performs in one large float32 matrix product.

    python benchmarks/scoring.py [--data rows.jsonl] [--rows 200] [--rounds 3]

The data are JSON lines with instruction, input and output; by default the bundled seeds.
"""

import argparse
import json
import statistics
import time
from pathlib import Path
from typing import Any

from harness import SEEDS, figure, peak_mib, ratio, run_child

from kiloset.core.loading import load_model, load_tokenizer
from kiloset.core.models import tokenize_example
from kiloset.core.table import full_instruction
from kiloset.data.examples import load_seeds
from kiloset.engines.embedded import model_path
from kiloset.engines.scorer import TransformersScorer

BATCH = 16
LONGEST = 2048
MODEL = "embedded:smollm2-135m-instruct"
SIDES = ("naive", "ours")


def read_rows(path: Path, rows: int) -> tuple[list[Any], list[str]]:
    table = load_seeds(str(path), license="unknown", table="data").head(rows)
    return [[{"role": "user", "content": turn}] for turn in full_instruction(table)], table["response"].to_list()


def naive(path: str, prompts: list[Any], responses: list[str]) -> tuple[float, list[float]]:
    import torch

    tokenizer, model = load_tokenizer(Path(path)), load_model(Path(path)).eval()
    means: list[float] = []
    started = time.perf_counter()
    examples = [tokenize_example(tokenizer, p, r) for p, r in zip(prompts, responses, strict=True)]
    with torch.inference_mode():
        for start in range(0, len(examples), BATCH):
            part = examples[start : start + BATCH]
            longest = max(len(prompt) + len(response) for prompt, response in part)
            ids = torch.zeros(len(part), longest, dtype=torch.long)
            labels = torch.full_like(ids, -100)
            mask = torch.zeros_like(ids)
            for row, (prompt, response) in enumerate(part):
                end = len(prompt) + len(response)
                ids[row, :end], mask[row, :end] = torch.tensor(prompt + response), 1
                labels[row, len(prompt) : end] = torch.tensor(response)
            logits = model(input_ids=ids.to(model.device), attention_mask=mask.to(model.device)).logits.float()
            losses = torch.nn.functional.cross_entropy(
                logits[:, :-1].flatten(0, 1), labels[:, 1:].flatten().to(model.device), reduction="none"
            ).view(len(part), -1)
            means += (-losses.sum(1).cpu() / (labels[:, 1:] != -100).sum(1)).tolist()
    return time.perf_counter() - started, means


def ours(path: str, prompts: list[Any], responses: list[str]) -> tuple[float, list[float]]:
    scorer = TransformersScorer(path, "x", LONGEST)
    scorer._model()
    started = time.perf_counter()
    scores = sorted(scorer.logprobs(prompts, responses))
    return time.perf_counter() - started, [nats / tokens for _, nats, tokens in scores]


def peak_flops() -> float:
    """Return the floating-point operations per second of one large float32 product, the best of five."""
    import torch

    a = torch.randn(2048, 2048)
    best = 0.0
    for _ in range(5):
        started = time.perf_counter()
        a @ a
        best = max(best, 2 * 2048**3 / (time.perf_counter() - started))
    return best


def run_side(side: str, data: Path, rows: int) -> None:
    path = model_path(MODEL, "models.base")
    seconds, means = {"naive": naive, "ours": ours}[side](path, *read_rows(data, rows))
    print(json.dumps({"seconds": seconds, "means": means, "peak": peak_mib()}))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, default=SEEDS)
    parser.add_argument("--rows", type=int, default=200)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--side", choices=SIDES, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.side:
        run_side(options.side, options.data, options.rows)
        return
    path = Path(model_path(MODEL, "models.base"))
    tokenizer, model = load_tokenizer(path), load_model(path)
    pairs = zip(*read_rows(options.data, options.rows), strict=True)
    examples = [tokenize_example(tokenizer, *pair) for pair in pairs]
    tokens, answers = sum(len(p) + len(r) for p, r in examples), sum(len(r) for _, r in examples)
    head = model.get_output_embeddings().weight.numel()
    flops = 2 * (model.num_parameters() - head) * tokens + 2 * head * answers  # attention, some percent, not counted
    rounds: list[dict[str, dict[str, Any]]] = []
    largest = 0.0
    for number in range(options.rounds):
        sides = {
            side: run_child([__file__, "--side", side, "--data", options.data, "--rows", options.rows])
            for side in SIDES
        }
        rounds.append(sides)
        largest = max(
            largest, *(abs(a - b) for a, b in zip(sides["naive"]["means"], sides["ours"]["means"], strict=True))
        )
        speeds = (
            f"{side} {tokens / one['seconds']:.0f} tokens/s, {one['peak']:.0f} MiB" for side, one in sides.items()
        )
        print(f"round {number + 1}: {len(examples)} rows, {tokens} tokens, {', '.join(speeds)}", flush=True)
    speed = statistics.median(tokens / sides["ours"]["seconds"] for sides in rounds)
    figure("scoring_tokens_per_second", f"{speed:.0f}", "tokens/s")
    figure("scoring_share_of_peak", f"{flops / tokens * speed / peak_flops():.2f}", "fraction")
    figure("naive_peak_memory", f"{max(sides['naive']['peak'] for sides in rounds):.0f}", "MiB")
    figure("scoring_peak_memory", f"{max(sides['ours']['peak'] for sides in rounds):.0f}", "MiB")
    figure("largest_difference", f"{largest:.2e}", "nats/token")
    ratio("naive", statistics.median(sides["naive"]["seconds"] / sides["ours"]["seconds"] for sides in rounds))


if __name__ == "__main__":
    main()
