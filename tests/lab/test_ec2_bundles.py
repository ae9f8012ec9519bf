"""Bundles in the lab's S3: who may read them, what EC2 registers, and what instances have of them.

Follows lab/ec2/bundles.py, lab/ec2/bundle_key.py, lab/ec2/s3_access.py and lab/ec2/s3.py.
"""

import base64
import hashlib
import html
import re
import tarfile
import time
import zlib
from collections.abc import Callable
from dataclasses import dataclass, field
from io import BytesIO
from typing import Any

import pytest
import requests
from botocore.config import Config
from botocore.exceptions import ClientError
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric.padding import PKCS1v15
from cryptography.hazmat.primitives.ciphers import Cipher
from cryptography.hazmat.primitives.ciphers.algorithms import AES128
from cryptography.hazmat.primitives.ciphers.modes import CBC

from tests.lab.conftest import SESSION

ACCOUNT = "123456789012"
EXEC_READ = "aws-exec-read"
DISK = b"disk".ljust(3 << 20, b"\0") + b"end"


def refusal(call: Callable[..., Any], **params: Any) -> tuple[str, str]:
    with pytest.raises(ClientError) as caught:
        call(**params)
    error = caught.value.response["Error"]
    return error["Code"], error["Message"]


def signing(ec2: Any, region: str) -> Any:
    """Return S3's client, whose URLs have the signature that every region takes."""
    return SESSION.client(
        "s3",
        region,
        endpoint_url=ec2.ec2.url,
        config=Config(signature_version="s3v4", s3={"addressing_style": "path"}),
    )


@dataclass
class Bundle:
    """A bundle made by other code than fedimg's, in a bucket of one region."""

    ec2: Any
    region: str = "us-east-1"
    bucket: str = "bundles"
    parts: list[bytes] = field(default_factory=list)
    text: str = ""

    @property
    def s3(self) -> Any:
        return signing(self.ec2, self.region)

    @property
    def location(self) -> str:
        return f"{self.bucket}/f/disk.manifest.xml"

    def make(self) -> None:
        packed = BytesIO()
        with tarfile.open(fileobj=packed, mode="w") as archive:
            info = tarfile.TarInfo("disk")
            info.size = len(DISK)
            archive.addfile(info, BytesIO(DISK))
        data = zlib.compress(packed.getvalue(), wbits=31)
        data += bytes([16 - len(data) % 16]) * (16 - len(data) % 16)
        key, iv = b"0123456789abcdef", b"fedcba9876543210"
        encryptor = Cipher(AES128(key), CBC(iv)).encryptor()
        whole = encryptor.update(data)
        half = len(whole) // 2
        self.parts = [whole[:half], whole[half:]]
        public = x509.load_pem_x509_certificate(self.ec2.ec2.certificate).public_key()

        def secret(value: bytes) -> str:
            return str(public.encrypt(value.hex().encode(), PKCS1v15()).hex())  # type: ignore

        listed = "".join(
            f'<part index="{number}"><filename>disk.part.{number:02d}</filename>'
            f'<digest algorithm="SHA1">{hashlib.sha1(part).hexdigest()}</digest></part>'
            for number, part in enumerate(self.parts)
        )
        self.text = (
            "<manifest><version>2007-10-10</version><machine_configuration><architecture>x86_64"
            "</architecture></machine_configuration><image><name>disk</name>"
            f"<user>{ACCOUNT}</user><type>machine</type>"
            f'<digest algorithm="SHA1">{hashlib.sha1(packed.getvalue()).hexdigest()}</digest>'
            f"<size>{len(DISK)}</size><bundled_size>{len(whole)}</bundled_size>"
            f"<ec2_encrypted_key>{secret(key)}</ec2_encrypted_key>"
            "<user_encrypted_key>00</user_encrypted_key>"
            f"<ec2_encrypted_iv>{secret(iv)}</ec2_encrypted_iv>"
            "<user_encrypted_iv>00</user_encrypted_iv>"
            f'<parts count="{len(self.parts)}">{listed}</parts></image>'
            "<signature>00</signature></manifest>"
        )

    def create_bucket(self, ownership: str = "BucketOwnerPreferred") -> None:
        where: Any = {}
        if self.region != "us-east-1":
            where = {"CreateBucketConfiguration": {"LocationConstraint": self.region}}
        self.s3.create_bucket(Bucket=self.bucket, ObjectOwnership=ownership, **where)

    def upload(self, acl: str = EXEC_READ) -> None:
        for number, part in enumerate(self.parts):
            self.put(f"f/disk.part.{number:02d}", part, acl)
        self.put("f/disk.manifest.xml", self.text.encode(), acl)

    def put(self, key: str, body: bytes, acl: str = EXEC_READ) -> None:
        self.s3.put_object(Bucket=self.bucket, Key=key, Body=body, ACL=acl)

    def register(self, **more: Any) -> str:
        return str(
            self.ec2.client(region=self.region).register_image(**self.request(**more))["ImageId"]
        )

    def request(self, **more: Any) -> dict[str, Any]:
        return {
            "Name": "disk",
            "ImageLocation": self.location,
            "VirtualizationType": "hvm",
            "RootDeviceName": "/dev/sda1",
            **more,
        }


