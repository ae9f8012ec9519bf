"""The server's pages about itself below /lab/: calls, ledger, decisions of IAM, faults."""

import json
import secrets
from http import HTTPStatus
from typing import Any
from urllib.parse import parse_qs

from moto.ec2.models import ec2_backends
from moto.s3.models import s3_backends

from lab.ec2 import s3
from lab.ec2.calls import Calls
from lab.ec2.faults import Plan
from lab.ec2.request import Answer, Request
from lab.ec2.world import AMAZON, World


def serve(world: World, calls: Calls, request: Request, token: str) -> Answer:
    """Answer a caller who has the token, which a header gives as `Authorization: Bearer …`."""
    given = request.header("Authorization") or ""
    if not secrets.compare_digest(given.encode(), f"Bearer {token}".encode()):
        words = (
            f"{request.path} asks for the header 'Authorization: Bearer TOKEN' with the site's "
            "token, which is control_token in site.json."
        )
        return _json({"error": words}, HTTPStatus.FORBIDDEN)
    match request.method, request.path.rstrip("/"):
        case "GET", "/lab/calls":
            by = parse_qs(request.query).get("by", ["action"])[0]
            return _json(calls.by_region() if by == "region" else calls.by_action())
        case "POST", "/lab/calls/reset":
            calls.reset()
            return _json({})
        case "GET", "/lab/ledger":
            return _json(world.ledger.rows())
        case "GET", "/lab/ledger/live":
            with world.lock:
                return _json(live(world))
        case "GET", "/lab/decisions":
            return _json(world.decisions.rows())
        case "GET", "/lab/faults":
            return _json(world.faults.told())
        case "PUT", "/lab/faults":
            try:
                world.faults.follow(Plan.of(json.loads(request.body)))
            except ValueError as error:
                return _json({"error": str(error)}, 400)
            return _json(world.faults.told())
    return _json({"error": f"There is no {request.method} {request.path} here."}, 404)


def live(world: World) -> list[dict[str, Any]]:
    """Return the resources that exist now and are not Amazon's. The caller holds the lock."""
    rows = []
    tables: dict[str, dict[str, Any]] = {
        "instance": dict(world.instances),
        "volume": dict(world.volumes),
        "snapshot": dict(world.snapshots),
        "image": dict(world.images),
    }
    for kind, things in tables.items():
        for thing in things.values():
            if thing.owner != AMAZON and thing.state != "terminated":
                tags = world.tags(thing.owner, thing.region, thing.id)
                # A public instance is one with a public address, which is nothing to leak.
                public = kind in ("snapshot", "image") and thing.public
                told = _row(kind, thing.id, thing.region, thing.owner, tags, public, thing.state)
                rows.append(told | {"shared": _shared(thing)})
    # The objects of a public AMI's bundle are as little left behind as its snapshot would be.
    bundles = {
        (image.region, f"s3://{image.manifest.strip('/').rpartition('/')[0]}")
        for image in world.images.values()
        if image.public and image.manifest
    }
    for account, partitions in list(s3_backends.items()):
        for bucket in list(partitions["aws"].buckets.values()):
            for key in list(bucket.keys):
                id = f"s3://{bucket.name}/{key}"
                public = (bucket.region_name, id.rpartition("/")[0]) in bundles
                rows.append(_row("object", id, bucket.region_name, account, {}, public))
            rows += [
                _row("upload", id, bucket.region_name, account, {}) for id in s3.unfinished(bucket)
            ]
    for of_region in world.parameters.values():
        for each in of_region.values():
            image = world.images.get(each.value)
            # A parameter that names what nobody else may use is one that was left behind.
            named = image is not None and image.public and image.region == each.region
            told = _row("parameter", each.id, each.region, each.owner, {}, named)
            rows.append(told | {"value": each.value, "tier": each.tier})
    for account, backends in list(ec2_backends.items()):
        for region, moto in list(backends.items()):
            for groups in list(moto.groups.values()):
                for group in list(groups.values()):
                    if not group.is_default:
                        tags = world.tags(account, region, group.id)
                        rows.append(_row("security-group", group.id, region, account, tags))
            for pair in list(moto.key_pairs.values()):
                tags = world.tags(account, region, pair.id)
                rows.append(_row("key-pair", pair.id, region, account, tags))
    return rows


def _shared(thing: Any) -> bool:
    """Return whether named accounts or organizations may use an image or a snapshot."""
    return bool(getattr(thing, "users", ()) or getattr(thing, "organizations", ()))


def _row(
    kind: str,
    id: str,
    region: str,
    account: str,
    tags: dict[str, str],
    public: bool = False,
    state: str = "available",
) -> dict[str, Any]:
    return {
        "kind": kind,
        "id": id,
        "region": region,
        "account": account,
        "tags": tags,
        "public": public,
        "state": state,
    }


def _json(value: Any, status: int = 200) -> Answer:
    return Answer(status, json.dumps(value).encode(), "application/json")
