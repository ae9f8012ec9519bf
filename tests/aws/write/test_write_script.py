import base64
import gzip
import hashlib
import itertools
import os
import random
import shlex
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from backports import zstd

from fedimg.aws.instance import scripts
from fedimg.aws.instance.user_data import user_data
from fedimg.aws.write.image_size import OWN_HOST_ONLY
from fedimg.aws.write.write_script import (
    Failure,
    Progress,
    Written,
    progress,
    script_input,
    verdict,
    write_command,
)
from fedimg.formats import GZIP, PLAIN, XZ, ZSTD, Format
from fedimg.images import Disk
from fedimg.sources.file_server import Trusted
from fedimg.ssh.client import Session, SSHError, connect, new_identity
from lab.machines import Disk as LabDisk
from lab.machines import Launch
from lab.machines.process import ProcessMachines
from tests.aws.web import Web, serve

pytestmark = pytest.mark.process

MIB = 1024 * 1024
INSTANCE = "i-0123456789abcdef0"
SSH_PORT = 22122
# Some of it compresses, as in an image, and its end is no multiple of anything.
IMAGE = random.Random(7).randbytes(MIB) + bytes(2 * MIB) + random.Random(8).randbytes(4321)


def pack(*options: str, content: bytes = IMAGE) -> bytes:
    return subprocess.run(
        ["xz", "--stdout", "-0", *options], input=content, capture_output=True, check=True
    ).stdout


PACKED = pack()
BUNDLE = {
    "bundle": "yes",
    "header": base64.b64encode(bytes(512)).decode(),
    "tail": 512,
    "part": 1024,
    "secret": "0" * 64,
    "patience": 1,
}
DISK = Disk(hashlib.sha256(IMAGE).hexdigest(), len(IMAGE))


@pytest.fixture
def web() -> Iterator[Web]:
    with serve() as web:
        yield web


def bootable(path: Path) -> Path:
    """Return a disk with an MBR, some boot code and one ext4 partition."""
    subprocess.run(
        ["mke2fs", "-q", "-t", "ext4", "-E", "offset=1048576", str(path), "2048"],
        check=True,
        env={**os.environ, "PATH": os.environ["PATH"] + ":/usr/sbin:/sbin"},
    )
    entry = bytes([0x80, 0, 0, 0, 0x83, 0, 0, 0]) + (2048).to_bytes(4, "little")
    entry += (4096).to_bytes(4, "little")
    with path.open("r+b") as disk:
        disk.truncate(4 * MIB)
        disk.write(b"\xeb\xfe" + bytes(444) + entry + bytes(48) + b"\x55\xaa")
    return path


@dataclass
class Instance:
    """A confined instance with an SSH login, and the volumes plugged into it."""

    machines: ProcessMachines
    session: Session
    directory: Path
    ids: Iterator[int]

    def volume(self, size: int, *, beginning: bytes = b"") -> "Volume":
        volume = Volume(f"vol-{next(self.ids):017x}", self.directory / f"volume-{time.time_ns()}")
        with volume.path.open("wb") as file:
            file.write(beginning)
            file.truncate(size)
        self.machines.attach(INSTANCE, LabDisk(volume.id, volume.path, "/dev/sdf", root=False))
        return volume

    def write(
        self, values: bytes, heard: Callable[[str], None] = lambda line: None, idle: float = 20
    ) -> Written | Failure | None:
        """Run the script; return its answer, which its exit status matches, and find nothing left
        behind.
        """
        done = self.session.run(write_command(), stdin=values, limit=60, idle=idle, on_line=heard)
        said = verdict(done.output)
        assert (done.status == 0) == isinstance(said, Written), done
        left = self.session.run("ls -A /tmp; ps ax | grep -c '[c]url'", limit=9, idle=9)
        assert left.output == "0"
        return said


@dataclass(frozen=True)
class Volume:
    id: str
    path: Path


