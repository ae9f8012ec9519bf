"""The check that a test instance survives a reboot: it comes back, with the host key it had."""

from __future__ import annotations

import time

from fedimg.aws.boot.checks import BrokenOff, result
from fedimg.aws.instance import scripts
from fedimg.aws.instance.attempts import Attempts, Started
from fedimg.exceptions import EC2ServiceException
from fedimg.progress import CheckResult, CheckState
from fedimg.ssh import client

NAME = "reboot"
#: Pause between two looks at which boot answers, in seconds.
_PAUSE = 1.0
#: The longest that a look may take, in seconds.
_LOOK = 60.0


def survived(
    attempts: Attempts, started: Started, user: str, session: client.Session
) -> CheckResult:
    """Reboot the instance that `session` is on, and log in again.

    EC2 reboots as its own users have it done, and by force what does not shut down for some
    minutes (EC2 RebootInstances). Raises BrokenOff when the instance does not come back, or with
    another host key.
    """
    began = time.monotonic()
    command = scripts.as_root("boot/check_scripts/boot.sh", "sh")

    def failed(problem: str, *, broke: bool = False) -> BrokenOff:
        return BrokenOff(NAME, began, problem, broke=broke)

    try:
        marked = session.run(command, given=b"mark\n", limit=_LOOK, idle=_LOOK)
    except client.SSHError as error:
        raise failed(str(error), broke=error.broke) from error
    if marked.status != 0:
        raise failed(
            f"could not note the current boot on the instance: {marked.output}{marked.errors}"
        )
    attempts.reboot(started)
    session.close()
    limits = attempts.settings.limits
    # As for a fresh instance: to a machine that runs, and from there to a login.
    limit = limits.instance_running + limits.ssh_ready
    reason = "the instance still runs the boot from before"
    while time.monotonic() - began < limit:
        try:
            with attempts.login(started, user) as (_, fresh):
                asked = fresh.run(command, given=b"ask\n", limit=_LOOK, idle=_LOOK)
        except client.HostKeyMismatch as error:
            raise failed(f"after the reboot: {error}") from error
        except client.SSHError as error:
            # The login was to the boot that is just ending, or nobody could log in at all.
            reason = str(error)
        except EC2ServiceException as error:
            raise failed(f"after the reboot: {error.problem}") from error
        else:
            if asked.status == 0:
                return result(NAME, CheckState.PASSED, began, "came back with the same host key")
        attempts.waiter.pause(_PAUSE)
    raise failed(f"timed out after {limit:g} s waiting for a login after the reboot: {reason}")
