"""docs/faq.md: each question that users asked has an answer, with commands that exist.

Follows docs/faq.md.
"""

import re
from pathlib import Path

import pytest

from fedimg.cli.commands import MODULES

PAGE = (Path(__file__).parents[1] / "docs/faq.md").read_text()
#: A word of each question that users of such tools asked and found nowhere.
ASKED = (
    "environment",
    "hub is alive",
    "withdraw",
    "restore a backup",
    "rebuild",
    "rehearse",
    "utility AMI",
    "image cost",
    "failed job cost",
)


@pytest.mark.parametrize("words", ASKED)
def test_question_has_an_answer(words: str) -> None:
    sections = re.split(r"(?m)^## ", PAGE)[1:]
    (answer,) = (each for each in sections if words in each.splitlines()[0])
    assert len(answer.split()) > 20


def test_commands_that_the_answers_name_exist() -> None:
    known = set(MODULES)
    named = set(re.findall(r"(?:`|^ {4})(?:sudo -u fedimg )?fedimg ([a-z][a-z-]*)", PAGE, re.M))
    assert named
    assert named <= known
