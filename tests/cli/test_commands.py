import contextlib
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path
from typing import Any

import boto3
import pytest
from typer.testing import CliRunner

import fedimg.cli.commands  # noqa: F401 (defines the commands)
from fedimg.aws.tags import Labels
from fedimg.cli.app import app
from fedimg.images import AMI, AMIType, Architecture, RawImage
from fedimg.intake.deferred import DeferReason, DeferredEntries
from fedimg.intake.watermarks import Watermarks
from fedimg.jobs.queue import JobQueue
from fedimg.progress import CheckResult, CheckState
from fedimg.records import as_record
from fedimg.store.added_regions import AddedRegions
from fedimg.store.store import Store
from fedimg.worker.lease import FileLease
from lab.ec2.server import EC2
from lab.ec2.server import Settings as EC2Settings
from lab.machines.process import ProcessMachines
from tests.aws.web import serve
from tests.cli.conftest import X86, X86_URL, Run, finish, on_terminal, program

FOLDER = "https://kojipkgs.example.org/images"
ARM_URL = f"{FOLDER}/Fedora-Cloud-Base-28-1.1.aarch64.raw.xz"
ARM = RawImage.at(ARM_URL, Architecture.ARM64, None)
SHA256 = "0123456789abcdef" * 4
LONG = "copy: EC2 refused with ResourceLimitExceeded: " + "word " * 60 + "end"


def record_amis(store: Store, image: RawImage, region: str, *types: str) -> None:
    for kind in map(AMIType.parse, types):
        identity = f"ami-{region}-{image.architecture}-{kind}"
        name = f"{image.name}-{kind.virtualization}-{region}-{kind.volume_type}-0"
        store.record_ami(image, AMI(identity, name, region, kind, f"snap-{region}"))


# Options of all commands


@pytest.mark.parametrize(
    "order",
    [
        ["--config", "{}", "--json", "amis"],
        ["amis", "--json", "--config", "{}"],
        ["--json", "amis", "--config", "{}"],
        ["--config", "/nowhere.toml", "amis", "--json", "--config", "{}"],
    ],
)
def test_config_and_json_are_taken_on_both_sides_of_the_name(
    config: Path, store: Store, order: list[str]
) -> None:
    result = CliRunner().invoke(app, [part.format(config) for part in order])
    assert (result.exit_code, json.loads(result.stdout)) == (0, [])


def test_the_environment_names_the_configuration(
    config: Path, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FEDIMG_CONFIG", str(config))
    assert CliRunner().invoke(app, ["amis"]).exit_code == 0


@pytest.mark.parametrize("command", ["worker", "status", "amis", "check", "cleanup"])
def test_a_misspelt_key_is_named_with_the_nearest_known_one(
    config: Path, run: Run, command: str
) -> None:
    config.write_text('state_directorie = "state"\n')
    result = run(command, "--json")
    assert result.exit_code == 2
    assert "unknown key state_directorie; did you mean state_directory?" in result.stderr
    assert str(config) in json.loads(result.stdout)["error"]
    assert "Traceback" not in result.output


def test_version_option_prints_the_version(run: Run) -> None:
    result = run("--version")
    assert (result.exit_code, result.stdout) == (0, f"fedimg {version('fedimg')}\n")


@pytest.mark.parametrize(
    "arguments", [["amis", "--colour"], ["upload"], ["uplaod", X86_URL], ["plan", "ftp://x/y"]]
)
def test_invalid_command_line_exits_with_2(run: Run, arguments: list[str]) -> None:
    result = run(*arguments)
    assert (result.exit_code, result.stdout) == (2, "")
    assert result.stderr


@pytest.mark.parametrize(
    "arguments", [["status"], ["amis"], ["retry", "x"], ["cancel", "x"], ["cleanup"]]
)
def test_commands_that_only_read_create_no_state_directory(
    config: Path, run: Run, arguments: list[str]
) -> None:
    result = run(*arguments)
    assert result.exit_code == 2
    assert f"no database in {config.parent / 'state'} yet" in result.stderr
    assert not (config.parent / "state").exists()


def test_unusable_state_directory_exits_with_2(config: Path, run: Run) -> None:
    (config.parent / "state").write_text("a file")
    result = run("upload", X86_URL)
    assert result.exit_code == 2
    assert "cannot use the database" in result.stderr


@pytest.mark.process
def test_status_loads_neither_boto3_nor_fedmsg(config: Path, store: Store) -> None:
    script = (
        "import sys; from fedimg.cli.commands import main\n"
        "sys.argv = ['fedimg', 'status', '--json']\n"
        "try: main()\n"
        "finally: print(*(m for m in ('boto3', 'botocore', 'fedmsg') if m in sys.modules))\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", script],
        env={**os.environ, "FEDIMG_CONFIG": str(config)},
        capture_output=True,
        text=True,
        timeout=30,
    )
    assert (done.returncode, done.stdout.split()) == (0, ["[]"]), done.stderr


