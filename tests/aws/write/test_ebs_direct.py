"""Test writing images by the EBS direct API, from a web server into the lab's EC2."""

from __future__ import annotations

import gzip
import hashlib
import itertools
import json
import lzma
import random
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from backports import zstd
from botocore.exceptions import ClientError

from fedimg.aws import snapshots, survey
from fedimg.aws.client import clients
from fedimg.aws.client.clients import Clients
from fedimg.aws.client.waiter import Waiter
from fedimg.aws.tags import ROLE, Labels, read
from fedimg.aws.write import ebs_direct
from fedimg.aws.write.blocks import BLOCK
from fedimg.aws.write.ebs_direct import UNFINISHED, DirectWriter
from fedimg.config import EC2
from fedimg.exceptions import Cancelled, EC2UtilityException
from fedimg.images import CHECKSUM_DIGITS, Architecture, Disk, RawImage
from tests.aws.conftest import ORIGIN, Account, wait_until
from tests.aws.web import Web, serve
from tests.aws.xz_files import with_a_block_of_nothing
from tests.plans import ask
from tests.system.proxy import Proxy

NOISE = random.Random(6).randbytes(BLOCK + 300_000)
#: Eight blocks: noise in the first two and the last two, which the image does not fill, zeros
#: between.
RAW = NOISE.ljust(6 * BLOCK, b"\0") + NOISE
PACKED = lzma.compress(RAW, preset=0)
NEVER_MIND = 30.0
#: A stopped write has to let go within two seconds, on a machine that has nothing else to do.
PROMPTLY = 60.0

_numbers = itertools.count()


@pytest.fixture
def web() -> Iterator[Web]:
    with serve() as web:
        yield web


@dataclass
class Writer:
    """One job's image, its web server and its writer."""

    clients: Clients
    account: Account
    web: Web
    stop: threading.Event = field(default_factory=threading.Event)
    heard: list[str] = field(default_factory=list)
    written: list[Disk] = field(default_factory=list)
    #: What is done, once, when these words are heard.
    when: dict[str, Callable[[], object]] = field(default_factory=dict)
    labels: Labels = field(default_factory=lambda: Labels(f"direct-{next(_numbers)}", "job", "im"))

    def image(
        self,
        packed: bytes = PACKED,
        *,
        checksum: str | None = "",
        size: int | None = None,
        suffix: str = ".raw.xz",
    ) -> RawImage:
        """Return an image on the web server, with its right checksum unless another is given."""
        name = f"Fedora-{next(_numbers)}"
        url = self.web.put(f"{name}{suffix}", packed)
        right = f"sha256:{hashlib.sha256(packed).hexdigest()}"
        return RawImage(
            url,
            Architecture.X86_64,
            name,
            "build-7",
            size,
            right if checksum == "" else checksum,
        )

    def direct(self, *, limits: dict[str, float] | None = None, **settings: Any) -> DirectWriter:
        values = {"settle": 5, "outage": 5, "attempts": 1}
        values |= {"wait_minimum": 0.05, "wait_maximum": 0.1}
        made = EC2(
            origin=ORIGIN,
            write_via="direct",
            limits={"write_idle": NEVER_MIND, "image_gib": 2, **values, **(limits or {})},
            **settings,
        )
        return DirectWriter(
            self.clients.ec2(ORIGIN),
            ebs_direct.client(self.clients, ORIGIN, jobs=1),
            Waiter(made.limits, self.stop),
            self.labels,
            made,
            self._hear,
            self.written.append,
        )

    def _hear(self, words: str) -> None:
        self.heard.append(words)
        for awaited in [awaited for awaited in self.when if awaited in words]:
            self.when.pop(awaited)()

    def started(self) -> int:
        """Return how many snapshots were started."""
        return len([words for words in self.heard if words.endswith(" started")])

    def snapshots(self) -> list[dict[str, Any]]:
        """Return the snapshots of the job."""
        filters = self.labels.filters()
        ec2 = self.clients.ec2(ORIGIN)
        return list(ec2.describe_snapshots(OwnerIds=["self"], Filters=filters)["Snapshots"])

    def held(self, snapshot: str) -> dict[int, bytes]:
        """Wait for a snapshot, and return its blocks."""
        wait_until(lambda: all(s["State"] == "completed" for s in self.snapshots()))
        ebs = self.clients.client("ebs", ORIGIN)
        listed = ebs.list_snapshot_blocks(SnapshotId=snapshot)["Blocks"]
        return {
            block["BlockIndex"]: ebs.get_snapshot_block(
                SnapshotId=snapshot,
                BlockIndex=block["BlockIndex"],
                BlockToken=block["BlockToken"],
            )["BlockData"].read()
            for block in listed
        }


