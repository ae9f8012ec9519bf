"""The EBS direct API: snapshots written, read and compared in blocks, all checksums checked."""

import base64
import hashlib
import hmac
import json
import logging
import os
import re
import time
from collections.abc import Callable
from datetime import timedelta
from typing import Any
from urllib.parse import parse_qs

from lab.ec2 import disks, kms_keys, snapshots
from lab.ec2.calls import Calls
from lab.ec2.errors import EC2Error
from lab.ec2.fault_effects import Reset, answered
from lab.ec2.iam import authorization
from lab.ec2.query import account_of
from lab.ec2.request import Answer, Request, Signer
from lab.ec2.states import Span
from lab.ec2.tagging import as_tags
from lab.ec2.uploads import BLOCK, Upload
from lab.ec2.world import Call, Snapshot, World, new_id, now

log = logging.getLogger(__name__)

DEFAULT_TIMEOUT = 60  # minutes
LARGEST = 65536  # GiB
SECRET = os.urandom(16)  # signs block tokens


def serve(world: World, calls: Calls, request: Request, signer: Signer) -> Answer:
    try:
        return _serve(world, calls, request, signer)
    except EC2Error as refusal:
        return _refusal(refusal)
    except Reset:
        raise
    except Exception as failure:
        log.exception("the lab's EBS failed")
        return _refusal(EC2Error("InternalServerException", repr(failure)))


def _refusal(refusal: EC2Error) -> Answer:
    known = refusal
    if refusal.code in ("AuthFailure", "UnauthorizedOperation"):
        known = EC2Error("AccessDeniedException", refusal.message, "UNAUTHORIZED_ACCOUNT")
    elif refusal.code == "InvalidSnapshot.NotFound":
        known = EC2Error("ResourceNotFoundException", refusal.message, "SNAPSHOT_NOT_FOUND")
    elif refusal.code in ("ExpiredToken", "RequestExpired"):
        known = EC2Error("ExpiredTokenException", refusal.message)
    elif refusal.code == "RequestLimitExceeded":
        known = EC2Error("RequestThrottledException", refusal.message)
    elif refusal.code == "IdempotentParameterMismatch":
        known = EC2Error("ConflictException", refusal.message)
    elif refusal.code.startswith("Invalid") or refusal.code == "TagLimitExceeded":
        known = _bad("INVALID_PARAMETER_VALUE", refusal.message)
    body = {"Message": known.message}
    if known.reason:
        body["Reason"] = known.reason
    return Answer(
        known.status,
        json.dumps(body).encode(),
        "application/json",
        {"x-amzn-ErrorType": known.code},
    )


def _bad(reason: str, message: str) -> EC2Error:
    return EC2Error("ValidationException", message, reason)


def _serve(world: World, calls: Calls, request: Request, signer: Signer) -> Answer:
    name, act, places = _route(request)
    calls.count("EBS", name, signer.region)
    if signer.region not in world.regions:
        raise EC2Error("AccessDeniedException", "The region is not one of the account's.")
    call = Call(world, account_of(signer.access_key), signer.region, name, {})
    params = json.loads(request.body or b"{}") if name == "StartSnapshot" else {}

    def acted(call: Call) -> Answer:
        authorization.check_ebs(call, signer, places[0] if places else None, params)
        return act(call, request, *places)

    return answered(call, places, acted)


def _route(request: Request) -> tuple[str, Callable[..., Answer], tuple[str, ...]]:
    for method, pattern, name, act in ROUTES:
        found = re.fullmatch(pattern, request.path)
        if found and method == request.method:
            return name, act, found.groups()
    raise EC2Error("UnknownOperationException", f"No {request.method} {request.path} in EBS")


