"""The loop that asks the generator model for what is still missing.

Wang et al., "Self-Instruct: Aligning Language Models with Self-Generated Instructions" (ACL 2023, arXiv:2212.10560):
6 human and 2 machine demonstrations, the ROUGE-L 0.7 gate, input-first instances. Departures: every category is asked
for by name and counted apart, so that the scarce ones are asked for again; one instruction a completion, since small
models repeat themselves further down the list; what a completion was dropped for is written down.
"""

import math
import random
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Annotated, Any

import polars as pl
from pydantic import Field

from core.calls import RecordedEngine
from core.config import Count, Fraction, Natural, Positive, Share, settings
from core.models import Completion, Request, chat_request
from core.table import Outcome, table_of, user_turn, with_verdicts
from core.text import squash
from generator import prompts
from generator.novelty import NoveltyIndex

Judge = Callable[[pl.DataFrame], Outcome]

INPUT_DEMONSTRATIONS = 4
"""Seeds with an input shown where one is asked for."""
ROWS_PER_INPUT_PROMPT = 8
"""Rows asked with the same demonstrations: long common prompts are computed once."""


@settings
class GenerateConfig:
    """The `[generate]` table: the Self-Instruct loop."""

    enabled: bool = True
    """Whether to generate at all; false selects from [pool] alone."""
    candidates_per_row: Annotated[float, Field(ge=1, le=20)] = 2.0
    """Candidates that passed the cheap checks, per row wanted: what selection chooses from."""
    max_requests: Count = 200_000
    """Most requests the loop may send; then it goes on with what it has."""
    max_waves: Count = 12
    """Most rounds of asking for what is missing."""
    human_demonstrations: Count = 6
    """Seeds of the asked category shown in a prompt."""
    machine_demonstrations: Natural = 2
    """Accepted new instructions of the asked category shown in a prompt, once there are any."""
    samples_per_prompt: Count = 4
    """Instructions sampled from one prompt; they share its computation."""
    novelty: Share = 0.7
    """Highest ROUGE-L F1 with any instruction there is; above it an instruction is not new."""
    input_share: Fraction = 0.5
    """A category whose seeds have an input at least this often is asked for one."""
    temperature: Positive = 0.8
    """For instructions and inputs."""
    top_p: Share = 0.9
    """For instructions and inputs."""
    response_temperature: Annotated[float, Field(ge=0, le=2)] = 0.5
    """For reference answers."""
    max_instruction_tokens: Count = 96
    """Longest instruction; a longer one is cut and dropped."""
    max_input_tokens: Count = 192
    """Longest input; a longer one is cut and dropped."""
    max_response_tokens: Count = 512
    """Longest reference answer; a longer one is cut and dropped."""


@dataclass
class _Loop:
    """What one run of the loop knows."""

    engine: RecordedEngine
    config: GenerateConfig
    license: str
    seeds: dict[str, list[dict[str, Any]]]
    index: NoveltyIndex
    screen: Judge
    judge: Judge
    rows: list[dict[str, Any]] = field(default_factory=list)
    verdicts: dict[str, dict[str, Any]] = field(default_factory=dict)
    accepted: dict[str, list[dict[str, Any]]] = field(default_factory=dict)
    asked: Counter[str] = field(default_factory=Counter)
    samples: Counter[str] = field(default_factory=Counter)
    """Samples asked of each prompt: few seeds make the same prompt twice, and an equal request gets an equal answer."""
    sent: int = 0

    def drop(self, row: Mapping[str, Any], reason: str, evidence: str, **more: Any) -> None:
        """Note why a row leaves."""
        self.verdicts[row["id"]] = {"reason": reason, "evidence": evidence, **more}

    def ask(self, requests: Sequence[Request], label: str) -> list[Completion]:
        """Complete requests and count them."""
        self.sent += len(requests)
        return self.engine.complete(requests, label)


def generate(
    table: pl.DataFrame,
    engine: RecordedEngine,
    wanted: Mapping[str, int],
    config: GenerateConfig,
    *,
    seed: int,
    license: str,
    screen: Judge,
    judge: Judge,
) -> Outcome:
    """Add generated rows until enough candidates of each category passed the cheap checks, or the budget is spent.

    Args:
        table: Seeds, and pool rows if any; all are kept.
        engine: The generator model.
        wanted: Rows of each category the set should have.
        config: The `[generate]` table.
        seed: The run's seed; which demonstrations are shown depends on nothing else.
        license: SPDX id under which the generator model's output may be used.
        screen: The rules that an instruction alone can break; what it drops is dropped here.
        judge: The rules that a whole row can break; what it drops is only not counted, the rules stage drops it.

    Returns:
        Kept: the table and every new row with an answer. Dropped: what was cut, unreadable, not new or screened out.
    """
    need = {name: math.ceil(rows * config.candidates_per_row) for name, rows in wanted.items()}
    for name, count in table.filter(pl.col("source") == "pool").group_by("category").len().iter_rows():
        if name in need:
            need[name] -= count
    loop = _Loop(engine, config, license, _by_category(table), NoveltyIndex(), screen, judge)
    for row in table.iter_rows(named=True):
        loop.index.add(row["id"], row["instruction"])
    for wave in range(config.max_waves):
        missing = {name: n - len(loop.accepted.get(name, [])) for name, n in need.items()}
        asks = _plan(loop, {name: n for name, n in missing.items() if n > 0 and loop.seeds.get(name)})
        if not asks:
            break
        _wave(loop, asks, wave, random.Random(f"{seed}/generate/{wave}"))
    return _outcome(table, loop)


