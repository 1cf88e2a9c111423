"""The four strategies: each sends requests for new instructions and reads the completions.

Self-Instruct: Wang et al., "Self-Instruct: Aligning Language Models with Self-Generated Instructions" (ACL 2023,
arXiv:2212.10560). An instruct model is asked in a chat for a whole task (`kiloset.generator.whole_tasks`). Any other model
continues a numbered list of tasks, with 6 human and 2 machine demonstrations as in the paper. Departures there: the prompt
names the category; a completion is one instruction, since small models repeat themselves further down the list; several
instructions are sampled from one prompt, which the engine computes once.

Evolve: Xu et al., "WizardLM: Empowering Large Language Models to Follow Complex Instructions" (ICLR 2024,
arXiv:2304.12244), a new task made from an old one by a named operator. Departures: the operators' wording is ours; the row
records its operator; the new task must pass the same novelty check as any other, also against its parent.

Magpie: Xu et al., "Magpie: Alignment Data Synthesis from Scratch by Prompting Aligned LLMs with Nothing" (ICLR 2025,
arXiv:2406.08464), a user turn that the model writes after its own chat template. Departure: a system turn names the
category, so that the loop can request a scarce one. The engine must accept the beginning of a template as a prompt.

Constraint: an instruction requested as in Self-Instruct, to which `kiloset.generator.constraint_sampling` adds verifiable
constraints.
"""

import random
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from kiloset.core.errors import ConfigError
from kiloset.core.models import Renderer, Request, chat_request, messages_request
from kiloset.core.text import squash
from kiloset.generator.demonstrations import Demonstrations, Row, task_of
from kiloset.generator.parsing import read_instruction, read_task
from kiloset.generator.settings import GenerateConfig
from kiloset.generator.templates import Templates
from kiloset.generator.topics import Topics
from kiloset.generator.whole_tasks import BARE_STOP, TASK_STOP, ExampleGroups, task_messages

INSTRUCTION_STOP = ("\n",)
"""A list entry of the Self-Instruct prompt ends with its line."""
USER_MARK = "\x00"
"""Stands for the user's text while a chat template is rendered."""
OPERATORS = {
    "deepen_requirement": "Write a new task that is this one with one more requirement that makes it harder.",
    "deepen_concrete": "Write a new task that asks for the same in a concrete situation with particular people or things.",
    "deepen_reasoning": "Write a new task on the same subject that takes several steps of thought instead of one.",
    "deepen_subject": "Write a new task that goes deeper into one part of the subject of this one.",
    "broaden_subject": "Write a new task of the same kind about an entirely different subject.",
    "broaden_rare": "Write a new task of the same kind about something that is seldom asked for.",
}
"""The operators of `evolve`, by name: the sentence that the prompt ends with."""


@dataclass(frozen=True, slots=True)
class StrategyContext:
    """What every strategy builds its prompts from."""

    engine: Renderer
    templates: Templates
    demonstrations: Demonstrations
    topics: Topics
    examples: ExampleGroups
    config: GenerateConfig

    @property
    def asks_in_chats(self) -> bool:
        """Whether self_instruct and constraint ask for whole tasks in a chat."""
        return self.config.prompt_style == "chat" and self.engine.capabilities.chat_template

    @property
    def sampling(self) -> dict[str, Any]:
        """Sampling arguments of a request for an instruction."""
        config = self.config
        return {"max_tokens": config.max_instruction_tokens, "temperature": config.temperature, "top_p": config.top_p}


@dataclass(frozen=True, slots=True)
class InstructionRequest:
    """One request for a new instruction."""

    request: Request
    parents: tuple[Row, ...] = ()
    """The rows shown in the prompt."""
    operator: str = ""
    topic: str = ""
    """The subject that the prompt names."""
    whole: bool = False
    """Whether the completion is a whole task: its instruction and, if it comes with one, its text."""
    text: bool = False
    """Whether a whole task must come with a text."""


@dataclass(frozen=True, slots=True)
class Strategy:
    """A way to obtain new instructions."""

    name: str
    requests: Callable[[StrategyContext, str, int, random.Random], list[InstructionRequest]]
    """Return this many requests for a category; a smaller number returns a prefix of the same list."""
    read: Callable[[str], str]
    """Return the instruction in a completion, "" if there is none."""
    constrained: bool = False
    """Whether its instructions carry verifiable constraints."""


