"""Make and sign the statement of each publication: an in-toto Statement v1 in a DSSE envelope."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from securesystemslib.dsse import Envelope
from securesystemslib.signer import CryptoSigner

from fedimg.catalogue.documents import Publication, PublishedImage
from fedimg.records import as_record

#: The suffix of a file of statements, one on each line, by in-toto's convention.
SUFFIX = ".intoto.jsonl"
STATEMENT_TYPE = "https://in-toto.io/Statement/v1"
PAYLOAD_TYPE = "application/vnd.in-toto+json"
#: The type of the predicate, which docs/provenance.md describes.
PREDICATE_TYPE = "tag:fedoraproject.org,2026:fedimg/publication/v1"


def statement(publication: Publication) -> dict[str, Any] | None:
    """Return the statement of a publication.

    Its subjects are the AMIs, each with the SHA-256 of the disk that its snapshot holds. Images
    whose disk is not known, of fedimg versions before 1.0, are left out; without any other the
    statement is None.
    """
    images = [image for image in publication.images if image.disk_sha256]
    if not images:
        return None
    return {
        "_type": STATEMENT_TYPE,
        "subject": [subject for image in images for subject in _subjects(image)],
        "predicateType": PREDICATE_TYPE,
        "predicate": {
            "source": publication.source,
            "published": publication.published,
            "images": [
                {field: value for field, value in as_record(image).items() if field != "amis"}
                for image in images
            ],
        },
    }


def signed(statement: dict[str, Any], signer: CryptoSigner) -> bytes:
    """Return the line with a statement and its signature."""
    payload = json.dumps(statement, separators=(",", ":"), sort_keys=True).encode()
    envelope = Envelope(payload, PAYLOAD_TYPE, {})
    envelope.sign(signer)
    return json.dumps(envelope.to_dict(), separators=(",", ":")).encode() + b"\n"


def public_key(signer: CryptoSigner) -> str:
    """Return the public key of a signer as PEM."""
    key = signer.public_key.keyval["public"]
    public = Ed25519PublicKey.from_public_bytes(bytes.fromhex(key))
    return public.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo).decode()


def arn(partition: str, region: str, ami: str) -> str:
    """Return the ARN of an AMI; it names no account."""
    return f"arn:{partition}:ec2:{region}::image/{ami}"


def _subjects(image: PublishedImage) -> Iterator[dict[str, Any]]:
    for ami in image.amis:
        described = {"name": ami.name, "digest": {"sha256": image.disk_sha256}}
        if ami.partition:
            described["uri"] = arn(ami.partition, ami.region, ami.ami)
        yield described
