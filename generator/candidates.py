"""Candidates from the request for an instruction to the response, many at the same time.

Each candidate continues as soon as its completion arrives, so that the engine is always busy. Decisions that depend on
other candidates (is an instruction new, which rows are shown) are made in the order of the requests, never in the order of
the completions: the result is a function of the completions alone.
"""

import random
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import polars as pl

from kiloset.core.constraints import failing
from kiloset.core.models import Completion, Request, messages_request
from kiloset.core.recorded import Flow, RecordedEngine
from kiloset.core.table import Outcome, table_of, user_turn
from kiloset.core.text import numbers, squash, words_and_signs
from kiloset.generator.constraint_sampling import add_constraints, choose_response, response_schema
from kiloset.generator.demonstrations import Demonstrations, Row
from kiloset.generator.faults import answer_fault, task_fault
from kiloset.generator.inputs import InputRequests, copied_from
from kiloset.generator.novelty import NoveltyIndex, rouge_l
from kiloset.generator.parsing import read_input, read_labelled_input
from kiloset.generator.planning import WavePlan
from kiloset.generator.settings import GenerateConfig, Resampling
from kiloset.generator.strategies import STRATEGIES, InstructionRequest, Strategy, StrategyContext
from kiloset.generator.templates import Templates
from kiloset.generator.topics import Topics
from kiloset.generator.whole_tasks import ExampleGroups, answer_messages, read_whole_task

Filter = Callable[[pl.DataFrame], Outcome]

BLOCK = 16
"""Number of instructions checked together: a check of each one alone would build a data frame for each."""


@dataclass(eq=False, slots=True)
class Candidate:
    """A candidate from the request for its instruction to its response."""

    category: str
    strategy: Strategy
    number: int
    """Its number among all instructions requested for the category, from 0."""
    instruction: InstructionRequest
    wave: "Wave"
    row: Row = field(default_factory=dict)
    """Filled when the instruction arrives."""
    responses: dict[int, Completion] = field(default_factory=dict)
    """By number of the sample."""
    samples: int = 0
    """Responses requested."""
    repeats: dict[int, Completion] = field(default_factory=dict)
    """Further answers, by number of the sample, from 1."""
    tokens: list[int] = field(default_factory=list)
    """Tokens of each completion after the instruction, prompts included."""
    done: bool = False
    """Whether the row has its response or was dropped."""


@dataclass(slots=True)
class Wave:
    """One round of requests for instructions."""

    requested: list[Candidate] = field(default_factory=list)
    completions: dict[int, Completion | None] = field(default_factory=dict)
    """By place in `requested`; None for a request that was not sent."""
    checked: int = 0
    """Number of instructions read and checked, in the order of the requests."""
    rows: list[Row] = field(default_factory=list)
    """Rows of all instructions received so far, in the order of the requests."""
    candidates: list[Candidate] = field(default_factory=list)
    """Candidates with an accepted instruction, whose input or responses were requested."""
    tokens: list[int] = field(default_factory=list)
    """Tokens of each completion with an instruction, prompts included."""

    @property
    def is_checked(self) -> bool:
        """Whether every instruction was received and checked."""
        return self.checked == len(self.requested)


