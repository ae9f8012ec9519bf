"""Machines as EC2 uses them: booted, logged in to, attached to, rebooted, gone."""

import contextlib
import functools
import http.server
import os
import random
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import paramiko
import pytest

from lab import disk
from lab.ec2 import partitions
from lab.machines.addresses import reserve
from lab.machines.process import ProcessMachines
from lab.machines.programs import MissingProgram
from tests.lab.machines_fixtures import (
    BOOT_SECONDS,
    MIB,
    SSH_PORT,
    Key,
    Rig,
    Shell,
    processes_naming,
    rig,
)

pytestmark = pytest.mark.process

REPOSITORY = Path(__file__).parents[2]
WRITE = """
set -o pipefail
for entry in /sys/block/*; do
    if [ "$(cat $entry/device/serial)" = {serial} ]; then device=/dev/${{entry##*/}}; fi
done
curl --fail --silent {url} | xz -dc | sudo -n dd of=$device bs=1M conv=notrunc,fsync status=none
"""

# A mark of this run in the numbers that commands sleep: others may run the same tests beside it.
OWN = f"{os.getpid():07}"


@pytest.fixture(scope="module")
def site(processes: None, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Rig]:
    with rig(tmp_path_factory.mktemp("machines")) as made:
        yield made


@pytest.fixture(scope="module")
def shell(processes: None, site: Rig) -> Shell:
    """Run a machine for tests that change nothing on it, with a data volume and a smaller one."""
    launch = site.launch(site.volume(8 * MIB), site.volume(4 * MIB))
    return site.connect(site.start(launch))


@pytest.fixture
def web(tmp_path: Path) -> Iterator[str]:
    handler = functools.partial(http.server.SimpleHTTPRequestHandler, directory=str(tmp_path))
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()


def serial(volume_id: str) -> str:
    return volume_id.replace("-", "")


def device(shell: Shell, volume_id: str) -> str:
    link = f"/dev/disk/by-id/nvme-Amazon_Elastic_Block_Store_{serial(volume_id)}"
    return shell(f"readlink -f {link}").output.strip()


def listens(address: str) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex((address, SSH_PORT)) == 0


def test_an_image_streams_onto_the_volume_found_by_its_serial(
    site: Rig, tmp_path: Path, web: str
) -> None:
    image = disk.make_image(tmp_path / "Fedora.raw", size_mib=24, random_mib=2)
    disk.compress(image, streams=3)
    # Larger, so that a wrong choice would not fail for want of room.
    target, decoy = site.volume(24 * MIB), site.volume(32 * MIB)
    launch = site.start(site.launch(decoy, target))
    url = f"{web}/Fedora.raw.xz"
    answer = site.connect(launch)(WRITE.format(serial=serial(target.volume_id), url=url))
    assert answer == answer.__class__(0, "", "")
    assert target.path.read_bytes() == image.read_bytes()
    assert not any(decoy.path.read_bytes())
    site.machines.terminate(launch.instance_id)


def test_a_device_is_as_nitro_shows_it(site: Rig, shell: Shell) -> None:
    volume = site.volume(5 * MIB)
    launch = site.start(site.launch(volume))
    shell = site.connect(launch)
    name = device(shell, volume.volume_id).removeprefix("/dev/")
    assert shell(f"cat /sys/block/{name}/size").output == f"{5 * MIB // 512}\n"
    model = shell(f"cat /sys/block/{name}/device/model").output
    assert model == "Amazon Elastic Block Store\n"
    assert shell(f"sudo blockdev --getsize64 /dev/{name}").output == f"{5 * MIB}\n"
    listed = shell("lsblk --nodeps --noheadings --output SERIAL").output.split()
    assert serial(volume.volume_id) in listed
    site.machines.terminate(launch.instance_id)


def test_the_root_volume_is_not_always_the_first_device(site: Rig) -> None:
    first = set()
    for _ in range(30):
        launch = site.start(site.launch(site.volume()))
        first.add(device(site.connect(launch), launch.disks[0].volume_id))
        site.machines.terminate(launch.instance_id)
        if len(first) == 2:
            break
    assert first == {"/dev/nvme0n1", "/dev/nvme1n1"}