@pytest.fixture
def writer(clients: Clients, account: Account, web: Web) -> Writer:
    return Writer(clients, account, web)


def blocks(raw: bytes) -> dict[int, bytes]:
    return {
        start // BLOCK: raw[start : start + BLOCK].ljust(BLOCK, b"\0")
        for start in range(0, len(raw), BLOCK)
    }


# What is written


def pack_with_threads(raw: bytes) -> bytes:
    command = ["xz", "-0", "-T2", "--block-size=1000000", "--stdout"]
    return subprocess.run(command, input=raw, capture_output=True, check=True).stdout


def pack_in_streams(raw: bytes) -> bytes:
    return bytes(8).join(
        lzma.compress(raw[start : start + 1_000_000], preset=0)
        for start in range(0, len(raw), 1_000_000)
    )


def pack_with_a_wide_dictionary(raw: bytes) -> bytes:
    filters = [{"id": lzma.FILTER_LZMA2, "dict_size": 1 << 30, "preset": 0}]
    return lzma.compress(raw, filters=filters)


@pytest.mark.parametrize(
    "packed",
    [
        PACKED,
        pack_with_threads(RAW),
        pack_in_streams(RAW),
        with_a_block_of_nothing(RAW),
        PACKED + bytes(1_000_000),
        pack_with_a_wide_dictionary(RAW),
    ],
    ids=[
        "one stream",
        "several blocks",
        "several streams",
        "a block of nothing",
        "padding",
        "a dictionary of 1 GiB",
    ],
)
def test_snapshot_holds_every_block_of_the_image(writer: Writer, packed: bytes) -> None:
    written = writer.direct().write(writer.image(packed))
    assert writer.held(written) == blocks(RAW)


def test_sha256_of_the_disk_is_recorded_before_the_snapshot_is_complete(writer: Writer) -> None:
    writer.direct().write(writer.image())
    assert writer.written == [Disk(hashlib.sha256(RAW).hexdigest(), len(RAW))]


def test_blocks_of_zeros_are_left_out_when_that_is_asked_for(writer: Writer) -> None:
    written = writer.direct(zero_blocks="skip").write(writer.image())
    held = writer.held(written)
    assert sorted(held) == [0, 1, 6, 7]
    assert held.items() <= blocks(RAW).items()


def test_image_of_nothing_but_zeros_may_be_left_out_whole(writer: Writer) -> None:
    written = writer.direct(zero_blocks="skip").write(writer.image(lzma.compress(bytes(BLOCK))))
    assert writer.held(written) == {}


def test_snapshot_is_found_as_the_jobs_own(writer: Writer) -> None:
    written = writer.direct().write(writer.image())
    (snapshot,) = writer.snapshots()
    tags = {tag["Key"]: tag["Value"] for tag in writer.labels.tags(snapshots.ROLE, "im")}
    assert snapshot["SnapshotId"] == written
    assert read(snapshot["Tags"]) == tags
    assert snapshot["VolumeSize"] == 1
    assert snapshot["Description"] == "fedimg: im"
    assert snapshots.find(writer.clients.ec2(ORIGIN), writer.labels) == written


def puts(writer: Writer) -> int:
    """Return how many blocks EBS has received so far."""
    calls = ask(writer.account, "calls")
    return int(calls.get("EBS", {}).get("PutSnapshotBlock", 0))


def test_each_byte_is_fetched_once_and_each_block_sent_once(writer: Writer) -> None:
    before = puts(writer)
    writer.direct().write(writer.image())
    whole = [line for line in writer.web.asked if "bytes=" not in line]
    assert len(whole) == 1
    assert puts(writer) - before == len(blocks(RAW))


