"""A bundle that an instance's shell makes and S3 gets by signed URLs; what a hostile one can say.

Follows fedimg/aws/write/part_orders.py, fedimg/aws/write/make_bundle.sh.
"""

from __future__ import annotations

import hashlib
import random
import re
import subprocess
import threading
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import botocore.auth
import pytest

from fedimg.aws.bundle import keys
from fedimg.aws.bundle.objects import BundleStore
from fedimg.aws.bundle.place import place_of
from fedimg.aws.bundle.stream import PART, most_parts, tail
from fedimg.aws.client.clients import Clients
from fedimg.aws.instance import scripts
from fedimg.aws.write.bundle_pass import MADE_LATER, BundleRecipe
from fedimg.aws.write.image_errors import ImageUnusable
from fedimg.aws.write.part_orders import ByTheInstance, PartOrders
from fedimg.images import Disk, RawImage
from lab.ec2.server import EC2
from tests.aws.bundle.unbundler import Pair, pair, unbundle
from tests.aws.conftest import ORIGIN, Account
from tests.plans import ask, follow, forget_calls

pytestmark = pytest.mark.process

BUCKET = f"instances-{ORIGIN}"
#: Three parts, the last of them smaller.
IMAGE = random.Random(5).randbytes(22 * 1024 * 1024) + bytes(1024 * 1024) + b"the end"
DISK = Disk(hashlib.sha256(IMAGE).hexdigest(), len(IMAGE))
#: What write_image.sh does around the functions.
AROUND = """
set -u
while read -r name value; do
    [[ $name != end ]] || break
    printf -v "$name" %s "$value"
done
part_size=$part idle=30 work=$2
exec 5<&0
mkfifo "$work/archive.pipe"
make_bundle <"$1"
"""


@dataclass
class Making:
    """A recipe, and a shell that plays the instance."""

    account: Account
    owner: Pair
    image: RawImage
    folder: Path
    clients: Clients
    told: list[str] = field(default_factory=list)
    #: What the shell printed, and what it was told.
    heard: list[str] = field(default_factory=list)
    answers: list[str] = field(default_factory=list)

    @property
    def s3(self) -> Any:
        return self.clients.client("s3", ORIGIN)

    def instance(self) -> ByTheInstance:
        store = BundleStore(
            self.clients.client("s3", ORIGIN), place_of(BUCKET, "tests", self.image)
        )
        made = keys.read(self.owner.key, self.owner.certificate, self.owner.certificate)
        signing = self.clients.s3_signing(ORIGIN)
        recipe = BundleRecipe(lambda stop: store, signing, made, "123456789012")
        return ByTheInstance(recipe, threading.Event(), self.told.append)

    def begin(self, size: int = len(IMAGE)) -> PartOrders:
        orders = self.instance().begin(self.image, size)
        assert orders is not None
        return orders

    def run(
        self,
        orders: PartOrders,
        meanwhile: Callable[[subprocess.Popen[str]], object] = lambda shell: None,
        **values: object,
    ) -> None:
        """Run the shell to its end, and store the manifest if the bundle is whole."""
        work, raw = self.folder / f"work-{len(self.heard)}", self.folder / "raw"
        work.mkdir()
        raw.write_bytes(IMAGE)
        given = scripts.values({**orders.values(), **values}.items()).decode()
        command = ["bash", "-c", scripts.text("write/make_bundle.sh") + AROUND, "bash", raw, work]
        with subprocess.Popen(
            list(map(str, command)), stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        ) as shell:
            assert shell.stdin
            assert shell.stdout
            shell.stdin.write(given)
            shell.stdin.flush()
            for line in map(str.rstrip, shell.stdout):
                self.heard.append(line)
                answer = orders.answer(line).decode()
                if answer:
                    self.answers.append(answer)
                    shell.stdin.write(answer)
                    shell.stdin.flush()
                    meanwhile(shell)
        assert shell.returncode == 0
        self.instance().end(orders, DISK)

    def stored(self) -> list[str]:
        found = self.s3.list_objects_v2(Bucket=BUCKET)
        return [each["Key"].rpartition("/")[2] for each in found.get("Contents", ())]

    def uploads(self) -> int:
        return int(ask(self.account, "calls").get("S3", {}).get("PutObject", 0))

    def urls(self) -> list[str]:
        return [answer.split()[3] for answer in self.answers if answer.startswith("put ")]


@pytest.fixture(scope="module")
def owner(tmp_path_factory: pytest.TempPathFactory) -> Pair:
    return pair(tmp_path_factory.mktemp("owner"), "owner")


@pytest.fixture
def making(
    ec2: EC2, account: Account, clients: Clients, image: RawImage, owner: Pair, tmp_path: Path
) -> Iterator[Making]:
    ec2.bucket(BUCKET, ORIGIN)
    made = Making(account, owner, image, tmp_path, clients)
    forget_calls(account)
    yield made
    follow(account, [])
    for each in made.s3.list_objects_v2(Bucket=BUCKET).get("Contents", ()):
        made.s3.delete_object(Bucket=BUCKET, Key=each["Key"])
    made.s3.delete_bucket(Bucket=BUCKET)