def test_a_volume_comes_and_goes_while_the_machine_runs(site: Rig) -> None:
    launch = site.start(site.launch())
    shell = site.connect(launch)
    volume = site.volume(2 * MIB)
    before = volume.path.stat().st_mode
    site.machines.attach(launch.instance_id, volume)
    name = device(shell, volume.volume_id)
    assert shell(f"echo hello | sudo dd of={name} conv=notrunc").status == 0
    site.machines.detach(launch.instance_id, volume.volume_id)
    assert shell(f"test -e {name}").status == 1
    assert shell("cat /sys/block/*/device/serial").output.count("\n") == 1
    assert volume.path.read_bytes().startswith(b"hello\n")
    assert volume.path.stat().st_mode == before
    site.machines.terminate(launch.instance_id)


def test_nothing_is_written_beyond_the_end_of_a_volume(site: Rig) -> None:
    volume = site.volume(3 * MIB)
    launch = site.start(site.launch(volume))
    shell = site.connect(launch)
    name = device(shell, volume.volume_id)
    answer = shell(f"head -c 4M /dev/zero | tr '\\0' x | sudo dd of={name} bs=64K conv=notrunc")
    assert answer.status == 1
    assert "File too large" in answer.errors
    assert volume.path.read_bytes() == b"x" * 3 * MIB
    site.machines.terminate(launch.instance_id)


def test_of_two_volumes_the_smaller_one_keeps_its_size_too(site: Rig) -> None:
    small, large = site.volume(2 * MIB), site.volume(6 * MIB)
    launch = site.start(site.launch(small, large))
    shell = site.connect(launch)
    name = device(shell, small.volume_id)
    answer = shell(f"head -c 4M /dev/zero | sudo dd of={name} bs=64K status=none")
    assert answer.status == 1
    assert "No space left on device" in answer.errors
    assert small.path.stat().st_size == 2 * MIB
    site.machines.terminate(launch.instance_id)


def test_a_volume_opened_with_truncation_keeps_its_size(site: Rig) -> None:
    volume = site.volume(2 * MIB)
    launch = site.start(site.launch(volume))
    shell = site.connect(launch)
    name = device(shell, volume.volume_id)
    assert shell(f"echo short | sudo dd of={name}").status == 0
    assert volume.path.stat().st_size == 2 * MIB
    site.machines.terminate(launch.instance_id)


def test_login_user_needs_sudo_for_roots_files(site: Rig, shell: Shell) -> None:
    assert shell("id -un").output == "fedora\n"
    for command in ("echo x >/dev/nvme0n1", "touch /etc/x", "ls /root", "touch /usr/x"):
        assert shell(command).status != 0, command
    assert shell("sudo -n sh -c 'id -un; touch /etc/x; ls -a /root'").status == 0
    assert shell("sudo touch /usr/x").status != 0
    assert shell("sudo -n -u fedora -- id -un").output == "fedora\n"
    assert shell("A=1 sudo -E B=2 sh -c 'echo $A$B'").output == "12\n"
    assert shell("sudo -i pwd").output == "/root\n"


def test_a_machine_sees_nothing_of_its_host(site: Rig, shell: Shell) -> None:
    for path in (site.folder, Path.home() / ".bashrc", REPOSITORY, site.root_image):
        assert shell(f"sudo test -e {path}").status == 1, path
    assert len(shell("ps -e -o pid=").output.split()) < 10
    names = {line.partition("=")[0] for line in shell("env").output.splitlines()}
    allowed = "PATH HOME USER LOGNAME SHELL LANG SSH_CLIENT SSH_CONNECTION PWD OLDPWD SHLVL _"
    assert names <= set(allowed.split())
    assert shell("hostname").output.strip() not in ("", socket.gethostname())


def test_machine_resolves_its_own_name_and_its_private_name_at_ec2(shell: Shell) -> None:
    address, *names = shell("getent hosts $(hostname)").output.split()
    private_name = partitions.private_name(address, "us-east-1")
    assert names == [private_name, shell("hostname").output.strip()]
    for asked in (private_name, address):
        assert shell(f"getent hosts {asked}").output.split() == [address, *names]
    assert shell("sudo true").errors == ""


def test_command_that_needs_an_init_fails_with_a_message(shell: Shell) -> None:
    answer = shell("systemctl is-system-running || echo failed")
    assert "failed" in answer.output
    assert "running" not in answer.output.split()