@pytest.fixture(scope="module")
def instance(processes: None, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Instance]:
    directory = tmp_path_factory.mktemp("machines")
    host, client = new_identity("host"), new_identity("client")
    machines = ProcessMachines(directory / "state", ssh_port=SSH_PORT, boot_seconds=0)
    root = LabDisk("vol-0aaaaaaaaaaaaaaaa", bootable(directory / "root"), "/dev/xvda", root=True)
    try:
        address = machines.address(INSTANCE)
        machines.start(
            Launch(
                instance_id=INSTANCE,
                instance_type="m5.large",
                region="us-east-1",
                architecture="x86_64",
                virtualization_type="hvm",
                boot_mode="legacy-bios",
                disks=[root],
                user_data=user_data(host_key=host, client_key=client).encode(),
                key_name=None,
                public_key=None,
                admits=lambda source, port: True,
            )
        )

        try:
            session = connect(
                address,
                SSH_PORT,
                "fedora",
                host_key=host,
                client_key=client,
                limit=20,
                stop=threading.Event(),
            )
        except SSHError as error:
            pytest.fail(f"{error}\n{machines.console(INSTANCE)}")
        with session:
            yield Instance(machines, session, directory, itertools.count(1))
    finally:
        machines.close()


def order(disk: Volume | str, address: str, content: bytes = IMAGE, **values: Any) -> bytes:
    usual: dict[str, Any] = {
        "url": address,
        "trusted": OWN_HOST_ONLY,
        "volume": disk if isinstance(disk, str) else disk.id,
        "checksum": None,
        "form": XZ,
        "compressed_size": len(PACKED),
        "uncompressed_size": len(content),
        "idle": 10,
        "appear": 2,
    }
    return script_input(**{**usual, **values})


def sha256(content: bytes) -> str:
    return "sha256:" + hashlib.sha256(content).hexdigest()


@pytest.mark.parametrize(
    "packed",
    [
        PACKED,
        pack("--threads=2", "--block-size=300000"),
        pack(content=IMAGE[:1_000_000]) + b"\0" * 8 + pack(content=IMAGE[1_000_000:]),
    ],
    ids=["one stream", "several blocks", "several streams"],
)
def test_image_is_written_to_its_volume_and_to_no_other(
    instance: Instance, web: Web, packed: bytes
) -> None:
    other, volume = instance.volume(8 * MIB), instance.volume(4 * MIB)
    another = instance.volume(8 * MIB)
    url = web.put("image.raw.xz", packed)
    values = order(volume, url, checksum=sha256(packed), compressed_size=len(packed))
    assert instance.write(values) == Written(DISK, (sha256(packed),))
    assert volume.path.read_bytes() == IMAGE + bytes(4 * MIB - len(IMAGE))
    assert other.path.read_bytes() == another.path.read_bytes() == bytes(8 * MIB)


FORMATS_PACKED = {
    ZSTD: zstd.compress(IMAGE[:MIB]) + zstd.compress(IMAGE[MIB:]),
    GZIP: gzip.compress(IMAGE[:MIB]) + gzip.compress(IMAGE[MIB:]),
    PLAIN: IMAGE,
}


@pytest.mark.parametrize("form", FORMATS_PACKED, ids=str)
def test_image_in_another_format_is_written(instance: Instance, web: Web, form: Format) -> None:
    packed = FORMATS_PACKED[form]
    volume = instance.volume(4 * MIB)
    web.manner, web.times = "cut", 2
    url = web.put(f"image{form.suffix}", packed)
    values = order(volume, url, form=form, checksum=sha256(packed), compressed_size=len(packed))
    assert instance.write(values) == Written(DISK, (sha256(packed),))
    assert volume.path.read_bytes() == IMAGE + bytes(4 * MIB - len(IMAGE))
    assert len(web.asked) == 3


@pytest.mark.parametrize("form", [ZSTD, GZIP], ids=str)
def test_damaged_file_of_another_format_fails(instance: Instance, web: Web, form: Format) -> None:
    packed = FORMATS_PACKED[form][:-2000]
    url = web.put(f"image{form.suffix}", packed)
    values = order(instance.volume(4 * MIB), url, form=form, compressed_size=len(packed))
    said = instance.write(values)
    assert isinstance(said, Failure)
    assert (said.part, said.missing_tool) == ("decompression", None)


def test_utility_instance_without_the_tool_tells_which(instance: Instance, web: Web) -> None:
    packed = FORMATS_PACKED[ZSTD]
    values = order(
        instance.volume(4 * MIB),
        web.put("image.raw.zst", packed),
        form=ZSTD,
        compressed_size=len(packed),
    )
    # The function stands for an AMI without zstd, and comes before the script's own first line.
    without = 'command() { case $2 in zstd) return 1 ;; *) builtin command "$@" ;; esac; }'
    script = shlex.quote(f"{without}\n{scripts.text('write/write_image.sh')}")
    done = instance.session.run(
        f'exec $(test "$(id -u)" = 0 || echo sudo -n) bash -c {script}',
        stdin=values,
        limit=60,
        idle=20,
    )
    said = verdict(done.output)
    assert isinstance(said, Failure)
    assert (said.part, said.missing_tool) == ("tools", "zstd")
    assert web.asked == []


