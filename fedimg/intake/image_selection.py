"""Look up an announced task, build or compose at its source, and choose the images to publish.

Only the id comes from the announcement (fedimg.intake.announcement).
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import UTC, datetime

from fedimg.config import Koji, Settings
from fedimg.exceptions import Cancelled
from fedimg.formats import FORMATS
from fedimg.images import Architecture, RawImage
from fedimg.intake.deferred import Defer, DeferReason, source_name
from fedimg.process.backoff import Backoff
from fedimg.sources import http
from fedimg.sources.composes import Composes
from fedimg.sources.file_server import Trusted
from fedimg.sources.koji import KojiHub
from fedimg.sources.lookup import (
    LeftOut,
    LookupRefused,
    LookupResult,
    NotFinished,
    SourceFails,
    SourceUnavailable,
)
from fedimg.sources.measure import measure
from fedimg.untrusted import patterns
from fedimg.untrusted.quoting import one_line

#: How long, in seconds, an entry without an answer is retried in the queue before it is deferred.
PATIENCE = 60.0
#: The first pause before a retry, in seconds; each is twice as long as the last.
FIRST_PAUSE = 1.0
_DAY = 86400.0
#: The most files of an entry that are logged as left out, each in a line.
_MOST_LOGGED = 200

_log = logging.getLogger(__name__)


class Sources:
    """The sources of entries: the Koji hub for tasks and builds, locations for composes."""

    def __init__(self, settings: Settings) -> None:
        self._hub = KojiHub(settings.koji)
        self._composes = Composes(settings.composes)

    def find(self, entry: str) -> LookupResult:
        """Look an entry up at its source; return its owner, times and images.

        Raises SourceUnavailable, SourceFails, NotFinished or LookupRefused.
        """
        return (self._composes if entry.startswith("compose:") else self._hub).find(entry)


@dataclass(frozen=True)
class Decisions:
    """The images of an entry that the site publishes, and the files that it leaves out."""

    chosen: list[RawImage]
    left_out: list[LeftOut]


def decide(result: LookupResult, koji: Koji) -> Decisions:
    """Decide each image of an entry by itself; of one in several formats, choose one.

    The owner is checked first: anyone who may build scratch images can name one Fedora-Cloud-Base.
    The format is chosen last, so that a site's patterns can leave formats out.
    """
    owners = koji.scratch_owners if result.scratch else koji.build_owners
    owner = ""
    if result.owner is not None and result.owner not in owners:
        setting = "scratch_owners" if result.scratch else "build_owners"
        owner = f'its owner "{one_line(result.owner, 80)}" is not in koji.{setting}'
    decided = Decisions([], list(result.left_out))
    for image in result.images:
        if reason := owner or _unwanted(image, koji):
            decided.left_out.append(LeftOut(image.file_name, reason, by_setting=True))
        else:
            decided.chosen.append(image)
    return _in_one_format(decided)


def _in_one_format(decided: Decisions) -> Decisions:
    """Leave out the images that are chosen in a preferred format, too, by the order of FORMATS."""
    best: dict[str, RawImage] = {}
    for image in sorted(decided.chosen, key=_preference):
        best.setdefault(image.name, image)
    one_format = Decisions([], decided.left_out)
    for image in decided.chosen:
        preferred = best[image.name]
        if image.format is preferred.format:
            one_format.chosen.append(image)
        else:
            reason = f"the same image is published from {preferred.file_name}"
            one_format.left_out.append(LeftOut(image.file_name, reason))
    return one_format


def _preference(image: RawImage) -> int:
    return FORMATS.index(image.format)


def log_left_out(entry: str, decided: Decisions) -> None:
    """Log each file that is left out with the reason; of very many, the first with a reason each.

    A whole Fedora has hundreds of files that are no raw images.
    """
    ordered = sorted(decided.left_out, key=lambda each: not each.by_setting)
    for left_out in ordered[:_MOST_LOGGED]:
        _log.info("%s, %s is left out: %s", entry, left_out.name, left_out.reason)
    if (more := len(ordered) - _MOST_LOGGED) > 0:
        _log.info(
            "%s: %d more files are left out; 'fedimg replay --explain %s' names them",
            entry,
            more,
            entry,
        )
    if not decided.chosen and not ordered:
        _log.info("%s has no file at all", entry)


def _unwanted(image: RawImage, koji: Koji) -> str | None:
    if image.architecture not in map(Architecture.from_koji, koji.architectures):
        return f"{image.architecture} is not in koji.architectures"
    if not any(patterns.matches(pattern, image.file_name) for pattern in koji.name_patterns):
        return "its name matches none of koji.name_patterns"
    for pattern in koji.exclude_patterns:
        if patterns.matches(pattern, image.file_name):
            return f'its name matches "{pattern}" of koji.exclude_patterns'
    return None


def too_old(result: LookupResult, days: float) -> str | None:
    """Return why an entry is older than `days` days; None when it is not.

    The age limit is against replayed messages: anybody can send a signed announcement again.
    """
    if result.completed is None:
        return "its finish time is unknown; to publish it anyway, run 'fedimg replay'"
    now = time.time() if result.now is None else result.now
    age = (now - result.completed) / _DAY
    if age <= days:
        return None
    when = datetime.fromtimestamp(result.completed, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    return (
        f"it finished at {when}, {age:.0f} days ago, and intake.max_age_days is {days:g}; to "
        "publish it anyway, run 'fedimg replay --since' with a time before that"
    )


def images_to_publish(
    entry: str,
    sources: Sources,
    settings: Settings,
    stop: threading.Event,
    *,
    any_age: bool = False,
    on_decided: Callable[[Decisions], object] = lambda decided: None,
) -> list[RawImage]:
    """Return the images of an entry that the site publishes; none when the entry is dropped.

    A lookup without an answer is retried for PATIENCE seconds. `any_age` exempts the entry from
    the age limit; `on_decided` gets what was chosen and left out. Raises Defer when there is still
    no answer, Cancelled when `stop` is set.
    """
    koji = settings.koji
    until = time.monotonic() + PATIENCE
    backoff = Backoff(FIRST_PAUSE, koji.retry_seconds)
    tries = 0
    while not stop.is_set():
        tries += 1
        pause = backoff.pause(tries)
        why, reason = DeferReason.SILENT, ""
        try:
            result = sources.find(entry)
            days = settings.intake.max_age_days
            if not any_age and (age_reason := too_old(result, days)):
                _log.warning("%s is dropped: %s", entry, age_reason)
                return []
            decided = decide(result, koji)
            log_left_out(entry, decided)
            measured = [_measured(image, settings) for image in decided.chosen]
            on_decided(decided)
            return measured
        except LookupRefused as error:
            _log.warning("%s is dropped: %s", entry, error)
            return []
        except NotFinished as error:
            # The hub may read from a replica, which lags by seconds.
            why, reason = DeferReason.UNFINISHED, str(error)
        except SourceFails as error:
            why, reason = DeferReason.STUMBLES, str(error)
        except (SourceUnavailable, http.NoAnswer) as error:
            reason = str(error)
        if time.monotonic() + pause > until:
            raise Defer(why, reason)
        _log.warning(
            "%s waits for %s, retries in %g s: %s", entry, source_name(entry), pause, reason
        )
        stop.wait(pause)
    raise Cancelled(f"{entry} waits for {source_name(entry)} until the worker runs again")


def _measured(image: RawImage, settings: Settings) -> RawImage:
    """Return the image with its size, which Koji does not give for scratch tasks' files.

    The same image from a second source is recognised by name and size.
    """
    if image.size is not None:
        return image
    try:
        measured = measure(image.url, settings.koji.timeout, Trusted.of(settings.ec2, image))
    except http.NotFound as error:
        # The image still gets a job, which fails with this reason where the operator looks.
        _log.warning("cannot measure the size of %s: %s", image.url, error)
        return image
    return replace(image, size=measured.size)