@pytest.mark.parametrize("size", [0, 1, 70_000, 3_000_000])
@pytest.mark.parametrize("command", ["cat", "sleep 0.1; cat"])
def test_bytes_go_through_unchanged(shell: Shell, size: int, command: str) -> None:
    given = random.Random(size).randbytes(size)
    stdin, stdout, _ = shell.client.exec_command(command)
    reader: list[bytes] = []
    thread = threading.Thread(target=lambda: reader.append(stdout.read()))
    thread.start()
    stdin.channel.sendall(given)
    stdin.channel.shutdown_write()
    thread.join(240)
    assert reader == [given]
    assert stdout.channel.recv_exit_status() == 0


def test_a_slow_reader_misses_nothing(shell: Shell) -> None:
    _, stdout, _ = shell.client.exec_command("head -c 12000000 /dev/zero; sleep 0.1; echo end")
    time.sleep(0.5)
    said = stdout.read()
    assert (len(said), said[-4:]) == (12_000_004, b"end\n")


def test_a_command_that_reads_nothing_holds_nobody_up(shell: Shell) -> None:
    stdin, stdout, _ = shell.client.exec_command("exit 3")
    # The command may be gone before all of it has been sent.
    with contextlib.suppress(OSError):
        stdin.channel.sendall(bytes(5_000_000))
    assert stdout.channel.recv_exit_status() == 3