@pytest.fixture
def bundle(ec2: Any) -> Bundle:
    made = Bundle(ec2)
    made.make()
    made.create_bucket()
    return made


def test_bucket_without_acls_takes_no_acl(ec2: Any) -> None:
    bundle = Bundle(ec2)
    bundle.make()
    bundle.create_bucket("BucketOwnerEnforced")
    code, message = refusal(bundle.s3.put_object, Bucket="bundles", Key="k", ACL=EXEC_READ)
    assert (code, message) == ("AccessControlListNotSupported", "The bucket does not allow ACLs")
    bundle.s3.put_object(Bucket="bundles", Key="k", ACL="bucket-owner-full-control")


def test_register_image_keeps_the_location_and_boots_the_bytes(ec2: Any, bundle: Bundle) -> None:
    bundle.upload()
    image = bundle.register()
    client = ec2.client()
    (shown,) = client.describe_images(ImageIds=[image])["Images"]
    assert (shown["RootDeviceType"], shown["ImageLocation"]) == ("instance-store", bundle.location)
    assert shown["BlockDeviceMappings"] == []
    assert shown["Architecture"] == "x86_64"
    wait_for(lambda: client.describe_images(ImageIds=[image])["Images"][0]["State"] == "available")
    started = {"ImageId": image, "MinCount": 1, "MaxCount": 1}
    code, message = refusal(client.run_instances, InstanceType="t3.small", **started)
    assert (code, "root device type" in message) == ("InvalidParameterCombination", True)
    code, _ = refusal(
        client.run_instances,
        InstanceType="m3.medium",
        InstanceInitiatedShutdownBehavior="terminate",
        **started,
    )
    assert code == "InvalidParameterCombination"
    (row,) = client.run_instances(InstanceType="m3.medium", **started)["Instances"]
    assert row["RootDeviceType"] == "instance-store"
    instance = row["InstanceId"]
    (disk,) = ec2.machines.disks[instance]
    assert disk.root
    assert disk.path.read_bytes() == DISK
    wait_for(lambda: state(client, instance) == "running")
    code, _ = refusal(client.stop_instances, InstanceIds=[instance])
    assert code == "UnsupportedOperation"
    client.terminate_instances(InstanceIds=[instance])
    wait_for(lambda: state(client, instance) == "terminated")
    assert not disk.path.exists()


def state(client: Any, instance: str) -> str:
    shown = client.describe_instances(InstanceIds=[instance])["Reservations"][0]["Instances"][0]
    return str(shown["State"]["Name"])