@pytest.mark.parametrize("algorithm", CHECKSUM_DIGITS)
def test_every_algorithm_of_koji_is_understood(writer: Writer, algorithm: str) -> None:
    right = f"{algorithm}:{hashlib.new(algorithm, PACKED).hexdigest()}"
    writer.direct().write(writer.image(checksum=right))


def test_image_without_a_checksum_is_written(writer: Writer) -> None:
    with pytest.raises(EC2UtilityException, match="no checksum"):
        writer.direct().write(writer.image(checksum=None))
    assert writer.started() == 0
    by_http = writer.direct(plain_http_hosts=["127.0.0.1"])
    assert writer.held(by_http.write(writer.image(checksum=None))) == blocks(RAW)


IN_OTHER_FORMATS = {
    ".raw.zst": zstd.compress(RAW[:BLOCK]) + zstd.compress(RAW[BLOCK:]),
    ".raw.gz": gzip.compress(RAW[:BLOCK]) + gzip.compress(RAW[BLOCK:]),
    ".raw": RAW,
}


@pytest.mark.parametrize("suffix", IN_OTHER_FORMATS)
def test_image_in_another_format_is_written(writer: Writer, suffix: str) -> None:
    image = writer.image(IN_OTHER_FORMATS[suffix], suffix=suffix)

    def cut() -> None:
        writer.web.manner, writer.web.times = "cut", 1

    writer.when["started"] = cut
    assert writer.held(writer.direct().write(image)) == blocks(RAW)
    assert writer.written == [Disk(hashlib.sha256(RAW).hexdigest(), len(RAW))]
    assert [line for line in writer.web.asked if line.endswith("-")]


@pytest.mark.parametrize("suffix", [".raw.zst", ".raw.gz"])
def test_damaged_file_of_another_format_makes_no_snapshot(writer: Writer, suffix: str) -> None:
    image = writer.image(IN_OTHER_FORMATS[suffix][:-7], suffix=suffix)
    with pytest.raises(EC2UtilityException, match="decompression: the file ends within a"):
        writer.direct().write(image)
    assert writer.started() == 0


def test_file_that_was_changed_since_it_was_measured_is_not_written(writer: Writer) -> None:
    size = len(zstd.compress(RAW)) + 10_000

    def filled_up(raw: bytes) -> bytes:
        """Return a file of `size` bytes, the last of which are a frame to skip."""
        packed = zstd.compress(raw)
        rest = size - len(packed) - 8
        return packed + b"\x50\x2a\x4d\x18" + rest.to_bytes(4, "little") + bytes(rest)

    image = writer.image(filled_up(RAW), checksum=None, suffix=".raw.zst")

    def change() -> None:
        writer.web.files[f"/{image.file_name}"] = filled_up(RAW + b"longer")

    writer.when["started"] = change
    with pytest.raises(EC2UtilityException, match="bytes that were measured: it was changed"):
        writer.direct(plain_http_hosts=["127.0.0.1"]).write(image)
    assert writer.snapshots() == []


# What goes on where it was cut


def whole_and_further(web: Web, image: RawImage) -> list[str]:
    """Return the ranges that were requested after those of the measurement."""
    asked = [line.partition(" ")[2] for line in web.asked if line.startswith(f"/{image.file_name}")]
    return [line for line in asked if not line or line.endswith("-")]


@pytest.mark.parametrize("manner", ["cut", "reset", "stalled"])
def test_download_that_is_cut_goes_on_where_it_was(writer: Writer, manner: Any) -> None:
    image = writer.image()
    writer.web.tags[f"/{image.file_name}"] = '"one"'

    def cut() -> None:
        writer.web.manner, writer.web.times = manner, 2

    writer.when["started"] = cut
    written = writer.direct(limits={"write_idle": 1}).write(image)
    assert writer.held(written) == blocks(RAW)
    assert writer.started() == 1
    half, quarter = len(PACKED) // 2, (len(PACKED) - len(PACKED) // 2) // 2
    asked = whole_and_further(writer.web, image)
    assert asked[0] == ""
    # What was still on its way into a piece when the connection ended is asked for again.
    if manner == "cut":
        assert asked[1:] == [f"bytes={half}-", f"bytes={half + quarter}-"]


