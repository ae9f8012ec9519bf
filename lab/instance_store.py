"""Give a site buckets, a signing key, EC2's certificate and settings for instance-store AMIs."""

import json
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import NameOID

from lab.clients import write_secret
from lab.ec2.server import EC2

#: The name of each region's bucket, as fedimg's settings have it.
BUCKET = "lab-amis-{region}"
TYPES = ("hvm-gp2", "hvm-instance", "paravirtual-instance")


def prepare(folder: Path, ec2: EC2, regions: Sequence[str]) -> str:
    """Make buckets and files; return the tables of fedimg.toml that name them.

    A signing key of an earlier site in the folder stays; EC2's own is new at each start.
    """
    folder.mkdir(exist_ok=True)
    for region in regions:
        ec2.bucket(BUCKET.replace("{region}", region), region)
    key, certificate, ec2_certificate = (
        folder / name for name in ("signing.pem", "certificate.pem", "ec2.pem")
    )
    if not (key.exists() and certificate.exists()):
        _make_pair(key, certificate)
    ec2_certificate.write_bytes(ec2.certificate)
    return f"""
[ec2.amis]
types = {json.dumps(TYPES)}

[ec2.instance_store]
bucket = {json.dumps(BUCKET)}
signing_key = {json.dumps(str(key))}
certificate = {json.dumps(str(certificate))}
ec2_certificate = {json.dumps(str(ec2_certificate))}
"""


def _make_pair(key: Path, certificate: Path) -> None:
    made = rsa.generate_private_key(public_exponent=65537, key_size=2048)
    now = datetime.now(UTC)
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "fedimg of the lab")])
    signed = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(made.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(days=1))
        .not_valid_after(now + timedelta(days=3650))
        .sign(made, hashes.SHA256())
    )
    certificate.write_bytes(signed.public_bytes(Encoding.PEM))
    text = made.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    write_secret(key, text.decode())
