"""Faults of S3 by a plan, its counts of calls, unfinished uploads, and a site that has buckets.

Follows lab/ec2/s3_actions.py, lab/ec2/s3.py, lab/instance_store.py.
"""

import tomllib
from pathlib import Path
from typing import Any

import pytest
from botocore.config import Config
from botocore.exceptions import ClientError, ConnectionClosedError

from lab import leaks
from lab.leaks import Thing
from lab.site import Site
from tests.lab.conftest import SESSION
from tests.plans import ask, follow, forget_calls, struck

REGION = "us-east-1"


@pytest.fixture
def s3(ec2: Any) -> Any:
    once = Config(
        signature_version="s3v4", s3={"addressing_style": "path"}, retries={"total_max_attempts": 1}
    )
    client = SESSION.client("s3", REGION, endpoint_url=ec2.ec2.url, config=once)
    client.create_bucket(Bucket="bucket", ObjectOwnership="BucketOwnerPreferred")
    return client


def test_calls_are_counted_by_their_names(ec2: Any, s3: Any) -> None:
    forget_calls(ec2.ec2)
    s3.put_object(Bucket="bucket", Key="a/b", Body=b"x")
    s3.copy_object(Bucket="bucket", Key="c", CopySource={"Bucket": "bucket", "Key": "a/b"})
    s3.list_objects_v2(Bucket="bucket", Prefix="a/")
    s3.head_object(Bucket="bucket", Key="c")
    s3.delete_objects(Bucket="bucket", Delete={"Objects": [{"Key": "c"}]})
    assert ask(ec2.ec2, "calls")["S3"] == {
        "PutObject": 1, "CopyObject": 1, "ListObjectsV2": 1, "HeadObject": 1, "DeleteObjects": 1,
    }  # fmt: skip


@pytest.mark.parametrize(
    ("code", "status"), [("SlowDown", 503), ("AccessDenied", 403), ("InternalError", 500)]
)
def test_call_is_refused_by_the_plan_before_it_acts_or_after(
    ec2: Any, s3: Any, code: str, status: int
) -> None:
    for late in (False, True):
        fault = {"fault": "refused", "code": code, "action": "PutObject", "late": late}
        follow(ec2.ec2, [{**fault, "region": REGION}])
        with pytest.raises(ClientError) as caught:
            s3.put_object(Bucket="bucket", Key="k", Body=b"x")
        assert caught.value.response["Error"]["Code"] == code
        assert caught.value.response["ResponseMetadata"]["HTTPStatusCode"] == status
        assert ("Contents" in s3.list_objects_v2(Bucket="bucket")) == late
        assert struck(ec2.ec2) == [1]
    follow(ec2.ec2, [])


def test_connection_is_reset_by_the_plan(ec2: Any, s3: Any) -> None:
    follow(ec2.ec2, [{"fault": "reset", "action": "GetObject"}])
    s3.put_object(Bucket="bucket", Key="k", Body=b"x")
    with pytest.raises(ConnectionClosedError):
        s3.get_object(Bucket="bucket", Key="k")
    follow(ec2.ec2, [])
    assert s3.get_object(Bucket="bucket", Key="k")["Body"].read() == b"x"


def test_unfinished_upload_is_in_the_ledger_until_it_is_aborted_or_completed(
    ec2: Any, s3: Any
) -> None:
    def live() -> list[str]:
        rows = ask(ec2.ec2, "ledger/live")
        return [row["id"].partition("?")[0] for row in rows if row["kind"] == "upload"]

    upload = {"Bucket": "bucket", "Key": "k"}
    for end in ("abort", "complete"):
        id = s3.create_multipart_upload(**upload)["UploadId"]
        part = s3.upload_part(**upload, UploadId=id, PartNumber=1, Body=b"x")
        assert live() == ["s3://bucket/k"]
        if end == "abort":
            s3.abort_multipart_upload(**upload, UploadId=id)
        else:
            parts = {"Parts": [{"PartNumber": 1, "ETag": part["ETag"]}]}
            s3.complete_multipart_upload(**upload, UploadId=id, MultipartUpload=parts)
        assert live() == []
    rows = [row["event"] for row in ask(ec2.ec2, "ledger") if row["kind"] == "upload"]
    assert rows == ["create", "delete"] * 2


def test_objects_of_a_public_bundle_are_neither_left_nor_forgotten() -> None:
    folder = "s3://bucket/fedimg/lab/job/bytes"
    part = Thing("object", f"{folder}/i.part.00", REGION, "available", True, {})
    image = Thing("image", "ami-1", REGION, "available", True, {})
    row = {"region": REGION, "ami": "ami-1", "snapshot": folder, "state": "public"}
    assert leaks.unpublished([part]) == []
    assert leaks.forgotten([image, part], [row]) == []
    assert leaks.forgotten([image], [row]) == [
        f"snapshot {folder} in {REGION} is recorded as public, and nobody else may use it"
    ]


@pytest.mark.process
def test_site_has_what_instance_store_amis_need(tmp_path: Path) -> None:
    regions = ("us-east-1", "eu-west-1")
    with Site(tmp_path / "site", regions=regions, instance_store=True) as site:
        said = tomllib.loads(site.fedimg_config.read_text())["ec2"]
        first = Path(said["instance_store"]["signing_key"]).read_bytes()
    assert "write_via" not in said
    assert "hvm-instance" in said["amis"]["types"]
    assert Path(said["instance_store"]["signing_key"]).stat().st_mode & 0o077 == 0
    with Site(tmp_path / "site", regions=regions, instance_store=True):
        assert Path(said["instance_store"]["signing_key"]).read_bytes() == first


def test_head_of_what_is_not_there_is_404(s3: Any) -> None:
    s3.create_bucket(Bucket="asked")
    for call in (
        lambda: s3.head_object(Bucket="asked", Key="nothing"),
        lambda: s3.head_bucket(Bucket="nowhere"),
    ):
        with pytest.raises(ClientError) as refused:
            call()
        assert refused.value.response["Error"]["Code"] == "404"
