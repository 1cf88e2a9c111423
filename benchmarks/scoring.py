"""How fast are responses scored, and in how much memory? Against batches of 16 in the order given, padded, full logits.

That is what a loop over a data loader does, and what most scripts do that measure perplexity. Each side in a process of
its own, in turn; loading is not timed. Tokens are those of prompts and responses, padding not counted, and the same for
both. The largest difference between the two in nats per token is told, and the share of the arithmetic that this machine
does in one large float32 matrix product.

    python benchmarks/scoring.py [--data rows.jsonl] [--rows 200] [--rounds 3]

The data are JSON lines with instruction, input and output; without, the bundled seeds.
"""

import argparse
import json
import resource
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from kiloset.core.loading import load_model, load_tokenizer  # noqa: E402
from kiloset.core.models import tokenize_example  # noqa: E402
from kiloset.core.table import full_instruction  # noqa: E402
from kiloset.data.examples import load_seeds  # noqa: E402
from kiloset.engines.embedded import model_path  # noqa: E402
from kiloset.engines.scorer import TransformersScorer  # noqa: E402

BATCH = 16
LONGEST = 2048


def rows_of(path: Path, rows: int) -> tuple[list[Any], list[str]]:
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
    found = sorted(scorer.logprobs(prompts, responses))
    return time.perf_counter() - started, [nats / tokens for _, nats, tokens in found]


def peak_flops() -> float:
    """Return the floating-point operations a second of one large float32 product, the best of five."""
    import torch

    a = torch.randn(2048, 2048)
    best = 0.0
    for _ in range(5):
        started = time.perf_counter()
        a @ a
        best = max(best, 2 * 2048**3 / (time.perf_counter() - started))
    return best


def child(side: str, data: Path, rows: int) -> None:
    path = model_path("embedded:smollm2-135m-instruct", "models.base")
    seconds, means = {"naive": naive, "ours": ours}[side](path, *rows_of(data, rows))
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(json.dumps({"seconds": seconds, "means": means, "peak": peak}))


def run(side: str, data: Path, rows: int) -> dict[str, Any]:
    command = [sys.executable, __file__, "--side", side, "--data", str(data), "--rows", str(rows)]
    ran = subprocess.run(command, capture_output=True, text=True)
    if ran.returncode:
        raise SystemExit(ran.stderr[-2000:])
    found: dict[str, Any] = json.loads(ran.stdout.strip().splitlines()[-1])
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, default=ROOT / "seeds" / "seeds.jsonl")
    parser.add_argument("--rows", type=int, default=200)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--side", choices=("naive", "ours"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.side:
        child(options.side, options.data, options.rows)
        return
    path = Path(model_path("embedded:smollm2-135m-instruct", "models.base"))
    tokenizer, model = load_tokenizer(path), load_model(path)
    examples = [tokenize_example(tokenizer, *pair) for pair in zip(*rows_of(options.data, options.rows), strict=True)]
    tokens, answers = sum(len(p) + len(r) for p, r in examples), sum(len(r) for _, r in examples)
    head = model.get_output_embeddings().weight.numel()
    flops = 2 * (model.num_parameters() - head) * tokens + 2 * head * answers  # attention, some percent, not counted
    ratios, speeds, peaks, furthest = [], [], [], 0.0
    for number in range(options.rounds):
        found = {side: run(side, options.data, options.rows) for side in ("naive", "ours")}
        ratios.append(found["naive"]["seconds"] / found["ours"]["seconds"])
        speeds.append(tokens / found["ours"]["seconds"])
        peaks.append((found["naive"]["peak"], found["ours"]["peak"]))
        pairs = zip(found["naive"]["means"], found["ours"]["means"], strict=True)
        furthest = max(furthest, *(abs(a - b) for a, b in pairs))
        told = ", ".join(
            f"{side} {tokens / one['seconds']:.0f} tokens/s, {one['peak']:.0f} MiB" for side, one in found.items()
        )
        print(f"round {number + 1}: {len(examples)} rows, {tokens} tokens, {told}, ratio {ratios[-1]:.2f}", flush=True)
    print(f"figure scoring_tokens_per_second {statistics.median(speeds):.0f} tokens/s")
    print(f"figure scoring_share_of_peak {flops / tokens * statistics.median(speeds) / peak_flops():.2f} fraction")
    print(f"figure naive_peak_memory {max(peak for peak, _ in peaks):.0f} MiB")
    print(f"figure scoring_peak_memory {max(peak for _, peak in peaks):.0f} MiB")
    print(f"figure largest_difference {furthest:.2e} nats/token")
    print(f"ratio naive {statistics.median(ratios):.2f}")


if __name__ == "__main__":
    main()