def test_cut_download_goes_on_behind_a_redirect_to_an_address_that_expires(writer: Writer) -> None:
    image = writer.image()
    there = writer.web.put("there.raw.xz", PACKED)
    writer.web.signed[f"/{image.file_name}"] = "/there.raw.xz"

    def expire() -> None:
        # All that were given out by now are good for nothing more, and the next for one answer.
        writer.web.good_for = 1
        writer.web.manner, writer.web.times = "cut", 2

    writer.when["started"] = expire
    written = writer.direct().write(image)
    assert writer.held(written) == blocks(RAW)
    assert there not in str(writer.heard)


@pytest.mark.parametrize("manner", ["behind a cache", "without Range"])
def test_cut_download_goes_on_through_a_server_that_sends_all_of_it(
    writer: Writer, manner: Any
) -> None:
    image = writer.image()

    def cut() -> None:
        writer.web.manner, writer.web.times, writer.web.then = "cut", 1, manner

    writer.when["started"] = cut
    written = writer.direct().write(image)
    assert writer.held(written) == blocks(RAW)
    assert writer.started() == 1


def test_file_that_is_written_anew_while_it_is_downloaded_is_not_mixed(writer: Writer) -> None:
    image = writer.image()
    path = f"/{image.file_name}"
    writer.web.tags[path] = '"one"'

    def cut() -> None:
        writer.web.manner, writer.web.times = "cut", 1
        writer.web.retag = {path: '"two"'}

    writer.when["started"] = cut
    with pytest.raises(EC2UtilityException, match="was changed"):
        writer.direct().write(image)
    assert writer.snapshots() == []


# What is not


def damaged(packed: bytes) -> bytes:
    middle = len(packed) // 2
    return packed[:middle] + bytes(64) + packed[middle + 64 :]


@pytest.mark.parametrize(
    ("packed", "made", "words"),
    [
        (PACKED, {"checksum": "sha256:" + "0" * 64}, "checksum: .*expected sha256:000"),
        (PACKED, {"checksum": "md5:" + "0" * 32}, "checksum: .*md5:.*expected md5:000"),
        (damaged(PACKED), {}, "decompression: Corrupt input data"),
    ],
)
def test_unsound_file_fails_at_once_and_leaves_nothing(
    writer: Writer, packed: bytes, made: dict[str, Any], words: str
) -> None:
    with pytest.raises(EC2UtilityException, match=f"the image was not written: {words}"):
        writer.direct(limits={"attempts": 3}).write(writer.image(packed, **made))
    assert writer.started() == 1
    assert writer.snapshots() == []


@pytest.mark.parametrize(
    ("packed", "made", "words"),
    [
        (PACKED[:-4096], {}, "not a complete .xz file"),
        (b"<html>not found</html>" * 1000, {}, "not an .xz file"),
        (lzma.compress(bytes(64 << 20)) * 33, {}, "image of 3 GiB.*limits.image_gib"),
        (PACKED, {"size": 12345}, "Koji says 12345: .*not the file that was built"),
    ],
)
def test_unusable_file_is_refused_before_a_snapshot_starts(
    writer: Writer, packed: bytes, made: dict[str, Any], words: str
) -> None:
    with pytest.raises(EC2UtilityException, match=words):
        writer.direct().write(writer.image(packed, **made))
    assert writer.started() == 0


def test_missing_file_is_named(writer: Writer) -> None:
    image = writer.image()
    writer.web.files.clear()
    with pytest.raises(EC2UtilityException, match=rf"{image.file_name}.* 404"):
        writer.direct().write(image)
    assert writer.started() == 0


def test_file_that_disappears_during_the_download_is_named(writer: Writer) -> None:
    image = writer.image()
    writer.when["started"] = writer.web.files.clear
    with pytest.raises(EC2UtilityException, match=rf"not written: download: .*{image.url}.* 404"):
        writer.direct().write(image)
    assert writer.snapshots() == []


def test_file_that_grows_during_the_download_is_refused(writer: Writer) -> None:
    image = writer.image()
    writer.when["started"] = lambda: writer.web.files.update({f"/{image.file_name}": PACKED * 2})
    with pytest.raises(EC2UtilityException, match="when its upload is complete"):
        writer.direct().write(image)
    assert writer.snapshots() == []


