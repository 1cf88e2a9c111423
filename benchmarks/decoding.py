"""Measure what limits the 1.5B writer model on a CPU: one step of vLLM with many sequences, by weights and by sampling.

Each case loads the model in a process of its own, fills it with 128 chats and times the prefill and six decoding steps, with a
profile of the functions. The cases are bfloat16 and int8 weights, with nucleus sampling (top_p 0.9) and without (1.0).

`--quality` compares the weights on the bundled seeds, with transformers: the loss of the human answers, and the difference of
each token's likelihood. int8 is computed there as vLLM does it: weights with one scale per output row, activations with one
scale per token.

    python benchmarks/decoding.py [--sequences 128] [--quality] [--rows 60]
"""

import argparse
import cProfile
import json
import os
import pstats
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from harness import SEEDS, figure

WEIGHTS = {
    "bfloat16": "embedded:qwen2.5-coder-1.5b-instruct",
    "int8": "embedded:qwen2.5-coder-1.5b-instruct-int8",
}
STEPS = 6
LENGTH = 60


def measure(weights: str, top_p: float, sequences: int) -> dict[str, Any]:
    """Return the seconds of the prefill and of a decoding step, and where a step spends them."""
    from vllm import SamplingParams

    from kiloset.engines.embedded import model_path
    from kiloset.engines.vllm import load

    options = {
        "path": model_path(WEIGHTS[weights], "models.generator"), "dtype": "auto", "max_model_len": 2048,
        "max_num_seqs": sequences, "kv_cache_gib": 3.0,
    }  # fmt: skip
    llm, description = load(options)
    engine, tokenizer = llm.llm_engine, llm.get_tokenizer()
    prompt_tokens = 0
    for number in range(sequences):
        turn = f"Tell in {number + 3} sentences what the lighthouse keeper of island number {number} did on a stormy night."
        chat = tokenizer.apply_chat_template(
            [{"role": "user", "content": turn}], add_generation_prompt=True, tokenize=False
        )
        ids = tokenizer.encode(chat, add_special_tokens=False)
        prompt_tokens += len(ids)
        parameters = SamplingParams(max_tokens=LENGTH, temperature=0.7, top_p=top_p, seed=number, ignore_eos=True)
        engine.add_request(str(number), {"prompt_token_ids": ids}, parameters)
    started, prefill = time.perf_counter(), 0.0
    while True:  # whole prompts fill several steps; a step without one is much shorter
        before = time.perf_counter()
        engine.step()
        if prefill and time.perf_counter() - before < prefill / 4:
            break
        prefill = max(prefill, time.perf_counter() - before)
    prefilled = time.perf_counter() - started
    profile = cProfile.Profile()
    before = time.perf_counter()
    profile.enable()
    for _ in range(STEPS):
        engine.step()
    profile.disable()
    step = (time.perf_counter() - before) / STEPS
    functions = pstats.Stats(profile).stats  # type: ignore[attr-defined]
    own = sorted(((value[2] / STEPS, name[2]) for name, value in functions.items()), reverse=True)[:6]
    return {
        "description": description, "prompt_tokens": prompt_tokens, "prefill": prefilled, "step": step,
        "shares": {name.split(".")[-1].strip("{}<>"): round(seconds / step, 3) for seconds, name in own},
    }  # fmt: skip


def quality(rows: int) -> None:
    """Print the loss of the seeds' answers with both weights, and how much the likelihood of a token differs."""
    import torch

    from kiloset.core.loading import load_tokenizer
    from kiloset.core.models import tokenize_example
    from kiloset.core.table import full_instruction
    from kiloset.data.examples import load_seeds
    from kiloset.engines.embedded import model_path
    from kiloset.engines.gguf_conversion import quantize_rows

    path = Path(model_path(WEIGHTS["bfloat16"], "models.base"))
    tokenizer = load_tokenizer(path)
    table = load_seeds(str(SEEDS), license="unknown").sample(rows, seed=0)
    examples = [
        tokenize_example(tokenizer, [{"role": "user", "content": turn}], response)
        for turn, response in zip(full_instruction(table), table["response"], strict=True)
    ]
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(path, dtype=torch.bfloat16, trust_remote_code=False).eval()

    def logprobs() -> Any:
        values = []
        with torch.inference_mode():
            for prompt, response in examples:
                logits = model(input_ids=torch.tensor([prompt + response])).logits[0, len(prompt) - 1 : -1].float()
                values.append(logits.log_softmax(-1).gather(1, torch.tensor(response)[:, None])[:, 0])
        return torch.cat(values)

    whole = logprobs()
    for name, layer in model.named_modules():
        if name.endswith("_proj"):
            integers, scales = quantize_rows(layer.weight.data.float())
            layer.weight.data = (integers * scales).to(layer.weight.dtype)
            layer.register_forward_pre_hook(_round_activations)
    rounded = logprobs()
    figure("loss_bfloat16", -float(whole.mean()))
    figure("loss_int8", -float(rounded.mean()))
    figure("mean_absolute_difference", float((whole - rounded).abs().mean()))
    figure("tokens_compared", len(whole))


def _round_activations(_: Any, inputs: tuple[Any, ...]) -> tuple[Any, ...]:
    values = inputs[0].float()
    scale = values.abs().amax(-1, keepdim=True).clamp(min=1e-8) / 127
    return (((values / scale).round() * scale).to(inputs[0].dtype), *inputs[1:])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--sequences", type=int, default=128, help="sequences in flight (default 128)")
    parser.add_argument("--quality", action="store_true", help="compare the weights on the bundled seeds instead")
    parser.add_argument("--rows", type=int, default=60, help="seeds for --quality (default 60)")
    parser.add_argument("--case", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.case:
        weights, top_p = arguments.case.split()
        print(json.dumps(measure(weights, float(top_p), arguments.sequences)), flush=True)
        return
    if arguments.quality:
        quality(arguments.rows)
        return
    from kiloset.engines.vllm import cores, cpu_environment

    for weights in WEIGHTS:
        for top_p in ("0.9", "1.0"):
            command = [
                sys.executable,
                __file__,
                "--case",
                f"{weights} {top_p}",
                "--sequences",
                str(arguments.sequences),
            ]
            environment = {**os.environ, **cpu_environment(cores()), "VLLM_LOGGING_LEVEL": "ERROR"}
            ran = subprocess.run(command, env=environment, stdout=subprocess.PIPE, text=True, check=True)
            result = json.loads(ran.stdout.splitlines()[-1])
            case = f"{weights}_top_p_{top_p}"
            print(f"{case}: {result['description']}; shares of a step: {result['shares']}")
            figure(f"prefill_tokens_per_second_{case}", result["prompt_tokens"] / result["prefill"])
            figure(f"decoding_tokens_per_second_{case}", arguments.sequences / result["step"])


if __name__ == "__main__":
    main()
