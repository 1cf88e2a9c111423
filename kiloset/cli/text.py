"""Text for a terminal: hostile characters escaped, durations in words."""

import math


def printable(text: str) -> str:
    r"""Return a text as one line that cannot control a terminal: control characters become escapes such as `\x1b`."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode("ascii") for c in text)


def duration(seconds: float | None) -> str:
    """Return a time in words, to about two digits; `?` if it is unknown."""
    if seconds is None or not math.isfinite(seconds):
        return "?"
    minutes = round(seconds / 60)
    if seconds < 99.5:
        return f"{seconds:.0f} s"
    if minutes < 100:
        return f"{minutes} min"
    if minutes < 48 * 60:
        return f"{minutes // 60} h {minutes % 60:02d} min"
    return f"{minutes // 1440} d {minutes % 1440 // 60} h"