# amis and status


@pytest.fixture
def four_amis(store: Store, jobs: JobQueue) -> None:
    jobs.submit(X86)
    jobs.submit(ARM)
    record_amis(store, X86, "us-east-1", "hvm-gp2", "paravirtual-standard")
    record_amis(store, X86, "eu-west-1", "hvm-gp2")
    record_amis(store, ARM, "us-east-1", "hvm-standard")


@pytest.mark.usefixtures("four_amis")
def test_ami_rows_have_the_promised_keys(run: Run, store: Store) -> None:
    kind = AMIType.parse("hvm-gp2")
    name = f"{X86.name}-hvm-eu-west-1-gp2-0"
    store.publish_ami(AMI("ami-eu-west-1-x86_64-hvm-gp2", name, "eu-west-1", kind, "snap"))
    result = run("amis", "--json", "--region", "eu-west-1")
    (row,) = json.loads(result.stdout)
    promised = {
        "image": "Fedora-Cloud-Base-28-1.1.x86_64",
        "job": X86.job,
        "region": "eu-west-1",
        "ami": "ami-eu-west-1-x86_64-hvm-gp2",
        "name": name,
        "architecture": "x86_64",
        "virt_type": "hvm",
        "volume_type": "gp2",
        "snapshot": "snap-eu-west-1",
        "public": True,
        "state": "public",
    }
    assert {key: row[key] for key in promised} == promised


@pytest.mark.usefixtures("four_amis")
@pytest.mark.parametrize(
    ("filters", "count"),
    [
        ([], 4),
        (["--image", "28-1.1.x86"], 3),
        (["--image", "Fedora-29"], 0),
        (["--region", "us-east-1"], 3),
        (["--arch", "aarch64"], 1),
        (["--arch", "arm64"], 1),
        (["--arch", "x86_64", "--region", "us-east-1"], 2),
        (["--type", "hvm"], 3),
        (["--type", "standard"], 2),
        (["--type", "hvm-gp2"], 2),
    ],
)
def test_amis_are_filtered(run: Run, filters: list[str], count: int) -> None:
    assert len(json.loads(run("amis", "--json", *filters).stdout)) == count


@pytest.mark.usefixtures("four_amis")
def test_unknown_architecture_is_an_error(run: Run) -> None:
    result = run("amis", "--arch", "ppc64le")
    assert result.exit_code == 2
    assert "ppc64le" in result.stderr


