"""Define the JSON schemas of the messages' bodies."""

from typing import Any

Schema = dict[str, Any]

_BASE = "http://fedoraproject.org/message-schema/v1/fedimg"


def _text(description: str) -> Schema:
    return {"type": "string", "description": description}


_FIELDS: dict[str, Schema] = {
    "image_url": _text("The URL of the raw image from which the AMIs are made"),
    "image_name": _text("The image's file name without .raw.xz"),
    "status": {"type": "string", "enum": ["started", "completed", "failed"]},
    "service": {"type": "string", "enum": ["EC2"]},
    "compose": _text("The compose's id, or the Koji build's name-version-release"),
    "compose_id": _text("The compose's id, or the Koji build's name-version-release"),
    "architecture": {"type": "string", "enum": ["x86_64", "arm64"]},
}
_SERVICE = _text("The service and the region, such as EC2 (us-east-1)") | {
    "pattern": r"^EC2 \(.+\)$"
}
_REGION = _text("The region, such as us-east-1")
_AMI: dict[str, Schema] = {
    "id": _text("The AMI's id") | {"pattern": "^ami-[0-9a-f]+$"},
    "virt_type": {"type": "string", "enum": ["hvm", "paravirtual"]},
    "vol_type": _text("The type of the root volume, such as gp2"),
}
#: Where it is not there, the AMI's snapshot is not encrypted.
_ENCRYPTED: dict[str, Schema] = {
    "encrypted": {
        "type": "boolean",
        "description": "Whether the AMI's snapshot is encrypted with a key of the site's",
    }
}
_DATA = {"data": _text("The end of the output of a failure, at most 32 KiB")}
_CHECK: Schema = {
    "type": "object",
    "properties": {
        "name": {"type": "string"},
        "passed": {"type": "boolean"},
        "seconds": {"type": "number"},
    },
    "required": ["name", "passed", "seconds"],
}


def _body(topic: str, description: str, destination: Schema, extra: Schema, *keys: str) -> Schema:
    fields = {key: _FIELDS[key] for key in keys} | {"destination": destination, "extra": extra}
    return {
        "$id": f"{_BASE}.{topic}.json",
        "$schema": "http://json-schema.org/draft-07/schema#",
        "description": description,
        "type": "object",
        "properties": fields,
        "required": sorted(fields),
    }


def _extra(properties: dict[str, Schema], *required: str) -> Schema:
    return {
        "type": "object",
        "properties": properties | _ENCRYPTED,
        "required": list(required),
    }


UPLOAD = _body(
    "image.upload",
    "Work on an image begins, an AMI is registered in the origin region, or the job fails.",
    _SERVICE,
    _extra(_AMI | _DATA),
    "image_url",
    "image_name",
    "status",
    "service",
    "compose",
)
TEST = _body(
    "image.test",
    "The boot check of an AMI starts, passes or fails.",
    _SERVICE,
    _extra(_AMI | _DATA | {"checks": {"type": "array", "items": _CHECK}}, *_AMI),
    "image_url",
    "image_name",
    "status",
    "service",
    "compose",
)
COPY = _body(
    "image.copy",
    "An AMI is available in another region; it is not public yet.",
    _REGION,
    _extra(
        _AMI | {"source_image_id": _text("The id of the AMI in the origin region")},
        *_AMI,
        "source_image_id",
    ),
    "image_name",
    "service",
    "compose_id",
    "architecture",
)
_LIFE = ("image_name", "service", "compose", "architecture")
WITHDRAW = _body(
    "image.withdraw",
    "An AMI is no longer available to others in a region.",
    _REGION,
    _extra(
        _AMI
        | {
            "reason": _text("Why the image was withdrawn"),
            "replacement": {
                "type": ["string", "null"],
                "description": "The image_name of the image to use instead",
            },
        },
        *_AMI,
        "reason",
        "replacement",
    ),
    *_LIFE,
)
RESTORE = _body(
    "image.restore",
    "A withdrawn AMI is available again in a region.",
    _REGION,
    _extra(_AMI, *_AMI),
    *_LIFE,
)
DEPRECATE = _body(
    "image.deprecate",
    "EC2 has a time from which it lists an AMI to nobody else any more.",
    _REGION,
    _extra(
        _AMI
        | {
            "deprecate_at": _text("The time of the deprecation, in UTC by RFC 3339")
            | {"pattern": "^[0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9]{2}:[0-9]{2}:[0-9]{2}Z$"}
        },
        *_AMI,
        "deprecate_at",
    ),
    *_LIFE,
)
DELETE = _body(
    "image.delete",
    "An AMI is gone from a region by the retention rules, and its snapshot with its last AMI.",
    _REGION,
    _extra(_AMI, *_AMI),
    *_LIFE,
)
_COUNT: Schema = {"type": "integer", "minimum": 0}
SHARE = _body(
    "image.share",
    "A private AMI is shared with its audience in a region, or with another one than before.",
    _REGION,
    _extra(
        _AMI
        | {
            "accounts": _COUNT | {"description": "The number of accounts"},
            "organizations": _COUNT | {"description": "The number of organizations"},
            "organizational_units": _COUNT | {"description": "The number of organizational units"},
        },
        *_AMI,
        "accounts",
        "organizations",
        "organizational_units",
    ),
    *_LIFE,
)
PUBLISH = _body(
    "image.publish",
    "An AMI and its snapshot are public in a region.",
    _REGION,
    _extra(_AMI, *_AMI),
    "image_url",
    "image_name",
    "service",
    "compose",
    "architecture",
)
