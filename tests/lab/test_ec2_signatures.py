"""The signatures that the lab's EC2 demands in every protocol: dates, bodies and tokens."""

import base64
import hashlib
import io
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import boto3
import pytest
import requests
from botocore.auth import S3SigV4Auth, SigV4Auth, SigV4QueryAuth
from botocore.awsrequest import AWSRequest
from botocore.config import Config
from botocore.credentials import Credentials as Keys
from botocore.exceptions import ClientError

from lab.access_keys import AccessKey
from lab.ec2 import request, signatures
from lab.ec2.request import Request
from lab.ec2.server import EC2, Settings
from lab.ec2.signatures import Credentials, NotVerified, Reason
from tests.lab.conftest import KEY, QUICK, SESSION, RecordedMachines, Site

FORM = "application/x-www-form-urlencoded"
DESCRIBE = "Action=DescribeRegions&Version=2016-11-15"
IDENTITY = "Action=GetCallerIdentity&Version=2011-06-15"
# The key and the day of AWS's own examples ("Create a signed AWS API request", IAM User Guide).
EXAMPLE = AccessKey("AKIDEXAMPLE", "wJalrXUtnFEMI/K7MDENG+bPxRfiCYEXAMPLEKEY")
EXAMPLE_TIME = datetime(2015, 8, 30, 12, 36, tzinfo=UTC)


