"""After a reboot, the boot from before is not taken for the one that is waited for.

tests/services/test_checks.py reboots instances.
"""

import pytest

from fedimg.aws.boot.reboot import more_telling
from fedimg.ssh.client import Reached, SSHError


def error(reached: Reached) -> SSHError:
    return SSHError(reached.value, reached=reached)


@pytest.mark.parametrize(
    ("stages", "told"),
    [
        # The boot from before answers for a moment, breaks the connection, refuses its user while
        # it shuts down, and is gone.
        ([Reached.LOGIN, Reached.SERVER, Reached.NOTHING, Reached.NOTHING], Reached.NOTHING),
        ([Reached.LOGIN, Reached.CLOSED], Reached.CLOSED),
        ([Reached.LOGIN, Reached.NOTHING, Reached.SERVER], Reached.SERVER),
        # The one that came furthest, of the boot that is waited for.
        ([Reached.NOTHING, Reached.SERVER, Reached.PORT], Reached.SERVER),
        ([Reached.CLOSED, Reached.NOTHING], Reached.CLOSED),
    ],
)
def test_tries_at_the_boot_that_ended_are_forgotten(stages: list[Reached], told: Reached) -> None:
    last = None
    for stage in stages:
        last = more_telling(last, error(stage))
    assert last is not None
    assert last.reached is told
