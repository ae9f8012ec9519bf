"""Check that a test instance comes back from a reboot with the same host key."""

from __future__ import annotations

import time

from fedimg.aws.boot.checks import BrokenOff, result
from fedimg.aws.boot.diagnosis import Evidence, diagnose, since_reboot
from fedimg.aws.instance import scripts
from fedimg.aws.instance.attempts import Attempts, Started
from fedimg.exceptions import EC2ServiceException
from fedimg.progress import CheckResult, CheckState
from fedimg.ssh import client
from fedimg.ssh.client import Reached

NAME = "reboot"
#: The pause between two login attempts, in seconds.
_RETRY_SECONDS = 1.0
#: The stages of a login, in their order: the try that came furthest tells the most.
_STAGES = (
    Reached.NOTHING,
    Reached.CLOSED,
    Reached.PORT,
    Reached.HOST_KEY,
    Reached.SERVER,
    Reached.LOGIN,
)
#: A machine that answers so is not there any more, or not yet.
_AWAY = (Reached.NOTHING, Reached.CLOSED)
#: The first of the times, in seconds, after each of which the tries at a login are judged; each is
#: twice the one before. The first ones see the boot from before end, and the longest the other.
_JUDGED_SECONDS = 10.0
#: The timeout of one command, in seconds.
_COMMAND_SECONDS = 60.0


def survived(
    attempts: Attempts, started: Started, user: str, session: client.Session
) -> CheckResult:
    """Reboot the instance of `session`, and log in again.

    EC2 asks the instance to shut down, and forces it after some minutes (EC2 RebootInstances).
    Raises BrokenOff when the instance does not come back, or has another host key.
    """
    began = time.monotonic()
    command = scripts.as_root("sh", "boot/check_scripts/boot.sh")

    def failed(problem: str, *, broke: bool = False) -> BrokenOff:
        return BrokenOff(NAME, began, problem, broke=broke)

    try:
        marked = session.run(
            command, stdin=b"mark\n", limit=_COMMAND_SECONDS, idle=_COMMAND_SECONDS
        )
    except client.SSHError as error:
        raise failed(str(error), broke=error.broke) from error
    if marked.status != 0:
        raise failed(
            f"could not note the current boot on the instance: {marked.output}{marked.errors}"
        )
    attempts.reboot(started)
    session.close()
    limits = attempts.settings.limits
    # As for a new instance: the time until it runs, and from there until a login.
    limit = limits.instance_running + limits.ssh_ready
    deadline = began + limit
    last: client.SSHError | None = None
    judged = _JUDGED_SECONDS
    while (left := deadline - time.monotonic()) > 0:
        try:
            with attempts.login(started, user, within=left, tries=judged) as (_, fresh):
                answer = fresh.run(
                    command, stdin=b"ask\n", limit=_COMMAND_SECONDS, idle=_COMMAND_SECONDS
                )
        except client.HostKeyMismatch as error:
            raise failed(f"after the reboot: {error}") from error
        except client.SSHError as error:
            # The old boot was shutting down, or no login was possible yet.
            last = more_telling(last, error)
            if error.reached is not Reached.LOGIN:
                judged *= 2
        except EC2ServiceException as error:
            raise failed(f"after the reboot: {error.problem}") from error
        else:
            if answer.status == 0:
                return result(NAME, CheckState.PASSED, began, "came back with the same host key")
        attempts.waiter.pause(_RETRY_SECONDS)
    reason = _explained(attempts, started, last)
    raise failed(f"timed out after {limit:g} s waiting for a login after the reboot: {reason}")


def more_telling(before: client.SSHError | None, now: client.SSHError) -> client.SSHError:
    """Return which of two failures in a row says more of the boot that is waited for.

    The one that came further, unless the machine has gone away since: that was the boot before.
    """
    if before is None or (now.reached in _AWAY and before.reached not in _AWAY):
        return now
    return now if _STAGES.index(now.reached) >= _STAGES.index(before.reached) else before


def _explained(attempts: Attempts, started: Started, error: client.SSHError | None) -> str:
    """Return why nobody could log in after the reboot, with what the console says of that boot."""
    if error is None:
        return "the instance still runs the boot from before"
    if error.reached is Reached.LOGIN:
        return str(error)
    second = since_reboot(attempts.console(started))
    if not second:
        return f"{error}; the console has nothing of the second boot"
    evidence = Evidence(second, attempts.status(started), error.reached)
    return f"{diagnose(evidence)}; {error}"
