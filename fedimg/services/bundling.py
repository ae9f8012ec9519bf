"""Make the bundle of an image in the origin, and copy it to the buckets of further regions."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from pathlib import Path

from fedimg.aws.bundle import keys, place
from fedimg.aws.bundle.keys import BundleKeys, KeysUnusable
from fedimg.aws.bundle.objects import BundleStore
from fedimg.aws.bundle.place import Place, place_of
from fedimg.aws.write.bundle_writer import BundleWriter
from fedimg.exceptions import EC2ServiceException, EC2UtilityException
from fedimg.images import AMI
from fedimg.services.job_context import JobContext


class Bundling:
    """The steps of one upload that make and copy its bundle."""

    def __init__(self, job: JobContext, origin: str) -> None:
        self._job = job
        self._origin = origin

    def bundle(self) -> str:
        """Store the image's bundle in the origin's bucket, and return the bundle's id."""
        job, origin = self._job, self._origin
        with job.explained(origin, "bundle", EC2UtilityException, "S3"):
            job.report(origin, "bundle")
            made_of = job.observer.disk()
            bucket = job.settings.instance_store.bucket_in(origin)
            store = self._store(origin, place_of(bucket, job.labels.site, job.image, made_of))
            writer = BundleWriter(
                store,
                self._keys(),
                self._account(),
                made_of,
                job.waiter(origin),
                job.settings,
                partial(job.report, origin, "bundle"),
            )
            writer.write(job.image)
            return store.place.id

    def copy(self, region: str, bundle: str) -> str:
        """Copy the origin's bundle into a region's bucket, and return the copy's id."""
        job = self._job
        with job.explained(region, "bundle", service="S3"):
            job.report(region, "bundle")
            original = place.at(bundle, job.image.name)
            bucket = job.settings.instance_store.bucket_in(region)
            copied = self._store(region, Place(bucket, original.folder, original.name))
            copied.copy_from(
                self._store(self._origin, original), partial(job.report, region, "bundle")
            )
            return copied.place.id

    def _store(self, region: str, where: Place) -> BundleStore:
        return BundleStore(self._job.s3(region), where)

    def _keys(self) -> BundleKeys:
        chosen = self._job.settings.instance_store
        try:
            return keys.read(
                Path(chosen.signing_key), Path(chosen.certificate), Path(chosen.ec2_certificate)
            )
        except KeysUnusable as error:
            raise EC2ServiceException(str(error)) from error

    def _account(self) -> str:
        """Return the number of the account, which the manifest names as the bundle's owner."""
        sts = self._job.clients.client("sts", self._origin, attempts=1)
        with self._job.explained(self._origin, "bundle", service="STS"):
            identity = self._job.waiter(self._origin).retried(sts.get_caller_identity)
            return str(identity["Account"])


def bundle_of(originals: Sequence[AMI]) -> str:
    """Return the id of the bundle that some of the AMIs are made from; an empty text without."""
    return next((ami.snapshot for ami in originals if ami.type.instance_store), "")