def _start(call: Call, request: Request) -> Answer:
    params = json.loads(request.body or b"{}")
    size = params.get("VolumeSize")
    if not isinstance(size, int) or not 1 <= size <= LARGEST:
        raise _bad("INVALID_VOLUME_SIZE", f"VolumeSize must be 1 to {LARGEST} GiB, not {size}.")
    timeout = params.get("Timeout", DEFAULT_TIMEOUT)
    if not 10 <= timeout <= 4320:
        raise _bad("INVALID_PARAMETER_VALUE", f"Timeout must be 10 to 4320 minutes, not {timeout}.")
    tags = as_tags(params.get("Tags", []))
    parent = params.get("ParentSnapshotId")
    if parent and ("Encrypted" in params or "KmsKeyArn" in params):
        raise _bad(
            "INVALID_DEPENDENCY_REQUEST",
            "Encrypted and KmsKeyArn cannot be given with ParentSnapshotId.",
        )
    world = call.world

    def start() -> str:
        id = new_id("snap")
        path = world.snapshot_file(id)
        encrypted = bool(params.get("Encrypted"))
        with world.lock:
            before = _readable(call, parent) if parent else None
            if before and size < before.size:
                raise _bad("INVALID_VOLUME_SIZE", "VolumeSize is smaller than the parent's.")
            encrypted = encrypted or snapshots.encrypted_by_default(call)
            encrypted = encrypted or bool(before and before.encrypted)
        if before:
            disks.copy(before.path, path, size * disks.GIB)
        else:
            disks.create(path, size * disks.GIB)
        snapshot = Snapshot(
            id,
            call.account,
            call.region,
            size,
            path,
            description=params.get("Description", ""),
            encrypted=encrypted,
            kms_key=(params.get("KmsKeyArn") or kms_keys.default(call)) if encrypted else None,
            span=Span.of(timeout * 60),
            sealed=False,
        )
        with world.lock:
            world.snapshots[id] = snapshot
            world.uploads[id] = Upload(path, size * disks.GIB // BLOCK, timeout * 60)
            world.born("snapshot", snapshot, tags)
        _watch(world, snapshot)
        return id

    id = world.tokens.once(("ebs", call.account, call.region, call.action), params, start)
    with world.lock:
        snapshot = call.own_snapshot(id)
        answer: dict[str, Any] = {
            "SnapshotId": id,
            "OwnerId": snapshot.owner,
            "Status": snapshot.state,
            "StartTime": snapshot.started.timestamp(),
            "VolumeSize": snapshot.size,
            "BlockSize": BLOCK,
            "Description": snapshot.description,
            "Tags": call.tags(snapshot),
        }
    if parent:
        answer["ParentSnapshotId"] = parent
    if snapshot.kms_key:
        answer["KmsKeyArn"] = snapshot.kms_key
    return _json(answer, 201)


def _watch(world: World, snapshot: Snapshot) -> None:
    """Give the snapshot up when no block has come for its whole time-out."""
    upload = world.uploads[snapshot.id]

    def look() -> None:
        if world.uploads.get(snapshot.id) is not upload or snapshot.sealed:
            return
        left = upload.last + upload.timeout - time.monotonic()
        if left > 0:
            world.timeline.after(left, look)
            return
        snapshot.state = "error"
        snapshot.state_message = "No block was written within the time-out."
        snapshot.sealed = True

    world.timeline.after(upload.timeout, look)


def _upload(call: Call, id: str) -> tuple[Snapshot, Upload]:
    snapshot = call.own_snapshot(id)
    upload = call.world.uploads.get(id)
    if upload is None or snapshot.sealed:
        raise _bad("INVALID_SNAPSHOT_ID", f"The snapshot '{id}' is not open for writing.")
    return snapshot, upload


def _put(call: Call, request: Request, id: str, place: str) -> Answer:
    with call.world.lock:
        _, upload = _upload(call, id)
    index, data = int(place), request.body
    if index >= upload.blocks:
        raise _bad(
            "INVALID_BLOCK", f"Block index {index} is behind the volume's {upload.blocks} blocks."
        )
    said = request.header("x-amz-Data-Length")
    if said != str(BLOCK) or len(data) != BLOCK:
        raise _bad(
            "INVALID_PARAMETER_VALUE",
            f"Blocks are {BLOCK} bytes; DataLength says {said} and {len(data)} bytes came.",
        )
    algorithm = request.header("x-amz-Checksum-Algorithm")
    if algorithm != "SHA256":
        raise _bad("INVALID_PARAMETER_VALUE", f"Checksum algorithm {algorithm} is not SHA256.")
    digest = request.sha256
    checksum = base64.b64encode(digest).decode()
    if request.header("x-amz-Checksum") != checksum:
        raise _bad("INVALID_PARAMETER_VALUE", f"The checksum of block {index} does not match.")
    upload.write(index, data, digest)
    headers = {"x-amz-Checksum": checksum, "x-amz-Checksum-Algorithm": "SHA256"}
    return Answer(201, b"", "application/json", headers)


def _complete(call: Call, request: Request, id: str) -> Answer:
    world = call.world
    with world.lock:
        snapshot, upload = _upload(call, id)
        said = request.header("x-amz-ChangedBlocksCount")
        if said != str(upload.count()):
            raise _bad(
                "INVALID_PARAMETER_VALUE",
                f"ChangedBlocksCount is {said}, but {upload.count()} blocks were written.",
            )
        checksum = request.header("x-amz-Checksum")
        if checksum:
            method = request.header("x-amz-Checksum-Aggregation-Method")
            if method != "LINEAR" or request.header("x-amz-Checksum-Algorithm") != "SHA256":
                raise _bad("INVALID_PARAMETER_VALUE", "Checksums are SHA256, aggregated LINEAR.")
            if checksum != upload.linear():
                raise _bad(
                    "INVALID_PARAMETER_VALUE", "The checksum of the whole snapshot does not match."
                )
        snapshot.sealed = True
        snapshots.settle(world, snapshot, world.delays.snapshot)
        return _json({"Status": snapshot.state}, 202)


def _readable(call: Call, id: str) -> Snapshot:
    snapshot = call.snapshot(id)
    if snapshot.state != "completed":
        raise _bad("INVALID_SNAPSHOT_ID", f"The snapshot '{id}' is {snapshot.state}.")
    return snapshot


def _blocks(world: World, snapshot: Snapshot) -> list[int]:
    """Return the blocks that hold data; one that was put holds it even when it is all zeros."""
    upload = world.uploads.get(snapshot.id)
    found = upload.indexes() if upload else set()
    for begin, end in disks.extents(snapshot.path):
        found.update(range(begin // BLOCK, -(-end // BLOCK)))
    return sorted(found)


def _token(snapshot: Snapshot, index: int) -> str:
    signed = hmac.digest(SECRET, f"{snapshot.id}/{index}".encode(), "sha256")
    return base64.b64encode(signed).decode()


def _list(call: Call, request: Request, id: str) -> Answer:
    with call.world.lock:
        snapshot = _readable(call, id)
    blocks = _blocks(call.world, snapshot)
    chosen, token = _page(request, blocks)
    rows = [{"BlockIndex": i, "BlockToken": _token(snapshot, i)} for i in chosen]
    return _listing("Blocks", rows, snapshot, token)


def _changed(call: Call, request: Request, id: str) -> Answer:
    first_id = parse_qs(request.query).get("firstSnapshotId", [None])[0]
    with call.world.lock:
        second = _readable(call, id)
        first = _readable(call, first_id) if first_id else None
    blocks = set(_blocks(call.world, second))
    before = set(_blocks(call.world, first)) if first else set()
    differ = [
        i for i in sorted(blocks | before) if not first or _read(first, i) != _read(second, i)
    ]
    chosen, token = _page(request, differ)
    rows = []
    for index in chosen:
        changed: dict[str, Any] = {"BlockIndex": index, "SecondBlockToken": _token(second, index)}
        if first and index in before:
            changed["FirstBlockToken"] = _token(first, index)
        rows.append(changed)
    return _listing("ChangedBlocks", rows, second, token)


def _page(request: Request, blocks: list[int]) -> tuple[list[int], str | None]:
    asked = parse_qs(request.query)
    try:
        size = int(asked.get("maxResults", ["10000"])[0])
        start = int(asked.get("startingBlockIndex", ["0"])[0])
        start = int(asked.get("pageToken", [str(start)])[0])
    except ValueError:
        raise _bad("INVALID_PAGE_TOKEN", "The page token is not valid.") from None
    if not 100 <= size <= 10000:
        raise _bad("INVALID_PARAMETER_VALUE", f"MaxResults must be 100 to 10000, not {size}.")
    rest = [index for index in blocks if index >= start]
    return rest[:size], str(rest[size]) if len(rest) > size else None


def _listing(
    name: str, rows: list[dict[str, Any]], snapshot: Snapshot, token: str | None
) -> Answer:
    answer: dict[str, Any] = {
        name: rows,
        "ExpiryTime": (now() + timedelta(days=7)).timestamp(),
        "VolumeSize": snapshot.size,
        "BlockSize": BLOCK,
    }
    if token:
        answer["NextToken"] = token
    return _json(answer, 200)


def _read(snapshot: Snapshot, index: int) -> bytes:
    with snapshot.path.open("rb") as file:
        file.seek(index * BLOCK)
        return file.read(BLOCK).ljust(BLOCK, b"\0")


def _get(call: Call, request: Request, id: str, place: str) -> Answer:
    with call.world.lock:
        snapshot = _readable(call, id)
    index = int(place)
    token = parse_qs(request.query).get("blockToken", [""])[0]
    if not hmac.compare_digest(token.encode(), _token(snapshot, index).encode()):
        raise _bad("INVALID_BLOCK_TOKEN", f"The token is not that of block {index} of {id}.")
    data = _read(snapshot, index)
    headers = {
        "x-amz-Data-Length": str(BLOCK),
        "x-amz-Checksum": base64.b64encode(hashlib.sha256(data).digest()).decode(),
        "x-amz-Checksum-Algorithm": "SHA256",
    }
    return Answer(200, data, "application/octet-stream", headers)


def _json(value: Any, status: int) -> Answer:
    return Answer(status, json.dumps(value).encode(), "application/json")


ROUTES: list[tuple[str, str, str, Callable[..., Answer]]] = [
    ("POST", r"/snapshots", "StartSnapshot", _start),
    ("PUT", r"/snapshots/([^/]+)/blocks/(\d+)", "PutSnapshotBlock", _put),
    ("POST", r"/snapshots/completion/([^/]+)", "CompleteSnapshot", _complete),
    ("GET", r"/snapshots/([^/]+)/blocks", "ListSnapshotBlocks", _list),
    ("GET", r"/snapshots/([^/]+)/blocks/(\d+)", "GetSnapshotBlock", _get),
    ("GET", r"/snapshots/([^/]+)/changedblocks", "ListChangedBlocks", _changed),
]
