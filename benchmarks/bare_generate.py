"""The peer of generation.py: one call of vLLM's own `LLM.generate` on the requests that standard input lists."""

import json
import sys
import time

from kiloset.engines.vllm import load


def main() -> None:
    from vllm import SamplingParams
    from vllm.inputs import TokensPrompt
    from vllm.sampling_params import StructuredOutputsParams

    work = json.load(sys.stdin)
    llm, _ = load(work["options"])
    tokenizer = llm.get_tokenizer()
    llm.generate("Warm up.", SamplingParams(max_tokens=4), use_tqdm=False)
    started = time.monotonic()
    prompts = [
        TokensPrompt(prompt_token_ids=tokenizer.encode(call["prompt"], add_special_tokens=call["raw"]))
        for call in work["calls"]
    ]
    parameters = [
        SamplingParams(
            max_tokens=call["max_tokens"], temperature=call["temperature"], top_p=call["top_p"], stop=call["stop"],
            seed=call["seed"],
            structured_outputs=StructuredOutputsParams(json=call["schema"]) if call["schema"] else None,
        )
        for call in work["calls"]
    ]  # fmt: skip
    answers = llm.generate(prompts, parameters, use_tqdm=False)
    seconds = time.monotonic() - started
    tokens = sum(len(answer.outputs[0].token_ids) for answer in answers)
    texts = [answer.outputs[0].text for answer in answers]
    print(json.dumps({"seconds": seconds, "tokens": tokens, "texts": texts}), file=sys.__stdout__, flush=True)


if __name__ == "__main__":
    main()
