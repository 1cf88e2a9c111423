"""A user turn that the model writes itself, given nothing but its own chat template up to there.

Xu et al., "Magpie: Alignment Data Synthesis from Scratch by Prompting Aligned LLMs with Nothing" (ICLR 2025,
arXiv:2406.08464). Departure: a system turn names the category, so that what is scarce can be asked for. It needs an
engine that takes the template's beginning as it is.
"""

import random

from kiloset.core.errors import ConfigError
from kiloset.core.models import Request
from kiloset.core.text import squash
from kiloset.generator.strategy import Birth, Setting, Strategy, Writer, readable

MARK = "\x00"


def before_user(engine: Writer, system: str) -> str:
    """Return the model's chat template up to where the user begins to write.

    Raises:
        ConfigError: The engine does not take it, or the template has no system turn.
    """
    if not (engine.raw and engine.transparent and engine.templated):
        raise ConfigError(
            "KS203",
            "[generate] strategies: magpie needs an engine that runs the model here and a model with a chat template; "
            "leave it out",
        )
    rendered = engine.render([{"role": "system", "content": system}, {"role": "user", "content": MARK}])
    before, found, _ = rendered.partition(MARK)
    if not found or squash(system) not in squash(before):
        raise ConfigError(
            "KS204", "[generate] strategies: magpie needs a chat template with a system turn; leave it out"
        )
    return before


def ask(setting: Setting, category: str, count: int, rng: random.Random) -> list[Birth]:
    """Return requests for bare user turns; all of a category are samples of one prompt."""
    del rng
    system = setting.templates.render("magpie", category=readable(category))
    request = Request(before_user(setting.engine, system), "magpie", **setting.sampling.as_arguments())
    return [Birth(request)] * count


def read_turn(text: str) -> str:
    """Return the user turn, all of it."""
    return text.strip()


MAGPIE = Strategy("magpie", ask, read_turn)
