"""The text of a check's result: what a person needs of a long output, without half words.

Follows fedimg/aws/boot/checks.py.
"""

from __future__ import annotations

import pytest

from fedimg.aws.boot.checks import SHORT, shortened


def test_long_output_keeps_its_beginning_and_its_end_in_whole_words() -> None:
    words = [f"word{number}" for number in range(1000)]
    short = shortened(" ".join(words))
    assert len(short) <= SHORT
    beginning, end = short.split(" … ")
    assert beginning.split() == words[: len(beginning.split())]
    assert end.split() == words[-len(end.split()) :]
    assert len(short) > SHORT - 30


@pytest.mark.parametrize("text", ["", "short", "x" * SHORT])
def test_short_output_stays(text: str) -> None:
    assert shortened(text) == text


def test_one_long_word_is_split() -> None:
    assert len(shortened("x" * 5000)) == SHORT - 1
