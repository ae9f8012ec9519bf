"""S3 is moto's, but for what it gets wrong: checksums of parts, tags of objects, ACLs.

Objects and unfinished uploads are in the ledger, as the other things are that cost money until
somebody deletes them. A plan's faults strike S3's calls as they do EC2's.
"""

import base64
import hashlib
import re
from collections.abc import Callable, Iterable
from contextlib import suppress
from typing import Any
from urllib.parse import parse_qs, unquote
from xml.etree import ElementTree

from moto.core.exceptions import ServiceException
from moto.s3.models import s3_backends
from moto.s3.utils import compute_checksum
from werkzeug.test import run_wsgi_app

from lab.ec2 import auth_errors, s3_access, s3_actions
from lab.ec2.errors import EC2Error
from lab.ec2.fault_effects import answered
from lab.ec2.ledger import Ledger
from lab.ec2.query import account_of
from lab.ec2.request import Answer, Request, Signer
from lab.ec2.world import Call, World

# S3's HTTP statuses, where they are not those of EC2's codes.
_STATUS = {"AccessDenied": 403, "NoSuchBucket": 404, "NoSuchKey": 404, "SlowDown": 503}
_SET_BY_SERVER = ("Content-Length", "Content-Type", "Connection", "Date", "Server")

Application = Callable[[dict[str, Any], Callable[..., Any]], Iterable[bytes]]


def answer(moto: Application, request: Request, signer: Signer, world: World) -> Answer | None:
    """Return the answer, or None where moto's own is right. Raises Reset."""
    call = Call(world, account_of(signer.access_key), signer.region, s3_actions.action(request), {})
    try:
        return answered(call, (), lambda _: _acted(moto, request, signer, world.ledger))
    except EC2Error as fault:
        status = _STATUS.get(fault.code, fault.status)
        return auth_errors.s3_error(request, fault.code, status, fault.message)


def _acted(moto: Application, request: Request, signer: Signer, ledger: Ledger) -> Answer | None:
    account = account_of(signer.access_key)
    refused = s3_access.refused(account, request, signer)
    if refused is not None:
        return auth_errors.s3_error(request, refused.code, refused.status, refused.message)
    names = _changed(request)
    if not names:
        return _answer(moto, request, signer)
    before, uploads = {name for name in names if _exists(signer, name)}, _uploads(account, names)
    answer = _answer(moto, request, signer) or _passed_on(moto, request)
    for name in names:
        id, there = f"s3://{name}", _exists(signer, name)
        if there and name not in before:
            ledger.created("object", id, signer.region, account, {})
        elif not there and name in before:
            ledger.deleted("object", id, signer.region, account, {})
    now = _uploads(account, names)
    for id in sorted(now - uploads):
        ledger.created("upload", id, signer.region, account, {})
    for id in sorted(uploads - now):
        ledger.deleted("upload", id, signer.region, account, {})
    return answer


def make_bucket(account: str, name: str, region: str) -> None:
    """Make a bucket that allows ACLs."""
    made = s3_backends[account]["aws"].create_bucket(name, region)
    made.ownership_rule = "BucketOwnerPreferred"  # type: ignore[assignment]


def unfinished(bucket: Any) -> list[str]:
    """Return the ids of a bucket's multipart uploads that were neither completed nor aborted."""
    return [
        f"s3://{bucket.name}/{upload.key_name}?uploadId={id}"
        for id, upload in list(bucket.multiparts.items())
    ]


def _uploads(account: str, names: set[str]) -> set[str]:
    found: set[str] = set()
    for bucket in {name.partition("/")[0] for name in names}:
        with suppress(ServiceException):
            found.update(unfinished(s3_backends[account]["aws"].get_bucket(bucket)))
    return found


def _changed(request: Request) -> set[str]:
    """Return the objects, each as BUCKET/KEY, that a request may make or delete."""
    path = unquote(request.path).strip("/")
    asked = parse_qs(request.query, keep_blank_values=True)
    if "/" in path and request.method in ("PUT", "POST", "DELETE"):
        return {path}
    if request.method == "POST" and "delete" in asked:
        try:
            keys = ElementTree.fromstring(request.body).iterfind(".//{*}Key")
        except ElementTree.ParseError:
            return set()
        return {f"{path}/{key.text}" for key in keys}
    return set()


def _exists(signer: Signer, name: str) -> bool:
    bucket, _, key = name.partition("/")
    return _object(signer, bucket, key) is not None


def _passed_on(moto: Application, request: Request) -> Answer:
    pieces, status, headers = run_wsgi_app(moto, request.environ)
    kept = {name: value for name, value in headers.items() if name not in _SET_BY_SERVER}
    content_type = headers.get("Content-Type", "application/xml")
    return Answer(int(status.split()[0]), b"".join(pieces), content_type, kept)