def test_status_rows_have_the_promised_keys(run: Run, store: Store, x86_job: str) -> None:
    store.begin(x86_job, 1)
    store.set_step(x86_job, "copy")
    store.set_region(x86_job, "us-east-1", step="write", detail="40 %")
    store.set_region(x86_job, "eu-west-1", step="failed", error=LONG)
    (row,) = json.loads(run("status", "--json").stdout)
    times = [row.pop("created"), row.pop("updated"), *(r.pop("updated") for r in row["regions"])]
    for text in times:
        seconds = time.mktime(time.strptime(text, "%Y-%m-%dT%H:%M:%SZ")) - time.timezone
        assert abs(seconds - time.time()) < 60
    assert row == {
        "job": x86_job,
        "image": "Fedora-Cloud-Base-28-1.1.x86_64",
        "state": "running",
        "step": "copy",
        "error": None,
        "regions": [
            {"region": "eu-west-1", "step": "failed", "detail": "", "error": LONG},
            {"region": "us-east-1", "step": "write", "detail": "40 %", "error": None},
        ],
    }
    assert [row["job"] for row in json.loads(run("status", x86_job, "--json").stdout)] == [x86_job]


def test_status_notes_unanswered_announcements(run: Run, store: Store, x86_job: str) -> None:
    DeferredEntries(store).postpone(
        "build:7", DeferReason.STUMBLES, "it refuses getBuild (1): KeyError"
    )
    Watermarks(store).record_reading(["builds", "image"], "it does not answer")
    Watermarks(store).record_reading(["livemedia"])
    result = run("status", "--json")
    assert [row["job"] for row in json.loads(result.stdout)] == [x86_job]
    assert "build:7 waits for Koji, retries at 20" in result.stderr
    assert "refuses getBuild (1): KeyError" in result.stderr
    assert "missed entries of builds, image: it does not answer" in result.stderr


@pytest.mark.process
def test_status_of_a_job_shows_its_boot_checks_and_the_console(
    config: Path, store: Store, x86_job: str
) -> None:
    ami = AMI("ami-7", "a", "us-east-1", AMIType.parse("hvm-gp2"), "snap-1")
    checks = [
        CheckResult("login", CheckState.PASSED, 4.5, "as fedora"),
        CheckResult("selinux", CheckState.SKIPPED, 0.5, "no SELinux here"),
        CheckResult("units", CheckState.FAILED, 1, "failed:\nsshd.service"),
    ]
    store.set_test(x86_job, ami, "failed", checks, "[ 1.0] Booting\n[ 2.0] Kernel panic")
    (row,) = json.loads(program(config, "status", x86_job, "--json").stdout)
    (test,) = row["tests"]
    assert test.pop("updated").endswith("Z")
    assert test == {
        "region": "us-east-1",
        "virt_type": "hvm",
        "volume_type": "gp2",
        "ami": "ami-7",
        "status": "failed",
        "checks": [as_record(check) | {"passed": check.passed} for check in checks],
        "output": "[ 1.0] Booting\n[ 2.0] Kernel panic",
    }
    lines = program(config, "status", x86_job).stdout.splitlines()
    assert [line.split(None, 4)[1:3] + line.split(None, 4)[4:] for line in lines[2:]] == [
        ["us-east-1", "test:hvm-gp2", "ami-7 failed"],
        ["us-east-1", "test:hvm-gp2", "login: passed (4.5 s) as fedora"],
        ["us-east-1", "test:hvm-gp2", "selinux: skipped (0.5 s) no SELinux here"],
        ["us-east-1", "test:hvm-gp2", "units: failed (1 s) failed: sshd.service"],
        ["us-east-1", "test:hvm-gp2", "| [ 1.0] Booting"],
        ["us-east-1", "test:hvm-gp2", "| [ 2.0] Kernel panic"],
    ]


