"""Make the bundle of an image in the origin, and copy it to the buckets of further regions."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

from fedimg.aws.bundle import keys, place
from fedimg.aws.bundle.keys import BundleKeys, KeysUnusable
from fedimg.aws.bundle.objects import BundleStore
from fedimg.aws.bundle.place import Place, place_of
from fedimg.aws.client.retrying import Current
from fedimg.aws.client.types import Client
from fedimg.aws.write.bundle_pass import MADE_LATER, BundleRecipe
from fedimg.aws.write.bundle_writer import BundleWriter
from fedimg.exceptions import EC2ServiceException, EC2UtilityException
from fedimg.images import AMI
from fedimg.services.job_context import JobContext

#: For how long S3 and STS are waited for while the image is written, in seconds.
_BRIEF_SECONDS = 60.0


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
            recipe = BundleRecipe(self._stores(), self._signing(), self._keys(), self._account())
            writer = BundleWriter(
                recipe,
                job.observer.disk(),
                job.waiter(origin),
                job.settings,
                partial(job.report, origin, "bundle"),
            )
            writer.write(job.image)
            return self._place().id

    def recipe_beside_the_write(self) -> BundleRecipe | None:
        """Return the recipe of the bundle that is made of the bytes that are written, if any is.

        While the image is written, S3 is waited for briefly; what is wrong with the keys is told by
        the step of the bundle.
        """
        try:
            return BundleRecipe(
                self._stores(patience=_BRIEF_SECONDS),
                self._signing(),
                self._keys(),
                self._account(_BRIEF_SECONDS),
            )
        except EC2ServiceException as error:
            self._job.report(self._origin, "write", f"{MADE_LATER}: {error.problem}")
            return None

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

    def _place(self) -> Place:
        job = self._job
        bucket = job.settings.instance_store.bucket_in(self._origin)
        return place_of(bucket, job.labels.site, job.image)

    def _stores(self, patience: float | None = None) -> Callable[[threading.Event], BundleStore]:
        where = self._place()
        return lambda stop: BundleStore(self._job.s3(self._origin, stop, patience=patience), where)

    def _signing(self) -> Client:
        return self._job.s3_signing(self._origin)

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

    def _account(self, patience: float | None = None) -> str:
        """Return the number of the account, which the manifest names as the bundle's owner."""
        clients, region = self._job.clients, self._origin
        sts: Client = Current(clients, lambda: clients.client("sts", region, attempts=1))
        with self._job.explained(self._origin, "bundle", service="STS"):
            waiter = self._job.waiter_of("STS", self._origin, patience=patience)
            return str(waiter.retried(sts.get_caller_identity)["Account"])


def bundle_of(originals: Sequence[AMI]) -> str:
    """Return the id of the bundle that some of the AMIs are made from; an empty text without."""
    return next((ami.snapshot for ami in originals if ami.type.instance_store), "")