def _answer(moto: Application, request: Request, signer: Signer) -> Answer | None:
    asked = parse_qs(request.query, keep_blank_values=True)
    if request.method == "GET" and "uploadId" in asked:
        return _list_parts(moto, request, signer)
    if request.method == "POST" and "uploadId" in asked:
        return _complete(moto, request, signer)
    if request.method == "PUT" and "tagging" in asked and "/" in request.path.strip("/"):
        return _tag_object(request, signer)
    if s3_actions.action(request) == "PutObject":
        return _put(moto, request, signer)
    return None


def _put(moto: Application, request: Request, signer: Signer) -> Answer | None:
    """Moto's PutObject, which compares no digest with the bytes. Raises EC2Error."""
    said = request.header("Content-MD5")
    if said and said != base64.b64encode(hashlib.md5(request.body).digest()).decode():
        raise EC2Error("BadDigest", "The Content-MD5 you specified did not match what we received.")
    for algorithm in ("CRC32", "SHA1", "SHA256"):
        said = request.header(f"x-amz-checksum-{algorithm}")
        if said is None:
            continue
        made = compute_checksum(request.body, algorithm)
        checksum = made.decode() if isinstance(made, bytes) else made
        if said != checksum:
            words = f"The {algorithm} you specified did not match the calculated checksum."
            raise EC2Error("BadDigest", words)
        answer = _passed_on(moto, request)
        bucket, _, name = unquote(request.path).strip("/").partition("/")
        stored = _object(signer, bucket, name)
        if stored is not None and answer.status == 200:
            # Moto keeps it for requests that name the algorithm as well, which S3 does not ask for.
            stored.checksum_algorithm, stored.checksum_value = algorithm, checksum
        return answer
    return None


def _tag_object(request: Request, signer: Signer) -> Answer | None:
    """PutObjectTagging. Moto refuses every key that begins with "aws"; S3, with "aws:"."""
    bucket, _, name = unquote(request.path).strip("/").partition("/")
    tags = {
        tag.findtext("{*}Key", ""): tag.findtext("{*}Value", "")
        for tag in ElementTree.fromstring(request.body).iter()
        if tag.tag.endswith("}Tag") or tag.tag == "Tag"
    }
    if len(tags) > 10 or any(key.startswith("aws:") or not key for key in tags):
        return None
    found = _object(signer, bucket, name)
    if found is None:
        return None
    s3 = s3_backends[account_of(signer.access_key)]["aws"]
    s3.tagger.delete_all_tags_for_resource(found.arn)
    s3.tagger.tag_resource(found.arn, s3.tagger.convert_dict_to_tags_input(tags))
    return Answer(200, b"", "application/xml")


def _list_parts(moto: Application, request: Request, signer: Signer) -> Answer:
    """Moto's ListParts with the algorithm and the checksum of each part, as the upload has them."""
    pieces, status, headers = run_wsgi_app(moto, request.environ)
    body = b"".join(pieces)
    bucket = request.path.strip("/").split("/")[0]
    upload = _upload(account_of(signer.access_key), bucket, request)
    algorithm = upload.metadata.get("x-amz-checksum-algorithm") if upload else None
    if upload and algorithm:

        def with_checksum(found: re.Match[bytes]) -> bytes:
            part = upload.parts[int(found[1])]
            checksum = compute_checksum(part.value, algorithm)
            return found[0] + _element(f"Checksum{algorithm}", checksum)

        body = re.sub(rb"<PartNumber>(\d+)</PartNumber>", with_checksum, body)
        body = body.replace(
            b"</UploadId>", b"</UploadId>" + _element("ChecksumAlgorithm", algorithm), 1
        )
    return Answer(int(status.split()[0]), body, headers.get("Content-Type", "application/xml"))


def _complete(moto: Application, request: Request, signer: Signer) -> Answer:
    """Moto's CompleteMultipartUpload; S3 writes the number of parts behind their checksum."""
    pieces, status, headers = run_wsgi_app(moto, request.environ)
    bucket, _, name = unquote(request.path).strip("/").partition("/")
    made = _object(signer, bucket, name)
    if made is not None and made.checksum_value and "-" not in made.checksum_value:
        made.checksum_value += "-" + made.etag.strip('"').rpartition("-")[2]
    content_type = headers.get("Content-Type", "application/xml")
    return Answer(int(status.split()[0]), b"".join(pieces), content_type)


def _object(signer: Signer, bucket: str, name: str) -> Any:
    try:
        return s3_backends[account_of(signer.access_key)]["aws"].get_object(bucket, name)
    except ServiceException:
        return None


def _upload(account: str, bucket: str, request: Request) -> Any:
    try:
        uploads = s3_backends[account]["aws"].get_bucket(bucket).multiparts
    except ServiceException:
        return None
    return uploads.get(parse_qs(request.query)["uploadId"][0])


def _element(name: str, text: str | bytes) -> bytes:
    value = text.encode() if isinstance(text, str) else text
    return b"<" + name.encode() + b">" + value + b"</" + name.encode() + b">"