@pytest.mark.process
def test_piped_lines_are_uncut_and_have_fields(config: Path, store: Store, x86_job: str) -> None:
    store.set_region(x86_job, "us-east-1", step="waiting for the boot check")
    store.set_region(x86_job, "eu-west-1", step="failed", error=LONG.replace(" ", "\n"))
    record_amis(store, X86, "us-east-1", "hvm-gp2")
    status = program(config, "status", "28-1.1").stdout.splitlines()
    assert [line.split()[:3] for line in status] == [
        ["JOB", "STATE-OR-REGION", "STEP"],
        [x86_job, "queued", "queued"],
        [x86_job, "eu-west-1", "failed"],
        [x86_job, "us-east-1", "waiting-for-the-boot-check"],
    ]
    assert status[2].endswith(LONG)
    header, line = program(config, "amis").stdout.splitlines()
    assert header.split()[:2] == ["REGION", "AMI"]
    assert line.split() == [
        "us-east-1",
        "ami-us-east-1-x86_64-hvm-gp2",
        "x86_64",
        "hvm",
        "gp2",
        "private",
        "snap-us-east-1",
        "Fedora-Cloud-Base-28-1.1.x86_64-hvm-us-east-1-gp2-0",
        x86_job,
        "Fedora-Cloud-Base-28-1.1.x86_64",
    ]


def test_jobs_are_found_by_a_unique_part_of_their_names(run: Run, jobs: JobQueue) -> None:
    jobs.submit(X86)
    jobs.submit(ARM)

    def found(text: str) -> tuple[int, list[str]]:
        result = run("status", text, "--json")
        rows = json.loads(result.stdout)
        return result.exit_code, [row["job"] for row in rows] if isinstance(rows, list) else []

    assert found(X86.job) == (0, [X86.job])
    assert found(X86.job[:8]) == (0, [X86.job])
    assert found("aarch64") == (0, [ARM.job])
    assert found("Fedora") == (2, [])
    assert found("Debian") == (3, [])
    assert X86.job in run("status", "Fedora").stderr


# upload


@pytest.mark.parametrize(
    ("url", "arch", "expected"),
    [
        (X86_URL, [], Architecture.X86_64),
        (ARM_URL, [], Architecture.ARM64),
        (ARM_URL, ["--arch", "aarch64"], Architecture.ARM64),
        (f"{FOLDER}/disk.raw.xz", [], Architecture.X86_64),
        (f"{FOLDER}/disk.raw.xz", ["--arch", "aarch64"], Architecture.ARM64),
        (f"{FOLDER}/arm64/Fedora-x86_64-1.raw.xz", [], Architecture.X86_64),
    ],
)
def test_file_name_tells_the_architecture(
    run: Run, store: Store, url: str, arch: list[str], expected: Architecture
) -> None:
    result = run("upload", url, *arch)
    row = store.job(result.stdout.strip())
    assert result.exit_code == 0
    assert row is not None
    assert (row.image.url, row.image.architecture) == (url, expected)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ([X86_URL, "--arch", "aarch64"], "contradicts"),
        ([X86_URL, "--arch", "s390x"], "s390x"),
        ([X86_URL, "--checksum", "sha256:abc"], "sha256:abc"),
        ([X86_URL, "--checksum", "crc:00"], "crc:00"),
        ([f"{FOLDER}/Fedora.qcow2"], "NAME.raw.xz"),
        (["ftp://x/y.raw.xz"], "http"),
    ],
)
def test_contradictory_image_is_refused(
    config: Path, run: Run, arguments: list[str], said: str
) -> None:
    result = run("upload", *arguments, "--json")
    assert result.exit_code == 2
    assert said in json.loads(result.stdout)["error"]
    assert not (config.parent / "state").exists()


@pytest.mark.parametrize("checksum", [SHA256, SHA256.upper(), f"sha256:{SHA256}"])
def test_checksum_may_be_a_bare_sha256(run: Run, store: Store, checksum: str) -> None:
    row = store.job(
        json.loads(run("upload", X86_URL, "--checksum", checksum, "--json").stdout)["job"]
    )
    assert row is not None
    assert row.image.checksum == f"sha256:{SHA256}"


@pytest.mark.parametrize(
    ("state", "status"),
    [("running", 0), ("complete", 0), ("incomplete", 4), ("failed", 1), ("cancelled", 1)],
)
def test_image_that_has_a_job_gets_no_second_job(
    run: Run, store: Store, x86_job: str, state: str, status: int
) -> None:
    if state == "running":
        store.begin(x86_job, 1)
    else:
        finish(store, x86_job, state)
    result = run("upload", X86_URL)
    assert (result.exit_code, result.stdout.strip()) == (status, x86_job)
    assert state in result.stderr
    assert len(store.jobs()) == 1


