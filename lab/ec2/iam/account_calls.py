"""Judges what a user or a role asks of IAM, STS and S3, by its policies, as its calls to EC2 are.

Of other services that moto answers nothing is known here: those are for the account's own key.
"""

import ipaddress
import re
from collections.abc import Iterator, Mapping
from typing import Any
from urllib.parse import parse_qsl, unquote, urlsplit
from xml.etree import ElementTree

from moto.iam.models import iam_backends

from lab.ec2 import auth_errors, wire
from lab.ec2.errors import EC2Error
from lab.ec2.iam.authorization import caller_of, demand
from lab.ec2.iam.callers import Caller
from lab.ec2.iam.reference import kinds
from lab.ec2.iam.resources import Resource, asked_for
from lab.ec2.query import account_of
from lab.ec2.request import Answer, Request, Signer
from lab.ec2.world import Call, World

# What everybody may do, whatever their policies say.
_FREE = {"sts:GetCallerIdentity", "sts:GetSessionToken"}
# The parameters that name a thing of each kind, the first that is there.
_NAMED_BY = {
    "group": ("GroupName",),
    "instance-profile": ("InstanceProfileName",),
    "mfa": ("SerialNumber",),
    "oidc-provider": ("OpenIDConnectProviderArn",),
    "policy": ("PolicyArn", "PolicyName"),
    "role": ("RoleArn", "RoleName"),
    "saml-provider": ("SAMLProviderArn", "Name"),
    "server-certificate": ("ServerCertificateName",),
    "user": ("UserName",),
}
# Those of them that do so by its ARN.
_ARNS = {"OpenIDConnectProviderArn", "PolicyArn", "RoleArn", "SAMLProviderArn", "SerialNumber"}
_TAG = re.compile(r"Tags\.member\.(\d+)\.(Key|Value)")

# What an S3 request asks for: a bucket or an object, the method, and what the query names.
_S3 = {
    ("bucket", "DELETE", ""): "DeleteBucket",
    ("bucket", "GET", ""): "ListBucket",
    ("bucket", "GET", "location"): "GetBucketLocation",
    ("bucket", "GET", "ownershipControls"): "GetBucketOwnershipControls",
    ("bucket", "GET", "tagging"): "GetBucketTagging",
    ("bucket", "GET", "uploads"): "ListBucketMultipartUploads",
    ("bucket", "HEAD", ""): "ListBucket",
    ("bucket", "POST", "delete"): "DeleteObject",
    ("bucket", "PUT", ""): "CreateBucket",
    ("bucket", "PUT", "ownershipControls"): "PutBucketOwnershipControls",
    ("bucket", "PUT", "tagging"): "PutBucketTagging",
    ("object", "DELETE", ""): "DeleteObject",
    ("object", "DELETE", "tagging"): "DeleteObjectTagging",
    ("object", "DELETE", "uploadId"): "AbortMultipartUpload",
    ("object", "GET", ""): "GetObject",
    ("object", "GET", "acl"): "GetObjectAcl",
    ("object", "GET", "tagging"): "GetObjectTagging",
    ("object", "GET", "uploadId"): "ListMultipartUploadParts",
    ("object", "HEAD", ""): "GetObject",
    ("object", "POST", "uploadId"): "PutObject",
    ("object", "POST", "uploads"): "PutObject",
    ("object", "PUT", ""): "PutObject",
    ("object", "PUT", "acl"): "PutObjectAcl",
    ("object", "PUT", "tagging"): "PutObjectTagging",
    ("object", "PUT", "uploadId"): "PutObject",
}
# Parameters that say how to list or to answer, and change nothing of what is asked for.
_S3_MANNERS = re.compile(
    r"continuation-token|delimiter|encoding-type|fetch-owner|key-marker|list-type|marker|max-keys|"
    r"max-parts|max-uploads|part-number-marker|partNumber|prefix|response-[\w-]+|start-after|"
    r"upload-id-marker|x-id|X-Amz-[\w-]+"
)


def refusal(world: World, request: Request, signer: Signer) -> Answer | None:
    """Return the refusal for a caller who may not make this call; None for one who may."""
    call = Call(world, account_of(signer.access_key), signer.region, "", {})
    try:
        who = caller_of(call, signer)
        if who is not None:
            for action, resource in _asked(call, who, request, signer.service):
                if action not in _FREE:
                    demand(call, who, action, resource)
    except EC2Error as refused:
        return auth_errors.denied(request, signer.service, refused.message)
    return None


def _asked(
    call: Call, who: Caller, request: Request, service: str
) -> Iterator[tuple[str, Resource]]:
    """Every action of a request and the thing that it is done to. Raises EC2Error."""
    if service in ("iam", "sts"):
        form = _form(request)
        action = f"{service}:{form.get('Action', '')}"
        if not kinds(action):
            raise EC2Error(
                "AccessDenied", f"{action} is no action that the lab knows policies for."
            )
        for resource in _touched(call, who, action, form):
            yield action, resource
    elif service == "s3":
        yield from _of_s3(request, call.partition)
    else:
        raise EC2Error(
            "AccessDenied",
            f"User: {who.arn} is not authorized to perform any action of {service}, of which the "
            "lab evaluates no policies; the account's own key may.",
        )