def test_many_commands_at_once(shell: Shell) -> None:
    answers: list[str] = []
    # Each ends when all have begun.
    command = (
        "mkdir -p many; touch many/{0}; "
        "until test $(ls many | wc -l) = 12; do sleep 0.05; done; echo {0}"
    )
    threads = [
        threading.Thread(target=lambda n=n: answers.append(shell(command.format(n)).output))
        for n in range(12)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(map(int, answers)) == list(range(12))


def test_exit_status_of_a_command_is_passed_on(shell: Shell) -> None:
    assert shell("exit 7").status == 7
    assert shell("echo out; echo err >&2") == shell("exit 0").__class__(0, "out\n", "err\n")
    assert shell("nonsense").status == 127
    # paramiko's way to say that a signal ended it.
    assert shell("kill -TERM $$").status == -1


def test_requested_terminal_is_a_terminal(shell: Shell) -> None:
    channel = shell.client.get_transport().open_session()
    channel.get_pty(width=90, height=33)
    channel.exec_command("test -t 0 && stty size; read word; echo got $word")
    channel.sendall(b"it\n")
    said = channel.makefile().read().decode()
    assert "33 90" in said
    assert "got it" in said
    assert channel.recv_exit_status() == 0


def test_a_command_whose_client_is_gone_is_ended(site: Rig) -> None:
    launch = site.start(site.launch())
    shell = site.connect(launch)
    shell.client.exec_command(f"sleep 7771{OWN} & sleep 7772{OWN}")
    while not processes_naming(f"sleep 7772{OWN}"):
        time.sleep(0.02)
    shell.client.close()
    deadline = time.monotonic() + 240
    while processes_naming(f"sleep 7771{OWN}") and time.monotonic() < deadline:
        time.sleep(0.05)
    assert processes_naming(f"sleep 7771{OWN}") == processes_naming(f"sleep 7772{OWN}") == []
    site.machines.terminate(launch.instance_id)


def test_a_connection_that_is_not_admitted_gets_no_banner(site: Rig) -> None:
    asked: list[tuple[str, int]] = []
    admitted = False

    def admits(source: str, port: int) -> bool:
        asked.append((source, port))
        return admitted

    launch = site.start(site.launch(admits=admits))
    address = site.machines.address(launch.instance_id)
    site.console_with(launch, "login:")
    with socket.create_connection((address, SSH_PORT)) as filtered:
        filtered.settimeout(0.5)
        with pytest.raises(TimeoutError):
            filtered.recv(1)
    assert asked == [("127.0.0.1", SSH_PORT)]
    admitted = True
    assert site.connect(launch)("true").status == 0
    site.machines.terminate(launch.instance_id)


def test_slow_check_of_a_security_group_delays_no_other_machine(site: Rig) -> None:
    busy = threading.Lock()

    def admits(source: str, port: int) -> bool:
        with busy:
            return True

    launch = site.start(site.launch(admits=admits))
    site.console_with(launch, "login:")
    with busy, socket.create_connection((site.machines.address(launch.instance_id), SSH_PORT)):
        time.sleep(0.1)
        site.machines.terminate(launch.instance_id)


def test_other_keys_and_users_are_refused(site: Rig) -> None:
    launch = site.start(site.launch())
    site.connect(launch)
    for user, key in (("fedora", Key()), ("nobody", site.client_key)):
        with pytest.raises(paramiko.AuthenticationException):
            site.connect(launch, user, key)
    site.machines.terminate(launch.instance_id)


def test_a_booting_machine_refuses_connections(site: Rig) -> None:
    launch = site.launch()
    address = site.machines.address(launch.instance_id)
    assert not listens(address)
    began = time.monotonic()
    site.start(launch)
    site.connect(launch)
    assert time.monotonic() - began >= BOOT_SECONDS
    site.machines.stop(launch.instance_id)
    assert not listens(address)
    site.machines.terminate(launch.instance_id)


def test_a_reboot_keeps_files_and_host_key_and_ends_processes(site: Rig) -> None:
    launch = site.start(site.launch(user_data=site.user_data("runcmd: [echo first boot only]\n")))
    shell = site.connect(launch)
    shell("echo kept >~/file; touch /tmp/scratch; sudo sh -c 'echo kept >/etc/kept'")
    shell(f"sleep 8881{OWN} >/dev/null 2>&1 &")
    site.console_with(launch, "login:")
    site.machines.reboot(launch.instance_id)
    assert processes_naming(f"sleep 8881{OWN}") == []
    answer = site.connect(launch)("cat ~/file /etc/kept; test -e /tmp/scratch")
    assert (answer.output, answer.status) == ("kept\nkept\n", 1)
    site.machines.stop(launch.instance_id)
    site.start(launch)
    assert site.connect(launch)("cat ~/file").output == "kept\n"
    assert site.machines.console(launch.instance_id).count("first boot only") == 1
    site.machines.terminate(launch.instance_id)


def test_after_terminate_nothing_is_left(site: Rig) -> None:
    volume = site.volume()
    mode = volume.path.stat().st_mode
    launch = site.start(site.launch(volume))
    address = site.machines.address(launch.instance_id)
    shell = site.connect(launch)
    shell(f"setsid -f sleep 9991{OWN} >/dev/null 2>&1")
    shell.client.exec_command(f"sleep 9992{OWN}")
    while not processes_naming(f"sleep 9992{OWN}"):
        time.sleep(0.02)
    began = time.monotonic()
    site.machines.terminate(launch.instance_id)
    assert time.monotonic() - began < 30
    assert processes_naming(f"sleep 9991{OWN}") == processes_naming(f"sleep 9992{OWN}") == []
    assert processes_naming(launch.instance_id) == []
    assert not (site.folder / "machines" / launch.instance_id).exists()
    assert volume.path.stat().st_mode == mode
    assert not listens(address)
    with socket.socket() as again:
        again.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        again.bind((address, SSH_PORT))
    # As in EC2, its last words can still be read.
    assert "login:" in site.machines.console(launch.instance_id)
    site.machines.terminate(launch.instance_id)


def test_a_machine_can_be_terminated_at_any_moment_of_its_boot(site: Rig) -> None:
    for milliseconds in range(0, 160, 20):
        launch = site.start(site.launch(site.volume()))
        time.sleep(milliseconds / 1000)
        site.machines.terminate(launch.instance_id)
        assert processes_naming(launch.instance_id) == []
        assert not (site.folder / "machines" / launch.instance_id).exists()


def test_a_machine_stopped_in_its_first_boot_has_it_later(site: Rig) -> None:
    launch = site.launch(site.volume())
    for milliseconds in (5, 40, 80):
        site.start(launch)
        time.sleep(milliseconds / 1000)
        site.machines.stop(launch.instance_id)
    site.start(launch)
    assert site.connect(launch)("id -un").output == "fedora\n"
    site.machines.terminate(launch.instance_id)


def test_labs_side_by_side_never_share_an_address() -> None:
    one, holder = reserve("i-1", SSH_PORT)
    other, other_holder = reserve("i-1", SSH_PORT)
    assert one != other
    holder.close()
    other_holder.close()


def test_a_missing_program_is_named_before_anything_starts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("lab.machines.programs.SEARCH_PATH", str(tmp_path))
    with pytest.raises(
        MissingProgram, match=r"apt install .* on Debian, `dnf install .* on Fedora"
    ):
        ProcessMachines(tmp_path)


def test_a_system_without_user_namespaces_is_told_apart(tmp_path: Path) -> None:
    script = f"""
from pathlib import Path
from lab.machines.process import ProcessMachines
ProcessMachines(Path({str(tmp_path)!r}))
"""
    # The limit holds for this namespace alone.
    forbid = 'echo 0 >/proc/sys/user/max_user_namespaces; exec "$@"'
    limited = ["unshare", "--user", "--map-root-user", "--", "sh", "-c", forbid, "sh"]
    done = subprocess.run(
        [*limited, sys.executable, "-c", script],
        env=child_environment(),
        capture_output=True,
        text=True,
    )
    assert "NoNamespaces" in done.stderr
    assert "sysctl user.max_user_namespaces" in done.stderr


CHILD = """
import sys, time
from pathlib import Path
from tests.lab.machines_fixtures import rig
with rig(Path(sys.argv[1])) as site:
    volume = site.volume()
    launch = site.start(site.launch(volume))
    shell = site.connect(launch)
    assert shell("id -un").output == "fedora\\n"
    assert shell("echo x >/dev/nvme0n1; touch /etc/x").status != 0
    name = shell("readlink -f /dev/disk/by-id/*" + volume.volume_id.replace("-", "")).output.strip()
    assert shell(f"echo written | sudo dd of={name} conv=notrunc").status == 0
    assert volume.path.read_bytes().startswith(b"written")
    shell(f"setsid -f sleep 6661{sys.argv[3]} >/dev/null 2>&1")
    print("ready", launch.instance_id, flush=True)
    if sys.argv[2] == "wait":
        time.sleep(60)
"""


def child_environment() -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": os.pathsep.join([str(REPOSITORY), *sys.path])}


def test_machines_end_when_the_lab_is_killed(tmp_path: Path) -> None:
    child = subprocess.Popen(
        [sys.executable, "-c", CHILD, str(tmp_path), "wait", OWN],
        stdout=subprocess.PIPE,
        text=True,
        env=child_environment(),
    )
    assert child.stdout is not None
    instance_id = child.stdout.readline().split()[1]
    assert processes_naming(f"sleep 6661{OWN}")
    child.send_signal(signal.SIGKILL)
    child.communicate()
    deadline = time.monotonic() + 240
    while processes_naming(instance_id) + processes_naming(f"sleep 6661{OWN}"):
        assert time.monotonic() < deadline
        time.sleep(0.05)


def as_ordinary_user(folder: Path) -> list[str]:
    """Return the command that runs Python as somebody without root's power, who owns `folder`."""
    if os.geteuid() != 0:
        return [sys.executable]
    nobody = ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups", "--"]
    system_python = f"/usr/bin/python{sys.version_info.major}.{sys.version_info.minor}"
    for python in (sys.executable, system_python):
        if not Path(python).exists():
            continue
        tried = subprocess.run(
            [*nobody, python, "-c", "import paramiko, asyncssh, yaml"],
            env=child_environment(),
            capture_output=True,
        )
        if tried.returncode == 0:
            os.chown(folder, 65534, 65534)
            # pytest lets nobody else into its folders.
            for above in folder.parents:
                if above.stat().st_mode & 0o005 != 0o005:
                    above.chmod(0o755)
            return [*nobody, python]
    # Root's own Python lies in root's home. In a namespace of its own, root has no more power than
    # anybody, which is what the kernel asks about.
    return ["unshare", "--user", "--map-user=1000", "--map-group=1000", "--", sys.executable]


def test_machines_run_for_an_ordinary_user(tmp_path: Path) -> None:
    folder = tmp_path / "site"
    folder.mkdir()
    done = subprocess.run(
        [*as_ordinary_user(folder), "-c", CHILD, str(folder), "go", OWN],
        env=child_environment(),
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("ready")
