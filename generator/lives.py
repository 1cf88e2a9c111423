"""A new row's life from its first request to its answer, many rows at a time.

Every row goes on as soon as its own completion is there, so that the engine always has enough to do. What depends on
other rows (whether an instruction is new, which rows are shown) is decided in the order in which they were asked for,
never in that in which completions come: the outcome is a function of the completions alone.
"""

import random
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import polars as pl

from kiloset.core.constraints import failing
from kiloset.core.models import Completion, Request, chat_request
from kiloset.core.recorded import Flow, RecordedEngine
from kiloset.core.table import Outcome, table_of, user_turn
from kiloset.core.text import squash
from kiloset.generator import constraint
from kiloset.generator.constraint import CONSTRAINT
from kiloset.generator.demonstrations import Demonstrations, Row
from kiloset.generator.evolve import EVOLVE
from kiloset.generator.magpie import MAGPIE
from kiloset.generator.novelty import NoveltyIndex
from kiloset.generator.parsing import LONGEST_LABEL, read_input, read_labelled_input
from kiloset.generator.planning import Asks
from kiloset.generator.self_instruct import SELF_INSTRUCT
from kiloset.generator.settings import GenerateConfig
from kiloset.generator.strategy import Birth, Sampling, Setting, Strategy, text_request
from kiloset.generator.templates import Templates

Judge = Callable[[pl.DataFrame], Outcome]

STRATEGIES: dict[str, Strategy] = {each.name: each for each in (SELF_INSTRUCT, EVOLVE, MAGPIE, CONSTRAINT)}
PURPOSES = ("instruction", "evolve", "magpie", "input", "labelled_input", "response")
"""Purposes of the requests that generation sends."""
INPUT_STOP = ("\n\n", "\nTask:", "\nText:")
LABELLED_STOP = ("\n\n", "\nTask:", "\nAnswer:")
INPUT_DEMONSTRATIONS = 4
"""Seeds with an input shown where one is asked for."""
BIRTHS_PER_INPUT_PROMPT = 32
"""Instructions asked for whose inputs are asked with the same demonstrations: long common prompts are computed once."""
BLOCK = 16
"""Instructions looked at together: screening one by one costs a data frame each."""


@dataclass(slots=True)
class Wave:
    """One round of asking."""

    number: int
    births: list[tuple[str, Strategy, int, Birth]] = field(default_factory=list)
    """Category, strategy, number among all instructions ever asked for in the category, and the request."""
    completions: dict[int, Completion | None] = field(default_factory=dict)
    """By place in `births`; None for one that was not sent."""
    committed: int = 0
    rows: list[Row] = field(default_factory=list)
    """Rows born so far, in the order asked for."""
    went_on: list[Row] = field(default_factory=list)
    """Those whose instruction is good, and that were asked for an input or an answer."""
    paid_for_births: list[int] = field(default_factory=list)
    """Tokens of each completion that was an instruction, prompts included."""

    @property
    def is_born(self) -> bool:
        """Whether every instruction has come and was looked at."""
        return self.committed == len(self.births)


@dataclass(eq=False, slots=True)
class _Life:
    """A row that goes on."""

    row: Row
    wave: Wave
    number: int
    constrained: bool
    answers: dict[int, Completion] = field(default_factory=dict)
    awaited: int = 0


