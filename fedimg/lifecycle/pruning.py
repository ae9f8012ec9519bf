"""Deprecate, disable and remove the AMIs of a job in one region, as queued workflows.

Each decides once more by what EC2 shows now, as the region may have been away for days.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from functools import partial
from typing import Any

from fedimg.aws import amis, permissions, retirement, tags
from fedimg.aws.bundle.place import is_bundle
from fedimg.bus import messages
from fedimg.lifecycle import observation
from fedimg.lifecycle.change_workflow import ChangeWorkflow, Effect, by_snapshot
from fedimg.lifecycle.decisions import IN_REACH, Facts, Verdict, decide, differs_from_record
from fedimg.lifecycle.repair import ami_of
from fedimg.store import rows
from fedimg.store.changes import DELETE, DEPRECATE, DISABLE
from fedimg.store.prunings import Pruning as Requested
from fedimg.store.prunings import Prunings, state_before
from fedimg.store.rows import AMIRow

_log = logging.getLogger(__name__)

#: The states of the AMIs that are to be changed.
_STATES = {DEPRECATE: IN_REACH, DISABLE: (rows.DISABLING,), DELETE: (rows.DELETING,)}
#: EC2 may show this state of an AMI for a short time after its deregistration.
_DEREGISTERED = "deregistered"
_WORDS = {DEPRECATE: "deprecated", DISABLE: "disabled", DELETE: "removed"}


class Pruning(ChangeWorkflow):
    """The workflows of what the rules of retention demand."""

    def deprecate(self, job: str, region: str, at: float) -> None:
        """Let EC2 deprecate a job's AMIs in a region."""
        effects: list[tuple[str, Effect]] = [
            ("check", partial(self._check, DEPRECATE)),
            ("date", self._deprecate),
        ]
        self._carry_out(DEPRECATE, job, region, at, effects, partial(self._end, DEPRECATE))

    def disable(self, job: str, region: str, at: float) -> None:
        """Disable a job's AMIs in a region, which makes them private; their snapshot follows."""
        effects: list[tuple[str, Effect]] = [
            ("check", partial(self._check, DISABLE)),
            ("record", self._record_permissions),
            ("mark", self._mark_disabled),
            ("disable", self._disable),
        ]
        self._carry_out(DISABLE, job, region, at, effects, partial(self._end, DISABLE))

    def delete(self, job: str, region: str, at: float) -> None:
        """Remove a job's disabled AMIs in a region, and their snapshot."""
        effects: list[tuple[str, Effect]] = [
            ("check", partial(self._check, DELETE)),
            ("remove", self._remove),
        ]
        self._carry_out(DELETE, job, region, at, effects, partial(self._end, DELETE))

    def _check(self, what: str, job: str, region: str, at: float) -> None:
        """Decide again, and give up what the rules do not demand any more.

        What EC2 has done already goes on. Raises EC2ServiceException if the clock is wrong.
        """
        prunings = Prunings(self._store)
        asked = {each.ami: each for each in prunings.open(what, job, region)}
        to_do = {row.ami: row for row in self._rows(what, job, region)}
        here = [
            _as_decided(what, row) if row.ami in to_do else row
            for row in observation.recorded_amis(self._store, region)
        ]
        facts = observation.observe(self._ec2(region), self._settings.site, region, here)
        unlaunched = any(each.unlaunched for each in asked.values())
        kept: dict[str, str] = {}
        for decision in decide(
            self._settings.retention.rules, here, facts, time.time(), unlaunched=unlaunched
        ):
            ami = decision.row.ami
            if ami not in to_do:
                continue
            if self._has_begun(what, to_do[ami], facts.get((region, ami)), asked.get(ami)):
                continue
            if decision.verdict != what:
                kept[ami] = decision.why
            elif decision.verdict is Verdict.DEPRECATE and decision.deprecate_at is not None:
                prunings.postpone_deprecation(decision.row, decision.deprecate_at)
        self._keep(what, kept, list(to_do.values()), region)

    def _has_begun(
        self, what: str, row: AMIRow, fact: Facts | None, asked: Requested | None
    ) -> bool:
        """Return whether EC2 shows that an earlier try has changed an AMI already."""
        if what == DELETE:
            return fact is None or fact.state == _DEREGISTERED
        if fact is None:
            return False
        if what == DISABLE:
            return fact.state == "disabled" or self._is_hidden(row, fact)
        return (
            asked is not None
            and asked.deprecate_at is not None
            and (fact.deprecated_at == asked.deprecate_at)
        )

    def _is_hidden(self, row: AMIRow, fact: Facts) -> bool:
        """Return whether an earlier try took an AMI from whoever could launch it by the record.

        That is what a try shows where EC2 cannot disable AMIs. Raises botocore's errors.
        """
        if row.permissions is None or fact.public:
            return False
        if row.audience is None:
            return True
        # EC2 shows a private AMI as the same before and after, but for its permissions.
        had = bool(row.permissions.get("launch"))
        return had and not permissions.launch_permissions(self._ec2(row.region), row.ami)

    def _keep(
        self, what: str, kept: Mapping[str, str], its_amis: Sequence[AMIRow], region: str
    ) -> None:
        """Give up what was asked for about some AMIs; `kept` has the reasons, by AMI."""
        if what == DISABLE:
            self._mark_kept(kept, region)
        for ami, why in sorted(kept.items()):
            _log.info("AMI %s in %s is not %s: %s", ami, region, _WORDS[what], why)
        Prunings(self._store).keep(what, kept, its_amis)

    def _mark_kept(self, kept: Collection[str], region: str) -> None:
        """Take the tag of a disabling back from AMIs that an earlier try has marked."""
        ec2, waiter = self._ec2(region), self._waiter(region)
        marked = [
            ami
            for ami, image in permissions.existing(ec2, kept).items()
            if tags.disabled_at(tags.read(image.get("Tags"))) is not None
        ]
        permissions.mark(ec2, waiter, marked, tags.kept(datetime.now(UTC)))

    def _deprecate(self, job: str, region: str, at: float) -> None:
        ec2, waiter = self._ec2(region), self._waiter(region)
        limit = self._settings.ec2.limits.settle
        asked = {each.ami: each for each in Prunings(self._store).open(DEPRECATE, job, region)}
        for row in self._rows(DEPRECATE, job, region):
            if (time_of := asked[row.ami].deprecate_at) is not None:
                retirement.deprecate(ec2, waiter, row.ami, time_of, limit)

    def _record_permissions(self, job: str, region: str, at: float) -> None:
        self._record_users(self._rows(DISABLE, job, region), region)

    def _mark_disabled(self, job: str, region: str, at: float) -> None:
        """Tell by a tag that a rule disables the AMIs, should the database be lost."""
        ec2, waiter = self._ec2(region), self._waiter(region)
        its_amis = [row.ami for row in self._rows(DISABLE, job, region)]
        # A person may have removed some.
        if there := permissions.existing(ec2, its_amis):
            permissions.mark(
                ec2, waiter, list(there), tags.disabling(datetime.fromtimestamp(at, UTC))
            )

    def _disable(self, job: str, region: str, at: float) -> None:
        self._hide_amis(self._rows(DISABLE, job, region), region)

    def _remove(self, job: str, region: str, at: float) -> None:
        ec2, waiter = self._ec2(region), self._waiter(region)
        limit = self._settings.ec2.limits.settle
        for snapshot, its_amis in by_snapshot(self._rows(DELETE, job, region)).items():
            # A person may have made an AMI public since the decision: this cannot be undone.
            shown = {
                ami: observation.facts_of(image)
                for ami, image in permissions.existing(ec2, [row.ami for row in its_amis]).items()
            }
            kept = {
                ami: why
                for ami, fact in shown.items()
                if fact.state != _DEREGISTERED and (why := differs_from_record(rows.DISABLED, fact))
            }
            own_protection = {row.ami for row in its_amis if row.protected}
            for ami in sorted(set(shown) - set(kept)):
                retirement.deregister(ec2, ami, unprotect=ami in own_protection)
            self._keep(DELETE, kept, its_amis, region)
            ids = [row.ami for row in its_amis if row.ami not in kept]
            waiter.until(
                lambda ids=ids: None if permissions.existing(ec2, ids) else True,  # type: ignore[misc]
                what=f"AMIs {', '.join(ids)} to be gone",
                limit=limit,
            )
            others = amis.made_from(ec2, snapshot)
            if is_bundle(snapshot) and not others:
                retirement.delete_bundle(self._s3(region), snapshot)
            elif not others:
                retirement.delete_snapshot(ec2, waiter, snapshot, limit)
            for text in retirement.in_recycle_bin(ec2, self._clients, region, ids, snapshot):
                _log.info("job %s in %s: %s", job, region, text)
            if others:
                _log.info(
                    "snapshot %s in %s stays, as AMIs %s are made from it",
                    snapshot,
                    region,
                    ", ".join(others),
                )

    def _end(self, what: str, job: str, region: str, at: float) -> None:
        """Announce and record that a change was made, unless a later command replaced it."""
        prunings = Prunings(self._store)
        asked = {each.ami: each for each in prunings.open(what, job, region)}
        row = self._store.job(job)
        changed = self._rows(what, job, region)
        deprecated: dict[str, float] = {}
        told: list[tuple[str, str, dict[str, Any]]] = []
        for ami in changed:
            each = asked.get(ami.ami)
            if what == DEPRECATE and each and each.deprecate_at is not None:
                deprecated[ami.ami] = each.deprecate_at
            # A job that another database recorded may be unknown here.
            if row is None:
                continue
            if what == DISABLE:
                topic = messages.WITHDRAW
                reason = each.reason if each else ""
                body = messages.image_withdraw(row.image, ami_of(ami), reason, None)
            elif what == DELETE:
                topic, body = messages.DELETE, messages.image_delete(row.image, ami_of(ami))
            else:
                topic = messages.DEPRECATE
                body = messages.image_deprecate(row.image, ami_of(ami), deprecated[ami.ami])
            told.append((f"{topic}:{ami.ami}:{at}", topic, body))
        if not prunings.done(what, job, region, at, changed, deprecated, told):
            return
        _log.info("job %s: %d AMIs in %s are %s", job, len(changed), region, _WORDS[what])

    def _rows(self, what: str, job: str, region: str) -> list[AMIRow]:
        own = [row for row in self._store.amis(region) if row.job == job]
        chosen = [row for row in own if row.state in _STATES[what]]
        if what == DEPRECATE:
            asked = {each.ami for each in Prunings(self._store).open(what, job, region)}
            return [row for row in chosen if row.ami in asked]
        return chosen


def _as_decided(what: str, row: AMIRow) -> AMIRow:
    """Return an AMI's row as it was when a change was decided."""
    before = state_before(what, row)
    return replace(row, state=before, public=before == rows.PUBLIC)
