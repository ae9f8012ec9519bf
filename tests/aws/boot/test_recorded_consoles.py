"""Diagnoses of broken images by the consoles that virtual machines really printed.

Follows fedimg/aws/boot/diagnosis.py, lab/broken.py.

`python -m tests.record_consoles KIND …` records them; tests/system/test_broken_images.py and, in
`make test-long`, test_every_broken_image.py have whole sites boot such images.
"""

import re

import pytest

from fedimg.aws.boot.diagnosis import diagnose
from fedimg.ssh.client import Reached
from lab.broken import BREAKS
from tests import record_consoles
from tests.system.broken_images import EXPECTED

#: Boots, and lets its user in: its checks find what is wrong.
LETS_IN = "failed-unit"
RECORDED = sorted(path.stem for path in record_consoles.CONSOLES.iterdir())


@pytest.mark.parametrize("kind", RECORDED)
def test_recorded_console_gives_the_diagnosis_of_the_real_boot(kind: str) -> None:
    words, shown = EXPECTED[kind]
    evidence = record_consoles.read(kind)
    assert re.search(shown, evidence.console)
    assert (evidence.reached is Reached.LOGIN) == (kind == LETS_IN)
    if kind != LETS_IN:
        assert words in diagnose(evidence)


def test_every_fault_of_the_lab_has_a_recorded_console() -> None:
    assert {"damaged", "no-boot-loader"} <= set(RECORDED) <= set(BREAKS)
