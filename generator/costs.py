"""The most that one new row can cost, before it is asked for: what keeps a budget from being exceeded.

A prompt has at most as many tokens as bytes, and text that the model wrote at most as many as it was allowed. That is
generous, by a factor of about three: a budget is used up in a few waves, each of which may spend what the one before
left over.
"""

from kiloset.generator.evolve import OPERATORS
from kiloset.generator.lives import INPUT_DEMONSTRATIONS, STRATEGIES, Lives
from kiloset.generator.magpie import before_user
from kiloset.generator.planning import Pair
from kiloset.generator.strategy import readable
from kiloset.generator.templates import Templates

SLACK = 16
"""Tokens for begin and end of a text, and for where two pieces meet."""
CONSTRAINTS = 800
"""Most bytes of the words for a row's constraints."""


class Costs:
    """Upper bounds per category and strategy."""

    def __init__(self, lives: Lives, templates: Templates) -> None:
        """Look at the seeds and the settings."""
        self._lives, self._config, self._templates = lives, lives.config, templates

    def requests(self, pair: Pair) -> int:
        """Return the most requests a row takes: its instruction, input and answers."""
        category, strategy = pair
        return 1 + int(self._lives.takes_input(category)) + self._answers(strategy)

    def tokens(self, pair: Pair) -> int:
        """Return the most tokens a row takes, prompts included."""
        return self._birth(*pair) + self.rest(pair)

    def rest(self, pair: Pair) -> int:
        """Return the most tokens a row takes after its instruction has come."""
        category, strategy = pair
        config, given = self._config, 0
        constraints = CONSTRAINTS if STRATEGIES[strategy].constrained else 0
        if self._lives.takes_input(category):
            given = config.max_input_tokens
            examples = sorted(
                self._lives.shown.with_inputs(category),
                key=lambda row: -_bytes(row["input"], row["instruction"], row["response"]),
            )
            shown = [
                {"task": row["instruction"], "text": row["input"], "answer": row["response"]}
                for row in examples[:INPUT_DEMONSTRATIONS]
            ]
            names = ("input", "labelled_input")
            longest = max(_bytes(self._templates.render(n, task="", examples=shown, chat=True)) for n in names)
            given += longest + config.max_instruction_tokens + config.max_input_tokens + SLACK
        # What precedes an answer: the empty chat, the instruction with its constraints, the input.
        turn = _bytes(self._lives.engine.render([{"role": "user", "content": ""}])) + SLACK + constraints
        turn += config.max_instruction_tokens + (config.max_input_tokens if given else 0)
        return given + self._answers(strategy) * (turn + config.max_response_tokens)

    def _answers(self, strategy: str) -> int:
        return self._config.constraint_samples if STRATEGIES[strategy].constrained else 1

    def _birth(self, category: str, strategy: str) -> int:
        config, written = self._config, self._config.max_instruction_tokens
        tasks = sorted((row["instruction"] for row in self._lives.seeds[category]), key=_bytes, reverse=True)
        if strategy == "magpie":
            system = self._templates.render("magpie", category=readable(category))
            return _bytes(before_user(self._lives.engine, system)) + SLACK + written
        if strategy == "evolve":
            operator = max(OPERATORS.values(), key=_bytes)
            prompt = self._templates.render("evolve", category=readable(category), task=tasks[0], operator=operator)
            return _bytes(self._lives.engine.render([{"role": "user", "content": prompt}])) + 2 * written + SLACK
        total = config.human_demonstrations + config.machine_demonstrations
        prompt = self._templates.render("self_instruct", category=readable(category), tasks=tasks[:total], chat=True)
        around = _bytes(self._lives.engine.render([{"role": "user", "content": ""}]))
        return _bytes(prompt) + around + (config.machine_demonstrations + 1) * written + SLACK


def _bytes(*texts: str) -> int:
    return sum(len(text.encode()) for text in texts)