@pytest.mark.parametrize(
    ("manner", "words"),
    [
        ("cut", "bytes remaining: the connection ended before the answer was complete"),
        ("reset", "bytes remaining: Connection reset by peer"),
        ("stalled", "bytes remaining: the server did not answer in time"),
        ("unavailable", "answers with status 503"),
    ],
)
def test_download_that_breaks_off_midway_fails_and_leaves_nothing(
    writer: Writer, manner: Any, words: str
) -> None:
    writer.when["started"] = lambda: setattr(writer.web, "manner", manner)
    with pytest.raises(EC2UtilityException, match=rf"not written: download: .*({words})"):
        writer.direct(limits={"write_idle": 1}).write(writer.image())
    assert writer.snapshots() == []


def test_download_that_breaks_off_is_made_again_into_another_snapshot(writer: Writer) -> None:
    writer.when["started"] = lambda: setattr(writer.web, "manner", "cut")
    writer.when["retrying with a new snapshot"] = lambda: setattr(writer.web, "manner", "well")
    written = writer.direct(limits={"attempts": 2}).write(writer.image())
    assert writer.started() == 2
    (snapshot,) = writer.snapshots()
    assert snapshot["SnapshotId"] == written
    assert writer.held(written) == blocks(RAW)


def test_write_that_takes_too_long_is_given_up(writer: Writer) -> None:
    writer.when["started"] = lambda: setattr(writer.web, "manner", "stalled")
    with pytest.raises(EC2UtilityException, match="timed out after 1 s"):
        writer.direct(limits={"write": 1}).write(writer.image())
    assert writer.snapshots() == []


# EBS fails


@pytest.mark.parametrize(
    "code", ["InvalidSnapshot.NotFound", "RequestThrottledException", "InternalServerException"]
)
def test_blocks_refused_for_a_while_are_retried(writer: Writer, code: str) -> None:
    """A new snapshot is unknown for a while, and EBS throttles calls."""
    writer.account.refuse(ORIGIN, PutSnapshotBlock=code)
    mend = threading.Timer(0.6, writer.account.refuse_nothing)
    writer.when["started"] = mend.start
    written = writer.direct().write(writer.image())
    mend.join()
    assert writer.held(written) == blocks(RAW)


