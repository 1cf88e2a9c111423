"""Numbers as the gate and the duplicate filter read them."""

import pytest

from kiloset.core.text import numbers


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("3,000", ["3000"]),
        ("1 000", ["1000"]),
        ("1\u00a0000\u202f000", ["1000000"]),
        ("in 2020 500 people came", ["2020", "500"]),
        ("5 10 200", ["5", "10", "200"]),
        ("1, 2, 3", ["1", "2", "3"]),
        ("2.5%", ["2.5"]),
        ("$1,250.50", ["1250.5"]),
        (".5 or 0.50 or 007", ["0.5", "0.5", "7"]),
        ("10-12", ["10", "12"]),
        ("COVID-19", ["19"]),
        ("3rd", ["3"]),
        ("5km", ["5"]),
        ("2024-05-01", ["2024", "5", "1"]),
        ("1995–2000", ["1995", "2000"]),
        ("v1.2.3", ["1.2", "3"]),
        ("It was -5 or −6 outside.", ["-5", "-6"]),
        ("f(2)-5 and -0", ["2", "5", "0"]),
        ("٣ and \uff14", ["3", "4"]),
        ("² is no digit", []),
    ],
)
def test_a_number_has_one_canonical_form(text: str, expected: list[str]) -> None:
    assert numbers(text) == expected


@pytest.mark.parametrize(
    "text",
    [
        "1. one\n2. two",
        "  3) three",
        "(4) four",
        "**5.** five",
        "### 6. Six",
        "- 7. seven",
        "Step 8: go",
        "**Step 9**\nx",
    ],
)
def test_list_numbering_is_not_a_number(text: str) -> None:
    assert numbers(text) == []


@pytest.mark.parametrize("text", ["The answer is\n42.", "42.\nDone", "1999. What a year", "at 3:45"])
def test_a_number_that_only_looks_like_list_numbering_stays(text: str) -> None:
    assert numbers(text) != []


@pytest.mark.parametrize(
    ("piece", "count"),
    [("\n", 0), (" ", 0), ("1", 1), ("1,111", 200_001), ("1 111", 200_001), ("-", 0), ("*", 0), ("step ", 0)],
)
@pytest.mark.timeout(20)  # 0.1 s of work; a pattern that tries every start and every end takes a minute
def test_the_numbers_of_a_long_run_are_read_without_quadratic_time(piece: str, count: int) -> None:
    assert len(numbers(piece * 200_000 + "x")) == count
