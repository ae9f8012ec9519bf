"""Tell how the steps of an image's regions ended, together: what is public, and what failed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from copy import copy
from dataclasses import dataclass, field

from fedimg.exceptions import EC2ServiceException
from fedimg.images import AMI


@dataclass(frozen=True)
class Result:
    """The AMIs that are public or shared now, by region, and the regions that failed, with reasons.

    Of the failed, `later` names those where a later run may succeed before a person has changed
    something, and `unknown` those of which it is not known whether one may. The others are final.
    `encrypted` are the encrypted AMIs, in the reach of the audience alone; where they failed, the
    region is among the failed, though its other AMIs are public.
    """

    published: Mapping[str, Sequence[AMI]] = field(default_factory=dict)
    failed: Mapping[str, str] = field(default_factory=dict)
    later: Sequence[str] = ()
    unknown: Sequence[str] = ()
    encrypted: Mapping[str, Sequence[AMI]] = field(default_factory=dict)


@dataclass(frozen=True)
class Outcome:
    """The end of a region's steps: which AMIs are public, and which of the encrypted are shared.

    Without an `error` these are all that are wanted.
    """

    region: str
    amis: Sequence[AMI]
    error: EC2ServiceException | None = None
    encrypted: Sequence[AMI] = ()


def result_of(ended: Sequence[Outcome], origin: str) -> Result:
    """Return where an image is public when the steps of all its regions have ended.

    When it is public nowhere, raises the failure that tells whether the job is retried.
    """
    published = {each.region: each.amis for each in ended if each.amis or not each.error}
    failed = {outcome.region: outcome.error for outcome in ended if outcome.error}
    if not published:
        of_origin = failed.pop(origin, None)
        raise _most_hopeful([*([of_origin] if of_origin else []), *failed.values()])
    return Result(
        published,
        {region: str(error) for region, error in failed.items()},
        [region for region, error in failed.items() if error.later or error.continues],
        [region for region, error in failed.items() if error.unknown],
        {each.region: each.encrypted for each in ended if each.encrypted},
    )


def one_of(failures: Sequence[EC2ServiceException]) -> EC2ServiceException | None:
    """Return the failure of a region whose AMIs failed, with the text of the other failure.

    It is the one that may pass, so that a final one does not end the tries. None without failures.
    """
    if len(failures) < 2:
        return next(iter(failures), None)
    hopeful = _most_hopeful(failures)
    # Other regions may be reading the failure itself.
    told = copy(hopeful)
    told.__cause__ = hopeful
    told.problem = f"{failures[0].problem}; and of its encrypted AMIs: {failures[1].problem}"
    return told


def _most_hopeful(errors: Sequence[EC2ServiceException]) -> EC2ServiceException:
    """Return the failure of a job that failed everywhere: the first of those that may pass.

    Where one region can have the image later, the job is retried for it, whatever the others say.
    """

    def hope(error: EC2ServiceException) -> tuple[bool, bool, bool]:
        return (error.continues, error.later, bool(error.unknown))

    return max(errors, key=hope)