def test_utility_instance_without_openssl_writes_nothing_for_a_bundle(
    instance: Instance, web: Web
) -> None:
    values = order(instance.volume(4 * MIB), web.put("image.raw.xz", PACKED), bundle=BUNDLE)
    without = 'command() { case $2 in openssl) return 1 ;; *) builtin command "$@" ;; esac; }'
    names = ("write/make_bundle.sh", "write/write_image.sh")
    script = shlex.quote("\n".join([without, *map(scripts.text, names)]))
    done = instance.session.run(
        f'exec $(test "$(id -u)" = 0 || echo sudo -n) bash -c {script}',
        stdin=values,
        limit=60,
        idle=20,
        answer=lambda line: b"",
    )
    said = verdict(done.output)
    assert isinstance(said, Failure)
    assert (said.part, said.missing_tool) == ("tools", "openssl")
    assert web.asked == []


def test_volume_does_not_wait_for_a_bundle_that_nobody_wants(instance: Instance, web: Web) -> None:
    volume = instance.volume(4 * MIB)
    values = order(volume, web.put("image.raw.xz", PACKED), bundle=BUNDLE)
    done = instance.session.run(
        write_command(),
        stdin=values,
        limit=60,
        idle=20,
        answer=lambda line: b"stop\n" if line.startswith("part 0") else b"",
    )
    assert verdict(done.output) == Written(DISK, (sha256(PACKED),))
    assert "unbundled no answer about part 0" in done.output
    assert volume.path.read_bytes() == IMAGE + bytes(4 * MIB - len(IMAGE))
    left = instance.session.run("ls -A /tmp; ps ax | grep -c '[c]url'", limit=9, idle=9)
    assert left.output == "0"


@pytest.mark.parametrize("algorithm", ["md5", "sha1"])
def test_other_checksums_are_reported_beside_sha256(
    instance: Instance, web: Web, algorithm: str
) -> None:
    volume = instance.volume(4 * MIB)
    checksum = f"{algorithm}:{hashlib.new(algorithm, PACKED).hexdigest()}"
    values = order(volume, web.put("image.raw.xz", PACKED), checksum=checksum)
    assert instance.write(values) == Written(DISK, (sha256(PACKED), checksum))


def test_a_slow_download_shows_progress_all_the_while(instance: Instance, web: Web) -> None:
    volume = instance.volume(4 * MIB)
    packed = pack(content=b"slow")
    web.manner = "slow"
    times = [time.monotonic()]
    values = order(
        volume, web.put("a.raw.xz", packed), b"slow", compressed_size=len(packed), idle=2
    )
    said = instance.write(values, lambda line: times.append(time.monotonic()), idle=4)
    assert isinstance(said, Written)
    assert times[-1] - times[0] > 3
    assert max(b - a for a, b in itertools.pairwise(times)) < 4


