"""Store a bundle's parts and manifest in S3, copy them to other regions, and delete them.

The manifest comes last: a bundle whose manifest is there is whole. All objects can be read by EC2
(`aws-exec-read`), and by nobody else outside of the account.
"""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Callable, Collection, Mapping
from contextlib import closing
from dataclasses import dataclass, field
from functools import partial
from types import MappingProxyType
from typing import Any

from botocore.exceptions import ClientError

from fedimg.aws.bundle.manifest import LONGEST, listed_parts
from fedimg.aws.bundle.place import Place
from fedimg.aws.bundle.stream import Part
from fedimg.aws.client.errors import code
from fedimg.aws.client.types import Client
from fedimg.exceptions import EC2ServiceException
from fedimg.images import Disk
from fedimg.parallel import run_parallel
from fedimg.untrusted.quoting import one_line

#: Lets EC2 read an object, which it asks for.
_ACL = "aws-exec-read"
#: A manifest's metadata: the SHA-256 of the disk. A copy has it, too.
_DISK = "disk-sha256"
_NOTHING: Mapping[str, str] = MappingProxyType({})
_COPIES_AT_ONCE = 8
_DELETED_AT_ONCE = 1000
#: For how long a signed URL is good; another one is asked for when it has expired.
_SIGNED_SECONDS = 900


@dataclass(frozen=True)
class SignedURL:
    """A URL for one PutObject, and the SHA-1 in Base64 that has to be in its headers."""

    url: str = field(repr=False)
    checksum: str


@dataclass(frozen=True)
class Sealed:
    """The bytes of which a bundle was made, by their SHA-256, and whether all parts are there.

    The SHA-256 is in hex digits; an empty text where nothing tells.
    """

    sha256: str
    whole: bool