def test_same_checksum_at_another_url_is_the_same_image(run: Run, store: Store) -> None:
    first = run("upload", X86_URL, "--checksum", SHA256)
    second = run("upload", f"{FOLDER}/again/other.x86_64.raw.xz", "--checksum", SHA256)
    assert (second.exit_code, second.stdout) == (0, first.stdout)


def test_other_checksum_at_the_same_url_is_refused(run: Run, store: Store, x86_job: str) -> None:
    result = run("upload", X86_URL, "--checksum", SHA256)
    assert result.exit_code == 5
    assert SHA256 in result.stderr


@pytest.mark.parametrize(
    ("state", "status"), [("complete", 0), ("incomplete", 4), ("failed", 1), ("cancelled", 1)]
)
def test_upload_with_wait_exits_by_the_state_of_the_job(
    run: Run, store: Store, state: str, status: int
) -> None:
    def work() -> None:
        while store.job(X86.job) is None:
            time.sleep(0.05)
        store.begin(X86.job, 1)
        store.set_region(X86.job, "us-east-1", step="write", detail="40 %")
        time.sleep(0.8)
        store.end(X86.job, 1, state, "a reason" if status else None)

    worker = threading.Thread(target=work)
    worker.start()
    result = run("upload", X86_URL, "--wait")
    worker.join()
    assert result.exit_code == status
    lines = [line.split()[:3] for line in result.stdout.splitlines()]
    assert [X86.job, "us-east-1", "write"] in lines
    assert lines[-1] == [X86.job, state, state]
    assert ("a reason" in result.stdout) == bool(status)


def test_watch_with_json_prints_the_job_at_each_change(
    run: Run, store: Store, x86_job: str
) -> None:
    threading.Timer(0.8, finish, (store, x86_job, "failed", "a reason")).start()
    result = run("status", x86_job, "--watch", "--json")
    rows = [json.loads(line) for line in result.stdout.splitlines()]
    assert [(row["state"], row["error"]) for row in rows][:: len(rows) - 1] == [
        ("queued", None),
        ("failed", "a reason"),
    ]
    assert result.exit_code == 1


def test_watch_of_a_cancelled_job_waits_for_its_clean_up(
    run: Run, store: Store, x86_job: str
) -> None:
    assert run("cancel", x86_job).exit_code == 0
    threading.Timer(0.8, store.end, (x86_job, 1, "cancelled", None)).start()
    result = run("status", x86_job, "--watch")
    assert result.stdout.splitlines()[-1].split()[:3] == [x86_job, "cancelled", "cancelled"]
    assert result.exit_code == 1