def text_request(
    engine: Renderer, prompt: str, purpose: str, sampling: Mapping[str, Any], stop: tuple[str, ...]
) -> Request:
    """Return a request to continue the prompt; where the engine accepts only chats, a chat with the prompt as user turn."""
    if engine.capabilities.plain_text:
        return Request(prompt, purpose, **sampling, stop=stop, raw=True)
    return chat_request(engine, prompt, purpose, **sampling)


def category_words(category: str) -> str:
    """Return a category's name with spaces between its words."""
    return category.replace("_", " ").replace("-", " ")


def prompt_before_user_turn(engine: Renderer, system: str) -> str:
    """Return the model's chat template up to the beginning of the user's text.

    Raises:
        ConfigError: The engine does not accept this as a prompt, or the template has no system turn.
    """
    can = engine.capabilities
    if not (can.plain_text and can.exact_prompts and can.chat_template):
        raise ConfigError(
            "KS203",
            "[generate] strategies: magpie needs an engine on this machine and a model with a chat template; "
            "remove magpie or change the model",
        )
    messages = [{"role": "system", "content": system}, {"role": "user", "content": USER_MARK}]
    before, mark, _ = engine.render(messages).partition(USER_MARK)
    if not mark or squash(system) not in squash(before):
        raise ConfigError(
            "KS204", "[generate] strategies: magpie needs a chat template with a system turn; remove magpie"
        )
    return before


def _self_instruct(context: StrategyContext, category: str, count: int, rng: random.Random) -> list[InstructionRequest]:
    ask = _ask_for_whole_tasks if context.asks_in_chats else _continue_list
    return ask(context, category, count, rng)


def _ask_for_whole_tasks(
    context: StrategyContext, category: str, count: int, rng: random.Random
) -> list[InstructionRequest]:
    """Return requests for whole tasks, with a text in the share of the category's seeds that have one."""
    config, topics, requests = context.config, context.topics, []
    for _ in range(count):
        text, examples = context.examples.choose(category)
        context.demonstrations.count_shown(examples)
        topic = topics.choose(category, rng)
        subjects = [(topics.describe(row), row) for row in examples]
        messages = task_messages(context.templates, category_words(category), subjects, topic, text=text)
        sampling = {**context.sampling, "max_tokens": config.max_instruction_tokens + text * config.max_input_tokens}
        request = messages_request(
            context.engine, messages, "instruction", **sampling, stop=TASK_STOP if text else BARE_STOP
        )
        requests.append(InstructionRequest(request, tuple(examples), topic=topic, whole=True, text=text))
    return requests


def _continue_list(context: StrategyContext, category: str, count: int, rng: random.Random) -> list[InstructionRequest]:
    config, requests = context.config, list[InstructionRequest]()
    while len(requests) < count:
        parents = context.demonstrations.choose(
            category, config.human_demonstrations, config.machine_demonstrations, rng
        )
        prompt = context.templates.render(
            "self_instruct",
            category=category_words(category),
            tasks=[squash(task_of(row)) for row in parents],
            chat=not context.engine.capabilities.plain_text,
        )
        request = text_request(context.engine, prompt, "instruction", context.sampling, INSTRUCTION_STOP)
        samples = min(config.samples_per_prompt, count - len(requests))
        requests += [InstructionRequest(request, tuple(parents))] * samples
    return requests


def _evolve(context: StrategyContext, category: str, count: int, rng: random.Random) -> list[InstructionRequest]:
    requests = []
    for _ in range(count):
        parent = context.demonstrations.choose_parent(category, rng)
        operator = rng.choice(sorted(OPERATORS))
        prompt = context.templates.render(
            "evolve", category=category_words(category), task=task_of(parent), operator=OPERATORS[operator]
        )
        request = chat_request(context.engine, prompt, "evolve", **context.sampling)
        requests.append(InstructionRequest(request, (parent,), operator))
    return requests


def _magpie(context: StrategyContext, category: str, count: int, _: random.Random) -> list[InstructionRequest]:
    system = context.templates.render("magpie", category=category_words(category))
    request = Request(prompt_before_user_turn(context.engine, system), "magpie", **context.sampling)
    return [InstructionRequest(request)] * count


STRATEGIES: dict[str, Strategy] = {
    each.name: each
    for each in (
        Strategy("self_instruct", _self_instruct, read_instruction),
        Strategy("evolve", _evolve, read_task),
        Strategy("magpie", _magpie, str.strip),
        Strategy("constraint", _self_instruct, read_instruction, constrained=True),
    )
}