def test_keys_that_expire_during_a_write_are_read_again(
    writer: Writer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(clients, "_RENEW_SECONDS", 0.0)
    writer.account.refuse(ORIGIN, PutSnapshotBlock="ExpiredTokenException")
    mend = threading.Timer(0.6, writer.account.refuse_nothing)
    writer.when["started"] = mend.start
    before = writer.clients.ec2(ORIGIN)
    written = writer.direct().write(writer.image())
    mend.join()
    assert writer.held(written) == blocks(RAW)
    assert writer.clients.ec2(ORIGIN) is not before


def test_unknown_snapshot_fails_after_the_settling_time(writer: Writer) -> None:
    writer.account.refuse(ORIGIN, PutSnapshotBlock="InvalidSnapshot.NotFound")
    with pytest.raises(ClientError, match="ResourceNotFound"):
        writer.direct(limits={"settle": 0.5, "attempts": 2}).write(writer.image())
    assert writer.started() == 2
    assert writer.snapshots() == []


@pytest.mark.parametrize("action", ["PutSnapshotBlock", "CompleteSnapshot", "CreateTags"])
def test_refusal_that_stays_ends_the_write_at_once(writer: Writer, action: str) -> None:
    writer.account.refuse(ORIGIN, **{action: "UnauthorizedOperation"})
    with pytest.raises(ClientError, match="AccessDenied|UnauthorizedOperation"):
        writer.direct(limits={"attempts": 3}).write(writer.image())
    assert writer.started() == 1
    assert writer.snapshots() == []


def test_snapshot_that_cannot_be_removed_is_named_and_left_for_the_clean_up(
    writer: Writer,
) -> None:
    refused = {"CompleteSnapshot": "UnauthorizedOperation", "DeleteSnapshot": "AuthFailure"}
    writer.account.refuse(ORIGIN, **refused)
    with pytest.raises(ClientError, match="CompleteSnapshot"):
        writer.direct().write(writer.image())
    assert "the job's clean-up will" in writer.heard[-1]
    assert leftovers(writer) == [snapshot["SnapshotId"] for snapshot in writer.snapshots()]


@pytest.fixture
def proxied(
    writer: Writer, account: Account, monkeypatch: pytest.MonkeyPatch
) -> Iterator[tuple[Writer, Proxy]]:
    """Return a writer whose calls to EBS go through a proxy."""
    with Proxy(account.url) as proxy:
        monkeypatch.setenv("AWS_ENDPOINT_URL_EBS", proxy.url)
        writer.clients = Clients()
        yield writer, proxy


@pytest.mark.parametrize("side", ["before", "after"])
def test_calls_without_an_answer_are_retried(proxied: tuple[Writer, Proxy], side: str) -> None:
    writer, proxy = proxied
    seen: set[str] = set()
    lock = threading.Lock()

    def first_time(call: str) -> bool:
        with lock:
            new = call.startswith(("PUT", "POST")) and call not in seen
            seen.add(call)
            return new

    setattr(proxy, side, first_time)
    written = writer.direct().write(writer.image())
    # One started, one sealed, and each block.
    assert len([call for call in seen if not call.startswith("GET")]) == 2 + len(blocks(RAW))
    assert writer.held(written) == blocks(RAW)
    # The same call twice has started one snapshot.
    assert len(writer.snapshots()) == 1


# Breaking off


def leftovers(writer: Writer) -> list[str]:
    found = survey.leftovers(writer.clients, writer.labels.site, [ORIGIN], job=writer.labels.job)
    return [item.id for item in found]


def working() -> list[str]:
    """Return the running threads of writes."""
    names = [thread.name for thread in threading.enumerate()]
    return [name for name in names if name.startswith(("download", "unpacking ", "blocks "))]


def stall_download(writer: Writer) -> None:
    writer.when["started"] = lambda: setattr(writer.web, "manner", "stalled")


def throttle_blocks(writer: Writer) -> None:
    writer.account.refuse(ORIGIN, PutSnapshotBlock="RequestThrottledException")


@pytest.mark.parametrize("hold", [stall_download, throttle_blocks])
def test_stop_ends_a_write_and_leaves_its_snapshot_to_the_clean_up(
    writer: Writer, hold: Callable[[Writer], None]
) -> None:
    hold(writer)
    image = writer.image()
    ended: list[BaseException] = []

    def write() -> None:
        try:
            writer.direct(limits={"outage": NEVER_MIND}).write(image)
        except BaseException as error:
            ended.append(error)

    job = threading.Thread(target=write)
    job.start()
    wait_until(lambda: writer.started() == 1)
    time.sleep(0.5)
    writer.stop.set()
    stopped = time.monotonic()
    job.join(NEVER_MIND)
    assert time.monotonic() - stopped < PROMPTLY
    assert [type(error) for error in ended] == [Cancelled]
    wait_until(lambda: working() == [])
    assert leftovers(writer) == [snapshot["SnapshotId"] for snapshot in writer.snapshots()]
    assert len(leftovers(writer)) == 1


class PowerCut(BaseException):
    """An error that nothing in fedimg expects."""


def cut() -> None:
    raise PowerCut


def recovered(writer: Writer) -> str | None:
    made = writer.direct()
    return ebs_direct.recovered(made.ec2, made.waiter, made.labels)


def test_snapshot_that_a_crash_left_pending_is_removed(writer: Writer) -> None:
    writer.when["started"] = cut
    with pytest.raises(PowerCut):
        writer.direct().write(writer.image())
    (dead,) = writer.snapshots()
    assert (dead["State"], read(dead["Tags"])[ROLE]) == ("pending", UNFINISHED)
    # Nobody waits for it.
    assert snapshots.find(writer.clients.ec2(ORIGIN), writer.labels) is None
    assert recovered(writer) is None
    assert writer.snapshots() == []


def test_snapshot_that_was_complete_before_the_crash_is_kept(writer: Writer) -> None:
    ebs = writer.clients.client("ebs", ORIGIN)
    made = [
        ebs.start_snapshot(VolumeSize=1, Tags=writer.labels.tags(UNFINISHED))["SnapshotId"]
        for _ in range(2)
    ]
    ebs.complete_snapshot(SnapshotId=made[1], ChangedBlocksCount=0)
    wait_until(lambda: "completed" in [s["State"] for s in writer.snapshots()])
    assert recovered(writer) == made[1]
    assert [snapshot["SnapshotId"] for snapshot in writer.snapshots()] == [made[1]]
    assert snapshots.find(writer.clients.ec2(ORIGIN), writer.labels) == made[1]


def test_nothing_is_recovered_without_a_snapshot(writer: Writer) -> None:
    assert recovered(writer) is None


# Memory

#: What a gibibyte takes has to do for an image of any size; a worker's own 70 MiB are among it.
# Idle, .zst takes 268; on a busy machine more of the 64 connections hold a copy at a time: 296.
MOST_MIB = {(".raw.xz", ""): 256, (".raw.zst", ""): 320, (".raw.xz", "bundle"): 352}
MEASURED = """
import json, sys, threading
from cryptography.hazmat.primitives.asymmetric import rsa
from fedimg.aws.bundle.keys import BundleKeys
from fedimg.aws.bundle.objects import BundleStore
from fedimg.aws.bundle.place import Place
from fedimg.aws.write.bundle_pass import BesideTheWrite, BundleRecipe
from fedimg.aws.write import ebs_direct
from fedimg.aws.client.clients import Clients
from fedimg.aws.tags import Labels
from fedimg.aws.client.waiter import Waiter
from fedimg.config import EC2
from fedimg.images import RawImage

url, region, bucket = sys.argv[1:]
settings = EC2(origin=region, write_via="direct", plain_http_hosts=["127.0.0.1"])
clients = Clients()
beside = None
if bucket:
    key = rsa.generate_private_key(public_exponent=65537, key_size=2048)
    store = BundleStore(clients.client("s3", region), Place(bucket, "fedimg/f", "image"))
    keys = BundleKeys(key, key.public_key(), key.public_key())
    beside = BesideTheWrite(BundleRecipe(lambda stop: store, None, keys, "123456789012"), print)
written = ebs_direct.DirectWriter(
    clients.ec2(region), ebs_direct.client(clients, region, jobs=4),
    Waiter(settings.limits, threading.Event()), Labels("memory", "job", "image"), settings,
    print, print, beside,
).write(RawImage(url, "x86_64", "build", "build-1"))
# Not ru_maxrss, which begins with what the process that started this one takes.
status = dict(line.split(":", 1) for line in open("/proc/self/status"))
peak = int(status["VmHWM"].split()[0]) / 1024
print(json.dumps({"snapshot": written, "peak_mib": peak}))
"""


@pytest.mark.process
@pytest.mark.parametrize(("suffix", "bucket"), MOST_MIB)
def test_memory_is_bounded_whatever_the_images_size(
    writer: Writer, suffix: str, bucket: str, record_property: Callable[[str, object], None]
) -> None:
    s3 = writer.clients.client("s3", ORIGIN)
    if bucket:
        s3.create_bucket(Bucket=bucket, ObjectOwnership="BucketOwnerPreferred")
    # The largest dictionary that xz makes by a preset, filled, and the largest accepted window of
    # zstd; noise that no allocator shares.
    part = bytes(60 << 20) + random.Random(7).randbytes(4 << 20)
    if suffix == ".raw.xz":
        image = writer.image(lzma.compress(part, preset=9) * 16)
    else:
        command = ["zstd", "--stdout", "-1", "--long=27"]
        packed = subprocess.run(command, input=part * 4, capture_output=True, check=True).stdout
        image = writer.image(packed * 2, suffix=suffix)
    ran = subprocess.run(
        [sys.executable, "-c", MEASURED, image.url, ORIGIN, bucket],
        capture_output=True,
        text=True,
        check=True,
        cwd=Path(__file__).parents[3],
    )
    measured = json.loads(ran.stdout.splitlines()[-1])
    print(ran.stdout)
    record_property(f"direct_peak_mib{bucket}", measured["peak_mib"])
    assert measured["peak_mib"] < MOST_MIB[suffix, bucket]
    if bucket:
        # 64 MiB of noise among zeros.
        keys = [each["Key"] for each in s3.list_objects_v2(Bucket=bucket)["Contents"]]
        assert len(keys) == 8
        assert "fedimg/f/image.manifest.xml" in keys
    writer.clients.ec2(ORIGIN).delete_snapshot(SnapshotId=measured["snapshot"])
