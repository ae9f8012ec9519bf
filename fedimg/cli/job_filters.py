"""Read the options that choose jobs and AMIs, and refuse values that nothing can match."""

from __future__ import annotations

import difflib
import time
from collections.abc import Collection, Iterable

from fedimg.cli.app import CommandRefused, ExitCode
from fedimg.untrusted.times import parse_time

#: How many ended jobs a list for people has at most.
SHOWN_JOBS = 50


def known_states(states: Iterable[str]) -> set[str]:
    """Return the states. Raises CommandRefused if a job cannot have one of them."""
    from fedimg.store.rows import ENDED, LIVE

    wanted = set(states)
    for state in sorted(wanted - {*LIVE, *ENDED}):
        _refuse("state", state, [*LIVE, *ENDED])
    return wanted


def beginning(since: str | None) -> float:
    """Return a time, or the time of an age, in seconds since the epoch; 0 for None.

    Raises CommandRefused if the text is neither.
    """
    if since is None:
        return 0.0
    try:
        return parse_time(since, time.time())
    except ValueError as error:
        raise CommandRefused(ExitCode.UNUSABLE, f"--since: {error}") from error


def refuse_unknown_region(region: str, known: Collection[str]) -> None:
    """Raise CommandRefused if this site has nothing to do with a region."""
    if region not in known:
        _refuse("region", region, known)


def refuse_unknown_type(name: str) -> None:
    """Raise CommandRefused if a name is no AMI type, nor a part of one."""
    from fedimg.images import TYPE_PARTS, AMIType

    if name in TYPE_PARTS:
        return
    try:
        AMIType.parse(name)
    except ValueError:
        _refuse("AMI type", name, TYPE_PARTS)


def refuse_unknown_ami_state(state: str) -> None:
    """Raise CommandRefused if an AMI cannot have a state."""
    from fedimg.store.rows import STATES

    if state not in STATES:
        _refuse("state of an AMI", state, STATES)


def _refuse(what: str, value: str, known: Collection[str]) -> None:
    close = difflib.get_close_matches(value, known, 1)
    hint = f"did you mean {close[0]}?" if close else f"known are {', '.join(sorted(known))}"
    raise CommandRefused(ExitCode.UNUSABLE, f'unknown {what} "{value}": {hint}')