def _by_category(table: pl.DataFrame) -> dict[str, list[dict[str, Any]]]:
    seeds: dict[str, list[dict[str, Any]]] = {}
    for row in table.filter(pl.col("source") == "seed").iter_rows(named=True):
        seeds.setdefault(row["category"], []).append(row)
    return seeds


def _plan(loop: _Loop, missing: Mapping[str, int]) -> dict[str, int]:
    """Return how many instructions to ask for, per category: what is missing over the yield seen so far."""
    asks = {}
    for name, rows in sorted(missing.items()):
        # One success in two before anything is known; the estimate of a category never falls below one in twenty.
        rate = max((len(loop.accepted.get(name, [])) + 2) / (loop.asked[name] + 4), 0.05)
        per_prompt = loop.config.samples_per_prompt
        asks[name] = math.ceil(rows / rate / per_prompt) * per_prompt
    # An instruction costs up to three requests: itself, its input, its answer.
    budget = (loop.config.max_requests - loop.sent) // 3
    total = sum(asks.values())
    if total > budget:
        asks = {name: n * budget // total for name, n in asks.items()}
    return {name: n for name, n in asks.items() if n > 0}


def _wave(loop: _Loop, asks: Mapping[str, int], wave: int, rng: random.Random) -> None:
    """Ask for instructions, then their inputs, then their answers; every step only for what the one before left."""
    born = _ask_instructions(loop, asks, wave, rng)
    new = _screened(loop, born)
    with_inputs = _ask_inputs(loop, new, wave, rng)
    answered = _ask_responses(loop, with_inputs, wave)
    good = set(loop.judge(table_of(answered)).kept["id"]) if answered else set()
    for row in answered:
        if row["id"] in good:
            loop.accepted.setdefault(row["category"], []).append(row)


def _ask_instructions(loop: _Loop, asks: Mapping[str, int], wave: int, rng: random.Random) -> list[dict[str, Any]]:
    config = loop.config
    requests: list[Request] = []
    births: list[tuple[str, list[dict[str, Any]]]] = []
    for name, count in asks.items():
        loop.asked[name] += count
        for start in range(0, count, config.samples_per_prompt):
            shown = _demonstrations(loop, name, rng)
            prompt = prompts.instruction_prompt(name, [row["instruction"] for row in shown])
            for _ in range(min(config.samples_per_prompt, count - start)):
                requests.append(
                    Request(prompt, "instruction", config.max_instruction_tokens, config.temperature, config.top_p,
                            prompts.INSTRUCTION_STOP, loop.samples[prompt], raw=True)
                )  # fmt: skip
                loop.samples[prompt] += 1
                births.append((name, shown))
    completions = loop.ask(requests, f"wave {wave + 1}: instructions")
    born = []
    for (name, shown), completion in zip(births, completions, strict=True):
        row = {
            "id": f"g{len(loop.rows) + 1:05d}",
            "instruction": prompts.read_instruction(completion.text),
            "category": name,
            "category_source": "asked",
            "source": "generated",
            "strategy": "self_instruct",
            "parents": [parent["id"] for parent in shown],
            "depth": 1 + max(parent["depth"] for parent in shown),
            "writer": loop.engine.identity,
            "license": loop.license,
            "calls": [completion.key],
        }
        loop.rows.append(row)
        if completion.finish_reason != "stop":
            row["instruction"] = squash(completion.text)
            _drop_unfinished(loop, row, completion, "instruction", config.max_instruction_tokens)
        elif not row["instruction"]:
            loop.drop(row, "instruction_unreadable", f"no instruction in the completion {completion.text[:80]!r}")
        else:
            born.append(row)
    return born


def _demonstrations(loop: _Loop, category: str, rng: random.Random) -> list[dict[str, Any]]:
    machine = loop.accepted.get(category, [])
    shown = rng.sample(machine, min(loop.config.machine_demonstrations, len(machine)))
    human = loop.seeds[category]
    total = loop.config.human_demonstrations + loop.config.machine_demonstrations
    shown = [*rng.sample(human, min(total - len(shown), len(human))), *shown]
    rng.shuffle(shown)
    return shown


def _screened(loop: _Loop, born: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Keep instructions that pass the screen and are new to the pool; each one kept joins the pool at once."""
    if not born:
        return []
    verdicts = {row["id"]: row for row in loop.screen(table_of(born)).dropped.iter_rows(named=True)}
    new = []
    for row in born:
        if (verdict := verdicts.get(row["id"])) is not None:
            loop.drop(row, **{name: verdict[name] for name in ("reason", "evidence", "measured", "limit")})
        elif (twin := loop.index.nearest(row["instruction"], loop.config.novelty)) is not None:
            evidence = f"ROUGE-L {twin[1]:.2f} > {loop.config.novelty:.2f} with {twin[0]}"
            loop.drop(row, "not_new", evidence, measured=twin[1], limit=loop.config.novelty, twin=twin[0])
        else:
            loop.index.add(row["id"], row["instruction"])
            new.append(row)
    return new


def _ask_inputs(loop: _Loop, rows: list[dict[str, Any]], wave: int, rng: random.Random) -> list[dict[str, Any]]:
    config = loop.config
    holders = {name: [row for row in seeds if row["input"]] for name, seeds in loop.seeds.items()}
    usual = {
        name for name, seeds in loop.seeds.items() if len(holders[name]) >= max(1, config.input_share * len(seeds))
    }
    asked = [row for row in rows if row["category"] in usual]
    shown = _input_demonstrations(asked, holders, rng)
    requests = [
        Request(
            prompts.input_prompt(row["instruction"], [(seed["instruction"], seed["input"]) for seed in shown[row["id"]]]),
            "input", config.max_input_tokens, config.temperature, config.top_p, prompts.INPUT_STOP, raw=True,
        )
        for row in asked
    ]  # fmt: skip
    completions = loop.ask(requests, f"wave {wave + 1}: inputs") if requests else []
    for row, completion in zip(asked, completions, strict=True):
        row["input"] = prompts.read_input(completion.text)
        row["calls"].append(completion.key)
        if completion.finish_reason != "stop":
            _drop_unfinished(loop, row, completion, "input", config.max_input_tokens)
        elif not row["input"]:
            loop.drop(
                row, "input_missing", f"tasks of the category {row['category']} come with an input; none was written"
            )
        else:
            copied = NoveltyIndex()
            for seed in shown[row["id"]]:
                copied.add(seed["id"], seed["input"])
            copied.add("the instruction", row["instruction"])
            if (twin := copied.nearest(row["input"], config.novelty)) is not None:
                evidence = f"the input repeats {twin[0]} (ROUGE-L {twin[1]:.2f} > {config.novelty:.2f})"
                own = twin[0] if twin[0] != "the instruction" else None
                loop.drop(row, "input_copied", evidence, measured=twin[1], limit=config.novelty, twin=own)
    return [row for row in rows if row["id"] not in loop.verdicts]


def _input_demonstrations(
    asked: Sequence[Mapping[str, Any]], holders: Mapping[str, list[dict[str, Any]]], rng: random.Random
) -> dict[str, list[dict[str, Any]]]:
    """Choose the seeds shown with each row: the same for some rows of a category, so that these share computation."""
    shown: dict[str, list[dict[str, Any]]] = {}
    for category in sorted({row["category"] for row in asked}):
        ids = [row["id"] for row in asked if row["category"] == category]
        for start in range(0, len(ids), ROWS_PER_INPUT_PROMPT):
            chosen = rng.sample(holders[category], min(INPUT_DEMONSTRATIONS, len(holders[category])))
            shown |= dict.fromkeys(ids[start : start + ROWS_PER_INPUT_PROMPT], chosen)
    return shown


def _ask_responses(loop: _Loop, rows: list[dict[str, Any]], wave: int) -> list[dict[str, Any]]:
    config = loop.config
    requests = [
        chat_request(
            loop.engine, user_turn(row["instruction"], row.get("input", "")), "response",
            max_tokens=config.max_response_tokens, temperature=config.response_temperature, top_p=config.top_p,
        )
        for row in rows
    ]  # fmt: skip
    completions = loop.ask(requests, f"wave {wave + 1}: answers") if requests else []
    for row, completion in zip(rows, completions, strict=True):
        row["response"] = completion.text.strip()
        row["calls"].append(completion.key)
        if completion.finish_reason != "stop":
            _drop_unfinished(loop, row, completion, "response", config.max_response_tokens)
        elif not row["response"]:
            loop.drop(row, "response_empty", "the model answered nothing")
    return [row for row in rows if row["id"] not in loop.verdicts]


def _drop_unfinished(loop: _Loop, row: Mapping[str, Any], completion: Completion, part: str, limit: int) -> None:
    """Drop a row whose completion never came to its own end."""
    if completion.finish_reason == "refused":
        evidence = f"the prompt for the {part} takes {completion.prompt_tokens} tokens, more than the model reads"
        loop.drop(row, "prompt_too_long", evidence, measured=completion.prompt_tokens)
    else:
        evidence = f"the {part} ran to {completion.completion_tokens} tokens without an end"
        loop.drop(row, f"{part}_cut", evidence, measured=completion.completion_tokens, limit=limit)


def _outcome(table: pl.DataFrame, loop: _Loop) -> Outcome:
    split = with_verdicts(table_of(loop.rows), loop.verdicts)
    return Outcome(kept=pl.concat([table, split.kept], how="diagonal"), dropped=split.dropped)