class Lives:
    """All rows that were ever born, and those under way."""

    def __init__(
        self, table: pl.DataFrame, engine: RecordedEngine, config: GenerateConfig, templates: Templates, *,
        seed: int, license: str, screen: Judge, is_late: Callable[[Flow], bool],
    ) -> None:  # fmt: skip
        """Begin with the rows there are, which are shown (seeds) and are not to be repeated (all).

        `is_late` tells when nothing more may be sent.
        """
        self.engine, self.config, self._templates = engine, config, templates
        self._seed, self._license, self._screen, self._is_late = seed, license, screen, is_late
        self.rows: list[Row] = []
        self.verdicts: dict[str, dict[str, Any]] = {}
        self.flow = engine.flow()
        self.seeds: dict[str, list[Row]] = {}
        self._index = NoveltyIndex()
        for row in table.iter_rows(named=True):
            self._index.add(row["id"], row["instruction"])
            if row["source"] == "seed":
                self.seeds.setdefault(row["category"], []).append(row)
        self.shown = Demonstrations(self.seeds, config.max_depth, config.max_shown)
        sampling = Sampling(config.max_instruction_tokens, config.temperature, config.top_p)
        self.setting = Setting(
            engine, templates, self.shown, sampling, config.human_demonstrations, config.machine_demonstrations,
            config.samples_per_prompt,
        )  # fmt: skip
        self.paid = (0, 0)
        """Completions and their tokens, prompts included; those found in the store count too."""
        self._samples: Counter[str] = Counter()
        self._asked: Counter[str] = Counter()
        self._examples: dict[tuple[str, int, bool], list[Row]] = {}

    def takes_input(self, category: str) -> bool:
        """Tell whether rows of a category are asked for an input."""
        seeds = self.seeds.get(category, ())
        holders = sum(bool(row["input"]) for row in seeds)
        return holders >= max(1, self.config.input_share * len(seeds))

    def begin(self, number: int, asks: Asks) -> Wave:
        """Ask for instructions."""
        wave = Wave(number)
        requests: list[tuple[Request, Any]] = []
        for category, pairs in sorted(asks.items()):
            for name, count in sorted(pairs.items()):
                rng = random.Random(f"{self._seed}/generate/{number}/{name}/{category}")
                for birth in STRATEGIES[name].ask(self.setting, category, count, rng):
                    prompt = birth.request.prompt
                    numbered = replace(birth.request, sample=self._samples[prompt])
                    self._samples[prompt] += 1
                    requests.append((numbered, ("birth", wave, len(wave.births))))
                    wave.births.append((category, STRATEGIES[name], self._asked[category], birth))
                    self._asked[category] += 1
        for _, _, place in self.flow.put(requests, send=not self._is_late(self.flow)):
            wave.completions[place] = None
        self._commit(wave)
        return wave

    def step(self) -> None:
        """Wait for one completion and let its row go on."""
        (kind, *where), completion = self.flow.get()
        tokens = completion.prompt_tokens + completion.completion_tokens
        self.paid = self.paid[0] + 1, self.paid[1] + tokens
        if kind == "birth":
            wave, place = where
            wave.paid_for_births.append(tokens)
            wave.completions[place] = completion
            self._commit(wave)
        elif kind == "answer":
            life, number = where
            life.row["paid"].append(tokens)
            life.answers[number] = completion
            if len(life.answers) == life.awaited:
                self._read_answers(life)
        else:
            where[0].row["paid"].append(tokens)
            self._read_input(where[0], completion, labelled=kind == "labelled_input")

    def drop(self, row: Mapping[str, Any], reason: str, evidence: str, **more: Any) -> None:
        """Note why a row leaves."""
        self.verdicts[row["id"]] = {"reason": reason, "evidence": evidence, **more}

    # ------------------------------------------------------------------------------------------------ instructions

    def _commit(self, wave: Wave) -> None:
        """Look at the instructions that have come without a gap, in the order asked for, a block at a time."""
        ready = 0
        while wave.committed + ready in wave.completions:
            ready += 1
        if ready < BLOCK and wave.committed + ready < len(wave.births):
            return
        lives = [
            life
            for place in range(wave.committed, wave.committed + ready)
            if (life := self._born(wave, place)) is not None
        ]
        wave.committed += ready
        self._go_on([life for life in self._new(lives) if life.row["id"] not in self.verdicts])

    def _born(self, wave: Wave, place: int) -> _Life | None:
        """Make the row of an instruction, None if it was not sent; one that cannot be read is dropped."""
        category, strategy, number, birth = wave.births[place]
        if (completion := wave.completions[place]) is None:
            return None
        row: Row = {
            "id": f"g{len(self.rows) + 1:05d}",
            "instruction": strategy.read(completion.text),
            "input": "",
            "category": category,
            "category_source": "asked",
            "source": "generated",
            "strategy": strategy.name,
            "operator": birth.operator,
            "parents": [parent["id"] for parent in birth.parents],
            "depth": 1 + max((parent["depth"] for parent in birth.parents), default=0),
            "writer": self.engine.identity,
            "license": self._license,
            "constraints": [],
            "edits": [],
            "calls": [completion.key],
        }
        self.rows.append(row)
        wave.rows.append(row)
        if completion.finish_reason != "stop":
            row["instruction"] = squash(completion.text)
            self._drop_unfinished(row, completion, "instruction", self.config.max_instruction_tokens)
            return None
        if not row["instruction"]:
            self.drop(row, "instruction_unreadable", f"no instruction in the completion {completion.text[:80]!r}")
            return None
        return _Life(row, wave, number, strategy.constrained)

    def _new(self, lives: Sequence[_Life]) -> list[_Life]:
        """Keep instructions that pass the screen and are new; each one kept may be shown, and repeated by none."""
        if not lives:
            return []
        dropped = self._screen(table_of([life.row for life in lives])).dropped
        verdicts = {row["id"]: row for row in dropped.iter_rows(named=True)}
        new = []
        for life in lives:
            row, limit = life.row, self.config.novelty
            if (verdict := verdicts.get(row["id"])) is not None:
                self.drop(row, **{name: verdict[name] for name in ("reason", "evidence", "measured", "limit")})
                continue
            if (twin := self._index.nearest(row["instruction"], limit)) is not None:
                evidence = f"ROUGE-L {twin[1]:.2f} > {limit:.2f} with {twin[0]}"
                self.drop(row, "not_new", evidence, measured=twin[1], limit=limit, twin=twin[0])
                continue
            self._index.add(row["id"], row["instruction"])
            self.shown.add(row)
            if life.constrained:
                rng = random.Random(f"{self._seed}/constraints/{row['calls'][0]}")
                if not constraint.constrain(row, has_input=self.takes_input(row["category"]), rng=rng):
                    self.drop(row, "no_constraint_fits", "no verifiable constraint goes with this task")
                    continue
            new.append(life)
        return new

    # ------------------------------------------------------------------------------------------------------ inputs

    def _go_on(self, lives: Sequence[_Life]) -> None:
        """Ask for the inputs of rows whose category has them, else for their answers."""
        requests: list[tuple[Request, Any]] = []
        for life in lives:
            life.wave.went_on.append(life.row)
            life.row["paid"] = []
            if self.takes_input(life.row["category"]):
                requests.append(self._input_request(life))
            else:
                requests += self._answer_requests(life)
        self._send(requests)

    def _send(self, requests: Sequence[tuple[Request, Any]]) -> None:
        for kind, life, *_ in self.flow.put(requests, send=not self._is_late(self.flow)):
            if life.row["id"] not in self.verdicts:
                part = "answer" if kind == "answer" else "input"
                evidence = f"{self.config.max_hours} hours were over before its {part} was asked for"
                self.drop(life.row, "budget_spent", evidence)
                self._close(life)

    def _input_request(self, life: _Life) -> tuple[Request, Any]:
        row, config = life.row, self.config
        labelled = not life.constrained and row["category"] in config.output_first
        shown = self._input_examples(life, labelled)
        labelled = labelled and bool(shown)
        shown = shown or self._input_examples(life, labelled)
        examples = [
            {"task": squash(seed["instruction"]), "text": compact(seed["input"]), "answer": squash(seed["response"])}
            for seed in shown
        ]
        name = "labelled_input" if labelled else "input"
        prompt = self._templates.render(name, task=squash(task_of(row)), examples=examples, chat=not self.engine.raw)
        sampling = Sampling(config.max_input_tokens, config.temperature, config.top_p)
        stop = LABELLED_STOP if labelled else INPUT_STOP
        request = text_request(self.engine, prompt, name, sampling, stop)
        return request, (name, life)

    def _input_examples(self, life: _Life, labelled: bool) -> list[Row]:
        """Choose the seeds shown: the same for some rows of a category, so that these share computation."""
        category = life.row["category"]
        group = (category, life.number // BIRTHS_PER_INPUT_PROMPT, labelled)
        if group not in self._examples:
            holders = self.shown.with_inputs(category)
            if labelled:
                holders = [row for row in holders if len(row["response"].split()) <= LONGEST_LABEL]
            rng = random.Random(f"{self._seed}/inputs/{group}")
            self._examples[group] = rng.sample(holders, min(INPUT_DEMONSTRATIONS, len(holders)))
        return self._examples[group]

    def _read_input(self, life: _Life, completion: Completion, *, labelled: bool) -> None:
        row, limit = life.row, self.config.novelty
        answer = ""
        if labelled:
            answer, row["input"] = read_labelled_input(completion.text)
        else:
            row["input"] = read_input(completion.text)
        row["calls"].append(completion.key)
        if completion.finish_reason != "stop":
            self._drop_unfinished(row, completion, "input", self.config.max_input_tokens)
        elif not row["input"]:
            what = "an answer and an input" if labelled else "an input"
            self.drop(
                row, "input_missing", f"tasks of the category {row['category']} come with {what}; none was written"
            )
        elif (twin := self._copied(life, labelled)) is not None:
            evidence = f"the input repeats {twin[0]} (ROUGE-L {twin[1]:.2f} > {limit:.2f})"
            own = twin[0] if twin[0] != "the instruction" else None
            self.drop(row, "input_copied", evidence, measured=twin[1], limit=limit, twin=own)
        if labelled and row["id"] not in self.verdicts:
            row["response"] = answer
        if labelled or row["id"] in self.verdicts:
            self._close(life)
        else:
            self._send(self._answer_requests(life))

    def _copied(self, life: _Life, labelled: bool) -> tuple[str, float] | None:
        copied = NoveltyIndex()
        for seed in self._input_examples(life, labelled):
            copied.add(seed["id"], seed["input"])
        copied.add("the instruction", task_of(life.row))
        return copied.nearest(life.row["input"], self.config.novelty)

    # ----------------------------------------------------------------------------------------------------- answers

    def _answer_requests(self, life: _Life) -> list[tuple[Request, Any]]:
        row, config = life.row, self.config
        schema = constraint.schema_of(row) if life.constrained and self.engine.structured else ""
        request = chat_request(
            self.engine, user_turn(row["instruction"], row["input"]), "response", max_tokens=config.max_response_tokens,
            temperature=config.response_temperature, top_p=config.top_p, schema=schema,
        )  # fmt: skip
        life.awaited = config.constraint_samples if life.constrained else 1
        return [(replace(request, sample=number), ("answer", life, number)) for number in range(life.awaited)]

    def _read_answers(self, life: _Life) -> None:
        row = life.row
        answers = [life.answers[number] for number in range(life.awaited)]
        row["calls"] += [answer.key for answer in answers]
        whole = [answer.text.strip() if answer.finish_reason == "stop" else "" for answer in answers]
        if all(answer.finish_reason != "stop" for answer in answers):
            row["response"] = answers[0].text.strip()
            self._drop_unfinished(row, answers[0], "response", self.config.max_response_tokens)
        elif not any(whole):
            self.drop(row, "response_empty", "the model answered nothing")
        elif not life.constrained:
            row["response"] = whole[0]
        elif (chosen := constraint.choose(row["constraints"], whole)) is not None:
            row["response"], row["edits"] = chosen[1], list(chosen[2])
        else:
            row["response"] = next(filter(None, whole))
            broken = ", ".join(failing(row["constraints"], row["response"]))
            evidence = f"none of {len(answers)} answers keeps all its constraints, nor can be edited to; the first breaks {broken}"
            self.drop(row, "constraint_failed", evidence)
        self._close(life)

    def _close(self, life: _Life) -> None:
        life.row["done"] = True

    def _drop_unfinished(self, row: Mapping[str, Any], completion: Completion, part: str, limit: int) -> None:
        """Drop a row whose completion never came to its own end."""
        if completion.finish_reason == "refused":
            tokens = completion.prompt_tokens  # a server does not say
            evidence = f"the prompt for the {part} takes {tokens} tokens, more than the model reads"
            refused = f"the server took no prompt for the {part}"
            self.drop(row, "prompt_too_long", evidence if tokens else refused, measured=tokens or None)
        else:
            evidence = f"the {part} ran to {completion.completion_tokens} tokens without an end"
            self.drop(row, f"{part}_cut", evidence, measured=completion.completion_tokens, limit=limit)


def task_of(row: Mapping[str, Any]) -> str:
    """Return a row's instruction without the constraints it carries."""
    return str(row.get("task") or row["instruction"])


def compact(text: str) -> str:
    """Return a text without empty lines, which end an input."""
    return "\n".join(line for line in text.splitlines() if line.strip())