def _form(request: Request) -> dict[str, str]:
    """Return a request's parameters as the code that answers reads them. Raises EC2Error."""
    if request.body and "x-www-form-urlencoded" not in (request.header("Content-Type") or ""):
        raise EC2Error("AccessDenied", "The body is to be application/x-www-form-urlencoded.")
    return wire.only_form(request.query, request.body)


def _touched(call: Call, who: Caller, action: str, form: Mapping[str, str]) -> list[Resource]:
    tags = asked_for(_tags(form))
    keys = {
        **tags,
        "iam:PermissionsBoundary": form.get("PermissionsBoundary"),
        "iam:PolicyARN": form.get("PolicyArn"),
        "sts:ExternalId": form.get("ExternalId"),
        "sts:RoleSessionName": form.get("RoleSessionName"),
    }
    return [
        Resource(name, arn, {**keys, **_tags_of(call, name, arn)})
        for name, kind in kinds(action).items()
        if name and kind.required
        for arn in [_arn(call, who, name, form)]
    ] or [Resource("", "*", keys)]


def _arn(call: Call, who: Caller, kind: str, form: Mapping[str, str]) -> str:
    """Return the ARN of the entity that a request names; a new entity has the path that the request
    gives.
    """
    parameter = next((each for each in _NAMED_BY.get(kind, ()) if each in form), None)
    if parameter is None:
        # Whoever names no user is spoken of.
        return who.arn if kind == "user" else f"arn:{call.partition}:iam::{call.account}:{kind}/*"
    name = form[parameter]
    if parameter in _ARNS:
        return name
    there = _thing(call, kind, name)
    if there is not None:
        return str(there.arn)
    return f"arn:{call.partition}:iam::{call.account}:{kind}{form.get('Path', '/')}{name}"


def _thing(call: Call, kind: str, name: str) -> Any:
    iam = iam_backends[call.account][call.partition]
    match kind:
        case "user":
            return iam.users.get(name)
        case "group":
            return iam.groups.get(name)
        case "role":
            return next((role for role in list(iam.roles.values()) if role.name == name), None)
        case "instance-profile":
            profiles = list(iam.instance_profiles.values())
            return next((profile for profile in profiles if profile.name == name), None)
    return None


def _tags_of(call: Call, kind: str, arn: str) -> dict[str, Any]:
    thing = _thing(call, kind, arn.rsplit("/", 1)[-1])
    if thing is None or kind not in ("role", "user"):
        return {}
    tagger = iam_backends[call.account][call.partition].tagger
    found = thing.tags if kind == "role" else tagger.list_tags_for_resource(arn)["Tags"]
    return {
        f"{service}:ResourceTag/{tag['Key']}": tag["Value"]
        for tag in found
        for service in ("aws", "iam")
    }


def _tags(form: Mapping[str, str]) -> list[dict[str, str]]:
    tags: dict[str, dict[str, str]] = {}
    for name, value in form.items():
        found = _TAG.fullmatch(name)
        if found:
            tags.setdefault(found[1], {})[found[2]] = value
    return list(tags.values())


def _of_s3(request: Request, partition: str) -> Iterator[tuple[str, Resource]]:
    host = urlsplit(f"//{request.header('Host')}").hostname or ""
    if host != "localhost" and not _is_address(host):
        raise EC2Error(
            "AccessDenied", f"The lab takes no bucket's name from a host such as {host}."
        )
    # S3 takes a path as it is, and moto takes it so.
    bucket, _, name = unquote(request.raw_path).lstrip("/").partition("/")
    what = {given for given, _ in parse_qsl(request.query, keep_blank_values=True)}
    what = {given for given in what if not _S3_MANNERS.fullmatch(given)}
    if not bucket and request.method == "GET" and not what:
        yield "s3:ListAllMyBuckets", Resource("", "*", {})
        return
    kind = "object" if name else "bucket"
    action = _S3.get((kind, request.method, what.pop() if what else ""))
    if not bucket or action is None or what:
        raise EC2Error("AccessDenied", "The lab knows no policies for this; the account's key may.")
    names = _deleted(request) if (kind, action) == ("bucket", "DeleteObject") else [name]
    for each in names:
        arn = f"arn:{partition}:s3:::{bucket}/{each}" if each else f"arn:{partition}:s3:::{bucket}"
        yield f"s3:{action}", Resource("object" if each else "bucket", arn, {})
        if request.header("x-amz-acl") and action == "PutObject":
            yield "s3:PutObjectAcl", Resource("object", arn, {})
    source = request.header("X-Amz-Copy-Source")
    if source is not None:
        arn = f"arn:{partition}:s3:::{unquote(source).partition('?')[0].lstrip('/')}"
        yield "s3:GetObject", Resource("object", arn, {})


def _deleted(request: Request) -> list[str]:
    try:
        keys = ElementTree.fromstring(request.body).iterfind(".//{*}Key")
        return [key.text or "*" for key in keys] or ["*"]
    except ElementTree.ParseError as error:
        raise EC2Error("AccessDenied", f"What is to be deleted is no XML: {error}") from error


def _is_address(host: str) -> bool:
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return False
    return True