class BundleStore:
    """The bundle at one place. `s3` is a client of the bucket's region that retries what passes.

    The methods raise botocore's errors, and EC2ServiceException where a person has to change the
    bucket or the worker's permissions.
    """

    def __init__(self, s3: Client, place: Place) -> None:
        self._s3 = s3
        self.place = place

    def present(self) -> dict[str, str]:
        """Return the ETag of each object of the bundle, by its key."""
        found: dict[str, str] = {}
        options: dict[str, Any] = {"Bucket": self.place.bucket, "Prefix": f"{self.place.folder}/"}
        while True:
            page = self._call(partial(self._s3.list_objects_v2, **options))
            found |= {
                each["Key"]: str(each["ETag"]).strip('"') for each in page.get("Contents", ())
            }
            if not page.get("IsTruncated"):
                return found
            options["ContinuationToken"] = page["NextContinuationToken"]

    def sealed(self, present: Collection[str]) -> Sealed:
        """Return what the manifest, which is there, tells; `present` are the keys of the bundle."""
        # Not HeadObject, whose refusals have no code.
        found = self._call(
            partial(self._s3.get_object, Bucket=self.place.bucket, Key=self.place.manifest)
        )
        with closing(found["Body"]) as body:
            parts = {f"{self.place.folder}/{name}" for name in listed_parts(body.read(LONGEST))}
        return Sealed(found.get("Metadata", {}).get(_DISK, ""), bool(parts) and parts <= {*present})

    def seal(self, manifest: bytes, disk: Disk) -> None:
        """Store the manifest of a bundle of these bytes, whose parts are stored."""
        self.put(self.place.manifest, manifest, {}, {_DISK: disk.sha256})

    def signed(self, signing: Client, index: int, part: Part) -> SignedURL:
        """Return a URL by which anybody can store a part, with these bytes alone, for some minutes.

        `signing` is a client of the bucket's region for such URLs.
        """
        checksum = _in_base64(part.sha1)
        url = signing.generate_presigned_url(
            ClientMethod="put_object",
            Params={
                "Bucket": self.place.bucket,
                "Key": self.place.part(index),
                "ACL": _ACL,
                "ChecksumSHA1": checksum,
                "ContentLength": part.size,
            },
            ExpiresIn=_SIGNED_SECONDS,
        )
        return SignedURL(url, checksum)

    def stored_by_url(self, index: int, part: Part) -> bool:
        """Return whether S3 has a part with this size and SHA-1, by its own word."""
        try:
            head = self._call(
                partial(
                    self._s3.head_object,
                    Bucket=self.place.bucket,
                    Key=self.place.part(index),
                    ChecksumMode="ENABLED",
                )
            )
        except ClientError as error:
            # The answer to HeadObject has no body with a code.
            if code(error) in ("404", "NoSuchKey"):
                return False
            raise
        found = (head["ContentLength"], head.get("ChecksumSHA1"))
        return found == (part.size, _in_base64(part.sha1))

    def put(
        self,
        key: str,
        body: bytes,
        present: Mapping[str, str],
        metadata: Mapping[str, str] = _NOTHING,
    ) -> None:
        """Store an object, unless one with the same bytes is among those `present`."""
        digest = hashlib.md5(body, usedforsecurity=False).digest()
        # The ETag of an object that was stored by one call is its MD5, unless a key of KMS
        # encrypts it; then it is stored once more.
        if present.get(key) == digest.hex():
            return
        self._call(
            partial(
                self._s3.put_object,
                Bucket=self.place.bucket,
                Key=key,
                Body=body,
                ACL=_ACL,
                ContentMD5=base64.b64encode(digest).decode(),
                Metadata=dict(metadata),
            )
        )

    def copy_from(self, source: BundleStore, on_progress: Callable[[str], None]) -> None:
        """Copy a whole bundle from another region's bucket, the manifest last.

        What is here already, with the same bytes, is not copied again.
        """
        wanted, here = source.present(), self.present()
        if source.place.manifest not in wanted:
            raise EC2ServiceException(
                f"the bundle {source.place.id} has no manifest any more; it cannot be copied",
            )
        folder = source.place.folder
        keys = {key: self.place.folder + key.removeprefix(folder) for key in wanted}
        manifest = keys.pop(source.place.manifest)
        missing = {old: new for old, new in keys.items() if here.get(new) != wanted[old]}
        on_progress(f"copying {len(missing)} parts of the bundle to {self.place.bucket}")
        run_parallel(
            {new: partial(self._copy, source, old, new) for old, new in missing.items()},
            _COPIES_AT_ONCE,
        )
        self._copy(source, source.place.manifest, manifest)

    def _copy(self, source: BundleStore, old: str, new: str) -> None:
        self._call(
            partial(
                self._s3.copy_object,
                Bucket=self.place.bucket,
                Key=new,
                CopySource={"Bucket": source.place.bucket, "Key": old},
                # A copy has no ACL of its original's.
                ACL=_ACL,
            )
        )

    def delete(self) -> None:
        """Delete the bundle, the manifest first; what is gone already is no error."""
        keys = sorted(self.present(), key=lambda key: key != self.place.manifest)
        for begin in range(0, len(keys), _DELETED_AT_ONCE):
            some = [{"Key": key} for key in keys[begin : begin + _DELETED_AT_ONCE]]
            answer = self._call(
                partial(
                    self._s3.delete_objects,
                    Bucket=self.place.bucket,
                    Delete={"Objects": some, "Quiet": True},
                )
            )
            for error in answer.get("Errors", ()):
                raise EC2ServiceException(
                    f"S3 did not delete {self.place.bucket}/{error['Key']}: {error['Code']}",
                    later=True,
                )

    def _call(self, call: Callable[[], Any]) -> Any:
        try:
            return call()
        except Exception as error:
            if explanation := _EXPLAINED.get(code(error) or ""):
                raise EC2ServiceException(
                    f"bucket {self.place.bucket} {explanation} ({one_line(str(error))})"
                ) from error
            raise


def _in_base64(digits: str) -> str:
    return base64.b64encode(bytes.fromhex(digits)).decode()


#: What a person has to change, by S3's error code.
_EXPLAINED = {
    "AccessDenied": "refuses the worker: its IAM policy has to allow what "
    "docs/aws-policy-instance-store.json allows, and no policy of the bucket may deny it",
    "AccessControlListNotSupported": "does not allow ACLs, by which EC2 gets to read bundles: set "
    'its Object Ownership to "Bucket owner preferred"',
    "NoSuchBucket": "does not exist: make it, in that region, with ACLs enabled, or correct "
    "ec2.instance_store.bucket",
    "AuthorizationHeaderMalformed": "is in another region: each region needs a bucket of its own",
    "PermanentRedirect": "is in another region: each region needs a bucket of its own",
}