@pytest.mark.process
def test_interrupted_command_exits_with_130(config: Path, store: Store, x86_job: str) -> None:
    program = Path(sys.executable).parent / "fedimg"
    # A process that a shell runs in the background ignores SIGINT, and so do its children.
    process = subprocess.Popen(
        ["env", "--default-signal=INT", program, "status", "--watch"],
        env={**os.environ, "FEDIMG_CONFIG": str(config)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    with process:
        try:
            assert process.stdout is not None
            assert x86_job in process.stdout.readline()
            process.send_signal(signal.SIGINT)
            _, errors = process.communicate(timeout=30)
        finally:
            process.kill()
    assert process.returncode == 130
    assert "Traceback" not in errors


@pytest.mark.process
def test_terminal_shows_bars_and_tables(config: Path, store: Store, x86_job: str) -> None:
    store.begin(x86_job, 1)
    store.set_region(x86_job, "us-east-1", step="write", detail="40 %")
    record_amis(store, X86, "us-east-1", "hvm-gp2")
    ended: list[str] = []

    def seen(so_far: str) -> None:
        if "━" in so_far and "write 40 %" in so_far and not ended:
            ended.append(x86_job)
            finish(store, x86_job, "failed", "a reason")

    watched = on_terminal(config, "status", x86_job, "--watch", seen=seen)
    assert "a reason" in watched
    listed = on_terminal(config, "amis")
    assert "Region" in listed
    assert "ami-us-east-1-x86_64-hvm-gp2" in listed


# retry, cancel, worker


@pytest.mark.parametrize("state", ["failed", "incomplete", "cancelled"])
def test_ended_job_is_retried(run: Run, store: Store, x86_job: str, state: str) -> None:
    finish(store, x86_job, state)
    result = run("retry", x86_job, "--json")
    assert (result.exit_code, json.loads(result.stdout)["state"]) == (0, "queued")
    row = store.job(x86_job)
    assert row is not None
    assert row.run == 2


def test_active_job_is_not_retried(run: Run, x86_job: str) -> None:
    result = run("retry", x86_job)
    assert (result.exit_code, result.stdout) == (5, "")
    assert "queued" in result.stderr


def test_complete_job_has_nothing_to_retry(run: Run, store: Store, x86_job: str) -> None:
    finish(store, x86_job, "complete")
    result = run("retry", x86_job)
    assert result.exit_code == 0
    assert "nothing is left to do" in result.stderr


def publish_amis(store: Store, region: str) -> None:
    record_amis(store, X86, region, "hvm-gp2")
    for row in store.amis():
        if row.region == region:
            kind = AMIType.parse("hvm-gp2")
            store.publish_ami(AMI(row.ami, row.name, region, kind, row.snapshot))


def test_complete_job_is_added_to_a_region_once(run: Run, store: Store, x86_job: str) -> None:
    def answer() -> tuple[int, str]:
        result = run("retry", x86_job, "--region", "eu-west-1")
        return result.exit_code, result.stderr

    finish(store, x86_job, "incomplete")
    publish_amis(store, "us-east-1")
    assert answer()[0] == 5
    assert "comes first" in answer()[1]
    finish(store, x86_job, "complete")
    assert answer()[0] == 0
    assert AddedRegions(store).of(x86_job, 2) == ["eu-west-1"]
    assert answer()[0] == 5
    assert "it is queued" in answer()[1]
    finish(store, x86_job, "complete")
    publish_amis(store, "eu-west-1")
    assert answer()[0] == 5
    assert "is public in eu-west-1" in answer()[1]


def test_region_is_added_where_the_site_publishes_and_the_origin_has_the_image(
    run: Run, store: Store, x86_job: str
) -> None:
    finish(store, x86_job, "complete")
    result = run("retry", x86_job, "--region", "eu-west-1")
    assert (result.exit_code, "no public AMI in us-east-1" in result.stderr) == (5, True)
    result = run("retry", x86_job, "--region", "us-west-2")
    assert (result.exit_code, "does not publish in us-west-2" in result.stderr) == (2, True)


def test_cancelling_a_job_twice_is_no_error(run: Run, x86_job: str) -> None:
    for _ in range(2):
        result = run("cancel", x86_job, "--json")
        assert (result.exit_code, json.loads(result.stdout)["state"]) == (0, "cancelled")


def test_ended_job_is_not_cancelled(run: Run, store: Store, x86_job: str) -> None:
    finish(store, x86_job, "complete")
    assert run("cancel", x86_job).exit_code == 5


def test_status_notes_that_no_worker_is_running(config: Path, run: Run, x86_job: str) -> None:
    assert "no worker" in run("status").stderr
    lease = FileLease(config.parent / "state")
    try:
        assert run("status").stderr == ""
    finally:
        lease.release()


@pytest.mark.process
def test_second_worker_exits_with_status_5(config: Path, store: Store) -> None:
    lease = FileLease(config.parent / "state")
    try:
        done = program(config, "worker")
    finally:
        lease.release()
    assert done.returncode == 5
    assert f"process {os.getpid()}" in done.stderr
    assert "Traceback" not in done.stderr


# plan and cleanup, which call EC2


@pytest.fixture(scope="module")
def ec2(processes: None, tmp_path_factory: pytest.TempPathFactory) -> Iterator[EC2]:
    state = tmp_path_factory.mktemp("ec2")
    with contextlib.closing(ProcessMachines(state / "machines", ssh_port=2222)) as machines:
        regions = ("us-east-1", "us-east-2", "eu-west-1")
        with EC2(EC2Settings(state=state / "ec2", regions=regions), machines) as ec2:
            yield ec2


@pytest.fixture
def aws(ec2: EC2, monkeypatch: pytest.MonkeyPatch) -> EC2:
    for name, value in {
        "AWS_ENDPOINT_URL": ec2.url,
        "AWS_ACCESS_KEY_ID": ec2.key.id,
        "AWS_SECRET_ACCESS_KEY": ec2.key.secret,
        "AWS_CONFIG_FILE": "/dev/null",
        "AWS_SHARED_CREDENTIALS_FILE": "/dev/null",
    }.items():
        monkeypatch.setenv(name, value)
    return ec2


def client(region: str = "us-east-1") -> Any:
    return boto3.session.Session().client("ec2", region_name=region)


def everything() -> dict[str, set[str]]:
    """Return the ids of the volumes and security groups of the account, by kind of resource."""
    ec2 = client()
    return {
        "volumes": {v["VolumeId"] for v in ec2.describe_volumes()["Volumes"]},
        "groups": {g["GroupId"] for g in ec2.describe_security_groups()["SecurityGroups"]},
    }


def leave_volume(site: str, image: RawImage) -> str:
    made = client().create_volume(
        AvailabilityZone="us-east-1a",
        Size=1,
        TagSpecifications=Labels.of(site, image).specifications(["volume"], "utility"),
    )
    return str(made["VolumeId"])


@pytest.mark.usefixtures("aws")
def test_plan_lists_amis_by_region_and_what_is_left_out(config: Path, run: Run) -> None:
    config.write_text('state_directory = "state"\n')
    before = everything()
    result = run("plan", X86_URL, "--json")
    assert result.exit_code == 0, result.stderr
    plan = json.loads(result.stdout)
    assert {key: plan[key] for key in ("image", "job", "architecture", "origin")} == {
        "image": X86.name,
        "job": X86.job,
        "architecture": "x86_64",
        "origin": "us-east-1",
    }
    assert {
        "region": "eu-west-1",
        "name": f"{X86.name}-paravirtual-eu-west-1-gp2-0",
        "virt_type": "paravirtual",
        "volume_type": "gp2",
    } in plan["amis"]
    assert len(plan["amis"]) == 10
    assert [row["region"] for row in plan["left_out"]] == ["us-east-2"]
    assert everything() == before
    assert not (config.parent / "state").exists()


@pytest.mark.usefixtures("aws")
def test_clean_up_spares_active_jobs_and_other_sites(
    run: Run, config: Path, store: Store, jobs: JobQueue
) -> None:
    jobs.submit(ARM)
    live, foreign = leave_volume("default", ARM), leave_volume("other", X86)
    left = leave_volume("default", X86)

    looked = run("cleanup", "--dry-run", "--json")
    assert looked.exit_code == 0, looked.stderr
    row = {
        "kind": "volume",
        "id": left,
        "region": "us-east-1",
        "job": X86.job,
        "name": f"fedimg utility {X86.name}",
    }
    assert json.loads(looked.stdout) == [{**row, "removed": False}]
    assert left in everything()["volumes"]

    removed = run("cleanup", "--json")
    assert json.loads(removed.stdout) == [{**row, "removed": True}]
    assert everything()["volumes"] == {live, foreign}


def leave_snapshot(site: str, image: RawImage) -> str:
    """Create a completed snapshot with a job's tags; return its id."""
    ec2 = client()
    volume = leave_volume(site, image)
    ec2.get_waiter("volume_available").wait(VolumeIds=[volume], WaiterConfig={"Delay": 1})
    labels = Labels.of(site, image)
    made = ec2.create_snapshot(
        VolumeId=volume, TagSpecifications=labels.specifications(["snapshot"], "snapshot")
    )["SnapshotId"]
    ec2.get_waiter("snapshot_completed").wait(SnapshotIds=[made], WaiterConfig={"Delay": 1})
    ec2.delete_volume(VolumeId=volume)
    return str(made)


def snapshots_left() -> set[str]:
    held = client().describe_snapshots(OwnerIds=["self"])["Snapshots"]
    return {each["SnapshotId"] for each in held}


@pytest.mark.usefixtures("aws")
def test_clean_up_spares_formerly_public_resources_and_says_what_to_do(
    run: Run, config: Path, store: Store, x86_job: str
) -> None:
    config.write_text('site = "kept"\n' + config.read_text())
    finish(store, x86_job, "complete")
    snapshot = leave_snapshot("kept", X86)
    store.offer(x86_job, "us-east-1", [snapshot])

    result = run("cleanup", "--json")
    assert result.exit_code == 0, result.stderr
    (row,) = json.loads(result.stdout)
    assert (row["id"], row["was_public"], row["removed"]) == (snapshot, True, False)
    assert f"kept: snapshot {snapshot} in us-east-1 of job {X86.job}" in result.stderr
    assert "--remove ID" in result.stderr
    assert snapshot in snapshots_left()

    result = run("cleanup", "--remove", snapshot, "--json")
    assert result.exit_code == 0, result.stderr
    (row,) = json.loads(result.stdout)
    assert (row["id"], row["removed"]) == (snapshot, True)
    assert snapshot not in snapshots_left()
    assert store.ever_public() == set()
    again = run("cleanup", "--remove", snapshot)
    assert again.exit_code == 2
    assert f"cannot remove {snapshot}" in again.stderr


@pytest.mark.usefixtures("aws")
def test_clean_up_refuses_if_the_database_is_younger_than_the_resources(
    run: Run, config: Path
) -> None:
    config.write_text('site = "young"\n' + config.read_text())
    # Their jobs were in a database that is lost.
    left, other = leave_volume("young", X86), leave_volume("young", X86)
    time.sleep(1.1)  # EC2 tells creation times in whole seconds.
    with contextlib.closing(Store(config.parent / "state")):
        pass
    result = run("cleanup", "--json")
    assert result.exit_code == 5
    assert {row["id"]: row["removed"] for row in json.loads(result.stdout)} == {
        left: False,
        other: False,
    }
    assert "is younger than some of this site's resources" in result.stderr
    assert left in result.stderr
    assert {left, other} <= everything()["volumes"]

    # --remove removes only the resource of that id.
    result = run("cleanup", "--remove", left, "--json")
    assert result.exit_code == 0, result.stderr
    assert left not in everything()["volumes"]
    assert other in everything()["volumes"]
    assert run("cleanup", "--remove", other).exit_code == 0
    assert run("cleanup").exit_code == 0


@pytest.mark.usefixtures("aws")
def test_aws_that_does_not_answer_is_a_plain_error(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "")
    result = run("plan", X86_URL, "--json")
    assert result.exit_code == 1
    assert "credentials" in json.loads(result.stdout)["error"]
    assert "Traceback" not in result.stderr


@pytest.mark.usefixtures("aws", "store")
def test_answer_of_another_server_than_aws_is_a_plain_error(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    with serve() as web:
        monkeypatch.setenv("AWS_ENDPOINT_URL", web.address)
        result = run("cleanup", "--json")
    assert result.exit_code == 1
    assert "'fedimg check'" in json.loads(result.stdout)["error"]
    assert "Traceback" not in result.stderr
