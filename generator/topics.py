"""Subjects for new tasks, so that the writer model does not write the same task again and again.

A file of subjects has one on each line, "category: subject" for one category or a subject alone for all. Without a file the
subjects are those of the user's own seeds, described by their most characteristic words: a new task of one category may be
about what a seed of another category is about.
"""

import random
from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from difflib import get_close_matches
from pathlib import Path
from typing import Any

from kiloset.core.errors import ConfigError, EmptyError
from kiloset.core.text import words

LONGEST = 200
"""Longest subject, in characters."""
CHARACTERISTIC = 3
"""Words that describe what a seed is about."""
SHORTEST_WORD = 4
"""Shorter words seldom describe a subject."""
FUNCTION_WORDS = frozenset([
    "about", "after", "again", "also", "answer", "anything", "because", "been", "before", "being", "below", "could",
    "does", "each", "every", "exactly", "following", "from", "give", "have", "here", "into", "just", "less", "like",
    "list", "made", "make", "many", "more", "most", "must", "need", "only", "other", "over", "please", "same",
    "sentence", "should", "some", "such", "tell", "text", "than", "that", "their", "them", "then", "there", "these",
    "they", "this", "those", "under", "very", "what", "when", "where", "which", "while", "will", "with", "word",
    "words", "would", "write", "your",
])  # fmt: skip
"""English words that say how a task is put, not what it is about."""


def read_topics(path: str, categories: Collection[str]) -> dict[str, list[str]]:
    """Return the subjects of a file by category, those for all categories under "".

    Raises:
        ConfigError: The file cannot be read, a line is too long, or a line names a category that is nearly a known one.
        EmptyError: The file has no subject.
    """
    try:
        lines = Path(path).read_text(encoding="utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError("KS210", f"[generate] topics: {path}: cannot be read ({error})") from None
    topics: dict[str, list[str]] = {}
    for number, line in enumerate(lines, start=1):
        text = line.strip()
        if not text or text.startswith("#"):
            continue
        if len(text) > LONGEST:
            raise ConfigError("KS211", f"{path}:{number}: a subject has at most {LONGEST} characters, got {len(text)}")
        before, colon, after = (part.strip() for part in text.partition(":"))
        if colon and before not in categories and (near := get_close_matches(before, categories, 1, 0.85)):
            raise ConfigError("KS212", f"{path}:{number}: no category is named {before!r}; did you mean {near[0]!r}?")
        category, topic = (before, after) if colon and before in categories else ("", text)
        if topic and topic not in topics.setdefault(category, []):
            topics[category].append(topic)
    if not any(topics.values()):
        raise EmptyError("KS213", f"{path}: has no subject; write one on each line")
    return topics


class Topics:
    """Chooses the subject of each new task: one that was used least, at random among those."""

    def __init__(self, topics: Mapping[str, Sequence[str]], seeds: Mapping[str, Sequence[Mapping[str, Any]]]) -> None:
        """Start with the subjects of a file by category ("" for all), else with those of the seeds."""
        every = [row for rows in seeds.values() for row in rows]
        self._texts = Counter(word for row in every for word in set(_content_words(row)))
        self._topics = topics
        self._of_seeds = list(dict.fromkeys(filter(None, map(self.describe, every)))) if not topics else []
        self._used: Counter[tuple[str, str]] = Counter()

    def describe(self, row: Mapping[str, Any]) -> str:
        """Return a row's own topic, else the words that are frequent in it and rare in the seeds; "" if it has none."""
        if topic := row.get("topic"):
            return str(topic)
        counts = Counter(_content_words(row))
        best = sorted(counts, key=lambda word: (-counts[word] / (1 + self._texts[word]), word))
        return ", ".join(best[:CHARACTERISTIC])

    def choose(self, category: str, rng: random.Random) -> str:
        """Return the subject of the next task of a category; "" if there are none."""
        own = self._topics.get(category)
        available = own or self._topics.get("") or self._of_seeds
        if not available:
            return ""
        least = min(self._used[category, topic] for topic in available)
        topic = rng.choice([topic for topic in available if self._used[category, topic] == least])
        self._used[category, topic] += 1
        return topic


def _content_words(row: Mapping[str, Any]) -> Iterable[str]:
    text = f"{row['instruction']} {row['input']}"
    return [
        word
        for word in words(text)
        if len(word) >= SHORTEST_WORD and word not in FUNCTION_WORDS and not word.isnumeric()
    ]
