"""Publish a tested image in regions that its plan did not have, from the origin's public AMIs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from fedimg.aws import amis, plan
from fedimg.aws.client.errors import explained
from fedimg.aws.plan import Plan
from fedimg.aws.regions import deselected
from fedimg.exceptions import EC2ServiceException
from fedimg.images import AMI, RawImage
from fedimg.progress import Observer
from fedimg.services.ec2 import EC2Service, Upload
from fedimg.services.job_context import JobContext
from fedimg.services.outcome import Result
from fedimg.services.recorded import RecordedSteps
from fedimg.steps import Steps
from fedimg.values.audience import Audience


@dataclass(frozen=True)
class Addition:
    """The plan of an addition, and the origin's AMIs, from whose snapshot the copies are made.

    `encrypted` are its encrypted AMIs, which are made anew of each region's copy.
    """

    plan: Plan
    originals: Sequence[AMI]
    encrypted: Sequence[AMI] = ()


@dataclass(frozen=True)
class Encrypted:
    """The origin's encrypted AMIs of an image, and with whom they are shared."""

    amis: Sequence[AMI]
    audience: Audience


class RegionAddition(EC2Service):
    """Publishes images in further regions, as EC2Service does, without writing or booting again."""

    def add(
        self,
        image: RawImage,
        regions: Sequence[str],
        originals: Sequence[AMI],
        observer: Observer,
        steps: Steps,
        audience: Audience | None = None,
        encrypted: Encrypted | None = None,
    ) -> Result:
        """Make an image public in some regions; return where that succeeded.

        `originals` are its AMIs in the origin, which have to be public: nothing is public that was
        not tested. With an `audience` they are private and shared with it, by the record, and so
        are the new ones, whatever the settings say by now. The `encrypted` ones of the origin are
        made there, too, where the settings have a key. Raises EC2ServiceException when nothing can
        be made, or in all regions failed.
        """
        planned = RecordedSteps(steps).run(
            "plan", self._plan_addition, image, regions, originals, audience, encrypted
        )
        job = JobContext(
            self.site, self.shared, image, observer, self._watch, self.stop, rerun=True
        )
        upload = Upload(job, planned.plan, steps, (), self.doubted)
        upload.tested_before(planned.encrypted)
        snapshot = next(ami.snapshot for ami in planned.originals if not ami.type.instance_store)
        return upload.in_parallel(
            boot_checks=[],
            regions=[
                upload.copy_and_publish(region, snapshot, planned.originals)
                for region in planned.plan.further
            ],
        )

    def _plan_addition(
        self,
        image: RawImage,
        regions: Sequence[str],
        originals: Sequence[AMI],
        audience: Audience | None,
        encrypted: Encrypted | None,
    ) -> Addition:
        settings, origin = self.site.settings, self.site.settings.origin
        secret = list(encrypted.amis) if encrypted else []
        types = [ami.type for ami in (*originals, *secret)]
        chosen = settings.model_copy(
            update={
                "regions": [origin, *regions],
                "amis": settings.amis.model_copy(update={"types": types}),
                # The copies are of bytes that were tested.
                "test": settings.test.model_copy(update={"regions": []}),
            }
        )
        with explained("planning", image=image.name, region=origin, step="plan"):
            self._refuse_deselected(regions)
            ec2 = self.site.clients.ec2(origin)
            offered = audience is not None or amis.public(ec2, originals)
            if not originals or not offered:
                raise EC2ServiceException(
                    "the image's AMIs in the origin are not all public or shared, and what they "
                    "are made from is not published elsewhere"
                )
            if all(ami.type.instance_store for ami in originals):
                # Registering begins with a snapshot, which the image has none of any more.
                raise EC2ServiceException(
                    "only instance-store AMIs of the image are public in the origin, as the others "
                    "failed their boot check: publish a new build in the region instead"
                )
            planned = plan.make(image, chosen, self.site.clients, self._watch)
            if missing := sorted(set(regions) - set(planned.types)):
                raise EC2ServiceException(
                    f"none of the image's AMI types can be registered in {', '.join(missing)}"
                )
            private = audience or (encrypted.audience if encrypted else Audience())
            planned = replace(planned, public=audience is None, audience=private)
            return Addition(planned, originals, secret)

    def _refuse_deselected(self, regions: Sequence[str]) -> None:
        """Raise EC2ServiceException for a region that was excluded or disabled after the command.

        An operator's exclusion holds until it is taken back, whatever was asked for before.
        """
        gone = deselected(self.site.clients, self.site.settings, regions)
        if gone:
            reasons = "; ".join(f"{region}: {reason}" for region, reason in sorted(gone.items()))
            raise EC2ServiceException(
                f"cannot publish in an added region: {reasons}; undo that, then 'fedimg retry', or "
                "give the addition up by 'fedimg cancel'"
            )