class Candidates:
    """All candidates of a run: sends their requests and reads their completions."""

    def __init__(
        self, table: pl.DataFrame, engine: RecordedEngine, config: GenerateConfig, templates: Templates, *,
        seed: int, license: str, check: Filter, is_late: Callable[[Flow], bool],
        topics: Mapping[str, Sequence[str]] | None = None, resampling: Resampling | None = None,
    ) -> None:  # fmt: skip
        """Start with the rows of the table: prompts show its seeds, and no new instruction may repeat any of its rows.

        `check` drops instructions that break a rule; `is_late` returns whether the time limit is over; `topics` are the
        subjects for new tasks by category, "" for all; `resampling` decides how answers are requested again.
        """
        self.config, self._engine = config, engine
        self._seed, self._license, self._check, self._is_late = seed, license, check, is_late
        self._resampling = resampling
        self._index, self._index_with_inputs = NoveltyIndex(), NoveltyIndex()
        seeds: dict[str, list[Row]] = {}
        for row in table.iter_rows(named=True):
            self._add_to_index(row)
            if row["source"] == "seed":
                seeds.setdefault(row["category"], []).append(row)
        self.demonstrations = Demonstrations(seeds, config.max_depth, config.max_shown)
        self.context = StrategyContext(
            engine, templates, self.demonstrations, Topics(topics or {}, seeds),
            ExampleGroups(self.demonstrations.seeds, config.examples, seed), config,
        )  # fmt: skip
        self._inputs = InputRequests(self.context, seed)
        self.flow = engine.flow()
        self.rows: list[Row] = []
        """A row for each completion with an instruction."""
        self.verdicts: dict[str, dict[str, Any]] = {}
        """Why a row was dropped, by id."""
        self.completions = self.tokens = 0
        """Completions received, those from the store included, and their tokens, prompts included."""
        self._samples: Counter[str] = Counter()
        """Samples requested, by prompt."""
        self._requested: Counter[str] = Counter()
        """Instructions requested, by category."""

    def begin_wave(self, number: int, plan: WavePlan) -> Wave:
        """Send the requests for the instructions of a wave."""
        wave = Wave()
        requests: list[tuple[Request, Any]] = []
        for category, strategies in sorted(plan.items()):
            for name, count in sorted(strategies.items()):
                rng = random.Random(f"{self._seed}/generate/{number}/{name}/{category}")
                for one in STRATEGIES[name].requests(self.context, category, count, rng):
                    prompt = one.request.prompt
                    request = replace(one.request, sample=self._samples[prompt])
                    self._samples[prompt] += 1
                    requests.append((request, ("instruction", wave, len(wave.requested))))
                    wave.requested.append(Candidate(category, STRATEGIES[name], self._requested[category], one, wave))
                    self._requested[category] += 1
        for _, _, place in self.flow.put(requests, send=not self._is_late(self.flow)):
            wave.completions[place] = None
        self._check_instructions(wave)
        return wave

    def receive(self) -> None:
        """Wait for one completion and continue with its candidate."""
        (part, owner, number), completion = self.flow.get()
        tokens = completion.prompt_tokens + completion.completion_tokens
        self.completions, self.tokens = self.completions + 1, self.tokens + tokens
        owner.tokens.append(tokens)
        if part == "instruction":
            owner.completions[number] = completion
            self._check_instructions(owner)
        elif part == "verify":
            self._read_repeat(owner, number, completion)
        elif part == "response":
            owner.responses[number] = completion
            if len(owner.responses) == owner.samples:
                self._read_responses(owner)
        else:
            self._read_input(owner, completion, labelled=part == "labelled_input")

    @property
    def resamples(self) -> int:
        """The largest number of further answers of one row."""
        return self._resampling.samples if self._resampling else 0

    def is_dropped(self, row: Mapping[str, Any]) -> bool:
        """Return whether a row was dropped."""
        return row["id"] in self.verdicts

    def _drop(self, row: Mapping[str, Any], reason: str, evidence: str, **more: Any) -> None:
        self.verdicts[row["id"]] = {"reason": reason, "evidence": evidence, **more}

    def _drop_unfinished(self, row: Mapping[str, Any], completion: Completion, part: str, limit: int) -> None:
        """Drop a row with a completion that was cut or refused."""
        if completion.finish_reason == "refused":
            tokens = completion.prompt_tokens  # 0 from a server: it does not report them
            too_long = f"the prompt for the {part} has {tokens} tokens, more than the model's context allows"
            evidence = too_long if tokens else f"the server refused the prompt for the {part}"
            self._drop(row, "prompt_too_long", evidence, measured=tokens or None)
        else:
            evidence = f"the {part} did not end within {completion.completion_tokens} tokens"
            self._drop(row, f"{part}_cut", evidence, measured=completion.completion_tokens, limit=limit)

    # ------------------------------------------------------------------------------------------------ instructions

    def _check_instructions(self, wave: Wave) -> None:
        """Check, in blocks, the instructions that are next in the order of the requests."""
        end = wave.checked
        while end in wave.completions:
            end += 1
        if end - wave.checked < BLOCK and end < len(wave.requested):
            return
        received = []
        for place in range(wave.checked, end):
            if (completion := wave.completions[place]) is not None:
                self._read_instruction(wave.requested[place], completion)
                received.append(wave.requested[place])
        wave.checked = end
        self._continue(self._accept([each for each in received if not self.is_dropped(each.row)]))

    def _read_instruction(self, candidate: Candidate, completion: Completion) -> None:
        """Add the candidate's row; drop it if the completion is unfinished or has no instruction."""
        asked = candidate.instruction
        parents = asked.parents
        instruction, input = (
            read_whole_task(completion.text) if asked.whole else (candidate.strategy.read(completion.text), "")
        )
        row = candidate.row = {
            "id": f"g{len(self.rows) + 1:05d}",
            "instruction": instruction,
            "input": input,
            "category": candidate.category,
            "category_source": "asked",
            "source": "generated",
            "strategy": candidate.strategy.name,
            "operator": asked.operator,
            "topic": asked.topic,
            "parents": [parent["id"] for parent in parents],
            "depth": 1 + max((parent["depth"] for parent in parents), default=0),
            "writer": self._engine.identity,
            "license": self._license,
            "constraints": [],
            "edits": [],
            "others": [],
            "calls": [completion.key],
        }
        self.rows.append(row)
        candidate.wave.rows.append(row)
        if completion.finish_reason != "stop":
            row["instruction"], row["input"] = squash(completion.text), ""
            self._drop_unfinished(row, completion, "instruction", asked.request.max_tokens)
        elif not row["instruction"]:
            self._drop(row, "instruction_unreadable", f"the completion {completion.text[:80]!r} has no instruction")
        elif asked.whole and (fault := self._fault_of_task(row, parents, text=asked.text)) is not None:
            self._drop(row, **fault)

    def _fault_of_task(self, row: Row, parents: Sequence[Row], *, text: bool) -> dict[str, Any] | None:
        """Return the verdict on a whole task that is no good, None if nothing shows that.

        Where some seeds have no text, a task without one may be complete; the rules drop it if it refers to a text.
        """
        if text and not row["input"] and self.demonstrations.takes_input(row["category"], 1.0):
            return {"reason": "input_missing", "evidence": "a task with a text was requested; the model wrote no text"}
        if row["input"] and (copied := copied_from(row, parents, self.config.novelty)) is not None:
            return copied
        if (fault := task_fault(row)) is not None:
            return {"reason": fault[0], "evidence": fault[1]}
        return None

    def _accept(self, candidates: Sequence[Candidate]) -> list[Candidate]:
        """Return the candidates with a new instruction that passes the check, and with constraints if their strategy adds them."""
        if not candidates:
            return []
        dropped = self._check(table_of([candidate.row for candidate in candidates])).dropped
        verdicts = {row["id"]: row for row in dropped.iter_rows(named=True)}
        accepted = []
        for candidate in candidates:
            row, limit = candidate.row, self.config.novelty
            if (verdict := verdicts.get(row["id"])) is not None:
                self._drop(row, **{name: verdict[name] for name in ("reason", "evidence", "measured", "limit")})
            elif (nearest := self._nearest(candidate)) is not None:
                id, score = nearest
                evidence = f"ROUGE-L {score:.2f} > {limit:.2f} with {id}"
                self._drop(row, "not_new", evidence, measured=score, limit=limit, twin=id)
            else:
                self._add_to_index(row)
                self.demonstrations.add(row)
                if not candidate.strategy.constrained or self._add_constraints(candidate):
                    accepted.append(candidate)
        return accepted

    def _add_constraints(self, candidate: Candidate) -> bool:
        row = candidate.row
        rng = random.Random(f"{self._seed}/constraints/{row['calls'][0]}")
        added = add_constraints(row, has_input=bool(row["input"]) or self._needs_input(candidate), rng=rng)
        if not added:
            self._drop(row, "no_constraint_fits", "no verifiable constraint suits this task")
        return added

    def _continue(self, candidates: Sequence[Candidate]) -> None:
        """Request inputs where the category has them, else responses."""
        requests: list[tuple[Request, Any]] = []
        for candidate in candidates:
            candidate.wave.candidates.append(candidate)
            if self._needs_input(candidate):
                request = self._inputs.build(
                    candidate.row, candidate.number, may_be_labelled=not candidate.strategy.constrained
                )
                requests.append((request, (request.purpose, candidate, 0)))
            else:
                requests += self._response_requests(candidate)
        self._send(requests)

    def _add_to_index(self, row: Mapping[str, Any]) -> None:
        self._index.add(row["id"], row["instruction"])
        if row["input"]:
            self._index_with_inputs.add(row["id"], user_turn(row["instruction"], row["input"]))

    def _nearest(self, candidate: Candidate) -> tuple[str, float] | None:
        """Return the row that a new task repeats.

        "Summarise the article." with another article is another task, so a task that has its text already is compared with it.
        """
        row, limit = candidate.row, self.config.novelty
        if candidate.instruction.whole and row["input"]:
            return self._index_with_inputs.nearest(user_turn(row["instruction"], row["input"]), limit)
        return self._index.nearest(row["instruction"], limit)

    def _needs_input(self, candidate: Candidate) -> bool:
        """Return whether a candidate's input must be requested: a whole task has the one that it needs."""
        takes = self.demonstrations.takes_input(candidate.category, self.config.input_share)
        return takes and not candidate.instruction.whole

    def _send(self, requests: Sequence[tuple[Request, Any]]) -> None:
        for purpose, candidate, _ in self.flow.put(requests, send=not self._is_late(self.flow)):
            if not self.is_dropped(candidate.row):
                part = {"response": "response", "verify": "verification"}.get(purpose, "input")
                evidence = f"the limit of {self.config.max_hours} hours was reached before the request for its {part}"
                self._drop(candidate.row, "budget_spent", evidence)
                candidate.done = True

    # ------------------------------------------------------------------------------------------ inputs and responses

    def _read_input(self, candidate: Candidate, completion: Completion, *, labelled: bool) -> None:
        row, label = candidate.row, ""
        if labelled:
            label, row["input"] = read_labelled_input(completion.text)
        else:
            row["input"] = read_input(completion.text)
        row["calls"].append(completion.key)
        if completion.finish_reason != "stop":
            self._drop_unfinished(row, completion, "input", self.config.max_input_tokens)
        elif not row["input"]:
            parts = "an answer and an input" if labelled else "an input"
            self._drop(
                row, "input_missing", f"a task of the category {row['category']} needs {parts}; the model wrote none"
            )
        elif (copied := self._inputs.copied(row, candidate.number, labelled=labelled)) is not None:
            self._drop(row, **copied)
        elif labelled:
            row["response"] = label
        if self.is_dropped(row):
            candidate.done = True
        elif labelled:
            self._verify(candidate)
        else:
            self._send(self._response_requests(candidate))

    def _response_requests(self, candidate: Candidate) -> list[tuple[Request, Any]]:
        request = self._answer_request(candidate, "response", self.config.response_temperature)
        candidate.samples = self.config.constraint_samples if candidate.strategy.constrained else 1
        return [(replace(request, sample=n), ("response", candidate, n)) for n in range(candidate.samples)]

    def _answer_request(self, candidate: Candidate, purpose: str, temperature: float) -> Request:
        row, config = candidate.row, self.config
        constrained, asked = candidate.strategy.constrained, candidate.instruction
        schema = response_schema(row) if constrained and self._engine.capabilities.schemas else ""
        # Examples show how the user's answers read. They carry no constraints, so a task with some is answered without them.
        examples = asked.parents[: config.response_examples] if asked.whole and not constrained else ()
        return messages_request(
            self._engine, answer_messages(row, examples), purpose, max_tokens=config.max_response_tokens,
            temperature=temperature, top_p=config.top_p, schema=schema,
        )  # fmt: skip

    def _read_responses(self, candidate: Candidate) -> None:
        row, config = candidate.row, self.config
        completions = [candidate.responses[number] for number in range(candidate.samples)]
        row["calls"] += [completion.key for completion in completions]
        finished = [each.text.strip() if each.finish_reason == "stop" else "" for each in completions]
        if all(completion.finish_reason != "stop" for completion in completions):
            row["response"] = completions[0].text.strip()
            self._drop_unfinished(row, completions[0], "response", config.max_response_tokens)
        elif not any(finished):
            self._drop(row, "response_empty", "the response is empty")
        elif not candidate.strategy.constrained:
            row["response"] = finished[0]
        elif (chosen := choose_response(row["constraints"], finished)) is not None:
            row["response"], row["edits"] = chosen[0], list(chosen[1])
            row["others"] = [
                text for text in finished if text not in ("", chosen[0]) and not failing(row["constraints"], text)
            ]
        else:
            row["response"] = next(filter(None, finished))
            broken = ", ".join(failing(row["constraints"], row["response"]))
            evidence = (
                f"no response of {len(finished)} satisfies all constraints, even after edits; the first fails {broken}"
            )
            self._drop(row, "constraint_failed", evidence)
        if candidate.instruction.whole and not self.is_dropped(row):
            fault = answer_fault(row, label=row["category"] in config.output_first)
            if fault is not None:
                self._drop(row, *fault)
        self._verify(candidate)

    # ------------------------------------------------------------------------------------------------ verification

    def _verify(self, candidate: Candidate) -> None:
        """Request the answer again if that is to be compared; else the candidate is finished."""
        resampling = self._resampling
        if self.is_dropped(candidate.row) or resampling is None or resampling.skips(candidate.row):
            candidate.done = True
            return
        request = self._answer_request(candidate, "verify", resampling.temperature)
        # Samples from 1: with the same temperature, sample 0 is the answer itself.
        numbers = range(1, resampling.samples + 1)
        self._send([(replace(request, sample=n), ("verify", candidate, n)) for n in numbers])

    def _read_repeat(self, candidate: Candidate, number: int, completion: Completion) -> None:
        """Compare the row's answer with the others, once all have arrived."""
        candidate.repeats[number] = completion
        if len(candidate.repeats) < self.resamples:
            return
        row, repeats = candidate.row, [candidate.repeats[n] for n in sorted(candidate.repeats)]
        by_number = self._resampling is not None and row["category"] in self._resampling.final_number
        scores = [_likeness(row["response"], each.text, by_number=by_number) for each in repeats]
        row["agreement"] = round(sum(scores) / len(scores), 4)
        row["calls"] += [each.key for each in repeats]
        complete = [each.text.strip() for each in repeats if each.finish_reason == "stop"]
        row["others"] += [text for text in complete if text and not failing(row["constraints"], text)]
        candidate.done = True


def _likeness(response: str, other: str, *, by_number: bool) -> float:
    """Return the ROUGE-L F1 of two answers; of calculations, 1 if they end in the same number, else 0."""
    results = [numbers(text)[-1:] for text in (response, other)]
    if by_number and results[0]:
        return float(results[0] == results[1])
    return rouge_l(words_and_signs(response), words_and_signs(other))