def wait_for(happened: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 30
    while not happened():
        assert time.monotonic() < deadline
        time.sleep(0.05)


@pytest.mark.parametrize(
    ("old", "new"),
    [
        (r"<signature>00</signature>", ""),
        (r"<user_encrypted_key>00</user_encrypted_key>", ""),
        (r"<user>\d+</user>", "<user>999999999999</user>"),
        (r"<user>(\d+)</user><type>machine</type>", r"<type>machine</type><user>\1</user>"),
        (r"<size>\d+</size>", f"<size>{(10 << 30) + 1}</size>"),
        (r'count="2"', 'count="3"'),
        (r"</manifest>", ""),
    ],
)
def test_manifest_that_ec2_does_not_take(bundle: Bundle, old: str, new: str) -> None:
    bundle.text, changes = re.subn(old, new, bundle.text)
    assert changes == 1
    bundle.upload()
    code, _ = refusal(bundle.ec2.client().register_image, **bundle.request())
    assert code == "InvalidManifest"


def test_manifest_that_ec2_may_not_read_or_not_from_here(bundle: Bundle) -> None:
    register = bundle.ec2.client().register_image
    assert "HTTP 404" in refusal(register, **bundle.request())[1]
    bundle.upload("private")
    assert "HTTP 403" in refusal(register, **bundle.request())[1]
    bundle.upload()
    elsewhere = bundle.ec2.client(region="eu-west-1").register_image
    assert "HTTP 301" in refusal(elsewhere, **bundle.request())[1]
    code, _ = refusal(register, **bundle.request(Architecture="arm64"))
    assert code == "InvalidParameterCombination"


@pytest.mark.parametrize("damage", ["absent", "other", "private"])
def test_instance_whose_part_cannot_be_used_does_not_start(bundle: Bundle, damage: str) -> None:
    bundle.upload()
    image = bundle.register()
    client = bundle.ec2.client()
    wait_for(lambda: client.describe_images(ImageIds=[image])["Images"][0]["State"] == "available")
    if damage == "absent":
        bundle.s3.delete_object(Bucket="bundles", Key="f/disk.part.01")
    else:
        body = bundle.parts[1] if damage == "private" else bytes(len(bundle.parts[1]))
        bundle.put("f/disk.part.01", body, "private" if damage == "private" else EXEC_READ)
    started = client.run_instances(ImageId=image, InstanceType="m3.medium", MinCount=1, MaxCount=1)
    instance = started["Instances"][0]["InstanceId"]
    wait_for(lambda: state(client, instance) == "terminated")
    assert instance not in bundle.ec2.machines.launches


def test_object_is_copied_to_another_region_without_its_acl(bundle: Bundle) -> None:
    bundle.upload()
    other = Bundle(bundle.ec2, "eu-west-1", "bundles-eu", text=bundle.text, parts=bundle.parts)
    other.create_bucket()
    names = ["f/disk.manifest.xml", "f/disk.part.00", "f/disk.part.01"]
    for acl in ("private", EXEC_READ):
        for key in names:
            source = {"Bucket": "bundles", "Key": key}
            other.s3.copy_object(Bucket="bundles-eu", Key=key, CopySource=source, ACL=acl)
        if acl == "private":
            assert (
                "HTTP 403"
                in refusal(bundle.ec2.client(region="eu-west-1").register_image, **other.request())[
                    1
                ]
            )
    assert other.register()


def test_part_is_uploaded_by_a_signed_url_alone(bundle: Bundle) -> None:
    url = bundle.s3.generate_presigned_url(
        "put_object",
        Params={"Bucket": "bundles", "Key": "f/disk.part.00", "ACL": EXEC_READ},
        ExpiresIn=60,
    )
    headers = {"x-amz-acl": EXEC_READ}
    assert requests.put(url, data=b"part", timeout=30).status_code == 403
    assert (
        requests.put(
            url.replace("part.00", "part.01"), b"p", headers=headers, timeout=30
        ).status_code
        == 403
    )
    assert requests.put(url, data=b"part", headers=headers, timeout=30).status_code == 200
    found = bundle.s3.get_object(Bucket="bundles", Key="f/disk.part.00")
    assert found["Body"].read() == b"part"


@pytest.mark.parametrize(
    ("header", "checksum"),
    [
        ("x-amz-checksum-sha1", lambda body: hashlib.sha1(body)),
        ("x-amz-checksum-sha256", lambda body: hashlib.sha256(body)),
        ("Content-MD5", lambda body: hashlib.md5(body)),
    ],
)
def test_object_has_to_have_the_digest_that_is_told(
    bundle: Bundle, header: str, checksum: Callable[[bytes], Any]
) -> None:
    digest = base64.b64encode(checksum(b"part").digest()).decode()
    name = header.replace("x-amz-checksum-", "Checksum").replace("sha", "SHA").replace("-", "")
    url = bundle.s3.generate_presigned_url(
        "put_object", Params={"Bucket": "bundles", "Key": "f/p", name: digest}, ExpiresIn=60
    )
    refused = requests.put(url, b"trap", headers={header: digest}, timeout=30)
    assert (refused.status_code, "<Code>BadDigest</Code>" in refused.text) == (400, True)
    # The signature covers the digest.
    other = base64.b64encode(checksum(b"trap").digest()).decode()
    assert requests.put(url, b"trap", headers={header: other}, timeout=30).status_code == 403
    assert requests.put(url, b"part", headers={header: digest}, timeout=30).status_code == 200
    told = bundle.s3.head_object(Bucket="bundles", Key="f/p", ChecksumMode="ENABLED")
    assert told["ContentLength"] == 4
    assert header == "Content-MD5" or told[name] == digest


def test_bucket_is_asked_for_in_its_own_region(bundle: Bundle) -> None:
    url = signing(bundle.ec2, "eu-west-1").generate_presigned_url(
        "list_objects_v2", Params={"Bucket": "bundles"}
    )
    answered = requests.get(url, timeout=30)
    assert answered.status_code == 400
    assert "expecting 'us-east-1'" in html.unescape(answered.text)


def page(ec2: Any, name: str) -> list[dict[str, Any]]:
    headers = {"Authorization": f"Bearer {ec2.ec2.token}"}
    rows: list[dict[str, Any]] = requests.get(
        f"{ec2.ec2.url}/lab/{name}", headers=headers, timeout=30
    ).json()
    return rows


def test_objects_are_in_the_ledger_until_they_are_deleted(ec2: Any, bundle: Bundle) -> None:
    bundle.upload()
    bundle.upload()
    bundle.s3.delete_object(Bucket="bundles", Key="f/disk.part.00")
    bundle.s3.delete_objects(
        Bucket="bundles", Delete={"Objects": [{"Key": "f/disk.part.01"}, {"Key": "none"}]}
    )
    rows = [(row["event"], row["id"]) for row in page(ec2, "ledger") if row["kind"] == "object"]
    name = "s3://bundles/f/disk"
    assert rows == [
        ("create", f"{name}.part.00"),
        ("create", f"{name}.part.01"),
        ("create", f"{name}.manifest.xml"),
        ("delete", f"{name}.part.00"),
        ("delete", f"{name}.part.01"),
    ]
    live = [row["id"] for row in page(ec2, "ledger/live") if row["kind"] == "object"]
    assert live == [f"{name}.manifest.xml"]
