"""Have a parameter of SSM name the newest public AMI of each region, architecture and type.

The AMIs are those that the catalogue calls the newest. What a parameter is to name is in the
database before anything is called, so that a restarted worker, or the next one, goes on.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress

from fedimg.aws.client.clients import Clients
from fedimg.aws.client.errors import FAILURES, surely_refused
from fedimg.aws.parameters import ParameterStore
from fedimg.catalogue.documents import Latest
from fedimg.catalogue.latest import newest
from fedimg.config import Settings
from fedimg.config.parameters import fault
from fedimg.exceptions import Cancelled, EC2ServiceException
from fedimg.parallel import run_parallel
from fedimg.process.backoff import Backoff
from fedimg.store.parameters import ParameterRow, Parameters, Place, Wanted
from fedimg.store.publications import Publications
from fedimg.store.store import Store
from fedimg.untrusted.failures import of_endpoint

#: How often the record is compared with what the parameters are to name, and how often SSM is asked
#: about one that was put, in seconds.
INTERVAL, _POLL_SECONDS = 2.0, 1.0
#: Pauses after a failure, in seconds: a region that is away is asked again within five minutes.
_BACKOFF = Backoff(5.0, 300.0)
_REGIONS_AT_ONCE = 10

_log = logging.getLogger(__name__)


class ParameterTask:
    """The worker's care of the parameters; `apply` is called again and again.

    `pending` tells whether any parameter is not right yet.
    """

    def __init__(
        self,
        settings: Settings,
        store: Store,
        clients: Clients,
        stop: threading.Event,
        pending: Callable[[], bool],
    ) -> None:
        self._settings = settings
        self._store = store
        self._setter = ParameterSetter(settings, store, clients, stop)
        self._pending = pending
        self._parameters = Parameters(store)
        self._publications = Publications(store)
        self._seen: tuple[object, ...] | None = None

    def apply(self) -> float:
        """Record what the parameters are to name, do what is due; return the seconds until next."""
        wants_others = False
        if self._settings.ec2.ssm.path or self._seen is None:
            # Taken before anything is read: what changes meanwhile is seen next time.
            changed = self._publications.changed()
            if wants_others := changed != self._seen:
                self._want()
                self._seen = changed
        if not wants_others and not self._pending():
            return INTERVAL
        if due := self._parameters.due():
            with suppress(Cancelled):
                self._setter.bring(due)
        until = self._parameters.next_due()
        return INTERVAL if until is None else min(INTERVAL, max(until - time.time(), 0.1))

    def _want(self) -> None:
        ec2 = self._settings.ec2
        wanted: dict[Place, Wanted] = {}
        recorded = {(row.region, row.name): row.series for row in self._parameters.all()}
        if ec2.ssm.path:
            latest = newest(self._publications, self._settings.catalogue.latest)
            wanted = choose(latest, ec2.ssm.path, recorded)
        changed = self._parameters.want(
            wanted, advanced=ec2.ssm.tier == "Advanced", doubt_seconds=ec2.limits.settle
        )
        for region, name in changed:
            want = wanted.get((region, name))
            _log.info(
                "parameter %s in %s is to %s",
                name,
                region,
                f"name {want.ami} of {want.image}" if want else "be deleted",
            )


def choose(
    latest: Iterable[Latest], path: str, recorded: Mapping[Place, str]
) -> dict[Place, Wanted]:
    """Return what each parameter is to name.

    Where images of several series would have one name, the parameter stays with the series of
    before, by `recorded`, or takes the first one, and the note says so. A name that SSM does not
    take is left out, and logged.
    """
    found: dict[Place, dict[str, tuple[str, str]]] = {}
    refused: set[str] = set()
    for each in latest:
        series = f"{each.series} ({each.kind})"
        for region, ami in each.regions.items():
            name = path.format(
                release=each.release,
                arch=each.architecture,
                type=f"{each.virtualization}-{each.volume_type}",
                series=each.series,
                kind=each.kind,
            )
            if why := fault(name):
                if name not in refused:
                    _log.warning(
                        "no parameter names the newest AMIs of %s: %s %s", series, name, why
                    )
                refused.add(name)
                continue
            found.setdefault((region, name), {})[series] = (ami.ami, ami.image)
    wanted = {}
    for place, by_series in found.items():
        before = recorded.get(place)
        series = before if before in by_series else min(by_series)
        others = sorted(set(by_series) - {series})
        note = (
            f"it names AMIs of {series}, and those of {', '.join(others)} have the same name; put "
            "{series} or {kind} into ec2.ssm.path"
            if others
            else ""
        )
        wanted[place] = Wanted(*by_series[series], series, note)
    return wanted


class ParameterSetter:
    """Puts and deletes parameters as the record has them, until SSM shows them so."""

    def __init__(
        self, settings: Settings, store: Store, clients: Clients, stop: threading.Event
    ) -> None:
        self._settings = settings
        self._store = store
        self._clients = clients
        self._stop = stop
        self._parameters = Parameters(store)

    def bring(self, rows: Sequence[ParameterRow]) -> None:
        """Do what is due about some parameters, in all of their regions at once.

        Nothing here waits for long: what SSM has not confirmed is looked at again by the next call.
        """
        by_region: dict[str, list[ParameterRow]] = {}
        for row in rows:
            by_region.setdefault(row.region, []).append(row)
        run_parallel(
            {
                region: (lambda region=region: self._bring_in(region, by_region[region]))  # type: ignore[misc]
                for region in by_region
            },
            _REGIONS_AT_ONCE,
        )

    def _bring_in(self, region: str, rows: Sequence[ParameterRow]) -> None:
        ssm = ParameterStore(self._clients, region, self._settings.ec2.limits, self._stop)
        try:
            shown = ssm.read([row.name for row in rows])
        except (*FAILURES, EC2ServiceException) as error:
            for row in rows:
                self._fail(row, f"it cannot be read: {of_endpoint(error)}")
            return
        own = set(self._store.states(region, set(shown.values())))
        for row in rows:
            try:
                self._bring_one(ssm, row, shown.get(row.name), own)
            except (*FAILURES, EC2ServiceException) as error:
                doing = "put" if row.ami else "deleted"
                refused = surely_refused(error)
                self._fail(row, f"it cannot be {doing}: {of_endpoint(error)}", refused=refused)

    def _bring_one(
        self, ssm: ParameterStore, row: ParameterRow, shown: str | None, own: set[str]
    ) -> None:
        """Bring a parameter nearer to what is wanted; `shown` is its value, None if there is none.

        What names an AMI that is not in `own` is somebody else's, and stays.
        """
        now = time.time()
        advanced = row.advanced or self._settings.ec2.ssm.tier == "Advanced"
        if shown == row.ami and (row.ami is None or row.advanced == advanced):
            self._settle(row, now)
        elif shown is not None and shown not in own:
            text = (
                f'its value is "{shown}", which is no AMI of this site, so that it stays as it is'
            )
            self._fail(row, f"{text}; delete it, or change ec2.ssm.path")
        elif row.ami is None:
            ssm.delete(row.name)
            self._parameters.wait(row, now + _POLL_SECONDS)
        elif row.put_at is not None and now < row.put_at + self._settings.ec2.limits.settle:
            self._parameters.wait(row, now + _POLL_SECONDS)
        elif row.put_at is not None and not row.error:
            says = f'"{shown}"' if shown else "no such parameter"
            self._fail(
                row,
                f"SSM took {row.ami} and shows {says} after {now - row.put_at:.0f} s: EC2 does not "
                f"confirm that the AMI is available in {row.region}; it is put again",
            )
        else:
            # Recorded before it is done: SSM may show it at any time from then on.
            self._parameters.putting(row, advanced=advanced)
            tier = "Advanced" if advanced else "Standard"
            description = f"fedimg, site {self._settings.site}: {row.image}"
            ssm.put(row.name, row.ami, description, tier=tier, exists=shown is not None)

    def _settle(self, row: ParameterRow, now: float) -> None:
        if now < row.doubt_until:
            # What was put before may be confirmed later than what was put after it.
            self._parameters.wait(row, min(row.doubt_until, now + _POLL_SECONDS))
        elif row.ami is None:
            self._parameters.forget(row)
            _log.info("parameter %s in %s is deleted", row.name, row.region)
        else:
            self._parameters.settled(row)
            _log.info("parameter %s in %s names %s", row.name, row.region, row.ami)

    def _fail(self, row: ParameterRow, error: str, *, refused: bool = False) -> None:
        """Record a failure; a put that was `refused` has had no effect."""
        pause = _BACKOFF.pause(row.tries + 1)
        self._parameters.failed(row, error, time.time() + pause, refused=refused)
        if error != row.error:
            _log.warning(
                "parameter %s in %s: %s; tried again in %g s", row.name, row.region, error, pause
            )