def test_corrupt_xz_file_fails(instance: Instance, web: Web) -> None:
    packed = bytearray(PACKED)
    packed[len(packed) // 2] ^= 0xFF
    said = instance.write(order(instance.volume(4 * MIB), web.put("a.raw.xz", bytes(packed))))
    assert said == Failure("decompression", "xz: (stdin): Compressed data is corrupt")


def test_truncated_xz_file_fails(instance: Instance, web: Web) -> None:
    url = web.put("a.raw.xz", PACKED[:-2000])
    said = instance.write(order(instance.volume(4 * MIB), url))
    assert said == Failure("decompression", "xz: (stdin): Unexpected end of input")


def test_bytes_behind_the_xz_stream_fail(instance: Instance, web: Web) -> None:
    said = instance.write(order(instance.volume(4 * MIB), web.put("a.raw.xz", PACKED + b"more")))
    assert isinstance(said, Failure)
    assert said.part == "decompression"


def test_checksum_mismatch_fails(instance: Instance, web: Web) -> None:
    wrong = sha256(b"something else")
    url = web.put("a.raw.xz", PACKED)
    said = instance.write(order(instance.volume(4 * MIB), url, checksum=wrong))
    assert said == Failure("checksum", f"the file has {sha256(PACKED)}, expected {wrong}")


def test_file_or_image_of_another_size_fails(instance: Instance, web: Web) -> None:
    url = web.put("a.raw.xz", PACKED)
    volume = instance.volume(4 * MIB)
    said = instance.write(order(volume, url, compressed_size=len(PACKED) + 1))
    assert said == Failure("download", f"received {len(PACKED)} bytes, expected {len(PACKED) + 1}")
    said = instance.write(order(volume, url, uncompressed_size=len(IMAGE) + 1))
    assert said == Failure(
        "decompression", f"the image has {len(IMAGE)} bytes, expected {len(IMAGE) + 1}"
    )


def test_more_than_the_index_promised_ends_early(instance: Instance, web: Web) -> None:
    volume = instance.volume(4 * MIB)
    said = instance.write(order(volume, web.put("a.raw.xz", PACKED), uncompressed_size=MIB))
    assert isinstance(said, Failure)
    assert said.part == "decompression"
    assert "more than the 1048576 bytes" in said.reason
    assert volume.path.read_bytes()[MIB + 1 :] == bytes(3 * MIB - 1)


def test_missing_file_fails(instance: Instance, web: Web) -> None:
    said = instance.write(order(instance.volume(4 * MIB), f"{web.address}/none.raw.xz"))
    assert isinstance(said, Failure)
    assert said.part == "download"
    assert "404" in said.reason


def test_server_that_refuses_connections_fails(instance: Instance) -> None:
    said = instance.write(order(instance.volume(4 * MIB), "http://127.0.0.1:9/none.raw.xz"))
    assert isinstance(said, Failure)
    assert said.part == "download"


def write_well(instance: Instance, address: str, **values: Any) -> None:
    """Write an image that arrives as it is."""
    volume = instance.volume(4 * MIB)
    values = {"checksum": sha256(PACKED), **values}
    assert instance.write(order(volume, address, **values)) == Written(DISK, (sha256(PACKED),))
    assert volume.path.read_bytes().startswith(IMAGE)


def fail_download(instance: Instance, address: str, **values: Any) -> str:
    """Return the reason why the download of an image failed."""
    said = instance.write(order(instance.volume(4 * MIB), address, **values))
    assert isinstance(said, Failure), said
    assert said.part == "download"
    return said.reason


def test_redirects_are_followed_to_trusted_hosts(instance: Instance, web: Web) -> None:
    web.put("a.raw.xz", PACKED)
    web.redirects["/own.raw.xz"] = "/a.raw.xz"
    web.redirects["/other.raw.xz"] = f"{web.address.replace('127.0.0.1', 'LOCALHOST')}/a.raw.xz"
    write_well(instance, f"{web.address}/own.raw.xz")
    there = f"{web.address}/other.raw.xz"
    asked = len(web.asked)
    assert "redirects to localhost, which is neither" in fail_download(instance, there)
    assert len(web.asked) == asked + 1
    write_well(instance, there, trusted=Trusted(redirects=["localhost"]))


def test_redirects_to_http_are_followed_only_with_a_checksum(instance: Instance, web: Web) -> None:
    web.put("a.raw.xz", PACKED)
    web.redirects["/here.raw.xz"] = "/a.raw.xz"
    here = f"{web.address}/here.raw.xz"
    strict = Trusted(https_alone=True)
    assert "over http, which is not in" in fail_download(instance, here, trusted=strict)
    write_well(instance, here, trusted=Trusted(plain_http=["127.0.0.1"], https_alone=True))


@pytest.mark.parametrize(
    "target",
    ["http://user@127.0.0.1/", "ftp://127.0.0.1/a", "file:///etc/passwd", "/a?" + "b" * 9000],
)
def test_redirect_to_an_invalid_address_is_refused(
    instance: Instance, web: Web, target: str
) -> None:
    web.redirects["/here.raw.xz"] = target
    assert "malformed or too long" in fail_download(instance, f"{web.address}/here.raw.xz")
    assert len(web.asked) == 1


def test_redirects_that_do_not_end_are_given_up(instance: Instance, web: Web) -> None:
    web.redirects["/here.raw.xz"] = "/here.raw.xz"
    reason = fail_download(instance, f"{web.address}/here.raw.xz")
    assert reason == "the server redirects more than 5 times in a row"
    assert len(web.asked) == 6


def test_redirect_is_followed_anew_for_each_connection(instance: Instance, web: Web) -> None:
    web.put("a.raw.xz", PACKED)
    web.signed["/here.raw.xz"] = "/a.raw.xz"
    web.good_for = 1
    web.manner, web.times = "cut", 2
    write_well(instance, f"{web.address}/here.raw.xz")
    assert len(web.signatures) == 3


def test_address_that_expired_on_its_way_is_asked_for_again(instance: Instance, web: Web) -> None:
    web.put("a.raw.xz", PACKED)
    web.signed["/here.raw.xz"] = "/a.raw.xz"
    web.good_for = 0
    reason = fail_download(instance, f"{web.address}/here.raw.xz")
    assert "403" in reason
    assert "secret" not in reason
    assert len(web.signatures) == 3


@pytest.mark.parametrize("manner", ["cut", "reset", "stalled"])
def test_a_download_that_is_cut_goes_on_where_it_was(
    instance: Instance, web: Web, manner: Any
) -> None:
    web.manner, web.times = manner, 3
    web.tags["/a.raw.xz"] = '"one"'
    write_well(instance, web.put("a.raw.xz", PACKED), idle=1)
    assert web.asked[0] == "/a.raw.xz"
    assert web.asked[1] == f"/a.raw.xz bytes={len(PACKED) // 2}-"
    assert len(web.asked) == 4


@pytest.mark.parametrize(("then", "requests"), [("behind a cache", 3), ("without Range", 4)])
def test_a_cut_download_goes_on_through_a_server_that_sends_all_of_it(
    instance: Instance, web: Web, then: Any, requests: int
) -> None:
    web.manner, web.times, web.then = "cut", 1, then
    write_well(instance, web.put("a.raw.xz", PACKED))
    assert len(web.asked) == requests


def test_file_that_is_written_anew_while_it_is_downloaded_is_not_mixed(
    instance: Instance, web: Web
) -> None:
    web.manner, web.times = "cut", 1
    web.tags["/a.raw.xz"], web.retag = '"one"', {"/a.raw.xz": '"two"'}
    reason = fail_download(instance, web.put("a.raw.xz", PACKED))
    assert "changed while it was read" in reason


def test_no_more_is_downloaded_than_was_measured(instance: Instance, web: Web) -> None:
    url = web.put("a.raw.xz", PACKED + bytes(64 * MIB))
    said = instance.write(order(instance.volume(4 * MIB), url))
    assert isinstance(said, Failure)
    assert web.sent < 32 * MIB


@pytest.mark.parametrize(("manner", "status"), [("cut", 18), ("reset", 56)])
def test_download_that_keeps_breaking_off_fails(
    instance: Instance, web: Web, manner: Any, status: int
) -> None:
    web.manner = manner
    reason = fail_download(instance, web.put("a.raw.xz", PACKED))
    assert reason.startswith(f"curl: ({status}) ")
    # Half of the rest each time, and three times less than is worth it.
    assert 5 < len(web.asked) < 12


def test_a_download_that_stalls_and_gets_no_further_shows_how_far_it_came(
    instance: Instance, web: Web
) -> None:
    web.manner, web.times, web.then = "stalled", 1, "unavailable"
    image = random.Random(9).randbytes(16 * MIB)
    packed = pack(content=image)
    url = web.put("a.raw.xz", packed)
    volume = instance.volume(16 * MIB)
    seen: list[Progress] = []

    def heard(line: str) -> None:
        if step := progress(line):
            seen.append(step)

    said = instance.write(order(volume, url, image, idle=1, compressed_size=len(packed)), heard)
    assert isinstance(said, Failure)
    assert said.part == "download"
    assert said.reason.startswith("curl: (22) ")
    assert seen[0] == Progress(0)
    assert 4 * MIB <= seen[-1].written <= 8 * MIB


def test_too_small_volume_fails(instance: Instance, web: Web) -> None:
    volume = instance.volume(2 * MIB)
    url = web.put("a.raw.xz", PACKED)
    said = instance.write(order(volume, url))
    assert isinstance(said, Failure)
    assert said.part == "volume"
    assert web.asked == []


def test_unknown_volume_fails_and_names_the_disks_that_exist(instance: Instance, web: Web) -> None:
    began = time.monotonic()
    said = instance.write(order("vol-0bbbbbbbb", web.put("a.raw.xz", PACKED)))
    assert isinstance(said, Failure)
    assert said.part == "device"
    assert "vol-0bbbbbbbb" in said.reason
    assert "nvme" in said.reason
    assert 1 < time.monotonic() - began < 60


def test_volume_that_appears_late_is_waited_for(instance: Instance, web: Web) -> None:
    volume = f"vol-{0xCCCC:017x}"
    path = instance.directory / "late"
    path.write_bytes(bytes(4 * MIB))
    disk = LabDisk(volume, path, "/dev/sdg", root=False)
    later: list[threading.Timer] = []
    seen: list[str] = []

    def heard(line: str) -> None:
        seen.append(line)
        # The disk comes once the script has said twice that it still looks: whoever listens for a
        # frozen instance hears it meanwhile.
        if seen.count("progress 0") == 2:
            later.append(threading.Timer(0, lambda: instance.machines.attach(INSTANCE, disk)))
            later[0].start()

    said = instance.write(order(volume, web.put("a.raw.xz", PACKED), appear=60), heard)
    for timer in later:
        timer.join()
    assert isinstance(said, Written)
    assert path.read_bytes().startswith(IMAGE)


@pytest.mark.parametrize(
    "values",
    [
        b"",
        b"\xff\xfe\0\0end\n",
        order("vol-0bbbbbbbb", "http://x/a")[:-4],
        order("vol-0bbbbbbbb", "http://x/a").replace(b"vol-0bbbbbbbb", b"vol-0bbbbbbbb/../sda"),
        order("vol-0bbbbbbbb", "http://x/a").replace(b"http://x/a", b"file:///etc/passwd"),
        order("vol-0bbbbbbbb", "http://x/a").replace(b"http://x/a", b"--output=/tmp/x"),
        order("vol-0bbbbbbbb", "http://x/a").replace(b"http://x/a", b"http://x/a b"),
        order("vol-0bbbbbbbb", "http://x/a").replace(b"idle 10", b"idle a[$(touch /tmp/x)]"),
        order("vol-0bbbbbbbb", "http://x/a").replace(b"idle 10", b"idle 010"),
        order("vol-0bbbbbbbb", "http://x/a").replace(b"hosts x", b"hosts $(id)"),
        order("vol-0bbbbbbbb", "http://x/a").replace(b"alone no", b"alone"),
        order("vol-0bbbbbbbb", "http://x/a").replace(b"checksum none", b"checksum sha512:00"),
        b"PATH /tmp\n" + order("vol-0bbbbbbbb", "http://x/a"),
    ],
)
def test_hostile_input_is_refused(instance: Instance, values: bytes) -> None:
    said = instance.write(values)
    assert isinstance(said, Failure)
    assert said.part == "input"


def test_hostile_url_runs_nothing(instance: Instance, web: Web) -> None:
    said = instance.write(
        order(instance.volume(4 * MIB), f"{web.address}/$(touch${{IFS}}/tmp/x)`id`;'\"\\|&>/tmp/x")
    )
    assert isinstance(said, Failure)
    assert "404" in said.reason


@pytest.mark.parametrize(
    "change",
    [
        {"url": "ftp://x/a"},
        {"url": "http://x/a\nvolume vol-0dddddddd"},
        {"url": "http://x/a b"},
        {"volume": "vol-0bbbbbbbb\nend"},
        {"checksum": "sha256:zz"},
        {"compressed_size": 0},
        {"idle": -1},
        {"trusted": Trusted(redirects=["x\nend"])},
        {"trusted": Trusted(plain_http=["a b"])},
    ],
)
def test_values_that_the_script_would_refuse_are_not_sent(change: dict[str, Any]) -> None:
    with pytest.raises(ValueError):
        order("vol-0bbbbbbbb", "http://x/a", **change)


def test_the_command_is_constant_and_bash_accepts_it() -> None:
    assert write_command() == write_command()
    assert len(write_command()) < 32 * 1024
    subprocess.run(["bash", "-n", "-c", write_command()], check=True)


def test_output_of_the_script_is_parsed() -> None:
    assert progress("progress 12") == Progress(12)
    assert progress("progress twelve") is progress("wrote 12") is progress("") is None
    assert verdict("progress 3\nchecksum sha256:ab\nwrote 5") is None
    digits = "c" * 64
    assert verdict(f"checksum sha256:ab\ndisk sha256:{digits}\nwrote 5") == Written(
        Disk(digits, 5), ("sha256:ab",)
    )
    assert verdict("failed download: curl: (22) 404 ") == Failure("download", "curl: (22) 404")
    assert verdict("progress 3\nfailed nonsense: x\n") is verdict("") is None
    assert str(Failure("download", "no")) == "download: no"