@pytest.fixture(scope="module")
def ec2(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    folder, machines = tmp_path_factory.mktemp("ec2"), RecordedMachines()
    with EC2(Settings(folder, KEY, regions=("us-east-1",), delays=QUICK), machines) as running:
        yield Site(running, machines, folder)


def received(
    target: str, headers: dict[str, str], body: bytes = b"", method: str = "GET"
) -> Request:
    """Return a request as the server has it."""
    environ: dict[str, Any] = {
        "REQUEST_METHOD": method,
        "RAW_URI": target,
        "PATH_INFO": requests.utils.unquote(target.partition("?")[0]),
        "QUERY_STRING": target.partition("?")[2],
        "CONTENT_LENGTH": str(len(body)),
        "wsgi.input": io.BytesIO(body),
    }
    for name, value in headers.items():
        key = name.upper().replace("-", "_")
        environ[key if key == "CONTENT_TYPE" else f"HTTP_{key}"] = value
    return request.read(environ)


def known(key: AccessKey) -> Callable[[str], Credentials | None]:
    return lambda id: Credentials(key.secret) if id == key.id else None


def refused(asked: Request, **given: Any) -> Reason:
    with pytest.raises(NotVerified) as error:
        signatures.verify(asked, **{"known": known(EXAMPLE), "now": EXAMPLE_TIME, **given})
    return error.value.reason


def example(signature: str, signed: str = "host;x-amz-date") -> str:
    return (
        "AWS4-HMAC-SHA256 Credential=AKIDEXAMPLE/20150830/us-east-1/service/aws4_request, "
        f"SignedHeaders={signed}, Signature={signature}"
    )


HEADERS = {"Host": "example.amazonaws.com", "X-Amz-Date": "20150830T123600Z"}


# The cases are those of AWS's Signature Version 4 test suite, by their names there.
@pytest.mark.parametrize(
    ("method", "target", "headers", "body", "signed", "signature"),
    [
        pytest.param(
            "GET",
            "/",
            {},
            b"",
            "host;x-amz-date",
            "5fa00fa31553b73ebf1942676e86291e8372ff2a2260956d9b8aae1d763fbf31",
            id="get-vanilla",
        ),
        pytest.param(
            "GET",
            "/?Param2=value2&Param1=value1",
            {},
            b"",
            "host;x-amz-date",
            "b97d918cfa904a5beff61c982a1b6f458b799221646efd99d3219ec94cdf2500",
            id="get-vanilla-query-order-key-case",
        ),
        pytest.param(
            "GET",
            "/",
            {"My-Header1": " value1", "My-Header2": ' "a   b   c"'},
            b"",
            "host;my-header1;my-header2;x-amz-date",
            "acc3ed3afb60bb290fc8d2dd0098b9911fcaa05412b367055dee359757a9c736",
            id="get-header-value-trim",
        ),
        pytest.param(
            "POST",
            "/",
            {"Content-Type": FORM},
            b"Param1=value1",
            "content-type;host;x-amz-date",
            "ff11897932ad3f4e8b18135d722051e5ac45fc38421b1da7b9d196a0fe09473a",
            id="post-x-www-form-urlencoded",
        ),
    ],
)
def test_signatures_are_those_of_awss_test_suite(
    method: str, target: str, headers: dict[str, str], body: bytes, signed: str, signature: str
) -> None:
    given = {**HEADERS, **headers, "Authorization": example(signature, signed)}
    asked = received(target, given, body, method)
    signer = signatures.verify(asked, known(EXAMPLE), EXAMPLE_TIME)
    assert (signer.access_key, signer.service) == ("AKIDEXAMPLE", "service")
    assert refused(asked, known=known(EXAMPLE._replace(secret="another"))) is Reason.SIGNATURE
    for other in (
        replace(asked, method="DELETE"),
        replace(asked, query="x=y"),
        replace(asked, environ={**asked.environ, "RAW_URI": "/other"}),
        replace(asked, environ={**asked.environ, "HTTP_HOST": "other.amazonaws.com"}),
        replace(asked, body=b"Action=Other"),
    ):
        assert refused(other) is Reason.SIGNATURE


VANILLA = example("5fa00fa31553b73ebf1942676e86291e8372ff2a2260956d9b8aae1d763fbf31")


@pytest.mark.parametrize(
    ("minutes", "so"), [(-5.1, Reason.SKEWED), (-4.9, None), (4.9, None), (5.1, Reason.SKEWED)]
)
def test_signature_is_good_for_five_minutes(minutes: float, so: Reason | None) -> None:
    asked = received("/", {**HEADERS, "Authorization": VANILLA})
    now = EXAMPLE_TIME + timedelta(minutes=minutes)
    if so:
        assert refused(asked, now=now) is so
    else:
        signatures.verify(asked, known(EXAMPLE), now)


@pytest.mark.parametrize(
    ("headers", "so"),
    [
        ({"Authorization": "Bearer token"}, Reason.INCOMPLETE),
        ({"Authorization": VANILLA[:-1]}, Reason.INCOMPLETE),
        (
            {"Authorization": f"{VANILLA}, Credential=A/20150830/b/c/aws4_request"},
            Reason.INCOMPLETE,
        ),
        ({"Authorization": VANILLA.replace("host;", "")}, Reason.INCOMPLETE),
        ({"Authorization": VANILLA.replace("/service/", "/Service/")}, Reason.INCOMPLETE),
        ({"Authorization": VANILLA, "X-Amz-Date": "yesterday"}, Reason.INCOMPLETE),
        ({"Authorization": VANILLA.replace("AKIDEXAMPLE", "AKIDOTHER")}, Reason.UNKNOWN_KEY),
        ({"Authorization": VANILLA, "X-Amz-Security-Token": "session"}, Reason.TOKEN),
        ({"Authorization": VANILLA, "X-Amz-Date": "20150829T123600Z"}, Reason.SIGNATURE),
        ({"Authorization": VANILLA, "X-Amz-Content-Sha256": "0" * 64}, Reason.BODY),
        ({}, Reason.UNSIGNED),
    ],
)
def test_malformed_signature_is_refused(headers: dict[str, str], so: Reason) -> None:
    assert refused(received("/", {**HEADERS, **headers})) is so


def signed(
    url: str, service: str, body: bytes = b"", key: AccessKey = KEY, **headers: str
) -> dict[str, str]:
    """Return the headers of a request as botocore signs it."""
    given = {name.replace("_", "-"): value for name, value in headers.items()}
    asked = AWSRequest("POST" if body else "GET", url, given, body)
    kind = S3SigV4Auth if service == "s3" else SigV4Auth
    kind(Keys(*key), service, "us-east-1").add_auth(asked)
    return dict(asked.headers.items())


def code(answer: requests.Response) -> tuple[int, str]:
    """Return the code and message of an answer, in any of the protocols."""
    text = answer.text
    if text.startswith("{"):
        return answer.status_code, answer.json().get("__type", "")
    return answer.status_code, text.partition("<Code>")[2].partition("</Code>")[0]


ANOTHER, WRONG = AccessKey.new(), KEY._replace(secret="wrong")
OLD = timedelta(minutes=20)

#: By service: a body, and its headers.
ASKED: dict[str, tuple[bytes, dict[str, str]]] = {
    "ec2": (DESCRIBE.encode(), {"Content_Type": FORM}),
    "sts": (IDENTITY.encode(), {"Content_Type": FORM}),
    "servicequotas": (
        b'{"ServiceCode": "ec2"}',
        {
            "Content_Type": "application/x-amz-json-1.1",
            "X_Amz_Target": "ServiceQuotasV20190624.ListServiceQuotas",
        },
    ),
    "ebs": (b'{"VolumeSize": 1}', {"Content_Type": "application/json"}),
    "s3": (b"", {}),
}


@pytest.mark.parametrize(
    ("service", "unsigned", "unknown", "mismatch", "expired"),
    [
        (
            "ec2",
            (403, "MissingAuthenticationToken"),
            (401, "AuthFailure"),
            (401, "AuthFailure"),
            (400, "RequestExpired"),
        ),
        (
            "sts",
            (403, "MissingAuthenticationToken"),
            (403, "InvalidClientTokenId"),
            (403, "SignatureDoesNotMatch"),
            (403, "SignatureDoesNotMatch"),
        ),
        *(
            (
                service,
                (403, "MissingAuthenticationTokenException"),
                (403, "UnrecognizedClientException"),
                (403, "InvalidSignatureException"),
                (403, "InvalidSignatureException"),
            )
            for service in ("servicequotas", "ebs")
        ),
        (
            "s3",
            (403, "AccessDenied"),
            (403, "InvalidAccessKeyId"),
            (403, "SignatureDoesNotMatch"),
            (403, "RequestTimeTooSkewed"),
        ),
    ],
)
def test_each_service_refuses_with_its_own_error(
    ec2: Site,
    monkeypatch: pytest.MonkeyPatch,
    service: str,
    unsigned: tuple[int, str],
    unknown: tuple[int, str],
    mismatch: tuple[int, str],
    expired: tuple[int, str],
) -> None:
    body, headers = ASKED[service]
    url = ec2.ec2.url + ("/snapshots" if service == "ebs" else "/")
    plain = {name.replace("_", "-"): value for name, value in headers.items()}

    def said(given: dict[str, str]) -> tuple[int, str]:
        ask = requests.post if body else requests.get
        return code(ask(url, data=body, headers=given, timeout=60))

    assert said(plain) == unsigned
    assert said(signed(url, service, body, ANOTHER, **headers)) == unknown
    assert said(signed(url, service, body, WRONG, **headers)) == mismatch
    assert said(signed(url, service, body, **headers))[0] in (200, 201)
    monkeypatch.setattr("botocore.auth.get_current_datetime", lambda: datetime.now(UTC) - OLD)
    assert said(signed(url, service, body, **headers)) == expired


def test_body_that_was_changed_on_its_way_is_refused(ec2: Site) -> None:
    url = f"{ec2.ec2.url}/"
    given = signed(url, "ec2", DESCRIBE.encode(), Content_Type=FORM)
    assert requests.post(url, DESCRIBE, headers=given, timeout=60).status_code == 200
    other = DESCRIBE.replace("Regions", "Volumes")
    assert code(requests.post(url, other, headers=given, timeout=60))[1] == "AuthFailure"


def test_signed_url_works_until_it_expires(ec2: Site) -> None:
    s3 = ec2.client("s3")
    s3.create_bucket(Bucket="signed")
    s3.put_object(Bucket="signed", Key="a b/ü+~.txt", Body=b"text")
    about = {"Bucket": "signed", "Key": "a b/ü+~.txt"}
    signing = SESSION.client(
        "s3",
        "us-east-1",
        endpoint_url=ec2.ec2.url,
        config=Config(signature_version="s3v4", s3={"addressing_style": "path"}),
    )
    url = signing.generate_presigned_url("get_object", Params=about, ExpiresIn=1)
    assert requests.get(url, timeout=60).text == "text"
    assert code(requests.get(url + "&versionId=x", timeout=60))[1] == "SignatureDoesNotMatch"
    other = url.replace("/signed/", "/others/")
    assert code(requests.get(other, timeout=60))[1] == "SignatureDoesNotMatch"
    old = ec2.client("s3").generate_presigned_url("get_object", Params=about)
    assert "X-Amz-Signature" not in old
    assert code(requests.get(old, timeout=60)) == (400, "InvalidRequest")
    time.sleep(2.1)
    assert code(requests.get(url, timeout=60))[1] == "RequestTimeTooSkewed"


def test_signed_url_works_for_its_own_service_only(ec2: Site) -> None:
    asked = AWSRequest("POST", f"{ec2.ec2.url}/iam_us-east-1/", {}, b"")
    SigV4QueryAuth(Keys(*KEY), "s3", "us-east-1").add_auth(asked)
    body = "Action=ListUsers&Version=2010-05-08"
    answer = requests.post(asked.url, body, headers={"Content-Type": FORM}, timeout=60)
    assert "ListUsersResult" not in answer.text


def test_s3_accepts_the_body_hashes_that_aws_accepts(ec2: Site) -> None:
    s3 = ec2.client("s3")
    s3.create_bucket(Bucket="bodies")
    url = f"{ec2.ec2.url}/bodies/name"

    def put(sha256: str) -> tuple[int, str]:
        asked = AWSRequest("PUT", url, {}, b"text")
        auth = SigV4Auth(Keys(*KEY), "s3", "us-east-1")
        asked.headers["X-Amz-Content-SHA256"] = sha256
        auth.add_auth(asked)
        headers = dict(asked.headers.items())
        return code(requests.put(url, b"text", headers=headers, timeout=60))

    assert put("UNSIGNED-PAYLOAD")[0] == 200
    assert put(hashlib.sha256(b"text").hexdigest())[0] == 200
    assert put(hashlib.sha256(b"other").hexdigest()) == (400, "XAmzContentSHA256Mismatch")
    for algorithm in ("CRC32", "SHA256"):
        s3.put_object(Bucket="bodies", Key="with", Body=b"text", ChecksumAlgorithm=algorithm)
    assert s3.get_object(Bucket="bodies", Key="with")["Body"].read() == b"text"


def test_block_whose_digest_is_not_its_own_is_refused_after_the_signature(ec2: Site) -> None:
    ebs = ec2.client("ebs")
    started = ebs.start_snapshot(VolumeSize=1)["SnapshotId"]
    block = bytes(524288)
    checksum = base64.b64encode(hashlib.sha256(block).digest()).decode()
    put = {
        "SnapshotId": started,
        "BlockIndex": 0,
        "DataLength": len(block),
        "ChecksumAlgorithm": "SHA256",
    }
    assert ebs.put_snapshot_block(BlockData=block, Checksum=checksum, **put)["Checksum"] == checksum
    with pytest.raises(ClientError, match="does not match"):
        ebs.put_snapshot_block(BlockData=b"x" * len(block), Checksum=checksum, **put)


def test_key_works_until_iam_deactivates_it(ec2: Site) -> None:
    iam = ec2.client("iam")
    iam.create_user(UserName="ann")
    iam.put_user_policy(
        UserName="ann",
        PolicyName="looks",
        PolicyDocument='{"Version": "2012-10-17", "Statement": {"Effect": "Allow",'
        ' "Action": "ec2:*", "Resource": "*"}}',
    )
    made = iam.create_access_key(UserName="ann")["AccessKey"]
    key = AccessKey(made["AccessKeyId"], made["SecretAccessKey"])

    def said(key: AccessKey) -> str:
        try:
            client = boto3.Session(*key).client("ec2", "us-east-1", endpoint_url=ec2.ec2.url)
            client.describe_volumes()
        except ClientError as error:
            return str(error.response["Error"]["Code"])
        return ""

    assert said(key) == ""
    assert said(key._replace(secret="guess")) == "AuthFailure"
    iam.update_access_key(UserName="ann", AccessKeyId=key.id, Status="Inactive")
    assert said(key) == "AuthFailure"
    iam.update_access_key(UserName="ann", AccessKeyId=key.id, Status="Active")
    assert said(key) == ""
    iam.delete_access_key(UserName="ann", AccessKeyId=key.id)
    assert said(key) == "AuthFailure"


def test_session_needs_its_token_and_ends(ec2: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    given = ec2.client("sts").assume_role(
        RoleArn="arn:aws:iam::123456789012:role/none",
        RoleSessionName="session",
        DurationSeconds=900,
    )["Credentials"]
    key, secret = given["AccessKeyId"], given["SecretAccessKey"]

    def said(token: str | None) -> str:
        session = boto3.Session(key, secret, token)
        client = session.client("sts", "us-east-1", endpoint_url=ec2.ec2.url)
        try:
            return str(client.get_caller_identity()["Arn"])
        except ClientError as error:
            return str(error.response["Error"]["Code"])

    assert said(given["SessionToken"]).endswith("assumed-role/none/session")
    assert said(None) == "InvalidClientTokenId"
    assert said("another") == "InvalidClientTokenId"
    later = datetime.now(UTC) + timedelta(seconds=901)

    class Later(datetime):
        @classmethod
        def now(cls, tz: Any = None) -> datetime:
            return later

    monkeypatch.setattr(signatures, "datetime", Later)
    monkeypatch.setattr("botocore.auth.get_current_datetime", lambda: later)
    assert said(given["SessionToken"]) == "ExpiredToken"


@pytest.mark.parametrize(
    "path",
    ["/moto-api/reset", "/moto-api/data.json", "/latest/meta-data/iam/security-credentials/"],
)
def test_own_pages_of_moto_are_closed(ec2: Site, path: str) -> None:
    for ask in (requests.get, requests.post):
        assert ask(ec2.ec2.url + path, timeout=60).status_code == 404


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("GET", "calls"),
        ("GET", "ledger"),
        ("GET", "decisions"),
        ("POST", "calls/reset"),
        ("PUT", "faults"),
    ],
)
def test_pages_of_the_lab_ask_for_the_token(ec2: Site, method: str, path: str) -> None:
    url = f"{ec2.ec2.url}/lab/{path}"
    for given in ({}, {"Authorization": "Bearer guess"}, signed(url, "ec2")):
        answer = requests.request(method, url, headers=given, timeout=60)
        assert answer.status_code == 403
        assert "control_token" in answer.json()["error"]
    given = {"Authorization": f"Bearer {ec2.ec2.token}"}
    answer = requests.request(method, url, data=b'{"faults": []}', headers=given, timeout=60)
    assert answer.status_code == 200


def test_header_does_not_choose_another_account(ec2: Site) -> None:
    url = f"{ec2.ec2.url}/"
    given = signed(url, "sts", IDENTITY.encode(), Content_Type=FORM)
    given["X-Moto-Account-Id"] = "999999999999"
    text = requests.post(url, IDENTITY, headers=given, timeout=60).text
    assert "123456789012" in text
    assert "999999999999" not in text
