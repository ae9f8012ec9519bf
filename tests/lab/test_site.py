"""A lab site as its users have it: a program that runs, site.json, commands, and a clean end."""

import json
import os
import signal
import subprocess
import sys
import time
import tomllib
import xmlrpc.client
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import boto3
import pytest
import requests
from botocore.exceptions import ClientError

from lab.bus import Bus, Ports
from lab.clients import Deployment, fedimg_toml
from lab.running import SiteError, ask, call, read, remove
from lab.site import Site

pytestmark = pytest.mark.process

REPOSITORY = Path(__file__).parents[2]
START_SECONDS = 240
REGIONS = ("us-east-1", "eu-west-1")


def lab(*arguments: str | Path) -> list[str]:
    return [sys.executable, "-m", "lab", *map(str, arguments)]


def processes_of(state: Path) -> dict[int, str]:
    """Return the command lines, by process id, of what names the site's folder in its own."""
    found = {}
    for folder in Path("/proc").iterdir():
        if folder.name.isdigit() and folder.name != str(os.getpid()):
            try:
                command = (folder / "cmdline").read_bytes().replace(b"\0", b" ").decode()
            except OSError:
                continue
            if str(state) in command:
                found[int(folder.name)] = command
    return found


class Running:
    """`python -m lab up` on `state`, started and ready."""

    def __init__(self, state: Path, *arguments: str | Path) -> None:
        self.state = state
        self.popen = subprocess.Popen(
            lab("up", "--state", state, "--regions", ",".join(REGIONS), *arguments),
            cwd=REPOSITORY,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        assert self.popen.stdout is not None
        deadline = time.monotonic() + START_SECONDS
        while not (state / "site.json").exists():
            assert self.popen.poll() is None, self.popen.stdout.read()
            assert time.monotonic() < deadline
            time.sleep(0.05)

    @property
    def site(self) -> dict[str, Any]:
        return read(self.state)

    def stop(self, number: int) -> float:
        """Seconds from the signal to the end."""
        began = time.monotonic()
        self.popen.send_signal(number)
        assert self.popen.wait(240) == 0
        return time.monotonic() - began


@pytest.fixture(scope="module")
def running(processes: None, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    running = Running(tmp_path_factory.mktemp("site"))
    yield running
    running.stop(signal.SIGINT)
    assert processes_of(running.state) == {}


def test_site_json_has_every_address(running: Running) -> None:
    site = running.site

    assert site["region"] == "us-east-1"
    assert site["regions"] == list(REGIONS)
    assert site["pid"] == running.popen.pid
    ec2 = boto3.Session(*site["account_key"]).client(
        "ec2", endpoint_url=site["ec2"], region_name="us-east-1"
    )
    assert {row["RegionName"] for row in ec2.describe_regions()["Regions"]} == set(REGIONS)
    for architecture, of_ec2 in (("x86_64", "x86_64"), ("aarch64", "arm64")):
        ami = site["utility_amis"][architecture]["us-east-1"]
        (image,) = ec2.describe_images(ImageIds=[ami])["Images"]
        assert image["Architecture"] == of_ec2
    assert requests.head(f"{site['koji_files']}/nothing", timeout=60).status_code == 404
    assert Path(site["fedmsg_config"], "fedimg.py").exists()


def test_nobody_else_can_read_the_keys(running: Running) -> None:
    site, state = running.site, running.state

    assert state.stat().st_mode & 0o077 == 0
    secret = site["environment"]["AWS_SECRET_ACCESS_KEY"]
    holding = [path for path in state.rglob("*") if path.is_file() and secret in text(path)]
    assert {path.name for path in holding} == {"site.json", "env.sh", "credentials"}
    assert [path for path in holding if path.stat().st_mode & 0o077] == []


def text(path: Path) -> str:
    return path.read_bytes()[:65536].decode(errors="replace")


def test_folder_that_others_use_is_not_closed_to_them(tmp_path: Path) -> None:
    shared, fresh = tmp_path / "shared", tmp_path / "fresh"
    for folder in (shared, fresh):
        folder.mkdir(mode=0o755)
    (shared / "thesis.tex").touch()

    with pytest.raises(SiteError, match="is open to other users"):
        Site(shared, REGIONS)
    assert shared.stat().st_mode & 0o777 == 0o755
    assert [path.name for path in shared.iterdir()] == ["thesis.tex"]
    with Site(fresh, REGIONS) as site:
        assert fresh.stat().st_mode & 0o777 == 0o700
    with Site(fresh, REGIONS) as again:
        assert again.ec2.key == site.ec2.key


def test_every_site_has_a_key_of_its_own(running: Running, tmp_path: Path) -> None:
    mine = running.site
    with Site(tmp_path / "other", REGIONS) as other:
        theirs = read(other.state)
        assert other.ec2.key.secret not in json.dumps(mine)
        with pytest.raises(SiteError, match="control_token"):
            ask({**theirs, "control_token": mine["control_token"]}, "ledger")
        assert ask(theirs, "ledger") == []
        client = boto3.Session(*mine["account_key"]).client(
            "ec2", endpoint_url=theirs["ec2"], region_name="us-east-1"
        )
        with pytest.raises(ClientError, match="AuthFailure"):
            client.describe_regions()


def test_only_loopback_is_bound(running: Running) -> None:
    table = subprocess.run(["ss", "-ltnpH"], capture_output=True, text=True, check=True).stdout
    pids = processes_of(running.state)
    ours = [
        line.split()[3] for line in table.splitlines() if any(f"pid={pid}," in line for pid in pids)
    ]

    ports = running.site["ports"]
    started = {name: port for name, port in ports.items() if name != "ssh"}
    assert sorted(ours) == sorted(f"127.0.0.1:{port}" for port in started.values())


def test_environment_leads_every_client_to_the_site(running: Running) -> None:
    program = """
import boto3, os, fedmsg.config
print(boto3.client("ec2").meta.endpoint_url, boto3.client("sts").meta.endpoint_url)
url = boto3.client("s3").generate_presigned_url("get_object", Params={"Bucket": "b", "Key": "k"})
print("X-Amz-Signature" in url)
print(fedmsg.config.conf["endpoints"]["relay_outbound"][0])
print(fedmsg.config.load_config()["relay_inbound"])
"""
    site = running.site
    strange = {"AWS_PROFILE": "mine", "AWS_ACCESS_KEY_ID": "AKIAREAL"}
    said = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", program],
        cwd=site["working_directory"],
        env=os.environ | strange | site["environment"],
        capture_output=True,
        text=True,
        check=True,
    ).stdout.split()

    relay = site["relay"]
    assert said == [site["ec2"], site["ec2"], "True", relay["outbound"], relay["inbound"]]


def test_fedimg_toml_fits_the_site(running: Running) -> None:
    settings = tomllib.loads(Path(running.site["fedimg_config"]).read_text())

    assert settings["koji"]["hub"] == running.site["koji_hub"]
    assert settings["ec2"]["network"]["ssh_port"] == running.site["ssh_port"]
    assert settings["ec2"]["x86_64"]["utility_ami"].startswith("ami-")


@pytest.mark.parametrize(
    ("vm", "address"), [(True, "http://169.252.0.100:8088/x"), (False, "http://127.0.0.1:8088/x")]
)
def test_checks_name_an_address_that_a_machine_of_any_image_reaches(
    tmp_path: Path, vm: bool, address: str
) -> None:
    files = "http://127.0.0.1:8088/x"
    text = fedimg_toml(
        Deployment(tmp_path, "http://127.0.0.1:8089", files, "us-east-1", {}, "fedora", 22, vm)
    )
    settings = tomllib.loads(text)
    test = settings["ec2"]["test"]
    assert (test["reach"], test["clock"]) == ([address], address)
    # The worker's own downloads are from there.
    assert settings["koji"]["topurl"] == files


@pytest.mark.parametrize("kind", ["build", "task"])
def test_announce_adds_to_koji_and_tells_the_bus(running: Running, kind: str) -> None:
    site = running.site
    outbound, inbound = (int(site["relay"][end].rsplit(":")[-1]) for end in ("outbound", "inbound"))
    listener = Bus(running.state / "listener", Ports(inbound, outbound))

    with listener.listen() as heard:
        said = subprocess.run(
            lab("announce", "--state", running.state, "--repeat", "2", "--release", kind)
            + ["--corrupt", "--no-pv"]
            + (["--scratch"] if kind == "task" else []),
            cwd=REPOSITORY,
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        messages = heard.wait_for(f"buildsys.{kind}.state.change", seconds=10, count=2)

    assert messages[0]["msg"] == messages[1]["msg"]
    (url,) = [line.strip() for line in said.splitlines() if line.endswith(".raw.xz")]
    assert requests.head(url, timeout=60).status_code == 200
    with pytest.raises(ValueError, match="status 1"):
        _unpack(requests.get(url, timeout=60).content)


def test_build_of_last_week_may_be_added_without_a_message(running: Running) -> None:
    def run(*arguments: str) -> str:
        return subprocess.run(
            lab(arguments[0], "--state", running.state, *arguments[1:]),
            cwd=REPOSITORY,
            capture_output=True,
            text=True,
            check=True,
        ).stdout

    hub = xmlrpc.client.ServerProxy(running.site["koji_hub"], allow_none=True)
    assert "0 time(s)" in run("announce", "--silent", "--release", "silent")
    week = 7 * 86400
    assert run("clock", "--advance", str(week)).endswith("Z at Koji\n")
    assert "0 time(s)" in run("announce", "--silent", "--release", "later")
    builds: Any = hub.listBuilds({"prefix": "Fedora-Cloud", "__starstar": True})
    completed = {build["release"]: build["completion_ts"] for build in builds}
    assert completed["later"] - completed["silent"] > week - 1


def _unpack(packed: bytes) -> None:
    done = subprocess.run(["xz", "-t"], input=packed, capture_output=True)
    if done.returncode:
        raise ValueError(f"status {done.returncode}")


def test_control_refuses_requests_without_token_or_with_errors(running: Running) -> None:
    site = running.site

    with pytest.raises(SiteError, match="token"):
        call(site | {"control_token": "guess"}, "koji.down")
    with pytest.raises(SiteError, match="no action"):
        call(site, "koji.explode")
    with pytest.raises(SiteError, match="No such file"):
        call(site, "koji.add_build", name="a", version="1", release="1", files={"i386": ["/no"]})
    call(site, "koji.down", refusing=False)
    assert requests.get(site["koji_files"], timeout=60).status_code == 503
    call(site, "koji.up")
    assert requests.get(site["koji_files"], timeout=60).status_code == 404


def test_ledger_of_a_new_site_is_empty(running: Running) -> None:
    said = subprocess.run(
        lab("ledger", "--state", running.state), cwd=REPOSITORY, capture_output=True, text=True
    )

    assert said.returncode == 0, said.stderr
    assert said.stdout.startswith("0 public AMIs and snapshots, 0 things")


def test_only_one_site_runs_in_a_folder(running: Running) -> None:
    second = subprocess.run(
        lab("up", "--state", running.state), cwd=REPOSITORY, capture_output=True, text=True
    )

    assert second.returncode == 1
    assert f"process {running.popen.pid}" in second.stderr
    with pytest.raises(SiteError, match="already runs"):
        remove(running.state)


def test_sigterm_ends_everything_and_the_next_site_goes_on(tmp_path: Path) -> None:
    first = Running(tmp_path)
    before = first.site
    image = tmp_path / "a.raw.xz"
    image.write_bytes(b"")
    about = {"name": "a", "version": "1", "release": "1", "files": {"x86_64": [str(image)]}}
    build = call(before, "koji.add_build", **about)

    assert first.stop(signal.SIGTERM) < 3
    assert processes_of(tmp_path) == {}

    with Site(tmp_path, REGIONS) as second:
        after = read(second.state)
        assert {name: after[name] for name in ("ec2", "koji_hub", "relay", "control")} == {
            name: before[name] for name in ("ec2", "koji_hub", "relay", "control")
        }
        assert second.koji.build_message(build["id"]) == build["message"]
    assert processes_of(tmp_path) == {}


def test_folder_that_is_no_site_is_not_removed(tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").write_text("…")

    with pytest.raises(SiteError, match="not touched"):
        remove(tmp_path)

    (tmp_path / "site.lock").touch()
    remove(tmp_path)
    assert not tmp_path.exists()


def test_site_with_a_policy_has_keys_that_may_do_no_more(tmp_path: Path) -> None:
    policy = tmp_path / "policy.json"
    allow = {"Effect": "Allow", "Action": "ec2:DescribeVolumes", "Resource": "*"}
    policy.write_text(json.dumps({"Version": "2012-10-17", "Statement": [allow]}))
    running = Running(tmp_path / "site", "--policy", policy)
    environment = running.site["environment"]
    try:
        ec2 = boto3.Session(
            environment["AWS_ACCESS_KEY_ID"], environment["AWS_SECRET_ACCESS_KEY"]
        ).client("ec2", region_name="us-east-1", endpoint_url=running.site["ec2"])
        assert ec2.describe_volumes()["Volumes"] == []
        with pytest.raises(ClientError, match="user/fedimg is not authorized to perform: ec2:"):
            ec2.describe_images()
    finally:
        running.stop(signal.SIGTERM)


def test_invalid_policy_is_named(tmp_path: Path) -> None:
    policy = tmp_path / "policy.json"
    policy.write_text('{"Version": "2012-10-17", "Statement": {"Effect": "Allow"}}')
    said = subprocess.run(
        lab("up", "--state", tmp_path / "site", "--policy", policy),
        cwd=REPOSITORY,
        capture_output=True,
        text=True,
    )
    assert said.returncode == 1
    assert "statement #0 needs Action or NotAction" in said.stderr
    assert processes_of(tmp_path) == {}
