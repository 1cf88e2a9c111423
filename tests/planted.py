"""Instruction sets without faults, and sets with faults at known lines."""

import json
import random

from kiloset.core.text import words

NOUNS = words(
    "garden river teacher engine market forest bridge kitchen library mountain village harbour orchestra painter doctor farmer window"
    " station blanket lantern carpet compass ladder whistle saddle anchor basket candle helmet pillow ribbon tunnel valley wagon museum"
    " theatre airport stadium cottage chapel meadow desert island glacier volcano canyon lagoon reservoir windmill lighthouse workshop"
    " bakery brewery nursery pharmacy hospital university parliament courthouse embassy monastery fortress cathedral observatory"
)
VERBS = words(
    "repairs paints crosses visits measures protects carries follows watches cleans designs borrows describes explores remembers"
    " celebrates collects decorates examines improves inspects invents launches organises photographs predicts promises purchases"
    " questions rebuilds rescues rewards sketches supports translates transports welcomes"
)
WORDS = words(
    "quiet ancient wooden bright narrow gentle hollow crooked silver dusty frozen golden humble famous modern northern southern eastern"
    " western distant hidden lonely patient stubborn curious cheerful careful clever elegant fragile generous honest joyful lively"
    " mighty nervous peaceful polite reliable sensible talented thoughtful valuable wealthy youthful adventurous beautiful comfortable"
)
ASKS = ("Tell me how", "Explain why", "Describe how", "Say whether", "Show where", "Discuss when", "Work out why")
CATEGORIES = ("maths", "code", "writing", "planning", "open_qa", "summarising")


def sentence(rng):
    """Return an English sentence of words drawn at random."""
    one, two, three = (f"{rng.choice(WORDS)} {rng.choice(NOUNS)}" for _ in range(3))
    return f"the {one} {rng.choice(VERBS)} every {two} beside the {three} after the {rng.choice(NOUNS)}"


def clean(number, seed=0):
    """Return rows in which nothing is wrong."""
    rng = random.Random(seed)
    rows = []
    for at in range(number):
        answer = " ".join(
            f"{rng.choice(WORDS).capitalize()} {rng.choice(NOUNS)}s and {sentence(rng)}." for _ in range(3)
        )
        rows.append(
            {
                "instruction": f"{rng.choice(ASKS)} {sentence(rng)}.",
                "input": "" if at % 4 else f"In short, {sentence(rng)}.",
                "response": answer,
                "category": CATEGORIES[at % len(CATEGORIES)],
                "license": "Apache-2.0",
            }
        )
    return rows


def write(path, rows):
    """Write rows, or lines that are text already, one a line."""
    lines = [row if isinstance(row, str) else json.dumps(row, ensure_ascii=False) for row in rows]
    path.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
    return path


def faulty(folder):
    """Write a set of 1,200 lines and a benchmark; return both files and, by fault, the lines that have it."""
    rng, rows = random.Random(1), clean(998, seed=2)
    asked = [f"Which {sentence(rng)}, and who of the {rng.choice(NOUNS)} saw it?" for _ in range(50)]
    at = {
        name: range(start, start + size)
        for name, start, size in (("cut", 200, 30), ("leak", 240, 10), ("mail", 260, 3))
    }
    for number in at["cut"]:
        rows[number]["response"] = cut(rows[number]["response"], number % 3, rng)
    for number, prompt in zip(at["leak"], asked, strict=False):
        rows[number] |= {"instruction": prompt, "input": ""}
    for number in at["mail"]:
        rows[number]["response"] += f" Write to person{number}@harbour-post.org for more."
    exact = [
        {**row, "instruction": row["instruction"].upper() if number % 2 else row["instruction"]}
        for number, row in enumerate(rows[:100])
    ]
    near = [{**row, "instruction": row["instruction"].replace("the ", "the very ", 1)} for row in rows[100:200]]
    rows += exact + near
    for number, row in enumerate(rows):
        row["category"] = "maths" if number % 5 < 3 else CATEGORIES[1 + number // 5 % 5]
        row["license"] = ("Apache-2.0", "Apache-2.0", "CC-BY-SA-4.0", "CC-BY-NC-4.0")[number % 4]
    broken = {500: '{"instruction": "Tell me", "response": ', 900: '["no", "object"]'}
    lines = list(rows)
    for number, text in broken.items():
        lines.insert(number - 1, text)
    line_of = [number for number, line in enumerate(lines, 1) if not isinstance(line, str)]
    planted = {
        "exact_duplicate": {line_of[number] for number in range(998, 1098)},
        "near_duplicate": {line_of[number] for number in range(1098, 1198)},
        "response_cut": {line_of[number] for number in at["cut"]},
        "contaminated": {line_of[number] for number in at["leak"]},
        "personal_data": {line_of[number] for number in at["mail"]},
        "broken_line": set(broken),
    }
    return (
        write(folder / "set.jsonl", lines),
        write(folder / "bench.jsonl", [{"question": text} for text in asked]),
        planted,
    )


def cut(answer, how, rng):
    """Cut an answer after a word that ends no sentence, after a comma, or within a word."""
    words_of_answer = answer.split()
    if how == 0:
        return " ".join(
            [*words_of_answer[:12], "and", sentence(rng).replace(" after", ", after").split(",")[0], "because the"]
        )
    if how == 1:
        return " ".join(words_of_answer[:20]).rstrip(".,") + ","
    long = rng.choice([word for word in (*NOUNS, *WORDS) if len(word) > 8])
    half = long[: rng.randrange(5, len(long) - 2)]
    return " ".join([*words_of_answer[:18], f"{rng.randrange(10_000)}. Nobody of the", half])