def secret(orders: PartOrders) -> str:
    return str(orders.values()["secret"])


def test_openssl_and_tar_read_what_the_shell_has_bundled(making: Making) -> None:
    orders = making.begin()
    making.run(orders)
    name = making.image.name
    manifest, *parts = sorted(making.stored(), key=lambda key: ".part." in key)
    assert (manifest, parts) == (
        f"{name}.manifest.xml",
        [f"{name}.part.{number:02d}" for number in range(3)],
    )
    folder = place_of(BUCKET, "tests", making.image).folder

    def read(key: str) -> bytes:
        found = making.s3.get_object(Bucket=BUCKET, Key=f"{folder}/{key}")
        return bytes(found["Body"].read())

    assert unbundle(
        read(manifest), read, making.owner, making.owner.key, "user", making.folder
    ) == (IMAGE)
    assert (making.told, making.uploads(), len(making.urls())) == ([], 4, 3)
    # With a whole bundle in S3, nothing more is wanted of an instance.
    assert making.instance().begin(making.image, len(IMAGE)) is None


def test_another_shell_goes_on_with_the_parts_that_are_there(making: Making) -> None:
    making.run(making.begin())
    folder = place_of(BUCKET, "tests", making.image).folder
    for key in (making.image.name + ".manifest.xml", making.image.name + ".part.01"):
        making.s3.delete_object(Bucket=BUCKET, Key=f"{folder}/{key}")
    making.answers.clear()
    making.run(making.begin())
    assert [answer.split()[:2] for answer in making.answers] == [
        ["have", "0"],
        ["put", "1"],
        ["have", "2"],
    ]
    assert (making.told, len(making.stored())) == ([], 4)


@pytest.mark.parametrize(
    "fault",
    [
        {"fault": "refused", "code": "SlowDown"},
        {"fault": "refused", "code": "InternalError", "late": True},
        {"fault": "reset"},
    ],
    ids=lambda fault: fault.get("code", "reset"),
)
def test_part_that_failed_is_stored_by_a_new_url(making: Making, fault: dict[str, Any]) -> None:
    follow(making.account, [{**fault, "action": "PutObject", "count": 1}])
    making.run(making.begin())
    again = [line for line in making.heard if line.startswith("part ") and not line.endswith(" -")]
    assert len(again) == 1
    assert again[0].split()[4] in ("503/SlowDown", "500/InternalError", "000/-")
    assert (making.told, len(making.stored())) == ([], 4)


def test_url_that_has_expired_is_replaced(making: Making, monkeypatch: pytest.MonkeyPatch) -> None:
    now = botocore.auth.get_current_datetime
    hours = iter([2])

    def long_ago(*args: Any, **kwargs: Any) -> datetime:
        return now(*args, **kwargs) - timedelta(hours=next(hours, 0))

    orders = making.begin()
    monkeypatch.setattr(botocore.auth, "get_current_datetime", long_ago)
    making.run(orders)
    assert sum(" 403/" in line for line in making.heard) == 1
    assert (making.told, len(making.stored())) == ([], 4)


def test_lasting_refusal_ends_the_bundle_and_not_the_write(making: Making) -> None:
    follow(making.account, [{"fault": "refused", "code": "AccessDenied", "action": "PutObject"}])
    orders = making.begin()
    making.run(orders, patience=1)
    (told,) = making.told
    assert told.startswith(f"{MADE_LATER}: the utility instance gave up: part 0 was not stored")
    assert "403/AccessDenied" in told
    assert making.stored() == []


def test_program_that_fails_ends_the_bundle_and_not_the_write(making: Making) -> None:
    making.run(making.begin(), header="!")
    (told,) = making.told
    assert "the utility instance gave up: a program failed" in told


def test_no_program_and_no_file_has_a_url_or_the_secret(making: Making) -> None:
    follow(making.account, [{"fault": "slow", "seconds": 1, "action": "PutObject", "count": 1}])
    orders = making.begin()
    seen: list[str] = []

    def look(shell: subprocess.Popen[str]) -> None:
        """Read what other programs of the machine may read, while the first part is sent."""
        while not seen:
            for status in Path("/proc").glob("[0-9]*"):
                with suppress(OSError):
                    line = (status / "cmdline").read_bytes().decode(errors="replace")
                    if str(making.folder) in line and "curl" in line.partition("\0")[0]:
                        seen.append(line + (status / "environ").read_text(errors="replace"))
            assert shell.poll() is None
        for path in making.folder.glob("work*/*"):
            if path.is_file() and ".part." not in path.name:
                seen.append(path.read_bytes().decode(errors="replace"))

    making.run(orders, look)
    assert making.told == []
    everything = "\n".join([*seen, *making.heard, *making.told, repr(orders), repr(making)])
    hidden = everything.replace(repr(making.answers), "")
    assert "X-Amz-Signature" in making.urls()[0]
    assert "X-Amz-" not in hidden
    assert secret(orders) not in hidden


# --- What a hostile instance may say


ASKED = f"part 0 {PART} {'a' * 40} -"


@pytest.mark.parametrize(
    "line",
    [
        f"part 1 {PART} {'a' * 40} -",
        f"part 0 {PART + 1} {'a' * 40} -",
        f"part 0 0 {'a' * 40} -",
    ],
    ids=["out of turn", "too large", "empty"],
)
def test_part_that_cannot_be_one_ends_the_bundle(making: Making, line: str) -> None:
    orders = making.begin()
    assert orders.answer(line) == b"stop\n"
    assert orders.answer(ASKED) == b"stop\n"
    making.instance().end(orders, DISK)
    assert "that cannot be one" in making.told[0]


def test_changed_parts_small_parts_and_endless_parts_end_the_bundle(making: Making) -> None:
    for lines in (
        [ASKED, f"part 0 {PART} {'b' * 40} -"],
        [f"part 0 5 {'a' * 40} -", f"part 1 {PART} {'a' * 40} -"],
        [f"part {number} {PART} {'a' * 40} -" for number in range(most_parts(len(IMAGE)) + 1)],
        [ASKED] * 41,
    ):
        orders = making.begin()
        *good, last = [orders.answer(line) for line in lines]
        assert all(answer.startswith(b"put ") for answer in good)
        assert last == b"stop\n"


@pytest.mark.parametrize(
    "line",
    ["part 0 1 a -", f"part -1 {PART} {'a' * 40} -", f"{ASKED} x", "progress 5", "have 0", ""],
)
def test_other_lines_get_no_answer(making: Making, line: str) -> None:
    orders = making.begin()
    assert orders.answer(line) == b""
    assert orders.failure is None


@pytest.mark.parametrize("stored", [b"", b"other bytes"], ids=["nothing", "other bytes"])
def test_bundle_is_sealed_only_of_parts_that_s3_confirms(making: Making, stored: bytes) -> None:
    digest = hashlib.sha1(b"a part of it").hexdigest()
    orders = making.begin()
    put = orders.answer(f"part 0 12 {digest} -").decode().split()
    if stored:
        place = place_of(BUCKET, "tests", making.image)
        making.s3.put_object(Bucket=BUCKET, Key=place.part(0), Body=stored)
    assert put[0] == "put"
    orders.answer(f"bundled {'c' * 40} 1")
    making.instance().end(orders, DISK)
    (told,) = making.told
    assert "S3 does not have part 0 as the utility instance said" in told
    assert not any(key.endswith(".xml") for key in making.stored())


def test_bundle_that_was_not_finished_is_not_sealed(making: Making) -> None:
    orders = making.begin()
    orders.answer(f"bundled {'c' * 40} 2")
    making.instance().end(orders, DISK)
    assert "did not finish it" in making.told[0]


def test_url_takes_the_announced_bytes_alone(making: Making) -> None:
    digest = hashlib.sha1(b"a part of it").hexdigest()
    put = making.begin().answer(f"part 0 12 {digest} -").decode().split()
    config = f'url = "{put[3]}"\n'

    def sent(body: str, checksum: str, acl: str = "aws-exec-read") -> str:
        command = ["curl", "-s", "--config", "-", "-X", "PUT", "--data-binary", body, "-o",
                   "/dev/null", "-w", "%{http_code}", "-H", f"x-amz-checksum-sha1: {checksum}",
                   "-H", f"x-amz-acl: {acl}", "-H", "Content-Type:"]  # fmt: skip
        return subprocess.run(command, input=config, capture_output=True, text=True).stdout

    assert sent("another part", put[2]) == "400"
    assert sent("a longer part than was announced", put[2]) == "403"
    assert sent("a part of it", put[2], "public-read") == "403"
    assert sent("a part of it", put[2]) == "200"


def test_image_that_is_too_large_is_refused(making: Making) -> None:
    with pytest.raises(ImageUnusable, match="remove the type"):
        making.instance().begin(making.image, 10 * 1024**3 + 1)


def test_s3_that_is_away_leaves_the_bundle_for_later(making: Making) -> None:
    follow(making.account, [{"fault": "refused", "code": "AccessDenied", "action": "List*"}])
    assert making.instance().begin(making.image, 5) is None
    assert making.told[0].startswith(f"{MADE_LATER}: ")


@pytest.mark.parametrize("size", [1, 512, PART, 3 * PART - 7])
def test_most_parts_has_room_for_what_gzip_cannot_compress(size: int) -> None:
    noise = random.Random(size).randbytes(512 + size + tail(size))
    packed = subprocess.run(["gzip", "-n", "-3"], input=noise, capture_output=True).stdout
    assert -(-(len(packed) + 16) // PART) <= most_parts(size)


def test_urls_are_of_version_4_and_name_the_regions_endpoint(monkeypatch: Any) -> None:
    monkeypatch.delenv("AWS_ENDPOINT_URL")
    signing = Clients().s3_signing("eu-west-1")
    url = signing.generate_presigned_url(
        ClientMethod="put_object", Params={"Bucket": "a.bucket", "Key": "f/p"}, ExpiresIn=60
    )
    assert re.match(r"https://s3\.eu-west-1\.amazonaws\.com/a\.bucket/f/p\?X-Amz-Algorithm=", url)
